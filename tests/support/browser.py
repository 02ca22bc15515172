"""A headless Chromium, where there is one: the system's, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest


def chromium() -> str | None:
    """Where Chromium is; CHROMIUM says so where it is in no usual place."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, filter(None, names))), None)


@contextmanager
def opened() -> Iterator[Any]:
    """Give a browser; skip the test where none can be had."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the extra [test] installs")
    program = chromium()
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), or CHROMIUM=its path")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@cache
def axe() -> str:
    """The script of axe-core, which finds what keeps a page from people; skips the test where it is missing."""
    package = pytest.importorskip("axe_playwright_python", reason="needs axe-core, which the extra [test] installs")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page, as rule and element."""
    page.evaluate(axe())
    found = page.evaluate("axe.run({preload: false})")["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]
