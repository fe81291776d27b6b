"""Frame errors, scores and metrics of MNAD, all pure functions; reading and writing files; reporting errors.

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

if TYPE_CHECKING:  # preparing data does not need torch, which takes a second to import
    from torch import Tensor
    from torch.optim import Optimizer

MAX_PSNR = 100.0  # dB: the value for identical frames, whose PSNR is infinite


class InputError(Exception):
    """Something that the user gave is wrong. Its message is one line that says what, where and what to do."""

    def __str__(self) -> str:
        text = super().__str__()
        if text.startswith("Caught "):  # raised again from a data loader's worker, after the worker's traceback
            text = text.rpartition(f"\n{type(self).__module__}.{type(self).__qualname__}: ")[2]
        return one_line(text.strip())


def one_line(text: str) -> str:
    """The text with escapes in place of unprintable characters, such as a newline in the name of a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


# Errors of a frame ---------------------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error of each frame: two (..., c, H, W) tensors -> (...)."""
    return (prediction - target).square().mean(dim=(-3, -2, -1)).sqrt()


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio P of each frame in dB (Sec. 3.3, peak 1): two (..., c, H, W) in [0, 1] -> (...).

    Identical frames get MAX_PSNR, and no frame gets more.
    """
    return (-20 * rmse(prediction, target).log10()).clamp(max=MAX_PSNR)


def regular_score(prediction: Tensor, target: Tensor) -> Tensor:
    """Regular score E of each frame (Sec. 3.1.2): its squared errors e_i, averaged with weights 1 - exp(-e_i).

    Large errors weigh more, so that a well predicted background does not hide a small abnormal region.
    Two (..., c, H, W) in [0, 1] -> (...). Identical frames give 0.
    """
    error = (prediction - target).square()
    weight = -(-error).expm1()
    total = weight.sum(dim=(-3, -2, -1))
    score = (weight * error).sum(dim=(-3, -2, -1)) / total
    return score.where(total > 0, 0)


def learning_rate(optimizer: Optimizer) -> float:
    """The current learning rate of an optimiser (of its first parameter group)."""
    return optimizer.param_groups[0]["lr"]


# Scores of a video ---------------------------------------------------------------------------------------------------


def check_finite(scores: np.ndarray) -> np.ndarray:
    """Return the scores unchanged. Raises InputError when some are NaN or infinite."""
    if not np.isfinite(scores).all():
        raise InputError("scores contain NaN or infinity: the model is broken, train it again")
    return scores


def min_max(values: ArrayLike) -> np.ndarray:
    """g: the scores of one video, (N,), mapped linearly to [0, 1] (Sec. 3.3). Constant scores give zeros.

    Raises InputError when some are not finite.
    """
    values = check_finite(np.asarray(values, dtype=np.float64))
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def normality(psnrs: ArrayLike, distances: ArrayLike, alpha: float) -> np.ndarray:
    """Normality of the frames of ONE video: alpha * g(P) + (1 - alpha) * (1 - g(D)); (N,), (N,) -> (N,).

    Higher is more normal; the paper's abnormality S (Sec. 3.3) is 1 - normality.
    """
    return alpha * min_max(psnrs) + (1 - alpha) * (1 - min_max(distances))


def smooth(values: ArrayLike, sigma: float, causal: bool = False) -> np.ndarray:
    """The scores of ONE video, (N,), smoothed over time with a Gaussian of sigma frames, cut off at 4 sigma: (N,).

    causal: use only the past half of the Gaussian, the present frame included. Near the ends, and where frames have no
    score (NaN), the weights of the others are scaled to sum to 1, so that constant scores do not change. Not part of
    the paper.
    """
    values, reach = np.asarray(values, dtype=np.float64), smoothing_reach(sigma)
    past = np.arange(-reach, reach + 1)  # how many frames ago; negative is in the future
    weights = np.exp(-0.5 * (past / sigma) ** 2) * (past >= 0 if causal else 1)

    def weighted(series: np.ndarray) -> np.ndarray:
        return np.convolve(series, weights)[reach : reach + len(series)]

    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # NaN where no frame has a score
        return weighted(np.where(known, values, 0.0)) / weighted(known.astype(float))


def smoothing_reach(sigma: float) -> int:
    """How many frames before and after a frame `smooth` uses."""
    return int(4 * sigma + 0.5)


# Metrics of a data set; label 1 = abnormal, scores are abnormalities -------------------------------------------------


def _sklearn() -> ModuleType:
    from sklearn import metrics  # here, since it takes over a second to import and most commands need no metrics

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
    """Area under the ROC curve over frames, in [0, 1]. Raises InputError when all labels are of one class."""
    return float(_sklearn().roc_auc_score(_both_classes(labels), abnormality))


def average_precision(labels: ArrayLike, abnormality: ArrayLike) -> float:
    """Average precision of finding abnormal frames, in [0, 1]. Raises InputError when all labels are of one class."""
    return float(_sklearn().average_precision_score(_both_classes(labels), abnormality))


def equal_error_rate(labels: ArrayLike, abnormality: ArrayLike) -> float:
    """Error rate where false positives and false negatives are equally frequent, in [0, 1], interpolated on the ROC.

    Raises InputError when all labels are of one class.
    """
    false_alarms, hits, _ = _sklearn().roc_curve(_both_classes(labels), abnormality, drop_intermediate=False)
    # misses - false alarms falls from 1 to -1 along the curve; the zero between two of its points is interpolated
    return float(np.interp(0, false_alarms + hits - 1, false_alarms))


def auc_of_videos(labels: list[np.ndarray], abnormality: list[np.ndarray]) -> list[float | None]:
    """The AUC of each video, None where all its frames are of one class: two lists of (N_v,) arrays -> list."""
    both = zip(labels, abnormality, strict=True)
    return [auc(y, scores) if np.unique(y).size == 2 else None for y, scores in both]


def macro_auc(labels: list[np.ndarray], abnormality: list[np.ndarray]) -> tuple[float | None, int]:
    """The mean of the AUCs of single videos: two lists of (N_v,) arrays -> (mean, videos counted).

    A video whose frames are all of one class has no AUC and is left out. Returns (None, 0) when no video is left.
    """
    each = [value for value in auc_of_videos(labels, abnormality) if value is not None]
    return (float(np.mean(each)), len(each)) if each else (None, 0)


# Progress ------------------------------------------------------------------------------------------------------------


def named(things: Sequence[object], most: int = 5) -> str:
    """The first few of a list, for a message."""
    some = ", ".join(map(str, things[:most]))
    return f"{some} and {len(things) - most} more" if len(things) > most else some


def duration(seconds: float) -> str:
    """A waiting time in words: 40 seconds, 12 minutes, 3.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


