"""The comparison passes for any correct configuration, localizes and names a fault, and its command reports the result
in words, files and exit status."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
import torch

from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from parity_tests.faults import inject, plain_vae
from parity_tests.faults.inject import SPEC, Fault
from parity_tests.harness import report
from parity_tests.harness.vae import (
    jax_backend,
    levels,
    noise_floor,
    precision,
    prove,
    reference,
    torch_backend,
    trajectory,
)
from parity_tests.harness.vae.steps import bounded
from parity_tests.support.reports.schema import validated
from parity_tests.support.warm import python

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "parity.py"
RANDOM = 50
IN_THE_SUITE = 0  # test_presets_parity also tests for false alarms: every preset must pass


def random_spec(seed: int) -> Spec:
    """Of any depth, width, latent, batch, beta, seed and image size."""
    rng = np.random.default_rng(seed)
    image = (int(rng.integers(1, 15)), int(rng.integers(1, 15)), int(rng.choice([1, 3])))
    hidden = tuple(int(width) for width in rng.integers(1, 65, rng.integers(0, 4)))
    return Spec(
        "digits",
        ModelSpec(image, hidden, int(rng.integers(1, 17))),
        ObjectiveSpec(float(np.exp(rng.uniform(-3, 3)))),
        TrainingSpec(batch_size=int(rng.integers(1, 201)), seed=int(rng.integers(0, 2**63))),
    )


def few(spec: Spec) -> Dataset:
    """Images of the spec's size, of any number of channels and with full blacks and whites, for a short epoch."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(-128, 384, (n, *spec.model.image)).clip(0, 255).astype(np.uint8) for n in (700, 90))
    return Dataset("digits", "random", train, np.zeros(700, np.uint8), test, np.zeros(90, np.uint8))


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=() if s < IN_THE_SUITE else pytest.mark.slow) for s in range(RANDOM)]
)
def test_no_false_alarm(seed: int) -> None:
    """Every level, in both precisions, and a run of 30 steps."""
    spec = random_spec(seed)
    result = prove.prove(spec, few(spec), steps=30)
    assert result.passed, report.verdict(result)
    assert {finding.dtype for finding in result.findings} == {"float32", "float64"}
    assert result.diagnosis is None
    assert not jax.config.jax_enable_x64  # type: ignore[attr-defined]
    jax.clear_caches()  # or fifty specs' programs fill a process's memory maps


def test_the_plain_formulas_have_models_without_hidden_layers() -> None:
    spec = Spec("digits", ModelSpec((4, 4, 1), (), 2), training=TrainingSpec(batch_size=8))
    case = levels.case(spec, few(spec))
    far = case.states["with logits to 60"][1]
    x = case.batch.x.reshape(8, -1).astype(np.float64)
    mean = x @ far["encoder.mean.weight"].T + far["encoder.mean.bias"]
    plain = reference.forward(spec, far, case.batch).posterior[0]
    np.testing.assert_allclose(plain, mean, rtol=1e-5, atol=1e-5)  # float32, sums of 16


def fault(cause: str) -> Fault:
    return next(fault for fault in plain_vae.FAULTS if fault.cause == cause)


@pytest.mark.slow
def test_a_fault_fails_the_proof_and_is_named_in_its_verdict() -> None:
    with inject.injected(fault("KL averaged over latents, not summed")):
        result = prove.prove(SPEC, few(SPEC), steps=3, dtypes=["float64"])
        unnamed = prove.prove(SPEC, few(SPEC), steps=3, dtypes=["float64"], bisect=False)
    assert not result.passed
    assert result.diagnosis is not None
    assert result.diagnosis.backend == "torchvae"
    assert "the likely cause: KL averaged over latents, not summed" in report.verdict(result)
    assert "every loss term" in report.verdict(result)
    assert unnamed.diagnosis is None
    assert [f.passed for f in unnamed.findings] == [f.passed for f in result.findings]


@pytest.mark.slow
def test_a_fault_that_comes_with_time_is_no_chaos() -> None:
    """In float32 alone: half the learning rate from step 23 on is beyond the noise floor, and step 23 is found."""
    spec, data = in_float32(SPEC), few(SPEC)
    with inject.injected(fault("learning rate 0.5 times as large from step 23 on")):
        result = prove.prove(spec, data, steps=40, dtypes=["float32"])
    assert [f.level for f in result.findings if not f.passed] == [noise_floor.LOSSES, noise_floor.SHADOW]
    assert result.diagnosis is not None
    assert "step 23" in result.diagnosis.where
    assert result.diagnosis.cause == "learning rate 0.5 times as large from step 23 on"


