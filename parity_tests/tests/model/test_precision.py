"""Products of lower precision: what is rounded and how, there and back, in both packages and on every platform."""

import functools
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

import jaxvae
import torchvae
from jaxvae import convolution
from jaxvae import products as in_jax
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.config import serialization
from jaxvae.shared.config.choices import Precision
from jaxvae.shared.config.own import Parts, Recorded
from jaxvae.shared.config.parts import ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, weight_file
from jaxvae.shared.runs import checkpoints, command_line, run_folder
from parity_tests.harness.compare import gap
from parity_tests.support.quick import quick
from parity_tests.support.tiny import small, some
from torchvae import products as in_torch

PACKAGES = pytest.mark.parametrize("package", [jaxvae, torchvae], ids=["jaxvae", "torchvae"])
LOWER: tuple[Precision, ...] = ("tf32", "bf16x3", "bfloat16")
BITS = {"tf32": 11, "bf16x3": 8, "bfloat16": 8}


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """The nearest float32 numbers of so many significant bits; the even one of two that are as near."""
    wide = x.astype(np.float64)
    finite = np.where(np.isfinite(wide), wide, 0)
    unit = np.ldexp(1.0, np.frexp(finite)[1] - bits)
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(wide), np.rint(finite / unit) * unit, wide).astype(np.float32)


def expected_terms(precision: Precision, x: np.ndarray) -> list[np.ndarray]:
    first = rounded(x, BITS[precision])
    return [first, rounded(x - first, 8)] if precision == "bf16x3" else [first]


def terms(package: Any, precision: Precision, x: np.ndarray) -> list[np.ndarray]:
    if package is jaxvae:
        return [np.asarray(term) for term in jax.jit(lambda x: in_jax.terms(precision, x))(x)]
    return [term.numpy() for term in in_torch.terms(precision, torch.tensor(x))]


@PACKAGES
@pytest.mark.parametrize("precision", LOWER)
def test_operands_are_rounded_to_the_nearest_of_fewer_bits(package, precision: Precision) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=1000) * 2.0 ** rng.integers(-60, 60, 1000)).astype(np.float32)
    ties = np.array([1 + 2.0**-n for n in range(1, 24)] + [1 + 3 * 2.0**-n for n in range(2, 24)], np.float32)
    x = np.concatenate([x, ties, -ties, np.array([0.0, -0.0, np.finfo(np.float32).max], np.float32)])
    x = x[: None if precision != "bf16x3" else -1]  # what rounds to infinity leaves infinity
    for actual, expected in zip(terms(package, precision, x), expected_terms(precision, x), strict=True):
        np.testing.assert_array_equal(actual, expected)
    if precision != "bf16x3":
        strange = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000], np.uint32).view(np.float32)
        np.testing.assert_array_equal(terms(package, precision, strange)[0], strange)


KINDS = ("linear", "conv", "conv-transpose")
SHAPES = {
    "linear": ((9, 40), (40, 7), (9, 7)),
    "conv": ((2, 6, 5, 3), (3, 3, 3, 4), (2, 3, 3, 4)),
    "conv-transpose": ((2, 3, 3, 4), (3, 3, 2, 4), (2, 6, 5, 2)),
}
"""Of the input, the weight and the output, as Flax has them."""


