"""Small networks in both frameworks, and layers with something wrong in them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import linen, nnx
from torch import nn

from parity_tests.harness.findings import Report
from parity_tests.harness.modules.compare import compare_modules

RNG = np.random.default_rng(0)
ROWS, IMAGES, LABELS = RNG.normal(size=(6, 8)), RNG.normal(size=(3, 4, 8, 8)), np.arange(6) % 5


class JaxNet(nnx.Module):
    """Named layers and a function that applies them."""

    def __init__(self, forward: Callable[..., Any], **named: nnx.Module):
        self.forward = forward
        for name, layer in named.items():
            setattr(self, name, layer)

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        return self.forward(self, *inputs)


class TorchNet(nn.Module):
    """The torch counterpart of JaxNet, with random weights."""

    def __init__(self, forward: Callable[..., Any], **named: nn.Module):
        super().__init__()
        self.apply_to = forward
        for name, layer in named.items():
            setattr(self, name, layer)
        generator = torch.Generator().manual_seed(0)
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point():  # running variances must be positive
                positive = "var" in name
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 if positive else
                             torch.randn(tensor.shape, generator=generator) * 0.3)  # fmt: skip

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.apply_to(self, *inputs)


def compare(jax_net: Any, torch_net: nn.Module, x: Any, mapping: Any = None, **options: Any) -> Report:
    return compare_modules(jax_net, None, torch_net, mapping, x, **{"weights": "torch", **options})


def layer(in_jax: Callable[..., Any], in_torch: nn.Module, x: np.ndarray = IMAGES, **options: Any) -> Report:
    """Compare a Flax layer, made by `in_jax(rngs=..)`, with a torch layer."""
    there = TorchNet(lambda net, x: net.layer(x), layer=in_torch)
    return compare(JaxNet(lambda net, x: net.layer(x), layer=in_jax(rngs=nnx.Rngs(0))), there, x, **options)


def steps_between(in_jax: Callable[..., Any], in_torch: Callable[..., Any], **options: Any) -> Report:
    """Compare operations between two linear layers."""
    here = {name: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for name in ("a", "b")}
    there = {name: nn.Linear(8, 8) for name in ("a", "b")}
    torch_net = TorchNet(lambda net, x: net.b(in_torch(net.a(x))), **there)
    return compare(JaxNet(lambda net, x: net.b(in_jax(net.a(x))), **here), torch_net, ROWS, **options)


def after_conv(in_jax: Callable[..., Any], in_torch: Callable[..., Any], features: int) -> Report:
    """Compare operations between a convolution and a linear layer that reads its flattened image."""
    here = {"a": nnx.Conv(4, 3, (3, 3), padding=1, rngs=nnx.Rngs(0)), "b": nnx.Linear(features, 2, rngs=nnx.Rngs(0))}
    there = {"a": nn.Conv2d(4, 3, 3, padding=1), "b": nn.Linear(features, 2)}
    jax_net = JaxNet(lambda net, x: net.b(in_jax(net.a(x))), **here)
    return compare(jax_net, TorchNet(lambda net, x: net.b(in_torch(net.a(x)).flatten(1)), **there), IMAGES)


def channels_first(x: jax.Array) -> jax.Array:
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def decoder(in_jax: Callable[[jax.Array], jax.Array], mapping: Any = None) -> Report:
    """Compare a linear layer that writes an image, and a convolution that reads it."""
    here = {"a": nnx.Linear(8, 36, rngs=nnx.Rngs(0)), "b": nnx.Conv(4, 2, (3, 3), padding=1, rngs=nnx.Rngs(0))}
    there = {"a": nn.Linear(8, 36), "b": nn.Conv2d(4, 2, 3, padding=1)}
    torch_net = TorchNet(lambda net, x: net.b(net.a(x).unflatten(1, (4, 3, 3))), **there)
    return compare(JaxNet(lambda net, x: net.b(in_jax(net.a(x))), **here), torch_net, ROWS, mapping)


def losses(in_jax: Callable[..., Any], in_torch: Callable[..., Any], **options: Any) -> Report:
    """Compare losses of a linear layer's outputs `[6, 5]`."""
    return layer(partial(nnx.Linear, 8, 5), nn.Linear(8, 5), ROWS, losses=(in_jax, in_torch), **options)


