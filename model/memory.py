"""The memory of normality: M items, prototypes of normal features, read by every query and updated without gradients.

    queries  q_k  (..., K, C)  L2-normalised features, one per position
    items    p_m  (..., M, C)  L2-normalised; M = 0 means no memory: nothing is updated, and both losses are 0

Items are a value, not part of the network's state: every function takes them, and `update` returns new ones. During
training, all K = B·h·w queries of a batch share one memory, (M, C). At test time, each frame may have its own memory:
(B, K, C) with (B, M, C), where leading dimensions are independent. Items are never trained by gradient. Equation and
section numbers refer to the paper (arXiv 2003.13228). Where the released code differs from the paper's text, the code
is followed and a comment says so.
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
    """p̂_k = Σ_m w_{k,m} p_m, Eq. 2: (..., K, C). No gradient flows through it."""
    return matching_probability(queries.detach(), items.detach()) @ items.detach()


def nearest(queries: Tensor, items: Tensor, count: int = 1) -> Tensor:
    """The indices of the `count` items closest to each query, nearest first: (..., K, count)."""
    return similarity(queries, items).topk(count, dim=-1).indices


def single_process(values: Tensor, how: str) -> Tensor:
    """The reduction ("max" or "sum") over the processes when there is only one: returns the values (...) unchanged."""
    return values


@torch.no_grad()
def update(queries: Tensor, items: Tensor, over_processes: Callable[[Tensor, str], Tensor] = single_process) -> Tensor:
    """The items moved towards the queries nearest to them, Eq. 3: (..., M, C).

    p_m <- normalise(p_m + Σ_{k in U_m} v'_{k,m} q_k), where U_m are the queries whose nearest item is m. v (Eq. 4) is
    the softmax of s over ALL queries of the batch (paper: of one frame), and v' = v / max_k v (Eq. 5) divides it by its
    maximum over the same queries (paper: over U_m), which leaves v' = exp(s - max_k s). When several processes each
    hold some of the queries, over_processes takes the maximum and the sums over all of them, so that every process
    gets the same items.
    """
    if not items.shape[-2]:
        return items
    s = similarity(queries, items)
    highest = over_processes(s.amax(dim=-2), "max").unsqueeze(-2)
    v = (s - highest).exp()  # v'
    chosen = F.one_hot(nearest(queries, items).squeeze(-1), items.shape[-2]).to(v.dtype)  # (..., K, M): k in U_m
    sums = torch.cat(((chosen * v).mT @ queries, chosen.sum(dim=-2).unsqueeze(-1)), dim=-1)  # (..., M, C + 1)
    moves, counts = over_processes(sums, "sum").split((queries.shape[-1], 1), dim=-1)
    return torch.where(counts > 0, F.normalize(items + moves, dim=-1), items)  # unchosen items stay as they are


def _pick(items: Tensor, index: Tensor) -> Tensor:
    """items[index] for each leading dimension: (..., M, C) and (..., K) -> (..., K, C)."""
    # gather, because torch.export cannot trace take_along_dim for a batch of variable size
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
    """The feature distance of each single query: the mean of (q_k - nearest item)² over channels: (..., K)."""
    return _to_nearest(queries, items).mean(dim=-1)


def separateness(queries: Tensor, items: Tensor) -> Tensor:
    """Feature separateness loss (Sec. 3.2): the triplet margin loss with margin 1, averaged over k; (...).

    The anchor is q_k, the positive its nearest item and the negative its second nearest. The paper sums over k instead.
    Raises RuntimeError when there is only one item, and so no second nearest.
    """
    if not items.shape[-2]:
        return queries.new_zeros(queries.shape[:-2])
    items = items.detach()
    index = nearest(queries, items, count=2)
    positive, negative = _pick(items, index[..., 0]), _pick(items, index[..., 1])
    return F.triplet_margin_loss(queries, positive, negative, margin=1.0, reduction="none").mean(dim=-1)
