"""What a person looks at: figures are written, of the stated size, tell data apart; annotated videos play again."""

import resource
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, call, one_line, run_of
from test_watch import make_run

import Evaluate
import Train
from exp.report import curves as report
from exp.report import panels, video
from exp.report.video import CURVE, TEXT, AnnotatedVideo, annotate
from exp.scoring.score import Scored
from utils import InputError, normality


class Result(NamedTuple):
    """The fields of exp.scoring.evaluation.Evaluation that are drawn."""

    videos: list
    frames: list
    psnr: list
    distance: list
    regular: list
    abnormality: list
    labels: list | None


def result(lengths, labelled=True, constant=False):
    """An evaluation of videos of these lengths, frames from 4 on; the middle third of each is abnormal."""
    random = np.random.default_rng(0)
    labels = [((np.arange(n) >= n // 3) & (np.arange(n) < 2 * n // 3)).astype(np.uint8) for n in lengths]
    psnr = [np.full(len(y), 30.0) if constant else 33 + random.normal(size=len(y)) - 4 * y for y in labels]
    distance = [0.002 - p / 33000 for p in psnr]
    return Result(
        videos=[f"{v + 1:02d}$" for v in range(len(lengths))],
        frames=[np.arange(n) + 4 for n in lengths],
        psnr=psnr,
        distance=distance,
        regular=[10 ** (-p / 20) for p in psnr],
        abnormality=[1 - normality(p, d, 0.6) for p, d in zip(psnr, distance, strict=True)],
        labels=labels if labelled else None,
    )


def frame_at(video, frame):
    return np.full((60, 90, 3), (frame * 9 % 256, 120, 60 * video), np.uint8)


def replay_of(found):
    """The frames of `found` scored again, a few at a time; frame k of a video has the error k / 1000 everywhere."""

    def replay(place):
        torch.manual_seed(place)
        frames = torch.tensor(found.frames[place])
        for part in frames.split(7):
            target = torch.full((len(part), 3, 32, 48), 0.4)
            yield Scored(
                predicted=target + (part / 1000).sqrt().view(-1, 1, 1, 1),
                target=target,
                queries=F.normalize(torch.randn(len(part), 4, 6, 16), dim=-1),
                items=F.normalize(torch.randn(len(part), 10, 16), dim=-1),
                **dict.fromkeys(("psnr", "distance", "regular", "updated"), part),
            )

    return replay


def epoch(n, items=10):
    return {
        **dict.fromkeys(("pixel", "compactness", "separateness", "loss", "lr"), 0.1 / n),
        "queries_won": [n * item for item in range(items)],
        "item_cosines": [-0.3, 0.4],
    }


def picture(path, width, height):
    """The figure at the path, checked to have this size and to be more than a blank page."""
    image = cv2.imread(str(path))
    assert image.shape == (height, width, 3)
    assert image.std() > 5
    assert not list(path.parent.glob(".*"))  # nothing temporary stays
    return image


def differ(draw, path, size, *data):
    """Figures of different data differ."""
    figures = []
    for some in data:
        draw(path, *some)
        figures.append(picture(path, *size))
    assert all(not np.array_equal(a, b) for a, b in pairwise(figures))


# figures


def test_loss_curves(tmp_path):
    histories = [[epoch(n) for n in range(1, last + 1)] for last in (1, 3)]
    histories[1].append({**epoch(4), "separateness": 0.0})  # which a log axis would hide
    differ(report.loss_curves, tmp_path / "new" / "loss.png", (1200, 700), *[(history,) for history in histories])


def test_loss_curves_of_a_long_run_with_losses_of_zero(tmp_path):
    history = [{**epoch(n, items=20), "separateness": 0.0, "compactness": 0.0} for n in range(1, 61)]
    report.loss_curves(tmp_path / "loss.png", history)
    picture(tmp_path / "loss.png", 1200, 700)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "found",
    [
        result([20, 300]),
        result([40], labelled=False),
        result([30], constant=True),
        result([1]),
        result([9])._replace(labels=[np.ones(9, np.uint8)]),
    ],
    ids=["two videos", "no labels", "constant", "one frame", "one class"],
)
def test_score_curves(tmp_path, found):
    report.score_curves(tmp_path, found, frame_at)
    pictures = [picture(tmp_path / f"{name}.png", 1200, 900) for name in found.videos]
    assert all(not np.array_equal(a, b) for a, b in pairwise(pictures))


def test_peaks_are_the_highest_and_apart():
    values = np.zeros(240)
    values[[30, 33, 100, 180, 239]] = [0.9, 0.8, 0.5, 0.7, 0.6]
    assert report.peaks(values, count=4) == [30, 100, 180, 239]
    assert report.peaks(values, count=2) == [30, 180]
    assert report.peaks(np.zeros(1)) == [0]


@pytest.mark.parametrize(("draw", "size"), [(report.roc_curve, (700, 700)), (report.score_histogram, (900, 500))])
def test_figures_of_both_classes(tmp_path, draw, size):
    some, constant = result([20, 90]), result([30], constant=True)
    differ(draw, tmp_path / "figure.png", size, *[(found.labels, found.abnormality) for found in (some, constant)])


def test_one_class_has_a_histogram_but_no_roc(tmp_path):
    report.score_histogram(tmp_path / "histogram.png", [np.zeros(5, int)], [np.linspace(0, 1, 5)])
    picture(tmp_path / "histogram.png", 900, 500)
    with pytest.raises(InputError, match="both classes"):
        report.roc_curve(tmp_path / "roc.png", [np.zeros(5, int)], [np.linspace(0, 1, 5)])


def test_typical_frames_are_extremes_of_different_videos():
    found = result([20] * 5)
    chosen = panels.typical_frames(found)
    assert len(chosen) == len({place for place, _ in chosen}) == 4
    scores = [found.abnormality[place][frame - 4] for place, frame in chosen]
    assert min(scores[:2]) == sorted(max(values) for values in found.abnormality)[-2]
    assert scores[2] < 0.1
    assert len(set(panels.typical_frames(result([20])))) == 2  # the same video twice
    assert len(panels.typical_frames(result([1], constant=True))) == 2


def test_panels_show_the_chosen_frames(tmp_path):
    found, calls = result([20, 20]), []

    def replay(place):
        calls.append(place)
        return replay_of(found)(place)

    panels.panels(tmp_path, found, [(1, 22), (1, 6)], replay, frame_at)
    assert calls == [1]
    names = ["02$_0006.png", "02$_0022.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    pictures = [picture(tmp_path / name, 1200, 626) for name in names]
    red = [image[60:280, 760:1050, 2].mean() for image in pictures]  # of the heat map: grows with the error
    assert red[0] < red[1]


def test_panel_of_gray_frames(tmp_path):
    torch.manual_seed(0)
    target, queries = torch.rand(1, 32, 32), F.normalize(torch.randn(4, 4, 8), dim=-1)
    some, other = F.normalize(torch.randn(20, 8), dim=-1), F.normalize(torch.randn(2, 8), dim=-1)
    frames = [(target, target, queries, some), (target, 1 - target, queries, other)]
    differ(panels.panel, tmp_path / "panel.png", (1200, 860), *frames)


def test_a_figure_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "figure.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match="cannot"):
            report.score_histogram(path, [np.ones(2, int)], [np.ones(2)])


# annotated videos


def opened(path):
    """(frames (n, h, w, 3), fps) of a video."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return np.stack(frames), capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("labelled", [True, False])
def test_annotate(tmp_path, labelled):
    found = result([20, 1], labelled)
    for place, name in enumerate(("a.mp4", "b.mp4")):
        annotate(tmp_path / name, found, place, replay_of(found)(place), frame_at, fps=12.5, threshold=0.5)
    frames, fps = opened(tmp_path / "a.mp4")
    assert frames.shape == (20, 426 + TEXT + CURVE, 640, 3)  # 90 x 60 enlarged
    assert fps == pytest.approx(12.5)
    assert len(opened(tmp_path / "b.mp4")[0]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]

    alarms = found.abnormality[0] > 0.5
    assert 0 < alarms.sum() < 20
    badge = frames[:, 426 + 8 : 426 + 12, 540:620].mean(axis=(1, 2))  # BGR
    assert ((badge[:, 2] > badge[:, 0]) == alarms).all()  # vermilion, else blue
    x = (frames[:, -100:-60, 46:632].max(axis=(1, 3)) < 110).argmax(axis=1)  # the cursor, a black line
    assert (np.diff(x) > 0).all()


def test_the_heat_follows_the_error(tmp_path):
    gray = np.full((200, 300, 3), 128, np.uint8)
    error = np.zeros((20, 30), np.float32)
    error[:, 20:] = 1
    with AnnotatedVideo(tmp_path / "heat.mp4", "heat", 25, error_scale=0.05) as out:
        out.add(gray, error, 0.5)
    frame = opened(tmp_path / "heat.mp4")[0][0].astype(int)
    assert abs(frame[:400, :350] - 128).max() < 12  # transparent
    assert (frame[:400, 500:, 2] > 220).all()  # the bright end of the colours


def test_a_stream_of_unknown_length_has_a_moving_window(tmp_path):
    frame, error = np.zeros((100, 640, 3), np.uint8), np.zeros((10, 64))
    with AnnotatedVideo(tmp_path / "stream.mp4", "camera ü " * 9, 30, 0.05, threshold=0.8, window=10) as out:
        for k in range(25):
            out.add(frame, error, score=k == 12, label=None if k < 20 else 1, alarm=k == 12)
        assert len(out.scores) == 10
    frames, fps = opened(tmp_path / "stream.mp4")
    assert frames.shape[:3] == (25, 100 + TEXT + CURVE, 640)
    assert fps == 30
    top = frames[:, -CURVE + 14 : -CURVE + 30, 50:600].astype(int)  # below the line of score 1
    spike = [int((image[..., 0] - image[..., 2] > 60).any(axis=0).argmax()) for image in top]
    assert spike[13] > spike[17] > spike[20] > 0  # it moves left
    assert spike[24] == spike[11] == 0  # and out; 0 is none


def test_frames_of_any_size_become_even_and_not_too_wide(tmp_path):
    for size, shape in (((33, 17), (1242, 640)), ((1000, 1999), (640, 1280)), ((481, 721), (480, 720))):
        with AnnotatedVideo(tmp_path / "video.mp4", "video", 25, 0.05) as out:
            out.add(np.zeros((*size, 3), np.uint8), np.zeros((8, 8)), 0)
        height, width = opened(tmp_path / "video.mp4")[0].shape[1:3]
        assert (height - TEXT - CURVE, width) == shape


def test_an_error_leaves_no_video(tmp_path):
    (tmp_path / "video.mp4").write_text("the one before")
    with pytest.raises(ZeroDivisionError), AnnotatedVideo(tmp_path / "video.mp4", "video", 25, 0.05) as out:
        out.add(np.zeros((40, 40, 3), np.uint8), np.zeros((8, 8)), 1 / 1)
        out.add(np.zeros((40, 40, 3), np.uint8), np.zeros((8, 8)), 1 / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    assert (tmp_path / "video.mp4").read_text() == "the one before"


def test_videos_that_cannot_be_written(tmp_path, monkeypatch, capfd):
    frame, error = np.zeros((40, 40, 3), np.uint8), np.zeros((8, 8))
    with pytest.raises(InputError, match="no frame"), AnnotatedVideo(tmp_path / "video.mp4", "video", 25, 0.05):
        pass
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path, fps in (("file/video.mp4", 25), ("video.mp4", 0), ("folder.mp4", 25)):
        with pytest.raises(InputError, match="cannot"), AnnotatedVideo(tmp_path / path, "video", fps, 0.05) as out:
            out.add(frame, error, 0)
    assert capfd.readouterr().err == ""  # an InputError says it
    monkeypatch.setattr(video, "CODECS", ("zzzz",))
    with pytest.raises(InputError, match="zzzz"), AnnotatedVideo(tmp_path / "video.mp4", "video", 25, 0.05) as out:
        out.add(frame, error, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_full_disk(tmp_path, capfd):
    """A limit on the size of files stands for it. OpenCV goes on without raising anything."""
    limits, noise = resource.getrlimit(resource.RLIMIT_FSIZE), np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match="disk full"), AnnotatedVideo(tmp_path / "v.mp4", "v", 25, 0.05) as out:
            for _ in range(20):
                out.add(noise.integers(0, 256, (480, 640, 3), np.uint8), np.zeros((8, 8)), 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


# scripts


def test_the_scripts_draw_and_annotate(dataset, capsys):
    assert call(Train, *TINY, "--epochs", 1) == 0
    picture(run_of() / "figures" / "training.png", 1200, 700)
    flags = ["--dataset_type", "own", "--num_workers_test", 0]
    chosen = ["--frames", "2:8", "1:4", "--smooth", 2]
    assert call(Evaluate, *flags, "--save_video", *chosen, "--output_dir", "out") == 0
    picture(Path("out/figures/roc.png"), 700, 700)
    picture(Path("out/figures/histogram.png"), 900, 500)
    assert sorted(path.name for path in Path("out/figures/frames").iterdir()) == ["1_0004.png", "2_0008.png"]
    for name, length in (("1", 8), ("2", 5)):
        picture(Path(f"out/figures/scores/{name}.png"), 1200, 900)
        assert len(opened(f"out/videos/{name}.mp4")[0]) == length
    out = capsys.readouterr().out
    assert "figures: out/figures" in out and "annotated videos: out/videos" in out


@pytest.fixture
def untrained(dataset, make_videos):
    return make_run(make_videos, "run")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["3:5"], ["3:5", "no test video 3; they are 1, 2"]),
        (["1:5", "1:3"], ["1:3", "frames 4 to 11"]),
        (["1:12"], ["1:12", "frames 4 to 11"]),
        (["5"], ["'5'", "01:120"]),
        (["1:5", "--no_figures"], ["--no_figures"]),
        (["1:5", "--video", "0"], ["--video"]),
    ],
)
def test_frames_that_cannot_be_drawn(chosen, words, untrained, capsys):
    flags = ["--dataset_type", "own", "--model_dir", untrained, "--output_dir", "out"]
    assert call(Evaluate, *flags, "--frames", *chosen) == 2
    one_line(capsys, "--frames", *words)
    assert not Path("out").exists()
