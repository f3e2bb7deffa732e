"""The README is true: its programs run, its links lead somewhere, its map is the house."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_its_programs_run(tmp_path, mnist_root) -> None:
    """In the order of the page, each in a process of its own, with one epoch for ten."""
    assert len(PROGRAMS) == 3
    for program in PROGRAMS:
        short = program.replace("range(10)", "range(1)")
        environment = {"JAXVAE_DATA": str(mnist_root.resolve()), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        result = subprocess.run(
            [sys.executable, "-c", short], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.safetensors").is_file()


def test_its_pictures_and_scripts_are_there() -> None:
    for path in re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"scripts/\w+\.\w+", README):
        assert (ROOT / path).is_file(), path


def test_its_map_names_every_file() -> None:
    house = README.partition("## The house")[2]
    for path in [*(ROOT / "jaxvae").rglob("*.py"), *(ROOT / "torchvae").glob("*.py")]:
        if not path.stem.startswith("__"):
            assert path.name in house, path


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("script", ["parity.py", "benchmark.py"])
def test_its_scripts_run(script: str, mnist_root) -> None:
    small = {"parity.py": ["--steps", "20"], "benchmark.py": ["--epochs", "1"]}[script]
    command = [sys.executable, str(ROOT / "scripts" / script), "--data", "digits", *small]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| --- |" in result.stdout
    result = subprocess.run([*command, "--data-root", "/no/such/folder"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("give one that holds MNIST/raw, or leave it out.")
