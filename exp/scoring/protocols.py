"""One evaluation under several protocols: the frame-level AUC with other normalisations, each with its uncertainty.

    published       P and D are scaled by the minimum and maximum of their video (Sec. 3.3): the score of a frame
                    depends on later frames, and the scores of every video range from 0 to 1
    whole_test_set  the same formula with the minimum and maximum of all test frames together, so without normalisation
                    per video, as reported for frame prediction since ano_pred_cvpr2018 (see its issue 27). Frames are
                    ranked by raw scores: with P alone (λ = 1) this is the AUC of the PSNR itself, and with both the two
                    ranges only set how many dB count as much as a given feature distance
    calibrated      P and D are standardised by normal frames (exp/scoring/calibration.py), which needs no test frame
    macro           the AUC of the published score in each video, averaged over the videos

Intervals contain 95 % of the AUCs of 1,000 bootstrap samples, each with as many videos as the test set, drawn from it
with replacement. They show how much the AUC depends on the choice of test videos, and nothing about retraining.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import utils
from exp.scoring.evaluation import Evaluation, abnormality, smoothed
from exp.scoring.score import Scoring

DRAWS, SEED, LEVEL = 1000, 0, 0.95


class Estimate(NamedTuple):
    """An AUC in [0, 1] and the ends of its bootstrap interval; None where there are fewer than two labelled videos."""

    auc: float
    low: float | None
    high: float | None


class Pairs(NamedTuple):
    """The counts from which the AUC of any sample of V videos can be computed."""

    won: np.ndarray  # (V, V): in how many pairs an abnormal frame of video i scores above a normal frame of video j
    abnormal: np.ndarray  # (V,): number of abnormal frames
    normal: np.ndarray  # (V,): number of normal frames


class Protocols(NamedTuple):
    """The AUC of an evaluation under each protocol that can be computed, by name; {} without labels."""

    network: dict[str, Estimate]
    copy: dict[str, Estimate]  # with a copy of the previous frame in place of the prediction, PSNR alone; {} for recon


def protocols(result: Evaluation, scoring: Scoring, calibrated: list[np.ndarray] | None) -> Protocols:
    """Evaluate under all protocols. calibrated: the calibrated abnormality of each video, (n,), or None."""
    scores = {"published": result.abnormality, "whole_test_set": _whole_test_set(result.psnr, result, scoring)}
    network = _estimates(result, {**scores, "calibrated": calibrated} if calibrated else scores)
    if result.psnr_of_copy is None:
        return Protocols(network, {})
    alone = scoring._replace(alpha=1.0)
    scores = {
        "published": abnormality(result.psnr_of_copy, result.distance, result.seconds, result.gaps, alone),
        "whole_test_set": _whole_test_set(result.psnr_of_copy, result, alone),
    }
    return Protocols(network, _estimates(result, scores))


def _whole_test_set(psnr: list[np.ndarray], result: Evaluation, scoring: Scoring) -> list[np.ndarray]:
    """The abnormality of each video, (n,), scaled by the minimum and maximum over all videos together."""
    normality = utils.normality(np.concatenate(psnr), np.concatenate(result.distance), scoring.alpha)
    ends = np.cumsum([len(values) for values in psnr])[:-1]
    return smoothed(list(np.split(1 - normality, ends)), result.seconds, result.gaps, scoring)


def _estimates(result: Evaluation, scores: dict[str, list[np.ndarray]]) -> dict[str, Estimate]:
    """The AUC of each kind of score, and the macro AUC of the published one."""
    found = {}
    labelled = [video for video, y in enumerate(result.labels or []) if y is not None]
    labels = [y for y in result.labels or [] if y is not None]
    for name, values in scores.items():
        pairs = count_pairs(labels, [values[video] for video in labelled])
        found[name] = micro(pairs)
        if name == "published":
            found["macro"] = macro(pairs)
    return {name: estimate for name, estimate in found.items() if estimate}


def count_pairs(labels: list[np.ndarray], scores: list[np.ndarray]) -> Pairs:
    """Count the Pairs of V videos from their labels, 0 or 1, and scores, both (n,). Equal scores count half."""
    abnormal = [s[y == 1] for y, s in zip(labels, scores, strict=True)]
    normal = [np.sort(s[y == 0]) for y, s in zip(labels, scores, strict=True)]
    owners = np.repeat(np.arange(len(labels)), [len(some) for some in abnormal])
    together = np.concatenate([*abnormal, np.empty(0)])
    won = np.zeros((len(labels), len(labels)))
    for video, some in enumerate(normal):
        above = np.searchsorted(some, together, "left") + np.searchsorted(some, together, "right")
        won[:, video] = np.bincount(owners, above / 2, minlength=len(labels))
    return Pairs(won, np.array([len(some) for some in abnormal]), np.array([len(some) for some in normal]))


def micro(pairs: Pairs) -> Estimate | None:
    """The AUC over all frames together; None where they are all of one class."""

    def auc(weights: np.ndarray) -> np.ndarray:
        frames = (weights @ pairs.abnormal) * (weights @ pairs.normal)
        return _divide(((weights @ pairs.won) * weights).sum(axis=-1), frames)

    return _estimate(auc, len(pairs.won), len(pairs.won))


def macro(pairs: Pairs) -> Estimate | None:
    """The mean AUC of the videos that have frames of both classes; None where there is no such video."""
    frames = pairs.abnormal * pairs.normal
    own = np.where(frames > 0, np.diagonal(pairs.won) / np.maximum(frames, 1), 0)

    def auc(weights: np.ndarray) -> np.ndarray:
        return _divide(weights @ own, weights @ (frames > 0))

    return _estimate(auc, len(pairs.won), int(np.count_nonzero(frames)))


def _divide(numbers: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The quotient, or NaN where the divisor is 0: a sample without frames of both classes has no AUC."""
    return np.where(by > 0, numbers / np.where(by > 0, by, 1), np.nan)


def _estimate(auc: Callable[[np.ndarray], np.ndarray], videos: int, counted: int) -> Estimate | None:
    """The Estimate of auc, a function of how often each video counts: (draws, V) -> (draws,), NaN where undefined.

    videos: V; counted: how many of them the AUC depends on.
    """
    value = float(auc(np.ones((1, videos)))[0])
    if np.isnan(value):
        return None
    if counted < 2:
        return Estimate(value, None, None)
    # how often each video is drawn; the same draws for all protocols
    weights = np.random.default_rng(SEED).multinomial(videos, np.full(videos, 1 / videos), size=DRAWS)
    ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.nanquantile(auc(weights.astype(np.float64)), ends)
    return Estimate(value, float(low), float(high))
