"""Speed, measured: `python -m exp.benchmark` runs this project and the plain way of doing the same side by side.

The plain way is that of the authors' released code: each clip is decoded when it is needed, tensors lie channel after
channel, Adam goes from weight to weight, the update from item to item, and test clips are scored one at a time, though
here without a gradient. It stands below, in `Plain`, and nowhere else. Ours is what Train.py and Evaluate.py do.

All ways do the same work in turns, each in a process of its own: what slows the machine down for a while slows them
all, and memory can be told apart. A ratio is that of two neighbours in time; the table shows the median and the
smallest and largest of all rounds. The frames, 360x240 like those of Ped2, are drawn in a temporary folder.
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
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import synthetic
from data.clips import CHUNK, normalise, open_clips
from data.frames import Video, find_videos, split_directory
from exp import flags
from exp.checkpoints import build_model
from exp.device import fold_batch_norms, keep_freed_memory, pick_device, place
from exp.run import environment
from exp.scoring.score import Place, Scored, Scoring, score, score_one_by_one
from model import memory
from model.convae import ConvAE
from Train import train_epoch
from utils import InputError, Parser, run_script, write_text, writing

FRAMES = synthetic.Size(height=240, train_videos=2, train_frames=40, test_videos=0)
SHAPE = {"method": "pred", "c": 3, "t_length": 5, "msize": 10, "fdim": 512}
USUAL = flags.METHODS["pred"]
SCORED = 64  # clips that are scored in a round; of those above 64x64 fewer, but at least a chunk


class Task(NamedTuple):
    """What is timed: the size of frames in pixels and the network's shape; clips in a step, or scored in all."""

    size: int
    clips: int
    shape: dict[str, Any]
    device: str
    folder: str  # of the frames
    th: float = 1.0  # γ; the regular score is below 1, so every frame updates the memory


class Variant(NamedTuple):
    """How ours computes; each field can be turned off or changed to see what it is worth."""

    keeps_memory: bool = True
    in_place: bool = True
    channels_last: bool = True
    fused_adam: bool = True
    folded: bool = True
    chunk: int = CHUNK
    precision: str = "fp32"
    compiled: bool = False


def videos_of(task: Task) -> list[Video]:
    return find_videos(split_directory(task.folder, "synthetic", "training"))


def initial(task: Task) -> tuple[ConvAE, Tensor]:
    """Network and items as training starts with them."""
    torch.manual_seed(0)
    model = build_model(task.shape)
    return model, memory.initial_items(task.shape["msize"], task.shape["fdim"])


def columns_of(found: Iterable[Scored]) -> np.ndarray:
    """P, D and E of each frame, (n, 3)."""
    return np.concatenate([torch.stack((s.psnr, s.distance, s.regular), dim=1).cpu().numpy() for s in found])


# The plain way -------------------------------------------------------------------------------------------------------


class PlainClips:
    """Clips that are decoded and resized each time, uint8 (t_length·c, H, W)."""

    def __init__(self, videos: list[Video], t_length: int, size: int) -> None:
        self.size, self.t_length = size, t_length
        self.paths = [
            [str(video.path(first + i)) for i in range(t_length)]
            for video in videos
            for first in range(len(video.frames) - t_length + 1)
        ]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        frames = [cv2.resize(cast(np.ndarray, cv2.imread(path)), (self.size, self.size)) for path in self.paths[index]]
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


class Plain:
    """Steps of training, or test clips scored one after the other."""

    def __init__(self, task: Task) -> None:
        self.task, self.device = task, torch.device(task.device)
        self.clips = PlainClips(videos_of(task), task.shape["t_length"], task.size)
        model, items = initial(task)
        # the same rounding as ours: PyTorch would let convolutions round to TF32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        self.model, self.items = model.to(self.device), items.to(self.device)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.optimizer = torch.optim.Adam(model.parameters(), lr=USUAL["lr"])

    def train(self, indices: list[int]) -> float:
        """One step; returns its loss."""
        clips = normalise(torch.stack([self.clips[i] for i in indices]).to(self.device))
        frames, target = self.model.train().split(clips)
        output = self.model(frames, self.items)
        loss = F.mse_loss(output.frame, target)
        loss = loss + USUAL["loss_compact"] * output.compactness + USUAL["loss_separate"] * output.separateness
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.items = plain_update(output.queries.detach().flatten(0, 2), self.items)
        return loss.item()

    def evaluate(self, indices: list[int]) -> np.ndarray:
        """P, D and E of each clip, (n, 3)."""
        batches = ((self.clips[index][None], [Place(0, index)]) for index in indices)
        found = score_one_by_one(self.model.eval(), self.items, batches, Scoring(self.task.th, USUAL["alpha"]))
        return columns_of(found)


# Ours ----------------------------------------------------------------------------------------------------------------