@functools.cache
def of_flax(kind: str, precision: Precision) -> Callable[..., Any]:
    def op(x: jax.Array, w: jax.Array) -> jax.Array:
        if kind == "linear":
            return in_jax.dot_general(precision)(x, w, (((1,), (0,)), ((), ())), precision="highest")
        if kind == "conv":
            return convolution.convolve(x, w, 2, 1, precision)
        return convolution.transposed(x, w, 2, 1, (1, 0), precision)

    def multiplied(x: jax.Array, w: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(op, x, w)
        return y, *pull(g)

    return jax.jit(multiplied)


def of_torch(kind: str, precision: Precision, *arrays: np.ndarray) -> list[np.ndarray]:
    image, kernel = ((0, 1), (1, 0)) if kind == "linear" else ((0, 3, 1, 2), (3, 2, 0, 1))
    x, w, g = (
        torch.tensor(np.ascontiguousarray(array.transpose(axes)), requires_grad=True)
        for array, axes in zip(arrays, (image, kernel, image), strict=True)
    )
    with in_torch.in_precision(precision):
        if kind == "linear":
            y = functional.linear(x, w)
        elif kind == "conv":
            y = functional.conv2d(x, w, None, 2, 1)
        else:
            y = functional.conv_transpose2d(x, w, None, 2, 1, (1, 0))
    parts = y, *torch.autograd.grad(y, (x, w), g)
    back = zip(parts, (image, image, kernel), strict=True)
    return [part.numpy(force=True).transpose(np.argsort(axes)) for part, axes in back]


def multiplied(package: Any, kind: str, precision: Precision, *arrays: np.ndarray) -> list[np.ndarray]:
    """A product of `x` and `w`, and the gradients of both when the product's is `g`."""
    if package is torchvae:
        return of_torch(kind, precision, *arrays)
    return [np.asarray(part) for part in of_flax(kind, precision)(*arrays)]


def normals(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES[kind]]


@PACKAGES
@pytest.mark.parametrize(
    ("kind", "precision"),
    quick([(kind, p) for kind in KINDS for p in LOWER], [("linear", "bf16x3")]),
)
def test_products_and_those_of_gradients_are_of_rounded_operands(package, kind: str, precision: Precision) -> None:
    arrays = normals(kind)
    actual = multiplied(package, kind, precision, *arrays)
    for part, operands in enumerate(((0, 1), (2, 1), (0, 2))):
        pairs = itertools.product(*(enumerate(expected_terms(precision, arrays[i])) for i in operands))
        expected = 0.0
        for (i, one), (j, other) in pairs:
            if i + j < 2:  # the product of both small terms is left out
                given = list(arrays)
                given[operands[0]], given[operands[1]] = one, other
                expected = expected + multiplied(package, kind, "float32", *given)[part].astype(np.float64)
        np.testing.assert_allclose(actual[part], expected, rtol=1e-5, atol=2e-5)


@PACKAGES
def test_a_precision_between_two_others_has_an_error_between_theirs(package) -> None:
    x, w, g = normals("linear")
    exact = [a.astype(np.float64) @ b for a, b in ((x, w), (g, w.T), (x.T, g))]
    by: list[Precision] = ["float32", "bf16x3", "tf32", "bfloat16"]
    errors = [
        [
            np.abs(part - right).max()
            for part, right in zip(multiplied(package, "linear", p, x, w, g), exact, strict=True)
        ]
        for p in by
    ]
    for finer, coarser in pairwise(errors):
        assert all(3 * one < other for one, other in zip(finer, coarser, strict=True))


ASKED = {
    ("linear", "cuda", "tf32"): "lhs_precision_type = tf32",
    ("linear", "cuda", "bf16x3"): "num_primitive_operations = 3",
    ("linear", "cuda", "bfloat16"): "lhs_precision_type = bf16",
    ("linear", "tpu", "bf16x3"): "precision = [HIGH, HIGH]",
    ("linear", "tpu", "bfloat16"): "precision = [DEFAULT, DEFAULT]",
    ("conv", "cuda", "tf32"): "precision DEFAULT>, #stablehlo<precision DEFAULT>",
    ("conv", "tpu", "bf16x3"): "precision HIGH>, #stablehlo<precision HIGH>",
    ("conv", "tpu", "bfloat16"): "precision DEFAULT>, #stablehlo<precision DEFAULT>",
}
"""What a device with products of a precision is asked for, as StableHLO writes it."""


@pytest.mark.parametrize(
    ("kind", "platform", "precision"), quick(ASKED, [("linear", "cuda", "bf16x3"), ("linear", "tpu", "bfloat16")])
)
def test_accelerators_are_asked_for_their_own_products(kind: str, platform: str, precision: Precision) -> None:
    text = of_flax(kind, precision).trace(*normals(kind)).lower(lowering_platforms=(platform,)).as_text()
    assert "reduce_precision" not in text
    wanted = ASKED[kind, platform, precision]
    assert [wanted in line for line in text.splitlines() if re.search(r"= stablehlo\.(dot_general|conv)", line)] == [
        True
    ] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "platform", "precision", "products"),
    [("linear", "tpu", "tf32", 3), ("conv", "cuda", "bf16x3", 9), ("conv", "tpu", "tf32", 3)],
)
def test_accelerators_without_such_products_emulate_them(kind, platform, precision, products: int) -> None:
    """By products that round no term: on a GPU those of TF32."""
    text = of_flax(kind, precision).trace(*normals(kind)).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("reduce_precision") >= 6
    lines = [line for line in text.splitlines() if re.search(r"= stablehlo\.(dot_general|conv)", line)]
    assert len(lines) == products
    assert all(("DEFAULT" if platform == "cuda" else "HIGHEST") in line for line in lines)


