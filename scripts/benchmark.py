"""Times training epochs side by side, and what the key streams cost of them: scripts/benchmark.py --help"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
import tyro
from tqdm import tqdm

import jaxvae
import torchvae
from jaxvae.shared import data
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import Dtype, Spec


@dataclass(frozen=True)
class Benchmark:
    """Interleave epochs of the default preset in both packages, on the CPU, and table medians."""

    epochs: int = 5
    """Epochs of each, after one to warm up."""
    dtype: Dtype = "float32"
    """Precision of both."""
    data: str = "auto"
    """The images."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw."""


def main(options: Benchmark) -> None:
    if options.epochs < 1:
        raise InputError(f"--epochs must be at least 1, found {options.epochs}.")
    device = jaxvae.prepare("cpu", options.dtype)
    dataset, missing = data.load(Spec(options.data), options.data_root)
    if missing is not None:
        print(f"WARNING: {missing} Timing on scikit-learn's digits instead.", file=sys.stderr)
    spec = Spec(dataset.name)
    spec = replace(spec, training=replace(spec.training, epochs=options.epochs + 1, dtype=options.dtype))
    steps, kind = spec.training.epoch_steps(len(dataset.train)), getattr(torch, options.dtype)
    ours, theirs = jaxvae.init_state(spec), torchvae.init_state(spec)
    images, tensors = jnp.asarray(dataset.train), torch.tensor(dataset.train)

    def jax_epoch() -> None:
        nonlocal ours
        ours, terms = jaxvae.train_epoch(spec, ours, images)
        jax.block_until_ready(terms)

    def torch_epoch() -> None:
        nonlocal theirs
        theirs, _ = torchvae.train_epoch(spec, theirs, tensors)

    def noise() -> None:
        keys = torchvae.random.fold_in(torchvae.root_key(0), torch.arange(steps))
        for block in keys.split(64):
            torchvae.random.normal(block, (spec.training.batch_size, spec.model.latent), kind)

    def order() -> None:
        torchvae.random.permutation(torchvae.root_key(0), len(tensors))

    work = {
        "jaxvae epoch": jax_epoch,
        "torchvae epoch": torch_epoch,
        "  of it: its noise": noise,
        "  of it: its order": order,
    }
    seconds = interleaved(work, options.epochs)
    whole = statistics.median(seconds["torchvae epoch"])
    print(f"\n{options.dtype}, {torch.get_num_threads()} threads, {jaxvae.device_label(device)}\n")
    print("| work | median ms | least | most | of a torchvae epoch |\n| --- | --- | --- | --- | --- |")
    for name, times in seconds.items():
        median, least, most = (1e3 * f(times) for f in (statistics.median, min, max))
        print(f"| {name} | {median:.1f} | {least:.1f} | {most:.1f} | {median / whole / 10:.2f} % |")


def interleaved(work: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, in turn, so that a machine's moods fall on all alike; a first round is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in tqdm(range(rounds + 1), unit=" rounds", disable=None):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


if __name__ == "__main__":
    try:
        main(tyro.cli(Benchmark))
    except InputError as error:
        sys.exit(f"benchmark: {error}")
