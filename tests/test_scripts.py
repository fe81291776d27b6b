"""Train.py and Evaluate.py as a user runs them, on a tiny data set: whole runs, kills and resumes, mistakes."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import start_and_pause
from helpers import (
    PED2,
    ROOT,
    TINY,
    assert_same,
    call,
    contents,
    evaluate,
    make_run,
    one_line,
    run_of,
    start,
    train,
    trained,
)
from scipy.optimize import brentq
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

import Evaluate
import Train
from exp import calibrate
from exp.meter import EpochProgress, training_time
from model import memory
from utils import run_script

pytestmark = pytest.mark.usefixtures("in_its_own_folder", "small_network")


# Whole runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # four processes
@pytest.mark.parametrize("method", ["pred", "recon"])
def test_train_then_evaluate_as_a_user_does(method, dataset):
    flags = ("--method", method, "--epochs", "2", "--test_batch_size", "3")
    process = start("Train.py", *TINY, *flags[:4])
    out, err = process.communicate()
    assert process.returncode == 0, err
    run = run_of(method)
    assert f"{run / 'model.pth'}" in out
    _, items, lines = contents(run)
    assert [line["epoch"] for line in lines] == [1, 2]
    clips = 12 if method == "pred" else 20
    for line in lines:
        assert sum(line["queries_won"]) == clips * 4  # each clip has 2 x 2 queries
        weights = {"pred": 0.1, "recon": 0.01}[method]
        total = line["pixel"] + weights * line["compactness"] + weights * line["separateness"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert -1 <= line["item_cosines"][0] <= line["item_cosines"][1] <= 1
    assert lines[1]["lr"] == pytest.approx(lines[0]["lr"] / 2)  # the cosine of two epochs
    assert items.shape == (4, 16)
    assert json.loads((run / "flags.json").read_text())["method"] == method
    assert "epoch 2/2" in (run / "train.log").read_text()

    process = start("Evaluate.py", "--dataset_type", "own", "--method", method)
    out, err = process.communicate()
    assert process.returncode == 0, err
    with open(run / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    unscored = 4 if method == "pred" else 0
    assert [(row["video"], int(row["frame"])) for row in rows] == [
        (video, frame) for video, length in (("1", 12), ("2", 9)) for frame in range(unscored, length)
    ]
    labels = np.array([int(row["label"]) for row in rows])
    assert labels.sum() == {"pred": 5, "recon": 9}[method]
    scores = np.array([float(row["abnormality"]) for row in rows])
    assert f"AUC: {100 * roc_auc_score(labels, scores):.4f} %" in out
    assert f"average precision: {100 * average_precision_score(labels, scores):.4f} %" in out
    false_alarms, hits, _ = roc_curve(labels, scores)
    rate = brentq(lambda x: 1 - x - np.interp(x, false_alarms, hits), 0, 1)  # misses and false alarms are as frequent
    (said,) = (line for line in out.splitlines() if line.startswith("EER: "))
    assert float(said.split()[1]) == pytest.approx(100 * rate, abs=1e-4)
    assert "macro AUC" in out


@pytest.mark.parametrize(
    "flags", [["--c", "1"], ["--t_length", "3"], ["--msize", "20"], ["--fdim", "24"], ["--h", "24"]]
)
def test_every_size_flag_trains_and_evaluates(flags, dataset):
    assert train(*flags) == 0
    assert evaluate() == 0
    name, value = flags
    assert torch.load(run_of() / "model.pth", weights_only=True)["shape"][name[2:]] == int(value)


def test_the_seed_decides_the_run(dataset):
    for exp_dir, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train("--exp_dir", exp_dir, "--seed", seed) == 0
    assert_same(run_of(exp_dir="a"), run_of(exp_dir="b"))
    assert not torch.equal(contents(run_of(exp_dir="a"))[1], contents(run_of(exp_dir="c"))[1])


def test_deterministic_algorithms_serve_training_and_evaluation(dataset, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is as before in the end
    try:
        assert train("--exp_dir", "a", "--deterministic") == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert evaluate("--exp_dir", "a", "--deterministic") == 0
    finally:
        torch.use_deterministic_algorithms(False)
    trained(exp_dir="b")
    assert_same(run_of(exp_dir="a"), run_of(exp_dir="b"))  # nothing but speed changes, on a CPU not even that


def test_loss_weights_are_live(dataset):
    for exp_dir, flags in (
        ("a", []),
        ("b", ["--loss_compact", 0]),
        ("c", ["--loss_separate", 0]),
        ("d", ["--lr", 1e-3]),
    ):
        assert train("--exp_dir", exp_dir, *flags) == 0
    ends = [contents(run_of(exp_dir=name))[0]["encoder.features.3.weight"] for name in "abcd"]
    assert all(not torch.equal(ends[0], end) for end in ends[1:])


def test_evaluation_flags_are_live(dataset):
    trained()
    scores = {}
    for name, flags in {
        "usual": ["--th", 1],
        "off": ["--memory_update", "off"],
        "reset": ["--th", 1, "--reset_memory"],
        "alpha": ["--th", 1, "--alpha", 1],
        "chunk": ["--th", 1, "--test_batch_size", 1],
    }.items():
        assert evaluate(*flags, "--output_dir", name) == 0
        with open(Path(name) / "scores.csv") as file:
            scores[name] = [(float(row["distance"]), float(row["abnormality"])) for row in csv.DictReader(file)]
    usual, chunk = np.array(scores.pop("usual")), np.array(scores.pop("chunk"))
    np.testing.assert_allclose(chunk[:, 0], usual[:, 0], rtol=1e-4)
    np.testing.assert_allclose(chunk[:, 1], usual[:, 1], atol=1e-3)  # min-max enlarges rounding
    assert all(not np.allclose(usual, np.array(other), rtol=1e-4) for other in scores.values())
    assert np.allclose(usual[:8, 0], np.array(scores["reset"])[:8, 0], rtol=1e-4)  # of the first video all the same


def test_model_and_items_by_file_or_directory(dataset, capsys):
    run = trained(exp_dir="elsewhere")
    outs = []
    for flags in (["--exp_dir", "elsewhere"], ["--model_dir", run], ["--model_dir", run / "model.pth"]):
        capsys.readouterr()
        assert evaluate(*flags) == 0
        outs.append(capsys.readouterr().out)
    shutil.move(run / "m_items.pt", "moved.pt")
    assert evaluate("--model_dir", run, "--m_items_dir", "moved.pt") == 0
    outs.append(capsys.readouterr().out)
    assert len(set(outs)) == 1


def test_a_model_in_a_run_is_evaluated_on_the_data_of_the_run(dataset, capsys):
    run = trained()
    assert evaluate() == 0
    before = (run / "scores.csv").read_bytes()
    (run / "scores.csv").unlink()
    assert call(Evaluate, "--model_dir", run / "model.pth", "--no_figures", "--num_workers_test", 0) == 0
    assert (run / "scores.csv").read_bytes() == before and not Path("dataset/synthetic").exists()
    (run / "flags.json").unlink()
    assert call(Evaluate, "--model_dir", run / "model.pth") == 2
    one_line(capsys, "--dataset_type", f"name the data set to evaluate {run}")


def test_an_evaluation_says_how_it_was_computed(dataset):
    trained()
    frame = dataset / "testing/frames/2/003.jpg"
    frame.write_bytes(frame.read_bytes()[:-100])
    assert evaluate("--precision", "bf16", "--bad_frames", "skip") == 0
    found = json.loads((run_of() / "evaluation.json").read_text())
    assert (found["precision"], found["left_out"]) == ("bf16", ["2"])
    assert found["unlike_the_paper"] == "precision bf16, without 2"


@pytest.mark.parametrize(("steps", "said"), [(100, 100.0), (1, 50.0)])
def test_the_estimated_time_leaves_out_the_first_steps(steps, said, monkeypatch):
    now, estimates = [0.0], []
    monkeypatch.setattr("exp.meter.time.perf_counter", lambda: now[0])
    with EpochProgress("epoch", steps, False, estimates.append) as report:
        now[0] = 50.0  # the network is compiled
        report(1, {})
        for step in range(2, steps + 1):
            now[0] += 1
            report(step, {})
    assert estimates == [said]


def test_without_labels_scores_are_still_written(dataset, capsys):
    trained()
    (dataset / "frame_labels.csv").unlink()
    assert evaluate() == 0
    assert "\nAUC:" not in capsys.readouterr().out
    with open(run_of() / "scores.csv") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {""}


def test_the_rate_counts_for_labels_in_seconds(dataset):
    trained()
    seconds = "video,first,last\n1,0:00.6,0:00.8\n2,0:00,0:00.5\n"  # as frames at 10 per second: 6 to 8, 0 to 5
    labels = []
    for text, *flags in ((dataset / "frame_labels.csv").read_text(),), (seconds, "--fps", 10):
        (dataset / "frame_labels.csv").write_text(text)
        assert evaluate(*flags) == 0
        with open(run_of() / "scores.csv") as file:
            labels.append([row["label"] for row in csv.DictReader(file)])
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("1,6,8\n2,unlabelled,\n", "(mean over 1 of 2 videos; left out: 1 unlabelled)"),
        ("1,6,8\n", "(mean over 1 of 2 videos; left out: 1 with frames of one class only)"),
        ("1,6,8\n2,0,5\n", "(mean over 2 of 2 videos)"),
        ("1,unlabelled,\n", "all 5 labelled frames are normal (1 of 2 videos unlabelled), so no AUC"),
        ("1,unlabelled,\n2,unlabelled,\n", "no AUC: all 2 videos are unlabelled\n"),
    ],
)
def test_videos_that_are_unlabelled_are_not_of_one_class(lines, said, dataset, capsys):
    make_run(Path("run"), size=(16, 16))
    (dataset / "frame_labels.csv").write_text(f"video,first,last\n{lines}")
    assert evaluate("--model_dir", "run") == 0
    assert said in capsys.readouterr().out


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_a_data_set_whose_name_is_no_utf8_is_trained_and_evaluated(dataset):
    name = "caf\udce9"  # Latin-1
    dataset.rename(dataset.with_name(name))
    assert call(Train, *TINY, "--dataset_type", name, "--epochs", 1) == 0
    assert call(Evaluate, "--dataset_type", name) == 0
    written = [path for path in Path("exp", name).rglob("*") if path.suffix in (".csv", ".html", ".json", ".log")]
    assert {path.name for path in written} >= {"scores.csv", "report.html", "evaluation.json", "train.log"}
    for path in written:
        path.read_text(encoding="utf-8")


@pytest.mark.slow  # two processes
@pytest.mark.skipif(os.name == "nt", reason="POSIX locales")
def test_in_a_locale_whose_encoding_is_not_utf8(dataset):
    """In ASCII, letters of the command line are bytes that are no text, and files are ASCII unless said otherwise."""
    dataset.rename(dataset.with_name("größe"))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for script, *flags in (("Train.py", *TINY, "--epochs", "1"), ("Evaluate.py",)):
        command = [sys.executable, ROOT / script, *flags, "--dataset_type", "größe"]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    run = Path("exp", "größe", "pred", "log")
    for path in (run / "train.log", run / "scores.csv", run / "evaluation.json", run / "report.html"):
        path.read_text(encoding="utf-8")


def test_labels_of_one_class_still_give_scores(dataset, capsys):
    trained()
    (dataset / "frame_labels.csv").write_text("video,first,last\n")
    assert evaluate() == 0
    assert "all 13 labelled frames are normal" in capsys.readouterr().out
    assert (run_of() / "scores.csv").exists()


def test_cache_and_workers_change_nothing(dataset):
    trained(exp_dir="a")
    assert train("--exp_dir", "b", "--no_cache", "--num_workers", 2) == 0
    assert train("--exp_dir", "c", "--cache_dir", "elsewhere") == 0
    assert_same(run_of(exp_dir="a"), run_of(exp_dir="b"))
    assert_same(run_of(exp_dir="a"), run_of(exp_dir="c"))
    assert list(Path("elsewhere").glob("*.npy"))


@pytest.mark.slow  # three hundred frames through the network of the paper
@pytest.mark.skipif(not PED2.is_dir(), reason="real Ped2 is not here")
def test_real_video(tmp_path, whole_network, capsys):
    for split, names in (("training", ["01"]), ("testing", ["02"])):
        frames = tmp_path / "dataset" / "ped2" / split / "frames"
        frames.mkdir(parents=True)
        for name in names:
            (frames / name).symlink_to(PED2 / split / "frames" / name)
    flags = ["--dataset_type", "ped2", "--num_workers", 0]
    assert call(Train, *flags, "--h", 32, "--w", 32, "--fdim", 32, "--epochs", 1, "--no_figures") == 0
    assert call(Evaluate, "--dataset_type", "ped2", "--num_workers_test", 0, "--no_figures") == 0
    out = capsys.readouterr().out
    assert "scores of 176 frames of 1 video:" in out
    assert float(out.split("\nAUC: ")[1].split()[0]) > 60  # chance is 50; one epoch on one video gives about 80


def test_training_ends_with_the_command_that_evaluates_its_run(dataset, capsys):
    shutil.move("dataset", "other place")
    assert train("--dataset_path", "other place", "--exp_dir", "with it's name", "--no_cache") == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["python", "Evaluate.py"]
    assert call(Evaluate, *command[2:], "--no_figures", "--num_workers_test", 0) == 0
    assert (run_of(exp_dir="with it's name") / "scores.csv").is_file()


@pytest.mark.parametrize(
    ("dataset_type", "size", "device", "advised"),
    [
        ("own", 256, "cpu", True),
        ("own", 256, "cuda", False),
        ("own", 128, "cpu", False),
        ("ped2", 256, "cpu", False),
    ],
)
def test_a_long_training_on_a_cpu_names_a_size_for_it(dataset_type, size, device, advised):
    args = {"dataset_type": dataset_type, "h": size, "w": size}
    lines = training_time(1800.0, 60, args, torch.device(device))
    assert "an epoch takes about 30 minutes here, 60 take 30.0 hours" in lines
    assert [("--h 64 --w 64" in line and "3.0 hours" in line) for line in lines[1:]] == [True] * advised


# Kills and resumes ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a process that ends at once: no handler of the scripts catches it."""


