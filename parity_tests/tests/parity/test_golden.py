"""Each package alone, with the other framework not importable, computes the recorded arrays."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from jaxvae.shared.errors import InputError
from jaxvae.shared.model import tensor_checks, weight_file
from parity_tests.harness.golden import files as golden_files
from parity_tests.harness.golden import recording
from parity_tests.harness.vae import torch_backend
from parity_tests.support.backends import lean
from parity_tests.support.docs import run_script
from parity_tests.support.quick import quick

ROOT = Path(__file__).parents[3]
FILES = {name: golden_files.FOLDER / f"{name}.safetensors" for name in recording.SPECS}
# What is hidden from each package: the other framework, and the other package except jaxvae.shared.
WITHOUT = {
    "jaxvae": ("torch", "torchvision", "torchvae"),
    "torchvae": (
        *("jax", "jaxlib", "flax", "optax"),
        *(f"jaxvae.{path.stem}" for path in sorted((ROOT / "jaxvae").glob("*.py")) if path.stem != "__init__"),
    ),
}
# The comparisons of both packages meet the others too.
QUICK = ("iwae",)
BACKENDS = {"jaxvae": "jax_backend", "torchvae": "torch_backend"}

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def alone(package: str, program: str, cwd: Path = ROOT) -> str:
    """Run the program in a fresh process without the other framework and return what it prints."""
    code = f"from parity_tests.harness.golden.hide_modules import hide\nhide(*{WITHOUT[package]!r})\n{program}"
    # One thread: models are small.
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@functools.cache
def findings(package: str, names: tuple[str, ...]) -> dict[tuple[str, str], dict]:
    """The findings of one package alone, by specification and level."""
    program = f"""
import json
from parity_tests.harness import report
from parity_tests.harness.findings import Report
from parity_tests.harness.golden import files as golden_files, recording
from parity_tests.harness.vae import {BACKENDS[package]} as backend
for name in {names!r}:
    spec, _, arrays = golden_files.read(golden_files.FOLDER / f"{{name}}.safetensors")
    print(json.dumps([name, report.to_json(Report({{}}, recording.findings(backend, spec, arrays)))]))
"""
    reports = dict(json.loads(line) for line in alone(package, program).splitlines())
    return {(name, finding["level"]): finding for name, content in reports.items() for finding in content["findings"]}


@pytest.mark.parametrize("level", [level.name for level in recording.LEVELS])
@pytest.mark.parametrize("name", quick(FILES, QUICK))
@pytest.mark.parametrize("package", BACKENDS)
def test_a_package_alone_agrees_with_the_record(package: str, name: str, level: str) -> None:
    together = QUICK if name in QUICK else tuple(other for other in FILES if other not in QUICK)
    finding = findings(package, together)[name, level]
    assert finding["passed"], {key: finding[key] for key in ("size", "unit", "where", "tolerance", "reason")}


@pytest.mark.parametrize("package", quick(BACKENDS, []))
def test_the_command_line_alone(package: str, tmp_path) -> None:
    program = f"""
