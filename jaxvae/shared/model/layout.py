"""The parameter table of a model: every array's name and shape in each framework, and how one becomes the other.

The weight file uses PyTorch's names and layout. Nothing outside this file transposes a parameter.
"""

import math
from dataclasses import replace
from typing import Literal, NamedTuple, assert_never

import numpy as np

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.choices import Activation
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.parts import ModelSpec

Path = tuple[str | int, ...]
NETWORKS = ("encoder", "decoder", "discriminator")
KERNEL, STRIDE, PADDING = 3, 2, 1  # of every convolution of `conv` but the last, whose stride is 1


class Layer(NamedTuple):
    """One layer, in the order of the computation."""

    path: Path
    kind: Literal["linear", "conv", "conv-transpose", "norm", "scalar"]
    inputs: int
    """Features or channels."""
    outputs: int
    size: tuple[int, int] = (1, 1)
    """Height and width of what it gives."""
    stride: int = 1
    output_padding: tuple[int, int] = (0, 0)
    """Rows and columns a transposed convolution adds at the end, so that an odd size comes back odd."""
    flattened: tuple[int, int, int] | None = None
    """Channels, height and width of the map that a linear layer takes flattened."""
    unflattened: tuple[int, int, int] | None = None
    """Channels, height and width of the map that a linear layer's outputs make."""
    normed: bool = False
    """Whether batch norm follows, which takes any bias away again."""
    kernel: int = KERNEL
    padding: int = PADDING
    plain: bool = False
    """Whether a hidden layer has no activation after it, or after its batch norm."""
    activation: Activation | None = None
    """The activation after a hidden layer, or after its batch norm, in place of the model's."""


class Parameter(NamedTuple):
    """One array of the model."""

    name: str
    """In PyTorch's state_dict and in the weight file, e.g. `encoder.hidden.0.weight`."""
    shape: tuple[int, ...]
    """In PyTorch's layout."""
    path: Path
    """Where the Flax dict holds it, e.g. `("encoder", "hidden", 0, "kernel")`."""
    view: tuple[int, ...]
    """`shape` with the flattened axis of a linear layer at a convolution taken apart: channels, height, width."""
    axes: tuple[int, ...]
    """The transpose of `view` that takes PyTorch's layout to Flax's."""
    flax_shape: tuple[int, ...]
    bound: float
    """Both frameworks draw it from U(-bound, bound)."""
    fill: float = 0.0
    """What it starts from where `bound` is 0."""
    trained: bool = True
    """False for batch norm's running statistics, and for biases in front of it. It takes these away again: their
    gradient is zero but for rounding, which Adam would divide by its own size and make steps of."""

    @property
    def network(self) -> str:
        """`encoder`, `decoder` or `discriminator`."""
        return str(self.path[0])


def table(spec: ModelSpec) -> tuple[Parameter, ...]:
    """Every array of the model, in the order of the weight file and of the initial draws."""
    parameters = [parameter for layer in layers(spec) for parameter in _parameters(spec, layer)]
    own = [parameter for network in spec.parts.networks for parameter in _own(spec, network)]
    return tuple(sorted([*own, *parameters], key=lambda parameter: NETWORKS.index(parameter.network)))


def layers(spec: ModelSpec) -> list[Layer]:
    """Every layer with parameters, in the order of the computation; none of a network that is the user's own."""
    judge = (spec.latent, *spec.discriminator)
    networks = {"mlp": _mlp_layers, "conv": _conv_layers, "layers": _word_layers}[spec.network](spec)
    networks += [Layer(("decoder", name), "scalar", 0, 1) for name in scalar_parameters(spec)]
    networks = [layer for layer in networks if layer.path[0] not in spec.parts.networks]
    if not spec.discriminator:
        return networks
    return [
        *networks,
        *(_linear(("discriminator", "hidden", i), judge[i], judge[i + 1]) for i in range(len(judge) - 1)),
        _linear(("discriminator", "logit"), judge[-1], 1),
    ]


def by_path(spec: ModelSpec) -> dict[Path, Layer]:
    """Every layer by its path."""
    return {layer.path: layer for layer in layers(spec)}


def heads(spec: ModelSpec) -> tuple[str, ...]:
    """The names of the encoder's last layers."""
    return {
        "gaussian": ("mean", "logvar"),
        "log-sigma": ("mean", "logscale"),
        "relu-sigma": ("mean", "scale"),
        "point": ("mean",),
        "relu-point": ("mean",),
    }[spec.posterior]


def tails(spec: ModelSpec) -> tuple[str, ...]:
    """The names of the decoder's last layers."""
    return likelihood_of(spec).heads


def scalar_parameters(spec: ModelSpec) -> tuple[str, ...]:
    """The names of the decoder's scalar parameters."""
    return likelihood_of(spec).scalars


