"""Record the inputs and outputs of every layer of a torch module."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from parity_tests.harness.hooks.record import LayerCall, add, first


@contextlib.contextmanager
def record(module: nn.Module, leaves: bool = False) -> Iterator[dict[str, LayerCall]]:
    """Record the calls of the module and all its layers inside the context.

    The dict maps dotted names to calls, in the order in which they return; a second call of the same layer is
    `NAME#2`. `leaves`: whether only layers without parts are recorded.
    """
    calls: dict[str, LayerCall] = {}

    def recorder(name: str):
        def hook(layer, args, kwargs, output) -> None:
            x, y = first((*args, *kwargs.values()), Tensor), first((output,), Tensor)
            if x is not None and y is not None:
                add(calls, name, _numbers(x), _numbers(y))

        return hook

    with contextlib.ExitStack() as stack:
        for name, layer in module.named_modules():
            if leaves and any(layer.children()):
                continue
            with contextlib.suppress(RuntimeError):  # a part of TorchScript takes no hooks
                stack.callback(layer.register_forward_hook(recorder(name), with_kwargs=True).remove)
        yield calls


@contextlib.contextmanager
def moved(module: nn.Module, change: Callable[[np.ndarray], np.ndarray]) -> Iterator[None]:
    """Change the first input of each layer's calls inside the context."""

    def before(layer, args):
        if not (args and isinstance(args[0], Tensor) and (args[0].is_floating_point() or args[0].is_complex())):
            return None
        given = _numbers(args[0])
        return (args[0] + torch.from_numpy(change(given) - given).to(args[0].device), *args[1:])

    with contextlib.ExitStack() as stack:
        for _, layer in module.named_modules():
            with contextlib.suppress(RuntimeError):
                stack.callback(layer.register_forward_pre_hook(before).remove)
        yield


def _numbers(x: Tensor):
    return x.detach().resolve_conj().resolve_neg().numpy(force=True).copy()


@contextlib.contextmanager
def record_gradients(module: nn.Module) -> Iterator[dict[str, LayerCall]]:
    """Record the gradients that come back to the input and to the output of each call inside the context.

    The labels are those of `record`. A gradient that never comes back is an array of zeros; an input without one is
    empty.
    """
    gradients: dict[str, LayerCall] = {}
    counts: dict[str, int] = {}

    def keep(label: str, kind: str):
        def hook(gradient: Tensor) -> None:
            gradients[label] = gradients[label]._replace(**{kind: _numbers(gradient)})

        return hook

    def before(layer, args):
        if args and isinstance(args[0], Tensor) and args[0].requires_grad:
            own = args[0].view_as(args[0])  # what comes back through this layer alone
            given.setdefault(id(layer), []).append(own)
            return (own, *args[1:])
        given.setdefault(id(layer), []).append(None)
        return None

    def recorder(name: str):
        def after(layer, args, output) -> None:
            own = given[id(layer)].pop()
            if not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
                return
            counts[name] = counts.get(name, 0) + 1
            label = name if counts[name] == 1 else f"{name}#{counts[name]}"
            # Of what is detached no gradient is known; where none comes back it is zero.
            zeros = np.zeros(0) if own is None else _numbers(args[0]) * 0
            gradients[label] = LayerCall(zeros, _numbers(output) * 0)
            if own is not None:
                own.register_hook(keep(label, "input"))
            if output.requires_grad:
                output.register_hook(keep(label, "output"))

        return after

    given: dict[int, list[Tensor | None]] = {}
    with contextlib.ExitStack() as stack:
        for name, layer in module.named_modules():
            with contextlib.suppress(RuntimeError):
                stack.callback(layer.register_forward_pre_hook(before).remove)
                stack.callback(layer.register_forward_hook(recorder(name)).remove)
        yield gradients
