"""The README is true: its programs run, its links and numbers are right; and so is the map of the modules."""

import os
import re
from pathlib import Path

import pytest

import jaxvae
from parity_tests.support.backends import lean
from parity_tests.support.warm import python

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)
DOCS = ROOT / "scripts" / "docs"

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def test_its_programs_run(tmp_path, mnist_root) -> None:
    """In the order of the page, each in a process of its own, with one epoch for ten, and of some images."""
    assert len(PROGRAMS) == 3
    own = {"JAXVAE_DATA": str(mnist_root.resolve()), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    kept = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "OMP_NUM_THREADS", "XLA_FLAGS")
    environment = own | {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONPATH": str(ROOT)}
    for program in PROGRAMS:
        short = program.replace("range(10)", "range(1)").replace("mnist().train", "mnist().train[:500]")
        assert (short != program) == ("mnist()" in program)
        result = python("-c", short, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.safetensors").is_file()


def test_its_pictures_and_scripts_are_there() -> None:
    for path in re.findall(r"\]\(([^)#]+)", README) + re.findall(r"scripts/[\w/]+\.\w+", README):
        assert (ROOT / path).is_file(), path


def test_the_packages_docstring_names_every_module_and_folder() -> None:
    modules = {path.stem for path in [*(ROOT / "jaxvae").glob("*.py"), *(ROOT / "torchvae").glob("*.py")]}
    folders = {path.parent.name for path in (ROOT / "jaxvae" / "shared").glob("*/__init__.py")}
    assert jaxvae.__doc__ is not None
    named = set(re.findall(r"\w+", jaxvae.__doc__))
    assert {name for name in modules if not name.startswith("_")} | folders <= named
    layout = (DOCS / "contributing.md").read_text()
    assert all(f"{folder}/" in layout for folder in folders)


def test_its_loops_are_the_examples() -> None:
    for program, name in zip(PROGRAMS, ("train_jax", "train_torch"), strict=False):
        assert (ROOT / "scripts" / "examples" / f"{name}.py").read_text().endswith(f'"""\n\n{program}')


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_its_worked_example_says_what_it_shows() -> None:
    """With its mistake and without, by one process that has the user's settings."""
    name = "examples/port_a_classifier.py"
    code = f"""
from parity_tests.support.docs import run_script
statuses = run_script("{name}"), print("====="), run_script("{name}", "--fixed")
assert statuses == (1, None, 0), statuses
"""
    result = python("-c", code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    shown, _, fixed = result.stdout.partition("=====\n")
    assert "\n".join(shown.splitlines()[-2:]) in README
    assert fixed


def test_its_count_of_faults_is_the_tables() -> None:
    tables = (ROOT / "parity_tests" / "faults" / "FAULTS.md").read_text().split("| fault ")[1:]
    rows = [[line for line in table.splitlines()[2:] if line.endswith(" |")] for table in tables]
    named = [[r for r in table if "no known fault" not in r and "rightly" not in r] for table in rows]
    of_packages, of_modules = sum(map(len, rows[:-1])), len(rows[-1])
    words = " ".join(README.split())
    assert len(named[-1]) == of_modules
    assert f"all of [{of_modules} injected porting mistakes](parity_tests/faults/FAULTS.md)" in words
    assert f"catches all of {of_packages} faults in them and names {sum(map(len, named[:-1]))}:" in words
