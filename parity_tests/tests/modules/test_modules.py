"""People's own modules: what is the same passes, in every make of model, and what can't be compared says why."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules import rounding
from parity_tests.harness.modules.compare import ParityError, assert_parity, compare_modules
from parity_tests.harness.modules.errors import ModelError
from parity_tests.harness.modules.evaluation import Evaluation
from parity_tests.harness.modules.exercised import accumulated, paddings
from parity_tests.harness.modules.hypotheses.backward import FROZEN
from parity_tests.harness.modules.hypotheses.optimizer import CONJUGATE, SKIPPED, Steps, cause_in_optimizer, sgd
from parity_tests.harness.modules.levels import UNFUSED
from parity_tests.harness.modules.mapping import as_is
from parity_tests.harness.modules.pair import Both
from parity_tests.support.quick import quick
from parity_tests.support.small_nets import IMAGES, LABELS, ROWS, JaxNet, TorchNet, cross_entropy, torch_cross_entropy
from parity_tests.support.warm import python

ROOT = Path(__file__).parents[3]
IMAGES = np.concatenate([IMAGES, -IMAGES / 2])
LOSSES = cross_entropy, torch_cross_entropy
ADAM = optax.adam(1e-2), partial(torch.optim.Adam, lr=1e-2)
PARAMS = {"a": {"kernel": jnp.ones((8, 5)) / 7, "bias": jnp.arange(5.0)}}
LINEAR = TorchNet(lambda net, x: net.a(x), a=nn.Linear(8, 5))
SQUARES = (lambda y: (y**2).mean(), lambda y: (y**2).mean())
MORE = {"losses": SQUARES, "optimizers": (optax.adamw(0.1, weight_decay=0.01), partial(torch.optim.AdamW, lr=0.1))}


def two_layers(in_jax: Any = lambda x: x, in_torch: Any = lambda x: x) -> tuple[JaxNet, TorchNet]:
    """Two linear layers in either framework, with something between them."""
    here = {name: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for name in ("a", "b")}
    there = {name: nn.Linear(8, 8) for name in ("a", "b")}
    return JaxNet(lambda net, x: net.b(in_jax(net.a(x))), **here), TorchNet(
        lambda net, x: net.b(in_torch(net.a(x))), **there
    )


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.up, self.head = nn.ConvTranspose2d(6, 2, 3, 2, 1, 1), nn.Linear(2 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.gelu(self.up(F.leaky_relu(self.norm(self.conv(x)), 0.2))).flatten(1))


def forward(net, norm, x: jax.Array) -> jax.Array:
    x = jax.nn.gelu(net.up(jax.nn.leaky_relu(norm(net.conv(x)), 0.2)), approximate=False)
    return net.head(x.transpose(0, 3, 1, 2).reshape(len(x), -1))


UP = {"strides": (2, 2), "padding": ((1, 2), (1, 2)), "transpose_kernel": True}


class NNX(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv, self.norm = nnx.Conv(4, 6, (3, 3), 2, padding=1, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.up, self.head = nnx.ConvTranspose(6, 2, (3, 3), **UP, rngs=rngs), nnx.Linear(128, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return forward(self, self.norm, x)


class Linen(linen.Module):
    def setup(self):
        self.conv, self.norm = linen.Conv(6, (3, 3), 2, padding=1), linen.BatchNorm()
        self.up, self.head = linen.ConvTranspose(2, (3, 3), **UP), linen.Dense(5)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return forward(self, partial(self.norm, use_running_average=not train), x)


def function(params, x: jax.Array) -> jax.Array:
    """Without a module, and without batch normalization's state."""
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = convolve(x, params["conv"]["kernel"], (2, 2), ((1, 1), (1, 1))) + params["conv"]["bias"]
    return jax.nn.relu(x).mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def linen_variables():
    return Linen().init(jax.random.key(0), jnp.ones((1, 8, 8, 4)), False)


@pytest.mark.parametrize(
    ("make", "dtype", "weights", "train"),
    quick(
        [(make, *how) for make in ("nnx", "linen") for how in (("float32", "jax", True), ("float64", "torch", False))],
        [("nnx", "float32", "jax", True), ("linen", "float64", "torch", False)],
    ),
)
def test_the_same_network_passes_in_every_level(make: str, weights, train: bool, dtype) -> None:
    model, params = (NNX(nnx.Rngs(0)), None) if make == "nnx" else (Linen(), linen_variables())
    options = {"losses": LOSSES, "optimizers": ADAM, "steps": 2, "statistics": False}
    report = assert_parity(
        model, params, Classifier(), None, IMAGES, weights=weights, train=train, dtype=dtype, **options
    )
    smaller = train  # behind a batch norm in training a bias moves nothing, so that other weights are tried
    assert len(report.findings) == 10 + smaller


def test_a_bare_function_passes() -> None:
    torch_net = TorchNet(
        lambda net, x: net.head(F.relu(net.conv(x)).mean((2, 3))), conv=nn.Conv2d(4, 6, 3, 2, 1), head=nn.Linear(6, 5)
    )
    rng = np.random.default_rng(1)
    params = {
        "conv": {"kernel": rng.normal(size=(3, 3, 4, 6)), "bias": rng.normal(size=6)},
        "head": {"kernel": rng.normal(size=(6, 5)), "bias": rng.normal(size=5)},
    }
    assert_parity(function, params, torch_net, None, IMAGES, losses=LOSSES, optimizers=ADAM)


