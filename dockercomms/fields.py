"""Times, counts and versions as they are written in annotations.

`dockercomms.protocol` exports all of it. Source: SPEC.md section 3.

Example:
    >>> from dockercomms.fields import format_time, parse_time
    >>> format_time(parse_time("2026-11-20T21:44:40+01:00"))
    '2026-11-20T20:44:40.000Z'
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from dockercomms.errors import ProtocolError

_VERSION = re.compile(r"1\.(0|[1-9][0-9]*)")
_COUNT = re.compile(r"0|[1-9][0-9]{0,14}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,3}")
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)


FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(9998, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
"""The bounds of every time that travels (SPEC.md section 3): between them, a day more or less is
still a time that programs can hold."""


def format_time(moment: datetime) -> str:
    """Return `moment` in UTC with three fraction digits: 2026-11-20T20:44:40.000Z.

    Source: SPEC.md section 3.
    """
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_time(text: str) -> datetime:
    """Return the instant in `text`: RFC 3339 with 0 to 9 fraction digits, in UTC.

    Only the years 1970 to 9998: a reader adds spans to such times, and compares them.

    Raises:
        ProtocolError: not such a time.

    Source: SPEC.md section 3.
    """
    moment = parse_rfc3339(text)
    if not FIRST_TIME.year <= moment.year <= LAST_TIME.year:
        raise ProtocolError(f"{text!r:.100}: a time from 1970 to 9998 expected")
    return moment


def parse_rfc3339(text: str) -> datetime:
    """Return the instant in `text`, of any year; the rest is as `parse_time` has it.

    Raises:
        ProtocolError: not such a time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ProtocolError(f"not an RFC 3339 time: {text!r:.100}")
    fraction = (match[3] or "").ljust(6, "0")[:6]
    offset = "+00:00" if match[4] in "Zz" else match[4]
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}.{fraction}{offset}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"not an RFC 3339 time: {text!r:.100}") from error


def is_readable_version(text: str) -> bool:
    """Return whether a message of protocol version `text` can be read: any 1.x."""
    return _VERSION.fullmatch(text) is not None


def parse_chunk_index(text: str) -> int:
    """Return the chunk index in `text`.

    Raises:
        ProtocolError: anything but 0 or 1 to 4 digits without leading zero.
    """
    if _INDEX.fullmatch(text) is None:
        raise ProtocolError(f"not a chunk index: {text!r:.100}")
    return int(text)


def parse_count(text: str, what: str, *, limit: int) -> int:
    """Return the number in `text`: decimal digits without sign or leading zero.

    Raises:
        ProtocolError: anything else, or more than `limit`; the text names `what`.
    """
    if _COUNT.fullmatch(text) is None or int(text) > limit:
        raise ProtocolError(f"{what}: a number from 0 to {limit} expected, {text!r:.100} received")
    return int(text)
