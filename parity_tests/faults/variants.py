"""Faults in parts that the plain VAE does not have, and the cause the comparison should name for each."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from torch import Tensor

import jaxvae.distributions
import jaxvae.layers
import torchvae.distributions
import torchvae.draws
import torchvae.layers
import torchvae.networks
import torchvae.objectives
import torchvae.operations
import torchvae.pixels
import torchvae.train
import torchvae.updates
from parity_tests.faults.inject import UNKNOWN, Fault, during, loss

J, T = jaxvae.layers, torchvae.layers
dist, objectives = torchvae.distributions, torchvae.objectives


def same_padding(x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: str) -> jax.Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=axes, precision="highest")


def at_the_start(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, more: tuple[int, int], precision: str
) -> jax.Array:
    pads = tuple((padding + extra, padding) for extra in more)
    return jax.lax.conv_transpose(x, kernel, (2, 2), pads, transpose_kernel=True, precision="highest")


def kept(change: Callable[..., None]) -> Callable[[Any], Any]:
    """Make the replacement of batch norm that keeps another running statistic: `change` is given the layer, its input
    and its statistics before."""

    def replacement(call):
        def wrong(self, x, training=None):
            before = self.mean[...], self.var[...]
            y = call(self, x, training)
            if training is not None:
                change(self, x, *before)
            return y

        return wrong

    return replacement


def biased(norm: Any, x: jax.Array, mean: jax.Array, var: jax.Array) -> None:
    count = x.size // x.shape[-1]
    norm.var[...] = 0.9 * var + (norm.var[...] - 0.9 * var) * ((count - 1) / count)


def other_way_round(norm: Any, x: jax.Array, mean: jax.Array, var: jax.Array) -> None:
    norm.mean[...] = 0.1 * mean + 0.9 * (norm.mean[...] - 0.9 * mean) / 0.1


def equal(training: jaxvae.Training) -> Any:
    """Images that fill up a batch count as much as the others."""
    return training._replace(weights=jnp.full_like(training.weights, 1 / len(training.weights)))


def channels_last(forward):
    """The map of a linear layer's outputs in height, width, channel order."""

    def wrong(self: torchvae.layers.Block, x: Tensor) -> Tensor:
        if self.linear is None or self.norm is None:
            return forward(self, x)
        return self.norm(self.linear(x.flatten(1)).reshape(x.shape[0], *self.size, -1).permute(0, 3, 1, 2))

    return wrong


