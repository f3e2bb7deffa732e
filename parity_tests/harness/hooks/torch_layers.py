"""Record the inputs and outputs of every layer of a torch module."""

import contextlib
from collections.abc import Iterator

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


def _numbers(x: Tensor):
    return x.detach().resolve_conj().resolve_neg().numpy(force=True).copy()
