"""Reported behaviour of registries and proxies, and our answer to it (issue links in docs)."""

from __future__ import annotations

import gzip
import io
import json
import socket
import zlib
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest

from dockercomms.errors import (
    AuthError,
    BadAnswer,
    DigestMismatch,
    LimitError,
    ManifestBlobUnknown,
    NetworkError,
    NotFoundError,
    RegistryError,
    ServerFailed,
    Unsupported,
)
from dockercomms.oci.client import Client
from dockercomms.oci.images.copy import copy_manifest
from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.oci.remote.dialing import dial
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Location
from dockercomms.oci.tag_schema import tag_schema_entries
from tests.fakes.clock import FakeClock
from tests.fakes.registry import GHCR, OCI, FakeRegistry, Fault
from tests.unit.oci.registries import MIB, R, content, described

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE_MANIFEST, "layers": []}).encode()


def pushed(registry: HTTPRegistry, data: bytes = MANIFEST, tag: str = "v1") -> Descriptor:
    return registry.push_manifest(R, data, MEDIA_TYPE_MANIFEST, tags=(tag,))


def client(server: FakeRegistry) -> HTTPRegistry:
    return HTTPRegistry(server.host, clock=FakeClock())


# --- packed in spite of `Accept-Encoding: identity` ----------------------------------------------


def test_json_that_a_proxy_packs_is_unpacked():
    with FakeRegistry(replace(OCI, pack_json=True)) as server, client(server) as registry:
        found = pushed(registry)
        assert read_all(registry.get_tag(R, "v1"), MAX_MANIFEST_BYTES)[0] == MANIFEST
        assert registry.resolve_tag(R, "v1") == found
        assert registry.resolve_manifest(R, found.digest).size == len(MANIFEST)
        assert list(registry.tags(R)) == ["v1"]
        assert list(registry.referrers(R, found.digest)) == []
        with pytest.raises(NotFoundError, match="manifest unknown"):
            registry.get_tag(R, "v2")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(MANIFEST)[:-4]),
        ("gzip", gzip.compress(MANIFEST) + b"more"),
        ("br", b"x"),
        ("gzip, gzip", gzip.compress(gzip.compress(MANIFEST))),
    ],
)
def test_packing_that_cannot_be_undone_is_a_bad_answer(coding, body):
    with FakeRegistry(OCI) as server, client(server) as registry:
        pushed(registry)
        server.faults.fail_when(
            lambda request: request.method == "GET",
            Fault.answer(200, body, Content_Encoding=coding),
        )
        with pytest.raises(BadAnswer):
            registry.get_tag(R, "v1")


def test_deflate_is_unpacked_and_a_bomb_is_not():
    with FakeRegistry(OCI) as server, client(server) as registry:
        found = pushed(registry)
        for body, fails in ((zlib.compress(MANIFEST), False), (gzip.compress(bytes(2**26)), True)):
            coding = "gzip" if fails else "deflate"
            server.faults.fail_when(
                lambda request: request.method == "GET",
                Fault.answer(200, body, Content_Encoding=coding, Content_Type=MEDIA_TYPE_MANIFEST),
            )
            if fails:
                with pytest.raises(Exception, match="larger than"):
                    registry.get_manifest(R, found.digest)
            else:
                assert registry.get_manifest(R, found.digest).descriptor == found


# --- redirects, and what is no manifest ----------------------------------------------------------


def test_manifests_and_lists_behind_a_redirect_are_read_without_our_login():
    with ExitStack() as stack:
        front, back = (stack.enter_context(FakeRegistry(OCI)) for _ in range(2))
        registry = stack.enter_context(client(front))
        found = pushed(stack.enter_context(client(back)))
        for part in ("manifests/v1", f"manifests/{found.digest}", "tags/list"):
            front.faults.fail_when(
                lambda request, part=part: request.path.endswith(part),
                Fault.answer(307, Location=f"http://{back.host}/v2/{R}/{part}"),
                times=9,
            )
        assert registry.resolve_tag(R, "v1") == found
        assert registry.get_manifest(R, found.digest).descriptor == found
        assert list(registry.tags(R)) == ["v1"]
        assert all("authorization" not in request.headers for request in back.requests)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.answer(204),
        Fault.answer(200),
        Fault.answer(200, b"<html>log in</html>", Content_Type="text/html"),
        Fault.answer(200, b"ok", Content_Type="text/plain"),
        Fault.answer(200, b"{}", Content_Type="application/json"),
        Fault.answer(202, MANIFEST, Content_Type=MEDIA_TYPE_MANIFEST),
    ],
)
def test_only_a_200_that_is_a_manifest_counts_without_a_digest_header(fault):
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(lambda _: True, fault, times=99)
        with pytest.raises(BadAnswer):
            registry.resolve_tag(R, "v1")


