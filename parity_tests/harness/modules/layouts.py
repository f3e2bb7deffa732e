"""The order of axes of inputs and outputs in each framework."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.rounding import worst

Layout: TypeAlias = Literal["channels_last", "same"] | tuple[int, ...]
"""How JAX holds an array: with torch's second axis last, as torch does, or with torch's axes in this order."""
Layouts: TypeAlias = Mapping[Any, Layout] | Sequence[Layout | None] | None


def axes(layout: Layout, ndim: int) -> tuple[int, ...]:
    """Return torch's axes in JAX's order."""
    if layout == "channels_last":
        return (0, *range(2, ndim), 1) if ndim > 2 else tuple(range(ndim))
    if layout == "same":
        return tuple(range(ndim))
    if len(layout) != ndim:
        raise InputError(
            f"A layout of {len(layout)} axes, {layout}, was given for an array of {ndim}: give each of its axes once."
        )
    return tuple(layout)


def to_jax(array: np.ndarray, layout: Layout) -> np.ndarray:
    return array.transpose(axes(layout, array.ndim))


def to_torch(array: np.ndarray, layout: Layout) -> np.ndarray:
    return array.transpose(np.argsort(axes(layout, array.ndim)))


def check_places(layouts: Layouts, where: str, places: Sequence[Any]) -> None:
    """Raise InputError if a layout is given for an array that is not among `places`."""
    given = layouts if isinstance(layouts, Mapping) else range(len(layouts or ()))
    known = [*places, *range(len(places))]
    if unknown := [place for place in given if place not in known]:
        raise InputError(f"{where}: there is no {unknown[0]!r}; there are {', '.join(map(str, known))}: correct it.")


def check(layouts: Any, where: str) -> None:
    """Raise InputError if `layouts` is neither None nor layouts by place or in order."""
    if layouts is None:
        return
    if isinstance(layouts, str) or not isinstance(layouts, Mapping | Sequence):
        given: Iterable[Any] = [layouts]
    else:
        given = layouts.values() if isinstance(layouts, Mapping) else layouts
    for layout in given:
        permutation = isinstance(layout, tuple) and sorted(layout, key=str) == list(range(len(layout)))
        if not (layout is None or layout in ("channels_last", "same") or permutation) or layouts is layout:
            raise InputError(
                f"{where}: expected for each array 'channels_last', 'same', a tuple of torch's axes in JAX's order, or "
                f"None, in a list or by place in a dict, found {layout!r}."
            )


def of_input(layouts: Layouts, i: int, ndim: int, channels_last: bool) -> Layout:
    """Return the layout of an input: as given, or channels last for an image."""
    return _given(layouts, i, i) or ("channels_last" if ndim == 4 and channels_last else "same")


def of_output(
    layouts: Layouts,
    i: int,
    place: str,
    in_jax: np.ndarray,
    in_torch: np.ndarray,
    channels_last: bool,
    dtype: str,
) -> Layout:
    """Return the layout of an output: as given, or the one of the two usual ones in which the numbers are nearest.

    Where an output is channels first in both frameworks, or an attention map, only the numbers can tell.
    """
    if (given := _given(layouts, i, place)) is not None:
        return given
    ndim = in_jax.ndim
    usual: list[Layout] = ["channels_last", "same"] if ndim == 4 and channels_last else ["same", "channels_last"]
    if ndim < 3:
        return "same"
    fits: list[Layout] = [layout for layout in usual if to_torch(in_jax, layout).shape == in_torch.shape]
    if len(fits) < 2:
        return fits[0] if fits else usual[0]
    sizes = {layout: worst({"": to_torch(in_jax, layout)}, {"": in_torch}, {}, dtype).size for layout in fits}
    return usual[0] if sizes[usual[0]] <= 1e6 * sizes[usual[1]] else usual[1]


def _given(layouts: Layouts, i: int, place: Any) -> Layout | None:
    if isinstance(layouts, Mapping):
        return cast("Layout | None", layouts.get(place, layouts.get(i)))
    return cast("Layout | None", layouts[i]) if layouts is not None and i < len(layouts) else None
