"""Figures that a person looks at, all PNG: training curves; of an evaluation score curves, ROC, histogram, panels.

Pure drawing: each function takes numbers and pictures and writes files, sizes in pixels. `result` is an
exp.scoring.evaluation.Evaluation, `frame_at` a function (place in result.videos, index of a frame in that video) -> uint8
(h, w, 3) BGR, of any size. Every function makes the directory it writes to, and raises InputError where it cannot
write. Single frames are drawn in exp/report/panels.py, annotated videos in exp/report/video.py.
"""

import textwrap
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.ticker import MaxNLocator
from sklearn import metrics
from tqdm import tqdm

from data.labels import intervals
from exp.report.panels import panels, typical_frames
from exp.report.style import ABNORMAL, GREEN, GREY, NORMAL, PURPLE, SHADE, add_title, save, styled
from utils import auc, equal_error_rate

# Training ------------------------------------------------------------------------------------------------------------


@styled
def loss_curves(path, history):
    """Losses, learning rate and memory over the epochs, 1200 x 700; history: the metrics of each epoch (Train.py)."""
    epochs = np.arange(1, len(history) + 1)
    series = {name: np.array([epoch[name] for epoch in history]) for name in ("pixel", "compactness", "separateness")}
    series |= {name: np.array([epoch[name] for epoch in history]) for name in ("loss", "lr")}
    won = np.array([epoch["queries_won"] for epoch in history], dtype=float)  # (epochs, M)
    cosines = np.array([epoch["item_cosines"] for epoch in history])  # (epochs, 2): lowest and highest
    look = {"marker": "o" if len(history) <= 20 else None, "markersize": 4}  # a single epoch is a point, no line

    figure = Figure(figsize=(12, 7))
    grid = figure.add_gridspec(2, 3)

    def add(place, title, **settings):
        axes = figure.add_subplot(place, title=title, xlabel="epoch", xlim=(0.5, len(history) + 0.5), **settings)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return axes

    for column, title, lines in (
        (0, "loss", (("loss", "weighted sum", "black", "-"), ("pixel", "pixel", NORMAL, "--"))),
        (1, "memory losses, unweighted", (("compactness",) * 2 + (GREEN, "-"), ("separateness",) * 2 + (PURPLE, "--"))),
        (2, "learning rate", (("lr", None, "black", "-"),)),
    ):
        axes = add(grid[0, column], title)
        for name, label, colour, line in lines:
            axes.plot(epochs, series[name], line, color=colour, label=label, **look)
        shown = np.concatenate([series[name] for name, *_ in lines])
        if column < 2 and (shown > 0).all():
            axes.set_yscale("log")
        elif column < 2 and (shown > 0).any():  # separateness may reach 0, which a log axis cannot show
            axes.set_yscale("symlog", linthresh=shown[shown > 0].min())
        if column < 2:
            axes.legend()
        else:
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", scilimits=(0, 0))

    axes = add(grid[1, :2], "queries nearest to each item", ylabel="item")
    share = 100 * won / won.sum(axis=1, keepdims=True)
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="white")
    picture = axes.imshow(
        np.ma.masked_equal(share.T, 0),
        cmap=colours,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, len(history) + 0.5, won.shape[1] - 0.5, -0.5),
    )
    axes.grid(False)
    axes.set_yticks(range(0, won.shape[1], 1 + won.shape[1] // 20))
    figure.colorbar(picture, label="share of queries (%), white: none")

    axes = add(grid[1, 2], "cosine of two items", ylim=(-1.05, 1.05))
    axes.fill_between(epochs, *cosines.T, color=GREEN, alpha=0.2, linewidth=0)
    axes.plot(epochs, cosines[:, 1], color=ABNORMAL, label="highest of all pairs", **look)
    axes.plot(epochs, cosines[:, 0], "--", color=NORMAL, label="lowest of all pairs", **look)
    axes.legend()
    save(figure, path)


# Evaluation ----------------------------------------------------------------------------------------------------------


def draw_evaluation(directory, result, chosen, replay, frame_at, note=""):
    """All figures of an evaluation: roc.png and histogram.png, scores/<video>.png, frames/<video>_<frame>.png.

    chosen: frames to draw, see `panels`, which are some typical ones where it is empty; note: what to name beside AUCs.
    """
    directory = Path(directory)
    if result.metrics:
        roc_curve(directory / "roc.png", result.labels, result.abnormality, note)
        score_histogram(directory / "histogram.png", result.labels, result.abnormality)
    panels(directory / "frames", result, chosen or typical_frames(result), replay, frame_at)
    score_curves(directory / "scores", result, frame_at, note)


def _beside(note, width):
    """A note in brackets, as further lines of at most so many letters."""
    return "\n" + textwrap.fill(f"({note})", width) if note else ""


def peaks(values, count=5):
    """The places of the highest peaks of (n,), at most `count`, in order; none has a higher one within n / 12."""
    gap = max(1, len(values) // 12)
    chosen = []
    for i in np.argsort(-values, kind="stable").tolist():
        is_peak = values[i] == values[max(0, i - gap) : i + gap + 1].max()
        if is_peak and all(abs(i - other) > gap for other in chosen):
            chosen.append(i)
    return sorted(chosen[:count])


def score_curves(directory, result, frame_at, note=""):
    """<directory>/<video>.png of each video, 1200 x 900: its scores over time and the frames at its highest peaks.

    note: what to name beside an AUC.
    """
    for video in tqdm(range(len(result.videos)), desc="drawing scores", unit="video"):
        _score_curve(Path(directory) / f"{result.videos[video]}.png", result, video, frame_at, note)


@styled
def _score_curve(path, result, video, frame_at, note):
    frames, abnormality = result.frames[video], result.abnormality[video]
    labels = None if result.labels is None else result.labels[video]
    title = f"video {result.videos[video]}"
    if labels is not None:
        kinds = np.unique(labels)
        only = "abnormal" if kinds[0] else "normal"
        title += f"   AUC {100 * auc(labels, abnormality):.2f} %" if len(kinds) == 2 else f"   all frames {only}"
    title += _beside(note, width=110)

    figure = Figure(figsize=(12, 9))
    add_title(figure, title)
    grid = figure.add_gridspec(3, 1, height_ratios=(1.1, 2, 1.3))
    curve = figure.add_subplot(grid[1], ylabel="abnormality", ylim=(-0.04, 1.12))
    curve.plot(frames, abnormality, color="black", linewidth=1.3, marker="o" if len(frames) == 1 else None)
    parts = figure.add_subplot(grid[2], sharex=curve, xlabel="frame")
    other = parts.twinx()
    thin = {"linewidth": 1, "marker": "o" if len(frames) == 1 else None}
    lines = [
        *parts.plot(frames, result.psnr[video], color=NORMAL, label="PSNR (left)", **thin),
        *other.plot(frames, result.distance[video], "--", color=GREEN, label="feature distance (right)", **thin),
    ]
    parts.set_ylabel("PSNR (dB)")
    other.set_ylabel("feature distance")
    other.grid(False)
    other.spines["right"].set_visible(True)
    curve.set_xlim(frames[0] - 0.5 - 0.01 * len(frames), frames[-1] + 0.5 + 0.01 * len(frames))
    curve.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if labels is not None and labels.any():
        for first, last in intervals(labels):
            for axes in (curve, parts):
                axes.axvspan(frames[first] - 0.5, frames[last] + 0.5, **SHADE)
        lines.append(Patch(label="labelled abnormal", **SHADE))
    figure.legend(handles=lines, loc="outside lower center", ncols=3)

    highest = peaks(abnormality)
    row = grid[0].subgridspec(1, len(highest))
    for number, k in enumerate(highest, start=1):
        thumbnail = figure.add_subplot(row[number - 1])
        thumbnail.imshow(cv2.cvtColor(frame_at(video, int(frames[k])), cv2.COLOR_BGR2RGB))
        thumbnail.set_axis_off()
        kind = "" if labels is None else ", abnormal" if labels[k] else ", normal"
        thumbnail.set_title(f"{number}: frame {frames[k]}{kind}", fontsize=11)
        point = (frames[k], abnormality[k])
        ends = {"xyA": (0.5, 0), "coordsA": thumbnail.transAxes, "xyB": point, "coordsB": curve.transData}
        wire = ConnectionPatch(**ends, shrinkB=7, color=GREY, linewidth=0.8)  # up to the rim of the peak's circle
        wire.set_in_layout(False)
        figure.add_artist(wire)
        curve.plot(*point, "o", color="white", markeredgecolor="black", markersize=14, clip_on=False)
        curve.text(*point, number, ha="center", va="center_baseline", fontsize=10)
    save(figure, path)


@styled
def roc_curve(path, labels, abnormality, note=""):
    """ROC of all frames with its AUC and the point of equal errors, 700 x 700; two lists of (n,), one a video.

    note: what to name beside the AUC.
    """
    labels, abnormality = np.concatenate(labels), np.concatenate(abnormality)
    area, equal = 100 * auc(labels, abnormality), 100 * equal_error_rate(labels, abnormality)
    false_alarms, hits, _ = metrics.roc_curve(labels, abnormality, drop_intermediate=False)
    figure = Figure(figsize=(7, 7))
    axes = figure.add_subplot(
        title=f"ROC of {len(labels)} frames, {int(labels.sum())} of them abnormal" + _beside(note, width=70),
        xlabel="normal frames above the threshold (%)",
        ylabel="abnormal frames above the threshold (%)",
        aspect="equal",
        xlim=(-1, 101),
        ylim=(-1, 101),
    )
    axes.plot([0, 100], [0, 100], ":", color=GREY, label="chance")
    axes.plot(100 * false_alarms, 100 * hits, color=NORMAL, linewidth=2, label=f"AUC {area:.2f} %")
    style = {"color": ABNORMAL, "markersize": 9, "clip_on": False, "zorder": 3}
    axes.plot(equal, 100 - equal, "o", label=f"equal error rate {equal:.2f} %", **style)
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, path)


@styled
def score_histogram(path, labels, abnormality):
    """Abnormality of normal and of abnormal frames in the same bins, 900 x 500; two lists of (n,), one a video."""
    labels, abnormality = np.concatenate(labels), np.concatenate(abnormality)
    bins = np.linspace(min(0, abnormality.min()), max(1, abnormality.max()), 26)
    figure = Figure(figsize=(9, 5))
    axes = figure.add_subplot(xlabel="abnormality", ylabel="share of the frames of its class (%)")
    for label, name, colour, hatch in ((0, "normal", NORMAL, None), (1, "abnormal", ABNORMAL, "//")):
        values = abnormality[labels == label]
        if len(values):
            share = np.full(len(values), 100 / len(values))
            look = {"histtype": "stepfilled", "facecolor": (colour, 0.35), "edgecolor": colour, "hatch": hatch}
            axes.hist(values, bins, weights=share, label=f"{len(values)} {name} frames", linewidth=1.5, **look)
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, path)
