"""Long trials of what must not break: damaged files, kills, switches between the packages, several processes, and the
verdicts on pairs of modules, with and without a mapping.

scripts/stress.py --help, and scripts/stress.py TRIAL --help for each."""

import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tqdm import tqdm

import jaxvae
import torchvae
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.config.presets import DEFAULT_PRESET
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from jaxvae.shared.safe_io import require_writable
from jaxvae.shared.text import LONGEST, markdown_table, printable
from parity_tests.corrupt import coverage, fuzz
from parity_tests.corrupt.readers import TARGETS, place
from parity_tests.harness.modules.validation import DTYPES
from parity_tests.support.arranged import nets as arranged_nets
from parity_tests.support.distributed_runs import ended, started
from parity_tests.support.kill_and_resume import killed, unbroken
from parity_tests.support.numpy_backend import contents
from parity_tests.support.pairs.draw import edit_of
from parity_tests.support.pairs.edits import EDITS
from parity_tests.support.pairs.verdicts import Outcome, judge, table
from parity_tests.support.switch_frameworks import difference, switch

Package = Literal["both", "jaxvae", "torchvae"]

GROUPS = {
    "weights": ("weights",),
    "checkpoint": ("checkpoint", "stored"),
    "config": ("config", "metrics", "listing", "measures", "agreement", "old agreement"),
    "data": (
        *("npy", "mapped npy", "npy folder", "npz", "packed npz", "labelled npz"),
        *("png", "gif", "bmp", "jpeg", "webp", "tiff", "idx", "packed idx", "labels idx", "cifar"),
    ),
    "foreign": ("safetensors", "msgpack", "arrays", "pickle", "orbax", "orbax array", "orbax chunk", "table"),
}
SWITCH_TOLERANCE = 1e-10  # of 1,200 steps in float64
DISTRIBUTED_TOLERANCE = 1e-12  # float64: sums in another order, carried through some hundred steps


@dataclass(frozen=True)
class Fuzz:
    """Damage small valid files at random and read them: bits, bytes and blocks are flipped, moved, deleted or inserted,
    and parts of their structure changed, with lengths and checksums made right again: fields of JSON, headers of arrays
    and tensors, chunks of a PNG, members of a zip file, a pickle's operations.

    A damaged weight file or checkpoint must be rejected with an error that names the file, unless its contents are
    unchanged. A configuration, metrics, images or other programs' tensors have no digest and may also be read as other
    valid ones. No file may take more than five seconds or a gigabyte. Any violation is printed with its seed, and the
    exit status is then 1. Both packages share these readers.

    Example: python scripts/stress.py fuzz --kind weights --mutations 1000"""

    mutations: int = 100_000
    """Number of changed files of each kind."""
    seed: int = 0
    """Seed of the first file. `--seed N --mutations 1` repeats the file whose seed N was printed."""
    kind: Literal["weights", "checkpoint", "config", "data", "foreign", "all"] = "all"
    """Weight files, checkpoints, the other files of a run folder, files of images, or other programs' tensors."""
    coverage: bool = False
    """Show at the end how many lines of each module that reads files ran, and which did not. It takes twice as long."""


@dataclass(frozen=True)
class Kill:
    """Train on scikit-learn's digits with a checkpoint every three steps, kill -9 at random moments, resume, and
    compare every file with an uninterrupted run's, byte by byte. Exit status 0 if all are equal, else 1.

    Example: python scripts/stress.py kill --kills 100"""

    kills: int = 100
    """Number of kills for each package, about 5 s each. A run is killed several times."""
    package: Package = "both"
    """The package to kill."""
    seed: int = 0
    """Seed of the moments at which runs are killed."""


@dataclass(frozen=True)
class Switch:
    """Train in float64 in one package, resume in the other, then in the first again, and compare the result with a run
    of the first package alone. Exit status 0 if everything agrees to 1e-10, else 1.

    Example: python scripts/stress.py switch --preset yunjey --stops 100 200 300"""

    preset: str = DEFAULT_PRESET
    """The preset to train."""
    stops: tuple[int, int, int] = (300, 800, 1200)
    """The step at which each of the three parts ends."""
    first: Literal["jaxvae", "torchvae"] = "jaxvae"
    """The package that starts and finishes."""
    data: str = "mnist"
    """The data set, as in train."""


