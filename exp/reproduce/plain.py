"""The plain way, with which exp.benchmark compares this project: it loads and trains as the authors' code does.

Each clip is decoded and resized by the loader's processes whenever it is needed, and the memory is updated one item
after another. Losses are the same as those of Train.py. The plain way to score one test clip at a time is
exp.scoring.score.score_one_by_one.
"""

import argparse
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data.clips import normalise
from data.frames import Video
from model.convae import ConvAE


class PlainClips(Dataset):
    """Clips, uint8 (t_length·c, H, W), decoded and resized at each access. size: height and width in pixels."""

    def __init__(self, videos: list[Video], t_length: int, size: tuple[int, int]) -> None:
        self.width_and_height = size[::-1]
        paths = [[str(video.path(i)) for i in range(len(video.frames))] for video in videos]
        self.clips = [frames[i : i + t_length] for frames in paths for i in range(len(frames) - t_length + 1)]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        frames = [cv2.resize(cast(np.ndarray, cv2.imread(path)), self.width_and_height) for path in self.clips[index]]
        return torch.from_numpy(np.concatenate([frame.transpose(2, 0, 1) for frame in frames]))


def plain_update(queries: Tensor, items: Tensor) -> Tensor:
    """model.memory.update, one item after another: queries (K, C) and items (M, C) -> the updated items (M, C)."""
    similarity = queries @ items.T
    weight, nearest = similarity.softmax(dim=0), similarity.argmax(dim=1)
    moved = items.clone()
    for m in range(len(items)):
        chosen = nearest == m
        if chosen.any():
            v = weight[chosen, m] / weight[:, m].max()
            moved[m] = F.normalize(items[m] + (v[:, None] * queries[chosen]).sum(dim=0), dim=0)
    return moved


def plain_epoch(
    model: nn.Module,
    items: Tensor,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    args: argparse.Namespace,
    _: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """Train.train_epoch, with the mean loss as its only metric."""
    losses = []
    for clips in loader:
        frames, target = cast(ConvAE, model.train()).split(normalise(clips.to(items.device)))
        output = model(frames, items)
        loss = F.mse_loss(output.frame, target)
        loss = loss + args.loss_compact * output.compactness + args.loss_separate * output.separateness
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        items = plain_update(output.queries.detach().flatten(0, 2), items)
        losses.append(loss.detach())
    return items, {"loss": torch.stack(losses).mean().item()}
