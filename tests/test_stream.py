"""Streams: times and pictures of files, and live sources that are faster than the consumer, drop, or are damaged."""

import io
import os
import sys
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from data import reader
from data import stream as streams
from data.stream import Stream
from utils import InputError

VIDEOS = Path(__file__).parent / "videos"


def mpegts(path, count=100, fps=25):
    """A transport stream of H.264 whose picture i is a gray of its own, as bytes."""
    with av.open(str(path), "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=fps, options={"tune": "zerolatency", "g": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            gray = np.full((48, 64, 3), 20 + 2 * (i % 100), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(gray, format="bgr24")))
        container.mux(video.encode())
    return path.read_bytes()


# files


@pytest.mark.parametrize(
    ("name", "fps", "count", "times"),
    [
        ("variable_rate.mp4", 25, 100, {49: 1.96, 50: 2.0, 99: 11.8}),
        ("variable_rate.webm", 25, 100, {49: 1.96, 50: 2.0, 99: 11.8}),
        ("motion_triggered.mp4", 25, 100, {49: 1.96, 50: 3600.0, 99: 3601.96}),
        ("b_frames.avi", 25, 100, {i: i / 25 for i in range(100)}),
        ("long_sound.mkv", 25, 100, {0: 0, 99: 3.96}),
        ("rotated_90.mp4", 25, 100, {99: 3.96}),
        ("slow_motion_211fps.mp4", 211.222, 20, {19: 19 / 211.222}),
    ],
)
def test_files(name, fps, count, times, capsys):
    stream = Stream(str(VIDEOS / name))
    frames = list(stream)
    stream.close()
    assert stream.problem is None and not stream.live and stream.fps == pytest.approx(fps)
    assert [frame.index for frame in frames] == list(range(count))
    assert {index: frames[index].seconds for index in times} == pytest.approx(times, abs=1e-5)
    assert all(np.diff([frame.seconds for frame in frames]) > 0)
    jumps = [50] if name == "motion_triggered.mp4" else []
    assert [frame.index for frame in frames if frame.gap] == jumps
    assert all(frame.scored and frame.captured is None for frame in frames)
    assert capsys.readouterr().out.count("its time jumps") == len(jumps)


@pytest.mark.parametrize(("codec", "options"), [("mjpeg", {}), ("libx264", {"bf": "3", "b-adapt": "0"})])
def test_an_avi_that_leaves_frames_out(codec, options, tmp_path):
    """50 frames at 25 per second, then 50 at 5: AVI has empty places for the others, and its header counts them."""
    ticks = [*range(50), *range(50, 300, 5)]
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.width, video.height, video.pix_fmt = 416, 16, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i, tick in enumerate(ticks):
            picture = np.zeros((16, 416, 3), np.uint8)
            picture[:, 4 * i : 4 * i + 16] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    with av.open(str(tmp_path / "v.avi")) as container:
        assert container.streams.video[0].frames > 250
    stream = Stream(str(tmp_path / "v.avi"))
    frames = list(stream)
    assert stream.problem is None and stream.fps == 25 and not any(frame.gap for frame in frames)
    shown = [np.flatnonzero(frame.picture.mean(axis=(0, 2)) > 128)[0] / 4 for frame in frames]
    assert shown == pytest.approx(np.arange(100), abs=0.3)
    assert [frame.seconds for frame in frames] == pytest.approx(np.array(ticks) / 25, abs=1e-5)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "flv", "ts"])
def test_a_copy_of_an_avi_keeps_its_order_and_has_no_gaps(ending, tmp_path):
    """Its frames are shown in another order than they are stored, and their times are those of the stored order."""
    path = str(tmp_path / f"v.{ending}")
    with av.open(str(VIDEOS / "b_frames.avi")) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts, stream
                target.mux(packet)
    frames, original = list(Stream(path)), list(Stream(str(VIDEOS / "b_frames.avi")))
    assert all((frame.picture == other.picture).all() for frame, other in zip(frames, original, strict=True))
    seconds = np.array([frame.seconds for frame in frames])
    assert not any(frame.gap for frame in frames) and all(np.diff(seconds) >= 0)
    assert seconds == pytest.approx(np.arange(100) / 25, abs=0.161)


