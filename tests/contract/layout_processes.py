"""Work of several processes in one layout at once; run by `test_layout_processes`."""

from __future__ import annotations

from pathlib import Path

from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, MEDIA_TYPE_MANIFEST, Descriptor
from tests.contract.capabilities import content, push, push_empty_config, push_manifest

SUBJECT = Descriptor.of(b"the inbox", MEDIA_TYPE_MANIFEST)


def send(folder: Path, sender: int, count: int) -> list[str]:
    """Push `count` manifests under tags of their own, and move the bell; returns the tags."""
    registry = LayoutRegistry(folder, create=True)
    push_empty_config(registry, "")
    sent = []
    for number in range(count):
        push(registry, "", content(1000, sender * 1000 + number))
        tag = f"message-{sender:02d}-{number:02d}"
        push_manifest(registry, "", tag, tags=(tag,), subject=SUBJECT)
        push_manifest(registry, "", tag, tags=("bell",), subject=SUBJECT)
        sent.append(tag)
    return sent


def delete(folder: Path, tags: list[str]) -> None:
    """Delete the manifests under `tags`, one after the other."""
    registry = LayoutRegistry(folder)
    for tag in tags:
        registry.delete_manifest("", registry.resolve_tag("", tag).digest)


def read(registry: LayoutRegistry) -> int:
    """Read every tag and what is under it; returns how many there are."""
    tags = list(registry.tags(""))
    for tag in tags:
        data, descriptor = read_all(registry.get_tag("", tag), MAX_MANIFEST_BYTES)
        assert len(data) == descriptor.size
    return len(tags)
