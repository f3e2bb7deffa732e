"""Finding, verifying and reading MNIST and its like; what is wrong with a file is said, not trained on."""

import gzip
import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxvae.shared.config.data_sets import DATA_HELP, DATA_SETS, complete_names
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets, idx, published
from jaxvae.shared.data.dataset import digest
from jaxvae.shared.errors import InputError

pytestmark = pytest.mark.either

SIBLINGS = [name for name in idx.IDX_SETS if name != "mnist"]
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = idx.MNIST


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path_factory) -> None:
    """No MNIST but what a test names, and no network."""
    monkeypatch.delenv("JAXVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(published, "download", lambda root, this: "no network")


@pytest.fixture
def copy(mnist_root: Path, tmp_path: Path) -> Path:
    """A copy of MNIST to spoil; the files are links until they are changed."""
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in idx.MNIST:
        (raw / name).symlink_to(mnist_root.resolve() / "MNIST" / "raw" / name)
    return tmp_path / "root"


def named(name: str, image: tuple[int, int, int] = (28, 28, 1), classes: int = 0, **images: Any) -> Spec:
    return Spec(data=name, model=ModelSpec(image=image, classes=classes), images=ImagesSpec(**images))


def spoil(root: Path, name: str, content: bytes) -> None:
    path = root / "MNIST" / "raw" / name
    path.unlink()
    path.write_bytes(content)


def content(root: Path, name: str) -> bytes:
    return (root / "MNIST" / "raw" / name).read_bytes()


def test_mnist_is_torchvisions(mnist, mnist_root) -> None:
    from torchvision.datasets import MNIST

    for train, images, labels in ((True, mnist.train, mnist.train_labels), (False, mnist.test, mnist.test_labels)):
        reference = MNIST(str(mnist_root), train=train, download=False)
        np.testing.assert_array_equal(images[..., 0], reference.data.numpy(), strict=True)
        np.testing.assert_array_equal(labels, reference.targets.numpy())


def test_mnist_is_looked_for_in_order(copy, mnist_root, monkeypatch, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="MNIST is not available"):
        datasets.load(named("mnist"), tmp_path / "empty")
    published.cache().mkdir(parents=True)
    shutil.copytree(copy / "MNIST", published.cache() / "MNIST", symlinks=True)
    assert datasets.load(named("mnist"), tmp_path / "empty")[0].source == str(published.cache())
    monkeypatch.setenv("JAXVAE_DATA", str(mnist_root))
    assert datasets.load(named("mnist"), tmp_path / "empty")[0].source == str(mnist_root.resolve())
    assert datasets.load(named("mnist"), copy)[0].source == str(copy)


def test_auto_goes_on_with_digits_and_says_why() -> None:
    dataset, why = datasets.load(named("auto"), None)
    assert dataset.name == "digits"
    assert why is not None
    assert "no network" in why
    for name in ("mnist", *SIBLINGS):
        with pytest.raises(InputError, match=f"^{idx.IDX_SETS[name].title} is not available.*--data digits"):
            datasets.load(named(name), None)


def test_auto_never_passes_over_a_corrupt_file(copy) -> None:
    spoil(copy, TEST, content(copy, TEST)[:-1])
    with pytest.raises(InputError, match="is not the published file"):
        datasets.load(named("auto"), copy)


def test_load_data_is_load_by_name_and_warns_of_another_data_set(mnist_root, tmp_path) -> None:
    assert np.array_equal(datasets.load_data("mnist", str(mnist_root)).test, datasets.mnist(mnist_root).test)
    with pytest.warns(UserWarning, match="no network.*These are scikit-learn's digits instead"):
        assert datasets.load_data().name == "digits"
    assert datasets.load_data("digits", image=(16, 16, 1)).train.shape == (1500, 16, 16, 1)
    np.save(tmp_path / "images.npy", np.eye(9, dtype=np.uint8)[None, ..., None].repeat(20, 0).repeat(3, 3) * 255)
    with pytest.raises(InputError, match="has images of 9 9 3"):
        datasets.load_data(f"npy:{tmp_path / 'images.npy'}")
    whole = datasets.load_data(f"npy:{tmp_path / 'images.npy'}", image=(6, 6, 3), resize=True)
    assert (whole.train.shape, whole.test.shape) == ((18, 6, 6, 3), (2, 6, 6, 3))
    with pytest.raises(InputError, match="data must be one of"):
        datasets.load_data("minst")


@pytest.mark.parametrize("name", idx.MNIST)
@pytest.mark.parametrize("fault", ["cut", "empty", "one bit", "longer"])
def test_a_corrupt_file_is_named(copy, name: str, fault: str) -> None:
    whole = content(copy, name)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    spoil(copy, name, {"cut": whole[:-100], "empty": b"", "one bit": bytes(flipped), "longer": whole + b"\0"}[fault])
    what = "a changed file: MD5" if fault == "one bit" else "bytes where there should be"
    with pytest.raises(InputError, match=what) as caught:
        datasets.mnist(copy)
    assert str(copy / "MNIST" / "raw" / name) in str(caught.value)


@pytest.mark.parametrize(("one", "other"), [(TRAIN, TEST), (TRAIN_LABELS, TEST_LABELS), (TRAIN, TRAIN_LABELS)])
def test_swapped_files_are_named(copy, one: str, other: str) -> None:
    a, b = content(copy, one), content(copy, other)
    spoil(copy, one, b)
    spoil(copy, other, a)
    with pytest.raises(InputError, match=f"the content of {other}"):
        datasets.mnist(copy)


def test_mislabelled_images_are_found(copy) -> None:
    """Labels of the right number and range, in the wrong order."""
    labels = content(copy, TRAIN_LABELS)
    spoil(copy, TRAIN_LABELS, labels[:8] + labels[8:][::-1])
    with pytest.raises(InputError, match="a changed file: MD5"):
        datasets.mnist(copy)


def test_a_missing_file_is_named(copy) -> None:
    (copy / "MNIST" / "raw" / TEST_LABELS).unlink()
    says = (
        f"^MNIST in {copy}/MNIST/raw lacks {TEST_LABELS} of its 4 files, found {TRAIN}, .*{TEST}; add what is missing"
    )
    for name in ("mnist", "auto"):
        with pytest.raises(InputError, match=says):
            datasets.load(named(name), copy)


def test_every_data_set_has_its_reader_and_its_files() -> None:
    """What the names of config/data_sets.py come to below: `auto` chooses among the others."""
    assert list(datasets.READERS) == [name for name in DATA_SETS if name != "auto"]
    idx_names = [name for name, read in datasets.READERS.items() if read is idx.read]
    with_splits = [
        key for n in idx_names for key in ([f"{n}:{s}" for s in DATA_SETS[n].splits] if DATA_SETS[n].splits else [n])
    ]
    assert list(idx.IDX_SETS) == with_splits


@pytest.mark.parametrize("package", ["jaxvae", "torchvae"])
def test_help_lists_every_data_set(package: str, capsys, monkeypatch) -> None:
    from jaxvae.shared import cli

    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        cli.main(__import__(package), ["train", "--help"])
    assert " ".join(DATA_HELP.split())[:150] in " ".join(capsys.readouterr().out.replace("│", "").split())


def test_a_missing_root_is_said() -> None:
    for name in complete_names():
        with pytest.raises(InputError, match="is not a folder"):
            datasets.load(named(name), Path("/no/such/folder"))
    with pytest.raises(InputError, match=r"^The data root /no/such/folder is not a folder; give the published"):
        datasets.mnist("/no/such/folder")
    with pytest.raises(InputError, match=r"^The data root must be a path, found 3; give it as text or as a Path"):
        datasets.mnist(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, Path("a"), Spec(), 3])
