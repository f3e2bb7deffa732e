"""A training loop of the user's own takes the steps that the packages take."""

import dataclasses
import functools
import re
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout
from parity_tests.support.backends import lean
from parity_tests.support.quick import quick
from parity_tests.support.tiny import small

pytestmark = pytest.mark.usefixtures("x64")
_lean = pytest.fixture(scope="module", autouse=True)(lean)
ROWS, STEPS = 5, 2


def double(name: str) -> Spec:
    spec = small(name)
    return dataclasses.replace(spec, training=dataclasses.replace(spec.training, dtype="float64", seed=1))


def pixels(spec: Spec, step: int) -> np.ndarray:
    least = -1 if spec.images.range == "signed" else 0
    return np.random.default_rng(step).uniform(least, 1, (ROWS, spec.model.pixels))


def by_jax(spec: Spec) -> Any:
    """Adam over all parameters, whether they are trained or not."""
    state = jaxvae.init_state(spec)
    params, adam = state.params, jaxvae.make_optimizer(spec)
    moments = {phase.name: adam.init(params) for phase in jaxvae.phases(spec)}

    @jax.jit
    def step(params: Any, moments: Any, x: jax.Array, key: jax.Array, t: jax.Array) -> Any:
        batch = jaxvae.inputs(spec, x, jaxvae.draw(spec, key, ROWS), weights=jnp.full(ROWS, 1 / ROWS), step=t)
        moments = dict(moments)
        for phase in jaxvae.phases(spec):
            slopes, (_, params) = jax.grad(jaxvae.training_loss, 1, has_aux=True)(spec, params, batch, phase)
            updates, moments[phase.name] = adam.update(slopes, moments[phase.name])
            params = optax.apply_updates(params, updates)
        return params, moments

    noise = jaxvae.streams(state.key).noise
    for t in range(STEPS):
        key = jax.random.fold_in(noise, t)
        params, moments = step(params, moments, jnp.asarray(pixels(spec, t)), key, jnp.int32(t))
    return params


def by_torch(spec: Spec) -> Any:
    state = torchvae.init_state(spec)
    model, optimizers = state.model, torchvae.init_optimizers(spec, state.model)
    noise = torchvae.streams(state.key).noise
    for t in range(STEPS):
        draws = torchvae.draw(spec, torchvae.random.fold_in(noise, t), ROWS)
        shares = torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
        batch = torchvae.inputs(spec, torch.tensor(pixels(spec, t)), draws, weights=shares, step=t)
        for phase in torchvae.phases(spec):
            loss, _ = torchvae.training_loss(spec, model, batch, phase)
            model.zero_grad()
            loss.backward()
            optimizers[phase.name].step()
    return model


@pytest.mark.parametrize("name", quick(["conv", "adversarial"], ["adversarial"]))
def test_an_own_loop_takes_the_packages_steps(package: ModuleType, name: str) -> None:
    spec = double(name)
    actual = package.to_arrays(spec, (by_jax if package is jaxvae else by_torch)(spec))
    state = package.init_state(spec)
    start = package.to_arrays(spec, state[0])
    for t in range(STEPS):
        x = jnp.asarray(pixels(spec, t)) if package is jaxvae else torch.tensor(pixels(spec, t))
        state, _ = package.train_step(spec, state, x)
    expected = package.to_arrays(spec, state[0])
    for parameter in layout.table(spec.model):
        given = actual[parameter.name]
        np.testing.assert_allclose(given, expected[parameter.name], rtol=1e-10, atol=1e-13, err_msg=parameter.name)
        moved = parameter.trained or "running" in parameter.name
        assert np.array_equal(given, start[parameter.name]) != moved, parameter.name


@pytest.mark.either
def test_the_loss_of_a_batch_is_the_steps(package: ModuleType) -> None:
    """An epoch of one step, in which images are mirrored, moved and binarised anew."""
    spec = jaxvae.preset(
        "conv", image=(6, 5, 2), hidden=(4, 6), latent=4, likelihood="gaussian", range="unit", binarization="dynamic",
        flip=True, shift=1, batch_size=9, dtype="float64", beta=0.5, warmup=4, units="image",
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 2), dtype=np.uint8)
    on_device = jnp.asarray(images) if package is jaxvae else torch.tensor(images)
    state = package.init_state(spec)._replace(step=jnp.int32(2) if package is jaxvae else 2)
    order = np.asarray(package.epoch_order(spec, state.key, 2, 9)).ravel()
    key = package.stream_key(state.key, "noise", 2)
    compute = functools.partial(package.loss, spec, step=2)
    compute = jax.jit(compute) if package is jaxvae else compute
    loss, (terms, _) = compute(state[0], on_device[order], key)
    _, log = package.train_epoch(spec, state, on_device)
    if package is torchvae:
        loss, terms = loss.detach(), {name: term.detach() for name, term in terms.items()}
    terms = [float(terms[name]) for name in spec.terms]
    np.testing.assert_allclose(terms, np.asarray(log)[0], rtol=1e-12)
    assert float(loss) == pytest.approx(terms[0], rel=1e-12)


def test_fit_takes_arrays(package: ModuleType) -> None:
    spec = jaxvae.preset("conditional", image=(4, 3, 1), hidden=(5,), latent=2, classes=3, dtype="float64", epochs=1)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (25, 4, 3, 1), dtype=np.uint8), rng.integers(0, 3, 25)
    seen: list[np.ndarray] = []
    state = package.fit(spec, images, lambda progress: seen.append(progress.test), labels=labels)
    tenth, small_labels = np.arange(25) % 10 == 9, labels.astype(np.uint8)
    splits = images[~tenth], small_labels[~tenth], images[tenth], small_labels[tenth]
    expected = package.fit(spec, jaxvae.Dataset("", "", *splits), lambda progress: seen.append(progress.test))
    np.testing.assert_array_equal(seen[0], seen[1])
    for name, array in package.to_arrays(spec, state[0]).items():
        np.testing.assert_array_equal(array, package.to_arrays(spec, expected[0])[name], err_msg=name)


