"""Compare what `import` makes of known programs with the programs' own classes: scripts/import_check.py --help"""

import contextlib
import io
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from tqdm import tqdm

import jaxvae.objectives
import torchvae.objectives
from import_programs import convolutional, layered, linen, perceptrons
from import_programs.definitions import Code, git
from import_programs.program import Batch, Program
from jaxvae.shared import cli
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import markdown_table

_IMAGES, _TOLERANCE = 16, 1e-12
_NAMES = ("mean", "second", "pixels", "loss")
_HEAD = ("program", "commit", "mean", "log-variance", "pixels", "loss", "constant")

PROGRAMS = (*perceptrons.PROGRAMS, *linen.PROGRAMS, *convolutional.PROGRAMS, *layered.PROGRAMS)


@dataclass(frozen=True)
class ImportCheck:
    """Compare imported models with the classes of the programs that they come from, in float64.

    FOLDER contains a git clone of each program's repository, under the repository's own name. The imports of modules
    that are required here, the definitions of classes and functions, and the parts of the loss that are in no function
    are executed, and nothing else of their files: clone only what you trust. Of each program a model with random
    weights is saved as the program saves it, and imported with both packages. The columns are the largest differences
    of either package on the same images and noise, as a share of the largest magnitude or of 1; of an encoder that
    gives a standard deviation, this in place of the log-variance. The constant is by how many nats per image `import`
    says that the loss is higher here, and is subtracted. Exit status 0 if no difference is above 1e-12, else 1.

    Example: python scripts/import_check.py clones"""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder with the clones. Programs without one are left out."""


class Row(NamedTuple):
    """The comparison of one program."""

    program: Program
    commit: str
    gaps: dict[str, float]
    """The largest differences by name."""
    constants: set[str]
    """What `import` says of the loss in either package; empty if nothing."""

    @property
    def passed(self) -> bool:
        expected = f"{self.program.constant:.2f}" if self.program.constant else ""
        return self.constants == {expected} and all(gap <= _TOLERANCE for gap in self.gaps.values())

    @property
    def cells(self) -> tuple[str, ...]:
        gaps = (_shown(self.gaps[name]) if name in self.gaps else "" for name in _NAMES)
        flags = _flags(self.program)
        title = f"{self.program.title}, `{' '.join(flags)}`" if flags else self.program.title
        return title, self.commit, *gaps, " or ".join(sorted(self.constants))


def _shown(gap: float) -> str:
    return f"{gap:.1e}" if gap else "0"


def main(options: ImportCheck) -> int:
    """Compare, print the table, and return the exit status. Raises InputError if there is no clone to compare."""
    jax.config.update("jax_enable_x64", True)
    clones = [(program, options.folder / program.repository) for program in PROGRAMS]
    present = [(program, clone) for program, clone in clones if clone.is_dir()]
    rows = [_compared(*pair) for pair in tqdm(present, "Programs", leave=False, disable=None)]
    if not rows:
        wanted = ", ".join(sorted({program.repository for program in PROGRAMS}))
        raise InputError(f"{options.folder} must contain clones named {wanted}, and has none of them.")
    print(markdown_table(_HEAD, [row.cells for row in rows]))
    return int(not all(row.passed for row in rows))


def _compared(program: Program, clone: Path) -> Row:
    """Compare both packages' import of a program's model with the model."""
    commit = git(clone, "rev-parse", "--short=7", "HEAD").strip()
    code = Code(clone, program.files, program.assigned, program.names)
    torch.manual_seed(0)
    model = _double(program.build(code))
    rng = np.random.default_rng(0)
    height, width, channels = program.image
    images = rng.uniform(-1 if program.given.get("range") == "signed" else 0, 1, (_IMAGES, channels, height, width))
    labels = rng.integers(0, program.classes, _IMAGES) if program.classes else None
    with torch.no_grad():
        batch = _batch(program, model, torch.tensor(images), labels, rng)
        pixels = _flattened(batch.pixels.reshape(images.shape))
        loss = None if program.loss is None else program.loss(code, model, batch)
    expected = {"mean": batch.mean, "second": batch.second, "pixels": pixels, "loss": loss}
    gaps: dict[str, float] = {}
    constants = set()
    with tempfile.TemporaryDirectory() as folder:
        path = program.save(code, model, Path(folder))
        for package in (jaxvae, torchvae):
            out = Path(folder, package.__name__)
            constants.add(_imported(package, path, out, program))
            actual = _answers(package, out, program, _flattened(torch.tensor(images)), batch.eps.numpy(), labels)
            for name, value in expected.items():
                if value is not None:
                    gaps[name] = float(np.maximum(gaps.get(name, 0.0), _gap(actual[name], np.asarray(value))))
    return Row(program, commit, gaps, constants)


def _gap(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest magnitude or of 1; infinite if the shapes differ."""
    if actual.shape != expected.shape:
        return np.inf
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


