"""Sphinx's settings: MyST reads the pages, and docstrings make the reference. `sphinx-build -W docs OUT` is strict."""

import contextlib
import io
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sn_graph.cli import app as command_line  # noqa: E402
from sn_graph.version import __version__  # noqa: E402

project = "sn-graph"
author = "the authors of sn-graph"
release = __version__
repository = "https://github.com/sn-graph/sn-graph"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_generated/*"]
html_theme = "furo"
html_title = "sn-graph"
html_theme_options = {"top_of_page_buttons": []}  # they stand in no landmark, and would lead to a guessed address
templates_path = ["templates"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# A fence that names a language holds a dialect of it (`sn-graph …` and its output), which highlighting may not know.
suppress_warnings = ["misc.highlighting_failure"]


def write_help() -> None:
    """Write what `--help` says of each command, for the pages to include."""
    folder = Path(__file__).parent / "_generated"
    folder.mkdir(exist_ok=True)
    for page in (Path(__file__).parent / "commands").glob("*.md"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            command_line.app([page.stem, "--help"])
        (folder / f"{page.stem}.txt").write_text(said.getvalue(), encoding="utf-8")


def link_outside(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to files that are no pages lead to the repository."""
    folder = (Path(__file__).parent / docname).parent

    def outside(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        target = (folder / path).resolve()
        if target.is_relative_to(Path(__file__).parent) or not target.is_relative_to(ROOT) or not target.exists():
            return found[0]
        return f"]({repository}/blob/main/{target.relative_to(ROOT)}{anchor})"

    source[0] = re.sub(r"\]\(((?:\.\./|docs/|[A-Z])[^)#\s]*)(#[^)\s]*)?\)", outside, source[0])


# What Sphinx and the theme write that keeps somebody out, each with what it is instead (axe-core's name of the rule).
MENDED = (
    (r'<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),  # aria-required-attr
    (r'<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),  # landmark-unique
    (r'<aside class="(toc-drawer[^"]*)">', r'<aside class="\1" aria-label="On this page">'),  # landmark-unique
    (r'<th class="([^"]*)"><p></p></th>', r'<td class="\1"></td>'),  # empty-table-header
    # What is too wide for a telephone is scrolled, by the keyboard too: scrollable-region-focusable.
    (r"<pre>", '<pre tabindex="0">'),
    (r'<div class="table-wrapper ([^"]*)">', r'<div class="table-wrapper \1" tabindex="0">'),
)


def mend_pages(app: Sphinx, failure: Exception | None) -> None:
    """Let everybody use the pages: keyboards reach all that scrolls, and screen readers hear what each part is."""
    if failure is None and app.builder.name == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            for written, better in MENDED:
                text = re.sub(written, better, text)
            page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what is done before pages are read, and after they are written."""
    write_help()
    app.connect("source-read", link_outside)
    app.connect("build-finished", mend_pages)
