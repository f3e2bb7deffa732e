"""The list of runs, what stands in it and in which order; and the runs that a folder or a pattern stands for."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands import compare, curves
from jaxvae.shared.config.presets import preset
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.runs import lock, run_folder
from parity_tests.support.cli import at_step, fails, run
from parity_tests.support.numpy_backend import NUMPY_BACKEND, SIZES, copy

pytestmark = pytest.mark.either

FLAGS = "--data digits --hidden 16 --latent 3 --epochs 2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of runs in every state, beside what is none."""
    folder = tmp_path_factory.mktemp("list") / "runs"
    whole = folder / "run-9"
    assert cli.main(NUMPY_BACKEND, ["train", *SIZES, "--epochs", "2", "--out", str(whole)]) == 0
    at_step(whole, folder / "run-10", 12)
    lines = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "run-10" / "metrics.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])  # killed as it wrote
    copy(whole, folder / "sweep" / "running")
    config = json.loads((whole / "config.json").read_text())
    write_imported(folder / "sweep" / "imported", config)
    copy(at_step(whole, folder / "sweep" / "diverged", 12), folder / "sweep" / "deep" / "er" / "spoilt")
    config["sessions"][-1]["diverged"] = "the loss became nan"
    (folder / "sweep" / "diverged" / "config.json").write_text(json.dumps(config))
    (folder / "sweep" / "diverged" / "metrics.jsonl").write_bytes(b"")
    (folder / "sweep" / "deep" / "er" / "spoilt" / "config.json").write_text("{")
    for name in ("export", "logs/checkpoints"):  # other programs' folders
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text('{"model": 1}')
    (folder / "logs" / "metrics.jsonl").write_text("")
    (folder / "logs" / "config.json").write_text('{"version": 3}')
    (folder / "notes.txt").write_text("")
    (folder / "link").symlink_to(whole)
    copy(whole, folder / ".hidden")
    return folder


def write_imported(path: Path, config: dict[str, Any]) -> None:
    data = {"asked": "mnist", "name": "mnist", "source": "unknown"}
    settings = {"framework": "torchvae", "preset": "conv", "log_every": None, "checkpoint_every": None, "keep": 2}
    spec, imported = run_folder.to_json(preset("conv")), {"source": "a program"}
    spec["data"] = "mnist"
    content = {"version": config["version"], **settings, "data": data, "sessions": [], "imported": imported}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**content, "spec": spec}))
    for name in ("metrics.jsonl", "model.safetensors"):
        (path / name).write_bytes(b"")


def listed(package: Backend, capsys, folder: Path, *flags: str) -> list[dict[str, Any]]:
    status, out, err = run(package, capsys, "list", folder, "--json", *flags)
    assert (status, err) == (0, "")
    return json.loads(out)


def test_every_state_and_nothing_that_is_no_run(package, runs, capsys) -> None:
    handle = lock.acquire(runs / "sweep" / "running")
    rows = listed(package, capsys, runs)
    table = run(package, capsys, "list", runs)[1].splitlines()
    lock.release(runs / "sweep" / "running", handle)
    assert not (runs / "run-9" / ".lock").exists(), "looking changes nothing"
    loss = {
        path: json.loads((runs / path / "metrics.jsonl").read_bytes().splitlines()[i])["loss"]
        for path, i in {"run-9": 3, "run-10": 1}.items()
    }
    assert [tuple(row.values())[:-2] for row in rows] == [
        ("run-9", "jaxvae", "pytorch-examples", FLAGS, 24, 24, loss["run-9"], "finished"),
        ("run-10", "jaxvae", "pytorch-examples", FLAGS, 12, 24, loss["run-10"], "stopped"),
        ("sweep/deep/er/spoilt", None, None, None, None, None, None, "damaged"),
        ("sweep/diverged", "jaxvae", "pytorch-examples", FLAGS, 12, 24, None, "diverged"),
        ("sweep/imported", "torchvae", "conv", "--data mnist", None, None, None, "imported"),
        ("sweep/running", "jaxvae", "pytorch-examples", FLAGS, 24, 24, loss["run-9"], "running"),
    ]
    assert [row["error"] for row in rows if row["state"] == "diverged"] == ["the loss became nan"]
    assert table[0].split() == ["run", "framework", "preset", "flags", "step", "test", "loss", "state"]
    assert [line.split()[0] for line in table[1:]] == [row["path"] for row in rows]
    assert table[2].split()[-5:] == ["12", "of", "24", f"{loss['run-10']:.3f}", "stopped"]
    assert "damaged: " in table[3]
    assert "config.json can't be read as JSON" in table[3]


