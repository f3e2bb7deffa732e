"""Processes that should train one run together, and can't: each of them ends with one sentence."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

import torchvae
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, run_folder
from jaxvae.shared.training import meeting, watch
from jaxvae.shared.training.meeting import ENVIRONMENT, Peer, free_port, meet
from jaxvae.shared.training.processes import joined
from jaxvae.shared.training.watch import Watch
from parity_tests.support.distributed_runs import ended, started
from parity_tests.support.warm import Process
from torchvae import parallel

PACKAGES = ["jaxvae", "torchvae"]
STARTS = ["jaxvae", "torchvae", "environment"]
"""The packages by flags, and torchvae by the variables that torchrun sets."""
TINY = ["train", "--data", "digits", "--hidden", "5", "--latent", "2", "--dtype", "float64", "--device", "cpu"]


def command(start: str) -> str:
    """The package of this start."""
    return "torchvae" if start == "environment" else start


def begun(start: str, out: Path, *values: tuple[int, int, str], at: str = "", **variables: str) -> list[Process]:
    """Start processes at one port, each with a number of processes, its own number and flags."""
    host, _, port = (at or f"localhost:{free_port()}").rpartition(":")
    all_of_them = []
    for processes, process, flags in values:
        named = {"WORLD_SIZE": f"{processes}", "RANK": f"{process}", "MASTER_ADDR": host, "MASTER_PORT": port}
        at_start = f"--coordinator {host}:{port} --processes {processes} --process {process}".split()
        all_of_them.append(
            Process(
                *("-m", command(start), *TINY, "--out", out, *flags.split()),
                *([] if start == "environment" else at_start),
                env={**os.environ, **(named if start == "environment" else {}), **variables},
            )
        )
    return all_of_them


@pytest.fixture
def quick(monkeypatch) -> None:
    for module, name, value in (
        (meeting, "BEAT", 0.01),
        (meeting, "SILENCE", 0.1),
        (meeting, "JOINING", 0.1),
        (watch, "_POLL", 0.01),
        (watch, "_FAREWELL", 0.1),
    ):
        monkeypatch.setattr(module, name, value)


def met(*hellos: tuple[str, int, int], at: str = "") -> list[str]:
    """What each of some processes gets, (package, processes, process), that meet: the error, or ''."""
    at = at or f"localhost:{free_port()}"
    says = [""] * len(hellos)

    def come(i: int) -> None:
        package, processes, process = hellos[i]
        try:
            for peer in meet(package, at, processes, process):
                peer.connection.close()
        except InputError as error:
            says[i] = str(error)

    threads = [threading.Thread(target=come, args=(i,)) for i in range(len(hellos))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return says


def test_processes_meet(quick, monkeypatch) -> None:
    """A browser and a process that ends before they are complete do not keep them from it."""
    monkeypatch.setattr(meeting, "JOINING", 30)
    port = free_port()
    says: list[str] = []
    first = threading.Thread(target=lambda: says.extend(met(("torchvae", 3, 0), at=f"localhost:{port}")))
    first.start()
    browser = meeting._connect("localhost", port, "")
    browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
    lost = Peer(meeting._connect("localhost", port, ""))
    lost.send(package="torchvae", processes=3, process=1)
    lost.connection.close()
    assert met(("torchvae", 3, 2), ("torchvae", 3, 1), at=f"localhost:{port}") == ["", ""]
    first.join()
    browser.close()
    assert says == [""]


@pytest.mark.parametrize(
    ("hellos", "says"),
    [
        (
            [("jaxvae", 2, 0), ("jaxvae", 3, 1)],
            "Process 1 was started with --processes 3 and process 0 with --processes 2; start all of them with the",
        ),
        (
            [("jaxvae", 2, 0), ("torchvae", 2, 1)],
            "Process 1 was started in torchvae and process 0 in jaxvae; use one of them.",
        ),
        ([("jaxvae", 3, 0), ("jaxvae", 3, 2), ("jaxvae", 3, 2)], "Two processes were started with --process 2; give"),
        ([("jaxvae", 4, 0), ("jaxvae", 4, 2)], "Of 4 processes, these did not come to --coordinator localhost:"),
    ],
)
def test_processes_that_do_not_fit_learn_why(quick, hellos, says: str) -> None:
    first, *others = met(*hellos)
    assert first.startswith(says)
    assert set(others) == {first}


def test_process_0_has_to_be_there(quick) -> None:
    assert met(("jaxvae", 2, 1))[0].startswith("Process 0 can't be reached at --coordinator localhost:")


@contextlib.contextmanager
def taken(answer: bytes | None) -> Iterator[int]:
    """A port at which another program listens: it answers with this and ends, or says nothing."""
    with socket.create_server(("localhost", 0)) as server:
        if answer is not None:

            def serve() -> None:
                connection = server.accept()[0]
                connection.recv(1)
                connection.sendall(answer)
                connection.close()

            threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_another_program_at_the_port(quick, answer: bytes | None) -> None:
    with taken(answer) as port:
        says = met(("jaxvae", 2, 1), at=f"localhost:{port}")
    assert says[0].startswith(
        f"What listens at --coordinator localhost:{port} does not answer as process 0 of this run"
    )


@pytest.mark.parametrize("start", STARTS)
def test_a_port_that_is_taken_is_named(start: str, tmp_path) -> None:
    package, name, number = command(start), "--coordinator", "--process"
    if start == "environment":
        name, number = ENVIRONMENT.address, ENVIRONMENT.process
    with taken(b"") as port:
        two = begun(start, tmp_path / "run", (2, 0, ""), (2, 1, ""), at=f"localhost:{port}")
        (status, _, first), (other, _, second) = ended(two)
    assert (status, other) == (2, 2)
    assert first == (
        f"{package}: Process 0 can't listen on port {port} of {name} localhost:{port}: another program uses it, or "
        f"there is another process 0; start all processes again with a free port, or without a {number} that is there "
        "twice.\n"
    )
    assert second.startswith(f"{package}: What listens at {name} localhost:{port} does not answer as process 0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([(2, 0, ""), (3, 1, "")], "Process 1 was started with {processes} 3"),
        pytest.param(
            [(3, 0, ""), (3, 1, ""), (3, 1, "")],
            "Two processes were started with {process} 1",
            marks=pytest.mark.slow,
        ),
        ([(2, 2, "")], "{process} must be from 0 to 1 for {processes} 2, found 2."),
    ],
)
def test_processes_have_the_same_number_and_each_its_own(start: str, values, says: str, tmp_path) -> None:
    names = ENVIRONMENT if start == "environment" else meeting.FLAGS
    for status, out, error in ended(begun(start, tmp_path / "run", *values)):
        assert (status, out) == (2, "")
        assert error.startswith(f"{command(start)}: {says.format(**names._asdict())}")
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def watched(act: Callable[[Watch, Peer], None]) -> list[str]:
    """What the watch of process 0 ends with after this happens to it or to process 1, which is a bare connection."""
    says: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guard = Watch([Peer(ours, 1)], says.append)
        act(guard, Peer(theirs, 0))
        guard._thread.join()
    return says


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda watch, one: None, ["Process 1 was silent for 0.1 seconds; "]),
        (lambda watch, one: one.connection.close(), ["Process 1 has ended without a message, as if killed; "]),
        (lambda watch, one: one.send(ended="No data."), ["Process 1 has ended: No data."]),
        (lambda watch, one: one.send(all="Process 2 was silent."), ["Process 2 was silent."]),
        (lambda watch, one: one.send(left=True), []),
        (lambda watch, one: watch.leave(), []),
    ],
)
def test_a_watch_says_who_ended(quick, act, says: list[str]) -> None:
    actual = watched(act)
    assert len(actual) == len(says)
    assert all(a.startswith(b) for a, b in zip(actual, says, strict=True))


def under_torchrun() -> tuple[TCPStore, dict[str, str]]:
    """torchrun's store, which listens at MASTER_PORT, and what the processes need to know to use it."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return store, {"at": f"localhost:{store.port}", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
