"""Times, counts and versions in annotations.

`dockercomms.protocol.header` exports all names.
Source: SPEC.md section 3.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from dockercomms.errors import ProtocolError
from dockercomms.platforms.records import dataclass

_VERSION = re.compile(r"1\.(0|[1-9][0-9]*)")
_COUNT = re.compile(r"0|[1-9][0-9]{0,14}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,3}")
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)


FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(9998, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
"""The bounds of all times in messages (SPEC.md section 3). Programs can still represent a time that
is a day earlier or later."""
MAX_VOID_RANGES = 64
"""Largest number of ranges of void numbers in a message (SPEC.md section 9)."""

_NUMBER = r"[1-9][0-9]{0,14}"
_POSITION = re.compile(
    rf"([0-9a-f]{{32}})/({_NUMBER})(?:;void=({_NUMBER}-{_NUMBER}(?:,{_NUMBER}-{_NUMBER}){{0,63}}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPosition:
    """The position of a message among those from its sender to its recipient in a repository.

    `str` returns the text of the annotation, `<stream>/<number>;void=<first>-<last>,...`; `parse`
    is its inverse.
    Source: SPEC.md section 9.
    """

    stream: str
    """32 random hex digits; each state of a sender draws its own."""
    number: int
    """Starts at 1 and grows by 1 with each message."""
    void: tuple[tuple[int, int], ...] = ()
    """Ranges of earlier numbers without a message, in increasing order, both ends included."""

    def __str__(self) -> str:
        """Return the annotation's text."""
        void = ",".join(f"{first}-{last}" for first, last in self.void)
        return f"{self.stream}/{self.number}" + (f";void={void}" if void else "")

    @classmethod
    def parse(cls, text: str) -> StreamPosition:
        """Return the position in `text`.

        Raises:
            ProtocolError: `text` has another form, or its ranges do not increase, or they reach its
                own number.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ProtocolError(f"not a sequence: {text!r:.100}")
        ranges = [part.split("-") for part in (match[3] or "").split(",") if part]
        void = tuple((int(first), int(last)) for first, last in ranges)
        last = 0
        for begin, end in void:
            if not last < begin <= end < int(match[2]):
                raise ProtocolError(
                    f"not a sequence: its void numbers do not increase: {text!r:.100}"
                )
            last = end
        return cls(stream=match[1], number=int(match[2]), void=void)


def format_time(moment: datetime) -> str:
    """Return `moment` in UTC with three fraction digits: 2026-11-20T20:44:40.000Z.

    Source: SPEC.md section 3.
    """
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_time(text: str) -> datetime:
    """Return the instant in `text`: RFC 3339 with 0 to 9 fraction digits, in UTC.

    Accepts only the years 1970 to 9998, because readers add spans to these times.

    Raises:
        ProtocolError: `text` is not such a time.

    Source: SPEC.md section 3.
    """
    moment = parse_rfc3339(text)
    if not FIRST_TIME.year <= moment.year <= LAST_TIME.year:
        raise ProtocolError(f"{text!r:.100}: a time from 1970 to 9998 expected")
    return moment


def parse_rfc3339(text: str) -> datetime:
    """Return the instant in `text`, of any year; otherwise like `parse_time`.

    Raises:
        ProtocolError: `text` is not such a time.
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
    """Return whether this program reads protocol version `text`: any 1.x."""
    return _VERSION.fullmatch(text) is not None


def parse_chunk_index(text: str) -> int:
    """Return the chunk index in `text`.

    Raises:
        ProtocolError: `text` is not "0" or 1 to 4 digits without leading zero.
    """
    if _INDEX.fullmatch(text) is None:
        raise ProtocolError(f"not a chunk index: {text!r:.100}")
    return int(text)


def parse_count(text: str, what: str, *, limit: int) -> int:
    """Return the number in `text`: decimal digits without sign or leading zero.

    Raises:
        ProtocolError: `text` is anything else, or more than `limit`; the error names `what`.
    """
    if _COUNT.fullmatch(text) is None or int(text) > limit:
        raise ProtocolError(f"{what}: a number from 0 to {limit} expected, {text!r:.100} received")
    return int(text)
