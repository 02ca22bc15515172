"""Copies of a session: one that forks, and those that say what to do instead; and states that a tool has frozen."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest

import sn_graph as sn
from tests.support.builders import drawn, network, node

X = {"x": drawn(1, 8, seed=3)}


@pytest.fixture
def proto() -> onnx.ModelProto:
    return sn.insert(network([node("MatMul", ["x", "w"])], {"w": drawn(8, 6)}, {"x": (1, 8)})).to_proto()


def test_a_copy_is_a_fork(proto: onnx.ModelProto) -> None:
    session = sn.StatefulSession(proto)
    session.run(None, X)
    twin, before = copy.copy(session), session.state()["w"]
    twin.run(None, X)
    np.testing.assert_array_equal(session.state()["w"], before)
    assert (session.step, twin.step) == (1, 2)
    assert np.abs(twin.state()["w"] - before).max() > 1e-3


def test_other_copies_say_what_to_do(proto: onnx.ModelProto) -> None:
    session = sn.StatefulSession(proto)
    with pytest.raises(sn.UsageError, match=r"fork\(\)"):
        copy.deepcopy(session)
    with pytest.raises(sn.UsageError, match=r"fork\(\)"):
        copy.deepcopy([session])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(sn.UsageError, match="save_state"):
            pickle.dumps(session, protocol)


def test_a_state_that_a_tool_froze_is_said_to_be_frozen(proto: onnx.ModelProto) -> None:
    frozen = proto.graph.initializer.add()
    frozen.CopyFrom(next(tensor for tensor in proto.graph.initializer if tensor.name == "sn_u"))
    frozen.name = "frozen"
    for read in proto.graph.node:
        for place, name in enumerate(read.input):
            if name == "sn_u":
                read.input[place] = "frozen"
    with pytest.raises(sn.ModelError, match=r"frozen state, because nothing that 'sn_u\.next' is computed from reads"):
        sn.StatefulSession(proto)
