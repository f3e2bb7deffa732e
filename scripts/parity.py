"""Measures how far jaxvae and torchvae agree, and prints it as a table: scripts/parity.py --help"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import torch
import tyro
from tqdm import tqdm

import jaxvae
import torchvae
from jaxvae.shared import data
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import DEFAULT_PRESET, DataName, Dtype, Spec, preset
from parity_tests.harness import jax_side, torch_side
from parity_tests.harness.compare import gap, ulps

SIDES = (jax_side, torch_side)
NORMALS = (1000, 1000)


@dataclass(frozen=True)
class Parity:
    """Table how far the two packages are apart: level by level from the same state, then in whole runs from the same
    seed with nothing carried across."""

    preset: str = DEFAULT_PRESET
    """The configuration to run."""
    steps: int = 500
    """Steps of the runs, one in float32 and one in float64; 4690 are the ten epochs of the default preset on MNIST."""
    data: DataName = "auto"
    """The images."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw."""
    seed: int = 0
    """The seed of both sides."""


def main(options: Parity) -> None:
    spec = replace(preset(options.preset), data=options.data)
    training = replace(spec.training, seed=options.seed, max_steps=options.steps)
    dataset, missing = data.load(options.data, options.data_root, spec.model.image)
    if missing is not None:
        print(f"WARNING: {missing} Measuring on scikit-learn's digits instead.", file=sys.stderr)
    epochs = -(-options.steps // training.epoch_steps(len(dataset.train)))
    spec = replace(spec, data=dataset.name, training=replace(training, epochs=epochs))

    rows: list[tuple[str, str, str]] = []
    with tqdm(total=11, unit=" levels", disable=None) as bar:

        def row(level: str, float32: str, float64: str) -> None:
            rows.append((level, float32, float64))
            bar.update()
            bar.set_description(level)

        row("keys, bits, places in an order that differ", *(str(streams(options.seed, bits)) for bits in (32, 64)))
        row("normals that differ, of a million", *(normals(options.seed, dtype) for dtype in ("float32", "float64")))
        measured = {dtype: levels(spec, dtype, dataset) for dtype in ("float32", "float64")}
        for level in measured["float32"]:
            row(level, *(measured[dtype][level] for dtype in ("float32", "float64")))
        whole = {dtype: runs(spec, dtype, dataset) for dtype in ("float32", "float64")}
        for level in whole["float32"]:
            row(level, *(whole[dtype][level] for dtype in ("float32", "float64")))

    print(
        f"\n{options.preset} on {dataset.name}, seed {options.seed}; jax {jax.__version__}, torch {torch.__version__}\n"
    )
    print("| largest difference in | float32 | float64 |\n| --- | --- | --- |")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


def streams(seed: int, width: int) -> int:
    """How many keys, of their words of `width` bits, and of the places in an epoch's order differ."""
    jax.config.update("jax_enable_x64", width == 64)
    ours, theirs = jaxvae.root_key(seed), torchvae.root_key(seed)
    kinds = f"uint{width}"
    differ = 0
    for t in range(100):
        key, other = jax.random.fold_in(ours, t), torchvae.random.fold_in(theirs, t)
        pairs = [(jax.random.bits(key, (1000,), kinds), torchvae.random.bits(other, (1000,), getattr(torch, kinds)))]
        pairs += [(jax.random.key_data(jax.random.split(key, 10)), torchvae.random.split(other, 10))]
        differ += sum(int((np.asarray(a) != b.numpy()).sum()) for a, b in pairs)
    order = jax.random.permutation(ours, 60_000), torchvae.random.permutation(theirs, 60_000)
    return differ + int((np.asarray(order[0]) != order[1].numpy()).sum())


def normals(seed: int, dtype: Dtype) -> str:
    jax.config.update("jax_enable_x64", dtype == "float64")
    ours = np.asarray(jax.random.normal(jaxvae.root_key(seed), NORMALS, dtype))
    theirs = torchvae.random.normal(torchvae.root_key(seed), NORMALS, getattr(torch, dtype)).numpy()
    worst = f"{ulps(theirs, ours).max():.0f} ulp" if dtype == "float32" else f"{np.abs(theirs / ours - 1).max():.1e}"
    return f"{(ours != theirs).sum():,}, by at most {worst}"


def levels(spec: Spec, dtype: Dtype, dataset: data.Dataset) -> dict[str, str]:
    """Each level from the same state, in units of each tensor's largest magnitude."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    spec = replace(spec, training=replace(spec.training, dtype=dtype))
    size = spec.training.batch_size
    pixels = (dataset.train[: 21 * size].reshape(-1, spec.model.pixels) / 255).astype(dtype)
    batches = [pixels[i * size % len(pixels) :][:size] for i in range(21)]
    eps = np.random.default_rng(0).normal(size=(len(batches[0]), spec.model.latent)).astype(dtype)
    start = [side.initial(spec) for side in SIDES]
    found = {"initial weights": gap(*start)}
    for name, level in {"every output": "forward", "every loss term": "losses", "every gradient": "gradients"}.items():
        found[name] = gap(*(getattr(side, level)(spec, start[0], batches[0], eps) for side in SIDES))
    weights, optimizer, _ = jax_side.steps(spec, start[0], batches[:20])
    after = [side.steps(spec, weights, batches[20:], optimizer) for side in SIDES]
    found["weights and moments after a step"] = max(gap(after[0][i], after[1][i]) for i in (0, 1))
    return {name: "0" if value.size == 0 else f"{value.size:.1e}" for name, value in found.items()}


def runs(spec: Spec, dtype: Dtype, dataset: data.Dataset) -> dict[str, str]:
    """Two whole runs from the same seed: terms as shares of themselves, weights of each tensor's largest."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    spec = replace(spec, training=replace(spec.training, dtype=dtype))
    ours, theirs = (side.run(spec, dataset) for side in SIDES)
    train, test = (np.abs(a - b) / np.abs(b) for a, b in zip(ours[1:], theirs[1:], strict=True))
    few = min(100, len(train))
    return {
        f"any loss of the run's first {few} steps": f"{train[:few, 0].max():.1e}",
        f"any loss of its {len(train):,} steps": f"{train[:, 0].max():.1e}",
        f"any loss of its test evaluations ({len(test)})": f"{test[:, 0].max():.1e}",
        "weights at its end": f"{gap(ours[0], theirs[0]).size:.1e}",
    }


if __name__ == "__main__":
    try:
        main(tyro.cli(Parity))
    except InputError as error:
        sys.exit(f"parity: {error}")
