"""Recognise the known program that wrote a file's tensors, and the sizes of its model."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, assert_never

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.presets import PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.known_models import SOURCES, Source
from jaxvae.shared.interop.name_mapping import Shape, entries, mismatches
from jaxvae.shared.model import layout

Size = tuple[int, int, int]

_WRAPPERS = ("module", "_orig_mod")  # of DataParallel and torch.compile, at any depth
_OUTER = ("model", "params", "state_dict", "model_state_dict")
_KNOWN = "; ".join(source.title for source in SOURCES)


class Match(NamedTuple):
    """A recognised program, and the configuration with its sizes."""

    source: Source
    preset: str
    spec: Spec


def strip_wrappers(names: Sequence[str]) -> list[str]:
    """Remove the prefixes of wrappers from tensor names: `model.module.fc1.weight` becomes `fc1.weight`.

    Args:
        names: All tensor names of a file.

    Returns:
        The names in the same order.

    Raises:
        InputError: If two names become the same.
    """
    split = [[part for part in re.split(r"[./]", name) if part not in _WRAPPERS] for name in names]
    while split and all(len(parts) > 1 and parts[0] in _OUTER and parts[0] == split[0][0] for parts in split):
        split = [parts[1:] for parts in split]
    stripped = [".".join(parts) for parts in split]
    if twice := sorted({name for name in stripped if stripped.count(name) > 1}):
        raise InputError(f"The file has {', '.join(twice)} more than once, under different prefixes; keep one of them.")
    return stripped


def recognise(shapes: Mapping[str, Shape], preset_name: str | None, image: Size | None, where: str) -> Match:
    """Recognise the program that wrote tensors.

    Args:
        shapes: Their shapes by their names without the prefixes of wrappers.
        preset_name: The preset whose loss the model was trained for; None for that of the program.
        image: Height, width and channels of an image; None if the shapes decide.
        where: The file, for messages.

    Returns:
        The program, and the configuration with the sizes of the tensors.

    Raises:
        InputError: If no known program writes such tensors; the message lists them and what is missing.
    """
    wanted = None if preset_name is None else preset(preset_name)
    known = [source for source in SOURCES if _names(source, shapes) == set(shapes)]
    if not known:
        raise InputError(_unknown(shapes, where))
    fitting = [source for source in known if wanted is None or _layers(wanted) == _layers(PRESETS[source.preset])]
    if not fitting:
        alike = [n for n, spec in PRESETS.items() if any(_layers(spec) == _layers(PRESETS[s.preset]) for s in known)]
        raise InputError(
            f"{where} has the layers of {known[0].title}, which the preset {preset_name} doesn't have; give --preset "
            f"one of {', '.join(alike)}."
        )
    tried = []
    for source in fitting:
        base = PRESETS[source.preset] if wanted is None else wanted
        spec = replace(base, model=_sized(source, base.model, shapes, image, where))
        problems = mismatches(spec.model, source.rules, shapes)
        if not problems:
            return Match(source, preset_name or source.preset, spec)
        tried.append((len(problems), f"{where} has the names of {source.title}, but {'; '.join(problems)}."))
    raise InputError(min(tried)[1])


def _sized(source: Source, model: ModelSpec, shapes: Mapping[str, Shape], image: Size | None, where: str) -> ModelSpec:
    """The model with the sizes of its tensors."""
    hidden = _depth(source, shapes)
    axes = {}
    for entry in entries(_dummy(model, hidden), source.rules):
        shape, expected = shapes[entry.source], entry.parameters[0].shape
        if len(shape) != len(expected) or 0 in shape:
            raise InputError(
                f"{where} has the names of {source.title}, but {entry.source} should have {len(expected)} axes, none "
                f"of length 0, found {list(shape)}."
            )
        axes[entry.parameters[0].name] = shape[::-1] if entry.laid == "flax" else shape
    layers = [layer for layer in layout.layers(_dummy(model, hidden)) if layer.kind != "norm"]

    def sizes(layer: layout.Layer) -> Shape:
        """Outputs and inputs of a layer, and what else its weight has."""
        return axes[".".join(map(str, (*layer.path, "weight")))]

    widths = tuple(sizes(layer)[0] for layer in layers if layer.path[:2] == ("encoder", "hidden"))
    inputs = sizes(layers[0])[1] - model.classes
    outputs, latents, *_ = sizes(next(layer for layer in layers if layer.path[0] == "decoder"))
    match model.network:
        case "mlp":
            image = _flat_image(inputs, image, where)
        case "conv":
            image = _conv_image(outputs // widths[-1], hidden, inputs, image, where)
        case kind:
            assert_never(kind)
    return replace(model, image=image, hidden=widths, latent=latents - model.classes)


def _flat_image(pixels: int, image: Size | None, where: str) -> Size:
    """The given image, or else a square one with this number of values, grey if possible."""
    if image is None:
        for channels in (1, 3):
            edge = math.isqrt(max(0, pixels) // channels)
            if edge and edge * edge * channels == pixels:
                return (edge, edge, channels)
        raise InputError(f"{where} has images of {pixels} values, which make no square; give --image H W C.")
    if math.prod(image) != pixels:
        height, width, channels = image
        raise InputError(f"{where} has images of {pixels} values, not {height} {width} {channels}; give --image H W C.")
    return image


def _conv_image(area: int, halvings: int, channels: int, image: Size | None, where: str) -> Size:
    """The given image, or else a square one, that `halvings` convolutions of stride 2 reduce to `area` pixels.

    Its height and width are multiples of 2^halvings, since transposed convolutions double them exactly.
    """
    times, edge = 2**halvings, math.isqrt(area)
    if image is None:
        if edge * edge != area:
            raise InputError(f"{where} reduces images to {area} pixels, which make no square; give --image H W C.")
        return (times * edge, times * edge, channels)
    height, width, _ = image
    if height % times or width % times or height * width != area * times**2 or image[2] != channels:
        raise InputError(
            f"{where} has images of {channels} channels whose height and width are multiples of {times} with the "
            f"product {area * times**2}, not {height} {width} {image[2]}; give --image H W C."
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
    """The tensor names that the source would write, with the number of hidden layers of these shapes."""
    model = _dummy(PRESETS[source.preset].model, _depth(source, shapes))
    return {entry.source for entry in entries(model, source.rules)}


def _layers(spec: Spec) -> list[str]:
    """The names of all arrays of the model with one hidden layer."""
    return [parameter.name for parameter in layout.table(_dummy(spec.model, 1))]


def _unknown(shapes: Mapping[str, Shape], where: str) -> str:
    def shared(source: Source) -> float:
        names = _names(source, shapes)
        return len(names & set(shapes)) / len(names | set(shapes))

    nearest = max(SOURCES, key=shared)
    names = _names(nearest, shapes)
    reason = f"it has no name in common with them ({_KNOWN})"
    if shared(nearest):
        lacks = ", ".join(sorted(names - set(shapes))) or "nothing"
        more = ", ".join(sorted(set(shapes) - names)) or "nothing"
        reason = f"the nearest is {nearest.title}, of which it lacks {lacks} and beside which it has {more}"
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    return f"{where} is from none of the known programs: {reason}; its tensors are {listed}."
