"""Which lines of the functions that read files run while files are read.

The lines that run are recorded by tracing, and those that there are come from the bytecode. A module's own lines and a
class's don't count: they run as it is imported."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

_FUNCTION = 2  # the flag of a function's code, CO_NEWLOCALS, and of no module's or class's

READERS: Mapping[str, Sequence[str]] = {
    "jaxvae.shared.model.weight_file": ("save", "save_checkpoint", "pack", "_writable"),
    "jaxvae.shared.model.safetensors_reader": (),
    "jaxvae.shared.model.tensor_checks": ("check",),
    "jaxvae.shared.config.fields": ("check_fields",),
    "jaxvae.shared.runs.run_folder": (
        *("free_path", "require_free", "create", "created", "write_config"),
        *("locked", "held", "weights", "images"),
    ),
    "jaxvae.shared.runs.checkpoints": (
        *("index_written", "create_index", "index_resumed", "_listed", "_valid", "_keep", "_write_index"),
    ),
    "jaxvae.shared.runs.metrics": (
        *("train_records", "mean", "record", "sentence", "first_bad", "require_finite", "stopped"),
        *("append", "cut", "_lines"),
    ),
    "jaxvae.shared.runs.metrics_parts": (),
    "jaxvae.shared.runs.measures_record": ("update", "to_bytes"),
    "jaxvae.shared.runs.parity_record": ("write", "brief", "number"),
    "jaxvae.shared.data.numpy_files": (),
    "jaxvae.shared.data.image_folder": (),
    "jaxvae.shared.data.idx": ("read", "load"),
    "jaxvae.shared.data.cifar": ("read", "_verified"),
    "jaxvae.shared.interop.readers": ("pack", "packed", "widened", "narrowed"),
    "jaxvae.shared.interop.orbax_folder": (),
    "jaxvae.shared.interop.zip_files": ("pack_npz",),
    "jaxvae.shared.interop.tensor_trees": ("nested",),
    "jaxvae.shared.interop.file_limits": (),
    "jaxvae.shared.interop.name_table": (),
    "torchvae.pickles": ("main",),
}
"""The modules that read files which may be malformed, and those of their functions that do something else."""


class Coverage(NamedTuple):
    """The lines of one file's functions, and those of them that ran."""

    lines: frozenset[int]
    ran: set[int]
    others: frozenset[int]
    """The lines of the functions that don't count."""

    def share(self) -> float:
        """Return the share of the lines that ran, 1 where there are none."""
        return len(self.lines & self.ran) / len(self.lines) if self.lines else 1.0

    def missing(self) -> str:
        """Return the lines that did not run, as ranges, which go over blank lines and the like."""
        ranges: list[list[int]] = []
        extends, missing = False, self.lines - self.ran
        for line in sorted(self.lines | self.others):
            if line in missing:
                ranges[-1:] = [[ranges[-1][0], line]] if extends else [*ranges[-1:], [line, line]]
            extends = line in missing
        return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


@contextlib.contextmanager
def covered(modules: Mapping[str, Sequence[str]] = READERS) -> Iterator[dict[str, Coverage]]:
    """Record the lines that run within the context.

    Args:
        modules: Names of modules, and those of their functions that don't count.

    Yields:
        Each module's lines; those that run are added as they run.
    """
    paths = {name: _path(name) for name in modules}
    files = {str(path): _unread(path, modules[name]) for name, path in paths.items()}

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        file = files.get(frame.f_code.co_filename)
        if file is None:
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            file.ran.add(frame.f_lineno)
            return line

        return line

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield {name: files[str(path)] for name, path in paths.items()}
    finally:
        sys.settrace(before)


def _path(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _unread(path: Path, without: Sequence[str]) -> Coverage:
    """Return the lines of a file's functions, of which none has run; those of `def` count as none."""
    lines: dict[bool, set[int]] = {True: set(), False: set()}
    codes = [(compile(path.read_bytes(), str(path), "exec"), True)]
    for code, counts in codes:  # grows as it goes
        inner = [one for one in code.co_consts if isinstance(one, CodeType)]
        codes += [(one, counts and one.co_name not in without) for one in inner]
        if code.co_flags & _FUNCTION:
            lines[counts] |= {n for _, _, n in code.co_lines() if n is not None and n != code.co_firstlineno}
    return Coverage(frozenset(lines[True]), set(), frozenset(lines[False]))
