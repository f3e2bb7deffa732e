"""Files changed at random: the first of those that scripts/stress.py fuzz makes by the hundred thousand."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from jaxvae.shared.errors import InputError
from parity_tests.corrupt import fuzz as fuzzing
from parity_tests.corrupt import orbax, rewritten, structured
from parity_tests.corrupt.coverage import READERS, covered
from parity_tests.corrupt.fuzz import OTHER, SAME, Target, fuzz, mutated
from parity_tests.corrupt.readers import TARGETS, place

MANY = {"weights": 500, "checkpoint": 250, "config": 250, "listing": 50, "stored": 50}


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_changed_is_refused_or_read_as_it_was(tmp_path, name: str) -> None:
    number = MANY.get(name, 60)
    result = fuzz(TARGETS[name][1], place(tmp_path, name), range(number))
    assert result.wrong == []
    assert result.outcomes.total() == number
    assert sum(n for (_, end), n in result.outcomes.items() if end != SAME) > number / 5


def test_a_changed_file_that_is_read_is_reported(tmp_path) -> None:
    """A reader that believes everything is found out, and the number makes the same file again."""
    believer = TARGETS["weights"][1]._replace(read=lambda path: OTHER)
    result = fuzz(believer, tmp_path / "file", range(50))
    assert len(result.wrong) > 25
    seed = int(result.wrong[0].split()[1].rstrip(","))
    assert (tmp_path / "file").read_bytes() == mutated(believer, 49)[1]
    assert fuzz(believer, tmp_path / "file", [seed]).wrong == [result.wrong[0]]


def test_an_unexpected_exception_is_reported(tmp_path) -> None:
    def falls(path: object) -> str:
        raise KeyError("spec")

    result = fuzz(Target(b"12345", TARGETS["npy"][1].mutations, falls, True), tmp_path / "file", range(9))
    assert len(result.wrong) == 9
    assert "KeyError: 'spec'" in result.wrong[0]


def test_a_reader_that_takes_long_or_much_is_reported(tmp_path, monkeypatch) -> None:
    def waits(path: object) -> str:
        while True:
            pass

    monkeypatch.setattr(fuzzing, "LONGEST", 0.01)
    result = fuzz(Target(b"12345", TARGETS["npy"][1].mutations, waits, True), tmp_path / "file", [0])
    assert "TimeoutError: takes more than 0.01 s" in result.wrong[0]
    peaks = iter((0, 2**31, 2**31))
    monkeypatch.setattr(fuzzing, "_memory", lambda: next(peaks))
    result = fuzz(Target(b"12345", TARGETS["npy"][1].mutations, lambda path: OTHER, True), tmp_path / "file", [0])
    assert "took 2,048 MiB" in result.wrong[0]


STRUCTURED = {
    "weights": (rewritten.tensors, rewritten.entry),
    "checkpoint": (rewritten.tensors,),
    "metrics": (structured.record, structured.lines),
    "npy": (structured.array_header, rewritten.array),
    "npz": (structured.members(structured.array_header),),
    "png": (structured.chunks, rewritten.drawn),
    "tiff": (rewritten.drawn,),
    "idx": (structured.sizes,),
    "packed idx": (rewritten.gzipped(structured.sizes),),
    "safetensors": (structured.tensors_header, rewritten.entry),
    "msgpack": (structured.tree,),
    "pickle": (structured.members(structured.opcodes), rewritten.torch_tensor),
    "orbax": (orbax.leaf,),
    "orbax array": (orbax.array,),
    "orbax chunk": (orbax.numbers,),
    "cifar": (structured.opcodes,),
    "table": (rewritten.pattern,),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_a_changed_structure_is_still_one(tmp_path, name: str) -> None:
    """So that readers get further than to the first length or checksum: they say more than one thing."""
    target = TARGETS[name][1]._replace(mutations=STRUCTURED[name])
    result = fuzz(target, place(tmp_path, name), range(60))
    assert result.wrong == []
    assert len({end for _, end in result.outcomes}) >= 2


def test_the_lines_that_ran_and_those_that_did_not(tmp_path, monkeypatch) -> None:
    (tmp_path / "reads.py").write_text(
        "LIMIT = 3\n"
        "def read(n):\n"
        "    if n > LIMIT:\n"
        "        raise ValueError(\n"
        "            n)\n"
        "    return [inner(n) for _ in range(2)]\n"
        "def inner(n):\n"
        "    if n:\n"
        "        return 1\n"
        "def write(n):\n"
        "    return n\n"
        "def other(n):\n"
        "    return n\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reads = importlib.import_module("reads")
    with covered({"reads": ("write",)}) as modules:
        reads.read(2)
    reads.other(2)
    assert modules["reads"].missing() == "4-5, 13"
    assert modules["reads"].share() == 4 / 7


@pytest.mark.parametrize("module", READERS)
def test_the_functions_that_do_not_read_are_some(module: str) -> None:
    source = inspect.getsource(importlib.import_module(module))
    names = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    assert set(READERS[module]) <= names


def test_a_time_limit_that_a_reader_takes_for_the_files_error_is_reported(tmp_path) -> None:
    def late(path: Path) -> str:
        raise InputError(f"{path} can't be read (takes more than 5 s); copy it again.")

    result = fuzz(Target(b"12345", TARGETS["npy"][1].mutations, late, True), tmp_path / "file", [0])
    assert "takes more than 5 s" in result.wrong[0]
