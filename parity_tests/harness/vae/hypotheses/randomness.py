"""Faults of keys, normals, initial weights and pixels."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
from scipy import special

import jaxvae
import torchvae
from jaxvae.shared.model import layout
from parity_tests.harness.causes import Cause
from parity_tests.harness.vae.batches import STREAMS, prepared, stream
from parity_tests.harness.vae.hypotheses.kinds import named
from parity_tests.harness.vae.levels import Arrays, Case, pictured

Causes = Iterator[tuple[Cause | None, Any]]

STREAM = "keys.streams"
ROOT = "stream not folded in: the root key used as it is"
OLDER, NEWER = "threefry's older, non-partitionable form", "threefry's partitionable form"
ORDER = "random.permutation"
BY_XLA = "normals by XLA's polynomials"


def drawn(sentence: str, found: str, expected: str, code: str | None = None) -> Cause:
    """Make a cause of what is drawn from a key, by a function of torchvae that JAX has itself."""
    return named("random-numbers", sentence, found, expected, code)


def _started(sentence: str, found: str, expected: str) -> Cause:
    return named("initialization", sentence, found, expected)


def _scaled(sentence: str, found: str) -> Cause:
    return named("normalization", sentence, found, "x / 255")


NARROW = named("low-precision", "float32 slipped into float64", "float32", "float64")
SIGNED = named("normalization", "pixels in [-1, 1], not [0, 1]", "[-1, 1]", "[0, 1]")
OVER_256 = _scaled("pixels over 256", "x / 256")
NO_STEP = named("key-reused", "key reused: the step is not folded in", "the stream", "the step")
FROM_1 = named("fold-in", "wrong fold-in: the step is counted from 1", "the step, from 1", "the step, from 0")


def words(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def keys(case: Case, name: str, answers: Arrays) -> Causes:
    """Compute hypotheses from all keys of the backend, since a wrong key may be the correct one of another name."""
    root = jaxvae.root_key(case.spec.training.seed)
    if name.startswith("root"):
        seed = case.spec.training.seed if name == "root" else 2**63 + 12345
        yield None, np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
        yield (
            named("seed", "upper half of the seed dropped", "the seed's lower 32 bits", "the seed's 64 bits"),
            np.array([0, seed & 0xFFFFFFFF], np.uint32),
        )
        yield (
            named("seed", "words of the seed swapped", "lower, upper word", "upper, lower word"),
            np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32),
        )
    elif name in STREAMS:
        yield None, words(stream(case.spec, name))
        ahead = {s: words(jax.random.fold_in(root, i + 1)) for i, s in enumerate(STREAMS)}
        if all(np.array_equal(answers[s], ahead[s]) for s in STREAMS):
            yield (
                named("stream", "streams folded in from 1, not 0", "streams from 1", "streams from 0", STREAM),
                ahead[name],
            )
        for other in STREAMS:
            cause = named("stream", f"streams exchanged: {name} has the key of {other}", other, name, STREAM)
            yield cause, words(stream(case.spec, other))
        yield named("stream", ROOT, "the root key", f"the key of {name}", STREAM), words(root)
    elif name.startswith("static"):
        yield None, words(stream(case.spec, "binarization", ("train", "test", "validation").index(name.split()[1])))
    elif ", " in name:
        label, t = name.split(", ")
        yield None, words(stream(case.spec, label, int(t)))
        yield NO_STEP, words(stream(case.spec, label))
        yield FROM_1, words(stream(case.spec, label, int(t) + 1))
        into = named("stream", "wrong fold-in: folded into the root key, not the stream", "the root key", label)
        yield into, words(jax.random.fold_in(root, int(t)))
    elif name == "bits":
        yield None, np.asarray(jax.random.bits(root, (1000,), "uint32"))
        with jax.threefry_partitionable(False):
            older = np.asarray(jax.random.bits(root, (1000,), "uint32"))
        yield drawn("bits drawn by threefry's older, non-partitionable form", OLDER, NEWER, "random.bits"), older
    elif name == "uniforms":
        yield None, np.asarray(jax.random.uniform(root, (1000,), case.dtype))
        bits = np.asarray(jax.random.bits(root, (1000,), "uint32"))
        yield (
            drawn("uniforms of 24 bits, not 23", "uniforms of 24 bits", "uniforms of 23 bits", "random.uniform"),
            ((bits >> 8) * 2.0**-24).astype(case.dtype),
        )
        single = np.asarray(jax.random.uniform(root, (1000,), "float32"))
        yield NARROW, single.astype(case.dtype)
    elif name == "shuffled":
        places = len(case.data.train)
        yield None, np.asarray(jax.random.permutation(root, places), np.int64)
        yield drawn("order not shuffled", "0, 1, 2, ..", "a permutation", ORDER), np.arange(places)
        bits = np.asarray(jax.random.bits(jax.random.split(root)[1], (places,)))
        cause = drawn("order sorted once where its length calls for twice", "one sort", "two sorts", ORDER)
        yield cause, np.argsort(bits, kind="stable")
        uniform = np.asarray(jax.random.uniform(root, (places,)))
        cause = drawn("order sorted by uniforms of the key itself", "a sort by uniforms", "a sort by bits", ORDER)
        yield cause, np.argsort(uniform, kind="stable")
    elif name == "split":
        yield None, words(jax.random.split(root, 10))
    elif name == "masks":
        yield None, np.asarray(jax.random.uniform(root, (1000,), case.dtype) < np.array(0.3, case.dtype), np.uint8)


def normals(case: Case, name: str) -> Causes:
    root, size, dtype = jaxvae.root_key(case.spec.training.seed), 200_000, case.dtype
    yield None, np.asarray(jax.random.normal(root, (size,), dtype))
    low = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    unit = np.asarray(jax.random.uniform(root, (size,), dtype, low, 1))
    yield (
        drawn("torch's own erfinv, rather than XLA's polynomials", "normals by torch's erfinv", BY_XLA),
        (torch.erfinv(torch.tensor(unit)).numpy() * np.array(math.sqrt(2), dtype)),
    )
    yield (
        drawn("another inverse error function than XLA's", "normals by another erfinv", BY_XLA),
        (special.erfinv(unit) * math.sqrt(2)).astype(dtype),
    )
    in_torch = torchvae.random.normal(torchvae.root_key(case.spec.training.seed), (size,)).numpy()
    for single in (jax.random.normal(root, (size,), "float32"), in_torch):  # they differ by an ulp
        yield NARROW, np.asarray(single).astype(dtype)
    yield drawn("uniforms in place of normals", "uniforms", "normals"), unit


def initial(case: Case, name: str) -> Causes:
    table = layout.table(case.spec.model)
    i = [parameter.name for parameter in table].index(name)
    parameter, key, dtype = table[i], stream(case.spec, "init"), case.dtype

    def draw(key: jax.Array, shape: tuple[int, ...], bound: float) -> np.ndarray:
        return (2 * np.asarray(jax.random.uniform(key, shape, dtype)) - 1) * np.array(bound, dtype)

    bound, mine = parameter.bound, jax.random.fold_in(key, i)
    plain = draw(mine, parameter.shape, bound)
    yield None, plain
    shape, other = list(parameter.shape), list(parameter.shape[::-1])
    layout_cause = _started("kernel drawn in the other framework's layout", f"{other}", f"{shape}")
    yield layout_cause, draw(mine, parameter.shape[::-1], bound).T
    yield named("kernel-transposed", "kernel transposed", other, shape, "nets.init"), plain.T
    yield named("start-bias", "biases start at zero", "zero", "uniform"), np.zeros_like(plain)
    cause = _started("arrays folded in from 1, not 0", f"from the key of array {i + 1}", f"from the key of array {i}")
    yield cause, draw(jax.random.fold_in(key, i + 1), parameter.shape, bound)
    cause = _started("key reused: every array drawn from the same key", "from one key", "from a key for each array")
    yield cause, draw(key, parameter.shape, bound)
    root = jaxvae.root_key(case.spec.training.seed)
    cause = _started(ROOT, "from the root key", "from the key of init")
    yield cause, draw(jax.random.fold_in(root, i), parameter.shape, bound)
    normal = np.asarray(jax.random.normal(mine, parameter.shape, dtype))
    uniform = f"uniforms up to {bound:.6g}"
    yield _started("weights drawn from a normal", "normals", uniform), normal * np.array(bound, dtype)
    if plain.ndim == 2:
        fans = {"fan-out": parameter.shape[0], "the mean of fan-in and fan-out": sum(parameter.shape) / 2}
        for fan, size in fans.items():
            found = 1 / math.sqrt(size)
            cause = _started(f"weights scaled by {fan}, not fan-in", f"uniforms up to {found:.6g}", uniform)
            yield cause, draw(mine, parameter.shape, found)
    found = bound * math.sqrt(6)
    cause = _started("weights scaled as He's: sqrt(6 / fan-in)", f"uniforms up to {found:.6g}", uniform)
    yield cause, draw(mine, parameter.shape, found)
    yield NARROW, plain.astype(np.float32).astype(dtype)


def pixels(case: Case, name: str) -> Causes:
    if name == "prepared":
        shown = case.data.train[:100]
        yield None, prepared(case.spec, shown, np.arange(len(shown)), "train", stream(case.spec, "noise", 3))
        return
    images = pictured(case)[name]
    flat, dtype = images.reshape(len(images), -1).astype(case.dtype), np.dtype(case.dtype).type
    yield None, flat / dtype(255)
    yield _scaled("pixels times 1/255, not over 255", "x * (1 / 255)"), flat * (dtype(1) / dtype(255))
    yield OVER_256, flat / dtype(256)
    yield _scaled("pixels not scaled", "x"), flat
    yield named("binarization", "pixels binarised", "0 or 1", "shares of 255"), (flat > 127).astype(dtype)
    yield SIGNED, flat / dtype(255) * 2 - 1
    for axes, order in (((0, 3, 1, 2), "channel, height, width"), ((0, 2, 1, 3), "width, height, channel")):
        moved = images.transpose(axes).reshape(len(images), -1).astype(case.dtype)
        plain = "height, width, channel"
        yield named("flatten-order", f"pixels flattened in {order} order", order, plain), moved / dtype(255)
    yield NARROW, (flat.astype(np.float32) / np.float32(255)).astype(case.dtype)
