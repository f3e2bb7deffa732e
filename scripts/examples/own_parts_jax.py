"""A likelihood and an optimizer of one's own with JAX, as a run folder: python scripts/examples/own_parts_jax.py

Then: jaxvae sample runs/laplace --parts scripts/examples/own_parts_jax.py:PARTS --out samples.png
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae


def laplace(decoded, x):
    """-log p(x | z) of Laplace pixels whose scale is learned: `[batch]`, nats per image."""
    distance = jnp.abs(location(decoded) - x)
    return (distance * jnp.exp(-decoded.logvar) + decoded.logvar + math.log(2)).sum(-1)


def location(decoded):
    """The mean of each pixel."""
    return jax.nn.sigmoid(decoded.logits)


PARTS = jaxvae.Parts(nll=laplace, mean=location, logvar="shared")


def main() -> None:
    data, log = jaxvae.digits(), []
    spec = jaxvae.preset("pytorch-examples", hidden=(64,), latent=2, epochs=3, parts=PARTS)

    def on_epoch(progress: jaxvae.Progress) -> None:
        log.append(progress.train)
        print(f"epoch {progress.epoch}: test loss {progress.test[0]:.1f} nats per image")

    state = jaxvae.fit(spec, data, on_epoch, optimizer=optax.adamw(3e-3))
    jaxvae.save_run("runs/laplace", spec, state, data, terms=np.concatenate(log))
    spec, params = jaxvae.load("runs/laplace", parts=PARTS)
    jaxvae.plot_reconstructions(spec, params, data).savefig("runs/laplace/images/reconstructions.png")


if __name__ == "__main__":
    main()
