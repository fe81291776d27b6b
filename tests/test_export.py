"""The exported program: the network's frame and features, from a file that needs nothing of this project."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import textured
from helpers import calibrate_run, call, make_run, one_line

from data.pictures import to_planes
from exp import export
from exp.checkpoints import SHAPE, load_model
from exp.flags import METHODS
from exp.scoring.trained import load_trained, score_frames
from model import memory

pytestmark = pytest.mark.usefixtures("small_network")

SCORES_WITHOUT_TORCH = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
known = json.loads(session.get_modelmeta().custom_metadata_map["mnad.json"])
items, pictures = np.load("model.items.npy"), np.load("pictures.npy")  # (n, h, w, c), 8 bits, the channels as named
assert known["scaling"] == "x / 127.5 - 1" and pictures.shape[1:] == (known["h"], known["w"], known["c"])
frames = (pictures / np.float32(127.5) - 1).transpose(0, 3, 1, 2)
rows = []
for k in range(known["t_length"] - 1, len(frames)):
    before = frames[k - known["t_length"] + 1 : k] if known["method"] == "pred" else frames[k : k + 1]
    given = {"frames": np.concatenate(before)[None], "items": items}
    frame, queries, (distance,) = session.run(["frame", "queries", "distance"], given)
    e = ((frame[0] - frames[k]) / 2) ** 2
    regular = ((1 - np.exp(-e)) * e).sum() / (1 - np.exp(-e)).sum()
    rows.append((-10 * np.log10(e.mean()), distance, regular))
    if regular < known["th"] and len(items):
        queries = queries.reshape(-1, items.shape[1])
        s = queries @ items.T
        chosen = s.argmax(axis=1)[:, None] == np.arange(len(items))
        moved = items + (np.exp(s - s.max(axis=0)) * chosen).T @ queries
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        items = np.where(chosen.any(axis=0)[:, None], moved, items).astype(np.float32)
p, d, e = np.array(rows).T
n = known["calibration"]
abnormality = known["alpha"] * (n["psnr_mean"] - p) / n["psnr_deviation"]
abnormality += (1 - known["alpha"]) * (d - n["distance_mean"]) / n["distance_deviation"]
np.savez("scores.npz", psnr=p, distance=d, regular=e, abnormality=abnormality, threshold=n["threshold"])
assert not {"torch", "cv2", "onnx", "model", "exp", "data", "utils"} & {name.split(".")[0] for name in sys.modules}
"""
NEEDS_ONLY_TORCH = """
import sys, torch
frames, items = torch.load("inputs.pt", weights_only=True)
program = torch.export.load("model.pt2").module()
torch.save([output.detach() for output in program(frames, items)], "outputs.pt")
assert not {"model", "exp", "data", "utils"} & {name.split(".")[0] for name in sys.modules}
"""


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
    out = capsys.readouterr().out
    assert f"{run / 'model.pt2'}: {takes}" in out
    assert not close(program(frames, items.roll(1, dims=1)), expected)  # the memory is an input
    known, shape = (
        json.loads(extra["mnad.json"]),
        load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))[2],
    )
    assert known == {**known, **shape, "channels": "BGR", "scaling": "x / 127.5 - 1", "calibration": None}
    assert "no calibration" in out
    with pytest.raises((RuntimeError, AssertionError)):
        program(frames[..., :8], items)


@pytest.mark.slow  # a process that imports PyTorch
def test_loading_needs_only_torch(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert call(export, run / "model.pth", "--output", elsewhere / "model.pt2") == 0
    assert [path.name for path in elsewhere.iterdir()] == ["model.pt2"]
    given, expected = inputs_and_outputs(run, 3)
    torch.save(list(given), elsewhere / "inputs.pt")
    # isolated: no PYTHONPATH, no current directory among the places of modules
    subprocess.run([sys.executable, "-I", "-c", NEEDS_ONLY_TORCH], cwd=elsewhere, check=True)
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


@pytest.mark.parametrize(("method", "channels", "msize"), [("pred", 3, 4), ("recon", 1, 4), ("pred", 3, 0)])
def test_scores_without_torch(method, channels, msize, tmp_path, make_videos, monkeypatch):
    """PSNR, feature distance, regular score and calibrated abnormality from the ONNX file and what is beside it."""
    for name in ("onnxruntime", *export.ONNX_PACKAGES):
        pytest.importorskip(name)
    run = make_run(tmp_path / "run", method, items=memory.initial_items(msize, 16), channels=channels)
    calibrate_run(run, make_videos(tmp_path / "normal", {"1": 12}))
    trained = load_trained(run, device="cpu")
    # so that about half of the frames update the memory
    monkeypatch.setitem(METHODS[method], "th", float(np.median(np.concatenate(trained.normal.regular))))
    assert call(export, run, "--onnx", tmp_path / "model.onnx") == 0

    pictures = [textured("door", k, (24, 16)) for k in range(12)]
    expected = score_frames(trained, pictures)
    assert not msize or 0 < expected.updated.sum() < len(expected.updated)
    planes = [to_planes(picture, 24, 16, channels).transpose(1, 2, 0) for picture in pictures]
    np.save(tmp_path / "pictures.npy", np.stack(planes))
    subprocess.run([sys.executable, "-c", SCORES_WITHOUT_TORCH], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "scores.npz")
    for name in ("psnr", "distance", "regular", "abnormality"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-3, atol=1e-6, err_msg=name)
    assert found["threshold"] == pytest.approx(trained.normal.threshold(trained.scoring(), 0.001, fps=25))


def test_a_network_without_a_memory_is_exported(tmp_path):
    run = make_run(tmp_path / "run", items=memory.initial_items(0, 16))
    assert call(export, run) == 0
    given, expected = inputs_and_outputs(run, 3)
    assert given[1].shape == (0, 16) and not expected[2].any()
    assert close(torch.export.load(run / "model.pt2").module()(*given), expected)


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
    (tmp_path / "graph.items.npy").symlink_to(run / "m_items.pt")
    assert call(export, run, "--onnx", tmp_path / "graph.onnx") == 2
    one_line(capsys, tmp_path / "graph.items.npy")
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_called_that(run, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call(export, run) == 2
    one_line(capsys, "cannot write", "No space left on device")
    assert not list(run.glob("*.pt2")) and not list(run.glob(".*"))
