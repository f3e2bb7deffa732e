"""The records of metrics.jsonl, from the terms of single steps, which `Spec.terms` names. Nats per image."""

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.config.parts import TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.runs import metrics_parts
from jaxvae.shared.runs.metrics_parts import SPLITS, Part
from jaxvae.shared.runs.run_folder import Run
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import shown


def train_records(terms: np.ndarray, done: int, images: int, spec: Spec, log_every: int | None) -> list[dict[str, Any]]:
    """Make the records of training steps of one epoch.

    Args:
        terms: The mean terms of each step, `[steps, terms]`.
        done: Steps taken before these.
        images: The number of training images.
        spec: The configuration.
        log_every: A record for every `log_every`-th step; if None, one with the mean over the images of these steps.
    """
    per_epoch = spec.training.epoch_steps(images)
    steps = np.arange(done + 1, done + 1 + len(terms))
    epoch = done // per_epoch + 1
    if log_every is not None:
        chosen = steps % log_every == 0
        return [record(spec, step, epoch, "train", row) for step, row in zip(steps[chosen], terms[chosen], strict=True)]
    return [record(spec, steps[-1], epoch, "train", mean(terms, done, images, spec.training))]


def mean(terms: np.ndarray, done: int, images: int, spec: TrainingSpec) -> np.ndarray:
    """Average terms over images: an epoch's last batch has fewer, and a smaller weight.

    Args:
        terms: The mean terms of each step, `[steps, terms]`.
        done: Steps taken before these.
        images: The number of training images.
        spec: The batch size.

    Returns:
        float64 `[terms]`.
    """
    steps, per_epoch = np.arange(done + 1, done + 1 + len(terms)), spec.epoch_steps(images)
    sizes = np.where(steps % per_epoch == 0, images - (per_epoch - 1) * spec.batch_size, spec.batch_size)
    return np.average(terms.astype(np.float64), axis=0, weights=sizes)


def record(spec: Spec, step: int, epoch: int, split: str, terms: np.ndarray) -> dict[str, Any]:
    """Make one record.

    Args:
        spec: The configuration.
        step: Steps taken.
        epoch: The epoch, from 1.
        split: One of `SPLITS`.
        terms: `[terms]`.
    """
    values = {name: float(value) for name, value in zip(spec.terms, terms, strict=True)}
    return {"step": int(step), "epoch": int(epoch), "split": split, **values}


def sentence(spec: Spec, record: dict[str, Any]) -> str:
    """Format the terms of a record for a message."""
    loss, *names = spec.terms
    parts = ", ".join(f"{name} {record[name]:.3f}" for name in names)
    return f"loss {record[loss]:.3f} nats per image ({parts})"


