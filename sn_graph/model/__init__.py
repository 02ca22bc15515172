"""Models on disk: bytes and structure of a file, its tensors memory-mapped, saved by streaming."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.model.constants import ConstantValues, Key, constants, constants_by_key, sparse_constants
    from sn_graph.model.external import clear_data, is_external, set_location
    from sn_graph.model.files import StagedFiles, require_writable, same_file, write_file
    from sn_graph.model.follow import Reached, Reading, follow, origin
    from sn_graph.model.foreign import foreign
    from sn_graph.model.graph import ONNX_DOMAINS, Graph, Node, Scope, Use, constant_tensor, subgraphs
    from sn_graph.model.neighbours import data_files
    from sn_graph.model.payload import FLOAT_TYPES, MAX_RANK, Payload, Source, element_type, scale_elements
    from sn_graph.model.randomness import RANDOM_OPS, random_ops
    from sn_graph.model.reading import READING, open_ordinary, read_ordinary, require_ordinary
    from sn_graph.model.shapes import Shapes
    from sn_graph.model.skeleton import put_data
    from sn_graph.model.storage import Model, ModelSource, Storage, watched
    from sn_graph.model.temporary import collect, temporary_folder
    from sn_graph.model.tensors import walk_tensors, without_data
    from sn_graph.model.values import Dimension, Value, describe
    from sn_graph.model.watch import files_put_in_place, note_in_place, report_to, understand
    from sn_graph.model.wire import RAW_DATA, Buffer

__all__ = [
    "FLOAT_TYPES",
    "MAX_RANK",
    "ONNX_DOMAINS",
    "RANDOM_OPS",
    "RAW_DATA",
    "READING",
    "Buffer",
    "ConstantValues",
    "Dimension",
    "Graph",
    "Key",
    "Model",
    "ModelSource",
    "Node",
    "Payload",
    "Reached",
    "Reading",
    "Scope",
    "Shapes",
    "Source",
    "StagedFiles",
    "Storage",
    "Use",
    "Value",
    "clear_data",
    "collect",
    "constant_tensor",
    "constants",
    "constants_by_key",
    "data_files",
    "describe",
    "element_type",
    "files_put_in_place",
    "follow",
    "foreign",
    "is_external",
    "note_in_place",
    "open_ordinary",
    "origin",
    "put_data",
    "random_ops",
    "read_ordinary",
    "report_to",
    "require_ordinary",
    "require_writable",
    "same_file",
    "scale_elements",
    "set_location",
    "sparse_constants",
    "subgraphs",
    "temporary_folder",
    "understand",
    "walk_tensors",
    "watched",
    "without_data",
    "write_file",
]
