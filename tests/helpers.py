"""Runs the scripts on a tiny data set, in this process or in one of their own, and looks at what they leave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import Evaluate
import Train
from utils import run_script

ROOT = Path(__file__).parents[1]
PED2 = ROOT.parent / "shared" / "dataset" / "ped2"
TINY = ["--dataset_type", "own", "--h", "16", "--w", "16", "--fdim", "16", "--msize", "4", "--num_workers", "0"]


def call(script, *arguments):
    """Run a script's main() in this process as its command line would. Returns the exit status."""
    sys.argv = [f"{script.__name__}.py", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        run_script(script.main)
    return end.value.code or 0


def train(*arguments, epochs=1):
    return call(Train, *TINY, "--no_figures", "--epochs", epochs, *arguments)


def evaluate(*arguments):
    return call(Evaluate, "--dataset_type", "own", "--num_workers_test", "0", "--no_figures", *arguments)


def start(script, *arguments):
    """The script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, ROOT / script, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run_of(method="pred", exp_dir="log"):
    return Path("exp") / "own" / method / exp_dir


def contents(run):
    """What a run ended with, without what no two runs share."""
    model = torch.load(run / "model.pth", weights_only=True)
    items = torch.load(run / "m_items.pt", weights_only=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["clips_per_second"]
    return model["model"], items["items"], lines


def assert_same(run, other):
    (model, items, lines), (other_model, other_items, other_lines) = contents(run), contents(other)
    assert lines == other_lines
    assert torch.equal(items, other_items)
    assert model.keys() == other_model.keys()
    assert all(torch.equal(model[name], other_model[name]) for name in model)


def one_line(capsys, *words):
    error = capsys.readouterr().err
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("error:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    for word in words:
        assert str(word) in lines[0]
