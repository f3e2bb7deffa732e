"""A user's own likelihood, objective and networks: trained, saved, loaded and drawn by giving the same functions."""

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jaxvae
import torchvae
from jaxvae.shared.commands.common import open_images
from jaxvae.shared.config import own
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import as_dataset, digest, trained_on
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.runs import run_folder
from parity_tests.support.backends import lean
from parity_tests.support.cli import PACKAGES, fails, run

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.either]
_lean = pytest.fixture(scope="module", autouse=True)(lean)
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 4, 3, 1), dtype=np.uint8), RNG.integers(0, 3, 30)


def laplace(decoded: Any, x: Any) -> Any:
    distance = jnp.abs(jax.nn.sigmoid(decoded.logits) - x)
    return (distance * jnp.exp(-decoded.logvar) + decoded.logvar + math.log(2)).sum(-1)


def location(decoded: Any) -> Any:
    return jax.nn.sigmoid(decoded.logits)


def free_bits(spec: Spec, model: Any, batch: Any) -> dict[str, Any]:
    posterior, errors = jaxvae.encode_decode(spec, model, batch)
    kl = jaxvae.kl(posterior)
    return {"kl": kl, "reconstruction": errors.mean(0), "loss": errors.mean(0) + jnp.maximum(kl, 0.1)}


class Encoder(nnx.Module):
    def __init__(self, spec: Any, *, rngs: nnx.Rngs):
        self.heads = nnx.List([nnx.Linear(spec.pixels, spec.latent, rngs=rngs) for _ in range(2)])
        self.batches = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x: Any, labels: Any = None, training: Any = None) -> Any:
        if training is not None:
            self.batches[...] = self.batches[...] + 1.0
        return jaxvae.Posterior(*(head(x) for head in self.heads))


class Decoder(nnx.Module):
    def __init__(self, spec: Any, *, rngs: nnx.Rngs):
        self.out, self.scale = nnx.Linear(spec.latent, spec.pixels, rngs=rngs), nnx.Param(jnp.zeros(()))

    def __call__(self, z: Any, labels: Any = None, training: Any = None) -> Any:
        return jaxvae.Decoded(self.out(z), self.scale[...])


def torch_laplace(decoded: Any, x: Any) -> Any:
    distance = (torch.sigmoid(decoded.logits) - x).abs()
    return (distance * torch.exp(-decoded.logvar) + decoded.logvar + math.log(2)).sum(-1)


def torch_location(decoded: Any) -> Any:
    return torch.sigmoid(decoded.logits)


def torch_free_bits(spec: Spec, model: Any, batch: Any) -> dict[str, Any]:
    posterior, errors = torchvae.encode_decode(spec, model, batch)
    kl = torchvae.kl(posterior)
    return {"kl": kl, "reconstruction": errors.mean(0), "loss": errors.mean(0) + kl.clamp(min=0.1)}


class TorchEncoder(torch.nn.Module):
    def __init__(self, spec: Any):
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Linear(spec.pixels, spec.latent) for _ in range(2)])
        self.batches: Any
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("one", torch.ones(()), persistent=False)  # which no file holds

    def forward(self, x: Any, labels: Any = None, training: Any = None) -> Any:
        if training is not None:
            self.batches += self.one
        return torchvae.Posterior(*(head(x) for head in self.heads))


class TorchDecoder(torch.nn.Module):
    def __init__(self, spec: Any):
        super().__init__()
        self.out, self.scale = torch.nn.Linear(spec.latent, spec.pixels), torch.nn.Parameter(torch.zeros(()))

    def forward(self, z: Any, labels: Any = None, training: Any = None) -> Any:
        return torchvae.Decoded(self.out(z), self.scale)


