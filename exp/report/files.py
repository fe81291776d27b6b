"""The output of evaluations: tables with one row per frame or alarm, evaluation.json, lines on the terminal."""

import contextlib
import csv
import io
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.stream import Frame
from exp.scoring.alarms import Alarm, Decisions
from exp.scoring.evaluation import Evaluation, Metrics, auc_by_video
from exp.scoring.pixels import PixelMetrics
from exp.scoring.protocols import LEVEL, Estimate, Protocols
from utils import InputError, write_text, write_whole

SCORES = ("video", "frame", "psnr", "distance", "regular_score", "updated", "abnormality", "label", "psnr_of_copy")
WATCHED = ("frame", "seconds", "time", "psnr", "distance", "regular_score", "updated", "abnormality", "alarm")
MOSTLY = 0.9  # if alarms cover a larger share of the frames, the cause is not anomalies
ALARMS = ("video", "start", "end", "peak", "score", "start_seconds", "end_seconds")
EVENTS = ("event", "time", *ALARMS[1:])  # an alarm of a stream has two rows, for its start and its end


class Table:
    """A csv that grows: added rows are handed to the system at once, so that a kill loses nothing.

    Raises InputError when it cannot be written; earlier rows are kept.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "wb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        self.add(header)

    def add(self, *rows: Sequence) -> None:
        text, whole = io.StringIO(newline=""), self.file.tell()
        csv.writer(text).writerows(rows)
        left = memoryview(text.getvalue().encode())
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # leave no partial row
                self.file.truncate(whole)
            self.file.seek(whole)
            raise InputError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        self.file.close()


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a csv, completely or not at all. Raises InputError when it cannot be written."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    write_whole(path, write)


def write_scores(path: Path, result: Evaluation) -> None:
    """Write scores.csv of an evaluation: one row per frame that has a score."""
    rows = []
    for video, name in enumerate(result.videos):
        labels = result.labels[video] if result.labels else None
        known = [""] * len(result.frames[video]) if labels is None else labels
        columns = [getattr(result, field)[video] for field in ("frames", "psnr", "distance", "regular", "updated")]
        columns += [result.abnormality[video], known]
        copied = [None] * len(known) if result.psnr_of_copy is None else result.psnr_of_copy[video]
        rows += [score_row(name, *row) for row in zip(*columns, copied, strict=True)]
    write_table(path, SCORES, rows)


def write_alarms(path: Path, videos: list[str], alarms: list[list[Alarm]]) -> None:
    """Write alarms.csv: one row per alarm, from the names of the videos and their alarms."""
    rows = [alarm_row(video, alarm) for video, some in zip(videos, alarms, strict=True) for alarm in some]
    write_table(path, ALARMS, rows)


def score_row(video: str, frame: int, *scores: Any) -> tuple:
    """A row of SCORES; a missing label or PSNR of the copy (None for recon) is an empty cell."""
    psnr, distance, regular, updated, abnormality, label, of_copy = scores
    shown = f"{psnr:.8g}", f"{distance:.8g}", f"{regular:.8g}", int(updated), f"{abnormality:.8g}"
    return video, frame, *shown, label, "" if of_copy is None else f"{of_copy:.8g}"


def watched_row(frame: Frame, *scores: Any) -> tuple:
    """A row of WATCHED: the calibrated abnormality, and whether it is above the threshold."""
    psnr, distance, regular, updated, abnormality, alarm = scores
    shown = f"{psnr:.8g}", f"{distance:.8g}", f"{regular:.8g}", int(updated), f"{abnormality:.8g}"
    return frame.index, f"{frame.seconds:.3f}", clock(frame), *shown, int(alarm)


def event_row(event: str, alarm: Alarm, frame: Frame) -> tuple:
    """A row of EVENTS for an alarm that has "started" or "ended" at this frame."""
    _, start, end, peak, score, *seconds = alarm_row("", alarm)
    if event == "started":
        end, peak, seconds[1] = "", "", ""
    return event, clock(frame), start, end, peak, score, *seconds


def clock(frame: Frame) -> str:
    """The time at which a live source gave a frame, such as 2026-11-25T18:00:00.250+0100; "" for a file."""
    if frame.captured is None:
        return ""
    when = time.localtime(frame.captured)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{int(frame.captured % 1 * 1000):03d}%z", when)


def alarm_row(video: str, alarm: Alarm) -> tuple:
    """A row of ALARMS."""
    score, *seconds = f"{alarm.score:.6g}", f"{alarm.start_seconds:.2f}", f"{alarm.end_seconds:.2f}"
    return video, alarm.start, alarm.end, alarm.peak, score, *seconds


class FurtherMetrics(NamedTuple):
    """Metrics beyond those of the paper."""

    protocols: Protocols
    pixels: PixelMetrics | None = None
    no_pixels: str = ""  # why there are no pixel-level metrics although there are masks


def write_evaluation(
    path: Path, result: Evaluation, decisions: Decisions | None, about: dict[str, Any], further: FurtherMetrics
) -> None:
    """Write evaluation.json: what was evaluated, the metrics, and the alarms under a calibrated threshold.

    Metrics are in [0, 1], or null if they cannot be computed.
    """
    protocols = {
        who: {name: estimate._asdict() for name, estimate in found.items()}
        for who, found in further.protocols._asdict().items()
    }
    calibrated = None
    if decisions:
        counts = {"threshold": decisions.threshold, "alarms": sum(map(len, decisions.alarms))}
        calibrated = {**counts, **(decisions.measures._asdict() if decisions.measures else {})}
    content = {
        **about,
        "frames": sum(map(len, result.frames)),
        **(result.metrics._asdict() if result.metrics else dict.fromkeys(Metrics._fields)),
        "auc_of_videos": auc_by_video(result),
        "calibrated": calibrated,
        "protocols": protocols,
        "pixels": further.pixels._asdict() if further.pixels else None,
    }
    write_text(path, json.dumps(content, indent=2) + "\n")


def metric_lines(result: Evaluation, further: FurtherMetrics, unlike: str = "") -> list[str]:
    """The metrics of an evaluation as lines of text; unlike: a note on settings unlike the paper's."""
    return [*frame_lines(result, further.protocols, unlike), *pixel_lines(further, unlike)]