def test_a_name_that_is_not_text_is_said(name: Any) -> None:
    with pytest.raises(InputError, match=r"^The configuration's data must be text, found (None|PosixPath|Spec|3)"):
        datasets.load_data(name)


def test_another_size_is_said_before_a_download() -> None:
    for name, title in (("auto", "MNIST"), ("mnist", "MNIST"), ("emnist", "EMNIST balanced")):
        with pytest.raises(InputError, match=f"^The images of {title} are 28 28 1, the model's images 8 8 1; give --i"):
            datasets.load(named(name, (8, 8, 1)), None)
    with pytest.raises(InputError, match=r"28 28 1, the model's images 28 28 2 .* only grey"):
        datasets.load(named("mnist", (28, 28, 2), resize=True), None)


def test_mnist_is_resized_if_asked(mnist, mnist_root, monkeypatch) -> None:
    monkeypatch.setattr(idx, "load", lambda name, root: mnist._replace(test=mnist.test[:10]))
    colour, why = datasets.load(named("auto", (28, 28, 3), resize=True, train_images=100), mnist_root)
    assert (why, colour.name) == (None, "mnist")
    np.testing.assert_array_equal(colour.train, np.repeat(mnist.train[:100], 3, axis=3))
    np.testing.assert_array_equal(colour.test, np.repeat(mnist.test[:10], 3, axis=3))


