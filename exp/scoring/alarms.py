"""Alarms: intervals in which the calibrated abnormality is above a threshold, and their metrics."""

from typing import NamedTuple

import numpy as np

from data.intervals import intervals
from exp.flags import Span
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import Evaluation, hours_of, rate_of, smoothed
from exp.scoring.score import Scoring


class Alarm(NamedTuple):
    """An interval of frames of one video."""

    start: int  # its first frame
    end: int  # its last, included
    peak: int  # the frame of the highest score
    score: float  # the score of this frame
    start_seconds: float  # the time of the first frame
    end_seconds: float


class Tracker:
    """Joins the frames of one video that are above a threshold into alarms, as they arrive.

    An alarm ends when no frame has been above the threshold for merge_gap, in frames or seconds; a shorter interruption
    belongs to the alarm. So does the next frame with a score, however late it is, as in a recording with few frames per
    second, or where a slow machine scores only some of them.
    """

    def __init__(self, threshold: float, merge_gap: Span) -> None:
        self.threshold, self.merge_gap = threshold, merge_gap
        self.alarm: Alarm | None = None  # the current alarm
        self.interrupted = False  # whether a frame below the threshold came after its last one

    def add(self, frame: int, seconds: float, score: float) -> Alarm | None:
        """Add the next frame: its index, time and score. Returns the alarm that it ends, or None."""
        above = score > self.threshold
        ended = self.finish() if self.alarm and self._is_over(self.alarm, frame, seconds, above) else None
        self.interrupted = not above
        if above:
            alarm = self.alarm or Alarm(frame, frame, frame, float(score), seconds, seconds)
            if score > alarm.score:
                alarm = alarm._replace(peak=frame, score=float(score))
            self.alarm = alarm._replace(end=frame, end_seconds=seconds)
        return ended

    def _is_over(self, alarm: Alarm, frame: int, seconds: float, above: bool) -> bool:
        """Whether neither this frame nor a later one can belong to the alarm."""
        gap = self.merge_gap
        if above and not self.interrupted:
            return False
        if gap.unit == "s":
            passed = seconds - alarm.end_seconds
            return passed > gap.amount + 1e-6 if above else passed >= gap.amount - 1e-6  # times are rounded
        return frame - alarm.end - above >= gap.amount  # the number of frames below the threshold since then

    def finish(self) -> Alarm | None:
        """End the video. Returns the current alarm, or None."""
        ended, self.alarm = self.alarm, None
        return ended


def find_alarms(
    frames: np.ndarray, seconds: np.ndarray, gaps: np.ndarray, scores: np.ndarray, tracker: Tracker
) -> list[Alarm]:
    """The alarms of a whole video, which end at a gap in time: the indices of its frames, their times, whether a gap is
    before them, and their scores, all (n,)."""
    ended = []
    for frame, time, is_gap, score in zip(*(some.tolist() for some in (frames, seconds, gaps, scores)), strict=True):
        if is_gap:
            ended.append(tracker.finish())
        ended.append(tracker.add(frame, time, score))
    return [alarm for alarm in (*ended, tracker.finish()) if alarm]


class AlarmRule(NamedTuple):
    """What turns calibrated scores into alarms, and what is needed to choose another threshold."""

    threshold: float
    merge_gap: Span
    false_alarm_rate: float  # the rate that gave the threshold
    own_scores: np.ndarray  # (n,), of the calibration's own frames; thresholds are quantiles of them
    caveat: str = ""  # why the rate is not exact


def alarm_rule(
    calibration: Calibration, scoring: Scoring, false_alarm_rate: float, merge_gap: Span, fps: float
) -> AlarmRule:
    """The rule for videos of this frame rate. A share false_alarm_rate of normal frames is above its threshold."""
    threshold = calibration.threshold(scoring, false_alarm_rate, fps)
    caveat = calibration.caveat(scoring, false_alarm_rate)
    return AlarmRule(threshold, merge_gap, false_alarm_rate, calibration.own_scores(scoring, fps), caveat)


class Decisions(NamedTuple):
    """The alarms of an evaluation under a rule. Lists have one entry per video."""

    rule: AlarmRule
    scores: list[np.ndarray]  # calibrated abnormality, (n,) for n frames with a score
    alarms: list[list[Alarm]]
    measures: "Measures | None"  # None without labels

    @property
    def threshold(self) -> float:
        return self.rule.threshold


class Measures(NamedTuple):
    """Metrics of alarms, over the videos that have labels."""

    alarms_judged: int  # alarms of these videos; those of unlabelled videos are neither right nor wrong
    precision: float | None  # the share of frames in alarms that are abnormal; None if no frame is in an alarm
    recall: float | None  # the share of abnormal frames that are in alarms; None if no frame is abnormal
    events: int  # labelled intervals
    events_met: int  # labelled intervals that overlap an alarm
    false_alarms: int  # alarms without an abnormal frame
    false_alarms_per_hour: float
    alarmed_share: float  # the share of all frames that are in alarms


def calibrated_scores(result: Evaluation, calibration: Calibration, scoring: Scoring) -> list[np.ndarray]:
    """The calibrated abnormality of the frames of each video, (n,), smoothed over time as `scoring` says."""
    both = zip(result.psnr, result.distance, strict=True)
    scores = [calibration.abnormality(p, d, scoring.alpha) for p, d in both]
    return smoothed(scores, result.seconds, result.gaps, scoring)


def decide(
    result: Evaluation, calibration: Calibration, scoring: Scoring, false_alarm_rate: float, merge_gap: Span
) -> Decisions:
    """Find the alarms of an evaluation: frames above the threshold of the calibration form alarms."""
    scores = calibrated_scores(result, calibration, scoring)
    fps = float(np.median([rate_of(seconds) for seconds in result.seconds]))
    rule = alarm_rule(calibration, scoring, false_alarm_rate, merge_gap, fps)
    alarms = [
        find_alarms(*of_video, Tracker(rule.threshold, merge_gap))
        for of_video in zip(result.frames, result.seconds, result.gaps, scores, strict=True)
    ]
    return Decisions(rule, scores, alarms, None if result.labels is None else measure_alarms(alarms, result))


def measure_alarms(alarms: list[list[Alarm]], result: Evaluation) -> Measures | None:
    """The metrics of the alarms of each video; None if no video has labels."""
    hits = inside = events = events_met = false_alarms = abnormal = frames = 0
    hours = 0.0
    judged = 0
    of_videos = zip(alarms, result.frames, result.seconds, result.gaps, result.labels or [], strict=False)
    for found, indices, seconds, gaps, y in of_videos:
        if y is None:
            continue
        truth = np.asarray(y, dtype=bool)
        alarmed = np.zeros(len(truth), dtype=bool)
        judged += len(found)
        for alarm in found:
            inside_it = (indices >= alarm.start) & (indices <= alarm.end)
            alarmed |= inside_it
            false_alarms += not truth[inside_it].any()
        hits, inside = hits + int((alarmed & truth).sum()), inside + int(alarmed.sum())
        of_video = intervals(truth)
        events += len(of_video)
        events_met += sum(bool(alarmed[first : last + 1].any()) for first, last in of_video)
        abnormal, frames = abnormal + int(truth.sum()), frames + len(truth)
        hours += hours_of(seconds, gaps)
    if not frames:
        return None
    return Measures(
        alarms_judged=judged,
        precision=hits / inside if inside else None,
        recall=hits / abnormal if abnormal else None,
        events=events,
        events_met=events_met,
        false_alarms=false_alarms,
        false_alarms_per_hour=false_alarms / hours,
        alarmed_share=inside / frames,
    )
