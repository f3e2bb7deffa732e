"""The comparison of imported models with the programs' own classes, on a clone that the test makes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.torch

import import_check
from import_programs.definitions import Code
from jaxvae.shared.errors import InputError

# In a notebook, beside what can't be executed here.
CELLS = """
import nowhere, torch
import torch.nn.functional as F
from nowhere.else_ import *
from torch import nn
%matplotlib inline
class VAE(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        sizes = [*zip(widths, widths[1:]), (widths[2], widths[3]), *zip(widths[::-1], widths[-2::-1])]
        for name, size in zip("fc1 fc2 fc31 fc32 fc4 fc5 fc6".split(), sizes):
            setattr(self, name, nn.Linear(*size))

    def encoder(self, x):
        h = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return self.fc31(h), self.fc32(h)

    def decoder(self, z):
        return torch.sigmoid(self.fc6(torch.relu(self.fc5(torch.ACTIVATION(self.fc4(z))))))

def train():
    raise NotImplementedError

def loss_function(pixels, x, mean, logvar):
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
    return F.binary_cross_entropy(pixels, x, reduction="sum") + kl

double = lambda x: 2 * x
single = train()
for _ in range(1):
    square = x**2
    result = square + other

train()
"""


@pytest.fixture(autouse=True)
def _x64_off():
    yield
    jax.config.update("jax_enable_x64", False)


def saved(code: Code, model: Any, folder: Path) -> Path:
    """A file that jaxvae reads without starting torch."""
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def clone(folder: Path, activation: str) -> Path:
    """A clone of lyeoni's program."""
    repository = folder / "pytorch-mnist-VAE"
    repository.mkdir()
    source = CELLS.replace("ACTIVATION", activation).splitlines(keepends=True)
    notebook = {"cells": [{"cell_type": "code", "source": source}, {"cell_type": "markdown", "source": ["# 1"]}]}
    (repository / "pytorch-mnist-VAE.ipynb").write_text(json.dumps(notebook))
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "A program"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True)
    return folder


@pytest.mark.parametrize(("activation", "status"), [("relu", 0), ("tanh", 1)])
def test_a_program_is_compared(activation: str, status: int, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(import_check, "PROGRAMS", [p._replace(save=saved) for p in import_check.PROGRAMS])
    assert import_check.main(import_check.ImportCheck(clone(tmp_path, activation))) == status
    head, _, row = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == list(import_check._HEAD)
    title, commit, *gaps, constant = (cell.strip() for cell in row.split("|")[1:-1])
    assert (title, len(commit), constant) == ("lyeoni/pytorch-mnist-VAE", 7, "")
    assert [float(gap) <= 1e-12 for gap in gaps] == [True, True, not status, not status]


def test_a_constant_that_import_does_not_print_fails_the_check() -> None:
    program = import_check.PROGRAMS[0]._replace(constant=720.448)
    rows = [
        import_check.Row(program, "", {"loss": gap}, {said})
        for gap, said in ((0.0, "720.45"), (0.0, ""), (1e-9, "720.45"), (np.nan, "720.45"))
    ]
    assert [row.passed for row in rows] == [True, False, False, False]
    assert rows[0].cells == (program.title, "", "", "", "", "0", "720.45")


def test_a_gap_is_not_hidden_by_nan_or_by_broadcasting() -> None:
    assert import_check._gap(np.ones((2, 1)), np.ones((2, 3))) == np.inf
    assert np.isnan(import_check._gap(np.array([1.0, np.nan]), np.ones(2)))
    assert import_check._gap(np.array([3.0, 1.0]), np.array([4.0, 1.0])) == 0.25


def test_of_a_file_only_definitions_and_what_is_asked_for_are_executed(tmp_path) -> None:
    code = Code(clone(tmp_path, "relu") / "pytorch-mnist-VAE", ["pytorch-mnist-VAE.ipynb"], ["double"], {"other": 1})
    assert (code["double"](3), code["other"], code.evaluate(["square", "result"], x=3)) == (6, 1, 10)
    with pytest.raises(KeyError):
        code["single"]


def test_a_folder_without_clones_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"must contain clones named .* and has none of them"):
        import_check.main(import_check.ImportCheck(tmp_path))
    (tmp_path / "pyro").mkdir()
    with pytest.raises(InputError, match="pyro is not a clone that has its files: git says"):
        import_check.main(import_check.ImportCheck(tmp_path))
