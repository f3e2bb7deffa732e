"""How good a model is: each measure against its formula by other means, and the same from both packages."""

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.special import log_expit, logsumexp
from scipy.stats import multivariate_normal, norm

import jaxvae
import torchvae
from jaxvae.shared import cli, safe_io
from jaxvae.shared.analysis import classifiers, evaluation, measures
from jaxvae.shared.analysis.trained_model import TrainedModel
from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from parity_tests.support.backends import FLOAT64, IMPLEMENTATIONS, Implementation, lean, some_arrays
from parity_tests.support.linear_gaussian import LINEAR, linear_gaussian
from parity_tests.support.quick import quick

both = pytest.mark.parametrize("side", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
packages = pytest.mark.parametrize("package", [jaxvae, torchvae], ids=["jaxvae", "torchvae"])

RNG = np.random.default_rng(0)
MLP = ModelSpec((6, 5, 1), (5,), 2)
SIGNED, PLAIN = ImagesSpec(range="signed"), ImagesSpec()
SPECS = {
    "bernoulli": (MLP, PLAIN),
    "two layers, dynamic": (replace(MLP, hidden=(7, 5), activation="tanh"), ImagesSpec(binarization="dynamic")),
    "static": (replace(MLP, latent=3), ImagesSpec(binarization="static")),
    "relu-sigma": (replace(MLP, posterior="relu-sigma"), PLAIN),
    "conv": (replace(MLP, network="conv", hidden=(3, 4), activation="leaky-relu"), PLAIN),
    "gaussian-learned": (replace(MLP, likelihood="gaussian-learned"), SIGNED),
    "conditional gaussian-pixel": (replace(MLP, likelihood="gaussian-pixel", classes=10), PLAIN),
    "squared-error": (replace(MLP, likelihood="squared-error"), SIGNED),
}
IMAGES, LABELS = RNG.integers(0, 256, (7, 6, 5, 1)).astype(np.uint8), np.arange(7) % 10
SAMPLES = 230  # three draws, the last one cut


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


@pytest.fixture
def _x64(x64):
    """For tests that don't take the command line's way, which sets it by itself."""


def spec_of(name: str) -> Spec:
    model, images = SPECS[name]
    return Spec(model=model, images=images, training=replace(FLOAT64, seed=7))


def given(side: Implementation, spec: Spec, seed: int = 1) -> tuple:
    """Weights and a key."""
    return side.package.from_arrays(spec, some_arrays(spec, seed)), side.package.root_key(3)


def by_hand(side: Implementation, spec: Spec, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The estimates and effective samples, from scipy's densities at latents drawn by jax.random itself."""
    weights, key = given(side, spec)
    x = side.package.see_images(spec, IMAGES, key)
    labels = LABELS if spec.model.classes else None
    latents = side.package.encode_images(spec, weights, IMAGES, key, labels)
    noise, results = jax.random.fold_in(jaxvae.root_key(3), 1), []
    for i in range(len(IMAGES)):
        own, blocks = jax.random.fold_in(noise, i), range(-(-samples // 100))
        shape = (100, spec.model.latent)
        eps = np.concatenate([jax.random.normal(jax.random.fold_in(own, b), shape, "float64") for b in blocks])
        scale = np.exp(0.5 * latents.logvar[i])
        z = (latents.mean[i] + scale * eps)[:samples]
        said = side.package.decode_latents(spec, weights, z, None if labels is None else np.full(samples, labels[i]))
        if spec.model.likelihood == "bernoulli":
            log_p = (x[i] * log_expit(said.location) + (1 - x[i]) * log_expit(-said.location)).sum(1)
        else:
            log_p = norm.logpdf(x[i], said.location, np.exp(0.5 * said.logvar)).sum(1)
        log_w = log_p + norm.logpdf(z).sum(1) - norm.logpdf(z, latents.mean[i], scale).sum(1)
        results.append((logsumexp(log_w) - math.log(samples), np.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w))))
    return tuple(np.array(results).T)


@pytest.mark.usefixtures("_x64")
@pytest.mark.parametrize("name", quick(SPECS, ["bernoulli", "conditional gaussian-pixel"]))
def test_the_log_likelihood_is_its_formula_and_the_same_from_both(name: str) -> None:
    """To 1e-10 of the figures."""
    spec, results = spec_of(name), {}
    for side_name, side in IMPLEMENTATIONS.items():
        weights, key = given(side, spec)
        labels = LABELS if spec.model.classes else None
        results[side_name] = side.package.log_likelihood(spec, weights, IMAGES, key, labels, SAMPLES)
        for part, expected in zip(results[side_name], by_hand(side, spec, SAMPLES), strict=True):
            assert part.dtype == np.float64
            np.testing.assert_allclose(part, expected, rtol=1e-10, err_msg=side_name)
    for in_jax, in_torch in zip(*results.values(), strict=True):
        np.testing.assert_allclose(in_jax, in_torch, rtol=1e-10)


@pytest.mark.usefixtures("_x64")
@both
@pytest.mark.parametrize("samples", [1, 1100])
def test_any_number_of_samples_is_cut_where_it_ends(side: Implementation, samples: int) -> None:
    """1,100 are more than torch draws in one call."""
    spec = spec_of("bernoulli")
    actual = side.package.log_likelihood(spec, *_of(side, spec), samples=samples)
    for part, expected in zip(actual, by_hand(side, spec, samples), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-10)


def _of(side: Implementation, spec: Spec) -> tuple:
    weights, key = given(side, spec)
    return weights, IMAGES, key


@pytest.mark.usefixtures("_x64")
@pytest.mark.either
@both
def test_how_many_images_are_taken_at_once_changes_no_figure(side: Implementation, monkeypatch) -> None:
    from jaxvae.evaluate import _weigh

    spec = spec_of("conv")
    whole = side.package.log_likelihood(spec, *_of(side, spec), samples=150)
    for number in (1, 3):
        for name in ("_IMAGES", "_PART", "_DRAWN"):
            monkeypatch.setattr(f"{side.package.__name__}.evaluate.{name}", number, raising=False)
        # A program keeps the numbers that it was compiled with; jit's type doesn't tell of the method.
        getattr(_weigh, "clear_cache")()  # noqa: B009
        progress = []
        part = side.package.log_likelihood(spec, *_of(side, spec), samples=150, on_images=progress.append)
        assert sum(progress) == len(IMAGES)
        assert len(progress) > 1
        np.testing.assert_allclose(part.nats, whole.nats, rtol=1e-13)  # products of other sizes add in other orders


@pytest.mark.usefixtures("_x64")
def test_jaxs_memory_does_not_grow_with_the_samples() -> None:
    from jaxvae.evaluate import _weigh

    spec = spec_of("bernoulli")
    weights, key = given(IMPLEMENTATIONS["jaxvae"], spec)

    def temporary(samples: int) -> int:
        program = _weigh.lower(spec, samples, weights, jax.numpy.asarray(IMAGES), key, None, jax.numpy.arange(7))
        result = program.compile().memory_analysis()
        assert result is not None
        return result.temp_size_in_bytes

    assert temporary(1000) == temporary(100_000) > 0


@pytest.mark.usefixtures("_x64")
@both
def test_float32_comes_to_the_same(side: Implementation) -> None:
    """A hundred and some nats with 24 bits: to 1e-4."""
    spec, results = spec_of("bernoulli"), {}
    for dtype in ("float32", "float64"):
        one = replace(spec, training=replace(spec.training, dtype=dtype))
        arrays = {name: array.astype(dtype) for name, array in some_arrays(spec, 1).items()}
        weights = side.package.from_arrays(one, arrays)
        results[dtype] = side.package.log_likelihood(one, weights, IMAGES, side.package.root_key(3), samples=100)
    # Float32's normals are other numbers, so that the estimates differ by chance: by five of their errors, not more.
    errors = [np.sqrt(np.maximum(1 / f.effective - 1 / 100, 1e-8)) for f in results.values()]
    gaps = np.abs(results["float32"].nats - results["float64"].nats)
    assert (gaps < 5 * np.hypot(*errors) + 1e-4).all()


@pytest.mark.usefixtures("_x64")
@both
def test_with_the_exact_posterior_every_sample_has_the_likelihood_for_its_weight(side: Implementation) -> None:
    spec, weights, images, exact = linear(side)
    result = side.package.log_likelihood(spec, weights, images, side.package.root_key(0), samples=130)
    np.testing.assert_allclose(result.nats, exact, rtol=1e-10)
    np.testing.assert_allclose(result.effective, 130, rtol=1e-10)


@pytest.mark.usefixtures("_x64")
@both
def test_with_another_posterior_it_meets_the_likelihood_within_its_error(side: Implementation) -> None:
    """Five of the errors that the effective samples stand for."""
    spec, weights, images, exact = linear(side, wider=0.8, beside=0.3)
    k = 20_000
    result = side.package.log_likelihood(spec, weights, images, side.package.root_key(0), samples=k)
    error = np.sqrt(1 / result.effective - 1 / k)
    assert (error > 1e-3).all()
    assert (np.abs(result.nats - exact) < 5 * error).all()


def linear(side: Implementation, wider: float = 0.0, beside: float = 0.0) -> tuple:
    """A linear Gaussian model of images with bytes for pixels, whose likelihood is known."""
    arrays = linear_gaussian()[0]
    arrays["encoder.logvar.bias"] = arrays["encoder.logvar.bias"] + wider
    arrays["encoder.mean.bias"] = arrays["encoder.mean.bias"] + beside
    spec = Spec(model=LINEAR, training=FLOAT64)
    images = np.random.default_rng(1).integers(0, 256, (6, *LINEAR.image)).astype(np.uint8)
    w, b = (arrays[f"decoder.logits.{name}"] for name in ("weight", "bias"))
    covariance = w @ w.T + LINEAR.variance * np.eye(6)
    exact = multivariate_normal(b, covariance).logpdf(images.reshape(6, -1) / 255)  # type: ignore[arg-type]
    return spec, side.package.from_arrays(spec, arrays), images, exact


@pytest.mark.usefixtures("_x64")
@both
def test_a_standard_deviation_of_zero_leaves_the_estimate_finite(side: Implementation) -> None:
    spec = spec_of("relu-sigma")
    arrays = some_arrays(spec)
    arrays["encoder.scale.bias"] = np.array([-1e3, 0.5])
    weights = side.package.from_arrays(spec, arrays)
    result = side.package.log_likelihood(spec, weights, IMAGES, side.package.root_key(0), samples=100)
    assert np.isfinite(result.nats).all()
    latents = side.package.encode_images(spec, weights, IMAGES, side.package.root_key(0))
    np.testing.assert_allclose(latents.logvar[:, 0], math.log(1e-8), rtol=1e-14)


@pytest.mark.usefixtures("_x64")
@both
def test_a_code_has_no_log_likelihood(side: Implementation) -> None:
    spec = Spec(model=replace(MLP, posterior="point"), objective=ObjectiveSpec(form="reconstruction"), training=FLOAT64)
    with pytest.raises(InputError, match=r"point posterior has no density.*evaluate such a model by other measures"):
        side.package.log_likelihood(spec, *_of(side, spec))
    latents = side.package.encode_images(spec, *_of(side, spec))
    assert latents.mean.shape == (7, 2)
    assert latents.logvar is latents.z is None


@pytest.mark.usefixtures("_x64")
@both
def test_quadrature_meets_a_linear_gaussian_models_likelihood(side: Implementation) -> None:
    """To 1e-10 of it, with a posterior two steps of the first grid wide."""
    spec, weights, images, exact = linear(side)
    x = side.package.see_images(spec, images, side.package.root_key(0))
    result = measures.quadrature(of(side, spec, weights, x), len(x))
    np.testing.assert_allclose(result.nats, exact, rtol=1e-10)
    assert (result.change < 1e-4).all()


@pytest.mark.usefixtures("_x64")
@both
def test_quadrature_and_samples_meet_where_nothing_is_linear(side: Implementation) -> None:
    spec = spec_of("two layers, dynamic")
    weights, images, key = _of(side, spec)
    x = side.package.see_images(spec, images, key)
    sampled = side.package.log_likelihood(spec, weights, images, key, samples=5000)
    exact = measures.quadrature(of(side, spec, weights, x), len(x)).nats
    error = np.sqrt(1 / sampled.effective - 1 / 5000)
    assert (np.abs(sampled.nats - exact) < 5 * error).all()


def of(side: Implementation, spec: Spec, weights, x: np.ndarray):
    """log p(x | z) as quadrature asks for it."""
    log_density = LIKELIHOODS[spec.model.likelihood].log_density
    return lambda images, z: log_density(x[images], *side.package.decode_latents(spec, weights, z))


def test_quadrature_is_refined_where_the_posterior_is_narrow_and_says_how_far_it_moved() -> None:
    """Peaks of deviations 0.3 and 0.05, and one too narrow for any grid."""
    deviations = np.array([0.3, 0.05, 1e-4])
    asked = []

    def log_p(images: np.ndarray, z: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return norm.logpdf(z[None], [0.1, -0.3], deviations[images, None, None]).sum(-1)

    result = measures.quadrature(log_p, 3, half=2)
    exact = norm.logpdf([0.1, -0.3], 0, np.sqrt(1 + deviations[:, None] ** 2)).sum(-1)
    np.testing.assert_allclose(result.nats[:2], exact[:2], atol=1e-9)
    assert (result.change[:2] < 1e-4).all()
    assert result.change[2] > 1
    assert asked[0] == 3
    assert asked[-1] == 1


def test_log_densities_are_the_densities() -> None:
    x, location, logvar = RNG.uniform(size=(4, 6)), RNG.normal(size=(3, 6)), RNG.normal(size=(3, 6))
    expected = x[:, None] * log_expit(location) + (1 - x[:, None]) * log_expit(-location)
    np.testing.assert_allclose(LIKELIHOODS["bernoulli"].log_density(x, location, None), expected.sum(-1), rtol=1e-12)
    for given in (logvar, np.array(0.7)):
        expected = norm.logpdf(x[:, None], location, np.exp(0.5 * given)).sum(-1)
        np.testing.assert_allclose(LIKELIHOODS["gaussian"].log_density(x, location, given), expected, rtol=1e-12)


def test_active_units_vary_over_images() -> None:
    means = np.stack([np.array([-0.2, 0.2] * 5), np.full(10, 3.0), np.array([0.0, 0.19] * 5)], 1)
    assert measures.active_units(means).tolist() == [True, False, False]  # variances 0.04, 0 and 0.009


def test_the_kl_of_each_latent_sums_to_the_kl() -> None:
    means, logvars = RNG.normal(size=(2, 9, 3))
    jax.config.update("jax_enable_x64", True)
    try:
        whole = np.asarray(jaxvae.kl(jaxvae.Posterior(jax.numpy.asarray(means), jax.numpy.asarray(logvars)))).mean()
    finally:
        jax.config.update("jax_enable_x64", False)
    np.testing.assert_allclose(measures.kl_by_latent(means, logvars).sum(), whole, rtol=1e-13)


def test_mutual_information_is_its_formula() -> None:
    """By scipy's densities, over 40 images: more than are compared in one block."""
    means, logvars, eps = np.random.default_rng(2).normal(size=(3, 40, 2))
    z = means + np.exp(0.5 * logvars) * eps
    log_q = norm.logpdf(z[:, None], means, np.exp(0.5 * logvars)).sum(-1)
    gains = np.diag(log_q) - (logsumexp(log_q, 1) - math.log(40))
    result = measures.mutual_information(means, logvars, z)
    np.testing.assert_allclose(result, (gains.mean(), gains.std(ddof=1) / math.sqrt(40)), rtol=1e-12)


def test_mutual_information_is_none_of_the_same_posteriors_and_log_n_of_posteriors_apart() -> None:
    same, logvars, eps = np.ones((50, 2)), np.full((50, 2), -3.0), np.random.default_rng(3).normal(size=(50, 2))
    assert measures.mutual_information(same, logvars, same + math.exp(-1.5) * eps).value == pytest.approx(0, abs=1e-12)
    apart = 100.0 * np.arange(100).reshape(50, 2)
    result = measures.mutual_information(apart, logvars, apart + math.exp(-1.5) * eps)
    assert result == pytest.approx((math.log(50), 0), abs=1e-12)


QUICK = "--data digits --max-steps 30 --hidden 8 --dtype float64 --image 6 5 1 --resize --batch-size 250"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("measures")
    for name, flags in {"vae": "--latent 2", "code": "--posterior point --form reconstruction --latent 3"}.items():
        assert cli.main(torchvae, ["train", *QUICK.split(), *flags.split(), "--out", str(folder / name)]) == 0
    return folder


def ask(package, capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(package, ["evaluate", *map(str, arguments)])
    jax.config.update("jax_enable_x64", False)
    return status, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_gives_the_same_figures_from_both(trained, tmp_path, capsys) -> None:
    """Every number of every measure to 1e-10."""
    results = []
    for package in (jaxvae, torchvae):
        file = tmp_path / f"{package.__name__}.json"
        flags = ("--measures", "all", "--samples", 120, "--json", file)
        status, out, err = ask(package, capsys, trained / "vae", *flags)
        assert (status, err) == (0, "")
        assert "nats per image (reconstruction" in out
        assert "of 120, mean over images" in out
        assert "active units" in out
        results.append(json.loads(file.read_text()))
        assert json.loads((trained / "vae" / "measures.json").read_text()) == results[-1]
    assert tuple(results[0]) == tuple(name for name in evaluation.ALL if name != "sample-accuracy")
    for name, in_jax in results[0].items():
        in_torch = results[1][name]
        assert (in_jax.pop("by"), in_torch.pop("by")) == ("jaxvae", "torchvae")
        assert in_jax["step"] == 30
        assert in_jax["epoch"] == 5
        assert in_jax["images"] == 297
        assert in_jax.keys() == in_torch.keys()
        for part, value in in_jax.items():
            # How far the last refinement moved is a difference of figures: of their digits.
            near = 1e-10 if part == "last_change" else 0
            assert in_torch[part] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-10, abs=near)), (
                part
            )
    sampled, exact = (results[0][name]["log_likelihood"] for name in ("log-likelihood", "quadrature"))
    assert abs(sampled - exact) < 1  # of 120 samples, of some 15 nats


def test_a_measure_is_kept_beside_those_taken_before(trained, capsys, tmp_path) -> None:
    run = shutil.copytree(trained / "vae", tmp_path / "run")
    file = run / "measures.json"
    file.unlink(missing_ok=True)
    for name in ("active-units", "log-likelihood"):
        assert ask(torchvae, capsys, run, "--measures", name, "--samples", 10)[0] == 0
    kept = json.loads(file.read_text())
    assert list(kept) == ["active-units", "log-likelihood"]
    assert ask(torchvae, capsys, run, "--measures", "log-likelihood", "--samples", 20)[0] == 0
    again = json.loads(file.read_text())
    assert again["active-units"] == kept["active-units"]
    assert (kept["log-likelihood"]["samples"], again["log-likelihood"]["samples"]) == (10, 20)


@packages
def test_the_default_leaves_out_what_makes_no_sense(package, trained, capsys) -> None:
    status, out, _ = ask(package, capsys, trained / "code")
    assert status == 0
    assert "squared error" in out
    assert "active" not in out
    assert "kl of" not in out
    status, out, _ = ask(package, capsys, trained / "code", "--measures", "all")
    assert status == 0
    assert list(json.loads((trained / "code" / "measures.json").read_text())) == [
        *("terms", "squared-error", "label-accuracy")
    ]


@pytest.mark.parametrize(
    ("run", "flags", "says"),
    [
        ("code", "--measures log-likelihood", "measure log-likelihood needs the density of a posterior"),
        (
            "code",
            "--measures terms mutual-information",
            "mutual-information needs the density of a posterior, which a ",
        ),
        ("code", "--measures active-units", "active-units needs a prior"),
        ("code", "--measures quadrature", "quadrature needs a prior"),
        ("vae", "--measures sample-accuracy", "sample-accuracy needs a model that draws images of a class"),
        ("vae", "--measures nope", "no measure 'nope'; choose from terms, active-units"),
        ("vae", "--samples 0", "--samples must be from 1 to 10,000,000, found 0"),
        ("vae", "--json /no/such/f.json", "the folder /no/such doesn't exist; give another --json"),
    ],
)
def test_what_can_not_be_measured_is_refused_in_a_sentence(trained, capsys, run: str, flags: str, says: str) -> None:
    before = [path.stat().st_mtime_ns for path in sorted((trained / run).rglob("*"))]
    status, out, err = ask(torchvae, capsys, trained / run, *flags.split())
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert [path.stat().st_mtime_ns for path in sorted((trained / run).rglob("*"))] == before


def test_classifiers_of_latents_are_nearest_neighbours_and_a_separating_plane(trained, capsys, tmp_path) -> None:
    """Neighbours by distances to all training images; both classifiers where the classes are far apart."""
    file = tmp_path / "figures.json"
    assert ask(torchvae, capsys, trained / "vae", "--measures", "label-accuracy", "--json", file)[0] == 0
    figures = json.loads(file.read_text())["label-accuracy"]
    run = run_folder.read(trained / "vae")
    spec, weights = torchvae.load(run.weights)
    data = datasets.load(run.spec, None)[0]
    key = torchvae.stream_key(torchvae.root_key(0), "evaluation", 5)
    train, test = (torchvae.encode_images(spec, weights, images, key).mean for images in (data.train, data.test))
    nearest = np.argsort(((test[:, None] - train) ** 2).sum(-1), 1, kind="stable")[:, :5]
    votes = [np.bincount(data.train_labels[five], minlength=10).argmax() for five in nearest]
    assert figures["neighbours"] == pytest.approx(
        np.mean(np.equal(votes, data.test_labels)), abs=0.004
    )  # a tie's nearest
    most = np.bincount(data.train_labels).argmax()
    assert figures["chance"] == (data.test_labels == most).mean()
    assert figures["chance"] < figures["logistic"] < figures["pca_neighbours"] <= 1
    assert figures["fitted"] == 1500
    rows, labels = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    apart = classifiers.Labelled(rows + 50 * np.array([[0, 0], [1, 0], [0, 1]])[labels], labels)
    assert classifiers.neighbours(apart, apart) == classifiers.logistic(apart, apart) == 1
    assert classifiers.chance(apart, apart) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("shift", "least", "most"), [(0, 1, 1), (1, 0, 0)])
def test_samples_are_judged_by_the_class_that_was_asked_for(shift: int, least: float, most: float) -> None:
    """A stand-in for a model, which draws training images of that class, or of the next one."""
    spec = Spec(model=ModelSpec((8, 8, 1), (4,), 2, classes=10))
    data = datasets.load(replace(spec, data="digits"), None)[0]

    def sample(spec, weights, key, n: int, labels: np.ndarray) -> np.ndarray:
        first = [np.flatnonzero(data.train_labels == (label + shift) % 10)[i // 10] for i, label in enumerate(labels)]
        return data.train[first] / 255

    backend = SimpleNamespace(stream_key=lambda *_: None, root_key=lambda _: None, sample=sample)
    run = run_folder.Run(Path("run"), spec, {})
    model = TrainedModel(backend, run, None, data, None, 1, 1, 1)  # type: ignore[arg-type]
    figures = evaluation.MEASURES["sample-accuracy"].take(model)
    assert least - 0.02 <= figures["sample_accuracy"] <= most + 0.02
    assert 0.9 < figures["real_accuracy"] < 1
    assert (figures["samples"], figures["fitted"]) == (1000, 1500)


def test_labels_are_needed_to_measure_them(capsys, tmp_path) -> None:
    np.save(tmp_path / "images.npy", np.arange(40 * 30, dtype=np.uint32).astype(np.uint8).reshape(40, 6, 5))
    flags = QUICK.replace("digits", f"npy:{tmp_path / 'images.npy'}").replace("--resize", "").split()
    assert cli.main(torchvae, ["train", *flags, "--out", str(tmp_path / "run")]) == 0
    status, out, err = ask(torchvae, capsys, tmp_path / "run", "--measures", "label-accuracy")
    assert (status, out) == (2, "")
    assert "The measure label-accuracy needs labels of two classes or more, which npy:" in err
    assert ask(torchvae, capsys, tmp_path / "run", "--measures", "all", "--samples", "5")[0] == 0
    assert "label-accuracy" not in json.loads((tmp_path / "run" / "measures.json").read_text())


def test_quadrature_is_of_two_latents(trained, tmp_path, capsys) -> None:
    assert evaluation.reason_not_applicable(Spec(model=replace(MLP, latent=3)), "quadrature") == (
        "sums over a grid of two latents, and the model has 3"
    )
    code = replace(MLP, posterior="point", discriminator=(4,))
    assert (
        evaluation.reason_not_applicable(Spec(model=code, objective=ObjectiveSpec(form="adversarial")), "quadrature")
        is None
    )


def test_a_run_that_is_read_only_is_measured_all_the_same(trained, capsys, monkeypatch) -> None:
    kept = (trained / "vae" / "measures.json").exists()

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(safe_io, "write_atomically", refuse)
    status, out, err = ask(torchvae, capsys, trained / "vae")
    assert status == 0
    assert "active units" in out
    assert err.count("\n") == 1
    assert "is read-only; the measures were not written there" in err
    assert (trained / "vae" / "measures.json").exists() == kept


@pytest.mark.parametrize("content", ["[]", "{", '{"nope": 1}'])
def test_measures_that_are_none_are_not_written_over(trained, capsys, tmp_path, content: str) -> None:
    run = shutil.copytree(trained / "vae", tmp_path / "run")
    (run / "measures.json").write_text(content)
    status, _, err = ask(torchvae, capsys, run, "--measures", "terms")
    assert status == 2
    assert "measures.json is not a valid record of measures" in err
    assert err.count("\n") == 1
    assert (run / "measures.json").read_text() == content


@packages
def test_figures_that_are_not_finite_are_refused(package, trained, capsys, tmp_path) -> None:
    run = shutil.copytree(trained / "vae", tmp_path / "run")
    spec, model = torchvae.load(run / "model.safetensors")
    arrays = torchvae.to_arrays(spec, model)
    arrays["decoder.logits.bias"] = np.full(30, 1e308)  # finite, as a weight file has to be; its sum over pixels is not
    torchvae.save(run / "model.safetensors", spec, torchvae.from_arrays(spec, arrays))
    (run / "measures.json").unlink(missing_ok=True)
    status, out, err = ask(package, capsys, run)
    assert (status, out) == (2, "")
    assert "not finite; train the run again" in err
    assert not (run / "measures.json").exists()