def test_params_may_be_the_state_of_an_nnx_module_or_a_pure_dict() -> None:
    state = nnx.state(NNX(nnx.Rngs(1)))
    module = Classifier()
    for params in (state, nnx.to_pure_dict(state)):
        reports = [compare_modules(NNX(nnx.Rngs(0)), params, module, None, IMAGES)]
        assert reports[0].passed
    report = compare_modules(NNX(nnx.Rngs(0)), state, module, None, IMAGES, weights="compare")
    assert report.findings[0].level == "every weight"
    assert not report.passed


def test_weights_that_were_ported_by_hand_are_compared_first() -> None:
    net = TorchNet(lambda net, x: net.a(x), a=nn.Linear(8, 5))
    right = {name: jnp.asarray(p.numpy(force=True).T) for name, p in net.a.named_parameters()}  # type: ignore
    params = {"a": {"kernel": right["weight"], "bias": right["bias"]}}
    report = assert_parity(linear, params, net, None, ROWS, weights="compare")
    assert str(report).startswith("The JAX model and the torch module agree")
    assert [finding.level for finding in report.findings] == ["every weight", "every output"]
    params["a"]["bias"] = params["a"]["bias"] + 1
    with pytest.raises(ParityError, match=r"a.bias: It differs: by"):
        assert_parity(linear, params, net, None, ROWS, weights="compare")


def linear(params, x: jax.Array) -> jax.Array:
    return x @ params["a"]["kernel"] + params["a"]["bias"]


def test_an_array_held_in_torchs_layout() -> None:
    params = {"a": {"weight": PARAMS["a"]["kernel"].T, "bias": PARAMS["a"]["bias"]}}

    def in_torchs(params, x: jax.Array) -> jax.Array:
        return x @ params["a"]["weight"].T + params["a"]["bias"]

    assert_parity(in_torchs, params, LINEAR, {"a.weight": ("a.weight", as_is), "a.bias": "a.bias"}, ROWS)


def test_several_inputs_whole_numbers_among_them_and_several_outputs() -> None:
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.a = nn.Embedding(9, 8), nn.Linear(8, 5)

        def forward(self, tokens, x):
            y = self.a(self.table(tokens) + x)
            return {"logits": y, "twice": (y, y * 2)}

    def tokens(params, tokens, x):
        y = linear(params, params["table"]["embedding"][tokens] + x)
        return {"logits": y, "twice": (y, y * 2)}

    params = {**PARAMS, "table": {"embedding": jnp.arange(72.0).reshape(9, 8)}}
    report = assert_parity(tokens, params, Tokens(), None, [np.arange(6) % 9, ROWS])
    assert report.findings[0].where.startswith("output[")
    with pytest.raises(
        InputError, match="the JAX model returns 1 arrays and the torch module 3: make both return the same"
    ):
        compare_modules(lambda *args: tokens(*args)["logits"], params, Tokens(), None, [np.arange(6) % 9, ROWS])


def test_a_model_that_takes_channels_first_is_given_them() -> None:
    def channels_first(params, x: jax.Array) -> jax.Array:
        return x * params["scale"][:, None, None]

    torch_net = TorchNet(lambda net, x: x * net.a.weight[:, None, None], a=nn.GroupNorm(1, 4))
    torch_net.a.bias = None  # type: ignore[union-attr]
    mapping = {"scale": "a.weight"}
    assert_parity(channels_first, {"scale": jnp.arange(4.0)}, torch_net, mapping, IMAGES, channels_last=False)


def test_nothing_that_was_passed_is_changed() -> None:
    model, module, variables = NNX(nnx.Rngs(0)), Classifier(), linen_variables()
    x, modes = IMAGES.copy(), (model.norm.use_running_average, module.training)
    before = copy.deepcopy((nnx.to_pure_dict(nnx.state(model)), variables, module.state_dict()))
    options = {"losses": LOSSES, "optimizers": ADAM, "train": True, "statistics": False}
    compare_modules(model, None, module, None, x, weights="jax", **options)
    compare_modules(Linen(), variables, module, None, x, weights="torch", **options)
    after = (nnx.to_pure_dict(nnx.state(model)), variables, module.state_dict())
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert a.dtype == b.dtype
    np.testing.assert_array_equal(x, IMAGES)
    assert modes == (model.norm.use_running_average, module.training)
    assert all(p.grad is None for p in module.parameters())


OPERATIONS = ("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"), ("mkldnn", "matmul"), ("mkldnn", "conv")


def flags() -> list[Any]:
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_key_reuse", "jax_numpy_rank_promotion")
    products = [getattr(getattr(torch.backends, part), name).fp32_precision for part, name in OPERATIONS]
    return [*(getattr(jax.config, name) for name in names), *products, torch.is_grad_enabled()]


@pytest.mark.parametrize(
    "context",
    [
        lambda: jax.enable_x64(True),
        lambda: jax.enable_x64(False),
        lambda: jax.debug_key_reuse(True),
        lambda: jax.default_matmul_precision("bfloat16"),
        lambda: jax.numpy_rank_promotion("raise"),
        torch.no_grad,
        torch.inference_mode,
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_settings_win_inside_a_context_and_leave_nothing_behind(context, dtype) -> None:
    def precise(params, x: jax.Array) -> jax.Array:
        assert jax.config.jax_default_matmul_precision == "highest"  # type: ignore[attr-defined]
        assert x.dtype == dtype
        return linear(params, x)

    outside = flags()
    with context():
        inside = flags()
        assert_parity(precise, PARAMS, LINEAR, None, ROWS, dtype=dtype, losses=SQUARES)
        assert flags() == inside
    assert flags() == outside


TORCH_FLAGS = """
import numpy as np, torch
from parity_tests import assert_parity
from parity_tests.support.quick import quick
{set}
def read(get):
    try: return get()
    except RuntimeError: return "mixed"
b = torch.backends
parts = [(p, n) for p, names in {{b.cuda: "matmul", b.cudnn: "conv rnn", b.mkldnn: "matmul conv rnn"}}.items()
         for n in names.split()]
def flags(): return [*(getattr(p, n).fp32_precision for p, n in parts), read(torch.get_float32_matmul_precision),
                     read(lambda: b.cudnn.allow_tf32), read(lambda: b.cuda.matmul.allow_tf32)]
def port(params, x):
    assert flags() == 6 * ["ieee"] + ["highest", False, False], flags()
    return x @ params["kernel"] + params["bias"]
before = flags()
assert_parity(port, {{"kernel": np.ones((3, 2)), "bias": np.ones(2)}}, torch.nn.Linear(3, 2), None, np.eye(3))
assert flags() == before, (flags(), before)
"""


@pytest.mark.parametrize(
    "change",
    [
        "",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'tf32'",
    ],
)
def test_torchs_precision_is_left_as_it_was_set_by_either_of_its_interfaces(change: str) -> None:
    """In a process of its own, since no test can set some of them back."""
    code = TORCH_FLAGS.format(set=change)
    result = python("-c", code, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_jax_is_set_as_it_was_even_after_an_error() -> None:
    names = ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion", "jax_debug_key_reuse")
    before = [getattr(jax.config, name) for name in names]
    assert_parity(linear, PARAMS, LINEAR, None, ROWS)
    with pytest.raises(InputError):
        compare_modules(linear, {}, LINEAR, None, ROWS)
    assert [getattr(jax.config, name) for name in names] == before == [False, "strict", "raise", True]


def test_what_no_known_fault_explains_has_no_cause() -> None:
    here = {"a": nnx.Linear(8, 8, rngs=nnx.Rngs(0)), "b": nnx.Linear(8, 5, rngs=nnx.Rngs(0))}
    there = TorchNet(lambda net, x: net.b(net.a(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 5))
    report = compare_modules(JaxNet(lambda net, x: net.b(jnp.sin(3 * net.a(x))), **here), None, there, None, ROWS)
    assert report.diagnosis is not None
    assert (report.diagnosis.where, report.diagnosis.cause) == ("between a and b", None)
    assert str(report).endswith("No known fault reproduces these numbers.")
    report = compare_modules(JaxNet(lambda net, x: net.b(net.a(x) * 2 + 1), **here), None, there, None, ROWS)
    assert report.diagnosis is not None
    assert report.diagnosis.cause is None


def test_layers_that_give_no_array_or_are_given_none_are_walked_past() -> None:
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.a = nn.RNN(8, 8, bias=False), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(input=self.rnn(x)[0])

    class Scale(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones((8, 8)))

        def __call__(self) -> jax.Array:
            return self.scale[...]

    here = {"a": nnx.Linear(8, 5, rngs=nnx.Rngs(0)), "in_": Scale(), "rec": Scale()}
    mapping = {
        "a.kernel": "a.weight",
        "a.bias": "a.bias",
        "in_.scale": "rnn.weight_ih_l0",
        "rec.scale": "rnn.weight_hh_l0",
    }
    model = JaxNet(lambda net, x: net.a(inputs=x @ net.in_() @ net.rec()), **here)
    report = compare_modules(model, None, Recurrent(), mapping, ROWS)
    assert report.diagnosis is not None
    assert (report.diagnosis.where, report.diagnosis.cause) == ("between the input and a", None)


@pytest.mark.parametrize(
    ("losses", "optimizers", "where"),
    [
        ((lambda y: (y**3).mean(), lambda y: (y**2).mean()), None, "the loss"),
        (
            (lambda y: (y**2).mean(), lambda y: (y**2).mean()),
            (optax.lion(0.1), partial(torch.optim.Adam, lr=0.1)),
            "a.weight",
        ),
    ],
)
def test_nor_has_a_loss_or_an_optimizer_that_none_explains(losses, optimizers, where: str) -> None:
    report = compare_modules(linear, PARAMS, LINEAR, None, ROWS, losses=losses, optimizers=optimizers)
    assert report.diagnosis is not None
    assert report.diagnosis.cause is None
    assert report.diagnosis.where == where


def test_a_bare_function_says_what_can_be_compared() -> None:
    with pytest.raises(ParityError, match="only outputs and gradients can be compared") as caught:
        assert_parity(lambda params, x: linear(params, x) + 1, PARAMS, LINEAR, None, ROWS)
    assert caught.value.report.diagnosis.cause is None  # type: ignore[union-attr]


def test_a_fault_that_makes_a_later_layer_fail_is_still_found() -> None:
    torch_net = TorchNet(lambda net, x: net.b(net.a(x).flatten(1)), a=nn.Conv2d(4, 2, 3, 1, 1), b=nn.Linear(128, 5))
    here = {"a": nnx.Conv(4, 2, (3, 3), padding="VALID", rngs=nnx.Rngs(0)), "b": nnx.Linear(128, 5, rngs=nnx.Rngs(0))}
    report = compare_modules(JaxNet(lambda net, x: net.b(x_flat(net.a(x))), **here), None, torch_net, None, IMAGES)
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "the padding differs: ((0, 0), (0, 0)) in JAX, (1, 1) in PyTorch"
    assert "The JAX model then failed: TypeError: " in report.diagnosis.difference
    right = {**here, "a": nnx.Conv(4, 2, (3, 3), rngs=nnx.Rngs(0))}
    with pytest.raises(ModelError, match=r"The JAX model raised ZeroDivisionError: division by zero\.") as caught:
        compare_modules(JaxNet(lambda net, x: net.a(x) * (1 / 0), **right), None, torch_net, None, IMAGES)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)  # where nothing differs the error is the user's own


def x_flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


def test_one_number_for_an_output_is_evidence_of_nothing() -> None:
    net = TorchNet(lambda net, x: net.a(x).sum(), a=nn.Linear(8, 5))
    losses = (lambda y: y * 3, lambda y: y)
    each: tuple[dict[str, Any], ...] = ({}, {"losses": losses})
    for options in each:
        offset = 0 if options else 1
        report = compare_modules(
            lambda params, x, offset=offset: linear(params, x).sum() + offset, PARAMS, net, None, ROWS, **options
        )
        assert report.diagnosis is not None
        assert report.diagnosis.cause is None


def test_the_error_tells_each_level_and_the_cause() -> None:
    lines = [
        "The JAX model and the torch module differ.",
        "  every output ",
        "  the loss ",
        "(drawn for the comparison, since they were constant: a.weight)",
        "(float64: an entry's rounding error is what units in the last place",
        "the loss: The outputs agree and the loss is ",
        "Likely cause: the loss is a sum where the other side takes the mean: by a factor of 30 in JAX.",
    ]
    with pytest.raises(ParityError) as caught:
        assert_parity(
            *(linear, PARAMS, LINEAR, None, ROWS), losses=(lambda y: jnp.abs(y).sum(), lambda y: y.abs().mean())
        )
    assert isinstance(caught.value, AssertionError)
    result = str(caught.value).splitlines()
    assert len(result) == len(lines)
    for line, start in zip(result, lines, strict=True):
        assert line.strip().startswith(start.strip())
    assert result[2].endswith("times its rounding error, tolerance 65.7: FAILS, worst in the loss")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((linear, PARAMS, LINEAR, None), {}, "inputs: expected one array or more in torch's layout, found none"),
        ((linear, None, LINEAR, None, ROWS), {}, "params: a function needs its parameters; found None"),
        ((7, PARAMS, LINEAR, None, ROWS), {}, "jax_model: expected a Flax module or a function .*, found an int"),
        (
            (linear, PARAMS, LINEAR, None, ROWS),
            {"dtype": "half"},
            "dtype: expected one of float64, float32, .*, found 'half'",
        ),
        (
            (linear, PARAMS, LINEAR, None, ROWS),
            {"weights": "mine"},
            "weights: expected jax, torch or compare, found 'mi",
        ),
        (
            (linear, PARAMS, LINEAR, None, ROWS),
            {"optimizers": ADAM},
            "optimizers: a step needs a gradient, but losses is",
        ),
        (
            (linear, PARAMS, LINEAR, None, ROWS),
            {"losses": (lambda y: y**2, lambda y: (y**2).mean())},
            r"losses: the JAX loss has the shape \[6, 5\], expected one number: take its mean",
        ),
    ],
)
def test_errors(arguments, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_modules(*arguments, **options)


def gives(output: Any) -> TorchNet:
    return TorchNet(lambda net, x: output, a=nn.Linear(8, 5))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"jax_model": NNX}, "jax_model: expected a Flax module or a function .*, found the class NNX"),
        ({"jax_model": None}, "jax_model: expected a Flax module or a function .*, found a NoneType"),
        ({"jax_model": LINEAR}, "jax_model: expected a Flax module or a function .*, found a TorchNet"),
        ({"torch_module": Classifier}, "torch_module: expected a torch.nn.Module, found the class Classifier"),
        ({"torch_module": None}, "torch_module: expected a torch.nn.Module, found a NoneType"),
        ({"mapping": "auto"}, "mapping: expected pairs .* or None to go by names and shapes, found 'auto'"),
        ({"mapping": [("a/kernel",)]}, "mapping: expected pairs .*, found"),
        ({"mapping": {"a/kernel": ("a.weight", "flipped")}}, "mapping: expected pairs .*, found"),
        ({"mapping": [("(a", "a")]}, r"mapping: the rule \('\(a', 'a'\) is not a valid regex .*: missing \)"),
        ({"mapping": [("(a).*", r"\2")]}, r"mapping: the rule .* is not a valid regex .*: invalid group reference"),
        ({"mapping": [("(a).*", r"\g<b>")]}, r"mapping: the rule .* is not a valid regex .*: unknown group name"),
        ({"inputs": {"x": ROWS}}, "inputs: expected an array of numbers, or several in a list, found a dict"),
        (
            {"inputs": ROWS.tolist()},
            r"inputs\[0\]: expected an array of numbers, or several in a list, found a list",
        ),
        ({"inputs": "rows"}, "inputs: expected an array of numbers, or several in a list, found a str"),
        ({"inputs": ROWS[:0]}, r"inputs: expected at least one number, found the empty shape \[0, 8\]"),
        ({"inputs": np.array(["a"])}, "inputs: expected an array of numbers, or several in a list, found an? ndarray"),
        ({"jax_model": lambda params, x: np.array(["a"])}, "outputs: expected arrays of numbers"),
        ({**MORE, "scheduler": 3}, "scheduler: expected a function .*, found an int"),
        ({"losses": SQUARES[0]}, r"losses: expected the two functions \(jax_loss, torch_loss\), found a function"),
        ({"losses": (SQUARES[0], lambda y: 1.0)}, "losses: the torch loss returns a float, expected a tensor"),
        ({"scheduler": ADAM[1]}, "scheduler: expected None where optimizers is None"),
        ({**MORE, "optimizers": ADAM[0]}, "optimizers: expected .*, found a GradientTransformation"),
        (
            {**MORE, "optimizers": (ADAM[0], torch.optim.Adam(LINEAR.parameters()))},
            "optimizers: expected a function of the parameters that returns torch's optimizer, .*, found an Adam",
        ),
        (
            {**MORE, "optimizers": (ADAM[0], list)},
            "optimizers: the second returns a list, expected a torch.optim",
        ),
        ({**MORE, "steps": 0}, "steps: expected a positive integer, found 0"),
        ({"input_layouts": "same"}, "input_layouts: expected for each array 'channels_last', 'same', .*, found 'same'"),
        ({"input_layouts": ["NHWC"]}, "input_layouts: expected .*, found 'NHWC'"),
        ({"input_layouts": [(0, 2, 1)]}, r"A layout of 3 axes, \(0, 2, 1\), was given for an array of 2"),
        ({"input_layouts": ["same", "same"]}, "input_layouts: there is no 1; there are 0"),
        ({"output_layouts": {"nope": "same"}}, "output_layouts: there is no 'nope'; there are output, 0"),
        ({"output_layouts": [(0, 1, 2)]}, "A layout of 3 axes, .*, was given for an array of 2"),
        ({"outputs": 3}, r"outputs: expected \{place in JAX: place in torch\}, .*, found 3"),
        ({"outputs": {"output[0]": "output"}}, r"outputs: the JAX model has no output\[0\]; it has output"),
        ({"torch_module": gives(object())}, "outputs: expected arrays of numbers, .*, found an object"),
        (
            {"jax_model": lambda params, x: x[:0], "torch_module": gives(torch.ones(0, 8))},
            "outputs: neither model returns a number",
        ),
        (
            {"jax_model": lambda params, x: None, "torch_module": gives(None)},
            "outputs: neither model returns a number",
        ),
    ],
)
def test_an_invalid_argument_is_reported_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    right = {"jax_model": linear, "params": PARAMS, "torch_module": LINEAR, "inputs": ROWS}
    with pytest.raises(InputError, match=message) as caught:
        compare_modules(**{**right, **changed})
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_frozen_altogether_has_no_step() -> None:
    frozen = copy.deepcopy(LINEAR).requires_grad_(False)
    still = partial(jax.tree.map, jax.lax.stop_gradient)
    with pytest.raises(InputError, match="optimizers: every tensor of the torch module is frozen"):
        compare_modules(lambda params, x: linear(still(params), x), PARAMS, frozen, None, ROWS, **MORE)  # type: ignore


