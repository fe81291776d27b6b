"""Weights in the repository: packed from a run, found by name, whole or refused, and worth the number beside them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, call, evaluate, one_line, run_of, trained

import Evaluate
from exp import calibrate, diagnose
from exp import pack as weights
from exp.checkpoints import SHAPE, build_model, load_model
from exp.scoring.trained import load_trained
from utils import run_script

pytestmark = [pytest.mark.usefixtures("small_network"), pytest.mark.slow]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where weights are kept while the test runs."""
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def in_process(monkeypatch):
    """Evaluate.py is not started as a process of its own."""

    def main(script, *arguments):
        assert script == "Evaluate.py" and call(Evaluate, *arguments) == 0

    monkeypatch.setattr(weights, "call", main)


def pack(*arguments):
    sys.argv = ["weights.py", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        run_script(weights.main)
    return end.value.code or 0


def with_weights(*arguments):
    return call(Evaluate, "--num_workers_test", 0, "--no_figures", *arguments)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first test that needs weights/tiny leaves them for the others."""
    return tmp_path_factory.mktemp("kept") / "tiny"


@pytest.fixture
def tiny(dataset, folder, in_process, kept):
    """weights/tiny, packed from a run of recon, which is there too."""
    run = trained("--loss_compact", 0.5, method="recon")
    if not kept.is_dir():
        assert pack(run, "tiny") == 0
        shutil.copytree(folder / "tiny", kept)
    else:
        shutil.copytree(kept, folder / "tiny")
    return folder / "tiny"


def test_packed_weights_give_the_number_beside_them(tiny, capsys):
    about = json.loads((tiny / "metrics.json").read_text())
    capsys.readouterr()
    assert with_weights("--weights", "tiny") == 0
    out = capsys.readouterr().out
    assert f"AUC: {100 * about['auc']:.4f} %" in out.splitlines()
    results = json.loads(Path("exp/own/recon/tiny/evaluation.json").read_text())
    assert Path(results["model"]) == Path("weights/tiny/model.pth")  # and not where this folder is on the machine
    assert evaluate("--method", "recon", "--no_figures") == 0
    whole = float(re.search(r"^AUC: (\S+)", capsys.readouterr().out, re.MULTILINE)[1])
    assert 100 * about["auc"] == pytest.approx(whole, abs=3)  # half precision may swap neighbours among 21 frames
    assert (about["method"], about["dataset_type"]) == ("recon", "own")
    assert about["trained"]["flags"]["loss_compact"] == 0.5
    assert about["trained"]["starts"][0]["torch"] == torch.__version__
    assert not re.search(str(Path.cwd()), (tiny / "metrics.json").read_text())


def test_packing_in_a_process_of_its_own(dataset, folder, whole_network, capfd):
    trained()
    assert pack(run_of(), "tiny") == 0
    lines = capfd.readouterr().out.splitlines()
    number = 100 * json.loads((folder / "tiny" / "metrics.json").read_text())["auc"]
    assert f"AUC: {number:.4f} %" in lines
    assert lines[-1].startswith(str(folder / "tiny")) and f"AUC {number:.4f} %" in lines[-1]


@pytest.mark.parametrize("flag", ["--weights", "--model_dir"])
def test_evaluating_writes_nothing_beside_the_weights(flag, tiny):
    before = sorted(tiny.iterdir())
    assert [path.name for path in before] == sorted((*weights.FILES, weights.SUMS))
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["tiny"]
    assert with_weights(flag, tiny.name if flag == "--weights" else tiny) == 0
    assert sorted(tiny.iterdir()) == before
    assert (Path("exp") / "own" / "recon" / "tiny" / "scores.csv").is_file()


def test_the_memory_of_packed_weights_is_looked_at(tiny, capsys):
    before = sorted(tiny.iterdir())
    assert call(diagnose, tiny, "--clips", 2, "--queries", 10) == 0
    assert sorted(tiny.iterdir()) == before
    assert (Path("exp") / "own" / "recon" / "tiny" / "memory.json").is_file()
    (tiny / "m_items.pt").write_bytes(b"other items")
    assert call(diagnose, tiny) == 2
    one_line(capsys, tiny / "m_items.pt", "not the file that was packed")


def test_packed_weights_keep_their_calibration(tiny, capsys):
    assert call(calibrate, tiny, "--dataset_type", "own") == 2
    one_line(capsys, tiny, "pack the run again", "copy the folder")
    assert with_weights("--weights", "tiny") == 0
    shutil.copytree(tiny, "copied")
    assert call(calibrate, "copied", "--dataset_type", "own") == 0


def test_the_sums_are_those_of_sha256sum(tiny):
    done = subprocess.run(["sha256sum", "--check", weights.SUMS], cwd=tiny, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(weights.FILES)


def test_weights_are_half_as_large_and_load_as_float32(tmp_path, whole_network):
    shape = {"method": "pred", "c": 3, "t_length": 5, "h": 64, "w": 64, "msize": 10, "fdim": 512}
    model = build_model(shape)
    packed = {"format": 1, "shape": shape, "epoch": 1, "model": weights.halved(model.state_dict())}
    items = {"format": 1, "method": "pred", "epoch": 1, "items": torch.rand(10, 512)}
    torch.save(packed, tmp_path / "model.pth")
    torch.save(items, tmp_path / "m_items.pt")
    assert (tmp_path / "model.pth").stat().st_size < 32 * 2**20
    loaded, *_ = load_model(tmp_path / "model.pth", tmp_path / "m_items.pt", dict.fromkeys(SHAPE))
    for (name, value), original in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert value.dtype == original.dtype, name
        torch.testing.assert_close(value, original, rtol=1e-3, atol=1e-7)


def test_what_half_precision_cannot_hold_is_not_packed(dataset, folder, in_process, capsys):
    trained()
    file = torch.load(run_of() / "model.pth", weights_only=True)
    file["model"]["decoder.frame.0.weight"][0, 0, 0, 0] = 1e6
    torch.save(file, run_of() / "model.pth")
    assert pack(run_of(), "tiny") == 2
    one_line(capsys, "decoder.frame.0.weight", "half precision")
    assert not list(folder.iterdir())


def test_flags_that_contradict_weights_are_refused(tiny, capsys):
    for flags in (
        ["--dataset_type", "synthetic"],  # the default, but given
        ["--dataset_type", "ped2"],
        ["--method", "pred"],
        ["--model_dir", "exp"],
        ["--m_items_dir", "m_items.pt"],
        ["--exp_dir", "log"],
        ["--h", "32"],
    ):
        assert with_weights("--weights", "tiny", *flags) == 2
        one_line(capsys, *flags, "contradicts")


def test_flags_that_agree_are_fine(tiny):
    assert with_weights("--weights", "tiny", "--dataset_type", "own", "--method", "recon", "--h", "16") == 0


def test_an_unknown_name_lists_those_that_are_there(tiny, capsys):
    for name in ("other", "../weights/tiny", ""):
        assert with_weights("--weights", name) == 2
        one_line(capsys, "tiny")


def test_damaged_weights_are_refused(tiny, capsys):
    for file in weights.FILES:
        content = (tiny / file).read_bytes()
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        (tiny / file).write_bytes(damaged)
        assert with_weights("--weights", "tiny") == 2
        one_line(capsys, tiny / file, "not the file that was packed")
        (tiny / file).unlink()
        assert with_weights("--weights", "tiny") == 2
        one_line(capsys, tiny / file)
        (tiny / file).write_bytes(content)
    assert with_weights("--weights", "tiny") == 0


def test_mistakes_in_packing(tiny, capsys):
    assert pack("nowhere", "new") == 2
    one_line(capsys, "nowhere")
    for name in ("tiny", "../tiny", "a/b", ""):
        assert pack(run_of("recon"), name) == 2
        one_line(capsys, "new name")
    labels = Path("dataset/own/frame_labels.csv")
    labels.rename("labels.csv")
    assert pack(run_of("recon"), "new") == 2
    one_line(capsys, "own", "no labels")
    Path("labels.csv").rename(labels)
    (run_of("recon") / "calibration.pt").unlink()
    assert pack(run_of("recon"), "new") == 2
    one_line(capsys, "calibration", "python -m exp.calibrate")
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("file", [weights.SUMS, "metrics.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe\n", b"one word\n"])
def test_damaged_lists_are_one_line(file, content, tiny, capsys):
    (tiny / file).write_bytes(content)
    if file == "metrics.json":  # even where the sums were made to fit
        sums = "".join(f"{weights.sha256(tiny / name)}  {name}\n" for name in weights.FILES)
        (tiny / weights.SUMS).write_text(sums)
    capsys.readouterr()
    assert with_weights("--weights", "tiny") == 2
    one_line(capsys, tiny)


def test_git_keeps_the_bytes_of_weights_and_golden_files():
    """With autocrlf on Windows, SHA256SUMS and metrics.json would have other bytes and sums."""
    paths = [path for folder in ("exp/weights", "tests/golden") for path in (ROOT / folder).rglob("*")]
    command = ["git", "check-attr", "text", "--", *(str(path.relative_to(ROOT)) for path in paths)]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip("no git repository here")
    assert paths and all(line.endswith(": text: unset") for line in asked.stdout.splitlines())


def test_the_weights_of_the_repository_are_read_whole(whole_network):
    folders = sorted(path.parent for path in (ROOT / "exp" / "weights").glob(f"*/{weights.SUMS}"))
    assert [folder.name for folder in folders] == ["ped2_pred_256", "ped2_pred_64"]
    for folder in folders:
        trained = load_trained(folder, device="cpu")
        assert trained.normal is not None, trained.no_calibration
