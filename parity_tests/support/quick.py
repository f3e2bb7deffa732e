"""Which cases of a long list run with every change; the others run with `scripts/test.sh -m slow`."""

from collections.abc import Collection, Hashable, Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], chosen: Collection[Hashable]) -> list[Any]:
    """Mark all cases as slow except the chosen ones, of which each kind has one.

    Args:
        cases: Parameters of a test; a tuple stands for several.
        chosen: Those that run with every change.

    Returns:
        Parameters for `pytest.mark.parametrize`.
    """
    cases = list(cases)
    assert set(chosen) <= set(cases)
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in chosen else pytest.mark.slow)
        for case in cases
    ]
