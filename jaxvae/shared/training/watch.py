"""The processes of one run watch one another: when one ends or is silent, the others end too, and say which it was.

The frameworks would wait for it for half an hour, or end without a word about which process it was. What a thread of
each process sends every second says no more than that the process runs; one that runs and computes for long is waited
for."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from jaxvae.shared.errors import InputError
from jaxvae.shared.training import meeting
from jaxvae.shared.training.meeting import Peer

_FAREWELL = 3.0  # seconds for which process 0 waits for the others to end
_POLL = 0.2  # seconds after which a watch sees that its process leaves
_AGAIN = "start all processes again with --resume."


class Watch:
    """A thread that watches the other processes, until this one leaves."""

    def __init__(self, peers: Sequence[Peer], end: Callable[[str], None]) -> None:
        """Start watching.

        Args:
            peers: The connections to the other processes, from `meeting.meet`.
            end: Ends this process with a message.
        """
        self._peers, self._end = list(peers), end
        self._ending = threading.Lock()  # held for good by the thread that ends this process
        for peer in peers:
            peer.heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self, failure: str | None = None) -> None:
        """Tell the others that this process ends. Does not return if the watch is ending it already.

        Args:
            failure: Why it ends, if it could not do what it was to do.
        """
        mine = self._ending.acquire(blocking=False)
        self._thread.join()
        if mine:
            self._tell(left=True) if failure is None else self._tell(ended=failure)

    def _run(self) -> None:
        failure = None
        beaten = time.monotonic()
        while self._peers and failure is None and not self._ending.locked():
            failure = next(filter(None, [self._heard(peer) for peer in self._ready()]), None)
            if time.monotonic() - beaten >= meeting.BEAT:
                beaten = time.monotonic()
                for peer in self._peers:
                    peer.send()
            silent = ", ".join(str(peer.process) for peer in self._peers if peer.silent())
            if silent and failure is None:
                failure = f"Process {silent} was silent for {meeting.SILENCE} seconds; end it, and {_AGAIN}"
        if failure is not None and self._ending.acquire(blocking=False):
            self._tell(all=failure)
            self._end(failure)

    def _ready(self) -> list[Peer]:
        """Return the connections over which something has arrived."""
        return wait(self._peers, _POLL)  # type: ignore[arg-type, return-value]

    def _heard(self, peer: Peer) -> str | None:
        """Read what a process says, and return why all have to end, if they have to."""
        try:
            messages = peer.receive()
        except (OSError, ValueError):
            return f"Process {peer.process} has ended without a message, as if killed; {_AGAIN}"
        for message in messages:
            if "ended" in message:
                return f"Process {peer.process} has ended: {message['ended']}"
            if "all" in message:
                return message["all"]
            if "left" in message:
                self._peers.remove(peer)
                break
        return None

    def _tell(self, **message: Any) -> None:
        """Send a last message. Process 0 ends last, since the others' frameworks end in disorder without it."""
        for peer in self._peers:
            peer.send(**message)
        begun = time.monotonic()
        while [peer for peer in self._peers if peer.process] and time.monotonic() - begun < _FAREWELL:
            for peer in self._ready():
                with contextlib.suppress(OSError, ValueError):
                    if not any("left" in said for said in peer.receive()):
                        continue
                self._peers.remove(peer)


def end_process(package: str, failure: str) -> None:
    """End this process at once, from any thread, with a message and the status of an invalid request.

    Args:
        package: The package that trains.
        failure: The message.
    """
    print(f"{package}: {failure}", file=sys.stderr, flush=True)
    os._exit(InputError.status)
