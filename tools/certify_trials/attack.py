"""Attacks: quotients of a model that onnxruntime gives, found without certify's own derivatives."""

from __future__ import annotations

import time

import numpy as np
import onnx
from numpy.typing import NDArray

from tools.certify_trials.graphs import session

Array = NDArray[np.float64]
# What float32 makes of an output, as a part of the largest numbers on its way.
ROUNDED = 3e-6


def attained(model: onnx.ModelProto, shape: tuple[int, ...], seconds: float, seed: int) -> float:
    """Return the largest quotient that was found, less what rounding may have made of it.

    Jacobians by central differences at random points of several scales, their leading direction, and walks uphill along
    it; every figure is that of two runs.
    """
    runtime = session(model)
    name = runtime.get_inputs()[0].name
    length = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    batched = not isinstance(runtime.get_inputs()[0].shape[0], int)

    def run(points: Array) -> Array:
        stacked = points.reshape(-1, *shape[1:]).astype(np.float32)
        parts = [stacked] if batched else np.split(stacked, len(stacked))
        outputs = [np.asarray(runtime.run(None, {name: part})[0], np.float64) for part in parts]
        return np.concatenate([one.reshape(len(part), -1) for one, part in zip(outputs, parts, strict=True)])

    best, end = 0.0, time.monotonic() + seconds
    while True:
        scale = 10.0 ** rng.uniform(-2.0, 1.5)
        x = scale * rng.standard_normal(length)
        if rng.random() < 0.2:
            x = np.full(length, x[0])
        for _ in range(4):
            step = 1e-2 * scale * 10.0 ** rng.uniform(-0.5, 1.5)
            ends = np.concatenate([x + step * np.eye(length), x - step * np.eye(length)])
            outputs = run(ends)
            jacobian = (outputs[:length] - outputs[length:]) / (2.0 * step)
            if not np.isfinite(jacobian).all():
                break
            v = np.linalg.svd(jacobian.T)[2][0] if jacobian.size else np.zeros(length)
            reaches = scale * np.array([0.01, 0.1, 1.0, 3.0])
            pairs = np.concatenate([x + reaches[:, None] * v, x - reaches[:, None] * v]).astype(np.float32)
            values, wide = run(pairs.astype(np.float64)), pairs.astype(np.float64)
            moved = np.linalg.norm(wide[:4] - wide[4:], axis=1)
            apart = np.linalg.norm(values[:4] - values[4:], axis=1)
            room = ROUNDED * (np.abs(values).max() * np.sqrt(values.shape[1]) + np.abs(wide).max() * np.sqrt(length))
            quotients = np.where(moved > 0.0, (apart - room) / np.maximum(moved, 1e-30), 0.0)
            best = max(best, float(np.nan_to_num(quotients).max()))
            x = x + reaches[int(rng.integers(4))] * rng.choice((-1.0, 1.0)) * v
        if time.monotonic() > end:
            return best
