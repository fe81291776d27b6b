"""Speed, measured: `python -m exp.benchmark` runs this project and the plain way of doing the same side by side.

The plain way is that of the authors' released code: each clip is decoded when it is needed, tensors lie channel after
channel, Adam goes from weight to weight, the update from item to item, and test clips are scored one at a time, though
here without a gradient. It stands below, in `Plain`, and nowhere else. Ours is what Train.py and Evaluate.py do.

All ways do the same work in turns, each in a process of its own: what slows the machine down for a while slows them
all, and memory can be told apart. A ratio is that of two neighbours in time; the table shows the median and the
smallest and largest of all rounds. The frames, 360x240 like those of Ped2, are drawn in a temporary folder.
"""

import contextlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import synthetic
from data.clips import CHUNK, open_clips
from data.frames import find_videos, split_directory
from exp import flags
from exp.checkpoints import build_model
from exp.device import fold_batch_norms, keep_freed_memory, pick_device, place
from exp.run import environment
from exp.scoring.score import Place, Scoring, score
from model import memory
from Train import train_epoch
from utils import Parser, psnr, regular_score, run_script, write_whole

FRAMES = synthetic.Size(height=240, train_videos=2, train_frames=40, test_videos=0)
SHAPE = {"method": "pred", "c": 3, "t_length": 5, "msize": 10, "fdim": 512}
USUAL = flags.METHODS["pred"]
SCORED = 64  # clips that are scored in a round; of those above 64x64 fewer, but at least a chunk
GROWTH = {"t_length": (2, 3, 5, 9), "batch": (1, 2, 4, 8), "msize": (10, 100, 1000)}
LOSS_SIZE, LOSS_STEPS = 32, 50  # pixels and steps of the comparison of losses


class Task(NamedTuple):
    """What is timed: the size of frames in pixels and the network's shape; clips in a step, or scored in all."""

    size: int
    clips: int
    shape: dict
    device: str
    folder: str  # of the frames
    th: float = 1.0  # γ; the regular score is below 1, so every frame updates the memory


class Way(NamedTuple):
    """How ours computes; each field can be turned off or changed to see what it is worth."""

    keeps_memory: bool = True
    in_place: bool = True
    channels_last: bool = True
    fused_adam: bool = True
    folded: bool = True
    chunk: int = CHUNK
    precision: str = "fp32"
    compiled: bool = False


def videos_of(task):
    return find_videos(split_directory(task.folder, "synthetic", "training"))


def initial(task, seed=0):
    """Network and items as training starts with them."""
    torch.manual_seed(seed)
    model = build_model(task.shape)
    return model, memory.initial_items(task.shape["msize"], task.shape["fdim"])


# The plain way -------------------------------------------------------------------------------------------------------


class PlainClips:
    """Clips that are decoded, resized and normalised each time, float32 (t_length·c, H, W)."""

    def __init__(self, videos, t_length, size):
        self.size, self.t_length = size, t_length
        self.paths = [
            [str(video.path(first + i)) for i in range(t_length)]
            for video in videos
            for first in range(len(video.frames) - t_length + 1)
        ]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        frames = [cv2.resize(cv2.imread(path), (self.size, self.size)) for path in self.paths[index]]
        return torch.from_numpy(np.concatenate([(f.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1) for f in frames]))


def plain_update(queries, items):
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

    def __init__(self, task, seed=0, rounded=False):
        self.task, self.device = task, torch.device(task.device)
        self.clips = PlainClips(videos_of(task), task.shape["t_length"], task.size)
        model, items = initial(task, seed)
        self.model, self.items = model.to(self.device), items.to(self.device)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        if rounded:  # each weight moves to a neighbour, as far as rounding can
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(torch.nextafter(p, torch.full_like(p, torch.inf)))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=USUAL["lr"])

    def train(self, indices):
        """One step; returns its loss."""
        clips = torch.stack([self.clips[i] for i in indices]).to(self.device)
        frames, target = self.model.train().split(clips)
        output = self.model(frames, self.items)
        loss = F.mse_loss(output.frame, target)
        loss = loss + USUAL["loss_compact"] * output.compactness + USUAL["loss_separate"] * output.separateness
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.items = plain_update(output.queries.detach().flatten(0, 2), self.items)
        return loss.item()

    @torch.no_grad()
    def evaluate(self, indices):
        """P, D and E of each clip, (n, 3)."""
        model, items, rows = self.model.eval(), self.items, []
        for i in indices:
            frames, target = model.split(self.clips[i][None].to(self.device))
            output = model(frames, items)
            predicted, target = (output.frame + 1) / 2, (target + 1) / 2
            regular = regular_score(predicted, target).item()
            rows.append((psnr(predicted, target).item(), output.compactness.item(), regular))
            if regular < self.task.th:
                items = plain_update(output.queries.flatten(0, 2), items)
        return np.array(rows)


# Ours ----------------------------------------------------------------------------------------------------------------


