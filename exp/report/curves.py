"""Figures of a training and of an evaluation: curves of losses and scores, ROC, histogram. Sizes are in pixels.

Pure drawing: each function takes numbers and pictures and writes a file in the format that its path ends with. Every
function makes the directory that it writes to, and raises InputError where it cannot write. Single frames are drawn in
exp/report/panels.py, annotated videos in exp/report/video.py.
"""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from sklearn import metrics

from data.labels import intervals
from exp.report.panels import panels, typical_frames
from exp.report.style import ABNORMAL, GREEN, GREY, NORMAL, PURPLE, SHADE, Look, add_title, save, styled
from exp.scoring.alarms import Decisions
from exp.scoring.evaluation import Evaluation
from exp.scoring.score import Scored
from utils import auc, equal_error_rate, progress

CALIBRATED = (
    "calibrated: in standard deviations from normal training frames; above: relative to the range of this video alone"
)

# Training ------------------------------------------------------------------------------------------------------------


@styled
def loss_curves(path: Path, history: list[dict[str, Any]]) -> None:
    """Losses, learning rate and memory over the epochs, 1200 x 700; history: the metrics of each epoch (Train.py)."""
    epochs = np.arange(1, len(history) + 1)
    names = ("pixel", "compactness", "separateness", "loss", "lr")
    series = {name: np.array([epoch[name] for epoch in history]) for name in names}
    cosines = np.array([epoch["item_cosines"] for epoch in history])  # (epochs, 2): lowest and highest
    look: dict[str, Any] = {"marker": "o" if len(history) <= 20 else None, "markersize": 4}  # one epoch has no line

    figure = Figure(figsize=(12, 7))
    grid = figure.add_gridspec(2, 3)

    def add(place: SubplotSpec, title: str, **settings: Any) -> Axes:
        axes = figure.add_subplot(place, title=title, xlabel="epoch", xlim=(0.5, len(history) + 0.5), **settings)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return axes

    axes = add(grid[0, 0], "weighted sum and its pixel part", ylabel="loss")
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

    _draw_wins(add(grid[1, :2], "queries nearest to each item", ylabel="item"), history)

    axes = add(grid[1, 2], "cosine of two items", ylabel="cosine", ylim=(-1.05, 1.05))
    axes.fill_between(epochs, *cosines.T, color=GREEN, alpha=0.2, linewidth=0)
    axes.plot(epochs, cosines[:, 1], color=ABNORMAL, label="highest of all pairs", **look)
    axes.plot(epochs, cosines[:, 0], "--", color=NORMAL, label="lowest of all pairs", **look)
    axes.legend()
    save(figure, path)


def _logarithmic(axes: Axes, *shown: np.ndarray) -> None:
    """Make the loss axis logarithmic; linear near 0 where a loss reaches it, as separateness may."""
    values = np.concatenate(shown)
    positive = values[values > 0]
    if len(positive) == len(values):
        axes.set_yscale("log")
    elif len(positive):  # a whole power of ten, or its label would stand on that of 0
        axes.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(positive.min())))
        axes.set_ylim(bottom=0)
    axes.legend()


def _draw_wins(axes: Axes, history: list[dict[str, Any]]) -> None:
    """The share of the queries that each item is nearest to, epoch by epoch."""
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
    panels(directory / "frames", result, chosen, replay, frame_at, look.format)
    score_curves(directory / "scores", result, decisions, frame_at, look)


def _beside(note: str, width: int) -> str:
    """A note in brackets, as further lines of at most so many letters."""
    return "\n" + textwrap.fill(f"({note})", width) if note else ""


