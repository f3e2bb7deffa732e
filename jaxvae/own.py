"""A user's own likelihood, networks and objective: `Parts`, and what is asked of own networks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxvae.distributions import AnyPosterior, Decoded
from jaxvae.operations import full
from jaxvae.shared.config import own
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import own_outputs


class Parts(own.Parts):
    """Parts of a model that are your own, in place of those that the other fields of `ModelSpec` name.

    They are given where a configuration is made, `preset("conv", parts=Parts(...))`, and again where it is read,
    `load(path, parts=Parts(...))`: files keep their names and the SHA-256 of their sources.

    Args:
        nll: A likelihood of your own: a function of the decoder's `Decoded` and the pixels, `[batch, pixels]`, that
            returns -log p(x | z) in nats per image, `[batch]`. It needs `mean`.
        mean: A function of `Decoded` that returns each pixel's mean in the configuration's range, `[batch, pixels]`.
        logvar: What the package's decoders give such a likelihood beside the logits, as `Decoded.logvar`: nothing
            (`none`), a parameter that all pixels share (`shared`), or a second output for each pixel (`pixel`).
        encoder: A class of networks as `Encoder` is one, from pixels, labels and `Training` to the posterior.
        decoder: A class of networks as `Decoder` is one, from latents, labels and `Training` to `Decoded`.
        objective: A function of the configuration, the model and its `Inputs` that returns the terms `loss`,
            `reconstruction` and `kl` of each image, `[batch]` each, in nats; `encode_decode` helps it.

    Raises:
        InputError: If a part has no name or no source, or if one of `nll` and `mean` is missing.
    """

    def __init__(
        self,
        *,
        nll: Callable[..., Any] | None = None,
        mean: Callable[..., Any] | None = None,
        logvar: own.Logvar = "none",
        encoder: Callable[..., Any] | None = None,
        decoder: Callable[..., Any] | None = None,
        objective: Callable[..., Any] | None = None,
    ):
        super().__init__(nll=nll, mean=mean, logvar=logvar, encoder=encoder, decoder=decoder, objective=objective)

    def tensors(
        self, model: ModelSpec, network: str
    ) -> tuple[tuple[tuple[str | int, ...], tuple[int, ...], bool], ...]:
        """List the tensors of an own network: path, shape and whether it is trained."""
        return _tensors(self, model, network)


def initial(spec: Spec, key: Array, network: str) -> dict:
    """Draw the initial parameters of an own network by its own means.

    Args:
        spec: The configuration.
        key: The key that they are drawn from; use it once.
        network: `encoder` or `decoder`.

    Returns:
        The parameters by the name of the network; nothing for one that has none.
    """
    from flax import nnx

    module = getattr(spec.model.parts, network)(spec.model, rngs=nnx.Rngs(key))
    params = jax.tree.map(lambda array: array.astype(spec.training.stored), nnx.to_pure_dict(nnx.state(module)))
    return {network: params} if params else {}


def encoded(spec: ModelSpec, posterior: AnyPosterior, rows: int) -> AnyPosterior:
    """Check what an own encoder returned, and cast it to float32 where it is bfloat16."""
    own_outputs.require_posterior(spec, posterior, rows)
    return type(posterior)(*map(full, posterior))


def decoded(spec: ModelSpec, outputs: Decoded, rows: int) -> Decoded:
    """Check what an own decoder returned, and cast it to float32 where it is bfloat16."""
    own_outputs.require_decoded(spec, outputs, rows)
    return Decoded(full(outputs.logits), None if outputs.logvar is None else full(outputs.logvar))


@functools.cache
def _tensors(parts: Parts, model: ModelSpec, network: str) -> tuple[Any, ...]:
    from flax import nnx

    make = getattr(parts, network)
    state = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: make(model, rngs=nnx.Rngs(0)))))
    tensors = []
    for path, variable in state:
        if not isinstance(variable, nnx.Param | nnx.BatchStat) or not jnp.issubdtype(variable.dtype, jnp.floating):
            raise InputError(
                f"The own {network} {make.__name__} may hold Param and BatchStat variables of floats, found "
                f"{'.'.join(map(str, path))}, a {type(variable).__name__}; its functions are given no other state."
            )
        tensors.append((path, tuple(variable.shape), isinstance(variable, nnx.Param)))
    return tuple(tensors)
