"""The directory of a run: what is refused, when something is deleted, who may write, and what damage is seen."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from forked import start_and_pause
from helpers import ROOT, TINY, assert_same, evaluate, one_line, run_of, train, trained

from exp import checkpoints
from exp import run as runs
from exp.checkpoints import KINDS, load_file
from exp.estimate import least_memory, memory_of
from exp.record import read_record
from exp.run import Run, run_directory
from utils import InputError

pytestmark = pytest.mark.usefixtures("in_its_own_folder", "small_network")
CPU = torch.device("cpu")


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.lock"}


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "", ".", "a\0b"])
def test_a_run_stays_below_its_data_set_and_method(name):
    for given in (("own", name), (name, "log")):
        with pytest.raises(InputError, match="below exp"):
            run_directory(given[0], "pred", given[1])


def test_folders_of_code_are_no_data_sets():
    listed = subprocess.run(["git", "ls-files", "exp"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    folders = {Path(path).parts[1] for path in listed if len(Path(path).parts) > 2}
    assert folders == set(runs.CODE) or not listed
    for name in (*runs.CODE, "Scoring"):
        with pytest.raises(InputError, match="folder of this project"):
            run_directory(name, "pred", "log")


# What is deleted, and when --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--dataset_path", "typo"],
        ["--batch_size", 1000],
        ["--t_length", 11],
        ["--fdim", 10**8],
        ["--h", 32768, "--w", 32768],
        ["--calibration_share", 0.5, "--batch_size", 7],
    ],
)
@pytest.mark.parametrize("how", ["--overwrite", "--resume"])
def test_a_start_that_fails_changes_nothing(how, flags, dataset, capsys):
    trained()
    before = snapshot(run_of())
    assert train(how, *flags) == 2
    one_line(capsys)
    assert snapshot(run_of()) == before


def test_a_run_without_its_checkpoint_is_neither_lost_nor_trained_over(dataset, capsys):
    trained()
    (run_of() / "checkpoint.pt").unlink()
    before = snapshot(run_of())
    assert train() == 2
    one_line(capsys, run_of(), "--overwrite")
    assert train("--resume") == 2
    one_line(capsys, "checkpoint.pt", "missing")
    (run_of() / "flags.json").rename("flags.json")
    assert train() == 2
    one_line(capsys, run_of(), "--overwrite")
    Path("flags.json").rename(run_of() / "flags.json")
    assert snapshot(run_of()) == before
    assert train("--overwrite") == 0


def test_discarding_a_run_touches_only_what_runs_write(dataset):
    trained()
    assert evaluate() == 0
    (run_of() / "figures" / "scores").mkdir(parents=True)
    written = [run_of() / name for name in ("scores.csv", "report.html", "figures/scores/1.png")]
    for path in written[1:]:
        path.write_text("of the earlier run")
    kept = [run_of() / "notes.txt", run_of() / "figures" / "mine.svg"]
    for path in kept:
        path.write_text("mine")
    assert train("--overwrite", "--seed", 1) == 0
    assert all(path.read_text() == "mine" for path in kept)
    assert not any(path.exists() for path in written)


RESULTS = (  # of an evaluation
    "scores.csv",
    "alarms.csv",
    "evaluation.json",
    "report.html",
    "figures/roc.png",
    "figures/histogram.pdf",
    "figures/scores/1.png",
    "figures/frames/1_0005.svg",
    "videos/1.mp4",
)
WRITTEN = (  # by any command
    *RESULTS,
    "checkpoint.pt",
    "model.pth",
    "m_items.pt",
    "calibration.pt",
    "metrics.jsonl",
    "starts.jsonl",
    "train.log",
    "memory.json",
    "model.pt2",
    "figures/training.png",
    "figures/memory/items.png",
    "tensorboard/events.out.tfevents.1",
)
KEPT = ("notes.txt", "figures/mine.svg", "watched/door/scores.csv", "tensorboard/mine.txt", "videos/mine.avi")


def write_all(names, text="{}\n"):
    for name in names:
        (run_of() / name).parent.mkdir(parents=True, exist_ok=True)
        (run_of() / name).write_text(text)


def left():
    """The names of the files that write_all has written and that are still the same."""
    files = (path for path in run_of().rglob("*") if path.is_file() and path.name != "train.lock")
    return {path.relative_to(run_of()).as_posix() for path in files if path.read_bytes() == b"{}\n"}


def test_overwriting_removes_each_file_that_a_run_writes():
    write_all((*WRITTEN, *KEPT))
    run = Run(run_of(), dict.fromkeys(("method", "c")), overwrite=True)
    run.begin(CPU)
    run.close()
    assert left() == set(KEPT)
    assert (run_of() / "starts.jsonl").read_text().count("\n") == 1  # of this run alone


def test_an_evaluation_removes_each_file_of_the_one_before(dataset):
    trained()
    (run_of() / "calibration.pt").unlink()  # without it, there are no alarms
    write_all((*RESULTS, *KEPT, "memory.json"))
    assert evaluate() == 0
    assert left() == {*KEPT, "memory.json"}
    assert {path.name for path in run_of().glob("*.csv")} == {"scores.csv"}


def test_a_folder_of_somebody_else_loses_nothing(dataset):
    foreign = run_of() / "figures"
    foreign.mkdir(parents=True)
    (foreign / "mine.png").write_text("mine")
    (run_of() / "evaluation.json").write_text("mine")
    assert train() == 0
    assert (foreign / "mine.png").read_text() == (run_of() / "evaluation.json").read_text() == "mine"


# One writer -----------------------------------------------------------------------------------------------------------


def test_a_second_training_is_told_who_trains(dataset, capsys):
    process = start_and_pause("Train.train_step", 2, "Train", *TINY, "--epochs", 1)
    try:
        for flags in ([], ["--overwrite"], ["--resume"]):
            assert train(*flags) == 2
            one_line(capsys, f"process {process.pid}", run_of())
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert train() == 0  # any death releases it


def test_the_first_start_in_a_directory_wins(dataset):
    flags = dict.fromkeys(("method", "c"))
    one, other = Run(Path("exp/a"), flags), Run(Path("exp/a"), flags)
    one.begin(CPU)
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        other.begin(CPU)
    one.close()
    other.begin(CPU)
    other.close()


def test_a_run_that_was_made_since_the_directory_was_empty_is_kept(dataset):
    model, flags = Path("exp/a/model.pth"), dict.fromkeys(("method", "c"))
    one, other = Run(Path("exp/a"), flags), Run(Path("exp/a"), flags)
    one.begin(CPU)
    model.write_text("of the first")
    one.close()
    with pytest.raises(InputError, match="--overwrite discards it"):
        other.begin(CPU)
    other.close()
    assert model.read_text() == "of the first"


# Damage ---------------------------------------------------------------------------------------------------------------


def test_resuming_needs_no_log(dataset):
    trained(exp_dir="whole", epochs=2)
    trained(epochs=2)
    process = start_and_pause("Train.train_step", 5, "Train", *TINY, "--overwrite", "--epochs", 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run_of().rename("killed")
    for file, content in (
        ("metrics.jsonl", '{"epoch": 1}\n{"epo'),
        ("starts.jsonl", '{"epoch": 1}\n{"epo'),
        ("starts.jsonl", "[]\n"),
        ("metrics.jsonl", "\xff\n"),
    ):
        shutil.copytree("killed", run_of())
        (run_of() / file).write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=file):
            read_record(run_of())
        assert train("--resume", epochs=2) == 0
        assert_same(run_of(), run_of(exp_dir="whole"))
        assert [line["epoch"] for line in read_record(run_of()).history] == [1, 2]
        shutil.rmtree(run_of())


@pytest.mark.parametrize("content", ["[]", "", "{", "null", "\udcff"])
def test_damaged_flags_are_one_line(content, dataset, capsys):
    trained()
    (run_of() / "flags.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert train("--resume") == 2
    one_line(capsys, "flags.json")


def test_a_flipped_bit_is_seen_everywhere(dataset, capsys):
    trained()
    for name, starts in {
        "model.pth": [evaluate],
        "m_items.pt": [evaluate],
        "checkpoint.pt": [lambda: train("--resume")],
    }.items():
        whole = (run_of() / name).read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 1
        (run_of() / name).write_bytes(broken)
        for start in starts:
            capsys.readouterr()
            assert start() == 2
            one_line(capsys, run_of() / name, "checksum")
        (run_of() / name).write_bytes(whole)
    assert evaluate() == 0


NAMES = {"model": "model.pth", "items": "m_items.pt", "checkpoint": "checkpoint.pt", "calibration": "calibration.pt"}
WRONG = [None, "text", -1, 1.5, [], {}, (1,), True, torch.zeros(0), torch.zeros(3, dtype=torch.int64), [None], {"a": 1}]


def test_whatever_a_file_holds_it_is_checked(dataset):
    """Each value of each kind of file, replaced by each wrong one: refused in one line, or as good as before."""
    trained()
    assert NAMES.keys() == KINDS.keys()
    refused = 0
    for what, name in NAMES.items():
        whole = torch.load(run_of() / name, weights_only=True)
        for key in KINDS[what][0]:
            for wrong in WRONG:
                try:
                    checkpoints._checked(Path("made_up.pt"), {**whole, key: wrong}, what)
                except InputError as error:
                    assert "made_up.pt" in str(error)
                    refused += 1
            torch.save({k: v for k, v in whole.items() if k != key}, "made_up.pt")
            with pytest.raises(InputError, match=f"not a {what} file"):
                load_file(Path("made_up.pt"), what)
        load_file(run_of() / name, what)
    assert refused > 200


def test_a_checkpoint_of_another_network_is_not_resumed(dataset, capsys):
    trained()
    trained("--fdim", 24, exp_dir="other")
    for other in (run_of(exp_dir="other") / "checkpoint.pt", None):
        state = torch.load(run_of() / "checkpoint.pt", weights_only=True)
        if other:
            shutil.copy(run_of() / "checkpoint.pt", "kept.pt")
            shutil.copy(other, run_of() / "checkpoint.pt")
        else:
            state["optimizer"]["state"][3]["exp_avg"] = torch.zeros(1)
            torch.save(state, run_of() / "checkpoint.pt")
        assert train("--resume") == 2
        one_line(capsys, "checkpoint.pt cannot be resumed")
        shutil.copy("kept.pt", run_of() / "checkpoint.pt")


# Memory ---------------------------------------------------------------------------------------------------------------


def test_what_fits_is_not_refused_and_what_cannot_fit_is(whole_network):
    shape = {"method": "pred", "c": 3, "t_length": 5, "h": 256, "w": 256, "msize": 10, "fdim": 512}
    assert 0.2 * 2**30 < least_memory(shape, 4, training=True) < 2**30  # such a training takes about 2 GiB
    assert least_memory(shape, 4, training=False) < least_memory(shape, 4, training=True)
    for name, value in (("fdim", 10**8), ("fdim", 2**31 - 1), ("msize", 2**31 - 1), ("h", 10**9)):
        assert least_memory({**shape, name: value}, 4, training=True) > 2**40
    assert memory_of(CPU) > 2**28
