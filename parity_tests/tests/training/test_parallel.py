"""A run that devices or processes share is the run of one, in float64, to 1e-12 of each tensor's largest: the sums of a
batch are added in another order, a rounding is 1e-16, and seven steps carry it on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import jaxvae
import torchvae
from jaxvae import parallel
from jaxvae.shared import cli
from jaxvae.shared.backend import Part
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, run_folder
from jaxvae.shared.training.session import Session, save_part
from parity_tests.harness.compare import Gap, gap
from parity_tests.support.backends import lean
from parity_tests.support.distributed_runs import difference, ended, started, trained
from parity_tests.support.numpy_backend import NUMPY_BACKEND, NumpyBackend
from parity_tests.support.tiny import some
from parity_tests.support.warm import python

NEAR = (1e-12,)
TINY = ["train", "--data", "digits", "--hidden", "5", "--latent", "2", "--dtype", "float64", "--device", "cpu"]

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def on_devices(out: Path, name: str, counts: str) -> Path:
    """JAX's run of that name on each of these numbers of devices, in one process of eight."""
    result = python("-m", "parity_tests.support.distributed_runs", "jaxvae", out, counts, name)
    assert result.returncode == 0, result.stderr
    for count in counts.split(",")[:-1]:
        assert difference(out / f"{name}-{count}.npz", out / f"{name}-1.npz") < NEAR, (name, count)
        assert np.load(out / f"{name}-{count}.npz")["compiled"] == 1
    return out / f"{name}-1.npz"


def under_torchrun(out: Path, count: str, name: str) -> Gap:
    """The difference of torch's run of that name in two processes from that of one."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launch, "-m", "parity_tests.support.distributed_runs", "torchvae", str(out), count, name]
    subprocess.run(command, check=True, capture_output=True)
    result = dict(np.load(out / f"{name}-{count}.npz"))
    del result["compiled"]
    return gap(result, trained(torchvae, name, None))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What comes out of JAX on one device, which 8 and 2 devices have been held to: labels, dropout, dynamic
    binarisation, a learned variance."""
    return on_devices(tmp_path_factory.mktemp("devices"), "everything", "8,2,1")


def test_devices_train_the_run_of_one_and_compile_it_once(alone) -> None:
    assert np.load(alone)["compiled"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everything", "beta-b", "adversarial", "iwae", "denoising", "flax-example"])
def test_every_number_of_devices_and_kind_of_model(tmp_path, name: str) -> None:
    """Convolutions, batch norm and a capacity, three phases, several samples, each kind of binarisation."""
    on_devices(tmp_path, name, "8,4,2,1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide-everything", "wide-beta-b", "wide-adversarial"])
def test_sharded_parameters_train_the_run_of_one_device(tmp_path, name: str) -> None:
    """Of eight devices and of two, of two processes of two devices, and of two processes of torch."""
    alone = on_devices(tmp_path, name, "8s,2s,1")
    (tmp_path / f"{name}-2s.npz").unlink()  # which the processes write too
    two = started("parity_tests.support.distributed_runs", ["jaxvae", str(tmp_path), "2s", name], 2, False)
    assert [status for status, *_ in ended(two)] == [0, 0]
    assert difference(tmp_path / f"{name}-2s.npz", alone) < NEAR
    assert under_torchrun(tmp_path, "1s", name) < NEAR


@pytest.mark.slow
def test_torchrun_shards_float32_too(tmp_path) -> None:
    """Which FSDP2 would add up otherwise than float64: by what gloo doesn't have."""
    flags = [*TINY, "--dtype", "float32", "--hidden", "16", "--latent", "8", "--max-steps", "5"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "torchvae"]
    for command in (
        [*torchrun, *flags, "--shard", "parameters", "--out", str(tmp_path / "two")],
        ["-m", "torchvae", *flags, "--out", str(tmp_path / "one")],
    ):
        result = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    two, one = (
        weight_file.load_checkpoint(checkpoints.path(run_folder.read(tmp_path / name), 5)) for name in ("two", "one")
    )
    assert gap(two.weights, one.weights).size < 1e-5  # float32's rounding, which five steps of Adam enlarge


