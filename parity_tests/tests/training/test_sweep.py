"""Sweeps: each member is the run that train makes, whether trained alone or with the others, whatever stopped it."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.analysis import sweep_summary
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.runs import metrics, run_folder
from parity_tests.support.backends import lean
from parity_tests.support.numpy_backend import NUMPY_BACKEND, contents, numpy_command
from parity_tests.support.quick import quick
from parity_tests.support.tiny import small, some

TINY = ["--data", "digits", "--image", "6", "6", "1", "--hidden", "5", "--latent", "2", "--batch-size", "500"]
GRID = ["--seeds", "0:2", "--beta", "0.5", "2", "--learning-rate", "1e-3", "3e-4", "--epochs", "2"]
SLOW = ("beta-h", "adversarial", "iwae-paper", "dropout", "beta-b")  # the same of other kinds of model
NAMES = [
    f"seed-{seed}-beta-{beta}-learning-rate-{rate}"
    for beta in ("0.5", "2")
    for rate in ("0.001", "0.0003")
    for seed in (0, 1)
]


_lean = pytest.fixture(scope="module", autouse=True)(lean)


@pytest.fixture(autouse=True)
def _float32():
    yield
    jax.config.update("jax_enable_x64", False)


def sweep(side: Any, out: Path, *flags: str) -> int:
    return cli.main(side, ["sweep", *TINY, *flags, "--out", str(out)])


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text())


def lasting(run: Path) -> dict[str, bytes]:
    """What a run's files hold, without the checkpoints before the last, one of which is where it was stopped."""
    last = max(name for name in contents(run) if name.startswith("checkpoints/step-"))
    return {n: held for n, held in contents(run).items() if not n.startswith("checkpoints/") or n == last}


def terms_of(run: Path) -> np.ndarray:
    return np.array([[r[t] for t in ("loss", "reconstruction", "kl")] for r in metrics.read(run_folder.read(run))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A sweep of the package that is neither, which nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "sweep"
    assert sweep(NUMPY_BACKEND, out, *GRID) == 0
    return out


def test_each_member_is_what_train_writes(whole, tmp_path) -> None:
    """Every file to the bit, but for the time it was begun."""
    assert sorted(p.name for p in whole.iterdir()) == sorted([*NAMES, "sweep.json", "sweep.md", "sweep.png"])
    flags = ["--seed", "1", "--beta", "2", "--learning-rate", "3e-4", "--epochs", "2"]
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, *flags, "--out", str(tmp_path / "run")]) == 0
    member = whole / "seed-1-beta-2-learning-rate-0.0003"
    assert contents(member) == contents(tmp_path / "run")
    configs = [json.loads((path / "config.json").read_text()) for path in (member, tmp_path / "run")]
    for config in configs:
        del config["sessions"][0]["created"]
    assert configs[0] == configs[1]


def test_a_sweep_whose_rate_falls_over_the_run_is_gone_on_with(tmp_path, capsys) -> None:
    out, flags = tmp_path / "sweep", [*GRID, "--schedule", "cosine"]
    assert sweep(NUMPY_BACKEND, out, *flags) == 0
    capsys.readouterr()
    assert sweep(NUMPY_BACKEND, out, *flags) == 0
    assert re.search(r"(\d+) runs, \1 of them finished already", capsys.readouterr().out)


