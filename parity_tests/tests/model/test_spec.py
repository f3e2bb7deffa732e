"""The configuration: what it accepts, what it refuses, and that it comes back from JSON as it was."""

import ast
import copy
import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae.shared.config.data_sets import DATA_SETS, complete_names, require_data
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS, preset
from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, layout

sizes = st.integers(1, 2000)
specs = st.builds(
    Spec,
    st.sampled_from(["auto", "mnist", "digits"]),
    st.builds(ModelSpec, st.tuples(sizes, sizes, sizes), st.lists(sizes, max_size=4).map(tuple), sizes),
    st.builds(ObjectiveSpec, st.floats(1e-6, 1e6)),
    st.builds(
        TrainingSpec,
        epochs=sizes,
        max_steps=st.none() | sizes,
        batch_size=sizes,
        learning_rate=st.floats(1e-30, 1e3),
        seed=st.integers(0, 2**64 - 1),
        dtype=st.sampled_from(["float32", "float64"]),
        decay=st.floats(1e-6, 1),
    ),
    st.builds(
        ImagesSpec,
        binarization=st.sampled_from(["none", "threshold", "static", "dynamic"]),
        corruption=st.just("dropout"),
        corruption_level=st.floats(1e-6, 0.999),
        train_images=st.none() | sizes,
        resize=st.booleans(),
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(spec=specs)
def test_json_and_back(spec: Spec) -> None:
    assert from_json(json.loads(json.dumps(to_json(spec))), "here") == spec
    assert hash(spec) == hash(from_json(to_json_lists(spec), "here"))


def to_json_lists(spec: Spec) -> object:
    return json.loads(json.dumps(to_json(spec)))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["model", "latent"], -3, "latent must be positive and below 2.31, found -3"),
        (["model", "latent"], 2.5, "model, latent must be an integer, found 2.5"),
        (["model", "latent"], True, "must be an integer, found True"),
        (["model", "image"], [28, 28], "must be a list of 3 integers, found"),
        (["model", "image"], [28, 0, 1], "image must be positive"),
        (["model", "hidden"], 400, "must be a list of integers, found 400"),
        (["model", "hidden"], ["400"], "must be an integer, found '400'"),
        (["model"], [], "must be an object"),
        (["objective", "beta"], float("nan"), "beta must be finite"),
        (["objective", "beta"], -1, "beta must be finite and at least 0"),
        (["training", "dtype"], "float16", "must be one of 'float32', 'float64', 'bfloat16', found 'float16'"),
        (["training", "seed"], 2**64, "seed must be an integer from 0 to 2"),
        (["training", "max_steps"], 0, "max_steps must be positive"),
        (["training", "learning_rate"], "fast", "must be a number, found 'fast'"),
        (["training", "epochs"], 0, "epochs must be positive"),
        (["model", "latent"], 10**400, "latent must be positive and below 2.31"),
        (["objective", "beta"], 10**400, "must be a number"),
        (["data"], "imagenet", "must be one of"),
        (["colour"], "blue", "unknown field 'colour'"),
        (["training", "momentum"], 0.9, "unknown field 'momentum'"),
        (["data"], "emnist:capitals", "data must be one of auto, mnist, .* found 'emnist:capitals'"),
        (["data"], "npy:", "data must be one of"),
        (["model", "network"], "transformer", "must be one of 'mlp', 'conv', 'layers', found 'transformer'"),
        (
            ["model", "posterior"],
            3,
            "model, posterior must be one of 'gaussian', 'log-sigma', 'relu-sigma', 'point', 'relu-point'",
        ),
        (["model", "variance"], 0.0, "variance must be from 1e-12 to 1e.12, found 0.0"),
        (["model", "variance"], True, "variance must be a number, found True"),
        (["model", "classes"], -1, "classes must be finite and at least 0, found -1"),
        (["model", "discriminator"], [0], "discriminator must be positive"),
        (["objective", "samples"], 0, "samples must be positive"),
        (["objective", "warmup"], 2**31, "warmup must be finite and at least 0"),
        (["objective", "gamma"], -1.0, "gamma must be finite and at least 0"),
        (["objective", "capacity_steps"], 0, "capacity_steps must be positive"),
        (["objective", "form"], "wgan", "form must be one of 'elbo', .* found 'wgan'"),
        (["training", "beta1"], 1.0, "beta1 must be at least 0 and below 1, found 1.0"),
        (["training", "decay"], 0.0, "decay must be above 0 and at most 1"),
        (["training", "eps"], 0.0, "eps must be positive"),
        (["images"], None, "images must be an object"),
        (["images", "resize"], 1, "resize must be [^<]*, found 1"),
        (["images", "train_images"], 0, "train_images must be positive"),
        (["images", "corruption_level"], 0.5, "corruption_level must be 0 without a corruption, found 0.5"),
    ],
)
def test_a_bad_field_is_named(path: list[str], value: object, says: str) -> None:
    config = to_json_lists(Spec())
    node = config
    for name in path[:-1]:
        node = node[name]  # type: ignore[index]
    node[path[-1]] = value  # type: ignore[index]
    with pytest.raises(InputError, match=says) as caught:
        from_json(config, "config.json")
    assert str(caught.value).startswith("config.json")


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (TrainingSpec, {"epochs": 1.0}, "epochs must be an integer, found 1.0"),
        (TrainingSpec, {"epochs": "3"}, "epochs must be an integer, found '3'"),
        (TrainingSpec, {"max_steps": 2.5}, "max_steps must be an integer, found 2.5"),
        (TrainingSpec, {"seed": True}, "seed must be an integer, found True"),
        (TrainingSpec, {"learning_rate": 0}, "learning_rate must be positive and finite, found 0.0"),
        (TrainingSpec, {"dtype": np.float32}, "dtype must be one of 'float32', 'float64', 'bfloat16', found <class"),
        (ModelSpec, {"image": (8, 8)}, "image must be a list of 3 integers, found (8, 8)"),
        (ModelSpec, {"hidden": 400}, "hidden must be a list of integers, found 400"),
        (ModelSpec, {"hidden": "400"}, "hidden must be a list of integers, found '400'"),
        (ModelSpec, {"hidden": (4, 2.0)}, "hidden must be an integer, found 2.0"),
        (ModelSpec, {"latent": "20"}, "latent must be an integer, found '20'"),
        (ModelSpec, {"latent": 2.0}, "latent must be an integer, found 2.0"),
        (ModelSpec, {"latent": np.bool_(True)}, "latent must be an integer, found True"),
        (ModelSpec, {"latent": None}, "latent must be an integer, found None"),
        (ObjectiveSpec, {"beta": "1.5"}, "beta must be a number, found '1.5'"),
        (ImagesSpec, {"resize": 1}, "resize must be true or false, found 1"),
        (ImagesSpec, {"range": ["unit"]}, "range must be one of 'unit', 'signed', found ['unit']"),
        (Spec, {"data": ModelSpec()}, "data must be text, found ModelSpec("),
        (Spec, {"model": None}, "model must be of the class ModelSpec, found None"),
        (Spec, {"model": {"latent": 2}}, "model must be of the class ModelSpec, found {'latent': 2}"),
        (Spec, {"objective": TrainingSpec()}, "objective must be of the class ObjectiveSpec, found TrainingSpec("),
    ],
)
def test_a_field_of_the_wrong_type_is_named_in_python_as_in_a_file(kind: Any, fields: dict, says: str) -> None:
    with pytest.raises(InputError, match=f"^The configuration's {re.escape(says)}"):
        kind(**fields)


