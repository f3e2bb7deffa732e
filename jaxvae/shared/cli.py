"""The command line of both packages: parse the arguments, run the command, turn errors into sentences."""

import ast
import dataclasses
import errno
import functools
import gc
import inspect
import io
import itertools
import os
import re
import shutil
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import tyro
from typing_extensions import Doc
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jaxvae.shared import version
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.table import COMMANDS, Entry
from jaxvae.shared.config import parts_file
from jaxvae.shared.config.own import using
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.flag_errors import in_one_sentence
from jaxvae.shared.runs.command_line import flags_of
from jaxvae.shared.runs.config_file import expanded
from jaxvae.shared.text import LONGEST, printable, say, shown, suggestion
from jaxvae.shared.training.session import StoppedError

_FRAMEWORKS = {"jaxvae": "Flax", "torchvae": "PyTorch"}
_INTERRUPTED = 130  # the shell's convention: 128 + SIGINT
_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed)  # fixed: ModelSpec.parts, which are functions
_STDERR = 2  # the last of the standard streams' descriptors
_NARROWEST = 20  # columns; tyro never ends to break text into lines of none, of which its boxes take up to five
_OUT_OF_MEMORY = ("allocate", "RESOURCE_EXHAUSTED")  # words of the frameworks' errors
_ADVICE = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some of your quota on its disk",
    errno.EFBIG: "raise the largest size of a file (ulimit -f)",
}
_IMPORTED, _VARIABLES = ("jax", "torch"), ("JAX_", "TORCH")
_COMMUNICATION = ("Gloo", "gloo", "NCCL")  # libraries that connect the processes of a run


def run(backend: Backend) -> NoReturn:
    """Run the command line as a process of its own, and end it.

    Args:
        backend: The package whose command line this is.
    """
    gc.set_threshold(100_000)  # a framework's import makes as many objects as that, which would be searched every 700
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(lowest, True)  # or a file opened next would take the number, and what is written to stderr
    os.close(lowest)
    given = sys.stdout, sys.stderr  # which would close their descriptors if they were let go
    sys.stdout, sys.stderr = map(lasting, given)
    status = main(backend)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # the output that was left to flush
        if not status:  # or it has been said
            _complain(f"{backend.__name__}: {_unusable(error)}")
        status = status or InputError.status
    if status:
        # The interpreter's normal exit fails while an epoch is still being computed, and waits for the processes that
        # train together with this one, while they wait for it.
        os._exit(status)
    sys.exit(status)


