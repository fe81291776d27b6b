"""An evaluation: the scores of all test clips in order, the abnormality of every frame, and its metrics."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

import utils
from data.clips import Clips
from exp.scoring.score import Scored, Scores, Scoring, score_clips
from model.convae import ConvAE
from utils import InputError


class Evaluation(NamedTuple):
    """The result of `evaluate`. Lists have one array per video, with one value per frame that has a score."""

    videos: list[str]
    frames: list[np.ndarray]  # the index of each frame in its video, from 0
    seconds: list[np.ndarray]  # the time since the first frame of the video
    gaps: list[np.ndarray]  # bool, whether there is a gap in time between the frame and the previous scored one
    psnr: list[np.ndarray]  # P, dB
    distance: list[np.ndarray]  # D, feature distance
    regular: list[np.ndarray]  # E, regular score
    updated: list[np.ndarray]  # bool, whether the frame updated the memory
    psnr_of_copy: list[np.ndarray] | None  # P of copying the previous frame, dB; None for recon
    abnormality: list[np.ndarray]  # in [0, 1]
    labels: list[np.ndarray | None] | None  # 1 = abnormal; None for a video, or for all, without labels
    items: list[Tensor]  # the memory at the start of each video, (M, C), for exp.scoring.score.replay
    metrics: "Metrics | None"  # None without labels of both classes


class Metrics(NamedTuple):
    """Frame-level metrics, in [0, 1], over all labelled frames together."""

    auc: float
    eer: float
    average_precision: float
    macro_auc: float | None  # the mean over videos that have frames of both classes
    macro_videos: int  # the number of these videos


def evaluate(
    model: ConvAE,
    items: Tensor,
    loader: DataLoader,
    scoring: Scoring,
    labels: Mapping[str, np.ndarray | None] | None,
    seconds: list[np.ndarray],
    look: Callable[[Scored], object] = lambda scored: None,
) -> Evaluation:
    """Score all clips of a loader and compare the scores with the labels; see `compare`.

    The model, in eval mode, and the items (M, C) must be on one device; loader.dataset is data.clips.Clips; look:
    called with each Scored before it is dropped.
    """
    clips: Clips = loader.dataset  # type: ignore[assignment]  # a DataLoader does not know the class of its data set
    return compare(clips, score_clips(model, items, loader, scoring, look), scoring, labels, seconds)


def compare(
    clips: Clips,
    scores: Scores,
    scoring: Scoring,
    labels: Mapping[str, np.ndarray | None] | None,
    seconds: list[np.ndarray],
) -> Evaluation:
    """Compare the scores of all clips with the labels.

    labels: for each video name a 0/1 array with one value per frame of the video, or None for a video without labels;
    seconds: for each video the time of every frame. The first t_length - 1 frames of a video and those after a gap in
    time have no score, and their labels are not used.
    """
    times = [all_times[ends] for all_times, ends in zip(seconds, clips.ends, strict=True)]
    names = [video.name for video in clips.videos]
    found = None
    if labels is not None:
        of_videos = zip((labels[name] for name in names), clips.ends, strict=True)
        found = [None if values is None else values[ends] for values, ends in of_videos]
    values = abnormality(scores.psnr, scores.distance, times, clips.gaps, scoring)
    return Evaluation(
        videos=names,
        frames=clips.ends,
        seconds=times,
        gaps=clips.gaps,
        psnr=scores.psnr,
        distance=scores.distance,
        regular=scores.regular,
        updated=scores.updated,
        psnr_of_copy=scores.psnr_of_copy,
        abnormality=values,
        labels=found,
        items=scores.items,
        metrics=measure(found, values) if found else None,
    )


def abnormality(
    psnr: list[np.ndarray],
    distance: list[np.ndarray],
    seconds: list[np.ndarray],
    gaps: list[np.ndarray],
    scoring: Scoring,
) -> list[np.ndarray]:
    """The abnormality of the frames of each video, smoothed if `scoring` says so; all arrays are (n,), per video."""
    scores = [1 - utils.normality(p, d, scoring.alpha) for p, d in zip(psnr, distance, strict=True)]
    return smoothed(scores, seconds, gaps, scoring)


def smoothed(
    scores: list[np.ndarray], seconds: list[np.ndarray], gaps: list[np.ndarray], scoring: Scoring
) -> list[np.ndarray]:
    """The scores of each video, (n,), smoothed over time as `scoring` says, at its frame rate and not across gaps."""
    if not scoring.sigma:
        return scores
    found = []
    for values, times, is_gap in zip(scores, seconds, gaps, strict=True):
        sigma = scoring.sigma.frames(rate_of(times))
        parts = between_gaps(values, is_gap)
        found.append(np.concatenate([utils.smooth(part, sigma, scoring.causal) for part in parts]))
    return found


def between_gaps(values: np.ndarray, gaps: np.ndarray) -> list[np.ndarray]:
    """Split the values (n,) of a video at its gaps in time; gaps: (n,) bool, whether a gap precedes a frame."""
    return np.split(values, np.flatnonzero(gaps))


def rate_of(seconds: np.ndarray) -> float:
    """The frames per second of a video, from the times (n,) of its frames: 1 / median step; 1 if that is unknown."""
    steps = np.diff(seconds)
    return 1 / float(np.median(steps)) if len(steps) and np.median(steps) > 0 else 1.0


def hours_of(seconds: np.ndarray, gaps: np.ndarray) -> float:
    """How long a video was watched: the times (n,) of its frames, and whether a gap is before each -> hours.

    Time that is missing at a gap does not count; each stretch ends one usual step after its last frame.
    """
    steps = np.diff(seconds)[~gaps[1:]]
    return float(steps.sum() + (1 + np.count_nonzero(gaps[1:])) / rate_of(seconds)) / 3600


def measure(labels: list[np.ndarray | None], abnormality: list[np.ndarray]) -> Metrics | None:
    """The frame-level metrics of the labelled videos, (n,) each; None unless the labels are of both classes."""
    both = [(y, s) for y, s in zip(labels, abnormality, strict=True) if y is not None]
    if not both or np.unique(np.concatenate([y for y, _ in both])).size < 2:
        return None
    y, s = (np.concatenate(values) for values in zip(*both, strict=True))
    macro, videos = utils.macro_auc(*map(list, zip(*both, strict=True)))
    return Metrics(utils.auc(y, s), utils.equal_error_rate(y, s), utils.average_precision(y, s), macro, videos)


def auc_by_video(result: Evaluation) -> dict[str, float | None]:
    """The AUC of each video, by name; None for a video without labels, or with labels of one class."""
    values: list[float | None] = [None] * len(result.videos)
    for video, y in enumerate(result.labels or []):
        if y is not None and np.unique(y).size == 2:
            values[video] = utils.auc(y, result.abnormality[video])
    return dict(zip(result.videos, values, strict=True))


def find_frames(wanted: list[tuple[str, int]], clips: Clips) -> list[tuple[int, int]]:
    """Convert --frames, [(name of a video, index of a frame), ...]: the name becomes the index in clips.videos.

    Raises InputError for an unknown video, or a frame without a score.
    """
    places = {video.name: place for place, video in enumerate(clips.videos)}
    for name, frame in wanted:
        if name not in places:
            raise InputError(f"--frames {name}:{frame}: no test video {name}; the videos are {', '.join(places)}")
        scored = clips.ends[places[name]]
        if frame not in scored:
            but = ", but not those right after a gap in time" if clips.gaps[places[name]].any() else ""
            raise InputError(f"--frames {name}:{frame}: only frames {scored[0]} to {scored[-1]} of it have scores{but}")
    return [(places[name], frame) for name, frame in wanted]
