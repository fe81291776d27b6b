"""report.html: an evaluation or a watched stream as one page, which any current browser opens from disk, offline.

The page holds the scores of all frames, pictures of the highest peaks, one style sheet and one script; nothing is
fetched but the annotated videos, where they lie beside it. The script lets the threshold be moved and follows with
alarms and measures: assets/alarms.js does what exp/scoring/alarms.py does, and tests hold the two together. A content
security policy allows this style sheet and this script alone, by their digests.

    write_page(path, page_of_evaluation(result, decisions, rule, about, frame_at, "videos"))
    write_page(path, page_of_stream(name, scores, rule, about, pictures, "annotated.mp4"))
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data.labels import intervals
from exp.flags import Span
from exp.report.files import MOSTLY, metric_lines
from exp.report.score_curves import peaks
from exp.scoring.alarms import Decisions
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import Evaluation, auc_by_video, rate_of
from exp.scoring.score import Scoring
from utils import one_line, write_text

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("alarms.js", "plot.js", "section.js", "page.js")
STREAM_FRAMES = 200_000  # the page of a stream shows so many at most, the last ones: it stays below 10 MB
STREAM_PICTURES = 200  # and so many pictures, those of the highest scores
PICTURE_WIDTH, PICTURE_QUALITY = 240, 75
EXACT = 2048  # that many of the highest scores of a calibration are kept as they are
RESULTS = {  # fields of exp.scoring.evaluation.Metrics and their names; the interval of `x` is the field `x_interval`
    "auc": "AUC",
    "copy_auc": "AUC of copying the last frame",
    "pixel_auc": "pixel AUC",
    "eer": "EER",
    "average_precision": "average precision",
    "macro_auc": "macro AUC",
}
FACTS = {"dataset_type": "data set", "avenue_labels": "labels", "torch": "PyTorch"}  # of `about`, where names differ


class Result(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: float  # in [0, 1]
    interval: tuple[float, float] | None = None
    note: str = ""


class AlarmRule(NamedTuple):
    """What makes alarms of calibrated scores, and what the page needs to move the threshold."""

    threshold: float
    merge_gap: Span
    false_alarm_rate: float  # which the threshold comes from
    own_scores: np.ndarray  # (n,) of the calibration's own frames: the quantiles that a rate stands for
    caveat: str = ""  # what is wrong with the threshold


class Picture(NamedTuple):
    frame: int
    jpeg: bytes  # see `thumbnail`


class Curve(NamedTuple):
    """A video on the page. Arrays have one value for each of its frames that has a score, (n,)."""

    name: str
    frames: np.ndarray  # index in the video
    seconds: np.ndarray
    psnr: np.ndarray
    distance: np.ndarray
    abnormality: np.ndarray | None  # min-max over the video; None for a stream
    calibrated: np.ndarray | None  # None without a calibration
    labels: np.ndarray | None
    auc: float | None
    pictures: list[Picture]
    video: str | None  # the annotated video, relative to the page; None where there is none
    gaps: np.ndarray | None = None  # bool, whether time is missing before a frame: no alarm goes across


class Page(NamedTuple):
    """All that report.html shows."""

    title: str
    results: list[Result]
    remarks: list[str]  # what to know of the results
    facts: list[tuple[str, str]]
    rule: AlarmRule | str  # or why there is none
    curves: list[Curve]
    is_stream: bool = False


class StreamScores(NamedTuple):
    """The frames of a stream that were scored, (n,) each: all, or the last STREAM_FRAMES of `total`."""

    frames: np.ndarray
    seconds: np.ndarray
    psnr: np.ndarray
    distance: np.ndarray
    calibrated: np.ndarray
    gaps: np.ndarray  # bool, whether time is missing before a frame
    total: int


def thumbnail(picture: np.ndarray) -> bytes:
    """A small JPEG of a picture, uint8 (h, w, 3) BGR."""
    height, width = picture.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width, 2 * PICTURE_WIDTH / height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])[1].tobytes()


def alarm_rule(
    normal: Calibration, scoring: Scoring, fps: float, false_alarm_rate: float, merge_gap: Span
) -> AlarmRule:
    """The rule by which exp.scoring.alarms.decide makes alarms of videos with this frame rate, and the Recorder too."""
    return AlarmRule(
        threshold=normal.threshold(scoring, false_alarm_rate, fps),
        merge_gap=merge_gap,
        false_alarm_rate=false_alarm_rate,
        own_scores=normal.own_scores(scoring, fps),
        caveat=normal.caveat(scoring, false_alarm_rate),
    )


def page_of_evaluation(
    result: Evaluation,
    decisions: Decisions | None,
    rule: AlarmRule | str,
    about: Mapping[str, Any],
    frame_at: Callable[[int, int], np.ndarray],
    videos: str | None,
) -> Page:
    """The page of a data set.

    rule: how `decisions` were made, or why there are none; about: what evaluation.json says beside the metrics;
    frame_at: place of a video, index of a frame in it -> uint8 (h, w, 3) BGR; videos: the folder of the annotated
    videos beside the page, each named like its video, or None.
    """
    aucs = auc_by_video(result)
    curves = []
    for video, name in enumerate(result.videos):
        calibrated = decisions.scores[video] if decisions else None
        shown = peaks(result.abnormality[video] if calibrated is None else calibrated)
        frames = [int(result.frames[video][k]) for k in shown]
        curves.append(
            Curve(
                name=name,
                frames=result.frames[video],
                seconds=result.seconds[video],
                psnr=result.psnr[video],
                distance=result.distance[video],
                abnormality=result.abnormality[video],
                calibrated=calibrated,
                labels=result.labels[video] if result.labels else None,
                auc=aucs[name],
                pictures=[Picture(frame, thumbnail(frame_at(video, frame))) for frame in frames],
                video=f"{videos}/{name}.mp4" if videos else None,
            )
        )
    remarks = [] if result.metrics else metric_lines(result)
    if about.get("unlike_the_paper"):
        remarks.append(f"unlike the paper: {about['unlike_the_paper']}")
    return Page(one_line(str(about["dataset_type"])), _results(result), remarks, _facts(about), rule, curves)


def page_of_stream(
    name: str,
    scores: StreamScores,
    rule: AlarmRule,
    about: Mapping[str, Any],
    pictures: Mapping[int, bytes],
    video: str | None,
) -> Page:
    """The page of one file, camera or stream.

    pictures: index of a frame -> its `thumbnail`, at least of the peak of each alarm; video: the annotated video beside
    the page, or None. Of a long stream the last STREAM_FRAMES frames are shown, which the page says.
    """
    kept = scores._replace(**{field: getattr(scores, field)[-STREAM_FRAMES:] for field in StreamScores._fields[:-1]})
    place = {frame: k for k, frame in enumerate(kept.frames.tolist()) if frame in pictures}
    highest = sorted(place, key=lambda frame: -kept.calibrated[place[frame]])[:STREAM_PICTURES]
    curve = Curve(
        name=name,
        frames=kept.frames,
        seconds=kept.seconds,
        psnr=kept.psnr,
        distance=kept.distance,
        abnormality=None,
        calibrated=kept.calibrated,
        labels=None,
        auc=None,
        pictures=[Picture(frame, pictures[frame]) for frame in sorted(highest)],
        video=video,
        gaps=kept.gaps,
    )
    remarks = []
    if len(kept.frames) < scores.total:
        count = f"the last {len(kept.frames):,} of {scores.total:,} frames"
        remarks.append(f"{count}: scores.csv and alarms.csv beside this page have all")
    return Page(one_line(name), [], remarks, _facts(about), rule, [curve], is_stream=True)


def _results(result: Evaluation) -> list[Result]:
    """The metrics that are known, in the order of RESULTS."""
    found = []
    for field, name in RESULTS.items():
        value = getattr(result.metrics, field, None)
        if value is not None:
            found.append(Result(name, value, getattr(result.metrics, f"{field}_interval", None)))
            if field == "macro_auc" and result.metrics:
                note = f"mean of {result.metrics.macro_videos} of {len(result.videos)} videos"
                found[-1] = found[-1]._replace(note=note)
    return found


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the page says of its origin: `about` as words, and the date."""
    found = []
    for key, value in about.items():
        if key == "unlike_the_paper" or value in (None, "") or (key == "avenue_labels" and not _is_avenue(about)):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
        found.append((FACTS.get(key, key), one_line(str(value))))
    return [*found, ("date", time.strftime("%Y-%m-%d %H:%M"))]


