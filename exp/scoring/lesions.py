"""Lesions: a trained network is scored with its memory damaged, to measure what each use of the memory contributes.

    for name, lesion in LESIONS.items():
        model, items = lesion(trained.model, trained.items)
        result = evaluate(model, items, loader, scoring, labels, seconds)
        parts_auc(result, scoring)  # AUC of P alone, of D alone and of both

A lesion returns a network, which shares its weights with the original, and items. They are scored by the usual rule,
memory updates included. Nothing is trained again. Lesions are not part of the paper.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from exp.scoring.evaluation import Evaluation, abnormality, measure
from exp.scoring.score import Scoring
from model import memory
from model.convae import ConvAE
from utils import InputError

Lesion = Callable[[ConvAE, Tensor], tuple[ConvAE, Tensor]]  # network and items (M, C) -> the same, damaged
SEED = 0  # of random items


def intact(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Damage nothing: the reference for the other lesions."""
    return model, items


def random_items(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Replace the items by random unit vectors, uniform on the sphere and the same each time."""
    _need_memory(items)
    drawn = torch.randn(items.shape, generator=torch.Generator().manual_seed(SEED))
    return model, F.normalize(drawn, dim=-1).to(items)


def permuted_items(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Match queries and items as usual, but give a query that chose item m the item m + 1 (the first for the last).

    This affects the read, whose matching probabilities weight the wrong items, and the feature distance.
    """
    _need_memory(items)

    def read(queries: Tensor, items: Tensor) -> Tensor:
        return memory.matching_probability(queries, items) @ items.roll(-1, dims=-2)

    def distance(queries: Tensor, items: Tensor) -> Tensor:
        chosen = F.one_hot(memory.nearest(queries, items)[..., 0], items.shape[-2]).to(items.dtype)  # (..., K, M)
        return (queries - chosen @ items.roll(-1, dims=-2)).square().mean(dim=(-2, -1))

    return _with(model, read, distance), items


def one_item(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Give every query the same item, the normalised mean of all items, whichever item it matches best."""
    _need_memory(items)

    def mean(items: Tensor) -> Tensor:
        return F.normalize(items.mean(dim=-2, keepdim=True), dim=-1)  # (..., 1, C)

    def read(queries: Tensor, items: Tensor) -> Tensor:
        return mean(items).expand_as(queries)

    def distance(queries: Tensor, items: Tensor) -> Tensor:
        return (queries - mean(items)).square().mean(dim=(-2, -1))

    return _with(model, read, distance), items


def zero_read(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Give the decoder zeros in place of the read items. The feature distance is unchanged."""
    _need_memory(items)

    def read(queries: Tensor, items: Tensor) -> Tensor:
        return torch.zeros_like(queries)

    return _with(model, read, model.distance), items


LESIONS: dict[str, Lesion] = {
    "intact": intact,
    "random items": random_items,
    "permuted items": permuted_items,
    "one item for all": one_item,
    "zero read": zero_read,
}


class PartsAUC(NamedTuple):
    """Frame-level AUC in [0, 1]; None without labels of both classes."""

    psnr: float | None  # of P alone, λ = 1
    distance: float | None  # of D alone, λ = 0
    both: float | None  # with the λ of the scoring


def parts_auc(result: Evaluation, scoring: Scoring) -> PartsAUC:
    """The AUC of an evaluation for each part of its score, normalised per video as published."""

    def auc(alpha: float) -> float | None:
        part = scoring._replace(alpha=alpha)
        values = abnormality(result.psnr, result.distance, result.seconds, result.gaps, part)
        found = measure(result.labels, values) if result.labels else None
        return found.auc if found else None

    return PartsAUC(psnr=auc(1.0), distance=auc(0.0), both=auc(scoring.alpha))


Use = Callable[[Tensor, Tensor], Tensor]  # queries (..., K, C) and items (..., M, C) -> what is read, or the distance


def _with(model: ConvAE, read: Use, distance: Use) -> ConvAE:
    """A network that shares its weights with `model` and uses the memory differently."""
    changed = copy.copy(model)
    changed.read, changed.distance = read, distance
    return changed


def _need_memory(items: Tensor) -> None:
    if not len(items):
        raise InputError("the network was trained without a memory (--msize 0), so there is none to damage")
