"""One batch shared by several processes: each computes its rows on its own device, and sums over rows are added up.

Every process draws the whole batch's noise from the run's key and takes its own rows of it, so that the run stays the
same. Every process has the loss of the whole batch and differentiates an equal share of it. The derivative of `summed`
is then `summed` again, and functions of means, as in batch norm and the capacity, get the right gradients."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from jaxvae.shared.errors import InputError

_MEETING = timedelta(minutes=5)  # for process 0 to be started
_WAITING = timedelta(minutes=30)  # for the others to join, and for their tensors: one may evaluate for long


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the processes that train together. Call it before anything is computed.

    Args:
        coordinator: Where the first process listens, `host:port`.
        processes: Number of processes.
        process: This one's number, from 0. What is not given is taken from the cluster.

    Raises:
        InputError: If they can't be joined.
    """
    method = "env://" if coordinator is None else f"tcp://{coordinator}"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        distributed.init_process_group(
            init_method=method,
            timeout=_WAITING,
            world_size=-1 if processes is None else processes,
            rank=-1 if process is None else process,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"The processes can't be joined ({reason}); start each with --coordinator HOST:PORT, --processes N and its "
            "own --process, or by torchrun."
        ) from None
    atexit.register(distributed.destroy_process_group)


def share_port(port: int | None) -> int:
    """Learn which port process 0 has chosen, through the store that torchrun keeps for the processes it starts.

    Args:
        port: The port, in process 0; None in the others.

    Returns:
        The port, in all of them.

    Raises:
        InputError: If the store or process 0 does not answer within five minutes.
    """
    address, at = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = distributed.TCPStore(address, at, is_master=False, timeout=_MEETING, wait_for_workers=False)
        if port is not None:
            store.set(f"torchvae/{attempt}", str(port))
        return int(store.get(f"torchvae/{attempt}"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"torchrun does not say at {address}:{at} where process 0 is ({reason}); start all processes again."
        ) from None


def processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def first() -> bool:
    """Return whether this is the process that writes files and prints."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def agreed(number: int) -> int:
    """Return the largest of the processes' numbers, of at most 31 bits. All processes have to call it."""
    if processes() == 1:
        return number
    largest = torch.tensor(number)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def shares() -> int:
    """Return how many devices share a batch."""
    return processes()


def split(x: Tensor, axis: int = 0) -> Tensor:
    """Return this process's rows of a batch that every process holds in full. The batch is axis `axis`."""
    if processes() == 1:
        return x
    return x.tensor_split(processes(), axis)[distributed.get_rank()]


def summed(x: Tensor) -> Tensor:
    """The sum of the processes' tensors."""
    return x if processes() == 1 else _Sum.apply(x)  # type: ignore[return-value]


def sum_gradients(parameters: list[Tensor]) -> None:
    """Adds up the processes' gradients of these parameters, in place. Not by DistributedDataParallel, which watches
    one call of one module's forward: a step here calls parts of the model, up to three times, each time for other
    parameters. Flattened, they are one message."""
    if processes() == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(flat)
    for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.view_as(grad))


class _Sum(torch.autograd.Function):
    """A sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)