class Ours:
    """The same with what Train.py and Evaluate.py use, in the given way."""

    def __init__(self, task, way):
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
    def scoring(self):
        return fold_batch_norms(self.model.eval()) if self.way.folded else self.model.eval()

    def batch(self, indices):
        return torch.stack([self.clips[i] for i in indices])

    def train(self, indices):
        batch = [self.batch(indices)]
        weights = SimpleNamespace(**USUAL)
        self.items, metrics = train_epoch(self.model, self.items, batch, self.optimizer, weights, lambda *_: None)
        return metrics["loss"]

    def evaluate(self, indices):
        chunks = [indices[i : i + self.way.chunk] for i in range(0, len(indices), self.way.chunk)]
        batches = ((self.batch(chunk), [Place(0, index) for index in chunk]) for chunk in chunks)
        found = score(self.scoring, self.items, batches, Scoring(self.task.th, USUAL["alpha"]))
        return np.concatenate([torch.stack((s.psnr, s.distance, s.regular), dim=1).cpu().numpy() for s in found])


# Side by side --------------------------------------------------------------------------------------------------------

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_here = {}  # in a process that runs one way: what runs


def _worker():
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(["Train"])  # what takes seconds to import, once for all
    return ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),))  # as many as here


def _start(make, arguments):
    cv2.setNumThreads(0)
    _here["way"] = make(*arguments)


def _run(what, indices):
    """(seconds, result) of one call."""
    start = time.perf_counter()
    result = getattr(_here["way"], what)(indices)  # ends with numbers on the CPU, so nothing is still under way
    return time.perf_counter() - start, result


