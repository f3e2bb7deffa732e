"""The devices that programs are compiled for, and what XLA needs to know of them."""

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown, suggestion


@dataclass(frozen=True)
class Device:
    """One chip, from its maker's data sheet. Estimates are made of these numbers and of the last three, which are
    assumptions."""

    platform: str
    """`cuda` or `tpu`."""
    label: str
    memory: int
    """Bytes."""
    bandwidth: float
    """Of its memory, bytes a second."""
    products: dict[str, float]
    """Operations a second in products of matrices, by the precision of the operands: `float32`, `tf32`, `bfloat16`."""
    vector: float
    """Operations a second outside of products."""
    link: float
    """To other chips, bytes a second in one direction."""
    launch: float
    """Seconds that a kernel takes at least."""
    latency: float
    """Seconds that a collective takes at least."""
    wait: float
    """Seconds that a loop loses each time that the host reads its condition."""
    target: dict[str, Any] = field(default_factory=dict)
    """A GPU's properties as XLA names them, where they aren't those that all of these GPUs share."""


DEVICES = {
    "h100": Device(
        "cuda", "NVIDIA H100 SXM 80 GB", 84_978_434_048, 3.35e12,
        {"float32": 66.9e12, "tf32": 494e12, "bfloat16": 989e12}, 66.9e12, 450e9, 2.5e-6, 10e-6, 15e-6,
        {
            "shared_memory_per_core": 233472, "core_count": 132, "fpus_per_core": 128,
            "memory_bandwidth": 3352320000000, "l2_cache_size": 52428800, "clock_rate_ghz": 1.98,
            "device_memory_size": 84978434048, "shared_memory_per_block_optin": 232448,
            "cuda_compute_capability": (9, 0),
        },
    ),
    "a100": Device(
        "cuda", "NVIDIA A100 SXM 80 GB", 85_094_367_232, 2.04e12,
        {"float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12}, 19.5e12, 300e9, 2.5e-6, 10e-6, 15e-6,
        {
            "shared_memory_per_core": 167936, "core_count": 108, "fpus_per_core": 64,
            "memory_bandwidth": 2039000000000, "l2_cache_size": 41943040, "clock_rate_ghz": 1.41,
            "device_memory_size": 85094367232, "shared_memory_per_block_optin": 166912,
            "cuda_compute_capability": (8, 0),
        },
    ),
    "v4": Device("tpu", "TPU v4", 32 * 2**30, 1.228e12, {"bfloat16": 275e12}, 4.3e12, 150e9, 1e-6, 2e-6, 0.0),
    "v5e": Device("tpu", "TPU v5e", 16 * 2**30, 0.819e12, {"bfloat16": 197e12}, 6.1e12, 100e9, 1e-6, 2e-6, 0.0),
    "v5p": Device("tpu", "TPU v5p", 95 * 2**30, 2.765e12, {"bfloat16": 459e12}, 7.2e12, 300e9, 1e-6, 2e-6, 0.0),
    "v6e": Device("tpu", "TPU v6e", 32 * 2**30, 1.64e12, {"bfloat16": 918e12}, 7.2e12, 224e9, 1e-6, 2e-6, 0.0),
}  # fmt: skip
_EVERY_GPU = {
    "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
    "threads_per_core_limit": 2048, "block_dim_limit_x": 2147483647, "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535, "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
}  # fmt: skip
_PASSES = {"default": 1, "high": 3, "highest": 6}
"""Products of bfloat16 that a TPU makes one of float32 of, by the precision that is asked for."""


@dataclass(frozen=True)
class Target:
    """Devices of one kind that share a batch."""

    name: str
    """As it was asked for, such as `v5e:2x4`."""
    device: Device
    topology: str
    """How the chips are arranged: `2x4`, or the number of GPUs."""
    count: int
    """Number of devices."""

    def rate(self, dtype: str, precision: str) -> float:
        """Return operations a second of a product of operands of this dtype, as its precision was asked for."""
        rates, asked = self.device.products, precision.lower()
        if dtype in ("bf16", "f16") or "bf16" in asked:
            return rates["bfloat16"] / (3 if asked.endswith("_x3") else 1)
        if self.device.platform == "tpu":
            return rates["bfloat16"] / _PASSES.get(precision, 6)
        return rates["tf32"] if precision == "default" or "tf32" in asked else rates["float32"]


def target(name: str, devices: int | None = None) -> Target:
    """Read a target.

    Args:
        name: A device, and after a colon how many GPUs or how a TPU's chips are arranged: `h100`, `h100:8`, `v5e:2x4`.
        devices: How many of the chips share a batch; None for all.

    Returns:
        The target.

    Raises:
        InputError: If there is no such device, or it is not arranged so.
    """
    kind, _, arrangement = name.partition(":")
    if kind not in DEVICES:
        raise InputError(
            f"There is no device {shown(kind)}{suggestion(kind, DEVICES)}; choose one of {', '.join(DEVICES)}."
        )
    device = DEVICES[kind]
    pattern, example = (r"[1-9]\d{0,2}", f"{kind}:8") if device.platform == "cuda" else (r"\d+(x\d+)+", f"{kind}:2x4")
    arrangement = arrangement or ("1" if device.platform == "cuda" else "2x2")
    if not re.fullmatch(pattern, arrangement):
        raise InputError(
            f"--for {shown(name)} has no arrangement of devices that XLA knows; give one such as {example}."
        )
    count = 1
    for side in arrangement.split("x"):
        count *= int(side)
    if devices is not None and not 1 <= devices <= count:
        raise InputError(f"--devices must be from 1 to the {count} of --for {name}, found {devices}.")
    return Target(name, device, arrangement, devices or count)


def prepare(target: Target) -> None:
    """Set up this process to compile for a target, before JAX is imported: it computes on the CPU itself.

    Args:
        target: The target.

    Raises:
        InputError: If what compiles for it is not installed.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    install = "pip install -e '.[compile]' installs it"
    if target.device.platform == "tpu":
        found = importlib.util.find_spec("libtpu")
        if found is None or not found.submodule_search_locations:
            raise InputError(f"Compiling for {target.device.label} needs libtpu, which is not here; {install}.")
        # libtpu would ask the network which machine this is.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{target.name.partition(':')[0]}-{target.count}")
        os.environ.setdefault("TPU_LIBRARY_PATH", str(Path(found.submodule_search_locations[0]) / "libtpu.so"))
        return
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise InputError(f"Compiling for {target.device.label} needs jax's CUDA plugin, which is not here; {install}.")
    if shutil.which("ptxas") is None:
        nvidia = importlib.util.find_spec("nvidia")
        folders = [Path(place) for place in (nvidia.submodule_search_locations or ())] if nvidia else []
        tools = [path.parent for folder in folders for path in sorted(folder.glob("*/bin/ptxas"))]
        if not tools:
            raise InputError(f"Compiling for {target.device.label} needs ptxas, which is not here; {install}.")
        os.environ["PATH"] = f"{tools[0]}{os.pathsep}{os.environ.get('PATH', '')}"


def topology(target: Target) -> Any:
    """Return JAX's description of a target's devices. Call `prepare` before."""
    from jax.experimental import topologies

    if target.device.platform == "tpu":
        try:
            return topologies.get_topology_desc(target.name if ":" in target.name else f"{target.name}:2x2", "tpu")
        except Exception as error:  # the TPU compiler's own, of many kinds
            reason = str(error).strip().splitlines()[0].rstrip(".")
            if "lockfile" in reason:
                raise InputError("libtpu serves one process at a time, and another uses it; wait for that.") from None
            raise InputError(
                f"libtpu has no arrangement {target.name} ({reason}); give another, such as v5e:2x4."
            ) from None
    return topologies.get_topology_desc(
        topology_name=target.name.partition(":")[0],
        platform="cuda",
        topology=f"1x1x{target.topology}",
        target_config=target_config(target.device),
    )


def target_config(device: Device) -> str:
    """Return XLA's description of a GPU, a text."""

    def written(value: Any) -> str:
        return f"{{ major: {value[0]} minor: {value[1]} }}" if isinstance(value, tuple) else f": {value}"

    lines = [
        f"  {name}{' ' * isinstance(value, tuple)}{written(value)}"
        for name, value in (_EVERY_GPU | device.target).items()
    ]
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 8 patch: 0 }",
            f'device_description_str: "{device.label}"',
            "runtime_version { major: 13 minor: 0 patch: 0 }",
        ]
    )
