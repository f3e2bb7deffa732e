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


def in_turn(critic_rate: float = 0.1, limit: float = 9.0, halved: bool = False) -> Iterator[Step | Start]:
    """A critic that is trained before what it judges, each with a loss of its own."""
    w = {"critic": {"w": np.linspace(0.5, 1.5, 4)}, "maker": {"w": np.ones(4)}}
    yield Start(parameters=w)
    for step in range(4):
        x = np.random.default_rng(step).normal(size=(5, 3))
        critic, maker = w["critic"]["w"], w["maker"]["w"]
        share = 0.5 if halved else 1.0
        slope = np.clip(share * (critic - maker) + 0.1 * np.sin(step + np.arange(4)), -limit, limit)
        critic_loss, critic = share * float(critic @ critic - critic @ maker), critic - critic_rate * slope
        slopes = {"critic": {"w": slope}, "maker": {"w": maker - critic}}
        loss = {"maker": float(((maker - critic) ** 2).sum()), "critic": critic_loss}
        w = {"critic": {"w": critic}, "maker": {"w": maker - 0.1 * slopes["maker"]["w"]}}
        yield Step(x, learning_rate={"maker": 0.1, "critic": 0.1}, loss=loss, gradients=slopes, parameters=w)


@pytest.mark.parametrize(
    ("fault", "where", "cause"),
    [
        ({"critic_rate": 0.2}, "Step 0, parameters, critic/w", "the learning rate that step 1 uses is 0.2 in JAX and"),
        ({"limit": 0.25}, "Step 0, gradients, critic/w", "clipped value by value to 0.25 in JAX only"),
        ({"halved": True}, "Step 0, loss, critic", None),
    ],
)
def test_an_update_is_to_blame_before_the_loss_of_the_network_that_it_changes(
    fault: dict[str, Any], where: str, cause: str | None
) -> None:
    """And no factor of a loss is a count of tokens where numbers are no tokens."""
    diagnosis = compare_runs(in_turn(**fault), in_turn(), steps=4).diagnosis
    assert diagnosis is not None
    assert (diagnosis.where, "tokens" in str(diagnosis.cause)) == (where, False), diagnosis
    assert cause is None or cause in (diagnosis.cause or ""), diagnosis
