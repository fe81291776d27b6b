"""Scores of frames at test time, where memory goes on learning: batched, yet equal to scoring one frame at a time.

Whether a frame updates the memory depends on how well it was decoded, which depends on the memory, which depends on the
frames before it. So the plain way is one clip at a time. But queries do not depend on memory, and an update is cheap:
encode a chunk of clips at once, GUESS that all its frames decide as the last one did, roll the memory through the chunk
under that guess, decode the chunk at once with each clip's own items, and accept the frames up to and including the
first that decides otherwise: up to there every frame had the items it would have had alone. Go on from there.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Subset
from tqdm import tqdm

from data.clips import normalise, testing_loader
from model import memory
from model.convae import Encoded
from utils import psnr, psnr_of_worst_patch, regular_score

WHOLE_CHUNK = 1 << 20  # more frames than any chunk has


class Scored(NamedTuple):
    """Consecutive frames that were scored together: n frames, on the device that computed them."""

    predicted: torch.Tensor  # (n, c, H, W) in [0, 1]
    target: torch.Tensor  # (n, c, H, W) in [0, 1]
    queries: torch.Tensor  # (n, h, w, C)
    items: torch.Tensor  # (n, M, C): the memory each frame was read with
    psnr: torch.Tensor  # (n,) P, dB
    distance: torch.Tensor  # (n,) D, the feature distance
    regular: torch.Tensor  # (n,) E, the regular score
    updated: torch.Tensor  # (n,) bool, whether the frame's queries then updated the memory


def to_unit(frames):
    """[-1, 1] -> [0, 1]."""
    return (frames + 1) / 2


def _roll(items, trained, queries, starts, update):
    """The items before each frame (n, M, C) and after the last (M, C), if every frame updates them, or none does.

    queries (n, K, C); starts: for each frame, whether the memory is reset to `trained` before it.
    """
    before = []
    for frame_queries, start in zip(queries, starts, strict=True):
        items = trained if start else items
        before.append(items)
        if update:
            items = memory.update(frame_queries, items)
    return torch.stack(before), items


@torch.inference_mode()
def score(model, items, batches, lengths, th, memory_update=True, reset_memory=False, psnr_region=None):
    """Score the clips of `batches` in order; yields Scored, a few frames at a time, n in all.

    model in eval mode and items (M, C) on one device; batches: uint8 (B, t_length·c, H, W), of which `lengths[v]` clips
    belong to video v; th: γ, a frame whose regular score is below it updates the memory, unless memory_update is False.
    reset_memory starts each video from the given items; otherwise they carry on from video to video. psnr_region: P is
    that of the worst square of so many pixels a side, not the frame's.
    """
    quality = psnr if psnr_region is None else partial(psnr_of_worst_patch, patch=psnr_region)
    trained, last = items, False
    resets = set(np.cumsum([0, *lengths]).tolist()) if reset_memory else set()
    done, window = 0, 1  # nothing tells how the first frame decides: it is decoded alone
    for clips in batches:
        frames, target = model.split(normalise(clips.to(items.device, non_blocking=True)))
        encoded, target = model.encode(frames), to_unit(target)
        first = 0
        while first < len(clips):
            some = slice(first, min(first + window, len(clips)))
            part = Encoded(encoded.queries[some], tuple(skip[some] for skip in encoded.skips))
            queries = part.queries.flatten(1, 2)  # (n, K, C)
            starts = [done + k in resets for k in range(len(queries))]
            before, after = _roll(items, trained, queries, starts, update=last)
            predicted = to_unit(model.decode(part, before))
            regular = regular_score(predicted, target[some])
            decisions = (regular < th) & memory_update
            otherwise = (decisions != last).nonzero()
            n = int(otherwise[0]) + 1 if len(otherwise) else len(queries)
            if len(otherwise):  # frame n - 1 decided against the guess: what it leaves is worked out anew
                last = not last
                after = memory.update(queries[n - 1], before[n - 1]) if last else before[n - 1]
                window = n  # decisions flip often here: decode few frames in vain
            else:
                window = min(2 * window, WHOLE_CHUNK)
            yield Scored(
                predicted=predicted[:n],
                target=target[some][:n],
                queries=part.queries[:n],
                items=before[:n],
                psnr=quality(predicted[:n], target[some][:n]),
                distance=memory.compactness(queries[:n], before[:n]),
                regular=regular[:n],
                updated=decisions[:n],
            )
            items, first, done = after, first + n, done + n


def score_clips(model, items, loader, lengths, th, memory_update=True, reset_memory=False, psnr_region=None):
    """The scores of all clips in order, see `score`, as arrays (N,), and the items each video began with, (M, C)."""
    scores = {"psnr": [], "distance": [], "regular": [], "updated": []}
    starts, begun, done = np.cumsum([0, *lengths[:-1]]), [], 0
    with tqdm(total=sum(lengths), desc="scoring", unit="frame") as bar:
        for scored in score(model, items, loader, lengths, th, memory_update, reset_memory, psnr_region):
            for name, values in scores.items():
                values.append(getattr(scored, name))
            n = len(scored.psnr)
            begun += [scored.items[start - done].cpu() for start in starts if done <= start < done + n]
            done += n
            bar.update(n)
    return {name: torch.cat(values).cpu().numpy() for name, values in scores.items()}, begun


def replay(model, items, clips, video, th, memory_update=True, **loading):
    """Score one video of `clips` (its place in clips.videos) again from the items it began with; yields Scored.

    loading: settings of data.clips.testing_loader.
    """
    first = sum(clips.lengths[:video])
    one = Subset(clips, range(first, first + clips.lengths[video]))
    yield from score(model, items, testing_loader(one, **loading), [len(one)], th, memory_update)
