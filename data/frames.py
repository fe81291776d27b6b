"""Frames on disk: find the videos of a data set, in order, and decode their frames.

    <dataset_path>/<dataset_type>/{training,testing}/frames/<video>/<frame>.{jpg,jpeg,png,bmp,tif,tiff}

Videos and frames are in natural order (2 before 10), so names may start anywhere, be unpadded or have gaps.
A decoded frame is uint8 (c, H, W), channels in OpenCV's order (BGR), or one channel of gray.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
LITTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind; hidden files are passed over too
PNG_END = b"IEND\xae\x42\x60\x82"


class FrameError(InputError):
    """A frame that cannot be decoded; the message names the file."""


class Video(NamedTuple):
    """The frames of one video, not decoded."""

    name: str
    directory: Path
    frames: tuple[str, ...]  # file names in natural order

    def path(self, index: int) -> Path:
        return self.directory / self.frames[index]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorting key that takes runs of digits as numbers: "2" before "10", "01_0014" before "01_0015"."""
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
    return [*parts, (2, 0, name)]  # the name itself comes last, so that "1" and "01" have one order everywhere


def split_directory(dataset_path: Path | str, dataset_type: str, split: str) -> Path:
    """The folder of videos of a split ("training" or "testing"). Raises InputError when it is not there."""
    dataset = Path(dataset_path) / dataset_type
    if not dataset.is_dir():
        raise InputError(
            f"no data set folder {dataset}: data/README.md says where to get it, `python -m data.prepare` builds it"
        )
    directory = dataset / split / "frames"
    if not directory.is_dir():
        raise InputError(f"no folder {directory}: the videos of a split are folders of frames there")
    return directory


def _visible(directory: os.PathLike[str] | str) -> list[os.DirEntry[str]]:
    return sorted(
        (e for e in os.scandir(os.fspath(directory)) if not e.name.startswith(".")), key=lambda e: natural_key(e.name)
    )


def scan(directory: Path | str) -> Iterator[tuple[Video, str | None]]:
    """Each video under a folder of videos in natural order, and what is wrong with it, or None: (Video, str | None)."""
    for folder in _visible(directory):
        if not folder.is_dir():
            continue
        names = [entry.name for entry in _visible(folder) if entry.name.lower() not in LITTER]
        foreign = [name for name in names if not name.lower().endswith(EXTENSIONS)]
        frames = tuple(name for name in names if name.lower().endswith(EXTENSIONS)) if foreign else tuple(names)
        problem = None
        if foreign:
            others = f" (and {len(foreign) - 1} more there)" if len(foreign) > 1 else ""
            kinds = " ".join(EXTENSIONS)
            problem = f"not a frame: {Path(folder.path) / foreign[0]}{others}; remove it, a video holds only {kinds}"
        elif not frames:
            problem = f"no frames in {folder.path}: remove the folder or extract the video again"
        yield Video(folder.name, Path(folder.path), frames), problem


def find_videos(directory: Path | str) -> list[Video]:
    """All videos under a folder of videos, in natural order. Opens no frame; 100,000 frames take about a second.

    Raises InputError: no videos, a video without frames, or a file among the frames that is not a picture.
    """
    videos = []
    for video, problem in scan(directory):
        if problem:
            raise InputError(problem)
        videos.append(video)
    if not videos:
        raise InputError(f"no videos in {directory}: each video is a folder of frames there")
    return videos


def _is_truncated(content: bytes) -> bool:
    """Whether the end of a JPEG or PNG, given as bytes, is missing; padding or anything else may follow the end.

    OpenCV 4 fills what is missing with gray and only warns, later ones refuse.
    """
    if content.startswith(b"\x89PNG"):
        return PNG_END not in content
    if not content.startswith(b"\xff\xd8"):
        return False
    # a thumbnail in the header has an end mark of its own, so the segments before the picture (ff da) are passed over
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        filler = content[place + 1 : place + 2] == b"\xff"
        place += 1 if filler else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content.find(b"\xff\xd9", place) < 0


def read_picture(path: Path | str, channels: int = 3) -> np.ndarray:
    """One frame as it is on disk, uint8 (h, w, 3) BGR, or (h, w) gray for one channel.

    Raises FrameError when the file is not there, truncated, or no picture.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise FrameError(f"cannot read frame {path}: {error.strerror}") from error
    truncated, image = _is_truncated(content.tobytes()), None
    if content.size and not truncated:
        with contextlib.suppress(cv2.error):  # a header that asks for an absurd size
            image = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    if image is None:
        what = "truncated" if truncated else "not a picture"
        raise FrameError(f"cannot decode frame {path}: {what}; extract it again, or skip its video (--bad_frames skip)")
    return image


def decode(path: Path | str, height: int, width: int, channels: int) -> np.ndarray:
    """Read one frame as uint8 (channels, height, width): colour BGR or gray, resized bilinearly as 8-bit.

    Raises FrameError as read_picture does.
    """
    return to_planes(read_picture(path, channels), height, width)


def to_planes(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture as OpenCV gives it, uint8 (h, w, c) or (h, w), resized -> uint8 (c, height, width)."""
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))
