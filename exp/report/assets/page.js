// The page: reads the data, builds its parts, and updates them when the threshold changes.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function unpack(text, Kind) {
  if (text === null) return null;
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = letters.charCodeAt(k);
  return new Kind(bytes.buffer);
}

function readVideo(video, index) {
  const frames = new Int32Array(video.count), runs = [...video.runs, [video.count]];
  for (let run = 0; run + 1 < runs.length; run++) {
    const [start, first] = runs[run];
    for (let k = start; k < runs[run + 1][0]; k++) frames[k] = first + k - start;
  }
  return {
    ...video, id: `video-${index + 1}`, frames, alarms: [],
    abnormal: video.events.reduce((sum, [first, last]) => sum + last - first + 1, 0),
    gaps: new Set(video.gaps),
    seconds: unpack(video.seconds, Float64Array),
    calibrated: unpack(video.calibrated, Float64Array),
    abnormality: unpack(video.abnormality, Float32Array),
    psnr: unpack(video.psnr, Float32Array),
    distance: unpack(video.distance, Float32Array),
  };
}

const rule = data.rule && { ...data.rule, places: unpack(data.rule.places, Uint32Array), values: unpack(data.rule.values, Float64Array) };
const videos = data.videos.map(readVideo);
const main = rule ? "calibrated" : "abnormality";
for (const video of videos) video.highest = video[main].reduce((a, b) => Math.max(a, b));
const state = { threshold: rule?.threshold, rate: rule?.rate, isDue: false, all: false };
const sections = videos.map((video) => new Section(video, rule, setThreshold));
byId("sections").append(...sections.map((section) => section.node));

// Which scores are shown ----------------------------------------------------------------------------------------------

for (const kind of Object.keys(SERIES).filter((kind) => videos.every((video) => video[kind]))) {
  const box = make("input", { type: "checkbox", checked: kind === main, disabled: kind === main });
  const toggle = () => sections.forEach((section) => section.plot.toggle(kind, box.checked));
  box.addEventListener("change", toggle);
  byId("series").append(make("label", {}, box, make("i", { className: `swatch ${kind === main ? "" : kind}` }), SERIES[kind].name));
  if (kind === main) toggle();
}

// The table of videos -------------------------------------------------------------------------------------------------

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(2)} %`);
const COLUMNS = [
  { name: "video", value: (_, index) => index },
  { name: "AUC", value: (video) => video.auc, text: percent, isShown: videos.some((video) => video.labelled) },
  { name: "frames", isMinor: true, value: (video) => video.count, text: (x) => x.toLocaleString("en") },
  { name: "abnormal frames", value: (video) => (video.labelled ? video.abnormal : null), text: (x) => x?.toLocaleString("en") ?? "–", isShown: videos.some((video) => video.labelled) },
  { name: "alarms", value: (video) => video.alarms.length, isShown: Boolean(rule) },
  { name: "highest score", value: (video) => video.highest, text: (x) => x.toFixed(2) },
].filter((column) => column.isShown ?? true);
const rows = videos.map((video) => {
  const link = make("a", { href: `#${video.id}` }, video.name);
  const small = drawScores(video, main, limitsOf(video, main, rule), 400);
  const spark = make("td", { className: "spark" }, small.node);
  const row = make("tr", {}, make("th", { scope: "row" }, link), ...COLUMNS.slice(1).map(({ isMinor }) => make("td", { className: isMinor ? "minor" : "" })), spark);
  return { row, small };
});
let order = { column: COLUMNS[0], sign: 1 };

function fillTable() {
  rows.forEach(({ row, small }, index) => {
    COLUMNS.slice(1).forEach(({ value, text = String }, k) => {
      row.cells[k + 1].textContent = text(value(videos[index]));
    });
    small.update(0, 140);
  });
}

function sortTable() {
  const keys = videos.map((video, index) => order.column.value(video, index));
  const places = [...keys.keys()].sort((a, b) => {
    if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null); // unknown values last
    return order.sign * (keys[a] - keys[b]) || a - b;
  });
  document.querySelector("#table tbody").append(...places.map((index) => rows[index].row));
  COLUMNS.forEach(({ cell }, k) => {
    cell.setAttribute("aria-sort", COLUMNS[k] !== order.column ? "none" : order.sign > 0 ? "ascending" : "descending");
  });
}

if (byId("table")) {
  for (const column of COLUMNS) {
    const button = make("button", { type: "button" }, column.name);
    column.cell = make("th", { scope: "col", className: column.isMinor ? "minor" : "" }, button);
    button.addEventListener("click", () => {
      const first = column === COLUMNS[0] ? 1 : -1; // numbers are sorted from the highest
      order = { column, sign: order.column === column ? -order.sign : first };
      sortTable();
    });
    document.querySelector("#table thead tr").append(column.cell);
  }
  document.querySelector("#table thead tr").append(make("th", { scope: "col", className: "spark" }));
}

// The gallery of alarms -----------------------------------------------------------------------------------------------

const FIRST_CARDS = data.isStream ? 24 : 6;
let cardsShown = null; // identifies the alarms shown, so that pictures are only rebuilt when these change

