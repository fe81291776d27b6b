"""Figures of a training and of an evaluation: losses, ROC, histogram, and all other figures. Sizes are in pixels.

These functions only draw: each takes numbers and pictures and writes a file in the format given by its extension. They
make the directory that they write to, and raise InputError when they cannot write. exp/report/score_curves.py draws the
scores of a video, exp/report/panels.py single frames, and exp/report/video.py annotated videos.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator
from sklearn import metrics

from exp.report.panels import panels, typical_frames
from exp.report.score_curves import score_curves
from exp.report.style import ABNORMAL, GREEN, GREY, NORMAL, PURPLE, Look, beside, save_figure, styled
from exp.scoring.alarms import Decisions
from exp.scoring.evaluation import Evaluation
from exp.scoring.score import Scored
from utils import auc, equal_error_rate

# Training ------------------------------------------------------------------------------------------------------------


@styled
def loss_curves(path: Path, history: list[dict[str, Any]]) -> None:
    """Draw losses, learning rate and memory over the epochs, 1200 x 700; history: the metrics of each epoch."""
    epochs = np.arange(1, len(history) + 1)
    names = ("pixel", "compactness", "separateness", "loss", "lr")
    series = {name: np.array([epoch[name] for epoch in history]) for name in names}
    # (epochs, 2), the lowest and highest cosine; (epochs, 0) without a memory
    cosines = np.array([epoch["item_cosines"] for epoch in history])
    look: dict[str, Any] = {"marker": "o" if len(history) <= 20 else None, "markersize": 4}  # one epoch has no line

    figure = Figure(figsize=(12, 7))
    grid = figure.add_gridspec(2, 3)

    def add(place: SubplotSpec, title: str, **settings: Any) -> Axes:
        axes = figure.add_subplot(place, title=title, xlabel="epoch", xlim=(0.5, len(history) + 0.5), **settings)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return axes

    axes = add(grid[0, 0], "total loss and its pixel loss", ylabel="loss")
    axes.plot(epochs, series["loss"], color="black", label="weighted sum", **look)
    axes.plot(epochs, series["pixel"], "--", color=NORMAL, label="pixel", **look)
    _logarithmic(axes, series["loss"], series["pixel"])
    axes = add(grid[0, 1], "memory losses, unweighted", ylabel="loss")
    axes.plot(epochs, series["compactness"], color=GREEN, label="compactness", **look)
    axes.plot(epochs, series["separateness"], "--", color=PURPLE, label="separateness", **look)
    _logarithmic(axes, series["compactness"], series["separateness"])
    axes = add(grid[0, 2], "learning rate", ylabel="learning rate")
    axes.plot(epochs, series["lr"], color="black", **look)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)

    if not cosines.size:
        save_figure(figure, path)
        return
    _draw_wins(add(grid[1, :2], "queries nearest to each item", ylabel="item"), history)

    axes = add(grid[1, 2], "cosine of two items", ylabel="cosine", ylim=(-1.05, 1.05))
    axes.fill_between(epochs, *cosines.T, color=GREEN, alpha=0.2, linewidth=0)
    axes.plot(epochs, cosines[:, 1], color=ABNORMAL, label="highest of all pairs", **look)
    axes.plot(epochs, cosines[:, 0], "--", color=NORMAL, label="lowest of all pairs", **look)
    axes.legend()
    save_figure(figure, path)


def _logarithmic(axes: Axes, *shown: np.ndarray) -> None:
    """Make the loss axis logarithmic; linear near 0 where a loss reaches it, as separateness may."""
    values = np.concatenate(shown)
    positive = values[values > 0]
    if len(positive) == len(values):
        axes.set_yscale("log")
    elif len(positive):  # a whole power of ten, since otherwise its label would overlap that of 0
        axes.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(positive.min())))
        axes.set_ylim(bottom=0)
    axes.legend()


def _draw_wins(axes: Axes, history: list[dict[str, Any]]) -> None:
    """Draw the share of the queries that each item is nearest to, for each epoch."""
    won = np.array([epoch["queries_won"] for epoch in history], dtype=float)  # (epochs, M)
    share = 100 * won / won.sum(axis=1, keepdims=True)
    picture = axes.imshow(
        np.ma.masked_equal(share.T, 0),
        cmap=matplotlib.colormaps["cividis"].with_extremes(bad="white"),
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, len(history) + 0.5, won.shape[1] - 0.5, -0.5),
    )
    axes.grid(False)
    axes.set_yticks(range(0, won.shape[1], 1 + won.shape[1] // 20))
    axes.figure.colorbar(picture, label="share of queries (%), white: none")


# Evaluation ----------------------------------------------------------------------------------------------------------


def draw_evaluation(
    directory: Path,
    result: Evaluation,
    decisions: Decisions | None,
    replay: Callable[[int], Iterator[Scored]],
    frame_at: Callable[[int, int], np.ndarray],
    look: Look,
) -> None:
    """All figures of an evaluation: roc and histogram, scores/<video>, frames/<video>_<frame>.

    replay: place of a video in `result.videos` -> its frames, scored again; frame_at: place of a video, index of a
    frame in it -> uint8 (h, w, 3) BGR, of any size.
    """
    if result.labels and result.metrics:
        labelled = [(y, s) for y, s in zip(result.labels, result.abnormality, strict=True) if y is not None]
        labels, abnormality = [y for y, _ in labelled], [s for _, s in labelled]
        roc_curve(directory / f"roc.{look.format}", labels, abnormality, look.note)
        score_histogram(directory / f"histogram.{look.format}", labels, abnormality)
    chosen = look.frames or typical_frames(result)
    panels(directory / "frames", result, chosen, replay, frame_at, look)
    score_curves(directory / "scores", result, decisions, frame_at, look)


@styled
def roc_curve(path: Path, labels: list[np.ndarray], abnormality: list[np.ndarray], note: str = "") -> None:
    """ROC of all frames with its AUC and the point of equal errors, 700 x 700; lists of (n,), one per video.

    note: what to name beside the AUC. Raises InputError when only one class is there.
    """
    y, scores = np.concatenate(labels), np.concatenate(abnormality)
    area, equal = 100 * auc(y, scores), 100 * equal_error_rate(y, scores)
    false_alarms, hits, _ = metrics.roc_curve(y, scores, drop_intermediate=False)
    figure = Figure(figsize=(7, 7))
    axes = figure.add_subplot(
        title=f"ROC of {len(y)} frames, {int(y.sum())} of them abnormal" + beside(note, width=70),
        xlabel="normal frames above the threshold (%)",
        ylabel="abnormal frames above the threshold (%)",
        aspect="equal",
        xlim=(-1, 101),
        ylim=(-1, 101),
    )
    axes.plot([0, 100], [0, 100], ":", color=GREY, label="chance")
    axes.plot(100 * false_alarms, 100 * hits, color=NORMAL, linewidth=2, label=f"AUC {area:.2f} %")
    style: dict[str, Any] = {"color": ABNORMAL, "markersize": 9, "clip_on": False, "zorder": 3}
    axes.plot(equal, 100 - equal, "o", label=f"equal error rate {equal:.2f} %", **style)
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


@styled
def score_histogram(path: Path, labels: list[np.ndarray], abnormality: list[np.ndarray]) -> None:
    """Draw the abnormality of normal and abnormal frames in the same bins, 900 x 500; lists of (n,), one per video."""
    y, scores = np.concatenate(labels), np.concatenate(abnormality)
    bins = np.linspace(min(0, scores.min()), max(1, scores.max()), 26).tolist()
    figure = Figure(figsize=(9, 5))
    axes = figure.add_subplot(xlabel="abnormality", ylabel="share of the frames of its class (%)")
    for label, name, colour, hatch in ((0, "normal", NORMAL, None), (1, "abnormal", ABNORMAL, "//")):
        values = scores[y == label]
        if len(values):
            share = np.full(len(values), 100 / len(values))
            look: dict[str, Any] = {"facecolor": (colour, 0.35), "edgecolor": colour, "hatch": hatch, "linewidth": 1.5}
            axes.hist(values, bins, weights=share, label=f"{len(values)} {name} frames", histtype="stepfilled", **look)
    figure.legend(loc="outside upper center", ncols=2)
    save_figure(figure, path)
