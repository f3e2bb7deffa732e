"""Describe a configuration in words and units."""

import math
from typing import assert_never

from jaxvae.shared.config.likelihoods import likelihood_of, mean_of, variance_of
from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.parts import ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from jaxvae.shared.text import counted, named

_LATENTS = {
    "gaussian": "diagonal Gaussian over {}; the prior is N(0, I)",
    "log-sigma": "diagonal Gaussian over {} by mean and log sigma; the prior is N(0, I)",
    "relu-sigma": "diagonal Gaussian over {}, mean and sigma from a ReLU; the prior is N(0, I)",
    "point": "a code of {}",
    "relu-point": "a code of {} from a ReLU; there is no prior to draw from",
}


def summary(spec: Spec) -> str:
    """One line: data, widths, parameters."""
    model = spec.model
    hidden = [layout.channels(layer) for layer in layout.hidden_layers(model, "encoder")]
    widths = "-".join(map(str, (model.pixels, *hidden, model.latent)))
    name = "VAE" if model.samples_latents else "autoencoder"
    kind = NETWORKS[model.network].adjective
    own = f" with its user's {named(map(str, model.parts.record))}" if model.parts else ""
    return f"{kind}{name} {widths}{own} on {spec.data}, {_loss(spec)[0]}, {_count(spec):,} parameters"


def text(spec: Spec, title: str, own_loop: bool = False) -> str:
    """The architecture with parameter counts, the likelihood, the loss and its units, and how it is trained."""
    rows = [*layers(spec), ("in all", "", _count(spec))]
    width = max(46, *(len(words) for _, words, _ in rows))
    lines = [f"  {name:<24} {words:<{width}} {size:>10,} parameters" for name, words, size in rows]
    about = [f"{name:<12}{value}" for name, value in facts(spec, own_loop).items()]
    return "\n".join([title, "", "layers", *lines, "", *about])


def layers(spec: Spec) -> list[tuple[str, str, int]]:
    """Each layer's name, what it does, and its number of parameters."""
    own = [
        (network, f"{spec.model.parts.record[network].name}, a network of the user's own", _own_size(spec, network))
        for network in spec.model.parts.networks
    ]
    return [*own, *((_name(layer), _words(spec, layer), _size(layer)) for layer in _layers(spec))]


def facts(spec: Spec, own_loop: bool = False) -> dict[str, str]:
    """All but the layers: the data, the likelihood, the loss and its units, and how it is trained; `own_loop`: whether
    by a loop of its user's own, of which no more is known."""
    model, training = spec.model, spec.training
    until = f", or {counted(training.max_steps, 'step')} if that is sooner" if training.max_steps else ""
    latents = f" and {counted(model.latent, 'latent')}" if "kl" in spec.terms and model.samples_latents else ""
    coded = counted(model.latent, "latent" if model.samples_latents else "number")
    sums = f"summed over {counted(model.pixels, 'pixel')}{latents}, averaged over images"
    matched = ", matched to N(0, I) by the discriminator" if spec.objective.form == "adversarial" else ""
    rows = {
        "data": _data(spec),
        "posterior": _LATENTS[model.posterior].format(coded) + matched,
        "likelihood": _likelihood(spec),
        "loss": "; ".join(_loss(spec)),
        "units": f"nats per image: {sums}",
        "minimized": _minimized(spec),
        "training": f"{_adam(training)}, {_rate(training)}, batches of {training.batch_size}, "
        f"{counted(training.epochs, 'epoch')}{until}, {_numbers(training)}, seed {training.seed}",
    }
    if training.patience:
        patience = counted(training.patience, "epoch")
        rows["early stop"] = f"after {patience} without a lower validation loss"
    if training.ema:
        rows["weights"] = f"a moving average of decay {training.ema:g}, less at first, is evaluated and saved"
    if own_loop:
        rows["training"] = f"by a loop of its user's own; {_numbers(training)}, seed {training.seed}"
    if model.classes:
        rows["labels"] = f"{counted(model.classes, 'class')}, one-hot into encoder and decoder"
    if spec.images.augments:
        mirrored = ["mirrored with probability 1/2"] * spec.images.flip
        moved = [f"moved by up to {counted(spec.images.shift, 'pixel')}"] * (spec.images.shift > 0)
        rows["augmentation"] = "in training each image is " + " and ".join([*mirrored, *moved])
    if spec.images.corruption != "none":
        rows["corruption"] = _corruption(spec)
    return rows


