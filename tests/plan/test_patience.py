"""Patience: expressions that would run for ever end, and alarms of others stay set."""

from __future__ import annotations

import signal
import time
from importlib import import_module

import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.plan.patience import time_limit
from tests.support.builders import drawn, network, node


@pytest.mark.parametrize("which", ["include", "exclude"])
def test_expressions_that_would_run_for_ever_end(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sn_graph.plan.decide"), "SECONDS", 0.2)
    name = "a" * 50 + "!"
    model = Model.open(network([node("MatMul", ["x", name])], {name: drawn(4, 4)}, {"x": (1, 4)}))
    with pytest.raises(sn.UsageError, match=r"take more than 0\.2 s"):
        make_plan(model, **{which: ["^(a+)+$", "^(a|aa)+b"]})  # type: ignore[arg-type]


def test_the_alarm_of_somebody_else_goes_off_all_the_same() -> None:
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with time_limit(5.0, TimeoutError()):
            pass
        time.sleep(0.4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert rung == [1]
