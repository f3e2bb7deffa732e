"""Training in bfloat16: in the layers alone, and there in both packages. Rounding to its numbers is off by 2^-8 at
most."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.config.choices import Dtype
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, run_folder
from parity_tests.harness.compare import gap
from parity_tests.support.quick import quick
from parity_tests.support.tiny import small, some
from parity_tests.support.warm import python

PACKAGES = pytest.mark.parametrize("package", [jaxvae, torchvae], ids=["jaxvae", "torchvae"])
# Each layer rounds what it is given, its weights and its sums, on the way there and back.
NEAR = 2.0**-3
TINY = ["train", "--data", "digits", "--hidden", "5", "--latent", "2", "--dtype", "bfloat16", "--device", "cpu"]


def first_step(package, name: str, dtype: Dtype) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The terms, the running statistics after them and Adam's first moment, a tenth of the gradient."""
    spec = small(name)
    spec = replace(spec, training=replace(spec.training, dtype=dtype, max_steps=1))
    parts = []
    state = package.fit(spec, some(spec), on_part=parts.append)
    moments = package.optimizer_to_arrays(spec, state.optimizer if package is torchvae else state.opt_state)
    arrays = package.to_arrays(spec, state[0])
    assert all(a.dtype in (np.float32, np.int32) for a in (*arrays.values(), *moments.values(), parts[0].train))
    running = {n: a for n, a in arrays.items() if "running" in n}
    return parts[0].train[0], running, {n: a for n, a in moments.items() if "exp_avg." in n}


def distance(arrays: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    """Of all together, as a share of the others' length: of one tensor, a unit that ReLU cuts off here and not there
    may be most."""
    actual, expected = (np.concatenate([result[name].ravel() for name in others]) for result in (arrays, others))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", quick(["conditional", "beta-b", "dropout"], ["conditional"]))
def test_a_step_is_that_of_float32_but_for_roundings(name: str) -> None:
    results = {(p, d): first_step(p, name, d) for p in (jaxvae, torchvae) for d in ("float32", "bfloat16")}
    for package in (jaxvae, torchvae):
        (terms, running, grads), (exact, still, slopes) = results[package, "bfloat16"], results[package, "float32"]
        assert 1e-6 < abs(terms[0] / exact[0] - 1) < 2.0**-8, "the loss, which float32 rounds to 1e-7"
        assert gap(running, still).size < NEAR
        assert 1e-4 < distance(grads, slopes) < NEAR
    assert distance(results[jaxvae, "bfloat16"][2], results[torchvae, "bfloat16"][2]) < NEAR


def evaluated(package, spec: Spec) -> tuple:
    dataset, keys = some(spec), (package.root_key(seed) for seed in (3, 4))
    model = package.init_state(spec, dataset.train)[0]
    return package.average_terms(spec, model, dataset.test, next(keys)), package.sample(spec, model, next(keys), 5)


@PACKAGES
def test_all_but_training_is_float32s(package) -> None:
    spec = small("beta-b")
    rounded = replace(spec, training=replace(spec.training, dtype="bfloat16"))
    in_float32, in_bfloat16 = (evaluated(package, s) for s in (spec, rounded))
    for one, other in zip(in_float32, in_bfloat16, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.slow
def test_a_run_stops_and_goes_on_in_either_package(tmp_path: Path) -> None:
    """To the bit in its own; in the other its own roundings follow."""
    pairs: tuple[tuple[Backend, Backend], ...] = ((jaxvae, torchvae), (torchvae, jaxvae))
    for package, other in pairs:
        whole, parts, moved = (tmp_path / f"{package.__name__}-{name}" for name in ("whole", "parts", "moved"))
        cli.main(package, [*TINY, "--max-steps", "9", "--out", str(whole)])
        for path, then in ((parts, package), (moved, other)):
            cli.main(package, [*TINY, "--max-steps", "4", "--out", str(path)])
            cli.main(then, ["train", "--resume", str(path), "--max-steps", "9"])
        ends = [
            weight_file.load_checkpoint(checkpoints.path(run_folder.read(path), 9)) for path in (whole, parts, moved)
        ]
        assert gap(ends[1].weights, ends[0].weights).size == 0
        assert gap(ends[1].optimizer, ends[0].optimizer).size == 0
        assert 0 < gap(ends[2].weights, ends[0].weights).size < NEAR


def test_the_parity_command_compares_what_is_the_same_in_both() -> None:
    result = python("scripts/parity.py", "--dtype", "bfloat16")
    assert result.returncode == 2
    assert "bfloat16" in result.stderr
