"""Faults in jaxvae or torchvae that a plain VAE shows, and the cause the comparison should name for each."""

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
import torchvae.objectives
import torchvae.params
import torchvae.pixels
import torchvae.random
import torchvae.train
from parity_tests.faults.inject import UNKNOWN, Fault

random, dist, nets = torchvae.random, torchvae.distributions, torchvae.nets
train, keys, objectives = torchvae.train, torchvae.keys, torchvae.objectives
KL, BCE = dist.gaussian_kl, dist.bernoulli_nll
ENCODED = "activate(self.spec, layer(x))"
LOCATED = "mean + torch.exp(0.5 * logvar) * eps"
MEANS = "pixel_means(spec, decode(spec, model, z, labels))"
DECAY = """now.optimizer[""].param_groups[0]["weight_decay"]"""
JAX_ADAM = jaxvae.train.make_optimizer
ADAM = "torch.optim.Adam(parameters, training.learning_rates()[0], betas, training.eps, fused=True)"
BACKWARD = "(next(iter(terms.values())) * (phase.share / processes())).backward()"
CLIPPED = f"""{BACKWARD}
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)"""


def rounded(bits: int) -> str:
    """Multiply with factors rounded to a number of mantissa bits."""
    low = [f"jax.lax.reduce_precision({name}, 8, {bits})" for name in "ab"]
    return f"dot_general=lambda a, b, *rest, **more: jax.lax.dot_general({', '.join(low)}, *rest, **more)"


