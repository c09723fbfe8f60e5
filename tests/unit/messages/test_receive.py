from __future__ import annotations

import io
import os
import shutil
from collections import namedtuple

import pytest

from dockercomms.errors import (
    BadAnswer,
    ClocksDiffer,
    Denied,
    IntegrityError,
    LimitError,
    LocalIOError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    UnknownSender,
)
from dockercomms.messages.deliver import ReceiveOptions
from dockercomms.messages.place import TEMPORARY, delivery_key
from dockercomms.messages.receive import leftovers_of, receive
from dockercomms.messages.verify import Accepted, Withheld
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.protocol.header import (
    CHUNK_INDEX,
    CHUNK_SIZE,
    CONTENT_TYPE_FILES_TAR,
    MEDIA_TYPE_CHUNK_ZSTD,
    MessageHeader,
)
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import message_tag, recipient_tag
from dockercomms.state.locks import try_lock
from dockercomms.transport.folders import Folder
from dockercomms.transport.payload import NotePayload
from dockercomms.transport.push import push_payload
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.verifier import Verified
from tests.fakes.events import Events
from tests.fakes.mail import (
    ALICE,
    BOB,
    REPO,
    REPOSITORY,
    Mail,
    files_below,
    folder_of,
    held,
    open_mail,
)
from tests.fakes.watched import FailAt, WatchedRegistry

SIZES = [0, 1, 1000, 100_000]


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def assert_nothing_left(mail: Mail) -> None:
    assert files_below(mail.out) == {}
    assert not mail.out.exists() or list(mail.out.iterdir()) == []
    assert not list((mail.folder / "bob" / "receives").iterdir())


# --- once ----------------------------------------------------------------------------------------


def entry_of(mail: Mail, inbox, digest):
    (entry,) = inbox.find(digest)
    return entry


def receive_found(mail: Mail, digest, **options):
    inbox = mail.inbox()
    inbox.poll()
    return receive(
        inbox,
        entry_of(mail, inbox, digest),
        registry=mail.registry,
        repository=REPOSITORY,
        state=mail.bob,
        clock=mail.clock,
        options=ReceiveOptions(out=mail.out, **options),
    )


def test_receive_waits_for_the_disk_twice_for_each_message(mail):
    """Two commits: one for the target of the files, one for their delivery; no others."""
    commits = []
    for count in (1, 2, 5):
        for number in range(count):
            mail.send(mail.file(f"{count}-{number}"))
        mail.close()
        events = Events(0, lambda: None)
        with events.commits():
            mail.__post_init__()
            received = mail.receive(mailbox={"trust": TrustOptions(verify=False)}, receipt=False)
        assert [item.status for item in received] == ["received"] * count
        commits.append(events.seen)
    assert commits[2] - commits[1] == 3 * 2


def test_receive_skips_what_was_delivered(mail):
    sent = mail.send()
    mail.receive_one()

    got = receive_found(mail, sent.digest)

    assert (got.status, got.reason) == ("skipped", "it was delivered before")
    assert len(files_below(mail.out)) == 1


def test_receive_again_delivers_beside_it_and_writes_no_second_receipt(mail):
    sent = mail.send()
    first = mail.receive_one()
    mail.clock.advance(60)

    second = receive_found(mail, sent.digest, again=True)

    assert second.files == (mail.out / f"{sent.id[:8]} (2)" / "a.txt",)
    assert second.receipt == first.receipt
    assert len([tag for tag in mail.tags() if tag.startswith("receipt-")]) == 1


def test_receive_skips_what_expired(mail):
    sent = mail.send(ttl_seconds=60)
    mail.clock.advance(61)

    got = receive_found(mail, sent.digest)

    assert (got.status, got.reason) == ("skipped", "it has expired")
    assert receive_found(mail, sent.digest, again=True).status == "received"


def test_receive_holds_what_has_expired_by_one_clock_only(mail):
    sent = mail.send(ttl_seconds=60)
    now = mail.clock.now()
    mail.registry.time = lambda: now
    mail.clock.advance(3661)

    unclear = receive_found(mail, sent.digest)
    assert (unclear.status, type(unclear.error)) == ("failed", ClocksDiffer)


