"""Plans of runs: trained once, gone on with, evaluated once; and the tables that are made of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.metrics
import torch
from helpers import TINY, call, evaluate, one_line, row_of

import Train
from exp import run as run_room
from exp.flags import Span
from exp.record import FREE
from exp.reproduce import __main__ as reproduce
from exp.reproduce import cells, measures, tables
from exp.reproduce import runs as planned
from exp.reproduce.plans import DISTANCE_ALONE, EVALUATIONS, PLANS, PSNR_ALONE, UPDATE_OFF, Plan, Training
from exp.scoring import evaluation
from exp.scoring.lesions import LESIONS
from utils import InputError, run_script

pytestmark = [pytest.mark.usefixtures("small_network"), pytest.mark.slow]
OPTION = "--loss_compact 0 --loss_separate 0"
WAYS = {  # each with the flags of Evaluate.py that are the same
    "as published": ({}, []),
    PSNR_ALONE: ({"alpha": 1.0}, ["--alpha", 1]),
    DISTANCE_ALONE: ({"alpha": 0.0}, ["--alpha", 0]),
    UPDATE_OFF: ({"memory_update": False}, ["--memory_update", "off"]),
    "auto": ({"quantile": 0.95}, ["--th", "auto"]),
    "smooth": ({"sigma": Span(2)}, ["--smooth", 2]),
    "causal": ({"sigma": Span(2), "causal": True}, ["--smooth", 2, "--smooth_kind", "causal"]),
}
TRAININGS = (
    Training("pred", (0, 1), ways=tuple(WAYS)),
    Training("recon", (0,), ways=tuple(WAYS)),
    Training("pred", (0,), "no_losses", OPTION, ways=tuple(WAYS)),
)
PUBLISHED_ALONE = ("as published",)
PAGE = "# Numbers\n\n<!-- table: mini -->\nold\n<!-- end -->\n\nText.\n\n<!-- table: mini/runs -->\n<!-- end -->\n"


@pytest.fixture
def plan(dataset, tmp_path, monkeypatch):
    """The plan "mini", whose results and page are kept here, and what was called: [(script, arguments), ...]."""
    called = []
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "PAGES", (tmp_path / "page.md",))
    monkeypatch.setitem(PLANS, "mini", Plan("own", " ".join([*TINY[2:], "--epochs", "2", "--no_figures"]), TRAININGS))
    usual = dict(EVALUATIONS)
    EVALUATIONS.clear()
    EVALUATIONS.update({name: way for name, (way, _) in WAYS.items()})

    def in_process(script, *arguments):
        assert script == "Train.py"
        called.append(arguments)
        if call(Train, *arguments):
            raise InputError("Train.py failed")

    monkeypatch.setattr(planned, "call", in_process)
    yield called
    EVALUATIONS.clear()
    EVALUATIONS.update(usual)  # in their order, which is that of the tables


@pytest.fixture
def scorings(monkeypatch):
    """Counts the times that all test clips were scored."""
    count, real = [], evaluation.score_clips

    def counted(*arguments):
        count.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(evaluation, "score_clips", counted)
    return count


def start(*arguments):
    sys.argv = ["reproduce.py", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        run_script(reproduce.main)
    return end.value.code or 0


def results(kind="runs"):
    return json.loads(Path("results/mini.json").read_text())[kind]


# Runs ----------------------------------------------------------------------------------------------------------------


def test_partial_runs_of_a_plan_add_up(plan, scorings, capsys):
    assert start("mini", "--only", "recon") == 0
    assert list(results()) == ["recon-seed0"]
    assert start("mini", "--only", "pred-seed", "--cache_dir", "cache") == 0
    assert list(results()) == ["pred-seed0", "pred-seed1", "recon-seed0"]  # in the plan's order
    before = results()
    plan.clear(), scorings.clear(), capsys.readouterr()
    assert start("mini") == 0
    assert [arguments[arguments.index("--exp_dir") + 1] for arguments in plan] == ["mini-no_losses-seed0"]
    assert len(scorings) == 3  # as published, memory off, γ auto; λ and smoothing use the first
    assert list(results()) == ["pred-seed0", "pred-seed1", "recon-seed0", "pred-no_losses-seed0"]
    assert {name: entry for name, entry in results().items() if name in before} == before

    table = tables.make("mini")
    aucs = [100 * before[f"pred-seed{seed}"]["evaluations"]["as published"]["auc"] for seed in (0, 1)]
    row = f"| `pred` | **{np.mean(aucs):.1f} ± {np.std(aucs, ddof=1):.1f}** | "
    assert any(line.startswith(row) for line in table)
    assert "\n".join(table) in capsys.readouterr().out
    page = Path("page.md").read_text()
    assert "\n".join(table) in page and "\nText.\n" in page and "old" not in page
    assert page == tables.filled(page)
    assert not plan.clear() and start("mini") == 0 and not plan
    assert Path("page.md").read_text() == page


def test_an_entry_says_all_about_its_run(plan):
    assert start("mini", "--only", "pred-no_losses") == 0
    (entry,) = results().values()
    assert not set(entry["flags"]) & set(FREE) and str(Path.cwd()) not in json.dumps(entry)
    assert (entry["flags"]["loss_compact"], entry["flags"]["seed"], entry["flags"]["exp_dir"]) == (
        0,
        0,
        "mini-no_losses-seed0",
    )
    run = Path("exp/own/pred/mini-no_losses-seed0")
    assert entry["epochs"] == [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in entry["epochs"]] == [1, 2]
    assert entry["starts"][0].keys() == {"epoch", "commit", "torch", "device"}
    assert entry["evaluated"]["torch"] == torch.__version__
    assert set(entry["evaluations"]) == set(WAYS)


def test_evaluations_are_those_of_evaluate(plan):
    assert start("mini", "--only", "pred-seed0") == 0
    ours = results()["pred-seed0"]["evaluations"]
    for name, (_, flags) in WAYS.items():
        assert evaluate("--exp_dir", "mini-seed0", "--no_figures", "--output_dir", "out", *flags) == 0
        theirs = json.loads(Path("out/evaluation.json").read_text())
        for metric in ("auc", "eer", "average_precision", "macro_auc"):
            assert ours[name][metric] == pytest.approx(theirs[metric], abs=1e-12), name
        assert ours[name]["videos"] == pytest.approx(theirs["auc_of_videos"])
        assert ours[name]["th"] == pytest.approx(theirs["settings"]["th"])
    assert len({ours[name]["auc"] for name in WAYS}) > 3


def test_a_training_is_evaluated_in_the_ways_that_it_names_alone(plan, monkeypatch):
    trainings = (TRAININGS[1], TRAININGS[2]._replace(ways=("as published",)))
    monkeypatch.setitem(PLANS, "mini", PLANS["mini"]._replace(trainings=trainings))
    assert start("mini") == 0
    assert list(results()["pred-no_losses-seed0"]["evaluations"]) == ["as published"]
    assert tables.make("mini/evaluations")[0] == "| AUC, % | recon, n = 1 |"
    assert tables.make("mini/videos")[0].endswith("| recon | pred-no_losses |")


def test_gamma_is_varied_for_the_seeds_that_are_named_alone(plan, monkeypatch):
    monkeypatch.setitem(PLANS, "mini", PLANS["mini"]._replace(trainings=(TRAININGS[0]._replace(gamma_for=(1,)),)))
    assert start("mini") == 0
    assert list(results()["pred-seed1"]["evaluations"]) == list(WAYS)
    assert list(results()["pred-seed0"]["evaluations"]) == [name for name in WAYS if name != "auto"]
    assert ", n = 1)" in row_of(tables.make("mini/evaluations"), "auto")[1]


def test_a_run_goes_on_where_it_was_stopped(plan, monkeypatch, capsys):
    real, epochs = Train.train_epoch, []

    def until_epoch_2(*arguments):
        epochs.append(arguments)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Train, "train_epoch", until_epoch_2)
        assert start("mini", "--only", "pred-seed0") == 2
    assert not Path("results").exists()
    assert start("mini", "--only", "pred-seed0") == 0
    assert ["--resume" in arguments for arguments in plan] == [False, True]
    starts = results()["pred-seed0"]["starts"]
    assert [line["epoch"] for line in starts] == [1, 2]


def test_a_run_from_elsewhere_without_checkpoint_or_calibration_counts(plan):
    flags = ["--seed", 0, "--exp_dir", "mini-seed0", "--no_figures", "--cache_dir", "elsewhere"]
    assert call(Train, *TINY, "--epochs", 2, *flags) == 0
    run = Path("exp/own/pred/mini-seed0")
    for name in ("checkpoint.pt", "calibration.pt"):
        (run / name).unlink()
    settings = json.loads((run / "flags.json").read_text())
    for name in ("deterministic", "calibration_share"):  # flags that came later
        del settings[name]
    (run / "flags.json").write_text(json.dumps(settings))
    assert start("mini", "--only", "pred-seed0") == 0
    assert not plan
    assert (run / "calibration.pt").is_file()
    assert results()["pred-seed0"]["evaluations"]["auto"]["th"] > 0


def test_new_weights_and_new_ways_are_evaluated(plan, scorings, monkeypatch):
    assert start("mini", "--only", "pred-seed0") == 0
    before = results()["pred-seed0"]
    with monkeypatch.context() as patch:
        more = TRAININGS[0]._replace(ways=(*WAYS, "half"))
        patch.setitem(PLANS, "mini", PLANS["mini"]._replace(trainings=(more,)))
        patch.setitem(EVALUATIONS, "half", {"memory_update": False, "alpha": 0.5})
        scorings.clear()
        assert start("mini", "--only", "pred-seed0") == 0
        assert len(scorings) == 1
        after = results()["pred-seed0"]["evaluations"]
        assert {**before["evaluations"], "half": after["half"]} == after
        patch.setitem(EVALUATIONS, PSNR_ALONE, {"alpha": 0.9})  # another way of the same name
        assert start("mini", "--only", "pred-seed0") == 0
        assert results()["pred-seed0"]["evaluations"][PSNR_ALONE]["alpha"] == 0.9
    shutil.rmtree("exp")  # trained again, say on another machine: other weights
    with monkeypatch.context() as patch:
        patch.setattr(torch, "manual_seed", lambda seed, real=torch.manual_seed: real(seed + 1))
        assert start("mini", "--only", "pred-seed0") == 0
    assert results()["pred-seed0"]["weights"] != before["weights"]
    assert results()["pred-seed0"]["evaluations"]["as published"] != before["evaluations"]["as published"]


def test_another_run_in_the_place_of_one_is_not_touched(plan, capsys):
    assert call(Train, *TINY, "--epochs", 2, "--exp_dir", "mini-seed0", "--lr", 0.1) == 0
    assert start("mini") == 2
    one_line(capsys, "exp/own/pred/mini-seed0", "--lr 0.1", "0.0002", "move it away")
    assert not plan


def test_a_training_that_fails_keeps_what_was_there(plan, dataset, capsys):
    assert start("mini", "--only", "pred-seed0") == 0
    before = Path("results/mini.json").read_bytes()
    frame = dataset / "training" / "frames" / "2" / "004.jpg"
    frame.write_bytes(frame.read_bytes()[:-100])
    assert start("mini") == 2
    assert "Train.py failed" in capsys.readouterr().err
    assert Path("results/mini.json").read_bytes() == before


def test_without_labels_there_is_nothing_to_tabulate(plan, dataset, capsys):
    (dataset / "frame_labels.csv").unlink()
    assert start("mini", "--only", "recon") == 2
    one_line(capsys, "no labels for own")


def test_a_dry_run_only_says_what_is_there(plan, capsys):
    assert start("mini", "--only", "recon") == 0
    page = Path("page.md").read_text()
    plan.clear(), capsys.readouterr()
    assert start("mini", "--dry_run") == 0
    out = capsys.readouterr().out
    assert "recon-seed0: 2 of 2 epochs" in out and f"{len(WAYS)} evaluations" in out
    assert "pred-no_losses-seed0: 0 of 2 epochs" in out
    assert "python Train.py --dataset_type own --method pred" in out
    assert not plan and list(results()) == ["recon-seed0"] and Path("page.md").read_text() == page


def test_mistakes(plan, capsys):
    for arguments, words in (
        (["mini", "--only", "pred-seed7"], ["--only pred-seed7", "pred-seed1", "recon-seed0"]),
        (["other"], ["other", "ped2_cpu"]),
        ([], ["plan", "--tables"]),
        (["mini", "--tables"], ["plan", "--tables"]),
        (["mini", "--device", "tpu"], ["--device tpu"]),
    ):
        assert start(*arguments) == 2
        one_line(capsys, *words)
    assert not plan


def test_plans_are_of_runs_that_train_would_take():
    for name in PLANS:
        found = planned.planned_runs(name)
        assert len({run.name for run in found}) == len({run.directory for run in found}) == len(found)
    ped2 = {run.name: run for run in planned.planned_runs("ped2_cpu")}
    pred, recon = ped2["pred-seed0"], ped2["recon-seed0"]
    assert str(pred.directory) == "exp/ped2/pred/ped2_cpu-seed0"
    assert str(recon.directory) == "exp/ped2/recon/ped2_cpu-seed0"
    assert (pred.flags["h"], pred.flags["epochs"], recon.flags["lr"]) == (64, 5, 2e-5)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_a_commit_is_marked_when_programs_changed_since_not_when_results_did(tmp_path, monkeypatch):
    def git(*arguments):
        author = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        done = subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit():
        return run_room.environment(torch.device("cpu"))["commit"]

    files = [tmp_path / name for name in ("exp/run.py", "exp/results/plan.json", "README.md")]
    monkeypatch.setattr(run_room, "__file__", str(files[0]))
    (tmp_path / "exp" / "results").mkdir(parents=True)
    assert commit() is None
    git("init")
    for path in files:
        path.write_text("before")
    git("add", ".")
    git("commit", "-m", "all")
    head = git("rev-parse", "--short=12", "HEAD")
    for path in files[1:]:
        path.write_text("after")
    assert commit() == head
    files[0].write_text("after")
    assert commit() == f"{head}+"


# Baselines, lesions, protocols ---------------------------------------------------------------------------------------


@pytest.fixture
def full_plan(plan, dataset, monkeypatch):
    """The plan "mini" with lesions and baselines, on a data set with masks."""
    for video, frames, abnormal in (("1", 12, range(6, 9)), ("2", 9, range(6))):
        folder = dataset / "testing" / "masks" / video
        folder.mkdir(parents=True)
        for frame in range(frames):
            mask = np.zeros((24, 32), np.uint8)
            mask[:12] = 255 * (frame in abnormal)
            cv2.imwrite(str(folder / f"{frame:03d}.png"), mask)
    trainings = (
        Training("pred", (0, 1), ways=tuple(WAYS), lesions=True),
        Training("recon", (0,), ways=PUBLISHED_ALONE),
    )
    monkeypatch.setitem(PLANS, "mini", PLANS["mini"]._replace(trainings=trainings, untrained=("pred",)))


def test_baselines_need_no_training(full_plan, plan, dataset):
    assert start("mini", "--only", "pred-seed0", "untrained", "place") == 0
    assert len(plan) == 1  # one run is trained, for the copy and the shape
    found = results("baselines")
    assert list(found) == [*(f"untrained-pred-seed{seed}" for seed in (0, 1, 2)), "place"]
    labels, place = np.zeros(12), np.linspace(0, 1, 8)
    labels[6:9] = 1
    scored = np.concatenate((labels[4:], [1, 1, 0, 0, 0])), np.concatenate((place, np.linspace(0, 1, 5)))
    assert found["place"]["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(*scored))
    assert len({found[f"untrained-pred-seed{seed}"]["auc"] for seed in (0, 1, 2)}) > 1

    assert evaluate("--exp_dir", "mini-seed0", "--no_figures", "--output_dir", "out") == 0
    theirs = json.loads(Path("out/evaluation.json").read_text())
    entry = results()["pred-seed0"]["evaluations"]["as published"]
    for who in ("network", "copy"):
        assert entry["protocols"][who] == {name: pytest.approx(one) for name, one in theirs["protocols"][who].items()}
    assert entry["pixels"] == pytest.approx(theirs["pixels"])

    lines = tables.make("mini/baselines")
    of_copy, ours = 100 * theirs["protocols"]["copy"]["published"]["auc"], 100 * theirs["auc"]
    copy = "copying the previous frame, PSNR alone"
    assert f"| {copy} | {of_copy:.1f} | `pred` | {ours - of_copy:+.1f} | 1 |" in lines
    alone = 100 * results()["pred-seed0"]["evaluations"][PSNR_ALONE]["auc"]
    assert f"| {copy} | {of_copy:.1f} | `pred`, PSNR alone | {alone - of_copy:+.1f} | 1 |" in lines
    place = f"{100 * found['place']['auc']:.1f}"
    assert any(line.startswith(f"| position of the frame in its video | {place} | `pred` |") for line in lines)
    assert f"{of_copy:.1f}" in "".join(tables.make("mini/front"))

    before = Path("results/mini.json").read_bytes()
    assert start("mini", "--only", "untrained", "place") == 0  # they are there
    assert Path("results/mini.json").read_bytes() == before


def test_an_untrained_network_is_what_training_starts_from(full_plan, monkeypatch):
    begun = []

    def seen(model, *others):
        begun.append({name: value.clone() for name, value in model.state_dict().items()})
        return model

    monkeypatch.setattr(Train, "share_gradients", seen)
    monkeypatch.setattr(measures, "fold_batch_norms", seen)
    assert start("mini", "--only", "untrained-pred-seed1", "pred-seed1") == 0
    trained, untrained = begun
    assert all(torch.equal(trained[name], value) for name, value in untrained.items())


def test_lesions_of_every_run(full_plan, scorings):
    assert start("mini", "--only", "pred-seed0") == 0
    entry = results()["pred-seed0"]
    assert list(entry["lesions"]) == list(LESIONS)
    intact, evaluations = entry["lesions"]["intact"], entry["evaluations"]
    assert len(scorings) == 3 + len(LESIONS) - 1  # as published, memory off, γ auto; nothing is scored twice
    for part, way in (("both", "as published"), ("psnr", PSNR_ALONE), ("distance", DISTANCE_ALONE)):
        assert intact[part] == pytest.approx(evaluations[way]["auc"])
    table = tables.make("mini/lesions")
    assert table[0].count("pred, n = 1") == 3 and len([row for row in table if row.startswith("| ")]) == 2 + len(
        LESIONS
    )
    scorings.clear()
    assert start("mini", "--only", "pred-seed0") == 0 and not scorings


def test_incomplete_old_results_are_completed(full_plan, scorings):
    assert start("mini", "--only", "pred-seed0") == 0
    path = Path("results/mini.json")
    whole = json.loads(path.read_text())
    shorter = json.loads(path.read_text())
    del shorter["runs"]["pred-seed0"]["evaluations"]["as published"]["protocols"]
    path.write_text(json.dumps(shorter))
    scorings.clear()
    assert start("mini", "--only", "pred-seed0") == 0
    assert len(scorings) == 1 and json.loads(path.read_text()) == whole


def test_protocols_and_pixels_of_a_plan(full_plan):
    assert start("mini", "--only", "pred-seed", "recon") == 0
    published = [results()[f"pred-seed{seed}"]["evaluations"]["as published"] for seed in (0, 1)]
    lines = tables.make("mini/protocols")
    assert lines[0] == "| AUC, % | pred, n = 2 | recon, n = 1 | copying the previous frame |"
    networks = [one["protocols"]["network"]["published"] for one in published]
    assert [one["auc"] for one in networks] == pytest.approx([one["auc"] for one in published], rel=1e-12)
    low = 100 * np.mean([one["low"] for one in networks])
    assert f"{cells.percent([one['auc'] for one in networks])} [{low:.1f} to " in lines[2]
    lines = tables.make("mini/pixels")
    assert (
        f"| squared error of the frame | {cells.percent([one['pixels']['error'] for one in published])} |" in lines[2]
    )
    assert lines[-1].startswith(f"Over all pixels of {published[0]['pixels']['frames']} test frames")


# Tables --------------------------------------------------------------------------------------------------------------


def test_a_page_is_made_again_from_the_results_alone(plan):
    assert start("mini", "--only", "recon") == 0
    page = Path("page.md").read_text()
    Path("page.md").write_text(page.replace("| `recon` |", "| `recom` |"))
    assert start("--tables") == 0
    assert Path("page.md").read_text() == page
    shutil.rmtree("results")
    assert start("--tables") == 0
    assert Path("page.md").read_text().count("Not run") == 2


def test_a_page_that_asks_for_no_table_there_is(plan, capsys):
    for name in ("other", "mini/other", "benchmark/runs", "other/runs"):
        Path("page.md").write_text(f"<!-- table: {name} -->\n<!-- end -->\n")
        assert start("--tables") == 2
        one_line(capsys, f"no table {name}", "mini")


def test_every_table_of_a_plan(plan, dataset):
    labels = dataset / "frame_labels.csv"
    labels.write_text("video,first,last\n1,6,8\n")  # video 2 has normal frames alone
    assert start("mini", "--only", "pred-seed", "recon") == 0
    found = results()
    lines = tables.make("mini/evaluations")
    assert lines[0] == "| AUC, % | pred, n = 2 | recon, n = 1 |"
    mean = {way: np.mean([found[f"pred-seed{s}"]["evaluations"][way]["auc"] for s in (0, 1)]) for way in WAYS}
    change = 100 * (mean["smooth"] - mean["as published"])
    assert any(line.startswith("| smooth |") and f"({change:+.1f})" in line for line in lines)
    assert len(lines) == 2 + len(WAYS)
    videos = tables.make("mini/videos")
    assert videos[3] == "| 2 | one class | one class |"
    assert len([line for line in tables.make("mini/runs") if line.startswith("| ")]) == 2 + 3
    assert f"Not run yet: `pred` with `{OPTION}` (seed 0)." in tables.make("mini")


def times(middle):
    return {"median": middle, "min": middle / 2, "max": middle * 2}


def way(seconds, clips, **more):
    speed = {"seconds": times(seconds), "clips_per_second": clips / seconds}
    return {**speed, "times_plain": times(2 / seconds), "times_ours": times(1 / seconds), **more}


def test_tables_of_the_benchmark_and_what_a_plan_would_cost(plan):
    assert tables.make("benchmark") == ["Not run. `python -m exp.benchmark`."]
    trained = {"plain": way(2, 4, peak_memory=3e9), "ours": way(1, 4, peak_memory=2e9, share_of_product=0.5)}
    trained["bf16"] = way(0.5, 4, peak_memory=1e9, share_of_product=0.9)
    report = {
        **{"date": "2026-01-02", "commit": "abc", "torch": "2.9", "device": "cpu, 2 cores"},
        "tables": [
            {"title": "training", "size": 256, "clips": 4, "rounds": 3, "flops_per_clip": 1e12, "ways": trained},
            {
                **{"title": "a clip from disk", "size": 64, "clips": 1, "rounds": 9},
                "ways": {"plain": way(2, 1), "ours": way(1, 1)},
            },
        ],
    }
    Path("results").mkdir()
    Path("results/benchmark.json").write_text(json.dumps(report))
    lines = tables.make("benchmark")
    nothing = cells.NOTHING
    measured = "**2.00 (1.00–4.00)** | 2000 (1000–4000) | 1000 (500–2000) | 4.0 | 50% | 3.00 | 2.00"
    assert lines[2] == f"| training, 256x256 | 4 | {measured} |"
    assert lines[3].endswith(f"| 1.0 | {nothing} | {nothing} | {nothing} |")
    assert "2026-01-02, commit abc, PyTorch 2.9, cpu, 2 cores" in lines[-1]
    assert "medians over 3 to 9 rounds" in lines[-1]
    assert f"| bf16 | 2.00 (1.00–4.00) | {nothing} |" in tables.make("benchmark/ways")
    cost = tables.make("ped2_paper")[-1]
    clips = 60 * (4 * 2486 + 3 * 2550)  # four runs of pred, three of recon
    assert f"7 runs would take about {clips / 4 / 3600:.0f} hours" in cost and "cpu, 2 cores" in cost
    assert f"or {clips / 100 / 3600:.1f} hours at 100 TFLOP/s" in cost
    assert len(tables.make("ped2_cpu_10")) == len(tables.make("mini")) == 1  # of another size than was measured
