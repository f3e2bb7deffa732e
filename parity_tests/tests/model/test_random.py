"""torchvae.random against jax.random: the same key draws the same numbers."""

import math

import jax
import jax.extend
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import jaxvae
import torchvae
from parity_tests.harness.compare import ulps
from torchvae import random

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SEEDS = st.integers(0, 2**64 - 1) | st.integers(0, 2**32 + 5) | st.sampled_from([0, 2**31, 2**32 - 1, 2**32, 2**64 - 1])
# JAX compiles for each shape, so the shapes are a fixed set: scalars, nothing, odd, even, long, many dimensions.
SHAPES = st.sampled_from(
    [(), (0,), (1,), (2,), (3,), (8,), (17,), (128, 20), (1000,), (2, 3, 5), (7, 0, 2), (1, 1, 1, 1), (33, 65)]
)
# The bits are those of any shape, and XLA takes half a second to compile the floats of one as a user has them.
FLOAT_SHAPES = st.sampled_from([(), (0,), (128, 20), (2, 3, 5)])
FLOATS = st.sampled_from(["float32", "float64"])
RANGES = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.1, 3.3), (-0.05, 0.05), (-1e6, 1e-3)])

many = settings(max_examples=100, deadline=None, derandomize=True, database=None)
pytestmark = pytest.mark.usefixtures("x64")


def jax_key(seed: int) -> jax.Array:
    return jaxvae.root_key(seed)


def words(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def same(actual: Tensor, expected) -> None:
    np.testing.assert_array_equal(actual.cpu().numpy(), np.asarray(expected), strict=True)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@many
@given(seed=SEEDS)
def test_keys_are_jaxs_own(seed: int) -> None:
    same(random.key(seed), words(jax_key(seed)))
    if seed < 2**63:  # jax.random.key takes signed seeds
        same(random.key(seed), words(jax.random.key(seed)))


@many
@given(seed=SEEDS, data=st.integers(0, 2**32 - 1))
def test_fold_in(seed: int, data: int) -> None:
    same(random.fold_in(random.key(seed), data), words(jax.random.fold_in(jax_key(seed), np.uint32(data))))


@pytest.mark.parametrize("t", [0, 2**31 - 1, 2**31, 2**32 - 1])
def test_the_keys_of_steps(t: int) -> None:
    same(torchvae.stream_key(torchvae.root_key(3), "noise", t), words(jaxvae.stream_key(jax_key(3), "noise", t)))


@pytest.mark.parametrize("t", [-1, 2**32])
def test_no_two_steps_have_one_key_of_jax(t: int) -> None:
    with pytest.raises(OverflowError):
        jaxvae.stream_key(jax_key(3), "noise", t)


@many
@given(seed=SEEDS, num=st.sampled_from([1, 2, 3, 5, 100]))
def test_split(seed: int, num: int) -> None:
    same(random.split(random.key(seed), num), words(jax.random.split(jax_key(seed), num)))


@many
@given(seed=SEEDS, shape=SHAPES, kind=st.sampled_from(["uint8", "uint16", "uint32", "uint64"]))
def test_bits(seed: int, shape: tuple[int, ...], kind: str) -> None:
    same(random.bits(random.key(seed), shape, getattr(torch, kind)), jax.random.bits(jax_key(seed), shape, kind))


@pytest.mark.slow
@many
@given(seed=SEEDS, shape=SHAPES, dtype=FLOATS, p=st.floats(0, 1))
def test_bernoulli(seed: int, shape: tuple[int, ...], dtype: str, p: float) -> None:
    result = random.bernoulli(random.key(seed), torch.tensor(p, dtype=getattr(torch, dtype)), shape)
    same(result, jax.random.bernoulli(jax_key(seed), np.asarray(p, dtype), shape))


@many
@given(seed=SEEDS, size=st.sampled_from([0, 1, 2, 3, 10, 255, 1626, 1627, 60000]))
def test_permutation(seed: int, size: int) -> None:
    """One round of sorting up to 1,625 elements, two from 1,626 on."""
    same(random.permutation(random.key(seed), size), jax.random.permutation(jax_key(seed), size))


def test_permutation_of_rows() -> None:
    rows = np.arange(30.0).reshape(10, 3)
    same(random.permutation(random.key(5), torch.tensor(rows)), jax.random.permutation(jax_key(5), rows))


# From here on to the bit, with XLA's fused multiply-adds.
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@many
@given(seed=SEEDS, shape=FLOAT_SHAPES, dtype=FLOATS, bounds=RANGES)
def test_uniform(seed: int, shape: tuple[int, ...], dtype: str, bounds: tuple[float, float]) -> None:
    found = random.uniform(random.key(seed), shape, getattr(torch, dtype), *bounds)
    same(found, jax.random.uniform(jax_key(seed), shape, dtype, *bounds))


@pytest.mark.usefixtures("optimized")
@many
@given(seed=SEEDS, shape=FLOAT_SHAPES, dtype=FLOATS)
def test_normal(seed: int, shape: tuple[int, ...], dtype: str) -> None:
    actual = random.normal(random.key(seed), shape, getattr(torch, dtype)).numpy()
    expected = np.asarray(jax.random.normal(jax_key(seed), shape, dtype))
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if dtype == "float32":
        assert (ulps(actual, expected) <= 4).all()
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-14)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a_million_normals(seed: int, device: str) -> None:
    key, shape = random.key(seed, device), (1000, 1000)
    actual = random.normal(key, shape).cpu().numpy()
    expected = np.asarray(jax.random.normal(jax_key(seed), shape, np.float32))
    assert ulps(actual, expected).max() <= 4
    if device == "cpu":  # on a GPU both frameworks take the logarithm from CUDA's library, each its own way
        assert (actual == expected).mean() > 0.999
    actual = random.normal(key, shape, torch.float64).cpu().numpy()
    np.testing.assert_allclose(actual, np.asarray(jax.random.normal(jax_key(seed), shape, np.float64)), rtol=1e-14)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_inverse_error_function_to_its_ends(dtype: str) -> None:
    """Where no draw of a test would come by chance: next to 0, next to +-1, and on both sides of each range's end."""
    one = np.ones((), dtype)
    tails = 1 - np.logspace(-1, math.log10(np.finfo(dtype).eps), 500, dtype=dtype)
    ends = [math.sqrt(-math.expm1(-w)) for w in (5.0, 6.25, 16.0)] + [
        math.sqrt(math.sqrt(2) - 1),
        math.sqrt(1 - math.sqrt(0.5)),
    ]
    around = np.concatenate([np.asarray(end, dtype) + np.arange(-20, 21) * np.finfo(dtype).eps for end in ends])
    small = np.logspace(-30, -1, 200, dtype=dtype)
    u = np.concatenate([tails, around, small, [np.nextafter(one, 0 * one)]]).astype(dtype)
    u = np.concatenate([u[u < 1], -u[u < 1], [np.zeros((), dtype)]])
    actual, expected = random._erfinv(torch.tensor(u)).numpy(), np.asarray(jax.lax.erf_inv(u))
    # Four units in the last place of float32; 1e-14 in float64.
    np.testing.assert_allclose(actual, expected, rtol={"float32": 4 * 2**-23, "float64": 1e-14}[dtype], atol=0)


