"""data.check: what it calls an error stops Train.py or Evaluate.py, and nothing else does; what it finds is named."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
from conftest import textured
from helpers import TINY, call

import Evaluate
import Train
from data import check
from data.labels import built_in_labels
from utils import run_script

pytestmark = pytest.mark.usefixtures("small_network")

PICTURES = Path(__file__).parent / "pictures"
TRAINING, TESTING = {"1": 10, "2": 10}, {"3": 12, "4": 9}


@pytest.fixture
def dataset(tmp_path, make_videos, monkeypatch):
    """dataset/own: 2 training videos with 12 clips of 5 frames, 2 test videos with labels of both classes."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "dataset" / "own"
    make_videos(own / "training" / "frames", TRAINING)
    make_videos(own / "testing" / "frames", TESTING)
    (own / "frame_labels.csv").write_text("video,first,last\n3,6,8\n4,0,5\n")
    return own


def run_check(capsys, *arguments):
    """The exit status and the lines after the tables: findings and, last, the verdict."""
    capsys.readouterr()
    status = check.main([str(argument) for argument in arguments])
    return status, capsys.readouterr().out.rpartition("\n\n")[2].splitlines()


def findings(capsys, *arguments):
    """The findings on data that trains and evaluates."""
    status, lines = run_check(capsys, *arguments)
    training, evaluation = lines[-1].split("; ")
    assert status == 0
    assert training.startswith("training: nothing found that stops it (every frame decodes, ")
    assert evaluation.startswith("evaluation: nothing found that stops it (every frame decodes, ")
    return lines[:-1]


def picture(path, content):
    path.write_bytes(cv2.imencode(".png", content)[1].tobytes())


# What stops the scripts ----------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def keep_only(folder, videos, frames):
    for video in folder.iterdir():
        if video.name not in videos:
            shutil.rmtree(video)
    for video in videos:
        for path in sorted((folder / video).iterdir())[frames:]:
            path.unlink()


