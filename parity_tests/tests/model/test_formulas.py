"""Every formula of both packages against an oracle that is not ours."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.distributions as td
from jax.test_util import check_grads

import jaxvae
import torchvae
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.vae import jax_backend, torch_backend
from parity_tests.harness.vae.batch import Batch

pytestmark = pytest.mark.usefixtures("x64")
SIDES = [(jaxvae, jnp.asarray, np.asarray), (torchvae, torch.tensor, lambda t: t.numpy())]
both = pytest.mark.parametrize(("package", "array", "numpy"), SIDES, ids=["jaxvae", "torchvae"])

RNG = np.random.default_rng(0)
MEAN, LOGVAR = RNG.normal(size=(50, 7)) * 3, RNG.uniform(-8, 4, (50, 7))
LOGITS = RNG.normal(size=(50, 30)) * 10


@both
def test_kl_is_torch_distributions_kl(package, array, numpy) -> None:
    actual = numpy(package.gaussian_kl(package.Posterior(array(MEAN), array(LOGVAR))))
    mean, sigma = torch.tensor(MEAN), torch.tensor(LOGVAR).mul(0.5).exp()
    expected = td.kl_divergence(td.Normal(mean, sigma), td.Normal(0.0, 1.0)).sum(-1)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)


@both
@pytest.mark.parametrize("pixels", ["binary", "grey"])
def test_nll_is_torch_distributions_log_prob(package, array, numpy, pixels: str) -> None:
    x = RNG.integers(0, 2, LOGITS.shape).astype(float) if pixels == "binary" else RNG.uniform(size=LOGITS.shape)
    bernoulli = td.Bernoulli(logits=torch.tensor(LOGITS), validate_args=False)
    # Between 0 and 1 the Bernoulli's density is extended as cross-entropy: x log p + (1 - x) log(1 - p).
    ones, zeros = (bernoulli.log_prob(torch.full((30,), v, dtype=torch.float64)) for v in (1.0, 0.0))
    expected = -(torch.tensor(x) * ones + torch.tensor(1 - x) * zeros).sum(-1)
    np.testing.assert_allclose(numpy(package.bernoulli_nll(array(LOGITS), array(x))), expected, rtol=1e-13)


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nll_and_its_gradient_at_logits_of_200(package, array, numpy, dtype: str) -> None:
    """By way of probabilities float32 would say 100, with zero gradient, where it is 200, with gradient 1."""
    logits = np.array([200.0, -200.0, 200.0, -200.0, 17.0, 0.0], dtype)[:, None]
    x = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.25], dtype)[:, None]
    expected = np.array([200.0, 200.0, 0.0, 0.0, 17.0 + np.exp(-17.0), np.log(2)])
    slope = np.array([1.0, -1.0, 0.0, 0.0, 1.0, 0.25])[:, None]
    actual = numpy(package.bernoulli_nll(array(logits), array(x)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-80)
    if package is torchvae:
        leaf = torch.tensor(logits, requires_grad=True)
        torchvae.bernoulli_nll(leaf, torch.tensor(x)).sum().backward()
        gradient = leaf.grad
    else:
        gradient = jaxvae_gradient(logits, x)
    np.testing.assert_allclose(np.asarray(gradient), slope, atol=1e-7)


def jaxvae_gradient(logits: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.grad(lambda l: jaxvae.bernoulli_nll(l, jnp.asarray(x)).sum())(jnp.asarray(logits)))  # noqa: E741


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kl_at_the_ends_of_logvar(package, array, numpy, dtype: str) -> None:
    """From a variance of 1e-38 to the last that float32 can hold; at 0 the KL is 0, near 0 it keeps its digits."""
    logvar = np.array([-87.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 88.0], dtype)[:, None]
    result = numpy(package.gaussian_kl(package.Posterior(array(np.zeros_like(logvar)), array(logvar))))
    exact = logvar[:, 0].astype(np.longdouble)
    # At logvar = 1e-3 the KL is half of 5e-7, a difference of 1e-3s that expm1 gives to 2 ulp: 2e3 * 2 * 1e-7.
    np.testing.assert_allclose(result, 0.5 * (np.expm1(exact) - exact), rtol={"float32": 5e-4, "float64": 1e-12}[dtype])
    assert np.isfinite(result).all()


@both
def test_reparameterize_has_the_posteriors_moments(package, array, numpy) -> None:
    n = 100_000
    mean, logvar = np.tile([[1.5, -2.0]], (n, 1)), np.tile([[-1.0, 1.0]], (n, 1))
    z = numpy(package.reparameterize(package.root_key(4), package.Posterior(array(mean), array(logvar))))
    sigma = np.exp(0.5 * logvar[0])
    # Standard errors of a mean and of a variance, times 5.
    np.testing.assert_allclose(z.mean(0), mean[0], atol=5 * sigma.max() / n**0.5)
    np.testing.assert_allclose(z.var(0), sigma**2, rtol=5 * (2 / n) ** 0.5)


@both
def test_reparameterize_draws_its_eps_from_the_key(package, array, numpy) -> None:
    posterior = package.Posterior(array(MEAN), array(LOGVAR))
    z = numpy(package.reparameterize(package.root_key(4), posterior))
    eps = torchvae.random.normal(torchvae.root_key(4), MEAN.shape, torch.float64).numpy()
    np.testing.assert_allclose(z, MEAN + np.exp(0.5 * LOGVAR) * eps, rtol=1e-13)


SMALL = Spec(model=ModelSpec((2, 3, 1), (5,), 2), objective=ObjectiveSpec(1.7), training=TrainingSpec(dtype="float64"))


@both
def test_the_elbo_is_the_difference_of_log_densities(package, array, numpy) -> None:
    """-log p(x|z) + beta KL, put together from torch.distributions and the model's own encoder and decoder."""
    side = jax_backend if package is jaxvae else torch_backend
    x, eps = RNG.uniform(size=(20, 6)), RNG.normal(size=(20, 2))
    arrays = side.initial(SMALL)
    outputs = {name: torch.tensor(a) for name, a in side.forward(SMALL, arrays, Batch(x, eps)).items()}
    posterior = td.Normal(outputs["mean"], outputs["logvar"].mul(0.5).exp())
    kl = td.kl_divergence(posterior, td.Normal(0.0, 1.0)).sum(-1)
    nll = -td.Bernoulli(logits=outputs["logits"], validate_args=False).log_prob(torch.tensor(x)).sum(-1)
    actual = side.losses(SMALL, arrays, Batch(x, eps))
    np.testing.assert_allclose(outputs["z"], outputs["mean"] + posterior.stddev * torch.tensor(eps), rtol=1e-13)
    for name, expected in {"reconstruction": nll, "kl": kl, "loss": nll + 1.7 * kl}.items():
        np.testing.assert_allclose(actual[name], expected, rtol=1e-12, err_msg=name)


