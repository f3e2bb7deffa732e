"""Write CORRUPT_FILES.md, the table of malformed files and their messages: python -m parity_tests.corrupt.table"""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from parity_tests.corrupt import readers
from parity_tests.corrupt.data import NPY, NPZ, PICTURES
from parity_tests.corrupt.run_folder import CONFIG, LISTING, METRICS
from parity_tests.corrupt.transforms import Kind
from parity_tests.corrupt.weights import CHECKPOINT, WEIGHTS

TABLE = Path(__file__).parent / "CORRUPT_FILES.md"
HEAD = """# Malformed files and their error messages

Each file is rejected by one sentence that names it, and nothing of it is loaded or run, waited for or allocated; only a
corrupt index of checkpoints is reported and written again. FILE is the file's name, FOLDER its folder's.
`python -m parity_tests.corrupt.table` writes this table, and the tests check every row of it, for both packages.

Tested elsewhere: a bit flipped in each tensor in turn, a file without read permission and one that shrinks as it is
read (test_corrupt_weights.py), every field of a configuration missing and of 15 other values (test_corrupt_runs.py),
MNIST's files (test_corrupt_data.py, test_data.py), and files changed at random (test_fuzz.py,
`python scripts/stress.py fuzz`).

"""


class Group(NamedTuple):
    """Malformed files of one kind, a section of the table."""

    title: str
    target: str
    """The key in readers.TARGETS, which has the file's path and an intact file."""
    kinds: Sequence[Kind]
    read: Callable[[Path], Any]


def images(prefix: str, folder: bool) -> Callable[[Path], Any]:
    return lambda path: datasets.load(Spec(f"{prefix}:{path.parent if folder else path}", readers.IMAGES.model), None)


GROUPS = [
    Group("Weight files, and checkpoints in the same ways", "weights", WEIGHTS, weight_file.load),
    Group("Checkpoints", "checkpoint", CHECKPOINT, weight_file.load_checkpoint),
    Group("config.json", "config", CONFIG, lambda path: run_folder.read(path.parent)),
    Group("metrics.jsonl", "metrics", METRICS, lambda path: metrics.read(run_folder.read(path.parent))),
    Group(
        "checkpoints/steps.json",
        "listing",
        LISTING,
        lambda path: checkpoints.latest(run_folder.read(path.parent.parent)),
    ),
    Group("Images in an .npy", "npy", NPY, images("npy", False)),
    Group("Images in an .npz", "npz", NPZ, images("npz", False)),
    Group("A folder of pictures, one of them a PNG", "png", PICTURES, images("images", True)),
]


def message_cell(group: Group, kind: Kind) -> str:
    """Return the message about a malformed file, as a cell of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = readers.place(Path(folder), group.target)
        path.unlink(missing_ok=True)
        kind.put(path, readers.TARGETS[group.target][1].whole)
        try:
            message = " ".join(group.read(path)[1])
        except InputError as error:
            message = re.sub(" at 0x[0-9a-f]+", "", str(error))
    return cell(message.replace(str(path), "FILE").replace(str(path.parent), "FOLDER").replace(folder, ""))


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    for letter in "\\|*_<[`":
        text = text.replace(letter, f"\\{letter}")
    return text


def row(kind: Kind, message: str) -> str:
    return f"| {cell(kind.name)} | {message} |"


def main() -> None:
    parts = [HEAD]
    for group in tqdm(GROUPS):
        rows = [row(kind, message_cell(group, kind)) for kind in group.kinds]
        parts.append(f"## {group.title}\n\n| file | message |\n| --- | --- |\n" + "\n".join(rows) + "\n\n")
    TABLE.write_text("".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