FAULTS = [
    # The keys and what is drawn from them.
    Fault(random.key, "seed >> 32 & 0xFFFFFFFF", "0", "upper half of the seed dropped"),
    Fault(random.key, "[seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF]", "[seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]",
          "words of the seed swapped"),
    Fault(keys.streams, "torch.arange(len(Streams._fields))", "torch.tensor([0, 2, 1, 3, 4, 5])",
          "streams exchanged: order has the key of noise"),
    Fault(keys.streams, "torch.arange(len(Streams._fields))", "torch.arange(1, 7)",
          "streams folded in from 1, not 0"),
    Fault(keys.stream_key, "random.fold_in(getattr(streams(key), stream), t)", "getattr(streams(key), stream)",
          "key reused: the step is not folded in"),
    Fault(keys.stream_key, "getattr(streams(key), stream)", "key",
          "wrong fold-in: folded into the root key, not the stream"),
    Fault(random.permutation, "torch.sort(words, stable=True).indices", "torch.arange(x)", "order not shuffled"),
    Fault(random.uniform, "bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).to(dtype).mul_(2.0**-23)",
          "bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).to(dtype).mul_(2.0**-24)",
          "uniforms of 24 bits, not 23", "float32"),
    Fault(random.normal, "_erfinv(uniform(key, shape, dtype, above, 1.0))",
          "torch.erfinv(uniform(key, shape, dtype, above, 1.0))",
          "torch's own erfinv, rather than XLA's polynomials", "float32"),
    Fault(random.normal, "return _erfinv(uniform(key, shape, dtype, above, 1.0)).mul_(math.sqrt(2.0))",
          "return _erfinv(uniform(key, shape, torch.float32, -1.0 + 2.0**-24, 1.0)).mul_(math.sqrt(2.0)).to(dtype)",
          "float32 slipped into float64"),
    # Initial weights and pixels.
    Fault(nets.init, "random.uniform(random.fold_in(key, i), parameter.shape, dtype)",
          "random.uniform(random.fold_in(key, i), parameter.shape[::-1], dtype)"
          ".permute(*range(len(parameter.shape))[::-1])",
          "kernel drawn in the other framework's layout"),
    Fault(nets.init, "(2.0 * unit - 1.0)", "(unit.ndim - 1) * (2.0 * unit - 1.0)", "biases start at zero"),
    Fault(nets.init, "random.fold_in(key, i)", "random.fold_in(key, i + 1)", "arrays folded in from 1, not 0"),
    Fault(nets.init, "random.fold_in(key, i)", "key", "key reused: every array drawn from the same key"),
    Fault(nets.init, "* parameter.bound", "* parameter.bound * 6**0.5",
          "weights scaled as He's: sqrt(6 / fan-in)"),
    Fault(nets.init, "* parameter.bound", "/ parameter.shape[0]**0.5",
          "weights scaled by fan-out, not fan-in"),
    Fault(torchvae.pixels.scale, "floats.div_(torch.full((), 255, dtype=floats.dtype, device=floats.device))",
          "floats.mul_(1 / 255)", "pixels times 1/255, not over 255", "float32"),
    Fault(torchvae.pixels.scale, "255", "256", "pixels over 256"),
    Fault(torchvae.pixels.scale, "images.flatten(1)", "images.permute(0, 3, 1, 2).flatten(1)",
          "pixels flattened in channel, height, width order"),
    # The networks.
    Fault(nets.Encoder.forward, ENCODED, "nn.functional.leaky_relu(layer(x))",
          "LeakyReLU with slope 0.01 for ReLU", owner=nets.Encoder),
    Fault(nets.Encoder.forward, ENCODED, "nn.functional.gelu(layer(x))", "GELU (erf) for ReLU", owner=nets.Encoder),
    Fault(nets.Decoder.forward, "activate(self.spec, layer(z))", "torch.tanh(layer(z))",
          "tanh for ReLU", owner=nets.Decoder),
    Fault(nets.Encoder.forward, "layout.heads(self.spec)])", "layout.heads(self.spec)][::-1])",
          "mean and logvar swapped", owner=nets.Encoder),
    Fault(torchvae.params.from_arrays, "torch.tensor(array)",
          "torch.tensor(array if array.shape != (12, 12) else array.T.copy())", "kernel transposed"),
    Fault(torchvae.params.from_arrays, "torch.tensor(array)",
          "torch.tensor(array if name != 'decoder.logits.bias' else array.reshape(6, 5).T.ravel())",
          "bias permuted as a flatten would, kernel's columns not"),
    Fault(torchvae.params.from_arrays, "torch.tensor(array)",
          "torch.tensor(array if name != 'decoder.logits.weight' else "
          "array.reshape(6, 5, -1).transpose(1, 0, 2).reshape(array.shape))",
          "kernel's columns permuted as a flatten would, bias not"),
    Fault(torchvae.params.from_arrays, "torch.tensor(array)",
          "torch.tensor(array * (name != 'decoder.logits.bias'))", "bias missing"),
    Fault(jaxvae.layers._linear, 'precision="highest"', rounded(10), "TF32 products", "float32"),
    Fault(jaxvae.layers._linear, 'precision="highest"', rounded(7), "bfloat16 products", "float32"),
    Fault(jaxvae.layers._linear, 'precision="highest"', 'precision="highest", dtype=jnp.float32',
          "float32 slipped into float64"),
    Fault(dist.locate, "torch.exp(0.5 * logvar)", "torch.exp(logvar)",
          "variance for sigma in the latent"),
    Fault(dist.locate, LOCATED, f"{LOCATED}[..., :1, :]", "the same noise for every image"),
    Fault(dist.locate, "torch.exp(0.5 * logvar)", "logvar", "logvar taken for sigma"),
    # The losses.
    Fault(BCE, ".sum(-1)", ".mean(-1)", "cross-entropy averaged over pixels, not summed"),
    Fault(BCE, 'F.binary_cross_entropy_with_logits(logits, x, reduction="none")',
          'F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="none")',
          "cross-entropy from probabilities, its logarithms cut at -100"),
    Fault(jaxvae.distributions.bernoulli_nll,
          "(_softplus(logits) - logits * x)",
          "-(x * jnp.log(1 / (1 + jnp.exp(-logits)) + 1e-8)"
          " + (1 - x) * jnp.log(1 - 1 / (1 + jnp.exp(-logits)) + 1e-8))",
          "cross-entropy from probabilities, 1e-08 added inside the logarithms"),
    Fault(BCE, "F.binary_cross_entropy_with_logits(logits, x,", "F.mse_loss(torch.sigmoid(logits), x,",
          "squared error for cross-entropy"),
    Fault(BCE, "F.binary_cross_entropy_with_logits(logits, x,",
          "F.binary_cross_entropy_with_logits(logits.sigmoid(), x,",
          "a sigmoid before the logits' cross-entropy"),
    Fault(KL, ".sum(-1)", ".mean(-1)", "KL averaged over latents, not summed"),
    Fault(KL, "0.5 * (", "(", "KL without its factor 0.5"),
    Fault(KL, "torch.expm1(logvar)", "torch.expm1(0.5 * logvar)", "sigma for variance in the KL"),
    Fault(KL, "mean, logvar = posterior", "logvar, mean = posterior", "mean and logvar swapped"),
    Fault(KL, "torch.expm1(logvar)", "torch.exp(logvar)", "KL without its -1"),
    Fault(KL, "mean**2 + ", "", "KL without the mean's square"),
    Fault(objectives.negative_elbo, "beta * divergence", "divergence", "beta ignored"),
    Fault(objectives.negative_elbo, "error + beta * divergence", "beta * error + divergence",
          "beta on the reconstruction"),
    Fault(jaxvae.objectives.negative_elbo, "beta * divergence", "beta**2 * divergence", "beta squared"),
    # The gradients.
    Fault(dist.locate, LOCATED, f"({LOCATED}).detach()",
          "gradient stopped at the latent"),
    Fault(dist.locate, "torch.exp(0.5 * logvar)", "torch.exp(0.5 * logvar).detach()",
          "gradient stopped at sigma"),
    Fault(jaxvae.distributions._softplus, "@jax.custom_jvp", "@jax.jit",
          "|logit| with slope 1 at 0, as jnp.abs has it"),
    # The optimizer.
    Fault(train.make_optimizer, ADAM, ADAM.replace("fused", "weight_decay=0.01, fused").replace("Adam(", "AdamW("),
          "decoupled weight decay 0.01, AdamW's default"),
    Fault(train.make_optimizer, ADAM, ADAM.replace("fused", "weight_decay=0.01, fused"),
          "weight decay added to the gradient (0.01)"),
    Fault(train.make_optimizer, ADAM, ADAM.replace("fused", "amsgrad=True, fused"), "AMSGrad for Adam"),
    Fault(train.make_optimizer, ADAM, ADAM.replace("betas", "(0.9, 0.99)"), "Adam's beta2 0.99 for 0.999"),
    Fault(train.make_optimizer, ADAM, ADAM.replace("training.eps", "1e-6"), "Adam's eps 1e-6 for 1e-8"),
    Fault(JAX_ADAM, "(jnp.sqrt(v) + small)", "jnp.sqrt(v + small * root)", "Adam's eps inside the root"),
    Fault(JAX_ADAM, "rate * root / -_power_less_one(b1, t), eps * root", "rate / -_power_less_one(b1, t), eps",
          "Adam's second moment not corrected for its bias"),
    Fault(JAX_ADAM, "t = count.astype(dtype)", "t = (count + 1).astype(dtype)", "Adam's steps counted one too many"),
    Fault(JAX_ADAM, "t = count.astype(dtype)", "t = jnp.full((), 1e6, dtype)", "Adam without its bias correction"),
    Fault(JAX_ADAM, "rate * root /", "2 * rate * root /", "learning rate 2 times as large"),
    # A step.
    Fault(train._update, BACKWARD, CLIPPED, "gradient clipped to norm 1"),
    Fault(train._update, "state.model.zero_grad(set_to_none=True)", "pass", "gradient kept from the step before"),
    Fault(train._update, BACKWARD, BACKWARD.replace("phase.share", "len(batch.x)"),
          "loss summed over the batch, not averaged"),
    Fault(train.train_step, "streams(state.key).noise, state.step)", "streams(state.key).noise, state.step + 1)",
          "wrong fold-in: the step is counted from 1"),
    Fault(train.train_step, "random.fold_in(streams(state.key).noise, state.step)", "streams(state.key).noise",
          "key reused: every step draws the same noise"),
    Fault(train.train_step, "streams(state.key).noise", "streams(state.key).order",
          "streams exchanged: noise drawn from order"),
    Fault(torchvae.params.optimizer_from_arrays, "[name], device", "[name] * 0, device", "moments not carried over"),
    # An epoch.
    Fault(train.epoch_order, "random.permutation(random.fold_in(streams(key).order, epoch), n)",
          "torch.arange(n)", "order not shuffled"),
    Fault(train.epoch_order, "order, epoch)", "order, 0)", "key reused: every epoch has the first one's order"),
    Fault(jaxvae.train.epoch_order, "order, epoch)", "order, epoch + 1)",
          "wrong fold-in: the epoch is counted from 1"),
    Fault(train.train_epoch, "torch.arange(state.step, end)", "torch.arange(end - state.step)",
          "wrong fold-in: the step is counted within its epoch"),
    Fault(train.train_epoch, "spec.training.epoch_steps(n)", "n // spec.training.batch_size", "last batch dropped"),
    Fault(jaxvae.train.train_epoch, "weights = real / real.sum(1, keepdims=True)", "weights = real / batch",
          "last batch divided by a whole batch's size"),
    Fault(jaxvae.train.train_epoch, "(jnp.arange(steps * batch) < n)", "(jnp.arange(steps * batch) < steps * batch)",
          "last batch filled up with images that count"),
    # What is made of a model.
    Fault(torchvae.evaluate._terms, "eps=draws", "eps=0 * draws", "noise left out of the latent"),
    Fault(torchvae.evaluate._terms, "draws.eps[..., rows, :]", "draws.eps[..., rows % _BATCH, :]",
          "key reused: every batch draws the same noise"),
    Fault(torchvae.evaluate.average_terms, "found.cpu().numpy().astype(np.float64).mean(0)",
          "torch.stack([part.mean(0) for part in found.split(_BATCH)]).mean(0).numpy()",
          "mean of the batches' means, the last one short"),
    Fault(torchvae.generate.reconstruct, "posterior.mean",
          "posterior.mean + torch.exp(0.5 * posterior.logvar)", UNKNOWN),
    Fault(torchvae.generate.images_of, MEANS, "decode(spec, model, z, labels).logits",
          "logits for probabilities"),
    # What comes with time only.
    Fault(train._drawn, "draw(spec, block, rows)", "draw(spec, block[:1].expand(len(block), 2), rows)",
          "key reused: every step draws its epoch's first noise"),
    Fault(train._update, '["lr"] = rate', '["lr"] = rate * (0.5 if state.step >= 23 else 1)',
          "learning rate 0.5 times as large from step 23 on"),
    Fault(train.train_epoch, "torch.arange(state.step, end)",
          "torch.arange(state.step, end) - (torch.arange(state.step, end) == 25).long()",
          "key reused: step 25 draws the noise of step 24"),
    Fault(torchvae.loop.fit, "now, log = train_epoch(",
          f"{DECAY} = 0.01 * (epoch == 2)\n                now, log = train_epoch(",
          UNKNOWN, "float32"),
    Fault(torchvae.loop.fit, "now, log = train_epoch(",
          f"{DECAY} = 0.01 * (epoch == 2)\n                now, log = train_epoch(",
          UNKNOWN),
    Fault(torchvae.loop.fit, '"evaluation", epoch', '"evaluation", 1', UNKNOWN, "float32"),
    Fault(torchvae.loop._whole, "spans[-1].end", "min(spans[-1].end, spec.training.total_steps(n) - 7)", UNKNOWN),
    Fault(train.epoch_order, "order, epoch)", "order, min(epoch, 1))",
          "step 38 is given the images of step 19"),
    Fault(train.epoch_order, "order, epoch)", "order, min(epoch, 1))", UNKNOWN, "float32"),
    # What no plain formula with a slip gives.
    Fault(torchvae.generate.images_of, MEANS,
          f"torch.bernoulli({MEANS}, generator=torch.Generator().manual_seed(0))",
          UNKNOWN),
    Fault(dist.locate, LOCATED, f"({LOCATED}).round()", UNKNOWN),
    Fault(torchvae.pixels.scale, "floats.div_(", "(floats > 127).to(floats).mul_(255).div_(", "pixels binarised"),
    Fault(nets.Encoder.forward, ENCODED, "(layer(x) > 0).to(x)", "a step for ReLU", owner=nets.Encoder),
]  # fmt: skip
