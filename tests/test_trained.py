"""The door for other Python programs: a network loaded and frames scored as Evaluate.py does both."""

from pathlib import Path

import numpy as np
import pytest
from conftest import textured
from helpers import calibrate_run, make_run

from data.cache import NO_CACHE
from data.clips import open_clips, testing_loader
from exp.scoring.evaluation import evaluate
from exp.scoring.trained import load_trained, score_frames
from utils import InputError

pytestmark = pytest.mark.usefixtures("in_its_own_folder")


@pytest.fixture
def run(tmp_path, make_videos):
    return calibrate_run(make_run(tmp_path / "run", size=(16, 16)), make_videos(Path("normal"), {"1": 20}))


def test_frames_score_as_those_of_a_data_set(run, make_videos):
    trained = load_trained(run, device="cpu")
    videos = make_videos(Path("testing"), {"1": 13}, ext=".png")
    clips = open_clips(videos, "testing", 5, (16, 16, 3), NO_CACHE)
    expected = evaluate(
        trained.model, trained.items, testing_loader(clips), trained.scoring(), None, [np.arange(13) / 25]
    )
    found = score_frames(trained, (textured("1", k, (24, 32)) for k in range(13)))
    assert found.frame.tolist() == list(range(4, 13))
    for name in ("psnr", "distance", "regular"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[0], rtol=1e-4)
    np.testing.assert_allclose(found.abnormality, trained.normal.abnormality(found.psnr, found.distance, 0.6))


def test_without_a_calibration_there_is_no_abnormality(run):
    (run / "calibration.pt").unlink()
    trained = load_trained(run / "model.pth", device="cpu")
    assert trained.normal is None and "python -m exp.calibrate" in trained.no_calibration
    assert score_frames(trained, [textured("1", k, (24, 32)) for k in range(6)]).abnormality is None


def test_too_few_frames_are_refused(run):
    with pytest.raises(InputError, match="a clip of this network has 5"):
        score_frames(load_trained(run, device="cpu"), [textured("1", k, (24, 32)) for k in range(4)])
