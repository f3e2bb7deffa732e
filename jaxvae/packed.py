"""A multilayer perceptron as the steps on a GPU take it, where at the usual sizes each kernel's launch is what costs.

Weight and bias of a layer are one matrix, whose last rows are the bias and zeros, and its input has a one and zeros
there: the product adds the bias and gives its gradient, and Adam takes one kernel a layer. Layers of one input, such as
the encoder's heads, share a matrix. Sizes are multiples of 32, for which no product needs its arguments padded.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvae.distributions import AnyPosterior, Decoded
from jaxvae.operations import Training, activate, dropped, posterior, with_labels
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout

_ROWS = "rows"
_MULTIPLE = 32


def packs(spec: Spec) -> bool:
    """Whether the steps of a configuration take its parameters so. In fewer bits a product would round the bias too."""
    plain = spec.training.dtype != "bfloat16" and spec.training.precision == "float32"
    return plain and spec.model.network == "mlp" and not spec.model.parts.networks


def packed(tree: dict) -> bool:
    """Whether parameters are packed."""
    return any(_ROWS in network for network in tree.values())


def pack(spec: ModelSpec, tree: dict) -> dict:
    """Pack parameters, or what an optimizer keeps for each of them, nested as they are.

    Args:
        spec: The model.
        tree: The parameters, nested by `layout.Parameter.path`, or some networks' with None for the others'.

    Returns:
        For each network its matrices, in the order of the computation, and its other parameters.
    """
    return {network: _packed(groups, tree[network]) for network, groups in _groups(spec).items()}


def unpack(spec: ModelSpec, tree: dict) -> dict:
    """Unpack what `pack` packed."""
    return {network: _unpacked(groups, tree[network]) for network, groups in _groups(spec).items()}


class PackedVAE:
    """`networks.VAE` of packed parameters, as an objective takes it."""

    def __init__(self, spec: ModelSpec, params: dict):
        self.spec, self.params = spec, params

    def encode(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        *hidden, heads = self.params["encoder"][_ROWS].values()
        x = with_labels(self.spec, x, labels)
        for i, matrix in enumerate(hidden):
            x = _product(x, matrix, self.spec.hidden[i])
            x = dropped(activate(self.spec, x), training, i)
        names = layout.heads(self.spec)
        outputs = _product(x, heads, len(names) * self.spec.latent)
        return posterior(self.spec, jnp.split(outputs, len(names), -1))

    def decode(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        *hidden, tails = self.params["decoder"][_ROWS].values()
        z = with_labels(self.spec, z, labels)
        for i, matrix in enumerate(hidden):
            z = _product(z, matrix, self.spec.hidden[-1 - i])
            z = dropped(activate(self.spec, z), training, len(hidden) + i)
        names = layout.tails(self.spec)
        outputs = jnp.split(_product(z, tails, len(names) * self.spec.pixels), len(names), -1)
        if likelihood_of(self.spec).logvar == "shared":
            return Decoded(outputs[0], self.params["decoder"]["logvar"])
        return Decoded(outputs[0], outputs[1] if len(outputs) > 1 else None)

    def discriminate(self, z: Array) -> Array:
        *hidden, logit = self.params["discriminator"][_ROWS].values()
        for matrix, units in zip(hidden, self.spec.discriminator, strict=True):
            z = jax.nn.relu(_product(z, matrix, units))
        return _product(z, logit, 1)


def _product(x: Array, matrix: Array, outputs: int) -> Array:
    """A linear layer: `[batch, inputs]` to `[batch, outputs]`."""
    inputs, rows = x.shape[-1], matrix.shape[0]
    one = lax.broadcasted_iota(jnp.int32, (x.shape[0], rows), 1) == inputs
    x = jnp.where(one, 1, jnp.pad(x, ((0, 0), (0, rows - inputs))))
    return jnp.dot(x, matrix, precision="highest")[:, :outputs]


def _groups(spec: ModelSpec) -> dict[str, list[list[layout.Layer]]]:
    """The linear layers of each network, those of one input together."""
    groups: dict[str, list[list[layout.Layer]]] = {}
    for layer in layout.layers(spec):
        if layer.kind == "linear":
            network = groups.setdefault(str(layer.path[0]), [])
            if network and "hidden" not in layer.path and "hidden" not in network[-1][0].path:
                network[-1].append(layer)
            else:
                network.append([layer])
    return groups


def _packed(groups: list[list[layout.Layer]], network: dict) -> dict:
    return _others(groups, network) | {
        _ROWS: {i: _matrix([_at(network, layer) for layer in group]) for i, group in enumerate(groups)}
    }


def _unpacked(groups: list[list[layout.Layer]], network: dict) -> dict:
    tree = _others(groups, network)
    for group, matrix in zip(groups, network[_ROWS].values(), strict=True):
        first = 0
        for layer in group:
            last = first + layer.outputs
            *folders, name = layer.path[1:]
            inner = tree
            for folder in folders:
                inner = inner.setdefault(folder, {})
            inner[name] = {"kernel": None, "bias": None}
            if matrix is not None:
                inner[name] = {"kernel": matrix[: layer.inputs, first:last], "bias": matrix[layer.inputs, first:last]}
            first = last
    return tree


def _others(groups: list[list[layout.Layer]], network: dict) -> dict:
    """A network's scalar parameters."""
    linear = {layer.path[1] for group in groups for layer in group} | {_ROWS}
    return {name: value for name, value in network.items() if name not in linear}


def _matrix(layers: list[dict]) -> Array | None:
    if layers[0]["kernel"] is None:
        return None
    kernel, bias = (jnp.concatenate([layer[name] for layer in layers], -1) for name in ("kernel", "bias"))
    inputs, outputs = kernel.shape
    more = (0, _rounded_up(inputs + 1) - inputs - 1), (0, _rounded_up(outputs) - outputs)
    return jnp.pad(jnp.concatenate([kernel, bias[None]]), more)


def _at(network: dict, layer: layout.Layer) -> dict:
    """A layer's arrays in a network's tree."""
    return functools.reduce(lambda tree, name: tree[name], layer.path[1:], network)


def _rounded_up(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE
