"""What models are called with: trees, arguments by keyword and options, once for both or each in its own way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.compare import assert_parity, compare_modules
from parity_tests.harness.modules.inputs import Inputs

RNG = np.random.default_rng(0)
ROWS, MORE = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 4))
MASK = RNG.integers(0, 2, (5, 4)).astype(bool)
IDS = np.arange(5) % 4


def masked(a: Any, x: Any, more: Any, ids: Any, mask: Any, kind: str, lib: Any) -> Any:
    h = lib.tanh(a(x)) if kind == "tanh" else a(x)
    return lib.where(mask, h, 0) * (1 + ids[:, None]) + more


class InNNX(nnx.Module):
    def __init__(self):
        self.a = nnx.Linear(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, batch: Any, *, ids: Any, mask: Any, kind: str = "plain", deterministic: bool = False) -> Any:
        return masked(self.a, batch["x"], batch["more"][0], ids, mask, kind, jnp)

    def inner(self, x: Any) -> Any:
        return self.a(x)


class InLinen(linen.Module):
    @linen.compact
    def __call__(self, batch: Any, train: bool, *, ids: Any, mask: Any, kind: str = "plain") -> Any:
        return masked(linen.Dense(4, name="a"), batch["x"], batch["more"][0], ids, mask, kind, jnp)


class InTorch(nn.Module):
    def __init__(self, ignores: str = ""):
        super().__init__()
        self.a, self.ignores = nn.Linear(3, 4), ignores

    def forward(self, batch: Any, *, ids: Any, mask: Any, kind: str = "plain") -> Any:
        ids, mask = (ids * 0 if self.ignores == "ids" else ids), (mask | (self.ignores == "mask"))
        return masked(self.a, batch["x"], batch["more"][0], ids, mask, kind, torch)

    def inner(self, x: Any) -> Any:
        return self.a(x)


def by_function(params: Any, batch: Any, *, ids: Any, mask: Any, kind: str = "plain") -> Any:
    return masked(lambda x: x @ params["a"]["kernel"] + params["a"]["bias"], *batch_of(batch), ids, mask, kind, jnp)


def batch_of(batch: Any) -> tuple[Any, Any]:
    return batch["x"], batch["more"][0]


def inputs(**options: Any) -> Inputs:
    return Inputs({"x": ROWS, "more": [MORE]}, ids=IDS, mask=MASK, **options)


def model(make: str) -> tuple[Any, Any]:
    params = {"a": {"kernel": jnp.asarray(RNG.normal(size=(3, 4))), "bias": jnp.ones(4)}}
    return {"nnx": (InNNX(), None), "linen": (InLinen(), {"params": params}), "function": (by_function, params)}[make]


@pytest.mark.parametrize("make", ["nnx", "linen", "function"])
def test_trees_and_keywords_reach_both(make: str) -> None:
    report = assert_parity(*model(make), InTorch(), None, inputs(kind="tanh"))
    assert not report.unexercised


@pytest.mark.parametrize(("ignored", "name"), [("mask", "inputs['mask']"), ("ids", "inputs['ids']")])
def test_an_argument_that_one_of_them_ignores_is_a_difference(ignored: str, name: str) -> None:
    """Also where its numbers would hide it: nothing is masked, and all ids are 0."""
    silent = Inputs({"x": ROWS, "more": [MORE]}, ids=IDS * 0, mask=MASK | True)
    report = compare_modules(InNNX(), None, InTorch(ignored), None, silent)
    assert not report.passed
    assert name in str(report)


def test_an_option_that_differs_is_a_difference() -> None:
    own: dict[str, Any] = {"jax_inputs": inputs(kind="tanh"), "torch_inputs": inputs(kind="plain")}
    assert not compare_modules(InNNX(), None, InTorch(), None, **own).passed


def test_each_may_have_its_own_arguments() -> None:
    """Here JAX masks with booleans and torch by addition; images and carries lie otherwise in memory."""
    images, carry = RNG.normal(size=(2, 3, 4, 5)), RNG.normal(size=(2, 3))

    class Flax(nnx.Module):
        def __call__(self, x: Any, carry: Any, *, mask: Any) -> Any:
            return jnp.where(mask, jax.nn.softmax(x.sum((1, 2)) * carry), 0)

    class Torch(nn.Module):
        def forward(self, x: Any, mask: Any, carry: Any = None) -> Any:
            return torch.softmax(x.sum((2, 3)) * carry[0], -1) * torch.exp(mask)

    mask = np.array([[True, True, False], [True, False, True]])
    report = assert_parity(
        *(Flax(), None, Torch(), None),
        jax_inputs=Inputs(np.moveaxis(images, 1, -1), carry, mask=mask),
        torch_inputs=Inputs(images, np.where(mask, 0.0, -1e9), carry=carry[None]),
    )
    assert report.unexercised == ("jax_inputs['mask']", "torch_inputs[1]")


def test_an_array_that_could_be_one_of_two_is_not_moved() -> None:
    class Flax(nnx.Module):
        def __call__(self, x: Any, carry: Any) -> Any:
            return x + 2 * carry["h"] + 3 * carry["c"]

    class Torch(nn.Module):
        def forward(self, x: Any, c: Any, h: Any) -> Any:
            return x + 2 * h + 3 * c

    zeros = np.zeros((5, 3))
    own = {"jax_inputs": Inputs(ROWS, {"h": zeros, "c": zeros}), "torch_inputs": (ROWS, zeros, zeros)}
    report = assert_parity(Flax(), None, Torch(), None, **own)
    names = ("jax_inputs[1]['c']", "jax_inputs[1]['h']", "torch_inputs[1]", "torch_inputs[2]")
    assert report.unexercised == names
    assert not compare_modules(Flax(), None, Torch(), None, **own, strict=True).passed
    own["jax_inputs"].args[1]["h"] = MORE[:, :3]
    own["torch_inputs"] = (ROWS, zeros, MORE[:, :3])
    assert not assert_parity(Flax(), None, Torch(), None, **own).unexercised


def test_arrays_that_only_float32_takes_for_one_are_two() -> None:
    own: dict[str, Any] = {"jax_inputs": (ROWS, ROWS[:, :1]), "torch_inputs": (ROWS, ROWS[:, :1] * (1 + 1e-12))}

    class Flax(nnx.Module):
        def __call__(self, x: Any, y: Any) -> Any:
            return x * y

    class Torch(nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x * y

    report = compare_modules(Flax(), None, Torch(), None, **own, dtype="float32")
    assert (report.passed, report.unexercised) == (True, ("jax_inputs[1]", "torch_inputs[1]"))


def test_methods_take_the_place_of_the_call() -> None:
    """Of a torch module on a copy: the module itself is called as before."""
    module = InTorch()
    assert_parity(InNNX(), None, module, {"a/kernel": "a.weight", "a/bias": "a.bias"}, ROWS, method="inner",
                  torch_method="inner")  # fmt: skip
    assert "forward" not in vars(module)

    class Two(linen.Module):
        def setup(self) -> None:
            self.a = linen.Dense(4)

        def __call__(self, x: Any) -> Any:
            return jnp.tanh(self.a(x))

        def inner(self, x: Any, train: bool) -> Any:
            return self.a(x)

    variables = Two().init(jax.random.key(0), ROWS)
    assert_parity(Two(), variables, nn.Sequential(nn.Linear(3, 4)), None, ROWS, method="inner")


def test_what_has_no_counterpart_is_ignored_on_request() -> None:
    """Its own numbers stay, and the report lists it."""

    class Flax(InNNX):
        def __init__(self) -> None:
            super().__init__()
            self.b = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    class Torch(InTorch):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 9)

    with pytest.raises(InputError, match="give pairs"):
        compare_modules(Flax(), None, Torch(), None, inputs())
    report = assert_parity(Flax(), None, Torch(), None, inputs(), ignore=["b/.*", r"head\.(weight|bias)"])
    assert report.unexercised == ("b/bias", "b/kernel", "head.bias", "head.weight")
    assert not compare_modules(Flax(), None, Torch(), None, inputs(), ignore=["b/.*", "head.*"], strict=True).passed


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"inputs": ROWS, "ignore": "a/.*"}, "ignore: expected a list of regexes, found 'a/"),
        ({"inputs": ROWS, "ignore": ["("]}, r"ignore: '\(' is not a valid regex"),
        ({"inputs": ROWS, "ignore": ["c/.*"]}, "ignore: 'c/.*' matches no whole path or name of either model"),
        ({"inputs": {"x": ROWS}}, "found a dict; pass dicts, arguments by keyword and options as Inputs"),
        ({"jax_inputs": ROWS}, "expected inputs alone, or jax_inputs and torch_inputs without it"),
        ({"inputs": ROWS, "jax_inputs": ROWS, "torch_inputs": ROWS}, "expected inputs alone, or jax_inputs"),
        ({"jax_inputs": ROWS, "torch_inputs": ROWS, "input_layouts": ["same"]}, "found by the numbers: leave it out"),
        ({"inputs": Inputs(x=np.zeros((0, 3)))}, r"inputs\['x'\]: expected at least one number"),
        ({"inputs": Inputs(x=ROWS), "input_layouts": {"inputs['y']": "same"}}, r"no \"inputs\['y'\]\"; there are"),
        ({"inputs": ROWS, "method": "missing"}, "method: an InNNX has no method 'missing'"),
        ({"inputs": ROWS, "torch_method": 3}, "torch_method: an InTorch has no method 3"),
    ],
)
def test_what_cannot_be_is_one_sentence(given: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        compare_modules(InNNX(), None, InTorch(), None, **given)


def test_a_function_has_no_method() -> None:
    with pytest.raises(InputError, match="method: expected None with a function, found 'f': pass the function itself"):
        compare_modules(by_function, {}, InTorch(), None, ROWS, method="f")


class More(InNNX):
    """With an output of a layer that torch doesn't have."""

    def __init__(self):
        super().__init__()
        self.aside = nnx.Linear(3, 2, rngs=nnx.Rngs(1))

    def __call__(self, x: Any) -> Any:  # type: ignore[override]
        return {"mean": self.a(x), "aside": self.aside(x)}


