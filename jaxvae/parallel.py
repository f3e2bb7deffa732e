"""One batch shared by several devices, of one process or of many: each computes its rows, and XLA adds up the rest.

No code of the training depends on the sharing: arrays on a mesh of devices carry it in their types, jit compiles for
it, and `split` and `whole` only fix what XLA could choose otherwise."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array, lax, random
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvae.shared.data.streaming import Mapped
from jaxvae.shared.errors import InputError

Tree = TypeVar("Tree")

_JOINING = 300  # seconds within which all processes have to join
_SILENCE = 60  # seconds after which JAX aborts if a process is silent; with --coordinator, the watch says so before
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


def share(all_devices: Sequence[Any], devices: int | None) -> None:
    """Share all later batches among the first `devices` of each process's devices. Without a number that is one device,
    or all of them if there are several processes. Raises InputError if a process has fewer."""
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
    mesh = jax.make_mesh((len(chosen),), ("batch",), axis_types=(AxisType.Auto,), devices=chosen)
    _mesh = mesh if len(chosen) > 1 else None


def shares() -> int:
    """Return how many devices share a batch."""
    return 1 if _mesh is None else _mesh.size


def placed(images: np.ndarray | Mapped) -> Array:
    """Images or labels `[n, ...]` on the devices that share: equal parts of the first axis, filled up by repeating."""
    if _mesh is None:
        return jax.numpy.asarray(np.asarray(images))
    rows = -(-len(images) // _mesh.size) * _mesh.size
    sharding = NamedSharding(_mesh, PartitionSpec("batch"))
    # Each device asks for its own rows: nothing but those is ever copied.
    part = lambda index: np.asarray(images[np.arange(*index[0].indices(rows)) % len(images)])  # noqa: E731
    return jax.make_array_from_callback((rows, *images.shape[1:]), sharding, part)


def everywhere(state: Tree) -> Tree:
    """The state, which every process has, on each of the devices that share."""
    if _mesh is None:
        return state
    sharding = NamedSharding(_mesh, PartitionSpec())

    def place(leaf: Any) -> Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return random.wrap_key_data(place(random.key_data(leaf)), impl=random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, state)


def local(state: Tree) -> Tree:
    """The state on this process's first device alone, for what not all processes do."""
    return state if _mesh is None else jax.tree.map(lambda leaf: leaf.addressable_data(0), state)


def split(x: Array, axis: int = 0) -> Array:
    """A batch whose rows, along its axis `axis`, are shared. Within jit."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*[None] * axis, "batch")))


def whole(state: Tree) -> Tree:
    """The state, each device with all of it, so that a step's result has the sharding of what it was given. Within
    jit."""

    def keep(leaf: Array) -> Array:
        mesh = jax.typeof(leaf).sharding.mesh
        return leaf if mesh.empty else lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(keep, state)
