"""Read a mapping of JAX's arrays to torch's tensors from a JSON file."""

from pathlib import Path
from typing import Any

from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import read_json

_NAMED = ("as_is", "transposed", "flipped_kernel")
_JOINTS = {"concatenated": ("axis", "groups"), "stacked": ("axis",), "summed": (), "shared": (), "weight_norm": ()}
"""The numbers that each joint takes."""


def read(path: Path) -> Any:
    """Read a mapping: an object of pairs `{"conv1/kernel": "conv1.weight"}`, or a list of rules `["REGEX", "NAME"]`.

    Instead of a name a pair may have `["NAME", TRANSFORM]`, and a rule may end in a TRANSFORM: `"as_is"`,
    `"transposed"`, `"flipped_kernel"`, or `{"flattened": {"rows": [C, H, W]}}`, with `columns` for a layer that writes
    an image. A joint, as `{"concatenated": {"axis": -1}}` or `{"stacked": {}}`, has a list of names in place of one,
    and in a rule also a list of paths.

    Returns:
        The mapping as `compare_modules` takes it.

    Raises:
        InputError: If the file is missing or is no such mapping.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON ({error}); give a file with a mapping.") from None
    if isinstance(content, dict):
        return {name: _target(target, path) for name, target in content.items()}
    if isinstance(content, list):
        return [_rule(rule, path) for rule in content]
    raise InputError(f"{path} holds no mapping: expected pairs in an object or rules in a list, found {content!r}.")


def _target(target: Any, path: Path) -> Any:
    if isinstance(target, str):
        return target
    if isinstance(target, list) and len(target) == 2 and _are_names(target[0], target[1:]):
        return target[0], _transform(target[1], path)
    raise InputError(f'{path}: expected a name or ["NAME", TRANSFORM], found {target!r}.')


def _rule(rule: Any, path: Path) -> Any:
    if isinstance(rule, list) and len(rule) in (2, 3) and all(_are_names(names, rule[2:]) for names in rule[:2]):
        return (*rule[:2], *(_transform(one, path) for one in rule[2:]))
    raise InputError(f'{path}: expected a rule ["REGEX", "NAME"] or with a TRANSFORM at its end, found {rule!r}.')


def _are_names(names: Any, how: list[Any]) -> bool:
    """Whether this is one name, or several where they end in a joint."""
    joint = bool(how) and isinstance(how[0], dict) and how[0].keys() <= _JOINTS.keys()
    several = joint and isinstance(names, list) and bool(names)
    return all(isinstance(name, str) for name in (names if several else [names]))


def _transform(given: Any, path: Path) -> Any:
    from parity_tests.harness.modules import transforms  # torch
    from parity_tests.harness.modules.joining import joints

    if given in _NAMED:
        return getattr(transforms, given)
    if isinstance(given, dict) and len(given) == 1 and given.keys() <= _JOINTS.keys():
        ((name, options),) = given.items()
        if (
            isinstance(options, dict)
            and {*options} <= {*_JOINTS[name]}
            and all(type(n) is int for n in options.values())
        ):
            return getattr(joints, name)(**options)
    if isinstance(given, dict) and given.keys() == {"flattened"} and isinstance(given["flattened"], dict):
        images = given["flattened"]
        sizes = [size for image in images.values() for size in (image if isinstance(image, list) else [None])]
        shaped = all(isinstance(image, list) and len(image) == 3 for image in images.values())
        if images and images.keys() <= {"rows", "columns"} and shaped and all(type(n) is int for n in sizes):
            return transforms.flattened(**{name: tuple(image) for name, image in images.items()})
    raise InputError(
        f'{path}: expected a transform {", ".join(_NAMED)}, {{"flattened": {{"rows": [C, H, W]}}}} or a joint such as '
        f'{{"concatenated": {{"axis": -1}}}}, found {given!r}.'
    )
