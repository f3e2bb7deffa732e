"""The comparison of imported models with the programs' own classes, on a clone that the test makes."""

import json
import subprocess
from pathlib import Path

import jax
import pytest

import import_check
from jaxvae.shared.errors import InputError

# In a notebook, beside what can't be executed here.
CELLS = """
import nowhere
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

train()
"""


@pytest.fixture(autouse=True)
def _x64_off():
    yield
    jax.config.update("jax_enable_x64", False)


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
def test_a_program_is_compared(activation: str, status: int, tmp_path, capsys) -> None:
    assert import_check.main(import_check.ImportCheck(clone(tmp_path, activation))) == status
    head, _, row = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == list(import_check._HEAD)
    title, commit, *gaps = (cell.strip() for cell in row.split("|")[1:-1])
    assert (title, len(commit)) == ("lyeoni/pytorch-mnist-VAE", 7)
    assert [float(gap) <= 1e-12 for gap in gaps] == [True, True, not status, not status]


def test_a_folder_without_clones_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"must contain clones named .* and has none of them"):
        import_check.main(import_check.ImportCheck(tmp_path))
    (tmp_path / "pyro").mkdir()
    with pytest.raises(InputError, match="pyro is not a clone that has its files: git says"):
        import_check.main(import_check.ImportCheck(tmp_path))