@pytest.fixture
def undisturbed(dataset):
    return trained(exp_dir="whole", epochs=3)


def killed_while_saving(monkeypatch, at):
    """Train until torch.save is called the at-th time, which writes half a file and is then killed."""
    save, calls = torch.save, []

    def save_half(thing, path):
        calls.append(path)
        save(thing, path)
        if len(calls) == at:
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) // 2)
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch, "save", save_half)
        sys.argv = ["Train.py", *TINY, "--epochs", "3"]
        run_script(Train.main)


# in epoch 1: checkpoint; in epoch 2: checkpoint, model, items (three files an epoch)
@pytest.mark.parametrize("at", [1, 4, 5, 6])
def test_resuming_after_a_kill_in_the_middle_of_writing(at, undisturbed, monkeypatch):
    killed_while_saving(monkeypatch, at)
    if at > 3:  # whatever happened, the files that are there are whole
        torch.load(run_of() / "checkpoint.pt", weights_only=True)
        contents(run_of())
    assert train("--resume", epochs=3) == 0
    assert_same(run_of(), undisturbed)


# an epoch has 3 steps
@pytest.mark.parametrize(("at", "number"), [("Train.train_step", 5), ("exp.run.write_whole", 7)])  # both in epoch 2
def test_resuming_after_kill_9(at, number, undisturbed, capsys):
    process = start_and_pause(at, number, "Train", *TINY, "--epochs", 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(contents(run_of())[2]) < 3
    done = len(torch.load(run_of() / "checkpoint.pt", weights_only=True)["history"])
    assert train("--resume", epochs=3) == 0
    assert f"{run_of()} continues after epoch {done} of 3" in capsys.readouterr().out
    assert_same(run_of(), undisturbed)


def test_resuming_on_other_data_needs_data_changed(dataset, capsys):
    assert train(epochs=2) == 0
    frame = dataset / "training/frames/1/003.jpg"
    frame.write_bytes(frame.read_bytes() + b"more")  # still the same picture
    (run_of() / "calibration.pt").unlink()
    before = (run_of() / "flags.json").read_text()
    assert train("--resume", epochs=2) == 2
    one_line(capsys, "--resume", "training frames", "--data_changed")
    assert (run_of() / "flags.json").read_text() == before
    assert train("--resume", "--data_changed", epochs=2) == 0
    assert train("--resume", epochs=2) == 0  # these are its data now


def test_model_and_items_of_different_epochs_are_refused(dataset, monkeypatch, capsys):
    killed_while_saving(monkeypatch, 6)  # model.pth is of epoch 2, m_items.pt of epoch 1
    assert evaluate() == 2
    one_line(capsys, "epoch 1", "epoch 2", "--resume")


def test_ctrl_c_keeps_what_is_needed_to_resume(undisturbed):
    process = start_and_pause("Train.train_step", 5, "Train", *TINY, "--epochs", 3, "--num_workers", 1)
    os.killpg(process.pid, signal.SIGINT)  # to its workers too, as a terminal does
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "in epoch 2" in err.splitlines()[-1] and "--resume" in err.splitlines()[-1]
    assert train("--resume", epochs=3) == 0
    assert_same(run_of(), undisturbed)


def test_a_run_is_not_overwritten_unless_told(dataset, capsys):
    trained()
    before = contents(run_of())[1]
    assert train("--seed", 1) == 2
    one_line(capsys, run_of(), "--overwrite", "--resume")
    assert torch.equal(contents(run_of())[1], before)
    assert train("--seed", 1, "--overwrite") == 0
    assert not torch.equal(contents(run_of())[1], before)
    capsys.readouterr()
    assert train("--seed", 1, "--resume") == 0  # finished: nothing to do
    assert f"{run_of()} has all of its 1 epochs" in capsys.readouterr().out


def test_resuming_with_other_flags_is_refused(dataset, capsys):
    trained()
    assert train("--resume", "--lr", 1) == 2
    one_line(capsys, "--lr", "0.0002")
    assert train("--resume", "--exp_dir", "nowhere") == 2
    one_line(capsys, "no run")


def test_a_loss_that_is_not_finite_stops_the_run(dataset, monkeypatch, capsys):
    real, calls = memory.compactness, []

    def breaks(queries, items):
        calls.append(1)
        return real(queries, items) * (float("nan") if len(calls) == 5 else 1)  # 3 steps an epoch

    monkeypatch.setattr(memory, "compactness", breaks)
    assert train(epochs=3) == 2
    one_line(capsys, "epoch 2", "step 2", "not finite")
    assert len(contents(run_of())[2]) == 1


def test_a_last_step_that_breaks_the_weights_keeps_the_epoch_before(dataset, monkeypatch, capsys):
    real, calls = Train.train_step, []

    def breaks(network, *others):
        step = real(network, *others)
        calls.append(1)
        if len(calls) == 6:  # the last of epoch 2
            with torch.no_grad():
                next(network.parameters()).fill_(float("nan"))
        return step

    with monkeypatch.context() as patch:
        patch.setattr(Train, "train_step", breaks)
        assert train(epochs=3) == 2
    one_line(capsys, "epoch 2", "not finite", "keeps the state after epoch 1")
    assert len(contents(run_of())[2]) == 1
    assert train("--resume", epochs=3) == 0


def test_a_full_disk_keeps_the_last_good_files(dataset, monkeypatch, capsys):
    save, calls = torch.save, []

    def save_until_full(thing, path):
        calls.append(path)
        if len(calls) > 3:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        save(thing, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_full)
        assert train(epochs=2) == 2
    one_line(capsys, "checkpoint.pt", "No space left", "--resume")
    assert not list(run_of().glob(".*"))
    assert evaluate() == 0
    assert train("--resume", epochs=2) == 0


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--h", "20"], ["--h", "multiple of 8"]),
        (["--w", "0"], ["--w", "multiple of 8"]),
        (["--msize", "1"], ["--msize", "2 or more"]),
        (["--lr", "0"], ["--lr"]),
        (["--lr", "nan"], ["--lr"]),
        (["--batch_size", "0"], ["--batch_size"]),
        (["--batch_size", "13"], ["12 training clips", "--batch_size"]),
        (["--epochs", "-1"], ["--epochs"]),
        (["--epochs", "two"], ["--epochs", "two"]),
        (["--loss_compact", "-1"], ["--loss_compact"]),
        (["--loss_separate", "inf"], ["--loss_separate"]),
        (["--t_length", "1"], ["--t_length"]),
        (["--method", "recon", "--t_length", "5"], ["--t_length"]),
        (["--t_length", "11"], ["--t_length", "11 consecutive frames"]),
        (["--method", "other"], ["--method", "pred"]),
        (["--fdim", "16", "--mdim", "32"], ["--fdim", "--mdim"]),
        (["--c", "2"], ["--c"]),
        (["--device", "tpu"], ["--device", "tpu"]),
        (["--device", "cuda:99"], ["cuda:99", "--device cpu"]),
        (["--device", "cpu", "--gpus", "0"], ["--gpus"]),
        (["--dataset_type", "nothing"], ["dataset/nothing", "data/README.md"]),
        (["--no_such_flag"], ["--no_such_flag"]),
    ],
)
def test_mistakes_in_training_flags(flags, words, dataset, capsys):
    assert train(*flags) == 2
    one_line(capsys, *words)
    assert not run_of().exists() or not list(run_of().glob("*.p*"))