@dataclass(frozen=True)
class Distributed:
    """Train scikit-learn's digits in float64 in one process and in two on this machine's loopback, and compare every
    loss, weight and moment of Adam. Exit status 0 if they agree to 1e-12 of each tensor's largest entry, else 1.

    Example: python scripts/stress.py distributed --steps 200 --preset conv"""

    package: Package = "both"
    """The package that trains."""
    preset: str = DEFAULT_PRESET
    """The preset to train."""
    steps: int = 30
    """Number of steps; an epoch has 12."""
    devices: int = 2
    """Number of devices of each of jaxvae's two processes."""


@dataclass(frozen=True)
class Verdicts:
    """Compare random pairs of one small network in Flax and in torch, as they are and with one edit of one side, and
    count the verdicts that are wrong: agree for differ, differ for agree, or neither. Exit status 0 if none is, else 1.

    A pair is drawn from its seed, and every edit has its turn. The verdicts can be kept in a file, one line for each
    seed; a seed that is in the file already is not judged again.

    Example: python scripts/stress.py verdicts --pairs 100 --out verdicts.jsonl"""

    pairs: int = 200
    """Number of pairs, some seconds each."""
    first: int = 0
    """The first seed. `--first N --pairs 1` repeats the pair whose seed N was printed."""
    out: Path | None = None
    """The file of verdicts, JSON lines. None keeps none."""
    edit: str | None = None
    """The name of one edit for every pair. None takes every edit in its turn."""
    dtype: str = "float64"
    """The precision of the comparisons, as in `compare_modules`. A file of verdicts is of one."""


@dataclass(frozen=True)
class Arrangements:
    """Compare random networks without a mapping, of which one framework holds in one array what the other holds in
    several, as they are and with one edit: attention of one to four matrices, recurrent layers, gated layers, stacks
    along several axes, tied weights, weight normalization, in NNX and Linen. Count the wrong verdicts, and the pairs
    for which a mapping is asked. Exit status 0 if no verdict is wrong, else 1.

    Example: python scripts/stress.py arrangements --pairs 100"""

    pairs: int = 100
    """Number of pairs, some ten seconds each."""
    first: int = 0
    """The first seed. `--first N --pairs 1` repeats the pair whose seed N was printed."""


Trial = (
    Annotated[Fuzz, tyro.conf.subcommand("fuzz")]
    | Annotated[Kill, tyro.conf.subcommand("kill")]
    | Annotated[Switch, tyro.conf.subcommand("switch")]
    | Annotated[Distributed, tyro.conf.subcommand("distributed")]
    | Annotated[Verdicts, tyro.conf.subcommand("verdicts")]
    | Annotated[Arrangements, tyro.conf.subcommand("arrangements")]
)


def main(options: Trial) -> int:
    match options:
        case Fuzz():
            return run_fuzz(options)
        case Kill():
            return run_kill(options)
        case Switch():
            return run_switch(options)
        case Distributed():
            return run_distributed(options)
        case Verdicts():
            return run_verdicts(options)
        case Arrangements():
            return run_arrangements(options)


def run_fuzz(options: Fuzz) -> int:
    if options.mutations < 1 or options.seed < 0:
        raise InputError("--mutations must be at least 1 and --seed at least 0.")
    names = [name for group, names in GROUPS.items() if options.kind in (group, "all") for name in names]
    memory, wrong = Path("/dev/shm"), 0
    with coverage.covered() if options.coverage else contextlib.nullcontext() as modules:
        for name in names:
            seeds = range(options.seed, options.seed + options.mutations)
            with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
                start = time.perf_counter()
                path, files = place(Path(folder), name), tqdm(seeds, name, unit=" files", unit_scale=True, disable=None)
                result = fuzz.fuzz(TARGETS[name][1], path, files)
                print(fuzz_table(name, result, time.perf_counter() - start))
            for line in result.wrong[:20]:
                print(f"WRONG: {printable(line, LONGEST)}")
            wrong += len(result.wrong)
    if modules is not None:
        print(coverage_table(modules))
    return min(wrong, 1)


