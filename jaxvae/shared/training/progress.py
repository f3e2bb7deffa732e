"""Progress of training: a bar in a terminal, a line per epoch elsewhere."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

_FORMAT = "{desc} {bar} {rate_fmt} {remaining} left{postfix}"
_REST = 29  # columns that this takes beside description and postfix, with hours left and a bar of one


class Bar:
    """So many images to be seen, `seen` of them before. Close it, or use it as a context manager."""

    def __init__(self, images: int, seen: int, shown: bool = True) -> None:
        from tqdm import tqdm

        self.images, self.seen = images, seen
        self._since = (time.monotonic(), seen)
        self._bar = tqdm(
            total=images,
            initial=seen,
            desc="starting",
            unit=" img",
            unit_scale=True,
            dynamic_ncols=True,
            bar_format=_FORMAT,
            disable=None if shown else True,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def move(self, images: int, where: str | None = None, terms: Sequence[str] = ()) -> None:
        """So many more images are seen. where: what is going on, in a few words; terms: as many of these as there is
        room for are shown, the first ones."""
        self.seen += images
        if self._bar.disable:
            return
        if where is not None:
            self._bar.set_description_str(where, refresh=False)
            room = (self._bar.format_dict["ncols"] or 0) - len(where) - _REST
            shown = [" ".join(terms[:n]) for n in range(len(terms) + 1) if len(" ".join(terms[:n])) <= room]
            self._bar.set_postfix_str(shown[-1] if shown else "", refresh=False)
        self._bar.update(images)

    def skip(self, images: int) -> None:
        """So many more images turn out to have been seen before."""
        self.seen += images
        self._since = (self._since[0], self._since[1] + images)
        if not self._bar.disable:
            self._bar.initial += images
            self._bar.last_print_n += images
            self._bar.n += images

    def pace(self) -> str:
        """How fast it went since this was last asked, and the time left if it goes on like that, in words."""
        then, before = self._since
        self._since = now, seen = time.monotonic(), self.seen
        rate = (seen - before) / max(now - then, 1e-9)
        left = (self.images - seen) / rate if rate > 0 else 0.0
        return f"{rate:,.{0 if rate >= 10 else 2}f} images/s, {self._bar.format_interval(left)} left"

    def say(self, line: str, file: TextIO | None = None) -> None:
        """A line on standard output, or in `file`, above the bar."""
        self._bar.write(line, sys.stdout if file is None else file)


def warn(line: str) -> None:
    """A line on standard error, above whatever bar there is."""
    from tqdm import tqdm

    tqdm.write(line, sys.stderr)


def short_terms(names: Sequence[str], terms: Iterable[float]) -> list[str]:
    """Terms by their names, each as short as a glance needs it."""
    return [f"{name} {_short(value)}" for name, value in zip(names, terms, strict=True)]


def _short(value: float) -> str:
    return f"{value:.1f}" if 10 <= abs(value) < 1e5 else f"{value:.3g}"
