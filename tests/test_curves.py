"""Figures of a training and of an evaluation: written, of the stated size, and different where the data differ."""

import os
import subprocess
import sys

import numpy as np
import pytest
from drawn import decisions, differ, evaluation, frame_at, picture, replay_of
from helpers import ROOT

from exp.flags import FIGURE_FORMATS
from exp.report import curves, score_curves
from exp.report.style import Look
from utils import InputError


def epoch(n, items=10):
    return {
        **dict.fromkeys(("pixel", "compactness", "separateness", "loss", "lr"), 0.1 / n),
        "queries_won": [n * item for item in range(items)],
        "item_cosines": [-0.3, 0.4],
    }


def test_loss_curves(tmp_path):
    histories = [[epoch(n) for n in range(1, last + 1)] for last in (1, 3)]
    histories[1].append({**epoch(4), "separateness": 0.0})  # which a log axis would hide
    differ(curves.loss_curves, tmp_path / "new" / "loss.png", (1200, 700), *[(history,) for history in histories])


def test_loss_curves_of_a_long_run_with_losses_of_zero(tmp_path):
    history = [{**epoch(n, items=20), "separateness": 0.0, "compactness": 0.0} for n in range(1, 61)]
    curves.loss_curves(tmp_path / "loss.png", history)
    picture(tmp_path / "loss.png", 1200, 700)


KINDS = {
    "two videos": evaluation([20, 300]),
    "no labels": evaluation([40], labelled=False),
    "constant": evaluation([30], constant=True),
    "one frame": evaluation([1]),
    "one class": evaluation([9])._replace(labels=[np.ones(9, np.uint8)]),
    "one video unlabelled": evaluation([20, 20])._replace(labels=[None, np.arange(20) // 10]),
}


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of what earlier tests left open, collected here
@pytest.mark.parametrize("found", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("decided", [False, True])
def test_score_curves(tmp_path, found, decided):
    decided = decisions(found) if decided else None
    score_curves.score_curves(tmp_path, found, decided, frame_at, Look(note="smooth 4"))
    pictures = [picture(tmp_path / f"{name}.png", 1200, 1100 if decided else 900) for name in found.videos]
    assert len(pictures) == 1 or not np.array_equal(*pictures)


def test_score_curves_show_what_was_decided(tmp_path):
    found = evaluation([60])
    thresholds = [(found, decisions(found, threshold), 0, frame_at) for threshold in (2.0, 4.0, 100.0)]
    assert [bool(some[1].alarms[0]) for some in thresholds] == [True, True, False]
    differ(score_curves.score_curve, tmp_path / "scores.png", (1200, 1100), *thresholds)


def test_times_that_vary(tmp_path):
    found = evaluation([100])
    jump = np.where(np.arange(100) < 50, 0, 3600) + found.seconds[0]
    some = [(result, None, 0, frame_at) for result in (found, found._replace(seconds=[jump]))]
    differ(score_curves.score_curve, tmp_path / "scores.png", (1200, 900), *some)


def test_peaks_are_the_highest_and_apart():
    values = np.zeros(240)
    values[[30, 33, 100, 180, 239]] = [0.9, 0.8, 0.5, 0.7, 0.6]
    assert score_curves.peaks(values, count=4) == [30, 100, 180, 239]
    assert score_curves.peaks(values, count=2) == [30, 180]
    assert score_curves.peaks(np.zeros(1)) == [0]


@pytest.mark.parametrize(("draw", "size"), [(curves.roc_curve, (700, 700)), (curves.score_histogram, (900, 500))])
def test_figures_of_both_classes(tmp_path, draw, size):
    some, constant = evaluation([20, 90]), evaluation([30], constant=True)
    differ(draw, tmp_path / "figure.png", size, *[(found.labels, found.abnormality) for found in (some, constant)])


def test_one_class_has_a_histogram_but_no_roc(tmp_path):
    curves.score_histogram(tmp_path / "histogram.png", [np.zeros(5, int)], [np.linspace(0, 1, 5)])
    picture(tmp_path / "histogram.png", 900, 500)
    with pytest.raises(InputError, match="both classes"):
        curves.roc_curve(tmp_path / "roc.png", [np.zeros(5, int)], [np.linspace(0, 1, 5)])


@pytest.mark.parametrize("kind", FIGURE_FORMATS)
def test_all_figures_have_the_format_that_is_asked_for(tmp_path, kind):
    found, start = evaluation([20]), {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind]

    def draw(directory):
        curves.draw_evaluation(directory, found, decisions(found), replay_of(found), frame_at, Look([(0, 9)], "", kind))
        return {path.name: path.read_bytes() for path in directory.rglob("*.*")}

    written = draw(tmp_path / "a")
    assert written.keys() == {f"{name}.{kind}" for name in ("roc", "histogram", "01$", "01$_0009")}
    assert all(content.startswith(start) for content in written.values())
    assert written == draw(tmp_path / "b")  # neither a date nor chance is in them


def test_videos_without_labels_are_left_out_of_the_roc(tmp_path):
    found = KINDS["one video unlabelled"]
    found = found._replace(metrics=evaluation([20]).metrics)
    curves.draw_evaluation(tmp_path, found, None, replay_of(found), frame_at, Look([(1, 9)]))
    drawn = picture(tmp_path / "roc.png", 700, 700)
    curves.roc_curve(tmp_path / "roc.png", found.labels[1:], found.abnormality[1:])
    assert np.array_equal(drawn, picture(tmp_path / "roc.png", 700, 700))


def test_a_figure_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "figure.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match="cannot"):
            curves.score_histogram(path, [np.ones(2, int)], [np.ones(2)])


# whichever module of figures is imported first, exp/report/__init__.py is run before it


def test_a_notebook_names_a_backend_that_is_not_here():
    environment = {**os.environ, "MPLBACKEND": "module://no_such_package.backend_inline"}
    subprocess.run(
        [sys.executable, "-c", "import exp.report, matplotlib.pyplot"], cwd=ROOT, env=environment, check=True
    )


def test_a_backend_that_is_here_stays(tmp_path):
    (tmp_path / "some_backend.py").write_text("from matplotlib.backends.backend_agg import *\n")
    environment = {**os.environ, "MPLBACKEND": "module://some_backend", "PYTHONPATH": str(tmp_path)}
    code = "import exp.report, matplotlib; assert matplotlib.get_backend() == 'module://some_backend'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
