"""How a command that writes a model ends: its report, what was verified, what was done, or that nothing was to do."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sn_graph.cli.console import Settings, print_json
from sn_graph.cli.render import explain_sites, print_report
from sn_graph.errors import VerificationFailed
from sn_graph.passes.base import PassResult

if TYPE_CHECKING:
    from sn_graph.runtime.proof import Proof

_COUNTED = ("folded", "inserted", "eligible", "unchanged", "skipped")
_CHECKED = {"run": "verified by running it", "structure": "verified by structure", "no": "not verified"}


def conclude(
    settings: Settings, result: PassResult, proof: "Proof", output: Path, json: bool, source: Path | None = None
) -> None:
    """Print the report of a written model and a closing line; `source` is the model's file where it is no ONNX one.

    Raises:
        VerificationFailed: The model was written though its proof failed.
    """
    explain_sites(settings, result.report)
    report = replace(result.report, output=str(output), verified=proof.verified)
    if source is not None:
        report = replace(report, model=str(source))
    if json:
        print_json(report.to_json())
    else:
        print_report(report)
    if proof.failed:
        raise VerificationFailed(f"{proof.note}; {output} was written all the same, as --force asks")
    if proof.note:
        settings.say(f"verified by structure only: {proof.note}")
    counts = Counter[str](site.status for site in report.sites)
    done = [f"{counts[status]} {status}" for status in _COUNTED if counts[status]]
    settings.say(f"{', '.join(done) or 'nothing to do'}: {output}, {_CHECKED[proof.verified]}")


def nothing_to_do(model: Path, result: PassResult) -> str:
    """Return why no weight of a model was worked on, and what to do."""
    if not result.sites:
        return (
            f"{model}: nothing to do, for no constant in it reaches a Conv, Gemm, MatMul, Gather or the like; "
            "--force copies the model"
        )
    reasons = Counter(site.reason for site in result.sites)
    (reason, count), *more = reasons.most_common()
    which = "each" if not more else f"{count} of them"
    return (
        f"{model}: nothing to do, for none of its {len(result.sites)} weights can be normalized ({which}: {reason}); "
        "inspect lists them with the reasons, --force copies the model"
    )
