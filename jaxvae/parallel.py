"""One batch shared by several devices, of one process or of many: each computes its rows, and XLA adds up the rest.

No code of the training depends on the sharing: arrays on a mesh of devices carry it in their types, jit compiles for
it, and `split`, `whole`, `used`, `scattered` and `kept` only fix what XLA could choose otherwise. With sharded
parameters each device holds some rows of every tensor of the state, and has whole weights within a step alone
(Rajbhandari et al. 2020, "ZeRO", stage 3)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array, lax, random
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvae.shared.config.choices import Shard
from jaxvae.shared.data.streaming import Mapped
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.requirements import require_several

Tree = TypeVar("Tree")

_JOINING = 300  # seconds within which all processes have to join
_SILENCE = 60  # seconds after which JAX aborts if a process is silent; with --coordinator, the watch says so before
WHOLE, ROWS = "batch", "batch-and-rows"
"""What a mesh shares, as the name of its axis: batches alone, or the rows of parameters and optimizer too. The name is
part of an array's type, so that jit compiles for each."""
_mesh: Mesh | None = None


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the processes that train together. Call it before anything is computed.

    Args:
        coordinator: Where the first process listens, `host:port`.
        processes: Number of processes.
        process: This one's number, from 0. What is not given is taken from the cluster.

    Raises:
        InputError: If they can't be joined.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=_JOINING,
            heartbeat_timeout_seconds=_SILENCE,
            shutdown_timeout_seconds=_JOINING,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"The processes can't be joined ({reason}); start each with --coordinator HOST:PORT, --processes N and its "
            "own --process, or with --distributed where the cluster gives JAX these."
        ) from None


def processes() -> int:
    """Return how many processes train together."""
    return jax.process_count()


def first() -> bool:
    """Return whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def agreed(number: int) -> int:
    """Return the largest of the processes' numbers, of at most 31 bits. All processes have to call it."""
    if processes() == 1:
        return number
    from jax.experimental import multihost_utils  # slow to import

    return int(multihost_utils.process_allgather(np.int32(number)).max())


def share(all_devices: Sequence[Any], devices: int | None, shard: Shard | None = None) -> None:
    """Share all later batches, and what `shard` names, among the first `devices` of each process's devices. Without a
    number that is one device, or all of them if there are several processes. Raises InputError if a process has fewer,
    or if there is one device to shard for."""
    global _mesh
    own: dict[int, list[Any]] = {}
    for device in all_devices:
        own.setdefault(device.process_index, []).append(device)
    fewest = min(map(len, own.values()))
    if devices is not None and not 1 <= devices <= fewest:
        raise InputError(
            f"--devices must be from 1 to {fewest}, as many as JAX finds in each process, found {devices}."
        )
    count = devices or (1 if len(own) == 1 else fewest)
    chosen = [device for each in own.values() for device in each[:count]]
    require_several(shard, len(chosen), "give --devices N, which on a CPU may be virtual ones, or leave --shard out")
    axes = (WHOLE if shard is None else ROWS,)
    mesh = jax.make_mesh((len(chosen),), axes, axis_types=(AxisType.Auto,), devices=chosen)
    _mesh = mesh if len(chosen) > 1 else None


def shares() -> int:
    """Return how many devices share a batch."""
    return 1 if _mesh is None else _mesh.size


def placed(images: np.ndarray | Mapped) -> Array:
    """Images or labels `[n, ...]` on the devices that share: equal parts of the first axis, filled up by repeating."""
    if _mesh is None:
        return jax.numpy.asarray(np.asarray(images))
    rows = -(-len(images) // _mesh.size) * _mesh.size
    sharding = NamedSharding(_mesh, PartitionSpec(*_mesh.axis_names))
    # Each device asks for its own rows: nothing but those is ever copied.
    part = lambda index: np.asarray(images[np.arange(*index[0].indices(rows)) % len(images)])  # noqa: E731
    return jax.make_array_from_callback((rows, *images.shape[1:]), sharding, part)


def everywhere(tree: Tree) -> Tree:
    """What every process has, on each of the devices that share."""
    return _put(tree, lambda mesh, shape: PartitionSpec())


def spread(state: Tree) -> Tree:
    """The state, which every process has, on the devices that share: on each of them, or the rows of each."""
    return _put(state, rows_of)


def home(device: Any) -> Any:
    """Where a whole state goes before it is spread: on a device, unless it may be too large for one."""
    if _mesh is None or _mesh.axis_names != (ROWS,):
        return device
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # where JAX_PLATFORMS leaves it out
        return device


def local(state: Tree) -> Tree:
    """The state on this process's first device alone, for what not all processes do; a sharded one as it is."""
    if _mesh is None or _mesh.axis_names == (ROWS,):
        return state
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), state)


def complete(tree: Tree) -> Tree:
    """A state of which this process has all, rather than parts of some arrays. All processes have to call it."""

    def gather(leaf: Array) -> Array:
        if leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        from jax.experimental import multihost_utils  # slow to import

        with jax.default_device(home(None)):
            return jax.numpy.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(gather, local(tree))


def split(x: Array, axis: int = 0) -> Array:
    """A batch whose rows, along its axis `axis`, are shared. Within jit."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*[None] * axis, *mesh.axis_names)))


def whole(tree: Tree) -> Tree:
    """Numbers that each device has all of. Within jit."""
    return _constrained(tree, lambda mesh, shape: PartitionSpec())


def kept(state: Tree) -> Tree:
    """The state as `spread` places it, so that a step's result has the sharding of what it was given. Within jit."""
    return _constrained(state, rows_of)


def used(params: Tree) -> Tree:
    """The weights that a model computes with, gathered if they are sharded. Within jit; elsewhere as they are."""
    return jax.tree.map(lambda leaf: whole(leaf) if isinstance(leaf, Tracer) and is_sharded(leaf) else leaf, params)


def scattered(gradients: Tree) -> Tree:
    """The gradients of the weights, of which each device keeps the rows that it updates if they are sharded. Within
    jit."""
    return jax.tree.map(lambda leaf: kept(leaf) if is_sharded(leaf) else leaf, gradients)


def rows_of(mesh: Any, shape: tuple[int, ...]) -> PartitionSpec:
    """How a tensor of the state lies on a mesh: whole, or if parameters are sharded by the first of its dimensions that
    the number of devices divides."""
    if mesh.axis_names != (ROWS,):
        return PartitionSpec()
    divided = [i for i, size in enumerate(shape) if size and size % mesh.size == 0]
    return PartitionSpec(*[None] * divided[0], ROWS) if divided else PartitionSpec()


def _put(tree: Tree, place: Callable[[Any, tuple[int, ...]], PartitionSpec]) -> Tree:
    if _mesh is None:
        return tree
    mesh = _mesh

    def put(leaf: Any) -> Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # whose words two devices would divide
            words = everywhere(random.key_data(leaf))
            return random.wrap_key_data(words, impl=random.key_impl(leaf))
        host = np.asarray(leaf)
        sharding = NamedSharding(mesh, place(mesh, host.shape))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def _constrained(tree: Tree, place: Callable[[Any, tuple[int, ...]], PartitionSpec]) -> Tree:
    def constrain(leaf: Array) -> Array:
        mesh = jax.typeof(leaf).sharding.mesh
        if mesh.empty:
            return leaf
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, place(mesh, leaf.shape)))

    return jax.tree.map(constrain, tree)


def is_sharded(tensor: Array) -> bool:
    """Whether each of several devices holds some rows of the tensor."""
    return jax.typeof(tensor).sharding.mesh.axis_names == (ROWS,)
