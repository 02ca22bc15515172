"""Conclusions: how a command that writes a model ends, with its report and what was verified, or with nothing to do."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.cli.console import Settings
from sn_graph.cli.paging import Paging
from sn_graph.cli.render import explain_sites, print_report
from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.passes import PassResult

if TYPE_CHECKING:
    from sn_graph.passes import CheckpointResult
    from sn_graph.proofs import Proof

_COUNTED = ("folded", "inserted", "lifted", "eligible", "unchanged", "skipped")
_CHECKED = {"run": "verified by running it", "structure": "verified by structure", "no": "not verified"}


def conclude(
    settings: Settings,
    result: "PassResult | CheckpointResult",
    proof: "Proof",
    output: Path,
    source: Path | None = None,
    paging: Paging | None = None,
    done: str | None = None,
) -> None:
    """Print the report of a written model and a closing line, and write it as a page.

    Args:
        settings: How much is said.
        result: What the pass made.
        proof: How what was written was verified.
        output: Where it is.
        source: The model's file where it is not an ONNX one.
        paging: Where the page goes, if one is asked for; of an ONNX model alone.
        done: What was done, where the numbers of weights don't tell.

    Raises:
        VerificationFailed: The model was written though its proof failed.
    """
    explain_sites(settings, result.report)
    report = replace(result.report, output=str(output), verified=proof.verified)
    if source is not None:
        report = replace(report, model=str(source))
    settings.tell(**report.to_json())
    if paging is not None and isinstance(result, PassResult):
        paging.write_changed(result, report, proof, settings)
    if not settings.json and not settings.writes_to_stdout:
        print_report(report)
    if proof.failed:
        raise VerificationFailed(proof.note or "", do=f"{output} was written all the same, as --force asks")
    if proof.note:
        settings.say(proof.note if proof.verified == "run" else f"verified by structure only: {proof.note}")
    counts = Counter[str](site.status for site in report.sites)
    counted = ", ".join(f"{counts[status]} {status}" for status in _COUNTED if counts[status])
    settings.say(f"{done or counted or _nothing(result)}: {output}, {_CHECKED[proof.verified]}")


def _nothing(result: "PassResult | CheckpointResult") -> str:
    """Return what a pass that tells of no weight has done."""
    if not isinstance(result, PassResult):
        return "nothing to do"
    return "nothing to do" if result.plan is not None and result.sites else f"{result.name} done"


def require_all(result: "PassResult | CheckpointResult", strict: bool) -> None:
    """Raise VerificationFailed under --strict where a weight was skipped that no option, and no plan, leaves out.

    Of what is lifted only a weight counts that is computed, because the others are as they should be.
    """
    lifts = isinstance(result, PassResult) and result.name == "lift"
    left = [
        site
        for site in result.sites
        if not (site.reason or "").startswith(_CHOSEN)
        and (site.form is not None and site.status != "lifted" if lifts else site.status == "skipped")
    ]
    if strict and left:
        raise VerificationFailed(
            f"{len(left)} of {len(result.sites)} weights are skipped",
            f"such as '{left[0].id}': {left[0].reason}",
            "leave --strict out, or leave them out with --exclude",
        )


_CHOSEN = ("no --include", "left out by --exclude", "--op-type names", "the plan ")


def require_work(model: Path, result: "PassResult | CheckpointResult", force: bool) -> None:
    """Raise ModelError where no weight of a model was worked on, saying why, unless `force` is given."""
    if not result.idle or force:
        return
    if not result.sites:
        if not isinstance(result, PassResult):
            raise ModelError(f"{model}: nothing to do", "for no tensor in it has two dimensions", "--force copies it")
        raise ModelError(
            f"{model}: nothing to do",
            "for no constant in it reaches a Conv, Gemm, MatMul, Gather or the like",
            "--force copies the model",
        )
    reasons = Counter(site.reason for site in result.sites)
    (reason, count), *more = reasons.most_common()
    which = "each" if not more else f"{count} of them"
    raise ModelError(
        f"{model}: nothing to do",
        f"for none of its {len(result.sites)} weights can be normalized ({which}: {reason})",
        "inspect lists them with the reasons, --force copies the model",
    )
