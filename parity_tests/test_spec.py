"""The configuration: what it accepts, what it refuses, and that it comes back from JSON as it was."""

import copy
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae.shared import describe, layout
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import PRESETS, ModelSpec, ObjectiveSpec, Spec, TrainingSpec, from_json, preset, to_json

sizes = st.integers(1, 2000)
specs = st.builds(
    Spec,
    st.sampled_from(["auto", "mnist", "digits"]),
    st.builds(ModelSpec, st.tuples(sizes, sizes, sizes), st.lists(sizes, max_size=4).map(tuple), sizes),
    st.builds(ObjectiveSpec, st.floats(0, 1e6)),
    st.builds(
        TrainingSpec,
        epochs=sizes,
        max_steps=st.none() | sizes,
        batch_size=sizes,
        learning_rate=st.floats(1e-30, 1e3),
        seed=st.integers(0, 2**64 - 1),
        dtype=st.sampled_from(["float32", "float64"]),
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
        (["training", "dtype"], "float16", "must be one of 'float32', 'float64', found 'float16'"),
        (["training", "seed"], 2**64, "seed must be an integer from 0 to 2"),
        (["training", "max_steps"], 0, "max_steps must be positive"),
        (["training", "learning_rate"], "fast", "must be a number, found 'fast'"),
        (["training", "epochs"], 0, "epochs must be positive"),
        (["model", "latent"], 10**400, "latent must be positive and below 2.31"),
        (["objective", "beta"], 10**400, "must be a number"),
        (["data"], "imagenet", "must be one of"),
        (["colour"], "blue", "unknown field 'colour'"),
        (["training", "momentum"], 0.9, "unknown field 'momentum'"),
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


@pytest.mark.parametrize("path", [["data"], ["model"], ["model", "latent"], ["training", "seed"]])
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


@pytest.mark.parametrize("name", PRESETS)
def test_describe_tells_counts_and_units(name: str) -> None:
    text = describe.text(preset(name), name)
    for needed in (
        "652,824 parameters",
        "784 -> 400, ReLU",
        "Bernoulli",
        "beta = 1, the negative ELBO",
        "nats per image",
    ):
        assert needed in text