function fillGallery() {
  const all = videos.flatMap((video, index) => video.alarms.map((alarm) => ({ video, alarm, section: sections[index] })));
  if (!data.isStream) all.sort((a, b) => b.alarm.score - a.alarm.score);
  const shown = state.all ? all : all.slice(0, FIRST_CARDS);
  byId("more").hidden = all.length <= FIRST_CARDS;
  byId("more").textContent = state.all ? "show fewer" : `show all ${all.length}`;
  const key = shown.map(({ video, alarm }) => [video.id, alarm.start, alarm.end]).join(" ");
  if (key === cardsShown) return;
  cardsShown = key;
  byId("cards").replaceChildren(...(shown.length ? shown.map(makeCard) : [make("p", { className: "muted" }, "No frame is above the threshold.")]));
}

function makeCard({ video, alarm, section }) {
  const inside = video.pictures.filter(({ place }) => alarm.start <= place && place <= alarm.end);
  const best = inside.sort((a, b) => video.calibrated[b.place] - video.calibrated[a.place])[0];
  const { seconds, frames } = video;
  const card = make(
    "button", { type: "button", className: `card ${isFalse(video, alarm) ? "false" : ""}` },
    best ? pictureOf(video, best) : make("span", { className: "none" }, "no picture kept"),
    make("b", {}, data.isStream ? "" : `${video.name} · `, spell(video, alarm)),
    make("span", {}, alarm.start === alarm.end ? `frame ${frames[alarm.start]}` : `frames ${frames[alarm.start]} to ${frames[alarm.end]}`),
    make("span", {}, `score ${alarm.score.toFixed(2)} at ${clock(seconds[alarm.peak])}`),
    video.labelled ? make("span", {}, isFalse(video, alarm) ? "false alarm" : "has abnormal frames") : "",
  );
  card.addEventListener("click", () => {
    section.node.scrollIntoView({ block: "start" });
    section.go(alarm.peak);
    section.plot.focus.focus({ preventScroll: true });
  });
  return card;
}

// The threshold -------------------------------------------------------------------------------------------------------

// The slider goes from 0 to 1; its square is mapped to the thresholds, since the low ones matter most.
const range = rule && {
  low: rule.values[0],
  high: Math.max(rule.values.at(-1), rule.threshold, ...videos.map((video) => video.highest)),
};
const toSlider = (threshold) => Math.sqrt(Math.min(Math.max((threshold - range.low) / (range.high - range.low || 1), 0), 1));

// Set the nearest threshold that a --false_alarm_rate gives, or this one if there is none.
function setThreshold(threshold) {
  if (!Number.isFinite(threshold)) return;
  state.rate = rateOf(threshold, rule);
  state.threshold = state.rate === null ? threshold : thresholdOf(state.rate, rule);
  if (!state.isDue) requestAnimationFrame(update);
  state.isDue = true;
}

function update() {
  state.isDue = false;
  if (rule) {
    for (const video of videos) video.alarms = findAlarms(video, state.threshold, rule);
    showMeasures();
    fillGallery();
  }
  for (const section of sections) section.update(state.threshold);
  if (byId("table")) {
    fillTable();
    sortTable();
  }
}

function showMeasures() {
  const { threshold, rate } = state, measures = measureAlarms(videos);
  const share = alarmedShare(videos);
  const words = { "m-alarms": videos.reduce((sum, video) => sum + video.alarms.length, 0).toLocaleString("en"), "m-share": percent(share) };
  if (measures) {
    words["m-precision"] = percent(measures.precision);
    words["m-recall"] = percent(measures.recall);
    words["m-events"] = `${measures.eventsMet} of ${measures.events}`;
    words["m-false"] = measures.perHour.toFixed(1);
  }
  for (const [id, text] of Object.entries(words)) byId(id).textContent = text;
  byId("mostly").hidden = share <= rule.mostly;
  byId("mostly").textContent = `In alarm for ${(100 * share).toFixed(0)} % of the frames: the scene or the light differs from that of the training videos, or the threshold is too low.`;
  byId("flag").textContent = rate === null ? "none: beyond all scores of the calibration" : `--false_alarm_rate ${rate}`;
  byId("copy").hidden = rate === null;
  byId("copy").textContent = "copy";
  byId("slider").value = toSlider(threshold);
  byId("slider").setAttribute("aria-valuetext", threshold.toPrecision(4));
  if (document.activeElement !== byId("number")) byId("number").value = threshold.toPrecision(4);
  byId("reset").disabled = threshold === rule.threshold;
}

async function copyFlag() {
  try {
    await navigator.clipboard.writeText(byId("flag").textContent);
    byId("copy").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(byId("flag")); // this browser does not let a page write to the clipboard, but Ctrl-C works
    byId("copy").textContent = "press Ctrl-C";
  }
}

if (rule) {
  byId("slider").addEventListener("input", () => setThreshold(range.low + (range.high - range.low) * byId("slider").value ** 2));
  byId("number").addEventListener("change", () => setThreshold(byId("number").valueAsNumber));
  byId("reset").addEventListener("click", () => {
    Object.assign(state, { threshold: rule.threshold, rate: rule.rate });
    update();
  });
  byId("copy").addEventListener("click", copyFlag);
  byId("more").addEventListener("click", () => {
    state.all = !state.all;
    fillGallery();
  });
}

// Annotated videos are opened only when they come near the view, not all 107 at once.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting && target.preload === "none") target.preload = "metadata";
}, { rootMargin: "400px" });
for (const { player } of sections) if (player) near.observe(player);

update();
