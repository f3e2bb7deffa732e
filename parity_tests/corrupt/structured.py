"""Mutations that know a file's structure: what they change is well formed around it, with its lengths and checksums."""

import ast
import io
import json
import pickletools
import struct
import warnings
import zipfile
import zlib
from random import Random
from typing import Any

import msgpack

from parity_tests.corrupt import transforms
from parity_tests.corrupt.fuzz import PLAIN, Mutate, fields

_COUNTS = (0, 1, 2, 3, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_DESCRIPTIONS = "|u1", "|i1", "<f4", ">f8", "<U2", "|O", "|b1", "<c16", "|V9", "<M8[s]", ""
_SHAPES = [], [-1], [0], [2**62, 4], [2**64 - 1], [1.5], None, "a"  # of msgpack's arrays
_TYPES = b"float16", b"object", b"O", b"complex64", b"<U4", b"\xff", b"", None, 7, b"int64"
_OPCODES = (  # integers, None, a list, a dict, a tuple, a boolean, a text, functions, NaN
    *(
        b"K\x00",
        b"K\xff",
        b"M\xff\xff",
        b"J\xff\xff\xff\xff",
        b"J\xff\xff\xff\x7f",
        b"\x8a\x09" + b"\xff" * 8 + b"\x7f",
    ),
    *(b"N", b"]", b"}", b")", b"\x88", b"X\x01\0\0\0a", b"cmath\nsqrt\n", b"ctorch\nload\n", b"G\x7f\xf8" + b"\0" * 6),
)
_NPY_START = 10  # bytes of an .npy file before its header: magic, version and the header's length
_PNG_START = 8  # bytes of a PNG's signature


def record(random: Random, content: bytearray) -> None:
    """Change a field of one line of JSON."""
    lines = bytes(content).splitlines()
    place = random.randrange(len(lines))
    value = json.loads(lines[place])
    fields(random, value)
    lines[place] = json.dumps(value).encode()
    content[:] = b"\n".join(lines) + b"\n"


def lines(random: Random, content: bytearray) -> None:
    """Remove, repeat or move whole lines."""
    content[:] = b"".join(_items(random, bytes(content).splitlines(keepends=True)))


def array_header(random: Random, content: bytearray) -> None:
    """Change a field of an .npy file's header, and the header's length with it."""
    end = _NPY_START + int.from_bytes(content[8:_NPY_START], "little")
    header = ast.literal_eval(bytes(content[_NPY_START:end]).decode())
    match random.randrange(4):
        case 0:
            header["shape"] = tuple(_items(random, list(header["shape"])))
        case 1:
            shape = list(header["shape"])
            shape[random.randrange(len(shape))] = random.choice((*_COUNTS, 2**62, 2**64, -1, 1.5, None, True))
            header["shape"] = tuple(shape)
        case 2:
            header["descr"] = random.choice(_DESCRIPTIONS)
        case _:
            fields(random, header)
    text = repr(header).encode() + b"\n"
    content[:end] = bytes(content[:8]) + struct.pack("<H", len(text)) + text


def chunks(random: Random, content: bytearray) -> None:
    """Change, remove, repeat or move chunks of a PNG; their checksums are right."""
    found, place = [], _PNG_START
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        found.append((bytes(content[place + 4 : place + 8]), bytes(content[place + 8 : place + 8 + length])))
        place += 12 + length
    i = random.randrange(len(found))
    kind, data = found[i]
    match random.randrange(4):
        case 0:
            found = _items(random, found)
        case 1:  # the size, the depth, the colours, the packing
            header = list(struct.unpack(">IIBBBBB", found[0][1]))
            at = random.randrange(len(header))
            header[at] = random.choice(_COUNTS) if at < 2 else random.randrange(256)
            found[0] = (found[0][0], struct.pack(">IIBBBBB", *header))
        case 2:  # the pixels
            pixels = bytearray(zlib.decompress(b"".join(data for kind, data in found if kind == b"IDAT")))
            random.choice(PLAIN)(random, pixels)
            found = [(k, zlib.compress(pixels) if k == b"IDAT" else d) for k, d in found]
        case _:
            kinds = (kind, b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"gAMA", b"eXIf", b"xxXX", b"IEND")
            found.insert(i, (random.choice(kinds), random.choice((b"", data, random.randbytes(20), b"a\0\0" + data))))
    content[_PNG_START:] = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in found
    )


