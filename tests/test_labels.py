"""Labels: every source, subsets and odd names of videos, and what is said when labels do not fit."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from data import labels as module
from data.frames import Video
from data.intervals import LabelsError, intervals, read_intervals, write_intervals
from data.labels import BUILT_IN, built_in_labels, frame_labels, label_source
from data.times import times_path, write_times
from utils import InputError

SHARED = Path(__file__).parents[2] / "shared"


def video(name, frames):
    return Video(name, Path("testing/frames") / name, tuple(f"{i}.jpg" for i in range(frames)))


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


def load(dataset, *videos):
    return frame_labels(dataset.parent, "shop", list(videos))


def rejected(match, function, *arguments, **options):
    """The message of the InputError that is raised: one line, matching."""
    with pytest.raises(InputError, match=match) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# built in


def test_built_in_labels_have_the_official_sizes():
    sizes = {name: built_in_labels(name) for name in BUILT_IN}
    assert {name: (len(v), sum(map(len, v.values()))) for name, v in sizes.items()} == {
        "ped2": (12, 2010),
        "avenue": (21, 15324),
        "shanghai": (107, 40791),
    }
    assert intervals(sizes["ped2"]["01"]) == [(60, 179)]


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared facts")
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_labels_are_the_facts(name):
    facts = json.loads((SHARED / "facts" / f"{name}_intervals.json").read_text())
    for family, key in module.FAMILIES.items():
        labels = built_in_labels(name, family)
        assert list(labels) == list(facts)
        for number, fact in facts.items():
            assert len(labels[number]) == fact["length"]
            expected = np.zeros(fact["length"])
            for first, last in fact.get(key, fact["anomalous"]):
                expected[first : last + 1] = 1
            assert (labels[number] == expected).all()


def test_avenue_families_differ_where_they_should():
    paper, masks = built_in_labels("avenue"), built_in_labels("avenue", "masks")
    differing = {name: int((paper[name] != masks[name]).sum()) for name in paper}
    assert sum(count > 0 for count in differing.values()) == 15 and sum(differing.values()) == 441
    rejected("no Avenue labels called 'mask'", built_in_labels, "avenue", "mask")


def test_family_reaches_frame_labels(tmp_path):
    videos = [video("08", 36)]
    assert frame_labels(tmp_path, "avenue", videos)["08"].sum() == 10
    assert frame_labels(tmp_path, "avenue", videos, "masks")["08"].sum() == 36


def test_subset_of_videos_is_labelled_by_name(tmp_path):
    labels = frame_labels(tmp_path, "ped2", [video("12", 180), video("03", 150)])
    assert list(labels) == ["12", "03"]
    assert intervals(labels["12"]) == [(87, 179)] and intervals(labels["03"]) == [(0, 145)]
    assert labels["12"].dtype == np.uint8


def test_unpadded_folder_is_the_official_video(tmp_path):
    assert intervals(frame_labels(tmp_path, "ped2", [video("1", 180)])["1"]) == [(60, 179)]
    assert len(frame_labels(tmp_path, "shanghai", [video("1_14", 265)])["1_14"]) == 265


def test_two_folders_of_one_official_video(tmp_path):
    rejected("both test video 01", frame_labels, tmp_path, "ped2", [video("01", 180), video("1", 180)])


def test_unknown_video_and_wrong_length(tmp_path):
    rejected("Test001 is not a test video of ped2", frame_labels, tmp_path, "ped2", [video("Test001", 180)])
    message = rejected("01 holds 179 frames", frame_labels, tmp_path, "ped2", [video("01", 179)])
    assert "180" in message


def test_all_videos_that_do_not_fit_are_kept(tmp_path):
    videos = [video("Test001", 180), video("01", 179), video("02", 180), video("2", 180), video("03", 1)]
    with pytest.raises(
        LabelsError, match=r"^testing.frames.Test001 is not .* \(and 3 more, which .*data.check"
    ) as caught:
        frame_labels(tmp_path, "ped2", videos)
    subjects = ("Test001 is not", "01 holds 179", "both test video 02", "03 holds 1 frames")
    assert all(subject in problem for subject, problem in zip(subjects, caught.value.problems, strict=True))


# order of the sources


def test_source_is_named(tmp_path):
    assert label_source(tmp_path, "shop") is None
    assert label_source(tmp_path, "ped2") == module.HERE / "frame_labels" / "ped2.json"
    (tmp_path / "ped2").mkdir()
    write_intervals(tmp_path / "ped2" / "frame_labels.csv", {})
    assert label_source(tmp_path, "ped2") == tmp_path / "ped2" / "frame_labels.csv"


def test_order_of_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HERE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "shop").mkdir()
    videos = [video("a", 3)]
    assert frame_labels(tmp_path, "shop", videos) is None
    np.save(tmp_path / "package" / "frame_labels_shop.npy", np.array([[0, 0, 1]]))
    assert frame_labels(tmp_path, "shop", videos)["a"].tolist() == [0, 0, 1]
    write_intervals(tmp_path / "shop" / "frame_labels.csv", {"a": np.array([0, 1, 0])})
    assert frame_labels(tmp_path, "shop", videos)["a"].tolist() == [0, 1, 0]
    np.save(tmp_path / "shop" / "frame_labels.npy", np.array([True, False, False]))
    assert frame_labels(tmp_path, "shop", videos)["a"].tolist() == [1, 0, 0]


def test_own_file_comes_before_built_in(tmp_path):
    (tmp_path / "ped2").mkdir()
    np.save(tmp_path / "ped2" / "frame_labels.npy", np.array([0.0, 1.0]))
    assert frame_labels(tmp_path, "ped2", [video("x", 2)])["x"].tolist() == [0, 1]


# one array


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_array_is_cut_at_videos(dataset, shape):
    np.save(dataset / "frame_labels.npy", np.array([0, 1, 1, 0, 1], np.int8).reshape(shape))
    labels = load(dataset, video("2", 2), video("10", 3))
    assert {name: values.tolist() for name, values in labels.items()} == {"2": [0, 1], "10": [1, 0, 1]}
    assert all(values.dtype == np.uint8 for values in labels.values())


def test_array_of_other_length_names_the_video(dataset):
    np.save(dataset / "frame_labels.npy", np.zeros(5))
    message = rejected("too few", load, dataset, video("a", 5), video("b", 7))
    assert "5 labels for the 12 frames of 2 test videos" in message and "the length of video b" in message
    assert "length of" not in rejected("too few", load, dataset, video("a", 3), video("b", 4))
    rejected("3 too many: is a video missing", load, dataset, video("a", 2))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((2, 2)), "shape"),
        (np.zeros((4, 1)), "shape"),
        (np.array(1), "shape"),
        (np.array([0, 1, 2, 0]), "values other than"),
        (np.array([0, 1, np.nan, 0]), "values other than"),
        (np.array([0, -1, 0, 0]), "values other than"),
        (np.array(["0", "1", "0", "1"]), "values other than"),
    ],
)
def test_array_of_other_values_or_shape(dataset, values, match):
    np.save(dataset / "frame_labels.npy", values)
    rejected(f"frame_labels.npy.*{match}", load, dataset, video("a", 4))


@pytest.mark.parametrize("shape", ["(1000000000000000,)", "(4, 1000000000000)", "(-5,)", f"({'9' * 400},)", "(" * 500])
def test_a_header_that_promises_more_than_the_file_holds(dataset, shape):
    """Refused at once: nothing of that size is allocated."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(1010).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)
    (dataset / "frame_labels.npy").write_bytes(content)
    rejected("cannot read", load, dataset, video("a", 4))


