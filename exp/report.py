"""Figures that a person looks at, all PNG: training curves, score curves, ROC, histogram of scores, single frames.

Pure drawing: each function takes numbers and pictures and writes files, sizes in pixels. `result` is an
Evaluate.Evaluation, `frame_at` a function (place in result.videos, index of a frame in that video) -> uint8 (h, w, 3)
BGR, of any size. Every function makes the directory it writes to, and raises InputError where it cannot write.
Annotated videos are in exp/video.py.
"""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from sklearn import metrics
from torchvision.utils import make_grid
from tqdm import tqdm

from data.labels import intervals
from exp.run import write_whole
from model import memory
from utils import InputError, auc, equal_error_rate

# Okabe and Ito's colours, which colour-blind people can tell apart
NORMAL, ABNORMAL, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
SHADE = {"color": ABNORMAL, "alpha": 0.2, "linewidth": 0}  # of ground truth
STYLE = {
    "figure.dpi": 100,  # so a figure of 12 x 7 inches has 1200 x 700 pixels
    "savefig.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}
styled = matplotlib.rc_context(STYLE)


def _title(figure, text):
    figure.suptitle(text, fontsize=14, parse_math=False)  # names of videos may hold a $


def _save(figure, path):
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


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
    _save(figure, path)


# Scores --------------------------------------------------------------------------------------------------------------


def peaks(values, count=5):
    """The places of the highest peaks of (n,), at most `count`, in order; none has a higher one within n / 12."""
    gap = max(1, len(values) // 12)
    chosen = []
    for i in np.argsort(-values, kind="stable").tolist():
        is_peak = values[i] == values[max(0, i - gap) : i + gap + 1].max()
        if is_peak and all(abs(i - other) > gap for other in chosen):
            chosen.append(i)
    return sorted(chosen[:count])


def score_curves(directory, result, frame_at):
    """<directory>/<video>.png of each video, 1200 x 900: its scores over time and the frames at its highest peaks."""
    for video in tqdm(range(len(result.videos)), desc="drawing scores", unit="video"):
        _score_curve(Path(directory) / f"{result.videos[video]}.png", result, video, frame_at)


@styled
def _score_curve(path, result, video, frame_at):
    frames, abnormality = result.frames[video], result.abnormality[video]
    labels = None if result.labels is None else result.labels[video]
    title = f"video {result.videos[video]}"
    if labels is not None:
        kinds = np.unique(labels)
        only = "abnormal" if kinds[0] else "normal"
        title += f"   AUC {100 * auc(labels, abnormality):.2f} %" if len(kinds) == 2 else f"   all frames {only}"

    figure = Figure(figsize=(12, 9))
    _title(figure, title)
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
    _save(figure, path)


@styled
def roc_curve(path, labels, abnormality):
    """ROC of all frames with its AUC and the point of equal errors, 700 x 700; two lists of (n,), one a video."""
    labels, abnormality = np.concatenate(labels), np.concatenate(abnormality)
    area, equal = 100 * auc(labels, abnormality), 100 * equal_error_rate(labels, abnormality)
    false_alarms, hits, _ = metrics.roc_curve(labels, abnormality, drop_intermediate=False)
    figure = Figure(figsize=(7, 7))
    axes = figure.add_subplot(
        title=f"ROC of {len(labels)} frames, {int(labels.sum())} of them abnormal",
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
    _save(figure, path)


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
    _save(figure, path)


# Single frames -------------------------------------------------------------------------------------------------------


def typical_frames(result, count=2):
    """The most abnormal frame of `count` videos and the least abnormal one of `count` others: [(video, frame), ...].

    The videos are those where the abnormality reaches highest and lowest; where there are too few, they serve twice.
    Scores are min-max scaled in each video, so many reach 1: of these the regular score decides.
    """
    highest = [int(np.argmax(values)) for values in result.abnormality]
    lowest = [int(np.argmin(values)) for values in result.abnormality]

    def score(video, k):
        return result.abnormality[video][k], result.regular[video][k]

    videos = range(len(result.videos))
    worst = sorted(videos, key=lambda v: score(v, highest[v]), reverse=True)[:count]
    calmest = sorted(videos, key=lambda v: (v in worst, score(v, lowest[v])))[:count]
    return [(v, int(result.frames[v][place[v]])) for some, place in ((worst, highest), (calmest, lowest)) for v in some]


def panels(directory, result, chosen, replay, frame_at):
    """<directory>/<video>_<frame>.png for each of `chosen`, [(place in result.videos, index of the frame), ...].

    replay: place of a video -> its frames scored again, an iterator of exp.score.Scored; called once a video. The scale
    of the errors is the same in all pictures, so that they can be compared.
    """
    found = []
    for video in sorted({video for video, _ in chosen}):
        wanted = {frame for place, frame in chosen if place == video}
        first = int(result.frames[video][0])
        for scored in replay(video):
            for frame in sorted(wanted.intersection(range(first, first + len(scored.psnr)))):
                parts = (scored.target, scored.predicted, scored.queries, scored.items)
                found.append((video, frame, [part[frame - first].float().cpu() for part in parts]))
                wanted.remove(frame)
            first += len(scored.psnr)
            if not wanted:
                break
    error_max = max((high_error(squared_error(*parts[:2])) for *_, parts in found), default=0)
    for video, frame, parts in found:
        k = frame - int(result.frames[video][0])
        name, kind = result.videos[video], ""
        if result.labels is not None:
            kind = ", labelled abnormal" if result.labels[video][k] else ", labelled normal"
        title = f"video {name}, frame {frame}: abnormality {result.abnormality[video][k]:.3f}{kind}"
        height, width = frame_at(video, frame).shape[:2]
        panel(Path(directory) / f"{name}_{frame:04d}.png", *parts, title, width / height, error_max)


def squared_error(target, predicted):
    """Mean over channels: two (c, H, W) in [0, 1] -> (H, W)."""
    return (predicted - target).square().mean(dim=-3)


def high_error(error):
    """What the colours of an error (H, W) end at: all but one pixel of a thousand lie below, so none outshines all."""
    return float(np.quantile(error, 0.999))


@styled
def panel(path, target, predicted, queries, items, title="", ratio=1.0, error_max=None):
    """One frame, its prediction, their error, and how its queries match the memory items, 1200 wide.

    target, predicted (c, H, W) in [0, 1], BGR or gray; queries (h, w, C); items (M, C), all on the CPU. ratio: width by
    height at which frames are shown, for the network sees them squeezed. error_max: where the colours of the error end.
    """
    error = squared_error(target, predicted).numpy()  # (H, W)
    matching = memory.matching_probability(queries, items).permute(2, 0, 1)  # (M, h, w)
    chosen = matching.argmax(dim=0).numpy()
    height, width = error.shape
    frame, gray = _picture(target), _picture(target).mean(axis=2, keepdims=True).repeat(3, axis=2)
    shown = {"extent": (0, width, height, 0), "aspect": width / height / ratio, "interpolation": "nearest"}

    figure = Figure(figsize=(12, 1.6 + 7 / max(ratio, 0.5)))
    _title(figure, title)
    grid = figure.add_gridspec(2, 3)
    for place, name, picture in ((0, "frame", frame), (1, "prediction", _picture(predicted))):
        _blank(figure, grid[0, place], name).imshow(picture, **shown)
    axes = _blank(figure, grid[0, 2], "squared error, frames in [0, 1]")
    scale = PowerNorm(0.5, 0, error_max or high_error(error) or 1.0, clip=True)
    axes.imshow(0.5 * gray, **shown)
    heat = axes.imshow(error, cmap="inferno", norm=scale, alpha=scale(error).data, **shown)  # dark: transparent
    ticks = scale.vmax * np.linspace(0, 1, 5) ** 2
    figure.colorbar(heat, extend="max", shrink=0.8, label="mean over channels", ticks=ticks, format="%.2g")

    axes = _blank(figure, grid[1, 0], "nearest item of each query")
    count = len(items)
    colours = matplotlib.colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "turbo"].resampled(count)
    axes.imshow(gray, **shown)
    axes.imshow(colours(chosen), alpha=0.65, **shown)
    for item in np.unique(chosen):  # its number goes to the middle of its largest region
        depth = cv2.distanceTransform(np.pad(chosen == item, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = (np.array(np.unravel_index(depth.argmax(), depth.shape)) + 0.5) * (height, width) / chosen.shape
        axes.text(x, y, item, ha="center", va="center", path_effects=[withStroke(linewidth=3, foreground="white")])

    axes = _blank(figure, grid[1, 1:], "matching probability of each item, their sum is 1")
    columns, pad = -(-count // (2 if count <= 12 else 3)), max(1, chosen.shape[1] // 8)
    tiled = make_grid(matching[:, None], columns, padding=pad, pad_value=torch.nan)[0].numpy()
    axes_of_maps = axes.imshow(tiled, cmap="cividis", aspect=shown["aspect"], interpolation="nearest")
    for item in range(count):
        row, column = divmod(item, columns)
        x, y = column * (chosen.shape[1] + pad) + pad, row * (chosen.shape[0] + pad) + pad
        outline = [withStroke(linewidth=2.5, foreground="white")]
        axes.text(x - 0.4, y - 0.5, item, ha="left", va="top", fontsize=10, path_effects=outline)
    figure.colorbar(axes_of_maps, shrink=0.8, label="probability")
    _save(figure, path)


def _blank(figure, place, title):
    axes = figure.add_subplot(place, title=title)
    axes.set_axis_off()
    return axes


def _picture(frame):
    """(c, H, W) BGR or gray -> (H, W, 3) RGB, numpy, for matplotlib."""
    return frame.clamp(0, 1).flip(0).expand(3, -1, -1).permute(1, 2, 0).numpy()