def peaks(values: np.ndarray, count: int = 5) -> list[int]:
    """The places of the highest peaks of (n,), at most `count`, in order; none has a higher one within n / 12."""
    gap = max(1, len(values) // 12)
    chosen: list[int] = []
    for i in np.argsort(-values, kind="stable").tolist():
        is_peak = values[i] == values[max(0, i - gap) : i + gap + 1].max()
        if is_peak and all(abs(i - other) > gap for other in chosen):
            chosen.append(i)
    return sorted(chosen[:count])


def score_curves(
    directory: Path,
    result: Evaluation,
    decisions: Decisions | None,
    frame_at: Callable[[int, int], np.ndarray],
    look: Look,
) -> None:
    """<directory>/<video> of each video: its scores over time, its alarms, and the frames at its highest peaks.

    1200 x 900, and 1200 x 1100 where there are decisions: the calibrated scores then have a part of their own.
    """
    for video, name in enumerate(progress("drawing scores", "video", result.videos)):
        score_curve(directory / f"{name}.{look.format}", result, decisions, video, frame_at, look.note)


@styled
def score_curve(
    path: Path,
    result: Evaluation,
    decisions: Decisions | None,
    video: int,
    frame_at: Callable[[int, int], np.ndarray],
    note: str = "",
) -> None:
    """The figure of one video, see `score_curves`; note: what to name beside its AUC."""
    frames, labels = result.frames[video], result.labels[video] if result.labels else None
    dot = "o" if len(frames) == 1 else None  # a single frame has no line
    figure = Figure(figsize=(12, 11 if decisions else 9))
    add_title(figure, _title(result, video) + _beside(note, width=110))
    heights = (1.1, 2, 1.5, 1.3) if decisions else (1.1, 2, 1.3)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)

    curve = figure.add_subplot(grid[1], ylabel="abnormality", ylim=(-0.04, 1.12))
    curve.plot(frames, result.abnormality[video], color="black", linewidth=1.3, marker=dot)
    curve.set_xlim(frames[0] - 0.5 - 0.01 * len(frames), frames[-1] + 0.5 + 0.01 * len(frames))
    curve.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles: list[Any] = []
    parts = figure.add_subplot(grid[-1], sharex=curve, xlabel="frame")
    handles += _draw_parts(parts, result, video, dot)
    _add_seconds(parts, frames, result.seconds[video])
    rows = [curve, parts]
    if decisions:
        calibrated = figure.add_subplot(grid[2], sharex=curve, ylabel="calibrated")
        handles += _draw_calibrated(calibrated, frames, decisions, video)
        rows.append(calibrated)
    if labels is not None and labels.any():
        for first, last in intervals(labels):
            for axes in rows:
                axes.axvspan(frames[first] - 0.5, frames[last] + 0.5, **SHADE)
        handles.append(Patch(label="labelled abnormal", **SHADE))
    for axes in rows:
        axes.tick_params(labelbottom=axes is parts)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    _draw_frames(figure, grid[0], curve, result, video, frame_at)
    save(figure, path)


def _title(result: Evaluation, video: int) -> str:
    title = f"video {result.videos[video]}"
    labels = result.labels[video] if result.labels else None
    if labels is None:
        return title
    if len(np.unique(labels)) == 2:
        return f"{title}   AUC {100 * auc(labels, result.abnormality[video]):.2f} %"
    return f"{title}   all frames {'abnormal' if labels[0] else 'normal'}"


def _draw_parts(axes: Axes, result: Evaluation, video: int, dot: str | None) -> list[Any]:
    """What the abnormality is made of. The unit of the feature distance is the same for all videos."""
    usual = float(np.median(np.concatenate(result.distance)))
    power = int(np.floor(np.log10(usual))) if usual > 0 else 0
    other = axes.twinx()
    thin: dict[str, Any] = {"linewidth": 1, "marker": dot}
    distance = result.distance[video] / 10.0**power
    lines = [
        *axes.plot(result.frames[video], result.psnr[video], color=NORMAL, label="PSNR (left)", **thin),
        *other.plot(result.frames[video], distance, "--", color=GREEN, label="feature distance (right)", **thin),
    ]
    axes.set_ylabel("PSNR (dB)")
    other.set_ylabel(f"feature distance ($10^{{{power}}}$)")
    other.grid(False)
    other.spines["right"].set_visible(True)
    return lines


