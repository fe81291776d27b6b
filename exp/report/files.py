"""What evaluations write and say: tables with a row a frame or an alarm, evaluation.json, the lines on the terminal."""

import contextlib
import csv
import json

from utils import InputError, auc_of_videos, write_whole

SCORES = ("video", "frame", "psnr", "distance", "regular_score", "updated", "abnormality", "label")
WATCHED = ("frame", "seconds", "psnr", "distance", "regular_score", "updated", "abnormality", "alarm")
ALARMS = ("video", "start", "end", "peak", "score", "start_seconds", "end_seconds")


class Table:
    """A csv that grows: what was added is on its way to the disk at once, so that a kill loses nothing.

    Raises InputError where it cannot be written; the rows before stay.
    """

    def __init__(self, path, header):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "w", newline="")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        self.writer = csv.writer(self.file)
        self.add(header)

    def add(self, *rows):
        try:
            self.writer.writerows(rows)
            self.file.flush()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self):
        with contextlib.suppress(OSError):  # a full disk, said when the row was added
            self.file.close()


def write_table(path, header, rows):
    """A csv that appears whole or not. Raises InputError where it cannot be written."""

    def write(temporary):
        with open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    write_whole(path, write)


def write_scores(path, result):
    """scores.csv of an exp.scoring.evaluation.Evaluation: a row for each frame that has a score."""
    labels = result.labels or [[""] * len(frames) for frames in result.frames]
    columns = (result.frames, result.psnr, result.distance, result.regular, result.updated, result.abnormality, labels)
    by_video = zip(result.videos, *columns, strict=True)
    rows = [score_row(video, *row) for video, *some in by_video for row in zip(*some, strict=True)]
    write_table(path, SCORES, rows)


def write_alarms(path, videos, alarms):
    """alarms.csv: of each video its name and its list of exp.scoring.alarms.Alarm."""
    rows = [alarm_row(video, alarm) for video, some in zip(videos, alarms, strict=True) for alarm in some]
    write_table(path, ALARMS, rows)


def score_row(video, frame, psnr, distance, regular, updated, abnormality, label=""):
    """A row of SCORES; the label is empty where there is none."""
    return video, frame, f"{psnr:.8g}", f"{distance:.8g}", f"{regular:.8g}", int(updated), f"{abnormality:.8g}", label


def watched_row(frame, seconds, psnr, distance, regular, updated, abnormality, alarm):
    """A row of WATCHED: abnormality as a calibration gives it, alarm whether it is above the threshold."""
    scores = f"{psnr:.8g}", f"{distance:.8g}", f"{regular:.8g}", int(updated), f"{abnormality:.8g}"
    return frame, f"{seconds:.3f}", *scores, int(alarm)


def alarm_row(video, alarm):
    """A row of ALARMS; alarm: exp.scoring.alarms.Alarm."""
    score, *seconds = f"{alarm.score:.6g}", f"{alarm.start_seconds:.2f}", f"{alarm.end_seconds:.2f}"
    return video, alarm.start, alarm.end, alarm.peak, score, *seconds


def write_evaluation(path, result, decided, about):
    """evaluation.json: what it is about (a dict), the metrics, and what a calibrated threshold gives, None without one.

    result: exp.scoring.evaluation.Evaluation; decided: exp.scoring.alarms.Decided or None. Metrics are in [0, 1], None where none are.
    """
    each = [None] * len(result.videos) if result.labels is None else auc_of_videos(result.labels, result.abnormality)
    content = {
        **about,
        "frames": sum(map(len, result.frames)),
        **(result.metrics or dict.fromkeys(("auc", "eer", "average_precision", "macro_auc", "macro_videos"))),
        "auc_of_videos": dict(zip(result.videos, each, strict=True)),
        "calibrated": decided
        and {
            "threshold": decided.threshold,
            "alarms": sum(map(len, decided.alarms)),
            **(decided.measures or {}),
        },
    }
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def metric_lines(result, unlike=""):
    """The metrics of an exp.scoring.evaluation.Evaluation for people; unlike: what to name beside them."""
    if result.labels is None:
        return ["no labels, so no AUC: data/README.md says how to give them"]
    if result.metrics is None:
        which, count = "abnormal" if result.labels[0][0] else "normal", sum(map(len, result.labels))
        return [f"all {count} labelled frames are {which}, so no AUC: it compares frames of both classes"]
    metrics, beside = result.metrics, f" ({unlike})" if unlike else ""
    names = {"auc": "AUC", "eer": "EER", "average_precision": "average precision"}
    lines = [f"{name}{beside}: {100 * metrics[key]:.4f} %" for key, name in names.items()]
    if metrics["macro_videos"]:
        videos = f"{metrics['macro_videos']} of {len(result.videos)} videos; the others have frames of one class only"
        lines.append(f"macro AUC{beside}: {100 * metrics['macro_auc']:.4f} % (mean over {videos})")
    return lines


def alarm_lines(decided, fps, caveat=""):
    """How an exp.scoring.alarms.Decided fares, for people; caveat: what is wrong with its threshold."""
    count = sum(map(len, decided.alarms))
    line = f"calibrated threshold {decided.threshold:.4g}: {count} alarm{'s' if count != 1 else ''}"
    if m := decided.measures:
        for name in ("precision", "recall"):
            line += f", {name} {100 * m[name]:.2f} %" if m[name] is not None else ""
        line += (
            f", {m['events_met']} of {m['events']} events met, {m['false_alarms_per_hour']:.1f} false alarms an hour"
        )
        line += f" at {fps:g} frames a second"
    return [line, f"    the threshold is {caveat}"] if caveat else [line]
