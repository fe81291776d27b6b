"""Pixel-level AUC: the histogram against scikit-learn, maps and masks of other sizes, and what Evaluate.py says."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import evaluate, run_of, trained
from sklearn.metrics import roc_auc_score

from exp.scoring import pixels
from exp.scoring.pixels import Histogram, PixelCounter
from exp.scoring.score import Place, Scored
from model import memory

pytestmark = pytest.mark.usefixtures("small_network")

RANDOM = np.random.default_rng(0)
DISTRIBUTIONS = {
    "errors over many powers of ten": lambda y: 10 ** (RANDOM.normal(-4, 2, y.shape) + y),
    "close to each other": lambda y: 0.004 * (1 + 0.02 * RANDOM.random(y.shape) + 0.01 * y),
    "mostly zero": lambda y: np.where(RANDOM.random(y.shape) < 0.9 - 0.4 * y, 0, RANDOM.random(y.shape)),
    "a few levels": lambda y: RANDOM.integers(0, 5, y.shape) / 255.0 + 0.01 * y,
    "all the same": lambda y: np.full(y.shape, 0.25),
    "as large as can be": lambda y: 4 - RANDOM.random(y.shape) * (1 - 0.3 * y),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_histogram_gives_the_exact_auc_to_four_digits(name, monkeypatch):
    monkeypatch.setattr(pixels, "AT_ONCE", 7000)  # counted in several goes
    abnormal = RANDOM.random(50_000) < 0.05
    values = DISTRIBUTIONS[name](abnormal).astype(np.float32)
    histogram = Histogram()
    for some in np.array_split(np.arange(50_000), 23):
        histogram.add(torch.from_numpy(values[some]), torch.from_numpy(abnormal[some]))
    assert histogram.auc() == pytest.approx(roc_auc_score(abnormal, values), abs=1e-4)
    assert histogram.counts.sum() == 50_000


def test_what_is_kept_does_not_grow(monkeypatch):
    monkeypatch.setattr(pixels, "AT_ONCE", 1000)
    histogram = Histogram()
    for _ in range(50):
        histogram.add(torch.rand(90, 10), torch.rand(90, 10) < 0.1)
        assert sum(map(len, histogram.waiting)) < 1000


def test_pixels_of_one_class_have_no_auc():
    histogram = Histogram()
    histogram.add(torch.rand(10), torch.zeros(10, dtype=torch.bool))
    assert histogram.auc() is None


def scored(count, video=0, msize=5, previous=True):
    generator = torch.Generator().manual_seed(video)
    frames = [torch.rand(count, 3, 16, 24, generator=generator) for _ in range(3)]
    queries = F.normalize(torch.randn(count, 2, 3, 8, generator=generator), dim=-1)
    items = F.normalize(torch.randn(count, msize, 8, generator=generator), dim=-1)
    places = [Place(video, frame + 2) for frame in range(count)]
    nothing = dict.fromkeys(("psnr", "distance", "regular", "updated"), torch.zeros(count))
    return Scored(places, *frames[:2], frames[2] if previous else None, queries, items, **nothing)


def masks(folder, frames, sizes=((16, 24),)):
    """Paths of random masks, and the masks."""
    paths, found = [], []
    folder.mkdir(exist_ok=True)
    for frame in range(frames):
        mask = RANDOM.random(sizes[frame % len(sizes)]) < 0.3
        paths.append(folder / f"{frame}.png")
        paths[-1].write_bytes(cv2.imencode(".png", mask.astype(np.uint8))[1].tobytes())
        found.append(mask)
    return paths, found


def enlarged(values, size):
    """Bilinear, as OpenCV does it where it makes pictures larger."""
    return cv2.resize(values.numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)


def test_maps_are_brought_to_the_size_of_each_mask(tmp_path):
    sizes = ((16, 24), (31, 50), (48, 72))
    paths, found = masks(tmp_path / "a", 8, sizes)
    part = scored(6)
    counter = PixelCounter({"a": paths, "other": []}, ["a", "b"])
    counter.add(part)
    counter.add(scored(3, video=1))  # has no masks
    actual = counter.metrics()
    far = torch.stack([memory.distance_map(q.flatten(0, 1), m) for q, m in zip(part.queries, part.items, strict=True)])
    maps = (
        (part.predicted - part.target).square().mean(dim=1),
        far.view(6, 2, 3),
        (part.previous - part.target).square().mean(dim=1),
    )
    chosen = found[2:]  # the frames are 2 to 7 of the video
    y = np.concatenate([mask.ravel() for mask in chosen])
    for name, values in zip(("error", "distance", "error_of_copy"), maps, strict=True):
        shown = [enlarged(value, mask.shape).ravel() for value, mask in zip(values, chosen, strict=True)]
        assert getattr(actual, name) == pytest.approx(roc_auc_score(y, np.concatenate(shown)), abs=1e-4)
    assert actual.abnormal == pytest.approx(y.mean())
    assert (actual.frames, actual.videos) == (6, 1)


def test_maps_that_a_network_does_not_have(tmp_path):
    paths, _ = masks(tmp_path / "a", 8)
    counter = PixelCounter({"a": paths}, ["a"])
    counter.add(scored(6, msize=0, previous=False))
    actual = counter.metrics()
    assert actual.error is not None and actual.distance is None and actual.error_of_copy is None


def test_a_mask_that_cannot_be_read_ends_the_counting(tmp_path):
    paths, _ = masks(tmp_path / "a", 8)
    paths[3].write_bytes(b"")
    counter = PixelCounter({"a": paths}, ["a"])
    counter.add(scored(6))
    assert counter.metrics() is None
    assert str(paths[3]) in counter.problem


# Evaluate.py ----------------------------------------------------------------------------------------------------------


def write_masks(own, is_abnormal=lambda frame: 4 <= frame < 8):
    for video, frames in (("1", 12), ("2", 9)):
        folder = own / "testing" / "masks" / video
        folder.mkdir(parents=True)
        for frame in range(frames):
            mask = np.zeros((30, 40), np.uint8)
            mask[5:15, 10:20] = 255 * is_abnormal(frame)
            cv2.imwrite(str(folder / f"{frame:03}.png"), mask)
    return own / "testing" / "masks"


@pytest.mark.parametrize("method", ["pred", "recon"])
def test_evaluation_prints_and_keeps_them(method, dataset, capsys):
    write_masks(dataset)
    trained(method=method)
    capsys.readouterr()
    assert evaluate("--method", method) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads((run_of(method) / "evaluation.json").read_text())
    with open(run_of(method) / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    said = [
        line.partition(":")[0].removeprefix("pixel-level AUC of the ") for line in lines if line.startswith("pixel")
    ]
    if method == "pred":
        assert said == ["squared error", "feature distance", "error of copying"]
        assert found["pixels"]["frames"] == 13  # of 21, four have no score in each video
        copied = [[float(row["psnr_of_copy"]) for row in rows if row["video"] == video] for video in ("1", "2")]
        scores = np.concatenate([-(np.array(p) - min(p)) / np.ptp(p) for p in copied])
        auc = roc_auc_score([int(row["label"]) for row in rows], scores)
        assert found["protocols"]["copy"]["published"]["auc"] == pytest.approx(auc)
        place = [line.startswith("AUC: ") for line in lines].index(True)
        assert lines[place + 2] == f"copying the previous frame instead: AUC {100 * auc:.1f} %"
    else:
        assert said == ["squared error", "feature distance"]
        assert found["pixels"]["frames"] == 21
        assert found["pixels"]["error_of_copy"] is None and found["protocols"]["copy"] == {}
        assert {row["psnr_of_copy"] for row in rows} == {""}
        assert not any("copying" in line for line in lines)
    published = found["protocols"]["network"]["published"]
    assert published["auc"] == pytest.approx(found["auc"])
    ends = " to ".join(f"{100 * published[end]:.1f}" for end in ("low", "high"))
    assert f"95 % bootstrap interval of this AUC over test videos: {ends} %" in lines
    assert found["protocols"]["network"].keys() == {"published", "macro", "whole_test_set", "calibrated"}


def lose(folder):
    (folder / "1" / "005.png").unlink()


def damage(folder):
    (folder / "2" / "006.png").write_bytes(b"no picture")


def without_score(folder):
    (folder / "2" / "000.png").write_bytes(b"no picture")  # of a frame that no clip of pred ends with


@pytest.mark.parametrize(("spoil", "says"), [(lose, "005.png is missing"), (damage, "006.png"), (without_score, None)])
def test_bad_masks_are_one_line_and_frames_have_their_auc(spoil, says, dataset, capsys):
    spoil(write_masks(dataset))
    trained()
    capsys.readouterr()
    assert evaluate() == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("AUC: ") for line in lines)
    said = [line for line in lines if "pixel-level" in line]
    found = json.loads((run_of() / "evaluation.json").read_text())
    if says:
        (line,) = said
        assert line.startswith("no pixel-level AUC: ") and says in line
        assert found["pixels"] is None
    else:
        assert len(said) == 3 and found["pixels"]["frames"] == 13


@pytest.mark.parametrize("kind", ["normal", "abnormal"])
def test_masks_of_one_class_are_one_line(kind, dataset, capsys):
    folder = write_masks(dataset, lambda frame: False)
    if kind == "abnormal":
        for path in folder.rglob("*.png"):
            cv2.imwrite(str(path), np.full((4, 4), 255, np.uint8))
    trained()
    capsys.readouterr()
    assert evaluate() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "pixel-level" in line] == [
        f"no pixel-level AUC: all pixels of the masks of 13 frames are {kind}"
    ]
    assert any(line.startswith("AUC: ") for line in lines)


def test_without_masks_nothing_is_said_of_pixels(dataset, capsys):
    trained()
    capsys.readouterr()
    assert evaluate() == 0
    assert "pixel" not in capsys.readouterr().out
    assert json.loads((run_of() / "evaluation.json").read_text())["pixels"] is None
