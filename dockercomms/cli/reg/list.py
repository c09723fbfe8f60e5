"""`reg ls`, `reg tags`, `reg referrers`: list repositories, tags and referrers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, option
from dockercomms.cli.reg.output import record
from dockercomms.cli.reg.table import reg_verb
from dockercomms.cli.render import human_bytes

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Opened

MAX_UNTAGGED = 20
"""The number of untagged manifests to print; the others are only counted."""

_limit = option("--limit", type=click.IntRange(1), metavar="N", help="List at most N.")
_start_after = option("--start-after", type=NAME, metavar="NAME",
                      help="Start after NAME, if the registry supports it.")  # fmt: skip
_page_size = option("--page-size", type=click.IntRange(1), metavar="N",
                    help="Page size.  [default: the registry's choice]")  # fmt: skip


@reg_verb("ls", example="dockercomms reg ls registry.example --limit 100")
@click.argument("host", metavar="HOST")
@_limit
@_start_after
@_page_size
def ls_command(
    session: Session,
    *,
    host: str,
    limit: int | None,
    start_after: str | None,
    page_size: int | None,
) -> None:
    """List a registry's repositories.

    HOST is host[:port], or a folder, which has one repository. Many public registries refuse to
    list repositories.
    """
    with session.stores() as stores, session.screen.listing(("REPOSITORY",)) as listing:

        def add(repository: str, reference: str) -> None:
            row = record("ls", host=host, repository=repository, reference=reference)
            listing.add(row, (reference,), (reference,))

        if _is_folder(host):
            opened = stores.repository(host)
            for _ in opened.registry.tags(opened.repository, limit=1):
                pass  # for a missing folder, the error says so
            add(opened.repository, str(opened))
            return
        registry = stores.registry(host)
        for name in registry.repositories(
            start_after=start_after, page_size=page_size, limit=limit
        ):
            add(name, f"{registry.endpoint.host}/{name}")


def _is_folder(text: str) -> bool:
    return text.startswith(("oci-layout:", "oci-archive:", "oci:", "ocidir:"))


@reg_verb("tags", example="dockercomms reg tags registry.example/team/app --limit 20")
@click.argument("repository", metavar="REPO")
@_limit
@_start_after
@_page_size
def tags_command(
    session: Session,
    *,
    repository: str,
    limit: int | None,
    start_after: str | None,
    page_size: int | None,
) -> None:
    """List a repository's tags.

    Keeps the registry's order. For a folder, also notes the digests of untagged manifests.
    """
    with session.stores() as stores, session.screen.listing(("TAG",)) as listing:
        opened = stores.repository(repository)
        for tag in opened.registry.tags(
            opened.repository, start_after=start_after, page_size=page_size, limit=limit
        ):
            listing.add(record("tags", repository=str(opened), tag=tag), (tag,), (tag,))
        if start_after is None:
            _tell_untagged(session, opened)


def _tell_untagged(session: Session, opened: Opened) -> None:
    """Note the manifests of a layout without a tag, except referrers."""
    from dockercomms.oci.layout.registry import LayoutRegistry

    store = opened.registry
    if not isinstance(store, LayoutRegistry):
        return
    untagged = [one for one in store.listed() if not (one.has_tag or one.subject)]
    for one in untagged[:MAX_UNTAGGED]:
        name = f" (named {one.names[0]!r:.200})" if one.names else ""
        session.screen.note(f"without a tag: {opened}@{one.digest}{name}")
    if len(untagged) > MAX_UNTAGGED:
        session.screen.note(f"and {len(untagged) - MAX_UNTAGGED} more without a tag")


@reg_verb(
    "referrers",
    example="dockercomms reg referrers registry.example/team/app:v1 --type application/spdx+json",
)
@click.argument("reference", metavar="REF")
@option("--type", "artifact_type", type=NAME, metavar="TYPE", help="List only this artifact type.")
def referrers_command(session: Session, *, reference: str, artifact_type: str | None) -> None:
    """List the referrers of a manifest.

    Referrers are signatures, receipts, SBOMs and the like. Piped, a line holds: digest, artifact
    type, size, media type.
    """
    from dockercomms.oci.interface import readable

    with (
        session.stores() as stores,
        session.screen.listing(("DIGEST", "ARTIFACT TYPE", "SIZE")) as listing,
    ):
        opened = stores.source(reference)
        digest = opened.place.digest or opened.location.resolve().digest
        count = 0
        found = opened.registry.referrers(opened.repository, digest, artifact_type=artifact_type)
        for entry in readable(found):
            count += 1
            kind = entry.artifact_type or ""
            listing.add(
                record(
                    "referrers",
                    subject=digest,
                    digest=entry.digest,
                    media_type=entry.media_type,
                    size=entry.size,
                    artifact_type=entry.artifact_type,
                    annotations=dict(entry.annotations),
                ),
                (entry.digest, kind, str(entry.size), entry.media_type),
                (entry.digest, kind, human_bytes(entry.size)),
            )
        if not count:
            session.screen.note(f"no referrers of {digest}")
