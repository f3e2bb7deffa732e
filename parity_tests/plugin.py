"""For pytest: the fixture `assert_parity`. Plugins load in every run, so the frameworks wait until it is asked for."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(name="assert_parity", scope="session")
def _assert_parity() -> Callable[..., Any]:
    """`parity_tests.assert_parity`: fails with every level's figure and the likely cause."""
    from parity_tests import assert_parity

    return assert_parity
