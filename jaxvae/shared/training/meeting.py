"""The processes of one run meet at one address before the framework joins them: all of them, each once.

JAX and PyTorch wait for a process that never comes, crash if the port is taken, or train with a number of processes
that not all of them were given. So process 0 listens at that port first, the others come to it, and each of them learns
why they can't train together. The connections stay, for `watch`."""

import contextlib
import errno
import json
import socket
import time
from collections.abc import Iterable
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from jaxvae.shared.errors import InputError

JOINING = 300
"""Seconds within which all processes have to come."""
SILENCE = 30
"""Seconds without a word after which a process is taken for stopped."""
BEAT = 1.0
"""Seconds between two words of a process."""


class Settings(NamedTuple):
    """What a user sets for processes that meet, as the messages name it."""

    address: str
    processes: str
    process: str


FLAGS = Settings("--coordinator", "--processes", "--process")
ENVIRONMENT = Settings("MASTER_ADDR", "WORLD_SIZE", "RANK")
"""torchrun sets these variables for the processes that it starts."""

_LONGEST = 10_000  # bytes of a message; what is longer comes from another program


class Peer:
    """A connection to another process of the run, over which both send messages and, in between, empty ones."""

    def __init__(self, connection: socket.socket, process: int | None = None) -> None:
        """Use a connection.

        Args:
            connection: A connected socket.
            process: The number of the process at its other end, if it is known.
        """
        connection.settimeout(BEAT)
        self.connection, self.process = connection, process
        self.heard = time.monotonic()
        self._rest = b""

    def fileno(self) -> int:
        return self.connection.fileno()

    def silent(self) -> bool:
        """Return whether nothing was heard from it for too long."""
        return time.monotonic() - self.heard > SILENCE

    def send(self, **message: Any) -> None:
        """Send a message; one without content says that this process is alive."""
        with contextlib.suppress(OSError):  # that it has ended is seen by receive
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived, if `wait` has found any.

        Returns:
            The messages.

        Raises:
            OSError: If the other process has ended.
            ValueError: If another program is at the other end.
        """
        arrived = self.connection.recv(_LONGEST)
        if not arrived:
            raise ConnectionResetError
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + arrived).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._rest) > _LONGEST or not all(isinstance(message, dict) for message in messages):
            raise ValueError
        return messages


def meet(package: str, coordinator: str, processes: int, process: int, settings: Settings = FLAGS) -> list[Peer]:
    """Wait until all processes of a run have come.

    Args:
        package: The package that trains.
        coordinator: Where process 0 listens, `host:port`.
        processes: The number of processes.
        process: The number of this one.
        settings: What the user set them by.

    Returns:
        The connections of process 0 to all others, or another one's to process 0.

    Raises:
        InputError: If the values are invalid, if the port is taken, if a process doesn't come, or if they were not
            started alike.
    """
    if processes < 1:
        raise InputError(f"{settings.processes} must be at least 1, found {processes}.")
    if not 0 <= process < processes:
        raise InputError(
            f"{settings.process} must be from 0 to {processes - 1} for {settings.processes} {processes}, found "
            f"{process}."
        )
    host, _, port = coordinator.rpartition(":")
    address = f"{settings.address} {coordinator}"
    if process:
        hello = {"package": package, "processes": processes, "process": process}
        return [_come(host.strip("[]"), int(port), address, hello)]
    return _gather(int(port), address, package, processes, settings)


def free_port() -> int:
    """Return a port of this machine that no program uses."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _listen(port: int, address: str, settings: Settings) -> socket.socket:
    """Listen on all of this machine's addresses, as JAX does too."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = (
            "another program uses it, or there is another process 0"
            if taken
            else (error.strerror if isinstance(error, OSError) else error)
        )
        raise InputError(
            f"Process 0 can't listen on port {port} of {address}: {reason}; start all processes again with a free "
            f"port, or without a {settings.process} that is there twice."
        ) from None


def _gather(port: int, address: str, package: str, processes: int, settings: Settings) -> list[Peer]:
    """What process 0 does: let the others come, and tell all of them when they are complete, or why they can't be."""
    begun = beaten = time.monotonic()
    strangers: list[Peer] = []  # they have not said yet who they are
    peers: dict[int, Peer] = {}
    with _listen(port, address, settings) as listener:
        while len(peers) < processes - 1:
            for ready in wait([listener, *strangers, *peers.values()], BEAT):  # type: ignore[list-item]
                if not isinstance(ready, Peer):
                    strangers.append(Peer(listener.accept()[0]))
                    continue
                try:
                    hello = next(filter(None, ready.receive()), None)
                except (OSError, ValueError):  # it has ended, and may come again; or it is no process of a run
                    ready.connection.close()
                    strangers = [peer for peer in strangers if peer is not ready]
                    peers = {number: peer for number, peer in peers.items() if peer is not ready}
                    continue
                if hello is None or ready not in strangers:
                    continue
                wrong = _unlike(hello, package, processes, peers, settings)
                if wrong is not None:
                    _refuse([*peers.values(), *strangers], wrong)
                strangers.remove(ready)
                ready.process = hello["process"]
                peers[hello["process"]] = ready
            if time.monotonic() - begun > JOINING:
                missing = ", ".join(str(number) for number in range(1, processes) if number not in peers)
                _refuse(
                    [*peers.values(), *strangers],
                    f"Of {processes} processes, these did not come to {address} within {JOINING} seconds: {missing}; "
                    f"start each with its own {settings.process}, and with the address of process 0.",
                )
            if time.monotonic() - beaten >= BEAT:
                beaten = time.monotonic()
                for peer in (*strangers, *peers.values()):
                    peer.send()
    for peer in strangers:
        peer.connection.close()
    for peer in peers.values():
        peer.send(complete=True)
    return list(peers.values())


