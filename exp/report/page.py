"""report.html: an evaluation or a watched stream as one page that any current browser opens, offline.

The page contains the scores of all frames and pictures of the highest peaks, and plays the annotated videos beside it.
The threshold can be moved, and alarms and metrics follow: assets/alarms.js computes the same as exp/scoring/alarms.py,
and tests compare the two.

assets/ contains a Jinja2 template, which escapes all values, a style sheet and scripts. The data is JSON in a script
element that is not run and contains no `<` that could end it. A content security policy allows only this style sheet
and this script, by their digests.
"""

import base64
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.intervals import intervals
from exp.report.files import MOSTLY
from exp.scoring.alarms import AlarmRule
from exp.scoring.evaluation import hours_of
from utils import one_line, write_text

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("alarms.js", "plot.js", "section.js", "page.js")
PICTURE_WIDTH, PICTURE_QUALITY = 240, 75
EXACT = 2048  # this many of the highest scores of a calibration are all kept


class Result(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: float  # in [0, 1]
    low: float | None = None  # the ends of its interval
    high: float | None = None
    note: str = ""


class Picture(NamedTuple):
    """A frame shown on the page."""

    frame: int
    jpeg: bytes  # see `thumbnail`


class Curve(NamedTuple):
    """A video on the page. Arrays have one value per frame that has a score, (n,)."""

    name: str
    frames: np.ndarray  # index in the video
    seconds: np.ndarray
    gaps: np.ndarray  # bool, whether there is a gap in time before the frame, which no alarm spans
    psnr: np.ndarray
    distance: np.ndarray
    abnormality: np.ndarray | None  # min-max over the video; None for a stream
    calibrated: np.ndarray | None  # None without a calibration
    labels: np.ndarray | None
    auc: float | None
    pictures: list[Picture]
    video: str  # the path of its annotated video, relative to the page, if there is one
    video_start: float | None = None  # the time of its first frame, if that is not among these frames


class Page(NamedTuple):
    """The content of report.html."""

    title: str
    results: list[Result]
    remarks: list[str]  # notes on the results
    about: Mapping[str, Any]  # the origin of the results
    rule: AlarmRule | str  # or why there is none
    curves: list[Curve]
    is_stream: bool = False


def thumbnail(picture: np.ndarray) -> bytes:
    """A small JPEG of a picture, uint8 (h, w, 3) BGR."""
    height, width = picture.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width, 2 * PICTURE_WIDTH / height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])[1].tobytes()


def write_page(path: Path, page: Page) -> None:
    """Write report.html, with the annotated videos that exist. Raises InputError when it cannot be written."""
    style, script = ("".join((ASSETS / name).read_text("utf-8") for name in names) for names in (["page.css"], SCRIPTS))
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    videos = [_video(path.parent, curve) for curve in page.curves]
    rule = _rule(page.rule) if isinstance(page.rule, AlarmRule) else None
    html = environment.get_template("page.html").render(
        page=page,
        facts=_facts(page.about),
        has_rule=rule is not None,
        has_labels=any(curve.labels is not None for curve in page.curves),
        has_videos=any(video["source"] for video in videos),
        frames=sum(len(curve.frames) for curve in page.curves),
        data={"isStream": page.is_stream, "rule": rule, "videos": videos},
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
    )
    write_text(path, html)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    """The origin of the page as text, and the date."""
    found = {}
    for name, value in about.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {one}" for key, one in value.items() if one is not None)
        if value not in (None, ""):
            found[name] = one_line(str(value))
    return {**found, "date": time.strftime("%Y-%m-%d %H:%M")}


# The data for the script: plain JSON, with arrays as base64 of their little-endian bytes ------------------------------


def _rule(rule: AlarmRule) -> dict[str, Any]:
    places, values = _knots(rule.own_scores)
    return {
        "threshold": rule.threshold,
        "rate": rule.false_alarm_rate,
        "gap": rule.merge_gap.amount,
        "gapUnit": rule.merge_gap.unit,
        "places": _packed(places, "<u4"),
        "values": _packed(values, "<f8"),
        "mostly": MOSTLY,
    }


def _video(folder: Path, curve: Curve) -> dict[str, Any]:
    """The data of a video. Values that decide on alarms keep all digits, so that alarms are the same as in Python."""
    starts = np.flatnonzero(np.diff(curve.frames, prepend=curve.frames[0] - 2) != 1)  # of runs of consecutive frames
    place = {frame: k for k, frame in enumerate(curve.frames.tolist())}
    has_video = (folder / curve.video).is_file()
    return {
        "name": one_line(curve.name),
        "count": len(curve.frames),
        "runs": [[int(k), int(curve.frames[k])] for k in starts],
        "seconds": _packed(curve.seconds, "<f8"),
        "calibrated": _packed(curve.calibrated, "<f8"),
        "abnormality": _packed(curve.abnormality, "<f4"),
        "psnr": _packed(curve.psnr, "<f4"),
        "distance": _packed(curve.distance, "<f4"),
        "labelled": curve.labels is not None,
        "events": [] if curve.labels is None else [list(map(int, event)) for event in intervals(curve.labels)],
        "gaps": np.flatnonzero(curve.gaps).tolist(),
        "hours": hours_of(curve.seconds, curve.gaps),
        "auc": curve.auc,
        "pictures": [
            {"place": place[picture.frame], "jpeg": base64.b64encode(picture.jpeg).decode()}
            for picture in curve.pictures
        ],
        "source": quote(os.fsencode(curve.video)) if has_video else None,
        "start": float(curve.seconds[0]) if curve.video_start is None else curve.video_start,
        "path": one_line(curve.video),
    }


def _packed(values: np.ndarray | None, kind: str) -> str | None:
    return None if values is None else base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()


def _knots(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (k,) into the sorted scores (n,) and the scores there, between which quantiles are interpolated.

    All of the highest scores are included, since the thresholds of small rates lie there; of many others, only some.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(values)
    sparse = np.geomspace(1, count, EXACT // 2).round().astype(int) - 1
    places = np.unique([*range(max(0, count - EXACT), count), *sparse, *(count - 1 - sparse)])
    return places, values[places]
