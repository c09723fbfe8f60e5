"""`reg put-blob`: push a file or a stream as a blob.

A file with a known digest is pushed unless it exists, and resumes by itself after a broken
connection. A stream, or a file whose upload must survive this process, uses an upload session; an
interrupt prints its id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from dockercomms.cli.options import NAME, SIZE, option
from dockercomms.cli.progress import Hook, metering
from dockercomms.cli.reg.output import STDIN, tell_pushed
from dockercomms.cli.reg.table import reg_verb
from dockercomms.cli.render import human_bytes, shell_words
from dockercomms.errors import DigestMismatch, NetworkError, Truncated, UsageError
from dockercomms.platforms.files import local_errors, open_regular

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Opened
    from dockercomms.oci.interface import BlobUpload
    from dockercomms.oci.model import Descriptor, Digest


@reg_verb(
    "put-blob", example="dockercomms reg put-blob registry.example/team/app layer.tar.gz\n"
    "tar c site | dockercomms reg put-blob registry.example/team/app -"
)  # fmt: skip
@click.argument("repository", metavar="REPO[@DIGEST]")
@click.argument("file", type=click.Path(readable=False), metavar="FILE")
@option("--chunk-size", "registry_chunk_bytes", type=SIZE, metavar="SIZE",
        help="Largest chunk per request.  [default: no limit; a stream 4MiB]")  # fmt: skip
@option("--resumable", is_flag=True,
        help="Print how to resume if interrupted (half the speed).")  # fmt: skip
@option("--resume", "upload_id", type=NAME, metavar="ID", help="Resume this upload.")
def put_blob_command(
    session: Session, *, repository: str, file: str, resumable: bool, upload_id: str | None
) -> None:
    """Push a file as a blob.

    FILE may be - for standard input. With a DIGEST, refuses other content. Prints the digest.
    """
    if file == STDIN and session.reads_password:
        raise UsageError("standard input cannot hold both a password and a blob")
    with session.stores() as stores, metering(session, "pushing") as show:
        opened = stores.open(repository, create=True)
        if opened.place.tag is not None:
            raise UsageError(f"{opened}: blobs have no tags")
        if file != STDIN and Path(file).is_file() and upload_id is None and not resumable:
            done = _push_file(session, opened, Path(file), show)
        else:
            with _opened(session, file) as (stream, size):
                upload = _upload(session, opened, upload_id)
                with _resumable(session, opened, file, upload):
                    done = _push_stream(opened, upload, stream, show=show, size=size, what=file)
    tell_pushed(session, "put-blob", done, reference=str(opened.at(done.digest)))
    session.screen.note(f"pushed {human_bytes(done.size)} to {opened.place.repo}")


def _push_file(session: Session, opened: Opened, path: Path, show: Hook) -> Descriptor:
    """Push a file, unless the blob exists.

    Raises:
        DigestMismatch: the file has another digest than the reference.
        LocalIOError: the file cannot be read.
    """
    from dockercomms.oci.images.ensure import ensure_blob
    from dockercomms.oci.remote.registry import HTTPRegistry, describe
    from dockercomms.oci.remote.retry import RetryPolicy

    def source() -> BinaryIO:
        with local_errors(str(path)):
            return open_regular(path)

    descriptor = describe(source)
    _refuse_other(opened, descriptor.digest, str(path))
    registry, chosen = opened.registry, session.settings
    if chosen.registry_chunk_bytes is None or not isinstance(registry, HTTPRegistry):
        target = opened.at(descriptor.digest).location
        return ensure_blob(target, descriptor.size, source, progress=show)
    policy = RetryPolicy.upload(on_retry=session.tell_retry)
    if chosen.retry_seconds is not None:
        policy = replace(policy, max_elapsed=float(chosen.retry_seconds))
    return registry.push_layer(
        opened.repository,
        source,
        descriptor=descriptor,
        chunk_bytes=chosen.registry_chunk_bytes,
        progress=show,
        retry=policy,
    )


def _upload(session: Session, opened: Opened, upload_id: str | None) -> BlobUpload:
    """Open an upload session, or resume one.

    Raises:
        UsageError: `upload_id` is malformed.
        UploadUnknown: the session has ended.
    """
    chunk = session.settings.registry_chunk_bytes or 0
    registry, repository = opened.registry, opened.repository
    if upload_id is None:
        return registry.upload(repository, chunk_size=chunk)
    try:
        return registry.resume_upload(repository, upload_id, chunk_size=chunk)
    except ValueError as error:
        raise UsageError(f"--resume: {error}") from error


def _push_stream(
    opened: Opened,
    upload: BlobUpload,
    stream: BinaryIO,
    *,
    show: Hook,
    size: int | None,
    what: str,
) -> Descriptor:
    """Send `stream` from the offset of the session, and close the session.

    Raises:
        Truncated: the stream is shorter than the session's offset.
        DigestMismatch: the content has another digest than the reference.
        DigestInvalid: the session held other content.
    """
    from dockercomms.oci.model import READ_BYTES, Digest

    hashed, held, at = hashlib.sha256(), upload.size, 0
    while True:
        with local_errors(what):
            piece = stream.read(READ_BYTES if at >= held else min(READ_BYTES, held - at))
        if not piece:
            break
        hashed.update(piece)
        if at >= held:
            upload.write(piece)
        at += len(piece)
        if size is not None:
            show(at, max(at, size))
    if at < held:
        raise Truncated(f"{what}: {at} bytes; the upload holds {held} already")
    digest = Digest(f"sha256:{hashed.hexdigest()}")
    _refuse_other(opened, digest, what)
    return upload.commit(digest)


def _refuse_other(opened: Opened, digest: Digest, what: str) -> None:
    wanted = opened.place.digest
    if wanted not in (None, digest):
        raise DigestMismatch(f"{what}: {wanted} expected, {digest} read")


@contextmanager
def _opened(session: Session, file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Yield a stream of FILE, and its size if it is known.

    Raises:
        LocalIOError: the file cannot be opened.
    """
    if file == STDIN:
        yield session.stdin, None
        return
    path = Path(file)
    with local_errors(file):
        stream = path.open("rb")
    with stream:
        yield stream, path.stat().st_size if path.is_file() else None


@contextmanager
def _resumable(session: Session, opened: Opened, file: str, upload: BlobUpload) -> Iterator[None]:
    """Print how to resume `upload` if the block is interrupted; cancel the upload if it fails."""
    words = ["dockercomms", "reg", "put-blob", str(opened), file, "--resume"]
    try:
        yield
    except NetworkError as error:
        error.hint = f"resume with: {shell_words([*words, upload.id])}"
        raise
    except KeyboardInterrupt:
        session.screen.warn(f"resume with: {shell_words([*words, upload.id])}")
        raise
    except Exception:
        upload.cancel()
        raise