def main(backend: Backend, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a package.

    Args:
        backend: The package, jaxvae or torchvae.
        arguments: The arguments; by default those of the process.

    Returns:
        The exit status: 0 on success, 2 for an invalid request, 3 if a loss or a gradient became NaN or infinite, 130
        or 143 after a signal.
    """
    name, arguments = backend.__name__, list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        say(version.line(name, version.FRAMEWORKS[name]))
        return 0
    try:
        entry = _entry(name, arguments)
        command = _parse(name, expanded(arguments, entry.flags))
        parts = getattr(command, "parts", None)
        with using(None if parts is None else parts_file.read(parts)):
            entry.run(backend, command)
    except (InputError, NonFiniteError) as error:
        _complain(f"{name}: {_as_typed(str(error), arguments)}")
        return error.status
    except OSError as error:
        _complain(f"{name}: {_unusable(error)}")
        return InputError.status
    except StoppedError as stop:
        if backend.first():
            _complain(f"{name}: {stop}")
        return stop.status
    except (MemoryError, RuntimeError, ValueError) as error:
        _complain(f"{name}: {_explained(error)}")
        return InputError.status
    except KeyboardInterrupt:
        _complain(f"{name}: interrupted; files written so far are kept.")
        return _INTERRUPTED
    return 0


def parse(flags: Any, **settings: Any) -> Any:
    """Parse a command line as `tyro.cli` does, in a terminal of any width.

    Args:
        flags: The type of the result.
        settings: Those of `tyro.cli`.

    Returns:
        An instance of `flags`.
    """
    width = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    arguments = list(sys.argv[1:] if settings.get("args") is None else settings["args"])

    def parsed(arguments: Sequence[str]) -> Any:
        return tyro.cli(flags, registry=_OPTIONAL, **{**settings, "args": arguments})

    try:
        with in_one_sentence(arguments, parsed):
            return parsed(arguments)
    finally:
        os.environ.pop("COLUMNS", None)
        os.environ.update({} if width is None else {"COLUMNS": width})


_OPTIONAL = ConstructorRegistry()
"""Shows a value that may be left out as INT in the help, not as {None}|INT. None can be given all the same, say to take
back a preset's value."""
_asked: list[PrimitiveTypeInfo] = []  # of tyro's own rule


@_OPTIONAL.primitive_rule
def _optional(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if kind.type_origin not in (types.UnionType, typing.Union) or kind in _asked:
        return None
    _asked.append(kind)
    try:
        spec = ConstructorRegistry.get_primitive_spec(kind)
    finally:
        _asked.remove(kind)
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    shown_as = re.sub(r"^\{None,", "{", spec.metavar)  # of choices
    shown_as = re.sub(r"^\{None\}\|(?:\{(.* .*)\}|(.*))$", r"\1\2", shown_as)  # braces are around several words
    return dataclasses.replace(spec, metavar=shown_as)


def _as_typed(sentence: str, arguments: Sequence[str]) -> str:
    """A sentence about the configuration that the flags give, with its fields named as these are typed."""
    if not sentence.startswith(("The configuration's ", "Invalid configuration: ")):
        return sentence
    fields = [name for name in flags_of(Spec()) if "_" in name]
    sentence = re.sub(r"^The configuration's (\w+)", r"--\1", sentence)
    sentence = re.sub(rf"(?<![\w/])(?:--)?({'|'.join(fields)})\b", lambda m: f"--{m[1].replace('_', '-')}", sentence)
    return re.sub("^--seed ", "--seeds ", sentence) if arguments[:1] == ["sweep"] else sentence


def _complain(sentence: str) -> None:
    print(printable(sentence, LONGEST), file=sys.stderr)


@functools.cache
def join_help(flags: type) -> None:
    """Join the lines of the help of a dataclass's fields, which tyro would break where the source does, and leave out
    the defaults None and (), whose meaning the help says.

    Args:
        flags: The dataclass; those of its fields are included.
    """
    for cls in (kind for kind in flags.__mro__ if "__dataclass_fields__" in vars(kind)):
        definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, text in itertools.pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                name, words = ast.unparse(field.target), str(ast.literal_eval(text.value)).split()
                help_of: list[Any] = [Doc(" ".join(words))]
                if getattr(cls, name, ...) in (None, ()):
                    help_of.append(tyro.conf.arg(help_behavior_hint=""))
                cls.__annotations__[name] = Annotated[cls.__annotations__[name], *help_of]
        for kind in cls.__annotations__.values():
            if dataclasses.is_dataclass(kind):
                join_help(kind)  # type: ignore[arg-type]


class _Output(io.FileIO):
    """An output whose reader may stop, as head does: what it doesn't read is dropped, and the work is done."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return len(content)


def lasting(stream: TextIO | None) -> TextIO:
    """The same output, or one to nowhere if it was closed as the process began. A pipe receives each line as it ends,
    and may be closed."""
    if stream is None:
        return Path(os.devnull).open("w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # what holds the output of a function that is called
        return stream
    stream.flush()
    binary = io.BufferedWriter(_Output(descriptor, "w", closefd=False))
    return io.TextIOWrapper(binary, stream.encoding, stream.errors, line_buffering=True)


def _unusable(error: OSError) -> str:
    """A sentence about a file that the operating system refuses."""
    advice = f"; {_ADVICE[error.errno]}, then resume or try again" if error.errno in _ADVICE else ""
    return f"{error.filename or 'A file or standard output'} can't be used ({error.strerror or error}){advice}."


def _explained(error: MemoryError | RuntimeError | ValueError) -> str:
    """A sentence about an error of a framework; any other error is raised again."""
    reason = (str(error).strip().splitlines() or ["out of memory"])[0]
    if variable := _refused_variable(error):
        refused = f"{variable} is {shown(os.environ[variable])}, which can't be used ({reason.rstrip('.')})"
        return f"The environment variable {refused}; give it another value, or unset it."
    if any(word in reason for word in _COMMUNICATION):
        reason = reason.partition(". ")[0]
        return f"Another process has ended ({reason}); start all processes again with --resume."
    if not isinstance(error, MemoryError) and not any(word in str(error) for word in _OUT_OF_MEMORY):
        raise error
    return f"This doesn't fit into memory ({reason}); give smaller sizes or fewer samples."


def _refused_variable(error: BaseException) -> str | None:
    """The environment variable for whose value a framework can't be imported, None for another error."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    importing = any(
        frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__", "").partition(".")[0] in _IMPORTED
        for frame in frames
    )
    text = str(error).lower()
    named = (
        name
        for name, value in os.environ.items()
        if name.startswith(_VARIABLES) and (name.lower() in text or repr(value).lower() in text)
    )
    return max(named, key=len, default=None) if importing else None


def _entry(name: str, arguments: Sequence[str]) -> Entry:
    """The command that the first argument names; without one the process ends with the list of commands."""
    names = [entry.name for entry in COMMANDS]
    if not arguments or arguments[0].startswith("-"):
        _list_commands(name, arguments)
    if arguments[0] not in names:
        word = arguments[0]
        raise InputError(
            f"There is no command {shown(word)}{suggestion(word, names)}; choose one of {', '.join(names)}."
        )
    return COMMANDS[names.index(arguments[0])]


def _list_commands(name: str, arguments: Sequence[str]) -> NoReturn:
    """End the process with a line of help for each command, or with what is wrong with the arguments."""
    commands: Any = None
    for entry in COMMANDS:
        text = (inspect.getdoc(entry.flags) or "").partition("\n\n")[0]
        command = Annotated[entry.flags, tyro.conf.subcommand(entry.name, description=text)]
        commands = command if commands is None else commands | command
    about = (
        f"A variational autoencoder in {_FRAMEWORKS[name]}: jaxvae and torchvae train the same run from the same seed, "
        f"and each reads the other's runs. Start with `{name} train`; `{name} --version` prints the versions."
    )
    parse(commands, prog=name, description=about, args=arguments, config=_CONFIG)
    raise InputError(f"Give a command first; `{name} --help` lists them.")


def _parse(name: str, arguments: Sequence[str]) -> Any:
    """The command, an instance of its dataclass."""
    entry = _entry(name, arguments)
    if {"-h", "--help"} & set(arguments):
        join_help(entry.flags)
    return parse(
        entry.flags,
        prog=f"{name} {entry.name}",
        # The examples, which hold for both packages, begin with this one's name.
        description=re.sub(rf"\n( +)(?={entry.name}\b)", rf"\n\1{name} ", inspect.getdoc(entry.flags) or ""),
        args=arguments[1:],
        config=_CONFIG,
        **({"default": entry.defaults(arguments)} if entry.defaults else {}),
    )