FORMULAS = {
    "jaxvae": jaxvae.Parts(nll=laplace, mean=location, logvar="shared", objective=free_bits),
    "torchvae": torchvae.Parts(nll=torch_laplace, mean=torch_location, logvar="shared", objective=torch_free_bits),
}
NETWORKS = {
    "jaxvae": jaxvae.Parts(nll=laplace, mean=location, encoder=Encoder, decoder=Decoder),
    "torchvae": torchvae.Parts(nll=torch_laplace, mean=torch_location, encoder=TorchEncoder, decoder=TorchDecoder),
}


def small(parts: own.Parts = own.Parts(), **changes: Any) -> Spec:  # noqa: B008 (frozen)
    fields = {"image": (4, 3, 1), "hidden": (5,), "latent": 2, "dtype": "float64", "epochs": 2, "batch_size": 10}
    return jaxvae.preset("pytorch-examples", parts=parts, **{**fields, **changes})


def moments(package: ModuleType, rate: float) -> Any:
    if package is jaxvae:
        return optax.sgd(rate, momentum=0.9)
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum=0.9)


def compared(run: Callable[[ModuleType], tuple[dict[str, np.ndarray], Any]]) -> None:
    (actual, *terms), (expected, *others) = run(jaxvae), run(torchvae)
    np.testing.assert_allclose(terms, others, rtol=1e-12)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-11, atol=1e-13, err_msg=name)


def test_an_optimizer_of_ones_own_trains_the_same_run() -> None:
    """Beside batch norm's statistics and biases that are not trained."""
    spec = small(network="conv", hidden=(2,), epochs=1)

    def run(package: ModuleType) -> Any:
        seen: list[Any] = []
        sgd = moments(package, 0.003)
        state = package.fit(spec, IMAGES, lambda progress: seen.append(progress.test), optimizer=sgd)
        return package.to_arrays(spec, state[0]), np.array(seen)

    compared(run)


