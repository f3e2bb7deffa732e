"""The parts of an export that need no framework: signatures of programs, JSON files, the folder for model hubs."""

import contextlib
import importlib
import importlib.metadata
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from jaxvae.shared.backend import Format
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, tensor_checks, weight_file
from jaxvae.shared.safe_io import written_whole

_OTHER_PACKAGES = {  # formats that need the other package's framework
    "jaxvae": ("torch", "torch-export", "onnx"),
    "torchvae": ("flax", "orbax", "stablehlo"),
}
_LEVELS = {1: "grey levels", 3: "red, green and blue"}  # of images with this number of channels
_NEEDS = {"stablehlo": ("flatbuffers",), "onnx": ("onnx", "onnxscript", "onnxruntime")}  # of the extra `export`


class Port(NamedTuple):
    """An input or output array of a program."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Without the leading batch axis."""
    meaning: str


def signature(spec: Spec) -> dict[str, tuple[list[Port], list[Port]]]:
    """Describe the exported programs.

    Args:
        spec: The configuration of the run.

    Returns:
        The inputs and outputs, in order, of `encode`, `decode` and `reconstruct`.
    """
    model, dtype = spec.model, spec.training.stored
    seen = "" if spec.images.binarization == "none" else "; the model sees 1 where they are above half, else 0"
    axes = f"height, width, channels: {_LEVELS.get(model.image[2], 'values of the channels')} from 0 to 1"
    images = Port("images", dtype, model.image, f"{axes}{seen}")
    labels = [Port("labels", "int32", (), f"classes from 0 to {model.classes - 1}")] if model.classes else []
    z = Port("z", dtype, (model.latent,), "latents")
    meanings = {"mean": "the posterior's mean", "logvar": "the log of its variance", "scale": "its standard deviation"}
    posterior = [Port(name, dtype, (model.latent,), meanings[name]) for name in layout.heads(model)]
    beyond = "" if model.output == "bounded" else f", or beyond, since the model's output is {model.output}"
    means = [Port("pixel_means", dtype, model.image, f"{axes}{beyond}")]
    if learns_variance(spec):
        shared = "; all pixels of all images have the same" if likelihood_of(model).logvar == "shared" else ""
        variances = f"each pixel's variance, in squares of the units of pixel_means{shared}"
        means.append(Port("pixel_variances", dtype, model.image, variances))
    return {
        "encode": ([images, *labels], posterior),
        "decode": ([z, *labels], means),
        "reconstruct": ([images, *labels], means),
    }


def learns_variance(spec: Spec) -> bool:
    """Whether the decoder gives a variance of the pixels, which is an output of the programs then."""
    return spec.model.parts.nll is None and likelihood_of(spec.model).logvar in ("shared", "pixel")


def require(package: str, format: str) -> None:
    """Check that a package can write a format.

    Args:
        package: `jaxvae` or `torchvae`.
        format: The format.

    Raises:
        InputError: If the format is unknown, needs the other package or needs a library that is not installed.
    """
    formats = get_args(Format)
    if format not in formats:
        raise InputError(f"There is no format {format!r} to export to; choose one of {', '.join(formats)}.")
    if format in _OTHER_PACKAGES[package]:
        other = "torchvae" if package == "jaxvae" else "jaxvae"
        raise InputError(f"{package} can't write {format}; use `{other} export`, which exports runs of both packages.")
    for name in _NEEDS.get(format, ()):
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(
                f"Exporting to {format} needs {name}; run pip install -e '.[export]' in the clone."
            ) from None


def write_hub(folder: Path, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a folder for model hubs: config.json and model.safetensors, which both packages load as a weight file.

    Args:
        folder: The folder to make.
        spec: The configuration of the run.
        arrays: The weights, named as in the weight file.

    Raises:
        InputError: If the arrays are not exactly the model's.
    """
    tensor_checks.check(arrays, spec, f"The weights for {folder.name}")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(_for_hubs(weight_file.pack(spec, arrays)))
    write_config(folder / "config.json", spec)


@contextlib.contextmanager
def written(path: Path, spec: Spec, format: Format) -> Iterator[Path]:
    """Make what is exported whole or not at all, with the configuration beside a file of tensors.

    Args:
        path: The file or folder to make. Beside a file `model.pt` of tensors its configuration is `model.config.json`.
        spec: The configuration of the run.
        format: What is written.

    Yields:
        Where to write it.

    Raises:
        InputError: If one of them exists, or nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        if format in ("torch", "flax"):
            write_config(stack.enter_context(written_whole(path.with_name(f"{path.stem}.config.json"))), spec)
        yield stack.enter_context(written_whole(path))


def write_config(path: Path, spec: Spec) -> None:
    """Write a configuration from which the model of some tensors can be built again.

    Args:
        path: The file to write.
        spec: The configuration of the run.
    """
    config = {"model_type": "vae", "architectures": ["VAE"], "torch_dtype": spec.training.stored}
    _write_json(path, {**config, **_origin(spec)})


def write_signature(folder: Path, spec: Spec, suffix: str) -> None:
    """Write signature.json, which describes the folder's programs.

    Args:
        folder: The folder of the programs.
        spec: The configuration of the run.
        suffix: The suffix of the programs' files, without its dot.
    """
    programs = {
        name: {
            "file": f"{name}.{suffix}",
            **{
                direction: [{**port._asdict(), "shape": ["batch", *port.shape]} for port in ports]
                for direction, ports in (("inputs", inputs), ("outputs", outputs))
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
    """Add to a weight file the metadata that hub loaders look for. safetensors would shuffle two entries."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header["__metadata__"] = {"format": "pt", **header["__metadata__"]}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)  # tensors start at multiples of 8
    return struct.pack("<Q", len(packed)) + packed + content[start:]
