"""What a recording asks of a JAX model; no other framework is imported."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks import jax_dropout
from parity_tests.harness.hooks.compiled import UNFUSED, compiled
from parity_tests.harness.hooks.jax_layers import reached
from parity_tests.harness.hooks.jax_settings import jax_settings
from parity_tests.harness.hooks.jax_slopes import mixture
from parity_tests.harness.hooks.masks import Masks
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.adapters import Network, flatten, network, replaced
from parity_tests.harness.modules.common import placement
from parity_tests.harness.modules.common.slopes import slope_errors
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.recordings import outputs
from parity_tests.harness.recordings.arguments import Call
from parity_tests.harness.recordings.arrays import Arrays, cast
from parity_tests.harness.recordings.model import Change, Numbers, Options, noisy, parts_of

_SAME = 1e-6
_MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}


class JaxModel:
    """A JAX model with its inputs, at the numbers that are recorded.

    Args:
        model: A Flax NNX module, a Linen module or a function `f(params, *inputs)`.
        params: See `compare_modules`.
        call: Its arguments.
        options: How it is recorded.
        inputs: The arrays of the call as they were given, which may lie on several devices.
    """

    framework = "jax"

    def __init__(self, model: Any, params: Any, call: Call, options: Options, inputs: Any = ()):
        self._model, self._given, self._call, self._options = model, params, call, options
        self._placed = placement.shardings(model, params)
        self._places = placement.of_inputs(inputs, len(call.arrays))
        self._nets: dict[str, tuple[Network, dict[str, Callable[..., Any]]]] = {}
        self._arrangement: Any = None
        self._weights: Arrays | None = None
        self._unfused: bool | None = None
        self._reached: tuple[str, ...] | None = None
        self._masks = Masks(options.key) if options.share_dropout else None
        with self._settings(options.dtype):
            net, _ = self._net(options.dtype)
            self._weights = flatten(net.params) | flatten(net.state)

    @contextlib.contextmanager
    def _settings(self, dtype: str) -> Iterator[None]:
        with jax_settings(dtype), jax_dropout.shared(self._masks):
            yield

    def weights(self) -> Arrays:
        assert self._weights is not None
        return self._weights

    def outline(self, calls: bool) -> dict[str, Any]:
        dtype = self._options.dtype
        with self._settings(dtype):
            net, _ = self._net(dtype)
            order: list[str] = []
            if calls and net.watch is not None:
                params, state, inputs = self._at(net, dtype, None)
                order = list(net.watch(params, state, *inputs))
        return {"framework": "jax", "state": _state(net), "calls": order}

    def arrange(self, arrangement: Any) -> None:
        """Take the arrays as a torch module has them, see `mapping.arrange`; needs torch."""
        if not arrangement.links and not arrangement.stacks:
            return
        self._arrangement, self._weights = arrangement, None
        self._nets.clear()
        with self._settings(self._options.dtype):
            net, _ = self._net(self._options.dtype)
            self._weights = flatten(net.params) | flatten(net.state)

    def fill(self, weights: Arrays) -> None:
        self._weights = self.weights() | weights
        for dtype, (net, programs) in self._nets.items():
            with self._settings(dtype):
                self._nets[dtype] = self._holding(net, dtype), programs

    def about(self) -> dict[str, Any]:
        with self._settings(self._options.dtype):
            net, _ = self._net(self._options.dtype)
            flags = {
                "matmul precision": "highest",
                "x64": bool(jax.config.read("jax_enable_x64")),
                "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            }
            used = {d for tree in (net.params, net.state) for leaf in jax.tree.leaves(tree) for d in leaf.devices()}
            places = [*self._placed.values(), *(place for place in self._places if place is not None)]
            used |= {device for place in places for device in place.device_set}
        versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
        kind = jax.devices()[0].device_kind
        return {
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                **versions,
                "optax": optax.__version__,
            },
            "devices": [f"{len(used)} x {kind}" if len(used) > 1 else kind],
            "flags": flags,
            "state": _state(net),
            "masks": self._masks and [list(shape) for shape in self._masks.alone],
            "function": net.watch is None,
        }

    def numbers(
        self, dtype: str, change: Change | None = None, within: Change | None = None, layers: bool = True
    ) -> Numbers:
        with self._settings(dtype):
            net, programs = self._net(dtype)
            params, state, inputs = self._at(net, dtype, change)
            options, arrays = self._options, {}
            wanted = net.watch is not None and (layers or within is not None)
            calls = net.watch(params, state, *inputs) if net.watch is not None and wanted else {}
            taps: Any = None
            if within is not None:
                if net.tapped is None:
                    raise NotImplementedError("a function has no layers")
                taps = _taps(calls, within)
            value = gradients = None
            slopes: Any = {}
            if options.loss is None:
                with raised_by("The JAX model"):
                    result, after = programs["call"](params, state, inputs, taps)
            else:
                value, result, after, gradients, slopes = self._gradients(programs, params, state, inputs, taps)
                slopes = slopes if within is not None else self._slopes(net, programs, (params, state, inputs), calls)
            arrays |= {f"outputs/{place}": array for place, array in self._outputs(result).items()}
            if within is None:
                arrays |= {f"state/{path}": array for path, array in flatten(after).items()}
                for label, one in calls.items():
                    arrays[f"layers/{label}/input"], arrays[f"layers/{label}/output"] = one
            for label, pair in slopes.items():
                named = zip((f"backward/{label}/input", f"backward/{label}/output"), pair, strict=True)
                arrays |= {name: _named(np.asarray(slope)) for name, slope in named if slope is not None}
            if value is not None:
                arrays["loss/the loss"] = value
                arrays |= {f"gradients/{path}": _named(gradient) for path, gradient in flatten(gradients).items()}
                if options.optimizer is not None:
                    arrays |= self._steps(programs, (params, state, inputs, taps), gradients, dtype, change)
        return Numbers(arrays, outputs.to_json(result), list(calls))

    def slopes(self, dtype: str) -> Mapping[str, np.ndarray]:
        with self._settings(dtype):
            net, programs = self._net(dtype)
            of_params, of_state, of_inputs = programs["slopes"](*self._at(net, dtype, None))
            slopes = {f"weights/{path}": slope for path, slope in (flatten(of_params) | flatten(of_state)).items()}
            named = zip(self._call.names, of_inputs, strict=True)
            slopes |= {f"inputs/{name}": np.asarray(slope) for name, slope in named}
            return {name: slope for name, slope in slopes.items() if slope.dtype.kind in "fc"}

    def loss_slopes(self, dtype: str) -> Arrays:
        assert self._options.loss is not None
        with self._settings(dtype):
            net, programs = self._net(dtype)
            result, _ = programs["call"](*self._at(net, dtype, None), None)
            slopes = outputs.arrays(compiled(jax.grad(self._options.loss, allow_int=True))(result))
            return {place: _named(slope) for place, slope in slopes.items() if slope.dtype.kind in "fc"}

    def outputs(self, changed: Arrays, dtype: str) -> Arrays:
        with self._settings(dtype):
            net, programs = self._net(dtype)
            params, state, inputs = self._at(net, dtype, None)
            weights, given = parts_of(changed, "weights"), parts_of(changed, "inputs")
            inputs = [
                jnp.asarray(given.get(name, x), x.dtype) for name, x in zip(self._call.names, inputs, strict=True)
            ]
            result, _ = programs["call"](replaced(params, weights), replaced(state, weights), inputs, None)
            return self._outputs(result)

    def _net(self, dtype: str) -> tuple[Network, dict[str, Callable[..., Any]]]:
        """Return the network in a precision, and its compiled programs."""
        if dtype not in self._nets:
            options = self._options
            method = options.method or "__call__"
            net = network(self._model, self._given, dtype, options.train, self._call.form, method)
            if self._arrangement is not None:
                from parity_tests.harness.modules.joining.rearranged import rearranged

                net = rearranged(net, self._arrangement)
            self._nets[dtype] = self._holding(net, dtype), _programs(net, options)
        return self._nets[dtype]

    def _holding(self, net: Network, dtype: str) -> Network:
        """Return the network with the weights that are recorded."""
        if self._weights is None:
            return net
        held = {path: cast(array, dtype) for path, array in self._weights.items()}
        return net._replace(params=replaced(net.params, held), state=replaced(net.state, held))

    def _at(self, net: Network, dtype: str, change: Change | None) -> tuple[Any, Any, list[jax.Array]]:
        """Return the parameters, the state and the inputs in this precision, moved, on the devices they were on."""

        def moved(leaf: Any) -> Any:
            if change is None or not jnp.issubdtype(leaf.dtype, jnp.inexact):
                return leaf
            return jnp.asarray(change(np.asarray(leaf)))

        params, state = jax.tree.map(moved, net.params), jax.tree.map(moved, net.state)
        given = [cast(x, dtype) for x in self._call.arrays]
        inputs = [jnp.asarray(x if change is None else change(x)) for x in given]
        params, state = (placement.put(tree, self._placed) for tree in (params, state))
        return params, state, placement.put_inputs(inputs, self._places)

    def _gradients(
        self, programs: Any, params: Any, state: Any, inputs: Any, taps: Any
    ) -> tuple[np.ndarray, Any, Any, Any, Any]:
        """Return the loss, the outputs, the state after the call, and the gradients of the parameters and of taps."""
        with raised_by("The JAX model, its loss or their gradient"):
            if self._unfused is None:
                self._unfused = self._parts(programs, (params, state, inputs, taps))
            fusion = "unfused" if self._unfused else "gradient"
            program = programs[fusion if taps is None else f"{fusion} of taps"]
            (value, (result, after)), gradients = program(params, state, inputs, taps)
        gradients, slopes = (gradients, {}) if taps is None else gradients
        return np.asarray(value), result, after, gradients, slopes

    def _slopes(self, net: Network, programs: Any, at: tuple[Any, Any, Any], calls: Mapping[str, LayerCall]) -> Any:
        """Return the gradients of the inputs and outputs of the calls that can be reached."""
        if net.tapped is None or not calls:
            return {}
        if self._reached is None:
            self._reached = ()
            with contextlib.suppress(Exception):  # a model that can be called only as a whole
                self._reached = tuple(reached(net.tapped, calls, *at[:2], *at[2]))
        taps = _taps({label: calls[label] for label in self._reached if label in calls}, None)
        if taps:
            with contextlib.suppress(Exception):
                return self._gradients(programs, *at, taps)[-1]
            self._reached = ()
        return {}

    def _parts(self, programs: Any, at: tuple[Any, Any, Any, Any]) -> bool:
        """Return whether the gradient is right only without XLA's fusion, which may compute a number twice, rounded
        otherwise, so that a gradient that looks which of some numbers is their maximum finds none. Where the two
        differ, the slope of the loss in a drawn direction tells which is right."""
        with contextlib.suppress(Exception):  # a model that XLA compiles only fused
            (value, _), gradients = programs["gradient"](*at)
            (again, _), others = programs["unfused"](*at)
            pairs = zip(flatten(gradients).values(), flatten(others).values(), strict=True)
            apart = max((distance(one, other) for one, other in pairs if one.dtype.kind in "fc"), default=0.0)
            if not distance(np.asarray(again), np.asarray(value)) < _SAME < apart:
                return False
            params, *rest = at
            values = lambda moved: float(programs["gradient"](moved, *rest)[0][0])  # noqa: E731
            fused, unfused = slope_errors(values, params, (gradients, others))
            return unfused * 10 < fused
        return False

    def _steps(
        self, programs: Any, at: tuple[Any, Any, Any, Any], gradients: Any, dtype: str, change: Change | None
    ) -> Arrays:
        """Take the optimizer's steps, each from the model's own gradients: weights and moments after each step."""
        params, state, inputs, taps = at
        options, arrays = self._options, {}
        net, _ = self._net(dtype)
        held = options.optimizer.init(net.own(params))
        paths = flatten(params).keys()
        for step in range(1, options.steps + 1):
            if step > 1:
                gradients = self._gradients(programs, params, state, inputs, taps)[3]
            if change is not None:
                gradients = jax.tree.map(lambda g: jnp.asarray(noisy(np.asarray(g), change, dtype)), gradients)
            with raised_by("The optax optimizer"):
                params, held = programs["update"](gradients, held, params)
            arrays |= {f"steps/{step}/weights/{path}": array for path, array in flatten(params).items()}
            arrays |= {f"steps/{step}/gradients/{path}": _named(g) for path, g in flatten(gradients).items()}
            for moment, tree in _moments(held):
                moments = flatten(net.rearranged(tree))
                if moments.keys() == paths:  # optax may mask some
                    arrays |= {f"steps/{step}/{moment}/{path}": array for path, array in moments.items()}
        return arrays

    def _outputs(self, result: Any) -> Arrays:
        try:
            return outputs.arrays(result)
        except TypeError as error:
            raise InputError(f"outputs: {error}: make the model return those.") from None


def _programs(net: Network, options: Options) -> dict[str, Callable[..., Any]]:
    def call(params: Any, state: Any, inputs: Any, taps: Any) -> tuple[Any, Any]:
        if taps is None:
            return net.apply(params, state, *inputs)
        assert net.tapped is not None
        return net.tapped(taps, params, state, *inputs), state

    def loss(params: Any, state: Any, inputs: Any, taps: Any) -> tuple[jax.Array, Any]:
        assert options.loss is not None
        result, after = call(params, state, inputs, taps)
        value = options.loss(result)
        if jnp.shape(value):
            raise InputError(f"loss: expected one number, found the shape {list(jnp.shape(value))}: take its mean.")
        return value, (result, after)

    def mixed(params: Any, state: Any, inputs: Any) -> jax.Array:
        return mixture(net.apply(params, state, *inputs)[0])

    def update(gradients: Any, held: Any, params: Any) -> tuple[Any, Any]:
        own = net.own(params)
        updates, held = options.optimizer.update(net.own(gradients), held, own)
        return net.rearranged(optax.apply_updates(own, updates)), held

    gradient = jax.value_and_grad(loss, has_aux=True, allow_int=True)
    of_taps = jax.value_and_grad(loss, (0, 3), has_aux=True, allow_int=True)
    return {
        "call": compiled(call),
        "gradient": compiled(gradient),
        "unfused": compiled(gradient, UNFUSED),
        "gradient of taps": compiled(of_taps),
        "unfused of taps": compiled(of_taps, UNFUSED),
        "slopes": compiled(jax.grad(mixed, (0, 1, 2), allow_int=True)),
        "update": compiled(update),
    }


def _taps(calls: Mapping[str, LayerCall], within: Change | None) -> dict[str, Any]:
    """Return what is added to the inputs and outputs of calls: what moves the inputs, or zeros."""

    def tap(call: LayerCall) -> tuple[Any, Any]:
        moved = call.input if within is None else within(call.input)
        given = moved - call.input if call.input.dtype.kind in "fc" else None
        return given, np.zeros_like(call.output) if call.output.dtype.kind in "fc" else None

    return {label: tap(call) for label, call in calls.items()}


def _state(net: Network) -> list[str]:
    return sorted({*flatten(net.state)} - {*flatten(net.params)})


def _moments(state: Any) -> list[tuple[str, Any]]:
    """Return the moments that an optimizer keeps, by torch's names; of several of a kind none."""

    def keeps(node: Any) -> bool:
        return any(hasattr(node, name) for name in _MOMENTS)

    nodes = [node for node in jax.tree.leaves(state, is_leaf=keeps) if keeps(node)]
    found = [
        (moment, getattr(node, name)) for node in nodes for name, moment in _MOMENTS.items() if hasattr(node, name)
    ]
    names = [moment for moment, _ in found]
    return [(moment, tree) for moment, tree in found if names.count(moment) == 1]


def _named(gradient: np.ndarray) -> np.ndarray:
    """Return a gradient as torch's: the conjugate of JAX's; zeros for an array of whole numbers."""
    if gradient.dtype.kind == "c":
        return np.conj(gradient)
    return gradient if gradient.dtype.kind == "f" else np.zeros(gradient.shape)
