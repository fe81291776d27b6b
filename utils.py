"""Numerics of MNAD: frame errors, scores, metrics, all pure functions; and how every script reports a mistake.

Frames are tensors (..., c, H, W) with values in [0, 1]; scores and labels are 1-D numpy arrays, one value a frame.
Section numbers are those of the paper (arXiv 2003.13228).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

if TYPE_CHECKING:  # the preparation of data does without torch, which takes a second to import
    from torch import Tensor
    from torch.optim import Optimizer

MAX_PSNR = 100.0  # dB, given to identical frames, whose PSNR is infinite


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, what to do. Scripts print it and exit."""

    def __str__(self):
        # raised again from a data loader's worker, it has the worker's traceback before the message, the last line
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return super().__str__().strip().rpartition("\n")[2].removeprefix(name)


# Errors of a frame ---------------------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error of each frame: two (..., c, H, W) tensors -> (...)."""
    return (prediction - target).square().mean(dim=(-3, -2, -1)).sqrt()


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio P of each frame in dB (Sec. 3.3, peak 1): two (..., c, H, W) in [0, 1] -> (...).

    At most MAX_PSNR, which is what identical frames get.
    """
    return (-20 * rmse(prediction, target).log10()).clamp(max=MAX_PSNR)


def regular_score(prediction: Tensor, target: Tensor) -> Tensor:
    """Regular score E of each frame, Sec. 3.1.2: its squared errors e_i, averaged with weights 1 - exp(-e_i).

    Large errors weigh more, so a small abnormal region is not drowned by a well predicted background.
    Two (..., c, H, W) in [0, 1] -> (...). Identical frames give 0.
    """
    error = (prediction - target).square()
    weight = -(-error).expm1()
    total = weight.sum(dim=(-3, -2, -1))
    score = (weight * error).sum(dim=(-3, -2, -1)) / total
    return score.where(total > 0, 0)


def learning_rate(optimizer: Optimizer) -> float:
    """The learning rate that an optimiser uses now (of its first parameter group)."""
    return optimizer.param_groups[0]["lr"]


# Scores of a video ---------------------------------------------------------------------------------------------------


def check_finite(scores: np.ndarray) -> np.ndarray:
    """The same scores. Raises InputError where some are NaN or infinite."""
    if not np.isfinite(scores).all():
        raise InputError("scores hold NaN or infinity: the model that made them is broken, train it again")
    return scores


def min_max(values: ArrayLike) -> np.ndarray:
    """g: the scores of one video, (N,), mapped linearly to [0, 1] (Sec. 3.3). A constant list gives zeros."""
    values = check_finite(np.asarray(values, dtype=np.float64))
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def normality(psnrs: ArrayLike, distances: ArrayLike, alpha: float) -> np.ndarray:
    """Normality of the frames of ONE video: alpha * g(P) + (1 - alpha) * (1 - g(D)); (N,), (N,) -> (N,).

    Higher is more normal; the paper's abnormality S (Sec. 3.3) is 1 - normality.
    """
    return alpha * min_max(psnrs) + (1 - alpha) * (1 - min_max(distances))


def smooth(values: ArrayLike, sigma: float, causal: bool = False) -> np.ndarray:
    """The scores of ONE video, (N,), averaged over time with a Gaussian of sigma frames, cut off at 4 sigma: (N,).

    causal: only frames up to the one that is smoothed count, half of the Gaussian. At the ends the weights of the
    frames that exist are scaled to sum to 1, so a constant stays what it is. Beyond the paper.
    """
    values, reach = np.asarray(values, dtype=np.float64), smoothing_reach(sigma)
    past = np.arange(-reach, reach + 1)  # how many frames ago, negative: in the future
    weights = np.exp(-0.5 * (past / sigma) ** 2) * (past >= 0 if causal else 1)

    def weighted(series):
        return np.convolve(series, weights)[reach : reach + len(series)]

    return weighted(values) / weighted(np.ones_like(values))


def smoothing_reach(sigma: float) -> int:
    """How many frames away from a frame `smooth` looks."""
    return int(4 * sigma + 0.5)


# Metrics of a data set; label 1 = abnormal, scores are abnormalities -------------------------------------------------


def _sklearn():
    from sklearn import metrics  # here, as it takes over a second and most commands measure nothing

    return metrics


def _both_classes(labels: ArrayLike) -> np.ndarray:
    labels = np.asarray(labels)
    if not np.isin(labels, (0, 1)).all():
        raise InputError("labels must be 0 (normal) or 1 (abnormal)")
    if labels.min(initial=1) == labels.max(initial=0):
        which = "abnormal" if labels.size and labels[0] == 1 else "normal"
        raise InputError(f"all {labels.size} labelled frames are {which}: a ROC needs frames of both classes")
    return labels


def auc(labels: ArrayLike, abnormality: ArrayLike) -> float:
    """Area under the ROC of frames, in [0, 1]. Raises InputError when only one class is there."""
    return float(_sklearn().roc_auc_score(_both_classes(labels), abnormality))


def average_precision(labels: ArrayLike, abnormality: ArrayLike) -> float:
    """Average precision of finding abnormal frames, in [0, 1]. Raises InputError when only one class is there."""
    return float(_sklearn().average_precision_score(_both_classes(labels), abnormality))


def equal_error_rate(labels: ArrayLike, abnormality: ArrayLike) -> float:
    """The error rate where false alarms and misses are equally frequent, in [0, 1], interpolated on the ROC.

    Raises InputError when only one class is there.
    """
    false_alarms, hits, _ = _sklearn().roc_curve(_both_classes(labels), abnormality, drop_intermediate=False)
    # misses - false alarms falls from 1 to -1 along the curve; the zero between two of its points is interpolated
    return float(np.interp(0, false_alarms + hits - 1, false_alarms))


def auc_of_videos(labels: list[np.ndarray], abnormality: list[np.ndarray]) -> list[float | None]:
    """Each video's own AUC, None where all its frames are of one class: two lists of (N_v,) arrays -> list."""
    both = zip(labels, abnormality, strict=True)
    return [auc(y, scores) if np.unique(y).size == 2 else None for y, scores in both]


