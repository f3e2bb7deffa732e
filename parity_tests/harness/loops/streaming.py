"""Take a training run step by step, so that two runs advance together and no step of either has to be kept."""

import contextlib
import inspect
import queue
import random
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.loops.records import Raw, Start, Step, copied, module_of
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.modules.validation import kind

_CALLBACK = "on_step"


def restartable(run: Any) -> bool:
    """Return whether a run is a function that takes a `Start`: by an argument that is required or named `start`."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = [p for name, p in _parameters(run).items() if name != _CALLBACK]
    return any(p.kind in positional and (p.default is p.empty or p.name == "start") for p in given)


class Stream:
    """A run that waits after each of its steps.

    The global generators of random numbers are put back when it waits, so that each run draws its own numbers from
    them, as if the other weren't there.
    """

    def __init__(self, run: Any, side: str, steps: int, module: nn.Module | None, start: Start | None = None):
        """Begin a run.

        Args:
            run: An iterable of steps, a function that returns one, or a function that calls its argument `on_step` back
                with each.
            side: Whose run it is, JAX or PyTorch.
            steps: Number of steps that are expected of it.
            module: The torch module whose parameters an optimizer holds.
            start: The state to start from; None to start as the run does by itself.
        """
        self.side, self.steps, self.module = side, steps, module
        self.start: Raw | None = None
        """The state before its first step, known once a step was taken."""
        self.taken = 0
        self._draws = _draws()
        self._yielded = self._begun(run, start)

    def step(self) -> Raw:
        """Take the next step and copy what the run yields of it.

        Raises:
            InputError: If there is none, or it is anything but a step.
            ModelError: If the run's own code raises an exception, which is its cause.
        """
        outer = _draws()
        _draw_from(self._draws)
        try:
            for yielded in self._yielded:
                fields = _fields(yielded, self.side, self.taken)
                given = fields.parameters if isinstance(fields, Start) else fields.get("parameters")
                if (module := module_of(given)) is not None:  # a run that is started again may make another one
                    self.module = module
                if not isinstance(fields, Start):
                    raw = copied(fields, f"The {self.side} run, step {self.taken}", self.module)
                    self.taken += 1
                    return raw
                self.start = copied(fields._asdict(), f"The {self.side} run, its start", self.module)
        finally:
            self._draws = _draws()
            _draw_from(outer)
        if not self.taken:
            raise InputError(f"The {self.side} run yields no step: yield a Step after each of its steps.")
        raise InputError(
            f"The {self.side} run yields {self.taken} steps, expected {self.steps}: pass steps={self.taken}, or train "
            "longer."
        )

    def close(self) -> None:
        """End the run, within its last step."""
        self._yielded.close()

    def _begun(self, run: Any, start: Start | None) -> Generator[Any, None, None]:
        given = [start] if restartable(run) else []
        if _CALLBACK in _parameters(run):
            made: Any = _called_back(lambda on_step: run(*given, **{_CALLBACK: on_step}))
        else:
            with raised_by(f"The {self.side} run, before its first step,"):
                made = run(*given) if callable(run) else run
        if not isinstance(made, Iterable) or isinstance(made, Mapping | str | Step | Start):
            raise InputError(
                f"The {self.side} run is {kind(made)}, expected a generator of steps or a function that returns one: "
                "yield a Step after each step."
            )
        iterator = iter(made)
        try:
            while True:
                with raised_by(f"The {self.side} run, step {self.taken},"):
                    try:
                        value = next(iterator)
                    except StopIteration:
                        return
                yield value
                del value
        finally:
            if callable(run) and isinstance(iterator, Generator):
                iterator.close()


def collect(run: Any, side: str, steps: int, module: nn.Module | None, start: Start | None = None) -> list[Raw]:
    """Take some steps of a run and end it; the arguments are those of a `Stream`."""
    with contextlib.closing(Stream(run, side, steps, module, start)) as stream:
        return [stream.step() for _ in range(steps)]


class _Enough(BaseException):
    """Ends a run that calls back; no loop that catches exceptions catches it."""


def _called_back(run: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """Yield what a function calls back with, from a thread in which it waits until it is asked for more."""
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    given: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def on_step(yielded: Any) -> None:
        given.put(("step", yielded))
        if not asked.get():
            raise _Enough

    def work() -> None:
        try:
            run(on_step)
            given.put(("end", None))
        except _Enough:
            pass
        except BaseException as error:
            given.put(("error", error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            what, value = given.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
            del value
            asked.put(True)
    finally:
        asked.put(False)
        thread.join()


def _parameters(run: Any) -> Mapping[str, inspect.Parameter]:
    if not callable(run):
        return {}
    try:
        return inspect.signature(run).parameters
    except (TypeError, ValueError):
        return {}


def _fields(yielded: Any, side: str, i: int) -> Start | dict[str, Any]:
    if isinstance(yielded, Start):
        if i:
            raise InputError(
                f"The {side} run yields a Start after step {i - 1}, expected it before its first step only."
            )
        return yielded
    if isinstance(yielded, Step):
        return yielded._asdict()
    if not isinstance(yielded, Mapping):
        raise InputError(f"The {side} run yields {kind(yielded)} at step {i}, expected a Step or a dict of its fields.")
    if unknown := [name for name in yielded if name not in Step._fields]:
        raise InputError(
            f"The {side} run yields {unknown[0]!r} at step {i}; the fields of a Step are {', '.join(Step._fields)}."
        )
    return dict(yielded)


def _draws() -> tuple[Any, ...]:
    """Return the states of the global generators of random numbers."""
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpu


def _draw_from(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])
