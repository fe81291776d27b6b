"""A cache of decoded frames: a split is one memory-mapped 8-bit array, shared by workers and processes.

    <dataset_path>/<dataset_type>/.decoded/<split>-<height>x<width>x<channels>-<key>.npy     uint8 (N, c, H, W)

The key is a digest of the frames (names, sizes, times) and of how they are decoded, so that a changed data set gets
another file. A cache is written under a temporary name and renamed when complete, so that a kill never leaves a part of
one. With --cache_dir, the name of the file starts with the name of the data set and a digest of its path, so that
several data sets can share the folder.

A process that uses a cache holds a shared lock on its file; a process that writes one holds an exclusive lock on the
temporary file. Locks end with their process, so a file that can be locked is not in use, and only such files are
removed.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
import sys
import tokenize
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

from data.frames import Video
from data.pictures import FrameError, decode
from data.times import gaps_of
from utils import InputError, one_line, progress, read_json, reading, reason, write_text

try:
    import fcntl
except ImportError:  # Windows, which neither removes nor renames open files
    fcntl = None  # type: ignore[assignment]  # a module or nothing

VERSION = 2  # of the cache's layout and of the decoding; another version gives another key
DECODED_AT_ONCE = 256  # frames in memory while a cache is written


class Cache(NamedTuple):
    """Whether decoded frames are cached, and where."""

    folder: Path | None = None  # None: a hidden folder beside the data
    is_on: bool = True


KEPT, NO_CACHE = Cache(), Cache(is_on=False)


class DecodedFrames:
    """All frames of some videos as an array that decodes on access: frames[i:j] is uint8 (j - i, c, H, W)."""

    def __init__(self, videos: Sequence[Video], height: int, width: int, channels: int):
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
    """The same, read from a memory-mapped cache file, which is not removed while this object exists.

    It is pickled as a path, and a copy in another process maps the file again. Raises OSError or ValueError when the
    file is not a cache.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._open()
        self.shape = self.array.shape

    def _open(self) -> None:
        self.file = open(self.path, "rb")  # noqa: SIM115  # its lock is held while this object exists
        _lock(self.file, shared=True)
        if not os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path)):
            raise FileNotFoundError(errno.ENOENT, "replaced while it was opened", str(self.path))
        self.array = np.lib.format.open_memmap(self.path, mode="r")

    def __getitem__(self, where: slice) -> np.ndarray:
        return self.array[where]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with reading(self.path):
            self._open()


