"""Describe the machine in words and for the record."""

import ctypes
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import torch

import jaxvae
import torchvae

_PACKAGES = ("jaxvae", "jax", "jaxlib", "flax", "optax", "torch", "torchvision", "numpy")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed. By default it gives some large blocks back. Which ones depends on all that the
    process has allocated, and the next program that needs such a block would pay for its pages."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # by malloc.h
    for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 2**27), (mmap_threshold, 2**30)):
        ctypes.CDLL(None).mallopt(parameter, value)


def described(device: str) -> dict[str, Any]:
    """Collect processor, devices, threads, load and versions. device: `cpu`, `gpu` or `tpu`."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    theirs = torch.device("cuda" if device == "gpu" else "cpu")
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    return {
        "processor": _processor(),
        "cores": len(usable),
        "system": f"{platform.system()} {platform.release()}",
        "jax_device": jaxvae.device_label(jax.devices()[0]),
        "torch_device": None if device == "tpu" else torchvae.device_label(theirs),
        "torch_threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_at_start": load,
        "versions": {"python": platform.python_version(), **versions},
    }


def sentence(machine: dict[str, Any]) -> str:
    """Describe the machine in a sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    asked = machine["omp_num_threads"]
    many = machine["torch_threads"]
    threads = f"{many} thread{'s' * (many > 1)}" + (f" (OMP_NUM_THREADS={asked})" if asked else "")
    load = "" if machine["load_at_start"] is None else f"; load {machine['load_at_start']:.1f} at the start"
    theirs = "" if machine["torch_device"] is None else f", PyTorch on {machine['torch_device']} with {threads}"
    return (
        f"{machine['processor']}, {machine['cores']} cores; {machine['system']}; JAX on {machine['jax_device']}"
        f"{theirs}; {versions}{load}."
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _installed(name: str) -> bool:
    """False for modules that are importable by PYTHONPATH only."""
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False
