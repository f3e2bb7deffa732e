"""Run Python programs in forks of one process that has imported the frameworks.

A new interpreter takes seconds to import jax, torch and scikit-learn, and to end; a fork takes a tenth of one. Tests of
what a process imports, or of what its environment does while it imports, start a new interpreter instead.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

_ONE_AT_A_TIME = threading.Lock()


class Process:
    """A program that runs in a fork of the warm process; its methods are those of subprocess.Popen.

    Args:
        arguments: A script's path, or "-m" and a module, or "-c" and a program, then the program's own arguments.
        cwd: The working directory; by default that of this process.
        env: The environment; by default that of this process.
    """

    def __init__(self, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self.args = [str(argument) for argument in arguments]
        self.returncode: int | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._files = [str(Path(self._folder.name) / name) for name in ("stdout", "stderr")]
        self.pid: int = _ask(
            "start", self.args, str(cwd or Path.cwd()), dict(os.environ if env is None else env), self._files
        )

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal that ended the process; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask("poll", self.pid)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:  # the warm process has not waited for it, so that the pid is still its own
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end and return standard output and standard error; kill it after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"{self.args} took more than {timeout:g} seconds")
            time.sleep(0.01)
        with self._folder:
            stdout, stderr = (Path(file).read_text() for file in self._files)
        return stdout, stderr


def python(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a `Process` to its end, as subprocess.run does."""
    process = Process(*arguments, cwd=cwd, env=env)
    stdout, stderr = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _ask(*request: Any) -> Any:
    with _ONE_AT_A_TIME:
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the warm process, which ends with this one."""
    command = [sys.executable, "-c", "from parity_tests.support import warm; warm._serve()"]
    # Each fork sets what its own environment has for JAX.
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    atexit.register(server.communicate)  # closes its standard input, at which it ends
    return server


def _serve() -> None:
    """Answer each request on standard input, a line of JSON, with a line on standard output."""
    _import_commands()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key pressed reaches the process that asks, which ends this one
    for line in sys.stdin:
        match json.loads(line):
            case "start", *settings:
                answer = os.fork() or _child(*settings)
            case "poll", pid:
                ended, status = os.waitpid(pid, os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if ended else None
            case other:
                raise ValueError(other)
        print(json.dumps(answer), flush=True)


def _import_commands() -> None:
    from parity_tests.support import quick_jax

    # No array is made and no device looked for: both start threads, which a fork does not have.
    for module in (
        *("matplotlib.figure", "sklearn.datasets", "torch._dynamo"),
        *("jaxvae.loop", "jaxvae.sweep", "torchvae.loop", "parity_tests.harness.vae.command"),
    ):
        importlib.import_module(module)
    quick_jax.install()


def _child(words: list[str], cwd: str, env: dict[str, str], files: list[str]) -> NoReturn:
    """Run a program in this process, a fork, and end it as an interpreter does."""
    status: Any = 1
    try:
        for stream, path in enumerate([os.devnull, *files]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        _read_settings_again()
        _run(words)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)  # an interpreter would free one module after the other, for seconds


def _read_settings_again() -> None:
    """Set what JAX and torch read from the environment as they are imported."""
    import jax
    import torch

    for name, default in list(jax.config.values.items()):
        if (value := os.environ.get(name.upper())) is not None:
            switch = isinstance(default, bool)
            number = isinstance(default, int | float)
            jax.config.update(name, value.lower() in {"1", "true"} if switch else float(value) if number else value)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def _run(words: list[str]) -> None:
    kind, *rest = words
    folders = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = ["" if kind in {"-c", "-m"} else str(Path(kind).parent), *folders]
    sys.argv = [kind, *rest[1:]] if kind in {"-c", "-m"} else words
    match kind:
        case "-c":
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        case "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        case _:
            runpy.run_path(kind, run_name="__main__")