def test_a_download_is_whole_or_not_at_all(monkeypatch, tmp_path, copy) -> None:
    """torchvision's part is played by a copy: once it fails half-way, once it succeeds."""
    from torchvision import datasets as tv

    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXVAE_DATA", raising=False)

    def fails(root: str, download: bool) -> None:
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        (Path(root) / "MNIST" / "raw" / TRAIN).write_bytes(b"half")
        raise RuntimeError("Error downloading train-labels")

    monkeypatch.setattr(tv, "MNIST", fails)
    with pytest.raises(InputError, match="downloading it failed"):
        datasets.mnist()
    assert list(published.cache().iterdir()) == []

    monkeypatch.setattr(tv, "MNIST", lambda root, download: shutil.copytree(copy / "MNIST", Path(root) / "MNIST"))
    assert datasets.mnist().train.shape == (60_000, 28, 28, 1)
    assert sorted(path.name for path in published.cache().rglob("*") if path.is_file()) == sorted(idx.MNIST)
    monkeypatch.setattr(tv, "MNIST", fails)
    assert datasets.mnist().source == str(published.cache())


def test_digits_are_resized() -> None:
    from sklearn.datasets import load_digits

    digits = datasets.digits((28, 28, 1))
    assert digits.train.shape == (1500, 28, 28, 1)
    assert digits.test.shape == (297, 28, 28, 1)
    assert digits.train.dtype == np.uint8
    pixels, labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(np.concatenate([digits.train_labels, digits.test_labels]), labels)
    small = datasets.digits((8, 8, 1)).train[..., 0]  # at their own size they are themselves
    np.testing.assert_array_equal(small, np.round(pixels[:1500].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8))
    with pytest.raises(InputError, match="grey"):
        datasets.digits((8, 8, 3))
    for image in (3, (8, 8), None, (8, 8, 1.0)):
        with pytest.raises(InputError, match=r"^The configuration's image must be (a list of 3|an) integer"):
            datasets.digits(image)  # type: ignore[arg-type]


@pytest.fixture(params=SIBLINGS)
def sibling(request, monkeypatch, tmp_path) -> tuple[str, Path, np.ndarray]:
    """A set of 30 and 10 images in torchvision's layout: its name, root, and stored images [40, 28, 28]."""
    name = request.param
    monkeypatch.setitem(idx.IDX_SETS, name, idx.IDX_SETS[name]._replace(train=30, test=10))
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    write_set(idx.IDX_SETS[name], tmp_path, images)
    return name, tmp_path, images


def write_set(this: idx.IdxSet, root: Path, images: np.ndarray) -> None:
    folder = root / this.published.folder
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(images), dtype=np.uint8) % this.classes + this.first_label
    for name, part in zip(this.published.files, (images[:30], labels[:30], images[30:], labels[30:]), strict=True):
        header = struct.pack(f">{1 + part.ndim}I", 0x800 + part.ndim, *part.shape)
        (folder / name).write_bytes(header + part.tobytes())


def test_siblings_are_torchvisions_but_upright_and_from_0(sibling) -> None:
    from torchvision import datasets as tv

    name, root, images = sibling
    this = idx.IDX_SETS[name]
    result, why = datasets.load(named(name), root)
    assert (result.name, result.source, result.labelled, why) == (name, str(root.resolve()), True, None)
    reference = getattr(tv, this.torchvision)(str(root), **({"split": this.split} if this.split else {}))
    np.testing.assert_array_equal(result.train_labels, reference.targets.numpy() - this.first_label)
    stored = reference.data.numpy()
    np.testing.assert_array_equal(
        result.train[..., 0], np.swapaxes(stored, 1, 2) if this.split else stored, strict=True
    )
    upright = np.swapaxes(images, 1, 2) if name.startswith("emnist") else images
    np.testing.assert_array_equal(np.concatenate([result.train, result.test])[..., 0], upright)
    np.testing.assert_array_equal(result.test_labels, np.arange(30, 40) % this.classes)
    for array in (result.train, result.train_labels, result.test, result.test_labels):
        assert array.flags.writeable
        assert array.flags.c_contiguous


