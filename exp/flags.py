"""What the command lines share: defaults of methods and data sets, types of values, flags both scripts have."""

import argparse
import math
from typing import NamedTuple

from data import synthetic
from exp.device import PRECISIONS
from utils import InputError

# The values used where a flag is not given. recon's learning rate is the paper's; the released code trains it at 2e-4.
METHODS = {
    "pred": {"t_length": 5, "lr": 2e-4, "loss_compact": 0.1, "loss_separate": 0.1, "alpha": 0.6, "th": 0.01},
    "recon": {"t_length": 1, "lr": 2e-5, "loss_compact": 0.01, "loss_separate": 0.01, "alpha": 0.7, "th": 0.015},
}
ANY_DATASET = {"epochs": 60, "h": 256, "w": 256, "c": 3, "msize": 10, "fdim": 512, "fps": 25}
DATASETS = {
    "ped2": {"fps": 10},
    "avenue": {"fps": 25},
    "shanghai": {"epochs": 10, "fps": 24},
    "synthetic": {"epochs": 4, "h": 64, "w": 64, "fps": synthetic.FPS},
}


def defaults(method, dataset_type):
    """The value of each flag that is not given, as a dict by flag name."""
    return {**ANY_DATASET, **METHODS[method], **DATASETS.get(dataset_type, {})}


def check_shape(settings):
    """Check the settings (a dict) that shape network and clips against each other. Raises InputError."""
    if settings["mdim"] != settings["fdim"]:
        raise InputError(
            f"--fdim {settings['fdim']} and --mdim {settings['mdim']} differ: items are compared with features"
        )
    if settings["method"] == "pred" and settings["t_length"] < 2:
        raise InputError("--t_length 1: pred predicts the last frame of a clip from those before it, give 2 or more")
    if settings["method"] == "recon" and settings["t_length"] != 1:
        raise InputError(f"--t_length {settings['t_length']}: recon reproduces single frames, its t_length is 1")


def check_patch(patch, shape):
    """Check that a patch of so many pixels, None is none, fits into the frames that `shape` (a dict) tells of."""
    if patch is not None and patch > min(shape["h"], shape["w"]):
        raise InputError(f"--psnr_region {patch} does not fit into frames of {shape['h']} x {shape['w']} pixels")


# Types of values; a value that cannot be is refused in one line -------------------------------------------------------


def number(kind, allowed, wanted):
    """An argparse type: kind(text) where allowed(value) holds, otherwise an error that says what is wanted."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and allowed(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


positive = number(int, lambda n: n >= 1, "a whole number of 1 or more")
count = number(int, lambda n: n >= 0, "a whole number of 0 or more")
several = number(int, lambda n: n >= 2, "a whole number of 2 or more: separateness needs a second nearest item")
pixels = number(int, lambda n: n >= 8 and n % 8 == 0, "a multiple of 8")
rate = number(float, lambda x: x > 0, "a number above 0")
weight = number(float, lambda x: x >= 0, "a number of 0 or more")
share = number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
part = number(float, lambda x: 0 <= x < 1, "a number of 0 or more, below 1")
probability = number(float, lambda x: 0 < x < 1, "a number between 0 and 1")


class Span(NamedTuple):
    """A length of time in frames or seconds."""

    amount: float
    unit: str  # "" is frames, "s" seconds

    def frames(self, fps):
        return self.amount * fps if self.unit == "s" else self.amount

    def __str__(self):
        return f"{self.amount:g}{self.unit}"


def span(text):
    """10 is frames, 0.4s is seconds."""
    allowed = number(float, lambda x: x > 0, "a number of frames, such as 10, or of seconds, such as 0.4s, above 0")
    return Span(allowed(text.removesuffix("s")), "s" if text.endswith("s") else "")


def weight_or_auto(text):
    return text if text == "auto" else weight(text)


def frame_of_video(text):
    """VIDEO:FRAME -> (name of a video, index of a frame)."""
    name, _, frame = text.rpartition(":")
    if not (name and frame.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not VIDEO:FRAME, such as 01:120")
    return name, int(frame)


# Flags both scripts have ----------------------------------------------------------------------------------------------


def add_shape_flags(parser, unset):
    """The flags that shape network and clips; a model file knows them all. `unset` tells what a missing flag means."""
    shape = parser.add_argument_group(f"network and clips ({unset})")
    shape.add_argument("--method", choices=METHODS, help="predict the next frame, or reconstruct one")
    shape.add_argument("--t_length", type=positive, help="frames in a clip")
    shape.add_argument("--h", type=pixels, help="height of a frame, pixels")
    shape.add_argument("--w", type=pixels, help="width of a frame, pixels")
    shape.add_argument("--c", type=int, choices=(1, 3), help="channels of a frame: gray or colour")
    shape.add_argument("--msize", type=several, help="number of memory items M")
    shape.add_argument("--fdim", type=positive, help="channels of the features C")
    shape.add_argument("--mdim", type=positive, help="channels of the memory items; the same as fdim")


def add_data_flags(parser):
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_type", default="synthetic", help="ped2, avenue, shanghai, synthetic, or an own folder")
    data.add_argument("--dataset_path", default="./dataset", help="the folder that holds data sets")
    data.add_argument(
        "--bad_frames", choices=("fail", "skip"), default="fail", help="at a broken frame, or leave its video out"
    )
    data.add_argument("--cache_dir", help="where decoded frames are kept; beside the data when not given")
    data.add_argument("--no_cache", action="store_true", help="decode frames each time")


def add_run_flags(parser):
    run = parser.add_argument_group("run")
    run.add_argument("--exp_dir", default="log", help="name of the run: exp/<dataset_type>/<method>/<exp_dir>")
    add_device_flags(run)
    run.add_argument(
        "--deterministic",
        action="store_true",
        help="on CUDA: the same numbers each time, slower; a CPU gives them anyway",
    )


def add_device_flags(run):
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    run.add_argument(
        "--gpus", nargs="+", type=count, metavar="N", help="the GPUs to use, by number; several with torchrun"
    )
    run.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of convolutions; memory is always float32"
    )
    run.add_argument("--compile", action="store_true", help="compile the network first: minutes, then faster steps")