ANYBODY = {
    "empty": Fault.answer(200),
    "page": Fault.answer(200, b"<html>log in</html>", Content_Type="text/html"),
    "text": Fault.answer(200, b"ok", Content_Type="text/plain"),
    "json": Fault.answer(200, b'{"status":"ok"}', Content_Type="application/json"),
}
"""Answers that a web server may give to every request."""


@pytest.mark.parametrize("fault", ANYBODY)
def test_web_server_is_no_registry(fault):
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(lambda _: True, ANYBODY[fault], times=99)
        digest = digest_of(MANIFEST)
        asks = [
            lambda: registry.resolve_manifest(R, digest),
            lambda: registry.resolve_tag(R, "v1"),
            lambda: list(registry.tags(R)),
            lambda: list(registry.repositories()),
        ]
        if fault in {"empty", "page"}:  # else its size is all that is said of a blob
            asks.append(lambda: registry.resolve_blob(R, digest))
        for ask in asks:
            with pytest.raises((BadAnswer, DigestMismatch)):
                ask()


def test_manifest_by_digest_is_read_where_a_head_says_too_little():
    with FakeRegistry(replace(OCI, digest_header=False)) as server, client(server) as registry:
        found = pushed(registry)
        plain = Fault.answer(200, MANIFEST, Content_Type="text/plain")
        server.faults.fail_when(lambda request: request.method == "HEAD", plain)
        assert registry.resolve_manifest(R, found.digest) == found
        server.put_blob_raw(R, b"")
        assert registry.resolve_blob(R, digest_of(b"")).size == 0


@pytest.mark.parametrize(
    "fault", [ANYBODY["page"], Fault.answer(302, Location="/login?x=secret"), Fault.answer(203)]
)
def test_login_page_stores_and_deletes_nothing(fault):
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(lambda _: True, fault, times=99)
        descriptor, source = described(b"hello")
        for write in (
            lambda: pushed(registry),
            lambda: registry.push_blob(R, descriptor, source),
            lambda: registry.delete_manifest(R, digest_of(MANIFEST)),
            lambda: registry.mount_blob(R, descriptor.digest, source="a/b"),
        ):
            with pytest.raises(BadAnswer) as caught:
                write()
            assert "secret" not in str(caught.value)


def test_answer_without_a_body_that_calls_itself_html_is_taken():
    quay = Fault.answer(200, Content_Type="text/html; charset=utf-8")
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(lambda request: request.method == "PUT", quay)
        pushed(registry)


# --- tag schema, ranges, tags --------------------------------------------------------------------


def test_subject_itself_is_no_list_of_its_referrers():
    with FakeRegistry(replace(OCI, dash_digests=True, referrers=False)) as server:
        with client(server) as registry:
            child = pushed(registry)
            index = json.dumps({"schemaVersion": 2, "manifests": [child.to_json()]}).encode()
            kind = "application/vnd.oci.image.index.v1+json"
            for subject in (child, registry.push_manifest(R, index, kind, tags=("i",))):
                assert tag_schema_entries(registry, R, subject.digest) == ()
                assert list(registry.referrers(R, subject.digest)) == []


def test_empty_range_says_how_long_the_blob_is():
    with FakeRegistry(OCI) as server, client(server) as registry:
        descriptor, source = described(b"hello")
        registry.push_blob(R, descriptor, source)
        with registry.get_blob_range(R, descriptor.digest, 2, 2) as part:
            assert (part.read(), part.descriptor.size) == (b"", 5)


def test_own_digest_among_the_tags_stands_for_no_tag():
    with FakeRegistry(OCI) as server, Client(f"{server.host}/{R}") as box:
        digest = digest_of(MANIFEST)
        assert box.push_manifest(MANIFEST, MEDIA_TYPE_MANIFEST, digest).digest == digest
        assert list(server.repository(R).tags) == []
        box.push_manifest(MANIFEST, MEDIA_TYPE_MANIFEST, digest, "v1")
        assert list(server.repository(R).tags) == ["v1"]
        with pytest.raises(ValueError, match="not the digest"):
            box.push_manifest(MANIFEST, MEDIA_TYPE_MANIFEST, digest_of(b"other"))


