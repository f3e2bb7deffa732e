"""Times of work done in turn, and what is read from them."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tqdm import tqdm

Work = dict[str, Callable[[], Any]]


class Timed(NamedTuple):
    """One contestant at one thing."""

    section: str
    name: str
    where: dict[str, Any]
    """What else is to be known of it: the preset, the batch, the axis and the place on it."""
    seconds: list[float]
    """Of each round; those of another unit in `memory`, which is bytes."""
    images: int = 0
    """How many a round treats."""
    flops: int = 0
    """Floating-point operations of the products that a round needs."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.median

    @property
    def span(self) -> tuple[float, float]:
        """The least and the most images per second."""
        return self.images / max(self.seconds), self.images / min(self.seconds)


def interleaved(work: Work, rounds: int, title: str, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each piece of work, in turn, so that a machine's moods fall on all alike. The first round is dropped,
    unless they are already warm."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    turns = rounds + warm
    with tqdm(total=turns * len(work), desc=title, unit=" runs", leave=False, disable=None) as bar:
        for _ in range(turns):
            for name, run in work.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
                bar.update()
    return {name: times[int(warm) :] for name, times in seconds.items()}
