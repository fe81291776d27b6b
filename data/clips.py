"""Clips: t_length consecutive frames of one video, stacked along channels.

They span no gap in time, and are 8-bit until they are on the device that computes with them.
"""

import copy
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from data import synthetic
from data.cache import KEPT, Cache, CachedFrames, DecodedFrames, open_frames, without_bad_videos
from data.frames import Video, find_videos, split_directory
from data.times import clip_ends, gaps_of, no_clip, no_clips
from utils import InputError, named, one_line

CHUNK = 8  # the default number of test clips encoded at once; no score depends on it
WORKERS = 2  # processes that decode frames when there is no cache
WORKERS_FLAG = "--num_workers, or --num_workers_test of Evaluate.py"  # for messages
AHEAD = 2  # batches that each worker prepares in advance
SHARED_MEMORY = Path("/dev/shm")  # where workers leave their batches on Linux
CPU = torch.device("cpu")


class Clips(Dataset):
    """All clips of a list of videos: a video of n frames gives n - t_length + 1, fewer where it has gaps in time.

    No clip spans two videos or a gap. Items are uint8 (t_length·c, H, W). frames: the frames of the videos, one after
    another, as an object with shape (N, c, H, W) whose slices are uint8 arrays (data.cache). A video without a clip is
    skipped with a warning. Raises InputError when no video has a clip, or when stored times are damaged.
    """

    def __init__(self, videos: Sequence[Video], frames: DecodedFrames | CachedFrames | np.ndarray, t_length: int):
        self.frames = frames
        self.t_length = t_length
        ends = np.cumsum([len(video.frames) for video in videos])
        self.videos: list[Video] = []  # those that have clips, and for each of them:
        self.ends: list[np.ndarray] = []  # the indices (n,) of the last frames of its clips
        # (n,) bool, whether there is a gap in time between a clip and the previous one
        self.gaps: list[np.ndarray] = []
        firsts = []
        for video, end in zip(videos, ends, strict=True):
            is_gap = gaps_of(video)
            last = clip_ends(is_gap, t_length)
            if not len(last):
                short = no_clip(len(video.frames), t_length)
                print(f"warning: video {one_line(video.name)} is skipped: it has {short}", file=sys.stderr)
                continue
            self.videos.append(video)
            self.ends.append(last)
            self.gaps.append(np.diff(np.cumsum(is_gap)[last], prepend=np.sum(is_gap[: last[0] + 1])) > 0)
            firsts.append(end - len(video.frames) + last - t_length + 1)
        if not self.videos:
            raise InputError(no_clips(videos[0].directory.parent, t_length))
        self.first = np.concatenate(firsts)  # the index of each clip's first frame
        if named_gaps := [video.name for video, gaps in zip(self.videos, self.gaps, strict=True) if gaps.any()]:
            count = sum(int(gaps.sum()) for gaps in self.gaps)
            where = f"{count} gap{'s' * (count > 1)} in time in {named(named_gaps)}"
            print(f"note: {where}: no clip spans one", file=sys.stderr)

    @property
    def lengths(self) -> list[int]:
        """The number of clips of each video."""
        return [len(last) for last in self.ends]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> Tensor:
        first = int(self.first[index])
        clip = self.frames[first : first + self.t_length]  # (T, c, H, W)
        return torch.from_numpy(np.array(clip).reshape(-1, *clip.shape[2:]))

    def select(self, places: Sequence[int]) -> "Clips":
        """The clips of some of the videos, given by their indices in `videos`; the array of frames is shared."""
        some, firsts = copy.copy(self), np.split(self.first, np.cumsum(self.lengths)[:-1])
        some.videos = [self.videos[place] for place in places]
        some.ends, some.gaps = [self.ends[place] for place in places], [self.gaps[place] for place in places]
        some.first = np.concatenate([firsts[place] for place in places])
        return some


# Open a split ---------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Which data set to read, and how."""

    dataset_path: Path | str  # the folder that contains the data sets
    dataset_type: str
    cache: Cache = KEPT
    bad_frames: str = "fail"  # stop at a frame that cannot be decoded; "skip": leave out its video with a warning


def open_split(source: Source, split: str, shape: Mapping[str, Any]) -> Clips:
    """The clips of a split ("training" or "testing") for a network whose t_length, h, w and c are in `shape`.

    Raises InputError when there are no such videos, and FrameError at a frame that cannot be decoded.
    """
    videos = split_videos(source.dataset_path, source.dataset_type, split)
    size = (shape["h"], shape["w"], shape["c"])
    return open_clips(videos, split, shape["t_length"], size, source.cache, source.bad_frames)