class Ours:
    """The same with what Train.py and Evaluate.py use, in the given way."""

    def __init__(self, task: Task, way: Variant) -> None:
        self.task, self.way, self.device = task, way, torch.device(task.device)
        if way.keeps_memory and self.device.type == "cpu":
            keep_freed_memory()
        size = (task.size, task.size, task.shape["c"])
        self.clips = open_clips(videos_of(task), "training", task.shape["t_length"], size)
        model, items = initial(task)
        self.model = place(model, self.device, way.precision, way.compiled)
        self.items = items.to(self.device)
        if not way.channels_last:
            model.to(memory_format=torch.contiguous_format)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = way.in_place
        fused = way.fused_adam and self.device.type != "mps"
        self.optimizer = torch.optim.Adam(model.parameters(), lr=USUAL["lr"], fused=fused)

    @cached_property
    def network(self) -> ConvAE:
        return fold_batch_norms(self.model.eval()) if self.way.folded else self.model.eval()

    def batch(self, indices: list[int]) -> Tensor:
        return torch.stack([self.clips[i] for i in indices])

    def train(self, indices: list[int]) -> float:
        batch = cast(DataLoader, [self.batch(indices)])
        weights = argparse.Namespace(**USUAL)
        self.items, metrics = train_epoch(self.model, self.items, batch, self.optimizer, weights, lambda *_: None)
        return metrics["loss"]

    def evaluate(self, indices: list[int]) -> np.ndarray:
        chunks = [indices[i : i + self.way.chunk] for i in range(0, len(indices), self.way.chunk)]
        batches = ((self.batch(chunk), [Place(0, index) for index in chunk]) for chunk in chunks)
        found = score(self.network, self.items, batches, Scoring(self.task.th, USUAL["alpha"]))
        return columns_of(found)


# Side by side --------------------------------------------------------------------------------------------------------

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_here: dict[str, Any] = {}  # in a process that runs one way: what runs


def _begin(threads: int) -> None:
    """What a worker does first: it ends when the benchmark does, even by a kill."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _worker() -> ProcessPoolExecutor:
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(["Train"])  # what takes seconds to import, once for all
    return ProcessPoolExecutor(1, context, _begin, (torch.get_num_threads(),))  # as many as here


def _start(make: Callable, arguments: tuple) -> None:
    cv2.setNumThreads(0)
    _here["way"] = make(*arguments)


def _run(what: str, indices: list[int]) -> tuple[float, Any]:
    """(seconds, result) of one call."""
    start = time.perf_counter()
    result = getattr(_here["way"], what)(indices)  # ends with numbers on the CPU, so nothing is still under way
    return time.perf_counter() - start, result


def _peak_memory(device: str) -> int | None:
    """The most memory this process has held so far, bytes: of the GPU, or in all; None where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def median_of(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rows_of(taken: dict[str, list[float]], clips: int) -> dict[str, dict[str, Any]]:
    """Seconds of each round by way, {name: list} with plain and ours first -> {name: what the table says of it}."""
    return {
        name: {
            "seconds": median_of(seconds),
            "clips_per_second": clips / statistics.median(seconds),
            **{
                f"times_{other}": median_of([b / a for a, b in zip(seconds, taken[other], strict=True)])
                for other in ("plain", "ours")
            },
        }
        for name, seconds in taken.items()
    }


def side_by_side(
    what: str, title: str, task: Task, ways: dict[str, Variant | None], seconds: float, flops: float
) -> tuple[dict[str, Any], Any]:
    """Run all ways in turns for so many seconds, three times at least. Returns a table, and the regular scores if any.

    what: "train" or "evaluate"; ways: see `ways_of`; flops: of a clip. What the machine can do at
    most is measured in the same rounds, for it differs from minute to minute where others share the machine.
    """
    precisions = {name: way.precision if way else "fp32" for name, way in ways.items()}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_worker()) for name in ways}
        another = stack.enter_context(_worker())
        count = len(PlainClips(videos_of(task), task.shape["t_length"], task.size))
        order = np.random.default_rng(0).permutation(count)

        def once(name: str, turn: int) -> tuple[float, Any]:
            indices = order.take(range(turn * task.clips, (turn + 1) * task.clips), mode="wrap").tolist()
            return workers[name].submit(_run, what, indices).result()

        taken: dict[str, list[float]] = {name: [] for name in ways}
        results, turn, peaks = {}, 0, dict.fromkeys(precisions.values(), 0.0)
        for name, way in tqdm(ways.items(), f"{title} {task.size}x{task.size}: preparing", leave=False):
            make = (Ours, (task, way)) if way else (Plain, (task,))
            workers[name].submit(_start, *make).result()
            once(name, turn)
        end = time.perf_counter() + seconds
        with tqdm(desc=f"{title} {task.size}x{task.size}", unit="round", leave=False) as bar:
            while turn < 3 or time.perf_counter() < end:
                turn += 1
                for name in list(ways)[:: 1 if turn % 2 else -1]:
                    took, results[name] = once(name, turn)
                    taken[name].append(took)
                for precision, peak in another.submit(machine_peaks, task.device, tuple(peaks)).result().items():
                    peaks[precision] = max(peaks[precision], peak)
                bar.update()
        memory_used = {name: worker.submit(_peak_memory, task.device).result() for name, worker in workers.items()}

    rows = rows_of(taken, task.clips)
    for name, row in rows.items():
        row["peak_memory"] = memory_used[name]
        row["share_of_peak"] = flops * row["clips_per_second"] / peaks[precisions[name]]
        if what == "evaluate":  # relative, of P, D and E
            row["largest_difference"] = float(np.abs(results[name] / results["plain"] - 1).max())
    table = {"title": title, "size": task.size, "clips": task.clips, "rounds": turn, "flops_per_clip": flops}
    return {**table, "peak_flops_per_second": peaks, "ways": rows}, results["plain"]


