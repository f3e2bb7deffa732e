"""Pairs of modules on which a verdict was once wrong: each is one of a kind, and says what the verdict must be."""

from collections.abc import Callable

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from parity_tests.harness.findings import Report
from parity_tests.harness.modules.compare import compare_modules

X = np.random.default_rng(0).normal(size=(4, 8))
PICTURES = np.random.default_rng(1).normal(size=(2, 4, 6, 6))
SQUARE = ((lambda y: (y**2).mean()), (lambda y: (y**2).mean()))
CASES: dict[str, tuple[str, tuple[str, ...], Callable[[], Report]]] = {}


def case(expected: str, *words: str) -> Callable[[Callable[[], Report]], Callable[[], Report]]:
    """Add a case: `expected` is agree or differ, `words` are what the message has to contain."""

    def added(build: Callable[[], Report]) -> Callable[[], Report]:
        CASES[build.__name__] = expected, words, build
        return build

    return added


class Jax(nnx.Module):
    def __init__(self, forward, **parts):
        self.forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def __call__(self, *inputs):
        return self.forward(self, *inputs)


class Torch(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def lin(n_in=8, n_out=8, **options):
    return nnx.Linear(n_in, n_out, rngs=nnx.Rngs(0), **options)


@case("differ")
def zero_initialised_branch():
    """A residual branch whose last layer starts at zero is never seen: relu here, sin there."""
    zeros = nnx.initializers.zeros
    ours = Jax(lambda m, x: x + m.out(nnx.relu(m.a(x))), a=lin(), out=lin(kernel_init=zeros))
    theirs = Torch(lambda m, x: x + m.out(torch.sin(m.a(x))), a=nn.Linear(8, 8), out=nn.Linear(8, 8))
    return compare_modules(ours, None, theirs, None, X)


@case("differ")
def forgotten_bias():
    """Flax's biases start at zero, so a port that leaves one out passes."""
    ours = Jax(lambda m, x: x @ m.a.kernel[...] + 0 * m.a.bias[...], a=lin())
    return compare_modules(ours, None, Torch(lambda m, x: m.a(x), a=nn.Linear(8, 8)), None, X)


@case("differ")
def masked_outlier():
    """A mask of -1e9 is the tensor's largest; beside it a factor of two is a rounding."""
    keep = np.arange(8) != 5
    ours = Jax(lambda m, x: jnp.where(keep, 2 * m.a(x), -1e9), a=lin())
    theirs = Torch(lambda m, x: m.a(x).masked_fill(~torch.tensor(keep), -1e9), a=nn.Linear(8, 8))
    return compare_modules(ours, None, theirs, None, X, dtype="float32")


@case("differ")
def state_by_another_name():
    """A moving average that is not called running_mean is not compared after a training step."""

    def ours(m, x):
        m.average[...] = 7 * m.a(x).mean(0)
        return m.a(x)

    def theirs(m, x):
        m.average = 0.99 * m.average + 0.01 * m.a(x).detach().mean(0)
        return m.a(x)

    left = Jax(ours, a=lin(), average=nnx.BatchStat(jnp.zeros(8)))
    return compare_modules(
        left, None, Torch(theirs, a=nn.Linear(8, 8), average=torch.zeros(8)), None, X, train=True, losses=SQUARE
    )


@case("differ")
def outputs_by_name():
    """Outputs that carry names are paired by their names, not by the alphabet."""
    ours = Jax(lambda m, x: {"mean": m.a(x) + 1, "logvar": m.a(x)}, a=lin())
    theirs = Torch(lambda m, x: {"mean": m.a(x), "logvar": m.a(x) + 1}, a=nn.Linear(8, 8))
    assert not compare_modules(ours, None, theirs, None, X).passed
    swapped = Jax(lambda m, x: (m.a(x) + 1, m.a(x)), a=lin())  # a tuple has an order, which is mean, logvar
    return compare_modules(swapped, None, theirs, None, X)


def _rotary(frequencies, theirs):
    def ours(m, x):
        y = m.a(x).reshape(-1, 4, 2)
        y = (y[..., 0] + 1j * y[..., 1]) * jnp.asarray(frequencies)
        return jnp.stack([y.real, y.imag], -1)

    def forward(m, x):
        y = torch.view_as_complex(m.a(x).reshape(-1, 4, 2).contiguous()) * m.f
        return torch.stack([y.real, y.imag], -1)

    module = Torch(forward, a=nn.Linear(8, 8))
    module.register_buffer("f", torch.tensor(theirs), persistent=False)
    return compare_modules(Jax(ours, a=lin()), None, module, None, X, losses=SQUARE)


ROTARY = np.exp(1j * np.arange(4)).astype(np.complex64)


@case("differ")
def complex_buffer_half_forgotten():
    return _rotary(ROTARY.real, ROTARY)


@case("agree")
def complex_buffer():
    return _rotary(ROTARY, ROTARY)


@case("agree")
def embedding():
    """nnx.Embed keeps the dtype it was made with, and rounds to it in a float64 comparison."""
    ids = np.array([[0, 1, 2], [3, 4, 5]])
    ours = Jax(lambda m, i: m.e.attend(m.e(i)), e=nnx.Embed(9, 6, rngs=nnx.Rngs(0)))
    theirs = Torch(lambda m, i: m.e(i) @ m.e.weight.T, e=nn.Embedding(9, 6))
    return compare_modules(ours, None, theirs, None, ids, losses=SQUARE)


@case("agree")
def scalar_parameter():
    ours = Jax(lambda m, x: m.k[...] * m.a(x), k=nnx.Param(jnp.array(2.0)), a=lin())
    theirs = Torch(lambda m, x: m.k * m.a(x), k=nn.Parameter(torch.tensor(2.0)), a=nn.Linear(8, 8))
    return compare_modules(ours, None, theirs, None, X)


@case("agree")
def equal_infinities():
    keep = np.arange(8) != 5
    ours = Jax(lambda m, x: jnp.where(keep, m.a(x), -jnp.inf), a=lin())
    theirs = Torch(lambda m, x: m.a(x).masked_fill(~torch.tensor(keep), -torch.inf), a=nn.Linear(8, 8))
    return compare_modules(ours, None, theirs, None, X)


@case("agree")
def channels_first_on_both_sides():
    ours = Jax(lambda m, x: jnp.moveaxis(m.c(x), -1, 1), c=nnx.Conv(4, 4, (1, 1), rngs=nnx.Rngs(0)))
    return compare_modules(ours, None, Torch(lambda m, x: m.c(x), c=nn.Conv2d(4, 4, 1)), None, PICTURES)


@case("agree")
def gradient_that_is_rounding():
    """The mean square of a layer norm is a constant: what is left of its gradient is rounding on both sides."""

    def ours(m, x):
        return m.n(m.b(nnx.tanh(m.a(x))))

    def theirs(m, x):
        return m.n(m.b(torch.tanh(m.a(x))))

    norm = nnx.LayerNorm(8, epsilon=1e-12, rngs=nnx.Rngs(0))
    return compare_modules(
        Jax(ours, a=lin(), b=lin(), n=norm),
        None,
        Torch(theirs, a=nn.Linear(8, 8), b=nn.Linear(8, 8), n=nn.LayerNorm(8, 1e-12)),
        None,
        X,
        losses=SQUARE,
    )


@case("agree")
def buffer_that_flax_computes():
    """A mask, position ids, frequencies: persistent in torch, a constant in Flax."""
    theirs = Torch(lambda m, x: m.a(x) + m.pe, a=nn.Linear(8, 8), pe=torch.arange(8.0))
    return compare_modules(Jax(lambda m, x: m.a(x) + jnp.arange(8.0), a=lin()), None, theirs, None, X)


@case("agree")
def statistics_of_a_bare_function():
    """A function over Linen variables that hold running statistics, with a loss."""
    norm = linen.BatchNorm(True)
    variables = norm.init(jax.random.key(0), X)
    return compare_modules(lambda v, x: norm.apply(v, x), variables, nn.BatchNorm1d(8), None, X, losses=SQUARE)


@case("agree")
def mutable_collection_asked():
    """A Linen module that asks whether batch_stats are mutable is to be told no in evaluation."""

    class Norm(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.BatchNorm(not self.is_mutable_collection("batch_stats"), name="n")(x)

    net = Norm()
    return compare_modules(
        net, net.init(jax.random.key(0), X), Torch(lambda m, x: m.n(x), n=nn.BatchNorm1d(8)), None, X
    )


@case("agree")
def mode_as_an_argument():
    """NNX modules too are told their mode where they take it."""

    class Net(nnx.Module):
        def __init__(self):
            self.a, self.d = lin(), nnx.Dropout(0.5, rngs=nnx.Rngs(1))

        def __call__(self, x, *, deterministic=False):
            return self.d(self.a(x), deterministic=deterministic)

    theirs = Torch(lambda m, x: m.d(m.a(x)), a=nn.Linear(8, 8), d=nn.Dropout(0.5))
    return compare_modules(Net(), None, theirs, None, X)


@case("agree")
def partitioned_parameters():
    boxed = linen.with_partitioning(linen.initializers.lecun_normal(), (None, "model"))
    net = linen.Dense(8, kernel_init=boxed)
    return compare_modules(net, net.init(jax.random.key(0), X), nn.Linear(8, 8), None, X)


@case("agree")
def attention():
    """Flax keeps heads as an axis; torch keeps query, key and value in one matrix."""
    x = np.random.default_rng(2).normal(size=(2, 5, 8))
    ours = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
    theirs = Torch(
        lambda m, x: m.mha(x, x, x, need_weights=False)[0], mha=nn.MultiheadAttention(8, 2, batch_first=True)
    )
    return compare_modules(Jax(lambda m, x: m.mha(x), mha=ours), None, theirs, None, x)


@case("differ", "\na: ", "4 in JAX, 2 in PyTorch")
def attention_to_what_differs():
    """The second attends to what the first gives: it differs as that does, and is no place of its own."""
    x = np.random.default_rng(2).normal(size=(2, 5, 8))
    flax = [nnx.MultiHeadAttention(heads, 8, decode=False, rngs=nnx.Rngs(0)) for heads in (4, 2)]
    ours = Jax(lambda m, x: m.b(x, m.a(x)), a=flax[0], b=flax[1])
    heads = {name: nn.MultiheadAttention(8, 2, batch_first=True) for name in "ab"}

    def run(m, x):
        y = m.a(x, x, x, need_weights=False)[0]
        return m.b(x, y, y, need_weights=False)[0]

    report = compare_modules(ours, None, Torch(run, **heads), None, x)
    assert report.diagnosis is not None
    assert not report.diagnosis.more
    return report


@case("agree")
def names_with_underscores():
    """layers_0 there, layers.0 here; Conv_0; a Sequential's layers/0: told apart by name and order of calls."""

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            for i in range(3):
                x = linen.tanh(linen.Dense(8, name=f"layers_{i}")(x))
            return x

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return x

    net = Net()
    return compare_modules(net, net.init(jax.random.key(0), X), Layers(), None, X)


@case("agree")
def old_weight_norm():
    """torch.nn.utils.weight_norm, whose weight is no leaf and cannot be deep-copied."""
    theirs = Torch(lambda m, x: m.a(x), a=nn.utils.weight_norm(nn.Linear(8, 8)))
    ours = lambda p, x: x @ (p["v"] * (p["g"] / np.sqrt(1e-300 + (p["v"] ** 2).sum(0)))) + p["b"]  # noqa: E731
    params = {"v": np.eye(8) + 0.1, "g": np.ones(8), "b": np.zeros(8)}
    pairs = {"a.weight_v": "v", "a.weight_g": "g", "a.bias": "b"}
    return compare_modules(ours, params, theirs, {v: k for k, v in pairs.items()}, X)


@case("differ", "\nn: ", "eps differs: 1e-06 in JAX, 1e-05 in PyTorch")
def eps_before_a_reshape():
    """What follows lies otherwise in memory here and there; the epsilon of the norm is still the first that parts."""
    ours = Jax(
        lambda m, x: m.b(nnx.gelu(m.a(m.n(x).reshape(2, 36, 4)), approximate=False)),
        n=nnx.GroupNorm(4, 2, rngs=nnx.Rngs(0)),
        a=lin(4, 4),
        b=lin(4, 4),
    )
    theirs = Torch(
        lambda m, x: m.b(F.gelu(m.a(m.n(x.flatten(2)).transpose(1, 2)))),
        n=nn.GroupNorm(2, 4),
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 4),
    )
    return compare_modules(ours, None, theirs, None, PICTURES)


@case("differ", "between a and b", "GELU's tanh form")
def inside_remat():
    ours = Jax(lambda m, x: m.b(nnx.remat(lambda layer, x: nnx.gelu(layer(x)))(m.a, x)), a=lin(), b=lin())
    theirs = Torch(lambda m, x: m.b(F.gelu(m.a(x))), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    return compare_modules(ours, None, theirs, None, X)


@case("differ", "\nn: ", "multiplied by a constant: by 1.5")
def subclass_of_a_norm():
    """The diagnosis must not fall over what it looks at; the levels' figures are never lost."""

    class Scaled(nnx.BatchNorm):
        def __call__(self, x, **options):
            return 1.5 * super().__call__(x, **options)

    theirs = Torch(lambda m, x: m.n(x), n=nn.BatchNorm1d(8))
    return compare_modules(Jax(lambda m, x: m.n(x), n=Scaled(8, rngs=nnx.Rngs(0))), None, theirs, None, X)


@case("differ", "\nfirst: ", "\nsecond: ")
def two_faults():
    """Both wrong epsilons in one run: each layer is also tried on the other side's input."""
    ours = Jax(
        lambda m, x: m.second(m.b(m.first(m.a(x)))),
        a=lin(),
        b=lin(),
        first=nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
        second=nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
    )
    theirs = Torch(
        lambda m, x: m.second(m.b(m.first(m.a(x)))),
        a=nn.Linear(8, 8),
        b=nn.Linear(8, 8),
        first=nn.LayerNorm(8),
        second=nn.LayerNorm(8),
    )
    return compare_modules(ours, None, theirs, None, X)


@case("differ", "every gradient", "worst in g")
def trained_in_torch_and_kept_in_jax():
    """A tensor that is a parameter in torch only has a gradient in torch only."""

    class Kept(nnx.Variable):
        pass

    ours = Jax(lambda m, x: m.a(x) * m.g[...], a=lin(), g=Kept(jnp.arange(1.0, 9) / 8))
    theirs = Torch(lambda m, x: m.a(x) * m.g, a=nn.Linear(8, 8), g=nn.Parameter(torch.ones(8)))
    return compare_modules(ours, None, theirs, None, X, losses=SQUARE)


def _two_parts(stop):
    """A bare function whose parameters have another part beside one that is called params."""
    parameters = {"params": {"k": np.random.default_rng(3).normal(size=(8, 8))}, "head": np.arange(1.0, 9)}
    theirs = Torch(lambda m, x: x @ m.k * m.head, k=nn.Parameter(torch.ones(8, 8)), head=nn.Parameter(torch.ones(8)))
    return compare_modules(
        lambda p, x: x @ p["params"]["k"] * stop(p["head"]),
        parameters,
        theirs,
        {"k": "k", "head": "head"},
        X,
        losses=SQUARE,
    )


@case("agree")
def every_part_of_a_functions_parameters():
    return _two_parts(lambda x: x)


@case("differ", "every gradient", "worst in head")
def gradient_of_a_part_stopped():
    return _two_parts(jax.lax.stop_gradient)


@case("agree")
def index_that_one_framework_refuses():
    """A table of one row: torch raises for another index, and JAX takes the last row."""
    ours = Jax(lambda m, i: m.e(i), e=nnx.Embed(1, 6, rngs=nnx.Rngs(0)))
    return compare_modules(ours, None, Torch(lambda m, i: m.e(i), e=nn.Embedding(1, 6)), None, np.zeros((2, 3), int))


@case("differ", "between p + a and o", "GELU's tanh form")
def positions_of_one_row():
    """Positions have a row for each sentence in one framework and one for all in the other."""
    ids = np.array([[0, 1, 2], [3, 4, 0]])
    ours = Jax(
        lambda m, i: m.o(jax.nn.gelu(m.a(i) + m.p(jnp.broadcast_to(jnp.arange(3), i.shape)))),
        a=nnx.Embed(5, 8, rngs=nnx.Rngs(0)),
        p=nnx.Embed(3, 8, rngs=nnx.Rngs(1)),
        o=lin(),
    )
    theirs = Torch(
        lambda m, i: m.o(F.gelu(m.a(i) + m.p(torch.arange(3)[None]))),
        a=nn.Embedding(5, 8),
        p=nn.Embedding(3, 8),
        o=nn.Linear(8, 8),
    )
    return compare_modules(ours, None, theirs, None, ids)


class NormAct(nn.BatchNorm2d):
    """A norm that holds its activation, as timm's do."""

    def __init__(self, features):
        super().__init__(features)
        self.act = nn.SiLU()

    def forward(self, input):
        return self.act(super().forward(input))


@case("differ", "\nn: Its input agrees", "eps differs: 0.001 in JAX, 1e-05 in PyTorch")
def norm_that_holds_its_activation():
    ours = Jax(lambda m, x: jax.nn.silu(m.n(x)), n=nnx.BatchNorm(4, epsilon=1e-3, rngs=nnx.Rngs(0)))
    return compare_modules(ours, None, Torch(lambda m, x: m.n(x), n=NormAct(4)), None, PICTURES)


class Counting(linen.Module):
    @linen.compact
    def __call__(self, x):
        count = self.variable("counts", "count", lambda: jnp.zeros(()))
        count.value = count.value  # in evaluation too
        return linen.Dense(8, name="a")(x)


@case("agree")
def state_written_in_evaluation():
    variables = Counting().init(jax.random.key(0), jnp.zeros((1, 8)))
    theirs = Torch(lambda m, x: m.a(x), a=nn.Linear(8, 8), count=torch.zeros(()))
    return compare_modules(Counting(), variables, theirs, None, X)


@case("differ", "outputs at other weights")
def slope_of_numbers_that_are_never_negative():
    """The maximum of a normalized map is positive at the weights that were given."""
    ours = Jax(
        lambda m, x: jax.nn.leaky_relu(m.n(x).max((1, 2)), 0.2),
        n=nnx.GroupNorm(4, 1, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0)),
    )
    theirs = Torch(lambda m, x: F.leaky_relu(m.n(x).amax((2, 3))), n=nn.GroupNorm(1, 4))
    return compare_modules(ours, None, theirs, None, PICTURES)


@case("differ", "at other weights", "inf times its rounding error", "nan in JAX")
def not_a_number_at_other_weights():
    """A difference of NaN and a number has no size."""
    small = np.linspace(-0.3, 0.4, 8).astype(np.float32)
    ours = Jax(lambda m, x: x + jnp.log1p(m.g[...]), g=nnx.Param(jnp.asarray(small)))
    theirs = Torch(lambda m, x: x + torch.log1p(m.g.clamp(-0.9)), g=nn.Parameter(torch.tensor(small)))
    return compare_modules(ours, None, theirs, None, X)


@case("differ", "outputs at smaller weights", "\nn: Its input agrees")
def eps_before_a_clip_that_cuts_every_number_off():
    """Each largest number of a normalized map is over the limit of the clip."""
    norm = nnx.GroupNorm(4, 1, epsilon=1e-3, use_fast_variance=False, rngs=nnx.Rngs(0))
    ours = Jax(lambda m, x: jnp.clip(m.n(x), -0.4, 0.4).max((1, 2)), n=norm)
    theirs = Torch(lambda m, x: m.n(x).clamp(-0.4, 0.4).amax((2, 3)), n=nn.GroupNorm(1, 4))
    return compare_modules(ours, None, theirs, None, PICTURES)


@case("differ", "at other weights", "\nn: Its input agrees")
def eps_of_a_millionth_before_a_clip():
    """What is left of an eps of 1e-5 or 1e-6 beside a variance of 30 is 1e-7 of the output, far over its rounding."""
    bias = lambda *_: jnp.linspace(8.0, 9.0, 8)  # noqa: E731
    norm = nnx.LayerNorm(8, epsilon=1e-6, use_fast_variance=False, bias_init=bias, rngs=nnx.Rngs(0))
    ours = Jax(lambda m, x: jnp.clip(m.n(5 * x), -1, 1), n=norm)
    theirs = Torch(lambda m, x: m.n(5 * x).clamp(-1, 1), n=nn.LayerNorm(8, eps=1e-5))
    return compare_modules(ours, None, theirs, None, X)


@case("differ", "outputs at larger inputs")
def bound_that_the_given_inputs_do_not_reach():
    """No bias could move them there: the largest number before the activation is 1.3, at other weights 1.7."""
    kernel = np.random.default_rng(0).uniform(-0.3, 0.3, (8, 8)).astype(np.float32)
    layer = nn.Linear(8, 8, bias=False)
    theirs = Torch(lambda m, x: m.layer(x).relu(), layer=layer)
    return compare_modules(
        lambda p, x: jax.nn.relu6(x @ p["w"]), {"w": jnp.asarray(kernel)}, theirs, {"w": "layer.weight"}, X
    )


@case("agree", "(not compared, since torch gives no finite number there: outputs at larger biases)")
def no_finite_number_at_larger_biases():
    numbers = np.linspace(-0.3, 0.4, 8).astype(np.float32)
    ours = Jax(lambda m, x: x + jnp.exp(20 * m.g[...] ** 2).sum(), g=nnx.Param(jnp.asarray(numbers)))
    theirs = Torch(lambda m, x: x + torch.exp(20 * m.g**2).sum(), g=nn.Parameter(torch.tensor(numbers)))
    return compare_modules(ours, None, theirs, None, X)


@case("differ", "\na: Its input agrees", "\nb: On the same input", "1e-12 in PyTorch.\nNo other difference")
def two_layers_of_which_the_second_differs_more():
    norms = {"a": (1e-3, 1e-5), "b": (1.0, 1e-12)}
    ours = {n: nnx.LayerNorm(8, epsilon=e[0], use_fast_variance=False, rngs=nnx.Rngs(0)) for n, e in norms.items()}
    theirs = {n: nn.LayerNorm(8, eps=e[1]) for n, e in norms.items()}
    return compare_modules(
        Jax(lambda m, x: m.b(m.a(x)), **ours), None, Torch(lambda m, x: m.b(m.a(x)), **theirs), None, X
    )


class MeanSquare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


@case("differ", "\nn: Its input agrees", "eps differs: 1e-05 in JAX, 1e-06 in PyTorch")
def a_norm_of_ones_own():
    """Many modules write the norm by the root of the mean square for themselves."""
    ours = Jax(lambda m, x: m.a(m.n(x)), a=lin(), n=nnx.RMSNorm(8, epsilon=1e-5, rngs=nnx.Rngs(0)))
    return compare_modules(ours, None, Torch(lambda m, x: m.a(m.n(x)), a=nn.Linear(8, 8), n=MeanSquare()), None, X)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_the_verdict_is_right(name: str) -> None:
    expected, words, build = CASES[name]
    report = build()
    text = str(report)
    assert ("agree" if report.passed else "differ") == expected, text
    assert all(word in text for word in words), text