def fuzz_table(name: str, result: fuzz.FuzzResult, seconds: float) -> str:
    """How the changed files were read, by kind of change and by sentence."""
    kinds, sentences = sorted({kind for kind, _ in result.outcomes}), Counter[str]()
    rows = []
    for kind in kinds:
        ends = {end: count for (of, end), count in result.outcomes.items() if of == kind}
        same, other = ends.pop(fuzz.SAME, 0), ends.pop(fuzz.OTHER, 0)
        rows.append([kind.replace("_", " "), f"{sum(ends.values()):,}", f"{same:,}", f"{other:,}"])
    for (_, end), count in result.outcomes.items():
        sentences[end] += count
    messages = [[message, f"{count:,}"] for message, count in sentences.most_common(40)]
    tables = (
        f"\n## {name}: {result.outcomes.total():,} in {seconds:.0f} s, {len(result.wrong)} wrong",
        markdown_table(["mutation", "rejected", "the same", "another"], rows, padded=False),
        markdown_table(["message", "times"], messages, padded=False),
    )
    return "\n\n".join(tables)


def coverage_table(modules: Mapping[str, coverage.Coverage]) -> str:
    """How many lines of each module ran, and which did not; of the modules of which any ran."""
    used = {name: lines for name, lines in modules.items() if lines.ran}
    rows = [[name, f"{lines.share():.0%}", lines.missing()] for name, lines in used.items()]
    table = markdown_table(["module", "lines that ran", "lines that did not"], rows, padded=False, numbers=False)
    ran = sum(len(lines.lines & lines.ran) for lines in used.values())
    there = sum(len(lines.lines) for lines in used.values())
    return f"\n## Lines of the readers: {ran:,} of {there:,} ran\n\n{table}"


def run_kill(options: Kill) -> int:
    packages = ["jaxvae", "torchvae"] if options.package == "both" else [options.package]
    wrong = 0
    print("| package | kills | runs | unlike an uninterrupted one |\n| --- | --- | --- | --- |")
    for package in packages:
        rng, bad = np.random.default_rng(options.seed), 0
        with tempfile.TemporaryDirectory() as name, tqdm(total=options.kills, desc=package, disable=None) as bar:
            folder, done, n = Path(name), 0, 0
            expected = unbroken(package, folder)
            while done < options.kills:
                n += 1
                run = folder / f"{package}-{n}"
                done += killed(package, run, rng, options.kills - done, lambda step, bar=bar: bar.update())  # type: ignore[misc]
                bad += contents(run) != expected
        print(f"| {package} | {done} | {n} | {bad} |", flush=True)
        wrong += bad
    return 1 if wrong else 0


def run_switch(options: Switch) -> int:
    first, second = (jaxvae, torchvae) if options.first == "jaxvae" else (torchvae, jaxvae)
    flags = ["--preset", options.preset, "--data", options.data, "--dtype", "float64"]
    with tempfile.TemporaryDirectory() as name:
        try:
            gaps = switch((first, second, first), flags, options.stops, Path(name))
        except RuntimeError as error:  # the command has said why
            raise InputError(str(error)) from None
        spec = run_folder.read(Path(name) / "run").spec
    names = [backend.__name__ for backend in (first, second, first)]
    parts = ", ".join(f"{name} to step {stop:,}" for name, stop in zip(names, options.stops, strict=True))
    print(f"\n{options.preset} on {spec.data}, float64, {parts}; compared with {names[0]} alone:\n")
    print("| largest difference in | size | worst in |\n| --- | --- | --- |")
    for quantity, gap in gaps._asdict().items():
        print(f"| {quantity} | {gap.size:.1e} | {gap} |")
    return 0 if max(gap.size for gap in gaps) <= SWITCH_TOLERANCE else 1


