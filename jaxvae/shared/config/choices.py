"""The choices a configuration has, and the checks of its values."""

import math
from typing import Literal

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

Stored = Literal["float32", "float64"]
Dtype = Literal[Stored, "bfloat16"]
Precision = Literal["float32", "tf32", "bf16x3", "bfloat16"]
Activation = Literal["relu", "tanh", "leaky-relu", "leaky-relu-0.2", "softplus", "elu"]
PosteriorName = Literal["gaussian", "log-sigma", "relu-sigma", "point", "relu-point"]
Output = Literal["bounded", "linear", "tanh"]
Norm = Literal["batch", "none"]
Init = Literal["pytorch", "lecun", "glorot", "glorot-data"]
Form = Literal["elbo", "capacity", "iwae", "reconstruction", "adversarial"]
Units = Literal["image", "pixel", "mixed"]
Schedule = Literal["exponential", "iwae", "cosine", "steps"]
ClipRule = Literal["torch", "optax"]
Range = Literal["unit", "signed"]
Binarization = Literal["none", "threshold", "static", "dynamic"]
Corruption = Literal["none", "gaussian", "dropout", "hidden-dropout"]
Shard = Literal["parameters"]


def require(ok: bool, name: str, expected: str, value: object) -> None:
    """Check a field of a configuration.

    Args:
        ok: Whether the field is valid.
        name: The name of the field.
        expected: What it must be, for the message.
        value: Its value.

    Raises:
        InputError: If it is not ok; the message names the field.
    """
    if not ok:
        raise InputError(f"The configuration's {name} must be {expected}, found {shown(value)}.")


def require_positive(name: str, value: float) -> None:
    """Raises InputError unless the field is positive, and below 2^31 if it is an integer."""
    if isinstance(value, int):
        require(0 < value < 2**31, name, "positive and below 2^31", value)
    else:
        require(math.isfinite(value) and value > 0, name, "positive and finite", value)


def require_not_negative(name: str, value: float) -> None:
    """Raises InputError unless the field is finite and at least 0, and below 2^31 if it is an integer."""
    most = 2**31 if isinstance(value, int) else math.inf
    require(0 <= value < most, name, "finite and at least 0", value)


def require_seed(seed: int) -> None:
    """Raises InputError unless the seed is an integer of at most 64 bits."""
    require(0 <= seed < 2**64, "seed", "an integer from 0 to 2^64 - 1", seed)