@pytest.mark.slow
def test_a_device_holds_its_share_of_the_state() -> None:
    """By what the compiler measures: an eighth of the parameters and of Adam's state, and what is no part of it."""
    result = python("-m", "parity_tests.support.sharded_memory", "8")
    whole, sharded, rest = map(int, result.stdout.split())
    assert whole / 8 <= sharded - rest <= whole / 8 * 1.01, result


@pytest.mark.slow
def test_a_sharded_run_resumes_on_any_number_of_devices_and_in_the_other_package(tmp_path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    flags = [*TINY, "--hidden", "16", "--latent", "8", "--ema", "0.9", "--checkpoint-every", "3", "--epochs", "9"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "torchvae"]
    resume, shard = ["train", "--resume", str(run)], ["--shard", "parameters"]
    for command in (
        ["-m", "jaxvae", *flags, "--max-steps", "5", "--devices", "8", *shard, "--out", str(run)],
        ["-m", "jaxvae", *resume, "--max-steps", "10"],
        [*torchrun, *resume, "--max-steps", "14", *shard],
        ["-m", "torchvae", *resume, "--max-steps", "18"],
        ["-m", "jaxvae", *resume, "--max-steps", "20", "--devices", "4", *shard],
        ["-m", "torchvae", *flags, "--max-steps", "20", "--out", str(whole)],
    ):
        result = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    actual, expected = (
        weight_file.load_checkpoint(checkpoints.path(run_folder.read(path), 20)) for path in (run, whole)
    )
    assert actual.average is not None
    assert expected.average is not None
    assert gap(actual.average, expected.average) < NEAR
    assert gap(actual.weights, expected.weights) < NEAR
    assert gap(actual.optimizer, expected.optimizer) < NEAR


def test_rows_are_of_the_first_dimension_that_the_devices_divide() -> None:
    sharded, shared = (AbstractMesh((8,), (axis,)) for axis in (parallel.ROWS, parallel.WHOLE))
    shapes = {(16, 3): (parallel.ROWS,), (3, 3, 3, 8): (None, None, None, parallel.ROWS), (9,): (), (): (), (0,): ()}
    assert {shape: tuple(parallel.rows_of(sharded, shape)) for shape in shapes} == shapes
    assert not any(parallel.rows_of(shared, shape) for shape in shapes)


def test_all_processes_take_part_when_a_checkpoint_is_due(tmp_path) -> None:
    """Also those that write none: the rows of all are gathered."""
    side, gathered, saved = NumpyBackend(), [], []
    vars(side).update(
        gathered=lambda spec, state: gathered.append(state) or "whole",
        save_checkpoint=lambda path, spec, state, train: saved.append(state),
        first=lambda: False,
    )
    spec = Spec()
    session = Session(run_folder.Run(tmp_path, spec, {"checkpoint_every": 2, "keep": 2}), some(spec), None, None)
    for step in (1, 2, 3):
        save_part(side, session, Part("rows", 1, step, np.zeros((step, 3))), now=step == 3)
    assert (gathered, saved) == (["rows"] * 2, [])


def test_two_processes_of_jax_train_the_run_of_one(alone, tmp_path) -> None:
    """Of two devices each, and 65 images, which 4 doesn't divide."""
    statuses = [
        e[0]
        for e in ended(
            started("parity_tests.support.distributed_runs", ["jaxvae", str(tmp_path), "2", "everything"], 2, False)
        )
    ]
    assert statuses == [0, 0]
    assert difference(tmp_path / "everything-2.npz", alone) < NEAR


@pytest.mark.slow  # test_a_process_that_dies has two processes too
@pytest.mark.parametrize("name", ["everything", "beta-b", "adversarial", "iwae"])
def test_processes_of_torch_train_the_run_of_one(name: str, tmp_path) -> None:
    """Started by torchrun; of each epoch's last batch one of them gets nothing."""
    assert under_torchrun(tmp_path, "1", name) < NEAR


def test_a_process_that_dies_ends_the_others_and_the_run_resumes(tmp_path) -> None:
    """In two processes again, to the end of a run of one that was never stopped."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    flags = [*TINY, "--checkpoint-every", "5", "--epochs", "100000"]
    two = started("torchvae", [*flags, "--out", str(run)])
    while not list(run.glob("checkpoints/step-*")):
        assert two[0].poll() is None, two[0].communicate()
        time.sleep(0.02)
    two[1].kill()
    (status, _, said), (killed, silent, _) = ended(two)
    assert (status, killed, silent) == (2, -signal.SIGKILL, "")
    assert said == (
        "torchvae: Process 1 has ended without a message, as if killed; start all processes again with --resume.\n"
    )
    stop = str(checkpoints.present(run_folder.read(run))[-1] + 7)
    (status, out, _), other = ended(started("torchvae", ["train", "--resume", str(run), "--max-steps", stop]))
    assert (status, *other) == (0, 0, "", "")
    assert "test loss" in out
    assert run_folder.read(run).config["sessions"][1]["device"] == "cpu (cpu), 2 of them in 2 processes"
    assert cli.main(torchvae, [*flags, "--max-steps", stop, "--out", str(whole)]) == 0
    actual, expected = (
        weight_file.load_checkpoint(checkpoints.path(run_folder.read(path), int(stop))) for path in (run, whole)
    )
    assert gap(actual.weights, expected.weights) < (1e-10,)  # a run of some hundred steps, if the machine is quick
    assert gap(actual.optimizer, expected.optimizer) < (1e-10,)


@pytest.mark.parametrize(
    ("side", "flags", "says"),
    [
        (jaxvae, "--devices 999", "--devices must be from 1 to 1, as many as JAX finds in each process, found 999."),
        (jaxvae, "--devices 0", "--devices must be from 1 to 1, as many as JAX finds in each process, found 0."),
        (
            torchvae,
            "--devices 2",
            "--devices must be 1, as each of torchvae's processes has one, found 2; start as many",
        ),
        (
            jaxvae,
            "--shard parameters",
            "--shard parameters needs several devices to divide them among, found 1; give --devices N, ",
        ),
        (
            torchvae,
            "--shard parameters",
            "--shard parameters needs several devices to divide them among, found 1; start several processes: torchrun",
        ),
        (
            NUMPY_BACKEND,
            "--processes 2",
            "--processes and --process require --coordinator HOST:PORT; give it too, or leave them",
        ),
        (
            NUMPY_BACKEND,
            "--coordinator here:1 --processes 2 --process 2",
            "--process must be from 0 to 1 for --processes 2, found 2.",
        ),
        (
            NUMPY_BACKEND,
            "--coordinator here:1 --processes 0 --process 0",
            "--processes must be at least 1, found 0.",
        ),
        *(
            (
                NUMPY_BACKEND,
                f"--coordinator here:{port} --processes 2 --process 1",
                f"--coordinator must have a port from 1 to 65535, found {port}; choose a free one.",
            )
            for port in (0, 65536)
        ),
        (NUMPY_BACKEND, "--coordinator here", "--coordinator must be HOST:PORT, found here."),
        (jaxvae, "--distributed", "The processes can't be joined ("),
        (torchvae, "--distributed", "The processes can't be joined ("),
    ],
)
def test_what_can_not_be_shared_is_refused(side, flags: str, says: str, tmp_path, capsys) -> None:
    assert jax.device_count() == 1  # started, so that its CPU can't be more any longer
    assert cli.main(side, [*TINY, *flags.split(), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"{side.__name__}: {says}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"shares": lambda: 3},
            "A batch of 128 images can't be shared equally by 3 devices; choose a --batch-size that is",
        ),
        (
            {"processes": lambda: 2, "agreed": lambda n: abs(n)},
            "The processes were started with different settings; give each the same",
        ),
    ],
)
def test_shares_and_processes_have_to_fit(change: dict, says: str, tmp_path, capsys) -> None:
    side = NumpyBackend()
    vars(side).update(change)
    assert cli.main(side, [*TINY, "--out", str(tmp_path / "run")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
