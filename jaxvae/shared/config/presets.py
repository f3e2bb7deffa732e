"""Well-known programs as configurations: the architecture, loss, data range and optimizer of each one's source.

Deliberate differences from the sources: a bias before batch norm is not trained, since its gradient is only rounding,
which Adam would turn into steps; `adversarial` has N(0, I) for its prior and Adam, where the paper has a wider prior
and momentum; `conv`, `beta-h` and `beta-b` train by default on 28x28 images, not cropped and not flipped, for 10, 10
and 12 epochs; `flax-example` draws weights of Flax's variance from a uniform distribution, and trains for 10 epochs
with the last, smaller batch; `iwae-paper` has the Adam of the paper, not of its authors' program."""

import dataclasses
from typing import Any

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown, suggestion

_AUTOENCODER = ModelSpec(hidden=(256, 64), posterior="relu-point", likelihood="squared-error")
_RECONSTRUCTION = ObjectiveSpec(form="reconstruction", units="pixel")
_AUTOENCODER_TRAINING = TrainingSpec(batch_size=32)
_CONV = ModelSpec(
    hidden=(32, 64, 128, 256, 512),
    latent=128,
    network="conv",
    activation="leaky-relu",
    likelihood="squared-error",
)
_CONV_TRAINING = TrainingSpec(batch_size=64, learning_rate=5e-3, decay=0.95)
_KLD_WEIGHT = 0.00025  # beside the mean squared error, in AntixK's configurations
_SIGNED = ImagesSpec(range="signed")
_IWAE_PAPER = ModelSpec(hidden=(200, 200), latent=50, activation="tanh", init="glorot-data")