@pytest.mark.parametrize("name", quick(["flax-example", *SLOW], []))
def test_runs_trained_together_are_those_trained_alone(x64: None, name: str) -> None:
    """In float64, two epochs of five steps, with a decaying learning rate; the preset's own is statically binarised.
    One of them stands seven steps ahead of the other, which catches up. Measured: 4e-15 at most."""
    base = small(name)
    falling = {"schedule": "cosine", "clip": 0.1, "weight_decay": 0.1} if name == "flax-example" else {"decay": 0.5}
    beta = base.objective.beta * (4.0 if base.objective.form == "elbo" else 1.0)
    specs = [
        replace(base, training=replace(base.training, dtype="float64", epochs=2, **falling)),
        replace(
            base,
            objective=replace(base.objective, beta=beta),
            training=replace(base.training, dtype="float64", epochs=2, seed=2, learning_rate=3e-3, **falling),
        ),
    ]
    data, alone, result, ahead = some(base), ([], []), ([], []), []

    def on_part(part: jaxvae.Part) -> None:
        if part.step == 7:
            ahead.append((jax.tree.map(jax.numpy.copy, part.state), part.train))

    finals = [
        jaxvae.fit(specs[0], data, alone[0].append),
        jaxvae.fit(specs[1], data, alone[1].append, None, None, on_part, [7]),
    ]
    together = jaxvae.fit_together(specs, data, lambda i, progress: result[i].append(progress), None, [None, *ahead])
    assert [[p.epoch for p in progress] for progress in result] == [[1, 2], [2]]
    for i in range(2):
        for actual, expected in zip(result[i], alone[i][-len(result[i]) :], strict=True):
            assert (actual.epoch, actual.step) == (expected.epoch, expected.step)
            np.testing.assert_allclose(actual.train, expected.train, rtol=1e-12)
            np.testing.assert_allclose(actual.test, expected.test, rtol=1e-12)
        for a, b in zip(jax.tree.leaves(together[i][:2]), jax.tree.leaves(finals[i][:2]), strict=True):
            assert np.abs(a - b).max() <= 1e-12 * np.abs(b).max()


@pytest.mark.slow
def test_a_sweep_trained_together_stopped_and_gone_on_with(tmp_path, capsys, monkeypatch) -> None:
    """Ctrl-C while the second step is saved, one member killed before it had saved the third, at which they stop; then
    the same command again. Each is the run that is trained alone, and torchvae's as well as jaxvae's."""
    flags = ["--beta", "0.5", "2", "--epochs", "2", "--dtype", "float64", "--checkpoint-every", "2"]
    out, alone, save, stopped = tmp_path / "together", tmp_path / "alone", jaxvae.save_checkpoint, []

    def interrupted(path: Path, spec: Spec, state: Any, train: np.ndarray) -> None:
        save(path, spec, state, train)
        if int(state.step) == 2 and not stopped:
            stopped.append(path)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(jaxvae, "save_checkpoint", interrupted)
    assert sweep(jaxvae, out, *flags, "--how", "together") == 130
    assert re.search("stopped by SIGINT, all runs are saved; resume with the same command", capsys.readouterr().err)
    first, second = (out / f"seed-0-beta-{beta}-learning-rate-0.001" for beta in ("0.5", "2"))
    (second / "checkpoints" / "step-000000003.safetensors").unlink()
    (second / "checkpoints" / "steps.json").write_text("[2]")
    assert sweep(jaxvae, out, *flags, "--how", "together") == 0
    assert "2 runs, together on" in capsys.readouterr().out
    assert [run_folder.read(path).config["sessions"][1]["from_step"] for path in (first, second)] == [3, 2]
    assert cli.main(jaxvae, ["train", *TINY, *flags[3:], "--beta", "2", "--out", str(alone)]) == 0
    # Six steps of float64: roundings of 1e-16 have hardly grown. Measured: 4e-16.
    np.testing.assert_allclose(terms_of(second), terms_of(alone), rtol=1e-12)
    capsys.readouterr()
    assert cli.main(torchvae, ["evaluate", str(second)]) == 0
    assert f"test loss {terms_of(second)[-1, 0]:.3f} nats per image" in capsys.readouterr().out
    assert cli.main(torchvae, ["train", "--resume", str(second), "--epochs", "3"]) == 0
    assert len(terms_of(second)) == 6


def test_a_run_that_diverges_is_reported_and_the_others_continue(tmp_path, capsys) -> None:
    out = tmp_path / "sweep"
    assert sweep(jaxvae, out, "--learning-rate", "1e-3", "1e30", "--epochs", "1", "--how", "together") == 3
    printed, err = capsys.readouterr()
    assert re.search(r"jaxvae: 1 of 2 runs diverged, the first: .*-1e\+30: Training stopped: the .* step 2", err)
    assert re.search(r"\| 1 +\| +1e\+30 \| 0 of 1 \| +- ± - \|", printed)
    good, bad = results(out)["settings"]
    assert good["runs"] == 1
    assert good["standard_error"] == {"loss": None, "reconstruction": None, "kl": None}
    assert bad["mean"] == {"loss": None, "reconstruction": None, "kl": None}


