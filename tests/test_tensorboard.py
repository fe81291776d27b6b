"""Train.py --tensorboard: what is logged, that it changes no run, and what is said where the package is missing."""

import json
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest
from helpers import TINY, assert_same, call, one_line, run_of

import Train
from exp.report import tensorboard

pytestmark = pytest.mark.usefixtures("small_network")

SCALARS = {
    "loss/loss": "loss",
    "loss/pixel": "pixel",
    "loss/compactness": "compactness",
    "loss/separateness": "separateness",
    "training/lr": "lr",
    "training/clips_per_second": "clips_per_second",
}


def train(*flags, epochs=1):
    return call(Train, *TINY, "--no_figures", "--epochs", epochs, *flags)


def metrics(exp_dir):
    return [json.loads(line) for line in (run_of(exp_dir=exp_dir) / "metrics.jsonl").read_text().splitlines()]


class Writer:
    """Stands for torch.utils.tensorboard.SummaryWriter."""

    def __init__(self, directory, purge_step):
        self.directory, self.purge_step, self.scalars, self.images, self.flushed = directory, purge_step, {}, {}, 0

    def add_scalar(self, name, value, step):
        self.scalars[name, step] = value

    def add_image(self, name, picture, step):
        self.images[step] = picture.numpy()

    def flush(self):
        self.flushed += 1


@pytest.fixture
def writers(monkeypatch):
    """All writers that were made."""
    made = []

    def make(*arguments, **settings):
        made.append(Writer(*arguments, **settings))
        return made[-1]

    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = make
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    monkeypatch.setattr(tensorboard, "require_package", lambda: None)
    return made


def test_each_epoch_is_logged_and_no_run_changes(dataset, writers):
    assert train("--exp_dir", "without", epochs=2) == 0
    assert not writers
    assert train("--exp_dir", "with", "--tensorboard", epochs=2) == 0
    assert_same(run_of(exp_dir="with"), run_of(exp_dir="without"))
    (writer,) = writers
    assert writer.directory == run_of(exp_dir="with") / "tensorboard"
    assert (writer.purge_step, writer.flushed) == (1, 2)
    for epoch, line in enumerate(metrics("with"), start=1):
        assert all(writer.scalars[name, epoch] == line[key] for name, key in SCALARS.items())
        cosines = [writer.scalars[f"memory/{which}_cosine", epoch] for which in ("lowest", "highest")]
        assert cosines == line["item_cosines"]
    assert len(writer.scalars) == 2 * 8 and writer.images.keys() == {1, 2}


def test_pictures_are_frames_and_errors(dataset, writers):
    assert train("--tensorboard", "--method", "recon") == 0
    picture = writers[0].images[1]
    # four clips below one another, three pictures side by side, two pixels around each
    assert picture.shape == (3, 4 * 18 + 2, 3 * 18 + 2)
    assert picture.min() >= 0 and picture.max() <= 1
    frame = cv2.imread("dataset/own/training/frames/1/000.jpg")
    shown = 255 * picture[::-1, 2:18, 2:18].transpose(1, 2, 0)  # the first clip's input, as BGR
    assert np.abs(shown - cv2.resize(frame, (16, 16))).max() < 1
    error = picture[:, :, 38:54]
    assert (error[0] == error[1]).all() and error.max() == pytest.approx(1)


def test_a_resumed_run_goes_on_where_it_was(dataset, writers):
    assert train("--tensorboard") == 0
    assert train("--resume", epochs=1) == 0  # the flag may be left out, or given later
    flags = run_of() / "flags.json"
    flags.write_text(flags.read_text().replace('"epochs": 1', '"epochs": 2'))
    assert train("--resume", "--tensorboard", epochs=2) == 0
    assert [writer.purge_step for writer in writers] == [1, 2]
    assert {step for _, step in writers[1].scalars} == {2}


def test_a_missing_package_is_one_line_and_costs_nothing(dataset, monkeypatch, capsys):
    assert train() == 0
    before = metrics("log")
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    assert train("--tensorboard", "--overwrite") == 2
    one_line(capsys, "--tensorboard", "pip install tensorboard")
    assert metrics("log") == before


def test_events_read_back(dataset):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("--tensorboard", epochs=2) == 0
    events = EventAccumulator(str(run_of() / "tensorboard"))
    events.Reload()
    lines = metrics("log")
    for name, key in SCALARS.items():
        logged = events.Scalars(name)
        assert [event.step for event in logged] == [1, 2]
        assert [event.value for event in logged] == pytest.approx([line[key] for line in lines], rel=1e-6)
    (name,) = events.Tags()["images"]
    assert [(image.height, image.width) for image in events.Images(name)] == [(74, 56)] * 2
    assert train("--overwrite") == 0
    assert not (run_of() / "tensorboard").exists()
