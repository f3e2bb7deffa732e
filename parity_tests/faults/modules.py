"""Faults in one framework's version of a small network, and the cause the comparison should name for each."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from parity_tests.faults import structure
from parity_tests.faults.fault import GRADIENTS, LOSS, OUTPUTS, STATISTICS, STEPS, WEIGHTS, Fault
from parity_tests.harness.modules.hypotheses import backward, between_layers, layers, loss, optimizer, state
from parity_tests.harness.modules.mapping import flattened
from parity_tests.support.small_nets import (
    IMAGES,
    ROWS,
    TF32,
    JaxNet,
    LinenConv,
    LinenDropout,
    Single,
    Swapped,
    TorchNet,
    Transposed,
    Unbiased,
    after_conv,
    channels_first,
    clipped,
    compare,
    cross_entropy,
    decoder,
    fast_norm,
    frozen,
    halving,
    layer,
    linen_net,
    losses,
    pooled,
    ported,
    smoothed,
    steps,
    steps_between,
    torch_cross_entropy,
    uncorrected,
)

conv, conv_t, linear, norm = partial(nnx.Conv, 4, 3), partial(nnx.ConvTranspose, 4, 4), nnx.Linear, nnx.BatchNorm
unbiased = partial(norm, 4, momentum=0.9, use_fast_variance=False)
large = partial(nnx.Linear, kernel_init=nnx.initializers.normal(9.0), rngs=nnx.Rngs(0))
silu, relu = jax.nn.silu, jax.nn.relu
adam, sgd = torch.optim.Adam, torch.optim.SGD
late = optax.piecewise_constant_schedule(0.1, {2: 0.5, 3: 0.5, 4: 0.5})


def branching(activation: Callable[..., Any]) -> Callable[..., Any]:
    """Make a network in which a layer's input does not come from the previous call."""

    def forward(net: Any, x: Any) -> Any:
        a, b = net.a(x), net.b(x)
        return net.c(activation(a)) + b

    return forward


def residual(activation: Callable[..., Any]) -> Callable[..., Any]:
    """Make a network that adds two outputs before the next layer."""

    def forward(net: Any, x: Any) -> Any:
        a = net.a(x)
        return net.c(activation(a + net.b(a)))

    return forward


