from __future__ import annotations

import io
import os
from random import Random

import pytest

from dockercomms.errors import LocalIOError, PlaceError
from dockercomms.messages.deliver import ReceiveOptions
from dockercomms.messages.receive import receive
from dockercomms.oci.model import digest_of
from dockercomms.protocol.header import CONTENT_TYPE_FILES_TAR
from dockercomms.transport.payload import NotePayload, payload_of
from dockercomms.transport.tar import END, TYPE_FOLDER, TYPE_LINK, TarMember, write_header
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, files_below, folder_of, held, open_mail

SIZES = [0, 1, 1000, 100_000]


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


@pytest.mark.parametrize("compress", ["auto", "zstd", "gzip"])
@pytest.mark.parametrize("size", SIZES)
def test_receive_delivers_a_file_intact(mail, compress, size):
    data = os.urandom(size)
    sent = mail.send(mail.file("data.bin", data), compress=compress, chunk_bytes=30_000)

    got = mail.receive_one()

    assert got.status == "received"
    assert (got.id, got.digest, got.sender, got.bytes) == (sent.id, sent.digest, ALICE, size)
    assert got.files == (mail.out / sent.id[:8] / "data.bin",)
    assert got.files[0].read_bytes() == data
    assert got.error is None
    assert got.signer is None


@pytest.mark.parametrize(
    ("data", "asked"),
    [(b"2", ["get_manifest"]), (Random(2).randbytes(20_000), ["get_manifest", "get_blob"])],
    ids=["small", "large"],
)
def test_receive_needs_one_request_or_two_and_two_for_the_receipt(mail, data, asked):
    mail.send(mail.file(data=b"1"))
    mail.receive_one()
    mail.send(mail.file(data=data))
    inbox = mail.inbox()
    inbox.poll()
    mail.registry.calls.clear()

    (entry,) = inbox.entries()
    receive(
        inbox,
        entry,
        registry=mail.registry,
        repository=REPOSITORY,
        state=mail.bob,
        clock=mail.clock,
        options=ReceiveOptions(out=mail.out),
    )

    assert mail.registry.methods() == [*asked, "push_manifest", "push_manifest"]


def test_receive_leaves_nothing_but_the_file(mail):
    sent = mail.send()

    mail.receive_one()

    assert files_below(mail.out) == {f"{sent.id[:8]}/a.txt": b"hello"}
    assert list((mail.folder / "bob" / "receives").iterdir()) == []


def test_receive_gives_the_file_the_usual_rights(mail):
    old = os.umask(0o027)
    try:
        mail.send()
        (path,) = mail.receive_one().files
    finally:
        os.umask(old)

    assert path.stat().st_mode & 0o777 == 0o640


def test_receive_delivers_a_folder_as_it_was(mail):
    base = mail.folder / "project"
    (base / "sub" / "empty").mkdir(parents=True)
    (base / "sub" / "b.txt").write_text("b")
    (base / "a.sh").write_text("#!/bin/sh")
    (base / "a.sh").chmod(0o755)
    (base / "link").symlink_to("sub/b.txt")
    sent = mail.send(base)

    got = mail.receive_one()

    folder = mail.out / sent.id[:8]
    assert got.files == tuple(folder / "project" / name for name in ("a.sh", "link", "sub/b.txt"))
    assert (folder / "project" / "sub" / "empty").is_dir()
    assert (folder / "project" / "link").readlink().as_posix() == "sub/b.txt"
    assert (folder / "project" / "a.sh").stat().st_mode & 0o100
    assert sorted(path.name for path in mail.out.iterdir()) == [sent.id[:8]]


def test_receive_delivers_several_files(mail):
    sent = mail.send(mail.file("a.txt", b"a"), mail.file("b.txt", b"b"))

    mail.receive_one()

    assert files_below(mail.out) == {
        f"{sent.id[:8]}/a.txt": b"a",
        f"{sent.id[:8]}/b.txt": b"b",
    }


def test_receive_delivers_a_note(mail):
    sent = mail.send(payload=payload_of([], text="hello"))

    assert mail.receive_one().files[0].read_text() == "hello"
    assert sent.total_bytes == 5


def test_receive_delivers_a_stream(mail):
    stream = io.BytesIO(b"streamed")
    mail.send(payload=payload_of(["-"], name="s.bin", stdin=stream))

    (path,) = mail.receive_one().files

    assert (path.name, path.read_bytes()) == ("s.bin", b"streamed")


@pytest.mark.parametrize(
    ("name", "lands"),
    [
        ("-rf", "-rf"),
        (".bashrc", "_.bashrc"),
        ("a\nb", "a_b"),
        ("\u202egnp.exe", "_gnp.exe"),
        ("n" * 300, "n" * 255),
        ("a b ü.txt", "a b ü.txt"),
    ],
)
def test_receive_makes_names_safe(mail, name, lands):
    mail.send(payload=payload_of([mail.file()], name=name))

    (path,) = mail.receive_one().files

    assert path.name == lands


