"""`export`, `import`, `relay`: copy messages and receipts. `gc`: remove expired messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dockercomms.cli.failures import exit_code_of_some, is_counted
from dockercomms.cli.options import NAME, clock_option, option, verb
from dockercomms.cli.render import SHORT_ID_CHARACTERS, count_of, human_bytes, human_time
from dockercomms.errors import DockerCommsError, LocalIOError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.mailbox import Mailbox
    from dockercomms.oci.layout.archive import ArchiveRegistry
    from dockercomms.oci.stores import Store
    from dockercomms.relay.carry import Relayed, Totals
    from dockercomms.relay.gc import Collected
    from dockercomms.relay.relay import Relay

GC_COLUMNS = ("WHAT", "MESSAGE", "FROM", "EXPIRED", "STATUS")


@verb("gc", example="dockercomms gc --me bob --dry-run\ndockercomms gc --me bob -q")
@option("--dry-run", is_flag=True, help="Print what would be deleted, and delete nothing.")
@option("--clock-skew-ok", is_flag=True, help="Same as --clock registry.")
@clock_option()
def gc_command(session: Session, *, dry_run: bool, clock_skew_ok: bool) -> int:
    """Delete expired messages from your inbox.

    Deletes messages that expired more than a day ago by both this machine's and the registry's
    clock, with their signatures and receipts, then unused day indexes. A folder has no clock of its
    own: unread messages stay in it unless you give --clock own. You can interrupt and rerun it.
    A registry frees the space in its own garbage collection. Piped, a line holds: kind, message id,
    from, expiry, status, digest, tag.
    """
    from dockercomms.cli.records import collected_record, time_or_none

    counts: dict[str, int] = {}
    failed: list[DockerCommsError] = []
    with session.mailbox() as mailbox, session.screen.listing(GC_COLUMNS) as listing:
        collector = mailbox.collector(dry_run=dry_run, clock_skew_ok=clock_skew_ok)
        for done in collector.collect(mailbox.names):
            cells = (
                done.kind,
                done.id,
                done.sender,
                time_or_none(done.expired_at) or "",
                done.status,
                done.digest or "",
                done.tag or "",
            )
            listing.add(collected_record(done), cells, _collected_row(done))
            if done.error is None:
                counts[done.kind] = counts.get(done.kind, 0) + 1
            elif is_counted(mailbox, done.error):
                failed.append(done.error)
                session.tell_failure(f"{done.kind} {done.digest or done.tag}", done.error)
    names = ", ".join(mailbox.names)
    did = "would be removed" if dry_run else "removed"
    nouns = {"index": "referrers list", "anchor": "day index"}
    kinds = [count_of(number, nouns.get(kind, kind)) for kind, number in counts.items()]
    session.screen.note(f"{', '.join(kinds) or 'nothing'} {did} for {names}")
    if collector.unread:
        session.screen.note(
            f"{count_of(collector.unread, 'unread message')} kept: expired by this machine's "
            "clock only. If this clock is right, --clock own removes them"
        )
    swept = collector.swept
    if swept.blobs:
        freed = human_bytes(swept.bytes)
        session.screen.note(f"{count_of(swept.blobs, 'unused blob')} {did} ({freed})")
    if not failed:
        return 0
    return exit_code_of_some(failed, others=bool(counts))


def _collected_row(done: Collected) -> tuple[str, ...]:
    return (
        done.kind,
        done.id[:SHORT_ID_CHARACTERS],
        done.sender,
        human_time(done.expired_at),
        done.status,
    )


COLUMNS = ("WHAT", "MESSAGE", "FROM", "TO", "SIZE", "STATUS")

_to = option("--to", type=NAME, multiple=True, metavar="NAME",
             help="Only messages to NAME (repeatable).")  # fmt: skip
_complete = option("--complete", is_flag=True,
                   help="Also find signatures that have no tag (slower).")  # fmt: skip


@verb(
    "export",
    example="dockercomms export --to bob -o bob.tar --repo registry.example/team/mail\n"
    "dockercomms export 1a2b3c4d -o one.tar",
    no_args_is_help=True,
)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_to
@option("-o", "--output", "file", type=click.Path(readable=False), required=True, metavar="FILE",
        help="Archive to write; an existing one is extended.")  # fmt: skip
@_complete
def export_command(
    session: Session, *, ids: tuple[str, ...], to: tuple[str, ...], file: str, complete: bool
) -> int:
    """Write messages and receipts to a tar archive.

    The archive is an OCI image layout, which regctl, skopeo and --repo oci-archive:FILE can read.
    ID is a unique prefix of a message's id or digest. --to selects messages to NAME, and receipts
    for messages from NAME. Signatures and receipts go with their messages. FILE is replaced only
    when complete; an interrupted run resumes.
    """
    archive = _archive(session, file, create=True)
    with session.mailbox() as mailbox:
        try:
            relay = mailbox.relay(target=_store(archive, file), to=to, ids=ids, complete=complete)
            code = _run(session, mailbox, relay)
            archive.make()
        except BaseException:
            archive.abandon()
            raise
        archive.close()
    return code


@verb(
    "import",
    example="dockercomms import bob.tar --repo other.example/team/mail",
    no_args_is_help=True,
)
@click.argument("file", metavar="FILE", type=click.Path(readable=False))
@_to
@_complete
def import_command(session: Session, *, file: str, to: tuple[str, ...], complete: bool) -> int:
    """Import messages and receipts from a tar archive.

    Imports into the repository of --repo. FILE comes from 'dockercomms export', or is any
    uncompressed tar of an OCI image layout with messages. Existing messages are kept. Recipients
    check the signatures when they receive.
    """
    archive = _archive(session, file)
    if not archive.exists():
        raise LocalIOError(f"{file}: no such file")
    with session.mailbox() as mailbox:
        try:
            relay = mailbox.relay(source=_store(archive, file), to=to, complete=complete)
            return _run(session, mailbox, relay)
        finally:
            archive.close()


@verb(
    "relay",
    example="dockercomms relay registry.example/team/mail other.example/mail --to bob\n"
    "dockercomms relay oci-layout:/media/disk/mail registry.example/team/mail",
    no_args_is_help=True,
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@_to
@_complete
@option("--from-plain-http", is_flag=True, default=None, help="Use HTTP without TLS for SRC.")
@option("--to-plain-http", is_flag=True, default=None, help="Use HTTP without TLS for DST.")
def relay_command(
    session: Session,
    *,
    source: str,
    target: str,
    to: tuple[str, ...],
    complete: bool,
    from_plain_http: bool | None,
    to_plain_http: bool | None,
) -> int:
    """Copy messages and receipts to another repository.

    SRC and DST are repositories, folders or archives, as for --repo. Only content that DST lacks is
    copied; within one registry, blobs are mounted. Messages keep their digests, so recipients do
    not receive them twice. To bring receipts back, exchange SRC and DST.
    """
    from dockercomms.oci.layout.archive import ArchiveRegistry

    with session.stores() as stores, session.mailbox() as mailbox:
        start = stores.repository(source, plain_http=from_plain_http)
        end = stores.repository(target, create=True, plain_http=to_plain_http)
        relay = mailbox.relay(source=start.store, target=end.store, to=to, complete=complete)
        try:
            return _run(session, mailbox, relay)
        except BaseException:
            if isinstance(end.registry, ArchiveRegistry):
                end.registry.abandon()
            raise


def _archive(session: Session, file: str, *, create: bool = False) -> ArchiveRegistry:
    from dockercomms.oci.layout.archive import ArchiveRegistry

    return ArchiveRegistry(_path(file), create=create, clock=session.clock)


def _path(file: str) -> Path:
    from dockercomms.platforms.files import expand_home

    return expand_home(file).resolve()


def _store(archive: ArchiveRegistry, file: str) -> Store:
    from dockercomms.oci.stores import LAYOUT_REPOSITORY, Store

    return Store(archive, LAYOUT_REPOSITORY, f"oci-archive:{_path(file)}")


def _run(session: Session, mailbox: Mailbox, relay: Relay) -> int:
    from dockercomms.cli.progress import metering
    from dockercomms.cli.records import relayed_record
    from dockercomms.relay.carry import Totals

    failed: list[DockerCommsError] = []
    with metering(session, "copying") as show, session.screen.listing(COLUMNS) as listing:
        relay.progress = show
        for done in relay.run():
            cells = (
                done.kind,
                done.id,
                done.status,
                done.sender,
                done.recipient,
                str(done.bytes),
                done.tag or "",
                done.digest or "",
            )
            listing.add(relayed_record(done, session.verb), cells, _row(done))
            if done.error is not None and is_counted(mailbox, done.error):
                failed.append(done.error)
                what = done.id[:SHORT_ID_CHARACTERS] or done.tag or done.digest or "?"
                session.tell_failure(f"{done.kind} {what}", done.error)
    totals = relay.totals
    session.screen.note(_summary(totals))
    if totals == Totals():
        session.screen.note(f"no messages or receipts to copy in {relay.source.repo}")
    if not failed:
        return 0
    others = totals.messages + totals.bundles + totals.receipts + totals.present
    return exit_code_of_some(failed, others=bool(others))


def _row(done: Relayed) -> tuple[str, ...]:
    return (
        done.kind,
        done.id[:SHORT_ID_CHARACTERS],
        done.sender,
        done.recipient,
        human_bytes(done.bytes) if done.kind == "message" else "",
        done.status,
    )


def _summary(totals: Totals) -> str:
    counts = [
        count_of(totals.messages, "message"),
        count_of(totals.receipts, "receipt"),
        *([count_of(totals.bundles, "additional signature")] if totals.bundles else []),
    ]
    text = f"{', '.join(counts)} copied; {count_of(totals.present, 'message')} already there"
    if totals.expired:
        text += f"; {totals.expired} expired, not copied"
    if totals.failed:
        text += f"; {totals.failed} failed"
    return (
        f"{text}; {count_of(totals.blobs, 'blob')} transferred ({human_bytes(totals.blob_bytes)})"
    )
