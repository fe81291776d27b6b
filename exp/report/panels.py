"""Figures of single frames: the frame, its prediction, their error, and the memory items that were read."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from data.masks import mask_at
from exp.report.style import MASK, OUTLINE, Look, add_title, draw_item_maps, item_colours, save_figure, styled
from exp.scoring.evaluation import Evaluation
from exp.scoring.score import Scored
from model import memory


class Read(NamedTuple):
    """A scored frame, on the CPU, and the memory that it read."""

    target: Tensor  # (c, H, W) in [0, 1], BGR or gray
    predicted: Tensor  # (c, H, W) in [0, 1]
    queries: Tensor  # (h, w, C)
    items: Tensor  # (M, C); (0, C) without a memory
    mask: np.ndarray | None = None  # bool, the abnormal pixels of the frame, at any size

    @property
    def error(self) -> np.ndarray:
        """Squared error, the mean over channels, (H, W)."""
        return (self.predicted - self.target).square().mean(dim=0).numpy()

    @property
    def high_error(self) -> float:
        """A limit for the colours of its error: 99.9 % of the pixels lie below, so that no single pixel dominates."""
        return float(np.quantile(self.error, 0.999))


def typical_frames(result: Evaluation, count: int = 2) -> list[tuple[int, int]]:
    """The most abnormal frame of `count` videos and the least abnormal frame of `count` others: [(video, frame), ...].

    The videos are those with the highest and the lowest abnormality; if there are too few, some are used twice. Since
    scores are min-max scaled in each video, many reach 1; the regular score decides between them.
    """
    highest = [int(np.argmax(values)) for values in result.abnormality]
    lowest = [int(np.argmin(values)) for values in result.abnormality]

    def score(video: int, k: int) -> tuple[float, float]:
        return float(result.abnormality[video][k]), float(result.regular[video][k])

    videos = range(len(result.videos))
    worst = sorted(videos, key=lambda v: score(v, highest[v]), reverse=True)[:count]
    calmest = sorted(videos, key=lambda v: (v in worst, score(v, lowest[v])))[:count]
    return [(v, int(result.frames[v][place[v]])) for some, place in ((worst, highest), (calmest, lowest)) for v in some]


def panels(
    directory: Path,
    result: Evaluation,
    chosen: Sequence[tuple[int, int]],
    replay: Callable[[int], Iterator[Scored]],
    frame_at: Callable[[int, int], np.ndarray],
    look: Look,
) -> None:
    """Draw <directory>/<video>_<frame> for each of `chosen`: (index in result.videos, index of the frame).

    replay: index of a video -> its frames, scored again; called once per video. frame_at: as in
    exp.report.curves.draw_evaluation. The scale of the errors is the same in all figures, so that they can be compared.
    """
    found = {}
    for video in sorted({video for video, _ in chosen}):
        wanted = {frame for place, frame in chosen if place == video}
        for scored in replay(video):
            for k, (_, frame, _) in enumerate(scored.places):
                if frame in wanted:
                    parts = (scored.target, scored.predicted, scored.queries, scored.items)
                    target, predicted, queries, items = (part[k].float().cpu() for part in parts)
                    mask = mask_at(look.masks or {}, result.videos[video], frame)
                    found[video, frame] = Read(target, predicted, queries, items, mask)
                    wanted.remove(frame)
            if not wanted:
                break
    error_max = max((read.high_error for read in found.values()), default=0)
    for (video, frame), read in found.items():
        k, name = int(np.searchsorted(result.frames[video], frame)), result.videos[video]
        title = f"video {name}, frame {frame}: abnormality {result.abnormality[video][k]:.3f}"
        labels = result.labels[video] if result.labels else None
        if labels is not None:
            title += f", labelled {'abnormal' if labels[k] else 'normal'}"
        height, width = frame_at(video, frame).shape[:2]
        panel(directory / f"{name}_{frame:04d}.{look.format}", read, title, width / height, error_max)


@styled
def panel(path: Path, read: Read, title: str = "", ratio: float = 1, error_max: float = 0) -> None:
    """Draw one frame, its prediction, their error, and how its queries match the memory items, 1200 wide.

    ratio: width / height of the frame on disk, since the network sees it resized. error_max: the upper limit of the
    colours of the error.
    """
    error = read.error
    height, width = error.shape
    frame = _picture(read.target)
    gray = frame.mean(axis=2, keepdims=True).repeat(3, axis=2)
    shown: dict[str, Any] = {"extent": (0, width, height, 0), "aspect": width / height / ratio}
    shown["interpolation"] = "nearest"

    figure = Figure(figsize=(12, 1.6 + 7 / max(ratio, 0.5)))
    add_title(figure, title)
    grid = figure.add_gridspec(2, 3)
    marked = "" if read.mask is None else ", outlined: abnormal" if read.mask.any() else ", nothing abnormal in it"
    axes = _blank(figure, grid[0, 0], f"frame{marked}")
    axes.imshow(frame, **shown)
    _outline(axes, read.mask, shown)
    _blank(figure, grid[0, 1], "prediction").imshow(_picture(read.predicted), **shown)
    axes = _blank(figure, grid[0, 2], "squared error, frames in [0, 1]")
    highest = error_max or read.high_error or 1.0
    scale = PowerNorm(0.5, 0, highest, clip=True)
    axes.imshow(0.5 * gray, **shown)
    opacity = np.clip(scale(error).data, 0, 1)  # dark: transparent; a rounded 1 may be above 1
    heat = axes.imshow(error, cmap="inferno", norm=scale, alpha=opacity, **shown)
    _outline(axes, read.mask, shown)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest)
    ticks = [tick for tick in ticks if tick <= highest]  # no tick on the arrow at the end
    figure.colorbar(heat, extend="max", shrink=0.8, label="mean over channels", ticks=ticks, format="%g")

    if not len(read.items):
        save_figure(figure, path)
        return
    axes = _blank(figure, grid[1, 0], "nearest item of each query")
    axes.imshow(gray, **shown)
    matching = memory.matching_probability(read.queries, read.items).permute(2, 0, 1)  # (M, h, w)
    _draw_nearest(axes, matching.argmax(dim=0).numpy(), len(read.items), shown)
    _outline(axes, read.mask, shown)

    axes = _blank(figure, grid[1, 1:], "matching probability of each item; at each position they sum to 1")
    count = len(read.items)
    columns = -(-count // (2 if count <= 12 else 3))
    maps = draw_item_maps(axes, matching, columns, aspect=shown["aspect"])
    figure.colorbar(maps, shrink=0.8, label="probability", ticks=MaxNLocator(5, steps=[1, 2, 5, 10]))
    save_figure(figure, path)


def _draw_nearest(axes: Axes, chosen: np.ndarray, count: int, shown: dict[str, Any]) -> None:
    """Draw the nearest of `count` items of each query, (h, w), with the number of an item in its largest region."""
    _, width, height, _ = shown["extent"]
    axes.imshow(item_colours(count)(chosen), alpha=0.65, **shown)
    for item in np.unique(chosen):
        depth = cv2.distanceTransform(np.pad(chosen == item, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = (np.array(np.unravel_index(depth.argmax(), depth.shape)) + 0.5) * (height, width) / chosen.shape
        axes.text(x, y, str(item), ha="center", va="center", path_effects=OUTLINE)


def _outline(axes: Axes, mask: np.ndarray | None, shown: dict[str, Any]) -> None:
    """Draw the outline of a mask on a picture; shown: the arguments of imshow for the picture."""
    if mask is None or not mask.any():
        return
    _, width, height, _ = shown["extent"]
    ends = (mask.shape[0] + 1, mask.shape[1] + 1)  # with a border, so that regions at the edge have closed outlines
    y, x = ((np.arange(-1, end) + 0.5) * size / (end - 1) for end, size in zip(ends, (height, width), strict=True))
    axes.contour(x.clip(0, width), y.clip(0, height), np.pad(mask, 1), [0.5], colors=[MASK], linewidths=1.5)


def _blank(figure: Figure, place: SubplotSpec, title: str) -> Axes:
    axes = figure.add_subplot(place, title=title)
    axes.set_axis_off()
    return axes


def _picture(frame: Tensor) -> np.ndarray:
    """Convert (c, H, W) BGR or gray to (H, W, 3) RGB, for matplotlib."""
    return frame.clamp(0, 1).flip(0).expand(3, -1, -1).permute(1, 2, 0).numpy()
