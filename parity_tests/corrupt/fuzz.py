"""Mutate intact files at random, and check that each is rejected by a sentence or read as it was written.

A mutation depends only on its seed.
"""

import contextlib
import json
import re
import resource
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from jaxvae.shared.errors import InputError
from parity_tests.corrupt import transforms
from parity_tests.support.time_limit import time_limit

Read = Callable[[Path], str]
"""Reads the file and returns SAME or OTHER, compared bit by bit. Raises InputError if it rejects the file."""
Mutate = Callable[[Random, bytearray], None]

_JSON = (None, True, False, 0, 1, -1, 2, 2.0, 7, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, "", "0", "F32", "NaN", [], {})
LONGEST, LARGEST = 5, 2**30  # seconds to read a file, and bytes
_LATE = "takes more than"  # of an error that a reader may take for the file's
_TEXTS = (b"null", b"NaN", b"1e999", b"-1", b"0", b'"', b"[", b"}", b"\\ud800", b"\xff", b"\0", b"9" * 30, b",", b":")


def bit(random: Random, content: bytearray) -> None:
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def byte(random: Random, content: bytearray) -> None:
    content[random.randrange(len(content))] = random.randrange(256)


def several_bits(random: Random, content: bytearray) -> None:
    for _ in range(random.randint(2, 20)):
        bit(random, content)


def block(random: Random, content: bytearray) -> tuple[int, int]:
    start = random.randrange(len(content))
    return start, min(len(content), start + int(2 ** random.uniform(0, 10)))


def filled(random: Random, content: bytearray) -> None:
    start, end = block(random, content)
    content[start:end] = bytes([random.choice((0, 255, 32, random.randrange(256)))]) * (end - start)


def noise(random: Random, content: bytearray) -> None:
    start, end = block(random, content)
    content[start:end] = random.randbytes(end - start)


def deleted(random: Random, content: bytearray) -> None:
    start, end = block(random, content)
    del content[start:end]


def repeated(random: Random, content: bytearray) -> None:
    start, end = block(random, content)
    content[end:end] = content[start:end]


def moved(random: Random, content: bytearray) -> None:
    start, end = block(random, content)
    taken = bytes(content[start:end])
    del content[start:end]
    place = random.randrange(len(content) + 1)
    content[place:place] = taken


def swapped(random: Random, content: bytearray) -> None:
    """Exchange two blocks of the same length."""
    (start, end), other = block(random, content), random.randrange(len(content))
    length = min(end - start, len(content) - other, abs(other - start) or 1)
    one, two = bytes(content[start : start + length]), bytes(content[other : other + length])
    content[start : start + length], content[other : other + length] = two, one


def inserted(random: Random, content: bytearray) -> None:
    place = random.randrange(len(content) + 1)
    content[place:place] = random.randbytes(random.randint(1, 40))


def cut(random: Random, content: bytearray) -> None:
    del content[random.randrange(len(content)) :]


def text(random: Random, content: bytearray) -> None:
    """Replace a few bytes by a word of JSON."""
    place = random.randrange(len(content))
    content[place : place + random.randint(0, 4)] = random.choice(_TEXTS)


def number(random: Random, content: bytearray) -> None:
    """Replace a number in the text by another."""
    matches = list(re.finditer(rb"\d+", bytes(content[:8192])))
    if matches:
        one = random.choice(matches)
        content[one.start() : one.end()] = str(random.choice((0, 1, 2, 9, int(one[0][:18]) + 1, 2**31, 2**64))).encode()


PLAIN: tuple[Mutate, ...] = (
    bit, byte, several_bits, filled, noise, deleted, repeated, moved, swapped, inserted, cut, text, number
)  # fmt: skip


