"""Train MNAD: `python Train.py --dataset_type ped2 --method pred`. The equations of the memory are in model/memory.py.

Reads the clips in <dataset_path>/<dataset_type>/training and writes a run to exp/<dataset_type>/<method>/<exp_dir>/.
"""

import argparse
import contextlib
import shlex
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from data.cache import content_digest
from data.clips import Clips, normalise, open_split, testing_loader, training_loader
from exp import flags
from exp.checkpoints import build_model
from exp.device import (
    check_same,
    fold_batch_norms,
    join_processes,
    keep_freed_memory,
    leave_processes,
    make_deterministic,
    over_processes,
    pick_device,
    place,
    rank_zero_first,
    share_gradients,
)
from exp.dry_run import describe_training
from exp.estimate import check_memory
from exp.meter import EpochProgress, Meter, training_time
from exp.report import tensorboard
from exp.run import Run, run_directory
from exp.scoring import calibration
from exp.scoring.score import published
from model import memory
from model.convae import ConvAE, Output
from utils import InputError, Parser, learning_rate, run_script

READ_EVERY = 20  # steps between two reads of the losses on a GPU: each read makes the CPU wait for the GPU


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    flags.add_data_flags(parser)
    flags.add_shape_flags(parser)
    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs", type=flags.positive_int, help=f"passes over the training clips ({flags.by_dataset('epochs')})"
    )
    training.add_argument("--batch_size", type=flags.positive_int, default=4, help="clips per step and process")
    training.add_argument(
        "--lr",
        type=flags.positive,
        help=f"initial learning rate ({flags.by_method('lr')}); it is annealed to 0 along a cosine",
    )
    for name, loss in (("loss_compact", "compactness"), ("loss_separate", "separateness")):
        what = f"weight of the feature {loss} loss ({flags.by_method(name)})"
        training.add_argument(f"--{name}", type=flags.non_negative, help=what)
    training.add_argument(
        "--seed",
        type=flags.non_negative_int,
        default=0,
        help="seed of the weights, the items and the clip order",
    )
    flags.add_workers_flag(training, "--num_workers")
    training.add_argument(
        "--calibration_share",
        type=flags.fraction_below_one,
        default=0,
        help="share of the training videos that are held back to make calibration.pt",
    )
    flags.add_run_flags(parser, several_gpus=True)
    flags.add_figure_flags(parser, without="do not draw figures/training.png")
    parser.add_argument("--tensorboard", action="store_true", help="also log to TensorBoard (pip install tensorboard)")
    run = parser.add_mutually_exclusive_group()
    run.add_argument("--resume", action="store_true", help="continue the run in the directory")
    run.add_argument("--overwrite", action="store_true", help="discard the run in the directory and start again")
    parser.add_argument("--data_changed", action="store_true", help="resume even though the training frames changed")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="only report what would be trained and where, what would be removed, and what is missing",
    )
    parser.set_defaults(method="pred", dataset_type="synthetic", exp_dir="log")
    args = parser.parse_args(arguments)
    if args.msize == 0:
        given = [f"--{name}" for name in ("loss_compact", "loss_separate") if getattr(args, name) is not None]
        if given:
            parser.error(f"{' and '.join(given)} cannot be used with --msize 0: without a memory there is no such loss")
        args.loss_compact = args.loss_separate = 0.0
    flags.fill_in(args)
    flags.check_shape(vars(args), args.mdim)
    args.mdim = args.fdim
    if args.tensorboard:
        tensorboard.require_package()
    return args


class Step(NamedTuple):
    """The result of a training step."""

    output: Output
    items: Tensor  # (M, C), updated
    losses: Tensor  # (4,): pixel, compactness, separateness and their weighted sum


