"""Runs on several devices or processes, for tests and `scripts/stress.py distributed`.

`python -m parity_tests.support.distributed_runs PACKAGE OUT DEVICES NAME...` trains the small runs of these names on
each of these numbers of devices, the largest first (8,1,2), with sharded parameters for a number with an s (8s), and
writes all results to OUT/NAME-DEVICES.npz. Under torchrun, or with COORDINATOR, PROCESSES and PROCESS in the
environment, it is one of several processes."""

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import streaming
from jaxvae.shared.training.meeting import free_port
from parity_tests.harness.compare import Gap, gap
from parity_tests.support.tiny import small, some
from parity_tests.support.warm import Process

STEPS, IMAGES = 7, 65  # in epochs of five steps; the last has one image, so all devices but one have none


def shared(name: str) -> Spec:
    """The small preset in float64, with batch sizes divisible by 8; `everything` adds options of no preset, and
    wide-NAME has layers whose widths 8 divides."""
    width, name = (8, name.removeprefix("wide-")) if name.startswith("wide-") else (1, name)
    spec = small("conditional" if name == "everything" else name)
    model = replace(spec.model, hidden=tuple(width * size for size in spec.model.hidden), latent=width * 4)
    if name == "everything":
        model = replace(model, likelihood="gaussian-learned")
        how = {"binarization": "dynamic", "corruption": "hidden-dropout", "corruption_level": 0.3, "validation": 5}
        spec = replace(spec, model=model, images=replace(spec.images, **how))
        spec = replace(spec, training=replace(spec.training, ema=0.5, patience=3, clip=1.0))
    training = replace(spec.training, batch_size=16, epochs=2, max_steps=STEPS, dtype="float64")
    return replace(spec, model=model, training=training)


def trained(package: Any, name: str, device: Any) -> dict[str, np.ndarray]:
    """Train the run of that name and return all its numbers; NAME@BYTES streams the images in blocks of that size."""
    name, _, size = name.partition("@")
    spec, seen = shared(name), []
    data = some(spec)
    images = IMAGES + spec.images.validation
    data = data._replace(train=data.train[:images], train_labels=data.train_labels[:images])
    with tempfile.TemporaryDirectory() as folder:
        if size:
            np.save(Path(folder) / "train.npy", data.train)
            data = data._replace(train=streaming.Mapped(np.load(Path(folder) / "train.npy", mmap_mode="r")))  # type: ignore
        state = package.fit(spec, data, seen.append, device, stream=int(size) if size else None)
    return {
        "terms": np.concatenate([progress.train for progress in seen]),
        "tests": np.stack([progress.test for progress in seen]),
        "validation": np.array([progress.validation for progress in seen if progress.validation is not None]),
        **{f"average.{name}": array for name, array in package.to_arrays(spec, state.evaluated).items()},
        **package.to_arrays(spec, state[0]),
        **package.optimizer_to_arrays(spec, state[1]),
    }


def difference(actual: Path, expected: Path) -> Gap:
    """Return the largest difference of two of these runs, relative to each tensor's largest entry."""
    return gap(*(dict(np.load(path)) for path in (actual, expected)))


def started(module: str, arguments: Sequence[str], processes: int = 2, flags: bool = True) -> list[Process]:
    """Start processes of a module that train together.

    They get the coordinator by flags (`flags`), unless there is only one, or by the environment.
    """
    at = f"localhost:{free_port()}"
    children = []
    for i in map(str, range(processes)):
        options = ["--coordinator", at, "--processes", str(processes), "--process", i] if flags else []
        named = {} if flags else {"COORDINATOR": at, "PROCESSES": str(processes), "PROCESS": i}
        command = ["-m", module, *arguments, *(options if processes > 1 else [])]
        children.append(Process(*command, env={**os.environ, **named}))
    return children


def ended(processes: Sequence[Process]) -> list[tuple[int, str, str]]:
    """Wait for the processes and return the status, standard output and standard error of each."""
    outputs = [process.communicate() for process in processes]
    return [(process.poll() or 0, *output) for process, output in zip(processes, outputs, strict=True)]


class Compiled(logging.Handler):
    """Counts the compilations of an epoch that JAX logs."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.epochs += record.getMessage().startswith("Compiling jit(train_epoch)")


def main(package_name: str, out: str, devices: str, *names: str) -> None:
    package = import_module(package_name)
    if "COORDINATOR" in os.environ:
        package.join(os.environ["COORDINATOR"], int(os.environ["PROCESSES"]), int(os.environ["PROCESS"]))
    elif "RANK" in os.environ:
        package.join()
    if package_name == "jaxvae":
        import jax

        jax.config.update("jax_log_compiles", True)
        logging.getLogger("jax").propagate = False
    for count in devices.split(","):
        shard = "parameters" if count.endswith("s") else None
        device = package.prepare("cpu", "float64", int(count.rstrip("s")), shard)
        for name in names:
            compiled = Compiled()
            logging.getLogger("jax").handlers = [compiled]
            numbers = trained(package, name, device)
            if package.first():
                np.savez(Path(out) / f"{name}-{count}.npz", compiled=np.array(compiled.epochs), **numbers)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