def run_distributed(options: Distributed) -> int:
    packages = ["jaxvae", "torchvae"] if options.package == "both" else [options.package]
    flags = ["--data", "digits", "--preset", options.preset, "--dtype", "float64", "--device", "cpu"]
    flags += ["--epochs", "100000", "--max-steps", str(options.steps)]
    rows, agree = [], True
    for package in tqdm(packages, disable=None):
        with tempfile.TemporaryDirectory() as name:
            one, two = Path(name) / "one", Path(name) / "two"
            devices = ["--devices", str(options.devices)] if package == "jaxvae" else []
            for out, processes, more in ((one, 1, []), (two, 2, devices)):
                command = ["train", *flags, *more, "--out", str(out)]
                for status, _, output in ended(started(package, command, processes)):
                    if status:
                        print(output, file=sys.stderr)
                        return status
            gaps = difference(two, one, options.steps)
            agree &= max(gaps).size < DISTRIBUTED_TOLERANCE
            where = run_folder.read(two).config["sessions"][0]["device"]
            rows.append(f"| {package} | {where} | " + " | ".join(f"{gap.size:.1e}" for gap in gaps) + " |")
    print("| package | devices | weights | Adam's state | metrics |\n| --- | --- | --- | --- | --- |", *rows, sep="\n")
    return 0 if agree else 1


def run_verdicts(options: Verdicts) -> int:
    if options.pairs < 1 or options.first < 0:
        raise InputError("--pairs must be at least 1 and --first at least 0.")
    if options.dtype not in DTYPES:
        raise InputError(f"--dtype {options.dtype!r} is unknown: give one of {', '.join(map(repr, DTYPES))}.")
    named = {edit.name: edit for edit in EDITS}
    if options.edit is not None and options.edit not in named:
        raise InputError(f"--edit {options.edit!r} is unknown: give one of {', '.join(map(repr, named))}.")
    if options.out is not None:
        require_writable(options.out, "give --out a file in a folder that exists")
    edit, known, out = named.get(options.edit or ""), verdicts_in(options.out), options.out
    outcomes = []
    for seed in tqdm(range(options.first, options.first + options.pairs), "verdicts", unit=" pairs", disable=None):
        name = (edit or edit_of(seed)).name
        if (outcome := known.get((seed, name))) is None:
            outcome = judge(seed, edit, options.dtype)
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(outcome.json()) + "\n")
        outcomes.append(outcome)
    print(table(outcomes))
    return 1 if any(outcome.false for outcome in outcomes) else 0


def run_arrangements(options: Arrangements) -> int:
    if options.pairs < 1 or options.first < 0:
        raise InputError("--pairs must be at least 1 and --first at least 0.")
    counts: Counter[str] = Counter()
    seeds = range(options.first, options.first + options.pairs)
    for seed in tqdm(seeds, "arrangements", unit=" pairs", disable=None):
        found = arranged_nets.judge(seed)
        counts["a wrong verdict"] += found.false
        counts["a mapping asked for"] += found.plain == arranged_nets.REFUSED
        counts["agree as they are, differ edited"] += (found.plain, found.edited) == ("agree", "differ")
        if found.false or found.plain == arranged_nets.REFUSED:
            text = printable(found.text.splitlines()[0], LONGEST)
            tqdm.write(f"seed {seed}: {found.plain} as it is, {found.edited} edited: {found.about}: {text}")
    print(markdown_table(["pairs", *counts], [[f"{options.pairs:,}", *(f"{n:,}" for n in counts.values())]]))
    return 1 if counts["a wrong verdict"] else 0


def verdicts_in(path: Path | None) -> dict[tuple[int, str], Outcome]:
    """The verdicts in a file, by seed and edit; none if there is no file yet. A last line that was cut off is judged
    again."""
    verdicts = {}
    for line in path.read_text().splitlines() if path is not None and path.exists() else ():
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
        verdicts[outcome.seed, outcome.edit] = outcome
    return verdicts


if __name__ == "__main__":
    try:
        for trial in (Fuzz, Kill, Switch, Distributed, Verdicts, Arrangements):
            join_help(trial)
        sys.exit(main(parse(Trial)))
    except InputError as error:
        print(f"stress: {error}", file=sys.stderr)
        sys.exit(error.status)
