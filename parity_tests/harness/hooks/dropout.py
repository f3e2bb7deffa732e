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
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention(plain_attention)))
        stack.enter_context(mock.patch.object(jax.random, "bernoulli", _bernoulli(masks, jax.random.bernoulli)))
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


def _bernoulli(masks: Masks, plain: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's draw, which every dropout of Flax's is made of."""

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **more: Any) -> Any:
        shape = tuple(np.shape(p)) if shape is None else tuple(shape)
        k = masks.calls["jax"]
        masks.calls["jax"] += 1
        in_torch = masks.shapes[k] if k < len(masks.shapes) else None
        if in_torch == shape:
            numbers = masks.below(k, shape)
        elif in_torch is not None and (in_torch[0], *in_torch[2:], *in_torch[1:2]) == shape:
            numbers = np.moveaxis(masks.below(k, in_torch), 1, -1)
        else:  # the two drop other things
            return plain(key, p, shape, **more)
        return jnp.asarray(numbers < p) if isinstance(p, float) else jnp.asarray(numbers) < p

    return bernoulli
