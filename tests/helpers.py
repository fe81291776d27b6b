"""Runs the scripts on a tiny data set, in this process or in one of their own, and looks at what they leave."""

import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small import is_small

import Evaluate
import Train
from data.cache import NO_CACHE
from data.clips import open_clips, testing_loader
from exp.checkpoints import FORMAT, SHAPE, build_model, load_model
from exp.scoring import calibration
from exp.scoring.score import Scoring
from model import memory
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


_kept = tempfile.TemporaryDirectory(prefix="runs-")  # of `trained`, removed when the tests end


def trained(*arguments, method="pred", exp_dir="log", epochs=1):
    """A run as `train` makes it, for tests that begin where a training ended. Returns its directory.

    A training with the same arguments, frames and network width is done once and then copied.
    """
    run = run_of(method, exp_dir)
    frames = b"".join(path.read_bytes() for path in sorted(Path("dataset/own/training/frames").rglob("*.jpg")))
    known = repr((arguments, method, exp_dir, epochs, is_small())).encode()
    kept = Path(_kept.name) / f"{zlib.crc32(known + frames)}"
    if not kept.is_dir():
        assert train("--method", method, "--exp_dir", exp_dir, *arguments, epochs=epochs) == 0
        shutil.copytree(run, kept)
    else:
        shutil.copytree(kept, run)
    return run


def evaluate(*arguments):
    return call(Evaluate, "--dataset_type", "own", "--num_workers_test", "0", "--no_figures", *arguments)


def start(script, *arguments):
    """The script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, ROOT / script, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def write_video(path, seed, abnormal=()):
    """30 frames of 32x32: a textured wall, a square that passes slowly, another that flickers in abnormal frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wall = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), (0, 0), 2)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for i in range(30):
        frame = wall.copy()
        frame[10:18, i // 2 : i // 2 + 8] = 90
        if i in abnormal:
            x, y = rng.integers(0, 20, 2)
            frame[y : y + 12, x : x + 12] = 255 * (i % 2)
        writer.write(frame)
    writer.release()


def run_of(method="pred", exp_dir="log"):
    return Path("exp") / "own" / method / exp_dir


def contents(run):
    """The final weights, items and metrics of a run, without timings."""
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


def row_of(lines, text):
    """The cells of the row of a Markdown table that begins with this text."""
    (row,) = [line for line in lines if line.startswith(f"| {text} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def make_run(folder, method="pred", size=(24, 16), items=None, channels=3, **flags):
    """A run of a network whose batch norms have seen something, with the files that later commands read."""
    shape = {"method": method, "c": channels, "t_length": 5 if method == "pred" else 1}
    shape |= {"h": size[0], "w": size[1], "msize": 4 if items is None else len(items), "fdim": 16}
    torch.manual_seed(0)
    model = build_model(shape).train()
    items = memory.initial_items(4, 16) if items is None else items
    with torch.no_grad():
        model(torch.rand(4, model.inputs, *size), items)
    folder.mkdir()
    of = {"format": FORMAT, "epoch": 1}
    torch.save({**of, "shape": shape, "model": model.state_dict()}, folder / "model.pth")
    torch.save({**of, "method": method, "items": items}, folder / "m_items.pt")
    (folder / "flags.json").write_text(json.dumps({**shape, **flags}), encoding="utf-8")
    return folder


def calibrate_run(folder, videos):
    """Give a run of make_run the calibration that these videos make."""
    model, items, shape = load_model(folder / "model.pth", folder / "m_items.pt", dict.fromkeys(SHAPE))
    clips = open_clips(videos, "training", shape["t_length"], (shape["h"], shape["w"], shape["c"]), NO_CACHE)
    found = calibration.calibrate(model, items, testing_loader(clips), Scoring(0.01, 0.6), held_out=True)
    calibration.save(folder / "model.pth", found, items, [video.name for video in videos])
    return folder
