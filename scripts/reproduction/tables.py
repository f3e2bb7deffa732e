"""Format the results of all runs and the expected ones as Markdown, and write them into the page of results."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import write_atomically
from reproduction.expected import NOT_BELOW, WITHIN, Band, shown, verdict
from reproduction.protocols import PROTOCOLS, STAGES, epochs_of
from reproduction.runner import MNIST, Kept

BEGIN, END = "<!-- reproduce: begin -->", "<!-- reproduce: end -->"
COMMAND = "python scripts/reproduce.py"


def listing() -> str:
    """List every protocol with its cost, its expected results and their sources."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        seeds = f", seeds {_listed(protocol.seeds)}" if len(protocol.seeds) > 1 else ""
        lines.append(f"{name}: {protocol.title}; {protocol.epochs:,} epochs{seeds}: {protocol.cost}")
        lines += [f"    {figure}: {band.words}" for figure, band in protocol.expected.items()]
        lines += [f"    ({source})" for source in dict.fromkeys(band.source for band in protocol.expected.values())]
    return "\n".join(lines)


def table(kept: Sequence[Kept]) -> str:
    """Format the results, a row for each figure and a column for each package, with the figures of all seeds and
    whether they are in their range."""
    packages = sorted({one.package for one in kept})
    lines = [f"| {' | '.join(['protocol', 'figure', 'expected', *packages])} |", f"|{' --- |' * (3 + len(packages))}"]
    order = list(PROTOCOLS)
    for name, epochs in sorted({(one.protocol, one.epochs) for one in kept}, key=lambda g: (order.index(g[0]), g[1])):
        group = [one for one in kept if (one.protocol, one.epochs) == (name, epochs)]
        seeds = sorted({one.seed for one in group})
        of = "" if seeds == [0] else f", seed{'s' * (len(seeds) > 1)} {_listed(seeds)}"
        first = f"`{_arguments(name, epochs)}`: {PROTOCOLS[name].title}{of}"
        for figure in dict.fromkeys(figure for one in group for figure in one.figures):
            band = PROTOCOLS[name].expected.get(figure) if {one.data for one in group} == {MNIST} else None
            by_package = [{one.seed: one.figures.get(figure) for one in group if one.package == p} for p in packages]
            cells = [first, figure, band.words if band else "", *(_cell(mine, seeds, band) for mine in by_package)]
            lines.append(f"| {' | '.join(cells)} |")
            first = ""
    return "\n".join(lines)


def caption(kept: Sequence[Kept]) -> str:
    """Describe the table: the data, the packages and how to reproduce a row."""
    by = []
    for package in sorted({one.package for one in kept}):
        mine = [one for one in kept if one.package == package]
        versions = {name: "" for one in mine for name in one.versions}
        for name in versions:
            versions[name] = " and ".join(sorted({one.versions[name] for one in mine if name in one.versions}))
        devices = " and ".join(sorted({one.device for one in mine}))
        by.append(f"{package} on {devices} with {', '.join(' '.join(pair) for pair in versions.items())}")
    return (
        f"Nats per image of {_listed(sorted({one.data for one in kept}))}; by {'; by '.join(by)}. Seed 0 unless "
        f"stated. `{COMMAND} NAME` reproduces a row, `--package torchvae` with torchvae; `--list` shows the sources of "
        "the expected results."
    )


def write(path: Path, content: str) -> None:
    """Replace the text between the page's two marks. Raises InputError as `around_table` does, and if the page can't be
    written."""
    before, after = around_table(path)
    try:
        write_atomically(path, before + f"{BEGIN}\n\n{content}\n\n{END}".encode() + after)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); the table is printed above.") from None


def around_table(path: Path) -> tuple[bytes, bytes]:
    """Read the page before its first mark and after its last. Raises InputError unless each is there once, in order."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); leave out --readme.") from None
    begin, end = BEGIN.encode(), END.encode()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if (text.count(begin), text.count(end), rest.count(end)) != (1, 1, 1):
        raise InputError(f"{path} must hold {BEGIN} and after it {END}, each once; put them where the table should be.")
    return before, after


def _arguments(name: str, epochs: int) -> str:
    """The arguments for this number of epochs of a protocol."""
    protocol = PROTOCOLS[name]
    stages = next((n for n in range(1, STAGES) if protocol.staged and epochs_of(n) == epochs), None)
    if epochs >= protocol.epochs:
        return name
    return f"{name} --epochs {epochs}" if stages is None else f"{name} --stages {stages}"


def _cell(figures: dict[int, float | None], seeds: Sequence[int], band: Band | None) -> str:
    """The figures of the seeds, and whether they are in the band."""
    values = [figures.get(seed) for seed in seeds]
    if all(value is None for value in values):
        return ""
    listed = ", ".join("-" if value is None else shown(value) for value in values)
    if band is None:
        return listed
    verdicts = {seed: verdict(v, band) for seed, v in zip(seeds, values, strict=True) if v is not None}
    off = [f"{word} (seed {seed})" for seed, word in verdicts.items() if word not in (WITHIN, NOT_BELOW)]
    return f"{listed}: {', '.join(off) or next(iter(verdicts.values()))}"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
