"""The README is true: its programs run, its links lead somewhere; and so is the map it points to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxvae
from parity_tests.support.backends import lean

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def test_its_programs_run(tmp_path, mnist_root) -> None:
    """In the order of the page, each in a process of its own, with one epoch for ten, and of some images."""
    assert len(PROGRAMS) == 4
    own = {"JAXVAE_DATA": str(mnist_root.resolve()), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    kept = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "OMP_NUM_THREADS", "PYTHONPATH")
    environment = own | {name: os.environ[name] for name in kept if name in os.environ}
    for program in PROGRAMS:
        short = program.replace("range(10)", "range(1)").replace("mnist().train", "mnist().train[:500]")
        assert (short != program) == ("mnist()" in program)
        result = subprocess.run(
            [sys.executable, "-c", short], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.safetensors").is_file()


def test_its_pictures_and_scripts_are_there() -> None:
    for path in re.findall(r"\]\(([^)#]+)", README) + re.findall(r"scripts/\w+\.\w+", README):
        assert (ROOT / path).is_file(), path


def test_the_map_names_every_file() -> None:
    house = jaxvae.__doc__
    assert house is not None
    for path in [*(ROOT / "jaxvae").rglob("*.py"), *(ROOT / "torchvae").glob("*.py")]:
        if not path.stem.startswith("__"):
            assert path.name in house, path


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 300


def test_its_worked_example_says_what_it_shows() -> None:
    """With its mistake and without, by one process that has the user's settings."""
    code = """
from parity_tests.guides import run_script
statuses = run_script("examples/port_a_classifier.py"), print("====="), run_script("examples/port_a_classifier.py", "--fixed")
assert statuses == (1, None, 0), statuses
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shown, _, fixed = result.stdout.partition("=====\n")
    assert shown in README
    assert "\n" in shown
    assert fixed


def test_its_count_of_faults_is_the_tables() -> None:
    rows = [
        line
        for line in (ROOT / "parity_tests" / "faults" / "FAULTS.md").read_text().splitlines()
        if line.endswith(" |")
    ]
    faults = [row for row in rows if not row.startswith(("| fault", "| ---"))]
    named = [row for row in faults if "no known fault" not in row and "rightly" not in row]
    told = " ".join(README.split())
    assert f"[Of {len(faults)} faults" in told
    assert f"every one is caught and {len(named)} are named" in told
