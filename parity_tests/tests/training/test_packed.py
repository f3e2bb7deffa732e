"""The steps as a GPU takes them, on a CPU: another form of the same run."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import packed, train
from parity_tests.support.quick import quick

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 5, 1), np.uint8)
LABELS = np.arange(50, dtype=np.uint8) % 3
SMALL = {"image": (4, 5, 1), "hidden": (7, 6), "latent": 3, "batch_size": 8, "dtype": "float64", "learning_rate": 0.01}
CONFIGURATIONS = {
    "no hidden layer": ("pytorch-examples", {"hidden": ()}),
    "classes": ("conditional", {"classes": 3, "activation": "softplus", "binarization": "dynamic"}),
    "a variance for each pixel": ("gaussian-pixel", {"weight_decay": 0.1, "ema": 0.9}),
    "one variance": ("gaussian-learned", {"clip": 0.5, "activation": "tanh", "flip": True}),
    "samples": ("iwae", {"samples": 3, "schedule": "cosine"}),
    "dropout": ("dropout", {}),
    "two optimizers": ("adversarial", {"discriminator": (5,)}),
}


@pytest.fixture
def on_gpu(monkeypatch):
    """Has programs take the path of GPUs, which this processor runs as well."""

    def turn(on: bool) -> None:
        monkeypatch.setattr(train, "has_gpu", lambda: on)
        monkeypatch.setattr(train.lax, "platform_dependent", lambda *given, default, **_: default(*given))

    return turn


def run(spec, state, last=None):
    body = functools.partial(inspect.unwrap(train.train_epoch), spec)
    labels = jnp.asarray(LABELS) if spec.model.classes else None
    return jax.jit(body)(state, jnp.asarray(IMAGES), labels, last)


def numbers(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]


@pytest.mark.parametrize("name", quick(CONFIGURATIONS, ["one variance"]))
@pytest.mark.usefixtures("x64")
def test_it_is_the_run_of_a_cpu(name: str, on_gpu) -> None:
    preset, fields = CONFIGURATIONS[name]
    spec = jaxvae.preset(preset, **SMALL | fields)
    assert packed.packs(spec)
    state = jaxvae.init_state(spec)
    on_gpu(False)
    expected = run(spec, state)
    on_gpu(True)
    found = run(spec, state)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for mine, its in zip(numbers(found), numbers(expected), strict=True):
        # Seven steps, whose sums are taken in another order.
        np.testing.assert_allclose(mine, its, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_an_epoch_that_is_cut_is_the_whole_one(on_gpu) -> None:
    """To the bit: one step is compiled for loops of known length and for the rest."""
    on_gpu(True)
    spec = jaxvae.preset("pytorch-examples", **SMALL)
    whole, log = run(spec, jaxvae.init_state(spec))
    state, first = run(spec, jaxvae.init_state(spec), jnp.asarray(3))
    assert int(state.step) == 3
    state, second = run(spec, state, jnp.asarray(7))
    for mine, its in zip(numbers((state, first + second)), numbers((whole, log)), strict=True):
        np.testing.assert_array_equal(mine, its)