def test_receive_leaves_a_delivery_to_who_is_at_it(mail):
    sent = mail.send()
    path = mail.folder / "bob" / "receives" / f"{delivery_key(BOB, sent.digest)}.lock"

    with try_lock(path) as ours:
        got = mail.receive_one()

    assert ours
    assert (got.status, got.reason) == ("skipped", "this process is receiving it")
    assert mail.receive_one().status == "received"


def test_receive_twice_at_once_delivers_once(mail):
    sent = mail.send(mail.large_file())
    inner = []

    def before(name, said):
        if name == "get_blob" and not inner:
            inner.append(None)
            inner[0] = receive_found(mail, sent.digest)

    mail.registry.before = before

    outer = mail.receive_one()

    assert (outer.status, inner[0].status) == ("received", "skipped")
    assert len(files_below(mail.out)) == 1


def test_receive_settles_a_delivery_that_was_in_place(mail):
    sent = mail.send()
    final = mail.out / "kept.txt"
    begin(mail, sent, final, b"hello")

    got = mail.receive_one()

    assert got.status == "received"
    assert got.files == (final,)
    assert got.receipt is not None
    assert files_below(mail.out) == {"kept.txt": b"hello"}


def begin(mail: Mail, sent, final, data, *, path=None):
    """Leave what a run leaves that ends between the last two steps."""
    mail.inbox().poll()
    mail.inbox().entries()
    final.parent.mkdir(parents=True, exist_ok=True)
    final.write_bytes(data)
    mail.bob.inbox.begin_delivery(
        BOB,
        sent.digest,
        repo=REPO,
        message_id=sent.id,
        sender=ALICE,
        path=path or final,
        payload_digest=digest_of(b"hello"),
        expires=None,
    )


def test_receive_starts_again_when_something_else_is_in_place(mail):
    sent = mail.send()
    begin(mail, sent, mail.out / "kept.txt", b"hellO")

    got = mail.receive_one()

    assert got.files == (mail.out / sent.id[:8] / "a.txt",)


def test_receive_settles_a_folder_by_its_tree(mail):
    sent = mail.send(folder_of(mail, a="1"))
    rows = mail.bob.inbox
    fault = FailAt(1, KeyboardInterrupt)
    finish, rows.finish_delivery = rows.finish_delivery, fault  # the process ends there
    with pytest.raises(KeyboardInterrupt):
        mail.receive_one()
    rows.finish_delivery = finish

    got = mail.receive_one()

    assert got.files == (mail.out / sent.id[:8] / "project" / "a",)
    assert list(files_below(mail.out)) == [f"{sent.id[:8]}/project/a"]


def test_receive_starts_again_when_the_tree_is_not_whole(mail):
    sent = mail.send(folder_of(mail, a="1", b="2"))
    begin(mail, sent, mail.out / "half" / "a", b"1", path=mail.out / "half")

    got = mail.receive_one()

    folder = mail.out / sent.id[:8] / "project"
    assert got.files == (folder / "a", folder / "b")


def test_receive_interrupted_redelivery_stays_delivered(mail):
    sent = mail.send()
    mail.receive_one(receipt=False)
    mail.bob.inbox.begin_delivery(
        BOB,
        sent.digest,
        repo=REPO,
        message_id=sent.id,
        sender=ALICE,
        path=None,
        payload_digest=None,
        expires=None,
    )

    got = receive_found(mail, sent.digest)

    assert (got.status, got.reason) == ("skipped", "it was delivered before")


def interrupted(mail, error, *, at=7) -> list[str]:
    """Receive ten chunks, one after another, of which number `at` breaks off; return what came."""
    mail.send(mail.file(data=os.urandom(200_000)), chunk_bytes=20_000)
    mail.registry.calls.clear()
    fail = FailAt(at, error)
    mail.registry.before = lambda name, said: fail() if name == "get_blob" else None
    try:
        mail.receive_one(concurrency=1)
    except KeyboardInterrupt:
        pass
    mail.registry.before = None
    came = blobs_asked(mail)[: at - 1]
    mail.registry.calls.clear()
    return came


def kept_file(mail):
    """Return the temporary that an interrupted run kept, in its temporary folder."""
    (path,) = (path for path in mail.out.rglob("*.part") if path.is_file())
    return path


def blobs_asked(mail) -> list[str]:
    return [said for name, said in mail.registry.calls if name == "get_blob"]


def interrupt_of_the_line() -> NetworkError:
    return NetworkError("cut")


@pytest.mark.parametrize("error", [KeyboardInterrupt, interrupt_of_the_line])
def test_receive_interrupted_goes_on_where_it_was(mail, error):
    came = interrupted(mail, error)

    (kept,) = files_below(mail.out)
    assert kept.endswith(".part")
    assert mail.receive_one().status == "received"

    assert len(blobs_asked(mail)) == 4
    assert not set(came) & set(blobs_asked(mail))
    assert [len(data) for data in files_below(mail.out).values()] == [200_000]
    assert mail.bob.pulls.sweep(now=mail.clock.now()) is None
    assert not list((mail.folder / "bob" / "receives").iterdir())


def test_receive_interrupted_before_anything_came_leaves_no_file(mail):
    interrupted(mail, interrupt_of_the_line, at=1)
    assert_nothing_left(mail)


def test_receive_believes_nothing_of_what_a_killed_run_left(mail):
    interrupted(mail, KeyboardInterrupt)
    path = kept_file(mail)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)

    assert mail.receive_one().status == "received"
    assert len(blobs_asked(mail)) == 4 + 10
    assert [len(data) for data in files_below(mail.out).values()] == [200_000]


def test_receive_begins_again_where_the_file_is_gone_or_elsewhere(mail):
    interrupted(mail, KeyboardInterrupt)
    path = kept_file(mail)
    other = mail.folder / "other"

    assert mail.receive_one(out=other).status == "received"

    assert len(blobs_asked(mail)) == 10
    assert [len(data) for data in files_below(other).values()] == [200_000]
    assert not path.exists()


def test_receive_sweeps_what_nobody_went_on_with(mail):
    interrupted(mail, KeyboardInterrupt)
    leftovers_of(mail.bob, mail.clock).sweep()
    assert files_below(mail.out)

    mail.clock.advance(24 * 3600 + 1)
    mail.bob.pulls.sweep(now=mail.clock.now())
    leftovers_of(mail.bob, mail.clock).sweep()

    assert_nothing_left(mail)


def test_receive_does_not_follow_a_link_in_place_of_what_it_kept(mail):
    interrupted(mail, KeyboardInterrupt)
    path = kept_file(mail)
    victim = mail.file("victim", b"mine")
    path.unlink()
    path.symlink_to(victim)

    assert mail.receive_one().status == "received"
    assert victim.read_bytes() == b"mine"


def test_receive_removes_what_a_killed_run_left(mail):
    sent = mail.send()
    leftovers = leftovers_of(mail.bob, mail.clock)
    key = delivery_key(BOB, sent.digest)
    elsewhere = mail.folder / "elsewhere"
    elsewhere.mkdir()
    leftovers.folder.mkdir(parents=True)
    with Folder.open(elsewhere) as folder:
        name, handle = leftovers.new_file(key, folder)
        os.close(handle)
        unpacked = leftovers.new_folder(key, folder)
    (elsewhere / unpacked / "a").write_text("a")
    assert TEMPORARY.fullmatch(name)

    mail.receive_one()

    assert list(elsewhere.iterdir()) == []


# --- what is wrong with it -----------------------------------------------------------------------


def blobs(mail: Mail):
    return mail.reader._repositories[REPOSITORY].blobs


def test_receive_holds_a_message_whose_chunk_is_damaged(mail):
    mail.send(mail.large_file())
    for digest in blobs(mail):
        if digest != EMPTY_CONFIG.digest:
            blobs(mail)[digest] = blobs(mail)[digest][:-1] + b"?"

    got = mail.receive_one()

    assert got.status == "failed"
    assert isinstance(got.error, IntegrityError)
    assert (held(mail).state, held(mail).reason_kind) == ("held", "integrity")
    assert_nothing_left(mail)


def test_receive_holds_a_message_whose_chunk_comes_with_a_bad_answer(mail):
    """A redirect of a login page, say: only proven bytes refuse a message for good."""
    mail.send(mail.large_file())
    answers = [BadAnswer("http://portal/: refused, because https://r.example is not left for it")]

    def before(name, said):
        if name == "get_blob" and answers:
            raise answers.pop()

    mail.registry.before = before
    got = mail.receive_one()
    assert isinstance(got.error, BadAnswer)
    assert (held(mail).state, held(mail).reason_kind) == ("held", "answer")
    assert_nothing_left(mail)
    assert mail.receive_one().status == "received"


def test_receive_holds_a_message_whose_chunk_is_missing(mail):
    mail.send(mail.large_file())
    kept = dict(blobs(mail))
    blobs(mail).clear()

    got = mail.receive_one()

    assert isinstance(got.error, NotFoundError)
    assert (held(mail).state, held(mail).reason_kind) == ("held", "missing")
    assert_nothing_left(mail)

    blobs(mail).update(kept)
    assert mail.receive_one().status == "received"


def layer_of(data: bytes) -> bytes:
    """Return the layer of the one chunk `data`."""
    registry = MemoryRegistry()
    (layer,) = push_payload(registry, "x", NotePayload(data)).layers
    return read_all(registry.get_blob("x", layer.digest), 10**9)[0]


def publish(mail: Mail, layer: bytes, **changes) -> None:
    """Publish a message around the bytes of one layer, right or wrong."""
    values = {
        "id": "1a2b3c4d-0000-4000-8000-000000000001",
        "sender": ALICE,
        "recipient": BOB,
        "created_at": mail.clock.now(),
        "ttl_seconds": 3600,
        "filename": "x.bin",
        "total_bytes": 5,
        "chunk_bytes": 5,
        "chunk_count": 1,
        "compression": "zstd",
        "payload_digest": digest_of(b"hello"),
        **changes,
    }
    header = MessageHeader(**values)
    size = {} if header.version == "1.0" else {CHUNK_SIZE: str(header.total_bytes)}
    descriptor = Descriptor.of(layer, MEDIA_TYPE_CHUNK_ZSTD, annotations={CHUNK_INDEX: "0", **size})
    for blob, data in ((descriptor, layer), (EMPTY_CONFIG, b"{}")):
        mail.reader.push_blob(REPOSITORY, blob, lambda data=data: io.BytesIO(data))
    annotations = header.to_annotations(compat=header.version == "1.0")
    data, described = ManifestBuilder.message(annotations, [descriptor]).build()
    tag = message_tag(recipient_tag(BOB), mail.clock.now(), described.digest)
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=(tag,))


def test_receive_refuses_a_chunk_that_breaks_the_rules(mail):
    publish(mail, b"not zstd at all")

    got = mail.receive_one()

    assert isinstance(got.error, ProtocolError)
    assert not isinstance(got.error, IntegrityError)
    assert (held(mail).state, held(mail).reason_kind) == ("refused", "malformed")
    assert_nothing_left(mail)


def test_receive_refuses_a_payload_that_is_not_what_was_announced(mail):
    publish(mail, layer_of(b"hellO"))

    assert mail.receive_one().status == "failed"
    assert held(mail).state == "refused"
    assert_nothing_left(mail)


def test_receive_refuses_files_that_lead_out_of_their_folder(mail):
    import tarfile

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as out:
        out.addfile(tarfile.TarInfo("../escape"))
    data = tar.getvalue()
    publish(
        mail,
        layer_of(data),
        total_bytes=len(data),
        chunk_bytes=len(data),
        payload_digest=digest_of(data),
        content_type=CONTENT_TYPE_FILES_TAR,
        filename="x.tar",
    )

    got = mail.receive_one()

    assert "../escape" in str(got.error)
    assert held(mail).state == "refused"
    assert_nothing_left(mail)


def test_receive_takes_a_1_0_message_with_any_id_and_no_digest(mail):
    publish(mail, layer_of(b"hello"), version="1.0", id="any id/at all", payload_digest=None)

    (path,) = mail.receive_one().files

    assert path.read_bytes() == b"hello"
    assert path.parent.parent == mail.out
    assert len(path.parent.name) == 8


def test_receive_leaves_the_message_new_on_a_network_error(mail):
    mail.send(mail.large_file())
    mail.registry.before = lambda name, said: FailAt(1)() if name == "get_blob" else None

    got = mail.receive_one()

    assert isinstance(got.error, NetworkError)
    assert held(mail).state == "new"
    assert_nothing_left(mail)


