"""An upload session, written to piece by piece."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dockercomms.errors import (
    BadAnswer,
    DigestInvalid,
    NetworkError,
    ProtocolError,
    RangeInvalid,
    RegistryError,
    Unsupported,
    UploadUnknown,
)
from dockercomms.oci.model import digest_of
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.remote.upload import MAX_MIN_CHUNK_BYTES, SMALL_CHUNK_BYTES
from tests.fakes.registry import (
    DISTRIBUTION,
    DOCKER_REGISTRY_2_8,
    GGCR,
    OCI,
    OCIMEM,
    OLAREG,
    PRESETS,
    ZOT,
    Fault,
)
from tests.fakes.scripted import Reply, ScriptedServer
from tests.unit.oci.registries import R, client, content, serving
from tests.unit.oci.traffic import UPLOADS, is_patch, is_put


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 350])
def test_upload_writes_what_it_was_given(preset, length):
    quirks = PRESETS[preset]
    data = content(length)
    with serving(quirks) as (server, registry):
        upload = registry.upload(R, chunk_size=100)
        for start in range(0, length, 70):
            upload.write(data[start : start + 70])
        assert upload.size == length
        descriptor = upload.commit(digest_of(data))
        assert (descriptor.digest, descriptor.size) == (digest_of(data), length)
        assert server.repository(R).blobs[digest_of(data)].data == data


def test_upload_sends_slices_and_the_last_one_with_the_closing_request():
    with serving() as (server, registry):
        upload = registry.upload(R, chunk_size=100)
        assert upload.write(content(250)) == 250
        upload.write(b"")
        upload.commit(digest_of(content(250)))
        sent = [
            (r.method, r.request_bytes, r.headers.get("content-range")) for r in server.requests
        ]
    assert sent == [
        ("POST", 0, None),
        ("PATCH", 100, "0-99"),
        ("PATCH", 100, "100-199"),
        ("PUT", 50, "200-249"),
    ]


def test_upload_default_chunk_is_what_every_registry_takes():
    with serving() as (_, registry):
        upload = registry.upload(R)
        assert upload.chunk_size == SMALL_CHUNK_BYTES
        upload.cancel()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"OCI-Chunk-Min-Length": "500"}, 500),
        ({"OCI-Chunk-Max-Length": "50"}, 50),
        ({"OCI-Chunk-Min-Length": "500", "OCI-Chunk-Max-Length": "50"}, 500),
        ({"OCI-Chunk-Min-Length": "0", "OCI-Chunk-Max-Length": "0"}, 100),
        ({"OCI-Chunk-Min-Length": "-5", "OCI-Chunk-Max-Length": "many"}, 100),
        ({"OCI-Chunk-Min-Length": "9" * 30}, MAX_MIN_CHUNK_BYTES),
    ],
)
def test_upload_chunk_size_keeps_to_the_registrys_limits(headers, expected):
    with ScriptedServer(Reply(202, headers={"Location": "/u", **headers})) as server:
        with client(server.host) as registry:
            assert registry.upload(R, chunk_size=100).chunk_size == expected


@pytest.mark.parametrize("quirks", [OCI, DISTRIBUTION, OLAREG])
@pytest.mark.parametrize(
    "fault",
    [
        Fault.drop_before(),
        Fault.drop_after(),
        Fault.cut_request(40),
        Fault.answer(500),
        Fault.unavailable(),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_upload_goes_on_from_where_the_registry_is(quirks, fault):
    data = content(350)
    with serving(quirks) as (server, registry):
        server.fail_when(is_patch, fault, after=1)
        upload = registry.upload(R, chunk_size=100)
        upload.write(data)
        upload.commit(digest_of(data))
        assert server.repository(R).blobs[digest_of(data)].data == data
        assert server.count("GET", UPLOADS) == 1


def test_upload_lost_answer_to_the_closing_request_is_looked_for_first():
    data = content(50)
    with serving() as (server, registry):
        server.fail_when(is_put, Fault.drop_after())
        upload = registry.upload(R)
        upload.write(data)
        assert upload.commit(digest_of(data)).size == 50
        assert server.count("PUT") == 1
        assert server.count("HEAD") == 1


def test_upload_closing_request_that_did_not_arrive_is_sent_again():
    data = content(50)
    with serving() as (server, registry):
        server.fail_when(is_put, Fault.drop_before())
        upload = registry.upload(R)
        upload.write(data)
        upload.commit(digest_of(data))
        assert server.repository(R).blobs[digest_of(data)].data == data
        assert [r.method for r in server.requests] == ["POST", "PUT", "HEAD", "GET", "PUT"]


def test_upload_closing_request_that_arrived_in_part_goes_on_behind_it():
    data = content(50)
    with serving(DISTRIBUTION) as (server, registry):
        server.fail_when(is_put, Fault.cut_request(20))
        upload = registry.upload(R)
        upload.write(data)
        upload.commit(digest_of(data))
        assert server.repository(R).blobs[digest_of(data)].data == data


def test_upload_that_cannot_be_asked_for_is_an_error_the_caller_can_begin_again_after():
    for quirks, expected in (
        (GGCR, Unsupported),
        (ZOT, UploadUnknown),
        (DOCKER_REGISTRY_2_8, UploadUnknown),
    ):
        with serving(quirks) as (server, registry):
            server.fail_when(is_patch, Fault.cut_request(40))
            upload = registry.upload(R, chunk_size=100)
            with pytest.raises(expected):
                upload.write(content(350))


def test_upload_gives_up_with_the_policy():
    with serving(retry=RetryPolicy.none()) as (server, registry):
        server.fail_when(is_patch, Fault.drop_before())
        upload = registry.upload(R, chunk_size=10)
        with pytest.raises(NetworkError):
            upload.write(content(50))


def test_upload_another_offset_at_the_registry_is_refused():
    with serving() as (_, registry):
        first = registry.upload(R, chunk_size=100)
        first.write(content(250))
        second = registry.resume_upload(R, first.id, offset=100, chunk_size=100)
        with pytest.raises(RangeInvalid):
            second.write(content(150))


def test_upload_that_holds_more_than_was_sent_is_refused():
    replies = [
        Reply(202, headers={"Location": "/u"}),
        Reply(202, headers={"Location": "/u", "Range": "0-500"}),
    ]
    with ScriptedServer(*replies) as server, client(server.host) as registry:
        upload = registry.upload(R, chunk_size=100)
        with pytest.raises(RangeInvalid, match="holds 501 bytes; 0 to 100 expected"):
            upload.write(content(101))


def test_upload_registry_without_range_is_taken_at_its_word():
    with serving(replace(OCI, range_header=False)) as (server, registry):
        upload = registry.upload(R, chunk_size=100)
        upload.write(content(250))
        upload.commit(digest_of(content(250)))
        assert server.repository(R).blobs[digest_of(content(250))].data == content(250)


@pytest.mark.parametrize("quirks", [OCI, DISTRIBUTION, ZOT, OLAREG])
@pytest.mark.parametrize("first", [0, 1, 2, 150])
def test_resume_upload_asks_where_it_is(quirks, first):
    data = content(400)
    with serving(quirks) as (server, registry):
        upload = registry.upload(R, chunk_size=1000)
        upload.write(data[:first])
        upload.close()
        upload.close()
        again = registry.resume_upload(R, upload.id, chunk_size=100)
        # one byte and none look the same
        assert again.size == (0 if first == 1 else first)
        again.write(data[again.size :])
        again.commit(digest_of(data))
        assert server.repository(R).blobs[digest_of(data)].data == data


def test_resume_upload_of_one_byte_goes_right_in_the_closing_request_too():
    data = content(30)
    with serving(DISTRIBUTION) as (server, registry):
        upload = registry.upload(R)
        upload.write(data[:1])
        upload.close()
        again = registry.resume_upload(R, upload.id)
        again.write(data)
        again.commit(digest_of(data))
        assert server.repository(R).blobs[digest_of(data)].data == data
        assert server.count("PUT") == 2


def test_resume_upload_of_no_byte_goes_right_in_the_closing_request_too():
    data = content(30)
    with serving(DISTRIBUTION) as (server, registry):
        upload = registry.upload(R)
        again = registry.resume_upload(R, upload.id)
        again.write(data)
        again.commit(digest_of(data))
        assert server.count("PUT") == 1


def test_resume_upload_keeps_its_address_where_the_answer_has_none():
    with ScriptedServer(Reply(204, headers={"Range": "0-9"})) as server:
        with client(server.host) as registry:
            again = registry.resume_upload(R, f"{server.url}/u?x")
            assert (again.id, again.size) == (f"{server.url}/u?x", 10)


def test_upload_commit_of_other_content_is_refused():
    with serving() as (_, registry):
        upload = registry.upload(R)
        upload.write(b"abc")
        with pytest.raises(DigestInvalid):
            upload.commit(digest_of(b"other"))


def test_resume_upload_at_a_known_offset_asks_nothing():
    with serving() as (server, registry):
        upload = registry.upload(R)
        upload.write(content(10))
        upload.close()
        server.forget_requests()
        again = registry.resume_upload(R, upload.id, offset=10)
        assert server.count() == 0
        again.write(b"x")
        again.commit(digest_of(content(10) + b"x"))


@pytest.mark.parametrize("session", ["", "x", "/v2/u", "ftp://h/u", "https:///u"])
def test_resume_upload_takes_addresses_only(session):
    with serving() as (_, registry), pytest.raises(ValueError, match="not the id"):
        registry.resume_upload(R, session)


def test_resume_upload_refuses_a_negative_offset():
    with serving() as (server, registry), pytest.raises(ValueError, match="offset: -1"):
        registry.resume_upload(R, f"{server.url}/u", offset=-1)


def test_resume_upload_says_what_a_registry_cannot():
    for quirks, expected in ((GGCR, Unsupported), (OCI, UploadUnknown)):
        with serving(quirks) as (server, registry), pytest.raises(expected):
            registry.resume_upload(R, f"{server.url}/v2/{R}/blobs/uploads/nothing")


@pytest.mark.parametrize("status", [401, 500])
def test_resume_upload_other_refusals_are_what_they_are(status):
    with (
        ScriptedServer(Reply(status)) as server,
        client(server.host, retry=RetryPolicy.none()) as registry,
        pytest.raises(RegistryError) as caught,
    ):
        registry.resume_upload(R, f"{server.url}/u")
    assert caught.value.status == status


@pytest.mark.parametrize("quirks", [OCI, GGCR, OCIMEM])
def test_upload_cancel_never_fails(quirks):
    with serving(quirks) as (server, registry):
        upload = registry.upload(R)
        upload.write(b"x")
        upload.cancel()
        upload.cancel()
        assert server.count("DELETE") == 1
        with pytest.raises(ValueError, match="closed"):
            upload.write(b"y")
        with pytest.raises(ValueError, match="closed"):
            upload.commit(digest_of(b"x"))


def test_upload_cancel_of_a_session_whose_registry_is_gone_never_fails():
    with serving() as (server, registry):
        upload = registry.upload(R)
        server.close()
        upload.cancel()


def test_upload_commit_wants_a_digest():
    with serving() as (_, registry):
        upload = registry.upload(R)
        with pytest.raises(ProtocolError):
            upload.commit("")
        upload.cancel()


def test_upload_refuses_a_negative_chunk_size():
    with serving() as (_, registry), pytest.raises(ValueError, match="chunk_size"):
        registry.upload(R, chunk_size=-1)


def test_upload_without_an_address_is_refused():
    with (
        ScriptedServer(Reply(202)) as server,
        client(server.host) as registry,
        pytest.raises(BadAnswer, match="no Location"),
    ):
        registry.upload(R)
