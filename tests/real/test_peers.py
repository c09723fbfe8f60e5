"""regctl, crane and oras read what we push, and we read what they push: registries and layouts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import oras.oci  # noqa: TID251 - what programs for oras-py use
import pytest

from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.images.copy import copy_manifest, push_image, push_index
from dockercomms.oci.images.ensure import fetch_bytes
from dockercomms.oci.images.inspect import get_image, inspect
from dockercomms.oci.images.pull import save_artifact
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_index,
    parse_manifest,
)
from dockercomms.oci.oras import Registry as OrasRegistry
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Location
from dockercomms.transport.unpack import unpacked_layer
from tests.cli.harness import invoke
from tests.fakes.images import SIGNATURE_TYPE, Built, artifact, image, index_of, push, push_tree
from tests.real.launch import Server, binary

HERE = "memory.example"
"""The host in references to what is in memory."""
IMAGE = image(1, architecture="amd64")
OTHER = image(2, architecture="arm64")


class Peers:
    """The three programs, with a home of their own, at one registry."""

    def __init__(self, server: Server, home: Path) -> None:
        self.host = server.host
        self._environment = {**os.environ, "HOME": str(home), "DOCKER_CONFIG": str(home)}
        self._folder = home

    def crane(self, *arguments: str) -> bytes:
        return self._run([str(binary("crane")), "--insecure", *arguments])

    def regctl(self, *arguments: str, stdin: bytes = b"") -> bytes:
        host = f"reg={self.host},tls=disabled"
        return self._run([str(binary("regctl")), "--host", host, *arguments], stdin)

    def oras(self, *arguments: str) -> bytes:
        verb, *rest = arguments
        return self._run([str(binary("oras")), verb, "--plain-http", *rest])

    def run(self, program: str, *arguments: str, **environment: str) -> bytes:
        return self._run([str(binary(program)), *arguments], **environment)

    def _run(self, arguments: list[str], stdin: bytes = b"", **environment: str) -> bytes:
        done = subprocess.run(
            arguments,
            input=stdin,
            capture_output=True,
            env={**self._environment, **environment},
            cwd=self._folder,
            timeout=120,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout!r}\n{done.stderr!r}"
        return done.stdout


@pytest.fixture
def peers(open_server: Server, tmp_path: Path) -> Peers:
    home = tmp_path / "home"
    home.mkdir()
    return Peers(open_server, home)


@pytest.fixture
def registry(open_server: Server) -> Iterator[HTTPRegistry]:
    with HTTPRegistry(open_server.host, auth=DockerConfig()) as client:
        yield client


@pytest.fixture
def repository() -> str:
    return f"peers/{uuid.uuid4().hex}"


def read(registry: Registry, repository: str, tag: str) -> tuple[bytes, Descriptor]:
    return read_all(registry.get_tag(repository, tag), MAX_MANIFEST_BYTES)


def whole_image(registry: Registry, repository: str, descriptor: Descriptor) -> Manifest:
    """Return an image's manifest, all of whose blobs were fetched and checked."""
    place = Location(registry, repository)
    data = fetch_bytes(place, descriptor, limit=MAX_MANIFEST_BYTES)
    manifest = parse_manifest(data)
    for blob in (manifest.config, *manifest.layers):
        assert len(fetch_bytes(place, blob, limit=2**20)) == blob.size
    return manifest


def tarball(folder: Path, name: str) -> Path:
    path = folder / f"{name}.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(name)
        tar.addfile(member, io.BytesIO(name.encode()))
    return path


def signed(registry: Registry, repository: str, tag: str) -> tuple[Built, Built]:
    """Push an index of two platforms and a signature of it; returns both."""
    tree = push_tree(registry, repository, (IMAGE, OTHER), tag)
    signature = artifact("signature", subject=tree.descriptor)
    push(registry, repository, signature)
    return tree, signature


# --- registries ----------------------------------------------------------------------------------


