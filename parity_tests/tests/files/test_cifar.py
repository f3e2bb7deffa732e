"""CIFAR-10's files: found, verified and read; one that is not as published is named, and no code in it runs."""

import hashlib
import pickle
import pickletools
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import cifar, datasets, published
from jaxvae.shared.errors import InputError
from parity_tests.corrupt.cifar_batch import batch, pickled

N = 4  # images in a forged file


def spec(image: tuple[int, int, int] = (32, 32, 3), classes: int = 0, resize: bool = False) -> Spec:
    return Spec("cifar10", ModelSpec(image=image, classes=classes), images=ImagesSpec(resize=resize))


@pytest.fixture
def forged(monkeypatch, tmp_path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A root with six small batches, whose sizes and digests are in the tables: with its pixels [24, 3, 32, 32] and
    labels [24]. Nothing else is found, and there is no network."""
    monkeypatch.delenv("JAXVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar, "BATCH", N)
    images = np.random.default_rng(0).integers(0, 256, (6 * N, 3, 32, 32), np.uint8)
    labels = np.arange(6 * N) % 10
    (tmp_path / "root" / cifar.CIFAR10.folder).mkdir(parents=True)
    for i, name in enumerate(cifar.CIFAR10.files[:6]):
        rows = slice(i * N, i * N + N)
        pixels = np.asarray(images[rows].reshape(N, 3072), order="F" if i == 1 else "C")
        put(monkeypatch, tmp_path / "root", name, batch(pixels, labels[rows].tolist()))
    put(monkeypatch, tmp_path / "root", "batches.meta", pickled({b"label_names": [b"airplane"]}))
    return tmp_path / "root", images, labels


def put(monkeypatch, root: Path, name: str, content: bytes) -> None:
    """Makes this the published content of a file."""
    (root / cifar.CIFAR10.folder / name).write_bytes(content)
    monkeypatch.setitem(cifar.BYTES, name, len(content))
    monkeypatch.setitem(cifar.DIGESTS, name, hashlib.md5(content).hexdigest())


def refused(root: Path, name: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        datasets.load(spec(), root)
    path = root / cifar.CIFAR10.folder / name
    assert str(caught.value).startswith(f"The file {path} of CIFAR-10 ")
    assert str(caught.value).endswith("give another folder by --data-root.")


def test_the_digests_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10

    meta = [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]
    assert list(cifar.DIGESTS.items()) == list(map(tuple, [*CIFAR10.train_list, *CIFAR10.test_list, meta]))
    assert CIFAR10.base_folder == cifar.CIFAR10.folder
    assert list(cifar.BYTES) == list(cifar.DIGESTS)


def test_images_and_labels_are_torchvisions(forged, monkeypatch) -> None:
    from torchvision.datasets import CIFAR10

    root, images, labels = forged
    result, why = datasets.load(spec(), root)
    assert (result.name, result.source, result.labelled, why) == ("cifar10", str(root.resolve()), True, None)
    *train, test, meta = [[name, cifar.DIGESTS[name]] for name in cifar.CIFAR10.files]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta[1]})
    for of, pixels, numbers in ((True, result.train, result.train_labels), (False, result.test, result.test_labels)):
        reference = CIFAR10(str(root), train=of)
        np.testing.assert_array_equal(pixels, reference.data, strict=True)
        np.testing.assert_array_equal(numbers, reference.targets)
        assert numbers.dtype == np.uint8
        assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(np.concatenate([result.train, result.test]), images.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(np.concatenate([result.train_labels, result.test_labels]), labels)


def test_it_is_fitted_to_the_model(forged) -> None:
    root = forged[0]
    assert datasets.load(spec((16, 16, 1), classes=10, resize=True), root)[0].train.shape == (5 * N, 16, 16, 1)
    with pytest.raises(InputError, match=r"^The images of CIFAR-10 are 32 32 3, the model's images 28 28 1; give --im"):
        datasets.load(spec((28, 28, 1)), root)
    with pytest.raises(InputError, match="give --classes 10"):
        datasets.load(spec(classes=5), root)


@pytest.mark.parametrize("name", cifar.CIFAR10.files)
@pytest.mark.parametrize("fault", ["missing", "cut", "empty", "one bit", "longer", "a folder"])
def test_a_corrupt_file_is_named(forged, name: str, fault: str) -> None:
    path = forged[0] / cifar.CIFAR10.folder / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    path.unlink()
    if fault == "missing":
        says = f"^CIFAR-10 in {path.parent} lacks {name} of its 7 files, found .* 1 more; add what is missing"
        with pytest.raises(InputError, match=says):
            datasets.load(spec(), forged[0])
        return
    if fault == "a folder":
        path.mkdir()
    else:
        path.write_bytes(
            {"cut": whole[:-1], "empty": b"", "one bit": bytes(flipped), "longer": whole + b"\0" * 20_000}[fault]
        )
    what = {"one bit": "a changed file: MD5", "a folder": "is a folder"}
    refused(forged[0], name, what.get(fault, f"bytes where there should be {len(whole):,};"))


def test_swapped_files_are_named(forged) -> None:
    one, other = (forged[0] / cifar.CIFAR10.folder / name for name in ("data_batch_2", "test_batch"))
    one.rename(forged[0] / "one")
    other.rename(one)
    (forged[0] / "one").rename(other)
    refused(forged[0], "data_batch_2", "the content of test_batch")


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_no_code_in_a_pickle_runs(forged, monkeypatch) -> None:
    """A changed file is not interpreted at all; a function is not called even where the digest is right."""
    root, harm = forged[0], forged[0] / "harm"
    path = root / cifar.CIFAR10.folder / "data_batch_1"
    content = pickle.dumps({b"data": Harm(harm)})
    path.write_bytes(content)
    with monkeypatch.context() as context:
        context.setattr(cifar, "_Unpickler", None)
        refused(root, "data_batch_1", "bytes where there should be")
    put(monkeypatch, root, "data_batch_1", content)
    refused(root, "data_batch_1", "no batch of 4 images .it names ")
    assert not harm.exists()
    pickle.loads(content)
    assert harm.exists()


def test_a_pickle_cannot_ask_for_a_larger_table_than_it_fills(forged, monkeypatch) -> None:
    """pickle makes room for twice as many values as the number that the last is stored at: here, for 34 GB."""
    content = batch(np.zeros((N, 3072), np.uint8), [0] * N)
    at = next(at or 0 for operation, _, at in pickletools.genops(content) if operation.name == "BINPUT")
    content = content[:at] + b"r" + struct.pack("<I", 2**31) + content[at + 2 :]
    put(monkeypatch, forged[0], "data_batch_3", content)
    refused(forged[0], "data_batch_3", "no batch of 4 images .its operation 2 stores value number 2147483648")


@pytest.mark.parametrize(
    ("images", "labels", "what"),
    [
        ((N, 3071), [0] * N, "no batch of 4 images"),
        ((N + 1, 3072), [0] * N, "no batch of 4 images"),
        ((N, 3072), [0] * (N - 1), "other labels than 4 from 0 to 9"),
        ((N, 3072), [0, 1, 2, 10], "other labels than 4 from 0 to 9"),
        ((N, 3072), [0, 1, 2, -1], "other labels than 4 from 0 to 9"),
    ],
)
def test_a_batch_has_its_images_and_labels(forged, monkeypatch, images: tuple, labels: list[int], what: str) -> None:
    put(monkeypatch, forged[0], "data_batch_3", batch(np.zeros(images, np.uint8), labels))
    refused(forged[0], "data_batch_3", what)


def test_it_is_looked_for_in_order_and_else_unavailable(forged, monkeypatch, tmp_path) -> None:
    root, empty = forged[0], tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(published, "download", lambda root, this: "no network")
    with pytest.raises(InputError, match=r"^CIFAR-10 is not available: .*\(no network\).*--data digits"):
        datasets.load(spec(), empty)
    assert datasets.load(spec(), root / cifar.CIFAR10.folder)[0].source == str(root.resolve())
    shutil.copytree(root / cifar.CIFAR10.folder, tmp_path / "flat")
    assert datasets.load(spec(), tmp_path / "flat")[0].source == str(tmp_path / "flat")
    shutil.copytree(root, published.cache())
    assert datasets.load(spec(), empty)[0].source == str(published.cache().resolve())
    monkeypatch.setenv("JAXVAE_DATA", str(root))
    assert datasets.load(spec(), empty)[0].source == str(root.resolve())


def test_a_download_is_whole_or_not_at_all(forged, monkeypatch) -> None:
    """torchvision's part is played by a copy: once it fails half-way, once it succeeds."""
    from torchvision import datasets as tv

    def fails(root: str, download: bool) -> None:
        (Path(root) / cifar.CIFAR10.folder).mkdir()
        (Path(root) / cifar.CIFAR10.folder / "data_batch_1").write_bytes(b"half")
        raise RuntimeError("File not found or corrupted.")

    def succeeds(root: str, download: bool) -> None:
        shutil.copytree(forged[0] / cifar.CIFAR10.folder, Path(root) / cifar.CIFAR10.folder)
        (Path(root) / "cifar-10-python.tar.gz").write_bytes(b"the archive")

    monkeypatch.setattr(tv, "CIFAR10", fails)
    with pytest.raises(InputError, match=r"downloading it failed .File not found or corrupted"):
        datasets.load(spec(), None)
    assert list(published.cache().iterdir()) == []
    monkeypatch.setattr(tv, "CIFAR10", succeeds)
    first = datasets.load(spec(), None)[0]
    assert [path.name for path in published.cache().iterdir()] == [cifar.CIFAR10.folder]
    monkeypatch.setattr(tv, "CIFAR10", fails)
    np.testing.assert_array_equal(datasets.load(spec(), None)[0].train, first.train)
