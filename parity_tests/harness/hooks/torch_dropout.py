"""Let torch's dropout take given masks."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from parity_tests.harness.hooks.masks import Masks

_VF: Any = torch._VF  # type: ignore[attr-defined]
"""What every dropout of torch's calls, whichever name it was imported by."""


@contextlib.contextmanager
def shared(masks: Masks | None) -> Iterator[None]:
    """Take these masks within the context; those of torch's own if None."""
    if masks is None:
        yield
        return
    patches = {"dropout": False, "dropout_": False, "feature_dropout": True, "feature_dropout_": True}
    before, plain_attention = Masks.active, F.scaled_dot_product_attention
    with contextlib.ExitStack() as stack:
        for name, of_features in patches.items():
            call = _dropout(masks, of_features, in_place=name.endswith("_"))
            stack.enter_context(mock.patch.object(_VF, name, call))
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            stack.enter_context(mock.patch.object(_VF, name, _recurrent(getattr(_VF, name))))
        stack.enter_context(mock.patch.object(Tensor, "bernoulli_", _bernoulli(masks, Tensor.bernoulli_)))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention(plain_attention)))
        stack.callback(setattr, Masks, "active", before)
        Masks.active = masks
        yield


def _dropout(masks: Masks, of_features: bool, in_place: bool) -> Callable[..., Tensor]:
    """A dropout of torch's, of whole channels or of single numbers."""

    def dropout(x: Tensor, p: float, train: bool) -> Tensor:
        if not train or p == 0:  # where Flax draws nothing either
            return x
        if p == 1:
            return x.zero_() if in_place else x * 0
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if of_features else tuple(x.shape)
        kept = torch.as_tensor(masks.in_torch(shape, p) < 1.0 - p, device=x.device)
        factor = kept.to(x.dtype) / (1.0 - p)
        return x.mul_(factor) if in_place else x * factor

    return dropout


def _bernoulli(masks: Masks, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's draw of a mask with one probability, which whoever drops whole branches makes it of."""

    def bernoulli_(x: Tensor, p: Any = 0.5, **more: Any) -> Tensor:
        if not isinstance(p, float) or not 0.0 < p < 1.0:
            return plain(x, p, **more)
        return x.copy_(torch.as_tensor(masks.in_torch(tuple(x.shape), 1.0 - p) < p))

    return bernoulli_


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