# --- layers that only their maker gives out ------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_layout_takes_an_image_without_the_layers_that_only_their_maker_gives_out(tmp_path, kind):
    foreign = Descriptor.of(b"of its maker", kind)
    layer = Descriptor.of(b"hello", "application/vnd.oci.image.layer.v1.tar")
    config = Descriptor.of(b"{}", "application/vnd.oci.image.config.v1+json")
    data = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "config": config.to_json(),
            "layers": [foreign.to_json(), layer.to_json()],
        }
    ).encode()
    with FakeRegistry(replace(OCI, missing_blob=201)) as server, client(server) as registry:
        for blob, bytes_ in ((layer, b"hello"), (config, b"{}")):
            registry.push_blob(R, blob, lambda bytes_=bytes_: io.BytesIO(bytes_))
        pushed(registry, data)
        layout = LayoutRegistry(tmp_path / "lay", create=True)
        copied = copy_manifest(Location(registry, R, tag="v1"), Location(layout, "", tag="v1"))
    assert layout.resolve_tag("", "v1").digest == copied.digest
    with pytest.raises(ManifestBlobUnknown):
        layout.push_manifest("", data.replace(b"foreign", b"f").replace(b"nondist", b"d"), MEDIA_TYPE_MANIFEST)  # fmt: skip


# --- uploads -------------------------------------------------------------------------------------


def test_pieces_that_were_refused_are_not_tried_again():
    with FakeRegistry(GHCR) as server, client(server) as registry:
        for seed in (b"a", b"b"):
            server.forget_requests()
            descriptor, source = described(content(9 * MIB)[:-1] + seed)
            registry.push_blob(R, descriptor, source)
        assert server.count("PATCH", status=416) == 0
        assert server.count("PATCH") == 3


@pytest.mark.parametrize("limit", [3 * MIB, MIB])
def test_pieces_get_smaller_where_a_proxy_takes_no_large_request(limit):
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(
            lambda request: int(request.headers.get("content-length", "0")) > limit,
            Fault.answer(413),
            times=99,
        )
        descriptor, source = described(content(5 * MIB))
        registry.push_blob(R, descriptor, source)
        assert server.repository(R).blobs[descriptor.digest].data == content(5 * MIB)


def test_blob_that_is_too_large_in_every_way_is_a_limit_with_a_hint():
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(
            lambda request: request.method in {"PUT", "PATCH"}, Fault.answer(413), times=99
        )
        descriptor, source = described(b"hello")
        with pytest.raises(LimitError, match="413") as caught:
            registry.push_blob(R, descriptor, source)
    assert "--chunk-size" in str(caught.value.hint)


def test_range_that_does_not_grow_is_survived():
    quirks = replace(OCI, range_stuck=True, max_chunk_bytes=4 * MIB)
    with FakeRegistry(quirks) as server, client(server) as registry:
        descriptor, source = described(content(13 * MIB))
        registry.push_blob(R, descriptor, source)
        assert server.repository(R).blobs[descriptor.digest].data == content(13 * MIB)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_blob_that_is_not_taken_by_put_alone_goes_by_patch(size):
    with FakeRegistry(replace(OCI, put_takes_content=False)) as server, client(server) as registry:
        for seed in (b"a", b"b"):
            server.forget_requests()
            descriptor, source = described(content(size)[:-1] + seed)
            registry.push_blob(R, descriptor, source)
            assert descriptor.digest in server.repository(R).blobs
        assert server.count(status=404) == 0  # it is remembered


# --- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 405])
@pytest.mark.parametrize("ordered", [True, False])
def test_tags_are_listed_from_the_start_where_a_mark_is_refused(status, ordered):
    quirks = replace(OCI, tags_last="opaque-405", tags_sorted=ordered, tags_page_max=2)
    with FakeRegistry(quirks) as server, client(server) as registry:
        for number in range(5):
            pushed(registry, tag=f"v{number}")
        refused = Fault.answer(status, b'{"errors":[{"code":"UNSUPPORTED"}]}')
        server.faults.fail_when(lambda request: "last" in request.query, refused, times=9)
        assert set(registry.tags(R, start_after="v1", page_size=3)) >= {"v2", "v3", "v4"}
        assert server.count("GET", "last=") == 1


def test_list_that_is_forbidden_is_not_asked_for_often():
    with FakeRegistry(replace(OCI, tags_status=405)) as server, client(server) as registry:
        pushed(registry)
        with pytest.raises(Unsupported):
            list(registry.tags(R, start_after="a", page_size=1000))
        assert server.count("GET", "tags/list") == 3


def test_page_that_is_too_long_is_asked_for_without_a_length():
    quirks = replace(OCI, tags_n_max=1000, tags_n_max_status=405)
    with FakeRegistry(quirks) as server, client(server) as registry:
        pushed(registry)
        assert list(registry.tags(R, page_size=5000)) == ["v1"]


# --- connections, failures -----------------------------------------------------------------------


def test_refused_connection_is_tried_twice_where_nothing_ever_answered():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        clock = FakeClock()
        with HTTPRegistry(f"127.0.0.1:{taken.getsockname()[1]}", clock=clock) as registry:
            for ask in (lambda: registry.resolve_tag(R, "v1"), lambda: registry.get_tag(R, "v1")):
                clock.sleeps.clear()
                with pytest.raises(NetworkError, match=r"refused \(tried 2 times") as caught:
                    ask()
                assert not isinstance(caught.value, ServerFailed)
                assert len(clock.sleeps) == 1
                assert sum(clock.sleeps) <= 2


