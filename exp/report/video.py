"""Annotated videos: each frame with its error as a heat map, its score, the curve of the scores and the decision.

An AnnotatedVideo takes frames one by one, from a file or a camera. It has a LiveCurve if the number of frames is
unknown, and a WholeCurve if all frames are scored already. `annotate` draws the test videos of an evaluation.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.intervals import intervals
from exp.report.encoder import VideoFile
from exp.scoring.alarms import Decisions
from exp.scoring.evaluation import Evaluation
from exp.scoring.score import Scored
from utils import progress

MIN_WIDTH, MAX_WIDTH = 640, 1280  # frames are scaled to a width between these
TEXT, CURVE = 64, 140  # heights of the two strips under the frame
AXIS, TOP, BELOW = 46, 10, 26  # the space to the left of the curve, where numbers are, above it and below it
# Okabe and Ito's colours, which colour-blind people can tell apart, in BGR
BLUE, VERMILION, BLACK, GREY, WHITE = (178, 114, 0), (0, 94, 213), (0, 0, 0), (119, 119, 119), (255, 255, 255)
SKY = (233, 180, 86)  # for masks
SHADE = (204, 223, 246)  # for labelled intervals
HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).reshape(256, 3)


class Moment(NamedTuple):
    """The data of a frame besides its picture."""

    frame: int  # its index in the video, from 0
    seconds: float  # its time; the video shows it until the time of the next one
    score: float
    label: bool | None = None  # whether it is labelled abnormal; None if it has no label
    alarm: bool | None = None  # the decision; None if there is none


class Limits(NamedTuple):
    """The vertical axis of a curve. Scores outside the limits are drawn at its ends."""

    low: float = 0
    high: float = 1
    threshold: float | None = None


class LiveCurve:
    """The scores of the last frames of a stream; the curve moves left once it has `window` frames."""

    def __init__(self, limits: Limits, window: int = 300) -> None:
        self.limits, self.window = limits, window
        self.moments: deque[Moment] = deque(maxlen=window)

    def reach(self, moment: Moment) -> int:
        """Add the next frame. Returns its index in `moments`."""
        self.moments.append(moment)
        return len(self.moments) - 1


class WholeCurve:
    """The scores of a fully scored video, from its first frame to its last."""

    def __init__(self, limits: Limits, moments: list[Moment]) -> None:
        self.limits, self.moments, self.window = limits, moments, len(moments)

    def reach(self, moment: Moment) -> int:
        """The index of a frame in `moments`."""
        return bisect_left(self.moments, moment.frame, key=lambda one: one.frame)


class AnnotatedVideo:
    """An .mp4 written frame by frame: `add` each, then `finish`. As a context manager, it is discarded on an error.

    The file appears under its name when it is finished. Squared errors from 0 to error_scale become colours from dark
    and transparent to bright and opaque, by their square root. Raises InputError when the file cannot be written.
    """

    def __init__(self, path: Path, name: str, curve: LiveCurve | WholeCurve, error_scale: float) -> None:
        self.path, self.name, self.curve, self.error_scale = path, name, curve, error_scale
        self.file: VideoFile | None = None  # opened with the first frame, which determines the size
        self.width = self.height = 0  # the size of the frame in the picture
        self.drawn: tuple[np.ndarray, np.ndarray] | None = None  # the drawing of a WholeCurve, see _draw_scores

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def add(self, picture: np.ndarray, errors: np.ndarray, moment: Moment) -> None:
        """Append a frame: picture uint8 (h, w, 3) BGR; errors float (eh, ew), the squared errors of the same view."""
        if self.file is None:
            height, width = picture.shape[:2]
            self.width = min(max(width, MIN_WIDTH), MAX_WIDTH) // 2 * 2  # H.264 needs even sides
            self.height = max(2, round(height * self.width / width / 2) * 2)
            self.file = VideoFile(self.path, self.height + TEXT + CURVE, self.width)
        self.file.add(self._draw(picture, errors, moment), moment.seconds)

    def finish(self) -> None:
        """Complete the video of the frames added so far, if any, under its name."""
        if self.file:
            self.file.finish()

    def discard(self) -> None:
        """Remove the video, unless it is finished."""
        if self.file:
            self.file.discard()

    def _draw(self, picture: np.ndarray, errors: np.ndarray, moment: Moment) -> np.ndarray:
        """Draw the picture of one frame, uint8 (height + TEXT + CURVE, width, 3)."""
        canvas = np.full((self.height + TEXT + CURVE, self.width, 3), 255, np.uint8)
        how = cv2.INTER_AREA if picture.shape[1] > self.width else cv2.INTER_CUBIC
        frame = cv2.resize(picture, (self.width, self.height), interpolation=how)
        heat = np.sqrt(np.clip(np.asarray(errors, np.float32) / self.error_scale, 0, 1))
        heat = cv2.resize(heat, (self.width, self.height))[..., None]
        colours = HEAT[(255 * heat[..., 0]).astype(np.uint8)]
        canvas[: self.height] = frame + heat * (colours.astype(np.float32) - frame)
        if moment.alarm:
            cv2.rectangle(canvas, (3, 3), (self.width - 4, self.height - 4), VERMILION, 6)
        self._write_text(canvas[self.height : self.height + TEXT], moment)
        now = self.curve.reach(moment)
        if self.drawn is None or isinstance(self.curve, LiveCurve):
            self.drawn = _draw_scores(self.curve, self.width)
        strip, points = self.drawn
        canvas[self.height + TEXT :] = strip
        _draw_position(canvas[self.height + TEXT :], points[now].tolist())
        return canvas

    def _write_text(self, strip: np.ndarray, moment: Moment) -> None:
        """Write two lines: name, frame, score and decision; label, time and the scale of the heat map."""
        _text(strip, self.name, (8, 24), limit=self.width // 4)
        _text(strip, f"frame {moment.frame}", (self.width // 4 + 20, 24))
        _text(strip, f"score {moment.score:.3f}", (self.width // 2, 24))
        _text(strip, f"{moment.seconds:.2f} s", (self.width // 4 + 20, 52))
        if moment.label is not None:
            colour = VERMILION if moment.label else BLACK
            _text(strip, f"label: {'abnormal' if moment.label else 'normal'}", (8, 52), colour)
        if moment.alarm is not None:
            colour = VERMILION if moment.alarm else BLUE
            cv2.rectangle(strip, (self.width - 118, 6), (self.width - 8, 30), colour, cv2.FILLED)
            _text(strip, "ALARM" if moment.alarm else "normal", (self.width - 63, 24), WHITE, align=0.5)
        left, right = self.width - 206, self.width - 86
        strip[40:54, left:right] = HEAT[np.linspace(0, 255, right - left).astype(np.uint8)]
        _text(strip, "squared error  0", (left - 8, 52), align=1)
        _text(strip, f"{self.error_scale:.2g}", (right + 8, 52))


def outlined(picture: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A frame, uint8 (h, w, 3) BGR, with the outline of its mask, bool of any size; the frame itself without a mask."""
    if mask is None or not mask.any():
        return picture
    marked = cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    regions, _ = cv2.findContours(marked, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), regions, -1, SKY, thickness=1 + picture.shape[1] // 320)