@pytest.mark.parametrize("when", [1, 5])
def test_a_stopped_sweep_goes_on_and_trains_nothing_twice(whole, tmp_path, capsys, monkeypatch, when: int) -> None:
    """SIGTERM while a member trains; what the sweep comes to is to the bit what it would have been."""
    out, fit, calls = tmp_path / "sweep", NUMPY_BACKEND.fit, []

    def counted(
        spec: Spec, data: Any, on_epoch: Any, device: Any, start: Any, on_part: Any, every: Any, *rest: Any
    ) -> None:
        calls.append(spec)

        def part(progress: Any) -> None:
            if len(calls) == when and progress.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            on_part(progress)

        fit(spec, data, on_epoch, device, start, part, [4], *rest)

    monkeypatch.setattr(NUMPY_BACKEND, "fit", counted)
    assert sweep(NUMPY_BACKEND, out, *GRID) == 143
    assert re.search(r"stopped by SIGTERM at step 4, .* the same command and --out", capsys.readouterr().err)
    assert len(calls) == when
    assert sweep(NUMPY_BACKEND, out, *GRID) == 0
    assert len(calls) == len(NAMES) + 1
    assert sweep(NUMPY_BACKEND, out, *GRID) == 0
    assert len(calls) == len(NAMES) + 1, "all were through"
    assert "8 of them finished already" in capsys.readouterr().out
    for name in NAMES:
        assert lasting(out / name) == lasting(whole / name)
    for file in ("sweep.json", "sweep.md", "sweep.png"):
        assert (out / file).read_bytes() == (whole / file).read_bytes()


