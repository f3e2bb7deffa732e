"""The words that layers are named with, which differ from one project to the next."""

import re
from collections.abc import Callable, Sequence

Orders = Callable[[], tuple[list[str], list[str]]] | None
"""Returns the layers of both models in the order of their calls."""

_MEANINGLESS = {"proj", "to", "lin", "linear", "fc", "w", "c", "layer", "dense", "projection", "attn", "in"}
_WORDS = {"q": "query", "wq": "query", "k": "key", "wk": "key", "v": "value", "wv": "value"}
_WORDS |= {"o": "out", "wo": "out", "output": "out", "": "out"}
ATTENTION = ("query", "key", "value", "out")
_FUSED = {"qkv": ("query", "key", "value"), "wqkv": ("query", "key", "value"), "kv": ("key", "value")}
_FUSED |= {"c_attn": _FUSED["qkv"], "in_proj": _FUSED["qkv"], "wkv": _FUSED["kv"], "w12": ("w1", "w2")}


def word(name: str) -> str:
    """Return the meaning of a layer's own name: `q_proj`, `to_q` and `wq` are `query`, `c_proj` and `o_proj` `out`."""
    short = "_".join(part for part in name.lower().split("_") if part not in _MEANINGLESS)
    return _WORDS.get(short, short)


def fused(name: str) -> tuple[str, ...]:
    """Return the meanings of the parts that a layer's own name lists in their order, as `qkv` and `gate_up_proj` do;
    empty if it lists none."""
    name = name.lower()
    if name in _FUSED:
        return _FUSED[name]
    words = [part for part in name.split("_") if part not in _MEANINGLESS]
    if len(words) == 1 and words[0] in _FUSED:
        return _FUSED[words[0]]
    return tuple(_WORDS.get(part, part) for part in words) if len(words) > 1 else ()


def place(parent: str) -> tuple[str, ...]:
    """Return the words of a module's name: `layers_0/attn` and `layers.0.attn` are the same."""
    return tuple(part for part in re.split(r"[._/\[\]]+", parent) if part)


def numbers(parent: str) -> tuple[int, ...]:
    """Return the numbers in a module's name, which stand for its place among others of its kind."""
    return tuple(map(int, re.findall(r"\d+", parent)))


def turn(sequence: Sequence[str], layer: str) -> int:
    """Return the place of a layer, or of the first one in a module, in the order of calls; its length if none is."""
    dotted = layer.replace("/", ".")
    called = (i for i, label in enumerate(sequence) if not dotted or label == dotted or label.startswith(f"{dotted}."))
    return next(called, len(sequence))
