"""Make the calibration of an older run or of released weights: `python -m exp.calibrate RUN`."""

import argparse
from pathlib import Path

from data.cache import content_digest
from data.clips import CHUNK, open_split, testing_loader
from exp import flags
from exp.checkpoints import SHAPE
from exp.device import keep_freed_memory, pick_device
from exp.pack import is_packed
from exp.record import data_of
from exp.scoring.calibration import calibrate, describe, hold_out, save
from exp.scoring.trained import load_trained
from utils import InputError, Parser, run_script


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m exp.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a run, or a model file")
    parser.add_argument("--m_items_dir", type=Path, help="the memory items; m_items.pt beside the model if not given")
    flags.add_data_flags(parser, otherwise="that of the run")
    flags.add_shape_flags(parser, stored=True)
    scoring = parser.add_argument_group("scores")
    scoring.add_argument("--th", type=flags.non_negative, help=flags.th_help())
    scoring.add_argument("--test_batch_size", type=flags.positive_int, default=CHUNK, help="clips encoded at once")
    flags.add_workers_flag(scoring, "--num_workers_test")
    flags.add_device_flags(parser.add_argument_group("run"))
    # data flags that are not given are taken from the run, and also how it held back videos, and from which data
    parser.set_defaults(calibration_share=0, seed=0, data=None)
    args = parser.parse_args(arguments)
    parser.set_defaults(**data_of(args.run, args, ("calibration_share", "seed", "data")))
    args = parser.parse_args(arguments)
    model_path = args.run = args.run / "model.pth" if args.run.is_dir() else args.run
    flags.check_one_process(args)
    if is_packed(model_path.parent):
        raise InputError(
            f"{model_path.parent} holds packed weights, whose files must not change: pack the run again with another"
            " calibration, or copy the folder elsewhere and calibrate the copy"
        )
    if args.dataset_type is None:
        raise InputError(f"--dataset_type: name the data set whose training videos are normal for {model_path}")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    device = pick_device(args.device, args.gpus)
    keep_freed_memory(device)
    given = {name: getattr(args, name) for name in SHAPE}
    trained = load_trained(args.run, args.m_items_dir, given, device, args.precision, args.compile)
    usual = trained.scoring()
    clips = open_split(flags.source_of(args), "training", trained.shape)
    if args.calibration_share and content_digest(clips.videos) != args.data:
        print("these are not the training videos of the run: all are used, and none counts as held back from it")
        args.calibration_share = 0
    _, clips = hold_out(clips, args.calibration_share, args.seed)
    loader = testing_loader(clips, args.test_batch_size, args.num_workers_test, device)
    scoring = usual if args.th is None else usual._replace(th=args.th)
    calibration = calibrate(trained.model, trained.items, loader, scoring, held_out=args.calibration_share > 0)
    path = save(args.run, calibration, trained.items, [video.name for video in clips.videos])
    print(f"{describe(calibration)}\n{path}")


if __name__ == "__main__":
    run_script(main)
