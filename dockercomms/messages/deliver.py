"""Delivery of a payload to disk: complete or not at all, and once.

    temporary --pull, prove, fsync--> path recorded --rename--> delivered, receipt stored

A crash before the rename leaves a temporary and rows of its chunks; the next run continues it, or
removes it when it is a day old. After the rename, a row contains the path and the digest, so the
next run only compares them.

Source: SPEC.md section 8.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dockercomms.errors import DockerCommsError, NetworkError, NotFoundError, RegistryError
from dockercomms.messages.place import (
    TEMPORARY,
    Leftovers,
    check_alone,
    delivery_key,
    file_digest,
    is_in_place,
    need_space,
    put_in_place,
    sync_in_place,
    tree,
    tree_digest,
)
from dockercomms.messages.publish import Publisher, ReferrersIndex
from dockercomms.messages.receipts import store_receipt
from dockercomms.oci.model import READ_BYTES, Digest
from dockercomms.platforms.clock import ClockChoice, Clocks
from dockercomms.platforms.files import local_errors, make_folder, sync_file
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import CONTENT_TYPE_FILES_TAR
from dockercomms.protocol.manifest import Message
from dockercomms.transport.folders import Folder
from dockercomms.transport.journal import Progress, PullJournal
from dockercomms.transport.names import safe_filename
from dockercomms.transport.payload import TAR_SUFFIX
from dockercomms.transport.pull import pull_payload
from dockercomms.transport.unpack import unpack_files

_BLOCK_BYTES = 512
"""The unit of `st_blocks` on every file system (POSIX, sys/stat.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveOptions:
    """Options of receiving."""

    out: Path = Path()
    """The folder for messages; created if it does not exist."""
    flat: bool = False
    """Do not create a folder for each message."""
    overwrite: bool = False
    """Replace existing files."""
    stdout: BinaryIO | None = None
    """Write the verified payload to this stream instead; after a crash once more."""
    receipt: bool = True
    """Write a receipt for each delivered message."""
    handover: bool = False
    """The caller runs a command for each delivered message and writes the receipt."""
    again: bool = False
    """Deliver also messages that were delivered before or have expired."""
    redeliver: bool = False
    """Deliver also messages that were received elsewhere according to our own receipts."""
    choice: ClockChoice = "both"
    """The clock that decides about times."""
    concurrency: int = 4
    referrers_index: ReferrersIndex = "auto"
    """When to add receipts to the fallback index."""
    max_total_bytes: int | None = None
    """Hold larger messages. By default the disk is the only limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRun:
    """The delivery of one message. The caller must hold the lock of its key.

    Every method may raise `LocalIOError`.
    """

    message: Message
    me: str
    publisher: Publisher
    options: ReceiveOptions
    leftovers: Leftovers
    signer: str | None = None
    """The verified name of its sender; None if the signature is not verified."""
    sign_receipt: bool = False
    """Sign the receipt when it is published."""
    progress: Progress | None = None

    @property
    def key(self) -> str:
        """The name of this delivery's lock and notes."""
        return delivery_key(self.me, self.message.digest)

    def clocks(self) -> Clocks:
        """Return the present times of the clocks that judge the message."""
        publisher = self.publisher
        return Clocks(publisher.clock.now(), publisher.registry.server_time(), self.options.choice)

    def settle(self) -> tuple[Path, ...] | None:
        """Finish a delivery that an earlier run renamed, if there is one."""
        rows, digest = self.publisher.state.inbox, self.message.digest
        known = rows.delivery(self.me, digest)
        if known is None or known.state != "delivering":
            return None
        if known.path is None or known.payload_digest is None:
            in_place = False
        else:
            # An equal file may be the delivery of another message
            in_place = is_in_place(known.path, known.payload_digest) and not rows.is_taken(
                known.path, but=digest
            )
        if known.path is None or not in_place:
            rows.forget_delivery(self.me, digest)
            return None
        sync_in_place(known.path)  # that run may have crashed before its rename was on the disk
        self._finish()
        return files_at(known.path)

    def deliver(self) -> tuple[Path, ...]:
        """Deliver the payload and record it; return the delivered files.

        Raises:
            IntegrityError: the store sent other bytes than requested.
            ProtocolError: the bytes match the manifest but break a rule.
            NotFoundError: a chunk does not exist in the store.
            NetworkError, RegistryError: the store does not answer.
        """
        if self.options.stdout is not None:
            self._to_stream(self.options.stdout)
            return ()
        with self._kept_if_interrupted(), self._out() as out:
            if self.message.header.content_type == CONTENT_TYPE_FILES_TAR:
                final = self._to_folder(out)
            else:
                final = self._to_file(out)
        self._finish()
        return files_at(final)

    # --- to a file, a folder or a stream ---------------------------------------------------------

    def _to_file(self, out: Folder) -> Path:
        """Deliver a file: in a new folder of its own, or in the output folder if `flat` is set."""
        name = safe_filename(self.message.header.display_name)
        if self.options.flat:
            temporary, digest = self._pull_file(out)
            return self._put(out, temporary, out, name, digest)
        own = self._kept_folder(out) or self.leftovers.new_folder(self.key, out)
        with local_errors(str(out.path / own)), out.enter(own) as folder:
            temporary, digest = self._pull_file(folder)
            folder.rename_new(temporary, folder, name)
            folder.sync()
        return self._put_own(out, own, digest, file=name)

    def _pull_file(self, folder: Folder) -> tuple[str, Digest]:
        """Pull the payload into a temporary file in `folder`; return its name and digest."""
        temporary, handle = self._temporary(folder)
        with os.fdopen(handle, "w+b") as sink:
            self._pull(sink, folder.path, _Kept(self))
        known = self.message.header.payload_digest
        return temporary, known or file_digest(folder.path / temporary)

    def _to_folder(self, out: Folder) -> Path:
        """Unpack a tar of files into a temporary folder, then rename the whole folder."""
        need_space(out.path, 2 * self.message.header.total_bytes, self._what)
        packed, handle = self._temporary(out)
        with os.fdopen(handle, "w+b") as sink:
            self._pull(sink, out.path, _Kept(self))
            own = self.leftovers.new_folder(self.key, out)
            sink.seek(0)
            with local_errors(str(out.path / own)), out.enter(own) as folder:
                unpack_files(sink, folder)
        with local_errors(str(out.path / packed)):
            out.unlink(packed)
        if self.options.flat:
            return self._put_flat(out, own)
        return self._put_own(out, own, tree_digest(out.path / own))

    def _put_own(self, out: Folder, own: str, digest: Digest, *, file: str = "") -> Path:
        """Rename the message's own folder to a free name; return the path of the payload.

        Args:
            out: The parent folder.
            own: The temporary name.
            digest: The digest of the file in it, or of the folder itself.
            file: The file's name; "": the folder is the payload.
        """
        final = put_in_place(
            out,
            own,
            out,
            self.message.header.short_id,
            announce=lambda path: self._begin(path / file, digest),
        )
        return final / file

    def _put_flat(self, out: Folder, own: str) -> Path:
        """Rename the unpacked folder, or the only folder in it, to the sender's name."""
        name = safe_filename(self.message.header.display_name)
        name = safe_filename(name.removesuffix(TAR_SUFFIX))
        with local_errors(str(out.path / own)), out.enter(own) as unpacked:
            if unpacked.names() == [name] and unpacked.is_folder(name):
                check_alone(unpacked, name)
                digest = tree_digest(unpacked.path / name)
                return self._put(unpacked, name, out, name, digest)
        return self._put(out, own, out, name, tree_digest(out.path / own))

    def _put(self, source: Folder, temporary: str, out: Folder, name: str, digest: Digest) -> Path:
        return put_in_place(
            source,
            temporary,
            out,
            name,
            overwrite=self.options.overwrite,
            announce=lambda final: self._begin(final, digest),
        )

    def _to_stream(self, stream: BinaryIO) -> None:
        """Write the verified payload to `stream`; after a crash the next run writes it again."""
        with local_errors("temporary file"), tempfile.TemporaryFile() as sink:
            self._pull(sink, Path(tempfile.gettempdir()))
            sink.seek(0)
            with local_errors("standard output"):
                shutil.copyfileobj(sink, stream, READ_BYTES)
                stream.flush()
        with self.publisher.state.inbox.batch():
            self._begin(None, None)
            self._finish()

    # --- steps -----------------------------------------------------------------------------------

    @property
    def _what(self) -> str:
        return f"message {self.message.header.id}"

    def _temporary(self, folder: Folder) -> tuple[str, int]:
        """Return the name and the handle of a file in `folder`: an interrupted run's, or new."""
        pulls, now = self.publisher.state.pulls, self.publisher.clock.now()
        known = pulls.path(self.key, now=now)
        if known is not None:
            here = known.parent == folder.path
            handle = self.leftovers.reopen(folder, known.name) if here else None
            if handle is not None:
                return known.name, handle
            pulls.forget(self.key)  # so it is removed with the other temporaries
        name, handle = self.leftovers.new_file(self.key, folder)
        if len(self.message.chunks) > 1 and self.message.header.payload_digest is not None:
            pulls.begin(self.key, folder.path / name, now=now)
        return name, handle

    def _kept_folder(self, out: Folder) -> str | None:
        """Return the temporary folder in `out` that an interrupted run kept, if it exists."""
        known = self.publisher.state.pulls.path(self.key, now=self.publisher.clock.now())
        if known is None or known.parent.parent != out.path:
            return None
        own = known.parent.name
        return own if TEMPORARY.fullmatch(own) and out.is_folder(own) else None

    @contextlib.contextmanager
    def _kept_if_interrupted(self) -> Iterator[None]:
        """Keep the file after a failure of the network or the registry, else forget it.

        A later run cannot continue after wrong bytes or a full disk.
        """
        pulls = self.publisher.state.pulls
        try:
            yield
        except DockerCommsError as error:
            passing = isinstance(error, NetworkError | RegistryError)
            if not passing or isinstance(error, NotFoundError) or not pulls.chunks(self.key):
                pulls.forget(self.key)
            raise

    def _pull(self, sink: BinaryIO, folder: Path, journal: PullJournal | None = None) -> None:
        """Write the verified payload to `sink`, durably."""
        held = getattr(os.fstat(sink.fileno()), "st_blocks", 0) * _BLOCK_BYTES
        need_space(folder, max(0, self.message.header.total_bytes - held), self._what)
        pull_payload(
            self.publisher.registry,
            self.publisher.repository,
            self.message,
            sink,
            concurrency=self.options.concurrency,
            progress=self.progress,
            journal=journal,
        )
        with local_errors(self._what):
            sink.flush()
            sync_file(sink.fileno())

    def _out(self) -> Folder:
        """Open the output folder, created if it does not exist. It may be a link itself."""
        with local_errors(f"{self.options.out}: the working directory"):
            out = self.options.out.absolute()
        with local_errors(str(out)):
            make_folder(out)
            return Folder.open(out)

    def _begin(self, final: Path | None, digest: Digest | None) -> None:
        """Record, durably, the path and the digest of the delivery before the rename."""
        header = self.message.header
        self.publisher.state.inbox.begin_delivery(
            self.me,
            self.message.digest,
            repo=self.publisher.repo,
            message_id=header.id,
            sender=header.sender,
            path=final,
            payload_digest=digest,
            expires=header.expires,
        )

    def _finish(self) -> None:
        """Record the delivery, the signer and the receipt in one transaction."""
        state, header = self.publisher.state, self.message.header
        rows, digest = state.inbox, self.message.digest
        # One fast clock must not decide alone; a message cannot arrive before its creation
        now = max(self.clocks().earliest, header.created_at or self.clocks().earliest)
        with rows.batch():
            state.pulls.forget(self.key)
            rows.finish_delivery(self.me, digest, now)
            if self.signer is not None:
                state.trust.record_signed(
                    self.me, self.signer, header.id, digest, expires=header.expires, at=now
                )
            if self.options.handover:
                state.handovers.owe(
                    self.me,
                    self.message.descriptor,
                    repo=self.publisher.repo,
                    signer=self.signer,
                    now=now,
                )
            elif self.options.receipt:
                known = rows.delivery(self.me, digest)
                at = None if known is None else known.delivered_at
                store_receipt(
                    state,
                    self.publisher.repo,
                    self.message,
                    verified=self.signer is not None,
                    at=at or now,
                    to_sign=self.sign_receipt,
                )


@dataclass(frozen=True, slots=True)
class _Kept:
    """The journal of one delivery's file, for `transport`."""

    run: DeliveryRun

    def arrived(self) -> frozenset[int]:
        return self.run.publisher.state.pulls.chunks(self.run.key)

    def record(self, index: int) -> None:
        if len(self.run.message.chunks) > 1:  # a single chunk cannot be continued
            self.run.publisher.state.pulls.record(self.run.key, index)

    def forget(self) -> None:
        self.run.publisher.state.pulls.forget_chunks(self.run.key)


def files_at(path: Path) -> tuple[Path, ...]:
    """Return the files delivered at `path`: itself, or those below it."""
    if not path.is_dir():
        return (path,)
    with local_errors(str(path)):
        return tuple(item for item in tree(path) if item.is_symlink() or not item.is_dir())
