"""Images of one's own, and the fit of any images to the model: what goes in comes out, or a sentence says why not."""

import json
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from safetensors.numpy import load_file

from jaxvae.shared.commands.open_session import load_images
from jaxvae.shared.commands.train import Train
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets, image_folder, numpy_files
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from parity_tests.support.backends import lean as lean_backends
from parity_tests.support.cli import fails, run

pytestmark = pytest.mark.either

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (25, 4, 6), np.uint8)
COLOUR = RNG.integers(0, 256, (25, 4, 6, 3), np.uint8)
TENTHS = [9, 19]
lean = pytest.fixture(lean_backends)
REST = [i for i in range(25) if i not in TENTHS]


def load(name: str, *image: int, classes: int = 0, **images: Any) -> Dataset:
    height, width, channels = image or (4, 6, 1)
    model = ModelSpec(image=(height, width, channels), classes=classes)
    dataset, why = datasets.load(Spec(data=name, model=model, images=ImagesSpec(**images)), None)
    assert why is None
    for part, labels in ((dataset.train, dataset.train_labels), (dataset.test, dataset.test_labels)):
        assert (part.shape, labels.shape) == ((len(part), height, width, channels), (len(part),))
        assert (part.dtype, labels.dtype, part.flags.writeable, labels.flags.writeable) == (np.uint8, np.uint8, 1, 1)
    return dataset


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def refused(match: str, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(InputError, match=match) as caught:
        load(*arguments, **keywords)
    assert str(caught.value).endswith(".")
    return str(caught.value)


def test_a_folders_pictures_are_sorted_by_path_and_every_tenth_tests(tmp_path) -> None:
    for i in RNG.permutation(25):
        save(tmp_path / "pictures" / f"{i:02}.{('png', 'PNG', 'bmp')[i % 3]}", GREY[i])
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "._00.png").write_bytes(b"hidden")
    dataset = load(f"images:{tmp_path / 'pictures'}")
    assert (dataset.source, dataset.labelled) == (str(tmp_path.resolve() / "pictures"), False)
    np.testing.assert_array_equal(dataset.train[..., 0], GREY[REST])
    np.testing.assert_array_equal(dataset.test[..., 0], GREY[TENTHS])
    assert not dataset.train_labels.any()
    again = load(dataset.name, train_images=5)
    np.testing.assert_array_equal(again.train[..., 0], GREY[REST][:5])
    np.testing.assert_array_equal(again.test, dataset.test)


@pytest.mark.usefixtures("lean")
def test_the_preset_for_pictures_trains_on_a_folder(package, capsys, tmp_path) -> None:
    for i in range(25):
        save(tmp_path / "mine" / "ab"[i % 2] / f"{i:02}.{('png', 'jpg')[i % 3 // 2]}", COLOUR[i])
    flags = ["--preset", "pictures", "--data", f"images:{tmp_path / 'mine'}", "--max-steps", "3"]
    fails(package, capsys, "give --image 4 6 3", "train", *flags, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    flags += ["--image", "4", "6", "3", "--shift", "1", "--hidden", "4", "5", "--out", str(tmp_path / "run")]
    status, out, _ = run(package, capsys, "train", *flags)
    assert status == 0
    assert "3 steps" in out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in lines] == [("train", 2), ("test", 2), ("train", 3), ("test", 3)]
    assert np.isfinite([line["loss"] for line in lines]).all()
    # The log-variance has moved from where the preset starts it, by less than three steps of its learning rate.
    moved = load_file(tmp_path / "run" / "model.safetensors")["decoder.logvar"] - np.log(0.02)
    assert 0 < abs(moved) < 3 * 2e-3


