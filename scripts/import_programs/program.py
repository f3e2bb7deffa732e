"""A program that `import` knows, and how its classes and functions are called."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from import_programs.definitions import Code


class Batch(NamedTuple):
    """What a loss is computed from."""

    x: Tensor
    """The images, as the program's encoder takes them."""
    labels: list[Tensor]
    """The labels `[n]`, if the program has classes."""
    mean: Tensor
    """`[n, latent]`, as the following."""
    second: Any
    """Its log-variance, or its standard deviation; None for an autoencoder."""
    eps: Tensor
    """Standard normals."""
    z: Tensor
    """The latents."""
    pixels: Tensor
    """The decoder's pixels."""


Loss = Callable[[Code, Any, Batch], Tensor]


def saved_state(code: Code, model: Any, folder: Path) -> Path:
    """Save a module's state, as most programs and their users do."""
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


class Program(NamedTuple):
    """A program, and how its classes are called.

    Models are in float64 and in evaluation mode, and their images are `[n, channels, height, width]`.
    """

    title: str
    repository: str
    files: tuple[str, ...]
    """Python files and notebooks in it, in the order of their definitions."""
    build: Callable[[Code], Any]
    """Makes the model from what the files define, with the program's own sizes."""
    encode: Callable[[Any, Tensor, list[Tensor]], tuple[Tensor, Tensor | None]]
    """Mean and log-variance of images, or code and None; the list contains the labels, if there are any."""
    decode: Callable[[Any, Tensor, list[Tensor]], Tensor]
    """The pixels' means, of latents `[n, latent]`."""
    loss: Loss | None = None
    """The mean over images, or over pixels, of what its training minimizes; None if it has no function for it."""
    save: Callable[[Code, Any, Path], Path] = saved_state
    """Saves a checkpoint in a folder, and returns the file that `import` reads."""
    image: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels."""
    flat: bool = True
    """Whether its encoder takes flattened images `[n, channels * height * width]`."""
    scale: bool = False
    """Whether its encoder gives a standard deviation, not a log-variance."""
    classes: int = 0
    given: Mapping[str, str] = MappingProxyType({})
    """The flags of `import` that its tensors need, and their values."""
    objective: Mapping[str, Any] = MappingProxyType({})
    """Fields of the objective with which its loss is computed here, where `import` has another estimate of it."""
    constant: float = 0.0
    """Nats per image that `import` says the loss to be higher by here."""
    assigned: tuple[str, ...] = ()
    """Names that are defined by assignments in the files, not by `class` or `def`."""
    names: Mapping[str, Any] = MappingProxyType({})
    """What takes the place of modules that may not be installed."""


def summed(function: str, reverse: bool = False) -> Loss:
    """The loss of a function of reconstruction, images, mean and log-variance that sums over images.

    Args:
        function: Its name.
        reverse: Whether it takes the images first.
    """

    def loss(code: Code, model: Any, batch: Batch) -> Tensor:
        pair = (batch.x, batch.pixels) if reverse else (batch.pixels, batch.x)
        return code[function](*pair, batch.mean, batch.second) / len(batch.x)

    return loss
