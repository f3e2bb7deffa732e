"""What is named of the differences of two runs made of NumPy numbers, and what isn't."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from parity_tests import Start, Step, compare_runs
from parity_tests.tests.loops.test_runs import compared, descent, started


def clipped(
    limit: float = np.inf, seen: str = "gradients", small: float = 0.0, rate: float = 0.1
) -> Iterator[Step | Start]:
    """Descent whose gradients grow beyond a limit at step 2, clipped as torch does, or as optax where `small` is 0."""
    w = np.linspace(0.5, 1.5, 4)
    yield Start(parameters={"w": w})
    momentum = np.zeros(4)
    for step in range(6):
        gradient = (0.2 + 0.1 * step) * w + 0.01 * np.sin(np.arange(4.0) * step)
        used = gradient * min(1.0, limit / (np.linalg.norm(gradient) + small))
        momentum = 0.9 * momentum + used
        w = w - rate * (momentum if seen == "optimizer_state" else used)
        shown = {"gradients": {"w": used if seen == "gradients" else gradient}, "parameters": {"w": w}}
        yield Step(
            learning_rate=0.1,
            **shown,
            optimizer_state={"trace": {"w": momentum}} if seen == "optimizer_state" else None,
        )


@pytest.mark.parametrize("seen", ["gradients", "optimizer_state", "parameters"])
@pytest.mark.parametrize(("limit", "small"), [(0.7, 0.0), (0.7, 1e-6), (0.7013, 0.0)])
def test_clipping_that_first_bites_at_a_later_step_is_named(seen: str, limit: float, small: float) -> None:
    report = compared(clipped(seen=seen), clipped(limit, seen, small), steps=6)
    assert (report.step, report.quantity) == (2, seen.replace("_", " "))
    named = "the gradients are clipped to a norm of 0.7" in str(report)
    assert named == (limit == 0.7 or seen == "gradients"), str(report)


def test_clipping_of_both_runs_to_other_bounds_is_named_where_one_bites() -> None:
    report = compared(clipped(0.9), clipped(0.7), steps=6)
    assert "clipped to a norm of 0.9 in JAX and of 0.7 in PyTorch" in str(report)


@pytest.mark.parametrize(
    ("left", "right", "cause"),
    [
        ([0.1] * 9 + [0.01], [0.1] * 10, "to 0.1 of itself at step 9 in JAX and at no later step that is compared in"),
        ([0.1] * 10, [0.1] * 9 + [0.01], "to 0.1 of itself at step 9 in PyTorch and at no later step that is compared"),
        ([0.1] * 3 + [0.01] * 7, [0.1] * 7 + [0.01] * 3, "to 0.1 of itself at step 3 in JAX and at step 7 in PyTorch"),
        ([0.1] * 3 + [0.01] * 3, [0.1] * 3 + [0.05] * 3, "to 0.1 of itself in JAX and to 0.5 of itself in PyTorch at"),
        (
            [10.0 ** -(t // 3) for t in range(12)],
            [10.0 ** -(t // 4) for t in range(12)],
            "at step 3 in JAX and at step 4",
        ),
        ([0.9**t for t in range(8)], [0.95**t for t in range(8)], "is multiplied by 0.9 a step in JAX and 0.95 in"),
        ([1 - t / 10 for t in range(8)], [1 - t / 20 for t in range(8)], "changes by -0.1 a step in JAX and -0.05 in"),
        (
            [np.cos(t / 8) for t in range(9)],
            [np.cos(t // 3 * 3 / 8) for t in range(9)],
            "and once in 3 steps in PyTorch",
        ),
        ([0.1] * 3 + [0.01] * 7, [0.1] * 4 + [0.01] * 6, "the schedule of PyTorch is 1 step late"),
        (
            [0.1 + 0.9 * (1 + np.cos(t / 8)) / 2 for t in range(9)],
            [(1 + np.cos(t / 8)) / 2 for t in range(9)],
            "the cosine ends at 0.1 times its largest learning rate in JAX and at 0 in PyTorch",
        ),
    ],
)
def test_a_change_of_the_learning_rate_is_named(left: list[float], right: list[float], cause: str) -> None:
    """Nothing periodic and no delay is seen in what doesn't show it."""
    in_jax, in_torch = ([Step(learning_rate=rate) for rate in rates] for rates in (left, right))
    report = compared(in_jax, in_torch, steps=len(left))
    assert report.diagnosis is not None
    assert cause in (report.diagnosis.cause or ""), str(report)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_an_average_is_told_by_its_formula_and_not_by_another_steps_number(before: bool, warm: bool) -> None:
    def averaged(before: bool, warm: bool) -> Iterator[Step | Start]:
        w = average = np.linspace(0.5, 1.5, 4)
        yield Start(parameters={"w": w}, ema={"w": average})
        for step in range(4):
            old, w = w, w * 0.9 + 0.01 * step * np.arange(4.0)
            decay = min(0.99, (1 + step) / (10 + step)) if warm else 0.9
            average = decay * average + (1 - decay) * (old if before else w)
            yield Step(parameters={"w": w}, ema={"w": average})

    report = compared(averaged(False, True), averaged(before, warm))
    if (before, warm) == (False, True):
        assert report.passed
        return
    own = "has at step t the decay (1 + t) / (10 + t), which warms up"
    other = (own if warm else "has the decay 0.9") + " and averages the weights before the step" * before
    assert f"the average {own} in JAX, and {other} in PyTorch, as step 1 shows." in str(report)


