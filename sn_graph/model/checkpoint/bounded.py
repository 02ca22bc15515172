"""Bounded JSON: headers that anybody may have written, decoded within limits of size, structure and depth."""

import json
from typing import Any, NoReturn

from sn_graph.errors import ModelError

HEADER_LIMIT = 1 << 25  # bytes; a model of 100,000 tensors has a third of it
# A bracket becomes some 60 bytes of Python, a comma 8 to 40: the two limits keep a header below half a GB.
_BRACKETS, _COMMAS = 1_000_000, 4_000_000


class DuplicateKeyError(ValueError):
    """An object holds one key twice."""


def decode_object(text: bytes, what: str) -> dict[str, Any]:
    """Decode a JSON object whose keys must differ.

    Args:
        text: UTF-8.
        what: What it is called in messages.

    Raises:
        ModelError: It is not an object, holds a key twice, or passes a limit.
    """
    if len(text) > HEADER_LIMIT:
        raise ModelError(f"{what} has {len(text):,} bytes", f"where at most {HEADER_LIMIT:,} are read")
    if text.count(b"{") + text.count(b"[") > _BRACKETS or text.count(b",") > _COMMAS:
        raise ModelError(f"{what} holds more objects than any checkpoint has", do="download it again")
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse)
    except RecursionError:
        raise ModelError(f"{what} is nested too deeply", do="download it again") from None
    except DuplicateKeyError as error:
        raise ModelError(f"{what} names '{error}' twice", "so nobody can tell which is meant") from None
    except ValueError as error:
        raise ModelError(f"{what} is not JSON", str(error)[:200], "download it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{what} is not a JSON object", do="download it again")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise DuplicateKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")
