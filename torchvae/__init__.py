"""Variational autoencoders in PyTorch that train exactly like those of `jaxvae` in Flax.

The same configuration and seed give the same run in both packages. Every public name can be used as `torchvae.NAME`; it
is imported when it is first used, and `__init__.pyi` lists all of them with their types. jax is never imported.

    spec = torchvae.Spec(model=torchvae.ModelSpec(hidden=(400,), latent=20))
    state = torchvae.init_state(spec)
    state, terms = torchvae.train_epoch(spec, state, torch.tensor(torchvae.mnist().train))

The modules are those of jaxvae, with the same names in the same order; `help(jaxvae)` describes them. `random` is
jax.random's streams in PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
