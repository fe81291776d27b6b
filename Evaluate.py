"""Evaluate MNAD: `python Evaluate.py --dataset_type ped2 --model_dir model.pth --m_items_dir m_items.pt`.

Scores every frame of <dataset_path>/<dataset_type>/testing, prints the frame-level AUC and writes scores.csv,
evaluation.json and figures. Without --model_dir it takes the run that Train.py writes by default. With --video it
scores one file, camera or stream instead, online.
"""

from pathlib import Path

from data.clips import CHUNK, open_clips, split_videos
from data.frames import read_picture
from data.labels import frame_labels
from data.stream import Stream
from exp import flags
from exp import pack as weights
from exp.device import fold_batch_norms, make_deterministic, pick_device, place
from exp.report.files import alarm_lines, metric_lines, write_alarms, write_evaluation, write_scores
from exp.report.video import annotate_all
from exp.run import SHAPE, environment, load_model, run_directory
from exp.scoring import calibration
from exp.scoring.alarms import decide
from exp.scoring.evaluation import evaluate, find_frames
from exp.scoring.score import replay
from exp.scoring.watch import Recorder, watch
from utils import InputError, Parser, run_script


def parse(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights", metavar="NAME", help="weights of this repository, exp/weights/NAME, and with them their data set"
    )
    model.add_argument(
        "--model_dir", type=Path, help="a model file, or the directory of a run; by default that of --exp_dir"
    )
    model.add_argument("--m_items_dir", type=Path, help="its memory items; by default m_items.pt beside the model")
    flags.add_data_flags(parser)
    parser.add_argument("--avenue_labels", choices=("paper", "masks"), default="paper", help="see data/README.md")
    parser.add_argument("--fps", type=flags.rate, help="frames a second; those of the data set, or of the video")
    parser.add_argument("--video", metavar="FILE|CAMERA|URL", help="score this alone: a file, a number or an address")
    flags.add_shape_flags(parser, "not needed: the model file tells; h and w for released models, 256 if not given")
    score = parser.add_argument_group("scores")
    score.add_argument(
        "--alpha", type=flags.share, help="λ, weight of PSNR beside the feature distance; pred 0.6, recon 0.7"
    )
    score.add_argument(
        "--th",
        type=flags.weight_or_auto,
        help="γ, frames with a regular score below it update memory; 0.01, 0.015; auto: from the calibration",
    )
    score.add_argument(
        "--memory_update", choices=("on", "off"), default="on", help="whether memory learns while testing"
    )
    score.add_argument("--reset_memory", action="store_true", help="start each video from the trained items")
    score.add_argument(
        "--test_batch_size", type=flags.positive, default=CHUNK, help="clips encoded at once; changes no score"
    )
    score.add_argument("--num_workers_test", type=flags.count, default=1, help="processes that load clips")
    beyond = parser.add_argument_group("beyond the paper, off unless given")
    beyond.add_argument("--smooth", type=flags.span, metavar="SPAN", help="σ of a Gaussian over time: 10 frames, 0.4s")
    beyond.add_argument(
        "--smooth_kind", choices=("centred", "causal"), help="causal: by earlier frames alone, as always with --video"
    )
    beyond.add_argument(
        "--psnr_region", type=flags.positive, metavar="PATCH", help="PSNR of the worst square of so many pixels a side"
    )
    alarm = parser.add_argument_group("alarms, where a calibration is beside the model")
    alarm.add_argument(
        "--false_alarm_rate", type=flags.probability, default=0.001, help="share of normal frames above the threshold"
    )
    alarm.add_argument(
        "--merge_gap", type=flags.span, default=flags.Span(1, "s"), metavar="SPAN", help="alarms less far apart are one"
    )
    flags.add_run_flags(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, help="where results go; by default beside the model")
    output.add_argument("--no_figures", action="store_true", help="draw nothing")
    output.add_argument(
        "--frames", type=flags.frame_of_video, nargs="+", metavar="VIDEO:FRAME", help="frames to draw, such as 01:120"
    )
    output.add_argument("--save_video", action="store_true", help="write annotated videos")
    args = parser.parse_args(arguments)
    if args.weights is not None:
        parser.set_defaults(dataset_type=None, exp_dir=None)  # to tell whether they were given
        args = parser.parse_args(arguments)
        use_weights(args)
    if args.frames and (args.no_figures or args.video):
        parser.error(f"--frames goes not with --{'no_figures' if args.no_figures else 'video'}")
    if args.smooth_kind and not args.smooth:
        parser.error("--smooth_kind goes with --smooth")
    if args.video and args.smooth_kind == "centred":
        parser.error("--smooth_kind centred needs the frames to come: with --video only causal is possible")
    return args


def use_weights(args):
    """Let args name the model, data set and method of --weights. Raises InputError where flags say something else."""
    directory, about = weights.find(args.weights)
    known = {"dataset_type": about["dataset_type"], "method": about["method"], "exp_dir": args.weights}
    for name, value in {**known, "model_dir": directory, "m_items_dir": None}.items():
        if getattr(args, name) not in (None, value):
            raise InputError(f"--{name} {getattr(args, name)} contradicts --weights {args.weights}: leave one out")
        setattr(args, name, value)
    args.output_dir = args.output_dir or run_directory(args.dataset_type, args.method, args.exp_dir)


