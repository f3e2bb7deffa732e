"""--config: flags from a TOML file or a run's config.json, which those of the command line change."""

import json
from pathlib import Path

import pytest

import torchvae
from jaxvae.shared import cli
from jaxvae.shared.commands.train import Train
from jaxvae.shared.runs import run_folder
from jaxvae.shared.runs.config_file import expanded
from parity_tests.support.backends import lean
from parity_tests.support.cli import PACKAGES, run

pytestmark = pytest.mark.either

FLAGS = """
data = "digits"
max-steps = 2
[model]
hidden = [7, 5]
latent = 3
[training]
learning_rate = 2e-3
[images]
resize = true
flip = false
"""

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def parsed(*arguments: object) -> Train:
    given = [*map(str, arguments)]
    return cli._parse("torchvae", expanded(given, cli._entry("torchvae", given).flags))


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
def test_a_run_from_a_file_and_the_same_run_from_its_configuration(package, capsys, tmp_path) -> None:
    (tmp_path / "flags.toml").write_text(FLAGS)
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(package, capsys, "train", "--config", tmp_path / "flags.toml", "--latent", 4, "--out", first)[0] == 0
    assert run(package, capsys, "train", "--config", first / "config.json", "--out", again)[0] == 0
    specs = [run_folder.read(path).spec for path in (first, again)]
    assert specs[0] == specs[1]
    assert (specs[0].model.hidden, specs[0].model.latent, specs[0].training.learning_rate) == ((7, 5), 4, 2e-3)
    assert (specs[0].data, specs[0].images.resize, specs[0].training.max_steps) == ("digits", True, 2)
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_a_file_chooses_the_preset_and_a_sweeps_lists(tmp_path: Path) -> None:
    file = tmp_path / "flags.toml"
    file.write_text('preset = "conv"\nlatent = 9\nout = "runs/x"\n')
    command = parsed("train", "--config", file)
    assert (command.spec.model.network, command.spec.model.latent, command.out) == ("conv", 9, Path("runs/x"))
    assert parsed("train", f"--config={file}", "--preset", "iwae").spec.objective.form == "iwae"
    file.write_text('seeds = ["0:3"]\nbeta = [0.5, 2]\nhow = "one-by-one"\n')
    sweep = parsed("sweep", "--config", file, "--beta", 1)
    assert (sweep.seeds, sweep.beta, sweep.how) == (("0:3",), (1.0,), "one-by-one")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "flags", "says"),
    [
        ("a.toml", "laten = 3", "", "has an unknown key 'laten' (did you mean latent?); its keys are flags of train"),
        ("a.toml", "[modle]\nlatent = 3", "", "has an unknown table 'modle' (did you mean model?); a table is one of"),
        ("a.toml", "latent = ", "", "can't be read as TOML (Invalid value"),
        ("a.toml", "latent = 2020-01-01", "", "latent must be a text, a number, true, false or a list, found"),
        ("a.toml", "resume = 'runs/a'", "", "has an unknown key 'resume'"),
        ("a.toml", "\xff", "", "can't be read as TOML"),
        ("a.toml", "latent = 3", "--resume runs/a", "--resume uses the run's own configuration; leave out --config."),
        ("config.json", "{", "", "can't be read as JSON"),
        ("config.json", "{}", "--preset conv", "is the whole configuration of a run; leave out --preset, or --config."),
        ("none/config.json", None, "", "is no file; give a run's config.json, or a TOML file of flags."),
    ],
)
def test_a_file_of_no_flags_is_refused(name: str, content: str | None, flags: str, says: str, capsys, tmp_path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    out = tmp_path / "run"
    status, _, err = run(torchvae, capsys, "train", "--config", file, *flags.split(), "--out", out)
    assert (status, err.count("\n")) == (2, 1)
    assert says in err
    assert not out.exists()


def test_a_sweep_of_a_runs_configuration_has_its_seed(tmp_path: Path) -> None:
    (tmp_path / "flags.toml").write_text(FLAGS + "shift = 5\n")
    arguments = ["train", "--config", str(tmp_path / "flags.toml"), "--seed", "6", "--out", str(tmp_path / "run")]
    assert cli.main(torchvae, arguments) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["spec"]["images"]["shift"] == 5
    sweep = parsed("sweep", "--config", tmp_path / "run")
    assert (sweep.seeds, sweep.learning_rate, sweep.spec.images.shift) == (("6",), (2e-3,), 5)  # type: ignore[attr-defined]
