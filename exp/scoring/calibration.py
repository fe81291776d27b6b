"""How normal frames score: kept beside a model as calibration.pt, it gives thresholds and scores that need no future.

The paper's abnormality is scaled by the lowest and highest scores of the video, so the video must have ended, and no
value of it says where normal ends. Here normal is told by P, D and E of every frame of some training videos, scored as
Evaluate.py scores by default, each video from the trained items on. Train.py makes this file in the end; for an older
run, for released weights or with other settings:

    python -m exp.calibrate RUN
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data.clips import testing_loader
from exp.run import FORMAT, load_file
from exp.scoring.score import score_clips
from utils import InputError, smooth, write_whole

SCORES = ("psnr", "distance", "regular")
NORMAL_SHARE = 0.95  # of normal frames, which update the memory under γ "auto"
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)  # stored for people to read
TRAINED_ON = "clips the network was trained on, or may have been: optimistic, new normal frames score a little worse"
HELD_OUT = "videos held back from training"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of normal frames. Lists have one array (frames of the video that have a score,) for each video."""

    psnr: list  # P, dB
    distance: list  # D, feature distance
    regular: list  # E, regular score
    th: float  # γ, under which memory was updated
    psnr_region: int | None  # P is that of the worst square of this side, in pixels; None: of the frame
    held_out: bool  # whether the network was certainly not trained on these videos

    def auto_th(self):
        """The γ that lets normal frames update the memory at any frame size; the method's own is of 256 x 256."""
        return float(np.quantile(np.concatenate(self.regular), NORMAL_SHARE))

    @cached_property
    def _means_and_spreads(self):
        """Of P and of D."""
        both = [np.concatenate(values).astype(np.float64) for values in (self.psnr, self.distance)]
        return [(values.mean(), values.std() if np.ptp(values) > 0 else 1.0) for values in both]

    def abnormality(self, psnr, distance, alpha):
        """Scores that need no other frame of their video: P and D (N,), in spreads from their means -> (N,).

        alpha · (mean P - P) / spread P + (1 - alpha) · (D - mean D) / spread D: 0 is like the calibration, and there is
        no upper limit. Where all calibration scores are the same, their spread is taken as 1.
        """
        (mean_p, spread_p), (mean_d, spread_d) = self._means_and_spreads
        scores = alpha * (mean_p - psnr) / spread_p + (1 - alpha) * (distance - mean_d) / spread_d
        if not np.isfinite(scores).all():
            raise InputError("scores hold NaN or infinity: the model that made them is broken, train it again")
        return scores

    def scores(self, alpha, sigma=None, causal=True):
        """The abnormality of the calibration's own frames, each video smoothed if sigma is given; a list of arrays."""
        scores = [self.abnormality(p, d, alpha) for p, d in zip(self.psnr, self.distance, strict=True)]
        return [smooth(values, sigma, causal) for values in scores] if sigma else scores

    def caveat(self, th, memory_update, false_alarm_rate):
        """Why a threshold for this false alarm rate is not exact for frames scored under these settings; or ""."""
        found = [] if self.held_out else ["optimistic, as the network was, or may have been, trained on the same clips"]
        if th != self.th or not memory_update:
            found.append(f"only near, as the calibration had γ {self.th:g} and memory update on")
        if false_alarm_rate < 1 / sum(map(len, self.psnr)):
            found.append(f"rough, as the calibration has but {sum(map(len, self.psnr))} frames")
        return "; ".join(found)

    def threshold(self, alpha, false_alarm_rate, sigma=None, causal=True):
        """The abnormality that only this share of the calibration's frames exceeds."""
        return float(np.quantile(np.concatenate(self.scores(alpha, sigma, causal)), 1 - false_alarm_rate))


def hold_out(clips, share, seed):
    """Two sets of clips (data.clips.Clips), to train on and to calibrate on; the same one twice where share is 0.

    Otherwise the second has this share of the videos, whole ones, at least one and never all; the seed chooses.
    """
    if not share:
        return clips, clips
    count = len(clips.videos)
    if count < 2:
        raise InputError("--calibration_share holds whole videos back from training, but there is one: leave it out")
    held = min(max(1, round(share * count)), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return clips.select(sorted(order[held:])), clips.select(sorted(order[:held]))


def calibrate(model, items, clips, th, held_out, psnr_region=None, **loading):
    """Score normal clips (data.clips.Clips): model in eval mode and items (M, C) on one device -> Calibration.

    loading: settings of data.clips.testing_loader.
    """
    loader = testing_loader(clips, **loading)
    found, _ = score_clips(model, items, loader, clips.lengths, th, reset_memory=True, psnr_region=psnr_region)
    by_video = {name: np.split(found[name], np.cumsum(clips.lengths)[:-1]) for name in SCORES}
    return Calibration(**by_video, th=th, psnr_region=psnr_region, held_out=held_out)


def path_beside(model_path):
    return model_path.with_name("calibration.pt")


def save(model_path, calibration, items, videos):
    """Write the calibration of the model with these items, made on the videos of these names. Returns its path."""
    scores = {name: np.concatenate(getattr(calibration, name)) for name in SCORES}
    content = {
        "format": FORMAT,
        "items": items.cpu(),  # tell which model it belongs to
        "videos": videos,
        "lengths": [len(values) for values in calibration.psnr],
        **{name: torch.from_numpy(values) for name, values in scores.items()},
        "th": calibration.th,
        "psnr_region": calibration.psnr_region,
        "held_out": calibration.held_out,
        "about": HELD_OUT if calibration.held_out else TRAINED_ON,
        "summary": {
            name: {
                "mean": float(values.mean()),
                "spread": float(values.std()),
                "quantiles": {q: float(np.quantile(values, q)) for q in QUANTILES},
            }
            for name, values in scores.items()
        },
    }
    path = path_beside(model_path)
    write_whole(path, lambda temporary: torch.save(content, temporary))
    return path


def load(model_path, items, psnr_region=None):
    """The Calibration beside a model with these items.

    Raises InputError, which says how to make it, when there is none, or it is broken, of another model, or with another
    psnr_region.
    """
    path = path_beside(model_path)
    region = f" --psnr_region {psnr_region}" if psnr_region else ""
    remedy = f"`python -m exp.calibrate {model_path}{region}` makes it"
    if not path.is_file():
        raise InputError(f"no calibration {path}: {remedy}")
    content = load_file(path, "calibration")
    if not torch.equal(content["items"], items.cpu()):
        raise InputError(f"{path} is not of {model_path} and its items: {remedy}")
    if content["psnr_region"] != psnr_region:
        made = f"with --psnr_region {content['psnr_region']}" if content["psnr_region"] else "without --psnr_region"
        raise InputError(f"{path} was made {made}: {remedy}")
    scores = {name: list(np.split(content[name].numpy(), np.cumsum(content["lengths"])[:-1])) for name in SCORES}
    return Calibration(**scores, **{name: content[name] for name in ("th", "psnr_region", "held_out")})


def describe(calibration):
    """One line for people."""
    p, d = np.concatenate(calibration.psnr), np.concatenate(calibration.distance)
    return (
        f"calibration on {len(p)} frames: PSNR {p.mean():.2f} ± {p.std():.2f} dB, feature distance {d.mean():.3g} ± "
        f"{d.std():.2g}, {100 * NORMAL_SHARE:g} % of regular scores below {calibration.auto_th():.4g}; "
        f"{HELD_OUT if calibration.held_out else TRAINED_ON}"
    )
