"""Judging: what a case's commands did that they must not."""

import contextlib
import io
import json
import math
import random
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.fuzz.commands import BUDGET, Call, calls
from tools.fuzz.mutate import changed_json, state_for

_PROMISED = frozenset({0, 1, 2, 3, 4})
_SECONDS, _BYTES = 10.0, 1 << 30
_OVERTIME = 4.0  # seconds that certify may take beyond its budget: what is begun, the smallest proof, and pages
_READ = frozenset({"case.onnx", "plan.json", "changed.json", "state.safetensors", "proving"})


def judge(folder: Path, draw: random.Random, prove: bool) -> str:
    """Put `case.onnx` of a folder to every command; return "ok", or what a command did that it must not.

    Args:
        folder: Where everything is read and written. It holds a file `proving` while onnxruntime may run the model.
        draw: Draws options.
        prove: Whether to let onnxruntime run the model.
    """
    _clean(folder)
    verdict = _same_when_saved(folder)
    for call in calls(folder, draw, prove):
        if verdict != "ok":
            break
        (folder / "proving").touch() if call.runs else (folder / "proving").unlink(missing_ok=True)
        if call.reads and not _made(folder, call, draw):
            continue
        verdict = judge_call(folder, call)
        if verdict != "ok":
            verdict = f"{' '.join(call.arguments[2:])}: {verdict}".replace(f"{folder}/", "")
            verdict = f"{call.command} {verdict}"
    return verdict


def _made(folder: Path, call: Call, draw: random.Random) -> bool:
    """Make what a call reads besides the model: a state for the plan that inspect wrote, and that plan, changed."""
    plan = folder / "plan.json"
    if not plan.exists():
        return False
    content = json.loads(plan.read_text())
    if folder / "state.safetensors" in call.reads:
        (folder / "state.safetensors").write_bytes(state_for(content, draw))
    if folder / "changed.json" in call.reads:
        changed = changed_json(content, draw) if draw.random() < 0.7 else content
        (folder / "changed.json").write_text(json.dumps(changed))
    return True


def _same_when_saved(folder: Path) -> str:
    from sn_graph.errors import SnGraphError
    from sn_graph.model import Model

    (folder / "proving").unlink(missing_ok=True)
    try:
        Model.open(folder / "case.onnx").save(folder / "saved.onnx", sync=False)
    except SnGraphError:
        return "ok"
    except Exception as error:
        return f"open and save: {type(error).__name__}, as exit 70 would say: {error}"
    if (folder / "saved.onnx.data").exists():  # whose name stands in the model
        return "ok"
    same = (folder / "saved.onnx").read_bytes() == (folder / "case.onnx").read_bytes()
    return "ok" if same else "saved with other bytes, exit 0"


def _clean(folder: Path, kept: frozenset[str] = frozenset({"case.onnx"})) -> None:
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def judge_call(folder: Path, call: Call) -> str:
    """Run one command line in a folder; return "ok", or what it did that it must not."""
    _clean(folder, _READ)
    before, held = _processor_time(), _peak()
    code, out, err = invoke(call.arguments)
    took, size = _processor_time() - before, _peak()
    if code not in _PROMISED:
        return f"exit {code}: {err[-300:]}"
    left = sorted(path.name for path in folder.iterdir() if path.name not in _READ)
    if code and left and "written all the same" not in err:
        return f"exit {code}, and left {', '.join(left)}"
    if code in (3, 4) and err.count("\n") != 1:
        return f"exit {code} in {err.count(chr(10))} lines: {err[-300:]}"
    if any(character < " " and character != "\n" for character in out + err):
        return f"exit {code}, with control characters"
    if call.json or call.command == "certify":
        said = _said(call, out)
        if said:
            return f"exit {code}, and {said}"
    # What the process held before, such as the tests of other things, is not the command's.
    if took > (BUDGET + _OVERTIME if call.command == "certify" else _SECONDS):
        return f"{took:.0f} s of processor time"
    return "ok" if size - (held if held > _BYTES else 0) <= _BYTES else f"{size / 1e9:.1f} GB"


def _said(call: Call, out: str) -> str:
    """Return what is wrong with what went to stdout; "" where nothing is."""
    if not call.json:
        return "its answer is not a number" if " nan " in f" {out.replace(chr(10), ' ')} " else ""
    try:
        answer: Any = json.loads(out, parse_constant=lambda name: float(f"not a number: {name}"))
    except ValueError as error:
        return f"stdout is no JSON object: {error}: {out[:100]!r}"
    if not isinstance(answer, dict):
        return "stdout is no JSON object"
    proven, attained = answer.get("proven"), answer.get("attained")
    if call.command == "certify" and proven is not None:
        if not math.isfinite(proven) or proven < 0.0:
            return f"the constant {proven} is proven"
        if attained is not None and attained > proven:
            return f"the constant {proven} is proven, and {attained} is attained"
    return ""


def invoke(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    from sn_graph.cli.app import app

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(list(arguments), prog_name="sn-graph")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, out.getvalue(), err.getvalue()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
