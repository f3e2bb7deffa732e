"""The pytest fixture `assert_parity`.

pytest loads its plugins in every run, so the frameworks are imported only when a test uses the fixture.
"""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(name="assert_parity", scope="session")
def _assert_parity() -> Callable[..., Any]:
    """Return `parity_tests.assert_parity`, which fails with every level's difference and the likely cause."""
    from parity_tests import assert_parity

    return assert_parity