def in_evaluation(self: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    return torch.nn.Module.train(self, False)


def late(ramp):
    return lambda step, steps, dtype: ramp(None if step is None else step - 1, steps, dtype)


def of_the_sum(objective):
    """-log of the weights' sum for that of their mean."""

    def wrong(spec, *args):
        terms = objective(spec, *args)
        return terms | {"loss": terms["loss"] - math.log(spec.objective.samples)}

    return wrong


def of_the_precision(mean: Tensor, logvar: Tensor, x: Tensor) -> Tensor:
    return 0.5 * ((mean - x) ** 2 * torch.exp(logvar) + logvar + math.log(2 * math.pi)).sum(-1)


def kl_with_1e_6(posterior: torchvae.distributions.ScalePosterior) -> Tensor:
    mean, variance = posterior.mean, posterior.scale**2
    return 0.5 * (mean**2 + variance - 1.0 - torch.log(1e-6 + variance)).sum(-1)


def share(change: Callable[[Any, Any], float]) -> Callable[[Any], Any]:
    return lambda phases: lambda spec: tuple(phase._replace(share=change(spec, phase)) for phase in phases(spec))


FAULTS = [
    # Convolutions and batch norm.
    Fault(J._Conv, "__call__",
          "`convolve(x, kernel, self.stride, self.pad)` becomes `jax.lax.conv_general_dilated(x, kernel, "
          '(self.stride,) * 2, "SAME",dimension_numbers=("NHWC", "HW...`',
          during(J, convolve=same_padding),
          "'SAME' padding: at the end only", ground="conv"),
    Fault(J._ConvTranspose, "__call__",
          "`transposed(x, kernel, self.stride, self.pad, self.more)` becomes `jax.lax.conv_transpose(x, "
          "kernel, (2, 2), tuple((1 + more, 1) for more in self.more),transpose_ke...`",
          during(J, transposed=at_the_start), UNKNOWN, ground="conv"),
    Fault(J.BatchNorm, "__call__", "`* (count / (count - 1))` becomes ``",
          kept(biased), "batch norm's running variance biased", ground="conv"),
    Fault(J.BatchNorm, "__call__",
          "`(1 - _MOMENTUM) * self.mean[...] + _MOMENTUM * jax` becomes `_MOMENTUM * "
          "self.mean[...] + (1 - _MOMENTUM) * jax`",
          kept(other_way_round), "batch norm's momentum counted the other way round", ground="conv"),
    Fault(J.BatchNorm, "__call__",
          "`rows, places = training.weights,` becomes `rows, places = "
          "jnp.full_like(training.weights, 1 / len(x)),`",
          lambda call: lambda self, x, training=None: call(self, x, training and equal(training)),
          UNKNOWN, ground="conv"),
    Fault(J.BatchNorm, "__call__", "`var + _EPS` becomes `var + 1e-3`",
          during(J, _EPS=1e-3), "batch norm's eps 1e-3 for 1e-5", ground="conv"),
    Fault(torchvae.operations, "activate", "`leaky_relu(x, spec.slope)` becomes `leaky_relu(x, 0.2)`",
          lambda _: lambda spec, x: F.leaky_relu(x, 0.2), "leaky-relu-0.2 for leaky-relu", ground="conv"),
    Fault(torchvae.networks, "_flat", "`x.permute(0, 2, 3, 1).flatten(1)` becomes `x.flatten(1)`",
          lambda _: lambda x: x.flatten(1), UNKNOWN, ground="conv"),
    Fault(torchvae.train, "train_step", "`state.model.train()` becomes `state.model.eval()`",
          during(torchvae.networks.VAE, train=in_evaluation), UNKNOWN, ground="conv"),
    Fault(torchvae.train, "train_epoch", "`state.model.train()` becomes `state.model.eval()`",
          during(torchvae.networks.VAE, train=in_evaluation), UNKNOWN, ground="conv"),
    # Layers in words.
    Fault(T.Block, "forward", "`reshape(x.shape[0], -1, *self.size)` becomes "
          "`reshape(x.shape[0], *self.size, -1).permute(0, 3, 1, 2)`",
          channels_last, UNKNOWN, ground="layers"),
    Fault(T._ConvTranspose, "forward", "`self.weight` becomes `self.weight.flip(2, 3)`",
          lambda _: lambda self, x, size=None: F.conv_transpose2d(
              x, self.weight.flip(2, 3), self.bias, self.stride, self.padding, self.output_padding
          ), "transposed convolution's kernel not turned round", ground="layers"),
    # Objectives.
    Fault(objectives, "average", '`spec.objective.form == "capacity"` becomes `False`',
          lambda _: lambda spec, terms, weights, step: {n: (t * weights).sum() for n, t in terms.items()},
          UNKNOWN, ground="conv"),
    Fault(objectives, "ramp", "`(step + 1)` becomes `step`",
          late, "a weight that rises counted -1 steps", ground="conv"),
    Fault(objectives, "ramp", "`(step + 1)` becomes `step`",
          late, "a weight that rises counted -1 steps", ground="conditional"),
    Fault(objectives, "phases", "`share = spec.minimized` becomes `share = 1.0`",
          share(lambda spec, phase: 1.0),
          "gradient summed over pixels, not averaged", ground="conv"),
    Fault(objectives, "phases", "`(discriminator, 1.0)` becomes `(discriminator, share)`",
          share(lambda spec, phase: 1.0 if phase.name == "generator" else spec.minimized),
          "gradient averaged over pixels too", ground="adversarial"),
    Fault(objectives, "discriminator", "`torch.ones_like(real)` becomes `torch.zeros_like(real)`",
          during(objectives, bernoulli_nll=lambda logits, x: dist.bernoulli_nll(logits, 0 * x)),
          UNKNOWN, ground="adversarial"),
    Fault(objectives, "generator", "`torch.ones_like(fake)` becomes `torch.zeros_like(fake)`",
          during(objectives, bernoulli_nll=lambda logits, x: dist.bernoulli_nll(logits, 0 * x)),
          UNKNOWN, ground="adversarial"),
    Fault(objectives, "importance_weighted",
          "`torch.logsumexp(-(errors + ratio), 0) - math.log(len(errors))` becomes `-(errors + "
          "ratio).mean(0)`",
          loss(lambda spec, error, kl: error + kl),
          "the samples' mean bound for the bound of their mean", ground="iwae"),
    Fault(objectives, "importance_weighted", "`- math.log(len(errors))` becomes ``",
          of_the_sum, "the weights' sum for their mean", ground="iwae"),
    Fault(jaxvae.distributions, "log_ratio", "`- posterior.logvar` becomes ``",
          lambda log_ratio: lambda q, eps: log_ratio(q, eps) + 0.5 * q.logvar.sum(-1), UNKNOWN, ground="iwae"),
    # Likelihoods and posteriors.
    Fault(dist, "gaussian_nll", "`torch.exp(-logvar)` becomes `torch.exp(logvar)`",
          lambda _: of_the_precision, UNKNOWN, ground="conditional"),
    Fault(dist, "gaussian_nll", "`+ math.log(2 * math.pi)` becomes ``",
          lambda nll: lambda mean, logvar, x: nll(mean, logvar, x) - 0.5 * math.log(2 * math.pi) * x.shape[-1],
          "a Gaussian's constant left out", ground="conditional"),
    Fault(dist, "pixel_means",
          "`mean_of(spec.model.likelihood, spec.model.output, spec.images.range)` becomes "
          '`"sigmoid"`',
          lambda _: lambda spec, decoded: torch.sigmoid(decoded.logits),
          "means bounded for pixels that are unit", ground="conv"),
    Fault(dist, "scale_kl", "`1e-8 + variance` becomes `1e-6 + variance`",
          lambda _: kl_with_1e_6, UNKNOWN, ground="conditional"),
    # Labels, binarisation, corruption.
    Fault(torchvae.operations, "one_hot", "`torch.arange(spec.classes,` becomes `torch.arange(1, spec.classes + 1,`",
          lambda one_hot: lambda spec, labels, dtype: one_hot(spec, labels - 1, dtype),
          "labels counted one too low", ground="conditional"),
    Fault(torchvae.pixels, "prepare_pixels", "`binarize(images, static)` becomes `binarize(images, dynamic)`",
          lambda prepare: lambda spec, images, static, dynamic: prepare(spec, images, dynamic, dynamic),
          UNKNOWN, ground="iwae"),
    Fault(torchvae.pixels, "prepare_pixels", "`2.0 * x - 1.0` becomes `2.0 * x - 0.5`",
          lambda prepare: lambda spec, images, static, dynamic: prepare(spec, images, static, dynamic) + 0.5,
          UNKNOWN, ground="conv"),
    Fault(torchvae.draws, "keep", "`* (1.0 / (1.0 - level))` becomes ``",
          lambda keep: lambda key, shape, level, dtype: keep(key, shape, level, dtype) * (1 - level),
          "dropout without its scaling", ground="conditional"),
    Fault(torchvae.draws, "keep", "`>= level` becomes `< level`",
          lambda keep: lambda key, shape, level, dtype: 1 / (1 - level) - keep(key, shape, level, dtype),
          "dropout's mask turned round", ground="conditional"),
    Fault(torchvae.pixels, "corrupt", "`spec.images.corruption_level * corruption` becomes `corruption`",
          lambda _: lambda spec, x, corruption: x + corruption, "noise 3.333 times as large", ground="adversarial"),
    Fault(objectives, "inputs", "`Inputs(x, corrupt(` becomes `Inputs(corrupt(spec, x, draws.corruption), corrupt(`",
          lambda inputs: lambda *given: (batch := inputs(*given))._replace(x=batch.seen),
          UNKNOWN, ground="adversarial"),
    Fault(torchvae.operations, "dropped", "`x * (mask if` becomes `x + 0 * (mask if`",
          lambda _: lambda x, training, layer: x, UNKNOWN, ground="conditional"),
    # The average of the weights.
    Fault(torchvae.updates, "averaged", "`max(1 - spec.training.ema, 9 / (10 + step))` becomes `1 - spec.training.ema`",
          lambda averaged: lambda spec, average, model, step: averaged(spec, average, model, 10**9),
          "the weights' average without its smaller decay at first", ground="averaged"),
    Fault(torchvae.updates, "averaged", "`(10 + step)` becomes `(9 + step)`",
          lambda averaged: lambda spec, average, model, step: averaged(spec, average, model, step - 1),
          "the weights' average a step late", ground="averaged"),
]  # fmt: skip
