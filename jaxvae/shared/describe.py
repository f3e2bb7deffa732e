"""What a configuration is, in words and units."""

from jaxvae.shared import layout
from jaxvae.shared.spec import Spec


def summary(spec: Spec) -> str:
    """One line: data, widths, parameters."""
    widths = (spec.model.pixels, *spec.model.hidden, spec.model.latent)
    return f"VAE {'-'.join(map(str, widths))} on {spec.data}, beta {spec.objective.beta:g}, {_count(spec):,} parameters"


def text(spec: Spec, title: str) -> str:
    """The architecture with parameter counts, the likelihood, the loss and its units, and how it is trained."""
    model, training = spec.model, spec.training
    lines = [title, "", "layers"]
    for path, inputs, outputs in layout.layers(model):
        name, relu = ".".join(map(str, path)), ", ReLU" if "hidden" in path else ""
        lines.append(f"  {name:<18} {f'{inputs} -> {outputs}{relu}':<20} {outputs * (inputs + 1):>10,} parameters")
    until = f", or {training.max_steps:,} steps if that is sooner" if training.max_steps else ""
    height, width, channels = model.image
    return "\n".join(
        [
            *lines,
            f"  {'in all':<18} {'':<20} {_count(spec):>10,} parameters",
            "",
            f"data        {spec.data}: images of {height}x{width}x{channels}, pixels in [0, 1]",
            f"posterior   diagonal Gaussian over {model.latent} latents; the prior is N(0, I)",
            "likelihood  Bernoulli from logits: a pixel's cross-entropy, natural logarithm",
            f"loss        reconstruction + beta * kl with beta = {spec.objective.beta:g}"
            + (", the negative ELBO" if spec.objective.beta == 1 else ""),
            f"units       nats per image: summed over {model.pixels} pixels and {model.latent} latents, "
            "averaged over images",
            f"training    Adam, step size {training.learning_rate:g}, batches of {training.batch_size}, "
            f"{training.epochs} epochs{until}, {training.dtype}, seed {training.seed}",
        ]
    )


def _count(spec: Spec) -> int:
    return sum(outputs * (inputs + 1) for _, inputs, outputs in layout.layers(spec.model))
