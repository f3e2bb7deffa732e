"""The command that makes a run of another program's checkpoint, and the way back to that program's own file."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from jaxvae.shared import containers, describe, foreign, runs, sources, weights
from jaxvae.shared.containers import File, Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.exporting import whole
from jaxvae.shared.presets import PRESETS
from jaxvae.shared.spec import Spec

_PRESET_HELP = f"The loss it was trained for, where its tensors leave that open; one of {', '.join(PRESETS)}."
_COUNTER = "num_batches_tracked"  # of torch's batch norm, which nothing here asks for
_MNIST = (28, 28, 1)
_NOWHERE = "unknown, since it was imported"


@dataclass(frozen=True)
class Import:
    """Make a run of another program's checkpoint, which is recognised by its tensors' names and shapes.

    Known are pytorch/examples, yunjey's tutorial, pairs of nn.Sequential, AntixK/PyTorch-VAE, pythae and Flax's
    examples/vae, in safetensors, torch's pickles (torchvae alone; no code in one is ever run) and Flax's msgpack.

    For example:

        import vae.safetensors --out runs/vae"""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The file with the model's tensors."""
    out: Path
    """The run folder to make."""
    preset: Annotated[str | None, tyro.conf.arg(help=_PRESET_HELP)] = None
    image: tuple[int, int, int] | None = None
    """Height, width and channels of an image, where the tensors leave that open; else a square one, grey if it can."""
    data: str = "mnist"
    """The images it is of, as in train."""
    resize: bool = False
    """Resize images of another size to the model's, and turn colour to grey or grey to colour."""


class Adopted(NamedTuple):
    """Another program's model as one of ours."""

    found: sources.Found
    spec: Spec
    arrays: dict[str, np.ndarray]
    """As in the weight file."""
    record: dict[str, Any]
    """What the way back needs, as JSON."""
    notes: list[str]
    """What was taken for granted."""


def adopt(path: Path, file: File, asked: str | None, image: sources.Size | None) -> Adopted:
    """The model in a file. Raises InputError, listing the tensors, if it is of no known source, and naming each that is
    missing, extra, misshapen or not finite."""
    if "jaxvae" in (json.loads(file.header or "{}").get("__metadata__") or {}):
        raise InputError(f"{path} is a weight file of this project's own, which needs no import; load reads it.")
    names = sources.see_through([".".join(tensor.path) for tensor in file.tensors])
    tensors = {n: t for n, t in zip(names, file.tensors, strict=True) if not _counts(t)}
    notes = []
    if "encoder.embedding.weight" in tensors:
        loss, size, notes = _pythae(path.parent / "model_config.json")
        asked, image = asked or loss, image or size
    found = sources.recognise({n: t.array.shape for n, t in tensors.items()}, asked, image, str(path))
    notes += [found.source.layers] if found.source.layers else []
    notes += [found.source.loss] if found.source.loss and asked is None else []
    if found.spec.model.image[2] > 1 and found.spec.model.network == "mlp" and found.source.rules[0].laid == "torch":
        notes.append("images are taken to be flattened as channel, height, width")
    for name, tensor in tensors.items():
        if not tensor.is_float:
            raise InputError(f"{path}: tensor {name} must be of floating-point numbers, found {tensor.dtype}.")
        if not np.isfinite(containers.widened(tensor)).all():
            raise InputError(
                f"{path}: tensor {name} must be of finite numbers, and holds others; get another checkpoint."
            )
    wide = any(tensor.dtype == "float64" for tensor in tensors.values())
    training = replace(found.spec.training, dtype="float64" if wide else "float32")
    spec = replace(found.spec, training=training)
    theirs = {name: containers.widened(tensor) for name, tensor in tensors.items()}
    arrays = foreign.to_ours(spec, found.source.rules, theirs, str(path))
    kept = [
        {"path": t.path, "dtype": t.dtype, **({"value": t.array.item()} if _counts(t) else {})} for t in file.tensors
    ]
    record = {"file": path.name, "source": found.source.name, "kind": file.kind, "header": file.header, "tensors": kept}
    return Adopted(found, spec, arrays, record, notes)