def test_receive_flat_leaves_out_the_folder(mail):
    mail.send()

    assert mail.receive_one(flat=True).files == (mail.out / "a.txt",)


def test_receive_makes_the_out_folder(mail):
    mail.send()

    got = mail.receive_one(out=mail.out / "deep" / "er")

    assert got.files[0].parent.parent == mail.out / "deep" / "er"


def test_receive_gives_absolute_paths(mail, monkeypatch):
    monkeypatch.chdir(mail.folder)
    mail.send()

    (path,) = mail.receive_one(out=mail.folder.__class__("in")).files

    assert path.is_absolute()
    assert path.parts[-3] == "in"


def test_receive_never_overwrites(mail):
    mail.out.mkdir()
    (mail.out / "a.txt").write_text("mine")
    (mail.out / "a (2).txt").symlink_to(mail.folder / "nowhere")
    mail.send()

    got = mail.receive_one(flat=True)

    assert got.files == (mail.out / "a (3).txt",)
    assert (mail.out / "a.txt").read_text() == "mine"
    assert not (mail.folder / "nowhere").exists()


def test_receive_overwrites_when_told_to(mail):
    mail.out.mkdir()
    victim = mail.folder / "victim"
    victim.write_text("untouched")
    (mail.out / "a.txt").symlink_to(victim)
    mail.send()

    got = mail.receive_one(flat=True, overwrite=True)

    assert got.files == (mail.out / "a.txt",)
    assert (mail.out / "a.txt").read_bytes() == b"hello"
    assert victim.read_text() == "untouched"  # the link was replaced, not followed


def test_receive_cannot_overwrite_a_folder_by_a_file(mail):
    (mail.out / "a.txt").mkdir(parents=True)
    mail.send()

    got = mail.receive_one(flat=True, overwrite=True)

    assert isinstance(got.error, PlaceError)
    assert (mail.out / "a.txt").is_dir()
    assert (held(mail).state, held(mail).reason_kind) == ("held", "place")


def test_receive_flat_folder_becomes_itself(mail):
    mail.send(folder_of(mail, a="1"))

    got = mail.receive_one(flat=True)

    assert got.files == (mail.out / "project" / "a",)


def test_receive_flat_several_files_get_one_folder(mail):
    mail.send(mail.file("a", b"a"), mail.file("b", b"b"))

    mail.receive_one(flat=True)

    assert files_below(mail.out) == {"files/a": b"a", "files/b": b"b"}


def test_receive_folder_takes_the_next_number(mail):
    (mail.out / "project").mkdir(parents=True)
    mail.send(folder_of(mail, a="1"))

    got = mail.receive_one(flat=True)

    assert got.files == (mail.out / "project (2)" / "a",)


def test_receive_overwriting_merges_a_folder(mail):
    (mail.out / "project").mkdir(parents=True)
    (mail.out / "project" / "a").write_text("old")
    (mail.out / "project" / "mine").write_text("mine")
    mail.send(folder_of(mail, a="new", b="b"))

    mail.receive_one(flat=True, overwrite=True)

    assert files_below(mail.out) == {
        "project/a": b"new",
        "project/b": b"b",
        "project/mine": b"mine",
    }


# --- what earlier messages, and the user, left in the folder --------------------------------------


@pytest.fixture
def ssh(mail):
    """A folder of the user's beside OUT that a sender would like to write into."""
    folder = mail.folder / "ssh"
    folder.mkdir()
    (folder / "authorized_keys").write_text("mine")
    return folder


@pytest.mark.parametrize("flat", [True, False])
def test_receive_writes_nothing_through_a_link_of_the_user(mail, ssh, flat):
    sent = mail.send(folder_of(mail, authorized_keys="theirs"))
    mail.out.mkdir()
    (mail.out / ("project" if flat else sent.id[:8])).symlink_to(ssh)

    got = mail.receive_one(flat=flat, overwrite=True)

    assert (ssh / "authorized_keys").read_text() == "mine"
    assert isinstance(got.error, PlaceError) == flat
    if not flat:
        assert got.files[0].parent.parent == mail.out / f"{sent.id[:8]} (2)"


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_receive_writes_nothing_through_a_link_in_the_message_s_own_folder(
    mail, ssh, flat, overwrite
):
    """The case of an attacker who guesses the id: ids are the sender's choice."""
    sent = mail.send(mail.file("authorized_keys", b"theirs"))
    mail.out.mkdir()
    (mail.out / sent.id[:8]).symlink_to(ssh)

    got = mail.receive_one(flat=flat, overwrite=overwrite)

    assert got.status == "received"
    assert files_below(ssh) == {"authorized_keys": b"mine"}


