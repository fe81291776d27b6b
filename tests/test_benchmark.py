"""The benchmark: its two sides do the same work, and its tables and numbers come out whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, call, one_line

from data import synthetic
from data.clips import open_clips
from exp import benchmark
from exp.device import pick_device
from model import memory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What --quick writes; the run itself takes most of this file's time."""
    path = tmp_path_factory.mktemp("benchmark") / "results" / "quick.json"
    assert call(benchmark, "--quick", "--device", "cpu", "--output", path) == 0
    return json.loads(path.read_text())


def test_every_row_is_there_with_ratio_and_spread(report):
    assert [table["title"] for table in report["tables"]] == [
        "a clip from disk",
        "training",
        "scoring",
        "scoring where half of the frames update memory",
    ]
    for table in report["tables"]:
        assert table["rounds"] >= 3
        assert list(table["ways"])[:2] == ["plain", "ours"]
        for row in table["ways"].values():
            for spread in (row["seconds"], row["times_plain"], row["times_ours"]):
                assert 0 < spread["min"] <= spread["median"] <= spread["max"]
            assert row["clips_per_second"] == pytest.approx(table["clips"] / row["seconds"]["median"])
        assert table["ways"]["plain"]["times_plain"] == {"median": 1, "min": 1, "max": 1}
    for table in report["tables"][1:]:
        for row in table["ways"].values():
            assert 0 < row["share_of_peak"] < 1.5  # the peak is measured too, on a machine that may do other things
            assert sys.platform == "win32" or row["peak_memory"] > 1e8
    assert report["torch"] == torch.__version__


def test_ours_scores_as_plain_does(report):
    for table in report["tables"][2:]:
        assert table["ways"]["ours"]["largest_difference"] < 1e-5


def test_ours_trains_as_plain_does(tmp_path):
    synthetic.ensure(tmp_path, benchmark.FRAMES._replace(train_frames=10))
    task = benchmark.Task(16, 4, {**benchmark.SHAPE, "fdim": 16}, "cpu", str(tmp_path))
    steps = [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    plain = benchmark.Plain(task)
    expected = [plain.train(indices) for indices in steps]
    assert len(set(expected)) == 3
    for name, way in benchmark.ways_of("train", torch.device("cpu"), False).items():
        if way:
            ours = benchmark.Ours(task, way)
            losses = [ours.train(indices) for indices in steps]
            assert losses[0] == pytest.approx(expected[0], rel=1e-2 if name == "bf16" else 1e-5), name
            # Adam turns rounding into whole steps
            assert losses == pytest.approx(expected, rel=0.15 if name == "bf16" else 0.03), name


def test_floating_point_operations_are_those_of_the_convolutions(report):
    scoring = report["tables"][2]["flops_per_clip"]
    convolutions = 0  # (inputs, outputs, side of the map) of a 16 x 16 frame with 16 features
    for inputs, outputs, side in (
        *((12, 64, 16), (64, 64, 16), (64, 128, 8), (128, 128, 8), (128, 256, 4), (256, 256, 4)),
        *((256, 16, 2), (16, 16, 2), (32, 512, 2), (512, 512, 2), (512, 256, 4), (256, 256, 4)),
        *((256, 128, 8), (128, 128, 8), (128, 64, 16), (64, 64, 16), (64, 3, 16)),
    ):
        convolutions += 2 * 9 * inputs * outputs * side**2
    for inputs, outputs, side in ((512, 256, 2), (256, 128, 4), (128, 64, 8)):  # transposed: by pixels that go in
        convolutions += 2 * 9 * inputs * outputs * side**2
    assert scoring == pytest.approx(convolutions, rel=0.001)  # and a little for the memory
    assert report["tables"][1]["flops_per_clip"] == pytest.approx(3 * scoring, rel=0.05)


def test_plain_update_is_the_update():
    torch.manual_seed(0)
    queries, items = F.normalize(torch.rand(50, 16), dim=-1), F.normalize(torch.rand(9, 16), dim=-1)
    items[3] *= -1  # far from all: nobody chooses it
    assert not (memory.nearest(queries, items) == 3).any()
    torch.testing.assert_close(benchmark.plain_update(queries, items), memory.update(queries, items))


def test_plain_clips_are_the_clips(tmp_path, make_videos):
    videos = make_videos(tmp_path / "own" / "training" / "frames", {"1": 7, "2": 6})
    plain = benchmark.PlainClips(videos, 5, 16)
    ours = open_clips(videos, "training", 5, (16, 16, 3))
    assert len(plain) == len(ours)
    for index in range(len(ours)):
        assert torch.equal(plain[index], ours[index])


def test_freed_memory_stays_with_the_process_on_cpu_only(monkeypatch):
    calls = []
    monkeypatch.setattr("exp.device.keep_freed_memory", lambda: calls.append(1))
    pick_device("cpu")
    assert calls == [1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sizes", "20"], ["--sizes", "multiple of 8"]),
        (["--seconds", "-1"], ["--seconds"]),
        (["--device", "tpu"], ["tpu"]),
    ],
)
def test_mistakes(flags, words, tmp_path, capsys):
    assert call(benchmark, *flags, "--output", tmp_path / "no.json") == 2
    one_line(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_killed_benchmark_leaves_no_workers_behind():
    process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert Path(f"/proc/{worker}").exists()
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # returns when the worker, which holds the other end of the pipe, has ended


WORKER = """
import os, time
from exp import benchmark
if __name__ == "__main__":
    pool = benchmark._worker()
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""
