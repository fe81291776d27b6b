"""The file report.html: what exp.report.page has, as one page of HTML that asks for nothing.

Its parts stand in assets/: a Jinja2 template, which escapes all that it is given, a style sheet and scripts. The data
is JSON in a script element that is not run, and holds no `<` that could end it. A content security policy allows this
style sheet and this script alone, by their digests.
"""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data.labels import intervals
from exp.report.files import MOSTLY
from exp.report.page import AlarmRule, Curve, Page
from exp.scoring.evaluation import rate_of
from utils import one_line, write_text

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("alarms.js", "plot.js", "section.js", "page.js")
EXACT = 2048  # that many of the highest scores of a calibration are kept as they are


def write_page(path: Path, page: Page) -> None:
    """Write report.html whole. Raises InputError where it cannot be written."""
    style, script = (
        (ASSETS / "page.css").read_text("utf-8"),
        "".join((ASSETS / s).read_text("utf-8") for s in SCRIPTS),
    )
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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

    The highest scores, which the thresholds of small rates lie between, are all there; of the others, if many, some.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(values)
    sparse = np.geomspace(1, count, EXACT // 2).round().astype(int) - 1
    places = np.unique([*range(max(0, count - EXACT), count), *sparse, *(count - 1 - sparse)])
    return places, values[places]
