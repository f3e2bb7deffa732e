"""Reads files changed at random, and finds any that is not refused in a sentence though it should be:
scripts/fuzz.py --help"""

import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import markdown_table
from parity_tests.mutations import OTHER, SAME, Found, fuzz
from parity_tests.targets import TARGETS, place

GROUPS = {
    "weights": ("weights",),
    "checkpoint": ("checkpoint",),
    "config": ("config", "metrics", "listing"),
    "data": ("npy", "npz", "packed npz", "png", "gif", "bmp", "jpeg", "webp"),
}


@dataclass(frozen=True)
class Fuzz:
    """Change a small whole file at random, read it, and do so again: bits, bytes and blocks are flipped, moved, deleted
    and inserted, and fields of its JSON changed.

    A weight file or a checkpoint must be refused in a sentence that names it, or be read as what was written, to the
    last bit; a configuration, metrics or images, for which nothing vouches, may also be read as others that are as
    whole. Anything else is told with its seed, and the exit status is then 1. The reading is jaxvae.shared's, which is
    all that both packages have of it.

    Example: python scripts/fuzz.py --kind weights --mutations 1000"""

    mutations: int = 100_000
    """How many changed files, of each kind."""
    seed: int = 0
    """The number of the first. `--seed N --mutations 1` makes the one again that was told."""
    kind: Literal["weights", "checkpoint", "config", "data", "all"] = "all"
    """Of weight files, checkpoints, the other files of a run folder, or files of images."""


def main(options: Fuzz) -> int:
    if options.mutations < 1 or options.seed < 0:
        raise InputError("--mutations must be at least 1 and --seed at least 0.")
    names = [name for group, names in GROUPS.items() if options.kind in (group, "all") for name in names]
    memory, wrong = Path("/dev/shm"), 0
    for name in names:
        seeds = range(options.seed, options.seed + options.mutations)
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            start = time.perf_counter()
            path = place(Path(folder), name)
            found = fuzz(TARGETS[name][1], path, tqdm(seeds, name, unit=" files", unit_scale=True, disable=None))
            print(table(name, found, time.perf_counter() - start))
        for line in found.wrong[:20]:
            print(f"WRONG: {line}")
        wrong += len(found.wrong)
    return min(wrong, 1)


def table(name: str, found: Found, seconds: float) -> str:
    """What became of the mutations, by kind and by sentence."""
    kinds, sentences = sorted({kind for kind, _ in found.outcomes}), Counter[str]()
    rows = []
    for kind in kinds:
        ends = {end: count for (of, end), count in found.outcomes.items() if of == kind}
        same, other = ends.pop(SAME, 0), ends.pop(OTHER, 0)
        rows.append([kind.replace("_", " "), f"{sum(ends.values()):,}", f"{same:,}", f"{other:,}"])
    for (_, end), count in found.outcomes.items():
        sentences[end] += count
    messages = [[message, f"{count:,}"] for message, count in sentences.most_common(40)]
    tables = (
        f"\n## {name}: {found.outcomes.total():,} in {seconds:.0f} s, {len(found.wrong)} wrong",
        markdown_table(["mutation", "refused", "the same", "another"], rows, padded=False),
        markdown_table(["message", "times"], messages, padded=False),
    )
    return "\n\n".join(tables)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Fuzz)))
    except InputError as error:
        print(f"fuzz: {error}", file=sys.stderr)
        sys.exit(error.status)
