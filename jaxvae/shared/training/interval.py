"""How many steps to train before the host looks at the run again."""

import time
from collections.abc import Sequence

SECONDS = 1.0
_FIRST = 8  # steps that are timed, after one that may have to be compiled


class Pace:
    """Cuts epochs into parts that end with the epoch, at every multiple of the steps in `every`, and, if `often`, after
    about a second."""

    def __init__(self, every: Sequence[int], often: bool) -> None:
        self.every, self.most, self.begun = every, 1 if often else None, 0.0
        self._compiled = False

    def next_stop(self, done: int, end: int) -> int:
        """After which step to look again, having taken `done`, at the epoch's `end` at the latest."""
        self.begun = time.monotonic()
        stops = [end, *((done // steps + 1) * steps for steps in self.every)]
        return min(stops if self.most is None else [*stops, done + self.most])

    def took(self, steps: int) -> None:
        """So many steps were taken since."""
        if self.most is None:
            return
        if not self._compiled:
            self._compiled, self.most = True, _FIRST
            return
        seconds = max(time.monotonic() - self.begun, 1e-9)
        self.most = max(1, min(int(steps * SECONDS / seconds), 16 * max(steps, self.most)))
