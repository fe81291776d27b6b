"""The output of an evaluation: its files (exp.run.RESULTS), its figures and its lines on the terminal."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.masks import mask_at
from data.pictures import read_picture
from exp.report.files import FurtherMetrics, alarm_lines, metric_lines, write_alarms, write_evaluation, write_scores
from exp.report.page import write_page
from exp.report.video import annotate_all, outlined
from exp.scoring.alarms import Decisions
from exp.scoring.evaluation import Evaluation
from exp.scoring.score import Scored
from exp.scoring.split import Split


class Found(NamedTuple):
    """Everything that an evaluation has computed."""

    result: Evaluation
    decisions: Decisions | str  # the alarms of a calibrated threshold, or why there is none
    further: FurtherMetrics
    about: dict[str, Any]  # data, model, settings and environment, for evaluation.json

    @property
    def decided(self) -> Decisions | None:
        return None if isinstance(self.decisions, str) else self.decisions


class DrawOptions(NamedTuple):
    """What to draw for an evaluation."""

    figures: bool  # figures and report.html
    videos: bool  # annotated videos
    format: str  # of the figures, one of exp.flags.FIGURE_FORMATS


def write_results(directory: Path, found: Found) -> None:
    """Write scores.csv, evaluation.json and, if there is a calibrated threshold, alarms.csv."""
    if found.decided:
        write_alarms(directory / "alarms.csv", found.result.videos, found.decided.alarms)
    write_scores(directory / "scores.csv", found.result)
    write_evaluation(directory / "evaluation.json", found.result, found.decided, found.about, found.further)


def draw_results(
    directory: Path, found: Found, split: Split, replay: Callable[[int], Iterator[Scored]], options: DrawOptions
) -> None:
    """Write annotated videos, figures and report.html, if the options ask for them.

    replay: scores a video again; it takes the index of the video in `found.result.videos`.
    """
    result, frame_at = found.result, partial(outlined_frame, split)
    if options.videos:
        annotate_all(directory / "videos", result, found.decided, replay, frame_at)
    if options.figures:
        from exp.report.curves import draw_evaluation  # here, as matplotlib takes a second to import
        from exp.report.page_evaluation import page_of_evaluation
        from exp.report.style import Look

        look = Look(split.chosen, found.about["unlike_the_paper"], options.format, split.masks)
        draw_evaluation(directory / "figures", result, found.decided, replay, frame_at, look)
        page = page_of_evaluation(result, found.decisions, found.about, found.further, frame_at)
        write_page(directory / "report.html", page)


def outlined_frame(split: Split, video: int, frame: int) -> np.ndarray:
    """A frame with the outline of its mask, uint8 (h, w, 3) BGR; video: its index in split.clips.videos."""
    of = split.clips.videos[video]
    return outlined(read_picture(of.path(frame)), mask_at(split.masks, of.name, frame))


def summary(found: Found, directory: Path, options: DrawOptions) -> list[str]:
    """The lines that Evaluate.py prints at the end; directory: where the results are."""
    frames, videos = sum(map(len, found.result.frames)), len(found.result.videos)
    lines = [f"scores of {frames} frames of {videos} video{'s' * (videos > 1)}: {directory / 'scores.csv'}"]
    lines += metric_lines(found.result, found.further, found.about["unlike_the_paper"])
    lines += alarm_lines(found.decided) if found.decided else [f"no calibrated threshold: {found.decisions}"]
    lines += [f"figures: {directory / 'figures'}"] * options.figures
    lines += [f"annotated videos: {directory / 'videos'}"] * options.videos
    lines += [f"report: {directory / 'report.html'}"] * options.figures
    return lines