def first_bad(spec: Spec, terms: np.ndarray, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Find a value that is NaN or infinite after a step.

    Args:
        spec: The configuration.
        terms: The step's terms, `[terms]`.
        arrays: The weights and the moments of Adam after the step, by name.

    Returns:
        What became NaN or infinite, for a message: a term, or else a statistic or a gradient, which is the cause of a
        weight or a moment that is not finite. None if all are finite.
    """
    wrong = {name: value for name, value in zip(spec.terms, terms, strict=True) if not np.isfinite(value)}
    if wrong:
        # The loss is the sum of the others, so one of them is more specific.
        name = next((name for name in wrong if name != spec.terms[0]), spec.terms[0])
        return f"the {name} became {wrong[name]}"
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            if ".running_" in name:
                return f"the statistic {name} became {array[~np.isfinite(array)][0]}"
            weight = re.sub(r"^(.*\.)?exp_avg(_sq)?\.", "", name)
            return f"the gradient of {weight}, or what the optimizer made of it, became {array[~np.isfinite(array)][0]}"
    return None


def require_finite(spec: Spec, evaluated: np.ndarray, step: int) -> None:
    """Raises NonFiniteError unless the terms of an evaluation, `[terms]`, after `step` steps are finite."""
    if (bad := first_bad(spec, evaluated, {})) is not None:
        raise stopped(f"in the evaluation {bad}", step, step - 1, step)


def stopped(bad: str, step: int, since: int, until: int) -> NonFiniteError:
    """Make the error of a diverged run.

    Args:
        bad: What became NaN or infinite.
        step: The step it happened in.
        since: The step before those that were checked together.
        until: The last of them.
    """
    return NonFiniteError(
        f"Training stopped: {bad} at step {step}, of steps {since + 1} to {until}; try a smaller learning rate."
    )


_RECORD = {"step": int, "epoch": int, "split": str}  # beside the terms of the configuration, floats


def append(run: Run, records: Iterable[dict[str, Any]]) -> None:
    """Append records to metrics.jsonl, all or none. Floats are written with enough digits to be read back exactly."""
    safe_io.append(run.metrics, _lines(records))


def cut(run: Run, epoch: int, step: int) -> None:
    """Remove the records of an epoch and of later ones, before it is trained again.

    Args:
        run: The run.
        epoch: The first epoch to remove, from 1.
        step: Steps taken before it.

    Raises:
        InputError: If a record of the epochs before it is missing.
    """
    splits = ["validation", "test"] if run.spec.images.validation else ["test"]
    size, evaluated, last, there = 0, [], None, run.metrics.is_file()
    for part in _parts(run) if there else ():
        epochs = [int(row[0]) for row in part.rows]
        kept = next((i for i, it in enumerate(epochs) if it >= epoch), len(epochs))
        rows = zip(epochs[:kept], part.rows, strict=False)
        evaluated += [(it, row[1].decode()) for it, row in rows if row[1] != b"train"]
        size += sum(map(len, part.lines[:kept]))
        last = part.lines[kept - 1] if kept else last
        if kept < len(part.lines):
            break  # at an epoch to remove, or at the last line, cut short when the process was killed
    record = None if last is None else _parsed(run, last)
    if evaluated != [(it, split) for it in range(1, epoch) for split in splits] or (
        record and (record["step"], record["split"]) != (step, "test")
    ):
        raise InputError(
            f"{run.metrics} should hold the records of the first {epoch - 1} epochs, to step {step}; restore it or "
            "train again."
        )
    if not there:
        write_atomically(run.metrics, b"")
    safe_io.shorten(run.metrics, size)
    if last is not None and not last.endswith(b"\n"):
        safe_io.append(run.metrics, b"\n")


def read(run: Run) -> list[dict[str, Any]]:
    """Read the records of a run. Raises InputError, which names the first line that is not a valid record."""
    return [_parsed(run, line) for part in _checked(run, _parts(run)) for line in part.lines]


def to_draw(run: Run) -> list[dict[str, Any]]:
    """Read the records of a run that a picture needs: of a long run the first, the last and the extreme ones.

    Raises InputError, which names the first line that is not a valid record.
    """
    drawn = _checked(run, metrics_parts.to_draw(run.metrics, run.spec.terms, functools.partial(_parsed, run)))
    return [_parsed(run, line) for part in drawn for line in part.lines]


def of_split(run: Run, split: str) -> list[dict[str, Any]]:
    """Read the records of a split, even while the run trains.

    Args:
        run: The run.
        split: One of `SPLITS`.

    Returns:
        The records. A last line that is not written to its end doesn't count.

    Raises:
        InputError: If another line is not a valid record.
    """
    _require_file(run)
    records = []
    for part in _parts(run):
        if part.error is not None and (len(part.rows) < len(part.lines) - 1 or part.lines[-1].endswith(b"\n")):
            read(run)  # which names the line that is wrong
        chosen = zip(part.lines, part.rows, strict=False)
        records += [_parsed(run, line) for line, row in chosen if row[1] == split.encode()]
    return records


def last(run: Run) -> dict[str, Any] | None:
    """Read the last record of a run, or None if there is none yet. Raises InputError if it is not a valid record."""
    _require_file(run)
    lines = metrics_parts.last_lines(run.metrics)
    try:
        return _parsed(run, lines[-1]) if lines else None
    except ValueError:
        return read(run)[-1]  # which names the line that is wrong


def last_test(run: Run) -> dict[str, Any] | None:
    """Read the last record on the test images near the end of a run's metrics, even while it trains.

    Args:
        run: The run.

    Returns:
        The record; None if there is none yet. A last line that is not written to its end doesn't count.

    Raises:
        InputError: If a line from there on is not a valid record.
    """
    _require_file(run)
    for after, line in enumerate(reversed(metrics_parts.last_lines(run.metrics))):
        try:
            record = _parsed(run, line)
        except ValueError:
            if after or line.endswith(b"\n"):
                read(run)  # which names the line that is wrong
            continue
        if record["split"] == "test":
            return record
    return None


def _require_file(run: Run) -> None:
    if not run.metrics.is_file():
        raise InputError(f"{run.path} has no metrics.jsonl; give the folder that train wrote.")


def _parts(run: Run) -> Iterator[Part]:
    return metrics_parts.parts(run.metrics, run.spec.terms, functools.partial(_parsed, run))


def _checked(run: Run, parts: Iterator[Part]) -> Iterator[Part]:
    """The parts. Raises InputError, which names the first line that is not a valid record."""
    _require_file(run)
    for part in parts:
        if part.error is not None:
            wrong = len(part.rows)
            text = shown(part.lines[wrong].rstrip(b"\r\n").decode(errors="replace"))
            raise InputError(
                f"{run.metrics}, line {part.number + wrong}, is not a record of metrics ({part.error}): {text}."
            )
        yield part


def _parsed(run: Run, line: bytes) -> dict[str, Any]:
    """The record in a line. Raises ValueError, which says what is wrong with it."""
    fields, record = _RECORD | dict.fromkeys(run.spec.terms, float), safe_io.parse_json(line)
    if not isinstance(record, dict) or set(record) != set(fields):
        raise ValueError(f"expected the fields {', '.join(fields)}")
    for name, kind in fields.items():
        value = record[name]
        if kind is int and not (type(value) is int and 0 < value < 2**31):
            raise ValueError(f"{name} must be an integer above 0 and below 2^31, found {shown(value)}")
        if kind is float and not (type(value) is float and math.isfinite(value)):
            raise ValueError(f"{name} must be a finite number, found {shown(value)}")
    if record["split"] not in SPLITS:
        raise ValueError(f"split must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, found {shown(record['split'])}")
    return {name: record[name] for name in fields}


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
