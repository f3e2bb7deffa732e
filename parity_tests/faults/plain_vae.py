"""Faults in jaxvae or torchvae that a plain VAE shows, and the cause the comparison should name for each."""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import jaxvae.distributions
import jaxvae.layers
import jaxvae.objectives
import jaxvae.train
import torchvae.distributions
import torchvae.evaluate
import torchvae.generate
import torchvae.keys
import torchvae.loop
import torchvae.nets
import torchvae.networks
import torchvae.objectives
import torchvae.params
import torchvae.pixels
import torchvae.random
import torchvae.train
from jaxvae.shared.config.parts import TrainingSpec
from jaxvae.shared.config.spec import Spec
from parity_tests.faults.inject import UNKNOWN, Fault, during, loss

random, dist, nets, networks = torchvae.random, torchvae.distributions, torchvae.nets, torchvae.networks
train, keys, objectives = torchvae.train, torchvae.keys, torchvae.objectives
evaluate, generate, loop = torchvae.evaluate, torchvae.generate, torchvae.loop
# The right functions, for wrong ones that are called in their place.
POSTERIOR, PHASES, STREAMS, DRAW = networks.posterior, train.phases, train.streams, evaluate.draw
TERMS, ENCODE, PIXEL_MEANS, EPOCH = evaluate._terms, generate.encode, generate.pixel_means, loop.train_epoch
INPUTS, POWER = jaxvae.train.inputs, jaxvae.train._power_less_one
KERNEL, BIAS = "decoder.logits.weight", "decoder.logits.bias"
Replacement = Callable[[Any], Any]


def with_(**changed: Callable[..., Any]) -> SimpleNamespace:
    """`torchvae.random` with other functions, for one module."""
    return SimpleNamespace(**{**vars(random), **changed})


def uniform_of_24_bits(key, shape=(), dtype=torch.float32, minval=0.0, maxval=1.0) -> Tensor:
    unit = (random.bits(key, shape).to(torch.int64) >> 8).to(dtype) * 2.0**-24
    return minval + unit * (maxval - minval)


def transposed_uniform(key, shape, dtype) -> Tensor:
    return random.uniform(key, shape[::-1], dtype).permute(*range(len(shape))[::-1])


def matrices_only(key, shape, dtype) -> Tensor:
    """Biases are one half, of which `init` makes zero."""
    return random.uniform(key, shape, dtype) if len(shape) > 1 else torch.full(shape, 0.5, dtype=dtype)


def scaled(factor: Callable[[Tensor], float]) -> Replacement:
    def replacement(init):
        def wrong(*args):
            model = init(*args)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(factor(parameter))
            return model

        return wrong

    return replacement


def given(change: Callable[[str, np.ndarray], np.ndarray]) -> Replacement:
    return lambda from_arrays: (
        lambda spec, arrays: from_arrays(spec, {name: change(name, array) for name, array in arrays.items()})
    )


def flattened(array: np.ndarray) -> np.ndarray:
    return array.reshape(6, 5, -1).transpose(1, 0, 2).reshape(array.shape)


def linear(**changed: Any) -> Replacement:
    def replacement(make):
        def wrong(*args):
            layer = make(*args)
            for name, value in changed.items():
                setattr(layer, name, value)
            return layer

        return wrong

    return replacement


def rounded(bits: int, a, b, *rest, **more) -> jax.Array:
    """Multiply with factors rounded to a number of mantissa bits."""
    a, b = (jax.lax.reduce_precision(x, 8, bits) for x in (a, b))
    return jax.lax.dot_general(a, b, *rest, **{**more, "precision": None})


def nll_of_probabilities(logits: jax.Array, x: jax.Array) -> jax.Array:
    p = 1 / (1 + jnp.exp(-logits))
    return -(x * jnp.log(p + 1e-8) + (1 - x) * jnp.log(1 - p + 1e-8)).sum(-1)


def adam(kind: Callable[..., Any] = train._Adam, **changed: Any) -> Replacement:
    def wrong(spec: Spec, parameters):
        own = spec.training
        usual = {"lr": own.learning_rates()[0], "betas": (own.beta1, own.beta2), "eps": own.eps, "fused": True}
        return kind(parameters, **{**usual, **changed})

    return lambda _: wrong


