"""Write FAULTS.md, the table of injected faults, the levels that detect them and the causes named:
python -m parity_tests.faults.table"""

from pathlib import Path

from tqdm import tqdm

from parity_tests.faults import inject, plain_vae, ranges, variants
from parity_tests.faults import modules as module_faults
from parity_tests.faults.fault import Fault, tried

TABLE = Path(__file__).parent / "FAULTS.md"
HEAD = """# Injected faults and the causes that the comparison names

Each fault is a mistake in one package or in one framework's module. The comparison must detect it, and name the
cause by reproducing its numbers. `python -m parity_tests.faults.table` writes this table, and the tests check all rows.

"""
COLUMNS = "| fault | caught at | named |\n| --- | --- | --- |"


def package_row(fault: inject.Fault, level: str, named: str) -> str:
    """Return the row of a fault in one of the two packages."""
    return _row(_edit(fault), level, named, fault.cause)


def caught_at(fault: inject.Fault, lines: list[str]) -> str:
    """Return the level that detects a fault according to the table's lines, or "" if it has no row."""
    mine = f"| {_edit(fault)} | "
    return next((line.removeprefix(mine).partition(" | ")[0] for line in lines if line.startswith(mine)), "")


def _edit(fault: inject.Fault) -> str:
    edit = f"{fault.package}.{fault.place}: {fault.name}"
    where = " (in float32)" if fault.dtype == "float32" else ""
    where += f" ({fault.ground})" if fault.ground != "plain" else ""
    return edit.replace("|", "\\|") + where


def module_row(fault: Fault, level: str, named: str, right: bool) -> str:
    """Return the row of a fault in a port of a module."""
    return _row(f"{fault.framework}: {fault.name}", level, named, named if right else fault.cause)


def main() -> None:
    packages = [package_row(fault, *inject.tried(fault)[:2]) for fault in tqdm(plain_vae.FAULTS)]
    family = [package_row(fault, *inject.tried(fault)[:2]) for fault in tqdm(variants.FAULTS)]
    ends = [package_row(fault, *inject.tried(fault)[:2]) for fault in tqdm(ranges.FAULTS)]
    modules = [module_row(fault, *tried(fault)) for fault in tqdm(module_faults.FAULTS)]
    TABLE.write_text(
        f"{HEAD}## In the packages\n\n{COLUMNS}\n" + "\n".join(packages)
        + f"\n\n## In the other models\n\n{COLUMNS}\n" + "\n".join(family)
        + f"\n\n## At the ends of a layer's range\n\n{COLUMNS}\n" + "\n".join(ends)
        + f"\n\n## In ports of other modules\n\n{COLUMNS}\n" + "\n".join(modules) + "\n"
    )  # fmt: skip


def _row(fault: str, level: str, named: str, cause: str) -> str:
    verdict = named if named == cause else f"{named} (rightly: {cause})"
    return f"| {fault} | {level} | {verdict if named != inject.UNKNOWN else 'no known fault reproduces it'} |"


if __name__ == "__main__":
    main()


LINES = TABLE.read_text().splitlines()
REGENERATE = "python -m parity_tests.faults.table regenerates the table"
