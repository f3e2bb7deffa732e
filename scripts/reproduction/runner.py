"""Run a protocol: train or resume it, read its figures and store them."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.shared import safe_io
from jaxvae.shared.backend import DeviceName
from jaxvae.shared.commands import train
from jaxvae.shared.config.fields import build
from jaxvae.shared.config.spec import Spec, same_run
from jaxvae.shared.data import datasets
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.text import shown
from reproduction.protocols import PROTOCOLS, Protocol
from reproduction.results import Finished

_FILE = "figures.json"
MNIST = "mnist"


class How(NamedTuple):
    """The package, the data set, the device and the folder."""

    backend: Any
    out: Path
    data: str
    data_root: Path | None
    device: DeviceName
    samples: int


@dataclass(frozen=True)
class Kept:
    """The results of a run: the figures.json in its folder."""

    protocol: str
    package: str
    data: str
    seed: int
    epochs: int
    """Number of trained epochs."""
    device: str
    versions: dict[str, str]
    figures: dict[str, float]


def run_protocol(how: How, name: str, seed: int, epochs: int) -> Kept:
    """Train a protocol, unless that is done, read its figures and store them.

    Args:
        how: The package, the data set, the device and the folder.
        name: The protocol.
        seed: The seed of the run.
        epochs: Number of epochs.

    Returns:
        The results.

    Raises:
        StoppedError: If a signal stopped the training.
        NonFiniteError: If a loss or a gradient became NaN or infinite.
        InputError: If the run can't be made or resumed.
    """
    protocol, package = PROTOCOLS[name], how.backend.__name__
    path, spec = how.out / f"{name}-{package}-{seed}", _configured(protocol, how.data, seed, epochs)
    dataset = datasets.load(spec, how.data_root)[0]
    _train(how, path, protocol.preset, replace(spec, data=dataset.name))
    run = run_folder.read(path)
    if {session["framework"] for session in run.config["sessions"]} != {package}:
        raise InputError(f"{path} is not by {package} alone; remove it or give another --out.")
    records = metrics.read(run)
    finished = Finished(how.backend, run, records, dataset, how.device, how.samples, protocol.expected)
    session = run.config["sessions"][-1]
    about = (name, package, dataset.name, seed, finished.epochs, session["device"], session["versions"])
    kept = Kept(*about, protocol.read(finished))
    safe_io.write_atomically(path / _FILE, (json.dumps(asdict(kept), indent=2, allow_nan=False) + "\n").encode())
    return kept


def read_all(out: Path) -> list[Kept]:
    """Read the results of all runs under `out`. Raises InputError naming a file that is not valid."""
    results = []
    for path in sorted(out.glob(f"*/{_FILE}")):
        try:
            content = safe_io.read_json(path)
        except (ValueError, OSError) as error:
            raise InputError(f"{path} can't be read as JSON ({error}); remove it and run its protocol again.") from None
        kept = build(Kept, content, f"The content of {path}")
        if kept.protocol not in PROTOCOLS:
            raise InputError(f"{path} is of {shown(kept.protocol)}, which is no protocol; remove it.")
        results.append(kept)
    return results


def _configured(protocol: Protocol, images: str, seed: int, epochs: int) -> Spec:
    spec = replace(protocol.spec, data=images)
    if images != MNIST:  # protocols use as many images as MNIST has
        spec = replace(spec, images=replace(spec.images, train_images=None))
    return replace(spec, training=replace(spec.training, epochs=epochs, seed=seed))


def _train(how: How, path: Path, preset: str, spec: Spec) -> None:
    """Start or resume the run; a run that is long enough is left as it is."""
    if not path.exists():
        train.run(how.backend, train.Train(spec, preset, how.data_root, how.device, out=path))
        return
    run = run_folder.read(path)
    if not same_run(run.spec, spec):
        raise InputError(f"{path} is a run of another configuration; remove it or give another --out.")
    tested = [record["epoch"] for record in metrics.read(run) if record["split"] == "test"]
    if not tested or tested[-1] < spec.training.epochs:
        train.run(
            how.backend, replace(train.resume_command(path), spec=spec, data_root=how.data_root, device=how.device)
        )
