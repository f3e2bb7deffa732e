"""Parts of a model that are the user's own, given as functions and classes: a likelihood, networks, an objective.

A file keeps the name of each and a digest of its source, and gets them back from who reads it, see `using`.
"""

import contextlib
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

from jaxvae.shared.config.choices import require
from jaxvae.shared.config.fields import build
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

Logvar = Literal["none", "shared", "pixel"]
"""What the package's decoders give an own likelihood beside the logits."""
_NAMES = ("nll", "mean", "encoder", "decoder", "objective")
_MOST_LETTERS = 100  # of a name


@dataclass(frozen=True)
class Recorded:
    """What a file keeps of an own part: stands for it until it is given."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        require(self.name.isidentifier() and len(self.name) <= _MOST_LETTERS, "name", "a Python name", self.name)
        require(len(self.sha256) == 64 and self.sha256.isalnum(), "sha256", "64 hexadecimal digits", self.sha256)

    def __str__(self) -> str:
        return f"{self.name} (SHA-256 {self.sha256[:12]}...)"

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            f"The configuration has the own part {self}, which was not given; load the run with its parts."
        )


@dataclass(frozen=True)
class _Record:
    """Own parts in a file."""

    nll: Recorded | None = None
    mean: Recorded | None = None
    logvar: Logvar = "none"
    encoder: Recorded | None = None
    decoder: Recorded | None = None
    objective: Recorded | None = None


class Parts:
    """Parts of a model that are the user's own; the class of each package, which describes them, inherits it."""

    def __init__(self, **parts):  # of no types: tyro would make a flag of each
        self.nll, self.mean = parts.get("nll"), parts.get("mean")
        self.logvar: Logvar = parts.get("logvar", "none")
        self.encoder, self.decoder, self.objective = (parts.get(name) for name in ("encoder", "decoder", "objective"))
        if (self.nll is None) != (self.mean is None):
            missing, there = ("mean", "nll") if self.mean is None else ("nll", "mean")
            raise InputError(f"A likelihood of your own needs both nll and mean, found {there} alone; give {missing}.")
        require(self.logvar in get_args(Logvar), "logvar", f"one of {', '.join(get_args(Logvar))}", self.logvar)
        if self.nll is None and self.logvar != "none":
            raise InputError(
                f"Only a likelihood of your own has a logvar, found {self.logvar} without nll; leave it out."
            )
        self.record = {
            name: recorded(part) for name in _NAMES if (part := getattr(self, name)) is not None
        }  # now, so that a part without a source is refused here

    @property
    def networks(self) -> tuple[str, ...]:
        """Which of `encoder` and `decoder` are the user's own."""
        return tuple(name for name in ("encoder", "decoder") if getattr(self, name) is not None)

    @property
    def given(self) -> bool:
        """Whether the functions themselves are there, and not only a file's record of them."""
        return not any(isinstance(getattr(self, name), Recorded) for name in self.record)

    def tensors(self, model: Any, network: str) -> tuple[tuple[tuple[str | int, ...], tuple[int, ...], bool], ...]:
        """List the tensors of an own network: path, shape and whether it is trained. Each package has its own way."""
        return getattr(self, network)(model)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values: names and digests."""
        record: dict[str, Any] = {name: {"name": p.name, "sha256": p.sha256} for name, p in self.record.items()}
        return record | ({} if self.logvar == "none" else {"logvar": self.logvar})

    @classmethod
    def from_json(cls, value: object, where: str) -> "Parts":
        """Find the parts that a file names among those given to `using`; its record of them if none are given.

        Raises:
            InputError: If the value is no such record, or if those given are others.
        """
        defaults = _Record().__dict__
        record = build(_Record, defaults | value if isinstance(value, dict) else value, where)
        kept = Parts(**record.__dict__)
        for parts in _given.get():
            if parts.to_json() == kept.to_json():
                return parts
        if _given.get():
            raise InputError(_difference(kept, _given.get()[0], where))
        return kept

    def __bool__(self) -> bool:
        return bool(self.record)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parts) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        logvar = [] if self.logvar == "none" else [f"logvar={self.logvar!r}"]
        return f"Parts({', '.join([*(f'{name}={part.name}' for name, part in self.record.items()), *logvar])})"

    def _key(self) -> tuple[Any, ...]:
        # The functions, not their sources: one may have another constant from outside its source.
        return (self.logvar, *(getattr(self, name) for name in _NAMES))


_given: ContextVar[tuple[Parts, ...]] = ContextVar("given", default=())


@contextlib.contextmanager
def using(*parts: Parts | None) -> Iterator[None]:
    """Give own parts to all configurations that are read from files within the context."""
    for one in parts:
        if one is not None and not isinstance(one, Parts):
            raise InputError(f"parts must be Parts(...), found {shown(one)}; give the functions by their names.")
    token = _given.set(tuple(one for one in parts if one is not None) or _given.get())
    try:
        yield
    finally:
        _given.reset(token)


def require_given(parts: Parts, where: str) -> None:
    """Raises InputError if a configuration has own parts that its reader didn't give."""
    if not parts.given:
        named = ", ".join(f"{name} {part}" for name, part in parts.record.items())
        raise InputError(
            f"{where} was made with parts of its user's own: {named}; give the same ones: load(path, parts=...), or "
            "--parts FILE.py:NAME at the command line."
        )


@functools.cache
def recorded(part: Any) -> Recorded:
    """Make the record of an own part: its name, and the SHA-256 of its source, a class's methods'.

    Raises:
        InputError: If it is no function or class with a name, or if its source is not available.
    """
    if isinstance(part, Recorded):
        return part
    if not (inspect.isfunction(part) or inspect.isclass(part)) or not part.__name__.isidentifier():
        raise InputError(
            f"An own part must be a function or a class with a name, found {shown(part)}; define it by def or class."
        )
    functions = [part] if inspect.isfunction(part) else [f for f in vars(part).values() if inspect.isfunction(f)]
    sources = [source for function in functions if (source := _source(function)) is not None]
    if not sources:
        raise InputError(
            f"The source of {part.__name__}, of which files keep a digest, is not available; define it in a file or in "
            "a notebook."
        )
    return Recorded(part.__name__, hashlib.sha256("\n".join(sources).encode()).hexdigest())


def _source(function: Any) -> str | None:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # of a dataclass's generated methods
        return None


def _difference(kept: Parts, given: Parts, where: str) -> str:
    """In what given parts are not those of a file."""
    for name in _NAMES:
        there, found = kept.record.get(name), given.record.get(name)
        if there is None and found is not None:
            return f"{where} has no {name}, found {found} among the parts given; give those it was made with."
        if there is not None and found is None:
            return f"{where} has the {name} {there}, found none among the parts given; add it."
        if there != found:
            return (
                f"{where} has the {name} {there}, found {found}; give the source that it was made with, or, if both "
                "compute the same, carry the weights over by from_arrays."
            )
    return f"{where} has the logvar {kept.logvar}, found {given.logvar} among the parts given; give the same."
