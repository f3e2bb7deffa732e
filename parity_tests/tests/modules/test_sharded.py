"""Models whose tensors lie on several devices are compared as whole ones."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

from jaxvae import InputError
from parity_tests.harness.modules import torch_state

PROGRAM = """
import jax, numpy as np, torch
import torch.distributed as dist
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from jaxvae import InputError
from parity_tests import assert_parity, compare_modules

mesh = jax.make_mesh((8,), ("rows",))
flax_net, x = nnx.Linear(16, 8, rngs=nnx.Rngs(0)), np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
place = lambda array: jax.device_put(array, NamedSharding(mesh, PartitionSpec("rows")))
nnx.update(flax_net, jax.tree.map(place, nnx.state(flax_net)))
assert len(flax_net.kernel[...].sharding.device_set) == 8
assert_parity(flax_net, None, nn.Linear(16, 8), None, place(x))

dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
assert_parity(flax_net, None, nn.parallel.DistributedDataParallel(nn.Linear(16, 8)), None, x)
there, devices = nn.Linear(16, 8), init_device_mesh("cpu", (1,))
for name, tensor in list(there.named_parameters()):
    setattr(there, name, nn.Parameter(distribute_tensor(tensor.detach(), devices, [Shard(0)])))
assert_parity(flax_net, None, there, None, x)
assert not compare_modules(flax_net, None, there, None, x, weights="compare").passed
assert isinstance(there.weight, torch.distributed.tensor.DTensor)
try:
    assert_parity(flax_net, None, fully_shard(nn.Linear(16, 8), mesh=devices), None, x)
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_tensors_on_several_devices_are_compared_whole() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "torch_module: it is sharded by FSDP, which can't be copied: load its full state dict" in run.stdout


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embed(ids)))


def test_whole_tensors_are_tied_as_the_shared_ones_are_and_functions_that_change_numbers_are_refused() -> None:
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        devices, ids = init_device_mesh("cpu", (1,)), torch.arange(6)[None]
        module = Tied()
        shared = nn.Parameter(distribute_tensor(module.embed.weight.detach(), devices, [Shard(0)]))
        module.embed.weight = module.head.weight = shared
        shared.register_hook(lambda gradient: 2 * gradient)
        whole: Any = torch_state.plain(module)
        assert whole.embed.weight is whole.head.weight
        torch_state.check_whole(module, whole, ((ids,), {}))
        whole(ids).sum().backward()
        plain: Any = Tied()
        plain.load_state_dict(whole.state_dict())
        plain(ids).sum().backward()
        torch.testing.assert_close(whole.embed.weight.grad, 2 * plain.embed.weight.grad)

        def doubled(_: nn.Module, given: Any, mesh: DeviceMesh) -> Any:
            return (2 * distribute_tensor(given[0], mesh, [Shard(0)]),)

        given = distribute_module(nn.Linear(4, 2), devices, input_fn=doubled)
        with pytest.raises(InputError, match="it gives other outputs than its whole tensors do"):
            torch_state.check_whole(given, torch_state.plain(given), ((torch.ones(2, 4),), {}))
    finally:
        distributed.destroy_process_group()


def test_a_copy_changes_gradients_as_the_module_does() -> None:
    module = nn.Linear(3, 2)
    module.weight.register_hook(lambda gradient: gradient * torch.tensor([[1.0], [0.0]]))
    for sharing in (False, True):
        copy: Any = torch_state.copied(torch_state.copied(module, sharing), sharing)
        copy(torch.ones(1, 3)).sum().backward()
        assert copy.weight.grad.tolist() == [[1, 1, 1], [0, 0, 0]]
