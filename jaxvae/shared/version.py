"""The version of the installed project, which stands in pyproject.toml alone."""

from importlib.metadata import version

__version__ = version("jaxvae")