def import_run(side: Any, command: Import) -> None:
    """Makes the run by the package `side`. Raises InputError for what can't be done as asked."""
    runs.require_free(command.out)
    path = command.checkpoint
    file = side.read_foreign(path)
    adopted = adopt(path, file, command.preset, command.image)
    images = replace(adopted.spec.images, resize=command.resize)
    if command.data != "mnist":  # how many images the source trained on is said of its own
        images = replace(images, train_images=None)
    spec = replace(adopted.spec, data=command.data, images=images)
    if command.data == "mnist" and spec.model.image != _MNIST and not command.resize:
        adopted.notes.append("MNIST's images are of another size; to evaluate it, give --data, or --resize, to import")
    config = {
        "framework": side.__name__,
        "preset": adopted.found.preset,
        **{"log_every": None, "checkpoint_every": None, "keep": 2},
        "data": {"asked": command.data, "name": command.data, "source": _NOWHERE},
        "sessions": [],
        "imported": adopted.record,
    }
    run = runs.create(command.out, spec, config)
    try:
        weights.save(run.weights, spec, adopted.arrays)
    except BaseException:
        shutil.rmtree(run.path)
        raise
    print(_told(path, file, adopted))
    print(describe.text(spec, f"run {run.path}, preset {adopted.found.preset}, by {side.__name__}"))
    print(f"weights in {run.weights}")


def export_source(side: Any, run: runs.Run, out: Path) -> None:
    """Writes an imported run's weights as its source had them: the same tensors in the same order, by the same names
    and nesting and of the same types; to the bit, if they weren't changed. Raises InputError for a run that was not
    imported, and for a file that the package `side` can't write."""
    if (record := run.config.get("imported")) is None:
        raise InputError(f"{run.path} was trained, not imported, so that there is no source to write it for.")
    spec, arrays = weights.load(run.weights)
    try:
        content = side.pack_foreign(_as_imported(record, spec, arrays))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        where = run.path / "config.json"
        raise InputError(f"The imported in {where} is not as import wrote it ({error!r}); import again.") from None
    with whole(out) as made:
        made.write_bytes(content)


def _as_imported(record: dict[str, Any], spec: Spec, arrays: dict[str, np.ndarray]) -> File:
    """The file of which `adopt` made the record, with these arrays."""
    kinds, dtypes = ("safetensors", "msgpack", "pickle"), {tensor["dtype"] for tensor in record["tensors"]}
    if record["kind"] not in kinds or not dtypes <= {"float16", "bfloat16", "float32", "float64", "int64"}:
        raise ValueError(f"a {record['kind']} of {', '.join(sorted(dtypes))}")
    (source,) = (source for source in sources.SOURCES if source.name == record["source"])
    theirs, paths = foreign.to_theirs(spec, source.rules, arrays), [tuple(t["path"]) for t in record["tensors"]]
    names = sources.see_through([".".join(path) for path in paths])
    tensors = [
        containers.narrowed(path, kept["dtype"], np.asarray(kept["value"]) if "value" in kept else theirs[name])
        for path, kept, name in zip(paths, record["tensors"], names, strict=True)
    ]
    return File(record["kind"], tuple(tensors), record["header"])


def _counts(tensor: Tensor) -> bool:
    return tensor.path[-1].rpartition(".")[2] == _COUNTER and tensor.array.shape == () and not tensor.is_float


def _pythae(file: Path) -> tuple[str | None, sources.Size | None, list[str]]:
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


def _told(path: Path, file: File, adopted: Adopted) -> str:
    model, source = adopted.spec.model, adopted.found.source
    names = [".".join(tensor.path) for tensor in file.tensors]
    seen = sources.see_through(names)
    prefix = names[0].removesuffix(seen[0])
    behind = f" behind {prefix}" if prefix and names[0].endswith(seen[0]) else ""
    dtypes = ", ".join(sorted({tensor.dtype for tensor in file.tensors}))
    height, width, channels = model.image
    lines = [
        f"{path}: {source.title}, {len(names)} tensors of {dtypes}{behind} ({file.kind})",
        f"sizes: image {height}x{width}x{channels}, hidden {' '.join(map(str, model.hidden))}, latent {model.latent}",
        f"loss: that of the preset {adopted.found.preset}",
        *(f"note: {note}" for note in adopted.notes),
    ]
    return "\n".join([*lines, ""])
