"""The configuration of a run: frozen, hashable, the same object for both packages.

The model is one family with parts to choose: networks, posterior, likelihood, objective, corruption. Parts that make no
sense together are refused, each with a sentence that says why."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxvae.shared.errors import InputError
from jaxvae.shared.strict import shown

Stored = Literal["float32", "float64"]
Dtype = Literal[Stored, "bfloat16"]
Network = Literal["mlp", "conv"]
Activation = Literal["relu", "tanh", "leaky-relu"]
PosteriorName = Literal["gaussian", "relu-sigma", "point", "relu-point"]
LikelihoodName = Literal["bernoulli", "squared-error", "gaussian", "gaussian-learned", "gaussian-pixel"]
Output = Literal["bounded", "linear"]
Init = Literal["pytorch", "lecun", "glorot", "glorot-data"]
Form = Literal["elbo", "capacity", "iwae", "reconstruction", "adversarial"]
Units = Literal["image", "pixel", "mixed"]
Schedule = Literal["exponential", "iwae"]
Range = Literal["unit", "signed"]
Binarization = Literal["none", "threshold", "static", "dynamic"]
Corruption = Literal["none", "gaussian", "dropout", "hidden-dropout"]

DATA = ("auto", "mnist", "fashion-mnist", "kmnist", "emnist", "digits")
EMNIST_SPLITS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
FROM_FILES = ("images:", "npy:", "npz:")
_LAYERS = 100  # hidden ones; a header for as many tensors is still read
_LONG = 4096  # of a path
DATA_WORDS = (
    f"{', '.join(DATA)}, emnist:SPLIT (of {', '.join(EMNIST_SPLITS)}), images:DIR, npy:FILE, npy:DIR or npz:FILE"
)


_LOUDEST, _VARIANCES = 1e3, (1e-12, 1e12)  # beyond which float32 has no room left for a loss


def require(ok: bool, name: str, expected: str, found: object) -> None:
    """Raises InputError, naming the field, unless it is ok."""
    if not ok:
        raise InputError(f"The configuration's {name} must be {expected}, found {shown(found)}.")


def _positive(name: str, value: float) -> None:
    if isinstance(value, int):
        require(0 < value < 2**31, name, "positive and below 2^31", value)
    else:
        require(math.isfinite(value) and value > 0, name, "positive and finite", value)


def _not_negative(name: str, value: float) -> None:
    most = 2**31 if isinstance(value, int) else math.inf
    require(0 <= value < most, name, "finite and at least 0", value)


def _choose(name: str, kind: Any, value: object) -> None:
    require(value in typing.get_args(kind), name, f"one of {', '.join(typing.get_args(kind))}", value)


def require_seed(seed: int) -> None:
    """Raises InputError unless the seed has 64 bits at most."""
    require(0 <= seed < 2**64, "seed", "an integer from 0 to 2^64 - 1", seed)


def require_data(name: str) -> None:
    """Raises InputError unless data can be called so."""
    split = name.removeprefix("emnist:") if name.startswith("emnist:") else None
    path = next((name.removeprefix(prefix) for prefix in FROM_FILES if name.startswith(prefix)), "")
    require(name in DATA or split in EMNIST_SPLITS or path != "", "data", f"one of {DATA_WORDS}", name)
    require(name.isprintable() and len(name) <= _LONG, "data", f"printable, of at most {_LONG} letters", name)


@dataclass(frozen=True)
class ModelSpec:
    """An encoder and a decoder around a latent, what the latent is, and what is said of a pixel."""

    image: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of an image. Everything outside the networks sees it flattened in this order."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers, or the channels of its convolutions; the decoder has them in reverse."""
    latent: int = 20
    """Number of latent dimensions."""
    network: Network = "mlp"
    """`mlp`, or `conv`: 3x3 convolutions of stride 2 with batch norm, and transposed ones back."""
    activation: Activation = "relu"
    """What follows every hidden layer; `leaky-relu` has slope 0.01 below 0."""
    posterior: PosteriorName = "gaussian"
    """`gaussian`: mean and logvar; `relu-sigma`: mean and standard deviation straight from a ReLU; `point`: a code, not
    a distribution; `relu-point`: a code through a ReLU."""
    likelihood: LikelihoodName = "bernoulli"
    """`bernoulli`; `squared-error`, a Gaussian of variance 1/2 without its constant; `gaussian` of a given variance;
    `gaussian-learned` with one learned variance; `gaussian-pixel` with one for each pixel, from the decoder."""
    variance: float = 1.0
    """The variance of the `gaussian` likelihood, in squared pixel units."""
    output: Output = "bounded"
    """A Gaussian's mean: `bounded` by a sigmoid to [0, 1] or by tanh to [-1, 1], or the last layer itself: `linear`."""
    classes: int = 0
    """Number of labels that encoder and decoder are told one-hot; 0 for none."""
    discriminator: tuple[int, ...] = ()
    """Widths of the hidden layers, each followed by ReLU, of the adversarial objective's discriminator of latents."""
    init: Init = "pytorch"
    """Initial weights: `pytorch`: U(-a, a) with a = 1/sqrt(fan_in), biases too. Else biases are 0: `lecun`: a =
    sqrt(3 / fan_in), of the variance that Flax's have; `glorot`: a = sqrt(6 / (fan_in + fan_out)); `glorot-data`: the
    same with the last bias at the mean image's log-odds."""

    def __post_init__(self) -> None:
        for name in ("image", "hidden", "discriminator"):  # a list would do, but for the hash
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("hidden", "discriminator"):
            require(len(getattr(self, name)) <= _LAYERS, name, f"at most {_LAYERS} widths", getattr(self, name))
        for size in self.image:
            _positive("image", size)
        for width in self.hidden:
            _positive("hidden", width)
        for width in self.discriminator:
            _positive("discriminator", width)
        _positive("latent", self.latent)
        low, high = _VARIANCES
        require(low <= self.variance <= high, "variance", f"from {low:g} to {high:g}", self.variance)
        _not_negative("classes", self.classes)
        for name, kind in (("network", Network), ("activation", Activation), ("posterior", PosteriorName)):
            _choose(name, kind, getattr(self, name))
        for name, kind in (("likelihood", LikelihoodName), ("output", Output), ("init", Init)):
            _choose(name, kind, getattr(self, name))

    @property
    def pixels(self) -> int:
        """Numbers in one image: height * width * channels."""
        return math.prod(self.image)

    @property
    def samples_latents(self) -> bool:
        """Whether the encoder gives a distribution, not a code."""
        return self.posterior in ("gaussian", "relu-sigma")


