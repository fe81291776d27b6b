"""Frame-level ground truth: for every frame of a test video, 1 = abnormal or 0 = normal.

It comes from the first of these that is there:

    <dataset_path>/<dataset_type>/frame_labels.npy   (N,) or (1, N): all test videos in natural order, end to end
    <dataset_path>/<dataset_type>/frame_labels.csv   lines `video,first,last`, see `read_intervals`
    data/frame_labels/<dataset_type>.json            built in: ped2, avenue, shanghai
    data/frame_labels_<dataset_type>.npy             as the first; where the authors' released code keeps its labels

The built-in files hold each test video's length and its abnormal intervals, frames from 0, both ends included.
Labels are a dict: for each video by name a uint8 array with one value per frame, or None where a csv says that nobody
knows. A video whose labels are None gets scores and is left out of every metric.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data.frames import Video, printable
from data.times import read_times
from utils import InputError, reading, write_whole

Labels = dict[str, np.ndarray | None]
Seconds = Callable[[Video], np.ndarray | None]  # the time of each frame of a video, (frames,); None where not known

HERE = Path(__file__).parent
BUILT_IN = ("ped2", "avenue", "shanghai")
# Avenue has two families of labels: those of the published numbers, and those its pixel masks imply
FAMILIES = {"paper": "anomalous", "masks": "anomalous_from_pixel_masks"}
HEADER = ["video", "first", "last"]
UNLABELLED = "unlabelled"
TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):(\d{1,2}(?:\.\d{1,9})?)")  # [hours:]minutes:seconds
MOST_DIGITS = 9  # of a frame number
SLACK = 1.0  # seconds by which an interval may end after its video: times are often rounded up


class LabelsError(InputError):
    """Labels that do not fit the videos. `problems` has a line for each; the message is the first of them."""

    def __init__(self, problems: list[str]):
        others = f" (and {len(problems) - 1} more, which python -m data.check lists)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{others}")
        self.problems = problems


def kept_seconds(video: Video) -> np.ndarray | None:
    """The time of each frame, (frames,), as kept beside them; None where it is not. Raises InputError."""
    times = read_times([video], fps=1)[0]
    return None if times.assumed else times.seconds


def label_source(dataset_path: Path | str, dataset_type: str) -> Path | None:
    """The file the labels of a data set come from, or None where there are none."""
    dataset = Path(dataset_path) / dataset_type
    built_in = [HERE / "frame_labels" / f"{dataset_type}.json"] if dataset_type in BUILT_IN else []
    places = (
        dataset / "frame_labels.npy",
        dataset / "frame_labels.csv",
        *built_in,
        HERE / f"frame_labels_{dataset_type}.npy",
    )
    return next((path for path in places if os.path.exists(path)), None)


def frame_labels(
    dataset_path: Path | str,
    dataset_type: str,
    videos: Sequence[Video],
    avenue_labels: str = "paper",
    seconds: Seconds = kept_seconds,
) -> Labels | None:
    """Labels of the test videos: {video name: uint8 (frames,), or None where it is unlabelled}; None without any.

    avenue_labels: "paper" or "masks", the family used where the built-in Avenue labels are. seconds: gives the times of
    a video's frames, which a csv with times needs.
    Raises InputError when the labels do not fit the videos on disk or their file is broken.
    """
    path = label_source(dataset_path, dataset_type)
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path} is there and not a regular file: replace it")
    if path.suffix == ".npy":
        return _read_array(path, videos)
    if path.suffix == ".csv":
        return read_intervals(path, videos, seconds)
    return dict(_pick(built_in_labels(dataset_type, avenue_labels), dataset_type, videos))


def built_in_labels(dataset_type: str, avenue_labels: str = "paper") -> dict[str, np.ndarray]:
    """Labels of all official test videos of "ped2", "avenue" or "shanghai": {video name: uint8 (frames,)}."""
    if avenue_labels not in FAMILIES:
        raise InputError(f"no Avenue labels called {avenue_labels!r}: choose one of {', '.join(FAMILIES)}")
    known = json.loads((HERE / "frame_labels" / f"{dataset_type}.json").read_text(encoding="utf-8"))
    labels = {}
    for name, video in known.items():
        labels[name] = np.zeros(video["length"], np.uint8)
        # where the families agree, and outside Avenue, only "anomalous" is given
        for first, last in video.get(FAMILIES[avenue_labels], video["anomalous"]):
            labels[name][first : last + 1] = 1
    return labels


def _pick(known: dict[str, np.ndarray], dataset_type: str, videos: Sequence[Video]) -> dict[str, np.ndarray]:
    """The built-in labels of the videos on disk, which may be only some, or unpadded (folder 1 for video 01)."""
    by_number = {_number(name): name for name in known}
    picked: dict[str, np.ndarray] = {}
    taken: dict[str | None, Path] = {}
    problems = []
    for video in videos:
        official = by_number.get(_number(video.name))
        if official is None:
            names = list(known)
            problems.append(
                f"{video.directory} is not a test video of {dataset_type}, which are {names[0]} to {names[-1]}: rename "
                "or remove it, or give your own frame_labels.csv (data/README.md)"
            )
        elif official in taken:
            problems.append(f"{taken[official]} and {video.directory} are both test video {official}: remove one")
        elif len(video.frames) != len(known[official]):
            problems.append(
                f"{video.directory} holds {len(video.frames)} frames, but test video {official} of {dataset_type} has "
                f"{len(known[official])}: extract it again (python -m data.prepare)"
            )
        else:
            picked[video.name] = known[official]
        taken.setdefault(official, video.directory)
    if problems:
        raise LabelsError(problems)
    return picked


def _number(name: str) -> tuple[int | str, ...]:
    """A name with its digits read as numbers, so that 1 is 01."""
    return tuple(
        int(part) if part.isdecimal() and len(part) <= MOST_DIGITS else part for part in re.split(r"(\d+)", name)
    )


def _read_array(path: Path, videos: Sequence[Video]) -> Labels:
    """Labels in one .npy, (N,) or (1, N), cut into the videos they belong to, in the order given."""
    try:
        # mapped: a header that promises more than the file holds is refused before anything is allocated
        labels = np.array(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # of a damaged header, whatever numpy's and Python's own parsers raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read {path}: {reason}; it must be one plain numpy array of 0 and 1") from error
    if labels.ndim == 2 and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim != 1:
        raise InputError(f"{path} has shape {labels.shape}: it must be (N,) or (1, N), N frames of all test videos")
    if labels.dtype.kind not in "buif" or not np.isin(labels, (0, 1)).all():
        raise InputError(f"{path} holds other values than 0 and 1: 1 marks an abnormal frame, 0 a normal one")
    lengths = [len(video.frames) for video in videos]
    if len(labels) != sum(lengths):
        raise InputError(f"{path}: {_length_mismatch(len(labels), videos)}")
    parts = np.split(labels.astype(np.uint8), np.cumsum(lengths)[:-1])
    return {video.name: part for video, part in zip(videos, parts, strict=True)}


def _length_mismatch(found: int, videos: Sequence[Video]) -> str:
    frames = sum(len(video.frames) for video in videos)
    message = f"{found} labels for the {frames} frames of {len(videos)} test videos on disk, {abs(found - frames)} "
    if found > frames:
        return f"{message}too many: is a video missing or not whole?"
    suspects = [video.name for video in videos if len(video.frames) == frames - found]
    hint = f": the length of video {' or '.join(suspects[:3])}, is it one too many?" if suspects else ""
    return f"{message}too few{hint or ': the labels are not those of these videos'}"


def read_intervals(path: Path, videos: Sequence[Video], seconds: Seconds = kept_seconds) -> Labels:
    """Labels written as abnormal intervals: {video name: uint8 (frames,), or None where unlabelled} of these videos.

    The csv starts with the line `video,first,last`. Each further line is one abnormal interval of a video, which is
    named exactly as its folder: two frames, counted from 0, both included, or two times such as 0:12.4 or 1:02:03,
    which `seconds` turns into the frames between them. The line `video,unlabelled,` says that nobody knows. A video
    without a line is normal. Raises InputError with file and line number.
    """
    by_name = {video.name: video for video in videos}
    labels: Labels = {name: np.zeros(len(video.frames), np.uint8) for name, video in by_name.items()}
    problems, marked = [], set()
    try:
        # -sig: spreadsheets write a byte order mark; surrogateescape: names of folders need not be UTF-8
        with reading(path), open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            if next(reader, None) != HEADER:
                raise InputError(f"{path}, line 1: the header must be {','.join(HEADER)}")
            for row in reader:
                if not row:
                    continue
                try:
                    video = _video(row, by_name)
                    if row[1].strip() == UNLABELLED:
                        _check_unlabelled(row, video.name in marked)
                        labels[video.name] = None
                        continue
                    values = labels[video.name]
                    if values is None:
                        raise InputError(f"video {video.name} is {UNLABELLED} by an earlier line: remove one of them")
                    values[_frames(row, video, seconds)] = 1
                    marked.add(video.name)
                except InputError as error:
                    problems.append(f"{path}, line {reader.line_num}: {error}")
    except csv.Error as error:
        raise InputError(f"cannot read {path}: {error}; it must be a csv with the lines video,first,last") from error
    if problems:
        raise LabelsError(problems)
    return labels


def _video(row: list[str], videos: Mapping[str, Video]) -> Video:
    """The video of a line of the csv. Raises InputError when it is none of these."""
    if len(row) != len(HEADER):
        raise InputError(f"{len(row)} values, but a line is {','.join(HEADER)}")
    name = printable(row[0])
    if name not in videos and name != row[0]:
        raise InputError(f"cannot read {_short(name)}: it is not UTF-8 text, and no video on disk has this name")
    if name not in videos:
        raise InputError(f"no test video {_short(row[0])} on disk; names are those of the folders, 01 is not 1")
    return videos[name]


def _check_unlabelled(row: list[str], is_marked: bool) -> None:
    if row[2].strip():
        raise InputError(f"an unlabelled video has no last frame: the line is {row[0]},{UNLABELLED},")
    if is_marked:
        raise InputError(f"video {row[0]} has an interval by an earlier line: remove one of them")


def _frames(row: list[str], video: Video, seconds: Seconds) -> slice:
    """The frames of an interval, a line of the csv. Raises InputError when it is none of this video."""
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
        raise InputError(f"first is {first}, after last, {last}; swap them")
    if last >= len(video.frames):
        raise InputError(f"frame {last} is outside video {video.name}, whose frames are 0 to {len(video.frames) - 1}")
    return slice(first, last + 1)


def _frames_between(values: list[str], video: Video, seconds: Seconds) -> slice:
    first, last = map(_time, values)
    if first > last:
        raise InputError(f"first is {values[0]}, after last, {values[1]}; swap them")
    times = seconds(video)
    if times is None:
        raise InputError(f"the times of the frames of video {video.name} are not known: give frame numbers")
    if last > times[-1] + SLACK or first > times[-1]:
        raise InputError(
            f"{values[0]} to {values[1]} is not within video {video.name}, which ends at {times[-1]:.2f} s"
        )
    start, end = np.searchsorted(times, first, "left"), np.searchsorted(times, last, "right")
    if start == end:
        raise InputError(f"no frame of video {video.name} is between {values[0]} and {values[1]}")
    return slice(int(start), int(end))


def _time(text: str) -> float:
    """The seconds that minutes:seconds or hours:minutes:seconds are."""
    found = TIME.fullmatch(text)
    if not found:
        raise InputError(f"{_short(text)} is not a time such as 0:12.4 or 1:02:03")
    return 3600 * int(found[1] or 0) + 60 * int(found[2]) + float(found[3])


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:20]!r}... ({len(text)} characters)"


def write_intervals(path: Path, labels: Mapping[str, np.ndarray | None]) -> None:
    """Write labels as the csv that `read_intervals` reads. It appears whole or not. Raises InputError."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            for name, values in labels.items():
                runs = [(UNLABELLED, "")] if values is None else intervals(values)
                writer.writerows([name, *pair] for pair in runs)

    write_whole(Path(path), write)


def intervals(labels: ArrayLike) -> list[tuple[int, int]]:
    """The runs of ones in (frames,) of 0 and 1: [(first, last), ...], both ends included."""
    edges = np.flatnonzero(np.diff(np.asarray(labels, dtype=np.int8), prepend=0, append=0)).tolist()
    return [(first, end - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
