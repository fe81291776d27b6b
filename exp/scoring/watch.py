"""Watch a video file, a camera or a stream: scores and alarms while frames come, without a look into the future.

A score is the calibrated abnormality of exp/scoring/calibration.py, smoothed over past frames where that is asked for; frames
above a threshold form alarms. scores.csv and alarms.csv grow row by row, and a video is written on request: what was
scored is kept whatever ends it, the last frame, Ctrl-C, a stream that drops or a full disk.
"""

import contextlib
import time
from collections import deque

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data.frames import to_planes
from exp.report.files import ALARMS, WATCHED, Table, alarm_row, watched_row
from exp.report.video import AnnotatedVideo
from exp.scoring.alarms import Tracker
from exp.scoring.score import score
from utils import InputError, smooth, smoothing_reach


def clips_of(stream, shape, batch_size, waiting):
    """The clips of a stream (data.stream.Stream), uint8 (B, t_length·c, H, W), for a network of this shape (a dict).

    Of each clip's last frame (index, seconds, picture) is appended to the deque `waiting`.
    """
    window, clips = deque(maxlen=shape["t_length"]), []
    for index, (picture, seconds) in enumerate(stream):
        seen = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if shape["c"] == 1 else picture
        window.append(to_planes(seen, shape["h"], shape["w"]))
        if len(window) == shape["t_length"]:
            clips.append(np.concatenate(window))
            waiting.append((index, seconds, picture))
        if len(clips) == batch_size:
            yield torch.from_numpy(np.stack(clips))
            clips.clear()
    if clips:
        yield torch.from_numpy(np.stack(clips))


class Recorder:
    """Decides on frames that come one by one, and writes what comes of it to a directory.

    stream: data.stream.Stream, for its name and speed; calibration: exp.scoring.calibration.Calibration; sigma: of causal
    smoothing, None for none; merge_gap: see exp.scoring.alarms.Tracker; both in frames.
    """

    def __init__(
        self, directory, stream, calibration, alpha, false_alarm_rate, sigma=None, merge_gap=1, save_video=False
    ):
        self.directory, self.stream, self.calibration, self.alpha = directory, stream, calibration, alpha
        self.threshold = calibration.threshold(alpha, false_alarm_rate, sigma)
        self.tracker = Tracker(self.threshold, merge_gap)
        self.sigma, self.save_video, self.video = sigma, save_video, None
        self.recent = deque(maxlen=1 + smoothing_reach(sigma) if sigma else 1)  # all that a smoothed score depends on
        self.count = self.alarms = 0
        self.score_table = Table(directory / "scores.csv", WATCHED)
        self.alarm_table = Table(directory / "alarms.csv", ALARMS)

    def _open_video(self, first):
        path, name, fps = self.directory / "annotated.mp4", self.stream.name, self.stream.fps
        heat = 3 * self.calibration.auto_th()  # errors beyond those of normal frames are bright
        limits = -2, max(10, round(6 * self.threshold))  # most normal frames are within 2 spreads
        return AnnotatedVideo(path, name, fps, heat, self.threshold, limits, first=first)

    def add(self, frames, scored):
        """frames: (index, seconds, picture) of each frame that exp.scoring.score.Scored tells of. Returns the last score."""
        p, d, e, updated = (x.cpu().numpy() for x in (scored.psnr, scored.distance, scored.regular, scored.updated))
        alone = self.calibration.abnormality(p, d, self.alpha)
        if self.save_video:
            self.video = self.video or self._open_video(first=frames[0][0])
            errors = (scored.predicted - scored.target).square().mean(dim=1).float().cpu().numpy()  # (n, H, W)
        rows = []
        for k, (index, seconds, picture) in enumerate(frames):
            self.recent.append(alone[k])
            now = float(smooth(self.recent, self.sigma, causal=True)[-1] if self.sigma else alone[k])
            alarm = now > self.threshold
            self._tell(self.tracker.add(index, seconds, now))
            rows.append(watched_row(index, seconds, p[k], d[k], e[k], updated[k], now, alarm))
            if self.video:
                self.video.add(picture, errors[k], now, alarm=alarm)
        self.score_table.add(*rows)
        self.count += len(rows)
        return now

    def _tell(self, alarm):
        if alarm:
            self.alarms += 1
            times = f"{alarm.start_seconds:.1f} to {alarm.end_seconds:.1f} s, frames {alarm.start} to {alarm.end}"
            tqdm.write(f"alarm: {times}, highest score {alarm.score:.4g} at frame {alarm.peak}")
            self.alarm_table.add(alarm_row(self.stream.name, alarm))

    def finish(self):
        """End the alarm that is under way, and the video. Raises InputError when these cannot be written."""
        self._tell(self.tracker.finish())
        if self.video:
            self.video.close()

    def close(self):
        """Close the files; a video that is not finished is gone."""
        self.score_table.close()
        self.alarm_table.close()
        if self.video:
            self.video.discard()


def watch(model, items, shape, recorder, th, memory_update, psnr_region, batch_size):
    """Score the frames of the recorder's stream as they come, each by the frames before it, and record what is found.

    model in eval mode and items (M, C) on one device; shape: a dict, what exp.run.load_model says of them. Raises
    InputError when the stream was not whole or something cannot be written: what was scored by then is kept. Ctrl-C is
    the usual end of a live stream; while a file is scored it is raised again.
    """
    stream, waiting, problem, interrupted = recorder.stream, deque(), None, False
    batches = clips_of(stream, shape, 1 if stream.live else batch_size, waiting)
    total = stream.announced and max(0, stream.announced - shape["t_length"] + 1)
    start = time.monotonic()
    with contextlib.closing(stream), contextlib.closing(recorder):
        try:
            with tqdm(desc=stream.shown, total=total, unit="frame") as bar:
                for scored in score(model, items, batches, [], th, memory_update, psnr_region=psnr_region):
                    frames = [waiting.popleft() for _ in range(len(scored.psnr))]
                    last = recorder.add(frames, scored)
                    state = ", ALARM" if recorder.tracker.alarm else ""
                    bar.set_postfix_str(f"score {last:.2f}, {recorder.alarms} alarms ended{state}", refresh=False)
                    bar.update(len(frames))
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
    print(f"{count} frames in {seconds:.1f} s: {count / seconds:.1f} a second ({stream.shown} has {stream.fps:g})")
    print(f"alarms above {recorder.threshold:.4g}: {recorder.alarms}; written to {recorder.directory}")
