"""A backend in numpy that "trains" in microseconds, to test what commands do around training, saving and stopping.

`python -m parity_tests.support.numpy_backend [--die POINT:N] [--limit KB] COMMAND...` is its command line. With --die
it kills itself with SIGKILL when it reaches a named point of writing a file for the N-th time; --limit is the largest
size of a file.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from jaxvae.shared import cli, safe_io
from jaxvae.shared.backend import Backend, Latents, Part, Progress
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout, weight_file
from jaxvae.shared.runs import checkpoints
from jaxvae.shared.runs.best_epoch import is_over
from jaxvae.shared.training.interval import Pace
from parity_tests.support.warm import python

POINTS = (
    "before",
    "mid-write",
    "before fsync",
    "after fsync",
    "before rename",
    "after rename",
    "before the listing",
    "before pruning",
    "while pruning",
)
# All small runs by command have these sizes, so that JAX compiles their programs once per test session.
SIZES = ["--data", "digits", "--hidden", "16", "--latent", "3"]


class State(NamedTuple):
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    step: int
    key: np.ndarray
    average: None = None

    @property
    def evaluated(self) -> dict[str, np.ndarray]:
        return self.weights


def step(state: State) -> tuple[State, np.ndarray]:
    """Take a step that depends on every bit of the state."""
    t = np.float32(state.step + 1)
    moved = {
        n: a * np.float32(0.9) + np.sin(t + np.arange(a.size, dtype=np.float32)).reshape(a.shape) / np.float32(8)
        for n, a in state.weights.items()
    }
    optimizer = {
        n: np.asarray(t, np.int32) if n == "step" else a * np.float32(0.9) + 1 / t for n, a in state.optimizer.items()
    }
    parts = np.array([abs(a).sum(dtype=np.float32) for a in list(moved.values())[:2]], np.float32)
    return State(moved, optimizer, state.step + 1, state.key), np.array([parts.sum(), *parts], np.float32)


def fit(
    spec: Spec,
    data: Any,
    on_epoch: Any,
    device: Any,
    start: Any,
    on_part: Any,
    every: Any,
    stream: Any,
    history: Sequence[float],
) -> None:
    """Train; the validation loss after step t is 10 + |t - 5|."""
    steps, total = spec.training.epoch_steps(len(data.train)), spec.training.total_steps(len(data.train))
    table = layout.table(spec.model)
    fresh = {p.name: np.full(p.shape, 0.5, np.float32) for p in table}
    moments = {f"{m}.{p.name}": np.zeros(p.shape, np.float32) for m in ("exp_avg", "exp_avg_sq") for p in table}
    first = State(fresh, {**moments, "step": np.asarray(0, np.int32)}, 0, np.array([0, spec.training.seed], np.uint32))
    state, before = (first, []) if start is None else start
    log, pace, losses = [*before], Pace(every, True), [*history]
    for begun in range(state.step - len(log), total, steps):
        end = min(begun + steps, total)
        while state.step < end:
            since = state.step
            for _ in range(since, pace.next_stop(since, end)):
                state, terms = step(state)
                log.append(terms)
            pace.took(state.step - since)
            on_part(Part(state, begun // steps + 1, state.step, np.array(log)))
        epoch, validated = begun // steps + 1, None
        if data.validation is not None:
            validated = np.array([10.0 + abs(state.step - 5), 9.0, 1.0])
            losses.append(float(validated[0]))
        on_epoch(Progress(state, epoch, state.step, np.array(log), np.asarray(log[-1], np.float64), validated))
        if is_over(losses, spec.training.patience):
            break
        log = []


def load_checkpoint(path: Path, device: Any) -> tuple[Spec, State, np.ndarray]:
    loaded = weight_file.load_checkpoint(path)
    return loaded.spec, State(loaded.weights, loaded.optimizer, loaded.step, loaded.key), loaded.train


def save_checkpoint(path: Path, spec: Spec, state: State, train: np.ndarray) -> None:
    weight_file.save_checkpoint(path, weight_file.Checkpoint(spec, *state[:2], state.step, state.key, train))


def encode_images(spec: Spec, weights: dict[str, np.ndarray], images: np.ndarray, *of: Any) -> Latents:
    return Latents(images.reshape(len(images), -1)[:, : spec.model.latent] / 255, None, None)


def pictures(spec: Spec, weights: dict[str, np.ndarray], *of: Any) -> np.ndarray:
    return np.full((4, *spec.model.image), weights["encoder.mean.bias"][0] % 1)


def not_offered(*arguments: Any) -> Any:
    raise NotImplementedError


class NumpyBackend:
    """Trains, saves and draws; the other functions of the protocol raise NotImplementedError."""

    __name__ = "jaxvae"
    fit = staticmethod(fit)
    save = staticmethod(weight_file.save)
    save_checkpoint = staticmethod(save_checkpoint)
    load_checkpoint = staticmethod(load_checkpoint)
    encode_images = staticmethod(encode_images)
    sample = staticmethod(pictures)

    load = to_arrays = read_foreign = pack_foreign = export_model = staticmethod(not_offered)
    join = root_key = average_terms = log_likelihood = see_images = decode_latents = staticmethod(not_offered)
    draw_latents = decode_images = interpolate = traverse = manifold = staticmethod(not_offered)

    def prepare(self, *settings: Any) -> str:
        return "numpy"

    def device_label(self, device: str) -> str:
        return device

    def processes(self) -> int:
        return 1

    def shares(self) -> int:
        return 1

    def first(self) -> bool:
        return True

    def agreed(self, number: int) -> int:
        return number

    def gathered(self, spec: Spec, state: Any) -> Any:
        return state

    def gradient_norm(self, *given: Any) -> float:
        return 0.25

    def stream_key(self, *names: Any) -> None:
        return None

    def reconstruct(self, spec: Spec, weights: Any, images: np.ndarray, labels: Any = None) -> np.ndarray:
        return pictures(spec, weights)[:1].repeat(len(images), 0)


NUMPY_BACKEND: Backend = NumpyBackend()


def dying(point: str, times: int) -> Any:
    """Patch a function that writes files so that it kills the process at the point."""
    left = [times]

    def arrive() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Any, before: bool) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            if before:
                arrive()
            value = function(*arguments, **options)
            if not before:
                arrive()
            return value

        return called

    def halved(*arguments: Any, **options: Any) -> Any:
        file = fdopen(*arguments, **options)
        write = file.write

        def in_two(content: bytes) -> None:
            write(content[: len(content) // 2])
            file.flush()
            arrive()
            write(content[len(content) // 2 :])

        file.write = in_two
        return file

    fdopen = os.fdopen

    match point:
        case "before":
            return mock.patch.object(tempfile, "mkstemp", around(tempfile.mkstemp, True))
        case "mid-write":
            return mock.patch.object(os, "fdopen", halved)
        case "before fsync" | "after fsync":
            return mock.patch.object(os, "fsync", around(os.fsync, point == "before fsync"))
        case "before rename" | "after rename":
            return mock.patch.object(Path, "replace", around(Path.replace, point == "before rename"))
        case "before the listing":
            return mock.patch.object(checkpoints, "write_atomically", around(safe_io.write_atomically, True))
        case "before pruning" | "while pruning":
            return mock.patch.object(Path, "unlink", around(Path.unlink, point == "before pruning"))
    raise AssertionError(point)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--limit"]:
        limit = 1024 * int(arguments[1])
        sys.dont_write_bytecode = True  # Python would leave a part of a module's bytecode
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return main(arguments[2:])
    if arguments[:1] == ["--die"]:
        point, _, times = arguments[1].partition(":")
        with dying(point, int(times)):
            return cli.main(NUMPY_BACKEND, arguments[2:])
    return cli.main(NUMPY_BACKEND, arguments)


def numpy_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command line of this module in a process of its own."""
    return python("-m", "parity_tests.support.numpy_backend", *arguments)


def contents(run: Path) -> dict[str, bytes]:
    """Return the contents of a run's files, except config.json, which says when and where it was trained."""
    files = {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    del files["config.json"]
    return files


def copy(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
