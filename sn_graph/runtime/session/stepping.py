"""The state's step alone: a session of nothing but the power iterations of an inserted model.

onnxruntime's run option only_execute_path_to_fetches does nothing outside its training builds
(https://github.com/microsoft/onnxruntime/issues/16013; measured with 1.31), so the iterations are cut out of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import onnx

from sn_graph.model import Graph, Model, Scope
from sn_graph.runtime.engine import Chain, open_on, quiet_options, source_of, without_graph
from sn_graph.state import StateTensor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


class Stepper:
    """The session of the iterations, opened when first asked for: it holds the normalized weights a second time."""

    def __init__(
        self, model: Model, tensors: Sequence[StateTensor], chain: Chain, session_options: SessionOptions | None
    ) -> None:
        self._model, self._tensors, self._chain = model, tensors, without_graph(chain)
        self._threads = 0 if session_options is None else session_options.intra_op_num_threads
        self._lock = Lock()
        self._session: InferenceSession | None = None

    def session(self) -> InferenceSession:
        """Return the session, whose inputs and outputs are the state's."""
        with self._lock:
            if self._session is None:
                # Not the caller's options: they may name files, which belong to the model as a whole.
                options = quiet_options()
                options.intra_op_num_threads = self._threads
                with source_of(cut_iterations(self._model, self._tensors)) as source:
                    self._session = open_on(source, self._chain, options, self._model.name)
            return self._session


def cut_iterations(model: Model, tensors: Sequence[StateTensor]) -> Model:
    """Return a model of what the state outputs are computed from, with the state as its only inputs."""
    cut = model.copy()
    main, graph = Graph(cut.proto).main, cut.proto.graph
    outputs = {name for tensor in tensors for name in (tensor.output, tensor.sigma)}
    inputs = {tensor.input for tensor in tensors}
    needed, positions = _needed(main, outputs)
    kept = onnx.GraphProto(
        name=graph.name,
        node=[node for position, node in enumerate(graph.node) if position in positions],
        initializer=[tensor for tensor in graph.initializer if tensor.name in needed - inputs],
        input=[value for value in graph.input if value.name in inputs],
        output=[value for value in graph.output if value.name in outputs],
    )
    graph.CopyFrom(kept)
    del cut.proto.functions[:]
    del cut.proto.training_info[:]
    return cut


def reads_state(model: Model, tensor: StateTensor) -> bool:
    """Say whether a state's next value is still computed from the state; where a body may read it, it is thought to."""
    main = model.graph.main
    needed, positions = _needed(main, {tensor.output})
    return tensor.input in needed or any(main.nodes[position].subgraphs for position in positions)


def _needed(main: Scope, outputs: Collection[str]) -> tuple[set[str], set[int]]:
    """Return the values that some outputs of the main graph are computed from, and the positions of the nodes."""
    wanted, needed, positions = list(outputs), set[str](), set[int]()
    while wanted:
        name = wanted.pop()
        if name in needed:
            continue
        needed.add(name)
        if (node := main.producers.get(name)) is not None:
            positions.add(node.position)
            wanted += [read for read in node.proto.input if read]
    return needed, positions
