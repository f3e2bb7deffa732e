"""Every activation, and the posterior by log sigma, in both packages and by the plain formulas."""

import typing
from typing import Any

import numpy as np
import pytest

from jaxvae.shared.config.choices import Activation
from jaxvae.shared.config.networks import NetworkName
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batch import Batch
from parity_tests.support.backends import (
    FLOAT64,
    IMPLEMENTATIONS,
    JAX,
    TORCH,
    Implementation,
    assert_gradients_equal,
    lean,
    some_arrays,
    some_batch,
)

pytestmark = pytest.mark.usefixtures("x64")
both = pytest.mark.parametrize("package", IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


def spec_of(objective: ObjectiveSpec, **model: Any) -> Spec:
    return Spec("digits", ModelSpec((3, 4, 1), (7, 5), 3, **model), objective, FLOAT64)


@pytest.mark.either
@pytest.mark.parametrize(
    ("network", "activation"),
    [
        pytest.param("conv", "elu", marks=pytest.mark.slow),
        *(("mlp", activation) for activation in typing.get_args(Activation)),
    ],
)
def test_an_activation_is_that_of_the_plain_formulas(network: NetworkName, activation: Activation) -> None:
    spec = spec_of(ObjectiveSpec(1.7), activation=activation, posterior="log-sigma", network=network)
    arrays, batch = some_arrays(spec), some_batch(spec, 4)
    expected = reference.losses(spec, arrays, Batch(batch.x, batch.eps))
    in_jax, in_torch = (package.minimized(spec, arrays, batch, 0) for package in (JAX, TORCH))
    assert_gradients_equal(spec, in_jax.gradients[""], in_torch.gradients[""], 1e-11)
    for package in (JAX, TORCH):
        for name, term in package.image_terms(spec, arrays, batch).items():
            np.testing.assert_allclose(term, expected[name], rtol=1e-12, atol=1e-14, err_msg=name)


@both
@pytest.mark.parametrize("form", ["elbo", "capacity", "iwae"])
def test_log_sigma_is_half_the_log_variance(package: Implementation, form: Any) -> None:
    """To the bit, since twice a number is exact; its gradient is twice that of the log-variance."""
    objective = ObjectiveSpec(form=form, samples=2 if form == "iwae" else 1)
    plain, scaled = (spec_of(objective, posterior=name) for name in ("gaussian", "log-sigma"))
    arrays, batch = some_arrays(plain), some_batch(plain, 4)
    halved = {name.replace("logvar", "logscale"): a / 2 if "logvar" in name else a for name, a in arrays.items()}
    expected = package.image_terms(plain, arrays, batch)
    for name, term in package.image_terms(scaled, halved, batch).items():
        np.testing.assert_array_equal(term, expected[name])
    gradients = package.minimized(plain, arrays, batch, 0).gradients[""]
    for name, gradient in package.minimized(scaled, halved, batch, 0).gradients[""].items():
        times = 2 if "logscale" in name else 1
        np.testing.assert_array_equal(gradient, times * gradients[name.replace("logscale", "logvar")], err_msg=name)
