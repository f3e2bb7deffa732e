"""The tensors in nested dicts, as PyTorch's pickles and Flax's msgpack have them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import file_limits, tensor_names
from jaxvae.shared.text import named, shown

# An optimizer's tensors, or averages of the weights, may stand beside these keys.
_NESTS = ("state_dict", "model_state_dict", "params", "model", "model_dict", "ema_state_dict")
WITH_OPTIMIZER = 4  # times a model's tensors: the two moments of Adam, and more beside them
_MAX_NESTS = 8
_MAX_DEPTH = 100
_MAX_VALUES = 200_000  # of dicts, each of which is read once

Convert = Callable[[Any, tuple[str, ...]], Tensor | None]
"""Converts a leaf, given with its keys; None if the leaf is not a tensor."""


def flat(path: Path, tree: object, tensor: Convert, prefix: str | None = None) -> tuple[Tensor, ...]:
    """List the model's tensors in nested dicts.

    Args:
        path: The file, for messages.
        tree: The dicts. Without a prefix, where one has a key such as `state_dict`, only what stands under it counts.
        tensor: Converts a leaf.
        prefix: What the names of the tensors to list begin with, such as `ema.model`; None for all.

    Returns:
        The tensors, in the order of the dicts.

    Raises:
        InputError: If there are none, or more than any model has.
    """
    nest: tuple[str, ...] = ()
    while prefix is None and isinstance(tree, Mapping) and len(nest) < _MAX_NESTS:
        key = next((key for key in _NESTS if isinstance(tree.get(key), Mapping)), None)
        if key is None:
            break
        nest, tree = (*nest, key), tree[key]
    tensors = []
    if isinstance(tree, Mapping):
        for keys, leaf in _leaves(path, tree, nest):
            behind = prefix is None or tensor_names.is_behind(".".join(keys), prefix)
            if behind and (converted := tensor(leaf, keys)) is not None:
                tensors.append(converted)
                file_limits.require_few(path, len(tensors), whole=False)
    if not tensors and prefix is not None and isinstance(tree, Mapping):
        raise tensor_names.nothing_behind(path, prefix, map(_key, tree))
    if not tensors:
        raise InputError(
            f"{path} contains no tensors by name: it holds {_content(tree, tensor)}; save the model's state_dict."
        )
    return tuple(tensors)


def nested(tensors: tuple[Tensor, ...], value: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Build nested dicts of the tensors' values by their paths."""
    tree: dict[str, Any] = {}
    for tensor in tensors:
        node = tree
        for key in tensor.path[:-1]:
            node = node.setdefault(key, {})
        node[tensor.path[-1]] = value(tensor)
    return tree


def _leaves(path: Path, tree: Mapping, nest: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is in the dicts and no dict, with its keys. A dict that stands in several places counts in the first."""
    stack: list[tuple[tuple[str, ...], Any]] = [(nest, tree)]
    seen, values = set(), 0
    while stack:
        keys, node = stack.pop()
        if not isinstance(node, Mapping):
            yield keys, node
        elif id(node) not in seen:
            seen.add(id(node))
            values += len(node)
            if values > _MAX_VALUES or len(keys) > _MAX_DEPTH:
                raise InputError(
                    f"{path} must have at most {_MAX_VALUES:,} values in dicts that are nested {_MAX_DEPTH} deep, "
                    "found more; save only the model's state_dict."
                )
            stack += [((*keys, _key(key)), value) for key, value in reversed(list(node.items()))]


def _key(key: object) -> str:
    return key if isinstance(key, str) else shown(key)  # str() of tuples that share each other would not end


def _is_list(value: object) -> TypeGuard[list | tuple]:
    return type(value) in (list, tuple)  # msgpack's extension types are tuples, too


def _content(tree: object, tensor: Convert) -> str:
    """What a file has in place of tensors by name."""
    if (leaf := tensor(tree, ("it",))) is not None:
        return f"one tensor {list(leaf.array.shape)} without a name"
    if _is_list(tree):
        first = f", the first of them {_content(tree[0], tensor)}" if tree and not _is_list(tree[0]) else ""
        return f"a list of {len(tree):,} value{'s' * (len(tree) != 1)}{first}"
    if not isinstance(tree, Mapping):
        name = type(tree).__name__
        return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
    lists = {_key(key): value for key, value in tree.items() if _is_list(value)}
    first = f", of which {named(list(lists)[:1])} is {_content(next(iter(lists.values())), tensor)}" if lists else ""
    return f"a dict of {named(map(_key, tree))}{first}" if tree else "an empty dict"