def test_subfolders_are_labels_also_when_they_are_links(tmp_path) -> None:
    for i, name in enumerate(["b/x/1", "a/2", "b/0", "c/3"]):
        save(tmp_path / "one" / f"{name}.png", GREY[i])
    shutil.move(tmp_path / "one" / "c", tmp_path / "elsewhere")
    (tmp_path / "one" / "c").symlink_to(tmp_path / "elsewhere")
    dataset = load(f"images:{tmp_path / 'one'}", classes=3)
    assert dataset.labelled
    np.testing.assert_array_equal(dataset.train[..., 0], GREY[[1, 2, 0]])
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 1])
    np.testing.assert_array_equal(dataset.test_labels, [2])
    refused("has labels up to 2, the model's 2 classes are 0 to 1; give --classes 3", dataset.name, classes=2)
    assert dataset.notes == (f"The data {dataset.name} has no training images of these classes: c.",)
    note, _ = load(dataset.name, classes=4).notes
    assert note.endswith(f"{dataset.name} has 3: the others have no images. Give --classes 3.")
    save(tmp_path / "one" / "stray.png", GREY[9])
    refused("has no labels, the model's classes are 3; give --classes 0", dataset.name, classes=3)
    assert not load(dataset.name).labelled


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("train", "val"), ("Training", "TESTING")])
def test_folders_may_be_the_splits(tmp_path, first: str, second: str) -> None:
    for i, name in enumerate([f"{first}/a/0", f"{first}/c/1", f"{second}/b/0", f"{second}/c/0", "other/d/0"]):
        save(tmp_path / f"{name}.png", GREY[i])
    dataset = load(f"images:{tmp_path}", train_images=2)
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test])[..., 0], GREY[:4])
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == ([0, 2], [1, 2])
    refused("has 2 training images, 3 are asked for", dataset.name, train_images=3)
    (tmp_path / second).rename(tmp_path / "elsewhere")
    refused(f"has {first} without test or val; add one of them, or give --data images:{tmp_path}/{first}", dataset.name)
    (tmp_path / second).mkdir()
    refused(f"The folder {tmp_path / second} has no pictures", dataset.name)
    shutil.rmtree(tmp_path / first)
    refused(f"has {second} without train; add it, or give --data images:{tmp_path}/{second}", dataset.name)
    for name in ("train", "Train"):
        (tmp_path / name).mkdir()
    refused("has Train and train, found two for one split; rename one", dataset.name)


def test_what_is_left_out_is_said(package, capsys, tmp_path) -> None:
    for i, name in enumerate(["train/a/0", "train/b/1", "test/0", "val/0", "3", ".hidden/4"]):
        save(tmp_path / f"{name}.png", GREY[i])
    for name in (
        "train/0.heic",
        "train/a/1.HEIC",
        "test/notes.txt",
        "test/README",
        "train/.x.svg",
        "val/0.svg",
        "a.csv",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "__MACOSX" / "0.avif").touch()
    spec = Spec(data=f"images:{tmp_path}", model=ModelSpec(image=(4, 6, 1)))
    load_images(package, Train(spec))
    notes = (
        f"{tmp_path} has 3.png, val beside train and test, left out.",
        f"{tmp_path} has 4 other files than pictures, left out: 2 .heic, 1 .txt, 1 without an ending.",
    )
    few = "The test loss is the mean of 1 image, too few to tell one run from another by it."
    assert capsys.readouterr().err.splitlines() == [f"{package.__name__}: WARNING: {note}" for note in (*notes, few)]
    with pytest.warns(UserWarning, match="left out") as warned:
        datasets.load_data(f"images:{tmp_path}", image=(4, 6, 1))
    assert tuple(str(one.message) for one in warned) == notes
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.avif").touch()
    refused(
        f"^The folder {tmp_path}/none has no pictures .* or below, found 1 .avif; give one", f"images:{tmp_path}/none"
    )


def test_classes_without_training_images_are_said(tmp_path) -> None:
    for i, place in enumerate(("train/a", "train/b", "test/b", "test/c")):
        (tmp_path / place).mkdir(parents=True)
        save(tmp_path / place / "0.png", GREY[i])
    name = f"images:{tmp_path}"
    spec = Spec(data=name, model=ModelSpec(image=(4, 6, 1), classes=3))
    (note,) = datasets.load(spec, None)[0].notes
    assert note == f"The data {name} has no training images of these classes: c."
    for classes in (3, 0):
        few = replace(spec, model=replace(spec.model, classes=classes), images=ImagesSpec(train_images=1))
        (note,) = datasets.load(few, None)[0].notes
        assert note == f"The data {name} has no training images of these classes among the first 1: b, c."
    assert not load(name).notes


