"""The power fails at any moment, and nothing that was promised is lost (SPEC.md 8.1, 8.2).

Each test records one run on a `Disk` and checks what may be left of it after a power failure, then
the next run. Removing one fsync from the package fails at least one of them.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockercomms.errors import NetworkError
from dockercomms.mailbox import Mailbox
from dockercomms.messages.place import TEMPORARY
from dockercomms.oci.images.extract import new_file
from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.archive import ArchiveRegistry
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, digest_of
from dockercomms.oci.stores import Store, open_local
from dockercomms.protocol.tags import parse_tag
from dockercomms.state import State
from dockercomms.trust.address_book import AddressBook
from dockercomms.trust.keys import DEFAULT_KEY, KeyStore, PrivateKey, default_keys_folder
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from dockercomms.trust.policy_file import load_policy
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.fakes.power import Disk, Image
from tests.fakes.watched import WatchedRegistry

THOROUGH = os.environ.get("DOCKERCOMMS_CRASH_EVERY") == "1"
"""Every moment, and every name by itself: in the long run of the tests."""
DAY_SECONDS = 24 * 3600
DATA = {"a.txt": b"0123456789" * 10, "project/b.txt": b"b", "project/sub/c.txt": b"c"}


class Pair:
    """Alice sends from `there` to Bob, who is `here`; the power fails `here`."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.here = folder / "here"
        self.there = folder / "there"
        self.source = folder / "from"
        for path in (self.here, self.there):
            path.mkdir()
        for name, data in DATA.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.layout = self.there / "layout"
        self.out = self.here / "files" / "out"
        self.disk = Disk(self.here, self.there)

    def mailbox(self, me: str, folder: Path, *, without: int | None = None) -> Mailbox:
        """Open a mailbox; the line breaks after the blobs `without`."""
        registry = LayoutRegistry(self.layout, create=True, clock=self.clock)
        if without is not None:
            registry = WatchedRegistry(registry, before=cut_after(without))
        return Mailbox(
            me=me,
            state_path=folder / "state" / me / "state.db",
            clock=self.clock,
            store=Store(registry, "mailbox", "oci-layout:/box"),
            trust=TrustOptions(policy=both_trusted()),
        )

    def send(self, what: str = "a.txt", *, folder: Path | None = None, **options):
        with self.mailbox("alice", folder or self.there) as alice:
            return alice.send([self.source / what], to="bob", **options)

    def receive(self, **options):
        with self.mailbox("bob", self.here) as bob:
            return list(bob.receive(out=self.out, **options))

    def watch(self):
        command = f"sh -c 'echo $DOCKERCOMMS_MSG_ID >>{self.there}/commands'"
        with self.mailbox("bob", self.here) as bob:
            return list(bob.watch(out=self.out, command=command, once=True))

    def commands(self) -> list[str]:
        log = self.there / "commands"
        return log.read_text().split() if log.exists() else []

    def export(self, file: Path) -> None:
        archive = open_local(file, is_archive=True, create=True, clock=self.clock)
        with self.mailbox("alice", self.there) as alice:
            list(alice.relay(target=Store(archive, "box", "oci-archive:/box")).run())
            archive.make()
            archive.close()

    def unfinished(self) -> int:
        """Return how many sends the next run goes on with."""
        with State(self.here / "state" / "alice" / "state.db") as state:
            return len(state.sends.database.rows("SELECT 1 FROM sends WHERE published IS NULL"))

    def receipts(self) -> set[str]:
        return self.tagged("receipt-")

    def tagged(self, prefix: str) -> set[str]:
        registry = LayoutRegistry(self.layout)
        tags = [tag for tag in registry.tags("") if tag.startswith(prefix)]
        return {registry.resolve_tag("", tag).digest for tag in tags}

    def images(self, every: int = 1) -> Iterator[Image]:
        """Restore one image after the other; in the quick tier one of `every` that told nothing."""
        for number, image in enumerate(self.disk.images(thorough=THOROUGH)):
            if THOROUGH or image.facts or number % every == 0:
                image.restore()
                yield image


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def both_trusted() -> Policy:
    """Return a policy that trusts the key of all tests as Alice's and as Bob's."""
    key = KeyStore(default_keys_folder(os.environ)).ensure(DEFAULT_KEY)[0].public
    return Policy(
        senders=tuple(Sender(name=name, keys=(TrustedKey(key=key),)) for name in ("alice", "bob"))
    )


def cut_after(blobs: int):
    """Return what lets so many blobs be fetched."""
    left = iter(range(blobs))

    def ask(method, args):
        if method == "get_blob" and next(left, None) is None:
            raise NetworkError("the line was cut")

    return ask


