"""Frames of a file, a camera, a stream or any other source, scored while they come, without a look at later ones."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from data.frames import to_planes
from data.stream import Stream
from exp.scoring.score import Batch, Place, Scored, Scoring, score
from model.convae import ConvAE


class Seen(NamedTuple):
    """A frame as it came; the `source` of its exp.scoring.score.Place."""

    picture: np.ndarray  # uint8 (h, w, 3) BGR
    seconds: float = 0.0  # from the first frame


def watch(
    model: ConvAE, items: Tensor, shape: dict[str, Any], stream: Stream, scoring: Scoring, batch_size: int
) -> Iterator[Scored]:
    """Score each frame of a stream by the frames before it; live streams one at a time, files in chunks of batch_size.

    model in eval mode and items (M, C) are on one device; shape is what exp.checkpoints.load_model says of them.
    """
    frames = (Seen(picture, seconds) for picture, seconds in stream)
    yield from score(model, items, batches_of_frames(frames, shape, 1 if stream.live else batch_size), scoring)


def batches_of_frames(frames: Iterable[Seen], shape: dict[str, Any], batch_size: int) -> Iterator[Batch]:
    """The clips of a sequence of frames, for a network of this shape; the first t_length - 1 frames have none."""
    window: deque[np.ndarray] = deque(maxlen=shape["t_length"])
    clips: list[np.ndarray] = []
    places: list[Place] = []
    for index, frame in enumerate(frames):
        picture = cv2.cvtColor(frame.picture, cv2.COLOR_BGR2GRAY) if shape["c"] == 1 else frame.picture
        window.append(to_planes(picture, shape["h"], shape["w"]))
        if len(window) == shape["t_length"]:
            clips.append(np.concatenate(window))
            places.append(Place(0, index, frame))
        if len(clips) == batch_size:
            yield torch.from_numpy(np.stack(clips)), places
            clips, places = [], []
    if clips:
        yield torch.from_numpy(np.stack(clips)), places
