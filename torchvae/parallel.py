"""One batch shared by several processes: each computes its rows on its own device, and sums over rows are added up.

Every process draws the whole batch's noise from the run's key and takes its own rows of it, so that the run stays the
same. Every process has the loss of the whole batch and differentiates an equal share of it. The derivative of `summed`
is then `summed` again, and functions of means, as in batch norm and the capacity, get the right gradients.

With sharded parameters each process holds some rows of every tensor of the state, and FSDP2 gathers a layer's weights
where it is used (Rajbhandari et al. 2020, "ZeRO", stage 3)."""

import atexit
import functools
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from jaxvae.shared.config import choices
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.requirements import require_several

_MEETING = timedelta(minutes=5)  # for process 0 to be started
_WAITING = timedelta(minutes=30)  # for the others to join, and for their tensors: one may evaluate for long

_sharded = False


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


def share(shard: choices.Shard | None) -> None:
    """Share, in all later runs, the parameters too if `shard` says so. Raises InputError if there is one process."""
    global _sharded
    require_several(shard, processes(), "start several processes: torchrun --nproc-per-node N -m torchvae train")
    _sharded = shard is not None


def shares() -> int:
    """Return how many devices share a batch."""
    return processes()


def sharded() -> bool:
    """Return whether each process holds some rows of the parameters."""
    return _sharded


def home(device: torch.device | str | None) -> torch.device | str | None:
    """Where a whole state goes before it is spread: on a device, unless it may be too large for one."""
    return "cpu" if _sharded else device


def split(x: Tensor, axis: int = 0) -> Tensor:
    """Return this process's rows of a batch that every process holds in full. The batch is axis `axis`."""
    if processes() == 1:
        return x
    return x.tensor_split(processes(), axis)[distributed.get_rank()]


def all_rows(tensor: Tensor) -> Tensor:
    """The tensor that all processes hold rows of; another one as it is. All processes have to call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def summed(x: Tensor) -> Tensor:
    """The sum of the processes' tensors."""
    return x if processes() == 1 else _Sum.apply(x)  # type: ignore[return-value]


def rows(tensor: Tensor, device: torch.device | str) -> Tensor:
    """This process's rows of a tensor that every process has, which know of the others."""
    from torch.distributed.tensor import Shard, distribute_tensor  # slow to import

    at = torch.device(device)
    return distribute_tensor(tensor.detach().to(at), _mesh(at.type), [Shard(0)], src_data_rank=None)


def own_rows(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows of a sharded one."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def is_sharded(tensor: Tensor) -> bool:
    """Whether each of several devices holds some rows of the tensor."""
    if not _sharded:
        return False
    from torch.distributed.tensor import DTensor  # slow to import

    return isinstance(tensor, DTensor)


def shard_layers(model: nn.Module, device: torch.device | str, apart: tuple[str, ...]) -> None:
    """Have FSDP2 hold rows of a module's parameters, and gather those of a layer where it is called. The networks
    `apart`, whose layers may be used without being called, are gathered as one. Numbers without rows stay whole."""
    from torch.distributed.fsdp import fully_shard  # slow to import

    # Nothing here changes in place what a layer returns.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = _mesh(torch.device(device).type)
    numbers = {parameter for parameter in model.parameters() if not parameter.ndim}
    for name, network in model.named_children():
        layers = [] if name in apart else [part for part in network.modules() if not list(part.children())]
        for module in (*layers, network):
            unit = fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
            unit.set_gradient_divide_factor(1.0)  # the loss is divided already
            unit.set_force_sum_reduction_for_comms(True)  # in float32 FSDP2 would ask gloo for what NCCL alone has


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The norm of tensors together, some of which may be sharded."""
    if not any(map(is_sharded, tensors)):
        return nn.utils.get_total_norm(tensors)
    squares = torch.stack([own_rows(tensor).square().sum() for tensor in tensors])
    cut = torch.tensor(list(map(is_sharded, tensors)), device=squares.device)
    return (summed((squares * cut).sum()) + (squares * ~cut).sum()).sqrt()


def scaled(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    """Tensors times a number, some of which may be sharded."""
    if not any(map(is_sharded, tensors)):
        return list(torch._foreach_mul(tensors, factor))
    return [tensor * factor for tensor in tensors]


def sum_gradients(parameters: list[Tensor]) -> None:
    """Adds up the processes' gradients of these parameters, in place. Not by DistributedDataParallel, which watches
    one call of one module's forward: a step here calls parts of the model, up to three times, each time for other
    parameters. Flattened, they are one message. FSDP2 has added up those of sharded ones."""
    if processes() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    if not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(flat)
    for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.view_as(grad))


@functools.cache
def _mesh(kind: str) -> Any:
    """All processes in a row, each with its device of this kind."""
    return distributed.init_device_mesh(kind, (processes(),))


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
