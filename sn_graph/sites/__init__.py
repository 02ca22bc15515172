"""Sites: where the weights of a model are, what reads them, and as which matrix."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.sites.biases import unscalable
    from sn_graph.sites.chain import cast_type, is_dequantize
    from sn_graph.sites.find import find_sites, locate_sites
    from sn_graph.sites.layout import Atom, Layout
    from sn_graph.sites.operators import DEFAULT_OP_TYPES, QUANTIZED_OP_TYPES, WEIGHT_OP_TYPES, product_perm
    from sn_graph.sites.quantized import Quantization, Quantizer
    from sn_graph.sites.site import Site, WeightUse
    from sn_graph.sites.sparse import Sparse
    from sn_graph.sites.surroundings import Surroundings
    from sn_graph.sites.transfer import Transfer
    from sn_graph.sites.views import Action, Convention, MatrixView, Side, matrix_of

__all__ = [
    "DEFAULT_OP_TYPES",
    "QUANTIZED_OP_TYPES",
    "WEIGHT_OP_TYPES",
    "Action",
    "Atom",
    "Convention",
    "Layout",
    "MatrixView",
    "Quantization",
    "Quantizer",
    "Side",
    "Site",
    "Sparse",
    "Surroundings",
    "Transfer",
    "WeightUse",
    "cast_type",
    "find_sites",
    "is_dequantize",
    "locate_sites",
    "matrix_of",
    "product_perm",
    "unscalable",
]