@dataclass(frozen=True)
class ObjectiveSpec:
    """What is minimized. `elbo`: reconstruction + beta * kl."""

    beta: float = 1.0
    """Weight of the KL divergence; 1 is the evidence lower bound."""
    form: Form = "elbo"
    """`elbo`: reconstruction + beta * kl; `capacity`: reconstruction + gamma * |kl - C|, C rising to `capacity`;
    `iwae`: the importance-weighted bound; `reconstruction` alone; `adversarial`: that, then a discriminator."""
    units: Units = "image"
    """What the optimizer is given: nats per `image`; per `pixel`; or `mixed`: reconstruction per pixel, kl per image,
    so that in nats per image beta and gamma count as many times as there are pixels."""
    samples: int = 1
    """Latents drawn for each image."""
    warmup: int = 0
    """Steps over which beta rises in a line from 0; 0 for none."""
    gamma: float = 10.0
    """Weight of the distance of kl from the capacity."""
    capacity: float = 25.0
    """The last C, nats per image."""
    capacity_steps: int = 10_000
    """Steps over which C rises in a line from 0."""

    def __post_init__(self) -> None:
        require(math.isfinite(self.beta) and self.beta >= 0, "beta", "finite and at least 0", self.beta)
        _choose("form", Form, self.form)
        _choose("units", Units, self.units)
        _positive("samples", self.samples)
        _positive("capacity_steps", self.capacity_steps)
        for name in ("warmup", "gamma", "capacity"):
            _not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class TrainingSpec:
    """How long, how fast, and from which seed a run trains, with Adam."""

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
    """Precision of the weights and of all computation. `bfloat16`: of the layers in training alone, forward and back;
    weights, Adam's moments, losses, all other sums and evaluation are float32's."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    eps: float = 1e-8
    """Adam's addition to the root of the second moment."""
    schedule: Schedule = "exponential"
    """The learning rate of epoch e, from 0: `exponential`: times `decay`^e; `iwae`: times 10^(-i/7) for 3^i epochs,
    i = 0, 1, ..., 7."""
    decay: float = 1.0
    """The learning rate's factor from one epoch to the next; 1 keeps it."""

    def __post_init__(self) -> None:
        _positive("epochs", self.epochs)
        _positive("max_steps", 1 if self.max_steps is None else self.max_steps)
        _positive("batch_size", self.batch_size)
        _positive("learning_rate", self.learning_rate)
        require_seed(self.seed)
        _choose("dtype", Dtype, self.dtype)
        _choose("schedule", Schedule, self.schedule)
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        _positive("eps", self.eps)
        require(0 < self.decay <= 1, "decay", "above 0 and at most 1", self.decay)
        if self.decay != 1:  # each epoch has a rate of its own
            require(self.epochs <= 10**6, "epochs", "at most 1000000 with a decay", self.epochs)
        if self.schedule == "iwae" and self.decay != 1:
            raise InputError(f"The iwae schedule has its own decay; give --decay 1, found {self.decay:g}.")

    @property
    def stored(self) -> Stored:
        """The precision of all but the layers in training."""
        return "float32" if self.dtype == "bfloat16" else self.dtype

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

    def learning_rates(self) -> tuple[float, ...]:
        """The learning rate of each epoch; of one for all, where it doesn't change."""
        if self.schedule == "iwae":
            # Burda, Grosse & Salakhutdinov 2016, section 5: 3^i epochs at 0.001 * 10^(-i/7).
            stages = [i for i in range(8) for _ in range(3**i)]
            return tuple(self.learning_rate * 10 ** (-i / 7) for i in stages[: self.epochs])
        if self.decay == 1:
            return (self.learning_rate,)
        return tuple(self.learning_rate * self.decay**epoch for epoch in range(self.epochs))


