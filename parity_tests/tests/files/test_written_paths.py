"""What is written: nothing through a link, nothing into a folder that took a run's place, and each path that fails is
named."""

import ast
import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli, plain_paths, safe_io
from jaxvae.shared.analysis import sweep_summary
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands import report
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.plotting import figure_file, image_grid
from jaxvae.shared.runs import checkpoints, measures_record, run_folder
from jaxvae.shared.training import projector
from parity_tests.corrupt import transforms
from parity_tests.support.cli import fails, in_time
from parity_tests.support.numpy_backend import NUMPY_BACKEND, contents, copy
from parity_tests.support.warm import python

pytestmark = pytest.mark.either

__all__ = ["in_time"]

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
SMALL = ["--data", "digits", "--hidden", "5", "--latent", "2", "--checkpoint-every", "5"]
MINE = b"{}\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two epochs, of 24 steps."""
    path = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(NUMPY_BACKEND, ["train", *SMALL, "--epochs", "2", "--tensorboard", "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return copy(trained, tmp_path / "run")


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Backend:
    return PACKAGES[request.param]


@pytest.mark.slow
def test_what_a_killed_process_left_of_a_folder_is_removed_when_it_is_made_again(tmp_path) -> None:
    run = tmp_path / "a.run"
    make = f"from pathlib import Path\nfrom jaxvae.shared.safe_io import written_whole\nmade = Path({str(run)!r})\n"
    killed = "with written_whole(made) as part: part.mkdir(), os._exit(1)"
    assert python("-c", f"import os\n{make}{killed}").returncode == 1
    (left,) = tmp_path.iterdir()
    assert [path.name for path in left.iterdir()] == ["a.run"]
    (others := tmp_path / ".a.run.more.abcdefgh.part").mkdir()  # of another folder
    (file := tmp_path / ".a.run.abcdefgh.part").touch()
    (link := tmp_path / ".a.run.bcdefghi.part").symlink_to(others)
    with safe_io.written_whole(run) as part:
        assert not left.exists()
        part.mkdir()
        with contextlib.suppress(FileNotFoundError), safe_io.written_whole(run):  # where nothing is written
            assert part.exists()
    assert sorted(tmp_path.iterdir()) == sorted([file, link, others, run])


def hard_link(path: Path, mine: Path) -> None:
    path.hardlink_to(mine)


def device(path: Path, mine: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("only root makes devices")


# How another file gets under a name, and how the sentence calls it.
KINDS: dict[str, Callable[[Path, Path], None]] = {
    "a symbolic link": lambda path, mine: path.symlink_to(mine),
    "one with 2 names (hard links)": hard_link,
    "a FIFO": lambda path, mine: os.mkfifo(path),
    "a device": device,
    "a folder": lambda path, mine: path.mkdir(),
}
LINKS = ("a symbolic link", "one with 2 names (hard links)")
FILES = {
    ".lock": "train",
    "config.json": "train",
    "metrics.jsonl": "train",
    "model.safetensors": "train",
    "checkpoints/steps.json": "train",
    "checkpoints/step-000000030.safetensors": "train",
    "images/samples-003.png": "train",
    "images/reconstructions-003.png": "train",
    "tensorboard/tensors.tsv": "train",
    "tensorboard/metadata.tsv": "train",
    "tensorboard/sprite.png": "train",
    "tensorboard/projector_config.pbtxt": "train",
    "measures.json": "evaluate",
}


def put(path: Path, kind: str, folder: Path) -> Path:
    """Put the kind in the path's place, and return the file it leads to; a link to a run's file leads to a copy."""
    mine = folder / "mine"
    mine.write_bytes(path.read_bytes() if path.is_file() else MINE)
    path.unlink(missing_ok=True)
    KINDS[kind](path, mine)
    return mine


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_is_written_through_a_link(run, tmp_path, capsys, name: str, kind: str) -> None:
    """It is refused in a sentence, and neither it nor what it leads to is changed."""
    mine = put(run / name, kind, tmp_path)
    before = mine.read_bytes()
    if FILES[name] == "train":
        capsys.readouterr()
        assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), "--epochs", "3"]) == 2
        *warnings, last = capsys.readouterr().err.splitlines()
        message = last.removeprefix("jaxvae: ")
        assert [name in line for line in warnings] == [True] * name.endswith("30.safetensors")  # it is no checkpoint
    else:
        with pytest.raises(InputError) as caught:
            measures_record.update("jaxvae", run_folder.read(run), {})
        message = str(caught.value)
    expected = f"it must be a regular file of one name, found {kind}; remove it or move it away."
    assert message == f"{run / name} can't be written: {expected}"
    assert mine.read_bytes() == before
    assert (run / name).samefile(mine)


