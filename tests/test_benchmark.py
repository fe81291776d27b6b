"""The benchmark: its two sides do the same work, and its tables and numbers come out whole."""

import json
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import forked
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, call, one_line

from data import synthetic
from data.clips import open_clips
from exp import benchmark, flags
from exp.benchmark import AT_EACH_SIZE, BATCH, CHANGING, CLIPS, PLAIN, READING, SCORING, TRAINING, Task, Way
from exp.reproduce import speed_tables
from exp.reproduce.plain import PlainClips, plain_update
from model import memory

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def task_of(title, folder="", size=16, fdim=16):
    settings = {"method": "pred", **flags.defaults("pred", "synthetic"), "h": size, "w": size, "fdim": fdim}
    return Task(title, settings, CPU, str(folder))


@pytest.fixture(scope="module", autouse=True)
def server():
    """Whoever is first starts it: with all that other tests need it to have imported."""
    forked.start_server()


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A folder with a small data set: 10 training clips and 20 test clips per video."""
    folder = tmp_path_factory.mktemp("frames")
    synthetic.ensure(folder, synthetic.Size(32, 2, 14, 2, 24))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What a whole run of plain and ours writes, of few steps at a tiny size; it takes most of this file's time."""
    path = tmp_path_factory.mktemp("benchmark") / "results" / "tiny.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "ways_of", lambda task: {"plain": PLAIN, "ours": Way()})  # each takes a process
        patch.setattr(benchmark, "STEPS", 2)
        patch.setattr(benchmark, "ROUNDS", 1)
        assert call(benchmark, "--sizes", "16", "--device", "cpu", "--output", path) == 0
    return json.loads(path.read_text())


def test_every_number_of_the_tables_is_there(report):
    assert [(table["title"], table["clips"]) for table in report["tables"]] == list(CLIPS.items())
    for table in report["tables"]:
        ways = table["ways"]
        assert ways.keys() == {"plain", "ours"}
        seconds = {name: way["seconds"]["median"] for name, way in ways.items()}
        assert min(seconds.values()) > 0
        assert ways["ours"]["times_plain"]["median"] == pytest.approx(seconds["plain"] / seconds["ours"])
        assert ways["plain"]["times_ours"]["median"] == pytest.approx(seconds["ours"] / seconds["plain"])
        assert ways["ours"]["clips_per_second"] == pytest.approx(table["clips"] / ways["ours"]["seconds"]["median"])
        assert all(sys.platform == "win32" or ways[name]["peak_memory"] > 1e8 for name in ("plain", "ours"))
        if table["title"] != READING:
            assert 0 < ways["ours"]["share_of_product"] < 1.5
    assert report["torch"] == torch.__version__
    assert len(speed_tables.benchmark("", report)) == 2 + len(CLIPS) + 2
    assert len(speed_tables.benchmark_ways("", report)) == 2 + 1


def test_all_ways_take_turns_and_a_ratio_is_of_one_round(monkeypatch):
    """Here a run takes as many seconds as there were runs before it, itself included."""
    runs, names = [], {way: name for name, way in benchmark.ways_of(task_of(SCORING)).items()}

    def alone(function, *arguments):
        if function is not benchmark.measure:
            return 1e9
        runs.append(names[arguments[1]])
        return float(len(runs)), len(runs)

    monkeypatch.setattr(benchmark, "alone", alone)
    table = benchmark.side_by_side(task_of(SCORING), benchmark.progress("", "", shown=False))
    per_round = [runs[i : i + len(names)] for i in range(0, len(runs), len(names))]
    assert len(per_round) == table["rounds"] == benchmark.ROUNDS
    assert per_round[0] == per_round[1][::-1] == per_round[2] == list(names.values())
    seconds = {name: [i + 1 for i, run in enumerate(runs) if run == name] for name in names.values()}
    for name, way in table["ways"].items():
        ours, other = ("plain", "times_plain") if name == "ours" else ("ours", "times_ours")
        ratios = sorted(a / b for a, b in zip(seconds[ours], seconds[name], strict=True))
        assert list(way[other].values()) == pytest.approx([ratios[1], ratios[0], ratios[2]])


def test_at_sizes_after_the_first_only_training_and_scoring_are_compared(monkeypatch):
    monkeypatch.setattr(benchmark, "alone", lambda function, task: 0.25)
    tasks = benchmark.tasks_of([16, 8], CPU, "")
    assert [task.title for task in tasks if task.settings["h"] == 16] == list(CLIPS)
    assert [task.title for task in tasks if task.settings["h"] == 8] == list(AT_EACH_SIZE)
    assert {task.th for task in tasks if task.title == CHANGING} == {0.25}
    assert {task.th for task in tasks if task.title != CHANGING} == {1.0}


def test_published_numbers_hold_nothing_that_no_table_shows():
    """The tables change with each number."""
    published = json.loads((ROOT / "exp" / "results" / "benchmark.json").read_text(encoding="utf-8"))
    shown = [speed_tables.benchmark, speed_tables.benchmark_ways]
    before = [make("", published) for make in shown]
    for table in published["tables"]:
        for way, row in table["ways"].items():
            for name, value in row.items():
                row[name] = {key: each + 1 for key, each in value.items()} if isinstance(value, dict) else 2 * value
                assert [make("", published) for make in shown] != before, (way, name)
                row[name] = value


