"""Figures of single frames, PNG: what came in, what was predicted, their error, and the memory items that were read.

`result` is an exp.scoring.evaluation.Evaluation, `frame_at` a function (place in result.videos, index of a frame in that video)
-> uint8 (h, w, 3) BGR, of any size.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torchvision.utils import make_grid

from exp.report.style import add_title, item_colours, save, styled
from model import memory


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

    replay: place of a video -> its frames scored again, an iterator of exp.scoring.score.Scored; called once a video. The scale
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
    add_title(figure, title)
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
    axes.imshow(gray, **shown)
    axes.imshow(item_colours(count)(chosen), alpha=0.65, **shown)
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
    save(figure, path)


def _blank(figure, place, title):
    axes = figure.add_subplot(place, title=title)
    axes.set_axis_off()
    return axes


def _picture(frame):
    """(c, H, W) BGR or gray -> (H, W, 3) RGB, numpy, for matplotlib."""
    return frame.clamp(0, 1).flip(0).expand(3, -1, -1).permute(1, 2, 0).numpy()
