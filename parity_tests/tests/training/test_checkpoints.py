"""Runs that stop and resume: exactly, in either package, from whatever state they were stopped in."""

import errno
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import NonFiniteError
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from parity_tests.support.backends import lean
from parity_tests.support.cli import at_step
from parity_tests.support.kill_and_resume import FLAGS, killed
from parity_tests.support.kill_and_resume import unbroken as unbroken_files
from parity_tests.support.numpy_backend import NUMPY_BACKEND, POINTS, SIZES, contents, copy, numpy_command
from parity_tests.support.quick import quick
from parity_tests.support.switch_frameworks import switch
from parity_tests.support.tiny import small, some

pytestmark = pytest.mark.either

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
TINY = ["--data", "digits", "--epochs", "3", "--hidden", "5", "--latent", "2", "--checkpoint-every", "5"]
QUICK = [*SIZES, "--epochs", "2", "--checkpoint-every", "5", "--keep", "9"]
LAST = "checkpoints/step-000000036.safetensors"

_lean = pytest.fixture(scope="module", autouse=True)(lean)


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest):
    yield PACKAGES[request.param]
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A run of the package that is neither, and takes no time."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A run of each package that was never stopped, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    for name, package in PACKAGES.items():
        assert cli.main(package, ["train", *QUICK, "--log-every", "3", "--out", str(folder / name)]) == 0
    return {name: folder / name for name in PACKAGES}


@pytest.mark.parametrize("step", quick([5, 10, 15, 20], [5, 15]))
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(package, trained, tmp_path, step: int) -> None:
    """Weights, optimizer state, metrics, pictures: every file."""
    whole = trained[package.__name__]
    run = at_step(whole, tmp_path / "run", step)
    assert cli.main(package, ["train", "--resume", str(run)]) == 0
    assert contents(run) == contents(whole)
    assert [s["from_step"] for s in run_folder.read(run).config["sessions"]] == [0, step]


@pytest.mark.parametrize("name", quick(["beta-b", "adversarial", "iwae", "dropout", "flax-example"], ["adversarial"]))
def test_every_kind_of_model_goes_on_within_an_epoch(package, tmp_path, name: str) -> None:
    """Batch statistics, several optimizers, a rising capacity, each kind of key: cut three times, to the bit."""
    spec, data = small(name), some(small(name))
    whole: list = []
    last = package.fit(spec.__class__(**{**vars(spec), "training": bounded(spec)}), data, whole.append)
    spec = spec.__class__(**{**vars(spec), "training": bounded(spec)})
    cut: list = []
    start = None
    for stop in (2, 5, 8):

        def on_part(progress: Any, stop: int = stop) -> None:
            if progress.step == stop:
                package.save_checkpoint(tmp_path / "c.safetensors", spec, progress.state, progress.train)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            package.fit(spec, data, cut.append, None, start, on_part, [stop])
        start = package.load_checkpoint(tmp_path / "c.safetensors")[1:]
    end = package.fit(spec, data, cut.append, None, start)
    for actual, expected in zip(cut, whole, strict=True):
        assert (actual.epoch, actual.step) == (expected.epoch, expected.step)
        np.testing.assert_array_equal(actual.train, expected.train)
        np.testing.assert_array_equal(actual.test, expected.test)
    for to_arrays, place in ((package.to_arrays, 0), (package.optimizer_to_arrays, 1)):
        result, expected = to_arrays(spec, end[place]), to_arrays(spec, last[place])
        for key in expected:
            np.testing.assert_array_equal(result[key], expected[key], key)


def bounded(spec: Spec) -> Any:
    return spec.training.__class__(**{**vars(spec.training), "epochs": 2, "max_steps": 9})


@pytest.mark.parametrize(
    ("first", "second"), quick([("jaxvae", "torchvae"), ("torchvae", "jaxvae")], [("jaxvae", "torchvae")])
)
def test_handed_over_and_back_within_an_epoch(first: str, second: str, tmp_path) -> None:
    """JAX to torch to JAX in float64, at steps 5 and 16 of epochs of 12, and the other way round: equal to 1e-10."""
    flags, packages = [*QUICK, "--epochs", "3", "--dtype", "float64"], (PACKAGES[first], PACKAGES[second])
    assert max(switch((*packages, packages[0]), flags, (5, 16, 36), tmp_path)) < (1e-10,)
    assert [(s["framework"], s["from_step"]) for s in run_folder.read(tmp_path / "run").config["sessions"]] == [
        (first, 0), (second, 5), (first, 16)]  # fmt: skip
    jax.config.update("jax_enable_x64", False)


