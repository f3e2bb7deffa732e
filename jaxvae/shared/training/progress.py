"""Progress of training: a bar in a terminal, a line per epoch elsewhere."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from jaxvae.shared.text import LONGEST, printable

_FORMAT = "{desc} {bar} {rate_fmt} {remaining} left{postfix}"
_REST = 29  # columns of the format without description and postfix, with hours left and a bar of one column


class Bar:
    """A progress bar that counts images, as a context manager."""

    def __init__(self, images: int, seen: int, shown: bool = True, first: str = "") -> None:
        """Show a bar in a terminal.

        Args:
            images: The number of images in all.
            seen: The number of these that were seen before.
            shown: False for a process that must not print.
            first: What takes most of the time up to the first call of `move`, which no rate counts.
        """
        from tqdm import tqdm

        self.images, self.seen, self._first, self._paced = images, seen, bool(first), False
        self._moved = time.monotonic()
        self._begun = self._since = (self._moved, seen)
        self._bar = tqdm(
            total=images,
            initial=seen,
            desc=first or "starting",
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
        """Advance the bar.

        Args:
            images: The number of further images.
            where: A short description of the current work.
            terms: Mean terms, of which the bar shows the first ones that fit.
        """
        self.seen, self._moved = self.seen + images, time.monotonic()
        first, self._first = self._first and self.seen < self.images, False  # or nothing is left to take a rate of
        if first:
            self._since = (self._moved, self.seen)
        if self._bar.disable:
            return
        if where is not None:
            self._bar.set_description_str(where, refresh=False)
            room = (self._bar.format_dict["ncols"] or 0) - len(where) - _REST
            shown = [" ".join(terms[:n]) for n in range(len(terms) + 1) if len(" ".join(terms[:n])) <= room]
            self._bar.set_postfix_str(shown[-1] if shown else "", refresh=False)
        if first:
            self._pass(images)
            self._bar.start_t = self._bar.last_print_t = time.time()
            self._bar.refresh()
        else:
            self._bar.update(images)

    def skip(self, images: int) -> None:
        """Advance the bar by images that were seen before it started."""
        self.seen += images
        self._begun = self._since = (self._since[0], self._since[1] + images)
        if not self._bar.disable:
            self._pass(images)

    def _pass(self, images: int) -> None:
        """Move the bar by images that its rate doesn't count."""
        self._bar.initial += images
        self._bar.last_print_n += images
        self._bar.n += images

    def pace(self) -> str:
        """Return the speed of training since the last call, and the time left at the pace since then, in words.

        The first call takes the time left from the training alone, as the first evaluation is compiled.
        """
        then, before = self._since if self.seen > self._since[1] else self._begun
        self._begun = self._since = now, seen = time.monotonic(), self.seen
        rate = (seen - before) / max(self._moved - then, 1e-9)  # without the evaluation, which may be compiled first
        until, self._paced = now if self._paced else self._moved, True
        left = (self.images - seen) * max(until - then, 1e-9) / (seen - before) if seen > before else 0.0
        return f"{rate:,.{0 if rate >= 10 else 2}f} images/s, {self._bar.format_interval(left)} left"

    def say(self, line: str, file: TextIO | None = None) -> None:
        """Print a line above the bar, on standard output or to `file`."""
        self._bar.write(printable(line, LONGEST), sys.stdout if file is None else file)


def warn(line: str) -> None:
    """Print a line on standard error, above any bar."""
    from tqdm import tqdm

    tqdm.write(printable(line, LONGEST), sys.stderr)


def short_terms(names: Sequence[str], terms: Iterable[float]) -> list[str]:
    """Format terms with their names, each with three or four digits."""
    return [f"{name} {_short(value)}" for name, value in zip(names, terms, strict=True)]


def _short(value: float) -> str:
    return f"{value:.1f}" if 10 <= abs(value) < 1e5 else f"{value:.3g}"
