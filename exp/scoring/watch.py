"""Frames of a file, a camera, a stream or any other source are scored as they arrive, without using later frames."""

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
    """A stream to be scored, and how many of its clips are encoded at once.

    batch_size: the largest number of clips; latency: seconds that a frame of a live stream may wait for others, to be
    scored with them. At latency 0, frames are scored one by one, or in chunks where several are waiting.
    """

    def __init__(self, source: str, fps: float | None, patience: float, batch_size: int, latency: float) -> None:
        super().__init__(source, fps, patience)
        self.batch_size, self.latency = batch_size, latency

    def is_due(self, frame: Frame) -> bool:
        """Whether a waiting frame must be scored now, without waiting for another one."""
        if frame.captured is None or self.waiting():
            return False
        return time.time() - frame.captured >= self.latency


def watch(model: ConvAE, items: Tensor, shape: dict[str, Any], stream: Watched, scoring: Scoring) -> Iterator[Scored]:
    """Score each frame of a stream from the frames before it. In Scored.places, `source` is a data.stream.Frame.

    The model, in eval mode, and the items (M, C) must be on one device; shape is that of exp.checkpoints.load_model.
    """
    yield from score(model, items, batches_of_frames(stream, shape, stream.batch_size, stream.is_due), scoring)


def batches_of_frames(
    frames: Iterable[Frame],
    shape: dict[str, Any],
    batch_size: int,
    is_due: Callable[[Frame], bool] = lambda frame: False,
) -> Iterator[Batch]:
    """The clips of a sequence of frames, for a network of this shape; the first t_length - 1 frames end no clip.

    No clip spans a gap. In a Place, the `gap` of the frame says whether there is a gap between it and the previous
    place. A batch is smaller than batch_size when its first frame is due to be scored.
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
