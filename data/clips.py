"""Clips: t_length consecutive frames of one video stacked along channels, 8-bit until on the device that computes."""

import copy
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from data import synthetic
from data.cache import KEPT, Cache, open_frames, without_bad_videos
from data.frames import FrameError, Video, find_videos, split_directory
from utils import InputError

CHUNK = 8  # test clips encoded at once where nothing else is asked for; no score depends on it


class Clips(Dataset):
    """All clips of a list of videos: a video of n frames gives n - t_length + 1, and no clip crosses videos.

    videos: list of data.frames.Video; frames: theirs, video after video, an object with shape (N, c, H, W) whose
    slices are uint8 arrays (data.cache). Items are uint8 (t_length·c, H, W). `videos` then holds those that have clips,
    `lengths` how many; a shorter video is skipped with a warning. Raises InputError when none is long enough.
    """

    def __init__(self, videos: list[Video], frames: Any, t_length: int) -> None:
        self.frames = frames
        self.t_length = t_length
        ends = np.cumsum([len(video.frames) for video in videos])
        self.videos: list[Video] = []
        firsts = []
        for video, end in zip(videos, ends, strict=True):
            if len(video.frames) < t_length:
                print(
                    f"warning: video {video.name} is skipped: {len(video.frames)} frames, a clip needs {t_length}",
                    file=sys.stderr,
                )
                continue
            self.videos.append(video)
            firsts.append(np.arange(end - len(video.frames), end - t_length + 1))
        if not self.videos:
            raise InputError(f"no video of {videos[0].directory.parent} is {t_length} frames long (--t_length)")
        self.lengths = [len(first) for first in firsts]
        self.first = np.concatenate(firsts)  # of each clip, the place of its first frame

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> Tensor:
        first = int(self.first[index])
        clip = self.frames[first : first + self.t_length]  # (T, c, H, W)
        return torch.from_numpy(np.array(clip).reshape(-1, *clip.shape[2:]))

    def select(self, places: list[int]) -> "Clips":
        """The clips of some of the videos, given by their places in `videos`; the frames are the same array."""
        some, firsts = copy.copy(self), np.split(self.first, np.cumsum(self.lengths)[:-1])
        some.videos = [self.videos[place] for place in places]
        some.lengths = [self.lengths[place] for place in places]
        some.first = np.concatenate([firsts[place] for place in places])
        return some


class Source(NamedTuple):
    """Where a data set is, and how its frames are read."""

    dataset_path: Path | str
    dataset_type: str
    cache: Cache = KEPT
    bad_frames: str = "fail"  # see open_clips


def open_split(source: Source, split: str, shape: dict[str, Any]) -> Clips:
    """The clips of a split ("training" or "testing") for a network whose t_length, h, w and c are in `shape`."""
    videos = split_videos(source.dataset_path, source.dataset_type, split)
    size = (shape["h"], shape["w"], shape["c"])
    return open_clips(videos, split, shape["t_length"], size, source.cache, source.bad_frames)


def split_videos(dataset_path: Path | str, dataset_type: str, split: str) -> list[Video]:
    """The videos of a split ("training" or "testing"), a list of data.frames.Video. Raises InputError.

    The synthetic data set is made first where it is not there yet.
    """
    if dataset_type == "synthetic":
        synthetic.ensure(dataset_path)
    return find_videos(split_directory(dataset_path, dataset_type, split))


def open_clips(
    videos: list[Video],
    split: str,
    t_length: int,
    size: tuple[int, int, int],
    cache: Cache = KEPT,
    bad_frames: str = "fail",
) -> Clips:
    """The clips of the videos of a split ("training" or "testing"), with frames of size (height, width, channels).

    bad_frames: "fail" raises FrameError at a frame that cannot be decoded, "skip" leaves its video out with a warning.
    """
    if bad_frames == "skip" and not cache.is_on:  # nothing else decodes all frames before they are needed
        videos = without_bad_videos(videos, *size)
    try:
        frames = open_frames(videos, split, *size, cache)
    except FrameError:
        if bad_frames == "fail":
            raise
        videos = without_bad_videos(videos, *size)
        frames = open_frames(videos, split, *size, cache)
    return Clips(videos, frames, t_length)


def _start_worker(_worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle


def training_loader(
    clips: Clips, batch_size: int, num_workers: int, seed: int, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Shuffled batches, uint8 (B, t_length·c, H, W), no partial one; call `sampler.set_epoch(n)` before epoch n.

    The order depends on seed and epoch alone, so a resumed run sees the clips it would have seen. Of several processes
    each gets its own share. Raises InputError when there are fewer clips than one batch takes.
    """
    if len(clips) < batch_size * world_size:
        raise InputError(
            f"{len(clips)} training clips do not fill one batch of {batch_size * world_size}: --batch_size"
        )
    sampler: DistributedSampler[Tensor] = DistributedSampler(
        clips, num_replicas=world_size, rank=rank, shuffle=True, seed=seed, drop_last=True
    )
    return _loader(clips, batch_size, num_workers, seed, sampler=sampler, drop_last=True)


def testing_loader(clips: Dataset, batch_size: int = CHUNK, num_workers: int = 0) -> DataLoader:
    """All clips in order, uint8 (B, t_length·c, H, W)."""
    return _loader(clips, batch_size, num_workers, seed=0)


def _loader(clips: Dataset, batch_size: int, num_workers: int, seed: int, **settings: Any) -> DataLoader:
    return DataLoader(
        clips,
        batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),  # seeds the workers
        **settings,
    )


def normalise(clips: Tensor) -> Tensor:
    """uint8 clips, already on the device that computes, -> float32 in [-1, 1]: x / 127.5 - 1."""
    return clips.float().div_(127.5).sub_(1)
