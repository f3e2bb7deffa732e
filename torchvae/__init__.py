"""A variational autoencoder in PyTorch that is, number for number, the one in `jaxvae`.

Everything below is imported when it is first used; `__init__.pyi` lists it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
