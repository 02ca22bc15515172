"""Keras 3, not recorded but as it runs here: every case as one layer of one model, for `parity`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tools.golden_keras.cases import CASES

OUTPUT = "_out"  # behind a case's name


def joint_model(iterations: int) -> keras.Model:
    """Return a model of all cases side by side, each with its own kernel, u and bias; inputs are named as the cases."""
    inputs, outputs = {}, {}
    for case in CASES:
        # float ids too: Keras 3 casts the wrapper's output to its input's type, which truncates an embedding
        inputs[case.name] = keras.Input(case.shape[1:], name=case.name, dtype="float32")
        layer = getattr(keras.layers, case.layer)(**case.arguments)
        wrapper = keras.layers.SpectralNormalization(layer, power_iterations=iterations, name=f"sn_{case.name}")
        outputs[case.name + OUTPUT] = wrapper(inputs[case.name])
        bias = getattr(layer, "bias", None)
        kernel, u, offset = case.weights(tuple(wrapper.kernel.shape), () if bias is None else tuple(bias.shape))
        wrapper.kernel.assign(kernel)
        wrapper.vector_u.assign(u)
        if bias is not None:
            bias.assign(offset)
    return keras.Model(inputs, outputs)


def joint_inputs() -> dict[str, np.ndarray[Any, Any]]:
    """Return each case's input by its name, float32."""
    return {case.name: case.input().astype(np.float32) for case in CASES}


def case_of(output: str) -> tuple[str, str]:
    """Return which case a compared array belongs to, and whether it is its "output", "kernel" or "u"."""
    if output.endswith(OUTPUT):
        return output.removesuffix(OUTPUT), "output"
    wrapper, _, what = output.removeprefix("sn_").partition("/")
    return wrapper, "u" if what.endswith(".u") else "kernel"
