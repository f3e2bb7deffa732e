"""A recurrent cell over a few steps: GRU, LSTM or plain."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.functions import ACTIVATIONS
from parity_tests.support.pairs.values import ROWS, SEQUENCE, Value


@dataclass(frozen=True, kw_only=True)
class Recurrent(Block):
    """A GRU, LSTM or plain cell over a few steps; torch holds its own cell."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    kind: str
    width: int
    hidden: int
    last: bool
    """Whether it writes the last state instead of all."""
    gates: str = ""
    """The order of the gates; empty for torch's."""
    reset_before: bool = False
    """Whether the GRU resets the state before its product."""
    forget: float = 0.0
    """What is added to the forget gate."""
    activation: str = "tanh"
    backwards: bool = False
    update_swapped: bool = False
    start: float = 0.0
    """The first state."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Recurrent":
        kind, hidden, last = pick(rng, ("gru", "lstm", "rnn")), pick(rng, (4, 6)), chance(rng, 0.4)
        return cls(name=name, kind=kind, width=value.features, hidden=hidden, last=last)

    def after(self, value: Value) -> Value:
        return Value(ROWS, self.hidden) if self.last else value.of(self.hidden)

    def layers(self) -> dict[str, parts.Part]:
        return {"cell": parts.Cell(kind=self.kind, n_in=self.width, n_out=self.hidden)}

    def in_jax(self, m: Any, x: Any) -> Any:
        h = jnp.full((len(x), self.hidden), self.start, x.dtype)

        def split(y: Any) -> Any:
            return jnp.split(y, y.shape[-1] // self.hidden, -1)

        sigmoid, tanh = jax.nn.sigmoid, ACTIVATIONS[self.activation][0]
        states = self._run(x, h, m.cell.ih, m.cell.hh, split, sigmoid, tanh, m.cell)
        return states[-1] if self.last else jnp.stack(states, 1)

    def in_torch(self, m: Any, x: Any) -> Any:
        h = x.new_full((len(x), self.hidden), self.start)
        if self == type(self)(name=self.name, kind=self.kind, width=self.width, hidden=self.hidden, last=self.last):
            states, state = [], (h, h) if self.kind == "lstm" else h
            for step in x.unbind(1):
                state = m.cell(step, state)
                states.append(state[0] if self.kind == "lstm" else state)
        else:
            linear, cell = torch.nn.functional.linear, m.cell
            states = self._run(
                x,
                h,
                lambda x: linear(x, cell.weight_ih, cell.bias_ih),
                lambda h: linear(h, cell.weight_hh, cell.bias_hh),
                lambda y: y.split(self.hidden, -1),
                torch.sigmoid,
                ACTIVATIONS[self.activation][1],
                cell,
            )
        return states[-1] if self.last else torch.stack(states, 1)

    def _run(self, x: Any, h: Any, ih: Any, hh: Any, split: Any, sigmoid: Any, tanh: Any, cell: Any) -> list[Any]:
        states, c, steps = [], h, range(x.shape[1])
        for t in reversed(steps) if self.backwards else steps:
            if self.kind == "rnn":
                h = tanh(ih(x[:, t]) + hh(h))
            elif self.kind == "lstm":
                i, f, g, o = self._ordered(split(ih(x[:, t]) + hh(h)), "ifgo")
                c = sigmoid(f + self.forget) * c + sigmoid(i) * tanh(g)
                h = sigmoid(o) * tanh(c)
            else:
                mine, other = self._ordered(split(ih(x[:, t])), "rzn"), self._ordered(split(hh(h)), "rzn")
                r, z = sigmoid(mine[0] + other[0]), sigmoid(mine[1] + other[1])
                inner = self._ordered(split(hh(r * h)), "rzn")[2] if self.reset_before else r * other[2]
                n = tanh(mine[2] + inner)
                h = z * n + (1 - z) * h if self.update_swapped else (1 - z) * n + z * h
            states.append(h)
        return states[::-1] if self.backwards and not self.last else states

    def _ordered(self, gates: Any, names: str) -> list[Any]:
        order = self.gates or names
        return [gates[order.index(name)] for name in names]
