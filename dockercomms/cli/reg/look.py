"""`reg resolve`, `reg exists`, `reg inspect`: describe an object without downloading it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import option
from dockercomms.cli.reg.output import descriptor_record, inspection_record, record, tell
from dockercomms.cli.reg.table import platform_option, reg_verb
from dockercomms.cli.render import human_bytes, to_json
from dockercomms.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Opened
    from dockercomms.oci.images.inspect import Inspection
    from dockercomms.oci.model import Descriptor

_blob = option("--blob", "is_blob", is_flag=True, help="REF is a blob: REPO@DIGEST.")


@reg_verb("resolve", example="dockercomms reg resolve registry.example/team/app:v1")
@click.argument("reference", metavar="REF")
@platform_option
@_blob
def resolve_command(
    session: Session, *, reference: str, platform: str | None, is_blob: bool
) -> None:
    """Print the digest that a reference resolves to.

    Without tag and digest, the tag is 'latest'.
    """
    with session.stores() as stores:
        opened = stores.open(reference) if is_blob else stores.source(reference)
        found = _resolve(opened, platform, is_blob=is_blob)
    row = record("resolve", reference=str(opened), **descriptor_record(found))
    tell(session, row, found.digest)


def _resolve(opened: Opened, platform: str | None, *, is_blob: bool) -> Descriptor:
    """Return the descriptor of an object.

    Raises:
        UsageError: a platform was given for a blob, or a blob has no digest.
        NotFoundError: the object does not exist.
    """
    from dockercomms.cli.stores import parse_platform
    from dockercomms.oci.images.select import get_reference, resolve_content

    registry, repository = opened.registry, opened.repository
    want = parse_platform(platform)
    if is_blob:
        if want is not None:
            raise UsageError("--platform: a blob has none")
        return registry.resolve_blob(repository, opened.need_digest())
    if want is not None:
        content = get_reference(registry, opened.reference)
        return resolve_content(registry, repository, content, platform=want).descriptor
    return opened.location.resolve()


@reg_verb("exists", example="dockercomms reg exists registry.example/team/app:v1 && echo yes")
@click.argument("reference", metavar="REF")
@_blob
def exists_command(session: Session, *, reference: str, is_blob: bool) -> int:
    """Exit 0 if the object exists, 5 if not.

    Exits 3 if the registry denies access.
    """
    digest = None
    with session.stores() as stores:
        opened = stores.open(reference) if is_blob else stores.source(reference)
        try:
            digest = _resolve(opened, None, is_blob=is_blob).digest
        except NotFoundError as error:
            code = error.exit_code
        else:
            code = 0
    screen = session.screen
    if screen.is_json:
        row = record("exists", reference=str(opened), exists=digest is not None, digest=digest)
        screen.data(to_json(row))
    else:
        screen.note(f"{opened}: {f'there, {digest}' if digest else 'not there'}")
    return code


@reg_verb(
    "inspect", example="dockercomms reg inspect registry.example/team/app --platform linux/arm64"
)
@click.argument("reference", metavar="REF")
@platform_option
@option("--labels/--no-labels", default=True, help="Read the image config too.  [default: yes]")
def inspect_command(
    session: Session, *, reference: str, platform: str | None, labels: bool
) -> None:
    """Describe an image, an artifact or an index.

    Prints media types, digests, sizes, platforms, layers or entries, labels and annotations,
    without downloading a layer.
    """
    from dockercomms.cli.stores import parse_platform
    from dockercomms.oci.images.inspect import inspect

    with session.stores() as stores:
        opened = stores.source(reference)
        want = parse_platform(platform)
        found = inspect(opened.registry, opened.reference, platform=want, labels=labels)
    rows = list(_rows(str(opened), found))
    session.screen.details(inspection_record(str(opened), found), rows)


def _rows(reference: str, found: Inspection) -> Iterator[tuple[str, str]]:
    yield "reference", reference
    yield "digest", found.descriptor.digest
    yield "type", found.descriptor.media_type
    yield "size", human_bytes(found.descriptor.size)
    if found.artifact_type:
        yield "artifact", found.artifact_type
    if found.platform is not None:
        yield "platform", str(found.platform)
    if found.subject is not None:
        yield "subject", found.subject.digest
    for entry in found.entries:
        yield "entry", _described(entry, str(entry.platform or "-"))
    if found.config is not None:
        yield "config", _described(found.config, found.config.media_type)
    for layer in found.layers:
        yield "layer", _described(layer, layer.media_type)
    for name, value in found.labels.items():
        yield "label", f"{name}={value}"
    for name, value in found.annotations.items():
        yield "annotation", f"{name}={value}"


def _described(descriptor: Descriptor, kind: str) -> str:
    return f"{descriptor.digest} {kind} {human_bytes(descriptor.size)}"
