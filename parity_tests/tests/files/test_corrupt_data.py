"""Untrusted files of images: each error is a sentence, and no run is begun."""

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.data import datasets, idx
from jaxvae.shared.errors import InputError
from parity_tests.corrupt import readers, transforms
from parity_tests.corrupt.data import NPY, NPZ, PICTURES
from parity_tests.corrupt.transforms import Kind
from parity_tests.support.cli import in_time

pytestmark = pytest.mark.either

__all__ = ["in_time"]
PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
GROUPS = {"npy": (NPY, "npy"), "npz": (NPZ, "npz"), "images": (PICTURES, "png")}
EVERY = [(name, kind) for name, (kinds, _) in GROUPS.items() for kind in kinds]
IMAGE = ["--image", "4", "6", "1", "--hidden", "5", "--latent", "2"]


def put(name: str, kind: Kind, folder: Path) -> tuple[Path, str]:
    """The kind in a folder, and what --data is to read it."""
    target = GROUPS[name][1]
    path = readers.place(folder, target)
    kind.put(path, readers.TARGETS[target][1].whole)
    return path, f"{name}:{path.parent if name == 'images' else path}"


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(("name", "kind"), EVERY, ids=[f"{name}-{kind.name}" for name, kind in EVERY])
def test_malformed_images_are_refused_in_a_sentence(tmp_path, capsys, package: str, name: str, kind: Kind) -> None:
    path, asked = put(name, kind, tmp_path)
    out = tmp_path / "run"
    assert cli.main(PACKAGES[package], ["train", "--data", asked, *IMAGE, "--out", str(out)]) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.startswith(f"{package}: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    assert kind.says in err
    assert str(path if path.exists() and kind.name != "a folder" else path.parent) in err or "data" in err
    assert not out.exists()
    assert not transforms.marker(path).exists(), "code of the file was run"


@pytest.mark.parametrize("name", GROUPS)
def test_whole_images_are_read(tmp_path, name: str) -> None:
    """Or all of this would prove nothing."""
    target = GROUPS[name][1]
    path = readers.place(tmp_path, target)
    path.write_bytes(readers.TARGETS[target][1].whole)
    assert readers.TARGETS[target][1].read(path) == "the same"


IDX: dict[str, Any] = {
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a FIFO": (lambda path: os.mkfifo(path), "is a FIFO"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "empty": (lambda path: path.touch(), "0 bytes where there should be 47,040,016"),
    "a terabyte": (lambda path: (path.touch(), os.truncate(path, 2**40)), "1,099,511,627,776 bytes where there"),
    "a header alone": (lambda path: path.write_bytes(struct.pack(">4I", 2051, 60000, 28, 28)), "16 bytes where there"),
}


@pytest.mark.parametrize("kind", IDX)
def test_a_malformed_file_of_mnist_is_refused_in_a_sentence(tmp_path, monkeypatch, kind: str) -> None:
    """Others are in test_data.py, which has the whole ones to change."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in idx.MNIST:
        if name != "train-images-idx3-ubyte":
            (raw / name).touch()
    make, says = IDX[kind]
    make(raw / "train-images-idx3-ubyte")
    with pytest.raises(InputError, match=says) as caught:
        datasets.mnist(tmp_path)
    assert str(raw / "train-images-idx3-ubyte") in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), EVERY, ids=[f"{name}-{kind.name}" for name, kind in EVERY])
def test_memory_is_bounded_by_what_a_file_holds(tmp_path, name: str, kind: Kind) -> None:
    path, asked = put(name, kind, tmp_path)
    stored = path.stat().st_size if path.is_file() else 0
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            datasets.load(readers.Spec(asked, readers.IMAGES.model), None)
        assert tracemalloc.get_traced_memory()[1] < 2**22 + 20 * stored
    finally:
        tracemalloc.stop()
