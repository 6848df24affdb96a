"""One headless chromium for all pages."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    """The browser; tests that want it are skipped where none is installed, and fail with CHIASM_BROWSER=1."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        say = pytest.fail if os.environ.get("CHIASM_BROWSER") == "1" else pytest.skip
        say("no chromium: install Debian's package chromium to see pages in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