@dataclass(frozen=True)
class ImagesSpec:
    """What is done to an image before it is seen."""

    range: Range = "unit"
    """Pixels in [0, 1] (`unit`) or [-1, 1] (`signed`)."""
    binarization: Binarization = "none"
    """`threshold`: at half; `static`: each pixel drawn once, with its grey level for probability; `dynamic`: drawn anew
    at every step. All from the run's key."""
    corruption: Corruption = "none"
    """Of what the encoder sees in training, never of what is to be reconstructed: `gaussian` noise or `dropout` of
    pixels; `hidden-dropout` drops hidden units of both networks."""
    corruption_level: float = 0.0
    """The noise's standard deviation in pixel units, or the share that is dropped."""
    train_images: int | None = None
    """Train on the first so many training images only."""
    resize: bool = False
    """Resize images of another size to the model's, and turn colour to grey or grey to colour."""

    def __post_init__(self) -> None:
        _choose("range", Range, self.range)
        _choose("binarization", Binarization, self.binarization)
        _choose("corruption", Corruption, self.corruption)
        _positive("train_images", 1 if self.train_images is None else self.train_images)
        level, what = self.corruption_level, self.corruption
        if what == "none":
            require(level == 0, "corruption_level", "0 without a corruption", level)
        elif what == "gaussian":
            require(0 < level <= _LOUDEST, "corruption_level", f"above 0 and at most {_LOUDEST:g}", level)
        else:
            require(0 < level < 1, "corruption_level", "above 0 and below 1 for dropout", level)


