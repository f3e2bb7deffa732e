"""What an export consists of: the programs' signature, the folder for model hubs, their JSON files."""

import importlib
import importlib.metadata
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, weight_file

Format = Literal["safetensors", "torch", "flax", "orbax", "stablehlo", "torch-export", "onnx"]

_ELSEWHERE = {  # what takes the other package's framework
    "jaxvae": ("torch", "torch-export", "onnx"),
    "torchvae": ("flax", "orbax", "stablehlo"),
}
_NEEDS = {"stablehlo": ("flatbuffers",), "onnx": ("onnx", "onnxscript", "onnxruntime")}  # which the extra installs


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


def write_hub(folder: Path, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """A folder as model hubs have it: the weight file, which its loaders take for PyTorch's and jaxvae and torchvae for
    their own, and a config.json."""
    weight_file.check(arrays, spec, f"The weights for {folder.name}")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(_for_hubs(weight_file.pack(spec, arrays)))
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
    return {"jaxvae_version": importlib.metadata.version("jaxvae"), "spec": to_json(spec)}


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
