"""Paging: `--html FILE`, the report of a command as a web page."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sn_graph.cli.console import Settings
from sn_graph.cli.options import require_apart
from sn_graph.errors import UsageError, VerificationFailed
from sn_graph.model import require_writable, same_file

if TYPE_CHECKING:
    from sn_graph import api
    from sn_graph.certify import Certificate
    from sn_graph.passes import PassResult
    from sn_graph.plan import Plan
    from sn_graph.progress import Progress
    from sn_graph.proofs import Proof
    from sn_graph.report import Page, Report
    from sn_graph.runtime import ParityResult


@dataclass(frozen=True)
class Paging:
    """Where the page of a command goes.

    Attributes:
        path: The file to write.
        invocation: The command line as it was typed, in a shell's words.
    """

    path: Path
    invocation: str

    @classmethod
    def to(cls, html: Path | None, output: Path | None = None, **inputs: Path | None) -> Self | None:
        """Return where a page goes that can be written, before any work is done; None where none is asked for.

        Args:
            html: What `--html` says.
            output: The other file that is to be written.
            **inputs: Files that are read, by what they are.

        Raises:
            UsageError: The page would take the place of one of those files.
            EnvironmentUnavailable: jinja2 is missing, or the folder can't be written.
        """
        if html is None:
            return None
        from sn_graph import pages

        if output is not None and (same_file(html, output) or html.resolve() == output.resolve()):
            raise UsageError("--output and --html are one file", do="give two")
        require_apart(html, data_of=inputs.get("model"), **inputs)
        require_writable(html)
        pages.require_report()
        return cls(html, shlex.join(["sn-graph", *sys.argv[1:]]))

    def write(self, page: Page) -> None:
        """Put a page in place."""
        from sn_graph import pages

        pages.write_page(page, self.path)

    def inspected(self, report: Report, opened: api.Opened, plan: Plan, seed: int, progress: Progress) -> Page:
        """Return the page of an inspection."""
        from sn_graph import pages

        state = opened.state(plan)
        return pages.inspected(
            report, opened.model, plan, invocation=self.invocation, state=state, seed=seed, progress=progress
        )

    def write_changed(self, result: PassResult, report: Report, proof: Proof, settings: Settings) -> None:
        """Write the page of a model that was changed, and verified in a way."""
        from sn_graph import pages

        with settings.progress() as progress:
            page = pages.changed(
                result,
                report,
                invocation=self.invocation,
                failure=proof.note if proof.failed else None,
                note=proof.note,
                parity=proof.parity,
                progress=progress,
            )
        self.write(page)

    def write_compared(self, parity: ParityResult, one: Path, other: Path | None) -> None:
        """Write the page of a comparison."""
        from sn_graph import pages

        title = str(one) if other is None else f"{one} and {other}"
        self.write(pages.compared(parity, title, invocation=self.invocation))

    def write_certified(self, found: Certificate, model: Path) -> None:
        """Write the page of a certificate."""
        from sn_graph import pages

        self.write(pages.certified(found.drawn(), str(model), invocation=self.invocation, ok=found.ok))


@contextlib.contextmanager
def telling_failure(paging: Paging | None, result: PassResult) -> Iterator[None]:
    """Write the page of a change that turns out to be wrong, so that one can look at what there is."""
    try:
        yield
    except VerificationFailed as error:
        if paging is not None:
            from sn_graph import pages

            page = pages.changed(result, result.report, invocation=paging.invocation, failure=error.reason)
            paging.write(page)
        raise
