"use strict";
// Alarms and metrics as in exp/scoring/alarms.py, and the quantiles of a calibration's own scores.
// A place is the position of a frame among the scored frames of its video.

const SLACK = 1e-6; // seconds: times are rounded

// The alarms of a video: runs of frames above the threshold, joined where they are interrupted for less than rule.gap.
function findAlarms(video, threshold, rule) {
  const { frames, seconds, calibrated: scores, gaps } = video;
  const found = [];
  let alarm = null;
  for (let k = 0; k < scores.length; k++) {
    const above = scores[k] > threshold;
    if (alarm && (gaps.has(k) || isOver(alarm.end, k, above))) {
      found.push(alarm);
      alarm = null;
    }
    if (!above) continue;
    alarm ??= { start: k, end: k, peak: k, score: scores[k] };
    if (scores[k] > alarm.score) Object.assign(alarm, { peak: k, score: scores[k] });
    alarm.end = k;
  }
  if (alarm) found.push(alarm);
  return found;

  function isOver(end, k, above) {
    if (above && k === end + 1) return false;
    if (rule.gapUnit !== "s") return frames[k] - frames[end] - (above ? 1 : 0) >= rule.gap;
    const passed = seconds[k] - seconds[end];
    return above ? passed > rule.gap + SLACK : passed >= rule.gap - SLACK;
  }
}

const overlaps = (alarm, [first, last]) => alarm.start <= last && alarm.end >= first;

// Whether an alarm contains no frame labelled abnormal; false if the video has no labels.
function isFalse(video, alarm) {
  return video.labelled && !video.events.some((event) => overlaps(alarm, event));
}

// The metrics of the alarms of all labelled videos; null if there are none.
function measureAlarms(videos) {
  let hits = 0, inside = 0, events = 0, eventsMet = 0, falseAlarms = 0, abnormal = 0, frames = 0, hours = 0;
  for (const video of videos) {
    if (!video.labelled) continue;
    for (const alarm of video.alarms) {
      inside += alarm.end - alarm.start + 1;
      falseAlarms += isFalse(video, alarm);
      for (const [first, last] of video.events) {
        hits += Math.max(0, Math.min(alarm.end, last) - Math.max(alarm.start, first) + 1);
      }
    }
    events += video.events.length;
    eventsMet += video.events.filter((event) => video.alarms.some((alarm) => overlaps(alarm, event))).length;
    abnormal += video.abnormal;
    frames += video.count;
    hours += video.hours;
  }
  if (!frames) return null;
  return {
    precision: inside ? hits / inside : null,
    recall: abnormal ? hits / abnormal : null,
    events, eventsMet, falseAlarms,
    perHour: falseAlarms / hours,
    alarmedShare: inside / frames,
  };
}

// The share of all frames that are in alarms, whether they are labelled or not.
function alarmedShare(videos) {
  let inside = 0, frames = 0;
  for (const video of videos) {
    for (const alarm of video.alarms) inside += alarm.end - alarm.start + 1;
    frames += video.count;
  }
  return inside / frames;
}

// The threshold for a rate of false alarms: the quantile 1 - rate of the calibration's own scores,
// interpolated linearly as NumPy does it.
function thresholdOf(rate, rule) {
  const { places, values } = rule;
  const target = (1 - rate) * places.at(-1);
  const right = Math.max(1, lowest(places, target));
  if (right >= places.length) return values.at(-1);
  const [from, to] = [values[right - 1], values[right]];
  const t = (target - places[right - 1]) / (places[right] - places[right - 1]);
  return t < 0.5 ? from + (to - from) * t : to - (to - from) * (1 - t);
}

// The rate of false alarms for a threshold; null above the highest or below the lowest score of the calibration.
function rateOf(threshold, rule) {
  const { places, values } = rule;
  const right = lowest(values, threshold);
  if (right === 0 || right >= values.length) return null;
  const t = (threshold - values[right - 1]) / (values[right] - values[right - 1]);
  const rate = 1 - (places[right - 1] + t * (places[right] - places[right - 1])) / places.at(-1);
  return rate > 0 && rate < 1 ? Number(rate.toPrecision(4)) : null; // few enough digits to type
}

// The first index of a sorted array with a value of at least this one.
function lowest(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
