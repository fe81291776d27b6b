"""report.html of an evaluation: its metrics, and the curve of each test video."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from exp.report.files import FurtherMetrics, frame_lines, pixel_lines
from exp.report.page import Curve, Page, Picture, Result, thumbnail
from exp.report.score_curves import peaks
from exp.scoring.alarms import Decisions
from exp.scoring.evaluation import Evaluation, auc_by_video
from utils import one_line


def page_of_evaluation(
    result: Evaluation,
    decisions: Decisions | str,
    about: Mapping[str, Any],
    further: FurtherMetrics,
    frame_at: Callable[[int, int], np.ndarray],
) -> Page:
    """The page of an evaluated data set.

    decisions: the decisions of its calibration, or why there are none; about: the origin of the results, as in
    evaluation.json; frame_at: index of a video, index of a frame in it -> uint8 (h, w, 3) BGR. Annotated videos are
    expected in the folder `videos` beside the page.
    """
    decided = None if isinstance(decisions, str) else decisions
    aucs = auc_by_video(result)
    curves = []
    for video, name in enumerate(result.videos):
        calibrated = decided.scores[video] if decided else None
        shown = peaks(result.abnormality[video] if calibrated is None else calibrated)
        frames = [int(result.frames[video][k]) for k in shown]
        curves.append(
            Curve(
                name=name,
                frames=result.frames[video],
                seconds=result.seconds[video],
                gaps=result.gaps[video],
                psnr=result.psnr[video],
                distance=result.distance[video],
                abnormality=result.abnormality[video],
                calibrated=calibrated,
                labels=result.labels[video] if result.labels else None,
                auc=aucs[name],
                pictures=[Picture(frame, thumbnail(frame_at(video, frame))) for frame in frames],
                video=f"videos/{name}.mp4",
            )
        )
    others = dict(about)
    name, labels, unlike = (others.pop(key) for key in ("dataset_type", "avenue_labels", "unlike_the_paper"))
    facts = {"data set": name, "labels": labels if name == "avenue" else None, **others}
    remarks = [f"unlike the paper: {unlike}"] if unlike else []
    unlabelled = sum(labels is None for labels in result.labels or [])
    if result.metrics and unlabelled:
        what = "AUC, precision, recall, events and false alarms per hour leave them out"
        remarks.append(f"{unlabelled} of {len(result.videos)} videos are unlabelled: {what}")
    if not result.metrics:
        remarks += frame_lines(result, further.protocols)
    if not (further.pixels and further.pixels.error is not None):
        remarks += pixel_lines(further)
    rule = decisions if isinstance(decisions, str) else decisions.rule
    return Page(one_line(name), _results(result, further), remarks, facts, rule, curves)


def _results(result: Evaluation, further: FurtherMetrics) -> list[Result]:
    """The known metrics, the most important first."""
    metrics, pixels, (network, copy) = result.metrics, further.pixels, further.protocols
    found = []
    if metrics:
        found.append(Result("AUC", *network["published"], "min–max in each video"))
        if "calibrated" in network:
            found.append(Result("AUC, calibrated", *network["calibrated"], "without min–max"))
        if copy:
            found.append(Result("AUC of copying", *copy["published"], "the previous frame is the prediction"))
        found.append(Result("EER", metrics.eer))
        found.append(Result("average precision", metrics.average_precision))
        if metrics.macro_auc is not None:
            note = f"mean over {metrics.macro_videos} of {len(result.videos)} videos"
            found.append(Result("macro AUC", *network["macro"], note))
    if pixels and pixels.error is not None:
        others = {"feature distance": pixels.distance, "copying": pixels.error_of_copy}
        known = [f"of {name} {100 * value:.2f} %" for name, value in others.items() if value is not None]
        found.append(Result("pixel AUC", pixels.error, note="; ".join(["of the squared error", *known])))
    return found
