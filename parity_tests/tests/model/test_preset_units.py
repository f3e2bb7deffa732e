"""What is said of a preset against its source's formula, how presets become each other in nats per image, and what a
preset's images start from."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared.config.choices import Corruption
from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, TrainingSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.mean_image import last_bias
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description
from parity_tests.support.backends import (
    FLOAT64,
    IMPLEMENTATIONS,
    TORCH,
    Batch,
    Implementation,
    lean,
    some_arrays,
    some_batch,
    tiny,
)

pytestmark = pytest.mark.usefixtures("x64")
both = pytest.mark.parametrize("side", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
GREY, CELEBA = (28, 28, 1), (64, 64, 3)


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


def at(name: str, image: tuple[int, int, int]) -> Spec:
    return dataclasses.replace(PRESETS[name], model=dataclasses.replace(PRESETS[name].model, image=image))


# What the source weighs: its KL term beside its error term, each as the source takes them from an image: `mean` over
# the pixels or `sum`; and the words that introduce the weight.
WEIGHTS = [
    ("pytorch-examples", GREY, 1.0, "sum", "effective beta"),
    ("tanh-mse", GREY, 1.0, "sum", "effective beta"),
    ("relu-sigma", GREY, 1 / 784, "mean", "effective beta"),
    ("conv", GREY, 0.00025, "mean", "effective beta"),
    ("conv", CELEBA, 0.00025, "mean", "effective beta"),
    ("beta-h", GREY, 10 * 0.00025, "mean", "effective beta"),
    ("beta-h", CELEBA, 10 * 0.00025, "mean", "effective beta"),
    ("beta-b", CELEBA, 10 * 0.00025, "mean", "effective gamma"),
]


@pytest.mark.parametrize(("name", "image", "weight", "error", "words"), WEIGHTS)
def test_the_effective_weight_is_the_sources(name: str, image, weight: float, error: str, words: str) -> None:
    """Times the pixels where the error is a mean, so that it is a sum, as nats per image are."""
    spec = at(name, image)
    effective = weight * (np.prod(image) if error == "mean" else 1)
    np.testing.assert_allclose(spec.effective_beta, effective, rtol=1e-14)
    said = re.search(rf"{words} ([\d.e+-]*\d)", description.text(spec, name))
    assert said is not None
    assert said[1] == f"{effective:g}"
    number = re.search(rf"{words} ([\d.e+-]*\d)", description.summary(spec))
    assert number is not None
    assert number[1] == f"{effective:g}"


def test_the_known_effective_weights() -> None:
    """Those of the note on known losses, in full."""
    known = {("conv", GREY): 0.196, ("conv", CELEBA): 3.072, ("beta-h", CELEBA): 30.72, ("beta-b", CELEBA): 30.72}
    for (name, image), weight in known.items():
        np.testing.assert_allclose(at(name, image).effective_beta, weight, rtol=1e-14)
        assert f" {weight:g}" in description.text(at(name, image), name)


def test_the_implied_variance_is_that_of_the_sources_error() -> None:
    """A Gaussian's -log density grows by d^2 / (2 variance) with the error d: what the source adds for an error of d,
    in units where its KL weighs 1 before any beta, says the variance."""
    d = 0.25
    # Of one pixel: the source's error term, times the pixels where it is a mean (both terms of relu-sigma's are).
    added = {"tanh-mse": d**2, "relu-sigma": d**2, "conv": d**2, "beta-h": d**2, "beta-b": d**2, "gaussian": d**2 / 2}
    added |= {"autoencoder": d**2, "denoising": d**2, "dropout": d**2, "adversarial": d**2}
    for name, spec in PRESETS.items():
        result = description.implied_variance(spec)
        if name not in added:
            assert result is None, name
            assert "mplied variance" not in description.text(spec, name)
            continue
        variance = d**2 / (2 * added[name])
        assert result == variance == (1.0 if name == "gaussian" else 0.5)
        words = "Gaussian of variance 1," if name == "gaussian" else "Implied variance 0.5"
        assert words in description.text(spec, name)


def test_the_implied_variance_is_that_of_the_loss() -> None:
    """By the loss itself: its second difference in the pixels' errors, which is 1 / variance for each pixel."""
    h = 1e-3
    for name, spec in PRESETS.items():
        if (variance := description.implied_variance(spec)) is None:
            continue
        spec = dataclasses.replace(spec, training=dataclasses.replace(spec.training, dtype="float64"))
        pixels = spec.model.pixels
        decoded = torchvae.Decoded(torch.linspace(-2, 2, pixels, dtype=torch.float64)[None], None)
        x = torch.full((1, pixels), 0.3, dtype=torch.float64)
        low, here, high = (torchvae.nll(spec, decoded, x + d).sum() for d in (-h, 0.0, h))
        # A quadratic's second difference is exact; 1e-15 of the loss over h^2 is what is left of the digits.
        np.testing.assert_allclose((low - 2 * here + high) / h**2, pixels / variance, rtol=1e-7, err_msg=name)