def split_videos(dataset_path: Path | str, dataset_type: str, split: str) -> list[Video]:
    """The videos of a split ("training" or "testing"). Raises InputError.

    The synthetic data set is generated first if it does not exist.
    """
    if dataset_type == "synthetic":
        synthetic.ensure(dataset_path)
    return find_videos(split_directory(dataset_path, dataset_type, split))


def open_clips(
    videos: Sequence[Video],
    split: str,
    t_length: int,
    size: tuple[int, int, int],
    cache: Cache = KEPT,
    bad_frames: str = "fail",
) -> Clips:
    """The clips of some videos of a split, with frames of size (height, width, channels). Raises as open_split does."""
    if bad_frames == "skip":
        videos = without_bad_videos(videos, split, *size, cache)
    return Clips(videos, open_frames(videos, split, *size, cache), t_length)


# Batches of clips -----------------------------------------------------------------------------------------------------


class Batches(DataLoader):
    """A DataLoader of uint8 batches (B, t_length·c, H, W) for a device.

    For CUDA, batches are pinned, and without workers a thread prepares the next batch while one is used. Raises
    InputError when the shared memory for the workers is too small, or when a worker dies.
    """

    def __init__(self, clips: Dataset, batch_size: int, num_workers: int | None, device: torch.device, **settings: Any):
        num_workers = default_workers(clips) if num_workers is None else num_workers
        if num_workers:
            _check_shared_memory(clips[0].nbytes * batch_size, num_workers)
        self.ahead = device.type == "cuda" and num_workers == 0
        super().__init__(
            clips,
            batch_size,
            num_workers=num_workers,
            prefetch_factor=AHEAD if num_workers else None,
            pin_memory=device.type == "cuda",
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker,
            **settings,
        )

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # a generator is all that a loop needs
        batches = super().__iter__()
        try:
            yield from one_ahead(batches) if self.ahead else batches
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                f"a process that loads clips was killed, often for lack of memory: use fewer ({WORKERS_FLAG}; 0 "
                "loads in this process)"
            ) from error


def _check_shared_memory(batch: int, workers: int) -> None:
    """Raise InputError when the batches prepared by workers do not fit: the system would kill a worker.

    batch: the size of a batch in bytes.
    """
    if not SHARED_MEMORY.is_dir():
        return
    needed, free = batch * (AHEAD * workers + 1), shutil.disk_usage(SHARED_MEMORY).free  # one is in use
    if needed > free:
        raise InputError(
            f"{workers} processes that load clips need {needed / 2**20:.0f} MB of {SHARED_MEMORY}, where "
            f"{free / 2**20:.0f} MB are free: use fewer ({WORKERS_FLAG}; 0 loads in this process), or make it larger "
            "(docker run --shm-size 1g)"
        )


def default_workers(clips: Dataset) -> int:
    """The default number of processes that load clips: 0 with a cache, which this process reads faster by itself."""
    clips = getattr(clips, "dataset", clips)  # torch's Subset
    return 0 if isinstance(getattr(clips, "frames", None), CachedFrames) else WORKERS


def one_ahead(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same batches; a thread takes each one while the previous one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _start_worker(_worker: int) -> None:
    cv2.setNumThreads(0)  # the workers already run in parallel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C


def training_loader(
    clips: Clips,
    batch_size: int,
    num_workers: int | None,
    seed: int,
    share: tuple[int, int] = (0, 1),
    device: torch.device = CPU,
) -> Batches:
    """Shuffled batches without a partial one; call `sampler.set_epoch(n)` before epoch n.

    The order depends only on seed and epoch, so a resumed run gets the same clips. num_workers: None means
    default_workers. share: the rank of this process and the number of processes, each of which gets its own clips.
    Raises InputError when there are not enough clips for a batch.
    """
    rank, processes = share
    if len(clips) < batch_size * processes:
        raise InputError(
            f"{len(clips)} training clips do not fill a batch of {batch_size * processes}: reduce --batch_size"
        )
    sampler: DistributedSampler = DistributedSampler(
        clips, num_replicas=processes, rank=rank, shuffle=True, seed=seed, drop_last=True
    )
    generator = torch.Generator().manual_seed(seed)  # seeds the workers
    return Batches(clips, batch_size, num_workers, device, sampler=sampler, drop_last=True, generator=generator)


def testing_loader(
    clips: Dataset, batch_size: int = CHUNK, num_workers: int | None = 0, device: torch.device = CPU
) -> Batches:
    """All clips in order. num_workers: None means default_workers."""
    return Batches(clips, batch_size, num_workers, device, generator=torch.Generator().manual_seed(0))


def normalise(clips: Tensor) -> Tensor:
    """Convert uint8 clips, on the device that computes, to float32 in [-1, 1]: x / 127.5 - 1."""
    return clips.float().div_(127.5).sub_(1)
