"""Compare what `import` makes of known programs with the programs' own classes: scripts/import_check.py --help"""

import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import safetensors.torch
import torch
import tyro
from torch import Tensor, nn

import jaxvae
import torchvae
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import markdown_table

_IMAGES, _TOLERANCE = 16, 1e-12
_HEAD = ("program", "commit", "mean", "log-variance", "pixels", "loss")


@dataclass(frozen=True)
class ImportCheck:
    """Compare imported models with the classes of the programs that they come from, in float64.

    FOLDER contains a git clone of each program's repository, under the repository's own name. Their class and function
    definitions are executed, and nothing else of them: clone only what you trust. Of each program a model with random
    weights is saved as a PyTorch pickle, which torchvae imports, and as safetensors, which jaxvae imports. The columns
    are the largest differences of either package, as a share of the largest magnitude or of 1. Exit status 0 if all are
    at most 1e-12, else 1.

    Example: python scripts/import_check.py clones"""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder with the clones. Programs without one are left out."""


class Program(NamedTuple):
    """A program, and how its classes are called."""

    title: str
    repository: str
    files: tuple[str, ...]
    """Python files and notebooks in it that define the classes."""
    build: Callable[[dict[str, Any]], nn.Module]
    """Makes the model from what the files define, with the program's own sizes."""
    encode: Callable[[Any, Tensor, list[Tensor]], tuple[Tensor, Tensor]]
    """Mean and log-variance of images `[n, pixels]`; the list holds the labels, if there are any."""
    decode: Callable[[Any, Tensor, list[Tensor]], Tensor]
    """The pixels' means, of latents `[n, latent]`."""
    loss: str = ""
    """The function of reconstruction, images, mean and log-variance that gives its loss; empty if it has none."""
    mean_loss: bool = False
    """Whether that is a mean over images, not a sum."""
    reverse: bool = False
    """Whether the loss takes the images before their reconstruction."""
    classes: int = 0


def _pyro_encode(model: Any, x: Tensor, labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    mean, sigma = model.encoder(x)
    return mean, 2 * sigma.log()


def _timbmg(ns: dict[str, Any], **kinds: Any) -> nn.Module:
    return ns["VAE"]([784, 256], 2, [256, 784], **kinds)


_TIMBMG: dict[str, Any] = {
    "repository": "VAE-CVAE-MNIST",
    "files": ("utils.py", "models.py", "train.py"),
    "encode": lambda model, x, labels: model.encoder(x, *labels),
    "decode": lambda model, z, labels: model.inference(z, *labels),
    "loss": "loss_fn",
    "mean_loss": True,
}

PROGRAMS = (
    Program(
        "Pyro, examples/vae",
        "pyro",
        ("examples/vae/vae.py",),
        lambda ns: ns["VAE"](),
        _pyro_encode,
        lambda model, z, labels: model.decoder(z),
    ),
    Program(
        "Jackson-Kang/Pytorch-VAE-tutorial",
        "Pytorch-VAE-tutorial",
        ("01_Variational_AutoEncoder.ipynb",),
        lambda ns: ns["Model"](ns["Encoder"](784, 400, 200), ns["Decoder"](200, 400, 784)),
        lambda model, x, labels: model.Encoder(x),
        lambda model, z, labels: model.Decoder(z),
        "loss_function",
        reverse=True,
    ),
    Program("timbmg/VAE-CVAE-MNIST, VAE", build=_timbmg, **_TIMBMG),
    Program(
        "timbmg/VAE-CVAE-MNIST, CVAE",
        build=lambda ns: _timbmg(ns, conditional=True, num_labels=10),
        classes=10,
        **_TIMBMG,
    ),
    Program(
        "lyeoni/pytorch-mnist-VAE",
        "pytorch-mnist-VAE",
        ("pytorch-mnist-VAE.ipynb",),
        lambda ns: ns["VAE"](784, 512, 256, 2),
        lambda model, x, labels: model.encoder(x),
        lambda model, z, labels: model.decoder(z),
        "loss_function",
    ),
)


def main(options: ImportCheck) -> int:
    """Compare, print the table, and return the exit status. Raises InputError if there is no clone to compare."""
    jax.config.update("jax_enable_x64", True)
    rows = [row for program in PROGRAMS if (row := _row(program, options.folder)) is not None]
    if not rows:
        wanted = ", ".join(sorted({program.repository for program in PROGRAMS}))
        raise InputError(f"{options.folder} must contain clones named {wanted}, and has none of them.")
    shown = [(title, commit, *("" if gap is None else f"{gap:.1e}" for gap in gaps)) for title, commit, gaps in rows]
    print(markdown_table(_HEAD, shown))
    return int(not all(gap is None or gap <= _TOLERANCE for _, _, gaps in rows for gap in gaps))


def _row(program: Program, folder: Path) -> tuple[str, str, list[float | None]] | None:
    """The program's title, its commit, and the largest differences."""
    clone = folder / program.repository
    if not clone.is_dir():
        return None
    model, definitions = _prepared(program, clone)
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(_IMAGES, 784)), rng.integers(0, 10, _IMAGES)
    given = [torch.tensor(labels)] if program.classes else []
    with torch.no_grad():
        mean, logvar = program.encode(model, torch.tensor(images), given)
        eps = rng.normal(size=mean.shape)
        z = mean + (logvar / 2).exp() * torch.tensor(eps)
        pixels = program.decode(model, z, given)
        expected = {"mean": mean, "logvar": logvar, "pixels": pixels}
        if program.loss:
            pair = (torch.tensor(images), pixels) if program.reverse else (pixels, torch.tensor(images))
            loss = definitions[program.loss](*pair, mean, logvar)
            expected["loss"] = loss if program.mean_loss else loss / len(images)
    gaps: dict[str, float] = {}
    for package, path in _saved(model):
        actual = _answers(package, path, images, eps, labels if program.classes else None)
        for name, value in expected.items():
            size = np.abs(actual[name] - value.numpy()).max() / max(1.0, float(value.abs().max()))
            gaps[name] = max(gaps.get(name, 0.0), float(size))
    return program.title, _git(clone, "rev-parse", "--short=7", "HEAD").strip(), [gaps.get(name) for name in _NAMES]


