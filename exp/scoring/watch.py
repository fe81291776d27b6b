"""Frames of a file, a camera, a stream or any other source, scored while they come, without a look at later ones."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.pictures import to_planes
from data.stream import Frame, Stream
from exp.scoring.score import Batch, Place, Scored, Scoring, score
from model.convae import ConvAE


class Watched(Stream):
    """A stream to be scored: how many of its clips are encoded at once.

    batch_size: at most so many; latency: seconds that the frame of a live stream may wait for others to be scored with.
    A live stream that scoring keeps up with is scored frame by frame at latency 0, in chunks where frames are waiting.
    """

    def __init__(self, source: str, fps: float | None, patience: float, batch_size: int, latency: float) -> None:
        super().__init__(source, fps, patience)
        self.batch_size, self.latency = batch_size, latency

    def is_due(self, frame: Frame) -> bool:
        """Whether a frame that waits to be scored must not wait for another one."""
        if frame.captured is None or self.waiting():
            return False
        return time.time() - frame.captured >= self.latency


def watch(model: ConvAE, items: Tensor, shape: dict[str, Any], stream: Watched, scoring: Scoring) -> Iterator[Scored]:
    """Score each frame of a stream by the frames before it. The `source` of a Scored.places is data.stream.Frame.

    model in eval mode and items (M, C) are on one device; shape is what exp.checkpoints.load_model says of them.
    """
    yield from score(model, items, batches_of_frames(stream, shape, stream.batch_size, stream.is_due), scoring)


def batches_of_frames(
    frames: Iterable[Frame],
    shape: dict[str, Any],
    batch_size: int,
    is_due: Callable[[Frame], bool] = lambda frame: False,
) -> Iterator[Batch]:
    """The clips of a sequence of frames, for a network of this shape; the first t_length - 1 frames have none.

    No clip spans a gap; the `gap` of the frame in a Place says whether one lies between it and the place before. A
    batch may be smaller than batch_size where its first frame is due to be scored.
    """
    window: deque[np.ndarray] = deque(maxlen=shape["t_length"])
    clips: list[np.ndarray] = []
    places: list[Place] = []
    gap = False
    for frame in frames:
        if frame.gap:
            if clips:
                yield torch.from_numpy(np.stack(clips)), places
                clips, places = [], []
            window.clear()
            gap = True
        window.append(to_planes(frame.picture, shape["h"], shape["w"], shape["c"]))
        if frame.scored and len(window) == shape["t_length"]:
            clips.append(np.concatenate(window))
            places.append(Place(0, frame.index, replace(frame, gap=gap)))
            gap = False
        if clips and (len(clips) == batch_size or is_due(places[0].source)):
            yield torch.from_numpy(np.stack(clips)), places
            clips, places = [], []
    if clips:
        yield torch.from_numpy(np.stack(clips)), places
