"""Compare published modules that have a Flax and a torch side: scripts/gallery.py --help"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from gallery_pairs.pair import Pair, version
from gallery_pairs.table import PAIRS
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import markdown_table, named, text_table

_SCRIPTS = Path(__file__).parent
_HEAD = ("pair", "verdict", "what differs, or why", "seconds", "MB")


@dataclass(frozen=True)
class Gallery:
    """Compare modules of transformers, diffusers and timm, and Flax's own, with their torch sides in float64: outputs,
    a loss and every gradient.

    A pair agrees, differs in a way that the comparison names, or is refused because it can't be paired. Where one
    differs or is refused, its reason is printed, and the row after it corrects that and agrees. Each pair is compared
    in a process of its own, so that its time and memory are its own. Exit status 0 if every verdict is the expected
    one, else 1. Requires the extra `gallery`.

    Example: python scripts/gallery.py bert gpt2 lstm"""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The pairs to compare; by default all that are small. `--list` shows their names."""
    list: bool = False
    """Print the names of all pairs, with what is expected of each and why, and compare nothing."""
    large: bool = False
    """Also compare the large pairs, BERT-base and EfficientNet-b0, which take minutes and gigabytes."""
    markdown: Path | None = None
    """Write the table to this file too, as a page with the command that repeats it."""


def main(options: Gallery) -> int:
    pairs = chosen(options.names, options.large or options.list)
    if options.list:
        print(text_table([(pair.name, pair.expected, ", ".join(pair.packages), pair.why) for pair in pairs], ()))
        return 0
    if options.markdown is not None and not options.markdown.resolve().parent.is_dir():
        raise InputError(f"{options.markdown} can't be written: give --markdown a file in an existing folder.")
    for name in {name for pair in pairs for name in pair.packages}:
        version(name)  # before minutes are spent on the others
    results = []
    with tqdm(pairs, disable=None) as progress:
        for pair in progress:
            progress.set_description(pair.name)
            results.append(compare(pair))
            if options.markdown is not None:  # again after each, since a later one may be interrupted
                write_atomically(options.markdown, page(pairs[: len(results)], results).encode())
    print(text_table([_HEAD, *(row(*both) for both in zip(pairs, results, strict=True))], (3, 4)))
    wrong = [
        f"{pair.name} ({result['verdict']} instead of {pair.expected})"
        for pair, result in zip(pairs, results, strict=True)
        if result["verdict"] != pair.expected
    ]
    if wrong:
        print(f"\nNot as expected: {', '.join(wrong)}.", file=sys.stderr)
    return 1 if wrong else 0


def chosen(names: Sequence[str], large: bool) -> list[Pair]:
    """Return the pairs of these names, or all small ones, and with `large` the others too."""
    known = [pair.name for pair in PAIRS]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"There is no pair {named(unknown)}: --list prints the names of all {len(known)}.")
    if names:
        return [pair for pair in PAIRS if pair.name in names]
    return [pair for pair in PAIRS if large or not pair.large]


def compare(pair: Pair) -> dict[str, Any]:
    """Compare a pair in a process of its own.

    Returns:
        Its verdict, the size of each level, what was found, the versions, the seconds of the comparison, and the peak
        memory of the process in bytes. A process that dies has the verdict "failed" and its last line.
    """
    path = os.pathsep.join(filter(None, [str(_SCRIPTS), str(_SCRIPTS.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "gallery_pairs.process", pair.name]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    if result.returncode == 0:
        return json.loads(result.stdout.splitlines()[-1])
    last = (result.stderr.strip().splitlines() or [f"it ended with status {result.returncode}"])[-1]
    return {"verdict": "failed", "levels": [], "found": last, "versions": [], "seconds": 0.0, "peak": 0}


def row(pair: Pair, result: dict[str, Any]) -> tuple[str, ...]:
    """Return a pair's cells: what was found, and the reason that is known for it."""
    largest = max((size for _, size in result["levels"]), default=0)
    found = f"to {largest:.2g} roundings" if result["verdict"] == "agree" else result["found"]
    return (
        pair.name,
        result["verdict"],
        " — ".join(filter(None, (found, pair.why))),
        f"{result['seconds']:.0f}",
        f"{result['peak'] / 1e6:,.0f}",
    )


def page(pairs: Sequence[Pair], results: Sequence[dict[str, Any]]) -> str:
    """Return the page: what was compared, the command, the versions, the table."""
    versions = sorted({version for result in results for version in result["versions"]})
    rows = [[cell.replace("|", r"\|") for cell in row(*both)] for both in zip(pairs, results, strict=True)]
    return _PAGE.format(
        command=shlex.join(["python", "scripts/gallery.py", *sys.argv[1:]]),
        versions=", ".join(versions),
        table=markdown_table(_HEAD, rows, numbers=False, padded=False),
    )


_PAGE = """# A gallery of pairs

Published modules, in small configurations with random weights, compared by [compare_modules](porting.md) in float64:
every output, a loss, and every gradient. A verdict is one of three. *agree*: each entry of them is the same to so many
of its own rounding errors, of which the tolerance is 64 and more for long sums. *differ*: they are not, and the row
says what the comparison named and why it is so. *refused*: the two can't be compared as they are. The row after one
that differs or is refused corrects it, or its reason names the one that agrees. Seconds are those of the comparison,
on the machine and beside whatever else ran there; peak memory is that of a process that compares this pair alone.

```bash
pip install -c constraints.txt '.[gallery]'
{command}
```

Compared with {versions}. Later versions of transformers and diffusers have no Flax side. The Flax side of the pairs
from timm is written in the folder `scripts/gallery_pairs`, after the published architectures.

{table}
"""


if __name__ == "__main__":
    try:
        join_help(Gallery)
        sys.exit(main(parse(Gallery)))
    except InputError as error:
        print(f"gallery: {error}", file=sys.stderr)
        sys.exit(error.status)