def test_a_bias_before_batch_normalization_is_not_judged_by_its_noise() -> None:
    """Its true gradient is zero."""
    report = assert_parity(
        *(NNX(nnx.Rngs(0)), None, Classifier(), None, IMAGES), losses=LOSSES, train=True, statistics=False
    )
    assert "every gradient" in {finding.level for finding in report.findings}


def unsafe(where: Any, sqrt: Any) -> Any:
    """Zero and not a number: the slope of a root that is not taken."""
    return lambda h: where(h > 0, sqrt(h), 0.0)


def safe(where: Any, sqrt: Any) -> Any:
    return lambda h: where(h > 0, sqrt(where(h > 0, h, 1.0)), 0.0)


@pytest.mark.parametrize(("in_jax", "in_torch"), [(unsafe, safe), (safe, unsafe), (unsafe, unsafe), (safe, safe)])
def test_a_gradient_that_is_no_number_fails_on_either_side(in_jax, in_torch) -> None:
    model, module = two_layers(in_jax(jnp.where, jnp.sqrt), in_torch(torch.where, torch.sqrt))
    report = compare_modules(model, None, module, None, ROWS, weights="torch", losses=SQUARES)
    assert report.passed == (in_jax is in_torch is safe)
    if report.passed:
        assert "every gradient" in {finding.level for finding in report.findings}
    else:
        assert report.findings[-1].level == "every gradient"
        assert report.diagnosis is not None
        assert report.diagnosis.where == ("a.bias" if in_jax is in_torch else "backward between a and b")
        assert "nan in" in report.diagnosis.difference


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_frozen_normalization_first_is_no_noise(train: bool, dtype) -> None:
    """Its tensors come first, and none of them has a gradient."""
    model = JaxNet(
        lambda net, x: net.b(net.a(x)),
        a=nnx.BatchNorm(4, use_bias=False, use_scale=False, use_fast_variance=False, rngs=nnx.Rngs(0)),
        b=nnx.Conv(4, 3, (3, 3), padding=1, rngs=nnx.Rngs(0)),
    )
    there = {"a": nn.BatchNorm2d(4, affine=False), "b": nn.Conv2d(4, 3, 3, 1, 1)}
    module = TorchNet(lambda net, x: net.b(net.a(x)), **there)
    options = {"dtype": dtype, "train": train, "statistics": False, "weights": "torch"}
    assert_parity(model, None, module, None, IMAGES, losses=SQUARES, **options)