class MoreInTorch(InTorch):
    def forward(self, x: Any) -> Any:  # type: ignore[override]
        return self.a(x), self.a(x).sum(), None


def test_some_outputs_are_compared_and_the_others_listed() -> None:
    chosen: dict[str, Any] = {"outputs": {"output['mean']": "output[0]"}, "ignore": ["aside/.*"]}
    report = assert_parity(More(), None, MoreInTorch(), None, ROWS, **chosen)
    left_out = ("output['aside'] of the JAX model", "output[1] of the torch module")
    assert report.unexercised == ("aside/bias", "aside/kernel", *left_out)
    assert not compare_modules(More(), None, MoreInTorch(), None, ROWS, **chosen, strict=True).passed

    class Doubled(MoreInTorch):
        def forward(self, x: Any) -> Any:
            return 2 * self.a(x), self.a(x)

    assert not compare_modules(More(), None, Doubled(), None, ROWS, **chosen).passed
    same = Inputs(ROWS)
    report = assert_parity(
        InNNX(), None, InTorch(), None, same, method="inner", torch_method="inner", outputs=["output"]
    )
    assert not report.unexercised
    with pytest.raises(InputError, match="a list of places that are the same in both, or None, found 3"):
        compare_modules(More(), None, MoreInTorch(), None, ROWS, outputs=3)  # type: ignore[arg-type]
