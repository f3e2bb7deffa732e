"""The command line that reproduces a run: its preset, and a flag for each option that differs from it."""

import dataclasses
import shlex
from typing import Any

from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.runs.run_folder import Run


def command(run: Run) -> str | None:
    """Format the command line for a shell; None for an imported run, which no command trains."""
    return None if "imported" in run.config else shlex.join([run.config["framework"], *arguments(run)])


def arguments(run: Run) -> list[str]:
    """List the arguments after the program's name."""
    name = run.config["preset"]
    flags = ["train", *(["--preset", name] if name in PRESETS else [])]
    flags += changes(PRESETS.get(name, Spec()), run.spec)
    log_every = run.config["log_every"]
    return flags if log_every is None else [*flags, *_flag("log_every", log_every)]


def changes(base: Spec, spec: Spec) -> list[str]:
    """List the arguments that turn one configuration into another."""
    flags = _flag("data", spec.data) if spec.data != base.data else []
    for part in ("model", "objective", "training", "images"):
        before, after = getattr(base, part), getattr(spec, part)
        for field in dataclasses.fields(after):
            value = getattr(after, field.name)
            flags += _flag(field.name, value) if value != getattr(before, field.name) else []
    return flags


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    match value:
        case bool():
            return [f"--{flag}" if value else f"--no-{flag}"]
        case tuple():
            return [f"--{flag}", *map(str, value)]
        case _:
            return [f"--{flag}", str(value)]
