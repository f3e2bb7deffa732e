"""Build a part in torch."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.changes import CHANGES, torch_leaf

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def add(module: nn.Module, name: str, part: parts.Part, rank: int) -> None:
    """Give a part to a module; `rank` is that of the arrays that the block reads."""
    match part:
        case parts.Weight():
            start = torch.randn(part.shape) if part.start is None else torch.full(part.shape, part.start)
            setattr(module, name, nn.Parameter(start))
        case parts.State():
            module.register_buffer(name, torch.zeros(part.shape, dtype=torch.int64 if part.whole else torch.float32))
        case parts.Constant():
            numbers = torch.tensor(part.numbers)
            module.register_buffer(name, numbers, persistent=part.persistent)
        case _:
            setattr(module, name, _altered(_layer(part, rank), part))


def _layer(part: parts.Part, rank: int) -> nn.Module:
    match part:
        case parts.ConvTranspose():
            kind: Any = _TRANSPOSED[len(part.size) - 1]
            layer = kind(part.n_in, part.n_out, part.size, part.stride, part.padding, bias=part.bias)
            layer.__class__ = type(kind.__name__, (_Moved, kind), {"shift": part.shift}) if part.shift else kind
            return layer
        case parts.Conv():
            return _conv(part)
        case parts.Linear():
            return nn.Linear(part.n_in, part.n_out, part.bias)
        case parts.LayerNorm() | parts.RMSNorm():
            plain: Any = nn.LayerNorm if isinstance(part, parts.LayerNorm) else nn.RMSNorm
            layer = plain(part.features, eps=part.eps)
            if part.variant:
                layer.__class__ = type(plain.__name__, (_OddNorm, plain), {"variant": part.variant})
            return layer
        case parts.GroupNorm():
            return nn.GroupNorm(part.groups, part.features, part.eps)
        case parts.BatchNorm():
            kind = _BATCH_NORMS[rank]
            layer = kind(part.features, part.eps, part.momentum)
            if (part.unbiased, part.reads, part.updates) != (True, "mode", 1):
                layer.__class__ = type(kind.__name__, (_OddBatchNorm, kind), {"part": part})
            return layer
        case parts.Embed():
            return nn.Embedding(part.entries, part.features)
        case parts.Dropout():
            layer = nn.Dropout(part.rate)
            layer.__class__ = _DropoutOn if part.on else nn.Dropout
            return layer
        case parts.Cell():
            cells: dict[str, Any] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell, "rnn": nn.RNNCell}
            return cells[part.kind](part.n_in, part.n_out)
        case parts.InProjection():
            return nn.MultiheadAttention(part.features, part.heads, batch_first=True)
    raise NotImplementedError(part)


def _conv(part: parts.Conv) -> nn.Module:
    even = all(start == end for start, end in part.padding)
    kind: Any = _CONVS[len(part.size) - 1]
    pads = tuple(start for start, _ in part.padding) if even else 0
    layer = kind(part.n_in, part.n_out, part.size, part.strides, pads, part.dilation, part.groups, part.bias, part.mode)
    if not even:
        border = [n for pair in reversed(part.padding) for n in pair]
        layer.__class__ = type(kind.__name__, (_Padded, kind), {"border": border})
    return layer


class _Padded:
    """A convolution whose border is added before it."""

    border: list[int]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.border))  # type: ignore[misc]


class _Moved:
    """A transposed convolution whose output is moved."""

    shift: int

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)  # type: ignore[misc]
        return y.roll((self.shift,) * (y.ndim - 2), tuple(range(2, y.ndim)))


class _OddNorm:
    """A layer norm or RMS norm with another formula."""

    variant: str
    eps: float
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        centred = isinstance(self, nn.LayerNorm) and self.variant != "uncentred"
        y = x - x.mean(-1, keepdim=True) if centred else x
        square = (y**2).sum(-1, keepdim=True) / (x.shape[-1] - (self.variant == "unbiased"))
        root = square.sqrt() + self.eps if self.variant == "eps outside" else (square + self.eps).sqrt()
        y = y / root * self.weight
        return y + self.bias if isinstance(self, nn.LayerNorm) else y


class _OddBatchNorm:
    """A batch norm that reads or updates its statistics otherwise."""

    part: parts.BatchNorm
    training: bool
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        mode, part = self.training, self.part
        batch = {"batch": True, "running": False, "mode": mode}[part.reads]
        held = self.running_mean.clone(), self.running_var.clone()
        self.training = batch
        y = super().forward(x)  # type: ignore[misc]
        self.training = mode
        with torch.no_grad():
            new = _running(held, x, part) if mode and batch else held
            self.running_mean.copy_(new[0])
            self.running_var.copy_(new[1])
        return y


def _running(held: tuple[Tensor, Tensor], x: Tensor, part: parts.BatchNorm) -> tuple[Tensor, Tensor]:
    axes = (0, *range(2, x.ndim))
    batch = x.mean(axes), x.var(axes, correction=int(part.unbiased))
    share = (1 - part.momentum) ** part.updates
    return tuple(share * a + (1 - share) * b for a, b in zip(held, batch, strict=True))  # type: ignore[return-value]


class _DropoutOn(nn.Dropout):
    """Dropout that is on in evaluation too."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, True)


def _altered(layer: nn.Module, part: parts.Part) -> nn.Module:
    """Make the layer read a changed weight, where the part has a change."""
    if not part.change:
        return layer
    change, kind = CHANGES[part.change], type(layer)
    leaf = torch_leaf(part, change)

    def forward(self: Any, *args: Any) -> Any:
        kept = self._parameters.pop(leaf)
        self.__dict__[leaf] = change.in_torch(kept)
        try:
            return kind.forward(self, *args)
        finally:
            del self.__dict__[leaf]
            self._parameters[leaf] = kept

    layer.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return layer


def scaled(head: int) -> float:
    """Return the usual scale of attention's logits."""
    return 1 / math.sqrt(head)