@pytest.mark.parametrize("damage", ["truncated", "foreign", "foreign_name", "empty_video", "no_videos"])
def test_broken_frames(damage, dataset, capsys):
    videos = dataset / "training" / "frames"
    frame = videos / "2" / "004.jpg"
    if damage == "truncated":
        frame.write_bytes(frame.read_bytes()[:-100])
    elif damage == "foreign":
        frame.write_text("not a picture")
    elif damage == "foreign_name":
        frame = frame.rename(videos / "2" / "notes.txt")
    elif damage == "empty_video":
        frame = videos / "3"
        frame.mkdir()
    else:
        shutil.rmtree(videos)
        videos.mkdir()
        frame = videos
    assert train() == 2
    one_line(capsys, frame)


def test_a_broken_frame_met_by_a_worker_is_one_line_too(dataset, capsys):
    frame = dataset / "training" / "frames" / "2" / "004.jpg"
    frame.write_bytes(frame.read_bytes()[:-100])
    assert train("--no_cache", "--num_workers", 1) == 2
    one_line(capsys, f"epoch 1: cannot decode frame {frame}: truncated")


@pytest.mark.parametrize("cache", [[], ["--no_cache"]])
def test_a_video_with_a_broken_frame_can_be_skipped(cache, dataset, capsys):
    frame = dataset / "training" / "frames" / "2" / "004.jpg"
    frame.write_text("not a picture")
    assert train("--bad_frames", "skip", *cache) == 0
    assert "video 2 is skipped" in capsys.readouterr().err
    assert sum(contents(run_of())[2][0]["queries_won"]) == 4 * 4  # one step of 4 clips is left


