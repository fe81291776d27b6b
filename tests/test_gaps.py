"""Gaps in time of a prepared data set: no clip, no average over time and no alarm spans one, as while watching."""

import csv

import numpy as np
import pytest
import torch
from helpers import call, one_line, run_of, train, trained

import Evaluate
from data import check
from data.cache import NO_CACHE
from data.clips import open_clips
from data.frames import Video
from data.times import clip_ends, gaps, read_times, times_path, write_times
from exp.flags import Span
from exp.scoring.evaluation import smoothed
from exp.scoring.score import Scoring
from exp.scoring.trained import load_trained, score_video
from utils import InputError, smooth

pytestmark = pytest.mark.usefixtures("small_network")


def with_gaps(video: Video, *frames):
    """Say that an hour is missing before each of these frames of a video of 25 frames per second."""
    indices = np.arange(len(video.frames))
    hours = np.sum([indices >= frame for frame in frames], axis=0) * 3600
    write_times(times_path(video.directory), indices / 25 + hours)
    return video


@pytest.mark.parametrize(
    ("gaps", "t_length", "expected"),
    [
        ([], 3, [2, 3, 4, 5, 6, 7]),
        ([4], 3, [2, 3, 6, 7]),
        ([1, 4, 6], 3, [3]),
        ([2, 4, 6], 3, []),
        ([4], 1, list(range(8))),
        ([0, 4], 4, [3, 7]),
        ([], 9, []),
    ],
)
def test_no_clip_spans_a_gap(gaps, t_length, expected):
    assert clip_ends(np.isin(np.arange(8), gaps), t_length).tolist() == expected


@pytest.mark.parametrize(
    ("fps", "step", "is_gap"), [(25, 1.99, False), (25, 2.0, True), (1, 4.9, False), (1, 5.0, True)]
)
def test_a_gap_is_a_step_of_2_seconds_and_of_5_usual_steps(fps, step, is_gap):
    times = np.arange(26) / fps
    assert gaps([*times, times[-1] + step]).tolist() == [False] * 26 + [is_gap]


def test_clips_of_frames_whose_times_have_gaps(tmp_path, make_videos, capsys):
    videos = make_videos(tmp_path / "own" / "testing" / "frames", {"1": 8, "2": 6, "3": 5, "4": 4}, size=(8, 8))
    with_gaps(videos[0], 3, 5)  # the middle part is shorter than a clip
    with_gaps(videos[2], 2, 4)
    clips = open_clips(videos, "testing", 3, (8, 8, 3), NO_CACHE)
    assert [video.name for video in clips.videos] == ["1", "2", "4"]
    assert [ends.tolist() for ends in clips.ends] == [[2, 7], [2, 3, 4, 5], [2, 3]]
    assert [is_gap.tolist() for is_gap in clips.gaps] == [[False, True], [False] * 4, [False] * 2]
    starts = [0, 5, *range(8, 12), *range(19, 21)]  # in the frames of all videos
    for clip, start in zip(clips, starts, strict=True):
        assert torch.equal(clip, torch.from_numpy(np.concatenate(clips.frames[start : start + 3])))
    assert clips.select([2, 0]).ends[1].tolist() == [2, 7]
    error = capsys.readouterr().err
    assert "video 3 is skipped: it has 5 frames, but a clip has 3 without a gap in time" in error
    assert "note: 1 gap in time in 1: no clip spans one" in error


