"""The programs whose files are known: what each calls its tensors, and the loss it trains for.

One is recognised by the names of its tensors, seen through what wrappers put before them; the sizes are those that
their shapes have."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.presets import PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.name_mapping import Rule, Shape, complaints, places
from jaxvae.shared.model import layout

Size = tuple[int, int, int]


class Source(NamedTuple):
    """A program whose files are known."""

    name: str
    title: str
    preset: str
    """The one whose layers and loss are the program's."""
    rules: tuple[Rule, ...]
    counted: str = ""
    """The tensors to count for the number of hidden layers; it is 1 if there are none to count."""
    uncounted: int = 0
    """How many of them are no hidden layer's."""
    layers: str = ""
    """What names and shapes leave open of the layers, and what is taken."""
    loss: str = ""
    """What they leave open of the loss, and what is taken."""


class Found(NamedTuple):
    """What was recognised."""

    source: Source
    preset: str
    spec: Spec


_HIDDEN, _MEAN, _LOGVAR = "encoder.hidden.0.*", "encoder.mean.*", "encoder.logvar.*"
_BACK, _LOGITS = "decoder.hidden.0.*", "decoder.logits.*"
_SEQUENTIAL = (
    Rule("encoder.{2i}.*", "encoder.hidden.{i}.*"),
    Rule("decoder.{2i}.*", "decoder.hidden.{i}.*"),
    Rule("decoder.{2n}.*", _LOGITS),
)

SOURCES = (
    Source(
        "pytorch-examples",
        "pytorch/examples' VAE",
        "pytorch-examples",
        (
            Rule("fc1.*", _HIDDEN),
            Rule("fc21.*", _MEAN),
            Rule("fc22.*", _LOGVAR),
            Rule("fc3.*", _BACK),
            Rule("fc4.*", _LOGITS),
        ),
    ),
    Source(
        "yunjey",
        "yunjey/pytorch-tutorial's VAE",
        "yunjey",
        (
            Rule("fc1.*", _HIDDEN),
            Rule("fc2.*", _MEAN),
            Rule("fc3.*", _LOGVAR),
            Rule("fc4.*", _BACK),
            Rule("fc5.*", _LOGITS),
        ),
    ),
    Source(
        "sequential",
        "a pair of nn.Sequential, an autoencoder",
        "autoencoder",
        (*_SEQUENTIAL, Rule("encoder.{2n}.*", _MEAN)),
        counted="encoder.{2i}.weight",
        uncounted=1,
        layers="the names don't say what follows a layer: a ReLU after each, the code's too, and a sigmoid at the end "
        "are taken for granted",
    ),
    Source(
        "sequential-halves",
        "a pair of nn.Sequential, whose encoder gives twice the latents",
        "relu-sigma",
        (*_SEQUENTIAL, Rule("encoder.{2n}.*", "encoder.mean.* + encoder.scale.*")),
        counted="encoder.{2i}.weight",
        uncounted=1,
        layers="the names don't say what the halves are: the first is taken for the mean and the other for sigma, both "
        "through a ReLU",
    ),
    Source(
        "antixk",
        "AntixK/PyTorch-VAE's VanillaVAE or BetaVAE",
        "conv",
        (
            Rule("encoder.{i}.0.*", "encoder.hidden.{i}.conv.*"),
            Rule("encoder.{i}.1.*", "encoder.hidden.{i}.norm.*"),
            Rule("fc_mu.*", _MEAN),
            Rule("fc_var.*", _LOGVAR),
            Rule("decoder_input.*", "decoder.input.*"),
            Rule("decoder.{i}.0.*", "decoder.hidden.{i}.conv.*"),
            Rule("decoder.{i}.1.*", "decoder.hidden.{i}.norm.*"),
            Rule("final_layer.0.*", "decoder.hidden.{n-1}.conv.*"),
            Rule("final_layer.1.*", "decoder.hidden.{n-1}.norm.*"),
            Rule("final_layer.3.*", _LOGITS),
        ),
        counted="encoder.{i}.0.weight",
        loss="VanillaVAE and BetaVAE have the same tensors: VanillaVAE's loss is taken; give --preset beta-h or beta-b "
        "for BetaVAE's",
    ),
    Source(
        "pythae",
        "pythae's VAE",
        "gaussian",
        (
            Rule("encoder.layers.{i}.0.*", "encoder.hidden.{i}.*"),
            Rule("encoder.embedding.*", _MEAN),
            Rule("encoder.log_var.*", _LOGVAR),
            Rule("decoder.layers.{i}.0.*", "decoder.hidden.{i}.*"),
            Rule("decoder.layers.{n}.0.*", _LOGITS),
        ),
        counted="encoder.layers.{i}.0.weight",
        loss="without its model_config.json beside the file nothing says what the loss is: the mse that pythae has by "
        "default is taken",
    ),
    Source(
        "flax-example",
        "Flax's examples/vae",
        "flax-example",
        (
            Rule("encoder.fc1.*", _HIDDEN, "flax"),
            Rule("encoder.fc2_mean.*", _MEAN, "flax"),
            Rule("encoder.fc2_logvar.*", _LOGVAR, "flax"),
            Rule("decoder.fc1.*", _BACK, "flax"),
            Rule("decoder.fc2.*", _LOGITS, "flax"),
        ),
    ),
)