def _is_avenue(about: Mapping[str, Any]) -> bool:
    return about.get("dataset_type") == "avenue"


# The file -------------------------------------------------------------------------------------------------------------


def write_page(path: Path, page: Page) -> None:
    """Write report.html whole. Raises InputError where it cannot be written."""
    style, script = ((ASSETS / "page.css").read_text("utf-8"), "".join((ASSETS / s).read_text("utf-8") for s in SCRIPTS))
    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    html = environment.get_template("page.html").render(
        page=page,
        has_rule=isinstance(page.rule, AlarmRule),
        has_labels=any(curve.labels is not None for curve in page.curves),
        frames=sum(len(curve.frames) for curve in page.curves),
        data=_data(page),
        style=Markup(style),  # the page's own files, not data
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
    )
    write_text(path, html)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(page: Page) -> dict[str, Any]:
    """What the script reads: plain JSON, arrays as base64 of their little-endian bytes."""
    rule = None
    if isinstance(page.rule, AlarmRule):
        places, values = _knots(page.rule.own_scores)
        rule = {
            "threshold": page.rule.threshold,
            "rate": page.rule.false_alarm_rate,
            "gap": page.rule.merge_gap.amount,
            "gapUnit": page.rule.merge_gap.unit,
            "places": _packed(places, "<u4"),
            "values": _packed(values, "<f8"),
            "mostly": MOSTLY,
        }
    return {"isStream": page.is_stream, "rule": rule, "videos": [_video(curve) for curve in page.curves]}


