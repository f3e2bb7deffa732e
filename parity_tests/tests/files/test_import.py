"""Other programs' checkpoints: each means here what it means there and goes back to the byte; faults are named."""

import doctest
import importlib
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import serialization

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.commands import import_
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import name_mapping, readers, recognition
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_mapping import Laid, Rule
from jaxvae.shared.interop.name_table import Table
from jaxvae.shared.interop.source import Source
from jaxvae.shared.model import layout, weight_file
from jaxvae.shared.runs import run_folder
from parity_tests.support.backends import lean
from parity_tests.support.external_models import KNOWN, answers, flax_file, flax_params, torch_model

pytestmark = pytest.mark.either

PACKAGES: dict[str, Any] = {"jaxvae": jaxvae, "torchvae": torchvae}
both = pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))

_lean = pytest.fixture(scope="module", autouse=True)(lean)


@pytest.fixture(autouse=True)
def _x64_off():
    yield
    jax.config.update("jax_enable_x64", False)


RANGE: dict[str, dict[str, Any]] = {
    name: {"range": "signed"} for name in KNOWN if name.startswith("antixk")
}  # what has to be given


def flags(name: str) -> list[str]:
    """What `import` asks for beside a known program's file."""
    return [word for key, value in RANGE.get(name, {}).items() for word in (f"--{key}", value)]


def saved(name: str, path: Path, kind: str, dtype: str = "float32") -> Path:
    """A known program's checkpoint in its own format, or else in safetensors."""
    if name == "flax-example":
        path.write_bytes(flax_file(flax_params(dtype)))
    elif kind == "pickle":
        torch.save(torch_model(name, dtype).state_dict(), path)
    else:
        safetensors.torch.save_file(torch_model(name, dtype).state_dict(), path, {"format": "pt"})
    return path