def fields(random: Random, value: Any) -> None:
    """Change, remove, add or exchange one field somewhere in a JSON value."""
    places = [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    for node, key in places:  # grows as it goes
        inner = node[key]
        if isinstance(inner, dict | list):
            places += [(inner, k) for k in (inner if isinstance(inner, dict) else range(len(inner)))]
    (node, key), (other, theirs) = random.choice(places), random.choice(places)
    match random.randrange(5):
        case 0:
            node[key] = random.choice(_JSON)
        case 1:
            del node[key]
        case 2:
            node[key], other[theirs] = other[theirs], node[key]
        case 3 if isinstance(node, dict):
            node[random.choice((f"{key} ", "more", str(theirs), "\x1b[31m", "n" * 300))] = node[key]
        case _:
            old = node[key]
            node[key] = old + random.choice((1, -1, 8)) if type(old) is int else [old]


def header(random: Random, content: bytearray) -> None:
    """Change a field of a weight file's header."""
    header, tensors = transforms.split(bytes(content))
    fields(random, header)
    content[:] = transforms.joined(header, tensors)


def metadata_field(random: Random, content: bytearray) -> None:
    """Change a field of a weight file's metadata, which hold the digests."""
    header, tensors = transforms.split(bytes(content))
    about = transforms.about(bytes(content))
    fields(random, about)
    header["__metadata__"]["jaxvae"] = json.dumps(about)
    content[:] = transforms.joined(header, tensors)


def resealed(random: Random, content: bytearray) -> None:
    """Change a field of the metadata and recompute their digest."""
    header, tensors = transforms.split(bytes(content))
    about = transforms.about(bytes(content))
    fields(random, about)
    header["__metadata__"]["jaxvae"] = json.dumps(transforms.sealed(about))
    content[:] = transforms.joined(header, tensors)


def numbers(random: Random, content: bytearray) -> None:
    """Change a byte of the tensors."""
    length = struct.unpack("<Q", content[:8])[0]
    place = random.randrange(8 + length, len(content))
    content[place] ^= random.randint(1, 255)


IN_WEIGHTS: tuple[Mutate, ...] = (*PLAIN, header, metadata_field, resealed, numbers)


def json_field(random: Random, content: bytearray) -> None:
    value = json.loads(content)
    fields(random, value)
    content[:] = json.dumps(value).encode()


IN_JSON: tuple[Mutate, ...] = (*PLAIN, json_field, json_field, json_field)


SAME, OTHER = "the same", "another, as whole"


class Target(NamedTuple):
    """An intact file, its mutations and its reader."""

    whole: bytes
    mutations: tuple[Mutate, ...]
    read: Read
    others: bool | Mutate = False
    """Whether OTHER is accepted, since the file has no digest; or the mutation after which it is."""


class FuzzResult(NamedTuple):
    """The outcomes of many mutations."""

    outcomes: Counter[tuple[str, str]]
    """Counts by mutation and outcome: SAME, OTHER or the beginning of the message."""
    wrong: list[str]
    """The outcomes that are errors of the reader, with the seed that reproduces each: an exception that is no
    InputError, a message that is not one printable line with the file's name, more than LONGEST seconds or LARGEST
    bytes, and a changed file that is read as if it were whole."""


def mutated(target: Target, seed: int) -> tuple[list[str], bytes]:
    """Return the names of this seed's one to three mutations, and the mutated file."""
    random, content, names = Random(seed), bytearray(target.whole), []
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        mutate = random.choice(target.mutations)
        # What is drawn may be impossible, and a changed file have no structure.
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            mutate(random, content)
            names.append(mutate.__name__)
    return names, bytes(content)


def fuzz(target: Target, path: Path, seeds: Iterable[int]) -> FuzzResult:
    """Write the mutation of each seed to the path in turn, and read it."""
    result = FuzzResult(Counter(), [])
    for seed in seeds:
        names, content = mutated(target, seed)
        name = names[0] if len(names) == 1 else "several in a row"
        path.write_bytes(content)
        before = _memory()
        try:
            with time_limit(LONGEST, f"{_LATE} {LONGEST} s"):
                outcome = target.read(path)
            good = outcome == SAME or target.others is True or getattr(target.others, "__name__", "") in names
        except InputError as error:
            message = str(error)
            good = (
                message.isprintable() and str(path.parent) in message and len(message) < 2000 and _LATE not in message
            )
            outcome = _beginning(message, path) if good else message
        except Exception as error:  # whatever it is, it should have been an InputError
            outcome, good = f"{type(error).__name__}: {error}", False
        if good and _memory() - before > LARGEST:
            outcome, good = f"took {(_memory() - before) / 2**20:,.0f} MiB", False
        if not good:
            result.wrong.append(f"seed {seed}, {' and '.join(names)}: {outcome}")
        result.outcomes[name, outcome] += 1
    return result


def _memory() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _beginning(message: str, path: Path) -> str:
    """Return the part of a message that all messages of its kind share."""
    message = message.replace(str(path), "FILE").replace(str(path.parent), "FOLDER")
    ends = r"; |, found| should | must be |: tensor | unknown | the field | doesn't call| that its"
    message = re.split(ends, message)[0]
    return " ".join(re.sub(r"'[^']*'|tensor [^ ]+|\d[\d,.]*", "..", message).split())[:70]