def test_peers_read_an_image_of_ours(peers: Peers, registry: HTTPRegistry, repository: str) -> None:
    memory = MemoryRegistry()
    push(memory, "x", IMAGE, "v1")
    ours = get_image(memory, Reference.parse(f"{HERE}/x:v1"))
    push_image(Location(registry, repository, tag="v1"), ours)
    name = f"{peers.host}/{repository}:v1"
    assert peers.crane("manifest", name) == IMAGE.data
    assert peers.crane("digest", name).decode().strip() == IMAGE.descriptor.digest
    peers.crane("validate", "--remote", name)
    assert peers.regctl("manifest", "get", "--format", "raw-body", name) == IMAGE.data
    assert json.loads(peers.regctl("image", "config", name))["architecture"] == "amd64"
    for blob, data in IMAGE.blobs:
        assert peers.regctl("blob", "get", f"{peers.host}/{repository}", blob.digest) == data
        assert peers.crane("blob", f"{peers.host}/{repository}@{blob.digest}") == data


def test_peers_read_an_index_of_ours(peers: Peers, registry: HTTPRegistry, repository: str) -> None:
    for child in (IMAGE, OTHER):
        push(registry, repository, child)
    index = Index(manifests=(IMAGE.entry, OTHER.entry))
    pushed = push_index(Location(registry, repository, tag="both"), index)
    name = f"{peers.host}/{repository}:both"
    assert peers.crane("manifest", name) == index.to_bytes()
    peers.crane("validate", "--remote", name)
    for child, platform in ((IMAGE, "linux/amd64"), (OTHER, "linux/arm64")):
        digest = peers.crane("digest", "--platform", platform, name).decode().strip()
        assert digest == child.descriptor.digest
        found = peers.regctl("image", "digest", "--platform", platform, name).decode().strip()
        assert found == child.descriptor.digest
    assert peers.regctl("image", "digest", name).decode().strip() == pushed.digest


def test_peers_copy_what_we_copied(peers: Peers, registry: HTTPRegistry, repository: str) -> None:
    """Ours to a registry, theirs on to another repository, and ours back."""
    memory = MemoryRegistry()
    tree = push_tree(memory, "x", (IMAGE, OTHER), "v1")
    copy_manifest(Location(memory, "x", tag="v1"), Location(registry, repository, tag="v1"))
    name = f"{peers.host}/{repository}"
    peers.crane("copy", f"{name}:v1", f"{name}/crane:v1")
    peers.regctl("image", "copy", f"{name}:v1", f"{name}/regctl:v1")
    for program in ("crane", "regctl"):
        back = MemoryRegistry()
        copied = copy_manifest(
            Location(registry, f"{repository}/{program}", tag="v1"), Location(back, "x")
        )
        assert copied == tree.descriptor
        for child in (IMAGE, OTHER):
            whole_image(back, "x", child.descriptor)


def test_peers_read_an_artifact_of_ours(
    peers: Peers, registry: HTTPRegistry, repository: str
) -> None:
    memory = MemoryRegistry()
    tree, signature = signed(memory, "x", "v1")
    copy_manifest(
        Location(memory, "x", tag="v1"),
        Location(registry, repository, tag="v1"),
        referrers=True,
    )
    name = f"{peers.host}/{repository}"
    listed = json.loads(peers.regctl("artifact", "list", "--format", "{{ json . }}", f"{name}:v1"))
    assert [entry["digest"] for entry in listed["descriptors"]] == [signature.descriptor.digest]
    content = peers.regctl("artifact", "get", f"{name}@{signature.descriptor.digest}")
    assert content == b"content of signature"
    assert peers.crane("manifest", f"{name}@{signature.descriptor.digest}") == signature.data
    assert tree.descriptor.digest in signature.data.decode()


def test_we_read_an_image_of_theirs(
    peers: Peers, registry: HTTPRegistry, repository: str, tmp_path: Path
) -> None:
    name = f"{peers.host}/{repository}"
    layer = tarball(tmp_path, "hello")
    peers.crane("append", "--oci-empty-base", "-f", str(layer), "-t", f"{name}:oci")
    peers.crane("append", "-f", str(layer), "-t", f"{name}:docker")
    for tag in ("oci", "docker"):
        data, descriptor = read(registry, repository, tag)
        assert descriptor.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        said = peers.crane("digest", f"{name}:{tag}").decode().strip()
        assert descriptor.digest == said
        manifest = whole_image(registry, repository, descriptor)
        assert len(manifest.layers) == 1
        found = inspect(registry, Reference.parse(f"{name}:{tag}"))
        assert not found.is_index
        assert found.config == manifest.config