def test_the_constant_that_squared_error_drops() -> None:
    """The rest of a Gaussian of variance 1/2: log(2 pi variance) / 2 for each pixel."""
    variance, (height, width, channels) = 0.5, CELEBA
    constant = height * width * channels * 0.5 * np.log(2 * np.pi * variance)
    assert f"less its constant, {constant:.6g} nats per image" in description.text(at("conv", CELEBA), "conv")
    spec = tiny(PRESETS["tanh-mse"], ModelSpec((2, 3, 1), (4,), 2))
    arrays, batch = some_arrays(spec), some_batch(spec, 5)
    gaussian = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, likelihood="gaussian", variance=variance)
    )
    error, whole = (TORCH.image_terms(s, arrays, batch)["reconstruction"] for s in (spec, gaussian))
    np.testing.assert_allclose(whole - error, 6 * 0.5 * np.log(2 * np.pi * variance), rtol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_the_share_given_to_the_optimizer_is_said(name: str) -> None:
    spec, words = PRESETS[name], description.text(PRESETS[name], name)
    minimized = next(line for line in words.splitlines() if line.startswith("minimized"))
    if spec.objective.units == "image":
        assert spec.minimized == 1
        assert minimized.split(maxsplit=1)[1] == "the loss as it is"
    else:
        assert spec.minimized == 1 / 784
        assert "784 pixels" in minimized
        assert LIKELIHOODS[spec.model.likelihood].pixel_error in minimized
    if spec.objective.units == "mixed":
        weight = {"conv": 0.00025, "beta-h": 0.0025, "beta-b": 0.0025}[name]
        assert f"mean squared error + {weight:g} times the divergence's part" in minimized


def loss(side: Implementation, spec: Spec, arrays, batch: Batch) -> float:
    """Of training, in nats per image, from what the optimizer is given."""
    return side.minimized(spec, arrays, batch, 5).losses[""] / spec.minimized


@both
def test_relu_sigmas_loss_times_its_pixels_is_tanh_mses_objective(side: Implementation) -> None:
    pixelwise = tiny(PRESETS["relu-sigma"], ModelSpec((2, 3, 1), (4, 5), 2))
    imagewise = dataclasses.replace(pixelwise, objective=PRESETS["tanh-mse"].objective)
    arrays, batch = some_arrays(pixelwise), some_batch(pixelwise, 5)
    expected = loss(side, imagewise, arrays, batch)
    np.testing.assert_allclose(loss(side, pixelwise, arrays, batch), expected, rtol=1e-13)
    given = side.minimized(pixelwise, arrays, batch, 5).losses[""]
    np.testing.assert_allclose(given * 6, expected, rtol=1e-13)


def test_antixks_three_are_each_other_in_nats_per_image() -> None:
    """conv is beta-h with a tenth of the weight, and an ELBO of beta 0.00025 * pixels; beta-b with the capacity at 0 is
    beta-h."""
    conv, beta_h, beta_b = (tiny(PRESETS[n], ModelSpec((3, 2, 1), (3,), 2)) for n in ("conv", "beta-h", "beta-b"))

    def other(spec: Spec, **objective) -> Spec:
        return dataclasses.replace(spec, objective=dataclasses.replace(spec.objective, **objective))

    arrays, batch = some_arrays(conv), some_batch(conv, 4)
    expected = loss(TORCH, conv, arrays, batch)
    for same in (other(beta_h, beta=beta_h.objective.beta / 10), other(conv, beta=6 * 0.00025, units="image")):
        np.testing.assert_allclose(loss(TORCH, same, arrays, batch), expected, rtol=1e-13)
    actual = loss(TORCH, other(beta_b, capacity=0.0), arrays, batch)
    np.testing.assert_allclose(actual, loss(TORCH, beta_h, arrays, batch), rtol=1e-13)


IMAGES = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 1)).astype(np.uint8)
IMAGES[:, 0, 0], IMAGES[:, 1, 1] = 0, 255  # two pixels that are always dark, always bright


def drawn(package, spec: Spec, images: np.ndarray, step: int, array) -> np.ndarray:
    """The pixels of step `step`, image by image, as an epoch prepares them."""
    root = package.root_key(spec.training.seed)
    static = package.image_keys(package.static_key(root, "train"), array(np.arange(len(images))))
    noise = package.stream_key(package.root_key(spec.training.seed), "noise", step)
    fold_in = torchvae.random.fold_in if package is torchvae else jax.random.fold_in
    dynamic = package.image_keys(fold_in(noise, 0), array(np.arange(len(images))))
    return np.asarray(package.prepare_pixels(spec, array(images), static, dynamic))