def emulated(training: TrainingSpec, device: str) -> str | None:
    """Say that a device, by its label, has no products of the configuration's precision; None if it has them."""
    precision, platform = training.precision, device.partition(" ")[0]
    if precision == "float32" or platform == "gpu" or (platform == "tpu" and precision != "tf32"):
        return None
    return (
        f"this {platform} has no {precision} products: they are emulated by float32 products of rounded numbers, which "
        "takes longer than --precision float32"
    )


def implied_variance(spec: Spec) -> float | None:
    """The variance of a pixel that the likelihood stands for, in squared pixel units; None where it is no Gaussian's or
    is learned."""
    return None if spec.model.parts.nll else variance_of(spec.model.likelihood, spec.model.variance)


def _layers(spec: Spec) -> list[layout.Layer]:
    return layout.layers(spec.model)


def _name(layer: layout.Layer) -> str:
    return ".".join(map(str, layer.path))


def _words(spec: Spec, layer: layout.Layer) -> str:
    hidden = "hidden" in layer.path
    activation = (layer.activation or spec.model.activation) if layer.path[0] != "discriminator" else "relu"
    if activation == "leaky-relu" and spec.model.slope != ModelSpec.slope:
        activation = f"{activation} of slope {spec.model.slope:g}"
    after = f", {activation}" if hidden and not layer.normed and not layer.plain else ""
    rectified = layer.path[0] == "encoder" and not hidden and spec.model.posterior.startswith("relu-")
    sizes = f"{layer.inputs} -> {layer.outputs}"
    match layer.kind:
        case "linear":
            height, width = layer.size
            made = layer.outputs if layer.size == (1, 1) else f"{layout.channels(layer)} of {height}x{width}"
            return f"{layer.inputs} -> {made}{', relu' if rectified else after}"
        case "norm":
            return f"batch norm of {layer.outputs}{after}"
        case "scalar":
            return "the log-variance of every pixel"
        case "conv" | "conv-transpose":
            height, width = layer.size
            more = "+" + "x".join(map(str, layer.output_padding)) if any(layer.output_padding) else ""
            padded = f" p{layer.padding}" if layer.padding else ""
            kernel = f"{layer.kernel}x{layer.kernel}/{layer.stride}{padded}{more}"
            return f"{layer.kind.replace('-', ' ')} {kernel}, {sizes} of {height}x{width}{after}"
        case kind:
            assert_never(kind)


def _size(layer: layout.Layer) -> int:
    match layer.kind:
        case "linear":
            return layer.outputs * (layer.inputs + 1)
        case "conv" | "conv-transpose":
            return layer.outputs * (layer.inputs * layer.kernel**2 + 1)
        case "norm":
            return 2 * layer.outputs
        case "scalar":
            return 1
        case kind:
            assert_never(kind)


def _own_size(spec: Spec, network: str) -> int:
    table = layout.table(spec.model)
    return sum(math.prod(parameter.shape) for parameter in table if parameter.network == network and parameter.trained)


def _count(spec: Spec) -> int:
    own = sum(_own_size(spec, network) for network in spec.model.parts.networks)
    return own + sum(map(_size, _layers(spec)))


def _data(spec: Spec) -> str:
    height, width, channels = spec.model.image
    pixels = "[0, 1]" if spec.images.range == "unit" else "[-1, 1]"
    binarised = {
        "none": "",
        "threshold": ", binarised at half",
        "static": ", binarised once from the run's key",
        "dynamic": ", binarised again at every step from the run's key",
    }[spec.images.binarization]
    some = f", the first {spec.images.train_images:,} for training" if spec.images.train_images else ""
    some += f", {spec.images.validation:,} of the training images held out" if spec.images.validation else ""
    return f"{spec.data}: images of {height}x{width}x{channels}, pixels in {pixels}{binarised}{some}"