@pytest.mark.parametrize("copies", [".ipynb_checkpoints", "__MACOSX", "a/.thumbnails"])
def test_copies_that_programs_made_are_left_out(tmp_path, copies: str) -> None:
    for i, name in enumerate(["a/0", "a/1", "b/2", "b/3", f"{copies}/0"]):
        save(tmp_path / f"{name}.png", GREY[i])
    dataset = load(f"images:{tmp_path}")
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == ([0, 0, 1], [1])
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test])[..., 0], GREY[:4])


MIXED_SPLITS = {
    "in every class": (
        ["a/train/0", "a/test/1", "b/train/2"],
        "{0}/a has train and test.*put the splits first, as in {0}/train/a",
    ),
    "further down": (["data/Train/0", "data/val/1"], "{0}/data has Train and val.*give --data images:{0}/data"),
    "numbered": (["train2017/0", "val2017/1"], "{0} has train2017 and val2017.*rename them to train and test"),
    "named": (["x/test-images/0", "x/train_images/1"], "{0}/x has train_images and test-images.*rename them"),
}


@pytest.mark.parametrize("case", MIXED_SPLITS)
def test_folders_that_look_like_splits_are_not_mixed(tmp_path, case: str) -> None:
    names, says = MIXED_SPLITS[case]
    for i, name in enumerate(names):
        save(tmp_path / f"{name}.png", GREY[i])
    refused(says.format(tmp_path), f"images:{tmp_path}")


def test_classes_that_begin_like_splits_are_classes(tmp_path) -> None:
    for i, name in enumerate(["trains/0", "tests/1", "value/2", "training-shoes/3"]):
        save(tmp_path / f"{name}.png", GREY[i])
    assert sorted(load(f"images:{tmp_path}").train_labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("largest", [1, 16, 32])
def test_pictures_that_are_all_but_black_are_said(tmp_path, largest: int) -> None:
    for i in range(5):
        save(tmp_path / f"{i}.png", np.minimum(GREY[i], largest))
    name = f"images:{tmp_path}"
    if largest == 1:
        refused(f"The training images of {name} hold only 0 and 1, where white is 255; multiply them by 255", name)
    else:
        notes = [note for note in load(name).notes if "hold numbers up to 16, where white is 255; multiply" in note]
        assert len(notes) == (largest == 16)


def test_every_kind_of_picture_is_read(tmp_path) -> None:
    save(tmp_path / "0.png", GREY[0].astype(np.uint16) * 256 + 255)
    save(tmp_path / "rgb" / "0.png", np.concatenate([COLOUR[1], np.full((4, 6, 1), 255, np.uint8)], axis=-1))
    save(tmp_path / "1.png", GREY[1], "LA")
    save(tmp_path / "2.png", GREY[2], "P")
    Image.fromarray(GREY[3]).save(tmp_path / "3.gif", save_all=True, append_images=[Image.fromarray(GREY[4])])
    Image.fromarray(np.repeat(GREY[5][..., None], 3, axis=2)).save(tmp_path / "rgb" / "1.webp", lossless=True)
    Image.fromarray(GREY[6] > 127).save(tmp_path / "4.png")
    dataset = load(f"images:{tmp_path}", resize=True)
    plain = [GREY[0], GREY[1], GREY[2], GREY[3], np.where(GREY[6] > 127, 255, 0)]
    np.testing.assert_array_equal(dataset.train[:5, ..., 0], plain)
    np.testing.assert_array_equal(dataset.test[0, ..., 0], GREY[5])
    np.testing.assert_array_equal(dataset.train[5, ..., 0], np.asarray(Image.fromarray(COLOUR[1]).convert("L")))
    shutil.copy(tmp_path / "2.png", tmp_path / "rgb")  # a grey palette is colour enough
    colour = load(f"images:{tmp_path / 'rgb'}", 4, 6, 3)
    np.testing.assert_array_equal(colour.train[0], COLOUR[1])
    np.testing.assert_array_equal(colour.test[0], np.repeat(GREY[2][..., None], 3, axis=2))
    shutil.rmtree(tmp_path / "rgb")
    np.testing.assert_array_equal(load(f"images:{tmp_path}").train[..., 0], plain[:4])


def test_what_is_transparent_is_laid_on_white(tmp_path) -> None:
    alpha = RNG.integers(0, 256, (4, 6, 1), np.uint8)
    alpha[0, :2, 0] = 0, 255
    save(tmp_path / "0.png", np.concatenate([COLOUR[1], alpha], axis=-1))
    save(tmp_path / "1.png", np.concatenate([COLOUR[2], 0 * alpha], axis=-1))
    dataset = load(f"images:{tmp_path}", 4, 6, 3)
    share = alpha / 255
    assert np.abs(dataset.train[0] - (share * COLOUR[1] + (1 - share) * 255)).max() <= 1
    assert (dataset.test == 255).all()
    for i in range(2):  # black glyphs of which the alpha alone tells the shape
        Image.fromarray(np.stack([0 * GREY[i], GREY[i]], axis=-1), "LA").save(tmp_path / f"{i}.png")
    dataset = load(f"images:{tmp_path}")
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test])[..., 0], 255 - GREY[:2])
    for i in range(2):
        Image.new("LA", (6, 4), (0, 255)).save(tmp_path / f"{i}.png")
    refused(f"The training images of images:{tmp_path} are all of one value, 0; give others", dataset.name)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_sixteen_bits_that_hold_fewer_are_refused(tmp_path, bits: int) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", np.minimum(GREY[i].astype(np.uint16) << 8, 2**bits - 1))
    refused(f"hold numbers from 0 to {2**bits - 1:,}, expected up to 65,535; multiply them", f"images:{tmp_path}")


