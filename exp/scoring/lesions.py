"""Lesions: a trained network scored with its memory damaged in one way, to see what each use of the memory is good for.

    for name, lesion in LESIONS.items():
        model, items = lesion(trained.model, trained.items)
        result = evaluate(model, items, loader, scoring, labels, seconds)
        parts_auc(result, scoring)  # AUC of P alone, of D alone and of both

A lesion gives another network, which shares its weights with the first, and other items; both are scored by the usual
rule, with its updates. Nothing is trained again. None of this is in the paper.
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
    """Nothing is damaged: what the others are compared with."""
    return model, items


def random_items(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Random unit vectors, uniform on the sphere, in place of the items; the same ones each time."""
    _need_memory(items)
    drawn = torch.randn(items.shape, generator=torch.Generator().manual_seed(SEED))
    return model, F.normalize(drawn, dim=-1).to(items)


def permuted_items(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Queries match the items as usual, but where one chose item m it gets item m + 1, the last one the first.

    That holds for the read, whose matching probabilities go to the wrong items, and for the feature distance.
    """
    _need_memory(items)

    def read(queries: Tensor, items: Tensor) -> Tensor:
        return memory.matching_probability(queries, items) @ items.roll(-1, dims=-2)

    def distance(queries: Tensor, items: Tensor) -> Tensor:
        chosen = F.one_hot(memory.nearest(queries, items)[..., 0], items.shape[-2]).to(items.dtype)  # (..., K, M)
        return (queries - chosen @ items.roll(-1, dims=-2)).square().mean(dim=(-2, -1))

    return _with(model, read, distance), items


def one_item(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """Every query gets the same item, the normalised mean of all: what it matches best no longer matters."""
    _need_memory(items)

    def mean(items: Tensor) -> Tensor:
        return F.normalize(items.mean(dim=-2, keepdim=True), dim=-1)  # (..., 1, C)

    def read(queries: Tensor, items: Tensor) -> Tensor:
        return mean(items).expand_as(queries)

    def distance(queries: Tensor, items: Tensor) -> Tensor:
        return (queries - mean(items)).square().mean(dim=(-2, -1))

    return _with(model, read, distance), items


def zero_read(model: ConvAE, items: Tensor) -> tuple[ConvAE, Tensor]:
    """The decoder gets zeros in place of what is read. The feature distance is the usual one."""
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
    """The AUC of an evaluation by each part of its score, normalised in each video as published."""

    def auc(alpha: float) -> float | None:
        part = scoring._replace(alpha=alpha)
        values = abnormality(result.psnr, result.distance, result.seconds, result.gaps, part)
        found = measure(result.labels, values) if result.labels else None
        return found.auc if found else None

    return PartsAUC(psnr=auc(1.0), distance=auc(0.0), both=auc(scoring.alpha))


Use = Callable[[Tensor, Tensor], Tensor]  # queries (..., K, C) and items (..., M, C) -> what is read, or the distance


def _with(model: ConvAE, read: Use, distance: Use) -> ConvAE:
    """The same network, which shares its weights, with another use of the memory."""
    changed = copy.copy(model)
    changed.read, changed.distance = read, distance
    return changed


def _need_memory(items: Tensor) -> None:
    if not len(items):
        raise InputError("the network was trained without a memory (--msize 0), so there is none to damage")