def test_numbers_of_numpy_become_pythons() -> None:
    """So that what `save` writes can be read."""
    model = ModelSpec(np.array([8, 8, 1]), [np.int32(5)], np.int64(2), variance=1)  # type: ignore[arg-type]
    assert model == ModelSpec((8, 8, 1), (5,), 2)
    spec = Spec(model=model, objective=ObjectiveSpec(np.float32(1.5)), training=TrainingSpec(seed=np.uint64(2**63)))  # type: ignore[arg-type]
    assert (type(model.latent), type(model.variance), type(spec.objective.beta)) == (int, float, float)
    assert from_json(to_json_lists(spec), "here") == spec


@pytest.mark.parametrize("path", [["data"], ["model"], ["model", "latent"], ["training", "seed"], ["images", "range"]])
def test_a_missing_field_is_named(path: list[str]) -> None:
    config = copy.deepcopy(to_json_lists(Spec()))
    node = config
    for name in path[:-1]:
        node = node[name]  # type: ignore[index]
    del node[path[-1]]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"lacks the field '{path[-1]}'"):
        from_json(config, "config.json")


def test_the_default_preset_is_pytorch_examples() -> None:
    spec = preset("pytorch-examples")
    assert (spec.model.image, spec.model.hidden, spec.model.latent) == ((28, 28, 1), (400,), 20)
    assert (spec.objective.beta, spec.training.batch_size, spec.training.learning_rate) == (1.0, 128, 1e-3)
    assert spec.training.epochs == 10
    with pytest.raises(InputError, match="choose one of pytorch-examples, yunjey"):
        preset("nope")