@pytest.mark.slow
def test_a_run_beyond_its_noise_floor_whose_steps_agree_is_chaos(monkeypatch: pytest.MonkeyPatch) -> None:
    """With almost no tolerance correct runs are beyond the noise floor; then each of their steps is compared."""
    monkeypatch.setattr(noise_floor, "TIMES_FLOOR", 1e-3)
    monkeypatch.setattr(noise_floor, "STEP", 1e-9)
    spec, data = bounded(in_float32(SPEC), 4, 700), few(SPEC)
    start = jax_backend.initial(spec)
    assert not all(finding.passed for finding in trajectory.follow(spec, data, start)[0])
    honest = noise_floor._taken_apart

    def apart(*arguments):
        monkeypatch.undo()
        return honest(*arguments)

    monkeypatch.setattr(noise_floor, "_taken_apart", apart)
    findings = trajectory.follow(spec, data, start)[0]
    assert all(finding.passed for finding in findings)
    assert "chaos" in next(f.reason for f in findings if f.level == noise_floor.LOSSES)
    assert {noise_floor.OWN, noise_floor.STILL, noise_floor.SHADOW} <= {f.level for f in findings}


def test_a_backend_that_raises_fails_the_level() -> None:
    wrong = Fault(plain_vae.dist, "gaussian_kl", "", lambda kl: lambda posterior: posterior.nothing, "")
    with inject.injected(wrong):
        result = prove.prove(SPEC, few(SPEC), steps=2, dtypes=["float64"])
    failed = next(f for f in result.findings if not f.passed)
    assert failed.level == "every loss term"
    assert failed.where.startswith("AttributeError")
    assert not result.passed


def test_a_fault_leaves_with_its_context() -> None:
    before = {name: getattr(inject.torchvae, name) for name in dir(inject.torchvae)}
    with inject.injected(fault("KL averaged over latents, not summed")):
        assert inject.torchvae.gaussian_kl is not before["gaussian_kl"]
    assert {name: getattr(inject.torchvae, name) for name in dir(inject.torchvae)} == before


def in_float32(spec: Spec) -> Spec:
    return replace(spec, training=replace(spec.training, dtype="float32"))


def test_the_noise_floor_is_what_an_ulp_does() -> None:
    spec = bounded(in_float32(SPEC), 5, 700)
    start = torch_backend.initial(spec)
    moved = levels.nudge(start, 0)
    for name, array in start.items():
        assert moved[name].dtype == np.float32
        np.testing.assert_array_equal(np.abs(moved[name] - array) <= np.spacing(np.abs(array)), True)
        assert (moved[name] != array).all()
    result = trajectory.follow(spec, few(SPEC), start)[1]
    assert result.floor is not None
    assert result.floor.shape == result.gaps.shape == (5,)
    assert 0 < result.floor.max() < 1e-5


def test_what_lower_precision_does_to_the_loss() -> None:
    """bfloat16 keeps eight bits, so that logits are off by about 2^-8 of their largest; TF32 keeps three more."""
    result = prove.precisions(in_float32(SPEC), few(SPEC))
    assert [(e.mode, e.package) for e in result] == [
        (mode, package) for mode in precision.MODES for package in ("jaxvae", "torchvae")
    ]
    bounds = {
        "float32": (0, 1e-5, 1e-3),
        "bf16x3": (0, 1e-4, 1e-2),
        "tf32": (1e-5, 5e-3, 0.1),
        "bfloat16": (1e-4, 0.05, 1),
    }
    for effect in result:
        low, high, nats = bounds[effect.mode]
        assert low <= effect.logits < high
        assert abs(effect.nats) < nats
    assert "| bfloat16 | torchvae |" in precision.to_markdown(result)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python(SCRIPT, *arguments)


