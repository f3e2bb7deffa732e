"""The configuration of a run: frozen, hashable, the same object for both packages. Presets are values of it."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxvae.shared.errors import InputError

Dtype = Literal["float32", "float64"]
DataName = Literal["auto", "mnist", "digits"]


def _require(ok: bool, name: str, expected: str, found: object) -> None:
    if not ok:
        raise InputError(f"The configuration's {name} must be {expected}, found {found!r}.")


def _positive(name: str, value: float) -> None:
    if isinstance(value, int):
        _require(0 < value < 2**31, name, "positive and below 2^31", value)
    else:
        _require(math.isfinite(value) and value > 0, name, "positive and finite", value)


def require_seed(seed: int) -> None:
    """Raises InputError unless the seed has 64 bits at most."""
    _require(0 <= seed < 2**64, "seed", "an integer from 0 to 2^64 - 1", seed)


@dataclass(frozen=True)
class ModelSpec:
    """An MLP encoder and decoder around a diagonal Gaussian latent, with Bernoulli pixels."""

    image: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of an image. Networks see it flattened in this order."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers, each followed by ReLU; the decoder has them in reverse."""
    latent: int = 20
    """Number of latent dimensions."""

    def __post_init__(self) -> None:
        for name in ("image", "hidden"):  # a list would do, but for the hash
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for size in self.image:
            _positive("image", size)
        for width in self.hidden:
            _positive("hidden", width)
        _positive("latent", self.latent)

    @property
    def pixels(self) -> int:
        """Numbers in one image: height * width * channels."""
        return math.prod(self.image)


@dataclass(frozen=True)
class ObjectiveSpec:
    """loss = reconstruction + beta * kl, in nats per image."""

    beta: float = 1.0
    """Weight of the KL divergence; 1 is the evidence lower bound."""

    def __post_init__(self) -> None:
        _require(math.isfinite(self.beta) and self.beta >= 0, "beta", "finite and at least 0", self.beta)


@dataclass(frozen=True)
class TrainingSpec:
    """How long, how fast, and from which seed a run trains, with Adam(beta1 0.9, beta2 0.999, eps 1e-8)."""

    epochs: int = 10
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after so many steps, if that comes before the last epoch's end."""
    batch_size: int = 128
    """Images per step; the last batch of an epoch holds what is left."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    seed: int = 0
    """The run's only source of randomness: weights, order, noise and pictures all come from its key."""
    dtype: Dtype = "float32"
    """Precision of the weights and of all computation."""

    def __post_init__(self) -> None:
        _positive("epochs", self.epochs)
        _positive("max_steps", 1 if self.max_steps is None else self.max_steps)
        _positive("batch_size", self.batch_size)
        _positive("learning_rate", self.learning_rate)
        require_seed(self.seed)
        _require(self.dtype in typing.get_args(Dtype), "dtype", "float32 or float64", self.dtype)

    def epoch_steps(self, images: int) -> int:
        """Steps in an epoch over so many images."""
        return -(-images // self.batch_size)

    def images_seen(self, step: int, images: int) -> int:
        """Images that so many steps have seen, of so many in an epoch."""
        epochs, rest = divmod(step, self.epoch_steps(images))
        return epochs * images + rest * self.batch_size

    def total_steps(self, images: int) -> int:
        """Steps in the whole run."""
        steps = self.epochs * self.epoch_steps(images)
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True)
class Spec:
    """All that decides a run's numbers. The same Spec is the same run in both frameworks."""

    data: DataName = "auto"
    """The images: `mnist`, the scikit-learn `digits` resized, or `auto` (MNIST, else digits)."""
    model: ModelSpec = field(default_factory=ModelSpec)
    objective: ObjectiveSpec = field(default_factory=ObjectiveSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)

    def __post_init__(self) -> None:
        _require(self.data in typing.get_args(DataName), "data", "auto, mnist or digits", self.data)


PRESETS: dict[str, Spec] = {
    "pytorch-examples": Spec(),  # pytorch/examples/vae: 784-400-20, Adam 1e-3, batch 128, 10 epochs
    "yunjey": Spec(training=TrainingSpec(epochs=15)),  # yunjey/pytorch-tutorial: the same model for 15 epochs
}
DEFAULT_PRESET = "pytorch-examples"


def preset(name: str) -> Spec:
    """The preset of that name. Raises InputError, listing those there are."""
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def to_json(spec: Any) -> dict[str, Any]:
    """A dataclass of this module as plain JSON values, nested as it is."""
    return dataclasses.asdict(spec)


def from_json(value: object, where: str) -> Spec:
    """The Spec that `to_json` wrote. Raises InputError naming the first field of `where` that is unknown, missing,
    mistyped or out of range."""
    return _build(Spec, value, where)


def _build(kind: Any, value: object, where: str) -> Any:
    """`value`, JSON, as an instance of the type `kind`."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object of named fields, found {value!r}.")
        types_of = typing.get_type_hints(kind)
        names = [f.name for f in dataclasses.fields(kind)]
        for name in value:
            if name not in names:
                raise InputError(f"{where} has an unknown field {name!r}; it may have {', '.join(names)}.")
        for name in names:
            if name not in value:
                raise InputError(f"{where} lacks the field {name!r}.")
        built = {name: _build(types_of[name], value[name], f"{where}, {name}") for name in names}
        try:
            return typing.cast(Any, kind)(**built)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(kinds) == len(value):
            return tuple(_build(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif origin is types.UnionType:
        return None if value is None else _build(arguments[0], value, where)
    elif origin is Literal:
        if value in arguments:
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{where} must be {_words(kind)}, found {value!r}.")


def _words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return "a list of integers" if arguments[-1] is ... else f"a list of {len(arguments)} integers"
    return {int: "an integer", float: "a number", str: "text"}.get(kind, str(kind))
