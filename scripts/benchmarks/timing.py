"""Interleaved timing, and statistics of the times."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tqdm import tqdm

Work = dict[str, Callable[[], Any]]

# Seconds between two pieces of work: PyTorch's threads wait actively for a while after theirs, and would take part of a
# core from the next program's.
_PAUSE = 0.05


class Timed(NamedTuple):
    """The times of one program at one task."""

    section: str
    name: str
    where: dict[str, Any]
    """Other properties: the preset, the batch, the axis and the position on it."""
    seconds: list[float]
    """The time of each round; in the section `memory` bytes instead."""
    images: int = 0
    """Number of images in a round."""
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
    """Time several pieces of work in turn, so that a change of the machine's speed affects all of them. Each round has
    another order, so that none always follows the same one.

    Args:
        work: The functions to time, by name.
        rounds: Number of timed rounds.
        title: The label of the progress bar.
        warm: Whether to begin with a round that is not counted.

    Returns:
        The seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    turns = rounds + warm
    shuffle = random.Random(0).shuffle
    order = list(work.items())
    with tqdm(total=turns * len(work), desc=title, unit=" runs", leave=False, disable=None) as bar:
        for _ in range(turns):
            shuffle(order)
            for name, run in order:
                time.sleep(_PAUSE)
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
                bar.update()
    return {name: times[int(warm) :] for name, times in seconds.items()}
