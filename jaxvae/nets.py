"""Parameters of the networks as a plain nested dict of arrays: their first values, their binding to the networks, and
what the networks compute from them."""

import functools
import math
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax import Array, random

from jaxvae import own
from jaxvae.checks import check_latents, check_params, check_pixels
from jaxvae.compilation import program
from jaxvae.distributions import AnyPosterior, Decoded
from jaxvae.packed import PackedVAE, packed
from jaxvae.parallel import used
from jaxvae.products import dot_general
from jaxvae.shared.config.choices import Dtype, Precision
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model import layout

# Only the functions that make or read a module import Flax, here and in own.py: its import takes a tenth of a short
# command, and one that finds its programs makes no module.
if TYPE_CHECKING:
    from flax import nnx

    from jaxvae.networks import VAE

Params = dict  # nested, by layout.Parameter.path


def init(spec: Spec, key: Array, last_bias: Array | None = None) -> Params:
    """Draw the initial parameters of a run.

    Array i of `layout.table` is drawn from fold_in(key, i), in PyTorch's layout.

    Args:
        spec: The configuration.
        key: The key of the stream `init`.
        last_bias: The decoder's last bias, `[pixels]`, if it is not drawn.

    Returns:
        The parameters, nested by `layout.Parameter.path`.
    """
    require_spec(spec)
    params = _init(spec, key)
    if last_bias is not None:
        params["decoder"]["logits"]["bias"] = last_bias
    return params


def encode(spec: Spec, params: Params, x: Array, labels: Array | None = None) -> AnyPosterior:
    """Encode images.

    Args:
        spec: The configuration.
        params: The model's parameters.
        x: Pixels in the configuration's range, `[batch, pixels]`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        The posterior, each part `[batch, latent]`.

    Raises:
        InputError: If the model, the pixels or the labels are not the configuration's.
    """
    check_pixels("encode", spec, params, x, labels)
    return bind(spec.model, params).encode(x, labels)


def decode(spec: Spec, params: Params, z: Array, labels: Array | None = None) -> Decoded:
    """Decode latents.

    Args:
        spec: The configuration.
        params: The model's parameters.
        z: Latents, `[batch, latent]`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        Logits, and log-variances where they are learned, `[batch, pixels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    require_spec(spec)
    check_latents("decode", spec, params, z, labels, spec.training.stored)
    return bind(spec.model, params).decode(z, labels)


def bind(spec: ModelSpec, params: Params, dtype: Dtype | None = None, precision: Precision = "float32") -> "VAE":
    """Bind parameters to the Flax module.

    Args:
        spec: The model.
        params: The parameters, nested by `layout.Parameter.path`.
        dtype: bfloat16 has the layers compute in it; otherwise they compute in the parameters' dtype.
        precision: Of the layers' products and of those of their gradients.

    Returns:
        The module, for use inside one function; what it does to its state stays in it.

    Raises:
        InputError: If the parameters are not the model's.
    """
    if packed(params):
        return cast("VAE", PackedVAE(spec, params))
    from flax import nnx

    check_params("bind", spec, params)
    return nnx.merge(_graphdef(spec, dtype == "bfloat16", precision), used(params))


def statistics(model: "VAE") -> Params:
    """The running statistics of a bound model, nested as the parameters are."""
    if isinstance(model, PackedVAE):
        return {}
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def partition(spec: ModelSpec, params: Params, networks: tuple[str, ...]) -> tuple[Params, Params]:
    """Split the parameters into those that the optimizer of these networks trains, and all others; both are nested as
    the parameters are, with None in place of each other's."""
    if packed(params):
        none = jax.tree.map(lambda _: None, params)
        return (
            {name: (params if name in networks else none)[name] for name in params},
            {name: (none if name in networks else params)[name] for name in params},
        )
    chosen: Params = {}
    for parameter in layout.table(spec):
        _put(chosen, parameter.path, parameter.trained and parameter.network in networks)
    chosen_arrays = jax.tree.map(lambda mine, array: array if mine else None, chosen, params)
    return chosen_arrays, jax.tree.map(lambda mine, array: None if mine else array, chosen, params)


def combine(params: Params, others: Params) -> Params:
    """Replace those parameters that `others` has."""
    if not isinstance(params, dict):
        return params if others is None else others
    return {name: combine(value, others[name]) if name in others else value for name, value in params.items()}


@functools.cache
def _graphdef(spec: ModelSpec, bfloat16: bool, precision: Precision) -> "nnx.GraphDef":
    """The model without its numbers: static, so `bind` costs nothing inside jit."""
    from flax import nnx

    from jaxvae.networks import VAE

    model = nnx.eval_shape(lambda: VAE(spec, rngs=nnx.Rngs(0)))
    if bfloat16:
        model.set_attributes(dtype="bfloat16")
    if precision != "float32":
        model.set_attributes(dot_general=dot_general(precision), products=precision, raise_if_not_found=False)
    return nnx.split(model)[0]


@program(["spec"])
def _init(spec: Spec, key: Array) -> Params:
    params: Params = {}
    table, dtype = layout.table(spec.model), spec.training.stored
    # Number n of a draw depends on n alone. So sizes are rounded up to powers of two and those of one size drawn as a
    # batch: a cipher for each array would take a deep network's program minutes to compile. Drawing 4,096 numbers takes
    # less time than compiling another cipher for fewer.
    groups: dict[int, list[int]] = {}
    for i, parameter in enumerate(table):
        if parameter.bound:
            groups.setdefault(max(12, (math.prod(parameter.shape) - 1).bit_length()), []).append(i)
    units = {
        i: unit
        for bits, places in groups.items()
        for i, unit in zip(places, _units(key, places, 1 << bits, dtype), strict=True)
    }
    for i, parameter in enumerate(table):
        value = jnp.full(parameter.shape, parameter.fill, dtype)
        if parameter.bound:
            unit = units[i][: math.prod(parameter.shape)].reshape(parameter.shape)
            # 2u - 1 is exact, so that the product is rounded once, whatever the compiler fuses.
            value = (2.0 * unit - 1.0) * parameter.bound
        moved = value.reshape(parameter.view).transpose(parameter.axes)
        _put(params, parameter.path, moved.reshape(parameter.flax_shape))
    for i, network in enumerate(spec.model.parts.networks):
        params |= own.initial(spec, random.fold_in(key, len(table) + i), network)
    return params


def _units(key: Array, places: list[int], size: int, dtype: str) -> Array:
    """Uniforms of the arrays at these places of the table: `[places, size]`."""
    return jax.vmap(lambda i: random.uniform(random.fold_in(key, i), (size,), dtype))(jnp.asarray(places))


def _put(params: Params, path: layout.Path, value: Any) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value
