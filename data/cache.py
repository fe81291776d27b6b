"""Frames decoded once and kept: a split is one memory-mapped 8-bit array, shared by workers and processes.

    <dataset_path>/<dataset_type>/.decoded/<split>-<height>x<width>x<channels>-<key>.npy     uint8 (N, c, H, W)

The key is a digest of what the frames are (names, sizes, times) and of how they are decoded, so a changed data set gets
another file. A cache is written under a temporary name and renamed when whole: a kill never leaves half of one.
"""

import errno
import hashlib
import itertools
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.frames import FrameError, decode

VERSION = 1  # of the cache's layout; another version is another key
DECODED_AT_ONCE = 256  # frames in memory while a cache is written


class DecodedFrames:
    """All frames of some videos as one array that decodes on access: frames[i:j] is uint8 (j - i, c, H, W)."""

    def __init__(self, videos, height, width, channels):
        self.videos = videos
        self.size = (height, width, channels)
        self.starts = np.cumsum([0] + [len(v.frames) for v in videos])
        self.shape = (int(self.starts[-1]), channels, height, width)

    def __getitem__(self, where):
        frames = []
        for index in range(where.start, where.stop):
            video = int(np.searchsorted(self.starts, index, side="right")) - 1
            frames.append(decode(self.videos[video].path(index - self.starts[video]), *self.size))
        return np.stack(frames)


class CachedFrames:
    """The same, read from a cache file. Each process maps the file when it first reads, so this pickles as a path."""

    def __init__(self, path):
        self.path = Path(path)
        self.shape = self._map().shape
        self.array = None

    def _map(self):
        return np.lib.format.open_memmap(self.path, mode="r")

    def __getitem__(self, where):
        if self.array is None:
            self.array = self._map()
        return self.array[where]

    def __getstate__(self):
        return {**self.__dict__, "array": None}


def fingerprint(videos, height, width, channels):
    """The key of a cache: a digest of the frames' names, sizes and times and of what decodes them."""
    digest = hashlib.sha256(f"{VERSION} {cv2.__version__} {height}x{width}x{channels}".encode())
    for video in videos:
        with os.scandir(video.directory) as entries:
            stats = {entry.name: entry.stat() for entry in entries}
        for name in video.frames:
            if name not in stats:
                raise FrameError(f"frame {video.directory / name} has vanished: start again when the data set is still")
            digest.update(f"{video.name}/{name} {stats[name].st_size} {stats[name].st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _decode_all(videos, height, width, channels):
    """Every frame in order, uint8 (c, H, W), decoded by all cores with a progress bar; few are in memory at a time."""
    paths = (video.path(i) for video in videos for i in range(len(video.frames)))
    total = sum(len(video.frames) for video in videos)
    # OpenCV releases the interpreter while it decodes, so threads are as fast as processes
    with ThreadPoolExecutor() as pool, tqdm(total=total, desc="decoding", unit="frame", leave=False) as bar:
        while some := list(itertools.islice(paths, DECODED_AT_ONCE)):
            for frame in pool.map(lambda path: decode(path, height, width, channels), some):
                yield frame
                bar.update()


def _build(path, key, videos, height, width, channels):
    """Write the cache file. Raises OSError when the disk is full or read-only; leaves nothing half-written."""
    count = sum(len(video.frames) for video in videos)
    needed, free = count * channels * height * width, shutil.disk_usage(path.parent).free
    if needed > 0.95 * free:
        raise OSError(errno.ENOSPC, f"it takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free")
    temporary = path.with_suffix(f".{os.getpid()}.part")  # another process may be at it too: the last one's stays
    try:
        with open(temporary, "wb") as file:
            shape = (count, channels, height, width)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            # written, not stored into a map: a disk that fills is then an error here and not a dead process
            for frame in _decode_all(videos, height, width, channels):
                file.write(frame)
            file.flush()
            os.fsync(file.fileno())
        if fingerprint(videos, height, width, channels) != key:
            raise FrameError(f"frames changed below {videos[0].directory.parent} while they were read: start again")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(path, prefix):
    """Remove earlier caches of the same split and size, and what a build killed an hour ago or more has left."""
    for other in path.parent.glob(prefix + "*"):
        left = other.suffix == ".part" and other.stat().st_mtime < time.time() - 3600
        if left or (other.suffix == ".npy" and other != path):
            other.unlink(missing_ok=True)


def open_frames(videos, split, height, width, channels, cache=None):
    """The frames of all videos, one after the other: an object with shape (N, c, H, W) whose slices are uint8 arrays.

    cache: the folder to keep decoded frames in; None is a hidden one beside the data; with False, or where the folder
    cannot be written, frames are decoded at each access. Raises FrameError for a frame that cannot be decoded.
    """
    decoded = DecodedFrames(videos, height, width, channels)
    if cache is False:
        return decoded
    beside_data = videos[0].directory.parents[2] / ".decoded"
    folder = Path(cache) if cache else beside_data
    prefix = f"{split}-{height}x{width}x{channels}-"
    key = fingerprint(videos, height, width, channels)
    path = folder / f"{prefix}{key}.npy"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _build(path, key, videos, height, width, channels)
            if folder == beside_data:  # a folder the user named may serve other data sets
                _remove_stale(path, prefix)
        frames = CachedFrames(path)
        if frames.shape != decoded.shape:
            raise ValueError(f"shape {frames.shape} instead of {decoded.shape}")
        return frames
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        print(
            f"warning: no cache in {folder} ({why}): frames are decoded each time; --cache_dir may help",
            file=sys.stderr,
        )
        return decoded


def without_bad_videos(videos, height, width, channels):
    """The videos whose frames can all be decoded; the others are named in a warning (for --bad_frames skip)."""
    good = []
    for video in videos:
        try:
            for _ in _decode_all([video], height, width, channels):
                pass
            good.append(video)
        except FrameError as error:
            print(f"warning: video {video.name} is skipped: {error}", file=sys.stderr)
    return good
