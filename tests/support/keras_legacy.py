"""tf_keras models exported and run beside tf_keras itself; prints what came out as JSON.

A program of its own, `python -m tests.support.keras_legacy FOLDER`: tf_keras must be chosen before tensorflow is
imported, and a process that has Keras 3 can't choose it any more. It writes saved models into FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np

import sn_graph as sn
from sn_graph.frontends import keras as frontend
from tests.support import keras_models
from tests.support.keras_models import LAYERS, Array
from tests.support.way_back import way_back

STEPS = 5
ITERATIONS = (1, 2, 5)


def measure(model: Any, batches: list[list[Array]], folder: Path, *, training: bool = True) -> dict[str, Any]:
    """Export and insert a model, and say how far it is from the original: inference, then each training call."""
    before = [weight.numpy().copy() for weight in model.weights]
    exported = frontend.export(model)
    unchanged = all(np.array_equal(weight.numpy(), value) for weight, value in zip(model.weights, before, strict=True))
    exported.save(folder / "plain.onnx")
    plan, _ = frontend.sidecars(folder / "plain.onnx")
    session = sn.StatefulSession(sn.insert(folder / "plain.onnx", plan=plan).to_proto())
    names = [value.name for value in exported.model.proto.graph.input]
    outputs = [value.name for value in exported.model.proto.graph.output]
    plain = run_plain(exported, dict(zip(names, batches[0], strict=True)))
    result: dict[str, Any] = {
        "sites": {site.id: [site.per_use, len(site.uses)] for site in exported.plan.eligible()},
        "wrappers": [wrapper.weight for wrapper in frontend.wrappers(model)],
        "unchanged": unchanged,
        "inference": distance(plain, named(model(packed(batches[0]), training=False), outputs)),
        "output": 0.0,
        "u": 0.0,
    }
    for batch in batches:
        if not training:
            for wrapper in frontend.wrappers(model):
                kernel, vector = wrapper.layer.normalize_weights()
                wrapper.variable.assign(kernel)
                wrapper.layer.vector_u.assign(vector)
        theirs = named(model(packed(batch), training=training), outputs)
        ours = dict(zip(outputs, session.run(outputs, dict(zip(names, batch, strict=True))), strict=True))
        result["output"] = max(result["output"], distance(ours, theirs))
        vectors = {wrapper.weight: wrapper.vector_u for wrapper in frontend.wrappers(model)}
        state = session.state()
        result["u"] = max(result["u"], *(float(np.abs(state[name] - vectors[name]).max()) for name in state))
    return result


def run_plain(exported: frontend.KerasExport, feed: dict[str, Array]) -> dict[str, Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        exported.model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feed), strict=True))


def packed(batch: list[Array]) -> Any:
    return batch[0] if len(batch) == 1 else batch


def named(outputs: Any, names: list[str]) -> dict[str, Array]:
    given = outputs if isinstance(outputs, dict) else {names[0]: outputs}
    return {name: np.asarray(value) for name, value in given.items()}


def distance(ours: dict[str, Array], theirs: dict[str, Array]) -> float:
    """How far outputs exceed the relative part of the issue's bound: max of |a-b| - 1e-5 |b|."""
    assert ours.keys() == theirs.keys()
    return max(float((np.abs(ours[name] - theirs[name]) - 1e-5 * np.abs(theirs[name])).max()) for name in ours)


def main(folder: Path) -> None:
    import tf_keras

    rng = np.random.default_rng(20)
    results: dict[str, Any] = {"generation": tf_keras.__version__}
    for place, case in enumerate(case for case in LAYERS if case.legacy):
        model = case.model(tf_keras, ITERATIONS[place % len(ITERATIONS)])
        keras_models.set_random(model, rng)
        results[case.name] = measure(model, [[case.batch(rng)] for _ in range(STEPS)], folder)
        results[case.name]["way back"] = way_back(model, [case.batch(rng) for _ in range(STEPS)], folder)
    images = [[rng.standard_normal((2, 8, 8, 3)).astype(np.float32)] for _ in range(STEPS)]
    for use_bias in (True, False):
        model = keras_models.convolution_and_batchnorm(tf_keras, use_bias=use_bias)
        results[f"batchnorm-{use_bias}"] = measure(model, images, folder, training=False)
    model.save(folder / "legacy.keras")
    model.save(folder / "legacy.h5")
    model.save(folder / "legacy_saved")
    model = keras_models.twins(tf_keras)
    batches = [[rng.standard_normal((3, 6)).astype(np.float32)] for _ in range(STEPS)]
    results["twins"] = measure(model, batches, folder)
    model = keras_models.called_again(tf_keras)
    batches = [[rng.standard_normal((3, 6)).astype(np.float32) for _ in range(2)] for _ in range(STEPS)]
    results["called-again"] = measure(model, batches, folder)
    model = keras_models.nested(tf_keras)
    results["nested"] = measure(
        model, [[np.concatenate([*image, image[0][..., :1]], axis=3)] for image in images], folder
    )
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
