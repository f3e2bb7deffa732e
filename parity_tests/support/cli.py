"""Run commands in this process or another, and check how they fail."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import checkpoints, run_folder
from parity_tests.support.numpy_backend import copy


def at_step(run: Path, to: Path, step: int) -> Path:
    """Copy a run as it was after the checkpoint of a step, when it was killed before the next."""
    copy(run, to)
    for other in checkpoints.present(run_folder.read(to)):
        if other > step:
            (to / "checkpoints" / f"step-{other:09}.safetensors").unlink()
    (to / "checkpoints" / "steps.json").write_text(json.dumps(checkpoints.present(run_folder.read(to))))
    return to


PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}


def run(package, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run a command; return its exit status, standard output and standard error."""
    capsys.readouterr()
    try:
        status = cli.main(package, [str(argument) for argument in arguments])
    except SystemExit as stop:  # the parser exits so
        status = stop.code
    out, err = capsys.readouterr()
    return int(status or 0), out, err


def fails(package, capsys, says: str, *arguments: object) -> None:
    """Check that a command fails with status 2, one sentence on standard error and no standard output."""
    status, out, err = run(package, capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith(f"{package.__name__}: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert re.search(says, err), err


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a new process has imported after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


Load = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Fail a test that takes half a minute, as one that waits for a FIFO would."""

    def late(*arguments: Any) -> None:
        raise TimeoutError("waited for")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(load: Load, path: Path, says: str) -> None:
    """Check that `load` rejects the file with one sentence of readable length that names it."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert message.isprintable()
    assert message.endswith(".")
    assert len(message) - len(str(path)) < 700