def tensors_header(random: Random, content: bytearray) -> None:
    """Change a field of a safetensors file's header, and the header's length with it."""
    header, tensors = transforms.split(bytes(content))
    fields(random, header)
    content[:] = transforms.joined(header, tensors)


def tree(random: Random, content: bytearray) -> None:
    """Change, remove, add or exchange a field of msgpack's nested values, or a part of one of its arrays."""
    value = msgpack.unpackb(bytes(content), raw=False)
    if random.random() < 0.5:
        fields(random, value)
    else:
        _one_array(random, value)
    content[:] = msgpack.packb(value) or b""


def members(*inner: Mutate) -> Mutate:
    """Make a mutation of a zip file's members: their order, names, packing or content, with right checksums.

    Args:
        inner: Mutations of a member's content.
    """

    def member(random: Random, content: bytearray) -> None:
        with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
            found = [(name, archive.read(name)) for name in archive.namelist()]
        i = random.randrange(len(found))
        name, data = found[i]
        match random.randrange(6):
            case 0:
                found = _items(random, found)
            case 1:
                names = (name.upper(), "../" + name, "/" + name, f"{name}/", "a.npy", "", "é", name + "\0x", name * 20)
                others = ("archive/constants.pkl", "archive/archive_format", "archive/code/a.py", "config.json")
                found[i] = (random.choice((*names, *others)), data)
            case _:
                changed = bytearray(data)
                random.choice(inner)(random, changed)
                found[i] = (name, bytes(changed))
        file = io.BytesIO()
        packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        # A name that is there twice brings a warning.
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", packing) as archive:
            for name, data in found:
                archive.writestr(name, data)
        content[:] = file.getvalue()

    return member


def opcodes(random: Random, content: bytearray) -> None:
    """Change, remove, repeat or move a pickle's operations, or their arguments."""
    starts = [place for _, _, place in pickletools.genops(bytes(content)) if place is not None]
    whole = bytes(content)
    found = [whole[a:b] for a, b in zip(starts, [*starts[1:], len(whole)], strict=True)]
    if random.random() < 0.5:
        content[:] = b"".join(_items(random, found))
        return
    i = random.randrange(len(found))
    found[i] = random.choice(_OPCODES) if random.random() < 0.8 else found[i][:1] + random.randbytes(len(found[i]) - 1)
    content[:] = b"".join(found)


def _items(random: Random, items: list[Any]) -> list[Any]:
    """The items without one, with one twice or with two exchanged."""
    i, j = random.randrange(len(items)), random.randrange(len(items))
    match random.randrange(3):
        case 0:
            return items[:i] + items[i + 1 :]
        case 1:
            return [*items[:j], items[i], *items[j:]]
        case _:
            items[i], items[j] = items[j], items[i]
            return items


def _one_array(random: Random, value: dict[str, Any]) -> None:
    """Change the shape, the type or the numbers of one of Flax's arrays."""
    places: list[tuple[dict[str, Any], str]] = []
    nodes = [value]
    for node in nodes:  # grows as it goes
        nodes += [inner for inner in node.values() if isinstance(inner, dict)]
        places += [(node, key) for key, inner in node.items() if isinstance(inner, msgpack.ExtType)]
    node, key = random.choice(places)
    parts = list(msgpack.unpackb(node[key].data, raw=True))
    match random.randrange(5):
        case 0:
            parts[0] = random.choice((*_SHAPES, parts[0][::-1], [*parts[0], 1]))
        case 1:
            parts[1] = random.choice(_TYPES)
        case 2:
            parts[2] = random.choice((b"", parts[2][:-1], parts[2] * 2, None, 5, [1, 2]))
        case 3:
            parts = _items(random, parts)
        case _:
            node[key] = msgpack.ExtType(random.randrange(128), node[key].data)
            return
    node[key] = msgpack.ExtType(node[key].code, msgpack.packb(parts))


def sizes(random: Random, content: bytearray) -> None:
    """Change the type or a size in an IDX file's header."""
    place = 4 * random.randrange(1 + content[3])
    content[place : place + 4] = struct.pack(">I", random.choice((*_COUNTS, 0x0800, 0x0801, 0x0803, 0x0D03)))


def with_plain(*mutations: Mutate) -> tuple[Mutate, ...]:
    """Return the mutations of any file, and these as often as all of those."""
    return (*PLAIN, *(mutations * (len(PLAIN) // len(mutations))))


LINES = with_plain(record, record, lines)
MSGPACK = with_plain(tree)
IDX = with_plain(sizes)
PICKLE = with_plain(members(opcodes, opcodes, *PLAIN))
