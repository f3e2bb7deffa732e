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
        kept = torch.as_tensor(masks.next("torch", shape) < 1.0 - p, device=x.device)
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
