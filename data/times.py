"""When each frame was taken: gaps in time, and the times that are kept beside the frames of a prepared video.

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
STEPS = 5  # how many usual steps may be missing in a slow recording before that is a gap


class Clock:
    """Places frames in time, and finds the gaps that no clip may span.

    A gap is a step of at least 2 seconds or, in a recording of few frames per second, of at least 5 usual steps,
    whichever is longer; and any step back in time, after which time goes on one such gap later: times only grow.
    The usual step is the median of the last nine steps; step: seconds, the one that is expected at the start.
    """

    def __init__(self, step: float):
        self.steps: deque[float] = deque(maxlen=9)
        self.step, self.shift = step, 0.0
        self.last: float | None = None
        self.timed = False  # whether the source has given a time

    def place(self, seconds: float | None, arrived: float | None = None) -> tuple[float, bool]:
        """The time of the next frame by the source (None: not known) -> (its time here, whether a gap is before it).

        arrived: when a live source gave it, by another clock, which counts until the source has given a time.
        """
        usual = median_low(self.steps) if self.steps else self.step
        if seconds is None and not self.timed:
            seconds = arrived
        elif not self.timed:
            self.timed = True
            if self.last is not None and seconds is not None:  # it goes on from the frames that had no time
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
    """Which frames of a video have a gap before them: (N,) seconds -> (N,) bool. No clip may span one."""
    clock = Clock(float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0)
    return np.array([clock.place(float(value))[1] for value in seconds], dtype=bool)


def gaps_of(video: Video) -> np.ndarray:
    """Which frames of a video have a gap before them, (N,) bool, by the times kept beside them. Raises InputError."""
    return gaps(read_times([video], fps=1)[0].seconds)  # frames that are counted at a rate have none


def clip_ends(is_gap: np.ndarray, t_length: int) -> np.ndarray:
    """The frames of a video that a clip ends with: (N,) bool, whether a gap is before a frame -> (n,) indices."""
    before = np.cumsum(is_gap)  # how many gaps are before a frame or right at it
    first = t_length - 1
    return np.flatnonzero(before[first:] == before[: max(len(before) - first, 0)]) + first


class Times(NamedTuple):
    """The times of one video."""

    seconds: np.ndarray  # (N,) float64, from the first frame
    assumed: bool  # True: nothing is known, and the frames are counted at a rate that the caller gave

    @property
    def fps(self) -> float | None:
        """The usual number of frames per second, 1 / median step; None for a single frame."""
        steps = np.diff(self.seconds)
        usual = float(np.median(steps)) if len(steps) else 0.0
        return 1 / usual if usual > 0 else None


def times_path(directory: Path) -> Path:
    """Where the times of the video are whose frames are in `directory` (.../<split>/frames/<video>)."""
    return directory.parent.parent / "times" / f"{directory.name}.csv"


def write_times(path: Path, seconds: Sequence[float]) -> None:
    """Write the times of a video's frames; the file appears whole or not at all."""
    rows = "".join(f"{index},{value:.6f}\n" for index, value in enumerate(seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{','.join(HEADER)}\n{rows}")


def read_times(videos: Sequence[Video], fps: float) -> list[Times]:
    """The times of each video: those kept beside its frames, else frames counted at `fps` per second.

    Raises InputError when a file of times is broken or is not of the frames that are there.
    """
    return [_read(times_path(video.directory), len(video.frames), fps) for video in videos]


def _read(path: Path, frames: int, fps: float) -> Times:
    if not path.exists():
        return Times(np.arange(frames) / fps, assumed=True)
    mend = "extract the video again (python -m data.prepare), or remove the file to have a rate assumed"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        seconds = np.array([float(value) for _, value in rows])
        if header != HEADER or not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
            raise ValueError("its lines must be frame,seconds, and seconds must not fall")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read the times in {path}: {error}; {mend}") from error
    if len(seconds) != frames:
        raise InputError(f"{path} has the times of {len(seconds)} frames, but the video has {frames}: {mend}")
    return Times(seconds, assumed=False)
