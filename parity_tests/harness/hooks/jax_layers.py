"""Record the inputs and outputs of every layer of a Flax NNX module."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
from flax import linen, nnx
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from parity_tests.harness.hooks.compiled import OPTIONS
from parity_tests.harness.hooks.masks import looking
from parity_tests.harness.hooks.record import LayerCall, add, first

Tap = Callable[[Callable[..., Any], tuple[Any, ...], str], Any]
"""Calls a layer in its own way, given the call, its arguments and its label."""
Taps = Mapping[str, tuple[Any, Any]] | Tap | None
"""Numbers to add to a call's first input and first output, or None; or a function that calls the layers."""
_PATH = "parity_path"  # a static attribute, which copies of the layer inside a transformation keep


@contextlib.contextmanager
def record(
    module: nnx.Module, leaves: bool = False, taps: Taps = None, traced: "Traced | None" = None
) -> Iterator[dict[str, LayerCall]]:
    """Record the calls of the module and all its layers inside the context.

    Args:
        module: The module; its layers are marked with their paths.
        leaves: Whether only layers without parts are recorded, as tracers where they are traced: the traced function
            has to return these. Otherwise traced values are recorded when they are computed, as under `remat`.
        taps: Numbers to add to the inputs and outputs of calls, by label, as a function that is differentiated with
            respect to them needs, or a function that calls the layers; None to record.
        traced: The trace in which the module is called, which returns its tracers; see `watched`.

    Yields:
        A dict that maps dotted paths to calls, in order; a second call of the same layer is `NAME#2`.
    """
    modules = dict(nnx.iter_modules(module))
    if leaves:
        parents = {path[:i] for path in modules for i in range(len(path))}
        modules = {path: layer for path, layer in modules.items() if path not in parents}
    names = {id(layer): ".".join(map(str, path)) for path, layer in modules.items()}
    if not leaves:
        for layer in modules.values():
            with contextlib.suppress(Exception):  # a layer that allows no attributes
                setattr(layer, _PATH, names[id(layer)])
    inside: set[int] = set()  # a subclass may call the method that it overrides
    calls: dict[str, LayerCall] = {}
    counts: dict[str, int] = {}

    def recording(call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
            if id(self) in inside:
                return call(self, *args, **kwargs)
            path = names.get(id(self), vars(self).get(_PATH))
            inside.add(id(self))
            try:
                if taps is not None and path is not None:
                    return tapped(lambda *a: call(self, *a, **kwargs), args, next_label(counts, path), taps)
                outputs = call(self, *args, **kwargs)
            finally:
                inside.discard(id(self))
            x, y = first((*args, *kwargs.values()), jax.Array), first(results(self, outputs), jax.Array)
            if path is not None and x is not None and y is not None:
                keep(calls, path, x, y, leaves, traced)
            return outputs

        return recorded

    with contextlib.ExitStack() as stack:
        patched: set[Any] = set()
        for kind in {type(m) for m in modules.values()}:
            owner = next((base for base in kind.__mro__ if "__call__" in vars(base)), None)
            if owner is not None and owner not in patched and issubclass(owner, nnx.Module):
                patched.add(owner)
                stack.enter_context(mock.patch.object(owner, "__call__", recording(owner.__call__)))
        yield calls


def results(layer: Any, outputs: Any) -> tuple[Any, ...]:
    """Return what a layer returned, of a loop over a cell the sequence before the carry, as torch's layers do."""
    loop = isinstance(layer, nnx.RNN | linen.RNN) and isinstance(outputs, tuple)
    return (outputs[-1], outputs) if loop else (outputs,)


def next_label(counts: dict[str, int], path: str) -> str:
    """Return the label of a layer's next call; empty where it is no call of the model."""
    if looking():
        return ""
    counts[path] = counts.get(path, 0) + 1
    return path if counts[path] == 1 else f"{path}#{counts[path]}"


def tapped(call: Callable[..., Any], args: tuple[Any, ...], label: str, taps: Mapping[str, Any] | Tap) -> Any:
    """Call a layer with the taps of this call added to its first input and to its output, or let a function call it."""
    if looking():  # no call of the model
        return call(*args)
    if callable(taps):
        return taps(call, args, label)
    if label not in taps or not (args and isinstance(args[0], jax.Array)):
        return call(*args)
    given, returned = taps[label]
    if given is not None:
        moved = args[0] + given
        args = tuple(moved if x is args[0] else x for x in args)  # as attention is given one array three times
    outputs = call(*args)
    added = None if returned is None else _added(outputs, returned)
    return outputs if added is None else added


def _added(outputs: Any, number: Any) -> Any:
    """Return outputs with numbers added to their first array of that shape; None if they hold none."""
    if isinstance(outputs, jax.Array):
        return outputs + number if outputs.shape == number.shape else None
    if isinstance(outputs, dict):
        values = _added(tuple(outputs.values()), number)
        return values and dict(zip(outputs, values, strict=True))
    if isinstance(outputs, tuple | list):
        for i, value in enumerate(outputs):
            if (added := _added(value, number)) is not None:
                values = (*outputs[:i], added, *outputs[i + 1 :])
                return type(outputs)(*values) if hasattr(outputs, "_fields") else type(outputs)(values)
    return None


def reached(
    tapped: Callable[..., Any], calls: Mapping[str, LayerCall], params: Any, *others: Any
) -> dict[str, LayerCall]:
    """Return the calls whose inputs and outputs numbers can be added to.

    They are not those of layers that `vmap` calls: there one call of the program is several of the model's, or it
    stands for none.

    Args:
        tapped: Maps taps and the model's arguments to its outputs.
        calls: The recorded calls.
        params: The model's parameters.
        others: Its other arguments.
    """
    seen: dict[str, bool] = {}

    def tap(call: Callable[..., Any], given: tuple[Any, ...], label: str) -> Any:
        outputs = call(*given)
        taken = bool(given) and isinstance(given[0], jax.Array) and label in calls
        seen[label] = taken and _added(outputs, np.zeros_like(calls[label].output)) is not None
        return outputs

    jax.eval_shape(lambda params: tapped(tap, params, *others), params)
    by_turns = {label.partition("#")[0] for label in calls.keys() ^ seen.keys()}
    return {label: call for label, call in calls.items() if seen.get(label) and label.partition("#")[0] not in by_turns}


_LATER = np.empty(0)  # stands for the numbers of a call that is recorded as they are computed


class Traced:
    """A trace in which layers are recorded: its own tracers are returned from it; those of a trace inside, as under
    `remat`, are recorded when they are computed."""

    def __init__(self) -> None:
        self._state = get_opaque_trace_state(convention="nnx")
        self.late: dict[str, LayerCall] = {}
        """The calls that were recorded when they were computed."""

    def owns(self) -> bool:
        """Whether the current trace is this one."""
        return get_opaque_trace_state(convention="nnx") == self._state


def keep(
    calls: dict[str, LayerCall], name: str, x: Any, y: Any, tracers: bool = False, traced: Traced | None = None
) -> None:
    """Record a call now, or where it is traced as its values are computed."""
    if looking():
        return
    if tracers or not (isinstance(x, Tracer) or isinstance(y, Tracer)) or (traced is not None and traced.owns()):
        now: list[Any] = [value if isinstance(value, Tracer) else np.asarray(value) for value in (x, y)]
        add(calls, name, *now)
        return
    late = calls
    if traced is not None:
        late, name = traced.late, add(calls, name, _LATER, _LATER)

    def record_now(x: Any, y: Any) -> None:
        add(late, name, np.asarray(x), np.asarray(y))

    jax.debug.callback(record_now, x, y)


@contextlib.contextmanager
def until_failure(traced: Traced | None) -> Iterator[None]:
    """Outside of a trace, let the calls before a layer that fails be recorded."""
    with contextlib.nullcontext() if traced else contextlib.suppress(Exception):
        yield
    if traced is None:
        jax.effects_barrier()


def watched(recorded: Callable[..., dict[str, LayerCall]]) -> Callable[..., dict[str, LayerCall]]:
    """Compile a function that records the calls of a model's layers; where it can't be compiled it runs as it is.

    Args:
        recorded: Maps a trace, or None to record until a layer fails, and the model's arguments to the calls.

    Returns:
        A function from the model's arguments to the calls with their numbers, in order.
    """
    order: list[str] = []
    traces: list[Traced] = []

    def body(*args: Any) -> dict[str, LayerCall]:
        traces[:] = [Traced()]
        calls = recorded(traces[0], *args)
        order[:] = calls
        return {label: call for label, call in calls.items() if call.output is not _LATER}

    program = jax.jit(body, compiler_options=OPTIONS)

    def watch(*args: Any) -> dict[str, LayerCall]:
        for trace in traces:
            trace.late.clear()
        try:
            calls = jax.tree.map(np.asarray, program(*args))
            jax.effects_barrier()
        except Exception:  # a layer fails, or can't be traced
            return recorded(None, *args)
        late = traces[0].late
        ordered = {label: calls.get(label) or late.pop(label) for label in order if label in calls or label in late}
        return _numbered(ordered | late)

    return watch


def _numbered(calls: Mapping[str, LayerCall]) -> dict[str, LayerCall]:
    """Return the calls without gaps in their numbers, which a trace of shapes alone leaves, as Linen's scan begins."""
    counts: dict[str, int] = {}
    return {next_label(counts, label.partition("#")[0]): call for label, call in calls.items()}
