"""Effect of lower precision on the loss: each package with float32, TF32 and bfloat16 products, compared with the plain
formulas in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jaxvae
import torchvae
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.compare import gap
from parity_tests.harness.vae import reference, torch_backend
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.levels import Arrays

MODES = ("float32, highest", "TF32", "bfloat16")


class Effect(NamedTuple):
    """The errors of one package in one precision."""

    package: str
    mode: str
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
        The errors of each package in each precision of the device.
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
    for mode in MODES if torch_backend.device().startswith("gpu") else (MODES[0], MODES[2]):  # a CPU has no TF32
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


def _jax(spec: Spec, arrays: Arrays, batch: Batch, mode: str) -> tuple[np.ndarray, np.ndarray]:
    model = jaxvae.bind(spec.model, jaxvae.from_arrays(spec, arrays))
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Linear | nnx.Conv | nnx.ConvTranspose):
            layer.precision = {"TF32": "tensorfloat32"}.get(mode, "highest")
            layer.dtype = jnp.bfloat16 if mode == "bfloat16" else None
    with jax.numpy_dtype_promotion("standard"):  # batch norm stays in float32 beside a bfloat16 convolution
        labels = None if batch.labels is None else jnp.asarray(batch.labels)
        posterior = jax.tree.map(lambda part: part.astype(jnp.float32), model.encode(jnp.asarray(batch.x), labels))
        z = jaxvae.locate(posterior, jnp.asarray(batch.eps).reshape(-1, *posterior.mean.shape)[0])
        decoded = jax.tree.map(lambda part: part.astype(jnp.float32), model.decode(z, labels))
        loss = jaxvae.nll(spec, decoded, jnp.asarray(batch.x))
        if isinstance(posterior, jaxvae.Posterior):
            loss = loss + spec.effective_beta * jaxvae.gaussian_kl(posterior)
    return np.asarray(decoded.logits), np.asarray(loss)


@torch.no_grad()
def _torch(spec: Spec, arrays: Arrays, batch: Batch, mode: str) -> tuple[np.ndarray, np.ndarray]:
    model = torch_backend.model_of(spec, arrays).eval()
    device = next(model.parameters()).device
    images, normals = torch.tensor(batch.x, device=device), torch.tensor(batch.eps, device=device)
    labels = None if batch.labels is None else torch.tensor(batch.labels, device=device)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if mode == "TF32" else "highest")
        with torch.autocast(device.type, torch.bfloat16, enabled=mode == "bfloat16"):
            encoded = model.encode(images, labels)
        posterior = type(encoded)(*(part.float() for part in encoded))
        z = torchvae.locate(posterior, normals.reshape(-1, *posterior.mean.shape)[0])
        with torch.autocast(device.type, torch.bfloat16, enabled=mode == "bfloat16"):
            made = model.decode(z, labels)
    finally:
        torch.set_float32_matmul_precision(before)
    decoded = torchvae.Decoded(made.logits.float(), None if made.logvar is None else made.logvar.float())
    loss = torchvae.nll(spec, decoded, images)
    if isinstance(posterior, torchvae.Posterior):
        loss = loss + spec.effective_beta * torchvae.gaussian_kl(posterior)
    return decoded.logits.numpy(force=True), loss.numpy(force=True)
