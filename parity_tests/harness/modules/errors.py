"""Say whose code raised an exception."""

import contextlib
from collections.abc import Iterator

from jaxvae.shared.errors import InputError


class ModelError(RuntimeError):
    """The caller's own code raised an exception, which is this one's `__cause__` and keeps its traceback."""


@contextlib.contextmanager
def raised_by(whose: str) -> Iterator[None]:
    """Introduce an exception of the caller's code by a sentence that says whose code raised it."""
    try:
        yield
    except (InputError, ModelError):
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{whose} raised {type(error).__name__}: {first.rstrip('.')}. The traceback above is that of its own code; "
            "correct it, the inputs or the mapping."
        ) from error
