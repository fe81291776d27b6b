"""Figures of a memory: which queries its items win, where in the frame, and how similar the items are."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from exp.report.style import (
    GREEN,
    GREY,
    NORMAL,
    OUTLINE,
    add_title,
    draw_item_maps,
    item_colours,
    save_figure,
    styled,
)


class Wins(NamedTuple):
    """The items that queries chose, in random clips of one split ("training" or "testing")."""

    clips: int  # the number of clips drawn
    of: int  # the number of clips in the split
    counts: np.ndarray  # (M, h, w): in how many clips the item is nearest to the query at this position
    queries: Tensor  # (n, C), some of the queries
    chosen: np.ndarray  # (n,), the nearest item of each of these queries
    frame: Tensor  # (c, H, W) in [0, 1], the mean of the clips' last frames
    ratio: float  # width / height of the frames on disk

    @property
    def share(self) -> np.ndarray:
        """The share of all queries that each item is nearest to: (M,)."""
        return self.counts.sum(axis=(1, 2)) / self.counts.sum()


@styled
def draw_wins(path: Path, wins: dict[str, Wins]) -> None:
    """Draw the share of the queries of each split that each item is nearest to."""
    count = len(wins["training"].counts)
    figure = Figure(figsize=(min(max(9, 0.9 * count), 16), 5))
    axes = figure.add_subplot(xlabel="memory item", ylabel="share of the queries nearest to it (%)")
    axes.axhline(100 / count, color=GREY, linestyle="--", label="equal shares", zorder=0.9)  # behind bars and labels
    for side, split, colour, hatch in ((-0.5, "training", NORMAL, None), (0.5, "testing", GREEN, "//")):
        look: dict[str, Any] = {"facecolor": (colour, 0.75), "edgecolor": colour, "hatch": hatch, "width": 0.42}
        share = 100 * wins[split].share
        bars = axes.bar(np.arange(count) + 0.44 * side, share, label=f"{split} clips", **look)
        if count <= 12:
            # the white boxes of the labels interrupt the line of equal shares
            over: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
            axes.bar_label(bars, [f"{value:.1f}" for value in share], fontsize=8, padding=3, **over)
    axes.set_xticks(range(0, count, 1 + count // 40))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    save_figure(figure, path)


@styled
def draw_cosines(path: Path, cosines: np.ndarray, collapsed: list[tuple[int, int]], limit: float) -> None:
    """Draw the cosine of each pair of items, (M, M); collapsed pairs, above the limit, are framed."""
    count = len(cosines)
    figure = Figure(figsize=(8, 7))
    axes = figure.add_subplot(title=f"cosine of two items; framed: above {limit:g}", xlabel="item", ylabel="item")
    axes.grid(False)
    picture = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(picture, label="cosine", ticks=np.linspace(-1, 1, 9))
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(range(0, count, 1 + count // 20))
    for i, j in np.ndindex(count, count):
        if count <= 15:
            ink = "white" if abs(cosines[i, j]) > 0.65 else "black"
            value = round(float(cosines[i, j]), 2) + 0.0  # no -0.00
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
        if (min(i, j), max(i, j)) in collapsed:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2.5))
    save_figure(figure, path)


@styled
def draw_embedding(path: Path, wins: dict[str, Wins], items: Tensor, seed: int) -> None:
    """Draw a t-SNE by cosine of queries of both splits and items (M, C), coloured by nearest item, 1200 x 700."""
    from sklearn.manifold import TSNE  # here, since importing it takes a second and only this figure needs it

    parts = [*(some.queries for some in wins.values()), items]
    everything = torch.cat(parts).numpy()
    perplexity = min(30, (len(everything) - 1) / 3)
    flat = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=seed).fit_transform(everything)
    places = np.split(flat, np.cumsum([len(part) for part in parts[:-1]]))
    colours = item_colours(len(items))

    figure = Figure(figsize=(12, 7))
    add_title(figure, "t-SNE of queries, coloured by their nearest item; the numbers mark the items")
    shared: Axes | None = None
    for column, (split, some) in enumerate(wins.items()):
        title = f"{len(some.queries)} queries of {some.clips} {split} clips"
        axes = figure.add_subplot(1, 2, column + 1, title=title, sharex=shared, sharey=shared, aspect="equal")
        axes.scatter(
            places[column][:, 0], places[column][:, 1], s=12, c=colours(some.chosen), linewidths=0, rasterized=True
        )
        axes.scatter(
            places[-1][:, 0],
            places[-1][:, 1],
            s=130,
            c=colours(np.arange(len(items))),
            edgecolors="black",
            linewidths=1.2,
        )
        for names, point in _grouped(places[-1], 0.03 * np.ptp(flat, axis=0).max()):
            look: dict[str, Any] = {"textcoords": "offset points", "xytext": (8, 5), "path_effects": OUTLINE}
            axes.annotate(", ".join(map(str, names)), point, fontsize=10, fontweight="bold", **look)
        axes.set(xticks=[], yticks=[], xlabel="the axes of t-SNE have no unit")
        axes.spines[:].set_visible(True)
        shared = axes
    if len(items) <= 20:
        dots = [Line2D([], [], linestyle="", marker="o", color=colours(item)) for item in range(len(items))]
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(items), 10)}
        figure.legend(dots, list(map(str, range(len(items)))), title="nearest item", **place)
    save_figure(figure, path)


def _grouped(points: np.ndarray, near: float) -> list[tuple[list[int], tuple[float, float]]]:
    """Group items at points (M, 2) that are near each other: [(numbers of the items, position of the label), ...]."""
    groups: list[list[int]] = []
    for item, point in enumerate(points):
        group = next((g for g in groups if np.linalg.norm(points[g] - point, axis=1).min() < near), None)
        if group:
            group.append(item)
        else:
            groups.append([item])
    return [(group, tuple(points[group].max(axis=0).tolist())) for group in groups]


@styled
def draw_maps(path: Path, wins: dict[str, Wins]) -> None:
    """Draw the mean frame of each split and, for each item, the share of clips in which it wins at each position."""
    items, height, width = wins["training"].counts.shape
    ratio = wins["training"].ratio
    columns = math.ceil(math.sqrt(2 * items))
    rows = -(-items // columns)
    figure = Figure(figsize=(12, min(1.6 + 2 * max(2.8, 7.6 / columns * rows) / ratio, 12)))
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 3))
    maps = []
    for row, (split, some) in enumerate(wins.items()):
        frame = some.frame.flip(0).expand(3, -1, -1).permute(1, 2, 0).numpy()  # RGB
        axes = figure.add_subplot(grid[row, 0], title=f"mean of {some.clips} {split} frames")
        axes.imshow(frame, aspect=frame.shape[1] / frame.shape[0] / ratio)
        axes.set_axis_off()

        axes = figure.add_subplot(grid[row, 1], title=f"{split}: where each item wins")
        share = torch.from_numpy(100 * some.counts / some.clips).float()
        picture = draw_item_maps(axes, share, columns, aspect=width / height / ratio, vmin=0, vmax=100)
        maps.append(axes)
    figure.colorbar(picture, ax=maps, shrink=0.8, label="share of the clips in which it wins there (%)")
    save_figure(figure, path)
