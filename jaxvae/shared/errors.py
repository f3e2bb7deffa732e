"""The errors that a user can cause. The command line prints their message and exits with their status."""


class InputError(Exception):
    """An invalid request; the message says what failed, where, what was expected and found, and what to do."""

    status = 2


class NonFiniteError(Exception):
    """A loss, a gradient or a statistic became NaN or infinite; the message says which, and in which steps."""

    status = 3
