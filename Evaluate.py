"""Evaluate MNAD: `python Evaluate.py --dataset_type ped2 --model_dir model.pth --m_items_dir m_items.pt`.

Scores every frame of <dataset_path>/<dataset_type>/testing, prints the frame-level AUC and writes scores.csv,
evaluation.json, figures and report.html. Without --model_dir it takes the run that Train.py writes by default. With
--video it scores one file, camera or stream instead, while it goes on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.clips import CHUNK, open_split, split_videos, testing_loader
from data.frames import Video
from data.intervals import seconds_at
from data.labels import frame_labels
from data.masks import find_masks, mask_at
from data.pictures import read_picture
from data.times import read_times
from exp import flags, pack
from exp.checkpoints import SHAPE
from exp.device import make_deterministic, pick_device
from exp.dry_run import describe_evaluation
from exp.estimate import check_memory
from exp.report.files import Beside, alarm_lines, metric_lines, write_alarms, write_evaluation, write_scores
from exp.report.page import write_page
from exp.report.recorder import Recorder, record
from exp.report.video import annotate_all, outlined
from exp.run import environment, run_directory
from exp.scoring.alarms import alarm_rule, decide
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import compare, find_frames
from exp.scoring.pixels import PixelCounter
from exp.scoring.protocols import protocols
from exp.scoring.score import Scored, Scoring, replay, score_clips
from exp.scoring.trained import Trained, load_trained
from exp.scoring.watch import Watched
from utils import InputError, Parser, named, new_folder, run_script, written_together


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights", metavar="NAME", help="weights of this repository, exp/weights/NAME, evaluated on their data set"
    )
    model.add_argument(
        "--model_dir", type=Path, help="a model file, or the directory of a run; that of --exp_dir if not given"
    )
    model.add_argument("--m_items_dir", type=Path, help="its memory items; m_items.pt beside the model if not given")
    flags.add_data_flags(parser)
    parser.add_argument("--avenue_labels", choices=("paper", "masks"), default="paper", help="see data/README.md")
    parser.add_argument(
        "--fps", type=flags.positive, help="frames per second; those of the data or the video if not given"
    )
    parser.add_argument("--video", metavar="FILE|CAMERA|URL", help="score this alone: a file, a number or an address")
    flags.add_shape_flags(
        parser, "network and clips (never needed: the model file knows; released models take h and w)"
    )
    score = parser.add_argument_group("scores")
    score.add_argument(
        "--alpha",
        type=flags.fraction,
        help=f"λ, the weight of PSNR beside the feature distance ({flags.by_method('alpha')})",
    )
    score.add_argument(
        "--th",
        type=flags.threshold_or_auto,
        help=f"γ, frames with a regular score below it update the memory ({flags.by_method('th')}); auto takes it from"
        " the calibration",
    )
    score.add_argument(
        "--memory_update", choices=("on", "off"), default="on", help="whether the memory learns while testing"
    )
    score.add_argument("--reset_memory", action="store_true", help="start each video from the trained items")
    score.add_argument(
        "--test_batch_size", type=flags.positive_int, default=CHUNK, help="clips encoded at once; changes no score"
    )
    flags.add_workers_flag(score, "--num_workers_test")
    beyond = parser.add_argument_group("beyond the paper, off unless given")
    beyond.add_argument("--smooth", type=flags.span, metavar="SPAN", help="σ of a Gaussian over time: 10 frames, 0.4s")
    beyond.add_argument(
        "--smooth_kind", choices=("centred", "causal"), help="causal: by earlier frames alone, as always with --video"
    )
    alarm = parser.add_argument_group("alarms, where a calibration is beside the model")
    alarm.add_argument(
        "--false_alarm_rate", type=flags.probability, default=0.001, help="share of normal frames above the threshold"
    )
    alarm.add_argument(
        "--merge_gap",
        type=flags.span,
        default=flags.Span(1, "s"),
        metavar="SPAN",
        help="alarms closer than this are one",
    )
    watching = parser.add_argument_group("streams, with --video")
    watching.add_argument(
        "--patience",
        type=flags.non_negative,
        default=60,
        help="seconds for which a dropped stream is opened again",
    )
    watching.add_argument(
        "--latency", type=flags.non_negative, default=0, help="seconds a live frame may wait to be scored with others"
    )
    flags.add_run_flags(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, help="where results go; beside the model if not given")
    flags.add_figure_flags(output)
    output.add_argument(
        "--frames", type=flags.frame_of_video, nargs="+", metavar="VIDEO:FRAME", help="frames to draw, such as 01:120"
    )
    output.add_argument("--save_video", action="store_true", help="write annotated videos")
    output.add_argument(
        "--dry_run",
        action="store_true",
        help="only say what would be evaluated, where results go, what is removed, what is missing",
    )
    args = parser.parse_args(arguments)
    if args.frames and (args.no_figures or args.video):
        parser.error(f"--frames cannot be used with --{'no_figures' if args.no_figures else 'video'}")
    if args.smooth_kind and not args.smooth:
        parser.error("--smooth_kind needs --smooth")
    if args.video and args.smooth_kind == "centred":
        parser.error("--smooth_kind centred needs later frames: with --video only causal is possible")
    if args.msize == 0 and args.m_items_dir:
        parser.error("--m_items_dir cannot be used with --msize 0: a network without a memory has no items")
    resolve_names(args)
    return args


def resolve_names(args: argparse.Namespace) -> None:
    """Give the flags that name a model and a data set their values where they were not given.

    Raises InputError where a flag contradicts --weights.
    """
    if args.weights is not None:
        directory, about = pack.find_weights(args.weights)
        known = {"dataset_type": about["dataset_type"], "method": about["method"], "exp_dir": args.weights}
        for name, value in {**known, "model_dir": directory, "m_items_dir": None}.items():
            if getattr(args, name) not in (None, value):
                raise InputError(f"--{name} {getattr(args, name)} contradicts --weights {args.weights}: leave one out")
            setattr(args, name, value)
        args.output_dir = args.output_dir or run_directory(args.dataset_type, args.method, args.exp_dir)
    args.dataset_type, args.exp_dir = args.dataset_type or "synthetic", args.exp_dir or "log"
    if args.model_dir is None:
        args.model_dir = run_directory(args.dataset_type, args.method or "pred", args.exp_dir) / "model.pth"
    args.model_dir = args.model_dir / "model.pth" if args.model_dir.is_dir() else args.model_dir
    args.m_items_dir = args.m_items_dir or args.model_dir.with_name("m_items.pt")
    args.output_dir = args.output_dir or args.model_dir.parent


# Load -----------------------------------------------------------------------------------------------------------------


def load_named(args: argparse.Namespace, device: torch.device) -> Trained:
    """The network that the flags name. Raises InputError where something is missing."""
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


def scoring_of(args: argparse.Namespace, trained: Trained) -> Scoring:
    """How the flags ask for frames to be scored."""
    usual = trained.scoring()
    auto = args.th == "auto" and trained.normal
    return Scoring(
        th=auto.auto_th() if auto else usual.th if args.th is None else args.th,
        alpha=usual.alpha if args.alpha is None else args.alpha,
        memory_update=args.memory_update == "on",
        reset_memory=args.reset_memory,
        sigma=args.smooth,
        causal=bool(args.video) or args.smooth_kind == "causal",
    )


def unlike_the_paper(scoring: Scoring, usual: Scoring) -> str:
    """The settings by which scores differ from the paper's, to be named beside a result; "" where none does."""
    differ = {
        f"th {scoring.th:.4g}": scoring.th != usual.th,
        f"alpha {scoring.alpha:g}": scoring.alpha != usual.alpha,
        "memory update off": not scoring.memory_update,
        "memory reset for each video": scoring.reset_memory,
        f"smooth {scoring.sigma} {'causal' if scoring.causal else 'centred'}": scoring.sigma,
    }
    return ", ".join(name for name, is_on in differ.items() if is_on)


