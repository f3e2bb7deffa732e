"""A random network as plain data, and the models of both frameworks that it builds."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn

from parity_tests.support.pairs import formulas, linen_parts, nnx_parts, parts, torch_parts
from parity_tests.support.pairs.block import Block
from parity_tests.support.pairs.values import GRIDS, Value


@dataclass(frozen=True)
class Net:
    """A network: its blocks in order, of which the last makes the outputs."""

    seed: int
    flavour: str
    """The kind of Flax model: nnx, linen or function."""
    batch: int
    start: Value
    blocks: tuple[Block, ...]


def enter(x: Any, net: Net) -> Any:
    """Move the channels of a signal or a volume last; the harness does so for arrays of four axes."""
    return jnp.moveaxis(x, 1, -1) if net.start.kind in GRIDS and x.ndim != 4 else x


class Group(nnx.Module):
    """The parts of one block."""

    def __init__(self, block: Block, rngs: nnx.Rngs):
        self.deterministic = True
        for name, part in block.parts().items():
            setattr(self, name, nnx_parts.build(part, rngs))

    @property
    def training(self) -> bool:
        """Whether it is in training mode."""
        return not self.deterministic

    def read(self, name: str) -> jax.Array:
        """Return a state."""
        return getattr(self, name)[...]

    def write(self, name: str, value: Any) -> None:
        """Replace a state."""
        getattr(self, name)[...] = value


class NnxNet(nnx.Module):
    """The network in Flax NNX."""

    def __init__(self, net: Net):
        self.net, rngs = net, nnx.Rngs(net.seed)
        for block in net.blocks:
            setattr(self, block.name, Group(block, rngs))

    def __call__(self, x: jax.Array) -> Any:
        y: Any = enter(x, self.net)
        for block in self.net.blocks:
            y = block.in_jax(getattr(self, block.name), y)
        return y


class LinenBlock(linen.Module):
    """One block in Flax Linen."""

    block: Block

    def setup(self) -> None:
        for name, part in self.block.parts().items():
            linen_parts.add(self, name, part)

    def __call__(self, x: Any, train: bool) -> Any:
        return self.block.in_jax(LinenView(self, train), x)


class LinenView:
    """The parts of a Linen block in one mode."""

    def __init__(self, module: LinenBlock, training: bool):
        self.module, self.training = module, training

    def __getattr__(self, name: str) -> Any:
        part = getattr(self.module, name)
        if isinstance(self.module.block.parts()[name], parts.BatchNorm):
            return functools.partial(part, use_running_average=not self.training)
        return part

    def read(self, name: str) -> jax.Array:
        """Return a state."""
        return getattr(self.module, name).value

    def write(self, name: str, value: Any) -> None:
        """Replace a state."""
        if not self.module.is_initializing():
            getattr(self.module, name).value = value


class LinenNet(linen.Module):
    """The network in Flax Linen."""

    net: Net

    def setup(self) -> None:
        for block in self.net.blocks:
            setattr(self, block.name, LinenBlock(block))

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        y: Any = enter(x, self.net)
        for block in self.net.blocks:
            y = getattr(self, block.name)(y, train)
        return y


class FunctionView:
    """The parts of one block as functions of their arrays, in evaluation."""

    training = False

    def __init__(self, held: dict[str, parts.Part], params: dict[str, Any], state: dict[str, Any]):
        self.held, self.params, self.state = held, params, state

    def __getattr__(self, name: str) -> Any:
        part = self.held[name]
        if isinstance(part, parts.Weight):
            return self.params[name]
        if isinstance(part, parts.Cell | parts.InProjection):
            return _Both(self.params[name])
        return functools.partial(formulas.apply, part, self.params.get(name, {}), self.state.get(name, {}))

    def read(self, name: str) -> jax.Array:
        """Return a state."""
        return self.state[name]


class _Both:
    def __init__(self, leaves: dict[str, Any]):
        self.leaves = leaves

    def __getattr__(self, name: str) -> Callable[[jax.Array], jax.Array]:
        leaves = self.leaves[name]
        return lambda x: x @ leaves["kernel"] + leaves["bias"]


def function(net: Net) -> Callable[..., Any]:
    """Make the network as a function `f(variables, x)`."""

    def apply(variables: Any, x: jax.Array) -> Any:
        params = variables.get("params", variables)
        state = variables.get("batch_stats", {})
        y: Any = enter(x, net)
        for block in net.blocks:
            y = block.in_jax(FunctionView(block.parts(), params.get(block.name, {}), state.get(block.name, {})), y)
        return y

    return apply


class TorchNet(nn.Module):
    """The network in torch."""

    def __init__(self, net: Net):
        super().__init__()
        self.net, value = net, net.start
        for block in net.blocks:
            group = nn.Module()
            for name, part in block.parts().items():
                torch_parts.add(group, name, part, len(value.shape(net.batch)))
            self.add_module(block.name, group)
            value = block.after(value)

    def forward(self, x: torch.Tensor) -> Any:
        y: Any = x
        for block in self.net.blocks:
            y = block.in_torch(self.get_submodule(block.name), y)
        return y


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Let JAX promote dtypes and ranks as it does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


def in_jax(net: Net, x: np.ndarray) -> tuple[Any, Any]:
    """Build the Flax model and its variables; None for those of an NNX module, which holds them.

    The model of the last network is kept, since an edit of the torch module leaves it as it is.
    """
    with relaxed():
        return _in_jax(net, x.shape, x.dtype.kind)


@functools.lru_cache(maxsize=1)
def _in_jax(net: Net, shape: tuple[int, ...], kind: str) -> tuple[Any, Any]:
    start = functools.partial(_started, net, np.random.default_rng([net.seed, 2]))
    if net.flavour == "nnx":
        graph, held = nnx.split(nnx.eval_shape(lambda: NnxNet(net)))
        return nnx.merge(graph, jax.tree_util.tree_map_with_path(start, held)), None
    model = LinenNet(net)
    given = np.zeros((shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape, np.float32 if kind == "f" else int)
    keys = {"params": jax.random.key(net.seed), "dropout": jax.random.key(1)}
    variables = jax.tree_util.tree_map_with_path(start, jax.eval_shape(model.init, keys, given))
    return (model, variables) if net.flavour == "linen" else (function(net), _plain(variables))


def _started(net: Net, rng: np.random.Generator, path: Any, leaf: Any) -> jax.Array:
    """Return the initial value of an array: Flax's own, but for random kernels, whose programs take long to compile."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(net.seed)
    names = [name for name in jax.tree_util.keystr(path, simple=True, separator="/").split("/") if name != "value"]
    held = [block.parts() for block in net.blocks if block.name in names]
    part = next((part for parts_ in held for name, part in parts_.items() if name in names), None)
    if names[-1] in ("scale", "var"):
        array = np.ones(leaf.shape)
    elif isinstance(part, parts.Weight) and part.start is not None:
        array = np.full(leaf.shape, part.start)
    elif names[-1] in ("bias", "mean", "count") or isinstance(part, parts.State) or getattr(part, "zero", False):
        array = np.zeros(leaf.shape)
    else:
        fan = () if isinstance(part, parts.Weight) else leaf.shape[-1:] if names[-1] == "embedding" else leaf.shape[:-1]
        array = rng.normal(size=leaf.shape) / np.sqrt(np.prod(fan))
    return jnp.asarray(array.astype(leaf.dtype))


def _plain(variables: Any) -> Any:
    variables = jax.tree.map(lambda leaf: leaf, dict(variables))
    return variables if "batch_stats" in variables else variables.get("params", {})


def in_torch(net: Net) -> TorchNet:
    """Build the torch module with torch's own initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(net.seed)
        return TorchNet(net)
