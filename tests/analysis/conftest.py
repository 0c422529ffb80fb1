"""A browser, for the tests that look at pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update"]  # fmt: skip


@pytest.fixture(scope="session")
def browser():
    """Chromium from the PATH, or playwright's own."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path), None)
    with api.sync_playwright() as play:
        if found is None and not Path(play.chromium.executable_path).exists():
            pytest.skip("no Chromium here")
        opened = play.chromium.launch(executable_path=found, args=QUIET)
        yield opened
        opened.close()
