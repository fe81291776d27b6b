"""The flags of Evaluate.py for scores, alarms and streams, and the Scoring that they give."""

import argparse
from collections.abc import Mapping
from typing import Any

from data.clips import CHUNK
from exp import flags
from exp.scoring.calibration import FALSE_ALARM_RATE
from exp.scoring.score import Scoring
from exp.scoring.trained import Trained

# defaults of flags that are refused where they would do nothing, so that it must be known whether they were given
UNLESS_GIVEN: dict[str, Any] = {"patience": 60.0, "latency": 0.0, "avenue_labels": "paper"}


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for the fields of Scoring, and for loading clips."""
    score = parser.add_argument_group("scores")
    score.add_argument(
        "--alpha",
        type=flags.fraction,
        help=f"λ, the weight of the PSNR; the feature distance has weight 1 - λ ({flags.by_method('alpha')})",
    )
    score.add_argument(
        "--th",
        type=flags.threshold_or_auto,
        help=f"{flags.th_help()}; auto takes it from the calibration",
    )
    score.add_argument(
        "--memory_update", choices=("on", "off"), default="on", help="whether test frames update the memory"
    )
    score.add_argument("--reset_memory", action="store_true", help="start each video from the trained items")
    score.add_argument(
        "--test_batch_size", type=flags.positive_int, default=CHUNK, help="clips encoded at once; changes no score"
    )
    flags.add_workers_flag(score, "--num_workers_test")
    beyond = parser.add_argument_group("beyond the paper, off unless given")
    beyond.add_argument(
        "--smooth", type=flags.span, metavar="SPAN", help="σ of a Gaussian over time, in frames (10) or seconds (0.4s)"
    )
    beyond.add_argument(
        "--smooth_kind",
        choices=("centred", "causal"),
        help="centred uses earlier and later frames, causal only earlier ones, as --video always does (centred if not"
        " given)",
    )


def add_alarm_flags(parser: argparse.ArgumentParser) -> None:
    alarm = parser.add_argument_group("alarms (if there is a calibration beside the model)")
    alarm.add_argument(
        "--false_alarm_rate",
        type=flags.probability,
        default=FALSE_ALARM_RATE,
        help="share of normal frames above the threshold",
    )
    alarm.add_argument(
        "--merge_gap",
        type=flags.span,
        default=flags.Span(1, "s"),
        metavar="SPAN",
        help="alarms closer together than this, in frames (25) or seconds (1s), are merged",
    )


def add_stream_flags(parser: argparse.ArgumentParser) -> None:
    watching = parser.add_argument_group("streams, with --video")
    watching.add_argument(
        "--patience",
        type=flags.non_negative,
        help=f"seconds during which to try to reopen a dropped stream ({UNLESS_GIVEN['patience']:g})",
    )
    watching.add_argument(
        "--latency",
        type=flags.non_negative,
        help=f"seconds a live frame may wait to be scored with others ({UNLESS_GIVEN['latency']:g})",
    )


def contradicting_flags(args: argparse.Namespace) -> str:
    """Why flags of Evaluate.py cannot be used together, or what one of them needs; "" if they fit."""
    problems = {
        "--frames cannot be used with --no_figures": args.frames and args.no_figures,
        "--frames cannot be used with --video": args.frames and args.video,
        "--smooth_kind needs --smooth": args.smooth_kind and not args.smooth,
        "--smooth_kind centred needs later frames: with --video only causal is possible": args.video
        and args.smooth_kind == "centred",
        "--reset_memory cannot be used with --video: there is only one video": args.video and args.reset_memory,
        "--patience is for streams: it needs --video": args.patience is not None and not args.video,
        "--latency is for streams: it needs --video": args.latency is not None and not args.video,
        "--th decides which frames update the memory: it cannot be used with --memory_update off": args.th is not None
        and args.memory_update == "off",
        "--m_items_dir cannot be used with --msize 0: a network without a memory has no items": args.m_items_dir
        and args.msize == 0,
        "--avenue_labels needs --dataset_type avenue": args.avenue_labels
        and not args.weights
        and args.dataset_type != "avenue",
    }
    return next((problem for problem, is_there in problems.items() if is_there), "")


def scoring_of(args: argparse.Namespace, trained: Trained) -> Scoring:
    """The Scoring that the flags ask for."""
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


def unlike_the_paper(scoring: Scoring, usual: Scoring, others: Mapping[str, object]) -> str:
    """The settings that differ from the paper's, for display beside a result; "" if there are none.

    others: {what differs: whether it does} for what is not part of Scoring.
    """
    differ = {
        f"th {scoring.th:.4g}": scoring.th != usual.th,
        f"alpha {scoring.alpha:g}": scoring.alpha != usual.alpha,
        "memory update off": not scoring.memory_update,
        "memory reset for each video": scoring.reset_memory,
        f"smooth {scoring.sigma} {'causal' if scoring.causal else 'centred'}": scoring.sigma,
        **others,
    }
    return ", ".join(name for name, is_on in differ.items() if is_on)
