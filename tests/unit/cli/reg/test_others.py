"""`reg` on what other programs write, each by the shape that its own documents give.

Those that are on this machine are run in tests/real/test_peers.py; docs/oci.md has the table.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
)
from tests.cli.harness import invoke
from tests.fakes.images import Built
from tests.fakes.tarballs import Item, make_tar
from tests.unit.cli.conftest import Box

TITLE = "org.opencontainers.image.title"
TAR = make_tar([Item("app/run", b"run me")])
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
).encode()

Layer = tuple[str, bytes, dict[str, str]]
"""Media type, content, annotations."""


def manifest(
    config: Layer,
    *layers: Layer,
    media_type: str = MEDIA_TYPE_MANIFEST,
    subject: Built | None = None,
    **fields: Any,
) -> Built:
    """Return a manifest as programs in Go write it, with spaces and in their order."""
    described = [
        Descriptor.of(data, kind, annotations=marks) for kind, data, marks in (config, *layers)
    ]
    whole = {
        "schemaVersion": 2,
        "mediaType": media_type,
        **({"artifactType": fields.pop("artifact_type")} if "artifact_type" in fields else {}),
        "config": described[0].to_json(),
        "layers": [one.to_json() for one in described[1:]],
        **({} if subject is None else {"subject": subject.descriptor.bare().to_json()}),
        **fields,
    }
    blobs = zip(described, (config[1], *(layer[1] for layer in layers)), strict=True)
    return Built(json.dumps(whole, indent=3).encode(), tuple(blobs), media_type=media_type)


def index(*entries: tuple[Built, dict[str, Any]], media_type: str = MEDIA_TYPE_INDEX) -> Built:
    listed = [{**one.descriptor.to_json(), **more} for one, more in entries]
    whole = {"schemaVersion": 2, "mediaType": media_type, "manifests": listed}
    return Built(json.dumps(whole).encode(), (), media_type=media_type)


def platform(os: str, architecture: str) -> dict[str, Any]:
    return {"platform": {"architecture": architecture, "os": os}}


@dataclass
class Case:
    """An artifact as another program writes it."""

    top: Built
    children: tuple[Built, ...] = ()
    attached: tuple[Built, ...] = ()
    """Referrers of the top one."""
    tag: str = "v1"
    files: dict[str, bytes] | None = None
    """The files that `reg get` writes; `None` for an artifact that it refuses."""
    member: str = ""
    """The path for `reg pull --file`."""
    content: bytes = b"run me"
    arguments: tuple[str, ...] = field(default=())


EMPTY: Layer = (EMPTY_CONFIG.media_type, EMPTY_CONFIG_BYTES, {})
IMAGE = manifest(
    (OCI_CONFIG, IMAGE_CONFIG, {}),
    ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(TAR, mtime=0), {}),
)


def docker_image() -> Case:
    """Source: distribution, "Image Manifest Version 2, Schema 2"."""
    image = manifest(
        ("application/vnd.docker.container.image.v1+json", IMAGE_CONFIG, {}),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress(TAR, mtime=0), {}),
        media_type="application/vnd.docker.distribution.manifest.v2+json",
    )
    listed = index(
        (image, platform("linux", "amd64")),
        media_type="application/vnd.docker.distribution.manifest.list.v2+json",
    )
    return Case(listed, (image,), member="app/run", arguments=("--platform", "linux/amd64"))


def buildkit() -> Case:
    """Source: moby/buildkit, docs/attestations/attestation-storage.md."""
    statement = json.dumps({"_type": "https://in-toto.io/Statement/v0.1", "subject": []}).encode()
    predicate = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
    attestation = manifest(
        (OCI_CONFIG, IMAGE_CONFIG.replace(b"amd64", b"unknown").replace(b"linux", b"unknown"), {}),
        ("application/vnd.in-toto+json", statement, predicate),
    )
    marks = {
        "vnd.docker.reference.digest": IMAGE.descriptor.digest,
        "vnd.docker.reference.type": "attestation-manifest",
    }
    listed = index(
        (IMAGE, platform("linux", "amd64")),
        (attestation, {"annotations": marks, **platform("unknown", "unknown")}),
    )
    return Case(
        listed, (IMAGE, attestation), member="app/run", arguments=("--platform", "linux/amd64")
    )


def podman() -> Case:
    """Source: containers/storage, docs/containers-storage-zstd-chunked.md."""
    packed = zstandard.ZstdCompressor().compress(TAR) + b"\x50\x2a\x4d\x18\x04\0\0\0skip"
    marks = {"io.github.containers.zstd-chunked.manifest-position": "1:2:3:1"}
    layer = ("application/vnd.oci.image.layer.v1.tar+zstd", packed, marks)
    image = manifest(
        (OCI_CONFIG, IMAGE_CONFIG, {}), layer, annotations={"io.buildah.version": "1.33"}
    )
    return Case(image, member="app/run")


def helm() -> Case:
    """Source: helm.sh, "Use OCI-based registries", "Helm chart manifest"."""
    chart = make_tar([Item("chart/Chart.yaml", b"name: chart")])
    made = manifest(
        ("application/vnd.cncf.helm.config.v1+json", b'{"name":"chart","version":"1.0.0"}', {}),
        ("application/vnd.cncf.helm.chart.provenance.v1.prov", b"-----BEGIN PGP", {}),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", gzip.compress(chart, mtime=0), {}),
        annotations={"org.opencontainers.image.title": "chart"},
    )
    return Case(made, tag="1.0.0_build.1", member="chart/Chart.yaml", content=b"name: chart")


def cosign_2(suffix: str) -> Callable[[], Case]:
    def case() -> Case:
        """Source: sigstore/cosign v2, specs/SIGNATURE_SPEC.md."""
        kind, marks = (
            (
                "application/vnd.dev.cosign.simplesigning.v1+json",
                {"dev.cosignproject.cosign/signature": "MEUC"},
            )
            if suffix == "sig"
            else (
                "application/vnd.dsse.envelope.v1+json",
                {"predicateType": "https://slsa.dev/provenance/v1"},
            )
        )
        made = manifest((OCI_CONFIG, IMAGE_CONFIG, {}), (kind, b'{"critical":{}}', marks))
        tag = f"{IMAGE.descriptor.digest.replace(':', '-')}.{suffix}"
        return Case(made, tag=tag)

    return case


def cosign_3() -> Case:
    """Source: sigstore/cosign, specs/BUNDLE_SPEC.md; a bundle is a referrer."""
    bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
    marks = {"dev.sigstore.bundle.content": "dsse-envelope"}
    made = manifest(
        EMPTY, (bundle, b"{}", {}), subject=IMAGE, artifact_type=bundle, annotations=marks
    )
    return Case(IMAGE, attached=(made,), member="app/run")


def in_toto() -> Case:
    """Source: in-toto/attestation, spec/v1/bundle.md; one without `artifactType`, as OCI 1.0 has it."""
    kind = "application/vnd.in-toto+json"
    new = manifest(EMPTY, (kind, b"{}", {}), subject=IMAGE, artifact_type=kind)
    old = manifest((kind, b'{"old":1}', {}), (kind, b"{}", {}), subject=IMAGE)
    return Case(IMAGE, attached=(new, old), member="app/run")


def kitops() -> Case:
    """Source: kitops.org, "ModelKit specification"."""
    prefix = "application/vnd.kitops.modelkit"
    made = manifest(
        (f"{prefix}.config.v1+json", b'{"manifestVersion":"1.0.0"}', {}),
        (f"{prefix}.model.v1.tar+gzip", gzip.compress(TAR, mtime=0), {}),
        (f"{prefix}.dataset.v1.tar", make_tar([Item("data.csv", b"1,2")]), {}),
        artifact_type=f"{prefix}.config.v1+json",
    )
    return Case(made, tag="latest", member="data.csv", content=b"1,2")


def model_pack() -> Case:
    """Source: modelpack/model-spec v0.0.7, docs/spec.md."""
    prefix, path = "application/vnd.cncf.model", "org.cncf.model.filepath"
    made = manifest(
        (f"{prefix}.config.v1+json", b'{"descriptor":{"name":"m"}}', {}),
        (
            f"{prefix}.weight.v1.raw",
            b"weights",
            {path: "model.safetensors", TITLE: "model.safetensors"},
        ),
        (f"{prefix}.weight.config.v1.tar", TAR, {path: "app/run", TITLE: "config.tar"}),
        artifact_type=f"{prefix}.manifest.v1+json",
    )
    wanted = {"model.safetensors": b"weights", "config.tar": TAR}
    return Case(made, files=wanted, member="app/run")


def oras() -> Case:
    """Source: oras-go v2, content/file; with a folder as oras 1.3 packs it."""
    site = make_tar([Item("site", type=tarfile.DIRTYPE), Item("site/index.html", b"page")])
    digest = f"sha256:{hashlib.sha256(site).hexdigest()}"
    unpack = {"io.deis.oras.content.digest": digest, "io.deis.oras.content.unpack": "true"}
    made = manifest(
        EMPTY,
        ("application/vnd.oci.image.layer.v1.tar", b"a", {TITLE: "a.txt"}),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            gzip.compress(site),
            {TITLE: "site", **unpack},
        ),
        artifact_type="application/vnd.unknown.artifact.v1",
    )
    return Case(made, files={"a.txt": b"a", "site/index.html": b"page"})


CASES = {
    "oras": oras,
    "docker": docker_image,
    "buildkit": buildkit,
    "podman": podman,
    "helm": helm,
    "cosign 2 .sig": cosign_2("sig"),
    "cosign 2 .att": cosign_2("att"),
    "cosign 3": cosign_3,
    "in-toto": in_toto,
    "kitops": kitops,
    "modelpack": model_pack,
}


def below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", CASES)
def test_reg_reads_and_carries_what_others_write(layout: Box, remote: Box, name: str) -> None:
    case = CASES[name]()
    for built in (*case.children, *case.attached):
        layout.push(built)
    layout.push(case.top, case.tag)
    layout.ok("copy", f"{layout.base}:{case.tag}", f"{remote.base}:{case.tag}", "--referrers")
    for box in (layout, remote):
        reference = f"{box.base}:{case.tag}"
        assert case.tag in box.ok("tags", box.base).stdout.splitlines()
        assert box.ok("resolve", reference).stdout.strip() == case.top.descriptor.digest
        assert box.ok("manifest", reference).raw == case.top.data
        assert box.ok("inspect", reference, *case.arguments).stdout
        for child in case.children:
            data = box.ok("manifest", f"{box.base}@{child.descriptor.digest}").raw
            assert data == child.data
        listed = box.rows("referrers", reference)
        assert {row["digest"] for row in listed} == {one.descriptor.digest for one in case.attached}
        if case.files is not None:
            box.ok("get", reference, "-o", f"got-{box.name.replace('/', '-')}")
            out = box.folder / f"got-{box.name.replace('/', '-')}"
            assert below(out) == case.files
        if case.member:
            box.ok("pull", reference, "--file", case.member, "-o", "member", *case.arguments)
            assert (box.folder / "member").read_bytes() == case.content


def test_copy_with_referrers_carries_the_tags_of_cosign_2(layout: Box, remote: Box) -> None:
    layout.push(IMAGE, "v1")
    tags = {"v1"}
    for suffix in ("sig", "att"):
        case = cosign_2(suffix)()
        layout.push(case.top, case.tag)
        tags.add(case.tag)
    layout.ok("copy", f"{layout.base}:v1", f"{remote.base}:v1")
    assert remote.tags() == ["v1"]
    done = layout.ok("copy", f"{layout.base}:v1", f"{remote.base}:v1", "--referrers")
    assert set(remote.tags()) == tags
    assert done.stderr.count("of cosign 2 too") == 2


def docker_save(folder: Path, *, version: int) -> Path:
    """Source: moby/moby, docs of `docker save`: since 25 its tar is an OCI layout, too."""
    blobs = {"blobs/sha256/" + one.digest.partition(":")[2]: data for one, data in IMAGE.blobs}
    entry = {
        **IMAGE.descriptor.to_json(),
        "annotations": {
            "io.containerd.image.name": "docker.io/library/app:v1",
            "org.opencontainers.image.ref.name": "v1",
        },
    }
    files = {
        **blobs,
        "blobs/sha256/" + IMAGE.descriptor.digest.partition(":")[2]: IMAGE.data,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        "manifest.json": b'[{"Config":"blobs/sha256/x","RepoTags":["app:v1"],"Layers":[]}]',
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "repositories": b'{"app":{"v1":"x"}}',
    }
    if version < 25:
        files = {
            "0123/layer.tar": TAR,
            "0123/VERSION": b"1.0",
            "0123.json": IMAGE_CONFIG,
            "manifest.json": files["manifest.json"],
            "repositories": files["repositories"],
        }
    path = folder / f"save-{version}.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_reg_reads_docker_save_since_25_and_names_older_ones(remote: Box) -> None:
    new = f"oci-archive:{docker_save(remote.folder, version=25)}"
    assert remote.ok("tags", new).stdout == "v1\n"
    remote.ok("copy", f"{new}:v1", f"{remote.base}:v1")
    assert remote.ok("manifest", f"{remote.base}:v1").raw == IMAGE.data
    old = invoke(["reg", "tags", f"oci-archive:{docker_save(remote.folder, version=24)}"])
    assert old.exit_code == 4
    assert "docker save" in old.stderr
    assert "skopeo copy docker-archive:" in old.stderr


@pytest.mark.parametrize(
    ("beside", "hint"),
    [("version", "skopeo copy dir:"), ("repositories", "skopeo copy docker-archive:")],
)
def test_reg_names_folders_that_are_no_layout(quiet_machine: Path, beside: str, hint: str) -> None:
    folder = quiet_machine / "other"
    folder.mkdir()
    for name in ("manifest.json", beside):
        (folder / name).write_text("{}")
    for verb in ("tags", "inspect"):
        done = invoke(["reg", verb, f"oci-layout:{folder}"])
        assert done.exit_code == 5
        assert hint in done.stderr
