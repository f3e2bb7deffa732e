"""The command line of both packages: what it does, and that what it can't do it says in one sentence."""

import dataclasses
import json
import platform
import re
import shutil
import subprocess
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import Doc

import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Format
from jaxvae.shared.commands.open_session import SessionFlags
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.data import published
from jaxvae.shared.runs import metrics
from parity_tests.harness.vae.command import run as run_parity
from parity_tests.support import backends
from parity_tests.support.cli import PACKAGES, fails, run
from parity_tests.support.numpy_backend import SIZES
from parity_tests.support.quick import quick

pytestmark = pytest.mark.either

QUICK = [*SIZES, "--epochs", "2"]
ABSENT = "tpu" if torch.cuda.is_available() else "gpu"

_lean = pytest.fixture(scope="module", autouse=True)(backends.lean)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A run of each package with the same flags."""
    folder = tmp_path_factory.mktemp("runs")
    for name, package in PACKAGES.items():
        assert cli.main(package, ["train", *QUICK, "--log-every", "5", "--out", str(folder / name)]) == 0
    return {name: folder / name for name in PACKAGES}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, int)


def test_a_run_folder(trained) -> None:
    records = {}
    for name, path in trained.items():
        files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        pictures = [f"images/{kind}-{epoch:03}.png" for kind in ("reconstructions", "samples") for epoch in (1, 2)]
        saved = [
            "checkpoints/step-000000012.safetensors",
            "checkpoints/step-000000024.safetensors",
            "checkpoints/steps.json",
        ]
        assert files == [*saved, "config.json", *pictures, "metrics.jsonl", "model.safetensors"]
        config = json.loads((path / "config.json").read_text())
        assert config["framework"] == name
        assert config["data"]["name"] == config["spec"]["data"] == "digits"
        assert config["data"]["train"] == 1500
        assert config["sessions"][0]["versions"]["numpy"] == np.__version__
        records[name] = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert [(r["step"], r["epoch"], r["split"]) for r in records[name]] == [
            *((step, 1, "train") for step in (5, 10)),
            (12, 1, "test"),
            *((step, 2, "train") for step in (15, 20)),
            (24, 2, "test"),
        ]
    for in_jax, in_torch in zip(*records.values(), strict=True):
        assert list(in_jax) == ["step", "epoch", "split", "loss", "reconstruction", "kl"]
        # Float32, from the same start: a few tens of steps' growth of a rounding of 1e-7.
        np.testing.assert_allclose(
            [in_jax[k] for k in ("loss", "kl")], [in_torch[k] for k in ("loss", "kl")], rtol=1e-4
        )


def test_pictures_are_the_same_from_both(trained) -> None:
    for kind in ("samples", "reconstructions"):
        in_jax, in_torch = (pixels(path / "images" / f"{kind}-001.png") for path in trained.values())
        assert in_jax.std() > 10
        assert np.abs(in_jax - in_torch).max() <= 2  # of 255


def test_the_epochs_mean_without_log_every(package, capsys, tmp_path) -> None:
    status, out, _ = run(package, capsys, "train", *QUICK, "--out", tmp_path / "run")
    assert status == 0
    assert re.search(r"test loss \d+\.\d+ nats per image \(reconstruction .*, kl .*\) after 24 steps", out)
    assert f"pictures in {tmp_path / 'run' / 'images'}" in out
    assert f"weights in {tmp_path / 'run' / 'model.safetensors'}" in out
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["split"]) for r in records] == [(12, "train"), (12, "test"), (24, "train"), (24, "test")]
    for record in records:
        assert record["loss"] == pytest.approx(record["reconstruction"] + record["kl"], rel=1e-6)


@pytest.mark.parametrize("writer", PACKAGES)
def test_each_packages_commands_accept_the_others_run(package, writer: str, trained, capsys, tmp_path) -> None:
    path = trained[writer]
    status, out, _ = run(package, capsys, "evaluate", path)
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert status == 0
    assert f"test loss {last['loss']:.3f} nats per image" in out
    assert re.search(r"active units.*\n *squared error.*\n *kl of latent", out), "the model's numbers stand together"
    for command in ("sample", "reconstruct"):
        target = tmp_path / f"{command}.png"
        assert run(package, capsys, command, path, "--out", target, "--n", "20")[0] == 0
        assert pixels(target).shape[1] > 28
    assert "26,054 parameters" in run(package, capsys, "describe", path)[1]


def test_sample_draws_by_its_seed(package, trained, capsys, tmp_path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        assert run(package, capsys, "sample", trained["jaxvae"], "--out", file, "--seed", seed)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_describe(package, capsys) -> None:
    status, out, _ = run(package, capsys, "describe", "--preset", "pytorch-examples")
    assert status == 0
    assert "652,824 parameters" in out
    assert "nats per image" in out
    flags = "--network layers --activation leaky-relu --encoder conv2k4s2p1 --decoder linear14x14x2 up1k3s2p1o1"
    status, out, _ = run(package, capsys, "describe", *flags.split(), "--slope", 0.3)
    assert status == 0
    assert out.startswith(f"preset pytorch-examples with --hidden {flags} --slope 0.3\n")
    for words in (
        "conv 4x4/2 p1, 1 -> 2 of 14x14, leaky-relu of slope 0.3 ",
        "conv transpose 3x3/2 p1+1x1, 2 -> 1 of 28",
    ):
        assert words in out
    assert len({line.index(" parameters") for line in out.splitlines() if line.endswith("parameters")}) == 1
    fails(package, capsys, "describe takes a run folder alone, or --preset", "describe", "a", "--hidden", 3)


COMMANDS = (
    *("train", "sweep", "list", "evaluate", "sample", "reconstruct", "interpolate", "traverse", "manifold", "embed"),
    *("compare", "curves", "report", "describe", "export", "import"),
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(package, capsys, command: str) -> None:
    status, out, _ = run(package, capsys, *command.split(), "--help")
    assert status == 0
    assert len(out) > 300
    assert "{None" not in out, "a value that may be left out is shown as INT or PATH"
    assert "default: None" not in out
    if command:
        assert re.search(rf"^    {package.__name__} {command}\b", out, re.MULTILINE)
        assert not re.search(rf"^    {command}\b", out, re.MULTILINE), "an example begins with the program's name"


def test_none_takes_a_value_back() -> None:
    """Though the help doesn't show it."""
    command = cli._parse("jaxvae", ["train", "--max-steps", "None", "--train-images", "None", "--out", "a"])
    assert (command.spec.training.max_steps, command.spec.images.train_images) == (None, None)
    given = cli._parse("jaxvae", ["import", "a", "--out", "b", "--image", "2", "3", "1", "--range", "None"]).given
    assert (given.image, given.range) == ((2, 3, 1), None)


