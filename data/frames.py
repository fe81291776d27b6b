"""Frames on disk: finds and sorts the videos of a data set and their frames.

    <dataset_path>/<dataset_type>/{training,testing}/frames/<video>/<frame>.{jpg,jpeg,png,bmp,tif,tiff}

Videos and frames are sorted in natural order (2 before 10, as natsort does), so numbers may be unpadded, start anywhere
and have gaps. Frames whose names are all decimals, such as times in seconds, are sorted by these numbers.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from natsort import natsort_keygen

from utils import InputError, one_line, reading

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
LITTER = ("thumbs.db", "desktop.ini")  # files of file managers; hidden files are ignored too
DECIMAL = re.compile(r"(|.*\D)(\d+)\.(\d+)")  # of a frame's name without its extension

_natural = natsort_keygen()


class Video(NamedTuple):
    """The frames of one video, not yet decoded."""

    name: str  # the name of its folder, printable
    directory: Path
    frames: tuple[str, ...]  # file names in order

    def path(self, index: int) -> Path:
        return self.directory / self.frames[index]


def printable(name: str | Path) -> str:
    """A file name that UTF-8 can encode: bytes that are not UTF-8 become %E9 and the like."""
    return re.sub("[\udc80-\udcff]", lambda odd: f"%{ord(odd[0]) - 0xDC00:02X}", os.fspath(name))


def natural_key(name: str) -> tuple[Any, str]:
    """A sorting key that reads runs of digits as numbers: "2" before "10", "cam" before "cam2"."""
    return _natural(name), name  # the name itself comes last, so that "1" and "01" are always in the same order


def in_order(names: Iterable[str]) -> list[str]:
    """The names of one video's frames in order of time: by decimals if all names are decimals, else natural."""
    names = list(names)
    numbers = decimals(names)
    if numbers is None:
        return sorted(names, key=lambda name: (_natural(Path(name).stem), name))
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def ambiguous(names: Iterable[str]) -> bool:
    """Whether names read as decimals could also be pairs of numbers, such as 1.9 before 1.10."""
    names = list(names)
    if decimals(names) is None or in_order(names) == sorted(names, key=lambda name: natural_key(Path(name).stem)):
        return False
    # a fraction such as .04 shows that they are decimals: a second number would be written as 4
    return not any(re.fullmatch(r".*\.0\d+", Path(name).stem) for name in names)


def decimals(names: Sequence[str]) -> list[tuple[int, str]] | None:
    """Each name as a decimal, (integer part, digits after the point); None unless all are, with the same prefix."""
    found = [DECIMAL.fullmatch(Path(name).stem) for name in names]
    if not names or None in found or len({match[1] for match in found if match}) > 1:
        return None
    return [(_whole(match[2]), match[3].rstrip("0")) for match in found if match]


def _whole(digits: str) -> int:
    return int(digits[:4000])  # more digits than any name has; Python does not convert more than 4,300


def split_directory(dataset_path: Path | str, dataset_type: str, split: str) -> Path:
    """The folder of videos of a split ("training" or "testing"). Raises InputError when it does not exist."""
    dataset = Path(dataset_path) / dataset_type
    if not os.path.isdir(dataset):  # unlike Path.is_dir, this does not raise an error for a name that is too long
        raise InputError(
            f"no data set folder {dataset}: data/README.md says where to get it; `python -m data.prepare` makes it"
        )
    directory = dataset / split / "frames"
    if not directory.is_dir():
        raise InputError(f"no folder {directory}: it must contain the videos of the split as folders of frames")
    return directory


def _visible(directory: Path) -> list[os.DirEntry]:
    with reading(directory), os.scandir(directory) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def scan(directory: Path) -> Iterator[tuple[Video, str | None]]:
    """Each video in a folder of videos, in natural order, and what is wrong with it or None.

    Raises InputError when a folder cannot be read.
    """
    for folder in sorted(_visible(directory), key=lambda entry: natural_key(entry.name)):
        if os.path.isdir(folder.path):
            yield _scan_video(folder.name, Path(folder.path))
        elif not os.path.exists(folder.path):
            problem = f"video {folder.path} is a link to something that does not exist: repair or remove it"
            yield Video(printable(folder.name), Path(folder.path), ()), problem


def _scan_video(name: str, folder: Path) -> tuple[Video, str | None]:
    names = [entry.name for entry in _visible(folder) if entry.name.lower() not in LITTER]
    frames = tuple(in_order(name for name in names if name.lower().endswith(EXTENSIONS)))
    foreign = sorted(name for name in names if not name.lower().endswith(EXTENSIONS))
    problem = None
    if foreign:
        others = f" (and {len(foreign) - 1} more there)" if len(foreign) > 1 else ""
        kinds = " ".join(EXTENSIONS)
        problem = f"not a frame: {folder / foreign[0]}{others}; remove it, a video holds only {kinds}"
    elif not frames:
        problem = f"no frames in {folder}: remove the folder or extract the video again"
    return Video(printable(name), folder, frames), problem


def find_videos(directory: Path) -> list[Video]:
    """All videos in a folder of videos, in natural order. Opens no frame; 100,000 frames take about a second.

    Warns of frames whose order is uncertain. Raises InputError when there are no videos, a video without frames, a file
    among the frames that is not a picture, or a broken link.
    """
    videos = []
    for video, problem in scan(directory):
        if problem:
            raise InputError(problem)
        if ambiguous(video.frames):
            print(f"warning: {one_line(order_in_doubt(video))}", file=sys.stderr)
        videos.append(video)
    if not videos:
        raise InputError(f"no videos in {directory}: each video is a folder of frames there")
    return videos


def open_video(directory: Path) -> Video:
    """The frames of one video in any folder. Raises InputError for no frames, or a file that is not a picture."""
    video, problem = _scan_video(directory.resolve().name, directory)
    if problem:
        raise InputError(problem)
    return video


def order_in_doubt(video: Video) -> str:
    """A warning about a video whose frames are `ambiguous`."""
    return (
        f"the frames of {video.directory} are sorted as decimals, {video.frames[0]} first and {video.frames[-1]} "
        "last: if the digits after the point are a count, pad them with zeros"
    )