_WRAPPERS = ("module", "_orig_mod")  # DataParallel's and torch.compile's, wherever they stand
_OUTER = ("model", "params", "state_dict", "model_state_dict")
_KNOWN = "; ".join(source.title for source in SOURCES)


def see_through(names: Sequence[str]) -> list[str]:
    """The names without what wrappers put before them: `model.module.fc1.weight` is `fc1.weight`. Raises InputError if
    two become one."""
    split = [[part for part in re.split(r"[./]", name) if part not in _WRAPPERS] for name in names]
    while all(len(parts) > 1 and parts[0] in _OUTER and parts[0] == split[0][0] for parts in split):
        split = [parts[1:] for parts in split]
    seen = [".".join(parts) for parts in split]
    if twice := sorted({name for name in seen if seen.count(name) > 1}):
        raise InputError(f"The file holds {', '.join(twice)} more than once, under other prefixes; leave one of them.")
    return seen


def recognise(shapes: Mapping[str, Shape], asked: str | None, image: Size | None, where: str) -> Found:
    """The source of tensors of these names, seen through prefixes, and shapes, with the sizes they have; the loss is
    that of the preset `asked`, or else the source's. Raises InputError, listing the tensors and what is missing, if
    they are of no known source."""
    wanted = None if asked is None else preset(asked)
    known = [source for source in SOURCES if _names(source, shapes) == set(shapes)]
    if not known:
        raise InputError(_unknown(shapes, where))
    fit = [source for source in known if wanted is None or _layers(wanted) == _layers(PRESETS[source.preset])]
    if not fit:
        alike = [n for n, spec in PRESETS.items() if any(_layers(spec) == _layers(PRESETS[s.preset]) for s in known)]
        raise InputError(
            f"{where} has the layers of {known[0].title}, which the preset {asked} doesn't have; give --preset "
            f"one of {', '.join(alike)}."
        )
    tried = []
    for source in fit:
        base = PRESETS[source.preset] if wanted is None else wanted
        spec = replace(base, model=_sized(source, base.model, shapes, image, where))
        told = complaints(spec.model, source.rules, shapes)
        if not told:
            return Found(source, asked or source.preset, spec)
        tried.append((len(told), f"{where} has the names of {source.title}, but {'; '.join(told)}."))
    raise InputError(min(tried)[1])


