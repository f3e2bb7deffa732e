"""Read a compiled program: its loops, and what each iteration launches, moves and computes.

XLA prints a compiled program as text (HLO). Each line of a computation is one instruction; on a GPU each that is not
free is a kernel, a copy or a call of a library. A fusion is one kernel, and names the computation that it runs.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*\) -> .*)? \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_OPCODE = re.compile(r"^\s*([\w\-]+)\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(calls|body|condition|to_apply|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}

FREE = frozenset(
    [
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
        *("opt-barrier", "add-dependency", "domain", "call", "while", "conditional"),
    ]
)
"""Opcodes that launch nothing of their own; what they call is counted."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_COPIES = ("copy", "copy-start", "slice-start", "transpose-start")
_ENDS = ("-done", "-update")
_PICKS = frozenset({"dynamic-slice", "gather", "slice"})
_VIEWS = frozenset({"bitcast", "reshape", "copy", "convert"})
_SILENT = FREE | {"broadcast", "iota", "reshape", "slice", "concatenate", "copy", "transpose", "dynamic-slice", "pad"}


class Shape(NamedTuple):
    """One array of an instruction."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its number of entries."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        found = re.fullmatch(r"[a-z]+(\d+)\w*", self.dtype)
        bits = _BITS.get(self.dtype, int(found[1]) if found else 0)
        return -(-self.size * bits // 8)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """What it gives; several of a tuple."""
    operands: tuple[str, ...]
    text: str
    """The whole line."""

    def calls(self, *kinds: str) -> list[str]:
        """Return the names of computations that it calls."""
        found = [name for kind, name in _CALLED.findall(self.text) if not kinds or kind in kinds]
        if not kinds and (branches := _BRANCHES.search(self.text)):
            found += [name.strip().lstrip("%") for name in branches[1].split(",")]
        return found

    @property
    def trips(self) -> int | None:
        """Iterations of a loop; None where only the device knows them."""
        found = _TRIPS.search(self.text)
        return int(found[1]) if found else None


class Product(NamedTuple):
    """A product of matrices, or a convolution."""

    kind: str
    """`dot` or `convolution`, or the library's function."""
    shape: str
    """`[rows, columns] over K`, with the number of products of a batch in front."""
    dtype: str
    precision: str
    """As it was asked for: `default`, `high`, `highest`, or the name of an algorithm; `library` where a library has
    its own setting."""
    operations: int
    """Multiplications and additions."""


class Collective(NamedTuple):
    """A communication between devices."""

    kind: str
    bytes: int


