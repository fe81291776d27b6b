// A video on the page: heading, annotated video, pictures of its peaks, curve and alarms, all at the same frame.

const H264 = 'video/mp4; codecs="avc1.640028"';
const MOST_CHIPS = 12;

function pictureOf(video, { jpeg, place }) {
  return make("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: `frame ${video.frames[place]} of ${video.name}`, decoding: "async" });
}

// "6.0 to 6.3 s", or "2.7 s" for an alarm of a single frame
function spell({ seconds }, { start, end }) {
  const [first, last] = [clock(seconds[start]), clock(seconds[end])];
  return first === last ? first : `${first.replace(/ s$/, "")} to ${last}`;
}

class Section {
  constructor(video, rule, drag) {
    Object.assign(this, { video, rule });
    this.plot = new Plot(video, rule, { pick: (place) => this.go(place), drag });
    this.counts = make("span", { className: "muted" });
    this.chips = make("div", { className: "chips" });
    const heading = make("h3", {}, make("a", { href: `#${video.id}` }, video.name), " ", this.counts);
    this.stage = make("div", { className: "stage" });
    this.node = make("section", { id: video.id, className: "video" }, heading, this.stage, this.plot.node);
    if (video.source) this.stage.append(this.makePlayer());
    if (!data.isStream) this.stage.append(make("div", { className: "side" }, this.makePictures(), this.chips)); // else the cards lead there
    this.node.addEventListener("keydown", (event) => this.press(event));
  }

  makePlayer() {
    const frame = make("div", { className: "player" });
    if (!document.createElement("video").canPlayType(H264)) {
      frame.append(make("p", { className: "missing" }, "This browser does not play H.264, in which the annotated video is written. Everything else on this page works without it."));
      return frame;
    }
    const player = make("video", { controls: true, muted: true, playsInline: true, preload: "none" });
    if (this.video.pictures.length) player.poster = pictureOf(this.video, this.highest()).src;
    player.src = this.video.source;
    player.addEventListener("error", () => {
      this.player = null;
      frame.replaceChildren(make("p", { className: "missing" }, `The annotated video cannot be played: ${this.video.path} is not beside this page, or it is damaged.`));
    });
    player.addEventListener("seeked", () => {
      if (!this.isGoing) this.follow(player.currentTime); // moved by the controls of the video
      this.isGoing = false; // if the server cannot send parts of a file, the video stays where it was
    });
    player.addEventListener("pause", () => player.seeking || this.follow(player.currentTime));
    if (player.requestVideoFrameCallback) {
      const every = (_, { mediaTime }) => {
        if (!player.paused && !player.seeking) this.follow(mediaTime);
        player.requestVideoFrameCallback(every);
      };
      player.requestVideoFrameCallback(every);
    } else {
      player.addEventListener("timeupdate", () => player.seeking || this.follow(player.currentTime));
    }
    this.player = player;
    frame.append(player);
    return frame;
  }

  highest() {
    const scores = this.video.calibrated ?? this.video.abnormality;
    return this.video.pictures.reduce((best, one) => (scores[one.place] > scores[best.place] ? one : best));
  }

  makePictures() {
    const { video } = this, scores = video.calibrated ?? video.abnormality;
    const buttons = video.pictures.map((picture, index) => {
      const { place } = picture;
      const words = `${index + 1} · ${clock(video.seconds[place])} · ${scores[place].toFixed(2)}`;
      const button = make("button", { type: "button", className: "picture" }, pictureOf(video, picture), make("span", {}, words));
      button.addEventListener("click", () => this.go(place));
      return button;
    });
    return make("div", { className: "pictures" }, ...buttons);
  }

  // Show a frame on the curve and, if it can be played, in the annotated video.
  go(place) {
    this.plot.show(place);
    if (!this.player) return;
    const { seconds } = this.video;
    const end = seconds[place + 1] ?? seconds[place] + 0.02;
    this.player.preload = "auto";
    this.isGoing = true;
    this.player.currentTime = (seconds[place] + Math.min(end, seconds[place] + 0.1)) / 2 - this.video.start;
  }

  // The annotated video is at this time.
  follow(time) {
    const at = time + this.video.start;
    const place = Math.max(0, lowest(this.video.seconds, at + 0.001) - 1);
    this.plot.show(place);
  }

  press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("button, a")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageUp: -100, PageDown: 100, Home: -Infinity, End: Infinity }[event.key];
    const key = event.key.toLowerCase(); // also with Caps Lock
    const { place } = this.plot, { alarms, count } = this.video;
    if (step) {
      const length = event.shiftKey ? 10 : 1;
      this.go(Math.min(Math.max(place + length * step, 0), count - 1));
    } else if (key === "n" || key === "p") {
      const next = key === "n" ? alarms.find((one) => one.start > place) : alarms.findLast((one) => one.end < place);
      if (next) this.go(next.start);
    } else if (event.key === " " && event.target !== this.player) {
      if (this.player) this.player.paused ? this.player.play() : this.player.pause();
    } else {
      return;
    }
    event.preventDefault();
  }

  // Follow the threshold: update bars, counts and the list of alarms.
  update(threshold) {
    const { video } = this;
    this.describe();
    if (!this.rule) return;
    this.plot.update(threshold);
    const shown = video.alarms.slice(0, MOST_CHIPS).map((alarm) => {
      const words = `${spell(video, alarm)}, highest ${alarm.score.toFixed(2)}${isFalse(video, alarm) ? ", false alarm" : ""}`;
      const chip = make("button", { type: "button", className: isFalse(video, alarm) ? "false" : "alarm" }, words);
      chip.addEventListener("click", () => this.go(alarm.peak));
      return chip;
    });
    const others = video.alarms.length - shown.length;
    this.chips.replaceChildren(...shown, ...(others > 0 ? [make("span", { className: "muted" }, `and ${others} more`)] : []));
  }

  describe() {
    const { video } = this, words = [`${video.count.toLocaleString("en")} frames`];
    if (video.auc !== null) words.push(`AUC ${(100 * video.auc).toFixed(2)} %`);
    if (video.labelled) words.push(`${video.abnormal} labelled abnormal`);
    if (this.rule) words.push(`${video.alarms.length} alarm${video.alarms.length === 1 ? "" : "s"}`);
    this.counts.textContent = words.join(" · ");
  }
}
