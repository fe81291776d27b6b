"""Speed, measured: `python -m exp.benchmark` runs this project and the plain way of doing the same side by side.

The plain way is that of the authors' released code: loader processes decode each clip when it is needed, tensors lie
channel after channel, Adam goes from weight to weight, the update from item to item, and test clips are scored one at a
time, though here without a gradient. Ours is what Train.py and Evaluate.py do, from the loader to the losses or scores.
Both compute in float32 under the same switches; rows in another precision say so.

Each run is a process with switches and memory of its own, and all ways take turns, so what slows the machine down for a
while slows them all. A ratio is that of two neighbours in time. exp/reproduce/speed_tables.py shows the median and the
range of all rounds. The frames, 360x240 like those of Ped2, are drawn in a temporary folder. On two CPU cores all of it
takes about an hour and a half.
"""

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import synthetic
from data.clips import CHUNK, Source, normalise, open_split, split_videos, testing_loader, training_loader
from data.frames import Video
from exp import flags
from exp.checkpoints import build_model
from exp.device import fold_batch_norms, keep_freed_memory, pick_device, place
from exp.reproduce import speed_tables
from exp.run import environment
from exp.scoring.score import Place, Scoring, score, score_one_by_one
from model import memory
from model.convae import ConvAE
from Train import train_epoch
from utils import InputError, Parser, progress, run_script, write_text, writing

STEPS = 20  # steps of training in a run, or chunks of test clips
WARM_UP = 3  # steps before it: memory is taken, cuDNN chooses its algorithms, the processes of the loader start
ROUNDS = 3
BATCH = 4  # clips in a training step
READING, TRAINING, SCORING = "a clip from disk", "training", "scoring"
CHANGING = "scoring where half of the frames update memory"  # the slowest case
CLIPS = {READING: 1, TRAINING: BATCH, SCORING: CHUNK, CHANGING: CHUNK}  # that a time in the tables is for
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Task(NamedTuple):
    """What is timed."""

    title: str
    settings: dict[str, Any]  # by the names of flags
    device: torch.device
    folder: str  # of the frames
    th: float = 1.0  # γ; the regular score is below 1, so every frame updates the memory

    @property
    def split(self) -> str:
        return "training" if self.title == TRAINING else "testing"


class Way(NamedTuple):
    """How it is computed. Each field is changed alone to see what it is worth."""

    plain: bool = False  # the clips, the epoch and the rule of scoring are the plain ones
    keeps_memory: bool = True
    in_place: bool = True
    channels_last: bool = True
    fused_adam: bool = True
    folded: bool = True
    chunk: int = CHUNK
    precision: str = "fp32"


PLAIN = Way(True, keeps_memory=False, in_place=False, channels_last=False, fused_adam=False, folded=False, chunk=1)


def ways_of(task: Task) -> dict[str, Way]:
    """Plain, ours, and ours with one thing changed at a time, by the names that the tables have."""
    ways = {"plain": PLAIN, "ours": Way()}
    if task.title == TRAINING:
        ways["Adam not fused"] = Way(fused_adam=False)
    elif task.title == SCORING:
        ways |= {"batch norms not folded": Way(folded=False), "one clip at a time": Way(chunk=1)}
    if task.title in (TRAINING, SCORING):
        ways |= {"channel after channel": Way(channels_last=False), "ReLU not in place": Way(in_place=False)}
        ways |= {"memory given back": Way(keeps_memory=False)} if task.device.type == "cpu" else {}
        ways |= {"tf32": Way(precision="tf32")} if task.device.type == "cuda" else {}
        ways |= {"bf16": Way(precision="bf16")} if task.device.type != "mps" else {}
    return ways


# The plain way -------------------------------------------------------------------------------------------------------


class PlainClips(Dataset):
    """Clips that are decoded and resized each time, uint8 (t_length·c, H, W)."""

    def __init__(self, videos: list[Video], t_length: int, size: tuple[int, int]) -> None:
        self.width_and_height = size[::-1]
        paths = [[str(video.path(i)) for i in range(len(video.frames))] for video in videos]
        self.clips = [frames[i : i + t_length] for frames in paths for i in range(len(frames) - t_length + 1)]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        frames = [cv2.resize(cast(np.ndarray, cv2.imread(path)), self.width_and_height) for path in self.clips[index]]
        return torch.from_numpy(np.concatenate([frame.transpose(2, 0, 1) for frame in frames]))


