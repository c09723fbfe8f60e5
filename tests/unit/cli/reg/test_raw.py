"""`reg ping` and `reg raw`."""

from __future__ import annotations

import json

import pytest

from dockercomms.cli.reg.raw import _scope
from dockercomms.errors import UsageError
from dockercomms.oci.auth.token import Scope
from tests.cli.harness import invoke
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry, Quirks
from tests.fakes.scripted import Reply, ScriptedServer
from tests.fakes.token_server import TokenServer, User
from tests.unit.cli.conftest import Box

# --- ping ----------------------------------------------------------------------------------------


def test_ping_says_that_a_registry_is_one(remote: Box, fake: FakeRegistry) -> None:
    found = remote.json("ping", fake.host)
    assert found["host"] == fake.host
    assert found["url"] == f"http://{fake.host}"
    assert found["seconds"] >= 0
    assert found["server_time"].endswith("Z")
    shown = dict(line.split("\t") for line in remote.ok("ping", fake.host).stdout.splitlines())
    assert shown["host"] == fake.host
    assert [record.target for record in fake.asked()] == ["/v2/", "/v2/"]


def test_ping_of_what_is_no_registry(quiet_machine: object) -> None:
    with ScriptedServer(rest=Reply(404, b"<html>nothing here</html>")) as server:
        assert invoke(["reg", "ping", server.host]).exit_code == 5
    html = {"Content-Type": "text/html"}
    with ScriptedServer(rest=Reply(200, b"<html>log in</html>", html)) as server:
        assert invoke(["reg", "ping", server.host]).exit_code == 4
    version = {"Docker-Distribution-Api-Version": "registry/2.0"}
    with ScriptedServer(rest=Reply(200, b"true", html | version)) as server:  # Quay
        assert invoke(["reg", "ping", server.host]).exit_code == 0
    assert invoke(["reg", "ping", "oci-layout:x"]).exit_code == 64
    words = ["reg", "ping", "127.0.0.1:1", "--retry-max-time", "1s"]
    assert invoke(words, clock=FakeClock()).exit_code == 6


# --- raw -----------------------------------------------------------------------------------------


def test_raw_writes_what_the_registry_says(remote: Box, fake: FakeRegistry) -> None:
    fake.put_manifest_raw("team/app", b"{}", tag="v1")
    result = remote.ok("raw", "get", fake.host, "/v2/team/app/tags/list")
    assert json.loads(result.raw) == {"name": "team/app", "tags": ["v1"]}
    remote.ok("raw", "GET", fake.host, "/v2/team/app/manifests/v1", "-o", "m")
    assert (remote.folder / "m").read_bytes() == b"{}"


def test_raw_can_write_the_head_too(remote: Box, fake: FakeRegistry) -> None:
    fake.put_manifest_raw("team/app", b"{}", tag="v1")
    shown = remote.ok("raw", "HEAD", fake.host, "/v2/team/app/manifests/v1", "-i").stdout
    lines = shown.splitlines()
    assert lines[0] == "HTTP 200"
    assert any(line.startswith("Docker-Content-Digest: sha256:") for line in lines)
    assert lines[-1] == ""


def test_raw_sends_fields_and_a_body(remote: Box, fake: FakeRegistry) -> None:
    path = remote.file("m", b'{"schemaVersion":2,"manifests":[]}')
    media = "application/vnd.oci.image.index.v1+json"
    for source in (str(path), "-"):
        words = ["raw", "PUT", fake.host, "/v2/team/app/manifests/v1", "--data", source]
        words += ["-H", f"Content-Type: {media}"]
        assert remote.ok(*words, stdin=path.read_bytes()).raw == b""
    assert remote.json("resolve", f"{remote.base}:v1")["media_type"] == media


def test_raw_accepts_manifests_unless_told_otherwise(remote: Box, fake: FakeRegistry) -> None:
    words = ["raw", "GET", fake.host, "/v2/"]
    remote.ok(*words)
    remote.ok(*words, "-H", "accept: text/plain", "-H", "X-own:1")
    first, second = (record.headers for record in fake.asked())
    assert first["accept"].startswith("application/vnd.oci.image.manifest.v1+json, ")
    assert first["accept"].endswith(", */*")
    assert (second["accept"], second["x-own"]) == ("text/plain", "1")


def test_raw_as_json_says_all_but_the_body(remote: Box, fake: FakeRegistry) -> None:
    fake.put_blob_raw("team/app", b"content")
    words = ["raw", "GET", fake.host, "/v2/team/app/tags/list"]
    beside = remote.ok(*words, "--json")
    record = json.loads(beside.stderr)
    assert (record["status"], record["method"], record["bytes"]) == (200, "GET", len(beside.raw))
    record = remote.json(*words, "-o", "x")
    assert record["path"] == str(remote.folder / "x")
    assert record["headers"]["Content-Type"] == "application/json"


