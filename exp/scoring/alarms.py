"""Alarms: intervals in which the calibrated abnormality is above a threshold, and how they fare against labels."""

from typing import NamedTuple

import numpy as np

from data.labels import intervals
from utils import smooth


class Alarm(NamedTuple):
    """An interval of frames of one video."""

    start: int  # its first frame
    end: int  # its last, included
    peak: int  # the frame of the highest score
    score: float  # of that frame
    start_seconds: float  # when these frames were
    end_seconds: float


class Tracker:
    """Joins frames above a threshold to alarms while they come, of one video.

    A gap of fewer than merge_gap frames belongs to the alarm around it, so an alarm has ended only when so many frames
    below the threshold followed.
    """

    def __init__(self, threshold, merge_gap=1):
        self.threshold, self.merge_gap = threshold, merge_gap
        self.alarm = None  # under way

    def add(self, frame, seconds, score):
        """Take the next frame: its index, time and score. Returns the Alarm that ends by it, or None."""
        if score > self.threshold:
            before = self.alarm or Alarm(frame, frame, frame, score, seconds, seconds)
            highest = {"peak": frame, "score": float(score)} if score > before.score else {}
            self.alarm = before._replace(end=frame, end_seconds=seconds, **highest)
        elif self.alarm is not None and frame - self.alarm.end >= self.merge_gap:
            return self.finish()
        return None

    def finish(self):
        """No frame follows. Returns the Alarm that was under way, or None."""
        ended, self.alarm = self.alarm, None
        return ended


def find_alarms(frames, scores, threshold, merge_gap=1, fps=25):
    """The alarms of a whole video: indices of frames (N,) and their scores (N,) -> [Alarm]."""
    tracker = Tracker(threshold, merge_gap)
    found = [tracker.add(k, k / fps, s) for k, s in zip(frames.tolist(), scores.tolist(), strict=True)]
    return [alarm for alarm in (*found, tracker.finish()) if alarm]


class Decided(NamedTuple):
    """What a calibrated threshold makes of an evaluation. Lists have one entry for each video."""

    threshold: float
    scores: list  # calibrated abnormality, arrays (frames that have a score,)
    alarms: list  # lists of Alarm
    measures: dict | None  # see `fare`; None without labels


def decide(result, calibration, alpha, sigma=None, causal=False, false_alarm_rate=0.001, merge_gap=1, fps=25):
    """Judge the frames of an exp.scoring.evaluation.Evaluation by a calibration (exp.scoring.calibration.Calibration). Returns Decided.

    sigma, causal: how scores are smoothed, None is not at all; merge_gap in frames.
    """
    scores = [calibration.abnormality(p, d, alpha) for p, d in zip(result.psnr, result.distance, strict=True)]
    if sigma:
        scores = [smooth(values, sigma, causal) for values in scores]
    threshold = calibration.threshold(alpha, false_alarm_rate, sigma, causal)
    alarms = [find_alarms(*both, threshold, merge_gap, fps) for both in zip(result.frames, scores, strict=True)]
    measures = None if result.labels is None else fare(alarms, result.frames, result.labels, fps)
    return Decided(threshold, scores, alarms, measures)


def fare(alarms, frames, labels, fps):
    """Alarms against labels, lists with one entry for each video: [Alarm], indices of frames and labels, both (N,).

    Returns a dict: precision and recall of the frames in alarms, in [0, 1], None where there are none to count; events,
    the labelled intervals, and those an alarm meets; false alarms, which meet no abnormal frame, in all and an hour.
    """
    hits = inside = events = events_met = false_alarms = 0
    for found, indices, y in zip(alarms, frames, np.asarray(labels, dtype=object), strict=True):
        y, first = np.asarray(y, dtype=bool), int(indices[0])
        alarmed = np.zeros(len(y), dtype=bool)
        for alarm in found:
            span = slice(alarm.start - first, alarm.end - first + 1)
            alarmed[span] = True
            false_alarms += not y[span].any()
        hits, inside = hits + int((alarmed & y).sum()), inside + int(alarmed.sum())
        of_video = intervals(y)
        events, events_met = events + len(of_video), events_met + sum(alarmed[a : b + 1].any() for a, b in of_video)
    abnormal, hours = sum(int(np.sum(y)) for y in labels), sum(map(len, labels)) / fps / 3600
    return {
        "precision": hits / inside if inside else None,
        "recall": hits / abnormal if abnormal else None,
        "events": events,
        "events_met": int(events_met),
        "false_alarms": false_alarms,
        "false_alarms_per_hour": false_alarms / hours,
    }
