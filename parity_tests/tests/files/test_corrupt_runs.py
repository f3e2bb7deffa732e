"""Configurations, metrics and listings that are untrusted, in every command of either package."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from parity_tests.corrupt import readers
from parity_tests.corrupt.run_folder import CONFIG, LISTING, METRICS
from parity_tests.corrupt.transforms import Kind
from parity_tests.support.cli import in_time, refused

pytestmark = pytest.mark.either

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
COMMANDS = {
    "evaluate": ["evaluate", "RUN"],
    "sample": ["sample", "RUN", "--out", "OUT"],
    "reconstruct": ["reconstruct", "RUN", "--out", "OUT"],
    "describe": ["describe", "RUN"],
    "compare": ["compare", "RUN", "--out", "OUT"],
    "resume": ["train", "--resume", "RUN"],
}
__all__ = ["in_time"]


@pytest.fixture
def run(tmp_path) -> Path:
    return readers.run(tmp_path / "run")


def put(kind: Kind, path: Path) -> Path:
    """The kind in place of the file."""
    whole = path.read_bytes()
    path.unlink()
    kind.put(path, whole)
    return path


def one_sentence(capsys, package: Any, run: Path, command: str) -> str:
    """What a command says of a run that it can't use; nothing else comes of it."""
    before = sorted(run.rglob("*"))
    arguments = [{"RUN": str(run), "OUT": str(run / "x.png")}.get(word, word) for word in COMMANDS[command]]
    assert cli.main(package, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{package.__name__}: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    assert len(err) < 2000
    assert sorted(path for path in run.rglob("*") if path.name != ".lock") == before
    return err


@pytest.mark.parametrize("kind", CONFIG, ids=lambda kind: kind.name)
def test_a_malformed_configuration_is_refused_in_a_sentence(run, kind: Kind) -> None:
    put(kind, run / "config.json")
    refused(lambda path: run_folder.read(path), run, kind.says)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_so(run, capsys, name: str, command: str) -> None:
    whole = (run / "config.json").read_bytes()
    for kind in (CONFIG[2], CONFIG[10], CONFIG[18], CONFIG[24], *CONFIG[-1:]):
        (run / "config.json").write_bytes(whole)
        put(kind, run / "config.json")
        assert kind.says in one_sentence(capsys, PACKAGES[name], run, command)
        (run / "config.json").unlink()


BAD = (None, True, 0, -1, 1.5, 2**64, 10**90, "x", "", [], {}, [None], ["x"], [1, 2, 3], {"a": 1})
# What is right for a field though it was something else before: its type allows it.
TEXT = ("asked", "source", "instead_of_mnist", "device", "created", "numpy", "preset")
NONE = ("max_steps", "train_images", "log_every", "checkpoint_every", "instead_of_mnist")


def leaves(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every field of a configuration, with its path."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*above, key), value[key]
        yield from leaves(value[key], (*above, key))


def may_be(name: Any, before: Any, value: Any, spec: bool) -> bool:
    """Whether a value is one for the field of this name."""
    if value is None:
        return name in NONE
    if isinstance(value, bool):
        return isinstance(before, bool)
    if isinstance(value, str):
        return name in TEXT
    if isinstance(value, dict | list):
        # Empty lists of layers and sessions are some, and three numbers make a model of other widths.
        wide = spec and name in ("hidden", "image") and value == [1, 2, 3]
        return wide or (value == [] and name in ("hidden", "discriminator", "sessions")) or (value == {} == name)
    if isinstance(before, float):
        return True  # of its range there are kinds of their own
    return type(value) is int and 0 <= value < 2**64


def refusal(run: Path) -> str | None:
    try:
        run_folder.read(run)
    except InputError as error:
        return str(error)
    return None


def test_every_field_is_held_to_its_type_and_none_may_be_missing(run) -> None:
    """Each field without, and of each of a row of values; one that is let through is one of the field's own."""
    file, whole = run / "config.json", json.loads(json.dumps(readers.config()))
    tried = 0
    for path, before in leaves(whole):
        for value in ("gone", *BAD):
            result = copy.deepcopy(whole)
            node = result
            for key in path[:-1]:
                node = node[key]
            if value != "gone":
                node[path[-1]] = value
            elif isinstance(node, list) or path[-1] == "numpy":
                continue  # a list of one less
            else:
                del node[path[-1]]
            file.write_text(json.dumps(result))
            tried += 1
            message, name = refusal(run), [key for key in path if isinstance(key, str)][-1]
            if message is not None:
                assert str(run) in message
                assert name in message or "Invalid configuration" in message
                continue
            assert value != "gone"
            empty = value == {} and path[-1] == "versions"
            assert empty or may_be(path[-1], before, value, "spec" in path), (path, value)
    assert tried > 800


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_malformed_metrics_are_refused_in_a_sentence(run, capsys, kind: Kind) -> None:
    put(kind, run / "metrics.jsonl")
    refused(lambda path: metrics.read(run_folder.read(path)), run, kind.says)


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_no_run_goes_on_from_malformed_metrics(run, kind: Kind) -> None:
    """A resumed run cuts them back to its step, and finds that they don't reach it."""
    put(kind, run / "metrics.jsonl")
    tolerance = "should hold the records of the first 1 epochs, to step 3; restore it or train again"
    refused(lambda path: metrics.cut(run_folder.read(path), 2, 3), run, tolerance)


@pytest.mark.parametrize("kind", LISTING, ids=lambda kind: kind.name)
def test_a_malformed_index_is_reported(run, kind: Kind) -> None:
    """And passed over, if a checkpoint is there for all that; what is no file can't be written over, and is refused."""
    put(kind, run / "checkpoints" / "steps.json")
    try:
        file, wrong = checkpoints.latest(run_folder.read(run))
    except InputError as error:
        message, file = str(error), None
    else:
        message = " ".join(wrong)
    assert kind.says in message
    assert message.isprintable()
    assert len(message) < 2000
    assert (file is None) == (kind.name in ("a folder", "a FIFO"))


def test_strange_names_among_the_checkpoints_are_left_alone(run) -> None:
    for name in (
        "step-x",
        "step-",
        "step-3",
        "step--00000003",
        "step-\u0661\u0662\u0663456789",
        "step-00000000x",
        "other",
    ):
        (run / "checkpoints" / f"{name}.safetensors").write_bytes(b"")
    file, wrong = checkpoints.latest(run_folder.read(run))
    assert file == run / "checkpoints" / "step-000000003.safetensors"
    assert wrong == []