def train_step(
    network: nn.Module,
    items: Tensor,
    clips: tuple[Tensor, Tensor],
    optimizer: Optimizer,
    weights: tuple[float, float],
) -> Step:
    """One training step (Sec. 3.2): losses, optimiser step, then the memory update, which uses no gradient.

    items: (M, C); clips: input (B, inputs, H, W) and target (B, c, H, W) in [-1, 1]; weights: λc and λs.
    """
    frames, target = clips
    output = network(frames, items)
    pixel = F.mse_loss(output.frame, target)
    loss = pixel + weights[0] * output.compactness + weights[1] * output.separateness
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    queries = output.queries.detach().flatten(0, 2)  # (B·h·w, C)
    losses = torch.stack((pixel, output.compactness, output.separateness, loss)).detach()
    return Step(output, memory.update(queries, items, over_processes), losses)


def train_epoch(
    network: nn.Module,
    items: Tensor,
    loader: DataLoader,
    optimizer: Optimizer,
    args: argparse.Namespace,
    report: Callable[[int, dict[str, float]], None],
) -> tuple[Tensor, dict[str, Any]]:
    """One pass over the training clips. Returns the items (M, C) after it and the metrics of exp.meter.Meter.

    report is called regularly with the number of finished steps and the mean losses so far. Raises InputError when a
    loss is not finite.
    """
    model = cast(ConvAE, network.module if isinstance(network, DistributedDataParallel) else network)
    model.train()
    meter, weights = Meter(items), (args.loss_compact, args.loss_separate)
    read_every = 1 if items.device.type == "cpu" else READ_EVERY
    for number, clips in enumerate(loader, start=1):
        clips = normalise(clips.to(items.device, non_blocking=items.is_cuda))
        step = train_step(network, items, model.split(clips), optimizer, weights)
        meter.add(step.losses, step.output.queries.detach().flatten(0, 2), items)
        items = step.items
        if number % read_every == 0 or number == len(loader):
            meter.read()
            check_same(items)
            report(number, meter.losses())
    return items, meter.metrics(items)


def conclude(run: Run, model: ConvAE, items: Tensor, normal: Clips, args: argparse.Namespace, trained: bool) -> None:
    """Calibrate the finished run on the clips `normal`, unless nothing was trained and calibration.pt exists already,
    and draw the loss curves."""
    model_path = run.directory / "model.pth"
    if trained or not calibration.path_beside(model_path).is_file():
        run.log(f"calibrating on {len(normal)} clips of {len(normal.videos)} videos")
        loader = testing_loader(normal, args.batch_size, args.num_workers, items.device)
        network = place(fold_batch_norms(model.eval()), items.device, "fp32")  # the default of Evaluate.py
        scoring = published(vars(args))
        try:
            found = calibration.calibrate(network, items, loader, scoring, held_out=args.calibration_share > 0)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("while calibrating; the same command with --resume does it") from None
        calibration.save(model_path, found, items, [video.name for video in normal.videos])
        run.log(calibration.describe(found))
    if not args.no_figures:
        from exp.report.curves import loss_curves  # here, as matplotlib takes a second to import

        loss_curves(run.directory / "figures" / f"training.{args.figure_format}", run.history)


