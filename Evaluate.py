"""Evaluate MNAD: `python Evaluate.py --dataset_type ped2 --method pred`.

Scores every frame of <dataset_path>/<dataset_type>/testing, prints the frame-level AUC and writes scores.csv,
evaluation.json, figures and report.html. The model is the run that --dataset_type, --method and --exp_dir name, unless
--model_dir and --m_items_dir name its files. With --video it scores one file, camera or stream instead, as its frames
arrive.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from exp import flags, pack
from exp.checkpoints import SHAPE
from exp.device import keep_freed_memory, make_deterministic, pick_device
from exp.dry_run import describe_evaluation
from exp.estimate import check_memory
from exp.record import data_of
from exp.report.files import FurtherMetrics
from exp.report.recorder import Recorder, record
from exp.report.results import DrawOptions, Found, draw_results, summary, write_results
from exp.run import RESULTS, environment, run_directory
from exp.scoring.alarms import alarm_rule, decide
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import evaluate
from exp.scoring.pixels import PixelCounter
from exp.scoring.protocols import protocols
from exp.scoring.score import Scored, Scoring, replay
from exp.scoring.settings import (
    UNLESS_GIVEN,
    add_alarm_flags,
    add_scoring_flags,
    add_stream_flags,
    contradicting_flags,
    scoring_of,
    unlike_the_paper,
)
from exp.scoring.split import Split, load_split
from exp.scoring.trained import Trained, load_trained
from exp.scoring.watch import Watched
from utils import InputError, Parser, named, new_folder, run_script, written_together


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights",
        metavar="NAME",
        help="weights in this repository (exp/weights/NAME), evaluated on the data set they belong to; results go to"
        " exp/<dataset_type>/<method>/NAME unless --output_dir is given",
    )
    model.add_argument(
        "--model_dir",
        type=Path,
        help="a model file or the directory of a run; by default the run that --dataset_type, --method (pred if not"
        " given) and --exp_dir name",
    )
    model.add_argument("--m_items_dir", type=Path, help="its memory items; m_items.pt beside the model if not given")
    flags.add_data_flags(parser, otherwise="that of the run in --model_dir, or else synthetic,")
    parser.add_argument("--avenue_labels", choices=("paper", "masks"), help="paper if not given; see data/README.md")
    parser.add_argument(
        "--fps",
        type=flags.positive,
        help="frames per second; if not given, those of the video or of the stored times, and for frames without times"
        f" an assumed rate ({flags.by_dataset('fps')})",
    )
    parser.add_argument(
        "--video",
        metavar="FILE|CAMERA|URL",
        help="score only this: a video file, a camera number or a stream address; results go to"
        " <output_dir>/watched/<name>",
    )
    flags.add_shape_flags(parser, stored=True)
    add_scoring_flags(parser)
    add_alarm_flags(parser)
    add_stream_flags(parser)
    flags.add_run_flags(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_dir", type=Path, help="where results go; beside the model if not given, but see --weights"
    )
    flags.add_figure_flags(output, without="draw no figures and write no report.html")
    output.add_argument(
        "--frames",
        type=flags.frame_of_video,
        nargs="+",
        metavar="VIDEO:FRAME",
        help="frames to draw, such as 01:120; some of the most and the least abnormal ones if not given",
    )
    output.add_argument("--save_video", action="store_true", help="write annotated videos")
    output.add_argument(
        "--dry_run",
        action="store_true",
        help="only report what would be evaluated, where results go, what is removed, and what is missing",
    )
    args = parser.parse_args(arguments)
    if args.model_dir and not args.dataset_type:
        parser.set_defaults(**data_of(args.model_dir, args))
        args = parser.parse_args(arguments)
    flags.check_one_process(args)
    if problem := contradicting_flags(args):
        parser.error(problem)
    resolve_names(args)
    for name, usual in UNLESS_GIVEN.items():
        setattr(args, name, usual if getattr(args, name) is None else getattr(args, name))
    return args


def resolve_names(args: argparse.Namespace) -> None:
    """Fill in the flags that name a model and a data set. Raises InputError if one of them contradicts --weights."""
    folder = args.model_dir and (args.model_dir if args.model_dir.is_dir() else args.model_dir.parent)
    if folder and args.weights is None and pack.is_packed(folder):
        args.weights, args.model_dir = folder.name, None  # so that no results are written beside them
    if args.weights is not None:
        directory, about = pack.find_weights(args.weights)
        known = {"dataset_type": about["dataset_type"], "method": about["method"], "exp_dir": args.weights}
        for name, value in {**known, "model_dir": directory, "m_items_dir": None}.items():
            if getattr(args, name) not in (None, value):
                raise InputError(f"--{name} {getattr(args, name)} contradicts --weights {args.weights}: leave one out")
            setattr(args, name, value)
        args.output_dir = args.output_dir or run_directory(args.dataset_type, args.method, args.exp_dir)
    elif args.model_dir and args.exp_dir:
        raise InputError("--exp_dir names a run, and --model_dir a model: leave one out")
    elif args.model_dir and not args.dataset_type and not args.video:
        raise InputError(f"--dataset_type: name the data set to evaluate {args.model_dir} on")
    args.dataset_type, args.exp_dir = args.dataset_type or "synthetic", args.exp_dir or "log"
    if args.model_dir is None:
        args.model_dir = run_directory(args.dataset_type, args.method or "pred", args.exp_dir) / "model.pth"
    args.model_dir = args.model_dir / "model.pth" if args.model_dir.is_dir() else args.model_dir
    args.m_items_dir = args.m_items_dir or args.model_dir.with_name("m_items.pt")
    args.output_dir = args.output_dir or args.model_dir.parent


# Load -----------------------------------------------------------------------------------------------------------------


def load_named(args: argparse.Namespace, device: torch.device) -> Trained:
    """The network that the flags name. Raises InputError if something is missing."""
    given = {name: getattr(args, name) for name in SHAPE}
    trained = load_trained(args.model_dir, args.m_items_dir, given, device, args.precision, args.compile)
    flags.check_shape(trained.shape, args.mdim)
    unused = [f"--{name}" for name in ("th", "alpha") if getattr(args, name) is not None]
    if unused and not trained.shape["msize"]:
        why = f"{args.model_dir} has no memory, so its score is the PSNR alone"
        raise InputError(f"{why}: leave out {' and '.join(unused)}")
    check_memory(trained.shape, args.test_batch_size, device, training=False)
    if trained.normal is None and (args.th == "auto" or args.video):
        raise InputError(trained.no_calibration)
    return trained


# Evaluate a data set --------------------------------------------------------------------------------------------------


def evaluate_data_set(args: argparse.Namespace, trained: Trained, scoring: Scoring, device: torch.device) -> None:
    """Score the test videos, compare the scores with the labels, find alarms, and write and print the results.

    The scores of a frame are its PSNR, feature distance and regular score. `evaluate` turns them into its abnormality,
    and computes the frame-level AUC.
    """
    split = load_split(args, trained.shape, device)
    pixels = PixelCounter(split.masks_to_count(), [video.name for video in split.clips.videos])
    about = about_evaluation(args, trained, split, scoring, device)
    options = DrawOptions(not args.no_figures, args.save_video, args.figure_format)

    def again(video: int) -> Iterator[Scored]:
        return replay(trained.model, result.items[video].to(device), split.clips, video, scoring)

    with written_together(args.output_dir, RESULTS) as output:  # fails before the work if it cannot be written
        result = evaluate(trained.model, trained.items, split.loader, scoring, split.labels, split.seconds, pixels.add)
        decisions = None
        if trained.normal:
            decisions = decide(result, trained.normal, scoring, args.false_alarm_rate, args.merge_gap)
        several = protocols(result, scoring, decisions.scores if decisions else None)
        further = FurtherMetrics(several, pixels.metrics(), split.wrong_masks or pixels.problem)
        found = Found(result, decisions or trained.no_calibration, further, about)
        write_results(output, found)
        draw_results(output, found, split, again, options)
    print(*summary(found, args.output_dir, options), sep="\n")


def about_evaluation(
    args: argparse.Namespace, trained: Trained, split: Split, scoring: Scoring, device: torch.device
) -> dict[str, Any]:
    """The part of evaluation.json besides the metrics: data, model, environment and settings."""
    settings = {**scoring._asdict(), "false_alarm_rate": args.false_alarm_rate, "merge_gap": args.merge_gap}
    computed = {"precision": args.precision, "compile": args.compile, "deterministic": args.deterministic}
    differs = {
        f"precision {args.precision}": args.precision != "fp32",
        "labels from the masks": args.avenue_labels == "masks",
        f"without {named(split.left_out)}": split.left_out,
    }
    return {
        "dataset_type": args.dataset_type,
        "avenue_labels": args.avenue_labels,
        "left_out": split.left_out,
        "model": str(args.model_dir),
        **environment(device),
        **computed,
        "settings": {name: str(value) if isinstance(value, flags.Span) else value for name, value in settings.items()},
        "unlike_the_paper": unlike_the_paper(scoring, trained.scoring(), differs),
    }


# Watch a stream -------------------------------------------------------------------------------------------------------


def watch_stream(args: argparse.Namespace, trained: Trained, normal: Calibration, scoring: Scoring) -> None:
    """Score the frames of a video file, a camera or a stream as they arrive, and record scores and alarms."""
    with contextlib.closing(Watched(args.video, args.fps, args.patience, args.test_batch_size, args.latency)) as stream:
        rule = alarm_rule(normal, scoring, args.false_alarm_rate, args.merge_gap, stream.fps)
        directory = new_folder(args.output_dir / "watched" / stream.name)
        recorder = Recorder(directory, stream, normal, scoring, rule, args.save_video)
        width, height = stream.size
        print(f"{stream.shown}: {width}x{height} pixels, {stream.fps:g} frames per second")
        print(f"scored by {args.model_dir}, written to {directory}")
        print(f"calibrated threshold {rule.threshold:.4g}" + (f", {rule.caveat}" if rule.caveat else ""))
        if stream.live:
            print("Ctrl-C ends it", flush=True)
        about = {"model": str(args.model_dir), **environment(trained.items.device)}
        record(recorder, trained, None if args.no_figures else about)


def main() -> int:
    args = parse()
    if args.dry_run:
        return describe_evaluation(args, lambda: load_named(args, pick_device(args.device, args.gpus)), RESULTS)
    device = pick_device(args.device, args.gpus)
    keep_freed_memory(device)
    if args.deterministic:
        make_deterministic()
    trained = load_named(args, device)
    scoring = scoring_of(args, trained)
    if args.video and trained.normal:
        watch_stream(args, trained, trained.normal, scoring)
    else:
        evaluate_data_set(args, trained, scoring, device)
    return 0


if __name__ == "__main__":
    run_script(main)
