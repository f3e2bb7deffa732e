"""What compare_runs accepts, what it says of bad input, and its verdicts on runs made of NumPy numbers."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import ParityError, RunsReport, Start, Step, assert_run_parity, compare_runs
from parity_tests.harness.modules.errors import ModelError

UNNAMED = nn.Parameter(torch.ones(4))
ROWS = np.random.default_rng(0).normal(size=(12, 4))


def descent(
    rate: float = 0.1, slope: float = 1.0, order: int = 0, dtype: Any = np.float64, steps: int = 4, **fields: Any
) -> Iterator[Step]:
    """Gradient descent on a least-squares problem."""
    w = np.ones(4, dtype)
    for step in range(steps):
        rows = np.random.default_rng([order, step]).permutation(12)[:3]
        x = ROWS[rows].astype(dtype)
        gradient = (slope * x.T @ (x @ w) / 3).astype(dtype)
        loss = (x @ w) @ (x @ w) / 6
        w = (w - dtype(rate) * gradient).astype(dtype)
        yield Step(**{"batch": rows, "loss": loss, "gradients": {"w": gradient}, "parameters": {"w": w}, **fields})


def compared(left: Any, right: Any, **options: Any) -> RunsReport:
    return compare_runs(left, right, **{"steps": 4, **options})


def test_equal_runs_agree() -> None:
    report = compared(descent(), descent())
    assert report.passed
    assert str(report).startswith("The two runs agree in all 4 steps.")
    assert {finding.level for finding in report.findings} == {"batch", "loss", "gradients", "parameters"}


def test_what_one_run_alone_yields_is_named() -> None:
    report = compared(descent(), descent(learning_rate=0.1, terms={"kl": 0.0}))
    assert report.passed
    assert report.not_compared == (
        "learning rate, which only the PyTorch run yields",
        "terms, which only the PyTorch run yields",
    )
    assert "(not compared: learning rate, which only the PyTorch run yields)" in str(report)


def test_the_first_step_and_quantity_are_found_and_the_error_holds_the_report() -> None:
    with pytest.raises(ParityError, match="part at step 0, in the parameters") as error:
        assert_run_parity(descent(), descent(rate=0.2), steps=4)
    report = error.value.report
    assert isinstance(report, RunsReport)
    assert (report.step, report.quantity) == (0, "parameters")
    assert report.diagnosis is not None
    assert "the learning rate that the step uses is 0.1 in JAX and 0.2 in PyTorch" in (report.diagnosis.cause or "")
    assert compared(descent(), descent(order=1)).quantity == "batch"
    assert compared(descent(), descent(slope=2.0)).quantity == "gradients"


def test_the_report_is_json() -> None:
    for report in (compared(descent(), descent()), compared(descent(), descent(loss=float("nan")))):
        plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert plain["passed"] == report.passed
        assert plain["verdict"] == str(report).splitlines()[0]


def test_a_list_a_generator_and_a_function_are_runs() -> None:
    assert compared(list(descent()), descent).passed
    assert compared([step._asdict() for step in descent()], lambda: descent()).passed


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (lambda: [], descent, "The JAX run yields no step"),
        (descent, lambda: descent(steps=2), "The PyTorch run yields 2 steps, expected 4: pass steps=2"),
        (lambda: [{"lr": 0.1}] * 4, descent, "yields 'lr' at step 0; the fields of a Step are batch, inputs"),
        (lambda: [3], descent, "The JAX run yields an int at step 0, expected a Step or a dict"),
        (lambda: None, descent, "The JAX run is a NoneType, expected a generator"),
        (lambda: [Step(loss=1.0), Start()], descent, "yields a Start after step 0"),
        (lambda: [Step(loss="low")] * 4, descent, "loss is a str, expected arrays of numbers"),
        (lambda: [Step(loss=1.0)] * 4, lambda: [Step(terms={"a": 1.0})] * 4, "be compared: loss, which only"),
        (lambda: [Step()] * 4, lambda: [Step()] * 4, "nothing that can be compared: their steps are empty"),
        (lambda: descent(loss=np.nan), lambda: descent(loss=np.nan), "loss of both runs is NaN or infinite at step 0"),
        (lambda: descent(parameters={"v": np.ones(4)}), descent, "parameter 'v', \\[4\\], has no namesake"),
        (lambda: descent(dtype=np.float32), lambda: descent(dtype=np.float32), "neither can be started again"),
        (lambda: descent(dtype=np.float16), lambda: descent(dtype=np.float16), "is float16, in which two right runs"),
        (descent, lambda: descent(optimizer_state=torch.optim.SGD([UNNAMED])), "no parameter of the module"),
        (descent, lambda: descent(optimizer_state=torch.optim.SGD([UNNAMED]).state_dict() | {"x": UNNAMED}), "itself"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(left: Any, right: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        compared(left, right)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": "4"}, {"module": 3}])
def test_bad_options_are_one_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        compared(descent(), descent(), **options)
    with pytest.raises(InputError, match="jax_run: expected a generator"):
        compared(3, descent())


def test_an_exception_of_a_run_keeps_its_traceback_and_says_whose_it_is() -> None:
    def fails() -> Iterator[Step]:
        yield from descent(steps=2)
        raise ZeroDivisionError("of my own")

    with pytest.raises(ModelError, match="The PyTorch run, step 2, raised ZeroDivisionError: of my own") as error:
        compared(descent(), fails)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_nan_in_one_run_is_a_difference_and_in_both_the_end_of_the_comparison() -> None:
    report = compared(descent(), descent(loss=float("nan")))
    assert (report.step, report.quantity) == (0, "loss")
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "the loss is NaN or infinite in PyTorch alone"

    def ends() -> list[Step]:
        return [step._replace(loss=np.nan) if i == 2 else step for i, step in enumerate(descent())]

    report = compared(ends, ends)
    assert report.passed
    assert report.about["steps"] == 2
    assert report.not_compared == ("step 2 and all after it, since the loss of both is NaN or infinite there",)


def started(
    start: Start | None, rate: float = 0.1, wrong_at: int = -1, dtype: Any = np.float64
) -> Iterator[Step | Start]:
    """A logistic map per parameter, in which differences double with each step, and which can be started again."""
    w = np.linspace(0.2, 0.8, 4).astype(dtype)
    if start is None:
        yield Start(parameters={"w": w})
    else:
        w = np.asarray(start.parameters["w"], dtype)
    for step in range(0 if start is None else start.step, 40):
        w = (dtype(3.9) * w * (1 - w)).astype(dtype)
        if step == wrong_at:
            w = (w * dtype(1 + 1e-10 if dtype is np.float64 else 1 + 1e-4)).astype(dtype)
        yield Step(parameters={"w": w}, loss=w.sum())


def mirrored(start: Start | None, **options: Any) -> Iterator[Step | Start]:
    """The same, rounded otherwise."""
    yield from started(start, **options)


def other_rounding(start: Start | None, dtype: Any = np.float64) -> Iterator[Step | Start]:
    w = np.linspace(0.2, 0.8, 4).astype(dtype) if start is None else np.asarray(start.parameters["w"], dtype)
    if start is None:
        yield Start(parameters={"w": w})
    for _ in range(0 if start is None else start.step, 40):
        w = (dtype(3.9) * w - dtype(3.9) * w * w).astype(dtype)
        yield Step(parameters={"w": w}, loss=w.sum())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_chaos_alone_is_no_difference(dtype: Any) -> None:
    """Two roundings of one formula, of which the difference grows to 1e-6 in float64 and to 1 in float32."""
    report = compare_runs(
        lambda start: started(start, dtype=dtype), lambda start: other_rounding(start, dtype), steps=40
    )
    assert report.passed, str(report)
    assert max(finding.size for finding in report.findings) > 1e-8


@pytest.mark.parametrize(("dtype", "step"), [(np.float64, 17), (np.float32, 20)])
def test_a_small_difference_that_grew_is_found_where_it_began(dtype: Any, step: int) -> None:
    """States are carried across: the step is the one whose own work differs."""
    report = compare_runs(
        lambda start: started(start, dtype=dtype),
        lambda start: started(start, wrong_at=step, dtype=dtype),
        steps=40,
    )
    assert (report.step, report.passed) == (step, False), str(report)


def test_a_run_that_does_not_repeat_itself_has_no_noise_floor() -> None:
    random = np.random.default_rng(0)

    def drawn(start: Start | None) -> Iterator[Step | Start]:
        for yielded in started(start, dtype=np.float32):
            yield yielded if isinstance(yielded, Start) else yielded._replace(loss=np.float32(random.random()))

    with pytest.raises(InputError, match="The PyTorch run, started again from its own state before step 20"):
        compare_runs(lambda start: started(start, dtype=np.float32), drawn, steps=40)


def test_runs_that_start_elsewhere_part_before_the_first_step() -> None:
    def moved(start: Start | None) -> Iterator[Step | Start]:
        for yielded in started(start):
            yield Start(parameters={"w": np.ones(4)}) if isinstance(yielded, Start) else yielded

    report = compare_runs(started, moved, steps=4)
    assert (report.step, report.quantity) == (-1, "parameters")
    assert "start from other weights" in str(report)
