"""Scores of test frames, while the memory is updated with them.

`score_one_by_one` is the rule itself, one frame after another. `score` gives the same scores faster. Whether a frame
updates the memory depends on how well it is decoded, which depends on the memory, which depends on the earlier frames.
But the queries do not depend on the memory, and an update is cheap. So `score` encodes a chunk of clips at once and
assumes that every frame does what the last frame did: update the memory, or leave it. It rolls the memory through the
chunk under this guess, decodes the chunk at once with each clip's own items, and accepts the frames up to and including
the first one that contradicts the guess: up to there, each frame had exactly the items of the rule.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.clips import Clips, normalise, testing_loader
from exp.flags import METHODS, Span
from model import memory
from model.convae import ConvAE, Encoded
from utils import progress, psnr, regular_score


class Scoring(NamedTuple):
    """How test frames are scored. Defaults are the paper's; th and alpha have none, as they depend on the method."""

    th: float  # γ: a frame whose regular score is below it updates the memory
    alpha: float  # λ: the weight of the PSNR against the feature distance
    memory_update: bool = True
    reset_memory: bool = False  # start each video from the trained items, not from the items after the previous video
    sigma: Span | None = None  # of a Gaussian over time that smooths the abnormality, in frames or seconds
    causal: bool = False  # smooth only with earlier frames


def published(shape: Mapping[str, Any]) -> Scoring:
    """The paper's Scoring for a network of this shape (exp.checkpoints.SHAPE).

    Without a memory, only the PSNR counts; no regular score is below th = 0, so no frame causes an update.
    """
    usual = METHODS[shape["method"]]
    return Scoring(usual["th"], usual["alpha"]) if shape["msize"] else Scoring(th=0.0, alpha=1.0)


class Place(NamedTuple):
    """Where a scored frame, the last frame of its clip, comes from."""

    video: int  # its index in the list of videos; with reset_memory, a new video resets the memory
    frame: int  # its index in the video, from 0
    source: Any = None  # other data from the reader, such as the picture


Batch = tuple[Tensor, list[Place]]  # clips, uint8 (B, t_length·c, H, W), and the place of the last frame of each


class Scored(NamedTuple):
    """Consecutive frames that were scored together: n frames, on the device that scored them."""

    places: list[Place]  # n
    predicted: Tensor  # (n, c, H, W) in [0, 1]
    target: Tensor  # (n, c, H, W) in [0, 1]
    previous: Tensor | None  # (n, c, H, W) in [0, 1], the last input frame of pred; None for recon
    queries: Tensor  # (n, h, w, C)
    items: Tensor  # (n, M, C): the memory that each frame read
    psnr: Tensor  # (n,) P, dB
    distance: Tensor  # (n,) D, the feature distance
    regular: Tensor  # (n,) E, the regular score
    updated: Tensor  # (n,) bool, whether the frame then updated the memory

    def psnr_of_copy(self) -> Tensor | None:
        """P of a copy of the previous frame in place of the prediction, (n,), dB; None for recon."""
        return None if self.previous is None else psnr(self.previous, self.target)


