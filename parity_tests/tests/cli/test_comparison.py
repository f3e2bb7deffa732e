"""Runs beside PCA: its error is an independent computation's, and the table and the picture say what was found."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxvae.shared.analysis import pca
from jaxvae.shared.analysis.pca import Row
from jaxvae.shared.commands import compare
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.image_grid import grid
from jaxvae.shared.runs.run_folder import Run


def images(n: int, height: int = 4, width: int = 5, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def made(name: str, latent: int, error: float, baseline: bool = False, shown: np.ndarray | None = None) -> Row:
    return Row(name, latent, error, images(3) / 255 if shown is None else shown, baseline)


def by_svd(train: np.ndarray, test: np.ndarray, components: int) -> tuple[float, np.ndarray]:
    """Squared error per test image, and the projections."""
    x, y = (a.reshape(len(a), -1).astype(np.float64) / 255 for a in (train, test))
    directions = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:components]
    projected = x.mean(0) + (y - x.mean(0)) @ directions.T @ directions
    return float(((projected - y) ** 2).sum() / len(y)), projected.reshape(test.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("components", [1, 4, 15])
def test_pca_is_the_projection_on_the_first_singular_vectors(components: int, channels: int) -> None:
    train, test = images(200, channels=channels), images(50, channels=channels, seed=1)
    result = pca.pca(train, test, components, 6)
    error, projected = by_svd(train, test, components)
    assert result[:2] == ("PCA", components)
    assert result.baseline
    np.testing.assert_allclose(result.error, error, rtol=1e-10)
    np.testing.assert_allclose(result.per_pixel, error / (20 * channels), rtol=1e-10)
    np.testing.assert_allclose(result.reconstructions, np.clip(projected[:6], 0, 1), atol=1e-10)


def test_pca_of_digits_beats_their_mean_and_gains_with_every_component() -> None:
    digits = np.round(load_digits(return_X_y=True)[0].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    train, test = digits[:1500], digits[1500:]
    errors = [pca.pca(train, test, k, 1).error for k in (1, 10, 50)]
    mean = np.square((test - train.mean(0)) / 255).sum() / len(test)
    assert mean > errors[0] > errors[1] > errors[2] > 0


def test_pca_with_as_many_components_as_pixels_loses_nothing() -> None:
    assert pca.pca(images(100), images(30, seed=1), 20, 1).error < 1e-20


def test_pca_of_many_pixels_is_close_to_exact_and_the_same_each_time() -> None:
    factors = np.random.default_rng(2).normal(size=(60, 4)) @ np.random.default_rng(3).normal(size=(4, 48 * 48))
    x = np.clip(factors * 30 + 128, 0, 255).astype(np.uint8).reshape(60, 48, 48, 1)
    results = [pca.pca(x[:50], x[50:], 4, 1).error for _ in range(2)]
    assert results[0] == results[1]
    np.testing.assert_allclose(results[0], by_svd(x[:50], x[50:], 4)[0], rtol=1e-3)


@pytest.mark.parametrize("side", [4, 50])
def test_pca_of_images_that_are_all_the_same(side: int) -> None:
    same = np.full((5, side, side, 1), 7, np.uint8)
    assert pca.pca(same, same, 2, 1).error < 1e-20


@pytest.mark.parametrize(("n", "components"), [(100, 0), (100, -1), (100, 21), (8, 8)])
def test_pca_refuses_components_that_are_not_there(n: int, components: int) -> None:
    with pytest.raises(InputError, match=f"from 1 to {min(n - 1, 20)} components, found {components}; give"):
        pca.pca(images(n), images(5), components, 1)


@pytest.mark.parametrize("n", [0, 1])
def test_pca_refuses_a_single_image(n: int) -> None:
    with pytest.raises(InputError, match=f"at least two training images, found {n}"):
        pca.pca(images(n), images(5), 1, 1)


@pytest.mark.parametrize("batch", [1, 7, 20, 21, 1000])
def test_a_row_in_batches_is_the_row_at_once(batch: int) -> None:
    test, output = images(20), images(20, seed=1) / np.float32(255) * 1.5 - 0.25
    asked = []

    def reconstruct(part: slice) -> np.ndarray:
        asked.append(output[part])
        return output[part]

    result = pca.row("run", 3, test, reconstruct, 9, batch=batch)
    np.testing.assert_array_equal(np.concatenate(asked), output)
    assert max(map(len, asked)) <= batch
    np.testing.assert_allclose(result.error, np.square(output - test / 255).sum(axis=(1, 2, 3)).mean(), rtol=1e-6)
    np.testing.assert_array_equal(result.reconstructions, np.clip(output[:9], 0, 1))
    assert (result.name, result.latent, result.baseline) == ("run", 3, False)


@pytest.mark.parametrize(("n", "most"), [(0, 20), (-1, 20), (21, 20), (65, 64)])
def test_as_many_images_are_shown_as_there_are_and_a_picture_holds(n: int, most: int) -> None:
    test = images(20 if most == 20 else 100)
    with pytest.raises(InputError, match=f"--n must be from 1 to {most}, .* found {n}"):
        pca.row("run", 3, test, lambda part: test[part] / 255, n)
    with pytest.raises(InputError, match=f"--n must be from 1 to {most}, .* found {n}"):
        pca.pca(test, test, 2, n)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="reconstructions by runs/a contain NaN or infinite values"):
        pca.row("runs/a", 3, images(4), lambda part: np.full(images(4)[part].shape, value), 1)


def test_reconstructions_of_another_shape_are_no_broadcast() -> None:
    with pytest.raises(ValueError, match=r"must give \(4, 4, 5, 1\), found \(1, 4, 5, 1\)"):
        pca.row("run", 3, images(4), lambda part: images(1) / 255, 1)


def lines(rows: list[Row]) -> list[list[str]]:
    """The cells of the table's rows, header first."""
    text = compare.table(rows, 10_000, "mnist").splitlines()
    assert text[0] == "Squared error per image, pixels in [0, 1]: the mean over 10,000 test images of mnist:"
    assert text[1] == ""
    assert len({len(line) for line in text[2:]}) == 1
    assert set(text[3]) == set("|-: ")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (text[2], *text[4:])]


