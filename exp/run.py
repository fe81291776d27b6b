"""A run: one directory with all that training writes.

    exp/<dataset_type>/<method>/<exp_dir>/
        flags.json      the flags of the run; a directory with this file is a run
        starts.jsonl    one line for each time it was started or resumed: epoch, commit, PyTorch, device
        train.log       its messages
        metrics.jsonl   one JSON line per epoch
        model.pth       the network after the last finished epoch, and the settings that Evaluate.py needs
        m_items.pt      its memory items
        checkpoint.pt   network, items, optimiser and scheduler, from which training is resumed
        calibration.pt  the scores of normal clips, from which thresholds are taken (exp/scoring/calibration.py)
        figures/        training.png and the figures of Evaluate.py, whose other results (RESULTS) are here too
        train.lock      locked by the process that is training here (exp/lock.py)

Every file is written under a temporary name and then renamed, the checkpoint first. So a kill at any moment leaves
complete files, and resuming brings the others in line with the checkpoint. exp/checkpoints.py defines the contents of
the .pt and .pth files, and exp/record.py reads the others.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from exp.checkpoints import FORMAT, SHAPE, check_resumable, load_file
from exp.device import describe
from exp.lock import Lock
from exp.record import contradiction, parse_line, read_flags
from utils import InputError, reading, remove_parts, write_text, write_whole, writing

RUN_FILES = (  # the files of a run, besides flags.json
    "checkpoint.pt",
    "model.pth",
    "m_items.pt",
    "calibration.pt",
    "metrics.jsonl",
    "starts.jsonl",
    "train.log",
)
RESULTS = (  # patterns of the files of an evaluation; those of an earlier one are removed, so that results never mix
    "scores.csv",
    "alarms.csv",
    "evaluation.json",
    "report.html",
    *(f"figures/{name}.*" for name in ("roc", "histogram", "scores/*", "frames/*")),
    "videos/*.mp4",
)
WRITTEN = (  # what --overwrite removes: all that the commands write to a run, except recordings in watched/
    *RUN_FILES,
    *RESULTS,
    "memory.json",
    "model.pt2",
    "figures/training.*",
    "figures/memory/*.*",
    "tensorboard/events.out.tfevents.*",
)
CODE = ("scoring", "report", "reproduce", "results", "weights", "pictures")  # folders of exp that are no data sets


def run_directory(dataset_type: str, method: str, exp_dir: str) -> Path:
    """exp/<dataset_type>/<method>/<exp_dir>. Raises InputError for names that lead elsewhere."""
    for flag, name in (("dataset_type", dataset_type), ("exp_dir", exp_dir)):
        path = Path(name)
        if path.is_absolute() or path.drive or not path.parts or ".." in path.parts or "\0" in name:
            raise InputError(f"--{flag} {name!r}: give a name, which becomes a folder below exp, not a path elsewhere")
    if Path(dataset_type).parts[0].casefold() in CODE:
        raise InputError(f"--dataset_type {dataset_type}: exp/{dataset_type} is a folder of this project, take another")
    return Path("exp") / dataset_type / method / exp_dir


def environment(device: torch.device) -> dict[str, str | None]:
    """What a result depends on besides its flags: the commit ("+": files differ from it), PyTorch, the device."""
    git = ["git", "-C", str(Path(__file__).parent)]
    results = ":(top,exclude)*.md", ":(top,exclude)exp/results"  # written after each run; they change no result
    commit = None
    try:
        asked = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", *results]).returncode
        commit = asked.stdout.strip() + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        pass
    return {"commit": commit, "torch": torch.__version__, "device": describe(device)}


def call(script: str, *arguments: object) -> None:
    """Run Train.py or Evaluate.py in a separate process. Raises InputError if it fails; it prints the reason itself."""
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments)]
    if subprocess.run(command).returncode:
        raise InputError(f"{script} failed, its message is above; the command was: {shlex.join(command[1:])}")


# A run in progress ----------------------------------------------------------------------------------------------------


class Run:
    """The directory of a run. Creating a Run locks an existing one and reads it; `begin` removes the files to discard,
    and writes.

    `writes` is False in the processes that write nothing, and take no lock: those of rank 1 and above.
    """

    def __init__(
        self,
        directory: Path,
        flags: Mapping[str, Any],
        resume: bool = False,
        overwrite: bool = False,
        writes: bool = True,
    ) -> None:
        """Raises InputError if the flags contradict the run in the directory, or another process is training there."""
        self.directory, self.flags, self.writes = Path(directory), dict(flags), writes
        self.resume, self.overwrite, self.began = resume, overwrite, False
        self.state: dict[str, Any] | None = None  # the content of the checkpoint
        self.lock = Lock(self.directory) if writes and self._holds_a_run() else None
        self._check()

    def _holds_a_run(self) -> bool:
        return (self.directory / "flags.json").is_file() or self._holds_an_epoch()

    def _holds_an_epoch(self) -> bool:
        """Whether there is something to lose; a run that was killed in epoch 1 has nothing."""
        return any((self.directory / name).is_file() for name in ("checkpoint.pt", "model.pth", "metrics.jsonl"))

    def _check(self) -> None:
        if self.resume:
            self._load()
        elif not self.overwrite and self._holds_an_epoch():
            raise InputError(f"{self.directory} holds a run: --resume continues it, --overwrite discards it")

    def _load(self) -> None:
        if not (self.directory / "flags.json").is_file():
            raise InputError(f"--resume: no run in {self.directory}; without --resume a new one starts")
        before = read_flags(self.directory)
        if name := contradiction(before, self.flags):
            what = f"--{name} {before[name]}, not {self.flags[name]}"
            raise InputError(f"--resume: the run in {self.directory} has {what}")
        checkpoint = self.directory / "checkpoint.pt"
        if checkpoint.is_file():
            self.state = load_file(checkpoint, "checkpoint")
            check_resumable(checkpoint, self.state, self.flags)
        elif self._holds_an_epoch():  # without it, the run was killed in epoch 1 and starts again
            raise InputError(
                f"--resume: {checkpoint} is missing, and {self.directory} holds a trained model that would be"
                " lost: bring the checkpoint back, or choose another --exp_dir"
            )

    def expect_data(self, digest: str, may_differ: bool = False) -> None:
        """Record the digest of the training data (data.cache.content_digest).

        Raises InputError if the run that is resumed was trained on other data, unless the data may differ.
        """
        before = read_flags(self.directory).get("data") if self.resume else None
        if before not in (None, digest) and not may_differ:
            raise InputError(
                f"--resume: the training frames are not those that {self.directory} was begun with (other names,"
                " sizes or pictures): bring those back, or give --data_changed to go on with these"
            )
        self.flags["data"] = digest

    def begin(self, device: torch.device) -> None:
        """Remove the run that is to be discarded, and write the flags of this one. Raises InputError.

        This is the last step before training, when everything else has worked.
        """
        if not self.writes:
            return
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        if self.lock is None:
            self.lock = Lock(self.directory)
            self._check()  # another process may have been here since
        with writing(self.directory):
            remove_parts(self.directory)
            for path in self.to_discard():
                path.unlink()
        self._write_text("flags.json", json.dumps(self.flags, indent=2) + "\n")
        self.began = True
        if self.state:
            self._write_results()
        starts = self.directory / "starts.jsonl"
        with reading(starts):
            text = starts.read_text(encoding="utf-8", errors="replace") if starts.is_file() else ""
        whole = [line for line in text.splitlines() if parse_line(line) is not None]  # a kill may have torn the last
        now = json.dumps({"epoch": len(self.history) + 1, **environment(device)})
        self._write_text("starts.jsonl", "".join(f"{line}\n" for line in (*whole, now)))

    def to_discard(self) -> list[Path]:
        """The files of an earlier run that `begin` removes; none if that run is continued."""
        if self.resume or not self._holds_a_run():
            return []
        found = [path for pattern in WRITTEN for path in sorted(self.directory.glob(pattern))]
        return [path for path in found if path.is_file() or path.is_symlink()]

    def where_it_resumes(self) -> str:
        """Where a resumed run continues, in words."""
        done, epochs = len(self.history), self.flags["epochs"]
        if not done:
            return f"{self.directory} was stopped in its first epoch and starts again"
        if done < epochs:
            return f"{self.directory} continues after epoch {done} of {epochs}"
        return f"{self.directory} has all of its {epochs} epochs"

    def what_is_kept(self) -> str:
        """What is left of a run whose training fails, in words."""
        done = len(self.history)
        return f"{self.directory} keeps the state after epoch {done}" if done else "no epoch was finished"

    def _write_text(self, name: str, text: str) -> None:
        write_text(self.directory / name, text)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The metrics of the epochs so far."""
        return self.state["history"] if self.state else []

    def log(self, text: str) -> None:
        """Print a message, above any progress bar, and append it to train.log once the run has begun."""
        if self.writes:
            tqdm.write(text)
        if self.began:
            path = self.directory / "train.log"
            with writing(path), open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")

    def save(
        self,
        model: nn.Module,
        items: Tensor,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        metrics: dict[str, Any],
    ) -> None:
        """Write the state after an epoch; metrics: numbers and lists by name.

        Raises InputError when it cannot be written, or when weights are NaN or infinite, which the losses of the epoch
        do not show if the last step did it. What was saved before is then unchanged.
        """
        state = {
            "format": FORMAT,
            "model": _on_cpu(model.state_dict()),  # so that they can be loaded without a GPU
            "items": items.cpu(),
            "optimizer": _on_cpu(optimizer.state_dict()),
            "scheduler": scheduler.state_dict(),
            "history": [*self.history, metrics],
        }
        if not all(bool(values.isfinite().all()) for values in _tensors(state)):
            what = f"epoch {metrics['epoch']}: its last step made weights that are not finite"
            raise InputError(f"{what}; {self.what_is_kept()}")
        self.state = state
        if self.writes:
            try:
                write_whole(self.directory / "checkpoint.pt", lambda path: torch.save(self.state, path))
                self._write_results()
                (self.directory / "calibration.pt").unlink(missing_ok=True)  # it belongs to an earlier epoch
            except InputError as error:
                raise InputError(f"{error}; fix that; the same command with --resume then continues") from error

    def _write_results(self) -> None:
        """Bring model.pth, m_items.pt and metrics.jsonl in line with the checkpoint."""
        assert self.state
        epoch = len(self.history)
        shape = {name: self.flags[name] for name in SHAPE}
        model = {"format": FORMAT, "shape": shape, "epoch": epoch, "model": self.state["model"]}
        items = {"format": FORMAT, "method": shape["method"], "epoch": epoch, "items": self.state["items"]}
        write_whole(self.directory / "model.pth", lambda path: torch.save(model, path))
        write_whole(self.directory / "m_items.pt", lambda path: torch.save(items, path))
        self._write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))

    def close(self) -> None:
        """Let another process train here."""
        if self.lock:
            self.lock.release()
            self.lock = None


def _on_cpu(state: Any) -> Any:
    """The same nested dicts and lists, with their tensors on the CPU."""
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, Tensor) else state


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)