def test_we_read_an_index_of_theirs(peers: Peers, registry: HTTPRegistry, repository: str) -> None:
    name = f"{peers.host}/{repository}"
    for tag, built in (("amd64", IMAGE), ("arm64", OTHER)):
        push(registry, repository, built, tag)
    peers.crane(
        "index", "append", "-t", f"{name}:crane", "-m", f"{name}:amd64", "-m", f"{name}:arm64"
    )
    regctl = ["index", "create", f"{name}:regctl"]
    for tag in ("amd64", "arm64"):
        regctl += ["--ref", f"{name}:{tag}"]
    peers.regctl(*regctl)
    for tag in ("crane", "regctl"):
        data, _ = read(registry, repository, tag)
        entries = {entry.digest for entry in parse_index(data).manifests}
        assert entries == {IMAGE.descriptor.digest, OTHER.descriptor.digest}
        ref = Reference.parse(f"{name}:{tag}")
        assert inspect(registry, ref).is_index
        chosen = get_image(registry, ref, platform=Platform("linux", "arm64"))
        assert chosen.descriptor.digest == OTHER.descriptor.digest
        assert chosen.labels == {"seed": "2"}


def test_we_read_an_artifact_of_theirs(
    peers: Peers, registry: HTTPRegistry, repository: str, open_server: Server
) -> None:
    name = f"{peers.host}/{repository}"
    push(registry, repository, IMAGE, "v1")
    put = ["artifact", "put", "--artifact-type", SIGNATURE_TYPE, "--annotation", "who=regctl"]
    peers.regctl(*put, f"{name}:alone", stdin=b"alone")
    peers.regctl(*put, "--subject", f"{name}:v1", stdin=b"signature")
    _, descriptor = read(registry, repository, "alone")
    manifest = whole_image(registry, repository, descriptor)
    assert (manifest.artifact_type, manifest.annotations["who"]) == (SIGNATURE_TYPE, "regctl")
    (entry,) = registry.referrers(repository, IMAGE.descriptor.digest)
    whole = whole_image(registry, repository, entry.bare())
    assert whole.subject is not None
    assert whole.subject.digest == IMAGE.descriptor.digest
    place = Location(registry, repository)
    assert fetch_bytes(place, whole.layers[0], limit=100) == b"signature"
    if open_server.preset != "ggcr":  # which says the config's media type instead
        assert entry.artifact_type == SIGNATURE_TYPE
    back = MemoryRegistry()
    copy_manifest(Location(registry, repository, tag="v1"), Location(back, "x"), referrers=True)
    (copied,) = back.referrers("x", IMAGE.descriptor.digest)
    assert (copied.digest, copied.artifact_type) == (entry.digest, SIGNATURE_TYPE)


