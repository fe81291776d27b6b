"""The frames of a video file, a camera or a network stream, as they come and of their own size."""

import os
import re
import threading
import time
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
from data.reader import ANY_FPS, MOST_FPS, Decoded, Reader
from data.times import Clock
from utils import InputError

WAITING = 32  # frames of a live source that wait for the consumer at most
LONGEST_PAUSE = 15.0  # seconds between two attempts to open a source again


@dataclass(frozen=True)
class Frame:
    """One frame of a stream."""

    index: int  # counted from 0 over all frames of the source; live, those that were left out are counted too
    seconds: float  # presentation time from the first frame; it only grows
    picture: np.ndarray  # uint8 (h, w, 3) BGR, upright
    gap: bool  # no clip may hold this frame and the one before it
    scored: bool  # False: this frame only completes the clips of later frames, as scoring is slower than the source
    captured: float | None  # wall-clock time (time.time()) at which a live source gave it, None for a file


class Stream:
    """Iterated over once, it gives each Frame of a source.

    source: the path of a video file, the number of a camera, or an address such as rtsp://...; fps: frames per second
    instead of what the source says (for a file, times are then counted at this rate); patience: seconds for which a
    live source that dropped is opened again. Raises InputError where it does not open. Frames that end early are no
    error: `problem` then says why, as a line. shown: what to call the source; name: the same, fit for a folder.

    A live source is read by a thread. Clips need frames at the step that the model was trained at, so where scoring is
    slower than the source every frame is still given, but only every n-th is to be scored (Frame.scored). Frames are
    left out altogether, with a gap, where the consumer stops for longer, and where the decoder marks them as corrupt.
    """

    def __init__(self, source: str, fps: float | None = None, patience: float = 60.0):
        self.source, self.patience = source, patience
        self.is_address = "://" in source
        self.is_camera = source.isdecimal() and not Path(source).exists()
        if self.is_address:
            self.shown = self.name = _safe(source)
        elif self.is_camera:
            self.shown = self.name = f"camera-{source}"
        else:
            self.shown, self.name = printable(source), printable(Path(source).stem)
            if not Path(source).is_file():
                what = "is a folder, which is scored as a data set" if Path(source).is_dir() else "is not there"
                what = what if not Path(source).exists() or Path(source).is_dir() else "is a pipe or a device"
                raise InputError(f"video {self.shown} {what}: give a video file")
        self.reader = self._open()
        self.live = self.reader.live
        if self.live:  # watching it again overwrites nothing
            self.name += time.strftime("-%Y%m%d-%H%M%S")
        self.given_fps, self.fps = fps, fps or self.reader.fps
        duration = self.reader.duration
        self.announced = round(duration * self.fps) if duration and not self.live else None  # frames, roughly
        self.problem: str | None = None
        self.count = 0  # frames that the source gave so far
        self.dropped = 0  # frames of a live source that were not to be scored, or left out
        self.corrupt = 0  # frames left out since the decoder marks them
        self.latest = 0.0  # the time of the newest frame of a live source
        self.behind = 0.0  # seconds, the most that scoring was behind a live source
        self.size: tuple[int, ...] | None = None
        self.changed = threading.Condition()  # guards the four below
        self.queue: deque[Frame] = deque()
        self.gap = self.ended = self.stopped = False
        self.thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Frame]:
        return self._live_frames() if self.live else self._file_frames()

    def waiting(self) -> bool:
        """Whether a frame of a live source can be taken at once."""
        return bool(self.queue)

    def stop(self) -> None:
        """Give no more frames from here on. A signal handler may call it."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def close(self) -> None:
        """End the stream: promptly, but a network read that gets no answer ends by itself within seconds."""
        self.stop()
        if self.thread is None:
            self.reader.close()
        else:
            self.thread.join(timeout=2)  # it closes what it reads from
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
        self.size = self.size or picture.shape
        if picture.shape != self.size:
            self.problem = (
                f"{self.shown} changes from {_shape(self.size)} to {_shape(picture.shape)} at frame {self.count}"
            )
        return picture.shape == self.size

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
        """What the thread puts into the queue. Every n-th frame is to be scored; n grows and falls with the queue."""
        self.thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self.thread.start()
        every, since_scored, since_change, fullest = 1, 0, 0, 0
        while True:
            with self.changed:
                while not (self.queue or self.ended or self.stopped):
                    self.changed.wait(0.2)  # a signal that another thread takes is handled between two waits
                if self.stopped or not self.queue:
                    return
                waiting = len(self.queue)
                frame = self.queue.popleft()
            late = time.time() - (frame.captured or 0.0)
            self.behind = max(self.behind, late)
            since_scored, since_change, fullest = since_scored + 1, since_change + 1, max(fullest, waiting)
            if waiting > WAITING // 2 and since_change >= WAITING // 4:
                every, since_change, fullest = every + 1, 0, 0
                if not self.dropped:
                    tqdm.write(
                        f"warning: scoring is slower than {self.shown}: it is {late:.1f} s behind after "
                        f"{frame.index} frames, so only every {every}nd frame or fewer are scored from here; "
                        "their clips keep the frame rate. The number left out is given at the end"
                    )
            elif every > 1 and since_change >= 8 * WAITING and fullest <= WAITING // 4:
                every, since_change, fullest = every - 1, 0, 0
            elif since_change >= 8 * WAITING:
                since_change, fullest = 0, 0
            scored = since_scored >= every
            since_scored = 0 if scored else since_scored
            self.dropped += not scored
            yield replace(frame, scored=scored)

    def _read(self) -> None:
        """The reading thread: everything that the source gives, and a source that drops is opened again."""
        start, last = None, time.monotonic()  # when the first frame and the newest came
        reader: Reader | _Camera | None = self.reader
        try:
            while reader is not None and not self.stopped and not self.problem:
                clock = Clock(1 / self.fps)
                lost_at, first_of_connection = last, True
                for decoded in reader:
                    now = time.monotonic()
                    start = now if start is None else start
                    if first_of_connection:
                        # a source that comes faster than time itself goes on where it was
                        offset = max(now - start, self.latest + 1 / self.fps) if self.count else 0.0
                        if offset:
                            tqdm.write(f"{self.shown} is back after {now - lost_at:.0f} s")
                        first_of_connection = False
                    last = now
                    if self.stopped or not self._same_size(decoded.picture):
                        break
                    self._put(decoded, clock, offset, now - start)
                reason = getattr(reader, "error", None) or "no more frames came"
                reader.close()
                reader = None if self.stopped or self.problem else self._open_again(last, reason)
        except Exception as error:  # whatever happens here must reach the consumer, which waits
            self.problem = f"{self.shown} cannot be read further: {type(error).__name__}: {error}"
        finally:
            if reader is not None:
                reader.close()
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _put(self, decoded: Decoded, clock: Clock, offset: float, arrived: float) -> None:
        """Queue a frame. The oldest are left out where the queue is full: the consumer has stopped for long."""
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
                    self.gap = True
                self.latest = offset + seconds
                self.queue.append(Frame(self.count, self.latest, decoded.picture, self.gap, True, time.time()))
                self.gap = False
            self.count += 1
            self.changed.notify_all()

    def _open_again(self, last: float, reason: str) -> "Reader | _Camera | None":
        """Try to open the source for `patience` seconds after its last frame; None when it stays away."""
        what = f"{self.shown} dropped after {self.count} frames ({reason})"
        if self.patience > 0:
            tqdm.write(f"{what}: trying to open it again for {self.patience:g} s")
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
    """A camera of this machine, read as data.reader.Reader reads a file; its times are those of arrival."""

    duration, error, live = None, None, True

    def __init__(self, number: int):
        with quiet():
            self.capture = cv2.VideoCapture(number)
            said = self.capture.get(cv2.CAP_PROP_FPS)
        if not self.capture.isOpened():
            raise InputError("it is not there, in use, or not permitted")
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
    """An address as a name for messages and folders: without password, query and odd characters."""
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise InputError(f"not an address of a stream: {error}") from error
    return re.sub(r"[^\w.]+", "-", f"{parts.hostname}{parts.path}").strip("-.")


def _shape(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


@contextmanager
def quiet() -> Iterator[None]:
    """While inside, OpenCV does not print what goes wrong, on several lines: an InputError says it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when FFmpeg is used first
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5, OpenCV 4
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(level)