def wide_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16-bit colour, `[h, w, 3]`, which Pillow reads but doesn't write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = {b"IHDR": struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_sixteen_bits_of_colour_keep_the_high_byte(tmp_path, bits: int) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(wide_png(COLOUR[i].astype(np.uint16) << bits - 8))
    if bits < 16:
        refused("The 16-bit pictures in .* hold numbers from 0 to .*; multiply them", f"images:{tmp_path}", 4, 6, 3)
        return
    dataset = load(f"images:{tmp_path}", 4, 6, 3)
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test]), COLOUR[:3])


def test_more_pixels_than_a_file_can_hold_are_refused_before_they_are_decoded(tmp_path, monkeypatch) -> None:
    for i in range(2):
        save(tmp_path / f"{i}.png", GREY[i])
    bomb = tmp_path / "2.png"
    Image.new("1", (9000, 5000)).save(bomb)
    stored = bomb.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        patch.setattr(image_folder, "with_progress", lambda pairs, n: [pair for pair in pairs if pair[1] == bomb])
        name = f"images:{tmp_path}"
        refused(f"^The picture {bomb} is 5000 9000 1, the model's images 4 6 1; give --image 5000 9000 1 or", name)
        says = (
            f"^The picture {bomb} claims 45,000,000 pixels in a file of {stored:,} bytes, expected at most 1,000 a byte"
        )
        refused(says, name, resize=True)
    Image.new("1", (3000, 5000)).save(bomb)  # a blank page
    assert load(name, resize=True).test.max() == 0
    monkeypatch.setattr(image_folder, "_PIXELS_OF_ANY_FILE", 16)
    Image.fromarray(RNG.integers(0, 256, (300, 500, 3), np.uint8)).save(bomb.with_suffix(".jpg"), quality=30)
    bomb.unlink()  # a photograph
    assert load(name, resize=True).test.std() > 0


