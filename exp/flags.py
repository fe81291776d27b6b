"""What the command lines share: defaults of the methods and data sets, argument types, and common flags."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data import synthetic
from data.cache import NO_CACHE, Cache
from data.clips import Source
from exp.device import PRECISIONS
from utils import InputError

# The values of flags that are not given. recon's learning rate is the paper's; the released code trains it at 2e-4.
METHODS: dict[str, dict[str, Any]] = {
    "pred": {"t_length": 5, "lr": 2e-4, "loss_compact": 0.1, "loss_separate": 0.1, "alpha": 0.6, "th": 0.01},
    "recon": {"t_length": 1, "lr": 2e-5, "loss_compact": 0.01, "loss_separate": 0.01, "alpha": 0.7, "th": 0.015},
}
ANY_DATASET: dict[str, Any] = {"epochs": 60, "h": 256, "w": 256, "c": 3, "msize": 10, "fdim": 512, "fps": 25}
DATASETS: dict[str, dict[str, Any]] = {
    "ped2": {"fps": 10},
    "avenue": {"fps": 25},
    "shanghai": {"epochs": 10, "fps": 24},
    "synthetic": {"epochs": 4, "h": 64, "w": 64, "fps": synthetic.FPS},
}


def defaults(method: str, dataset_type: str) -> dict[str, Any]:
    """The defaults for a method and a data set, by the names of the flags."""
    return {**ANY_DATASET, **METHODS[method], **DATASETS.get(dataset_type, {})}


def fill_in(args: argparse.Namespace) -> None:
    """Set the flags that were not given to the defaults of the method and the data set."""
    for name, value in defaults(args.method, args.dataset_type).items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)


def check_shape(shape: dict[str, Any], mdim: int | None) -> None:
    """Raise InputError when settings of the network and the clips contradict each other."""
    if mdim not in (None, shape["fdim"]):
        raise InputError(
            f"--fdim {shape['fdim']} and --mdim {mdim} differ: items are compared with features; leave --mdim out"
        )
    if shape["method"] == "pred" and shape["t_length"] < 2:
        raise InputError("--t_length 1: pred predicts the last frame of a clip from those before it; give 2 or more")
    if shape["method"] == "recon" and shape["t_length"] != 1:
        raise InputError(
            f"--t_length {shape['t_length']}: recon reconstructs single frames; give 1 or leave the flag out"
        )


FIGURE_FORMATS = ("png", "pdf", "svg")


# Argument types; an impossible value is refused in one line -----------------------------------------------------------


def number(kind: type, allowed: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """An argparse type: returns kind(text) if that is allowed, otherwise raises an error that says what is wanted."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not (value == value and allowed(value)):
            shown = text if len(text) <= 40 else f"{text[:20]}... ({len(text)} characters)"
            raise argparse.ArgumentTypeError(f"{shown!r} is not {wanted}")
        return value

    return convert


MOST = 2**31 - 1  # largest count: larger ones fit no machine and overflow some libraries
positive_int = number(int, lambda n: 1 <= n <= MOST, "a whole number of 1 or more")
non_negative_int = number(int, lambda n: 0 <= n <= MOST, "a whole number of 0 or more")
memory_size = number(
    int,
    lambda n: n == 0 or 2 <= n <= MOST,
    "0 (no memory) or a whole number of 2 or more (separateness needs a second nearest item)",
)
pixels = number(int, lambda n: 8 <= n <= 2**15 and n % 8 == 0, f"a multiple of 8 up to {2**15}")
positive = number(float, lambda x: 0 < x < math.inf, "a number above 0")
non_negative = number(float, lambda x: 0 <= x < math.inf, "a number of 0 or more")
fraction = number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
fraction_below_one = number(float, lambda x: 0 <= x < 1, "a number of 0 or more, below 1")
probability = number(float, lambda x: 0 < x < 1, "a number between 0 and 1, both excluded")


class Span(NamedTuple):
    """A duration in frames or in seconds."""

    amount: float
    unit: str = ""  # "s" for seconds, "" for frames

    def frames(self, fps: float) -> float:
        return self.amount * fps if self.unit == "s" else self.amount

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"


def span(text: str) -> Span:
    """Parse "10" as frames and "0.4s" as seconds."""
    wanted = "a number of frames, such as 10, or of seconds, such as 0.4s, above 0 and up to a million"
    amount = number(float, lambda x: 0 < x <= 1e6, wanted)
    return Span(amount(text.removesuffix("s")), "s" if text.endswith("s") else "")


def threshold_or_auto(text: str) -> float | str:
    """Parse γ: a number of 0 or more, or "auto"."""
    return text if text == "auto" else non_negative(text)