INVALID = {
    "images.range=signed": r"a Bernoulli likelihood needs pixels in \[0, 1\]",
    "model.output=linear": "a Bernoulli likelihood's probability is always bounded",
    "model.variance=2.0": "only the gaussian likelihood has a given variance",
    "model.likelihood=gaussian-pixel model.variance=2.0": "gaussian-learned a first one; give --variance 1",
    "model.likelihood=gaussian-learned model.variance=1e-6": "a learned variance stays above 6.14e-06",
    "model.network=layers model.encoder=('conv1k3',) model.decoder=('linear784',) model.norm=none": "its norms",
    "model.likelihood=gaussian model.init=glorot-data": "glorot-data sets the last bias to log-odds",
    "model.network=conv model.init=glorot-data": "glorot-data sets one bias per pixel",
    "model.network=conv model.hidden=()": "a conv network needs the channels of at least one convolution",
    "model.posterior=point": "elbo needs a distribution of latents, which a point code is not",
    "model.posterior=relu-point objective.form=capacity": "capacity needs a distribution",
    "objective.form=reconstruction": "reconstruction alone would shrink a gaussian posterior to a point",
    "model.posterior=relu-sigma objective.form=iwae": "iwae needs the posterior's density",
    "model.posterior=relu-point objective.form=adversarial model.discriminator=(3,)": "a code that is never negative",
    "model.posterior=point objective.form=adversarial": "adversarial needs a discriminator",
    "model.discriminator=(3,)": "only the adversarial objective uses a discriminator",
    "model.posterior=point objective.form=reconstruction objective.samples=2": "all samples of a point code",
    "objective.form=adversarial model.discriminator=(3,) objective.samples=2": "adversarial uses one latent",
    "objective.form=iwae objective.beta=2.0": "only the elbo uses beta",
    "objective.form=iwae objective.warmup=2": "warmup raises beta, which iwae does not use",
    "objective.gamma=3.0": "only the capacity objective uses --gamma, --capacity, --capacity-steps",
    "objective.form=iwae objective.units=mixed": "mixed units need a KL divergence",
    "images.corruption=hidden-dropout images.corruption_level=0.5 model.hidden=()": "hidden-dropout needs hidden",
    "images.corruption=dropout images.corruption_level=1.0": "corruption_level must be above 0 and below 1",
    "images.corruption=gaussian": "corruption_level must be above 0 and at most 1000, found 0.0",
    "training.schedule=iwae training.decay=0.5": "The iwae schedule has its own decay",
}