def steps(in_jax: Any, in_torch: Callable[..., Any], **options: Any) -> Report:
    def jax_loss(y: jax.Array) -> jax.Array:
        return (y**2).mean() + y.sum() / 10

    return losses(jax_loss, lambda y: (y**2).mean() + y.sum() / 10, optimizers=(in_jax, in_torch), **options)


def ported(
    in_jax: Callable[..., Any], in_torch: nn.Module, x: np.ndarray, carry: Callable[..., Any], leaf: str
) -> Report:
    """Compare a layer whose weights were ported by hand."""
    there, here = TorchNet(lambda net, x: net.layer(x), layer=in_torch), in_jax(rngs=nnx.Rngs(0))
    for name, tensor in in_torch.named_parameters():
        array = tensor.numpy(force=True)
        right = array.transpose(*range(2, array.ndim), 1, 0) if array.ndim > 1 else array
        variable = here.kernel if name == "weight" else here.bias
        variable.set_value(jnp.asarray(np.ascontiguousarray(carry(array) if name == leaf else right)))
    return compare(JaxNet(lambda net, x: net.layer(x), layer=here), there, x, weights="compare")


class Swapped(nnx.Conv):
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, self.kernel = self.kernel, nnx.Param(self.kernel[...].swapaxes(0, 1))
        y, self.kernel = super().__call__(x), kernel
        return y


class Transposed(nnx.Linear):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs @ self.kernel[...].T + self.bias[...]  # type: ignore[index]


class Unbiased(nnx.Linear):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs @ self.kernel[...]


class TF32(nnx.Linear):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        def rounded(x: jax.Array) -> jax.Array:
            return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)

        return rounded(inputs) @ rounded(self.kernel[...]) + self.bias[...]  # type: ignore[index]


class Single(nnx.Linear):
    """Computes in float32 whatever it is given."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        x, kernel, bias = (jnp.asarray(a, jnp.float32) for a in (inputs, self.kernel[...], self.bias[...]))  # type: ignore[index]
        return (x @ kernel + bias).astype(inputs.dtype)


class LinenConv(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Conv(3, (3, 3), strides=(2, 2), name="layer")(x)


class LinenDropout(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Dropout(0.5, deterministic=False)(linen.Dense(8, name="a")(x))
        return linen.Dense(8, name="b")(x)


def linen_net(model: linen.Module, torch_net: nn.Module, x: np.ndarray) -> Report:
    given = jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x, jnp.float32)
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, given)
    return compare_modules(model, variables, torch_net, None, x)


def fast_norm(layer_like: Callable[..., Any], in_torch: nn.Module, **options: Any) -> Report:
    return layer(layer_like, in_torch, IMAGES + 1e3, dtype="float32", train=True, statistics=False, **options)


def frozen(y: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(y)


def clipped(parameters: Any) -> torch.optim.Optimizer:
    sgd = torch.optim.SGD(list(parameters), 0.1)
    clip = partial(nn.utils.clip_grad_norm_, sgd.param_groups[0]["params"], 0.1)
    sgd.register_step_pre_hook(lambda *_: [clip(), None][1])
    return sgd


def cross_entropy(y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(y, jnp.asarray(LABELS)).mean()


def torch_cross_entropy(y: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.cross_entropy(y, torch.tensor(LABELS), **options)


def smoothed(y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(y, optax.smooth_labels(jax.nn.one_hot(LABELS, 5), 0.1)).mean()


def halving(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def uncorrected() -> optax.GradientTransformation:
    """Adam without bias correction."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], updates)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, state[1], updates)
        return jax.tree.map(lambda m, v: -0.1 * m / (jnp.sqrt(v) + 1e-8), mean, square), (mean, square)

    return optax.GradientTransformation(lambda params: (jax.tree.map(jnp.zeros_like, params),) * 2, update)


def pooled(kind: Callable[..., Any], **options: Any) -> Callable[[jax.Array], jax.Array]:
    return lambda x: channels_first(kind(x, (2, 2), strides=(2, 2), **options))
