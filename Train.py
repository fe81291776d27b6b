"""Train MNAD: `python Train.py --dataset_type ped2 --method pred`. The equations of its memory are in model/memory.py.

Reads the clips of <dataset_path>/<dataset_type>/training, writes a run to exp/<dataset_type>/<method>/<exp_dir>/.
"""

import time

import torch
import torch.nn.functional as F
from tqdm import tqdm

from data.clips import normalise, open_clips, split_videos, training_loader
from exp import flags
from exp.device import (
    check_same,
    fold_batch_norms,
    gather,
    join_processes,
    make_deterministic,
    pick_device,
    place,
    rank_zero_first,
    share_gradients,
)
from exp.report import tensorboard
from exp.run import Run, build_model, run_directory
from exp.scoring import calibration
from model import memory
from utils import InputError, Parser, learning_rate, run_script

CHECK_EVERY = 20  # steps between looks at the losses, each of which makes the CPU wait for the GPU


def parse(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    flags.add_data_flags(parser)
    flags.add_shape_flags(parser, "not given: by method and data set, exp/flags.py")
    parser.set_defaults(method="pred")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=flags.positive, help="60, fewer for some data sets: exp/flags.py")
    training.add_argument("--batch_size", type=flags.positive, default=4, help="clips in a step")
    training.add_argument(
        "--lr", type=flags.rate, help="initial learning rate, a cosine anneals it to 0 over the epochs"
    )
    training.add_argument("--loss_compact", type=flags.weight, help="weight of the feature compactness loss")
    training.add_argument("--loss_separate", type=flags.weight, help="weight of the feature separateness loss")
    training.add_argument("--seed", type=flags.count, default=0, help="of weights, items and the order of clips")
    training.add_argument("--num_workers", type=flags.count, default=2, help="processes that load clips")
    training.add_argument(
        "--calibration_share", type=flags.part, default=0, help="of the videos, kept for calibration.pt alone; 0: none"
    )
    flags.add_run_flags(parser)
    parser.add_argument("--no_figures", action="store_true", help="draw no curves of the losses at the end")
    parser.add_argument("--tensorboard", action="store_true", help="log to TensorBoard too (pip install tensorboard)")
    run = parser.add_mutually_exclusive_group()
    run.add_argument("--resume", action="store_true", help="go on with the run that is in the directory")
    run.add_argument("--overwrite", action="store_true", help="discard the run that is in the directory")
    args = parser.parse_args(arguments)
    for name, value in flags.defaults(args.method, args.dataset_type).items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)
    args.mdim = args.mdim or args.fdim
    flags.check_shape(vars(args))
    if args.tensorboard:
        tensorboard.check()
    return args


def train_epoch(model, network, items, loader, optimizer, args):
    """One pass over the training clips. Returns the items after it and metrics, losses as means over the epoch.

    network is the model, or the model wrapped for several processes.
    """
    model.train()
    total = torch.zeros(4, dtype=torch.float64)  # sums over steps of pixel, compactness, separateness, loss
    unseen = []  # losses since the last look at them
    wins = torch.zeros(len(items), dtype=torch.int64, device=items.device)  # queries each item was nearest to
    bar = tqdm(loader, desc="epoch", unit="batch", leave=False, disable=loader.sampler.rank > 0)
    for step, clips in enumerate(bar, start=1):
        frames, target = model.split(normalise(clips.to(items.device, non_blocking=True)))
        output = network(frames, items)
        pixel = F.mse_loss(output.frame, target)
        loss = pixel + args.loss_compact * output.compactness + args.loss_separate * output.separateness
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        queries = gather(output.queries.detach().flatten(0, 2))  # (B·h·w, C), of all processes
        wins += memory.nearest(queries, items).flatten().bincount(minlength=len(items))
        items = memory.update(queries, items)

        unseen.append(torch.stack((pixel, output.compactness, output.separateness, loss)).detach())
        if step % CHECK_EVERY == 0 or step == len(loader):
            losses = gather(torch.stack(unseen)[None]).mean(dim=0).cpu().double()  # (steps, 4)
            unseen.clear()
            check_same(items)
            if not losses.isfinite().all():
                first = int((~losses.isfinite()).any(dim=1).nonzero()[0])
                raise InputError(f"the loss is not finite at step {step - len(losses) + 1 + first} of {len(loader)}")
            total += losses.sum(dim=0)
            bar.set_postfix(loss=f"{total[3] / step:.5f}", pixel=f"{total[0] / step:.5f}", lr=learning_rate(optimizer))
    cosines = memory.similarity(items, items).cpu()[~torch.eye(len(items), dtype=torch.bool)]
    return items, {
        **dict(zip(("pixel", "compactness", "separateness", "loss"), (total / len(loader)).tolist(), strict=True)),
        "queries_won": wins.tolist(),
        "item_cosines": [cosines.min().item(), cosines.max().item()],
    }