def test_port_that_speaks_no_http_is_tried_twice():
    clock = FakeClock()
    ssh = Fault.told(lambda connection, *_: bool(connection.send(b"SSH-2.0-x\r\n")))
    with FakeRegistry(OCI) as server, HTTPRegistry(server.host, clock=clock) as registry:
        server.faults.fail_when(lambda _: True, ssh, times=99)
        with pytest.raises(NetworkError, match=r"not HTTP \(tried 2 times"):
            registry.resolve_tag(R, "v1")
        assert sum(clock.sleeps) <= 2
        server.faults.clear()
        pushed(registry)
        server.faults.fail_when(lambda _: True, ssh, times=5)
        registry.resolve_tag(R, "v1")  # it has answered before


@pytest.mark.parametrize("status", [500, 503])
def test_registry_that_answers_with_failures_is_not_one_that_cannot_be_reached(status):
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(lambda _: True, Fault.answer(status), times=99)
        with pytest.raises(ServerFailed):
            registry.resolve_tag(R, "v1")


def test_repository_that_has_to_be_made_first_is_what_the_hint_says():
    with FakeRegistry(OCI) as server, client(server) as registry:
        body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}'
        server.faults.fail_when(lambda r: r.method == "POST", Fault.answer(404, body), times=9)
        descriptor, source = described(b"hello")
        with pytest.raises(NotFoundError) as caught:
            registry.push_blob(R, descriptor, source)
    assert "create-repository" in str(caught.value.hint)


def test_deletion_of_what_is_there_that_is_answered_404_is_unsupported():
    quirks = replace(OCI, manifest_delete=404, tag_delete=404, blob_delete=404)
    with FakeRegistry(quirks) as server, client(server) as registry:
        found = pushed(registry)
        blob = server.put_blob_raw(R, b"x")
        for delete in (
            lambda: registry.delete_manifest(R, found.digest),
            lambda: registry.delete_tag(R, "v1"),
            lambda: registry.delete_blob(R, blob),
        ):
            with pytest.raises(Unsupported):
                delete()
        server.remove_manifest(R, found.digest)
        with pytest.raises(NotFoundError):
            registry.delete_manifest(R, found.digest)


@pytest.mark.parametrize(
    ("quirks", "what"),
    [
        (replace(OCI, immutable_tags=412), "rule at the registry"),
        (replace(OCI, immutable_tags=409), "rule at the registry"),
        (replace(OCI, delete_refuses_tagged=True), "has tags"),
    ],
)
def test_refusal_by_a_rule_says_what_to_do(quirks, what):
    with FakeRegistry(quirks) as server, client(server) as registry:
        found = pushed(registry)
        delete = partial(registry.delete_manifest, R, found.digest)
        refused = partial(pushed, registry) if quirks.immutable_tags else delete
        with pytest.raises(RegistryError) as caught:
            refused()
    assert what in str(caught.value.hint)


@pytest.mark.parametrize("status", [401, 403])
def test_login_that_may_not_push_is_what_the_hint_says(status):
    with FakeRegistry(OCI) as server, client(server) as registry:
        server.faults.fail_when(lambda _: True, Fault.answer(status), times=9)
        with pytest.raises(AuthError) as caught:
            pushed(registry)
    assert "right to push" in str(caught.value.hint)


def test_upload_that_is_closed_before_it_begins_names_the_missing_repository():
    with FakeRegistry(replace(OCI, push_makes_repository="drop")) as server:
        with client(server) as registry:
            descriptor, source = described(b"hello")
            with pytest.raises(NetworkError) as caught:
                registry.push_blob(R, descriptor, source)
    assert "create-repository" in str(caught.value.hint)


def test_dial_goes_past_a_dead_address(monkeypatch):
    with ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        alive = stack.enter_context(socket.socket())
        alive.bind(("127.0.0.1", 0))
        alive.listen()
        port = alive.getsockname()[1]
        hole.bind(("127.0.0.9", port))
        hole.listen(0)
        for _ in range(8):  # a full backlog answers nothing, as a black hole does
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.9", port))
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda _, number, **more: [
                *real("127.0.0.9", number, **more), *real("127.0.0.1", number, **more)
            ],
        )  # fmt: skip
        found = stack.enter_context(dial("registry.localhost", port, 60))
        assert found.getpeername() == ("127.0.0.1", port)
        assert found.gettimeout() == 60


def test_dial_says_refused_where_all_addresses_refuse(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda _, n, **m: real("127.0.0.1", n, **m) * 2)
        with pytest.raises(ConnectionRefusedError):
            dial("registry.localhost", port, 60)
