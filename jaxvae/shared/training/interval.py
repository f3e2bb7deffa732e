"""The number of steps between two callbacks on the host."""

import time
from collections.abc import Sequence

SECONDS = 1.0
_FIRST_TIMED = 8  # steps, after one that may be compiled


class Pace:
    """Cuts epochs into parts.

    A part ends with the epoch, at every multiple of the steps in `every`, and, if `often`, after about a second.
    """

    def __init__(self, every: Sequence[int], often: bool) -> None:
        self.every, self.most, self.begun = every, 1 if often else None, 0.0
        self._compiled = False

    def next_stop(self, done: int, end: int) -> int:
        """Return the step to stop after, having taken `done` steps; the epoch ends after step `end`."""
        self.begun = time.monotonic()
        stops = [end, *((done // steps + 1) * steps for steps in self.every)]
        return min(stops if self.most is None else [*stops, done + self.most])

    def took(self, steps: int) -> None:
        """Report the number of steps taken since `next_stop`."""
        if self.most is None:
            return
        if not self._compiled:
            self._compiled, self.most = True, _FIRST_TIMED
            return
        seconds = max(time.monotonic() - self.begun, 1e-9)
        self.most = max(1, min(int(steps * SECONDS / seconds), 16 * max(steps, self.most)))
