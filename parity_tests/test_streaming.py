"""Training images that come in blocks, from a file or from memory: the run is the one that has them all, to the bit."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli, data, files, needs, runs, streaming
from jaxvae.shared.data import Dataset
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.spec import ImagesSpec, ModelSpec, Spec, TrainingSpec
from parity_tests.numpy_side import contents
from parity_tests.test_family_parity import small, some

PACKAGES = {"jaxvae": jaxvae, "torchvae": torchvae}


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest):
    yield PACKAGES[request.param]
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def in_files(folder: Path, dataset: Dataset) -> Dataset:
    """The data with its training images left in a file."""
    np.save(folder / "train.npy", dataset.train)
    return dataset._replace(train=streaming.Mapped(np.load(folder / "train.npy", mmap_mode="r")))  # type: ignore[arg-type]


def everything(package: Any, spec: Spec, dataset: Dataset, **options: Any) -> dict[str, np.ndarray]:
    """Every number that comes out of a run."""
    seen: list = []
    state = package.fit(spec, dataset, seen.append, **options)
    return {
        "terms": np.concatenate([progress.train for progress in seen]),
        "tests": np.stack([progress.test for progress in seen]),
        **package.to_arrays(spec, state[0]),
        **package.optimizer_to_arrays(spec, state[1]),
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], name)


def shortened(name: str) -> Spec:
    """Epochs of five steps, of which the second ends with the fourth."""
    return replace(small(name), training=replace(small(name).training, epochs=2, max_steps=9))


@pytest.mark.parametrize("name", ["flax-example", "conditional", "beta-b", "iwae-paper", "adversarial"])
def test_a_streamed_run_is_the_resident_one_to_the_bit(package, tmp_path, name: str) -> None:
    """Five batches, the last of two images, in blocks of one batch, of two, which don't divide them, and of all: static
    binarisation, labels, convolutions with batch norm, weights from the mean image, three phases."""
    spec, dataset = shortened(name), some(small(name))
    mapped, batch = in_files(tmp_path, dataset), 17 * spec.model.pixels
    expected = everything(package, spec, dataset)
    assert np.abs(expected["terms"]).min() > 0
    for size in (1, 2 * batch, 10**9) if name == "flax-example" else (2 * batch + 1,):
        same(everything(package, spec, mapped, stream=size), expected)
    same(everything(package, spec, dataset, stream=2 * batch), expected)
