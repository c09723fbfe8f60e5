"""A layout that lists an index without what is in it, as other tools write it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dockercomms.errors import ManifestUnknown, NameUnknown
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import Digest, digest_of, parse_index
from dockercomms.oci.strict_json import canonical_json
from tests.fakes.images import Built, artifact, image, index_of, push, push_tree

ANY = "any"
CHILDREN = (image(1), image(2, architecture="arm64"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def layout(folder: Path) -> LayoutRegistry:
    return LayoutRegistry(folder, create=True)


def listed(folder: Path) -> list[Digest]:
    return [entry.digest for entry in parse_index((folder / "index.json").read_bytes()).manifests]


def test_fold_leaves_the_index_alone_listed(layout: LayoutRegistry, folder: Path) -> None:
    tree = push_tree(layout, ANY, CHILDREN, "v1")
    layout.fold(tree.descriptor.digest)
    assert listed(folder) == [tree.descriptor.digest]
    for child in CHILDREN:
        assert layout.resolve_manifest(ANY, child.descriptor.digest) == child.descriptor
    before = (folder / "index.json").stat().st_ino
    layout.fold(tree.descriptor.digest)
    assert (folder / "index.json").stat().st_ino == before


def test_fold_keeps_tags_and_referrers(layout: LayoutRegistry, folder: Path) -> None:
    signature = artifact("signature", subject=CHILDREN[0].descriptor)
    push(layout, ANY, CHILDREN[0], "amd64")
    tree = push_tree(layout, ANY, (CHILDREN[0], signature), "v1")
    layout.fold(tree.descriptor.digest)
    assert set(listed(folder)) == {
        built.descriptor.digest for built in (CHILDREN[0], signature, tree)
    }
    assert len(list(layout.referrers(ANY, CHILDREN[0].descriptor.digest))) == 1


def test_fold_keeps_what_could_not_be_found_otherwise(layout: LayoutRegistry, folder: Path) -> None:
    """A manifest that does not say its own media type is known by its entry only."""
    fields = json.loads(CHILDREN[0].data)
    del fields["mediaType"]
    silent = replace(CHILDREN[0], data=canonical_json(fields))
    tree = push_tree(layout, ANY, (silent,), "v1")
    layout.fold(tree.descriptor.digest)
    assert len(listed(folder)) == 2
    assert layout.resolve_manifest(ANY, silent.descriptor.digest).digest in listed(folder)


def test_fold_needs_its_index(layout: LayoutRegistry) -> None:
    with pytest.raises(NameUnknown):
        layout.fold(digest_of(b"x"))
    push(layout, ANY, CHILDREN[0], "v1")
    with pytest.raises(ManifestUnknown):
        layout.fold(digest_of(b"x"))


def test_fold_of_an_image_changes_nothing(layout: LayoutRegistry, folder: Path) -> None:
    push(layout, ANY, CHILDREN[0], "v1")
    layout.fold(CHILDREN[0].descriptor.digest)
    assert listed(folder) == [CHILDREN[0].descriptor.digest]


def test_fold_of_an_index_in_an_index(layout: LayoutRegistry, folder: Path) -> None:
    inner: Built = push_tree(layout, ANY, CHILDREN, "inner")
    layout.delete_tag(ANY, "inner")
    layout.fold(inner.descriptor.digest)
    outer = index_of(inner)
    push(layout, ANY, outer, "v1")
    layout.fold(outer.descriptor.digest)
    assert listed(folder) == [outer.descriptor.digest]
