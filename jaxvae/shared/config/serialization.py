"""A configuration as JSON and back, checked field by field."""

from typing import Any

from jaxvae.shared.config.fields import build, written
from jaxvae.shared.config.spec import Spec


def to_json(spec: Any) -> dict[str, Any]:
    """Convert a dataclass to JSON values, nested as it is, without later fields that have their default."""
    return written(spec)


def from_json(value: object, where: str) -> Spec:
    """Validate a configuration that `to_json` wrote.

    Args:
        value: Any JSON value.
        where: What it is called in a message.

    Returns:
        The configuration.

    Raises:
        InputError: If a field is unknown, missing, of the wrong type or out of range; the message names it.
    """
    return build(Spec, value, where)
