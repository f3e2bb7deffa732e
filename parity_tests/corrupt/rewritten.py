"""Mutations that write a whole, valid file of other content: tensors, types, shapes, colours.

Readers get past every length and checksum with it, to what they check last."""

import functools
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load as from_bytes

from jaxvae.shared.config.serialization import from_json
from jaxvae.shared.model import weight_file
from parity_tests.corrupt import transforms
from parity_tests.corrupt.fuzz import Mutate

_PNG = b"\x89PNG\r\n\x1a\n"
_ARRAYS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda a: a.astype(bool),
    lambda a: a.astype(np.float32) / 255,
    lambda a: a.astype(np.float64),
    lambda a: np.where(a == a.max(), np.nan, a.astype(np.float16)),
    lambda a: (a % 2).astype(np.uint8),
    lambda a: a * 0,
    lambda a: a.astype(np.int64),
    lambda a: a.astype(">i4") - 300,
    lambda a: a.astype(np.uint16) * 257,
    lambda a: a.astype("U4"),
    np.asfortranarray,
    lambda a: a[..., None],
    lambda a: a[:, None],
    lambda a: a[:0],
    lambda a: a.reshape(len(a), -1),
    lambda a: a.reshape(-1),
    lambda a: np.repeat(a, 3)[: 3 * 20 * 20].reshape(-1, 3, 20, 20),
    lambda a: a.T,
    lambda a: np.concatenate([a, a]),
)
_SIZES = {"F8_E4M3": 1, "U8": 1, "BOOL": 1, "F16": 2, "BF16": 2, "I16": 2, "F32": 4, "U32": 4, "F64": 8, "I64": 8}
_DRAWN = (
    *(("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG")),
    *(("I", "TIFF"), ("F", "TIFF"), ("RGBA", "TIFF"), ("CMYK", "TIFF"), ("I;16", "TIFF")),
    *(("P", "GIF"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("L", "PPM"), ("L", "BMP")),
)
_PATTERNS = "{i}", "{2i}", "{2i+1}", "{n}", "{2n}", "{", "}", "*", "**", ".*", " + ", "+", ".", "é", "{-1i}", "{x}", ""
_STATE = "run.", "optimizer."  # prefixes of a checkpoint's tensors that are not weights


def tensors(random: Random, content: bytearray) -> None:
    """Make a tensor of a weight file missing, unknown, misshapen, of another type or not finite, or a checkpoint's step
    another; with the right digests."""
    arrays, about = from_bytes(bytes(content)), transforms.about(bytes(content))
    if {name: weight_file.digest(array) for name, array in arrays.items()} != about["digests"]:
        return  # a changed number would get the right digest
    steps = [name for name in arrays if name.endswith("step")]
    name = random.choice(steps if steps and random.random() < 0.2 else list(arrays))
    array = arrays.pop(name)
    match random.randrange(7):
        case 0:
            pass
        case 1 if name.startswith(_STATE):
            arrays = {other: values for other, values in arrays.items() if not other.startswith(_STATE)}
        case 2:
            arrays[random.choice((f"{name}2", "run.more", "encoder.hidden.9.weight", "\0"))] = array
        case 3:
            arrays |= {name: array, random.choice(("more", "run.key", "optimizer.step")): np.zeros(3, array.dtype)}
        case 4:
            arrays[name] = random.choice((array[None], np.repeat(array.reshape(-1), 2)))
        case 5:
            arrays[name] = array.astype(random.choice(("f2", "f8", "i1", "u8")))
        case _ if name != "run.key":  # any is one
            arrays[name] = array + array.dtype.type(random.choice((1, -1)) if array.dtype.kind == "i" else np.nan)
    spec = from_json(about["spec"], "the file")
    content[:] = weight_file.pack(spec, arrays)


def array(random: Random, content: bytearray) -> None:
    """Store an .npy file's array in another type, shape, order or range."""
    changed = random.choice(_ARRAYS)(np.load(io.BytesIO(bytes(content)), allow_pickle=False))
    content[:] = transforms.npy(changed)


def archive(random: Random, content: bytearray) -> None:
    """Store an .npy file's array in an .npz."""
    array = np.load(io.BytesIO(bytes(content)), allow_pickle=False)
    file = io.BytesIO()
    np.savez(file, **{random.choice(("images", "train", "other")): array})
    content[:] = file.getvalue()


def entry(random: Random, content: bytearray) -> None:
    """Give a tensor of a safetensors file another type, in as many bytes, or another place; or no tensors at all."""
    header, numbers = transforms.split(bytes(content))
    about = {name: header.pop(name) for name in list(header) if name == "__metadata__"}
    one = header[random.choice(list(header))]
    start, end = one["data_offsets"]
    match random.randrange(4):
        case 0:
            one["dtype"] = random.choice(list(_SIZES))
            one["shape"] = [(end - start) // _SIZES[one["dtype"]]]
        case 1:
            by = random.choice((-8, 1, 8))
            one["data_offsets"] = [start + by, end + by]
        case 2:
            numbers, one["data_offsets"] = numbers + numbers[start:end], [len(numbers), len(numbers) + end - start]
        case _:
            header, numbers = random.choice((({}, b""), ([header], numbers)))
    content[:] = transforms.joined({**about, **header} if isinstance(header, dict) else header, numbers)


def drawn(random: Random, content: bytearray) -> None:
    """Store a picture in other colours, in this format or another, of the same size or another."""
    with Image.open(io.BytesIO(bytes(content))) as picture:
        grey = picture.convert("L")
    if random.random() < 0.2:
        grey = grey.resize(random.choice(((1, 1), (6, 8), (4, 6), (300, 200))))
    if random.random() < 0.1:
        content[:] = _colour_of_16_bits(random, *grey.size)
        return
    mode, kind = random.choice(_DRAWN)
    if mode in ("I", "I;16", "F"):
        numbers = np.asarray(grey).astype({"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode])
        changed = Image.fromarray(numbers * numbers.dtype.type(random.choice((1, 64, 257, 300 if mode == "I" else 2))))
    else:
        changed = (grey if mode in ("1", "L", "LA") else grey.convert("RGB")).convert(mode)
        if "A" in mode:
            changed.putalpha(random.randrange(256))
    file = io.BytesIO()
    see_through = {"transparency": random.randrange(256)} if mode == "P" and random.random() < 0.5 else {}
    changed.save(file, kind, **see_through)
    content[:] = file.getvalue()


def _colour_of_16_bits(random: Random, width: int, height: int) -> bytes:
    """A PNG of 16 bits a colour, which Pillow reads and doesn't write."""
    rows = b"".join(b"\0" + random.randbytes(6 * width) for _ in range(height))
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )


def torch_tensor(random: Random, content: bytearray) -> None:
    """Store a pickle's tensors in other types and layouts, or other things beside or instead of them."""
    import torch

    tree = torch.load(io.BytesIO(bytes(content)), weights_only=True)
    state = tree["state_dict"]
    name = random.choice(list(state))
    one = state[name]
    others: tuple[Callable[[], Any], ...] = (
        lambda: one.to(torch.complex64),
        lambda: one.to(torch.bfloat16),
        lambda: one.float().to(torch.float8_e4m3fn),
        lambda: one.float().to_sparse(),
        lambda: torch.nn.Parameter(one.float()),
        lambda: one.expand(2**20, *one.shape),
        lambda: one.t(),
        lambda: torch.nested.nested_tensor([one.float(), one.float()]),
        lambda: torch.quantize_per_tensor(one.float(), 0.1, 0, torch.qint8),
        lambda: [one, one],
        lambda: {"deeper": one, 3: one, ("a", 1): one},
        lambda: functools.reduce(lambda inner, _: {"a": inner}, range(120), one),
        lambda: None,
    )
    state[name] = random.choice(others)()
    tree = random.choice((*([tree] * 5), [tree], one, state, list(state.values()), {}, {"net": list(state.values())}))
    file = io.BytesIO()
    torch.save(tree, file)
    content[:] = file.getvalue()


def pattern(random: Random, content: bytearray) -> None:
    """Change a pattern of names in a table of names."""
    table = json.loads(content)
    rules = list(table["rules"].items())
    i, j = random.randrange(len(rules)), random.randrange(2)
    pair = list(rules[i])
    start = random.randrange(len(pair[j]) + 1)
    pair[j] = pair[j][:start] + random.choice(_PATTERNS) + pair[j][start + random.randrange(6) :]
    rules[i] = (pair[0], pair[1])
    table["rules"] = dict(rules)
    content[:] = json.dumps(table).encode()


def gzipped(*inner: Mutate) -> Mutate:
    """Make a mutation of what gzip has packed.

    Args:
        inner: Mutations of the content.
    """

    def unpacked(random: Random, content: bytearray) -> None:
        changed = bytearray(gzip.decompress(bytes(content)))
        random.choice(inner)(random, changed)
        content[:] = gzip.compress(changed * random.choice((1, 1, 1, 2, 100)), 1)

    return unpacked
