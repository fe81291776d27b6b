"""Labels as abnormal intervals: reading and writing the csv of video,first,last, and finding runs of ones."""

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data.frames import Video, printable
from data.times import read_times
from utils import InputError, reading, write_whole

Labels = dict[str, np.ndarray | None]  # for each video by name: uint8 (frames,), 1 = abnormal; None: unlabelled
# returns the time of each frame of a video, (frames,), or None if unknown
Seconds = Callable[[Video], np.ndarray | None]

HEADER = ["video", "first", "last"]
UNLABELLED = "unlabelled"
TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):(\d{1,2}(?:\.\d{1,9})?)")  # [hours:]minutes:seconds
MOST_DIGITS = 9  # of a frame number
SLACK = 1.0  # seconds by which an interval may exceed its video, since times are often rounded up


class LabelsError(InputError):
    """Labels that do not fit the videos. `problems` has one line per problem; the message is the first one."""

    def __init__(self, problems: list[str]):
        others = f" (and {len(problems) - 1} more, which python -m data.check lists)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{others}")
        self.problems = problems


def kept_seconds(video: Video) -> np.ndarray | None:
    """The stored time of each frame, (frames,); None if the times are not stored. Raises InputError."""
    times = read_times([video], fps=1)[0]
    return None if times.assumed else times.seconds


def seconds_at(fps: float | None) -> Seconds:
    """A function that returns the times of a video's frames at this rate, or the stored times if fps is None."""
    return (lambda video: np.arange(len(video.frames)) / fps) if fps else kept_seconds


def read_intervals(
    path: Path, videos: Sequence[Video], seconds: Seconds = kept_seconds, others: Iterable[str] = ()
) -> Labels:
    """Read the labels of these videos from a csv: {video name: uint8 (frames,), or None if unlabelled}.

    The csv starts with the line `video,first,last`. Every other line is one abnormal interval of a video, named exactly
    as its folder (an accented letter may be one character or two). It is given by two frame numbers, counted from 0 and
    both included, or by two times such as 0:12.4 or 1:02:03, which stand for the frames between them. The line
    `video,unlabelled,` marks a video without labels. A video without a line is normal. others: names of videos whose
    lines are passed over. Raises InputError with the file and line number.
    """
    labels: Labels = {video.name: np.zeros(len(video.frames), np.uint8) for video in videos}
    # the exact name comes before one that only looks the same
    by_name = {_composed(video.name): video for video in videos} | {video.name: video for video in videos}
    passed_over = {_composed(name) for name in others}
    problems, marked = [], set()
    try:
        # utf-8-sig: spreadsheets write a byte order mark; surrogateescape: folder names need not be UTF-8
        with reading(path), open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            if next(reader, None) != HEADER:
                raise InputError(f"{path}, line 1: the header must be {','.join(HEADER)}")
            for row in reader:
                # a spreadsheet writes an empty row as commas
                if not any(value.strip() for value in row) or _composed(printable(row[0])) in passed_over:
                    continue
                try:
                    video = _video(row, by_name)
                    if row[1].strip() == UNLABELLED:
                        _check_unlabelled(row, video.name in marked)
                        labels[video.name] = None
                        continue
                    values = labels[video.name]
                    if values is None:
                        raise InputError(
                            f"video {video.name} is {UNLABELLED} in an earlier line: remove one of the two"
                        )
                    values[_frames(row, video, seconds)] = 1
                    marked.add(video.name)
                except InputError as error:
                    problems.append(f"{path}, line {reader.line_num}: {error}")
    except csv.Error as error:
        raise InputError(f"cannot read {path}: {error}; it must be a csv with the lines video,first,last") from error
    if problems:
        raise LabelsError(problems)
    return labels


def merged_intervals(
    path: Path, earlier: Path, videos: Sequence[Video], extracted: Iterable[str], seconds: Seconds = kept_seconds
) -> Labels:
    """The labels of all videos of a data set to which videos are added, as from `read_intervals`.

    path: the csv of the added videos, named in `extracted`; it may name earlier videos as well. earlier: the csv that
    is already in the data set, if there is one, which counts for all other videos. Raises InputError as above.
    """
    labels = read_intervals(path, videos, seconds)
    replaced = {name for name, values in labels.items() if values is None or values.any()} | set(extracted)
    if earlier.exists() and not earlier.samefile(path):
        others = [video for video in videos if video.name not in replaced]
        labels |= read_intervals(earlier, others, seconds, others=replaced)
    return labels


