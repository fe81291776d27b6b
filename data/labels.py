"""Frame-level ground truth: for every frame of a test video, 1 = abnormal or 0 = normal.

The labels come from the first of these files that exists:

    <dataset_path>/<dataset_type>/frame_labels.npy   (N,) or (1, N): all test videos in natural order, end to end
    <dataset_path>/<dataset_type>/frame_labels.csv   lines `video,first,last`, see data.intervals
    data/frame_labels/<dataset_type>.json            built in: ped2, avenue, shanghai
    data/frame_labels_<dataset_type>.npy             as the first; the released code keeps its labels here

The built-in files hold each test video's length and its abnormal intervals, frames from 0, both ends included.
A video that a csv marks as unlabelled has None as its labels: it gets scores and is left out of all metrics.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.frames import Video
from data.intervals import Labels, LabelsError, Seconds, kept_seconds, read_intervals
from utils import InputError

HERE = Path(__file__).parent
BUILT_IN = ("ped2", "avenue", "shanghai")
# Avenue has two families of labels: those behind the published numbers, and those that its pixel masks imply
FAMILIES = {"paper": "anomalous", "masks": "anomalous_from_pixel_masks"}
MOST_DIGITS = 9  # of a number in the name of a video


def label_source(dataset_path: Path | str, dataset_type: str) -> Path | None:
    """The file with the labels of a data set, or None if there is none."""
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
    """Labels of the test videos: {video name: uint8 (frames,), or None if unlabelled}; None if there are no labels.

    avenue_labels: "paper" or "masks", the family of the built-in Avenue labels. seconds: returns the times of a video's
    frames, which a csv with times needs. Raises InputError when the labels do not fit the videos on disk, or when their
    file is damaged.
    """
    path = label_source(dataset_path, dataset_type)
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path} exists and is not a regular file: replace it")
    if path.suffix == ".npy":
        return _read_array(path, videos)
    if path.suffix == ".csv":
        return read_intervals(path, videos, seconds)
    return dict(_pick(built_in_labels(dataset_type, avenue_labels), dataset_type, videos))


def built_in_labels(dataset_type: str, avenue_labels: str = "paper") -> dict[str, np.ndarray]:
    """Labels of all official test videos of "ped2", "avenue" or "shanghai": {video name: uint8 (frames,)}."""
    if avenue_labels not in FAMILIES:
        raise InputError(f"there are no Avenue labels called {avenue_labels!r}: choose one of {', '.join(FAMILIES)}")
    known = json.loads((HERE / "frame_labels" / f"{dataset_type}.json").read_text(encoding="utf-8"))
    labels = {}
    for name, video in known.items():
        labels[name] = np.zeros(video["length"], np.uint8)
        # only "anomalous" is given where the families agree, and outside Avenue
        for first, last in video.get(FAMILIES[avenue_labels], video["anomalous"]):
            labels[name][first : last + 1] = 1
    return labels


def _pick(known: dict[str, np.ndarray], dataset_type: str, videos: Sequence[Video]) -> dict[str, np.ndarray]:
    """The built-in labels of the videos on disk, which may be a part of them, or unpadded (folder 1 for video 01)."""
    by_number = {_number(name): name for name in known}
    picked: dict[str, np.ndarray] = {}
    taken: dict[str | None, Path] = {}
    problems = []
    for video in videos:
        official = by_number.get(_number(video.name))
        if official is None:
            names = list(known)
            problems.append(
                f"{video.directory} is not a test video of {dataset_type} ({names[0]} to {names[-1]}): rename "
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
    """A name with its digits read as numbers, so that 1 equals 01."""
    return tuple(
        int(part) if part.isdecimal() and len(part) <= MOST_DIGITS else part for part in re.split(r"(\d+)", name)
    )


def _read_array(path: Path, videos: Sequence[Video]) -> Labels:
    """Labels in one .npy file, (N,) or (1, N), split into the given videos in order."""
    try:
        # mapped, so that a header that claims more than the file holds is refused before memory is allocated
        labels = np.array(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # for a damaged header, the parsers of numpy and Python may raise anything
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read {path}: {reason}; it must be one plain numpy array of 0 and 1") from error
    if labels.ndim == 2 and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim != 1:
        raise InputError(f"{path} has shape {labels.shape}: it must be (N,) or (1, N), for N frames of all test videos")
    if labels.dtype.kind not in "buif" or not np.isin(labels, (0, 1)).all():
        raise InputError(f"{path} holds values other than 0 and 1: 1 marks an abnormal frame, 0 a normal one")
    lengths = [len(video.frames) for video in videos]
    if len(labels) != sum(lengths):
        raise InputError(f"{path}: {_length_mismatch(len(labels), videos)}")
    parts = np.split(labels.astype(np.uint8), np.cumsum(lengths)[:-1])
    return {video.name: part for video, part in zip(videos, parts, strict=True)}


def _length_mismatch(found: int, videos: Sequence[Video]) -> str:
    frames = sum(len(video.frames) for video in videos)
    message = f"{found} labels for the {frames} frames of {len(videos)} test videos on disk, {abs(found - frames)} "
    if found > frames:
        return f"{message}too many: is a video missing or incomplete?"
    suspects = [video.name for video in videos if len(video.frames) == frames - found]
    hint = f": the length of video {' or '.join(suspects[:3])}, should it be removed?" if suspects else ""
    return f"{message}too few{hint or ': the labels belong to other videos'}"