@pytest.mark.parametrize("name", ["frame_labels.npy", "frame_labels.csv"])
def test_a_fifo_is_not_waited_for(dataset, name):
    os.mkfifo(dataset / name)
    rejected("not a regular file", load, dataset, video("a", 4))


def test_broken_array_files(dataset):
    path = dataset / "frame_labels.npy"
    np.save(path, np.array([{}, 1, 2, 3], dtype=object), allow_pickle=True)  # a pickle must never be run
    rejected("cannot read", load, dataset, video("a", 4))
    np.save(path, np.zeros(4))
    whole = path.read_bytes()
    for content in (b"", b"no array", whole[:40], whole[:-8]):
        path.write_bytes(content)
        rejected("cannot read", load, dataset, video("a", 4))


# csv


def read(dataset, text, *videos):
    (dataset / "frame_labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(dataset, *videos)


def test_csv_intervals(dataset):
    text = "\ufeffvideo,first,last\r\n01,1,2\r\n\r\n01,2,3\r\n1,0,0\r\n"  # as a spreadsheet writes it
    labels = read(dataset, text, video("01", 5), video("1", 2), video("b", 2))
    assert {name: values.tolist() for name, values in labels.items()} == {
        "01": [0, 1, 1, 1, 0],
        "1": [1, 0],
        "b": [0, 0],
    }


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("first,last\n", "line 1: the header"),
        ("", "line 1: the header"),
        ("video,first,last\n01,0,1\n1,0,1\n", "line 3: no test video '1'"),
        ("video,first,last\n01,0,5\n", "line 2: frame 5 is outside video 01, whose frames are 0 to 4"),
        ("video,first,last\n01,3,2\n", "line 2: first .3. is after last"),
        ("video,first,last\n01,-1,2\n", "line 2: first and last must be frame numbers"),
        ("video,first,last\n01,0,1.5\n", "line 2: first and last must be frame numbers"),
        ("video,first,last\n01,0\n", "line 2: 2 values"),
        ("video,first,last\n01,0," + "9" * 5000 + "\n", "line 2: first and last must be frame numbers"),
        ("video,first,last\n01,unlabelled,3\n", "line 2: an unlabelled video has no last frame"),
        ("video,first,last\n01,unlabelled,\n01,0,1\n", "line 3: video 01 is unlabelled in an earlier line"),
        ("video,first,last\n01,0,1\n01,unlabelled,\n", "line 3: video 01 has an interval in an earlier line"),
        ("video,first,last\n01,0:00,0:01\n", "line 2: the times of the frames of video 01 are unknown"),
        (b"video,first,last\n\xff\xfe,0,1\n", "cannot read"),
    ],
)
def test_csv_mistakes_name_file_and_line(dataset, lines, match):
    rejected(f"frame_labels.csv.*{match}|{match}.*frame_labels.csv", read, dataset, lines, video("01", 5))


