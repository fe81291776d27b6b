"""Trained weights that come with the repository: `python -m exp.pack RUN NAME` packs the last epoch of a run.

    exp/weights/<name>/
        model.pth        the network, its weights in half precision
        m_items.pt       its memory items
        calibration.pt   what thresholds come from
        metrics.json     what Evaluate.py gives with these files, and the run they are from
        SHA256SUMS       of the files above, as sha256sum writes it

`python Evaluate.py --weights NAME` evaluates them on their data set.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import torch

from exp.checkpoints import SHAPE, load_file, load_model
from exp.run import FREE, call, read_record
from exp.scoring import calibration
from utils import InputError, Parser, run_script

FOLDER = Path(__file__).parent / "weights"
FILES = ("model.pth", "m_items.pt", "calibration.pt", "metrics.json")
SUMS = "SHA256SUMS"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find(name):
    """The folder of the weights of that name, and its metrics.json as a dict. Raises InputError: none, or damaged."""
    there = sorted(path.parent.name for path in FOLDER.glob(f"*/{SUMS}"))
    if name not in there:
        raise InputError(f"--weights {name}: no such weights in {FOLDER}, which holds {', '.join(there) or 'none'}")
    directory = FOLDER / name
    sums = dict(reversed(line.split("  ")) for line in (directory / SUMS).read_text().splitlines())
    for file in FILES:
        if not (directory / file).is_file() or sha256(directory / file) != sums.get(file):
            raise InputError(f"{directory / file} is not the file that was packed: fetch the repository's again")
    return directory, json.loads((directory / "metrics.json").read_text())


def halved(weights):
    """A state dict with the weights of convolutions in half precision; the rest is small, and some of it wide-ranging.

    Raises InputError where half precision, up to 65504, does not reach.
    """
    weights = {name: value.half() if value.ndim > 1 else value for name, value in weights.items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise InputError(f"{name} has values that half precision cannot hold: these weights cannot be packed")
    return weights


def pack(run, name, *flags):
    """Pack the last epoch of a run to FOLDER / name, which appears whole or not at all; flags go to Evaluate.py.

    Returns the folder and its metrics.json as a dict. Raises InputError.
    """
    directory = FOLDER / name
    if directory.parent != FOLDER or directory.exists():
        raise InputError(f"{directory} cannot be made: give a new name, or remove the weights of that name first")
    record = read_record(run)
    _, items, shape = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    calibration.load(run / "model.pth", items)
    model = load_file(run / "model.pth", "model")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=FOLDER) as folder:
        packed, results = Path(folder) / "packed", Path(folder) / "results"
        packed.mkdir()
        torch.save({**model, "model": halved(model["model"])}, packed / "model.pth")
        for file in ("m_items.pt", "calibration.pt"):
            shutil.copyfile(run / file, packed / file)
        which = ("--dataset_type", record.flags["dataset_type"], "--model_dir", packed, "--output_dir", results)
        call("Evaluate.py", *which, "--no_figures", *flags)
        flags_of_run = {flag: value for flag, value in record.flags.items() if flag not in FREE}
        evaluation = json.loads((results / "evaluation.json").read_text())
        if evaluation["auc"] is None:
            raise InputError(
                f"{evaluation['dataset_type']} has no labels of both classes: there is no AUC to pack with"
            )
        del evaluation["model"]  # a path of this machine
        metrics = {"method": shape["method"], **evaluation, "trained": {"flags": flags_of_run, "starts": record.starts}}
        (packed / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (packed / SUMS).write_text("".join(f"{sha256(packed / file)}  {file}\n" for file in FILES))
        packed.rename(directory)
    return directory, metrics


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a finished run: exp/<dataset>/<method>/<run>")
    parser.add_argument("name", help="the weights are packed to exp/weights/NAME")
    parser.add_argument("--dataset_path", default="./dataset", help="the folder that holds data sets")
    parser.add_argument("--cache_dir", help="where decoded frames are kept; beside the data when not given")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_args()
    passed_on = ("dataset_path", "cache_dir", "device")
    flags = [text for name in passed_on if getattr(args, name) for text in (f"--{name}", getattr(args, name))]
    directory, metrics = pack(args.run, args.name, *flags)
    size = sum(path.stat().st_size for path in directory.iterdir()) / 2**20
    print(f"{directory}: {size:.1f} MiB, AUC {100 * metrics['auc']:.4f} %")


if __name__ == "__main__":
    run_script(main)
