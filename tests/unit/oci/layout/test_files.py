from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from dockercomms.errors import (
    BlobUnknown,
    DigestInvalid,
    LimitError,
    LocalIOError,
    NameUnknown,
    ProtocolError,
    UploadUnknown,
)
from dockercomms.oci.layout.files import (
    INCOMING_SECONDS,
    MAX_INDEX_BYTES,
    UPLOAD_SECONDS,
    LayoutFiles,
    LayoutSession,
)
from dockercomms.oci.layout.index import EMPTY_INDEX
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, Descriptor, digest_of

MANIFEST = Descriptor.of(b"manifest", MEDIA_TYPE_MANIFEST)


@pytest.fixture
def files(tmp_path: Path) -> LayoutFiles:
    made = LayoutFiles(tmp_path / "box", create=True)
    made.prepare()
    return made


def push(descriptor: Descriptor, *tags: str) -> dict[str, object]:
    return {"push": descriptor.to_json(), "tags": list(tags), "subject": None}


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_layout_files_are_those_of_the_image_layout(files: LayoutFiles) -> None:
    assert names(files.folder) == [".dockercomms/lock", "index.json", "oci-layout"]
    assert json.loads((files.folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert (files.folder / "index.json").read_bytes() == EMPTY_INDEX.to_bytes()
    assert (files.folder / "blobs" / "sha256").is_dir()


def test_layout_files_prepare_changes_nothing_that_is_there(files: LayoutFiles) -> None:
    with files.locked():
        files.change(push(MANIFEST, "v1"))
    again = LayoutFiles(files.folder, create=True)
    again.prepare()
    again.prepare()
    assert again.index().tags() == ["v1"]


def test_layout_files_prepare_makes_nothing_unless_asked(tmp_path: Path) -> None:
    files = LayoutFiles(tmp_path / "box", create=False)
    with pytest.raises(LocalIOError, match="image layout not found"):
        files.prepare()
    assert list(tmp_path.iterdir()) == []


def test_layout_files_prepare_does_not_touch_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"name": "a web page"}')
    for create in (True, False):
        with pytest.raises(ProtocolError, match="oci-layout is missing"):
            LayoutFiles(tmp_path, create=create).prepare()
    assert names(tmp_path) == ["index.json"]


def test_layout_files_prepare_where_a_file_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalIOError, match="cannot be written"):
        LayoutFiles(tmp_path / "file", create=True).prepare()
    with pytest.raises(LocalIOError, match="cannot be written"):
        LayoutFiles(tmp_path / "file" / "box", create=True).prepare()


def test_layout_files_made_by_many_threads_at_once(tmp_path: Path) -> None:
    stores = [LayoutFiles(tmp_path / "a" / "box", create=True) for _ in range(8)]
    threads = [threading.Thread(target=store.prepare) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.index().entries == () for store in stores)


def test_layout_files_finish_a_layout_that_a_crash_left_half_made(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / ".dockercomms").mkdir()
    with pytest.raises(NameUnknown):
        LayoutFiles(tmp_path, create=True).index()
    LayoutFiles(tmp_path, create=True).prepare()
    assert LayoutFiles(tmp_path, create=False).index().entries == ()


@pytest.mark.parametrize(
    "version", ["", "{", "[]", "{}", '{"imageLayoutVersion":2}', '{"imageLayoutVersion":"2.0.0"}']
)
def test_layout_files_of_another_version_are_refused(files: LayoutFiles, version: str) -> None:
    (files.folder / "oci-layout").write_text(version)
    with pytest.raises(ProtocolError, match="oci-layout"):
        LayoutFiles(files.folder, create=False).index()


def test_layout_files_index_that_is_malformed_names_the_file(files: LayoutFiles) -> None:
    path = files.folder / "index.json"
    path.write_text('{"schemaVersion":2}')
    with pytest.raises(ProtocolError, match=str(path)):
        LayoutFiles(files.folder, create=False).index()


def test_layout_files_index_above_the_limit_is_not_read(files: LayoutFiles) -> None:
    os.truncate(files.folder / "index.json", MAX_INDEX_BYTES + 1)
    with pytest.raises(ProtocolError, match="at most 67108864"):
        files.index()