def test_a_phone_held_upright():
    picture = next(iter(Stream(str(VIDEOS / "rotated_90.mp4")))).picture
    assert picture.shape == (320, 240, 3)
    blue, green, red = picture[-40:-8, 8:40].reshape(-1, 3).mean(axis=0)
    assert red > 240 and blue < 15 and green < 15


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_display_matrix(degrees, mirrored):
    """The matrix of a turn, and of one after a mirroring, moves each corner to where the matrix itself sends it."""
    turn = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}[degrees]
    a, b, c, d = (-turn[0], turn[1], -turn[2], turn[3]) if mirrored else turn
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)

    class Data:
        type = type("Type", (), {"name": "DISPLAYMATRIX"})

        def __bytes__(self):
            return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14], np.int32).tobytes()

    class Frame:
        side_data = (Data(),)

        def to_ndarray(self, format):
            return picture

    shown = reader._upright(Frame())
    places = {(x, y): (a * x + c * y, b * x + d * y) for y in range(2) for x in range(3)}
    left, top = (min(place[k] for place in places.values()) for k in (0, 1))
    for (x, y), (to_x, to_y) in places.items():
        assert (shown[to_y - top, to_x - left] == picture[y, x]).all()


def test_pictures_of_a_camera_with_exif(tmp_path):
    image, content, exif = Image.new("RGB", (64, 48), "red"), io.BytesIO(), Image.Exif()
    image.paste("blue", (0, 0, 24, 24))  # top left as stored, top right as shown
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    image.save(content, "JPEG", exif=exif)
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        packet = av.Packet(content.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, 10), video
        container.mux(packet)
    (frame,) = Stream(str(tmp_path / "v.avi"))
    if frame.picture.shape == (64, 48, 3):  # since FFmpeg 8, which reads Exif
        assert frame.picture[10, -10, 0] > 200 and frame.picture[10, 10, 2] > 200
    else:
        assert frame.picture.shape == (48, 64, 3)