def test_runs_that_part_and_start_nowhere_are_told_what_a_start_shows() -> None:
    report = compared(descent(), descent(rate=0.2))
    assert report.not_compared == (
        "a step of both from the same state, which tells a step's own work from what an earlier one left, since the "
        "JAX run takes no start; the PyTorch run takes no start: pass a function run(start) that yields its Start and "
        "begins from `start`",
    )
    assert not compared(descent(), descent(order=1)).not_compared, "a batch doesn't depend on the state"
    report = compared(lambda start: descent(), lambda: descent(rate=0.2))
    assert "the JAX run yields no Start; the PyTorch run takes no start:" in str(report)
    report = compare_runs(started, lambda start: started(start, wrong_at=1), steps=4)
    assert not report.not_compared


def test_a_run_that_yields_a_start_is_compared_with_one_that_does_not() -> None:
    """Whose state before step 0 isn't known, so that what differs there is found where it has grown."""
    for wrong_at, expected in ((-1, None), (0, 3), (2, 2)):
        other = [yielded for yielded in started(None, wrong_at=wrong_at) if isinstance(yielded, Step)]
        report = compare_runs(started, other, steps=10)
        assert report.step == expected, str(report)
        hint = "step 0 of both from the same state, since the PyTorch run yields no Start"
        assert report.not_compared == (() if report.passed else (hint,))


def trained(
    smooth: float = 0.0, first: float = 0.9, second: float | None = 0.99, rates: Sequence[float] = (0.1,) * 4,
    bias_second: float | None = None, jolt: float = 0.0, nesterov: bool = False,
) -> Iterator[Step | Start]:  # fmt: skip
    """A softmax classifier trained with Adam, or with momentum where it has no second moment."""
    random = np.random.default_rng(0)
    w = {"weight": random.normal(size=(4, 5)), "bias": random.normal(size=5)}
    m, v = ({n: np.zeros_like(a) for n, a in w.items()} for _ in "mv")
    yield Start(parameters=w)
    for t in range(1, 5):
        x, labels = random.normal(size=(8, 4)), random.integers(0, 5, 8)
        target = (1 - smooth) * np.eye(5)[labels] + smooth / 5
        logits = x @ w["weight"] + w["bias"]
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        slope = (np.exp(logs) - target) / 8
        g = {"weight": x.T @ slope, "bias": slope.sum(0)}
        m = {n: first * m[n] + (g[n] if second is None else (1 - first) * g[n]) for n in w}
        step, state = m, {"trace": m} if first else None
        if second is not None:
            betas = {"weight": second, "bias": bias_second or second}
            v = {n: betas[n] * v[n] + (1 - betas[n]) * g[n] ** 2 for n in w}
            mean = {n: m[n] / (1 - first**t) for n in w}
            if nesterov:
                mean = {n: first * m[n] / (1 - first ** (t + 1)) + (1 - first) * g[n] / (1 - first**t) for n in w}
            step = {n: mean[n] / (np.sqrt(v[n] / (1 - betas[n] ** t)) + 1e-8) for n in w}
            state = {"mu": m, "nu": v}
        w = {n: (w[n] - rates[t - 1] * step[n]) * (1 + jolt * (t == 2)) for n in w}
        loss = -(target * logs).sum(1).mean()
        yield Step({"x": x, "labels": labels}, loss=loss, gradients=g, optimizer_state=state, parameters=w)