@pytest.mark.parametrize(("path", "code"), [("/v2/team/app/manifests/none", 5), ("/elsewhere", 5)])
def test_raw_writes_a_refusal_and_is_an_error_then(
    remote: Box, fake: FakeRegistry, path: str, code: int
) -> None:
    result = remote.reg("raw", "GET", fake.host, path)
    assert result.exit_code == code
    assert result.raw
    assert "error: reg raw: not found" in result.stderr


def test_raw_follows_no_post_elsewhere(quiet_machine: object) -> None:
    away = Reply(307, headers={"Location": "http://other.example/x"})
    with ScriptedServer(rest=away) as server:
        result = invoke(["reg", "raw", "POST", server.host, "/v2/x", "-i"])
        assert result.exit_code == 0
        assert result.stdout.startswith("HTTP 307\n")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a": "\\u001b[2J\xc2\x9b"}', '{\n  "a": "\\u001b[2J\\u009b"\n}\n'),
        (b"plain \x1b[2J text\nmore\n", "plain \\x1b[2J text\nmore\n"),
        (b"\x00\x01", ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
def test_raw_on_a_terminal_shows_text_and_nothing_else(
    quiet_machine: object, body: bytes, shown: str
) -> None:
    with ScriptedServer(rest=Reply(200, body)) as server:
        result = invoke(["reg", "raw", "GET", server.host, "/v2/"], tty=True)
        assert (result.exit_code, result.stdout) == (0, shown)
        assert ("binary content" in result.stderr) is (body in (b"\x00\x01", b"\xff"))


def test_raw_shows_hostile_fields_harmless(quiet_machine: object) -> None:
    with ScriptedServer(rest=Reply(200, headers={"X-Evil": "a\x1b[2Jb"})) as server:
        shown = invoke(["reg", "raw", "GET", server.host, "/v2/", "-i"]).stdout
        assert "\x1b" not in shown
        assert r"a\x1b[2Jb" in shown


@pytest.mark.parametrize(
    "words",
    [
        ["GET /", "r.example", "/v2/"],
        ["GET", "r.example", "v2/"],
        ["GET", "r.example", "//other.example/v2/"],
        ["GET", "r.example", "https://other.example/v2/"],
        ["GET", "r.example/x", "/v2/"],
        ["GET", "oci-layout:x", "/v2/"],
        ["GET", "r.example", "/v2/", "-H", "no colon"],
        ["GET", "r.example", "/v2/", "-H", "A: b\r\nC: d"],
        ["GET", "r.example", "/v2/", "--scope", "nonsense"],
        ["POST", "r.example", "/v2/", "--data", "-", "--username", "x", "--password-stdin"],
    ],
)
def test_raw_refuses_what_cannot_be_meant(quiet_machine: object, words: list[str]) -> None:
    result = invoke(["reg", "raw", *words], stdin=b"secret")
    assert result.exit_code == 64, result.stderr


def test_raw_reads_what_there_is(remote: Box, fake: FakeRegistry) -> None:
    words = ["raw", "PUT", fake.host, "/v2/x", "--data"]
    assert remote.reg(*words, "none").exit_code == 8
    assert remote.reg(*words, "-", stdin=bytes(64 * 2**20 + 1)).exit_code == 9


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v2/", Scope()),
        ("GET", "/v2/_catalog?n=1", Scope.catalog()),
        ("GET", "/v2/a/b/tags/list", Scope.pull("a/b")),
        ("HEAD", "/v2/a/manifests/x", Scope.pull("a")),
        ("PUT", "/v2/a/manifests/x", Scope.push("a")),
        ("DELETE", "/v2/a/manifests/x", Scope.delete("a")),
        ("POST", "/v2/a/blobs/uploads/", Scope.push("a")),
        ("GET", "/v2/a/blobs/uploads/1", Scope.push("a")),
        ("DELETE", "/v2/a/blobs/uploads/1", Scope.push("a")),
    ],
)
def test_raw_asks_for_the_scope_of_its_path(method: str, path: str, expected: Scope) -> None:
    assert _scope(method, path, None) == expected


def test_raw_takes_a_scope() -> None:
    said = _scope("GET", "/v2/", "repository:a/b:pull,push registry:catalog:*")
    assert said == Scope.push("a/b") | Scope.catalog()
    with pytest.raises(UsageError):
        _scope("GET", "/v2/a b/tags/list", None)


def test_raw_and_ping_are_authorised(quiet_machine: object) -> None:
    with (
        TokenServer(users={"bot": User("right")}, service="fake") as tokens,
        FakeRegistry(
            Quirks(auth="token"),
            realm=tokens.realm,
            service=tokens.service,
            check_token=tokens.claims,
        ) as fake,
    ):
        fake.put_manifest_raw("a", b"{}", tag="v1")
        login = ["--username", "bot", "--password-stdin"]
        for words in (["ping", fake.host], ["raw", "GET", fake.host, "/v2/a/tags/list"]):
            assert invoke(["reg", *words, *login], stdin=b"right").exit_code == 0
            assert invoke(["reg", *words, *login], stdin=b"wrong").exit_code == 3
