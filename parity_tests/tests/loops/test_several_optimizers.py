"""Runs that train several networks by several optimizers, as a generator and a discriminator."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

from parity_tests import RunsReport, Start, Step, compare_runs

pytestmark = pytest.mark.usefixtures("x64")
NAMES, RATES = ("up", "down"), {"up": 1e-2, "down": 2e-2}


@pytest.fixture(autouse=True)
def _promoting() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def nets() -> dict[str, nn.Linear]:
    torch.manual_seed(0)
    return {name: nn.Linear(3, 3).double() for name in NAMES}


def torch_run(start: Start | None, kind: type = dict, beta: float = 0.999, whole: bool = False) -> Iterator[Any]:
    held = nets()
    optimizers = {n: torch.optim.Adam(net.parameters(), RATES[n], (0.9, beta if n == "up" else 0.999))
                  for n, net in held.items()}  # fmt: skip
    given = nn.ModuleDict(held) if whole else held
    shown = optimizers if kind is dict else kind(optimizers.values())
    if start is None:
        yield Start(parameters=given)
    else:
        for i, (name, net) in enumerate(held.items()):
            prefix = f"{name}."
            state = start.parameters if whole else {prefix + n: a for n, a in start.parameters[name].items()}
            net.load_state_dict({n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)})
            if start.step:
                optimizers[name].load_state_dict(start.optimizer_state[name if kind is dict else i])
    for step in range(start.step if start else 0, 4):
        x = torch.tensor(batch(step))
        loss = held["down"](torch.tanh(held["up"](x))).square().mean()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        yield Step(loss=loss, gradients=given, optimizer_state=shown, parameters=given)


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(4, 3))


@jax.jit
@jax.value_and_grad
def _gradients(params: Any, x: jax.Array) -> jax.Array:
    up, down = params["up"], params["down"]
    return jnp.square(jnp.tanh(x @ up["kernel"] + up["bias"]) @ down["kernel"] + down["bias"]).mean()


def jax_run(start: Start | None, names: dict[str, str] | None = None) -> Iterator[Any]:
    names = names or {}
    params: Any = {
        name: {"kernel": jnp.asarray(net.weight.numpy(force=True).T), "bias": jnp.asarray(net.bias.numpy(force=True))}
        for name, net in nets().items()
    }
    optimizers = {name: optax.adam(RATES[name]) for name in NAMES}
    state = {names.get(name, name): optimizers[name].init(params[name]) for name in NAMES}
    if start is None:
        yield Start(parameters=params)
    else:
        params = start.parameters
        state = start.optimizer_state if start.step else state
    for step in range(start.step if start else 0, 4):
        loss, gradients = _gradients(params, jnp.asarray(batch(step)))
        for name in NAMES:
            at = names.get(name, name)
            updates, own = optimizers[name].update(gradients[name], state[at])
            state = {**state, at: own}
            params = {**params, name: optax.apply_updates(params[name], updates)}
        yield Step(loss=loss, gradients=gradients, optimizer_state=state, parameters=params)


def compared(*, names: dict[str, str] | None = None, **options: Any) -> RunsReport:
    return compare_runs(lambda start: jax_run(start, names), lambda start: torch_run(start, **options), steps=4)


@pytest.mark.parametrize(("kind", "whole"), [(dict, False), (dict, True), (tuple, False), (list, True)])
def test_trees_of_modules_and_of_optimizers_are_compared_and_given_back(kind: type, whole: bool) -> None:
    report = compared(kind=kind, whole=whole)
    assert report.passed, str(report)
    assert not report.not_compared
    assert {finding.level for finding in report.findings} == {"loss", "gradients", "optimizer state", "parameters"}
    assert report.about["states carried"]


def test_a_setting_of_one_of_two_optimizers_is_named_with_its_tensors() -> None:
    report = compared(beta=0.9)
    assert (report.step, report.quantity) == (0, "optimizer state")
    assert "beta2 is 0.999 in JAX and 0.9 in PyTorch, of up.weight, up.bias." in str(report)


def test_a_state_without_the_parameters_paths_is_said_not_to_be_compared() -> None:
    report = compared(names={"up": "a", "down": "b"})
    assert report.passed
    assert report.not_compared == (
        "optimizer state of the JAX run, which has no parameter's path in its own: a/0/mu/bias",
    )
