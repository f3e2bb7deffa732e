"""Names of arrays, and of what else was given."""

import re
from collections.abc import Mapping
from typing import Any

STORED = {"mixed": "float32", "tf32": "float32"}
"""The dtype of parameters and inputs where it is another than that of the comparison."""


def canonical(path: str) -> str:
    """Return one spelling of a path: `params.conv1.kernel`, `params/conv1/kernel` and `conv1/kernel` are one array."""
    return re.sub(r"^(params|batch_stats)/", "", path.replace(".", "/"))


def kind(value: Any) -> str:
    """Return the value's type with its article, as in "a dict"."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def in_list(label: str, stacks: Mapping[str, str]) -> str:
    """Return the name of a call of a layer that stands for several by turns, as that of torch's layer of its turn."""
    layer, _, nth = label.partition("#")
    prefix = next((path for path in stacks if not path or f"{layer}.".startswith(f"{path}.")), None)
    if prefix is None or not layer:
        return label
    return f"{stacks[prefix]}.{int(nth or 1) - 1}.{layer.removeprefix(prefix).lstrip('.')}".strip(".")
