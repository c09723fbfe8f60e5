"""`gc` on every store, and what a registry's own garbage collection makes of what stays."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dockercomms.mailbox import Mailbox
from dockercomms.messages.receipts import acknowledge
from dockercomms.oci.interface import read_all
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Digest, parse_children
from dockercomms.oci.stores import Store, open_store
from dockercomms.platforms.clock import SystemClock
from dockercomms.protocol.manifest import Message
from dockercomms.protocol.tags import anchor_tag, message_tag
from dockercomms.relay.gc import Collected, Collector
from dockercomms.relay.inventory import attached_to
from dockercomms.trust.owner import SigningOptions, TrustOptions
from tests.fakes.inboxes import ME, RT, Sender
from tests.real import launch
from tests.real.launch import binary

HOUR, DAY = 3600, 86_400


@dataclass
class Box:
    """A repository with what expired and what lives in it, ten days old and of today."""

    store: Store
    folder: Path

    def __post_init__(self) -> None:
        self.now = datetime.now(UTC)
        self.sender = Sender(self.store.registry, SystemClock(), repository=self.store.repository)  # type: ignore[arg-type]

    def mailbox(self) -> Mailbox:
        """Open a mailbox that signs; it is left open, since it would close the store."""
        return Mailbox(
            me=ME,
            store=self.store,
            state_path=self.folder / "state.db",
            keys_folder=self.folder / "keys",
            signing=SigningOptions(),
            trust=TrustOptions(file=self.folder / "trust.toml"),
        )

    def fill(self) -> None:
        ten, twenty = self.now - timedelta(days=10), self.now - timedelta(days=20)
        publish = self.sender.publish
        self.dead = [
            publish(at=ten, ttl_seconds=HOUR),
            publish(at=twenty, ttl_seconds=HOUR),
            publish(at=self.now, created_at=ten, ttl_seconds=HOUR),
        ]
        self.alive = [
            publish(at=ten, ttl_seconds=90 * DAY),
            publish(at=self.now, ttl_seconds=HOUR),
        ]
        self.relayed = publish(at=twenty - timedelta(days=10), ttl_seconds=365 * DAY)
        self._retag(self.relayed)
        mailbox = self.mailbox()
        for message in (*self.dead, *self.alive, self.relayed):
            mailbox.sign_object(message.digest, is_message=True)
            self._accept(mailbox, message)

    def _retag(self, message: Message) -> None:
        """Give a message a second tag of today, as one that was relayed has."""
        data = self.read(message.digest)
        self.sender.push(data, message_tag(RT, self.now, message.digest))

    def _accept(self, mailbox: Mailbox, message: Message) -> None:
        acknowledge(
            self.store.registry,
            self.store.repository,
            message.digest,
            "accepted",
            repo=self.store.repo,
            me=ME,
            state=mailbox._state,
            clock=SystemClock(),
            signer=mailbox._owner.signer(),
        )

    def collect(self, **options: Any) -> list[Collected]:
        collector = Collector(store=self.store, clock=SystemClock(), **options)
        return list(collector.collect([ME]))

    def read(self, digest: Digest) -> bytes:
        reader = self.store.registry.get_manifest(self.store.repository, digest)
        return read_all(reader, MAX_MANIFEST_BYTES)[0]

    def tags(self) -> set[str]:
        return set(self.store.registry.tags(self.store.repository))

    def check_alive(self) -> None:
        """Everything that lives is whole: message, blobs, signature, receipt, anchor."""
        registry, repository = self.store.registry, self.store.repository
        for message in (*self.alive, self.relayed):
            for blob in parse_children(self.read(message.digest)).blobs:
                with registry.get_blob(repository, blob.digest) as reader:
                    assert len(reader.read()) == blob.size
            about = [tag for tag in self.tags() if message.digest[7:19] in tag]
            kinds = sorted(tag.partition("-")[0] for tag in about)
            assert kinds.count("bundle") == kinds.count("receipt") == 1
            found = attached_to(registry, repository, message.digest, about)
            assert len(found) == 2
            for item in found:
                for layer in parse_children(item.data).blobs:
                    assert registry.resolve_blob(repository, layer.digest).size == layer.size
            assert message.subject is not None
            assert registry.resolve_manifest(repository, message.subject.digest)


@contextlib.contextmanager
def box(name: str, folder: Path) -> Iterator[Box]:
    store = open_store(name, create=True)
    try:
        yield Box(store, folder)
    finally:
        store.registry.close()


def test_gc_removes_what_expired_and_nothing_else(any_store: str, tmp_path: Path) -> None:
    with box(any_store, tmp_path) as here:
        here.fill()
        before = here.tags()
        would = here.collect(dry_run=True)
        assert here.tags() == before

        done = here.collect()

        assert {one.status for one in done} == {"removed"}
        assert {one.digest for one in would} == {one.digest for one in done}
        counts = {kind: [one.kind for one in done].count(kind) for kind in ("message", "bundle")}
        assert counts == {"message": 3, "bundle": 3}
        assert [one.kind for one in done].count("receipt") == 3
        assert [one.tag for one in done if one.kind == "anchor"] == [
            anchor_tag(RT, (here.now - timedelta(days=20)).date())
        ]
        for message in here.dead:
            assert not any(message.digest[7:19] in tag for tag in here.tags())
        here.check_alive()
        assert here.collect() == []


@pytest.mark.parametrize("program", ["distribution", "docker-registry"])
def test_the_registrys_own_garbage_collection_loses_nothing_that_lives(
    program: str, tmp_path: Path
) -> None:
    """Untagged manifests go there even where their subject lives: everything of ours has a tag."""
    start = launch.distribution if program == "distribution" else launch.docker_registry
    repository = f"gc/{uuid.uuid4().hex}"
    with start(tmp_path) as server, box(f"{server.host}/{repository}", tmp_path) as here:
        here.fill()
        here.collect()
        untagged = here.sender.publish(at=here.now, tagged=False, listed=False, bell=False)
        before = here.tags()
    blobs = tmp_path / "data" / "docker" / "registry" / "v2" / "blobs"
    size = sum(1 for _ in blobs.rglob("data"))

    done = subprocess.run(
        [
            str(binary(program)),
            "garbage-collect",
            "--delete-untagged",
            str(tmp_path / "config.yml"),
        ],
        capture_output=True,
        check=True,
        text=True,
        env={"OTEL_TRACES_EXPORTER": "none"},
    )

    assert untagged.digest in done.stdout + done.stderr
    assert sum(1 for _ in blobs.rglob("data")) < size
    with start(tmp_path) as server:
        store = open_store(f"{server.host}/{repository}")
        here.store = store
        try:
            assert here.tags() == before
            here.check_alive()
        finally:
            store.registry.close()
