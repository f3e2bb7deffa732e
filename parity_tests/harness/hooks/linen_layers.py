"""Record the inputs and outputs of every layer of a Flax Linen module."""

import contextlib
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
from flax.core import axes_scan

from parity_tests.harness.hooks.jax_layers import Taps, Traced, keep, next_label, results, tapped
from parity_tests.harness.hooks.record import LayerCall, first


@contextlib.contextmanager
def record(taps: Taps = None, traced: Traced | None = None) -> Iterator[dict[str, LayerCall]]:
    """Record the calls of every Linen module inside the context.

    The dict maps dotted paths to calls, in the order in which they return; a second call of the same layer is
    `NAME#2`. `taps` are numbers to add to the inputs and outputs of calls, by label; None to record. `traced` is the
    trace in which the model is called, which returns its tracers.
    """
    calls: dict[str, LayerCall] = {}
    counts: dict[str, int] = {}

    def recording(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if tried:
            return call(*args, **kwargs)
        if taps is not None and context.method_name == "__call__":
            label = next_label(counts, ".".join(context.module.path))
            return tapped(lambda *a: call(*a, **kwargs), args, label, taps)
        outputs = call(*args, **kwargs)
        x, y = first((*args, *kwargs.values()), jax.Array), first(results(context.module, outputs), jax.Array)
        if context.method_name == "__call__" and x is not None and y is not None:
            keep(calls, ".".join(context.module.path), x, y, traced=traced)
        return outputs

    tried: list[None] = []  # filled while a body is traced that isn't called

    @contextlib.contextmanager
    def trial() -> Iterator[None]:
        tried.append(None)
        try:
            yield
        finally:
            tried.pop()

    with trials_within(trial), nn.intercept_methods(recording):
        yield calls


@contextlib.contextmanager
def trials_within(context: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Let each trace run within a context of its own with which `nn.scan` learns what doesn't change in its body, which
    is no call of it. Flax's versions trace by one or another function."""

    def within(trace: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*given: Any, **more: Any) -> Any:
            with context():
                return trace(*given, **more)

        return traced

    traces = {name: within(held) for name, held in vars(axes_scan.pe).items() if name.startswith("trace_to_jaxpr")}
    with mock.patch.object(axes_scan, "pe", types.SimpleNamespace(**{**vars(axes_scan.pe), **traces})):
        yield
