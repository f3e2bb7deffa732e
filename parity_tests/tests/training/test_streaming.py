"""Training images that come in blocks, from a file or from memory: the run is the one that has them all, to the bit."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.common import open_images
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets, mean_image, streaming
from jaxvae.shared.data.dataset import Dataset, digest
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.runs import run_folder
from parity_tests.support.backends import lean
from parity_tests.support.cli import at_step
from parity_tests.support.distributed_runs import ended, started
from parity_tests.support.numpy_backend import NUMPY_BACKEND, contents, fit
from parity_tests.support.tiny import small, some

pytestmark = pytest.mark.either

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}

_lean = pytest.fixture(scope="module", autouse=True)(lean)


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest):
    yield PACKAGES[request.param]
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def in_files(folder: Path, dataset: Dataset) -> Dataset:
    """The data with its training images left in a file."""
    np.save(folder / "train.npy", dataset.train)
    return dataset._replace(train=streaming.Mapped(np.load(folder / "train.npy", mmap_mode="r")))  # type: ignore[arg-type]


def everything(package: Any, spec: Spec, dataset: Dataset, **options: Any) -> dict[str, np.ndarray]:
    """Every number that comes out of a run."""
    seen: list = []
    state = package.fit(spec, dataset, seen.append, **options)
    return {
        "terms": np.concatenate([progress.train for progress in seen]),
        "tests": np.stack([progress.test for progress in seen]),
        **package.to_arrays(spec, state[0]),
        **package.optimizer_to_arrays(spec, state[1]),
    }


def same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], name)


def shortened(name: str) -> Spec:
    """Epochs of five steps, of which the second ends with the fourth."""
    return replace(small(name), training=replace(small(name).training, epochs=2, max_steps=9))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("flax-example", 1),
        ("conditional", 2),
        *(pytest.param(name, 2, marks=SLOW) for name in ("flax-example", "beta-b", "iwae-paper", "adversarial")),
        *(pytest.param(name, 10**6, marks=SLOW) for name in ("denoising", "dropout")),
    ],
)
def test_a_streamed_run_is_the_resident_one_to_the_bit(package, tmp_path, name: str, batches: int) -> None:
    """Five batches, the last of two images, in blocks of one batch, of two, which don't divide them, and of all: static
    binarisation and labels; convolutions with batch norm, weights from the mean image, three phases, noise."""
    spec, dataset = shortened(name), some(small(name))
    expected = everything(package, spec, dataset)
    assert expected["terms"].all()
    size = batches * 17 * spec.model.pixels
    same(everything(package, spec, in_files(tmp_path, dataset), stream=size), expected)
    if name == "conditional":
        same(everything(package, spec, dataset, stream=size + 1), expected)  # out of memory, and blocks of a byte more


def test_a_streamed_run_goes_on_within_a_block_and_after_an_epoch(package, tmp_path) -> None:
    """Begun with all images, gone on with blocks of two steps from step 3, from 5, which is evaluated still, and from
    8; cut at every third step too."""
    spec, dataset = shortened("conditional"), some(small("conditional"))
    mapped, cut, start = in_files(tmp_path, dataset), [], None
    size = 2 * 17 * spec.model.pixels
    whole: list = []
    last = package.fit(spec, dataset, whole.append)
    for stop in (3, 5, 8):

        def on_part(progress: Any, stop: int = stop) -> None:
            if progress.step == stop:
                package.save_checkpoint(tmp_path / "c.safetensors", spec, progress.state, progress.train)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            package.fit(spec, mapped, cut.append, None, start, on_part, [3, stop], None if stop == 3 else size)
        start = package.load_checkpoint(tmp_path / "c.safetensors")[1:]
    end = package.fit(spec, mapped, cut.append, None, start, None, (), size)
    assert [(p.epoch, p.step) for p in cut] == [(1, 5), (2, 9)]
    for actual, expected in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(actual.train, expected.train)
        np.testing.assert_array_equal(actual.test, expected.test)
    same(package.to_arrays(spec, end[0]), package.to_arrays(spec, last[0]))
    same(package.optimizer_to_arrays(spec, end[1]), package.optimizer_to_arrays(spec, last[1]))


def test_one_program_trains_all_blocks(caplog) -> None:
    """The last of an epoch too, which has fewer images."""
    spec, dataset = shortened("flax-example"), some(small("flax-example"))
    spec = replace(spec, training=replace(spec.training, seed=77, max_steps=None, epochs=3))
    after_first = []
    with jax.log_compiles(), caplog.at_level("WARNING"):
        jaxvae.fit(spec, dataset, lambda p: after_first.append(len(caplog.records)), stream=2 * 17 * 30)
    said = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("Compiling jit(train_epoch)") for message in said) == 1
    assert not [message for message in said[after_first[0] :] if message.startswith("Compiling")]


@pytest.mark.parametrize("side", [pytest.param("jaxvae", marks=SLOW), "torchvae"])
def test_processes_stream_the_run_of_all_images(side: str, tmp_path) -> None:
    """Two of them, JAX's of two devices each, which each read their own rows: with the last batch of one image."""
    names = ["everything", "everything@1200"]  # blocks of two batches of 16 images of 30 bytes, and 240 to spare
    devices = {"jaxvae": "2", "torchvae": "1"}[side]
    result = ended(started("parity_tests.support.distributed_runs", [side, str(tmp_path), devices, *names], 2, False))
    assert [(status, error) for status, _, error in result] == [(0, "")] * 2
    whole, blocks = (dict(np.load(next(tmp_path.glob(f"{name}-*.npz")))) for name in names)
    same({**blocks, "compiled": whole["compiled"]}, whole)


