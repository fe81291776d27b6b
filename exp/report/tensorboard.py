"""The training of a run in TensorBoard: Train.py --tensorboard, then `tensorboard --logdir exp`.

The package is optional; without it, only `require_package` works. Events are written to <run>/tensorboard, one step per
epoch: losses, learning rate, the cosines between memory items, and three pictures for each of some training clips: the
last input frame, the output frame, and its error.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.clips import Clips, normalise
from exp.scoring.score import to_unit
from model.convae import ConvAE
from utils import InputError

CLIPS = 4  # the number of clips shown, the same ones in each epoch


def require_package() -> None:
    """Raise InputError when the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs a package that is not installed: pip install tensorboard")


class Board:
    """Logs the epochs of a run. done: the number of finished epochs; later events, of a killed run, are hidden."""

    def __init__(self, directory: Path, clips: Clips, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here, since the package is optional

        self.writer = SummaryWriter(directory / "tensorboard", purge_step=done + 1)
        chosen = torch.linspace(0, len(clips) - 1, min(CLIPS, len(clips))).long()
        self.clips = torch.stack([clips[k] for k in chosen.tolist()])  # uint8 (n, t_length·c, H, W)

    def add(self, model: ConvAE, items: Tensor, metrics: dict[str, Any]) -> None:
        """Log an epoch with its metrics (see Train.py); leaves the model in eval mode."""
        epoch = metrics["epoch"]
        for name in ("loss", "pixel", "compactness", "separateness"):
            self.writer.add_scalar(f"loss/{name}", metrics[name], epoch)
        for name in ("lr", "clips_per_second"):
            self.writer.add_scalar(f"training/{name}", metrics[name], epoch)
        # without a memory there are no cosines
        for name, value in zip(("lowest_cosine", "highest_cosine"), metrics["item_cosines"], strict=False):
            self.writer.add_scalar(f"memory/{name}", value, epoch)
        self.writer.add_image("frames: in, out, squared error", self._pictures(model.eval(), items), epoch)
        self.writer.flush()

    @torch.no_grad()
    def _pictures(self, model: ConvAE, items: Tensor) -> Tensor:
        """Pictures as (3, height, width) RGB in [0, 1], a row per clip; errors as square roots, the largest white."""
        from torchvision.utils import make_grid  # here, as its import takes a second, and trainings are without it

        frames, target = model.split(normalise(self.clips.to(items.device)))
        out = to_unit(model(frames, items).frame)
        error = (out - to_unit(target)).square().mean(dim=1, keepdim=True)  # (n, 1, H, W)
        error = (error / error.max().clamp(min=1e-12)).sqrt()
        columns = (to_unit(frames[:, -model.channels :]).flip(1), out.flip(1), error)
        rows = torch.stack([column.expand(-1, 3, -1, -1) for column in columns], dim=1)  # (n, 3, 3, H, W)
        return make_grid(rows.flatten(0, 1).cpu(), nrow=len(columns))
