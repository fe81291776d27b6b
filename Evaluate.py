"""Evaluate MNAD: `python Evaluate.py --dataset_type ped2 --model_dir model.pth --m_items_dir m_items.pt`.

Scores every frame of <dataset_path>/<dataset_type>/testing, prints the frame-level AUC and writes scores.csv. Without
--model_dir it takes the run that Train.py writes by default.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

import utils
from data import synthetic
from data.clips import open_clips, testing_loader
from data.frames import find_videos, split_directory
from data.labels import frame_labels
from exp import flags
from exp.device import fold_batch_norms, pick_device, place
from exp.run import SHAPE, load_model, run_directory, write_whole
from exp.score import score_clips
from utils import Parser, run_script


def parse(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_dir", type=Path, help="a model file, or the directory of a run; by default that of --exp_dir"
    )
    model.add_argument("--m_items_dir", type=Path, help="its memory items; by default m_items.pt beside the model")
    flags.add_data_flags(parser)
    parser.add_argument("--avenue_labels", choices=("paper", "masks"), default="paper", help="see data/README.md")
    flags.add_shape_flags(parser, "not needed: the model file tells; h and w for released models, 256 if not given")
    score = parser.add_argument_group("scores")
    score.add_argument(
        "--alpha", type=flags.share, help="λ, weight of PSNR beside the feature distance; pred 0.6, recon 0.7"
    )
    score.add_argument(
        "--th", type=flags.weight, help="γ, frames with a regular score below it update memory; 0.01, 0.015"
    )
    score.add_argument(
        "--memory_update", choices=("on", "off"), default="on", help="whether memory learns while testing"
    )
    score.add_argument("--reset_memory", action="store_true", help="start each video from the trained items")
    score.add_argument(
        "--test_batch_size", type=flags.positive, default=8, help="clips encoded at once; changes no score"
    )
    score.add_argument("--num_workers_test", type=flags.count, default=1, help="processes that load clips")
    flags.add_run_flags(parser)
    parser.add_argument("--output_dir", type=Path, help="where scores.csv goes; by default beside the model")
    return parser.parse_args(arguments)


class Evaluation(NamedTuple):
    """What `evaluate` found. Lists have one array (frames of the video that have a score,) for each video."""

    videos: list  # names
    frames: list  # index of each frame in its video, 0-based: the last of its clip
    psnr: list  # P, dB
    distance: list  # D, feature distance
    regular: list  # E, regular score
    updated: list  # bool, whether the frame updated the memory
    abnormality: list  # in [0, 1]
    labels: list | None  # 1 = abnormal; None where there are none
    items: list  # the memory each video began with, (M, C): exp.score.replay scores it again from there
    metrics: dict | None  # auc, eer, average_precision, macro_auc in [0, 1], macro_videos; None without both classes


def evaluate(
    model, items, clips, th, alpha, labels=None, memory_update=True, reset_memory=False, batch_size=8, **loading
):
    """Score all clips and compare with the labels. Returns an Evaluation.

    model in eval mode and items (M, C) on one device; clips: data.clips.Clips; th, alpha: γ and λ; labels: {video name:
    0/1 array, one value a frame of the video} or None; loading: settings of data.clips.testing_loader. The first
    t_length - 1 frames of a video have no score, and their labels are not used.
    """
    loader = testing_loader(clips, batch_size, **loading)
    scores, items_at_start = score_clips(model, items, loader, clips.lengths, th, memory_update, reset_memory)
    by_video = {name: np.split(values, np.cumsum(clips.lengths)[:-1]) for name, values in scores.items()}
    abnormality = [
        1 - utils.normality(p, d, alpha) for p, d in zip(by_video["psnr"], by_video["distance"], strict=True)
    ]
    unscored = clips.t_length - 1
    names = [video.name for video in clips.videos]
    if labels is not None:
        labels = [labels[name][unscored:] for name in names]
    return Evaluation(
        videos=names,
        frames=[np.arange(length) + unscored for length in clips.lengths],
        **by_video,
        abnormality=abnormality,
        labels=labels,
        items=items_at_start,
        metrics=metrics(labels, abnormality) if labels and np.unique(np.concatenate(labels)).size == 2 else None,
    )


def metrics(labels, abnormality):
    """Frame-level metrics over all frames together, and the macro AUC over videos that have frames of both classes."""
    y, s = np.concatenate(labels), np.concatenate(abnormality)
    macro, videos = utils.macro_auc(labels, abnormality)
    return {
        "auc": utils.auc(y, s),
        "eer": utils.equal_error_rate(y, s),
        "average_precision": utils.average_precision(y, s),
        "macro_auc": macro,
        "macro_videos": videos,
    }


def write_scores(path, result):
    """scores.csv: one row a frame that has a score; the label column is empty where there are no labels."""
    labels = result.labels or [[""] * len(frames) for frames in result.frames]
    columns = (result.frames, result.psnr, result.distance, result.regular, result.updated, result.abnormality, labels)

    def write(temporary):
        with open(temporary, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["video", "frame", "psnr", "distance", "regular_score", "updated", "abnormality", "label"])
            for video, *values in zip(result.videos, *columns, strict=True):
                for frame, p, d, e, updated, abnormality, label in zip(*values, strict=True):
                    row = [f"{p:.8g}", f"{d:.8g}", f"{e:.8g}", int(updated), f"{abnormality:.8g}", label]
                    table.writerow([video, frame, *row])

    write_whole(path, write)


def main():
    args = parse()
    device = pick_device(args.device, args.gpus)
    model_path = args.model_dir or run_directory(args.dataset_type, args.method or "pred", args.exp_dir)
    model_path = model_path / "model.pth" if model_path.is_dir() else model_path
    items_path = args.m_items_dir or model_path.with_name("m_items.pt")
    model, items, shape = load_model(model_path, items_path, {name: getattr(args, name) for name in SHAPE})
    flags.check_shape({**shape, "mdim": args.mdim or shape["fdim"]})
    output = args.output_dir or model_path.parent
    usual = flags.METHODS[shape["method"]]
    th = usual["th"] if args.th is None else args.th
    alpha = usual["alpha"] if args.alpha is None else args.alpha

    if args.dataset_type == "synthetic":
        synthetic.ensure(args.dataset_path)
    size, cache = (shape["h"], shape["w"], shape["c"]), False if args.no_cache else args.cache_dir
    videos = find_videos(split_directory(args.dataset_path, args.dataset_type, "testing"))
    labels = frame_labels(args.dataset_path, args.dataset_type, videos, args.avenue_labels)
    clips = open_clips(videos, "testing", shape["t_length"], size, cache, args.bad_frames)
    result = evaluate(
        fold_batch_norms(place(model, device, args.precision, args.compile)),
        items.to(device),
        clips,
        th,
        alpha,
        labels,
        memory_update=args.memory_update == "on",
        reset_memory=args.reset_memory,
        batch_size=args.test_batch_size,
        num_workers=args.num_workers_test,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_scores(output / "scores.csv", result)
    print(f"scores of {len(clips)} frames of {len(clips.videos)} videos: {output / 'scores.csv'}")
    if result.labels is None:
        print(f"no labels for {args.dataset_type}, so no AUC: data/README.md says how to give them")
        return
    if result.metrics is None:
        which = "abnormal" if result.labels[0][0] else "normal"
        print(f"all {len(clips)} labelled frames are {which}, so no AUC: it compares frames of both classes")
        return
    m = result.metrics
    print(f"AUC: {100 * m['auc']:.4f} %")
    print(f"EER: {100 * m['eer']:.4f} %")
    print(f"average precision: {100 * m['average_precision']:.4f} %")
    if m["macro_videos"]:
        videos = f"{m['macro_videos']} of {len(result.videos)} videos; the others have frames of one class only"
        print(f"macro AUC: {100 * m['macro_auc']:.4f} % (mean over {videos})")


if __name__ == "__main__":
    run_script(main)
