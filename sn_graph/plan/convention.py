"""Conventions: which framework a model came from, and so whose matrices are taken.

Tools that rewrite models (quantizers, float16 converters, onnxslim, onnxsim, onnxruntime itself) put their own name in
place of the producer's and add to the names of weights, so that a framework is looked for in more than one place.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from sn_graph.errors import UsageError
from sn_graph.model import Model
from sn_graph.sites import Convention, Site


@dataclass(frozen=True)
class Origin:
    """Whose matrices are taken.

    Attributes:
        convention: Whose.
        reason: Why, as a sentence goes on after "convention X:".
        guessed: Whether nothing in the file tells it.
    """

    convention: Convention
    reason: str
    guessed: bool = False


def resolve_convention(name: str, model: Model, sites: Iterable[Site]) -> Origin:
    """Return the convention of this name, or for "auto" the one that fits, and why. Raises UsageError."""
    if name == "auto":
        return choose_convention(model, sites)
    try:
        return Origin(Convention(name), "asked for")
    except ValueError:
        known = ", ".join(["auto", *Convention])
        raise UsageError(f"no convention '{name}'", do=f"choose one of {known}") from None


def choose_convention(model: Model, sites: Iterable[Site]) -> Origin:
    """Return the convention that the model's origin suggests, and why.

    In this order: the producer pytorch; names of weights as in a state dict, those that a tool has added to included;
    a producer or names of Keras and TensorFlow; what else PyTorch's exporters leave behind. Keras where there is none.
    """
    producer = model.proto.producer_name
    if producer == "pytorch":
        return Origin(Convention.TORCH, "the producer is pytorch")
    weights = [site.weight for site in sites]
    named = next((weight for weight in weights if _STATE_DICT_NAME.search(weight)), None)
    if named is not None:
        return Origin(Convention.TORCH, f"weights are named like PyTorch's ('{named}')")
    plain = next((weight for weight in weights if _STATE_DICT_NAME.search(without_additions(weight))), None)
    if plain is not None:
        return Origin(Convention.TORCH, f"weights are named like PyTorch's, but for what a tool added ('{plain}')")
    unnamed = f"the producer is {producer or 'not named'} and no weight is named like PyTorch's"
    if _KERAS_PRODUCER.search(producer):
        return Origin(Convention.KERAS, unnamed)
    kernel = next((weight for weight in weights if _KERAS_NAME.search(without_additions(weight))), None)
    if kernel is not None:
        return Origin(Convention.KERAS, f"weights are named like Keras's ('{kernel}')")
    trace = next(_traces_of_torch(model), None)
    if trace is not None:
        return Origin(Convention.TORCH, trace)
    return Origin(Convention.KERAS, unnamed, guessed=True)


def without_additions(name: str) -> str:
    """Return the name of a weight without what tools add when they rewrite it.

    >>> without_additions("net.5.weight_quantized"), without_additions("up.weight_DequantizeLinear_Output")
    ('net.5.weight', 'up.weight')
    """
    before = ""
    while name != before:
        before, name = name, _ADDED.sub("", name)
    return name


# By onnxruntime's quantizers, float16 converters, layout optimizations and prepacking, and by onnxslim.
_ADDED = re.compile(
    r"(_|\.|/|::)(quant(ized)?|(de)?quantize_?linear|output|input|scales?|zero_?points?|zp|(b?float|fp|bf)16|cast(ed)?|"
    r"transposed?|reorder(ed)?|nchwc|(pre)?packed|merged|fused|folded|copy|duplicated?|qweight|q\d\w*|u?int[48])"
    r"(_\d+)?$|^Inserted[A-Za-z]*_",
    re.IGNORECASE,
)
_STATE_DICT_NAME = re.compile(r"\.(weight|weight_orig|parametrizations\.weight\.original)$")
_ANY_PARAMETER = re.compile(
    r"\.(weight|bias|weight_orig|weight_[gvu]|running_mean|running_var|num_batches_tracked|in_proj_(weight|bias)|"
    r"(weight|bias)_(ih|hh)_l\d+(_reverse)?|parametrizations\.\w+\.original\d?)$"
)
_ANONYMOUS = re.compile(r"^onnx::[A-Z]\w*_\d+$")  # of PyTorch's TorchScript exporter, for what it has folded
_KERAS_PRODUCER = re.compile(r"tf2onnx|keras|tensorflow", re.IGNORECASE)
_KERAS_NAME = re.compile(
    r"/(\w*kernel|embeddings|gamma|beta)(:0)?$|[/_]ReadVariableOp(_\d+)?(:0)?$|^StatefulPartitionedCall|/(Conv|MatMul)\w*/"
)
_TORCH_MODULE = re.compile(r"^(/[\w]+)*/[\w]+(\.[\w]+)+/[A-Z]\w+$")  # /net/net.5/ConvTranspose


def _traces_of_torch(model: Model) -> Iterator[str]:
    """Yield what tells that PyTorch's exporters made a model, whatever has happened to it since."""
    proto = model.proto
    for entry in proto.opset_import:
        if entry.domain.startswith("pkg.torch") or entry.domain.endswith("torch_lib"):
            yield f"it imports PyTorch's operators ({entry.domain})"
    nodes = chain.from_iterable(node.metadata_props for node in proto.graph.node)
    for prop in chain(proto.metadata_props, proto.graph.metadata_props, nodes):
        if prop.key.startswith("pkg.torch"):
            yield f"its metadata tell of PyTorch's exporter ({prop.key})"
    for scope in model.graph.scopes:
        for name in scope.initializers:
            plain = without_additions(name)
            if _ANY_PARAMETER.search(name) or _ANY_PARAMETER.search(plain):
                yield f"parameters are named like PyTorch's ('{name}')"
            if _ANONYMOUS.match(name) or _ANONYMOUS.match(plain):
                yield f"constants are named as PyTorch's exporter names them ('{name}')"
        for node in scope.nodes:
            if _TORCH_MODULE.match(node.proto.name):
                yield f"nodes are named like PyTorch's modules ('{node.proto.name}')"
