"""The memory of normality: M items, prototypes of normal features, read by every query and updated without gradients.

    queries  q_k  (..., K, C)  L2-normalised features, one per position
    items    p_m  (..., M, C)  L2-normalised; M = 0 is no memory: nothing is updated, and both losses are 0

Items are a value, not a state of the network: they go in, and `update` returns the new ones. While training, all
K = B·h·w queries of a batch share one memory, (M, C); while testing, each frame may have its own, (B, K, C) with
(B, M, C): leading dimensions are independent. Items are never trained by gradient. Equation and section numbers are
those of the paper (arXiv 2003.13228); where the released code differs from its text, the code is followed and a comment
says so.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def initial_items(msize: int, feature_dim: int, generator: Generator | None = None) -> Tensor:
    """M random items, (msize, feature_dim): uniform on [0, 1), then L2-normalised."""
    return F.normalize(torch.rand(msize, feature_dim, generator=generator), dim=-1)


def similarity(queries: Tensor, items: Tensor) -> Tensor:
    """s_{k,m} = q_k · p_m, the cosine of each query and item: (..., K, M)."""
    return queries @ items.mT


def matching_probability(queries: Tensor, items: Tensor) -> Tensor:
    """w_{k,m}, Eq. 1: softmax of s over the items; (..., K, M), rows sum to 1."""
    return similarity(queries, items).softmax(dim=-1)


def read(queries: Tensor, items: Tensor) -> Tensor:
    """p̂_k = Σ_m w_{k,m} p_m, Eq. 2: (..., K, C). No gradient flows back through w."""
    return matching_probability(queries.detach(), items.detach()) @ items.detach()


def nearest(queries: Tensor, items: Tensor, count: int = 1) -> Tensor:
    """The indices of the `count` items closest to each query, nearest first: (..., K, count)."""
    return similarity(queries, items).topk(count, dim=-1).indices


def update_weight(queries: Tensor, items: Tensor) -> Tensor:
    """v_{k,m}, Eq. 4: softmax of s over ALL queries of the batch (the paper: of a frame); (..., K, M)."""
    return similarity(queries, items).softmax(dim=-2)


def alone(values: Tensor, how: str) -> Tensor:
    """The "max" or "sum" over all processes of values (...), where there is one process: the values themselves."""
    return values


@torch.no_grad()
def update(queries: Tensor, items: Tensor, over_processes: Callable[[Tensor, str], Tensor] = alone) -> Tensor:
    """The items moved towards the queries nearest to them, Eq. 3: (..., M, C).

    p_m <- normalise(p_m + Σ_{k in U_m} v'_{k,m} q_k), U_m the queries whose nearest item is m, v' = v / max_k v. Of
    several processes, each with queries of its own, over_processes gives the same maximum and sums to all.
    """
    if not items.shape[-2]:
        return items
    s = similarity(queries, items)
    highest = over_processes(s.amax(dim=-2), "max").unsqueeze(-2)
    v = (s - highest).exp()  # v', Eq. 5: the softmax by its maximum over all queries (the paper: over those of U_m)
    chosen = F.one_hot(nearest(queries, items).squeeze(-1), items.shape[-2]).to(v.dtype)  # (..., K, M): k in U_m
    sums = torch.cat(((chosen * v).mT @ queries, chosen.sum(dim=-2).unsqueeze(-1)), dim=-1)  # (..., M, C + 1)
    moves, counts = over_processes(sums, "sum").split((queries.shape[-1], 1), dim=-1)
    return torch.where(counts > 0, F.normalize(items + moves, dim=-1), items)  # an item nobody chose stays as it is


def _pick(items: Tensor, index: Tensor) -> Tensor:
    """items[index] for each leading dimension: (..., M, C) and (..., K) -> (..., K, C)."""
    # gather and not take_along_dim, which torch.export cannot trace for batches of any size
    return items.gather(-2, index.unsqueeze(-1).expand(*index.shape, items.shape[-1]))


def _to_nearest(queries: Tensor, items: Tensor) -> Tensor:
    """(q_k - nearest item)² of each query and channel: (..., K, C)."""
    if not items.shape[-2]:
        return torch.zeros_like(queries)
    return (queries - _pick(items.detach(), nearest(queries, items)[..., 0])).square()


def compactness(queries: Tensor, items: Tensor) -> Tensor:
    """Feature compactness loss (Sec. 3.2): the mean of (q_k - nearest item)² over k and channels; (...).

    At test time this is the feature distance D (Sec. 3.3). The paper sums L2 norms instead.
    """
    return _to_nearest(queries, items).mean(dim=(-2, -1))


def distance_map(queries: Tensor, items: Tensor) -> Tensor:
    """The feature distance of each query alone, the mean of (q_k - nearest item)² over channels: (..., K)."""
    return _to_nearest(queries, items).mean(dim=-1)


def separateness(queries: Tensor, items: Tensor) -> Tensor:
    """Feature separateness loss (Sec. 3.2): triplet margin loss, margin 1, of q_k, its nearest and second nearest item.

    (...), the mean over k (the paper: the sum). Raises RuntimeError with one item only: it has no second nearest.
    """
    if not items.shape[-2]:
        return queries.new_zeros(queries.shape[:-2])
    items = items.detach()
    index = nearest(queries, items, count=2)
    positive, negative = _pick(items, index[..., 0]), _pick(items, index[..., 1])
    return F.triplet_margin_loss(queries, positive, negative, margin=1.0, reduction="none").mean(dim=-1)