def test_normals_are_normal() -> None:
    """Against scipy's distribution, so that both sides being wrong together would show."""
    for dtype in (torch.float32, torch.float64):
        draws = random.normal(random.key(7), (100_000,), dtype).numpy()
        assert stats.kstest(draws, "norm").pvalue > 0.01


@pytest.mark.parametrize("draw", ["bits", "uniform", "normal"])
def test_a_batch_of_keys_is_a_vmap(draw: str, device: str) -> None:
    key, steps = jax_key(2**33 + 1), np.arange(5, 9, dtype=np.uint32)
    keys = random.fold_in(random.key(2**33 + 1, device), torch.arange(5, 9))
    folded = jax.vmap(lambda t: jax.random.fold_in(key, t))(steps)
    same(keys, words(folded))
    actual = getattr(random, draw)(keys, (3, 4)).cpu().numpy()
    dtype = np.uint32 if draw == "bits" else np.float32
    expected = np.asarray(jax.vmap(lambda k: getattr(jax.random, draw)(k, (3, 4), dtype))(folded))
    if draw == "normal":
        assert ulps(actual, expected).max() <= 4
    else:
        np.testing.assert_array_equal(actual, expected)
    one_by_one = np.stack([getattr(random, draw)(k, (3, 4)).cpu().numpy() for k in keys])
    np.testing.assert_array_equal(actual, one_by_one)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    """What lets a ragged last batch take the first rows of a whole one's noise."""
    key = random.key(3)
    np.testing.assert_array_equal(random.normal(key, (128, 20))[:96], random.normal(key, (96, 20)))


def test_counters_go_on_past_32_bits() -> None:
    """Draws of over 2^32 numbers would not fit here; their counters do."""
    low = torch.tensor([0, 1, 2**32 - 1])
    first, second = random._threefry(random.key(9), torch.tensor([1, 1, 3]), low)
    key = words(jax_key(9))
    counts = np.array([1, 1, 3], np.uint32), low.numpy().astype(np.uint32)
    expected = np.asarray(jax.extend.random.threefry_2x32((key[0], key[1]), np.concatenate(counts))).reshape(2, 3)
    np.testing.assert_array_equal(np.stack([first.numpy(), second.numpy()]).view(np.uint32), expected)


def test_seeds_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        random.key(2**64)


def test_a_permutation_takes_one_key() -> None:
    with pytest.raises(ValueError, match="one key"):
        random.permutation(random.split(random.key(0)), 5)


def test_unknown_float_types_are_refused() -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        random.uniform(random.key(0), (3,), torch.float16)