def test_a_finished_run_goes_on_for_longer(package, trained, tmp_path) -> None:
    longer = tmp_path / "longer"
    assert cli.main(package, ["train", *QUICK, "--epochs", "3", "--log-every", "3", "--out", str(longer)]) == 0
    run = copy(trained[package.__name__], tmp_path / "run")
    assert cli.main(package, ["train", "--resume", str(run), "--epochs", "3"]) == 0
    actual, expected = (weight_file.load_checkpoint(path / LAST) for path in (run, longer))
    for name in expected.weights:
        np.testing.assert_array_equal(actual.weights[name], expected.weights[name])
    assert (run / "metrics.jsonl").read_bytes() == (longer / "metrics.jsonl").read_bytes()
    assert run_folder.read(run).spec.training.epochs == 3


def test_a_checkpoint_is_a_weight_file_too(package, trained) -> None:
    """Its weights load by the same function, from either package's checkpoint."""
    for name, path in trained.items():
        spec, actual = package.load(path / "checkpoints" / "step-000000024.safetensors")
        arrays = package.to_arrays(spec, actual)
        for tensor, expected in weight_file.load(path / "model.safetensors")[1].items():
            np.testing.assert_array_equal(arrays[tensor], expected, name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_saves_the_step_and_ends_with_its_status(package, trained, tmp_path, capsys, number) -> None:
    """Sent from a thread of this process, to itself, at a step that is no multiple of anything."""
    whole, run = trained[package.__name__], tmp_path / "run"
    fit, usual = package.fit, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # which the tests' own parent may have set otherwise

    def interrupted(*arguments: Any) -> Any:
        *rest, on_part, every, stream, history = arguments

        def also(progress: Any) -> None:
            if progress.step == 17:
                sender = threading.Thread(target=os.kill, args=(os.getpid(), number))
                sender.start()
                sender.join()
            on_part(progress)

        return fit(*rest, also, [*every, 17], stream, history)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "fit", interrupted)
        status = cli.main(package, ["train", *QUICK, "--log-every", "3", "--out", str(run)])
        assert signal.signal(number, before) is usual
    assert status == 128 + number
    err = capsys.readouterr().err
    assert f"stopped by {number.name} at step 17, which is saved; resume with {package.__name__} train --resume" in err
    assert checkpoints.present(run_folder.read(run))[-1] == 17
    assert cli.main(package, ["train", "--resume", str(run)]) == 0
    (run / "checkpoints" / "step-000000017.safetensors").unlink()
    actual, expected = contents(run), contents(whole)
    for listing in (actual, expected):
        del listing["checkpoints/steps.json"]
    assert actual == expected