def test_a_tiff_and_a_jfif_are_read(tmp_path) -> None:
    save(tmp_path / "0.tif", GREY[0])
    save(tmp_path / "1.tiff", GREY[1].astype(np.uint16) * 257)
    shutil.move(save(tmp_path / "2.jpg", np.full((4, 6), 90, np.uint8)), tmp_path / "2.jfif")
    dataset = load(f"images:{tmp_path}")
    np.testing.assert_array_equal(dataset.train[..., 0], GREY[:2])
    assert (dataset.test == 90).all()
    save(tmp_path / "3.tif", GREY[0].astype(np.float32))
    refused("3.tif holds fractions, expected 8 or 16 bits; convert or remove it", dataset.name)
    save(tmp_path / "3.tif", GREY[0].astype(np.int32) * 10**6)
    refused("3.tif holds more than 16 bits", dataset.name)


def test_a_jpeg_and_a_transparent_palette_are_read(tmp_path) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    save(tmp_path / "0.jpg", flat)
    Image.fromarray(flat).quantize(4).save(tmp_path / "1.png", transparency=b"\xff\x80")
    save(tmp_path / "2.jpeg", flat, "CMYK")
    dataset = load(f"images:{tmp_path}", 8, 8, 3)
    assert np.abs(np.concatenate([dataset.train, dataset.test]).astype(int) - flat).max() <= 3
    assert (dataset.train[1] == flat).all()
    refused(f"The picture {tmp_path}/0.jpg is 8 8 3, the model's images 8 8 1", dataset.name, 8, 8, 1)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, ending: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    for i in range(2):  # smooth, so that JPEG keeps it
        smooth = Image.fromarray(COLOUR[i]).resize((24, 16), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / f"{i}.{ending}", exif=tags)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"1.{ending}")))
    assert upright.shape == ((24, 16, 3) if orientation > 4 else (16, 24, 3))
    np.testing.assert_array_equal(load(f"images:{tmp_path}", *upright.shape).test[0], upright)


