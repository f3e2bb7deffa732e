"""Flags and helpers that the drawing commands share: the file to write, the title, and the names of runs and data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxvae.shared.config.data_sets import DATA_SETS
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.text import LONGEST, printable, shown

_MAX_TITLE, _MAX_NAME = 200, 90  # characters

PRIOR_UNIT = "standard deviations of the prior"
"""The unit of an axis along a latent of a model with a prior."""

FigurePath = Annotated[Path, tyro.conf.arg(help="The PNG, PDF or SVG to write, by the ending of its name.")]
FigureTitle = Annotated[str, tyro.conf.arg(help="A title to write above the picture.", help_behavior_hint="")]
RunNames = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help="What to call the runs, one name for each. By default the names of their folders.", help_behavior_hint=""
    ),
]


def require_figure(out: Path, title: str) -> None:
    """Check where a figure goes and its title; to be called before slow work.

    Args:
        out: The file to write.
        title: Its title; empty for none.

    Raises:
        InputError: If the file can't be written, or the title can't be drawn.
    """
    figure_file.require(out)
    require_title(title)


def require_title(title: str) -> None:
    """Raise InputError unless the title is one line of readable length."""
    if not title.isprintable() or len(title) > _MAX_TITLE:
        raise InputError(f"--title must be a line of at most {_MAX_TITLE} letters, found {shown(title)}; shorten it.")


def run_names(paths: Sequence[Path], given: Sequence[str]) -> list[str]:
    """Name runs in a picture.

    Args:
        paths: The run folders.
        given: What --names says; empty if it was left out.

    Returns:
        A name for each: the one given, or that of its folder, with as many of the folders above as make them distinct.

    Raises:
        InputError: If there is not one name for each run, or if a name can't be drawn.
    """
    if given and len(given) != len(paths):
        raise InputError(
            f"--names must be one for each of the {len(paths)} runs, found {len(given)}; give them after the runs."
        )
    for name in given:
        if not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
            raise InputError(f"--names must have from 1 to {_MAX_NAME} letters, found {shown(name)}; give another.")
    if given:
        return list(given)
    parts = [path.absolute().parts for path in paths]
    depths, different = range(1, max(map(len, parts), default=1)), len(set(parts))
    depth = next((n for n in depths if len({p[-n:] for p in parts}) == different), 0)
    names = [printable("/".join(p[-depth:]), LONGEST) for p in parts]
    return [name if len(name) <= _MAX_NAME else f"...{name[3 - _MAX_NAME :]}" for name in names]


def data_name(name: str) -> str:
    """Name a data set in a picture: as `--data` does, without the folders above its own. An array's may be any."""
    kind, _, argument = name.partition(":")
    return f"{kind}:{printable(Path(argument).name)}" if kind in DATA_SETS and DATA_SETS[kind].paths else name
