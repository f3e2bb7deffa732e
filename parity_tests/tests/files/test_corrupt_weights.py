"""Untrusted files: whatever is wrong with weights or a checkpoint is said in a sentence, and nothing of
them is loaded, run, waited for or made room for."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import jaxvae
import torchvae
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import safetensors_reader, weight_file
from jaxvae.shared.safe_io import MAX_JSON_BYTES
from parity_tests.corrupt import transforms
from parity_tests.corrupt.transforms import Kind
from parity_tests.corrupt.weights import CHECKPOINT, WEIGHTS
from parity_tests.support.cli import Load, in_time, refused

pytestmark = pytest.mark.either

__all__ = ["in_time"]

PACKAGES = {"jaxvae": jaxvae, "torchvae": torchvae}
READERS: dict[str, tuple[Load, bytes]] = {
    **{f"{name}.load": (package.load, transforms.whole_weights()) for name, package in PACKAGES.items()},
    **{f"{n}.load_checkpoint": (p.load_checkpoint, transforms.whole_checkpoint()) for n, p in PACKAGES.items()},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", WEIGHTS, ids=lambda kind: kind.name)
def test_a_malformed_file_is_refused_in_a_sentence(tmp_path, reader: str, kind: Kind) -> None:
    load, whole = READERS[reader]
    path = tmp_path / "model.safetensors"
    kind.put(path, whole)
    refused(load, path, kind.says)
    assert not transforms.marker(path).exists(), "code of the file was run"


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kind", CHECKPOINT, ids=lambda kind: kind.name)
def test_a_malformed_checkpoint_is_refused_in_a_sentence(tmp_path, name: str, kind: Kind) -> None:
    load, whole = READERS[f"{name}.load_checkpoint"]
    path = tmp_path / "step.safetensors"
    kind.put(path, whole)
    refused(load, path, kind.says)
    if kind.name != "weights alone":  # a checkpoint is a weight file too, and as whole
        refused(PACKAGES[name].load, path, kind.says)


@pytest.mark.parametrize("reader", READERS)
def test_the_whole_files_are_read(tmp_path, reader: str) -> None:
    """Or all of this would prove nothing."""
    load, whole = READERS[reader]
    (tmp_path / "whole").write_bytes(whole)
    assert load(tmp_path / "whole")[0] == transforms.SPEC


@pytest.mark.parametrize("reader", READERS)
def test_one_flipped_bit_in_any_tensor_is_reported(tmp_path, reader: str) -> None:
    """safetensors itself loads every one of these without a word."""
    load, whole = READERS[reader]
    path, (header, tensors) = tmp_path / "flipped", transforms.split(whole)
    for name in set(header) - {"__metadata__"}:
        start, end = header[name]["data_offsets"]
        for place, bit in (((start + end) // 2, 1), (end - 1, 64)):  # a low bit, and one that makes 1e38 or nan
            changed = bytearray(tensors)
            changed[place] ^= bit
            path.write_bytes(transforms.joined(header, bytes(changed)))
            load_file(path)
            refused(load, path, f"was changed since it was written: tensor {name} should have the SHA-256 digest")


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_may_not_be_read_is_reported(reader: str) -> None:
    """By whoever runs this; root, who may read everything, becomes nobody for the while."""
    load, whole = READERS[reader]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "model.safetensors"
        path.write_bytes(whole)
        load(path)
        path.chmod(0)
        me = os.geteuid()
        if me == 0:
            try:
                os.seteuid(65534)
            except PermissionError:
                pytest.skip("root without the right to become another user may read every file")
        try:
            refused(load, path, "can't be read (Permission denied); check its permissions")
        finally:
            os.seteuid(me)


def test_what_is_not_read_to_its_end_is_not_taken(tmp_path, monkeypatch) -> None:
    """A file that shrinks after it was measured."""
    path = tmp_path / "model.safetensors"
    jaxvae.save(path, spec := Spec("digits"), jaxvae.init(spec, jaxvae.root_key(0)))
    tensors = safetensors_reader.tensors

    def cut(*of: Any) -> Any:
        os.truncate(path, path.stat().st_size - 4)
        return tensors(*of)

    monkeypatch.setattr(safetensors_reader, "tensors", cut)
    refused(weight_file.load, path, "it was cut short as it was read")


@pytest.mark.slow
def test_memory_is_bounded_by_what_a_file_holds() -> None:
    """In a process with no room for what some of the files ask for: besides its tensors' bytes, tens of times a header,
    of which 4 MB are read."""
    signal.alarm(300)
    result = subprocess.run([sys.executable, "-m", "parity_tests.corrupt.memory"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    actual = json.loads(result.stdout)
    assert len(actual) > len(WEIGHTS) + len(CHECKPOINT)
    for name, (stored, header, peak) in actual.items():
        assert peak < 2**20 + stored + 40 * min(header, MAX_JSON_BYTES), name
    assert max(peak for _, _, peak in actual.values()) < 160 * 2**20
