"""Pixel masks: what is found, what data.check says of them, and masks made of what the archives ship."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import PED2
from scipy.io import savemat

from data.frames import find_videos
from data.labels import frame_labels
from data.masks import find_masks, mask_at, mask_findings, read_archive_masks, write_archive_masks
from data.pictures import read_mask
from utils import InputError

LABELS = {"1": [0, 1, 1, 0], "2": [1, 0, 0]}
OFFICIAL = PED2.parents[1] / "official"


def write(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.asarray(mask))[1].tobytes())


def marked(is_abnormal, value=255, size=(12, 16)):
    mask = np.zeros(size, np.uint8)
    mask[2:5, 3:7] = value * is_abnormal
    return mask


@pytest.fixture
def own(tmp_path, make_videos):
    """A data set of two test videos with masks and labels that agree: (its folder, videos, labels)."""
    videos = make_videos(tmp_path / "own" / "testing" / "frames", {name: len(y) for name, y in LABELS.items()})
    for name, values in LABELS.items():
        for frame, y in enumerate(values):
            write(tmp_path / "own" / "testing" / "masks" / name / f"{frame:03}.png", marked(y))
    return tmp_path / "own", videos, {name: np.array(y, np.uint8) for name, y in LABELS.items()}


def mask_of(own, video, frame):
    return own[0] / "testing" / "masks" / video / f"{frame:03}.png"


def test_masks_are_found_in_the_order_of_the_frames(own):
    masks, problems = find_masks(*own[:2])
    assert problems == []
    for name, y in LABELS.items():
        assert [read_mask(path).any() for path in masks[name]] == [bool(value) for value in y]
    assert list(mask_findings(*own)) == []


def test_a_data_set_without_masks_has_none(own, tmp_path):
    (own[0] / "testing" / "masks").rename(tmp_path / "elsewhere")
    assert find_masks(*own[:2]) == ({}, [])
    assert list(mask_findings(*own)) == []


@pytest.mark.parametrize("value", [1, 128, 255])
@pytest.mark.parametrize("form", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
def test_what_is_above_0_is_abnormal(value, form, colours, tmp_path):
    mask = marked(1).astype(form)
    mask[mask > 0] = value
    picture = np.zeros((*mask.shape, 3), form)
    picture[..., 1] = mask
    write(tmp_path / "m.png", picture if colours == 3 else mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), marked(1) > 0)


def remove(own):
    mask_of(own, "1", 2).unlink()


def rename(own):
    mask_of(own, "1", 2).rename(mask_of(own, "1", 7))


def add(own):
    write(mask_of(own, "2", 3), marked(1))


def add_video(own):
    write(mask_of(own, "3", 0), marked(1))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove, ("holds 3 masks for the 4 frames of video 1", "002.png is missing")),
        (rename, ("holds 4 masks for the 4 frames of video 1", "002.png is missing")),
        (add, ("holds 4 masks for the 3 frames of video 2", "no frame for 003.png")),
        (add_video, ("masks/3 holds masks, but there is no such test video",)),
    ],
)
def test_masks_that_do_not_fit_are_one_line(spoil, says, own):
    spoil(own)
    _, (problem,) = find_masks(*own[:2])
    ((level, text),) = mask_findings(*own)
    assert level == "warning" and text.startswith(problem) and "no pixel-level AUC" in text
    for words in says:
        assert words in problem


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def jpeg(path):
    path.write_bytes(cv2.imencode(".jpg", marked(1))[1].tobytes())


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, jpeg, empty])
def test_masks_that_cannot_be_read_are_named(spoil, own):
    path = mask_of(own, "2", 1)
    spoil(path)
    with pytest.raises(InputError, match="cannot read mask"):
        read_mask(path)
    ((level, text),) = mask_findings(*own)
    assert level == "warning" and str(path) in text and "no pixel-level AUC" in text


def test_masks_are_compared_with_labels(own):
    write(mask_of(own, "1", 0), marked(1))
    write(mask_of(own, "1", 2), marked(0))
    ((level, text),) = mask_findings(*own)
    assert level == "warning"
    assert "(1: 2), the first is 000.jpg of 1" in text
    unlabelled = {**own[2], "1": None}
    assert list(mask_findings(*own[:2], unlabelled)) == []


@pytest.mark.parametrize("kind", ["normal", "abnormal"])
def test_masks_of_one_class_are_said(kind, own):
    for name, values in LABELS.items():
        for frame in range(len(values)):
            write(mask_of(own, name, frame), np.full((4, 4), 255 * (kind == "abnormal"), np.uint8))
    ((level, text),) = mask_findings(*own[:2], None)
    assert level == "warning" and f"all pixels of the masks are {kind}" in text


def test_a_video_without_masks_is_a_note(own, tmp_path):
    (own[0] / "testing" / "masks" / "2").rename(tmp_path / "elsewhere")
    masks, problems = find_masks(*own[:2])
    assert (list(masks), problems) == (["1"], [])
    ((level, text),) = mask_findings(*own)
    assert level == "note" and text.endswith(": 2")


def test_the_mask_of_a_frame_to_draw(own):
    masks, _ = find_masks(*own[:2])
    np.testing.assert_array_equal(mask_at(masks, "1", 2), marked(1) > 0)
    assert mask_at(masks, "none", 2) is None
    empty(mask_of(own, "1", 2))
    assert mask_at(masks, "1", 2) is None


# Archives -------------------------------------------------------------------------------------------------------------


def ped2(tmp_path, frames=4, prefix=""):
    folder = tmp_path / "UCSDped2" / "Test" / "Test007_gt"
    folder.mkdir(parents=True)
    for frame in range(frames):
        cv2.imwrite(str(folder / f"{prefix}{frame + 1:03}.bmp"), marked(frame > 1))
    (folder / ".DS_Store").write_bytes(b"litter")
    (folder / "Thumbs.db").write_bytes(b"litter")
    return tmp_path


def avenue(tmp_path, frames=4):
    folder = tmp_path / "ground_truth_demo" / "testing_label_mask"
    folder.mkdir(parents=True)
    volume = np.empty((1, frames), object)
    for frame in range(frames):
        volume[0, frame] = marked(frame > 1, value=1)
    savemat(folder / "7_label.mat", {"volLabel": volume})
    return tmp_path


@pytest.mark.parametrize(
    ("dataset_type", "archive"),
    [("ped2", ped2), ("ped2", lambda folder: ped2(folder, prefix="frame")), ("avenue", avenue)],
)
def test_masks_of_an_archive(dataset_type, archive, tmp_path, make_videos, capsys):
    source, dataset = archive(tmp_path), tmp_path / "out"
    videos = make_videos(dataset / "testing" / "frames", {"07": 4, "08": 4})
    assert write_archive_masks(dataset_type, source, dataset) == []
    assert "pixel masks of 1 test videos" in capsys.readouterr().out
    masks, problems = find_masks(dataset, videos)
    assert problems == [] and list(masks) == ["07"]
    for frame, path in enumerate(masks["07"]):
        np.testing.assert_array_equal(read_mask(path), marked(frame > 1) > 0)
    before = masks["07"][0].stat().st_mtime_ns
    assert write_archive_masks(dataset_type, source, dataset) == []
    assert masks["07"][0].stat().st_mtime_ns == before  # what is whole stays
    masks["07"][0].unlink()
    assert write_archive_masks(dataset_type, source, dataset) == []
    assert find_masks(dataset, videos)[1] == []  # what is not is made again


@pytest.mark.parametrize(("count", "wanted"), [(3, [0, 0, 1, 1]), (5, [0, 0, 1, 1])])
def test_masks_may_be_a_frame_apart(count, wanted, tmp_path, make_videos):
    source, dataset = avenue(tmp_path, count), tmp_path / "out"
    videos = make_videos(dataset / "testing" / "frames", {"07": 4})
    assert write_archive_masks("avenue", source, dataset) == []
    masks, _ = find_masks(dataset, videos)
    assert [int(read_mask(path).any()) for path in masks["07"]] == wanted


def test_archives_that_do_not_fit_are_named(tmp_path, make_videos):
    source, dataset = avenue(tmp_path, 2), tmp_path / "out"
    make_videos(dataset / "testing" / "frames", {"07": 4})
    (line,) = write_archive_masks("avenue", source, dataset)
    assert "7_label.mat holds 2 masks for the 4 frames" in line
    (source / "ground_truth_demo/testing_label_mask/7_label.mat").write_bytes(b"no matlab file" * 20)
    (line,) = write_archive_masks("avenue", source, dataset)
    assert line.startswith("cannot read masks")
    assert not (dataset / "testing" / "masks").exists()
    assert write_archive_masks("shanghai", source, dataset) == []  # has none that are read


# Real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not PED2.exists(), reason="needs UCSD Ped2")
def test_the_masks_of_ped2_agree_with_its_intervals_in_all_frames():
    videos = find_videos(PED2 / "testing" / "frames")
    masks, problems = find_masks(PED2, videos)
    labels = frame_labels(PED2.parent, "ped2", videos)
    assert problems == [] and sum(map(len, masks.values())) == 2010
    assert all([read_mask(path).any() for path in masks[name]] == list(y == 1) for name, y in labels.items())


@pytest.mark.skipif(not OFFICIAL.exists(), reason="needs pieces of the official archives")
def test_the_masks_of_avenue_give_its_labels_of_masks():
    from data.labels import built_in_labels

    folder = Path(OFFICIAL) / "avenue" / "ground_truth_demo" / "testing_label_mask"
    for number in (8, 21):
        labels = built_in_labels("avenue", "masks")[f"{number:02}"]
        masks = read_archive_masks(folder / f"{number}_label.mat")
        assert [int(np.any(mask)) for mask in masks][: len(labels)] == labels.tolist()[: len(masks)]
