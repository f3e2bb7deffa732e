"""Another program's checkpoint as a model of this project."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import known_models, name_mapping, readers
from jaxvae.shared.interop.readers import File, Tensor

_COUNTER = "num_batches_tracked"  # of torch's batch norm, which nothing here asks for


class Adopted(NamedTuple):
    """Another program's model as one of ours."""

    found: known_models.Found
    spec: Spec
    arrays: dict[str, np.ndarray]
    """As in the weight file."""
    record: dict[str, Any]
    """What the way back needs, as JSON."""
    notes: list[str]
    """What was taken for granted."""


def adopt(path: Path, file: File, asked: str | None, image: known_models.Size | None) -> Adopted:
    """The model in a file. Raises InputError, listing the tensors, if it is of no known source, and naming each that is
    missing, extra, misshapen or not finite."""
    if "jaxvae" in (json.loads(file.header or "{}").get("__metadata__") or {}):
        raise InputError(f"{path} is a weight file of this project's own, which needs no import; load reads it.")
    names = known_models.see_through([".".join(tensor.path) for tensor in file.tensors])
    tensors = {n: t for n, t in zip(names, file.tensors, strict=True) if not is_counter(t)}
    notes = []
    if "encoder.embedding.weight" in tensors:
        loss, size, notes = _pythae(path.parent / "model_config.json")
        asked, image = asked or loss, image or size
    found = known_models.recognise({n: t.array.shape for n, t in tensors.items()}, asked, image, str(path))
    notes += [found.source.layers] if found.source.layers else []
    notes += [found.source.loss] if found.source.loss and asked is None else []
    flat = not NETWORKS[found.spec.model.network].spatial
    if found.spec.model.image[2] > 1 and flat and found.source.rules[0].laid == "torch":
        notes.append("images are taken to be flattened as channel, height, width")
    for name, tensor in tensors.items():
        if not tensor.is_float:
            raise InputError(f"{path}: tensor {name} must be of floating-point numbers, found {tensor.dtype}.")
        if not np.isfinite(readers.widened(tensor)).all():
            raise InputError(
                f"{path}: tensor {name} must be of finite numbers, and holds others; get another checkpoint."
            )
    wide = any(tensor.dtype == "float64" for tensor in tensors.values())
    training = replace(found.spec.training, dtype="float64" if wide else "float32")
    spec = replace(found.spec, training=training)
    theirs = {name: readers.widened(tensor) for name, tensor in tensors.items()}
    arrays = name_mapping.to_ours(spec, found.source.rules, theirs, str(path))
    kept = [
        {"path": t.path, "dtype": t.dtype, **({"value": t.array.item()} if is_counter(t) else {})} for t in file.tensors
    ]
    record = {"file": path.name, "source": found.source.name, "kind": file.kind, "header": file.header, "tensors": kept}
    return Adopted(found, spec, arrays, record, notes)


def is_counter(tensor: Tensor) -> bool:
    return tensor.path[-1].rpartition(".")[2] == _COUNTER and tensor.array.shape == () and not tensor.is_float


def _pythae(file: Path) -> tuple[str | None, known_models.Size | None, list[str]]:
    """The preset of the loss and the image that pythae's model_config.json tells of, and what to say of it."""
    if not file.is_file():
        return None, None, []
    try:
        config = json.loads(file.read_bytes())
        size, loss, name = config.get("input_dim"), config.get("reconstruction_loss"), config.get("name", "VAEConfig")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is not pythae's configuration ({error}); restore it or move it away.") from None
    image = None
    if isinstance(size, list) and all(type(n) is int and n > 0 for n in size):
        channels, height, width = (1, *size) if len(size) == 2 else size if len(size) == 3 else (0, 0, 0)
        image = (height, width, channels) if channels else None
    notes = [f"{file.name} has the image {size} and the loss {loss}"]
    if name != "VAEConfig":
        notes.append(f"{file.name} is a {name}, whose loss is not that of pythae's VAE")
    known = {"bce": "pytorch-examples", "mse": "gaussian"}
    if not isinstance(loss, str) or loss not in known:
        notes.append("none of the presets has that loss; mse is taken")
        loss = "mse"
    return known[loss], image, notes
