"""Small trees of frames on disk, for the tests that read them."""

import os
import zlib

import cv2
import numpy as np
import pytest

from data.frames import find_videos

# tiny tensors: a second thread costs more than it gives. Processes that tests start take it over, so sums are the same
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, when FFmpeg is used first: not in each test's order


def textured(video, index, size):
    """A picture (h, w, 3) that is smooth, so that a JPEG keeps it, and another one for each video and index."""
    noise = np.random.default_rng(zlib.crc32(f"{video}/{index}".encode())).integers(0, 256, (*size, 3), dtype=np.uint8)
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
