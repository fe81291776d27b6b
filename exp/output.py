"""Tables that evaluations write: a row a frame, a row an alarm. Whole files, or row by row while a video is watched."""

import contextlib
import csv

from exp.run import write_whole
from utils import InputError

SCORES = ("video", "frame", "psnr", "distance", "regular_score", "updated", "abnormality", "label")
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

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):  # a full disk, reported when the row was added
            self.file.close()

    def add(self, *rows):
        try:
            self.writer.writerows(rows)
            self.file.flush()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; the rows before are kept") from error


def write_table(path, header, rows):
    """A csv that appears whole or not. Raises InputError where it cannot be written."""

    def write(temporary):
        with open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    write_whole(path, write)


def write_scores(path, result):
    """scores.csv of an Evaluate.Evaluation: a row for each frame that has a score."""
    labels = result.labels or [[""] * len(frames) for frames in result.frames]
    columns = (result.frames, result.psnr, result.distance, result.regular, result.updated, result.abnormality, labels)
    by_video = zip(result.videos, *columns, strict=True)
    rows = [score_row(video, *row) for video, *some in by_video for row in zip(*some, strict=True)]
    write_table(path, SCORES, rows)


def write_alarms(path, videos, alarms, fps):
    """alarms.csv: of each video its name and its list of exp.alarms.Alarm."""
    by_video = zip(videos, alarms, strict=True)
    rows = [alarm_row(video, alarm, alarm.start / fps, alarm.end / fps) for video, some in by_video for alarm in some]
    write_table(path, ALARMS, rows)


def score_row(video, frame, psnr, distance, regular, updated, abnormality, label=""):
    """A row of SCORES; the label is empty where there is none."""
    return video, frame, f"{psnr:.8g}", f"{distance:.8g}", f"{regular:.8g}", int(updated), f"{abnormality:.8g}", label


def alarm_row(video, alarm, start_seconds, end_seconds):
    """A row of ALARMS; alarm: exp.alarms.Alarm."""
    return video, alarm.start, alarm.end, alarm.peak, f"{alarm.score:.6g}", f"{start_seconds:.2f}", f"{end_seconds:.2f}"
