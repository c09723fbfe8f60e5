"""Bad input at the sender's own machine, and odd names: said in three lines, and nothing is lost."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from dockercomms.protocol.manifest import parse_message
from dockercomms.transport.names import MAX_DISK_NAME_BYTES
from tests.fakes.registry import FakeRegistry, Fault
from tests.faults.people import REPOSITORY, Person, messages, told
from tests.faults.privileges import as_everybody

CHUNK = "64KiB"


@pytest.fixture
def alice(tmp_path: Path, registry: FakeRegistry) -> Person:
    return Person("alice", tmp_path, f"{registry.host}/{REPOSITORY}", registry.clock)


def wire_header(registry: FakeRegistry) -> Any:
    """Return the header of the one message that is published."""
    (digest,) = messages(registry).values()
    return parse_message(registry.repository(REPOSITORY).manifests[digest].data).header


# --- what cannot be read ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing.txt", "nowhere/a.txt", "a.txt/inside"])
def test_missing_file_is_named_and_nothing_is_asked(
    alice: Person, registry: FakeRegistry, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.txt").write_text("a file, not a folder")
    told(alice.send(name), 8, name, hint=["check the path"])
    told(alice.send("a.txt", name), 8, name, hint=["check the path"])
    assert registry.requests == []


def test_missing_file_makes_no_mailbox_folder(tmp_path: Path) -> None:
    alice = Person("alice", tmp_path, f"oci-layout:{tmp_path / 'box'}")
    told(alice.send("nothing.txt"), 8, "nothing.txt", "No such file")
    assert not (tmp_path / "box").exists()


def test_unreadable_file_is_named_and_can_be_sent_when_it_is_readable(
    alice: Person, bob: Person, registry: FakeRegistry, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"for bob only")
    secret.chmod(0)
    result = as_everybody(lambda: alice.send("secret.txt"))
    told(result, 8, "secret.txt", "Permission denied", hint=["check the permissions"])
    assert registry.requests == []
    secret.chmod(0o600)
    as_everybody(lambda: alice.send_ok("secret.txt"))
    bob.received()
    assert bob.content() == [b"for bob only"]


@pytest.mark.parametrize("locked", ["tree/deep", "tree/deep/b.txt"])
def test_unreadable_part_of_a_folder_is_named_and_nothing_is_published(
    alice: Person, bob: Person, registry: FakeRegistry, tmp_path: Path, locked: str
) -> None:
    for name in ("tree/a.txt", "tree/deep/b.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / locked).chmod(0)
    try:
        result = as_everybody(lambda: alice.send("tree"))
    finally:
        (tmp_path / locked).chmod(0o700)
    told(result, 8, locked, "Permission denied", hint=["check the permissions"])
    assert messages(registry) == {}
    alice.send_ok("tree")
    bob.received()
    assert bob.content() == [b"tree/a.txt", b"tree/deep/b.txt"]


@pytest.mark.parametrize("mode", [0o500, 0o300, 0])
def test_folder_that_may_not_be_used_leaves_the_message_new(
    alice: Person, bob: Person, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    alice.send_ok("a.txt")
    bob.out.mkdir()
    bob.out.chmod(mode)
    result = as_everybody(bob.recv)
    told(result, 8, "in-bob", "Permission denied", hint=["check the permissions"])
    assert bob.content() == []
    assert [entry["state"] for entry in bob.inbox()] == ["new"]
    bob.out.chmod(0o700)
    assert len(as_everybody(bob.received)) == 1
    assert bob.content() == [b"hello"]


@pytest.mark.parametrize("kind", ["socket", "device"])
def test_what_is_no_file_is_usage(
    alice: Person, registry: FakeRegistry, tmp_path: Path, kind: str
) -> None:
    name = "/dev/null"
    if kind == "socket":
        name = "s"  # the path of a socket may have a hundred bytes only
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    told(alice.send(name), 64, name, "neither file, folder nor pipe", hint=["--name"])
    assert registry.requests == []


# --- what does not hold still ----------------------------------------------------------------


def grow(path: Path) -> None:
    with path.open("ab") as out:
        out.write(b"and more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def remove(path: Path) -> None:
    path.unlink()


CHANGES = [grow, shrink, rewrite, replace, remove]


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_source_that_changes_while_it_is_sent_is_not_published(
    alice: Person,
    bob: Person,
    registry: FakeRegistry,
    tmp_path: Path,
    what: str,
    change: Any,
    after: int,
) -> None:
    source = tmp_path / "tree" / "data.bin"
    source.parent.mkdir()
    data = bytes(range(256)) * 1024
    source.write_bytes(data)
    sent = "tree" if what == "folder" else "tree/data.bin"
    posts = 0

    def when_uploading(request: Any) -> bool:
        nonlocal posts
        if request.method == "POST":
            if posts == after:
                change(source)
            posts += 1
        return False

    registry.fail_when(when_uploading, Fault.drop_before())
    result = alice.send(sent, "--chunk-size", CHUNK, "--concurrency", "1")
    # A folder changes when a file in it is replaced.
    hint = "again" if what == "folder" or source.exists() else "check the path"
    told(result, 8, "data.bin" if what == "file" else "tree", hint=[hint])
    assert messages(registry) == {}
    registry.faults.clear()
    # What is there now is what the next send sends, and all of it.
    source.write_bytes(data[::-1])
    alice.send_ok(sent, "--chunk-size", CHUNK)
    assert len(bob.received()) == 1
    assert bob.content() == [data[::-1]]


# --- small ones --------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["auto", "zstd", "gzip"])
@pytest.mark.parametrize("data", [b"", b"x"])
def test_empty_file_and_one_byte_arrive(
    alice: Person, bob: Person, tmp_path: Path, data: bytes, compress: str
) -> None:
    (tmp_path / "small").write_bytes(data)
    sent = alice.send_ok("small", "--compress", compress)
    assert (sent["bytes"], sent["chunks"]) == (len(data), 1)
    (got,) = bob.received()
    assert (got["bytes"], bob.content()) == (len(data), [data])
    assert [receipt["status"] for receipt in alice.receipts()] == ["accepted"]


def test_empty_stdin_is_refused(alice: Person, registry: FakeRegistry) -> None:
    told(alice.send("-", "--name", "nothing.txt", stdin=b""), 64, "empty", hint=["an empty file"])
    assert messages(registry) == {}


def test_empty_folder_and_note_arrive(alice: Person, bob: Person, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    alice.send_ok("hollow")
    alice.send_ok("--text", "")
    assert sorted(got["bytes"] for got in bob.received()) == [0, 1536]
    assert bob.content() == [b""]
    assert [path.name for path in bob.out.glob("*/*")].count("hollow") == 1


# --- names -------------------------------------------------------------------------------------

LONG = "n" * (MAX_DISK_NAME_BYTES - 4) + ".txt"
WIDE = "ü" * 125 + "n.txt"
ODD_NAMES = {
    LONG: LONG,
    WIDE: WIDE,
    "with  two spaces.txt": "with  two spaces.txt",
    "день ☕ 日本語.txt": "день ☕ 日本語.txt",
    "two\nlines.txt": "two_lines.txt",
    "-rf": "-rf",
    "--to": "--to",
    ".hidden": "_.hidden",
    "a\\b": "a_b",
    "\x1b[2Jred": "_[2Jred",
    "evil\u202etxt.exe": "evil_txt.exe",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_on_disk_arrive_under_a_safe_name(
    alice: Person, bob: Person, registry: FakeRegistry, tmp_path: Path, name: str
) -> None:
    assert len(os.fsencode(name)) <= MAX_DISK_NAME_BYTES
    (tmp_path / name).write_bytes(b"content")
    sent = alice.send_ok("--", name)
    assert [entry["filename"] for entry in bob.inbox()] == [name]
    (got,) = bob.received()
    assert got["files"] == [str(bob.out / sent["id"][:8] / ODD_NAMES[name])]
    assert bob.content() == [b"content"]
    assert len(wire_header(registry).filename.encode()) <= 237


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_never_reach_the_terminal_as_they_are(
    alice: Person, bob: Person, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"content")
    sent = alice.send("--", name)
    listed, received = bob.run("inbox"), bob.run("recv", "--out", str(bob.out))
    for result in (sent, listed, received):
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout + result.stderr
        assert "\u202e" not in result.stdout + result.stderr
    assert len(listed.stdout.splitlines()) == 1
    assert len(received.stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["n" * 296 + ".txt", "ü" * 148 + ".txt", "日" * 99 + ".md"])
def test_name_of_300_bytes_travels_whole_and_lands_shortened(
    alice: Person, bob: Person, registry: FakeRegistry, tmp_path: Path, name: str
) -> None:
    assert 299 <= len(name.encode()) <= 300
    (tmp_path / "a.txt").write_bytes(b"content")
    alice.send_ok("a.txt", "--name", name)
    header = wire_header(registry)
    ending = name[name.rindex(".") :]
    assert header.filename_full == name
    assert len(header.filename.encode()) <= 237
    assert name.startswith(header.filename.removesuffix(ending))
    assert [entry["filename"] for entry in bob.inbox()] == [name]
    (got,) = bob.received()
    landed = Path(got["files"][0])
    assert landed.read_bytes() == b"content"
    assert 250 <= len(os.fsencode(landed.name)) <= MAX_DISK_NAME_BYTES
    assert landed.suffix == ending


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "  "])
def test_name_that_is_a_path_or_nothing_is_usage(
    alice: Person, registry: FakeRegistry, tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.txt").write_bytes(b"content")
    told(alice.send("a.txt", "--name", name), 64)
    assert registry.requests == []


@pytest.mark.parametrize("word", ["-rf", "--force"])
def test_file_that_looks_like_an_option_needs_dashes_or_a_folder(
    alice: Person, bob: Person, tmp_path: Path, word: str
) -> None:
    (tmp_path / word).write_bytes(b"content")
    told(alice.send(word), 64, "no such option", hint=["./-NAME"])
    alice.send_ok(f"./{word}")
    (got,) = bob.received()
    assert Path(got["files"][0]).name == word


# --- pipes -------------------------------------------------------------------------------------


def feed(path: Path, data: bytes) -> threading.Thread:
    """Write `data` into a pipe as soon as somebody reads it."""
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    return writer


def test_pipe_is_read_as_a_stream(alice: Person, bob: Person, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    os.mkfifo(tmp_path / "pipe")
    writer = feed(tmp_path / "pipe", data)
    sent = alice.send_ok("pipe", "--name", "dump.sql", "--chunk-size", CHUNK)
    writer.join()
    assert (sent["bytes"], sent["chunks"]) == (300_000, 5)
    (got,) = bob.received()
    assert Path(got["files"][0]).name == "dump.sql"
    assert bob.content() == [data]


@pytest.mark.parametrize("source", ["pipe", "-"])
def test_pipe_needs_a_name_and_is_not_opened_without(
    alice: Person, registry: FakeRegistry, tmp_path: Path, source: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    told(alice.send(source), 64, "name", hint=["--name"])
    assert registry.requests == []


def test_pipe_inside_a_folder_is_named(alice: Person, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "pipe")
    told(alice.send("tree"), 64, "tree/pipe", "--name", hint=["--exclude"])


# --- where to ----------------------------------------------------------------------------------

VERBS = {
    "send": ("--to", "bob", "--text", "hi"),
    "inbox": (),
    "show": ("1a2b3c4d",),
    "recv": (),
    "ack": ("1a2b3c4d", "--status", "accepted"),
    "receipts": (),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("repo", ["team/box", "team", "box:1", "/team/box"])
def test_repository_without_a_host_is_usage(alice: Person, verb: str, repo: str) -> None:
    hint = "box:1/NAME" if ":" in repo else "host"
    told(alice.run(verb, *VERBS[verb], repo=repo), 64, repo, hint=[hint])


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_host_is_a_network_error(alice: Person, verb: str) -> None:
    result = alice.run(verb, *VERBS[verb], repo="registry.invalid/team/box")
    told(result, 6, "registry.invalid", "host name not found", hint=["spelling"])


@pytest.mark.parametrize(
    "host", ["n" * 64 + ".example", "a..b", "-a.example", "a.example:0", "a.example:99999"]
)
def test_host_that_cannot_be_one_is_usage(alice: Person, host: str) -> None:
    told(alice.run("inbox", repo=f"{host}/team/box"), 64, host)
