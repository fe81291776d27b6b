"""Frame-level ground truth: for every frame of a test video, 1 = abnormal or 0 = normal.

It comes from the first of these that is there:

    <dataset_path>/<dataset_type>/frame_labels.npy   (N,) or (1, N): all test videos in natural order, end to end
    <dataset_path>/<dataset_type>/frame_labels.csv   lines `video,first,last`, see `read_intervals`
    data/frame_labels/<dataset_type>.json            built in: ped2, avenue, shanghai
    data/frame_labels_<dataset_type>.npy             as the first; where the authors' released code keeps its labels

The built-in files hold each test video's length and its abnormal intervals, frames from 0, both ends included.
"""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data.frames import Video, natural_key
from utils import InputError

HERE = Path(__file__).parent
BUILT_IN = ("ped2", "avenue", "shanghai")
# Avenue has two families of labels: those of the published numbers, and those its pixel masks imply
FAMILIES = {"paper": "anomalous", "masks": "anomalous_from_pixel_masks"}
HEADER = ["video", "first", "last"]


class LabelsError(InputError):
    """Labels that do not fit the videos. `problems` has a line for each; the message is the first of them."""

    def __init__(self, problems: list[str]) -> None:
        others = f" (and {len(problems) - 1} more, which python -m data.check lists)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{others}")
        self.problems = problems


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
    return next((path for path in places if path.exists()), None)


def frame_labels(
    dataset_path: Path | str, dataset_type: str, videos: list[Video], avenue_labels: str = "paper"
) -> dict[str, np.ndarray] | None:
    """Labels of the test videos (a list of data.frames.Video): {video name: uint8 (frames,)}, None if there are none.

    avenue_labels: "paper" or "masks", the family used where the built-in Avenue labels are.
    Raises InputError when the labels do not fit the videos on disk or their file is broken.
    """
    path = label_source(dataset_path, dataset_type)
    if path is None:
        return None
    if path.suffix == ".npy":
        return _read_array(path, videos)
    if path.suffix == ".csv":
        return read_intervals(path, videos)
    return _pick(built_in_labels(dataset_type, avenue_labels), dataset_type, videos)


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


def _pick(known: dict[str, np.ndarray], dataset_type: str, videos: list[Video]) -> dict[str, np.ndarray]:
    """The built-in labels of the videos on disk, which may be only some, or unpadded (folder 1 for video 01)."""
    by_number = {_number(name): name for name in known}
    picked: dict[str, np.ndarray] = {}
    taken: dict[str | None, Path] = {}
    problems: list[str] = []
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


def _number(name: str) -> tuple:
    return tuple(natural_key(name)[:-1])  # without its last part, which tells "1" from "01"


def _read_array(path: Path, videos: list[Video]) -> dict[str, np.ndarray]:
    """Labels in one .npy, (N,) or (1, N), cut into the videos they belong to, in the order given."""
    try:
        with path.open("rb") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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


def _length_mismatch(found: int, videos: list[Video]) -> str:
    frames = sum(len(video.frames) for video in videos)
    message = f"{found} labels for the {frames} frames of {len(videos)} test videos on disk, {abs(found - frames)} "
    if found > frames:
        return f"{message}too many: is a video missing or not whole?"
    suspects = [video.name for video in videos if len(video.frames) == frames - found]
    hint = f": the length of video {' or '.join(suspects[:3])}, is it one too many?" if suspects else ""
    return f"{message}too few{hint or ': the labels are not those of these videos'}"


def read_intervals(path: Path, videos: list[Video]) -> dict[str, np.ndarray]:
    """Labels written as abnormal intervals: {video name: uint8 (frames,)} of the videos given.

    The csv starts with the line `video,first,last`; each further line is one abnormal interval of a video, named
    exactly as its folder; frames are counted from 0, both ends included. A video without a line is normal.
    Raises InputError with file and line number.
    """
    labels, problems = {video.name: np.zeros(len(video.frames), np.uint8) for video in videos}, []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(file)
            if next(reader, None) != HEADER:
                raise InputError(f"{path}, line 1: the header must be {','.join(HEADER)}")
            for row in reader:
                if not row:
                    continue
                try:
                    name, first, last = _interval(row, labels)
                    labels[name][first : last + 1] = 1
                except InputError as error:
                    problems.append(f"{path}, line {reader.line_num}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read {path}: {error}; it must be a UTF-8 csv with the lines video,first,last"
        ) from error
    if problems:
        raise LabelsError(problems)
    return labels


def _interval(row: list[str], labels: dict[str, np.ndarray]) -> tuple[str, int, int]:
    """A line of the csv as (video, first, last). Raises InputError when it is none for these labels."""
    if len(row) != len(HEADER):
        raise InputError(f"{len(row)} values, but a line is {','.join(HEADER)}")
    name = row[0]
    if name not in labels:
        raise InputError(f"no test video {name!r} on disk; names are those of the folders, 01 is not 1")
    if not all(value.strip().isdecimal() for value in row[1:]):
        raise InputError(f"first and last must be frame numbers from 0, not {row[1]!r} and {row[2]!r}")
    first, last = int(row[1]), int(row[2])
    if first > last:
        raise InputError(f"first is {first}, after last, {last}; swap them")
    if last >= len(labels[name]):
        raise InputError(f"frame {last} is outside video {name}, whose frames are 0 to {len(labels[name]) - 1}")
    return name, first, last


def write_intervals(path: Path, labels: Mapping[str, ArrayLike]) -> None:
    """Write {video name: (frames,) of 0 and 1} as the csv that `read_intervals` reads. It appears whole or not."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows([name, *pair] for name, values in labels.items() for pair in intervals(values))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def intervals(labels: ArrayLike) -> list[tuple[int, int]]:
    """The runs of ones in (frames,) of 0 and 1: [(first, last), ...], both ends included."""
    edges = np.flatnonzero(np.diff(np.asarray(labels, dtype=np.int8), prepend=0, append=0)).tolist()
    return [(first, end - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
