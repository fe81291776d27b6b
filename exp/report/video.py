"""Annotated video: each frame with its error as heat, its score, the curve of scores so far and the decision.

AnnotatedVideo takes frames one by one, from a file or a camera, without knowing how many will come; `annotate` draws a
test video that is scored already, with its whole curve.
"""

import math
import os
from collections import deque
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.labels import intervals
from data.stream import quiet
from utils import InputError

MIN_WIDTH, MAX_WIDTH = 640, 1280  # frames are enlarged or shrunk to a width between
TEXT, CURVE = 64, 140  # heights of the two strips under the frame
AXIS = 46  # width of the numbers left of the curve
# Okabe and Ito's colours, which colour-blind people can tell apart, in BGR
BLUE, VERMILION, BLACK, GREY, WHITE = (178, 114, 0), (0, 94, 213), (0,) * 3, (119,) * 3, (255,) * 3
CODECS = ("avc1", "mp4v")  # H.264 plays everywhere; OpenCV's own wheels lack it, and MPEG-4 plays outside browsers
HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).reshape(256, 3)


class AnnotatedVideo:
    """An .mp4 written frame by frame: `add` each, then `close`; or a with block, which discards the video on an error.

    The file appears under its name when it is closed and whole. Errors up to error_scale become colours from dark and
    transparent to bright and opaque, by their square root. The curve shows scores in score_range (others are drawn at
    its ends) of the last `window` frames; whole=(scores, labels or None) shows a known curve from start to end instead.
    first is the number of the first frame. Raises InputError when the file cannot be written.
    """

    def __init__(
        self, path, name, fps, error_scale, threshold=None, score_range=(0, 1), window=300, whole=None, first=0
    ):
        self.path, self.name, self.fps = Path(path), name, fps
        self.error_scale, self.threshold, self.score_range = error_scale, threshold, score_range
        self.whole, self.window, self.first = whole, window if whole is None else len(whole[0]), first
        self.scores, self.labels = deque(maxlen=self.window), deque(maxlen=self.window)
        self.count = 0  # frames so far
        self.writer = None  # opened with the first frame, which tells the size
        self.temporary = self.path.with_name(f".{self.path.stem}.part.mp4")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()
        else:
            self.discard()

    def add(self, frame, error_map, score, label=None, alarm=None):
        """frame: uint8 (h, w, 3) BGR; error_map: (eh, ew) squared errors, float, for the same view; score: a number.

        label: 1 abnormal, 0 normal, None unknown; alarm: what was decided, True or False, None nothing.
        """
        if self.writer is None:
            self._open(*frame.shape[:2])
        self.scores.append(score)
        self.labels.append(label)
        with quiet():
            self.writer.write(self._draw(frame, error_map, score, label, alarm))
        self.count += 1

    def discard(self):
        """End without a video."""
        if self.writer is not None:
            self.writer.release()
            self.temporary.unlink(missing_ok=True)

    def close(self):
        """End the video and give it its name. Raises InputError when it is not whole: a full disk shows only now."""
        if self.writer is None:
            raise InputError(f"no frame came for {self.path}: no video is written")
        with quiet():
            self.writer.release()
            video = cv2.VideoCapture(str(self.temporary), cv2.CAP_FFMPEG)
            video.set(cv2.CAP_PROP_POS_FRAMES, self.count - 1)
            whole = video.get(cv2.CAP_PROP_FRAME_COUNT) == self.count and video.read()[0]
            video.release()
        if not whole:
            self.temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write {self.path}: not all of {self.count} frames are there; is the disk full?")
        try:
            os.replace(self.temporary, self.path)
        except OSError as error:
            self.temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write {self.path}: {error.strerror}") from error

    def _open(self, height, width):
        self.width = min(max(width, MIN_WIDTH), MAX_WIDTH) // 2 * 2  # codecs want even sides
        self.height = max(2, round(height * self.width / width / 2) * 2)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path.parent}: {error.strerror}") from error
        size = (self.width, self.height + TEXT + CURVE)
        for codec in CODECS:
            with quiet():
                fourcc = cv2.VideoWriter_fourcc(*codec)
                self.writer = cv2.VideoWriter(str(self.temporary), cv2.CAP_FFMPEG, fourcc, self.fps, size)
            if self.writer.isOpened():
                return
        self.discard()
        raise InputError(f"cannot write {self.path}: {' and '.join(CODECS)} do not open there at {self.fps} fps")

    def _draw(self, frame, error_map, score, label, alarm):
        """The picture of one frame, uint8 (height + TEXT + CURVE, width, 3)."""
        canvas = np.full((self.height + TEXT + CURVE, self.width, 3), 255, np.uint8)
        shrinks = frame.shape[1] > self.width
        frame = cv2.resize(
            frame, (self.width, self.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
        heat = np.sqrt(np.clip(np.asarray(error_map, np.float32) / self.error_scale, 0, 1))
        heat = cv2.resize(heat, (self.width, self.height))[..., None]
        colours = HEAT[(255 * heat[..., 0]).astype(np.uint8)]
        canvas[: self.height] = frame + heat * (colours.astype(np.float32) - frame)
        if alarm:
            cv2.rectangle(canvas, (3, 3), (self.width - 4, self.height - 4), VERMILION, 6)
        self._write_text(canvas[self.height : self.height + TEXT], score, label, alarm)
        self._draw_curve(canvas[self.height + TEXT :])
        return canvas

    def _write_text(self, strip, score, label, alarm):
        """Two lines: video, frame, score and the decision; label and the scale of the heat."""
        _text(strip, self.name, (8, 24), limit=self.width // 4)
        _text(strip, f"frame {self.first + self.count}", (self.width // 4 + 20, 24))
        _text(strip, f"score {score:.3f}", (self.width // 2, 24))
        if label is not None:
            _text(strip, f"label: {'abnormal' if label else 'normal'}", (8, 52), VERMILION if label else BLACK)
        if alarm is not None:
            cv2.rectangle(strip, (self.width - 118, 6), (self.width - 8, 30), VERMILION if alarm else BLUE, cv2.FILLED)
            _text(strip, "ALARM" if alarm else "normal", (self.width - 63, 24), WHITE, align=0.5)
        left, right = self.width - 206, self.width - 86
        strip[40:54, left:right] = HEAT[np.linspace(0, 255, right - left).astype(np.uint8)]
        _text(strip, "squared error  0", (left - 8, 52), align=1)
        _text(strip, f"{self.error_scale:.2g}", (right + 8, 52))

    def _draw_curve(self, strip):
        """The curve of scores with labelled intervals, threshold, and the place of this frame."""
        scores, labels = self.whole or (self.scores, self.labels)
        begin = 0 if self.whole else self.count + 1 - len(scores)  # frames before the left end of the curve
        left, right, top, bottom = AXIS, self.width - 12, 10, len(strip) - 26
        low, high = self.score_range

        def x(k):
            return np.round(left + (right - left) * np.asarray(k) / max(self.window - 1, 1)).astype(int)

        def y(value):
            return np.round(bottom - (bottom - top) * (np.clip(value, low, high) - low) / (high - low)).astype(int)

        known = [] if labels is None else [bool(label) for label in labels]
        for start, end in intervals(known):
            strip[top:bottom, x(start - 0.5).clip(left) : x(end + 0.5).clip(max=right) + 1] = (204, 223, 246)
        for value in (low, high):
            cv2.line(strip, (left, int(y(value))), (right, int(y(value))), GREY, 1)
            _text(strip, f"{value:g}", (6, int(y(value)) + 5), GREY)
        if self.threshold is not None:
            level = int(y(self.threshold))
            for dash in range(left, right, 12):
                cv2.line(strip, (dash, level), (min(dash + 6, right), level), VERMILION, 1)
        points = np.stack((x(np.arange(len(scores))), y(np.array(scores))), axis=1).astype(np.int32)
        now = points[self.count if self.whole else -1]
        cv2.polylines(strip, [points], False, BLUE, 2, cv2.LINE_AA)
        cv2.line(strip, (int(now[0]), top), (int(now[0]), bottom), BLACK, 1)
        cv2.circle(strip, now.tolist(), 5, BLACK, cv2.FILLED, cv2.LINE_AA)
        _text(strip, f"frame {self.first + begin}", (left, len(strip) - 7), GREY)
        _text(strip, f"{self.first + begin + self.window - 1}", (right, len(strip) - 7), GREY, align=1)


def annotate(path, result, video, stream, frame_at, fps=25, threshold=None, score_range=(0, 1), error_scale=None):
    """The annotated video of a scored test video; frames above `threshold` are alarms.

    result: exp.scoring.evaluation.Evaluation; video: place in result.videos; stream: its frames scored again, an iterator of
    exp.scoring.score.Scored; frame_at(video, index of a frame) -> uint8 (h, w, 3) BGR. error_scale is by default the highest
    regular score of all videos: a mean that large errors dominate, hence what a badly predicted region looks like.
    """
    scores, labels = result.abnormality[video], None if result.labels is None else result.labels[video]
    if error_scale is None:
        error_scale = max(float(np.max(values)) for values in result.regular) or 1.0
    first, k = int(result.frames[video][0]), 0
    name, whole = f"video {result.videos[video]}", (scores, labels)
    with AnnotatedVideo(path, name, fps, error_scale, threshold, score_range, whole=whole, first=first) as out:
        for scored in stream:
            errors = (scored.predicted - scored.target).square().mean(dim=1).float().cpu().numpy()  # (n, H, W)
            for error in errors:
                label = None if labels is None else labels[k]
                alarm = None if threshold is None else bool(scores[k] > threshold)
                out.add(frame_at(video, first + k), error, scores[k], label, alarm)
                k += 1


def annotate_all(directory, result, decided, replay, frame_at, fps):
    """<directory>/<video>.mp4 of each test video: with its abnormality or, if `decided`, the scores that gave alarms.

    decided: exp.scoring.alarms.Decided or None; replay: place of a video -> its frames scored again; the rest as in `annotate`.
    """
    threshold, limits = None, (0, 1)
    if decided:
        threshold, result = decided.threshold, result._replace(abnormality=decided.scores)
    for video, name in enumerate(tqdm(result.videos, desc="annotating", unit="video")):
        if decided:
            scores = [*decided.scores[video], threshold]
            limits = math.floor(min(scores)), math.ceil(max(scores))
        annotate(directory / f"{name}.mp4", result, video, replay(video), frame_at, fps, threshold, limits)


def _text(picture, text, place, colour=BLACK, limit=None, align=0):
    """Write with the left end (align 0), middle (0.5) or right end (1) of the line at `place`, cut where it is wider
    than `limit`. The font has ASCII only."""
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.58, 1)
    text = text.encode("ascii", "replace").decode()
    while limit and cv2.getTextSize(text, *font)[0][0] > limit:
        text = text[:-3] + ".."
    left = place[0] - round(align * cv2.getTextSize(text, *font)[0][0])
    cv2.putText(picture, text, (left, place[1]), font[0], font[1], colour, font[2], cv2.LINE_AA)