def frame_lines(result: Evaluation, protocols: Protocols, unlike: str = "") -> list[str]:
    """The frame-level metrics, or why there are none, as lines of text."""
    if result.labels is None:
        return ["no labels, so no AUC: data/README.md says how to give them"]
    labels = [values for values in result.labels if values is not None]
    unlabelled = len(result.labels) - len(labels)
    if not labels:
        return [f"no AUC: {'the video is' if unlabelled == 1 else f'all {unlabelled} videos are'} unlabelled"]
    apart = f" ({unlabelled} of {len(result.videos)} videos unlabelled)" if unlabelled else ""
    if result.metrics is None:
        which, count = "abnormal" if labels[0][0] else "normal", sum(map(len, labels))
        return [f"all {count} labelled frames are {which}{apart}, so no AUC: it needs frames of both classes"]
    metrics, note = result.metrics, f" ({unlike})" if unlike else ""
    lines = [f"AUC{note}: {100 * metrics.auc:.4f} %", *interval_lines(protocols.network["published"])]
    if protocols.copy:
        lines.append(f"copying the previous frame instead: AUC {100 * protocols.copy['published'].auc:.1f} %")
    lines.append(f"EER{note}: {100 * metrics.eer:.4f} %")
    lines.append(f"average precision{note}: {100 * metrics.average_precision:.4f} %")
    if metrics.macro_auc is not None:
        videos = f"{metrics.macro_videos} of {len(result.videos)} videos"
        one_class = len(labels) - metrics.macro_videos
        others = [f"{one_class} with frames of one class only"] * bool(one_class)
        others += [f"{unlabelled} unlabelled"] * bool(unlabelled)
        left_out = f"; left out: {', '.join(others)}" if others else ""
        lines.append(f"macro AUC{note}: {100 * metrics.macro_auc:.4f} % (mean over {videos}{left_out})")
    return lines


def interval_lines(estimate: Estimate) -> list[str]:
    """The bootstrap interval of an AUC, or no line if there is none."""
    if estimate.low is None or estimate.high is None:
        return []
    ends = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"
    return [f"{100 * LEVEL:.0f} % bootstrap interval of this AUC over test videos: {ends}"]


def pixel_lines(further: FurtherMetrics, unlike: str = "") -> list[str]:
    """The pixel-level metrics, or why there are none although there are masks."""
    if further.no_pixels or not further.pixels:
        return [f"no pixel-level AUC: {further.no_pixels}"] if further.no_pixels else []
    pixels, note = further.pixels, f" ({unlike})" if unlike else ""
    if pixels.error is None:
        kind = "abnormal" if pixels.abnormal else "normal"
        return [f"no pixel-level AUC: all pixels of the masks of {pixels.frames} frames are {kind}"]
    values = (("squared error", pixels.error), ("feature distance", pixels.distance), ("error of copying", pixels[2]))
    lines = [f"pixel-level AUC of the {name}{note}: {100 * v:.4f} %" for name, v in values if v is not None]
    counted = f"all pixels of {pixels.frames} frames of {pixels.videos} videos, {100 * pixels.abnormal:.2f} % abnormal"
    return [f"{lines[0]} ({counted})", *lines[1:]]


def alarm_lines(decisions: Decisions) -> list[str]:
    """The alarms under a calibrated threshold and their metrics, as lines of text."""
    count, m = sum(map(len, decisions.alarms)), decisions.measures
    line = f"calibrated threshold {decisions.threshold:.4g}: {count} alarm{'s' if count != 1 else ''}"
    if m and m.alarms_judged < count:
        line += f" ({count - m.alarms_judged} in videos without labels, which the rest of this line leaves out)"
    if m and m.alarmed_share > MOSTLY:
        line += (
            f", in alarm for {100 * m.alarmed_share:.0f} % of the frames: the scene or the light differs from that of"
            " the training videos"
        )
    elif m:
        for name, value in (("precision", m.precision), ("recall", m.recall)):
            line += f", {name} {100 * value:.2f} %" if value is not None else ""
        line += f", {m.events_met} of {m.events} events detected (by an alarm in at least one frame)"
        line += f", {m.false_alarms_per_hour:.1f} false alarms per hour"
    return [line, f"    the threshold is {decisions.rule.caveat}"] if decisions.rule.caveat else [line]
