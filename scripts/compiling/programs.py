"""The programs of a run, compiled for devices that are not here."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from compiling.devices import Target, topology
from compiling.hlo import Loop, Program, Work
from jaxvae import convolution, evaluate, generate, parallel, sweep, train
from jaxvae.shared.config.choices import Shard
from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.errors import InputError

convolution.has_gpu = train.has_gpu = lambda: True  # for which these programs are compiled, though none is here

ProgramName = Literal["train", "evaluate", "sample", "sweep"]


class Arguments(NamedTuple):
    """A function of arrays with the shapes that it is compiled for."""

    lower: Callable[[], Any]
    """Lowers the program."""
    state: Any
    """The arguments that are the run's state."""
    data: Any
    """Those that are its images, labels and order."""
    depth: int
    """How many loops are around what is counted once: the step, or the block of images; 0 for the whole program."""
    each: str
    """What that is."""


@dataclass(frozen=True)
class Compiled:
    """A program as XLA compiled it."""

    program: ProgramName
    preset: str
    target: str
    devices: int
    each: str
    """What `work` is of, such as `step`."""
    work: Work
    waits: bool
    """Whether the loop over what is counted has a bound that only the device knows, which a GPU's host reads before
    each iteration."""
    state_bytes: int
    """Of the run's state on one device."""
    data_bytes: int
    """Of its images, labels and order on one device."""
    peak_bytes: int
    """That one device needs at most: arguments, results and what is between them."""
    temporary_bytes: int
    code_bytes: int
    """The size of the program, as a serialized executable has it; 0 where XLA doesn't tell."""
    seconds: float
    """Of compiling it."""
    text: str
    """The program itself."""


def build(
    program: ProgramName,
    preset: str,
    spec: Spec,
    target: Target,
    images: int,
    members: int,
    options: dict[str, str],
    shard: Shard | None = None,
) -> Compiled:
    """Compile one program of a configuration.

    Args:
        program: Which one.
        preset: The configuration's name, for the result.
        spec: The configuration.
        target: The devices.
        images: Number of training images; as many test images as a tenth of them are evaluated.
        members: Runs of a sweep; images that are sampled are 10,000.
        options: XLA's options, by name.
        shard: What the devices share beside batches.

    Returns:
        The compiled program.

    Raises:
        InputError: If JAX can't read what the compiler wrote.
    """
    chips = topology(target).devices[: target.count]
    axes = (parallel.WHOLE if shard is None else parallel.ROWS,)
    mesh = Mesh(mesh_utils.create_device_mesh((target.count,), list(chips)), axes, axis_types=(AxisType.Auto,))
    given = _PROGRAMS[program](resolved(spec, images), _Shapes(mesh), images, members)
    start = time.perf_counter()
    compiled = given.lower().compile(compiler_options=options or None)
    seconds = time.perf_counter() - start
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"The program {program} of {preset} for {target.name} was compiled into a form that this jaxlib can't read "
            f"({reason}); give another --batch-size or --devices."
        ) from None
    read, memory = Program(text), compiled.memory_analysis()
    loop = _counted(list(read.loops()), given.depth)
    return Compiled(
        program=program,
        preset=preset,
        target=target.name,
        devices=target.count,
        each=given.each,
        work=read.work(None if loop is None else loop.body),
        waits=target.device.platform == "cuda" and loop is not None and loop.trips is None,
        state_bytes=_bytes(given.state),
        data_bytes=_bytes(given.data),
        peak_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        seconds=seconds,
        text=text,
    )


def _counted(loops: list[Loop], depth: int) -> Loop | None:
    """The loop of which one iteration is counted: of those at a depth, the one of a whole block of steps, whose
    iterations are the most that are known. None for the whole program."""
    if not depth:
        return None
    fitting = [loop for loop in loops if loop.depth == depth]
    if not fitting:  # XLA unrolled it
        return _counted(loops, depth - 1)
    return max(fitting, key=lambda loop: loop.trips or 0)


