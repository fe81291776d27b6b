"""A lower bound on the memory for training or scoring, so that settings that cannot fit are refused at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exp.checkpoints import build_model
from utils import InputError

# the limits of a container
CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def check_memory(shape: Mapping[str, Any], batch_size: int, device: torch.device, training: bool) -> None:
    """Raise InputError when a batch of this many clips needs more memory than the device has.

    shape: a dict with the names in exp.checkpoints.SHAPE. Only memory that is certainly needed is counted, so nothing
    that could work is refused; what passes may still run out of memory.
    """
    there = memory_of(device)
    needed = least_memory(shape, batch_size, training)
    if there and needed > there:
        flags = " ".join(f"--{name} {shape[name]}" for name in ("h", "w", "msize", "fdim"))
        raise InputError(
            f"{flags} with {batch_size} clips at once need at least {needed / 2**30:,.0f} GiB of memory, and there are"
            f" {there / 2**30:,.0f} GiB: give smaller values"
        )


def least_memory(shape: Mapping[str, Any], batch_size: int, training: bool) -> float:
    """The number of bytes needed at least; infinite for sizes that no tensor can have.

    Training keeps the weights, their gradients, Adam's two averages, and the output of each convolution of the encoder.
    Scoring keeps the weights and the output of one convolution. Outputs of convolutions may have 16 bits.
    """
    given: list[int] = []

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        given.append(output.numel())

    try:
        with torch.device("meta"):  # sizes only
            model = build_model(shape)
            for module in model.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    module.register_forward_hook(keep)
            frames = torch.empty(batch_size, model.inputs, shape["h"], shape["w"])
            model.encoder(frames)
            queries = batch_size * (shape["h"] // 8) * (shape["w"] // 8)
        weights = sum(parameter.numel() for parameter in model.parameters())
        matching = queries * shape["msize"]  # one value per query and item
        items = shape["msize"] * shape["fdim"]
        kept = 4 * weights + items + 2 * matching if training else weights + items + matching
        activations = sum(given) if training else max(given)
    except (RuntimeError, OverflowError):  # a product beyond 64 bits
        return float("inf")
    return 4 * kept + 2 * activations


def memory_of(device: torch.device) -> int:
    """The bytes of memory that a device has, or that a container may use; 0 if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return 0
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        if Path(path).is_file():
            text = Path(path).read_text(encoding="utf-8").strip()
            found += [int(text)] if text.isdecimal() else []
    return min(found)
