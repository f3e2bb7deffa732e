"""The same model behind other names and in other files: counters, prefixes, several models in a file, NumPy's .npz."""

import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import serialization

import jaxvae
import torchvae
from jaxvae.shared.commands import import_
from jaxvae.shared.interop.given import Given
from parity_tests.corrupt import transforms
from parity_tests.support.external_models import flax_params, torch_model
from parity_tests.tests.files.test_import import both, flags, imported, refused, same_pickles

pytestmark = pytest.mark.either


def same_model(package, path: Path, plain: Path, prefix: str | None = None, given: Given | None = None) -> None:
    """Both files have the same configuration and weights."""
    loaded = []
    for file, behind in ((path, prefix), (plain, None)):
        adopted = import_.adopt(file, package.read_foreign(file, behind), given or Given(), None)
        loaded.append((adopted.spec, adopted.arrays))
    (spec, arrays), (other, others) = loaded
    assert spec == other
    for name, array in others.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def state(name: str = "pytorch-examples") -> dict[str, torch.Tensor]:
    return dict(torch_model(name).state_dict())


def behind(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def averaged() -> dict[str, torch.Tensor]:
    model = torch.optim.swa_utils.AveragedModel(torch_model("antixk"))
    model.update_parameters(torch_model("antixk"))
    return dict(model.state_dict())


WRAPPED = {
    "AveragedModel": ("antixk", averaged),
    "vae.": ("pytorch-examples", lambda: behind("vae.", state())),
    "net.": ("yunjey", lambda: behind("net.", state("yunjey"))),
    "two prefixes": ("yunjey", lambda: behind("generator.my_net.", state("yunjey"))),
    "FSDP": ("yunjey", lambda: behind("_fsdp_wrapped_module.", state("yunjey"))),
    "DeepSpeed": ("yunjey", lambda: behind("_forward_module.vae.", state("yunjey"))),
    "FSDP within": (
        "pytorch-examples",
        lambda: {k.replace(".", "._fsdp_wrapped_module."): v for k, v in state().items()},
    ),
    "model_dict": ("yunjey", lambda: {"model_dict": state("yunjey"), "optimizer": {"state": {0: torch.ones(2)}}}),
    "ema_state_dict": ("yunjey", lambda: {"ema_state_dict": state("yunjey"), "optimizer": {"a": torch.ones(2)}}),
    "any key": ("yunjey", lambda: {"weights_of_epoch_3": state("yunjey"), "epoch": 3}),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_prefixes_and_counters_of_any_wrapper_are_seen_through(wrapped: str, tmp_path, capsys) -> None:
    name, tensors = WRAPPED[wrapped]
    torch.save(tensors(), tmp_path / "file")
    torch.save(state(name), tmp_path / "plain")
    signed = name == "antixk"
    same_model(torchvae, tmp_path / "file", tmp_path / "plain", given=Given(range="signed" if signed else None))
    run = imported(torchvae, capsys, tmp_path / "file", tmp_path / "run", *(flags(name) if signed else ()))
    import_.export_source(torchvae, run, tmp_path / "back")
    if "optimizer" not in tensors() and "epoch" not in tensors():
        same_pickles(tmp_path / "back", tmp_path / "file")


@both
@pytest.mark.parametrize("form", ["pure dict", "variables"])
def test_flax_nnx_random_streams_are_seen_through(package, form: str, tmp_path, capsys) -> None:
    def stream() -> dict[str, Any]:
        return {"count": np.array(3, np.uint32), "key": np.array([1, 2], np.uint32)}

    tree: dict[str, Any] = flax_params()
    (tmp_path / "plain").write_bytes(serialization.to_bytes(tree))
    tree = {**tree, "rngs": {"default": stream()}}
    tree["encoder"] = {**tree["encoder"], "dropout": {"rngs": stream()}}
    if form == "variables":
        tree = jax.tree.map(lambda leaf: {"value": leaf}, tree)
    (tmp_path / "file").write_bytes(serialization.to_bytes(tree))
    same_model(package, tmp_path / "file", tmp_path / "plain")
    import_.export_source(package, imported(package, capsys, tmp_path / "file", tmp_path / "run"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize(
    ("package", "kind"),
    [  # jaxvae starts a process for each pickle: see the test of one
        *((jaxvae, kind) for kind in ("safetensors", "npz")),
        *((torchvae, kind) for kind in ("safetensors", "npz", "pickle")),
    ],
)
def test_one_of_several_models_is_chosen_by_its_prefix(package, kind: str, tmp_path, capsys) -> None:
    ema, online = state(), {name: tensor + 1 for name, tensor in state().items()}
    tensors = {"step": torch.tensor(3), **behind("online_model.", online), **behind("ema_model.module.", ema)}
    files = tmp_path / "file", tmp_path / "plain"
    for path, content in zip(files, (tensors, behind("ema_model.module.", ema)), strict=True):
        if kind == "pickle":
            torch.save(content, path)
        elif kind == "npz":
            with path.open("wb") as file:
                np.savez(file, **{name: tensor.numpy() for name, tensor in content.items()})
        else:
            safetensors.torch.save_file(content, path)
    says = "beside those of a known program behind ema_model, online_model; choose a prefix, as in --prefix ema_model."
    refused(package, capsys, tmp_path, says, files[0])
    says = "no tensors behind the prefix ema; its names begin with"
    refused(package, capsys, tmp_path, says, files[0], "--prefix", "ema")
    same_model(package, *files, "ema_model")
    adopted = imported(package, capsys, files[0], tmp_path / "run", "--prefix", "ema_model.")
    import_.export_source(package, adopted, tmp_path / "back")
    same_model(package, tmp_path / "back", files[1])
    if kind == "pickle":
        same_pickles(tmp_path / "back", files[1])


def test_a_prefix_leads_past_the_usual_keys_of_a_pickle(tmp_path) -> None:
    other = {name: tensor + 1 for name, tensor in state().items()}
    torch.save({"model": state(), "ema": {"params": other}, "optimizer": {"a": torch.zeros(2)}}, tmp_path / "file")
    torch.save(state(), tmp_path / "plain")
    torch.save(other, tmp_path / "other")
    same_model(torchvae, tmp_path / "file", tmp_path / "plain")
    same_model(torchvae, tmp_path / "file", tmp_path / "other", "ema")


@both
@pytest.mark.parametrize("compressed", [False, True])
def test_npz_is_read_and_written(package, compressed: bool, tmp_path, capsys) -> None:
    tensors = state("antixk")
    safetensors.torch.save_file(tensors, tmp_path / "plain")
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    with (tmp_path / "file").open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)
    same_model(package, tmp_path / "file", tmp_path / "plain", given=Given(range="signed"))
    run = imported(package, capsys, tmp_path / "file", tmp_path / "run", *flags("antixk"))
    import_.export_source(package, run, tmp_path / "back")
    with np.load(tmp_path / "back") as back:
        assert back.files == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array, strict=True)


@both
def test_names_of_npz_may_have_slashes(package, tmp_path) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(flax_params())
    named: dict[str, Any] = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(tmp_path / "file.npz", **named)
    (tmp_path / "plain").write_bytes(serialization.to_bytes(flax_params()))
    same_model(package, tmp_path / "file.npz", tmp_path / "plain")


@both
def test_npz_that_holds_no_plain_arrays_is_refused(package, tmp_path, capsys) -> None:
    path = tmp_path / "file.npz"
    np.savez(path, a=np.array([{}], object))
    refused(package, capsys, tmp_path, "is not a whole .npz file of plain arrays", path)
    np.savez(path, a=np.array(["text"]))
    refused(package, capsys, tmp_path, "tensor a must have a plain number type, found <U4; convert it", path)
    np.savez(path, a=np.ones(100))
    path.write_bytes(path.read_bytes()[:-50])
    refused(package, capsys, tmp_path, "lacks its end; download or copy it again", path)
    np.savez_compressed(path, a=np.zeros(2**24))
    refused(package, capsys, tmp_path, "at most 67,108,864 bytes, since on the disk it has", path)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a.npy", transforms.npy(np.ones(2)).replace(b"}", b"{"))
    refused(package, capsys, tmp_path, "is not a whole .npz file of plain arrays (", path)


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as opened:
        for name in names:
            opened.writestr(name, b"")


OTHERS = {
    "a Keras model (.keras)": lambda path: zipped(path, "metadata.json", "config.json", "model.weights.h5"),
    "a program of torch.export (.pt2)": lambda path: zipped(path, "m/data/weights/weight_0", "m/archive_format"),
    "a TorchScript program": lambda path: zipped(path, "m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"),
    "a zip file of another kind": lambda path: zipped(path, "letter.txt"),
    "an HDF5 file, as Keras writes it (.h5)": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "a single array without a name (.npy)": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(100)),
    "a GGUF file": lambda path: path.write_bytes(b"GGUF" + bytes(100)),
    "a file compressed by gzip": lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)),
}


