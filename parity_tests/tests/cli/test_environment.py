"""What surrounds a command: JAX's environment variables, closed streams, narrow terminals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jaxvae.shared import cli
from jaxvae.shared.runs import checkpoints, run_folder
from parity_tests.support.cli import PACKAGES
from parity_tests.support.cli import run as run_command
from parity_tests.support.warm import Process, python

pytestmark = pytest.mark.either

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = "--data digits --image 4 4 1 --hidden 3 --latent 2 --max-steps 1"
    assert cli.main(PACKAGES["torchvae"], ["train", *flags.split(), "--out", str(folder)]) == 0
    return folder


def sample(run: Path, out: Path, *flags: str, **environment: str) -> str:
    """The sentence with which jaxvae refuses to sample; empty if it samples."""
    result = python("-m", "jaxvae", "sample", run, "--out", out, *flags, env={**os.environ, **environment})
    if result.returncode == 0:
        assert out.exists()
        return result.stderr
    assert (result.returncode, result.stdout, result.stderr.count("\n"), out.exists()) == (2, "", 1, False)
    assert result.stderr.startswith("jaxvae: ")
    return result.stderr


@pytest.mark.parametrize("device", [pytest.param("auto", marks=pytest.mark.slow), "gpu"])
@pytest.mark.parametrize(
    "platforms", ["nope", pytest.param("cuda", marks=no_gpu), pytest.param("gpu,cpu", marks=no_gpu)]
)
def test_jax_platforms_without_its_device_is_named(run, tmp_path, platforms: str, device: str) -> None:
    message = sample(run, tmp_path / "a.png", "--device", device, JAX_PLATFORMS=platforms)
    assert f"; it looks only for what JAX_PLATFORMS lists, which is '{platforms}': unset it." in message
    assert "--device auto" not in message


@no_gpu
def test_jax_platform_name_without_its_device_is_named(run, tmp_path) -> None:
    message = sample(run, tmp_path / "a.png", JAX_PLATFORM_NAME="gpu")
    assert "; it looks only for what JAX_PLATFORM_NAME lists, which is 'gpu': unset it." in message


@pytest.mark.parametrize("name", PACKAGES)
def test_a_full_standard_output_is_said_once(run, name: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", name, "describe", str(run)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"{name}: A file or standard output can't be used (No space left on device); free")


def test_a_device_that_is_there_needs_no_other_of_jax_platforms(run, tmp_path) -> None:
    assert sample(run, tmp_path / "a.png", "--device", "cpu", JAX_PLATFORMS="nope") == ""


@pytest.mark.parametrize("variable", ["JAX_TRANSFER_GUARD", "JAX_TRANSFER_GUARD_HOST_TO_DEVICE"])
def test_a_transfer_guard_that_forbids_is_named(run, tmp_path, variable: str) -> None:
    message = sample(run, tmp_path / "a.png", **{variable: "disallow"})
    assert message.startswith(f"jaxvae: {variable} is disallow, but a run copies")


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("jaxvae", "JAX_ENABLE_X64"),
        pytest.param("jaxvae", "JAX_TRANSFER_GUARD", marks=pytest.mark.slow),
        pytest.param("torchvae", "TORCH_LOGS", marks=pytest.mark.slow),
        ("torchvae", "TORCH_LOGS_FORMAT"),  # whose message has the value alone
    ],
)
def test_a_variable_that_a_framework_refuses_is_named(run, tmp_path, name: str, variable: str) -> None:
    """In a process that has not imported it."""
    command = [sys.executable, "-m", name, "sample", str(run), "--out", str(tmp_path / "a.png")]
    result = subprocess.run(command, env={**os.environ, variable: "so"}, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert re.fullmatch(
        rf"{name}: The environment variable {variable} is 'so', which can't be used \([Ii]nvalid .*\); give it another "
        r"value, or unset it\.\n",
        result.stderr,
    )


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_change_nothing(run, tmp_path, name: str, closed: tuple[int, ...]) -> None:
    """Python has None for a stream that was closed as it began."""
    program = f"""
import os, runpy, sys
for number in {closed}:
    os.close(number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], None)
sys.argv = ["{name}", "sample", {str(run)!r}, "--out", "a.png"]
try:
    runpy.run_module("{name}", run_name="__main__")
finally:
    assert {{os.readlink(f"/proc/self/fd/{{n}}") for n in {closed}}} == {{os.devnull}}
"""
    result = python("-c", program, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == ("" if 1 in closed else "64 samples in a.png\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "command", "written"),
    [
        ("jaxvae", "sample RUN --out a.png", "a.png"),
        ("torchvae", "train --data digits --image 4 4 1 --max-steps 2 --out run", "run/model.safetensors"),
    ],
)
def test_a_reader_that_stops_does_not_stop_the_work(run, tmp_path, name: str, command: str, written: str) -> None:
    assert python("-c", unread(name, command.replace("RUN", str(run))), cwd=tmp_path).returncode == 0
    assert (tmp_path / written).exists()


def unread(name: str, command: str) -> str:
    """A program that runs a command while nobody reads its output."""
    return f"""
import os, runpy, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
os.dup2(writer, 2)
sys.argv = ["{name}", *{command.split()}]
runpy.run_module("{name}", run_name="__main__")
"""


@pytest.mark.parametrize(("name", "number"), [("jaxvae", signal.SIGINT), ("torchvae", signal.SIGTERM)])
def test_a_signal_stops_a_run_that_nobody_reads(name: str, number: int, tmp_path) -> None:
    command = "train --data digits --image 4 4 1 --hidden 5 --checkpoint-every 5 --epochs 100000 --out run"
    process = Process("-c", unread(name, command), cwd=tmp_path)
    while not list(tmp_path.glob("run/checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode == 128 + number
    assert checkpoints.latest(run_folder.read(tmp_path / "run"))[1] == []


@pytest.mark.parametrize("columns", range(1, 7))
def test_help_ends_in_the_narrowest_terminal(package, capsys, monkeypatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ([], ["evaluate"], ["train"]):
        status, out, err = run_command(package, capsys, *command, "--help")
        assert (status, err) == (0, "")
        assert max(map(len, out.splitlines())) < 250  # the usage with the names of all commands is not folded
    assert run_command(package, capsys, "evaluate", "--bogus")[0] == 2
    assert os.environ["COLUMNS"] == str(columns)