PRESETS: dict[str, Spec] = {
    # pytorch/examples/vae: 784-400-20, Adam 1e-3, batch 128, 10 epochs
    "pytorch-examples": Spec(),
    # yunjey/pytorch-tutorial, variational_autoencoder: the same model for 15 epochs
    "yunjey": Spec(training=TrainingSpec(epochs=15)),
    # The same with tanh on images in [-1, 1] and the summed squared error
    "tanh-mse": Spec(model=ModelSpec(likelihood="squared-error"), training=TrainingSpec(epochs=100), images=_SIGNED),
    # flax/examples/vae: 784-500-20 on 50,000 statically binarised images, weights of Flax's initial variance
    "flax-example": Spec(
        model=ModelSpec(hidden=(500,), init="lecun"), images=ImagesSpec(binarization="static", train_images=50_000)
    ),
    # 784-256-64-20 with a ReLU after every encoder layer, the mean squared error
    "autoencoder": Spec(model=_AUTOENCODER, objective=_RECONSTRUCTION, training=_AUTOENCODER_TRAINING),
    # The same from a corrupted input (after Vincent et al. 2008, who drop pixels, as `dropout` does)
    "denoising": Spec(
        model=_AUTOENCODER,
        objective=_RECONSTRUCTION,
        training=_AUTOENCODER_TRAINING,
        images=ImagesSpec(corruption="gaussian", corruption_level=0.5),
    ),
    "dropout": Spec(
        model=_AUTOENCODER,
        objective=_RECONSTRUCTION,
        training=_AUTOENCODER_TRAINING,
        images=ImagesSpec(corruption="dropout", corruption_level=0.2),
    ),
    # Makhzani et al. 2015: two layers of 1000 in each network, 8 latents; N(0, I) and Adam here, where the paper has a
    # wider prior and momentum
    "adversarial": Spec(
        model=ModelSpec(
            hidden=(1000, 1000), latent=8, posterior="point", likelihood="squared-error", discriminator=(1000, 1000)
        ),
        objective=ObjectiveSpec(form="adversarial", units="pixel"),
        training=TrainingSpec(learning_rate=1e-4),
    ),
    # Mean and sigma straight from a ReLU; mean squared error + KL / (batch * pixels)
    "relu-sigma": Spec(
        model=ModelSpec(hidden=(256, 64), latent=10, posterior="relu-sigma", likelihood="squared-error"),
        objective=ObjectiveSpec(units="pixel"),
        training=_AUTOENCODER_TRAINING,
    ),
    # AntixK/PyTorch-VAE, vanilla_vae: mean squared error + 0.00025 * kl; --image 64 64 3 has its shapes
    "conv": Spec(
        model=_CONV, objective=ObjectiveSpec(_KLD_WEIGHT, units="mixed"), training=_CONV_TRAINING, images=_SIGNED
    ),
    # AntixK/PyTorch-VAE, beta_vae "H": beta 10 (Higgins et al. 2017)
    "beta-h": Spec(
        model=_CONV, objective=ObjectiveSpec(10 * _KLD_WEIGHT, units="mixed"), training=_CONV_TRAINING, images=_SIGNED
    ),
    # AntixK/PyTorch-VAE, beta_vae "B": gamma 10, capacity to 25 in 10,000 steps (Burgess et al. 2018)
    "beta-b": Spec(
        model=_CONV,
        objective=ObjectiveSpec(form="capacity", units="mixed", gamma=10 * _KLD_WEIGHT),
        training=dataclasses.replace(_CONV_TRAINING, epochs=12),
        images=_SIGNED,
    ),
    # Some hundred colour pictures of one's own, with --image: small convolutions without batch norm, a learned variance
    # as in Rybkin, Daniilidis & Levine 2021, and a length in steps
    "pictures": Spec(
        model=ModelSpec(
            hidden=(16, 32, 64, 128),
            latent=32,
            network="conv",
            activation="elu",
            likelihood="gaussian-learned",
            variance=0.02,
            output="linear",
            init="lecun",
            norm="none",
        ),
        objective=ObjectiveSpec(units="pixel"),
        training=TrainingSpec(
            epochs=1000,
            max_steps=3000,
            batch_size=16,
            learning_rate=2e-3,
            schedule="cosine",
            rate_warmup=100,
            weight_decay=0.1,
            clip=1.0,
            ema=0.999,
        ),
        images=ImagesSpec(range="signed", shift=6),
    ),
    # The plain model with the one-hot label as an input of both networks (after Sohn, Lee & Yan 2015, whose prior is
    # learned)
    "conditional": Spec(model=ModelSpec(classes=10)),
    # A Gaussian pixel of variance 1, as pythae's mean squared error has it
    "gaussian": Spec(model=ModelSpec(likelihood="gaussian")),
    # One variance for all pixels, learned (after Rybkin, Daniilidis & Levine 2021; softly bounded elsewhere than there)
    "gaussian-learned": Spec(model=ModelSpec(likelihood="gaussian-learned")),
    # The decoder gives each pixel its variance
    "gaussian-pixel": Spec(model=ModelSpec(likelihood="gaussian-pixel")),
    # Burda, Grosse & Salakhutdinov 2016: the bound of five samples, on the paper's network
    "iwae": Spec(
        model=ModelSpec(hidden=(200, 200), latent=50, activation="tanh"),
        objective=ObjectiveSpec(form="iwae", samples=5),
        images=ImagesSpec(binarization="dynamic"),
    ),
    # The same as the paper trained it: 50 samples, 3,280 epochs of 59,600 images in batches of 20. The paper's eps of
    # 1e-4 goes with gradients summed over the batch
    "iwae-paper": Spec(
        model=_IWAE_PAPER,
        objective=ObjectiveSpec(form="iwae", samples=50),
        training=TrainingSpec(epochs=3280, batch_size=20, eps=1e-4 / 20, schedule="iwae"),
        images=ImagesSpec(binarization="dynamic", train_images=59_600),
    ),
}
DEFAULT_PRESET = "pytorch-examples"


def preset(name: str, **changes: Any) -> Spec:
    """Look up a preset by its name, and change some of its fields, as `preset("conv", latent=16, epochs=50)` does.

    Args:
        name: The preset.
        **changes: Values of fields of `Spec` and of its parts, by their own names; a whole part, as `model=`, replaces
            the preset's.

    Returns:
        The configuration.

    Raises:
        InputError: If there is no such preset or field, or if the changed configuration is invalid.
    """
    if not isinstance(name, str) or name not in PRESETS:
        alike = suggestion(str(name), PRESETS)
        raise InputError(f"There is no preset {shown(name)}{alike}; choose one of {', '.join(PRESETS)}.")
    spec, own = PRESETS[name], {}
    for part in dataclasses.fields(Spec):
        value = own[part.name] = changes.pop(part.name, getattr(spec, part.name))
        if isinstance(value, ModelSpec | ObjectiveSpec | TrainingSpec | ImagesSpec):
            fields = {field.name for field in dataclasses.fields(value)} & {*changes}
            own[part.name] = dataclasses.replace(value, **{field: changes.pop(field) for field in sorted(fields)})
    if changes:
        unknown = next(iter(changes))
        kinds = (Spec, ModelSpec, ObjectiveSpec, TrainingSpec, ImagesSpec)
        known = [field.name for kind in kinds for field in dataclasses.fields(kind)]
        alike = suggestion(unknown, known)
        raise InputError(
            f"A configuration has no field {shown(unknown)}{alike}; print(preset({name!r})) shows those it has."
        )
    return dataclasses.replace(spec, **own)
