"""Every fault planted in a training script is found at its step and quantity, and named."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import pytest

from parity_tests.faults.loops import classifier, transformer
from parity_tests.faults.loops.table import FAULTS, TABLE, RunFault, mirrored, named, place, row, tried
from parity_tests.harness.loops.compare import compare_runs
from parity_tests.harness.loops.naming import QUANTITIES
from parity_tests.harness.loops.report import RunsReport
from parity_tests.support.quick import quick
from parity_tests.support.reports.schema import validated

SCRIPTS = {"classifier": classifier, "transformer": transformer}
QUICK = ("the data is shuffled once", "other images are mirrored", "L2 in the loss too", "the unbiased variance",
         "a decoupled decay", "the rates of two groups are exchanged",
         "torch's clipping adds 1e-6", "another eps", "the average starts later")  # fmt: skip

DOUBLE_ALONE = ("torch's clipping adds 1e-6",)
"""What is smaller than the rounding of a float32 step."""


@pytest.fixture(autouse=True)
def _as_users_are(x64: None) -> Iterator[None]:
    """In float64, under JAX's own rules of promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", quick([fault.name for fault in FAULTS], QUICK))
def test_a_fault_is_found_and_named(name: str) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    report = tried(fault)
    assert (report.step, report.quantity) == (fault.step, fault.quantity), str(report)
    assert named(fault, report) == bool(fault.cause), str(report)
    if fault.cause:
        assert all(cause["kind"] for cause in validated(report.to_json())["causes"]), "a program can't act on it"
    assert row(fault, report) in TABLE.read_text().splitlines(), "python -m parity_tests.faults.loops.table writes it"


def test_the_list_is_long_enough_to_mean_something() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 50
    assert {fault.framework for fault in FAULTS} == {"JAX", "PyTorch"}
    assert sum(bool(fault.cause) for fault in FAULTS) >= 0.9 * len(FAULTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_right_scripts_agree(script: str) -> None:
    report = _right(script)
    assert report.passed, str(report)
    assert not report.not_compared
    compared = (
        set(QUANTITIES)
        - {"loss scale"}
        - ({"EMA"} if script == "classifier" else {"loss in evaluation", "running statistics"})
    )
    assert {finding.level for finding in report.findings} == compared - {"terms"}


@functools.cache
def _right(script: str, dtype: str = "float64") -> RunsReport:
    module = SCRIPTS[script]
    options = dataclasses.replace(module.RIGHT, dtype=dtype)
    return compare_runs(
        lambda start: module.run_jax(options, start=start),
        lambda start: module.run_torch(options, start=start),
        steps=module.STEPS,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in map(mirrored, FAULTS) if f is not None], ids=lambda fault: fault.name)
def test_a_fault_in_the_other_framework_is_found_and_named(fault: RunFault) -> None:
    report = tried(fault)
    assert (report.step, report.quantity) == (fault.step, fault.quantity), str(report)
    assert report.diagnosis is not None
    assert report.diagnosis.cause, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(FAULTS)))
def test_of_two_faults_the_first_is_found(i: int) -> None:
    """Each fault beside the next one of its script that shows elsewhere."""
    one = FAULTS[i]
    other = next(fault for fault in (*FAULTS[i + 1 :], *FAULTS[:i]) if _together(one, fault))
    report = tried(one, other)
    first = min(one, other, key=place)
    assert (report.step, report.quantity) == (first.step, first.quantity), f"{other.name}: {report}"


def _together(one: RunFault, other: RunFault) -> bool:
    """Whether two faults are of one script, show at different places and don't change each other's."""
    apart = not {*one.options, *one.both} & {*other.options, *other.both}
    for a, b in ((one, other), (other, one)):
        apart = apart and not ("raw" in a.both and {"clip", "clipping"} & {*b.options})
        apart = apart and not ("grouped" in a.both and "amsgrad" in {*b.options, *b.both})
    return one.script is other.script and place(one) != place(other) and apart


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_right_scripts_agree_in_float32_beside_their_noise_floor(script: str, x64: None) -> None:
    jax.config.update("jax_enable_x64", False)
    report = _right(script, "float32")
    assert report.passed, str(report)
    assert report.trajectory is not None
    assert report.trajectory.floor is not None
    assert (report.trajectory.gaps <= 10 * report.trajectory.floor + 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [fault.name for fault in FAULTS if fault.name not in DOUBLE_ALONE])
def test_a_fault_is_found_in_float32(name: str) -> None:
    jax.config.update("jax_enable_x64", False)
    fault = next(fault for fault in FAULTS if fault.name == name)
    report = tried(fault, dtype="float32")
    assert named(fault, report), str(report)