@pytest.mark.parametrize("changes", INVALID)
def test_parts_that_make_no_sense_together_are_refused(changes: str) -> None:
    """However they come together: as dataclasses, and in a file."""
    config = to_json_lists(Spec())
    parts = {"model": ModelSpec, "objective": ObjectiveSpec, "training": TrainingSpec, "images": ImagesSpec}
    given: dict[str, dict] = {name: {} for name in parts}
    for change in changes.split():
        (part, name), value = change.split("=")[0].split("."), change.split("=")[1]
        default = getattr(parts[part](), name)
        result = value if isinstance(default, str) else ast.literal_eval(value)
        given[part][name] = result
        config[part][name] = list(result) if isinstance(result, tuple) else result  # type: ignore[index]
    with pytest.raises(InputError, match=INVALID[changes]):
        Spec(**{name: kind(**given[name]) for name, kind in parts.items()})
    with pytest.raises(InputError, match=f"^config.json.*{INVALID[changes]}"):
        from_json(config, "config.json")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_json(name: str) -> None:
    spec = preset(name)
    assert from_json(to_json_lists(spec), name) == spec
    assert hash(from_json(to_json_lists(spec), name)) == hash(spec)


def test_data_has_a_name() -> None:
    for name in [*complete_names(), "images:a", "npy:~/b.npy", "npz:c d.npz"]:
        require_data(name)
        assert Spec(name).data == name
    for name in ("", "MNIST", "emnist:", "mnist:", "mnist:digits", "images", "images:", "npz:", "folder"):
        with pytest.raises(InputError, match="data must be one of") as caught:
            require_data(name)
        assert all(f" {kind}" in str(caught.value) for kind in DATA_SETS)


def test_what_a_configuration_implies() -> None:
    plain, capacity, adversarial = Spec(), preset("beta-b"), preset("adversarial")
    assert plain.terms == capacity.terms == ("loss", "reconstruction", "kl")
    assert adversarial.terms == ("loss", "reconstruction", "discriminator", "generator")
    assert list(plain.phases) == [""]
    assert list(adversarial.phases) == ["reconstruction", "discriminator", "generator"]
    assert (plain.effective_beta, plain.minimized) == (1.0, 1.0)
    assert capacity.effective_beta == pytest.approx(10 * 0.00025 * 784, rel=1e-15)
    assert capacity.minimized == 1 / 784


def test_a_preset_is_changed_by_the_names_of_fields() -> None:
    spec = preset("conv", latent=16, epochs=3, beta=0.5, range="unit", data="digits", hidden=[8, 16])
    assert (spec.model.latent, spec.training.epochs, spec.objective.beta) == (16, 3, 0.5)
    assert (spec.images.range, spec.data, spec.model.hidden) == ("unit", "digits", (8, 16))
    assert preset("conv").model.latent == 128
    assert preset("yunjey", model=ModelSpec(hidden=(3,)), latent=5).model == ModelSpec(hidden=(3,), latent=5)
    with pytest.raises(InputError, match="model must be of the class ModelSpec, found"):
        preset("conv", model={"latent": 3})
    with pytest.raises(InputError, match="There is no preset 3; choose one of"):
        preset(3)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"no field 'latents' \(did you mean latent\?\); print\(preset\('conv'\)\) shows"
    ):
        preset("conv", latents=16)
    with pytest.raises(InputError, match=r"no field 'zzz'; print\(preset\('conv'\)\) shows those it has"):
        preset("conv", zzz=1)
    with pytest.raises(InputError, match="latent must be positive"):
        preset("conv", latent=0)


def test_no_two_parts_have_a_field_of_one_name() -> None:
    """`preset` finds a field by its name."""
    kinds = (Spec, ModelSpec, ObjectiveSpec, TrainingSpec, ImagesSpec)
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    assert len(names) == len(set(names))


def test_learning_rates() -> None:
    assert TrainingSpec().learning_rates() == (1e-3,)
    assert TrainingSpec(epochs=3, decay=0.5).learning_rates() == (1e-3, 5e-4, 2.5e-4)
    rates = TrainingSpec(epochs=3280, schedule="iwae").learning_rates()
    assert len(rates) == 3280
    # 1, 3, 9, ..., 2187 epochs, each of 10^(1/7) less than before.
    starts = [0, 1, 4, 13, 40, 121, 364, 1093]
    assert [rates[i] for i in starts] == [1e-3 * 10 ** (-i / 7) for i in range(8)]
    assert len(set(rates)) == 8
    assert rates[-1] == pytest.approx(1e-4, rel=1e-12)