def test_what_another_optimizer_would_not_follow_is_refused(package: ModuleType, tmp_path: Path) -> None:
    sgd, spec = moments(package, 0.1), small()
    images = jnp.asarray(IMAGES) if package is jaxvae else torch.tensor(IMAGES)
    settings: tuple[dict[str, Any], ...] = (
        {"clip": 1.0},
        {"decay": 0.5},
        {"rate_warmup": 3},
        {"weight_decay": 0.1},
        {"schedule": "cosine"},
    )
    for changes in settings:
        name, value = next(iter(changes.items()))
        with pytest.raises(InputError, match=f"would not follow the configuration's {name} {value!r}; set {name}="):
            package.fit(small(**changes), IMAGES, optimizer=sgd)
    own_state, adams = package.init_state(spec, optimizer=sgd), package.init_state(spec)
    with pytest.raises(InputError, match=r"^train_epoch needs a state of the configuration's Adam, .* optimizer="):
        package.train_epoch(spec, own_state, images)
    with pytest.raises(InputError, match=r"^fit needs a state of the optimizer it was given.* init_state\(spec, opt"):
        package.fit(spec, IMAGES, start=(adams, np.zeros((0, 3))), optimizer=sgd)
    with pytest.raises(InputError, match=r"^A checkpoint holds the moments of the configuration's Adam, found another"):
        package.save_checkpoint(tmp_path / "a.safetensors", spec, own_state, np.zeros((0, 3)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"needs for its optimizer .*, found 'sgd'"):
        package.init_state(spec, optimizer="sgd")


def test_an_own_likelihood_and_objective_train_the_same_run() -> None:
    def run(package: ModuleType) -> Any:
        spec, seen = small(FORMULAS[package.__name__]), []
        state = package.fit(spec, IMAGES, lambda progress: seen.append(progress.test))
        key = package.root_key(1)
        likelihood = package.log_likelihood(spec, state[0], IMAGES[:3], key, samples=7)
        pictures = package.sample(spec, state[0], key, 3), package.reconstruct(spec, state[0], IMAGES[:3])
        assert seen[-1][0] == pytest.approx(seen[-1][1] + max(0.1, seen[-1][2]), abs=0.05)
        return package.to_arrays(spec, state[0]), np.concatenate([*seen, likelihood.nats, *map(np.ravel, pictures)])

    compared(run)


def test_own_networks_are_trained_saved_and_loaded(package: ModuleType, tmp_path: Path) -> None:
    parts = NETWORKS[package.__name__]
    spec = small(parts)
    state = package.fit(spec, IMAGES)
    start = package.to_arrays(spec, package.init_state(spec)[0])
    trained, again = package.to_arrays(spec, state[0]), package.to_arrays(spec, package.fit(spec, IMAGES)[0])
    for name, array in trained.items():
        np.testing.assert_array_equal(array, again[name])
        assert array.dtype == np.float64
        assert not np.array_equal(array, start[name]), name
    assert trained["encoder.batches"] == 6
    package.save(tmp_path / "a.safetensors", spec, state[0])
    package.save_checkpoint(tmp_path / "b.safetensors", spec, state, np.zeros((0, 3)))
    checkpoint = package.load_checkpoint(tmp_path / "b.safetensors", parts=parts)
    for found, weights in (package.load(tmp_path / "a.safetensors", parts=parts), (checkpoint[0], checkpoint[1][0])):
        assert found == spec
        for name, array in package.to_arrays(spec, weights).items():
            np.testing.assert_array_equal(array, trained[name])
    key = package.root_key(1)
    for image in (package.sample(spec, state[0], key, 2), package.reconstruct(spec, state[0], IMAGES[:2])):
        assert image.shape == (2, 4, 3, 1)
    assert np.isfinite(package.log_likelihood(spec, state[0], IMAGES[:2], key, samples=3).nats).all()


def test_an_own_encoder_stands_beside_a_decoder_of_the_package(package: ModuleType, tmp_path: Path) -> None:
    parts = package.Parts(encoder=NETWORKS[package.__name__].encoder)
    spec = small(parts, network="conv", hidden=(2,), likelihood="gaussian-pixel")
    weights = package.init_state(spec)[0]
    arrays = package.to_arrays(spec, weights)
    assert {name.partition(".")[0] for name in arrays} == {"encoder", "decoder"}
    usual = small(network="conv", hidden=(2,), likelihood="gaussian-pixel")
    plain = package.to_arrays(usual, package.init_state(usual)[0])
    assert [name for name in arrays if "decoder" in name] == [name for name in plain if "decoder" in name]
    package.save(tmp_path / "a.safetensors", spec, weights)
    found, again = package.load(tmp_path / "a.safetensors", parts=parts)
    np.testing.assert_array_equal(
        package.reconstruct(found, again, IMAGES[:2]), package.reconstruct(spec, weights, IMAGES[:2])
    )


def other_location(decoded: Any) -> Any:
    return decoded.logits


def test_a_file_is_read_with_the_parts_it_was_made_with(package: ModuleType, tmp_path: Path) -> None:
    parts = FORMULAS[package.__name__]
    spec, file = small(parts), tmp_path / "a.safetensors"
    package.save(file, spec, package.init_state(spec)[0])
    sha = own.recorded(parts.mean).sha256[:12]
    with pytest.raises(
        InputError, match=rf"made with parts of its user's own: nll \w+ \(SHA-256 .*mean .*{sha}.*load\("
    ):
        package.load(file)
    renamed = type(parts)(nll=parts.nll, mean=other_location, logvar="shared", objective=parts.objective)
    fewer = type(parts)(nll=parts.nll, mean=parts.mean, logvar="shared")
    other = own.recorded(other_location).sha256[:12]
    for given, sentence in (
        (
            renamed,
            rf"has the mean \w+ \(SHA-256 {sha}\.\.\.\), found other_location \(SHA-256 {other}\.\.\.\); give the",
        ),
        (fewer, r"has the objective \w+ \(SHA-256 .*\), found none among the parts given; add it\.$"),
        (type(parts)(objective=parts.objective), r"has the nll .*, found none among the parts given; add it\.$"),
        ("parts", r"^parts must be Parts\(\.\.\.\), found 'parts'; give the functions"),
    ):
        with pytest.raises(InputError, match=sentence):
            package.load(file, parts=given)
    plain = tmp_path / "plain.safetensors"
    package.save(plain, small(), package.init_state(small())[0])
    assert package.load(plain, parts=parts)[0] == small()


def nameless(where: str) -> Any:
    namespace: dict[str, Any] = {}
    exec("def nameless(x): return x", namespace)
    return {"exec": namespace["nameless"], "lambda": lambda x: x, "builtin": len}[where]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"nll": laplace}, "needs both nll and mean, found nll alone; give mean"),
        ({"mean": location}, "needs both nll and mean, found mean alone; give nll"),
        ({"logvar": "shared"}, "Only a likelihood of your own has a logvar, found shared without nll"),
        ({"nll": laplace, "mean": location, "logvar": "all"}, "logvar must be one of none, shared, pixel, found 'all'"),
        ({"objective": nameless("exec")}, "The source of nameless, .*, is not available; define it in a file"),
        ({"objective": nameless("lambda")}, "must be a function or a class with a name, found <function"),
        ({"objective": nameless("builtin")}, "must be a function or a class with a name, found <built-in"),
        ({"objective": 3}, "must be a function or a class with a name, found 3; define it by def or class"),
    ],
)
def test_parts_that_no_file_could_keep_are_refused(package: ModuleType, parts: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        package.Parts(**parts)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parts": jaxvae.Parts(objective=free_bits), "form": "iwae"}, "takes the place of the form, which is iwae"),
        ({"parts": NETWORKS["jaxvae"], "init": "glorot-data"}, "glorot-data sets"),
        ({"parts": NETWORKS["jaxvae"], "corruption": "hidden-dropout", "corruption_level": 0.1}, "and one is your own"),
    ],
)
def test_parts_that_do_not_fit_a_configuration_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        small(**changes)