@pytest.mark.parametrize("name", ["checkpoints", "images", "tensorboard"])
def test_no_folder_of_a_run_is_a_link(run, tmp_path, capsys, name: str) -> None:
    mine = (run / name).rename(tmp_path / "mine")
    (run / name).symlink_to(mine)
    before = {path: path.read_bytes() for path in [*mine.iterdir(), *run.glob("*.*")]}
    capsys.readouterr()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), "--epochs", "3"]) == 2
    says = "must be a folder, found a symbolic link; put a folder there."
    says = "must be a writable folder; remove it, or give --no-tensorboard." if name == "tensorboard" else says
    assert capsys.readouterr().err == f"jaxvae: {run / name} {says}\n"
    assert {path: path.read_bytes() for path in [*mine.iterdir(), *run.glob("*.*")]} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_none_is_refused(run, tmp_path, package, capsys, kind: str) -> None:
    mine = put(run / ".lock", kind, tmp_path)
    fails(package, capsys, re.escape(f"{run / '.lock'} can't be written: it"), "train", "--resume", run)
    assert mine.read_bytes() == MINE
    assert (run / ".lock").lstat()


@pytest.mark.parametrize("name", [".lock", "sweep.json", "sweep.md", "sweep.png", "seed-0-beta-1-learning-rate-0.001"])
def test_no_file_of_a_sweep_is_written_through_a_link(tmp_path, capsys, name: str) -> None:
    out, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    flags = ["sweep", *SMALL, "--max-steps", "2", "--seeds", "0", "--out", str(out)]
    assert cli.main(NUMPY_BACKEND, flags) == 0
    if (out / name).is_dir():
        (out / name).rename(elsewhere)
        (out / name).symlink_to(elsewhere)
        (elsewhere / "metrics.jsonl").write_bytes(b"")  # it is not finished
    else:
        put(out / name, "a symbolic link", tmp_path).rename(elsewhere)
        (out / name).unlink()
        (out / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(NUMPY_BACKEND, flags) == 2
    err = capsys.readouterr().err
    assert re.search("must be a (folder|regular file of one name), found a symbolic link; ", err), err
    assert str(out / name) in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


WRITERS: dict[str, Callable[[Path], Any]] = {
    "write_atomically": lambda path: safe_io.write_atomically(path, b""),
    "append": lambda path: safe_io.append(path, b"more"),
    "shorten": lambda path: safe_io.shorten(path, 0),
    "require_writable": lambda path: safe_io.require_writable(path, "give another"),
    "weights": lambda path: weight_file.save(path, transforms.SPEC, transforms.plain_weights()),
    "pictures": lambda path: image_grid.save(np.zeros((2, 2, 1), np.uint8), path),
    "reports": lambda path: report.save(b"", path),
    "sweep.json": lambda path: sweep_summary.write_json(path, {}),
    "projector": lambda path: projector.put(path.parent, {path.name: b""}),
    "projector.update": lambda path: projector.update(path.parent, np.zeros((1, 2))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_function_writes_through_a_link(tmp_path, writer: str, kind: str) -> None:
    path = tmp_path / {"pictures": "a.png", "projector.update": "tensors.tsv"}.get(writer, "a")
    mine = put(path, kind, tmp_path)
    with pytest.raises(InputError, match=re.escape(f"{path} can't be written: it ")):
        WRITERS[writer](path)
    assert mine.read_bytes() == MINE
    assert sorted(tmp_path.iterdir()) == sorted([mine, path])


@pytest.mark.parametrize("command", ["sample", "curves", "evaluate"])
def test_no_command_writes_through_a_link(run, tmp_path, package, capsys, command: str) -> None:
    out = tmp_path / "x.png"
    mine = put(out, "a symbolic link", tmp_path)
    flags = ["--out", out] if command != "evaluate" else ["--json", out]
    fails(package, capsys, re.escape(f"{out} can't be written: it must be a regular file"), command, run, *flags)
    assert mine.read_bytes() == MINE


# What makes and fills a folder that is renamed when it is whole, or keeps what it downloads or compiles.
BESIDE_RUNS = {
    "jaxvae/export.py",
    "torchvae/export.py",
    "jaxvae/devices.py",
    "jaxvae/shared/cli.py",
    "jaxvae/shared/plain_paths.py",
    "jaxvae/shared/safe_io.py",
    "jaxvae/compilation.py",
    "jaxvae/shared/interop/export_files.py",
    "jaxvae/shared/interop/tensor_archive.py",
    "jaxvae/shared/commands/import_.py",
    "jaxvae/shared/training/saved_run.py",
    "jaxvae/shared/training/sweep_folder.py",
    "jaxvae/shared/data/published.py",
    "jaxvae/shared/runs/run_folder.py",
    "jaxvae/shared/training/projector.py",
    "jaxvae/shared/training/tensorboard.py",
}


def test_files_are_written_in_one_place() -> None:
    """All others write by the functions of safe_io."""
    writing, root = set(), Path(jaxvae.__file__).parent.parent
    for file in [*(root / "jaxvae").rglob("*.py"), *(root / "torchvae").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            opened = node.func.attr == "open" and isinstance(mode, str) and set(mode) & set("wax+")
            if opened or node.func.attr in ("write_bytes", "write_text", "touch", "mkdir"):
                writing.add(file.relative_to(root).as_posix())
    assert writing <= BESIDE_RUNS, "write by safe_io"


@pytest.mark.parametrize("linked", ["the run", "its parent"])
def test_a_run_may_be_reached_through_a_link(trained, tmp_path, linked: str) -> None:
    """On another disk, say; only what is in the run's folder is looked at."""
    run = copy(trained, tmp_path / "disk" / "run")
    link = tmp_path / "link"
    link.symlink_to(run if linked == "the run" else run.parent)
    path = link if linked == "the run" else link / "run"
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(path), "--epochs", "3"]) == 0
    assert checkpoints.present(run_folder.read(run)) == [35, 36]
    if linked == "its parent":
        assert cli.main(NUMPY_BACKEND, ["train", *SMALL, "--max-steps", "2", "--out", str(link / "new")]) == 0
        assert checkpoints.present(run_folder.read(run.parent / "new")) == [2]


def test_only_checkpoints_that_the_index_names_are_removed(run) -> None:
    """A copy of another checkpoint, or a file of another run, stays whatever its step."""
    whole = (run / "checkpoints" / "step-000000024.safetensors").read_bytes()
    others = {"step-000000003": whole, "step-000000022": MINE, "step-000000099": MINE}
    for name, content in others.items():
        (run / "checkpoints" / f"{name}.safetensors").write_bytes(content)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), "--epochs", "3"]) == 0
    for name, content in others.items():
        assert (run / "checkpoints" / f"{name}.safetensors").read_bytes() == content
    assert checkpoints.present(run_folder.read(run)) == [3, 22, 35, 36, 99]


