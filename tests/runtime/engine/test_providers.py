"""Names of providers, and what is said where one, or onnxruntime, is missing."""

import os
import subprocess
import sys

import onnxruntime
import pytest

from sn_graph.errors import EnvironmentUnavailable, UsageError
from sn_graph.runtime import available_providers, open_session, parse_providers
from sn_graph.runtime.engine import one_line, require_provider
from tests.support.places import ROOT


def test_importing_the_package_leaves_onnxruntime_alone() -> None:
    code = "import sys, sn_graph.runtime; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0


def test_provider_names() -> None:
    assert parse_providers(" cuda,cpu,CUDA") == ("cuda", "cpu")
    for text, told in (("cpu,tpu", "'tpu'"), ("", "no execution provider"), (" , ", "no execution provider")):
        with pytest.raises(UsageError, match=told):
            parse_providers(text)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'sn-graph\[cpu\]'"):
        open_session(b"")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a GPU build")
def test_a_provider_that_was_not_built_in() -> None:
    assert available_providers() == ("cpu",)
    with pytest.raises(EnvironmentUnavailable, match=r"'cuda' can't be used.*offers only cpu"):
        require_provider("cuda")


def test_one_line() -> None:
    noisy = "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/a.cc:3 it\n failed.\n"
    assert one_line(RuntimeError(noisy)) == "it failed"
    assert len(one_line(RuntimeError("x" * 999))) == 300
