"""The matrix products of a training step: their number of operations, and their speed alone.

Of every layer there is one product forward and two backward, the weights' gradient and the input's; but the encoder's
first layers see images, whose gradient is not needed. A convolution counts as the product that it is of the patches
its outputs see, zeros beyond the edge included, laid out as `jaxvae.convolution` does on CPUs."""

import math
from collections.abc import Callable
from typing import NamedTuple, assert_never

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout


class Product(NamedTuple):
    """`[m, k]` times `[k, n]`, and its gradients."""

    m: int
    k: int
    n: int
    network: str
    """`encoder` or `decoder`."""
    inputs: bool
    """Whether the gradient of its `[m, k]` is needed."""

    @property
    def forward(self) -> int:
        """Floating-point operations: a multiplication and an addition for each of m * k * n."""
        return 2 * self.m * self.k * self.n

    @property
    def flops(self) -> int:
        """The same of all its products."""
        return self.forward * (3 if self.inputs else 2)


def products(spec: Spec, batch: int = 1) -> list[Product]:
    """List the products of a training step on `batch` images, in the order of the computation."""
    hidden, result = layout.hidden_layers(spec.model, "encoder"), []
    for layer in layout.layers(spec.model):
        area = layer.kernel**2
        rows = batch * (spec.objective.samples if layer.path[0] == "decoder" else 1)
        height, width = layer.size
        match layer.kind:
            case "linear":
                shape = (rows, layer.inputs, layer.outputs)
            case "conv" if layer.stride > 1 or layer.outputs >= layer.inputs:
                shape = (rows * height * width, area * layer.inputs, layer.outputs)
            case "conv":  # of few outputs, each input multiplied once with all that it gives
                shape = (rows * height * width, layer.inputs, area * layer.outputs)
            case "conv-transpose":
                larger = layer.kernel - 2 * layer.padding  # than the stride makes of the input
                given = zip(layer.size, layer.output_padding, strict=True)
                small = math.prod((n - more - larger) // layer.stride + 1 for n, more in given)
                shape = (rows * small, layer.inputs, area * layer.outputs)
            case "norm" | "scalar":
                continue
            case kind:
                assert_never(kind)
        first = layer.path[:3] == ("encoder", "hidden", 0) or (layer.path[0] == "encoder" and not hidden)
        result.append(Product(*shape, network=str(layer.path[0]), inputs=not first))
    return result


def flops(spec: Spec, images: int = 1) -> int:
    """Count the floating-point operations of the products in training on `images` images."""
    return sum(product.flops for product in products(spec, images))


def by_jax(spec: Spec, steps: int) -> Callable[[], None]:
    """Compile `steps` steps of the products alone, in one XLA program."""
    import jax

    program, operands = jax.jit(jax_steps(products(spec, spec.training.batch_size))), _operands(spec)
    own, weights = jax.tree.map(jax.numpy.asarray, operands)

    def run() -> None:
        jax.block_until_ready(program(steps, own, weights))

    return run


def jax_steps(chain: list[Product]) -> Callable:
    """Make a function of the number of steps, the inputs that are no product's output, and the weights. The compiler
    can drop nothing: each step's input holds a number from the step before, and each product is another's operand or
    has a number read from it, at almost no cost."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def times(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.dot(a, b, precision="highest")

    def step(i: jax.Array, carry: tuple) -> tuple:
        given, number, weights = carry
        given = tuple(array.at[0, 0].set(number) for array in given)
        unused, inputs, ys = iter(given), [], []
        for product, w in zip(chain, weights, strict=True):
            x = next((y for y in reversed(ys) if y.shape == (product.m, product.k)), None)
            inputs.append(next(unused) if x is None else x)
            ys.append(times(inputs[-1], w))
        results = list(ys)
        for product, x, y, w in reversed(list(zip(chain, inputs, ys, weights, strict=True))):
            results += [times(x.T, y), *([times(y, w.T)] if product.inputs else [])]
        read = sum(result[0, 0] for result in lax.optimization_barrier(results))
        return given, jnp.tanh(read), weights

    def run(steps: jax.Array, own: tuple, weights: list) -> jax.Array:
        return lax.fori_loop(0, steps, step, (own, jnp.zeros((), weights[0].dtype), weights))[1]

    return run


def by_torch(spec: Spec, steps: int, device: str) -> Callable[[], None]:
    """Make the same in PyTorch, one call for each product, into allocated memory."""
    import torch

    chain, (own, weights) = products(spec, spec.training.batch_size), _operands(spec)
    given, inputs, ys = iter(own), [], []
    weights = [torch.tensor(w, device=device) for w in weights]
    for product in chain:
        x = next((y for y in reversed(ys) if y.shape == (product.m, product.k)), None)
        inputs.append(torch.tensor(next(given), device=device) if x is None else x)
        ys.append(torch.zeros(product.m, product.n, dtype=inputs[-1].dtype, device=device))
    to_weights, to_inputs = [torch.zeros_like(w) for w in weights], [torch.zeros_like(x) for x in inputs]
    layers = list(zip(chain, inputs, ys, weights, to_weights, to_inputs, strict=True))

    def run() -> None:
        for _ in range(steps):
            for _, x, y, w, _, _ in layers:
                torch.mm(x, w, out=y)
            for product, x, y, w, to_w, to_x in reversed(layers):
                torch.mm(x.T, y, out=to_w)
                if product.inputs:
                    torch.mm(y, w.T, out=to_x)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _operands(spec: Spec) -> tuple:
    """Normals: the inputs that no product of the chain gives, and the weights, which keep their size."""
    import numpy as np

    rng, own, given, weights = np.random.default_rng(0), [], set(), []
    for product in products(spec, spec.training.batch_size):
        if (product.m, product.k) not in given:
            own.append(rng.standard_normal((product.m, product.k)).astype(spec.training.dtype))
        given.add((product.m, product.n))
        weights.append((rng.standard_normal((product.k, product.n)) / product.k**0.5).astype(spec.training.dtype))
    return tuple(own), weights
