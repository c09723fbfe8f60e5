"""`oci.oras.Registry`: the calls of oras-py over our client, on each kind of registry."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import oras.layout  # noqa: TID251
import oras.oci  # noqa: TID251
import oras.provider  # noqa: TID251
import pytest

import dockercomms
from dockercomms.errors import (
    BlobUnknown,
    DigestMismatch,
    DockerCommsError,
    LocalIOError,
    ManifestUnknown,
    ProtocolError,
    Unauthorized,
    UsageError,
)
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.model import ANNOTATION_TITLE, digest_of
from dockercomms.oci.oras import Registry
from tests.fakes.clock import FakeClock
from tests.fakes.registry import DISTRIBUTION, PRESETS, FakeRegistry, Fault, Quirks
from tests.fakes.tarballs import Item, make_tar, pack
from tests.fakes.token_server import TokenServer, User

BOX = "team/tool"
DIGEST = "Docker-Content-Digest"


def registry(host: str | None = None, **options: object) -> Registry:
    return Registry(host, **{"auth": DockerConfig(), "clock": FakeClock(), **options})


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with a file and a folder in it, which is the working directory."""
    folder = tmp_path / "source"
    (folder / "site" / "css").mkdir(parents=True)
    (folder / "tool.bin").write_bytes(b"\x7fELF" + bytes(100_000))
    (folder / "site" / "index.html").write_text("page")
    (folder / "site" / "css" / "a.css").write_text("css")
    monkeypatch.chdir(folder)
    return folder


def below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_push_pull_attach_and_tags_on_every_kind_of_registry(preset, files, tmp_path):
    with FakeRegistry(PRESETS[preset]) as server, registry(server.host) as one:
        assert isinstance(one, oras.provider.Registry)
        name = f"{server.host}/{BOX}:v1"
        pushed = one.push(
            target=name,
            files=["tool.bin:application/x-elf", "site"],
            manifest_annotations={"a": "b"},
        )
        assert pushed.status_code == 201
        manifest = one.get_manifest(name)
        assert [layer["annotations"][ANNOTATION_TITLE] for layer in manifest["layers"]] == [
            "tool.bin",
            "site",
        ]
        assert manifest["annotations"] == {"a": "b"}
        got = one.pull(target=name, outdir=str(tmp_path / "out"))
        assert {Path(path).name for path in got} == {"tool.bin", "site"}
        assert below(tmp_path / "out") == below(files)

        subject = oras.oci.Subject.from_manifest(manifest)
        assert subject.digest == pushed.headers[DIGEST]
        (files / "sbom.json").write_text("{}")
        attached = one.push(
            target=f"{server.host}/{BOX}:sbom", files=["sbom.json"], subject=subject
        )
        listed = one.client(name).registry.referrers(BOX, subject.digest)
        assert [entry.digest for entry in listed] == [attached.headers[DIGEST]]
        assert {"v1", "sbom"} <= set(one.get_tags(name))
        assert len(one.get_tags(container=name, N=1)) == 1


def test_push_with_tokens_to_two_repositories(files, tmp_path):
    """oras-py alone asks for one token, and fails at the second repository."""
    with (
        TokenServer(users={"ann": User("secret")}) as tokens,
        FakeRegistry(
            Quirks(auth="token"),
            realm=tokens.realm,
            service=tokens.service,
            check_token=tokens.claims,
        ) as server,
        registry(server.host, credentials=Credentials(username="ann", password="secret")) as one,
    ):
        for box in ("a/b", "c/d"):
            assert one.push(f"{box}:v1", files=["tool.bin"]).status_code == 201
            assert one.pull(f"{box}:v1", outdir=str(tmp_path / box))


def login_file(folder: Path, host: str, password: str) -> str:
    auth = base64.b64encode(f"ann:{password}".encode()).decode()
    path = folder / "auth.json"
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return str(path)


def by_login(one: Registry, host: str, folder: Path) -> None:
    assert one.login("ann", "secret", hostname=host) == {"Status": "Login Succeeded"}


def by_basic_auth(one: Registry, host: str, folder: Path) -> None:
    one.auth.set_basic_auth("ann", "secret")


def by_config_path(one: Registry, host: str, folder: Path) -> None:
    one.auth.load_configs(f"{host}/x", configs=[login_file(folder, host, "secret")])


@pytest.mark.parametrize("give", [by_login, by_basic_auth, by_config_path])
def test_every_way_of_oras_to_log_in(give, files, tmp_path):
    with (
        FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as server,
        registry(server.host) as one,
    ):
        give(one, server.host, tmp_path)
        assert one.push(f"{BOX}:v1", files=["tool.bin"]).status_code == 201
        one.logout(server.host)
        if give is not by_config_path:
            with pytest.raises(Unauthorized):
                one.get_tags(BOX)


