"""What an epoch of training measures: its losses, and which memory items its queries chose."""

from typing import Any

import torch
from torch import Tensor

from exp.device import gather
from model import memory
from utils import InputError

NAMES = ("pixel", "compactness", "separateness", "loss")


class Meter:
    """Sums over the steps of an epoch, kept on the device: reading a value makes the CPU wait for the GPU."""

    def __init__(self, items: Tensor) -> None:
        self.steps = 0  # that were read
        self.unread: list[Tensor] = []  # the losses of the steps since then, (4,) each
        self.total = torch.zeros(len(NAMES), dtype=torch.float64)
        self.wins = torch.zeros(len(items), dtype=torch.int64, device=items.device)

    def add(self, losses: Tensor, queries: Tensor, items: Tensor) -> None:
        """Take a step: losses (4,) in the order of NAMES, queries (K, C) and the items (M, C) that they chose from."""
        self.unread.append(losses)
        self.wins += (memory.nearest(queries, items) == torch.arange(len(items), device=items.device)).sum(dim=0)

    def read(self) -> dict[str, float]:
        """The mean losses so far. Raises InputError at a loss that is not finite; several processes take part."""
        losses = gather(torch.stack(self.unread)[None]).mean(dim=0).cpu().double()  # (steps, 4), means over processes
        self.unread.clear()
        if not losses.isfinite().all():
            first = int((~losses.isfinite()).any(dim=1).nonzero()[0])
            raise InputError(f"the loss is not finite at step {self.steps + 1 + first}")
        self.steps += len(losses)
        self.total += losses.sum(dim=0)
        return dict(zip(NAMES, (self.total / self.steps).tolist(), strict=True))

    def metrics(self, items: Tensor) -> dict[str, Any]:
        """The mean losses, how many queries each item was nearest to, and the range of the cosines between items."""
        cosines = memory.similarity(items, items).cpu()[~torch.eye(len(items), dtype=torch.bool)]
        return {
            **dict(zip(NAMES, (self.total / self.steps).tolist(), strict=True)),
            "queries_won": gather(self.wins[None]).sum(dim=0).tolist(),
            "item_cosines": [cosines.min().item(), cosines.max().item()],
        }
