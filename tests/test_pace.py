"""How many frames of a live source are scored, on a clock of the test's own: nothing here takes time."""

from typing import NamedTuple

import numpy as np
import pytest

from data.pace import Pace

FPS, ROOM, BATCH = 25, 32, 8


class Watched(NamedTuple):
    scored: np.ndarray  # frames that were scored, counted from 0
    lost: int  # frames that were left out since the queue was full


def watch(seconds_per_clip, burst=0, stalls=(), duration=120.0):
    """Score a source of 25 frames per second for two minutes, up to eight clips at once, on a virtual clock.

    burst: frames that are there at once at the start; stalls: (when, how long) something else holds the machine.
    """
    pace, queue, scored, stalls = Pace(ROOM), [], [], list(stalls)
    now, given, lost, overflowed = 0.0, 0, 0, False
    while now < duration:
        clips = 0
        while clips < BATCH and (queue or not clips):
            while given < burst + FPS * now:
                if len(queue) == ROOM:
                    lost, overflowed = lost + ROOM, True
                    queue.clear()
                queue.append(given)
                given += 1
            if not queue:
                now += 1 / FPS
                continue
            waiting, frame = len(queue), queue.pop(0)
            if pace.is_scored(waiting, overflowed):
                scored.append(frame)
                clips += 1
            overflowed = False
        now += clips * seconds_per_clip
        if stalls and now >= stalls[0][0]:
            now += stalls.pop(0)[1]
    return Watched(np.array(scored), lost)


@pytest.mark.parametrize("burst", [0, 30])
def test_all_frames_are_scored_where_there_is_time_for_them(burst):
    found = watch(1 / 30, burst)
    assert found.lost == 0 and (np.diff(found.scored) == 1).all()


@pytest.mark.parametrize("clips_per_second", [5, 8, 12, 18, 23])
def test_most_of_the_time_there_is_goes_into_scoring(clips_per_second):
    found = watch(1 / clips_per_second)
    later = found.scored[found.scored > 10 * FPS]
    steps = np.diff(later)
    assert found.lost <= 2 * ROOM  # before the pace is found
    assert len(later) > 0.6 * clips_per_second * 110
    assert steps.max() - steps.min() <= 2  # evenly


def test_all_frames_are_scored_again_after_other_work_held_the_machine():
    found = watch(1 / 60, stalls=[(20, 3.0), (40, 3.0)])
    assert found.lost > 0
    later = found.scored[found.scored > 70 * FPS]
    assert (np.diff(later) == 1).all()
