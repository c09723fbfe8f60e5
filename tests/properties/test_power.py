"""The power fails at any moment, and nothing that was promised is lost (SPEC.md 8.1, 8.2).

Each test records one run on a `Disk` and checks what may be left of it after a power failure, then
the next run. Removing one fsync from the package fails at least one of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockercomms.landing import TEMPORARY
from dockercomms.mailbox import Mailbox
from dockercomms.oci.layout import LayoutRegistry
from dockercomms.stores import Store
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.fakes.power import Disk, Image

THOROUGH = os.environ.get("DOCKERCOMMS_CRASH_EVERY") == "1"
"""Every moment, and every name by itself: in the long run of the tests."""
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

    def mailbox(self, me: str, folder: Path) -> Mailbox:
        registry = LayoutRegistry(self.layout, create=True, clock=self.clock)
        return Mailbox(
            me=me,
            state_path=folder / "state" / me / "state.db",
            clock=self.clock,
            store=Store(registry, "mailbox", "oci-layout:/box"),
        )

    def send(self, what: str = "a.txt", *, folder: Path | None = None, **options):
        with self.mailbox("alice", folder or self.there) as alice:
            return alice.send([self.source / what], to="bob", **options)

    def receive(self, **options):
        with self.mailbox("bob", self.here) as bob:
            return list(bob.receive(out=self.out, **options))

    def receipts(self) -> set[str]:
        return self.tagged("receipt-")

    def tagged(self, prefix: str) -> set[str]:
        registry = LayoutRegistry(self.layout)
        tags = [tag for tag in registry.tags("") if tag.startswith(prefix)]
        return {registry.resolve_tag("", tag).digest for tag in tags}

    def images(self) -> Iterator[Image]:
        for image in self.disk.images(thorough=THOROUGH):
            image.restore()
            yield image


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def visible(folder: Path) -> dict[str, bytes]:
    """Return the files below `folder` that are no temporaries."""
    return {name: data for name, data in files_below(folder).items() if not TEMPORARY.search(name)}


def expected(sent, what: str) -> dict[str, bytes]:
    return {f"{sent.id[:8]}/{name}": data for name, data in DATA.items() if name.startswith(what)}


@pytest.mark.parametrize(
    ("what", "options"),
    [
        pytest.param("a.txt", {}, id="file"),
        pytest.param("a.txt", {"chunk_bytes": 30}, id="file-in-chunks"),
        pytest.param("project", {}, id="folder"),
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
