"""The site of the docs in a browser: nothing sticks out, nothing is said on the console, nobody is kept out."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import opened, violations
from tests.support.places import ROOT

# A page of each kind: pictures, wide tables and outputs, the reference, and what Sphinx makes itself.
PAGES = ("index", "start", "concepts", "commands/inspect", "api", "decisions/README", "search", "genindex")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def site(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, which SN_GRAPH_SITE names where it was built already."""
    assert browser, "which skips all of this before anything is built"
    if "SN_GRAPH_SITE" in os.environ:
        return Path(os.environ["SN_GRAPH_SITE"])
    missing = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, which the group [docs] installs")
    built = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "sphinx", "-W", "-q", ROOT / "docs", built], check=True, cwd=ROOT)
    return built


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360)])
def test_nothing_keeps_anybody_out(scheme: str, width: int, browser: Any, site: Path) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    found = {}
    for name in PAGES:
        page.goto((site / f"{name}.html").as_uri())
        found[name] = [*violations(page), *said]
        said.clear()
    context.close()
    assert found == {name: [] for name in PAGES}


def test_no_page_sticks_out_or_asks_the_network(browser: Any, site: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 900})
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    wide = {}
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        for width in (360, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wide[path.name] = width
    context.close()
    assert wide == {}
    assert [url for url in asked if not url.startswith("file:")] == []
