"""report.html: what it says is what exp computes, in a real browser, offline and whatever videos are called."""

import csv
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from browser import Browser, find_browser
from conftest import textured
from helpers import calibrate_run, call, make_run

import Evaluate
from data.stream import Frame
from exp.flags import Span
from exp.report import page_stream
from exp.report.encoder import VideoFile
from exp.report.files import FurtherMetrics
from exp.report.page import Picture, Result, thumbnail, write_page
from exp.report.page_evaluation import page_of_evaluation
from exp.report.page_stream import FRAMES, PICTURES, History
from exp.scoring.alarms import AlarmRule, Tracker, decide, find_alarms, measure_alarms
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import Evaluation, abnormality, auc_by_video, measure
from exp.scoring.pixels import PixelMetrics
from exp.scoring.protocols import protocols
from exp.scoring.score import Scoring

HOSTILE = "<img src=x onerror=hacked=1>"
NAMES = ["01", HOSTILE, "</script><script>hacked=1</script>"]
FPS, FIRST = 10, 4
SCORING, RATE, GAP = Scoring(th=0.01, alpha=0.6), 0.1, Span(0.3, "s")
ABOUT = {
    "dataset_type": "own",
    "avenue_labels": "paper",
    "model": "exp/own/pred/log/model.pth",
    "commit": "abc",
    "settings": {"th": 0.02},
    "unlike_the_paper": "th 0.02",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium or Chrome is installed")
    found = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def calibration(count=300):
    rng = np.random.default_rng(1)
    return Calibration([rng.normal(30, 2, count)], [rng.normal(1e-3, 1e-4, count)], [np.zeros(count)], 0.01, True)


def evaluation(names=tuple(NAMES), lengths=(60, 40, 50), labels=True):
    """Videos with a bump each; the second has no abnormal frame, and of the last nobody knows."""
    rng = np.random.default_rng(0)
    frames = [np.arange(length) + FIRST for length in lengths]
    seconds = [of_video / FPS for of_video in frames]
    psnr = [30 - 6 * np.exp(-(((f - 30) / 8) ** 2)) + rng.normal(0, 1.5, len(f)) for f in frames]
    distance = [rng.normal(1e-3, 1e-4, length) for length in lengths]
    truth = [((f > 20) & (f < 36) | (f > 52)).astype(np.uint8) for f in frames]
    truth = [truth[0], *(np.zeros_like(some) for some in truth[1:2]), *([None] * len(truth[2:]))] if labels else None
    gaps = [f == FIRST + 25 for f in frames]  # time is missing before one
    scores = abnormality(psnr, distance, seconds, gaps, SCORING)
    regular, updated, of_copy = psnr, [f > 0 for f in frames], [p[::-1] for p in psnr]
    columns = frames, seconds, gaps, psnr, distance, regular, updated, of_copy, scores
    return Evaluation(list(names), *columns, truth, [], measure(truth, scores) if labels else None)


NOISE = np.random.default_rng(0).integers(0, 256, (480, 856, 3), dtype=np.uint8)
DETAILED = thumbnail(cv2.GaussianBlur(NOISE, (0, 0), 3))  # a picture with more detail than a street has


def page_of(result, normal=None, without="", further=None):
    """The page of an evaluation and what was decided; without: why there is no calibration."""
    decisions = None if without else decide(result, normal or calibration(), SCORING, RATE, GAP)
    further = further or FurtherMetrics(protocols(result, SCORING, decisions.scores if decisions else None))
    return page_of_evaluation(result, decisions or without, ABOUT, further, picture_of), decisions


def picture_of(video, frame):
    return textured(video, frame, (24, 36))


@pytest.fixture
def opened(browser, tmp_path):
    """The page of the tiny evaluation, open at 1280 pixels, without annotated videos."""
    result = evaluation()
    page, decisions = page_of(result)
    write_page(tmp_path / "report.html", page)
    browser.resize(1280)
    browser.open(tmp_path / "report.html")
    return SimpleNamespace(browser=browser, result=result, decisions=decisions, page=page, folder=tmp_path)


def quiet(browser):
    """Whether the console says nothing, and nothing but the page and what is inside it was asked for."""
    outside = [address for address in browser.requests if not address.startswith("data:")]
    return browser.messages == [] and len(outside) == 1 and outside[0].endswith("/report.html")


# The page as such -----------------------------------------------------------------------------------------------------


def test_one_quiet_file_with_a_curve_for_each_video(opened):
    browser = opened.browser
    assert quiet(browser)
    assert browser.run("document.querySelectorAll('.video .panel.main path.line').length") == 3
    assert browser.run("document.querySelectorAll('#table tbody tr').length") == 3
    points = browser.run(
        "videos.map(v => sections[videos.indexOf(v)].node.querySelector('path.line').getTotalLength())"
    )
    assert min(points) > 0
    text = browser.run("document.body.innerText")
    assert f"{100 * opened.result.metrics.auc:.2f}" in text
    assert "unlike the paper: th 0.02" in text
    assert "exp/own/pred/log/model.pth" in text
    assert f"{100 * auc_by_video(opened.result)['01']:.2f} %" in text


def test_names_stay_text(opened):
    browser = opened.browser
    assert browser.run("typeof hacked") == "undefined"
    assert browser.run("[...document.querySelectorAll('h3 a')].map(a => a.textContent)") == NAMES
    assert browser.run("[...document.querySelectorAll('#table tbody a')].map(a => a.textContent)") == NAMES
    assert browser.run("[...document.images].every(img => img.src.startsWith('data:image/jpeg'))")


def test_titles_and_facts_stay_text_and_need_not_be_text(browser, tmp_path):
    name = os.fsdecode(b"\xff<b>&amp;\n")
    result = evaluation(names=[name], lengths=(30,))
    page, _ = page_of(result)
    write_page(tmp_path / "report.html", page._replace(title=HOSTILE, about={"model": HOSTILE}, remarks=[HOSTILE]))
    browser.open(tmp_path / "report.html")
    assert quiet(browser)
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.run("document.querySelector('h3 a').textContent") == "\\udcff<b>&amp;\\n"
    assert browser.run("document.querySelectorAll('header img, h3 b').length") == 0


def test_no_script_or_style_but_its_own(opened):
    browser = opened.browser
    assert "unsafe" not in (opened.folder / "report.html").read_text(encoding="utf-8")
    browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))")
    browser.run("document.body.insertAdjacentHTML('beforeend', '<p id=foreign style=\"position: fixed\">x</p>')")
    assert browser.run("typeof hacked") == "undefined"
    assert browser.run("getComputedStyle(document.querySelector('#foreign')).position") == "static"
    asked = browser.run("fetch('https://example.org').then(() => 'answered', () => 'refused')")
    assert asked == "refused"
    assert sum("Content Security Policy" in message for message in browser.messages) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_fits_a_screen_and_a_phone_in_both_schemes(opened, width, phone, scheme):
    browser = opened.browser
    browser.resize(width, 844, phone)
    browser.prefer(scheme)
    browser.open(opened.folder / "report.html")
    assert quiet(browser)
    assert browser.run("document.documentElement.scrollWidth") == width
    ink, ground = browser.run("['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])")
    assert (luminance(ink) < luminance(ground)) == (scheme == "light")
    browser.prefer("light")


