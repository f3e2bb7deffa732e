"""The import command, and the export back to the source program's own file."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import tyro

from jaxvae.shared.backend import Backend, File, FileKind
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import known_models, name_mapping, name_table, readers
from jaxvae.shared.interop.adopt import Adopted, adopt
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_mapping import Rule
from jaxvae.shared.interop.name_table import TABLE
from jaxvae.shared.interop.tensor_names import strip_wrappers
from jaxvae.shared.model import description, tensor_checks, weight_file
from jaxvae.shared.runs import run_folder
from jaxvae.shared.safe_io import written_whole
from jaxvae.shared.text import named, say

_MNIST = (28, 28, 1)
_DTYPES = {"float16", "bfloat16", "float32", "float64", "int32", "uint32", "int64"}  # of weights and of counters
_UNKNOWN_SOURCE = "unknown, since it was imported"


@dataclass(frozen=True)
class Import:
    """Convert another program's checkpoint to a run. The program is recognised by its tensors' names and shapes, or
    described by a table of names.

    Known programs are pytorch/examples, yunjey's tutorial, modules of an encoder and a decoder that are both
    nn.Sequential, AntixK/PyTorch-VAE, pythae, Pyro's and Flax's examples/vae, timbmg/VAE-CVAE-MNIST, the tutorials
    of Jackson-Kang and lyeoni, and the convolutional VAEs of 1Konny/Beta-VAE, YannDubs/disentangling-vae, pythae (for
    MNIST) and sksq96/pytorch-vae; known files are safetensors, PyTorch pickles (where torch is installed; their code is
    never executed), Flax's msgpack, NumPy's .npz and folders of Orbax.

    A table is a JSON file: {"rules": {"enc.{2i}.*": "encoder.hidden.{i}.*", "mu.*": "encoder.mean.*", ...}}, where {i}
    counts hidden layers from 0, {n} is their number and * stands for weight and bias. `describe` lists the names on
    the right for a preset or a run. With the network `layers` they are encoder.hidden.0.conv, .linear or .norm for the
    encoder's first word, and so on. Beside its rules a table may have `skip`, a list of the tensors that the model has
    no use for, such as ["classifier.*", "step"], where * stands for anything, `layout` (`torch`, `torch-hwc` or
    `flax`), and the fields preset, image, range, activation and so on, in place of flags.

    For example, a known program's file, and one of your own model:

        import vae.safetensors --out runs/vae
        import mine.safetensors --table mine.json --likelihood gaussian --out runs/mine"""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The file, or Orbax's folder, that contains the model's tensors."""
    out: Path
    """The run folder to create."""
    table: Path | None = None
    """The table of names of a program that is not known."""
    prefix: str | None = None
    """What the tensors' names begin with, such as ema_model, where the file has several models."""
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
    file = backend.read_foreign(path, command.prefix)
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
    tensor_checks.check(adopted.arrays, spec, f"The weights for {command.out}")
    run = run_folder.create(
        command.out, spec, config, lambda made: weight_file.save(made.weights, spec, adopted.arrays)
    )
    say(_summary(path, file, adopted))
    say(description.text(spec, f"run {run.path}, preset {adopted.match.preset}, by {backend.__name__}"))
    say(f"weights in {run.weights}")


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
    kinds, dtypes = get_args(FileKind), {tensor["dtype"] for tensor in record["tensors"]}
    if not dtypes or record["kind"] not in kinds or not dtypes <= _DTYPES:
        raise ValueError(f"a {record['kind']} of {', '.join(sorted(dtypes)) or 'no tensors'}")
    if skipped := [".".join(tensor["path"]) for tensor in record["tensors"] if "skipped" in tensor]:
        raise InputError(
            f"The table that the run was imported by skips {named(sorted(skipped))}, whose numbers the run doesn't "
            "have, so that it can't be written in its source's format; give --format safetensors."
        )
    if record["source"] == TABLE:
        rules = [Rule(*rule) for rule in record["rules"]]
    else:
        (rules,) = (source.rules for source in known_models.SOURCES if source.name == record["source"])
    by_name, paths = name_mapping.to_source(spec, rules, arrays), [tuple(t["path"]) for t in record["tensors"]]
    names = iter(strip_wrappers([".".join(entry["path"]) for entry in record["tensors"] if "value" not in entry]))
    tensors = [
        readers.narrowed(path, entry["dtype"], np.asarray(entry["value"]) if "value" in entry else by_name[next(names)])
        for path, entry in zip(paths, record["tensors"], strict=True)
    ]
    return File(record["kind"], tuple(tensors), record["header"])


def _summary(path: Path, file: File, adopted: Adopted) -> str:
    """The program, the sizes, the loss and the assumptions."""
    model, source = adopted.spec.model, adopted.match.source
    entries = [entry for entry in adopted.record["tensors"] if not {"value", "skipped"} & set(entry)]
    names = [".".join(entry["path"]) for entry in entries]
    stripped = strip_wrappers(names)
    prefix = names[0].removesuffix(stripped[0])
    behind = f" behind {prefix}" if prefix and names[0].endswith(stripped[0]) else ""
    dtypes = ", ".join(sorted({tensor.dtype for tensor in file.tensors}))
    height, width, channels = model.image
    plain = PRESETS[adopted.match.preset]
    same = (adopted.spec.objective, model.likelihood, model.variance) == (
        *(plain.objective, plain.model.likelihood),
        plain.model.variance,
    )
    apart = "the notes below" if source.objective else "the flags given"
    layers = f"hidden {' '.join(map(str, model.hidden))}"
    if model.network == "layers":
        layers = f"encoder {' '.join(model.encoder)}, decoder {' '.join(model.decoder)}"
    loss = f"that of the preset {adopted.match.preset}{'' if same else f', but for {apart}'}"
    if adopted.match.configured is not None:
        loss = "that of its configuration"
    lines = [
        f"{path}: {source.title}, {len(file.tensors)} tensors of {dtypes}{behind} ({file.kind})",
        f"sizes: image {height}x{width}x{channels}, {layers}, latent {model.latent}",
        f"loss: {loss}",
        *(f"note: {note}" for note in adopted.notes),
    ]
    return "\n".join([*lines, ""])