def wrong_nll(decoded: Any, x: Any) -> Any:
    return decoded.logits


def wrong_mean(decoded: Any) -> Any:
    return decoded.logits.sum(-1)


def wrong_objective(spec: Any, model: Any, batch: Any) -> Any:
    return {"loss": batch.x.sum(-1), "kl": batch.x.sum(-1)}


class Pair(nnx.Module):
    def __call__(self, x: Any, labels: Any = None, training: Any = None) -> Any:
        return x, x


class TorchPair(torch.nn.Module):
    def forward(self, x: Any, labels: Any = None, training: Any = None) -> Any:
        return x, x


def jax_pair(spec: Any, *, rngs: Any) -> Any:
    return Pair()


def torch_pair(spec: Any) -> Any:
    return TorchPair()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("nll mean", r"^The own nll wrong_nll must return nats of each image of the shape \[3\], found \[3, 12\]\."),
        (
            "mean nll",
            r"^The own mean wrong_mean must return the mean of each pixel of the shape \[3, 12\], found \[3\]\.",
        ),
        ("objective", r"^The own objective .* a dict of loss, reconstruction, kl, each of .*, found loss, kl\."),
        ("encoder", r"^The own encoder .* must return a Posterior, as the posterior gaussian has it, found \("),
        ("decoder", r"^The own decoder .* must return Decoded\(logits, logvar\), found \("),
    ],
)
def test_what_an_own_part_returns_is_checked(package: ModuleType, names: str, sentence: str) -> None:
    first, *others = names.split()
    pair, right = jax_pair if package is jaxvae else torch_pair, FORMULAS[package.__name__]
    wrong = {"nll": wrong_nll, "mean": wrong_mean, "objective": wrong_objective, "encoder": pair, "decoder": pair}
    spec = small(package.Parts(**{first: wrong[first]}, **{name: getattr(right, name) for name in others}))
    weights, images = package.init_state(spec)[0], IMAGES[:3]
    array = (jnp.asarray if package is jaxvae else torch.tensor)(images)
    called = (package.reconstruct, images) if first == "mean" else (package.loss, array, package.root_key(0))
    with pytest.raises(InputError, match=sentence):
        called[0](spec, weights, *called[1:])


