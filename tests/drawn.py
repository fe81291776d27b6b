"""A made-up evaluation with its frames, for the tests of what is drawn of it, and how to look at the results."""

from itertools import pairwise

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F

from exp.flags import Span
from exp.scoring.alarms import AlarmRule, Decisions, Tracker, find_alarms
from exp.scoring.evaluation import Evaluation, measure
from exp.scoring.score import Place, Scored
from utils import normality


def evaluation(lengths, labelled=True, constant=False):
    """An evaluation of videos of these lengths, frames from 4 on; the middle third of each is abnormal."""
    random = np.random.default_rng(0)
    labels = [((np.arange(n) >= n // 3) & (np.arange(n) < 2 * n // 3)).astype(np.uint8) for n in lengths]
    psnr = [np.full(len(y), 30.0) if constant else 33 + random.normal(size=len(y)) - 4 * y for y in labels]
    distance = [0.002 - p / 33000 for p in psnr]
    abnormality = [1 - normality(p, d, 0.6) for p, d in zip(psnr, distance, strict=True)]
    return Evaluation(
        videos=[f"{v + 1:02d}$" for v in range(len(lengths))],
        frames=[np.arange(n) + 4 for n in lengths],
        seconds=[(np.arange(n) + 4) / 12.5 for n in lengths],
        gaps=[np.zeros(n, dtype=bool) for n in lengths],
        psnr=psnr,
        distance=distance,
        regular=[10 ** (-p / 20) for p in psnr],
        updated=[p > 31 for p in psnr],
        psnr_of_copy=None,
        abnormality=abnormality,
        labels=labels if labelled else None,
        items=[torch.zeros(1)] * len(lengths),
        metrics=measure(labels, abnormality) if labelled else None,
    )


def decisions(found, threshold=3.0):
    """What a threshold makes of scores that are 33 - PSNR."""
    scores = [33 - p for p in found.psnr]
    rows = zip(found.frames, found.seconds, found.gaps, scores, strict=True)
    alarms = [find_alarms(*row, Tracker(threshold, Span(1, ""))) for row in rows]
    rule = AlarmRule(threshold, Span(1, ""), 0.001, np.concatenate(scores))
    return Decisions(rule, scores, alarms, None)


def frame_at(video, frame):
    return np.full((60, 90, 3), (frame * 9 % 256, 120, 60 * video), np.uint8)


def replay_of(found):
    """The frames of `found` scored again, a few at a time; frame k of a video has the error k / 1000 everywhere."""

    def replay(place):
        torch.manual_seed(place)
        for part in torch.tensor(found.frames[place]).split(7):
            target = torch.full((len(part), 3, 32, 48), 0.4)
            yield Scored(
                places=[Place(0, frame) for frame in part.tolist()],
                predicted=target + (part / 1000).sqrt().view(-1, 1, 1, 1),
                target=target,
                previous=None,
                queries=F.normalize(torch.randn(len(part), 4, 6, 16), dim=-1),
                items=F.normalize(torch.randn(len(part), 10, 16), dim=-1),
                **dict.fromkeys(("psnr", "distance", "regular", "updated"), part),
            )

    return replay


def picture(path, width, height):
    """The figure at the path, checked to have this size and to be more than a blank page."""
    image = cv2.imread(str(path))
    assert image.shape == (height, width, 3)
    assert image.std() > 5
    assert not list(path.parent.glob(".*"))  # nothing temporary stays
    return image


def differ(draw, path, size, *data):
    """Figures of different data differ."""
    figures = []
    for some in data:
        draw(path, *some)
        figures.append(picture(path, *size))
    assert all(not np.array_equal(a, b) for a, b in pairwise(figures))


def opened(path):
    """The frames of a video, (n, h, w, 3) BGR, and the time of each in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="bgr24") for frame in frames]), [frame.time for frame in frames]
