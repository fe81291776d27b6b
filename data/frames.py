"""Frames on disk: find the videos of a data set, in order, and decode their frames.

    <dataset_path>/<dataset_type>/{training,testing}/frames/<video>/<frame>.{jpg,jpeg,png,bmp,tif,tiff}

Videos and frames are in natural order (2 before 10), so names may start anywhere, be unpadded or have gaps.
A decoded frame is uint8 (c, H, W), channels in OpenCV's order (BGR), or one channel of gray.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
LITTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind; hidden files are passed over too
END_MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # how a whole JPEG or PNG starts and ends


class FrameError(InputError):
    """A frame that cannot be decoded; the message names the file."""


class Video(NamedTuple):
    """The frames of one video, not decoded."""

    name: str
    directory: Path
    frames: tuple  # file names in natural order

    def path(self, index):
        return self.directory / self.frames[index]


def natural_key(name):
    """Sorting key that takes runs of digits as numbers: "2" before "10", "01_0014" before "01_0015"."""
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
    return [*parts, (2, 0, name)]  # the name itself comes last, so that "1" and "01" have one order everywhere


def split_directory(dataset_path, dataset_type, split):
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


def _visible(directory):
    return sorted((e for e in os.scandir(directory) if not e.name.startswith(".")), key=lambda e: natural_key(e.name))


def find_videos(directory):
    """All videos under a folder of videos, in natural order. Opens no frame; 100,000 frames take about a second.

    Raises InputError: no videos, a video without frames, or a file among the frames that is not a picture.
    """
    videos = []
    for folder in _visible(directory):
        if not folder.is_dir():
            continue
        names = [entry.name for entry in _visible(folder) if entry.name.lower() not in LITTER]
        for name in names:
            if not name.lower().endswith(EXTENSIONS):
                kinds = " ".join(EXTENSIONS)
                raise InputError(f"not a frame: {Path(folder.path) / name}; remove it, a video holds only {kinds}")
        if not names:
            raise InputError(f"no frames in {folder.path}: remove the folder or extract the video again")
        videos.append(Video(folder.name, Path(folder.path), tuple(names)))
    if not videos:
        raise InputError(f"no videos in {directory}: each video is a folder of frames there")
    return videos


def decode(path, height, width, channels):
    """Read one frame as uint8 (channels, height, width): colour BGR or gray, resized bilinearly as 8-bit.

    Raises FrameError when the file is not there, truncated, or no picture.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise FrameError(f"cannot read frame {path}: {error.strerror}") from error
    # OpenCV fills what is missing of a truncated file with gray and only warns, so the end mark is looked for here
    start, end = content[:4].tobytes(), content[-64:].tobytes()
    truncated = any(start.startswith(magic) and mark not in end for magic, mark in END_MARKS)
    image = None
    if content.size and not truncated:
        image = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    if image is None:
        what = "truncated" if truncated else "not a picture"
        raise FrameError(f"cannot decode frame {path}: {what}; extract it again, or skip its video (--bad_frames skip)")
    return to_planes(image, height, width)


def to_planes(image, height, width):
    """A picture as OpenCV gives it, uint8 (h, w, c) or (h, w), resized -> uint8 (c, height, width)."""
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))
