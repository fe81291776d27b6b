"""The network without a memory, --msize 0: it is trained, resumed, evaluated, exported and refused like any other."""

import csv
import json
import signal

import numpy as np
import pytest
import torch
from forked import start_and_pause
from helpers import TINY, assert_same, call, contents, evaluate, one_line, run_of, train, trained
from sklearn.metrics import roc_auc_score

import Evaluate
import Train
from exp import calibrate, diagnose, export
from model import memory
from model.convae import ConvAE
from utils import min_max

pytestmark = pytest.mark.usefixtures("small_network")

WITHOUT = ("--msize", "0")


@pytest.mark.parametrize("skips", [True, False])
def test_only_the_first_convolution_of_the_decoder_is_narrower(skips):
    with_memory, without = (
        {name: value.shape for name, value in ConvAE(feature_dim=16, skips=skips, has_memory=has).state_dict().items()}
        for has in (True, False)
    )
    assert with_memory.keys() == without.keys()
    differ = [name for name in without if with_memory[name] != without[name]]
    assert differ == ["decoder.block1.0.weight"]
    assert (with_memory[differ[0]][1], without[differ[0]][1]) == (32, 16)


def test_no_items_are_far_from_nothing_and_stay_none():
    queries, items = torch.rand(2, 7, 16), torch.zeros(2, 0, 16)
    assert memory.update(queries, items).shape == (2, 0, 16)
    for loss in (memory.compactness, memory.separateness):
        assert torch.equal(loss(queries, items), torch.zeros(2))
    assert torch.equal(memory.distance_map(queries, items), torch.zeros(2, 7))
    assert memory.initial_items(0, 16).shape == (0, 16)


@pytest.mark.parametrize("method", ["pred", "recon"])
def test_a_run_without_memory_from_training_to_figures(method, dataset, capsys):
    trained(*WITHOUT, method=method, epochs=2)
    run = run_of(method)
    model, items, lines = contents(run)
    assert items.shape == (0, 16)
    assert model["decoder.block1.0.weight"].shape[1] == 16
    for line in lines:
        assert line["loss"] == line["pixel"] > 0 == line["compactness"] == line["separateness"]
    assert evaluate("--method", method) == 0
    with open(run / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["updated"] for row in rows} == {"0"}
    assert {float(row["distance"]) for row in rows} == {0}
    of_videos = [[float(row["psnr"]) for row in rows if row["video"] == name] for name in ("1", "2")]
    abnormality = np.concatenate([1 - min_max(values) for values in of_videos])
    np.testing.assert_allclose(abnormality, [float(row["abnormality"]) for row in rows], atol=1e-6)
    found = json.loads((run / "evaluation.json").read_text())
    assert found["auc"] == pytest.approx(roc_auc_score([int(row["label"]) for row in rows], abnormality))
    assert found["unlike_the_paper"] == ""
    assert found["calibrated"]["alarms"] >= 0
    capsys.readouterr()
    calibrate.main([str(run)])
    assert "calibration on" in capsys.readouterr().out


def test_figures_of_a_network_without_memory_are_drawn(dataset):
    assert call(Train, *TINY, *WITHOUT, "--epochs", "1") == 0
    assert call(Evaluate, "--dataset_type", "own", "--num_workers_test", "0", "--frames", "1:6") == 0
    assert (run_of() / "figures" / "training.png").is_file()
    assert (run_of() / "figures" / "frames" / "1_0006.png").is_file()


def test_a_killed_training_goes_on_as_if_nothing_had_happened(dataset):
    trained(*WITHOUT, exp_dir="whole", epochs=2)
    flags = (*TINY, *WITHOUT, "--no_figures", "--epochs", "2")
    process = start_and_pause("Train.train_step", 5, "Train", *flags)  # in the second epoch
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(contents(run_of())[2]) == 1
    assert train(*WITHOUT, "--resume", epochs=2) == 0
    assert_same(run_of(), run_of(exp_dir="whole"))


def test_a_network_without_memory_is_exported(dataset, capsys):
    trained(*WITHOUT)
    assert call(export, run_of()) == 0
    assert "items (0, 16)" in capsys.readouterr().out
    program = torch.export.load(run_of() / "model.pt2").module()
    frame, queries, distance = program(torch.zeros(3, 12, 16, 16), torch.zeros(0, 16))
    assert frame.shape == (3, 3, 16, 16)
    assert queries.shape == (3, 2, 2, 16)
    assert distance.tolist() == [0, 0, 0]


@pytest.mark.parametrize("flag", ["--loss_separate", "--loss_compact"])
def test_memory_losses_are_refused(flag, dataset, capsys):
    assert train(*WITHOUT, flag, "0.1") == 2
    one_line(capsys, flag, "--msize 0")


def test_one_item_stays_refused(dataset, capsys):
    assert train("--msize", "1") == 2
    one_line(capsys, "--msize", "2 or more")


def test_items_beside_msize_0_are_refused(dataset, capsys):
    assert evaluate(*WITHOUT, "--m_items_dir", "m_items.pt") == 2
    one_line(capsys, "--m_items_dir", "--msize 0")


def test_msize_0_contradicts_a_model_that_has_memory_and_the_other_way_round(dataset, capsys):
    trained()
    trained(*WITHOUT, exp_dir="without")
    capsys.readouterr()
    assert evaluate(*WITHOUT) == 2
    one_line(capsys, "--msize 0", "which has 4")
    assert evaluate("--exp_dir", "without", "--msize", "4") == 2
    one_line(capsys, "--msize 4", "which has 0")
    assert evaluate("--exp_dir", "without", "--m_items_dir", run_of() / "m_items.pt") == 2
    one_line(capsys, "items of shape (4, 16)")
    assert evaluate("--m_items_dir", run_of(exp_dir="without") / "m_items.pt") == 2
    one_line(capsys, "items of shape (0, 16)")
    assert train(*WITHOUT, "--resume", epochs=2) == 2
    one_line(capsys, "--msize 4, not 0")


@pytest.mark.parametrize("flags", [("--th", "0.02"), ("--th", "auto"), ("--alpha", "0.5")])
def test_flags_of_the_memory_are_refused(flags, dataset, capsys):
    trained(*WITHOUT)
    assert evaluate(*flags) == 2
    one_line(capsys, "no memory", flags[0])


def test_a_memory_that_is_not_there_is_not_diagnosed(dataset, capsys):
    trained(*WITHOUT)
    assert call(diagnose, run_of()) == 2
    one_line(capsys, "without a memory")
