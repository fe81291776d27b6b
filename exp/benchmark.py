"""Measures speed: `python -m exp.benchmark` compares this project with a plain implementation of the same method.

The plain way computes as the authors' released code does (exp/reproduce/plain.py): clips are decoded when they are
needed, tensors are stored channels first, Adam updates one weight after another, and test clips are scored one at a
time, although without gradients. Our way is that of Train.py and Evaluate.py, from the loader to the losses or scores.
Both compute in float32 with the same settings of PyTorch; rows in another precision say so.

Each run is a separate process, and all ways take turns, so whatever slows the machine down for a while slows all of
them. A ratio compares two runs of the same round. exp/reproduce/speed_tables.py shows the median and the range over all
rounds. The frames, 360x240 like those of Ped2, are generated in a temporary folder. The whole benchmark takes about
40 minutes on two CPU cores.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import synthetic
from data.clips import CHUNK, Source, open_split, split_videos, testing_loader, training_loader
from exp import flags
from exp.checkpoints import build_model
from exp.device import fold_batch_norms, keep_freed_memory, pick_device, place
from exp.reproduce import speed_tables
from exp.reproduce.machine import alone, peak_memory, product_flops_per_second
from exp.reproduce.plain import PlainClips, plain_epoch
from exp.run import environment
from exp.scoring.score import Place, Scoring, score, score_one_by_one
from model import memory
from model.convae import ConvAE
from Train import train_epoch
from utils import InputError, Parser, progress, run_script, write_text, writing

BATCH = 4  # clips in a training step
STEPS = 10  # steps of training in a run, or chunks of test clips
WARM_UP = 2  # batches before them: memory is allocated, cuDNN chooses its algorithms, the loader's processes start
ROUNDS = 3
READING, TRAINING, SCORING = "a clip from disk", "training", "scoring"
CHANGING = "scoring where half of the frames update memory"  # the slowest case
CLIPS = {READING: 1, TRAINING: BATCH, SCORING: CHUNK, CHANGING: CHUNK}  # the clips that a time in the tables is for
AT_EACH_SIZE = (TRAINING, SCORING)  # in every way; the others only at the first size, in the plain way and ours


class Task(NamedTuple):
    """What to time."""

    title: str
    settings: dict[str, Any]  # by the names of flags
    device: torch.device
    folder: str  # of the frames
    th: float = 1.0  # γ; the regular score is below 1, so every frame updates the memory


class Way(NamedTuple):
    """How to compute it. To measure what each optimisation gives, every field but `plain` is changed by itself."""

    plain: bool = False  # loader, epoch and rule of scoring are the plain ones; Adam is not fused, no ReLU in place
    keeps_memory: bool = True
    channels_last: bool = True
    folded: bool = True
    chunk: int = CHUNK
    precision: str = "fp32"


PLAIN = Way(plain=True, keeps_memory=False, channels_last=False, folded=False, chunk=1)


def ways_of(task: Task) -> dict[str, Way]:
    """The plain way, ours, and ours with one field changed, by their names in the tables."""
    ways, kind = {"plain": PLAIN, "ours": Way()}, task.device.type
    if task.title not in AT_EACH_SIZE:
        return ways
    ways["channels first"] = Way(channels_last=False)
    if task.title == SCORING:
        ways |= {"batch norms not folded": Way(folded=False), "one clip at a time": Way(chunk=1)}
    ways |= {"memory given back": Way(keeps_memory=False)} if kind == "cpu" else {}
    ways |= {"tf32": Way(precision="tf32")} if kind == "cuda" else {}
    ways |= {"bf16": Way(precision="bf16")} if kind != "mps" else {}
    return ways


# One run -------------------------------------------------------------------------------------------------------------


def batches_of(task: Task, way: Way) -> DataLoader:
    """The loader; the plain one has as many processes as that of the released code."""
    trains, settings = task.title == TRAINING, task.settings
    split = "training" if trains else "testing"
    count = 1 if task.title == READING else BATCH if trains else way.chunk
    if way.plain:
        videos = split_videos(task.folder, "synthetic", split)
        clips = PlainClips(videos, settings["t_length"], (settings["h"], settings["w"]))
        workers = {READING: 0, TRAINING: 2}.get(task.title, 1)
        return DataLoader(clips, count, shuffle=trains, num_workers=workers, persistent_workers=workers > 0)
    opened = open_split(Source(task.folder, "synthetic"), split, settings)
    if trains:
        return training_loader(opened, count, None, 0, device=task.device)
    return testing_loader(opened, count, None, task.device)


def untrained(task: Task, way: Way) -> tuple[ConvAE, Tensor]:
    """The network and the items at the start of training."""
    torch.manual_seed(0)
    model = place(build_model(task.settings), task.device, way.precision)
    if not way.channels_last:
        model.to(memory_format=torch.contiguous_format)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = not way.plain
    return model, memory.initial_items(task.settings["msize"], task.settings["fdim"]).to(task.device)


def training(task: Task, way: Way) -> Callable[[DataLoader], float]:
    """A function that trains for an epoch: loader -> mean loss."""
    model, items = untrained(task, way)
    fused = not way.plain and task.device.type != "mps"
    optimizer = torch.optim.Adam(model.parameters(), lr=task.settings["lr"], fused=fused)
    epoch, args = plain_epoch if way.plain else train_epoch, argparse.Namespace(**task.settings)
    return lambda loader: epoch(model, items, loader, optimizer, args, lambda *_: None)[1]["loss"]


def scoring(task: Task, way: Way) -> Callable[[DataLoader], np.ndarray]:
    """A function that scores clips: loader -> P, D and E of each clip, (n, 3)."""
    model, items = untrained(task, way)
    network = fold_batch_norms(model.eval()) if way.folded else model.eval()
    rule, settings = score_one_by_one if way.plain else score, Scoring(task.th, task.settings["alpha"])

    def run(loader: DataLoader) -> np.ndarray:
        placed = ((clips, [Place(0, 0)] * len(clips)) for clips in loader)
        found = rule(network, items, placed, settings)
        return torch.cat([torch.stack((s.psnr, s.distance, s.regular), dim=1) for s in found]).cpu().numpy()

    return run


def measure(task: Task, way: Way) -> tuple[float, int | None]:
    """The seconds for CLIPS[title] clips, and the peak memory of this process in bytes (see peak_memory)."""
    cv2.setNumThreads(0)  # as in the processes of a loader
    if way.keeps_memory:
        keep_freed_memory(task.device)
    loader = batches_of(task, way)
    run: Callable = list if task.title == READING else (training if task.title == TRAINING else scoring)(task, way)
    run(list(islice(loader, WARM_UP)))
    start = time.perf_counter()
    run(loader)  # returns numbers on the CPU, so the GPU has finished
    seconds = time.perf_counter() - start
    return seconds * CLIPS[task.title] / len(cast(PlainClips, loader.dataset)), peak_memory(task.device)


def median_regular_score(task: Task) -> float:
    return float(np.median(scoring(task, Way())(batches_of(task, Way()))[:, 2]))


def flops_per_clip(task: Task) -> int:
    """The number of floating-point operations for one clip."""
    model, items = untrained(task._replace(device=torch.device("cpu")), Way())
    frames = torch.zeros(1, model.inputs, task.settings["h"], task.settings["w"])
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(task.title == TRAINING):
        output = model.eval()(frames, items)
        if task.title == TRAINING:
            (output.frame.mean() + output.compactness + output.separateness).backward()
    return counter.get_total_flops()


# Side by side --------------------------------------------------------------------------------------------------------


def times_as_fast(taken: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """How many times as fast one way was as another, from the seconds of both in each round."""
    return median_of([other / own for own, other in zip(taken, others, strict=True)])


def median_of(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def side_by_side(task: Task, bar: tqdm) -> dict[str, Any]:
    """Run all ways in turns. Returns a table for exp.reproduce.speed_tables.

    The speed of a large matrix product is measured in the same rounds, since it changes if others share the machine.
    """
    ways, size, clips, product = ways_of(task), task.settings["h"], CLIPS[task.title], 0.0
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    held: dict[str, int | None] = {}
    for turn in range(ROUNDS):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            bar.set_postfix_str(f"{task.title}, {size}x{size}: {name}")
            taken, held[name] = alone(measure, task, ways[name])
            seconds[name].append(taken)
            bar.update()
        product = max(product, alone(product_flops_per_second, task.device))
    ours, speed = seconds["ours"], clips / statistics.median(seconds["ours"])
    rows: dict[str, dict[str, Any]] = {
        name: {"times_ours": times_as_fast(taken, ours)} for name, taken in seconds.items() if name != "ours"
    }
    rows["ours"] = {"times_plain": times_as_fast(ours, seconds["plain"]), "clips_per_second": speed}
    for name in ("plain", "ours"):
        rows[name] |= {"seconds": median_of(seconds[name]), "peak_memory": held[name]}
    table = {"title": task.title, "size": size, "clips": clips, "rounds": ROUNDS, "ways": rows}
    if task.title != READING:
        table["flops_per_clip"] = alone(flops_per_clip, task)
        rows["ours"]["share_of_product"] = table["flops_per_clip"] * speed / product
    return table


def tasks_of(sizes: Sequence[int], device: torch.device, folder: str) -> list[Task]:
    """All comparisons. The threshold of CHANGING is the median of the regular scores."""
    usual = {"method": "pred", **flags.defaults("pred", "synthetic")}
    tasks = [
        Task(title, {**usual, "h": size, "w": size}, device, folder)
        for size in sizes
        for title in (CLIPS if size == sizes[0] else AT_EACH_SIZE)
    ]
    return [t._replace(th=alone(median_regular_score, t)) if t.title == CHANGING else t for t in tasks]


def frames_of_a_run() -> synthetic.Size:
    """The size of the data set. Two videos of n frames have 2 (n - 4) clips, here STEPS batches or chunks."""
    return synthetic.Size(240, 2, STEPS * BATCH // 2 + 4, 2, STEPS * CHUNK // 2 + 4)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=flags.pixels, default=[64, 256], help="of square frames, pixels")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--output", type=Path, default=Path("exp/results/benchmark.json"), help="the numbers as JSON")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    device = pick_device(args.device)
    if args.output.is_dir():  # tried before the work
        raise InputError(f"--output {args.output} is a folder: name a file")
    with writing(args.output.parent):
        args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        synthetic.ensure(folder, frames_of_a_run())
        tasks = tasks_of(args.sizes, device, folder)
        with progress("measuring", "run", total=ROUNDS * sum(len(ways_of(task)) for task in tasks)) as bar:
            found = [side_by_side(task, bar) for task in tasks]
    report = {"date": time.strftime("%Y-%m-%d"), **environment(device), "tables": found}
    write_text(args.output, json.dumps(report, indent=1) + "\n")
    print(*speed_tables.benchmark("", report), "", *speed_tables.benchmark_ways("", report), "", args.output, sep="\n")


if __name__ == "__main__":
    run_script(main)
