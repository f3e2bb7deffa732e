"""--config: flags from a file, as if they stood before those of the command line, which win."""

import argparse
import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import command_line, run_folder
from jaxvae.shared.text import shown, suggestion

_PARTS = {"model": ModelSpec, "objective": ObjectiveSpec, "training": TrainingSpec, "images": ImagesSpec}
_OWN = ("config", "resume", "spec")  # no keys of a file
_LARGEST = 2**20  # bytes


def expanded(arguments: Sequence[str], flags: type) -> list[str]:
    """Put the flags of the file that --config names after the command's name.

    Args:
        arguments: The command line.
        flags: The dataclass of the command's flags, whose field `config` is the file if it takes one.

    Returns:
        The command line with the file's flags; unchanged without --config.

    Raises:
        InputError: If the file can't be read, or holds what is no flag.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    parser.add_argument("--preset", nargs="?", const="")
    parser.add_argument("--resume", nargs="?", const="")
    named = parser.parse_known_args(arguments)[0]
    if not named.config or "config" not in flags.__dataclass_fields__ or {"-h", "--help"} & set(arguments):
        return list(arguments)
    command = arguments[0]
    if named.resume is not None:
        raise InputError("--resume uses the run's own configuration; leave out --config.")
    file = Path(named.config)
    file = file / "config.json" if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"--config {file} is no file; give a run's config.json, or a TOML file of flags.")
    if file.suffix == ".json":
        if named.preset is not None:
            raise InputError(f"{file} is the whole configuration of a run; leave out --preset, or --config.")
        given = _flags_of_run(command, run_folder.read_config(file))
    else:
        given = [word for key, value in _keys(file) for word in _flag(flags, file, key, value)]
    return [command, *given, *arguments[1:]]


def _flags_of_run(command: str, run: run_folder.Run) -> list[str]:
    """The flags that give a run's configuration again."""
    _, *flags = command_line.arguments(run)
    every = run.config["checkpoint_every"]
    flags += [] if every is None else ["--checkpoint-every", str(every)]
    # A sweep has a list of seeds.
    return ["--seeds" if flag == "--seed" and command == "sweep" else flag for flag in flags]


def _keys(file: Path) -> Iterator[tuple[str, Any]]:
    """The keys of a TOML file and those in its tables."""
    try:
        with file.open("rb") as content:
            text = content.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError("it is larger than a megabyte")
        values = tomllib.loads(text.decode())
    except OSError as error:
        raise InputError(f"--config {file} can't be read ({error.strerror}); give a file of flags.") from None
    except ValueError as error:
        raise InputError(f"--config {file} can't be read as TOML ({error}); correct it.") from None
    for key, value in values.items():
        if not isinstance(value, Mapping):
            yield key, value
        elif key in _PARTS:
            yield from value.items()
        else:
            raise InputError(
                f"{file} has an unknown table {shown(key)}{suggestion(key, _PARTS)}; a table is one of "
                f"{', '.join(_PARTS)}."
            )


def _flag(command: type, file: Path, key: str, value: Any) -> list[str]:
    """A key and its value as arguments."""
    known = [name.replace("_", "-") for name in ("data", *_fields(command)) if name not in _OWN]
    name = key.replace("_", "-")
    if name not in known:
        alike = suggestion(name, known)
        of = command.__name__.lower()
        raise InputError(f"{file} has an unknown key {shown(key)}{alike}; its keys are flags of {of} without dashes.")
    match value:
        case bool():
            return [f"--{name}" if value else f"--no-{name}"]
        case list() if value and all(isinstance(one, str | int | float) for one in value):
            return [f"--{name}", *map(str, value)]
        case str() | int() | float():
            return [f"--{name}", str(value)]
    raise InputError(f"{file}: {name} must be a text, a number, true, false or a list, found {shown(value)}.")


def _fields(command: type) -> list[str]:
    own = [field.name for field in dataclasses.fields(command)]
    parts = [field.name for part in _PARTS.values() for field in dataclasses.fields(part)]
    # A sweep has a list of seeds.
    return [*(name for name in parts if name != "seed" or "seeds" not in own), *own]