def luminance(colour):
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))


def test_on_paper_the_ground_is_white_and_controls_are_gone(opened):
    opened.browser.prefer("dark", "print")
    ground = opened.browser.run("getComputedStyle(document.body).backgroundColor")
    controls = opened.browser.run("['slider', 'copy'].map(id => getComputedStyle(byId(id)).display)")
    opened.browser.prefer("light")
    assert ground == "rgb(255, 255, 255)"
    assert controls == ["none", "none"]


def test_without_labels_and_without_a_calibration_the_page_says_so(browser, tmp_path):
    result = evaluation(names=["01"], lengths=(30,), labels=False)
    page, _ = page_of(result, without="no calibration is there")
    write_page(tmp_path / "report.html", page)
    browser.open(tmp_path / "report.html")
    assert quiet(browser)
    text = browser.run("document.body.innerText")
    assert "no labels, so no AUC" in text
    assert "no calibration is there" in text
    assert "--save_video" in text
    assert browser.run("document.querySelectorAll('#rule, .handle, #gallery').length") == 0
    assert browser.run("document.querySelectorAll('.panel.main path.line').length") == 1
    assert "AUC" not in browser.run("document.querySelector('#table').innerText")


def test_a_video_of_one_frame_is_a_dot(browser, tmp_path):
    page, _ = page_of(evaluation(names=["01"], lengths=(1,), labels=False))
    write_page(tmp_path / "report.html", page)
    browser.open(tmp_path / "report.html")
    assert quiet(browser)
    assert browser.run("document.querySelector('.video path.line').getAttribute('d')").endswith("h0")


def test_the_result_is_at_the_top_with_all_that_is_known(browser, tmp_path):
    result = evaluation()
    found, pixels = protocols(result, SCORING, None), PixelMetrics(0.81, 0.62, 0.73, 0.01, 97, 2)
    page, _ = page_of(result, further=FurtherMetrics(found, pixels))
    auc, copied, eer, precision, macro, pixel = page.results
    assert auc == Result("AUC", *found.network["published"], "min–max in each video")
    assert auc.value == pytest.approx(result.metrics.auc)
    assert auc.low <= auc.value <= auc.high
    assert auc.low < auc.high
    assert copied[:4] == ("AUC of copying", *found.copy["published"])
    assert (eer.value, precision.value) == (result.metrics.eer, result.metrics.average_precision)
    assert macro.value == pytest.approx(result.metrics.macro_auc)
    assert pixel.value == 0.81
    write_page(tmp_path / "report.html", page)
    browser.open(tmp_path / "report.html")
    top = browser.run("document.querySelector('.results').innerText").replace("\u202f", " ")
    for one in page.results:
        assert f"{one.name}\n{100 * one.value:.2f} %" in top
    assert f"95 % interval {100 * auc.low:.1f} to {100 * auc.high:.1f}" in top
    assert "mean over 1 of 3 videos" in top
    assert "of the squared error; of feature distance 62.00 %; of copying 73.00 %" in top
    browser.run("document.querySelector('.facts').open = true")
    facts = browser.run("document.querySelector('.facts').innerText")
    for words in ("own", "exp/own/pred/log/model.pth", "abc", "th 0.02", time.strftime("%Y-%m-")):
        assert words in facts


