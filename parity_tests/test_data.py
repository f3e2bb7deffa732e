"""Finding, verifying and reading the images; what is wrong with a file is said, not trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxvae.shared import data
from jaxvae.shared.errors import InputError

IMAGE = (28, 28, 1)
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = data.MNIST


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path_factory) -> None:
    """No MNIST but what a test names, and no network."""
    monkeypatch.delenv("JAXVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(data, "_download", lambda root: "no network")


@pytest.fixture
def copy(mnist_root: Path, tmp_path: Path) -> Path:
    """A copy of MNIST to spoil; the files are links until they are changed."""
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in data.MNIST:
        (raw / name).symlink_to(mnist_root.resolve() / "MNIST" / "raw" / name)
    return tmp_path / "root"


def spoil(root: Path, name: str, content: bytes) -> None:
    path = root / "MNIST" / "raw" / name
    path.unlink()
    path.write_bytes(content)


def content(root: Path, name: str) -> bytes:
    return (root / "MNIST" / "raw" / name).read_bytes()


def test_mnist_is_torchvisions(mnist, mnist_root) -> None:
    from torchvision.datasets import MNIST

    for train, images, labels in ((True, mnist.train, mnist.train_labels), (False, mnist.test, mnist.test_labels)):
        theirs = MNIST(str(mnist_root), train=train, download=False)
        np.testing.assert_array_equal(images[..., 0], theirs.data.numpy(), strict=True)
        np.testing.assert_array_equal(labels, theirs.targets.numpy())


def test_mnist_is_looked_for_in_order(copy, mnist_root, monkeypatch, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="MNIST can't be had"):
        data.load("mnist", tmp_path / "empty", IMAGE)
    (data.cache()).mkdir(parents=True)
    shutil.copytree(copy / "MNIST", data.cache() / "MNIST", symlinks=True)
    assert data.load("mnist", tmp_path / "empty", IMAGE)[0].source == str(data.cache())
    monkeypatch.setenv("JAXVAE_DATA", str(mnist_root))
    assert data.load("mnist", tmp_path / "empty", IMAGE)[0].source == str(mnist_root.resolve())
    assert data.load("mnist", copy, IMAGE)[0].source == str(copy)


def test_auto_goes_on_with_digits_and_says_why() -> None:
    dataset, why = data.load("auto", None, IMAGE)
    assert dataset.name == "digits"
    assert why is not None
    assert "no network" in why
    with pytest.raises(InputError, match="--data digits"):
        data.load("mnist", None, IMAGE)


def test_auto_never_passes_over_a_spoilt_file(copy) -> None:
    spoil(copy, TEST, content(copy, TEST)[:-1])
    with pytest.raises(InputError, match="is not the published file"):
        data.load("auto", copy, IMAGE)


@pytest.mark.parametrize("name", data.MNIST)
@pytest.mark.parametrize("fault", ["cut", "empty", "one bit", "longer"])
def test_a_spoilt_file_is_named(copy, name: str, fault: str) -> None:
    whole = content(copy, name)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    spoil(copy, name, {"cut": whole[:-100], "empty": b"", "one bit": bytes(flipped), "longer": whole + b"\0"}[fault])
    what = "a changed file: MD5" if fault == "one bit" else "bytes where there should be"
    with pytest.raises(InputError, match=what) as caught:
        data.mnist(copy)
    assert str(copy / "MNIST" / "raw" / name) in str(caught.value)


@pytest.mark.parametrize(("one", "other"), [(TRAIN, TEST), (TRAIN_LABELS, TEST_LABELS), (TRAIN, TRAIN_LABELS)])
def test_swapped_files_are_named(copy, one: str, other: str) -> None:
    a, b = content(copy, one), content(copy, other)
    spoil(copy, one, b)
    spoil(copy, other, a)
    with pytest.raises(InputError, match=f"the content of {other}"):
        data.mnist(copy)


def test_mislabelled_images_are_found(copy) -> None:
    """Labels of the right number and range, in the wrong order."""
    labels = content(copy, TRAIN_LABELS)
    spoil(copy, TRAIN_LABELS, labels[:8] + labels[8:][::-1])
    with pytest.raises(InputError, match="a changed file: MD5"):
        data.mnist(copy)


def test_a_missing_file_is_named(copy) -> None:
    (copy / "MNIST" / "raw" / TEST_LABELS).unlink()
    with pytest.raises(InputError, match=f"{TEST_LABELS} can't be read"):
        data.mnist(copy)


def test_a_missing_root_is_said() -> None:
    for name in ("auto", "mnist", "digits"):
        with pytest.raises(InputError, match="is not a folder"):
            data.load(name, Path("/no/such/folder"), IMAGE)  # type: ignore[arg-type]


def test_mnist_is_of_one_size() -> None:
    with pytest.raises(InputError, match="MNIST's images are 28 28 1, the model's 8 8 1"):
        data.load("mnist", None, (8, 8, 1))


def test_a_download_is_whole_or_not_at_all(monkeypatch, tmp_path, copy) -> None:
    """torchvision's part is played by a copy: once it fails half-way, once it succeeds."""
    from torchvision import datasets

    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXVAE_DATA", raising=False)

    def fails(root: str, download: bool) -> None:
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        (Path(root) / "MNIST" / "raw" / TRAIN).write_bytes(b"half")
        raise RuntimeError("Error downloading train-labels")

    monkeypatch.setattr(datasets, "MNIST", fails)
    with pytest.raises(InputError, match="downloading it failed"):
        data.mnist()
    assert list(data.cache().iterdir()) == []

    monkeypatch.setattr(datasets, "MNIST", lambda root, download: shutil.copytree(copy / "MNIST", Path(root) / "MNIST"))
    assert data.mnist().train.shape == (60_000, 28, 28, 1)
    assert sorted(path.name for path in data.cache().rglob("*") if path.is_file()) == sorted(data.MNIST)
    monkeypatch.setattr(datasets, "MNIST", fails)
    assert data.mnist().source == str(data.cache())


def test_digits_are_resized() -> None:
    from sklearn.datasets import load_digits

    digits = data.digits((28, 28, 1))
    assert digits.train.shape == (1500, 28, 28, 1)
    assert digits.test.shape == (297, 28, 28, 1)
    assert digits.train.dtype == np.uint8
    pixels, labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(np.concatenate([digits.train_labels, digits.test_labels]), labels)
    small = data.digits((8, 8, 1)).train[..., 0]  # at their own size they are themselves
    np.testing.assert_array_equal(small, np.round(pixels[:1500].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8))
    with pytest.raises(InputError, match="grey"):
        data.digits((8, 8, 3))
