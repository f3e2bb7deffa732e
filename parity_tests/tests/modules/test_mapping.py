"""Which array is which tensor: by pairs, by rules, by inference, and the errors of each."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.mapping import as_is, flattened, flipped_kernel, layout, resolve, tensors, transposed

RNG = np.random.default_rng(0)
NET = nn.Sequential()
NET.add_module("conv", nn.Conv2d(2, 4, 3))
NET.add_module("norm", nn.BatchNorm2d(4))
NET.add_module("fc", nn.Linear(4, 4))
SHAPES = {
    "conv/kernel": (3, 3, 2, 4),
    "conv/bias": (4,),
    "norm/scale": (4,),
    "norm/bias": (4,),
    "norm/mean": (4,),
    "norm/var": (4,),
    "fc/kernel": (4, 4),
    "fc/bias": (4,),
}
NAMES = {
    "conv/kernel": "conv.weight",
    "conv/bias": "conv.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "norm/mean": "norm.running_mean",
    "norm/var": "norm.running_var",
    "fc/kernel": "fc.weight",
    "fc/bias": "fc.bias",
}


def names(mapping, shapes=SHAPES, module: nn.Module = NET) -> dict[str, str]:
    return {pair.path: pair.name for pair in resolve(shapes, module, mapping)}


@pytest.mark.parametrize("prefix", ["", "params/", "batch_stats."])
@pytest.mark.parametrize("separator", ["/", "."])
def test_pairs(prefix: str, separator: str) -> None:
    assert names({f"{prefix}{path.replace('/', separator)}": name for path, name in NAMES.items()}) == NAMES


def test_rules_match_the_whole_path_and_the_first_that_does_wins() -> None:
    rules = [
        (r"(.*)/(kernel|scale)", r"\1.weight"),
        (r"(.*)/bias", r"\1.bias"),
        (r"(.*)/(mean|var)", r"\1.running_\2"),
        (r"f", "never.matched"),
        (r"fc/.*", "never.reached"),
    ]
    assert names(rules) == NAMES


def test_a_rule_may_end_in_a_transform() -> None:
    rules = [(r"fc/kernel", "fc.weight", as_is), *((path, name) for path, name in NAMES.items())]
    assert {pair.name: pair.transform for pair in resolve(SHAPES, NET, rules)}["fc.weight"] is as_is


def test_inference_by_names() -> None:
    assert names(None) == NAMES


def test_inference_by_kind_and_shape_where_names_differ() -> None:
    renamed = {"conv": "Conv_0", "norm": "BatchNorm_0", "fc": "Dense_0"}
    shapes = {f"{renamed[p.partition('/')[0]]}/{p.partition('/')[2]}": shape for p, shape in SHAPES.items()}
    inferred = names(None, shapes)
    assert [inferred[path] for path in shapes] == list(NAMES.values())


def test_an_ambiguity_lists_the_candidates() -> None:
    shapes = {f"Dense_{i}/{leaf}": shape for i in (0, 1) for leaf, shape in {"kernel": (4, 4), "bias": (4,)}.items()}
    twins = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(InputError, match=r"'Dense_0', 'Dense_1' could each be any of '0', '1'.*: give pairs"):
        resolve(shapes, twins)


def test_what_is_refused_ends_in_a_draft_that_can_be_pasted() -> None:
    shapes = {f"Dense_{i}/{leaf}": shape for i in (0, 1) for leaf, shape in {"bias": (4,), "kernel": (4, 4)}.items()}
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(InputError, match="give pairs") as refused:
        resolve({**shapes, "Dense_2/kernel": (4, 3), "Dense_2/bias": (3,), "extra": (7,)}, module)
    sentence, _, code = str(refused.value).partition("\nA draft to correct and paste:\n")
    assert "\n" not in sentence
    assert "'Dense_0/kernel': '0.weight',  # or '1.weight'\n" in code
    assert "# 'extra': ?  no tensor that is left has its shape, [7]" in code
    drafted: dict = {}
    exec(code, drafted)
    pairs = {
        f"Dense_{i}/{leaf}": f"{i}.{name}" for i in range(3) for leaf, name in (("kernel", "weight"), ("bias",) * 2)
    }
    assert drafted["mapping"] == pairs
    assert len(resolve({**shapes, "Dense_2/kernel": (4, 3), "Dense_2/bias": (3,)}, module, drafted["mapping"])) == 6


def test_a_draft_names_what_is_left_over_in_torch() -> None:
    with pytest.raises(InputError, match=r"# left over in torch: '1.weight' \[4, 4\]"):
        resolve({"a/kernel": (3, 4), "a/bias": (4,)}, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)))


def test_a_kind_of_layer_with_crossed_kernels_is_told_by_those_that_are_not_square() -> None:
    class Conv1D(nn.Module):
        def __init__(self, inputs: int, outputs: int):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    crossed = {"a/kernel": (6, 4), "a/bias": (6,), "b/kernel": (4, 4), "b/bias": (4,)}
    module = nn.ModuleDict({"a": Conv1D(4, 6), "b": Conv1D(4, 4)})
    assert [pair.transform is transposed for pair in resolve(crossed, module)] == [True, False, True, False]
    straight = {**crossed, "a/kernel": (4, 6)}
    assert not any(pair.transform is transposed for pair in resolve(straight, module))
    with pytest.raises(InputError, match="the other order of axes, so give the pair the transform `transposed`"):
        resolve(crossed, module, {path: path.replace("/kernel", ".weight").replace("/", ".") for path in crossed})


def test_a_bare_parameter_is_paired_by_its_name() -> None:
    net = nn.Module()
    net.register_parameter("token", nn.Parameter(torch.zeros(2, 3)))
    (pair,) = resolve({"token": (2, 3)}, net)
    assert pair[:3] == ("token", "token", as_is)


def test_tied_weights_are_one_tensor_and_batches_are_not_counted() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3, affine=False))
    net[1].weight = net[0].weight
    assert list(tensors(net)) == ["0.weight", "2.running_mean", "2.running_var"]


def without(path: str, **more):
    return {k: v for k, v in {**NAMES, **more}.items() if k != path}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            without("fc/bias"),
            r"no torch tensor is paired with 'fc/bias' \[4\] of the JAX model, and no JAX array is paired with "
            r"'fc.bias' \[4\] of the torch module: correct the shapes, or give pairs\.$",
        ),
        ({**NAMES, "fc/bias": "fc.weight"}, "'fc/kernel', 'fc/bias' are all paired with 'fc.weight'; pair each"),
        (
            {**NAMES, "head/bias": "fc.bias"},
            "the JAX model has no array 'head/bias'; it has 'conv/kernel', .*: correct",
        ),
        (
            {**NAMES, "fc/bias": "head.bias"},
            "'fc/bias' is paired with 'head.bias', but the torch module has only",
        ),
        (
            {**NAMES, "fc/bias": "fc.weight", "fc/kernel": "fc.bias"},
            r"'fc/kernel' is \[4, 4\], and 'fc.bias', \[4\] of a Linear, needs \[4\]: correct",
        ),
        ({**NAMES, "fc/bias": ("fc.bias", flattened(columns=(4, 3, 3)))}, "the transform of 'fc/bias' can't convert"),
    ],
)
def test_errors(mapping, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(SHAPES, NET, mapping)


def test_an_unfilled_tensor_is_an_error() -> None:
    shapes = {path: shape for path, shape in SHAPES.items() if path != "fc/bias"}
    with pytest.raises(InputError, match=r"paired with 'fc.bias' \[4\] of the torch module: give pairs"):
        resolve(shapes, NET, without("fc/bias"))


class Matrix(nn.Module):
    """A layer of the user's own, as the Conv1D of transformers' GPT-2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))


