"""The gallery's pairs have the verdicts that are expected of them."""

import importlib.metadata
import json
from pathlib import Path

import pytest

import gallery
from gallery_pairs import pair as pairs
from gallery_pairs.table import PAIRS
from jaxvae.shared.errors import InputError
from parity_tests.support.cli import modules_after

SMALL = [pair for pair in PAIRS if not pair.large]


@pytest.mark.slow
@pytest.mark.parametrize("pair", SMALL, ids=lambda pair: pair.name)
def test_a_pair_has_the_expected_verdict(pair: pairs.Pair) -> None:
    for name in pair.packages:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.fail(f"{name} is missing: install the extra with pip install -c constraints.txt -e '.[gallery]'.")
    result = gallery.compare(pair)
    assert result["verdict"] == pair.expected, result["found"]
    if pair.expected == "agree":
        assert [level for level, _ in result["levels"][:3]] == ["every output", "the loss", "every gradient"]


def test_listing_the_pairs_imports_none_of_their_packages() -> None:
    scripts = str(Path(gallery.__file__).parent)
    listed = "import gallery; gallery.main(gallery.Gallery(list=True))"
    loaded = modules_after(f"import sys; sys.path.insert(0, {scripts!r}); {listed}")
    assert not loaded & {"jax", "flax", "torch", "transformers", "diffusers", "timm"}


def test_every_pair_that_does_not_agree_says_why_and_the_next_is_corrected() -> None:
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    for pair in PAIRS:
        assert pair.expected == "agree" or pair.why.endswith("."), pair.name


def test_a_missing_package_and_an_unknown_name_are_named() -> None:
    with pytest.raises(InputError, match="no_such_package, which is not installed: install the extra"):
        pairs.package("no_such_package")
    with pytest.raises(InputError, match="no pair nonsense: --list"):
        gallery.chosen(["nonsense"], False)
    assert any(pair.large for pair in gallery.chosen([], True))


def test_the_page_holds_the_command_and_every_row(tmp_path: Path, monkeypatch, capsys) -> None:
    def compare(pair: pairs.Pair) -> dict:
        return json.loads(
            json.dumps(
                {"verdict": pair.expected, "levels": [["every output", 1e-15]], "found": "a | b",
                 "versions": ["timm 1.0"], "seconds": 1.0, "peak": 10**9}
            )
        )  # fmt: skip

    monkeypatch.setattr(gallery, "compare", compare)
    monkeypatch.setattr(gallery, "version", str)
    monkeypatch.setattr("sys.argv", ["gallery.py", "lstm", "gpt2-cache", "--markdown", "scripts/docs/gallery.md"])
    page = tmp_path / "gallery.md"
    assert gallery.main(gallery.Gallery(("lstm", "gpt2-cache"), markdown=page)) == 0
    text = page.read_text()
    assert "\npython scripts/gallery.py lstm gpt2-cache --markdown scripts/docs/gallery.md\n" in text
    assert "| lstm | agree | to 1e-15" in text
    assert r"| gpt2-cache | refused | a \| b" in text
    assert "1,000" in capsys.readouterr().out
