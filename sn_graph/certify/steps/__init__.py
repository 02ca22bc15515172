"""Steps: linear maps, activations and other functions with their Jacobians and proven constants."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.certify.steps.call import MOST, ROUNDED, SIZES, Call, Made, Operand
    from sn_graph.certify.steps.maps import Array, Composed, LinearMap, Scaled, Shape, Summed, copied_axes, unbroadcast
    from sn_graph.certify.steps.moves import Placed, Reshaped, Selected, Sliced, Transposed
    from sn_graph.certify.steps.products import Convolved, Multiplied, Separable
    from sn_graph.certify.steps.rounding import UNIT, product, raised, root, root_of_squares, total
    from sn_graph.certify.steps.step import (
        Bounded,
        Elementwise,
        Function,
        Joined,
        Linear,
        NoBound,
        OpenSize,
        Step,
        Unbounded,
        Univariate,
        repeated,
        varies,
    )

__all__ = [
    "MOST",
    "ROUNDED",
    "SIZES",
    "UNIT",
    "Array",
    "Bounded",
    "Call",
    "Composed",
    "Convolved",
    "Elementwise",
    "Function",
    "Joined",
    "Linear",
    "LinearMap",
    "Made",
    "Multiplied",
    "NoBound",
    "OpenSize",
    "Operand",
    "Placed",
    "Reshaped",
    "Scaled",
    "Selected",
    "Separable",
    "Shape",
    "Sliced",
    "Step",
    "Summed",
    "Transposed",
    "Unbounded",
    "Univariate",
    "copied_axes",
    "product",
    "raised",
    "repeated",
    "root",
    "root_of_squares",
    "total",
    "unbroadcast",
    "varies",
]
