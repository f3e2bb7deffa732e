"""The importance-weighted bound against what it has to be: one sample's ELBO, a rising bound, the exact likelihood."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm

from jaxvae.shared.config.choices import Form
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec
from jaxvae.shared.config.spec import Spec
from parity_tests.support.backends import FLOAT64, IMPLEMENTATIONS, Arrays, Batch, Implementation, lean, some_arrays
from parity_tests.support.linear_gaussian import LINEAR, linear_gaussian

pytestmark = pytest.mark.usefixtures("x64")
both = pytest.mark.parametrize("side", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)

RNG = np.random.default_rng(0)
SMALL = ModelSpec((2, 3, 1), (5,), 2, activation="tanh")
X = np.round(RNG.uniform(size=(4, 6)))


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


def of_samples(k: int, model: ModelSpec = SMALL, form: Form = "iwae") -> Spec:
    return Spec(model=model, objective=ObjectiveSpec(form=form, samples=k), training=FLOAT64)


def terms(side: Implementation, spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """By image, from standard normals `[k, images, latent]`."""
    return side.image_terms(spec, arrays, Batch(x, eps[0] if len(eps) == 1 else eps))


def encoded(arrays: Arrays, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The posterior's mean and logvar, by hand."""
    h = np.tanh(x @ arrays["encoder.hidden.0.weight"].T + arrays["encoder.hidden.0.bias"])
    mean, logvar = (h @ arrays[f"encoder.{n}.weight"].T + arrays[f"encoder.{n}.bias"] for n in ("mean", "logvar"))
    return mean, logvar


@both
def test_one_sample_is_the_monte_carlo_elbo(side: Implementation) -> None:
    """-log p(x | z) + log q(z | x) - log p(z), with scipy's densities."""
    arrays, eps = some_arrays(of_samples(1)), RNG.normal(size=(1, 4, 2))
    result, elbo = (terms(side, of_samples(1, form=form), arrays, X, eps) for form in ("iwae", "elbo"))
    mean, logvar = encoded(arrays, X)
    sigma = np.exp(0.5 * logvar)
    z = mean + sigma * eps[0]
    ratio = (norm.logpdf(z, mean, sigma) - norm.logpdf(z)).sum(-1)
    np.testing.assert_allclose(result["kl"], ratio, rtol=1e-12, atol=1e-14)  # the ratio's terms cancel
    np.testing.assert_allclose(result["loss"], elbo["reconstruction"] + ratio, rtol=1e-13)
    np.testing.assert_array_equal(result["reconstruction"], elbo["reconstruction"])


@both
def test_one_samples_mean_is_the_analytic_elbo(side: Implementation) -> None:
    """Within five standard errors of 20,000 draws."""
    n, arrays = 20_000, some_arrays(of_samples(1))
    x, eps = np.tile(X[:1], (n, 1)), np.random.default_rng(1).normal(size=(1, n, 2))
    result, elbo = (terms(side, of_samples(1, form=form), arrays, x, eps) for form in ("iwae", "elbo"))
    np.testing.assert_allclose(elbo["kl"], elbo["kl"][0], rtol=1e-12)
    for name in ("kl", "loss"):
        gaps = result[name] - elbo[name]
        assert abs(gaps.mean()) < 5 * gaps.std() / n**0.5, name
        assert gaps.std() > 0.1, name


