"""Effect of lower precision on the loss: each package with products of each precision, compared with the plain formulas
in float64."""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxvae
import torchvae
from jaxvae.shared.config.choices import Precision
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.compare import gap
from parity_tests.harness.vae import reference, torch_backend
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.levels import Arrays
from torchvae.products import in_precision

MODES: tuple[Precision, ...] = get_args(Precision)


class Effect(NamedTuple):
    """The errors of one package in one precision."""

    package: str
    mode: Precision
    logits: float
    """Largest difference of the logits from float64's, as a share of their largest."""
    nats: float
    """Difference of the mean loss from float64's, in nats per image."""


def effects(spec: Spec, arrays: Arrays, batch: Batch) -> list[Effect]:
    """Measure the errors of each precision in the logits and in reconstruction + beta * kl.

    Args:
        spec: The configuration.
        arrays: float32 weights.
        batch: A float32 batch.

    Returns:
        The errors of each package in each precision.
    """
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    exact = reference.forward(
        spec, wide, batch._replace(x=batch.x.astype(np.float64), eps=batch.eps.astype(np.float64))
    )
    exact_loss = reference.nll(spec, exact, batch.x.astype(np.float64), np)[0].mean()
    if spec.model.has_logvar:
        mean, logvar = exact.posterior
        exact_loss += spec.effective_beta * reference.kl(mean, logvar, np).mean()
    measured = []
    for mode in MODES:
        for package, ask in (("jaxvae", _jax), ("torchvae", _torch)):
            logits, losses = ask(spec, arrays, batch, mode)
            apart = gap({"": logits.astype(np.float64)}, {"": exact.logits[0]}).size
            measured.append(Effect(package, mode, apart, float(losses.astype(np.float64).mean() - exact_loss)))
    return measured


def to_markdown(effects: list[Effect]) -> str:
    """Format the effects as a Markdown table."""
    rows = [
        "| products in | package | logits, of their largest | mean loss, nats per image |",
        "| --- | --- | --- | --- |",
    ]
    rows += [f"| {e.mode} | {e.package} | {e.logits:.1e} | {e.nats:+.1e} |" for e in effects]
    return "\n".join(rows) + "\n"


def _jax(spec: Spec, arrays: Arrays, batch: Batch, mode: Precision) -> tuple[np.ndarray, np.ndarray]:
    @jax.jit
    def computed(params: dict, x: jax.Array, eps: jax.Array, labels: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        model = jaxvae.bind(spec.model, params, precision=mode)
        posterior = model.encode(x, labels)
        decoded = model.decode(jaxvae.locate(posterior, eps.reshape(-1, *posterior.mean.shape)[0]), labels)
        loss = jaxvae.nll(spec, decoded, x)
        if isinstance(posterior, jaxvae.Posterior):
            loss = loss + spec.effective_beta * jaxvae.gaussian_kl(posterior)
        return decoded.logits, loss

    labels = None if batch.labels is None else jnp.asarray(batch.labels)
    logits, loss = computed(jaxvae.from_arrays(spec, arrays), jnp.asarray(batch.x), jnp.asarray(batch.eps), labels)
    return np.asarray(logits), np.asarray(loss)


@torch.no_grad()
def _torch(spec: Spec, arrays: Arrays, batch: Batch, mode: Precision) -> tuple[np.ndarray, np.ndarray]:
    model = torch_backend.model_of(spec, arrays).eval()
    device = next(model.parameters()).device
    images, normals = torch.tensor(batch.x, device=device), torch.tensor(batch.eps, device=device)
    labels = None if batch.labels is None else torch.tensor(batch.labels, device=device)
    with in_precision(mode):
        posterior = model.encode(images, labels)
        z = torchvae.locate(posterior, normals.reshape(-1, *posterior.mean.shape)[0])
        decoded = model.decode(z, labels)
    loss = torchvae.nll(spec, decoded, images)
    if isinstance(posterior, torchvae.Posterior):
        loss = loss + spec.effective_beta * torchvae.gaussian_kl(posterior)
    return decoded.logits.numpy(force=True), loss.numpy(force=True)