def _video(curve: Curve) -> dict[str, Any]:
    """A video for the script. What decides on alarms keeps all its digits, so that they are the same as in Python."""
    starts = np.flatnonzero(np.diff(curve.frames, prepend=curve.frames[0] - 2) != 1)  # of runs of consecutive frames
    place = {frame: k for k, frame in enumerate(curve.frames.tolist())}
    labels = None if curve.labels is None else intervals(curve.labels)
    return {
        "name": one_line(curve.name),
        "count": len(curve.frames),
        "runs": [[int(k), int(curve.frames[k])] for k in starts],
        "seconds": _packed(curve.seconds, "<f8"),
        "calibrated": _packed(curve.calibrated, "<f8"),
        "abnormality": _packed(curve.abnormality, "<f4"),
        "psnr": _packed(curve.psnr, "<f4"),
        "distance": _packed(curve.distance, "<f4"),
        "events": labels and [[int(first), int(last)] for first, last in labels],
        "labelled": labels is not None,
        "gaps": [] if curve.gaps is None else np.flatnonzero(curve.gaps).tolist(),
        "hours": len(curve.frames) / rate_of(curve.seconds) / 3600,
        "auc": curve.auc,
        "pictures": [
            {"place": place[picture.frame], "jpeg": base64.b64encode(picture.jpeg).decode()}
            for picture in curve.pictures
        ],
        "source": curve.video and quote(os.fsencode(curve.video)),
        "path": curve.video and one_line(curve.video),
    }


def _packed(values: np.ndarray | None, kind: str) -> str | None:
    return None if values is None else base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()


def _knots(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (k,) in the sorted scores (n,) and the scores there, between which quantiles are interpolated.

    The highest scores, which the thresholds of small rates lie between, are all there; below them, of many scores some.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(values)
    from_top = np.arange(min(EXACT, count))
    if count > EXACT:
        from_top = np.union1d(from_top, np.geomspace(EXACT, count, EXACT // 2).round().astype(int) - 1)
    places = np.sort(count - 1 - from_top)
    return places, values[places]
