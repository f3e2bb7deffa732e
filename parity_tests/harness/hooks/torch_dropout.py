"""Let torch's dropout take given masks."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
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
        stack.enter_context(mock.patch.object(Tensor, "bernoulli_", _bernoulli_(masks, Tensor.bernoulli_)))
        for owner in (torch, Tensor):
            stack.enter_context(mock.patch.object(owner, "bernoulli", _bernoulli(masks, owner.bernoulli)))
        for name in ("rand", "rand_like"):
            stack.enter_context(mock.patch.object(torch, name, _uniform(getattr(torch, name))))
        stack.enter_context(mock.patch.object(Tensor, "uniform_", _uniform_(Tensor.uniform_)))
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
        kept = torch.as_tensor(_numbers(masks, shape, p) < 1.0 - p, device=x.device)
        factor = kept.to(x.dtype) / (1.0 - p)
        return x.mul_(factor) if in_place else x * factor

    return dropout


def _numbers(masks: Masks, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """The numbers of the next mask; in a backward pass those of the one that was drawn from the same state before,
    since checkpointing computes a layer again."""
    state = hash(torch.get_rng_state().numpy().tobytes())
    torch.randint(2, ())  # another state
    return masks.in_torch(shape, rate, state, torch._C._current_graph_task_id() >= 0)  # type: ignore[attr-defined]


def _kept(masks: Masks, shape: tuple[int, ...], p: float) -> Tensor:
    """A mask that is true with one probability."""
    return torch.as_tensor(_numbers(masks, shape, 1.0 - p) < p)


def _bernoulli_(masks: Masks, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's draw of a mask with one probability, which whoever drops whole branches makes it of."""

    def bernoulli_(x: Tensor, p: Any = 0.5, **more: Any) -> Tensor:
        if not isinstance(p, float) or not 0.0 < p < 1.0:
            return plain(x, p, **more)
        return x.copy_(_kept(masks, tuple(x.shape), p))

    return bernoulli_


def _bernoulli(masks: Masks, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's draw of a mask of the probabilities in a tensor, where they are all the same."""

    def bernoulli(x: Tensor, *given: Any, **more: Any) -> Tensor:
        p = [*given, more.get("p")][0]
        if p is None and x.numel() and bool((x == x.flatten()[0]).all()):
            p = float(x.flatten()[0])
        if not isinstance(p, float) or not 0.0 < p < 1.0 or "out" in more:
            return plain(x, *given, **more)
        return torch.empty_like(x).copy_(_kept(masks, tuple(x.shape), p))

    return bernoulli


class _Uniform(Tensor):
    """Uniform numbers, perhaps with one number added, as torch drew them. The first comparison or `floor` that makes a
    mask of them says what its probability is, and they become numbers that give the shared mask."""

    added: float | None = 0.0
    """None once they are no longer drawn numbers, or are settled."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, u = func.__name__, args[0] if args and isinstance(args[0], _Uniform) else None
        other = _number(args[1]) if len(args) == 2 and not kwargs else None
        with torch._C.DisableTorchFunctionSubclass():
            if u is None or u.added is None:
                return func(*map(_plain, args), **{key: _plain(x) for key, x in (kwargs or {}).items()})
            added = u.added
            if name in ("floor", "floor_") and 0.0 < added < 1.0:
                u._settle(added, below=False)
            elif name in _BELOW and added == 0.0 and other is not None and 0.0 < other < 1.0:
                u._settle(other if _BELOW[name] else 1.0 - other, _BELOW[name])
            if name.endswith("_") and not name.startswith("__"):
                u.added = other if name == "add_" and added == 0.0 else None
                func(*map(_plain, args), **(kwargs or {}))
                return u
            result = func(*map(_plain, args), **{key: _plain(x) for key, x in (kwargs or {}).items()})
            as_many = name in _REARRANGES and result.numel() == u.numel()
            if u.added == 0.0 and (as_many or (name == "add" and other is not None)):
                result = result.as_subclass(_Uniform)
                result.added = 0.0 if as_many else other
            return result

    def _settle(self, p: float, below: bool) -> None:
        """Become numbers of which those below p, or the largest of that share, are kept in the shared mask."""
        if Masks.active is not None:
            numbers = torch.as_tensor(_numbers(Masks.active, tuple(self.shape), 1.0 - p)).to(self)
            self.copy_(numbers if below else (self.added or 0.0) + 1.0 - numbers)
        self.added = None


_BELOW = {"lt": True, "le": True, "gt": False, "ge": False}
_REARRANGES = ("view", "reshape", "unsqueeze", "__getitem__")


def _number(x: Any) -> float | None:
    if isinstance(x, Tensor) and not isinstance(x, _Uniform) and x.ndim == 0 and x.is_floating_point():
        return x.item()
    return x if isinstance(x, float) else None


def _plain(x: Any) -> Any:
    return x.as_subclass(Tensor) if isinstance(x, _Uniform) else x


def _uniform(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's draw of uniform numbers."""

    def uniform(*given: Any, **more: Any) -> Tensor:
        drawn = plain(*given, **more)
        return drawn if drawn.requires_grad or "out" in more else drawn.as_subclass(_Uniform)

    return uniform


def _uniform_(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's draw of uniform numbers into a tensor."""

    def uniform_(x: Tensor, *given: Any, **more: Any) -> Tensor:
        drawn = plain(x, *given, **more)
        bounds = [*given, *(more.get(name, at) for name, at in (("from", 0.0), ("to", 1.0)))][:2]
        return drawn.as_subclass(_Uniform) if bounds == [0.0, 1.0] and not drawn.requires_grad else drawn

    return uniform_


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
