"""The benchmark: its two sides do the same work, and its tables and numbers come out whole."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import call, one_line

from data.clips import normalise, open_clips
from exp import benchmark
from exp.device import pick_device
from model import memory


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
    assert {row["name"] for row in report["growth"]["rows"]} == {"t_length", "batch", "msize"}


def test_ours_scores_as_plain_does(report):
    for table in report["tables"][2:]:
        assert table["ways"]["ours"]["largest_difference"] < 1e-5


def test_losses_differ_by_rounding_and_not_as_another_seed_does(report):
    losses = {name: np.array(values) for name, values in report["losses"]["of"].items()}
    apart = {name: np.abs(values / losses["plain"] - 1).mean() for name, values in losses.items()}
    seed = apart["plain, another seed"]
    assert set(benchmark.ways_of("train", torch.device("cpu"), False)) < set(losses)
    for name in losses.keys() - {"plain, another seed"}:
        assert apart[name] < seed / (2 if name == "bf16" else 5), name


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
        torch.testing.assert_close(plain[index], normalise(ours[index]), rtol=0, atol=1e-6)


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