def test_help_has_no_line_breaks_of_its_own() -> None:
    cli.join_help(SessionFlags)
    for flags in (SessionFlags, ModelSpec):
        kinds = typing.get_type_hints(flags, include_extras=True).values()
        texts = [
            doc.documentation for kind in kinds for doc in getattr(kind, "__metadata__", ()) if isinstance(doc, Doc)
        ]
        assert len(texts) > 5
        assert not [text for text in texts if "\n" in text]


def test_flags_reach_the_configuration(package, capsys, tmp_path) -> None:
    flags = "--image 9 12 1 --hidden 8 4 --latent 2 --beta 3.5 --epochs 3 --max-steps 5 --batch-size 700"
    more = "--learning-rate 0.01 --seed 9 --dtype float64 --device cpu --data digits --preset yunjey"
    assert run(package, capsys, "train", *flags.split(), *more.split(), "--out", tmp_path / "run")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["preset"] == "yunjey"
    assert config["spec"] == {
        "data": "digits",
        "model": {
            **{"image": [9, 12, 1], "hidden": [8, 4], "latent": 2, "network": "mlp", "activation": "relu"},
            **{"posterior": "gaussian", "likelihood": "bernoulli", "variance": 1.0, "output": "bounded"},
            **{"classes": 0, "discriminator": [], "init": "pytorch"},
        },
        "objective": {
            **{"beta": 3.5, "form": "elbo", "units": "image", "samples": 1, "warmup": 0},
            **{"gamma": 10.0, "capacity": 25.0, "capacity_steps": 10_000},
        },
        "training": {
            **{"epochs": 3, "max_steps": 5, "batch_size": 700, "learning_rate": 0.01, "seed": 9, "dtype": "float64"},
            **{"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "schedule": "exponential", "decay": 1.0},
        },
        "images": {
            **{"range": "unit", "binarization": "none", "corruption": "none", "corruption_level": 0.0},
            **{"train_images": None, "resize": False},
        },
    }
    assert run(package, capsys, "evaluate", tmp_path / "run")[0] == 0


def test_flags_of_every_part_reach_the_configuration(capsys, tmp_path) -> None:
    """By one package, since the parser is both's."""
    flags = "--network conv --activation tanh --posterior relu-sigma --likelihood gaussian --variance 0.5 --classes 10 "
    flags += "--output linear --init glorot --form capacity --units mixed --samples 2 --gamma 3 --capacity 4 "
    flags += "--capacity-steps 5 --beta1 0.8 --beta2 0.9 --eps 1e-6 --decay 0.5 --range signed --binarization static "
    flags += "--corruption gaussian --corruption-level 0.25 --train-images 9"
    given = [pair.split(" ") for pair in flags.removeprefix("--").split(" --")]
    more = "--resize --data digits --image 6 6 3 --hidden 3 --latent 2 --epochs 1 --batch-size 9"
    status, _, err = run(torchvae, capsys, "train", *f"{flags} {more}".split(), "--out", tmp_path / "run")
    assert status == 0, err
    spec = json.loads((tmp_path / "run" / "config.json").read_text())["spec"]
    results = {name: value for part in spec.values() if isinstance(part, dict) for name, value in part.items()}
    for name, value in given:
        reached = results[name.replace("-", "_")]
        assert reached == type(reached)(value), name


def test_auto_without_mnist_trains_on_digits_and_says_so(package, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("JAXVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(published, "download", lambda root, this: "no network")
    status, _, err = run(package, capsys, "train", "--max-steps", "1", "--out", tmp_path / "run")
    assert status == 0
    assert "WARNING: MNIST is not available" in err
    assert "no network" in err
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (recorded["asked"], recorded["name"]) == ("auto", "digits")
    assert "no network" in recorded["instead_of_mnist"]
    fails(package, capsys, "MNIST is not available", "train", "--data", "mnist", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--preset nope", "There is no preset 'nope'; choose one of pytorch-examples, yunjey"),
        ("--preset cnv", r"There is no preset 'cnv' \(did you mean conv\?\); choose one of"),
        ("--data mnsit", r"found 'mnsit' \(did you mean mnist\?\)\."),
        ("--data image:faces", r"found 'image:faces' \(did you mean images:faces\?\)\."),
        ("--latent -3", "latent must be positive and below 2.31, found -3"),
        ("--hidden 400 0", "hidden must be positive"),
        ("--beta -1", "beta must be finite and at least 0, found -1"),
        ("--beta nan", "beta must be finite"),
        ("--epochs 0", "epochs must be positive"),
        ("--batch-size 0", "--batch-size must be positive"),
        ("--learning-rate 0", "--learning-rate must be positive"),
        ("--seed -1", "seed must be an integer from 0 to 2"),
        ("--max-steps 0", "--max-steps must be positive"),
        ("--log-every 0", "--log-every must be at least 1, found 0"),
        ("--data-root /no/such/folder", "The data root /no/such/folder is not a folder"),
        ("--data digits --image 28 28 3", "The digits are grey"),
        (f"--data digits --device {ABSENT}", ABSENT),
        ("--data digits --image 99999 99999 1 --resize", "take 15,000 GB, this machine's .*; give a smaller --image"),
        ("--weight-decay 2000", "--weight-decay must be below 1 / --learning-rate, found 2000"),
        ("--data nope", "data must be one of auto, mnist"),
        ("--posterior point", "Invalid configuration: elbo needs a distribution of latents, which a point code is not"),
        ("--form iwae --beta 2", "Invalid configuration: only the elbo uses beta"),
        ("--range signed", "Invalid configuration: a Bernoulli likelihood needs pixels in"),
        ("--preset conv --init glorot-data", "Invalid configuration: glorot-data sets the last bias to log-odds"),
        ("--preset adversarial --posterior relu-point", "Invalid configuration: adversarial matches codes to N"),
        ("--corruption dropout", "--corruption-level must be above 0 and below 1 for dropout, found 0"),
        ("--schedule iwae --decay 0.5", "give --decay 1, found 0.5"),
        ("--data digits --train-images 1501", "has 1,500 training images, 1,501 are asked for"),
        ("--data digits --preset conditional --classes 5", "has labels up to 9, .* give --classes 10"),
        ("--data digits --preset conv --image 2 2 1 --hidden 4 --batch-size 1499", "Batch norm needs more than one"),
    ],
)
def test_a_run_that_can_not_be_is_refused_and_nothing_is_written(
    package, capsys, tmp_path, flags: str, says: str
) -> None:
    fails(package, capsys, says, "train", *flags.split(), "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_a_path_is_named_with_its_kind(package, capsys, tmp_path) -> None:
    (tmp_path / "arrays").mkdir()
    for name in ("a.npz", "b.npy", "arrays/train.npy", "notes.txt"):
        (tmp_path / name).touch()
    kinds = {".": "a folder: give images", "arrays": "a folder: give npy", "a.npz": "a file: give npz"}
    for name, says in (kinds | {"b.npy": "a file: give npy"}).items():
        path = tmp_path / name
        fails(package, capsys, f"; that is {says}:{re.escape(str(path))}\\.$", "train", "--data", path)
    for name in ("notes.txt", "none", "x" * 300):
        fails(package, capsys, r"found '[^']*'\.$", "train", "--data", tmp_path / name)


def test_versions_and_commands_that_are_none(package, capsys) -> None:
    name = package.__name__
    framework = {"jaxvae": f"jax {jax.__version__}, ", "torchvae": f"torch {torch.__version__.partition('+')[0]}"}
    status, out, err = run(package, capsys, "--version")
    assert (status, err) == (0, "")
    assert out.startswith(f"{name} {package.__version__} ({framework[name]}")
    assert out.endswith(f", Python {platform.python_version()})\n")
    fails(package, capsys, r"There is no command 'tarin' \(did you mean train\?\); choose one of train, ", "tarin")
    fails(package, capsys, r"There is no command 'runs/a'; choose one of train, ", "runs/a")


def test_a_shell_completes_commands_and_flags(tmp_path) -> None:
    """By the script that running.md says how to write."""
    file = tmp_path / "torchvae"
    with pytest.raises(SystemExit):
        cli.main(torchvae, ["--tyro-write-completion", "bash", str(file)])
    typed = "COMP_WORDS=(torchvae train --lat); COMP_CWORD=2; _tyro_torchvae torchvae --lat"
    script = f'source {file}; {typed}; echo "${{COMPREPLY[@]}}"'
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.split() == ["--latent"]


def test_the_versions_that_parity_compares(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["parity", "--version"])
    with pytest.raises(SystemExit, match="0"):
        run_parity()
    assert re.fullmatch(r"parity \S+ \(jax .*, flax .*, optax .*, torch .*, Python .*\)\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("train --latent abc", "--latent can't be 'abc'; give a whole number."),
        ("train --max-steps=1.5", "--max-steps can't be '1.5'; give a whole number."),
        ("train --hidden a b --seed 1", "--hidden can't be 'a b'; give whole numbers."),
        (
            "train --dtype float16",
            "--dtype can't be 'float16' (did you mean bfloat16?); choose one of float32, float64",
        ),
        (
            "export RUN --format WRONG --out x",
            f"--format can't be 'WRONG'; choose one of {', '.join(typing.get_args(Format))}, source.",
        ),
        ("train --image 64 64", "--image needs 3 values (INT INT INT), and was given 64 64; `{} train --help`"),
        ("train --bogus 3", "train has no flag '--bogus'; `{} train --help` lists them."),
        ("sample RUN --ot x.png", "sample has no flag '--ot' (did you mean --out?); `{} sample --help` lists them."),
        ("train --flip yes", "--flip takes no value, and 'yes' stands after it; give --flip or --no-flip."),
        ("train --epochs 3 4", "train can't use '4', which stands after 3; `{} train --help` shows what it takes."),
        ("sample", "sample needs RUN and --out PATH, which are missing; `{} sample --help` explains it."),
        ("", "Give a command: train, sweep, list, "),
    ],
)
def test_a_flag_that_can_not_be_read_is_named(package, capsys, tmp_path, monkeypatch, typed: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    fails(package, capsys, re.escape(says.format(package.__name__)), *typed.split())
    assert list(tmp_path.iterdir()) == []


@dataclasses.dataclass(frozen=True)
class Once:
    number: int = 1


@dataclasses.dataclass(frozen=True)
class Twice:
    number: int = 2


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("once --numbr 3", "once has no flag '--numbr' (did you mean --number?); `program once --help` lists them."),
        ("thrice", "There is no command 'thrice'; `program --help` lists them."),
    ],
)
def test_a_script_of_several_commands_names_the_one_that_was_given(capsys, typed: str, says: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse(Once | Twice, prog="program", args=typed.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"program: {says}\n"


def test_a_run_folder_that_exists_is_kept(package, capsys, trained) -> None:
    before = {path: path.read_bytes() for path in trained["jaxvae"].rglob("*") if path.is_file()}
    says = "exists already; give another --out, or move it away, or continue that run with --resume"
    fails(package, capsys, says, "train", *QUICK, "--out", trained["jaxvae"])
    assert {path: path.read_bytes() for path in trained["jaxvae"].rglob("*") if path.is_file()} == before


FAMILY = {
    "autoencoder": "--hidden 16 8",
    "conditional": "--hidden 16",
    # In float32 Adam moves the biases before batch norm by roundings of zero, which evaluation sees.
    "conv": "--hidden 4 8 --dtype float64",
    "adversarial": "--hidden 16 --discriminator 8",
}
TINY = ["--data", "digits", "--image", "8", "8", "1", "--latent", "3", "--epochs", "1", "--batch-size", "150"]
OTHER = {"jaxvae": "torchvae", "torchvae": "jaxvae"}
family = pytest.mark.parametrize("name", quick(FAMILY, ["conditional", "autoencoder"]))


class Relatives:
    """A run of each of these presets by each package, trained when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, which: tuple[str, str]) -> Path:
        preset, name = which
        path = self.folder / f"{preset}-{name}"
        if not path.exists():
            arguments = ["train", "--preset", preset, *TINY, *FAMILY[preset].split(), "--out", str(path)]
            assert cli.main(PACKAGES[name], arguments) == 0
            jax.config.update("jax_enable_x64", False)
        return path


@pytest.fixture(scope="module")
def relatives(tmp_path_factory) -> Relatives:
    return Relatives(tmp_path_factory.mktemp("family"))


@family
def test_a_run_of_each_relative_is_the_same_by_both(relatives, name: str) -> None:
    records = []
    for package in PACKAGES:
        path = relatives[name, package]
        config = json.loads((path / "config.json").read_text())
        assert (config["preset"], config["framework"]) == (name, package)
        kinds = ["reconstructions"] if name == "autoencoder" else ["reconstructions", "samples"]
        assert sorted(p.name for p in (path / "images").iterdir()) == [f"{kind}-001.png" for kind in kinds]
        records.append([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()])
        assert [list(r) for r in records[-1]] == [["step", "epoch", "split", *PRESETS[name].terms]] * 2
    for in_jax, in_torch in zip(*records, strict=True):
        terms = [[r[term] for term in PRESETS[name].terms] for r in (in_jax, in_torch)]
        np.testing.assert_allclose(*terms, rtol=1e-4)
    for kind in kinds:
        in_jax, in_torch = (pixels(relatives[name, p] / "images" / f"{kind}-001.png") for p in PACKAGES)
        assert np.abs(in_jax - in_torch).max() <= 2  # of 255


@family
def test_each_package_reads_the_others_relative(package, relatives, name: str, capsys, tmp_path) -> None:
    path = relatives[name, OTHER[package.__name__]]
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    status, out, _ = run(package, capsys, "evaluate", path)
    assert status == 0
    for term in PRESETS[name].terms:
        (result,) = re.findall(rf"{term} (-?[\d.]+)", out)
        assert float(result) == pytest.approx(last[term], rel=1e-5, abs=1e-3), term
    target = tmp_path / "r.png"
    assert run(package, capsys, "reconstruct", path, "--out", target, "--n", "5")[0] == 0
    assert pixels(target).shape[1] > 5 * 16
    target.unlink()
    if name == "autoencoder":
        fails(package, capsys, "no prior to draw from; reconstruct images", "sample", path, "--out", target)
        assert list(tmp_path.iterdir()) == []
    else:
        assert run(package, capsys, "sample", path, "--out", target, "--n", "5")[0] == 0
        assert pixels(target).std() > 1
    status, out, _ = run(package, capsys, "describe", path)
    assert status == 0
    assert f"preset {name}, by {OTHER[package.__name__]}" in out


def test_a_class_is_drawn_by_its_label(package, relatives, trained, capsys, tmp_path) -> None:
    path = relatives["conditional", OTHER[package.__name__]]
    drawn = {}
    for label in ("3", "4", None):
        target = tmp_path / f"{label}.png"
        flags = [] if label is None else ["--label", label]
        assert run(package, capsys, "sample", path, "--out", target, "--n", "11", *flags)[0] == 0
        drawn[label] = pixels(target)
        target.unlink()
    assert not np.array_equal(drawn["3"], drawn["4"])
    assert drawn[None].shape[0] > 5 * drawn[None].shape[1] / 2, "a row for each class, of two images at most"
    for label in (-1, 10):
        says = f"--label must be from 0 to 9, found {label}"
        fails(package, capsys, says, "sample", path, "--out", tmp_path / "x.png", "--label", label)
    fails(package, capsys, says[:-3], "sample", path, "--out", tmp_path / "x.png", "--label", "three")
    says = "--label must be left out for a model without classes, found 3"
    fails(package, capsys, says, "sample", trained["jaxvae"], "--out", tmp_path / "x.png", "--label", 3)
    assert list(tmp_path.iterdir()) == []


def test_runs_are_compared_with_each_other_and_with_pca(package, relatives, capsys, tmp_path) -> None:
    paths = [relatives["autoencoder", "jaxvae"], relatives["conditional", "torchvae"]]
    status, out, _ = run(package, capsys, "compare", *paths, "--pca", "--n", "6", "--out", tmp_path / "F.png")
    assert status == 0
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in out.splitlines() if line[:1] == "|"]
    assert [row[:2] for row in (rows[0], *rows[2:])] == [
        ["name", "latents"],
        *([str(path), "3"] for path in paths),
        ["PCA", "3"],
    ]
    errors = [float(row[2]) for row in rows[2:]]
    assert min(errors) > 0
    assert rows[-1][-1] == "1.000"
    for row, error in zip(rows[2:], errors, strict=True):
        assert float(row[-1]) == pytest.approx(error / errors[-1], abs=2e-3)
    assert "297 test images of digits" in out
    with Image.open(tmp_path / "F.png") as image:
        assert image.format == "PNG"


def test_a_comparison_that_can_not_be_is_refused(package, relatives, trained, capsys, tmp_path) -> None:
    path, out = relatives["autoencoder", "jaxvae"], ["--out", tmp_path / "F.png"]
    for says, arguments in (
        ("should end in .png", [path, "--out", tmp_path / "F.jpg"]),
        ("--components requires --pca", [path, "--components", 2, *out]),
        ("has from 1 to 64 components, found 65", [path, "--pca", "--components", 65, *out]),
        ("--n must be from 1 to 64, .* found 0", [path, "--n", 0, *out]),
        ("images of .* are not those of", [path, trained["jaxvae"], *out]),
        ("is not a run folder", [path, tmp_path, *out]),
        ("can't be written", [path, "--out", tmp_path / "no" / "F.png"]),
    ):
        status, _, err = run(package, capsys, "compare", *arguments)
        assert status == 2
        assert err.startswith(f"{package.__name__}: ")
        assert err.count("\n") == 1
        assert re.search(says, err), err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "sample", "reconstruct"])
def test_a_folder_that_is_no_run(package, capsys, tmp_path, command: str) -> None:
    out = [] if command == "evaluate" else ["--out", tmp_path / "x.png"]
    fails(package, capsys, "is not a run folder: it has no config.json", command, tmp_path, *out)
    assert list(tmp_path.iterdir()) == []


CONFIGS = {
    "not JSON": ("{", "can't be read as JSON"),
    "another version": ('{"version": 7}', "must be the configuration of a run, version 3, found version 7"),
    "a list": ("[]", "must be the configuration of a run"),
    "without anything more": ('{"version": 3}', "lacks the field 'framework'"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_corrupt_configuration_is_named(package, capsys, tmp_path, fault: str) -> None:
    (tmp_path / "config.json").write_text(CONFIGS[fault][0])
    fails(package, capsys, CONFIGS[fault][1], "evaluate", tmp_path)


def test_corrupt_or_foreign_weights_are_named(package, capsys, trained, tmp_path) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained["torchvae"], path)
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    picture = ["--out", tmp_path / "x.png"]

    changed = bytearray(whole)
    changed[-1] ^= 1
    weights.write_bytes(changed)
    fails(package, capsys, "was changed since it was written", "sample", path, *picture)
    weights.write_bytes(whole[:-10])
    fails(package, capsys, "is not a whole safetensors file", "sample", path, *picture)
    weights.unlink()
    fails(package, capsys, "There is no weight file", "sample", path, *picture)

    weights.write_bytes(whole)
    config = json.loads((path / "config.json").read_text())
    config["spec"]["objective"]["beta"] = 2.0
    (path / "config.json").write_text(json.dumps(config))
    fails(package, capsys, "does not match .*config.json", "sample", path, *picture)
    assert not (tmp_path / "x.png").exists()


def test_pictures_that_can_not_be_are_refused(package, capsys, trained, tmp_path) -> None:
    path = trained["jaxvae"]
    fails(package, capsys, "--n must be from 1 to 10000", "sample", path, "--out", tmp_path / "x.png", "--n", 0)
    fails(package, capsys, "from 1 to 297", "reconstruct", path, "--out", tmp_path / "x.png", "--n", 298)
    fails(package, capsys, "should end in .png", "sample", path, "--out", tmp_path / "x.jpg")
    fails(package, capsys, "can't be written", "sample", path, "--out", tmp_path / "no" / "x.png")
    fails(package, capsys, "describe takes a run folder or --preset", "describe")
    assert list(tmp_path.iterdir()) == []


def test_stopping_from_the_keyboard_has_its_own_status(package, capsys, tmp_path, monkeypatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "fit", interrupted)
    status, _, err = run(package, capsys, "train", *QUICK, "--out", tmp_path / "run")
    assert status == 130
    assert "interrupted; files written so far are kept" in err


def test_files_that_can_not_be_used_are_named(package, capsys, tmp_path, monkeypatch, trained) -> None:
    fails(package, capsys, "aaa.* can't be used", "train", *QUICK, "--out", tmp_path / ("a" * 300))
    fails(
        package,
        capsys,
        "seed must be an integer",
        "sample",
        trained["jaxvae"],
        "--out",
        tmp_path / "x.png",
        "--seed",
        -1,
    )

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(metrics, "append", full)
    status, _, err = run(package, capsys, "train", *QUICK, "--out", tmp_path / "run")
    assert status == 2
    assert err.startswith(f"{package.__name__}: metrics.jsonl can't be used (No space left on device)")


def test_a_corrupt_line_of_metrics_is_named(package, capsys, trained, tmp_path) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained["jaxvae"], path)
    record = {"step": 1, "epoch": 2.5, "split": "test", "loss": 1.0, "reconstruction": 1.0, "kl": 1.0}
    for line in (b"{", b"[]", b'{"step": 1}', b"\xff\xfe", b"[" * 100_000, json.dumps(record).encode()):
        (path / "metrics.jsonl").write_bytes(line + b"\n")
        fails(package, capsys, "metrics.jsonl, line 1, is not a record of metrics", "evaluate", path)


def test_a_run_that_diverges_says_where_and_has_its_own_status(package, capsys, tmp_path) -> None:
    flags = ["train", *QUICK, "--learning-rate", "1e30", "--out", tmp_path / "run"]
    status, _, err = run(package, capsys, *flags)
    assert status == 3
    assert re.search(r"Training stopped: the \w+ became (nan|inf) at step \d+", err)
    assert "Traceback" not in err


def test_a_run_on_a_file_knows_it_again_from_anywhere(package, capsys, tmp_path, monkeypatch) -> None:
    """By its whole path and its images' digest, wherever the command is given."""
    images = np.arange(20 * 36, dtype=np.uint8).reshape(20, 6, 6)
    for folder, shift in (("here", 0), ("there", 1)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", images + np.uint8(shift))
    monkeypatch.chdir(tmp_path / "here")
    flags = [
        "--data",
        "npy:a.npy",
        "--image",
        "6",
        "6",
        "1",
        "--hidden",
        "4",
        "--latent",
        "2",
        "--epochs",
        "1",
        "--out",
        "../run",
    ]
    assert run(package, capsys, "train", *flags)[0] == 0
    printed = run(package, capsys, "evaluate", "../run")[1]
    monkeypatch.chdir(tmp_path / "there")
    assert run(package, capsys, "evaluate", "../run")[1] == printed
    np.save(tmp_path / "here" / "a.npy", images + np.uint8(2))
    fails(package, capsys, "are not those that ../run was trained on: their digest should be", "evaluate", "../run")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")])
def test_what_does_not_fit_into_memory_is_reported_and_leaves_nothing(
    package, capsys, tmp_path, monkeypatch, error
) -> None:
    def fit(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(package, "fit", fit)
    status, _, err = run(package, capsys, "train", *QUICK, "--out", tmp_path / "run")
    assert status == 2
    assert re.fullmatch(rf"{package.__name__}: This doesn't fit into memory \(.*\); give smaller sizes .*\n", err), err
    assert not (tmp_path / "run").exists()
