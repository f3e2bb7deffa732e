"""The two packages from the same state: outputs, losses, gradients and optimizer steps, in both precisions."""

from collections.abc import Iterator

import jax
import numpy as np
import optax
import pytest

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from jaxvae.train import make_optimizer
from parity_tests.harness.compare import gap
from parity_tests.harness.vae import jax_backend, torch_backend
from parity_tests.harness.vae.batch import Batch
from parity_tests.support.quick import quick

# Tolerances, as shares of each array's largest magnitude. A float32 sum over 784 products rounds at 784^0.5 * 6e-8
# = 2e-6 of its terms' size, and the two frameworks add in different orders; gradients and one Adam step stay below the
# same rounding because their sums are shorter. In float64 the same sums round at 6e-15.
OUTPUTS = {"float32": 1e-5, "float64": 1e-13}
LOSSES = {"float32": 2e-6, "float64": 1e-13}
GRADIENTS = {"float32": 5e-6, "float64": 1e-12}
ONE_STEP = {"float32": 1e-6, "float64": 1e-12}

MODELS = {
    "784-400-20": ModelSpec(),
    "deep": ModelSpec(hidden=(96, 64, 32), latent=7),
    "linear": ModelSpec(hidden=(), latent=3),
    "colour": ModelSpec(image=(5, 9, 3), hidden=(33,), latent=2),
    "one": ModelSpec(image=(1, 1, 1), hidden=(1,), latent=1),
    "conv": ModelSpec((7, 10, 2), (5, 8), 3, network="conv", activation="leaky-relu", likelihood="gaussian-learned"),
    "conditional": ModelSpec((6, 5, 1), (20,), 3, activation="tanh", classes=4, likelihood="gaussian-pixel"),
    "dropout, three samples": ModelSpec((6, 5, 1), (20, 10), 3),
}


@pytest.fixture(
    params=quick(
        (f"{name}-{dtype}" for name in MODELS for dtype in ("float32", "float64")),
        [
            *("784-400-20-float64", "one-float64", "conv-float64", "dropout, three samples-float64"),
            *("deep-float32", "conditional-float32"),
        ],
    )
)
def spec(request: pytest.FixtureRequest) -> Iterator[Spec]:
    name, _, dtype = request.param.rpartition("-")
    objective, images = ObjectiveSpec(1.0 if name == "784-400-20" else 2.5), ImagesSpec()
    if name == "dropout, three samples":
        objective = ObjectiveSpec(form="iwae", samples=3)
        images = ImagesSpec(corruption="hidden-dropout", corruption_level=0.25)
    training = TrainingSpec(dtype=dtype, seed=2**40 + 3)  # type: ignore[arg-type]
    jax.config.update("jax_enable_x64", dtype == "float64")
    yield Spec("digits", MODELS[name], objective, training, images)
    jax.config.update("jax_enable_x64", False)


def batch(spec: Spec, seed: int = 0, size: int = 128) -> Batch:
    """Grey images with the full blacks and whites that MNIST has, standard normals, and what else there is."""
    rng, dtype, level = np.random.default_rng(seed), spec.training.dtype, spec.images.corruption_level
    pixels = rng.integers(-128, 384, (size, spec.model.pixels)).clip(0, 255) / 255
    samples = () if spec.objective.samples == 1 else (spec.objective.samples,)
    eps = rng.normal(size=(*samples, size, spec.model.latent)).astype(dtype)
    labels = rng.integers(0, spec.model.classes, size, dtype=np.uint8) if spec.model.classes else None
    units = layout.hidden_units(spec.model) if spec.images.corruption == "hidden-dropout" else ()
    masks = tuple(((rng.uniform(size=(size, *shape)) >= level) / (1 - level)).astype(dtype) for shape in units)
    return Batch(pixels.astype(dtype), eps, labels, masks=masks)


def test_initial_weights_are_identical(spec: Spec) -> None:
    actual, expected = jax_backend.initial(spec), torch_backend.initial(spec)
    assert list(actual) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_initial_weights_fill_pytorchs_range(dtype: str) -> None:
    spec = Spec(training=TrainingSpec(dtype=dtype))  # type: ignore[arg-type]
    weight = torch_backend.initial(spec)["encoder.hidden.0.weight"]
    bound = 1 / np.sqrt(784)
    assert 0.999 * bound < np.abs(weight).max() <= bound
    # The variance of U(-b, b) is b^2/3, known from 313,600 draws to 5 standard errors of 0.16 %.
    assert weight.var() == pytest.approx(bound**2 / 3, rel=0.008)


def test_outputs(spec: Spec) -> None:
    arrays, given = jax_backend.initial(spec), batch(spec)
    given = given._replace(eps=given.eps.reshape(-1, *given.eps.shape[-2:])[0])
    assert gap(jax_backend.forward(spec, arrays, given), torch_backend.forward(spec, arrays, given)) < (
        OUTPUTS[spec.training.dtype],
    )


def test_losses(spec: Spec) -> None:
    arrays, given = jax_backend.initial(spec), batch(spec)
    assert gap(jax_backend.losses(spec, arrays, given), torch_backend.losses(spec, arrays, given)) < (
        LOSSES[spec.training.dtype],
    )