def to_unit(frames: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (frames + 1) / 2


@torch.inference_mode()
def score_one_by_one(model: ConvAE, items: Tensor, batches: Iterable[Batch], scoring: Scoring) -> Iterator[Scored]:
    """The rule of scoring (Sec. 3.3), literally: the definition of `score`, with the same arguments and results."""
    trained, video = items, None
    for clips, places in batches:
        for clip, place in zip(clips.split(1), places, strict=True):
            if scoring.reset_memory and place.video != video:
                items = trained
            video = place.video
            frames, target = model.split(normalise(clip.to(items.device)))
            output = model(frames, items)
            predicted, target, previous = to_unit(output.frame), to_unit(target), _previous(model, frames)
            p, d, e = psnr(predicted, target), output.compactness[None], regular_score(predicted, target)
            updated = (e < scoring.th) & scoring.memory_update
            yield Scored([place], predicted, target, previous, output.queries, items[None], p, d, e, updated)
            if updated:
                items = memory.update(output.queries.flatten(0, 2), items)


@torch.inference_mode()
def score(model: ConvAE, items: Tensor, batches: Iterable[Batch], scoring: Scoring) -> Iterator[Scored]:
    """Score the clips of `batches` in order and yield them as Scored, a few frames at a time.

    The model, in eval mode, and the items (M, C) must be on one device. The size of the batches changes no score.
    """
    trained, video = items, None
    guess, window = False, 1  # nothing is known about the first frame, so it is decoded alone
    for clips, places in batches:
        frames, target = model.split(normalise(clips.to(items.device, non_blocking=items.is_cuda)))
        encoded, target, previous = model.encode(frames), to_unit(target), _previous(model, frames)
        first = 0
        while first < len(places):
            some = slice(first, min(first + window, len(places)))
            part = Encoded(encoded.queries[some], tuple(skip[some] for skip in encoded.skips))
            queries = part.queries.flatten(1, 2)  # (n, K, C)
            resets = []
            for place in places[some]:
                resets.append(scoring.reset_memory and place.video != video)
                video = place.video
            before, after = _roll(items, queries, guess, trained, resets)
            predicted = to_unit(model.decode(part, before))
            regular = regular_score(predicted, target[some])
            updated = (regular < scoring.th) & scoring.memory_update
            n, wrong = _accepted(updated, guess)
            if wrong:  # the decision for frame n - 1 is not the guessed one
                guess = not guess
                after = memory.update(queries[n - 1], before[n - 1]) if guess else before[n - 1]
                window = n  # decisions change often here, and frames after a wrong guess are decoded twice
            else:
                window *= 2
            places_scored = places[first : first + n]
            yield Scored(
                places=places_scored,
                predicted=predicted[:n],
                target=target[some][:n],
                previous=None if previous is None else previous[some][:n],
                queries=part.queries[:n],
                items=before[:n],
                psnr=psnr(predicted[:n], target[some][:n]),
                distance=model.distance(queries[:n], before[:n]),
                regular=regular[:n],
                updated=updated[:n],
            )
            items, first, video = after, first + n, places_scored[-1].video
            window = min(window, len(places))


def _previous(model: ConvAE, frames: Tensor) -> Tensor | None:
    """The last input frame in (B, inputs, H, W): (B, c, H, W) in [0, 1]; None for recon, which has no earlier frame."""
    return to_unit(frames[:, -model.channels :]) if model.skips else None


def _roll(items: Tensor, queries: Tensor, update: bool, trained: Tensor, resets: list[bool]) -> tuple[Tensor, Tensor]:
    """The items before each frame, (n, M, C), and after the last, (M, C), if every frame updates them, or none does.

    queries: (n, K, C); resets: for each frame, whether the memory restarts from the trained items before it.
    """
    before = []
    for frame_queries, reset in zip(queries, resets, strict=True):
        items = trained if reset else items
        before.append(items)
        if update:
            items = memory.update(frame_queries, items)
    return torch.stack(before), items


def _accepted(updated: Tensor, guess: bool) -> tuple[int, bool]:
    """The number of decisions (n,) up to the first that contradicts the guess, included, and whether there is one."""
    wrong = (updated != guess).nonzero()
    return (int(wrong[0]) + 1, True) if len(wrong) else (len(updated), False)


def batches_of(clips: Clips, loader: DataLoader) -> Iterator[Batch]:
    """The batches of a loader that gives all clips in order, with the places of their frames."""
    places = (Place(video, int(frame)) for video, frames in enumerate(clips.ends) for frame in frames)
    for batch in loader:
        yield batch, list(islice(places, len(batch)))


class Scores(NamedTuple):
    """The scores of all clips of a split. Lists have one array per video, with one value per frame that has a score."""

    psnr: list[np.ndarray]  # P, dB
    distance: list[np.ndarray]  # D, feature distance
    regular: list[np.ndarray]  # E, regular score
    updated: list[np.ndarray]  # bool, whether the frame updated the memory
    psnr_of_copy: list[np.ndarray] | None  # P of copying the previous frame, dB; None for recon
    items: list[Tensor]  # the memory at the start of each video, (M, C), on the CPU


def score_clips(
    model: ConvAE,
    items: Tensor,
    loader: DataLoader,
    scoring: Scoring,
    look: Callable[[Scored], object] = lambda scored: None,
) -> Scores:
    """The scores of all clips of a loader, in order; loader.dataset is data.clips.Clips.

    look: called with each Scored before it is dropped.
    """
    clips: Clips = loader.dataset  # type: ignore[assignment]  # a DataLoader does not know the class of its data set
    parts: dict[str, list[Tensor]] = {name: [] for name in ("psnr", "distance", "regular", "updated")}
    copied: list[Tensor] = []
    begun: list[Tensor] = []
    with progress("scoring", "frame", total=len(clips)) as bar:
        for scored in score(model, items, batches_of(clips, loader), scoring):
            for name, values in parts.items():
                values.append(getattr(scored, name))
            if (of_copy := scored.psnr_of_copy()) is not None:
                copied.append(of_copy)
            look(scored)
            for place, used in zip(scored.places, scored.items, strict=True):
                if place.video == len(begun):
                    begun.append(used.cpu())
            bar.update(len(scored.places))
    ends = np.cumsum(clips.lengths)[:-1]

    def of_videos(values: list[Tensor]) -> list[np.ndarray]:
        return list(np.split(torch.cat(values).cpu().numpy(), ends))

    scores = {name: of_videos(values) for name, values in parts.items()}
    return Scores(**scores, psnr_of_copy=of_videos(copied) if copied else None, items=begun)


def replay(model: ConvAE, items: Tensor, clips: Clips, video: int, scoring: Scoring) -> Iterator[Scored]:
    """Score one video of `clips`, given by its index, again from its initial items; yields Scored."""
    alone = clips.select([video])
    yield from score(model, items, batches_of(alone, testing_loader(alone)), scoring._replace(reset_memory=False))
