"""`sn-graph verify`: exit codes, output, options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.command_line import Cli, one_line

ROW = {"left", "right", "provider", "step", "output", "max_abs", "max_rel_norm", "rtol", "atol", "ok"}


def changed(model: Path, factor: float) -> Path:
    proto = onnx.load(model)
    array = numpy_helper.to_array(proto.graph.initializer[0])
    proto.graph.initializer[0].raw_data = (array * np.float32(factor)).tobytes()
    onnx.save(proto, model.with_name("other.onnx"))
    return model.with_name("other.onnx")


def test_one_model_alone(cli: Cli, model: Path) -> None:
    ended = cli("verify", model, "--json", "--steps", 2)
    assert ended.code == 0
    content = ended.json
    assert content.keys() - {"notes"} == {"ok", "comparisons"}
    assert content["ok"] is True
    assert [row["step"] for row in content["comparisons"]] == [0, 1]
    assert all(row.keys() == ROW for row in content["comparisons"])
    assert content["comparisons"][0]["left"].endswith("(optimizations off)")


def test_a_difference_ends_with_1_and_is_shown(cli: Cli, model: Path) -> None:
    other = changed(model, 1.01)
    ended = cli("verify", model, other, "--json")
    assert "outputs differ" in one_line(ended, 1)
    assert ended.json["ok"] is False
    plain = cli("verify", model, other)
    assert plain.code == 1
    assert plain.out.splitlines()[1].endswith("NO")


def test_nan_is_null(cli: Cli, model: Path) -> None:
    ended = cli("verify", model, changed(model, float("nan")), "--json")
    assert ended.code == 1
    assert ended.json["comparisons"][0]["max_abs"] is None


@pytest.mark.parametrize("flag", ["--rtol", "--atol"])
def test_tolerances(flag: str, cli: Cli, model: Path) -> None:
    assert cli("verify", model, changed(model, 1.01), flag, 1).code == 0


def test_inputs_and_dimensions(cli: Cli, model: Path) -> None:
    inputs = model.with_name("x.npz")
    np.savez(inputs, x=np.zeros((3, 3, 8, 8), np.float32))
    assert cli("verify", model, changed(model, 1.01), "--inputs", inputs).code == 0  # all zeros in, all zeros out
    assert cli("verify", model, "--dim", "batch=5", "--seed", 3).code == 0
    np.savez(inputs, z=np.zeros(1))
    assert one_line(cli("verify", model, "--inputs", inputs), 3)


def test_other_signatures_end_with_3(cli: Cli, model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "z"
    onnx.save(proto, model.with_name("other.onnx"))
    assert "can't be compared" in one_line(cli("verify", model, model.with_name("other.onnx")), 3)


def test_a_provider_that_is_not_there_ends_with_4(cli: Cli, model: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    assert "'cuda' can't be used" in one_line(cli("verify", model, "--providers", "cpu,cuda"), 4)


@pytest.fixture
def inserted(cli: Cli, model: Path) -> Path:
    out = model.with_name("inserted.onnx")
    assert cli("insert", model, "-o", out, "--no-verify").code == 0
    return out


def test_a_living_state(cli: Cli, inserted: Path) -> None:
    ended = cli("verify", inserted, "--state")
    assert (ended.code, ended.err) == (0, "")
    heading, *rows = ended.out.splitlines()
    assert heading.split() == ["provider", "output", "moves", "by", "relative", "alive"]
    assert [(row.split()[1], row.split()[-1]) for row in rows] == [("sn_u.next", "yes"), ("sn_sigma", "yes")]
    content = cli("verify", inserted, "--state", "--json").json
    assert content.keys() == {"ok", "comparisons", "notes"}
    assert content["ok"] is True
    assert content["notes"] == []
    assert all(row.keys() == ROW for row in content["comparisons"])


def test_a_frozen_state_ends_with_1_in_one_line(cli: Cli, inserted: Path) -> None:
    proto = onnx.load(inserted)
    proto.graph.input.remove(next(value for value in proto.graph.input if value.name == "sn_u"))
    onnx.save(proto, inserted)
    ended = cli("verify", inserted, "--state")
    assert "the state is frozen: the input 'sn_u' is gone" in one_line(ended, 1)
    assert [row.split()[-1] for row in ended.out.splitlines()[1:]] == ["NO", "NO"]
    ended = cli("verify", inserted, "--state", "--json")
    assert ended.code == 1
    assert ended.json["ok"] is False
    assert "the input 'sn_u' is gone" in ended.json["notes"]


def test_no_state_ends_with_3(cli: Cli, model: Path) -> None:
    assert "insert it first" in one_line(cli("verify", model, "--state"), 3)


@pytest.mark.parametrize("extra", [["{model}"], ["--steps", "2"], ["--rtol", "1"], ["--atol", "1"]])
def test_the_state_is_compared_with_nothing(extra: list[str], cli: Cli, model: Path) -> None:
    ended = cli("verify", model, *(word.format(model=model) for word in extra), "--state")
    assert ended.code == 2
    assert "--state compares nothing" in " ".join(ended.err.split())
