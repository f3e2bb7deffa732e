"""Faults put into one package on purpose: every one is caught, and named by what it is."""

import pytest

from parity_tests import family_faults, module_faults, vae_faults
from parity_tests.faults_table import TABLE, package_row
from parity_tests.injection import UNKNOWN, Fault, tried

LINES = TABLE.read_text().splitlines()
ANEW = "python -m parity_tests.faults_table writes the table anew"


EVERY = [*vae_faults.FAULTS, *family_faults.FAULTS]


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: f"{fault.place}-{fault.cause}")
def test_a_fault_is_caught_and_named(fault: Fault) -> None:
    level, named, side = tried(fault)
    assert level != "none"
    assert named == fault.cause
    assert side == fault.side or (named == UNKNOWN and side is None)  # a run may tell no side where it tells no cause
    assert package_row(fault, level, named) in LINES, ANEW


def test_the_table_holds_these_faults_and_no_others() -> None:
    rows = [line for line in LINES if line.startswith("| ") and not line.startswith(("| fault", "| ---"))]
    assert len(rows) == len(set(rows)) == len(EVERY) + len(module_faults.FAULTS)


def test_nine_in_ten_are_named() -> None:
    """Of the plain VAE's. Each name is held to by the tests above; what no hypothesis reproduces must be told so, not
    guessed."""
    unnamed = [fault for fault in vae_faults.FAULTS if fault.cause == UNKNOWN]
    assert len(vae_faults.FAULTS) >= 30
    assert len(unnamed) <= len(vae_faults.FAULTS) / 10
