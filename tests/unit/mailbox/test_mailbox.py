from __future__ import annotations

import getpass
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from dockercomms import Mailbox
from dockercomms.errors import LimitError, NameUnknown, NetworkError, NotFoundError, UsageError
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.stores import Store
from dockercomms.trust.owner import TrustOptions
from tests.fakes.clock import FakeClock
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, Mail, files_below, open_mail, three
from tests.fakes.watched import WatchedRegistry
from tests.reader10 import read10


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def layout_box(folder: Path, me: str, **options) -> Mailbox:
    return Mailbox(
        f"oci-layout:{folder}/box",
        me=me,
        state_path=folder / me / "state.db",
        clock=FakeClock(),
        **options,
    )


# --- the whole way -------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["auto", "zstd", "gzip"])
def test_mailbox_over_a_folder_from_send_to_receipt(tmp_path, compress):
    data = os.urandom(100_000)
    (tmp_path / "report.bin").write_bytes(data)
    with layout_box(tmp_path, "alice") as alice:
        sent = alice.send([tmp_path / "report.bin"], to="bob", title="weekly", compress=compress)
        assert alice.receipts() == []
    trust = TrustOptions(file=tmp_path / "trust.toml", accept_new=True)
    with layout_box(tmp_path, "bob", trust=trust) as bob:
        (entry,) = bob.inbox()
        assert (entry.id, entry.sender, entry.title) == (sent.id, "alice", "weekly")
        assert (entry.filename, entry.bytes, entry.state) == ("report.bin", 100_000, "new")
        assert (entry.created_at, entry.expires_at) == (FakeClock().now(), sent.expires_at)
        (got,) = bob.receive(out=tmp_path / "in")
        assert got.files[0].read_bytes() == data
        assert bob.inbox() == []
        assert list(bob.receive(out=tmp_path / "in")) == []
        (old,) = bob.inbox(all=True)
        assert old.state == "delivered"
    with layout_box(tmp_path, "alice") as alice:
        (receipt,) = alice.receipts()
        assert (receipt.digest, receipt.message) == (got.receipt, sent.digest)


def test_mailbox_says_that_it_made_the_folder(tmp_path):
    notices = []
    with layout_box(tmp_path, "alice", on_notice=notices.append) as alice:
        alice.send(to="bob", text="rehearsal", dry_run=True)
        assert notices == []
        alice.send(to="bob", text="one")
        alice.send(to="bob", text="two")

    (notice,) = [notice for notice in notices if notice.kind != "published"]
    assert notice.kind == "created"
    assert str(tmp_path / "box") in notice.text


def test_mailbox_makes_the_folder_without_anybody_to_tell(tmp_path):
    with layout_box(tmp_path, "alice") as alice:
        alice.send(to="bob", text="one")

    assert (tmp_path / "box" / "oci-layout").is_file()


def test_mailbox_is_the_users_own_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(getpass, "getuser", lambda: "carol")

    with Mailbox() as mailbox:
        mailbox.send(to="carol", text="to myself")
        (entry,) = mailbox.inbox()

    assert (entry.sender, mailbox.me) == ("carol", "carol")
    assert mailbox.repo == f"oci-layout:{(tmp_path / 'data').resolve()}/dockercomms/mailbox"
    assert (tmp_path / "data" / "dockercomms" / "mailbox" / "index.json").is_file()
    assert (tmp_path / "state" / "dockercomms" / "state.db").is_file()


def test_mailbox_without_a_login_name_asks_for_one(tmp_path, monkeypatch):
    def nobody():
        raise OSError("no such user")

    monkeypatch.setattr(getpass, "getuser", nobody)

    with pytest.raises(UsageError, match="no login name") as raised:
        Mailbox(f"oci-layout:{tmp_path}/box", state_path=tmp_path / "state.db")

    assert "--me" in raised.value.hint


