"""The report of --dry_run: what Train.py or Evaluate.py would do and remove, where, and what is missing.

Nothing is written, and no frame is decoded.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data import synthetic
from data.cache import NO_CACHE, content_digest
from data.clips import Clips, open_split, split_videos, training_loader
from data.intervals import seconds_at
from data.labels import frame_labels, label_source
from data.masks import find_masks
from exp import flags
from exp.checkpoints import build_model
from exp.estimate import check_memory
from exp.lock import check_free
from exp.run import Run, run_directory
from exp.scoring import calibration
from exp.scoring.evaluation import find_frames
from exp.scoring.trained import Trained
from exp.scoring.watch import Watched
from utils import InputError, named


class Report:
    """Prints what would be done, one thing per line, and collects the problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def say(self, what: str, text: str) -> None:
        print(f"{what + ':':<14}{text}")

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """An InputError in this block becomes a problem, and the report continues after the block."""
        try:
            yield
        except InputError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))

    def end(self, command: str) -> int:
        """Print the problems, and return the exit status: 2 if there are any, as without --dry_run."""
        for problem in self.problems:
            self.say("problem", problem)
        ends = "would fail" if self.problems else "can start"
        print(f"dry run: nothing was written, no frame was decoded (python -m data.check does): {command} {ends}")
        return 2 if self.problems else 0


def describe_training(args: argparse.Namespace, device: torch.device, processes: int) -> int:
    """Print what Train.py would do with these flags. Returns the exit status."""
    report, shape = Report(), vars(args)
    report.say("training", f"{args.method} on {args.dataset_type}, seed {args.seed}")
    with report.part():
        check_memory(shape, args.batch_size, device, training=True)
        report.say("network", f"{_network(shape)}, {processes} x {device}, {args.precision}")
    clips = None
    with report.part():
        if clips := _undecoded_clips(report, args, "training", shape):
            some, held = calibration.hold_out(clips, args.calibration_share, args.seed)
            report.say("data", _counted(some))
            if args.calibration_share:
                report.say("held back", f"{named([video.name for video in held.videos])}, for the calibration")
            steps = len(training_loader(some, args.batch_size, 0, args.seed, (0, processes)))
            batch = args.batch_size * processes
            report.say("an epoch", f"{steps} steps with {batch} clips")
    report.say("epochs", f"{args.epochs}, learning rate {args.lr:g}")
    with report.part():
        directory = run_directory(args.dataset_type, args.method, args.exp_dir)
        report.say("results", str(directory))
        check_free(directory)
        run = Run(directory, {**shape, "processes": processes}, args.resume, args.overwrite, writes=False)
        if clips:
            run.expect_data(content_digest(clips.videos), args.data_changed)
        if args.resume:
            report.say("resuming", run.where_it_resumes())
        _say_removed(report, run.to_discard())
    return report.end("Train.py")


def describe_evaluation(args: argparse.Namespace, load: Callable[[], Trained], results: Sequence[str]) -> int:
    """Print what Evaluate.py would do with these flags. Returns the exit status.

    load: returns the network or raises InputError. results: patterns of the files that an evaluation writes; earlier
    files that match them are removed.
    """
    report, trained = Report(), None
    with report.part():
        trained = load()
    shape = trained.shape if trained else _usual_shape(args)
    if trained:
        report.say("network", f"{_network(shape)}, from {args.model_dir}")
        report.say("alarms", trained.no_calibration or f"at --false_alarm_rate {args.false_alarm_rate:g}")
    with report.part():
        if args.video:
            with contextlib.closing(Watched(args.video, args.fps, args.patience, args.test_batch_size, 0)) as stream:
                report.say("video", f"{stream.shown}, {stream.fps:g} frames per second")
                report.say(
                    "results", f"{args.output_dir / 'watched' / stream.name}, with a number added if that exists"
                )
        elif clips := _undecoded_clips(report, args, "testing", shape):
            report.say("data", _counted(clips))
            find_frames(args.frames or [], clips)
            with report.part():
                _say_truth(report, args)
    if not args.video:
        report.say("results", str(args.output_dir))
        _say_removed(report, [path for pattern in results for path in args.output_dir.glob(pattern)])
    return report.end("Evaluate.py")


def _undecoded_clips(report: Report, args: argparse.Namespace, split: str, shape: Mapping[str, Any]) -> Clips | None:
    """The clips of a split; None when the synthetic data set must be generated first. Raises InputError."""
    if args.dataset_type == "synthetic" and not synthetic.is_there(args.dataset_path):
        size = synthetic.DEFAULT
        drawn = f"{size.train_videos} videos of {size.train_frames} frames, {size.test_videos} of {size.test_frames}"
        report.say("data", f"{Path(args.dataset_path) / 'synthetic'} is generated first: {drawn}")
        return None
    return open_split(flags.source_of(args)._replace(cache=NO_CACHE, bad_frames="fail"), split, shape)


def _say_truth(report: Report, args: argparse.Namespace) -> None:
    """Print which labels and masks the metrics would use. Raises InputError when the labels do not fit."""
    videos = split_videos(args.dataset_path, args.dataset_type, "testing")  # including videos shorter than a clip
    labels = frame_labels(args.dataset_path, args.dataset_type, videos, args.avenue_labels, seconds_at(args.fps))
    if labels is None:
        report.say("labels", "none, so there are scores but no AUC")
    else:
        known = [values for values in labels.values() if values is not None]
        text = f"{sum(int(values.sum()) for values in known)} of {sum(map(len, known))} frames are abnormal"
        left_out = [name for name, values in labels.items() if values is None]
        text += f", unlabelled: {named(left_out)}" if left_out else ""
        report.say("labels", f"{text} ({label_source(args.dataset_path, args.dataset_type)})")
    masks, wrong = find_masks(Path(args.dataset_path) / args.dataset_type, videos)
    if wrong:
        report.say("masks", f"no pixel-level AUC: {wrong[0]}")
    elif masks:
        report.say("masks", f"of {len(masks)} videos")


def _say_removed(report: Report, paths: Sequence[Path]) -> None:
    if paths:
        report.say("removed", f"{len(paths)} existing files: {named([path.name for path in paths])}")


def _network(shape: Mapping[str, Any]) -> str:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_model(shape).parameters())
    memory = f"{shape['msize']} items" if shape["msize"] else "no memory"
    colours = "colour" if shape["c"] == 3 else "gray"
    frames = f"clips of {shape['t_length']}" if shape["t_length"] > 1 else "single frames"
    return (
        f"{shape['method']}, {frames} at {shape['h']}x{shape['w']} (height x width) in {colours}, {memory}, "
        f"{shape['fdim']} channels, {count / 1e6:.1f} million weights"
    )


def _counted(clips: Clips) -> str:
    return f"{len(clips.videos)} videos, {len(clips)} clips, in {clips.videos[0].directory.parent}"


def _usual_shape(args: argparse.Namespace) -> dict[str, Any]:
    """The shape according to flags and defaults, when there is no model."""
    shape = flags.defaults(args.method or "pred", args.dataset_type)
    return {**shape, **{name: value for name, value in vars(args).items() if name in shape and value is not None}}
