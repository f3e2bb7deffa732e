"""The parts of a configuration: model, objective, training and images."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

from typing_extensions import Doc

from jaxvae.shared.config import layer_words, likelihoods, networks
from jaxvae.shared.config.choices import (
    Activation,
    Binarization,
    ClipRule,
    Corruption,
    Dtype,
    Form,
    Init,
    Norm,
    Output,
    PosteriorName,
    Precision,
    Range,
    Schedule,
    Stored,
    Units,
    require,
    require_not_negative,
    require_positive,
    require_seed,
)
from jaxvae.shared.config.fields import LATER, check_fields
from jaxvae.shared.config.likelihoods import LikelihoodName
from jaxvae.shared.config.networks import NetworkName
from jaxvae.shared.config.own import Parts
from jaxvae.shared.errors import InputError

MOST_LAYERS = 100  # hidden ones; a weight file's header for as many tensors is below its limit
_MOST_NOISE, _VARIANCES = 1e3, (1e-12, 1e12)  # beyond these a loss loses its precision in float32

_ENCODER_HELP = (
    f"The encoder's layers before its heads, in words, for the network `layers`. {layer_words.HELP} Maps are flattened "
    "in height, width, channel order for a linear layer, in PyTorch in channel, height, width order."
)
_DECODER_HELP = (
    "The decoder's layers in such words, for the network `layers`. The latents are a map of one pixel; the last word "
    "is the output: it has no ending, and gives the image, or as `linear784` all its pixels."
)


@dataclass(frozen=True)
class ModelSpec:
    """The model: encoder and decoder networks, posterior and likelihood."""

    image: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of an image. Outside the networks an image is flattened in this order."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers, or the channels of its convolutions; the decoder has them in reverse. The
    network `layers` has none."""
    latent: int = 20
    """Number of latent dimensions."""
    network: Annotated[NetworkName, Doc(networks.HELP)] = "mlp"
    activation: Activation = "relu"
    """Activation after every hidden layer. Below 0 `leaky-relu` has slope `slope`, and `leaky-relu-0.2` slope 0.2;
    `softplus` is log(1 + e^x); `elu` is e^x - 1 below 0."""
    posterior: PosteriorName = "gaussian"
    """The encoder's output. `gaussian`: mean and logvar; `log-sigma`: mean and the log of the standard deviation;
    `relu-sigma`: mean and standard deviation, each after a ReLU; `point`: a code, not a distribution; `relu-point`: a
    code after a ReLU."""
    likelihood: Annotated[LikelihoodName, Doc(likelihoods.HELP)] = "bernoulli"
    variance: float = 1.0
    """The variance of the `gaussian` likelihood, in squared pixel units, or where `gaussian-learned` starts."""
    output: Output = "bounded"
    """The mean of a Gaussian pixel: `bounded`, by a sigmoid to [0, 1] or by tanh to [-1, 1]; `linear`, the decoder's
    output itself; or `tanh`, for pixels in [0, 1] too."""
    classes: int = 0
    """Number of classes; the one-hot label is appended to the encoder and decoder inputs. 0 for an unconditional
    model."""
    discriminator: tuple[int, ...] = ()
    """Widths of the discriminator's hidden layers, each followed by ReLU, for the adversarial objective."""
    init: Init = "pytorch"
    """Initial weights, drawn from U(-a, a). `pytorch`: a = 1/sqrt(fan_in), biases too; with the others biases start at
    0. `lecun`: a = sqrt(3 / fan_in), the variance of Flax's default; `glorot`: a = sqrt(6 / (fan_in + fan_out));
    `glorot-data`: the same, but the decoder's last bias starts at the log-odds of the mean image."""
    encoder: Annotated[tuple[str, ...], Doc(_ENCODER_HELP)] = field(default=(), metadata=LATER)
    decoder: Annotated[tuple[str, ...], Doc(_DECODER_HELP)] = field(default=(), metadata=LATER)
    slope: float = field(default=0.01, metadata=LATER)
    """The slope of `leaky-relu` below 0."""
    norm: Norm = field(default="batch", metadata=LATER)
    """What follows each convolution of the network `conv`, before its activation: `batch` norm, or `none`, which is
    better for small batches."""
    parts: Parts = field(default=Parts(), metadata=LATER)
    """A likelihood, networks and an objective of your own, in Python only: `Parts` of either package."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.network == "layers" and self.hidden == ModelSpec.hidden:
            object.__setattr__(self, "hidden", ())
        for name in ("hidden", "discriminator", "encoder", "decoder"):
            what = "words" if name in ("encoder", "decoder") else "widths"
            require(len(getattr(self, name)) <= MOST_LAYERS, name, f"at most {MOST_LAYERS} {what}", getattr(self, name))
        for size in self.image:
            require_positive("image", size)
        for width in self.hidden:
            require_positive("hidden", width)
        for width in self.discriminator:
            require_positive("discriminator", width)
        require_positive("latent", self.latent)
        low, high = _VARIANCES
        require(low <= self.variance <= high, "variance", f"from {low:g} to {high:g}", self.variance)
        require_not_negative("classes", self.classes)
        require(0 <= self.slope <= 1, "slope", "from 0 to 1", self.slope)
        if self.network == "layers":
            layer_words.check(self.encoder, self.decoder, self.image, self.latent)

    @property
    def pixels(self) -> int:
        """Values in one image: height * width * channels."""
        return math.prod(self.image)

    @property
    def samples_latents(self) -> bool:
        """Whether the posterior is a distribution to sample from, not a code."""
        return self.has_logvar or self.posterior == "relu-sigma"

    @property
    def has_logvar(self) -> bool:
        """Whether the posterior is a Gaussian whose log-variance the encoder gives, at whatever scale."""
        return self.posterior in ("gaussian", "log-sigma")


@dataclass(frozen=True)
class ObjectiveSpec:
    """The loss that training minimizes."""

    beta: float = 1.0
    """Weight of the KL divergence; 1 is the evidence lower bound."""
    form: Form = "elbo"
    """The objective. `elbo`: reconstruction + beta * kl; `capacity`: reconstruction + gamma * |kl - C|, with C rising
    to `capacity`; `iwae`: the importance-weighted bound; `reconstruction`: that term alone; `adversarial`:
    reconstruction, with a discriminator that tells latents from draws of the prior."""
    units: Units = "image"
    """Units of the loss that the optimizer minimizes: nats per `image`; nats per `pixel`; or `mixed`, reconstruction
    per pixel and kl per image, which multiplies beta and gamma by the number of pixels."""
    samples: int = 1
    """Number of latents drawn for each image."""
    warmup: int = 0
    """Steps over which beta rises linearly from 0; 0 for none."""
    gamma: float = 10.0
    """Weight of |kl - C| in the capacity objective."""
    capacity: float = 25.0
    """The final value of C, nats per image."""
    capacity_steps: int = 10_000
    """Steps over which C rises linearly from 0."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(math.isfinite(self.beta) and self.beta >= 0, "beta", "finite and at least 0", self.beta)
        require_positive("samples", self.samples)
        require_positive("capacity_steps", self.capacity_steps)
        for name in ("warmup", "gamma", "capacity"):
            require_not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class TrainingSpec:
    """Length, seed and precision of the training, and the settings of Adam."""

    epochs: int = 10
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after this many steps, if that comes before the last epoch's end."""
    batch_size: int = 128
    """Images per step; the last batch of an epoch holds the images that are left."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    seed: int = 0
    """The run's only source of randomness: weights, order, noise and pictures are all drawn from its key."""
    dtype: Dtype = "float32"
    """Precision of the weights and of all computation. With `bfloat16` the layers compute in bfloat16 during training;
    weights, Adam's moments, losses and evaluation are float32."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    eps: float = 1e-8
    """Adam's epsilon, added to the root of the second moment."""
    schedule: Schedule = "exponential"
    """How the learning rate changes. `exponential`: it is multiplied by `decay` after each epoch; `iwae`: in
    stage i = 0, 1, ..., 7, of 3^i epochs, it is the initial rate times 10^(-i/7); `cosine`: it falls to 0 along half
    a cosine, in `decay_steps` steps; `steps`: it is multiplied by `decay` after every `decay_steps` steps."""
    decay: float = 1.0
    """Factor of the learning rate from one epoch to the next, or for `steps` from one stretch of `decay_steps` steps to
    the next; 1 for a constant rate."""
    decay_steps: int | None = field(default=None, metadata=LATER)
    """Steps of the schedules `cosine` and `steps`, counted from the end of the rate's warm-up. By default a cosine
    falls up to the last step of the run."""
    rate_warmup: int = field(default=0, metadata=LATER)
    """Steps over which the learning rate rises: step t = 0, 1, ... has (t + 1) / N of it; 0 for none."""
    weight_decay: float = field(default=0.0, metadata=LATER)
    """AdamW's weight decay: a step also subtracts this share of every weight, times the learning rate."""
    clip: float = field(default=0.0, metadata=LATER)
    """The largest norm of an update's whole gradient, which is scaled down to it; 0 for any norm. The gradient is that
    of what is minimized, see `units`."""
    clip_rule: ClipRule = field(default="torch", metadata=LATER)
    """How a gradient is scaled down. `torch`: by clip / (norm + 1e-6), as torch.nn.utils.clip_grad_norm_; `optax`: by
    clip / norm, as optax.clip_by_global_norm."""
    ema: float = field(default=0.0, metadata=LATER)
    """Decay of an exponential moving average of the weights, e.g. 0.999, which is evaluated, drawn and saved in place
    of the weights; 0 for none. After step t = 1, 2, ... the decay is min(ema, (1 + t) / (10 + t)), so that a short run
    is not dominated by its initial weights."""
    patience: int = field(default=0, metadata=LATER)
    """End the training when the validation loss has not improved for this many epochs; 0 for never. Needs images held
    out by `validation`."""
    precision: Precision = field(default="float32", metadata=LATER)
    """Precision of the layers' products in training, those of gradients too. `float32`: all bits, on GPUs and TPUs too;
    `tf32` and `bfloat16`: of operands rounded to 11 and 8 significant bits; `bf16x3`: three products of two bfloat16
    numbers that stand for each operand. Sums, weights, Adam and evaluation are float32. A device without such products
    emulates them, which is slower."""

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive("epochs", self.epochs)
        require_positive("max_steps", 1 if self.max_steps is None else self.max_steps)
        require_positive("batch_size", self.batch_size)
        require_positive("learning_rate", self.learning_rate)
        require_seed(self.seed)
        for name in ("beta1", "beta2", "ema"):
            require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1", getattr(self, name))
        require_positive("eps", self.eps)
        require(0 < self.decay <= 1, "decay", "above 0 and at most 1", self.decay)
        if self.decay != 1 and self.schedule != "steps":  # learning_rates has one for each epoch
            require(self.epochs <= 10**6, "epochs", "at most 1000000 with a decay", self.epochs)
        if self.schedule in ("iwae", "cosine") and self.decay != 1:
            raise InputError(f"The {self.schedule} schedule has its own decay; give --decay 1, found {self.decay:g}.")
        by_step = self.schedule in ("cosine", "steps")
        if self.decay_steps is not None:
            require_positive("decay_steps", self.decay_steps)
            if not by_step:
                raise InputError(
                    f"Only the schedules cosine and steps have decay_steps, and {self.schedule} is by epoch; leave out "
                    f"--decay-steps, found {self.decay_steps}."
                )
        elif self.schedule == "steps":
            raise InputError("The schedule steps needs the steps after which the rate falls; give --decay-steps.")
        if self.schedule == "steps" and self.decay == 1:
            raise InputError("The schedule steps multiplies the rate by the decay, which is 1; give a --decay below 1.")
        for name in ("rate_warmup", "weight_decay", "clip", "patience"):
            require_not_negative(name, getattr(self, name))
        require(
            self.weight_decay * self.learning_rate < 1, "weight_decay", "below 1 / learning_rate", self.weight_decay
        )
        if self.precision != "float32" and self.dtype != "float32":
            raise InputError(
                f"A precision is of products of float32 numbers, and the dtype is {self.dtype}; give --dtype float32, "
                f"or leave out --precision, found {self.precision}."
            )
        if self.clip_rule != "torch" and not self.clip:
            raise InputError("Without a clip there is no rule of it; give --clip, or leave out --clip-rule.")

    @property
    def stored(self) -> Stored:
        """Precision of the weights and of evaluation."""
        return "float32" if self.dtype == "bfloat16" else self.dtype

    def epoch_steps(self, images: int) -> int:
        """Steps in an epoch over `images` images."""
        return -(-images // self.batch_size)

    def images_seen(self, step: int, images: int) -> int:
        """Images that the first `step` steps of a run take, with `images` images in an epoch."""
        epochs, rest = divmod(step, self.epoch_steps(images))
        return epochs * images + rest * self.batch_size

    def total_steps(self, images: int) -> int:
        """Steps in a whole run over `images` images."""
        steps = self.epochs * self.epoch_steps(images)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def stretch(self) -> int:
        """Steps in which the rate falls to 0, or after which it falls. Raises InputError if that is the whole run."""
        if self.decay_steps is None:
            raise InputError(
                "The cosine falls up to the run's last step, which is not known here; give decay_steps, or take "
                "training.resolved(images)."
            )
        return self.decay_steps

    def resolved(self, images: int) -> Self:
        """Set the `decay_steps` of a cosine over the whole run, with `images` images in an epoch."""
        if self.schedule != "cosine" or self.decay_steps is not None:
            return self
        return replace(self, decay_steps=max(self.total_steps(images) - self.rate_warmup, 1))

    def learning_rates(self) -> tuple[float, ...]:
        """Compute the learning rate of each epoch.

        Returns:
            One rate for each epoch, or a single one if no epoch changes it. What changes it at each step is left out.

        References:
            Burda, Grosse & Salakhutdinov 2016, section 5, for the schedule `iwae`.
        """
        if self.schedule == "iwae":
            stages = [i for i in range(8) for _ in range(3**i)]
            return tuple(self.learning_rate * 10 ** (-i / 7) for i in stages[: self.epochs])
        if self.decay == 1 or self.schedule == "steps":
            return (self.learning_rate,)
        return tuple(self.learning_rate * self.decay**epoch for epoch in range(self.epochs))


@dataclass(frozen=True)
class ImagesSpec:
    """How images are prepared before the model sees them."""

    range: Range = "unit"
    """Pixels in [0, 1] (`unit`) or [-1, 1] (`signed`)."""
    binarization: Binarization = "none"
    """How pixels become 0 or 1. `threshold`: by comparison with one half; `static`: each pixel is drawn once, with its
    grey level as the probability of 1; `dynamic`: it is drawn again at every step. All draws are from the run's key."""
    corruption: Corruption = "none"
    """Corruption of the encoder's input in training, never of the target: `gaussian` noise or `dropout` of pixels;
    `hidden-dropout` drops hidden units of both networks."""
    corruption_level: float = 0.0
    """Standard deviation of the noise in pixel units, or the probability of dropout."""
    train_images: int | None = None
    """Train on only this many of the training images, the first ones, less those held out by `validation`."""
    resize: bool = False
    """Resize images of another size to the model's, and turn colour to grey or grey to colour."""
    flip: bool = field(default=False, metadata=LATER)
    """Mirror each training image left to right with probability 1/2, anew at every step."""
    shift: int = field(default=0, metadata=LATER)
    """Move each training image by up to this many pixels along its height and its width, anew at every step. What comes
    in from beyond an edge repeats the edge."""
    validation: int = field(default=0, metadata=LATER)
    """Hold this many of the training images out for validation, evenly spaced among them; 0 for none. Their loss is
    computed after each epoch, and the weights of the epoch with the lowest are kept. They are never trained on."""

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive("train_images", 1 if self.train_images is None else self.train_images)
        for name in ("shift", "validation"):
            require_not_negative(name, getattr(self, name))
        level, what = self.corruption_level, self.corruption
        if what == "none":
            require(level == 0, "corruption_level", "0 without a corruption", level)
        elif what == "gaussian":
            require(0 < level <= _MOST_NOISE, "corruption_level", f"above 0 and at most {_MOST_NOISE:g}", level)
        else:
            require(0 < level < 1, "corruption_level", "above 0 and below 1 for dropout", level)

    @property
    def augments(self) -> bool:
        """Whether training sees other views of the images."""
        return self.flip or self.shift > 0