@pytest.mark.parametrize("far", [np.inf, np.nan])
@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_an_output_that_is_not_finite_fails(far: float, sides: tuple[bool, bool]) -> None:
    in_jax, in_torch = (far if side else 1.0 for side in sides)
    model, module = two_layers(lambda x: x * in_jax, lambda x: x * in_torch)
    report = compare_modules(model, None, module, None, ROWS)
    assert (report.passed, report.findings[-1].level) == (False, "every output")


def test_a_loss_of_one_output_in_a_tuple_is_explained() -> None:
    losses = (lambda y: (y[0] ** 2).sum(), lambda y: (y**2).mean())
    report = compare_modules(lambda params, x: (linear(params, x),), PARAMS, LINEAR, None, ROWS, losses=losses)
    assert report.diagnosis is not None
    assert report.diagnosis.cause == SUMMED.format(30).replace("PyTorch", "JAX")


@pytest.mark.parametrize("names", [["b.bias"], ["a.weight", "a.bias"], ["a.weight", "a.bias", "b.weight", "b.bias"]])
@pytest.mark.parametrize("as_buffers", [False, True])
def test_what_is_frozen_in_torch_and_trained_in_jax(names: list[str], as_buffers: bool) -> None:
    model, module = two_layers(jnp.tanh, torch.tanh)
    for name in names:
        layer, leaf = module.get_submodule(name[0]), name[2:]
        tensor = getattr(layer, leaf).requires_grad_(False)
        if as_buffers:
            delattr(layer, leaf)
            layer.register_buffer(leaf, tensor.data)
    report = compare_modules(model, None, module, None, ROWS, **MORE)  # type: ignore[arg-type]
    assert report.diagnosis is not None
    assert (report.findings[-1].level, report.diagnosis.where in names) == ("every gradient", True)
    assert report.diagnosis.cause == "it is frozen in PyTorch (requires_grad=False, or a buffer) and trained in JAX"