@dataclass(frozen=True)
class Spec:
    """All that decides a run's numbers. The same Spec is the same run in both frameworks."""

    data: str = "auto"
    """The images: `auto` (MNIST, else digits), `mnist`, `fashion-mnist`, `kmnist`, `emnist` or `emnist:SPLIT`, `digits`
    (scikit-learn's, resized), `images:DIR`, `npy:FILE`, `npy:DIR` (of train.npy, train_labels.npy, test.npy and
    test_labels.npy), `npz:FILE`."""
    model: ModelSpec = field(default_factory=ModelSpec)
    objective: ObjectiveSpec = field(default_factory=ObjectiveSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    images: ImagesSpec = field(default_factory=ImagesSpec)

    def __post_init__(self) -> None:
        require_data(self.data)
        for reason in senseless(self.model, self.objective, self.images):
            raise InputError(f"The configuration makes no sense: {reason}.")

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of what a step reports, nats per image; the first is the whole loss."""
        if self.objective.form == "adversarial":
            return ("loss", "reconstruction", "discriminator", "generator")
        return ("loss", "reconstruction", "kl")

    @property
    def phases(self) -> dict[str, tuple[str, ...]]:
        """The updates of a step, in their order, each with an optimizer of its own: which networks each trains. Where
        there is but one it is called nothing."""
        if self.objective.form == "adversarial":
            return {
                "reconstruction": ("encoder", "decoder"),
                "discriminator": ("discriminator",),
                "generator": ("encoder",),
            }
        return {"": ("encoder", "decoder")}

    @property
    def effective_beta(self) -> float:
        """The last weight of the KL divergence, or of its distance from the capacity, in nats per image."""
        weight = self.objective.gamma if self.objective.form == "capacity" else self.objective.beta
        return weight * (self.model.pixels if self.objective.units == "mixed" else 1)

    @property
    def minimized(self) -> float:
        """What the optimizer minimizes, as a share of nats per image."""
        return 1.0 if self.objective.units == "image" else 1 / self.model.pixels


def senseless(model: ModelSpec, objective: ObjectiveSpec, images: ImagesSpec) -> Iterator[str]:
    """Why these parts don't go together, reason by reason; nothing if they do."""
    form, posterior, plain = objective.form, model.posterior, ObjectiveSpec()
    bernoulli, distribution = model.likelihood == "bernoulli", model.samples_latents
    if bernoulli and images.range == "signed":
        yield "a Bernoulli likelihood is of pixels in [0, 1]; for pixels in [-1, 1] take squared-error or a Gaussian"
    if bernoulli and model.output == "linear":
        yield "a Bernoulli likelihood's probability is always bounded; give --output bounded"
    if model.likelihood != "gaussian" and model.variance != 1:
        yield "only the gaussian likelihood has a given variance; give --variance 1"
    if model.init == "glorot-data" and not bernoulli:
        yield "glorot-data starts the last bias at log-odds, which only a Bernoulli likelihood has; take glorot"
    if model.init == "glorot-data" and model.network == "conv":
        yield "glorot-data starts a bias for each pixel, where a conv decoder has one for each channel; take glorot"
    if model.network == "conv" and not model.hidden:
        yield "a conv network needs the channels of at least one convolution in hidden"
    if form in ("elbo", "capacity", "iwae") and not distribution:
        yield f"{form} needs a distribution of latents, which a {posterior} code is not; take the form reconstruction"
    if form == "reconstruction" and distribution:
        yield f"reconstruction alone would shrink a {posterior} posterior to a point; take the posterior point, or elbo"
    if distribution and form in ("elbo", "capacity") and not (objective.beta and objective.gamma):
        name = "beta" if form == "elbo" else "gamma"
        yield f"a {name} of 0 would shrink a {posterior} posterior to a point; give a --{name}, or --posterior point"
    if form == "iwae" and posterior == "relu-sigma":
        yield "iwae needs the posterior's density, which is infinite where relu-sigma's sigma is 0; take gaussian"
    if form == "adversarial" and posterior == "relu-point":
        yield "adversarial matches codes to N(0, I), which a code that is never negative can't follow; take point"
    if form == "adversarial" and not model.discriminator:
        yield "adversarial needs a discriminator; give the widths of its hidden layers"
    if form != "adversarial" and model.discriminator:
        yield (
            f"a discriminator judges for the adversarial objective alone, and {form} has no use for it; give "
            "--discriminator with no widths"
        )
    if objective.samples > 1 and not distribution:
        yield f"several samples of a {posterior} code are all the same; give --samples 1"
    if objective.samples > 1 and form == "adversarial":
        yield "adversarial judges one latent of each image; give --samples 1"
    if form != "elbo" and objective.beta != 1:
        yield f"beta weighs the KL divergence of the elbo, and {form} has none to weigh; give --beta 1"
    if form != "elbo" and objective.warmup:
        yield f"warmup raises beta, which {form} doesn't have; give --warmup 0"
    if form != "capacity" and any(getattr(objective, n) != getattr(plain, n) for n in _CAPACITY):
        given = " ".join(f"--{n.replace('_', '-')} {getattr(plain, n):g}" for n in _CAPACITY)
        yield f"{', '.join(_CAPACITY)} belong to the capacity objective, and {form} has no use for them; give {given}"
    if objective.units == "mixed" and form not in ("elbo", "capacity"):
        yield f"mixed units weigh a KL divergence beside a mean pixel's error, and {form} has no such divergence"
    if images.corruption == "dropout" and images.range == "signed":
        yield "dropout makes pixels 0, which is grey in [-1, 1]; give --range unit, or gaussian noise"
    if not model.hidden and model.activation != ModelSpec().activation:
        yield f"{model.activation} follows hidden layers, and hidden is empty; give --activation relu"
    if images.corruption == "hidden-dropout" and not model.hidden:
        yield "hidden-dropout needs hidden layers, and hidden is empty"


_CAPACITY = ("gamma", "capacity", "capacity_steps")


def same_run(a: Spec, b: Spec) -> bool:
    """Whether two configurations differ in nothing but when they stop."""
    return replace(a, training=replace(a.training, epochs=b.training.epochs, max_steps=b.training.max_steps)) == b


def to_json(spec: Any) -> dict[str, Any]:
    """A dataclass of this module as plain JSON values, nested as it is."""
    return dataclasses.asdict(spec)


def from_json(value: object, where: str) -> Spec:
    """The Spec that `to_json` wrote. Raises InputError naming the first field of `where` that is unknown, missing,
    mistyped or out of range."""
    return build(Spec, value, where)


def build(kind: Any, value: object, where: str) -> Any:
    """`value`, JSON, as an instance of the type `kind`. Raises InputError naming the first field of `where` that is
    unknown, missing, mistyped or out of range."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object of named fields, found {shown(value)}.")
        types_of = _fields(kind)
        for name in value:
            if name not in types_of:
                raise InputError(f"{where} has an unknown field {shown(name)}; it may have {', '.join(types_of)}.")
        for name in types_of:
            if name not in value:
                raise InputError(f"{where} lacks the field {name!r}.")
        built = {name: build(kind, value[name], f"{where}, {name}") for name, kind in types_of.items()}
        try:
            return typing.cast(Any, kind)(**built)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(kinds) == len(value):
            return tuple(build(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {name: build(arguments[1], v, f"{where}, {shown(name)}") for name, v in value.items()}
    elif origin is types.UnionType:
        return None if value is None else build(arguments[0], value, where)
    elif origin is Literal:
        if value in arguments:
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{where} must be {_words(kind)}, found {shown(value)}.")


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """A dataclass's fields and their types."""
    types_of = typing.get_type_hints(kind)
    return {f.name: types_of[f.name] for f in dataclasses.fields(kind)}


def _words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        kind = "integers" if arguments[0] is int else "objects"
        return f"a list of {kind}" if arguments[-1] is ... else f"a list of {len(arguments)} {kind}"
    if origin in (dict, types.UnionType):
        return "an object"
    return {int: "an integer", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind))