@both
def test_the_bound_rises_with_the_samples(side: Implementation) -> None:
    """The paper's theorem 1, in common random numbers: the bound of k is met with the mean of 50/k bounds of k from the
    same 50 draws."""
    n, arrays = 400, some_arrays(of_samples(1), seed=3)
    x, eps = np.tile(X[:1], (n, 1)), np.random.default_rng(2).normal(size=(50, n, 2))
    bounds = []
    for k in (1, 5, 50):
        groups = eps.reshape(50 // k, k, n, 2).swapaxes(0, 1).reshape(k, -1, 2)
        many = np.tile(x, (50 // k, 1))
        bounds.append(-terms(side, of_samples(k), arrays, many, groups)["loss"].reshape(-1, n).mean(0))
    for lower, higher in ((0, 1), (1, 2)):
        rise = bounds[higher] - bounds[lower]
        assert rise.mean() > 5 * rise.std() / n**0.5
        assert (rise > -1e-12).all()  # the same draws, by Jensen's inequality, draw for draw


@both
def test_many_samples_are_the_log_mean_of_single_ones(side: Implementation) -> None:
    arrays, eps = some_arrays(of_samples(1)), RNG.normal(size=(7, 4, 2))
    single = np.stack([-terms(side, of_samples(1), arrays, X, e[None])["loss"] for e in eps])
    result = terms(side, of_samples(7), arrays, X, eps)["loss"]
    np.testing.assert_allclose(result, -(np.logaddexp.reduce(single) - math.log(7)), rtol=1e-13)


@both
def test_the_bound_stands_where_every_weight_underflows(side: Implementation) -> None:
    """log p(x | z) of -40,000 nats, whose exponential is 0."""
    arrays = some_arrays(of_samples(3))
    arrays["decoder.logits.bias"] = np.where(X[0] > 0, -1e4, 1e4)
    result = terms(side, of_samples(3), arrays, X[:1], RNG.normal(size=(3, 1, 2)))["loss"]
    np.testing.assert_allclose(result, 6e4, rtol=1e-3)  # six pixels of 10,000 nats, beside logits of one


@both
def test_the_gradient_goes_through_the_normalized_weights(side: Implementation) -> None:
    """Equation 13 of the paper: the sum over samples of w_i / sum(w) times the gradient of log w_i, each of a single
    sample's bound, image by image."""
    k, one, many = 4, of_samples(1), of_samples(4)
    arrays, eps = some_arrays(one), RNG.normal(size=(4, 4, 2))
    single = np.stack([-terms(side, one, arrays, X, e[None])["loss"] for e in eps])
    weights = np.exp(single - np.logaddexp.reduce(single))
    expected = {name: np.zeros_like(array) for name, array in arrays.items()}
    for i in range(k):  # each image's share of the batch is its weight, over the number of images
        batch = Batch(X, eps[i], weights=weights[i] / len(X))
        for name, gradient in side.minimized(one, arrays, batch, 0).gradients[""].items():
            expected[name] += gradient
    actual = side.minimized(many, arrays, Batch(X, eps), 0).gradients[""]
    for name, gradient in actual.items():
        # A sum of 16 terms that cancel in part.
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-13 * np.abs(gradient).max(), err_msg=name)


@both
@pytest.mark.parametrize("k", [1, 3, 20])
def test_with_the_exact_posterior_the_bound_is_the_likelihood(side: Implementation, k: int) -> None:
    arrays, x, exact, _ = linear_gaussian()
    result = terms(side, of_samples(k, LINEAR), arrays, x, RNG.normal(size=(k, 5, 2)))
    np.testing.assert_allclose(-result["loss"], exact, rtol=1e-10)  # every draw has the same weight, up to rounding


@both
def test_with_another_posterior_it_comes_to_the_likelihood_from_below(side: Implementation) -> None:
    """A posterior that is wider, and beside the true one, so that the weights are bounded and have a variance."""
    arrays, x, exact, _ = linear_gaussian()
    arrays["encoder.logvar.bias"] = arrays["encoder.logvar.bias"] + 0.8
    arrays["encoder.mean.bias"] = arrays["encoder.mean.bias"] + 0.3
    n, rng, gaps = 100, np.random.default_rng(6), {}
    for k in (1, 10, 100):
        draws = rng.normal(size=(k, n * len(x), 2))
        result = -terms(side, of_samples(k, LINEAR), arrays, np.repeat(x, n, 0), draws)["loss"]
        gap = exact - result.reshape(len(x), n).mean(1)
        error = result.reshape(len(x), n).std(1) / n**0.5
        assert (gap > -5 * error).all(), k  # below, or within its Monte Carlo error
        gaps[k] = gap.mean()
    assert gaps[1] > 5 * gaps[10] > 25 * gaps[100] > 0  # the bias falls as 1 / k
    # 50,000 samples of each image: their log mean has the standard error of the mean over the mean.
    k = 50_000
    log_w = -terms(side, of_samples(1, LINEAR), arrays, np.repeat(x, k, 0), rng.normal(size=(1, k * len(x), 2)))["loss"]
    ratio = np.exp(log_w.reshape(len(x), k) - exact[:, None])
    assert (np.abs(np.log(ratio.mean(1))) < 5 * ratio.std(1) / k**0.5).all()


def test_the_exact_likelihood_is_the_integral_over_latents() -> None:
    """The oracle above against its own definition, by quadrature over a grid of z."""
    _, x, exact, w = linear_gaussian()
    arrays = linear_gaussian()[0]
    grid = np.stack(np.meshgrid(*[np.linspace(-7, 7, 281)] * 2), -1).reshape(-1, 2)
    log_prior = norm.logpdf(grid).sum(-1)
    for image, log_p in zip(x, exact, strict=True):
        mean = grid @ w.T + arrays["decoder.logits.bias"]
        log_joint = log_prior + norm.logpdf(image, mean, LINEAR.variance**0.5).sum(-1)
        np.testing.assert_allclose(np.logaddexp.reduce(log_joint) + 2 * math.log(14 / 280), log_p, rtol=1e-10)


@both
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian-learned"])
def test_several_samples_of_the_elbo_are_their_mean(side: Implementation, likelihood) -> None:
    """The reconstruction is the mean over samples; the KL has none."""
    model = dataclasses.replace(SMALL, likelihood=likelihood)
    arrays, eps = some_arrays(of_samples(1, model)), RNG.normal(size=(3, 4, 2))
    single = [terms(side, of_samples(1, model, "elbo"), arrays, X, e[None]) for e in eps]
    result = terms(side, of_samples(3, model, "elbo"), arrays, X, eps)
    for name in ("loss", "reconstruction", "kl"):
        np.testing.assert_allclose(result[name], np.mean([s[name] for s in single], 0), rtol=1e-13, err_msg=name)


@both
def test_beta_rises_in_a_line_with_the_steps(side: Implementation) -> None:
    """At the first step it is above 0, at the last of the warm-up and ever after it is beta; evaluation has beta."""
    objective = ObjectiveSpec(beta=3.0, warmup=4)
    spec = Spec(model=SMALL, objective=objective, training=FLOAT64)
    arrays, eps = some_arrays(spec), RNG.normal(size=(4, 2))
    actual = side.image_terms(spec, arrays, Batch(X, eps))
    np.testing.assert_allclose(actual["loss"], actual["reconstruction"] + 3.0 * actual["kl"], rtol=1e-13)
    for step, beta in {0: 0.75, 1: 1.5, 2: 2.25, 3: 3.0, 4: 3.0, 1000: 3.0}.items():
        expected = (actual["reconstruction"] + beta * actual["kl"]).mean()
        loss = side.minimized(spec, arrays, Batch(X, eps), step).losses[""]
        np.testing.assert_allclose(loss, expected, rtol=1e-13, err_msg=f"step {step}")


@both
def test_the_capacity_rises_in_a_line_and_holds_the_mean_divergence(side: Implementation) -> None:
    """|mean KL - C|, not the mean of |KL - C|: the two differ where images lie on both sides of C."""
    objective = ObjectiveSpec(form="capacity", gamma=7.0, capacity=2.0, capacity_steps=4)
    spec = Spec(model=SMALL, objective=objective, training=FLOAT64)
    arrays, eps = some_arrays(spec), RNG.normal(size=(4, 2))
    actual = side.image_terms(spec, arrays, Batch(X, eps))
    kl, error = actual["kl"], actual["reconstruction"].mean()
    np.testing.assert_allclose(actual["loss"], actual["reconstruction"] + 7.0 * np.abs(kl - 2.0), rtol=1e-13)
    between = (kl.min() + kl.max()) / 2  # where the capacity of the first step is put
    middle = dataclasses.replace(spec, objective=dataclasses.replace(objective, capacity=4 * between))
    assert abs(kl.mean() - between) < np.abs(kl - between).mean()
    for chosen in (spec, middle):
        for step, share in {0: 0.25, 2: 0.75, 3: 1.0, 50: 1.0}.items():
            expected = error + 7.0 * abs(kl.mean() - share * chosen.objective.capacity)
            loss = side.minimized(chosen, arrays, Batch(X, eps), step).losses[""]
            np.testing.assert_allclose(loss, expected, rtol=1e-12, err_msg=f"step {step}")
