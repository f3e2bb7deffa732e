"""Convert another program's checkpoint to a model of this project."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.backend import File
from jaxvae.shared.config.likelihoods import mean_of
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import name_mapping, own_export, readers, recognition
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_table import TABLE, Table
from jaxvae.shared.interop.tensor_names import is_counter, prefixes, strip_wrappers
from jaxvae.shared.text import named, printable, shown


class Adopted(NamedTuple):
    """Another program's model, converted."""

    match: recognition.Match
    spec: Spec
    arrays: dict[str, np.ndarray]
    """The weights, named as in the weight file."""
    record: dict[str, Any]
    """JSON values from which the source file can be written again."""
    notes: list[str]
    """Assumptions where the file leaves something open."""


def adopt(path: Path, file: File, given: Given, table: Table | None = None) -> Adopted:
    """Convert the model in another program's file.

    Args:
        path: The file; pythae's configuration is read from beside it.
        file: Its tensors.
        given: What the tensors leave open.
        table: The table of the tensors' names; None for a known program.

    Returns:
        The model's configuration and weights.

    Raises:
        InputError: If neither the table nor a known program has such tensors, if one is missing, extra, misshapen or
            not finite, or if something has to be given. The message names it.
    """
    if "jaxvae" in (json.loads(file.header or "{}").get("__metadata__") or {}):
        raise InputError(f"{path} is a weight file of jaxvae and torchvae, which needs no import: `load` reads it.")
    in_file = {".".join(tensor.path): tensor for tensor in file.tensors if not is_counter(tensor)}
    skipped = set() if table is None else _skipped(table, list(in_file))
    in_file = {name: tensor for name, tensor in in_file.items() if name not in skipped}
    names = strip_wrappers(list(in_file))
    own = None
    if table is None and not recognition.is_known(names):
        own = own_export.match(path, file.kind, names, given)
        if own is None:
            _require_one_model(path, list(in_file))
    tensors = dict(zip(names, in_file.values(), strict=True))
    shapes, where, notes = {n: t.array.shape for n, t in tensors.items()}, str(path), []
    if table is not None:
        match = recognition.by_table(table, shapes, given, where)
        given = given.over(table.given)
        notes = [f"the table skips {named(sorted(skipped))}"] if skipped else []
    elif own is not None:
        match = own
    else:
        wanted = given
        if "encoder.embedding.weight" in tensors:
            theirs, notes = _pythae(path.parent / "model_config.json")
            wanted = given.over(theirs)
        match = recognition.recognise(shapes, wanted, where)
        notes = [*_shared(match), *notes]
        notes += [match.source.layers] if match.source.layers else []
        notes += [match.source.loss] if match.source.loss and wanted.preset is None else []
    source, model = match.source, match.spec.model
    flat = name_mapping.flattens_images(model)
    if model.image[2] > 1 and flat and source.rules[0].laid == "torch":
        notes.append("images are taken to be flattened as channel, height, width")
    if model.likelihood == "gaussian":
        constant = 0.5 * model.pixels * math.log(2 * math.pi * model.variance)
        notes.append(
            f"the loss here has the Gaussian's constant, {constant:.2f} nats per image, which a program that minimizes "
            "the squared error alone leaves out: its losses are lower by that"
        )
    notes.append(f"the configuration is that of {own.configured}" if own else _assumed(match.spec, given))
    for name, tensor in tensors.items():
        if not tensor.is_float:
            raise InputError(
                f"{path}: tensor {name} must have a floating-point type, found {tensor.dtype}; convert it."
            )
        if not np.isfinite(readers.widened(tensor)).all():
            raise InputError(f"{path}: tensor {name} contains NaN or infinite values; get another checkpoint.")
    wide = any(tensor.dtype == "float64" for tensor in tensors.values())
    training = replace(match.spec.training, dtype="float64" if wide else "float32")
    spec = replace(match.spec, training=training)
    wide_arrays = {name: readers.widened(tensor) for name, tensor in tensors.items()}
    arrays = name_mapping.from_source(spec, source.rules, wide_arrays, str(path))
    entries: list[dict[str, Any]] = [{"path": t.path, "dtype": t.dtype} for t in file.tensors]
    for entry, tensor in zip(entries, file.tensors, strict=True):
        if is_counter(tensor):
            entry["value"] = tensor.array.tolist()
        elif ".".join(tensor.path) in skipped:
            entry["skipped"] = True
    record = {"file": path.name, "source": source.name, "kind": file.kind, "header": file.header, "tensors": entries}
    record |= {"rules": [list(rule) for rule in source.rules]} if source.name == TABLE else {}
    return Adopted(match, spec, arrays, record, notes)