def test_a_member_killed_before_it_was_a_run_begins_again_and_what_is_none_stays(tmp_path, capsys) -> None:
    out = tmp_path / "sweep"
    assert sweep(NUMPY_BACKEND, out, *GRID[:2], *GRID[-2:]) == 0
    flags = [*TINY, *GRID[-2:], "--seeds", "0:3", "--out", str(out)]
    assert numpy_command("--die", "before:2", "sweep", *flags).returncode == -signal.SIGKILL
    (half,) = out.glob(".seed-*")
    assert not (half / half.name.split(".")[1] / "config.json").exists()
    assert sweep(NUMPY_BACKEND, out, "--seeds", "0:3", *GRID[-2:]) == 0
    assert len(results(out)["runs"]) == 3, "it has grown"
    assert not list(out.glob(".*"))
    other = out / "seed-3-beta-1-learning-rate-0.001"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert sweep(NUMPY_BACKEND, out, "--seeds", "0:4", *GRID[-2:]) == 2
    assert "exists but is not a run folder; choose another --out" in capsys.readouterr().err
    assert (other / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--seeds", "--seeds must name at least one value, found none"),
        ("--seeds 3:3", "--seeds A:B must be A to B - 1, from 1 to 1,000 seeds, found 3:3"),
        ("--seeds 0:2000", "from 1 to 1,000 seeds, found 0:2000"),
        ("--seeds one", "--seeds must be numbers, or a range such as 0:8, found 'one'"),
        ("--seeds -1", "--seeds must be numbers, or a range such as 0:8, found '-1'"),
        ("--seeds 0:3 2", "--seeds must name each value once, found 2 twice"),
        ("--seeds 18446744073709551616", "--seeds must be an integer from 0 to 2"),
        ("--beta", "--beta must name at least one value"),
        ("--beta 1 -2", "beta must be finite and at least 0, found -2.0"),
        ("--beta 1 1.0", "--beta must name each value once, found 1 twice"),
        ("--learning-rate 0.1 0", "--learning-rate must be positive"),
        ("--seeds 0:900 --beta 1 2", "A sweep has at most 1,000 runs, found 900 seeds, 2 betas and 1 learning rates"),
        ("--preset autoencoder --beta 1 2", "only the elbo uses beta, and reconstruction does not; give --beta 1"),
        ("--preset beta-b --beta 4", "and capacity does not; give --beta 1"),
        ("--resume runs/1", "To resume a sweep, give its own command again with its --out; leave out --resume"),
        ("--keep 0", "--keep must be at least 1, found 0"),
        ("--how together --devices 2", "Runs that train together can't share batches among --devices; leave out"),
        (
            "--processes 2",
            "A sweep runs in one process; leave out --distributed, --coordinator, --processes and --process",
        ),
        ("--data-root /no/such/folder", "The data root /no/such/folder is not a folder"),
    ],
)
def test_a_sweep_that_can_not_be_is_refused_and_nothing_is_written(tmp_path, capsys, flags: str, says: str) -> None:
    assert cli.main(NUMPY_BACKEND, ["sweep", "--data", "digits", *flags.split(), "--out", str(tmp_path / "sweep")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert list(tmp_path.iterdir()) == []


def test_another_configuration_is_refused_and_the_sweep_kept(whole, tmp_path, capsys) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert sweep(NUMPY_BACKEND, whole, *GRID, "--hidden", "7", "--epochs", "3") == 2
    says = (
        r"sweep has another configuration: its --hidden is \[5\], not \[7\], its --epochs is 2, not 3; leave that out"
    )
    assert re.search(says, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
    assert sweep(NUMPY_BACKEND, whole / NAMES[0], *GRID) == 2
    assert "exists but is not a sweep; give another --out" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text("{}")
    assert sweep(NUMPY_BACKEND, tmp_path, *GRID) == 2
    assert "is not a sweep's" in capsys.readouterr().err


def test_torchvae_trains_a_sweep_one_by_one(tmp_path, capsys) -> None:
    out = tmp_path / "sweep"
    assert sweep(torchvae, out, "--seeds", "5", "7", "--epochs", "1", "--how", "together") == 2
    assert "torchvae trains runs one by one, only jaxvae trains them together" in capsys.readouterr().err
    assert not out.exists()
    assert sweep(torchvae, out, "--seeds", "5", "7", "--epochs", "1") == 0
    assert cli.main(jaxvae, ["evaluate", str(out / "seed-7-beta-1-learning-rate-0.001")]) == 0
    assert "2 runs, one by one" in capsys.readouterr().out


def outcome(seed: int, beta: float, loss: float | None) -> sweep_summary.RunResult:
    spec = Spec("digits", ModelSpec(), ObjectiveSpec(beta=beta), TrainingSpec(seed=seed))
    return sweep_summary.RunResult("", spec, loss and {"loss": loss, "reconstruction": loss - 20, "kl": 20.0})  # type: ignore[arg-type]


def test_the_table_has_means_and_standard_errors() -> None:
    """Of 100, 102, 104: a sample standard deviation of 2, by the root of 3."""
    result = [
        outcome(0, 1, 100.0),
        outcome(1, 1, 102.0),
        outcome(2, 1, 104.0),
        outcome(0, 4, 120.0),
        outcome(1, 4, None),
    ]
    lines = sweep_summary.table(result, 297, "digits").splitlines()
    assert "297 test images of digits" in lines[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert rows[0] == ["beta", "learning rate", "runs", "loss", "reconstruction", "kl"]
    assert rows[2] == ["1", "0.001", "3", "102.000 ± 1.155", "82.000 ± 1.155", "20.000 ± 0.000"]
    assert rows[3] == ["4", "0.001", "1 of 2", "120.000 ± -", "100.000 ± -", "20.000 ± -"]


def test_the_picture_is_of_a_columns_width(whole) -> None:
    with Image.open(whole / "sweep.png") as image:
        assert (image.format, image.size) == ("PNG", (1020, 780))  # 3.4 x 2.6 inches at 300 dots
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("package", [jaxvae, torchvae], ids=["jaxvae", "torchvae"])
def test_help_teaches(package, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(package, ["sweep", "--help", "--preset", "beta-h"])
    out = capsys.readouterr().out
    assert "sweep --seeds 0:4 --beta 0.5 1 2 4" in out
    assert "--resume" not in out
    assert "--seed " not in out
