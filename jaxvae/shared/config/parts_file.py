"""Own parts from a Python file, for the command line."""

import importlib.util
import sys
from pathlib import Path

from jaxvae.shared.config.own import Parts
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import named, printable, shown


def read(given: str) -> Parts:
    """Execute a Python file, and return the `Parts` of a name in it.

    Args:
        given: FILE.py:NAME.

    Returns:
        The parts.

    Raises:
        InputError: If there is no such file, if it fails, or if it has no `Parts` of that name.
    """
    file, _, name = given.rpartition(":")
    path = Path(file)
    if not name.isidentifier() or path.suffix != ".py":
        raise InputError(f"--parts must be FILE.py:NAME, found {shown(given)}; name the Parts in a Python file.")
    if not path.is_file():
        raise InputError(f"--parts {printable(given)}: there is no file {file}; give the one that has the Parts.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # as of a program, for what it imports from beside it
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--parts: {file} fails with {type(error).__name__}: {error}; mend it.") from None
    finally:
        sys.path.pop(0)
    parts = getattr(module, name, None)
    if not isinstance(parts, Parts):
        others = [other for other, value in vars(module).items() if isinstance(value, Parts)]
        raise InputError(
            f"--parts: {file} has no Parts of the name {name}, found {shown(parts)}; "
            f"{f'it has {named(others)}' if others else 'assign Parts(...) to that name'}."
        )
    return parts
