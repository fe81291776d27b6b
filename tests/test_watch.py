"""One video, a camera or a stream, watched: scored as a data set is, without its future, and kept whatever ends it."""

import contextlib
import csv
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import helpers
import numpy as np
import pytest
import torch
from conftest import textured
from helpers import calibrate_run, one_line

import Evaluate
from data.cache import NO_CACHE
from data.clips import open_clips, testing_loader
from data.frames import find_videos
from data.reader import Decoded
from data.stream import Frame, Stream
from exp.checkpoints import load_model
from exp.report.files import Table
from exp.report.recorder import Recorder
from exp.scoring import calibration
from exp.scoring.evaluation import evaluate
from exp.scoring.score import Scoring
from exp.scoring.watch import batches_of_frames
from utils import InputError, run_script, smooth

pytestmark = pytest.mark.usefixtures("small_network")

SHAPE = {"method": "pred", "c": 3, "t_length": 5, "h": 16, "w": 16, "msize": 4, "fdim": 16}


@pytest.fixture
def run(in_its_own_folder, make_videos):
    """A directory with an untrained network, and its calibration on a video."""
    return make_run(make_videos)


def make_run(make_videos, name="run", channels=3):
    videos = make_videos(Path(f"normal-{name}"), {"1": 30})
    return calibrate_run(helpers.make_run(Path(name), size=(16, 16), channels=channels), videos)


def pictures(n, size=(24, 32)):
    return [textured("watched", k, size) for k in range(n)]


def write_video(path, frames, fps=10, codec="MJPG"):
    out = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, frames[0].shape[1::-1])
    for frame in frames:
        out.write(frame)
    out.release()
    return path