@pytest.mark.parametrize("start", [*STARTS, "torchrun"])
def test_a_process_that_stops_ends_the_others_and_the_run_resumes(start: str, stopped: int, tmp_path) -> None:
    """To the bit, as if nothing had stopped."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    long = "--checkpoint-every 5 --epochs 100000"
    store, variables = under_torchrun() if start == "torchrun" else (None, {})
    start = "environment" if start == "torchrun" else start
    package = command(start)
    two = begun(start, run, (2, 0, long), (2, 1, long), **variables)
    when_begun(run, two[0])
    os.kill(two[stopped].pid, signal.SIGSTOP)
    status, _, said = ended([two[1 - stopped]])[0]
    two[stopped].kill()
    ended([two[stopped]])
    del store
    says = f"{package}: Process {stopped} was silent for 30 seconds; end it, and start all processes again with"
    assert (status, said.splitlines()[-1]) == (2, f"{says} --resume.")
    stop = str(checkpoints.present(run_folder.read(run))[-1] + 7)
    for arguments in (["train", "--resume", str(run)], [*TINY, *long.split(), "--out", str(whole)]):
        assert [e[0] for e in ended(started(package, [*arguments, "--max-steps", stop]))] == [0, 0]
    actual, expected = (
        weight_file.load_checkpoint(checkpoints.path(run_folder.read(path), int(stop))) for path in (run, whole)
    )
    for ours, theirs in ((actual.weights, expected.weights), (actual.optimizer, expected.optimizer)):
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in ours)


def when_begun(run: Path, first: Process) -> None:
    """Wait for the first checkpoint."""
    while not list(run.glob("checkpoints/step-*")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("start", STARTS)
def test_a_process_that_is_killed_is_named(start: str, killed: int, tmp_path) -> None:
    long = "--checkpoint-every 5 --epochs 100000"
    two = begun(start, tmp_path / "run", (2, 0, long), (2, 1, long))
    when_begun(tmp_path / "run", two[0])
    two[killed].kill()
    status, _, said = ended(two)[1 - killed]
    says = f"{command(start)}: Process {killed} has ended without a message, as if killed; start all processes again"
    assert status
    assert says in said


@pytest.mark.slow
def test_torchrun_ends_when_one_of_its_processes_stops(tmp_path) -> None:
    run = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "torchvae"]
    launcher = Process(*launch, *TINY, "--checkpoint-every", "5", "--epochs", "100000", "--out", run, env=os.environ)
    when_begun(run, launcher)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (second,) = (int(pid) for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(second, signal.SIGSTOP)
    said = launcher.communicate()[1]  # it kills the process that has stopped
    assert launcher.poll()
    assert "torchvae: Process 1 was silent for 30 seconds; end it, and start all processes again with --resume." in said


@pytest.mark.parametrize("start", [*STARTS, "torchrun"])
def test_processes_with_different_seeds_are_told_before_the_first_step(start: str, tmp_path) -> None:
    store, variables = under_torchrun() if start == "torchrun" else (None, {})
    start = "environment" if start == "torchrun" else start
    for status, _, error in ended(begun(start, tmp_path / "run", (2, 0, "--seed 1"), (2, 1, "--seed 2"), **variables)):
        assert status == 2
        assert "The processes were started with different settings; give each the same flags" in error
    assert not list(tmp_path.iterdir())
    del store


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "one"}, "The environment has MASTER_ADDR, but RANK=one where a number is expected; "),
        (
            {"TORCHELASTIC_USE_AGENT_STORE": "True"},
            "torchrun does not say at localhost:1 where process 0 is (",
        ),
    ],
)
def test_variables_that_torchrun_did_not_set(variables, says: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parallel, "_MEETING", timedelta(seconds=0.1))
    at = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"}
    for name, value in {**at, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=re.escape(says)), joined(torchvae, False, None, None, None):  # type: ignore[arg-type]
        pass
