"""The kinds of causes of the two packages: a remedy for each, and the function that computes it in both."""

from typing import Any, NamedTuple

from parity_tests.harness.causes import Cause


class Kind(NamedTuple):
    """What a kind of cause asks for."""

    remedy: str
    """What to change in the package that departs from the plain formulas."""
    code: str | None = None
    """The function that computes it, by its module and name in both packages; None where that is the level's."""


KINDS = {
    # Keys and draws.
    "seed": Kind("make the root key of {expected}", "keys.root_key"),
    "stream": Kind("draw from {expected}"),
    "fold-in": Kind("fold {expected} into the stream's key"),
    "key-reused": Kind("draw from the key of {expected}"),
    "random-numbers": Kind("draw {expected}"),
    "initialization": Kind("draw {expected}", "nets.init"),
    "start-bias": Kind("draw the biases", "nets.init"),
    # Pixels, and what a model is given.
    "normalization": Kind("scale the pixels to {expected}", "pixels.scale"),
    "binarization": Kind("give the pixels as {expected}", "pixels.scale"),
    "flatten-order": Kind("flatten the pixels in the order {expected}", "pixels.scale"),
    "noise-scale": Kind("multiply the noise by {expected}", "pixels.corrupt"),
    "dropout-mask": Kind("multiply by {expected}", "draws.keep"),
    "labels-missing": Kind("give the networks the labels", "operations.with_labels"),
    "labels-offset": Kind("count the labels from {expected}", "operations.one_hot"),
    # Layers.
    "activation": Kind("use {expected}"),
    "heads-swapped": Kind("take the encoder's two outputs as {expected}"),
    "bias-missing": Kind("add the bias"),
    "bias-scaled": Kind("add the bias once"),
    "bias-order": Kind("keep the bias in the order {expected}"),
    "kernel-order": Kind("keep the kernel's columns in the order {expected}"),
    "kernel-transposed": Kind("multiply by the kernel as {expected}"),
    "kernel-flipped": Kind("leave the kernel as {expected}"),
    "kernel-axes": Kind("leave the kernel's axes as {expected}"),
    "padding": Kind("pad {expected}"),
    "statistics-mode": Kind("normalize by {expected} in training", "layers.BatchNorm"),
    "biased-variance": Kind("use the {expected} variance", "layers.BatchNorm"),
    "norm-epsilon": Kind("set batch norm's eps to {expected}", "layers.BatchNorm"),
    "batch-norm-momentum": Kind("keep {expected} of the running statistics", "layers.BatchNorm"),
    "statistics-not-updated": Kind("update the running statistics in training", "layers.BatchNorm"),
    "low-precision": Kind("compute in {expected}"),
    "clipped": Kind("leave out the clip"),
    "epsilon-added": Kind("leave out what is added"),
    # Losses.
    "latent": Kind("compute the latent as {expected}", "distributions.locate"),
    "noise-missing": Kind("add the noise to the latent"),
    "kl": Kind("compute the KL as {expected}", "distributions.gaussian_kl"),
    "likelihood": Kind("use the likelihood {expected}", "distributions.nll"),
    "variance": Kind("use the variance {expected}", "distributions.nll"),
    "cross-entropy": Kind("compute the cross-entropy as {expected}", "distributions.bernoulli_nll"),
    "softplus": Kind("compute softplus as {expected}", "distributions.bernoulli_nll"),
    "normalizer": Kind("take {expected} for log C", "distributions.continuous_bernoulli_nll"),
    "constant-missing": Kind("add {expected} per pixel", "distributions.gaussian_nll"),
    "pixel-means": Kind("compute the pixel means as {expected}", "distributions.pixel_means"),
    "beta": Kind("compute the loss as {expected}", "objectives.negative_elbo"),
    "objective": Kind("compute {expected}"),
    "loss-units": Kind("weigh the terms per {expected}"),
    "loss-reduction": Kind("take the {expected}"),
    "warm-up": Kind("count the steps of a weight that rises from {expected}", "objectives.ramp"),
    # Gradients.
    "gradient-stopped": Kind("let the gradient through"),
    "gradient-scaled": Kind("multiply the gradient by {expected}"),
    "kink": Kind("take the slope {expected} at 0"),
    # The optimizer.
    "learning-rate": Kind("set the learning rate to {expected}"),
    "betas": Kind("set it to {expected}", "train.make_optimizer"),
    "optimizer-eps": Kind("set eps to {expected}", "train.make_optimizer"),
    "optimizer-eps-place": Kind("add eps {expected}", "train.make_optimizer"),
    "bias-correction": Kind("correct {expected}", "train.make_optimizer"),
    "optimizer-steps": Kind("count the optimizer's steps from {expected}", "train.make_optimizer"),
    "weight-decay": Kind("set the weight decay to {expected}", "train.make_optimizer"),
    "amsgrad": Kind("leave out amsgrad", "train.make_optimizer"),
    "optimizer": Kind("use {expected}", "train.make_optimizer"),
    "clipping": Kind("leave out the clipping", "train._update"),
    "zero-grad": Kind("clear the gradients before each step", "train._update"),
    "frozen": Kind("update the biases too"),
    "optimizer-state": Kind("carry over {expected}"),
    "average-update": Kind("update the average by {expected}", "updates.averaged"),
    # Epochs, evaluation and pictures.
    "data-order": Kind("give {expected}", "train.epoch_order"),
    "data-order-repeated": Kind("shuffle {expected}", "train.epoch_order"),
    "incomplete-batch": Kind("{expected}"),
    "pictures": Kind("show {expected}"),
}


def named(kind: str, sentence: str, found: Any, expected: Any, code: str | None = None) -> Cause:
    """Make a cause of one of the kinds.

    Args:
        kind: A key of `KINDS`.
        sentence: The cause in words.
        found: The setting of the package that departs from the plain formulas.
        expected: That of the plain formulas.
        code: The function that computes it, if it is another one than the kind's.

    Returns:
        The cause.
    """
    cause = Cause(sentence, kind, KINDS[kind].remedy, found, expected)
    cause.code = code or KINDS[kind].code
    return cause
