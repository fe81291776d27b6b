"""Measuring and showing an epoch of training: losses, chosen memory items, remaining time."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from exp.device import gather
from exp.flags import ANY_DATASET, DATASETS
from model import memory
from utils import InputError, duration, progress

ESTIMATED_AFTER = 20  # steps after which the training time is estimated
SMALL_TAKES = 0.1  # the time of training at 64x64 relative to 256x256, on a CPU (exp/README.md, Speed)
NAMES = ("pixel", "compactness", "separateness", "loss")


class Meter:
    """Sums over the steps of an epoch, kept on the device, since reading a value makes the CPU wait for the GPU."""

    def __init__(self, items: Tensor) -> None:
        self.steps = 0  # number of steps whose losses were read
        self.unread: list[Tensor] = []  # the losses of the steps since then, (4,) each
        self.total = torch.zeros(len(NAMES), dtype=torch.float64)
        self.wins = torch.zeros(len(items), dtype=torch.int64, device=items.device)

    def add(self, losses: Tensor, queries: Tensor, items: Tensor) -> None:
        """Add a step: losses (4,) in the order of NAMES, queries (K, C) and the items (M, C) that they matched."""
        self.unread.append(losses)
        if not len(items):
            return
        self.wins += (memory.nearest(queries, items) == torch.arange(len(items), device=items.device)).sum(dim=0)

    def read(self) -> None:
        """Move the losses since the last call to the CPU; all processes must call it. Raises InputError when a loss is
        not finite."""
        losses = gather(torch.stack(self.unread)[None]).mean(dim=0).cpu().double()  # (steps, 4), means over processes
        self.unread.clear()
        if not losses.isfinite().all():
            first = int((~losses.isfinite()).any(dim=1).nonzero()[0])
            raise InputError(f"the loss is not finite at step {self.steps + 1 + first}")
        self.steps += len(losses)
        self.total += losses.sum(dim=0)

    def losses(self) -> dict[str, float]:
        """The mean losses of the steps read so far."""
        return dict(zip(NAMES, (self.total / self.steps).tolist(), strict=True))

    def metrics(self, items: Tensor) -> dict[str, Any]:
        """The mean losses, the number of queries nearest to each item, and the range of the cosines between items.

        Without a memory, the last two are empty lists.
        """
        cosines = memory.similarity(items, items).cpu()[~torch.eye(len(items), dtype=torch.bool)]
        return {
            **self.losses(),
            "queries_won": gather(self.wins[None]).sum(dim=0).tolist(),
            "item_cosines": [cosines.min().item(), cosines.max().item()] if len(items) else [],
        }


class EpochProgress:
    """Shows the progress of an epoch as a bar, and calls `say` once, if given, with the estimated seconds per epoch.

    Call it with the number of finished steps and the mean losses so far.
    """

    def __init__(self, name: str, steps: int, shown: bool, say: Callable[[float], None] | None) -> None:
        self.bar = progress(name, "batch", total=steps, shown=shown)
        self.steps, self.say, self.start = steps, say, time.perf_counter()
        self.first: tuple[int, float] | None = None  # the steps of the first call, and when it was

    def __call__(self, step: int, losses: dict[str, float]) -> None:
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({name: f"{value:.5f}" for name, value in losses.items()}, refresh=False)
        now = time.perf_counter()
        if self.first is None:
            self.first = step, now
        done, since = self.first  # the first steps take longer: the network is compiled, memory is allocated
        if self.say and (step >= done + ESTIMATED_AFTER or step == self.steps):
            each = (now - since) / (step - done) if step > done else (now - self.start) / step
            self.say(each * self.steps)
            self.say = None

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def training_time(seconds: float, epochs: int, args: Mapping[str, Any], device: torch.device) -> list[str]:
    """Lines that say how long so many epochs of so many seconds take; args: the flags of Train.py."""
    lines = [f"an epoch takes about {duration(seconds)} here, {epochs} take {duration(seconds * epochs)}"]
    usual = (args["h"], args["w"]) == (ANY_DATASET["h"], ANY_DATASET["w"])
    if device.type == "cpu" and usual and args["dataset_type"] not in DATASETS:
        small = duration(seconds * epochs * SMALL_TAKES)
        lines.append(f"    with --h 64 --w 64 they take roughly {small} on this CPU; Ctrl-C stops this training")
    return lines