def test_a_title_that_is_no_utf8(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        container.metadata["title"] = "a title"
        video = container.add_stream("mjpeg", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        container.mux(video.encode())
    content = (tmp_path / "v.mkv").read_bytes()
    assert b"a title" in content
    (tmp_path / "v.mkv").write_bytes(content.replace(b"a title", b"caf\xe9 \xff\xfe"))
    assert len(list(Stream(str(tmp_path / "v.mkv")))) == 1


def sound_with_cover(path):
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("libmp3lame", rate=44100), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", 1 << 10  # attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1152), np.int16), format="s16", layout="stereo")
        samples.sample_rate = 44100
        container.mux(sound.encode(samples))
        container.mux([*cover.encode(), *sound.encode()])


def test_the_cover_of_a_song_is_no_video(tmp_path):
    sound_with_cover(tmp_path / "v.mp3")
    with av.open(str(tmp_path / "v.mp3")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(InputError, match="it contains no video"):
        Stream(str(tmp_path / "v.mp3"))


@pytest.mark.parametrize(("highest", "given"), [(900, 0), (65535, 1)])
def test_gray_of_sixteen_bits_is_treated_as_in_pictures(highest, given, tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "gray16le"
        values = np.linspace(0, highest, 64 * 48).reshape(48, 64).astype(np.uint16)
        container.mux(video.encode(av.VideoFrame.from_ndarray(values, format="gray16le")))
        container.mux(video.encode())
    stream = Stream(str(tmp_path / "v.mkv"))
    frames = list(stream)
    assert len(frames) == given
    if given:
        assert np.abs(frames[0].picture[..., 0] - (values >> 8).astype(int)).max() <= 1
    else:
        assert "v.mkv gives no frame (a 16-bit picture whose highest value is 900 of 65535, so" in stream.problem


def test_a_video_of_an_unknown_format(tmp_path):
    content = (VIDEOS / "b_frames.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(content.replace(b"avc1", b"ZZZZ"))
    with pytest.raises(InputError, match=r"cannot open .*v.avi: the format of its video is unknown"):
        Stream(str(tmp_path / "v.avi"))


def test_a_rate_given_by_hand_counts_times():
    frames = list(Stream(str(VIDEOS / "variable_rate.mp4"), fps=10))
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(100) / 10)


@pytest.mark.parametrize("name", ["2024-01-01T12:30:05.mp4", b"caf\xe9.mp4", "视频".encode("gbk") + b".mp4"])
def test_odd_names(name, tmp_path):
    if isinstance(name, bytes) and sys.platform in ("win32", "darwin"):
        pytest.skip("file names are Unicode here")
    path = os.path.join(tmp_path, os.fsdecode(name))
    Path(path).write_bytes((VIDEOS / "b_frames.avi").read_bytes())
    stream = Stream(path)
    assert len(list(stream)) == 100
    f"{stream.shown} {stream.name}".encode()  # can be printed, and be written to a csv


@pytest.mark.parametrize("kept", [0.3, 0.6])
def test_a_file_that_is_cut_short(kept, tmp_path):
    remuxed = tmp_path / "v.mp4"
    with (
        av.open(str(VIDEOS / "b_frames.avi")) as source,
        av.open(str(remuxed), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = remuxed.read_bytes()
    start = content.index(b"mdat")
    remuxed.write_bytes(content[: start + int(kept * (len(content) - start))])
    stream = Stream(str(remuxed))
    frames = list(stream)
    assert 0 < len(frames) < 100 and "cut short" in stream.problem


def test_no_video(tmp_path):
    (tmp_path / "v.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(InputError, match=r"cannot open .*v.mp4: no video, or broken"):
        Stream(str(tmp_path / "v.mp4"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(InputError, match="is a pipe or a device"):
            Stream(str(tmp_path / "pipe.mp4"))


# live


class Server:
    """An HTTP server on the loopback. Each connection gets the next of `parts`, an endless stream cut into pieces.

    A connection is closed after its part, or kept open without a word where `holds` is set, until the server is closed.
    When no part is left, `refuses` is called and the answer is an error.
    """

    def __init__(self, *parts, holds=False):
        self.released, self.connections, self.refuses = threading.Event(), 0, lambda: None
        waiting = iter(parts)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.connections += 1
                part = next(waiting, None)
                if part is None:
                    outer.refuses()
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                self.wfile.write(part)
                self.wfile.flush()
                if holds:
                    outer.released.wait()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        self.address = f"http://user:secret@127.0.0.1:{self.server.server_port}/live.ts"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def unhurried(monkeypatch):
    """No frame is left out because the consumer is slow: what a server sends at once is all given."""
    monkeypatch.setattr(streams, "WAITING", 10_000)


def test_live_stream_that_drops_and_comes_back(tmp_path, capsys, unhurried):
    part, before = mpegts(tmp_path / "v.ts"), time.time()
    with Server(part, part) as server:
        stream = Stream(server.address, patience=600)
        server.refuses = lambda: setattr(stream, "patience", 0.5)  # it waits no longer once both parts were sent
        assert stream.live and stream.fps == 25
        frames = list(stream)
        stream.close()
    assert [frame.index for frame in frames] == list(range(200))
    assert [frame.index for frame in frames if frame.gap] == [100]
    seconds = np.array([frame.seconds for frame in frames])
    assert all(np.diff(seconds) > 0)
    assert np.diff(seconds[:100]) == pytest.approx(np.full(99, 0.04), abs=1e-4)
    wall = np.array([frame.captured for frame in frames])
    assert all(np.diff(wall) >= 0) and before <= wall[0] and wall[-1] <= time.time()
    assert "did not come back within 0.5 s" in stream.problem
    printed = capsys.readouterr().out
    assert "dropped after 100 frames" in printed and "is back" in printed
    assert "secret" not in printed + stream.problem


def test_dropped_at_once_without_patience(tmp_path, unhurried):
    with Server(mpegts(tmp_path / "v.ts")) as server:
        stream = Stream(server.address, patience=0)
        assert len(list(stream)) == 100 and "dropped after 100 frames" in stream.problem
        assert server.connections <= 2


def test_closing_while_the_source_is_silent(tmp_path, monkeypatch, unhurried):
    monkeypatch.setattr("data.reader.READ_SECONDS", 1.0)
    with Server(mpegts(tmp_path / "v.ts"), holds=True) as server:
        stream = Stream(server.address, patience=600)
        assert len(list(islice(stream, 50))) == 50
        stream.close()
        assert not stream.thread.is_alive()
        assert stream.problem is None


@pytest.mark.parametrize(("address", "options"), [("RTSP://door/1", {"rtsp_flags": "prefer_tcp"}), ("http://door", {})])
def test_rtsp_asks_for_tcp_before_udp_which_loses_packets(address, options, monkeypatch):
    asked = []

    def refuse(name, **settings):
        asked.append((name, settings["options"]))
        raise av.error.ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(InputError, match=r"cannot open door.*: connection refused"):
        Stream(address)
    assert asked == [(address, options)]


class Source:
    """A live source whose frames come when the test lets them."""

    fps, size, duration, live, error = 25.0, (6, 4), None, True, None

    def __init__(self, frames):
        self.frames = frames

    def __iter__(self):
        yield from self.frames

    def close(self):
        pass


def fed(monkeypatch, frames):
    """A stream that is fed by an iterable of data.reader.Decoded."""
    monkeypatch.setattr(Stream, "_open", lambda self: Source(frames))
    return Stream("rtsp://camera/1", patience=0)


def decoded(i, corrupt=False):
    return streams.Decoded(i / 25, np.full((4, 6, 3), i % 256, np.uint8), corrupt)


def test_a_slow_consumer_scores_every_nth_frame_and_loses_none(monkeypatch, capsys):
    """A source is three times as fast as the consumer: it gives three frames per frame that is scored."""
    room = threading.Semaphore(0)

    def source():
        for i in range(900):
            room.acquire()
            yield decoded(i)

    stream = fed(monkeypatch, source())
    for _ in range(3):
        room.release()
    frames = []
    for frame in stream:
        frames.append(frame)
        if frame.scored:
            target = min(900, stream.count + 3)
            for _ in range(3):
                room.release()
            with stream.changed:
                stream.changed.wait_for(lambda target=target: stream.count >= target or stream.ended)
        elif not stream.queue and stream.count < 900:
            room.release()
    stream.close()
    assert [frame.index for frame in frames] == list(range(900)) and not any(frame.gap for frame in frames)
    scored = [frame.index for frame in frames if frame.scored]
    assert stream.dropped == 900 - len(scored) > 400
    steps = np.diff(scored[len(scored) // 2 :])
    assert 2 <= steps.mean() <= 4 and steps.max() - steps.min() <= 3  # evenly, once the rate is found
    printed = capsys.readouterr().out
    assert printed.count("warning: ") == 1 and f"{stream.dropped} of 900 frames were not scored" in printed


def test_a_consumer_that_stops_gets_the_newest_frames_after_a_gap(monkeypatch):
    first_taken = threading.Event()

    def source():
        yield decoded(0)
        first_taken.wait()
        for i in range(1, 100):
            yield decoded(i)

    stream = fed(monkeypatch, source())
    frames = iter(stream)
    assert next(frames).index == 0
    first_taken.set()
    stream.thread.join()
    rest = list(frames)
    assert len(rest) <= streams.WAITING and rest[-1].index == 99
    assert rest[0].gap and not any(frame.gap for frame in rest[1:])
    assert rest[0].index == 100 - len(rest)


def test_corrupt_frames_are_left_out_as_a_gap(monkeypatch):
    stream = fed(monkeypatch, [decoded(i, corrupt=i in (5, 6)) for i in range(10)])
    frames = list(stream)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4, 7, 8, 9]
    assert [frame.index for frame in frames if frame.gap] == [7] and stream.corrupt == 2


def test_a_source_of_corrupt_frames_alone_is_reopened_and_then_given_up(monkeypatch, capsys):
    monkeypatch.setattr(streams, "CORRUPT_SECONDS", 0.1)
    opened = []

    def source():
        opened.append(None)
        yield from (decoded(i) for i in range(5) if len(opened) == 1)
        for _ in range(50 if len(opened) < 4 else 0):  # one that is never reopened ends too, but later
            time.sleep(0.01)
            yield decoded(5, corrupt=True)

    monkeypatch.setattr(Stream, "_open", lambda self: Source(source()))
    stream = Stream("rtsp://camera/1", patience=1.2)
    assert [frame.index for frame in stream] == [0, 1, 2, 3, 4]
    for _ in range(2):
        stream.close()
    assert 1 < len(opened) < 4 and "did not come back within 1.2 s" in stream.problem
    printed = capsys.readouterr().out
    assert "dropped after" in printed and "all frames of the last 0.1 s are corrupt" in printed
    assert "is back" not in printed
    assert printed.count(f"{stream.corrupt} of {stream.count} frames were corrupt and were left out") == 1


def test_a_long_address_and_a_long_number(monkeypatch, tmp_path):
    monkeypatch.setattr(Stream, "_open", lambda self: Source(()))
    names = [Stream(f"rtsp://camera/{'ü' * 200}{end}").name for end in "ab"]
    assert all(len(name.encode()) < 150 for name in names) and names[0] != names[1]
    assert Stream("rtsp://camera/1").name.startswith("camera-1-2") and Stream("12").is_camera
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="video 20240101123000 does not exist"):
        Stream("20240101123000")


def test_a_camera_stays_with_opencv(monkeypatch):
    class Capture:
        left = 3

        def __init__(self, number):
            assert number == 0

        def isOpened(self):
            return True

        def get(self, what):
            return 30.0

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 6, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    stream = Stream("0", patience=0)
    assert stream.live and stream.fps == 30 and stream.shown == "camera-0"
    assert [frame.index for frame in stream] == [0, 1, 2] and "camera-0 dropped after 3 frames" in stream.problem