def unlike_the_paper(args, usual, th, sigma):
    """The settings in which scores differ from the paper's, to be named beside a result; "" where none does."""
    differ = {
        f"th auto = {th:.4g}": args.th == "auto",
        f"th {th:g}": args.th != "auto" and th != usual["th"],
        f"alpha {args.alpha}": args.alpha not in (None, usual["alpha"]),
        "memory update off": args.memory_update == "off",
        "memory reset for each video": args.reset_memory,
        f"psnr of the worst {args.psnr_region} x {args.psnr_region} pixels": args.psnr_region,
        f"smooth {sigma or 0:g} frames {args.smooth_kind or 'centred'}": sigma,
    }
    return ", ".join(name for name, is_on in differ.items() if is_on)


def main():
    args = parse()
    device = pick_device(args.device, args.gpus)
    if args.deterministic:
        make_deterministic()
    model_path = args.model_dir or run_directory(args.dataset_type, args.method or "pred", args.exp_dir)
    model_path = model_path / "model.pth" if model_path.is_dir() else model_path
    items_path = args.m_items_dir or model_path.with_name("m_items.pt")
    model, items, shape = load_model(model_path, items_path, {name: getattr(args, name) for name in SHAPE})
    flags.check_shape({**shape, "mdim": args.mdim or shape["fdim"]})
    flags.check_patch(args.psnr_region, shape)
    normal = missing = None
    try:
        normal = calibration.load(model_path, items, args.psnr_region)
    except InputError as error:
        if args.th == "auto" or args.video:
            raise
        missing = str(error)

    output = args.output_dir or model_path.parent
    usual = flags.METHODS[shape["method"]]
    th = normal.auto_th() if args.th == "auto" else usual["th"] if args.th is None else args.th
    alpha = usual["alpha"] if args.alpha is None else args.alpha
    memory_update = args.memory_update == "on"
    caveat = normal.caveat(th, memory_update, args.false_alarm_rate) if normal else ""
    model, items = place(fold_batch_norms(model), device, args.precision, args.compile), items.to(device)

    if args.video:
        stream = Stream(args.video, args.fps)
        sigma, gap = args.smooth and args.smooth.frames(stream.fps), args.merge_gap.frames(stream.fps)
        judging = alpha, args.false_alarm_rate, sigma, gap
        recorder = Recorder(output / "watched" / stream.name, stream, normal, *judging, args.save_video)
        print(f"calibrated threshold {recorder.threshold:.4g}" + (f", {caveat}" if caveat else ""))
        watch(model, items, shape, recorder, th, memory_update, args.psnr_region, args.test_batch_size)
        return

    size, cache = (shape["h"], shape["w"], shape["c"]), False if args.no_cache else args.cache_dir
    videos = split_videos(args.dataset_path, args.dataset_type, "testing")
    labels = frame_labels(args.dataset_path, args.dataset_type, videos, args.avenue_labels)
    clips = open_clips(videos, "testing", shape["t_length"], size, cache, args.bad_frames)
    chosen = find_frames(args.frames or [], clips)
    fps = args.fps or flags.defaults(shape["method"], args.dataset_type)["fps"]
    smoothing = {"sigma": args.smooth and args.smooth.frames(fps), "causal": args.smooth_kind == "causal"}
    scoring = {"th": th, "alpha": alpha, "memory_update": memory_update, "reset_memory": args.reset_memory}
    scoring |= {**smoothing, "psnr_region": args.psnr_region}
    loading = {"batch_size": args.test_batch_size, "num_workers": args.num_workers_test}
    result = evaluate(model, items, clips, labels=labels, **scoring, **loading)

    output.mkdir(parents=True, exist_ok=True)
    write_scores(output / "scores.csv", result)
    counted = f"{len(clips)} frames of {len(clips.videos)} video{'s' * (len(clips.videos) > 1)}"
    print(f"scores of {counted}: {output / 'scores.csv'}")
    unlike = unlike_the_paper(args, usual, th, smoothing["sigma"])
    print(*metric_lines(result, unlike), sep="\n")
    judging = {"false_alarm_rate": args.false_alarm_rate, "merge_gap": args.merge_gap.frames(fps), "fps": fps}
    decided = decide(result, normal, alpha, **smoothing, **judging) if normal else None
    if decided:
        write_alarms(output / "alarms.csv", result.videos, decided.alarms)
        print(*alarm_lines(decided, fps, caveat), sep="\n")
    else:
        print(f"no calibrated threshold: {missing}")
    about = {"dataset_type": args.dataset_type, "avenue_labels": args.avenue_labels, "model": str(model_path)}
    about |= {**environment(device), "settings": {**scoring, **judging}, "unlike_the_paper": unlike}
    write_evaluation(output / "evaluation.json", result, decided, about)

    def again(video):
        start = result.items[video].to(device)
        return replay(model, start, clips, video, th, memory_update, batch_size=args.test_batch_size)

    def frame_at(video, frame):
        return read_picture(clips.videos[video].path(frame))

    if not args.no_figures:
        from exp.report.curves import draw_evaluation  # here, as matplotlib takes a second to import

        draw_evaluation(output / "figures", result, chosen, again, frame_at, unlike)
        print(f"figures: {output / 'figures'}")
    if args.save_video:
        annotate_all(output / "videos", result, decided, again, frame_at, fps)
        print(f"annotated videos: {output / 'videos'}")


if __name__ == "__main__":
    run_script(main)
