"""What files and names hold is printed on one line, short, and without control characters."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxvae.shared.commands import compare
from jaxvae.shared.runs.command_line import changed_flags
from jaxvae.shared.text import counted, from_here, markdown_table, printable, say, text_table
from jaxvae.shared.training import progress
from parity_tests.corrupt import readers
from parity_tests.support.cli import PACKAGES, fails, run

pytestmark = pytest.mark.either

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\n\u202e\u2066\u200b\x9b31m\udcff"
ESCAPED = r"\x1b]0;title\x07\x1b[2J\r\n\u202e\u2066\u200b\x9b31m\udcff"


def test_text_is_made_printable_and_short() -> None:
    assert printable(f"a{HOSTILE}b") == f"a{ESCAPED}b"
    assert printable("naïve 数字 🙂 'a' \\ b") == "naïve 数字 🙂 'a' \\ b"
    assert printable("x" * 10**6) == "x" * 97 + "..."


@pytest.mark.parametrize("padded", [True, False])
def test_tables_are_printable(padded: bool) -> None:
    table = markdown_table(["name", HOSTILE], [[HOSTILE, "1"]], padded=padded)
    assert [line.isprintable() for line in table.split("\n")] == [True] * 3
    assert text_table([[HOSTILE, "1"]]) == f"  {ESCAPED}  1"
    assert len(markdown_table(["a"], [["x" * 10**6]])) < 10**4


def test_columns_are_aligned_where_letters_are_wide() -> None:
    assert text_table([["写真", "1"], ["e\u0301t", "10"]]) == "  写真   1\n  e\u0301t    10"
    assert markdown_table(["run", "b"], [["写真", "10"]]).split("\n") == [
        "| run  |  b |",
        "| ---- | -: |",
        "| 写真 | 10 |",
    ]


def test_lines_are_printable(capsys) -> None:
    say(f"one {HOSTILE}".replace("\n", " "))
    progress.warn(HOSTILE)
    out, err = capsys.readouterr()
    assert out == f"one {ESCAPED.replace(chr(92) + 'n', ' ')}\n"
    assert err == f"{ESCAPED}\n"


def config(name: str) -> Callable[[Path], None]:
    """Put hostile text into a field of config.json, or a field of such a name."""

    def change(path: Path) -> None:
        value = readers.config()
        if name == "unknown":
            value["spec"][HOSTILE * 100] = 1
        elif name in value["spec"]:
            value["spec"][name] = HOSTILE * 100
        else:
            value[name] = HOSTILE * 100
        (path / "config.json").write_text(json.dumps(value))

    return change


def metrics_key(path: Path) -> None:
    (path / "metrics.jsonl").write_text(json.dumps({HOSTILE * 100: 1}) + "\n")


def weights_metadata(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content.replace(b'"encoder', b'"\\u001b[2Jr', 1))


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    **{name: ("describe", config(name)) for name in ("unknown", "framework", "preset", "version", "data", "keep")},
    "metrics": ("curves", metrics_key),
    "weights": ("evaluate", weights_metadata),
}


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
@pytest.mark.parametrize("name", CHANGES)
def test_sentences_about_a_file_are_printable_and_short(capsys, tmp_path, package, name: str) -> None:
    folder = readers.run(tmp_path / "run")
    command, change = CHANGES[name]
    change(folder)
    out = ["--out", tmp_path / "curves.png"] if command == "curves" else []
    status, printed, err = run(package, capsys, command, folder, *out)
    assert (status, printed) == (2, "")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert len(err) < 2000


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
def test_a_runs_name_is_printable(capsys, tmp_path, package) -> None:
    folder = readers.run(tmp_path / HOSTILE)
    status, out, err = run(package, capsys, "describe", folder)
    assert (status, err) == (0, "")
    assert out.replace("\n", "").isprintable()
    fails(package, capsys, r"\\x1b\]0;title", "evaluate", folder / "none")


def test_a_compared_runs_name_is_printable() -> None:
    row = compare.Row(HOSTILE, 2, 1.0, np.zeros((1, 2, 2, 1)))
    assert all(line.isprintable() for line in compare.table([row], 3, "digits").split("\n"))


def test_paths_in_the_current_folder_are_shown_without_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = f"--data images:{tmp_path}/a --out '{tmp_path}/b c' {tmp_path}/d /mnt{tmp_path}/e {tmp_path}-2/f"
    assert from_here(given) == f"--data images:a --out 'b c' d /mnt{tmp_path}/e {tmp_path}-2/f"


def test_counts_have_their_nouns() -> None:
    assert [counted(n, "step") for n in (0, 1, 2, 3000)] == ["0 steps", "1 step", "2 steps", "3,000 steps"]
    assert [counted(n, "class") for n in (1, 10)] == ["1 class", "10 classes"]


def test_a_flag_that_was_not_given_is_left_out() -> None:
    before, now = {"train_images": None, "max_steps": 7}, {"train_images": 100, "max_steps": None}
    assert changed_flags(before, now) == "its --train-images is left out, not 100, its --max-steps is 7, not left out"