def _draw_scores(curve: LiveCurve | WholeCurve, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores of a curve, labelled intervals and threshold. Returns uint8 (CURVE, width, 3), and the position
    (x, y) of each score in it, (n, 2)."""
    strip = np.full((CURVE, width, 3), 255, np.uint8)
    moments, (low, high, threshold) = curve.moments, curve.limits
    left, right, top, bottom = AXIS, width - 12, TOP, CURVE - BELOW

    def x(place: float | np.ndarray) -> np.ndarray:
        return np.round(left + (right - left) * np.asarray(place) / max(curve.window - 1, 1)).astype(int)

    def y(score: float | np.ndarray) -> np.ndarray:
        return np.round(bottom - (bottom - top) * (np.clip(score, low, high) - low) / (high - low)).astype(int)

    for start, end in intervals([bool(moment.label) for moment in moments]):
        strip[top:bottom, x(start - 0.5).clip(left) : x(end + 0.5).clip(max=right) + 1] = SHADE
    for value in (low, high):
        cv2.line(strip, (left, int(y(value))), (right, int(y(value))), GREY, 1)
        _text(strip, f"{value:g}", (6, int(y(value)) + 5), GREY)
    if threshold is not None:
        for dash in range(left, right, 12):
            cv2.line(strip, (dash, int(y(threshold))), (min(dash + 6, right), int(y(threshold))), VERMILION, 1)
    scores = np.array([moment.score for moment in moments])
    points = np.stack((x(np.arange(len(scores))), y(scores)), axis=1).astype(np.int32)
    cv2.polylines(strip, [points], False, BLUE, 2, cv2.LINE_AA)
    first, is_full = moments[0].frame, len(moments) == curve.window
    _text(strip, f"frame {first}", (left, len(strip) - 7), GREY)
    last = moments[-1].frame if is_full else first + curve.window - 1
    _text(strip, f"{last}", (right, len(strip) - 7), GREY, align=1)
    return strip, points


def _draw_position(strip: np.ndarray, here: list[int]) -> None:
    """Mark the position of a frame on the drawing of the scores."""
    cv2.line(strip, (here[0], TOP), (here[0], len(strip) - BELOW), BLACK, 1)
    cv2.circle(strip, here, 5, BLACK, cv2.FILLED, cv2.LINE_AA)


def _text(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    colour: tuple[int, int, int] = BLACK,
    limit: int | None = None,
    align: float = 0,
) -> None:
    """Write a text with its left end (align 0), middle (0.5) or right end (1) at `place`.

    A text wider than `limit` is cut. The font has only ASCII characters.
    """
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.58, 1)
    text = text.encode("ascii", "replace").decode()
    while limit and cv2.getTextSize(text, *font)[0][0] > limit:
        text = text[:-3] + ".."
    left = place[0] - round(align * cv2.getTextSize(text, *font)[0][0])
    cv2.putText(picture, text, (left, place[1]), font[0], font[1], colour, font[2], cv2.LINE_AA)


# The test videos of an evaluation -------------------------------------------------------------------------------------


def whole_curve(result: Evaluation, decisions: Decisions | None, video: int) -> WholeCurve:
    """The curve of a test video: the calibrated scores if there are decisions, otherwise its abnormality."""
    scores = decisions.scores[video] if decisions else result.abnormality[video]
    threshold = decisions.threshold if decisions else None
    labels = result.labels[video] if result.labels else None
    spans = [(alarm.start, alarm.end) for alarm in decisions.alarms[video]] if decisions else []
    moments = [
        Moment(
            frame=frame,
            seconds=float(result.seconds[video][k]),
            score=float(score),
            label=None if labels is None else bool(labels[k]),
            alarm=any(start <= frame <= end for start, end in spans) if decisions else None,
        )
        for k, (frame, score) in enumerate(zip(result.frames[video].tolist(), scores, strict=True))
    ]
    if threshold is None:
        return WholeCurve(Limits(), moments)
    low, high = math.floor(min(scores.min(), threshold)), math.ceil(max(scores.max(), threshold))
    return WholeCurve(Limits(low, max(high, low + 1), threshold), moments)


def annotate(
    path: Path,
    name: str,
    curve: WholeCurve,
    stream: Iterable[Scored],
    frame_at: Callable[[int], np.ndarray],
    error_scale: float,
) -> None:
    """Write the annotated video of a test video.

    stream: its frames, scored again; frame_at: index of a frame -> uint8 (h, w, 3) BGR, of any size.
    """
    moments = iter(curve.moments)
    with AnnotatedVideo(path, name, curve, error_scale) as out:
        for scored in stream:
            errors = (scored.predicted - scored.target).square().mean(dim=1).float().cpu().numpy()  # (n, H, W)
            for error in errors:
                moment = next(moments)
                out.add(frame_at(moment.frame), error, moment)


def annotate_all(
    directory: Path,
    result: Evaluation,
    decisions: Decisions | None,
    replay: Callable[[int], Iterator[Scored]],
    frame_at: Callable[[int, int], np.ndarray],
) -> None:
    """Write <directory>/<video>.mp4 for each test video.

    replay: index of a video in `result.videos` -> its frames, scored again; frame_at: index of a video, index of a
    frame in it -> uint8 (h, w, 3) BGR. The colours of the errors end at the highest regular score of all videos: a mean
    that large errors dominate, and so a typical error of a badly predicted region.
    """
    error_scale = max(float(np.max(values)) for values in result.regular) or 1.0
    for video, name in enumerate(progress("annotating", "video", result.videos)):
        curve = whole_curve(result, decisions, video)
        path, pictures = directory / f"{name}.mp4", partial(frame_at, video)
        annotate(path, f"video {name}", curve, replay(video), pictures, error_scale)
