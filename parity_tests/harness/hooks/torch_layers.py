"""Record the inputs and outputs of every layer of a torch module."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from parity_tests.harness.hooks.record import LayerCall, add


@contextlib.contextmanager
def record(module: nn.Module) -> Iterator[dict[str, LayerCall]]:
    """Record the calls of the module's leaf layers inside the context.

    The dict maps dotted names to calls, in order; a second call of the same layer is `NAME#2`.
    """
    calls: dict[str, LayerCall] = {}

    def recorder(name: str):
        def hook(layer, inputs, output) -> None:
            if inputs and isinstance(output, Tensor):  # not a recurrent layer's tuple, nor a call with keywords only
                add(calls, name, inputs[0].numpy(force=True).copy(), output.numpy(force=True).copy())

        return hook

    leaves = [(name, m) for name, m in module.named_modules() if not any(m.children())]
    with contextlib.ExitStack() as stack:
        for name, layer in leaves:
            stack.callback(layer.register_forward_hook(recorder(name)).remove)
        yield calls
