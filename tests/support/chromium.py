"""The system's Chromium, driven from a thread: from a person's first click to what they read at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
import trio
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STEP_MILLISECONDS = 15_000


def executable() -> str:
    """Where Chromium is. Without one the test fails with a line that says what to do, unless SKIP_BROWSER=1."""
    if os.environ.get("SKIP_BROWSER") == "1":
        pytest.skip("SKIP_BROWSER=1")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(f"none of {', '.join(NAMES)} is on PATH: `apt-get install chromium`, or set SKIP_BROWSER=1")
    return found


async def browse(visit: Callable[[Page], None], *, scripts: bool = True, locale: str = "en-GB") -> None:
    """Run `visit` with a fresh page, in a thread of its own; the browser is closed afterwards."""
    path = executable()

    def drive() -> None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
            try:
                context = browser.new_context(java_script_enabled=scripts, locale=locale)
                context.set_default_timeout(STEP_MILLISECONDS)
                visit(context.new_page())
            finally:
                browser.close()

    await trio.to_thread.run_sync(drive)
