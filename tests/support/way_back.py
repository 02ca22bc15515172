"""A Keras model beside its session, and the state that goes from one to the other and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import sn_graph as sn
from sn_graph.frontends import keras as frontend
from tests.support.keras_models import Array

STEPS = 3


def way_back(model: Any, batches: list[Array], folder: Path) -> tuple[float, float]:
    """Run a session ahead, load its state into the model, call both once more, and save the model's state.

    Returns:
        How far the model's next σ is from the session's, relative to it; and the saved u from the session's.
    """
    frontend.export(model).save(folder / "plain.onnx")
    plan, _ = frontend.sidecars(folder / "plain.onnx")
    session = sn.StatefulSession(sn.insert(folder / "plain.onnx", plan=plan).to_proto())
    for batch in batches[:STEPS]:
        session.run(None, {"x": batch})
    session.save_state(folder / "ahead.u.safetensors")
    frontend.load_state(model, folder / "ahead.u.safetensors")
    (wrapper,) = frontend.wrappers(model)
    before = wrapper.kernel.astype(np.float64)
    model(batches[STEPS], training=True)
    session.run(None, {"x": batches[STEPS]})
    sigma = float(np.linalg.norm(before) / np.linalg.norm(wrapper.kernel.astype(np.float64)))  # kernel ← kernel / σ
    found = session.sigma[wrapper.weight]
    frontend.save_state(model, folder / "back.u.safetensors")
    ours = session.state()[wrapper.weight]
    session.reset()
    session.load_state(folder / "back.u.safetensors")
    return abs(sigma / found - 1.0), float(np.abs(ours - session.state()[wrapper.weight]).max())
