"""A run: one directory with all that training writes, and what is needed to resume it or to evaluate it.

    exp/<dataset_type>/<method>/<exp_dir>/
        flags.json      what the run was started with
        starts.jsonl    one line each time it was started or resumed: epoch, commit, PyTorch, device
        train.log       what it said
        metrics.jsonl   one JSON line an epoch
        model.pth       the network after the last finished epoch, with all that Evaluate.py must know of it
        m_items.pt      its memory items
        checkpoint.pt   the same with optimiser and scheduler, to resume from
        calibration.pt  scores of normal clips under them, which thresholds come from (exp/scoring/calibration.py)
        figures/        training.png, and what Evaluate.py draws beside its scores.csv and evaluation.json

Every file is written under a temporary name and renamed, checkpoint first: a kill at any moment leaves whole files, and
resuming brings the others in line with the checkpoint. All load with torch.load(weights_only=True).
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from model.convae import ConvAE
from model.released import read_items, read_model
from utils import InputError, write_whole

FORMAT = 1  # of the files below
SHAPE = ("method", "c", "t_length", "h", "w", "msize", "fdim")  # the flags that a model file carries
FREE = (  # flags that may differ when a run is resumed
    "dataset_path",
    "cache_dir",
    "no_cache",
    "num_workers",
    "device",
    "gpus",
    "no_figures",
    "tensorboard",
    "resume",
    "overwrite",
)
CONTENTS = {  # what each kind of file holds besides its format
    "checkpoint": ("model", "items", "optimizer", "scheduler", "history"),
    "model": ("model", "shape", "epoch"),
    "items": ("items", "method", "epoch"),
    "calibration": ("items", "lengths", "psnr", "distance", "regular", "th", "held_out"),
}
FILES = ("flags.json", "starts.jsonl", "train.log", "metrics.jsonl", "model.pth", "m_items.pt", "checkpoint.pt")
RESULTS = (  # made with those
    "calibration.pt",
    "scores.csv",
    "evaluation.json",
    "alarms.csv",
    "memory.json",
    "model.pt2",
    "figures",
    "videos",
    "tensorboard",
)


def run_directory(dataset_type, method, exp_dir):
    return Path("exp") / dataset_type / method / exp_dir


def environment(device):
    """What a result depends on besides its flags: the commit ("+": files differ from it), PyTorch, the device."""
    git = ["git", "-C", str(Path(__file__).parent)]
    results = ":(top,exclude)*.md", ":(top,exclude)exp/results"  # written anew after each run: no other program
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", *results]).returncode
        commit = commit.stdout.strip() + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        commit = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    return {"commit": commit, "torch": torch.__version__, "device": f"{device.type}, {name}"}


class Record(NamedTuple):
    """What the directory of a run tells about it."""

    flags: dict
    starts: list  # dicts: epoch, commit, torch, device
    history: list  # the metrics of each finished epoch, dicts


def read_record(directory):
    """The Record of a run. Raises InputError when there is none."""
    try:
        flags = json.loads((directory / "flags.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"no run in {directory}: its flags.json is missing or damaged") from error
    return Record(flags, *(_read_lines(directory / name) for name in ("starts.jsonl", "metrics.jsonl")))


def _read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def contradiction(before, now):
    """The first flag, FREE ones aside, in which a run with flags `before` differs from one with `now`; None if none.

    Both are dicts by flag name. A flag that was not there yet when a run was made says nothing.
    """
    return next((name for name in now if name not in FREE and before.get(name, now[name]) != now[name]), None)


def call(script, *arguments):
    """Run Train.py or Evaluate.py in a process of its own. Raises InputError when it fails, having said why itself."""
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments)]
    if subprocess.run(command).returncode:
        raise InputError(f"{script} failed, its message is above; this was: {shlex.join(command[1:])}")


def build_model(shape):
    """The network that the settings in `shape` (a dict with the names in SHAPE) describe, untrained."""
    return ConvAE(shape["c"], shape["t_length"], shape["fdim"], skips=shape["method"] == "pred")


class Run:
    """The directory of a run. `writes` is False in processes that train along but write nothing (ranks above 0)."""

    def __init__(self, directory, flags, resume=False, overwrite=False, writes=True):
        self.directory, self.flags, self.writes = Path(directory), flags, writes
        self.state = None  # what the checkpoint held
        checkpoint = self.directory / "checkpoint.pt"
        if resume:
            if not (self.directory / "flags.json").is_file():
                raise InputError(f"--resume: no run in {self.directory}; without --resume a new one starts")
            self._check_flags()
            self.state = load_file(checkpoint, "checkpoint") if checkpoint.is_file() else None  # killed in epoch 1
        elif not overwrite and checkpoint.is_file():
            raise InputError(f"{self.directory} holds a run: --resume goes on with it, --overwrite discards it")
        elif writes:
            for path in (self.directory / name for name in (*FILES, *RESULTS)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if writes:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._write_text("flags.json", json.dumps(flags, indent=2) + "\n")
            if self.state:
                self._write_results()

    def _check_flags(self):
        before = read_record(self.directory).flags
        name = contradiction(before, self.flags)
        if name:
            what = f"--{name} {before[name]}, not {self.flags[name]}"
            raise InputError(f"--resume: the run in {self.directory} has {what}")

    def _write_text(self, name, text):
        write_whole(self.directory / name, lambda path: path.write_text(text))

    @property
    def history(self):
        """The metrics of the epochs so far, a list of dicts."""
        return self.state["history"] if self.state else []

    def log(self, text):
        """Say it on the terminal (above any progress bar) and in train.log."""
        if self.writes:
            tqdm.write(text)
            with open(self.directory / "train.log", "a") as file:
                file.write(text + "\n")

    def started(self, device):
        """Keep a line on what trains from here on."""
        if self.writes:
            line = {"epoch": len(self.history) + 1, **environment(device)}
            with open(self.directory / "starts.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")

    def save(self, model, items, optimizer, scheduler, metrics):
        """Keep the state after an epoch, of which `metrics` is a dict of numbers and lists."""
        history = [*self.history, metrics]
        self.state = {
            "format": FORMAT,
            "model": model.state_dict(),
            "items": items,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "history": history,
        }
        if self.writes:
            write_whole(self.directory / "checkpoint.pt", lambda path: torch.save(self.state, path))
            self._write_results()

    def _write_results(self):
        """Bring model.pth, m_items.pt and metrics.jsonl in line with the checkpoint."""
        epoch = len(self.history)
        shape = {name: self.flags[name] for name in SHAPE}
        model = {"format": FORMAT, "shape": shape, "epoch": epoch, "model": self.state["model"]}
        items = {"format": FORMAT, "method": shape["method"], "epoch": epoch, "items": self.state["items"]}
        write_whole(self.directory / "model.pth", lambda path: torch.save(model, path))
        write_whole(self.directory / "m_items.pt", lambda path: torch.save(items, path))
        self._write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))


def load_file(path, what):
    """A dict that this project saved as `what`, a key of CONTENTS. Raises InputError when the file is not one."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{path} is not a whole {what} file") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= set(CONTENTS[what]):
        raise InputError(f"{path} is not a {what} file of this project")
    return content


