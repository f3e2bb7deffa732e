"""Folders of Orbax, and this project's own exports, are imported by both packages; damaged ones are refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxvae
import torchvae
from jaxvae.shared.backend import Format
from jaxvae.shared.commands import import_
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from parity_tests.corrupt import orbax
from parity_tests.tests.files.test_import import both, imported, refused

pytestmark = pytest.mark.either

WORDS = ModelSpec(
    (8, 8, 3),
    (),
    2,
    "layers",
    "elu",
    likelihood="gaussian-learned",
    encoder=("conv4k4s2p1+norm", "linear5+tanh"),
    decoder=("linear4x4x2", "up3k4s2p1"),
)


def small(preset: str) -> Spec:
    """A configuration of this preset, or of layers in words."""
    if preset == "layers":
        return Spec(model=WORDS, objective=ObjectiveSpec(form="iwae", samples=3))
    base = PRESETS[preset]
    return replace(base, model=replace(base.model, image=(8, 8, 3), hidden=(5, 4), latent=2))


def exported(path: Path, preset: str, format: Format) -> tuple[Spec, dict[str, np.ndarray]]:
    """A run's export, its configuration and its weights."""
    spec = small(preset)
    params = jaxvae.init(spec, jaxvae.root_key(0))
    arrays = jaxvae.to_arrays(spec, params)
    if format == "torch":
        torchvae.export_model(path, spec, torchvae.from_arrays(spec, arrays), format)
    else:
        jaxvae.export_model(path, spec, params, format)
    return spec, arrays


@pytest.mark.parametrize("preset", ["pytorch-examples", "conv", "layers"])
@pytest.mark.parametrize(
    ("package", "format"),
    [  # torchvae reads torch's for jaxvae, too
        *((jaxvae, format) for format in ("orbax", "flax")),
        *((torchvae, format) for format in ("orbax", "flax", "torch")),
    ],
)
def test_our_own_exports_are_read(package, format: Format, preset: str, tmp_path) -> None:
    spec, arrays = exported(tmp_path / "out", preset, format)
    read, weights = package.load_foreign(tmp_path / "out", None, (8, 8, 3))
    assert (read.model, read.objective) == (spec.model, spec.objective)
    actual = package.to_arrays(read, weights)
    assert list(actual) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)


@both
def test_an_export_of_words_has_its_configuration_beside_it(package, tmp_path, capsys) -> None:
    spec = exported(tmp_path / "a.msgpack", "layers", "flax")[0]
    run = imported(package, capsys, tmp_path / "a.msgpack", tmp_path / "run", "--activation", "relu")
    assert (run.spec.model, run.spec.objective) == (replace(WORDS, activation="relu"), spec.objective)
    import_.export_source(package, run, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "a.msgpack").read_bytes()
    says = "a.config.json has the classes 0, not 3; leave --classes out."
    refused(package, capsys, tmp_path, says, tmp_path / "a.msgpack", "--classes", 3)
    file = tmp_path / "a.config.json"
    config = json.loads(file.read_text())
    config["spec"]["model"]["latent"] = 0
    unknown = "is from none of the known programs"
    for content, says in ((json.dumps(config), "latent must be"), ("[", unknown), ("{}", unknown)):
        file.write_text(content)
        err = refused(package, capsys, tmp_path, says, tmp_path / "a.msgpack")
        assert (str(file) in err) == (says != unknown)
    config["spec"]["model"] |= {"latent": 2, "encoder": ["linear5", "linear5"]}  # of another model
    file.write_text(json.dumps(config))
    refused(package, capsys, tmp_path, unknown, tmp_path / "a.msgpack")
    config["spec"]["model"]["encoder"] = ["conv9k4s2p1+norm", "linear5"]
    file.write_text(json.dumps(config))
    refused(package, capsys, tmp_path, "encoder.hidden.0.conv.kernel should be", tmp_path / "a.msgpack")


def saved(path: Path, tree: Any) -> Path:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    """A state of training: parameters beside an optimizer's, in bfloat16, and averages of them."""
    spec = small("pytorch-examples")
    params = jax.tree.map(lambda a: a.astype("bfloat16"), jaxvae.init(spec, jaxvae.root_key(0)))
    params = with_text_keys(params)
    ema = jax.tree.map(lambda a: a + 1, params)
    tree = {"params": params, "ema": {"model": ema}, "opt_state": {"mu": params}, "step": 3}
    return saved(tmp_path_factory.mktemp("orbax") / "state", tree)


def with_text_keys(tree: Any) -> Any:
    return {str(key): with_text_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


@both
def test_a_state_of_training_has_its_model(package, training: Path, tmp_path, capsys) -> None:
    params, ema = (package.read_foreign(training, prefix) for prefix in (None, "ema"))
    assert {tensor.dtype for tensor in params.tensors} == {"bfloat16"}
    assert [t.path[1:] for t in params.tensors] == [t.path[2:] for t in ema.tensors]
    model = imported(package, capsys, training, tmp_path / "run", "--image", 8, 8, 3)
    with pytest.raises(import_.InputError, match="use jaxvae export --format orbax"):
        import_.export_source(package, model, tmp_path / "back")
    refused(package, capsys, tmp_path, "no tensors behind the prefix x; its names begin", training, "--prefix", "x")


@both
def test_a_step_of_a_checkpoint_manager_is_read(package, training: Path, tmp_path) -> None:
    shutil.copytree(training, tmp_path / "3/default")
    assert len(package.read_foreign(tmp_path / "3").tensors) == len(package.read_foreign(training).tensors)


@both
def test_a_damaged_folder_is_refused(package, training: Path, tmp_path, capsys, monkeypatch) -> None:
    folder = shutil.copytree(training, tmp_path / "state")
    metadata = json.loads((folder / "_METADATA").read_text())
    for content in ("[", "[]", "{}", json.dumps({**metadata, "tree_metadata": {"a": {}}})):
        (folder / "_METADATA").write_text(content)
        refused(package, capsys, tmp_path, "is not a whole Orbax folder", folder)
    entry = {"key_metadata": [{"key": "gone"}]}
    (folder / "_METADATA").write_text(json.dumps({**metadata, "tree_metadata": {"a": entry}}))
    refused(package, capsys, tmp_path, "is not a whole Orbax folder", folder)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    refused(package, capsys, tmp_path, "which the package tensorstore reads, and it is not installed", folder)


@both
def test_an_array_that_expands_is_refused(package, tmp_path, capsys) -> None:
    folder = saved(tmp_path / "state", {"a": np.zeros(2**25, np.float32)})
    refused(package, capsys, tmp_path, "at most 67,108,864 bytes, since on the disk it has", folder)


@both
def test_an_array_of_too_many_parts_is_refused(package, tmp_path, capsys) -> None:
    """None of them is there, and each would be looked for."""
    folder = tmp_path / "state"
    orbax.place(folder, orbax.files({"a": np.zeros((2, 3), np.float32)}))
    about = json.loads((folder / "a/.zarray").read_text())
    (folder / "a/.zarray").write_text(json.dumps({**about, "shape": [2**18, 3], "chunks": [1, 1], "fill_value": 0.0}))
    refused(package, capsys, tmp_path, "at most 67,108,864 bytes, since on the disk it has", folder)
