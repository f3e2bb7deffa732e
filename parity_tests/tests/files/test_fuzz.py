"""Files changed at random: the first of those that scripts/stress.py fuzz makes by the hundred thousand."""

import pytest

from parity_tests.corrupt import fuzz as fuzzing
from parity_tests.corrupt import structured
from parity_tests.corrupt.fuzz import OTHER, SAME, Target, fuzz, mutated
from parity_tests.corrupt.readers import TARGETS, place

MANY = {"weights": 3000, "checkpoint": 2000, "config": 2000}


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_changed_is_refused_or_read_as_it_was(tmp_path, name: str) -> None:
    number = MANY.get(name, 300)
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
    "metrics": (structured.record, structured.lines),
    "npy": (structured.array_header,),
    "npz": (structured.members(structured.array_header),),
    "png": (structured.chunks,),
    "idx": (structured.sizes,),
    "safetensors": (structured.tensors_header,),
    "msgpack": (structured.tree,),
    "pickle": (structured.members(structured.opcodes),),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_a_changed_structure_is_still_one(tmp_path, name: str) -> None:
    """So that readers get further than to the first length or checksum: they say more than one thing."""
    target = TARGETS[name][1]._replace(mutations=STRUCTURED[name])
    result = fuzz(target, place(tmp_path, name), range(150))
    assert result.wrong == []
    assert len({end for _, end in result.outcomes}) >= 2