def _sized(source: Source, model: ModelSpec, shapes: Mapping[str, Shape], image: Size | None, where: str) -> ModelSpec:
    """The model with the sizes that its tensors have."""
    hidden = _depth(source, shapes)
    axes = {}
    for place in places(_dummy(model, hidden), source.rules):
        shape, expected = shapes[place.theirs], place.ours[0].shape
        if len(shape) != len(expected) or 0 in shape:
            raise InputError(
                f"{where} has the names of {source.title}, but {place.theirs} should have {len(expected)} axes, none "
                f"of length 0, found {list(shape)}."
            )
        axes[place.ours[0].name] = shape[::-1] if place.laid == "flax" else shape
    kind = ".conv" if model.network == "conv" else ""
    widths = tuple(axes[f"encoder.hidden.{i}{kind}.weight"][0] for i in range(hidden))
    inputs = (axes[f"encoder.hidden.0{kind}.weight"] if hidden else axes["encoder.mean.weight"])[1] - model.classes
    if model.network == "conv":
        first = axes["decoder.input.weight"]
        image = _conv_image(first[0] // widths[-1], hidden, inputs, image, where)
    else:
        first = axes["decoder.hidden.0.weight" if hidden else "decoder.logits.weight"]
        image = _flat_image(inputs, image, where)
    return replace(model, image=image, hidden=widths, latent=first[1] - model.classes)


def _flat_image(pixels: int, image: Size | None, where: str) -> Size:
    """A square image of so many numbers, grey if there is one."""
    if image is None:
        for channels in (1, 3):
            edge = math.isqrt(max(0, pixels) // channels)
            if edge and edge * edge * channels == pixels:
                return (edge, edge, channels)
        raise InputError(f"{where} is of images of {pixels} numbers, which is no square's; give --image H W C.")
    if math.prod(image) != pixels:
        height, width, channels = image
        raise InputError(
            f"{where} is of images of {pixels} numbers, asked for are {height} {width} {channels}; give --image H W C."
        )
    return image


def _conv_image(area: int, halvings: int, channels: int, image: Size | None, where: str) -> Size:
    """The image that so many convolutions of stride 2 make `area` pixels of. Transposed ones double what they are
    given, so that it is a multiple of what all of them make of a pixel."""
    times, edge = 2**halvings, math.isqrt(area)
    if image is None:
        if edge * edge != area:
            raise InputError(f"{where} is of images that become {area} pixels, no square; give --image H W C.")
        return (times * edge, times * edge, channels)
    height, width, _ = image
    if height % times or width % times or height * width != area * times**2 or image[2] != channels:
        raise InputError(
            f"{where} is of images of {channels} channels whose height and width are multiples of {times} and their "
            f"product {area * times**2}, asked for are {height} {width} {image[2]}; give --image H W C."
        )
    return image


def _depth(source: Source, names: Mapping[str, Shape]) -> int:
    if not source.counted:
        return 1
    pattern = re.escape(source.counted).replace(r"\{2i\}", r"\d+").replace(r"\{i\}", r"\d+")
    least = 0 if source.uncounted else 1
    return max(least, sum(re.fullmatch(pattern, name) is not None for name in names) - source.uncounted)


def _dummy(model: ModelSpec, hidden: int) -> ModelSpec:
    return replace(model, image=(1, 1, 1), hidden=(1,) * hidden, latent=1)


def _names(source: Source, shapes: Mapping[str, Shape]) -> set[str]:
    """The names that the source's tensors would have, with as many hidden layers as there seem to be."""
    model = _dummy(PRESETS[source.preset].model, _depth(source, shapes))
    return {place.theirs for place in places(model, source.rules)}


def _layers(spec: Spec) -> list[str]:
    """The names of all arrays of a model that has one hidden layer."""
    return [parameter.name for parameter in layout.table(_dummy(spec.model, 1))]


def _unknown(shapes: Mapping[str, Shape], where: str) -> str:
    def shared(source: Source) -> float:
        names = _names(source, shapes)
        return len(names & set(shapes)) / len(names | set(shapes))

    nearest = max(SOURCES, key=shared)
    names = _names(nearest, shapes)
    told = f"it has no name in common with them ({_KNOWN})"
    if shared(nearest):
        lacks = ", ".join(sorted(names - set(shapes))) or "nothing"
        more = ", ".join(sorted(set(shapes) - names)) or "nothing"
        told = f"nearest is {nearest.title}, of which it lacks {lacks} and beside which it has {more}"
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    return f"{where} is of none of the known sources: {told}; its tensors are {listed}."
