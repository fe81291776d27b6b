"""Pack trained weights into the repository: `python -m exp.pack RUN NAME` packs the last epoch of a run.

    exp/weights/<name>/
        model.pth        the network, with the weights of convolutions in half precision
        m_items.pt       its memory items
        calibration.pt   its calibration, for thresholds
        metrics.json     the evaluation of these files, and the run that they come from
        SHA256SUMS       checksums of the files above, in the format of sha256sum

`python Evaluate.py --weights NAME` evaluates them on their data set.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exp.checkpoints import SHAPE, load_file, load_model
from exp.record import FREE, read_record
from exp.run import call
from exp.scoring import calibration
from utils import InputError, Parser, read_json, reading, run_script, write_whole, writing

FOLDER = Path(__file__).parent / "weights"
FILES = ("model.pth", "m_items.pt", "calibration.pt", "metrics.json")
SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits. Raises InputError when it cannot be read."""
    with reading(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def is_packed(directory: Path) -> bool:
    """Whether a folder holds packed weights of the repository, whose files must stay as they were packed."""
    return directory.resolve().parent == FOLDER.resolve() and (directory / SUMS).is_file()


def find_weights(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the named weights, and its metrics.json as a dict. Raises InputError if missing or damaged.

    The folder is relative to the current one where it is inside it, so that results do not show where that is.
    """
    there = sorted(path.parent.name for path in FOLDER.glob(f"*/{SUMS}"))
    if name not in there:
        raise InputError(f"--weights {name}: no such weights in {FOLDER}; there are {', '.join(there) or 'none'}")
    directory = FOLDER / name
    with reading(directory / SUMS):
        lines = (directory / SUMS).read_text(encoding="utf-8").splitlines()
    sums = {file: checksum for checksum, _, file in (line.partition("  ") for line in lines)}
    for file in FILES:
        if not (directory / file).is_file() or sha256(directory / file) != sums.get(file):
            raise InputError(f"{directory / file} is not the file that was packed: restore it from the repository")
    about = read_json(directory / "metrics.json")
    if not isinstance(about, dict) or not {"dataset_type", "method"} <= about.keys():
        raise InputError(
            f"{directory / 'metrics.json'} does not name the data set and method of the weights: pack them again"
        )
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory, about


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the weights of convolutions in half precision; other values are few, and some are large.

    Raises InputError when a weight exceeds 65504, the limit of half precision.
    """
    weights = {name: value.half() if value.ndim > 1 else value for name, value in weights.items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise InputError(f"{name} has values that half precision cannot hold: these weights cannot be packed")
    return weights


def pack(run: Path, name: str, *flags: object) -> tuple[Path, dict[str, Any]]:
    """Pack the last epoch of a run into FOLDER / name, which appears complete or not at all; flags go to Evaluate.py.

    Returns the folder and its metrics.json as a dict. Raises InputError when the name is taken or not allowed, when a
    file of the run is missing or damaged, or when the evaluation gives no AUC.
    """
    directory = FOLDER / name
    if not name or directory.parent != FOLDER or directory.exists():
        raise InputError(f"{directory} cannot be made: give a new name, or remove the weights of that name first")
    record = read_record(run)
    if not isinstance(record.flags.get("dataset_type"), str):
        raise InputError(
            f"{run / 'flags.json'} names no dataset_type, so there is no data set to evaluate the weights on"
        )
    _, items, shape = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    calibration.load(run / "model.pth", items)
    model = load_file(run / "model.pth", "model")
    with writing(directory):
        FOLDER.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".packing-", dir=FOLDER))
    try:
        packed, results = folder / "packed", folder / "results"
        with writing(directory):
            packed.mkdir()
            for file in ("m_items.pt", "calibration.pt"):
                shutil.copyfile(run / file, packed / file)
        half = {**model, "model": halved(model["model"])}
        write_whole(packed / "model.pth", lambda path: torch.save(half, path))
        which = ("--dataset_type", record.flags["dataset_type"], "--model_dir", packed, "--output_dir", results)
        call("Evaluate.py", *which, "--no_figures", *flags)
        flags_of_run = {flag: value for flag, value in record.flags.items() if flag not in FREE}
        evaluation = read_json(results / "evaluation.json")
        if evaluation["auc"] is None:
            raise InputError(f"{evaluation['dataset_type']} has no labels of both classes, so there is no AUC to pack")
        del evaluation["model"]  # a path of this machine
        metrics = {"method": shape["method"], **evaluation, "trained": {"flags": flags_of_run, "starts": record.starts}}
        with writing(directory):
            _write_text(packed / "metrics.json", json.dumps(metrics, indent=2) + "\n")
            _write_text(packed / SUMS, "".join(f"{sha256(packed / file)}  {file}\n" for file in FILES))
            packed.rename(directory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return directory, metrics


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")  # the same bytes and checksums on every system


def main() -> None:
    parser = Parser(prog="python -m exp.pack", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a finished run: exp/<dataset>/<method>/<run>")
    parser.add_argument("name", help="the weights are packed into exp/weights/NAME")
    parser.add_argument("--dataset_path", default="./dataset", help="the folder that contains the data sets")
    parser.add_argument("--cache_dir", help="where to keep decoded frames; beside the data if not given")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_args()
    passed_on = ("dataset_path", "cache_dir", "device")
    flags = [text for name in passed_on if getattr(args, name) for text in (f"--{name}", getattr(args, name))]
    directory, metrics = pack(args.run, args.name, *flags)
    size = sum(path.stat().st_size for path in directory.iterdir()) / 2**20
    print(f"{directory}: {size:.1f} MiB, AUC {100 * metrics['auc']:.4f} %")


if __name__ == "__main__":
    run_script(main)
