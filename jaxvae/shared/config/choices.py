"""The choices a configuration has, and the checks of its values."""

import math
import typing
from typing import Any, Literal

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

Stored = Literal["float32", "float64"]
Dtype = Literal[Stored, "bfloat16"]
Activation = Literal["relu", "tanh", "leaky-relu"]
PosteriorName = Literal["gaussian", "relu-sigma", "point", "relu-point"]
Output = Literal["bounded", "linear"]
Init = Literal["pytorch", "lecun", "glorot", "glorot-data"]
Form = Literal["elbo", "capacity", "iwae", "reconstruction", "adversarial"]
Units = Literal["image", "pixel", "mixed"]
Schedule = Literal["exponential", "iwae"]
Range = Literal["unit", "signed"]
Binarization = Literal["none", "threshold", "static", "dynamic"]
Corruption = Literal["none", "gaussian", "dropout", "hidden-dropout"]


def require(ok: bool, name: str, expected: str, found: object) -> None:
    """Raises InputError, naming the field, unless it is ok."""
    if not ok:
        raise InputError(f"The configuration's {name} must be {expected}, found {shown(found)}.")


def require_positive(name: str, value: float) -> None:
    if isinstance(value, int):
        require(0 < value < 2**31, name, "positive and below 2^31", value)
    else:
        require(math.isfinite(value) and value > 0, name, "positive and finite", value)


def require_not_negative(name: str, value: float) -> None:
    most = 2**31 if isinstance(value, int) else math.inf
    require(0 <= value < most, name, "finite and at least 0", value)


def require_choice(name: str, kind: Any, value: object) -> None:
    require(value in typing.get_args(kind), name, f"one of {', '.join(typing.get_args(kind))}", value)


def require_seed(seed: int) -> None:
    """Raises InputError unless the seed has 64 bits at most."""
    require(0 <= seed < 2**64, "seed", "an integer from 0 to 2^64 - 1", seed)