def frame_of_video(text: str) -> tuple[str, int]:
    """VIDEO:FRAME -> (name of a video, index of a frame)."""
    name, _, frame = text.rpartition(":")
    if not (name and frame.isdecimal() and len(frame) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not VIDEO:FRAME, such as 01:120")
    return name, int(frame)


# Flags that several commands share ------------------------------------------------------------------------------------


def by_method(name: str) -> str:
    """The default of a flag for each method, for --help."""
    return ", ".join(f"{method} {settings[name]:g}" for method, settings in METHODS.items())


def by_dataset(name: str) -> str:
    """The default of a flag, and the data sets for which it differs, for --help."""
    special = [f"{dataset} {settings[name]}" for dataset, settings in DATASETS.items() if name in settings]
    return ", ".join([str(ANY_DATASET[name]), *special])


def th_help() -> str:
    """What --help says of --th."""
    return f"γ: a frame whose regular score is below it updates the memory ({by_method('th')})"


def add_shape_flags(parser: argparse.ArgumentParser, stored: bool = False) -> None:
    """The flags that define the network and the clips. stored: a model file has them, and no default is applied."""
    about = (
        "The model file stores these, and a value given here must agree with it, so normally none is needed. A released"
        " model does not store --h and --w: they are 256 unless given."
    )
    shape = parser.add_argument_group("network and clips", about if stored else None)

    def described(what: str, default: str) -> str:
        return what if stored else f"{what} ({default})"

    shape.add_argument("--method", choices=METHODS, help="predict the next frame (pred) or reconstruct a frame (recon)")
    shape.add_argument("--t_length", type=positive_int, help=described("frames in a clip", by_method("t_length")))
    for name, what in (("h", "height"), ("w", "width")):
        shape.add_argument(f"--{name}", type=pixels, help=described(f"{what} of a frame in pixels", by_dataset(name)))
    shape.add_argument(
        "--c", type=int, choices=(1, 3), help=described("channels of a frame: gray or colour", by_dataset("c"))
    )
    items = described("number of memory items M", by_dataset("msize"))
    without = (
        "0 is a network without a memory: its decoder gets only the queries, it has no memory losses and no update, and"
        " its score is the PSNR alone"
    )
    shape.add_argument("--msize", type=memory_size, help=f"{items}; {without}")
    shape.add_argument("--fdim", type=positive_int, help=described("number of feature channels C", by_dataset("fdim")))
    shape.add_argument("--mdim", type=positive_int, help="number of channels of the memory items; must equal --fdim")


def add_data_flags(parser: argparse.ArgumentParser, otherwise: str = "synthetic") -> None:
    """The flags that name the data; otherwise: the data set that is taken if none is given, for --help."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset_type",
        help=f"ped2, avenue, shanghai, synthetic, or the folder of your own data set ({otherwise} if not given)",
    )
    data.add_argument("--dataset_path", default="./dataset", help="the folder that contains the data sets")
    data.add_argument(
        "--bad_frames",
        choices=("fail", "skip"),
        default="fail",
        help="what to do at a broken frame: stop, or leave out its video",
    )
    cache = data.add_mutually_exclusive_group()
    cache.add_argument("--cache_dir", help="where to keep decoded frames; beside the data if not given")
    cache.add_argument("--no_cache", action="store_true", help="decode frames each time they are read")


def source_of(args: argparse.Namespace) -> Source:
    """The data set that the flags name, and how to read it."""
    cache = NO_CACHE if args.no_cache else Cache(args.cache_dir and Path(args.cache_dir))
    return Source(args.dataset_path, args.dataset_type, cache, args.bad_frames)


def add_workers_flag(group: argparse._ActionsContainer, name: str) -> None:
    """The flag for the number of loading processes, --num_workers or --num_workers_test."""
    group.add_argument(
        name, type=non_negative_int, help="number of processes that load clips (0 with the cache, 2 without)"
    )


def add_run_flags(parser: argparse.ArgumentParser, several_gpus: bool = False) -> None:
    """The flags for the name of a run and for how the network computes."""
    run = parser.add_argument_group("run")
    run.add_argument("--exp_dir", help="name of the run, in exp/<dataset_type>/<method>/<exp_dir> (log if not given)")
    add_device_flags(run, several_gpus)
    run.add_argument(
        "--deterministic",
        action="store_true",
        help="on CUDA: get the same numbers each time, at lower speed; on a CPU they are the same anyway",
    )


def add_figure_flags(output: argparse._ActionsContainer, without: str) -> None:
    """The flags for figures; without: what --no_figures leaves out, for --help."""
    output.add_argument("--no_figures", action="store_true", help=without)
    output.add_argument("--figure_format", choices=FIGURE_FORMATS, default="png", help="file format of the figures")


def add_device_flags(run: argparse._ArgumentGroup, several_gpus: bool = False) -> None:
    """The flags for the device and the precision; a command that uses only one GPU also calls check_one_process."""
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    run.add_argument(
        "--gpus",
        nargs="+",
        type=non_negative_int,
        metavar="N",
        help="GPUs to use, by number; several only with torchrun" if several_gpus else "the GPU to use, by its number",
    )
    run.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of the convolutions; the memory always computes in float32",
    )
    run.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first, which takes minutes; for GPUs, since steps on a CPU are no faster",
    )


def check_one_process(args: argparse.Namespace) -> None:
    """Raise InputError when several GPUs or processes are asked for: only training uses them."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("torchrun started several processes, but only Train.py uses them: leave torchrun out")
    if args.gpus and len(args.gpus) > 1:
        raise InputError(
            f"--gpus {' '.join(map(str, args.gpus))}: give one number, since only Train.py uses several GPUs"
        )
