"""`reg copy` and `reg mount`: copy from one repository to another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import MAX_CONCURRENCY, option
from dockercomms.cli.progress import Hook, metering
from dockercomms.cli.reg.output import record, tell, tell_pushed
from dockercomms.cli.reg.table import platform_option, reg_verb
from dockercomms.errors import NotFoundError, Unsupported, UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Opened
    from dockercomms.oci.model import Descriptor

COSIGN_TAGS = ("sig", "att", "sbom")
"""Suffixes of the tags of signatures, attestations and SBOMs by cosign 2, which are no referrers.

Source: sigstore/cosign v2, specs/SIGNATURE_SPEC.md, "Tag-based discovery".
"""


@reg_verb(
    "copy",
    example="dockercomms reg copy registry.example/team/app:v1 oci-layout:app:v1 --referrers\n"
    "dockercomms reg copy oci-layout:app:v1 other.example/team/app:v1",
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@option("--referrers", is_flag=True,
        help="Copy referrers too, such as signatures and receipts.")  # fmt: skip
@platform_option
@option("--blob", "is_blob", is_flag=True, help="SRC is a blob: REPO@DIGEST.")
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Parallel blob copies.  [default: 4]")  # fmt: skip
@option("--from-plain-http", is_flag=True, default=None, help="Use HTTP without TLS for SRC.")
@option("--to-plain-http", is_flag=True, default=None, help="Use HTTP without TLS for DST.")
def copy_command(
    session: Session,
    *,
    source: str,
    target: str,
    referrers: bool,
    platform: str | None,
    is_blob: bool,
    from_plain_http: bool | None,
    to_plain_http: bool | None,
) -> None:
    """Copy an image, artifact or index with all its parts.

    Content that DST has is not sent again; within one registry, blobs are mounted. Without a tag,
    DST stores the copy by digest. Prints the digest.
    """
    if is_blob and (platform or referrers):
        raise UsageError("--blob: a blob has no platform and no referrers")
    with session.stores() as stores, metering(session, "copying") as show:
        read = stores.open if is_blob else stores.source
        start = read(source, plain_http=from_plain_http)
        end = stores.open(target, create=True, plain_http=to_plain_http)
        if is_blob:
            done = _copy_blob(start, end, show)
        else:
            done = _copy(session, start, end, platform, show, referrers=referrers)
    tell_pushed(session, "copy", done, source=str(start), target=str(end))
    session.screen.note(f"copied {start} to {end}")


def _copy_blob(start: Opened, end: Opened, show: Hook) -> Descriptor:
    from dockercomms.oci.images.ensure import copy_blob

    start.need_digest()
    return copy_blob(start.location, end.location, progress=show)


def _copy(
    session: Session,
    start: Opened,
    end: Opened,
    platform: str | None,
    show: Hook,
    *,
    referrers: bool,
) -> Descriptor:
    from dockercomms.cli.stores import resolve_opened
    from dockercomms.oci.images.copy import copy_manifest
    from dockercomms.oci.reference import referrers_tag

    location = start.location
    if platform is not None:
        location = location.at(resolve_opened(start, platform).descriptor.digest)
    copy = partial(copy_manifest, concurrency=session.settings.concurrency, progress=show)
    done = copy(location, end.location, referrers=referrers)
    for tag in [f"{referrers_tag(done.digest)}.{kind}" for kind in COSIGN_TAGS if referrers]:
        try:
            copy(
                replace(location, tag=tag, digest=None), replace(end.location, tag=tag, digest=None)
            )
        except NotFoundError:
            continue
        session.screen.note(f"copied {tag} of cosign 2 too")
    return done


@reg_verb(
    "mount",
    example="dockercomms reg mount registry.example/base@sha256:2c26... registry.example/team/app",
)
@click.argument("source", metavar="REPO@DIGEST")
@click.argument("target", metavar="REPO")
def mount_command(session: Session, *, source: str, target: str) -> None:
    """Mount a blob from another repository without copying it.

    Both repositories must be on one registry. Prints the digest. Fails if the registry refuses;
    'reg copy --blob' then copies the content.
    """
    with session.stores() as stores:
        start, end = stores.open(source), stores.repository(target)
        digest = start.need_digest()
        if start.registry is not end.registry or start.place.folder is not None:
            raise UsageError(
                f"{start.place.repo} and {end.place.repo} are not on one registry",
                hint="dockercomms reg copy --blob REPO@DIGEST REPO",
            )
        done = end.registry.mount_blob(end.repository, digest, source=start.repository)
    if done is None:
        raise Unsupported(
            f"{start}: the registry did not mount the blob, or does not have it",
            hint="dockercomms reg copy --blob REPO@DIGEST REPO",
        )
    end = replace(end, place=replace(end.place, digest=digest))
    row = record("mount", source=str(start), target=str(end), digest=digest, size=done.size)
    tell(session, row, digest)
    session.screen.note(f"mounted {start} in {end.place.repo}")
