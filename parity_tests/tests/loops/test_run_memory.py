"""What a comparison of runs keeps doesn't grow with their steps, and runs that advance together don't disturb each
other."""

import functools
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from parity_tests import RunsReport, Start, Step, compare_runs

SIZE = 10_000
WRONG_AT = 3


def run(start: Start | None, dtype: type = np.float64, factor: float = 1.0, turned: bool = False) -> Iterator[Any]:
    """Gradient descent on a large vector; from a step on its gradient may have a factor, and be rounded otherwise."""
    w = np.linspace(0.5, 1.5, SIZE, dtype=dtype) if start is None else np.asarray(start.parameters["w"], dtype)
    if start is None:
        yield Start(parameters={"w": w})
    for step in range(0 if start is None else start.step, 1000):
        x = np.random.default_rng(step).normal(size=(2, 8))
        gradient = (w**3 + w if turned else w * (1 + w * w)).astype(dtype)
        gradient = gradient * dtype(factor if step >= WRONG_AT else 1.0)
        loss = w.mean()
        w = w - dtype(0.01) * gradient
        yield Step(batch=x, learning_rate=0.01, loss=loss, gradients={"w": gradient}, parameters={"w": w})


def calling_back(start: Start | None, on_step: Callable[[Any], None], **options: Any) -> None:
    for yielded in run(start, **options):
        on_step(yielded)


def peak(left: Any, right: Any, steps: int) -> tuple[int, RunsReport]:
    """Return how many arrays of a state's size are held at most, and the report."""
    tracemalloc.start()
    try:
        report = compare_runs(left, right, steps=steps)
        held = tracemalloc.get_traced_memory()[1] / (SIZE * (8 if report.about["dtype"] == "float64" else 4))
    finally:
        tracemalloc.stop()
    return round(held), report


@pytest.mark.parametrize(
    ("dtype", "factor", "called"),
    [
        (np.float64, 1.001, False),
        (np.float64, 1.001, True),
        (np.float32, 1.0, False),
        (np.float32, 1.1, True),
    ],
)
def test_what_is_kept_does_not_grow_with_the_steps(dtype: type, factor: float, called: bool) -> None:
    one = calling_back if called else run
    left = functools.partial(one, dtype=dtype)
    right = functools.partial(one, dtype=dtype, factor=factor, turned=True)
    (few, _), (many, report) = (peak(left, right, steps) for steps in (10, 30))
    assert many <= few + 3, (few, many)
    assert (report.step, report.quantity) == ((None, None) if factor == 1 else (WRONG_AT, "gradients"))


def test_runs_draw_from_the_global_generators_as_if_alone() -> None:
    """Whoever seeds them in both scripts gets the same numbers in both, though they advance in turn."""

    def drawn() -> Iterator[Step]:
        np.random.seed(3)
        torch.manual_seed(4)
        random.seed(5)
        for _ in range(4):
            noise = torch.rand(2, dtype=torch.float64).numpy() + random.random()
            yield Step(batch=np.random.permutation(9), loss=float(noise.sum()))

    random.seed(0)
    expected = random.random()
    random.seed(0)
    report = compare_runs(drawn, drawn, steps=4)
    assert report.passed, str(report)
    assert random.random() == expected


def test_a_loop_that_calls_back_ends_when_the_other_fails() -> None:
    ended = []

    def stays(on_step: Callable[[Any], None]) -> None:
        try:
            while True:
                on_step(Step(loss=1.0))
        finally:
            ended.append(True)

    with pytest.raises(Exception, match="The PyTorch run yields 2 steps, expected 4"):
        compare_runs(stays, [Step(loss=1.0)] * 2, steps=4)
    assert ended
