"""The synthetic data set: whole or not there, the same every time, and honest about what is abnormal."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data import synthetic
from data.frames import find_videos, split_directory
from data.intervals import intervals
from data.labels import frame_labels
from data.pictures import decode
from utils import InputError

SMALL = synthetic.Size(height=64, train_videos=2, train_frames=12, test_videos=4, test_frames=48)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("dataset")
    synthetic.ensure(path, SMALL)
    return path


def videos(dataset, split):
    return find_videos(split_directory(dataset, "synthetic", split))


def digest(dataset):
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    return {str(f.relative_to(dataset)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_tree_is_complete(dataset):
    for split, number, frames in (("training", 2, 12), ("testing", 4, 48)):
        found = videos(dataset, split)
        assert [len(video.frames) for video in found] == [frames] * number
        assert decode(found[0].path(0), 64, 96, 3).shape == (3, 64, 96)
    assert [entry.name for entry in dataset.iterdir()] == ["synthetic"]  # no temporary folder stays


def test_every_test_video_has_normal_and_abnormal_frames(dataset):
    for labels in frame_labels(dataset, "synthetic", videos(dataset, "testing")).values():
        assert labels.shape == (48,)
        assert set(labels[4:]) == {0, 1}  # `pred` has no score for the first four


def test_full_size_labels_have_an_interval_an_event():
    size = synthetic.DEFAULT
    for number in range(size.test_videos):
        events = synthetic.EVENTS[number % len(synthetic.EVENTS)]
        actors = synthetic.cast(size.test_frames, events, np.random.default_rng((True, number)))
        found = intervals([synthetic.abnormal(actors, frame) for frame in range(size.test_frames)])
        assert len(found) == len(events)
        assert found[0][0] > 10
        assert found[-1][1] < size.test_frames - 5


def test_labels_follow_what_is_in_the_picture():
    """Nothing is labelled before it can be seen: on its way, a cart's share rises to 1 and falls to 0 again."""
    cart = synthetic.passing("cart", 0, np.random.default_rng(0))
    shares = np.array([synthetic.in_view(cart, frame) for frame in np.linspace(0, cart.frames, 50)])
    assert shares[0] < 0.1
    assert shares[-1] < 0.1
    assert shares[20:30].min() > 0.99
    assert (np.diff(shares[:20]) >= -0.01).all()
    assert (np.diff(shares[30:]) <= 0.01).all()
    assert synthetic.abnormal([cart], cart.frames / 2)
    assert not synthetic.abnormal([cart._replace(kind="walker")], cart.frames / 2)


def test_as_much_moves_in_normal_frames_as_in_abnormal_ones():
    """The number of things in view must not give an anomaly away."""
    normal, other = [], []
    for number in range(12):
        actors = synthetic.cast(100, synthetic.EVENTS[number % 4], np.random.default_rng((True, number)))
        for frame in range(0, 100, 5):
            present = sum(actor.present(frame) for actor in actors)
            (other if synthetic.abnormal(actors, frame) else normal).append(present)
    assert abs(np.mean(normal) - np.mean(other)) < 0.5


def test_training_shows_walkers_only():
    for number in range(synthetic.DEFAULT.train_videos):
        assert {actor.kind for actor in synthetic.cast(80, (), np.random.default_rng((False, number)))} == {"walker"}


def test_people_move_in_training_frames(dataset):
    for video in videos(dataset, "training"):
        frames = np.stack([decode(video.path(i), 64, 96, 3) for i in range(len(video.frames))]).astype(np.float32)
        change = np.abs(frames[3:] - frames[:-3]).mean(axis=1)  # (frames - 3, 64, 96); noise alone gives about 2
        assert (change.max(axis=(1, 2)) > 30).all()
        assert (np.median(change, axis=(1, 2)) < 15).all()  # the background stays


def test_same_bytes_on_every_run(dataset, tmp_path):
    synthetic.ensure(tmp_path, SMALL)
    assert digest(tmp_path) == digest(dataset)


def test_a_video_does_not_depend_on_how_many_there_are(dataset, tmp_path):
    synthetic.ensure(tmp_path, SMALL._replace(train_videos=1, test_videos=1))
    some, everything = digest(tmp_path), digest(dataset)
    some.pop("synthetic/frame_labels.csv")
    assert some.items() <= everything.items()


def test_what_is_there_stays_untouched(dataset, monkeypatch):
    def draw(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(synthetic, "scenery", draw)
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    synthetic.ensure(dataset)  # the full size: it is not looked at
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


TINY = synthetic.Size(height=32, train_videos=1, train_frames=2, test_videos=1, test_frames=20)


def test_a_killed_run_leaves_nothing_that_counts(tmp_path):
    old, recent = tmp_path / ".synthetic-old", tmp_path / ".synthetic-recent"
    for left in (old, recent):
        (left / "synthetic" / "training" / "frames" / "01").mkdir(parents=True)
    long_ago = time.time() - 2 * synthetic.ABANDONED
    os.utime(old, (long_ago, long_ago))
    synthetic.ensure(tmp_path, TINY)
    assert len(videos(tmp_path, "testing")[0].frames) == 20
    assert not old.exists()
    assert recent.exists()  # it may be another process at work


def test_an_error_midway_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_intervals", stop)
    with pytest.raises(KeyboardInterrupt):
        synthetic.ensure(tmp_path, TINY)
    assert list(tmp_path.iterdir()) == []


def test_several_at_once(tmp_path):
    with ThreadPoolExecutor() as pool:  # threads have the same race for the folder, and start at once
        list(pool.map(synthetic.ensure, [tmp_path] * 3, [TINY] * 3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["synthetic"]
    assert len(videos(tmp_path, "testing")[0].frames) == 20


def test_something_in_the_way_is_kept_and_named(tmp_path):
    (tmp_path / "synthetic").mkdir()
    mine = tmp_path / "synthetic" / "mine.txt"
    mine.write_text("kept")
    with pytest.raises(InputError, match=r"synthetic.*not empty"):
        synthetic.ensure(tmp_path, TINY)
    assert mine.read_text() == "kept"
    mine.unlink()
    synthetic.ensure(tmp_path, TINY)  # an empty folder is not in the way
    assert len(videos(tmp_path, "testing")) == 1
