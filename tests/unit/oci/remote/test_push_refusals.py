"""One blob pushed to registries that want it otherwise, or from a source that is something else."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import pytest

from dockercomms.errors import (
    Denied,
    DigestInvalid,
    DigestMismatch,
    LimitError,
    LocalIOError,
    NameUnknown,
    RangeInvalid,
    TrailingData,
    Truncated,
    Unsupported,
    UploadUnknown,
)
from dockercomms.oci.model import Descriptor
from dockercomms.oci.remote.push import MAX_REPAIRS
from dockercomms.oci.remote.upload import SMALL_CHUNK_BYTES
from tests.fakes.registry import (
    DISTRIBUTION,
    GHCR,
    OCI,
    Fault,
)
from tests.fakes.scripted import Drop, Reply, ScriptedServer
from tests.unit.oci.registries import MIB, R, client, content, described, serving
from tests.unit.oci.traffic import LARGE, UPLOADS, is_patch, is_put, methods, stored


def test_push_blob_sends_small_pieces_where_large_ones_are_refused():
    data = content(9 * MIB)
    descriptor, source = described(data)
    with serving(replace(GHCR, max_chunk_header=False)) as (server, registry):
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        taken = [r.request_bytes for r in server.asked("PATCH", status=202)]
    assert taken == [SMALL_CHUNK_BYTES, SMALL_CHUNK_BYTES, MIB]


def test_push_blob_keeps_to_the_announced_limit():
    data = content(3 * MIB)
    descriptor, source = described(data)
    quirks = replace(OCI, max_chunk_bytes=MIB, max_chunk_header=True)
    with serving(quirks) as (server, registry):
        registry.push_blob(R, descriptor, source)
        assert [r.request_bytes for r in server.asked("PATCH")] == [MIB] * 3


@pytest.mark.parametrize("status", [405, 501])
def test_push_blob_goes_in_one_request_where_there_are_no_pieces(status):
    data = content(3 * MIB)
    descriptor, source = described(data)
    with serving() as (server, registry):
        server.fail_when(is_patch, Fault.answer(status), times=100)
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.count("PATCH") == 1


def test_push_blob_refused_as_too_large_is_sent_in_pieces():
    data = content(9 * MIB)
    descriptor, source = described(data)
    with serving() as (server, registry):
        server.fail_when(is_patch, Fault.answer(413))
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.asked("PATCH", status=202)[0].request_bytes == SMALL_CHUNK_BYTES


def test_push_blob_too_large_in_any_piece_is_an_error():
    descriptor, source = described(content(9 * MIB))
    with serving() as (server, registry):
        server.fail_when(is_patch, Fault.answer(413), times=100)
        with pytest.raises(LimitError, match="413") as caught:
            registry.push_blob(R, descriptor, source)
        assert "--chunk-size" in caught.value.hint
        assert server.count("PATCH") == 3  # whole, 4 MiB, less than 1 MiB
        assert methods(server)[-1] == "DELETE"


def test_push_blob_range_that_never_fits_is_an_error():
    descriptor, source = described(content(2 * MIB))
    with serving() as (server, registry):
        server.fail_when(
            lambda request: request.method in {"PATCH", "PUT"}, Fault.answer(416), times=1000
        )
        with pytest.raises(RangeInvalid):
            registry.push_blob(R, descriptor, source)
        assert server.count("PATCH") == 1
        assert server.count("PUT") <= MAX_REPAIRS + 1


def test_push_blob_whose_piece_is_refused_goes_in_one_request():
    data = content(2 * MIB)
    descriptor, source = described(data)
    with serving() as (server, registry):
        server.fail_when(is_patch, Fault.answer(416), times=1000)
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert methods(server) == ["POST", "PATCH", "DELETE", "POST", "PUT"]


def test_push_blob_one_byte_that_looks_like_none_is_not_sent_twice():
    """A break behind the first byte: `0-0` is what is said of none as well."""
    data = content(LARGE)
    descriptor, source = described(data)
    with serving(DISTRIBUTION) as (server, registry):
        server.fail_when(is_patch, Fault.cut_request(1))
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.count("POST") == 1


@pytest.mark.parametrize("which", [is_patch, is_put], ids=["PATCH", "PUT"])
def test_push_blob_session_that_is_gone_is_opened_again(which):
    data = content(LARGE)
    descriptor, source = described(data)
    gone = Fault.answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
    with serving() as (server, registry):
        server.fail_when(which, gone)
        server.fail_when(lambda r: r.method == "GET" and UPLOADS in r.target, gone)
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.count("POST") == 2


def test_push_blob_session_that_is_always_gone_is_an_error():
    descriptor, source = described(content(LARGE))
    with serving() as (server, registry):
        server.fail_when(is_patch, Fault.answer(404), times=1000)
        with pytest.raises(UploadUnknown):
            registry.push_blob(R, descriptor, source)
        assert server.count("PATCH") <= MAX_REPAIRS + 1


def test_push_blob_session_that_holds_more_than_the_blob_is_left():
    data = content(LARGE)
    descriptor, source = described(data)
    wrong = Reply(204, headers={"Range": f"0-{LARGE + 5}", "Location": "/u"})
    opened, taken = Reply(202, headers={"Location": "/u"}), Reply(202, headers={"Location": "/u"})
    script = [opened, Drop(after=10), wrong, Reply(204), opened, taken, Reply(201)]
    with ScriptedServer(*script) as server, client(server.host) as registry:
        registry.push_blob(R, descriptor, source)
        asked = [seen.method for seen in server.requests]
    assert asked == ["POST", "PATCH", "GET", "DELETE", "POST", "PATCH", "PUT"]
    assert server.requests[5].body == data


def test_push_blob_piece_that_was_stored_elsewhere_is_begun_again():
    data = content(LARGE)
    descriptor, source = described(data)
    opened = Reply(202, headers={"Location": "/u"})
    odd = Reply(202, headers={"Location": "/u", "Range": f"0-{LARGE + 99}"})
    script = [opened, odd, Reply(204), opened, opened, Reply(201)]
    with ScriptedServer(*script) as server, client(server.host) as registry:
        registry.push_blob(R, descriptor, source)
        asked = [seen.method for seen in server.requests]
    assert asked == ["POST", "PATCH", "DELETE", "POST", "PATCH", "PUT"]


def test_push_blob_wrong_digest_at_the_registry_is_tried_once_more():
    data = content(LARGE)
    descriptor, source = described(data)
    refused = Fault.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
    with serving() as (server, registry):
        server.fail_when(is_put, refused)
        registry.push_blob(R, descriptor, source)
        assert stored(server, descriptor) == data
        assert server.count("POST") == 2
    with serving() as (server, registry):
        server.fail_when(is_put, refused, times=100)
        with pytest.raises(DigestInvalid):
            registry.push_blob(R, descriptor, source)
        assert server.count("POST") == 2


def test_push_blob_repository_that_cannot_be_made_is_an_error_at_once():
    descriptor, source = described(b"abc")
    unknown = Reply(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
    with ScriptedServer(unknown) as server, client(server.host) as registry:
        with pytest.raises(NameUnknown):
            registry.push_blob(R, descriptor, source)
        assert len(server.requests) == 1


def test_push_blob_denied_is_an_error_at_once():
    descriptor, source = described(b"abc")
    with ScriptedServer(Reply(403)) as server, client(server.host) as registry:
        with pytest.raises(Denied):
            registry.push_blob(R, descriptor, source)
        assert len(server.requests) == 1


def test_push_blob_unsupported_is_an_error_where_there_is_no_other_way():
    descriptor, source = described(b"abc")
    with serving() as (server, registry):
        server.fail_when(is_put, Fault.answer(405), times=100)
        with pytest.raises(Unsupported):
            registry.push_blob(R, descriptor, source)


@pytest.mark.parametrize("length", [3, LARGE])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:-1], Truncated),
        (lambda data: data + b"x", TrailingData),
        (lambda data: b"X" + data[1:], DigestMismatch),
        (lambda data: b"", Truncated),
    ],
    ids=["shorter", "longer", "other", "empty"],
)
def test_push_blob_source_that_is_something_else_is_refused(length, change, expected):
    data = b"abc" if length == 3 else content(length)
    descriptor, _ = described(data)
    with serving() as (server, registry):
        with pytest.raises(expected):
            registry.push_blob(R, descriptor, lambda: io.BytesIO(change(data)))
        assert descriptor.digest not in server.repository(R).blobs
        assert server.count("DELETE") == 1


def test_push_blob_source_that_cannot_be_read_is_a_local_error(tmp_path):
    descriptor, _ = described(b"abc")

    class Broken(io.BytesIO):
        def read(self, size=-1, /):
            raise OSError(5, "Input/output error")

    with serving() as (server, registry):
        with pytest.raises(LocalIOError):
            registry.push_blob(R, descriptor, lambda: Broken(b"abc"))
        with pytest.raises(LocalIOError):
            registry.push_blob(R, descriptor, lambda: (tmp_path / "missing").open("rb"))
        assert server.count("PUT", status=201) == 0


def test_push_blob_checks_the_digest_in_its_own_algorithm():
    data = b"abc"
    descriptor = Descriptor(
        media_type="a/b", digest="sha512:" + hashlib.sha512(data).hexdigest(), size=3
    )
    opened = Reply(202, headers={"Location": "/u"})
    with ScriptedServer(opened, Reply(201)) as server, client(server.host) as registry:
        registry.push_blob(R, descriptor, lambda: io.BytesIO(data))
        assert "digest=sha512%3A" in server.requests[-1].target
        server.add(opened, Reply(201))
        with pytest.raises(DigestMismatch):
            registry.push_blob(R, descriptor, lambda: io.BytesIO(b"abd"))
