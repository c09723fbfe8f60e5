"""`reg put-blob`."""

from __future__ import annotations

import os
import shlex
import threading
from random import Random

import pytest

from dockercomms.oci.model import digest_of
from tests.cli.harness import Input, Stream
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry, Fault
from tests.unit.cli.conftest import MISSING, Box

DATA = Random(9).randbytes(200_000)
DIGEST = digest_of(DATA)


def test_put_blob_pushes_a_file(box: Box) -> None:
    path = str(box.file("x.bin", DATA))
    result = box.ok("put-blob", box.base, path)
    assert (result.stdout, result.stderr) == (f"{DIGEST}\n", f"pushed 195.3 KiB to {box.place}\n")
    assert box.blob(DIGEST) == DATA
    assert box.json("put-blob", f"{box.base}@{DIGEST}", path) == {
        "schema": "dockercomms/reg-put-blob/v1",
        "reference": f"{box.place}@{DIGEST}",
        "digest": DIGEST,
        "media_type": "application/octet-stream",
        "size": len(DATA),
    }


def test_put_blob_does_not_send_what_is_there(remote: Box, fake: FakeRegistry) -> None:
    path = str(remote.file("x.bin", DATA))
    remote.ok("put-blob", remote.base, path)
    fake.forget_requests()
    remote.ok("put-blob", remote.base, path)
    assert [record.method for record in fake.asked()] == ["HEAD"]


@pytest.mark.parametrize("data", [b"", b"x", DATA])
def test_put_blob_pushes_standard_input_as_it_comes(box: Box, data: bytes) -> None:
    result = box.ok("put-blob", box.base, "-", "--chunk-size", "64KiB", stdin=data)
    assert result.stdout == f"{digest_of(data)}\n"
    assert box.blob(digest_of(data)) == data


@pytest.mark.parametrize("words", [[], ["--resumable"]])
def test_put_blob_sends_pieces(remote: Box, fake: FakeRegistry, words: list[str]) -> None:
    path = str(remote.file("x.bin", DATA))
    remote.ok("put-blob", remote.base, path, "--chunk-size", "64KiB", *words)
    assert max(record.request_bytes for record in fake.asked("PATCH")) == 65536
    assert remote.blob(DIGEST) == DATA


def test_put_blob_takes_its_chunk_size_from_the_configuration(
    remote: Box, fake: FakeRegistry
) -> None:
    path = str(remote.file("x.bin", DATA))
    environ = {"DOCKERCOMMS_REGISTRY_CHUNK_SIZE": "100000"}
    remote.ok("put-blob", remote.base, path, environ=environ)
    assert [record.request_bytes for record in fake.asked("PATCH")] == [100_000, 100_000]


def test_put_blob_reads_a_fifo(box: Box) -> None:
    pipe = box.folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(DATA))
    writer.start()
    assert box.ok("put-blob", box.base, str(pipe)).stdout == f"{DIGEST}\n"
    writer.join()


@pytest.mark.parametrize("words", [[], ["--resumable"]])
def test_put_blob_refuses_another_digest(box: Box, words: list[str]) -> None:
    path = str(box.file("x.bin", DATA))
    result = box.reg("put-blob", f"{box.base}@{MISSING}", path, *words)
    assert result.exit_code == 4
    assert f"{MISSING} expected, {DIGEST} read" in result.stderr
    assert box.reg("exists", f"{box.base}@{DIGEST}", "--blob").exit_code == 5
    if box.fake is not None and words:
        assert box.fake.count("DELETE", "/uploads/") == 1


def test_put_blob_refuses_what_cannot_be_meant(box: Box) -> None:
    path = str(box.file("x.bin", DATA))
    assert box.reg("put-blob", f"{box.base}:v1", path).exit_code == 64
    assert box.reg("put-blob", box.base, "no-such-file").exit_code == 8
    assert box.reg("put-blob", box.base, ".").exit_code == 8
    words = ["put-blob", box.base, "-", "--username", "x", "--password-stdin"]
    assert box.reg(*words, stdin=b"secret").exit_code == 64


# --- resuming ------------------------------------------------------------------------------------


class Interrupted(Input):
    """Standard input that is interrupted once so much was read."""

    def __init__(self, data: bytes, after: int) -> None:
        super().__init__(data)
        self._after = after

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._after:
            raise KeyboardInterrupt
        return super().read(min(size or -1, self._after - self.tell()))


def resume_words(stderr: str) -> list[str]:
    """Return the arguments of the command that goes on, after `reg`."""
    line = next(line for line in stderr.splitlines() if "resume with: " in line)
    words = shlex.split(line.partition("resume with: ")[2])
    assert words[:2] == ["dockercomms", "reg"]
    return words[2:]