def test_each_row_differs_from_ours_in_one_thing():
    for title in (TRAINING, SCORING):
        for name, way in benchmark.ways_of(task_of(title)).items():
            changed = [field for field in Way._fields if getattr(way, field) != getattr(Way(), field)]
            assert name == "plain" or len(changed) == (name != "ours")


def test_ours_scores_as_plain_does_whatever_the_way(frames):
    for title, th in ((SCORING, 1.0), (CHANGING, benchmark.median_regular_score(task_of(SCORING, frames)))):
        task = task_of(title, frames)._replace(th=th)
        plain = benchmark.scoring(task, PLAIN)(benchmark.batches_of(task, PLAIN))
        assert plain.shape == (40, 3)
        updated = (plain[:, 2] < th).mean()
        assert updated == 1 if title == SCORING else 0.2 < updated < 0.8
        for name, way in benchmark.ways_of(task_of(SCORING)).items():
            ours = benchmark.scoring(task, way)(benchmark.batches_of(task, way))
            if name != "bf16":
                torch.testing.assert_close(ours, plain, rtol=1e-4, atol=0, msg=name)
            elif title == SCORING:
                torch.testing.assert_close(ours, plain, rtol=0.1, atol=0)


def test_ours_trains_as_plain_does_whatever_the_way(frames):
    """Losses of three steps, on the batches that Train.py would have."""
    task = task_of(TRAINING, frames)
    batches = list(islice(benchmark.batches_of(task, Way()), 3))
    assert [len(batch) for batch in batches] == [BATCH] * 3
    expected = losses_of(task, PLAIN, batches)
    assert len(set(expected)) == 3
    for name, way in benchmark.ways_of(task).items():
        losses = losses_of(task, way, batches)
        assert losses[0] == pytest.approx(expected[0], rel=1e-2 if name == "bf16" else 1e-5), name
        # Adam turns rounding into whole steps
        assert losses == pytest.approx(expected, rel=0.15 if name == "bf16" else 0.03), name


def losses_of(task, way, batches):
    """The loss of each step; `training` gives the mean of those so far."""
    means = [benchmark.training(task, way)(batches[: i + 1]) for i in range(len(batches))]
    sums = [0.0, *(mean * (i + 1) for i, mean in enumerate(means))]
    return [after - before for before, after in pairwise(sums)]


def test_a_run_has_the_steps_that_it_says():
    size = benchmark.frames_of_a_run()
    assert size.train_videos * (size.train_frames - 4) == benchmark.STEPS * BATCH
    assert size.test_videos * (size.test_frames - 4) == benchmark.STEPS * benchmark.CHUNK
    assert benchmark.STEPS >= 10


def test_both_ways_compute_in_the_precision_of_the_row():
    """A switch that is left over from somewhere else must not make one side faster."""
    for way in (PLAIN, Way(), Way(precision="bf16")):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        model, _ = benchmark.untrained(task_of(TRAINING), way)
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert model.autocast == (torch.bfloat16 if way.precision == "bf16" else None)


def test_floating_point_operations_are_those_of_the_convolutions():
    scoring = benchmark.flops_per_clip(task_of(SCORING))
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
    assert benchmark.flops_per_clip(task_of(TRAINING)) == pytest.approx(3 * scoring, rel=0.05)


def test_plain_update_is_the_update():
    torch.manual_seed(0)
    queries, items = F.normalize(torch.rand(50, 16), dim=-1), F.normalize(torch.rand(9, 16), dim=-1)
    items[3] *= -1  # far from all: nobody chooses it
    assert not (memory.nearest(queries, items) == 3).any()
    torch.testing.assert_close(plain_update(queries, items), memory.update(queries, items))


def test_plain_clips_are_the_clips(tmp_path, make_videos):
    videos = make_videos(tmp_path / "own" / "training" / "frames", {"1": 7, "2": 6})
    plain = PlainClips(videos, 5, (16, 24))
    ours = open_clips(videos, "training", 5, (16, 24, 3))
    assert len(plain) == len(ours)
    for index in range(len(ours)):
        assert torch.equal(plain[index], ours[index])


@pytest.mark.parametrize(
    ("flags", "words"), [(["--sizes", "20"], ["--sizes", "multiple of 8"]), (["--device", "tpu"], ["tpu"])]
)
def test_mistakes(flags, words, tmp_path, capsys):
    assert call(benchmark, *flags, "--output", tmp_path / "no.json") == 2
    one_line(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_killed_benchmark_leaves_no_process_behind():
    process = subprocess.Popen([sys.executable, "-c", WAITING], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert worker != process.pid and Path(f"/proc/{worker}").exists()
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # returns when the worker, which holds the other end of the pipe, has ended


WAITING = """
from exp.reproduce.machine import alone

CODE = "import os, threading; print(os.getpid(), flush=True); threading.Event().wait()"
if __name__ == "__main__":
    alone(exec, CODE)
"""