def visible(folder: Path) -> dict[str, bytes]:
    """Return the files below `folder` that are no temporaries."""
    return {name: data for name, data in files_below(folder).items() if not TEMPORARY.search(name)}


def messages(path: Path) -> set[str]:
    """Return the messages in a layout or archive, in which all that is named must be whole."""
    registry = open_local(path, is_archive=path.suffix == ".tar")
    found = set()
    for tag in registry.tags("") if registry.exists() else ():
        digest = registry.resolve_tag("", tag).digest
        data, _ = read_all(registry.get_manifest("", digest), MAX_MANIFEST_BYTES)
        manifest = json.loads(data)
        for part in [manifest["config"], *manifest["layers"]] if "config" in manifest else ():
            read_all(registry.get_blob("", part["digest"]), MAX_MANIFEST_BYTES)
        for part in manifest.get("manifests", ()):
            read_all(registry.get_manifest("", part["digest"]), MAX_MANIFEST_BYTES)
        if (said := parse_tag(tag)) and said.kind == "message":
            found.add(digest)
    if isinstance(registry, ArchiveRegistry):
        registry.abandon()
    return found


def expected(sent, what: str) -> dict[str, bytes]:
    return {f"{sent.id[:8]}/{name}": data for name, data in DATA.items() if name.startswith(what)}


@pytest.mark.parametrize(
    ("what", "options"),
    [
        pytest.param("a.txt", {"chunk_bytes": 30}, id="file-in-chunks"),
        pytest.param("project", {}, id="folder"),
        *([pytest.param("a.txt", {}, id="file")] if THOROUGH else []),
    ],
)
def test_receive_survives_a_power_failure(pair, what, options):
    sent = pair.send(what, **options)
    whole = expected(sent, what)
    with pair.disk.recording():
        pair.receive()
        pair.disk.tell("received")

    for image in pair.images():
        assert visible(pair.out).items() <= whole.items(), image  # nothing in part
        again = pair.receive()

        assert files_below(pair.out) == whole, image
        assert [path.name for path in pair.out.iterdir()] == [sent.id[:8]], image
        assert "received" not in image.facts or not again, image
        assert len(pair.receipts()) == 1, image
        assert list((pair.here / "state" / "bob" / "receives").iterdir()) == [], image


def test_receive_that_merges_survives_a_power_failure(pair):
    mine = pair.out / "project" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    pair.send("project")
    whole = {name: DATA[name] for name in DATA if name.startswith("project")}
    whole["project/mine.txt"] = b"mine"
    with pair.disk.recording():
        pair.receive(flat=True, overwrite=True)
        pair.disk.tell("received")

    for image in pair.images(4):
        assert visible(pair.out).items() <= whole.items(), image
        again = pair.receive(flat=True, overwrite=True)

        assert files_below(pair.out) == whole, image
        assert "received" not in image.facts or not again, image


@pytest.mark.parametrize("what", ["a.txt", "project"])
def test_receive_that_settles_survives_a_power_failure(pair, what):
    sent = pair.send(what)
    with pair.disk.recording():
        with pair.disk.failing("/files/out"):
            assert [item.status for item in pair.receive()] == ["failed"]
        assert visible(pair.out) == expected(sent, what)  # renamed, and not synced
        pair.receive()
        pair.disk.tell("received")

    for image in pair.images():
        assert "received" not in image.facts or visible(pair.out) == expected(sent, what), image


def test_receive_that_was_broken_off_survives_a_power_failure(pair):
    """A run breaks off at the second chunk, twice, for two folders; then the power fails."""
    (pair.source / "large.bin").write_bytes(random.Random(1).randbytes(60_000))
    pair.send("large.bin", chunk_bytes=20_000)
    other = pair.here / "files" / "other"
    other.mkdir(parents=True)
    with pair.disk.recording():
        for out in (pair.out, other):
            with pair.mailbox("bob", pair.here, without=1) as bob:
                assert [item.status for item in bob.receive(out=out, concurrency=1)] == ["failed"]

    for image in pair.images():
        pair.receive()

        assert visible(pair.here / "files") == files_below(pair.here / "files"), image
        assert not list(other.iterdir()), image


def test_watch_survives_a_power_failure(pair):
    sent = pair.send()
    with pair.disk.recording():
        pair.watch()
        pair.disk.tell("done")

    for image in pair.images(3):
        early = pair.commands()
        again = pair.watch()

        assert visible(pair.out) == expected(sent, "a.txt"), image
        assert pair.commands() == [*early, *([sent.id] if again else [])], image
        assert len(pair.commands()) in (1, 2), image
        assert "done" not in image.facts or not again, image
        assert len(pair.receipts()) == 1, image
        assert not pair.watch(), image