@pytest.mark.parametrize("sibling", ["emnist:balanced"], indirect=True)
def test_emnist_alone_is_its_balanced_split(sibling) -> None:
    plain, balanced = (datasets.load(named(name), sibling[1])[0] for name in ("emnist", "emnist:balanced"))
    assert plain.name == "emnist"
    np.testing.assert_array_equal(plain.train, balanced.train)


FAULTS: dict[str, tuple[int, Callable[[bytes], bytes], str]] = {
    "labels for images": (0, lambda b: b"\0\0\x08\x01" + b[4:], "type 0x00000801 where there should be 0x00000803"),
    "images for labels": (3, lambda b: b"\0\0\x08\x03" + b[4:], "type 0x00000803 where there should be 0x00000801"),
    "an archive": (0, lambda b: b"\x1f\x8b\x08\x08" + b[4:], "the IDX type 0x1f8b0808"),
    "nothing": (2, lambda b: b"", "the IDX type 0x00000000"),
    "too few": (
        0,
        lambda b: b[:4] + struct.pack(">I", 29) + b[8:-784],
        "the sizes 29 28 28 where there should be 30",
    ),
    "another size": (2, lambda b: b[:8] + struct.pack(">2I", 56, 14) + b[16:], "the sizes 10 56 14 where"),
    "fewer labels": (1, lambda b: b[:4] + struct.pack(">I", 29) + b[8:-1], "the sizes 29 where there should be 30"),
    "cut": (0, lambda b: b[:-1], "23,535 bytes where there should be 23,536"),
    "longer": (1, lambda b: b + b"\0", "39 bytes where there should be 38"),
    "a high label": (1, lambda b: b[:-1] + b"\x63", "to 99 where there should be"),
}


