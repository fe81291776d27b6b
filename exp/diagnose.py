"""The memory of a run, looked at: `python -m exp.diagnose RUN` tells which items win queries, where, and what is wrong.

    memory.json                      all numbers below
    figures/memory/wins.png          how many of the queries each item is nearest to
    figures/memory/cosines.png       how alike the items are
    figures/memory/embedding.png     queries and items in two dimensions (t-SNE), coloured by item
    figures/memory/maps.png          where in the frame each item wins

Queries are those of clips drawn at random from training and testing. All are matched with the items as training left
them; Evaluate.py's go on from there with --memory_update on.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch.utils.data import Subset
from torchvision.utils import make_grid
from tqdm import tqdm

from data.clips import normalise, open_clips, split_videos, testing_loader
from data.frames import read_picture
from exp import flags
from exp.checkpoints import SHAPE, load_model
from exp.device import fold_batch_norms, pick_device, place
from exp.report.style import ABNORMAL, GREEN, GREY, NORMAL, add_title, item_colours, save, styled
from exp.run import read_record
from exp.scoring.score import to_unit
from model import memory
from utils import Parser, run_script, write_whole

SPLITS = ("training", "testing")
DEAD = 0.001  # an item nearest to a smaller share of the training queries is dead
COLLAPSED = 0.95  # two items with a higher cosine are one
CONCENTRATED = 0.5  # a smaller share of the items does the work of all


class Wins(NamedTuple):
    """What the queries of the clips drawn from one split chose."""

    clips: int  # drawn
    of: int  # how many there are
    counts: np.ndarray  # (M, h, w): in how many of the clips the item is nearest to the query at that position
    queries: torch.Tensor  # (n, C), some of them
    chosen: np.ndarray  # (n,), the nearest item of each
    frame: torch.Tensor  # (c, H, W) in [0, 1], the mean of the clips' last frames
    ratio: float  # of width to height of the frames on disk

    @property
    def share(self):
        """Of all queries, that the item is nearest to: (M,)."""
        return self.counts.sum(axis=(1, 2)) / self.counts.sum()


@torch.inference_mode()
def collect(model, items, clips, count, queries, seed, **loading):
    """The Wins of `count` clips drawn from data.clips.Clips, keeping about `queries` of their queries.

    model in eval mode and items (M, C) on one device; loading: settings of data.clips.testing_loader.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(clips), generator=generator)[:count].sort().values
    loader = testing_loader(Subset(clips, drawn.tolist()), **loading)
    counts, kept, frame = 0, [], 0
    for some in tqdm(loader, desc="matching", unit="batch", leave=False):
        inputs, target = model.split(normalise(some.to(items.device)))
        found = model.encode(inputs).queries  # (B, h, w, C)
        nearest = memory.nearest(found, items).squeeze(-1)  # (B, h, w)
        counts = counts + F.one_hot(nearest, len(items)).sum(dim=0).permute(2, 0, 1)
        frame = frame + to_unit(target).sum(dim=0)
        each = -(-queries * len(some) // len(drawn))
        kept.append(found.flatten(0, 2)[torch.randperm(nearest.numel(), generator=generator)[:each].to(found.device)])
    kept = torch.cat(kept)
    height, width = read_picture(clips.videos[0].path(0)).shape[:2]
    chosen = memory.nearest(kept, items).squeeze(-1).cpu().numpy()
    return Wins(
        len(drawn), len(clips), counts.cpu().numpy(), kept.cpu(), chosen, (frame / len(drawn)).cpu(), width / height
    )


def told_by_place(counts):
    """The share of queries whose nearest item is the usual one at their place; counts: (M, h, w). 1: place is all."""
    return float(counts.max(axis=0).sum() / counts.sum())


def effective_number(share):
    """How many items that win equally often have the same entropy: from 1 to M for a (M,) whose sum is 1."""
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def diagnose(training, cosines):
    """What is wrong with a memory, a dict; training: (M,) share of the training queries, cosines: (M, M)."""
    pairs = [(i, j) for i in range(len(cosines)) for j in range(i + 1, len(cosines)) if cosines[i, j] > COLLAPSED]
    return {
        "dead": np.flatnonzero(training < DEAD).tolist(),
        "collapsed": pairs,
        "concentrated": effective_number(training) < CONCENTRATED * len(training),
    }


def verdict(found, training, cosines):
    """The same as lines to read."""
    lines, count = [], len(training)
    if found["dead"]:
        names = ", ".join(map(str, found["dead"]))
        lines.append(f"dead: {names}, each nearest to less than {100 * DEAD:g} % of the training queries")
    if found["collapsed"]:
        pairs = ", ".join(f"{i} and {j} ({cosines[i, j]:.3f})" for i, j in found["collapsed"])
        lines.append(f"collapsed: {pairs}, with a cosine above {COLLAPSED:g}")
    used = f"training uses {effective_number(training):.1f} of {count} items effectively (exp of the entropy of wins)"
    if found["concentrated"]:
        lines.append(f"concentrated: {used}, less than {100 * CONCENTRATED:g} %")
    return lines or [f"healthy: no item is dead, no two have collapsed; {used}"]


# Figures -------------------------------------------------------------------------------------------------------------


@styled
def draw_wins(path, wins):
    """Share of the queries of each split that each item is nearest to; wins: {split: Wins}."""
    count = len(wins["training"].counts)
    figure = Figure(figsize=(min(max(9, 0.55 * count), 16), 5))
    axes = figure.add_subplot(xlabel="memory item", ylabel="share of the queries nearest to it (%)")
    for side, split, colour, hatch in ((-0.5, "training", NORMAL, None), (0.5, "testing", GREEN, "//")):
        look = {"facecolor": (colour, 0.75), "edgecolor": colour, "hatch": hatch, "width": 0.4}
        share = 100 * wins[split].share
        bars = axes.bar(np.arange(count) + 0.42 * side, share, label=f"{split} clips", **look)
        if count <= 12:
            axes.bar_label(bars, [f"{value:.3g}" for value in share], fontsize=8, padding=1)
    axes.axhline(100 / count, color=GREY, linestyle="--", label="equal shares")
    axes.set_xticks(range(0, count, 1 + count // 40))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    save(figure, path)


@styled
def draw_cosines(path, cosines):
    """The cosine of each pair of items, (M, M); collapsed pairs are framed."""
    count = len(cosines)
    figure = Figure(figsize=(8, 7))
    axes = figure.add_subplot(title=f"cosine of two items; framed: above {COLLAPSED:g}", xlabel="item", ylabel="item")
    axes.grid(False)
    low = min(0.0, float(cosines.min()))
    picture = axes.imshow(cosines, cmap="cividis", vmin=low, vmax=1)
    figure.colorbar(picture, label="cosine")
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(range(0, count, 1 + count // 20))
    for i, j in np.ndindex(count, count):
        if count <= 15:
            ink = "black" if (cosines[i, j] - low) / (1 - low) > 0.6 else "white"
            value = round(cosines[i, j], 2) + 0.0  # no -0.00
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
        if i != j and cosines[i, j] > COLLAPSED:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ABNORMAL, linewidth=2))
    save(figure, path)


@styled
def draw_embedding(path, wins, items, seed):
    """Queries of both splits and the items (M, C) in one t-SNE by cosine, coloured by the nearest item, 1200 x 700."""
    from sklearn.manifold import TSNE  # here, as it takes a second and only this figure needs it

    parts = [*(wins[split].queries for split in SPLITS), items]
    everything = torch.cat(parts).numpy()
    perplexity = min(30, (len(everything) - 1) / 3)
    flat = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=seed).fit_transform(everything)
    places = np.split(flat, np.cumsum([len(part) for part in parts[:-1]]))
    colours = item_colours(len(items))

    figure = Figure(figsize=(12, 7))
    add_title(figure, "t-SNE of queries, coloured by the item nearest to them; numbers: the items")
    shared = None
    for column, split in enumerate(SPLITS):
        points, chosen = places[column], wins[split].chosen
        title = f"{len(points)} queries of {wins[split].clips} {split} clips"
        axes = figure.add_subplot(1, 2, column + 1, title=title, sharex=shared, sharey=shared, aspect="equal")
        axes.scatter(*points.T, s=9, c=colours(chosen), linewidths=0, rasterized=True)
        axes.scatter(*places[-1].T, s=130, c=colours(np.arange(len(items))), edgecolors="black", linewidths=1.2)
        for names, point in _grouped(places[-1], 0.03 * np.ptp(flat, axis=0).max()):
            outline = [withStroke(linewidth=2.5, foreground="white")]
            look = {"textcoords": "offset points", "xytext": (8, 5), "fontsize": 10, "path_effects": outline}
            axes.annotate(", ".join(map(str, names)), point, fontweight="bold", **look)
        axes.set(xticks=[], yticks=[], xlabel="the axes of t-SNE have no unit")
        axes.spines[:].set_visible(True)
        shared = axes
    if len(items) <= 20:
        dots = [Line2D([], [], linestyle="", marker="o", color=colours(item)) for item in range(len(items))]
        figure.legend(
            dots, range(len(items)), title="nearest item", loc="outside lower center", ncols=min(len(items), 10)
        )
    save(figure, path)


def _grouped(points, near):
    """Items at (M, 2) points, those near another of a group in one group: [(their numbers, a point), ...]."""
    groups = []
    for item, point in enumerate(points):
        group = next((g for g in groups if np.linalg.norm(points[g] - point, axis=1).min() < near), None)
        if group:
            group.append(item)
        else:
            groups.append([item])
    return [(group, points[group].max(axis=0)) for group in groups]


@styled
def draw_maps(path, wins):
    """The mean frame of each split and, for each item, in how many of the clips it wins at each position."""
    items, height, width = wins["training"].counts.shape
    ratio = wins["training"].ratio
    columns, pad = math.ceil(math.sqrt(2 * items)), max(1, width // 8)
    rows = -(-items // columns)
    figure = Figure(figsize=(12, min(1.6 + 2 * max(2.8, 7.6 / columns * rows) / ratio, 12)))
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 3))
    below = []
    for row, split in enumerate(SPLITS):
        frame = wins[split].frame.flip(0).expand(3, -1, -1).permute(1, 2, 0).numpy()  # RGB
        axes = figure.add_subplot(grid[row, 0], title=f"mean of {wins[split].clips} {split} frames")
        axes.imshow(frame, aspect=frame.shape[1] / frame.shape[0] / ratio)
        axes.set_axis_off()

        axes = figure.add_subplot(grid[row, 1], title=f"{split}: where each item wins")
        share = torch.from_numpy(100 * wins[split].counts / wins[split].clips).float()
        tiled = make_grid(share[:, None], columns, padding=pad, pad_value=torch.nan)[0].numpy()
        shown = {"cmap": "cividis", "vmin": 0, "vmax": 100, "interpolation": "nearest"}
        picture = axes.imshow(tiled, aspect=width / height / ratio, **shown)
        for item in range(items):
            y, x = (k * (size + pad) + pad for k, size in zip(divmod(item, columns), (height, width), strict=True))
            outline = [withStroke(linewidth=2.5, foreground="white")]
            axes.text(x - 0.4, y - 0.5, item, ha="left", va="top", fontsize=10, path_effects=outline)
        axes.set_axis_off()
        below.append(axes)
    figure.colorbar(picture, ax=below, shrink=0.8, label="share of the clips in which it wins there (%)")
    save(figure, path)


# Command line --------------------------------------------------------------------------------------------------------


def parse(arguments=None):
    parser = Parser(prog="python -m exp.diagnose", description="What the memory of a run is like.")
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument("--dataset_path", help="the folder that holds data sets; that of the run when not given")
    parser.add_argument("--output_dir", type=Path, help="where memory.json and figures go; the run when not given")
    parser.add_argument("--clips", type=flags.positive_int, default=400, help="drawn from each split, at most")
    parser.add_argument("--queries", type=flags.positive_int, default=1000, help="of each split in the t-SNE, about")
    parser.add_argument("--seed", type=flags.non_negative_int, default=0, help="of what is drawn, and of the t-SNE")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args(arguments)


def main():
    args = parse()
    device = pick_device(args.device)
    trained = read_record(args.run).flags
    model, items, shape = load_model(args.run / "model.pth", args.run / "m_items.pt", dict.fromkeys(SHAPE))
    dataset_path, dataset_type = args.dataset_path or trained["dataset_path"], trained["dataset_type"]
    network, size = fold_batch_norms(place(model, device, "fp32")), (shape["h"], shape["w"], shape["c"])
    wins = {}
    for split in SPLITS:
        videos = split_videos(dataset_path, dataset_type, split)
        # few clips are read, so no cache of all frames is made for them
        clips = open_clips(videos, split, shape["t_length"], size, cache=False, bad_frames=trained["bad_frames"])
        wins[split] = collect(network, items.to(device), clips, args.clips, args.queries, args.seed)

    cosines = memory.similarity(items, items).numpy()
    share = {split: wins[split].share for split in SPLITS}
    found = diagnose(share["training"], cosines)
    output, figures = args.output_dir or args.run, (args.output_dir or args.run) / "figures" / "memory"
    draw_wins(figures / "wins.png", wins)
    draw_cosines(figures / "cosines.png", cosines)
    draw_embedding(figures / "embedding.png", wins, items, args.seed)
    draw_maps(figures / "maps.png", wins)
    report = {"limits": {"dead": DEAD, "collapsed": COLLAPSED, "concentrated": CONCENTRATED}, **found}
    report["cosines"] = cosines.tolist()
    for split in SPLITS:
        counts = wins[split].counts
        report[split] = {
            "clips": wins[split].clips,
            "queries_won": counts.sum(axis=(1, 2)).tolist(),
            "share": share[split].tolist(),
            "effective_number": effective_number(share[split]),
            "told_by_place": told_by_place(counts),
            "map": counts.tolist(),
        }
    write_whole(output / "memory.json", lambda path: path.write_text(json.dumps(report) + "\n"))

    drawn = " and ".join(f"{wins[split].clips} of {wins[split].of} {split} clips" for split in SPLITS)
    print(f"{len(items)} items of {items.shape[1]} values as training left them; queries of {drawn}")
    print(f"{'item':>4}{'training':>12}{'testing':>12}   most alike")
    others = cosines - 3 * np.eye(len(cosines))
    for item, other in enumerate(others.argmax(axis=1)):
        shares = "".join(f"{100 * share[split][item]:>10.2f} %" for split in SPLITS)
        print(f"{item:>4}{shares}   {other} (cosine {cosines[item, other]:.3f})")
    numbers = ", ".join(f"{split} {effective_number(share[split]):.1f}" for split in SPLITS)
    print(f"items used effectively: {numbers} of {len(items)}")
    places = ", ".join(f"{split} {100 * told_by_place(wins[split].counts):.1f} %" for split in SPLITS)
    print(f"queries whose place in the frame alone tells their item: {places}")
    for line in verdict(found, share["training"], cosines):
        print(line)
    print(f"{output / 'memory.json'}, figures in {figures}")


if __name__ == "__main__":
    run_script(main)
