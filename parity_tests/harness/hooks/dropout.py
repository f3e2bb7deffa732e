"""Give the dropout of both frameworks the same masks, call by call."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax.core import axes_scan
from torch import Tensor

from parity_tests.harness.hooks.masks import Masks

_VF: Any = torch._VF  # type: ignore[attr-defined]
"""What every dropout of torch's calls, whichever name it was imported by."""


@contextlib.contextmanager
def shared(both: bool) -> Iterator[None]:
    """Share the masks within the context, if `both` asks for it."""
    if not both:
        yield
        return
    masks, before = Masks(), Masks.active
    plain_attention = F.scaled_dot_product_attention
    patches = {"dropout": False, "dropout_": False, "feature_dropout": True, "feature_dropout_": True}
    with contextlib.ExitStack() as stack:
        for name, of_features in patches.items():
            call = _dropout(masks, of_features, in_place=name.endswith("_"))
            stack.enter_context(mock.patch.object(_VF, name, call))
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            stack.enter_context(mock.patch.object(_VF, name, _recurrent(getattr(_VF, name))))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention(plain_attention)))
        stack.enter_context(mock.patch.object(jax.random, "bernoulli", _bernoulli(masks, jax.random.bernoulli)))
        stack.enter_context(mock.patch.object(jax.lax, "scan", _scan(masks, jax.lax.scan)))
        stack.enter_context(mock.patch.object(axes_scan, "pe", _Uncounted(masks, axes_scan.pe)))
        Masks.active = masks
        try:
            yield
        finally:
            Masks.active = before


def _dropout(masks: Masks, of_features: bool, in_place: bool) -> Callable[..., Tensor]:
    """A dropout of torch's, of whole channels or of single numbers."""

    def dropout(x: Tensor, p: float, train: bool) -> Tensor:
        if not train or p == 0:  # where Flax draws nothing either
            return x
        if p == 1:
            return x.zero_() if in_place else x * 0
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if of_features else tuple(x.shape)
        k = masks.calls["torch"]
        masks.calls["torch"] += 1
        masks.shapes.append(shape)
        kept = torch.as_tensor(masks.below(k, shape) < 1.0 - p, device=x.device)
        factor = kept.to(x.dtype) / (1.0 - p)
        return x.mul_(factor) if in_place else x * factor

    return dropout


def _attention(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's attention, whose own dropout is within its kernel."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not dropout_p or enable_gqa:
            return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        logits = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        return F.dropout(logits.softmax(-1), dropout_p) @ value

    return attention


def _recurrent(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Torch's recurrent layers, whose dropout between them is within their kernel."""

    def layers(*given: Any) -> Any:
        if not isinstance(given[2], list):  # a packed sequence, as which Flax has none
            return plain(*given)
        x, state, weights, bias, number, rate, train, both, batch_first = given
        if not train or not rate or number == 1:
            return plain(*given)
        several, turns, size = isinstance(state, tuple), 2 if both else 1, len(weights) // number
        last = []
        for i in range(number):
            own = tuple(part[i * turns : (i + 1) * turns] for part in (state if several else (state,)))
            held = weights[i * size : (i + 1) * size]
            x, *ends = plain(x, own if several else own[0], held, bias, 1, 0.0, train, both, batch_first)
            last.append(ends)
            x = F.dropout(x, rate) if i < number - 1 else x
        return (x, *map(torch.cat, zip(*last, strict=True)))

    return layers


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
        if in_torch == shape:
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