PARTS_FILE = """
from parity_tests.tests.training.test_own_parts import FORMULAS

PARTS, broken = FORMULAS["{name}"], 1
"""


@pytest.fixture(scope="module", params=list(PACKAGES))
def saved(request, tmp_path_factory) -> tuple[ModuleType, Path]:
    """A folder with a run of own parts, whose images are its own, and the parts in a file."""
    package, folder = {"jaxvae": jaxvae, "torchvae": torchvae}[request.param], tmp_path_factory.mktemp("saved")
    with jax.enable_x64(True):
        spec = small(FORMULAS[request.param], classes=3)
        seen: list[Any] = []
        state = package.fit(
            spec, IMAGES, lambda p: seen.append(p.train), labels=LABELS, optimizer=moments(package, 0.01)
        )
        package.save_run(folder / "first", spec, state, IMAGES, labels=LABELS, terms=np.concatenate(seen))
    (folder / "first").rename(folder / "run")  # its images go with it
    (folder / "parts.py").write_text(PARTS_FILE.format(name=request.param))
    return package, folder


def test_a_run_of_ones_own_loop_is_one_for_the_commands(saved, capsys, monkeypatch, tmp_path: Path) -> None:
    package, folder = saved
    parts, path = ["--parts", folder / "parts.py:PARTS"], folder / "run"
    status, out, err = run(package, capsys, "list", folder)
    assert (status, "6 of 6" in out, "finished" in out) == (0, True, True), err
    assert [record["split"] for record in map(eval, (path / "metrics.jsonl").read_text().splitlines())] == [
        *("train", "train", "test")
    ]
    assert run(package, capsys, "evaluate", path, *parts)[0] == 0
    status, out, err = run(package, capsys, "describe", path, *parts)
    assert "likelihood  " in out, err
    assert "by a loop of its user's own" in out
    fails(
        package,
        capsys,
        "made with parts of its user's own: nll .*--parts FILE.py:NAME",
        "sample",
        path,
        "--out",
        tmp_path / "x.png",
    )
    fails(package, capsys, "has no checkpoint to --resume from", "train", "--resume", path)
    for given, sentence in (
        ("parts.py:PARTS", "there is no file parts.py"),
        (f"{folder / 'parts.py'}:broken", "has no Parts of the name broken, found 1; it has PARTS"),
        ("parts.py", "must be FILE.py:NAME, found 'parts.py'"),
        (f"{tmp_path / 'bad.py'}:PARTS", r"bad.py fails with ZeroDivisionError: division by zero; mend it"),
    ):
        (tmp_path / "bad.py").write_text("1 / 0")
        fails(package, capsys, sentence, "sample", path, "--out", tmp_path / "x.png", "--parts", given)
    assert not (tmp_path / "x.png").exists()


def test_the_functions_draw_what_the_commands_draw(saved, capsys, tmp_path: Path) -> None:
    package, folder = saved
    path, own_parts = folder / "run", FORMULAS[package.__name__]
    spec, weights = package.load(path, parts=own_parts)
    test = IMAGES[9::10]
    data = jaxvae.Dataset("npy:data", "", test, LABELS[9::10].astype(np.uint8), test, LABELS[9::10].astype(np.uint8))
    drawn = {
        "sample": package.plot_samples(spec, weights),
        "reconstruct": package.plot_reconstructions(spec, weights, test, labels=LABELS[9::10]),
        "traverse": package.plot_traversals(spec, weights, data),
        "interpolate": package.plot_interpolations(spec, weights, data),
        "manifold": package.plot_manifold(spec, weights),
        "embed": package.plot_latents(spec, weights, data),
        "curves": package.plot_curves(path),
    }
    for command, figure in drawn.items():
        given = [] if command == "curves" else ["--parts", folder / "parts.py:PARTS"]
        assert run(package, capsys, command, path, *given, "--out", tmp_path / f"{command}.png")[0] == 0
        assert figure_file.packed(figure) == (tmp_path / f"{command}.png").read_bytes(), command
        assert figure._repr_png_().startswith(b"\x89PNG")
    drawn["sample"].savefig(tmp_path / "own.svg")
    assert (tmp_path / "own.svg").read_text().startswith("<?xml")
    grid = package.picture_grid(IMAGES[:6] / 255, columns=3)
    assert (grid.shape, grid.dtype) == ((2 * 6 + 2, 3 * 5 + 2, 1), np.uint8)
    package.write_report(tmp_path / "report.html", path, parts=own_parts)
    page = (tmp_path / "report.html").read_text()
    assert "trained by a loop of its user&#x27;s own" in page or "trained by a loop of its user's own" in page
    with pytest.raises(InputError, match="n of at most 3, the number of images, found 4"):
        package.plot_reconstructions(spec, weights, data, n=4)


