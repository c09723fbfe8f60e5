"""`gc`: removing what expired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dockercomms.cli.failures import exit_code_of_some, is_counted
from dockercomms.cli.options import clock_option, option, verb
from dockercomms.cli.render import SHORT_ID_CHARACTERS, count_of, human_bytes, human_time
from dockercomms.errors import DockerCommsError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.collecting import Collected

COLUMNS = ("WHAT", "MESSAGE", "FROM", "EXPIRED", "STATUS")


@verb("gc", example="dockercomms gc --me bob --dry-run\ndockercomms gc --me bob -q")
@option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@option("--clock-skew-ok", is_flag=True, help="The same as --clock registry.")
@clock_option()
def gc_command(session: Session, *, dry_run: bool, clock_skew_ok: bool) -> int:
    """Remove what expired from your inbox.

    Messages that expired more than a day ago by this clock and the registry's go, with their
    signatures and receipts, then day anchors that nothing needs. A folder has no clock of its own:
    unread messages stay in it unless you say --clock own. It can be stopped and run again.
    A registry keeps the space until its own garbage collection. Piped, a line holds: kind, message
    id, from, expiry, status, digest, tag.
    """
    from dockercomms.cli.records import collected_record, time_or_none

    counts: dict[str, int] = {}
    failed: list[DockerCommsError] = []
    with session.mailbox() as mailbox, session.screen.listing(COLUMNS) as listing:
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
            listing.add(collected_record(done), cells, _row(done))
            if done.error is None:
                counts[done.kind] = counts.get(done.kind, 0) + 1
            elif is_counted(mailbox, done.error):
                failed.append(done.error)
                session.tell_failure(f"{done.kind} {done.digest or done.tag}", done.error)
    names = ", ".join(mailbox.names)
    did = "would be removed" if dry_run else "removed"
    nouns = {"index": "referrers list", "anchor": "day anchor"}
    kinds = [count_of(number, nouns.get(kind, kind)) for kind, number in counts.items()]
    session.screen.note(f"{', '.join(kinds) or 'nothing'} {did} for {names}")
    if collector.unread:
        session.screen.note(
            f"{count_of(collector.unread, 'message')} kept that expired unread by this machine's "
            "clock alone; if it is right, --clock own removes them"
        )
    swept = collector.swept
    if swept.blobs:
        freed = human_bytes(swept.bytes)
        session.screen.note(f"{count_of(swept.blobs, 'blob')} with it that nothing needs ({freed})")
    if not failed:
        return 0
    return exit_code_of_some(failed, others=bool(counts))


def _row(done: Collected) -> tuple[str, ...]:
    return (
        done.kind,
        done.id[:SHORT_ID_CHARACTERS],
        done.sender,
        human_time(done.expired_at),
        done.status,
    )