# Evaluate a data set --------------------------------------------------------------------------------------------------

RESULTS = (  # patterns of what an evaluation writes; those of the one before are removed, so that results never mix
    "scores.csv",
    "alarms.csv",
    "evaluation.json",
    "report.html",
    *(f"figures/{name}.*" for name in ("roc", "histogram", "scores/*", "frames/*")),
    "videos/*.mp4",
)


def times_of(videos: list[Video], args: argparse.Namespace) -> list[np.ndarray]:
    """The time of every frame of each video in seconds: by --fps, as kept beside the frames, or by an assumed rate."""
    usual = args.fps or flags.defaults("pred", args.dataset_type)["fps"]
    if args.fps:
        return [np.arange(len(video.frames)) / usual for video in videos]
    times = read_times(videos, usual)
    if args.dataset_type not in flags.DATASETS and any(one.assumed for one in times):
        names = named([video.name for video, one in zip(videos, times, strict=True) if one.assumed])
        print(f"no times are kept for {names}: {usual:g} frames per second are assumed (--fps says otherwise)")
    return [one.seconds for one in times]


def evaluate_data_set(args: argparse.Namespace, trained: Trained, scoring: Scoring, device: torch.device) -> None:
    """Score the test videos, print how well the scores agree with the labels, and write what Evaluate.py promises."""
    videos = split_videos(args.dataset_path, args.dataset_type, "testing")
    labels = frame_labels(args.dataset_path, args.dataset_type, videos, args.avenue_labels, seconds_at(args.fps))
    clips = open_split(flags.source_of(args), "testing", trained.shape)
    chosen = find_frames(args.frames or [], clips)
    loader = testing_loader(clips, args.test_batch_size, args.num_workers_test, device)
    seconds = times_of(clips.videos, args)
    masks, wrong = find_masks(Path(args.dataset_path) / args.dataset_type, videos)
    pixels = PixelCounter({} if wrong else masks, [video.name for video in clips.videos])

    def again(video: int) -> Iterator[Scored]:
        return replay(trained.model, result.items[video].to(device), clips, video, scoring)

    def frame_at(video: int, frame: int) -> np.ndarray:
        of = clips.videos[video]
        return outlined(read_picture(of.path(frame)), mask_at(masks, of.name, frame))

    with written_together(args.output_dir, RESULTS) as output:  # tried before the work
        scores = score_clips(trained.model, trained.items, loader, scoring, pixels.add)
        result = compare(clips, scores, scoring, labels, seconds)
        decisions = None
        if trained.normal:
            decisions = decide(result, trained.normal, scoring, args.false_alarm_rate, args.merge_gap)
            write_alarms(output / "alarms.csv", result.videos, decisions.alarms)
        unlike = unlike_the_paper(scoring, trained.scoring())
        about = {"dataset_type": args.dataset_type, "avenue_labels": args.avenue_labels, "model": str(args.model_dir)}
        settings = {**scoring._asdict(), "false_alarm_rate": args.false_alarm_rate, "merge_gap": args.merge_gap}
        settings = {name: str(value) if isinstance(value, flags.Span) else value for name, value in settings.items()}
        about |= {**environment(device), "settings": settings, "unlike_the_paper": unlike}
        write_scores(output / "scores.csv", result)
        several = protocols(result, scoring, decisions.scores if decisions else None)
        beside = Beside(several, pixels.metrics(), wrong[0] if wrong else pixels.problem)
        write_evaluation(output / "evaluation.json", result, decisions, about, beside)
        if args.save_video:
            annotate_all(output / "videos", result, decisions, again, frame_at)
        if not args.no_figures:
            from exp.report.curves import draw_evaluation  # here, as matplotlib takes a second to import
            from exp.report.page_evaluation import page_of_evaluation
            from exp.report.style import Look

            look = Look(chosen, unlike, args.figure_format, masks)
            draw_evaluation(output / "figures", result, decisions, again, frame_at, look)
            judged = decisions or trained.no_calibration
            write_page(output / "report.html", page_of_evaluation(result, judged, about, beside, frame_at))

    plural = "s" * (len(clips.videos) > 1)
    print(f"scores of {len(clips)} frames of {len(clips.videos)} video{plural}: {args.output_dir / 'scores.csv'}")
    print(*metric_lines(result, beside, unlike), sep="\n")
    if decisions:
        print(*alarm_lines(decisions), sep="\n")
    else:
        print(f"no calibrated threshold: {trained.no_calibration}")
    if not args.no_figures:
        print(f"figures: {args.output_dir / 'figures'}")
    if args.save_video:
        print(f"annotated videos: {args.output_dir / 'videos'}")
    if not args.no_figures:
        print(f"report: {args.output_dir / 'report.html'}")


# Watch a stream -------------------------------------------------------------------------------------------------------


def watch_stream(args: argparse.Namespace, trained: Trained, normal: Calibration, scoring: Scoring) -> None:
    """Score a video file, a camera or a stream while its frames come, and record what is found."""
    stream = Watched(args.video, args.fps, args.patience, args.test_batch_size, args.latency)
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
