"""Small trees of frames on disk, for the tests that read them."""

import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.frames import find_videos

# tiny tensors: a second thread costs more than it gives. Processes that tests start take it over, so sums are the same
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the suite is about one kind of machine: on one with a GPU it gives the same results, and leaves the GPU alone
os.environ["CUDA_VISIBLE_DEVICES"] = ""
for name in ("no_proxy", "NO_PROXY"):  # the servers of tests are here
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when FFmpeg is used first: not in each test's order


def textured(video, index, size):
    """A picture (h, w, 3) that is smooth, so that a JPEG keeps it, and another one for each video and index."""
    rng = np.random.default_rng(zlib.crc32(os.fsencode(f"{video}/{index}")))
    noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


@pytest.fixture
def make_videos():
    """make_videos(root, {"01": 12, "02": 9}) writes root/<video>/<000, 001, ...>.jpg and returns the videos there."""

    def make(root, lengths, size=(24, 32), ext=".jpg", picture=textured):
        for video, length in lengths.items():
            (root / video).mkdir(parents=True)
            for index in range(length):
                ok, content = cv2.imencode(ext, picture(video, index, size))
                assert ok
                (root / video / f"{index:03d}{ext}").write_bytes(content.tobytes())
        return find_videos(root)

    return make


@pytest.fixture
def in_its_own_folder(tmp_path, monkeypatch):
    """Runs go to ./exp, so a test that makes some has a working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_network(monkeypatch):
    """Networks have an eighth of their channels, see tests/small.py; so does what forked.start_and_pause starts."""
    import small  # here and below, as it imports PyTorch, which reads OMP_NUM_THREADS once

    small.shrink(monkeypatch.setattr)


@pytest.fixture
def whole_network(small_network, monkeypatch):
    """The network of the paper, for a test of a file where small_network is used."""
    import small

    small.shrink(monkeypatch.setattr, small.WHOLE)


@pytest.fixture
def dataset(in_its_own_folder, make_videos):
    """dataset/own: 2 training videos with 12 clips of 5 frames, 2 test videos with labels of both classes."""
    own = Path("dataset") / "own"
    make_videos(own / "training" / "frames", {"1": 10, "2": 10})
    make_videos(own / "testing" / "frames", {"1": 12, "2": 9})
    (own / "frame_labels.csv").write_text("video,first,last\n1,6,8\n2,0,5\n")
    return own
