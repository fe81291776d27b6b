"""The exported program: the network's frame and features, from a file that needs nothing of this project."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import call, one_line

from exp import export
from exp.checkpoints import FORMAT, SHAPE, build_model, load_model
from model import memory

NEEDS_ONLY_TORCH = """
import sys, torch
frames, items = torch.load("inputs.pt", weights_only=True)
program = torch.export.load("model.pt2").module()
torch.save([output.detach() for output in program(frames, items)], "outputs.pt")
assert not {"model", "exp", "data", "utils"} & {name.split(".")[0] for name in sys.modules}
"""


def make_run(folder, method="pred", items=None, **flags):
    """A run of a network whose batch norms have seen something, with the files that later commands read."""
    shape = {"method": method, "c": 3, "t_length": 5 if method == "pred" else 1}
    shape |= {"h": 24, "w": 16, "msize": 4, "fdim": 16}
    torch.manual_seed(0)
    model = build_model(shape).train()
    with torch.no_grad():
        model(torch.rand(4, model.inputs, 24, 16), memory.initial_items(4, 16))
    folder.mkdir()
    of = {"format": FORMAT, "epoch": 1}
    items = memory.initial_items(4, 16) if items is None else items
    torch.save({**of, "shape": shape, "model": model.state_dict()}, folder / "model.pth")
    torch.save({**of, "method": method, "items": items}, folder / "m_items.pt")
    (folder / "flags.json").write_text(json.dumps({**shape, **flags}))
    return folder


@pytest.fixture
def run(request, tmp_path):
    return make_run(tmp_path / "run", getattr(request, "param", "pred"))


def inputs_and_outputs(run, count):
    """Frames and items for a run, and what its network gives for them: frame, queries, distance of each clip."""
    model, items, _ = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    frames = torch.rand(count, model.inputs, 24, 16) * 2 - 1
    with torch.no_grad():
        output = model(frames, items.expand(count, -1, -1))
    return (frames, items), (output.frame, output.queries, output.compactness)


def close(outputs, expected):
    return all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in zip(outputs, expected, strict=True))


both_methods = pytest.mark.parametrize("run", ["pred", "recon"], indirect=True)


@both_methods
def test_a_loaded_program_gives_what_the_network_gives(run, capsys):
    assert call(export, run) == 0
    extra = {"mnad.json": ""}
    program = torch.export.load(run / "model.pt2", extra_files=extra).module()
    for count in (1, 2, 5):
        given, expected = inputs_and_outputs(run, count)
        assert close(program(*given), expected)
    frames, items = given
    takes = f"takes frames (B, {frames.shape[1]}, 24, 16) and items (4, 16)"
    assert f"{run / 'model.pt2'}: {takes}" in capsys.readouterr().out
    assert not close(program(frames, items.roll(1, dims=1)), expected)  # the memory is an input
    assert extra["mnad.json"] == json.dumps(load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))[2])
    with pytest.raises((RuntimeError, AssertionError)):
        program(frames[..., :8], items)


def test_loading_needs_only_torch(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert call(export, run / "model.pth", "--output", elsewhere / "model.pt2") == 0
    assert [path.name for path in elsewhere.iterdir()] == ["model.pt2"]
    given, expected = inputs_and_outputs(run, 3)
    torch.save(list(given), elsewhere / "inputs.pt")
    # isolated: no PYTHONPATH, no current directory among the places of modules
    subprocess.run([sys.executable, "-I", "-c", NEEDS_ONLY_TORCH], cwd=elsewhere, check=True, timeout=120)
    assert close(torch.load(elsewhere / "outputs.pt", weights_only=True), expected)


@both_methods
def test_onnx_gives_what_the_network_gives(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    for name in export.ONNX_PACKAGES:
        pytest.importorskip(name)
    assert call(export, run, "--onnx", tmp_path / "model.onnx") == 0
    graph = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in graph.get_outputs()] == list(export.OUTPUTS)
    for count in (1, 3):
        (frames, items), expected = inputs_and_outputs(run, count)
        outputs = graph.run(None, {"frames": frames.numpy(), "items": items.numpy()})
        assert close([torch.from_numpy(output) for output in outputs], expected)


def test_missing_onnx_is_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert call(export, run, "--onnx", tmp_path / "model.onnx") == 2
    one_line(capsys, "--onnx", "pip install onnx onnxscript")
    assert not (run / "model.pt2").exists()


def test_mistakes_are_one_line(run, tmp_path, capsys):
    assert call(export, tmp_path / "nowhere") == 2
    one_line(capsys, tmp_path / "nowhere")
    assert call(export, run, "--output", tmp_path / "no" / "model.pt2") == 2
    one_line(capsys, "cannot write", tmp_path / "no" / "model.pt2")
    (run / "m_items.pt").unlink()
    assert call(export, run) == 2
    one_line(capsys, run / "m_items.pt")
    assert not list(run.glob("*.pt2*"))


def test_files_of_the_run_and_what_is_no_file_are_not_written_to(run, tmp_path, capsys):
    (tmp_path / "link.pt2").symlink_to(run / "model.pth")
    os.link(run / "m_items.pt", tmp_path / "hard.pt2")
    before = {path: path.read_bytes() for path in run.iterdir()}
    own = [
        run / "model.pth",
        run / "m_items.pt",
        run / "flags.json",
        run / "checkpoint.pt",
        run / ".." / "run/model.pth",
    ]
    own += [tmp_path / "link.pt2", tmp_path / "hard.pt2"]
    for path in (*own, Path("/dev/null"), tmp_path):
        assert call(export, run, "--output", path) == 2
        one_line(capsys, path)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_called_that(run, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call(export, run) == 2
    one_line(capsys, "cannot write", "No space left on device")
    assert not list(run.glob("*.pt2")) and not list(run.glob(".*"))
