"""CORRUPT_FILES.md has a row for every malformed file that is tested, and no others."""

import pytest

from parity_tests.corrupt.table import GROUPS, TABLE, Group, cell, message_cell, row

REGENERATE = "python -m parity_tests.corrupt.table regenerates the table"
SECTIONS = {text.splitlines()[0]: text.splitlines() for text in TABLE.read_text().split("## ")[1:]}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_the_table_holds_these_kinds_with_what_is_said_of_them(group: Group) -> None:
    """By the part of it that the tests ask of the readers: the rest may be the words of a library's version."""
    rows = [line for line in SECTIONS[group.title] if line.startswith("| ")][2:]
    assert len(rows) == len(group.kinds), REGENERATE
    for kind, line in zip(group.kinds, rows, strict=True):
        assert line.startswith(row(kind, "").removesuffix(" |")), REGENERATE
        assert cell(kind.says) in line, REGENERATE


def test_the_table_is_in_the_words_of_the_readers() -> None:
    """A few rows to the letter, of those whose words are all our own."""
    for group, number in ((GROUPS[0], 7), (GROUPS[0], 100), (GROUPS[1], 3), (GROUPS[2], 21), (GROUPS[3], 8)):
        kind = group.kinds[number]
        assert row(kind, message_cell(group, kind)) in SECTIONS[group.title], REGENERATE


def test_there_are_more_kinds_of_weight_files_than_fifty() -> None:
    for group in GROUPS:
        names = [kind.name for kind in group.kinds]
        assert len(set(names)) == len(names)
    assert len(GROUPS[0].kinds) >= 50