def test_a_run_folder_that_can_not_be_is_refused_whole(package: ModuleType, tmp_path: Path) -> None:
    spec, out = small(), tmp_path / "run"
    weights = package.init_state(spec)[0]
    for given, sentence in (
        ({}, "needs the steps that were taken, found none; give step=, terms=, or a TrainState"),
        ({"step": 0}, "needs step of at least 1, an integer, found 0"),
        ({"step": 2, "terms": np.zeros((3, 3))}, "needs the terms of each of 2 steps, found 3; give all or none"),
        ({"terms": np.zeros((3, 2))}, r"needs terms of the shape \[steps, 3\], finite, found \[3, 2\]"),
        ({"terms": np.full((3, 3), np.nan)}, r"needs terms of the shape \[steps, 3\], finite"),
    ):
        with pytest.raises(InputError, match=f"^save_run {sentence}"):
            package.save_run(out, spec, weights, IMAGES, **given)
    with pytest.raises(InputError, match="save_run needs"):
        package.save_run(out, spec, weights, IMAGES[:, :2], step=1)
    with pytest.raises(InputError, match=r"^save_run: the model: tensor"):
        package.save_run(out, small(latent=3), weights, IMAGES, step=1)
    assert not out.exists()
    package.save_run(str(out), spec, weights, jaxvae.load_data("digits", image=(4, 3, 1), resize=True), step=7)
    saved = run_folder.read(out)
    assert not (out / "data").exists() or saved.spec.data == "npy:data"
    assert saved.spec.training.total_steps(saved.config["data"]["train"]) == 7
    with pytest.raises(InputError, match="exists already"):
        package.save_run(out, spec, weights, IMAGES, step=1)


def test_the_other_packages_parts_are_named(package: ModuleType) -> None:
    other = torchvae if package is jaxvae else jaxvae
    spec = small(other.Parts(nll=laplace, mean=location))
    sentence = f"^VAE needs {package.__name__}.Parts, found {other.__name__}.Parts; write the parts for"
    with pytest.raises(InputError, match=sentence):
        package.fit(spec, IMAGES)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_run_of_some_of_the_images_is_read_with_them(package: ModuleType, held_out: bool, tmp_path: Path) -> None:
    spec, data = small(train_images=20, validation=4), as_dataset("fit", IMAGES)
    trained = trained_on(data, spec.images)
    package.save_run(tmp_path / "run", spec, package.init_state(spec)[0], trained if held_out else data, step=1)
    run = run_folder.read(tmp_path / "run")
    assert run.config["data"]["train"] == 16
    assert digest(open_images(run, None)) == digest(trained)


def test_the_classes_show_the_arguments_they_take() -> None:
    for name in ("VAE", "Encoder", "ConvEncoder", "Decoder", "ConvDecoder", "LayersDecoder", "Discriminator"):
        shown = inspect.signature(getattr(jaxvae, name))
        assert list(shown.parameters) == ["spec", "rngs"], name
        assert re.match(r"\(spec: .*ModelSpec, \*, rngs: ", str(shown)), name
        assert list(inspect.signature(getattr(torchvae, name)).parameters) == ["spec"]
