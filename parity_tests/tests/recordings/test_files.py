"""A recording is written whole or not at all, and one that was changed, cut off or is another file is refused."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import Inputs, Recording, compare_recordings, record
from parity_tests.harness.recordings import file
from parity_tests.support.cli import refused
from parity_tests.tests.recordings.conftest import Recorded

X = np.random.default_rng(0).normal(size=(3, 4))


def changed(path: Path, at: int, to: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    to.write_bytes(content)
    return to


def test_a_changed_or_partial_file_is_refused(in_torch: Recorded, tmp_path: Path) -> None:
    content, other = in_torch.path.read_bytes(), tmp_path / "other.safetensors"
    (length,) = struct.unpack("<Q", content[:8])
    for at in (length + 8, (length + len(content)) // 2, len(content) - 1):
        refused(Recording, changed(in_torch.path, at, other), "was changed after it was written")
    for at in (3, 20, length // 2):
        changed(in_torch.path, at, other)
        with pytest.raises(InputError, match=r"corrupt|whole|no recording"):
            Recording(other)
    for size in (0, 5, length, len(content) // 2, len(content) - 1):
        other.write_bytes(content[:size])
        refused(Recording, other, "is not a whole safetensors file")


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": X}, path)
    refused(Recording, path, "is a safetensors file but no recording")
    save_file({"w": X}, path, {"recording": "[]"})
    refused(Recording, path, "is corrupt")
    path.write_text("text")
    refused(Recording, path, "is not a whole safetensors file")
    refused(Recording, tmp_path, "found a folder")
    refused(Recording, tmp_path / "none", "found nothing")


@pytest.mark.parametrize("version", [file.VERSION - 1, file.VERSION + 1])
def test_another_version_is_refused(in_torch: Recorded, tmp_path: Path, monkeypatch, version: int) -> None:
    monkeypatch.setattr(file, "VERSION", version)
    path = tmp_path / "other.safetensors"
    file.write(path, in_torch.recording.about, in_torch.recording.arrays)
    monkeypatch.undo()
    refused(Recording, path, f"is a recording of version {version}, expected {file.VERSION}; record it again")
    file.write(path, {"framework": "torch"}, {})
    refused(Recording, path, "is corrupt: it doesn't say its versions")


@pytest.mark.parametrize("name", ["no/such/folder.safetensors", "folder"])
def test_what_cant_be_written_is_refused_before_anything_is_computed(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()

    def never(*args: Any) -> Any:
        raise AssertionError("computed")

    with pytest.raises(InputError, match="can't be written"):
        record(nn.Linear(4, 2), tmp_path / name, X, loss=never)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("before")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"can't be written \(No space left on device\)"):
        record(nn.Linear(4, 2), path, X)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


class Casts(nn.Module):
    def __init__(self):
        super().__init__()
        self.half, self.linear = nn.Linear(4, 4).bfloat16(), nn.Linear(4, 2)

    def forward(self, x: Any, *, scale: float = 1.0) -> Any:
        return {"y": self.linear(x) * scale, "half": x.half(), "phase": torch.complex(x, x)}


def test_half_precision_is_stored_as_float32_and_complex_numbers_as_they_are(tmp_path: Path) -> None:
    made = record(Casts(), tmp_path / "a.safetensors", Inputs(X, scale=2.0))
    assert {array.dtype.name for array in made.arrays.values()} <= {"float32", "float64", "complex128", "int64"}
    assert made.arrays["outputs/output['half']"].dtype == np.float32
    assert np.array_equal(made.arrays["outputs/output['phase']"], X + 1j * X)
    assert made.arrays["weights/half.weight"].dtype == np.float64
    assert compare_recordings(made, made).passed


class NotANumber(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.where(x > 0, x, torch.nan)


def test_nan_is_recorded_and_equal_to_itself_alone(tmp_path: Path) -> None:
    x = X.copy()
    x[0, 0] = np.nan
    made = record(NotANumber(), tmp_path / "a.safetensors", x, sample=5)
    assert compare_recordings(made, made).passed
    json.dumps(made.about, allow_nan=False)
    other = record(nn.Identity(), tmp_path / "b.safetensors", x, sample=5)
    report = compare_recordings(made, other)
    assert report.findings[-1].level == "every output: up to 5 entries of each, and sums"
    assert math.isinf(report.findings[-1].size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype: expected float32 or float64"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"sample": 0}, "sample: expected a whole number"),
        ({"key": -1}, "key: expected a whole number"),
        ({"layers": "conv"}, "layers: expected a list"),
        ({"layers": ["("]}, "layers: .* is not a valid regex"),
        ({"layers": ["nothing"]}, "layers: 'nothing' matches no whole name of a layer that is called; there are ''"),
        ({"params": {}}, "params: a torch module holds its own"),
        ({"method": "nothing"}, "method: .* has no method 'nothing'"),
        ({"loss": 1}, "loss: expected a function"),
        ({"optimizer": torch.optim.SGD}, "optimizer: a step needs a gradient"),
        ({"loss": lambda y: y}, "loss: expected one number in a tensor, found the shape"),
        ({"inputs": "text"}, "inputs.*: expected an array of numbers"),
        ({"inputs": ()}, "inputs: expected one array or more"),
        ({"module": 3}, "module: expected a torch module"),
    ],
)
def test_an_invalid_argument_is_one_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    module, inputs = options.pop("module", nn.Linear(4, 2)), options.pop("inputs", X)
    with pytest.raises(InputError, match=message) as caught:
        record(module, tmp_path / "a.safetensors", inputs, **options)
    assert str(caught.value).count("\n") == 0
    assert not list(tmp_path.iterdir())
