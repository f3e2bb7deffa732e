"""The names of other programs' tensors: prefixes that say nothing, counters, and several models in one file."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import named, printable

# Of DataParallel, torch.compile, FSDP, activation checkpointing and Lightning's Fabric, at any depth.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_VALUES = {"value", "raw_value"}  # of Flax NNX's variables, behind their names
_COUNTERS = {"num_batches_tracked", "n_averaged"}  # of torch's batch norm and of its AveragedModel
_STREAM = {"count", "key"}  # of Flax NNX's random streams
_FEW = 4  # tensors of the smallest model: two layers
_MOST_PREFIXES = 50


def parts(name: str) -> list[str]:
    """Split a tensor's name at each `.` and `/`."""
    return re.split(r"[./]", name)


def is_counter(tensor: Tensor) -> bool:
    """Whether a tensor counts batches, averages or random numbers, which no model here has."""
    *outer, last = [part for part in parts(".".join(tensor.path)) if part not in _VALUES] or [""]
    if tensor.is_float:
        return False
    return (last in _COUNTERS and tensor.array.shape == ()) or (
        last in _STREAM and "rngs" in outer and tensor.array.size <= _FEW
    )


def strip_wrappers(names: Sequence[str]) -> list[str]:
    """Remove the prefixes of wrappers from tensor names: `model.module.fc1.weight` becomes `fc1.weight`.

    Args:
        names: The names of a file's tensors, without counters.

    Returns:
        The names in the same order, without wrappers and without what all of them begin with.

    Raises:
        InputError: If two names become the same.
    """
    split = [[part for part in parts(name) if part not in _WRAPPERS] or [name] for name in names]
    while len(split) > 1 and all(len(parts) > 1 and parts[0] == split[0][0] for parts in split):
        split = [parts[1:] for parts in split]
    if split and all(len(parts) > 1 and parts[-1] in _VALUES for parts in split):
        split = [parts[:-1] for parts in split]
    stripped = [".".join(parts) for parts in split]
    if twice := sorted(name for name, n in Counter(stripped).items() if n > 1):
        raise InputError(f"The file has {named(twice)} more than once, under different prefixes; keep one of them.")
    return stripped


def is_behind(name: str, prefix: str) -> bool:
    """Whether a tensor's name begins with the parts of a prefix."""
    start = parts(prefix.rstrip("./"))
    return parts(name)[: len(start)] == start


def nothing_behind(path: Path, prefix: str, names: Iterable[str]) -> InputError:
    """The error for a prefix that no tensor's name has."""
    first = dict.fromkeys(parts(name)[0] for name in names)
    return InputError(
        f"{path} has no tensors behind the prefix {printable(prefix)}; its names begin with {named(first)}: give "
        "one of them, or several parts, as --prefix."
    )


def prefixes(names: Sequence[str]) -> dict[str, list[str]]:
    """List the prefixes that could each be that of a model.

    Args:
        names: The names of a file's tensors.

    Returns:
        The names behind each prefix, the largest set first. Of prefixes with the same names only the shortest counts.
    """
    behind: dict[str, list[str]] = {}
    for name in names:
        for end in re.finditer(r"[./]", name):
            behind.setdefault(name[: end.start()], []).append(name)
    distinct: dict[tuple[str, int], str] = {}
    for prefix, group in behind.items():  # shorter ones come first
        if _FEW <= len(group) < len(names):
            distinct.setdefault((group[0], len(group)), prefix)
    largest = sorted(distinct.values(), key=lambda prefix: -len(behind[prefix]))[:_MOST_PREFIXES]
    return {prefix: behind[prefix] for prefix in largest}
