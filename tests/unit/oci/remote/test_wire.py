"""Bytes in and out of one HTTP exchange."""

from __future__ import annotations

from dockercomms.oci.remote.exchange import Body
from dockercomms.oci.remote.session import SizedBody, open_body


def test_open_body_streams_with_a_known_length():
    body = open_body(Body(3, lambda: iter([b"ab", b"c"])))
    assert isinstance(body, SizedBody)
    assert len(body) == 3
    assert b"".join(body) == b"abc"
    assert b"".join(body) == b"abc"
    body.close()


def test_open_body_of_nothing_is_bytes():
    assert open_body(Body(0, lambda: iter([]))) == b""
    assert open_body(b"x") == b"x"
    assert open_body(None) is None
    assert not Body(0, lambda: iter([]))


def test_sized_body_may_be_closed_before_it_is_read():
    body = open_body(Body(3, lambda: iter([b"abc"])))
    assert isinstance(body, SizedBody)
    body.close()