@dataclass
class Work:
    """What one run of a computation takes on one device."""

    kernels: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, bytes read and written, and operations of each launch."""
    copies: list[int] = field(default_factory=list)
    """Bytes of each copy."""
    products: list[Product] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    waits: int = 0
    """Times that the host reads a loop's condition, at least: once for each iteration of a loop whose bound is not
    known, of which one iteration is counted."""

    @property
    def bytes(self) -> int:
        """Bytes that kernels and copies read and write."""
        return sum(moved for _, moved, _ in self.kernels) + 2 * sum(self.copies)

    @property
    def operations(self) -> int:
        """Operations on numbers."""
        return sum(operations for _, _, operations in self.kernels)

    def add(self, other: "Work", times: int = 1) -> None:
        """Add what another computation takes."""
        self.kernels += other.kernels * times
        self.copies += other.copies * times
        self.products += other.products * times
        self.collectives += other.collectives * times
        self.waits += other.waits * times


class Loop(NamedTuple):
    """A loop of the program."""

    name: str
    depth: int
    """1 for a loop that is in no other."""
    trips: int | None
    body: str


class Program:
    """A compiled program, by its computations."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        lines: list[Instruction] = []
        for line in text.splitlines():
            if (head := _COMPUTATION.match(line)) is not None:
                lines = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif (found := _INSTRUCTION.match(line)) is not None:
                lines.append(_instruction(found[1], found[2]))
        if not self.entry:
            raise ValueError("the text has no entry computation")
        self._named: dict[str, dict[str, Instruction]] = {}

    def loops(self, computation: str | None = None, depth: int = 1) -> Iterator[Loop]:
        """Yield the loops that a computation runs, outer ones first."""
        for one in self.computations[computation or self.entry]:
            if one.opcode == "while":
                (body,) = one.calls("body")
                yield Loop(one.name, depth, one.trips, body)
                yield from self.loops(body, depth + 1)
            elif one.opcode in ("call", "conditional", "async-start"):
                for name in one.calls():
                    yield from self.loops(name, depth)

    def work(self, computation: str | None = None) -> Work:
        """Count what one run of a computation takes, with the loops in it."""
        total, name = Work(), computation or self.entry
        for one in self.computations[name]:
            kind = one.opcode.removesuffix("-start")
            if one.opcode == "while":
                total.add(self.work(*one.calls("body")), one.trips or 1)
                total.waits += one.trips is None
            elif one.opcode == "conditional":
                total.add(max((self.work(called) for called in one.calls()), key=lambda work: len(work.kernels)))
            elif one.opcode == "call" or kind == "async":
                for called in one.calls():
                    total.add(self.work(called))
            elif one.opcode in FREE or one.opcode.endswith(_ENDS):
                continue
            elif kind in COLLECTIVES:
                total.collectives.append(Collective(kind, self._given(name, one)))
            elif one.opcode in _COPIES:
                total.copies.append(max((shape.bytes for shape in one.shapes), default=0))
            else:
                products = list(self._products(name, one))
                operations = sum(product.operations for product in products) + self._elementwise(one)
                total.kernels.append((one.name, self._moved(name, one), operations))
                total.products += products
        return total

    def _instructions(self, computation: str) -> Mapping[str, Instruction]:
        if computation not in self._named:
            self._named[computation] = {one.name: one for one in self.computations[computation]}
        return self._named[computation]

    def _given(self, computation: str, one: Instruction) -> int:
        """Bytes of the operands."""
        named = self._instructions(computation)
        return sum(shape.bytes for name in one.operands if name in named for shape in named[name].shapes)

    def _moved(self, computation: str, one: Instruction) -> int:
        """Bytes that a kernel reads and writes; of an array from which a fusion takes a part, that part."""
        named = self._instructions(computation)
        written = sum(shape.bytes for shape in one.shapes)
        inside = [self.computations[name] for name in one.calls("calls")] if one.opcode == "fusion" else []
        if not inside:
            return written + self._given(computation, one)
        read = 0
        parameters = {int(i.text.split("parameter(")[1].split(")")[0]): i for i in inside[0] if i.opcode == "parameter"}
        for place, operand in enumerate(one.operands):
            whole = sum(shape.bytes for shape in named[operand].shapes) if operand in named else 0
            part = _part(inside[0], parameters[place].name) if place in parameters else None
            read += whole if part is None else min(part, whole)
        for update in (i for i in inside[0] if i.opcode == "dynamic-update-slice"):
            # Written in place: the array itself is neither read nor written, its part is.
            sizes = {i.name: sum(shape.bytes for shape in i.shapes) for i in inside[0]}
            array, piece = update.operands[0], sizes[update.operands[1]]
            written += min(0, piece - sizes[array])
        return read + max(written, 0)

    def _elementwise(self, one: Instruction) -> int:
        """Operations that are no products: one for each entry that an instruction gives."""
        names = one.calls("calls")
        if one.opcode != "fusion" or not names:
            return 0 if one.opcode in _SILENT | {"custom-call", "dot", "convolution"} else one.shapes[0].size
        inner = (i for name in names for i in self.computations[name])
        return sum(0 if i.opcode in ("dot", "convolution") or not i.shapes else self._elementwise(i) for i in inner)

    def _products(self, computation: str, one: Instruction) -> Iterator[Product]:
        """The products in a kernel."""
        if one.opcode == "fusion":
            for name in one.calls("calls"):
                for inner in self.computations[name]:
                    yield from self._products(name, inner)
        elif one.opcode in ("dot", "convolution"):
            yield _product(one, self._instructions(computation))
        elif one.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]+)"', one.text)
            if target and re.search("gemm|cublas|conv|matmul", target[1], re.IGNORECASE):
                yield _library_product(target[1], one, self._instructions(computation))


