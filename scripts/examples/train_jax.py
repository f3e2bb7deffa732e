"""Train on MNIST with JAX and save the weights, as README shows it: python scripts/examples/train_jax.py"""

import jax.numpy as jnp
import jaxvae

spec = jaxvae.Spec(model=jaxvae.ModelSpec(hidden=(400,), latent=20))
state, images = jaxvae.init_state(spec), jnp.asarray(jaxvae.mnist().train)
for epoch in range(10):
    state, terms = jaxvae.train_epoch(spec, state, images)  # one compiled loop
    print(epoch, terms.mean(0))  # loss, reconstruction, kl: nats per image
jaxvae.save("model.safetensors", spec, state.params)
