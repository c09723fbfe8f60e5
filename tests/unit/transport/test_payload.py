"""Payloads to send."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.protocol.header import CONTENT_TYPE_FILES_TAR
from dockercomms.transport.files import Packing, check_ends
from dockercomms.transport.payload import payload_of


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(b"hello")
    return path


def content(payload) -> bytes:
    with payload.open() as stream:
        return stream.read()


def test_file_is_itself(file):
    payload = payload_of([file])
    assert (payload.filename, payload.total_bytes) == ("report.pdf", 5)
    assert (payload.content_type, payload.files_count) == (None, None)
    assert content(payload) == content(payload) == b"hello"
    payload.check_unchanged()


@pytest.mark.parametrize("data", [b"", b"x"])
def test_small_files_are_files(file, data):
    file.write_bytes(data)
    assert payload_of([file]).total_bytes == len(data)
    assert content(payload_of([file])) == data


@pytest.mark.parametrize("name", ["x" * 255, "a b", "-rf", "naïve 日本.txt", "a\nb", ".bashrc"])
def test_file_of_any_name_can_be_sent(tmp_path, name):
    (tmp_path / name).write_text("x")
    assert payload_of([tmp_path / name]).filename == name


def test_file_of_a_name_that_is_not_utf_8_can_be_sent(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        path.write_text("x")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert payload_of([path]).filename == "\udcff"
    assert payload_of([path]).source_id


def test_name_is_taken_instead_of_the_file_s_own(file):
    assert payload_of([file], name="x" * 300).filename == "x" * 300


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\0b", "x" * 1025])
def test_name_must_be_one(file, name):
    with pytest.raises(UsageError):
        payload_of([file], name=name)


PROC = Path("/proc/self/limits")
"""Linux gives no size for what it makes when it is read."""
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="Linux alone has /proc")


@needs_proc
def test_file_whose_size_reads_0_is_read_to_its_end():
    payload = payload_of([PROC])
    assert (payload.filename, payload.total_bytes) == ("limits", None)
    assert content(payload) == PROC.read_bytes() != b""


@needs_proc
def test_files_whose_size_reads_0_are_whole_beside_others(file):
    payload = payload_of([PROC, file])
    tar = content(payload)
    assert len(tar) == payload.total_bytes
    assert PROC.read_bytes() in tar
    payload.check_unchanged()
    assert payload.source_id == payload_of([PROC, file]).source_id


def test_file_with_more_than_its_size_is_noticed(file):
    with file.open("rb") as stream:
        stream.seek(4)
        with pytest.raises(LocalIOError, match="4 bytes expected by its size, more read"):
            check_ends(stream, file, 4)


def test_link_to_a_file_is_followed(file, tmp_path):
    (tmp_path / "alias").symlink_to(file)
    payload = payload_of([tmp_path / "alias"])
    assert (payload.filename, content(payload)) == ("alias", b"hello")
    payload.check_unchanged()


@pytest.mark.parametrize("path", ["missing", "report.pdf/below"])
def test_missing_file_is_a_local_error(file, path):
    with pytest.raises(LocalIOError):
        payload_of([file.parent / path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_a_local_error_at_once(file):
    file.chmod(0)
    with pytest.raises(LocalIOError, match="Permission denied"):
        payload_of([file])


@pytest.mark.parametrize("data", [b"", b"hellO", b"hello, world"])
def test_file_that_changes_is_noticed(file, data):
    payload = payload_of([file])
    content(payload)
    file.write_bytes(data)
    with pytest.raises(LocalIOError, match="changed while it was sent"):
        payload.check_unchanged()
    with pytest.raises(LocalIOError, match="changed while it was sent"):
        payload.open()


def test_file_that_is_gone_is_noticed(file):
    payload = payload_of([file])
    file.unlink()
    with pytest.raises(LocalIOError):
        payload.check_unchanged()
    with pytest.raises(LocalIOError):
        payload.open()


def test_source_id_is_that_of_the_unchanged_file(file):
    before = payload_of([file]).source_id
    assert payload_of([file]).source_id == before
    assert payload_of([file], name="other").source_id != before
    file.write_bytes(b"hellO")
    assert payload_of([file]).source_id != before


def test_folder_is_a_tar_of_its_name(file):
    payload = payload_of([file.parent])
    assert payload.filename == f"{file.parent.name}.tar"
    assert payload.content_type == CONTENT_TYPE_FILES_TAR
    assert payload.files_count == 1
    assert len(content(payload)) == payload.total_bytes
    payload.check_unchanged()


def test_folder_can_be_called_otherwise(file):
    assert payload_of([file.parent], name="x").filename == "x.tar"
    assert payload_of([file.parent], name="x.tar").filename == "x.tar"


def test_several_are_a_tar_called_files(file, tmp_path):
    (tmp_path / "b").write_text("")
    payload = payload_of([file, tmp_path / "b"])
    assert (payload.filename, payload.files_count) == ("files.tar", 2)


def test_source_id_of_a_folder_follows_its_files(file):
    before = payload_of([file.parent]).source_id
    assert payload_of([file.parent]).source_id == before
    assert payload_of([file.parent], packing=Packing(keep_mtime=True)).source_id != before
    file.write_bytes(b"hellO")
    assert payload_of([file.parent]).source_id != before


def test_tar_closed_early_lets_go_of_its_file(file):
    stream = payload_of([file.parent]).open()
    assert stream.readable()
    assert len(stream.read(1030)) == 1030
    stream.close()
    assert payload_of([file.parent]).open().read(0) == b""


def test_standard_input_is_a_stream_and_left_open():
    stdin = io.BytesIO(b"hello")
    payload = payload_of([Path("-")], name="n", stdin=stdin)
    assert (payload.filename, payload.total_bytes, payload.source_id) == ("n", None, None)
    assert payload.files_count is None
    assert content(payload) == b"hello"
    assert not stdin.closed
    assert payload_of([Path("-")], name="n", stdin=stdin).open().readable()
    payload.check_unchanged()


def test_standard_input_that_is_empty_is_refused():
    with pytest.raises(UsageError, match="closed or empty"):
        content(payload_of([Path("-")], name="n", stdin=io.BytesIO()))


def test_stream_is_read_only_once():
    payload = payload_of([Path("-")], name="n", stdin=io.BytesIO(b"hello"))
    content(payload)
    with pytest.raises(LocalIOError, match="a second time"):
        payload.open()


def test_standard_input_that_breaks_is_a_local_error():
    class Broken(io.BytesIO):
        def read(self, size=-1, /):
            raise OSError(5, "Input/output error")

    with pytest.raises(LocalIOError, match="standard input"):
        content(payload_of([Path("-")], name="n", stdin=Broken()))


def test_pipe_is_a_stream(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    payload = payload_of([path], name="n")
    writer = threading.Thread(target=path.write_bytes, args=(b"hello" * 100,))
    writer.start()
    assert content(payload) == b"hello" * 100
    writer.join()


@pytest.mark.parametrize(
    ("paths", "options"),
    [
        ([], {}),
        ([Path("-")], {"stdin": io.BytesIO()}),
        ([Path("-")], {"name": "n"}),
        ([Path("-"), Path("-")], {"name": "n", "stdin": io.BytesIO()}),
        ([Path("/dev/null")], {"name": "n"}),
        ([Path("/dev/null"), Path("/dev/zero")], {}),
    ],
)
def test_what_cannot_be_sent_is_a_usage_error(paths, options):
    with pytest.raises(UsageError):
        payload_of(paths, **options)


def test_pipe_needs_a_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="missing file name"):
        payload_of([tmp_path / "pipe"])


def test_note_is_a_file_of_its_own():
    payload = payload_of([], text="Grüße")
    assert (payload.filename, payload.total_bytes) == ("note.txt", 7)
    assert payload.content_type == "text/plain; charset=utf-8"
    assert payload.files_count is None
    assert content(payload) == "Grüße".encode()
    payload.check_unchanged()
    assert payload.source_id == payload_of([], text="Grüße").source_id
    assert payload.source_id != payload_of([], text="Gruss").source_id


def test_text_beside_a_file_does_not_change_the_payload(file):
    assert content(payload_of([file], text="see there")) == b"hello"