FAULTS = [
    Fault("'SAME' at stride 2", "JAX", OUTPUTS, layers.SAME_PADDING,
          lambda: layer(partial(conv, (3, 3), 2), nn.Conv2d(4, 3, 3, 2, 1))),
    Fault("'SAME' at stride 2, Linen", "JAX", OUTPUTS, layers.SAME_PADDING,
          lambda: linen_net(LinenConv(), TorchNet(lambda n, x: n.layer(x), layer=nn.Conv2d(4, 3, 3, 2, 1)), IMAGES)),
    Fault("padding 2 for 1", "PyTorch", OUTPUTS, layers.PADDING,
          lambda: layer(partial(conv, (3, 3), padding=1), nn.Conv2d(4, 3, 3, padding=2))),
    Fault("kernel's axes swapped", "JAX", OUTPUTS, layers.SWAPPED,
          lambda: layer(partial(Swapped, 4, 3, (3, 3), padding=1), nn.Conv2d(4, 3, 3, padding=1))),
    Fault("dilation 2 for 1", "PyTorch", OUTPUTS, layers.DILATION,
          lambda: layer(partial(conv, (3, 3), padding=1), nn.Conv2d(4, 3, 3, padding=2, dilation=2))),
    Fault("transposed convolution, kernel unflipped", "JAX", OUTPUTS, layers.UNFLIPPED,
          lambda: layer(partial(conv_t, (3, 3), 2, padding=((1, 2), (1, 2))), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1))),
    Fault("transposed convolution, 'SAME'", "JAX", OUTPUTS, layers.TRANSPOSED_SAME,
          lambda: layer(partial(conv_t, (3, 3), 2, transpose_kernel=True), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1))),
    Fault("transposed convolution, torch's padding", "JAX", OUTPUTS, layers.TRANSPOSED_PADDING,
          lambda: layer(partial(conv_t, (4, 4), 2, padding=1, transpose_kernel=True),
                        nn.ConvTranspose2d(4, 4, 4, 2, 1))),
    Fault("square kernel not transposed", "JAX", OUTPUTS, layers.TRANSPOSED,
          lambda: layer(partial(Transposed, 8, 8), nn.Linear(8, 8), ROWS)),
    Fault("bias left out", "JAX", OUTPUTS, layers.BIAS_MISSING,
          lambda: layer(partial(Unbiased, 8, 5), nn.Linear(8, 5), ROWS)),
    Fault("flattened as H,W,C", "JAX", OUTPUTS, between_layers.FLATTEN,
          lambda: after_conv(lambda x: relu(x).reshape(len(x), -1), F.relu, 192)),
    Fault("unflattened as H,W,C", "JAX", OUTPUTS, between_layers.UNFLATTEN,
          lambda: decoder(lambda x: x.reshape(-1, 3, 3, 4))),
    Fault("columns permuted, bias not", "JAX", OUTPUTS, layers.OUTPUT_BIAS,
          lambda: decoder(lambda x: x.reshape(-1, 3, 3, 4),
                          {"a/kernel": ("a.weight", flattened(columns=(4, 3, 3))), "a/bias": "a.bias",
                           "b/kernel": "b.weight", "b/bias": "b.bias"})),
    Fault("batch norm's eps", "JAX", OUTPUTS, layers.EPS,
          lambda: layer(partial(norm, 4, epsilon=1e-3), nn.BatchNorm2d(4))),
    Fault("layer norm's eps", "JAX", OUTPUTS, layers.EPS,
          lambda: layer(partial(nnx.LayerNorm, 8, use_fast_variance=False), nn.LayerNorm(8), ROWS)),
    Fault("group norm's eps", "PyTorch", OUTPUTS, layers.EPS,
          lambda: layer(partial(nnx.GroupNorm, 4, 2, use_fast_variance=False), nn.GroupNorm(2, 4, eps=1e-3))),
    Fault("number of groups", "JAX", OUTPUTS, layers.GROUPS,
          lambda: layer(partial(nnx.GroupNorm, 4, 4, epsilon=1e-5), nn.GroupNorm(2, 4))),
    Fault("fast variance, batch norm", "JAX", OUTPUTS, layers.FAST_VARIANCE,
          lambda: fast_norm(partial(norm, 4), nn.BatchNorm2d(4))),
    Fault("fast variance, group norm", "JAX", OUTPUTS, layers.FAST_VARIANCE,
          lambda: fast_norm(partial(nnx.GroupNorm, 4, 2, epsilon=1e-5), nn.GroupNorm(2, 4))),
    Fault("fast variance, layer norm", "JAX", OUTPUTS, layers.FAST_VARIANCE,
          lambda: layer(partial(nnx.LayerNorm, 8, epsilon=1e-5), nn.LayerNorm(8), ROWS + 1e3)),
    Fault("batch statistics in evaluation", "JAX", OUTPUTS, layers.BATCH_STATISTICS,
          lambda: compare(JaxNet(lambda n, x: n.layer(x, use_running_average=False), layer=unbiased(rngs=nnx.Rngs(0))),
                          TorchNet(lambda n, x: n.layer(x), layer=nn.BatchNorm2d(4)), IMAGES)),
    Fault("running statistics in training", "JAX", OUTPUTS, layers.RUNNING_STATISTICS,
          lambda: compare(JaxNet(lambda n, x: n.layer(x, use_running_average=True), layer=unbiased(rngs=nnx.Rngs(0))),
                          TorchNet(lambda n, x: n.layer(x), layer=nn.BatchNorm2d(4)), IMAGES, train=True)),
    Fault("biased running variance", "JAX", STATISTICS, state.BIASED_VARIANCE,
          lambda: layer(unbiased, nn.BatchNorm2d(4), train=True)),
    Fault("batch norm's momentum", "JAX", STATISTICS, state.BATCH_NORM_MOMENTUM,
          lambda: layer(partial(norm, 4, use_fast_variance=False), nn.BatchNorm2d(4), train=True)),
    Fault("GELU, tanh form", "JAX", OUTPUTS, between_layers.GELU, lambda: steps_between(jax.nn.gelu, F.gelu)),
    Fault("LeakyReLU's slope", "PyTorch", OUTPUTS, between_layers.LEAKY_SLOPE,
          lambda: steps_between(jax.nn.leaky_relu, partial(F.leaky_relu, negative_slope=0.2))),
    Fault("softplus's threshold", "PyTorch", OUTPUTS, between_layers.SOFTPLUS,
          lambda: compare(JaxNet(lambda n, x: n.b(jax.nn.softplus(n.a(x))), a=large(8, 8), b=large(8, 2)),
                          TorchNet(lambda n, x: n.b(F.softplus(n.a(x))), a=nn.Linear(8, 8), b=nn.Linear(8, 2)),
                          ROWS, weights="jax")),
    Fault("SiLU for ReLU", "JAX", OUTPUTS, between_layers.ACTIVATION, lambda: steps_between(silu, F.relu)),
    Fault("ELU for SiLU", "PyTorch", OUTPUTS, between_layers.ACTIVATION, lambda: steps_between(silu, F.elu)),
    Fault("activation left out", "JAX", OUTPUTS, between_layers.ACTIVATION, lambda: steps_between(lambda x: x, F.relu)),
    Fault("average for max pooling", "JAX", OUTPUTS, between_layers.POOL_KIND,
          lambda: after_conv(pooled(nnx.avg_pool), lambda x: F.max_pool2d(x, 2), 48)),
    Fault("pooling's padding", "JAX", OUTPUTS, between_layers.POOL_PADDING,
          lambda: after_conv(lambda x: channels_first(nnx.max_pool(relu(x), (3, 3), strides=(2, 2), padding="SAME")),
                             lambda x: F.max_pool2d(F.relu(x), 3, 2, 1), 48)),
    Fault("dropout left on", "JAX", OUTPUTS, between_layers.DROPOUT,
          lambda: steps_between(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), lambda x: x)),
    Fault("dropout left on, Linen", "JAX", OUTPUTS, between_layers.DROPOUT,
          lambda: linen_net(LinenDropout(), TorchNet(lambda n, x: n.b(n.a(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8)),
                            ROWS)),
    Fault("dropout left on, after ReLU", "PyTorch", OUTPUTS, between_layers.DROPOUT,
          lambda: steps_between(relu, lambda x: F.dropout(F.relu(x), 0.2))),
    Fault("scaled", "JAX", OUTPUTS, between_layers.SCALE, lambda: steps_between(lambda x: relu(x) * 2, F.relu)),
    Fault("activation swapped after a sum", "JAX", OUTPUTS, between_layers.ACTIVATION,
          lambda: compare(JaxNet(residual(silu), **{n: linear(8, 8, rngs=nnx.Rngs(0)) for n in "abc"}),
                          TorchNet(residual(F.relu), **{n: nn.Linear(8, 8) for n in "abc"}), ROWS)),
    Fault("softmax over the batch", "JAX", OUTPUTS, between_layers.SOFTMAX,
          lambda: steps_between(partial(jax.nn.softmax, axis=0), partial(F.softmax, dim=1))),
    Fault("log_softmax left out", "JAX", OUTPUTS, between_layers.SOFTMAX,
          lambda: compare(JaxNet(lambda n, x: n.a(x), a=linear(8, 5, rngs=nnx.Rngs(0))),
                          TorchNet(lambda n, x: F.log_softmax(n.a(x), 1), a=nn.Linear(8, 5)), ROWS)),
    Fault("activation swapped on a branch", "JAX", OUTPUTS, between_layers.ACTIVATION,
          lambda: compare(JaxNet(branching(silu), **{n: linear(8, 8, rngs=nnx.Rngs(0)) for n in "abc"}),
                          TorchNet(branching(F.relu), **{n: nn.Linear(8, 8) for n in "abc"}), ROWS)),
    Fault("TF32", "JAX", OUTPUTS, layers.TF32, lambda: layer(partial(TF32, 8, 5), nn.Linear(8, 5), ROWS)),
    Fault("bfloat16", "JAX", OUTPUTS, layers.BFLOAT16,
          lambda: layer(partial(linear, 8, 5, dtype=jnp.bfloat16), nn.Linear(8, 5), ROWS)),
    Fault("float32 in float64", "JAX", OUTPUTS, layers.FLOAT32,
          lambda: layer(partial(Single, 8, 5), nn.Linear(8, 5), ROWS)),
    Fault("float32 in float64, between", "PyTorch", OUTPUTS, layers.FLOAT32,
          lambda: steps_between(jnp.tanh, lambda x: torch.tanh(x.float()).double())),
    Fault("kernel carried untransposed", "JAX", WEIGHTS, layers.TRANSPOSED,
          lambda: ported(partial(linear, 8, 8), nn.Linear(8, 8), ROWS, lambda w: w, "weight")),
    Fault("kernel carried unflipped", "JAX", WEIGHTS, layers.UNFLIPPED,
          lambda: ported(partial(conv_t, (3, 3)), nn.ConvTranspose2d(4, 4, 3), IMAGES,
                         lambda w: np.flip(w, (2, 3)).transpose(2, 3, 1, 0), "weight")),
    Fault("bias carried in H,W,C order", "JAX", WEIGHTS, layers.OUTPUT_BIAS,
          lambda: ported(partial(linear, 8, 36), nn.Linear(8, 36), ROWS,
                         lambda b: b.reshape(4, 3, 3).transpose(1, 2, 0).ravel(), "bias")),
    Fault("loss summed", "JAX", LOSS, loss.SUM_FOR_MEAN,
          lambda: losses(lambda y: (y**2).sum(), lambda y: (y**2).mean())),
    Fault("loss summed over features", "PyTorch", LOSS, loss.OTHER_AXIS,
          lambda: losses(lambda y: (y**2).mean(), lambda y: (y**2).sum(1).mean())),
    Fault("half the square", "JAX", LOSS, loss.HALF,
          lambda: losses(lambda y: optax.l2_loss(y).mean(), lambda y: (y**2).mean())),
    Fault("labels smoothed", "JAX", LOSS, loss.LABEL_SMOOTHING, lambda: losses(smoothed, torch_cross_entropy)),
    Fault("labels smoothed in torch", "PyTorch", LOSS, loss.LABEL_SMOOTHING,
          lambda: losses(cross_entropy, partial(torch_cross_entropy, label_smoothing=0.2))),
    Fault("stop_gradient", "JAX", GRADIENTS, backward.NO_GRADIENT,
          lambda: steps_between(frozen, lambda x: x, losses=(lambda y: (y**2).mean(), lambda y: (y**2).mean()))),
    Fault("Adam's eps in the root", "JAX", STEPS, optimizer.EPS_IN_ROOT,
          lambda: steps(optax.adam(0.1, eps=0, eps_root=1e-3), partial(adam, lr=0.1, eps=1e-3))),
    Fault("Adam's eps", "JAX", STEPS, optimizer.EPS_VALUE,
          lambda: steps(optax.adam(0.1, eps=1e-3), partial(adam, lr=0.1))),
    Fault("no bias correction", "JAX", STEPS, optimizer.NO_BIAS_CORRECTION,
          lambda: steps(uncorrected(), partial(adam, lr=0.1))),
    Fault("adamw for Adam(weight_decay)", "JAX", STEPS, optimizer.DECOUPLED,
          lambda: steps(optax.adamw(0.1, weight_decay=0.01), partial(adam, lr=0.1, weight_decay=0.01))),
    Fault("adamw's own decay", "JAX", STEPS, optimizer.DECAY,
          lambda: steps(optax.adamw(0.1), partial(torch.optim.AdamW, lr=0.1))),
    Fault("Adam's betas", "JAX", STEPS, optimizer.BETAS,
          lambda: steps(optax.adam(0.1, b2=0.95), partial(adam, lr=0.1))),
    Fault("learning rate", "PyTorch", STEPS, optimizer.LEARNING_RATE,
          lambda: steps(optax.adam(0.1), partial(adam, lr=0.01))),
    Fault("schedule a step late", "JAX", STEPS, optimizer.SCHEDULE,
          lambda: steps(optax.sgd(late), partial(sgd, lr=0.1), scheduler=halving)),
    Fault("clipped without torch's 1e-6", "JAX", STEPS, optimizer.CLIP,
          lambda: steps(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), clipped)),
    Fault("not clipped", "JAX", STEPS, optimizer.NOT_CLIPPED, lambda: steps(optax.sgd(0.1), clipped)),
    Fault("clipped", "JAX", STEPS, optimizer.CLIPPED,
          lambda: steps(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), partial(sgd, lr=0.1))),
    Fault("momentum", "JAX", STEPS, optimizer.MOMENTUM,
          lambda: steps(optax.sgd(0.1, momentum=0.8), partial(sgd, lr=0.1, momentum=0.9))),
    Fault("Nesterov", "PyTorch", STEPS, optimizer.NESTEROV,
          lambda: steps(optax.sgd(0.1, momentum=0.9), partial(sgd, lr=0.1, momentum=0.9, nesterov=True))),
    Fault("RMSprop's eps in the root", "JAX", STEPS, optimizer.EPS_IN_ROOT,
          lambda: steps(optax.rmsprop(0.1, decay=0.99, eps=1e-3), partial(torch.optim.RMSprop, lr=0.1, eps=1e-3))),
    Fault("RMSprop's decay", "JAX", STEPS, optimizer.DECAY_RATE,
          lambda: steps(optax.rmsprop(0.1, decay=0.9, eps_in_sqrt=False), partial(torch.optim.RMSprop, lr=0.1))),
    Fault("RMSprop centered", "PyTorch", STEPS, optimizer.CENTERED,
          lambda: steps(optax.rmsprop(0.1, decay=0.99, eps_in_sqrt=False),
                        partial(torch.optim.RMSprop, lr=0.1, centered=True))),
    Fault("RMSprop with optax's defaults", "JAX", STEPS, optimizer.DECAY_RATE,
          lambda: steps(optax.rmsprop(0.1), partial(torch.optim.RMSprop, lr=0.1))),
    Fault("Adagrad with optax's defaults", "JAX", STEPS, optimizer.INITIAL_SUM,
          lambda: steps(optax.adagrad(0.1), partial(torch.optim.Adagrad, lr=0.1))),
    *structure.FAULTS,
]  # fmt: skip
