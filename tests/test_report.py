"""The scripts draw what they promise, and refuse frames that cannot be drawn."""

from pathlib import Path

import pytest
from drawn import opened, picture
from helpers import TINY, call, make_run, one_line, run_of

import Evaluate
import Train

pytestmark = pytest.mark.usefixtures("small_network")


def test_the_scripts_draw_and_annotate(dataset, capsys):
    assert call(Train, *TINY, "--epochs", 1) == 0
    picture(run_of() / "figures" / "training.png", 1200, 700)
    flags = ["--dataset_type", "own", "--num_workers_test", 0]
    chosen = ["--frames", "2:8", "1:4", "--smooth", 2]
    assert call(Evaluate, *flags, "--save_video", *chosen, "--output_dir", "out") == 0
    picture(Path("out/figures/roc.png"), 700, 700)
    picture(Path("out/figures/histogram.png"), 900, 500)
    assert sorted(path.name for path in Path("out/figures/frames").iterdir()) == ["1_0004.png", "2_0008.png"]
    for name, length in (("1", 8), ("2", 5)):
        picture(Path(f"out/figures/scores/{name}.png"), 1200, 1100)  # training left a calibration
        assert len(opened(f"out/videos/{name}.mp4")[0]) == length
    out = capsys.readouterr().out
    assert "figures: out/figures" in out and "annotated videos: out/videos" in out


@pytest.fixture
def untrained(dataset):
    return make_run(Path("run"), size=(16, 16))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["3:5"], ["3:5", "no test video 3; the videos are 1, 2"]),
        (["1:5", "1:3"], ["1:3", "frames 4 to 11"]),
        (["1:12"], ["1:12", "frames 4 to 11"]),
        (["5"], ["'5'", "01:120"]),
        (["1:5", "--no_figures"], ["--no_figures"]),
        (["1:5", "--video", "0"], ["--video"]),
    ],
)
def test_frames_that_cannot_be_drawn(chosen, words, untrained, capsys):
    flags = ["--dataset_type", "own", "--model_dir", untrained, "--output_dir", "out"]
    assert call(Evaluate, *flags, "--frames", *chosen) == 2
    one_line(capsys, "--frames", *words)
    assert not Path("out").exists()