def measure_feeding(task: Task, seconds: float) -> dict[str, Any]:
    """Clips from disk, plain and from the cache, in turns: a table."""
    cv2.setNumThreads(0)  # as in the workers of a loader
    videos, size = videos_of(task), (task.size, task.size, task.shape["c"])
    plain = PlainClips(videos, task.shape["t_length"], task.size)
    ways: dict[str, Any] = {"plain": plain, "ours": open_clips(videos, "training", task.shape["t_length"], size)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    rng, end = np.random.default_rng(0), time.perf_counter() + seconds
    while len(taken["plain"]) < 3 or time.perf_counter() < end:
        indices = rng.integers(0, len(plain), 20).tolist()
        for name, clips in ways.items():
            start = time.perf_counter()
            for index in indices:
                clips[index]
            taken[name].append((time.perf_counter() - start) / len(indices))
    table = {"title": "a clip from disk", "size": task.size, "clips": 1, "rounds": len(taken["plain"])}
    return {**table, "ways": rows_of(taken, 1)}


# What the work is, and what the machine can do -----------------------------------------------------------------------


def count_flops(task: Task) -> dict[str, int]:
    """Floating-point operations of one clip: {"train": ..., "evaluate": ...}."""
    model, items = initial(task)
    frames = torch.zeros(1, model.inputs, task.size, task.size)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.eval()(frames, items)
    with FlopCounterMode(display=False) as both:
        output = model(frames, items)
        (output.frame.mean() + output.compactness + output.separateness).backward()
    return {"train": both.get_total_flops(), "evaluate": forward.get_total_flops()}


def machine_peaks(device: str, precisions: tuple[str, ...]) -> dict[str, float]:
    """The most floating-point operations a second in a large matrix product or convolution, by precision."""
    n, batch = (1024, 1) if device == "cpu" else (8192, 64)
    peaks = {}
    for precision in precisions:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        matrix = torch.rand(n, n, device=device, dtype=dtype)
        maps = torch.rand(batch, 256, 64, 64, device=device, dtype=dtype)
        weight = torch.rand(256, 256, 3, 3, device=device, dtype=dtype)
        maps, weight = (x.contiguous(memory_format=torch.channels_last) for x in (maps, weight))
        product = _most_flops(2 * n**3, torch.mm, matrix, matrix)
        peaks[precision] = max(product, _most_flops(2 * maps.numel() * 256 * 9, F.conv2d, maps, weight, padding=1))
    return peaks


def _most_flops(flops: float, function: Callable, *arguments: Tensor, **settings: Any) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function(*arguments, **settings).flatten()[0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return flops / min(times)


# The whole of it -----------------------------------------------------------------------------------------------------


def ways_of(what: str, device: torch.device, compiled: bool) -> dict[str, Variant | None]:
    """{name: Variant, or None for the plain one}: plain, ours, and ours with one thing changed at a time."""
    ways = {"plain": None, "ours": Variant()}
    if what == "train":
        ways["Adam not fused"] = Variant(fused_adam=False)
    else:
        ways |= {"batch norms not folded": Variant(folded=False), "one clip at a time": Variant(chunk=1)}
    ways |= {"channel after channel": Variant(channels_last=False), "ReLU not in place": Variant(in_place=False)}
    if device.type == "cpu":
        ways["memory given back"] = Variant(keeps_memory=False)
    if device.type == "cuda":
        ways["tf32"] = Variant(precision="tf32")
    if device.type != "mps":
        ways["bf16"] = Variant(precision="bf16")
    if compiled:
        ways["compiled"] = Variant(compiled=True)
    return ways


def print_table(table: dict[str, Any]) -> None:
    clips = f"{table['clips']} clip{'s' * (table['clips'] > 1)}"
    flops = f", {table['flops_per_clip'] / 1e9:.1f} GFLOP a clip" if "flops_per_clip" in table else ""
    peaks = "".join(f"; peak {p / 1e9:.0f} GFLOP/s in {n}" for n, p in table.get("peak_flops_per_second", {}).items())
    print(f"\n{table['title']}, {table['size']}x{table['size']}, {clips}{flops}; {table['rounds']} rounds{peaks}")
    print(f"  {'way':22} {'ms':>24} {'clips/s':>8} {'times plain':>18} {'times ours':>18} {'GB':>5} {'of peak':>7}")
    for name, row in table["ways"].items():
        ms = {key: 1000 * value for key, value in row["seconds"].items()}
        places = 2 if ms["median"] < 10 else 0
        cells = [f"{show(ms, places):>24}", f"{row['clips_per_second']:8.1f}"]
        cells += [f"{show(row[f'times_{other}'], 2):>18}" for other in ("plain", "ours")]
        if row.get("peak_memory"):
            cells.append(f"{row['peak_memory'] / 1e9:5.2f}")
        if "share_of_peak" in row:
            cells.append(f"{row['share_of_peak']:7.0%}")
        print(f"  {name:22}", *cells)
    if "largest_difference" in row:
        print(
            f"  scores, ours against plain: {table['ways']['ours']['largest_difference']:.0e} apart at most (relative)"
        )


def show(times: dict[str, float], places: int) -> str:
    return f"{times['median']:.{places}f} ({times['min']:.{places}f}–{times['max']:.{places}f})"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=flags.pixels, default=[64, 256], help="of square frames, pixels")
    parser.add_argument("--batch_size", type=flags.positive_int, default=4, help="clips in a training step")
    parser.add_argument(
        "--seconds", type=flags.non_negative, default=45, help="for each comparison; three rounds at least"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--compile", action="store_true", help="compile the network too: minutes more")
    parser.add_argument("--quick", action="store_true", help="try it all at a tiny size, for no numbers of any worth")
    parser.add_argument("--output", type=Path, default=Path("exp/results/benchmark.json"), help="the numbers as JSON")
    args = parser.parse_args(arguments)
    if args.quick:
        args.sizes, args.seconds = [16], 0
    return args


def measure_size(
    task: Task,
    ways: dict[str, dict[str, Variant | None]],
    scored: int,
    seconds: float,
    worker: ProcessPoolExecutor,
    flips: bool,
) -> list[dict[str, Any]]:
    """All tables of one size; `flips`: also of test clips whose decisions differ, the dearest case of scoring."""
    flops = count_flops(task)
    tables = [worker.submit(measure_feeding, task, seconds / 10).result()]
    table, _ = side_by_side("train", "training", task, ways["train"], seconds, flops["train"])
    tables.append(table)
    task = task._replace(clips=max(Variant().chunk, scored * 64**2 // max(64, task.size) ** 2))
    table, plain = side_by_side("evaluate", "scoring", task, ways["evaluate"], seconds, flops["evaluate"])
    tables.append(table)
    if flips:
        task = task._replace(th=float(np.median(plain[:, 2])))
        two = {name: ways["evaluate"][name] for name in ("plain", "ours")}
        title = "scoring where half of the frames update memory"
        table, _ = side_by_side("evaluate", title, task, two, seconds / 3, flops["evaluate"])
        tables.append(table)
    return tables


def main() -> None:
    args = parse()
    device = pick_device(args.device)
    frames, shape, scored = FRAMES, SHAPE, SCORED
    ways = {what: ways_of(what, device, args.compile) for what in ("train", "evaluate")}
    if args.quick:
        frames, shape, scored = FRAMES._replace(train_frames=16), {**SHAPE, "fdim": 16}, 8
        ways = {what: dict(list(some.items())[:3]) for what, some in ways.items()}  # each takes a process
    if args.output.is_dir():  # tried before the work
        raise InputError(f"--output {args.output} is a folder: name a file")
    with writing(args.output.parent):
        args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _worker() as worker:
        synthetic.ensure(folder, frames)
        tables, task = [], Task(min(args.sizes), args.batch_size, shape, str(device), folder)
        for size in args.sizes:
            found = measure_size(task._replace(size=size), ways, scored, args.seconds, worker, flips=size == task.size)
            for table in found:
                print_table(table)
            tables += found
    report = {
        "date": time.strftime("%Y-%m-%d"),
        **environment(device),
        "threads": torch.get_num_threads(),
        "shape": shape,
        "tables": tables,
    }
    write_text(args.output, json.dumps(report, indent=1) + "\n")
    print(f"\n{args.output}")


if __name__ == "__main__":
    run_script(main)