def sizes(spec: ModelSpec) -> list[tuple[int, int]]:
    """Heights and widths of the network `conv` from the image down to the last convolution's: each a half, rounded
    up."""
    halved = [spec.image[:2]]
    for _ in spec.hidden:
        halved.append(((halved[-1][0] + 1) // 2, (halved[-1][1] + 1) // 2))
    return halved


def hidden_units(spec: ModelSpec) -> tuple[tuple[int, ...], ...]:
    """The shapes of the outputs of encoder's and decoder's hidden layers for one image: `[width]`, or `[height, width,
    channels]`."""
    hidden = [layer for network in ("encoder", "decoder") for layer in hidden_layers(spec, network)]
    return tuple(
        (layer.outputs,) if layer.kind == "linear" and layer.unflattened is None else (*layer.size, channels(layer))
        for layer in hidden
    )


def hidden_layers(spec: ModelSpec, network: str) -> list[Layer]:
    """The hidden layers of `encoder` or `decoder`, without their batch norms."""
    return [layer for layer in layers(spec) if layer.path[:2] == (network, "hidden") and layer.kind != "norm"]


def activated(spec: ModelSpec, layer: Layer) -> ModelSpec:
    """The model with the activation that follows this layer."""
    return spec if layer.activation is None else replace(spec, activation=layer.activation)


def channels(layer: Layer) -> int:
    """The channels of what a layer gives: its outputs, or those of the map they make."""
    return layer.unflattened[0] if layer.unflattened else layer.outputs


def to_flax(parameter: Parameter, array: np.ndarray) -> np.ndarray:
    """`parameter.shape` to `parameter.flax_shape`."""
    moved = array.reshape(parameter.view).transpose(parameter.axes)
    return np.asarray(moved.reshape(parameter.flax_shape), order="C")


def to_torch(parameter: Parameter, array: np.ndarray) -> np.ndarray:
    """`parameter.flax_shape` to `parameter.shape`."""
    apart = array.reshape([parameter.view[axis] for axis in parameter.axes])
    return np.asarray(apart.transpose(np.argsort(parameter.axes)).reshape(parameter.shape), order="C")


def _mlp_layers(spec: ModelSpec) -> list[Layer]:
    down = (spec.pixels + spec.classes, *spec.hidden)
    up = (spec.latent + spec.classes, *reversed(spec.hidden))
    return [
        *(_linear(("encoder", "hidden", i), down[i], down[i + 1]) for i in range(len(spec.hidden))),
        *(_linear(("encoder", name), down[-1], spec.latent) for name in heads(spec)),
        *(_linear(("decoder", "hidden", i), up[i], up[i + 1]) for i in range(len(spec.hidden))),
        *(_linear(("decoder", name), up[-1], spec.pixels) for name in tails(spec)),
    ]


def _conv_layers(spec: ModelSpec) -> list[Layer]:
    down, size = (spec.image[2] + spec.classes, *spec.hidden), sizes(spec)
    up = (*reversed(spec.hidden), spec.hidden[0])
    flat = (spec.hidden[-1], *size[-1])
    layers: list[Layer] = []
    for i in range(len(spec.hidden)):
        layers += _convolved(spec, Layer(("encoder", "hidden", i), "conv", down[i], down[i + 1], size[i + 1], STRIDE))
    layers += [
        _linear(("encoder", name), math.prod(flat), spec.latent)._replace(flattened=flat) for name in heads(spec)
    ]
    first = _linear(("decoder", "input"), spec.latent + spec.classes, math.prod(flat))
    layers.append(first._replace(unflattened=flat, size=size[-1]))
    for i, (small, large) in enumerate(zip(size[:0:-1], size[-2::-1], strict=True)):
        # A transposed convolution gives (n - 1) * stride - 2 * padding + kernel = 2n - 1, and what is added.
        more = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
        path = ("decoder", "hidden", i)
        layers += _convolved(spec, Layer(path, "conv-transpose", up[i], up[i + 1], large, STRIDE, more))
    return [*layers, *(Layer(("decoder", name), "conv", up[-1], spec.image[2], size[0]) for name in tails(spec))]


def _convolved(spec: ModelSpec, layer: Layer) -> list[Layer]:
    """A convolution below the path of `layer`, and its batch norm unless the model has none."""
    normed = spec.norm == "batch"
    conv = layer._replace(path=(*layer.path, "conv"), normed=normed)
    norm = Layer((*layer.path, "norm"), "norm", layer.outputs, layer.outputs, layer.size)
    return [conv, norm] if normed else [conv]


def _word_layers(spec: ModelSpec) -> list[Layer]:
    result: list[Layer] = []
    encoder, decoder = layer_words.words(spec.encoder, "encoder"), layer_words.words(spec.decoder, "decoder")
    image, latents = (*spec.image[:2], spec.image[2] + spec.classes), (1, 1, spec.latent + spec.classes)
    for network, words, given in (("encoder", encoder, image), ("decoder", decoder[:-1], latents)):
        for i, word in enumerate(words):
            layer = of_word((network, "hidden", i, "linear" if word.kind == "linear" else "conv"), word, given)
            if network == "encoder" and i == 0 and word.kind == "linear":  # of an image as it is, before its label
                layer = layer._replace(inputs=spec.pixels + spec.classes, flattened=None)
            given = word.gives(given)
            result.append(layer)
            if word.norm:
                norm = Layer((network, "hidden", i, "norm"), "norm", given[2], given[2], given[:2])
                result.append(norm._replace(plain=word.plain, activation=word.activation))
        if network == "encoder":
            head = _linear((), math.prod(given), spec.latent)._replace(flattened=(given[2], *given[:2]))
            result += [head._replace(path=("encoder", name)) for name in heads(spec)]
        else:
            last = of_word((), decoder[-1], given)._replace(unflattened=None)
            result += [last._replace(path=("decoder", name)) for name in tails(spec)]
    return result


def of_word(path: Path, word: layer_words.Word, given: layer_words.Map) -> Layer:
    """The layer of a word that takes this map."""
    height, width, channels = word.gives(given)
    if word.kind == "linear":
        flat, made = (given[2], *given[:2]), (channels, height, width)
        layer = Layer(path, "linear", math.prod(flat), math.prod(made), (height, width))
        layer = layer._replace(flattened=flat, unflattened=made, normed=word.norm)
        return layer._replace(plain=word.plain, activation=word.activation)
    return Layer(
        path,
        word.kind,
        given[2],
        channels,
        (height, width),
        word.stride,
        (word.output_padding, word.output_padding),
        normed=word.norm,
        kernel=word.kernel,
        padding=word.padding,
        plain=word.plain,
        activation=word.activation,
    )


def _linear(path: Path, inputs: int, outputs: int) -> Layer:
    return Layer(path, "linear", inputs, outputs)


def _parameters(spec: ModelSpec, layer: Layer) -> list[Parameter]:
    match layer.kind:
        case "linear" | "conv" | "conv-transpose":
            return _weight_and_bias(spec, layer)
        case "norm":
            kinds = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
            return [
                _vector(name, (*layer.path, kind), layer.outputs, 0.0)._replace(
                    name=_dotted(*layer.path, name),
                    fill=1.0 if name in ("weight", "running_var") else 0.0,
                    trained=not name.startswith("running"),
                )
                for name, kind in kinds.items()
            ]
        case "scalar":
            return [Parameter(_dotted(*layer.path), (), layer.path, (), (), (), 0.0, math.log(spec.variance))]
        case kind:
            assert_never(kind)


def _weight_and_bias(spec: ModelSpec, layer: Layer) -> list[Parameter]:
    path, inputs, outputs = layer.path, layer.inputs, layer.outputs
    area = 1 if layer.kind == "linear" else layer.kernel**2
    # PyTorch counts a transposed convolution's fan-in over its outputs: the second axis of its weight.
    fan_in, fan_out = (outputs, inputs) if layer.kind == "conv-transpose" else (inputs, outputs)
    bound = bias_bound = 1 / math.sqrt(fan_in * area)
    if spec.init == "lecun":
        bound, bias_bound = math.sqrt(3 / (fan_in * area)), 0.0
    elif spec.init != "pytorch":
        bound, bias_bound = math.sqrt(6 / ((fan_in + fan_out) * area)), 0.0
    name, bias = _dotted(*path, "weight"), _vector(_dotted(*path, "bias"), (*path, "bias"), outputs, bias_bound)
    if layer.kind == "linear":
        given, made = layer.flattened or (inputs,), layer.unflattened or (outputs,)
        first, last = _channels_last(made), tuple(len(made) + axis for axis in _channels_last(given))
        view, axes = (*made, *given), (*last, *first)
        weight = Parameter(name, (outputs, inputs), (*path, "kernel"), view, axes, (inputs, outputs), bound)
        bias = bias._replace(view=made, axes=first)
    else:
        # A transposed one is [in, out, h, w] in PyTorch; Flax with `transpose_kernel` takes [h, w, out, in].
        first, second = (inputs, outputs) if layer.kind == "conv-transpose" else (outputs, inputs)
        shape, moved = (first, second, layer.kernel, layer.kernel), (layer.kernel, layer.kernel, second, first)
        weight = Parameter(name, shape, (*path, "kernel"), shape, (2, 3, 1, 0), moved, bound)
    return [weight, bias._replace(trained=not layer.normed)]


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The transpose of channels, height, width to height, width, channels, or that of one axis."""
    return (1, 2, 0) if len(shape) == 3 else (0,)


def _own(spec: ModelSpec, network: str) -> list[Parameter]:
    """The arrays of a network of the user's own, as its framework has them."""
    return [
        Parameter(
            _dotted(network, *path), shape, (network, *path), shape, tuple(range(len(shape))), shape, 0.0, 0.0, trained
        )
        for path, shape, trained in spec.parts.tensors(spec, network)
    ]


def _vector(name: str, path: Path, size: int, bound: float) -> Parameter:
    return Parameter(name, (size,), path, (size,), (0,), (size,), bound)


def _dotted(*path: str | int) -> str:
    return ".".join(map(str, path))
