"""What report.html shows: an evaluation, or a watched stream, as one page that any current browser opens offline.

The page holds the scores of all frames and pictures of the highest peaks, and plays the annotated videos where they lie
beside it. Its threshold can be moved, and alarms and measures follow: assets/alarms.js does what exp/scoring/alarms.py
does, and tests hold the two together. exp/report/page_file.py writes it:

    write_page(path, page_of_evaluation(result, decisions, rule, about, frame_at, "videos"))
    write_page(path, page_of_stream(name, scores, rule, about, pictures, "annotated.mp4"))
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from exp.flags import Span
from exp.report.files import metric_lines
from exp.report.score_curves import peaks
from exp.scoring.alarms import Decisions
from exp.scoring.calibration import Calibration
from exp.scoring.evaluation import Evaluation, auc_by_video
from exp.scoring.score import Scoring
from utils import one_line

STREAM_FRAMES = 200_000  # the page of a stream shows so many at most, the last ones: it stays below 10 MB
STREAM_PICTURES = 200  # and so many pictures, those of the highest scores
PICTURE_WIDTH, PICTURE_QUALITY = 240, 75
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
