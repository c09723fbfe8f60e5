"""`reg manifest`, `reg blob`, `reg index`: read stored content."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, option
from dockercomms.cli.progress import metering
from dockercomms.cli.reg.output import (
    path_of,
    pour,
    record,
    refuse_terminal,
    screen_beside,
    show_document,
    to_stdout,
)
from dockercomms.cli.reg.output import sink as open_sink
from dockercomms.cli.reg.table import output_option, platform_option, reg_verb
from dockercomms.cli.render import human_bytes, to_json
from dockercomms.errors import ManifestUnknown, UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.oci.interface import BlobReader

_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{1,19})?", re.ASCII)


@reg_verb("manifest", example="dockercomms reg manifest registry.example/team/app:v1 | jq .layers")
@click.argument("reference", metavar="REF")
@platform_option
@output_option
def manifest_command(
    session: Session, *, reference: str, platform: str | None, output: str | None
) -> None:
    """Get a manifest, byte for byte.

    The bytes match the manifest's digest; on a terminal they are indented. --format json prints an
    object with the manifest and its digest.
    """
    from dockercomms.cli.stores import parse_platform
    from dockercomms.oci.images.select import get_reference, resolve_content

    with session.stores() as stores:
        opened = stores.source(reference)
        want = parse_platform(platform)
        content = get_reference(opened.registry, opened.reference)
        found, data = content.descriptor, content.data
        if want is not None:
            resolved = resolve_content(opened.registry, opened.repository, content, platform=want)
            found, data = resolved.descriptor, resolved.data
    members = {
        "reference": str(opened),
        "digest": found.digest,
        "media_type": found.media_type,
        "size": found.size,
    }
    _write_document(session, "manifest", data, output, members)


def _write_document(
    session: Session, verb: str, data: bytes, output: str | None, members: dict[str, object]
) -> None:
    """Write a document, or the object of `verb` that contains it; both if a file is named.

    Raises:
        ProtocolError: the document for an object is not strict JSON.
    """
    from dockercomms.oci.strict_json import parse_json

    screen = session.screen
    if not (screen.is_json and to_stdout(output)):
        show_document(session, data, output)
    if screen.is_json:
        document = parse_json(data, where=str(members["digest"]))
        row = record(verb, **members, path=path_of(output), **{verb: document})
        screen.data(to_json(row))


@reg_verb(
    "blob", example="dockercomms reg blob registry.example/team/app@sha256:2c26... -o layer.tar.gz"
)
@click.argument("reference", metavar="REPO@DIGEST")
@option("--range", "byte_range", metavar="A-[B]",
        help="Only bytes A to B, from 0, inclusive; digest not verified.")  # fmt: skip
@output_option
def blob_command(
    session: Session, *, reference: str, byte_range: str | None, output: str | None
) -> None:
    """Get a blob, or a part of one.

    The output file appears only when it is complete and its digest is verified.
    """
    span = None if byte_range is None else parse_range(byte_range)
    refuse_terminal(session, output)
    with session.stores() as stores, metering(session, "getting") as show:
        opened = stores.open(reference)
        digest = opened.need_digest()
        registry, repository = opened.registry, opened.repository
        reader: BlobReader
        if span is None:
            reader = registry.get_blob(repository, digest)
        else:
            reader = registry.get_blob_range(repository, digest, *span)
        with reader, open_sink(session, output) as stream:
            size = reader.descriptor.size
            total = size if span is None else min(span[1] or size, size) - span[0]
            written = pour(reader, stream, what=output or "standard output", show=show, total=total)
    screen = screen_beside(session, output)
    if screen.is_json:
        row = record(
            "blob",
            reference=str(opened),
            digest=digest,
            size=size,
            first_byte=0 if span is None else span[0],
            bytes=written,
            path=path_of(output),
        )
        screen.data(to_json(row))
    else:
        part = "" if written == size else f" of {human_bytes(size)}"
        screen.note(f"got {human_bytes(written)}{part}")


def parse_range(text: str) -> tuple[int, int | None]:
    """Return start and exclusive end of a range in curl's form: 0-99, or 100- to the end.

    Raises:
        UsageError: another form, or an end before the start.
    """
    match = _RANGE.fullmatch(text)
    first = -1 if match is None else int(match[1])
    last = None if match is None or match[2] is None else int(match[2])
    if match is None or (last is not None and last < first):
        raise UsageError(
            f"--range {text!r:.60}: the first and the last byte expected, as 0-99, or 100- for "
            "all from byte 100"
        )
    return first, None if last is None else last + 1


@reg_verb("index", example="dockercomms reg index registry.example/team/app:v1 -o index.json")
@click.argument("reference", metavar="REF")
@option("--arch-annotation", type=NAME, metavar="KEY",
        help="Annotation for the architecture.  [default: Docker's]")  # fmt: skip
@output_option
def index_command(
    session: Session, *, reference: str, arch_annotation: str | None, output: str | None
) -> None:
    """Build an index that describes an image or index.

    Each entry has its platform, its architecture as Docker's official images name it, and the
    location of its content. Use 'reg put-manifest' to push the index.
    """
    from dockercomms.oci.images.synthesis import ANNOTATION_BASHBREW_ARCH, synthesize_index
    from dockercomms.oci.model import digest_of

    with session.stores() as stores:
        opened = stores.source(reference)
        index = synthesize_index(
            opened.registry,
            opened.reference,
            name=str(replace(opened.place, digest=None)),
            arch_annotation=arch_annotation or ANNOTATION_BASHBREW_ARCH,
            denied="raise",
        )
    if index is None:
        raise ManifestUnknown(f"{opened}: not there")
    data = index.to_bytes()
    members: dict[str, object] = {
        "reference": str(opened),
        "digest": digest_of(data),
        "media_type": index.media_type,
        "size": len(data),
    }
    _write_document(session, "index", data, output, members)