def run(package, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    capsys.readouterr()
    status = cli.main(package, [str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def refused(package, capsys, tmp_path: Path, says: str, path: Path, *flags: object) -> str:
    """One sentence on standard error that has these words, status 2, and no run."""
    status, out, err = run(package, capsys, "import", path, "--out", tmp_path / "refused", *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{package.__name__}: ")
    assert says in err
    assert not (tmp_path / "refused").exists()
    return err


def imported(package, capsys, path: Path, out: Path, *flags: object) -> run_folder.Run:
    status, _, err = run(package, capsys, "import", path, "--out", out, *flags)
    assert status == 0, err
    return run_folder.read(out)


# Both add the same products in other orders: tens of roundings of 6e-8 or 1e-16, in a few layers of numbers near 1.
CLOSE = {"float32": 1e-5, "float64": 1e-12}


@both
@pytest.mark.parametrize("name", KNOWN)
def test_a_source_means_here_what_it_means_there(package, name: str, dtype: str, tmp_path) -> None:
    kind = "pickle" if package is torchvae else "safetensors"
    spec, params = package.load_foreign(saved(name, tmp_path / "file", kind, dtype), **RANGE.get(name, {}))
    known = KNOWN[name]
    assert (spec.model.image, spec.model.hidden, spec.model.latent) == (known.image, known.hidden, known.latent)
    expected = PRESETS[known.preset]
    assert (spec.objective, spec.images) == (expected.objective, expected.images)
    assert (spec.model.likelihood, spec.training.dtype) == (expected.model.likelihood, dtype)
    assert spec.model.classes == known.classes

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(4, *known.image)).astype(dtype)
    z = rng.normal(size=(4, known.latent)).astype(dtype)
    parts, means = answers(name, dtype, x, z)
    array = torch.tensor if package is torchvae else jax.numpy.asarray
    encode, decode = package.encode, package.decode
    if package is jaxvae:
        encode, decode = (jax.jit(function, static_argnums=0) for function in (encode, decode))
    labels = [array(np.arange(4))] if known.classes else []
    posterior = encode(spec, params, array(x.reshape(4, -1)), *labels)
    actual = package.pixel_means(spec, decode(spec, params, array(z), *labels))
    assert len(posterior) == len(parts)
    for part, expected in zip(posterior, parts, strict=True):
        np.testing.assert_allclose(_array(part), expected, rtol=0, atol=CLOSE[dtype])
    np.testing.assert_allclose(_array(actual).reshape(means.shape), means, rtol=0, atol=CLOSE[dtype])


def _array(value) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


@both
@pytest.mark.parametrize("name", KNOWN)
def test_the_way_back_is_the_files_own_bytes(package, name: str, tmp_path, capsys) -> None:
    """Of safetensors and of Flax's msgpack: the whole file."""
    path = saved(name, tmp_path / "file", "safetensors")
    adopted = imported(package, capsys, path, tmp_path / "run", *flags(name))
    import_.export_source(package, adopted, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "flax-example"])
def test_a_pickles_tensors_come_back_to_the_bit(name: str, tmp_path, capsys) -> None:
    path = saved(name, tmp_path / "file.pt", "pickle")
    adopted = imported(torchvae, capsys, path, tmp_path / "run", *flags(name))
    import_.export_source(torchvae, adopted, tmp_path / "back.pt")
    same_pickles(tmp_path / "back.pt", path)
    model = KNOWN[name].build()
    assert str(model.load_state_dict(torch.load(tmp_path / "back.pt"))) == "<All keys matched successfully>"
    with pytest.raises(InputError, match="only torchvae writes; use torchvae"):
        import_.export_source(jaxvae, adopted, tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


def same_pickles(path: Path, other: Path) -> None:
    """The same keys in the same order, and of each tensor the same type, shape and bits."""

    def walk(a: object, b: object) -> int:
        if isinstance(b, dict):
            assert isinstance(a, dict)
            assert list(a) == list(b)
            return sum(walk(a[key], b[key]) for key in b)
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, torch.Tensor)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert bytes(a.flatten().view(torch.uint8)) == bytes(b.flatten().view(torch.uint8))
        return 1

    assert walk(torch.load(path), torch.load(other)) > 4


WRAPPED = {
    "DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {
        "epoch": 3,
        "state_dict": {f"model.{k}": v for k, v in state.items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "hyper_parameters": {"lr": 0.005},
    },
    "compiled": lambda state: {"model_state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
    "compiled within": lambda state: {k.replace(".", "._orig_mod.", 1): v for k, v in state.items()},
    "params": lambda state: {"params": state, "opt_state": {"mu": torch.ones(2)}},
    "all": lambda state: {"state_dict": {"params": {f"model._orig_mod.module.{k}": v for k, v in state.items()}}},
    "by module": lambda state: {"model": nested(state)},
}


def nested(state: dict) -> dict:
    tree: dict = {}
    for key, value in state.items():
        tree.setdefault(key.partition(".")[0], {})[key.partition(".")[2]] = value
    return tree


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("name", ["pytorch-examples", "antixk"])
def test_wrappers_are_seen_through(name: str, wrapped: str, tmp_path, capsys) -> None:
    plain, state = torch_model(name).state_dict(), tmp_path / "wrapped.ckpt"
    torch.save(WRAPPED[wrapped](dict(plain)), state)
    spec, model = torchvae.load_foreign(state, **RANGE.get(name, {}))
    torch.save(plain, tmp_path / "plain.pt")
    expected_spec, expected = torchvae.load_foreign(tmp_path / "plain.pt", **RANGE.get(name, {}))
    assert spec == expected_spec
    for key, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
    import_.export_source(
        torchvae, imported(torchvae, capsys, state, tmp_path / "run", *flags(name)), tmp_path / "back"
    )
    if wrapped not in ("Lightning", "params"):
        same_pickles(tmp_path / "back", state)
    else:  # what is beside the model's tensors stays behind
        key = "state_dict" if wrapped == "Lightning" else "params"
        torch.save({key: torch.load(state)[key]}, tmp_path / "model alone")
        same_pickles(tmp_path / "back", tmp_path / "model alone")


@both
@pytest.mark.parametrize("prefix", ["module.", "model.module.", "_orig_mod.", "model._orig_mod."])
def test_prefixes_in_safetensors_are_seen_through(package, prefix: str, tmp_path, capsys) -> None:
    state = {f"{prefix}{key}": tensor for key, tensor in torch_model("yunjey").state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "file")
    adopted = imported(package, capsys, tmp_path / "file", tmp_path / "run")
    import_.export_source(package, adopted, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


@both
@pytest.mark.parametrize("nest", [["params"], ["params", "params"], ["state_dict", "params"]])
def test_flaxs_nesting_is_seen_through(package, nest: list[str], tmp_path) -> None:
    tree = flax_params()
    for key in reversed(nest):
        tree = {key: tree}
    state = {"step": np.int32(4), **tree, "opt_state": {"0": {"mu": flax_params()}}}
    (tmp_path / "file").write_bytes(serialization.to_bytes(state))
    (tmp_path / "plain").write_bytes(flax_file(flax_params()))
    actual, expected = (package.load_foreign(tmp_path / name) for name in ("file", "plain"))
    assert actual[0] == expected[0]
    arrays, others = (package.to_arrays(*pair) for pair in (actual, expected))
    for name, array in others.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


TYPES = {
    "float16": lambda key: torch.float16,
    "bfloat16": lambda key: torch.bfloat16,
    "float64": lambda key: torch.float64,
    "mixed": lambda key: {"fc1.weight": torch.float64, "fc3.bias": torch.float16}.get(key, torch.bfloat16),
}


@both
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("name", ["pytorch-examples", "antixk"])
def test_other_types_are_widened_and_come_back(package, name: str, types: str, tmp_path, capsys) -> None:
    state = torch_model(name).state_dict()
    state = {k: t.to(TYPES[types](k)) if t.is_floating_point() else t for k, t in state.items()}
    safetensors.torch.save_file(state, tmp_path / "file", {"format": "pt"})
    adopted = imported(package, capsys, tmp_path / "file", tmp_path / "run", *flags(name))
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    assert adopted.spec.training.dtype == ("float64" if wide else "float32")
    arrays = weight_file.load(adopted.weights)[1]
    first = "encoder.hidden.0.conv.weight" if name == "antixk" else "encoder.hidden.0.weight"
    expected = state["encoder.0.0.weight" if name == "antixk" else "fc1.weight"]
    np.testing.assert_array_equal(arrays[first].astype(np.float64), expected.double().numpy())
    import_.export_source(package, adopted, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


@both
def test_flaxs_bfloat16_comes_back(package, tmp_path, capsys) -> None:
    half = jax.tree.map(lambda array: array.astype(ml_dtypes.bfloat16), flax_params())
    (tmp_path / "file").write_bytes(flax_file(half))
    adopted = imported(package, capsys, tmp_path / "file", tmp_path / "run")
    result = weight_file.load(adopted.weights)[1]["encoder.mean.weight"]
    np.testing.assert_array_equal(result.T, half["encoder"]["fc2_mean"]["kernel"].astype(np.float32))
    import_.export_source(package, adopted, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    numbers = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    numbers[:3] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, -0.0  # the ties to even
    result = readers.narrowed(("x",), "bfloat16", numbers).array
    np.testing.assert_array_equal(result, torch.tensor(numbers).bfloat16().view(torch.uint16).numpy())


@pytest.mark.parametrize("writer", PACKAGES)
def test_the_commands_take_an_imported_run(writer: str, tmp_path, capsys) -> None:
    """Of the other package; and the report says what was recognised."""
    path, out = saved("sequential-halves", tmp_path / "file", "safetensors"), tmp_path / "run"
    status, printed, _ = run(PACKAGES[writer], capsys, "import", path, "--out", out, "--data", "digits")
    assert status == 0
    for words in (
        "a pair of nn.Sequential, whose encoder gives twice the latents, 16 tensors of float32 (safetensors)",
        "sizes: image 6x6x1, hidden 8 5 6, latent 4\n",
        "loss: that of the preset relu-sigma\n",
        "note: the names don't show what the halves are",
        "\nlikelihood  summed squared error",
        f"weights in {out / 'model.safetensors'}",
    ):
        assert words in printed
    other = next(package for name, package in PACKAGES.items() if name != writer)
    status, printed, err = run(other, capsys, "evaluate", out)
    assert status == 0, err
    assert "over 297 images of digits" in printed
    for command in ("sample", "reconstruct"):
        assert run(other, capsys, command, out, "--out", tmp_path / "x.png", "--n", "4")[0] == 0
    assert f"preset relu-sigma, by {writer}" in run(other, capsys, "describe", out)[1]
    status, _, err = run(other, capsys, "train", "--resume", out)
    assert status == 2
    assert "was imported and has no checkpoint" in err


def test_the_preset_says_what_the_tensors_do_not(tmp_path, capsys) -> None:
    path = saved("antixk", tmp_path / "file", "safetensors")
    for preset in ("conv", "beta-h", "beta-b"):
        adopted = imported(jaxvae, capsys, path, tmp_path / preset, "--preset", preset, *flags("antixk"))
        assert adopted.config["preset"] == preset
        assert adopted.spec.objective == PRESETS[preset].objective
    assert (
        "VanillaVAE's loss is taken"
        in run(jaxvae, capsys, "import", path, "--out", tmp_path / "x", *flags("antixk"))[1]
    )
    refused(jaxvae, capsys, tmp_path, "which the preset yunjey doesn't have; give --preset", path, "--preset", "yunjey")
    refused(jaxvae, capsys, tmp_path, "There is no preset 'x'", path, "--preset", "x")
    says = "which a model with --preset conv --network mlp doesn't have; give --preset one of conv, beta-h"
    refused(jaxvae, capsys, tmp_path, says, path, "--preset", "conv", "--network", "mlp")


@both
@pytest.mark.parametrize("pixels", ["signed", "unit"])
def test_antixks_range_has_to_be_given_and_its_mean_is_tanh_in_both(package, pixels: str, tmp_path, capsys) -> None:
    path = saved("antixk", tmp_path / "file", "safetensors")
    says = "in [-1, 1] until 2021-12-22 and trains on [0, 1] since, with tanh both times"
    assert err_ends(refused(package, capsys, tmp_path, says, path), "give --range signed or --range unit.")
    status, printed, _ = run(package, capsys, "import", path, "--out", tmp_path / "run", "--range", pixels)
    assert status == 0
    assert f"given: --range {pixels};" in printed
    assert "(mean of a pixel: tanh)" in printed
    spec, params = package.load_foreign(path, range=pixels)
    assert (spec.images.range, spec.model.output) == (pixels, "bounded" if pixels == "signed" else "tanh")
    assert replace(spec, data="mnist") == run_folder.read(tmp_path / "run").spec
    x, z = np.zeros((4, 16, 16, 3), np.float32), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = answers("antixk", "float32", x, z)[1]
    array = torch.tensor if package is torchvae else jax.numpy.asarray
    decode = jax.jit(package.decode, static_argnums=0) if package is jaxvae else package.decode
    actual = _array(package.pixel_means(spec, decode(spec, params, array(z)))).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=CLOSE["float32"])
    with pytest.raises(InputError, match="load_foreign has no argument rang; it may have preset, image, range"):
        package.load_foreign(path, rang=pixels)


def err_ends(err: str, words: str) -> bool:
    return err.strip().endswith(words)


SHARED = {
    "pytorch-examples": "L1aoXingyu/pytorch-beginner's VAE, whose loss is the summed squared error",
    "antixk": "IWAE, MIWAE, InfoVAE, DIPVAE, LogCoshVAE and MSSIMVAE",
    "pythae": "BetaVAE, DisentangledBetaVAE, BetaTCVAE, IWAE, MIWAE",
    "pyro": "Trace_ELBO estimates the KL divergence from the sampled latents, and the loss here has it exactly",
    "sequential-halves": "they fit a pair of nn.Sequential, whose encoder gives mean and log-variance, too (--preset",
}


@pytest.mark.parametrize("name", KNOWN)
def test_that_names_fit_and_functions_may_not_is_always_said(name: str, tmp_path, capsys) -> None:
    path = saved(name, tmp_path / "file", "safetensors")
    status, printed, _ = run(jaxvae, capsys, "import", path, "--out", tmp_path / "run", *flags(name))
    assert status == 0
    assert "note: names and shapes fit " in printed
    assert "but functions and loss may differ" in printed
    assert SHARED.get(name, "") in printed
    assert "note: the tensors don't show these, which are assumed: " in printed


@both
def test_what_is_assumed_can_be_given(package, tmp_path, capsys) -> None:
    path, asked = saved("pytorch-examples", tmp_path / "file", "safetensors"), ("--activation", "tanh")
    asked += ("--range", "signed", "--likelihood", "squared-error", "--output", "linear", "--beta", "4")
    status, printed, _ = run(package, capsys, "import", path, "--out", tmp_path / "run", *asked, "--units", "pixel")
    assert status == 0
    assert "loss: that of the preset pytorch-examples, but for the flags given\n" in printed
    assert "which are assumed: --binarization none --posterior gaussian (mean of a pixel: identity); given: " in printed
    spec = run_folder.read(tmp_path / "run").spec
    assert (spec.model.activation, spec.images.range, spec.model.likelihood) == ("tanh", "signed", "squared-error")
    assert (spec.model.output, spec.objective.beta, spec.objective.units) == ("linear", 4.0, "pixel")
    says = "a Bernoulli likelihood needs pixels in [0, 1]"
    refused(package, capsys, tmp_path, says, path, "--range", "signed")


def test_the_constant_of_a_gaussian_is_told_in_numbers(tmp_path, capsys) -> None:
    path = saved("pythae", tmp_path / "file", "safetensors")
    printed = run(jaxvae, capsys, "import", path, "--out", tmp_path / "run")[1]
    assert f"has the Gaussian's constant, {18 * np.log(2 * np.pi):.2f} nats per image, which a program" in printed


@both
def test_halves_are_read_as_either(package, tmp_path, capsys) -> None:
    path = saved("sequential-halves", tmp_path / "file", "safetensors")
    x = np.random.default_rng(0).uniform(size=(4, 36)).astype(np.float32)
    with torch.no_grad():
        halves = torch_model("sequential-halves").encoder[:-1](torch.tensor(x)).chunk(2, -1)
    for given, relu in (({"posterior": "gaussian"}, False), ({"preset": "pytorch-examples"}, False), ({}, True)):
        spec, params = package.load_foreign(path, **given)
        array = torch.tensor if package is torchvae else jax.numpy.asarray
        for part, half in zip(package.encode(spec, params, array(x)), halves, strict=True):
            np.testing.assert_allclose(_array(part), half.relu() if relu else half, rtol=0, atol=CLOSE["float32"])
    assert spec.model.posterior == "relu-sigma"
    adopted = imported(package, capsys, path, tmp_path / "run", "--posterior", "gaussian")
    assert (adopted.spec.model.likelihood, adopted.config["preset"]) == ("bernoulli", "pytorch-examples")
    import_.export_source(package, adopted, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_programs_own_fields_stay_with_a_preset(tmp_path, capsys) -> None:
    path = saved("pyro", tmp_path / "file", "safetensors")
    model = imported(jaxvae, capsys, path, tmp_path / "run", "--preset", "gaussian").spec.model
    assert (model.likelihood, model.posterior, model.activation) == ("gaussian", "log-sigma", "softplus")
    says = "has the layers of Pyro's examples/vae, which the preset autoencoder doesn't have; give --preset one of"
    refused(jaxvae, capsys, tmp_path, says, path, "--preset", "autoencoder")


@both
def test_a_conditional_model_is_told_from_the_same_names_without_labels(package, tmp_path, capsys) -> None:
    state = torch_model("timbmg conditional").state_dict()
    state["encoder.MLP.L0.weight"] = state["encoder.MLP.L0.weight"][:, 1:].contiguous()
    safetensors.torch.save_file(state, tmp_path / "file")
    says = "has the names of timbmg/VAE-CVAE-MNIST's CVAE, but encoder.MLP.L0.weight should be [7, 46], found [7, 45]"
    refused(package, capsys, tmp_path, says, tmp_path / "file")


@both
@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (3, "has the inputs of a model of 10 classes, not of 3; give --classes 10."),
        (14, "has the inputs of a model of 10 classes, not of 14; give --classes 10."),  # the latent would be negative
        (50, "has the inputs of a model of 10 classes, not of 50; give --classes 10."),  # and the image's width
    ],
)
def test_another_number_of_classes_is_named(package, classes: int, says: str, tmp_path, capsys) -> None:
    path = saved("timbmg conditional", tmp_path / "file", "safetensors")
    refused(package, capsys, tmp_path, says, path, "--classes", classes)
    plain = saved("pytorch-examples", tmp_path / "plain", "safetensors")
    says = f"has the inputs of a model of 0 classes, not of {classes}; leave --classes out."
    refused(package, capsys, tmp_path, says, plain, "--classes", classes)
    state = torch_model("timbmg conditional").state_dict()
    state["encoder.MLP.L0.weight"] = state["encoder.MLP.L0.weight"][:, 1:].contiguous()
    safetensors.torch.save_file(state, path)
    says = "inputs in its decoder, of which --classes 14 leaves none for latents; give --classes a smaller number"
    refused(package, capsys, tmp_path, says, path, "--classes", 14)


def test_the_image_can_be_given(tmp_path, capsys) -> None:
    path = saved("pytorch-examples", tmp_path / "file", "safetensors")
    assert imported(jaxvae, capsys, path, tmp_path / "run", "--image", 3, 4, 3).spec.model.image == (3, 4, 3)
    refused(jaxvae, capsys, tmp_path, "has images of 36 values, not 3 4 2", path, "--image", 3, 4, 2)
    conv = saved("antixk", tmp_path / "conv", "safetensors")
    assert imported(
        jaxvae, capsys, conv, tmp_path / "wide", "--image", 8, 32, 3, *flags("antixk")
    ).spec.model.image == (8, 32, 3)
    says = "multiples of 8 with the product 256, not 15 16 3"
    refused(jaxvae, capsys, tmp_path, says, conv, "--image", 15, 16, 3)
    model = {k: torch.zeros(s) for k, s in {"fc1.weight": (6, 35), "fc5.weight": (35, 6), "fc5.bias": (35,)}.items()}
    safetensors.torch.save_file({**torch_model("yunjey").state_dict(), **model}, tmp_path / "odd")
    refused(jaxvae, capsys, tmp_path, "of 35 values, which make no square; give --image", tmp_path / "odd")


def test_pythaes_configuration_beside_the_file_is_heard(tmp_path, capsys) -> None:
    torch.save({"model_state_dict": torch_model("pythae").state_dict()}, tmp_path / "model.pt")
    config = {"name": "VAEConfig", "input_dim": [4, 3, 3], "latent_dim": 3, "reconstruction_loss": "bce"}
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    adopted = imported(torchvae, capsys, tmp_path / "model.pt", tmp_path / "run")
    assert (adopted.spec.model.image, adopted.spec.model.likelihood) == ((3, 3, 4), "bernoulli")
    assert adopted.config["preset"] == "pytorch-examples"
    (tmp_path / "model_config.json").write_text(json.dumps({**config, "name": "BetaVAEConfig", "input_dim": [6, 6]}))
    status, printed, _ = run(torchvae, capsys, "import", tmp_path / "model.pt", "--out", tmp_path / "other")
    assert status == 0
    assert "model_config.json is a BetaVAEConfig, whose loss is not that of pythae's VAE" in printed
    (tmp_path / "model_config.json").write_text("[")
    refused(torchvae, capsys, tmp_path, "is not a pythae configuration", tmp_path / "model.pt")


@both
def test_an_unknown_file_is_told_what_is_nearest(package, tmp_path, capsys) -> None:
    state = {"fc1.weight": torch.zeros(3, 4), "fc1.bias": torch.zeros(3), "odd.one": torch.zeros(2, 2)}
    safetensors.torch.save_file(state, tmp_path / "file")
    err = refused(package, capsys, tmp_path, "is from none of the known programs", tmp_path / "file")
    assert err == (
        f"{package.__name__}: {tmp_path / 'file'} is from none of the known programs: the nearest is "
        "pytorch/examples' VAE, of which it lacks fc21.bias, fc21.weight, fc22.bias and 5 more; for a model of your "
        "own give --table FILE, a table from its names to those that `describe` lists.\n"
    )
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "file")
    says = "the nearest is a pair of nn.Sequential, an autoencoder, of which it lacks decoder.0.bias, "
    refused(package, capsys, tmp_path, says, tmp_path / "file")


DAMAGE = {
    "missing": (lambda s: s.pop("fc22.bias"), "the nearest is pytorch/examples' VAE, of which it lacks fc22.bias; for"),
    "extra": (lambda s: s.update(beta=torch.ones(1)), "pytorch/examples' VAE, beside whose tensors it has beta; for"),
    "transposed": (
        lambda s: s.update({"fc21.weight": torch.zeros(7, 3)}),
        "fc21.weight should be [3, 7], found [7, 3]",
    ),
    "misshapen": (lambda s: s.update({"fc4.bias": torch.zeros(35)}), "fc4.bias should be [36], found [35]"),
    "flat": (lambda s: s.update({"fc1.weight": torch.zeros(252)}), "fc1.weight should have 2 axes, none of length 0"),
    "empty": (lambda s: s.update({"fc1.weight": torch.zeros(0, 36)}), "none of length 0, found [0, 36]"),
    "nan": (lambda s: s["fc1.bias"].fill_(torch.nan), "fc1.bias contains NaN or infinite values"),
    "integers": (
        lambda s: s.update({"fc1.bias": torch.zeros(7, dtype=torch.int32)}),
        "floating-point type, found int",
    ),
    "twice": (lambda s: s.update({"module.fc1.bias": torch.zeros(7)}), "has fc1.bias more than once"),
    "float8": (lambda s: s.update({"fc1.bias": torch.zeros(7).to(torch.float8_e5m2)}), "found F8_E5M2; convert it"),
}


@both
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_tensor_that_is_not_right_is_named(package, damage: str, tmp_path, capsys) -> None:
    state = torch_model("pytorch-examples").state_dict()
    DAMAGE[damage][0](state)
    safetensors.torch.save_file(state, tmp_path / "file")
    refused(package, capsys, tmp_path, DAMAGE[damage][1], tmp_path / "file")


def test_of_two_programs_with_the_same_names_the_nearer_is_named(tmp_path, capsys) -> None:
    state = torch_model("sequential-halves").state_dict()
    state["decoder.0.bias"] = torch.zeros(2)
    safetensors.torch.save_file(state, tmp_path / "file")
    says = "encoder gives twice the latents, but decoder.0.bias should be [6], found [2]; for a model of"
    refused(jaxvae, capsys, tmp_path, says, tmp_path / "file")


def test_a_conditional_model_of_the_same_names(tmp_path, capsys) -> None:
    state = torch_model("pytorch-examples").state_dict()
    state |= {"fc1.weight": torch.rand(7, 46), "fc3.weight": torch.rand(7, 13)}
    safetensors.torch.save_file(state, tmp_path / "file")
    adopted = imported(
        jaxvae, capsys, tmp_path / "file", tmp_path / "run", "--preset", "conditional", "--data", "digits"
    )
    assert (adopted.spec.model.image, adopted.spec.model.latent, adopted.spec.model.classes) == ((6, 6, 1), 3, 10)
    assert run(torchvae, capsys, "evaluate", tmp_path / "run")[0] == 0


class Malicious:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_no_code_in_a_pickle_is_run(tmp_path, capsys) -> None:
    """Which torchvae reads for jaxvae, too."""
    mark = tmp_path / "mark"
    for content in (
        {**torch_model("yunjey").state_dict(), "x": Malicious(mark)},
        Malicious(mark),
        torch_model("yunjey"),
    ):
        torch.save(content, tmp_path / "file.pt")
        err = refused(torchvae, capsys, tmp_path, "contain code or objects are not opened", tmp_path / "file.pt")
        assert "posix.system" in err or "Yunjey" in err
    assert not mark.exists()


@both
def test_our_own_weight_file_needs_no_import(package, tmp_path, capsys) -> None:
    imported(package, capsys, saved("yunjey", tmp_path / "file", "safetensors"), tmp_path / "run")
    refused(
        package, capsys, tmp_path, "of jaxvae and torchvae, which needs no import", tmp_path / "run/model.safetensors"
    )


def test_without_msgpack_its_files_are_refused(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    path = saved("flax-example", tmp_path / "file", "msgpack")
    refused(torchvae, capsys, tmp_path, "need the package msgpack, which is not installed", path)


@both
def test_a_file_that_is_none_of_these_is_refused(package, tmp_path, capsys) -> None:
    path = tmp_path / "file"
    refused(package, capsys, tmp_path, "does not exist", path)
    path.mkdir()
    refused(package, capsys, tmp_path, "is a folder", path)
    path.rmdir()
    for content in (b"", b"hello, this is text"):
        path.write_bytes(content)
        refused(package, capsys, tmp_path, "must be a safetensors file, a Flax msgpack file", path)
    for name, words in (("yunjey", "not a whole safetensors file"), ("flax-example", "not a whole Flax msgpack file")):
        whole = saved(name, path, "safetensors").read_bytes()
        path.write_bytes(whole[:-9])
        refused(package, capsys, tmp_path, words, path)
    path.write_bytes(b"\x81\xa1a" * 5000)
    refused(package, capsys, tmp_path, "not a whole Flax msgpack file", path)
    path.write_bytes(serialization.to_bytes({"a": 1}))
    refused(package, capsys, tmp_path, "contains no tensors", path)
    taken = saved("yunjey", path, "safetensors")
    status, _, err = run(package, capsys, "import", taken, "--out", tmp_path)
    assert (status, "exists already" in err) == (2, True)


def test_a_pickle_cut_short_is_refused(tmp_path, capsys) -> None:
    whole = saved("yunjey", tmp_path / "file", "pickle").read_bytes()
    for content in (whole[:-40], whole[:50], b"\x80\x02garbage"):
        (tmp_path / "file").write_bytes(content)
        refused(torchvae, capsys, tmp_path, "is not a whole file of plain tensors", tmp_path / "file")
    endless: dict = {}
    for key in ("state_dict", "x"):
        endless[key] = endless
        torch.save(endless, tmp_path / "file")
        refused(torchvae, capsys, tmp_path, "contains no tensors by name", tmp_path / "file")
        endless.clear()
    torch.save(torch_model("yunjey").state_dict(), tmp_path / "old", _use_new_zipfile_serialization=False)
    imported(torchvae, capsys, tmp_path / "old", tmp_path / "run")


def test_a_run_that_was_not_imported_has_no_way_back(tmp_path, capsys) -> None:
    adopted = imported(jaxvae, capsys, saved("yunjey", tmp_path / "file", "safetensors"), tmp_path / "run")
    trained = adopted._replace(config={k: v for k, v in adopted.config.items() if k != "imported"})
    with pytest.raises(InputError, match="was trained, not imported"):
        import_.export_source(jaxvae, trained, tmp_path / "back")
    for corrupt in (
        {},
        [],
        {**adopted.config["imported"], "source": "x"},
        {**adopted.config["imported"], "tensors": [{}]},
        {**adopted.config["imported"], "tensors": []},
        {**adopted.config["imported"], "header": "{}"},
    ):
        with pytest.raises(InputError, match="is corrupt"):
            import_.export_source(jaxvae, adopted._replace(config={"imported": corrupt}), tmp_path / "back")
    assert not (tmp_path / "back").exists()


class Mine(torch.nn.Module):
    """A model that is no known program's, with dropout between its layers and one tensor for mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.enc = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Dropout(0.1), nn.Linear(5, 4), nn.Tanh(), nn.Dropout())
        self.head = nn.Linear(4, 4)
        self.dec = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 12))


MINE = {
    "rules": {
        "enc.{3i}.*": "encoder.hidden.{i}.*",
        "head.*": "encoder.mean.* + encoder.logvar.*",
        "dec.{2i}.*": "decoder.hidden.{i}.*",
        "dec.{2n}.*": "decoder.logits.*",
    },
    "activation": "tanh",
    "image": [2, 2, 3],
}


def own(folder: Path, table: object, prefix: str = "", **more: torch.Tensor) -> tuple[Path, Path]:
    """The file of a model of one's own, and its table."""
    torch.manual_seed(0)
    state = {f"{prefix}{name}": tensor for name, tensor in Mine().state_dict().items()}
    safetensors.torch.save_file({**state, **more}, folder / "mine")
    (folder / "mine.json").write_text(table if isinstance(table, str) else json.dumps(table))
    return folder / "mine", folder / "mine.json"


@both
@pytest.mark.parametrize("prefix", ["", "model.module."])
def test_a_table_makes_a_run_of_anybodys_model(package, prefix: str, tmp_path, capsys) -> None:
    path, table = own(tmp_path, MINE, prefix)
    out = tmp_path / "run"
    status, printed, err = run(package, capsys, "import", path, "--table", table, "--out", out, "--output", "bounded")
    assert status == 0, err
    assert f"the table {table}, 12 tensors of float32" in printed
    assert "sizes: image 2x2x3, hidden 5 4, latent 2" in printed
    assert "given: --image 2 2 3 --activation tanh --output bounded" in printed
    again, params = package.load_foreign(path, table=table)
    assert replace(again, data="mnist") == run_folder.read(out).spec
    mine, x = Mine().eval(), np.random.default_rng(0).uniform(size=(3, 2, 2, 3)).astype(np.float32)
    torch.manual_seed(0)
    mine.load_state_dict(Mine().state_dict())
    with torch.no_grad():
        parts = mine.head(mine.enc(torch.tensor(x).permute(0, 3, 1, 2).flatten(1))).chunk(2, -1)
    array = torch.tensor if package is torchvae else jax.numpy.asarray
    for part, expected in zip(package.encode(again, params, array(x.reshape(3, -1))), parts, strict=True):
        np.testing.assert_allclose(_array(part), expected, rtol=0, atol=CLOSE["float32"])
    for command in (["describe", out], ["sample", out, "--out", tmp_path / "x.png", "--n", 4]):
        assert run(package, capsys, *command)[0] == 0
    assert run(package, capsys, "export", out, "--format", "source", "--out", tmp_path / "back")[0] == 0
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


MORE = {"net.classifier.weight": torch.full((3, 2), torch.nan), "step": torch.tensor(7), "net.bn.mean": torch.ones(2)}


@both
def test_a_table_skips_what_the_model_has_no_use_for(package, tmp_path, capsys) -> None:
    path, table = own(tmp_path, MINE, "", **MORE)
    says = "it lacks nothing and beside these names it has net.bn.mean [2], net.classifier.weight [3, 2], step []; "
    refused(package, capsys, tmp_path, f"{says}give each a rule, or list it in the table's", path, "--table", table)
    path, table = own(tmp_path, MINE, "net.", **MORE)
    table.write_text(json.dumps({**MINE, "skip": ["net.cl*", "[s]tep", "step", "bn.mean", "absent.*"]}))
    out = tmp_path / "run"
    status, printed, err = run(package, capsys, "import", path, "--table", table, "--out", out)
    assert status == 0, err
    assert f"the table {table}, 15 tensors of float32, int64 behind net. (safetensors)" in printed
    assert "note: the table skips net.bn.mean, net.classifier.weight, step\n" in printed
    plain, _ = own(tmp_path, MINE)
    expected = package.to_arrays(*package.load_foreign(plain, table=table))
    actual = weight_file.load(out / "model.safetensors")[1]
    assert all((actual[name] == expected[name]).all() for name in expected)
    status, _, err = run(package, capsys, "export", out, "--format", "source", "--out", tmp_path / "back")
    assert (status, (tmp_path / "back").exists()) == (2, False)
    assert "skips net.bn.mean, net.classifier.weight, step, whose numbers the run doesn't have" in err


@both
def test_a_table_of_flaxs_layout_and_of_no_counted_layers(package, tmp_path, capsys) -> None:
    tree = {"params": {"net": flax_params()}}
    (tmp_path / "file").write_bytes(serialization.to_bytes(tree))
    names = {"encoder.fc1": "encoder.hidden.0", "encoder.fc2_mean": "encoder.mean", "decoder.fc1": "decoder.hidden.0"}
    names |= {"encoder.fc2_logvar": "encoder.logvar", "decoder.fc2": "decoder.logits"}
    rules = {f"net.{theirs}.*": f"{ours}.*" for theirs, ours in names.items()}
    (tmp_path / "t.json").write_text(json.dumps({"rules": rules, "layout": "flax", "preset": "flax-example"}))
    adopted = imported(package, capsys, tmp_path / "file", tmp_path / "run", "--table", tmp_path / "t.json")
    assert (adopted.spec.model.image, adopted.spec.model.hidden, adopted.spec.model.latent) == ((5, 5, 3), (7,), 2)
    assert adopted.config["preset"] == "flax-example"
    import_.export_source(package, adopted, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def rules_but(**changes: Any) -> dict:
    return {**MINE, "rules": {k: v for k, v in {**MINE["rules"], **changes}.items() if v}}


BAD_TABLES = {
    "can't be read (": "{",
    "has no rules; write it such as": {"activation": "tanh"},
    "must be an object of named fields": [],
    "has an unknown field 'enc.*'": {**MINE, "enc.*": "x"},
    "activation must be one of 'relu'": {**MINE, "activation": "gelu"},
    "skip must be a list of words, found 'step'": {**MINE, "skip": "step"},
    "skip must be text, found 1": {**MINE, "skip": [1]},
    "layout must be one of 'torch', 'torch-hwc', 'flax', found 'jax'": {**MINE, "layout": "jax"},
    "rules, 'a' must be text, found 1": rules_but(a=1),
    "mine.json: there is no preset 'x'": {**MINE, "preset": "x"},
    "mine.json: the configuration's encoder must be words such as": {
        **MINE,
        **{"network": "layers", "encoder": ["linearr5"], "decoder": ["linear12"]},
    },
    "mine.json: the configuration's slope must be from 0 to 1, found 5.0": {**MINE, "slope": 5},
    "mine.json: invalid configuration: only leaky-relu has a slope": {**MINE, "slope": 0.2},
    "the rule for y.* names encoder.men.*, which the model doesn't have; a model with one hidden layer has "
    "encoder.hidden.0, encoder.mean, encoder.logvar, decoder": rules_but(**{"y.*": "encoder.men.*"}),
    "the rule for y.* names 'encoder.m\\ud800n.*', which": rules_but(**{"y.*": "encoder.m\ud800n.*"}),
    "the table has no rule for encoder.mean.weight": rules_but(**{"head.*": None}),
    "the table names encoder.logvar.bias, encoder.logvar.weight more than once": rules_but(
        **{"v.*": "encoder.logvar.*"}
    ),
    "joins encoder.mean.* | decoder.logits.*, which are not of one network and one shape": rules_but(
        **{"head.*": "encoder.mean.* | decoder.logits.*"}
    ),
    "it lacks haed.bias, haed.weight and beside these names it has head.bias [4], head.weight [4, 4]": rules_but(
        **{"head.*": None, "haed.*": "encoder.mean.* + encoder.logvar.*"}
    ),
    "has images of 12 values, not 3 3 1": {**MINE, "image": [3, 3, 1]},
    "head.weight should be [8, 4], found [4, 4]": rules_but(
        **{"dec.{2i}.*": None, "dec.0.*": "decoder.hidden.1.*", "dec.2.*": "decoder.hidden.0.*"}
    ),
}


@both
@pytest.mark.parametrize("says", BAD_TABLES)
def test_a_table_that_does_not_fit_is_refused(package, says: str, tmp_path, capsys) -> None:
    path, table = own(tmp_path, BAD_TABLES[says])
    refused(package, capsys, tmp_path, says, path, "--table", table)


@both
def test_a_table_of_your_own_goes_both_ways(package) -> None:
    """Flax's layout of a convolutional model with batch norm in a collection apart, and PyTorch's of the same."""
    model = ModelSpec((4, 4, 2), (3, 4), 2, network="conv", likelihood="squared-error")
    spec = Spec(model=model)
    table = layout.table(model)
    rng = np.random.default_rng(0)
    mine = {".".join(map(str, p.path)): rng.uniform(size=p.flax_shape).astype(np.float32) for p in table}
    rules = [
        *(Rule(f"{net}.hidden.{{i}}.conv.*", f"{net}.hidden.{{i}}.conv.*", "flax") for net in ("encoder", "decoder")),
        *(Rule(f"{net}.hidden.{{i}}.norm.*", f"{net}.hidden.{{i}}.norm.*", "flax") for net in ("encoder", "decoder")),
        *(Rule(name, name, "flax") for name in ("encoder.mean.*", "encoder.logvar.*", "decoder.input.*")),
        Rule("decoder.logits.*", "decoder.logits.*", "flax"),
    ]
    params = package.from_foreign(
        spec, rules, {n: (jax.numpy if package is jaxvae else torch).asarray(a) for n, a in mine.items()}
    )
    arrays = package.to_arrays(spec, params)
    for parameter in table:
        expected = name_mapping.layout.to_torch(parameter, mine[".".join(map(str, parameter.path))])
        np.testing.assert_array_equal(arrays[parameter.name], expected, strict=True)
    back = package.to_foreign(spec, rules, params)
    assert set(back) == set(mine)
    for name, array in mine.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


def test_images_flattened_by_channel_are_distinguished_from_those_that_are_not() -> None:
    spec = Spec(model=ModelSpec((2, 3, 2), (), 1, classes=4))
    names = {"m.*": "encoder.mean.*", "v.*": "encoder.logvar.*", "d.*": "decoder.logits.*"}
    columns = np.arange(12.0).reshape(2, 2, 3)  # channel, height, width
    arrays = {f"{n}.weight": np.append(columns, [12, 13, 14, 15])[None] for n in "mv"}
    arrays |= {"m.bias": np.zeros(1), "v.bias": np.zeros(1), "d.weight": np.zeros((12, 5)), "d.bias": columns.ravel()}
    expected = columns.transpose(1, 2, 0).ravel()
    cases: list[tuple[Laid, np.ndarray]] = [("torch", expected), ("torch-hwc", np.arange(12))]
    for laid, order in cases:
        rules = [Rule(source, target, laid) for source, target in names.items()]
        actual = name_mapping.from_source(spec, rules, arrays, "It")
        np.testing.assert_array_equal(actual["encoder.mean.weight"][0], [*order, 12, 13, 14, 15])
        np.testing.assert_array_equal(actual["decoder.logits.bias"], order)
        back = name_mapping.to_source(spec, rules, actual)
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("laid", ["torch", "torch-hwc", "flax"])
def test_two_layers_in_one_tensor_are_its_halves_or_its_rows_in_turn_in_every_layout(laid: Laid) -> None:
    """Of Flax's kernels, `[in, out]`, the last axis is split; both ways, and with the sizes of the tensors."""
    spec = Spec(model=ModelSpec((2, 2, 3), (), 2, likelihood="gaussian-pixel"))
    rules = (
        Rule("e.*", "encoder.mean.* | encoder.logvar.*", laid),
        Rule("d.*", "decoder.logits.* + decoder.logvar.*", laid),
    )
    rng = np.random.default_rng(0)
    shapes = {"e.weight": (4, 12), "e.bias": (4,), "d.weight": (24, 2), "d.bias": (24,)}
    given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    hwc = np.arange(12).reshape(3, 2, 2).transpose(1, 2, 0).ravel() if laid == "torch" else np.arange(12)
    arrays = {n.replace("weight", "kernel"): a.T for n, a in given.items()} if laid == "flax" else given
    actual = name_mapping.from_source(spec, rules, arrays, "It")
    for leaf in ("weight", "bias"):
        e, d = given[f"e.{leaf}"], given[f"d.{leaf}"]
        e = e[:, hwc] if leaf == "weight" else e
        expected = {"encoder.mean": e[::2], "encoder.logvar": e[1::2]}
        expected |= {"decoder.logits": d[:12][hwc], "decoder.logvar": d[12:][hwc]}
        for layer, array in expected.items():
            np.testing.assert_array_equal(actual[f"{layer}.{leaf}"], array, strict=True)
    back = name_mapping.to_source(spec, rules, actual)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
    table = Table(Source("table", "the table", "pytorch-examples", rules), Given(likelihood="gaussian-pixel"))
    sizes = {name: array.shape for name, array in arrays.items()}
    assert recognition.by_table(table, sizes, Given(image=(2, 2, 3)), "It").spec.model == spec.model


WRONG_TABLES = {
    "no rule for decoder.logits.weight, decoder.logits.bias": lambda rules: rules[:-1],
    "The rule for y.* names encoder.men.*, which the model doesn't have": lambda rules: [
        *rules,
        Rule("y.*", "encoder.men.*"),
    ],
    "names encoder.mean.bias, encoder.mean.weight more than once": lambda rules: [
        *rules,
        Rule("c.*", "encoder.logvar.* + encoder.mean.* + encoder.mean.*"),
    ],
    "The rule for c.* has both + and |": lambda rules: [
        *rules,
        Rule("c.*", "encoder.logvar.* + encoder.mean.* | encoder.mean.*"),
    ],
    "joins encoder.mean.* + encoder.hidden.0.*, which are not of one network and one shape": lambda rules: [
        *rules,
        Rule("b.*", "encoder.mean.* + encoder.hidden.0.*"),
    ],
    "has a.bias, a.weight in two entries": lambda rules: [*rules[:1], Rule("a.*", "encoder.mean.*"), *rules[2:]],
}


@both
def test_a_table_that_is_not_right_says_so(package) -> None:
    spec = Spec(model=ModelSpec((2, 2, 1), (3,), 1))
    targets = ("encoder.hidden.0.*", "encoder.mean.*", "encoder.logvar.*", "decoder.hidden.0.*", "decoder.logits.*")
    rules = [Rule(f"{letter}.*", name) for letter, name in zip("abcde", targets, strict=True)]
    for says, change in WRONG_TABLES.items():
        with pytest.raises(InputError, match=re.escape(says)):
            package.from_foreign(spec, change(rules), {})
    says = r"The source doesn't fit the model: it lacks a.weight \[3, 4\]; .*it has an unexpected x \[2\]"
    with pytest.raises(InputError, match=says):
        package.from_foreign(spec, rules, {"x": np.zeros(2)})


@pytest.mark.parametrize("name", PACKAGES)
def test_the_example_in_the_docstring_runs(name: str) -> None:
    module = importlib.import_module(f"{name}.foreign")
    (example,) = doctest.DocTestFinder().find(module.from_foreign, "from_foreign", globs=vars(module).copy())
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 8
    assert result.failed == 0
