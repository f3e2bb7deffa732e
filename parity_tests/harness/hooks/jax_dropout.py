"""Let the dropout of Flax take given masks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core.scope import Scope
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType

from parity_tests.harness.hooks.linen_layers import trials_within
from parity_tests.harness.hooks.masks import Masks

_ROUNDED = 1e-6  # rates that differ by less are one
_Counts: TypeAlias = list[tuple[Any, dict[Any, Any]]]
"""Counters of Linen's streams, and what they were before they counted."""


@contextlib.contextmanager
def shared(masks: Masks | None) -> Iterator[None]:
    """Take these masks within the context; those of the model's own keys if None."""
    if masks is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        draws = _draws(masks)
        patches = {
            "bernoulli": _bernoulli(draws, jax.random.bernoulli),
            "uniform": _uniform(masks, draws, jax.random.uniform),
        }
        for name, draw in patches.items():
            stack.enter_context(mock.patch.object(jax.random, name, draw))
            stack.enter_context(mock.patch.object(nnx.RngStream, name, _of_stream(draw)))
        with contextlib.suppress(ImportError, AttributeError):  # JAX has no public name for it
            from jax._src import ad_checkpoint

            trace = _traced_again(ad_checkpoint._trace_to_jaxpr)
            stack.enter_context(mock.patch.object(ad_checkpoint, "_trace_to_jaxpr", trace))
        plain_jit = jax.disable_jit
        stack.enter_context(mock.patch.object(jax, "disable_jit", _counted(masks, jax.disable_jit)))
        stack.enter_context(plain_jit())  # each turn of a loop, and each call, is to take a mask of its own
        counted: list[_Counts] = []
        stack.enter_context(mock.patch.object(Scope, "make_rng", _make_rng(counted, Scope.make_rng)))
        stack.enter_context(mock.patch.object(jax.lax, "scan", _scan(masks, counted, plain_jit, jax.lax.scan)))
        stack.enter_context(trials_within(masks.look))
        stack.callback(setattr, Masks, "active", Masks.active)
        Masks.active = masks
        yield