def test_all_lines_with_mistakes_are_kept(dataset):
    text = "video,first,last\n1,0,1\n01,0,1\n01,3,2\n01,0\n"
    with pytest.raises(LabelsError, match=r"line 2: no test video '1' .* \(and 2 more,") as caught:
        read(dataset, text, video("01", 5))
    assert [problem.split(": ")[0][-6:] for problem in caught.value.problems] == ["line 2", "line 4", "line 5"]


def timed(dataset, text, seconds):
    path = dataset / "timed.csv"
    path.write_text(f"video,first,last\n{text}\n")
    (found,) = read_intervals(path, [video("01", len(seconds))], lambda _: np.array(seconds)).values()
    return found.tolist()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("01,0:00,0:00.5", [1, 1, 0, 0, 0]),
        ("01,0:00.1,0:59.9", [0, 1, 0, 0, 0]),  # the frames between, at whatever rate they were taken
        ("01,1:00,1:02", [0, 0, 1, 1, 0]),
        ("01,0:01:02,1:00:00.9", [0, 0, 0, 1, 1]),
        ("01,0:00.5,0:00.5", [0, 1, 0, 0, 0]),
    ],
)
def test_intervals_in_seconds(dataset, line, expected):
    assert timed(dataset, line, [0, 0.5, 60, 62, 3600]) == expected


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("01,0:01,0:00", "line 2: first .0:01. is after last .0:00."),
        ("01,0:02,0:07", "line 2: 0:02 to 0:07 is not within video 01, which ends at 4.00 s"),
        ("01,0:04.5,0:05", "line 2: 0:04.5 to 0:05 is not within"),
        ("01,0:01.2,0:01.8", "line 2: no frame of video 01 is between"),
        ("01,0:01,3", "line 2: '3' is not a time"),
        ("01,1:2:3:4,0:01", "line 2: '1:2:3:4' is not a time"),
        ("01,0:" + "1" * 5000 + ",0:01", "line 2: .* is not a time"),
    ],
)
def test_intervals_in_seconds_that_do_not_fit(dataset, line, match):
    message = rejected(match, timed, dataset, line, [0, 1, 2, 3, 4])
    assert len(message) < 400