def plain_update(queries: Tensor, items: Tensor) -> Tensor:
    """model.memory.update, item after item."""
    similarity = queries @ items.T
    weight, nearest = similarity.softmax(dim=0), similarity.argmax(dim=1)
    moved = items.clone()
    for m in range(len(items)):
        chosen = nearest == m
        if chosen.any():
            v = weight[chosen, m] / weight[:, m].max()
            moved[m] = F.normalize(items[m] + (v[:, None] * queries[chosen]).sum(dim=0), dim=0)
    return moved


def plain_epoch(
    model: nn.Module,
    items: Tensor,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    args: argparse.Namespace,
    _: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """Train.train_epoch: the items after it and the mean loss."""
    losses = []
    for clips in loader:
        frames, target = cast(ConvAE, model.train()).split(normalise(clips.to(items.device)))
        output = model(frames, items)
        loss = F.mse_loss(output.frame, target)
        loss = loss + args.loss_compact * output.compactness + args.loss_separate * output.separateness
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        items = plain_update(output.queries.detach().flatten(0, 2), items)
        losses.append(loss.detach())
    return items, {"loss": torch.stack(losses).mean().item()}


# One run -------------------------------------------------------------------------------------------------------------


def batches_of(task: Task, way: Way) -> DataLoader:
    """The loader; the plain one has as many processes as the released code's."""
    trains, settings = task.title == TRAINING, task.settings
    count = 1 if task.title == READING else BATCH if trains else way.chunk
    if way.plain:
        videos = split_videos(task.folder, "synthetic", task.split)
        clips = PlainClips(videos, settings["t_length"], (settings["h"], settings["w"]))
        workers = {READING: 0, TRAINING: 2}.get(task.title, 1)
        return DataLoader(clips, count, shuffle=trains, num_workers=workers, persistent_workers=workers > 0)
    opened = open_split(Source(task.folder, "synthetic"), task.split, settings)
    if trains:
        return training_loader(opened, count, None, 0, device=task.device)
    return testing_loader(opened, count, None, task.device)


def untrained(task: Task, way: Way) -> tuple[ConvAE, Tensor]:
    """Network and items as training starts with them."""
    torch.manual_seed(0)
    model = place(build_model(task.settings), task.device, way.precision)
    if not way.channels_last:
        model.to(memory_format=torch.contiguous_format)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = way.in_place
    return model, memory.initial_items(task.settings["msize"], task.settings["fdim"]).to(task.device)


def training(task: Task, way: Way) -> Callable[[DataLoader], float]:
    """loader -> the mean loss of an epoch."""
    model, items = untrained(task, way)
    fused = way.fused_adam and task.device.type != "mps"
    optimizer = torch.optim.Adam(model.parameters(), lr=task.settings["lr"], fused=fused)
    epoch, args = plain_epoch if way.plain else train_epoch, argparse.Namespace(**task.settings)
    return lambda loader: epoch(model, items, loader, optimizer, args, lambda *_: None)[1]["loss"]


def scoring(task: Task, way: Way) -> Callable[[DataLoader], np.ndarray]:
    """loader -> P, D and E of each clip, (n, 3)."""
    model, items = untrained(task, way)
    network = fold_batch_norms(model.eval()) if way.folded else model.eval()
    rule, settings = score_one_by_one if way.plain else score, Scoring(task.th, task.settings["alpha"])

    def run(loader: DataLoader) -> np.ndarray:
        placed = ((clips, [Place(0, 0)] * len(clips)) for clips in loader)
        found = rule(network, items, placed, settings)
        return torch.cat([torch.stack((s.psnr, s.distance, s.regular), dim=1) for s in found]).cpu().numpy()

    return run


def measure(task: Task, way: Way) -> tuple[float, int | None]:
    """Seconds for CLIPS[title] clips, and the most memory of this process in bytes; see peak_memory."""
    cv2.setNumThreads(0)  # as in the processes of a loader
    if way.keeps_memory and task.device.type == "cpu":
        keep_freed_memory()
    loader = batches_of(task, way)
    if task.title == READING:
        run: Callable = list
    else:
        run = training(task, way) if task.title == TRAINING else scoring(task, way)
    run(cast(DataLoader, list(islice(loader, WARM_UP))))
    start = time.perf_counter()
    run(loader)  # ends with numbers on the CPU, so nothing is still under way on a GPU
    seconds = time.perf_counter() - start
    return seconds * CLIPS[task.title] / len(cast(PlainClips, loader.dataset)), peak_memory(task.device)


def peak_memory(device: torch.device) -> int | None:
    """The most memory this process has held so far, bytes: of the GPU, or in all; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def median_regular_score(task: Task) -> float:
    return float(np.median(scoring(task, Way())(batches_of(task, Way()))[:, 2]))


def flops_per_clip(task: Task) -> int:
    """Floating-point operations of one clip."""
    model, items = untrained(task._replace(device=torch.device("cpu")), Way())
    frames = torch.zeros(1, model.inputs, task.settings["h"], task.settings["w"])
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(task.title == TRAINING):
        output = model.eval()(frames, items)
        if task.title == TRAINING:
            (output.frame.mean() + output.compactness + output.separateness).backward()
    return counter.get_total_flops()


def peak_flops_per_second(device: torch.device) -> float:
    """The most floating-point operations per second in a large matrix product in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    size, times = 1024 if device.type == "cpu" else 8192, []
    matrix = torch.rand(size, size, device=device)
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


# Side by side --------------------------------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """What a process does first: it will end when the benchmark does, even by a kill."""
    parent = cast(multiprocessing.process.BaseProcess, multiprocessing.parent_process())
    wait = multiprocessing.connection.wait
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def alone(function: Callable, *arguments: Any) -> Any:
    """What the function returns, called in a process of its own."""
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(["Train"])  # what takes seconds to import, once for all
    with ProcessPoolExecutor(1, context, _end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def median_of(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def side_by_side(task: Task, bar: tqdm) -> dict[str, Any]:
    """Run all ways in turns. Returns what exp.reproduce.speed_tables shows of it.

    What the machine can do at most is measured in the same rounds, since it changes where others share the machine.
    """
    ways, size, clips, peak = ways_of(task), task.settings["h"], CLIPS[task.title], 0.0
    taken: dict[str, list[float]] = {name: [] for name in ways}
    held: dict[str, Any] = {}
    for turn in range(ROUNDS):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            bar.set_postfix_str(f"{task.title}, {size}x{size}: {name}")
            seconds, held[name] = alone(measure, task, ways[name])
            taken[name].append(seconds)
            bar.update()
        peak = max(peak, alone(peak_flops_per_second, task.device))

    def times(name: str, other: str) -> dict[str, float]:
        return median_of([b / a for a, b in zip(taken[name], taken[other], strict=True)])

    rows: dict[str, dict[str, Any]] = {name: {"times_ours": times(name, "ours")} for name in ways if name != "ours"}
    speed = clips / statistics.median(taken["ours"])
    rows["ours"] = {"times_plain": times("ours", "plain"), "clips_per_second": speed}
    for name in ("plain", "ours"):
        rows[name] |= {"seconds": median_of(taken[name]), "peak_memory": held[name]}
    table = {"title": task.title, "size": size, "clips": clips, "rounds": ROUNDS, "ways": rows}
    if task.title != READING:
        table["flops_per_clip"] = alone(flops_per_clip, task)
        rows["ours"]["share_of_peak"] = table["flops_per_clip"] * speed / peak
    return table


def tasks_of(size: int, device: torch.device, folder: str) -> list[Task]:
    """All comparisons at a size. The threshold of CHANGING is the median of the regular scores."""
    settings = {"method": "pred", **flags.defaults("pred", "synthetic"), "h": size, "w": size}
    tasks = [Task(title, settings, device, folder) for title in CLIPS]
    return [*tasks[:-1], tasks[-1]._replace(th=alone(median_regular_score, tasks[-1]))]


def frames_of_a_run() -> synthetic.Size:
    """Two videos of n frames have 2 (n - 4) clips: STEPS batches for training and as many chunks for scoring."""
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
        tasks = [task for size in args.sizes for task in tasks_of(size, device, folder)]
        with progress("measuring", "run", total=ROUNDS * sum(len(ways_of(task)) for task in tasks)) as bar:
            found = [side_by_side(task, bar) for task in tasks]
    report = {"date": time.strftime("%Y-%m-%d"), **environment(device), "tables": found}
    write_text(args.output, json.dumps(report, indent=1) + "\n")
    print(*speed_tables.benchmark("", report), "", *speed_tables.benchmark_ways("", report), "", args.output, sep="\n")


if __name__ == "__main__":
    run_script(main)