def _peak_memory(device):
    """The most memory this process has held so far, bytes: of the GPU, or in all; None where nobody tells."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(taken, clips):
    """Seconds of each round by way, {name: list} with plain and ours first -> {name: what the table tells of it}."""
    return {
        name: {
            "seconds": spread(seconds),
            "clips_per_second": clips / statistics.median(seconds),
            **{
                f"times_{other}": spread([b / a for a, b in zip(seconds, taken[other], strict=True)])
                for other in ("plain", "ours")
            },
        }
        for name, seconds in taken.items()
    }


def side_by_side(what, title, task, ways, seconds, flops):
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

        def once(name, turn):
            indices = order.take(range(turn * task.clips, (turn + 1) * task.clips), mode="wrap").tolist()
            return workers[name].submit(_run, what, indices).result()

        taken, results, turn, peaks = {name: [] for name in ways}, {}, 0, dict.fromkeys(precisions.values(), 0)
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

    rows = compare(taken, task.clips)
    for name, row in rows.items():
        row["peak_memory"] = memory_used[name]
        row["share_of_peak"] = flops * row["clips_per_second"] / peaks[precisions[name]]
        if what == "evaluate":  # relative, of P, D and E
            row["largest_difference"] = float(np.abs(results[name] / results["plain"] - 1).max())
    table = {"title": title, "size": task.size, "clips": task.clips, "rounds": turn, "flops_per_clip": flops}
    return {**table, "peak_flops_per_second": peaks, "ways": rows}, results["plain"]


def measure_feeding(task, seconds):
    """Clips from disk, plain and from the cache, in turns: a table."""
    cv2.setNumThreads(0)  # as in the workers of a loader
    videos, size = videos_of(task), (task.size, task.size, task.shape["c"])
    plain = PlainClips(videos, task.shape["t_length"], task.size)
    ways = {"plain": plain, "ours": open_clips(videos, "training", task.shape["t_length"], size)}
    rng, taken, end = np.random.default_rng(0), {name: [] for name in ways}, time.perf_counter() + seconds
    while len(taken["plain"]) < 3 or time.perf_counter() < end:
        indices = rng.integers(0, len(plain), 20).tolist()
        for name, clips in ways.items():
            start = time.perf_counter()
            for index in indices:
                clips[index]
            taken[name].append((time.perf_counter() - start) / len(indices))
    table = {"title": "a clip from disk", "size": task.size, "clips": 1, "rounds": len(taken["plain"])}
    return {**table, "ways": compare(taken, 1)}


# What the work is, and what the machine can do -----------------------------------------------------------------------


def count_flops(task):
    """Floating-point operations of one clip: {"train": ..., "evaluate": ...}."""
    model, items = initial(task)
    frames = torch.zeros(1, model.inputs, task.size, task.size)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.eval()(frames, items)
    with FlopCounterMode(display=False) as both:
        output = model(frames, items)
        (output.frame.mean() + output.compactness + output.separateness).backward()
    return {"train": both.get_total_flops(), "evaluate": forward.get_total_flops()}


def machine_peaks(device, precisions):
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


def _most_flops(flops, function, *arguments, **settings):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function(*arguments, **settings).flatten()[0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return flops / min(times)


def measure_growth(task, growth):
    """How the seconds of ours grow with the frames of a clip, the batch and the number of items: rows."""
    rows = []
    for name, values in growth.items():
        for value in values:
            shape = task.shape if name == "batch" else {**task.shape, name: value}
            ours = Ours(task._replace(shape=shape, clips=value if name == "batch" else task.clips), Way())
            row = {"name": name, "value": value}
            for what in ("train", "evaluate"):
                taken = []
                for _ in range(4):
                    start = time.perf_counter()
                    getattr(ours, what)(list(range(ours.task.clips)))
                    taken.append(time.perf_counter() - start)
                row[what] = statistics.median(taken[1:])
            rows.append(row)
    return rows


def measure_losses(task, ways, steps):
    """The losses of the first steps in each way, (name -> list), from the same start and clips."""
    runs = {
        "plain": Plain(task),
        "plain, weights rounded otherwise": Plain(task, rounded=True),
        "plain, another seed": Plain(task, seed=1),
    }
    losses = {}
    for name, run in [*runs.items(), *((name, Ours(task, way)) for name, way in ways.items() if way)]:
        rng = np.random.default_rng(0)
        losses[name] = [run.train(rng.choice(len(run.clips), task.clips).tolist()) for _ in range(steps)]
    return losses


# The whole of it -----------------------------------------------------------------------------------------------------


def ways_of(what, device, compiled):
    """{name: Way, or None for the plain one}: plain, ours, and ours with one thing changed at a time."""
    ways = {"plain": None, "ours": Way()}
    if what == "train":
        ways["Adam not fused"] = Way(fused_adam=False)
    else:
        ways |= {"batch norms not folded": Way(folded=False), "one clip at a time": Way(chunk=1)}
    ways |= {"channel after channel": Way(channels_last=False), "ReLU not in place": Way(in_place=False)}
    if device.type == "cpu":
        ways["memory given back"] = Way(keeps_memory=False)
    if device.type == "cuda":
        ways["tf32"] = Way(precision="tf32")
    if device.type != "mps":
        ways["bf16"] = Way(precision="bf16")
    if compiled:
        ways["compiled"] = Way(compiled=True)
    return ways


def print_table(table):
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


def show(times, places):
    return f"{times['median']:.{places}f} ({times['min']:.{places}f}–{times['max']:.{places}f})"


def print_growth(rows, size):
    print(f"\nhow ours grows, {size}x{size}: ms a training step, ms of scoring as many clips")
    for row in rows:
        print(f"  {row['name']:8} {row['value']:5} {1000 * row['train']:8.0f} {1000 * row['evaluate']:8.0f}")


def print_losses(losses, size):
    steps = len(losses["plain"])
    print(f"\nlosses of the first {steps} steps at {size}x{size} against plain: mean and largest |difference|")
    for name, values in losses.items():
        apart = np.abs(np.array(values) / losses["plain"] - 1)
        print(f"  {name:34} {apart.mean():8.2%} {apart.max():8.2%}")


def parse(arguments=None):
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


def measure_size(task, ways, scored, seconds, worker, flips):
    """All tables of one size; `flips`: also of test clips whose decisions differ, the dearest case of scoring."""
    flops = count_flops(task)
    tables = [worker.submit(measure_feeding, task, seconds / 10).result()]
    table, _ = side_by_side("train", "training", task, ways["train"], seconds, flops["train"])
    tables.append(table)
    task = task._replace(clips=max(Way().chunk, scored * 64**2 // max(64, task.size) ** 2))
    table, plain = side_by_side("evaluate", "scoring", task, ways["evaluate"], seconds, flops["evaluate"])
    tables.append(table)
    if flips:
        task = task._replace(th=float(np.median(plain[:, 2])))
        two = {name: ways["evaluate"][name] for name in ("plain", "ours")}
        title = "scoring where half of the frames update memory"
        table, _ = side_by_side("evaluate", title, task, two, seconds / 3, flops["evaluate"])
        tables.append(table)
    return tables


def main():
    args = parse()
    device = pick_device(args.device)
    frames, shape, scored, steps, growth = FRAMES, SHAPE, SCORED, LOSS_STEPS, GROWTH
    ways = {what: ways_of(what, device, args.compile) for what in ("train", "evaluate")}
    timed = ways
    if args.quick:
        frames, shape, scored, steps = FRAMES._replace(train_frames=16), {**SHAPE, "fdim": 16}, 8, 6
        growth = {name: values[:1] for name, values in GROWTH.items()}
        timed = {what: dict(list(some.items())[:3]) for what, some in ways.items()}  # each takes a process
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _worker() as worker:
        synthetic.ensure(folder, frames)
        tables, task = [], Task(min(args.sizes), args.batch_size, shape, str(device), folder)
        for size in args.sizes:
            found = measure_size(task._replace(size=size), timed, scored, args.seconds, worker, flips=size == task.size)
            for table in found:
                print_table(table)
            tables += found
        grown = worker.submit(measure_growth, task, growth).result()
        print_growth(grown, task.size)
        task = task._replace(size=min(LOSS_SIZE, task.size))
        losses = worker.submit(measure_losses, task, ways["train"], steps).result()
        print_losses(losses, task.size)
    report = {
        "date": time.strftime("%Y-%m-%d"),
        **environment(device),
        "threads": torch.get_num_threads(),
        "shape": shape,
        "tables": tables,
        "growth": {"size": min(args.sizes), "rows": grown},
        "losses": {"size": task.size, "of": losses},
    }
    write_whole(args.output, lambda path: path.write_text(json.dumps(report, indent=1) + "\n"))
    print(f"\n{args.output}")


if __name__ == "__main__":
    run_script(main)
