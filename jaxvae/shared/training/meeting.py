"""The processes of one run meet at --coordinator before the framework joins them: all of them, each once.

JAX and PyTorch wait for a process that never comes, crash if the port is taken, or train with a number of processes
that not all of them were given. So process 0 listens at the port first, the others come to it, and each of them learns
why they can't train together. The connections stay, for `watch`."""

import contextlib
import errno
import json
import socket
import time
from collections.abc import Iterable
from multiprocessing.connection import wait
from typing import Any

from jaxvae.shared.errors import InputError

JOINING = 300
"""Seconds within which all processes have to come."""
SILENCE = 30
"""Seconds without a word after which a process is taken for stopped."""
BEAT = 1.0
"""Seconds between two words of a process."""

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


def meet(package: str, coordinator: str, processes: int, process: int) -> list[Peer]:
    """Wait until all processes of a run have come.

    Args:
        package: The package that trains.
        coordinator: Where process 0 listens, `host:port`.
        processes: The number of processes.
        process: The number of this one.

    Returns:
        The connections of process 0 to all others, or another one's to process 0.

    Raises:
        InputError: If the port is taken, if a process doesn't come, or if they were not started alike.
    """
    host, _, port = coordinator.rpartition(":")
    if process:
        return [_come(host.strip("[]"), int(port), {"package": package, "processes": processes, "process": process})]
    return _gather(coordinator, int(port), package, processes)


def _listen(coordinator: str, port: int) -> socket.socket:
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
            f"Process 0 can't listen on port {port} of --coordinator {coordinator}: {reason}; start all processes "
            "again with a free port, or without a --process that is there twice."
        ) from None


def _gather(coordinator: str, port: int, package: str, processes: int) -> list[Peer]:
    """What process 0 does: let the others come, and tell all of them when they are complete, or why they can't be."""
    begun = beaten = time.monotonic()
    strangers: list[Peer] = []  # they have not said yet who they are
    peers: dict[int, Peer] = {}
    with _listen(coordinator, port) as listener:
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
                wrong = _unlike(hello, package, processes, peers)
                if wrong is not None:
                    _refuse([*peers.values(), *strangers], wrong)
                strangers.remove(ready)
                ready.process = hello["process"]
                peers[hello["process"]] = ready
            if time.monotonic() - begun > JOINING:
                missing = ", ".join(str(number) for number in range(1, processes) if number not in peers)
                _refuse(
                    [*peers.values(), *strangers],
                    f"Of {processes} processes, these did not come to {coordinator} within {JOINING} seconds: "
                    f"{missing}; start each with its own --process, and with the address of process 0.",
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


def _unlike(hello: dict[str, Any], package: str, processes: int, peers: dict[int, Peer]) -> str | None:
    """Why a process can't be one of these, or None if it can."""
    number = hello.get("process")
    if hello.get("package") != package:
        return f"Process {number} was started in {hello.get('package')} and process 0 in {package}; use one of them."
    if hello.get("processes") != processes:
        return (
            f"Process {number} was started with --processes {hello.get('processes')} and process 0 with --processes "
            f"{processes}; start all of them with the same number."
        )
    if number in peers:
        return f"Two processes were started with --process {number}; give each its own, from 0 to {processes - 1}."
    return None


def _refuse(peers: Iterable[Peer], reason: str) -> None:
    """Tell the others why the processes can't train together, and raise it as InputError."""
    for peer in peers:
        peer.send(refused=reason)
        peer.connection.close()
    raise InputError(reason)


def _come(host: str, port: int, hello: dict[str, Any]) -> Peer:
    """What each process but the first does: come to process 0, and wait for the others."""
    with contextlib.ExitStack() as unless_complete:
        peer = Peer(_connect(host, port), 0)
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
            f"What listens at --coordinator {host}:{port} does not answer as process 0 of this run; read process 0's "
            "own message, and start all processes again with a free port."
        )


def _connect(host: str, port: int) -> socket.socket:
    """Connect to process 0, which may be started later."""
    begun = time.monotonic()
    while True:
        try:
            return socket.create_connection((host, port), timeout=SILENCE)
        except (socket.gaierror, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"--coordinator {host}:{port} is no address ({reason}); correct it.") from None
        except OSError as error:
            if time.monotonic() - begun > JOINING:
                raise InputError(
                    f"Process 0 can't be reached at --coordinator {host}:{port} within {JOINING} seconds "
                    f"({error.strerror or error}); start it, or correct the address."
                ) from None
            time.sleep(min(BEAT, 0.2))