def test_layout_files_index_above_the_limit_is_not_written(files: LayoutFiles) -> None:
    large = Descriptor.of(b"x", "a/" + "b" * MAX_INDEX_BYTES)
    with files.locked(), pytest.raises(LimitError):
        files.change(push(large))
    assert files.index().entries == ()


def test_layout_files_index_is_parsed_once_until_it_changes(files: LayoutFiles) -> None:
    first = files.index()
    assert files.index() is first
    other = LayoutFiles(files.folder, create=False)
    other.prepare()
    with other.locked():
        other.change(push(MANIFEST, "v1"))
    assert files.index().tags() == ["v1"]


def test_layout_files_index_sees_every_change_within_one_tick_of_the_clock(
    files: LayoutFiles,
) -> None:
    other = LayoutFiles(files.folder, create=False)
    for number in range(200):
        # Always the same length: only the time and the inode tell one from the next.
        with files.locked():
            for tag in files.index().tags():
                files.change({"untag": tag})
            files.change(push(MANIFEST, f"v{number:03d}"))
        assert other.index().tags() == [f"v{number:03d}"]
        assert files.index().tags() == [f"v{number:03d}"]


def test_layout_files_index_never_gets_older(files: LayoutFiles) -> None:
    path = files.folder / "index.json"
    later = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(later, later))
    with files.locked():
        files.change(push(MANIFEST, "v1"))
    assert path.stat().st_mtime_ns == later + 1
    assert files.index().tags() == ["v1"]


def test_layout_files_blob_that_is_not_there(files: LayoutFiles, tmp_path: Path) -> None:
    missing = digest_of(b"missing")
    with pytest.raises(BlobUnknown):
        files.open_blob(missing)
    with pytest.raises(BlobUnknown):
        files.blob_size(missing)
    files.remove_blob(missing)
    elsewhere = LayoutFiles(tmp_path / "elsewhere", create=True)
    with pytest.raises(NameUnknown):
        elsewhere.open_blob(missing)
    with pytest.raises(NameUnknown):
        elsewhere.blob_size(missing)


def test_layout_files_blob_that_would_wait_is_refused(files: LayoutFiles) -> None:
    digest = digest_of(b"fifo")
    os.mkfifo(files.blob_path(digest))
    with pytest.raises(LocalIOError, match="not a regular file"):
        files.open_blob(digest)


def test_layout_files_blob_may_be_a_link(files: LayoutFiles, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"linked")
    files.blob_path(digest_of(b"linked")).symlink_to(tmp_path / "elsewhere")
    stream, size = files.open_blob(digest_of(b"linked"))
    with stream:
        assert (stream.read(), size) == (b"linked", 6)


def test_layout_files_new_file_that_is_not_published_is_gone(files: LayoutFiles) -> None:
    with files.new_file() as new:
        new.write(b"half")
        assert new.path.exists()
    assert not new.path.exists()


def test_layout_files_lock_keeps_another_out(files: LayoutFiles) -> None:
    hasty = LayoutFiles(files.folder, create=False, lock_wait_seconds=0.01)
    hasty.prepare()
    with files.locked():
        assert files.index().entries == ()
        with pytest.raises(LocalIOError, match="locked by this process"), hasty.locked():
            pass
    with hasty.locked():
        pass


def test_layout_files_lock_is_given_back_after_an_error(files: LayoutFiles) -> None:
    with pytest.raises(KeyError), files.locked():
        raise KeyError
    with FileLock(files.folder / ".dockercomms" / "lock", timeout=0):
        pass


def test_layout_files_lock_is_as_open_as_the_folder(tmp_path: Path) -> None:
    for mode, expected in ((0o700, 0o600), (0o775, 0o664)):
        folder = tmp_path / f"{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        LayoutFiles(folder, create=True).prepare()
        assert (folder / ".dockercomms" / "lock").stat().st_mode & 0o777 == expected