@pytest.mark.parametrize("times", [1, 4, 7])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_a_save_loses_nothing(unbroken, tmp_path, point: str, times: int) -> None:
    """The save's own code, in a process that kills itself with SIGKILL; no stray file stays after resuming."""
    run = tmp_path / "run"
    nth = times + 9 if "fsync" in point else times  # a new folder has eleven of them
    ended = numpy_command("--die", f"{point}:{nth}", "train", *TINY, "--out", str(run))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert run.exists() or times == 1  # killed while the folder was being made: there is no run yet
    flags = ["--resume", str(run)] if run.exists() else [*TINY, "--out", str(run)]
    assert cli.main(NUMPY_BACKEND, ["train", *flags]) == 0
    assert contents(run) == contents(unbroken)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "a bit of the header flipped": lambda b: bytes([*b[:200], b[200] ^ 1, *b[201:]]),
    "a bit of the weights flipped": lambda b: b[:-4] + bytes([b[-4] ^ 1]) + b[-3:],
    "cut in the middle": lambda b: b[: len(b) // 2],
    "cut by a byte": lambda b: b[:-1],
    "emptied": lambda b: b"",
    "deleted": lambda b: None,
    "no such file at all": lambda b: b"PK\3\4" + b,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_one_warning(unbroken, tmp_path, capsys, damage: str) -> None:
    run = copy(unbroken, tmp_path / "run")
    spoil(run / LAST, damage)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert LAST in warnings[0]
    assert warnings[0].endswith("Resuming from step 35.")
    assert contents(run) == contents(unbroken)


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_good_checkpoint_a_run_does_not_resume(unbroken, tmp_path, capsys, damage: str) -> None:
    run = copy(unbroken, tmp_path / "run")
    for file in (run / "checkpoints").glob("step-*"):
        spoil(file, damage)
    before = contents(run)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 2
    err = capsys.readouterr().err
    assert "step-000000035" in err
    assert "step-000000036" in err
    assert f"{run} has no checkpoint left to resume from" in err
    assert contents(run) == before


def spoil(file: Path, damage: str) -> None:
    content = DAMAGE[damage](file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def test_every_byte_counts(unbroken, tmp_path) -> None:
    """One bit at each of a thousand places of a checkpoint: none is read."""
    file = tmp_path / "c.safetensors"
    whole = (unbroken / LAST).read_bytes()
    for place in [*range(0, 3000, 7), *range(3000, len(whole), len(whole) // 600)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(cli.InputError):
            weight_file.load_checkpoint(file)


@pytest.mark.parametrize("listing", [None, b"", b"{}", b"[1, -2]", b"[3"])
def test_a_corrupt_index_is_reported_and_made_again(unbroken, tmp_path, capsys, listing: bytes | None) -> None:
    run = copy(unbroken, tmp_path / "run")
    file = run / "checkpoints" / "steps.json"
    file.unlink()
    if listing is not None:
        file.write_bytes(listing)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert re.search(
        r"WARNING: The checkpoint index .* is (gone|corrupt \(.*\))\. Resuming from step 36\.", capsys.readouterr().err
    )
    assert json.loads(file.read_bytes()) == [35, 36]


def test_a_run_stopped_before_its_first_checkpoint_begins_again(unbroken, tmp_path) -> None:
    run = copy(unbroken, tmp_path / "run")
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    (run / "metrics.jsonl").write_bytes(b"")
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert contents(run) == contents(unbroken)


def test_a_run_whose_checkpoints_are_all_gone_is_refused(unbroken, tmp_path, capsys) -> None:
    run = copy(unbroken, tmp_path / "run")
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 2
    assert f"{run / 'checkpoints'} has none. {run} has no checkpoint left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--beta", "2"], "its --beta is 1.0, not 2.0; leave that out"),
        (["--hidden", "7", "--seed", "3"], r"its --hidden is \(5,\), not \(7,\), its --seed is 0, not 3"),
        (["--out", "elsewhere"], "leave out --out and --preset"),
        (["--preset", "yunjey"], "leave out --out and --preset"),
        (["--max-steps", "20"], "has already taken 36 steps, more than the 20 requested"),
        (["--keep", "0"], "--keep must be at least 1"),
        (["--checkpoint-every", "0"], "--checkpoint-every must be at least 1"),
    ],
)
def test_what_a_run_is_can_not_be_changed_by_resuming(unbroken, tmp_path, capsys, flags: list[str], says: str) -> None:
    run = copy(unbroken, tmp_path / "run")
    before = {**contents(run), "config": (run / "config.json").read_bytes()}
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), *flags]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert {**contents(run), "config": (run / "config.json").read_bytes()} == before


def test_other_images_are_refused(unbroken, tmp_path, capsys) -> None:
    run = copy(unbroken, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["digest"] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 2
    assert "are not those that" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [0, 2])
def test_lost_metrics_are_reported(unbroken, tmp_path, capsys, lines: int) -> None:
    run = copy(unbroken, tmp_path / "run")
    kept = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:lines]
    (run / "metrics.jsonl").write_bytes(b"".join(kept))
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 2
    assert "should hold the records of the first 2 epochs, to step 24" in capsys.readouterr().err


def test_a_line_of_metrics_that_was_cut_short_is_written_again(unbroken, tmp_path) -> None:
    run = copy(unbroken, tmp_path / "run")
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content[:-30])
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert contents(run) == contents(unbroken)


def test_a_run_is_one_processs_at_a_time(unbroken, tmp_path, capsys) -> None:
    run = copy(unbroken, tmp_path / "run")
    before = contents(run)
    with run_folder.locked(run_folder.read(run)):
        assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 2
        err = capsys.readouterr().err
        assert re.search(rf"is being trained by process {os.getpid()} on \S+ since ", err)
    assert contents(run) == before
    (run / ".lock").write_text("process 1 on another since long ago")  # of a process that was killed
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert contents(run) == before
    assert not (run / ".lock").exists()


@pytest.mark.parametrize("at", [1, 2, 5, 9, 13])
def test_a_full_disk_leaves_what_was_there(tmp_path, capsys, monkeypatch, at: int) -> None:
    run, left, fsync = tmp_path / "run", [at], os.fsync

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--out", str(run)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    stays_whole(run)


@pytest.mark.parametrize("limit", [1, 20, 60], ids=lambda limit: f"{limit} kB")
def test_a_limit_on_file_sizes_leaves_what_was_there(tmp_path, limit: int) -> None:
    run = tmp_path / "run"
    ended = numpy_command("--limit", str(limit), "train", *TINY, "--out", str(run))
    assert ended.returncode == 2, ended.stderr
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    stays_whole(run)