def gradient(package: Any, spec: Spec) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a batch, and its gradient by the name of the parameter."""
    data, key = some(spec), package.root_key(3)
    model = package.init_state(spec)[0]
    given = data.train[:17], data.train_labels[:17]
    if package is torchvae:
        images, labels = map(torch.tensor, given)
        loss = torchvae.loss(spec, model, images, key, labels)[0]
        loss.backward()
        return loss.item(), {name: tensor.grad.numpy() for name, tensor in model.named_parameters()}
    images, labels = map(jax.numpy.asarray, given)
    of = jax.jit(jax.value_and_grad(lambda params: jaxvae.loss(spec, params, images, key, labels)[0]))
    loss, grads = of(model)
    return float(loss), jaxvae.to_arrays(spec, grads)


def distance(arrays: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    """Of all together, as a share of the others' length."""
    actual, expected = (np.concatenate([result[name].ravel() for name in others]) for result in (arrays, others))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "precision"),
    quick([(n, p) for n in ("conditional", "conv") for p in LOWER], [("conditional", "bfloat16")]),
)
def test_both_packages_round_alike_in_training(name: str, precision: Precision) -> None:
    spec = small(name)
    lower = replace(spec, training=replace(spec.training, precision=precision))
    plain, (loss, grads), (other, others) = gradient(torchvae, spec), gradient(torchvae, lower), gradient(jaxvae, lower)
    effect = distance(grads, plain[1])
    assert 2.0 ** -(BITS[precision] * (2 if precision == "bf16x3" else 1) + 3) < effect < 2.0**-5
    # A number near the middle of two is rounded up in one package and down in the other, if float32 rounded it apart
    # before. Batch norm of 17 images makes more of it.
    assert distance(others, grads) < (effect / 10 if name == "conditional" else effect)
    assert abs(other - loss) < 1e-6 * abs(loss)


def test_torchs_settings_are_set_for_a_product_alone() -> None:
    backends: Any = torch.backends
    operations = backends.cuda.matmul, backends.cudnn.conv
    before = [operation.fp32_precision for operation in operations]
    with in_torch._tensor_cores(torch.device("cuda")):
        assert [operation.fp32_precision for operation in operations] == ["tf32", "tf32"]
    with in_torch._tensor_cores(torch.device("cpu")):
        assert [operation.fp32_precision for operation in operations] == before


@pytest.mark.slow
@PACKAGES
def test_evaluation_is_float32s(package) -> None:
    spec = small("conditional")
    lower = replace(spec, training=replace(spec.training, precision="bfloat16"))
    data = some(spec)
    plain, rounded = (
        package.average_terms(s, package.init_state(s)[0], data.test, package.root_key(3), data.test_labels)
        for s in (spec, lower)
    )
    np.testing.assert_array_equal(plain, rounded)


def test_a_precision_is_written_where_it_is_not_float32s() -> None:
    plain = Spec("digits")
    spec = replace(plain, training=replace(plain.training, precision="bf16x3"))
    written = serialization.to_json(spec)
    assert written["training"].pop("precision") == "bf16x3"
    assert written == serialization.to_json(plain)
    assert serialization.from_json(written, "an earlier version's").training.precision == "float32"
    assert serialization.from_json(serialization.to_json(spec), "its own") == spec
    assert command_line.changes(plain, spec) == ["--precision", "bf16x3"]
    assert "float32 with bf16x3 products" in description.facts(spec)["training"]
    assert "this cpu has no bf16x3 products" in (description.emulated(spec.training, "cpu (cpu)") or "")
    assert description.emulated(spec.training, "tpu (TPU v5e)") is description.emulated(plain.training, "cpu") is None


def test_what_has_no_float32_products_of_the_packages_is_refused_in_one_sentence() -> None:
    for dtype in ("float64", "bfloat16"):
        with pytest.raises(
            InputError, match=rf"of float32 numbers, and the dtype is {dtype}; give --dtype float32, or"
        ):
            TrainingSpec(dtype=dtype, precision="tf32")
    model = ModelSpec(parts=Parts(decoder=Recorded("Mine", "0" * 64)))
    with pytest.raises(
        InputError, match=r"the decoder is your own; ask for it in your layers, and give --precision fl"
    ):
        Spec("digits", model, training=TrainingSpec(precision="tf32"))


@pytest.mark.slow
def test_a_run_stops_and_resumes_in_either_package(tmp_path: Path, capsys) -> None:
    """To the bit in its own; in the other its own roundings follow."""
    tiny = ["train", "--data", "digits", "--hidden", "5", "--latent", "2", "--precision", "bfloat16", "--device", "cpu"]
    pairs: tuple[tuple[Backend, Backend], ...] = ((jaxvae, torchvae), (torchvae, jaxvae))
    for package, other in pairs:
        whole, parts, moved = (tmp_path / f"{package.__name__}-{name}" for name in ("whole", "parts", "moved"))
        assert cli.main(package, [*tiny, "--max-steps", "9", "--out", str(whole)]) == 0
        assert "this cpu has no bfloat16 products: they are emulated" in capsys.readouterr().out
        for path, then in ((parts, package), (moved, other)):
            assert cli.main(package, [*tiny, "--max-steps", "4", "--out", str(path)]) == 0
            assert cli.main(then, ["train", "--resume", str(path), "--max-steps", "9"]) == 0
        runs = [run_folder.read(path) for path in (whole, parts, moved)]
        assert {run.spec.training.precision for run in runs} == {"bfloat16"}
        ends = [weight_file.load_checkpoint(checkpoints.path(run, 9)) for run in runs]
        assert gap(ends[1].weights, ends[0].weights).size == 0
        assert gap(ends[1].optimizer, ends[0].optimizer).size == 0
        assert gap(ends[2].weights, ends[0].weights).size < 2.0**-8
