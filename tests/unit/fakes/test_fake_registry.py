"""The fake registry's switches, beyond those that the probe's rows hold to the measured six."""

from __future__ import annotations

import http.client
import itertools
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.probe_client import CHUNK, Probe, digest_of
from tests.fakes.registry import (
    DOCKER_REGISTRY_2_8,
    GGCR,
    GHCR,
    PRESETS,
    FakeRegistry,
    Quirks,
    sha256,
)

Start = Callable[..., tuple[FakeRegistry, Probe]]


# Running.


def test_close_leaves_no_thread_and_frees_the_port() -> None:
    before = set(threading.enumerate())
    registry = FakeRegistry()
    with registry:
        client = Probe(registry.host)
        client.ask("GET", "/v2/")
        assert set(threading.enumerate()) - before
    client.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="not running"):
        _ = registry.host


def test_close_ends_a_request_that_hangs() -> None:
    with FakeRegistry() as registry:
        connection = http.client.HTTPConnection(registry.host, timeout=5)
        connection.putrequest("PUT", "/v2/a/manifests/t")
        connection.putheader("Content-Length", "10")
        connection.endheaders()
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()
    connection.close()


def test_content_outlives_a_restart() -> None:
    registry = FakeRegistry()
    with registry:
        digest = registry.put_blob_raw("a", b"x")
    with registry:
        client = Probe(registry.host)
        assert client.ask("GET", f"/v2/a/blobs/{digest}").body == b"x"
        client.close()


def test_drop_connections_ends_them_and_serves_on(start: Start) -> None:
    registry, client = start()
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    connection.request("GET", "/v2/")
    connection.getresponse().read()
    registry.drop_connections()
    assert connection.sock.recv(1) == b""
    connection.close()
    assert client.ask("GET", "/v2/").status == 200