def test_a_loss_that_is_not_finite_is_named_as_ever(package) -> None:
    spec = shortened("conditional")
    spec = replace(spec, training=replace(spec.training, learning_rate=1e30))
    with pytest.raises(NonFiniteError, match=r"became (nan|inf) at step 2, of steps 1 to 4;"):
        package.fit(spec, some(spec), stream=4 * 17 * spec.model.pixels)


IMAGES = np.random.default_rng(1).integers(0, 256, (31, 4, 6), np.uint8)


def load(name: str, mapped: bool, classes: int = 0, **images: Any) -> Dataset:
    model = ModelSpec(image=(4, 6, 1), classes=classes)
    return datasets.load(Spec(data=name, model=model, images=ImagesSpec(**images)), None, mapped)[0]


@pytest.mark.parametrize("images", [{}, {"train_images": 20}])
@pytest.mark.parametrize("kind", ["a file", "a flat file", "train and test", "keras' names", "one of each"])
def test_images_left_in_their_file_are_those_that_are_read(tmp_path, monkeypatch, kind: str, images: dict) -> None:
    """The same splits, labels and digest, whether or not a digest is taken in pieces of a few images."""
    labels, path = np.arange(31), tmp_path / "images.npy"
    if kind.endswith("file"):
        np.save(path, IMAGES.reshape(31, 24) if kind == "a flat file" else IMAGES)
    elif kind == "one of each":
        np.save(tmp_path / "images.npy", IMAGES)
        np.save(tmp_path / "labels.npy", labels)
    else:
        four = ("x_train", "y_train", "x_test", "y_test")
        names = four if kind == "keras' names" else ("train", "train_labels", "test", "test_labels")
        for name, array in zip(names, (IMAGES[:25], labels[:25], IMAGES[25:], labels[25:]), strict=True):
            np.save(tmp_path / f"{name}.npy", array)
    name = f"npy:{path if kind.endswith('file') else tmp_path}"
    classes = 0 if kind.endswith("file") else 31
    whole = load(name, False, classes, **images)
    monkeypatch.setattr(streaming, "_PIECE", 100)
    mapped = load(name, True, classes, **images)
    assert isinstance(whole.train, np.ndarray)
    assert isinstance(mapped.train, streaming.Mapped)
    assert (mapped.name, mapped.source, mapped.labelled) == (whole.name, whole.source, whole.labelled)
    assert (mapped.train.shape, mapped.train.dtype, len(mapped.train)) == (
        whole.train.shape,
        np.uint8,
        len(whole.train),
    )
    for actual, expected in zip(mapped[2:6], whole[2:6], strict=True):
        np.testing.assert_array_equal(np.asarray(actual), expected)
    assert digest(mapped) == digest(whole)
    assert len(list(streaming.pieces(mapped.train))) > 4
    some_rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(np.asarray(mapped.train[5:][some_rows]), whole.train[5:][some_rows])


@pytest.mark.parametrize("binarization", ["none", "threshold"])
def test_the_mean_image_is_taken_in_pieces(tmp_path, monkeypatch, binarization: Any) -> None:
    """To the bit, all sums being of whole numbers."""
    np.save(tmp_path / "a.npy", IMAGES)
    spec = Spec("digits", ModelSpec((4, 6, 1), init="glorot-data"), images=ImagesSpec(binarization=binarization))
    expected = mean_image.last_bias(spec, load(f"npy:{tmp_path}/a.npy", False).train)
    monkeypatch.setattr(streaming, "_PIECE", 100)
    actual = mean_image.last_bias(spec, load(f"npy:{tmp_path}/a.npy", True).train)
    assert expected is not None
    np.testing.assert_array_equal(actual, expected, strict=True)