@pytest.mark.parametrize(
    "source", ["variables", "auth-config", "docker-file", "helper", "authfile"]
)
def test_every_source_of_logins(source, files, tmp_path, monkeypatch):
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as server:
        path = login_file(tmp_path, server.host, "secret")
        if source == "variables":
            monkeypatch.setenv("DOCKERCOMMS_USERNAME", "ann")
            monkeypatch.setenv("DOCKERCOMMS_PASSWORD", "secret")
        elif source == "auth-config":
            monkeypatch.setenv("DOCKER_AUTH_CONFIG", Path(path).read_text())
        elif source == "docker-file":
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
            Path(path).rename(tmp_path / "config.json")
        elif source == "authfile":
            monkeypatch.setenv("REGISTRY_AUTH_FILE", path)
        else:
            program = tmp_path / "docker-credential-test"
            program.write_text('#!/bin/sh\necho \'{"Username":"ann","Secret":"secret"}\'\n')
            program.chmod(0o755)
            monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
            (tmp_path / "config.json").write_text('{"credsStore": "test"}')
        with Registry(server.host, clock=FakeClock()) as one:
            assert one.push(f"{BOX}:v1", files=["tool.bin"]).status_code == 201


def test_a_login_goes_to_its_own_registry_alone(files, monkeypatch):
    monkeypatch.setenv("DOCKERCOMMS_USERNAME", "ann")
    monkeypatch.setenv("DOCKERCOMMS_PASSWORD", "secret")
    basic = Quirks(auth="basic")
    users = {"ann": "secret"}
    with FakeRegistry(basic, users=users) as own, FakeRegistry(basic, users=users) as other:
        with registry(own.host) as one:
            one.push(f"{BOX}:v1", files=["tool.bin"])
            with pytest.raises(Unauthorized):
                one.get_tags(f"{other.host}/{BOX}")
        with registry() as one, pytest.raises(Unauthorized):
            one.get_tags(f"{own.host}/{BOX}")
        with pytest.raises(UsageError, match="missing registry"):
            registry().auth.set_basic_auth("ann", "secret")
        with pytest.raises(UsageError, match="missing registry"):
            registry(credentials=Credentials(username="ann", password="secret"))
        with registry(own.host) as one, pytest.raises(Unauthorized):
            one.login("ann", "wrong")
    assert not any("authorization" in asked.headers for asked in other.requests)


def test_uploads_and_downloads_go_on_where_they_broke_off(files, tmp_path):
    with FakeRegistry(DISTRIBUTION) as server, registry(server.host) as one:
        data = os.urandom(300_000)
        (files / "big").write_bytes(data)
        server.fail_when(lambda asked: asked.method in {"PATCH", "PUT"}, Fault.cut_request(100_000))
        one.push(f"{BOX}:v1", files=["big"])
        server.fail_when(
            lambda asked: asked.method == "GET" and "/blobs/" in asked.path, Fault.cut_body(100_000)
        )
        one.pull(f"{BOX}:v1", outdir=str(tmp_path / "out"))
        assert (tmp_path / "out" / "big").read_bytes() == data
        assert server.bytes_sent() < 1.4 * len(data)


def test_bytes_that_are_not_what_their_digest_says_are_never_kept(files, tmp_path):
    with FakeRegistry(DISTRIBUTION) as server, registry(server.host) as one:
        one.push(f"{BOX}:v1", files=["tool.bin"])
        digest = one.get_manifest(f"{BOX}:v1")["layers"][0]["digest"]
        lie = lambda asked: asked.method == "GET" and digest in asked.path  # noqa: E731
        for read in (
            lambda: one.get_blob(BOX, digest),
            lambda: b"".join(one.get_blob(BOX, digest, stream=True).iter_content(1000)),
            lambda: one.download_blob(BOX, digest, str(tmp_path / "file")),
            lambda: one.pull(f"{BOX}:v1", outdir=str(tmp_path)),
        ):
            server.fail_when(lie, Fault.wrong_body())
            with pytest.raises(DigestMismatch):
                read()
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
        assert one.get_blob(BOX, digest).content == (files / "tool.bin").read_bytes()
        with one.get_blob(BOX, digest, stream=True) as answer:
            assert len(answer.content) == int(answer.headers["Content-Length"])
        assert one.get_blob(BOX, digest, head=True).status_code == 200
        with pytest.raises(BlobUnknown):
            one.get_blob(BOX, digest_of(b"other"))


def test_layouts_of_oras_go_through_it_and_are_checked(files, tmp_path):
    with FakeRegistry(DISTRIBUTION) as server, registry(server.host) as one:
        pushed = one.push(f"{BOX}:v1", files=["tool.bin", "site"])
        name, path = f"{server.host}/{BOX}", str(tmp_path / "layout")
        made = oras.layout.NewLayoutFromRegistry(path, one, f"{name}:v1", "v1")
        made.push_to_registry(one, f"{server.host}/other:v1", "v1")
        assert one.get_manifest("other:v1") == one.get_manifest(f"{BOX}:v1")
        digest = pushed.headers[DIGEST]
        for asked in ("v1", digest):
            server.fail_when(lambda request: "/manifests/" in request.path, Fault.wrong_body())
            with pytest.raises(DigestMismatch):
                one.do_request(f"https://{server.host}/v2/{BOX}/manifests/{asked}")


