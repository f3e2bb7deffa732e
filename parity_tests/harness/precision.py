"""What a lower precision does to the loss: each package with float32 products, with TF32, with bfloat16, against the
plain formulas in float64."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jaxvae
import torchvae
from jaxvae.shared.spec import Spec
from parity_tests.harness import oracle, torch_side
from parity_tests.harness.compare import gap
from parity_tests.harness.levels import Arrays

MODES = ("float32, highest", "TF32", "bfloat16")


class Effect(NamedTuple):
    """One package in one precision, on the batch."""

    package: str
    mode: str
    logits: float
    """How far the logits are from float64's, as a share of their largest."""
    nats: float
    """How far the mean loss is from float64's, nats per image."""


def effects(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> list[Effect]:
    """What each precision costs, on float32 weights, pixels `[batch, pixels]` and normals `[batch, latent]`."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    exact = oracle.forward(spec, wide, x.astype(np.float64), eps.astype(np.float64))
    loss = oracle.losses(spec, wide, x.astype(np.float64), eps.astype(np.float64)).loss.mean()
    found = []
    for mode in MODES if torch_side.device().startswith("gpu") else (MODES[0], MODES[2]):  # a CPU has no TF32
        for package, ask in (("jaxvae", _jax), ("torchvae", _torch)):
            logits, losses = ask(spec, arrays, x, eps, mode)
            apart = gap({"": logits.astype(np.float64)}, {"": exact.logits}).size
            found.append(Effect(package, mode, apart, float(losses.astype(np.float64).mean() - loss)))
    return found


def to_markdown(found: list[Effect]) -> str:
    """The effects as a table."""
    rows = [
        "| products in | package | logits, of their largest | mean loss, nats per image |",
        "| --- | --- | --- | --- |",
    ]
    rows += [f"| {e.mode} | {e.package} | {e.logits:.1e} | {e.nats:+.1e} |" for e in found]
    return "\n".join(rows) + "\n"


def _jax(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    model = jaxvae.bind(spec.model, jaxvae.from_arrays(spec, arrays))
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Linear):
            layer.precision = {"TF32": "tensorfloat32"}.get(mode, "highest")
            layer.dtype = jnp.bfloat16 if mode == "bfloat16" else None
    posterior = jaxvae.Posterior(*(part.astype(jnp.float32) for part in model.encode(jnp.asarray(x))))
    logits = model.decode(jaxvae.locate(posterior, jnp.asarray(eps))).astype(jnp.float32)
    loss = jaxvae.bernoulli_nll(logits, jnp.asarray(x)) + spec.objective.beta * jaxvae.gaussian_kl(posterior)
    return np.asarray(logits), np.asarray(loss)


@torch.no_grad()
def _torch(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    model = torch_side.model_of(spec, arrays)
    device = next(model.parameters()).device
    images, normals = torch.tensor(x, device=device), torch.tensor(eps, device=device)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if mode == "TF32" else "highest")
        with torch.autocast(device.type, torch.bfloat16, enabled=mode == "bfloat16"):
            encoded = model.encode(images)
        posterior = torchvae.Posterior(*(part.float() for part in encoded))
        with torch.autocast(device.type, torch.bfloat16, enabled=mode == "bfloat16"):
            decoded = model.decode(torchvae.locate(posterior, normals))
    finally:
        torch.set_float32_matmul_precision(before)
    logits = decoded.float()
    loss = torchvae.bernoulli_nll(logits, images) + spec.objective.beta * torchvae.gaussian_kl(posterior)
    return logits.numpy(force=True), loss.numpy(force=True)
