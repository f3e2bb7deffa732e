"""What looks wrong in a run before its first step."""

from collections.abc import Iterator

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.text import counted

_FEW_STEPS, _FEW_IMAGES, _STRONG = 50, 32, 2.0


def advice(spec: Spec, train: int, test: int) -> Iterator[str]:
    """Yield a sentence for each choice that a small data set turns into another one than was meant.

    Args:
        spec: The configuration.
        train: Number of training images.
        test: Number of test images.
    """
    training = spec.training
    steps, total = training.epoch_steps(train), training.total_steps(train)
    rates = training.learning_rates()
    last = rates[min(-(-total // steps), len(rates)) - 1] / rates[0]
    if steps < _FEW_STEPS and last < 0.5:
        yield (
            f"The learning rate falls after each epoch, which has {counted(steps, 'step')} here: it ends at {last:.2g} "
            f"of itself, after {counted(total, 'step')}. --schedule steps or cosine counts steps."
        )
    rising, falling = training.rate_warmup, training.resolved(train).decay_steps
    if training.schedule == "cosine" and falling is not None and rising + falling < total:
        yield (
            f"The learning rate is 0 from step {rising + falling:,} on, of {total:,}: later steps change no weight. "
            f"Give --decay-steps {total - rising} for a cosine up to the last step."
        )
    if rising >= total:
        steps_up = counted(rising, "step")
        yield f"The learning rate rises over {steps_up}, and the run has {total:,}: give a smaller --rate-warmup."
    if spec.objective.units == "mixed" and spec.effective_beta > _STRONG:
        yield (
            f"With {spec.model.pixels:,} values in an image the divergence counts {spec.effective_beta:.3g} times "
            "beside the reconstruction's sum: many latents may go unused. A smaller --beta, or --gamma, counts it less."
        )
    if 0 < (held := spec.images.validation) < _FEW_IMAGES:
        yield f"The validation loss is the mean of {counted(held, 'image')}, too few to choose the best epoch by it."
    if 0 < test < _FEW_IMAGES:
        yield f"The test loss is the mean of {counted(test, 'image')}, too few to tell one run from another by it."
