"""Trains the well-known programs anew and tables what they reach: scripts/reproduce.py --help"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from tqdm import tqdm

import jaxvae
from jaxvae.shared import comparison, data, figures, metrics, runs
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.presets import preset
from jaxvae.shared.spec import Spec

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
    """Train presets on MNIST by jaxvae and print what they reach beside what is known. Each run is a folder under
    --out, written after every epoch: stopped, it goes on where it was; finished, it is only read.

    Example: python scripts/reproduce.py yunjey flax-example"""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which results; all of them if none is named (an hour or two on two cores)."""
    out: Path = Path("runs/reproduce")
    """Where the runs are kept."""
    seed: int = 0
    """Of every run."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else $JAXVAE_DATA, the user's cache, or a download."""
    device: Annotated[str, tyro.conf.arg(help="Where to compute: auto, cpu, gpu or tpu.")] = "auto"


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
    comparison.save(comparison.picture(rows, dataset.test, dataset.name), run.images / "beside-pca.png")
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
    device = jaxvae.prepare(options.device)
    rows = []
    for name in chosen:
        result = RESULTS[name]
        run = trained(options, result, dataset, device)
        rows.append((name, result.read(run, runs.read_metrics(run), dataset), result.known))
    print("| result | measured | known |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def trained(options: Reproduce, result: Result, dataset: data.Dataset, device: Any) -> runs.Run:
    """The run of a result, begun, gone on with, or as it is."""
    spec = preset(result.preset)
    training = replace(spec.training, epochs=result.epochs, seed=options.seed)
    spec = replace(spec, data="mnist", training=training)
    path = options.out / f"{result.preset}-{options.seed}"
    if path.exists():
        run = runs.read(path)
        if run.spec != spec:
            raise InputError(f"{path} is a run of another configuration; remove it or give another --out.")
    else:
        about = {"name": "mnist", "source": dataset.source}
        run = runs.create(path, spec, {"framework": "jaxvae", "preset": result.preset, "data": about})
    state, images = resumed(run), dataset.train[: spec.images.train_images]
    few = dataset._replace(train=images, train_labels=dataset.train_labels[: len(images)])
    done = 0 if state is None else int(state.step)
    total = spec.training.total_steps(len(images))
    with tqdm(total=total, initial=done, unit=" steps", desc=result.preset, disable=None) as bar:

        def on_epoch(progress: jaxvae.Progress) -> None:
            before = progress.step - len(progress.train)
            records = metrics.train_records(progress.train, before, len(images), spec, None)
            runs.append_metrics(
                run, [*records, metrics.record(spec, progress.step, progress.epoch, "test", progress.test)]
            )
            jaxvae.save(run.weights, spec, progress.state.params)
            keep(run, spec, progress.state)
            bar.update(len(progress.train))
            bar.set_postfix(loss=f"{progress.test[0]:.2f}")

        jaxvae.fit(spec, few, on_epoch, device, state)
    return run


def keep(run: runs.Run, spec: Spec, state: jaxvae.TrainState) -> None:
    """Writes all that the run needs to go on."""
    optimizer = {f"optimizer.{n}": a for n, a in jaxvae.optimizer_to_arrays(spec, state.opt_state).items()}
    arrays = {**jaxvae.to_arrays(spec, state.params), **optimizer, "step": np.asarray(state.step)}
    runs.write_atomically(run.path / "state.safetensors", to_bytes(arrays))


def resumed(run: runs.Run) -> jaxvae.TrainState | None:
    """The state that `keep` wrote last, and the metrics cut to it; None before the first epoch's end."""
    file = run.path / "state.safetensors"
    arrays = from_bytes(file.read_bytes()) if file.exists() else {}
    step = int(arrays.pop("step", 0))
    records = [record for record in runs.read_metrics(run) if record["step"] <= step]
    runs.write_atomically(run.metrics, "".join(json.dumps(record) + "\n" for record in records).encode())
    if not step:
        return None
    optimizer = {n.removeprefix("optimizer."): arrays.pop(n) for n in list(arrays) if n.startswith("optimizer.")}
    params = jaxvae.from_arrays(run.spec, arrays)
    state = jaxvae.optimizer_from_arrays(run.spec, optimizer)
    return jaxvae.TrainState(params, state, jnp.int32(step), jaxvae.root_key(run.spec.training.seed))


if __name__ == "__main__":
    try:
        main(tyro.cli(Reproduce))
    except (InputError, NonFiniteError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("reproduce: stopped; it goes on where it was when it is run again.", file=sys.stderr)
        sys.exit(130)
