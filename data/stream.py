"""The frames of a video file, a camera or a network stream, as they arrive and at their original size."""

import os
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
from tqdm import tqdm

from data.frames import printable
from data.pace import Pace
from data.reader import ANY_FPS, MOST_FPS, Decoded, Reader
from data.times import Clock
from utils import InputError

WAITING = 32  # the most frames of a live source that may wait for the consumer
LONGEST_PAUSE = 15.0  # seconds between two attempts to open a source again
CORRUPT_SECONDS = 10.0  # a live source that gives only corrupt frames for so long has dropped
CAMERA_DIGITS = 3  # of the highest number of a camera; longer ones are the names of recordings
NAME_BYTES = 100  # of an address; a folder's name has at most 255, and more is added to this


@dataclass(frozen=True)
class Frame:
    """One frame of a stream."""

    index: int  # counted from 0 over all frames of the source, including those of a live source that are left out
    seconds: float  # presentation time since the first frame; it never decreases
    picture: np.ndarray  # uint8 (h, w, 3) BGR, upright
    gap: bool  # no clip may contain both this frame and the previous one
    scored: bool  # False: the frame only serves the clips of later frames, because scoring is slower than the source
    captured: float | None  # time.time() at which it came from a live source; None for a file


class Stream:
    """Iterates once over the Frames of a source.

    source: the path of a video file, the number of a camera, or an address such as rtsp://...; fps: frames per second
    to use instead of the source's own (for a file, times are then counted at this rate); patience: seconds during which
    a live source that has dropped is reopened. Raises InputError when the source cannot be opened. Ending early is no
    error: `problem` then says why, in one line. shown: the source's name for messages; name: its name for a folder.

    A thread reads a live source. Clips need frames at the interval with which the model was trained. So if scoring is
    slower than the source, every frame is still given, but only every n-th is to be scored (Frame.scored). Frames are
    left out completely, with a gap, if the consumer pauses for longer, or if the decoder marks them as corrupt. A
    source that gives nothing else for a while is treated as one that has dropped.
    """

    def __init__(self, source: str, fps: float | None = None, patience: float = 60.0):
        self.source, self.patience = source, patience
        self.is_address = "://" in source
        self.is_camera = source.isdecimal() and len(source) <= CAMERA_DIGITS and not Path(source).exists()
        if self.is_address:
            self.shown = self.name = _safe(source)
        elif self.is_camera:
            self.shown = self.name = f"camera-{source}"
        else:
            self.shown, self.name = printable(source), printable(Path(source).stem)
            if not Path(source).is_file():
                what = "is a folder, which is scored as a data set" if Path(source).is_dir() else "does not exist"
                what = what if not Path(source).exists() or Path(source).is_dir() else "is a pipe or a device"
                raise InputError(f"video {self.shown} {what}: give a video file")
        self.reader = self._open()
        self.live = self.reader.live
        if self.live:  # so that watching it again overwrites nothing
            self.name += time.strftime("-%Y%m%d-%H%M%S")
        self.given_fps, self.fps = fps, fps or self.reader.fps
        duration = self.reader.duration
        # approximate number of frames
        self.announced = round(duration * self.fps) if duration and not self.live else None
        self.problem: str | None = None
        self.count = 0  # frames that the source has given so far
        self.dropped = 0  # frames of a live source that were not scored or were left out
        self.corrupt = 0  # frames left out because the decoder marks them
        self.latest = 0.0  # the time of the newest frame of a live source
        self.behind = 0.0  # the longest delay of scoring behind a live source, in seconds
        # (width, height) as stored; a file may say that its pictures are to be turned
        self.size: tuple[int, int] = self.reader.size
        self.shape: tuple[int, ...] | None = None  # of the first picture
        self.changed = threading.Condition()  # guards those below
        self.queue: deque[tuple[float, Frame]] = deque()  # with the time.monotonic() of its arrival
        self.gap = self.overflowed = self.ended = self.stopped = False
        self.has_reported = False  # how many frames were left out
        self.thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Frame]:
        return self._live_frames() if self.live else self._file_frames()

    def waiting(self) -> bool:
        """Whether a frame of a live source is available now."""
        return bool(self.queue)

    def stop(self) -> None:
        """Give no more frames. A signal handler may call it."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def close(self) -> None:
        """End the stream at once; only a network read without an answer may last a few seconds more."""
        self.stop()
        if self.thread is None:
            self.reader.close()
        else:
            self.thread.join(timeout=2)  # the thread closes its source
        if self.has_reported:
            return
        self.has_reported = True
        if self.corrupt:
            tqdm.write(f"{self.shown}: {self.corrupt} of {self.count} frames were corrupt and were left out")
        if self.dropped:
            tqdm.write(
                f"{self.shown}: {self.dropped} of {self.count} frames were not scored; scoring was at most "
                f"{self.behind:.1f} s behind"
            )

    def _open(self) -> "Reader | _Camera":
        try:
            return _Camera(int(self.source)) if self.is_camera else Reader(self.source, network=self.is_address)
        except InputError as error:
            raise InputError(f"cannot open {self.shown}: {error}") from error

    def _same_size(self, picture: np.ndarray) -> bool:
        self.shape = self.shape or picture.shape
        if picture.shape != self.shape:
            self.problem = (
                f"{self.shown} changes from {_shape(self.shape)} to {_shape(picture.shape)} at frame {self.count}"
            )
        return picture.shape == self.shape

    # A file -----------------------------------------------------------------------------------------------------------

    def _file_frames(self) -> Iterator[Frame]:
        clock, jumps = Clock(1 / self.fps), []
        for decoded in self.reader:
            if self.stopped or not self._same_size(decoded.picture):
                return
            seconds, gap = clock.place(self.count / self.fps if self.given_fps else decoded.seconds)
            if gap:
                jumps.append(self.count)
                if len(jumps) == 1:
                    tqdm.write(
                        f"{self.shown}: its time jumps to {seconds:.2f} s at frame {self.count}; no clip spans that "
                        "or a later jump"
                    )
            yield Frame(self.count, seconds, decoded.picture, gap, True, None)
            self.count += 1
        if problem := self.reader.problem():
            self.problem = f"{self.shown} {problem}"

    # A live source ----------------------------------------------------------------------------------------------------

    def _live_frames(self) -> Iterator[Frame]:
        """The frames that the thread queues. Where scoring is too slow for all of them, some are not to be scored."""
        self.thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self.thread.start()
        pace, has_warned = Pace(WAITING), False
        while True:
            with self.changed:
                while not (self.queue or self.ended or self.stopped):
                    # signals are handled between two waits, even if another thread receives them
                    self.changed.wait(0.2)
                if self.stopped or not self.queue:
                    return
                waiting, lost, self.overflowed = len(self.queue), self.overflowed, False
                arrived, frame = self.queue.popleft()
            late = time.monotonic() - arrived
            self.behind = max(self.behind, late)
            scored = pace.is_scored(waiting, lost)
            if pace.every > 1 and not has_warned:
                has_warned = True
                tqdm.write(
                    f"warning: scoring is slower than {self.shown}: it is {late:.1f} s behind after {frame.index} "
                    "frames, so at most every 2nd frame is scored from now on; clips keep the frame rate. The number "
                    "of frames left out is given at the end"
                )
            self.dropped += not scored
            yield replace(frame, scored=scored)

    def _read(self) -> None:
        """The reading thread: queues the frames of the source, and reopens a source that has dropped."""
        start, last = None, time.monotonic()  # when the first frame and the newest one that is not corrupt came
        reader: Reader | _Camera | None = self.reader
        try:
            while reader is not None and not self.stopped and not self.problem:
                clock = Clock(1 / self.fps)
                opened, first_of_connection, reason = time.monotonic(), True, "no more frames came"
                lost_at = last if self.count else None
                for decoded in reader:
                    now = time.monotonic()
                    start = now if start is None else start
                    if first_of_connection:
                        # a source that runs faster than real time continues where it was
                        offset = max(now - start, self.latest + 1 / self.fps) if self.count else 0.0
                        first_of_connection = False
                    if not decoded.corrupt:
                        if lost_at is not None:
                            tqdm.write(f"{self.shown} is back after {now - lost_at:.0f} s")
                        last, lost_at = now, None
                    elif now - max(last, opened) >= CORRUPT_SECONDS:
                        reason = f"all frames of the last {CORRUPT_SECONDS:g} s are corrupt"
                        break
                    if self.stopped or not self._same_size(decoded.picture):
                        break
                    self._put(decoded, clock, offset, now - start)
                reason = getattr(reader, "error", None) or reason
                reader.close()
                reader = None if self.stopped or self.problem else self._open_again(last, reason)
        except Exception as error:  # any error must reach the consumer, which is waiting
            self.problem = f"{self.shown} cannot be read further: {type(error).__name__}: {error}"
        finally:
            if reader is not None:
                reader.close()
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _put(self, decoded: Decoded, clock: Clock, offset: float, arrived: float) -> None:
        """Queue a frame. If the queue is full, because the consumer has paused, the oldest frames are left out."""
        seconds, jumps = clock.place(decoded.seconds, arrived - offset)
        if jumps:
            tqdm.write(
                f"{self.shown}: its time jumps to {offset + seconds:.2f} s at frame {self.count}; no clip spans it"
            )
        with self.changed:
            self.gap = self.gap or jumps
            if decoded.corrupt:
                self.corrupt, self.gap = self.corrupt + 1, True
            else:
                if len(self.queue) == WAITING:
                    self.dropped += WAITING
                    self.queue.clear()
                    self.gap = self.overflowed = True
                self.latest = offset + seconds
                frame = Frame(self.count, self.latest, decoded.picture, self.gap, True, time.time())
                self.queue.append((time.monotonic(), frame))
                self.gap = False
            self.count += 1
            self.changed.notify_all()

    def _open_again(self, last: float, reason: str) -> "Reader | _Camera | None":
        """Try to reopen the source for `patience` seconds after its last frame; None if that fails."""
        what = f"{self.shown} dropped after {self.count} frames ({reason})"
        if self.patience > 0:
            tqdm.write(f"{what}: trying to reopen it for {self.patience:g} s")
        pause = 1.0
        with self.changed:
            self.gap = True
        while (left := last + self.patience - time.monotonic()) > 0:
            with self.changed:
                if self.changed.wait_for(lambda: self.stopped, timeout=min(pause, left)):
                    return None
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                return self._open()
            except InputError as error:
                reason = str(error)
        self.problem = f"{what} and did not come back within {self.patience:g} s: {reason}"
        return None


class _Camera:
    """A camera of this machine, with the interface of data.reader.Reader; its times are the times of arrival."""

    duration, error, live = None, None, True

    def __init__(self, number: int):
        with quiet():
            self.capture = cv2.VideoCapture(number)
            said = self.capture.get(cv2.CAP_PROP_FPS)
            width, height = map(self.capture.get, (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not self.capture.isOpened():
            raise InputError("it does not exist, is in use, or is not permitted")
        self.size = int(width), int(height)
        self.fps = said if 0 < said <= MOST_FPS else ANY_FPS

    def __iter__(self) -> Iterator[Decoded]:
        while True:
            with quiet():
                there, picture = self.capture.read()
            if not there:
                return
            yield Decoded(None, picture, corrupt=False)

    def problem(self) -> str | None:
        return None

    def close(self) -> None:
        with quiet():
            self.capture.release()


def _safe(address: str) -> str:
    """An address as a name for messages and folders, without password, query and special characters."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise InputError(f"not an address of a stream: {error}") from error
    name = re.sub(r"[^\w.]+", "-", f"{parts.hostname}{parts.path}").strip("-.")
    content = name.encode()
    if len(content) <= NAME_BYTES:
        return name
    return f"{content[:NAME_BYTES].decode(errors='ignore')}-{zlib.crc32(content):08x}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, OpenCV prints no error messages, because an InputError reports the error in one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, at the first use of FFmpeg
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5, OpenCV 4
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(level)
