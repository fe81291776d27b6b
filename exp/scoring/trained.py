"""A trained network, ready to score: what Evaluate.py loads, and the door for other Python programs.

from exp.scoring.trained import load_trained, score_frames

trained = load_trained(Path("exp/weights/ped2_pred_64"))
scores = score_frames(trained, frames)       # any iterable of uint8 (h, w, 3) BGR frames
scores.frame, scores.psnr, scores.distance, scores.abnormality
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.clips import CHUNK
from data.stream import Frame
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
        """How the paper scores with this network."""
        return published(self.shape)


def load_trained(
    path: Path,
    items_path: Path | None = None,
    given: dict[str, Any] | None = None,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    compiled: bool = False,
) -> Trained:
    """Load a network with its memory items and, where it is there, its calibration.

    path: a model file of this project or of the authors' released code, or the directory of a run; items_path: its
    memory items, m_items.pt beside it if not given; given: settings of exp.checkpoints.SHAPE that the file must agree
    with, and h and w for a released model, which does not hold them (256 if not given). Raises InputError.
    """
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

    frame: np.ndarray  # index, from 0; the first t_length - 1 frames have no score
    psnr: np.ndarray  # P, dB
    distance: np.ndarray  # D, the feature distance
    regular: np.ndarray  # E, the regular score
    updated: np.ndarray  # bool, whether the frame updated the memory
    abnormality: np.ndarray | None  # calibrated, see exp/scoring/calibration.py; None without a calibration


def score_frames(trained: Trained, frames: Iterable[np.ndarray], scoring: Scoring | None = None) -> FrameScores:
    """Score the consecutive frames of one video, uint8 (h, w, 3) BGR of any size, as the paper does if not told how."""
    scoring = scoring or trained.scoring()
    sequence = (Frame(k, 0.0, picture, gap=False, scored=True, captured=None) for k, picture in enumerate(frames))
    batches = batches_of_frames(sequence, trained.shape, CHUNK)
    parts = list(score(trained.model, trained.items, batches, scoring))
    if not parts:
        raise InputError(f"too few frames: a clip of this network has {trained.shape['t_length']}")
    index = np.array([place.frame for part in parts for place in part.places])
    names = ("psnr", "distance", "regular", "updated")
    p, d, e, updated = (torch.cat([getattr(part, name) for part in parts]).cpu().numpy() for name in names)
    abnormality = trained.normal.abnormality(p, d, scoring.alpha) if trained.normal else None
    return FrameScores(index, p, d, e, updated, abnormality)