def test_a_block_has_whole_batches_in_the_steps_that_draw_at_once() -> None:
    spec = Spec(training=TrainingSpec(batch_size=128))  # of 784 bytes; draws 64 steps ahead
    sizes = (1, 128 * 784, 5.9 * 128 * 784, 64 * 128 * 784, 100 * 128 * 784, 200 * 128 * 784, 10**12)
    assert [streaming.steps_in_block(spec, 60_000, int(size)) for size in sizes] == [1, 1, 5, 64, 64, 192, 469]
    assert streaming.steps_in_block(spec, 100, 10**12) == 1


def test_every_image_of_an_order_is_in_its_block_in_its_place() -> None:
    order, images = np.random.default_rng(0).permutation(23), np.arange(23) * 10
    for own in (None, np.flatnonzero(np.arange(23) % 4 < 2)):
        rows, places = streaming.blocks(order, 8, own)
        assert [list(r) == sorted(r) for r in rows] == [True] * 3
        for place in range(23) if own is None else own:
            assert images[rows[place // 8]][places[place]] == images[order[place]]
    assert sum(map(len, rows)) == 12


def test_one_item_is_made_ahead_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    with streaming.ahead(items()) as coming:
        for i in coming:
            until = time.monotonic() + 0.05
            while time.monotonic() < until:
                assert made[-1] <= min(i + 1, 4)
    assert made == [0, 1, 2, 3, 4]


def test_what_goes_wrong_in_the_thread_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError(5, "Input/output error", "disk")

    got = []
    with pytest.raises(OSError, match="Input/output"), streaming.ahead(items()) as coming:  # noqa: PT012
        for item in coming:
            got.append(item)
    assert got == [1]


@pytest.mark.parametrize("change", ["cut", "written to", "gone"])
def test_a_file_that_changes_stops_the_run(package, tmp_path, change: str) -> None:
    """In time: of one that was cut the kernel would kill who reads on."""
    spec = shortened("conditional")
    mapped, file = in_files(tmp_path, some(spec)), tmp_path / "train.npy"

    def on_part(part: Any) -> None:
        if part.step == 1:
            {"cut": lambda: os.truncate(file, 200), "gone": file.unlink, "written to": lambda: file.touch()}[change]()

    what = "can no longer be read (No such file" if change == "gone" else "changed on disk since it was opened;"
    with pytest.raises(InputError, match=re.escape(f"{file} {what}")):
        package.fit(spec, mapped, on_part=on_part, stream=17 * spec.model.pixels)


FLAGS = ["--hidden", "5", "--latent", "2", "--checkpoint-every", "5", "--keep", "9", "--epochs", "2"]


def test_the_commands_run_is_the_same_and_goes_on_in_blocks(package, tmp_path, capsys) -> None:
    """Every file of a run of 15 steps an epoch, in blocks of nine, and gone on with from within each."""
    digits = datasets.digits()
    np.save(tmp_path / "a.npy", np.concatenate([digits.train, digits.test[:500]] * 2)[:2100])
    train = ["train", "--data", f"npy:{tmp_path / 'a.npy'}", *FLAGS]
    assert cli.main(package, [*train, "--out", str(tmp_path / "whole")]) == 0
    assert cli.main(package, [*train, "--stream", "1", "--out", str(tmp_path / "run")]) == 0
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "run") == whole
    on = at_step(tmp_path / "run", tmp_path / "on", 10)
    assert cli.main(package, ["train", "--resume", str(on), "--stream", "1"]) == 0
    assert contents(tmp_path / "on") == whole
    assert run_folder.read(tmp_path / "run").config["data"] == run_folder.read(tmp_path / "whole").config["data"]
    capsys.readouterr()
    assert cli.main(package, ["reconstruct", str(tmp_path / "run"), "--out", str(tmp_path / "a.png")]) == 0
    dataset = open_images(run_folder.read(tmp_path / "run"), None)
    assert isinstance(dataset.train, streaming.Mapped)


def test_a_stopped_run_says_how_to_resume_it(tmp_path, capsys, monkeypatch) -> None:
    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        fit(*arguments)

    monkeypatch.setattr(NUMPY_BACKEND, "fit", interrupted)
    flags = ["--data", "digits", *FLAGS, "--stream", "3", "--out", str(tmp_path / "run")]
    assert cli.main(NUMPY_BACKEND, ["train", *flags]) == 143
    assert capsys.readouterr().err.endswith(f"resume with jaxvae train --resume {tmp_path / 'run'} --stream 3\n")


def test_what_can_not_be_streamed_is_refused(tmp_path, capsys) -> None:
    """Before it is read, where there is much to read."""
    for name, array in (("float", IMAGES / 255), ("bool", IMAGES > 9), ("order", np.asfortranarray(IMAGES))):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "good.npy", IMAGES)
    np.savez(tmp_path / "a.npz", images=IMAGES)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "images.npy").write_bytes((tmp_path / "a.npz").read_bytes())
    must, size = "must be uint8 of the model's size in an .npy to be streamed, found", ["--image", "4", "6", "1"]
    for name, flags, says in (
        (
            "npy:float.npy",
            size,
            f"{tmp_path}/float.npy's images {must} float64; save them so by numpy.save, and give npy:",
        ),
        ("npy:bool.npy", size, f"{must} bool;"),
        ("npy:order.npy", size, f"{must} uint8 in Fortran's order;"),
        ("npy:a.npz", size, f"{tmp_path}/a.npz's images {must} an .npz;"),
        ("npz:a.npz", size, f"The images of npz:{tmp_path}/a.npz {must} an .npz;"),
        ("images:folder", size, f"The images of images:{tmp_path}/folder {must} pictures;"),
        ("npy:folder", size, f"{tmp_path}/folder's images {must} an .npz;"),
        ("npy:good.npy", ["--image", "5", "5", "1", "--resize"], f"good.npy's images {must} 4 6 1;"),
        ("npy:good.npy", [*size, "--stream", "0"], "--stream must be at least 1, found 0."),
        ("npy:none", size, f"{tmp_path}/none can't be read (No such file or directory)"),
    ):
        kind, _, file = name.partition(":")
        given = ["train", "--data", f"{kind}:{tmp_path / file}", "--stream", "1", *flags, *FLAGS]
        assert cli.main(NUMPY_BACKEND, [*given, "--out", str(tmp_path / "run")]) == 2
        err = capsys.readouterr().err
        assert says in err, err
        assert err.count("\n") == 1
        assert not (tmp_path / "run").exists()
    together = ["sweep", "--how", "together", "--data", "digits", "--stream", "1", "--out", str(tmp_path / "sweep")]
    assert cli.main(jaxvae, together) == 2
    assert "leave out --stream, or --how together." in capsys.readouterr().err