def _traced_again(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The trace of a function under `jax.checkpoint`, which JAX would take from an earlier call, with its masks."""
    return lambda call, *more: plain(lambda *args, **options: call(*args, **options), *more)


def _make_rng(counted: list[_Counts], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Linen's streams, which count their calls: the counts before each call are kept for every scan around it."""

    def make_rng(scope: Scope, *given: Any, **more: Any) -> Any:
        for counts in counted:
            counts.append((scope.rng_counters, {**scope.rng_counters}))
        return plain(scope, *given, **more)

    return make_rng


def _counted(masks: Masks, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The context in which nothing is compiled, in which layers are recorded: no loop is compiled there either."""

    @contextlib.contextmanager
    def disable_jit(disable: bool = True) -> Iterator[None]:
        masks.recording += disable
        try:
            with plain(disable):
                yield
        finally:
            masks.recording -= disable

    return disable_jit


def _scan(
    masks: Masks, counted: list[_Counts], disable_jit: Callable[[bool], Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
    """A scan in which Linen's streams count as in one that is compiled, whose body is called once for all turns: a
    stream that is not split gives each turn the same key."""

    def scan(f: Any, *given: Any, **more: Any) -> Any:
        if not masks.recording and not masks.looking:
            with masks.look(), disable_jit(False), contextlib.suppress(Exception):
                masks.draws = 0
                jax.eval_shape(lambda: plain(f, *given, **more))
                if not masks.draws:  # it is compiled, since its turns need no masks
                    return plain(f, *given, **more)
        own: _Counts = []

        def turn(*args: Any) -> Any:
            while own:
                counters, before = own.pop()
                counters.update(before)
            return f(*args)

        counted.append(own)
        try:
            return plain(turn, *given, **more)
        finally:
            counted.pop()

    return scan


_Draws: TypeAlias = Callable[..., Any]
"""Draws a mask `draws(key, p, shape)` as uniform numbers, of which those below p are kept; None if it is none that
torch's dropout takes too."""


def _draws(masks: Masks) -> _Draws:
    def draws(key: Any, p: Any, shape: tuple[int, ...]) -> Any:
        masks.draws += 1
        keys, turn = _keys(key)
        rows = (len(keys), *shape)  # of examples under `vmap`, which torch drops in one call
        if masks.key is not None:
            numbers = [masks.in_jax(one, shape) for one in keys]
            return jnp.asarray(numbers)[0 if turn is None else turn]
        k = None if turn is None else masks.partner(rows, trial=True)
        in_one = k is not None
        if k is None and (k := masks.partner(shape, len(keys))) is None:
            return None
        masks.reused |= len({*keys}) < len(keys)
        in_torch = masks.drawn[k].rate
        rate = _rate(p, in_torch)
        of_dropped = abs(rate - in_torch) > _ROUNDED and abs(1.0 - rate - in_torch) <= _ROUNDED
        if of_dropped:
            rate = in_torch
        elif abs(rate - in_torch) > _ROUNDED:
            masks.rates.append((round(rate, 6), in_torch))
        if in_one:
            numbers = masks.numbers(k, rows, rate)
        else:
            numbers = [masks.numbers(masks.first(one, shape, i), shape, rate) for i, one in enumerate(keys, k)]
        taken = jnp.asarray(numbers)[0 if turn is None else turn]
        return 1.0 - taken if of_dropped else taken  # the draw says what is dropped, where Flax's says what is kept

    return draws


def _bernoulli(draws: _Draws, plain: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's draw, which every dropout of Flax's is made of."""

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **more: Any) -> Any:
        shape = tuple(np.shape(p)) if shape is None else tuple(shape)
        numbers = _placed(draws(key, p, shape), **more)
        if numbers is None:
            return plain(key, p, shape, **more)
        return numbers < (p if isinstance(p, float) else jnp.asarray(p))

    return bernoulli


def _placed(numbers: Any, *, out_sharding: Any = None, **_: Any) -> Any:
    """Return numbers where the draw is to put them on a mesh whose axes are explicit."""
    spec = getattr(out_sharding, "spec", out_sharding)
    mesh = getattr(out_sharding, "mesh", None) or jax.sharding.get_abstract_mesh()
    if numbers is None or spec is None or AxisType.Explicit not in mesh.axis_types:
        return numbers
    return jax.device_put(numbers, spec if isinstance(mesh, AbstractMesh) else out_sharding)


def _of_stream(draw: Callable[..., Any]) -> Callable[..., Any]:
    """A draw as a method of a stream of keys."""
    return lambda stream, *given, **more: draw(stream(), *given, **more)


class _Uniform:
    """Uniform numbers, perhaps with one number added. The first comparison that makes a mask of them says what its
    probability is, and they become numbers that give the shared mask; any other operation takes them as an array."""

    def __init__(self, draws: Callable[[float], Any], plain: Callable[[], Any], added: float = 0.0):
        self._draws, self._plain, self._added, self._array = draws, plain, added, None

    def _settled(self, p: Any, below: bool) -> Any:
        """Return the numbers, of which those below p, or the largest of that share, are kept in the shared mask."""
        if self._array is None:
            known = np.ndim(p) == 0 and not isinstance(p, Tracer) and 0.0 < p < 1.0
            numbers, plain = self._draws(float(p)) if known else None, self._plain()
            if numbers is not None:
                plain = (numbers if below else 1.0 - numbers).astype(plain.dtype)
            self._array = plain + self._added if self._added else plain
        return self._array

    def __jax_array__(self) -> Any:
        if Masks.active is not None and self._array is None and not self._added:
            Masks.active.taken = True
        return self._settled(self._added, below=False)  # floor may keep those that reach 1

    def __lt__(self, p: Any) -> Any:
        return self._settled(np.nan if self._added else p, below=True) < p

    def __le__(self, p: Any) -> Any:
        return self._settled(np.nan if self._added else p, below=True) <= p

    def __gt__(self, rate: Any) -> Any:
        return self._settled(np.nan if self._added else 1.0 - rate, below=False) > rate

    def __ge__(self, rate: Any) -> Any:
        return self._settled(np.nan if self._added else 1.0 - rate, below=False) >= rate

    def __add__(self, p: Any) -> Any:
        if isinstance(p, float) and not self._added and self._array is None:
            return _Uniform(self._draws, self._plain, p)
        return self.__jax_array__() + p

    __radd__ = __add__

    def __getitem__(self, at: Any) -> Any:
        return self._rearranged(lambda x: x[at])

    def reshape(self, *shape: Any) -> Any:
        return self._rearranged(lambda x: x.reshape(*shape))

    def _rearranged(self, change: Callable[[Any], Any]) -> Any:
        """Return the same numbers in another shape; of some of them an array."""
        size = self._plain().size
        if self._added or self._array is not None or change(self._plain()).size != size:
            return change(self.__jax_array__())
        draws = lambda p: None if (numbers := self._draws(p)) is None else change(numbers)  # noqa: E731
        return _Uniform(draws, lambda: change(self._plain()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__jax_array__(), name)


def _as_an_array(name: str) -> Callable[..., Any]:
    return lambda self, *given: getattr(self.__jax_array__(), name)(*given)


for _name in ("sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(_Uniform, f"__{_name}__", _as_an_array(f"__{_name}__"))
    setattr(_Uniform, f"__r{_name}__", _as_an_array(f"__r{_name}__"))
for _name in ("neg", "abs", "len", "iter", "float", "array", "eq", "ne"):
    setattr(_Uniform, f"__{_name}__", _as_an_array(f"__{_name}__"))


jax.tree_util.register_pytree_node(_Uniform, lambda u: ((u.__jax_array__(),), None), lambda _, arrays: arrays[0])


def _uniform(masks: Masks, draws: _Draws, plain: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's draw of uniform numbers."""

    def uniform(key: Any, shape: Any = (), *given: Any, **more: Any) -> Any:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        bounds = [*given[1:], *(more.get(name, at) for name, at in (("minval", 0.0), ("maxval", 1.0)))][:2]
        none_left = masks.key is None and masks.calls["jax"] >= len(masks.drawn)
        if none_left or masks.arrays or bounds != [0.0, 1.0]:
            return plain(key, shape, *given, **more)
        return _Uniform(lambda p: _placed(draws(key, p, shape), **more), lambda: plain(key, shape, *given, **more))

    return uniform


def _keys(key: Any) -> tuple[list[bytes | None], Any]:
    """Return the numbers of a key that can be asked for, of each under `vmap`, and there also which of them it is."""
    data: Any = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    if not isinstance(data, Tracer):
        return [np.asarray(data).tobytes()], None
    every = getattr(data, "val", None) if type(data).__name__ == "BatchTracer" else None
    if every is None or isinstance(every, Tracer):
        return [None], None
    every = jnp.moveaxis(every, getattr(data, "batch_dim"), 0)  # noqa: B009
    return [np.asarray(one).tobytes() for one in every], jnp.argmax((every == data).all(-1))


def _rate(p: Any, otherwise: float) -> float:
    """Return the rate of a mask that is kept with a probability, if it is one number that is known."""
    try:
        return 1.0 - float(p)
    except TypeError:
        return otherwise
