"""Files that version 0.1.0 wrote are opened, resumed, evaluated and reported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, measures_record, metrics, parity_record, run_folder
from parity_tests.harness.compare import gap

pytestmark = pytest.mark.either

EARLIER = Path(__file__).parents[2] / "golden" / "version_0_1_0"
PACKAGES = {"jaxvae": jaxvae, "torchvae": torchvae}
TOLERANCE = 1e-12  # float64: 25 further steps, whose sums another processor may add in another order


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest, x64):
    return PACKAGES[request.param]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A copy, since commands write into run folders."""
    return Path(shutil.copytree(EARLIER, tmp_path / "earlier"))


@pytest.mark.parametrize("run", ["stopped-jaxvae", "stopped-torchvae"])
def test_a_run_is_resumed_to_the_end_of_an_uninterrupted_one(package, earlier: Path, run: str) -> None:
    assert cli.main(package, ["train", "--resume", str(earlier / run), "--max-steps", "45", "--device", "cpu"]) == 0
    resumed, whole = (run_folder.read(earlier / name) for name in (run, "whole"))
    ends = [weight_file.load_checkpoint(checkpoints.path(folder, 45)) for folder in (resumed, whole)]
    assert gap(ends[0].weights, ends[1].weights) < (TOLERANCE,)
    assert gap(ends[0].optimizer, ends[1].optimizer) < (TOLERANCE,)
    last, expected = (metrics.read(folder)[-1] for folder in (resumed, whole))
    assert last["step"] == expected["step"] == 45
    np.testing.assert_allclose(last["loss"], expected["loss"], rtol=TOLERANCE)


def test_a_weight_file_is_read_as_it_was_written(package) -> None:
    spec, arrays = weight_file.load(EARLIER / "whole" / "model.safetensors")
    loaded, weights = package.load(EARLIER / "whole" / "model.safetensors")
    assert loaded == spec == run_folder.read(EARLIER / "whole").spec
    for name, array in package.to_arrays(spec, weights).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_runs_records_are_read() -> None:
    jax, torch = (run_folder.read(EARLIER / name) for name in ("stopped-jaxvae", "stopped-torchvae"))
    measures = measures_record.read(jax)
    assert set(measures) == {
        *("terms", "active-units", "kl-by-latent", "squared-error"),
        *("log-likelihood", "mutual-information", "quadrature"),
    }
    assert measures["terms"]["loss"] == metrics.read(jax)[-1]["loss"]
    agreement = parity_record.read(torch)
    assert agreement is not None
    assert agreement.passed
    assert [level.level for level in agreement.levels][:2] == ["key streams", "normals"]


def test_a_sweep_is_known_as_finished(earlier: Path, capsys) -> None:
    before = json.loads((earlier / "sweep" / "sweep.json").read_text())
    stamps = {path: path.stat().st_mtime_ns for path in (earlier / "sweep").rglob("*.safetensors")}
    flags = "--data digits --image 8 8 1 --hidden 6 --latent 2 --batch-size 100 --dtype float64 --epochs 3 --device cpu"
    command = ["sweep", *flags.split(), "--seeds", "0:2", "--beta", "1", "2", "--train-images", "200"]
    assert cli.main(torchvae, [*command, "--out", str(earlier / "sweep")]) == 0
    assert json.loads((earlier / "sweep" / "sweep.json").read_text()) == before
    assert {path: path.stat().st_mtime_ns for path in (earlier / "sweep").rglob("*.safetensors")} == stamps
    assert "45.776 ± 0.056" in capsys.readouterr().out


def test_runs_are_reported(earlier: Path, tmp_path: Path) -> None:
    runs = [str(earlier / name) for name in ("stopped-jaxvae", "stopped-torchvae")]
    assert cli.main(torchvae, ["report", *runs, "--out", str(tmp_path / "report.html"), "--device", "cpu"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "44.509" in page  # the test loss in metrics.jsonl
    assert "active units" in page  # from measures.json
    assert "jaxvae and torchvae agree" in page  # from agreement.json
