"""Export a model: its weights in the files of other software, and its functions as programs."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import serialization
from jax import Array

from jaxvae.checks import check_params
from jaxvae.distributions import pixel_logvar
from jaxvae.generate import means_of
from jaxvae.nets import Params, decode, encode
from jaxvae.params import to_arrays
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.interop import export_files
from jaxvae.shared.interop.export_files import Format


def export_model(path: Path | str, spec: Spec, params: Params, format: Format) -> None:
    """Export the model to a file or a folder, whole or not at all.

    Args:
        path: The file or folder; the format says which.
        spec: The configuration.
        params: The model's parameters.
        format: What to write.

    Raises:
        InputError: If the path exists, if the other package writes the format, or if what it needs is not installed.
    """
    require_spec(spec)
    export_files.require("jaxvae", format)
    check_params("export_model", spec.model, params, spec.training.stored)
    with export_files.written(Path(path), spec, format) as made:
        match format:
            case "safetensors":
                export_files.write_hub(made, spec, to_arrays(spec, params))
            case "flax":
                made.write_bytes(serialization.to_bytes(params))
            case "orbax":
                _write_orbax(made, params)
                export_files.write_config(made / "config.json", spec)
            case "stablehlo":
                _write_stablehlo(made, spec, params)


def programs(spec: Spec, params: Params) -> dict[str, Callable[..., dict[str, Array]]]:
    """Build the programs that are exported: encode, decode and reconstruct.

    They take arrays in the order of `export_files.signature` and return them by its names. Images are `[batch, height,
    width, channels]` in [0, 1] whatever the model's range, binarised at half for a model of binarised images.

    Args:
        spec: The configuration.
        params: The model's parameters.

    Returns:
        The programs by name.

    Raises:
        InputError: If the model is not the configuration's.
    """
    require_spec(spec)
    check_params("programs", spec.model, params, spec.training.stored)

    def encoded(images: Array, labels: Array | None = None) -> dict[str, Array]:
        x = images.reshape(images.shape[0], -1)
        if spec.images.binarization != "none":
            x = (x > 0.5).astype(x.dtype)
        x = 2.0 * x - 1.0 if spec.images.range == "signed" else x
        return encode(spec, params, x, labels)._asdict()

    def decoded(z: Array, labels: Array | None = None) -> dict[str, Array]:
        outputs = decode(spec, params, z, labels)
        logvar = pixel_logvar(spec, outputs)
        means = {"pixel_means": means_of(spec, outputs)}
        if logvar is None or not export_files.learns_variance(spec):
            return means
        scale = 0.25 if spec.images.range == "signed" else 1.0  # from the model's units to those of the means
        variances = jnp.broadcast_to(scale * jnp.exp(logvar), outputs.logits.shape)
        return {**means, "pixel_variances": variances.reshape(-1, *spec.model.image)}

    def reconstructed(images: Array, labels: Array | None = None) -> dict[str, Array]:
        return decoded(encoded(images, labels)["mean"], labels)

    return {"encode": encoded, "decode": decoded, "reconstruct": reconstructed}


def _write_orbax(folder: Path, params: Params) -> None:
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, serialization.to_state_dict(params))  # whose names are strings, as Orbax has them
    except ValueError as error:
        code = re.search(r"os_error_code='([0-9]+)'", str(error))  # tensorstore's for what the system refuses
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def _write_stablehlo(folder: Path, spec: Spec, params: Params) -> None:
    from jax import export

    folder.mkdir()
    (batch,) = export.symbolic_shape("batch")
    for name, program in programs(spec, params).items():
        inputs, _ = export_files.signature(spec)[name]
        shapes = [jax.ShapeDtypeStruct((batch, *port.shape), port.dtype) for port in inputs]
        with _without_tracebacks():
            exported = export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*shapes)
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
    export_files.write_signature(folder, spec, "stablehlo")


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Programs traced without the paths of this machine's files."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
