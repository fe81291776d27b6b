"""Numerics of MNAD: frame errors, scores, metrics, all pure functions; how files are written; how mistakes are said.

Frames are tensors (..., c, H, W) with values in [0, 1]; scores and labels are 1-D numpy arrays, one value per frame.
Section numbers are those of the paper (arXiv 2003.13228).
"""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import json
import os
import platform
import secrets
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

if TYPE_CHECKING:  # the preparation of data does without torch, which takes a second to import
    from torch import Tensor
    from torch.optim import Optimizer

MAX_PSNR = 100.0  # dB, given to identical frames, whose PSNR is infinite


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what, where, what to do. Scripts print it and exit."""

    def __str__(self) -> str:
        text = super().__str__()
        if text.startswith("Caught "):  # raised again from a data loader's worker, after the worker's traceback
            text = text.rpartition(f"\n{type(self).__module__}.{type(self).__qualname__}: ")[2]
        return one_line(text.strip())


def one_line(text: str) -> str:
    """The text with what would break or colour a line, such as a newline in a file's name, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


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

    def weighted(series: np.ndarray) -> np.ndarray:
        return np.convolve(series, weights)[reach : reach + len(series)]

    return weighted(values) / weighted(np.ones_like(values))


def smoothing_reach(sigma: float) -> int:
    """How many frames away from a frame `smooth` looks."""
    return int(4 * sigma + 0.5)


# Metrics of a data set; label 1 = abnormal, scores are abnormalities -------------------------------------------------


def _sklearn() -> ModuleType:
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong in the block while `path` is read becomes an InputError that says so."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong in the block while `path` is written becomes an InputError that says so."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {error.filename or path}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """Why the system refused, in words."""
    many = "; raise the limit with ulimit -n" if error.errno == errno.EMFILE else ""
    return (error.strerror or str(error) or type(error).__name__) + many


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises InputError when it is missing, unreadable or damaged."""
    with reading(path):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not JSON") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8; see write_whole."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path) and rename: the file at `path` is the old one or the whole new one, never a part.

    A symbolic link stays, and the file that it points to is replaced. Raises InputError when something other than a
    regular file is at `path` (a folder, a device), or when it cannot be written, say on a full disk.
    """
    with writing(path):
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if os.path.lexists(target) and not stat.S_ISREG(target.lstat().st_mode):
            raise InputError(f"cannot write {path}: it is there and not a regular file")
    temporary = target.with_name(f".{_writer()}-{secrets.token_hex(4)}{PART}")
    try:
        write(temporary)
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        why = reason(error) if isinstance(error, OSError) else _why_not_more(temporary) or str(error).splitlines()[0]
        if is_out_of_memory(error):
            raise
        raise InputError(f"cannot write {path}: {why}; what was there before is as it was") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


PART = ".part"  # the end of the name of a file that is being written


def _writer() -> str:
    """This process, as the names of its temporary files have it: of one machine, and of one process there."""
    return f"{zlib.crc32(platform.node().encode()):08x}-{os.getpid()}"


def _why_not_more(path: Path) -> str:
    """Why the system takes no more bytes for this file; "" where it does."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason(error)
    return ""


def remove_parts(directory: Path) -> None:
    """Remove the temporary files of `write_whole` whose process was killed.

    Only those of this machine whose process no longer exists; nothing where the system does not say (Windows).
    """
    machine = _writer().partition("-")[0]
    for path in directory.glob(f".{machine}-*{PART}") if os.name == "posix" else ():
        process = path.name.split("-")[1]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # of another user
    return True


COMPLETE = ".complete"  # a set of files that are all written, but not all in their places yet


@contextmanager
def written_together(directory: Path, results: Sequence[str]) -> Iterator[Path]:
    """A folder to write results to, which appear in `directory` together when the block ends, or not at all.

    results: patterns, relative to `directory`, of all that such a set may hold. What matches them there and belongs
    to the set before is removed, so results never mix. When the block raises, `directory` stays as it was. After a kill
    in the middle of the move, the next call completes it first.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        _move_complete(directory, results)
        folder = Path(tempfile.mkdtemp(prefix=f".{_writer()}-", suffix=PART, dir=directory))
    try:
        yield folder
        with writing(directory):
            folder.rename(directory / COMPLETE)  # from here on a kill loses nothing
            _move_complete(directory, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_complete(directory: Path, results: Sequence[str]) -> None:
    complete = directory / COMPLETE
    if not complete.is_dir():
        return
    whole = complete / PART  # marks a move that was begun: what is in its place already is not removed again
    if not whole.exists():
        for pattern in results:
            for path in sorted(directory.glob(pattern)):
                if path.is_file() or path.is_symlink():
                    path.unlink()
        whole.touch()
    for path in sorted(complete.rglob("*")):
        if path.is_file() and path != whole:
            target = directory / path.relative_to(complete)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    shutil.rmtree(complete)


def new_folder(path: Path) -> Path:
    """Make a folder that was not there: `path`, or the first of path-2, path-3, ... that is free."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            found = path if number == 1 else path.with_name(f"{path.name}-{number}")
            try:
                found.mkdir()
            except FileExistsError:
                continue
            return found
    raise AssertionError("numbers do not end")


# What every script does with a mistake: one line on stderr, a non-zero exit, no traceback -----------------------------


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something: neither "None" nor that a switch is off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and whose --help shows the defaults."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Defaults, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (--help lists the flags)\n")


WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EEXIST, errno.EPIPE)  # never met by reading


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had; torch says it with RuntimeErrors that only their texts set apart."""
    texts = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def describe_os_error(error: OSError) -> str:
    """One line for an OSError that nobody met closer to its cause: reading or writing, what and where."""
    name = error.filename if error.filename is not None else "a file"
    unreadable = error.errno == errno.EACCES and os.path.exists(name) and not os.access(name, os.R_OK)
    refused = error.errno in (errno.EACCES, errno.EPERM) and not unreadable
    what = "write" if error.errno in WRITING or refused else "read" if unreadable else "open"
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return f"cannot {what} {name}: {reason(error)}"


def run_script(main: Callable[[], object]) -> NoReturn:
    """Exit with what main() returns. A mistake, a system that refuses and a lack of memory become one line (exit 2),
    and so does Ctrl-C (130)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal in cp1252 or ASCII shows "?" for what it cannot
            stream.reconfigure(errors="replace")
    try:
        sys.exit(main())  # type: ignore[arg-type]  # an exit status or None
    except InputError as error:
        message = str(error)
    except OSError as error:
        if error.errno is None:  # no refusal of the system
            raise
        message = describe_os_error(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory: take smaller frames (--h, --w), a smaller batch, fdim or msize, or fewer processes"
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}", file=sys.stderr)
        sys.exit(130)
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)
