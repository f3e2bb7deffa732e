"""The pytest fixture `assert_parity`, and the option that keeps the reports of what fails.

pytest loads its plugins in every run, so the frameworks are imported only when a test uses the fixture.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(name="assert_parity", scope="session")
def _assert_parity() -> Callable[..., Any]:
    """Return `parity_tests.assert_parity`, which fails with every level's difference and the likely cause."""
    from parity_tests import assert_parity

    return assert_parity


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("parity").addoption(
        "--parity-reports",
        type=Path,
        metavar="FOLDER",
        help="write an HTML page and a JSON file about every comparison of assert_parity and assert_run_parity that "
        "fails to this folder",
    )


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--parity-reports", None)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(
                f"--parity-reports: the folder {folder} can't be made ({error.strerror}); give another one."
            ) from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    """Write the report of a comparison that failed, and name the files in what pytest prints of the test."""
    folder = item.config.getoption("--parity-reports", None)
    assertion = sys.modules.get("parity_tests.harness.assertion")
    error: Any = call.excinfo and call.excinfo.value
    if folder is None or assertion is None or not isinstance(error, assertion.ParityError):
        return
    page = folder.resolve() / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', item.nodeid)[-150:]}.html"
    try:
        for path in (page, page.with_name(f"{page.stem}.json")):
            error.report.save(path)
        said = str(page)
    except Exception as other:  # the test's own failure counts
        said = f"The report can't be written: {other}"
    item.add_report_section(call.when, "parity report", said)