def _lock(file: IO[bytes], shared: bool = False) -> bool:
    """Lock a file until it is closed. Returns whether it is locked: while others use it, an exclusive lock fails."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or on a file system without locks
        return False
    return True


def fingerprint(videos: Sequence[Video], height: int, width: int, channels: int) -> str:
    """The key of a cache: a digest of the frames' names, sizes and times, and of the versions of the decoders.

    The times include ctime, which unlike mtime cannot be set. So frames that are replaced by others with the same
    names, sizes and times give another key.
    """
    decoders = f"{VERSION} {cv2.__version__} {simplejpeg.__version__}"
    digest = hashlib.sha256(f"{decoders} {height}x{width}x{channels}".encode())
    for video in videos:
        entries: dict[str, os.DirEntry] = {}
        with reading(video.directory), contextlib.suppress(FileNotFoundError), os.scandir(video.directory) as found:
            entries = {entry.name: entry for entry in found}
        for name in video.frames:
            try:
                stat = entries[name].stat()
            except (KeyError, FileNotFoundError) as error:
                path = video.directory / name
                raise FrameError(
                    f"frame {path} has disappeared: start again when the data set no longer changes"
                ) from error
            except OSError as error:
                raise FrameError(f"cannot read frame {video.directory / name}: {reason(error)}") from error
            what = f"{video.name}/{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n"
            digest.update(os.fsencode(what))
    return digest.hexdigest()[:16]


def content_digest(videos: Sequence[Video]) -> str:
    """A digest by which a run recognises its data: the same for a copy elsewhere, different for other frames or clips.

    It covers the frames' names and sizes, the bytes of the first, middle and last frame of each video, and the gaps in
    time, which decide what the clips are. Raises InputError when a frame or its times cannot be read.
    """
    digest = hashlib.sha256()
    for video in videos:
        last = len(video.frames) - 1
        if (is_gap := gaps_of(video)).any():
            digest.update(f"gaps before {np.flatnonzero(is_gap).tolist()}\n".encode())
        for index, name in enumerate(video.frames):
            path = video.path(index)
            with reading(path):
                digest.update(os.fsencode(f"{video.name}/{name} {path.stat().st_size}\n"))
                if index in (0, last // 2, last):
                    digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def decode_all(videos: Sequence[Video], height: int, width: int, channels: int) -> Generator[np.ndarray, None, None]:
    """Every frame in order, uint8 (c, H, W), decoded on all cores with a progress bar; few are in memory at once."""
    paths = (video.path(i) for video in videos for i in range(len(video.frames)))
    total = sum(len(video.frames) for video in videos)
    # the decoders release the interpreter lock, so threads are as fast as processes
    with ThreadPoolExecutor() as pool, progress("decoding", "frame", total=total) as bar:
        while some := list(itertools.islice(paths, DECODED_AT_ONCE)):
            for frame in pool.map(lambda path: decode(path, height, width, channels), some):
                yield frame
                bar.update()


def _build(path: Path, key: str, decoded: DecodedFrames) -> None:
    """Write the cache file, completely or not at all. Raises OSError when the disk is full or read-only."""
    needed, free = int(np.prod(decoded.shape, dtype=object)), shutil.disk_usage(path.parent).free
    if needed > 0.95 * free:
        raise OSError(errno.ENOSPC, f"it needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")
    # other processes may write it too: the last one is kept
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.part")
    try:
        frames = decode_all(decoded.videos, *decoded.size)
        with open(temporary, "wb") as file, contextlib.closing(frames):  # so that an error ends the progress bar first
            _lock(file)
            header = {"descr": "|u1", "fortran_order": False, "shape": decoded.shape}
            np.lib.format.write_array_header_1_0(file, header)
            # written, not stored into a map, so that a full disk raises an error and does not kill the process
            for frame in frames:
                file.write(frame.data)
            file.flush()
            os.fsync(file.fileno())
            if fingerprint(decoded.videos, *decoded.size) != key:
                place = decoded.videos[0].directory.parent
                raise FrameError(f"frames in {place} changed while they were read: start again")
            if fcntl is None:  # Windows, which does not rename an open file; elsewhere the lock is held until then
                file.close()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_unused(folder: Path, prefix: str, suffix: str, keep: Path | None = None) -> None:
    """Remove the files of a folder named <prefix>...<suffix> that no process has locked, except `keep`."""
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path.suffix == suffix and path != keep:
            with contextlib.suppress(OSError), open(path, "r+b") as file:  # already removed, or in use on Windows
                # an empty file has just been made, and its process is about to lock it
                if path.stat().st_size and _lock(file):
                    if fcntl is None:
                        file.close()
                    path.unlink()


def _open_cache(path: Path, shape: tuple[int, ...]) -> CachedFrames | None:
    """The frames in a cache file, or None if there is no file with frames of this shape."""
    # raised when the file is not an array, or is shorter than its header says
    damaged = (ValueError, TypeError, OverflowError, RecursionError, SyntaxError, tokenize.TokenError)
    with contextlib.suppress(FileNotFoundError, *damaged):
        frames = CachedFrames(path)
        if frames.shape == shape and frames.array.dtype == np.uint8:
            return frames
    return None


def _files(
    videos: Sequence[Video], split: str, height: int, width: int, channels: int, cache: Cache
) -> tuple[Path, str, str]:
    """The folder of the cache of some videos, how the names of the files of this split and size begin, and the key."""
    beside_data = videos[0].directory.parents[2] / ".decoded"
    folder = cache.folder or beside_data
    prefix = f"{split}-{height}x{width}x{channels}-"
    if folder != beside_data:  # other data sets may share it, with frames of the same names, sizes and times
        dataset = beside_data.parent.resolve()
        prefix = f"{dataset.name}-{hashlib.sha256(os.fsencode(dataset)).hexdigest()[:8]}-{prefix}"
    return folder, prefix, fingerprint(videos, height, width, channels)


def open_frames(
    videos: Sequence[Video], split: str, height: int, width: int, channels: int, cache: Cache = KEPT
) -> DecodedFrames | CachedFrames:
    """The frames of all videos, one after another: an object with shape (N, c, H, W) whose slices are uint8 arrays.

    Without a cache, or if its folder cannot be written, frames are decoded at each access. Raises FrameError for a
    frame that cannot be decoded.
    """
    decoded = DecodedFrames(videos, height, width, channels)
    if not cache.is_on:
        return decoded
    folder, prefix, key = _files(videos, split, height, width, channels, cache)
    path = folder / f"{prefix}{key}.npy"
    try:
        frames = _open_cache(path, decoded.shape)
        if frames is None:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unused(folder, prefix, ".part")  # left by killed processes; first, since their space may be needed
            _build(path, key, decoded)
            frames = CachedFrames(path)
            _remove_unused(folder, prefix, ".npy", keep=path)  # earlier caches of this split and size
        return frames
    except OSError as error:
        why = one_line(f"no cache in {folder} ({reason(error)})")
        print(f"warning: {why}: frames are decoded each time; --cache_dir may help", file=sys.stderr)
        return decoded


def without_bad_videos(
    videos: Sequence[Video], split: str, height: int, width: int, channels: int, cache: Cache = KEPT
) -> list[Video]:
    """The videos whose frames can all be decoded; a warning names the others (for --bad_frames skip).

    With a cache, what was wrong is kept beside it (<its name>.json), so that all frames are tried only once. Raises
    InputError when no video is left.
    """
    kept, wrong = None, None
    if cache.is_on:
        folder, prefix, key = _files(videos, split, height, width, channels, cache)
        if (folder / f"{prefix}{key}.npy").exists():  # all of them could be decoded
            return list(videos)
        kept = folder / f"{prefix}{key}.json"
        with contextlib.suppress(InputError):
            wrong = read_json(kept)
    if not isinstance(wrong, dict):
        wrong = {video.name: problem for video in videos if (problem := _problem(video, height, width, channels))}
        if kept:
            with contextlib.suppress(InputError, OSError):  # then they are tried again the next time
                folder.mkdir(parents=True, exist_ok=True)
                write_text(kept, json.dumps(wrong))
                _remove_unused(folder, prefix, ".json", keep=kept)
    for name, problem in wrong.items():
        print(f"warning: video {one_line(name)} is skipped: {problem}", file=sys.stderr)
    good = [video for video in videos if video.name not in wrong]
    if not good:
        raise InputError(f"every video of {videos[0].directory.parent} has a frame that cannot be decoded")
    return good


def _problem(video: Video, height: int, width: int, channels: int) -> str:
    """Why a frame of a video cannot be decoded; "" if all can."""
    try:
        for _ in decode_all([video], height, width, channels):
            pass
    except FrameError as error:
        return str(error)
    return ""
