"""The errors a user can cause. Each carries one sentence; the command line prints it and exits with its status."""


class InputError(Exception):
    """What was asked for can't be done as asked: says what failed, where, what was expected and found, what to do."""

    status = 2


class NonFiniteError(Exception):
    """Training left the finite numbers: says which term, and in which steps."""

    status = 3
