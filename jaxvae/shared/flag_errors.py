"""What tyro refuses on a command line, as one sentence instead of a box."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import LONGEST, closest, named, printable, shown, suggestion

_errors: Any = getattr(tyro, "_errors", None)
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "a value", "PATH": "a path"}


@contextlib.contextmanager
def in_one_sentence(arguments: Sequence[str], help_of: Callable[[list[str]], Any]) -> Iterator[None]:
    """End the process with a sentence and a status of 2 where tyro would print a box and do so.

    Args:
        arguments: The command line.
        help_of: Prints the help of the command line that it is given, and raises SystemExit.
    """

    def stop(event: Any) -> None:
        sentence = ""
        with contextlib.suppress(Exception):  # another tyro's events: its box says it
            sentence = _sentence(event, arguments, help_of)
        if sentence:
            print(printable(f"{event.prog.partition(' ')[0]}: {sentence}", LONGEST), file=sys.stderr)
            raise SystemExit(InputError.status)

    # Tyro promises nothing of these names: without them it prints its boxes.
    with getattr(_errors, "on_parse_error", lambda _: contextlib.nullcontext())(stop):
        yield


def _sentence(event: Any, arguments: Sequence[str], help_of: Callable) -> str:
    """The sentence; empty for an event that a later tyro may add."""
    program, *command = event.prog.split(" ")
    given = []  # the command, where the program's name doesn't end in it
    if not command and arguments and re.match(r"[\w-]+$", arguments[0]) and arguments[0][0] != "-":
        given = [arguments[0]]
    called = " ".join([*command, *given]) or program
    see = f"`{' '.join([program, *command, *given])} --help`"
    match event:
        case _errors.UnrecognizedArgs(tokens=[token, *_]) | _errors.MissingArgs(unrecognized_tokens=[token, *_]):
            flags = _flags(given, help_of)
            if token.startswith("-"):
                flag = token.partition("=")[0]
                alike = closest(flag.lstrip("-"), [name.lstrip("-") for name in flags])
                meant = f" (did you mean --{alike}?)" if alike else ""
                return f"{called} has no flag {shown(flag)}{meant}; {see} lists them."
            before = next((first for first, second in itertools.pairwise(arguments) if second == token), called)
            opposite = f"--no-{before.removeprefix('--')}"
            if opposite in flags:
                return f"{before} takes no value, and {shown(token)} stands after it; give {before} or {opposite}."
            if given == [token]:
                return f"There is no command {shown(token)}; `{program} --help` lists them."
            return f"{called} can't use {shown(token)}, which stands after {before}; {see} shows what it takes."
        case _errors.MissingArgs(missing_arguments=missing):
            names = [_called(one.arg, with_value=True) for one in missing]
            verb = "is" if len(names) == 1 else "are"
            return f"{called} needs {named(names, ' and ')}, which {verb} missing; {see} explains it."
        case _errors.MissingSubcommand(subcommand_spec=spec):
            names = (name.rpartition(":")[2] for name in spec.parser_from_name)
            return f"Give a command: {named(names, most=100)}; `{program} --help` explains them."
        case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
            name, listed = _called(argument), re.split("[{},|]", argument.lowered.metavar or "")
            choices = sorted(choices, key=lambda one: listed.index(one) if one in listed else len(listed))
            one = f"choose one of {named(choices, most=100)}"  # in the order of the help; tyro's own varies
            return f"{name} can't be {shown(value)}{suggestion(value, choices)}; {one}."
        case _errors.BadValue(argument=argument, reason="too_few_values"):
            found = " ".join(_given(argument, arguments)) or "none"
            return f"{_called(argument)} needs {_values(argument)}, and was given {found}; {see} explains it."
        case _errors.InstantiationFailure(argument=argument) if argument is not None:
            found = " ".join(_given(argument, arguments))
            return f"{_called(argument)} can't be {shown(found)}; give {_values(argument)}."
    return ""


def _called(argument: Any, *, with_value: bool = False) -> str:
    """An argument's name as it is typed."""
    if argument.is_positional():
        return argument.lowered.metavar or argument.display_name()
    name = argument.lowered.name_or_flags[0]
    return f"{name} {argument.lowered.metavar}" if with_value and argument.lowered.metavar else name


def _values(argument: Any) -> str:
    kind = argument.lowered.metavar or "a value"
    if len(words := kind.split()) > 1 and set(words) <= set(_KINDS):
        return f"{len(words)} values ({kind})"
    if several := re.fullmatch(r"\[?(\w+) \[\1 \.\.\.\]+", kind):
        return _KINDS.get(several[1], several[1]).removeprefix("a ") + "s"
    return _KINDS.get(kind, kind)


def _given(argument: Any, arguments: Sequence[str]) -> list[str]:
    """The values that stand after a flag."""
    found: list[str] = []
    for place, token in enumerate(arguments):
        flag, _, value = token.replace("_", "-").partition("=")
        if flag in argument.lowered.name_or_flags:
            rest = arguments[place + 1 :]
            end = next((i for i, word in enumerate(rest) if re.match("-{1,2}[a-z]", word)), len(rest))
            found = [value] if value else list(rest[:end])
    return found


def _flags(given: list[str], help_of: Callable[[list[str]], Any]) -> list[str]:
    """The flags of a command, which its help names."""
    text = io.StringIO()
    os.environ["COLUMNS"] = "200"  # or a narrow terminal would break the longer ones
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        help_of([*given, "--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text.getvalue())))
