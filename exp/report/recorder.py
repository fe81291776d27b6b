"""What is written while a stream is watched: scores.csv and alarms.csv row by row, and an annotated video.

A score is the calibrated abnormality (exp/scoring/calibration.py), smoothed over earlier frames where that is asked
for; frames above the threshold form alarms. What was scored is kept whatever ends it: the last frame, Ctrl-C, a stream
that drops or a full disk.
"""

import contextlib
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from data.stream import Stream
from exp.flags import Span
from exp.report.files import ALARMS, WATCHED, Table, alarm_row, watched_row
from exp.report.video import AnnotatedVideo, Limits, LiveCurve, Moment
from exp.scoring.alarms import Alarm, Tracker
from exp.scoring.calibration import Calibration
from exp.scoring.score import Scored, Scoring
from exp.scoring.watch import watch
from model.convae import ConvAE
from utils import InputError, progress, smooth, smoothing_reach


class Recorder:
    """Decides on frames that come one by one, and writes what comes of it to a directory.

    alarm: the threshold, and the gap over which alarms are joined, see exp.scoring.alarms.Tracker.
    """

    def __init__(
        self,
        directory: Path,
        stream: Stream,
        calibration: Calibration,
        scoring: Scoring,
        alarm: tuple[float, Span],
        save_video: bool = False,
    ) -> None:
        self.directory, self.stream, self.calibration, self.scoring = directory, stream, calibration, scoring
        self.tracker = Tracker(*alarm)
        self.sigma = scoring.sigma.frames(stream.fps) if scoring.sigma else None
        # all that a smoothed score depends on
        self.recent: deque[float] = deque(maxlen=1 + smoothing_reach(self.sigma) if self.sigma else 1)
        self.video: AnnotatedVideo | None = self._open_video() if save_video else None
        self.no_video: InputError | None = None  # why it cannot be written
        self.count = self.alarms = 0
        self.score_table = Table(directory / "scores.csv", WATCHED)
        self.alarm_table = Table(directory / "alarms.csv", ALARMS)

    def _open_video(self) -> AnnotatedVideo:
        heat = 3 * self.calibration.auto_th()  # errors beyond those of normal frames are bright
        limits = Limits(-2, max(10, round(6 * self.threshold)), self.threshold)  # most normal frames are from -2 to 2
        return AnnotatedVideo(self.directory / "annotated.mp4", self.stream.name, LiveCurve(limits), heat)

    @property
    def threshold(self) -> float:
        return self.tracker.threshold

    def add(self, scored: Scored) -> float:
        """Take the next frames, and return the score of the last."""
        p, d, e, updated = (x.cpu().numpy() for x in (scored.psnr, scored.distance, scored.regular, scored.updated))
        alone = self.calibration.abnormality(p, d, self.scoring.alpha)
        if self.video:
            errors = (scored.predicted - scored.target).square().mean(dim=1).float().cpu().numpy()  # (n, H, W)
        rows, now = [], 0.0
        for k, (_, index, seen) in enumerate(scored.places):
            self.recent.append(alone[k])
            now = float(smooth(self.recent, self.sigma, causal=True)[-1] if self.sigma else alone[k])
            alarm = now > self.threshold
            self._report(self.tracker.add(index, seen.seconds, now))
            rows.append(watched_row(index, seen.seconds, p[k], d[k], e[k], updated[k], now, alarm))
            if self.video:
                self._annotate(seen.picture, errors[k], Moment(index, seen.seconds, now, alarm=alarm))
        self.score_table.add(*rows)
        self.count += len(rows)
        return now

    def _annotate(self, picture: np.ndarray, errors: np.ndarray, moment: Moment) -> None:
        """Add a frame to the video. One that cannot be written ends nothing else: `finish` raises it."""
        try:
            if self.video:
                self.video.add(picture, errors, moment)
        except InputError as error:
            self.video, self.no_video = None, error

    def _report(self, alarm: Alarm | None) -> None:
        if alarm:
            self.alarms += 1
            times = f"{alarm.start_seconds:.1f} to {alarm.end_seconds:.1f} s, frames {alarm.start} to {alarm.end}"
            tqdm.write(f"alarm: {times}, highest score {alarm.score:.4g} at frame {alarm.peak}")
            self.alarm_table.add(alarm_row(self.stream.name, alarm))

    def finish(self) -> None:
        """End the alarm that is under way, and the video. Raises InputError when these cannot be written."""
        self._report(self.tracker.finish())
        if self.video:
            self.video.finish()
        if self.no_video:
            raise self.no_video

    def close(self) -> None:
        """Close the files; a video that is not finished is gone."""
        self.score_table.close()
        self.alarm_table.close()
        if self.video:
            self.video.discard()


def record(recorder: Recorder, model: ConvAE, items: Tensor, shape: dict[str, Any], batch_size: int) -> None:
    """Score the frames of the recorder's stream as they come, and record what is found; see exp.scoring.watch.

    Raises InputError when the stream was not whole or something cannot be written: what was scored by then is kept.
    Ctrl-C is the usual end of a live stream; while a file is scored it is raised again.
    """
    stream, problem, interrupted = recorder.stream, None, False
    total = stream.announced and max(0, stream.announced - shape["t_length"] + 1)
    start = time.monotonic()
    with contextlib.closing(stream), contextlib.closing(recorder):
        try:
            with progress(stream.shown, "frame", total=total) as bar:
                for scored in watch(model, items, shape, stream, recorder.scoring, batch_size):
                    last = recorder.add(scored)
                    state = ", ALARM" if recorder.tracker.alarm else ""
                    bar.set_postfix_str(f"score {last:.2f}, {recorder.alarms} alarms ended{state}", refresh=False)
                    bar.update(len(scored.places))
            problem = stream.problem
        except InputError as error:
            problem = str(error)
        except KeyboardInterrupt:
            interrupted = True
        try:
            recorder.finish()
        except InputError as error:
            problem = problem or str(error)

    seconds, count = time.monotonic() - start, recorder.count
    if not (count or problem or interrupted):
        problem = f"{stream.shown} has {stream.count} frames, a clip of this network {shape['t_length']}"
    kept = f"{count} frames are scored: {recorder.directory}"
    if problem:
        raise InputError(f"{problem}; {kept}")
    if interrupted and not stream.live:
        raise KeyboardInterrupt(kept)
    print(f"{count} frames in {seconds:.1f} s: {count / seconds:.1f} per second ({stream.shown} has {stream.fps:g})")
    print(f"alarms above {recorder.threshold:.4g}: {recorder.alarms}; written to {recorder.directory}")
