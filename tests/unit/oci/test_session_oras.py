"""A session is an oras registry, whose inherited methods run through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dockercomms.errors import (
    BadAnswer,
)
from dockercomms.oci.retry import RetryPolicy
from dockercomms.oci.scope import Scope
from dockercomms.oci.session import Endpoint, scope_of, session_class
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry, Quirks
from tests.fakes.scripted import Reply, ScriptedServer, Seen
from tests.unit.oci.sessions import ANN, pull, session


def test_session_inherited_methods_run_through_ours():
    import oras.container  # noqa: TID251
    import oras.provider  # noqa: TID251

    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry:
        registry.put_manifest_raw("a/b", b'{"schemaVersion":2}', tag="v1")
        registry.put_blob_raw("a/b", b"content")
        with session(registry.host, credentials=ANN) as one:
            assert isinstance(one, oras.provider.Registry)
            container = oras.container.Container(f"{registry.host}/a/b")
            assert one.get_tags(container) == ["v1"]
            digest = registry.put_blob_raw("a/b", b"content")
            assert one.blob_exists({"digest": digest}, container)
            answer = one.get_blob(container, digest, stream=True)
            assert answer.content == b"content"
            assert one.do_request(f"{registry.url}/v2/a/b/manifests/none").status_code == 404
        assert registry.count(status=401) == 1


def test_session_do_request_sends_json_and_limits_bodies():
    with ScriptedServer(Reply(201), Reply(200, b"x" * (4 * 2**20 + 1))) as server:
        with session(server.host) as one:
            one.do_request(f"{server.url}/v2/a/manifests/t", "PUT", json={"a": 1}, verify=True)
            with pytest.raises(BadAnswer, match="larger than"):
                one.do_request(f"{server.url}/v2/a/manifests/t")
        assert server.requests[0].body == b'{"a":1}'


def test_session_module_makes_its_class_on_first_use():
    from dockercomms.oci import session as module

    assert module.Session is session_class()
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v2/a/b/manifests/t", Scope.pull("a/b")),
        ("HEAD", "/v2/a/b/blobs/sha256:x", Scope.pull("a/b")),
        ("GET", "/v2/a/tags/list?n=1", Scope.pull("a")),
        ("GET", "/v2/a/referrers/sha256:x", Scope.pull("a")),
        ("PUT", "/v2/a/b/manifests/t", Scope.push("a/b")),
        ("POST", "/v2/a/b/blobs/uploads/", Scope.push("a/b")),
        ("GET", "/v2/a/b/blobs/uploads/1", Scope.push("a/b")),
        ("DELETE", "/v2/a/b/blobs/uploads/1", Scope.push("a/b")),
        ("DELETE", "/v2/a/b/manifests/t", Scope.delete("a/b")),
        ("GET", "/v2/_catalog", Scope.catalog()),
        ("GET", "/v2/", Scope.catalog()),
    ],
)
def test_scope_of_is_told_by_method_and_path(method, path, scope):
    assert scope_of(method, f"https://h.example{path}") == scope


def test_session_reads_the_users_own_configuration(tmp_path):
    config = tmp_path / ".docker" / "config.json"
    config.parent.mkdir()
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry:
        config.write_text(
            f'{{"auths": {{"{registry.host}": {{"username": "ann", "password": "secret"}}}}}}'
        )
        made = session_class()(
            Endpoint(host=registry.host, env={"HOME": str(tmp_path), "PATH": os.defpath}),
            retry=RetryPolicy.none(),
            clock=FakeClock(),
        )
        assert made.send(pull("/v2/")).status == 200
        made.close()
    assert Path(config).exists()


def test_session_lowercase_challenge_and_several_headers_are_understood():
    def answer(seen: Seen) -> Reply:
        if seen.headers.get("authorization") == ANN.basic_header():
            return Reply(200)
        return Reply(401, headers={"WWW-Authenticate": 'Negotiate, basic realm="x"'})

    with ScriptedServer(rest=answer) as server, session(server.host, credentials=ANN) as one:
        assert one.send(pull()).status == 200