def test_times_of_other_frames_are_an_error(tmp_path, make_videos, capsys):
    videos = make_videos(tmp_path / "own" / "training" / "frames", {"1": 8}, size=(8, 8))
    write_times(times_path(videos[0].directory), np.arange(7) / 25)
    with pytest.raises(InputError, match="7 frames, but the video has 8"):
        open_clips(videos, "training", 3, (8, 8, 3), NO_CACHE)
    assert check.main([str(tmp_path / "own")]) == 1
    assert "7 frames, but the video has 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "lines", ["frame,time\n0,0\n1,1", *(f"frame,seconds\n0,0\n1,{t}" for t in ("nan", "inf", "-1"))]
)
def test_times_that_are_none_are_refused(lines, tmp_path, make_videos):
    (video,) = make_videos(tmp_path / "own" / "training" / "frames", {"1": 2}, size=(8, 8))
    write_times(times_path(video.directory), [0, 1])
    assert read_times([video], fps=25)[0].seconds.tolist() == [0, 1]
    times_path(video.directory).write_text(lines)
    with pytest.raises(InputError, match=r"cannot read the times in .*1\.csv"):
        read_times([video], fps=25)


def test_labels_of_frames_after_a_gap_do_not_count(dataset, capsys):
    with_gap_in(dataset / "testing" / "frames" / "1", 6)
    (dataset / "frame_labels.csv").write_text("video,first,last\n1,6,8\n")
    assert check.main(["own"]) == 0
    assert "all frames that get a score are normal, so evaluation gives no AUC" in capsys.readouterr().out


def test_scores_are_not_averaged_over_a_gap():
    scores, seconds = np.random.default_rng(0).random(12), np.arange(12) / 25
    (found,) = smoothed([scores], [seconds], [np.arange(12) == 7], Scoring(0.01, 0.6, sigma=Span(2)))
    np.testing.assert_array_equal(found, np.concatenate([smooth(scores[:7], 2), smooth(scores[7:], 2)]))


def with_gap_in(path, frame):
    """The same for the video in a folder of the fixture `dataset`."""
    return with_gaps(Video(path.name, path, tuple(sorted(one.name for one in path.iterdir()))), frame)


EVALUATE = ("--dataset_type", "own", "--num_workers_test", "0")


@pytest.mark.parametrize("method", ["pred", "recon"])
def test_an_evaluation_of_videos_with_gaps(dataset, method):
    """Calibration, scores, alarms, figures and annotated videos know of the gaps; scores are those of watching."""
    with_gap_in(dataset / "training" / "frames" / "2", 5)
    video = with_gap_in(dataset / "testing" / "frames" / "1", 6)
    assert train("--method", method) == 0
    lengths = torch.load(run_of(method) / "calibration.pt", weights_only=True)["lengths"]
    assert lengths == ([6, 1, 1] if method == "pred" else [10, 5, 5])
    flags = ["--method", method, "--false_alarm_rate", "0.9", "--merge_gap", "9999s", "--save_video"]
    assert call(Evaluate, *EVALUATE, *flags, "--frames", "1:10") == 0
    with open(run_of(method) / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["video"] == "1"]
    expected = [4, 5, 10, 11] if method == "pred" else list(range(12))
    assert [int(row["frame"]) for row in rows] == expected
    assert [int(row["label"]) for row in rows] == [int(6 <= frame <= 8) for frame in expected]
    watched = score_video(load_trained(run_of(method)), video.directory)
    assert watched.frame.tolist() == expected
    np.testing.assert_allclose([float(row["psnr"]) for row in rows], watched.psnr, rtol=1e-5)
    with open(run_of(method) / "alarms.csv", newline="") as file:
        alarms = [(int(row["start"]), int(row["end"])) for row in csv.DictReader(file) if row["video"] == "1"]
    assert len(alarms) == 2 and alarms[0][1] < 6 <= alarms[1][0]
    for name in ("videos/1.mp4", "figures/scores/1.png", "figures/frames/1_0010.png", "report.html"):
        assert (run_of(method) / name).is_file()


def test_a_frame_after_a_gap_cannot_be_drawn(dataset, capsys):
    with_gap_in(dataset / "testing" / "frames" / "1", 6)
    trained()
    capsys.readouterr()
    assert call(Evaluate, *EVALUATE, "--frames", "1:8") == 2
    one_line(capsys, "1:8", "4 to 11", "gap")
