"""Parameters of the networks: their first values, their binding to the networks, and what the networks compute."""

from collections.abc import Callable

import torch
from torch import Tensor

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model import layout
from jaxvae.shared.model.argument_checks import require_arrays
from torchvae import own, random
from torchvae.checks import check_latents, check_pixels
from torchvae.distributions import AnyPosterior, Decoded
from torchvae.networks import VAE


def init(spec: Spec, key: random.Key, last_bias: Tensor | None = None) -> VAE:
    """Draw the initial parameters of a run.

    Array i of `layout.table` is drawn from fold_in(key, i), in PyTorch's layout.

    Args:
        spec: The configuration.
        key: The key of the stream `init`.
        last_bias: The decoder's last bias, `[pixels]`, if it is not drawn.

    Returns:
        The model, on the key's device.
    """
    require_spec(spec)
    dtype = getattr(torch, spec.training.stored)
    params, table = {}, layout.table(spec.model)
    for i, parameter in enumerate(table):
        value = torch.full(parameter.shape, parameter.fill, dtype=dtype, device=key.device)
        if parameter.bound:
            unit = random.uniform(random.fold_in(key, i), parameter.shape, dtype)
            # 2u - 1 is exact, so that the product is rounded once.
            value = (2.0 * unit - 1.0) * parameter.bound
        params[parameter.name] = value
    for i, network in enumerate(spec.model.parts.networks):
        params |= own.initial(spec, random.fold_in(key, len(table) + i), network)
    if last_bias is not None:
        params["decoder.logits.bias"] = last_bias
    return bind(spec.model, params)


def encode(spec: Spec, model: VAE, x: Tensor, labels: Tensor | None = None) -> AnyPosterior:
    """Encode images.

    Args:
        spec: The configuration.
        model: The model.
        x: Pixels in the configuration's range, `[batch, pixels]`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        The posterior, each part `[batch, latent]`.

    Raises:
        InputError: If the model, the pixels or the labels are not the configuration's.
    """
    check_pixels("encode", spec, model, x, labels)
    return model.eval().encode(x, labels)


def decode(spec: Spec, model: VAE, z: Tensor, labels: Tensor | None = None) -> Decoded:
    """Decode latents.

    Args:
        spec: The configuration.
        model: The model.
        z: Latents, `[batch, latent]`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        Logits, and log-variances where they are learned, `[batch, pixels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    require_spec(spec)
    check_latents("decode", spec, model, z, labels, spec.training.stored)
    return model.eval().decode(z, labels)


def bind(spec: ModelSpec, params: dict[str, Tensor], wrap: Callable[[VAE], None] = lambda model: None) -> VAE:
    """Build the module on a state_dict.

    Args:
        spec: The model.
        params: The tensors by name; the module takes them as its own.
        wrap: Changes the module before it takes them.

    Returns:
        The module, whose tensors require gradients.

    Raises:
        InputError: If the tensors are not the model's.
    """
    counted = {name: tensor for name, tensor in params.items() if not name.endswith("num_batches_tracked")}
    require_arrays("bind", spec, counted, None, flax=False)
    if spec.parts.networks:  # which may make tensors that no file holds
        with torch.random.fork_rng(devices=[]):
            model = VAE(spec)
    else:
        with torch.device("meta"):  # no numbers drawn that are not used
            model = VAE(spec)
    wrap(model)
    model.load_state_dict(params, assign=True)
    return model.requires_grad_()
