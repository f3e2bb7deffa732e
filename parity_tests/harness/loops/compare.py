"""Compare two training runs step by step, and find the first step and the first quantity in which they part."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.loops.carrying import Side
from parity_tests.harness.loops.comparison import Comparison
from parity_tests.harness.loops.halves import Exact
from parity_tests.harness.loops.records import Start, Step
from parity_tests.harness.loops.report import RunsReport
from parity_tests.harness.loops.streaming import restartable
from parity_tests.harness.loops.summary import summarised
from parity_tests.harness.modules import validation
from parity_tests.harness.modules.compare import ParityError
from parity_tests.harness.modules.mapping import MappingLike

Yielded = Step | Start | Mapping[str, Any]
RunLike = Iterable[Yielded] | Callable[..., Iterable[Yielded] | None]
_IN_FLOAT32 = "the runs in half precision, since those in float32, passed as exact, part as well"


def assert_run_parity(jax_run: RunLike, torch_run: RunLike, **options: Any) -> RunsReport:
    """Assert that two training loops take the same steps.

    Args:
        jax_run: The JAX run, see `compare_runs`.
        torch_run: The torch run.
        **options: The keyword arguments of `compare_runs`.

    Returns:
        The report of the comparison, which passed.

    Raises:
        ParityError: If the runs part; the message names the first step and the first quantity, and the likely cause.
        InputError: If an argument or what a run yields is invalid.
        ModelError: If a run raises an exception, which is its cause.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    report = compare_runs(jax_run, torch_run, **options)
    if not report.passed:
        raise ParityError(report)
    return report


def compare_runs(
    jax_run: RunLike,
    torch_run: RunLike,
    *,
    steps: int,
    module: nn.Module | None = None,
    mapping: MappingLike = None,
    exact: tuple[RunLike, RunLike] | None = None,
) -> RunsReport:
    """Compare two training loops of your own step by step.

    Each run yields a `Step` after each of its steps, with what it has of batch, inputs, learning rate, loss, terms,
    gradients, optimizer state, parameters and moving average; what both yield is compared. The first step, and in it
    the first quantity in this order that differs by more than its tolerance, is where the runs part.

    A run that is a function of one argument can be started again: it is called with None to start by itself, yields
    the `Start` of its own before the first step, and is called with a `Start` to take the steps from `start.step` on
    from this state. In float32 one such run at least is needed, to measure the noise floor. A step that differs by more
    than its own rounding is taken again with the state of one run carried to the other, so that the step is found whose
    own work differs, and not the one in which a small difference has grown.

    The two runs advance together, each to its next step in turn. One that calls back does so in a thread of its own.

    Args:
        jax_run: An iterable of steps, or a function that returns one, of no argument or of a `Start` or None; or a
            function with an argument named `on_step`, which it calls with each step in place of yielding it. It is
            ended within that call after the last step.
        torch_run: The same of the torch run.
        steps: Number of steps to compare. Of all of them a few numbers are kept, and the whole states of those about
            the one in which the runs part.
        module: The torch module that is trained, whose layers say how each parameter is laid out. None where the torch
            run yields it as `parameters`, or where both runs have the same names and layouts.
        mapping: Which JAX array is which torch tensor, as in `compare_modules`.
        exact: Of runs in half or mixed precision, the same two in float32 or float64; all of them can be started again.
            They are compared first, and then measure how much each run in half precision rounds in a step.

    Returns:
        The report: the worst difference of each quantity, and where the runs part, how, and the likely cause.

    Raises:
        InputError: If an argument is invalid, a run yields too few steps or anything but steps, the parameters can't be
            paired, or there is nothing that both runs yield.
        ModelError: If a run raises an exception, which is its cause.
    """
    _check(jax_run, torch_run, steps, module)
    if exact is not None:
        _check_exact(exact)
        report = compare_runs(*exact, steps=steps, module=module, mapping=mapping)
        if not report.passed:
            return report._replace(not_compared=(*report.not_compared, _IN_FLOAT32))
    sides = Side(0, jax_run, steps, None), Side(1, torch_run, steps, module)
    comparison = Comparison(sides, mapping, exact and Exact(exact, steps, module, mapping))
    try:
        comparison.run(steps)
    finally:
        comparison.close()
    return summarised(comparison)


def _check(jax_run: Any, torch_run: Any, steps: Any, module: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps: expected a positive integer, found {steps!r}.")
    if module is not None and not isinstance(module, nn.Module):
        raise InputError(f"module: expected the torch.nn.Module that is trained, found {validation.kind(module)}.")
    for name, run in (("jax_run", jax_run), ("torch_run", torch_run)):
        if not callable(run) and not isinstance(run, Iterable):
            raise InputError(
                f"{name}: expected a generator of steps, a function that returns one, or one of on_step, found "
                f"{validation.kind(run)}."
            )


def _check_exact(exact: Any) -> None:
    if not isinstance(exact, tuple | list) or len(exact) != 2 or not all(map(restartable, exact)):
        raise InputError(
            "exact: expected the two runs in float32 or float64, (jax_run, torch_run), as functions run(start) that "
            f"can be started again, found {validation.kind(exact)}."
        )
