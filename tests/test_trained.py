"""The door for other Python programs: a network loaded and frames scored as Evaluate.py does both."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import textured
from helpers import ROOT, calibrate_run, make_run, write_video

from data.cache import NO_CACHE
from data.clips import open_clips, testing_loader
from data.stream import Stream
from data.times import times_path, write_times
from exp.scoring.evaluation import evaluate
from exp.scoring.score import Scoring
from exp.scoring.trained import load_trained, score_frames, score_video
from utils import InputError

VIDEOS = Path(__file__).parent / "videos"
pytestmark = pytest.mark.usefixtures("in_its_own_folder", "small_network")


@pytest.fixture
def run(tmp_path, make_videos):
    return calibrate_run(make_run(tmp_path / "run", size=(16, 16)), make_videos(Path("normal"), {"1": 20}))


@pytest.mark.parametrize("scoring", [None, Scoring(th=1, alpha=0.2)])
def test_frames_score_as_those_of_a_data_set(scoring, run, make_videos):
    trained = load_trained(run, device="cpu")
    videos = make_videos(Path("testing"), {"1": 13}, ext=".png")
    clips = open_clips(videos, "testing", 5, (16, 16, 3), NO_CACHE)
    same = scoring or Scoring(th=0.01, alpha=0.6)  # the paper's
    expected = evaluate(trained.model, trained.items, testing_loader(clips), same, None, [np.arange(13) / 25])
    found = score_frames(trained, (textured("1", k, (24, 32)) for k in range(13)), scoring)
    assert found.frame.tolist() == list(range(4, 13))
    for name in ("psnr", "distance", "regular"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[0], rtol=1e-4)
    assert found.updated.tolist() == expected.updated[0].tolist() == [scoring is not None] * 9
    p, d = (np.concatenate(values).astype(float) for values in (trained.normal.psnr, trained.normal.distance))
    psnr, distance = (p.mean() - found.psnr) / p.std(), (found.distance - d.mean()) / d.std()
    np.testing.assert_allclose(found.abnormality, same.alpha * psnr + (1 - same.alpha) * distance)


def same_scores(found, expected):
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), values, err_msg=name)


def test_a_video_file_and_its_frames_in_a_folder_score_the_same(run):
    trained = load_trained(run, device="cpu")
    write_video(Path("door.avi"), seed=0, abnormal=range(20, 25))
    of_file = score_video(trained, Path("door.avi"))
    assert of_file.frame.tolist() == list(range(4, 30))
    np.testing.assert_allclose(of_file.seconds, of_file.frame / 10)
    pictures = [frame.picture for frame in Stream("door.avi")]
    same_scores(score_frames(trained, pictures), of_file._replace(seconds=np.full(26, np.nan)))
    folder = Path("set/testing/frames/door")
    folder.mkdir(parents=True)
    for k, picture in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"{k + 1}.png"), picture)
    same_scores(score_video(trained, folder), of_file._replace(seconds=np.full(26, np.nan)))
    write_times(times_path(folder), np.arange(30) / 10)
    same_scores(score_video(trained, folder), of_file)


def test_no_clip_spans_a_gap_in_time(run):
    """A recording that stops after frame 49 and goes on an hour later."""
    trained, path = load_trained(run, device="cpu"), VIDEOS / "motion_triggered.mp4"
    scores = score_video(trained, path)
    assert scores.frame.tolist() == [*range(4, 50), *range(54, len(scores.frame) + 8)]
    frames = list(Stream(str(path)))
    folder = Path("set/testing/frames/door")
    folder.mkdir(parents=True)
    for frame in frames:
        assert cv2.imwrite(str(folder / f"{frame.index}.png"), frame.picture)
    write_times(times_path(folder), [frame.seconds for frame in frames])
    same_scores(score_video(trained, folder), scores)


def test_videos_that_cannot_be_read_are_refused(run):
    trained = load_trained(run, device="cpu")
    write_video(Path("door.avi"), seed=0)
    Path("cut.avi").write_bytes(Path("door.avi").read_bytes()[:9000])
    Path("empty").mkdir()
    for path, match in (("gone.avi", "does not exist"), ("cut.avi", "cut.avi"), ("empty", "no frames in empty")):
        with pytest.raises(InputError, match=match):
            score_video(trained, Path(path))


def test_the_example_of_the_page_runs(whole_network, capsys):
    text = (ROOT / "exp" / "README.md").read_text(encoding="utf-8")
    example = text.split("## From Python\n\n```python\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 10
    Path("exp").mkdir()
    Path("exp/weights").symlink_to(ROOT / "exp" / "weights")
    write_video(Path("door.avi"), seed=0)
    Path("door.avi").rename("door.mp4")
    names = {"frames": [textured("1", k, (24, 32)) for k in range(6)]}
    exec(example, names)
    assert names["scores"].frame.tolist() == [4, 5] and names["scores"].abnormality.shape == (2,)
    assert capsys.readouterr().out.startswith("[4 5]")  # nothing like the walkway that these weights know


def test_without_a_calibration_there_is_no_abnormality(run):
    (run / "calibration.pt").unlink()
    trained = load_trained(run / "model.pth", device="cpu")
    assert trained.normal is None and "python -m exp.calibrate" in trained.no_calibration
    assert score_frames(trained, [textured("1", k, (24, 32)) for k in range(6)]).abnormality is None


def test_too_few_frames_are_refused(run):
    with pytest.raises(InputError, match="this network needs clips of 5"):
        score_frames(load_trained(run, device="cpu"), [textured("1", k, (24, 32)) for k in range(4)])