def test_steps() -> None:
    training = TrainingSpec(epochs=10, batch_size=128)
    assert training.epoch_steps(60_000) == 469
    assert training.total_steps(60_000) == 4690
    assert TrainingSpec(max_steps=500).total_steps(60_000) == 500
    assert TrainingSpec(epochs=1, max_steps=500).total_steps(60_000) == 469


def test_the_parameter_table_is_the_known_models() -> None:
    """784 * 400 + 400 and 2 * (400 * 20 + 20) down, 20 * 400 + 400 and 400 * 784 + 784 up: 652,824."""
    table = layout.table(ModelSpec())
    assert sum(math.prod(parameter.shape) for parameter in table) == 652_824
    assert [parameter.name for parameter in table][:4] == [
        "encoder.hidden.0.weight",
        "encoder.hidden.0.bias",
        "encoder.mean.weight",
        "encoder.mean.bias",
    ]
    assert len({parameter.path for parameter in table}) == len(table)


@pytest.mark.parametrize("name", [DEFAULT_PRESET, "yunjey"])
def test_describe_tells_counts_and_units(name: str) -> None:
    text = description.text(preset(name), name)
    for needed in (
        "652,824 parameters",
        "784 -> 400, relu",
        "Bernoulli",
        "beta 1, the negative ELBO",
        "nats per image",
    ):
        assert needed in text


DESCRIBED = {
    "tanh-mse": ("pixels in [-1, 1]", "summed squared error; mean: tanh. Implied variance 0.5"),
    "flax-example": ("784 -> 500, relu", "binarised once", "the first 50,000 for training"),
    "autoencoder": (
        "a code of 20 numbers from a ReLU; there is no prior",
        "reconstruction alone",
        "mean squared error",
    ),
    "denoising": ("Gaussian noise of deviation 0.5",),
    "dropout": ("a share 0.2 of its pixels",),
    "adversarial": ("three updates a step", "discriminator.logit", "the discriminator's and the generator's part as"),
    "relu-sigma": ("mean and sigma from a ReLU", "the loss over 784 pixels"),
    "conv": (
        "conv 3x3/2 p1, 1 -> 32 of 14x14",
        "batch norm of 32, leaky-relu",
        "effective beta 0.196",
        "+ 0.00025 times",
    ),
    "beta-h": ("effective beta 1.96", "times 0.95 each epoch"),
    "beta-b": ("effective gamma 1.96", "C rises to 25 nats in 10,000 training steps"),
    "pictures": (
        "conv 3x3/2 p1, 1 -> 16 of 14x14, elu",
        "Gaussian of one learned variance, 0.02 at first",
        "the loss over 784 pixels",
    ),
    "conditional": ("794 -> 400, relu", "30 -> 400, relu", "10 classes, one-hot"),
    "gaussian": ("Gaussian of variance 1, with its constant",),
    "gaussian-learned": ("Gaussian of one learned variance", "652,825 parameters"),
    "gaussian-pixel": ("a variance for each pixel from the decoder", "decoder.logvar"),
    "iwae": ("784 -> 200, tanh", "importance-weighted bound of 5 samples", "binarised again at every step"),
    "iwae-paper": ("bound of 50 samples", "10^(-i/7) for 3^i epochs, i = 0..7", "eps 5e-06"),
}


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in (DEFAULT_PRESET, "yunjey")])
def test_describe_tells_what_sets_a_preset_apart(name: str) -> None:
    text, spec = description.text(preset(name), name), preset(name)
    for needed in (*DESCRIBED[name], "nats per image"):
        assert needed in text
    trained = sum(math.prod(p.shape) for p in layout.table(spec.model) if "running" not in p.name)
    assert re.search(rf"in all +{trained:,} parameters", text)
    assert f"{trained:,} parameters" in description.summary(spec)
