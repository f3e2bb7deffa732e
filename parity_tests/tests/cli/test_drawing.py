"""Pictures of latent space: where they look is where they say, and both packages draw the same."""

import base64
import importlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import geometric_slerp
from scipy.stats import norm

import torchvae
from jaxvae.shared import cli
from jaxvae.shared.analysis import latent_paths, latents
from jaxvae.shared.backend import Latents
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets
from jaxvae.shared.data.class_names import CLASS_NAMES
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import class_colours, figure_file, image_grid, labelled_figure
from jaxvae.shared.runs import run_folder
from parity_tests.support.backends import FLOAT64, IMPLEMENTATIONS, lean, some_arrays
from parity_tests.support.cli import PACKAGES, fails, run
from parity_tests.support.tiny import small, some

pytestmark = pytest.mark.either

RNG = np.random.default_rng(0)
KINDS = ("pytorch-examples", "conditional", "autoencoder", "conv", "tanh-mse")

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def opened(side, name: str):
    """A small model of the preset, in float64, and its weights."""
    spec = replace(small(name), training=FLOAT64)
    return spec, side.package.from_arrays(spec, some_arrays(spec, 1))


@pytest.mark.parametrize("steps", [2, 5])
def test_a_line_is_straight_and_an_arc_is_the_great_circles(steps: int) -> None:
    start, end = RNG.normal(size=(2, 4, 3))
    t = np.linspace(0, 1, steps)
    line, arc = latent_paths.linear(start, end, steps), latent_paths.spherical(start, end, steps)
    for i in range(4):
        np.testing.assert_allclose(line[i], [start[i] + s * (end[i] - start[i]) for s in t], rtol=0, atol=1e-15)
        norms = np.linalg.norm(start[i]), np.linalg.norm(end[i])
        unit = latent_paths.spherical(start[i : i + 1] / norms[0], end[i : i + 1] / norms[1], steps)[0]
        np.testing.assert_allclose(unit, geometric_slerp(start[i] / norms[0], end[i] / norms[1], t), rtol=0, atol=1e-14)
    for way in (line, arc):
        np.testing.assert_allclose(way[:, 0], start, rtol=0, atol=1e-15)
        np.testing.assert_allclose(way[:, -1], end, rtol=0, atol=1e-15)


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_an_arc_between_latents_of_one_direction_is_a_line(factor: float) -> None:
    start = RNG.normal(size=(3, 4))
    np.testing.assert_array_equal(
        latent_paths.spherical(start, factor * start, 5), latent_paths.linear(start, factor * start, 5)
    )


def test_the_plane_goes_through_the_normals_quantiles() -> None:
    np.testing.assert_allclose(latent_paths.quantiles(7), norm.ppf((np.arange(7) + 0.5) / 7), rtol=1e-12, atol=1e-15)
    plane = latent_paths.plane(5)
    assert plane.shape == (5, 5, 2)
    assert (np.diff(plane[..., 0], axis=1) > 0).all(), "the first latent rises to the right"
    assert (np.diff(plane[..., 1], axis=0) < 0).all(), "the second rises upwards"
    np.testing.assert_allclose(plane[2, 2], 0, atol=1e-15)


