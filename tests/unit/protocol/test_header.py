"""The message header: written, read, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dockercomms.errors import LimitError, ProtocolError
from dockercomms.oci.model import Digest
from dockercomms.protocol import header as protocol
from dockercomms.protocol.header import MessageHeader, check_annotations

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HELLO = Digest("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")


def header(**changes) -> MessageHeader:
    base = MessageHeader(
        id="4608761c-de19-4c43-bc0f-e9ca4a852f8d",
        sender="alice",
        recipient="bob",
        created_at=NOON,
        ttl_seconds=3600,
        filename="f.bin",
        total_bytes=5,
        chunk_bytes=5,
        chunk_count=1,
        compression="zstd",
        payload_digest=HELLO,
    )
    return replace(base, **changes)


EVERYTHING = header(
    filename_full="f" * 300,
    content_type="text/plain",
    title="Grüße",
    text="see\nbelow",
    session_id="s",
    thread_id="t",
    in_reply_to=HELLO,
    expires_at=NOON,
    audience="registry.example/team/box",
    encryption="age-v1",
    files_count=3,
    critical=("dockercomms.title", "dockercomms.expires_at"),
)


@pytest.mark.parametrize("made", [header(), EVERYTHING], ids=["least", "everything"])
def test_header_comes_back_from_its_annotations(made):
    assert MessageHeader.from_annotations(made.to_annotations()) == made


def test_header_compat_writes_the_keys_of_1_0_alone():
    annotations = EVERYTHING.to_annotations(compat=True)
    assert len(annotations) == 11
    assert annotations[protocol.VERSION] == "1.0"
    assert annotations[protocol.CREATED_AT] == "2026-11-20T12:00:00Z"


def test_header_writes_its_time_with_three_digits():
    made = header(created_at=NOON.replace(microsecond=123999))
    assert made.to_annotations()[protocol.CREATED_AT] == "2026-11-20T12:00:00.123Z"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"filename": "x" * 238}, LimitError),
        ({"filename": "é" * 119}, LimitError),
        ({"filename": "a\0b"}, ProtocolError),
        ({"filename": ""}, ProtocolError),
        ({"title": "x" * 201}, LimitError),
        ({"text": "é" * 513}, LimitError),
        ({"created_at": None}, ProtocolError),
        ({"sender": "x" * 4096}, ProtocolError),
    ],
)
def test_header_refuses_to_write_what_a_receiver_would_refuse(changes, error):
    with pytest.raises(error):
        header(**changes).to_annotations()


def test_header_takes_the_longest_name_there_may_be():
    made = header(filename="x" * 237)
    assert MessageHeader.from_annotations(made.to_annotations()) == made


def test_header_expires_at_the_earlier_of_two_times():
    assert header().expires == NOON.replace(hour=13)
    assert header(expires_at=NOON).expires == NOON
    assert header(expires_at=NOON.replace(hour=23)).expires == NOON.replace(hour=13)


def test_header_without_a_time_expires_only_if_it_says_so():
    assert header(created_at=None).expires is None
    assert header(created_at=None, expires_at=NOON).expires == NOON


def test_header_lifetime_beyond_the_calendar_ends_with_it():
    last = datetime(9998, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
    assert header(ttl_seconds=10**12).expires == last
    assert header(ttl_seconds=(7973 * 365 + 1933) * 86_400).expires == last  # in 9999


@pytest.mark.parametrize(
    ("identity", "short"),
    [
        ("4608761c-de19-4c43-bc0f-e9ca4a852f8d", "4608761c"),
        ("4608761C-DE19-4c43-bc0f-e9ca4a852f8d", "4608761c"),
        ("../../etc/passwd", "3754d6cb"),
        ("\udcff", "8f1d0f9c"),
        ("1234", "03ac6742"),
    ],
)
def test_header_short_id_is_eight_hex_digits_of_any_id(identity, short):
    assert header(id=identity).short_id == short


def test_header_shows_the_full_name():
    assert header().display_name == "f.bin"
    assert EVERYTHING.display_name == "f" * 300


def test_annotations_are_limited_in_number():
    check_annotations({str(number): "" for number in range(128)}, "message")
    with pytest.raises(ProtocolError, match="129 annotations"):
        check_annotations({str(number): "" for number in range(129)}, "message")


def test_annotations_are_limited_in_length_with_their_key():
    check_annotations({"k": "v" * 4095}, "message")
    with pytest.raises(ProtocolError, match="4097 bytes"):
        check_annotations({"k": "v" * 4096}, "message")


def test_payload_digest_may_be_missing_only_in_1_0():
    annotations = header().to_annotations()
    del annotations[protocol.PAYLOAD_DIGEST]
    with pytest.raises(ProtocolError):
        MessageHeader.from_annotations(annotations)
    annotations[protocol.VERSION] = "1.0"
    assert MessageHeader.from_annotations(annotations).payload_digest is None