def test_pictures_of_another_size_are_named_or_resized(tmp_path) -> None:
    save(tmp_path / "0.png", GREY[0])
    other = save(tmp_path / "1.png", np.asarray(Image.fromarray(COLOUR[1]).resize((3, 2))))
    save(tmp_path / "2.png", COLOUR[2])
    name = f"images:{tmp_path}"
    refused(f"^The picture {other} is 2 3 3, the model's images 4 6 1; give --image 2 3 3 or --resize", name)
    refused("only grey", name, 4, 6, 4, resize=True)
    dataset = load(name, 4, 6, 3, resize=True)
    np.testing.assert_array_equal(dataset.train[0], np.repeat(GREY[0][..., None], 3, axis=2))
    np.testing.assert_array_equal(dataset.train[1], Image.open(other).resize((6, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(dataset.test[0], COLOUR[2])


def test_what_is_no_picture_is_named(tmp_path) -> None:
    refused(r"The folder of pictures .*none does not exist; give one", f"images:{tmp_path / 'none'}")
    mistyped = f"images:{tmp_path.with_name(tmp_path.name + 'x')}"
    refused(rf"does not exist \(did you mean {tmp_path}\?\); give one", mistyped)
    refused("has no pictures", f"images:{tmp_path}")
    whole = save(tmp_path / "0.png", GREY[0])
    refused("The folder of pictures .*0.png is not a folder", f"images:{whole}")
    refused("has 1 image, but one to train and one to test are needed", f"images:{tmp_path}")
    content, broken = whole.read_bytes(), tmp_path / "1.png"
    for wrong in (b"", b"no picture", content[:40], content[:-30], content[:20] + b"\xff" * 20):
        broken.write_bytes(wrong)
        refused(f"The picture {broken} can't be read \\(", f"images:{tmp_path}")
    broken.unlink()
    broken.symlink_to(tmp_path / "gone")
    refused("can't be read \\(No such file", f"images:{tmp_path}")


def test_many_class_folders_are_no_labels(tmp_path) -> None:
    first = save(tmp_path / "000" / "0.png", GREY[0])
    for i in range(1, 257):
        (tmp_path / f"{i:03}").mkdir()
        os.link(first, tmp_path / f"{i:03}" / "0.png")
    refused("has no labels.* at most 256", f"images:{tmp_path}", classes=300)
    assert not load(f"images:{tmp_path}").train_labels.any()
    shutil.rmtree(tmp_path / "256")
    assert load(f"images:{tmp_path}", classes=256).train_labels.max() == 255


ARRAYS = {
    "bytes": GREY,
    "bytes in another order": np.asfortranarray(GREY),
    "one channel": GREY[..., None],
    "flat": GREY.reshape(25, 24),
    "floats": GREY / 255,
    "half precision": (GREY / 255).astype(np.float16),
    "big-endian": (GREY / 255).astype(">f4"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_is_read_whatever_it_is_of(tmp_path, kind: str) -> None:
    np.save(tmp_path / "a.npy", ARRAYS[kind])
    dataset = load(f"npy:{tmp_path / 'a.npy'}")
    assert (dataset.name, dataset.source, dataset.labelled) == (f"npy:{tmp_path}/a.npy", str(tmp_path / "a.npy"), False)
    np.testing.assert_array_equal(dataset.train[..., 0], GREY[REST])
    np.testing.assert_array_equal(dataset.test[..., 0], GREY[TENTHS])


def test_floats_are_rounded_and_truths_are_black_and_white(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array([0.002, 1, 0, 0.5]).reshape(2, 1, 2))
    dataset = load(f"npy:{tmp_path / 'a.npy'}", 1, 2, 1)
    assert (dataset.train.ravel().tolist(), dataset.test.ravel().tolist()) == ([1, 255], [0, 128])
    np.save(tmp_path / "a.npy", GREY > 127)
    np.testing.assert_array_equal(load(f"npy:{tmp_path / 'a.npy'}").train[..., 0], 255 * (GREY > 127)[REST])


BAD_ARRAYS: dict[str, tuple[np.ndarray, str]] = {
    "integers": (GREY.astype(np.int64), "must be of uint8, bool or floats in .*, found int64"),
    "complex": (GREY.astype(complex), "found complex128"),
    "text": (np.array(["a", "b"]), "found <U1"),
    "not a number": (np.where(GREY > 250, np.nan, 0.5), "must be floats in .*, found NaN"),
    "infinite": (np.where(GREY > 250, np.inf, 0.5), "found 0.5 to inf"),
    "255": (GREY.astype(np.float32), "found 0 to 255; scale them"),
    "negative": (GREY / 255 - 0.5, "found -0.5 to 0.5"),
    "one axis": (GREY.ravel(), r"must be of shape .* or \[n, 24\], without a 0, found \[600\]"),
    "flat, of another size": (GREY.reshape(25, 24)[:, 1:], r"found \[25, 23\]"),
    "five axes": (COLOUR[..., None], r"found \[25, 4, 6, 3, 1\]"),
    "no images": (GREY[:0], r"found \[0, 4, 6\]"),
    "no floats": (GREY[:0] / 255, r"found \[0, 4, 6\]"),
    "no width": (GREY[:, :, :0], r"found \[25, 4, 0\]"),
    "one image": (GREY[:1], "has 1 image, but one to train"),
    "objects": (np.array([None, {}]), "damaged or holds Python objects"),
    "colour": (COLOUR, "has images of 4 6 3, the model's images 4 6 1; give --image 4 6 3 or --resize"),
    "0 and 1": (GREY // 128, "must be uint8 of 0 to 255, found 0 and 1 only; cast them to bool, or multiply by 255"),
    "another size": (GREY[:, 1:], "has images of 3 6 1, the model's images 4 6 1; give --image 3 6 1 or --resize"),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_what_is_wrong_with_an_array_is_said(tmp_path, fault: str) -> None:
    array, what = BAD_ARRAYS[fault]
    np.save(tmp_path / "a.npy", array)
    assert str(tmp_path / "a.npy") in refused(what, f"npy:{tmp_path / 'a.npy'}")
    np.savez(tmp_path / "a.npz", train=GREY, test=array)
    if fault != "one image":
        assert str(tmp_path / "a.npz") in refused(what, f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("kind", ["npy", "npz", "folder", "pictures"])
def test_images_of_one_value_are_refused(package, capsys, tmp_path, kind: str, value: int) -> None:
    flat, out = np.full_like(GREY, value), tmp_path / "run"
    np.save(tmp_path / "a.npy", flat)
    np.savez(tmp_path / "a.npz", train=flat, test=GREY)
    for name, array in (("train", flat), ("test", GREY)):
        save(tmp_path / "pictures" / f"{name}.png", array[0])
        (tmp_path / "folder").mkdir(exist_ok=True)
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    save(tmp_path / "pictures" / "test.png", flat[0])
    name = {"npy": "npy:{}/a.npy", "npz": "npz:{}/a.npz", "folder": "npy:{}/folder", "pictures": "images:{}/pictures"}
    data = name[kind].format(tmp_path)
    says = f"The training images of {data} are all of one value, {value}; give others"
    fails(package, capsys, says, "train", "--data", data, "--image", 4, 6, 1, "--out", out)
    assert not out.exists()


def test_test_images_of_one_value_are_said(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", train=GREY, test=np.full_like(GREY, 9))
    dataset = load(f"npz:{tmp_path / 'a.npz'}")
    assert dataset.notes == (f"The test images of {dataset.name} are all of one value, 9.",)


def test_rows_of_several_channels_are_not_guessed(tmp_path) -> None:
    np.save(tmp_path / "a.npy", COLOUR.reshape(25, -1))
    advice = r"reshape them to \(-1, 3, 4, 6\) and transpose by \(0, 2, 3, 1\) if .*, or to \(-1, 4, 6, 3\)"
    refused(f"found rows of 72 numbers, which can be meant in two ways; {advice}", f"npy:{tmp_path / 'a.npy'}", 4, 6, 3)


ORDERS = {
    (25, 3, 8, 8): ([(8, 8, 3), (3, 8, 8)], r"channels come first; transpose it by \(0, 2, 3, 1\)"),
    (25, 2, 8, 8): ([(8, 8, 2), (2, 8, 8)], r"channels come first; transpose it by \(0, 2, 3, 1\)"),
    (8, 9, 3, 25): ([(8, 9, 3), (9, 3, 25), (4, 4, 3)], r"the images come last; transpose it by \(3, 0, 1, 2\)"),
    (8, 9, 1, 25): ([(8, 9, 1)], r"the images come last; transpose it by \(3, 0, 1, 2\)"),
    (8, 9, 25): ([(8, 9, 1)], r"the images come last; transpose it by \(2, 0, 1\)"),
}


@pytest.mark.parametrize("shape", ORDERS)
def test_where_channels_and_images_are_is_not_guessed(tmp_path, shape) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    images, says = ORDERS[shape]
    for image in images:
        refused(rf"found \[{', '.join(map(str, shape))}\], in which {says}", f"npy:{tmp_path / 'a.npy'}", *image)


def test_a_file_that_is_no_array_is_named(tmp_path) -> None:
    path = tmp_path / "a"
    refused(f"{path} can't be read \\(No such file", f"npy:{path}")
    refused("can't be read \\(it is a folder", f"npz:{tmp_path}")
    np.save(tmp_path / "a.npy", GREY)
    np.savez_compressed(tmp_path / "a.npz", images=GREY)
    one, many = ((tmp_path / name).read_bytes() for name in ("a.npy", "a.npz"))
    corrupt = many[:200] + bytes(50) + many[250:]
    for wrong in (b"", b"text", b"\x80\x04N.", one[:50], one[:-1], many[:-30], corrupt, b"\x93NUMPY\x01\x00v\x00{"):
        path.write_bytes(wrong)
        assert str(path) in refused("found one that is damaged or holds Python objects", f"npz:{path}")


@pytest.mark.parametrize("names", numpy_files._ARRAYS)
def test_an_npz_has_its_splits(tmp_path, names) -> None:
    train, train_labels, test, test_labels = names
    labels = np.arange(25)[:, None] if names[1] == "y_train" else np.arange(25, dtype=np.int8)
    images: dict[str, Any] = {train: COLOUR[:20], test: COLOUR[20:], "other": np.array([None])}
    last: dict[str, Any] = {test_labels: labels[20:]}
    np.savez(tmp_path / "a.npz", **{**images, **last, train_labels: labels[:20]})
    name = f"npz:{tmp_path / 'a.npz'}"
    dataset = load(name, 4, 6, 3, classes=25)
    assert dataset.labelled
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test]), COLOUR)
    np.testing.assert_array_equal(np.concatenate([dataset.train_labels, dataset.test_labels]), np.arange(25))
    refused("has labels up to 24, the model's 3 classes are 0 to 2; give --classes 25", name, 4, 6, 3, classes=3)
    np.savez(tmp_path / "a.npz", **images, **last)
    refused(f"has one of {train_labels} and {test_labels} only", name, 4, 6, 3)
    np.savez(tmp_path / "a.npz", **images)
    assert not load(name, 4, 6, 3).labelled
    refused("has no labels", name, 4, 6, 3, classes=25)


def test_an_npz_of_one_array_is_split_by_tenths(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, labels=np.arange(25))
    dataset = load(f"npz:{tmp_path / 'a.npz'}", train_images=20, classes=25)
    np.testing.assert_array_equal(dataset.train[..., 0], GREY[REST][:20])
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == (REST[:20], TENTHS)
    np.savez(tmp_path / "a.npz", x_train=GREY, pictures=GREY)
    refused("must hold the arrays train and test, .* of these it has x_train;", dataset.name)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (np.arange(24), r"must be 25 integers, one for each image, found int64 of shape \[24\]"),
        (np.eye(25, dtype=int), r"found int64 of shape \[25, 25\]"),
        (np.arange(25.0), r"found float64 of shape \[25\]"),
        (np.arange(25) - 1, "must be integers from 0 to 255, found -1 to 23"),
        (np.arange(25) + 240, "found 240 to 264"),
        (np.array(5), r"found int64 of shape \[\]"),
    ],
)
def test_what_is_wrong_with_labels_is_said(tmp_path, labels: np.ndarray, what: str) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, labels=labels)
    refused(what, f"npz:{tmp_path / 'a.npz'}")


def test_arrays_are_resized_if_asked(tmp_path) -> None:
    np.save(tmp_path / "a.npy", COLOUR)
    small = load(f"npy:{tmp_path / 'a.npy'}", 2, 3, 1, resize=True)
    grey = Image.fromarray(COLOUR[0]).convert("L").resize((3, 2), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(small.train[0, ..., 0], grey)
    np.testing.assert_array_equal(small.train, load(f"npy:{tmp_path / 'a.npy'}", 2, 3, 1, resize=True).train)
    large = load(f"npy:{tmp_path / 'a.npy'}", 9, 8, 3, resize=True)
    np.testing.assert_array_equal(large.test[0], Image.fromarray(COLOUR[9]).resize((8, 9), Image.Resampling.BICUBIC))
    refused("only grey", f"npy:{tmp_path / 'a.npy'}", 4, 6, 2, resize=True)


def test_digits_may_turn_colour_and_be_cut() -> None:
    whole = datasets.digits((8, 8, 1))
    refused("The digits are grey.*give --image 8 8 1 or --resize", "digits", 8, 8, 3)
    np.testing.assert_array_equal(load("digits", 8, 8, 3, resize=True).train, np.repeat(whole.train, 3, axis=3))
    cut = load("digits", 8, 8, 1, train_images=7, classes=10)
    for dataset, wanted in zip(cut[2:6], (whole.train[:7], whole.train_labels[:7], *whole[4:6]), strict=True):
        np.testing.assert_array_equal(dataset, wanted)
    assert len(load("digits", train_images=1500).train) == 1500
    refused("has 1,500 training images, 1,501 are asked for; give --train-images 1500", "digits", train_images=1501)
