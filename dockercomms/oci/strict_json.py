"""A strict JSON parser, and a JSON encoder with the output of the Go reference types.

Registries and clients read the same bytes with different parsers. This one refuses all input about
which they disagree, so that one manifest cannot show two contents.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dockercomms.errors import ProtocolError

MAX_JSON_DEPTH = 64
"""Deeper JSON is refused: manifests do not need it, and parsers recurse."""


def parse_json(data: bytes, *, where: str = "JSON") -> object:
    """Return the JSON value in `data`, strictly.

    Refuses input about which parsers disagree: duplicate keys, invalid UTF-8, a byte order mark,
    NaN and infinities, numbers of more than 64 bits, lone surrogates, nesting deeper than
    `MAX_JSON_DEPTH`.

    Raises:
        ProtocolError: any of these, or not JSON; the error names `where`.

    Source: RFC 8259 sections 4 (names should be unique), 6 and 8.2.
    """
    try:
        text = data.decode("utf-8")
        value: object = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_whole_number,
            parse_float=_number,
        )
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{where}: not valid JSON: {error}") from error
    _refuse_deep(value, where)
    if _SURROGATE_ESCAPE.search(text):
        _refuse_surrogates(value, where)
    return value


def parse_json_list(data: bytes, key: str, *, where: str) -> tuple[dict[str, object], list[object]]:
    """Return the JSON object in `data`, and the items of its list `key`, which may be null.

    If an item breaks a rule of `parse_json`, its error takes the item's place.

    Raises:
        ProtocolError: `data` is no such object, or breaks a rule outside the items.
    """
    try:
        value, broken = parse_json(data, where=where), None
    except ProtocolError as error:
        value, broken = _loosely(data), error
    items = value.get(key, ()) if isinstance(value, dict) else ()
    if not isinstance(value, dict) or not isinstance(items, list | None):
        raise broken or ProtocolError(f"{where}: a JSON object with a list {key!r} expected")
    if broken is not None:
        items = [item if _is_strict([[item]]) else broken for item in items or ()]
        if not any(item is broken for item in items) or not _is_strict({**value, key: None}):
            raise broken
    return value, items or []


def _loosely(data: bytes) -> object:
    """Return the JSON in `data`; `_REFUSED` replaces values that `parse_json` refuses.

    Returns `None` if `data` is not JSON.
    """

    def lax(read: Callable[[Any], object]) -> Callable[[Any], object]:
        def value(text: object) -> object:
            try:
                return read(text)
            except ValueError:
                return _REFUSED

        return value

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=lax(_no_duplicates),
            parse_constant=_no_constant,
            parse_int=lax(_whole_number),
            parse_float=lax(_number),
        )
    except (ValueError, RecursionError):
        return None


def _is_strict(value: object) -> bool:
    try:
        parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8"))
    except (TypeError, ValueError, RecursionError, ProtocolError):
        return False
    return True


_REFUSED = object()
"""An object that encoders refuse."""


def canonical_json(value: object) -> bytes:
    """Return `value` as compact UTF-8 JSON with the escapes of Go's `encoding/json`.

    Keys keep the order of their dict. `<`, `>`, `&`, U+2028 and U+2029 are escaped, DEL and other
    non-ASCII characters are raw, lone surrogates become the escape of U+FFFD, and there is no final
    newline.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char, escape in _GO_ESCAPES:
        if char in text:
            text = text.replace(char, escape)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATE.sub(r"\\ufffd", text).encode("utf-8")


_GO_ESCAPES = (
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("&", "\\u0026"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_WHOLE_NUMBERS = range(-(2**63), 2**64)


def refuse_colliding_keys(fields: Mapping[str, object], where: str, known: frozenset[str]) -> None:
    """Refuse a key that differs from one of `known` only in case.

    Go's decoder accepts `LAYERS` for `layers`, so two readers could see two payloads.

    Raises:
        ProtocolError: there is such a key.
    """
    folded = _folded(known)
    for key in fields:
        if key not in known and key.casefold() in folded:
            raise ProtocolError(f"{where}: key {key!r:.100} differs from another only in case")


@functools.cache  # 40,000 calls for a large index
def _folded(keys: frozenset[str]) -> frozenset[str]:
    return frozenset(key.casefold() for key in keys)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {key!r:.100}")
    return out


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _whole_number(text: str) -> int:
    number = int(text)
    if number not in _WHOLE_NUMBERS:
        raise ValueError(f"{text:.30}: a number of more than 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.30}: a number of more than 64 bits")
    return number


def _refuse_surrogates(value: object, where: str) -> None:
    """Refuse lone surrogates in keys and values: UTF-8 cannot encode them."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ProtocolError(f"{where}: a lone surrogate in a string of the JSON") from error


def _refuse_deep(value: object, where: str) -> None:
    """Refuse nesting above `MAX_JSON_DEPTH`, level by level instead of by recursion.

    It runs after the parser, whose own recursion limit stops extreme nesting: a check of the text
    before it costs eight times as much (measured on an index of 5,000 entries).
    """
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            item for parent in level for item in _children(parent) if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ProtocolError(f"{where}: JSON nested deeper than {MAX_JSON_DEPTH}")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
