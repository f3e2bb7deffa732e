"""The tables of likelihoods and networks have the same keys wherever they stand, and an unknown kind is an error."""

import ast
import importlib.resources
import inspect
import typing
from dataclasses import replace
from types import ModuleType

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch

import jaxvae.distributions
import jaxvae.layers
import jaxvae.networks
import torchvae.distributions
import torchvae.layers
import torchvae.networks
from benchmarks import matmul_bound
from jaxvae.shared.config import likelihoods, networks
from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.parts import ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import description, layout
from parity_tests.harness import report
from parity_tests.harness.vae import prove, reference
from parity_tests.harness.vae.batches import Batch
from parity_tests.harness.vae.reference import networks as plain_networks
from parity_tests.support.tiny import STEPS, small, some


def test_every_table_of_likelihoods_has_the_same_keys() -> None:
    names = set(typing.get_args(likelihoods.LikelihoodName))
    for table in (likelihoods.LIKELIHOODS, jaxvae.distributions.NLL, torchvae.distributions.NLL, reference.NLL):
        assert set(table) == names
    means = set(typing.get_args(likelihoods.Mean))
    assert set(jaxvae.distributions.MEANS) == set(torchvae.distributions.MEANS) == means


@pytest.mark.parametrize("package", [jaxvae, torchvae])
def test_tanh_is_an_output_for_pixels_from_0_to_1_too(package: ModuleType) -> None:
    spec = Spec(model=ModelSpec((1, 3, 1), likelihood="squared-error", output="tanh"))
    logits = np.array([[-1.0, 0.0, 2.0]])
    array = jnp.asarray if package is jaxvae else torch.tensor
    decoded = package.Decoded(array(logits), None)
    np.testing.assert_allclose(np.asarray(package.pixel_means(spec, decoded)), np.tanh(logits), rtol=1e-6)


def test_every_table_of_networks_has_the_same_keys() -> None:
    names = set(typing.get_args(networks.NetworkName))
    for table in (networks.NETWORKS, jaxvae.networks.NETWORKS, torchvae.networks.NETWORKS):
        assert set(table) == names
    for name in names:
        words: dict[str, typing.Any] = {"encoder": ("linear3",), "decoder": ("linear64",)} if name == "layers" else {}
        assert layout.layers(ModelSpec((8, 8, 1), () if words else (3,), 2, network=name, **words))


def test_the_page_can_compute_every_mean() -> None:
    script = (importlib.resources.files("jaxvae.shared.report") / "static" / "explorer.js").read_text()
    outputs = script.partition("const OUTPUTS = {")[2].partition("};")[0]
    for mean in typing.get_args(likelihoods.Mean):
        assert f"{mean}: " in outputs or f'"{mean}": ' in outputs


@pytest.mark.parametrize("reader", [layout._parameters, description._size, jaxvae.layers.make, torchvae.layers.make])
def test_an_unknown_kind_of_layer_is_an_error(reader) -> None:
    layer = layout.Layer(("decoder", "hidden", 0), "attention", 1, 1)  # type: ignore[arg-type]
    arguments = {"layer": layer, "spec": ModelSpec(), "rngs": None}
    with pytest.raises(AssertionError, match="attention"):
        reader(**{name: arguments[name] for name in inspect.signature(reader).parameters})


@pytest.mark.parametrize("module", [layout, description, plain_networks, matmul_bound, jaxvae.layers, torchvae.layers])
def test_who_walks_the_layers_names_every_kind(module) -> None:
    """A `match` of a kind of layer ends with assert_never."""
    matches = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Match) and ast.unparse(node.subject) == "layer.kind"
    ]
    assert matches
    for node in matches:
        assert "assert_never" in ast.unparse(node.cases[-1])


