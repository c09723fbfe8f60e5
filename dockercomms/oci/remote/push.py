"""The push of one blob with a known digest and size, over connections that may break.

1. A blob up to `ONE_REQUEST_BYTES`, or a proven one up to `PROVEN_REQUEST_BYTES`: POST, PUT. A
   larger one: POST, one PATCH that streams, PUT.
2. After a break: if the blob is there, the closing PUT has arrived. Otherwise the registry is asked
   for the offset of the session, and the PATCH continues there; or from the start if the registry
   cannot tell.
3. A registry that refuses a piece gets smaller ones, and then the whole blob in the PUT, as one
   without PATCH. One that has no blob after such a PUT (Artifactory) gets it by PATCH.

Source: distribution-spec v1.1.1, "Pushing blobs".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from dockercomms.errors import (
    BadAnswer,
    BlobUnknown,
    DigestInvalid,
    DigestMismatch,
    DockerCommsError,
    LimitError,
    NetworkError,
    NotFoundError,
    RangeInvalid,
    RegistryError,
    TrailingData,
    Truncated,
    Unsupported,
)
from dockercomms.oci.content import BLOB_READ_BYTES, ProvenBlob
from dockercomms.oci.interface import BlobSource, ProgressHook
from dockercomms.oci.model import Descriptor
from dockercomms.oci.remote.exchange import Body, Sender
from dockercomms.oci.remote.retry import Failure, Retrying, RetryPolicy
from dockercomms.oci.remote.upload import SMALL_CHUNK_BYTES, UploadSession, blob_is_there
from dockercomms.platforms.files import local_errors

ONE_REQUEST_BYTES = 2**20
"""The largest blob sent in one PUT: sending it again costs less than asking for the offset."""

PROVEN_REQUEST_BYTES = 40 * 2**20
"""The largest proven blob sent in one PUT, which saves the registry a file and a request; after a
break it continues in pieces from the registry's offset."""

SMALLEST_CHUNK_BYTES = 2**20 - 2**16
"""The piece that is tried last after a 413: nginx takes 1 MiB in a request by default."""

MAX_REPAIRS = 8
"""The limit of new starts, or other ways to send, without progress."""

_BAD_REQUEST = 400
_TOO_LARGE = 413


