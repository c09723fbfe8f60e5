"""Copying what refers to a manifest too, and copying to layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import ManifestUnknown, ProtocolError
from dockercomms.oci.images.copy import copy_manifest
from dockercomms.oci.interface import Registry, read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Index, digest_of, parse_index
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.stores import Location
from tests.fakes.images import Built, artifact, holds, image, index_of, push, push_tree
from tests.fakes.registry import DISTRIBUTION, OCI, Quirks
from tests.fakes.watched import WatchedRegistry
from tests.unit.oci.registries import MIB, R, serving

CHILDREN = (image(1, architecture="amd64"), image(2, architecture="arm64"))


def signed_tree(source: Registry) -> tuple[Built, Built, Built, Built]:
    """Push an index with a signature, a receipt of the signature, and a signature of a child."""
    tree = push_tree(source, R, CHILDREN, "v1")
    signature = artifact("signature", subject=tree.descriptor)
    receipt = artifact("receipt", subject=signature.descriptor)
    of_child = artifact("child", subject=CHILDREN[0].descriptor)
    for built in (signature, receipt, of_child):
        push(source, R, built)
    return tree, signature, receipt, of_child


@pytest.mark.parametrize("source_api", [True, False])
@pytest.mark.parametrize("quirks", [OCI, DISTRIBUTION], ids=["api", "tag-schema"])
def test_copy_manifest_with_referrers_copies_what_refers_to_any_of_it(
    quirks: Quirks, source_api: bool
) -> None:
    source = MemoryRegistry(referrers=source_api)
    tree, signature, receipt, of_child = signed_tree(source)
    if not source_api:
        for built, subject in (
            (signature, tree),
            (receipt, signature),
            (of_child, CHILDREN[0]),
        ):
            entry = replace(built.descriptor, artifact_type="a claim")
            listed = Index(manifests=(entry,)).to_bytes()
            tag = referrers_tag(subject.descriptor.digest)
            source.push_manifest(R, listed, MEDIA_TYPE_INDEX, tags=(tag,))
    with serving(quirks) as (server, target):
        places = Location(source, R, tag="v1"), Location(target, R, tag="v1")
        for _ in range(2):
            assert copy_manifest(*places, referrers=True) == tree.descriptor
        for built, subject in ((signature, tree), (receipt, signature), (of_child, CHILDREN[0])):
            assert holds(target, R, built)
            (entry,) = target.referrers(R, subject.descriptor.digest)
            assert entry.digest == built.descriptor.digest
            assert entry.artifact_type == "application/vnd.example.signature.v1"
        puts = [record.target for record in server.asked("PUT", "/manifests/")]
        assert puts[-1].endswith("/v1")
        assert len([put for put in puts if put.endswith("/v1")]) == 1


def test_copy_manifest_without_referrers_leaves_them() -> None:
    source, target = MemoryRegistry(), MemoryRegistry()
    tree, signature, _, _ = signed_tree(source)
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
    assert list(target.referrers(R, tree.descriptor.digest)) == []
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"), referrers=True)
    (entry,) = target.referrers(R, tree.descriptor.digest)
    assert entry.digest == signature.descriptor.digest


def test_copy_manifest_shows_the_tag_after_the_signatures() -> None:
    source = MemoryRegistry()
    signed_tree(source)
    target: Any = WatchedRegistry(MemoryRegistry())
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"), referrers=True)
    pushes = [said for name, said in target.calls if name == "push_manifest"]
    assert [("v1",) in said for said in pushes] == [False] * (len(pushes) - 1) + [True]
    subjects = [digest_of(said[1]) for said in pushes]
    assert subjects.index(CHILDREN[0].descriptor.digest) < subjects.index(
        artifact("child", subject=CHILDREN[0].descriptor).descriptor.digest
    )


def test_copy_manifest_believes_no_claim_of_a_referrer() -> None:
    """Listed are something that refers to another subject, and something that is gone."""
    built, other = image(1), image(2)
    stranger = artifact("stranger", subject=other.descriptor)
    source = MemoryRegistry(referrers=False)
    push(source, R, built, "v1")
    push(source, R, stranger)
    listed = index_of(stranger)
    push(source, R, listed, referrers_tag(built.descriptor.digest))
    with serving(replace(OCI, referrers=False)) as (server, registry):
        for one in (built, stranger):
            push(registry, R, one)
        gone = artifact("gone", subject=built.descriptor)
        entries = (stranger.descriptor, gone.descriptor)
        server.put_manifest_raw(
            R,
            Index(manifests=entries).to_bytes(),
            tag=referrers_tag(built.descriptor.digest),
            media_type=MEDIA_TYPE_INDEX,
        )
        for store in (source, registry):
            target = MemoryRegistry()
            place = Location(store, R, digest=built.descriptor.digest)
            copy_manifest(place, Location(target, R, tag="v1"), referrers=True)
            with pytest.raises(ManifestUnknown):
                target.resolve_manifest(R, stranger.descriptor.digest)


def test_copy_manifest_keeps_what_the_tag_schema_lists_already() -> None:
    source = MemoryRegistry()
    built = image()
    push(source, R, built, "v1")
    ours = artifact("ours", subject=built.descriptor)
    push(source, R, ours)
    with serving(DISTRIBUTION) as (_, target):
        theirs = artifact("theirs", subject=built.descriptor)
        push(target, R, theirs)
        push(target, R, index_of(theirs), referrers_tag(built.descriptor.digest))
        copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"), referrers=True)
        found = [entry.digest for entry in target.referrers(R, built.descriptor.digest)]
        assert found == [theirs.descriptor.digest, ours.descriptor.digest]


def test_copy_manifest_lists_a_referrer_that_an_earlier_copy_did_not_get_to_list() -> None:
    source = MemoryRegistry()
    built = image()
    push(source, R, built, "v1")
    signature = artifact("signature", subject=built.descriptor)
    push(source, R, signature)
    with serving(DISTRIBUTION) as (_, target):
        push(target, R, built, "v1")
        push(target, R, signature)
        assert list(target.referrers(R, built.descriptor.digest)) == []
        copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"), referrers=True)
        (entry,) = target.referrers(R, built.descriptor.digest)
        assert entry.digest == signature.descriptor.digest


def test_copy_manifest_follows_referrers_of_referrers_so_far() -> None:
    source = MemoryRegistry()
    built = image()
    push(source, R, built, "v1")
    chain = [built]
    for number in range(9):
        chain.append(artifact(str(number), subject=chain[-1].descriptor))
        push(source, R, chain[-1])
    with pytest.raises(ProtocolError, match="referrers are nested more than 8"):
        copy_manifest(Location(source, R, tag="v1"), Location(MemoryRegistry(), R), referrers=True)
    source.delete_manifest(R, chain[-1].descriptor.digest)
    target = MemoryRegistry()
    copy_manifest(Location(source, R, tag="v1"), Location(target, R), referrers=True)
    assert all(holds(target, R, one) for one in chain[:-1])


def test_copy_manifest_to_a_layout_lists_the_index_only(tmp_path: Path) -> None:
    source = MemoryRegistry()
    tree = push_tree(source, R, CHILDREN, "v1")
    target = LayoutRegistry(tmp_path / "layout", create=True)
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
    listed = parse_index((tmp_path / "layout/index.json").read_bytes()).manifests
    assert [entry.digest for entry in listed] == [tree.descriptor.digest]
    back = MemoryRegistry()
    copy_manifest(Location(target, R, tag="v1"), Location(back, R, tag="v1"))
    assert all(holds(back, R, child) for child in CHILDREN)


def test_copy_manifest_to_a_layout_keeps_what_has_a_tag_of_its_own(tmp_path: Path) -> None:
    source = MemoryRegistry()
    tree = push_tree(source, R, CHILDREN, "v1")
    target = LayoutRegistry(tmp_path / "layout", create=True)
    push(target, R, CHILDREN[0], "amd64")
    copy_manifest(Location(source, R, tag="v1"), Location(target, R, tag="v1"))
    listed = parse_index((tmp_path / "layout/index.json").read_bytes()).manifests
    assert {entry.digest for entry in listed} == {
        tree.descriptor.digest,
        CHILDREN[0].descriptor.digest,
    }
    assert list(target.tags(R)) == ["amd64", "v1"]


def test_copy_manifest_to_a_layout_also_lists_referrers_as_regctl_does(tmp_path: Path) -> None:
    source = MemoryRegistry()
    tree, signature, _, _ = signed_tree(source)
    target = LayoutRegistry(tmp_path / "layout", create=True)
    places = Location(source, R, tag="v1"), Location(target, R, tag="v1")
    copy_manifest(*places, referrers=True)
    copy_manifest(*places, referrers=True)
    tag = referrers_tag(tree.descriptor.digest)
    (entry,) = parse_index(read_all(target.get_tag(R, tag), MIB)[0]).manifests
    assert entry.digest == signature.descriptor.digest
    assert len(list(target.referrers(R, tree.descriptor.digest))) == 1
