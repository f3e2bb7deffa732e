"""Requirements of a configuration on its data and on a command."""

from jaxvae.shared.config.choices import Shard
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout


def require_images(shape: tuple[int, ...]) -> None:
    """Raises InputError if an array of this shape, `[n, height, width, channels]`, has no images to train on."""
    if not shape or not shape[0]:
        raise InputError(f"Training needs one image or more, found an array of the shape {list(shape)}.")


def require_batches(spec: Spec, images: int) -> None:
    """Check that batch norm can train on every batch.

    Args:
        spec: The configuration.
        images: The number of training images.

    Raises:
        InputError: If a batch norm layer would see a single value per channel, which has no variance.
    """
    batch = min(spec.training.batch_size, images)
    smallest = images % batch or batch
    sizes = [layer.size for layer in layout.layers(spec.model) if layer.kind == "norm"]
    if smallest == 1 and (1, 1) in sizes:
        raise InputError(
            f"Batch norm needs more than one number for a variance, but the last batch of {images:,} images in "
            f"batches of {batch} is one image, of which a layer has one number per channel; choose another "
            "--batch-size."
        )


def require_divisible_batch(spec: Spec, images: int, shares: int) -> None:
    """Check that a batch can be divided among devices.

    Args:
        spec: The configuration.
        images: The number of training images.
        shares: The number of devices.

    Raises:
        InputError: If the batch size is not a multiple of `shares`.
    """
    batch = min(spec.training.batch_size, images)
    if batch % shares:
        raise InputError(
            f"A batch of {batch} images can't be shared equally by {shares} devices; choose a --batch-size that is a "
            f"multiple of {shares}, or fewer devices."
        )


def require_several(shard: Shard | None, devices: int, advice: str) -> None:
    """Raises InputError if something is to be sharded and there is one device."""
    if shard is not None and devices == 1:
        raise InputError(f"--shard {shard} needs several devices to divide them among, found 1; {advice}.")


def has_prior(spec: Spec) -> bool:
    """Whether the latents have a prior to draw from: by the KL divergence or by a discriminator."""
    return spec.model.samples_latents or spec.objective.form == "adversarial"


def require_prior(spec: Spec) -> None:
    """Raises InputError if the model has no prior to draw from."""
    if not has_prior(spec):
        raise InputError(
            f"A model with a {spec.model.posterior} posterior and the objective {spec.objective.form} has no prior to "
            "draw from; reconstruct images with it, or train one with a gaussian posterior or the adversarial "
            "objective."
        )


def require_2d_latent(spec: Spec) -> None:
    """Raises InputError unless the model has two latents and a prior."""
    require_prior(spec)
    if spec.model.latent != 2:
        latents = spec.model.latent
        raise InputError(f"A plane needs two latents, but the model has {latents}; train one with --latent 2.")


def require_density(spec: Spec) -> None:
    """Raises InputError if the posterior has no density, which importance weights need."""
    if not spec.model.samples_latents:
        raise InputError(
            f"A {spec.model.posterior} posterior has no density, which sampling the log-likelihood of an image needs; "
            "evaluate such a model by other measures, or train one with a gaussian posterior."
        )


def require_one_phase(spec: Spec) -> None:
    """Raises InputError if a training step has several phases."""
    if len(spec.phases) > 1:
        raise InputError(
            f"A step of the objective {spec.objective.form} has the phases {', '.join(spec.phases)}, and none was "
            "given; pass each of phases(spec) in turn."
        )


def require_drawn_anew(spec: Spec) -> None:
    """Raises InputError if each image is to be binarised once for a whole run."""
    if spec.images.binarization == "static":
        raise InputError(
            "loss: a static binarisation draws each image once, by its place in the data set, which a batch does not "
            "tell; binarise the images before, or take the binarization dynamic."
        )


def require_weights(function: str, training: object | None) -> None:
    """Raises InputError if a batch has no weights, and is one for evaluation."""
    if training is None:
        raise InputError(
            f"{function} needs a batch for training, found one for evaluation; give weights to inputs: each image's "
            "share of the batch."
        )
