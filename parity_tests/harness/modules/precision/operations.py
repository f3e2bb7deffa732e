"""Compute some kinds of operations of a model in float32 instead of fewer bits, all others as they are run."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.extend import core
from jax.interpreters import partial_eval
from torch.utils._python_dispatch import TorchDispatchMode

from parity_tests.harness.hooks.compiled import compiled
from parity_tests.harness.modules.precision.networks import wide


class Kind(NamedTuple):
    """A kind of operation, by the names of what it is made of in both frameworks."""

    sentence: str
    """What is said of it, with `{low}` for the dtype, `{far}` for the framework that is further from float64 and
    `{near}` for the other."""
    keys: frozenset[str]
    """What shows that a place computes it."""
    parts: frozenset[str]
    """What belongs to it there, with the keys."""

    def has(self, name: str) -> bool:
        """Return whether an operation belongs to it."""
        return name in self.parts or self is EVERYTHING

    def among(self, names: frozenset[str]) -> bool:
        """Return whether operations of these names compute it."""
        return not self.keys.isdisjoint(names) or self is EVERYTHING


def _kind(sentence: str, keys: str, parts: str = "") -> Kind:
    return Kind(sentence, frozenset(keys.split()), frozenset(parts.split()) | frozenset(keys.split()))


_COMPUTED = "{} is computed in {{low}} in {{far}} and in float32 in {{near}}"
_ARITHMETIC = "mul sub add div neg max min maximum minimum rsub square integer_pow pow abs"
_SUMS = "reduce_sum sum mean reduce_max amax cumsum"
_PRODUCTS = "dot_general conv_general_dilated mm addmm bmm baddbmm convolution"
KINDS = (
    _kind(_COMPUTED.format("the softmax"), "exp exp2 _softmax _log_softmax logsumexp "
          "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math",
          f"sub div log max neg {_SUMS}"),
    _kind(_COMPUTED.format("the norm, with its statistics,"), "rsqrt sqrt var var_mean std native_layer_norm "
          "native_group_norm native_batch_norm _fused_rms_norm linalg_vector_norm norm",
          f"{_ARITHMETIC} reciprocal {_SUMS}"),
    _kind(_COMPUTED.format("the activation"), "erf erfc tanh logistic sigmoid gelu silu softplus mish elu log1p expm1 "
          "exp log leaky_relu hardswish", f"{_ARITHMETIC} select_n where"),
    _kind("a product and its bias are rounded apart in {far} and together in {near}", _PRODUCTS, "add add_"),
    _kind(_COMPUTED.format("a sum or a mean"), "reduce_sum sum mean cumsum", "div mul"),
    _kind("a sum is rounded to {low} in {far} and stays float32 in {near}", "add add_ sub", "mul"),
)  # fmt: skip
ALONE = KINDS[:3]
"""Those that are named wherever one framework alone computes them in float32."""
EVERYTHING = Kind("numbers are rounded to {low} on the way in {far} that are not in {near}", frozenset(), frozenset())

_MOVES = frozenset(
    [
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "squeeze",
        "expand_dims",
        "slice",
        "concatenate",
        "copy",
        "copy_p",
        "stop_gradient",
        "rev",
        "pad",
        "gather",
        "dynamic_slice",
        "split",
        "convert_element_type",
        "select_n",
    ]
)
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
          "remat": "jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr",
          "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}  # fmt: skip


class Program:
    """A JAX function as a list of operations, of which some can be computed otherwise."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self._closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        self.structure = jax.tree.structure(shapes)
        self._args = jax.tree.leaves(args)

    def names(self, wanted: Sequence[int] | None = None) -> frozenset[str]:
        """Return the names of the operations that give some of the outputs, or all."""
        jaxpr = self._closed.jaxpr
        wanted = range(len(jaxpr.outvars)) if wanted is None else wanted
        used = [i in wanted for i in range(len(jaxpr.outvars))]
        return frozenset(_names(partial_eval.dce_jaxpr(jaxpr, used)[0]))  # type: ignore[arg-type]

    def outputs(self, kind: Kind) -> list[Any]:
        """Return the outputs with the operations of a kind in float32."""
        closed = self._closed

        def evaluated(*args: Any) -> list[Any]:
            return _evaluated(closed.jaxpr, closed.consts, args, kind)

        return compiled(evaluated)(*self._args)


