from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dockercomms.errors import (
    IntegrityError,
    ManifestUnknown,
    NameUnknown,
    PlatformNotFound,
    ProtocolError,
    SizeMismatch,
)
from dockercomms.oci.content import StoredReader
from dockercomms.oci.images.select import (
    MAX_INDEX_DEPTH,
    MAX_INDEXES_READ,
    Fallback,
    get_content,
    get_reference,
    is_attestation,
    resolve_manifest,
    select,
)
from dockercomms.oci.interface import BlobReader
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    MEDIA_TYPE_ARTIFACT,
    MEDIA_TYPE_DOCKER_LIST,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    Descriptor,
    Digest,
    Index,
    Platform,
    digest_of,
)
from dockercomms.oci.reference import Reference
from tests.contract.capabilities import index_bytes, manifest_bytes, push_empty_config
from tests.fakes.static_reader import CountingRegistry, StaticReader

REF = Reference(host="registry.example", repository="team/app", tag="v1")
AMD64 = Platform("linux", "amd64")
ATTESTED = {"vnd.docker.reference.type": "attestation-manifest"}


def image(name: str, platform: str | Platform | None = None) -> Descriptor:
    """Return an entry whose annotation `n` is `name`."""
    made = Descriptor.of(name.encode(), MEDIA_TYPE_MANIFEST, annotations={"n": name})
    if isinstance(platform, str):
        platform = Platform(*platform.split("/"))
    return replace(made, platform=platform)


def chosen(entries: Sequence[Descriptor], want: str, fallback: Fallback = "none") -> str:
    found = select(Index(manifests=tuple(entries)), Platform.parse(want), fallback=fallback)
    return found.annotations["n"]


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    push_empty_config(made, REF.repository)
    return made


def push_image(registry: MemoryRegistry, name: str, platform: Platform | None) -> Descriptor:
    """Push a manifest and return its index entry."""
    pushed = registry.push_manifest(REF.repository, manifest_bytes(name), MEDIA_TYPE_MANIFEST)
    return replace(pushed, platform=platform)


def push_index(registry: MemoryRegistry, *entries: Descriptor, tag: str = "v1") -> Descriptor:
    return registry.push_manifest(
        REF.repository, index_bytes(entries), MEDIA_TYPE_INDEX, tags=(tag,)
    )


def name_of(data: bytes) -> str:
    return str(json.loads(data)["annotations"]["example.name"])


# --- select ---


@pytest.mark.parametrize(
    ("entries", "want", "expected"),
    [
        (["linux/arm64/v8"], "linux/arm64", "linux/arm64/v8"),
        (["linux/arm64/v8"], "linux/aarch64/8", "linux/arm64/v8"),
        (["linux/arm64"], "linux/arm64/v8", "linux/arm64"),
        (["linux/arm64/v9"], "linux/arm64", "linux/arm64/v9"),
        (["linux/arm64/v9", "linux/arm64"], "linux/arm64", "linux/arm64"),
        (["linux/arm/v6", "linux/arm/v5", "linux/arm/v7"], "linux/arm", "linux/arm/v7"),
        (["linux/arm/v6", "linux/arm/v5"], "linux/arm", "linux/arm/v6"),
        (["linux/arm/v6", "linux/arm"], "linux/arm/v7", "linux/arm"),
        (["linux/arm/v6", "linux/arm"], "linux/armel/v6", "linux/arm/v6"),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64/v3", "linux/amd64/v3"),
        (["linux/amd64/v3"], "linux/amd64", "linux/amd64/v3"),
        (["windows/amd64", "linux/x86_64"], "linux/amd64", "linux/x86_64"),
        (["macos/arm64"], "darwin/arm64", "macos/arm64"),
    ],
)
def test_select_takes_the_variant_that_is_meant(
    entries: list[str], want: str, expected: str
) -> None:
    assert chosen([image(entry, entry) for entry in entries], want) == expected


