"""Either framework is recorded, and compared with the other's recording, where the other can't be imported."""

import os
import subprocess
import sys
from pathlib import Path

from parity_tests import compare_recordings
from parity_tests.harness.recordings import Recording
from parity_tests.support.recorded_nets import IN_JAX, IN_TORCH
from parity_tests.tests.recordings.conftest import Recorded

HIDDEN = {"jax": ("torch", "torchvision", "torchvae"), "torch": ("jax", "jaxlib", "flax", "optax")}
RECORD = """
import numpy as np
from parity_tests import record
from parity_tests.support.recorded_nets import IMAGES
images = IMAGES if {in_torch} else np.moveaxis(IMAGES, 1, -1)
record(make(), {path!r}, images, loss=loss, optimizer=optimizer, steps=2)
"""
COMPARE = """
from parity_tests import ParityError, Recording, assert_parity
made = Recording({path!r})
report = assert_parity(made, None, make(), losses=loss, optimizers=optimizer)
assert len(report.findings) == 7 and not report.unexercised, report
try:
    assert_parity(made, None, type("Wrong", (Net,), {{"approximate": "tanh"}})())
except ParityError as error:
    print(error.report.diagnosis.where, error.report.diagnosis.cause)
"""


def alone(framework: str, program: str) -> str:
    """Run a program where the other framework can't be imported, and return what it prints."""
    hide = f"from parity_tests.harness.golden.hide_modules import hide\nhide(*{HIDDEN[framework]!r})\n"
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    result = subprocess.run([sys.executable, "-c", hide + program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_each_is_recorded_alone_and_compared_in_torchs_environment(tmp_path: Path) -> None:
    in_jax, in_torch = str(tmp_path / "jax.safetensors"), str(tmp_path / "torch.safetensors")
    alone("jax", IN_JAX + RECORD.format(path=in_jax, in_torch=False))
    printed = alone("torch", IN_TORCH + COMPARE.format(path=in_jax) + RECORD.format(path=in_torch, in_torch=True))
    assert printed.startswith("between norm and head GELU")
    assert Recording(in_jax).about["versions"].keys() & {"jax", "flax", "torch"} == {"jax", "flax"}
    assert Recording(in_torch).about["versions"].keys() & {"jax", "flax", "torch"} == {"torch"}
    report = compare_recordings(in_jax, in_torch)
    assert report.findings[-1].level == "every weight"
    assert not report.passed


def test_two_of_one_framework_need_none(in_jax: Recorded) -> None:
    program = f"""
hide("jax", "flax", "optax")
import sys
from parity_tests import compare_recordings
report = compare_recordings({str(in_jax.path)!r}, {str(in_jax.path)!r})
assert report.passed and len(report.findings) == 8
assert not sys.modules.keys() & {{"jax", "torch"}}
"""
    alone("jax", program)


def test_across_frameworks_torch_is_needed(in_jax: Recorded, in_torch: Recorded) -> None:
    program = f"""
from jaxvae.shared.errors import InputError
from parity_tests import compare_recordings
try:
    compare_recordings({str(in_torch.path)!r}, {str(in_jax.path)!r})
except InputError as error:
    print(error)
"""
    assert "are compared with torch, which is not installed here" in alone("jax", program)


def test_a_model_of_the_framework_that_is_missing(tmp_path: Path) -> None:
    program = f"""
from jaxvae.shared.errors import InputError
from parity_tests import record
try:
    record(lambda params, x: x, {str(tmp_path / "x.safetensors")!r}, [1.0], params={{}})
except InputError as error:
    print(error)
"""
    assert "to record one of JAX" in alone("torch", program)