def test_a_buffer_without_an_array_in_jax_is_moved_in_torch() -> None:
    module = TorchNet(lambda net, x: net.a(x + net.used * net.steps), a=nn.Linear(8, 5))
    for name, values in {"used": torch.arange(8.0), "steps": torch.tensor(3), "unused": torch.ones(4)}.items():
        module.register_buffer(name, values)
    report = assert_parity(lambda params, x: linear(params, x + 3 * jnp.arange(8.0)), PARAMS, module, None, ROWS)
    assert report.unexercised == ("unused",)


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("within", [False, True])
def test_torchscript_is_refused(within: bool) -> None:
    module = torch.jit.script(nn.Linear(8, 5))
    which = "the layer '0'" if within else "the module"
    with pytest.raises(InputError, match=f"torch_module: {which} is TorchScript, .*: pass the module that it was"):
        compare_modules(linear, PARAMS, nn.Sequential(module) if within else module, None, ROWS)


def test_a_gradient_differs_also_where_the_model_runs_only_compiled() -> None:
    def forward(params: Any, x: Any) -> Any:
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            raise RuntimeError("only compiled")
        y = linear(params, x)
        return y + jax.lax.stop_gradient(y)

    module = TorchNet(lambda net, x: 2 * net.a(x), a=nn.Linear(8, 5))
    report = compare_modules(forward, PARAMS, module, None, ROWS, losses=SQUARES)
    assert (report.passed, report.findings[-1].level) == (False, "every gradient")


@pytest.mark.parametrize("fused_is_right", [True, False])
def test_a_gradient_without_fusion_counts_unless_the_losses_slope_is_the_other_one(monkeypatch, fused_is_right) -> None:
    without: list[bool] = []
    plain = Evaluation.apart
    monkeypatch.setattr(Evaluation, "apart", lambda self: without.append(True) or plain(self))
    half_stopped = lambda y: (y + jax.lax.stop_gradient(y)) / 2  # noqa: E731
    model = JaxNet(
        lambda net, x: half_stopped(net.a(x)) if bool(without) == fused_is_right else net.a(x),
        a=nnx.Linear(8, 5, rngs=nnx.Rngs(0)),
    )
    module = TorchNet(lambda net, x: net.a(x), a=nn.Linear(8, 5))
    if fused_is_right:
        module = TorchNet(lambda net, x: (net.a(x) + net.a(x).detach()) / 2, a=nn.Linear(8, 5))
    report = compare_modules(model, None, module, None, ROWS, losses=SQUARES)
    assert report.passed is not fused_is_right
    assert (UNFUSED in report.unexercised) is not fused_is_right


def test_what_no_gradient_reaches_on_either_side() -> None:
    model, module = two_layers(jax.lax.stop_gradient, lambda x: x.detach())
    assert_parity(model, None, module, None, ROWS, losses=SQUARES)
    model, module = two_layers(in_torch=lambda x: x.detach())
    report = compare_modules(model, None, module, None, ROWS, losses=SQUARES)
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "no gradient reaches it in PyTorch (detach or no_grad)"


def test_what_is_frozen_in_both_but_decays_in_jax() -> None:
    model, module = two_layers(jax.lax.stop_gradient, lambda x: x.detach())
    for requires_grad, cause in (False, FROZEN), (True, SKIPPED):
        module.a.requires_grad_(requires_grad)
        report = compare_modules(model, None, module, None, ROWS, **MORE)  # type: ignore[arg-type]
        assert report.diagnosis is not None
        assert report.findings[-1].level.startswith("weights after 5 optimizer steps")
        assert report.diagnosis.where.startswith("a.")
        assert report.diagnosis.cause == cause
    still = optax.multi_transform(
        {"a": optax.set_to_zero(), "b": optax.adam(0.1)}, lambda tree: {name: name for name in tree}
    )
    optimizers = still, partial(torch.optim.Adam, lr=0.1)
    for frozen in (True, False):  # torch's Adam leaves alone what has a gradient of zero
        module.a.requires_grad_(not frozen)
        assert_parity(model, None, module, None, ROWS, losses=SQUARES, optimizers=optimizers)


@pytest.mark.parametrize(("nesterov", "cause"), [(False, CONJUGATE), (True, None)])
def test_steps_along_the_conjugate_gradient(nesterov: bool, cause: str | None) -> None:
    """Nesterov's momentum explains the real parts alone."""

    def make(xp: Any) -> Any:
        return lambda net, x: xp.stack([(x * net.w[...].real), (x * net.w[...].imag)])

    numbers = np.exp(1j * np.arange(8)).astype(np.complex64)
    held: tuple[Any, Any] = nnx.Param(jnp.asarray(numbers)), nn.Parameter(torch.tensor(numbers))
    model, module = JaxNet(make(jnp), w=held[0]), TorchNet(make(torch), w=held[1])
    sgd = optax.sgd(1e-3, 0.9, nesterov), partial(torch.optim.SGD, lr=1e-3, momentum=0.9)
    report = compare_modules(model, None, module, None, ROWS, losses=SQUARES, optimizers=sgd)
    assert report.diagnosis is not None
    assert report.findings[-1].level.startswith("weights after 5 optimizer steps")
    assert report.diagnosis.cause == cause


