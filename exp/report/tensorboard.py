"""The training of a run in TensorBoard: Train.py --tensorboard, then `tensorboard --logdir exp`.

The package is no requirement; without it nothing here but `check` can be used. Events go to <run>/tensorboard, a step
is an epoch: losses, learning rate, the memory's cosines, and for some training clips three pictures: the last frame
that goes in, the frame that comes out, and the error of that frame.
"""

import importlib.util

import torch
from torchvision.utils import make_grid

from data.clips import normalise
from exp.scoring.score import to_unit
from utils import InputError

CLIPS = 4  # whose frames are shown, the same in each epoch


def check():
    """Raise InputError where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs a package that is not here: pip install tensorboard")


class Board:
    """Where a run's epochs are logged. done: epochs before this start; later ones, of a killed start, are hidden."""

    def __init__(self, directory, clips, done):
        from torch.utils.tensorboard import SummaryWriter  # here, as the package is no requirement

        self.writer = SummaryWriter(directory / "tensorboard", purge_step=done + 1)
        chosen = torch.linspace(0, len(clips) - 1, min(CLIPS, len(clips))).long()
        self.clips = torch.stack([clips[k] for k in chosen.tolist()])  # uint8 (n, t_length·c, H, W)

    def add(self, model, items, metrics):
        """Log an epoch, whose metrics are a dict; leaves the model in eval mode."""
        epoch, (lowest, highest) = metrics["epoch"], metrics["item_cosines"]
        for name in ("loss", "pixel", "compactness", "separateness"):
            self.writer.add_scalar(f"loss/{name}", metrics[name], epoch)
        for name in ("lr", "clips_per_second"):
            self.writer.add_scalar(f"training/{name}", metrics[name], epoch)
        self.writer.add_scalar("memory/lowest_cosine", lowest, epoch)
        self.writer.add_scalar("memory/highest_cosine", highest, epoch)
        self.writer.add_image("frames: in, out, squared error", self._pictures(model.eval(), items), epoch)
        self.writer.flush()

    @torch.no_grad()
    def _pictures(self, model, items):
        """(3, height, width) RGB in [0, 1], a row a clip; errors are shown by their root, the largest of all white."""
        frames, target = model.split(normalise(self.clips.to(items.device)))
        out = to_unit(model(frames, items).frame)
        error = (out - to_unit(target)).square().mean(dim=1, keepdim=True)  # (n, 1, H, W)
        error = (error / error.max().clamp(min=1e-12)).sqrt()
        columns = (to_unit(frames[:, -model.channels :]).flip(1), out.flip(1), error)
        rows = torch.stack([column.expand(-1, 3, -1, -1) for column in columns], dim=1)  # (n, 3, 3, H, W)
        return make_grid(rows.flatten(0, 1).cpu(), nrow=len(columns))