@pytest.mark.parametrize("sibling", ["fashion-mnist", "emnist:letters"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_sibling_is_named(sibling, fault: str) -> None:
    name, root, _ = sibling
    number, change, what = FAULTS[fault]
    this = idx.IDX_SETS[name]
    path = root / this.published.folder / this.published.files[number]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=f"is not the published file, it has .*{what}") as caught:
        datasets.load(named(name), root)
    assert str(caught.value).startswith(f"The file {path} of {this.title} ")


@pytest.mark.parametrize("sibling", ["fashion-mnist"], indirect=True)
def test_mnists_files_in_a_siblings_folder_are_refused(sibling, monkeypatch) -> None:
    name, root, _ = sibling
    path = root / idx.IDX_SETS[name].published.folder / TRAIN
    monkeypatch.setitem(idx.MNIST, TRAIN, hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=f"The file {path} of Fashion-MNIST .*, it has the content of MNIST's {TRAIN}"):
        datasets.load(named(name), root)


@pytest.mark.parametrize("sibling", ["emnist:letters"], indirect=True)
def test_letters_are_labelled_from_1_in_their_file(sibling) -> None:
    path = sibling[1] / "EMNIST" / "raw" / "emnist-letters-test-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="labels from 0 to 13 where there should be 1 to 26"):
        datasets.load(named("emnist:letters"), sibling[1])


@pytest.mark.parametrize("sibling", ["kmnist", "emnist:digits"], indirect=True)
def test_a_siblings_download_is_kept_whole(sibling, monkeypatch, tmp_path) -> None:
    """torchvision's part is played by a copy; EMNIST's archive has the other splits too, and none is replaced."""
    from torchvision import datasets as tv

    name, root, _ = sibling
    this = idx.IDX_SETS[name]
    others = [f"emnist-{split}-train-images-idx3-ubyte" for split in ("letters", "mnist")] if this.split else []
    for other in others:
        (root / this.published.folder / other).write_bytes(b"new")
    monkeypatch.undo()
    monkeypatch.delenv("JAXVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(idx.IDX_SETS, name, this)
    raw = published.cache() / this.published.folder
    raw.mkdir(parents=True)
    for other in others[:1]:
        (raw / other).write_bytes(b"old")

    def fetch(folder: str, download: bool, **split: str) -> None:
        assert split == ({"split": this.split} if this.split else {})
        shutil.copytree(root / this.torchvision, Path(folder) / this.torchvision)

    monkeypatch.setattr(tv, this.torchvision, fetch)
    first = datasets.load(named(name), None)[0]
    assert [path.name for path in published.cache().iterdir()] == [this.torchvision]
    assert {path.name for path in raw.iterdir()} == {*this.published.files, *others}
    assert [(raw / other).read_bytes() for other in others] == [b"old", b"new"][: len(others)]
    np.testing.assert_array_equal(first.train, datasets.load(named(name), root)[0].train)


@pytest.fixture(params=["mnist", "fashion-mnist", "kmnist", "emnist:letters"])
def loose(request, monkeypatch, tmp_path) -> tuple[str, Path, dict[str, bytes]]:
    """A set of 30 and 10 images without its files: its name, an empty root, and the content of each file."""
    name = request.param
    monkeypatch.setitem(idx.IDX_SETS, name, idx.IDX_SETS[name]._replace(train=30, test=10))
    this, whole = idx.IDX_SETS[name], tmp_path / "whole"
    write_set(this, whole, np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8))
    files = {file: (whole / this.published.folder / file).read_bytes() for file in this.published.files}
    if name == "mnist":
        monkeypatch.setattr(idx, "MNIST", {file: hashlib.md5(content).hexdigest() for file, content in files.items()})
    (tmp_path / "root").mkdir()
    return name, tmp_path / "root", files


def put(folder: Path, files: dict[str, bytes], *, dots: bool = False, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / ((name.replace("-idx", ".idx") if dots else name) + ".gz" * packed)
        path.write_bytes(gzip.compress(content, 1) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize("below", [0, 1, 2])
def test_files_are_found_as_their_authors_publish_them(loose, below: int, dots: bool, packed: bool) -> None:
    """In the root, in MNIST and in MNIST/raw, whichever of these folders is given."""
    name, root, files = loose
    this = idx.IDX_SETS[name]
    folders = [root, root / this.torchvision, root / this.torchvision / "raw"]
    put(folders[below], files, dots=dots, packed=packed)
    if below == 0 and not this.published.recognized:
        says = f"^{this.title} is not available.* {root} has train-images.*, which may be of another data set: move"
        with pytest.raises(InputError, match=says):
            datasets.load(named(name), root)
        return
    dataset = datasets.load(named(name), root)[0]
    assert (dataset.train.shape, dataset.source) == ((30, 28, 28, 1), str(root))
    stored = np.frombuffer(files[this.published.files[0]], np.uint8)[16:].reshape(30, 28, 28)
    np.testing.assert_array_equal(dataset.train[..., 0], np.swapaxes(stored, 1, 2) if this.split else stored)
    assert dataset.train.flags.writeable
    for folder in folders[1 : below + 1]:
        again = datasets.load(named(name), folder)[0]
        assert (again.source, digest(again)) == (str(root), digest(dataset))


@pytest.mark.parametrize("loose", ["mnist"], indirect=True)
def test_what_lies_loose_and_is_not_whole_is_said(loose) -> None:
    _, root, files = loose
    first, *others = files
    put(root, {first: files[first]}, packed=True)
    for name in ("mnist", "auto"):
        says = f"^MNIST in {root} lacks {', '.join(others)} of its 4 files, found {first}.gz; add"
        with pytest.raises(InputError, match=says):
            datasets.load(named(name), root)
    put(root, files)
    (root / first).unlink()
    packed = (root / f"{first}.gz").read_bytes()
    for content, says in (
        (packed[:-9], "can't be unpacked"),
        (b"text", "can't be read .Not a gzipped file"),
        (packed[:10] + b"\xff" * 40 + packed[50:], "can't be unpacked"),
        (gzip.compress(bytes(2**22)), "unpacks to more than 23,536 bytes, which no file of it has"),
        (gzip.compress(files[first][:-1]), "23,535 bytes where there should be 23,536"),
    ):
        (root / f"{first}.gz").write_bytes(content)
        with pytest.raises(
            InputError, match=f"^The file {root}/{first}.gz of MNIST .*{says}.*; remove the files of MN"
        ):
            datasets.load(named("auto"), root)
    (root / first).mkdir()  # as in one well-known archive, beside the files themselves
    put(root, {first: files[first]}, dots=True)
    assert len(datasets.load(named("mnist"), root)[0].train) == 30