def _names(jaxpr: Any) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        if (inner := _inner(eqn)) is None:
            yield eqn.primitive.name
        else:
            yield from _names(inner.jaxpr)


def _is_loop(eqn: Any) -> bool:
    """Return whether an operation is a loop or a branch, which is computed as it is run."""
    held = [part for value in eqn.params.values() for part in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(part, core.Jaxpr | core.ClosedJaxpr) for part in held)


def _inner(eqn: Any) -> Any:
    """Return what an operation calls, if it is nothing but a call."""
    held = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
    return held if held is None or hasattr(held, "consts") else core.ClosedJaxpr(held, ())


def _evaluated(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], kind: Kind) -> list[Any]:
    """Evaluate operations one by one. A number in float32 whose variable has fewer bits was not rounded yet; it is as
    another operation is given it."""
    held: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    chosen: set[Any] = set()
    """The variables that the operations of the kind give, and what only moves their numbers."""

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else held[atom]

    for eqn in jaxpr.eqns:
        name, values = eqn.primitive.name, [read(atom) for atom in eqn.invars]
        within = any(not isinstance(atom, core.Literal) and atom in chosen for atom in eqn.invars)
        if ((name in _MOVES and within) or kind.has(name)) and not _is_loop(eqn):
            chosen.update(eqn.outvars)
        if (inner := _inner(eqn)) is not None:
            results = _evaluated(inner.jaxpr, inner.consts, values, kind)
        else:
            results = _computed(eqn, values, kind if eqn.outvars and eqn.outvars[0] in chosen else None)
        held.update(zip(eqn.outvars, results, strict=True))
    return [_rounded(read(atom), atom) for atom in jaxpr.outvars]


def _computed(eqn: Any, values: list[Any], chosen: Kind | None) -> list[Any]:
    if chosen is None:
        values = [_rounded(value, atom) for value, atom in zip(values, eqn.invars, strict=True)]
        return _bound(eqn, values, eqn.params)
    low = [atom.aval.dtype for atom in (*eqn.outvars, *eqn.invars) if _is_low(atom.aval.dtype)]
    if not low:
        return _bound(eqn, values, eqn.params)
    values = [jnp.asarray(value, jnp.float32) if _is_low(jnp.result_type(value)) else value for value in values]
    params = dict(eqn.params)
    if params.get("new_dtype") is not None and _is_low(params["new_dtype"]):
        kept = chosen is EVERYTHING or _is_low(eqn.invars[0].aval.dtype)  # a norm in float32 ends in being rounded
        return [jnp.asarray(values[0], jnp.float32)] if kept else _bound(eqn, values, params)
    if params.get("preferred_element_type") is not None:
        params["preferred_element_type"] = np.dtype(np.float32)
    return _bound(eqn, values, params)


def _bound(eqn: Any, values: list[Any], params: dict[str, Any]) -> list[Any]:
    given = eqn.primitive.get_bind_params(params)
    functions, params = given if isinstance(given, tuple) else ((), given)  # before JAX 0.10 the functions stood apart
    result = eqn.primitive.bind(*functions, *values, **params)
    return list(result) if eqn.primitive.multiple_results else [result]


def _is_low(dtype: Any) -> bool:
    return dtype == jnp.bfloat16 or dtype == np.float16


def _is_wide(value: Any, atom: Any) -> bool:
    return _is_low(atom.aval.dtype) and jnp.result_type(value) == jnp.float32


def _rounded(value: Any, atom: Any) -> Any:
    return jnp.asarray(value, atom.aval.dtype) if _is_wide(value, atom) else value


