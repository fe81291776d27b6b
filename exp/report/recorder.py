"""The output for a watched stream: scores.csv and alarms.csv row by row, a video, and a page at the end.

A score is the calibrated abnormality (exp/scoring/calibration.py), smoothed over earlier frames if --smooth is given;
frames above the threshold form alarms. Everything scored so far is kept, however the stream ends: by its last frame,
Ctrl-C, SIGTERM, a lost connection or a full disk. scores.csv, alarms.csv and the video end with the same frame.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from data.stream import Frame
from exp.report.files import EVENTS, WATCHED, Table, clock, event_row, watched_row
from exp.report.page import write_page
from exp.report.page_stream import History
from exp.report.video import AnnotatedVideo, Limits, LiveCurve, Moment
from exp.scoring.alarms import Alarm, AlarmRule, Tracker
from exp.scoring.calibration import Calibration
from exp.scoring.score import Scored, Scoring
from exp.scoring.trained import Trained
from exp.scoring.watch import Watched, watch
from utils import InputError, progress, smooth, smoothing_reach

VIDEO, PAGE = "annotated.mp4", "report.html"


class Recorder:
    """Decides on frames as they arrive, and writes scores, alarms, video and page to a directory."""

    def __init__(
        self,
        directory: Path,
        stream: Watched,
        calibration: Calibration,
        scoring: Scoring,
        rule: AlarmRule,
        save_video: bool = False,
    ) -> None:
        self.directory, self.stream, self.calibration, self.scoring = directory, stream, calibration, scoring
        self.rule, self.tracker, self.history = rule, Tracker(rule.threshold, rule.merge_gap), History()
        self.sigma = scoring.sigma.frames(stream.fps) if scoring.sigma else None
        self.recent: deque[tuple[int, float]] = deque()  # the frames and scores on which a smoothed score depends
        self.video: AnnotatedVideo | None = self._open_video() if save_video else None
        self.no_video: InputError | None = None  # why the video cannot be written
        self.count = self.alarms = 0
        self.last: Frame | None = None
        self.score_table = Table(directory / "scores.csv", WATCHED)
        self.alarm_table = Table(directory / "alarms.csv", EVENTS)

    def _open_video(self) -> AnnotatedVideo:
        heat = 3 * self.calibration.auto_th()  # errors above those of normal frames are bright
        # most normal frames score between -2 and 2
        limits = Limits(-2, max(10, round(6 * self.threshold)), self.threshold)
        return AnnotatedVideo(self.directory / VIDEO, self.stream.name, LiveCurve(limits), heat)

    @property
    def threshold(self) -> float:
        return self.tracker.threshold

    def add(self, scored: Scored) -> float:
        """Add the next frames. Returns the score of the last one."""
        p, d, e, updated = (x.cpu().numpy() for x in (scored.psnr, scored.distance, scored.regular, scored.updated))
        alone = self.calibration.abnormality(p, d, self.scoring.alpha)
        frames: list[Frame] = [place.source for place in scored.places]
        scores = [self._smoothed(frame, value) for frame, value in zip(frames, alone.tolist(), strict=True)]
        columns = zip(frames, p, d, e, updated, scores, strict=True)
        self.score_table.add(*(watched_row(*row, row[-1] > self.threshold) for row in columns))
        self.count += len(frames)
        for frame, psnr, distance, value in zip(frames, p, d, scores, strict=True):
            self._decide(frame, value)
            self.history.add(frame, psnr, distance, value, self.tracker.alarm)
        if self.video:
            errors = (scored.predicted - scored.target).square().mean(dim=1).float().cpu().numpy()  # (n, H, W)
            for frame, value, error in zip(frames, scores, errors, strict=True):
                moment = Moment(frame.index, frame.seconds, value, alarm=value > self.threshold)
                self._annotate(frame.picture, error, moment)
        return scores[-1]

    def _smoothed(self, frame: Frame, score: float) -> float:
        """The score of a frame, smoothed with earlier scores if a sigma is given, but not across a gap in time."""
        if not self.sigma:
            return score
        if frame.gap:
            self.recent.clear()
        self.recent.append((frame.index, score))
        while frame.index - self.recent[0][0] > smoothing_reach(self.sigma):
            self.recent.popleft()
        first = self.recent[0][0]
        scores = np.full(frame.index - first + 1, np.nan)  # NaN: left out, because scoring is slower than the source
        for index, known in self.recent:
            scores[index - first] = known
        return float(smooth(scores, self.sigma, causal=True)[-1])

    def _decide(self, frame: Frame, score: float) -> None:
        """Update the alarms, which end at gaps in time, and report when one starts or ends."""
        if frame.gap:
            self._end(self.tracker.finish())
        under_way = self.tracker.alarm is not None
        ended = self.tracker.add(frame.index, frame.seconds, score)
        self._end(ended)
        self.last = frame
        alarm = self.tracker.alarm
        if alarm and (ended or not under_way):
            tqdm.write(f"alarm starts at {frame.seconds:.1f} s, frame {frame.index}, score {score:.4g} {clock(frame)}")
            self.alarm_table.add(event_row("started", alarm, frame))

    def _end(self, alarm: Alarm | None) -> None:
        if alarm and self.last:
            self.alarms += 1
            times = f"{alarm.start_seconds:.1f} to {alarm.end_seconds:.1f} s, frames {alarm.start} to {alarm.end}"
            tqdm.write(f"alarm: {times}, highest score {alarm.score:.4g} at frame {alarm.peak}")
            self.alarm_table.add(event_row("ended", alarm, self.last))

    def _annotate(self, picture: np.ndarray, errors: np.ndarray, moment: Moment) -> None:
        """Add a frame to the video. If that fails, everything else continues, and `finish` raises the error."""
        try:
            if self.video:
                self.video.add(picture, errors, moment)
        except InputError as error:
            self.video, self.no_video = None, error

    def finish(self, about: dict[str, Any] | None) -> None:
        """End the current alarm and the video, and write the page.

        about: the origin of the results, for the page; None for no page. What can be written is written; then raises
        InputError for the first thing that cannot.
        """
        problems = [self.no_video] if self.no_video else []
        for write in (lambda: self._end(self.tracker.finish()), self._finish_video, lambda: self._write_page(about)):
            try:
                write()
            except InputError as error:
                problems.append(error)
        if problems:
            raise problems[0]

    def _finish_video(self) -> None:
        if self.video:
            self.video.finish()

    def _write_page(self, about: dict[str, Any] | None) -> None:
        if about is not None and self.history.count:
            write_page(self.directory / PAGE, self.history.page(self.stream.shown, self.rule, about, VIDEO))

    def close(self) -> None:
        """Close the files; an unfinished video is removed."""
        self.score_table.close()
        self.alarm_table.close()
        if self.video:
            self.video.discard()


class _Interrupts:
    """Makes Ctrl-C and SIGTERM end a stream as if it had no more frames, so that nothing is left half-written."""

    def __init__(self, stream: Watched) -> None:
        self.stream, self.came = stream, False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.came:  # the second time
            raise KeyboardInterrupt
        self.came = True
        self.stream.stop()

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def record(recorder: Recorder, trained: Trained, about: dict[str, Any] | None = None) -> None:
    """Score the frames of the recorder's stream as they arrive, and record the results; see exp.scoring.watch.

    about: the origin of the results, for the page; None for no page.
    Raises InputError when the stream is cut short or something cannot be written; everything scored so far is kept.
    Ctrl-C and SIGTERM are the usual end of a live stream; for a file, they raise KeyboardInterrupt.
    """
    stream, problem, interrupted = recorder.stream, None, False
    total = stream.announced and max(0, stream.announced - trained.shape["t_length"] + 1)
    start, interrupts = time.monotonic(), _Interrupts(stream)
    with contextlib.closing(stream), contextlib.closing(recorder), interrupts.handled():
        try:
            with progress(stream.shown, "frame", total=total) as bar:
                for scored in watch(trained.model, trained.items, trained.shape, stream, recorder.scoring):
                    last = recorder.add(scored)
                    state = ", ALARM" if recorder.tracker.alarm else ""
                    bar.set_postfix_str(f"score {last:.2f}, {recorder.alarms} alarms ended{state}", refresh=False)
                    bar.update(len(scored.places))
            problem, interrupted = stream.problem, interrupts.came
        except InputError as error:
            problem = str(error)
        except KeyboardInterrupt:
            interrupted = True
        try:
            recorder.finish(about)
        except InputError as error:
            problem = problem or str(error)

    seconds, count = time.monotonic() - start, recorder.count
    if not (count or problem or interrupted):
        problem = (
            f"{stream.shown} has {stream.count} frames, but this network needs clips of {trained.shape['t_length']}"
        )
    kept = f"{count} frames were scored: {recorder.directory}"
    if problem:
        raise InputError(f"{problem}; {kept}")
    if interrupted and not stream.live:
        raise KeyboardInterrupt(kept)
    print(f"{count} frames in {seconds:.1f} s: {count / seconds:.1f} per second ({stream.shown} has {stream.fps:g})")
    print(f"alarms above {recorder.threshold:.4g}: {recorder.alarms}; written to {recorder.directory}")
    if about is not None and count:
        print(f"report: {recorder.directory / PAGE}")
