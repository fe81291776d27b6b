"""What exp/reproduce/__main__.py trains and how it evaluates it, and the numbers of others to compare with."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from exp.flags import Span
from exp.scoring.calibration import NORMAL_SHARE
from exp.scoring.score import Scoring

# Ways to evaluate a run: each gives the fields of Scoring that differ from the published ones. In place of th,
# `quantile` takes γ from the regular scores of the calibration. The list was fixed before any run of this project was
# evaluated; a setting with a value has its whole curve here, and no point of it is picked.
Way = Mapping[str, Any]
PUBLISHED = "as published"
PSNR_ALONE, DISTANCE_ALONE = "`--alpha 1`, PSNR alone", "`--alpha 0`, feature distance alone"
UPDATE_OFF = "`--memory_update off`"
THRESHOLD_AUTO = f"`--th auto`, γ the {NORMAL_SHARE} quantile"
SIGMAS = (1, 2, 5, 10, 20)  # frames
AUTO = {"quantile": NORMAL_SHARE}
EVALUATIONS: dict[str, Way] = {
    PUBLISHED: {},
    PSNR_ALONE: {"alpha": 1.0},
    DISTANCE_ALONE: {"alpha": 0.0},
    UPDATE_OFF: {"memory_update": False},
    "`--th 1`, every frame updates memory": {"th": 1.0},
    **{f"γ the {q} quantile of normal frames": {"quantile": q} for q in (0.25, 0.5, 0.75, 0.9)},
    THRESHOLD_AUTO: AUTO,
    "γ the 0.99 quantile of normal frames": {"quantile": 0.99},
    **{f"`--smooth {s}`": {"sigma": Span(s)} for s in SIGMAS},
    **{f"`--smooth {s} --smooth_kind causal`": {"sigma": Span(s), "causal": True} for s in SIGMAS},
    **{f"`--th auto --smooth {s}`": {**AUTO, "sigma": Span(s)} for s in SIGMAS},
    **{f"`--th auto --smooth {s} --smooth_kind causal`": {**AUTO, "sigma": Span(s), "causal": True} for s in SIGMAS},
}
ALL, ALONE = tuple(EVALUATIONS), (PUBLISHED,)
ONE_PASS = (PUBLISHED, PSNR_ALONE, DISTANCE_ALONE)  # what a single pass over the test set gives
PARTS = (*ONE_PASS, UPDATE_OFF)


def scoring_in(way: Way, usual: Scoring, regular: np.ndarray) -> Scoring:
    """The published scoring of a run, changed by a way; regular: the regular scores (n,) of its calibration."""
    changes = dict(way)
    if "quantile" in changes:
        changes["th"] = float(np.quantile(regular, changes.pop("quantile")))
    return usual._replace(**changes)


def settings_of(way: Way) -> dict[str, Any]:
    """A way as it is stored in results."""
    return {name: str(value) if isinstance(value, Span) else value for name, value in way.items()}


class Training(NamedTuple):
    """Runs of Train.py that differ only in their seed."""

    method: str
    seeds: tuple[int, ...]
    option: str = ""  # what distinguishes them from other runs of the method in the plan, as part of their names
    flags: str = ""  # and as flags of Train.py
    base: str = ""  # the option of the runs that they are compared with, seed by seed
    ways: tuple[str, ...] = ALL  # the ways of EVALUATIONS in which they are evaluated
    # seeds that are also evaluated with other γ, each in another pass over the test set; None: all seeds
    gamma_for: tuple[int, ...] | None = None
    lesions: bool = False  # whether they are also scored with damaged memories (exp/scoring/lesions.py)
    on_front_page: bool = True  # whether README.md shows them; exp/README.md shows all

    @property
    def name(self) -> str:
        return f"{self.method}-{self.option}" if self.option else self.method

    def ways_of(self, seed: int) -> dict[str, Way]:
        """The ways in which the run with this seed is evaluated, by their names in EVALUATIONS."""
        all_ways = {name: EVALUATIONS[name] for name in self.ways}
        if self.gamma_for is None or seed in self.gamma_for:
            return all_ways
        return {name: way for name, way in all_ways.items() if not way.keys() & {"th", "quantile"}}


class Plan(NamedTuple):
    """Trainings on one data set, with flags that they share."""

    dataset_type: str
    flags: str  # of Train.py, for all runs
    trainings: tuple[Training, ...]
    untrained: tuple[str, ...] = ()  # methods whose untrained networks are scored, as a baseline

    def setting(self, flag: str) -> int | None:
        """The number that a flag has for all runs; None where the flag is not given."""
        words = self.flags.split()
        return int(words[words.index(flag) + 1]) if flag in words else None

    def training(self, name: str) -> Training:
        """The training with this name."""
        return next(training for training in self.trainings if training.name == name)

    def training_flags(self, training: Training) -> list[str]:
        return f"--dataset_type {self.dataset_type} --method {training.method} {self.flags} {training.flags}".split()


SMALL = "--h 64 --w 64 --batch_size 4"
BF16 = "--precision bf16"
FAST = f"{BF16} --compile"
NO_MEMORY_LOSSES = ("no_memory_losses", "--loss_compact 0 --loss_separate 0")
COMPACTNESS_ALONE = ("bf16-compactness_alone", f"{BF16} --loss_separate 0", "bf16")
SEPARATENESS_ALONE = ("bf16-separateness_alone", f"{BF16} --loss_compact 0", "bf16")
NO_MEMORY = ("no_memory", "--msize 0")
BOTH = ("pred", "recon")
PLANS = {
    "ped2_cpu": Plan(
        "ped2",
        f"{SMALL} --epochs 5",
        (
            Training("pred", tuple(range(10)), gamma_for=(0, 1, 2), lesions=True),
            Training("recon", (0, 1, 2), gamma_for=(0,), lesions=True),
            Training("pred", (0, 1, 2), *NO_MEMORY, ways=ALONE),
            Training("recon", (0, 1, 2), *NO_MEMORY, ways=ALONE),
            Training("pred", (0, 1, 2), *NO_MEMORY_LOSSES, ways=PARTS),
            Training("pred", (0, 1, 2), "bf16", BF16, ways=PARTS, on_front_page=False),
            Training("pred", (0, 1, 2), *COMPACTNESS_ALONE, ways=ONE_PASS, on_front_page=False),
            Training("pred", (0, 1, 2), *SEPARATENESS_ALONE, ways=ONE_PASS, on_front_page=False),
        ),
        untrained=BOTH,
    ),
    "ped2_cpu_10": Plan("ped2", f"{SMALL} --epochs 10", (Training("pred", (0, 1, 2)), Training("recon", (0,)))),
    "ped2_cpu_60": Plan("ped2", f"{SMALL} --epochs 60", (Training("pred", (0,), lesions=True),)),
    "ped2_cpu_128": Plan(
        "ped2",
        f"--h 128 --w 128 --batch_size 4 --epochs 5 {BF16}",
        (Training("pred", (0,), ways=ONE_PASS),),
        untrained=("pred",),
    ),
    "ped2_cpu_256": Plan(  # the paper's frame size, in as many epochs as two cores train in under two hours
        "ped2",
        f"--h 256 --w 256 --batch_size 4 --epochs 3 {BF16}",
        (Training("pred", (0, 1), ways=ONE_PASS), Training("recon", (0,), ways=ONE_PASS)),
        untrained=("pred",),
    ),
    "ped2_paper": Plan(
        "ped2",
        "--h 256 --w 256 --batch_size 4 --epochs 60",
        (
            Training("pred", (0, 1, 2), flags=FAST, lesions=True),
            Training("recon", (0, 1, 2), flags=FAST, lesions=True),
            Training("pred", (0,), "fp32"),  # whether the fast settings cost anything
        ),
        untrained=BOTH,
    ),
    "synthetic": Plan("synthetic", "", (Training("pred", (0, 1, 2), ways=ALONE), Training("recon", (0,), ways=ALONE))),
    "tiny": Plan(  # shows within minutes that everything works
        "synthetic",
        "--h 16 --w 16 --fdim 16 --msize 4 --epochs 2",
        (
            Training("pred", (0, 1), lesions=True),
            Training("recon", (0,)),
            Training("pred", (0, 1), *NO_MEMORY, ways=ALONE),
        ),
        untrained=("pred",),
    ),
}
SIZES = ("ped2_cpu", "ped2_cpu_128", "ped2_cpu_256", "ped2_paper")  # the same method at several frame sizes
UNTRAINED_SEEDS = (0, 1, 2)

# Frame-level AUC, %. Re-trainings are from public threads and repositories; nearly all are single runs without a seed.
PAPER = {
    ("ped2", "pred"): 97.0,
    ("ped2", "recon"): 90.2,
    ("avenue", "pred"): 88.5,
    ("avenue", "recon"): 82.8,
    ("shanghai", "pred"): 70.5,
    ("shanghai", "recon"): 69.8,
}
RETRAININGS = {("ped2", "pred"): "89–96.5, median about 94", ("ped2", "recon"): "87–88.8"}
# Runs of the authors' released code for this project: seed 0, PyTorch 2.13, on a CPU
RELEASED_CODE = {
    ("ped2_cpu", "pred"): "88.9 (after epoch 1: 86.8)",
    ("ped2_cpu", "recon"): "79.3 (3 epochs)",
}
# Clips of the training videos, to estimate what a plan costs
CLIPS = {("ped2", "pred"): 2486, ("ped2", "recon"): 2550}
