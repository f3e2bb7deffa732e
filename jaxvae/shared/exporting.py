"""The command that exports: a model for other programs, as weights in their files or as programs of its own."""

import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import tyro

from jaxvae.shared import layout, weights
from jaxvae.shared import spec as specs
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import Spec

Format = Literal["safetensors", "torch", "flax", "orbax", "stablehlo", "torch-export", "onnx"]

_ELSEWHERE = {  # what takes the other package's framework
    "jaxvae": ("torch", "torch-export", "onnx"),
    "torchvae": ("flax", "orbax", "stablehlo"),
}
_NEEDS = {"stablehlo": ("flatbuffers",), "onnx": ("onnx", "onnxscript", "onnxruntime")}  # which the extra installs


@dataclass(frozen=True)
class Export:
    """Write a run's model for other programs: its weights, or encode, decode and reconstruct as programs of their own.

    safetensors: a folder with config.json as model hubs have it; torch: a state_dict; flax: msgpack; orbax: a
    checkpoint; stablehlo, torch-export, onnx: a folder with the three programs, for a batch of any size, and a
    signature.json that says what they take and give.

    For example:

        export runs/a --format safetensors --out model"""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder, whichever package wrote it."""
    format: Format | Literal["source"]
    """What to write. jaxvae alone writes flax, orbax and stablehlo; torchvae alone torch, torch-export and onnx.
    source: an imported run as the program that it was imported from has it, names and all."""
    out: Path
    """The file or folder to make."""


class Port(NamedTuple):
    """An array that a program takes or gives."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of one image; the batch's axis comes before these."""
    meaning: str


def signature(spec: Spec) -> dict[str, tuple[list[Port], list[Port]]]:
    """What encode, decode and reconstruct take and what they give."""
    model, dtype = spec.model, spec.training.stored
    seen = "" if spec.images.binarization == "none" else "; the model sees 1 where they are above half, else 0"
    images = Port("images", dtype, model.image, f"height, width, channels: grey levels from 0 to 1{seen}")
    labels = [Port("labels", "int32", (), f"classes from 0 to {model.classes - 1}")] if model.classes else []
    z = Port("z", dtype, (model.latent,), "latents")
    about = {"mean": "the posterior's mean", "logvar": "the log of its variance", "scale": "its standard deviation"}
    posterior = [Port(name, dtype, (model.latent,), about[name]) for name in layout.heads(model)]
    where = "" if model.output == "bounded" else ", or beyond, since the model's output is linear"
    means = [Port("pixel_means", dtype, model.image, f"height, width, channels: grey levels from 0 to 1{where}")]
    return {
        "encode": ([images, *labels], posterior),
        "decode": ([z, *labels], means),
        "reconstruct": ([images, *labels], means),
    }


def require(package: str, format: str) -> None:
    """Raises InputError unless the package writes the format and what that needs is installed."""
    formats = get_args(Format)
    if format not in formats:
        raise InputError(f"There is no format {format!r} to export to; choose one of {', '.join(formats)}.")
    if format in _ELSEWHERE[package]:
        other = "torchvae" if package == "jaxvae" else "jaxvae"
        raise InputError(
            f"{package} can't write {format}; `{other} export` does, of any run, whichever package wrote it."
        )
    for name in _NEEDS.get(format, ()):
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"Exporting to {format} needs {name}; pip install 'jaxvae[export]'.") from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to make the file or folder that is to be `path`: beside it, renamed in the end, and gone if that fails.
    Raises InputError if something is there already, or nothing can be made there."""
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already; give another --out, or remove it.")
    try:
        folder = Path(tempfile.mkdtemp(".part", f".{path.name}.", path.parent))
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); give another --out.") from None
    try:
        made = folder.resolve() / path.name
        yield made
        for written in [made, *made.rglob("*")]:
            handle = os.open(written, os.O_RDONLY)
            os.fsync(handle)  # or after a power failure it could be there and empty
            os.close(handle)
        made.rename(path)
    finally:
        shutil.rmtree(folder)


def write_hub(folder: Path, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """A folder as model hubs have it: the weight file, which its loaders take for PyTorch's and jaxvae and torchvae for
    their own, and a config.json."""
    weights.check(arrays, spec, f"The weights for {folder.name}")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(_for_hubs(weights.pack(spec, arrays)))
    about = {"model_type": "vae", "architectures": ["VAE"], "torch_dtype": spec.training.stored}
    _write_json(folder / "config.json", {**about, **_origin(spec)})


def write_signature(folder: Path, spec: Spec, suffix: str) -> None:
    """What the folder's programs are, as JSON beside them."""
    programs = {
        name: {
            "file": f"{name}.{suffix}",
            **{
                side: [{**port._asdict(), "shape": ["batch", *port.shape]} for port in ports]
                for side, ports in (("inputs", inputs), ("outputs", outputs))
            },
        }
        for name, (inputs, outputs) in signature(spec).items()
    }
    _write_json(folder / "signature.json", {"programs": programs, **_origin(spec)})


def _origin(spec: Spec) -> dict[str, Any]:
    return {"jaxvae_version": importlib.metadata.version("jaxvae"), "spec": specs.to_json(spec)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _for_hubs(content: bytes) -> bytes:
    """A weight file with the entry beside ours that hub loaders look for. By hand, since safetensors shuffles two."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header["__metadata__"] = {"format": "pt", **header["__metadata__"]}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)  # tensors start at multiples of 8
    return struct.pack("<Q", len(packed)) + packed + content[start:]
