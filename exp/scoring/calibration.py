"""How normal frames score: calibration.pt beside a model provides thresholds, and scores that need no later frames.

The paper scales scores by the minimum and maximum of the complete video. So the video must have ended, and no score
marks the limit of what is normal. A calibration holds P, D and E of every frame of some training videos, scored as
Evaluate.py does by default, except that each video starts from the trained items. Train.py makes one when it finishes.
For an older run, for released weights or with other settings:

    python -m exp.calibrate RUN
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.clips import Clips
from exp.checkpoints import FORMAT, load_file
from exp.scoring.evaluation import between_gaps
from exp.scoring.score import Scoring, score_clips
from model.convae import ConvAE
from utils import InputError, check_finite, smooth, write_whole

SCORES = ("psnr", "distance", "regular")
FALSE_ALARM_RATE = 0.001  # the default for the share of normal frames above a threshold
NORMAL_SHARE = 0.95  # the share of normal frames that update the memory when γ is "auto"
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)  # stored for readers of the file
TRAINED_ON = "made from clips that may have trained the network: optimistic, new normal frames score slightly worse"
HELD_OUT = "made from videos that were held back from training"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of normal frames. Lists have one array per video, with one value per frame that has a score. A gap in time
    counts as the end of a video."""

    psnr: list[np.ndarray]  # P, dB
    distance: list[np.ndarray]  # D, feature distance
    regular: list[np.ndarray]  # E, regular score
    th: float  # γ, the threshold of the memory update
    held_out: bool  # whether the network was certainly not trained on these videos

    def auto_th(self) -> float:
        """The γ below which a share NORMAL_SHARE of normal frames lie; the paper's value is for 256 x 256."""
        return float(np.quantile(np.concatenate(self.regular), NORMAL_SHARE))

    @cached_property
    def means_and_deviations(self) -> list[tuple[float, float]]:
        """The mean and standard deviation of P, and of D; a deviation of 0 is replaced by 1."""
        both = [np.concatenate(values).astype(np.float64) for values in (self.psnr, self.distance)]
        return [(values.mean(), values.std() if np.ptp(values) > 0 else 1.0) for values in both]

    def abnormality(self, psnr: np.ndarray, distance: np.ndarray, alpha: float) -> np.ndarray:
        """The calibrated abnormality of frames with these P and D, both (n,) -> (n,), independent of other frames.

        alpha · (mean P - P) / deviation of P + (1 - alpha) · (D - mean D) / deviation of D. The mean over the
        calibration's own frames is 0, and there is no upper limit. Raises InputError for scores that are not finite.
        """
        (mean_p, deviation_p), (mean_d, deviation_d) = self.means_and_deviations
        return check_finite(alpha * (mean_p - psnr) / deviation_p + (1 - alpha) * (distance - mean_d) / deviation_d)

    def own_scores(self, scoring: Scoring, fps: float) -> np.ndarray:
        """The abnormality of the calibration's own frames, (n,), each video smoothed as `scoring` says."""
        scores = [self.abnormality(p, d, scoring.alpha) for p, d in zip(self.psnr, self.distance, strict=True)]
        if scoring.sigma:
            scores = [smooth(values, scoring.sigma.frames(fps), scoring.causal) for values in scores]
        return np.concatenate(scores)

    def threshold(self, scoring: Scoring, false_alarm_rate: float, fps: float) -> float:
        """The abnormality that a share false_alarm_rate of the calibration's own frames exceeds."""
        return float(np.quantile(self.own_scores(scoring, fps), 1 - false_alarm_rate))

    def caveat(self, scoring: Scoring, false_alarm_rate: float) -> str:
        """Why a threshold for this rate is not exact for frames scored in this way; "" if none of the reasons applies.

        That the calibration resets the memory for each video, and other scores may not, is not counted as one.
        """
        found = (
            [] if self.held_out else ["optimistic, since the network was, or may have been, trained on the same clips"]
        )
        if scoring.th != self.th or not scoring.memory_update:
            found.append(f"approximate, since the calibration was made with γ = {self.th:g} and with memory updates")
        if false_alarm_rate < 1 / sum(map(len, self.psnr)):
            found.append(f"rough, since the calibration has only {sum(map(len, self.psnr))} frames")
        return "; ".join(found)