@pytest.mark.parametrize("title", ["site", "a/site", "."])
def test_we_unpack_a_folder_of_theirs(
    peers: Peers, registry: HTTPRegistry, repository: str, tmp_path: Path, title: str
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    inner = home / title / "css"
    inner.mkdir(parents=True)
    (inner / "a.css").write_text("css")
    (inner.parent / "run").write_text("run")
    (inner.parent / "run").chmod(0o755)
    (inner / "link").symlink_to("../run")
    peers.oras("push", f"{peers.host}/{repository}:v1", f"{title}/")
    out.mkdir()
    ref = Reference.parse(f"{peers.host}/{repository}:v1")
    save_artifact(registry, ref, out, unpack=unpacked_layer)
    for path in ("css/a.css", "run", "css/link"):
        assert (out / title / path).read_bytes() == (home / title / path).read_bytes()
    assert os.access(out / title / "run", os.X_OK)
    assert (out / title / "css" / "link").is_symlink()


def test_peers_and_our_face_of_oras_read_each_others(
    peers: Peers, repository: str, tmp_path: Path
) -> None:
    home, name = tmp_path / "home", f"{peers.host}/{repository}"
    (home / "docs").mkdir()
    (home / "docs" / "a.md").write_text("a")
    (home / "tool").write_bytes(os.urandom(100_000))
    files = [str(home / "tool"), str(home / "docs")]
    with OrasRegistry(peers.host, auth=DockerConfig()) as ours:
        ours.push(f"{name}:ours", files=files, disable_path_validation=True)
        subject = oras.oci.Subject.from_manifest(ours.get_manifest(f"{name}:ours"))
        ours.push(f"{name}:more", files=files[:1], subject=subject, disable_path_validation=True)
        peers.oras("push", f"{name}:theirs", "tool", "docs/")
        peers.oras("attach", "--artifact-type", SIGNATURE_TYPE, f"{name}:theirs", "tool")
        assert {"ours", "more", "theirs"} <= set(ours.get_tags(f"{name}:ours"))
        for tag in ("ours", "theirs"):
            ours.pull(f"{name}:{tag}", outdir=str(tmp_path / tag))
            assert (tmp_path / tag / "docs" / "a.md").read_text() == "a"
            assert (tmp_path / tag / "tool").read_bytes() == (home / "tool").read_bytes()
            client = ours.client(f"{name}:{tag}")
            assert len(list(client.referrers(client.resolve()))) == 1
    peers.oras("pull", "-o", str(tmp_path / "pulled"), f"{name}:ours")
    assert (tmp_path / "pulled" / "tool").read_bytes() == (home / "tool").read_bytes()
    found = json.loads(peers.oras("discover", "--format", "json", f"{name}:ours"))
    assert len(found.get("referrers") or found["manifests"]) == 1


SIGN = ("sign", "-y", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false")


def test_reg_reads_what_skopeo_cosign_and_oras_write(
    peers: Peers, registry: HTTPRegistry, repository: str, tmp_path: Path
) -> None:
    name, home = f"{peers.host}/{repository}", tmp_path / "home"
    push(registry, repository, IMAGE, "v1")
    run = partial(peers.run, COSIGN_PASSWORD="", COSIGN_EXPERIMENTAL="0")
    run("cosign", "generate-key-pair")
    whole = f"{name}@{IMAGE.descriptor.digest}"
    run("cosign", *SIGN, "--allow-insecure-registry", "--new-bundle-format=false", whole)
    run("cosign", *SIGN, "--allow-insecure-registry", whole)
    copy = ("--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false")
    run("skopeo", *copy, "--format=v2s2", f"docker://{name}:v1", f"docker://{name}:docker")
    run("skopeo", *copy, f"docker://{name}:v1", f"oci:{home}/layout:v1")
    run("skopeo", *copy, f"docker://{name}:v1", f"oci-archive:{home}/archive.tar:v1")
    run("skopeo", *copy, f"docker://{name}:v1", f"docker-archive:{home}/old.tar:app:v1")
    signature = f"{IMAGE.descriptor.digest.replace(':', '-')}.sig"
    assert {"v1", "docker", signature} <= set(reg("tags", name).split())
    for source in (
        *(f"{name}:{tag}" for tag in ("v1", "docker", signature)),
        *(
            f"{kind}:{home}/{file}:v1"
            for kind, file in (("oci-layout", "layout"), ("oci-archive", "archive.tar"))
        ),
    ):
        reg("inspect", source)
        back = reg("copy", source, f"oci-layout:{home}/back:{source.rpartition(':')[2]}").strip()
        assert back.endswith(reg("resolve", source).strip())
    assert reg("referrers", f"{name}:v1").count("sha256:") == 1
    reg("copy", f"{name}:v1", f"oci-layout:{home}/signed:v1", "--referrers")
    assert "dev.sigstore.bundle" in reg("referrers", f"oci-layout:{home}/signed:v1")
    assert signature in reg("tags", f"oci-layout:{home}/signed")
    old = invoke(["reg", "tags", f"oci-archive:{home}/old.tar"])
    assert (old.exit_code, "docker save" in old.stderr) == (4, True)


def reg(*words: str) -> str:
    done = invoke(["reg", *words])
    assert done.exit_code == 0, f"{words}\n{done.stderr}"
    return done.stdout


# --- layouts -------------------------------------------------------------------------------------


def test_peers_read_a_layout_of_ours(
    peers: Peers, registry: HTTPRegistry, repository: str, tmp_path: Path
) -> None:
    name = f"{peers.host}/{repository}"
    for number, (built, children) in enumerate(
        ((IMAGE, ()), (index_of(IMAGE, OTHER), (IMAGE, OTHER)))
    ):
        folder = tmp_path / f"layout-{number}"
        memory = MemoryRegistry()
        for child in (*children, built):
            push(memory, "x", child, "v1")
        layout = LayoutRegistry(folder, create=True)
        copy_manifest(Location(memory, "x", tag="v1"), Location(layout, "x", tag="v1"))
        got = peers.regctl("manifest", "get", "--format", "raw-body", f"ocidir://{folder}:v1")
        assert got == built.data
        peers.regctl("image", "copy", f"ocidir://{folder}:v1", f"{name}:regctl-{number}")
        peers.crane("push", str(folder), f"{name}:crane-{number}")
        for program in ("regctl", "crane"):
            data, _ = read(registry, repository, f"{program}-{number}")
            assert data == built.data
        peers.crane("validate", "--remote", f"{name}:crane-{number}")


def test_peers_find_our_signatures_in_a_layout(
    peers: Peers, registry: HTTPRegistry, repository: str, tmp_path: Path
) -> None:
    folder = tmp_path / "layout"
    memory = MemoryRegistry()
    tree, signature = signed(memory, "x", "v1")
    copy_manifest(
        Location(memory, "x", tag="v1"),
        Location(LayoutRegistry(folder, create=True), "x", tag="v1"),
        referrers=True,
    )
    name = f"{peers.host}/{repository}:v1"
    peers.regctl("image", "copy", "--referrers", f"ocidir://{folder}:v1", name)
    (entry,) = registry.referrers(repository, tree.descriptor.digest)
    assert entry.digest == signature.descriptor.digest


def test_we_read_a_layout_of_theirs(
    peers: Peers, registry: HTTPRegistry, repository: str, tmp_path: Path
) -> None:
    tree, signature = signed(registry, repository, "v1")
    if not registry.referrers_supported(repository):
        listed = replace(signature.descriptor, artifact_type=SIGNATURE_TYPE)
        tag = tree.descriptor.digest.replace(":", "-")
        push_index(Location(registry, repository, tag=tag), Index(manifests=(listed,)))
    name = f"{peers.host}/{repository}:v1"
    peers.regctl("image", "copy", "--referrers", name, f"ocidir://{tmp_path}/regctl:v1")
    peers.crane("pull", "--format=oci", name, str(tmp_path / "crane"))
    back = MemoryRegistry()
    regctl = LayoutRegistry(tmp_path / "regctl")
    copy_manifest(Location(regctl, "x", tag="v1"), Location(back, "x", tag="v1"), referrers=True)
    assert [entry.digest for entry in back.referrers("x", tree.descriptor.digest)] == [
        signature.descriptor.digest
    ]
    crane = LayoutRegistry(tmp_path / "crane")
    copy_manifest(
        Location(crane, "x", digest=tree.descriptor.digest), Location(back, "y", tag="v1")
    )
    for copied in ("x", "y"):
        assert read(back, copied, "v1")[0] == tree.data
        for child in (IMAGE, OTHER):
            whole_image(back, copied, child.descriptor)


# --- between real registries ---------------------------------------------------------------------


def test_copy_between_real_registries_and_again(
    open_server: Server,
    registry: HTTPRegistry,
    distribution: Server,
    repository: str,
) -> None:
    """Large and small layers, from distribution to each of the others; then nothing moves."""
    built = image(7, layers=6, size=3 * 2**20)
    shown: list[tuple[int, int]] = []
    with HTTPRegistry(distribution.host, auth=DockerConfig()) as source:
        push(source, repository, built, "v1")
        places = (
            Location(source, repository, tag="v1"),
            Location(registry, f"{repository}/copy", tag="v1"),
        )
        copy_manifest(*places, progress=lambda *now: shown.append(now))
        total = sum(blob.size for blob, _ in built.blobs)
        assert shown[-1] == (total, total)
        again: list[tuple[int, int]] = []
        copy_manifest(*places, progress=lambda *now: again.append(now))
        assert again == []
    for blob, data in built.blobs:
        assert read_all(registry.get_blob(f"{repository}/copy", blob.digest), 2**23)[0] == data
    assert open_server.host == registry.endpoint.host