def test_receive_holds_what_is_larger_than_allowed(mail):
    mail.send(mail.file(data=b"x" * 100))

    got = mail.receive_one(max_total_bytes=99)

    assert isinstance(got.error, LimitError)
    assert (held(mail).state, held(mail).reason_kind) == ("held", "limit")
    assert "get_blob" not in mail.registry.methods()


def test_receive_needs_room_before_it_begins(mail, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 96, 4))
    mail.send()

    got = mail.receive_one()

    assert isinstance(got.error, LocalIOError)
    assert "5 bytes needed" in str(got.error)
    assert "4 free" in str(got.error)
    assert held(mail).state == "new"
    assert "get_blob" not in mail.registry.methods()
    assert_nothing_left(mail)


def test_receive_cannot_write_where_it_may_not(mail):
    mail.out.write_text("a file, not a folder")
    mail.send()

    got = mail.receive_one()

    assert isinstance(got.error, LocalIOError)
    assert held(mail).state == "new"


# --- policy --------------------------------------------------------------------------------------


class FakeVerifier:
    def __init__(self, verdict) -> None:
        self.verdict = verdict

    def verify(self, message):
        return self.verdict


def test_receive_says_who_signed(mail):
    mail.send()
    verified = Verified(name="Alice Example", kind="key", signer="k")

    got = mail.receive_one(verifier=FakeVerifier(Accepted(status="valid", verified=verified)))

    assert (got.signer, got.signature_status) == ("Alice Example", "valid")
    assert mail.bob.trust.signed(BOB, "Alice Example", got.id) == got.digest


def test_receive_says_that_nobody_asked(mail):
    mail.send()

    got = mail.receive_one()

    assert (got.signer, got.signature_status) == (None, "unchecked")
    assert mail.bob.trust.signed(BOB, ALICE, got.id) is None


@pytest.mark.parametrize(("refused", "state"), [(False, "held"), (True, "refused")])
def test_receive_writes_nothing_that_is_withheld(mail, refused, state):
    mail.send()
    error = UnknownSender("who is that?\n  bundle 1: a stranger's")
    verdict = Withheld(kind="unknown-sender", status="untrusted", error=error, refused=refused)

    got = mail.receive_one(verifier=FakeVerifier(verdict))

    assert got.error is error
    row = held(mail)
    assert (row.state, row.reason_kind) == (state, "unknown-sender")
    assert row.reason == "who is that?; bundle 1: a stranger's"
    assert "get_blob" not in mail.registry.methods()
    assert not mail.out.exists()


def test_receive_takes_less_of_strangers_than_the_disk_holds(mail, monkeypatch):
    monkeypatch.setattr("dockercomms.messages.receive.MAX_UNTRUSTED_TOTAL_BYTES", 4)
    mail.send()
    verified = Verified(name=ALICE, kind="key", signer="k")

    stranger = mail.receive_one()
    friend = mail.receive_one(verifier=FakeVerifier(Accepted(status="valid", verified=verified)))

    assert isinstance(stranger.error, LimitError)
    assert friend.status == "received"


# --- receipts ------------------------------------------------------------------------------------


def test_receive_without_receipt_writes_none(mail):
    mail.send()

    got = mail.receive_one(receipt=False)

    assert got.receipt is None
    assert not [tag for tag in mail.tags() if tag.startswith("receipt")]
    assert mail.bob.receipts.pending(REPO, BOB, now=mail.clock.now()) == ()


def test_receive_stands_even_if_the_receipt_has_to_wait(mail):
    mail.send()

    def before(name, said):
        if name == "push_manifest":
            raise Denied("read only", status=403)

    mail.registry.before = before

    got = mail.receive_one()

    assert got.status == "received"
    assert got.receipt is None
    assert isinstance(got.error, Denied)
    assert len(files_below(mail.out)) == 1


def test_receive_over_a_registry_without_the_referrers_api(tmp_path):
    mail = Mail(tmp_path)
    mail.registry = WatchedRegistry(MemoryRegistry(clock=mail.clock, referrers=False))
    sent = mail.send()

    got = mail.receive_one()

    (entry,) = mail.reader.referrers(REPOSITORY, sent.digest)
    assert entry.digest == got.receipt
    mail.close()