def test_flags_take_the_room_that_the_terminal_has(runs, capsys, monkeypatch, tmp_path) -> None:
    copy(runs / "run-9", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["spec"]["model"]["hidden"] = [16] * 40
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    flags = " ".join(["--data digits --hidden", *["16"] * 40, "--latent 3 --epochs 2"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for width, seen in ((400, flags), (180, f"{flags[:100]}"), (40, f"{flags[:57]}...  ")):
        monkeypatch.setenv("COLUMNS", str(width))
        table = run(NUMPY_BACKEND, capsys, "list", tmp_path)[1]
        assert seen in table
        assert max(map(len, table.splitlines())) == 180 or width != 180


def test_data_in_the_current_folder_is_shown_without_it(tmp_path, monkeypatch, capsys) -> None:
    write_imported(tmp_path / "runs" / "a", {"version": run_folder.VERSION})
    config = json.loads((tmp_path / "runs" / "a" / "config.json").read_text())
    config["spec"]["data"] = config["data"]["name"] = config["data"]["asked"] = f"npy:{tmp_path}/pictures"
    (tmp_path / "runs" / "a" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    assert "  --data npy:pictures  " in run(NUMPY_BACKEND, capsys, "list")[1]
    assert listed(NUMPY_BACKEND, capsys, Path("runs"))[0]["flags"] == f"--data npy:{tmp_path}/pictures"
    here = run_folder.read(Path("runs/a"))
    other: Any = SimpleNamespace(path="b", spec=preset("conv", data="digits"))
    with pytest.raises(InputError, match=r"The images of b \(digits, .*\) are not those of .*a \(npy:pictures, "):
        compare.require_comparable([here, other])


@pytest.mark.parametrize(
    ("by", "last"), [("loss", "spoilt diverged imported"), ("step", "run-10 diverged spoilt imported")]
)
def test_its_order(runs, capsys, by: str, last: str) -> None:
    """The best or furthest first, then by path; what has no loss or no step comes last."""
    paths = [row["path"] for row in listed(NUMPY_BACKEND, capsys, runs, "--sort", by)]
    assert paths[:2] == ["run-9", "sweep/running"]
    assert [Path(path).name for path in paths[-len(last.split()) :]] == last.split()


def test_one_run_none_and_no_folder(package, runs, capsys, tmp_path) -> None:
    assert [row["path"] for row in listed(package, capsys, runs / "run-9")] == ["."]
    assert listed(package, capsys, tmp_path) == []
    name = package.__name__
    says = f"There are no runs in {tmp_path}; start one with {name} train.\n"
    assert run(package, capsys, "list", tmp_path) == (0, says, "")
    fails(package, capsys, f"no does not exist; give the folder of your runs, .* {name} train", "list", tmp_path / "no")
    fails(package, capsys, "notes.txt is not a folder", "list", runs / "notes.txt")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "it has no config.json"),
        ("config.json", '{"framework": "jaxvae"}', "must be the configuration of a run, version 3, found none"),
        ("metrics.jsonl", None, "has no metrics.jsonl"),
        ("metrics.jsonl", "{}\n", "metrics.jsonl, line 1, is not a record of metrics"),
        ("metrics.jsonl", '{}\n{"step"', "metrics.jsonl, line 1, is not a record of metrics"),
        ("model.safetensors", None, "model.safetensors is missing; restore it, or resume the run"),
    ],
)
def test_a_damaged_run_is_a_row(runs, capsys, tmp_path, file: str, content: str | None, says: str) -> None:
    damaged = copy(runs / "run-9", tmp_path / "run")
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_text(content)
    (row,) = listed(NUMPY_BACKEND, capsys, tmp_path)
    assert (row["path"], row["state"]) == ("run", "damaged")
    assert says in row["error"]


def test_a_run_that_diverges_is_listed_so_until_it_is_resumed(runs, capsys, monkeypatch, tmp_path) -> None:
    path = copy(runs / "run-9", tmp_path / "run")

    def diverge(*of: Any) -> None:
        raise NonFiniteError("Training stopped: the kl became inf.")

    with monkeypatch.context() as patch:
        patch.setattr(type(NUMPY_BACKEND), "fit", staticmethod(diverge))
        assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(path), "--epochs", "3"]) == 3
    (row,) = listed(NUMPY_BACKEND, capsys, tmp_path)
    assert (row["state"], row["step"], row["steps"]) == ("diverged", 24, 36)
    assert row["error"] == "Training stopped: the kl became inf."
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(path)]) == 0
    assert listed(NUMPY_BACKEND, capsys, tmp_path)[0]["state"] == "finished"
    shutil.rmtree(path)


@pytest.mark.parametrize("given", ["folder", "pattern", "expanded"])
def test_a_folder_or_a_pattern_stands_for_its_runs(runs, capsys, monkeypatch, tmp_path, given: str) -> None:
    """Also a pattern that the shell expanded: every path in the folder is given."""
    monkeypatch.setattr(curves, "picture", lambda runs, *how: b"")
    folder, out = copy(runs, tmp_path / "runs"), tmp_path / "curves.png"  # the copy has no links
    lines = (folder / "run-10" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "run-10" / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    expanded = [path for path in sorted(folder.iterdir()) if path.name[0] != "."]
    paths = {"folder": [folder], "pattern": [folder / "*"], "expanded": expanded}[given]
    fails(NUMPY_BACKEND, capsys, "spoilt/config.json can't be read as JSON", "curves", *paths, "--out", out)
    shutil.rmtree(folder / "sweep" / "deep")
    status, printed, err = run(NUMPY_BACKEND, capsys, "curves", *paths, "--out", out)
    assert (status, printed) == (0, f"learning curves of 4 runs in {out}\n")
    none = [] if given == "folder" else ["export (no run)", "logs (no run)", "notes.txt (no run)"]
    left_out = [*none, "sweep/diverged (no metrics yet)", "sweep/imported (imported)"]
    assert err == f"jaxvae: WARNING: left out: {', '.join(str(folder / reason) for reason in left_out)}.\n"


@pytest.mark.parametrize(("command", "out"), [("compare", "a.png"), ("report", "a.html")])
def test_compare_and_report_take_folders_too(
    package, runs, capsys, monkeypatch, tmp_path, command: str, out: str
) -> None:
    def opened(backend: Backend, path: Path, device: str) -> None:
        raise InputError(f"The first is {path}.")

    monkeypatch.setattr(f"jaxvae.shared.commands.{command}.open_run", opened)
    path = copy(runs / "run-9", tmp_path / "runs" / "sweep" / "run")
    fails(package, capsys, f"The first is {re.escape(str(path))}", command, tmp_path, "--out", tmp_path / out)
