"""Other programs' files that would take all memory or time, or say anything to a terminal: each is refused in a
sentence before its tensors are copied."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import torchvae
from jaxvae.shared.interop import file_limits
from jaxvae.shared.text import printable
from parity_tests.support.external_models import torch_model
from parity_tests.tests.files.test_import import both, refused, run

pytestmark = pytest.mark.either


def shared_dicts() -> dict:
    """Sixty dicts, each twice in the next: 2^60 ways through them."""
    tree: dict = {"x": 1}
    for _ in range(60):
        tree = {"a": tree, "b": tree}
    return tree


def shared_tuples(path: Path) -> None:
    """Sixty tuples, each twice in the next, as a key: 2^60 values to hash, and torch.load has to."""
    content = b"\x80\x02})q\0" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60)) + b"Ns."
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a/data.pkl", content)


def deep_dicts() -> dict:
    tree: dict = {"x": torch.ones(1)}
    for _ in range(200):
        tree = {"a": tree}
    return tree


def deflated(path: Path, content: bytes) -> None:
    """A file of torch.save with one compressed storage."""
    torch.save({"a": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as opened:
        names = opened.namelist()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in names:
            opened.writestr(name, content if name.endswith("/data/0") else b"")


PICKLES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "dicts that share each other": (
        "contains no tensors by name: it holds a dict of a, b",
        lambda path: torch.save(shared_dicts(), path),
    ),
    "dicts in dicts": ("nested 100 deep, found more", lambda path: torch.save(deep_dicts(), path)),
    "strides of 0": (
        "at most 67,108,864 bytes, since on the disk it has",
        lambda path: torch.save({"a": torch.zeros(1).expand(10**10)}, path),
    ),
    "one storage many times": (
        "at most 67,108,864 bytes, since on the disk it has",
        lambda path: torch.save(dict.fromkeys(map(str, range(100)), torch.zeros(10**6)[::2]), path),
    ),
    "deflated": ("at most 67,108,864 bytes, since on the disk it has", lambda path: deflated(path, bytes(2**26 + 1))),
    "deflated a little": ("whose files are stored, found compressed ones", lambda path: deflated(path, bytes(2**10))),
    "sparse": (
        "tensor a must have dense numbers, found sparse_coo",
        lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
    ),
    "meta": (
        "found no numbers, since it is on meta",
        lambda path: torch.save({"a": torch.empty(10**9, device="meta")}, path),
    ),
    "a bare tensor": ("it holds one tensor [3, 4] without a name", lambda path: torch.save(torch.zeros(3, 4), path)),
    "tuples": ("must have tuples of at most 1,048,576 values, found more, which share each other", shared_tuples),
    "a list": ("holds a list of 2 values, the first of them one", lambda path: torch.save([torch.ones(2)] * 2, path)),
    "a list in a dict": (
        "a dict of epoch, weights, of which weights is a list of 2 values, the first of them one tensor [2]",
        lambda path: torch.save({"epoch": 3, "weights": [torch.ones(2)] * 2}, path),
    ),
    "a number": ("it holds an int", lambda path: torch.save(3, path)),
    "escapes": (r"found '\x1b[31mred'", lambda path: torch.save({"\x1b[31mred": torch.ones(1)}, path)),
    "escapes as a type": (
        "tensor \\x1b[31mred must have a plain number type, found complex64",
        lambda path: torch.save({"\x1b[31mred": torch.ones(1, dtype=torch.complex64).conj()}, path),
    ),
}


@pytest.mark.parametrize("attack", PICKLES)
def test_a_pickle_that_grows_is_refused(attack: str, tmp_path, capsys) -> None:
    says, write = PICKLES[attack]
    write(tmp_path / "file")
    err = refused(torchvae, capsys, tmp_path, says, tmp_path / "file")
    assert err.strip().isprintable()
    assert len(err) < 500


def array(*content: object) -> bytes:
    return msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(content) or b"")}) or b""


MSGPACK = {
    "a type that is no text": (array((2,), 5, bytes(8)), "tensor a must have one of the types float16,"),
    "a type with escapes": (array((2,), "\x1b[31m", bytes(8)), "found \\x1b[31m; convert it"),
    "no array": (msgpack.packb({"a": msgpack.ExtType(1, b"\x01")}), "is not a whole Flax msgpack file"),
    "another length": (array((3,), "float32", bytes(8)), "is not a whole Flax msgpack file"),
    "a shape of text": (array(("\x1b",), "float32", bytes(8)), "is not a whole Flax msgpack file"),
    "an array of arrays": (msgpack.packb({"a": [array((2,), "float32", bytes(8))]}), "of which a is a list of 1"),
}


@both
@pytest.mark.parametrize("damage", MSGPACK)
def test_msgpack_that_is_no_arrays_is_refused(package, damage: str, tmp_path, capsys) -> None:
    content, says = MSGPACK[damage]
    (tmp_path / "file").write_bytes(content)
    assert refused(package, capsys, tmp_path, says, tmp_path / "file").strip().isprintable()


@both
def test_more_tensors_than_any_model_has_are_refused(package, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(file_limits, "MAX_TENSORS", 50)
    safetensors.numpy.save_file({str(i): np.zeros(1, np.float32) for i in range(51)}, tmp_path / "file")
    refused(package, capsys, tmp_path, "must have at most 50 tensors, found 51", tmp_path / "file")
    names = {f"odd.{i}": np.zeros(1, np.float32) for i in range(50)}
    safetensors.numpy.save_file(names, tmp_path / "file")
    err = refused(package, capsys, tmp_path, "is from none of the known programs", tmp_path / "file")
    assert len(err.replace(str(tmp_path), "")) < 400


@both
@pytest.mark.parametrize("name", ["\x1b]0;title\x07", "a\nb", "\u202eabc", "long" * 100])
def test_names_with_escapes_are_refused(package, name: str, tmp_path, capsys) -> None:
    safetensors.torch.save_file({name: torch.zeros(1)}, tmp_path / "file")
    err = refused(package, capsys, tmp_path, "must have printable names of at most 200 characters", tmp_path / "file")
    assert err.strip().isprintable()


@both
def test_a_file_of_holes_is_refused(package, tmp_path, capsys) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    with (tmp_path / "file").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 10**10)
    refused(package, capsys, tmp_path, "must be stored whole, found 10,000,000,081 bytes", tmp_path / "file")


def test_what_a_configuration_says_is_printed_without_escapes(tmp_path, capsys) -> None:
    torch.save({"model_state_dict": torch_model("pythae").state_dict()}, tmp_path / "model.pt")
    config = {"name": "\x1b[31m" * 200, "input_dim": ["\x1b[31m"] * 200, "reconstruction_loss": "\x1b[31m"}
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    status, out, _ = run(torchvae, capsys, "import", tmp_path / "model.pt", "--out", tmp_path / "run")
    assert status == 0
    assert all(line.isprintable() for line in out.splitlines())
    assert max(map(len, out.splitlines())) < 500


def test_text_from_files_is_printable_and_short() -> None:
    assert printable("fc1.weight") == "fc1.weight"
    assert printable("größe") == "größe"
    assert printable("\x1b[31m\n") == "\\x1b[31m\\n"
    assert printable("a" * 101) == "a" * 97 + "..."
