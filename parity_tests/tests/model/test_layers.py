"""The network `layers`: both packages compute what torch's own layers do, and words that don't fit are refused."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import jaxvae
import torchvae
import torchvae.layers
from jaxvae.convolution import convolve, transposed
from jaxvae.shared.config import layer_words
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec
from jaxvae.shared.config.presets import preset
from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout
from parity_tests.harness.vae import reference
from parity_tests.support.backends import FLOAT64, JAX, TORCH, assert_gradients_equal, lean, some_arrays, some_batch

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)


def model(image: tuple[int, int, int], encoder: str, decoder: str, **fields) -> ModelSpec:
    words = {"encoder": tuple(encoder.split()), "decoder": tuple(decoder.split())}
    return ModelSpec(image, latent=2, network="layers", **words, **fields)


CASES = {
    "convolutions": Spec(
        model=model(
            (5, 7, 1),
            "conv2k2+norm+plain conv3k3s2 linear4",
            "up3k3+norm linear2x3x2 up1k3s2p1o1+plain conv1k2p1",
            classes=3,
            activation="leaky-relu",
            slope=0.3,
            likelihood="gaussian-pixel",
        ),
        images=ImagesSpec(corruption="hidden-dropout", corruption_level=0.3),
    ),
    "linear layers first and last": Spec(
        model=model(
            (2, 3, 3),
            "linear2x2x2+elu up3k2 linear4+norm+tanh",
            "linear1x2x3 conv2k1+leaky-relu-0.2 linear18",
            classes=2,
        ),
        objective=ObjectiveSpec(samples=2),
    ),
}
every = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


@every
def test_terms_gradients_and_statistics_are_those_of_the_plain_formulas(name: str) -> None:
    spec = dataclasses.replace(CASES[name], training=FLOAT64)
    arrays, batch = some_arrays(spec), some_batch(spec, 4)
    expected = reference.losses(spec, arrays, batch)  # type: ignore[arg-type]
    for backend in (JAX, TORCH):
        terms = backend.image_terms(spec, arrays, batch)
        for term, value in terms.items():
            np.testing.assert_allclose(value, expected[term], rtol=1e-12, atol=1e-13, err_msg=f"{term} of {backend}")
    mine, other = JAX.minimized(spec, arrays, batch, 0), TORCH.minimized(spec, arrays, batch, 0)
    np.testing.assert_allclose(mine.losses[""], other.losses[""], rtol=1e-12)
    assert_gradients_equal(spec, mine.gradients[""], other.gradients[""], 1e-12)
    norms = sum("norm" in word for word in (*spec.model.encoder, *spec.model.decoder))
    assert len(mine.statistics) == 2 * norms
    for array, running in mine.statistics.items():
        np.testing.assert_allclose(running, other.statistics[array], rtol=0, atol=1e-12, err_msg=array)


# Kernels above, at and below the stride; paddings up to the kernel's edge; rows left over at the end.
@pytest.mark.parametrize(
    "text",
    [
        "conv3k4s2p1",
        "conv3k3s3p2",
        "conv2k2s3",
        "conv1k3p2",
        "conv1k3p3",
        "conv2k3s99999999p1",
        "up3k4s2p1",
        "up2k3s3o2",
        "up3k1s2o1",
    ],
)
def test_a_layer_is_that_of_torch_nn_functional(text: str) -> None:
    """Values and gradients; the kernel's axes are moved here by hand."""
    word, given = layer_words.parse(text, "encoder"), (7, 8, 2)
    layer = layout.of_word(("encoder", "hidden", 0, "conv"), word, given)
    up, bias = word.kind == "conv-transpose", RNG.normal(size=word.outputs)
    inputs, outputs = (layer.inputs, layer.outputs) if up else (layer.outputs, layer.inputs)
    weight = torch.tensor(RNG.normal(size=(inputs, outputs, word.kernel, word.kernel)), requires_grad=True)
    x = torch.tensor(RNG.normal(size=(3, 2, 7, 8)), requires_grad=True)
    more = {"output_padding": word.output_padding} if up else {}
    function = F.conv_transpose2d if up else F.conv2d
    y = function(x, weight, torch.tensor(bias), stride=word.stride, padding=word.padding, **more)
    back = torch.tensor(RNG.normal(size=y.shape))
    y.backward(back)

    in_torch = torchvae.layers.Block(layer).double()
    in_torch.load_state_dict({"conv.weight": weight.detach(), "conv.bias": torch.tensor(bias)})
    with torch.no_grad():
        np.testing.assert_allclose(in_torch(x).numpy(), y.detach().numpy(), rtol=0, atol=1e-13)

    def applied(kernel: jax.Array, x: jax.Array) -> jax.Array:
        stride, padding = word.stride, word.padding
        return (
            transposed(x, kernel, stride, padding, layer.output_padding) if up else convolve(x, kernel, stride, padding)
        )

    @jax.jit
    def both(kernel: jax.Array, x: jax.Array, back: jax.Array) -> tuple:
        value, pull = jax.vjp(applied, kernel, x)
        return value, *pull(back)

    arrays = (weight.permute(2, 3, 1, 0), x.permute(0, 2, 3, 1), back.permute(0, 2, 3, 1))
    assert weight.grad is not None
    assert x.grad is not None
    value, to_kernel, to_x = both(*(jnp.asarray(array.detach().numpy()) for array in arrays))
    assert value.shape == (3, *word.gives(given))
    np.testing.assert_allclose(value + bias[None, None, None], y.detach().permute(0, 2, 3, 1), rtol=0, atol=1e-13)
    np.testing.assert_allclose(to_kernel, weight.grad.permute(2, 3, 1, 0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(to_x, x.grad.permute(0, 2, 3, 1), rtol=0, atol=1e-12)


@every
def test_torchs_module_has_the_tables_arrays_and_files_keep_the_words(name: str) -> None:
    spec = CASES[name]
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in torchvae.VAE(spec.model).state_dict().items() if "tracked" not in n}
    assert shapes == {parameter.name: parameter.shape for parameter in layout.table(spec.model)}
    assert from_json(json.loads(json.dumps(to_json(spec))), "It") == spec


@every
def test_arrays_come_back_from_either_package_bit_for_bit(name: str) -> None:
    """Every number of every array is another, so that none can stand in for its neighbour."""
    spec = dataclasses.replace(CASES[name], training=FLOAT64)
    table = layout.table(spec.model)
    numbers = iter(np.split(np.arange(10_000.0), np.cumsum([int(np.prod(p.shape)) for p in table])))
    arrays = {p.name: next(numbers).reshape(p.shape) for p in table}
    for package in (jaxvae, torchvae):
        result = package.to_arrays(spec, package.from_arrays(spec, arrays))
        for array, expected in arrays.items():
            np.testing.assert_array_equal(result[array], expected, err_msg=array, strict=True)


def test_a_configuration_without_words_is_written_as_before_and_read_without_them() -> None:
    written = to_json(preset("conv"))
    assert not {"encoder", "decoder"} & written["model"].keys()
    assert from_json(json.loads(json.dumps(written)), "It") == preset("conv")


DECODER = "linear4x4x3 up2k4s2p1"
REFUSED = {
    "conv32": "words such as conv32k4s2p1, up32k4s2p1o0, linear256 or linear4x4x32, found 'conv32'",
    **{
        f"conv3k3{endings}": "words that end in nothing, +norm or one of +plain, +relu, +tanh, +leaky-relu, "
        f"+leaky-relu-0.2, +softplus, +elu, found 'conv3k3{endings}'"
        for endings in ("+gelu", "+norm+norm", "+plain+relu", "+relu+tanh")
    },
    "linear\u0663": "words such as conv32k4s2p1, up32k4s2p1o0, linear256 or linear4x4x32, found 'linear\u0663'",
    "conv0k3": "words with positive numbers but for p and o, found 'conv0k3'",
    "conv3k3s0": "words with positive numbers but for p and o, found 'conv3k3s0'",
    "conv3k3s2o1": "words of which only up has an output padding o, found 'conv3k3s2o1'",
    "up3k3s2o2": "words with an output padding below the stride, found 'up3k3s2o2'",
    "conv3k3s2 conv3k4": "layers that give one pixel at least, found conv3k4 after a map of 3x3x3",
    "up3k1p4": "layers that give one pixel at least, found up3k1p4 after a map of 8x8x2",
    "up3k3s99999999": "layers that give fewer than 2^31 numbers, found up3k3s99999999",
    "": "one layer or more for the network layers, words such as conv32k4s2p1, up32k4s2p1o0, linear256 or "
    "linear4x4x32, found none",
}


@pytest.mark.parametrize("encoder", REFUSED)
def test_words_that_fit_nothing_are_refused_in_a_sentence(encoder: str) -> None:
    with pytest.raises(InputError) as error:
        model((8, 8, 2), encoder, DECODER)
    assert str(error.value) == f"The configuration's encoder must be {REFUSED[encoder]}."


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        ("linear4x4x3 up2k4s2p1+norm", "words of which the last, its output, has no +, found up2k4s2p1+norm"),
        ("linear4x4x3 up3k4s2p1", "layers that give the image, 8x8x2, found up3k4s2p1, which gives 8x8x3"),
        ("linear4x4x3 up2k4s2", "layers that give the image, 8x8x2, found up2k4s2, which gives 10x10x2"),
        ("linear127", "layers that give the image, 8x8x2, found linear127, which gives 1x1x127"),
    ],
)
def test_a_decoder_that_gives_no_image_is_refused_in_a_sentence(decoder: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        model((8, 8, 2), "linear3", decoder)
    assert str(error.value) == f"The configuration's decoder must be {says}."


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"init": "glorot-data"}, "glorot-data sets one bias per pixel, and a layers decoder has one per channel"),
        ({"encoder": ("linear3+elu",), "activation": "tanh"}, "and every word ends in +plain or in an activation"),
    ],
)
def test_what_words_exclude_is_refused_in_a_sentence(fields: dict, says: str) -> None:
    plain = model((8, 8, 2), "linear3", "linear4x4x3+plain up2k4s2p1")
    with pytest.raises(InputError, match=f"^Invalid configuration: .*{re.escape(says)}"):
        Spec(model=dataclasses.replace(plain, **fields))


def test_a_module_of_other_words_is_another_model() -> None:
    """Its tensors are the same; in JAX the configuration alone says what is computed."""
    made, spec = (
        Spec(model=model((8, 8, 2), f"linear3{ending}", DECODER), training=FLOAT64) for ending in ("+tanh", "")
    )
    weights = torchvae.from_arrays(made, some_arrays(made))
    with pytest.raises(InputError, match=r"^encode: the model was made with encoder \('linear3\+tanh',\), the config"):
        torchvae.encode(spec, weights, torch.zeros(2, 128, dtype=torch.float64))


def test_the_default_widths_are_none_for_words() -> None:
    assert model((8, 8, 2), "linear3", DECODER).hidden == ()
