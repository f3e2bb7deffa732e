"""A configuration as flags: the command line that reproduces a run, and the flags in which two differ."""

import dataclasses
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.runs.run_folder import Run
from jaxvae.shared.text import shown

WITHOUT_FLAG = "parts"
"""The field of a configuration that is given in Python only."""


def command(run: Run) -> str | None:
    """Format the command line for a shell; None for one that no command trains: imported, or by an own loop."""
    return None if "imported" in run.config or run.own_loop else shlex.join([run.config["framework"], *arguments(run)])


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


def flags_of(spec: Spec) -> dict[str, Any]:
    """Return the values of a configuration's flags by name."""
    parts = [spec.model, spec.objective, spec.training, spec.images]
    fields = [(part, field.name) for part in parts for field in dataclasses.fields(part) if field.name != WITHOUT_FLAG]
    return {"data": spec.data} | {name: getattr(part, name) for part, name in fields}


def flag_words(value: Any) -> str:
    """Format a flag's value for a table."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case tuple():
            return " ".join(map(str, value)) or "none"
        case float():
            return f"{value:g}"
    return str(value)


def changed_flags(before: Mapping[str, Any], now: Mapping[str, Any], except_for: Collection[str] = ()) -> str:
    """List the flags of `now` that have another value in `before`, as clauses; empty if there are none."""

    def said(value: Any) -> str:
        return "left out" if value is None else shown(value)

    return ", ".join(
        f"its --{name.replace('_', '-')} is {said(before.get(name))}, not {said(value)}"
        for name, value in now.items()
        if before.get(name) != value and name not in except_for
    )


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    match value:
        case bool():
            return [f"--{flag}" if value else f"--no-{flag}"]
        case tuple():
            return [f"--{flag}", *map(str, value)]
        case _:
            return [f"--{flag}", str(value)]
