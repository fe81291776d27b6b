"""Alarms: intervals of frames above a threshold, joined over short gaps, told when they end, judged by labels."""

import csv
import json

import numpy as np
import pytest
from test_scripts import evaluate, run_of, train

from exp.scoring.alarms import Alarm, Tracker, fare, find_alarms


def spans(scores, merge_gap=1, first=0):
    """The alarms above 0.5 as (start, end, peak)."""
    frames = np.arange(len(scores)) + first
    return [alarm[:3] for alarm in find_alarms(frames, np.array(scores), 0.5, merge_gap)]


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


def test_gaps_shorter_than_merge_gap_are_joined():
    scores = [1, 0, 0, 3, 0, 0, 0, 1]
    assert spans(scores, merge_gap=2) == [(0, 0, 0), (3, 3, 3), (7, 7, 7)]
    assert spans(scores, merge_gap=3) == [(0, 3, 3), (7, 7, 7)]
    assert spans(scores, merge_gap=4) == [(0, 7, 3)]
    assert spans(scores, merge_gap=2.5) == [(0, 3, 3), (7, 7, 7)]  # seconds need not be whole frames


def test_an_alarm_is_told_with_the_frame_that_ends_it():
    tracker = Tracker(0.5, merge_gap=3)
    told = [tracker.add(k, k / 10, score) for k, score in enumerate([1, 0, 2, 0, 0, 0, 0, 1])]
    assert [k for k, alarm in enumerate(told) if alarm] == [5]
    assert told[5] == Alarm(start=0, end=2, peak=2, score=2, start_seconds=0, end_seconds=0.2)
    assert tracker.finish()[:2] == (7, 7)
    assert tracker.finish() is None


def test_frames_are_counted_from_the_first_that_has_a_score():
    assert spans([0, 1], first=4) == [(5, 5, 5)]


def test_measures():
    labels = [np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 0]), np.zeros(10, int)]
    frames = [np.arange(10) + 4] * 2
    alarms = [[Alarm(5, 7, 5, 1.0, 0, 0), Alarm(11, 12, 11, 1.0, 0, 0)], [Alarm(4, 4, 4, 1.0, 0, 0)]]
    assert fare(alarms, frames, labels, fps=2) == {
        "precision": 2 / 6,
        "recall": 2 / 3,
        "events": 2,
        "events_met": 1,
        "false_alarms": 2,
        "false_alarms_per_hour": 2 / (20 / 2 / 3600),
    }


def test_measures_that_cannot_be():
    quiet = fare([[]], [np.arange(5)], [np.ones(5, int)], fps=25)
    assert (quiet["precision"], quiet["recall"], quiet["events_met"]) == (None, 0, 0)
    assert fare([[]], [np.arange(5)], [np.zeros(5, int)], fps=25)["recall"] is None


def test_an_evaluation_writes_its_alarms(dataset, capsys):
    assert train() == 0
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
    assert f"{about['events_met']} of 2 events met" in capsys.readouterr().out