class CheckedSource:
    """The content of a blob, checked against its descriptor before its last bytes are sent.

    Bytes that are read again are not hashed again: the registry checks the digest as well.

    Args:
        descriptor: The expected digest and size.
        source: Opens the content.
        progress: Called with the bytes handed to the network.
    """

    def __init__(
        self, descriptor: Descriptor, source: BlobSource, progress: ProgressHook | None
    ) -> None:
        self.descriptor = descriptor
        self.moved = 0
        """Bytes handed out so far; repeated bytes count again."""
        self._open = source
        self.proven = isinstance(source, ProvenBlob) and source.size == descriptor.size
        self._progress = progress
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])
        self._hashed = 0
        self._shown = -1

    def body(self, start: int, length: int) -> Body:
        """Return a part as a body that can be sent again."""
        return Body(length, lambda: self._blocks(start, start + length))

    def show(self, done: int) -> None:
        """Call the hook, never with less than before."""
        if self._progress is not None and done > self._shown:
            self._shown = done
            self._progress(done, self.descriptor.size)

    def _blocks(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        if not (self.proven and isinstance(self._open, ProvenBlob)):
            yield from self._checked_blocks(start, stop)
            return
        for block in self._open.blocks(start, stop):
            start += len(block)
            self.moved += len(block)
            yield block
            self.show(start)

    def _checked_blocks(self, start: int, stop: int) -> Iterator[bytes]:
        what = f"blob {self.descriptor.digest}"
        with local_errors(what):
            stream = self._open()
        with stream:
            with local_errors(what):
                stream.seek(start)
            at = start
            while at < stop:
                with local_errors(what):
                    block = stream.read(min(BLOB_READ_BYTES, stop - at))
                self._check(at, block, stream)
                at += len(block)
                self.moved += len(block)
                yield block
                self.show(at)

    def _check(self, at: int, block: bytes, stream: BinaryIO) -> None:
        """Hash `block`, which is at `at`; compare size and digest at the end."""
        size, digest = self.descriptor.size, self.descriptor.digest
        if not block:
            raise Truncated(f"blob {digest}: {size} bytes expected, its source ends after {at}")
        end = at + len(block)
        if at <= self._hashed < end:
            self._hash.update(memoryview(block)[self._hashed - at :])
            self._hashed = end
        if end < size:
            return
        with local_errors(f"blob {digest}"):
            more = stream.read(1)
        if more:
            raise TrailingData(f"blob {digest}: its source has more than {size} bytes")
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if self._hashed == size and actual != digest:
            raise DigestMismatch(f"blob {digest}: its source is other content, {actual}")


class PieceMemory(Protocol):
    """A memory beyond this process of the largest piece that each registry takes, by its host."""

    def largest_piece(self, host: str, /) -> int | None:
        """Return the bytes, `None` if unknown."""
        ...

    def note_largest_piece(self, host: str, size: int, /) -> None:
        """Store the bytes."""
        ...


class Pieces:
    """The piece sizes that one registry refused or took. Safe for several threads.

    Args:
        host: The registry's.
    """

    def __init__(self, host: str = "") -> None:
        self._host = host
        self._largest: int | None = None
        self._asked = False
        self.memory: PieceMemory | None = None
        """Read before the first blob; `None`: only this process remembers."""
        self.patched_first = False
        """The registry refuses a PUT that holds the whole blob."""

    @property
    def largest(self) -> int | None:
        """Return the bytes; `None` if no piece was refused for its length."""
        if self.memory is not None and not self._asked:
            self._largest = self.memory.largest_piece(self._host)
            self._asked = True
        return self._largest

    def learn(self, size: int) -> None:
        """Record the largest piece that was taken after a larger one was refused."""
        if size == self.largest:
            return
        self._largest = size
        if self.memory is not None:
            self.memory.note_largest_piece(self._host, size)


class BlobPush:
    """One push of a blob. Used once, by one thread.

    Args:
        sender: Sends the requests.
        repository: The repository's name.
        source: The content.
        retry: The policy for the whole push; its single requests are not retried.
        patient: Each failure after which the registry holds more bytes starts the policy anew.
        chunk_bytes: The largest piece to send at once; `None`: no limit of ours.
        pieces: The sizes that the registry took or refused before.
    """

    def __init__(
        self,
        sender: Sender,
        repository: str,
        source: CheckedSource,
        *,
        retry: RetryPolicy,
        patient: bool,
        chunk_bytes: int | None = None,
        pieces: Pieces | None = None,
    ) -> None:
        self._pieces = Pieces() if pieces is None else pieces
        known = [size for size in (chunk_bytes, self._pieces.largest) if size is not None]
        chunk_bytes = min(known) if known else None
        self._sender = sender
        self._repository = repository
        self._source = source
        self._policy = retry
        self._patient = patient
        self._chunk = chunk_bytes
        self._size = source.descriptor.size
        limit = PROVEN_REQUEST_BYTES if source.proven else ONE_REQUEST_BYTES
        fits = self._size <= min(limit, chunk_bytes or limit)
        self._whole = fits and not self._pieces.patched_first
        self._may_go_in_pieces = self._whole and self._size > ONE_REQUEST_BYTES
        self._session: UploadSession | None = None
        self._at = 0
        self._best = 0
        self._unsure = False
        self._counted = False
        self._shrunk = False
        self._closing = False
        self._asked = False
        self._repairs = 0
        self._moved = 0
        self._retrying: Retrying | None = None

    def run(self) -> Descriptor:
        """Push the blob and return its descriptor."""
        try:
            while True:
                try:
                    self._go_on()
                except (NetworkError, RegistryError) as error:
                    self._recover(error)
                else:
                    self._source.show(self._size)
                    return self._source.descriptor
        except NetworkError as error:
            if self._session is None and not error.refused and error.hint is None:
                # aws/containers-roadmap#1970
                error.hint = (
                    "check the host and your network; ECR closes the connection where the "
                    "repository does not exist: create it first (aws ecr create-repository)"
                )
            raise  # the registry cannot be told that the session is over
        except DockerCommsError as error:
            if self._session is not None:
                self._session.cancel()
            if isinstance(error, RegistryError) and error.status == _TOO_LARGE:
                raise LimitError(
                    f"{self._repository}: {error.message}",
                    hint="the registry, or a proxy before it, takes no request that large: send "
                    "smaller pieces with --chunk-size 1MiB",
                ) from error
            raise

    def _go_on(self) -> None:
        """Send all bytes that the registry does not have; raises if that breaks off."""
        descriptor = self._source.descriptor
        if self._unsure and self._closing and self._is_there():
            return
        session = self._located()
        if session is None:
            session = UploadSession.start(self._sender, self._repository, retry=RetryPolicy.none())
            self._session = session
        self._unsure = True
        while self._at < self._size and not self._whole:
            self._send_piece(session)
        self._closing = True
        rest = self._source.body(self._at, self._size - self._at) if self._at < self._size else b""
        session.finish(descriptor.digest, rest, self._at)

    def _send_piece(self, session: UploadSession) -> None:
        left = self._size - self._at
        length = min(left, session.chunk_size(self._chunk or left))
        held = session.patch(self._source.body(self._at, length), self._at, ranged=self._asked)
        if held <= self._at:
            # ECR's Range does not grow; the digest in the closing PUT proves the content
            held, self._counted = self._at + length, True
        if held > self._at + length:
            # docker-registry 2.8 stores a piece at any offset, so the session's content is not ours
            raise RangeInvalid(
                f"{self._repository}: upload session holds {held} bytes, "
                f"{self._at + length} were sent"
            )
        self._asked = False
        if self._shrunk and self._chunk is not None:
            self._pieces.learn(self._chunk)
        self._advance(held)

    def _advance(self, held: int) -> None:
        self._at = held
        if held > self._best:
            self._best = held
            self._repairs = 0
            if self._patient:
                self._retrying = None

    def _is_there(self) -> bool:
        digest = self._source.descriptor.digest
        return blob_is_there(self._sender, self._repository, digest, self._size)

    def _located(self) -> UploadSession | None:
        """Return the session to continue with, `None` if a new one must be opened.

        If its offset may differ from ours, the registry is asked for it.
        """
        session = self._session
        if session is None or not self._unsure:
            return session
        try:
            held = session.ask()
        except (NotFoundError, Unsupported, BadAnswer):
            self._begin_again()
            return None
        if held > self._size:
            self._drop(session)
            return None
        self._asked = True
        self._advance(held)
        return session

    def _begin_again(self) -> None:
        self._session = None
        self._at = 0
        self._unsure = False
        self._asked = False

    def _recover(self, error: NetworkError | RegistryError) -> None:
        """Prepare the next try, or raise `error` if there is no other."""
        session = self._session
        if self._may_go_in_pieces:
            self._may_go_in_pieces = self._whole = False
        if session is not None and isinstance(error, RegistryError) and self._cured(error, session):
            self._repairs += 1
            if self._repairs > MAX_REPAIRS:
                raise error
            return
        moved = self._source.moved - self._moved
        self._moved = self._source.moved
        if self._patient and moved > SMALL_CHUNK_BYTES and self._repairs < MAX_REPAIRS:
            # A broken long transfer says little about the next one, from any offset
            self._repairs += 1
            self._retrying = None
        if self._retrying is None:
            self._retrying = Retrying(self._policy, self._sender.clock)
        self._retrying.pause(Failure.of(error))

    def _cured(self, error: RegistryError, session: UploadSession) -> bool:
        """Prepare a cure for the refusal that needs no waiting; return whether there is one."""
        if isinstance(error, RangeInvalid):
            if self._asked and self._at == 0:
                self._at = 1  # the registry's 0-0 meant one byte
                self._asked = False
                self._unsure = False
                return True
            return self._shrink() or self._refused(error, session) or self._drop(session)
        if error.status == _TOO_LARGE:
            return self._shrink(SMALLEST_CHUNK_BYTES) or self._refused(error, session)
        if isinstance(error, NotFoundError):
            # The session is gone, or the blob is complete: the next try checks both. Otherwise it
            # was a PUT without a PATCH before it, which Artifactory refuses.
            unpatched = isinstance(error, BlobUnknown) or self._repairs > 0
            if self._whole and self._closing and unpatched:
                self._whole, self._pieces.patched_first = self._size == 0, True
            return True
        if isinstance(error, Unsupported) and not self._whole:
            self._whole = True
            return self._drop(session)
        if isinstance(error, DigestInvalid):
            # The bytes were damaged on the way; they were right when read
            self._whole = self._whole or self._counted
            return self._repairs == 0 and self._drop(session)
        return error.status == _BAD_REQUEST and self._refused(error, session)

    def _refused(self, error: RegistryError, session: UploadSession) -> bool:
        """Send all in the PUT of a new session, if a piece at its right offset failed.

        After an earlier break, the push is not sure of the offset.
        """
        if error.method != "PATCH" or self._asked or self._whole:
            return False
        self._whole = True
        return self._drop(session)

    def _shrink(self, least: int = SMALL_CHUNK_BYTES) -> bool:
        """Send smaller pieces from now on, if the last one was larger than all registries take.

        Args:
            least: The smallest piece that is tried.
        """
        largest = min(self._chunk or self._size, self._size)
        if self._whole or largest <= least:
            return False
        self._chunk = SMALL_CHUNK_BYTES if largest > SMALL_CHUNK_BYTES else least
        self._shrunk = True
        return True

    def _drop(self, session: UploadSession) -> bool:
        session.cancel()
        self._begin_again()
        return True
