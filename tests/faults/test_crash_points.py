from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dockercomms.errors import DockerCommsError, NetworkError
from dockercomms.protocol.tags import parse_tag
from tests.fakes.events import Events
from tests.fakes.mail import BOB, REPOSITORY, Mail, files_below

EVERY = int(os.environ.get("DOCKERCOMMS_CRASH_EVERY", "7"))
"""Of all events, so many are left out: each costs a process. 1 in the long run of the tests."""

MOST_EVENTS = 1000


def cut() -> None:
    raise NetworkError("the line was cut")


def io_error() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def commit_fails() -> None:
    raise sqlite3.OperationalError("disk I/O error")


class Broken:
    """One run that is broken off at one event, in a place of its own."""

    def __init__(self, folder: Path, kind: str, fault, number: int, *, after: bool) -> None:
        self.mail = Mail(folder)
        self.mail.file(data=b"0123456789")
        self.kind = kind
        self.number = number
        self.events = Events(number, fault, after=after)

    def run(self, act) -> None:
        """Do it, with one of its events failing."""
        mail, plain = self.mail, self.mail.registry
        try:
            if self.kind == "registry":
                mail.registry = self.events.registry(plain.inner)
                act()
            elif self.kind == "files":
                with self.events.files():
                    act()
            else:
                for state in (mail.alice, mail.bob):
                    state.close()
                mail.close()
                with self.events.commits():
                    mail.__post_init__()
                    act()
        except (DockerCommsError, OSError):
            pass
        finally:
            mail.registry = plain
            if self.kind == "commits":
                mail.close()
                mail.__post_init__()

    @property
    def done(self) -> bool:
        return self.events.seen < self.number

    def close(self) -> None:
        self.mail.close()
        shutil.rmtree(self.mail.folder)


def messages(mail: Mail) -> set[str]:
    try:
        tags = mail.tags()
    except DockerCommsError:
        return set()
    return {
        mail.reader.resolve_tag(REPOSITORY, tag).digest
        for tag in tags
        if (said := parse_tag(tag)) and said.kind == "message"
    }


def unfinished(mail: Mail) -> int:
    query = "SELECT id FROM sends WHERE published IS NULL UNION SELECT send FROM served"
    return len(mail.alice.sends.database.rows(query))


FAULTS = [
    pytest.param("registry", cut, id="request"),
    pytest.param("files", io_error, id="file"),
    pytest.param("files", disk_full, id="disk-full"),
    pytest.param("commits", commit_fails, id="commit"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_send_is_put_right_by_the_next_run(tmp_path, kind, fault, after):
    for number in range(1, MOST_EVENTS):
        broken = Broken(tmp_path / str(number), kind, fault, number, after=after)
        mail = broken.mail
        broken.run(lambda mail=mail: mail.send(mail.file(data=b"0123456789")))
        early = messages(mail)
        if unfinished(mail) or not early:
            mail.send(mail.file(data=b"0123456789"))

        where = broken.events.names[number - 1 : number]
        assert len(messages(mail)) == 1, where
        assert early <= messages(mail), where
        assert [item.files[0].read_bytes() for item in mail.receive()] == [b"0123456789"], where
        mail.send(mail.file("other", b"other"))
        assert list((tmp_path / str(number) / "alice" / "sends").iterdir()) == [], where
        broken.close()
        if broken.done:
            return
    pytest.fail("never ended")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_receive_is_put_right_by_the_next_run(tmp_path, kind, fault, after):
    for number in range(1, MOST_EVENTS):
        broken = Broken(tmp_path / str(number), kind, fault, number, after=after)
        mail = broken.mail
        sent = mail.send(mail.file(data=b"0123456789"))
        first = []
        broken.run(lambda mail=mail, first=first: first.extend(mail.receive()))
        second = mail.receive()

        where = broken.events.names[number - 1 : number]
        arrived = [item for item in (*first, *second) if item.status == "received"]
        assert len(arrived) in (0, 1), where  # 0: delivered, and then the run broke off
        assert files_below(mail.out) == {f"{sent.id[:8]}/a.txt": b"0123456789"}, where
        assert [path.name for path in mail.out.iterdir()] == [sent.id[:8]], where
        assert list((tmp_path / str(number) / "bob" / "receives").iterdir()) == [], where
        assert mail.bob.inbox.delivery(BOB, sent.digest).state == "delivered", where
        receipts = {
            mail.reader.resolve_tag(REPOSITORY, tag).digest
            for tag in mail.tags()
            if tag.startswith("receipt-")
        }
        assert len(receipts) == 1, where
        assert mail.receive() == [], where
        broken.close()
        if broken.done:
            return
    pytest.fail("never ended")


@pytest.mark.parametrize(
    ("mode", "every"),
    [
        ("send", EVERY),
        ("receive-file", EVERY),
        ("receive-folder", 3 * EVERY - 2),
        ("watch", 2 * EVERY - 1),
    ],
)
def test_a_killed_run_is_put_right_by_the_next(tmp_path, mode, every):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.crash_driver", str(tmp_path), mode, str(every)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["events"] > 40
