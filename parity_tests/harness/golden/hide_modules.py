"""Hide installed modules for the rest of a process."""

import sys
from typing import Any


def hide(*names: str) -> None:
    """Make modules and their submodules impossible to import.

    Args:
        *names: The modules.

    Raises:
        RuntimeError: If one is already imported.
    """
    if imported := [name for name in names if name in sys.modules]:
        raise RuntimeError(f"Imported before it could be hidden: {', '.join(imported)}; hide it first.")
    sys.meta_path[:] = [_Without(finder, names) for finder in sys.meta_path]


class _Without:
    """A finder without these modules. It returns None, since `importlib.util.find_spec` would not expect an error."""

    def __init__(self, finder: Any, names: tuple[str, ...]) -> None:
        self._finder, self._names = finder, names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in self._names):
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)
