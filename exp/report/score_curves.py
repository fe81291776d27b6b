"""The figure of a scored video: its scores over time, threshold, alarms, and the frames at its highest peaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from data.intervals import intervals
from exp.report.style import ABNORMAL, GREEN, GREY, NORMAL, SHADE, Look, add_title, beside, save_figure, styled
from exp.scoring.alarms import Decisions
from exp.scoring.evaluation import Evaluation
from utils import auc, progress

CALIBRATED = "calibrated: 0 is the mean of normal frames; above: relative to the range of this video"


def peaks(values: np.ndarray, count: int = 5) -> list[int]:
    """The indices of at most `count` of the highest peaks of (n,), in order; no peak has a higher one within n / 12."""
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
    """Draw <directory>/<video> for each video: its scores over time, its alarms, and the frames at its highest peaks.

    The figure has 1200 x 900 pixels; with decisions, it has 1200 x 1100 and a separate part for the calibrated scores.
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
    """Draw the figure of one video, see `score_curves`; note: shown below its AUC."""
    frames, labels = result.frames[video], result.labels[video] if result.labels else None
    dot = "o" if len(frames) == 1 else None  # a single frame has no line
    figure = Figure(figsize=(12, 11 if decisions else 9))
    add_title(figure, _title(result, video) + beside(note, width=110))
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
    save_figure(figure, path)


def _title(result: Evaluation, video: int) -> str:
    title = f"video {result.videos[video]}"
    labels = result.labels[video] if result.labels else None
    if labels is None:
        return title
    if len(np.unique(labels)) == 2:
        return f"{title}   AUC {100 * auc(labels, result.abnormality[video]):.2f} %"
    return f"{title}   all frames {'abnormal' if labels[0] else 'normal'}"


def _draw_parts(axes: Axes, result: Evaluation, video: int, dot: str | None) -> list[Any]:
    """Draw the two parts of the abnormality. The unit of the feature distance is the same for all videos."""
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
    """Draw the calibrated scores with their threshold, and the alarms as bars at the top."""
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
    """Add a second axis below the axis of frames, with the times of the frames."""
    below = axes.secondary_xaxis(-0.34)
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    named = {int(frame): f"{round(float(time), 2):g}" for frame, time in zip(frames, seconds, strict=True)}
    below.xaxis.set_major_formatter(FuncFormatter(lambda frame, _: named.get(round(frame), "")))
    below.set_xlabel("seconds")


def _draw_frames(
    figure: Figure,
    strip: SubplotSpec,
    curve: Axes,
    result: Evaluation,
    video: int,
    frame_at: Callable[[int, int], np.ndarray],
) -> None:
    """Draw the frames at the highest peaks, linked to the curve; with fewer than three, also the calmest frame."""
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
        ends |= {"xyB": point, "coordsB": curve.transData, "shrinkB": 7}  # up to the edge of the peak's circle
        wire = ConnectionPatch(**ends, color=GREY, linewidth=0.8)
        wire.set_in_layout(False)
        figure.add_artist(wire)
        curve.plot(*point, "o", color="white", markeredgecolor="black", markersize=14, clip_on=False)
        curve.text(*point, str(number), ha="center", va="center_baseline", fontsize=10)