def conclude(run, model, items, normal, args, anew):
    """Keep with the finished run how the clips `normal` score under it, and its curves; anew: even if that is there."""
    model_path = run.directory / "model.pth"
    if anew or not calibration.path_beside(model_path).is_file():
        run.log(f"calibrating on {len(normal)} clips of {len(normal.videos)} videos")
        network, th = fold_batch_norms(model.eval()), flags.METHODS[args.method]["th"]
        loading = {"batch_size": args.batch_size, "num_workers": args.num_workers}
        try:
            found = calibration.calibrate(network, items, normal, th, args.calibration_share > 0, **loading)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("while calibrating; the same command with --resume does that") from None
        calibration.save(model_path, found, items, [video.name for video in normal.videos])
        run.log(calibration.describe(found))
    if not args.no_figures:
        from exp.report.curves import loss_curves  # here, as matplotlib takes a second to import

        loss_curves(run.directory / "figures" / "training.png", run.history)


def main():
    args = parse()
    device = pick_device(args.device, args.gpus)
    if args.deterministic:
        make_deterministic()
    rank, processes = join_processes(device)
    directory = run_directory(args.dataset_type, args.method, args.exp_dir)
    run = Run(directory, {**vars(args), "processes": processes}, args.resume, args.overwrite, writes=rank == 0)

    size, cache = (args.h, args.w, args.c), False if args.no_cache else args.cache_dir
    with rank_zero_first():  # what it makes or decodes, the others find
        videos = split_videos(args.dataset_path, args.dataset_type, "training")
        clips = open_clips(videos, "training", args.t_length, size, cache, args.bad_frames)
    clips, normal = calibration.hold_out(clips, args.calibration_share, args.seed)  # to train on, to calibrate on
    loader = training_loader(clips, args.batch_size, args.num_workers, args.seed, rank, processes)

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

    done = len(run.history)  # epochs
    board = tensorboard.Board(directory, clips, done) if args.tensorboard and rank == 0 else None
    batch = args.batch_size * processes
    run.log(f"{args.method} on {args.dataset_type}: {len(clips.videos)} videos, {len(clips)} clips, {batch} a step")
    run.started(device)
    run.log(f"{processes} x {device}, PyTorch {torch.__version__}, {args.precision}, seed {args.seed}")
    epochs = tqdm(range(done, args.epochs), "training", initial=done, total=args.epochs, unit="epoch", disable=rank > 0)
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        start = time.perf_counter()
        lr = learning_rate(optimizer)
        try:
            items, metrics = train_epoch(model, network, items, loader, optimizer, args)
        except InputError as error:
            raise InputError(f"epoch {epoch + 1}: {error}; {run.directory} holds the {epoch} epochs before") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"in epoch {epoch + 1}; the same command with --resume goes on from its start"
            ) from None
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
    if rank == 0:
        conclude(run, model, items, normal, args, anew=done < args.epochs)
    run.log(f"finished: {run.directory}/model.pth and m_items.pt; evaluate them with Evaluate.py")


if __name__ == "__main__":
    run_script(main)