def test_other_commands_read_what_can_not_be_left_in_its_file(tmp_path) -> None:
    np.save(tmp_path / "a.npy", IMAGES / 255)
    train = ["train", "--data", f"npy:{tmp_path / 'a.npy'}", "--image", "4", "6", "1", *FLAGS]
    assert cli.main(NUMPY_BACKEND, [*train, "--out", str(tmp_path / "run")]) == 0
    assert isinstance(open_images(run_folder.read(tmp_path / "run"), None).train, np.ndarray)


GROWTH = """
import re, sys
from pathlib import Path
import {package}
from jaxvae.shared import cli
for i, flags in enumerate((["small", "--stream", "4"], ["large", "--stream", "4"], ["large"])):
    train = ["train", "--data", "npy:{folder}/" + flags[0], *flags[1:], "--image", "64", "64", "3", "--max-steps", "3"]
    rest = ["--hidden", "5", "--latent", "2", "--batch-size", "32", "--out", "{folder}/" + str(i)]
    assert cli.main({package}, [*train, *rest]) == 0
    # Not getrusage's, which begins with what the process had that started this one.
    print(re.search("VmHWM:.*?([0-9]+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


@pytest.mark.parametrize("side", ["jaxvae", "torchvae"])
@SLOW
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells a process's peak so")
def test_the_file_is_never_in_memory(side: str, tmp_path) -> None:
    """A run on 400 MB, almost all of it a hole in the file, after one on 12 MB takes little more room than that: for
    pieces of 16 MB of the digest, and what another number of images compiles. Not streamed it takes all of it."""
    for name, n in (("small", 1000), ("large", 33_000)):
        (tmp_path / name).mkdir()
        train = np.lib.format.open_memmap(tmp_path / name / "train.npy", "w+", np.uint8, (n, 64, 64, 3))
        train[0, 0, 0, 0] = 1
        train.flush()
        np.save(tmp_path / name / "test.npy", np.zeros((10, 64, 64, 3), np.uint8))
    program = GROWTH.format(package=side, folder=tmp_path)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, streamed, resident = (int(peak) / 1000 for peak in done.stderr.split())
    assert streamed - before < 200
    assert resident - streamed > 300