_NAMES = ("mean", "logvar", "pixels", "loss")


def _prepared(program: Program, clone: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A model with random weights, and what the program's files define."""
    definitions: dict[str, Any] = {"torch": torch, "nn": nn, "F": nn.functional, "np": np}
    for file in program.files:
        nodes = list(_definitions(ast.parse(_source(clone, file))))
        exec(compile(ast.Module(nodes, []), file, "exec"), definitions)
    torch.manual_seed(0)
    return program.build(definitions).double().eval(), definitions


def _saved(model: nn.Module) -> Iterator[tuple[ModuleType, Path]]:
    """The model in a file for each package, while it is read."""
    with tempfile.TemporaryDirectory() as folder:
        pickle, tensors = Path(folder, "model.pt"), Path(folder, "model.safetensors")
        torch.save(model.state_dict(), pickle)
        safetensors.torch.save_file(model.state_dict(), tensors)
        yield from ((torchvae, pickle), (jaxvae, tensors))


def _answers(
    package: Any, path: Path, images: np.ndarray, eps: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What the imported model gives for the images."""
    array = torch.tensor if package is torchvae else jax.numpy.asarray
    spec, weights = package.load_foreign(path)
    x, noise, given = array(images), array(eps), None if labels is None else array(labels)
    with torch.no_grad():
        posterior = package.encode(spec, weights, x, given)
        pixels = package.pixel_means(spec, package.decode(spec, weights, package.locate(posterior, noise), given))
        terms = package.image_terms(spec, weights, x, package.Draws(noise, None, None, ()), given)
    answers = {"mean": posterior.mean, "logvar": posterior.logvar, "pixels": pixels, "loss": terms.loss.mean()}
    return {name: np.asarray(answer) for name, answer in answers.items()}


def _definitions(tree: ast.AST) -> Iterator[ast.stmt]:
    """The classes and functions of a file, those inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node
        if not isinstance(node, ast.ClassDef):
            yield from _definitions(node)


def _source(clone: Path, file: str) -> str:
    text = _git(clone, "show", f"HEAD:{file}")
    if not file.endswith(".ipynb"):
        return text
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!")))


def _git(clone: Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise InputError(
            f"{clone} is not a clone that has its files: git says {result.stderr.strip()}; clone it again."
        )
    return result.stdout


if __name__ == "__main__":
    try:
        join_help(ImportCheck)
        sys.exit(main(parse(ImportCheck)))
    except InputError as error:
        print(f"import_check: {error}", file=sys.stderr)
        sys.exit(2)