import {package} as backend
from jaxvae.shared import cli
assert cli.main(backend, ["train", "--data", "digits", "--hidden", "8", "--max-steps", "3", "--out", "run"]) == 0
assert cli.main(backend, ["evaluate", "run"]) == 0
assert cli.main(backend, ["sample", "run", "--out", "samples.png"]) == 0
assert cli.main(backend, ["reconstruct", "run", "--out", "reconstructions.png"]) == 0
import importlib, sys
for name in {WITHOUT[package]!r}:
    assert name not in sys.modules, name
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{name}} is not hidden")
"""
    output = alone(package, program, tmp_path)
    assert "after 3 steps" in output
    assert "over 297 images of digits" in output
    assert {path.name for path in tmp_path.iterdir()} == {"run", "samples.png", "reconstructions.png"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_matches_its_specification_and_names_its_versions(name: str) -> None:
    spec, versions, arrays = golden_files.read(FILES[name])
    assert spec == recording.SPECS[name]
    assert set(versions) >= {"python", "jax", "flax", "optax", "torch", "numpy"}
    assert golden_files.pack(spec, versions, arrays) == FILES[name].read_bytes()
    tensor_checks.check(recording.part(arrays, "weights"), spec, name)
    assert {array.dtype.name for array in arrays.values()} <= {"float64", "uint64", "uint32", "uint8", "int64", "int32"}
    train, test = recording.images(spec, arrays)
    assert len(train) % spec.training.batch_size
    assert np.isin([0, 255], train).all()
    assert np.isin([0, 255], test).all()


def test_the_files_are_small_and_no_others() -> None:
    assert sorted(path for path in golden_files.FOLDER.iterdir() if path.is_file()) == sorted(FILES.values())
    assert sum(path.stat().st_size for path in FILES.values()) < 1_300_000


def damaged(kind: str, content: bytes) -> bytes:
    start = 8 + int.from_bytes(content[:8], "little")
    match kind:
        case "a flipped bit":
            return content[: start + 99] + bytes([content[start + 99] ^ 1]) + content[start + 100 :]
        case "a changed version":
            return content.replace(b'\\"torch\\": \\"2', b'\\"torch\\": \\"3', 1)
        case "cut short":
            return content[:-8]
        case "no metadata":
            return weight_file.to_bytes({"x": np.zeros(3)})
    return b""


@pytest.mark.parametrize(
    ("kind", "says"),
    {
        "a flipped bit": r"is corrupt: .* should have the SHA-256 digest \w{12}, found \w{12};",
        "a changed version": "must have metadata of version 1 that match their digest;",
        "cut short": "is not a whole safetensors file",
        "no metadata": "must have metadata of version 1",
        "empty": "is not a whole safetensors file",
    }.items(),
)
def test_a_damaged_file_fails_loudly(kind: str, says: str, tmp_path) -> None:
    path, content = tmp_path / "grey.safetensors", FILES["grey"].read_bytes()
    path.write_bytes(damaged(kind, content))
    assert path.read_bytes() != content
    with pytest.raises(InputError, match=says) as error:
        golden_files.read(path)
    assert str(error.value).endswith("record it again with scripts/record_golden.py.")


def test_a_missing_file_fails_loudly(tmp_path) -> None:
    with pytest.raises(InputError, match="There is no golden file"):
        golden_files.read(tmp_path / "grey.safetensors")


@pytest.mark.parametrize(
    ("level", "name", "factor"),
    [
        ("normals", "normals", 1 + 1e-14),
        ("weights", "encoder.mean.bias", 1 + 3e-16),
        ("outputs", "logits", 1 + 1e-13),
        ("gradients", "decoder.logits.weight", 1 + 1e-13),
        ("five steps", "exp_avg_sq.encoder.hidden.0.weight", np.nan),
        ("run", "terms", 1 + 1e-12),
    ],
)
def test_a_wrong_number_is_found_where_it_is(level: str, name: str, factor: float) -> None:
    """In one level only: the others are computed from the record."""
    spec, _, arrays = golden_files.read(FILES["grey"])
    wrong = {**arrays, f"{level}/{name}": arrays[f"{level}/{name}"] * factor}
    (tested,) = (each for each in recording.LEVELS if each.name == level)
    assert recording.finding(tested, torch_backend, spec, arrays).passed
    result = recording.finding(tested, torch_backend, spec, wrong)
    assert not result.passed
    assert result.where.startswith(name)


@pytest.fixture
def script(monkeypatch):
    """scripts/record_golden.py, with torchvae as both backends, since jaxvae has to compile."""
    monkeypatch.setenv("JAX_ENABLE_X64", "0")  # the script sets it; restored after the test
    location = importlib.util.spec_from_file_location("golden_script", ROOT / "scripts" / "record_golden.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    monkeypatch.setattr(module, "jax_backend", torch_backend)
    return module


def test_the_script_writes_what_is_read(script, tmp_path, capsys) -> None:
    script.main(script.Golden(tmp_path))
    assert capsys.readouterr().out.count("jaxvae and torchvae agree: 14 of 14 levels") == len(FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in FILES.values())
    for name, path in FILES.items():
        spec, versions, arrays = golden_files.read(tmp_path / path.name)
        assert spec == recording.SPECS[name]
        assert versions["torch"] == torch.__version__.partition("+")[0]
        assert set(arrays) >= set(golden_files.read(path)[2])


def test_the_script_writes_nothing_if_the_backends_differ(script, tmp_path, monkeypatch) -> None:
    def losses(*arguments):
        return {name: value * (1 + 1e-12) for name, value in torch_backend.losses(*arguments).items()}

    monkeypatch.setattr(script, "torch_backend", types.SimpleNamespace(**{**vars(torch_backend), "losses": losses}))
    with pytest.raises(InputError) as error:
        script.main(script.Golden(tmp_path))
    assert str(error.value).startswith("Nothing was written, for the specification grey: jaxvae and torchvae differ")
    assert "13 of 14 levels agree; the first that fails is losses (float64), 1.0e-12" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_script_reports_a_missing_folder(tmp_path, capsys) -> None:
    said = run_script("record_golden.py", "--out", tmp_path / "none")
    assert capsys.readouterr() == ("", "")
    assert isinstance(said, str), "it ends with status 1, and this on standard error"
    assert said.startswith("golden: There is no folder")
    assert "\n" not in said