class Names(TorchDispatchMode):
    """Notes the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class InSingle(TorchDispatchMode):
    """Computes torch's operations of one kind in float32, without gradients."""

    def __init__(self, kind: Kind, low: torch.dtype):
        super().__init__()
        self._kind, self._low = kind, low

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        unrounded = any(_unrounded(leaf) for leaf in jax.tree.leaves((args, kwargs)))
        if name.endswith("_") and args and _unrounded(args[0]):
            return func(args[0], *jax.tree.map(self._rounded, args[1:]), **kwargs)  # it has to change this tensor
        as_run, keywords = jax.tree.map(self._rounded, (args, kwargs))
        plain = func(*as_run, **keywords)
        if not (self._kind.has(name) or (name in _TORCH_MOVES and unrounded)):
            return plain
        if not any(isinstance(leaf, torch.Tensor) and leaf.dtype == self._low for leaf in jax.tree.leaves(plain)):
            return plain
        if name == "_to_copy":
            return args[0] if unrounded else plain
        args, kwargs = jax.tree.map(self._widened, (args, kwargs))
        if kwargs.get("dtype") == self._low:
            kwargs["dtype"] = torch.float32
        return jax.tree.map(self._marked, func(*args, **kwargs), plain)

    def _marked(self, leaf: Any, plain: Any) -> Any:
        if isinstance(plain, torch.Tensor) and plain.dtype == self._low and leaf.dtype == torch.float32:
            leaf._unrounded = True
        return leaf

    def _widened(self, leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype == self._low else leaf

    def _rounded(self, leaf: Any) -> Any:
        return rounded(leaf, self._low)


_TORCH_MOVES = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "expand",
        "permute",
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "slice",
        "select",
        "cat",
        "stack",
        "clone",
        "split",
        "split_with_sizes",
        "alias",
        "_to_copy",
        "contiguous",
        "detach",
        "masked_fill",
        "where",
    ]
)


def rounded(leaf: Any, low: torch.dtype) -> Any:
    """Round a tensor that an operation of the kind gave, as whatever is given it does."""
    return leaf.to(low) if _unrounded(leaf) else leaf


def _unrounded(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and getattr(leaf, "_unrounded", False)


class Infinite(NamedTuple):
    """The first operation that gives a number that is not finite where it is given none."""

    operation: str
    size: float
    """The size of the largest number that it gives in float64; not finite where it has none there either."""


@contextlib.contextmanager
def first_infinite(found: list[Infinite]) -> Iterator[None]:
    """Find torch's first operation within the context that gives an infinite number or NaN of finite ones."""

    class Search(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            given, given_out = ([x for x in jax.tree.leaves(tree) if _inexact(x)] for tree in ((args, kwargs), result))
            if not found and given_out and not _finite(given_out) and _finite(given):
                doubled = jax.tree.map(lambda x: x.double() if _inexact(x) else x, (args, dict(kwargs or {})))
                size = np.inf
                with contextlib.suppress(Exception):
                    again = [x for x in jax.tree.leaves(func(*doubled[0], **doubled[1])) if _inexact(x)]
                    size = max(float(x.abs().max()) for x in again)
                found.append(Infinite(func.overloadpacket.__name__, size))
            return result

    with Search():
        yield


def _inexact(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel() > 0


def _finite(tensors: Sequence[torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in tensors)


def first_infinite_in_jax(function: Callable[..., Any], *args: Any) -> Infinite | None:
    """Find JAX's first operation that gives an infinite number or NaN of finite ones."""
    closed = jax.make_jaxpr(function)(*args)
    found: list[Infinite] = []
    _searched(closed.jaxpr, closed.consts, jax.tree.leaves(args), found)
    return found[0] if found else None


def _searched(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], found: list[Infinite]) -> list[Any]:
    held: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        values = [atom.val if isinstance(atom, core.Literal) else held[atom] for atom in eqn.invars]
        if (inner := _inner(eqn)) is not None:
            results = _searched(inner.jaxpr, inner.consts, values, found)
        else:
            results = _bound(eqn, values, eqn.params)
            if not found and not _all_finite(results) and _all_finite(values):
                found.append(Infinite(name, _size_in_double(eqn, values)))
        held.update(zip(eqn.outvars, results, strict=True))
    return [atom.val if isinstance(atom, core.Literal) else held[atom] for atom in jaxpr.outvars]


def _all_finite(values: Sequence[Any]) -> bool:
    return all(
        bool(np.isfinite(wide(np.asarray(value))).all())
        for value in values
        if jnp.issubdtype(jnp.result_type(value), jnp.floating)
    )


def _size_in_double(eqn: Any, values: Sequence[Any]) -> float:
    with contextlib.suppress(Exception), jax.enable_x64(True):
        doubled = [
            jnp.asarray(np.asarray(v).astype(np.float64)) if jnp.issubdtype(jnp.result_type(v), jnp.floating) else v
            for v in values
        ]
        params = dict(eqn.params)
        for name in ("new_dtype", "preferred_element_type"):
            if params.get(name) is not None and jnp.issubdtype(params[name], jnp.floating):
                params[name] = np.dtype(np.float64)
        return max(float(np.abs(np.asarray(result)).max()) for result in _bound(eqn, doubled, params))
    return np.inf
