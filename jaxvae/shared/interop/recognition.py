"""Recognise the known program that wrote a file's tensors, and the sizes of its model."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, assert_never

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.likelihoods import LIKELIHOODS, mean_of
from jaxvae.shared.config.parts import MOST_LAYERS, ModelSpec
from jaxvae.shared.config.presets import PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.known_models import SOURCES
from jaxvae.shared.interop.name_mapping import Shape, entries, mismatches
from jaxvae.shared.interop.name_table import EXAMPLE, TABLE, Table
from jaxvae.shared.interop.source import Source
from jaxvae.shared.interop.tensor_names import strip_wrappers
from jaxvae.shared.model import layout
from jaxvae.shared.text import counted, named

Size = tuple[int, int, int]

HINT = f"for a model of your own give --table FILE, such as {EXAMPLE}"


class Match(NamedTuple):
    """A recognised program, and the configuration with its sizes."""

    source: Source
    preset: str
    spec: Spec
    others: tuple[Source, ...] = ()
    """Other programs whose names and shapes the tensors have too, if what is given is left out."""
    configured: Path | None = None
    """The file that the configuration was read from, of which nothing is assumed then."""


def recognise(shapes: Mapping[str, Shape], given: Given, where: str) -> Match:
    """Recognise the program that wrote tensors.

    Args:
        shapes: Their shapes by their names without the prefixes of wrappers.
        given: What the tensors leave open.
        where: The file, for messages.

    Returns:
        The program, and the configuration with the sizes of the tensors.

    Raises:
        InputError: If no known program writes such tensors; the message names the nearest and what is missing.
    """
    if given.preset is not None:
        preset(given.preset)
    known = [source for source in SOURCES if _names(source, shapes) == set(shapes)]
    if not known:
        raise InputError(_unknown(shapes, where))
    bases, conflicts = {}, {}
    for source in known:
        try:
            bases[source] = _base(source, given)
        except InputError as conflict:  # what is given may be incompatible with one program's preset alone
            conflicts[source] = conflict
    if not bases and any(_has_layers(PRESETS[given.preset or source.preset], source) for source in known):
        raise next(iter(conflicts.values()))
    fitting = [source for source in bases if _layers(bases[source]) == _layers(source.over(PRESETS[source.preset]))]
    if not fitting:
        raise InputError(_without_layers(known, given, where))
    tried = []
    for source in fitting:
        try:
            spec, problems = _fit(source, bases[source], _depth(source, shapes), shapes, given.image, where)
        except InputError as error:  # another program of the same names may have other sizes
            tried.append((len(shapes), str(error)))
            continue
        if not problems:
            if source.ranges and given.range is None:
                raise InputError(f"{where}: {source.ranges}; give --range signed or --range unit.")
            others = tuple(other for other in known if other != source and _fits(other, shapes, given.image))
            return Match(source, given.preset or source.preset, spec, others)
        wrong = named(problems, "; ", 20)
        tried.append((len(problems), f"{where} has the names of {source.title}, but {wrong}; {HINT}."))
    for source, conflict in conflicts.items():
        if _fits(source, shapes, given.image):
            raise conflict
    raise InputError(min(tried, key=lambda problem: problem[0])[1])


def is_known(names: Sequence[str]) -> bool:
    """Whether a known program has tensors of exactly these names."""
    shapes = dict.fromkeys(names, ())
    return any(_names(source, shapes) == set(shapes) for source in SOURCES)


def by_table(table: Table, shapes: Mapping[str, Shape], given: Given, where: str) -> Match:
    """Match tensors to a model by a table of names.

    Args:
        table: The table.
        shapes: The tensors' shapes by their names without the prefixes of wrappers.
        given: What the tensors leave open and the table does not give, or gives otherwise.
        where: The file, for messages.

    Returns:
        The table as a source, and the configuration with the sizes of the tensors.

    Raises:
        InputError: If the table does not fit the model or the tensors; the message names what is missing.
    """
    given = given.over(table.given)
    names = strip_wrappers([rule.source for rule in table.source.rules])
    rules = [rule._replace(source=name) for rule, name in zip(table.source.rules, names, strict=True)]
    source = table.source._replace(rules=tuple(rules))
    name = given.preset or source.preset
    base = _of_table(table, given)
    depth = _table_depth(source, base, shapes)
    try:
        expected = {entry.source for entry in entries(_dummy(base.model, depth), source.rules)}
    except InputError as error:
        layers = [".".join(map(str, layer.path)) for layer in layout.layers(_dummy(base.model, 1))]
        reason = f"t{str(error)[1:-1]}"  # "The table has ..." or "The rule for ..."
        sized = "the" if base.model.network == "layers" else "a"
        whose = "model" if base.model.network == "layers" else "model with one hidden layer"
        raise InputError(
            f"{source.title} doesn't fit the model: {reason}; {sized} {whose} has {', '.join(layers)}."
        ) from None
    if expected != set(shapes):
        more = '; give each a rule, or list it in the table\'s "skip"' if set(shapes) - expected else ""
        raise InputError(f"{where} doesn't fit {source.title}: {_differences(expected, shapes)}{more}.")
    spec, problems = _fit(source, base, depth, shapes, given.image, where)
    if problems:
        raise InputError(f"{where} has the names of {source.title}, but {named(problems, '; ', 20)}.")
    return Match(source, name, spec)


def _of_table(table: Table, given: Given) -> Spec:
    """The configuration of a table and of the flags beside it, but for the sizes."""
    name = given.preset or table.source.preset
    try:
        return given.applied(preset(name))
    except InputError as error:
        try:
            table.given.applied(preset(table.source.preset))
        except InputError as own:
            if str(own) == str(error):  # it is the table's, not a flag's
                raise InputError(f"T{table.source.title[1:]}: {str(own)[0].lower()}{str(own)[1:]}") from None
        raise


def _base(source: Source, given: Given) -> Spec:
    """The configuration of a program but for the sizes."""
    spec = given.applied(source.over(PRESETS[given.preset] if given.preset else source.trained()))
    likelihood, mean = spec.model.likelihood, mean_of(spec.model.likelihood, spec.model.output, spec.images.range)
    fixed = source.output != "bounded" and given.output is None and LIKELIHOODS[likelihood].linear
    if not fixed or mean == source.output:
        return spec
    return replace(spec, model=replace(spec.model, output=source.output))


def _fit(
    source: Source, base: Spec, depth: int, shapes: Mapping[str, Shape], image: Size | None, where: str
) -> tuple[Spec, list[str]]:
    """The configuration with the sizes of tensors that have the source's names, and what is wrong with them."""
    spec = replace(base, model=_sized(source, base.model, depth, shapes, image, where))
    problems, channels = mismatches(spec.model, source.rules, shapes), spec.model.image[2]
    if not problems and source.channels not in (0, channels):
        problems.append(f"its images should have {source.channels} channels, found {channels}")
    return spec, problems