SUMMED = "the loss is a sum where the other side takes the mean: by a factor of {} in PyTorch"
FEATURES = (
    "the loss is a sum over the features and a mean over the batch where the other side takes the mean of all: "
    "by a factor of {} in PyTorch"
)
HALVED = "the loss is halved on one side (optax.l2_loss is half the square): by a factor of 0.5 in JAX"


@pytest.mark.parametrize(
    ("batch", "features", "sums", "causes"),
    [
        (2, 5, lambda y: y.mean(1).sum(), [HALVED, SUMMED.format(2)]),
        (6, 2, lambda y: y.sum(1).mean(), [HALVED, FEATURES.format(2)]),
        (5, 5, lambda y: y.sum(1).mean(), [SUMMED.format(5), FEATURES.format(5)]),
        (2, 1, lambda y: y.sum(), [HALVED, SUMMED.format(2)]),
        (6, 5, lambda y: 2 * y.mean(), [HALVED]),
        (6, 5, lambda y: y.mean(1).sum(), [SUMMED.format(6)]),
        (4, 2 * 3, lambda y: y.unflatten(1, (2, 3)).sum(1).mean(), [HALVED, SUMMED.format(2)]),
    ],
)
def test_a_factor_of_several_readings_is_given_all_of_them(batch: int, features: int, sums, causes) -> None:
    axes = (2, 3) if features == 6 else (features,)
    model = JaxNet(lambda net, x: net.a(x).reshape(batch, *axes), a=nnx.Linear(8, features, rngs=nnx.Rngs(0)))
    module = TorchNet(lambda net, x: net.a(x).reshape(batch, *axes), a=nn.Linear(8, features))
    losses = (lambda y: (y**2).mean(), lambda y: sums((y**2).flatten(1)))
    report = compare_modules(model, None, module, None, ROWS[:batch], losses=losses)
    assert report.diagnosis is not None
    assert sorted((report.diagnosis.cause or "").split(" or ")) == sorted(causes)


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (4, 1), (3, 2), (5, 3)])
def test_the_message_about_same_padding_names_the_stride_of_the_layer(size: int, stride: int) -> None:
    model = JaxNet(lambda net, x: net.a(x), a=nnx.Conv(4, 3, (size, size), stride, rngs=nnx.Rngs(0)))
    module = TorchNet(lambda net, x: net.a(x), a=nn.Conv2d(4, 3, size, stride, size // 2))
    report = compare_modules(model, None, module, None, IMAGES)
    assert report.diagnosis is not None
    says = f"'SAME' pads the end more than the start at stride {stride}, where PyTorch pads both alike: (("
    assert (report.diagnosis.cause or "").startswith(says)


def test_a_single_layer_is_called_the_module() -> None:
    model = nnx.Conv(4, 3, (3, 3), 2, rngs=nnx.Rngs(0))
    report = compare_modules(model, None, nn.Conv2d(4, 3, 3, 2, 1), None, IMAGES)
    assert "\nthe module: Its input agrees" in str(report)


@pytest.mark.parametrize(
    ("in_jax", "in_torch", "where", "cause"),
    [
        (
            lambda net, x: net.b(net.a(x) + x),
            lambda net, x: net.b(net.a(x) * net.g + x),
            "between a and b",
            "it is put together otherwise: a + the input of a in JAX, a * g + the input of a in PyTorch",
        ),
        (
            lambda net, x: net.b(net.a(x)) * (1 + net.g[...]),
            lambda net, x: net.b(net.a(x)) * net.g,
            "between b and the output",
            "it is put together otherwise: b * (1 + g) in JAX, b * g in PyTorch",
        ),
        (
            lambda net, x: (net.b(y := net.a(x)), y)[1],
            lambda net, x: net.b(net.a(x)),
            "the output",
            "the layers are connected otherwise: it is a in JAX and b in PyTorch",
        ),
        (
            lambda net, x: net.b(net.a(x) * nnx.sigmoid(x)),
            lambda net, x: net.b(x * net.a(x).sigmoid()),
            "between a and b",
            "it is put together otherwise: (sigmoid of the input of a) * a in JAX, (sigmoid of a) * the input of a in "
            "PyTorch",
        ),
    ],
)
def test_a_place_is_said_in_layers_and_in_parameters_that_none_holds(in_jax, in_torch, where: str, cause) -> None:
    parts: dict[str, Any] = {"a": nnx.Linear(8, 8, rngs=nnx.Rngs(0)), "b": nnx.Linear(8, 8, rngs=nnx.Rngs(1))}
    parts["g"] = nnx.Param(jnp.ones(8))
    more: dict[str, Any] = {"g": nn.Parameter(torch.arange(1.0, 9.0))}
    module = TorchNet(in_torch, a=nn.Linear(8, 8), b=nn.Linear(8, 8), **more)
    report = compare_modules(JaxNet(in_jax, **parts), None, module, None, ROWS, weights="torch")
    assert report.diagnosis
    assert (report.diagnosis.where, report.diagnosis.cause) == (where, cause)
    assert not report.diagnosis.more


class Output(OrderedDict):
    """As a ModelOutput is: a dict of a class that JAX does not know."""


def test_outputs_in_mappings_and_tuples_of_any_class() -> None:
    def pair(y: Any) -> Any:
        return Output(logits=y, more=Output(twice=y * 2, pair=(y, y)))

    module = TorchNet(lambda net, x: pair(net.a(x)), a=nn.Linear(8, 5))
    report = assert_parity(lambda params, x: pair(linear(params, x)), PARAMS, module, None, ROWS)
    assert report.findings[0].where.startswith("output['")
    largest = TorchNet(lambda net, x: net.a(x).max(1), a=nn.Linear(8, 5))  # torch.return_types.max
    assert_parity(
        lambda params, x: (linear(params, x).max(1), linear(params, x).argmax(1)), PARAMS, largest, None, ROWS
    )


@pytest.mark.parametrize(
    "x",
    [torch.tensor(ROWS, requires_grad=True), jnp.asarray(ROWS, jnp.bfloat16), ROWS[::-1], ROWS.astype(">f4"), [ROWS]],
)
def test_inputs_of_every_make(x) -> None:
    assert_parity(linear, PARAMS, LINEAR, None, x, losses=SQUARES)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_worked_example(fixed: bool, capsys) -> None:
    spec = importlib.util.spec_from_file_location(
        "port_a_classifier", ROOT / "scripts" / "examples" / "port_a_classifier.py"
    )
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    assert example.main(example.Port(fixed=fixed)) == (not fixed)
    printed = capsys.readouterr().out
    assert ("conv1: Its input agrees and its output differs" in printed) is not fixed
    assert ("Likely cause: 'SAME' pads the end more than the start" in printed) is not fixed
    assert ("optimizer moments after 5 steps" in printed) is fixed


def test_the_plugin_imports_neither_framework() -> None:
    code = "import sys, parity_tests.plugin; assert not {'jax', 'flax', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_plugins_fixture(tmp_path: Path) -> None:
    (tmp_path / "test_port.py").write_text(
        "import numpy as np, torch\n"
        "def port(params, x): return x @ params['kernel'] + params['bias'] * 1\n"
        "PARAMS = {'kernel': np.ones((3, 2)), 'bias': np.ones(2)}\n"
        "def test_right(assert_parity): assert_parity(port, PARAMS, torch.nn.Linear(3, 2), None, np.eye(3))\n"
        "def test_wrong(assert_parity):\n"
        "    assert_parity(lambda p, x: port(p, x) + 1, PARAMS, torch.nn.Linear(3, 2), None, np.eye(3))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    result = python("-m", "pytest", "-q", "-p", "parity_tests.plugin", tmp_path, cwd=tmp_path, env=env)
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    assert "ParityError: The JAX model and the torch module differ." in result.stdout


assert len(LABELS) == len(IMAGES)  # both losses are of six


@pytest.mark.parametrize("size", [2, 2_000_000])
def test_an_infinity_in_both_is_the_same_and_warns_of_nothing(size: int) -> None:
    arrays = {"a": np.full(size, np.inf)}
    arrays["a"][0] = 1.0
    assert rounding.worst(arrays, arrays, {"a": 1e-8}, "float64").size == 0
    assert rounding.worst(arrays, {"a": -arrays["a"]}, {"a": 1e-8}, "float64").size == np.inf


@pytest.mark.parametrize(
    ("gradients", "cause"),
    [
        ([[1.0, -2.0], [3.0, 1.0]], "the momentum differs: 0.9 in JAX, 0.5 in PyTorch"),
        (
            [[1.0, -2.0], [1.0, -2.0]],
            "the learning rate differs: 0.116 in JAX, 0.1 in PyTorch or "
            "the momentum differs: 0.9 in JAX, 0.5 in PyTorch",
        ),
        ([[1.0, 0.0], [3.0, 0.0]], None),
    ],
)
def test_settings_that_the_gradients_cannot_tell_apart_are_named_together_or_not_at_all(
    gradients: list[list[float]], cause: str | None
) -> None:
    options = {"momentum": 0.5, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
    given = np.array(gradients)
    steps = Steps(np.ones(2), given, given, np.full(2, 0.1), np.ones(2))
    in_torch, in_jax = (sgd(np.ones(2), given, steps.rates, momentum=momentum) for momentum in (0.5, 0.9))
    assert cause_in_optimizer("SGD", options, steps, in_jax, in_torch, 1e-12) == cause


def test_a_padding_row_that_no_input_asks_for_is_not_exercised() -> None:
    module: Any = nn.Sequential(nn.Embedding(4, 2, padding_idx=0), nn.Linear(2, 2))
    for ids, expected in (([1, 2], ("0.weight[0] (padding_idx, which is in no input)",)), ([0, 2], ())):
        assert paddings(Both(cast(Any, None), module, (), [np.array([ids])], "float64")) == expected


def test_hooks_after_a_gradient_is_added_up_are_not_exercised() -> None:
    module: Any = copy.deepcopy(LINEAR)
    assert accumulated(module) == ()
    module.a.weight.register_post_accumulate_grad_hook(lambda p: None)
    assert accumulated(module) == ("a.weight (its hooks of register_post_accumulate_grad_hook)",)
    losses = (lambda y: (y**2).mean(), lambda y: (y**2).mean())
    report = compare_modules(linear, PARAMS, module, None, ROWS, losses=losses)
    assert set(accumulated(module)) <= set(report.unexercised)


def test_a_random_key_among_the_parameters_of_a_function_is_refused() -> None:
    params = {"a": {**PARAMS["a"]}, "drop": {"key": jax.random.key(0)}}
    with pytest.raises(InputError, match=r"params: 'drop/key' is a random key, expected the parameters of a function"):
        compare_modules(lambda p, x: x @ p["a"]["kernel"], params, LINEAR, None, ROWS)
