"""Frames of a video file, a camera or a stream, scored while they come and without a look at later ones."""

from collections import deque
from collections.abc import Iterator
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
    """What is known of a frame of a stream beside its index; the `source` of its exp.scoring.score.Place."""

    seconds: float  # from the first frame
    picture: np.ndarray  # uint8 (h, w, 3) BGR


def watch(
    model: ConvAE, items: Tensor, shape: dict[str, Any], stream: Stream, scoring: Scoring, batch_size: int
) -> Iterator[Scored]:
    """Score each frame of a stream by the frames before it; live streams one at a time, files in chunks of batch_size.

    model in eval mode and items (M, C) are on one device; shape is what exp.run.load_model says of them.
    """
    yield from score(model, items, _batches(stream, shape, 1 if stream.live else batch_size), scoring)


def _batches(stream: Stream, shape: dict[str, Any], batch_size: int) -> Iterator[Batch]:
    window: deque[np.ndarray] = deque(maxlen=shape["t_length"])
    clips: list[np.ndarray] = []
    places: list[Place] = []
    for index, (picture, seconds) in enumerate(stream):
        seen = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if shape["c"] == 1 else picture
        window.append(to_planes(seen, shape["h"], shape["w"]))
        if len(window) == shape["t_length"]:
            clips.append(np.concatenate(window))
            places.append(Place(0, index, Seen(seconds, picture)))
        if len(clips) == batch_size:
            yield torch.from_numpy(np.stack(clips)), places
            clips, places = [], []
    if clips:
        yield torch.from_numpy(np.stack(clips)), places