def _instruction(name: str, rest: str) -> Instruction:
    if rest.startswith("("):
        end = _closing(rest, 0)
        shapes, rest = rest[: end + 1], rest[end + 1 :]
    else:
        shapes, _, rest = rest.partition(" ")
    found = _OPCODE.match(rest)
    opcode = found[1] if found else ""
    begin = rest.find("(")
    arguments = rest[begin + 1 : _closing(rest, begin)] if begin >= 0 else ""
    given = tuple(
        Shape(dtype, _dims(dims)) for dtype, dims in _SHAPE.findall(re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shapes))
    )
    return Instruction(name, opcode, given, tuple(re.findall(r"%([\w.\-]+)", arguments)), rest)


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part.lstrip("<=")) for part in text.split(",") if part)


def _closing(text: str, begin: int) -> int:
    """The place of the bracket that closes the one at `begin`."""
    depth = 0
    for place in range(begin, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    return len(text)


def _part(inside: list[Instruction], parameter: str) -> int | None:
    """Bytes that a fusion takes of a parameter, None for all of it."""
    names, taken = {parameter}, 0
    for one in inside:
        if not names & set(one.operands):
            continue
        if one.opcode in _VIEWS:
            names.add(one.name)
        elif one.opcode in _PICKS and one.operands[0] in names:
            taken += sum(shape.bytes for shape in one.shapes)
        elif one.opcode == "dynamic-update-slice" and one.operands[0] in names:
            continue
        else:
            return None
    return taken


def _listed(text: str, name: str) -> tuple[int, ...]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", text)
    return _dims(found[1]) if found else ()


def _product(one: Instruction, named: Mapping[str, Instruction]) -> Product:
    out = one.shapes[0]
    operands = [named[name].shapes[0] for name in one.operands]
    if one.opcode == "dot":
        inner = math.prod(operands[0].dims[i] for i in _listed(one.text, "lhs_contracting_dims"))
        batch = math.prod(operands[0].dims[i] for i in _listed(one.text, "lhs_batch_dims"))
        columns = operands[1].size // max(inner * batch, 1)
        shape = f"{f'{batch} x ' * (batch > 1)}[{out.size // max(columns * batch, 1)}, {columns}] over {inner}"
        operations = 2 * out.size * inner
    else:
        operations, shape = _convolved(one, operands[1], out) if len(operands) > 1 else (0, "convolution")
    algorithm = re.search(r"algorithm=(\w+)", one.text)
    return Product(one.opcode, shape, operands[0].dtype, algorithm[1] if algorithm else _asked(one), operations)


def _asked(one: Instruction) -> str:
    """The precision that a product's operands were asked for; XLA writes none for the default."""
    asked = re.search(r"operand_precision=\{(\w+),", one.text)
    return asked[1] if asked else "default"


def _convolved(one: Instruction, kernel: Shape, result: Shape) -> tuple[int, str]:
    """The operations of a convolution, or of its gradients, which are as many, and its shape in words."""
    labels = re.search(r"dim_labels=\w+_(\w+)->(\w+)", one.text)
    if labels is None:
        return 0, "convolution"
    features = kernel.dims[labels[1].index("o")]
    taps = kernel.size // features
    window = re.search(r"window=\{size=([\dx]+)", one.text)
    operations = 2 * result.size * taps
    if window is None:  # a TPU's product of matrices
        return operations, f"[{result.size // features}, {features}] over {taps}"
    return operations, f"{window[1]} to {features} features, {list(one.shapes[0].dims)}"


def _library_product(target: str, one: Instruction, named: Mapping[str, Instruction]) -> Product:
    operands = [named[name].shapes[0] for name in one.operands if name in named]
    out = one.shapes[0]
    kind = target.strip("_").replace("$", " ")
    if "dim_labels" in one.text and len(operands) > 1:
        kernel, result = operands[1], out
        if "BackwardInput" in target:
            result = operands[0]
        elif "BackwardFilter" in target:
            kernel, result = out, operands[1]
        operations, shape = _convolved(one, kernel, result)
        return Product(kind, shape, operands[0].dtype, _asked(one), operations)
    contracted = re.search(r'"lhs_contracting_dimensions":\["(\d+)"', one.text)
    inner = operands[0].dims[int(contracted[1])] if contracted and operands else 1
    columns = out.dims[-1] if out.dims else 1
    precision = re.search(r'"operand_precision":\["(\w+)"', one.text)
    shape = f"[{out.size // columns}, {columns}] over {inner}"
    return Product(
        kind, shape, operands[0].dtype, precision[1].lower() if precision else "library", 2 * out.size * inner
    )