def test_every_gradient(spec: Spec) -> None:
    arrays, given = jax_backend.initial(spec), batch(spec)
    actual, expected = (backend.gradients(spec, arrays, given) for backend in (jax_backend, torch_backend))
    assert gap(actual, expected) < (GRADIENTS[spec.training.dtype],)


def test_adam_on_the_same_gradients(spec: Spec) -> None:
    arrays = jax_backend.initial(spec)
    gradients = [jax_backend.gradients(spec, arrays, batch(spec, seed)) for seed in range(3)]
    # All of the first's sign: a moment in which they cancel is but their roundings.
    gradients = [{name: np.copysign(g, gradients[0][name]) for name, g in each.items()} for each in gradients]
    in_jax, in_torch = (backend.optimize(spec, arrays, gradients) for backend in (jax_backend, torch_backend))
    for actual, expected in zip(in_jax, in_torch, strict=True):
        assert gap(actual, expected) < (ONE_STEP[spec.training.dtype],)


def test_one_step_of_training(spec: Spec) -> None:
    """From a state twenty steps into training: Adam's first steps are of size lr * sign(gradient), and the sign of a
    gradient that is zero but for rounding depends on rounding."""
    batches = [batch(spec, seed) for seed in range(21)]
    arrays, optimizer, _ = jax_backend.steps(spec, jax_backend.initial(spec), batches[:20])
    in_jax, in_torch = (
        backend.steps(spec, arrays, batches[20:], optimizer) for backend in (jax_backend, torch_backend)
    )
    for actual, expected in zip(in_jax[:2], in_torch[:2], strict=True):
        assert gap(actual, expected) < (ONE_STEP[spec.training.dtype],)


@pytest.mark.parametrize("steps", quick([1, 100], [1]))
def test_steps_from_the_start_in_float64(steps: int, digits, x64: None) -> None:
    spec = Spec("digits", training=TrainingSpec(dtype="float64"))
    images = [digits.train.reshape(-1, 784)[i % 11 * 128 :][:128] / 255 for i in range(steps)]
    batches = [Batch(x, np.zeros((128, 20))) for x in images]  # a step draws its own eps
    in_jax, in_torch = (backend.steps(spec, backend.initial(spec), batches) for backend in (jax_backend, torch_backend))
    for actual, expected in zip(in_jax[:2], in_torch[:2], strict=True):
        assert gap(actual, expected) < (1e-12,)
    np.testing.assert_allclose(in_jax[2], in_torch[2], rtol=1e-13)


def test_adam_is_optaxs(x64: None) -> None:
    """In float64, where optax's own float32 bias correction doesn't show."""
    spec, rng = Spec(training=TrainingSpec(dtype="float64")), np.random.default_rng(0)
    params = {"a": rng.normal(size=(5, 4)), "b": {"c": rng.normal(size=3)}}
    in_jax, in_torch = make_optimizer(spec), optax.adam(spec.training.learning_rate)
    state, other = in_jax.init(params), in_torch.init(params)
    for _ in range(100):
        gradients = jax.tree.map(lambda p: rng.normal(size=p.shape) * 1e-3, params)
        actual, state = in_jax.update(gradients, state, params)
        with jax.numpy_dtype_promotion("standard"):  # optax's own bias correction needs it
            expected, other = in_torch.update(gradients, other, params)
        jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-12), actual, expected)
    assert isinstance(state, optax.ScaleByAdamState)
    assert isinstance(other, tuple)
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-12), state, other[0])


def test_an_epoch_with_a_ragged_last_batch(digits, dtype: str) -> None:
    """1,500 images in batches of 128 leave 92 for the twelfth step."""
    spec = Spec("digits", training=TrainingSpec(epochs=1, dtype=dtype))  # type: ignore[arg-type]
    trained = (backend.train(spec, backend.initial(spec), digits) for backend in (jax_backend, torch_backend))
    (in_jax, _, jax_terms), (in_torch, _, torch_terms) = trained
    assert jax_terms.shape == (12, 3)
    # Twelve steps of a growing float32 difference: a step's rounding, 1e-6, can double three times.
    np.testing.assert_allclose(jax_terms, torch_terms, rtol={"float32": 1e-5, "float64": 1e-13}[dtype])
    if dtype == "float64":
        # Adam's first steps move a weight by lr * g / (|g| + eps): a rounding error of 1e-17 in a gradient below eps
        # = 1e-8 becomes 1e-3 * 1e-9 = 1e-12 in a weight, 3e-11 of the largest.
        assert gap(in_jax, in_torch) < (3e-11,)


@pytest.mark.parametrize("backend", [jax_backend, torch_backend], ids=["jaxvae", "torchvae"])
def test_a_run_may_end_within_an_epoch(backend, digits, x64: None) -> None:
    whole = Spec("digits", training=TrainingSpec(epochs=1, dtype="float64"))
    cut = Spec("digits", training=TrainingSpec(epochs=1, dtype="float64", max_steps=5))
    *_, terms = backend.train(whole, backend.initial(whole), digits)
    arrays, _, some = backend.train(cut, backend.initial(cut), digits)
    assert len(some) == 5
    np.testing.assert_allclose(some, terms[:5], rtol=1e-14)
    assert gap(arrays, backend.initial(cut)).size > 0.01