@pytest.mark.parametrize("there", ["nothing", "a copy", "a file", "another run"])
def test_a_run_that_is_moved_while_it_trains_stops(trained, tmp_path, capsys, monkeypatch, there: str) -> None:
    """Nothing is written to what took its place, and the run resumes where it is now."""
    moved_while_it_trains(NUMPY_BACKEND, SMALL, trained, tmp_path, capsys, monkeypatch, there)


def test_a_run_that_is_moved_stops_in_both_packages(package, trained, tmp_path, capsys, monkeypatch) -> None:
    moved_while_it_trains(package, SMALL, trained, tmp_path, capsys, monkeypatch, "a copy")


def moved_while_it_trains(
    backend: Backend, flags: list[str], trained: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, there: str
) -> None:
    run, moved, save = tmp_path / "run", tmp_path / "moved", backend.save_checkpoint

    def then_moved(path: Path, *arguments: Any) -> None:
        save(path, *arguments)
        if path.stem.endswith("10"):
            run.rename(moved)
            match there:
                case "a copy":
                    shutil.copytree(moved, run)
                case "a file":
                    run.write_bytes(MINE)
                case "another run":
                    copy(trained, run)

    monkeypatch.setattr(backend, "save_checkpoint", then_moved)
    assert cli.main(backend, ["train", *flags, "--epochs", "2", "--out", str(run)]) == 2
    before = contents(run) if run.is_dir() else {}
    message = f"The folder {run} was moved or replaced while it was in use, so nothing more is written there; put it "
    err = capsys.readouterr().err
    assert f"{backend.__name__}: {message}back, or resume from where it is now.\n" in err
    assert "Traceback" not in err
    if there == "a copy":
        before.pop(".lock")  # of the moved run
        assert before == {name: content for name, content in contents(moved).items() if name != ".lock"}
    if there == "another run":
        assert before == contents(trained)
    monkeypatch.setattr(backend, "save_checkpoint", save)
    assert cli.main(backend, ["train", "--resume", str(moved)]) == 0
    assert checkpoints.present(run_folder.read(moved)) == [20, 24]


