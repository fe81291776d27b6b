"""How often a live source is scored where scoring is slower than the source."""

ROUND = 8  # frames that are scored between two looks at the queue: as many as are usually scored at once
CALM = 128  # frames that are taken from a short queue before more of them are scored again


class Pace:
    """Every n-th frame is to be scored: n grows while the queue of waiting frames does, and falls while it is short.

    A queue that is long but shrinks changes nothing: servers send the first seconds at once, and other programs may
    keep the machine busy for a moment. room: how many frames the queue holds.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.every = 1  # the n
        self.skipped = self.taken = self.calm = 0  # frames since one was scored, in this round, from a short queue
        self.fullest, self.before = 0, 0  # the longest queue of this round and of the one before

    def is_scored(self, waiting: int, lost: bool) -> bool:
        """Whether the next frame is to be scored.

        waiting: how many frames are in the queue, this one among them; lost: whether some just before it were left out,
        as the queue was full.
        """
        self.before = self.before or waiting
        self.taken, self.fullest = self.taken + 1, max(self.fullest, waiting)
        if lost or self.taken >= ROUND * self.every:
            self._look(lost)
        self.skipped += 1
        if self.skipped < self.every:
            return False
        self.skipped = 0
        return True

    def _look(self, lost: bool) -> None:
        is_short = self.fullest <= self.room // 4
        self.calm = self.calm + self.taken if is_short else 0
        if lost or (self.fullest > self.room // 2 and self.fullest > self.before):
            self.every += 1
        elif self.calm >= CALM:
            self.every, self.calm = max(1, self.every - 1), 0
        self.before, self.fullest, self.taken = self.fullest, 0, 0
