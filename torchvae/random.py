"""The streams of `jax.random` (threefry2x32, partitionable), in torch: the same key draws the same numbers.

A key is a uint32 tensor `[..., 2]`, laid out as `jax.random.key_data`; numbers are drawn on the key's device.
To bits, uniforms and normals, leading dimensions of a key are a batch: `normal(keys, shape)` is
`jax.vmap(lambda k: jax.random.normal(k, shape))(keys)` drawn in one call, so that many steps' noise costs one call.
Keys, bits, uniforms, masks and permutations equal JAX's to the bit; normals to the last digits. As in JAX, a key must
be used once.

The cipher is Threefry-2x32-20 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Key = Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

# erfinv(x) = x * p(w), w = -log(1 - x^2): the polynomials of M. Giles, "Approximating the erfinv function" (GPU
# Computing Gems, 2011), highest power first, one row per range of w; XLA evaluates the same ones. A range is
# (its end, what is taken from w or, beyond the first range, from sqrt(w), its coefficients).
_ERFINV = {
    torch.float32: (
        (5.0, 2.5, (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
                    -0.00417768164, 0.246640727, 1.50140941)),
        (math.inf, 3.0, (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
                         0.00943887047, 1.00167406, 2.83297682)),
    ),
    torch.float64: (
        (6.25, 3.125, (-3.6444120640178196996e-21, -1.685059138182016589e-19, 1.2858480715256400167e-18,
                       1.115787767802518096e-17, -1.333171662854620906e-16, 2.0972767875968561637e-17,
                       6.6376381343583238325e-15, -4.0545662729752068639e-14, -8.1519341976054721522e-14,
                       2.6335093153082322977e-12, -1.2975133253453532498e-11, -5.4154120542946279317e-11,
                       1.051212273321532285e-09, -4.1126339803469836976e-09, -2.9070369957882005086e-08,
                       4.2347877827932403518e-07, -1.3654692000834678645e-06, -1.3882523362786468719e-05,
                       0.0001867342080340571352, -0.00074070253416626697512, -0.0060336708714301490533,
                       0.24015818242558961693, 1.6536545626831027356)),
        (16.0, 3.25, (2.2137376921775787049e-09, 9.0756561938885390979e-08, -2.7517406297064545428e-07,
                      1.8239629214389227755e-08, 1.5027403968909827627e-06, -4.013867526981545969e-06,
                      2.9234449089955446044e-06, 1.2475304481671778723e-05, -4.7318229009055733981e-05,
                      6.8284851459573175448e-05, 2.4031110387097893999e-05, -0.0003550375203628474796,
                      0.00095328937973738049703, -0.0016882755560235047313, 0.0024914420961078508066,
                      -0.0037512085075692412107, 0.005370914553590063617, 1.0052589676941592334,
                      3.0838856104922207635)),
        (math.inf, 5.0, (-2.7109920616438573243e-11, -2.5556418169965252055e-10, 1.5076572693500548083e-09,
                         -3.7894654401267369937e-09, 7.6157012080783393804e-09, -1.4960026627149240478e-08,
                         2.9147953450901080826e-08, -6.7711997758452339498e-08, 2.2900482228026654717e-07,
                         -9.9298272942317002539e-07, 4.5260625972231537039e-06, -1.9681778105531670567e-05,
                         7.5995277030017761139e-05, -0.00021503011930044477347, -0.00013871931833623122026,
                         1.0103004648645343977, 4.8499064014085844221)),
    ),
}  # fmt: skip

# log(1 + x) = x - x^2/2 + x^3 * numerator/denominator, of Cephes' log1p (S. Moshier).
_LOG1P_NUMERATOR = (4.5270000862445199635215e-5, 4.9854102823193375972212e-1, 6.5787325942061044846969,
                    2.9911919328553073277375e1, 6.0949667980987787057556e1, 5.7112963590585538103336e1,
                    2.0039553499201281259648e1)  # fmt: skip
_LOG1P_DENOMINATOR = (1.0, 1.5062909083469192043167e1, 8.3047565967967209469434e1, 2.2176239823732856465394e2,
                      3.0909872225312059774938e2, 2.1642788614495947685003e2, 6.0118660497603843919306e1)  # fmt: skip
_LOG = (
    (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1),
    (-1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1),
    (2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)


def key(seed: int, device: torch.device | str = "cpu") -> Key:
    """The key of a 64-bit seed, as `jax.random.key` makes it when x64 is enabled; `[2]`. (Without x64 JAX drops the
    seed's upper half, which `jaxvae.root_key` keeps.)"""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"A seed is a 64-bit integer, found {seed}.")
    return torch.tensor([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], dtype=torch.uint32, device=device)


def fold_in(key: Key, data: int | Tensor) -> Key:
    """The key of `data` (modulo 2^32) under `key`. A tensor of integers gives a key for each: `[*data.shape, 2]`."""
    if not isinstance(data, Tensor):
        data = torch.full((), data, dtype=torch.int64, device=key.device)  # torch.tensor would wait for a GPU
    low = data.to(key.device, torch.int64)
    return _pair(*_threefry(key, torch.zeros_like(low), low)).view(torch.uint32)


def split(key: Key, num: int = 2) -> Key:
    """`num` new keys: `[num, 2]`."""
    return _pair(*_threefry(key, *_counters(num, key.device))).view(torch.uint32)


def bits(key: Key, shape: Sequence[int] = (), dtype: torch.dtype = torch.uint32) -> Tensor:
    """Uniform bits as `dtype`, one of uint8, uint16, uint32 and uint64."""
    first, second = _draw(key, shape)
    if dtype == torch.uint64:
        return ((first.long() << 32) | (second.long() & 0xFFFFFFFF)).view(torch.uint64)
    word = first.bitwise_xor_(second)
    return word.view(torch.uint32) if dtype == torch.uint32 else word.to(dtype)


def uniform(
    key: Key,
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    minval: float = 0.0,
    maxval: float = 1.0,
) -> Tensor:
    """Uniform floats in [minval, maxval): the top 23 (float32) or 52 (float64) bits as a fraction."""
    first, second = _draw(key, shape)
    if dtype == torch.float64:
        high = (first.long() & 0xFFFFFFFF) << 20
        unit = high.bitwise_or_((second >> 12).long() & 0xFFFFF).to(dtype).mul_(2.0**-52)
    elif dtype == torch.float32:
        unit = first.bitwise_xor_(second).bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).to(dtype).mul_(2.0**-23)
    else:
        raise ValueError(f"Uniforms are drawn as float32 or float64, found {dtype}.")
    if (minval, maxval) == (0.0, 1.0):
        return unit
    low, high = (_scalar(value, dtype, key.device) for value in (minval, maxval))
    return torch.addcmul(low, unit, high - low).clamp_(min=low)  # one rounding, as XLA's fused multiply-add