def macro_auc(labels: list[np.ndarray], abnormality: list[np.ndarray]) -> tuple[float | None, int]:
    """Mean over videos of each video's own AUC: two lists of (N_v,) arrays -> (mean, videos counted).

    A video whose frames are all of one class has no AUC and is left out. (None, 0) when that leaves none.
    """
    each = [value for value in auc_of_videos(labels, abnormality) if value is not None]
    return (float(np.mean(each)), len(each)) if each else (None, 0)


# Progress ------------------------------------------------------------------------------------------------------------


def named(things: Sequence[object], most: int = 5) -> str:
    """The first few of a list, for a message."""
    some = ", ".join(map(str, things[:most]))
    return f"{some} and {len(things) - most} more" if len(things) > most else some


def duration(seconds: float) -> str:
    """A time that somebody waits, in words: 40 seconds, 12 minutes, 3.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


class _LogLines:
    """What a progress bar writes to when its output is no terminal: whole lines, no returns to the start of a line."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip("\r\n") + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(
    what: str, unit: str, of: Iterable | None = None, total: int | None = None, shown: bool = True, done: int = 0
) -> tqdm:
    """A progress bar, over the things in `of` where it is given. Where stderr is a log, it is a line per minute.

    done: how many of the total were there before.
    """
    log = (
        {}
        if sys.stderr.isatty()
        else {"file": _LogLines(), "mininterval": 60, "maxinterval": 60, "delay": 60, "ncols": 100}
    )
    return tqdm(of, what, total, unit=unit, leave=False, disable=not shown, initial=done, **log)


# Files ----------------------------------------------------------------------------------------------------------------


def write_whole(path, write):
    """Call write(temporary path) and rename: the file at `path` is the old one or the whole new one, never a part.

    Raises InputError when it cannot be written, say on a full disk.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"cannot write {path} ({why}): what was whole before stays; mend that and start again (training: --resume)"
        ) from error


# What every script does with a mistake: one line on stderr, a non-zero exit, no traceback -----------------------------


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something: neither "None" nor that a switch is off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and whose --help shows the defaults."""

    def __init__(self, **settings):
        super().__init__(formatter_class=_Defaults, allow_abbrev=False, **settings)

    def error(self, message):
        self.exit(2, f"error: {message} (--help lists the flags)\n")


def run_script(main):
    """Exit with what main() returns; InputError and a disk that refuses become one line (exit 2), Ctrl-C too (130)."""
    try:
        sys.exit(main())
    except InputError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        message = f"cannot write {error.filename or 'a file'}: {error.strerror}"
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}", file=sys.stderr)
        sys.exit(130)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
