"""Runs in half precision: their rounding is measured, and a loss scale and the steps it leaves out are compared."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import pytest

from jaxvae.shared.errors import InputError
from parity_tests import RunsReport, Start, compare_runs
from parity_tests.faults.loops import scaled
from parity_tests.faults.loops.table import FAULTS, in_half, named
from parity_tests.support.quick import quick
from parity_tests.support.reports.schema import validated


@pytest.fixture(autouse=True)
def _as_users_are() -> Any:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def sides(**faults: Any) -> tuple[Callable[[Start | None], Any], ...]:
    """Return both runs; a fault in one is given as `jax=` or `torch=`, in both as an option."""
    jax_options, torch_options = faults.pop("jax", {}), faults.pop("torch", {})
    right = dataclasses.replace(scaled.RIGHT, **faults)
    left, other = dataclasses.replace(right, **jax_options), dataclasses.replace(right, **torch_options)
    return lambda start: scaled.run_jax(left, start=start), lambda start: scaled.run_torch(other, start=start)


@functools.cache
def tried(*faults: tuple[str, str, Any]) -> RunsReport:
    options: dict[str, Any] = {"jax": {}, "torch": {}}
    for side, name, value in faults:
        options[side][name] = value
    left, right = sides(**options)
    return compare_runs(left, right, steps=scaled.STEPS, exact=sides(half=False))  # type: ignore[arg-type]


def test_right_runs_with_a_dynamic_loss_scale_agree() -> None:
    report = tried()
    assert report.passed, str(report)
    assert report.about["dtype"] == "mixed"
    assert {"loss scale", "gradients", "parameters"} <= {finding.level for finding in report.findings}
    assert not report.not_compared
    validated(report.to_json())


SCALES = [
    (("torch", "init", 2.0**16), 0, "loss scale", "starts at 4.1943e+06 in JAX and at 65536 in PyTorch"),
    (("jax", "interval", 2), None, "loss scale", "grows after 2 finite steps in JAX and after 3 finite steps in"),
    (("jax", "backoff", 0.25), 1, "loss scale", "is lowered to 0.25 of itself in JAX and to 0.5 in PyTorch"),
    (("torch", "growth", 4.0), None, "loss scale", "grows to 2 of itself in JAX and to 4 in PyTorch"),
    (("jax", "backoff", 1.0), 1, "loss scale", "that of JAX, whose are the same, isn't"),
    (("jax", "skip", False), 0, "parameters", "is left out in PyTorch and taken in JAX"),
    (("torch", "skip", False), 0, "optimizer state", "is left out in JAX and taken in PyTorch"),
    (("jax", "unscaled", False), None, "gradients", "a loss scale of mixed precision"),
]


@pytest.mark.parametrize(("fault", "step", "quantity", "cause"), quick(SCALES, [SCALES[6]]))
def test_a_fault_of_the_loss_scale_is_named(fault: Any, step: int | None, quantity: str, cause: str) -> None:
    report = tried(fault)
    assert report.quantity == quantity, str(report)
    assert step is None or report.step == step
    assert cause in str(report)


def test_a_fault_in_float32_too_is_found_there() -> None:
    left, _ = sides()
    _, right = sides(torch={"rate": 0.1})
    exact = sides(half=False, torch={"rate": 0.1})
    report = compare_runs(left, right, steps=2, exact=exact)  # type: ignore[arg-type]
    assert (report.step, report.quantity, report.about["dtype"]) == (0, "learning rate", "float32")
    assert "the runs in half precision, since those in float32, passed as exact, part as well" in report.not_compared


def test_what_half_precision_alone_does_otherwise_does_not_pass_for_rounding() -> None:
    """The float32 runs agree, and the one in float16 moves by half as much."""
    left, _ = sides()
    _, right = sides(torch={"factor": 0.5, "init": 16.0}, init=16.0)
    left, _ = sides(init=16.0)
    report = compare_runs(left, right, steps=3, exact=sides(half=False))  # type: ignore[arg-type]
    assert (report.step, report.quantity) == (0, "gradients"), str(report)


def test_runs_in_half_precision_need_exact_ones() -> None:
    left, right = sides(init=16.0)
    with pytest.raises(InputError, match="pass the same two in float32 as exact"):
        compare_runs(left, right, steps=2)
    with pytest.raises(InputError, match="exact: expected the two runs in float32"):
        compare_runs(left, right, steps=2, exact=(left, 3))  # type: ignore[arg-type]


IN_HALF = [
    (fault.name, half)
    for half in ("bfloat16", "float16")
    for fault in FAULTS
    if fault.name != "torch's clipping adds 1e-6"
]
NOT_NAMED = ("the unbiased variance", "the unbiased variance and another momentum")
"""In bfloat16, whose rounding is nearly as large as n / (n - 1)."""
LATER = {"bfloat16": "amsgrad in one alone"}
"""Whose first effect is smaller than the rounding."""
QUICK = [
    ("L2 in the loss too", "bfloat16"),
    ("other units are dropped", "bfloat16"),
    ("the unbiased variance", "float16"),
]


@pytest.mark.parametrize(("name", "half"), quick(IN_HALF, QUICK))
def test_a_fault_is_found_and_named_in_half_precision(name: str, half: str) -> None:
    """By the numbers of half precision alone."""
    jax.config.update("jax_enable_x64", False)
    fault = next(fault for fault in FAULTS if fault.name == name)
    report = in_half(fault, half)
    fault = fault._replace(step=fault.step + (LATER.get(half) == name))
    assert (report.step, report.quantity) == (fault.step, fault.quantity), str(report)
    assert named(fault, report) == (half != "bfloat16" or name not in NOT_NAMED), str(report)


def test_a_figure_that_half_precision_rounds_is_given_as_such() -> None:
    """n is 128, and the momentum is the same."""
    jax.config.update("jax_enable_x64", False)
    report = in_half(next(fault for fault in FAULTS if fault.name == "the unbiased variance"), "float16")
    assert str(report).endswith("n / (n - 1) times with n about 130, and not in JAX.")
