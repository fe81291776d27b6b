"""--dry_run of both scripts: it says what would be done and what is in the way, and writes nothing."""

import os
from pathlib import Path

import pytest
from helpers import TINY, call, evaluate, run_of, trained, write_video

import Evaluate
import Train
from exp.lock import Lock

pytestmark = pytest.mark.usefixtures("in_its_own_folder", "small_network")


def tree():
    return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in Path().rglob("*")}


def dry(script, capsys, *arguments):
    """What a dry run says, by the word before the colon, and its exit status; checked to have changed no file."""
    before = tree()
    capsys.readouterr()
    status = call(script, *arguments, "--dry_run")
    assert tree() == before
    lines = capsys.readouterr().out.splitlines()
    assert "nothing was written" in lines[-1]
    assert ("would fail" in lines[-1]) == (status != 0)
    said = {}
    for line in lines[:-1]:
        what, _, text = line.partition(":")
        said.setdefault(what, []).append(text.strip())
    return said, status


def test_what_would_be_trained(dataset, capsys):
    said, status = dry(Train, capsys, *TINY, "--epochs", 3, "--calibration_share", 0.5)
    assert status == 0
    assert said["training"] == ["pred on own, seed 0"]
    assert "clips of 5 at 16x16" in said["network"][0] and "4 items" in said["network"][0]
    assert said["data"] == [f"1 videos, 6 clips, in {dataset / 'training/frames'}"]
    assert said["held back"][0].startswith(("1,", "2,"))
    assert said["an epoch"] == ["1 steps with 4 clips"] and said["epochs"] == ["3, learning rate 0.0002"]
    assert said["results"] == [str(run_of())]
    assert not said.keys() & {"problem", "removed", "resuming"}


def test_a_dry_run_of_training_says_what_the_run_there_means(dataset, capsys):
    trained(epochs=2)
    said, status = dry(Train, capsys, *TINY, "--epochs", 2)
    assert status == 2
    assert "--resume continues it" in said["problem"][0]
    said, status = dry(Train, capsys, *TINY, "--epochs", 2, "--overwrite")
    assert status == 0
    removed = {path for path in run_of().rglob("*") if path.is_file()} - {
        run_of() / "flags.json",
        run_of() / "train.lock",
    }
    assert said["removed"][0].startswith(f"{len(removed)} existing files: ")
    said, status = dry(Train, capsys, *TINY, "--epochs", 2, "--resume")
    assert (said["resuming"], status) == ([f"{run_of()} has all of its 2 epochs"], 0)
    assert "removed" not in said


def test_a_training_under_way_is_in_the_way(dataset, capsys):
    trained(epochs=2)
    lock = Lock(run_of())
    said, status = dry(Train, capsys, *TINY, "--epochs", 2, "--resume")
    lock.release()
    assert status == 2
    assert f"process {os.getpid()}" in said["problem"][0] and "is training in" in said["problem"][0]
    assert dry(Train, capsys, *TINY, "--epochs", 2, "--resume")[1] == 0


def test_all_that_is_in_the_way_of_a_training_is_said(dataset, capsys):
    said, status = dry(Train, capsys, *TINY, "--batch_size", 1000, "--resume")
    assert status == 2
    batch, run = said["problem"]
    assert "--batch_size" in batch and "no run in" in run


def test_the_synthetic_data_set_is_not_drawn(capsys):
    said, status = dry(Train, capsys)
    assert status == 0 and "is generated first" in said["data"][0]


def test_what_would_be_evaluated(dataset, capsys):
    trained()
    assert evaluate() == 0
    before = {path.name for path in run_of().iterdir()}
    (dataset / "frame_labels.csv").write_text("video,first,last\n1,6,8\n2,unlabelled,\n")
    said, status = dry(Evaluate, capsys, "--dataset_type", "own", "--frames", "1:5")
    assert status == 0
    assert said["network"][0].endswith(f"from {run_of() / 'model.pth'}")
    assert said["data"] == [f"2 videos, 13 clips, in {dataset / 'testing/frames'}"]
    assert said["labels"] == [f"3 of 12 frames are abnormal, unlabelled: 2 ({dataset / 'frame_labels.csv'})"]
    assert said["results"] == [str(run_of())]
    results = {"scores.csv", "alarms.csv", "evaluation.json"}
    assert before > results and said["removed"][0].startswith("3 existing files: ")


def test_labels_of_videos_without_a_clip_are_no_problem(dataset, make_videos, capsys):
    trained()
    make_videos(dataset / "testing/more", {"3": 4})
    (dataset / "testing/more/3").rename(dataset / "testing/frames/3")
    (dataset / "frame_labels.csv").write_text("video,first,last\n1,6,8\n3,0,1\n")
    said, status = dry(Evaluate, capsys, "--dataset_type", "own")
    assert status == 0 and said["labels"][0].startswith("5 of 25 frames")


def test_all_that_is_in_the_way_of_an_evaluation_is_said(dataset, capsys):
    (dataset / "frame_labels.csv").write_text("video,first,last\n3,6,8\n")
    said, status = dry(Evaluate, capsys, "--dataset_type", "own")
    assert status == 2
    model, labels = said["problem"]
    assert str(run_of() / "model.pth") in model and "frame_labels.csv, line 2" in labels
    assert "network" not in said  # nobody knows it


def test_what_would_be_watched(dataset, capsys):
    trained()
    write_video(Path("door.avi"), 0)
    flags = ("--dataset_type", "own", "--video")
    said, status = dry(Evaluate, capsys, *flags, "door.avi")
    assert status == 0
    assert said["video"] == ["door.avi, 10 frames per second"]
    assert said["results"][0].startswith(str(run_of() / "watched" / "door"))
    said, status = dry(Evaluate, capsys, *flags, "gone.avi")
    assert status == 2 and "gone.avi" in said["problem"][0]