BREAKS = {  # what is done to the folders training/frames, testing/frames and the data set -> what fails
    "nothing": (lambda training, testing, own: None, ""),
    "truncated training frame": (lambda training, testing, own: cut(training / "2" / "004.jpg"), "training"),
    "truncated test frame": (lambda training, testing, own: cut(testing / "3" / "011.jpg"), "evaluation"),
    "no picture": (lambda training, testing, own: (training / "1" / "000.jpg").write_text("text"), "training"),
    "foreign training file": (lambda training, testing, own: (training / "1" / "notes.txt").touch(), "training"),
    "foreign test file": (lambda training, testing, own: (testing / "4" / "notes.txt").touch(), "evaluation"),
    "empty training video": (lambda training, testing, own: (training / "5").mkdir(), "training"),
    "empty test video": (lambda training, testing, own: (testing / "5").mkdir(), "evaluation"),
    "no training": (lambda training, testing, own: shutil.rmtree(own / "training"), "training"),
    "no training videos": (lambda training, testing, own: keep_only(training, [], 0), "training"),
    "no testing": (lambda training, testing, own: shutil.rmtree(testing), "evaluation"),
    "no clip": (lambda training, testing, own: keep_only(training, "12", 4), "training"),
    "no test clip": (lambda training, testing, own: keep_only(testing, "4", 4), "evaluation"),
    "too few clips": (lambda training, testing, own: keep_only(training, "1", 7), "training"),
    "just enough clips": (lambda training, testing, own: keep_only(training, "1", 8), ""),
    "labels of another length": (
        lambda training, testing, own: np.save(own / "frame_labels.npy", [0, 1]),
        "evaluation",
    ),
    "a wrong line": (
        lambda training, testing, own: (own / "frame_labels.csv").write_text("video,first,last\n3,6,12\n"),
        "evaluation",
    ),
    "a link to nothing": (lambda training, testing, own: (training / "5").symlink_to("nowhere"), "training"),
    "no labels": (lambda training, testing, own: (own / "frame_labels.csv").unlink(), ""),
    "labels of one class": (
        lambda training, testing, own: (own / "frame_labels.csv").write_text("video,first,last\n3,0,3\n"),
        "",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run trained on data that is whole."""
    folder = tmp_path_factory.mktemp("model")
    for split, videos in (("training", TRAINING), ("testing", TESTING)):
        for name, length in videos.items():
            (folder / "dataset" / "own" / split / "frames" / name).mkdir(parents=True)
            for i in range(length):
                picture(folder / "dataset" / "own" / split / "frames" / name / f"{i}.png", textured(name, i, (16, 16)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small.shrink(patch.setattr)
        assert call(Train, *TINY, "--epochs", 1, "--no_figures") == 0
    return folder / "exp" / "own" / "pred" / "log"


class Reached(Exception):
    """The script has all its data and begins to compute."""


def computes(script, function, monkeypatch, *arguments):
    """Whether a script comes to call its function that computes."""

    def reached(*_, **__):
        raise Reached

    monkeypatch.setattr(script, function, reached)
    try:
        assert call(script, *arguments) == 2
    except Reached:
        return True
    return False


@pytest.mark.parametrize("name", BREAKS)
def test_errors_are_what_stops_the_scripts(name, dataset, model, monkeypatch, capsys):
    damage, fails = BREAKS[name]
    damage(dataset / "training" / "frames", dataset / "testing" / "frames", dataset)
    status, lines = run_check(capsys, "own")
    assert status == bool(fails)
    errors = [line for line in lines if line.startswith("error: ")]
    assert all(line.startswith(f"error: {fails} fails: ") for line in errors) and bool(errors) == bool(fails)
    for script in ("training", "evaluation"):
        assert f"{script}{' would fail' if script == fails else ': nothing found that stops it'}" in lines[-1]
    assert computes(Train, "train_epoch", monkeypatch, *TINY) == (fails != "training")
    flags = ("--dataset_type", "own", "--num_workers_test", 0, "--model_dir", model, "--output_dir", "scores")
    assert computes(Evaluate, "evaluate", monkeypatch, *flags) == (fails != "evaluation")


def test_all_problems_are_found_at_once(dataset, capsys):
    training, testing = dataset / "training" / "frames", dataset / "testing" / "frames"
    for path in (training / "1" / "003.jpg", training / "1" / "005.jpg", testing / "4" / "000.jpg"):
        cut(path)
    (training / "2" / "notes.txt").touch()
    (testing / "5").mkdir()
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,6,12\n3,1\n4,0,5\n")
    status, lines = run_check(capsys, dataset)
    assert status == 1 and lines[-1] == "training would fail; evaluation would fail"
    errors = [line for line in lines if line.startswith("error: ")]
    assert lines[: len(errors)] == errors  # the worst first
    for words in (
        ("training fails", training / "1" / "003.jpg", "and 1 more frames of this video"),
        ("evaluation fails", testing / "4" / "000.jpg", "truncated"),
        ("training fails", training / "2" / "notes.txt"),
        ("evaluation fails", "no frames in", testing / "5"),
        ("evaluation fails", "line 2", "frame 12 is outside"),
        ("evaluation fails", "line 3", "2 values"),
    ):
        assert sum(all(str(word) in line for word in words) for line in errors) == 1, words
    assert len(errors) == 6


def test_flags_are_those_of_training(dataset, capsys):
    assert run_check(capsys, "own", "--batch_size", 12)[0] == 0
    status, lines = run_check(capsys, "own", "--batch_size", 13)
    assert status == 1 and "12 training clips do not fill a batch of 13" in lines[0]
    assert run_check(capsys, "own", "--batch_size", 20, "--t_length", 1)[0] == 0
    assert run_check(capsys, "own", "--t_length", 10, "--batch_size", 2)[0] == 0
    status, lines = run_check(capsys, "own", "--t_length", 13)
    assert status == 1 and lines[-1] == "training would fail; evaluation would fail"


# What does not -------------------------------------------------------------------------------------------------------


def test_whole_data_has_no_findings(dataset, capsys):
    assert findings(capsys, "own") == []
    assert check.main(["own"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["training", "2", "20", "12", "32x24"] in rows and ["testing", "2", "21", "13", "32x24"] in rows
    assert ["3", "12", "3", "25.0", "%"] in rows and ["4", "9", "6", "66.7", "%"] in rows
    assert ["all", "21", "9", "42.9", "%"] in rows
    assert ["labels:", "dataset/own/frame_labels.csv"] in rows


def test_masks_are_checked(dataset, capsys):
    masks = dataset / "testing" / "masks"
    for video, length, marked in (("3", 12, range(6, 9)), ("4", 9, range(0, 5))):
        (masks / video).mkdir(parents=True)
        for k in range(length):
            picture(masks / video / f"{k:03}.png", np.full((12, 16), 255 * (k in marked), np.uint8))
    (finding,) = findings(capsys, "own")
    assert finding.startswith("warning: masks and labels disagree") and "005.jpg of 4" in finding
    picture(masks / "4" / "005.png", np.full((12, 16), 255, np.uint8))
    assert findings(capsys, "own") == []
    cut(masks / "3" / "007.png")
    (masks / "4" / "008.png").unlink()
    unreadable, missing = findings(capsys, "own")
    assert unreadable.startswith("warning: cannot read mask dataset/own/testing/masks/3/007.png")
    assert missing.startswith("warning: ") and "008.png is missing" in missing


def test_labels_in_seconds_need_times_or_a_rate(dataset, capsys):
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,0:00.6,0:00.8\n4,0:00,0:00.5\n")
    status, lines = run_check(capsys, "own")
    assert status == 1 and "--fps of Evaluate.py" in lines[0]
    assert findings(capsys, "own", "--fps", 10) == []
    assert check.main(["own", "--fps", "10"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3", "12", "3", "25.0", "%"] in rows and ["4", "9", "6", "66.7", "%"] in rows


def test_a_data_set_is_given_by_name_or_path(dataset, tmp_path, capsys, monkeypatch):
    (dataset / "notes.txt").touch()
    expected = ["note: not read: notes.txt"]
    assert findings(capsys, dataset) == findings(capsys, f"{dataset}/") == findings(capsys, "./dataset/own") == expected
    monkeypatch.chdir(dataset)
    assert findings(capsys, ".") == findings(capsys, "own", "--dataset_path", "..") == expected


def test_the_synthetic_data_set_is_made_and_has_no_findings(tmp_path, capsys, monkeypatch):
    from data import synthetic

    monkeypatch.setattr(synthetic.ensure, "__defaults__", (synthetic.Size(32, 2, 12, 2, 60),))
    assert findings(capsys, "synthetic", "--dataset_path", tmp_path) == []


def test_short_videos_are_named(dataset, capsys):
    for i in range(4, 10):
        (dataset / "training" / "frames" / "2" / f"{i:03}.jpg").unlink()
    (finding,) = findings(capsys, "own")
    assert finding == "warning: training video 2 has 4 frames, but a clip has 5 (--t_length): it is skipped"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["1", "2", "3", "7", "8"], "lacks 3 frames in 1 gaps, the first after 3.png"),
        (["0", "2", "4", "8", "10"], "lacks 1 frames in 1 gaps, the first after 4.png"),  # each second frame was kept
        (["f1", "f2", "f3", "g4", "g5"], "not numbered alike (f3.png, g5.png)"),
        (["1", "2", "02", "3", "4"], "has 1 repeated frame numbers, first in 02.png and 2.png"),
        (["0", "5", "10", "15", "20"], None),
        (["0033", "0066", "0100", "0133", "0166"], None),  # milliseconds
        (["2024-01-01_10-59-58", "2024-01-01_10-59-59", "2024-01-01_11-00-00", "2024-01-01_11-00-01"], None),
    ],
)
def test_frame_names(names, says, dataset, capsys):
    folder = dataset / "training" / "frames" / "9"
    folder.mkdir()
    for i, name in enumerate(names):
        picture(folder / f"{name}.png", textured("9", i, (24, 32)))
    found = [line for line in findings(capsys, "own") if "(--t_length)" not in line]
    assert len(found) == bool(says)
    if says:
        assert found[0].startswith("warning: training video 9") and says in found[0]


def test_frame_sizes(dataset, capsys):
    picture(dataset / "testing" / "frames" / "3" / "004.jpg", textured("3", 4, (10, 10)))
    for i in range(9):
        picture(dataset / "testing" / "frames" / "4" / f"{i:03}.jpg", textured("4", i, (48, 64)))
    mixed, several = findings(capsys, "own")
    assert mixed.startswith("warning: testing video 3 has frames of 2 sizes: 32x24 (11), 10x10 (1);")
    assert mixed.endswith("004.jpg")
    assert several.startswith("note: videos have 2 frame sizes")
    assert "32x24: training/1, training/2, testing/3; 64x48: testing/4" in several


def test_a_frozen_camera(dataset, capsys):
    folder = dataset / "training" / "frames" / "1"
    shutil.copy(folder / "001.jpg", folder / "002.jpg")
    (finding,) = findings(capsys, "own")
    assert finding.startswith("note: training video 1 has 1 frames that equal the previous one")
    picture(folder / "008.jpg", cv2.imread(str(folder / "009.jpg")))  # the same picture in other bytes
    for i in (5, 6, 7):
        shutil.copy(folder / "009.jpg", folder / f"{i:03}.jpg")
    (finding,) = findings(capsys, "own")
    assert finding.startswith("warning: training video 1 has 5 frames that equal the previous one")
    assert "the longest run is 5 frames from 005.jpg on" in finding


def test_a_video_in_both_splits_or_twice(dataset, capsys):
    shutil.copytree(dataset / "training" / "frames" / "1", dataset / "testing" / "frames" / "5")
    shutil.copytree(dataset / "training" / "frames" / "1", dataset / "training" / "frames" / "6")
    for i in range(4):
        shutil.copy(
            dataset / "training" / "frames" / "2" / f"{i:03}.jpg", dataset / "testing" / "frames" / "3" / f"{i:03}.jpg"
        )
    lines = findings(capsys, "own")
    assert len(lines) == 4  # four pictures of training video 2 in a test video are less than a clip
    assert lines[0].startswith("warning: training video 1 and testing video 5 share 10 pictures")
    assert lines[1].startswith("warning: training video 6 and testing video 5 share 10 pictures")
    assert "note: training video 1 and training video 6 share 10 pictures: are they the same video?" in lines
    assert any("one class only" in line and line.endswith(": 5") for line in lines)


def test_what_is_not_read_is_named(dataset, capsys):
    (dataset / "testing" / "readme.txt").touch()
    (dataset / "testing" / "Thumbs.db").touch()
    (dataset / ".decoded").mkdir()
    (dataset / "training" / "frames" / ".7.part").mkdir()
    os.mkfifo(dataset / "training" / "frames" / "pipe")
    for known in ("testing/masks", "testing/times", "training/times"):
        (dataset / known).mkdir()
    (dataset / "training" / "frames" / "000.jpg").touch()
    (finding,) = findings(capsys, "own")
    listed = "testing/readme.txt, training/frames/.7.part, training/frames/000.jpg, training/frames/pipe"
    assert finding == f"note: not read: {listed}"


def test_pictures_of_which_a_part_is_used(dataset, capsys):
    testing = dataset / "testing" / "frames" / "3"
    shutil.copy(PICTURES / "three_pages.tif", dataset / "training" / "frames" / "1" / "010.tif")
    shutil.copy(PICTURES / "three_pages.tif", dataset / "training" / "frames" / "1" / "011.tif")
    (testing / "004.jpg").unlink()
    picture(testing / "004.png", textured("3", 4, (24, 32)).astype(np.uint16) << 8)
    lines = findings(capsys, "own")
    paged = "training video 1 has 2 files of several pages, the first 010.tif: only the first page would be used"
    assert any(line.startswith(f"warning: {paged}") for line in lines)
    deep = "testing video 3 has 1 frames of 16 bits per value, the first 004.png: only the upper 8 bits are used"
    assert f"warning: {deep}" in lines


@pytest.mark.parametrize("name", ["hole.jpg", "half_with_end_mark.jpg", "float32.tif"])
def test_pictures_that_cannot_be_used_are_named(name, dataset, capfd):
    path = dataset / "training" / "frames" / "1" / f"010{Path(name).suffix}"
    shutil.copy(PICTURES / name, path)
    assert check.main(["own"]) == 1
    out, err = capfd.readouterr()
    assert f"error: training fails: cannot decode frame {path.relative_to(Path.cwd())}: " in out
    assert err == ""


def test_frames_whose_order_is_in_doubt(dataset, capsys):
    folder = dataset / "training" / "frames" / "9"
    folder.mkdir()
    for i, name in enumerate(["1.9", "1.10", "1.11", "1.12", "1.13"]):
        picture(folder / f"{name}.png", textured("9", i, (24, 32)))
    (finding,) = findings(capsys, "own")
    assert "sorted as decimals, 1.10.png first and 1.9.png last" in finding


def test_videos_that_are_unlabelled(dataset, capsys):
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,6,8\n4,unlabelled,\n")
    (finding,) = findings(capsys, "own")
    assert finding.startswith("note: 1 testing videos are unlabelled") and finding.endswith(": 4")
    check.main(["own"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["4", "9", "unlabelled"] in rows and ["all", "12", "3", "25.0", "%"] in rows
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,unlabelled,\n4,unlabelled,\n")
    assert any("no frame that gets a score is labelled" in line for line in findings(capsys, "own"))


def test_names_that_are_no_utf8(dataset, capsys):
    (dataset / "testing" / "frames" / "4").rename(dataset / "testing" / "frames" / "caf\udce9")
    (dataset / "frame_labels.csv").write_bytes(b"video,first,last\n3,6,8\ncaf\xe9,0,5\n")
    assert findings(capsys, "own") == []
    assert check.main(["own"]) == 0
    assert ["caf%E9", "9", "6", "66.7", "%"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_labels_that_give_no_auc(dataset, capsys):
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,0,3\n")  # none of these frames gets a score
    assert findings(capsys, "own") == ["warning: all frames that get a score are normal, so evaluation gives no AUC"]
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,0,11\n")
    (finding,) = findings(capsys, "own")
    assert finding.startswith("note: 2 testing videos have frames of one class only") and finding.endswith(": 3, 4")
    (dataset / "frame_labels.csv").unlink()
    (finding,) = findings(capsys, "own")
    assert finding.startswith("warning: no labels")


def test_avenue_says_which_labels(dataset, make_videos, capsys):
    avenue = dataset.rename(dataset.with_name("avenue"))
    lines = findings(capsys, "avenue")
    assert any(
        "labels come from dataset/avenue/frame_labels.csv, so --avenue_labels has no effect" in line for line in lines
    )
    (avenue / "frame_labels.csv").unlink()
    shutil.rmtree(avenue / "testing")
    make_videos(avenue / "testing" / "frames", {"8": 36, "21": 76})  # 8 is 08
    for family, other in (("paper", "masks"), ("masks", "paper")):
        lines = findings(capsys, "avenue", "--avenue_labels", family)
        words = f"family '{family}', '{other}' differs in 26 frames of 1 of these 2 videos (8: 26)"
        assert sum(words in line for line in lines) == 1
        assert any(line.startswith("note: missing in testing: 01, 02,") for line in lines)
    check.main(["avenue", "--avenue_labels", "masks"])
    masks = built_in_labels("avenue", "masks")["08"]
    assert f"8{36:>21}{masks.sum():>10}" in capsys.readouterr().out
    (avenue / "testing" / "frames" / "8" / "000.jpg").unlink()
    (avenue / "testing" / "frames" / "21" / "000.jpg").unlink()
    status, lines = run_check(capsys, "avenue")
    assert status == 1 and sum(line.startswith("error: evaluation fails: ") for line in lines) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "no data set folder dataset/nothing"),
        (("/no/such/folder",), "no data set folder /no/such/folder"),
        (("own", "--t_length", "0"), "--t_length must be"),
        (("own", "--batch_size", "0"), "--batch_size must be"),
        (("own", "--avenue_labels", "other"), "--avenue_labels"),
        ((), "required"),
    ],
)
def test_mistakes_are_one_line(arguments, says, dataset, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["check", *arguments])
    with pytest.raises(SystemExit) as end:
        run_script(check.main)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and says in message