def test_glorot_datas_last_bias_is_the_log_odds_of_the_mean_image() -> None:
    model = ModelSpec((3, 2, 1), (4,), 2, init="glorot-data")
    spec = Spec(model=model, training=FLOAT64)
    mean = np.clip((IMAGES / 255).mean(0).ravel(), 0.001, 0.999)
    states = jaxvae.init_state(spec, IMAGES), torchvae.init_state(spec, IMAGES)
    arrays = jaxvae.to_arrays(spec, states[0].params), torchvae.to_arrays(spec, states[1].model)
    for result in arrays:
        bias = result["decoder.logits.bias"]
        np.testing.assert_allclose(bias, np.log(mean / (1 - mean)), rtol=1e-13, atol=1e-15)  # 0 at half
        np.testing.assert_allclose(1 / (1 + np.exp(-bias[[0, 3]])), [0.001, 0.999], rtol=1e-12)
        for name, array in result.items():
            if name.endswith("bias") and name != "decoder.logits.bias":
                np.testing.assert_array_equal(array, 0)
            elif name.endswith("weight"):
                bound = np.sqrt(6 / sum(array.shape))
                assert bound / 2 < np.abs(array).max() <= bound
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)
    assert last_bias(Spec(), None) is None
    with pytest.raises(InputError, match="need the training images"):
        torchvae.init_state(spec)


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_binarisation_by_steps_is_the_same_in_both(how) -> None:
    """Static: the same image in each epoch. Dynamic: another at every step. In either precision, in both packages."""
    results = {}
    for dtype in ("float32", "float64"):
        training = TrainingSpec(dtype=dtype, seed=3)
        spec = Spec(model=ModelSpec((3, 2, 1)), images=ImagesSpec(binarization=how), training=training)
        for package, array in ((jaxvae, IMPLEMENTATIONS["jaxvae"].array), (torchvae, torch.tensor)):
            for step in (0, 1, 70):
                x = drawn(package, spec, IMAGES, step, array)
                assert x.dtype == dtype
                assert set(np.unique(x)) == {0.0, 1.0}
                np.testing.assert_array_equal(x[:, [0, 3]], np.tile([0, 1], (50, 1)))  # black stays, and white
                first = results.setdefault(step, x)
                np.testing.assert_array_equal(x, first.astype(dtype))
    assert (results[0] == results[1]).all() == (results[0] == results[70]).all() == (how == "static")


@both
def test_binarised_pixels_have_their_grey_level_for_mean(side: Implementation) -> None:
    """Within five standard errors, at every one of 256 levels."""
    n, array = 4000, side.array
    levels = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (n, 1, 1, 1))
    keys = side.package.image_keys(side.package.root_key(1), array(np.arange(n)))
    result = np.asarray(side.package.binarize(array(levels), keys)).mean(0)
    p = np.arange(256) / 255
    assert (np.abs(result - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()
    assert result[0] == 0
    assert result[255] == 1


@both
def test_corruptions_have_their_moments_and_keep_the_target(side: Implementation) -> None:
    """Noise of the given deviation; dropout of the given share, what is kept divided by the rest."""
    n, pixels = 3000, 6
    levels: list[tuple[Corruption, float]] = [("gaussian", 0.5), ("dropout", 0.2), ("hidden-dropout", 0.2)]
    for corruption, level in levels:
        spec = Spec(
            model=ModelSpec((3, 2, 1), (4, 5), 2),
            images=ImagesSpec(corruption=corruption, corruption_level=level),
            training=FLOAT64,
        )
        draws = side.package.draw(spec, side.package.root_key(2), n)
        x = np.random.default_rng(0).uniform(0.5, 1, (n, pixels))
        weights = side.array(np.full(n, 1 / n))
        batch = side.package.inputs(spec, side.array(x), draws, None, weights)
        np.testing.assert_array_equal(np.asarray(batch.x), x)
        if corruption == "gaussian":
            noise = np.asarray(batch.seen) - x
            assert abs(noise.mean()) < 5 * level / noise.size**0.5
            assert abs(noise.std() - level) < 5 * level / (2 * noise.size) ** 0.5
            continue
        factors = [np.asarray(batch.seen) / x] if corruption == "dropout" else list(map(np.asarray, draws.masks))
        assert [f.shape for f in factors] == ([(n, 6)] if corruption == "dropout" else [(n, w) for w in (4, 5, 5, 4)])
        for factor in factors:
            dropped = factor == 0
            np.testing.assert_allclose(factor[~dropped], 1 / (1 - level), rtol=1e-14)
            assert abs(dropped.mean() - level) < 5 * (level * (1 - level) / factor.size) ** 0.5
