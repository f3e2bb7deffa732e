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
from parity_tests.harness.vae.batches import STREAMS, prepared, stream
from parity_tests.harness.vae.levels import Arrays, Case, pictured

Causes = Iterator[tuple[str | None, Any]]


def words(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def keys(case: Case, name: str, answers: Arrays) -> Causes:
    """Compute hypotheses from all keys of the backend, since a wrong key may be the correct one of another name."""
    root = jaxvae.root_key(case.spec.training.seed)
    if name.startswith("root"):
        seed = case.spec.training.seed if name == "root" else 2**63 + 12345
        yield None, np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
        yield "upper half of the seed dropped", np.array([0, seed & 0xFFFFFFFF], np.uint32)
        yield "words of the seed swapped", np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    elif name in STREAMS:
        yield None, words(stream(case.spec, name))
        ahead = {s: words(jax.random.fold_in(root, i + 1)) for i, s in enumerate(STREAMS)}
        if all(np.array_equal(answers[s], ahead[s]) for s in STREAMS):
            yield "streams folded in from 1, not 0", ahead[name]
        for other in STREAMS:
            yield f"streams exchanged: {name} has the key of {other}", words(stream(case.spec, other))
        yield "stream not folded in: the root key used as it is", words(root)
    elif name.startswith("static"):
        yield None, words(stream(case.spec, "binarization", ("train", "test", "validation").index(name.split()[1])))
    elif ", " in name:
        label, t = name.split(", ")
        yield None, words(stream(case.spec, label, int(t)))
        yield "key reused: the step is not folded in", words(stream(case.spec, label))
        yield "wrong fold-in: the step is counted from 1", words(stream(case.spec, label, int(t) + 1))
        yield "wrong fold-in: folded into the root key, not the stream", words(jax.random.fold_in(root, int(t)))
    elif name == "bits":
        yield None, np.asarray(jax.random.bits(root, (1000,), "uint32"))
        with jax.threefry_partitionable(False):
            older = np.asarray(jax.random.bits(root, (1000,), "uint32"))
        yield "bits drawn by threefry's older, non-partitionable form", older
    elif name == "uniforms":
        yield None, np.asarray(jax.random.uniform(root, (1000,), case.dtype))
        bits = np.asarray(jax.random.bits(root, (1000,), "uint32"))
        yield "uniforms of 24 bits, not 23", ((bits >> 8) * 2.0**-24).astype(case.dtype)
        single = np.asarray(jax.random.uniform(root, (1000,), "float32"))
        yield "float32 slipped into float64", single.astype(case.dtype)
    elif name == "shuffled":
        places = len(case.data.train)
        yield None, np.asarray(jax.random.permutation(root, places), np.int64)
        yield "order not shuffled", np.arange(places)
        bits = np.asarray(jax.random.bits(jax.random.split(root)[1], (places,)))
        yield "order sorted once where its length calls for twice", np.argsort(bits, kind="stable")
        uniform = np.asarray(jax.random.uniform(root, (places,)))
        yield "order sorted by uniforms of the key itself", np.argsort(uniform, kind="stable")
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
        "torch's own erfinv, rather than XLA's polynomials",
        (torch.erfinv(torch.tensor(unit)).numpy() * np.array(math.sqrt(2), dtype)),
    )
    yield "another inverse error function than XLA's", (special.erfinv(unit) * math.sqrt(2)).astype(dtype)
    in_torch = torchvae.random.normal(torchvae.root_key(case.spec.training.seed), (size,)).numpy()
    for single in (jax.random.normal(root, (size,), "float32"), in_torch):  # they differ by an ulp
        yield "float32 slipped into float64", np.asarray(single).astype(dtype)
    yield "uniforms in place of normals", unit


def initial(case: Case, name: str) -> Causes:
    table = layout.table(case.spec.model)
    i = [parameter.name for parameter in table].index(name)
    parameter, key, dtype = table[i], stream(case.spec, "init"), case.dtype

    def draw(key: jax.Array, shape: tuple[int, ...], bound: float) -> np.ndarray:
        return (2 * np.asarray(jax.random.uniform(key, shape, dtype)) - 1) * np.array(bound, dtype)

    bound, mine = parameter.bound, jax.random.fold_in(key, i)
    plain = draw(mine, parameter.shape, bound)
    yield None, plain
    yield "kernel drawn in the other framework's layout", draw(mine, parameter.shape[::-1], bound).T
    yield "kernel transposed", plain.T
    yield "biases start at zero", np.zeros_like(plain)
    yield "arrays folded in from 1, not 0", draw(jax.random.fold_in(key, i + 1), parameter.shape, bound)
    yield "key reused: every array drawn from the same key", draw(key, parameter.shape, bound)
    root = jaxvae.root_key(case.spec.training.seed)
    yield "stream not folded in: the root key used as it is", draw(jax.random.fold_in(root, i), parameter.shape, bound)
    normal = np.asarray(jax.random.normal(mine, parameter.shape, dtype))
    yield "weights drawn from a normal", normal * np.array(bound, dtype)
    if plain.ndim == 2:
        fans = {"fan-out": parameter.shape[0], "the mean of fan-in and fan-out": sum(parameter.shape) / 2}
        for fan, size in fans.items():
            yield f"weights scaled by {fan}, not fan-in", draw(mine, parameter.shape, 1 / math.sqrt(size))
    yield "weights scaled as He's: sqrt(6 / fan-in)", draw(mine, parameter.shape, bound * math.sqrt(6))
    yield "float32 slipped into float64", plain.astype(np.float32).astype(dtype)


def pixels(case: Case, name: str) -> Causes:
    if name == "prepared":
        shown = case.data.train[:100]
        yield None, prepared(case.spec, shown, np.arange(len(shown)), "train", stream(case.spec, "noise", 3))
        return
    images = pictured(case)[name]
    flat, dtype = images.reshape(len(images), -1).astype(case.dtype), np.dtype(case.dtype).type
    yield None, flat / dtype(255)
    yield "pixels times 1/255, not over 255", flat * (dtype(1) / dtype(255))
    yield "pixels over 256", flat / dtype(256)
    yield "pixels not scaled", flat
    yield "pixels binarised", (flat > 127).astype(dtype)
    yield "pixels in [-1, 1], not [0, 1]", flat / dtype(255) * 2 - 1
    for axes, order in (((0, 3, 1, 2), "channel, height, width"), ((0, 2, 1, 3), "width, height, channel")):
        moved = images.transpose(axes).reshape(len(images), -1).astype(case.dtype)
        yield f"pixels flattened in {order} order", moved / dtype(255)
    yield "float32 slipped into float64", (flat.astype(np.float32) / np.float32(255)).astype(case.dtype)