def test_the_table_measures_each_row_by_the_pca_of_as_many_components() -> None:
    runs = [made("runs/a", 20, 30.0), made("runs/b", 2, 90.0), made("runs/c", 5, 45.0)]
    assert lines([*runs, made("PCA", 20, 60.0, True), made("PCA", 2, 100.0, True)]) == [
        ["name", "latents", "squared error per image", "per pixel", "of PCA's"],
        ["runs/a", "20", "30.000", "1.50000", "0.500"],
        ["runs/b", "2", "90.000", "4.50000", "0.900"],
        ["runs/c", "5", "45.000", "2.25000", "-"],
        ["PCA", "20", "60.000", "3.00000", "1.000"],
        ["PCA", "2", "100.000", "5.00000", "1.000"],
    ]


def test_the_table_measures_by_the_only_pca_else_by_the_first_row() -> None:
    runs = [made("runs/a", 20, 30.0), made("runs/b", 2, 90.0)]
    assert [line[-1] for line in lines([*runs, made("PCA", 7, 60.0, True)])] == ["of PCA's", "0.500", "1.500", "1.000"]
    assert [line[-1] for line in lines(runs)] == ["of the first's", "1.000", "3.000"]
    assert [line[-1] for line in lines([*runs, made("PCA", 20, 1e-25, True)])] == ["of PCA's", "-", "-", "-"]


def test_a_name_can_not_break_the_table() -> None:
    assert lines([made("a|b\nc", 2, 1.0)])[1][0] == "a\\|b c"


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (8, 8, 3), (3, 30, 1), (70, 20, 3)])
def test_the_picture_holds_every_image_to_the_dot(height: int, width: int, channels: int) -> None:
    test = images(12, height, width, channels)
    rows = [made(f"runs/$x_{i}", i, 1.0, i > 1, images(5, height, width, channels, i) / 255) for i in (1, 2, 3)]
    with Image.open(io.BytesIO(figure_file.packed(compare.picture(rows, test, "digits")))) as opened:
        assert opened.format == "PNG"
        actual = np.asarray(opened.convert("RGB")).astype(int)
    strips = [grid(shown, 5) for shown in (test[:5] / 255, *(row.reconstructions for row in rows))]
    scale = 780 // strips[0].shape[1]  # five images fit a paper's column
    tall, wide = strips[0].shape[0] * scale, strips[0].shape[1] * scale
    # A strip begins where the grey of its frame does, white above it.
    frame = (actual == 64).all(2)
    left = int(np.flatnonzero(frame.sum(0) >= 4 * tall)[0])
    tops = [y for y in range(1, len(actual)) if frame[y, left : left + wide].all() and not frame[y - 1, left]]
    assert len(tops) == 4
    for top, strip in zip(tops, strips, strict=True):
        expected = np.broadcast_to(strip.repeat(scale, 0).repeat(scale, 1), (tall, wide, 3))
        np.testing.assert_array_equal(actual[top : top + tall, left : left + wide], expected)
        label = actual[top - 6 : top + tall + 6, :left]
        assert (label < 128).any(), "a row without its label"
    assert tops[0] - 6 > 12, "no room for the caption"
    assert actual.shape[0] < 4 * (max(tall, 72) + 12) + 150
    assert actual.shape[1] < 1.5 * 3.4 * 300, "much wider than a column"


def test_the_picture_is_saved(tmp_path: Path) -> None:
    rows = [made("runs/a", 2, 1.0)]
    picture = figure_file.packed(compare.picture(rows, images(5), "digits"))
    assert picture == figure_file.packed(compare.picture(rows, images(5), "digits"))
    figure_file.write(picture, tmp_path / "F.PNG")
    assert (tmp_path / "F.PNG").read_bytes() == picture
    assert [path.name for path in tmp_path.iterdir()] == ["F.PNG"]


@pytest.mark.parametrize(("name", "sentence"), [(name, "should end in .png, .pdf or .svg") for name in ("f.jpg", "f")])
def test_only_a_picture_is_written(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        figure_file.require(tmp_path / name)
    with pytest.raises(InputError, match=sentence):
        figure_file.write(b"", tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_picture_goes_into_a_folder(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"can't be written: there is no folder .*; make it, or give another --out"):
        figure_file.write(b"", tmp_path / folder / "f.png")


def test_runs_compare_on_the_same_images() -> None:
    def run(name: str, data: str, latent: int, side: int = 28) -> Run:
        return Run(Path(name), Spec(data=data, model=ModelSpec(image=(side, side, 1), latent=latent)), {})

    compare.require_comparable([run("a", "mnist", 2), run("b", "mnist", 20)])
    with pytest.raises(InputError, match=r"images of b \(digits, 28 28 1\) are not those of a \(mnist, 28 28 1\)"):
        compare.require_comparable([run("a", "mnist", 2), run("b", "digits", 2)])
    with pytest.raises(InputError, match=r"images of c \(digits, 8 8 1\) are not those of a \(digits, 28 28 1\)"):
        compare.require_comparable([run("a", "digits", 2), run("b", "digits", 9), run("c", "digits", 2, 8)])
    with pytest.raises(InputError, match="nothing to compare"):
        compare.require_comparable([])
