"""After many have sent and received at once: everything is there, and nothing twice."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dockercomms.mailbox import Mailbox
from dockercomms.oci.stores import Store, open_store
from dockercomms.protocol.tags import parse_tag
from dockercomms.state import default_path
from tests.fakes.mail import files_below
from tests.real.program import Machine

HEAD_CHARACTERS = 12
"""Of a message's digest, in the tags of its receipts."""


@dataclass
class Task:
    """One message: the command line that sends it, run until it ends with 0."""

    sender: str
    home: Path
    source: Path
    text: str
    kills: int = 0
    told: str = ""
    """The digest that was printed."""
    left: str = ""
    """The id in the journal of one that was killed at or after its PUT."""


def state_path(home: Path) -> Path:
    """Return where the state is of a machine with this home."""
    return default_path(Machine(home).environment())


@dataclass(kw_only=True)
class Census:
    """The expected content of a repository, and of the folder of its one recipient."""

    repo: str
    inbox: Path
    """The folder that takes messages."""
    tasks: list[Task] = field(default_factory=list)
    """The sent messages; the program reported each to its sender."""
    received: list[dict] = field(default_factory=list)
    """The objects that `recv` printed."""
    wrong: list[str] = field(default_factory=list)

    @functools.cached_property
    def store(self) -> Store:
        return open_store(self.repo)

    def check(self) -> None:
        """Count: each message once in the store, once on disk, once said, and with one receipt."""
        tags = list(self.store.registry.tags(self.store.repository))
        messages = self.digests_under(
            tag for tag in tags if (said := parse_tag(tag)) is not None and said.kind == "message"
        )
        told = {task.told for task in self.tasks}
        self.expect("messages in the store", len(messages), len(self.tasks))
        self.expect("messages in the store that nobody was told of", messages - told, set())
        self.expect("messages that are gone", told - messages, set())
        texts = collections.Counter(
            data.decode(errors="replace") for data in files_below(self.inbox).values()
        )
        sent = collections.Counter(task.text for task in self.tasks)
        self.expect("files received that should not be there", texts - sent, collections.Counter())
        self.expect("files not received", sent - texts, collections.Counter())
        arrived = [row for row in self.received if row["status"] == "received"]
        said = collections.Counter(row["digest"] for row in arrived)
        self.expect("received twice", {key for key, count in said.items() if count > 1}, set())
        unproven = [row for row in arrived if row["signer"] != row["from"]]
        self.expect("not signed by whom they say", unproven, [])
        failed = [row for row in self.received if row["status"] == "failed"]
        self.expect("failed", [row for row in failed if not self.may_fail(row)], [])
        self.check_receipts(messages, [tag for tag in tags if tag.startswith("receipt-")])
        self.expect("receipts as the senders see them", self.proven_receipts(), told)

    def may_fail(self, row: dict) -> bool:
        """Return whether a message may have failed once, since it was received later."""
        return False

    def check_receipts(self, messages: set[str], tags: Iterable[str]) -> None:
        """Ask for one receipt of each message; a crash may leave it under two tags."""
        by_head = collections.defaultdict(list)
        for tag in tags:
            by_head[tag.split("-")[1]].append(tag)
        for digest in messages:
            head = digest.removeprefix("sha256:")[:HEAD_CHARACTERS]
            receipts = self.digests_under(by_head[head])
            if len(receipts) != 1:
                self.wrong.append(f"{digest}: receipts {receipts}")

    def proven_receipts(self) -> set[str]:
        """Return the messages for which their senders see one accepted receipt each."""
        found: list[str] = []
        for name, home in sorted({(task.sender, task.home) for task in self.tasks}):
            with Mailbox(self.repo, me=name, state_path=state_path(home)) as mailbox:
                found += [r.message for r in mailbox.receipts() if r.status == "accepted"]
        doubled = [digest for digest, count in collections.Counter(found).items() if count > 1]
        self.expect("receipts that a sender sees twice", doubled, [])
        return set(found)

    def digests_under(self, tags: Iterable[str]) -> set[str]:
        store = self.store
        return {store.registry.resolve_tag(store.repository, tag).digest for tag in tags}

    def expect(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            self.wrong.append(f"{what}: {got!r:.2000}; expected {expected!r:.2000}")