def test_the_command_writes_what_it_measured(tmp_path) -> None:
    files = {kind: tmp_path / f"agreement.{kind}" for kind in ("json", "markdown", "junit", "html")}
    options = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
    result = run(
        "--preset",
        "pytorch-examples,yunjey",
        "--data",
        "digits",
        "--steps",
        "3",
        "--batch",
        "64",
        "--dtype",
        "float32",
        *options,
    )
    assert result.returncode == 0, result.stderr
    assert "jaxvae and torchvae agree" in result.stdout.splitlines()[-1]
    actual = validated(json.loads(files["json"].read_text()))
    assert actual["passed"]
    assert actual["compared"] == "presets"
    assert [tree["name"] for tree in actual["tree"]["children"]] == ["pytorch-examples", "yunjey"]
    assert actual["tree"]["status"] == "agrees"
    encoder = actual["tree"]["children"][0]["children"][0]
    (hidden,) = encoder["children"][0]["children"]
    assert (encoder["name"], hidden["torch"]) == ("encoder", "encoder.hidden.0")
    directions = [(figure["direction"], figure["of"]) for figure in hidden["figures"]]
    assert directions[:3] == [("forward", "input"), ("forward", "output"), ("backward", "weight at the start")]
    for preset in ("pytorch-examples", "yunjey"):
        about = actual["about"][preset]
        assert about["spec"]["training"]["batch_size"] == 64
        assert set(about["versions"]) >= {"jax", "flax", "optax", "torch", "numpy", "python"}
        assert len(about["data"]["sha256"]) == len(about["initial weights (sha256)"]["float32"]) == 64
        assert f"{preset}: every gradient" in {finding["level"] for finding in actual["findings"]}
    assert all(finding["reason"] and finding["where"] for finding in actual["findings"])
    suite = ElementTree.fromstring(files["junit"].read_bytes()).find("testsuite")
    assert suite is not None
    assert int(suite.attrib["tests"]) == len(actual["findings"])
    assert suite.attrib["failures"] == "0"
    assert files["html"].read_text().count("<svg") == 2
    assert files["markdown"].read_text().startswith("# jaxvae and torchvae agree\n")


BROKEN = """
import runpy, sys
from parity_tests.faults import inject, plain_vae
fault = next(fault for fault in plain_vae.FAULTS if fault.cause == "mean and logvar swapped")
sys.argv = sys.argv[1:]
with inject.injected(fault):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_command_fails_with_a_sentence_and_a_status_where_the_backends_differ(tmp_path) -> None:
    arguments = ["--data", "digits", "--steps", "2", "--dtype", "float64", "--junit", str(tmp_path / "a.xml")]
    result = python("-c", BROKEN, SCRIPT, *arguments, "--json", str(tmp_path / "a.json"), cwd=ROOT)
    assert result.returncode == 1, result.stderr
    actual = validated(json.loads((tmp_path / "a.json").read_text()))
    assert (actual["passed"], actual["tree"]["status"], actual["reference"]) == (False, "differs", "formulas")
    assert actual["tree"]["first"]
    (cause,) = actual["causes"]
    assert (cause["kind"], cause["backend"], cause["expected"]) == ("heads-swapped", "torchvae", "mean, logvar")
    assert cause["layer"]["torch"]["file"] == "torchvae/networks.py"
    assert "mean and logvar swapped; expected mean, logvar, found logvar, mean; to repair it, " in cause["sentence"]
    assert "the first that fails is every layer's output" in result.stdout
    assert "torchvae departs from the plain formula; the likely cause: mean and logvar swapped." in result.stdout
    suite = ElementTree.fromstring((tmp_path / "a.xml").read_bytes()).find("testsuite")
    assert suite is not None
    assert int(suite.attrib["failures"]) >= 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--preset", "nosuch"],
            "parity: There is no preset 'nosuch'; choose one of pytorch-examples, yunjey, tanh-mse, ",
        ),
        (["--steps", "0"], "parity: --steps must be at least 1, found 0."),
        (["--batch", "0"], "parity: The configuration's batch_size must be positive and below 2^31, found 0."),
        (
            ["--html", "/no/such/folder/a.html"],
            "/no/such/folder/a.html can't be written: the folder /no/such/folder doesn't exist; give another path.",
        ),
        (["--json", "/tmp"], "parity: /tmp can't be written: it is a folder; give another path."),
        (
            ["--json", "a.out", "--junit", "a.out"],
            "give each of --json, --markdown, --junit and --html a separate file.",
        ),
        pytest.param(
            ["--device", "gpu"],
            "There is no gpu here that both frameworks can use; compare on --device cpu.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (["--data-root", "/no/such/folder"], "give the published data sets' folder, or leave it out."),
    ],
)
def test_the_command_says_what_is_wrong_with_its_arguments(arguments: list[str], sentence: str) -> None:
    result = run("--data", "digits", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