def _double(model: Any) -> Any:
    """A module in float64 and in evaluation mode, whose batch norms don't have the statistics they begin with."""
    if isinstance(model, nn.Module):
        model = model.double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in module.state_dict().values():
                    if tensor.is_floating_point():
                        nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def _batch(program: Program, model: Any, images: Tensor, labels: np.ndarray | None, rng: np.random.Generator) -> Batch:
    """What the program makes of images `[n, channels, height, width]`."""
    x, given = images.flatten(1) if program.flat else images, [] if labels is None else [torch.tensor(labels)]
    mean, second = program.encode(model, x, given)
    eps = torch.tensor(rng.normal(size=mean.shape))
    z = mean if second is None else mean + (second if program.scale else (second / 2).exp()) * eps
    return Batch(x, given, mean, second, eps, z, program.decode(model, z, given))


def _flattened(images: Tensor) -> np.ndarray:
    """Images `[n, channels, height, width]` as the packages flatten them: height, width, channel."""
    return images.permute(0, 2, 3, 1).flatten(1).numpy()


def _imported(package: Any, path: Path, out: Path, program: Program) -> str:
    """Import a checkpoint, and return the constant that the command prints, or an empty text."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as errors:
        status = cli.main(package, ["import", str(path), "--out", str(out), *_flags(program)])
    if status:
        raise InputError(f"The import of {program.title} failed: {errors.getvalue().strip()}")
    constant = re.search(r"the loss here has .* constant, (\S+) nats per image", printed.getvalue())
    return constant[1] if constant else ""


def _flags(program: Program) -> list[str]:
    return [word for name, value in program.given.items() for word in (f"--{name}", value)]


def _answers(
    package: Any, run: Path, program: Program, images: np.ndarray, eps: np.ndarray, labels: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What the imported model gives for images `[n, pixels]`, and its loss without the constant."""
    array = torch.tensor if package is torchvae else jax.numpy.asarray
    spec, weights = package.load(run / "model.safetensors")
    spec = replace(spec, objective=replace(spec.objective, **program.objective))
    x, noise, given = array(images), array(eps), None if labels is None else array(labels)
    with torch.no_grad():
        posterior = package.encode(spec, weights, x, given)
        pixels = package.pixel_means(spec, package.decode(spec, weights, package.locate(posterior, noise), given))
        terms = package.image_terms(spec, weights, x, package.Draws(noise, None, None, ()), given)
    loss = terms.loss.mean()
    if spec.objective.form == "capacity":  # of the mean divergence, as in training
        loss = package.objectives.capacity_loss(spec, terms.reconstruction.mean(), terms.kl.mean(), None)
    answers = {"pixels": pixels, "loss": (loss - program.constant) * spec.minimized}
    answers |= dict(
        zip(_NAMES, posterior, strict=False)
    )  # mean, and log-variance or standard deviation, if there is one
    return {name: np.asarray(answer) for name, answer in answers.items()}


if __name__ == "__main__":
    try:
        join_help(ImportCheck)
        warnings.simplefilter("ignore")  # of what the programs call that is deprecated
        sys.exit(main(parse(ImportCheck)))
    except InputError as error:
        print(f"import_check: {error}", file=sys.stderr)
        sys.exit(2)
