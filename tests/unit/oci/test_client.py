"""The registry made lazily, bound to a repository, and kept in a pool."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from dockercomms.errors import ManifestUnknown, NetworkError, ProtocolError, UsageError
from dockercomms.oci import client as module
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.client import BLOB_SIZE_WORTH_HEAD, Client, ClientPool, client_for
from dockercomms.oci.interface import Registry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
)
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.clock import FakeClock
from tests.fakes.registry import DISTRIBUTION, OCI, FakeRegistry, Quirks
from tests.fakes.scripted import Reply, ScriptedServer
from tests.unit.oci.registries import R, content, described, serving


def manifest(number: int = 1, subject: Descriptor | None = None) -> bytes:
    fields = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": "application/vnd.example.thing",
        "config": EMPTY_CONFIG.to_json(),
        "layers": [EMPTY_CONFIG.to_json()],
        "annotations": {"number": str(number)},
    }
    if subject is not None:
        fields["subject"] = subject.bare().to_json()
    return canonical_json(fields)


# --- HTTPRegistry --------------------------------------------------------------------------------


def test_registry_imports_no_http_library_before_the_first_request():
    code = (
        "import sys\n"
        "from dockercomms.oci.client import HTTPRegistry, Client\n"
        "registry = HTTPRegistry('registry.example')\n"
        "Client('registry.example/a/b').close()\n"
        "assert registry.server_time() is None\n"
        "registry.tags('a/b')\n"
        "registry.close()\n"
        "heavy = {'requests', 'oras', 'urllib3', 'ssl', 'http.client'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registry_is_the_whole_interface():
    with HTTPRegistry("registry.example") as registry:
        assert isinstance(registry, Registry)


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_registry_docker_hub_has_one_name(host):
    assert HTTPRegistry(host).endpoint.host == "docker.io"
    assert HTTPRegistry(host).endpoint.base_url == "https://registry-1.docker.io"


def test_registry_options_reach_the_session():
    with ScriptedServer(Reply(503), Reply(200)) as server:
        events = []
        with HTTPRegistry(
            server.host,
            user_agent="me/2",
            debug_id="id1",
            timeout=3.0,
            auth=DockerConfig(),
            clock=FakeClock(),
            on_retry=events.append,
        ) as registry:
            registry.request("GET", "/v2/", ok=(200,)).close()
            assert registry.endpoint.timeout == 3.0
            assert registry.endpoint.debug_id == "id1: "
            assert registry.session is registry.session
        assert server.requests[0].headers["user-agent"] == "me/2"
    assert [event.attempt for event in events] == [1]


def test_registry_given_credentials_come_before_the_configuration():
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as server:
        entry = '{"username": "eve", "password": "x"}'
        text = f'{{"auths": {{"{server.host}": {entry}}}}}'
        config = DockerConfig.load({"DOCKER_AUTH_CONFIG": text})
        given = Credentials(username="ann", password="secret")
        with HTTPRegistry(server.host, auth=config, credentials=given) as registry:
            assert registry.request("GET", "/v2/", ok=(200,)).status == 200


def test_registry_transport_replaces_the_network():
    class Refusing:
        def exchange(self, method, url, *_, **__):
            raise ConnectionRefusedError(111, url)

        def close(self):
            pass

    with HTTPRegistry(
        "registry.example", transport=Refusing(), retry=RetryPolicy.none()
    ) as registry:
        with pytest.raises(NetworkError, match="connection refused"):
            registry.request("GET", "/v2/")


def test_registry_may_be_used_again_after_close():
    with serving() as (server, registry):
        server.put_manifest_raw(R, manifest(), tag="a")
        assert list(registry.tags(R)) == ["a"]
        registry.close()
        registry.close()
        assert registry.server_time() is None
        assert list(registry.tags(R)) == ["a"]


def test_registry_makes_one_session_for_all_threads():
    with serving() as (server, registry):
        server.put_manifest_raw(R, manifest(), tag="a")
        sessions, barrier = [], threading.Barrier(8)

        def work() -> None:
            barrier.wait()
            registry.resolve_tag(R, "a")
            sessions.append(registry.session)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, sessions))) == 1
        assert server.count("HEAD", status=200) == 8


# --- ClientPool ----------------------------------------------------------------------------------


def test_pool_keeps_one_registry_for_each_host():
    with ClientPool() as pool:
        first = client_for("registry.example", pool)
        assert client_for("registry.example", pool) is first
        assert pool.client_for("registry.example:5000") is not first
        hub = pool.client_for("docker.io")
        assert pool.client_for("index.docker.io") is hub


def test_pool_gives_docker_hub_its_own_policy():
    made = module._default_registry("docker.io")
    assert made._sender.retry == RetryPolicy.hub()
    assert module._default_registry("registry.example")._sender.retry == RetryPolicy.requests()


def test_pool_makes_registries_as_it_is_told_and_closes_them():
    closed = []

    class Noted(HTTPRegistry):
        def close(self) -> None:
            closed.append(self.endpoint.host)
            super().close()

    with ClientPool(lambda host: Noted(host, plain_http=True)) as pool:
        assert pool.client_for("a.example").endpoint.base_url == "http://a.example"
        pool.client_for("b.example")
    assert closed == ["a.example", "b.example"]


# --- Client --------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "http", "no referrers API"])
def bound(request):
    reference = Reference(host="registry.example", repository=R, tag="v1")
    if request.param == "memory":
        yield Client(reference, registry=MemoryRegistry())
        return
    quirks = OCI if request.param == "http" else DISTRIBUTION
    with serving(quirks) as (_, registry), Client(reference, registry=registry) as one:
        yield one


def test_client_wants_a_host():
    for text in ("team/box", "box:v1", ""):
        with pytest.raises(UsageError):
            Client(text)


def test_client_makes_a_registry_for_its_host():
    with Client("localhost:5000/team/box@sha256:" + "0" * 64, plain_http=None) as one:
        assert isinstance(one.registry, HTTPRegistry)
        assert one.registry.endpoint.base_url == "http://localhost:5000"
        assert one.repository == "team/box"


def test_client_ensures_the_empty_config(bound):
    assert bound.exists(EMPTY_CONFIG) is False
    assert bound.ensure_empty_config() == EMPTY_CONFIG
    assert bound.exists(EMPTY_CONFIG) is True
    assert bound.ensure_empty_config() == EMPTY_CONFIG
    with bound.fetch_blob(EMPTY_CONFIG) as reader:
        assert reader.read() == EMPTY_CONFIG_BYTES


def test_client_pushes_and_fetches_manifests(bound):
    bound.ensure_empty_config()
    pushed = bound.push_manifest(manifest(), MEDIA_TYPE_MANIFEST, "v1", "v2")
    assert bound.exists(pushed)
    assert not bound.exists(Descriptor.of(b"other", MEDIA_TYPE_MANIFEST))
    assert bound.resolve().digest == bound.resolve("v2").digest == pushed.digest
    assert bound.resolve(pushed.digest).size == pushed.size
    for name in (None, "v2", pushed.digest):
        with bound.fetch_manifest(name) as reader:
            assert reader.read() == manifest()
    with pytest.raises(ManifestUnknown):
        bound.resolve("none")


def test_client_names_of_digests_are_checked(bound):
    with pytest.raises(ProtocolError):
        bound.fetch_manifest("sha256:short")


def test_client_tags_what_is_there(bound):
    bound.ensure_empty_config()
    pushed = bound.push_manifest(manifest(), MEDIA_TYPE_MANIFEST, "v1")
    assert bound.tag("v1", "v2", "v3").digest == pushed.digest
    assert bound.tag(pushed.digest, "v4").digest == pushed.digest
    assert sorted(bound.tags()) == ["v1", "v2", "v3", "v4"]
    assert list(bound.tags("v2")) == ["v3", "v4"]
    assert list(bound.tags(limit=1)) == ["v1"]
    assert [tag for page in bound.pages(size=2) for tag in page.tags] == ["v1", "v2", "v3", "v4"]
    with pytest.raises(ManifestUnknown):
        bound.tag("none", "v5")


def test_client_lists_referrers(bound):
    bound.ensure_empty_config()
    subject = bound.push_manifest(manifest(), MEDIA_TYPE_MANIFEST, "v1")
    bound.push_manifest(manifest(2, subject), MEDIA_TYPE_MANIFEST, "r2")
    if bound.referrers_supported():
        assert [found.digest for found in bound.referrers(subject)] == [
            digest_of(manifest(2, subject))
        ]
        kind = "application/vnd.example.thing"
        assert len(list(bound.referrers(subject, kind))) == 1
        assert list(bound.referrers(subject, "other/kind")) == []
    else:
        assert list(bound.referrers(subject)) == []


def test_client_push_blob_looks_first_where_that_is_worth_it():
    with serving() as (server, registry):
        one = Client(Reference(host="h.example", repository=R), registry=registry)
        for size, asked in ((BLOB_SIZE_WORTH_HEAD, 0), (BLOB_SIZE_WORTH_HEAD + 1, 1)):
            descriptor, source = described(content(size))
            one.push_blob(descriptor, source)
            server.forget_requests()
            one.push_blob(descriptor, content(size))
            assert server.count("HEAD") == asked
            assert server.count("PUT") == 1 - asked
            one.push_blob(descriptor, content(size), force=True)
            assert server.count("PUT") == 2 - asked


def test_client_fetches_the_digest_of_its_reference():
    with serving() as (server, registry):
        digest = server.put_manifest_raw(R, manifest())
        reference = Reference(host="h.example", repository=R, tag="other", digest=digest)
        one = Client(reference, registry=registry)
        assert one.resolve().digest == digest
        with one.fetch_manifest() as reader:
            assert reader.read() == manifest()
