"""Inspect a trained memory: `python -m exp.diagnose RUN` shows which items win queries, and where in the frame.

    memory.json                      all numbers below
    figures/memory/wins.png          how many queries each item is nearest to
    figures/memory/cosines.png       how similar the items are
    figures/memory/embedding.png     queries and items in two dimensions (t-SNE), coloured by item
    figures/memory/maps.png          where in the frame each item wins

The queries come from clips drawn at random from the training and testing videos. They are matched with the items as
they were after training, whereas Evaluate.py updates the items while it scores, unless --memory_update is off.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from data.cache import NO_CACHE
from data.clips import Clips, Source, normalise, open_split, testing_loader
from data.pictures import read_picture
from exp import flags
from exp.pack import find_weights, is_packed
from exp.record import read_record
from exp.report.memory_figures import Wins, draw_cosines, draw_embedding, draw_maps, draw_wins
from exp.run import run_directory
from exp.scoring.score import to_unit
from exp.scoring.trained import load_trained
from model import memory
from model.convae import ConvAE
from utils import InputError, Parser, progress, run_script, write_text

SPLITS = ("training", "testing")
DEAD = 0.001  # an item nearest to a smaller share of the training queries is dead
COLLAPSED = 0.95  # two items with a higher cosine have collapsed into one
CONCENTRATED = 0.5  # a memory that effectively uses a smaller share of its items is concentrated


@torch.inference_mode()
def collect(model: ConvAE, items: Tensor, clips: Clips, count: int, queries: int, seed: int) -> Wins:
    """The items that the queries of `count` random clips choose; about `queries` of the queries are kept.

    The model, in eval mode, and the items (M, C) must be on one device.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(clips), generator=generator)[:count].sort().values
    loader = testing_loader(Subset(clips, drawn.tolist()))
    counts, frame = torch.zeros((), dtype=torch.int64), torch.zeros(())
    kept = []
    for some in progress("matching", "batch", loader):
        inputs, target = model.split(normalise(some.to(items.device)))
        found = model.encode(inputs).queries  # (B, h, w, C)
        nearest = memory.nearest(found, items).squeeze(-1)  # (B, h, w)
        counts = counts + F.one_hot(nearest, len(items)).sum(dim=0).permute(2, 0, 1).cpu()
        frame = frame + to_unit(target).sum(dim=0).cpu()
        each = -(-queries * len(some) // len(drawn))
        chosen = torch.randperm(nearest.numel(), generator=generator)[:each]
        kept.append(found.flatten(0, 2)[chosen.to(found.device)])
    points = torch.cat(kept)
    height, width = read_picture(clips.videos[0].path(0)).shape[:2]
    return Wins(
        clips=len(drawn),
        of=len(clips),
        counts=counts.numpy(),
        queries=points.cpu(),
        chosen=memory.nearest(points, items).squeeze(-1).cpu().numpy(),
        frame=frame / len(drawn),
        ratio=width / height,
    )


def usual_item_share(counts: np.ndarray) -> float:
    """The share of queries whose nearest item is the one that wins most often at their position; counts: (M, h, w).

    It is 1 when the position alone decides which item wins, whatever the frame shows.
    """
    return float(counts.max(axis=0).sum() / counts.sum())


def effective_number(share: np.ndarray) -> float:
    """The number of equally frequent items with the same entropy (its exponential): 1 to M, for (M,) that sums to 1."""
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def diagnose(training: np.ndarray, cosines: np.ndarray) -> dict[str, Any]:
    """Find faults of a memory. training: (M,), each item's share of the training queries; cosines: (M, M), of items."""
    pairs = [(i, j) for i in range(len(cosines)) for j in range(i + 1, len(cosines)) if cosines[i, j] > COLLAPSED]
    return {
        "dead": np.flatnonzero(training < DEAD).tolist(),
        "collapsed": pairs,
        "concentrated": effective_number(training) < CONCENTRATED * len(training),
    }


def verdict(found: dict[str, Any], training: np.ndarray, cosines: np.ndarray) -> list[str]:
    """The findings of `diagnose` as lines of text."""
    lines, count = [], len(training)
    if found["dead"]:
        names = ", ".join(map(str, found["dead"]))
        lines.append(f"dead: {names}, each nearest to less than {100 * DEAD:g} % of the training queries")
    if found["collapsed"]:
        pairs = ", ".join(f"{i} and {j} ({cosines[i, j]:.3f})" for i, j in found["collapsed"])
        lines.append(f"collapsed: {pairs}, with a cosine above {COLLAPSED:g}")
    used = f"the training queries use {effective_number(training):.1f} of {count} items (exp of the entropy of wins)"
    if found["concentrated"]:
        lines.append(f"concentrated: {used}, less than {100 * CONCENTRATED:g} %")
    return lines or [f"healthy: no item is dead, no two have collapsed; {used}"]


def report_lines(items: Tensor, wins: dict[str, Wins], cosines: np.ndarray) -> list[str]:
    """The numbers of a memory as lines of text: the clips, the share of each item, and the verdict."""
    drawn = " and ".join(f"{some.clips} of {some.of} {split} clips" for split, some in wins.items())
    lines = [f"{len(items)} items of {items.shape[1]} values after training; queries of {drawn}"]
    lines.append(f"{'item':>4}{'training':>12}{'testing':>12}   most similar")
    others = cosines - 3 * np.eye(len(cosines))
    for item, other in enumerate(others.argmax(axis=1)):
        shares = "".join(f"{100 * wins[split].share[item]:>10.2f} %" for split in SPLITS)
        lines.append(f"{item:>4}{shares}   {other} (cosine {cosines[item, other]:.3f})")
    numbers = ", ".join(f"{split} {effective_number(some.share):.1f}" for split, some in wins.items())
    lines.append(f"items in effective use: {numbers} of {len(items)}")
    usual = ", ".join(f"{split} {100 * usual_item_share(some.counts):.1f} %" for split, some in wins.items())
    lines.append(f"queries won by the item that usually wins at their position: {usual}")
    training = wins["training"].share
    return lines + verdict(diagnose(training, cosines), training, cosines)


def numbers(wins: dict[str, Wins], cosines: np.ndarray) -> dict[str, Any]:
    """The content of memory.json."""
    limits = {"dead": DEAD, "collapsed": COLLAPSED, "concentrated": CONCENTRATED}
    splits = {
        split: {
            "clips": some.clips,
            "queries_won": some.counts.sum(axis=(1, 2)).tolist(),
            "share": some.share.tolist(),
            "effective_number": effective_number(some.share),
            "usual_item_share": usual_item_share(some.counts),
            "map": some.counts.tolist(),
        }
        for split, some in wins.items()
    }
    found = diagnose(wins["training"].share, cosines)
    return {"limits": limits, **found, "cosines": cosines.tolist(), **splits}


# Command line --------------------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m exp.diagnose", description="Show which memory items a run uses, and where in the frame."
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the directory of a run, or of packed weights (exp/weights/NAME)"
    )
    parser.add_argument(
        "--dataset_path",
        help="the folder that contains the data sets; that of the run, or ./dataset for weights, if not given",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="where memory.json and figures go; the run, or exp/<dataset_type>/<method>/NAME for weights, if not given",
    )
    parser.add_argument("--clips", type=flags.positive_int, default=400, help="number of clips drawn from each split")
    parser.add_argument(
        "--queries", type=flags.positive_int, default=1000, help="approximate number of queries per split in the t-SNE"
    )
    parser.add_argument(
        "--seed", type=flags.non_negative_int, default=0, help="seed of the drawn clips and of the t-SNE"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--figure_format", choices=flags.FIGURE_FORMATS, default="png", help="format of the figures")
    return parser.parse_args(arguments)


def look_up(args: argparse.Namespace) -> tuple[Source, Path]:
    """The data set that a run or packed weights were made with, and the folder for the results. Raises InputError."""
    if is_packed(args.run):
        name = args.run.resolve().name
        _, about = find_weights(name)
        usual = {"dataset_path": "./dataset", "bad_frames": "fail", **about}
        output = args.output_dir or run_directory(about["dataset_type"], about["method"], name)
    else:
        usual, output = read_record(args.run).flags, args.output_dir or args.run
    path = args.dataset_path or usual["dataset_path"]
    # only few clips are read, so no cache of all frames is made
    return Source(path, usual["dataset_type"], NO_CACHE, usual["bad_frames"]), output


def main() -> None:
    args = parse()
    source, output = look_up(args)
    trained = load_trained(args.run, device=args.device)
    if not len(trained.items):
        raise InputError(f"{args.run} was trained without a memory (--msize 0), so there are no items to inspect")
    wins = {}
    for split in SPLITS:
        clips = open_split(source, split, trained.shape)
        wins[split] = collect(trained.model, trained.items, clips, args.clips, args.queries, args.seed)

    items = trained.items.cpu()
    cosines = memory.similarity(items, items).numpy()
    kind = args.figure_format
    figures, content = output / "figures" / "memory", numbers(wins, cosines)
    draw_wins(figures / f"wins.{kind}", wins)
    draw_cosines(figures / f"cosines.{kind}", cosines, content["collapsed"], COLLAPSED)
    draw_embedding(figures / f"embedding.{kind}", wins, items, args.seed)
    draw_maps(figures / f"maps.{kind}", wins)
    text = json.dumps(content) + "\n"
    write_text(output / "memory.json", text)
    print(*report_lines(items, wins, cosines), sep="\n")
    print(f"{output / 'memory.json'}, figures in {figures}")


if __name__ == "__main__":
    run_script(main)
