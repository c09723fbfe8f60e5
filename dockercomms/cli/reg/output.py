"""The input and output of `reg`: content of files and standard streams, and JSON objects.

Binary content is never written to a terminal. The file of `-o` is replaced, as with curl, docker
and oras, because the user chose its name; the new file appears when it is complete. `reg get` has
other rules, since a registry chose its names. The keys of the JSON objects are stable: a key may be
added within `/v1`. Source: `spec/schema/reg-*.json`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from dockercomms.cli.render import to_json, visible
from dockercomms.errors import LimitError, LocalIOError, ProtocolError, UsageError
from dockercomms.platforms.files import begin_writing, local_errors

if TYPE_CHECKING:
    from dockercomms.cli.progress import Hook
    from dockercomms.cli.render import Screen
    from dockercomms.cli.session import Session
    from dockercomms.oci.content import ByteStream
    from dockercomms.oci.images.inspect import Inspection
    from dockercomms.oci.interface import BlobReader, Reader
    from dockercomms.oci.model import Descriptor, Digest

Record = Mapping[str, object]


def record(verb: str, **members: object) -> Record:
    """Return the object of a verb: its schema, then `members` in order."""
    return {"schema": f"dockercomms/reg-{verb}/v1", **members}


def descriptor_record(descriptor: Descriptor) -> Record:
    """Return media type, digest and size; platform, artifact type and annotations."""
    return {
        "media_type": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "platform": None if descriptor.platform is None else str(descriptor.platform),
        "artifact_type": descriptor.artifact_type,
        "annotations": dict(descriptor.annotations),
    }


def inspection_record(reference: str, found: Inspection) -> Record:
    """Return the object of `inspect`."""
    config, subject = found.config, found.subject
    return record(
        "inspect",
        reference=reference,
        digest=found.descriptor.digest,
        media_type=found.descriptor.media_type,
        size=found.descriptor.size,
        is_index=found.is_index,
        artifact_type=found.artifact_type,
        platform=None if found.platform is None else str(found.platform),
        config=None if config is None else descriptor_record(config),
        layers=[descriptor_record(layer) for layer in found.layers],
        entries=[descriptor_record(entry) for entry in found.entries],
        subject=None if subject is None else descriptor_record(subject),
        labels=dict(found.labels),
        annotations=dict(found.annotations),
    )


STDIN = STDOUT = "-"
ROOM_BYTES = 2**18
ROOMS = 8
"""The number of buffers between reader and writer. Small buffers stay in a core's own cache between
hashing and writing: 1 GiB took 0.6 s of kernel time instead of 1.2 s with pieces of 1 MiB
(measured)."""

BEGUN_BYTES = 8 * 2**20
"""The bytes written to a file before the system is told to start writing them to disk."""


def read_input(
    session: Session, file: str, limit: int, *, what: str, hint: str | None = None
) -> bytes:
    """Return the content of `file`, or of standard input for `-`.

    Raises:
        UsageError: standard input holds a password.
        LimitError: more than `limit` bytes.
        LocalIOError: the file cannot be read.
    """
    if file == STDIN and session.reads_password:
        raise UsageError(f"standard input cannot hold both a password and {what}")
    with local_errors(file), contextlib.ExitStack() as opened:
        stream = session.stdin if file == STDIN else opened.enter_context(Path(file).open("rb"))
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise LimitError(f"{file}: more than {limit} bytes", hint=hint)
    return data


def to_stdout(output: str | None) -> bool:
    """Return whether content goes to standard output."""
    return output in (None, STDOUT)


def screen_beside(session: Session, output: str | None) -> Screen:
    """Return the screen for records: on standard error if standard output has the content."""
    return session.screen_on(session.stderr) if to_stdout(output) else session.screen


def refuse_terminal(session: Session, output: str | None) -> None:
    """Refuse to write binary content to a terminal, which it could control.

    Raises:
        UsageError: standard output is a terminal, and the content goes there.
    """
    if to_stdout(output) and session.stdout.isatty():
        raise UsageError(
            "standard output is a terminal, and the content may be binary",
            hint="give -o FILE, or pipe it into something",
        )


@contextlib.contextmanager
def sink(session: Session, output: str | None) -> Iterator[BinaryIO]:
    """Yield the stream for content; a file gets its name when the block ends without error.

    It replaces an existing file, and writes to an existing device or FIFO.

    Raises:
        UsageError: standard output is a terminal.
        LocalIOError: the file cannot be written.
    """
    if to_stdout(output) or output is None:
        refuse_terminal(session, output)
        session.stdout.flush()
        yield session.stdout.buffer
        session.stdout.buffer.flush()
        return
    from dockercomms.oci.images.extract import new_file

    path = Path(output)
    with local_errors(output):
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
    if stat.S_ISREG(kind):
        # Replace the target of a symbolic link, and keep the link.
        with local_errors(output):
            target = path.resolve()
        with new_file(target, overwrite=True) as stream:
            yield stream
        return
    if stat.S_ISDIR(kind):
        raise LocalIOError(f"{output}: a folder; a file's name is needed")
    with local_errors(output):
        device = os.fdopen(os.open(path, os.O_WRONLY), "wb", buffering=0)
    with device:
        yield device


def pour(source: ByteStream, target: BinaryIO, *, what: str, show: Hook, total: int) -> int:
    """Copy all of `source`; return its number of bytes.

    Args:
        source: A stream that verifies itself.
        target: The stream of `sink`.
        what: The name of the target in errors.
        show: Called with the progress.
        total: The expected number of bytes.

    Raises:
        LocalIOError: the target cannot be written.
    """
    is_new = isinstance(target, io.BufferedRandom)  # opened by `new_file`, which syncs it later
    done = begun = 0
    with contextlib.closing(_read_ahead(source, total)) as pieces:
        for piece in pieces:
            with local_errors(what):
                _write(target, piece)
                done += len(piece)
                if is_new and done - begun >= BEGUN_BYTES:
                    target.flush()
                    begin_writing(target.fileno(), begun, done)
                    begun = done
            show(done, total)
    return done


def _read_ahead(source: ByteStream, total: int) -> Generator[bytes | memoryview, None, None]:
    """Yield the pieces of `source`, each valid until the next; read and hash ahead in a thread."""
    from dockercomms.oci.model import READ_BYTES

    if total <= READ_BYTES:
        while data := source.read(READ_BYTES):
            yield data
        return
    from dockercomms.oci.content import FillingStream
    from dockercomms.transport.window import Stop, workers

    def fill(room: memoryview) -> int:
        if isinstance(source, FillingStream):
            return source.readinto(room)
        data = source.read(len(room))
        room[: len(data)] = data
        return len(data)

    stop = Stop()
    free: SimpleQueue[memoryview] = SimpleQueue()
    full: SimpleQueue[memoryview] = SimpleQueue()

    def read() -> None:
        count = 1
        try:
            while count:
                room = free.get()
                stop.check()
                count = fill(room)
                full.put(room[:count])
        finally:
            full.put(memoryview(b""))

    for _ in range(ROOMS):
        free.put(memoryview(bytearray(ROOM_BYTES)))
    with workers(1) as pool:
        reading = pool.submit(read)
        try:
            while len(piece := full.get()):
                yield piece
                free.put(memoryview(piece.obj))
            reading.result()
        finally:
            stop.set()
            free.put(memoryview(b""))  # ends the wait for a buffer


def _write(target: BinaryIO, piece: bytes | memoryview) -> None:
    """Write all of `piece`; a device may accept less per call."""
    left = memoryview(piece)
    while left:
        left = left[target.write(left) or 0 :]


class WatchedBlob:
    """A `BlobReader` that reports its progress."""

    def __init__(self, reader: BlobReader, show: Hook) -> None:
        self._reader = reader
        self._show = show
        self._done = 0

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the blob."""
        return self._reader.descriptor

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; see `BlobReader.read`."""
        data = self._reader.read(size)
        if data:
            self._done += len(data)
            self._show(self._done, self.descriptor.size)
        return data

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class WatchedReader:
    """A reader of a store that reports the progress of each blob."""

    def __init__(self, reader: Reader, show: Hook) -> None:
        self._reader = reader
        self._show = show

    def get_blob(self, repository: str, digest: Digest, *, size: int | None = None) -> BlobReader:
        """Return a reader of the blob; see `Reader.get_blob`."""
        return WatchedBlob(self._reader.get_blob(repository, digest, size=size), self._show)

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)


def watched(reader: Reader, show: Hook) -> Reader:
    """Return `reader`, reporting the progress of each blob to `show`."""
    return cast("Reader", WatchedReader(reader, show))


def show_document(session: Session, data: bytes, output: str | None) -> None:
    """Write a JSON document: unchanged, or for a terminal indented and in ASCII.

    Raises:
        UsageError: a document for a terminal is not strict JSON.
    """
    if not (to_stdout(output) and session.stdout.isatty()):
        with sink(session, output) as stream, local_errors(output or "standard output"):
            _write(stream, data)
        return
    try:
        text = pretty(data)
    except ProtocolError as error:
        raise UsageError(
            f"not shown on a terminal: {error.message}", hint="give -o FILE, or pipe it"
        ) from error
    screen = session.screen_of("text")
    for line in text.splitlines():
        screen.data(line)


def pretty(data: bytes) -> str:
    """Return a JSON document indented, in ASCII, which is safe on a terminal.

    Raises:
        ProtocolError: not strict JSON.
    """
    import json

    from dockercomms.oci.strict_json import parse_json

    return json.dumps(parse_json(data, where="document"), indent=2, ensure_ascii=True)


def show_text(screen: Screen, data: bytes) -> bool:
    """Write text line by line, with escapes spelled out; return False for other data."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if "\0" in text:
        return False
    for line in text.splitlines():
        screen.data(visible(line))
    return True


def path_of(output: str | None) -> str | None:
    """Return the absolute path of the written file, unless it is standard output."""
    return None if to_stdout(output) or output is None else str(Path(output).absolute())


def tell(session: Session, row: Record, *cells: str) -> None:
    """Print one result: the object as JSON, or the cells."""
    if session.screen.is_json:
        session.screen.data(to_json(row))
    else:
        session.screen.row(cells)


def tell_pushed(
    session: Session,
    verb: str,
    done: Descriptor,
    *,
    tags: Sequence[str] | None = None,
    **names: str,
) -> None:
    """Print the digest, or the JSON object, of a pushed object, with the `names` of its places."""
    more = {} if tags is None else {"tags": list(tags)}
    size = {"digest": done.digest, "media_type": done.media_type, "size": done.size}
    tell(session, record(verb, **names, **size, **more), done.digest)
