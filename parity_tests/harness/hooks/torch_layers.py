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


def _hooked(x: Tensor, hook: Callable[[Tensor], None]) -> Tensor:
    x.register_hook(hook)
    return x


def _numbers(x: Tensor):
    return x.detach().resolve_conj().resolve_neg().numpy(force=True).copy()


@contextlib.contextmanager
def record_gradients(module: nn.Module) -> Iterator[dict[str, LayerCall]]:
    """Record the gradients that come back to the first input and to the first output of each call inside the context.

    The labels are those of `record`. A gradient that never comes back is an array of zeros; an input without one is
    empty. What comes back to an input is what comes back through this layer alone.
    """
    gradients: dict[str, LayerCall] = {}
    counts: dict[str, int] = {}
    given: dict[int, list[tuple[bool, list[str]]]] = {}

    def keep(label: list[str], which: str):
        def hook(gradient: Tensor) -> None:
            if label:
                gradients[label[0]] = gradients[label[0]]._replace(**{which: _numbers(gradient)})

        return hook

    def before(layer, args, kwargs):
        label: list[str] = []
        own: Tensor | None = None
        if args and isinstance(args[0], Tensor) and args[0].requires_grad:
            with contextlib.suppress(RuntimeError):  # a tensor that has no views, as a sparse one
                own = _hooked(args[0].view_as(args[0]), keep(label, "input"))
        given.setdefault(id(layer), []).append((own is not None, label))
        if own is None:
            return None
        positional = tuple(own if x is args[0] else x for x in args)  # as attention is given one array three times
        return positional, {name: own if x is args[0] else x for name, x in kwargs.items()}

    def recorder(name: str):
        def after(layer, args, kwargs, output) -> None:
            known, label = given[id(layer)].pop()
            x, y = first((*args, *kwargs.values()), Tensor), first((output,), Tensor)
            if x is None or y is None:
                return
            counts[name] = counts.get(name, 0) + 1
            label.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
            # Of what is detached no gradient is known; where none comes back it is zero.
            empty = np.zeros(0)
            gradients[label[0]] = LayerCall(np.zeros_like(_numbers(x)) if known else empty, np.zeros_like(_numbers(y)))
            if y.requires_grad:
                y.register_hook(keep(label, "output"))

        return after

    with contextlib.ExitStack() as stack:
        for name, layer in module.named_modules():
            with contextlib.suppress(RuntimeError):
                stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(recorder(name), with_kwargs=True).remove)
        yield gradients
