"""Let the dropout of Flax take given masks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import axes_scan

from parity_tests.harness.hooks.masks import Masks


@contextlib.contextmanager
def shared(masks: Masks | None) -> Iterator[None]:
    """Take these masks within the context; those of the model's own keys if None."""
    if masks is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(jax.random, "bernoulli", _bernoulli(masks, jax.random.bernoulli)))
        stack.enter_context(mock.patch.object(jax.lax, "scan", _scan(masks, jax.lax.scan)))
        stack.enter_context(mock.patch.object(axes_scan, "pe", _Uncounted(masks, axes_scan.pe)))
        stack.callback(setattr, Masks, "active", Masks.active)
        Masks.active = masks
        yield


def _scan(masks: Masks, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A scan whose body, if it draws, is called for each turn, so that each takes its own mask."""

    def scan(f: Any, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False, **more: Any) -> Any:
        with masks.look():
            before = masks.calls["jax"]
            jax.eval_shape(lambda: plain(f, init, xs, length, reverse, **more))
            draws = masks.calls["jax"] > before
        if not draws:
            return plain(f, init, xs, length, reverse, **more)
        turns = range(jax.tree.leaves(xs)[0].shape[0] if length is None else length)
        carry, results = init, []
        for i in reversed(turns) if reverse else turns:
            carry, y = f(carry, jax.tree.map(lambda leaf, i=i: leaf[i], xs))
            results.append(y)
        ys = jax.tree.map(lambda *parts: jnp.stack(parts), *(results[::-1] if reverse else results))
        return carry, ys

    return scan


class _Uncounted:
    """What Linen's scan traces its body with, once before it scans: to see what doesn't change, no call of it."""

    def __init__(self, masks: Masks, plain: Any):
        self.masks, self.plain = masks, plain

    def __getattr__(self, name: str) -> Any:
        held = getattr(self.plain, name)
        if not name.startswith("trace"):
            return held

        def traced(*given: Any, **more: Any) -> Any:
            with self.masks.look():
                return held(*given, **more)

        return traced


def _bernoulli(masks: Masks, plain: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's draw, which every dropout of Flax's is made of."""

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **more: Any) -> Any:
        shape = tuple(np.shape(p)) if shape is None else tuple(shape)
        k = masks.calls["jax"]
        masks.calls["jax"] += 1
        in_torch = masks.shapes[k] if k < len(masks.shapes) else None
        if in_torch == shape or masks.key is not None:
            numbers = masks.below(k, shape)
        elif in_torch is not None and (*in_torch[1::-1], *in_torch[2:]) == shape:  # steps before rows
            numbers = masks.below(k, in_torch).swapaxes(0, 1)
        elif in_torch is not None and (in_torch[0], *in_torch[2:], *in_torch[1:2]) == shape:
            numbers = np.moveaxis(masks.below(k, in_torch), 1, -1)
        else:
            masks.unlike.append((shape, in_torch))
            return plain(key, p, shape, **more)
        return jnp.asarray(numbers < p) if isinstance(p, float) else jnp.asarray(numbers) < p

    return bernoulli