def hold_out(clips: Clips, share: float, seed: int) -> tuple[Clips, Clips]:
    """Split clips into those to train on and those to calibrate on; with a share of 0, both are all the clips.

    Otherwise the second set has this share of the videos, at least one and never all, chosen by the seed. Raises
    InputError when there is only one video.
    """
    if not share:
        return clips, clips
    count = len(clips.videos)
    if count < 2:
        raise InputError("--calibration_share holds back complete videos, but there is only one: leave the flag out")
    held = min(max(1, round(share * count)), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return clips.select(sorted(order[held:])), clips.select(sorted(order[:held]))


def calibrate(model: ConvAE, items: Tensor, loader: DataLoader, scoring: Scoring, held_out: bool) -> Calibration:
    """Score the normal clips of a loader. The model, in eval mode, and the items (M, C) must be on one device."""
    scores = score_clips(model, items, loader, scoring._replace(reset_memory=True))
    clips: Clips = loader.dataset  # type: ignore[assignment]  # a DataLoader does not know the class of its data set

    def parts(values: list[np.ndarray]) -> list[np.ndarray]:
        return [part for pair in zip(values, clips.gaps, strict=True) for part in between_gaps(*pair)]

    return Calibration(parts(scores.psnr), parts(scores.distance), parts(scores.regular), scoring.th, held_out)


def path_beside(model_path: Path) -> Path:
    """The path of the calibration of a model file."""
    return model_path.with_name("calibration.pt")


def save(model_path: Path, calibration: Calibration, items: Tensor, videos: list[str]) -> Path:
    """Write the calibration of the model with these items, made on the named videos. Returns its path."""
    scores = {name: np.concatenate(getattr(calibration, name)) for name in SCORES}
    content = {
        "format": FORMAT,
        "items": items.cpu(),  # they show which model it belongs to
        "videos": videos,
        "lengths": [len(values) for values in calibration.psnr],
        **{name: torch.from_numpy(values) for name, values in scores.items()},
        "th": calibration.th,
        "held_out": calibration.held_out,
        "about": HELD_OUT if calibration.held_out else TRAINED_ON,
        "summary": {
            name: {
                "mean": float(values.mean()),
                "deviation": float(values.std()),
                "quantiles": {q: float(np.quantile(values, q)) for q in QUANTILES},
            }
            for name, values in scores.items()
        },
    }
    path = path_beside(model_path)
    write_whole(path, lambda temporary: torch.save(content, temporary))
    return path


def load(model_path: Path, items: Tensor) -> Calibration:
    """The Calibration beside a model with these items.

    Raises InputError, which says how to make one, when it is missing, damaged or belongs to another model.
    """
    path = path_beside(model_path)
    remedy = f"`python -m exp.calibrate {model_path}` makes it"
    if not path.is_file():
        raise InputError(f"no calibration {path}: {remedy}")
    content = load_file(path, "calibration")
    if not torch.equal(content["items"], items.cpu()):
        raise InputError(f"{path} does not belong to {model_path} and its items: {remedy}")
    ends = np.cumsum(content["lengths"])[:-1]
    scores = {name: list(np.split(content[name].numpy(), ends)) for name in SCORES}
    return Calibration(**scores, th=content["th"], held_out=content["held_out"])


def describe(calibration: Calibration) -> str:
    """A line that sums up a calibration."""
    p, d = np.concatenate(calibration.psnr), np.concatenate(calibration.distance)
    return (
        f"calibration on {len(p)} frames: PSNR {p.mean():.2f} ± {p.std():.2f} dB, feature distance {d.mean():.3g} ± "
        f"{d.std():.2g}, {100 * NORMAL_SHARE:g} % of the regular scores are below {calibration.auto_th():.4g}; "
        f"{HELD_OUT if calibration.held_out else TRAINED_ON}"
    )
