"""A protocol carried out: trained from its beginning or from where it was stopped, read, and what was read kept."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.shared import safe_io
from jaxvae.shared.backend import DeviceName
from jaxvae.shared.commands import train
from jaxvae.shared.config.serialization import build
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
    """By what, of which images, and where to."""

    backend: Any
    out: Path
    data: str
    data_root: Path | None
    device: DeviceName
    samples: int


@dataclass(frozen=True)
class Kept:
    """What a run came to: its folder's figures.json."""

    protocol: str
    package: str
    data: str
    seed: int
    epochs: int
    """Trained."""
    device: str
    versions: dict[str, str]
    figures: dict[str, float]


def carried_out(how: How, name: str, seed: int, epochs: int) -> Kept:
    """Trains the protocol for so many epochs, unless that has been done, and reads its figures. Raises StoppedError for
    a signal, NonFiniteError when a number leaves the finite ones, and InputError for what can't be done as asked."""
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


def everything_kept(out: Path) -> list[Kept]:
    """What the runs under `out` came to. Raises InputError naming a file that holds no figures."""
    found = []
    for path in sorted(out.glob(f"*/{_FILE}")):
        try:
            content = safe_io.read_json(path)
        except (ValueError, OSError) as error:
            raise InputError(f"{path} can't be read as JSON ({error}); remove it and run its protocol again.") from None
        kept = build(Kept, content, f"What is kept in {path}")
        if kept.protocol not in PROTOCOLS:
            raise InputError(f"{path} is of {shown(kept.protocol)}, which is no protocol; remove it.")
        found.append(kept)
    return found


def _configured(protocol: Protocol, images: str, seed: int, epochs: int) -> Spec:
    spec = replace(protocol.spec, data=images)
    if images != MNIST:  # which alone has as many as its protocols train on
        spec = replace(spec, images=replace(spec.images, train_images=None))
    return replace(spec, training=replace(spec.training, epochs=epochs, seed=seed))


def _train(how: How, path: Path, preset: str, spec: Spec) -> None:
    """Begins the run, goes on with it, or leaves it as it is: it may have been trained for longer than is asked."""
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
