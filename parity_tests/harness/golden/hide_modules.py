"""Modules as if they were not installed, for the rest of a process."""

import sys
from typing import Any


def hide(*names: str) -> None:
    """From now on nothing imports these modules, nor what is inside them. Raises RuntimeError if one is imported
    already."""
    if there := [name for name in names if name in sys.modules]:
        raise RuntimeError(f"Imported before it could be hidden: {', '.join(there)}; hide it first.")
    sys.meta_path[:] = [_Without(finder, names) for finder in sys.meta_path]


class _Without:
    """A finder that doesn't find them: what a finder raises would look different to `importlib.util.find_spec`."""

    def __init__(self, finder: Any, names: tuple[str, ...]) -> None:
        self._finder, self._names = finder, names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in self._names):
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)
