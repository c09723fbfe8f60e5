"""`import` of tars that somebody else made: a clear error, the right code, and nothing imported."""

from __future__ import annotations

import io
import resource
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, digest_of
from dockercomms.protocol.tags import message_tag
from tests.cli.harness import Result, invoke
from tests.fakes.clock import FakeClock
from tests.fakes.inboxes import RT, Sender

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TWO = 2
ENTRIES = 1_000_000


def made(folder: Path) -> bytes:
    """Return a tar with two messages."""
    store = LayoutRegistry(folder / "box", create=True)
    sender = Sender(store, FakeClock(NOW), repository="")  # type: ignore[arg-type]
    for number in range(TWO):
        sender.publish(at=NOW, title=f"number {number}")
    result = run(folder, "export", "-o", str(folder / "good.tar"), repo="box")
    assert result.exit_code == 0, result.stderr
    return (folder / "good.tar").read_bytes()


def run(folder: Path, *arguments: str, repo: str = "in") -> Result:
    words = [*arguments, "--repo", f"oci-layout:{folder / repo}"]
    return invoke(
        words, environ={"HOME": str(folder / "home")}, folder=folder, clock=FakeClock(NOW)
    )


def members(good: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            yield member, b"" if file is None else file.read()


def rebuilt(
    good: bytes, change: Callable[[tarfile.TarFile], None], *, first: bool = False
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        if first:
            change(tar)
        for member, data in members(good):
            tar.addfile(member, io.BytesIO(data))
        if not first:
            change(tar)
    return out.getvalue()


def special(
    name: str, kind: bytes, link: str = "", size: int = 0
) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, size
        tar.addfile(info, io.BytesIO(bytes(size)))

    return add


BLOB = "blobs/sha256/" + "ab" * 32
HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "cut in a header": lambda good: good[: 512 * 3 + 100],
    "cut in a blob": lambda good: good[: len(good) // 2],
    "without its end": lambda good: good[:-1024],
    "symbolic link": lambda good: rebuilt(good, special(BLOB, tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": lambda good: rebuilt(good, special(BLOB, tarfile.LNKTYPE, "index.json")),
    "absolute": lambda good: rebuilt(good, special("/etc/cron.d/x", tarfile.REGTYPE)),
    "dots": lambda good: rebuilt(good, special("blobs/../../x", tarfile.REGTYPE)),
    "second index": lambda good: rebuilt(good, special("index.json", tarfile.REGTYPE, size=3)),
    "first index": lambda good: rebuilt(
        good, special("index.json", tarfile.REGTYPE, size=3), first=True
    ),
    "claims of a TiB": lambda good: _claimed(2**40) + good,
    "an index of a TiB": lambda good: _claimed(2**40, "index.json") + good,
    "gzip": lambda good: b"\x1f\x8b\x08" + good,
    "no tar": lambda good: bytes(range(256)) * 40,
    "empty": lambda good: b"",
    "nothing in it": lambda good: bytes(10_240),
}


def _claimed(size: int, name: str = BLOB) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tar_is_refused_before_anything_is_imported(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.tar"
    file.write_bytes(HOSTILE[kind](made(tmp_path)))

    result = run(tmp_path, "import", str(file))

    assert result.exit_code == 4, result.stderr
    assert f"why: {file}: " in result.stderr
    assert "an uncompressed tar of an OCI image layout is expected" in result.stderr
    assert not (tmp_path / "in").exists()


def test_a_device_where_content_should_be_is_content_that_is_missing(tmp_path: Path) -> None:
    good = made(tmp_path)
    file = tmp_path / "bad.tar"
    manifests = {digest_of(data)[7:]: data for _, data in members(good)}
    with tarfile.open(file, "w") as tar:
        for member, data in members(good):
            if manifests[digest_of(data)[7:]].startswith(b"not a chunk"):
                member.type, member.size, data = tarfile.CHRTYPE, 0, b""
            tar.addfile(member, io.BytesIO(data))

    result = run(tmp_path, "import", str(file))

    assert result.exit_code == 5, result.stderr
    assert result.stdout.count("failed") == TWO


def test_a_million_entries_are_refused_in_little_memory(tmp_path: Path) -> None:
    good = made(tmp_path)
    file = tmp_path / "many.tar"
    block = tarfile.TarInfo("junk").tobuf(tarfile.GNU_FORMAT) * 1000
    with file.open("wb") as out:
        for _ in range(ENTRIES // 1000):
            out.write(block)
        out.write(good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    result = run(tmp_path, "import", str(file))

    file.unlink()
    assert result.exit_code == 9, result.stderr
    assert "more than 500000 entries" in result.stderr
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("others", [0, TWO])
def test_messages_of_another_major_version_are_left_and_the_others_arrive(
    others: int, tmp_path: Path
) -> None:
    made(tmp_path)
    box = LayoutRegistry(tmp_path / "box")
    for number, tag in enumerate([tag for tag in box.tags("") if len(tag) > 60]):
        data = read_all(box.get_tag("", tag), 10**6)[0]
        later = data.replace(b'"dockercomms.version":"1.1"', b'"dockercomms.version":"2.0"')
        name = message_tag(RT, NOW, digest_of(later))
        box.push_manifest("", later, MEDIA_TYPE_MANIFEST, tags=[name])
        if number >= others:
            box.delete_tag("", tag)
    exported = run(tmp_path, "export", "-o", str(tmp_path / "x.tar"), repo="box")
    assert exported.exit_code == (7 if others else 4), exported.stderr
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames()[:2] == ["oci-layout", "index.json"]
    copied = invoke(
        ["relay", f"oci-layout:{tmp_path / 'box'}", f"oci-layout:{tmp_path / 'in'}"],
        environ={"HOME": str(tmp_path / "home")},
        clock=FakeClock(NOW),
    )
    assert copied.exit_code == (7 if others else 4)
    assert copied.stderr.count("version '2.0'; this program reads 1.x") == TWO
    assert copied.stdout.count("relayed") == others


def test_content_that_was_changed_on_the_way_does_not_arrive(tmp_path: Path) -> None:
    good = made(tmp_path)
    file = tmp_path / "bad.tar"
    assert good.count(b"not a chunk") == 1
    file.write_bytes(good.replace(b"not a chunk", b"now a chunk"))

    result = run(tmp_path, "import", str(file))

    assert result.exit_code == 4
    assert result.stdout.count("failed") == TWO
    assert "relayed" not in result.stdout
