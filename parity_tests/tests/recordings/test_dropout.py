"""Dropout in recordings: each framework draws the same masks alone."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import assert_parity, compare_modules, compare_recordings, record
from parity_tests.harness.hooks.masks import first_apart, uniform
from parity_tests.harness.recordings import Recording

X = np.random.default_rng(0).normal(size=(4, 5, 3))
"""`[batch, time, channels]`, which Conv1d has as `[batch, channels, time]`."""


class InJax(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv, self.head = nnx.Conv(3, 4, 1, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.drop(self.head(jnp.tanh(self.drop(self.conv(x))).mean(1)))


class InTorch(nn.Module):
    def __init__(self, rate: float = 0.3) -> None:
        super().__init__()
        self.conv, self.head, self.drop = nn.Conv1d(3, 4, 1), nn.Linear(4, 2), nn.Dropout(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.head(torch.tanh(self.drop(self.conv(x.mT))).mean(2)))


class Once(InTorch):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.head(torch.tanh(self.conv(x.mT)).mean(2)), 0.3, self.training)


def loss(y: Any) -> Any:
    return (y**2).mean()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("dropout") / "jax.safetensors"
    return record(InJax(), path, X, loss=loss, train=True, share_dropout=True, key=3)


def test_outputs_and_gradients_in_training_agree(recorded: Recording) -> None:
    assert recorded.about["masks"] == [[4, 5, 4], [4, 2]]
    report = assert_parity(recorded, None, InTorch(), losses=loss, share_dropout=True)
    assert report.findings[-1].level == "every gradient"
    assert not report.unexercised


def test_another_dropout_is_a_difference(recorded: Recording) -> None:
    assert not compare_modules(recorded, None, InTorch(0.31), losses=loss).passed
    report = compare_modules(recorded, None, Once(), losses=loss)
    assert report.diagnosis is not None
    assert "Dropout takes other masks: number 1 is [4, 5, 4] in JAX and [4, 2] in" in report.diagnosis.difference


def test_masks_are_shared_by_both_or_by_none(recorded: Recording, tmp_path: Path) -> None:
    names = ("own", "one", "other", "again")
    options: list[dict[str, Any]] = [{}, *({"share_dropout": True, "key": key} for key in (0, 1, 0))]
    module = InTorch()
    made = [
        record(module, tmp_path / f"{name}.safetensors", X, train=True, **one)
        for name, one in zip(names, options, strict=True)
    ]
    assert made[1].part("outputs")["output"].tolist() != made[2].part("outputs")["output"].tolist()
    assert compare_recordings(made[1], made[3]).passed
    for one, other, message in ((0, 1, "one.* was recorded with share_dropout=True and .*own.* without"),
                                (1, 2, "have not the same key: 0 and 1")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            compare_recordings(made[one], made[other])
    with pytest.raises(InputError, match=r"share_dropout: .*own.* was recorded with False, found True"):
        compare_modules(made[0], None, module, share_dropout=True)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 4, 4, 4), (2, 3, 2, 3, 2), (4, 6, 6)])
def test_a_mask_is_the_same_in_both_layouts(shape: tuple[int, ...]) -> None:
    numbers = uniform(7, 1, shape)
    moved = shape[:1] + shape[2:] + shape[1:2]
    assert np.array_equal(np.moveaxis(numbers, 1, -1), uniform(7, 1, moved))
    assert not np.array_equal(numbers, uniform(7, 2, shape))
    assert first_apart([shape, (2,)], [moved, (2,)]) is None
    assert first_apart([shape], [moved, (2,)]) == 1
    assert first_apart([shape], [(shape[0] + 1, *shape[1:])]) == 0


def test_masks_are_uniform() -> None:
    numbers = uniform(0, 0, (30, 20, 20, 20))
    assert abs(numbers.mean() - 0.5) < 3e-3
    assert abs((numbers < 0.1).mean() - 0.1) < 3e-3
    assert uniform(0, 0, ()).shape == ()