def stays_whole(run: Path) -> None:
    """No file that is half written and no debris; where there is a run, it resumes."""
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]
    if not (run / "config.json").exists():
        return
    for step in checkpoints.present(run_folder.read(run)):
        assert weight_file.load_checkpoint(checkpoints.path(run_folder.read(run), step)).step == step
    metrics.read(run_folder.read(run))
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0


def test_numbers_that_are_not_finite_end_the_run(package, tmp_path, capsys) -> None:
    """Within one log interval, with a status of its own, and the last finite checkpoint kept."""
    run = tmp_path / "run"
    flags = [*QUICK, "--log-every", "4", "--checkpoint-every", "1", "--learning-rate", "1e18"]
    assert cli.main(package, ["train", *flags, "--out", str(run)]) == 3
    err = capsys.readouterr().err
    result = re.search(
        r"the (\w+) became (nan|inf) at step (\d+), of steps (\d+) to (\d+);.* Its last checkpoint is (.*)\.", err
    )
    assert result, err
    step, since, until = map(int, result.group(3, 4, 5))
    assert since <= step <= until < since + 4
    kept = weight_file.load_checkpoint(Path(result.group(6)))
    assert kept.step == step - 1
    assert cli.main(package, ["train", "--resume", str(run)]) == 3  # and it is the same step again
    assert f"at step {step}" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_named(package, tmp_path) -> None:
    """By the weight it is of, where every term is finite: Adam's first moment is next to overflowing in one of them."""
    spec = small("pytorch-examples")
    data = some(spec)
    state = package.init_state(spec)
    moments = package.optimizer_to_arrays(spec, state[1])
    moments["exp_avg.encoder.mean.weight"][1, 2] = 3e38
    checkpoint = weight_file.Checkpoint(
        spec, package.to_arrays(spec, state[0]), moments, 0, np.array([0, 1], np.uint32), np.zeros((0, 3), np.float32)
    )
    weight_file.save_checkpoint(tmp_path / "c.safetensors", checkpoint)
    start = package.load_checkpoint(tmp_path / "c.safetensors")[1:]
    with pytest.raises(NonFiniteError, match=r"the gradient of encoder.mean.weight, .* at step 1, of steps 1 to 5;"):
        package.fit(spec, data, start=start)


def test_a_run_killed_at_random_moments_is_the_unbroken_one(package, tmp_path) -> None:
    """A separate process, kill -9; scripts/stress.py kill does it a hundred times for each package, in longer runs."""
    flags = [*FLAGS, "--epochs", "8"]
    expected = unbroken_files(package.__name__, tmp_path, flags)
    run = tmp_path / "run"
    assert killed(package.__name__, run, np.random.default_rng(0), 1, flags=flags, within=0.2) >= 1
    assert contents(run) == expected


def test_a_run_killed_before_its_first_checkpoint_begins_again(unbroken, tmp_path) -> None:
    """Though it has metrics of an epoch already, where checkpoints are rarer than epochs."""
    run = tmp_path / "run"
    rare = [*TINY[:-1], "30"]
    ended = numpy_command("--die", "before:9", "train", *rare, "--out", str(run))  # in the second epoch
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert metrics.read(run_folder.read(run))
    assert not checkpoints.present(run_folder.read(run))
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_bytes() == (unbroken / "metrics.jsonl").read_bytes()
    assert (run / LAST).read_bytes() == (unbroken / LAST).read_bytes()


def test_a_checkpoint_that_can_not_be_read_for_the_moment_stays(unbroken, tmp_path, monkeypatch) -> None:
    """Until another is written over or after it."""
    run, load = copy(unbroken, tmp_path / "run"), weight_file.load_checkpoint
    seen = []

    def troubled(path: Path) -> Any:
        if path.name.endswith("36.safetensors"):
            raise cli.InputError("Input/output error.")
        return load(path)

    def fit(*arguments: Any) -> None:
        seen.extend(checkpoints.present(run_folder.read(run)))
        raise KeyboardInterrupt

    monkeypatch.setattr(weight_file, "load_checkpoint", troubled)
    monkeypatch.setattr(NUMPY_BACKEND, "fit", fit)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 130
    assert seen == [35, 36]
    monkeypatch.undo()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert contents(run) == contents(unbroken)


