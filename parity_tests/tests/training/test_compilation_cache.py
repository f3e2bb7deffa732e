"""What JAX compiles is kept for the next process, where the user has it kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Any program, with the threshold at which none is too small to be kept.
PROGRAM = """
import jax, jaxvae
jaxvae.prepare("cpu")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x + 1)(1))
"""


def kept(cache: Path, **environment: str) -> list[Path]:
    """The files under the user's cache folder after a process."""
    variables = {"XDG_CACHE_HOME": str(cache), "JAX_ENABLE_COMPILATION_CACHE": "1"}
    of_the_tests = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(of_the_tests)}
    asked = {**inherited, **variables, **environment}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=asked, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")
    return [path for path in cache.rglob("*") if path.is_file()] if cache.is_dir() else []


def test_programs_are_kept_in_the_users_cache_folder(tmp_path: Path) -> None:
    result = kept(tmp_path)
    assert result
    assert {path.parent for path in result} == {tmp_path / "jaxvae" / "programs"}
    assert kept(tmp_path) == result


@pytest.mark.parametrize("name", ["elsewhere", "nowhere"])
def test_the_users_own_choice_holds(tmp_path: Path, name: str) -> None:
    other = tmp_path / "other"
    choice = {
        "elsewhere": {"JAX_COMPILATION_CACHE_DIR": str(other)},
        "nowhere": {"JAX_ENABLE_COMPILATION_CACHE": "0"},
    }[name]
    assert not kept(tmp_path / "cache", **choice)
    assert other.exists() == (name == "elsewhere")


def test_without_a_folder_for_them_all_is_compiled_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not kept(tmp_path / "file" / "cache")


def test_a_torn_program_is_compiled_again_once(tmp_path: Path) -> None:
    """Its process was killed as it was written, or the disk was full."""
    (program,) = kept(tmp_path)
    whole = program.stat().st_size
    os.truncate(program, 100)
    assert kept(tmp_path) == [program]
    assert program.stat().st_size == whole