def test_labels_that_do_not_fit(dataset, capsys):
    trained()
    (dataset / "frame_labels.csv").unlink()
    np.save(dataset / "frame_labels.npy", np.zeros(20))
    assert evaluate() == 2
    one_line(capsys, "20", "21", "frame_labels.npy")


def damaged(run, damage):
    model, items = run / "model.pth", run / "m_items.pt"
    content = torch.load(model, weights_only=True)
    if damage == "no model":
        model.unlink()
        return model
    if damage == "no items":
        items.unlink()
    elif damage == "garbage model":
        model.write_bytes(b"garbage")
        return model
    elif damage == "garbage items":
        items.write_bytes(b"garbage")
    elif damage == "truncated model":
        model.write_bytes(model.read_bytes()[:-1000])
        return model
    elif damage == "items of another shape":
        torch.save(torch.rand(7, 16), items)
    elif damage == "weights missing":
        content["model"].popitem()
        torch.save(content, model)
        return model
    elif damage == "not a model":
        shutil.copy(run / "checkpoint.pt", model)
        return model
    return items


@pytest.mark.parametrize(
    "damage",
    [
        "no model",
        "no items",
        "garbage model",
        "garbage items",
        "truncated model",
        "items of another shape",
        "weights missing",
        "not a model",
    ],
)
def test_broken_model_files(damage, dataset, capsys):
    trained()
    assert evaluate("--output_dir", "before") == 0
    path = damaged(run_of(), damage)
    capsys.readouterr()
    assert evaluate() == 2
    one_line(capsys, path)
    assert not (run_of() / "scores.csv").exists()


def test_items_of_the_other_method_are_refused(dataset, capsys):
    trained()
    trained(method="recon")
    assert evaluate("--m_items_dir", run_of("recon") / "m_items.pt") == 2
    one_line(capsys, "recon", "pred")


@pytest.mark.parametrize(
    "flags", [["--method", "recon"], ["--t_length", 3], ["--h", 32], ["--c", 1], ["--msize", 10], ["--fdim", 512]]
)
def test_a_flag_that_contradicts_the_model_is_refused(flags, dataset, capsys):
    trained()
    assert evaluate("--model_dir", run_of(), *flags) == 2
    one_line(capsys, flags[0], "contradicts")


@pytest.mark.parametrize(
    "flags", [["--alpha", "1.5"], ["--th", "-1"], ["--test_batch_size", "0"], ["--model_dir", "no"]]
)
def test_mistakes_in_evaluation_flags(flags, dataset, capsys):
    assert evaluate(*flags) == 2
    one_line(capsys, flags[1])


def test_several_gpus_are_for_training(capsys):
    for script, *flags in ((Evaluate,), (calibrate, "run", "--dataset_type", "own")):
        assert call(script, *flags, "--gpus", 0, 1) == 2
        one_line(capsys, "--gpus 0 1: give one number")