def test_a_new_run_is_nobody_elses_before_it_is_its_own(tmp_path, monkeypatch) -> None:
    """There is no moment in which another process could resume it, or its maker remove it from under that one."""
    run = tmp_path / "run"
    write_config = run_folder.write_config

    def watched(made: run_folder.Run) -> None:
        with pytest.raises(cli.InputError, match="is being trained by process"), run_folder.locked(made):
            pass
        write_config(made)

    monkeypatch.setattr(run_folder, "write_config", watched)
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--out", str(run)]) == 0


def test_a_signal_that_comes_too_late_is_reported(unbroken, tmp_path, capsys, monkeypatch) -> None:
    """In the last epoch's evaluation or pictures: the run is whole, and the status the signal's."""
    run, fit = tmp_path / "run", NUMPY_BACKEND.fit

    def then_signalled(*arguments: Any) -> None:
        fit(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(NUMPY_BACKEND, "fit", then_signalled)
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--out", str(run)]) == 143
    assert "finished all 36 steps before SIGTERM took effect" in capsys.readouterr().err
    assert contents(run) == contents(unbroken)


def test_a_signal_that_is_ignored_stays_so(tmp_path, monkeypatch) -> None:
    """As a shell has it for what runs in its background."""
    before, fit, seen = signal.signal(signal.SIGINT, signal.SIG_IGN), NUMPY_BACKEND.fit, []

    def watched(*arguments: Any) -> None:
        seen.append(signal.getsignal(signal.SIGINT))
        fit(*arguments)

    monkeypatch.setattr(NUMPY_BACKEND, "fit", watched)
    try:
        assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--out", str(tmp_path / "run")]) == 0
        assert seen == [signal.SIG_IGN] == [signal.getsignal(signal.SIGINT)]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("ends", "longer"),
    [
        ("--epochs 1", "--epochs, more than 1"),
        ("--max-steps 5", "--max-steps, more than 5"),
        ("--epochs 1 --max-steps 12", "--epochs, more than 1, and --max-steps, more than 12"),
    ],
)
def test_a_finished_run_says_what_trains_it_longer(tmp_path, capsys, ends: str, longer: str) -> None:
    run = tmp_path / "run"
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, *ends.split(), "--out", str(run)]) == 0
    assert "It is finished" not in capsys.readouterr().out
    before = contents(run)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert f"It is finished, so that its last epoch is only evaluated again; to train it longer give {longer}.\n" in (
        capsys.readouterr().out
    )
    assert contents(run) == before


@pytest.mark.parametrize(("first", "then"), [("--max-steps 5", "--epochs 9"), ("--epochs 1", "--max-steps 30")])
def test_resuming_for_no_longer_is_refused(tmp_path, capsys, first: str, then: str) -> None:
    run = tmp_path / "run"
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, *first.split(), "--out", str(run)]) == 0
    before = {**contents(run), "config": (run / "config.json").read_bytes()}
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), *then.split()]) == 2
    assert re.search(r"would still end after \d+ steps: .* give both", capsys.readouterr().err)
    assert {**contents(run), "config": (run / "config.json").read_bytes()} == before


def test_what_others_left_in_the_folder_is_no_hindrance(unbroken, tmp_path) -> None:
    """A copy without its empty folder, a folder of somebody's that has such a name."""
    run = copy(unbroken, tmp_path / "run")
    (run / ".hub.abcd.part").mkdir()
    for picture in (run / "images").iterdir():
        picture.unlink()
    (run / "images").rmdir()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 0
    assert sorted(path.name for path in (run / "images").iterdir()) == ["reconstructions-003.png", "samples-003.png"]


def test_a_lost_epochs_metrics_are_reported(unbroken, tmp_path, capsys) -> None:
    run = copy(unbroken, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:1], *lines[2:]]))
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run)]) == 2
    assert "should hold the records of the first 2 epochs" in capsys.readouterr().err


def test_a_statistic_that_is_not_finite_is_named_as_one() -> None:
    spec = small("conv")
    arrays = {"encoder.hidden.0.norm.running_var": np.array([1.0, np.inf])}
    assert metrics.first_bad(spec, np.zeros(3), arrays) == (
        "the statistic encoder.hidden.0.norm.running_var became inf"
    )


def test_images_are_looked_for_where_they_were_found(package, mnist_root, tmp_path, monkeypatch) -> None:
    flags = ["--hidden", "4", "--latent", "2", "--train-images", "256", "--max-steps", "1", "--data", "mnist"]
    monkeypatch.delenv("JAXVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = tmp_path / "run"
    assert cli.main(package, ["train", *flags, "--data-root", str(mnist_root), "--out", str(run)]) == 0
    assert cli.main(package, ["train", "--resume", str(run), "--max-steps", "2"]) == 0
    assert checkpoints.present(run_folder.read(run)) == [1, 2]
