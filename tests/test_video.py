"""Annotated videos: whole, playable, at the speed of their frames, and never left half written."""

import resource
import signal

import av
import cv2
import numpy as np
import pytest
from drawn import decisions, evaluation, frame_at, opened, replay_of

from exp.report import encoder
from exp.report.encoder import VideoFile
from exp.report.video import CURVE, TEXT, AnnotatedVideo, Limits, LiveCurve, Moment, annotate_all, outlined
from utils import InputError

BLACK, DARK = np.zeros((40, 40, 3), np.uint8), np.zeros((8, 8))


def live(path, limits=None, window=300, name="video"):
    return AnnotatedVideo(path, name, LiveCurve(limits or Limits(), window), error_scale=0.05)


def noise(count, size=(64, 64)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


# files


@pytest.mark.parametrize(
    "times",
    [
        [k / 25 for k in range(20)],
        [k / 211.2 for k in range(16)],
        [k / 25 if k < 10 else 0.4 + (k - 10) / 5 for k in range(20)],
        [0, 0.04, 0.08, 3600, 3600.04],
        [7.5],
    ],
    ids=["25 per second", "211 per second", "slower", "a gap of an hour", "one frame"],
)
def test_frames_keep_their_times(tmp_path, times):
    file = VideoFile(tmp_path / "video.mp4", 64, 64)
    for picture, time in zip(noise(len(times)), times, strict=True):
        file.add(picture, time)
    file.finish()
    _, found = opened(tmp_path / "video.mp4")
    assert found == pytest.approx(np.subtract(times, times[0]), abs=1e-4)
    with av.open(str(tmp_path / "video.mp4")) as container:
        last = times[-1] - times[-2] if len(times) > 1 else 1 / 25  # shown for as long as the one before
        assert container.duration / av.time_base == pytest.approx(times[-1] - times[0] + last, abs=1e-3)


def test_a_gap_of_days_is_shortened_to_one(tmp_path):
    file, day = VideoFile(tmp_path / "video.mp4", 64, 64), 24 * 3600
    for picture, time in zip(noise(5), (0, 0.04, 9 * day, 9 * day + 1, 9 * day + 3), strict=True):
        file.add(picture, time)
    file.finish()
    times = opened(tmp_path / "video.mp4")[1]
    assert np.diff(times) == pytest.approx([0.04, day, 1, 2], abs=1e-3)


def test_a_video_plays_in_browsers(tmp_path):
    file = VideoFile(tmp_path / "video.mp4", 64, 64)
    file.add(noise(1)[0], 0)
    file.finish()
    with av.open(str(tmp_path / "video.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    content = (tmp_path / "video.mp4").read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")  # the index is in front


def test_times_that_do_not_rise_lose_no_frame(tmp_path):
    file = VideoFile(tmp_path / "video.mp4", 64, 64)
    for picture, time in zip(noise(5), (0, 1, 1, 0.5, 2), strict=True):
        file.add(picture, time)
    file.finish()
    times = opened(tmp_path / "video.mp4")[1]
    assert (np.diff(times) > 0).all() and times == pytest.approx([0, 1, 1, 1, 2], abs=1e-3)


@pytest.mark.parametrize("name", ["2024-01-01T12:30:05.mp4", "http:video.mp4", "ü $ä.mp4", "caf\udce9.mp4"])
def test_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with live(tmp_path / name) as out:
        out.add(BLACK, DARK, Moment(0, 0.0, 0.5))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_another_encoder_where_the_first_is_missing(tmp_path, monkeypatch):
    known = {"gone": {}, **{name: encoder.ENCODERS[name] for name in ("mpeg4",)}}
    monkeypatch.setattr(encoder, "ENCODERS", known)
    with live(tmp_path / "video.mp4") as out:
        for k in range(30):
            out.add(BLACK, DARK, Moment(k, k / 211, 0.5))
    assert len(opened(tmp_path / "video.mp4")[0]) == 30
    monkeypatch.setattr(encoder, "ENCODERS", {"gone": {}})
    with pytest.raises(InputError, match="no encoder gone"), live(tmp_path / "other.mp4") as out:
        out.add(BLACK, DARK, Moment(0, 0.0, 0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_an_error_leaves_no_video(tmp_path):
    (tmp_path / "video.mp4").write_text("the one before")
    with pytest.raises(ZeroDivisionError), live(tmp_path / "video.mp4") as out:
        out.add(BLACK, DARK, Moment(0, 0.0, 1 / 1))
        out.add(BLACK, DARK, Moment(1, 0.1, 1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert (tmp_path / "video.mp4").read_text() == "the one before"


def test_no_frame_leaves_no_video(tmp_path):
    with live(tmp_path / "video.mp4"):
        pass
    assert not list(tmp_path.iterdir())


class Stopped:
    """A stream of PyAV; a signal comes as soon as it has packets that no one has taken yet."""

    def __init__(self, stream, stop):
        self.stream, self.stop = stream, stop

    def encode(self, frame):
        packets = self.stream.encode(frame)
        if packets and frame and self.stop:
            number, self.stop = self.stop, None
            signal.raise_signal(number)
        return packets


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_video_that_is_stopped_between_a_frame_and_its_packets_is_whole(tmp_path, stop):
    def interrupt(*_):
        raise KeyboardInterrupt

    before, added = signal.signal(stop, interrupt), 0
    video = live(tmp_path / "video.mp4")
    try:
        with pytest.raises(KeyboardInterrupt):
            for k, picture in enumerate(noise(200)):
                video.add(picture, DARK, Moment(k, k / 25, 0.5))
                added += 1
                if k == 0:
                    video.file.stream = Stopped(video.file.stream, stop)
    finally:
        signal.signal(stop, before)
    video.finish()
    frames, times = opened(tmp_path / "video.mp4")
    assert len(frames) in (added, added + 1)  # `add` may have been left after it had taken the frame
    assert times == pytest.approx([k / 25 for k in range(len(frames))], abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_discarding_a_finished_video_changes_nothing(tmp_path):
    video = live(tmp_path / "video.mp4")
    video.add(BLACK, DARK, Moment(0, 0.0, 0.5))
    video.finish()
    video.discard()
    assert len(opened(tmp_path / "video.mp4")[0]) == 1


def test_videos_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path in ("file/video.mp4", "folder.mp4", "n" * 300 + ".mp4"):
        with pytest.raises(InputError, match="cannot"), live(tmp_path / path) as out:
            out.add(BLACK, DARK, Moment(0, 0.0, 0))
    assert capfd.readouterr().err == ""  # an InputError says it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_full_disk(tmp_path, capfd, share):
    """A limit on the size of files stands for it; the last ones are met only when the index is written."""

    def write(path):
        with live(path) as out:
            for k, picture in enumerate(noise(20, (100, 640))):
                out.add(picture, DARK, Moment(k, k / 25, 0))

    write(tmp_path / "whole.mp4")
    size = (tmp_path / "whole.mp4").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*/video.mp4: File too large"):
            write(tmp_path / "video.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.mp4"]
    assert capfd.readouterr().err == ""


# pictures


@pytest.mark.parametrize("labelled", [True, False])
def test_annotate_all(tmp_path, labelled):
    found = evaluation([20, 1], labelled)
    annotate_all(tmp_path, found, decisions(found), replay_of(found), frame_at)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01$.mp4", "02$.mp4"]
    frames, times = opened(tmp_path / "01$.mp4")
    assert frames.shape == (20, 426 + TEXT + CURVE, 640, 3)  # 90 x 60 enlarged
    assert times == pytest.approx(np.arange(20) / 12.5, abs=1e-4)
    assert len(opened(tmp_path / "02$.mp4")[0]) == 1

    alarms = np.zeros(20, dtype=bool)
    for alarm in decisions(found).alarms[0]:
        alarms[alarm.start - found.frames[0][0] : alarm.end - found.frames[0][0] + 1] = True
    assert (decisions(found).scores[0] > 3).sum() <= alarms.sum() < 20 and alarms.any()
    badge = frames[:, 426 + 8 : 426 + 12, 540:620].mean(axis=(1, 2))  # BGR
    assert ((badge[:, 2] > badge[:, 0]) == alarms).all()  # vermilion, else blue
    x = (frames[:, -100:-60, 46:632].max(axis=(1, 3)) < 110).argmax(axis=1)  # the cursor, a black line
    assert (np.diff(x) > 0).all()
    shaded = frames[0, 426 + TEXT + 14, 46:632].astype(int)
    assert (shaded[:, 2] - shaded[:, 0] > 30).any() == labelled


def test_without_a_threshold_the_abnormality_is_shown_and_nothing_decided(tmp_path):
    found = evaluation([20])
    annotate_all(tmp_path, found, None, replay_of(found), frame_at)
    frames, _ = opened(tmp_path / "01$.mp4")
    assert (frames[:, 426 + 8 : 426 + 12, 540:620] > 240).all()  # no badge


def test_scores_that_are_all_the_same(tmp_path):
    found = evaluation([3], constant=True)
    annotate_all(tmp_path, found, decisions(found, threshold=3.0), replay_of(found), frame_at)
    assert len(opened(tmp_path / "01$.mp4")[0]) == 3


def test_the_heat_follows_the_error(tmp_path):
    gray = np.full((200, 300, 3), 128, np.uint8)
    error = np.zeros((20, 30), np.float32)
    error[:, 20:] = 1
    with live(tmp_path / "heat.mp4") as out:
        out.add(gray, error, Moment(0, 0.0, 0.5))
    frame = opened(tmp_path / "heat.mp4")[0][0].astype(int)
    assert abs(frame[:400, :350] - 128).max() < 12  # transparent
    assert (frame[:400, 500:, 2] > 220).all()  # the bright end of the colours


def test_a_stream_of_unknown_length_has_a_moving_window(tmp_path):
    frame, error = np.zeros((100, 640, 3), np.uint8), np.zeros((10, 64))
    with live(tmp_path / "stream.mp4", Limits(threshold=0.8), window=10, name="camera ü " * 9) as out:
        for k in range(25):
            out.add(frame, error, Moment(k, k / 30, float(k == 12), None if k < 20 else True, k == 12))
        assert len(out.curve.moments) == 10
    frames, times = opened(tmp_path / "stream.mp4")
    assert frames.shape[:3] == (25, 100 + TEXT + CURVE, 640)
    assert times[-1] == pytest.approx(24 / 30, abs=1e-4)
    top = frames[:, -CURVE + 14 : -CURVE + 30, 50:600].astype(int)  # below the line of score 1
    spike = [int((image[..., 0] - image[..., 2] > 60).any(axis=0).argmax()) for image in top]
    assert spike[13] > spike[17] > spike[20] > 0  # it moves left
    assert spike[24] == spike[11] == 0  # and out; 0 is none


def test_frames_of_any_size_become_even_and_not_too_wide(tmp_path):
    for size, shape in (((33, 17), (1242, 640)), ((1000, 1999), (640, 1280)), ((481, 721), (480, 720))):
        with live(tmp_path / "video.mp4") as out:
            out.add(np.zeros((*size, 3), np.uint8), DARK, Moment(0, 0.0, 0))
        height, width = opened(tmp_path / "video.mp4")[0].shape[1:3]
        assert (height - TEXT - CURVE, width) == shape


def test_other_readers_agree(tmp_path):
    """OpenCV, which users have, sees the frames that were drawn and their rate."""
    pictures = [np.full((40, 40, 3), 12 * k, np.uint8) for k in range(20)]
    with live(tmp_path / "video.mp4") as out:
        for k, gray in enumerate(pictures):
            out.add(gray, DARK, Moment(k, k / 12.5, 0.5))
    capture = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    for k in range(20):
        assert abs(capture.read()[1][:600].mean() - 12 * k) < 6


def test_a_frame_with_the_outline_of_its_mask():
    picture, mask = np.full((40, 60, 3), 90, np.uint8), np.zeros((20, 30), bool)
    mask[5:10, 10:20] = True
    found = np.abs(outlined(picture, mask).astype(int) - picture).any(axis=2)
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 20, 39)  # in the frame's own pixels
    assert not found[12:18, 22:38].any() and (picture == 90).all()
    assert outlined(picture, None) is picture and outlined(picture, np.zeros((20, 30), bool)) is picture