def test_times_that_are_kept_beside_the_frames_are_used(dataset):
    one = Video("01", dataset / "testing" / "frames" / "01", ("0.jpg", "1.jpg", "2.jpg"))
    write_times(times_path(one.directory), [0, 30, 60])
    (dataset / "frame_labels.csv").write_text("video,first,last\n01,0:29,1:00\n")
    assert load(dataset, one)["01"].tolist() == [0, 1, 1]


def test_a_video_can_be_unlabelled(dataset, tmp_path):
    labels = read(dataset, "video,first,last\n01,unlabelled,\n02,1,1\n", video("01", 3), video("02", 2), video("03", 1))
    assert labels["01"] is None
    assert labels["02"].tolist() == [0, 1] and labels["03"].tolist() == [0]
    write_intervals(tmp_path / "again.csv", labels)
    again = read_intervals(tmp_path / "again.csv", [video("01", 3), video("02", 2), video("03", 1)])
    assert again["01"] is None and again["02"].tolist() == [0, 1]


def test_names_that_are_no_utf8_are_labelled(dataset):
    """In the csv with the bytes that they have on disk, or as they are shown everywhere."""
    for name in (b"caf\xe9", b"caf%E9"):
        labels = read(dataset, b"video,first,last\n" + name + b",1,1\n", video("caf%E9", 2))
        assert labels["caf%E9"].tolist() == [0, 1]


def test_accents_of_macos_and_empty_rows_of_a_spreadsheet(dataset):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for folder, name in ((composed, apart), (apart, composed)):
        labels = read(dataset, f"video,first,last\n{name},1,1\n,,\n , ,\n", video(folder, 2))
        assert labels[folder].tolist() == [0, 1]
    labels = read(dataset, f"video,first,last\n{apart},1,1\n", video(composed, 2), video(apart, 2))
    assert labels[composed].tolist() == [0, 0] and labels[apart].tolist() == [0, 1]
    passed = read_intervals(dataset / "frame_labels.csv", [video("01", 2)], others=[composed])
    assert passed["01"].tolist() == [0, 0]


def test_written_intervals_read_back(tmp_path):
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 2, 30).astype(np.uint8) for name in ("01", "a,b", "ü")} | {
        "n": np.zeros(4, np.uint8)
    }
    path = tmp_path / "labels.csv"
    write_intervals(path, labels)
    again = read_intervals(path, [video(name, len(values)) for name, values in labels.items()])
    assert again.keys() == labels.keys() and all((again[name] == labels[name]).all() for name in labels)
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.csv"]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "labels.csv"
    write_intervals(path, {"a": np.array([1, 0])})
    before = path.read_text()
    with pytest.raises(ValueError):
        write_intervals(path, {"a": np.array([0, 1]), "b": "no labels"})
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("labels", "runs"),
    [([], []), ([0, 0], []), ([1], [(0, 0)]), ([1, 1, 0, 1], [(0, 1), (3, 3)]), ([0, 1, 1], [(1, 2)])],
)
def test_intervals(labels, runs):
    assert intervals(np.array(labels, np.uint8)) == runs
