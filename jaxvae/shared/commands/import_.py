"""The import command, and the export back to the source program's own file."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxvae.shared.backend import Backend, File
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import known_models, name_mapping, name_table, readers, recognition
from jaxvae.shared.interop.adopt import Adopted, adopt
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_mapping import Rule
from jaxvae.shared.interop.name_table import TABLE
from jaxvae.shared.model import description, weight_file
from jaxvae.shared.runs import run_folder
from jaxvae.shared.safe_io import written_whole

_MNIST = (28, 28, 1)
_UNKNOWN_SOURCE = "unknown, since it was imported"


@dataclass(frozen=True)
class Import:
    """Convert another program's checkpoint to a run. The program is recognised by its tensors' names and shapes, or
    described by a table of names.

    Known programs are pytorch/examples, yunjey's tutorial, modules of an encoder and a decoder that are both
    nn.Sequential, AntixK/PyTorch-VAE, pythae, Pyro's and Flax's examples/vae, timbmg/VAE-CVAE-MNIST, and the tutorials
    of Jackson-Kang and lyeoni; known files are safetensors, PyTorch pickles (torchvae only; their code is never
    executed) and Flax's msgpack.

    A table is a JSON file: {"rules": {"enc.{2i}.*": "encoder.hidden.{i}.*", "mu.*": "encoder.mean.*", ...}}, where {i}
    counts hidden layers from 0, {n} is their number and * stands for weight and bias. `describe` lists the names on
    the right. Beside its rules a table may have `layout` (`torch`, `torch-hwc` or `flax`) and the fields preset, image,
    range, activation and so on, in place of flags.

    For example, a known program's file, and one of your own model:

        import vae.safetensors --out runs/vae
        import mine.safetensors --table mine.json --likelihood gaussian --out runs/mine"""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The file that contains the model's tensors."""
    out: Path
    """The run folder to create."""
    table: Path | None = None
    """The table of names of a program that is not known."""
    given: Given = field(default_factory=Given)
    data: str = "mnist"
    """The data set that the model was trained on, as in train."""
    resize: bool = False
    """Resize images of another size to the model's, and convert colour to grey or grey to colour."""


def run(backend: Backend, command: Import) -> None:
    """Create the run folder and describe the model.

    Args:
        backend: The package that reads the file.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid, or no known program writes such a file.
    """
    run_folder.require_free(command.out)
    path = command.checkpoint
    file = backend.read_foreign(path)
    table = None if command.table is None else name_table.read(command.table)
    adopted = adopt(path, file, command.given, table)
    images = replace(adopted.spec.images, resize=command.resize)
    if command.data != "mnist":  # the source's number of training images is that of its own data
        images = replace(images, train_images=None)
    spec = replace(adopted.spec, data=command.data, images=images)
    if command.data == "mnist" and spec.model.image != _MNIST and not command.resize:
        adopted.notes.append("MNIST's images have another size; to evaluate the run, import with --data or --resize")
    config = {
        "framework": backend.__name__,
        "preset": adopted.match.preset,
        **{"log_every": None, "checkpoint_every": None, "keep": 2},
        "data": {"asked": command.data, "name": command.data, "source": _UNKNOWN_SOURCE},
        "sessions": [],
        "imported": adopted.record,
    }
    run = run_folder.create(command.out, spec, config)
    try:
        weight_file.save(run.weights, spec, adopted.arrays)
    except BaseException:
        shutil.rmtree(run.path)
        raise
    print(_summary(path, file, adopted))
    print(description.text(spec, f"run {run.path}, preset {adopted.match.preset}, by {backend.__name__}"))
    print(f"weights in {run.weights}")


def export_source(backend: Backend, run: run_folder.Run, out: Path) -> None:
    """Write an imported run's weights as its source program had them.

    The tensors have the same order, names, nesting and types, and the same bytes if the weights were not changed.

    Args:
        backend: The package that writes the file.
        run: The run.
        out: The file to create.

    Raises:
        InputError: If the run was not imported, or if the package can't write such a file.
    """
    if (record := run.config.get("imported")) is None:
        raise InputError(f"{run.path} was trained, not imported: there is no source format to write it in.")
    spec, arrays = weight_file.load(run.weights)
    try:
        content = backend.pack_foreign(_as_imported(record, spec, arrays))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        where = run.path / "config.json"
        raise InputError(f"The record `imported` in {where} is corrupt ({error!r}); import again.") from None
    with written_whole(out) as temporary:
        temporary.write_bytes(content)


def _as_imported(record: dict[str, Any], spec: Spec, arrays: dict[str, np.ndarray]) -> File:
    """The file that the record describes, with these arrays."""
    kinds, dtypes = ("safetensors", "msgpack", "pickle"), {tensor["dtype"] for tensor in record["tensors"]}
    if (
        not dtypes
        or record["kind"] not in kinds
        or not dtypes <= {"float16", "bfloat16", "float32", "float64", "int64"}
    ):
        raise ValueError(f"a {record['kind']} of {', '.join(sorted(dtypes)) or 'no tensors'}")
    if record["source"] == TABLE:
        rules = [Rule(*rule) for rule in record["rules"]]
    else:
        (rules,) = (source.rules for source in known_models.SOURCES if source.name == record["source"])
    named, paths = name_mapping.to_source(spec, rules, arrays), [tuple(t["path"]) for t in record["tensors"]]
    names = recognition.strip_wrappers([".".join(path) for path in paths])
    tensors = [
        readers.narrowed(path, entry["dtype"], np.asarray(entry["value"]) if "value" in entry else named[name])
        for path, entry, name in zip(paths, record["tensors"], names, strict=True)
    ]
    return File(record["kind"], tuple(tensors), record["header"])


def _summary(path: Path, file: File, adopted: Adopted) -> str:
    """The program, the sizes, the loss and the assumptions."""
    model, source = adopted.spec.model, adopted.match.source
    names = [".".join(tensor.path) for tensor in file.tensors]
    stripped = recognition.strip_wrappers(names)
    prefix = names[0].removesuffix(stripped[0])
    behind = f" behind {prefix}" if prefix and names[0].endswith(stripped[0]) else ""
    dtypes = ", ".join(sorted({tensor.dtype for tensor in file.tensors}))
    height, width, channels = model.image
    plain = PRESETS[adopted.match.preset]
    same = (adopted.spec.objective, model.likelihood, model.variance) == (
        *(plain.objective, plain.model.likelihood),
        plain.model.variance,
    )
    lines = [
        f"{path}: {source.title}, {len(names)} tensors of {dtypes}{behind} ({file.kind})",
        f"sizes: image {height}x{width}x{channels}, hidden {' '.join(map(str, model.hidden))}, latent {model.latent}",
        f"loss: that of the preset {adopted.match.preset}{'' if same else ', but for the flags given'}",
        *(f"note: {note}" for note in adopted.notes),
    ]
    return "\n".join([*lines, ""])