def updated(change: Replacement) -> Replacement:
    """Make the replacement of jaxvae's Adam with another update."""

    def replacement(make):
        def wrong(*args):
            right = make(*args)
            return right._replace(update=change(right.update))

        return wrong

    return replacement


def counted(change: Callable[[jax.Array], jax.Array]) -> Replacement:
    """Make the replacement of an update that corrects the moments' bias for another number of steps."""

    def replacement(update):
        def wrong(grads, state, params=None):
            updates, new = update(grads, state._replace(count=change(state.count)), params)
            return updates, new._replace(count=state.count + 1)

        return wrong

    return replacement


def uncorrected_second(base: float, t: jax.Array) -> jax.Array:
    """-1, which corrects nothing, for beta2."""
    return jnp.full_like(t, -1.0) if base == 0.999 else POWER(base, t)


def eps_in_root(make):
    """Adam's step again, from the moments of the right one."""

    def wrong(spec: Spec, learning_rate=None):
        right, own = make(spec, learning_rate), spec.training
        rate = own.learning_rates()[0] if learning_rate is None else learning_rate

        def update(grads, state, params=None):
            new = right.update(grads, state, params)[1]
            first, second = (1 - jnp.asarray(b) ** new.count for b in (own.beta1, own.beta2))
            steps = jax.tree.map(lambda m, v: -rate * m / first / jnp.sqrt(v / second + own.eps), new.mu, new.nu)
            return steps, new

        return right._replace(update=update)

    return wrong


def without_moments(from_arrays):
    def wrong(spec, arrays, model):
        return from_arrays(spec, {n: a if n.endswith("step") else np.zeros_like(a) for n, a in arrays.items()}, model)

    return wrong


