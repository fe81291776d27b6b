"""The preparation tool: each layout, its table and exit status, and broken, partial and stopped work."""

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from data import archives, prepare, reader
from data.frames import find_videos
from data.labels import built_in_labels
from data.times import Clock, gaps, read_times
from utils import InputError, new_part

ROOT = Path(__file__).parents[1]
FAULTS = Path(__file__).parent / "videos"
OFFICIAL = ROOT.parent / "shared" / "official"


def picture(seed, size=(32, 24)):
    image = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def write_picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(seed))


def write_video(path, frames, size=(32, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for i in range(frames):
        writer.write(picture(i, size))
    writer.release()
    return path


def main(*arguments):
    return prepare.main([str(argument) for argument in arguments])


def frames(folder):
    """{video: number of frames}, of everything a split's folder holds, hidden folders too."""
    return {entry.name: len(list(entry.iterdir())) for entry in sorted(folder.iterdir())}


def words(line):
    return " ".join(line.split())


# official layouts


@pytest.fixture
def ped2(tmp_path):
    """Ped2 as its authors ship it, beside Ped1: three training and two test videos, the first test video whole."""
    root = tmp_path / "UCSD_Anomaly_Dataset.v1p2"
    for folder, count in {"Train/Train001": 2, "Train/Train002": 12, "Train/Train016": 1, "Test/Test010": 3}.items():
        for i in range(count):
            write_picture(root / "UCSDped2" / folder / f"{i + 1:03}.tif", i)
    for i in range(120):
        write_picture(root / "UCSDped2/Test/Test009" / f"{i + 1:03}.tif", i)
    for i in range(120):
        mask = np.zeros((24, 32, 3), np.uint8)
        mask[3:9, 5:11] = 255 * (10 <= i < 90)
        (root / "UCSDped2/Test/Test009_gt").mkdir(exist_ok=True)
        cv2.imwrite(str(root / f"UCSDped2/Test/Test009_gt/frame{i + 1:03}.bmp"), mask)
    (root / "UCSDped2/Test/Test009_gt/.DS_Store").write_bytes(b"litter")
    (root / "UCSDped2/Train/Train001/._001.tif").write_bytes(b"litter")
    (root / "UCSDped2/Train/.DS_Store").write_bytes(b"litter")
    write_picture(root / "UCSDped1/Train/Train034/001.tif")
    write_picture(root.parent / "__MACOSX/UCSDped2/Train/Train005/001.tif")
    return root


@pytest.mark.parametrize("part", ["..", ".", "UCSDped2", "UCSDped2/Test"])
def test_ped2_from_any_folder_of_its_archive(ped2, tmp_path, capsys, part):
    out = tmp_path / "out"
    assert main("ped2", ped2 / part, "--output", out) == 1  # partial
    assert frames(out / "ped2/training/frames") == {"01": 2, "02": 12, "16": 1}
    assert frames(out / "ped2/testing/frames") == {"09": 120, "10": 3}
    assert (out / "ped2/training/frames/02/011.jpg").is_file()
    printed = words(capsys.readouterr().out)
    assert "training 3 of 16 15 of 2550 testing 2 of 12 123 of 2010" in printed
    assert "missing in training: 03, 04," in printed and "missing in testing: 01, 02," in printed
    assert "testing video 10 has 3 frames, but officially 150" in printed and "video 09" not in printed


def test_pictures_keep_order_and_content(ped2, tmp_path):
    main("ped2", ped2, "--output", tmp_path / "out")
    originals = np.array([picture(i) for i in range(12)], int)
    for i in range(12):
        frame = cv2.imread(str(tmp_path / f"out/ped2/training/frames/02/{i:03}.jpg"))
        errors = np.abs(originals - frame).mean(axis=(1, 2, 3))
        assert errors.argmin() == i and errors[i] < 8


def test_quality_is_used(ped2, tmp_path):
    sizes = []
    for quality in ("20", "95"):
        main("ped2", ped2, "--output", tmp_path / quality, "--quality", quality)
        sizes.append((tmp_path / quality / "ped2/training/frames/01/000.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def ped2_truth(changed=None):
    lines = ["TestVideoFile = {};"]
    for name, labels in built_in_labels("ped2").items():
        first, last = np.flatnonzero(labels)[[0, -1]] + 1
        lines.append(f"TestVideoFile{{end+1}}.gt_frame = [{first + (name == changed)}:{last}];")
    return "\n".join(lines)


def test_ped2_truth_is_compared(ped2, tmp_path, capsys):
    file = ped2 / "UCSDped2/Test/UCSDped2.m"
    for changed in (None, "03"):
        file.write_text(ped2_truth(changed))
        assert prepare.check_truth("ped2", ped2) == []
    agree, differ, rest = capsys.readouterr().out.splitlines()
    assert agree == "ground truth: 12 of the 12 videos labelled in the archive agree with the built-in labels"
    assert differ.startswith("ground truth of 03: 1 frames differ") and "11 of the 12" in rest
    file.write_text("gt_frame = [1:2];")
    assert len(prepare.check_truth("ped2", ped2)) == 1  # twelve lines were expected


def test_avenue_truth_may_be_a_frame_longer(tmp_path, capsys):
    folder = tmp_path / "ground_truth_demo/testing_label_mask"
    folder.mkdir(parents=True)
    labels = np.append(built_in_labels("avenue", "masks")["21"], 0)
    masks = np.empty((1, len(labels)), object)
    for i, label in enumerate(labels):
        masks[0, i] = np.full((3, 4), label, np.uint8)
    savemat(folder / "21_label.mat", {"volLabel": masks})
    (folder / "8_label.mat").write_bytes(b"no matlab file at all" * 20)
    failures = prepare.check_truth("avenue", tmp_path)
    assert len(failures) == 1 and "8_label.mat" in failures[0]
    assert (
        "21: 0 frames differ from the built-in labels (77 frames in the archive, 76 built in)"
        in capsys.readouterr().out
    )


def test_shanghai_copies_test_frames(tmp_path, capsys):
    source, out = tmp_path / "archive/shanghaitech", tmp_path / "out"
    write_video(source / "training/videos/01_001.avi", 5)
    for i in range(3):
        write_picture(source / f"testing/frames/01_0014/{i:03}.jpg", i)
    (source / "testing/test_frame_mask").mkdir()
    np.save(source / "testing/test_frame_mask/01_0014.npy", built_in_labels("shanghai")["01_0014"])
    assert main("shanghai", source, "--output", out) == 1
    assert frames(out / "shanghai/training/frames") == {"01_001": 5}
    for i in range(3):
        name = f"testing/frames/01_0014/{i:03}.jpg"
        assert (out / "shanghai" / name).read_bytes() == (source / name).read_bytes()
    printed = capsys.readouterr().out
    assert "1 of the 1 videos labelled" in printed
    assert "training 1 of 330 5 of 274515" in words(printed) and "officially 265" in printed
    assert "training does not have its 330 videos and 274515 frames" in printed


def test_a_damaged_jpeg_is_not_copied(tmp_path, capsys):
    source = tmp_path / "shanghaitech"
    for video in ("01_0014", "01_0015"):
        for i in range(3):
            write_picture(source / f"testing/frames/{video}/{i:03}.jpg", i)
    damaged = source / "testing/frames/01_0015/001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    assert main("shanghai", source, "--output", tmp_path / "out") == 1
    (failed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert str(damaged) in failed and "truncated" in failed
    assert frames(tmp_path / "out/shanghai/testing/frames") == {"01_0014": 3}


@pytest.mark.skipif(not OFFICIAL.exists(), reason="needs pieces of the official archives")
def test_real_pieces(tmp_path, capsys):
    out = tmp_path / "out"
    parts = ("Avenue Dataset/testing_videos/08.avi", "Avenue Dataset/testing_videos/21.avi")
    masks = [f"ground_truth_demo/testing_label_mask/{number}_label.mat" for number in (8, 21)]
    for name in ("Avenue Dataset/training_videos/12.avi", *parts, *masks):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(OFFICIAL / "avenue" / name)
    assert main("avenue", tmp_path / "Avenue Dataset", "--output", out) == 1
    printed = words(capsys.readouterr().out)
    assert "2 of the 2 videos labelled" in printed
    assert frames(out / "avenue/testing/frames") == {"08": 36, "21": 76}
    assert "training 1 of 16 145 of 15328 testing 2 of 21 112 of 15324" in printed


@pytest.mark.skipif(not OFFICIAL.exists(), reason="needs pieces of the official archives")
@pytest.mark.parametrize(("dataset_type", "videos"), [("ped2", 12), ("shanghai", 3)])
def test_real_truth(dataset_type, videos, capsys):
    assert prepare.check_truth(dataset_type, OFFICIAL / dataset_type) == []
    assert f"{videos} of the {videos} videos labelled" in capsys.readouterr().out


def test_complete_data_set_exits_with_zero(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(archives.TRAINING_COUNTS, "ped2", (16, 16))
    for number in range(1, 17):
        write_picture(tmp_path / f"UCSDped2/Train/Train{number:03}/001.tif")
    tiny = {f"{number:02}": np.zeros(2, np.uint8) for number in range(1, 13)}
    monkeypatch.setattr(archives, "built_in_labels", lambda *_: tiny)
    for number in range(1, 13):
        for i in (1, 2):
            write_picture(tmp_path / f"UCSDped2/Test/Test{number:03}/{i:03}.tif")
    assert main("ped2", tmp_path, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.rstrip().endswith("\ncomplete")
    write_picture(tmp_path / "out/ped2/testing/frames/99/000.jpg")
    assert main("ped2", tmp_path, "--output", tmp_path / "out") == 1
    assert "not part of this data set, in testing: 99" in capsys.readouterr().out


# own videos


@pytest.fixture
def own(tmp_path):
    write_video(tmp_path / "train/one.avi", 6)
    write_video(tmp_path / "train/two.v1.mp4v.avi", 4)
    (tmp_path / "train/.hidden.avi").write_bytes(b"")
    (tmp_path / "train/notes.txt").write_text("FFmpeg would draw this text\n" * 50)
    write_video(tmp_path / "test.avi", 8)
    return tmp_path


def prepare_own(own, *more):
    return main("video", own / "train", "--test", own / "test.avi", "--name", "shop", "--output", own / "out", *more)


def test_own_videos(own, capsys):
    (own / "labels.csv").write_text("video,first,last\ntest,2,3\n")
    assert prepare_own(own, "--labels", own / "labels.csv") == 0
    assert frames(own / "out/shop/training/frames") == {"one": 6, "two.v1.mp4v": 4}
    assert frames(own / "out/shop/testing/frames") == {"test": 8}
    assert (own / "out/shop/frame_labels.csv").read_text() == "video,first,last\ntest,2,3\n"
    first = cv2.imread(str(own / "out/shop/testing/frames/test/00000.jpg"))
    assert np.abs(first.astype(int) - picture(0)).mean() < 15  # the first of the video, through two JPEGs
    assert "training 2 10 testing 1 8 complete" in words(capsys.readouterr().out)


def test_labels_are_checked_against_the_video(own):
    (own / "labels.csv").write_text("video,first,last\ntest,2,8\n")
    with pytest.raises(InputError, match=r"labels.csv, line 2: frame 8 is outside video test"):
        prepare_own(own, "--labels", own / "labels.csv")
    assert not (own / "out/shop/frame_labels.csv").exists()


def test_labels_of_earlier_runs_are_kept(own):
    def run(test, text):
        (own / "labels.csv").write_text(f"video,first,last\n{text}")
        more = ("--name", "shop", "--output", own / "out", "--labels", own / "labels.csv")
        assert main("video", own / "train", "--test", own / test, *more) == 0
        return (own / "out/shop/frame_labels.csv").read_text().splitlines()[1:]

    for name in ("day2", "day3"):
        write_video(own / f"{name}.avi", 8)
    assert run("test.avi", "test,2,3\n") == ["test,2,3"]
    assert run("day2.avi", "day2,0:00,0:00.1\n") == ["day2,0,2", "test,2,3"]
    assert run("day3.avi", "day3,5,5\nday2,unlabelled,\n") == ["day2,unlabelled,", "day3,5,5", "test,2,3"]
    assert run("test.avi", "") == ["day2,unlabelled,", "day3,5,5"]  # a video of this run without a line is normal
    (own / "labels.csv").write_text("video,first,last\nday2,7,8\n")
    with pytest.raises(InputError, match="line 2: frame 8 is outside video day2"):
        prepare_own(own, "--labels", own / "labels.csv")


def test_videos_of_one_name(own):
    write_video(own / "train/ONE.mp4.avi", 2).rename(own / "train/ONE.mkv")
    with pytest.raises(InputError, match="rename one"):
        prepare_own(own)
    assert not (own / "out").exists()


def test_broken_videos_are_named_and_the_rest_goes_on(own):
    whole = (own / "test.avi").read_bytes()
    (own / "train/broken.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    (own / "train/cut.avi").write_bytes(whole[: len(whole) // 2])
    (own / "train/empty.avi").write_bytes(b"")
    arguments = ("video", own / "train", "--test", own / "test.avi", "--name", "shop", "--output", own / "out")
    command = [sys.executable, "-m", "data.prepare", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    failed = [line for line in result.stdout.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3 and all(any(n in line for line in failed) for n in ("broken.mp4", "cut.avi", "empty.avi"))
    assert frames(own / "out/shop/training/frames") == {"one": 6, "two.v1.mp4v": 4}
    for name in ("broken.mp4", "cut.avi", "empty.avi"):
        (own / "train" / name).unlink()
    assert main(*arguments) == 0


def test_a_wrong_count_in_the_header_is_no_fault(own):
    (own / "train/two.v1.mp4v.avi").write_bytes((FAULTS / "b_frames.avi").read_bytes())  # it says 200 frames
    assert prepare_own(own) == 0
    assert frames(own / "out/shop/training/frames") == {"one": 6, "two.v1.mp4v": 100}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("variable_rate.mp4", {49: 1.96, 50: 2.0, 99: 11.8}),
        ("motion_triggered.mp4", {49: 1.96, 50: 3600.0, 99: 3601.96}),
    ],
)
def test_times_are_kept_beside_the_frames(own, name, expected, capsys):
    (own / "test.avi").write_bytes((FAULTS / name).read_bytes())
    assert prepare_own(own) == 0
    videos = find_videos(own / "out/shop/testing/frames")
    (times,) = read_times(videos, fps=10)
    assert not times.assumed and times.seconds[0] == 0
    assert {frame: times.seconds[frame] for frame in expected} == pytest.approx(expected, abs=1e-5)
    jumps = [50] if name == "motion_triggered.mp4" else []
    assert np.flatnonzero(gaps(times.seconds)).tolist() == jumps
    assert ("jumps at frame 50" in capsys.readouterr().out) == bool(jumps)


def test_times_that_are_not_there_are_assumed(own):
    prepare_own(own)
    (own / "out/shop/testing/times/test.csv").unlink()
    (times,) = read_times(find_videos(own / "out/shop/testing/frames"), fps=10)
    assert times.assumed and times.seconds == pytest.approx(np.arange(8) / 10)


def test_times_of_other_frames_are_refused(own):
    prepare_own(own)
    (own / "out/shop/testing/frames/test/00000.jpg").unlink()
    with pytest.raises(InputError, match="has the times of 8 frames, but the video has 7"):
        read_times(find_videos(own / "out/shop/testing/frames"), fps=10)
    (own / "out/shop/testing/times/test.csv").write_text("frame,seconds\n0,1\n1,0\n")
    with pytest.raises(InputError, match="cannot read the times in"):
        read_times(find_videos(own / "out/shop/testing/frames"), fps=10)


def test_a_phone_held_upright(own):
    (own / "test.avi").write_bytes((FAULTS / "rotated_90.mp4").read_bytes())
    assert prepare_own(own) == 0
    picture = cv2.imread(str(own / "out/shop/testing/frames/test/00000.jpg"))
    assert picture.shape == (320, 240, 3)
    blue, green, red = picture[-40:-8, 8:40].reshape(-1, 3).mean(axis=0)
    assert red > 240 and blue < 15 and green < 15


def test_a_card_of_a_camera(own, capsys):
    card = own / "train"
    for ending, content in ((".srt", b"1\n00:00:00,000"), (".xml", b"<a/>"), (".json", b"{}"), (".lrv", b"a video")):
        (card / f"one{ending}").write_bytes(content)
    (card / "one.HEIC").write_bytes((FAULTS / "rotated_90.mp4").read_bytes())  # FFmpeg opens such pictures too
    write_picture(card / "one.jpg")
    (card / "one.jpg").rename(card / "one.THM")
    write_video(card / "DCIM/three.avi", 2)
    if hasattr(os, "mkfifo"):
        os.mkfifo(card / "pipe.mp4")  # opened, it would wait for ever
    assert prepare_own(own) == 0
    assert frames(own / "out/shop/training/frames") == {"one": 6, "two.v1.mp4v": 4}
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "skipped, since they are not videos" in line]
    assert all(f"one{ending}" in line for ending in (".srt", ".xml", ".json", ".lrv", ".THM", ".HEIC"))
    assert "folders inside it are not read: DCIM" in printed
    assert ("pipe.mp4" in line) == hasattr(os, "mkfifo")


def test_a_link_to_nowhere_is_named(own, capsys):
    (own / "train/gone.mp4").symlink_to(own / "nowhere.mp4")
    assert prepare_own(own) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert "gone.mp4" in line and "nowhere.mp4" in line


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
@pytest.mark.parametrize("name", [b"caf\xe9.avi", "视频".encode("gbk") + b".avi"])
def test_names_that_are_no_utf8(own, name, capsys):
    (own / "train/one.avi").rename(Path(os.fsdecode(os.fsencode(own / "train") + b"/" + name)))
    assert prepare_own(own) == 0
    videos = find_videos(own / "out/shop/training/frames")
    assert sorted(len(video.frames) for video in videos) == [4, 6]
    assert not any(times.assumed for times in read_times(videos, fps=10))
    "".join(video.name for video in videos).encode()  # every csv can hold the names
    capsys.readouterr().out.encode()


def test_a_name_with_colons(own):
    (own / "train/one.avi").rename(own / "train/2024-01-01T12:30:05.avi")
    assert prepare_own(own) == 0
    assert frames(own / "out/shop/training/frames") == {"2024-01-01T12:30:05": 6, "two.v1.mp4v": 4}


def test_labels_of_a_video_that_is_not_there_stop_it_before_extraction(own):
    (own / "labels.csv").write_text("video,first,last\nother,2,3\n")
    with pytest.raises(InputError, match="line 2: no test video 'other'"):
        prepare_own(own, "--labels", own / "labels.csv")
    assert not (own / "out").exists()


def test_clock_that_steps_back_only_grows_and_shows_a_gap():
    clock = Clock(0.04)
    placed = [clock.place(seconds) for seconds in (100, 100.04, 100.08, 40, 40.04, 40.08, None)]
    times = [seconds for seconds, _ in placed]
    assert all(np.diff(times) > 0)
    assert [gap for _, gap in placed] == gaps(times).tolist() == [False, False, False, True, False, False, False]
    assert np.diff(times)[3:] == pytest.approx([0.04] * 3)


@pytest.mark.parametrize("arrivals", [[None] * 5, [3.0, 3.1, 3.2, 3.3, 3.4]], ids=["a file", "live"])
def test_times_that_start_late_go_on_from_the_frames_before(arrivals):
    """An RTSP server may give the time of its first frames only later, on a clock that started long ago."""
    clock = Clock(0.1)
    placed = [clock.place(*frame) for frame in zip([None, None, 7.1, 7.2, None], arrivals, strict=True)]
    assert [seconds for seconds, _ in placed] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert not any(gap for _, gap in placed)


def test_a_slow_recording_has_no_gaps():
    assert not gaps(np.arange(20) * 10.0).any()  # a picture every ten seconds
    assert np.flatnonzero(gaps([*np.arange(10) * 10.0, 200, 210])).tolist() == [10]


# stopped and run again


def test_second_run_keeps_what_is_there(own, capsys):
    prepare_own(own)
    marked = own / "out/shop/training/frames/one/00000.jpg"
    marked.write_bytes(b"mine")
    capsys.readouterr()
    assert prepare_own(own) == 0
    assert marked.read_bytes() == b"mine" and "0 videos to extract, 3 exist already" in capsys.readouterr().out


def test_video_with_too_few_frames_is_made_again(ped2, tmp_path):
    for _ in range(2):
        main("ped2", ped2, "--output", tmp_path / "out")
        folder = tmp_path / "out/ped2/training/frames/02"
        assert len(list(folder.iterdir())) == 12
        (folder / "005.jpg").unlink()


def test_leftovers_of_a_killed_run(own):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    name = new_part(Path()).name.replace(str(os.getpid()), str(ended.pid))
    part = own / "out/shop/training/frames" / name
    part.mkdir(parents=True)
    (part / "00099.jpg").write_bytes(b"half")
    assert prepare_own(own) == 0
    assert frames(part.parent) == {"one": 6, "two.v1.mp4v": 4}


STOPS_AT_FRAME_20 = """
import signal
from data import prepare
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may have it ignored
encode, extract, count, stop = prepare.encode, prepare.extract, 0, None
def extract_and_show_stop(*arguments):
    global stop
    stop = arguments[2]
    extract(*arguments)
def encode_and_wait(*arguments):
    global count
    count += 1
    if count == 20:
        print("here", flush=True)  # the test sends its signal now
        stop.wait()
    return encode(*arguments)
prepare.encode, prepare.extract = encode_and_wait, extract_and_show_stop
prepare.run_script(prepare.main)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_killed_in_mid_extraction(tmp_path, sent):
    write_video(tmp_path / "long.avi", 40)
    short = write_video(tmp_path / "short.avi", 3)
    out = tmp_path / "out"
    command = ("video", tmp_path / "long.avi", "--test", short, "--name", "shop", "--output", out, "--workers", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS_AT_FRAME_20, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline().strip() != "here":
        assert process.poll() is None
    training = out / "shop/training/frames"
    ((part, count),) = frames(training).items()
    assert part[0] == "." and count == 19
    process.send_signal(sent)
    errors = process.communicate()[1]
    assert not (training / "long").exists()
    if sent == signal.SIGINT:
        assert process.returncode == 130 and errors.splitlines() == ["interrupted"] and frames(training) == {}
    else:
        assert frames(training).keys() == {part}
        assert main(*command) == 0
        assert frames(training) == {"long": 40}


def test_two_preparations_at_once(own, monkeypatch):
    encode, waiting, second_ended = prepare.encode, threading.Event(), threading.Event()

    def encode_and_wait(*arguments):
        if threading.current_thread() in first_threads and not waiting.is_set():
            waiting.set()
            assert second_ended.wait(60)
        return encode(*arguments)

    with ThreadPoolExecutor(1) as pool:
        first_threads = []

        def extract(*arguments):
            if not waiting.is_set():
                first_threads.append(threading.current_thread())
            extract_one(*arguments)

        extract_one = prepare.extract
        monkeypatch.setattr(prepare, "extract", extract)
        monkeypatch.setattr(prepare, "encode", encode_and_wait)
        first = pool.submit(prepare_own, own, "--workers", "1")
        assert waiting.wait(60)
        assert prepare_own(own) == 0
        second_ended.set()
        assert first.result() == 0
    assert frames(own / "out/shop/training/frames") == {"one": 6, "two.v1.mp4v": 4}
    assert frames(own / "out/shop/testing/frames") == {"test": 8}


def test_an_error_of_a_library_stops_no_other_video(own, monkeypatch, capsys):
    upright = reader._upright

    def fail(frame):
        if frame.width == 16:
            raise ValueError("an odd\nframe")
        return upright(frame)

    monkeypatch.setattr(reader, "_upright", fail)
    write_video(own / "train/odd.avi", 3, (16, 16))
    assert prepare_own(own) == 1
    assert frames(own / "out/shop/training/frames") == {"one": 6, "two.v1.mp4v": 4}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert "odd.avi cannot be read: ValueError: an odd" in line


def test_videos_that_are_no_longer_given_are_named(own, capsys):
    assert prepare_own(own) == 0
    assert "note:" not in capsys.readouterr().out
    (own / "train/one.avi").unlink()
    assert prepare_own(own) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert "training" in line and "also holds one," in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_full_disk(own, monkeypatch, number):
    written = []

    def write_bytes(path, content):
        written.append(path)
        if len(written) > 3:
            raise OSError(number, os.strerror(number))
        with open(path, "wb") as file:
            file.write(content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(InputError, match=rf"cannot write .*: {os.strerror(number)}") as caught:
        prepare_own(own, "--workers", "1")
    assert "\n" not in str(caught.value)
    assert ("make room" in str(caught.value)) == (number == errno.ENOSPC)
    assert frames(own / "out/shop/training/frames") == {}


# command line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required"),
        (("ped3", "x"), "invalid choice"),
        (("ped2", "no/such/folder"), "no folder"),
        (("ped2", "tests"), "no ped2 videos in"),
        (("shanghai",), "campus_dataset.html, unpack it, and give its folder"),
        (("shanghai", "tests", "--url", "http://x"), "--url"),  # it is never downloaded
        (("ped2", "tests", "--quality", "101"), "--quality must be"),
        (("ped2", "tests", "--workers", "0"), "--workers must be"),
        (("video", "no/such", "--test", "x", "--name", "shop"), "no video file or folder"),
        (("video", "tests", "--test", "x", "--name", "ped2"), "--name"),
        (("video", "tests", "--test", "x", "--name", "../up"), "--name"),
        (("video", "tests", "--test", "x", "--name", "a", "--labels", "none.csv"), "--labels: there is no file"),
    ],
)
def test_mistakes_are_one_line(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, *(("--output", str(tmp_path)) if arguments else ())])
    with pytest.raises(SystemExit) as caught:
        prepare.run_script(prepare.main)
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert message.count("\n") == 1 and message.startswith("error: ") and says in message


def test_folder_without_videos(own, tmp_path):
    (tmp_path / "pictures").mkdir()
    write_picture(tmp_path / "pictures/1.jpg")
    with pytest.raises(InputError, match="no video files in"):
        main("video", tmp_path / "pictures", "--test", own / "test.avi", "--name", "shop", "--output", tmp_path / "out")
