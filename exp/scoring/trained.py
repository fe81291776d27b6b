"""A trained network that is ready to score: loaded by Evaluate.py, and the interface for other Python programs.

exp/README.md has an example in "From Python".
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.clips import CHUNK
from data.frames import open_video
from data.intervals import kept_seconds
from data.pictures import read_picture
from data.stream import Frame, Stream
from data.times import gaps
from exp.checkpoints import SHAPE, load_model
from exp.device import fold_batch_norms, pick_device, place
from exp.scoring import calibration
from exp.scoring.calibration import Calibration
from exp.scoring.score import Scoring, published, score
from exp.scoring.watch import batches_of_frames
from model.convae import ConvAE
from utils import InputError


class Trained(NamedTuple):
    """A network in eval mode with its memory, on one device."""

    model: ConvAE
    items: Tensor  # (M, C)
    shape: dict[str, Any]  # see exp.checkpoints.SHAPE
    normal: Calibration | None
    no_calibration: str  # why there is none

    def scoring(self) -> Scoring:
        """The paper's Scoring for this network."""
        return published(self.shape)


def load_trained(
    path: Path | str,
    items_path: Path | None = None,
    given: dict[str, Any] | None = None,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    compiled: bool = False,
) -> Trained:
    """Load a network with its memory items and, if it has one, its calibration.

    path: a model file of this project or of the authors' released code, or the directory of a run; items_path: its
    memory items, m_items.pt beside it if not given; given: settings of exp.checkpoints.SHAPE that the file must agree
    with, and h and w for a released model, which does not store them (256 if not given). For all that PyTorch computes
    in this process, it sets whether convolutions use TF32 and whether cuDNN times its algorithms, as `precision` needs.
    Raises InputError when a file is missing or damaged, or when the files or settings contradict each other.
    """
    path = Path(path)
    model_path = path / "model.pth" if path.is_dir() else path
    items_path = items_path or model_path.with_name("m_items.pt")
    model, items, shape = load_model(model_path, items_path, {**dict.fromkeys(SHAPE), **(given or {})})
    device = pick_device(device) if isinstance(device, str) else device
    normal, missing = None, ""
    try:
        normal = calibration.load(model_path, items)
    except InputError as error:
        missing = str(error)
    model = place(fold_batch_norms(model), device, precision, compiled)
    return Trained(model, items.to(device), shape, normal, missing)


class FrameScores(NamedTuple):
    """The scores of consecutive frames, each of shape (n,)."""

    frame: np.ndarray  # index, from 0; the first t_length - 1 frames of a video, and after a gap, have no score
    seconds: np.ndarray  # presentation time from the first frame; NaN where it is not known
    psnr: np.ndarray  # P, dB
    distance: np.ndarray  # D, the feature distance
    regular: np.ndarray  # E, the regular score
    updated: np.ndarray  # bool, whether the frame updated the memory
    abnormality: np.ndarray | None  # calibrated, see exp/scoring/calibration.py; None without a calibration


def score_frames(trained: Trained, frames: Iterable[np.ndarray], scoring: Scoring | None = None) -> FrameScores:
    """Score the consecutive frames of one video, uint8 (h, w, 3) BGR of any size, by default as the paper does.

    The `sigma` of scoring, which smooths scores over time, is not applied. Raises InputError when there are fewer
    frames than a clip has.
    """
    return _score(trained, (_frame(k, picture) for k, picture in enumerate(frames)), scoring)


def score_video(trained: Trained, path: Path | str, scoring: Scoring | None = None) -> FrameScores:
    """Score a video file, or a folder with the frames of one video, as `score_frames` does.

    Raises InputError when it cannot be read to its end, or has fewer frames than a clip.
    """
    return _score(trained, _frames_of(Path(path)), scoring)


def _frames_of(path: Path) -> Iterator[Frame]:
    if path.is_dir():
        video = open_video(path)
        seconds = kept_seconds(video)
        is_gap = None if seconds is None else gaps(seconds)
        for k in range(len(video.frames)):
            time = () if seconds is None or is_gap is None else (float(seconds[k]), bool(is_gap[k]))
            yield _frame(k, read_picture(video.path(k)), *time)
        return
    with contextlib.closing(Stream(str(path))) as stream:
        yield from stream
        if stream.problem:
            raise InputError(stream.problem)


def _frame(index: int, picture: np.ndarray, seconds: float = np.nan, gap: bool = False) -> Frame:
    return Frame(index, seconds, picture, gap, scored=True, captured=None)


def _score(trained: Trained, frames: Iterable[Frame], scoring: Scoring | None) -> FrameScores:
    scoring = scoring or trained.scoring()
    rows: list[np.ndarray] = []  # frame, seconds, P, D, E and updated; pictures are dropped once they are scored
    for part in score(trained.model, trained.items, batches_of_frames(frames, trained.shape, CHUNK), scoring):
        places = [(place.frame, place.source.seconds) for place in part.places]
        columns = (part.psnr, part.distance, part.regular, part.updated)
        rows.append(np.column_stack((places, *(column.double().cpu().numpy() for column in columns))))
    if not rows:
        raise InputError(f"too few frames: this network needs clips of {trained.shape['t_length']}")
    frame, seconds, p, d, e, updated = np.concatenate(rows).T
    abnormality = trained.normal.abnormality(p, d, scoring.alpha) if trained.normal else None
    return FrameScores(frame.astype(int), seconds, p, d, e, updated > 0, abnormality)