def call(run, source, *arguments):
    """Evaluate.py --video, as its command line would run it. Returns the exit status."""
    sys.argv = ["Evaluate.py", "--model_dir", str(run), "--video", str(source), *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        run_script(Evaluate.main)
    return end.value.code or 0


def rows(run, name, table="scores"):
    with open(run / "watched" / name / f"{table}.csv") as file:
        return list(csv.DictReader(file))


def column(run, name, key):
    return np.array([float(row[key]) for row in rows(run, name)])


class Source:
    """What data.reader.Reader is to a source of these pictures; of those that are exceptions, it raises them."""

    error, size = None, (32, 24)

    def __init__(self, frames, announced=0, fps=10.0, live=False):
        self.frames, self.announced, self.fps, self.live = frames, announced, fps, live
        self.duration = announced / fps if announced else None
        self.given = 0

    def __iter__(self):
        for k, frame in enumerate(self.frames):
            if isinstance(frame, BaseException):
                raise frame
            if callable(frame):
                frame()
                continue
            self.given += 1
            yield Decoded(k / self.fps, frame, corrupt=False)

    def problem(self):
        return f"is cut short after {self.given} frames" if self.given < self.announced else None

    def close(self):
        pass


@pytest.fixture
def source(monkeypatch):
    """source(frames, ...) is what is opened from then on, whatever the source is called."""

    def give(frames, **settings):
        Path("v.avi").touch()
        monkeypatch.setattr(Stream, "_open", lambda stream: Source(frames, **settings))

    return give


# scores


@pytest.mark.parametrize("channels", [3, 1])
def test_a_video_scores_as_its_frames_do(channels, run, make_videos):
    if channels == 1:
        run = make_run(make_videos, "gray", channels=1)
    write_video("v.avi", pictures(23))
    assert call(run, "v.avi", "--test_batch_size", 4) == 0
    frames = Path("frames/v")
    frames.mkdir(parents=True)
    for frame in Stream("v.avi"):
        gray = cv2.cvtColor(frame.picture, cv2.COLOR_BGR2GRAY) if channels == 1 else frame.picture
        cv2.imwrite(str(frames / f"{frame.index:03d}.png"), gray)
    model, items, _ = load_model(run / "model.pth", run / "m_items.pt", dict.fromkeys(SHAPE))
    clips = open_clips(find_videos("frames"), "testing", 5, (16, 16, channels), NO_CACHE)
    seconds = [np.arange(23) / 10]
    expected = evaluate(model, items, testing_loader(clips), Scoring(0.01, 0.6), None, seconds)
    assert column(run, "v", "frame").tolist() == list(range(4, 23))
    np.testing.assert_allclose(column(run, "v", "seconds"), np.arange(4, 23) / 10)
    for key, values in (("psnr", expected.psnr), ("distance", expected.distance), ("regular_score", expected.regular)):
        np.testing.assert_allclose(column(run, "v", key), values[0], rtol=1e-4)
    normal = calibration.load(run / "model.pth", items)
    online = normal.abnormality(expected.psnr[0], expected.distance[0], 0.6)
    np.testing.assert_allclose(column(run, "v", "abnormality"), online, atol=1e-2)
    assert (
        column(run, "v", "alarm") == (column(run, "v", "abnormality") > normal.threshold(Scoring(0.01, 0.6), 0.001, 10))
    ).all()


def test_scores_do_not_look_into_the_future(run):
    frames = pictures(30)
    write_video("whole.avi", frames)
    write_video("begun.avi", frames[:17])
    for name in ("whole.avi", "begun.avi"):
        assert call(run, name, "--smooth", "0.3s", "--th", 1) == 0
    begun, whole = column(run, "begun", "abnormality"), column(run, "whole", "abnormality")
    np.testing.assert_allclose(begun, whole[: len(begun)], atol=1e-2)


def test_smoothing_counts_the_frames_that_a_slow_machine_leaves_out():
    recorder, indices, scores = SimpleNamespace(sigma=2.0, recent=deque()), [0, 3, 6, 20], [1.0, 5.0, 2.0, 7.0]
    frames = [SimpleNamespace(index=index, gap=False) for index in indices]
    found = [Recorder._smoothed(recorder, frame, score) for frame, score in zip(frames, scores, strict=True)]
    weights = np.exp(-0.5 * (np.array([6, 3, 0]) / 2) ** 2)
    np.testing.assert_allclose(found[2:], [weights @ scores[:3] / weights.sum(), 7])  # the others are too far away


def test_smoothing_of_a_stream_is_that_of_a_whole_video(run):
    write_video("v.avi", pictures(30))
    assert call(run, "v.avi") == 0
    alone = column(run, "v", "abnormality")
    assert call(run, "v.avi", "--smooth", 2) == 0  # the first watching is left as it is
    np.testing.assert_allclose(column(run, "v-2", "abnormality"), smooth(alone, 2, causal=True), atol=1e-3)


def test_alarms_and_video(run, capsys):
    write_video("v.avi", pictures(20, size=(50, 70)), fps=12.5)
    assert call(run, "v.avi", "--save_video", "--false_alarm_rate", 0.5, "--merge_gap", 1) == 0
    out = capsys.readouterr().out
    events = rows(run, "v", "alarms")
    found = [row for row in events if row["event"] == "ended"]
    assert [row["start"] for row in events if row["event"] == "started"] == [row["start"] for row in found]
    inside = [k for row in found for k in range(int(row["start"]), int(row["end"]) + 1)]
    assert inside == [int(row["frame"]) for row in rows(run, "v") if row["alarm"] == "1"] != []
    assert out.count("alarm: ") == out.count("alarm starts at ") == len(found)
    assert f"alarms above {calibration_threshold(run, 0.5):.4g}: {len(found)};" in out
    assert "16 frames in" in out and "per second (v.avi has 12.5)" in out
    annotated = cv2.VideoCapture(str(run / "watched/v/annotated.mp4"))
    assert annotated.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert sum(1 for _ in iter(lambda: annotated.read()[0], False)) == 16


def calibration_threshold(run, rate):
    items = torch.load(run / "m_items.pt", weights_only=True)["items"]
    return calibration.load(run / "model.pth", items).threshold(Scoring(0.01, 0.6), rate, 12.5)


def test_the_network_that_scores_is_the_compiled_one(run, monkeypatch):
    calls = []

    def compile_in_name(module):
        module._compiled_call_impl = lambda *inputs: calls.append(module) or module._call_impl(*inputs)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_in_name)
    write_video("v.avi", pictures(6))
    assert call(run, "v.avi", "--compile") == 0
    assert len(set(calls)) == 2  # encoder and decoder


