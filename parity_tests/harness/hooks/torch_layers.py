"""What every layer of a torch module is given and gives."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from parity_tests.harness.hooks.record import Layer, add


@contextlib.contextmanager
def record(module: nn.Module) -> Iterator[dict[str, Layer]]:
    """The calls of the module's leaves while the context lasts, by dotted name, in the order they are made; a second
    call of the same layer is `NAME#2`."""
    calls: dict[str, Layer] = {}

    def recorder(name: str):
        def hook(layer, inputs, output) -> None:
            if inputs and isinstance(output, Tensor):  # not a recurrent layer's pair, nor a layer of keywords
                add(calls, name, inputs[0].numpy(force=True).copy(), output.numpy(force=True).copy())

        return hook

    leaves = [(name, m) for name, m in module.named_modules() if not any(m.children())]
    with contextlib.ExitStack() as stack:
        for name, layer in leaves:
            stack.callback(layer.register_forward_hook(recorder(name)).remove)
        yield calls
