"""The version of the installed project, which stands in pyproject.toml alone, and those of what it computes with."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

__version__ = version("jaxvae")
FRAMEWORKS: Mapping[str, Sequence[str]] = {"jaxvae": ("jax", "flax", "optax"), "torchvae": ("torch",)}
"""The packages that each of the two computes with."""


def line(program: str, packages: Sequence[str]) -> str:
    """Format the versions of a program, of some packages and of Python for --version. None of them is imported."""
    others = "".join(f"{name} {version(name)}, " for name in packages)
    return f"{program} {__version__} ({others}Python {platform.python_version()})"
