"""report.html of a watched file, camera or stream, and the scores and pictures that are kept for it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.stream import Frame
from exp.report.files import clock
from exp.report.page import Curve, Page, Picture, thumbnail
from exp.scoring.alarms import Alarm, AlarmRule

FRAMES = 200_000  # of a long stream, only the last frames are shown, so that the page stays below 10 MB
PICTURES = 200  # and only the alarms with the highest scores have pictures
FIELDS = ("frame", "seconds", "psnr", "distance", "score", "gap")
ROW = np.dtype({"names": FIELDS, "formats": ("i8", "f8", "f8", "f8", "f8", "?")})


class History:
    """The scores of the last FRAMES frames of a stream, and a picture of the peak of each alarm."""

    def __init__(self) -> None:
        self.rows = np.zeros(FRAMES, ROW)  # frame k is in row k % FRAMES
        self.count = 0
        self.start, self.began = 0.0, ""  # the time of the first frame, and when a live source gave it
        # first frame of an alarm -> its highest score and the picture of its peak
        self.pictures: dict[int, tuple[float, Picture]] = {}

    def add(self, frame: Frame, psnr: float, distance: float, score: float, alarm: Alarm | None) -> None:
        """Add a frame, its scores, and the current alarm or None."""
        if not self.count:
            self.start, self.began = frame.seconds, clock(frame)
        self.rows[self.count % FRAMES] = frame.index, frame.seconds, psnr, distance, score, frame.gap
        self.count += 1
        if alarm and alarm.peak == frame.index:
            self.pictures[alarm.start] = alarm.score, Picture(frame.index, thumbnail(frame.picture))
            if len(self.pictures) > PICTURES:
                del self.pictures[min(self.pictures, key=lambda start: self.pictures[start][0])]

    def page(self, name: str, rule: AlarmRule, about: Mapping[str, Any], video: str) -> Page:
        """The page of the frames so far, at least one; video: the path of the annotated video, relative to the page."""
        rows = np.roll(self.rows, -self.count) if self.count > FRAMES else self.rows[: self.count]
        frames, seconds, psnr, distance, scores, gaps = (rows[field] for field in FIELDS)
        curve = Curve(
            name=name,
            frames=frames,
            seconds=seconds,
            gaps=gaps,
            psnr=psnr,
            distance=distance,
            abnormality=None,
            calibrated=scores,
            labels=None,
            auc=None,
            pictures=[picture for _, picture in self.pictures.values() if picture.frame >= frames[0]],
            video=video,
            video_start=self.start,
        )
        remarks = []
        if len(rows) < self.count:
            count = f"the last {len(rows):,} of {self.count:,} frames"
            remarks.append(f"{count}: scores.csv and alarms.csv beside this page contain all")
        about = {**about, "first frame": self.began}
        return Page(name, [], remarks, about, rule, [curve], is_stream=True)