@pytest.mark.parametrize("when", ["before it is looked at", "while it is written"])
def test_a_picture_of_a_run_that_is_moved_says_so(tmp_path, monkeypatch, when: str) -> None:
    run = tmp_path / "run"
    (run / "images").mkdir(parents=True)

    def then_moved(*arguments: Any) -> None:
        run.rename(tmp_path / "moved")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(safe_io.tempfile, "mkstemp", then_moved)
    with plain_paths.kept_in_place(run):
        if when == "before it is looked at":
            run.rename(tmp_path / "moved")
        with pytest.raises(InputError, match=f"^The folder {run} was moved or replaced"):
            figure_file.write(b"", run / "images" / "a.png")


def test_a_run_appears_whole(package, run, tmp_path, monkeypatch) -> None:
    """Trained or imported: until it is a run there is nothing, and if it can't be made nothing is left."""
    write_config, seen = run_folder.write_config, []

    def watched(made: run_folder.Run) -> None:
        seen.append((tmp_path / "new").exists())
        write_config(made)

    def full(made: run_folder.Run) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hub = tmp_path / "hub"
    assert cli.main(package, ["export", str(run), "--format", "safetensors", "--out", str(hub)]) == 0
    nobodys = tmp_path / "nobodys.safetensors"
    _as_another_program(hub / "model.safetensors", nobodys)
    there = sorted(tmp_path.iterdir())
    for command in (["import", str(nobodys)], ["train", *SMALL, "--max-steps", "1"]):
        monkeypatch.setattr(run_folder, "write_config", full)
        assert cli.main(package, [*command, "--out", str(tmp_path / "new")]) == 2
        assert sorted(tmp_path.iterdir()) == there
        monkeypatch.setattr(run_folder, "write_config", watched)
        assert cli.main(package, [*command, "--out", str(tmp_path / "new")]) == 0
        assert run_folder.read(tmp_path / "new")
        assert not list((tmp_path / "new").glob(".*"))
        shutil.rmtree(tmp_path / "new")
    assert seen == [False, False]