def test_layout_files_sweep_what_the_dead_left_and_nothing_else(files: LayoutFiles) -> None:
    private = files.folder / ".dockercomms"
    now = (private / "lock").stat().st_mtime
    for name, seconds in (("incoming", INCOMING_SECONDS), ("uploads", UPLOAD_SECONDS)):
        for age in (0, seconds - 600, seconds + 600):
            path = private / name / f"{age:.0f}"
            path.touch()
            os.utime(path, (now - age, now - age))
        (private / name / "folder").mkdir()
        os.utime(private / name / "folder", (0, 0))
    LayoutFiles(files.folder, create=False).prepare()
    for name, seconds in (("incoming", INCOMING_SECONDS), ("uploads", UPLOAD_SECONDS)):
        assert {path.name for path in (private / name).iterdir()} == {
            "0",
            f"{seconds - 600:.0f}",
            "folder",
        }


@pytest.mark.parametrize(
    "session", ["", "..", "../../index.json", "a" * 31, "A" * 32, "a" * 32 + "\n", "/etc/passwd"]
)
def test_layout_session_name_cannot_leave_its_folder(files: LayoutFiles, session: str) -> None:
    with pytest.raises(UploadUnknown, match="not an upload session"):
        LayoutSession(files, session)


def test_layout_session_is_found_by_another_process(files: LayoutFiles) -> None:
    session = files.start_upload()
    session.append(b"first ", 0)
    other = LayoutSession(LayoutFiles(files.folder, create=False), session.id)
    assert other.size() == 6
    other.append(b"second", 6)
    finished = other.finish(digest_of(b"first second"))
    assert files.blob_path(finished.digest).read_bytes() == b"first second"
    assert names(files.folder / ".dockercomms") == ["lock"]
    for late in (
        session.size,
        lambda: session.append(b"", 0),
        lambda: session.finish(MANIFEST.digest),
    ):
        with pytest.raises(UploadUnknown):
            late()
    session.discard()


def test_layout_session_of_other_content_is_gone(files: LayoutFiles) -> None:
    session = files.start_upload()
    session.append(b"other", 0)
    with pytest.raises(DigestInvalid, match=r"expected, sha256:[0-9a-f]{64} received"):
        session.finish(digest_of(b"expected"))
    with pytest.raises(UploadUnknown):
        session.size()
    assert not files.blob_path(digest_of(b"expected")).exists()


FULL_DISK = """
import io, resource, signal, sys
from pathlib import Path
from dockercomms.errors import LocalIOError
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import Descriptor

folder = Path(sys.argv[1])
registry = LayoutRegistry(folder)
upload = registry.upload("")
upload.write(b"x" * 900)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
data = bytes(2_000_000)
failed = 0
try:
    registry.push_blob("", Descriptor.of(data, "text/plain"), lambda: io.BytesIO(data))
except LocalIOError:
    failed += 1
try:
    upload.write(b"x" * 200)
except LocalIOError:
    failed += 1
again = registry.resume_upload("", upload.id)
print(failed, again.size)
"""


def test_layout_files_on_a_full_disk_leave_nothing_half(files: LayoutFiles) -> None:
    # A file-size limit fails in the middle of a write as a full disk does.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, files.folder],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 900\n"
    left = names(files.folder)
    assert [name for name in left if name.startswith(("blobs", ".dockercomms/incoming"))] == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize(
    ("folder_mode", "file_mode"),
    [(0o2770, 0o660), (0o2775, 0o664), (0o777, 0o666), (0o700, 0o600), (0o1777, 0o664)],
    ids=oct,
)
def test_layout_in_a_shared_folder_is_shared_as_it_is(tmp_path, umask, folder_mode, file_mode):
    """One writer with umask 077 locks nobody out, and a folder of one's own stays that."""
    folder = tmp_path / "box"
    folder.mkdir()
    folder.chmod(folder_mode)
    before = os.umask(umask)
    try:
        registry = LayoutRegistry(folder, create=True)
        descriptor = Descriptor.of(b"hello", "application/octet-stream")
        registry.push_blob("mailbox", descriptor, lambda: io.BytesIO(b"hello"))
        registry.close()
    finally:
        os.umask(before)
    below = [path for path in folder.rglob("*") if path.name != "lock.soft"]
    files = {path.name: path.stat().st_mode & 0o7777 for path in below if path.is_file()}
    folders = {path.name: path.stat().st_mode & 0o7777 for path in below if path.is_dir()}
    expected = folder_mode & 0o2777 & (~0o002 if folder_mode & 0o1000 else -1)
    assert set(files.values()) == {file_mode}
    assert set(folders.values()) == {expected}
