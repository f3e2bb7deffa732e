"""Faults in parts that the plain VAE does not have, and the cause the comparison should name for each."""

import jaxvae.distributions
import jaxvae.draws
import jaxvae.layers
import jaxvae.objectives
import torchvae.distributions
import torchvae.draws
import torchvae.layers
import torchvae.nets
import torchvae.objectives
import torchvae.pixels
import torchvae.train
from parity_tests.faults.inject import UNKNOWN, Fault

J, T = jaxvae.layers, torchvae.layers
BATCH_NORM = J.BatchNorm.__call__
RUNNING = "(1 - _MOMENTUM) * self.mean[...] + _MOMENTUM * jax"
SAME = (
    'jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, "SAME",'
    'dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest")'
)
AT_THE_START = (
    "jax.lax.conv_transpose(x, kernel, (2, 2), tuple((1 + more, 1) for more in self.more),"
    'transpose_kernel=True, precision="highest")'
)

FAULTS = [
    # Convolutions and batch norm.
    Fault(J._Conv.__call__, "convolve(x, kernel, self.stride)", SAME,
          "'SAME' padding: at the end only", owner=J._Conv, ground="conv"),
    Fault(J._ConvTranspose.__call__, "transposed(x, kernel, self.stride, self.more)", AT_THE_START,
          UNKNOWN, owner=J._ConvTranspose, ground="conv"),
    Fault(BATCH_NORM, "* (count / (count - 1))", "", "batch norm's running variance biased", owner=J.BatchNorm,
          ground="conv"),
    Fault(BATCH_NORM, RUNNING, "_MOMENTUM * self.mean[...] + (1 - _MOMENTUM) * jax",
          "batch norm's momentum counted the other way round", owner=J.BatchNorm, ground="conv"),
    Fault(BATCH_NORM, "rows, places = training.weights,", "rows, places = jnp.full_like(training.weights, 1 / len(x)),",
          UNKNOWN, owner=J.BatchNorm, ground="conv"),
    Fault(BATCH_NORM, "var + _EPS", "var + 1e-3", "batch norm's eps 1e-3 for 1e-5", owner=J.BatchNorm, ground="conv"),
    Fault(T.activate, "leaky_relu(x, 0.01)", "leaky_relu(x, 0.2)", UNKNOWN, ground="conv"),
    Fault(torchvae.nets._flat, "x.permute(0, 2, 3, 1).flatten(1)", "x.flatten(1)", UNKNOWN, ground="conv"),
    Fault(torchvae.train.train_step, "state.model.train()", "state.model.eval()", UNKNOWN, ground="conv"),
    Fault(torchvae.train.train_epoch, "state.model.train()", "state.model.eval()", UNKNOWN, ground="conv"),
    # Objectives.
    Fault(torchvae.objectives.average, 'spec.objective.form == "capacity"', "False",
          UNKNOWN, ground="conv"),
    Fault(torchvae.objectives.ramp, "(step + 1)", "step", "a weight that rises counted -1 steps", ground="conv"),
    Fault(torchvae.objectives.ramp, "(step + 1)", "step", "a weight that rises counted -1 steps", ground="conditional"),
    Fault(torchvae.objectives.phases, "share = spec.minimized", "share = 1.0",
          "gradient summed over pixels, not averaged", ground="conv"),
    Fault(torchvae.objectives.phases, "(discriminator, 1.0)", "(discriminator, share)",
          "gradient averaged over pixels too", ground="adversarial"),
    Fault(torchvae.objectives.discriminator, "torch.ones_like(real)", "torch.zeros_like(real)", UNKNOWN,
          ground="adversarial"),
    Fault(torchvae.objectives.generator, "torch.ones_like(fake)", "torch.zeros_like(fake)", UNKNOWN,
          ground="adversarial"),
    Fault(torchvae.objectives.importance_weighted, "torch.logsumexp(-(errors + ratio), 0) - math.log(len(errors))",
          "-(errors + ratio).mean(0)", "the samples' mean bound for the bound of their mean", ground="iwae"),
    Fault(torchvae.objectives.importance_weighted, " - math.log(len(errors))", "",
          "the weights' sum for their mean", ground="iwae"),
    Fault(jaxvae.distributions.log_ratio, " - posterior.logvar", "", UNKNOWN, ground="iwae"),
    # Likelihoods and posteriors.
    Fault(torchvae.distributions.gaussian_nll, "torch.exp(-logvar)", "torch.exp(logvar)", UNKNOWN,
          ground="conditional"),
    Fault(torchvae.distributions.gaussian_nll, " + math.log(2 * math.pi)", "",
          "a Gaussian's constant left out", ground="conditional"),
    Fault(torchvae.distributions.pixel_means, "mean_of(spec.model.likelihood, spec.model.output, spec.images.range)",
          '"sigmoid"',
          "means bounded for pixels that are unit", ground="conv"),
    Fault(torchvae.distributions.scale_kl, "1e-8 + variance", "1e-6 + variance", UNKNOWN, ground="conditional"),
    # Labels, binarisation, corruption.
    Fault(T.one_hot, "torch.arange(spec.classes,", "torch.arange(1, spec.classes + 1,", "labels counted one too low",
          ground="conditional"),
    Fault(torchvae.pixels.prepare_pixels, "binarize(images, static)", "binarize(images, dynamic)", UNKNOWN,
          ground="iwae"),
    Fault(torchvae.pixels.prepare_pixels, "2.0 * x - 1.0", "2.0 * x - 0.5", UNKNOWN, ground="conv"),
    Fault(torchvae.draws.keep, " * (1.0 / (1.0 - level))", "", "dropout without its scaling", ground="conditional"),
    Fault(torchvae.draws.keep, ">= level", "< level", "dropout's mask turned round", ground="conditional"),
    Fault(torchvae.pixels.corrupt, "spec.images.corruption_level * corruption", "corruption",
          "noise 3.333 times as large",
          ground="adversarial"),
    Fault(torchvae.objectives.inputs, "Inputs(x, corrupt(", "Inputs(corrupt(spec, x, draws.corruption), corrupt(",
          UNKNOWN, ground="adversarial"),
    Fault(T.dropped, "x * (mask if", "x + 0 * (mask if", UNKNOWN, ground="conditional"),
]  # fmt: skip
