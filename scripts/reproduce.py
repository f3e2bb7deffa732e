"""Trains the well-known programs anew and tables what they reach: scripts/reproduce.py --help"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

import jaxvae
from jaxvae.shared import comparison, data, figures, runs
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.going import StoppedError
from jaxvae.shared.presets import preset
from jaxvae.shared.training import Device, Train, as_begun, train

Records = list[dict[str, Any]]


class Result(NamedTuple):
    """A run and what is read from it."""

    preset: str
    epochs: int
    read: Callable[[runs.Run, Records, data.Dataset], str]
    known: str
    """What others, or we before, have found."""


@dataclass(frozen=True)
class Reproduce:
    """Train presets on MNIST and print what they reach beside what is known. Each run is a folder under
    --out: stopped, it goes on where it was; finished, it is only read.

    Example: python scripts/reproduce.py yunjey flax-example"""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which results; all of them if none is named (an hour or two on two cores)."""
    out: Path = Path("runs/reproduce")
    """Where the runs are kept."""
    seed: int = 0
    """Of every run."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else $JAXVAE_DATA, the user's cache, or a download."""
    package: Literal["jaxvae", "torchvae"] = "jaxvae"
    """Which one trains. Either goes on with what the other has begun."""
    device: Device = "auto"
    """Where to compute."""


def at(epoch: int) -> Callable[[runs.Run, Records, data.Dataset], str]:
    def read(run: runs.Run, records: Records, dataset: data.Dataset) -> str:
        train, test = (
            next(r["loss"] for r in records if (r["split"], r["epoch"]) == (split, epoch))
            for split in ("train", "test")
        )
        return f"train {train:.1f}, test {test:.1f}"

    return read


def beside_pca(run: runs.Run, records: Records, dataset: data.Dataset) -> str:
    spec, params = jaxvae.load(run.weights)
    rows = [
        comparison.row(
            "autoencoder",
            spec.model.latent,
            dataset.test,
            lambda part: jaxvae.reconstruct(spec, params, dataset.test[part]),
            16,
        ),
        comparison.pca(dataset.train, dataset.test, spec.model.latent, 16),
    ]
    figures.write(comparison.picture(rows, dataset.test, dataset.name), run.images / "beside-pca.png")
    ours, linear = (row.error for row in rows)
    return f"test squared error {ours:.2f}, PCA {linear:.2f}: {100 * (1 - ours / linear):.0f} % lower"


def by_class(run: runs.Run, records: Records, dataset: data.Dataset) -> str:
    spec, params = jaxvae.load(run.weights)
    key = jaxvae.stream_key(jaxvae.root_key(spec.training.seed), "pictures", 0)
    picture = run.images / "classes.png"
    figures.save(figures.grid(jaxvae.sample(spec, params, key, 80), spec.model.classes), picture)
    return f"test {records[-1]['loss']:.1f}; a column of samples for each class in {picture}"


def capacity(run: runs.Run, records: Records, dataset: data.Dataset) -> str:
    test = [record for record in records if record["split"] == "test"]
    limit, steps = run.spec.objective.capacity, run.spec.objective.capacity_steps
    at_end = next((r for r in test if r["step"] >= steps), test[-1])
    return f"KL {at_end['kl']:.2f} after {at_end['step']:,} steps, {test[-1]['kl']:.2f} at the end; C = {limit:g}"


RESULTS = {
    "yunjey": Result("yunjey", 15, at(15), "train 104.5, test 104.1 (+-0.7)"),
    "flax-example": Result("flax-example", 10, at(10), "test 103.6 (+-0.7)"),
    "tanh-mse, 20 epochs": Result("tanh-mse", 100, at(20), "66 (+-2)"),
    "tanh-mse, 100 epochs": Result("tanh-mse", 100, at(100), "last batches 59.8 to 68.4 from 20 to 100"),
    "autoencoder": Result("autoencoder", 10, beside_pca, "below PCA"),
    "conditional": Result("conditional", 10, by_class, ""),
    "beta-b": Result("beta-b", 12, capacity, "C reached"),
}


def main(options: Reproduce) -> None:
    chosen = [n for n in RESULTS if not options.names or RESULTS[n].preset in options.names or n in options.names]
    known = {RESULTS[name].preset for name in RESULTS} | set(RESULTS)
    for name in options.names:
        if name not in known:
            raise InputError(f"There is no result {name!r}; choose of {', '.join(dict.fromkeys(known))}.")
    dataset = data.mnist(options.data_root)
    rows = []
    for name in chosen:
        result = RESULTS[name]
        run = trained(options, result)
        rows.append((name, result.read(run, runs.read_metrics(run), dataset), result.known))
    print("| result | measured | known |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def trained(options: Reproduce, result: Result) -> runs.Run:
    """The run of a result, begun, gone on with, or as it is."""
    path = options.out / f"{result.preset}-{options.seed}"
    spec = preset(result.preset)
    spec = replace(spec, data="mnist", training=replace(spec.training, epochs=result.epochs, seed=options.seed))
    if not path.exists():
        which = Train(spec, result.preset, options.data_root, options.device, out=path)
    elif (run := runs.read(path)).spec == spec:
        records = runs.read_metrics(run)
        if records and (records[-1]["epoch"], records[-1]["split"]) == (result.epochs, "test"):
            return run
        which = replace(as_begun(path), data_root=options.data_root, device=options.device)
    else:
        raise InputError(f"{path} is a run of another configuration; remove it or give another --out.")
    train(importlib.import_module(options.package), which)
    return runs.read(path)


if __name__ == "__main__":
    try:
        main(tyro.cli(Reproduce))
    except (InputError, NonFiniteError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(error.status)
    except StoppedError as stop:
        print(f"reproduce: {stop}, or by this script, run again", file=sys.stderr)
        sys.exit(stop.status)