def _as_another_program(weights: Path, to: Path) -> None:
    """Write the weights with the names of pytorch/examples."""
    from safetensors.numpy import load_file, save_file

    names = {"encoder.hidden.0": "fc1", "encoder.mean": "fc21", "encoder.logvar": "fc22", "decoder.hidden.0": "fc3"}
    names["decoder.logits"] = "fc4"
    arrays = {name.rpartition("."): array for name, array in load_file(weights).items()}
    save_file({f"{names[layer]}.{kind}": array for (layer, _, kind), array in arrays.items()}, to)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "checkpoints/step-000000030.safetensors"])
def test_what_a_disk_refuses_is_named(run, capsys, monkeypatch, name: str, number: int) -> None:
    target, fsync = (run / name).resolve(), os.fsync

    def refuse(handle: int) -> None:
        opened = Path(f"/proc/self/fd/{handle}").readlink()
        if opened == target or opened.name.startswith(f".{target.name}."):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("only Linux says which file is open")
    monkeypatch.setattr(os, "fsync", refuse)
    capsys.readouterr()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), "--epochs", "3"]) == 2
    advice = {errno.ENOSPC: "; free some space on its disk", errno.EDQUOT: "; free some of your quota on its disk"}
    then = f"{advice[number]}, then resume or try again." if number in advice else "."
    message = f"jaxvae: {run / name} can't be used ({os.strerror(number)}){then}\n"
    assert capsys.readouterr().err.replace(str(target), str(run / name)) == message


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_disk_without_locks_is_named(run, package, tmp_path, capsys, monkeypatch, number: int) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    says = rf"can't be locked \({os.strerror(number)}\); use a folder on a disk that has locks\."
    fails(package, capsys, re.escape(str(run / ".lock")) + f" {says}", "train", "--resume", run)
    fails(package, capsys, says, "train", *SMALL, "--out", tmp_path / "new")
    assert not list(tmp_path.rglob("new*"))


LIMITED = """
import importlib, resource, sys
package = importlib.import_module(sys.argv[1])
sys.dont_write_bytecode = True  # Python would leave a part of a module's bytecode, which no later process could read
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from jaxvae.shared import cli
sys.exit(cli.main(package, sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("name", "format"),
    [
        pytest.param("jaxvae", "safetensors", marks=pytest.mark.slow),
        ("jaxvae", "flax"),
        ("torchvae", "torch"),
        pytest.param("torchvae", "torch-export", marks=pytest.mark.slow),
        pytest.param("torchvae", "onnx", marks=pytest.mark.slow),
        pytest.param("jaxvae", "stablehlo", marks=pytest.mark.slow),
    ],
)
def test_an_export_that_is_too_large_is_named_and_leaves_nothing(run, tmp_path, name: str, format: str) -> None:
    """Some of the frameworks' own writers would abort the process."""
    out, before = tmp_path / "out", sorted(tmp_path.iterdir())
    ended = python("-c", LIMITED, name, "export", run, "--format", format, "--out", out)
    assert ended.returncode == 2, ended.stderr
    says = "can't be used (File too large); raise the largest size of a file (ulimit -f), then resume or try again."
    assert ended.stderr.splitlines()[-1] == f"{name}: {out} {says}"
    assert sorted(tmp_path.iterdir()) == before


def test_what_orbax_can_not_write_is_named(run, tmp_path, capsys, monkeypatch) -> None:
    import orbax.checkpoint

    def full(*arguments: Any) -> None:
        raise ValueError("OUT_OF_RANGE: Failed to write 5 bytes to file 4: No space left [os_error_code='28']")

    monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "save", full)
    says = re.escape(f"{tmp_path / 'out'} can't be used (No space left on device); free some space on its disk")
    fails(jaxvae, capsys, says, "export", run, "--format", "orbax", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [run]


def test_standard_output_that_is_full_ends_in_a_sentence(run) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is full")
    code = (
        "import sys; sys.stdout = open('/dev/full', 'w'); import jaxvae; from jaxvae.shared import cli; cli.run(jaxvae)"
    )
    ended = python("-c", code, "describe", run)
    assert ended.returncode == 2
    assert ended.stderr.startswith("jaxvae: A file or standard output can't be used (No space left on device); free")
