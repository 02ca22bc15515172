"""The wire format, against protobuf's own encoder and onnx's own schema."""

import random
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.errors import ModelError
from sn_graph.model import walk_tensors, wire
from tests.support.carriers import (
    PLACES,
    Made,
    field,
    find_tensors,
    make_model,
    make_tensor,
    models,
    tag,
    unknown,
    varint,
)


def joined(pieces: list[wire.Piece]) -> bytes:
    return b"".join(pieces)  # type: ignore[arg-type]


@given(st.integers(0, 2**64 - 1))
def test_varints_are_protobufs(value: int) -> None:
    assert wire.write_varint(value) == varint(value)
    assert wire.read_varint(memoryview(b"\xff" + varint(value) + b"\x01"), 1, 99) == (value, 1 + len(varint(value)))


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff" * 11])
def test_a_varint_without_an_end_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="a number in it is cut off"):
        wire.read_varint(memoryview(content), 0, len(content))


def _leads_to_tensors(message: Any, around: tuple[str, ...] = ()) -> bool:
    if message.name == "TensorProto":
        return True
    inner = [f.message_type for f in message.fields if f.message_type is not None and f.message_type.name not in around]
    return any(_leads_to_tensors(child, (*around, message.name)) for child in inner)


def test_every_way_to_a_tensor_in_onnx_is_known() -> None:
    children, singular = {}, {}
    todo: list[Any] = [onnx.ModelProto.DESCRIPTOR]
    while todo:
        message = todo.pop()
        ways = [f for f in message.fields if f.message_type is not None and _leads_to_tensors(f.message_type)]
        children[message.name] = {f.number: f.message_type.name for f in ways}
        if once := frozenset(f.number for f in ways if not f.is_repeated):
            singular[message.name] = once
        known = {*children, "TensorProto"}
        todo += [f.message_type for f in ways if f.message_type.name not in known]
    assert children == wire.CHILDREN
    assert singular == wire.SINGULAR


def test_the_data_fields_are_onnxs() -> None:
    numbers = {f.name: f.number for f in onnx.TensorProto.DESCRIPTOR.fields}
    for name, number in numbers.items():
        assert getattr(wire, name.upper(), number) == number
    assert {numbers[n] for n in numbers if n.endswith("_data") and n != "string_data"} - {wire.EXTERNAL_DATA} == (
        wire.PAYLOAD_FIELDS
    )


@settings(max_examples=60, deadline=None)
@given(models())
def test_rewriting_nothing_gives_the_same_bytes_and_visits_every_tensor(made: Made) -> None:
    content, *_ = made
    visited = {}

    def visit(path: wire.TensorPath, start: int, end: int) -> None:
        visited[path] = content[start:end]

    assert joined(wire.rewrite(memoryview(content), visit)) == content
    walked = dict(walk_tensors(onnx.ModelProto.FromString(content)))
    assert {path: onnx.TensorProto.FromString(part) for path, part in visited.items()} == walked
    assert len(walked) == len(list(find_tensors(onnx.ModelProto.FromString(content))))


@settings(max_examples=60, deadline=None)
@given(models(), st.randoms(use_true_random=False))
def test_rewritten_tensors_stand_in_their_place(made: Made, rng: random.Random) -> None:
    content, *_ = made

    def shrink_or_grow(_: wire.TensorPath, start: int, end: int) -> list[wire.Piece] | None:
        if rng.random() < 0.3:
            return None
        text = rng.choice(["", "x" * 300]).encode()
        return [content[start:end], field(12, text)]

    expected = onnx.ModelProto.FromString(content)
    got = onnx.ModelProto.FromString(joined(wire.rewrite(memoryview(content), shrink_or_grow)))
    for tensor in find_tensors(got):
        tensor.ClearField("doc_string")
    assert got == expected


def test_small_messages_are_passed_on_unread() -> None:
    content = make_model([("initializer", make_tensor("small", "FLOAT", 7, "raw", 0))])
    wire.rewrite(memoryview(content), lambda *_: pytest.fail("read"), smallest=1024)


@pytest.mark.parametrize("place", PLACES)
def test_the_owner_of_a_tensor(place: str) -> None:
    content = make_model([(place, make_tensor("t", "FLOAT", 1, "raw", 0))])
    ((path, _),) = walk_tensors(onnx.ModelProto.FromString(content))
    kinds = {5: "GraphProto"} if PLACES[place][-2:-1] in {(7,), (6,), (11,), (1,)} else {}
    if place in ("constant", "attribute tensors", "subgraph constant", "function", "function default"):
        kinds = {5: "AttributeProto", 10: "AttributeProto"}
    if place == "training algorithm":
        kinds = {5: "AttributeProto"}
    assert wire.owner(path) == kinds.get(PLACES[place][-1], "SparseTensorProto")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (field(7, b"")[:-1] + b"\x05", "cut off"),
        (tag(7, 6), "impossible field"),
        (tag(7, 4), "impossible field"),
        (tag(0, 0) + b"\x00", "beyond its end"),
        (tag(1004, 3) + b"\x08\x01", "cut off"),
        (tag(1004, 3) * 200, "impossible field"),
        (tag(7, 1) + b"\x00" * 7, "beyond its end"),
        (field(7, b"") * 2, "two parts"),
    ],
)
def test_what_is_no_message_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        wire.rewrite(memoryview(content), lambda *_: None)


def test_nesting_is_bounded() -> None:
    content = b""
    for _ in range(100):
        content = field(1, field(5, field(6, content)))
    with pytest.raises(ModelError, match="nested more than 100 deep"):
        wire.rewrite(memoryview(field(7, content)), lambda *_: None)


@pytest.mark.parametrize("form", ["raw", "packed", "unpacked", "split"])
def test_a_payload_is_found_where_it_stands_in_one_piece(form: str) -> None:
    made = make_tensor("t", "FLOAT", 40, form, 3)
    found = wire.find_payload(memoryview(made.content), 0, len(made.content))
    if made.payload is None:
        assert found is None
    else:
        assert found is not None
        assert made.content[found.value : found.end] == made.payload


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["raw", "packed", "unpacked", "split", "mixed"]), st.integers(0, 2**32), st.binary(max_size=9))
def test_a_payload_replaces_all_that_was_there(form: str, seed: int, payload: bytes) -> None:
    content = make_tensor("t", "FLOAT", 6, form, seed).content + unknown(random.Random(seed))
    pieces = wire.replace_payload(memoryview(content), 0, len(content), wire.RAW_DATA, payload, lambda _: False)
    expected = onnx.TensorProto.FromString(content)
    expected.ClearField("float_data")
    expected.raw_data = payload
    assert onnx.TensorProto.FromString(joined(pieces)) == expected


def test_dropped_fields_are_left_out() -> None:
    content = field(8, b"t") + field(13, field(1, b"mark")) + field(12, b"doc")
    pieces = wire.replace_payload(
        memoryview(content), 0, len(content), wire.RAW_DATA, b"12", lambda f: f.number == wire.EXTERNAL_DATA
    )
    assert joined(pieces) == field(8, b"t") + field(9, b"12") + field(12, b"doc")
