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

from jaxvae.shared.backend import Backend
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
    if coordinator is None or processes is None or process is None:
        # torchrun sets these for the processes it starts.
        launched = backend.__name__ == "torchvae" and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)
        if distributed or coordinator is not None or launched:
            backend.join(coordinator, processes, process)
        elif processes is not None or process is not None:
            raise InputError(
                "--processes and --process require --coordinator HOST:PORT; give it too, or leave them out."
            )
        yield
        return
    if not 0 <= process < processes:
        raise InputError(
            f"--process must be from 0 to {processes - 1} for --processes {processes}, found {process}."
            if processes > 0
            else f"--processes must be at least 1, found {processes}."
        )
    peers = meeting.meet(backend.__name__, coordinator, processes, process)
    watch = Watch(peers, functools.partial(end_process, backend.__name__))
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
