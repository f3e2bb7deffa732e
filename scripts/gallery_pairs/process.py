"""Compare one pair in this process and print the result as JSON: `python -m gallery_pairs.process NAME`."""

import json
import os
import sys
import time
import warnings
from typing import Any

from gallery_pairs.pair import Pair, sines, version
from gallery_pairs.table import PAIRS
from jaxvae.shared.errors import InputError

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
"""Settings of the packages: they neither warn that their Flax side ends, nor look for weights."""


def compared(pair: Pair) -> dict[str, Any]:
    """Compare the pair, and return its verdict, what was found, its time and the versions of its packages."""
    versions = [f"{name} {version(name)}" for name in pair.packages]
    modules = pair.make()
    from parity_tests.harness.modules.compare import compare_modules

    start = time.perf_counter()
    try:
        report = compare_modules(*modules[:3], modules.mapping, modules.inputs, losses=sines(), **modules.options)
    except InputError as error:
        verdict, levels, found = "refused", [], str(error)
    except Exception as error:  # of a model, or of the harness: the row says which, and the table is still printed
        verdict, levels = "failed", []
        found = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
    else:
        verdict = "agree" if report.passed else "differ"
        levels = [[finding.level, float(finding.size)] for finding in report.findings]
        found = _named(report)
    return {
        "verdict": verdict,
        "levels": levels,
        "found": found,
        "seconds": time.perf_counter() - start,
        "versions": versions,
    }


def _named(report: Any) -> str:
    """Say what the report names as different: the level, the place and the cause."""
    if report.passed:
        return ""
    found = f"{report.findings[-1].level} by {report.findings[-1].size:.0e}"
    if report.diagnosis is None:
        return found
    return f"{found}; {report.diagnosis.where}: {report.diagnosis.cause or 'no cause named'}"


def main(name: str) -> None:
    os.environ.update(QUIET)
    warnings.simplefilter("ignore")
    from benchmarks.processes import _resident

    result = compared(next(pair for pair in PAIRS if pair.name == name))
    print(json.dumps(result | {"peak": _resident(peak=True)}))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.status)