@pytest.mark.parametrize("how", ["file", "files", "folder", "note", "stdin"])
def test_mailbox_sends_what_a_1_0_program_can_receive(mail, how):
    folder = mail.folder / "project"
    folder.mkdir()
    (folder / "x").write_text("x")
    arguments = {
        "file": {"paths": [str(mail.file())]},
        "files": {"paths": [mail.file("a"), mail.file("b")]},
        "folder": {"paths": [folder]},
        "note": {"text": "hello"},
        "stdin": {"paths": ["-"], "stdin": io.BytesIO(b"hello"), "name": "s"},
    }[how]
    with mail.mailbox(ALICE) as alice:
        alice.send(**arguments, to=BOB, compress="gzip" if how == "file" else "auto")
    (mail.folder / "old").mkdir()

    result = read10(mail.reader, REPOSITORY, BOB, mail.folder / "old")

    assert result.exit == 0
    (path,) = result.delivered
    if how in ("files", "folder"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        assert names == {"files": ["a", "b"], "folder": ["project", "project/x"]}[how]
    else:
        assert path.read_bytes() == b"hello"


def test_mailbox_of_many_senders_at_once_loses_nothing(mail):
    def send(number):
        folder = mail.folder / f"sender-{number % 4}"  # four share a state, as on one machine
        with Mailbox(
            me=ALICE,
            state_path=folder / "state.db",
            clock=mail.clock,
            store=Store(mail.registry, REPOSITORY, REPO),
        ) as mailbox:
            return [mailbox.send(to=BOB, text="hello").digest for _ in range(4)]

    with ThreadPoolExecutor(8) as pool:
        sent = [digest for digests in pool.map(send, range(8)) for digest in digests]

    got = mail.receive()

    assert len(set(sent)) == 32
    assert sorted(item.digest for item in got) == sorted(sent)
    assert {item.status for item in got} == {"received"}
    assert mail.receive() == []


def test_mailbox_twice_at_once_delivers_each_once(mail):
    sent = [mail.send(mail.file(f"{n}", b"%d" % n)).digest for n in range(12)]

    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: mail.receive(), range(3)))

    done = [item.digest for run in runs for item in run if item.status == "received"]
    assert sorted(done) == sorted(sent)
    assert all(item.status != "failed" for run in runs for item in run)
    assert len(files_below(mail.out)) == 12


def test_mailbox_sends_under_another_name(mail):
    with mail.mailbox(ALICE) as alice:
        assert alice.send(to=BOB, text="x", sender="team").sender == "team"


def test_mailbox_lists_a_short_note_but_not_a_long_one(mail):
    with mail.mailbox(ALICE) as alice:
        alice.send(to=BOB, text="short")
        mail.clock.advance(1)
        alice.send(to=BOB, text="l" * 1025)
    with mail.mailbox() as bob:
        assert [entry.text for entry in bob.inbox()] == ["short", None]
        got = list(bob.receive(out=mail.out))
    assert [len(item.files[0].read_text()) for item in got] == [5, 1025]


def test_mailbox_refuses_a_long_text_beside_a_file(mail):
    with mail.mailbox(ALICE) as alice, pytest.raises(LimitError):
        alice.send([mail.file()], to=BOB, text="l" * 1025)


def test_mailbox_refuses_to_send_nothing(mail):
    with mail.mailbox(ALICE) as alice, pytest.raises(UsageError, match="nothing to send"):
        alice.send(to=BOB)


# --- looking -------------------------------------------------------------------------------------


def test_mailbox_of_a_repository_that_is_not_there_is_empty(mail):
    with mail.mailbox() as bob:
        assert bob.inbox() == []
        assert bob.last_poll.repository_missing
        assert list(bob.receive(out=mail.out)) == []
        assert bob.last_poll.repository_missing
        with pytest.raises(NotFoundError):
            bob.show("1a2b3c4d")


def test_mailbox_shows_one_message_by_id_or_digest(mail):
    sent = mail.send()
    with mail.mailbox() as bob:
        assert bob.show(sent.id[:8]).digest == sent.digest
        assert bob.show(sent.digest).id == sent.id


def test_mailbox_lists_since(mail):
    mail.send(mail.file(data=b"1"))
    mail.clock.advance(7200)
    new = mail.send(mail.file(data=b"2"))
    with mail.mailbox() as bob:
        entries = bob.inbox(since=mail.clock.now() - timedelta(hours=1))
        assert [entry.id for entry in entries] == [new.id]
        got = list(bob.receive(out=mail.out, since=mail.clock.now() - timedelta(hours=1)))
    assert [item.id for item in got] == [new.id]


def test_mailbox_idle_receive_asks_at_most_four_requests(mail):
    mail.send()
    mail.receive()
    mail.registry.calls.clear()

    assert mail.receive() == []
    assert mail.registry.requests() <= 4


# --- receiving -----------------------------------------------------------------------------------