def test_jaxvaes_gradients_are_finite_differences() -> None:
    x, eps = jnp.asarray(RNG.uniform(size=(4, 6))), jnp.asarray(RNG.normal(size=(4, 2)))
    params, draws = jaxvae.from_arrays(SMALL, jax_backend.initial(SMALL)), jaxvae.Draws(eps, None, None, ())
    check_grads(
        jax.jit(lambda params: jaxvae.image_terms(SMALL, params, x, draws).loss.mean()),
        (params,),
        order=1,
        modes=["rev"],
        atol=1e-7,
        rtol=1e-7,
    )


def test_torchvaes_gradients_are_finite_differences() -> None:
    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torchvae.from_arrays(SMALL, torch_backend.initial(SMALL))

        def forward(self, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
            return torchvae.image_terms(SMALL, self.model, x, torchvae.Draws(eps, None, None, ())).loss.mean()

    inputs = torch.tensor(RNG.uniform(size=(4, 6))), torch.tensor(RNG.normal(size=(4, 2)))
    loss = Loss()
    names, leaves = zip(*loss.named_parameters(), strict=True)

    def value(*leaves: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(loss, dict(zip(names, leaves, strict=True)), inputs)

    assert torch.autograd.gradcheck(value, leaves, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_beta_weighs_the_kl(beta: float) -> None:
    spec = Spec(model=SMALL.model, objective=ObjectiveSpec(beta), training=SMALL.training)
    x, eps = RNG.uniform(size=(9, 6)), RNG.normal(size=(9, 2))
    for side in (jax_backend, torch_backend):
        result = side.losses(spec, side.initial(spec), Batch(x, eps))
        np.testing.assert_allclose(result["loss"], result["reconstruction"] + beta * result["kl"], rtol=1e-15)


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_are_totensors_to_the_bit(package, array, numpy, dtype: str) -> None:
    from torchvision.transforms import ToTensor

    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    expected = ToTensor()(every[0]).numpy()
    torch.set_default_dtype(default)
    np.testing.assert_array_equal(numpy(package.scale(array(every), dtype)), expected.reshape(1, -1), strict=True)


def test_pixels_are_totensors_inside_a_compiled_epoch() -> None:
    """Where XLA would have its way with a division."""
    every = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1)
    for dtype in ("float32", "float64"):
        result = jax.jit(lambda images, dtype=dtype: jaxvae.scale(images, dtype))(every)
        np.testing.assert_array_equal(np.asarray(result).ravel(), np.arange(256, dtype=dtype) / np.asarray(255, dtype))


def test_images_of_several_channels_are_flattened_alike() -> None:
    images = RNG.integers(0, 256, (3, 4, 5, 2), dtype=np.uint8)
    for in_jax, in_torch in itertools.pairwise(
        [package.scale(array(images), "float32") for package, array, _ in SIDES]
    ):
        np.testing.assert_array_equal(np.asarray(in_jax), np.asarray(in_torch))
        np.testing.assert_array_equal(np.asarray(in_jax), images.reshape(3, -1).astype("float32") / np.float32(255))