def test_tls_uses_a_certificate_of_its_authority() -> None:
    with FakeRegistry(tls=True) as registry:
        assert registry.authority is not None
        assert registry.url == f"https://{registry.host}"
        context = ssl.create_default_context()
        registry.authority.configure_trust(context)
        trusting = http.client.HTTPSConnection(registry.host, context=context)
        trusting.request("GET", "/v2/")
        assert trusting.getresponse().read() == b"{}"
        trusting.close()
        doubting = http.client.HTTPSConnection(registry.host, context=ssl.create_default_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            doubting.request("GET", "/v2/")
        doubting.close()


def test_requests_are_noted_before_their_answer_arrives(start: Start) -> None:
    registry, client = start()
    client.blob("a/b", b"hello")
    posted, put = registry.requests
    assert (posted.method, posted.status, posted.request_bytes) == ("POST", 202, 0)
    assert (put.method, put.status, put.request_bytes) == ("PUT", 201, 5)
    assert put.query["digest"] == [sha256(b"hello")]
    assert put.headers["content-type"] == "application/octet-stream"
    assert registry.count("PUT", "digest=") == 1
    assert registry.count(status=202) == 1
    assert registry.asked("POST") == [posted]
    assert posted.target == "/v2/a/b/blobs/uploads/"
    assert (registry.bytes_received(), registry.bytes_sent()) == (5, 0)
    registry.forget_requests()
    assert registry.requests == []


def test_chunked_request_bodies_are_read(start: Start) -> None:
    registry, client = start()
    connection = http.client.HTTPConnection(registry.host)
    pieces = iter([b"hel", b"lo"])
    target = client.at(client.open("a"), f"digest={sha256(b'hello')}")
    connection.request("PUT", target, pieces, encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()
    assert registry.repository("a").blobs[sha256(b"hello")].data == b"hello"


def test_expected_body_is_asked_for_only_when_it_is_wanted(start: Start) -> None:
    """As Go's server: 100 when the body is read; a refusal before that ends the connection."""
    registry, client = start(Quirks(auth="basic"), users={"a": "b"})
    answer = client.ask("POST", "/v2/a/blobs/uploads/", b"x" * 10, {"Expect": "100-continue"})
    assert answer.status == 401
    assert answer.headers["connection"] == "close"
    login = {"Authorization": "Basic YTpi", "Expect": "100-continue"}
    answer = client.ask("POST", f"/v2/a/blobs/uploads/?digest={sha256(b'x')}", b"x", login)
    assert answer.status == 201
    assert registry.requests[0].request_bytes == 0


def test_large_refused_body_ends_the_connection(start: Start) -> None:
    """As Go's server: the answer comes at once, and who goes on sending is reset."""
    registry, client = start(Quirks(auth="basic"))
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    connection.putrequest("PUT", "/v2/a/manifests/t")
    connection.putheader("Content-Length", str(2**20))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (401, "close")
    answer.read()
    connection.close()
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        client.ask("PUT", "/v2/a/manifests/t", bytes(64 * 2**20))
    assert client.ask("PUT", "/v2/a/manifests/t", b"x" * 1000).headers.get("connection") is None


def test_refused_body_is_read_where_the_registry_does(start: Start) -> None:
    registry, client = start(Quirks(auth="basic", reads_refused_bodies=True))
    assert client.ask("PUT", "/v2/a/manifests/t", bytes(16 * 2**20)).status == 401
    assert registry.requests[0].request_bytes == 16 * 2**20


def test_unknown_paths_and_methods_are_refused(start: Start) -> None:
    _, client = start()
    repo = client.tagged("t")
    digest = sha256(b"{}")
    asked = {
        ("GET", "/v1/"): 404,
        ("POST", f"/v2/{repo}/manifests/t"): 405,
        ("POST", f"/v2/{repo}/blobs/{digest}"): 405,
        ("GET", f"/v2/{repo}/blobs/sha256:12"): 400,
        ("POST", f"/v2/{repo}/tags/list"): 405,
        ("GET", f"/v2/{repo}/tags/list?n=x"): 400,
        ("GET", f"/v2/{repo}/referrers/x"): 400,
        ("GET", f"/v2/{repo}/blobs/uploads/unknown"): 404,
        ("DELETE", f"/v2/{repo}/manifests/none"): 404,
        ("DELETE", f"/v2/{repo}/manifests/{sha256(b'none')}"): 404,
        ("DELETE", f"/v2/{repo}/blobs/{sha256(b'none')}"): 404,
    }
    assert {key: client.ask(*key).status for key in asked} == asked
    opened = client.at(client.open(repo))
    assert client.ask("POST", opened).status == 405
    assert client.ask("PUT", opened).status == 400


def test_contradictory_switches_are_refused() -> None:
    with pytest.raises(ValueError, match="nobody could list"):
        Quirks(tags_link="never", tags_page_max=2)
    with pytest.raises(ValueError, match="nobody could list"):
        Quirks(tags_link="never", tags_sorted=False)
    for name, quirks in PRESETS.items():
        assert isinstance(quirks, Quirks), name


# Uploads.


def test_new_repository_answers_500_so_many_times(start: Start) -> None:
    registry, client = start(Quirks(new_repository_500s=3))
    assert [client.open("new").status for _ in range(4)] == [500, 500, 500, 202]
    client.blob("new", b"x")
    assert client.open("new").status == 202
    assert registry.count(status=500) == 3


def test_chunk_limits_are_said_and_enforced(start: Start) -> None:
    quirks = Quirks(
        min_chunk_bytes=100,
        min_chunk_enforced=True,
        max_chunk_bytes=1000,
        max_chunk_header=True,
    )
    _, client = start(quirks)
    opened = client.open("a")
    assert opened.headers["oci-chunk-min-length"] == "100"
    assert opened.headers["oci-chunk-max-length"] == "1000"
    location = client.at(opened)
    sizes = (99, 1001, 100, 1000)
    starts = itertools.accumulate((0, 0, 0, 100))
    statuses = [
        client.patch(location, bytes(size), at).status
        for size, at in zip(sizes, starts, strict=True)
    ]
    assert statuses == [416, 416, 202, 202]


def test_ghcr_like_registry_takes_no_chunk_above_4_mib(start: Start) -> None:
    _, client = start(GHCR)
    location = client.at(client.open("a"))
    assert client.patch(location, bytes(4 * 2**20 + 1), 0).status == 416
    assert client.patch(location, bytes(4 * 2**20), 0).status == 202


@pytest.mark.parametrize(
    ("quirk", "status", "kept"),
    [("keep", 204, 10), ("drop-bytes", 204, 0), ("drop-session", 404, 0)],
)
def test_broken_patch_leaves(quirk: Any, status: int, kept: int, start: Start) -> None:
    registry, client = start(Quirks(broken_patch=quirk))
    location = client.at(client.open("a"))
    connection = http.client.HTTPConnection(registry.host)
    connection.putrequest("PATCH", location)
    connection.putheader("Content-Length", "20")
    connection.endheaders(b"0123456789")
    connection.sock.shutdown(1)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()
    connection.close()
    answer = client.ask("GET", location)
    assert answer.status == status
    if status == 204:
        assert answer.headers["range"] == (f"0-{kept - 1}" if kept else "0-0")
    assert registry.requests[1].status is None
    assert registry.requests[1].request_bytes == 10


def test_broken_patch_on_docker_registry_2_8_cannot_be_resumed(start: Start) -> None:
    """The Location that is known is stale by then, and even asking with it is refused."""
    registry, client = start(DOCKER_REGISTRY_2_8)
    location = client.at(client.open("a"))
    (session,) = registry.store.uploads
    registry.store.uploads[session].data += b"came in"
    assert client.ask("GET", location).status == 404
    assert client.patch(location, CHUNK, 7).status == 404


def test_session_without_range_header(start: Start) -> None:
    _, client = start(Quirks(range_header=False))
    answer = client.patch(client.at(client.open("a")), CHUNK, 0)
    assert "range" not in answer.headers


def test_content_range_must_fit_the_body(start: Start) -> None:
    _, client = start()
    location = client.at(client.open("a"))
    span = {"Content-Range": "0-99"}
    assert client.ask("PATCH", location, b"short", span).status == 400
    assert client.ask("PATCH", location, b"short", {"Content-Range": "?"}).status == 416
    put = client.at(client.open("a"), f"digest={digest_of(b'short')}")
    assert client.ask("PUT", put, b"short", span).status == 400
    assert client.ask("PUT", put, b"short", {"Content-Range": "7-11"}).status == 416


def test_unknown_session_is_opened_where_any_is_taken(start: Start) -> None:
    _, client = start(GGCR)
    assert client.patch("/v2/a/blobs/uploads/made-up", CHUNK, 0).status == 202


def test_monolithic_post_checks_the_digest(start: Start) -> None:
    _, client = start()
    target = f"/v2/a/blobs/uploads/?digest={digest_of(b'x')}"
    assert client.ask("POST", target, b"y").status == 400
    assert client.ask("POST", target, b"x").status == 201


# Blobs.


def test_redirected_blobs_come_from_another_host_that_refuses_credentials(start: Start) -> None:
    registry, client = start(Quirks(redirect_blobs=True))
    digest = client.blob("a", b"far away")
    answer = client.ask("GET", f"/v2/a/blobs/{digest}")
    assert answer.status == 307
    location = answer.headers["location"]
    assert location.startswith(f"http://{registry.storage_host}/")
    assert registry.storage_host != registry.host
    other = Probe(registry.storage_host)
    assert other.ask("GET", client.at(answer)).body == b"far away"
    part = other.ask("GET", client.at(answer), headers={"Range": "bytes=4-"})
    assert (part.status, part.body) == (206, b"away")
    refused = other.ask("GET", client.at(answer), headers={"Authorization": "Bearer x"})
    assert refused.status == 400
    assert other.ask("GET", "/storage/a?blob=x&signature=secret").status == 403
    other.close()
    assert [seen.status for seen in registry.storage_requests] == [200, 206, 400, 403]
    assert client.ask("HEAD", f"/v2/a/blobs/{digest}").status == 200


def test_registry_without_redirects_has_no_storage_host(start: Start) -> None:
    registry, _ = start()
    with pytest.raises(RuntimeError, match="does not redirect"):
        _ = registry.storage_host


@pytest.mark.parametrize(
    ("quirk", "status", "span"),
    [("ignored", 200, None), ("no-content-range", 206, None), ("full", 206, "bytes 2-3/5")],
)
def test_range_get(quirk: Any, status: int, span: str | None, start: Start) -> None:
    registry, client = start(Quirks(range_get=quirk))
    digest = registry.put_blob_raw("a", b"01234")
    answer = client.ask("GET", f"/v2/a/blobs/{digest}", headers={"Range": "bytes=2-3"})
    assert (answer.status, answer.headers.get("content-range")) == (status, span)
    assert answer.body == (b"01234" if status == 200 else b"23")


def test_malformed_range_is_refused(start: Start) -> None:
    registry, client = start()
    digest = registry.put_blob_raw("a", b"01234")
    for asked in ("bytes=-3", "bytes=4-2", "lines=0-1"):
        assert client.ask("GET", f"/v2/a/blobs/{digest}", headers={"Range": asked}).status == 416


def test_unreferenced_blobs_are_collected_after_a_while(start: Start) -> None:
    clock = FakeClock()
    _, client = start(Quirks(unreferenced_blobs_live_seconds=600), clock=clock)
    loose = client.blob("a", b"loose")
    _, manifest = client.manifest("a")
    clock.advance(599)
    assert client.ask("HEAD", f"/v2/a/blobs/{loose}").status == 200
    clock.advance(2)
    assert client.ask("HEAD", f"/v2/a/blobs/{loose}").status == 404
    assert client.ask("HEAD", f"/v2/a/blobs/{digest_of(b'{}')}").status == 200
    assert client.ask("HEAD", f"/v2/a/manifests/{manifest}").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_chunked_answers_have_no_length(method: str, start: Start) -> None:
    registry, client = start(Quirks(chunked_answers=True))
    data = bytes(200_000)
    digest = registry.put_blob_raw("a", data)
    answer = client.ask(method, f"/v2/a/blobs/{digest}")
    assert answer.body == (data if method == "GET" else b"")
    assert ("content-length" in answer.headers) == (method == "HEAD")
