"""From a folder of video files to scores, an AUC and alarms, by the commands of data/README.md."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import call
from sklearn.metrics import roc_auc_score

import Evaluate
import Train
from data import check, prepare

SHAPE = ["--h", "16", "--w", "16", "--fdim", "16", "--msize", "4", "--num_workers", "0"]
ABNORMAL = range(12, 20)  # frames of the test video "door"


def write_video(path, seed, abnormal=()):
    """30 frames of 32x32: a textured wall, a square that passes slowly, another that flickers in abnormal frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    wall = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), (0, 0), 2)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for i in range(30):
        frame = wall.copy()
        frame[10:18, i // 2 : i // 2 + 8] = 90
        if i in abnormal:
            x, y = rng.integers(0, 20, 2)
            frame[y : y + 12, x : x + 12] = 255 * (i % 2)
        writer.write(frame)
    writer.release()


@pytest.fixture
def videos(in_its_own_folder):
    for seed, name in enumerate(("monday.avi", "tuesday.avi")):
        write_video(Path("recorded") / "normal" / name, seed)
    write_video(Path("recorded") / "suspect" / "door.avi", 2, ABNORMAL)
    write_video(Path("recorded") / "suspect" / "gate.avi", 3)
    Path("shop.csv").write_text(f"video,first,last\ndoor,{ABNORMAL[0]},{ABNORMAL[-1]}\n")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_path(videos, capsys):
    flags = ["recorded/normal", "--test", "recorded/suspect", "--name", "shop", "--labels", "shop.csv"]
    assert prepare.main(["video", *flags]) == 0
    assert check.main(["shop"]) == 0
    printed = capsys.readouterr().out
    assert "training: nothing found that stops it" in printed and "evaluation: nothing found that stops it" in printed
    assert "error:" not in printed
    assert ["door", "30", "8", "26.7", "%"] in [line.split() for line in printed.splitlines()]

    assert call(Train, "--dataset_type", "shop", *SHAPE, "--epochs", 2) == 0
    capsys.readouterr()
    assert call(Evaluate, "--dataset_type", "shop", "--num_workers_test", 0) == 0
    printed = capsys.readouterr().out
    run = Path("exp/shop/pred/log")
    scores = rows(run / "scores.csv")
    assert [(row["video"], int(row["frame"])) for row in scores] == [
        (v, k) for v in ("door", "gate") for k in range(4, 30)
    ]
    labels = [int(row["label"]) for row in scores]
    assert labels == [int(row["video"] == "door" and int(row["frame"]) in ABNORMAL) for row in scores]
    auc = roc_auc_score(labels, [float(row["abnormality"]) for row in scores])
    assert f"AUC: {100 * auc:.4f} %" in printed
    assert auc > 0.8  # the squares that flicker are hard to predict, for a network that has hardly learned anything too
    assert {path.name for path in (run / "figures" / "scores").iterdir()} == {"door.png", "gate.png"}
    assert (run / "alarms.csv").exists()

    assert call(Evaluate, "--dataset_type", "shop", "--video", "recorded/suspect/door.avi") == 0
    (watched,) = (run / "watched").iterdir()
    frames = {
        k for row in rows(watched / "alarms.csv") if row["end"] for k in range(int(row["start"]), int(row["end"]) + 1)
    }
    scores = rows(watched / "scores.csv")
    assert [int(row["frame"]) for row in scores] == list(range(4, 30))
    assert frames >= {int(row["frame"]) for row in scores if row["alarm"] == "1"}
    assert len(frames & set(ABNORMAL)) >= 4
