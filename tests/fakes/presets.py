"""The behaviour of named registries: a frozen set of quirks for each, with its source.

Six were measured: `tests/real/test_probe.py` compares the fake with the programs. The others are
based on public reports, which may be outdated; dockercomms itself has no rules by host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tests.fakes.registry_quirks import Quirks

OCI = Quirks()
"""The registry that the specification describes."""

DISTRIBUTION = Quirks(
    monolithic_post=False,
    stale_location=416,
    wrong_digest="goes-on",
    bad_tag="404-text",
    absolute_location=True,
    manifest_etag=True,
    subject_header=False,
    put_tags="ignored",
    tags_link="always",
    referrers=False,
    unknown_repository_code="MANIFEST_UNKNOWN",
    unknown_repository_tags_last=200,
)
"""distribution v3.1.2 with delete enabled."""

DOCKER_REGISTRY_2_8 = Quirks(
    monolithic_post=False,
    patch_gap="append",
    put_range="ignore",
    empty_put_range="ignore",
    stale_location=404,
    stale_location_status=False,
    wrong_digest="goes-on",
    range_behind="lie",
    bad_tag="404-text",
    absolute_location=True,
    manifest_etag=True,
    subject_header=False,
    put_tags="ignored",
    tag_delete=400,
    tags_sorted=False,
    tags_n="ignored",
    tags_last="ignored",
    tags_link="never",
    referrers=False,
    unknown_repository_code="MANIFEST_UNKNOWN",
)
"""Debian's docker-registry 2.8.2."""

ZOT = Quirks(
    broken_patch="drop-session",
    mount="refuse",
    blob_delete=405,
    manifest_limit_status=413,
    layers_null=False,
    moved_tag_drops_manifest=True,
    tags_last="must-exist",
)
"""zot (minimal)."""

OLAREG = Quirks(
    range_on_416=True,
    stale_location=400,
    empty_put_range="ignore",
    empty_range="0--1",
    mount_without_from=201,
    put_tags_header=False,
    deleted_subject_drops_referrers=True,
    manifest_limit_bytes=8 * 2**20,
    tags_n_zero="drop",
    blob_delete=405,
)
"""olareg, asked one request at a time."""

OLAREG_BUSY = replace(OLAREG, referrers_lose_every=3)
"""olareg under concurrent pushes: there any may be lost, here it is every third."""

GGCR = Quirks(
    patch_without_range="first-only",
    upload_status=400,
    upload_sessions_known=False,
    cancel_upload=400,
    put_range="ignore",
    empty_put_range="ignore",
    wrong_digest="goes-on",
    mount="refuse",
    range_get="closed-only",
    global_blobs=True,
    manifest_limit_bytes=None,
    subject_header=False,
    put_tags="ignored",
    put_digest_checked=False,
    missing_blob=201,
    missing_child=404,
    tag_limit=None,
    delete_keeps_tags="yes",
    errors_as_text=True,
    tags_past_end="whole",
    tags_link="never",
    referrers_unknown_repository=404,
    referrers_filter=False,
    referrers_artifact_type="config",
    referrers_unsupported="json-404",
)
"""go-containerregistry 0.22.1 `pkg/registry` with referrers."""

OCIMEM = Quirks(
    min_chunk_bytes=8192,
    cancel_upload=405,
    patch_without_range="at-zero",
    first_byte_range=False,
    empty_put_range="ignore",
    put_gap=500,
    wrong_digest="spoils",
    range_behind="empty",
    bad_tag="404-json",
    delete_keeps_tags="head",
    tags_n_zero="default",
    mount_missing=404,
    manifest_limit_bytes=None,
    put_tags="ignored",
    missing_blob=500,
    missing_child=500,
    tags_past_end="null",
    referrers_unknown_repository=404,
    referrers_empty_null=True,
    unknown_repository_blob_code="NAME_UNKNOWN",
)
"""cuelabs `ociserver` over `ocimem`."""

