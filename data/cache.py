"""Frames decoded once and kept: a split is one memory-mapped 8-bit array, shared by workers and processes.

    <dataset_path>/<dataset_type>/.decoded/<split>-<height>x<width>x<channels>-<key>.npy     uint8 (N, c, H, W)

The key is a digest of what the frames are (names, sizes, times) and of how they are decoded, so a changed data set gets
another file. A cache is written under a temporary name and renamed when whole: a kill never leaves half of one.
In a folder the user names, the file's name starts with the data set's and a digest of its path: several can share it.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from data.frames import FrameError, Video, decode
from utils import InputError

VERSION = 1  # of the cache's layout; another version is another key
DECODED_AT_ONCE = 256  # frames in memory while a cache is written


class Cache(NamedTuple):
    """Whether decoded frames are kept, and where."""

    folder: Path | None = None  # None: a hidden one beside the data
    is_on: bool = True


KEPT, NO_CACHE = Cache(), Cache(is_on=False)


class DecodedFrames:
    """All frames of some videos as one array that decodes on access: frames[i:j] is uint8 (j - i, c, H, W)."""

    def __init__(self, videos: list[Video], height: int, width: int, channels: int) -> None:
        self.videos = videos
        self.size = (height, width, channels)
        self.starts = np.cumsum([0] + [len(v.frames) for v in videos])
        self.shape = (int(self.starts[-1]), channels, height, width)

    def __getitem__(self, where: slice) -> np.ndarray:
        frames = []
        for index in range(where.start, where.stop):
            video = int(np.searchsorted(self.starts, index, side="right")) - 1
            frames.append(decode(self.videos[video].path(index - self.starts[video]), *self.size))
        return np.stack(frames)


class CachedFrames:
    """The same, read from a cache file. Each process maps the file when it first reads, so this pickles as a path."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.shape = self._map().shape
        self.array: np.ndarray | None = None

    def _map(self) -> np.ndarray:
        return np.lib.format.open_memmap(self.path, mode="r")

    def __getitem__(self, where: slice) -> np.ndarray:
        if self.array is None:
            self.array = self._map()
        return self.array[where]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": None}


def fingerprint(videos: list[Video], height: int, width: int, channels: int) -> str:
    """The key of a cache: a digest of the frames' names, sizes and times and of what decodes them."""
    digest = hashlib.sha256(f"{VERSION} {cv2.__version__} {height}x{width}x{channels}".encode())
    for video in videos:
        entries = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(video.directory) as found:
            entries = {entry.name: entry for entry in found}
        for name in video.frames:
            try:
                stat = entries[name].stat()
            except (KeyError, FileNotFoundError) as error:
                path = video.directory / name
                raise FrameError(f"no frame {path} (any more): start again when the data set is still") from error
            digest.update(f"{video.name}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _decode_all(videos: list[Video], height: int, width: int, channels: int) -> Generator[np.ndarray, None, None]:
    """Every frame in order, uint8 (c, H, W), decoded by all cores with a progress bar; few are in memory at a time."""
    paths = (video.path(i) for video in videos for i in range(len(video.frames)))
    total = sum(len(video.frames) for video in videos)
    # OpenCV releases the interpreter while it decodes, so threads are as fast as processes
    with ThreadPoolExecutor() as pool, tqdm(total=total, desc="decoding", unit="frame", leave=False) as bar:
        while some := list(itertools.islice(paths, DECODED_AT_ONCE)):
            for frame in pool.map(lambda path: decode(path, height, width, channels), some):
                yield frame
                bar.update()


def _build(path: Path, key: str, videos: list[Video], height: int, width: int, channels: int) -> None:
    """Write the cache file. Raises OSError when the disk is full or read-only; leaves nothing half-written."""
    count = sum(len(video.frames) for video in videos)
    needed, free = count * channels * height * width, shutil.disk_usage(path.parent).free
    if needed > 0.95 * free:
        raise OSError(errno.ENOSPC, f"it takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free")
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.part")  # others may be at it too: the last one's stays
    try:
        frames = _decode_all(videos, height, width, channels)
        with open(temporary, "wb") as file, contextlib.closing(frames):  # so that an error ends the progress bar first
            shape = (count, channels, height, width)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            # written, not stored into a map: a disk that fills is then an error here and not a dead process
            for frame in frames:
                file.write(frame.data)
            file.flush()
            os.fsync(file.fileno())
        if fingerprint(videos, height, width, channels) != key:
            raise FrameError(f"frames changed below {videos[0].directory.parent} while they were read: start again")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove(folder: Path, prefix: str, suffix: str, age: float = 0, keep: Path | None = None) -> None:
    """Remove the files of a folder named <prefix>...<suffix> and written `age` seconds ago or more, except `keep`."""
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path.suffix == suffix and path != keep:
            with contextlib.suppress(OSError):  # gone already, or in use on a system that does not remove such files
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()


def _open_cache(path: Path, shape: tuple[int, ...]) -> CachedFrames | None:
    """The frames in a cache file, or None where no file is there that holds frames of this shape."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        frames = CachedFrames(path)
        if frames.shape == shape:
            return frames
    return None


def open_frames(
    videos: list[Video],
    split: str,
    height: int,
    width: int,
    channels: int,
    cache: Cache = KEPT,
) -> DecodedFrames | CachedFrames:
    """The frames of all videos, one after the other: an object with shape (N, c, H, W) whose slices are uint8 arrays.

    Where the folder of the cache cannot be written, frames are decoded at each access, as without a cache. Raises
    FrameError for a frame that cannot be decoded.
    """
    decoded = DecodedFrames(videos, height, width, channels)
    if not cache.is_on:
        return decoded
    beside_data = videos[0].directory.parents[2] / ".decoded"
    folder = cache.folder or beside_data
    prefix = f"{split}-{height}x{width}x{channels}-"
    if folder != beside_data:  # it may serve other data sets, whose frames may have the same names, sizes and times
        dataset = beside_data.parent.resolve()
        prefix = f"{dataset.name}-{hashlib.sha256(str(dataset).encode()).hexdigest()[:8]}-{prefix}"
    key = fingerprint(videos, height, width, channels)
    path = folder / f"{prefix}{key}.npy"
    try:
        frames = _open_cache(path, decoded.shape)
        if frames is None:
            folder.mkdir(parents=True, exist_ok=True)
            _remove(folder, prefix, ".part", age=3600)  # of killed builds; first, for their space may be needed
            _build(path, key, videos, height, width, channels)
            _remove(folder, prefix, ".npy", keep=path)  # earlier ones of this split and size
            frames = CachedFrames(path)
        return frames
    except OSError as error:
        print(
            f"warning: no cache in {folder} ({error.strerror}): frames are decoded each time; --cache_dir may help",
            file=sys.stderr,
        )
        return decoded


def without_bad_videos(videos: list[Video], height: int, width: int, channels: int) -> list[Video]:
    """The videos whose frames can all be decoded; the others are named in a warning (for --bad_frames skip).

    Raises InputError when none is left.
    """
    good = []
    for video in videos:
        try:
            for _ in _decode_all([video], height, width, channels):
                pass
            good.append(video)
        except FrameError as error:
            print(f"warning: video {video.name} is skipped: {error}", file=sys.stderr)
    if not good:
        raise InputError(f"every video of {videos[0].directory.parent} has a frame that cannot be decoded")
    return good