def _video(row: list[str], videos: Mapping[str, Video]) -> Video:
    """The video that a line of the csv names. Raises InputError when there is no such video."""
    if len(row) != len(HEADER):
        raise InputError(f"{len(row)} values, but a line must be {','.join(HEADER)}")
    name = printable(row[0])
    if name not in videos and name != row[0]:
        raise InputError(f"cannot read {_short(name)}: it is not UTF-8 text, and no video on disk has this name")
    video = videos.get(name) or videos.get(_composed(name))
    if video is None:
        raise InputError(f"no test video {_short(row[0])} on disk; use the exact names of the folders (01 is not 1)")
    return video


def _composed(name: str) -> str:
    """A name with each accented letter as one character; macOS writes a letter and an accent."""
    return unicodedata.normalize("NFC", name)


def _check_unlabelled(row: list[str], is_marked: bool) -> None:
    if row[2].strip():
        raise InputError(f"an unlabelled video has no last frame: the line must be {row[0]},{UNLABELLED},")
    if is_marked:
        raise InputError(f"video {row[0]} has an interval in an earlier line: remove one of the two")


def _frames(row: list[str], video: Video, seconds: Seconds) -> slice:
    """The frames of an interval, given by a line of the csv. Raises InputError when it does not fit the video."""
    values = [value.strip() for value in row[1:]]
    if any(":" in value for value in values):
        return _frames_between(values, video, seconds)
    if not all(value.isdecimal() and len(value) <= MOST_DIGITS for value in values):
        raise InputError(
            f"first and last must be frame numbers from 0, or times such as 0:12.4, not {_short(row[1])} and "
            f"{_short(row[2])}"
        )
    first, last = map(int, values)
    if first > last:
        raise InputError(f"first ({first}) is after last ({last}); swap them")
    if last >= len(video.frames):
        raise InputError(f"frame {last} is outside video {video.name}, whose frames are 0 to {len(video.frames) - 1}")
    return slice(first, last + 1)


def _frames_between(values: list[str], video: Video, seconds: Seconds) -> slice:
    first, last = map(_time, values)
    if first > last:
        raise InputError(f"first ({values[0]}) is after last ({values[1]}); swap them")
    times = seconds(video)
    if times is None:
        raise InputError(
            f"the times of the frames of video {video.name} are unknown: give frame numbers, or the rate with --fps of "
            "Evaluate.py"
        )
    if last > times[-1] + SLACK or first > times[-1]:
        raise InputError(
            f"{values[0]} to {values[1]} is not within video {video.name}, which ends at {times[-1]:.2f} s"
        )
    start, end = np.searchsorted(times, first, "left"), np.searchsorted(times, last, "right")
    if start == end:
        raise InputError(f"no frame of video {video.name} is between {values[0]} and {values[1]}")
    return slice(int(start), int(end))


def _time(text: str) -> float:
    """Convert minutes:seconds or hours:minutes:seconds to seconds."""
    found = TIME.fullmatch(text)
    if not found:
        raise InputError(f"{_short(text)} is not a time such as 0:12.4 or 1:02:03")
    return 3600 * int(found[1] or 0) + 60 * int(found[2]) + float(found[3])


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:20]!r}... ({len(text)} characters)"


def write_intervals(path: Path, labels: Mapping[str, np.ndarray | None]) -> None:
    """Write labels as the csv that `read_intervals` reads, completely or not at all. Raises InputError."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            for name, values in labels.items():
                runs = [(UNLABELLED, "")] if values is None else intervals(values)
                writer.writerows([name, *pair] for pair in runs)

    write_whole(Path(path), write)


def intervals(labels: ArrayLike) -> list[tuple[int, int]]:
    """The runs of ones in an array (frames,) of 0 and 1: [(first, last), ...], both ends included."""
    edges = np.flatnonzero(np.diff(np.asarray(labels, dtype=np.int8), prepend=0, append=0)).tolist()
    return [(first, end - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