def test_pull_refuses_what_oras_would_write_anywhere(tmp_path):
    tar = make_tar([Item("site/l", type=b"2", link="../../out"), Item("site/l/f", b"x")])
    with FakeRegistry(DISTRIBUTION) as server, registry(server.host) as one:
        for title, blob, kind in (
            ("site", pack(tar, "gzip"), "application/vnd.oci.image.layer.v1.tar+gzip"),
            ("../f", b"x", "text/plain"),
        ):
            (tmp_path / "blob").write_bytes(blob)
            layer = {
                **oras.oci.NewLayer(str(tmp_path / "blob"), media_type=kind),
                "annotations": {ANNOTATION_TITLE: title},
            }
            container = one.get_container(f"{BOX}:v1")
            one.upload_blob(str(tmp_path / "blob"), container, layer)
            conf = oras.oci.ManifestConfig()[0]
            (tmp_path / "conf").write_text("{}")
            one.chunked_upload(str(tmp_path / "conf"), container, conf)
            one.upload_manifest(
                {**oras.oci.NewManifest(), "config": conf, "layers": [layer]}, container
            )
            with pytest.raises(DockerCommsError):
                one.pull(f"{BOX}:v1", outdir=str(tmp_path / "in"))
        assert not list((tmp_path / "in").iterdir())


def test_options_reach_the_client_of_each_registry():
    with registry("own.example", insecure=True, tls_verify="ca.pem", timeout=5) as one:
        own, other = (one.client(f"{host}/a").registry for host in ("own.example", "other.example"))
        assert (own.endpoint.base_url, own.endpoint.timeout) == ("http://own.example", 5)
        assert (other.endpoint.base_url, other.endpoint.ca_file) == (
            "https://other.example",
            "ca.pem",
        )
    with registry(insecure=True, tls_verify=False) as one:
        endpoint = one.client("any.example/a").registry.endpoint
        assert (endpoint.base_url, endpoint.insecure) == ("http://any.example", True)


def test_names_are_read_as_references(tmp_path):
    with registry("registry.example") as one:
        assert one.get_container("team/tool").uri == "registry.example/team/tool:latest"
        assert one.get_container("localhost/a/b:v1").registry == "localhost"
        for bad in (
            "host.io/a//b",
            "host.io/a/b:bad tag!",
            "http://host.io/a",
            "host.io/a@nodigest",
        ):
            with pytest.raises(UsageError):
                one.get_container(bad)
    with registry() as one, pytest.raises(UsageError):
        one.push("team/tool:v1", files=[])


def test_what_is_not_there_or_something_else(files, tmp_path):
    with FakeRegistry(DISTRIBUTION) as server, registry(server.host) as one:
        one.push(f"{BOX}:v1", files=["tool.bin"])
        with pytest.raises(ManifestUnknown):
            one.pull(f"{BOX}:none", outdir=str(tmp_path / "x"))
        with pytest.raises(ProtocolError, match=r"expected, application/vnd.oci.image.manifest"):
            one.get_manifest(f"{BOX}:v1", ["application/vnd.oci.image.index.v1+json"])
        with pytest.raises(ProtocolError, match=r"^manifest: "):
            one.upload_manifest({"layers": 3}, one.get_container(f"{BOX}:v2"))
        one.pull(f"{BOX}:v1", outdir=str(tmp_path / "x"))
        with pytest.raises(LocalIOError):
            one.pull(f"{BOX}:v1", outdir=str(tmp_path / "x"), overwrite=False)
        assert one.delete_tag(f"{server.host}/{BOX}", "none") is False
        assert one.do_request(f"https://{server.host}/v2/{BOX}/manifests/none").status_code == 404
        assert one.do_request(f"https://{server.host}/v2/", stream=True).content in (b"", b"{}")


def test_no_stand_in_of_ours_is_ever_in_sys_modules():
    """Another thread that imports jsonschema meanwhile gets the module itself."""
    sources = Path(dockercomms.__file__).parent.rglob("*.py")
    assert not [path for path in sources if "sys.modules[" in path.read_text("utf-8")]
    code = """
import sys
from dockercomms.errors import NetworkError
from dockercomms.oci.client import Client
try:
    Client("127.0.0.1:1/a:v1").resolve()
except NetworkError:
    pass
assert not {"oras", "jsonschema"} & set(sys.modules)
from dockercomms.oci.oras import Registry
Registry("registry.example").close()
import jsonschema.exceptions, oras.provider
assert oras.provider.jsonschema is sys.modules["jsonschema"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
