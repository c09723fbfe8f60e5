"""Members of JSON objects that came from outside, each with the type it must have.

`where` names the place in errors: `bundle: material: publicKey`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from dockercomms.errors import ProtocolError


def json_object(
    value: object, where: str, *, known: frozenset[str] | None = None
) -> Mapping[str, object]:
    """Return `value`, an object, with no member but those `known` (None: any).

    Raises:
        ProtocolError: it is something else, or has another member.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"{where}: a JSON object expected")
    unknown = sorted(set(value) - known) if known is not None else []
    if unknown:
        raise ProtocolError(f"{where}: unknown member {unknown[0]!r:.100}")
    return value


def json_list(value: object, where: str) -> list[object]:
    """Return `value`, a list; a missing one is empty.

    Raises:
        ProtocolError: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProtocolError(f"{where}: a list expected")
    return value


def json_text(value: object, where: str) -> str:
    """Return `value`, a string.

    Raises:
        ProtocolError: it is something else.
    """
    if not isinstance(value, str):
        raise ProtocolError(f"{where}: a string expected")
    return value


def base64_bytes(value: object, where: str) -> bytes:
    """Return the bytes that the string `value` holds in standard base64.

    Raises:
        ProtocolError: it is no such string.
    """
    try:
        return base64.b64decode(json_text(value, where), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"{where}: not base64: {error}") from error


def base64_text(data: bytes) -> str:
    """Return `data` in standard base64; `base64_bytes` is its inverse."""
    return base64.b64encode(data).decode("ascii")
