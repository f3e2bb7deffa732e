"""What a recording asks of a torch module; no other framework is imported."""

import contextlib
import copy
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks import torch_dropout, torch_layers
from parity_tests.harness.hooks.masks import Masks
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.hooks.torch_settings import torch_settings
from parity_tests.harness.hooks.torch_slopes import differentiable_norms, torch_mixture
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.common.arguments import Arguments
from parity_tests.harness.modules.common.names import kind
from parity_tests.harness.modules.common.structure import leaves
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.recordings import outputs, skeleton
from parity_tests.harness.recordings.arguments import Call
from parity_tests.harness.recordings.arrays import Arrays
from parity_tests.harness.recordings.model import Change, Numbers, Options, noisy, parts_of


class TorchModel:
    """A torch module with its inputs, at the numbers that are recorded."""

    framework = "torch"

    def __init__(self, module: nn.Module, call: Call, options: Options):
        self._call, self._options = call, options
        self.module = torch_state.recast(torch_state.copied(torch_state.plain(module)), options.dtype)
        self.module.train(options.train)
        if options.method is not None:
            self.module.forward = getattr(self.module, options.method)
        self._form = call.form
        self._optimizer: dict[str, Any] | None = None
        self._without_gradient: set[str] = set()
        """The parameters to which the last gradient brought nothing, not even zeros."""
        self._masks = Masks(options.key) if options.share_dropout else None

    @contextlib.contextmanager
    def _settings(self, dtype: str) -> Iterator[None]:
        with torch_settings(dtype), torch_dropout.shared(self._masks):
            yield

    def weights(self) -> Arrays:
        return {name: held.numpy() for name, held in torch_state.entries(self.module).items()}

    def outline(self, calls: bool) -> dict[str, Any]:
        order: list[str] = []
        if calls:
            with self._settings(self._options.dtype), torch.no_grad():
                order = list(self._called(*self._at(self._options.dtype, None), None)[2])
        return {"framework": "torch", "state": [name for name, _ in self.module.named_buffers()], "calls": order}

    def fill(self, weights: Arrays) -> None:
        every = torch_state.entries(self.module)
        with torch.no_grad():
            for name, array in weights.items():
                held = torch_state.entry(self.module, name, every).value
                held.copy_(torch_state.tensor(np.array(array, order="C")))

    def about(self) -> dict[str, Any]:
        with self._settings(self._options.dtype):
            flags = {
                "matmul precision": torch.get_float32_matmul_precision(),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "threads": torch.get_num_threads(),
            }
        return {
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
            "devices": sorted({_described(tensor.device) for tensor in self._tensors()} or {"cpu"}),
            "flags": flags,
            "state": [name for name, _ in self.module.named_buffers()],
            "masks": self._masks and [list(shape) for shape in self._masks.alone],
            "skeleton": skeleton.to_json(self.module),
            "optimizer": self._optimizer,
        }

    def numbers(
        self, dtype: str, change: Change | None = None, within: Change | None = None, layers: bool = True
    ) -> Numbers:
        with self._settings(dtype):
            module, inputs = self._at(dtype, change)
            options, arrays = self._options, {}
            result, after, calls, slopes = self._called(module, inputs, within, backward=options.loss is not None)
            arrays |= {f"outputs/{place}": array for place, array in self._outputs(result).items()}
            buffers = {name for name, _ in after.named_buffers()}
            held = torch_state.entries(after)
            for name in buffers & held.keys():
                if not torch_state.counts_batches(name, held[name].layer):
                    arrays[f"state/{name}"] = held[name].numpy().copy()
            for label, one in calls.items():
                arrays[f"layers/{label}/input"], arrays[f"layers/{label}/output"] = one
            structure = outputs.to_json(result)
            if options.loss is not None:
                arrays["loss/the loss"], gradients = self._gradients(result, after, arrays)
                arrays |= {f"gradients/{name}": gradient for name, gradient in gradients.items()}
                for label, one in _known(slopes, gradients).items():
                    named = {f"backward/{label}/{which}": slope for which, slope in one._asdict().items()}
                    arrays |= {name: slope for name, slope in named.items() if slope.size and slope.dtype.kind in "fc"}
                if options.optimizer is not None:
                    arrays |= self._steps(module, inputs, gradients, (dtype, change, within))
        return Numbers(arrays, structure, list(calls))

    def slopes(self, dtype: str) -> Mapping[str, np.ndarray]:
        with self._settings(dtype), torch.random.fork_rng(), differentiable_norms():
            module, inputs = self._at(dtype, None)
            every = torch_state.entries(module)
            wanted = {n: held.tensor.detach().requires_grad_() for n, held in every.items() if _inexact(held.tensor)}
            given = [x.requires_grad_() if _inexact(x) else x for x in inputs]
            torch_state.begin_call()
            result = functional_call(module, wanted, *self._arguments(given))
            torch_mixture(result).backward()
            named = zip(self._call.names, given, strict=True)
            moving = {f"weights/{n}": x for n, x in wanted.items()} | {f"inputs/{n}": x for n, x in named}
            return {name: x.grad.numpy(force=True) for name, x in moving.items() if x.grad is not None}

    def loss_slopes(self, dtype: str) -> Arrays:
        assert self._options.loss is not None
        with self._settings(dtype):
            result, *_ = self._called(*self._at(dtype, None), None)
            places = {id(leaf): place for place, leaf in leaves(result, "output") if isinstance(leaf, torch.Tensor)}
            alone = {key: leaf for _, leaf in leaves(result, "") if (key := id(leaf)) in places and _inexact(leaf)}
            memo = {key: leaf.detach().clone().requires_grad_() for key, leaf in alone.items()}
            loss = self._options.loss(copy.deepcopy(result, dict(memo)))
            if loss.requires_grad:
                loss.backward()
            return {places[key]: x.grad.numpy(force=True) for key, x in memo.items() if x.grad is not None}

    def outputs(self, changed: Arrays, dtype: str) -> Arrays:
        with self._settings(dtype), torch.no_grad():
            module, inputs = self._at(dtype, None)
            weights, given = parts_of(changed, "weights"), parts_of(changed, "inputs")
            module = torch_state.changed(module, {name: array.copy() for name, array in weights.items()})
            tensors = [
                self._tensor(given[name], x.dtype) if name in given else x
                for name, x in zip(self._call.names, inputs, strict=True)
            ]
            return self._outputs(torch_state.called(torch_state.copied(module), self._arguments(tensors)))

    def _at(self, dtype: str, change: Change | None) -> tuple[nn.Module, list[torch.Tensor]]:
        """Return a copy of the module and its inputs in this precision, moved."""
        module = torch_state.recast(torch_state.copied(self.module), dtype)
        arrays = self._call.arrays
        if change is not None:
            module = torch_state.perturbed(module, change)
        inputs = [self._tensor(x, _in(dtype, x)) for x in arrays]
        if change is not None:
            inputs = [self._tensor(change(x.numpy(force=True)), x.dtype) for x in inputs]
        return module, inputs

    def _called(
        self, module: nn.Module, inputs: list[torch.Tensor], within: Change | None, backward: bool = False
    ) -> tuple[Any, nn.Module, Mapping[str, LayerCall], Mapping[str, LayerCall]]:
        """Call a copy of the module: its output, the module afterwards, the calls of its layers and, if asked for, what
        will hold the gradients of their inputs and outputs."""
        after = torch_state.copied(module)
        moved = contextlib.nullcontext() if within is None else torch_layers.moved(after, within)
        watched = torch_layers.record_gradients(after) if backward else contextlib.nullcontext({})
        with raised_by("The torch module"), torch_layers.record(after) as calls, moved, watched as slopes:
            result = torch_state.called(after, self._arguments(inputs))
        return result, after, calls, slopes

    def _gradients(self, result: Any, module: nn.Module, arrays: Arrays | None = None) -> tuple[np.ndarray, Arrays]:
        """Return the loss, and its gradients by the parameters' names, zeros where there is none."""
        assert self._options.loss is not None
        with raised_by("The torch loss"):
            loss = self._options.loss(result)
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            found = f"the shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else kind(loss)
            raise InputError(f"loss: expected one number in a tensor, found {found}: take its mean.")
        if loss.requires_grad:
            with raised_by("The gradient of the torch module or of its loss"):
                loss.backward()
        every = torch_state.entries(module)
        parameters = {name for name, _ in module.named_parameters()}
        self._without_gradient = {name for name in parameters if every[name].tensor.grad is None}
        return loss.numpy(force=True), {n: held.gradient() for n, held in every.items() if n in parameters}

    def _steps(
        self, module: nn.Module, inputs: list[torch.Tensor], gradients: Arrays, moved: tuple[str, Change | None, Any]
    ) -> Arrays:
        """Take the optimizer's steps, each from the module's own gradients: weights and moments after each step."""
        (dtype, change, within), options, arrays = moved, self._options, {}
        stepped = torch_state.copied(module)
        trained = {name: p for name, p in stepped.named_parameters() if p.requires_grad}
        if not trained:
            raise InputError("optimizer: every tensor of the module is frozen: pass no optimizer.")
        optimizer = options.optimizer(list(trained.values()))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(f"optimizer: expected a function that returns a torch optimizer, found {kind(optimizer)}.")
        settings = {name: _plain(value) for name, value in optimizer.param_groups[0].items() if name != "params"}
        rates: list[float] = []
        never = set(trained)
        schedule = options.scheduler(optimizer) if options.scheduler else None
        for step in range(1, options.steps + 1):
            if step > 1:
                result, after, *_ = self._called(stepped, inputs, within)
                gradients = self._gradients(result, after)[1]
            gradients = {name: noisy(gradient, change, dtype) for name, gradient in gradients.items()}
            for name, parameter in trained.items():
                none = name in self._without_gradient  # and is not even decayed
                parameter.grad = None if none else torch.tensor(gradients[name], device=parameter.device)
                never -= {name} if not none else set()
            rates.append(float(optimizer.param_groups[0]["lr"]))
            with raised_by("The torch optimizer"):
                optimizer.step()
            if schedule is not None:
                schedule.step()
            after_step = {name: p.numpy(force=True).copy() for name, p in stepped.named_parameters()}
            arrays |= {f"steps/{step}/weights/{name}": array for name, array in after_step.items()}
            arrays |= {f"steps/{step}/gradients/{name}": array.copy() for name, array in gradients.items()}
            for name, parameter in trained.items():
                for moment, held in optimizer.state.get(parameter, {}).items():
                    if isinstance(held, torch.Tensor) and held.shape == parameter.shape and held.ndim:
                        arrays[f"steps/{step}/{moment}/{name}"] = held.numpy(force=True).copy()
        names = {"trained": [name for name in trained if name not in never], "skipped": sorted(never)}
        kind_of = {"kind": type(optimizer).__name__, "settings": settings, "rates": rates, **names}
        self._optimizer = self._optimizer or kind_of
        return arrays

    def _outputs(self, result: Any) -> Arrays:
        try:
            return outputs.arrays(result)
        except TypeError as error:
            raise InputError(f"outputs: {error}: make the module return those.") from None

    def _arguments(self, inputs: list[torch.Tensor]) -> Arguments:
        return self._form(inputs, lambda array: self._tensor(array, None))

    def _tensor(self, array: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
        return torch.tensor(array, dtype=dtype, device=next((t.device for t in self._tensors()), torch.device("cpu")))

    def _tensors(self) -> list[torch.Tensor]:
        return [*self.module.parameters(), *self.module.buffers()]


def _known(slopes: Mapping[str, LayerCall], gradients: Arrays) -> Mapping[str, LayerCall]:
    """Return the gradients of layers without those that the hooks didn't see: a checkpoint calls layers without
    gradients, and once more for these."""
    unseen = {label for label, one in slopes.items() if not one.input.any() and not one.output.any()}
    moved = {name.rpartition(".")[0] for name, gradient in gradients.items() if gradient.any()}
    if not unseen & moved:
        return slopes
    return {label: one for label, one in slopes.items() if label not in unseen}


def _in(dtype: str, x: np.ndarray) -> torch.dtype | None:
    """Return the dtype of an input in a precision; None if it is no float."""
    complex_of = {"float32": torch.complex64, "float64": torch.complex128}
    return getattr(torch, dtype) if x.dtype.kind == "f" else complex_of[dtype] if x.dtype.kind == "c" else None


def _plain(value: Any) -> Any:
    """Return a setting of an optimizer as JSON has it; None for one that it has not."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str) else None


def _inexact(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _described(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"{device.type} {name}".strip()
