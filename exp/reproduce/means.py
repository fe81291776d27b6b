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


def unpaired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of mean(first) - mean(second) by Welch's t-test; None with fewer than two values of either."""
    if min(len(first), len(second)) < 2:
        return None
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    return float(found.low), float(found.high)


REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_TESTED = "reproduced", "not reproduced", "undecided", "not tested"
FEWEST = 3  # seeds for a verdict: the interval of two equal values would have no width
MARGIN = 1.0  # by which a reproduced AUC may be lower than the published one, percentage points


def verdict_on_gain(gain: Mean | None) -> str:
    """The verdict on the claim that a component helps, from the gain in AUC with it, seed by seed.

    Not tested without a run, or when the component changed nothing. Undecided with fewer than FEWEST seeds. Otherwise
    reproduced if the interval lies above zero, not reproduced if it lies below zero, undecided if it contains zero.
    """
    if gain is None or gain.low == gain.high == 0:
        return NOT_TESTED
    return _verdict(gain, above=0)


def verdict_on_value(value: Mean | None, published: float, is_shorter: bool = False) -> str:
    """The verdict on a published AUC in percent, from the AUC of each seed.

    Reproduced if the interval lies above the published AUC minus MARGIN, not reproduced if it lies below that, and
    undecided if it contains it, or with fewer than FEWEST seeds. A wide interval therefore decides nothing.

    is_shorter: whether the training had fewer epochs than the published one. It can then reach the published AUC, but
    a lower AUC decides nothing.
    """
    if value is None:
        return NOT_TESTED
    verdict = _verdict(value, above=published - MARGIN)
    return UNDECIDED if is_shorter and verdict == NOT_REPRODUCED else verdict


def _verdict(found: Mean, above: float) -> str:
    if found.n < FEWEST or found.low is None or found.high is None:
        return UNDECIDED
    return REPRODUCED if found.low > above else NOT_REPRODUCED if found.high < above else UNDECIDED