# --- a layout on the disk that fails -------------------------------------------------------------


@pytest.fixture
def local(tmp_path):
    pair = Pair(tmp_path)
    pair.layout = pair.here / "boxes" / "layout"
    return pair


@pytest.mark.parametrize("chunk_bytes", [30, 1000] if THOROUGH else [30])
def test_send_survives_a_power_failure(local, chunk_bytes):
    with local.disk.recording():
        sent = local.send(folder=local.here, chunk_bytes=chunk_bytes)
        local.disk.tell("sent")

    for image in local.images():
        early = messages(local.layout)
        assert "sent" not in image.facts or early == {sent.digest}, image
        if not early or local.unfinished():
            local.send(folder=local.here, chunk_bytes=chunk_bytes)

        assert early <= messages(local.layout), image
        assert len(messages(local.layout)) == 1, image


def test_upload_session_survives_a_power_failure(local):
    digest = digest_of(DATA["a.txt"])
    registry = LayoutRegistry(local.layout, create=True)
    with local.disk.recording():
        upload = registry.upload("")
        upload.write(DATA["a.txt"])
        upload.commit(digest)
        local.disk.tell("pushed")

    for image in local.images():
        path = local.layout / "blobs" / digest.replace(":", "/")
        found = path.read_bytes() if path.exists() else None
        assert found == DATA["a.txt"] or (found is None and not image.facts), image


@pytest.mark.parametrize("before", [None, b"before"])
def test_file_of_an_artifact_survives_a_power_failure(pair, before):
    target = pair.here / "file"
    if before is not None:
        target.write_bytes(before)
    with pair.disk.recording():
        with new_file(target, overwrite=before is not None) as stream:
            stream.write(b"after")
        pair.disk.tell("saved")

    for image in pair.images():
        found = target.read_bytes() if target.exists() else None
        assert found == b"after" or (found == before and not image.facts), image


def test_gc_survives_a_power_failure(local):
    old = local.send(folder=local.here)
    local.receive()
    local.clock.advance(9 * DAY_SECONDS)
    new = local.send("project", folder=local.here)
    with local.disk.recording():
        with local.mailbox("bob", local.here) as bob:
            assert {item.status for item in bob.collect()} == {"removed"}
        local.disk.tell("collected")

    for image in local.images():
        left = messages(local.layout)
        assert left == {new.digest} or (
            "collected" not in image.facts and left == {old.digest, new.digest}
        ), image
        with local.mailbox("bob", local.here) as bob:
            list(bob.collect())
        assert messages(local.layout) == {new.digest}, image


def test_export_survives_a_power_failure(pair):
    first = pair.send()
    archive = pair.here / "box.tar"
    pair.export(archive)
    second = pair.send("project")
    with pair.disk.recording():
        pair.export(archive)
        pair.disk.tell("exported")

    for image in pair.images(2):
        there = messages(archive)
        assert there == {first.digest, second.digest} or (
            "exported" not in image.facts and there == {first.digest}
        ), image
        pair.export(archive)
        assert messages(archive) == {first.digest, second.digest}, image


# --- keys and trust ------------------------------------------------------------------------------


def test_keys_survive_a_power_failure(pair):
    store = KeyStore(pair.here / "data" / "keys")
    with pair.disk.recording():
        key = store.generate("work")
        pair.disk.tell("made")

    for image in pair.images():
        found = store.find("work")
        assert found == key if "made" in image.facts else found in (None, key), image


def test_trust_survives_a_power_failure(pair):
    book = AddressBook(pair.here / "config" / "trust.toml")
    alice, carol = PrivateKey.generate().public_key(), PrivateKey.generate().public_key()
    texts = [None]

    def text():
        return book.path.read_text() if book.path.exists() else None

    with pair.disk.recording():
        for number, change in enumerate(
            (
                lambda: book.add("alice", key=alice),
                lambda: book.pin("carol", carol, recipient="bob", repo="r.example/box"),
                lambda: book.revoke(spki_sha256=alice.spki_sha256),
                lambda: book.remove("alice"),
            ),
            start=1,
        ):
            change()
            texts.append(text())
            pair.disk.tell(str(number))

    for image in pair.images():
        done = max(map(int, image.facts), default=0)
        assert text() in texts[done : done + 2], image
        load_policy(book.path)