class _LogLines:
    """The output of a progress bar when stderr is not a terminal: whole lines, without carriage returns."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip("\r\n") + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(
    what: str, unit: str, of: Iterable | None = None, total: int | None = None, shown: bool = True, done: int = 0
) -> tqdm:
    """A progress bar, over the elements of `of` if given. When stderr is not a terminal, it prints a line per minute.

    done: how many of the total were finished before.
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
    """An error in the block, which reads `path`, becomes an InputError that says so."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error in the block, which writes `path`, becomes an InputError that says so."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {error.filename or path}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """The reason that the system gives for an error, in words."""
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
    """Write a text file as UTF-8, with write_whole. Raises InputError as it does.

    Bytes of file names that are not UTF-8, which Python holds as lone surrogates, are written as backslash escapes.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path) and rename the result: `path` is the old file or the complete new one, never a part.

    A symbolic link is kept, and the file that it points to is replaced. Raises InputError when `path` is something
    other than a regular file (a folder, a device), or when it cannot be written, for example on a full disk.
    """
    with writing(path):
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if os.path.lexists(target) and not stat.S_ISREG(target.lstat().st_mode):
            raise InputError(f"cannot write {path}: it exists and is not a regular file")
    temporary = new_part(target.parent)
    try:
        write(temporary)
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        why = reason(error) if isinstance(error, OSError) else _why_not_more(temporary) or str(error).splitlines()[0]
        if is_out_of_memory(error):
            raise
        raise InputError(f"cannot write {path}: {why}; what was there before is unchanged") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


PART = ".part"  # the end of the name of a file that is being written


def _writer() -> str:
    """A name for this process on this machine, for its temporary files."""
    return f"{zlib.crc32(platform.node().encode()):08x}-{os.getpid()}"


def new_part(directory: Path) -> Path:
    """A name of its own in a directory for a file or folder that is being written; `remove_parts` knows it."""
    return directory / f".{_writer()}-{secrets.token_hex(4)}{PART}"


FULL_DISK = (errno.ENOSPC, errno.EDQUOT)  # or a full quota


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error of a command that can be run again to continue, when it cannot write a file or folder."""
    room = "; make room, then run this again" if error.errno in FULL_DISK else ""
    return InputError(f"cannot write {path}: {reason(error)}{room}")