GHCR = Quirks(
    monolithic_post=False,
    max_chunk_bytes=4 * 2**20,
    subject_header=False,
    put_tags="ignored",
    manifest_delete=405,
    tag_delete=405,
    blob_delete=405,
    tags_default_page=100,
    referrers=False,
    referrers_unsupported="html-303",
    redirect_blobs=True,
    reads_refused_bodies=True,
)

HUB = Quirks(
    monolithic_post=False,
    put_tags="ignored",
    subject_header=False,
    referrers=False,
    delete_refuses_tagged=True,
    tag_delete=405,
    blob_delete=405,
    redirect_blobs=True,
    reads_refused_bodies=True,
)

ECR = Quirks(
    push_makes_repository="404",
    range_stuck=True,
    manifest_delete=404,
    tag_delete=404,
    blob_delete=404,
    put_tags="ignored",
    tags_sorted=False,
    tags_default_page=100,
    tags_n_max=1000,
    tags_n_max_status=405,
    tags_last="opaque-405",
    tags_link_absolute=True,
    redirect_blobs=True,
)

GAR = Quirks(
    referrers=False,
    referrers_unsupported="html-303",
    subject_header=False,
    put_tags="ignored",
    delete_refuses_tagged=True,
    redirect_blobs=True,
    redirect_relative=True,
)

ACR = Quirks(tag_delete=405, redirect_blobs=True, busy_every=9, busy_seconds=2)

QUAY = Quirks(
    tags_n_max=100,
    referrers_lag_seconds=60.0,
    put_tags="ignored",
    redirect_blobs=True,
    reads_refused_bodies=True,
)

GITLAB = Quirks(
    manifest_types="known-400",
    dash_digests=True,
    put_tags="ignored",
    referrers=False,
    subject_header=False,
    redirect_blobs=True,
)

ARTIFACTORY = Quirks(put_takes_content=False, put_tags="ignored", redirect_blobs=True)

HARBOR_2_7 = Quirks(
    push_makes_repository="404", referrers=False, subject_header=False, put_tags="ignored"
)

HARBOR_2_12 = Quirks(
    push_makes_repository="404", put_tags="ignored", referrers_unknown_repository=404
)

NEXUS = Quirks(
    auth_word="BASIC", referrers=False, subject_header=False, put_tags="ignored", tag_delete=405
)

K8S = Quirks(read_only=True, redirect_lists=True, redirect_blobs=True)


@dataclass(frozen=True, slots=True)
class Preset:
    """A registry by the name that docs/registries.md gives it."""

    name: str
    quirks: Quirks
    sources: tuple[str, ...] = ()
    """Public reports; empty for measured registries."""
    sign_in: Literal["none", "basic", "token", "identity token"] = "none"
    guessed: str = ""
    """The behaviour that the sources leave open, if that is most of it."""


MEASURED = {
    "distribution": Preset("distribution 3.1.2", DISTRIBUTION),
    "docker-registry-2.8": Preset("docker-registry 2.8.2", DOCKER_REGISTRY_2_8),
    "zot": Preset("zot", ZOT),
    "olareg": Preset("olareg", OLAREG),
    "ggcr": Preset("go-containerregistry", GGCR),
    "ocimem": Preset("ocimem", OCIMEM),
}

