"""Convert another program's checkpoint to a model of this project."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.backend import File
from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import name_mapping, readers, recognition
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


def adopt(path: Path, file: File, preset: str | None, image: recognition.Size | None) -> Adopted:
    """Convert the model in another program's file.

    Args:
        path: The file; pythae's configuration is read from beside it.
        file: Its tensors.
        preset: The preset whose loss the model was trained for; None for that of the program.
        image: Height, width and channels of an image; None if the tensors decide.

    Returns:
        The model's configuration and weights.

    Raises:
        InputError: If no known program writes such tensors, or if one is missing, extra, misshapen or not finite. The
            message names the tensors.
    """
    if "jaxvae" in (json.loads(file.header or "{}").get("__metadata__") or {}):
        raise InputError(f"{path} is a weight file of jaxvae and torchvae, which needs no import: `load` reads it.")
    in_file = {".".join(tensor.path): tensor for tensor in file.tensors if not is_counter(tensor)}
    if not recognition.is_known(names := strip_wrappers(list(in_file))):
        _require_one_model(path, list(in_file))
    tensors = dict(zip(names, in_file.values(), strict=True))
    notes = []
    if "encoder.embedding.weight" in tensors:
        loss, size, notes = _pythae(path.parent / "model_config.json")
        preset, image = preset or loss, image or size
    match = recognition.recognise({n: t.array.shape for n, t in tensors.items()}, preset, image, str(path))
    source, model = match.source, match.spec.model
    notes += [source.layers] if source.layers else []
    notes += [source.loss] if source.loss and preset is None else []
    flat = not NETWORKS[model.network].spatial
    if model.image[2] > 1 and flat and source.rules[0].laid == "torch":
        notes.append("images are taken to be flattened as channel, height, width")
    for name, tensor in tensors.items():
        if not tensor.is_float:
            raise InputError(f"{path}: tensor {name} must have a floating-point type, found {tensor.dtype}.")
        if not np.isfinite(readers.widened(tensor)).all():
            raise InputError(f"{path}: tensor {name} contains NaN or infinite values; get another checkpoint.")
    wide = any(tensor.dtype == "float64" for tensor in tensors.values())
    training = replace(match.spec.training, dtype="float64" if wide else "float32")
    spec = replace(match.spec, training=training)
    wide_arrays = {name: readers.widened(tensor) for name, tensor in tensors.items()}
    arrays = name_mapping.from_source(spec, source.rules, wide_arrays, str(path))
    entries = [
        {"path": t.path, "dtype": t.dtype, **({"value": t.array.tolist()} if is_counter(t) else {})}
        for t in file.tensors
    ]
    record = {"file": path.name, "source": source.name, "kind": file.kind, "header": file.header, "tensors": entries}
    return Adopted(match, spec, arrays, record, notes)


def _require_one_model(path: Path, names: Sequence[str]) -> None:
    """Raises InputError if known models' tensors are behind a prefix, and others beside them."""
    behind = prefixes(names).items()
    known = sorted(prefix for prefix, group in behind if recognition.is_known(strip_wrappers(group)))
    if known:
        raise InputError(
            f"{path} must have the tensors of one model, found others beside those of a known program behind "
            f"{named(known)}; choose a prefix, as in --prefix {known[0]}."
        )


def _pythae(file: Path) -> tuple[str | None, recognition.Size | None, list[str]]:
    """The preset of the loss and the image size in pythae's model_config.json, and notes about them."""
    if not file.is_file():
        return None, None, []
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
    return presets[loss], image, notes
