"""What surrounds a command: JAX's environment variables, closed streams, narrow terminals."""

import os
from pathlib import Path

import pytest
import torch

from jaxvae.shared import cli
from parity_tests.support.cli import PACKAGES
from parity_tests.support.warm import python

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = "--data digits --image 4 4 1 --hidden 3 --latent 2 --max-steps 1"
    assert cli.main(PACKAGES["torchvae"], ["train", *flags.split(), "--out", str(folder)]) == 0
    return folder


def sample(run: Path, out: Path, *flags: str, **environment: str) -> str:
    """The sentence with which jaxvae refuses to sample; empty if it samples."""
    result = python("-m", "jaxvae", "sample", run, "--out", out, *flags, env={**os.environ, **environment})
    if result.returncode == 0:
        assert out.exists()
        return result.stderr
    assert (result.returncode, result.stdout, result.stderr.count("\n"), out.exists()) == (2, "", 1, False)
    assert result.stderr.startswith("jaxvae: ")
    return result.stderr


@pytest.mark.parametrize("device", ["auto", "gpu"])
@pytest.mark.parametrize(
    "platforms", ["nope", pytest.param("cuda", marks=no_gpu), pytest.param("gpu,cpu", marks=no_gpu)]
)
def test_jax_platforms_without_its_device_is_named(run, tmp_path, platforms: str, device: str) -> None:
    message = sample(run, tmp_path / "a.png", "--device", device, JAX_PLATFORMS=platforms)
    assert f"; it looks only for what JAX_PLATFORMS lists, which is '{platforms}': unset it." in message
    assert "--device auto" not in message


def test_a_device_that_is_there_needs_no_other_of_jax_platforms(run, tmp_path) -> None:
    assert sample(run, tmp_path / "a.png", "--device", "cpu", JAX_PLATFORMS="nope") == ""


@pytest.mark.parametrize("variable", ["JAX_TRANSFER_GUARD", "JAX_TRANSFER_GUARD_HOST_TO_DEVICE"])
def test_a_transfer_guard_that_forbids_is_named(run, tmp_path, variable: str) -> None:
    message = sample(run, tmp_path / "a.png", **{variable: "disallow"})
    assert message.startswith(f"jaxvae: {variable} is disallow, but a run copies")
