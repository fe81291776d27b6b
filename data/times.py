"""The time of each frame: finding gaps, and the times stored beside the frames of a prepared video.

    <dataset_path>/<dataset_type>/{training,testing}/times/<video>.csv     frame,seconds

Seconds are presentation times, counted from the first frame of the video.
"""

import csv
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

import numpy as np

from data.frames import Video
from utils import InputError, write_text

HEADER = ["frame", "seconds"]
LONGEST_STEP = 2.0  # seconds
STEPS = 5  # how many usual steps make a gap in a recording with few frames per second


class Clock:
    """Places frames in time, and finds the gaps that no clip may span.

    A gap is a step of at least 2 seconds, and of at least 5 usual steps, which are longer below 2.5 frames per second.
    A step back in time is also a gap, and time then continues one such gap later, so that times never decrease. The
    usual step is the median of the last nine steps; step: the expected step at the start, in seconds.
    """

    def __init__(self, step: float):
        self.steps: deque[float] = deque(maxlen=9)
        self.step, self.shift = step, 0.0
        self.last: float | None = None
        self.timed = False  # whether the source has given a time

    def place(self, seconds: float | None, arrived: float | None = None) -> tuple[float, bool]:
        """The time of the next frame in the source, None if unknown -> (its time here, whether a gap precedes it).

        arrived: its time of arrival from a live source, which is used until the source gives a time.
        """
        usual = median_low(self.steps) if self.steps else self.step
        if seconds is None and not self.timed:
            seconds = arrived
        elif not self.timed:
            self.timed = True
            if self.last is not None and seconds is not None:  # continue from the frames without times
                now = self.last + usual if arrived is None else max(self.last, arrived + self.shift)
                self.shift = now - seconds
        if self.last is None:
            self.last, self.shift = 0.0, -(seconds or 0.0)
            return 0.0, False
        longest = max(LONGEST_STEP, STEPS * usual)
        now = self.last + usual if seconds is None else seconds + self.shift
        is_gap = now - self.last >= longest
        if now < self.last:
            later = self.last + longest + usual
            self.shift, now, is_gap = self.shift + later - now, later, True
        else:
            self.steps.append(now - self.last)
        self.last = now
        return now, is_gap


def gaps(seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which frames of a video follow a gap: (N,) seconds -> (N,) bool. No clip may span a gap."""
    clock = Clock(float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0)
    return np.array([clock.place(float(value))[1] for value in seconds], dtype=bool)


def gaps_of(video: Video) -> np.ndarray:
    """Which frames of a video follow a gap, (N,) bool, by their stored times. Raises InputError."""
    return gaps(read_times([video], fps=1)[0].seconds)  # frames counted at a constant rate have no gaps


def clip_ends(is_gap: np.ndarray, t_length: int) -> np.ndarray:
    """The indices (n,) of the frames at which a clip ends; is_gap: (N,) bool, whether a gap precedes a frame."""
    before = np.cumsum(is_gap)  # the number of gaps up to each frame
    first = t_length - 1
    return np.flatnonzero(before[first:] == before[: max(len(before) - first, 0)]) + first


def no_clip(frames: int, t_length: int) -> str:
    """Why a video with this many frames has no clip, for a message."""
    at_once = "" if frames < t_length else " without a gap in time"
    return f"{frames} frames, but a clip has {t_length}{at_once} (--t_length)"


def no_clips(where: object, t_length: int) -> str:
    """The message for a folder of videos that have no clip at all."""
    return f"no video in {where} has {t_length} consecutive frames without a gap in time (--t_length)"


class Times(NamedTuple):
    """The times of one video."""

    seconds: np.ndarray  # (N,) float64, from the first frame
    assumed: bool  # True: the times are unknown, and frames are counted at a rate given by the caller

    @property
    def fps(self) -> float | None:
        """The usual frames per second, 1 / median step; None for a single frame."""
        steps = np.diff(self.seconds)
        usual = float(np.median(steps)) if len(steps) else 0.0
        return 1 / usual if usual > 0 else None


def times_path(directory: Path) -> Path:
    """The file for the times of the video with its frames in `directory` (.../<split>/frames/<video>)."""
    return directory.parent.parent / "times" / f"{directory.name}.csv"


def write_times(path: Path, seconds: Sequence[float]) -> None:
    """Write the times of a video's frames; the file appears complete or not at all."""
    rows = "".join(f"{index},{value:.6f}\n" for index, value in enumerate(seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{','.join(HEADER)}\n{rows}")


def read_times(videos: Sequence[Video], fps: float) -> list[Times]:
    """The times of each video: those stored beside its frames, or else frames counted at `fps` per second.

    Raises InputError when a file of times is damaged, or does not fit the frames.
    """
    return [_read(times_path(video.directory), len(video.frames), fps) for video in videos]


def _read(path: Path, frames: int, fps: float) -> Times:
    if not path.exists():
        return Times(np.arange(frames) / fps, assumed=True)
    mend = "extract the video again (python -m data.prepare), or remove the file, so that a rate is assumed"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        seconds = np.array([float(value) for _, value in rows])
        if header != HEADER or not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
            raise ValueError("its lines must be frame,seconds, and seconds must not decrease")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read the times in {path}: {error}; {mend}") from error
    if len(seconds) != frames:
        raise InputError(f"{path} has the times of {len(seconds)} frames, but the video has {frames}: {mend}")
    return Times(seconds, assumed=False)