def _why_not_more(path: Path) -> str:
    """Why the system accepts no more bytes for this file; "" where it does accept them."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason(error)
    return ""


def remove_parts(directory: Path) -> None:
    """Remove the temporary files and folders that killed processes on this machine left behind in a directory.

    Those whose process still exists are kept. On Windows, which does not say whether it does, all are kept.
    """
    machine = _writer().partition("-")[0]
    for path in directory.glob(f".{machine}-*{PART}") if os.name == "posix" else ():
        process = path.name.split("-")[1]
        if process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True


COMPLETE = ".complete"  # a folder of files that are all written but not all moved into place yet


@contextmanager
def written_together(directory: Path, results: Sequence[str]) -> Iterator[Path]:
    """A folder for results, which appear in `directory` together when the block ends, or not at all.

    results: patterns, relative to `directory`, of all files that such results may include. Earlier files that match
    them are removed, so that results never mix. If the block raises, `directory` stays as it was. If the process is
    killed during the move, the next call completes the move first.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        remove_parts(directory)
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
    whole = complete / PART  # marks a move that has begun, so that files already in place are not removed
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
    """Make a new folder: `path`, or the first of path-2, path-3, ... that does not exist."""
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


# What every script does with an error: one line on stderr, a non-zero exit status, no traceback -----------------------


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None, that a switch is off, and what the help text says already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_said = action.default is None or action.default is False or "if not given" in (action.help or "")
        return action.help if is_said else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports errors in one line and shows defaults in --help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Defaults, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (--help lists the flags)\n")


# errors that only writing causes
WRITING = (
    *FULL_DISK,
    errno.EROFS,
    errno.EFBIG,
    errno.EEXIST,
    errno.EPIPE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means a lack of memory; torch reports it as a RuntimeError, which only its text identifies."""
    texts = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def describe_os_error(error: OSError) -> str:
    """One line for an OSError that was not handled where it occurred: reading or writing, what and where."""
    name = error.filename if error.filename is not None else "a file"
    unreadable = error.errno == errno.EACCES and os.path.exists(name) and not os.access(name, os.R_OK)
    refused = error.errno in (errno.EACCES, errno.EPERM) and not unreadable
    what = "write" if error.errno in WRITING or refused else "read" if unreadable else "open"
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return f"cannot {what} {name}: {reason(error)}"


def run_script(main: Callable[[], object]) -> NoReturn:
    """Exit with what main() returns. InputError, OSError and a lack of memory become one line (exit status 2), and so
    does Ctrl-C (exit status 130)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal in cp1252 or ASCII shows "?" in place of other characters
            stream.reconfigure(errors="replace")
    try:
        sys.exit(main())  # type: ignore[arg-type]  # an exit status or None
    except InputError as error:
        message = str(error)
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        message = describe_os_error(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory: use smaller frames (--h, --w), a smaller batch, fdim or msize, or fewer processes"
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}", file=sys.stderr)
        sys.exit(130)
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)
