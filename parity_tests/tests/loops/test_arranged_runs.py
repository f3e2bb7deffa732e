"""Runs of which one has in one array what the other has in several."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from jaxvae.shared.errors import InputError
from parity_tests import Start, Step, compare_runs
from parity_tests.support.arranged.pairs import Gated, GatedInJax, Tied, TiedInTorch

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 6


@pytest.fixture(autouse=True)
def _promoting() -> Iterator[None]:
    """As optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(3, 8))


def torch_run(weights: dict[str, torch.Tensor], start: Start | None) -> Iterator[Any]:
    net = Gated(False).double()
    net.load_state_dict(weights)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    if start is None:
        yield Start(parameters=net)
    else:
        net.load_state_dict(start.parameters)
        if start.step:
            optimizer.load_state_dict(start.optimizer_state)
    for step in range(start.step if start else 0, STEPS):
        optimizer.zero_grad()
        loss = net(torch.tensor(batch(step))).square().mean()
        loss.backward()
        optimizer.step()
        yield Step(loss=loss, gradients=net, optimizer_state=optimizer, parameters=net)


def jax_run(weights: dict[str, torch.Tensor], wrong_at: int, start: Start | None) -> Iterator[Any]:
    net, arrays = GatedInJax(True, nnx.Rngs(0)), {name: tensor.numpy() for name, tensor in weights.items()}
    nnx.update(net, jax.tree.map(lambda array: array.astype(jnp.float64), nnx.state(net)))
    fused = np.concatenate([arrays["gate_proj.weight"], arrays["up_proj.weight"]]).T
    net.gate_up_proj.kernel[...], net.down.kernel[...] = jnp.asarray(fused), jnp.asarray(arrays["down.weight"].T)
    assert net.down.bias is not None
    net.down.bias[...] = jnp.asarray(arrays["down.bias"])
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    if start is None:
        yield Start(parameters=net)
    else:
        nnx.update(net, start.parameters)
        if start.step:
            nnx.update(optimizer, start.optimizer_state)
    for step in range(start.step if start else 0, STEPS):
        x = jnp.asarray(batch(step))
        loss, gradients = nnx.value_and_grad(lambda net, x=x: jnp.square(net(x)).mean())(net)
        if step == wrong_at:
            kernel = gradients.gate_up_proj.kernel
            kernel[...] = kernel[...].at[0, 13].multiply(1.0001)  # of the second part, the first output but one
        optimizer.update(net, gradients)
        yield Step(loss=loss, gradients=gradients, optimizer_state=optimizer, parameters=net)


def runs(wrong_at: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    torch.manual_seed(0)
    weights = Gated(False).double().state_dict()

    def in_jax(start: Start | None) -> Iterator[Any]:
        return jax_run(weights, wrong_at, start)

    def in_torch(start: Start | None) -> Iterator[Any]:
        return torch_run(weights, start)

    return in_jax, in_torch


def test_parameters_gradients_and_moments_are_compared_in_torchs_parts() -> None:
    report = compare_runs(*runs(-1), steps=STEPS)
    assert report.passed, str(report)
    assert {finding.level for finding in report.findings} == {"loss", "gradients", "optimizer state", "parameters"}
    assert not report.not_compared


def test_a_step_is_found_with_states_carried_in_parts() -> None:
    report = compare_runs(*runs(3), steps=STEPS)
    assert (report.step, report.quantity) == (3, "gradients")
    assert "up_proj.weight: It differs: by" in str(report)


def test_what_is_trained_in_parts_is_refused() -> None:
    def run(net: Any) -> Iterator[Step]:
        yield Step(parameters=net)

    left, right = partial(run, Tied(True, nnx.Rngs(0))), partial(run, TiedInTorch(False))
    with pytest.raises(
        InputError, match=r"The two runs train other arrays: one array in JAX and 'embed\.weight' and 'h"
    ):
        compare_runs(lambda: left(), lambda: right(), steps=1)