@both
@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_kinds_are_called_what_they_are(package, kind: str, tmp_path, capsys) -> None:
    OTHERS[kind](tmp_path / "file")
    refused(package, capsys, tmp_path, f"found {kind}", tmp_path / "file")


class Code:
    def __reduce__(self):
        return print, ("run",)


def test_a_checkpoints_numbers_of_numpy_are_passed_over(tmp_path, capsys) -> None:
    """As Lightning's callbacks have them; NumPy's arrays and code are still refused."""
    callbacks: dict[str, Any] = {
        "best": np.float64(0.5),
        "step": np.int64(3),
        "seen": np.bool_(True),
        "n": np.float32(1),
    }
    torch.save(
        {"state_dict": behind("model.", state()), "callbacks": {"ModelCheckpoint": callbacks}}, tmp_path / "file"
    )
    torch.save(state(), tmp_path / "plain")
    same_model(torchvae, tmp_path / "file", tmp_path / "plain")
    for value in (np.array([Code()], object), Code()):
        torch.save({"state_dict": state(), "callbacks": value}, tmp_path / "file")
        refused(torchvae, capsys, tmp_path, "contain code or objects are not opened", tmp_path / "file")


def test_jaxvae_reads_a_pickle_through_a_process_of_torchvae(tmp_path, capsys) -> None:
    """Keys, order and types, bfloat16 among them, are as torchvae reads them."""
    tensors = {name: tensor.bfloat16() for name, tensor in state().items()}
    torch.save({"ema": {"model": tensors}, "other": [1]}, tmp_path / "-file.pt")
    ours, theirs = (package.read_foreign(tmp_path / "-file.pt", "ema") for package in (jaxvae, torchvae))
    for tensor, expected in zip(ours.tensors, theirs.tensors, strict=True):
        assert tensor[:2] == expected[:2]
        np.testing.assert_array_equal(tensor.array, expected.array, strict=True)


def test_jaxvae_without_torch_says_what_a_pickle_needs(tmp_path, capsys, monkeypatch) -> None:
    torch.save(state(), tmp_path / "file.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(jaxvae, capsys, tmp_path, "which torch reads, and torch is not installed; run pip", tmp_path / "file.pt")


PROCESSES = {
    "which contains code": "echo file.pt, which contains code, is not opened.; exit 2",
    "ended with status 1 (no reason given)": "exit 1",
    "ended with status 3 (ValueError: \\x1b)": "printf 'Traceback\\nValueError: \\033' >&2; exit 3",
}


@pytest.mark.parametrize("says", PROCESSES)
def test_a_process_that_fails_is_a_sentence(says: str, tmp_path, capsys, monkeypatch) -> None:
    torch.save(state(), tmp_path / "file.pt")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{PROCESSES[says]}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    refused(jaxvae, capsys, tmp_path, says, tmp_path / "file.pt")
