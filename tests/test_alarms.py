"""Alarms: intervals of frames above a threshold, joined over short gaps, told when they end, judged by labels."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import evaluate, run_of, trained

from exp.flags import Span
from exp.scoring.alarms import Alarm, Measures, Tracker, find_alarms, measure_alarms
from exp.scoring.evaluation import hours_of


def spans(scores, merge_gap=1, first=0, gaps_before=()):
    """The alarms above 0.5 as (start, end, peak)."""
    frames = np.arange(len(scores)) + first
    tracker = Tracker(0.5, merge_gap if isinstance(merge_gap, Span) else Span(merge_gap))
    gaps = np.isin(frames, gaps_before)
    return [alarm[:3] for alarm in find_alarms(frames, frames / 10, gaps, np.array(scores), tracker)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0, 0.5, 0], []),  # the threshold itself is not above it
        ([0, 1, 2, 3, 1, 0], [(1, 4, 3)]),
        ([1, 0, 0, 2], [(0, 0, 0), (3, 3, 3)]),
        ([0, 0, 1], [(2, 2, 2)]),  # ends with the video
        ([2, 1, 2], [(0, 2, 0)]),  # of equal peaks the first
    ],
)
def test_alarms_are_runs_of_frames_above_the_threshold(scores, expected):
    assert spans(scores) == expected


def test_an_alarm_ends_at_a_gap_in_time():
    assert spans([0, 1, 3, 2, 1, 0], gaps_before=[3]) == [(1, 2, 2), (3, 4, 3)]
    assert spans([1, 0, 0, 1], merge_gap=5, gaps_before=[2]) == [(0, 0, 0), (3, 3, 3)]


def test_gaps_shorter_than_merge_gap_are_joined():
    scores = [1, 0, 0, 3, 0, 0, 0, 1]
    assert spans(scores, merge_gap=2) == [(0, 0, 0), (3, 3, 3), (7, 7, 7)]
    assert spans(scores, merge_gap=3) == [(0, 3, 3), (7, 7, 7)]
    assert spans(scores, merge_gap=4) == [(0, 7, 3)]
    assert spans(scores, merge_gap=2.5) == [(0, 3, 3), (7, 7, 7)]  # σ in seconds may be no whole number of frames
    for gap in (2, 3, 4):
        assert spans(scores, merge_gap=Span(gap / 10, "s")) == spans(scores, merge_gap=gap)  # at 10 frames per second


@pytest.mark.parametrize("merge_gap", [Span(1, "s"), Span(2)])
def test_an_alarm_lasts_while_all_frames_with_a_score_are_above_the_threshold(merge_gap):
    frames = np.arange(0, 18, 3)  # a slow machine scores one in three, at 1.5 frames per second
    tracker, gaps = Tracker(0.5, merge_gap), np.zeros(6, dtype=bool)
    for scores, expected in (([1, 1, 2, 1, 1, 1], [(0, 15)]), ([1, 1, 0, 1, 1, 0], [(0, 3), (9, 12)])):
        alarms = find_alarms(frames, frames / 1.5, gaps, np.array(scores), tracker)
        assert [alarm[:2] for alarm in alarms] == expected


def test_an_alarm_is_told_with_the_frame_that_ends_it():
    tracker = Tracker(0.5, Span(3))
    told = [tracker.add(k, k / 10, score) for k, score in enumerate([1, 0, 2, 0, 0, 0, 0, 1])]
    assert [k for k, alarm in enumerate(told) if alarm] == [5]
    assert told[5] == Alarm(start=0, end=2, peak=2, score=2, start_seconds=0, end_seconds=0.2)
    assert tracker.finish()[:2] == (7, 7)
    assert tracker.finish() is None


def test_frames_are_counted_from_the_first_that_has_a_score():
    assert spans([0, 1], first=4) == [(5, 5, 5)]


def judged(labels, alarms, fps=2):
    """The measures of alarms against labels, where frame 4 of each video is the first that has a score."""
    frames = [np.arange(len(next(y for y in labels if y is not None))) + 4 for _ in labels]
    seconds, gaps = [indices / fps for indices in frames], [np.zeros(len(indices), bool) for indices in frames]
    result = SimpleNamespace(frames=frames, seconds=seconds, gaps=gaps, labels=labels)
    return measure_alarms(alarms, result)


def test_measures():
    labels = [np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 0]), np.zeros(10, int)]
    alarms = [[Alarm(5, 7, 5, 1.0, 0, 0), Alarm(11, 12, 11, 1.0, 0, 0)], [Alarm(4, 4, 4, 1.0, 0, 0)]]
    expected = Measures(
        alarms_judged=3,
        precision=2 / 6,
        recall=2 / 3,
        events=2,
        events_met=1,
        false_alarms=2,
        false_alarms_per_hour=pytest.approx(2 / (20 / 2 / 3600)),
        alarmed_share=6 / 20,
    )
    assert judged(labels, alarms) == expected
    # a video without labels counts for nothing
    assert judged([*labels, None], [*alarms, [Alarm(4, 9, 5, 1.0, 0, 0)]]) == expected


def test_hours_are_counted_by_the_times_of_the_frames():
    slower = np.concatenate([np.arange(50) / 25, 2 + np.arange(50) / 5])  # the usual step is 0.04 s
    assert hours_of(slower, np.zeros(100, bool)) == pytest.approx(11.84 / 3600)
    interrupted = np.concatenate([np.arange(50) / 25, 3600 + np.arange(50) / 25])
    assert hours_of(interrupted, np.arange(100) == 50) == pytest.approx(4 / 3600)


def test_alarms_of_videos_without_labels_are_named_apart(dataset, capsys):
    trained()
    (dataset / "frame_labels.csv").write_text("video,first,last\n1,6,8\n2,unlabelled,\n")
    assert evaluate("--false_alarm_rate", 0.999) == 0
    with open(run_of() / "alarms.csv") as file:
        videos = [row["video"] for row in csv.DictReader(file)]
    about = json.loads((run_of() / "evaluation.json").read_text())["calibrated"]
    assert (about["alarms"], about["alarms_judged"]) == (len(videos), videos.count("1"))
    assert videos.count("2") > 0
    assert f"({videos.count('2')} in videos without labels" in capsys.readouterr().out


def test_measures_that_cannot_be():
    quiet = judged([np.ones(5, int)], [[]])
    assert (quiet.precision, quiet.recall, quiet.events_met) == (None, 0, 0)
    assert judged([np.zeros(5, int)], [[]]).recall is None


def test_an_evaluation_writes_its_alarms(dataset, capsys):
    trained()
    assert evaluate("--false_alarm_rate", 0.5, "--merge_gap", 1, "--fps", 5) == 0
    with open(run_of() / "alarms.csv") as file:
        rows = list(csv.DictReader(file))
    about = json.loads((run_of() / "evaluation.json").read_text())["calibrated"]
    assert len(rows) == about["alarms"] > 0
    for row in rows:
        start, end, peak = (int(row[name]) for name in ("start", "end", "peak"))
        assert 4 <= start <= peak <= end
        assert float(row["score"]) > about["threshold"]
        assert float(row["start_seconds"]) == pytest.approx(start / 5)
    assert f"{about['events_met']} of 2 events detected" in capsys.readouterr().out