@pytest.mark.parametrize(
    ("data", "labels", "sentence"),
    [
        (np.zeros((9, 4, 3, 1), np.uint8), np.zeros(8, np.uint8), "one label for each of 9 images, found (8,)"),
        (np.zeros((9, 4, 3, 1)), None, "fit needs"),
        (np.zeros((1, 4, 3, 1), np.uint8), None, "The array has 1 image, but one to train and one to test"),
        ([[1]], None, "fit needs a Dataset, or uint8 images, found list"),
        (np.zeros((9, 4, 4, 1), np.uint8), None, "fit needs"),
        (np.zeros((9, 4, 3, 1), np.uint8), np.full(9, 0.5), "fit"),
        (np.full((9, 4, 3, 1), 9, np.uint8), None, "fit: a model of 3 classes needs labels, found none"),
        (np.ones((9, 4, 3, 1), np.uint8), np.zeros(9, np.uint8), "found none above 1; multiply images of 0 and 1"),
    ],
)
def test_arrays_that_can_not_be_trained_on_are_refused(package: ModuleType, data, labels, sentence: str) -> None:
    spec = jaxvae.preset("conditional", image=(4, 3, 1), hidden=(5,), latent=2, classes=3, dtype="float64")
    with pytest.raises(InputError, match=re.escape(sentence)):
        package.fit(spec, data, labels=labels)


def test_labels_in_the_place_of_a_callback_are_refused(package: ModuleType) -> None:
    with pytest.raises(InputError, match="fit needs a function for on_epoch, found ndarray; give labels="):
        package.fit(small("conditional"), np.zeros((9, 6, 5, 1), np.uint8), np.zeros(9, np.uint8))


def test_fit_trains_on_the_first_images_alone(package: ModuleType) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 3, 1), dtype=np.uint8)
    changes: dict[str, Any] = {"image": (4, 3, 1), "hidden": (5,), "latent": 2, "epochs": 1, "batch_size": 4}
    spec = jaxvae.preset("pytorch-examples", **changes, train_images=20, validation=4)
    assert int(package.fit(spec, images).step) == 4


def test_a_batch_does_not_tell_which_image_is_which(package: ModuleType) -> None:
    spec = jaxvae.preset("flax-example", image=(4, 4, 1), hidden=(5,), latent=2)
    images = np.zeros((3, 4, 4, 1), np.uint8)
    given = jnp.asarray(images) if package is jaxvae else torch.tensor(images)
    state = package.init_state(spec)
    with pytest.raises(InputError, match="take the binarization dynamic"):
        package.loss(spec, state[0], given, package.root_key(0))


@pytest.mark.parametrize("trains", [False, True], ids=["image_terms", "training_loss"])
def test_statistics_have_no_gradient(package: ModuleType, trains: bool) -> None:
    spec = double("conv")
    state = package.init_state(spec)
    draws = package.draw(spec, package.root_key(0), ROWS)
    table = [parameter for parameter in layout.table(spec.model) if "running" in parameter.name]
    assert table
    if package is torchvae:
        x, shares = torch.tensor(pixels(spec, 0)), torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
        if trains:
            torchvae.training_loss(spec, state.model, torchvae.inputs(spec, x, draws, weights=shares))[0].backward()
        else:
            torchvae.image_terms(spec, state.model, x, draws).loss.mean().backward()
        buffers = dict(state.model.named_buffers())
        assert all(not buffers[p.name].requires_grad and buffers[p.name].grad is None for p in table)
        assert state.model.get_parameter("encoder.hidden.0.conv.weight").grad is not None
        return

    def loss(params: Any) -> jax.Array:
        x = jnp.asarray(pixels(spec, 0))
        if trains:
            batch = jaxvae.inputs(spec, x, draws, weights=jnp.full(ROWS, 1 / ROWS))
            return jaxvae.training_loss(spec, params, batch)[0]
        return jaxvae.image_terms(spec, params, x, draws).loss.mean()

    slopes = jax.jit(jax.grad(loss))(state.params)
    for parameter in table:
        node = slopes
        for key in parameter.path:
            node = node[key]
        np.testing.assert_array_equal(node, 0)
    assert np.abs(slopes["encoder"]["hidden"][0]["conv"]["kernel"]).max() > 0


def test_a_batch_for_evaluation_trains_nothing(package: ModuleType) -> None:
    spec = double("conv")
    x = jnp.asarray(pixels(spec, 0)) if package is jaxvae else torch.tensor(pixels(spec, 0))
    batch = package.inputs(spec, x, package.draw(spec, package.root_key(0), ROWS))
    with pytest.raises(InputError, match=r"^training_loss needs a batch for training, found one for evaluation; give"):
        package.training_loss(spec, package.init_state(spec)[0], batch)
    several = double("adversarial")
    with pytest.raises(InputError, match=r"^A step of the objective adversarial has the phases .*; pass"):
        package.training_loss(several, package.init_state(several)[0], batch)


def test_a_step_leaves_the_mode_of_a_module() -> None:
    spec = double("conv")
    model, shares = torchvae.init_state(spec).model, torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    draws = torchvae.draw(spec, torchvae.root_key(0), ROWS)
    batch = torchvae.inputs(spec, torch.tensor(pixels(spec, 0)), draws, weights=shares)
    for mode in (True, False):
        torchvae.training_loss(spec, model.train(mode), batch)
        assert all(module.training is mode for module in model.modules())