def _draw_calibrated(axes: Axes, frames: np.ndarray, decisions: Decisions, video: int) -> list[Any]:
    """The calibrated scores with their threshold, and the alarms as bars at the top."""
    scores, threshold = decisions.scores[video], decisions.threshold
    axes.set_title(CALIBRATED, fontsize=10, loc="left")
    axes.plot(frames, scores, color="black", linewidth=1.3, marker="o" if len(frames) == 1 else None)
    line = axes.axhline(threshold, color=ABNORMAL, linestyle="--", linewidth=1.2, label=f"threshold {threshold:.4g}")
    low, high = min(scores.min(), threshold), max(scores.max(), threshold)
    room = 0.08 * (high - low or 1)
    axes.set_ylim(low - room, high + 2.5 * room)
    bar: dict[str, Any] = {"color": ABNORMAL, "linewidth": 6, "solid_capstyle": "butt"}
    for alarm in decisions.alarms[video]:
        axes.plot([alarm.start - 0.5, alarm.end + 0.5], [high + 1.6 * room] * 2, **bar)
    return [line, Line2D([], [], label="alarm", **bar)] if decisions.alarms[video] else [line]


def _add_seconds(axes: Axes, frames: np.ndarray, seconds: np.ndarray) -> None:
    """A second axis below that of the frames, which names the times of the same places."""
    below = axes.secondary_xaxis(-0.34)
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    named = [f"{round(float(time), 2):g}" for time in seconds]
    first = int(frames[0])
    inside = range(len(frames))
    below.xaxis.set_major_formatter(
        FuncFormatter(lambda frame, _: named[round(frame) - first] if round(frame) - first in inside else "")
    )
    below.set_xlabel("seconds")


def _draw_frames(
    figure: Figure,
    strip: SubplotSpec,
    curve: Axes,
    result: Evaluation,
    video: int,
    frame_at: Callable[[int, int], np.ndarray],
) -> None:
    """The frames at the highest peaks, each tied to its place on the curve; the calmest one beside fewer than three."""
    frames, abnormality = result.frames[video], result.abnormality[video]
    labels = result.labels[video] if result.labels else None
    shown = peaks(abnormality)
    calmest = int(np.argmin(abnormality))
    if len(shown) < 3 and calmest not in shown:
        shown = sorted([*shown, calmest])
    row = strip.subgridspec(1, len(shown))
    for number, k in enumerate(shown, start=1):
        thumbnail = figure.add_subplot(row[number - 1])
        thumbnail.imshow(cv2.cvtColor(frame_at(video, int(frames[k])), cv2.COLOR_BGR2RGB))
        thumbnail.set_axis_off()
        kind = "" if labels is None else ", abnormal" if labels[k] else ", normal"
        thumbnail.set_title(f"{number}: frame {frames[k]}{kind}", fontsize=11)
        point = float(frames[k]), float(abnormality[k])
        ends: dict[str, Any] = {"xyA": (0.5, 0), "coordsA": thumbnail.transAxes}
        ends |= {"xyB": point, "coordsB": curve.transData, "shrinkB": 7}  # up to the rim of the peak's circle
        wire = ConnectionPatch(**ends, color=GREY, linewidth=0.8)
        wire.set_in_layout(False)
        figure.add_artist(wire)
        curve.plot(*point, "o", color="white", markeredgecolor="black", markersize=14, clip_on=False)
        curve.text(*point, str(number), ha="center", va="center_baseline", fontsize=10)


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
        title=f"ROC of {len(y)} frames, {int(y.sum())} of them abnormal" + _beside(note, width=70),
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
    save(figure, path)


@styled
def score_histogram(path: Path, labels: list[np.ndarray], abnormality: list[np.ndarray]) -> None:
    """Abnormality of normal and of abnormal frames in the same bins, 900 x 500; lists of (n,), one per video."""
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
    save(figure, path)