def test_receive_flat_holds_a_link_that_leads_out_of_its_folder(mail):
    mail.out.mkdir()
    (mail.out / ".env").write_text("secret")
    # No sender of ours packs it: within the tar the link stays inside, and leads nowhere
    tar = write_header(TarMember(path="dist", type=TYPE_FOLDER))
    tar += write_header(TarMember(path="dist/notes.txt", type=TYPE_LINK, link_target="../.env"))
    mail.send(payload=NotePayload(tar + END, "dist.tar", CONTENT_TYPE_FILES_TAR))

    got = mail.receive_one(flat=True)

    assert isinstance(got.error, PlaceError)
    assert "link 'notes.txt' would point outside of it: '../.env'" in str(got.error)
    assert files_below(mail.out) == {".env": b"secret"}
    assert held(mail).reason_kind == "place"


def test_receive_in_its_own_folder_takes_what_was_held_flat(mail):
    base = folder_of(mail, a="1")
    (base / "notes.txt").symlink_to("../project/a")
    sent = mail.send(base)
    assert mail.receive_one(flat=True).status == "failed"

    (got,) = mail.receive()

    assert got.status == "received"
    assert (mail.out / sent.id[:8] / "project" / "notes.txt").read_text() == "1"


def test_receive_follows_an_out_folder_that_is_a_link(mail):
    (mail.folder / "real").mkdir()
    mail.out.symlink_to("real")
    sent = mail.send()

    assert mail.receive_one().files == (mail.out / sent.id[:8] / "a.txt",)
    assert files_below(mail.folder / "real") == {f"{sent.id[:8]}/a.txt": b"hello"}


def test_receive_stays_in_the_out_folder_that_it_opened(mail, ssh):
    """Somebody puts a link in its place while the payload arrives."""
    mail.send(mail.large_file())

    def swap(name, said):
        if name == "get_blob":
            mail.out.rename(mail.folder / "moved")
            mail.out.symlink_to(ssh)

    mail.registry.before = swap
    mail.receive_one()

    assert files_below(ssh) == {"authorized_keys": b"mine"}


@pytest.mark.parametrize("payload", ["file", "folder"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_receive_enters_no_folder_that_is_there(mail, payload, overwrite):
    sent = mail.send(mail.file() if payload == "file" else folder_of(mail, a="1"))
    theirs = mail.out / sent.id[:8]
    theirs.mkdir(parents=True)
    (theirs / "Makefile").write_text("theirs")

    got = mail.receive_one(overwrite=overwrite)

    assert got.files[0].relative_to(mail.out).parts[0] == f"{sent.id[:8]} (2)"
    assert files_below(theirs) == {"Makefile": b"theirs"}
    assert sorted(path.name for path in mail.out.iterdir()) == [theirs.name, f"{theirs.name} (2)"]


@pytest.mark.parametrize("payload", ["file", "folder"])
def test_receive_does_not_take_another_message_s_folder_for_its_own_after_a_crash(mail, payload):
    """Both have the same id digits and shape; the crash came before the rename."""
    sent = mail.send(mail.file() if payload == "file" else folder_of(mail, a="1"))
    first = mail.receive_one()
    rows = mail.bob.inbox
    known = rows.delivery(BOB, sent.digest)
    rows.begin_delivery(
        BOB, digest_of(b"other"), repo=REPO, message_id="x", sender=ALICE, path=known.path,
        payload_digest=known.payload_digest, expires=None,
    )  # fmt: skip

    assert rows.is_taken(known.path, but=digest_of(b"other"))
    assert not rows.is_taken(known.path, but=sent.digest)
    assert rows.is_taken(first.files[0].parent, but=digest_of(b"other")) == (payload == "file")
    assert not rows.is_taken(mail.out / sent.id[:4], but=digest_of(b"other"))


def test_receive_to_a_stream_writes_no_file(mail):
    mail.send(mail.file(data=b"to stdout"))
    stream = io.BytesIO()

    got = mail.receive_one(stdout=stream)

    assert stream.getvalue() == b"to stdout"
    assert (got.status, got.files) == ("received", ())
    assert not mail.out.exists()
    assert mail.bob.inbox.delivery(BOB, got.digest).state == "delivered"


class Broken(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        raise BrokenPipeError(32, "Broken pipe")


def test_receive_to_a_broken_stream_leaves_the_message_new(mail):
    sent = mail.send()

    got = mail.receive_one(stdout=Broken())

    assert isinstance(got.error, LocalIOError)
    assert mail.bob.inbox.delivery(BOB, sent.digest) is None
    assert held(mail).state == "new"
