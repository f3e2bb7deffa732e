"""What a pair of the gallery is, and what the families share. Importing this loads no framework."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from jaxvae.shared.errors import InputError

Verdict = Literal["agree", "differ", "refused"]


class Modules(NamedTuple):
    """The arguments of `compare_modules` for one pair."""

    jax_model: Any
    params: Any
    torch_module: Any
    inputs: list[Any]
    mapping: Any = None
    options: Mapping[str, Any] = {}
    """Options without which the pair can't be compared, such as `channels_last` of a model that takes N,C,H,W."""


class Pair(NamedTuple):
    """One row of the gallery."""

    name: str
    packages: tuple[str, ...]
    """The packages that both sides come from."""
    make: Callable[[], Modules]
    """Builds both modules; only this imports the packages."""
    expected: Verdict = "agree"
    """What is true of the two modules, which the comparison should find."""
    why: str = ""
    """For a pair that differs or is refused: the reason. For the row after it: what was changed so that it agrees."""
    large: bool = False
    """Whether the pair takes minutes or gigabytes, and is compared only where it is asked for."""


def package(name: str) -> Any:
    """Import a package of the extra `gallery`, or a module of one.

    Raises:
        InputError: If the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise InputError(
            f"The gallery compares modules of {name.partition('.')[0]}, which is not installed: "
            "install the extra with pip install -c constraints.txt '.[gallery]'."
        ) from None


def version(name: str) -> str:
    """Return the installed version of a package. Raises InputError if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        package(name)
        raise


def layers(*rules: tuple[str, str]) -> list[tuple[str, str]]:
    """Make the rules of a mapping for layers: each `(regex, replacement)` of a layer's path stands for its arrays.

    A kernel, a scale or an embedding is a `weight` in torch; a mean and a variance are `running_mean` and
    `running_var`.
    """
    leaves = {"(?:kernel|scale|embedding)": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return [(f"{path}/{leaf}", f"{name}.{tensor}") for path, name in rules for leaf, tensor in leaves.items()]


def initial(module: Any, *inputs: Any, **flags: Any) -> Any:
    """Return a Linen module's variables in float64, every array moved from its initial value.

    A bias of 0, a scale of 1 and a variance of 1 would hide the faults that concern them.
    """
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        rngs = {name: jax.random.key(i) for i, name in enumerate(("params", "dropout", "gaussian"))}
        tree = dict(jax.jit(lambda: module.init(rngs, *map(jnp.asarray, inputs), **flags))())
        return jax.tree.map(jnp.asarray, moved(tree))


def moved(tree: Any) -> Any:
    """Multiply every array of the tree by positive numbers near 1, and add others near 0 to biases, scales and means.

    Kernels keep their size, and with it the size of what a deep network computes.
    """
    import jax
    import numpy as np

    draws = np.random.default_rng(0)

    def one(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/").rpartition("/")[2]
        added = 0 if name == "var" or leaf.ndim > 1 else draws.normal(0, 0.05, leaf.shape)
        return (np.asarray(leaf, np.float64) * draws.uniform(0.8, 1.2, leaf.shape) + added).astype(np.float64)

    return jax.tree_util.tree_map_with_path(one, tree)


def images(*shape: int) -> Any:
    """Draw images [batch, channels, height, width]."""
    import numpy as np

    return np.random.default_rng(1).normal(size=shape)


def tokens(batch: int, length: int, vocabulary: int) -> Any:
    """Draw token numbers [batch, length]; the two smallest, which often mean padding or an end, are left out."""
    import numpy as np

    return np.random.default_rng(2).integers(2, vocabulary, (batch, length), np.int32)


def sines() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the loss of both sides: the mean sine of each output, summed.

    A sum of squares would have no gradient behind a layer norm, whose output always has the same.
    """
    import jax.numpy as jnp
    import torch

    return (
        lambda outputs: sum(jnp.sin(x).mean() for x in _arrays(outputs)),
        lambda outputs: sum(torch.sin(x).mean() for x in _arrays(outputs)),
    )


def _arrays(outputs: Any) -> Iterator[Any]:
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        for output in outputs:
            yield from _arrays(output)
    elif outputs is not None:
        yield outputs