def _unlike(
    hello: dict[str, Any], package: str, processes: int, peers: dict[int, Peer], settings: Settings
) -> str | None:
    """Why a process can't be one of these, or None if it can."""
    number = hello.get("process")
    if hello.get("package") != package:
        return f"Process {number} was started in {hello.get('package')} and process 0 in {package}; use one of them."
    if hello.get("processes") != processes:
        return (
            f"Process {number} was started with {settings.processes} {hello.get('processes')} and process 0 with "
            f"{settings.processes} {processes}; start all of them with the same number."
        )
    if number in peers:
        return (
            f"Two processes were started with {settings.process} {number}; give each its own, from 0 to "
            f"{processes - 1}."
        )
    return None


def _refuse(peers: Iterable[Peer], reason: str) -> None:
    """Tell the others why the processes can't train together, and raise it as InputError."""
    for peer in peers:
        peer.send(refused=reason)
        peer.connection.close()
    raise InputError(reason)


def _come(host: str, port: int, address: str, hello: dict[str, Any]) -> Peer:
    """What each process but the first does: come to process 0, and wait for the others."""
    with contextlib.ExitStack() as unless_complete:
        peer = Peer(_connect(host, port, address), 0)
        unless_complete.callback(peer.connection.close)
        peer.send(**hello)
        with contextlib.suppress(OSError, ValueError):
            while not peer.silent():
                for message in peer.receive() if wait([peer], BEAT) else []:  # type: ignore[list-item]
                    if "refused" in message:
                        raise InputError(message["refused"])
                    if "complete" in message:
                        unless_complete.pop_all()
                        return peer
        raise InputError(
            f"What listens at {address} does not answer as process 0 of this run; read process 0's own message, and "
            "start all processes again with a free port."
        )


def _connect(host: str, port: int, address: str) -> socket.socket:
    """Connect to process 0, which may be started later."""
    begun = time.monotonic()
    while True:
        try:
            return socket.create_connection((host, port), timeout=SILENCE)
        except (socket.gaierror, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{address} is no address ({reason}); correct it.") from None
        except OSError as error:
            if time.monotonic() - begun > JOINING:
                raise InputError(
                    f"Process 0 can't be reached at {address} within {JOINING} seconds "
                    f"({error.strerror or error}); start it, or correct the address."
                ) from None
            time.sleep(min(BEAT, 0.2))