@pytest.mark.parametrize(
    ("shape", "layer", "advice"),
    [
        ((5, 3), nn.Linear(3, 5, bias=False), "give the pair the transform `as_is`"),
        ((2, 3, 4, 5), nn.ConvTranspose2d(4, 5, (2, 3), bias=False), "pass transpose_kernel=True to the Flax layer"),
        ((7, 3), nn.Linear(3, 5, bias=False), "correct the pair or the layer"),
        ((5, 3), Matrix(), "it is held in the other order of axes, so give the pair the transform `transposed`"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_would(shape, layer: nn.Module, advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        resolve({"layer/kernel": shape}, nn.ModuleDict({"layer": layer}), {"layer/kernel": "layer.weight"})


def test_a_transposed_matrix_is_paired() -> None:
    (pair,) = resolve({"own/kernel": (5, 3)}, nn.ModuleDict({"own": Matrix()}), [(".*", "own.weight", transposed)])
    np.testing.assert_array_equal(pair.transform.to_torch(np.arange(15).reshape(5, 3)), np.arange(15).reshape(5, 3).T)


def applied(layer: Any, kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    layer.kernel.set_value(jnp.asarray(kernel))
    return np.moveaxis(np.asarray(layer(jnp.asarray(np.moveaxis(x, 1, -1)))), -1, 1)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(4, 4, bias=False), (3, 4)),
        (nn.Conv1d(4, 4, 3, bias=False), (3, 4, 7)),
        (nn.Conv2d(4, 4, (3, 3), bias=False), (3, 4, 7, 7)),
        (nn.Conv3d(4, 4, 3, bias=False), (1, 4, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 4, 3, bias=False), (3, 4, 7)),
        (nn.ConvTranspose2d(4, 4, 3, bias=False), (3, 4, 7, 7)),
    ],
)
def test_a_square_kernel_computes_the_same_in_flax(x64, layer: nn.Module, x: tuple[int, ...]) -> None:
    """The kind of the layer decides: the shapes of these kernels do not distinguish their axes."""
    layer, given = layer.double(), RNG.normal(size=x)
    kernel = layout(layer, "weight").to_jax(layer.weight.numpy(force=True))  # type: ignore[union-attr]
    options = {"use_bias": False, "padding": "VALID", "rngs": nnx.Rngs(0)}
    if isinstance(layer, nn.Linear):
        flax = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    elif layer.transposed:
        flax = nnx.ConvTranspose(4, 4, layer.kernel_size, transpose_kernel=True, **options)  # type: ignore[arg-type]
    else:
        flax = nnx.Conv(4, 4, layer.kernel_size, **options)  # type: ignore[arg-type]
    y = applied(flax, kernel, given)
    np.testing.assert_allclose(y, layer(torch.tensor(given)).numpy(force=True), atol=1e-14)


def test_a_flipped_kernel_is_what_flax_takes_without_transpose_kernel(x64) -> None:
    layer, given = nn.ConvTranspose2d(3, 5, 3, bias=False).double(), RNG.normal(size=(2, 3, 6, 6))
    flax = nnx.ConvTranspose(3, 5, (3, 3), padding="VALID", use_bias=False, rngs=nnx.Rngs(0))
    weight = layer.weight.numpy(force=True)
    y = applied(flax, flipped_kernel.to_jax(weight), given)
    np.testing.assert_allclose(y, layer(torch.tensor(given)).numpy(force=True), atol=1e-14)
    np.testing.assert_array_equal(flipped_kernel.to_torch(flipped_kernel.to_jax(weight)), weight)


def test_flattened_reorders_rows_columns_and_bias() -> None:
    rows, columns = (2, 3, 4), (3, 2, 2)
    transform = flattened(rows, columns)
    kernel, bias, image = RNG.normal(size=(24, 12)), RNG.normal(size=12), RNG.normal(size=(5, 3, 4, 2))
    in_jax = image.reshape(5, -1) @ kernel + bias  # H,W,C in and out
    weight, torch_bias = transform.to_torch(kernel), transform.to_torch(bias)
    in_torch = F.linear(
        *(
            torch.tensor(np.ascontiguousarray(a))
            for a in (image.transpose(0, 3, 1, 2).reshape(5, -1), weight, torch_bias)
        )
    )
    expected = in_jax.reshape(5, 2, 2, 3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(in_torch.numpy().reshape(5, 3, 2, 2), expected, atol=1e-13)
    np.testing.assert_array_equal(transform.to_jax(weight), kernel)
    np.testing.assert_array_equal(transform.to_jax(torch_bias), bias)
    np.testing.assert_array_equal(
        transform.input_to_torch(image.reshape(5, -1)), image.transpose(0, 3, 1, 2).reshape(5, -1)
    )
