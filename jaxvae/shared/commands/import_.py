"""The import command, and the way back to the source program's own file."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import known_models, name_mapping, readers
from jaxvae.shared.interop.adopt import Adopted, adopt
from jaxvae.shared.interop.readers import File
from jaxvae.shared.model import description, weight_file
from jaxvae.shared.runs import run_folder
from jaxvae.shared.safe_io import written_whole

_PRESET_HELP = f"The loss it was trained for, where its tensors leave that open; one of {', '.join(PRESETS)}."
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


def import_run(side: Any, command: Import) -> None:
    """Makes the run by the package `side`. Raises InputError for what can't be done as asked."""
    run_folder.require_free(command.out)
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
    run = run_folder.create(command.out, spec, config)
    try:
        weight_file.save(run.weights, spec, adopted.arrays)
    except BaseException:
        shutil.rmtree(run.path)
        raise
    print(_told(path, file, adopted))
    print(description.text(spec, f"run {run.path}, preset {adopted.found.preset}, by {side.__name__}"))
    print(f"weights in {run.weights}")


def export_source(side: Any, run: run_folder.Run, out: Path) -> None:
    """Writes an imported run's weights as its source had them: the same tensors in the same order, by the same names
    and nesting and of the same types; to the bit, if they weren't changed. Raises InputError for a run that was not
    imported, and for a file that the package `side` can't write."""
    if (record := run.config.get("imported")) is None:
        raise InputError(f"{run.path} was trained, not imported, so that there is no source to write it for.")
    spec, arrays = weight_file.load(run.weights)
    try:
        content = side.pack_foreign(_as_imported(record, spec, arrays))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        where = run.path / "config.json"
        raise InputError(f"The imported in {where} is not as import wrote it ({error!r}); import again.") from None
    with written_whole(out) as made:
        made.write_bytes(content)


def _as_imported(record: dict[str, Any], spec: Spec, arrays: dict[str, np.ndarray]) -> File:
    """The file of which `adopt` made the record, with these arrays."""
    kinds, dtypes = ("safetensors", "msgpack", "pickle"), {tensor["dtype"] for tensor in record["tensors"]}
    if record["kind"] not in kinds or not dtypes <= {"float16", "bfloat16", "float32", "float64", "int64"}:
        raise ValueError(f"a {record['kind']} of {', '.join(sorted(dtypes))}")
    (source,) = (source for source in known_models.SOURCES if source.name == record["source"])
    theirs, paths = name_mapping.to_theirs(spec, source.rules, arrays), [tuple(t["path"]) for t in record["tensors"]]
    names = known_models.see_through([".".join(path) for path in paths])
    tensors = [
        readers.narrowed(path, kept["dtype"], np.asarray(kept["value"]) if "value" in kept else theirs[name])
        for path, kept, name in zip(paths, record["tensors"], names, strict=True)
    ]
    return File(record["kind"], tuple(tensors), record["header"])


def _told(path: Path, file: File, adopted: Adopted) -> str:
    model, source = adopted.spec.model, adopted.found.source
    names = [".".join(tensor.path) for tensor in file.tensors]
    seen = known_models.see_through(names)
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
