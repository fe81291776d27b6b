"""The frames of a video file, a camera or a network stream, as they come and of their own size."""

import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import cv2

from utils import InputError

ANY_FPS = 25.0  # where neither the source nor the user tells
MOST_FPS = 1000.0  # headers may hold anything
PATIENCE = 10_000  # ms that a network stream may take to open, or to give the next frame


class Stream:
    """Iterated over once, it gives (picture, seconds) of each frame: uint8 (h, w, 3) BGR, and its time from the first.

    source: the path of a video file, the number of a camera, or an address such as rtsp://...; fps: frames a second
    instead of what the source says. Raises InputError where it does not open. Frames that end early are no error:
    `problem` then tells why, as a line. shown: what to call the source; name: the same, fit for a folder.
    """

    def __init__(self, source, fps=None):
        is_address, is_camera = "://" in source, source.isdecimal() and not Path(source).exists()
        if is_address:
            self.shown = self.name = _safe(source)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
            how, refusal = (source, cv2.CAP_FFMPEG, limits), "nothing answers there, or it is no video"
        elif is_camera:
            self.shown = self.name = f"camera-{source}"
            how, refusal = (int(source),), "it is not there, in use, or not permitted"
        else:
            self.shown, self.name = source, Path(source).stem
            if not Path(source).is_file():
                what = "is a folder, which is scored as a data set" if Path(source).is_dir() else "is not there"
                raise InputError(f"video {source} {what}: give a video file")
            how, refusal = (source,), "no video, cut short, or in a codec that OpenCV cannot read"
        with quiet():
            self.capture = cv2.VideoCapture(*how)
        if not self.capture.isOpened():
            raise InputError(f"cannot open {self.shown}: {refusal}")
        self.problem, self.count = None, 0  # count: frames so far
        announced = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.live = is_camera or (is_address and announced <= 0)
        if self.live:  # watching it again overwrites nothing
            self.name += time.strftime("-%Y%m%d-%H%M%S")
        self.announced = int(announced) if announced > 0 and not self.live else None  # frames, by the header
        said = self.capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps or (said if 0 < said <= MOST_FPS else ANY_FPS)

    def __iter__(self):
        size = None
        while True:
            with quiet():
                there, picture = self.capture.read()
            if not there:
                break
            now = time.monotonic()
            if size is None:
                size, start = picture.shape, now
            elif picture.shape != size:  # never by FFmpeg, where OpenCV scales all frames to the size of the first
                self.problem = (
                    f"{self.shown} changes from {_shape(size)} to {_shape(picture.shape)} at frame {self.count}"
                )
                return
            yield picture, now - start if self.live else self.count / self.fps
            self.count += 1
        if self.count == 0:
            self.problem = f"{self.shown} gives no frame"
        elif self.live:
            self.problem = (
                f"{self.shown} gave no more frames after {self.count}: switched off, or the connection dropped"
            )
        elif self.announced and self.count < 0.9 * self.announced:  # headers may be a few frames off
            self.problem = f"{self.shown} is cut short: {self.count} of {self.announced} frames can be read"

    def close(self):
        with quiet():
            self.capture.release()


def _safe(address):
    """An address as a name for messages and folders: without password, query and odd characters."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise InputError(f"not an address of a stream: {error}") from error
    return re.sub(r"[^\w.]+", "-", f"{parts.hostname}{parts.path}").strip("-.")


def _shape(size):
    return f"{size[1]}x{size[0]}"


@contextmanager
def quiet():
    """While inside, OpenCV does not print what goes wrong, on several lines: an InputError says it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when FFmpeg is used first
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5, OpenCV 4
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(level)
