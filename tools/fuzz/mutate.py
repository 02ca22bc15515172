"""Mutations: of a model's graph, of its messages and fields, of the JSON in its metadata, and of its bytes."""

import contextlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from safetensors.numpy import save

from tools.fuzz.structure import change

_NUMBERS = [0, 1, -1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**32, 2**40, 2**63 - 1, -(2**63)]
_TEXTS = ["", "x", "y", "w", "\x1b[2J", "[/]", "a\nb", "\u202e", "::", "/", "If", "Conv", "Gemm", "Identity", "Cast"]
_JSON: list[Any] = [None, True, -1, 0, 1e300, 10**30, 10**400, "", "x", [], [0, 2**62], {}, {"a": []}, [[]]]
_LARGEST = 1 << 20  # bytes, for which docs/security.md promises time and memory
_MEMBERS = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)


def mutate(data: bytes, draw: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return a model changed in one to six places, most of the time still a message; `corpus` lends parts."""
    kind = draw.random()
    if kind < 0.15:
        return _bytes(data, draw)
    try:
        model, donor = onnx.ModelProto.FromString(data), onnx.ModelProto.FromString(draw.choice(corpus))
    except DecodeError:
        return _bytes(data, draw)
    for _ in range(draw.randint(1, 6)):
        if kind < 0.3 and model.metadata_props:
            _metadata(model, draw)
        elif draw.random() < 0.6:
            with contextlib.suppress(ValueError, TypeError):  # a name that is no text, or that protobuf does not take
                change(model, draw)
        else:
            _message(model, draw, donor)
    try:
        mutated = model.SerializeToString()
    except (ValueError, RecursionError):
        return data
    return mutated if len(mutated) <= _LARGEST else data


def _bytes(data: bytes, draw: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(content) + 1)
        length = min(draw.choice([1, 1, 2, 8, 100, 1000]), len(content) - place)
        match draw.randrange(5):
            case 0:
                content[place : place + length] = draw.randbytes(length)
            case 1:
                del content[place : place + length]
            case 2:
                content[place:place] = content[place : place + length] * draw.choice([1, 2, 50])
            case 3 if length:
                content[place] ^= 1 << draw.randrange(8)
            case _:
                del content[place:]
        if not content:
            break
    return bytes(content)


def _message(model: Message, draw: random.Random, donor: Message) -> None:
    """Change one field of one message, at a depth that is drawn."""
    at = _descend(model, draw)
    field: Any = draw.choice(at.DESCRIPTOR.fields)
    if field.is_repeated:
        _repeated(getattr(at, field.name), field, draw, donor)
    elif field.type in _MEMBERS:
        if draw.random() < 0.5:
            at.ClearField(field.name)
        else:
            _graft(getattr(at, field.name), draw, donor)
    else:
        _set(at, field, draw)


def _descend(message: Message, draw: random.Random) -> Message:
    while draw.random() < 0.85:
        inner: list[Message] = []
        for field, value in message.ListFields():
            if field.type in _MEMBERS:
                inner += list(value)[:50] if field.is_repeated else [value]
        if not inner:
            break
        message = draw.choice(inner)
    return message


def _repeated(values: Any, field: FieldDescriptor, draw: random.Random, donor: Message) -> None:
    choice = draw.randrange(5)
    if choice == 0 and values:
        del values[draw.randrange(len(values))]
    elif choice == 1 and len(values) > 1:
        first, second = draw.sample(range(len(values)), 2)
        if field.type in _MEMBERS:
            values[first].CopyFrom(values[second])
        else:
            values[first] = values[second]
    elif field.type in _MEMBERS:
        if choice == 2 and values:
            values.add().CopyFrom(draw.choice(values))
        else:
            _graft(values.add(), draw, donor)
    else:
        values.extend([_value(field, draw)] * draw.choice([1, 1, 2, 70, 3000]))


def _graft(message: Message, draw: random.Random, donor: Message) -> None:
    """Give a message the content of one of its kind in the donor, where there is one at the places looked at."""
    for _ in range(20):
        found = _descend(donor, draw)
        if found.DESCRIPTOR is message.DESCRIPTOR:
            message.CopyFrom(found)
            return


def _set(message: Message, field: FieldDescriptor, draw: random.Random) -> None:
    if draw.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, draw))


def _value(field: FieldDescriptor, draw: random.Random) -> Any:
    if field.enum_type is not None:
        return draw.choice(field.enum_type.values).number
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return draw.randbytes(draw.choice([0, 1, 4, 1000]))
        case FieldDescriptor.CPPTYPE_STRING:
            return draw.choice([*_TEXTS, "w" * draw.choice([100, 100_000])])
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return draw.choice([0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")])
        case FieldDescriptor.CPPTYPE_INT32:
            return draw.choice([number for number in _NUMBERS if -(2**31) <= number < 2**31])
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return draw.choice([number for number in _NUMBERS if 0 <= number < 2**32])
        case _:
            return draw.choice(_NUMBERS)


def _metadata(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change one value in the JSON of an insertion."""
    entry = draw.choice(model.metadata_props)
    with contextlib.suppress(ValueError):
        entry.value = json.dumps(changed_json(json.loads(entry.value), draw))


def changed_json(content: Any, draw: random.Random) -> Any:
    """Change one value of what JSON holds, at a depth that is drawn, and return it."""
    at = content
    while isinstance(at, (dict, list)) and at:
        key = draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw.random() < 0.3:
            match draw.randrange(3):
                case 0:
                    del at[key]
                case 1 if isinstance(at, list):
                    at.append(at[key])
                case _:
                    at[key] = draw.choice(_JSON)
            break
        at = at[key]
    return content


def state_for(plan: Mapping[str, Any], draw: random.Random) -> bytes:
    """Return a state file for the sites of a plan: as it should be, or with other lengths, numbers, header or bytes."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for site in plan["sites"]:
        length = site["rows"] if site["side"] == "rows" else site["cols"]
        length = draw.choice([length, length, length, 0, 1, 1000]) or 1
        made = np.random.default_rng(draw.randrange(1000)).standard_normal(length)
        made *= draw.choice([1.0, 1.0, 1.0, 0.0, 1e-40, float("nan"), float("inf")])
        made = made.reshape(draw.choice([(-1,), (-1,), (-1, 1), (1, -1), (1, 1, -1)]))
        with np.errstate(all="ignore"):
            kind = draw.choice([np.float32, np.float32, np.float64, np.float16, np.int32])
            arrays[f"{site['id']}.u"] = made.astype(kind)
        if draw.random() < 0.3:
            arrays[f"{site['id']}.sigma"] = np.array(draw.choice([1.0, 0.0, -1.0, float("nan"), 1e300]))
    header = {"sn_graph": draw.choice(["1", "2", ""]), "step": draw.choice(["3", "-1", "9" * 5000, "x"]), "model": "0"}
    data: bytes = save(arrays, draw.choice([None, None, header, {**header, "convention": "keras"}]))
    return data if draw.random() < 0.7 else _bytes(data, draw)