def _fits(source: Source, shapes: Mapping[str, Shape], image: Size | None) -> bool:
    """Whether tensors that have the source's names have its shapes, too."""
    try:
        return not _fit(source, source.over(PRESETS[source.preset]), _depth(source, shapes), shapes, image, "It")[1]
    except InputError:
        return False


def _sized(
    source: Source, model: ModelSpec, hidden: int, shapes: Mapping[str, Shape], image: Size | None, where: str
) -> ModelSpec:
    """The model with the sizes of its tensors."""
    axes = {}
    for entry in entries(_dummy(model, hidden), source.rules):
        shape, expected = shapes[entry.source], entry.parameters[0].shape
        if len(shape) != len(expected) or 0 in shape:
            advice = "correct the table, or save the tensor with these axes" if source.name == TABLE else HINT
            raise InputError(
                f"{where} has the names of {source.title}, but {entry.source} should have {len(expected)} axes, none "
                f"of length 0, found {list(shape)}; {advice}."
            )
        turned = shape[::-1] if entry.laid == "flax" else shape
        part = (*(max(1, rows // len(entry.parameters)) for rows in turned[:1]), *turned[1:])
        axes |= dict.fromkeys((parameter.name for parameter in entry.parameters), part)
    layers = [layer for layer in layout.layers(_dummy(model, hidden)) if layer.kind != "norm"]

    def sizes(layer: layout.Layer) -> Shape:
        """Outputs and inputs of a layer, and what else its weight has."""
        return axes[".".join(map(str, (*layer.path, "weight")))]

    widths = tuple(sizes(layer)[0] for layer in layers if layer.path[:2] == ("encoder", "hidden"))
    taken = sizes(layers[0])[1]
    outputs, latents, *_ = sizes(next(layer for layer in layers if layer.path[0] == "decoder"))
    if model.network != "layers":
        _require_classes(model.classes, axes, (taken, latents, axes["decoder.logits.weight"][0]), where)
    match model.network:
        case "mlp":
            image = _flat_image(axes["decoder.logits.weight"][0], image, where)
        case "conv":
            image = _conv_image(outputs // widths[-1], hidden, taken - model.classes, image, where)
        case "layers":
            return _layered(source, model, axes, image, where)
        case kind:
            assert_never(kind)
    return replace(model, image=image, hidden=widths, latent=latents - model.classes)


def _layered(source: Source, model: ModelSpec, axes: Mapping[str, Shape], image: Size | None, where: str) -> ModelSpec:
    """The model of words with the outputs, the image and the latents of its tensors."""

    def inputs_and_channels(layer: layout.Layer) -> Shape:
        first, second, *_ = axes[".".join(map(str, (*layer.path, "weight")))]
        if layer.kind == "linear":
            return second, max(1, first // math.prod(layer.size))
        return (first, second) if layer.kind == "conv-transpose" else (second, first)

    layers = layout.by_path(model)
    hidden = {network: layout.hidden_layers(model, network) for network in ("encoder", "decoder")}
    last = layers["decoder", "logits"]
    first = (hidden["decoder"] or [last])[0]
    latents = inputs_and_channels(first)[0]
    _require_classes(
        model.classes,
        axes,
        (inputs_and_channels(hidden["encoder"][0])[0], latents, inputs_and_channels(last)[1]),
        where,
    )
    fields: dict[str, Any] = {"latent": latents - model.classes}
    for network, words in (("encoder", source.encoder), ("decoder", source.decoder)):
        if words:
            of_words = [*hidden[network], *([last] if network == "decoder" else [])]
            outputs = [inputs_and_channels(layer)[1] for layer in of_words]
            fields[network] = tuple(word.replace("*", str(n)) for word, n in zip(words, outputs, strict=True))
    made = layer_words.image(fields.get("decoder", model.decoder))
    if last.kind == "linear":
        made = _flat_image(math.prod(made), image, where)
    elif image is not None and image != made:
        theirs, asked = (" ".join(map(str, size)) for size in (made, image))
        raise InputError(f"{where} has images of {theirs}, not {asked}; give --image {theirs}.")
    return replace(model, image=made, **fields)


def _require_classes(classes: int, axes: Mapping[str, Shape], sizes: Shape, where: str) -> None:
    """Raises InputError if the tensors are of a model with another number of classes. sizes: the inputs of encoder and
    decoder, and the decoder's outputs."""
    encoder, decoder, outputs = sizes
    theirs = decoder - axes["encoder.mean.weight"][0]
    if theirs != classes and theirs == encoder - outputs >= 0:
        advice = f"give --classes {theirs}" if theirs else "leave --classes out"
        raise InputError(
            f"{where} has the inputs of a model of {counted(theirs, 'class')}, not of {classes}; {advice}."
        )
    for network, inputs in (("encoder", encoder), ("decoder", decoder)):
        if 0 < inputs <= classes:
            raise InputError(
                f"{where} has {inputs} inputs in its {network}, of which --classes {classes} leaves none for "
                f"{'images' if network == 'encoder' else 'latents'}; give --classes a smaller number, or leave it out."
            )


def _flat_image(pixels: int, image: Size | None, where: str) -> Size:
    """The given image, or else a square one with this number of values, grey if possible."""
    if image is None:
        if (square := layer_words.square(pixels)) is not None:
            return square
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
        return source.depth
    pattern = re.escape(source.counted).replace(r"\{2i\}", r"\d+").replace(r"\{i\}", r"\d+")
    least = 0 if source.uncounted else 1
    return max(least, sum(re.fullmatch(pattern, name) is not None for name in names) - source.uncounted)


def _table_depth(source: Source, base: Spec, shapes: Mapping[str, Shape]) -> int:
    """The number of hidden layers with which the table's names are nearest to the tensors'."""

    def apart(hidden: int) -> float:
        try:
            return len({entry.source for entry in entries(_dummy(base.model, hidden), source.rules)} ^ set(shapes))
        except InputError:
            return math.inf

    numbers = [int(n) for rule in source.rules for n in re.findall(r"\.hidden\.(\d{1,3})\b", rule.target)]
    usual = min(max(numbers, default=0) + 1, MOST_LAYERS)
    return min([usual, *range(min(len(shapes), MOST_LAYERS + 1))], key=apart)


def _dummy(model: ModelSpec, hidden: int) -> ModelSpec:
    if model.network == "layers":
        return replace(model, latent=1)
    return replace(model, image=(1, 1, 1), hidden=(1,) * hidden, latent=1)


def _names(source: Source, shapes: Mapping[str, Shape]) -> set[str]:
    """The tensor names that the source would write, with the number of hidden layers of these shapes."""
    model = _dummy(source.over(PRESETS[source.preset]).model, _depth(source, shapes))
    return {entry.source for entry in entries(model, source.rules)}


def _has_layers(spec: Spec, source: Source) -> bool:
    """Whether a configuration has the source's layers, with what is the source's own."""
    try:
        return _layers(source.over(spec)) == _layers(source.over(PRESETS[source.preset]))
    except InputError:
        return False


def _layers(spec: Spec) -> list[str]:
    """The names of all arrays of the model with one hidden layer."""
    return [parameter.name for parameter in layout.table(_dummy(spec.model, 1))]


def _without_layers(known: Sequence[Source], given: Given, where: str) -> str:
    alike = [n for n, spec in PRESETS.items() if any(_has_layers(spec, source) for source in known)]
    whose, less = f"which the preset {given.preset} doesn't have", ""
    if given.preset is None or given.preset in alike:
        whose, less = f"which a model with {' '.join(given.flags())} doesn't have", ", and no flag for other layers"
    presets = f"give --preset one of {', '.join(alike)}{less}"
    return f"{where} has the layers of {known[0].title}, {whose}; {presets}; {HINT}."


def _differences(names: Set[str], shapes: Mapping[str, Shape]) -> str:
    lacks = named(sorted(names - set(shapes))) or "nothing"
    more = named(f"{name} {list(shapes[name])}" for name in sorted(set(shapes) - names)) or "nothing"
    return f"it lacks {lacks} and beside these names it has {more}"


def _unknown(shapes: Mapping[str, Shape], where: str) -> str:
    def shared(source: Source) -> tuple[float, int]:
        """The names in common, and if there are none how like the numbers of matrices, biases and kernels are."""
        names = _names(source, shapes)
        axes = Counter(map(len, shapes.values()))
        axes.subtract(Counter(len(p.shape) for p in layout.table(_dummy(source.over(PRESETS[source.preset]).model, 1))))
        return len(names & set(shapes)) / len(names | set(shapes)), -sum(map(abs, axes.values()))

    nearest = max(SOURCES, key=shared)
    names = _names(nearest, shapes)
    lacks, more = (named(sorted(some), most=3) for some in (names - set(shapes), set(shapes) - names))
    wrong = f"of which it lacks {lacks}" if lacks else f"beside whose tensors it has {more}"
    return (
        f"{where} is from none of the known programs: the nearest is {nearest.title}, {wrong}; for a model of your own "
        "give --table FILE, a table from its names to those that `describe` lists."
    )
