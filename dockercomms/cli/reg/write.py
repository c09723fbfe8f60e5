"""`reg put-manifest`, `reg tag`, `reg delete`: change manifests and tags of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, option
from dockercomms.cli.progress import metering
from dockercomms.cli.reg.output import read_input, record, tell_pushed
from dockercomms.cli.reg.table import reg_verb
from dockercomms.cli.render import to_json
from dockercomms.errors import (
    AuthError,
    DockerCommsError,
    IntegrityError,
    NotFoundError,
    ProtocolError,
    RegistryError,
    Unsupported,
    UsageError,
)

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Opened
    from dockercomms.oci.model import Descriptor, Digest
    from dockercomms.oci.stores import Location


@reg_verb(
    "put-manifest",
    example="dockercomms reg put-manifest registry.example/team/app:v1 manifest.json --tag latest",
)
@click.argument("reference", metavar="REF")
@click.argument("file", type=click.Path(readable=False), metavar="FILE")
@option("--tag", "more", type=NAME, multiple=True, metavar="TAG",
        help="Additional tag (repeatable).")  # fmt: skip
@option("--media-type", type=NAME, metavar="TYPE", help="Media type.  [default: from FILE]")
@option("--with-children", "origin", type=NAME, metavar="REPO",
        help="Copy missing blobs and manifests from REPO first.")  # fmt: skip
def put_manifest_command(
    session: Session,
    *,
    reference: str,
    file: str,
    more: tuple[str, ...],
    media_type: str | None,
    origin: str | None,
) -> None:
    """Push a manifest or an index.

    FILE may be - for standard input; its bytes are pushed unchanged. Prints the digest.
    """
    from dockercomms.oci.images.copy import ensure_manifest
    from dockercomms.oci.model import MAX_MANIFEST_BYTES

    data = read_input(session, file, MAX_MANIFEST_BYTES, what="a manifest")
    kind = media_type or media_type_of(data)
    _check_tags(more)
    with session.stores() as stores:
        opened = stores.open(reference, create=True)
        target = opened.location
        if origin is not None:
            source = stores.repository(origin).location
            _copy_children(session, source, target, data)
            ensure_manifest(target, data, kind, {"": source})
        done = _push(opened, data, kind, (*target.tags, *more), ensured=origin is not None)
        _list_referrer(session, opened, data, done)
    tags = [*target.tags, *more]
    tell_pushed(session, "put-manifest", done, tags=tags, reference=str(opened))
    session.screen.note(f"pushed to {opened.place.repo}: {', '.join(tags) or 'by its digest'}")


def _push(
    opened: Opened, data: bytes, media_type: str, tags: tuple[str, ...], *, ensured: bool
) -> Descriptor:
    """Push the manifest under `tags`; the first exists already if it was ensured."""
    from dockercomms.oci.model import Descriptor, digest_of

    opened.location.refuse_other(digest_of(data))
    left = tags[1:] if ensured and opened.place.tag else tags
    if ensured and not left:
        return Descriptor.of(data, media_type)
    return opened.registry.push_manifest(opened.repository, data, media_type, tags=left)


def _list_referrer(session: Session, opened: Opened, data: bytes, done: Descriptor) -> None:
    """Add a pushed manifest to its subject's fallback index, if the registry needs one.

    Source: distribution-spec v1.1.1, "Pushing Manifests with Subject".
    """
    from dockercomms.oci.content import read_facts, referrer_entry
    from dockercomms.oci.tag_schema import append_entry

    facts = read_facts(data, done.digest)
    registry, repository = opened.registry, opened.repository
    if facts.subject is None or registry.referrers_supported(repository):
        return
    entry = referrer_entry(done.bare(), facts)
    if not append_entry(registry, repository, facts.subject, entry):
        session.screen.warn(
            f"not added to the referrers of {facts.subject}: the fallback index is full"
        )


def media_type_of(data: bytes) -> str:
    """Return the media type in a manifest, or derive it from the manifest's members.

    Raises:
        UsageError: the members fit no media type.
    """
    from dockercomms.oci.model import MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST
    from dockercomms.oci.strict_json import parse_json

    try:
        fields = parse_json(data, where="manifest")
    except ProtocolError as error:
        raise UsageError(f"not a manifest: {error.message}") from error
    if isinstance(fields, dict):
        said = fields.get("mediaType")
        if isinstance(said, str) and said:
            return said
        if "manifests" in fields:
            return MEDIA_TYPE_INDEX
        if "config" in fields or "layers" in fields:
            return MEDIA_TYPE_MANIFEST
    raise UsageError("the manifest has no media type", hint="give --media-type")


def _copy_children(session: Session, source: Location, target: Location, data: bytes) -> None:
    """Copy the missing parts of the manifest `data`, several in parallel.

    Parts go before the manifest: some registries accept a manifest with missing parts.
    """
    from dockercomms.oci.images.copy import copy_manifest
    from dockercomms.oci.images.ensure import copy_blob
    from dockercomms.oci.model import digest_of, parse_children
    from dockercomms.transport.window import workers

    children = parse_children(data)
    try:
        target.registry.resolve_manifest(target.repository, digest_of(data))
    except NotFoundError:
        pass
    else:
        return
    total = sum(child.size for child in children.blobs)
    concurrency = session.settings.concurrency
    with metering(session, "copying") as show:
        for child in children.manifests:
            copy_manifest(source.at(child.digest), target.at(child.digest), concurrency=concurrency)
        with workers(concurrency) as pool:
            blobs = {child.digest: child for child in children.blobs}.values()
            work = ((source.at(blob.digest), target.at(blob.digest)) for blob in blobs)
            done = 0
            for copied in pool.map(lambda pair: copy_blob(*pair), work):
                done += copied.size
                show(min(done, total), total)


@reg_verb("tag", example="dockercomms reg tag registry.example/team/app@sha256:2c26... v1 latest")
@click.argument("reference", metavar="REF")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
def tag_command(session: Session, *, reference: str, tags: tuple[str, ...]) -> None:
    """Add tags to a manifest.

    Moves a tag that is on another manifest. Prints the digest.
    """
    from dockercomms.oci.images.select import get_reference

    _check_tags(tags)
    with session.stores() as stores:
        opened = stores.source(reference)
        content = get_reference(opened.registry, opened.reference)
        found = content.descriptor
        opened.registry.push_manifest(
            opened.repository, content.data, found.media_type, tags=tags, digest=found.digest
        )
    tell_pushed(session, "tag", found, tags=tags, reference=str(opened))
    session.screen.note(f"tagged {', '.join(tags)}")


def _check_tags(tags: tuple[str, ...]) -> None:
    """Refuse malformed tags before the first request.

    Raises:
        UsageError: a tag is malformed.
    """
    from dockercomms.oci.reference import is_valid_tag

    for tag in tags:
        if not is_valid_tag(tag):
            raise UsageError(f"not a tag: {tag!r:.200}")


@reg_verb("delete", example="dockercomms reg delete registry.example/team/app:v1")
@click.argument("reference", metavar="REF")
@option("--blob", "is_blob", is_flag=True, help="REF is a blob: REPO@DIGEST.")
def delete_command(session: Session, *, reference: str, is_blob: bool) -> None:
    """Delete a tag, a manifest or a blob.

    With a tag, deletes only the tag. With a digest, deletes the manifest, all its tags, and its
    entry in a referrers fallback index. Blobs stay until the registry's garbage collection.
    """
    with session.stores() as stores:
        opened = stores.open(reference)
        kind = _delete(session, opened, is_blob=is_blob)
    row = record("delete", reference=str(opened), kind=kind)
    if session.screen.is_json:
        session.screen.data(to_json(row))
    else:
        session.screen.note(f"deleted {kind} {opened}")


def _delete(session: Session, opened: Opened, *, is_blob: bool) -> str:
    """Delete the named object, and return its kind.

    Raises:
        UsageError: the reference is ambiguous.
        Unsupported: the registry refuses to delete such objects.
    """
    registry, repository, place = opened.registry, opened.repository, opened.place
    if is_blob:
        registry.delete_blob(repository, opened.need_digest())
        return "blob"
    if place.tag is not None and place.digest is not None:
        raise UsageError(
            f"{opened}: a tag and a digest",
            hint="give the tag alone to delete only that, the digest to delete manifest and tags",
        )
    if place.digest is not None:
        subject = _subject(opened, place.digest)
        registry.delete_manifest(repository, place.digest)
        if subject is not None:
            _unlist_referrer(session, opened, subject, place.digest)
        return "manifest"
    if place.tag is None:
        raise UsageError(
            f"{opened}: neither a tag nor a digest", hint="write the tag, even if it is 'latest'"
        )
    try:
        registry.delete_tag(repository, place.tag)
    except Unsupported as error:
        error.hint = error.hint or (
            "registries that delete no tags may delete manifests: 'dockercomms reg delete "
            "REPO@DIGEST', which deletes all tags on it; docs/registries.md says what to do where "
            "that is refused, too"
        )
        raise
    return "tag"


def _subject(opened: Opened, digest: Digest) -> Digest | None:
    """Return the subject of the manifest to delete, if it can be read."""
    from dockercomms.oci.content import read_facts
    from dockercomms.oci.interface import read_all
    from dockercomms.oci.model import MAX_MANIFEST_BYTES

    try:
        reader = opened.registry.get_manifest(opened.repository, digest)
        return read_facts(read_all(reader, MAX_MANIFEST_BYTES)[0], digest).subject
    except (AuthError, NotFoundError):
        raise
    except (RegistryError, ProtocolError, IntegrityError):
        return None  # an unreadable manifest may be deleted as well


def _unlist_referrer(session: Session, opened: Opened, subject: Digest, digest: Digest) -> None:
    """Remove a deleted manifest from the fallback index of its subject.

    Source: distribution-spec v1.1.1, "Referrers Tag Schema".
    """
    from dockercomms.oci.tag_schema import remove_entry

    try:
        remove_entry(opened.registry, opened.repository, subject, digest)
    except DockerCommsError as error:
        session.screen.warn(f"still listed as a referrer of {subject}: {error.message}")
