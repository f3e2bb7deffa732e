"""Two environments that can't hold both frameworks, and models on several devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.support.recorded_nets import IN_JAX, IN_TORCH
from parity_tests.tests.recordings.test_alone import COMPARE, RECORD

ROOT = Path(__file__).parents[3]
NEEDED = ("numpy", "safetensors", "lazy-loader")

SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax, sys, torch
import torch.distributed as dist
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from parity_tests import compare_recordings, record

class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))

mesh = Mesh(np.array(jax.devices()), ("rows",))
place = lambda array: jax.device_put(array, NamedSharding(mesh, PartitionSpec("rows")))
x = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
options = {"loss": lambda y: (y**2).mean(), "optimizer": optax.adam(1e-2), "steps": 2}
one = record(Net(nnx.Rngs(0)), "one.safetensors", x, **options)
net = Net(nnx.Rngs(0))
nnx.update(net, jax.tree.map(place, nnx.state(net)))
four = record(net, "four.safetensors", place(x), **options)
assert len(net.first.kernel[...].sharding.device_set) == 4
assert one.about["devices"] == ["cpu"] and four.about["devices"] == ["4 x cpu"], four.about["devices"]
report = compare_recordings(one, four)
assert report.passed and len(report.findings) == 8, report
print(report)

dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
torch.manual_seed(0)
plain = nn.Linear(16, 8)
shared = nn.Linear(16, 8)
for name, tensor in plain.named_parameters():
    sharded = distribute_tensor(tensor.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
    setattr(shared, name, nn.Parameter(sharded))
several = [plain, nn.parallel.DistributedDataParallel(plain), shared]
made = [record(module, f"torch{i}.safetensors", x, loss=torch.mean) for i, module in enumerate(several)]
assert all(compare_recordings(made[0], other).passed for other in made[1:])
"""


def run(python: str, program: str, cwd: Path, **environment: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run([python, "-c", program], capture_output=True, text=True, cwd=cwd, env=variables)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_shards_of_four_devices_are_put_together(tmp_path: Path) -> None:
    out = run(sys.executable, SHARDED, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert out.startswith("The two JAX models agree.")


def environment(folder: Path, *packages: str) -> str:
    """Make a virtual environment of some packages alone, from uv's cache; its Python."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file():
        pytest.skip("needs uv, which scripts/setup.sh installs")
    python = str(folder / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--offline", "--python", python, "-c", ROOT / "constraints.txt"]
    done = subprocess.run([*install, *packages, *NEEDED], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"uv's cache has not all of {', '.join(packages)}: {done.stderr.strip()[-300:]}")
    return python


@pytest.mark.slow
def test_two_virtual_environments_that_hold_one_framework_each(tmp_path: Path) -> None:
    with_jax = environment(tmp_path / "with-jax", "jax", "jaxlib", "flax", "optax")
    with_torch = environment(tmp_path / "with-torch", "torch")
    for python, missing in ((with_jax, "torch"), (with_torch, "jax")):
        run(python, f"import importlib.util as u; assert u.find_spec({missing!r}) is None", tmp_path)
    run(with_jax, IN_JAX + RECORD.format(path="jax.safetensors", in_torch=False), tmp_path)
    out = run(with_torch, IN_TORCH + COMPARE.format(path="jax.safetensors"), tmp_path)
    assert out.startswith("between norm and head GELU")
