"""Means over seeds with their uncertainty, comparisons seed by seed, and verdicts on claims."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

LEVEL = 0.95


class Mean(NamedTuple):
    """The mean of one value per seed."""

    mean: float
    n: int
    deviation: float | None = None  # sample standard deviation; None for a single value
    low: float | None = None  # the ends of the 95 % t-interval of the mean
    high: float | None = None


def mean_of(values: Sequence[float]) -> Mean | None:
    """The Mean of some values; None when there are none."""
    if not values:
        return None
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Mean(mean, n)
    deviation = statistics.stdev(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / n**0.5
    return Mean(mean, n, deviation, mean - half, mean + half)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Mean | None:
    """The mean of first - second over the seeds that both have, {seed: value}; None where there is none."""
    return mean_of([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_TESTED = "reproduced", "not reproduced", "undecided", "not tested"


def verdict_on_gain(gain: Mean | None) -> str:
    """The verdict on the claim that a component helps, from the gain in AUC with it, seed by seed.

    Not tested with fewer than two seeds, or when the component changed nothing in any of them. Otherwise reproduced if
    the interval lies above zero, not reproduced if it lies below zero, and undecided if it contains zero.
    """
    if gain is None or gain.low is None or gain.high is None or gain.low == gain.high == 0:
        return NOT_TESTED
    return REPRODUCED if gain.low > 0 else NOT_REPRODUCED if gain.high < 0 else UNDECIDED


def verdict_on_value(value: Mean | None, published: float, is_shorter: bool = False) -> str:
    """The verdict on a published AUC: reproduced if the interval of the mean reaches it, not if it lies below.

    is_shorter: whether the training had fewer epochs than the published one. It can then reach the published AUC, but
    a lower AUC decides nothing.
    """
    if value is None:
        return NOT_TESTED
    if value.high is None:
        return UNDECIDED
    return REPRODUCED if value.high >= published else UNDECIDED if is_shorter else NOT_REPRODUCED