@pytest.mark.parametrize(
    ("entries", "want"),
    [
        (["linux/amd64"], "linux/arm64"),
        (["linux/amd64"], "windows/amd64"),
        (["linux/amd64"], "linux/amd64/v3"),
        (["linux/arm/v6"], "linux/arm/v7"),
        (["linux/arm/v7"], "linux/arm64"),
        (["linux/arm64/v9"], "linux/arm64/v8"),
        ([], "linux/amd64"),
    ],
)
def test_select_takes_nothing_else(entries: list[str], want: str) -> None:
    with pytest.raises(PlatformNotFound) as caught:
        chosen([image(entry, entry) for entry in entries], want)
    assert caught.value.exit_code == 5
    for entry in entries:
        assert entry in caught.value.message


def test_select_takes_the_first_of_equals() -> None:
    assert chosen([image("a", "linux/amd64"), image("b", "linux/amd64")], "linux/amd64") == "a"


def test_select_takes_the_version_of_windows_that_is_meant() -> None:
    entries = [
        image("old", Platform("windows", "amd64", os_version="10.0.17763.5458")),
        image("new", Platform("windows", "amd64", os_version="10.0.20348.1")),
    ]
    index = Index(manifests=tuple(entries))
    for version, expected in (("", "old"), ("10.0.20348", "new"), ("10.0.20348.1", "new")):
        want = Platform("windows", "amd64", os_version=version)
        assert select(index, want).annotations["n"] == expected
    with pytest.raises(PlatformNotFound):
        select(index, Platform("windows", "amd64", os_version="10.0.2034"))


@pytest.mark.parametrize(
    ("platforms", "fallback", "expected"),
    [
        ((None, "plan9/ppc", "windows/amd64/v2"), "none", None),
        ((None, "plan9/ppc", "windows/amd64/v2"), "architecture", "windows/amd64/v2"),
        ((None, "plan9/ppc", "windows/amd64/v2"), "first", "windows/amd64/v2"),
        ((None, "plan9/ppc"), "none", None),
        ((None, "plan9/ppc"), "architecture", None),
        ((None, "plan9/ppc"), "first", "None"),
    ],
)
def test_select_falls_back_to_the_architecture_and_to_the_first_if_asked_to(
    platforms: tuple[str | None, ...], fallback: Fallback, expected: str | None
) -> None:
    entries = [image(str(platform), platform) for platform in platforms]
    if expected is None:
        listed = ", ".join(filter(None, platforms))
        with pytest.raises(PlatformNotFound, match=f"{listed}, 1 without"):
            chosen(entries, "linux/amd64", fallback)
    else:
        assert chosen(entries, "linux/amd64", fallback) == expected


@pytest.mark.parametrize(
    "attestation",
    [
        image("att", "unknown/unknown"),
        replace(image("att", "linux/amd64"), annotations={**ATTESTED, "n": "att"}),
        replace(image("att"), annotations={**ATTESTED, "n": "att"}),
    ],
)
def test_select_never_takes_an_attestation(attestation: Descriptor) -> None:
    assert is_attestation(attestation)
    entries = [attestation, image("real", "linux/s390x")]
    assert chosen(entries, "linux/amd64", "first") == "real"
    with pytest.raises(PlatformNotFound, match="no entries"):
        chosen([attestation], "linux/amd64", "first")


def test_select_names_only_so_many_platforms() -> None:
    entries = [image(f"e{number}", f"linux/arch{number}") for number in range(50)]
    with pytest.raises(PlatformNotFound) as caught:
        chosen(entries, "linux/amd64")
    assert "linux/arch19, 30 more" in caught.value.message


# --- get ---


def test_get_reference_takes_the_digest_before_the_tag(registry: MemoryRegistry) -> None:
    first = registry.push_manifest(
        REF.repository, manifest_bytes("a"), MEDIA_TYPE_MANIFEST, tags=("v1",)
    )
    second = registry.push_manifest(
        REF.repository, manifest_bytes("b"), MEDIA_TYPE_MANIFEST, tags=("latest",)
    )
    counted = CountingRegistry(registry)
    assert get_reference(counted, REF).descriptor == first
    assert get_reference(counted, replace(REF, digest=second.digest)).descriptor == second
    assert get_reference(counted, replace(REF, tag=None)).descriptor == second
    assert counted.calls == ["get_tag", "get_manifest", "get_tag"]


