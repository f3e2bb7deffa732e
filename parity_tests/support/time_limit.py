"""A limit of time for a piece of code that may never end."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = {signal.ITIMER_REAL: signal.SIGALRM, signal.ITIMER_PROF: signal.SIGPROF}


@contextlib.contextmanager
def time_limit(seconds: float, message: str, timer: int = signal.ITIMER_REAL) -> Iterator[None]:
    """Raise TimeoutError inside the context after some seconds; only in the main thread, which signals reach.

    Args:
        seconds: The limit.
        message: The error's message.
        timer: `signal.ITIMER_REAL`, or `signal.ITIMER_PROF` for seconds of the processor.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(message)

    before = signal.signal(_SIGNALS[timer], stop)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(_SIGNALS[timer], before)
