"""The data sets that `--data` can name. The function that reads each is in `jaxvae.shared.data.datasets.READERS`."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from jaxvae.shared.config.choices import require
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown, suggestion

LONGEST = 4096  # of a path


class DataSet(NamedTuple):
    """An entry of `DATA_SETS`: what may follow its name, and its help."""

    help: str
    splits: tuple[str, ...] = ()
    """What may follow the name and a colon; the name alone is the first of them."""
    paths: tuple[str, ...] = ()
    """Placeholders, such as FILE, of the path that has to follow the name and a colon."""

    def accepts(self, argument: str | None) -> bool:
        """Whether `argument`, None without a colon, may follow the name."""
        if argument is None:
            return not self.paths
        return argument in self.splits or (bool(self.paths) and argument != "")


DATA_SETS: dict[str, DataSet] = {
    "auto": DataSet("MNIST, or digits where MNIST is not available"),
    "mnist": DataSet("handwritten digits"),
    "fashion-mnist": DataSet("clothes"),
    "kmnist": DataSet("Japanese characters"),
    "emnist": DataSet(
        "handwritten letters and digits", splits=("balanced", "byclass", "bymerge", "letters", "digits", "mnist")
    ),
    "cifar10": DataSet("CIFAR-10, photographs of animals and vehicles in colour (needs --image 32 32 3)"),
    "digits": DataSet("scikit-learn's handwritten digits, resized"),
    "images": DataSet("a folder of pictures", paths=("DIR",)),
    "npy": DataSet(
        "one array, or a folder of train.npy, train_labels.npy, test.npy and test_labels.npy", paths=("FILE", "DIR")
    ),
    "npz": DataSet("several arrays", paths=("FILE",)),
}


def complete_names() -> list[str]:
    """Every name of a data set that needs no path, with each of its splits."""
    names: list[str] = []
    for name, entry in DATA_SETS.items():
        names += [] if entry.paths else [name, *(f"{name}:{split}" for split in entry.splits)]
    return names


def _forms(name: str) -> list[str]:
    """How `--data` may name an entry."""
    entry = DATA_SETS[name]
    split = [f"{name}:SPLIT (SPLIT: {', '.join(entry.splits)})"] if entry.splits else []
    return [f"{name}:{path}" for path in entry.paths] or [name, *split]


DATA_HELP = "The images. " + "; ".join(f"{', '.join(_forms(name))}: {DATA_SETS[name].help}" for name in DATA_SETS) + "."


def require_data(name: str) -> None:
    """Raises InputError, which lists the data sets, unless `name` is one of them."""
    kind, colon, argument = name.partition(":")
    if kind not in DATA_SETS or not DATA_SETS[kind].accepts(argument if colon else None):
        forms = ", ".join(form for kind in DATA_SETS for form in _forms(kind))
        raise InputError(f"The configuration's data must be one of {forms}, found {shown(name)}{_meant(name)}.")
    require(name.isprintable() and len(name) <= LONGEST, "data", f"printable, of at most {LONGEST} letters", name)


def _meant(name: str) -> str:
    """What a name that is none may stand for, as the end of a message: a path without its kind, or a misspelt name."""
    path, argument = Path(name), name.partition(":")[2]
    with contextlib.suppress(OSError):  # a name may be too long for a path
        if name and path.is_dir():
            return f"; that is a folder: give {'npy' if (path / 'train.npy').exists() else 'images'}:{name}"
        if path.suffix in (".npy", ".npz") and path.is_file():
            return f"; that is a file: give {path.suffix[1:]}:{name}"
    with_path = [f"{kind}:{argument}" for kind, entry in DATA_SETS.items() if entry.paths and argument]
    return suggestion(name, [*complete_names(), *with_path])