@pytest.mark.parametrize("name", KINDS)
def test_both_packages_draw_the_same(name: str, x64) -> None:
    """In float64 to the rounding of sums, whatever the way to the images is."""
    results = {}
    for which, side in IMPLEMENTATIONS.items():
        spec, weights = opened(side, name)
        latent, package = spec.model.latent, side.package
        start, end = np.random.default_rng(1).normal(size=(2, 3, latent))
        labels = np.array([3, 1, 9]) if spec.model.classes else None
        label = 4 if spec.model.classes else None
        values = np.linspace(-2, 2, 5)[None].repeat(2, 0)
        ways = package.interpolate(spec, weights, start, end, 4, labels)
        arcs = package.interpolate(spec, weights, start, end, 4, labels, spherical=True)
        rows = package.traverse(spec, weights, start[0], np.array([1, 0]), values, label)
        assert ways.shape == (3, 4, *spec.model.image)
        assert rows.shape == (2, 5, *spec.model.image)
        ends = package.decode_images(spec, weights, start, labels), package.decode_images(spec, weights, end, labels)
        for way in (ways, arcs):
            np.testing.assert_allclose(way[:, 0], ends[0], rtol=0, atol=1e-14)
            np.testing.assert_allclose(way[:, -1], ends[1], rtol=0, atol=1e-14)
        moved = start[0].copy()
        moved[1] = values[0, 3]
        one = None if label is None else np.array([label])
        np.testing.assert_allclose(rows[0, 3], package.decode_images(spec, weights, moved[None], one)[0], atol=1e-14)
        assert np.ptp(rows, axis=1).max() > 1e-3, "nothing moves"
        results[which] = ways, arcs, rows
    for a, b in zip(*results.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("side", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_temperature_scales_the_latents(side, x64) -> None:
    spec, weights = opened(side, "pytorch-examples")
    key = side.package.root_key(5)
    z = side.package.draw_latents(spec, key, 6)
    np.testing.assert_allclose(z, jax.random.normal(jax.random.key(5), (6, 4), "float64"), rtol=0, atol=4e-15)
    for temperature in (1.0, 0.3):
        images = side.package.sample(spec, weights, side.package.root_key(5), 6, None, temperature)
        again = side.package.decode_images(spec, weights, temperature * z)
        np.testing.assert_allclose(images, again, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["conditional", "pictures"])
def test_images_of_several_parts_are_those_of_one(name: str, monkeypatch, x64) -> None:
    results = []
    for which, side in IMPLEMENTATIONS.items():
        spec, weights = opened(side, name)
        images = some(spec).test[:11]
        labels = (np.arange(11) * 3) % spec.model.classes if spec.model.classes else None
        z = side.package.draw_latents(spec, side.package.root_key(5), 11)
        for most in (11, 4, 1):  # one part; three of at most four; more than a step of the loop computes
            monkeypatch.setattr(importlib.import_module(f"{which}.generate"), "_PART", most)
            spec = replace(spec, training=replace(spec.training, epochs=most))  # for a program of its own
            drawn = side.package.sample(spec, weights, side.package.root_key(5), 11, labels)
            decoded = side.package.decode_images(spec, weights, z, labels)
            results.append((drawn, decoded, side.package.reconstruct(spec, weights, images, labels)))
    for drawn, decoded, seen in results:
        assert drawn.shape == (11, *spec.model.image)
        # A few units in the last place of pixels up to 1.
        np.testing.assert_allclose(drawn, results[0][1], rtol=0, atol=1e-14)
        np.testing.assert_allclose(decoded, results[0][1], rtol=0, atol=1e-14)
        np.testing.assert_allclose(seen, results[0][2], rtol=0, atol=1e-14)


@pytest.mark.parametrize("side", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_a_manifold_is_of_two_latents_with_a_prior(side, x64) -> None:
    spec = replace(small("pytorch-examples"), training=FLOAT64)
    spec = replace(spec, model=replace(spec.model, latent=2))
    weights = side.package.from_arrays(spec, some_arrays(spec, 1))
    result = side.package.manifold(spec, weights, 3)
    corner = side.package.decode_images(spec, weights, np.array([[norm.ppf(1 / 6), norm.ppf(5 / 6)]]))
    np.testing.assert_allclose(result[0, 0], corner[0], rtol=0, atol=1e-13)
    wide, heavy = opened(side, "pytorch-examples")
    with pytest.raises(InputError, match="two latents, but the model has 4"):
        side.package.manifold(wide, heavy, 3)
    plain, code = opened(side, "autoencoder")
    with pytest.raises(InputError, match="no prior to draw from"):
        side.package.manifold(plain, code, 3)


def read(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_plane_shows_the_first_row_uppermost() -> None:
    """Of nine images in nine colours each is where it should be, and as large."""
    colours = np.array([[r, g, 1.0] for r in (0, 0.5, 1) for g in (0, 0.4, 0.8)])
    images = np.broadcast_to(colours.reshape(3, 3, 1, 1, 3), (3, 3, 5, 4, 3))
    result = read(figure_file.packed(labelled_figure.plane(images, latent_paths.quantiles(3), ("a", "b"), "caption")))
    places = [np.argwhere((np.abs(result - np.round(255 * colour)) <= 1).all(2)) for colour in colours]
    middles = np.array([place.mean(0) for place in places]).reshape(3, 3, 2)
    scale = 780 // 12
    assert np.abs(np.diff(middles[..., 0], axis=0) - 5 * scale).max() < 4, "rows follow each other downwards"
    assert np.abs(np.diff(middles[..., 1], axis=1) - 4 * scale).max() < 4, "columns to the right"
    for place in places:
        assert abs(len(place) - 20 * scale**2) < 0.05 * 20 * scale**2


@pytest.mark.parametrize("kinds", [1, 3, 10, 26])
def test_points_have_a_colour_for_each_label(kinds: int) -> None:
    labels = np.arange(200) % kinds
    places = np.stack([np.cos(labels), np.sin(labels)], 1)
    result = read(figure_file.packed(labelled_figure.points(places, labels, ("a", "b"), "caption")))
    coloured = result[np.ptp(result, axis=2) > 60]
    assert len(np.unique(coloured, axis=0)) >= kinds - (kinds == 10)  # of ten colours one is a grey
    last = labelled_figure.points(places[labels == kinds - 1], labels[labels == kinds - 1], ("a", "b"), "caption")
    own = tuple(bytes.fromhex(class_colours.class_colour(kinds - 1)[1:]))
    nearest = read(figure_file.packed(last)).reshape(-1, 3)
    nearest = nearest[np.ptp(nearest, axis=1) > 10]
    assert np.abs(nearest - own).sum(1).min() < 60, "the colour that it has among all"
    if kinds > 1:
        others = [labelled_figure.points(places, some, ("a", "b"), "x") for some in (labels, labels[::-1])]
        assert figure_file.packed(others[0]) != figure_file.packed(others[1])


@pytest.mark.parametrize(("n", "area"), [(10, 15), (150, 10), (2000, 3)])
def test_few_points_are_larger(n: int, area: float) -> None:
    axes: Any = labelled_figure.points(np.zeros((n, 2)), np.arange(n) % 2, ("a", "b")).axes[0]
    assert [points.get_sizes().tolist() for points in axes.collections] == [[area]] * 2
    sizes = [handle.get_sizes().item() for handle in axes.get_legend().legend_handles]
    assert sizes == pytest.approx([18.75] * 2)


def test_components_are_those_of_the_covariance() -> None:
    codes = RNG.normal(size=(300, 4)) * [3, 1, 0.5, 0.1] + 7
    result, names = latents.project(codes)
    values = np.linalg.eigvalsh(np.cov(codes.T, bias=True))[::-1]
    np.testing.assert_allclose(result.var(0), values[:2], rtol=1e-12)
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-12)
    assert names[0] == f"component 1, {100 * values[0] / values.sum():.0f} % of the variance"
    np.testing.assert_allclose(latents.project(-codes)[0], -result, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(latents.project(np.ones((5, 1)))[0], 0)
    np.testing.assert_array_equal(latents.project(np.ones((5, 3)))[0], 0)


def test_the_latent_that_matters_most_comes_first() -> None:
    codes = Latents(np.array([[1.0, 3.0, 0.0], [-1.0, -5.0, 0.0]]), np.zeros((2, 3)), None)
    result = latents.space(Spec(model=ModelSpec(latent=3)), codes, "run")
    np.testing.assert_array_equal(result.order, [1, 0, 2])
    np.testing.assert_array_equal(result.activity, [0.5, 8.5, 0])
    np.testing.assert_array_equal([result.low, result.centre, result.high], [[-3, -5, -3], [0, 0, 0], [3, 5, 3]])
    codes = codes._replace(logvar=None)
    free = Spec(model=ModelSpec(latent=3, posterior="relu-point"), objective=PRESETS["autoencoder"].objective)
    result = latents.space(free, codes, "run")
    np.testing.assert_array_equal(result.activity, [1, 16, 0])
    np.testing.assert_array_equal([result.low, result.centre, result.high], [[-1, -5, 0], [0, -1, 0], [1, 3, 0]])
    with pytest.raises(InputError, match="run encodes to numbers that are not finite"):
        latents.space(free, codes._replace(mean=codes.mean * np.nan), "run")


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory) -> dict[str, Path]:
    """A run with two latents, one with labels, one of codes, in float64; by torchvae, which has nothing to compile."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--data", "digits", "--max-steps", "8", "--hidden", "8", "--dtype", "float64"]
    for name, latent in (("pytorch-examples", "2"), ("conditional", "3"), ("autoencoder", "3")):
        arguments = ["train", "--preset", name, *flags, "--latent", latent, "--out", str(folder / name)]
        assert cli.main(PACKAGES["torchvae"], arguments) == 0
    jax.config.update("jax_enable_x64", False)
    return {path.name: path for path in folder.iterdir()}


DRAWN = [
    ("pytorch-examples", "interpolate --n 2 --steps 3"),
    ("pytorch-examples", "interpolate --n 2 --steps 3 --between latents --spherical --seed 4"),
    ("conditional", "interpolate --images 3 9 9 4 --steps 2"),
    ("conditional", "interpolate --n 2 --steps 3 --between latents"),
    ("conditional", "traverse --steps 3 --label 2"),
    ("conditional", "traverse --steps 3 --image 5 --latents 2"),
    ("autoencoder", "traverse --steps 3"),
    ("pytorch-examples", "manifold --steps 3"),
    ("pytorch-examples", "embed --n 50"),
    ("conditional", "embed --n 50 --by pca"),
    ("conditional", "sample --n 20 --temperature 0.5"),
    ("pytorch-examples", "reconstruct --n 4 --split train"),
]


@pytest.mark.parametrize(("name", "command"), DRAWN, ids=[f"{name}: {command}" for name, command in DRAWN])
def test_each_command_draws_the_same_picture_by_both(name: str, command: str, runs_of, capsys, tmp_path) -> None:
    which, *flags = command.split()
    pictures = []
    for side in PACKAGES.values():
        target = tmp_path / f"{side.__name__}.png"
        status, out, err = run(side, capsys, which, runs_of[name], "--out", target, *flags)
        assert (status, err) == (0, "")
        assert str(target) in out
        pictures.append(target.read_bytes())
    jax.config.update("jax_enable_x64", False)
    # Half a grey level may be rounded either way, a point's edge too.
    assert np.abs(read(pictures[0]) - read(pictures[1])).max() <= 1


TRAINED_ON = (
    "embed --n 40",
    "interpolate --n 2 --steps 2",
    "compare --n 4",
    "traverse --image 3",
    "evaluate",
)


@pytest.mark.parametrize("command", TRAINED_ON)
def test_training_images_are_drawn_and_measured(command: str, runs_of, capsys, tmp_path) -> None:
    which, *flags = command.split()
    file = {"evaluate": "--json"}.get(which, "--out")
    path, said = shutil.copytree(runs_of["conditional"], tmp_path / "run"), []
    for split in ("test", "train"):
        target = tmp_path / f"{split}.png"
        status, out, err = run(torchvae, capsys, which, path, file, target, *flags, "--split", split)
        assert (status, err) == (0, "")
        said.append(out)
    jax.config.update("jax_enable_x64", False)
    assert (tmp_path / "test.png").read_bytes() != (tmp_path / "train.png").read_bytes()
    if which == "evaluate":
        assert ": train loss " in said[1]
        assert " over 1,500 images of digits" in said[1]
        assert json.loads((path / "measures.json").read_text())["terms"]["images"] == 297  # these alone are kept
        assert json.loads(target.read_text())["terms"]["split"] == "train"
    if which in ("embed", "compare"):
        assert "training images" in said[1]


def test_neighbours_by_tsne(package, runs_of, capsys, tmp_path) -> None:
    flags = ["--out", tmp_path / "a.png", "--by", "tsne", "--n", 60]
    status, _, err = run(package, capsys, "embed", runs_of["conditional"], *flags)
    assert (status, err) == (0, f"{package.__name__}: t-SNE of 60 images, about 1 s ...\n")
    first = (tmp_path / "a.png").read_bytes()
    assert run(package, capsys, "embed", runs_of["conditional"], *flags)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == first
    assert np.ptp(read(first), axis=2).max() > 60


def test_an_embedding_goes_somewhere(package, capsys, tmp_path) -> None:
    fails(package, capsys, "nothing to write; give --out, --save or --projector", "embed", tmp_path / "no run")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A run on pictures in folders of their classes, by a model with these classes."""
    folder = tmp_path_factory.mktemp("shapes")
    for k, name in enumerate(("10", "2", "Cat", "_dog")):
        (folder / "shapes" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(np.full((6, 5), 60 * k + i, np.uint8)).save(folder / "shapes" / name / f"{i:02}.png")
    flags = ["--data", f"images:{folder / 'shapes'}", "--classes", "4", "--image", "6", "5", "1", "--hidden", "8"]
    flags += ["--preset", "conditional", "--latent", "2", "--epochs", "1", "--tensorboard"]
    assert cli.main(PACKAGES["torchvae"], ["train", *flags, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_classes_have_the_names_of_their_folders(shapes, capsys, tmp_path) -> None:
    names, package = ["10", "2", "Cat", "_dog"], PACKAGES["torchvae"]
    assert run_folder.read(shapes).class_names == tuple(names)
    assert (shapes / "tensorboard" / "metadata.tsv").read_text().split() == [name for name in names for _ in range(3)]
    for command, parts in {
        "sample": [f">{name}<" for name in names],
        "sample --label cat": [">class Cat<"],
        "sample --label 2": [">class 2<"],  # a name before a number
        "sample --label 3": [">class _dog<"],
        "manifold --steps 2 --label _dog": ["class _dog<"],
        "traverse --label CAT": ["class Cat;"],
        "interpolate --images 0 11": ["10 to _dog"],
        "interpolate --between latents --n 2": [">class 10<", ">class 2<"],
        f"embed --projector {tmp_path / 'projector'}": [f">{name}<" for name in names],
    }.items():
        which, *flags = command.split()
        assert run(package, capsys, which, shapes, "--out", tmp_path / "a.svg", *flags)[::2] == (0, "")
        svg = " ".join((tmp_path / "a.svg").read_text().split())
        assert all(part in svg for part in parts), command
    assert (tmp_path / "projector" / "metadata.tsv").read_text() == (
        shapes / "tensorboard" / "metadata.tsv"
    ).read_text()
    called = ["--names", "Pets & more", "--title", "About <pets>"]
    assert run(package, capsys, "report", shapes, "--out", tmp_path / "a.html", *called)[0] == 0
    page = (tmp_path / "a.html").read_text()
    for part in ('"names":["10","2","Cat","_dog"]', "Pets &amp; more</h2>", "<title>About &lt;pets&gt;"):
        assert part in page
    fails(package, capsys, "--names must be one", "report", shapes, "--out", tmp_path / "b.html", "--names", "a", "b")


def test_latents_are_saved_as_a_table(package, shapes, capsys, tmp_path) -> None:
    assert run(package, capsys, "embed", shapes, "--save", tmp_path / "a.npy")[0] == 0
    assert run(package, capsys, "embed", shapes, "--save", tmp_path / "a.csv", "--n", 6)[0] == 0
    whole = np.load(tmp_path / "a.npy")
    assert whole["image"].tolist() == list(range(12))
    assert whole["label"].tolist() == [label for label in range(4) for _ in range(3)]
    assert whole["name"].tolist() == [name for name in ("10", "2", "Cat", "_dog") for _ in range(3)]
    opened = run_folder.read(shapes)
    spec, weights = package.load(opened.weights)
    key = package.stream_key(package.root_key(0), "evaluation", 1)
    test = datasets.load(spec, None)[0]
    codes = package.encode_images(spec, weights, test.test, key, test.test_labels).mean
    np.testing.assert_allclose(whole["mean"], codes, rtol=1e-6)
    head, *lines = (tmp_path / "a.csv").read_text().splitlines()
    assert head == "image,label,name,mean_1,mean_2"
    rows = [line.split(",") for line in lines]
    assert [row[:3] for row in rows] == [  # of all classes
        *(["0", "0", "10"], ["1", "0", "10"], ["3", "1", "2"], ["4", "1", "2"], ["6", "2", "Cat"], ["9", "3", "_dog"]),
    ]
    np.testing.assert_allclose([list(map(float, row[3:])) for row in rows], codes[[0, 1, 3, 4, 6, 9]], rtol=1e-6)


def test_an_unknown_name_lists_the_names(package, shapes, capsys, tmp_path) -> None:
    says = "--label must be one of 10, 2, Cat, _dog, or from 0 to 3, found bird"
    for command in ("sample", "manifold", "traverse"):
        fails(package, capsys, says, command, shapes, "--out", tmp_path / "x.png", "--label", "bird")


def test_published_classes_have_their_names_without_the_data() -> None:
    runs_of = {
        name: run_folder.Run(Path(), Spec(data=name), {"data": {}}) for name in ("fashion-mnist", "cifar10", "mnist")
    }
    assert runs_of["fashion-mnist"].class_names[7] == "sneaker"
    assert runs_of["cifar10"].class_names[3] == "cat"
    assert runs_of["mnist"].class_names == ()
    assert {len(CLASS_NAMES[f"emnist:{split}"]) for split in ("balanced", "bymerge")} == {47}
    assert [len(CLASS_NAMES[f"emnist:{split}"]) for split in ("byclass", "letters")] == [62, 26]


REFUSED = [
    ("pytorch-examples", "interpolate --n 0", "--n must be from 1 to 100, found 0"),
    ("pytorch-examples", "interpolate --steps 1", "--steps must be from 2 to 60, found 1"),
    ("pytorch-examples", "interpolate --images 1 2 3", "--images must be pairs of test images"),
    ("pytorch-examples", "interpolate --images 1 2 --between latents", "--images must be pairs of test images"),
    ("pytorch-examples", "interpolate --images 1 297", "have the numbers 0 to 296"),
    ("pytorch-examples", "interpolate --images -1 3", "have the numbers 0 to 296"),
    ("autoencoder", "interpolate --between latents", "no prior to draw from"),
    ("pytorch-examples", "traverse --image 297", "--image must be from 0 to 296, found 297"),
    ("pytorch-examples", "traverse --reach 0", "--reach must be a number above 0 and at most 1000, found 0"),
    ("pytorch-examples", "traverse --reach nan", "--reach must be a number above 0 and at most 1000, found nan"),
    ("pytorch-examples", "traverse --label 1", "--label must be left out"),
    ("pytorch-examples", "traverse --latents 0", "--latents must be from 1 to 100, found 0"),
    ("conditional", "traverse --label 10", "--label must be from 0 to 9, found 10"),
    ("conditional", "manifold", "two latents, but the model has 3"),
    ("pytorch-examples", "manifold --steps 61", "--steps must be from 2 to 60, found 61"),
    ("conditional", "embed --by latents", "the model has 3"),
    ("conditional", "embed --seed 99999999999999999999", "seed"),
    ("conditional", "embed --projector no/such", "can't be created: its parent is not a folder"),
    ("conditional", "embed --save x.txt", "x.txt should end in .csv or .npy"),
    ("conditional", "embed --save no/such.csv", "such.csv can't be written: the folder .* doesn't exist"),
    ("conditional", "embed --n 1", "--n must be at least 2, found 1"),
    ("conditional", "embed --n 4 --by tsne", "needs at least 5 images, found 4"),
    ("pytorch-examples", "sample --temperature 0", "--temperature must be a number above 0"),
    (
        "pytorch-examples",
        "sample --temperature inf",
        "--temperature must be a number above 0 and at most 1000, found inf",
    ),
]


@pytest.mark.parametrize(("name", "command", "says"), REFUSED, ids=[command for _, command, _ in REFUSED])
def test_what_cant_be_drawn_is_refused_in_a_sentence(package, name, command, says, runs_of, capsys, tmp_path) -> None:
    which, *flags = command.split()
    fails(package, capsys, says, which, runs_of[name], "--out", tmp_path / "x.png", *flags)
    assert list(tmp_path.iterdir()) == []


def test_few_images_of_many_channels_are_drawn_by_default(package, capsys, tmp_path) -> None:
    np.save(tmp_path / "a.npy", RNG.integers(0, 256, (30, 4, 6, 5), np.uint8))
    flags = ["--data", f"npy:{tmp_path / 'a.npy'}", "--image", 4, 6, 5, "--hidden", 8, "--latent", 2, "--epochs", 1]
    assert run(package, capsys, "train", *flags, "--out", tmp_path / "run")[0] == 0
    for command, says in {
        "reconstruct": "3 test images above",
        "interpolate": "1 interpolation of",
        "sample": "64 samples",
        "embed": "3 test images",
        "traverse": "latents in",
        "compare": "over 3 test images",
    }.items():
        code, out, _ = run(package, capsys, command, tmp_path / "run", "--out", tmp_path / f"{command}.png")
        assert (code, says in out) == (0, True), out
        Image.open(tmp_path / f"{command}.png").verify()


def test_one_test_image_is_too_few_to_interpolate_between(capsys, tmp_path) -> None:
    np.save(tmp_path / "a.npy", RNG.integers(0, 256, (9, 2, 2), np.uint8))
    flags = ["--data", f"npy:{tmp_path / 'a.npy'}", "--image", 2, 2, 1, "--hidden", 3, "--latent", 2, "--max-steps", 1]
    assert run(PACKAGES["torchvae"], capsys, "train", *flags, "--out", tmp_path / "run")[0] == 0
    for command, says in (
        ("reconstruct", "1 test image above its recon"),
        ("embed", "1 test image in"),
        ("compare", "1 test image of"),
    ):
        assert says in run(PACKAGES["torchvae"], capsys, command, tmp_path / "run", "--out", tmp_path / "b.png")[1]
    between = ["interpolate", tmp_path / "run", "--out", tmp_path / "a.png"]
    says = f"npy:{tmp_path}/a.npy has one test image, expected two or more; give --between latents"
    fails(PACKAGES["torchvae"], capsys, says, *between)
    assert run(PACKAGES["torchvae"], capsys, *between, "--between", "latents")[0] == 0


FIGURES = ["interpolate", "traverse", "manifold", "embed", "sample", "reconstruct", "compare", "curves"]


@pytest.mark.parametrize("command", FIGURES)
def test_pictures_have_one_of_three_formats_and_a_title_of_a_line(package, command: str, tmp_path, capsys) -> None:
    """What can't be written is refused before the run is opened."""
    for says, *flags in (
        ("should end in .png, .pdf or .svg", "--out", tmp_path / "x.jpg"),
        ("should end in .png, .pdf or .svg", "--out", tmp_path / "png"),
        ("can't be written", "--out", tmp_path / "no" / "x.png"),
        ("--title must be a line of at most 200 letters", "--out", tmp_path / "x.png", "--title", "a\nb"),
    ):
        fails(package, capsys, says, command, tmp_path / "no run", *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["manifold", "embed", "reconstruct", "compare"])
def test_a_vector_figure_has_its_text_no_date_and_no_path(command: str, runs_of, capsys, tmp_path) -> None:
    contents = {}
    for file in ("a.svg", "b.svg", "a.pdf"):
        flags = ["--title", "Of $two_ latents", "--out", tmp_path / file]
        assert run(PACKAGES["torchvae"], capsys, command, runs_of["pytorch-examples"], *flags)[::2] == (0, "")
        content = (tmp_path / file).read_bytes()
        assert contents.setdefault(file[2:], content) == content
        assert str(tmp_path.parent).encode() not in content
    assert ">Of $two_ latents</text>" in contents["svg"].decode()
    assert b"<dc:date>" not in contents["svg"]
    assert b"/FontFile2" in contents["pdf"]  # TrueType
    assert b"CreationDate" not in contents["pdf"]
    assert b"DCTDecode" not in contents["pdf"]  # JPEG


def test_a_vector_figure_has_every_pixel() -> None:
    images = RNG.random((2, 3, 5, 4, 3))
    svg = figure_file.packed(labelled_figure.rows(images, ["a", "b"]), "svg").decode()
    embedded = re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', svg)
    for row, content in zip(images, embedded, strict=True):
        strip = image_grid.grid(row, 3)
        scale = labelled_figure.enlarged(3, strip.shape[1])
        np.testing.assert_array_equal(read(base64.b64decode(content)), strip.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("command", ["compare", "curves"])
def test_runs_get_the_names_that_are_given(package, command: str, runs_of, capsys, tmp_path) -> None:
    runs, out = [runs_of["pytorch-examples"], runs_of["conditional"]], ["--out", tmp_path / "a.svg"]
    for names, says in (
        (["A"], "--names must be one for each of the 2 runs, found 1"),
        (["A", "B\n"], "--names must have from 1 to 90 letters"),
        (["A", ""], "--names must have from 1 to 90 letters"),
    ):
        fails(package, capsys, says, command, *runs, *out, "--names", *names)
    assert run(package, capsys, command, *runs, *out, "--names", "$A_", "B b")[0] == 0
    svg = (tmp_path / "a.svg").read_text()
    assert "$A_<" in svg
    assert "B b<" in svg
    assert "conditional" not in svg
