// The curves of one video: one panel per kind of score, one above the other, over the frames.

const HEIGHT = 1000; // the height of a drawing in its own units; its width is the number of frames
const MOST_POINTS = 4000; // see linePath
const SERIES = {
  calibrated: { name: "calibrated abnormality", short: "calibrated", format: (x) => x.toFixed(2) },
  abnormality: { name: "abnormality, min–max of the video", short: "abnormality", format: (x) => x.toFixed(3) },
  psnr: { name: "PSNR (dB)", short: "PSNR", format: (x) => `${x.toFixed(2)} dB` },
  distance: { name: "feature distance", short: "feature distance", format: (x) => x.toExponential(2) },
};

// A new element with these properties and children; text among the children stays text.
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function draw(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// 83.4 -> "1:23.4", 12.5 -> "12.5 s"
function clock(seconds, digits = 1) {
  const unit = 10 ** digits, count = Math.round(seconds * unit); // in units of the last digit
  if (count < 60 * unit) return `${(count / unit).toFixed(digits)} s`;
  const [hours, minutes] = [Math.floor(count / (3600 * unit)), Math.floor(count / (60 * unit)) % 60];
  const rest = ((count % (60 * unit)) / unit).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

// A step of 1, 2 or 5 times a power of ten that fits about `count` times.
function niceStep(length, count) {
  const power = 10 ** Math.floor(Math.log10(length / count));
  return power * [1, 2, 5, 10].find((factor) => power * factor * count >= length * 0.999);
}

function spansPath(spans, top, bottom) {
  return spans.map(([first, last]) => `M${first} ${top}H${last + 1}V${bottom}H${first}Z`).join("");
}

// A curve with more than `most` points is divided into most / 2 parts, drawn as their lowest and highest scores.
function linePath(values, y, most) {
  const points = [];
  if (values.length <= most) {
    for (let k = 0; k < values.length; k++) points.push(`${k + 0.5} ${y(values[k])}`);
  } else {
    const size = (2 * values.length) / most;
    for (let part = 0; part < most / 2; part++) {
      let [low, high] = [Infinity, -Infinity];
      const end = Math.min(values.length, Math.floor((part + 1) * size));
      for (let k = Math.floor(part * size); k < end; k++) {
        low = Math.min(low, values[k]);
        high = Math.max(high, values[k]);
      }
      const x = ((part + 0.5) * size).toFixed(1);
      points.push(`${x} ${y(low)}`, `${x} ${y(high)}`);
    }
  }
  return `M${points.join("L")}${points.length === 1 ? "h0" : ""}`; // a single frame is a dot
}

// The drawing of one kind of score between two limits: shaded labels, gaps in time, bars for alarms, and the line.
function drawScores(video, kind, [low, high], most = MOST_POINTS) {
  const y = (value) => Math.round(HEIGHT * (1 - (value - low) / (high - low)));
  const node = draw("svg", { viewBox: `0 0 ${video.count} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const bars = { trueAlarms: draw("path", { class: "alarm" }), falseAlarms: draw("path", { class: "false" }) };
  const breaks = [...video.gaps].filter((k) => k).map((k) => `M${k} 0V${HEIGHT}`).join("");
  node.append(
    draw("path", { class: "truth", d: spansPath(video.events, 0, HEIGHT) }),
    draw("path", { class: "break", d: breaks }),
    bars.trueAlarms, bars.falseAlarms,
    draw("path", { class: `line ${kind}`, d: linePath(video[kind], y, most) }),
  );
  // the alarms as bars from `top` to `bottom`; false alarms are hollow
  const update = (top, bottom) => {
    const spans = { trueAlarms: [], falseAlarms: [] };
    for (const alarm of video.alarms) spans[isFalse(video, alarm) ? "falseAlarms" : "trueAlarms"].push([alarm.start, alarm.end]);
    for (const name of Object.keys(spans)) bars[name].setAttribute("d", spansPath(spans[name], top, bottom));
  };
  return { node, y, update };
}

// The limits of a kind of score of a video, a little wider than its values.
function limitsOf(video, kind, rule) {
  if (kind === "abnormality") return [-0.06, 1.14];
  let [low, high] = [Infinity, -Infinity];
  for (const value of video[kind]) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (kind === "calibrated") [low, high] = [Math.min(low, 0), Math.max(high, 1.25 * rule.threshold)];
  const room = 0.06 * (high - low || 1);
  return [low - room, high + (kind === "calibrated" ? 2.4 : 1) * room]; // room for the bars of the alarms at the top
}

class Plot {
  // pick(place): the user chose a frame; drag(threshold): the user moved the threshold.
  constructor(video, rule, { pick, drag }) {
    Object.assign(this, { video, rule, pick, drag, place: null, panels: new Map() });
    this.cursor = make("div", { className: "cursor", hidden: true });
    this.pointer = make("div", { className: "pointer", hidden: true });
    this.readout = make("p", { className: "readout" });
    this.stack = make("div", { className: "stack" }, this.pointer, this.cursor);
    this.axis = this.makeAxis();
    this.focus = make("div", { className: "plot", tabIndex: 0 }, this.stack, this.axis);
    this.focus.setAttribute("role", "slider");
    this.focus.setAttribute("aria-label", `frame of ${video.name}`);
    this.focus.setAttribute("aria-valuemin", video.frames[0]);
    this.focus.setAttribute("aria-valuemax", video.frames[video.count - 1]);
    this.node = make("div", { className: "curve" }, this.focus, this.readout);
    this.stack.addEventListener("pointermove", (event) => this.hover(this.placeAt(event)));
    this.stack.addEventListener("pointerleave", () => this.hover(null));
    this.stack.addEventListener("click", (event) => this.pick(this.placeAt(event)));
    this.show(0, false);
  }

  placeAt(event) {
    const box = this.panels.values().next().value.area.getBoundingClientRect();
    const place = Math.floor(((event.clientX - box.left) / box.width) * this.video.count);
    return Math.min(Math.max(place, 0), this.video.count - 1);
  }

  // Show or hide a kind of score.
  toggle(kind, isOn) {
    if (isOn && !this.panels.has(kind)) {
      const panel = this.makePanel(kind);
      this.panels.set(kind, panel);
      const order = Object.keys(SERIES).filter((name) => this.panels.has(name));
      const next = this.panels.get(order[order.indexOf(kind) + 1]);
      this.stack.insertBefore(panel.node, next ? next.node : this.pointer);
    }
    if (this.panels.has(kind)) this.panels.get(kind).node.hidden = !isOn;
  }

  makePanel(kind) {
    const { video, rule } = this, values = video[kind];
    const isMain = kind === (rule ? "calibrated" : "abnormality");
    const [low, high] = limitsOf(video, kind, rule);
    const { node: drawing, y, update } = drawScores(video, kind, [low, high]);
    const area = make("div", { className: "area" }, drawing);
    const node = make("div", { className: `panel${isMain ? " main" : ""}` }, area, make("span", { className: "name" }, SERIES[kind].name));
    for (const tick of this.ticks(low, high, isMain ? 4 : 2)) {
      const label = make("span", { className: "tick" }, kind === "distance" && tick ? tick.toExponential() : String(tick));
      label.style.top = `${y(tick) / (HEIGHT / 100)}%`;
      const line = make("i", { className: "grid" });
      line.style.top = label.style.top;
      node.append(label);
      area.prepend(line);
    }
    const panel = { node, area, y, low, high, update };
    if (isMain) this.addMarks(panel, values);
    if (isMain && rule) this.addHandle(panel);
    return panel;
  }

  // About `count` round numbers between two limits, at least two.
  ticks(low, high, count) {
    const step = niceStep(high - low, count), found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(6)));
    return found.length > 1 ? found : this.ticks(low, high, 2 * count);
  }

  // Numbered circles at the frames that have pictures.
  addMarks(panel, values) {
    if (this.video.pictures.length > 20) return; // a stream with many alarms
    this.video.pictures.forEach(({ place }, index) => {
      const mark = make("button", { className: "mark", type: "button", tabIndex: -1, title: `picture ${index + 1}` }, String(index + 1));
      mark.style.left = `${(100 * (place + 0.5)) / this.video.count}%`;
      mark.style.top = `${panel.y(values[place]) / (HEIGHT / 100)}%`;
      mark.addEventListener("click", (event) => {
        event.stopPropagation();
        this.pick(place);
      });
      panel.area.append(mark);
    });
  }

  addHandle(panel) {
    panel.handle = make("div", { className: "handle" }, make("span"));
    panel.area.append(panel.handle);
    const move = (event) => {
      const box = panel.area.getBoundingClientRect();
      const share = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1);
      this.drag(panel.high - share * (panel.high - panel.low));
    };
    panel.handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      document.activeElement.blur(); // what was typed counts before the drag, not after it
      panel.handle.setPointerCapture(event.pointerId);
      panel.handle.addEventListener("pointermove", move);
    });
    panel.handle.addEventListener("lostpointercapture", () => panel.handle.removeEventListener("pointermove", move));
    panel.handle.addEventListener("click", (event) => event.stopPropagation());
  }

  // Draw the alarms of the video under this threshold.
  update(threshold) {
    const panel = this.panels.get("calibrated");
    panel.update(8, 56);
    panel.handle.style.top = `${Math.min(Math.max(panel.y(threshold) / (HEIGHT / 100), 0), 100)}%`;
    panel.handle.firstChild.textContent = threshold.toFixed(2);
    this.describe(this.place);
  }

  makeAxis() {
    const { frames, seconds, count } = this.video, axis = make("div", { className: "axis" });
    const step = Math.max(1, niceStep(count, 10));
    let last = -Infinity; // labels are at least half a step apart, even if frames are missing
    for (let k = 0; k < count; k++) {
      if (frames[k] % step || k - last < step / 2) continue;
      last = k;
      const label = make("span", {}, String(frames[k]), make("br"), clock(seconds[k]));
      label.style.left = `${(100 * (k + 0.5)) / count}%`;
      axis.append(label);
    }
    return axis;
  }

  // Move the cursor to a frame; `isMoved` tells screen readers.
  show(place, isMoved = true) {
    this.place = place;
    this.cursor.hidden = !isMoved && this.cursor.hidden;
    this.cursor.style.setProperty("--x", (place + 0.5) / this.video.count);
    this.describe(place);
    this.focus.setAttribute("aria-valuenow", this.video.frames[place]);
  }

  hover(place) {
    this.pointer.hidden = place === null;
    if (place !== null) this.pointer.style.setProperty("--x", (place + 0.5) / this.video.count);
    this.describe(place ?? this.place);
  }

  // The frame, time and scores as text below the curve.
  describe(place) {
    const { video } = this, words = [`frame ${video.frames[place]}`, clock(video.seconds[place], 2)];
    for (const [kind, { short, format }] of Object.entries(SERIES)) {
      if (video[kind]) words.push(`${short} ${format(video[kind][place])}`);
    }
    if (video.labelled) words.push(video.events.some(([a, b]) => a <= place && place <= b) ? "labelled abnormal" : "labelled normal");
    if (this.rule) words.push(video.alarms.some((alarm) => alarm.start <= place && place <= alarm.end) ? "in alarm" : "no alarm");
    this.readout.replaceChildren(...words.map((word) => make("span", {}, word)));
    if (place === this.place) this.focus.setAttribute("aria-valuetext", words.join(", "));
  }
}