@pytest.mark.parametrize(
    ("left", "right", "cause"),
    [
        ({"smooth": 0.1}, {}, "the smoothing of labels is 0.1 more in JAX: bias shows it"),
        ({"smooth": 0.1}, {"smooth": 0.25}, "the smoothing of labels is 0.15 more in PyTorch"),
        (
            {"rates": (0.0, 0.1, 0.1, 0.1)},
            {},
            "and its optimizer takes in the gradient: a learning rate of 0",
        ),
        ({}, {"bias_second": 0.9}, "beta2 is 0.99 in JAX and 0.9 in PyTorch, of bias"),
        ({"second": None}, {}, "of other kinds: they keep momentum in JAX, first moment and second moment in PyTorch"),
        ({"second": None}, {"second": None, "first": 0.0}, "a momentum of 0.9 in JAX and none in PyTorch"),
        ({"second": None, "first": 0.0}, {"second": None}, "a momentum of 0.9 in PyTorch and none in JAX"),
        ({"nesterov": True}, {}, "Nesterov's momentum in JAX only"),
        ({}, {"jolt": 1e-6}, None),
        ({"jolt": 1e-6}, {}, None),
    ],
)
def test_a_setting_is_named_and_a_jolt_is_no_weight_decay(
    left: dict[str, Any], right: dict[str, Any], cause: str | None
) -> None:
    report = compared(trained(**left), trained(**right))
    assert report.diagnosis is not None
    found = report.diagnosis.cause
    assert found is None if cause is None else cause in (found or ""), str(report)


def test_a_first_moment_alone_is_not_called_adams() -> None:
    def signs(decay: float) -> Iterator[Step | Start]:
        """Lion, whose moment decays by its beta2."""
        w, m = np.linspace(0.5, 1.5, 4), np.zeros(4)
        yield Start(parameters={"w": w})
        for t in range(4):
            g = np.sin(7 * t + w)
            w, m = w - 0.1 * np.sign(0.9 * m + 0.1 * g), decay * m + (1 - decay) * g
            yield Step(gradients={"w": g}, optimizer_state={"mu": {"w": m}}, parameters={"w": w})

    report = compared(signs(0.99), signs(0.9))
    assert "the decay of the first moment is 0.99 in JAX and 0.9 in PyTorch" in str(report)
    adam = [one._replace(optimizer_state={**one.optimizer_state, "nu": {"w": np.ones(4)}}) if isinstance(one, Step)
            else one for one in signs(0.9)]  # fmt: skip
    kinds = "of other kinds: they keep first moment in JAX, first moment and second moment in PyTorch"
    assert kinds in str(compared(signs(0.99), adam))


def contrasted(
    rate: float = 1.0, stopped: bool = False, spared: bool = False, trust: bool = False, decay: float = 0.0
) -> Iterator[Step | Start]:
    """Descent of six vectors and a temperature, of clipped gradients or with a trust ratio."""
    w = {f"w{i}": np.linspace(0.5, 1.5 + i, 3) for i in range(6)} | {"temperature": np.array(2.0)}
    yield Start(parameters=w)
    for t in range(4):
        g = {n: np.sin(7 * t + 3 * a) for n, a in w.items()}
        if stopped:
            g["temperature"] = np.zeros(())
        normed = [n for n in g if not (spared and n == "temperature")]
        norm = np.sqrt(sum((g[n] ** 2).sum() for n in normed))
        g |= {n: g[n] * min(1, 0.5 / norm) for n in normed}
        lengths = {n: (np.linalg.norm(a) / np.linalg.norm(g[n]) if trust else 1.0) for n, a in w.items()}
        lengths["temperature"] *= rate
        w = {n: a - 0.1 * (lengths[n] * g[n] + decay * a * (a.ndim > 0)) for n, a in w.items()}
        yield Step(learning_rate=0.1, gradients=g, parameters=w)


@pytest.mark.parametrize(
    ("left", "right", "cause"),
    [
        ({"rate": 0.25}, {}, "the learning rate that step 1 uses is 0.025 in JAX and 0.1 in PyTorch of temperature."),
        ({}, {"rate": 0.25}, "the learning rate that step 1 uses is 0.1 in JAX and 0.025 in PyTorch of temperature."),
        ({"stopped": True}, {}, "no gradient comes to temperature in JAX: frozen"),
        ({}, {"spared": True}, "to a norm of 0.5 in both, which is of all tensors but temperature in PyTorch"),
        ({"trust": True}, {}, "each tensor's step has a length of its own in JAX, as LARS and LAMB"),
        ({"decay": 0.1}, {}, "0.1 of w0, w1, w2, w3 and 2 more, not of temperature"),
    ],
)
def test_one_number_among_tensors_is_no_proof_of_a_decay(
    left: dict[str, Any], right: dict[str, Any], cause: str
) -> None:
    assert cause in (report := str(compared(contrasted(**left), contrasted(**right)))), report


def test_a_term_by_no_round_factor_has_no_factor_for_a_cause() -> None:
    left, right = ([Step(loss=1.0 + kl, terms={"nll": 1.0, "kl": kl})] for kl in (0.5, 0.51234))
    assert str(compared(left, right, steps=1)).endswith("the term kl of the loss differs, and no other.")
