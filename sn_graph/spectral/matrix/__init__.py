"""Matrices: spectral norms exact, estimated, and proven from above."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.spectral.matrix.bound import bracket, is_within, upper_bound
    from sn_graph.spectral.matrix.certificate import ROUNDING, certified_divisor, raised_divisor
    from sn_graph.spectral.matrix.condition import frobenius_norm, hints, stable_rank
    from sn_graph.spectral.matrix.exact import SingularTriplet, leading_singular_triplet, norm_and_vector, spectral_norm
    from sn_graph.spectral.matrix.power import operator_power_iteration, power_iteration, seeded_state
    from sn_graph.spectral.matrix.spectrum import Spectrum

__all__ = [
    "ROUNDING",
    "SingularTriplet",
    "Spectrum",
    "bracket",
    "certified_divisor",
    "frobenius_norm",
    "hints",
    "is_within",
    "leading_singular_triplet",
    "norm_and_vector",
    "operator_power_iteration",
    "power_iteration",
    "raised_divisor",
    "seeded_state",
    "spectral_norm",
    "stable_rank",
    "upper_bound",
]
