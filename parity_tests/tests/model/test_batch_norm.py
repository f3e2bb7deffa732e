"""Batch norm and the activations, number by number, against numpy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy.special import expit

import jaxvae
import torchvae
import torchvae.layers
import torchvae.operations
from jaxvae import layers, operations
from jaxvae.shared.config.choices import Activation
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.model import layout
from parity_tests.support.backends import lean

pytestmark = pytest.mark.usefixtures("x64")
both = pytest.mark.parametrize("package", ["jaxvae", "torchvae"])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3, 2, 5)) * 2 + 1  # images, height, width, channels
SCALE, BIAS, MEAN, VAR = RNG.normal(size=5), RNG.normal(size=5), RNG.normal(size=5), RNG.uniform(0.5, 2, 5)
ACTIVATIONS: dict[Activation, float] = {  # and the slope at 0
    **{"relu": 0.0, "tanh": 1.0, "leaky-relu": 0.01, "leaky-relu-0.2": 0.2, "softplus": 0.5, "elu": 1.0}
}
LAYER = layout.Layer(("encoder", "hidden", 0, "conv"), "conv", 1, 5, (3, 2), normed=True)


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


def normalize(package: str, x: np.ndarray, train: bool = True, weights: np.ndarray | None = None):
    """What batch norm gives, and the running mean and variance after it."""
    dtype = x.dtype
    if package == "jaxvae":
        norm = layers.BatchNorm(5)
        scale, bias, mean, var = (jnp.asarray(value.astype(dtype)) for value in (SCALE, BIAS, MEAN, VAR))
        norm.scale, norm.bias = nnx.Param(scale), nnx.Param(bias)
        norm.mean, norm.var = nnx.BatchStat(mean), nnx.BatchStat(var)
        shares = np.full(len(x), 1 / len(x)) if weights is None else weights
        y = norm(jnp.asarray(x), jaxvae.Training(jnp.asarray(shares.astype(dtype))) if train else None)
        return np.asarray(y), np.asarray(norm.mean[...]), np.asarray(norm.var[...])
    norm: Any = torchvae.layers.Block(LAYER).norm
    norm = norm.to(torch.tensor(x).dtype).train(train)
    values = {"weight": SCALE, "bias": BIAS, "running_mean": MEAN, "running_var": VAR}
    norm.load_state_dict({name: torch.tensor(value) for name, value in values.items()}, strict=False)
    with torch.no_grad():
        y = norm(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    state = norm.state_dict()
    return y, state["running_mean"].numpy(), state["running_var"].numpy()


def by_numpy(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    return (x - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS


@both
def test_training_takes_the_batchs_moments_and_keeps_unbiased_ones(package: str) -> None:
    """Normalized by the biased variance; the running one takes a tenth of N / (N - 1) times it, N = 24 here."""
    y, mean, var = normalize(package, X)
    flat = X.reshape(-1, 5)
    np.testing.assert_allclose(y, by_numpy(X, flat.mean(0), flat.var(0)), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(mean, 0.9 * MEAN + 0.1 * flat.mean(0), rtol=1e-13)
    np.testing.assert_allclose(var, 0.9 * VAR + 0.1 * flat.var(0, ddof=1), rtol=1e-13)


@both
def test_evaluation_takes_the_running_ones_and_leaves_them(package: str) -> None:
    y, mean, var = normalize(package, X, train=False)
    np.testing.assert_allclose(y, by_numpy(X, MEAN, VAR), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(mean, MEAN)
    np.testing.assert_array_equal(var, VAR)


@both
def test_a_mean_of_a_thousand_deviations_keeps_the_digits(package: str) -> None:
    """In float32, where E[x^2] - E[x]^2 would leave a tenth of the variance to chance."""
    x = (RNG.normal(size=(8, 3, 2, 5)) + 1000).astype(np.float32)
    y, _, var = normalize(package, x)
    flat = x.reshape(-1, 5).astype(np.float64)
    # The mean is right to an ulp of 1000, 6e-5, times scales of up to 2; the variance's own error is its square.
    np.testing.assert_allclose(y, by_numpy(x.astype(np.float64), flat.mean(0), flat.var(0)), atol=3e-4)
    np.testing.assert_allclose(var, 0.9 * VAR + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_images_that_fill_up_a_batch_count_for_nothing() -> None:
    """Whatever they hold: outputs of the others, statistics and gradients are those of the others alone."""
    filled = np.concatenate([X, 100 * RNG.normal(size=(3, 3, 2, 5))])
    weights = np.array([0.25] * 4 + [0.0] * 3)
    alone, padded = normalize("jaxvae", X), normalize("jaxvae", filled, weights=weights)
    for actual, expected in zip((padded[0][:4], *padded[1:]), alone, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-14)
    slopes = RNG.normal(size=X.shape)

    @jax.jit
    def gradient(x: jax.Array, weights: jax.Array) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            return (layers.BatchNorm(5)(x, jaxvae.Training(weights))[:4] * jnp.asarray(slopes)).sum()

        return jax.grad(loss)(x)

    actual = np.asarray(gradient(jnp.asarray(filled), jnp.asarray(weights)))
    expected = np.asarray(gradient(jnp.asarray(X), jnp.full(4, 0.25)))
    np.testing.assert_allclose(actual[:4], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(actual[4:], 0)


@both
@pytest.mark.parametrize(("name", "slope"), [*ACTIVATIONS.items(), ("leaky-relu", 0.3)])
def test_the_activations_slope_at_0_is_pytorchs(package: str, name: Activation, slope: float) -> None:
    leaky: dict[str, Any] = {"slope": slope} if name == "leaky-relu" else {}
    model, at = ModelSpec(activation=name, **leaky), np.array([-2.0, -1e-300, 0.0, 1e-300, 2.0])
    if package == "jaxvae":
        slopes = np.asarray(jax.vmap(jax.grad(lambda x: operations.activate(model, x)))(jnp.asarray(at)))
        values = np.asarray(operations.activate(model, jnp.asarray(at)))
    else:
        leaf = torch.tensor(at, requires_grad=True)
        given = torchvae.operations.activate(model, leaf)
        given.sum().backward()
        assert leaf.grad is not None
        slopes, values = leaf.grad.numpy(), given.detach().numpy()
    assert slopes[2] == slope
    sides, curved = {"leaky-relu": [slope, 1], "leaky-relu-0.2": [0.2, 1], "relu": [0, 1]}, 1 - np.tanh(2) ** 2
    smooth = {"tanh": [curved, curved], "softplus": expit([-2.0, 2.0]), "elu": [np.exp(-2), 1]}
    np.testing.assert_allclose(slopes[[0, 4]], (sides | smooth)[name], rtol=1e-14)
    straight = {each: np.multiply(slope, [-2.0, 2.0]) for each, slope in sides.items()}
    bent = {"tanh": np.tanh([-2.0, 2.0]), "softplus": np.log1p(np.exp([-2.0, 2.0])), "elu": [np.expm1(-2), 2]}
    np.testing.assert_allclose(values[[0, 4]], (straight | bent)[name], rtol=4e-16)


def test_a_torch_networks_float32_statistics_keep_their_digits() -> None:
    """With channels last in memory, PyTorch adds 64 x 196 numbers one after another: those of a dark border, all equal,
    round the same way each time, and the result is off by 2e-4."""
    model, seen = torchvae.VAE(ModelSpec((28, 28, 1), (8,), 2, network="conv")).train(), {}
    norm = model.get_submodule("encoder.hidden.0.norm")
    norm.register_forward_hook(lambda module, given, gave: seen.update(given=given[0], gave=gave))
    images = np.zeros((64, 28, 28), np.float32)
    images[:, 8:20, 8:20] = RNG.uniform(size=(64, 12, 12))
    with torch.no_grad():
        model.encode(torch.tensor(images.reshape(64, 784)))
    given, gave = (seen[name].double().numpy() for name in ("given", "gave"))
    mean, var = (f((0, 2, 3), keepdims=True) for f in (given.mean, given.var))
    expected = (given - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(gave, expected, rtol=0, atol=1e-5)  # 20 float32 roundings of numbers up to 6