def test_unknown_metrics_are_not_at_the_top():
    of_recon = evaluation()._replace(psnr_of_copy=None)
    page, _ = page_of(of_recon, further=FurtherMetrics(protocols(of_recon, SCORING, None), None, "3 masks are missing"))
    assert [one.name for one in page.results] == ["AUC", "EER", "average precision", "macro AUC"]
    unlike, unlabelled, masks = page.remarks
    assert (unlike, masks) == ("unlike the paper: th 0.02", "no pixel-level AUC: 3 masks are missing")
    assert unlabelled.startswith("1 of 3 videos are unlabelled: AUC, precision, recall")
    one_video = evaluation(names=["01"], lengths=(60,))
    assert page_of(one_video)[0].results[0].low is None  # an interval needs two videos


def test_a_page_of_the_size_of_shanghaitech_stays_below_ten_megabytes(tmp_path, browser):
    lengths = [381] * 106 + [40791 - 106 * 381]
    result, rng = evaluation(), np.random.default_rng(0)
    page, _ = page_of(result)
    curves = []
    for number, length in enumerate(lengths):
        columns = {name: rng.normal(size=length) for name in ("psnr", "distance", "abnormality", "calibrated")}
        frames, pictures = np.arange(length) + FIRST, [Picture(FIRST + 70 * k, DETAILED) for k in range(5)]
        columns |= {"frames": frames, "seconds": frames / 24, "gaps": np.zeros(length, dtype=bool)}
        columns["labels"] = (frames // 50 % 2).astype(np.uint8)
        curves.append(page.curves[0]._replace(name=f"{number:03d}", pictures=pictures, **columns))
    write_page(tmp_path / "report.html", page._replace(curves=curves))
    assert (tmp_path / "report.html").stat().st_size < 10e6
    browser.open(tmp_path / "report.html")
    assert quiet(browser)
    assert browser.run("document.querySelectorAll('.video .panel.main').length") == 107


# Alarms and measures --------------------------------------------------------------------------------------------------


def found_by_exp(result, scores, threshold, gap):
    rows = zip(result.frames, result.seconds, result.gaps, scores, strict=True)
    return [find_alarms(*row, Tracker(threshold, gap)) for row in rows]


def by_place(alarms):
    """Alarms as the page has them: places instead of frames."""
    return [[[a.start - FIRST, a.end - FIRST, a.peak - FIRST, a.score] for a in some] for some in alarms]


LIST = "videos.map(v => v.alarms.map(a => [a.start, a.end, a.peak, a.score]))"


@pytest.mark.parametrize("gap", [Span(0.3, "s"), Span(1, "s"), Span(0.1, "s"), Span(1), Span(3), Span(2.5)])
def test_alarms_and_measures_are_those_of_exp_at_every_threshold(opened, gap):
    browser, result, scores = opened.browser, opened.result, opened.decisions.scores
    some = np.sort(np.concatenate(scores))
    thresholds = [
        some[0] - 1,
        some[0],
        0.0,
        0.5,
        *some[[30, 75, 100, 120, 140]].tolist(),
        1.5,
        2.0,
        some[-1] - 1e-9,
        some[-1],
    ]
    counts = set()
    for threshold in map(float, thresholds):
        alarms = found_by_exp(result, scores, threshold, gap)
        setting = json.dumps({"gap": gap.amount, "gapUnit": gap.unit})
        browser.run(f"void videos.forEach(v => v.alarms = findAlarms(v, {threshold!r}, {setting}))")
        assert browser.run(LIST) == by_place(alarms)
        measures = browser.run("measureAlarms(videos)")
        expected = measure_alarms(alarms, result)
        names = ("precision", "recall", "events", "eventsMet", "falseAlarms", "perHour", "alarmedShare")
        for name, value in zip(names, expected[1:], strict=True):  # the page counts the alarms itself
            assert measures[name] == (None if value is None else pytest.approx(value, rel=1e-12)), name
        counts.add(sum(map(len, alarms)))
    assert len(counts) > 3  # the thresholds are not all alike


def test_opens_with_the_threshold_and_the_alarms_of_the_evaluation(opened):
    browser, decisions = opened.browser, opened.decisions
    assert browser.run("state.threshold") == decisions.threshold
    assert browser.run(LIST) == by_place(decisions.alarms)
    assert browser.run("byId('flag').textContent") == f"--false_alarm_rate {RATE}"
    assert browser.run("byId('m-precision').textContent") == f"{100 * decisions.measures.precision:.2f} %"


def shown(browser):
    """What the page says of its alarms: the count, frames of the bars in each curve, and buttons beside them."""
    paths = browser.run(
        "sections.map(s => [...s.node.querySelectorAll('.panel.main .alarm, .panel.main .false')]"
        ".map(path => path.getAttribute('d') ?? '').join(''))"
    )
    corners = [re.findall(r"M(\d+) \d+H(\d+)", path) for path in paths]
    bars = [sorted([int(left), int(right) - 1] for left, right in some) for some in corners]
    chips = browser.run("sections.map(s => s.chips.querySelectorAll('button').length)")
    return int(browser.run("byId('m-alarms').textContent")), bars, chips


def assert_shows_what_exp_computes(opened):
    """The page at its threshold, which the rate that it names gives."""
    browser = opened.browser
    rate = browser.run("state.rate")
    assert browser.run("byId('flag').textContent") == f"--false_alarm_rate {browser.run('String(state.rate)')}"
    again = decide(opened.result, calibration(), SCORING, rate, GAP)
    assert browser.run("state.threshold") == pytest.approx(again.threshold, rel=1e-12)
    count, bars, chips = shown(browser)
    assert count == sum(map(len, again.alarms))
    assert bars == [[[a.start - FIRST, a.end - FIRST] for a in some] for some in again.alarms]
    assert chips == [min(len(some), 12) for some in again.alarms]
    assert browser.run("byId('m-recall').textContent") == f"{100 * again.measures.recall:.2f} %"
    assert browser.run("byId('m-events').textContent") == f"{again.measures.events_met} of {again.measures.events}"
    assert browser.run("byId('m-false').textContent") == f"{again.measures.false_alarms_per_hour:.1f}"
    return again


def test_dragging_the_threshold_in_a_curve_gives_what_exp_computes(opened):
    browser, seen = opened.browser, set()
    for move in (12, 25, -20):
        box = browser.box("#video-1 .handle")
        x, y = box["left"] + box["width"] / 3, box["top"] + box["height"] / 2
        before = browser.run("state.threshold")
        browser.drag(x, y, y + move)
        browser.until(f"state.threshold !== {before!r} && !state.isDue")
        assert (browser.run("state.threshold") < before) == (move > 0)  # lower is lower
        again = assert_shows_what_exp_computes(opened)
        seen.add(json.dumps(by_place(again.alarms)))
    assert len(seen) > 1
    assert browser.run("state.threshold !== rule.threshold")
    browser.run("byId('reset').click()")
    assert browser.run("state.threshold") == opened.decisions.threshold
    assert quiet(browser)


def test_the_threshold_moves_by_keyboard_and_by_number(opened):
    browser = opened.browser
    browser.run("byId('slider').focus()")
    for _ in range(5):
        browser.press("ArrowLeft", 37)
    browser.until("state.threshold !== rule.threshold && !state.isDue")
    assert browser.run("state.threshold") < opened.decisions.threshold
    assert_shows_what_exp_computes(opened)
    browser.run("byId('number').focus(); byId('number').select(); document.execCommand('insertText', false, '0.5')")
    browser.press("Enter", 13)
    browser.run("byId('number').blur()")
    browser.until("Math.abs(state.threshold - 0.5) < 1e-3 && !state.isDue")
    assert_shows_what_exp_computes(opened)


def test_what_was_typed_does_not_undo_a_drag(opened):
    browser = opened.browser
    browser.run("byId('number').focus(); byId('number').select(); document.execCommand('insertText', false, '0.5')")
    box = browser.box("#video-1 .handle")
    x, y = box["left"] + box["width"] / 3, box["top"] + box["height"] / 2
    browser.drag(x, y, y - 12)
    browser.until("!state.isDue && state.threshold > 0.6")
    dragged = browser.run("state.threshold")
    assert browser.run("byId('number').valueAsNumber") == pytest.approx(dragged, rel=1e-3)
    browser.run("byId('number').blur()")
    assert browser.run("state.threshold") == dragged


def test_times_are_rounded_and_axes_have_two_labels_with_their_own_digits(opened):
    run = opened.browser.run
    times = {"12.5": "12.5 s", "59.96": "1:00.0", "60.3": "1:00.3", "3599.96": "1:00:00.0", "83.44": "1:23.4"}
    assert [run(f"clock({seconds})") for seconds in times] == list(times.values())
    assert run("clock(60.04, 2)") == "1:00.04" and run("clock(60.5, 0)") == "1:01"
    assert run("Plot.prototype.ticks(2.36e-5, 2.93e-5, 2).map(tick => tick.toExponential())") == [
        "2.4e-5",
        "2.6e-5",
        "2.8e-5",
    ]
    assert len(run("Plot.prototype.ticks(30.05, 30.47, 2)")) >= 2


def test_a_page_without_alarms_says_so(browser, tmp_path):
    page, _ = page_of(evaluation())
    write_page(tmp_path / "report.html", page._replace(rule=page.rule._replace(threshold=50.0)))
    browser.open(tmp_path / "report.html")
    assert browser.run("byId('cards').innerText") == "No frame is above the threshold."


def test_false_alarms_are_named_so(opened):
    chips = opened.browser.run(
        "[...document.querySelectorAll('#video-1 .chips button')].map(b => [b.className, b.innerText])"
    )
    assert {name for name, _ in chips} == {"alarm", "false"}
    assert all(text.endswith("false alarm") == (name == "false") for name, text in chips)


def test_a_threshold_beyond_the_calibration_has_no_rate(opened):
    browser = opened.browser
    browser.run("setThreshold(rule.values.at(-1) + 1)")
    browser.until("!state.isDue")
    assert browser.run("byId('flag').textContent").startswith("none")
    assert browser.run("byId('copy').hidden")
    assert browser.run("state.threshold === rule.values.at(-1) + 1")


def test_nearly_always_in_alarm_is_said(opened):
    assert opened.browser.run("byId('mostly').hidden")
    opened.browser.run("setThreshold(-50)")
    opened.browser.until("!state.isDue")
    assert "100 % of the frames" in opened.browser.run("byId('mostly').innerText")


@pytest.mark.parametrize("count", [1, 2, 300, 20_000])
def test_rates_and_thresholds_are_quantiles_of_the_calibration(browser, tmp_path, count):
    normal = calibration(count)
    page, _ = page_of(evaluation(), normal)
    write_page(tmp_path / "report.html", page)
    browser.open(tmp_path / "report.html")
    own = normal.own_scores(SCORING, FPS)
    exact = min(1.0, 2000 / count)  # the highest scores are all there
    for rate in (1e-6, 1e-4, 0.001, 0.0123, 0.1, 0.3, 0.5, 0.9, 0.9999):
        expected = np.quantile(own, 1 - rate)
        close = {"rel": 1e-12, "abs": 1e-12} if rate < exact else {"abs": 0.01}  # in standard deviations
        assert browser.run(f"thresholdOf({rate}, rule)") == pytest.approx(expected, **close)
        if count > 2:
            assert browser.run(f"rateOf(thresholdOf({rate}, rule), rule)") == pytest.approx(rate, rel=1e-3)


def test_cards_show_the_highest_alarms_first_with_a_picture_from_within(opened):
    browser = opened.browser
    alarms = [alarm for some in opened.decisions.alarms for alarm in some]
    best = max(alarms, key=lambda alarm: alarm.score)
    text = browser.run("document.querySelector('.card').innerText")
    assert f"score {best.score:.2f} at {best.peak / FPS:.1f} s" in text
    pictures = [browser.run(f"videos[{v}].pictures.map(p => p.place)") for v in range(3)]
    inside = sum(
        any(a.start <= p + FIRST <= a.end for p in places)
        for some, places in zip(opened.decisions.alarms, pictures, strict=True)
        for a in some
    )
    browser.run("state.all = true; fillGallery()")
    assert browser.run("document.querySelectorAll('.card').length") == len(alarms)
    assert browser.run("document.querySelectorAll('.card img').length") == inside > 0


def test_the_table_sorts_by_each_column_with_unknown_values_last(opened):
    browser = opened.browser
    names = "[...document.querySelectorAll('#table tbody a')].map(a => NAMES.indexOf(a.textContent))".replace(
        "NAMES", json.dumps(NAMES)
    )
    scores = [float(values.max()) for values in opened.decisions.scores]
    order = sorted(range(3), key=lambda k: -scores[k])
    click = "[...document.querySelectorAll('#table thead button')].find(b => b.textContent === '{}').click()"
    browser.run(click.format("highest score"))
    assert browser.run(names) == order
    browser.run(click.format("highest score"))
    assert browser.run(names) == order[::-1]
    browser.run(click.format("AUC"))
    assert browser.run(names)[0] == 0
    browser.run(click.format("AUC"))
    assert browser.run(names)[0] == 0  # the others have no AUC


# Frames and videos ----------------------------------------------------------------------------------------------------


@pytest.fixture
def played(browser, tmp_path):
    """A page with an annotated video of 96 x 64 beside it for each of its videos."""
    result = evaluation()
    for video, name in enumerate(result.videos):
        file = VideoFile(tmp_path / "videos" / f"{name}.mp4", 64, 96)
        for k, seconds in enumerate(result.seconds[video]):
            file.add(np.full((64, 96, 3), 4 * k, dtype=np.uint8), float(seconds))
        file.finish()
    page, _ = page_of(result)
    write_page(tmp_path / "report.html", page)
    browser.resize(1280)
    browser.open(tmp_path / "report.html")
    return SimpleNamespace(browser=browser, result=result, folder=tmp_path)


# `shown` is the time in the file of the frame that is on the screen
WATCH = """{
    window.shown = null;
    const { player } = sections[%d];
    const look = (_, { mediaTime }) => { window.shown = mediaTime; player.requestVideoFrameCallback(look); };
    player.requestVideoFrameCallback(look);
}"""


@pytest.mark.parametrize("video", [0, 1])
def test_a_click_on_the_curve_seeks_the_video_which_really_decodes(played, video):
    browser, count = played.browser, len(played.result.frames[video])
    browser.box(f"#video-{video + 1}")  # videos are opened when they come into sight
    browser.until(f"sections[{video}].player.readyState >= 1")
    box = browser.box(f"#video-{video + 1} .panel.main")
    assert browser.run(f"[sections[{video}].player.videoWidth, sections[{video}].player.videoHeight]") == [96, 64]
    browser.run(WATCH % video)
    for place in (25, 7):
        browser.click(box["left"] + box["width"] * (place + 0.5) / count, box["top"] + 0.8 * box["height"])
        browser.until(f"shown !== null && Math.abs(shown - {place / FPS}) < 1e-3 && !sections[{video}].player.seeking")
        assert browser.run(f"sections[{video}].plot.place") == place
        assert browser.run(f"sections[{video}].player.currentTime") == pytest.approx((place + 0.5) / FPS, abs=1e-3)
    words = browser.run(f"sections[{video}].plot.readout.innerText")
    assert f"frame {FIRST + 7}" in words
    assert f"{(FIRST + 7) / FPS:.2f} s" in words
    assert browser.messages == []


def test_the_cursor_goes_along_with_the_playing_video(played):
    browser = played.browser
    browser.box("#video-1")
    browser.run("sections[0].player.play()")
    browser.until("sections[0].plot.place >= 8")
    browser.run("sections[0].player.pause()")
    browser.until(f"Math.abs(sections[0].player.currentTime * {FPS} - sections[0].plot.place) <= 1.01")
    assert not browser.run("sections[0].plot.cursor.hidden")


def test_keys_step_frames_and_alarms(played):
    browser = played.browser
    browser.run("sections[0].plot.focus.focus()")
    place = "sections[0].plot.place"
    browser.press("ArrowRight", 39)
    assert browser.run(place) == 1
    browser.press("ArrowRight", 39, shift=True)
    assert browser.run(place) == 11
    browser.press("ArrowLeft", 37)
    assert browser.run(place) == 10
    browser.press("End", 35)
    assert browser.run(place) == 59
    browser.press("Home", 36)
    assert browser.run(place) == 0
    browser.press("ArrowUp", 38)
    assert browser.run(place) == 1
    browser.press("N", 78, shift=True)
    assert browser.run(f"videos[0].alarms.some(a => a.start === {place})")
    browser.press("Home", 36)
    browser.press("n", 78)
    assert browser.run(f"videos[0].alarms.some(a => a.start === {place})")
    spoken = browser.run("sections[0].plot.focus.getAttribute('aria-valuetext')").split(", ")
    assert spoken[0] == f"frame {browser.run(place) + FIRST}" and spoken[-1] == "in alarm"
    browser.until("sections[0].player.readyState >= 2 && !sections[0].player.seeking")
    assert browser.run(f"Math.floor(sections[0].player.currentTime * {FPS} + 1e-6) === {place}")
    assert browser.run("sections[0].plot.focus.ariaValueNow") == str(browser.run(place) + FIRST)


def test_pictures_and_alarms_lead_to_their_frames(played):
    browser = played.browser
    browser.run("sections[0].node.querySelector('.picture').click()")
    assert browser.run("sections[0].plot.place === videos[0].pictures[0].place")
    browser.run("sections[0].chips.querySelector('button').click()")
    assert browser.run("sections[0].plot.place === videos[0].alarms[0].peak")
    browser.run("document.querySelector('.card').click()")
    highest = "[...videos.keys()].sort((a, b) => videos[b].highest - videos[a].highest)[0]"
    assert browser.run(f"sections[{highest}].plot.focus === document.activeElement")
    assert browser.run(f"videos[{highest}].calibrated[sections[{highest}].plot.place] === videos[{highest}].highest")


def test_hovering_reads_the_frame_under_the_pointer(played):
    browser, box = played.browser, played.browser.box("#video-1 .panel.main")
    browser.hover(box["left"] + box["width"] * 30.5 / 60, box["top"] + 0.8 * box["height"])
    words = browser.run("sections[0].plot.readout.innerText")
    assert f"frame {FIRST + 30}" in words
    assert f"PSNR {played.result.psnr[0][30]:.2f} dB" in words
    assert browser.run("sections[0].plot.place") == 0  # looked at, not gone to


def test_other_scores_are_switched_on_beside_the_curve(played):
    browser = played.browser
    browser.run(
        "[...document.querySelectorAll('#series input')].filter(box => !box.checked).forEach(box => box.click())"
    )
    assert browser.run("sections.map(s => s.node.querySelectorAll('.panel:not([hidden])').length)") == [4, 4, 4]
    browser.run("[...document.querySelectorAll('#series input')].at(-1).click()")
    assert browser.run("sections.map(s => s.node.querySelectorAll('.panel:not([hidden])').length)") == [3, 3, 3]


def test_a_video_that_is_gone_is_said_in_its_place_and_the_curve_works(played):
    browser = played.browser
    (played.folder / "videos").rename(played.folder / "elsewhere")
    browser.open(played.folder / "report.html")
    browser.box("#video-2")
    browser.until("sections[1].node.querySelector('.missing')")
    assert f"videos/{HOSTILE}.mp4 is not beside this page" in browser.run("sections[1].stage.innerText")
    browser.run("sections[1].go(12)")
    assert f"frame {FIRST + 12}" in browser.run("sections[1].plot.readout.innerText")


def test_a_browser_without_h264_is_told_so(played):
    browser = played.browser
    script = "HTMLMediaElement.prototype.canPlayType = () => ''"
    number = browser.send("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    browser.send("Page.reload")
    browser.wait_for("Page.loadEventFired")
    browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=number)
    assert browser.run("document.querySelectorAll('.missing').length") == 3
    assert "H.264" in browser.run("document.querySelector('.missing').innerText")
    assert browser.run("document.querySelectorAll('video').length") == 0
    browser.run("sections[0].go(12)")
    assert f"frame {FIRST + 12}" in browser.run("sections[0].plot.readout.innerText")


# Streams --------------------------------------------------------------------------------------------------------------


def watched(count=400, gap_at=150):
    """A stream of `count` scored frames, its rule, and its alarms: a gap ends one, as exp.report.recorder has it."""
    rng = np.random.default_rng(3)
    frames = np.arange(count) + FIRST
    frames[gap_at:] += 90  # frames of the gap, and those that the first clip behind it needs
    scores = rng.normal(0, 0.1, count)
    scores[gap_at - 5 : gap_at + 5] = 5  # in alarm on both sides of the gap
    scores[300:320] = 6 + rng.random(20)
    rule = AlarmRule(3.5, Span(10, "s"), 0.1, calibration().own_scores(SCORING, 25))
    history, tracker, found = History(), Tracker(rule.threshold, rule.merge_gap), []
    for k, (index, score) in enumerate(zip(frames.tolist(), scores.tolist(), strict=True)):
        frame = Frame(index, index / 25, textured("stream", index, (24, 36)), k == gap_at, True, None)
        if frame.gap:
            found.append(tracker.finish())
        found.append(tracker.add(index, frame.seconds, score))
        history.add(frame, 30 + score, 0.01, score, tracker.alarm)
    return history, rule, [alarm for alarm in (*found, tracker.finish()) if alarm]


def test_a_stream_shows_its_alarms_first_each_with_its_picture(browser, tmp_path):
    history, rule, alarms = watched()
    assert len(alarms) == 2  # only the gap parts them
    page = history.page("door <1>.mp4", rule, {"model": "m"}, "annotated.mp4")
    write_page(tmp_path / "report.html", page)
    browser.open(tmp_path / "report.html")
    assert quiet(browser)
    (curve,) = page.curves
    places = {frame: k for k, frame in enumerate(curve.frames.tolist())}
    expected = [[places[a.start], places[a.end], places[a.peak], a.score] for a in alarms]
    assert browser.run(LIST) == [expected]
    assert [picture.frame for picture in curve.pictures] == [alarm.peak for alarm in alarms]
    cards = browser.run(
        "[...document.querySelectorAll('.card')].map(card => [card.innerText, card.querySelectorAll('img').length])"
    )
    assert [count for _, count in cards] == [1, 1]
    for (text, _), alarm in zip(cards, alarms, strict=True):
        assert f"frames {alarm.start} to {alarm.end}" in text
    assert browser.run(
        "document.querySelector('#gallery').compareDocumentPosition(document.querySelector('.curve')) & 4"
    )
    assert browser.run("byId('table')") is None
    assert browser.run("document.querySelector('h1').textContent") == "door <1>.mp4"


def test_of_a_long_stream_the_end_is_shown_and_the_page_says_so(tmp_path, browser, monkeypatch):
    history, rule, alarms = watched()
    whole = history.page("0", rule, {}, "annotated.mp4").curves[0]
    monkeypatch.setattr(page_stream, "FRAMES", 120)
    monkeypatch.setattr(page_stream, "PICTURES", 1)
    history = watched()[0]
    page = history.page("0", rule, {}, "annotated.mp4")
    (curve,) = page.curves
    for field in ("frames", "seconds", "psnr", "calibrated", "gaps"):
        np.testing.assert_array_equal(getattr(curve, field), getattr(whole, field)[-120:])
    best = max(alarms, key=lambda alarm: alarm.score)
    assert [picture.frame for picture in curve.pictures] == [best.peak]
    file = VideoFile(tmp_path / "annotated.mp4", 64, 96)  # it has them all
    for seconds in whole.seconds.tolist():
        file.add(np.zeros((64, 96, 3), dtype=np.uint8), seconds)
    file.finish()
    write_page(tmp_path / "report.html", page)
    browser.open(tmp_path / "report.html")
    browser.run("document.querySelector('.card').click()")
    shown = browser.run("sections[0].player.currentTime")
    assert 0 < shown - (best.peak - FIRST) / 25 < 1 / 25
    assert "the last 120 of 400 frames: scores.csv and alarms.csv" in browser.run("document.body.innerText")


def test_the_longest_page_of_a_stream_stays_below_ten_megabytes(tmp_path, browser):
    history, rule, _ = watched()
    (curve,) = history.page("0", rule, {}, "").curves
    longer = {name: np.resize(getattr(curve, name), FRAMES) for name in ("psnr", "distance", "calibrated", "gaps")}
    frames = np.arange(FRAMES)
    pictures = [Picture(int(frame), DETAILED) for frame in frames[:: FRAMES // PICTURES]]
    longer |= {"frames": frames, "seconds": frames / 25, "pictures": pictures}
    page = history.page("0", rule, {}, "")._replace(curves=[curve._replace(**longer)])
    write_page(tmp_path / "report.html", page)
    assert (tmp_path / "report.html").stat().st_size < 10e6
    browser.open(tmp_path / "report.html")
    assert quiet(browser)
    assert browser.run("videos[0].count") == FRAMES


# The script -----------------------------------------------------------------------------------------------------------

OF_CSV = "videos.flatMap(v => v.alarms.map(a => [v.name, ...[a.start, a.end, a.peak].map(k => String(v.frames[k]))]))"


@pytest.fixture
def run(in_its_own_folder, small_network, make_videos):
    videos = make_videos(Path("normal"), {"1": 30})
    return calibrate_run(make_run(Path("run"), size=(16, 16)), videos)


def read_rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_an_evaluation_has_a_page_that_plays_its_videos(browser, dataset, run, capsys):
    flags = ["--dataset_type", "own", "--num_workers_test", 0, "--model_dir", run, "--output_dir", "out"]
    assert call(Evaluate, *flags, "--save_video", "--false_alarm_rate", 0.3, "--frames", "1:6") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report: out/report.html"
    browser.resize(1280)
    browser.open(Path("out/report.html"))
    about = json.loads(Path("out/evaluation.json").read_text())
    assert f"{100 * about['auc']:.2f} %" in browser.run("document.body.innerText").replace("\u202f", " ")
    assert browser.run("videos.map(v => [v.name, v.count])") == [["1", 8], ["2", 5]]
    alarms = read_rows("out/alarms.csv")
    assert browser.run(OF_CSV) == [[row[key] for key in ("video", "start", "end", "peak")] for row in alarms]
    for place in (0, 1):
        browser.box(f"#video-{place + 1}")
        browser.until(f"sections[{place}].player.readyState >= 1")
        assert browser.run(f"sections[{place}].player.videoWidth") == 640
    assert browser.messages == []
    folder = Path("out").absolute().as_uri()
    assert all(address.startswith(("data:", folder)) for address in browser.requests)
    assert call(Evaluate, *flags, "--no_figures") == 0
    assert "report" not in capsys.readouterr().out
    assert not Path("out/report.html").exists()


def test_a_watched_file_has_a_page_with_its_alarms(browser, run, capsys):
    file = VideoFile(Path("door.mp4"), 64, 96)
    for k in range(30):
        file.add(textured("door", k, (64, 96)), k / FPS)
    file.finish()
    assert call(Evaluate, "--model_dir", run, "--video", "door.mp4", "--false_alarm_rate", 0.95, "--merge_gap", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report: run/watched/door/report.html"
    browser.open(run / "watched/door/report.html")
    assert quiet(browser)
    alarms = [row for row in read_rows(run / "watched/door/alarms.csv") if row["event"] == "ended"]
    assert browser.run(OF_CSV) == [["door.mp4", *(row[key] for key in ("start", "end", "peak"))] for row in alarms]
    assert browser.run("document.querySelectorAll('.card img').length") == len(alarms) > 0
    assert call(Evaluate, "--model_dir", run, "--video", "door.mp4", "--no_figures") == 0
    assert "report" not in capsys.readouterr().out
    assert not (run / "watched/door-2/report.html").exists()