def _skipped(table: Table, names: Sequence[str]) -> set[str]:
    """The names that a table skips, which it has as the file does or without the prefixes that the others share."""
    skipped = table.skipped(names)
    while True:
        left = [name for name in names if name not in skipped]
        plain = strip_wrappers(left)
        if not (more := table.skipped(plain)):
            return skipped
        skipped |= {name for name, short in zip(left, plain, strict=True) if short in more}


def _require_one_model(path: Path, names: Sequence[str]) -> None:
    """Raises InputError if known models' tensors are behind a prefix, and others beside them."""
    behind = prefixes(names).items()
    known = sorted(prefix for prefix, group in behind if recognition.is_known(strip_wrappers(group)))
    if known:
        raise InputError(
            f"{path} must have the tensors of one model, found others beside those of a known program behind "
            f"{named(known)}; choose a prefix, as in --prefix {known[0]}."
        )


def _shared(match: recognition.Match) -> list[str]:
    """What the names of a known program do not show, and who else has them."""
    shared = f"; these are also the names of {match.source.shared}" if match.source.shared else ""
    flags = {other.title: other.flag or f"--preset {other.preset}" for other in match.others}
    others = "".join(f"; they fit {title}, too ({flag})" for title, flag in flags.items())
    return [f"names and shapes fit {match.source.title}, but functions and loss may differ{shared}{others}"]


def _assumed(spec: Spec, given: Given) -> str:
    """What is taken where the tensors don't show it, as flags."""
    model, objective, images = spec.model, spec.objective, spec.images
    mean = mean_of(model.likelihood, model.output, images.range)
    taken = Given(
        range=images.range,
        binarization=images.binarization,
        activation=model.activation if model.hidden or model.network == "layers" else None,
        slope=model.slope if model.activation == "leaky-relu" else None,
        posterior=model.posterior,
        likelihood=model.likelihood,
        variance=model.variance if model.likelihood == "gaussian" else None,
        output=model.output,
        beta=objective.beta if objective.form == "elbo" else None,
        units=objective.units,
    )
    chosen = given.flags()
    assumed = [flag for flag in taken.flags() if flag not in chosen]
    asked = f"; given: {' '.join(chosen)}" if chosen else ""
    return (
        f"the tensors don't show these, which are assumed: {' '.join(assumed)} (mean of a pixel: {mean}){asked}; "
        "give a flag to change it"
    )


def _pythae(file: Path) -> tuple[Given, list[str]]:
    """The preset of the loss and the image size in pythae's model_config.json, and notes about them."""
    if not file.is_file():
        return Given(), []
    try:
        config = safe_io.read_json(file)
        size, loss, name = config.get("input_dim"), config.get("reconstruction_loss"), config.get("name", "VAEConfig")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{file} is not a pythae configuration ({printable(str(error))}); restore it or move it away."
        ) from None
    image = None
    if isinstance(size, list) and all(type(n) is int and n > 0 for n in size):
        channels, height, width = (1, *size) if len(size) == 2 else size if len(size) == 3 else (0, 0, 0)
        image = (height, width, channels) if channels else None
    notes = [f"{file.name} has the image {shown(size)} and the loss {shown(loss)}"]
    if name != "VAEConfig":
        notes.append(f"{file.name} is a {printable(str(name))}, whose loss is not that of pythae's VAE")
    presets = {"bce": "pytorch-examples", "mse": "gaussian"}
    if not isinstance(loss, str) or loss not in presets:
        notes.append("no preset has that loss; mse is taken")
        loss = "mse"
    return Given(presets[loss], image), notes