REPORTED = {
    "ghcr": Preset(
        "GHCR",
        GHCR,
        (
            "https://github.com/wasmCloud/wash-archive/issues/268",
            "https://github.com/ocx-sh/ocx/pull/237",
            "https://github.com/podman-container-tools/skopeo/issues/1880",
        ),
        sign_in="token",
    ),
    "hub": Preset(
        "Docker Hub",
        HUB,
        (
            "https://github.com/docker/roadmap/issues/724",
            "https://github.com/docker/docs/pull/24078",
            "https://github.com/docker/hub-feedback/issues/1759",
        ),
        sign_in="token",
    ),
    "ecr": Preset(
        "ECR",
        ECR,
        (
            "https://github.com/google/go-containerregistry/issues/681",
            "https://github.com/deitch/docker_registry2/issues/34",
            "https://github.com/plexsystems/sinker/issues/55",
            "https://github.com/aws/containers-roadmap/issues/2831",
        ),
        sign_in="basic",
    ),
    "ecr-public": Preset(
        "ECR Public",
        replace(ECR, tags_sorted=True, tags_default_page=1000),
        (
            "https://github.com/CodesWhat/drydock/pull/927",
            "https://github.com/aws/containers-roadmap/issues/1262",
        ),
        sign_in="token",
    ),
    "ecr-typed": Preset(
        "ECR, a type beside a subject refused",
        replace(ECR, manifest_types="no-typed-subject-405"),
        ("https://github.com/sigstore/sigstore-js/issues/1058",),
        sign_in="basic",
    ),
    "gar": Preset(
        "Google Artifact Registry",
        GAR,
        (
            "https://github.com/awslabs/soci-snapshotter/pull/512",
            "https://github.com/sonatype/nexus-public/issues/1061",
            "https://github.com/GoogleCloudPlatform/gcr-cleaner/issues/113",
        ),
        sign_in="token",
    ),
    "acr": Preset(
        "Azure Container Registry",
        ACR,
        (
            "https://github.com/MicrosoftDocs/azure-management-docs/pull/35",
            "https://github.com/Azure/azure-sdk-for-net/issues/22827",
            "https://github.com/Azure/azure-cli/issues/24886",
        ),
        sign_in="identity token",
    ),
    "quay": Preset(
        "Quay",
        replace(QUAY, busy_every=11),
        (
            "https://github.com/google/go-containerregistry/issues/1963",
            "https://github.com/quay/quay/pull/2964",
        ),
        sign_in="token",
    ),
    "quay-untyped": Preset(
        "Quay, types not allowed",
        replace(QUAY, manifest_types="known-415"),
        ("https://github.com/moby/buildkit/issues/6171",),
        sign_in="token",
    ),
    "gitlab": Preset(
        "GitLab",
        GITLAB,
        (
            "https://github.com/ocx-sh/ocx/issues/480",
            "https://github.com/fluxcd/flux2/issues/3724",
            "https://github.com/moby/buildkit/issues/3610",
        ),
        sign_in="token",
    ),
    "artifactory": Preset(
        "Artifactory",
        ARTIFACTORY,
        (
            "https://github.com/docker/buildx/issues/196",
            "https://github.com/openai/tart/issues/120",
        ),
        sign_in="basic",
        guessed="referrers since 7.90, by its release notes",
    ),
    "harbor-2.7": Preset(
        "Harbor 2.7",
        HARBOR_2_7,
        ("https://github.com/goharbor/harbor/issues/17928",),
        sign_in="token",
    ),
    "harbor-2.12": Preset(
        "Harbor 2.12",
        HARBOR_2_12,
        (
            "https://github.com/goharbor/harbor/issues/18418",
            "https://github.com/goharbor/harbor/issues/18865",
        ),
        sign_in="token",
    ),
    "harbor-immutable": Preset(
        "Harbor 2.12, immutable tags",
        replace(HARBOR_2_12, immutable_tags=412),
        ("https://github.com/goharbor/harbor/issues/17332",),
        sign_in="token",
    ),
    "nexus": Preset(
        "Nexus",
        NEXUS,
        (
            "https://github.com/dotnet/sdk-container-builds/issues/527",
            "https://github.com/dragonflyoss/nydus/issues/1705",
        ),
        sign_in="basic",
        guessed="deleting",
    ),
    "digitalocean": Preset(
        "DigitalOcean",
        replace(DISTRIBUTION, redirect_blobs=True),
        ("https://github.com/docker/build-push-action/issues/586",),
        sign_in="token",
        guessed="a distribution with its storage elsewhere",
    ),
    "k8s": Preset(
        "registry.k8s.io",
        K8S,
        (
            "https://github.com/opencontainers/distribution-spec/issues/607",
            "https://github.com/kubernetes/k8s.io/pull/6984",
        ),
    ),
}

PRESETS: dict[str, Quirks] = {name: preset.quirks for name, preset in MEASURED.items()}
"""The six that were measured, by the name their answers have in the probe's data file."""