def _likelihood(spec: Spec) -> str:
    model = spec.model
    likelihood = likelihood_of(model)
    if model.parts.nll is not None:
        return likelihood.description
    return likelihood.description.format(
        mean=mean_of(model.likelihood, model.output, spec.images.range),
        variance=model.variance,
        constant=model.pixels * likelihood.omitted,
    )


def _loss(spec: Spec) -> list[str]:
    objective, weight = spec.objective, f"{spec.effective_beta:g}"
    if (own := spec.model.parts.record.get("objective")) is not None:
        return [f"{own.name}, an objective of the user's own"]
    match objective.form:
        case "elbo":
            bound = ", the negative ELBO" if spec.effective_beta == 1 else ""
            risen = f", reached in {counted(objective.warmup, 'step')}" if objective.warmup else ""
            drawn = [f"{objective.samples} latents for each image"] if objective.samples > 1 else []
            return [f"reconstruction + beta * kl with effective beta {weight}{risen}{bound}", *drawn]
        case "capacity":
            return [
                f"reconstruction + gamma * |kl - C| with effective gamma {weight}",
                f"C rises to {objective.capacity:g} nats in {objective.capacity_steps:,} training steps",
            ]
        case "iwae":
            return [f"the importance-weighted bound of {counted(objective.samples, 'sample')}"]
        case "reconstruction":
            return ["reconstruction alone"]
        case "adversarial":
            return [
                "reconstruction + generator, the cross-entropy of the code's being taken for a draw of N(0, I)",
                "three updates a step, each with an Adam of its own: reconstruction, discriminator, generator",
            ]


def _minimized(spec: Spec) -> str:
    pixels, what = spec.model.pixels, likelihood_of(spec.model).pixel_error
    if spec.objective.form == "adversarial" and spec.objective.units == "pixel":
        return f"the {what} over {pixels:,} pixels; the discriminator's and the generator's part as they are"
    match spec.objective.units:
        case "image":
            return "the loss as it is"
        case "pixel":
            return f"the loss over {pixels:,} pixels: the {what}, and the rest as much smaller"
        case _:
            own = spec.effective_beta / pixels
            return f"the loss over {pixels:,} pixels: {what} + {own:g} times the divergence's part, in nats per image"


def _adam(training: TrainingSpec) -> str:
    name, decay = ("AdamW", f", weight decay {training.weight_decay:g}") if training.weight_decay else ("Adam", "")
    clip = f" of gradients clipped to norm {training.clip:g}" if training.clip else ""
    return f"{name} ({training.beta1:g}, {training.beta2:g}, eps {training.eps:g}{decay}){clip}"


def _numbers(training: TrainingSpec) -> str:
    """The dtype, and the precision of products where it is another."""
    return training.dtype if training.precision == "float32" else f"{training.dtype} with {training.precision} products"


def _rate(training: TrainingSpec) -> str:
    rate = f"step size {training.learning_rate:g}"
    rising = f", rising over the first {counted(training.rate_warmup, 'step')}" if training.rate_warmup else ""
    match training.schedule:
        case "iwae":
            return f"{rate} * 10^(-i/7) for 3^i epochs, i = 0..7{rising}"
        case "cosine":
            span = "the run" if training.decay_steps is None else counted(training.decay_steps, "step")
            return f"{rate}{rising}, falling to 0 along a cosine over {span}"
        case "steps":
            return f"{rate}{rising}, times {training.decay:g} after every {training.stretch:,} steps"
    return f"{rate} times {training.decay:g} each epoch{rising}" if training.decay != 1 else f"{rate}{rising}"


def _corruption(spec: Spec) -> str:
    level = f"{spec.images.corruption_level:g}"
    return {
        "gaussian": f"the encoder sees Gaussian noise of deviation {level} added in training, none in evaluation",
        "dropout": f"the encoder doesn't see a share {level} of its pixels in training, and sees all in evaluation",
        "hidden-dropout": f"a share {level} of the hidden units is dropped in training, none in evaluation",
    }[spec.images.corruption]