def train(run: Run, args: argparse.Namespace, device: torch.device, rank: int, processes: int) -> None:
    """Train a run from its current epoch to its last, as process `rank` of `processes`.

    Raises InputError for unusable data or settings, or when training or writing fails. KeyboardInterrupt says where.
    """
    with rank_zero_first():  # the others find what rank 0 has made and decoded
        clips = open_split(flags.source_of(args), "training", vars(args))
    run.expect_data(content_digest(clips.videos), args.data_changed)
    clips, normal = calibration.hold_out(clips, args.calibration_share, args.seed)  # to train on, to calibrate on
    loader = training_loader(clips, args.batch_size, args.num_workers, args.seed, (rank, processes), device)

    torch.manual_seed(args.seed)
    model = place(build_model(vars(args)), device, args.precision, args.compile)
    items = memory.initial_items(args.msize, args.mdim).to(device)  # (M, C)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=device.type != "mps")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    if run.state:
        model.load_state_dict(run.state["model"])
        optimizer.load_state_dict(run.state["optimizer"])
        scheduler.load_state_dict(run.state["scheduler"])
        items = run.state["items"].to(device)
    network = share_gradients(model, device)

    run.begin(device)  # an earlier run is left untouched until all of the above has worked
    done = len(run.history)  # epochs
    if args.resume:
        run.log(f"--resume: {run.where_it_resumes()}")
    board = tensorboard.Board(run.directory, clips, done) if args.tensorboard and rank == 0 else None
    batch = args.batch_size * processes
    run.log(f"{args.method} on {args.dataset_type}: {len(clips.videos)} videos, {len(clips)} clips, {batch} per step")
    run.log(f"{processes} x {device}, PyTorch {torch.__version__}, {args.precision}, seed {args.seed}")

    def say_time(seconds: float) -> None:
        for line in training_time(seconds, args.epochs - done, vars(args), device):
            run.log(line)

    for epoch in range(done, args.epochs):
        cast(DistributedSampler, loader.sampler).set_epoch(epoch)
        start, lr = time.perf_counter(), learning_rate(optimizer)
        say = say_time if epoch == done else None
        try:
            with EpochProgress(f"epoch {epoch + 1}/{args.epochs}", len(loader), rank == 0, say) as report:
                items, metrics = train_epoch(network, items, loader, optimizer, args, report)
        except InputError as error:
            raise InputError(f"epoch {epoch + 1}: {error}; {run.what_is_kept()}") from error
        except KeyboardInterrupt:
            where = f"in epoch {epoch + 1}; the same command with --resume continues from the start of that epoch"
            raise KeyboardInterrupt(where) from None
        scheduler.step()
        seconds = time.perf_counter() - start
        speed = len(loader) * batch / seconds
        metrics = {"epoch": epoch + 1, **metrics, "lr": lr, "seconds": seconds, "clips_per_second": speed}
        run.save(model, items, optimizer, scheduler, metrics)
        if board:
            board.add(model, items, metrics)
        run.log(
            f"epoch {epoch + 1}/{args.epochs}  loss {metrics['loss']:.5f}  pixel {metrics['pixel']:.5f}  "
            f"compactness {metrics['compactness']:.6f}  separateness {metrics['separateness']:.4f}  "
            f"lr {lr:.2e}  {seconds:.0f} s  {speed:.1f} clips/s"
        )
    leave_processes()
    if rank == 0:
        conclude(run, model, items, normal, args, trained=done < args.epochs)
    run.log(f"finished: {run.directory}/model.pth and m_items.pt; evaluate them with")
    run.log(f"    {evaluation_command(args)}")


def evaluation_command(args: argparse.Namespace) -> str:
    """The command that evaluates the run with these flags, including where its data is and how to read it."""
    usual = vars(parse([]))
    data = [name for name in ("dataset_path", "bad_frames", "cache_dir") if getattr(args, name) != usual[name]]
    named = [
        word for name in ("dataset_type", "method", "exp_dir", *data) for word in (f"--{name}", getattr(args, name))
    ]
    return shlex.join(["python", "Evaluate.py", *named, *(["--no_cache"] if args.no_cache else [])])


def main() -> int:
    args = parse()
    device = pick_device(args.device, args.gpus)
    keep_freed_memory(device)
    if args.deterministic:
        make_deterministic()
    if not args.dry_run:
        check_memory(vars(args), args.batch_size, device, training=True)
    rank, processes = join_processes(device)
    if args.dry_run:
        leave_processes()
        return describe_training(args, device, processes) if rank == 0 else 0
    directory = run_directory(args.dataset_type, args.method, args.exp_dir)
    run = Run(directory, {**vars(args), "processes": processes}, args.resume, args.overwrite, writes=rank == 0)
    with contextlib.closing(run):
        train(run, args, device, rank, processes)
    return 0


if __name__ == "__main__":
    run_script(main)