def test_mailbox_passes_on_that_nothing_answers(mail):
    mail.send()

    def before(name, said):
        raise NetworkError("down")

    mail.registry.before = before

    with mail.mailbox() as bob, pytest.raises(NetworkError):
        bob.inbox()


# --- putting right -------------------------------------------------------------------------------


def test_mailbox_acknowledges(mail):
    sent = mail.send()
    mail.receive()
    with mail.mailbox() as bob:
        mail.clock.advance(1)
        digest = bob.acknowledge(sent.id[:8], "rejected", reason="unreadable")
    with mail.mailbox(ALICE) as alice:
        entries = alice.receipts()
    assert [(entry.status, entry.reason) for entry in entries] == [
        ("accepted", ""),
        ("rejected", "unreadable"),
    ]
    assert entries[1].digest == digest


def test_mailbox_acknowledges_what_it_only_listed(mail):
    sent = mail.send()
    with mail.mailbox() as bob:
        assert bob.acknowledge(sent.id, "rejected")
        assert [entry.state for entry in bob.inbox()] == ["new"]


def test_mailbox_hooks_are_called(mail):
    events = []
    with mail.mailbox(ALICE, progress=events.append) as alice:
        alice.send([mail.file(data=b"x" * 100)], to=BOB, chunk_bytes=50)
    with mail.mailbox(progress=events.append) as bob:
        list(bob.receive(out=mail.out))
    assert [event.done_bytes for event in events] == [50, 100, 50, 100]


def test_mailbox_keeps_the_last_poll_of_a_receive_that_is_left_early(mail):
    three(mail)
    with mail.mailbox() as bob:
        results = bob.receive(out=mail.out)
        next(results)
        results.close()
        assert bob.last_poll.complete


def test_mailbox_can_be_closed_twice(mail):
    box = mail.mailbox()
    box.close()
    box.close()


def test_mailbox_opens_a_registry_without_asking_it_anything(tmp_path):
    with Mailbox("registry.invalid/team/box", me="bob", state_path=tmp_path / "s.db") as bob:
        assert bob.repo == "registry.invalid/team/box"
        assert isinstance(bob._store.registry, HTTPRegistry)


def test_layout_is_read_without_being_made(tmp_path):
    with layout_box(tmp_path, "bob") as bob:
        assert bob.inbox() == []
        assert bob.receipts() == []
    assert not (tmp_path / "box").exists()
    with pytest.raises(NameUnknown):
        LayoutRegistry(tmp_path / "box").resolve_tag("x", "y")


def test_registry_without_referrers_serves_as_well(tmp_path):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    three(mail)
    assert len(mail.receive()) == 3
    with mail.mailbox(ALICE) as alice:
        assert len(alice.receipts()) == 3
    assert REPO == alice.repo
    mail.close()


# --- how messages are looked for, and made easy to find ------------------------------------------


@pytest.mark.parametrize(
    ("discovery", "never_asked"), [("tags", "referrers"), ("referrers", "tag_pages")]
)
def test_mailbox_looks_only_as_it_is_told(mail, discovery, never_asked):
    mail.send()
    mail.receive()  # the first look lists the tags of receipts (SPEC section 7.7)
    mail.send(mail.file("other"))
    mail.registry.calls.clear()
    got = mail.receive(mailbox={"discovery": discovery})
    assert [one.status for one in got] == ["received"]
    assert never_asked not in {name for name, _ in mail.registry.calls}


@pytest.mark.parametrize(
    ("index", "written"), [("auto", False), ("never", False), ("always", True)]
)
def test_mailbox_writes_the_fallback_index_as_it_is_told(mail, index, written):
    with mail.mailbox(ALICE, referrers_index=index) as alice:
        sent = alice.send([mail.file()], to=BOB)
    assert any(tag.startswith("sha256-") for tag in mail.tags()) is written
    mail.receive(mailbox={"referrers_index": index, "trust": TrustOptions(verify=False)})
    assert (f"sha256-{sent.digest.partition(':')[2]}" in mail.tags()) is written
    with mail.mailbox(BOB, referrers_index=index, trust=TrustOptions(verify=False)) as bob:
        other = bob.send(to="carol", text="x")
        bob.acknowledge(sent.id, "rejected")
        bob.sign_object(other.digest)
    assert (f"sha256-{other.digest.partition(':')[2]}" in mail.tags()) is written