def counting(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Make the `fold_in` that counts the steps of an epoch, which it is given all in one, in another way."""
    return lambda key, t: random.fold_in(key, change(t) if isinstance(t, Tensor) else t)


def weighted(change: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    return lambda spec, x, draws, labels, weights, step: INPUTS(
        spec, x, draws, labels, change(weights).astype(weights.dtype), step
    )


def drawing(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda *args: (draws := DRAW(*args))._replace(eps=change(draws.eps))


def means_of_batches(*args) -> Tensor:
    return torch.stack([part.mean(0) for part in TERMS(*args).split(evaluate._BATCH)])


def one_sigma_off(*args):
    posterior = ENCODE(*args)
    return posterior._replace(mean=posterior.mean + torch.exp(0.5 * posterior.logvar))


def decaying(spec, state, *args, **options):
    """Weight decay in the second epoch, of 19 steps."""
    state.optimizer[""].param_groups[0]["weight_decay"] = 0.01 * (state.step // 19 == 1)
    return EPOCH(spec, state, *args, **options)


def shorter(whole):
    def wrong(spec: Spec, images, *args) -> Iterator[Any]:
        end = spec.training.total_steps(len(images)) - 7
        for block in whole(spec, images, *args):
            yield block._replace(end=min(block.end, end))

    return wrong


def pixels_drawn(spec: Spec, decoded) -> Tensor:
    return torch.bernoulli(PIXEL_MEANS(spec, decoded), generator=torch.Generator().manual_seed(0))


def halved_late(update):
    def wrong(spec, state, batch, rate, gradient):
        return update(spec, state, batch, rate * (0.5 if state.step >= 23 else 1), gradient)

    return wrong


FAULTS = [
    # The keys and what is drawn from them.
    Fault(random, "key", "`seed >> 32 & 0xFFFFFFFF` becomes `0`",
          lambda key: lambda seed, device="cpu": key(seed & 0xFFFFFFFF, device), "upper half of the seed dropped"),
    Fault(random, "key",
          "`[seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF]` becomes `[seed & 0xFFFFFFFF, seed >> 32 "
          "& 0xFFFFFFFF]`",
          lambda key: lambda seed, device="cpu": key((seed & 0xFFFFFFFF) << 32 | seed >> 32, device),
          "words of the seed swapped"),
    Fault(keys, "streams", "`torch.arange(len(Streams._fields))` becomes `torch.tensor([0, 2, 1, 3, 4, 5, 6])`",
          lambda streams: lambda key: (s := streams(key))._replace(order=s.noise, noise=s.order),
          "streams exchanged: order has the key of noise"),
    Fault(keys, "streams", "`torch.arange(len(Streams._fields))` becomes `torch.arange(1, 8)`",
          lambda _: lambda key: keys.Streams(*random.fold_in(key, torch.arange(1, 8))),
          "streams folded in from 1, not 0"),
    Fault(keys, "stream_key",
          "`random.fold_in(getattr(streams(key), stream), t)` becomes `getattr(streams(key), "
          "stream)`",
          lambda _: lambda key, stream, t: getattr(keys.streams(key), stream), "key reused: the step is not folded in"),
    Fault(keys, "stream_key", "`getattr(streams(key), stream)` becomes `key`",
          lambda _: lambda key, stream, t: random.fold_in(key, t),
          "wrong fold-in: folded into the root key, not the stream"),
    Fault(random, "permutation", "`torch.sort(words, stable=True).indices` becomes `torch.arange(x)`",
          lambda _: lambda key, x: torch.arange(x), "order not shuffled"),
    Fault(random, "uniform",
          "`bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).to(dtype).mul_(2.0**-23)` becomes "
          "`bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).to(dtype).mul_(2.0**-24)`",
          lambda _: uniform_of_24_bits, "uniforms of 24 bits, not 23", dtype="float32"),
    Fault(random, "normal",
          "`_erfinv(uniform(key, shape, dtype, above, 1.0))` becomes `torch.erfinv(uniform(key, "
          "shape, dtype, above, 1.0))`",
          during(random, _erfinv=torch.erfinv), "torch's own erfinv, rather than XLA's polynomials", dtype="float32"),
    Fault(random, "normal",
          "`return _erfinv(uniform(key, shape, dtype, above, 1.0)).mul_(math.sqrt(2.0))` becomes "
          "`return _erfinv(uniform(key, shape, torch.float32, -1.0 + 2.0**-24, "
          "1.0)).mul_(math.sqrt(2.0)).to(...`",
          lambda normal: lambda key, shape=(), dtype=torch.float32: normal(key, shape).to(dtype),
          "float32 slipped into float64"),
    # Initial weights and pixels.
    Fault(nets, "init",
          "`random.uniform(random.fold_in(key, i), parameter.shape, dtype)` becomes "
          "`random.uniform(random.fold_in(key, i), parameter.shape[::-1], "
          "dtype).permute(*range(len(parameter...`",
          during(nets, random=with_(uniform=transposed_uniform)), "kernel drawn in the other framework's layout"),
    Fault(nets, "init", "`(2.0 * unit - 1.0)` becomes `(unit.ndim - 1) * (2.0 * unit - 1.0)`",
          during(nets, random=with_(uniform=matrices_only)), "biases start at zero"),
    Fault(nets, "init", "`random.fold_in(key, i)` becomes `random.fold_in(key, i + 1)`",
          during(nets, random=with_(fold_in=lambda key, i: random.fold_in(key, i + 1))),
          "arrays folded in from 1, not 0"),
    Fault(nets, "init", "`random.fold_in(key, i)` becomes `key`",
          during(nets, random=with_(fold_in=lambda key, i: key)), "key reused: every array drawn from the same key"),
    Fault(nets, "init", "`* parameter.bound` becomes `* parameter.bound * 6**0.5`",
          scaled(lambda parameter: 6**0.5), "weights scaled as He's: sqrt(6 / fan-in)"),
    Fault(nets, "init", "`* parameter.bound` becomes `/ parameter.shape[0]**0.5`",
          scaled(lambda parameter: (parameter[0].numel() / len(parameter)) ** 0.5),
          "weights scaled by fan-out, not fan-in"),
    Fault(torchvae.pixels, "scale",
          "`floats.div_(torch.full((), 255, dtype=floats.dtype, device=floats.device))` becomes "
          "`floats.mul_(1 / 255)`",
          lambda _: lambda images, dtype: images.flatten(1).to(getattr(torch, dtype)) * (1 / 255),
          "pixels times 1/255, not over 255", dtype="float32"),
    Fault(torchvae.pixels, "scale", "`255` becomes `256`",
          lambda _: lambda images, dtype: images.flatten(1).to(getattr(torch, dtype)) / 256, "pixels over 256"),
    Fault(torchvae.pixels, "scale", "`images.flatten(1)` becomes `images.permute(0, 3, 1, 2).flatten(1)`",
          lambda scale: lambda images, dtype: scale(images.permute(0, 3, 1, 2), dtype),
          "pixels flattened in channel, height, width order"),
    # The networks.
    Fault(networks.Encoder, "forward", "`activate(self.spec, layer(x))` becomes `nn.functional.leaky_relu(layer(x))`",
          during(networks, activate=lambda spec, x: F.leaky_relu(x)), "LeakyReLU with slope 0.01 for ReLU"),
    Fault(networks.Encoder, "forward", "`activate(self.spec, layer(x))` becomes `nn.functional.gelu(layer(x))`",
          during(networks, activate=lambda spec, x: F.gelu(x)), "GELU (erf) for ReLU"),
    Fault(networks.Decoder, "forward", "`activate(self.spec, layer(z))` becomes `torch.tanh(layer(z))`",
          during(networks, activate=lambda spec, x: torch.tanh(x)), "tanh for ReLU"),
    Fault(networks.Encoder, "forward", "`layout.heads(self.spec)])` becomes `layout.heads(self.spec)][::-1])`",
          during(networks, posterior=lambda spec, parts: POSTERIOR(spec, parts[::-1])), "mean and logvar swapped"),
    Fault(torchvae.params, "from_arrays",
          "`torch.tensor(array)` becomes `torch.tensor(array if array.shape != (12, 12) else "
          "array.T.copy())`",
          given(lambda name, array: array.T.copy() if array.shape == (12, 12) else array), "kernel transposed"),
    Fault(torchvae.params, "from_arrays",
          "`torch.tensor(array)` becomes `torch.tensor(array if name != 'decoder.logits.bias' else "
          "array.reshape(6, 5).T.ravel())`",
          given(lambda name, array: array.reshape(6, 5).T.ravel() if name == BIAS else array),
          "bias permuted as a flatten would, kernel's columns not"),
    Fault(torchvae.params, "from_arrays",
          "`torch.tensor(array)` becomes `torch.tensor(array if name != 'decoder.logits.weight' "
          "else array.reshape(6, 5, -1).transpose(1, 0...`",
          given(lambda name, array: flattened(array) if name == KERNEL else array),
          "kernel's columns permuted as a flatten would, bias not"),
    Fault(torchvae.params, "from_arrays",
          "`torch.tensor(array)` becomes `torch.tensor(array * (name != 'decoder.logits.bias'))`",
          given(lambda name, array: array * (name != BIAS)), "bias missing"),
    Fault(jaxvae.layers, "_linear",
          '`precision="highest"` becomes `dot_general=lambda a, b, *rest, **more: '
          "jax.lax.dot_general(jax.lax.reduce_precision(a, 8, 10), j...`",
          linear(dot_general=partial(rounded, 10)), "TF32 products", dtype="float32"),
    Fault(jaxvae.layers, "_linear",
          '`precision="highest"` becomes `dot_general=lambda a, b, *rest, **more: '
          "jax.lax.dot_general(jax.lax.reduce_precision(a, 8, 7), ja...`",
          linear(dot_general=partial(rounded, 7)), "bfloat16 products", dtype="float32"),
    Fault(jaxvae.layers, "_linear", '`precision="highest"` becomes `precision="highest", dtype=jnp.float32`',
          linear(dtype=jnp.float32), "float32 slipped into float64"),
    Fault(dist, "locate", "`torch.exp(0.5 * logvar)` becomes `torch.exp(logvar)`",
          lambda locate: lambda q, eps: locate(q._replace(logvar=2 * q.logvar), eps),
          "variance for sigma in the latent"),
    Fault(dist, "locate",
          "`mean + torch.exp(0.5 * logvar) * eps` becomes `mean + torch.exp(0.5 * logvar) * "
          "eps[..., :1, :]`",
          lambda locate: lambda q, eps: locate(q, eps[..., :1, :]), "the same noise for every image"),
    Fault(dist, "locate", "`torch.exp(0.5 * logvar)` becomes `logvar`",
          lambda _: lambda q, eps: q.mean + q.logvar * eps, "logvar taken for sigma"),
    # The losses.
    Fault(dist, "bernoulli_nll", "`.sum(-1)` becomes `.mean(-1)`",
          lambda nll: lambda logits, x: nll(logits, x) / x.shape[-1], "cross-entropy averaged over pixels, not summed"),
    Fault(dist, "bernoulli_nll",
          '`F.binary_cross_entropy_with_logits(logits, x, reduction="none")` becomes '
          '`F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="none")`',
          lambda _: lambda logits, x: F.binary_cross_entropy(logits.sigmoid(), x, reduction="none").sum(-1),
          "cross-entropy from probabilities, its logarithms cut at -100"),
    Fault(jaxvae.distributions, "bernoulli_nll",
          "`(_softplus(logits) - logits * x)` becomes `-(x * jnp.log(1 / (1 + jnp.exp(-logits)) + "
          "1e-8) + (1 - x) * jnp.log(1 - 1 / (1 + jnp.exp(-logits...`",
          lambda _: nll_of_probabilities, "cross-entropy from probabilities, 1e-08 added inside the logarithms"),
    Fault(dist, "bernoulli_nll",
          "`F.binary_cross_entropy_with_logits(logits, x,` becomes "
          "`F.mse_loss(torch.sigmoid(logits), x,`",
          lambda _: lambda logits, x: F.mse_loss(logits.sigmoid(), x, reduction="none").sum(-1),
          "squared error for cross-entropy"),
    Fault(dist, "bernoulli_nll",
          "`F.binary_cross_entropy_with_logits(logits, x,` becomes "
          "`F.binary_cross_entropy_with_logits(logits.sigmoid(), x,`",
          lambda nll: lambda logits, x: nll(logits.sigmoid(), x), "a sigmoid before the logits' cross-entropy"),
    Fault(dist, "gaussian_kl", "`.sum(-1)` becomes `.mean(-1)`",
          lambda kl: lambda q: kl(q) / q.mean.shape[-1], "KL averaged over latents, not summed"),
    Fault(dist, "gaussian_kl", "`0.5 * (` becomes `(`",
          lambda kl: lambda q: 2 * kl(q), "KL without its factor 0.5"),
    Fault(dist, "gaussian_kl", "`torch.expm1(logvar)` becomes `torch.expm1(0.5 * logvar)`",
          lambda _: lambda q: 0.5 * (q.mean**2 + torch.expm1(0.5 * q.logvar) - q.logvar).sum(-1),
          "sigma for variance in the KL"),
    Fault(dist, "gaussian_kl", "`mean, logvar = posterior` becomes `logvar, mean = posterior`",
          lambda kl: lambda q: kl(dist.Posterior(*q[::-1])), "mean and logvar swapped"),
    Fault(dist, "gaussian_kl", "`torch.expm1(logvar)` becomes `torch.exp(logvar)`",
          lambda kl: lambda q: kl(q) + 0.5 * q.mean.shape[-1], "KL without its -1"),
    Fault(dist, "gaussian_kl", "`mean**2 +` becomes ``",
          lambda kl: lambda q: kl(q._replace(mean=0 * q.mean)), "KL without the mean's square"),
    Fault(objectives, "negative_elbo", "`beta * divergence` becomes `divergence`",
          loss(lambda spec, error, kl: error + kl), "beta ignored"),
    Fault(objectives, "negative_elbo", "`error + beta * divergence` becomes `beta * error + divergence`",
          loss(lambda spec, error, kl: spec.effective_beta * error + kl), "beta on the reconstruction"),
    Fault(jaxvae.objectives, "negative_elbo", "`beta * divergence` becomes `beta**2 * divergence`",
          loss(lambda spec, error, kl: error + spec.effective_beta**2 * kl), "beta squared"),
    # The gradients.
    Fault(dist, "locate",
          "`mean + torch.exp(0.5 * logvar) * eps` becomes `(mean + torch.exp(0.5 * logvar) * "
          "eps).detach()`",
          lambda locate: lambda q, eps: locate(q, eps).detach(), "gradient stopped at the latent"),
    Fault(dist, "locate", "`torch.exp(0.5 * logvar)` becomes `torch.exp(0.5 * logvar).detach()`",
          lambda locate: lambda q, eps: locate(q._replace(logvar=q.logvar.detach()), eps), "gradient stopped at sigma"),
    Fault(jaxvae.distributions, "_softplus", "`@jax.custom_jvp` becomes `@jax.jit`",
          lambda softplus: softplus.__wrapped__, "|logit| with slope 1 at 0, as jnp.abs has it"),
    # The optimizer.
    Fault(train, "make_optimizer",
          "`torch.optim.Adam(parameters, training.learning_rates()[0], betas, training.eps, "
          "fused=True)` becomes `torch.optim.AdamW(parameters, training.learning_rates()[0], "
          "betas, training.eps, weight_decay=0.0...`",
          adam(train._AdamW, weight_decay=0.01), "decoupled weight decay 0.01, AdamW's default"),
    Fault(train, "make_optimizer",
          "`torch.optim.Adam(parameters, training.learning_rates()[0], betas, training.eps, "
          "fused=True)` becomes `torch.optim.Adam(parameters, training.learning_rates()[0], betas, "
          "training.eps, weight_decay=0.01...`",
          adam(weight_decay=0.01), "weight decay added to the gradient (0.01)"),
    Fault(train, "make_optimizer",
          "`torch.optim.Adam(parameters, training.learning_rates()[0], betas, training.eps, "
          "fused=True)` becomes `torch.optim.Adam(parameters, training.learning_rates()[0], betas, "
          "training.eps, amsgrad=True, fus...`",
          adam(amsgrad=True), "AMSGrad for Adam"),
    Fault(train, "make_optimizer",
          "`torch.optim.Adam(parameters, training.learning_rates()[0], betas, training.eps, "
          "fused=True)` becomes `torch.optim.Adam(parameters, training.learning_rates()[0], (0.9, "
          "0.99), training.eps, fused=True)`",
          adam(betas=(0.9, 0.99)), "Adam's beta2 0.99 for 0.999"),
    Fault(train, "make_optimizer",
          "`torch.optim.Adam(parameters, training.learning_rates()[0], betas, training.eps, "
          "fused=True)` becomes `torch.optim.Adam(parameters, training.learning_rates()[0], betas, "
          "1e-6, fused=True)`",
          adam(eps=1e-6), "Adam's eps 1e-6 for 1e-8"),
    Fault(jaxvae.train, "make_optimizer", "`(jnp.sqrt(v) + small)` becomes `jnp.sqrt(v + small * root)`",
          eps_in_root, "Adam's eps inside the root"),
    Fault(jaxvae.train, "make_optimizer",
          "`rate * root / -_power_less_one(b1, t), eps * root` becomes `rate / "
          "-_power_less_one(b1, t), eps`",
          updated(during(jaxvae.train, _power_less_one=uncorrected_second)),
          "Adam's second moment not corrected for its bias"),
    Fault(jaxvae.train, "make_optimizer", "`t = count.astype(dtype)` becomes `t = (count + 1).astype(dtype)`",
          updated(counted(lambda count: count + 1)), "Adam's steps counted one too many"),
    Fault(jaxvae.train, "make_optimizer", "`t = count.astype(dtype)` becomes `t = jnp.full((), 1e6, dtype)`",
          updated(counted(lambda count: jnp.full_like(count, 10**6))), "Adam without its bias correction"),
    Fault(jaxvae.train, "make_optimizer", "`rate * root /` becomes `2 * rate * root /`",
          lambda make: lambda spec, rate=None: make(spec, 2 * (rate or spec.training.learning_rates()[0])),
          "learning rate 2 times as large"),
    # A step.
    Fault(train, "_update",
          "`(next(iter(terms.values())) * (phase.share / processes())).backward()` becomes "
          "`(next(iter(terms.values())) * (phase.share / processes())).backward() "
          "torch.nn.utils.clip_grad_no...`",
          during(train, sum_gradients=lambda tensors: torch.nn.utils.clip_grad_norm_(tensors, 1.0)),
          "gradient clipped to norm 1"),
    Fault(train, "_update", "`state.model.zero_grad(set_to_none=True)` becomes `pass`",
          during(networks.VAE, zero_grad=lambda self, set_to_none: None), "gradient kept from the step before"),
    Fault(train, "_update",
          "`(next(iter(terms.values())) * (phase.share / processes())).backward()` becomes "
          "`(next(iter(terms.values())) * (len(batch.x) / processes())).backward()`",
          during(train, phases=lambda spec: [p._replace(share=spec.training.batch_size) for p in PHASES(spec)]),
          "loss summed over the batch, not averaged"),
    Fault(train, "train_step",
          "`streams(state.key).noise, state.step)` becomes `streams(state.key).noise, state.step + "
          "1)`",
          during(train, random=with_(fold_in=lambda key, t: random.fold_in(key, t + 1))),
          "wrong fold-in: the step is counted from 1"),
    Fault(train, "train_step",
          "`random.fold_in(streams(state.key).noise, state.step)` becomes "
          "`streams(state.key).noise`",
          during(train, random=with_(fold_in=lambda key, t: key)), "key reused: every step draws the same noise"),
    Fault(train, "train_step", "`streams(state.key).noise` becomes `streams(state.key).order`",
          during(train, streams=lambda key: (s := STREAMS(key))._replace(noise=s.order)),
          "streams exchanged: noise drawn from order"),
    Fault(torchvae.params, "optimizer_from_arrays", "`[name], device` becomes `[name] * 0, device`",
          without_moments, "moments not carried over"),
    # An epoch.
    Fault(train, "epoch_order",
          "`random.permutation(random.fold_in(streams(key).order, epoch), n)` becomes "
          "`torch.arange(n)`",
          lambda _: lambda spec, key, epoch, n: torch.arange(n), "order not shuffled"),
    Fault(train, "epoch_order", "`order, epoch)` becomes `order, 0)`",
          lambda order: lambda spec, key, epoch, n: order(spec, key, 0, n),
          "key reused: every epoch has the first one's order"),
    Fault(jaxvae.train, "epoch_order", "`order, epoch)` becomes `order, epoch + 1)`",
          lambda order: lambda spec, key, epoch, n: order(spec, key, epoch + 1, n),
          "wrong fold-in: the epoch is counted from 1"),
    Fault(train, "train_epoch", "`torch.arange(state.step, end)` becomes `torch.arange(end - state.step)`",
          during(train, random=with_(fold_in=counting(lambda t: t - t[0]))),
          "wrong fold-in: the step is counted within its epoch"),
    Fault(train, "train_epoch", "`spec.training.epoch_steps(n)` becomes `n // spec.training.batch_size`",
          during(TrainingSpec, epoch_steps=lambda self, n: n // self.batch_size), "last batch dropped"),
    Fault(jaxvae.train, "train_epoch",
          "`weights = real / real.sum(1, keepdims=True)` becomes `weights = real / batch`",
          during(jaxvae.train, inputs=weighted(lambda weights: (weights > 0) / len(weights))),
          "last batch divided by a whole batch's size"),
    Fault(jaxvae.train, "train_epoch",
          "`(jnp.arange(steps * batch) < n)` becomes `(jnp.arange(steps * batch) < steps * batch)`",
          during(jaxvae.train, inputs=weighted(lambda weights: jnp.full_like(weights, 1 / len(weights)))),
          "last batch filled up with images that count"),
    # What is made of a model.
    Fault(evaluate, "_terms", "`eps=draws` becomes `eps=0 * draws`",
          during(evaluate, draw=drawing(lambda eps: 0 * eps)), "noise left out of the latent"),
    Fault(evaluate, "_terms", "`draws.eps[..., rows, :]` becomes `draws.eps[..., rows % _BATCH, :]`",
          during(evaluate, draw=drawing(lambda eps: eps[..., torch.arange(eps.shape[-2]) % evaluate._BATCH, :])),
          "key reused: every batch draws the same noise"),
    Fault(evaluate, "average_terms",
          "`found.cpu().numpy().astype(np.float64).mean(0)` becomes `torch.stack([part.mean(0) for "
          "part in found.split(_BATCH)]).mean(0).numpy()`",
          during(evaluate, _terms=means_of_batches), "mean of the batches' means, the last one short"),
    Fault(generate, "reconstruct", "`posterior.mean` becomes `posterior.mean + torch.exp(0.5 * posterior.logvar)`",
          during(generate, encode=one_sigma_off), UNKNOWN),
    Fault(generate, "images_of",
          "`pixel_means(spec, decode(spec, model, z, labels))` becomes `decode(spec, model, z, "
          "labels).logits`",
          during(generate, pixel_means=lambda spec, decoded: decoded.logits), "logits for probabilities"),
    # What comes with time only.
    Fault(train, "_drawn", "`draw(spec, block, rows)` becomes `draw(spec, block[:1].expand(len(block), 2), rows)`",
          lambda drawn: lambda spec, keys, rows: drawn(spec, keys[:1].expand(len(keys), 2), rows),
          "key reused: every step draws its epoch's first noise"),
    Fault(train, "_update", '`["lr"] = rate` becomes `["lr"] = rate * (0.5 if state.step >= 23 else 1)`',
          halved_late,
          "learning rate 0.5 times as large from step 23 on"),
    Fault(train, "train_epoch",
          "`torch.arange(state.step, end)` becomes `torch.arange(state.step, end) - "
          "(torch.arange(state.step, end) == 25).long()`",
          during(train, random=with_(fold_in=counting(lambda t: t - (t == 25).long()))),
          "key reused: step 25 draws the noise of step 24"),
    Fault(loop, "fit",
          '`now, log = train_epoch(` becomes `now.optimizer[""].param_groups[0]["weight_decay"] = '
          "0.01 * (epoch == 2) now, log = train_epoch(`",
          during(loop, train_epoch=decaying), UNKNOWN, dtype="float32"),
    Fault(loop, "fit",
          '`now, log = train_epoch(` becomes `now.optimizer[""].param_groups[0]["weight_decay"] = '
          "0.01 * (epoch == 2) now, log = train_epoch(`",
          during(loop, train_epoch=decaying), UNKNOWN),
    Fault(loop, "fit", '`"evaluation", epoch` becomes `"evaluation", 1`',
          during(loop, stream_key=lambda key, stream, t: keys.stream_key(key, stream, 1)), UNKNOWN, dtype="float32"),
    Fault(loop, "_whole", "`spans[-1].end` becomes `min(spans[-1].end, spec.training.total_steps(n) - 7)`",
          shorter, UNKNOWN),
    Fault(train, "epoch_order", "`order, epoch)` becomes `order, min(epoch, 1))`",
          lambda order: lambda spec, key, epoch, n: order(spec, key, min(epoch, 1), n),
          "step 38 is given the images of step 19"),
    Fault(train, "epoch_order", "`order, epoch)` becomes `order, min(epoch, 1))`",
          lambda order: lambda spec, key, epoch, n: order(spec, key, min(epoch, 1), n), UNKNOWN, dtype="float32"),
    # What no plain formula with a slip gives.
    Fault(generate, "images_of",
          "`pixel_means(spec, decode(spec, model, z, labels))` becomes "
          "`torch.bernoulli(pixel_means(spec, decode(spec, model, z, labels)), "
          "generator=torch.Generator().ma...`",
          during(generate, pixel_means=pixels_drawn), UNKNOWN),
    Fault(dist, "locate",
          "`mean + torch.exp(0.5 * logvar) * eps` becomes `(mean + torch.exp(0.5 * logvar) * "
          "eps).round()`",
          lambda locate: lambda q, eps: locate(q, eps).round(), UNKNOWN),
    Fault(torchvae.pixels, "scale", "`floats.div_(` becomes `(floats > 127).to(floats).mul_(255).div_(`",
          lambda _: lambda images, dtype: (images.flatten(1) > 127).to(getattr(torch, dtype)), "pixels binarised"),
    Fault(networks.Encoder, "forward", "`activate(self.spec, layer(x))` becomes `(layer(x) > 0).to(x)`",
          during(networks, activate=lambda spec, x: (x > 0).to(x)), "a step for ReLU"),
]  # fmt: skip
