"""Every injected fault is caught, and its cause is named."""

import pytest

from parity_tests.faults import modules, plain_vae, ranges, variants
from parity_tests.faults.inject import UNKNOWN, Fault, tried
from parity_tests.faults.table import LINES, REGENERATE, caught_at, package_row
from parity_tests.harness.causes import Cause
from parity_tests.harness.vae.hypotheses.kinds import KINDS

# jaxvae's come last: each of them clears what was compiled without it.
EVERY = sorted([*plain_vae.FAULTS, *variants.FAULTS, *ranges.FAULTS], key=lambda fault: fault.package == "jaxvae")

NAMES = [f"{fault.place}-{fault.cause}" for fault in EVERY]
# Every fourth one runs with every change.
FOURTH = [pytest.param(fault, marks=[pytest.mark.slow] * (i % 4 > 0)) for i, fault in enumerate(EVERY)]


@pytest.mark.parametrize("fault", FOURTH, ids=NAMES)
def test_a_fault_is_caught_and_named(fault: Fault) -> None:
    """By the level of the table, and not by the one before it."""
    is_caught(fault, tried(fault, caught_at(fault, LINES)))


@pytest.mark.slow
@pytest.mark.parametrize("fault", EVERY, ids=NAMES)
def test_no_earlier_level_catches_a_fault(fault: Fault) -> None:
    is_caught(fault, tried(fault))


def is_caught(fault: Fault, outcome: tuple[str, str, str | None]) -> None:
    level, named, backend = outcome
    assert level != "none"
    assert named == fault.cause
    # Without a cause a run may name no backend.
    assert backend == fault.package or (named == UNKNOWN and backend is None)
    assert package_row(fault, level, named) in LINES, REGENERATE
    if named != UNKNOWN:
        assert isinstance(named, Cause)
        says_what_to_do(fault, named)


def says_what_to_do(fault: Fault, cause: Cause) -> None:
    """A program that goes by the cause is led to the module that has the fault."""
    assert cause.kind in KINDS
    assert None not in (cause.found, cause.expected, cause.advice)
    assert cause.found != cause.expected
    assert "{" not in str(cause.advice)
    module = fault.place.partition(".")[0]
    assert cause.code is None or cause.code.partition(".")[0] == module or fault.place == "random.key"  # a seed's


def test_the_table_holds_these_faults_and_no_others() -> None:
    rows = [line for line in LINES if line.startswith("| ") and not line.startswith(("| fault", "| ---"))]
    assert len(rows) == len(set(rows)) == len(EVERY) + len(modules.FAULTS)


def test_nine_in_ten_are_named() -> None:
    """Of the plain VAE's. The tests above check each name; a fault that no hypothesis reproduces must be reported as
    unknown, not guessed."""
    unnamed = [fault for fault in plain_vae.FAULTS if fault.cause == UNKNOWN]
    assert len(plain_vae.FAULTS) >= 30
    assert len(unnamed) <= len(plain_vae.FAULTS) / 10