def test_get_reference_of_nothing_is_not_found(registry: MemoryRegistry) -> None:
    with pytest.raises(ManifestUnknown):
        get_reference(registry, REF)
    with pytest.raises(NameUnknown):
        get_reference(registry, replace(REF, repository="other"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"mediaType": MEDIA_TYPE_DOCKER_LIST, "manifests": []}, MEDIA_TYPE_DOCKER_LIST),
        ({"manifests": []}, MEDIA_TYPE_INDEX),
        ({"config": EMPTY_CONFIG.to_json()}, MEDIA_TYPE_MANIFEST),
        ([], MEDIA_TYPE_OCTET_STREAM),
    ],
)
def test_get_reference_believes_the_manifest_where_the_store_says_nothing(
    body: object, expected: str
) -> None:
    reader = StaticReader()
    reader.add_manifest(json.dumps(body).encode(), MEDIA_TYPE_OCTET_STREAM, "v1")
    assert get_reference(reader, REF).descriptor.media_type == expected


def test_get_content_needs_no_request_for_inline_data(registry: MemoryRegistry) -> None:
    data = manifest_bytes("inline")
    counted = CountingRegistry(registry)
    descriptor = replace(Descriptor.of(data, MEDIA_TYPE_MANIFEST), data=data)
    assert get_content(counted, "nowhere", descriptor).data == data
    assert counted.calls == []
    with pytest.raises(IntegrityError):
        get_content(counted, "nowhere", replace(descriptor, data=b"other"))


def test_get_content_refuses_another_size(registry: MemoryRegistry) -> None:
    entry = push_image(registry, "a", AMD64)
    with pytest.raises(SizeMismatch):
        get_content(registry, REF.repository, replace(entry, size=entry.size + 1))


# --- resolve ---


def test_resolve_manifest_finds_the_platform(registry: MemoryRegistry) -> None:
    amd64 = push_image(registry, "amd64", AMD64)
    arm64 = push_image(registry, "arm64", Platform("linux", "arm64", "v8"))
    index = push_index(registry, amd64, arm64)
    found = resolve_manifest(
        registry, REF.repository, index, platform=Platform.parse("linux/arm64")
    )
    assert name_of(found.data) == "arm64"
    assert found.descriptor == arm64
    assert found.manifest.config == EMPTY_CONFIG


def test_resolve_manifest_takes_this_machine_by_default(registry: MemoryRegistry) -> None:
    other = push_image(registry, "other", Platform("plan9", "ppc"))
    host = push_image(registry, "host", Platform.host())
    index = push_index(registry, other, host)
    assert name_of(resolve_manifest(registry, REF.repository, index).data) == "host"


def test_resolve_manifest_holds_a_manifest_to_no_platform(registry: MemoryRegistry) -> None:
    entry = push_image(registry, "a", Platform("plan9", "ppc"))
    found = resolve_manifest(registry, REF.repository, entry, platform=AMD64)
    assert name_of(found.data) == "a"


def test_resolve_manifest_follows_indexes_with_and_without_a_platform(
    registry: MemoryRegistry,
) -> None:
    arm = push_index(registry, push_image(registry, "arm", Platform("linux", "arm", "v7")))
    amd = push_index(registry, push_image(registry, "amd", AMD64))
    index = push_index(registry, arm, replace(amd, platform=AMD64))

    def found(platform: str, fallback: Fallback = "none") -> str:
        want = Platform.parse(platform)
        resolved = resolve_manifest(
            registry, REF.repository, index, platform=want, fallback=fallback
        )
        return name_of(resolved.data)

    assert found("linux/arm") == "arm"
    assert found("linux/amd64") == "amd"
    with pytest.raises(PlatformNotFound):
        found("linux/s390x")
    assert found("linux/s390x", "first") == "arm"


