"""Several processes that train one run together: joining them, and checking that they were started alike."""

import contextlib
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from jaxvae.shared.backend import Backend, LaunchedBackend, launched
from jaxvae.shared.errors import InputError
from jaxvae.shared.training import meeting
from jaxvae.shared.training.session import StoppedError
from jaxvae.shared.training.watch import Watch, end_process

_LAST_PORT = 65535
_VERDICT = 3.0  # seconds in which the watch says which process has ended, and ends this one too


@contextlib.contextmanager
def joined(
    backend: Backend, distributed: bool, coordinator: str | None, processes: int | None, process: int | None
) -> Iterator[None]:
    """Join the processes that train together with this one, if there are any, and watch them within the context.

    Args:
        backend: The package that trains.
        distributed: The cluster or torchrun tells the package the other three values.
        coordinator: `HOST:PORT` of the first process.
        processes: The number of processes.
        process: The number of this one, from 0.

    Raises:
        InputError: If the values are invalid or incomplete, or if the processes do not meet.
    """
    if coordinator is not None and not re.fullmatch(r".+:[0-9]+", coordinator):
        raise InputError(f"--coordinator must be HOST:PORT, found {coordinator}.")
    if coordinator is not None and not 0 < (port := int(coordinator.rpartition(":")[2])) <= _LAST_PORT:
        raise InputError(f"--coordinator must have a port from 1 to {_LAST_PORT}, found {port}; choose a free one.")
    name = backend.__name__
    if coordinator is not None and processes is not None and process is not None:
        peers = meeting.meet(name, coordinator, processes, process)
    elif processes is not None or process is not None:
        raise InputError("--processes and --process require --coordinator HOST:PORT; give it too, or leave them out.")
    elif coordinator is None and launched(backend):
        peers = meeting.meet(name, *_of_launcher(backend), meeting.ENVIRONMENT)
    else:
        if distributed or coordinator is not None:
            backend.join(coordinator, processes, process)
        yield
        return
    watch = Watch(peers, functools.partial(end_process, name))
    try:
        backend.join(coordinator, processes, process)
        yield
    except BaseException as error:
        if isinstance(error, RuntimeError):  # as when the connection to a process is lost
            time.sleep(_VERDICT)
        # A signal to one of the processes stops all of them.
        watch.leave(None if isinstance(error, StoppedError) else str(error).partition("\n")[0] or type(error).__name__)
        raise
    watch.leave()


def _of_launcher(backend: LaunchedBackend) -> tuple[str, int, int]:
    """Return where the processes that torchrun started meet, how many they are, and the number of this one."""
    values = {name: os.environ.get(name, "") for name in ("MASTER_PORT", "WORLD_SIZE", "RANK")}
    wrong = [f"{name}={value}" for name, value in values.items() if not re.fullmatch("[0-9]{1,5}", value)]
    if wrong:
        raise InputError(
            f"The environment has MASTER_ADDR, but {' and '.join(wrong)} where a number is expected; set them as "
            "torchrun does, or none of them."
        )
    port, processes, process = map(int, values.values())
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun itself listens at MASTER_PORT
        port = backend.share_port(meeting.free_port() if process == 0 else None)
    return f"{os.environ['MASTER_ADDR']}:{port}", processes, process


def require_same_start(backend: Backend, *settings: Any) -> None:
    """Check that all processes are about to train the same run.

    Args:
        backend: The package that trains.
        *settings: JSON values that must be the same in each process.

    Raises:
        InputError: If they differ.
    """
    if backend.processes() == 1:
        return
    content = json.dumps([backend.__name__, *settings])
    number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:3])
    if backend.agreed(number) + backend.agreed(-number):  # the largest minus the smallest
        raise InputError(
            "The processes were started with different settings; give each the same flags except for --process, the "
            "same images and, for --resume, the same folder."
        )
