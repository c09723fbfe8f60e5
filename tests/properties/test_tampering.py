"""Whatever somebody changes in a repository: a message arrives as it was signed, or not at all.

One byte of the message, of its only bundle or of a chunk is changed: exit 2 or 4, and no file. One
byte of anything else is changed, or it is removed: the message arrives.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockercomms.mailbox import Mailbox
from dockercomms.messages import publish as publishing
from dockercomms.messages.publish import Publisher
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, Digest
from dockercomms.oci.stores import Store
from dockercomms.protocol.manifest import parse_message
from dockercomms.protocol.tags import parse_tag
from dockercomms.state import State
from dockercomms.transport import push
from tests.cli.harness import Result, invoke
from tests.fakes.clock import FakeClock
from tests.fakes.examples import examples
from tests.fakes.mail import ONE_KEY, REPO, REPOSITORY, files_below
from tests.fakes.people import STRANGER_SIGNS

CHANGES = settings(
    max_examples=examples(8),
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
CONTENT = b"the content that was sent " * 20


@dataclass(frozen=True)
class Sent:
    """A repository with one message from Alice to Bob, who share a key."""

    repository: Any
    keys: Path
    id: str
    digest: Digest
    api: bool
    bundle: Digest
    layer: Digest

    @property
    def chunks(self) -> list[Digest]:
        others = {EMPTY_CONFIG.digest, self.layer}
        return sorted(digest for digest in self.repository.blobs if digest not in others)


@cache
def sent(*, api: bool, inline: bool) -> Sent:
    base = Path(tempfile.mkdtemp())
    registry = MemoryRegistry(clock=FakeClock(), referrers=api)
    with pytest.MonkeyPatch.context() as patch:
        if not inline:
            patch.setattr(publishing, "MAX_INLINE_BYTES", 0)
            patch.setattr(push, "MAX_INLINE_BYTES", 0)
        with Mailbox(
            me="alice",
            state_path=base / "alice.db",
            keys_folder=base / "keys",
            clock=FakeClock(),
            store=Store(registry, REPOSITORY, REPO),
        ) as alice:
            one = alice.send(
                [Path("-")], to="bob", stdin=io.BytesIO(CONTENT), name="c", chunk_bytes=300
            )
    held = registry._repositories[REPOSITORY]
    (tag,) = [tag for tag in held.tags if tag.startswith("bundle-")]
    (layer,) = [d for d in held.blobs if d.startswith(f"sha256:{tag[-6:]}")]
    return Sent(held, base / "keys", one.id, one.digest, api, held.tags[tag], layer)


class Copy:
    """A copy of the repository, to be changed and received from."""

    def __init__(self, original: Sent) -> None:
        self.original = original
        self.registry = MemoryRegistry(clock=FakeClock(), referrers=original.api)
        kept = original.repository
        self.held = replace(
            kept, blobs=dict(kept.blobs), manifests=dict(kept.manifests), tags=dict(kept.tags)
        )
        self.registry._repositories[REPOSITORY] = self.held

    def change_manifest(self, digest: Digest, place: int, change: int) -> None:
        manifest = self.held.manifests[digest]
        self.held.manifests[digest] = replace(manifest, data=changed(manifest.data, place, change))

    def change_blob(self, digest: Digest, place: int, change: int) -> None:
        self.held.blobs[digest] = changed(self.held.blobs[digest], place, change)

    def receive(self, *arguments: str) -> tuple[Result, dict[str, bytes]]:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)

            def opened(_: str | None, **options: Any) -> Mailbox:
                return Mailbox(
                    store=Store(self.registry, REPOSITORY, REPO),
                    state_path=base / "bob.db",
                    keys_folder=self.original.keys,
                    **{**options, "trust": ONE_KEY},
                )

            result = invoke(
                ["recv", *arguments, "--redeliver", "--me", "bob", "--out", str(base / "in"), "-q"],
                factory=opened,
                clock=FakeClock(),
            )
            return result, files_below(base / "in")


def changed(data: bytes, place: int, change: int) -> bytes:
    at = place % len(data)
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def modes(original: Sent) -> tuple[tuple[str, ...], ...]:
    return ((original.id,), (original.digest,), ("--strict",))


KINDS = st.sampled_from([(api, inline) for api in (True, False) for inline in (True, False)])
BYTES = st.integers(1, 255)
PLACES = st.integers(0, 2**20)


@CHANGES
@given(KINDS, st.sampled_from(["message", "bundle", "layer", "chunk"]), PLACES, BYTES)
def test_changed_byte_of_what_was_signed_delivers_nothing(kind, what, place, change):
    api, inline = kind
    original = sent(api=api, inline=inline)
    if what == "layer" and inline:
        what = "bundle"  # the copy beside the manifest is not read
    if what == "chunk" and inline:
        what = "message"  # as little
    for mode in modes(original):
        copy = Copy(original)
        if what == "message":
            copy.change_manifest(original.digest, place, change)
        elif what == "bundle":
            copy.change_manifest(original.bundle, place, change)
        elif what == "layer":
            copy.change_blob(original.layer, place, change)
        else:
            copy.change_blob(original.chunks[place % len(original.chunks)], place, change)

        result, files = copy.receive(*mode)

        assert result.exit_code in {2, 4}, (mode, result.stderr)
        assert files == {}


def others(original: Sent) -> list[str]:
    """Return the tags of all that is neither the message nor its bundle."""
    return sorted(
        tag
        for tag, digest in original.repository.tags.items()
        if digest not in (original.digest, original.bundle)
    )


@CHANGES
@given(KINDS, st.data(), PLACES, BYTES, st.sampled_from(["change", "remove", "move"]))
def test_change_of_anything_else_stops_nothing(kind, data, place, change, how):
    api, inline = kind
    original = sent(api=api, inline=inline)
    bell = next(t for t in original.repository.tags if (s := parse_tag(t)) and s.kind == "bell")
    tag = data.draw(st.sampled_from([*others(original), bell]))
    for mode in modes(original):
        copy = Copy(original)
        if how == "remove":
            del copy.held.tags[tag]
        elif how == "move" or tag == bell:
            copy.held.tags[tag] = original.bundle
        else:
            copy.change_manifest(copy.held.tags[tag], place, change)

        result, files = copy.receive(*mode)

        # A bell that names what is no message is reported as a message that failed.
        assert result.exit_code in ({0, 7} if tag == bell else {0}), (mode, tag, result.stderr)
        assert list(files.values()) == [CONTENT]


@CHANGES
@given(KINDS, st.lists(st.binary(max_size=40), min_size=1, max_size=5), PLACES, BYTES)
def test_other_referrers_stop_nothing(kind, junk, place, change):
    api, inline = kind
    original = sent(api=api, inline=inline)
    copy = Copy(original)
    attach(copy, original, junk)
    added = sorted(set(copy.held.manifests) - set(original.repository.manifests))
    copy.change_manifest(added[place % len(added)], place, change)

    for mode in modes(original):
        result, files = copy.receive(*mode)

        assert result.exit_code == 0, result.stderr
        assert list(files.values()) == [CONTENT]


def attach(copy: Copy, original: Sent, junk: list[bytes]) -> None:
    """Attach junk, and what a stranger signed, to the message."""
    manifest = original.repository.manifests[original.digest].data
    message = parse_message(manifest)
    with tempfile.TemporaryDirectory() as folder, State(Path(folder) / "state.db") as state:
        publisher = Publisher(
            registry=copy.registry,
            repository=REPOSITORY,
            repo=REPO,
            state=state,
            clock=FakeClock(),
        )
        for content in (*junk, STRANGER_SIGNS.sign(message, manifest)):
            publisher.push_bundle(message.descriptor.bare(), content, index="auto", fresh=False)


def test_message_of_the_tests_is_delivered_as_it_is():
    for api in (True, False):
        for inline in (True, False):
            original = sent(api=api, inline=inline)
            assert len(original.chunks) > 1
            for mode in modes(original):
                result, files = Copy(original).receive(*mode)
                assert (result.exit_code, list(files.values())) == (0, [CONTENT])