def normal(key: Key, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals, sqrt(2) * erfinv(u) with u uniform in (-1, 1)."""
    above = -1.0 + (2.0**-24 if dtype == torch.float32 else 2.0**-53)  # the float next to -1
    return _erfinv(uniform(key, shape, dtype, above, 1.0)).mul_(math.sqrt(2.0))


def bernoulli(key: Key, p: float | Tensor = 0.5, shape: Sequence[int] | None = None) -> Tensor:
    """True with probability `p`; the shape is that of `p` unless given."""
    p = torch.as_tensor(p, device=key.device)
    return uniform(key, p.shape if shape is None else shape, p.dtype) < p


def permutation(key: Key, x: int | Tensor) -> Tensor:
    """`x` shuffled along its first dimension; an integer stands for `arange(x)`. Raises ValueError for several keys."""
    if key.ndim != 1:
        raise ValueError(f"A permutation takes one key, found a batch of shape {list(key.shape[:-1])}.")
    if isinstance(x, Tensor):
        return x[permutation(key, len(x))]
    order = torch.arange(x, device=key.device)
    # Sorting by 32-bit words until no two elements can be expected to have drawn the same ones throughout.
    for _ in range(math.ceil(3 * math.log(max(1, x)) / math.log(2**32 - 1))):
        key, subkey = split(key)
        words = bits(subkey, (x,)).view(torch.int32).bitwise_xor_(-(2**31))  # so that they sort as if unsigned
        order = order[torch.sort(words, stable=True).indices]
    return order


def _draw(key: Key, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Both words of the cipher at counters 0, 1, 2 ... in the order of `shape`; int32 `[*batch, *shape]`."""
    words = _threefry(key, *_counters(math.prod(shape), key.device))
    first, second = (word.reshape((*key.shape[:-1], *shape)) for word in words)
    return first, second


def _counters(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    low = torch.arange(size, device=device)
    return low >> 32, low


def _pair(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], dim=-1)


def _threefry(key: Key, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Encrypts the 64-bit counters (high, low) under each key: two int32 tensors `[*key.shape[:-1], *low.shape]`.

    In place and in int32, whose wrap-around is that of uint32: about 50 times faster than int64 out of place."""
    ks0, ks1 = (word[(..., *[None] * low.ndim)] for word in key.view(torch.int32).unbind(-1))
    schedule = (ks0, ks1, ks0 ^ ks1 ^ _PARITY)
    x0 = high.to(torch.int32) + ks0
    x1 = low.to(torch.int32) + ks1
    shifted = torch.empty_like(x1)
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x0.add_(x1)
            torch.bitwise_left_shift(x1, r, out=shifted)
            x1.bitwise_right_shift_(32 - r).bitwise_and_((1 << r) - 1)  # int32 shifts drag the sign along
            x1.bitwise_or_(shifted).bitwise_xor_(x0)
        x0.add_(schedule[(i + 1) % 3])
        x1.add_(schedule[(i + 2) % 3] + (i + 1))
    return x0, x1


def _erfinv(x: Tensor) -> Tensor:
    """The inverse error function on (-1, 1)."""
    w = _log1p((x * x).neg_()).neg_()
    (start, centre, coefficients), *tails = _ERFINV[x.dtype]
    value = _horner(coefficients, w - centre)
    for end, centre, coefficients in tails:  # six draws in a thousand, or fewer
        tail = w >= start if end == math.inf else (w >= start).logical_and_(w < end)
        if w.device.type == "cpu":
            value[tail] = _horner(coefficients, w[tail].sqrt_().sub_(centre))
        else:  # a GPU's host would wait for the number of those
            value = torch.where(tail, _horner(coefficients, w.sqrt().sub_(centre)), value)
        start = end
    return value.mul_(x)


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x in (-1, 0], rounded as XLA rounds it on a CPU, which is not always to nearest: 8 in 100 of
    torch.log1p's results differ, enough to move 1 in 100 normals by an ulp."""
    square = x * x
    cubic = _horner(_LOG1P_NUMERATOR, x).div_(_horner(_LOG1P_DENOMINATOR, x)).mul_(square * x)
    small = cubic.addcmul_(square, _scalar(-0.5, x.dtype, x.device)).add_(x)
    cut = 1.0 - math.sqrt(2.0) if x.dtype == torch.float32 else math.sqrt(0.5) - 1.0
    return torch.where(x > cut, small, _log(1.0 + x))


def _log(x: Tensor) -> Tensor:
    """log(x) for positive, normal x. In float32 the polynomial of Cephes' logf (S. Moshier), in XLA's order."""
    if x.dtype != torch.float32:
        return torch.log(x)
    t, exponent = torch.frexp(x)  # x = t * 2^exponent with t in [0.5, 1)
    low = t < math.sqrt(0.5)
    exponent = exponent.sub_(low.to(exponent.dtype)).to(x.dtype)
    t.add_(t * low).sub_(1.0)  # now x = (1 + t) * 2^exponent with 1 + t in [sqrt(1/2), sqrt(2))
    square = t * t
    cube = square * t
    first, second, third = (_horner(coefficients, t) for coefficients in _LOG)
    value = third.addcmul_(second.addcmul_(first, cube), cube)
    value = (exponent * -2.12194440e-4).addcmul_(value, cube)
    value.add_(t.addcmul_(square, _scalar(-0.5, x.dtype, x.device)))
    return value.addcmul_(exponent, _scalar(0.693359375, x.dtype, x.device))


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """The polynomial at x, highest power first, with one rounding a step (addcmul is a fused multiply-add)."""
    value = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        torch.addcmul(_scalar(c, x.dtype, x.device), value, x, out=value)
    return value


@functools.cache
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A constant as a tensor; making a new one costs as much as adding ten thousand numbers."""
    return torch.full((), value, dtype=dtype, device=device)
