"""The test split of a data set: its clips, and the labels, times and masks of their frames."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.clips import Batches, Clips, open_clips, split_videos, testing_loader
from data.frames import Video
from data.intervals import Labels, seconds_at
from data.labels import frame_labels
from data.masks import Masks, find_masks
from data.times import read_times
from exp import flags
from exp.scoring.evaluation import find_frames
from utils import named


class Split(NamedTuple):
    """The test split. Lists have one entry for each video of clips.videos."""

    clips: Clips
    loader: Batches  # of all clips in order
    labels: Labels | None  # {name of a video: uint8 (frames,), or None if it is unlabelled}; None without labels
    seconds: list[np.ndarray]  # the time of every frame
    masks: Masks
    wrong_masks: str  # why the masks do not fit the frames; "" if they fit, or if there are none
    chosen: list[tuple[int, int]]  # the frames to draw, (index of the video, index of the frame); may be empty
    left_out: list[str]  # the names of videos that are too short for a clip, or skipped for a broken frame

    def masks_to_count(self) -> Masks:
        """The masks from which pixel-level metrics are computed: all, or none if some do not fit."""
        return {} if self.wrong_masks else self.masks


def load_split(args: argparse.Namespace, shape: Mapping[str, Any], device: torch.device) -> Split:
    """The test split that the flags of Evaluate.py name, for a network of this shape. Raises InputError."""
    videos = split_videos(args.dataset_path, args.dataset_type, "testing")  # also those that are too short for a clip
    labels = frame_labels(args.dataset_path, args.dataset_type, videos, args.avenue_labels, seconds_at(args.fps))
    source, size = flags.source_of(args), (shape["h"], shape["w"], shape["c"])
    clips = open_clips(videos, "testing", shape["t_length"], size, source.cache, source.bad_frames)
    chosen = find_frames(args.frames or [], clips)
    loader = testing_loader(clips, args.test_batch_size, args.num_workers_test, device)
    seconds = times_of(clips.videos, args)
    masks, wrong = find_masks(Path(args.dataset_path) / args.dataset_type, videos)
    scored = {video.name for video in clips.videos}
    left_out = [video.name for video in videos if video.name not in scored]
    return Split(clips, loader, labels, seconds, masks, wrong[0] if wrong else "", chosen, left_out)


def times_of(videos: list[Video], args: argparse.Namespace) -> list[np.ndarray]:
    """The time of every frame of each video, in seconds: from --fps, from the stored times, or from an assumed rate."""
    usual = args.fps or flags.defaults("pred", args.dataset_type)["fps"]
    if args.fps:
        return [np.arange(len(video.frames)) / usual for video in videos]
    times = read_times(videos, usual)
    if args.dataset_type not in flags.DATASETS and any(one.assumed for one in times):
        names = named([video.name for video, one in zip(videos, times, strict=True) if one.assumed])
        print(f"no times are kept for {names}: {usual:g} frames per second are assumed (--fps says otherwise)")
    return [one.seconds for one in times]