class _Shapes:
    """Makes abstract arrays on a mesh of devices."""

    def __init__(self, mesh: Any):
        self.mesh = mesh

    def whole(self, tree: Any) -> Any:
        """Return arrays of which each device has all."""
        return self._placed(tree, lambda mesh, shape: PartitionSpec())

    def state(self, tree: Any) -> Any:
        """Return arrays that lie on the devices as `parallel.spread` places a state."""
        return self._placed(tree, parallel.rows_of)

    def _placed(self, tree: Any, place: Callable[[Any, tuple[int, ...]], PartitionSpec]) -> Any:
        def placed(leaf: Any) -> Any:
            sharding = NamedSharding(self.mesh, place(self.mesh, leaf.shape))
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(placed, tree)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of which each device has all."""
        return self.whole(jax.ShapeDtypeStruct(shape, dtype))

    def rows(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of which each device has its rows, as `parallel.placed` places them."""
        n = -(-shape[0] // self.mesh.size) * self.mesh.size
        sharding = NamedSharding(self.mesh, PartitionSpec(*self.mesh.axis_names))
        return jax.ShapeDtypeStruct((n, *shape[1:]), dtype, sharding=sharding)


def _state(spec: Spec, shapes: _Shapes) -> Any:
    plain = replace(spec, model=replace(spec.model, init="glorot")) if spec.model.init == "glorot-data" else spec
    return shapes.state(jax.eval_shape(lambda: train.init_state(plain)))


def _labels(spec: Spec, shapes: _Shapes, n: int) -> Any:
    return shapes.rows((n,), jnp.uint8) if spec.model.classes else None


def _training(spec: Spec, shapes: _Shapes, images: int, members: int) -> Arguments:
    steps, batch = spec.training.epoch_steps(images), min(spec.training.batch_size, images)
    state, last = _state(spec, shapes), shapes.array((), jnp.int32)
    data = shapes.rows((images, *spec.model.image), jnp.uint8), _labels(spec, shapes, images)
    order = shapes.array((steps, batch), jnp.int32)
    lower = lambda: train.train_epoch.lower(spec, state, *data, last, order, images, None)  # type: ignore[attr-defined]  # noqa: E731
    return Arguments(lower, state, (*data, order), 2, "step")


def _evaluating(spec: Spec, shapes: _Shapes, images: int, members: int) -> Arguments:
    state, n = _state(spec, shapes), max(images // 10, 1)
    data = (
        shapes.array((n, *spec.model.image), jnp.uint8),
        shapes.array((n,), jnp.uint8) if spec.model.classes else None,
    )
    key = shapes.whole(jax.eval_shape(lambda: jax.random.key(0)))
    params = state.params
    lower = lambda: evaluate._terms.lower(spec, params, data[0], key, data[1])  # noqa: E731
    return Arguments(lower, params, data, 1, "block of images")


def _sampling(spec: Spec, shapes: _Shapes, images: int, members: int) -> Arguments:
    params, n = _state(spec, shapes).params, 10_000
    key = shapes.whole(jax.eval_shape(lambda: jax.random.key(0)))
    labels = shapes.array((n,), jnp.int32) if spec.model.classes else None
    lower = lambda: generate._sampled.lower(spec, n, params, key, 1.0, labels)  # noqa: E731
    return Arguments(lower, params, labels, 0, f"call of {n:,} images")


def _sweeping(spec: Spec, shapes: _Shapes, images: int, members: int) -> Arguments:
    one = _state(spec, shapes)
    states, last = (one,) * members, shapes.array((), jnp.int32)
    data = shapes.array((images, *spec.model.image), jnp.uint8), _labels(spec, shapes, images)
    stored, epochs = spec.training.stored, len(spec.training.learning_rates())
    betas, rates = shapes.array((members,), stored), shapes.array((members, epochs), stored)
    lower = lambda: sweep._train.lower(spec, states, *data, last, betas, rates)  # noqa: E731
    return Arguments(lower, states, data, 2, f"step of {members} members")


_PROGRAMS: dict[ProgramName, Callable[[Spec, _Shapes, int, int], Arguments]] = {
    "train": _training,
    "evaluate": _evaluating,
    "sample": _sampling,
    "sweep": _sweeping,
}


def _bytes(tree: Any) -> int:
    """Bytes of abstract arrays on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total += 8
        else:
            shape = leaf.sharding.shard_shape(leaf.shape)
            total += jnp.dtype(leaf.dtype).itemsize * int(jnp.prod(jnp.asarray(shape, jnp.int32))) if shape else 4
    return total
