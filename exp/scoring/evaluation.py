"""An evaluation: all test clips scored in order and compared with the labels."""

from typing import NamedTuple

import numpy as np

import utils
from data.clips import testing_loader
from exp.scoring.score import score_clips
from utils import InputError


class Evaluation(NamedTuple):
    """What `evaluate` found. Lists have one array (frames of the video that have a score,) for each video."""

    videos: list  # names
    frames: list  # index of each frame in its video, 0-based: the last of its clip
    psnr: list  # P, dB
    distance: list  # D, feature distance
    regular: list  # E, regular score
    updated: list  # bool, whether the frame updated the memory
    abnormality: list  # in [0, 1]
    labels: list | None  # 1 = abnormal; None where there are none
    items: list  # the memory each video began with, (M, C): exp.scoring.score.replay scores it again from there
    metrics: dict | None  # auc, eer, average_precision, macro_auc in [0, 1], macro_videos; None without both classes


def evaluate(
    model,
    items,
    clips,
    th,
    alpha,
    labels=None,
    memory_update=True,
    reset_memory=False,
    sigma=None,
    causal=False,
    psnr_region=None,
    **loading,
):
    """Score all clips and compare with the labels. Returns an Evaluation.

    model in eval mode and items (M, C) on one device; clips: data.clips.Clips; th, alpha: γ and λ; labels: {video name:
    0/1 array, one value a frame of the video} or None; sigma: frames, smooths the abnormality of each video, causal or
    not; psnr_region: P is that of the worst square of so many pixels a side; loading: settings of
    data.clips.testing_loader. The first t_length - 1 frames of a video have no score, and their labels are not used.
    """
    loader = testing_loader(clips, **loading)
    found, items_at_start = score_clips(
        model, items, loader, clips.lengths, th, memory_update, reset_memory, psnr_region
    )
    by_video = {name: np.split(values, np.cumsum(clips.lengths)[:-1]) for name, values in found.items()}
    scores = abnormality(by_video["psnr"], by_video["distance"], alpha, sigma, causal)
    unscored = clips.t_length - 1
    names = [video.name for video in clips.videos]
    if labels is not None:
        labels = [labels[name][unscored:] for name in names]
    return Evaluation(
        videos=names,
        frames=[np.arange(length) + unscored for length in clips.lengths],
        **by_video,
        abnormality=scores,
        labels=labels,
        items=items_at_start,
        metrics=metrics(labels, scores) if labels and np.unique(np.concatenate(labels)).size == 2 else None,
    )


def abnormality(psnr, distance, alpha, sigma=None, causal=False):
    """P and D of the frames of each video -> their abnormality, smoothed over time if sigma is given: lists of (n,)."""
    scores = [1 - utils.normality(p, d, alpha) for p, d in zip(psnr, distance, strict=True)]
    return [utils.smooth(values, sigma, causal) for values in scores] if sigma else scores


def metrics(labels, abnormality):
    """Frame-level metrics over all frames together, and the macro AUC over videos that have frames of both classes."""
    y, s = np.concatenate(labels), np.concatenate(abnormality)
    macro, videos = utils.macro_auc(labels, abnormality)
    return {
        "auc": utils.auc(y, s),
        "eer": utils.equal_error_rate(y, s),
        "average_precision": utils.average_precision(y, s),
        "macro_auc": macro,
        "macro_videos": videos,
    }


def find_frames(wanted, clips):
    """--frames, [(name of a video, index of a frame), ...] -> the same with the video's place in clips.videos."""
    places = {video.name: place for place, video in enumerate(clips.videos)}
    for name, frame in wanted:
        if name not in places:
            raise InputError(f"--frames {name}:{frame}: no test video {name}; they are {', '.join(places)}")
        first, count = clips.t_length - 1, clips.lengths[places[name]]
        if not first <= frame < first + count:
            raise InputError(f"--frames {name}:{frame}: only frames {first} to {first + count - 1} of it have scores")
    return [(places[name], frame) for name, frame in wanted]