@pytest.mark.parametrize("after", [0, 1, 65_535, 65_536, 65_537, 150_000])
def test_an_interrupted_push_says_how_to_go_on_and_does(box: Box, after: int) -> None:
    words = ["put-blob", box.base, "-", "--chunk-size", "64KiB"]
    stopped = box.reg(*words, stdin=Interrupted(DATA, after))
    assert stopped.exit_code == 130
    if box.fake is not None:
        box.fake.forget_requests()
    result = box.ok(*resume_words(stopped.stderr), stdin=DATA)
    assert result.stdout == f"{DIGEST}\n"
    assert box.blob(DIGEST) == DATA
    if box.fake is not None:
        assert box.fake.bytes_received() <= len(DATA) - after // 65_536 * 65_536 + 65_536


def test_a_push_that_loses_the_registry_says_how_to_go_on(remote: Box, fake: FakeRegistry) -> None:
    path = str(remote.file("x.bin", DATA))
    fake.fail_when(
        lambda request: request.method == "PATCH", Fault.drop_before(), after=1, times=99
    )
    fake.fail_when(lambda request: request.method == "GET", Fault.drop_before(), times=99)
    words = ["put-blob", remote.base, path, "--resumable", "--chunk-size", "64KiB"]
    failed = remote.reg(*words, "--retry-max-time", "1s", clock=FakeClock())
    assert failed.exit_code == 6
    fake.faults = type(fake.faults)()
    fake.forget_requests()
    result = remote.ok(*resume_words(failed.stderr))
    assert result.stdout == f"{DIGEST}\n"
    assert fake.bytes_received() == len(DATA) - 65_536


def test_a_push_that_fails_leaves_no_upload_behind(remote: Box, fake: FakeRegistry) -> None:
    path = str(remote.file("x.bin", DATA))
    fake.fail_when(lambda request: request.method == "PATCH", Fault.answer(403), times=9)
    words = ["put-blob", remote.base, path, "--resumable", "--chunk-size", "64KiB"]
    assert remote.reg(*words).exit_code == 3
    assert fake.count("DELETE", "/uploads/") == 1


def test_resume_refuses_a_shorter_and_another_source(box: Box) -> None:
    words = ["put-blob", box.base, "-", "--chunk-size", "64KiB"]
    stopped = box.reg(*words, stdin=Interrupted(DATA, 150_000))
    again = resume_words(stopped.stderr)
    short = box.reg(*again, stdin=DATA[:1000])
    assert short.exit_code == 4
    assert "1000 bytes; the upload holds" in short.stderr
    stopped = box.reg(*words, stdin=Interrupted(DATA, 150_000))
    other = box.reg(*resume_words(stopped.stderr), stdin=bytes(len(DATA)))
    assert other.exit_code == 1
    assert box.reg("exists", f"{box.base}@{digest_of(bytes(len(DATA)))}", "--blob").exit_code == 5


def test_resume_of_what_is_no_upload(remote: Box, layout: Box) -> None:
    path = str(remote.file("x.bin", DATA))
    assert remote.reg("put-blob", remote.base, path, "--resume", "nonsense").exit_code == 64
    gone = f"http://{remote.base.partition('/')[0]}/v2/team/app/blobs/uploads/none"
    assert remote.reg("put-blob", remote.base, path, "--resume", gone).exit_code == 5
    layout.push_blob(b"x")
    assert layout.reg("put-blob", layout.base, path, "--resume", "0" * 32).exit_code in {5, 64}


def test_a_long_push_shows_how_far_it_is(layout: Box) -> None:
    path = str(layout.file("x.bin", bytes(17 * 2**20)))
    for words in ([], ["--resumable"]):
        said = layout.ok("put-blob", layout.base, path, *words).stderr
        assert "pushing: 100 %" in said


def test_a_retried_push_tells_each_try(remote: Box, fake: FakeRegistry) -> None:
    path = str(remote.file("x.bin", DATA))
    fake.fail_when(lambda request: request.method == "PUT", Fault.answer(503), times=2)
    chunked = ["put-blob", remote.base, "--chunk-size", "1MiB"]
    result = remote.ok(*chunked, path, clock=FakeClock())
    assert result.stderr.count("retrying in") == 2
    assert "attempt 1 of 5 failed" in result.stderr
    fake.fail_when(lambda request: request.method == "POST", Fault.answer(503), times=99)
    other = str(remote.file("y.bin", b"other"))
    words = [*chunked, other, "--retry-max-time", "3s"]
    assert remote.reg(*words, clock=FakeClock()).stderr.count("retrying in") == 1
    plain = ["put-blob", remote.base, other, "--retry-max-time", "1s"]
    assert remote.reg(*plain, clock=FakeClock()).exit_code == 6


def test_put_blob_is_interrupted_without_a_traceback(box: Box) -> None:
    stopped = box.reg("put-blob", box.base, "-", stdin=Interrupted(DATA, 10), stderr=Stream())
    assert stopped.exit_code == 130
