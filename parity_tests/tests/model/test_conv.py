"""The convolutional networks: the same in both packages at every size, and each layer as torch.nn.functional has it."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from jax import export, lax
from safetensors.torch import load_file

import jaxvae
import torchvae
import torchvae.layers
from jaxvae import convolution, layers, nets
from jaxvae.convolution import convolve, transposed
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout
from jaxvae.shared.model.requirements import require_batches
from parity_tests.support.backends import FLOAT64, JAX, TORCH, assert_gradients_equal, lean, some_arrays, some_batch
from parity_tests.support.quick import quick

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
# Even and odd, square and oblong, one channel to three, conditioned on the class, or down to a single pixel.
CASES = [
    ModelSpec((4, 4, 1), (3, 4), 2, network="conv", activation="leaky-relu"),
    ModelSpec((5, 5, 2), (2, 3), 3, network="conv", activation="leaky-relu"),
    ModelSpec((6, 3, 3), (4,), 2, network="conv", activation="tanh"),
    ModelSpec((3, 8, 1), (2,), 2, network="conv", activation="relu", classes=3),
]
NAMES = ["x".join(map(str, model.image)) for model in CASES]
every = pytest.mark.parametrize("model", CASES, ids=NAMES)


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


@functools.partial(jax.jit, static_argnums=0)
def jax_outputs(spec: Spec, params: nets.Params, x: jax.Array, z: jax.Array, labels: jax.Array | None) -> dict:
    """In training and in evaluation."""
    model = jaxvae.bind(spec.model, params)
    results = {}
    for mode, training in {"eval": None, "train": jaxvae.Training(jnp.full(len(x), 1 / len(x)))}.items():
        results |= {f"{mode} {name}": part for name, part in model.encode(x, labels, training)._asdict().items()}
        results[f"{mode} logits"] = model.decode(z, labels, training).logits
    return results


@torch.no_grad()
def torch_outputs(spec: Spec, model: torchvae.VAE, x: torch.Tensor, z: torch.Tensor, labels) -> dict:
    results = {}
    for mode in ("eval", "train"):
        model.train(mode == "train")
        results |= {f"{mode} {name}": part for name, part in model.encode(x, labels)._asdict().items()}
        results[f"{mode} logits"] = model.decode(z, labels).logits
    return results


@pytest.mark.parametrize("model", quick(CASES, CASES[::2]), ids=NAMES)
def test_outputs_gradients_and_statistics_are_equal(model: ModelSpec) -> None:
    spec = Spec(model=model, training=FLOAT64)
    arrays, batch = some_arrays(spec), some_batch(spec, 5)
    given = batch.x, batch.eps, batch.labels
    in_jax = jax_outputs(spec, jaxvae.from_arrays(spec, arrays), *(a if a is None else jnp.asarray(a) for a in given))
    on_torch: Any = (a if a is None else torch.tensor(a) for a in given)
    in_torch = torch_outputs(spec, torchvae.from_arrays(spec, arrays), *on_torch)
    assert in_jax.keys() == in_torch.keys()
    for name, actual in in_jax.items():
        expected = in_torch[name].numpy()
        assert actual.shape == (5, model.pixels if name.endswith("logits") else model.latent)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max(), err_msg=name)
    mine, other = JAX.minimized(spec, arrays, batch, 0), TORCH.minimized(spec, arrays, batch, 0)
    np.testing.assert_allclose(mine.losses[""], other.losses[""], rtol=1e-12)
    assert_gradients_equal(spec, mine.gradients[""], other.gradients[""], 1e-12)
    assert len(mine.statistics) == 4 * len(model.hidden)  # a mean and a variance for each block of either network
    for name, running in mine.statistics.items():
        np.testing.assert_allclose(running, other.statistics[name], rtol=0, atol=1e-12, err_msg=name)
        assert not np.array_equal(running, arrays[name])


@every
def test_a_bias_in_front_of_batch_norm_changes_nothing_and_is_not_trained(model: ModelSpec) -> None:
    spec = Spec(model=model, training=FLOAT64)
    arrays, batch = some_arrays(spec), some_batch(spec, 5)
    result = TORCH.minimized(spec, arrays, batch, 0)
    held = [p.name for p in layout.table(model) if p.name.endswith("conv.bias")]
    assert len(held) == 2 * len(model.hidden)
    assert not set(held) & set(result.gradients[""])
    moved = {name: array + 3.0 if name in held else array for name, array in arrays.items()}
    np.testing.assert_allclose(result.losses[""], TORCH.minimized(spec, moved, batch, 0).losses[""], rtol=1e-12)


def test_several_samples_in_a_filled_up_batch_are_those_of_the_batch_alone() -> None:
    """JAX fills an epoch's last batch up with images that count for nothing, which batch norm must not see either."""
    objective = ObjectiveSpec(samples=2)
    spec = Spec(model=CASES[0], objective=objective, training=FLOAT64)
    arrays, batch = some_arrays(spec), some_batch(spec, 5)
    filled = batch._replace(
        x=np.concatenate([batch.x, np.tile(batch.x[:1], (3, 1))]),
        eps=np.concatenate([batch.eps, RNG.normal(size=(2, 3, 2))], axis=1),
        weights=np.array([0.2] * 5 + [0.0] * 3),
    )
    mine, other = JAX.minimized(spec, arrays, filled, 0), TORCH.minimized(spec, arrays, batch, 0)
    np.testing.assert_allclose(mine.losses[""], other.losses[""], rtol=1e-12)
    assert_gradients_equal(spec, mine.gradients[""], other.gradients[""], 1e-12)
    for name, running in mine.statistics.items():
        np.testing.assert_allclose(running, other.statistics[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("hidden", quick([((2,),), ((2, 3, 1),)], [((2, 3, 1),)]), ids=len)
def test_any_size_comes_back_as_it_went_in(hidden: tuple[int, ...]) -> None:
    """Heights and widths from 1 to 9, by shapes alone in JAX, which compiles nothing, and on no device in torch."""
    for i, (height, width) in enumerate(itertools.product(range(1, 10), repeat=2)):
        model = ModelSpec((height, width, 1 + i % 3), hidden, 2, network="conv")
        with torch.device("meta"):
            net = torchvae.VAE(model).eval()
            assert net.decode(net.encode(torch.zeros(4, model.pixels)).mean).logits.shape == (4, model.pixels)
            shapes = {name: tuple(t.shape) for name, t in net.state_dict().items() if "tracked" not in name}
        assert shapes == {parameter.name: parameter.shape for parameter in layout.table(model)}
        assert layout.sizes(model)[-1] == tuple(-(-n // 2 ** len(hidden)) for n in (height, width))
        if i % 16 == 0:
            assert jax.eval_shape(functools.partial(there_and_back, model)).shape == (4, model.pixels)


@pytest.mark.parametrize("device", ["cuda", "tpu"])
@pytest.mark.parametrize("size", [(3, 4), (9, 6)], ids=["products on GPUs", "convolutions"])
def test_what_other_devices_compute_is_what_a_cpu_does(device: str, size: tuple[int, int], monkeypatch) -> None:
    """Values and gradients, of a convolution and of the transpose of another, by what this processor runs of it."""
    kernels = jnp.asarray(RNG.normal(size=(2, 3, 3, 4, 2)))
    x, back = jnp.asarray(RNG.normal(size=(3, *size, 4))), jnp.asarray(RNG.normal(size=(3, *size, 4)))

    def both(kernels: jax.Array, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(convolve(x, kernels[0], 2, 1))
        return transposed(hidden, kernels[1], 2, 1, (1 - size[0] % 2, 1 - size[1] % 2))

    def pulled() -> tuple:
        value, pull = jax.vjp(lambda kernels, x: both(kernels, x), kernels, x)
        return value, *pull(back)

    expected = jax.jit(pulled)()
    monkeypatch.setattr(convolution, "has_gpu", lambda: device == "cuda")
    monkeypatch.setattr(
        lax, "platform_dependent", lambda *given, default, **others: others.get(device, default)(*given)
    )
    for actual, one in zip(jax.jit(lambda: pulled())(), expected, strict=True):
        np.testing.assert_allclose(actual, one, rtol=0, atol=1e-12)


def there_and_back(model: ModelSpec) -> jax.Array:
    spec = Spec(model=model, training=FLOAT64)
    net = jaxvae.bind(model, jaxvae.init(spec, jaxvae.root_key(0)))
    return net.decode(net.encode(jnp.zeros((4, model.pixels))).mean).logits


def kinds_in_use() -> set[tuple[str, int, tuple[int, int]]]:
    sizes = itertools.product(range(1, 13), repeat=2)
    models = [ModelSpec((height, width, 1), (2, 3), 2, network="conv") for height, width in sizes]
    results = [layer for model in models for layer in layout.layers(model) if layer.kind.startswith("conv")]
    return {(layer.kind, layer.stride, layer.output_padding) for layer in results}


IN_USE = [
    ("conv", 1, (0, 0)),
    ("conv", 2, (0, 0)),
    ("conv-transpose", 2, (0, 0)),
    ("conv-transpose", 2, (0, 1)),
    ("conv-transpose", 2, (1, 0)),
    ("conv-transpose", 2, (1, 1)),
]


def test_these_are_the_convolutions_in_use() -> None:
    assert sorted(kinds_in_use()) == IN_USE
    assert (layout.KERNEL, layout.STRIDE, layout.PADDING) == (3, 2, 1)


@nnx.jit
def applied(layer, x: jax.Array) -> jax.Array:
    return layer(x)


@pytest.mark.parametrize(("kind", "stride", "more"), IN_USE)
def test_every_convolution_is_torch_nn_functionals(kind, stride: int, more: tuple[int, int]) -> None:
    """At sizes 1 to 12, each beside another. The kernel's axes are moved here by hand."""
    layer = layout.Layer(("encoder", "hidden", 0, "conv"), kind, 2, 3, (0, 0), stride, more)
    bias = RNG.normal(size=3)
    if kind == "conv":
        weight = RNG.normal(size=(3, 2, 3, 3))
        expected = functools.partial(F.conv2d, stride=stride, padding=1)
    else:
        weight = RNG.normal(size=(2, 3, 3, 3))
        expected = functools.partial(F.conv_transpose2d, stride=stride, padding=1, output_padding=more)
    in_jax: Any = layers.Block(layer, rngs=nnx.Rngs(0)).conv
    in_torch: Any = torchvae.layers.Block(layer).double().conv
    in_jax.kernel, in_jax.bias = nnx.Param(jnp.asarray(weight.transpose(2, 3, 1, 0))), nnx.Param(jnp.asarray(bias))
    in_torch.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    for height in (1, 11, 3, 9, 5, 7):
        x = RNG.normal(size=(2, 2, height, 13 - height))
        wanted = expected(torch.tensor(x), torch.tensor(weight), torch.tensor(bias)).numpy()
        with torch.no_grad():
            np.testing.assert_allclose(in_torch(torch.tensor(x)).numpy(), wanted, rtol=0, atol=1e-14)
        actual = np.asarray(applied(in_jax, jnp.asarray(x.transpose(0, 2, 3, 1))))
        # Sums of 18 products of numbers of about 1, in another order.
        np.testing.assert_allclose(actual.transpose(0, 3, 1, 2), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kind", "stride", "more"), IN_USE)
def test_the_form_for_cpus_is_that_for_accelerators(kind, stride: int, more: tuple[int, int]) -> None:
    """Values and gradients, of several models together; with more channels than outputs, and fewer."""
    for inputs, outputs, height in ((3, 2, 4), (2, 3, 5)):
        x, kernel = jnp.asarray(RNG.normal(size=(2, 2, height, 3, inputs))), RNG.normal(size=(2, 3, 3, inputs, outputs))
        kernel = jnp.asarray(kernel if kind == "conv" else kernel.swapaxes(3, 4))

        def applied(x, kernel):
            y = convolve(x, kernel, stride, 1) if kind == "conv" else transposed(x, kernel, stride, 1, more)
            return jnp.sin(y).sum()

        actual = jax.jit(jax.vmap(jax.value_and_grad(applied, (0, 1))))(x, kernel)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lax, "platform_dependent", lambda *x, default, **others: default(*x))
            expected = jax.jit(jax.vmap(jax.value_and_grad(lambda *x: applied(*x), (0, 1))))(x, kernel)
        for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_each_platform_is_given_its_form(platform: str) -> None:
    spec = Spec(model=CASES[0], training=FLOAT64)
    net = jaxvae.bind(CASES[0], jaxvae.init(spec, jaxvae.root_key(0)))
    program = export.export(jax.jit(lambda x: net.decode(net.encode(x).mean).logits), platforms=[platform])
    text = program(jax.ShapeDtypeStruct((4, CASES[0].pixels), jnp.float64)).mlir_module()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")


@every
def test_arrays_come_back_from_either_package_bit_for_bit(model: ModelSpec) -> None:
    """Every number of every array is another, so that none can stand in for its neighbour."""
    spec, start = Spec(model=model, training=FLOAT64), 0
    arrays = {}
    for parameter in layout.table(model):
        size = int(np.prod(parameter.shape))
        arrays[parameter.name] = np.arange(start, start + size, dtype=float).reshape(parameter.shape)
        start += size
    returned = [
        jaxvae.to_arrays(spec, jaxvae.from_arrays(spec, arrays)),
        torchvae.to_arrays(spec, torchvae.from_arrays(spec, arrays)),
    ]
    for result in returned:
        assert list(result) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(result[name], array, err_msg=name, strict=True)


def test_the_flattened_axis_is_channels_first_in_the_file_and_last_in_flax() -> None:
    model = ModelSpec((4, 6, 1), (5,), 2, network="conv")
    spec = Spec(model=model, training=FLOAT64)
    arrays = some_arrays(spec)
    params = jaxvae.from_arrays(spec, arrays)
    channels, height, width = np.meshgrid(range(5), range(2), range(3), indexing="ij")
    file, flax = (channels * 2 + height) * 3 + width, (height * 3 + width) * 5 + channels
    kernel, first = np.asarray(params["encoder"]["mean"]["kernel"]), params["decoder"]["input"]
    np.testing.assert_array_equal(kernel[flax.ravel()], arrays["encoder.mean.weight"].T[file.ravel()])
    columns, bias = np.asarray(first["kernel"]).T, np.asarray(first["bias"])
    np.testing.assert_array_equal(columns[flax.ravel()], arrays["decoder.input.weight"][file.ravel()])
    np.testing.assert_array_equal(bias[flax.ravel()], arrays["decoder.input.bias"][file.ravel()])


def test_torchs_own_load_state_dict_takes_jaxvaes_weight_file(tmp_path) -> None:
    spec = Spec(model=CASES[1], training=FLOAT64)
    arrays = some_arrays(spec)
    jaxvae.save(tmp_path / "weights.safetensors", spec, jaxvae.from_arrays(spec, arrays))
    model = torchvae.VAE(spec.model).double()
    assert str(model.load_state_dict(load_file(tmp_path / "weights.safetensors"))) == "<All keys matched successfully>"
    for name, array in torchvae.to_arrays(spec, model).items():
        np.testing.assert_array_equal(array, arrays[name])


BATCHES = Spec(model=CASES[0], training=TrainingSpec(batch_size=3, dtype="float64"))


def test_a_last_batch_of_one_number_is_refused() -> None:
    sentence = (
        "Batch norm needs more than one number for a variance, but the last batch of 7 images in batches of 3 "
        "is one image, of which a layer has one number per channel; choose another --batch-size."
    )
    images = RNG.integers(0, 256, (7, 4, 4, 1)).astype(np.uint8)
    params = jaxvae.from_arrays(BATCHES, some_arrays(BATCHES))
    state = jaxvae.TrainState(params, {}, jnp.int32(0), jaxvae.root_key(0))
    for attempt in (
        lambda: require_batches(BATCHES, 7),
        lambda: jaxvae.train_epoch(BATCHES, state, jnp.asarray(images)),
        lambda: torchvae.train_epoch(BATCHES, torchvae.init_state(BATCHES), torch.tensor(images)),
    ):
        with pytest.raises(InputError) as error:
            attempt()
        assert str(error.value) == sentence
    with pytest.raises(InputError, match="the last batch of 1 images in batches of 1 "):
        require_batches(BATCHES, 1)


def test_other_batches_are_not() -> None:
    require_batches(BATCHES, 6)
    require_batches(BATCHES, 8)
    for model in (ModelSpec(), dataclasses.replace(CASES[0], image=(4, 5, 1)), CASES[1]):
        require_batches(dataclasses.replace(BATCHES, model=model), 7)