def load_model(model_path, items_path, given):
    """A trained network with its items, from files of this project or of the authors' released code, on the CPU.

    given: the flags of SHAPE as the user gave them, None where not; they must agree with the files. A released model
    does not carry the frame size, which is 256 x 256 unless given. Returns (ConvAE in eval mode, items (M, C), shape
    dict). Raises InputError when a file is missing, garbage, of another shape, or the two do not belong together.
    """
    for path, flag in ((model_path, "--model_dir"), (items_path, "--m_items_dir")):
        if not path.is_file():
            raise InputError(f"no file {path}: train first (python Train.py), or name another with {flag}")
    items = _load_items(items_path)
    try:
        file = load_file(model_path, "model")
    except InputError:
        released = read_model(model_path)  # says what is wrong if it is not that either
        shape = {
            "method": released.method,
            "c": released.channels,
            "t_length": released.t_length,
            "h": given["h"] or 256,
            "w": given["w"] or 256,
            "msize": len(items["items"]),
            "fdim": released.feature_dim,
        }
        file = {"shape": shape, "model": released.state_dict, "epoch": None}
    shape = file["shape"]
    for name in SHAPE:
        if given[name] not in (None, shape[name]):
            raise InputError(
                f"--{name} {given[name]} contradicts {model_path}, which has {shape[name]}: leave the flag out"
            )
    if tuple(items["items"].shape) != (shape["msize"], shape["fdim"]):
        raise InputError(
            f"{items_path} holds items of shape {tuple(items['items'].shape)}, {model_path} needs "
            f"({shape['msize']}, {shape['fdim']}): name its own with --m_items_dir"
        )
    for name, own in (("method", shape["method"]), ("epoch", file["epoch"])):
        if items[name] not in (None, own) and own is not None:
            raise InputError(
                f"{items_path} is of {name} {items[name]}, {model_path} of {name} {own}: name its own with"
                " --m_items_dir (a run that was killed while saving is mended by Train.py --resume)"
            )
    model = build_model(shape)
    try:
        model.load_state_dict(file["model"])
    except RuntimeError as error:
        raise InputError(f"the weights in {model_path} do not fit the network it describes: train again") from error
    return model.eval(), items["items"], shape


def _load_items(path):
    """The dict in m_items.pt; items of the released code, a bare tensor, tell neither method nor epoch."""
    try:
        return load_file(path, "items")
    except InputError:
        return {"items": read_items(path), "method": None, "epoch": None}