def test_resolve_manifest_goes_on_after_an_entry_that_leads_nowhere(
    registry: MemoryRegistry,
) -> None:
    lying = push_index(registry, push_image(registry, "arm", Platform("linux", "arm")))
    honest = push_index(registry, push_image(registry, "amd", AMD64))
    index = push_index(registry, replace(lying, platform=AMD64), lying, honest)
    found = resolve_manifest(registry, REF.repository, index, platform=AMD64)
    assert name_of(found.data) == "amd"


def nested(registry: MemoryRegistry, depth: int) -> Descriptor:
    entry = push_image(registry, "deep", AMD64)
    for _ in range(depth):
        entry = replace(push_index(registry, entry), platform=AMD64)
    return entry


def test_resolve_manifest_follows_eight_indexes_and_no_more(registry: MemoryRegistry) -> None:
    deepest = nested(registry, MAX_INDEX_DEPTH)
    found = resolve_manifest(registry, REF.repository, deepest, platform=AMD64)
    assert name_of(found.data) == "deep"
    with pytest.raises(ProtocolError, match="indexes are nested more than 8"):
        resolve_manifest(
            registry, REF.repository, nested(registry, MAX_INDEX_DEPTH + 1), platform=AMD64
        )


def test_resolve_manifest_reads_only_so_many_indexes(registry: MemoryRegistry) -> None:
    children = [
        push_index(registry, push_image(registry, f"image {number}", Platform("plan9", "ppc")))
        for number in range(MAX_INDEXES_READ)
    ]
    index = push_index(registry, *children)
    with pytest.raises(ProtocolError, match="more than 64 indexes"):
        resolve_manifest(registry, REF.repository, index, platform=AMD64)


class Unchecked(StoredReader):
    """Proves nothing."""

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(size)


class LoopReader(StaticReader):
    """Gives every digest an index whose one entry is that digest: no honest store can."""

    def get_manifest(self, repository: str, digest: Digest) -> BlobReader:
        entry = Descriptor(media_type=MEDIA_TYPE_INDEX, digest=digest, size=1, platform=AMD64)
        return Unchecked(io.BytesIO(index_bytes([entry])), entry)


def test_resolve_manifest_refuses_an_index_that_contains_itself() -> None:
    looping = Descriptor(media_type=MEDIA_TYPE_INDEX, digest=digest_of(b"loop"), size=1)
    with pytest.raises(ProtocolError, match="contains itself"):
        resolve_manifest(LoopReader(), "a", looping, platform=AMD64)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"not json", MEDIA_TYPE_MANIFEST),
        (b"not json", MEDIA_TYPE_OCTET_STREAM),
        (b"{}", MEDIA_TYPE_INDEX),
        (b"{}", MEDIA_TYPE_MANIFEST),
        (b"[]", MEDIA_TYPE_MANIFEST),
        (b'{"schemaVersion":2,"manifests":[]}', MEDIA_TYPE_MANIFEST),
        (b'{"schemaVersion":2,"manifests":[{}]}', MEDIA_TYPE_INDEX),
        (b'{"schemaVersion":2,"mediaType":"a/b"}', MEDIA_TYPE_ARTIFACT),
    ],
)
def test_resolve_manifest_refuses_what_is_no_manifest(data: bytes, media_type: str) -> None:
    reader = StaticReader()
    with pytest.raises(ProtocolError):
        resolve_manifest(reader, "a", reader.add_manifest(data, media_type), platform=AMD64)


def test_resolve_manifest_of_a_missing_child_is_not_found() -> None:
    reader = StaticReader()
    index = reader.add_manifest(index_bytes([image("gone", "linux/amd64")]), MEDIA_TYPE_INDEX)
    with pytest.raises(ManifestUnknown):
        resolve_manifest(reader, "a", index, platform=AMD64)
