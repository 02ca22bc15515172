"""Integers: does a weight that was scaled together with the scale that divides it still become the same ones?

    Quant(W'; s') = s' / s · Quant(W; s)    exactly where  round(W' / s' + z) = round(W / s + z)

element by element, as QONNX defines it: see `sn_graph.sites.quantizers`. That W' is about c·W does not matter then.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from sn_graph.errors import VerificationFailed
from sn_graph.model import Key, Model
from sn_graph.plan import Plan
from sn_graph.rewrite import Rescaled


def check_integers(
    plan: Plan, source: Model, rescaled: Sequence[Rescaled], written: Mapping[Key, onnx.TensorProto]
) -> None:
    """Compare the integers of each weight that quantizers divide with those of the source.

    Args:
        plan, source: What fold followed, and the model before.
        rescaled: What fold multiplied.
        written: The constants of the written file.

    Raises:
        VerificationFailed: An element becomes another integer, or the tensor is gone, or of another shape or type.
    """
    quantizers = {
        target.id: (target, read.quantizer) for target in plan.targets() if (read := target.site.quantization)
    }
    scales: dict[str, list[Rescaled]] = defaultdict(list)
    for entry in rescaled:
        if entry.by is None:
            scales[entry.site].append(entry)
    for entry in rescaled:
        if entry.by is None:
            continue
        target, quantizer = quantizers[entry.site]
        stored, tensor = source.array(target.tensor), written.get((entry.scope, entry.name))
        if tensor is None or quantizer is None:
            raise VerificationFailed(f"tensor '{entry.name}' got lost, or what quantizes it")
        found = numpy_helper.to_array(tensor)
        if (found.shape, found.dtype) != (stored.shape, stored.dtype):
            raise VerificationFailed(f"tensor '{entry.name}' has another shape or type than the original")
        integers = quantizer.integers(source, stored)
        for scale in scales[entry.site]:
            if scale.factor != entry.factor:  # of another use
                continue
            if not np.array_equal(quantizer.by(written[scale.scope, scale.name]).integers(source, found), integers):
                raise VerificationFailed(f"weight '{target.id}' is quantized to other integers than the original")