# sources that end before their time


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_camera_runs_until_ctrl_c_or_sigterm(number, run, source, monkeypatch, capsys):
    scored, ended, real = threading.Event(), threading.Event(), Recorder.add

    def add(recorder, part):
        value = real(recorder, part)
        if recorder.count == 8:
            scored.set()
        return value

    def stop():
        scored.wait()
        os.kill(os.getpid(), number)
        ended.wait()  # a camera gives no more frames, and does not end either

    monkeypatch.setattr(Recorder, "add", add)
    source([*pictures(12), stop], fps=10.0, live=True)
    assert call(run, "0", "--save_video", "--false_alarm_rate", 0.999, "--output_dir", "out") == 0
    ended.set()
    (watched,) = Path("out/watched").glob("camera-0-*")  # and the time, so that nothing is overwritten
    out = capsys.readouterr().out
    for said in ("camera-0: 32x24 pixels, 10 frames per second", f"scored by {run / 'model.pth'}, written to"):
        assert said in out
    assert str(watched) in out and "calibrated threshold" in out and "Ctrl-C ends it" in out
    with open(watched / "scores.csv") as file:
        scores = list(csv.DictReader(file))
    with open(watched / "alarms.csv") as file:
        events = list(csv.DictReader(file))
    assert len(scores) == 8 and all(row["time"] for row in scores)
    assert [row["event"] for row in events[-2:]] == ["started", "ended"]  # the one under way
    assert events[-1]["end"] == scores[-1]["frame"] == "11"
    assert cv2.VideoCapture(str(watched / "annotated.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 8
    assert scores[0]["time"] in (watched / "report.html").read_text(encoding="utf-8")


def test_a_stream_that_drops_is_named_without_its_password(run, source, capsys):
    source(pictures(9), live=True)
    assert call(run, "rtsp://me:secret@door/live?key=secret", "--patience", 0) == 2
    (watched,) = (run / "watched").glob("door-live-*")
    one_line(capsys, "door-live", "after 9", "5 frames were scored", watched)
    assert len(rows(run, watched.name)) == 5


def answers(port):
    """Whether an RTSP server is there and has something to play."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"DESCRIBE rtsp://127.0.0.1:{port}/live RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        return connection.recv(99).startswith(b"RTSP/1.0 200")
    return False


@pytest.fixture
def vlc():
    """A process of VLC that plays a minute of video to rtsp://127.0.0.1:<port>/live, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with av.open(f"{folder}/v.mp4", "w") as container:
            video = container.add_stream("libx264", rate=10, options={"tune": "zerolatency", "g": "10"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for picture in pictures(600, size=(48, 64)):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(video.encode())
        command = ["cvlc", "--no-dbus", f"{folder}/v.mp4", "--sout", f"#rtp{{sdp=rtsp://127.0.0.1:{port}/live}}"]
        other = {"user": "nobody"} if os.geteuid() == 0 else {}  # it does not run as root
        quiet = dict.fromkeys(("stdout", "stderr", "stdin"), subprocess.DEVNULL)
        process = subprocess.Popen(command, env={**os.environ, "HOME": folder}, **other, **quiet)
        deadline = time.monotonic() + 60
        try:
            while not answers(port):
                assert process.poll() is None and time.monotonic() < deadline, "VLC does not serve"
                time.sleep(0.1)
            yield process, port
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow  # a server in a process of its own
@pytest.mark.skipif(not shutil.which("cvlc"), reason="VLC is not here to serve RTSP")
def test_an_rtsp_server_that_is_killed(vlc, run, monkeypatch, capsys):
    process, port = vlc
    real = Recorder.add

    def add(recorder, part):
        value = real(recorder, part)
        if recorder.count >= 12:
            process.kill()
        return value

    monkeypatch.setattr(Recorder, "add", add)
    flags = ["--patience", 2, "--false_alarm_rate", 0.999, "--merge_gap", 1000, "--save_video", "--output_dir", "out"]
    assert call(run, f"rtsp://127.0.0.1:{port}/live", *flags) == 2
    one_line(capsys, "127.0.0.1-live", "did not come back within 2 s", "frames were scored")
    (watched,) = Path("out/watched").glob("127.0.0.1-live-*")
    scores, events = ([*csv.DictReader((watched / name).open())] for name in ("scores.csv", "alarms.csv"))
    assert len(scores) >= 12 and None not in {value for row in scores for value in row.values()}
    assert all(np.diff([float(row["seconds"]) for row in scores]) > 0)
    assert [row["event"] for row in events] == ["started", "ended"] * (len(events) // 2)
    frames = [row["frame"] for row in scores]
    assert events[0]["start"] in frames and events[-1]["end"] in frames
    assert cv2.VideoCapture(str(watched / "annotated.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == len(scores)


def test_no_clip_and_no_alarm_spans_a_gap_in_time(run, source):
    """Frames 10 and later come an hour after frame 9."""
    video = [*pictures(20)]
    source(video)
    jump = [k / 10 + 3600 * (k >= 10) for k in range(20)]
    real = Source.__iter__

    def jumping(self):
        for seconds, decoded in zip(jump, real(self), strict=True):
            yield decoded._replace(seconds=seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "__iter__", jumping)
        assert call(run, "v.avi", "--false_alarm_rate", 0.999, "--merge_gap", 100, "--smooth", 3) == 0
    assert column(run, "v", "frame").tolist() == [*range(4, 10), *range(14, 20)]
    ended = [row for row in rows(run, "v", "alarms") if row["event"] == "ended"]
    assert [(row["start"], row["end"]) for row in ended] == [("4", "9"), ("14", "19")]
    assert float(ended[1]["start_seconds"]) == pytest.approx(3601.4, abs=0.01)


@pytest.mark.parametrize(
    ("frames", "announced", "words"),
    [
        (pictures(7) + pictures(3, size=(32, 24)), 10, ["from 32x24 to 24x32 at frame 7", "3 frames were scored"]),
        (pictures(12), 20, ["cut short after 12", "8 frames were scored"]),
        (pictures(3), 3, ["3 frames", "but this network needs clips of 5"]),
    ],
    ids=["changes size", "cut short", "shorter than a clip"],
)
def test_videos_that_are_not_whole(frames, announced, words, run, source, capsys):
    source(frames, announced=announced)
    assert call(run, "v.avi", "--save_video") == 2
    one_line(capsys, *words)
    assert len(rows(run, "v")) == max(0, min(len(frames), 7 if announced == 10 else 99) - 4)
    assert (run / "watched/v/annotated.mp4").exists() == (len(frames) > 4)
    assert not list((run / "watched/v").glob(".*"))


def test_ctrl_c_keeps_the_scores_of_a_file(run, source, capsys):
    source([*pictures(13), KeyboardInterrupt()], announced=100)
    assert call(run, "v.avi", "--test_batch_size", 4) == 130
    assert "interrupted: 8 frames were scored" in capsys.readouterr().err
    assert len(rows(run, "v")) == 8


def test_a_file_that_is_cut_short_before_its_index(run, capfd):
    path = Path(write_video("v.mp4", pictures(40, size=(64, 64)), codec="mp4v"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert call(run, path) == 2
    one_line(capfd, path)
    assert not (run / "watched").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("v.mp4", None, ["v.mp4", "does not exist"]),
        ("v.mp4", b"", ["cannot open v.mp4"]),
        ("v.mp4", b"not a video " * 99, ["cannot open v.mp4", "no video"]),
        (".", None, ["is a folder"]),
        ("77", None, ["camera-77", "does not exist"]),
        ("rtsp://127.0.0.1:9/x", None, ["127.0.0.1-x"]),
        ("rtsp://[x", None, ["address"]),
    ],
)
def test_sources_that_do_not_open(name, content, words, run, capfd):
    if content is not None:
        Path(name).write_bytes(content)
    assert call(run, name) == 2
    one_line(capfd, *words)
    assert not (run / "watched").exists()


# clips


def frames_of(count, **settings):
    return [Frame(k, k / 10, textured("1", k, (24, 32)), False, True, None, **settings) for k in range(count)]


def batches(frames, batch_size, is_due=lambda frame: False):
    shape = {"t_length": 5, "h": 16, "w": 16, "c": 3}
    return [[place.frame for place in places] for _, places in batches_of_frames(frames, shape, batch_size, is_due)]


def test_frames_that_only_complete_clips_are_not_scored():
    frames = [replace(frame, scored=frame.index % 3 == 0) for frame in frames_of(14)]
    assert batches(frames, 8) == [[6, 9, 12]]


def test_a_frame_that_is_due_does_not_wait_for_others():
    assert batches(frames_of(9), 3) == [[4, 5, 6], [7, 8]]
    assert batches(frames_of(9), 3, lambda frame: True) == [[4], [5], [6], [7], [8]]
    assert batches(frames_of(9), 3, lambda frame: frame.index == 4) == [[4], [5, 6, 7], [8]]


# disks


def test_a_full_disk_while_the_video_is_written_keeps_the_scores(run, capfd):
    """A limit on the size of files stands for it."""
    write_video("v.avi", pictures(40, size=(240, 320)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        assert call(run, "v.avi", "--save_video", "--no_figures") == 2  # report.html might be too large as well
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(capfd, "annotated.mp4", "File too large", "36 frames were scored")
    assert len(rows(run, "v")) == 36
    assert sorted(path.name for path in (run / "watched/v").iterdir()) == ["alarms.csv", "scores.csv"]


def test_a_full_disk_while_scores_are_written(run, capsys):
    write_video("v.avi", pictures(40))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        assert call(run, "v.avi", "--test_batch_size", 4) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(capsys, "cannot write", "scores.csv", "frames were scored")
    assert 4 <= len(rows(run, "v")) < 36


def test_a_row_that_did_not_fit_leaves_nothing_though_there_is_space_later(tmp_path):
    table = Table(tmp_path / "scores.csv", ("a", "b"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        table.add((1, 2))
        with pytest.raises(InputError, match="cannot write"):
            table.add((3, "x" * 30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    table.add((5, 6))
    table.close()
    assert (tmp_path / "scores.csv").read_bytes() == b"a,b\r\n1,2\r\n5,6\r\n"


def test_what_cannot_be_written_at_the_end_does_not_keep_the_rest_from_it(run, monkeypatch, capsys):
    def fail(recorder, alarm):
        if alarm:
            raise InputError("cannot write alarms.csv")

    write_video("v.avi", pictures(40))
    monkeypatch.setattr(Recorder, "_end", fail)
    assert call(run, "v.avi", "--false_alarm_rate", 0.999, "--merge_gap", 100, "--save_video") == 2
    one_line(capsys, "cannot write alarms.csv")
    assert {"annotated.mp4", "report.html"} <= {path.name for path in (run / "watched" / "v").iterdir()}


def test_tables_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Table(tmp_path / "file" / "scores.csv", ("a",))
