"""Export a model: its weights in the files of other software, and its functions as programs."""

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import export_files
from jaxvae.shared.interop.export_files import Format
from torchvae.checks import check_params
from torchvae.distributions import pixel_logvar
from torchvae.generate import means_of
from torchvae.nets import bind, decode, encode
from torchvae.networks import VAE
from torchvae.params import to_arrays


def export_model(path: Path | str, spec: Spec, model: VAE, format: Format) -> None:
    """Export the model to a file or a folder, whole or not at all.

    Args:
        path: The file or folder; the format says which.
        spec: The configuration.
        model: The model.
        format: What to write.

    Raises:
        InputError: If the path exists, if the other package writes the format, or if what it needs is not installed.
    """
    require_spec(spec)
    export_files.require("torchvae", format)
    check_params("export_model", spec.model, model, spec.training.stored)
    # A model of its own: on the CPU, without gradients, so that its programs' results have none.
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    model = bind(spec.model, state).requires_grad_(False)
    with export_files.written(Path(path), spec, format) as made:
        match format:
            case "safetensors":
                export_files.write_hub(made, spec, to_arrays(spec, model))
            case "torch":
                content = io.BytesIO()  # given the file, torch would abort on a full disk
                torch.save({name: tensor.clone() for name, tensor in state.items()}, content)
                made.write_bytes(content.getvalue())
            case "torch-export":
                _write_torch_export(made, spec, model)
            case "onnx":
                _write_onnx(made, spec, model)


def programs(spec: Spec, model: VAE) -> dict[str, Callable[..., dict[str, Tensor]]]:
    """Build the programs that are exported: encode, decode and reconstruct.

    They take arrays in the order of `export_files.signature` and return them by its names. Images are `[batch, height,
    width, channels]` in [0, 1] whatever the model's range, binarised at half for a model of binarised images.

    Args:
        spec: The configuration.
        model: The model.

    Returns:
        The programs by name.

    Raises:
        InputError: If the model is not the configuration's.
    """
    require_spec(spec)
    check_params("programs", spec.model, model, spec.training.stored)

    def encoded(images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        x = images.reshape(images.shape[0], -1)
        if spec.images.binarization != "none":
            x = (x > 0.5).to(x.dtype)
        x = 2.0 * x - 1.0 if spec.images.range == "signed" else x
        return encode(spec, model, x, labels)._asdict()

    def decoded(z: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        outputs = decode(spec, model, z, labels)
        logvar = pixel_logvar(spec, outputs)
        means = {"pixel_means": means_of(spec, outputs)}
        if logvar is None or not export_files.learns_variance(spec):
            return means
        scale = 0.25 if spec.images.range == "signed" else 1.0  # from the model's units to those of the means
        variances = (scale * logvar.exp()).expand_as(outputs.logits)
        return {**means, "pixel_variances": variances.reshape(-1, *spec.model.image)}

    def reconstructed(images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return decoded(encoded(images, labels)["mean"], labels)

    return {"encode": encoded, "decode": decoded, "reconstruct": reconstructed}


class _Program(nn.Module):
    """One of the programs, with the networks it runs on as its own."""

    def __init__(self, program: Callable[..., dict[str, Tensor]], networks: dict[str, nn.Module]):
        super().__init__()
        self.program, self.networks = program, nn.ModuleDict(networks)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return self.program(*inputs)


def _write_torch_export(folder: Path, spec: Spec, model: VAE) -> None:
    folder.mkdir()
    for name, program, arguments in _with_arguments(spec, model):
        exported = torch.export.export(program, arguments, dynamic_shapes=_free(arguments))
        for node in exported.graph.nodes:
            node.meta.pop("stack_trace", None)  # the paths of this machine's files
        content = io.BytesIO()  # as above
        torch.export.save(exported, content)
        (folder / f"{name}.pt2").write_bytes(content.getvalue())
    export_files.write_signature(folder, spec, "pt2")


def _write_onnx(folder: Path, spec: Spec, model: VAE) -> None:
    import onnxruntime

    folder.mkdir()
    for name, program, arguments in _with_arguments(spec, model):
        inputs, outputs = export_files.signature(spec)[name]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: batch", UserWarning)  # that labels have too
            exported = torch.onnx.export(
                program,
                arguments,
                dynamo=True,
                dynamic_shapes=_free(arguments),
                input_names=[port.name for port in inputs],
                output_names=[port.name for port in outputs],
                verbose=False,
                custom_translation_table={torch.ops.aten.log_sigmoid.default: _log_sigmoid_in_onnx},
            )
        assert exported is not None
        for node in exported.model.graph.all_nodes():
            node.metadata_props.clear()  # the paths of this machine's files
        exported.save(folder / f"{name}.onnx", external_data=False)  # one file, of 2 GB at most
        try:
            onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        except Exception as error:  # of classes that onnxruntime doesn't make public
            raise InputError(
                f"onnxruntime can't run this model's {name} in {spec.training.stored} "
                f"({str(error).splitlines()[0]}); export it to torch-export, or export a run in float32."
            ) from None
    export_files.write_signature(folder, spec, "onnx")


def _log_sigmoid_in_onnx(x: Any) -> Any:
    """The operations of a log-sigmoid: min(x, 0) - log(1 + e^-|x|). PyTorch exports the logarithm of a Sigmoid, which
    is 0 in onnxruntime from -18 on, so that a softplus of 18 would be infinite; Softplus has no float64 there."""
    from onnxscript import opset18

    onnx: Any = opset18
    zero, one = (onnx.CastLike(onnx.Constant(value_float=value), x) for value in (0.0, 1.0))
    return onnx.Sub(onnx.Min(x, zero), onnx.Log(onnx.Add(one, onnx.Exp(onnx.Neg(onnx.Abs(x))))))


def _with_arguments(spec: Spec, model: VAE) -> Iterator[tuple[str, _Program, tuple[Tensor, ...]]]:
    """Each program with arguments to trace it by, of a batch of two: one would be taken for a constant."""
    networks = {
        "encode": {"encoder": model.encoder},
        "decode": {"decoder": model.decoder},
        "reconstruct": {"encoder": model.encoder, "decoder": model.decoder},
    }
    for name, program in programs(spec, model).items():
        inputs, _ = export_files.signature(spec)[name]
        zeros = tuple(torch.zeros((2, *port.shape), dtype=getattr(torch, port.dtype)) for port in inputs)
        yield name, _Program(program, networks[name]).eval(), zeros


def _free(arguments: tuple[Tensor, ...]) -> dict[str, Any]:
    """What says that the arguments have one batch size, and that it may be any."""
    batch = torch.export.Dim("batch")
    return {"inputs": tuple({0: batch} for _ in arguments)}