BOTH = pytest.mark.parametrize("package", [jaxvae, torchvae], ids=["jaxvae", "torchvae"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
NEAR_0 = [s * m * 10.0**-k for k in range(1, 9) for m in (1, 3.3) for s in (-1, 1)]
LOGITS = np.array([0.0, *NEAR_0, *np.linspace(-100, 100, 201), *np.linspace(-3, 3, 101)])
HIGH = mpmath.mp
HIGH.dps = 120


def log_normalizer(logit: float):
    """log C by the definition, 2 artanh(1 - 2λ) / (1 - 2λ) with λ the sigmoid of the logit, in 120 digits."""
    if logit == 0:
        return HIGH.log(2)
    inner = 1 - 2 / (1 + HIGH.exp(-HIGH.mpf(logit)))
    return HIGH.log(2 * HIGH.atanh(inner) / inner)


def mean(logit: float):
    """λ / (2λ - 1) + 1 / (2 artanh(1 - 2λ)), in 120 digits."""
    if logit == 0:
        return HIGH.mpf(0.5)
    share = 1 / (1 + HIGH.exp(-HIGH.mpf(logit)))
    return share / (2 * share - 1) + 1 / (2 * HIGH.atanh(1 - 2 * share))


def assert_within_ulps(values: np.ndarray, exact: list, ulps: int) -> None:
    for value, expected in zip(values, exact, strict=True):
        spacing = np.spacing(np.abs(np.asarray(float(expected), values.dtype)))
        assert abs(HIGH.mpf(float(value)) - expected) <= ulps * float(spacing), (value, float(expected))


def value_and_slope(package: ModuleType, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if package is jaxvae:
        function = jaxvae.distributions._log_sinhc
        slope = jax.jit(jax.vmap(jax.grad(function)))(jnp.asarray(logits))
        return np.asarray(jax.jit(function)(jnp.asarray(logits))), np.asarray(slope)
    leaf = torch.tensor(logits, requires_grad=True)
    value = torchvae.distributions._log_sinhc(leaf)
    value.sum().backward()
    assert leaf.grad is not None
    return value.detach().numpy(), leaf.grad.numpy()


@pytest.mark.usefixtures("x64")
@BOTH
@DTYPES
def test_the_continuous_bernoullis_value_slope_and_mean_to_a_few_ulp(package: ModuleType, dtype: str) -> None:
    """What log C leaves of the cross-entropy at x = 1/2, log(1 + e^l) - l/2 - log C; its slope; and the mean."""
    logits = LOGITS.astype(dtype)
    value, slope = value_and_slope(package, logits)
    exact = [float(logit) for logit in logits]
    left = [HIGH.log1p(HIGH.exp(logit)) - HIGH.mpf(logit) / 2 - log_normalizer(logit) for logit in exact]
    assert_within_ulps(value, left, 6)
    assert_within_ulps(slope, [mean(logit) - 0.5 for logit in exact], 6)
    to_mean = package.distributions.continuous_bernoulli_mean
    means = to_mean(jnp.asarray(logits) if package is jaxvae else torch.tensor(logits))
    assert_within_ulps(np.asarray(means), [mean(logit) for logit in exact], 5)


def derivatives(logit: float) -> list:
    """The second and the third derivative of log(sinh(l / 2) / (l / 2)), in 120 digits; their series near 0."""
    half = HIGH.mpf(logit) / 2
    if abs(logit) < 1e-20:
        return [HIGH.mpf(1) / 12, -half / 60]
    sinh = HIGH.sinh(half)
    return [(1 / half**2 - 1 / sinh**2) / 4, (HIGH.cosh(half) / sinh**3 - 1 / half**3) / 4]


LADDER = [0, 1e-300, 1e-30, 1e-8, 1e-3, 0.3, 1, 2.5, 3.99, 4, 4.01, 9, 44.5, 88, 89, 104, 709, 710, 1e3, 1e6, 1e12]


@pytest.mark.usefixtures("x64")
@BOTH
@DTYPES
def test_the_continuous_bernoullis_curvature_and_its_means_slope_at_any_logit(package: ModuleType, dtype: str) -> None:
    """Neither is NaN where e^l overflows or 0 without a reason; the third derivative too."""
    logits = np.array([sign * logit for logit in LADDER for sign in (1, -1)], dtype)
    to_mean, to_value = package.distributions.continuous_bernoulli_mean, package.distributions._log_sinhc
    if package is jaxvae:
        curvature = jax.grad(jax.grad(to_value))
        each = jax.vmap(lambda logit: (jax.grad(to_mean)(logit), *jax.value_and_grad(curvature)(logit)))
        slope, second, third = map(np.asarray, jax.jit(each)(jnp.asarray(logits)))
    else:
        leaf, found = torch.tensor(logits, requires_grad=True), []
        value = to_value(leaf)
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
            found.append(value.detach().numpy())
        _, second, third = found
        slope = torch.autograd.grad(to_mean(leaf).sum(), leaf)[0].numpy()
    exact = np.array([[float(number) for number in derivatives(float(logit))] for logit in logits]).T
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    np.testing.assert_allclose([slope, second], [exact[0]] * 2, rtol=8 * eps, atol=tiny)
    np.testing.assert_allclose(third, exact[1], rtol=100 * eps, atol=tiny)


@pytest.mark.usefixtures("x64")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, of derivatives in forward mode
def test_the_continuous_bernoullis_hessian_is_the_same_in_both_packages() -> None:
    logits, x = np.array([[1.0, -0.2, 0.0, 7.0]]), np.array([[0.3, 0.9, 0.5, 0.0]])

    def loss(package: ModuleType, logits, x):
        return package.distributions.continuous_bernoulli_nll(logits, x).sum()

    of_jax = jax.jit(jax.hessian(lambda logits: loss(jaxvae, logits, x)))(jnp.asarray(logits))
    assert of_jax[0, 0, 0, 0] == pytest.approx(0.07932641, rel=1e-7)
    for hessian in (torch.autograd.functional.hessian, lambda f, at: torch.func.hessian(f)(at)):
        of_torch = hessian(lambda logits: loss(torchvae, logits, torch.tensor(x)), torch.tensor(logits))
        np.testing.assert_allclose(np.asarray(of_torch), of_jax, rtol=1e-13, atol=1e-16)
    leaf = torch.tensor([1 - 1e-4, 1 + 1e-4], dtype=torch.float64, requires_grad=True)
    below, above = torch.autograd.grad(torchvae.distributions._log_sinhc(leaf).sum(), leaf)[0].tolist()
    assert of_jax[0, 0, 0, 0] == pytest.approx((above - below) / 2e-4, rel=1e-7)


@pytest.mark.usefixtures("x64")
@BOTH
def test_the_continuous_bernoulli_is_a_density(package: ModuleType) -> None:
    """Its integral over [0, 1] is 1 and that of x its mean, by Gauss and Legendre's sums."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x, weights = (nodes + 1) / 2, weights / 2
    logits, pixels = (a[..., None] for a in np.meshgrid([-30.0, -1.0, 0.0, 1e-5, 3.0, 30.0], x, indexing="ij"))
    array = jnp.asarray if package is jaxvae else torch.tensor
    density = np.exp(-np.asarray(package.distributions.continuous_bernoulli_nll(array(logits), array(pixels))))
    np.testing.assert_allclose(density @ weights, 1, rtol=1e-12)
    means = np.asarray(package.distributions.continuous_bernoulli_mean(array(logits[:, 0, 0])))
    np.testing.assert_allclose(density @ (weights * x), means, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", likelihoods.LIKELIHOODS)
def test_the_log_density_of_numpy_is_the_loss_of_both_packages(name: likelihoods.LikelihoodName) -> None:
    """With what the loss omits, and from what evaluation keeps of a pixel."""
    rng = np.random.default_rng(0)
    spec = Spec(model=ModelSpec((3, 2, 1), (4,), 2, likelihood=name), training=TrainingSpec(dtype="float64"))
    entry, x, z = likelihoods.LIKELIHOODS[name], rng.uniform(size=(1, 6)).repeat(5, 0), rng.normal(size=(5, 2))
    arrays = {p.name: rng.normal(size=p.shape) for p in layout.table(spec.model)}
    expected = reference.NLL[name](spec, reference.forward(spec, arrays, Batch(np.zeros((5, 6)), z), z=z), x, np)[0]
    for package, array in ((jaxvae, jnp.asarray), (torchvae, torch.tensor)):
        weights = package.from_arrays(spec, arrays)
        loss = np.asarray(package.nll(spec, package.decode(spec, weights, array(z)), array(x)).tolist())
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        log_density = entry.log_density(x[:1], *package.decode_latents(spec, weights, z))[0]
        np.testing.assert_allclose(log_density, -loss - 6 * entry.omitted, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_continuous_bernoulli_passes_every_level(dtype: Stored) -> None:
    spec = small("pytorch-examples")
    spec = replace(spec, model=replace(spec.model, likelihood="continuous-bernoulli"))
    result = prove.prove(spec, some(spec), dtypes=[dtype], steps=STEPS)
    assert result.passed, report.verdict(result)
