"""`export`, `import` and `gc` killed at any moment, and run again: nothing half, lost or doubled."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, Digest, parse_children
from dockercomms.oci.stores import open_store
from dockercomms.protocol.tags import parse_tag
from tests.fakes.clock import FakeClock
from tests.fakes.inboxes import ME, Sender
from tests.faults.zygote import Zygote

ROUNDS = 60 if os.environ.get("DOCKERCOMMS_TEST_SIZE") == "full" else 5
MESSAGES = 40
NOW = datetime.now(UTC)


class Run:
    """One command line, which can be killed."""

    def __init__(self, zygote: Zygote, folder: Path, *arguments: str) -> None:
        self._zygote, self._folder, self._arguments = zygote, folder, arguments
        self.seconds = 0.0

    def start(self, name: str) -> tuple[int, str]:
        child = self._child(name)
        started = time.monotonic()
        ended = child.wait()
        self.seconds = time.monotonic() - started
        return ended.exit_code, ended.stderr

    def kill(self, name: str, after_seconds: float) -> int:
        child = self._child(name)
        time.sleep(after_seconds)
        os.kill(child.pid, signal.SIGKILL)  # it waits for nobody but the zygote
        return self._zygote.ask(wait=child.pid)  # it may have had no time to say anything

    def _child(self, name: str):
        home = self._folder / name
        home.mkdir(exist_ok=True)
        environ = {"HOME": str(home)} | {
            f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("STATE", "DATA", "CONFIG")
        }
        return self._zygote.start(self._arguments, folder=self._folder, environ=environ)


def filled(folder: Path, **options: object) -> list[Digest]:
    """Make a folder with messages of today; returns their digests."""
    store = LayoutRegistry(folder, create=True)
    with store.batch():
        pass  # makes it
    sender = Sender(store, FakeClock(NOW), repository="")  # type: ignore[arg-type]
    with store.batch():
        return [
            sender.publish(at=NOW - timedelta(seconds=number), **options).digest
            for number in range(MESSAGES)
        ]


def held(repo: str) -> list[Digest]:
    """Return the messages under tags, each as often as it has one; every part is checked."""
    store = open_store(repo)
    registry = store.registry
    found = []
    try:
        for tag in registry.tags(""):
            said = parse_tag(tag)
            if said is not None and said.kind == "message":
                data, descriptor = read_all(registry.get_tag("", tag), MAX_MANIFEST_BYTES)
                for blob in parse_children(data).blobs:
                    read_all(registry.get_blob("", blob.digest), blob.size)
                found.append(descriptor.digest)
    finally:
        registry.close()
    return found


def moments(seconds: float) -> Iterator[tuple[int, float]]:
    chance = random.Random(6)
    for number in range(ROUNDS):
        yield number, chance.uniform(0.05, 1.0) * seconds


def test_an_export_that_is_killed_leaves_a_whole_tar_or_none(
    zygote: Zygote, tmp_path: Path
) -> None:
    wanted = sorted(filled(tmp_path / "box"))
    first = Run(zygote, tmp_path, "export", "-o", "0.tar", "--repo", "oci-layout:box", "-q")
    assert first.start("timing") == (0, "")
    killed = 0
    for number, after in moments(first.seconds):
        file = tmp_path / f"{number + 1}.tar"
        run = Run(zygote, tmp_path, "export", "-o", file.name, "--repo", "oci-layout:box", "-q")
        killed += run.kill(f"home{number}", after) == -signal.SIGKILL
        if file.exists():
            assert sorted(held(f"oci-archive:{file}")) == wanted

        assert run.start(f"home{number}") == (0, "")

        assert sorted(held(f"oci-archive:{file}")) == wanted
        assert not (tmp_path / f".{file.name}.work").exists()
    assert killed


def test_an_import_that_is_killed_is_finished_by_the_next(zygote: Zygote, tmp_path: Path) -> None:
    wanted = sorted(filled(tmp_path / "box"))
    export = Run(zygote, tmp_path, "export", "-o", "box.tar", "--repo", "oci-layout:box", "-q")
    assert export.start("timing") == (0, "")
    first = Run(zygote, tmp_path, "import", "box.tar", "--repo", "oci-layout:in", "-q")
    assert first.start("timing") == (0, "")
    killed = 0
    for number, after in moments(first.seconds):
        repo = f"oci-layout:in{number}"
        run = Run(zygote, tmp_path, "import", "box.tar", "--repo", repo, "-q")
        killed += run.kill(f"home{number}", after) == -signal.SIGKILL
        if (tmp_path / f"in{number}" / "index.json").exists():
            assert set(held(f"oci-layout:{tmp_path}/in{number}")) <= set(wanted)

        assert run.start(f"home{number}") == (0, "")

        assert sorted(held(f"oci-layout:{tmp_path}/in{number}")) == wanted
    assert killed


def test_gc_that_is_killed_is_finished_by_the_next(zygote: Zygote, tmp_path: Path) -> None:
    past = {"created_at": NOW - timedelta(days=30), "ttl_seconds": 3600}
    dead = filled(tmp_path / "box", **past)
    alive = sorted(filled(tmp_path / "box"))
    killed = 0
    seconds = 0.0
    for number, after in ((-1, 0.0), *moments(1.0)):
        box = tmp_path / f"box{number}"
        shutil.copytree(tmp_path / "box", box)
        run = Run(
            zygote,
            tmp_path,
            "gc",
            "--me",
            ME,
            "--repo",
            f"oci-layout:{box}",
            "--clock",
            "own",
            "-q",
        )
        if number >= 0:
            killed += run.kill("home", after * seconds) == -signal.SIGKILL
            assert set(alive) <= set(held(f"oci-layout:{box}")) <= {*alive, *dead}

        assert run.start("home") == (0, "")

        seconds = run.seconds if number < 0 else seconds
        assert sorted(held(f"oci-layout:{box}")) == alive
    assert killed
