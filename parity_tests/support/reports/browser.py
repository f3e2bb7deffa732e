"""A real browser for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def launched() -> Iterator[Any]:
    """Yield a browser; without one a test is skipped, or fails in CI."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        message = f"install a browser, one of {', '.join(BROWSERS)}, to run the tests of the report's page"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox
        made = driver.chromium.launch(executable_path=program, args=arguments)
        yield made
        made.close()
