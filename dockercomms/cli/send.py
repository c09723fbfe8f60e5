"""`send`: files, a folder, standard input or a note, to one or several people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dockercomms.cli.answers import await_answers
from dockercomms.cli.failures import INTERRUPTED, exit_code_of
from dockercomms.cli.options import (
    COMPRESS,
    DURATION,
    MAX_CONCURRENCY,
    NAME,
    RECIPIENT,
    SIZE,
    form_option,
    index_option,
    option,
    packing_options,
    verb,
)
from dockercomms.cli.progress import Meter, meter_for
from dockercomms.cli.render import (
    SHORT_ID_CHARACTERS,
    count_of,
    human_bytes,
    human_time,
    shell_words,
    to_json,
)
from dockercomms.cli.trust_options import identity_options, sign_options
from dockercomms.errors import DockerCommsError, PartialError, UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.mailbox import Mailbox
    from dockercomms.sending import Sent
    from dockercomms.state.send_runs import SendRun
    from dockercomms.transport.files import Links

STDIN = "-"


@verb(
    "send",
    example="dockercomms send report.pdf photos/ --to bob --title 'The report'\n"
    "pg_dump shop | dockercomms send - --name shop.sql --to backup --ttl 30d",
    no_args_is_help=True,
)
@click.argument("paths", nargs=-1, type=click.Path(readable=False), metavar="[PATH]...")
@option("--to", "recipients", former=("--recipient",), type=RECIPIENT, multiple=True, required=True,
        metavar="NAME", help="Who it is for; repeatable.")  # fmt: skip
@option("--from", "sender", type=NAME, metavar="NAME", help="Who it is from.  [default: --me]")
@option("--title", metavar="T", help="A line the recipient sees in the inbox.")
@option("--text", metavar="T", help="A note, beside the files or instead of them.")
@option("--name", type=NAME, metavar="N", help="The file's name at the recipient's.")
@option("--ttl", "ttl_seconds", former=("--ttl-seconds",), type=DURATION, metavar="T",
        help="How long it can be received.  [default: 7d]")  # fmt: skip
@option("--compress", type=click.Choice(COMPRESS), help="[default: auto]")
@option("--chunk-size", "chunk_bytes", former=("--chunk-bytes",), type=SIZE, metavar="SIZE",
        help="Largest piece, as 16MiB.  [default: by size]")  # fmt: skip
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Pieces sent at once.  [default: 4]")  # fmt: skip
@packing_options
@option("--again", is_flag=True, help="Do not go on with an interrupted send.")
@option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@option("--clock-skew-ok", is_flag=True, help="Send although this clock is wrong.")
@option("--wait", "wait_seconds", type=DURATION, metavar="T",
        help="Wait for the answer: exit 10 rejected, 11 none.")  # fmt: skip
@option("--audience", type=NAME, metavar="R",
        help="The only repository to receive it from.")  # fmt: skip
@index_option()
@form_option()
@sign_options
@identity_options
def send_command(
    session: Session,
    *,
    paths: tuple[str, ...],
    recipients: tuple[str, ...],
    sender: str | None,
    title: str | None,
    text: str | None,
    name: str | None,
    exclude: tuple[str, ...],
    links: Links,
    again: bool,
    dry_run: bool,
    clock_skew_ok: bool,
    wait_seconds: int | None,
    audience: str | None,
) -> int:
    """Send files, a folder or a note to somebody.

    PATH is a file, a folder, or - for standard input (with --name). The last line printed is
    what the recipient has to type. Piped, the line before it is: id, digest, recipient, tag,
    bytes, end of life.
    """
    sources = tuple(map(source_of, paths))
    recipients = tuple(dict.fromkeys(recipients))
    check_sources(session, sources, recipients=recipients, text=text)
    screen, chosen = session.screen, session.settings
    if session.verbose:
        from dockercomms.transport.layer import gzip_engine

        screen.note(f"gzip is made by {gzip_engine()}")
    with meter_for(screen, session.clock, "sending") as meter, ExitStack() as opened:
        boxes: dict[str | None, Mailbox] = {}
        done: list[tuple[Mailbox, Sent]] = []

        runs: list[SendRun] = []

        def deliver(recipient: str) -> Sent:
            repo = session.address_of(recipient)
            if repo not in boxes:
                box = session.mailbox(meter, address=repo, sender=sender)
                boxes[repo] = opened.enter_context(box)
            if not runs and not dry_run:
                runs.append(opened.enter_context(boxes[repo].run_to(recipients)))
            sent = boxes[repo].send(
                sources,
                to=recipient,
                sender=sender,
                title=title,
                text=text,
                name=name,
                stdin=session.stdin,
                ttl_seconds=chosen.ttl_seconds,
                compress=chosen.compress,
                chunk_bytes=chosen.chunk_bytes,
                concurrency=chosen.concurrency,
                keep_mtime=chosen.keep_mtime,
                exclude=exclude,
                links=links,
                again=again,
                dry_run=dry_run,
                clock_skew_ok=clock_skew_ok,
                audience=None if audience is None else _repository(audience),
                like=done[-1][1] if done else None,
                run=runs[0] if runs else None,
            )
            done.append((boxes[repo], sent))
            return sent

        code = _send_each(session, meter, deliver, recipients, dry_run=dry_run)
        for run in runs if code == 0 else ():
            done[0][0].end_run(run)  # only now: all of it was told
        if wait_seconds is not None and done and not dry_run:
            answered = wait_for_answers(session, done, wait_seconds)
            return code or answered
        session.interrupts.release()  # whoever asked to stop sees that all is done
        return code


def wait_for_answers(session: Session, done: list[tuple[Mailbox, Sent]], wait_seconds: int) -> int:
    """Wait for what comes back; returns the exit code. Who interrupts that is not to send again."""
    try:
        session.interrupts.obey()
        return await_answers(session, done, wait_seconds)
    except KeyboardInterrupt:
        session.screen.warn("interrupted; it is sent, and 'dockercomms outbox' shows what comes")
        return INTERRUPTED


def source_of(word: str) -> Path:
    """Return the path that `word` names; `./-` is a file, unlike `-`."""
    path = Path(word)
    return path.absolute() if str(path) == STDIN != word else path


def _repository(audience: str) -> str:
    """Return the one way to write a repository, which receivers compare with their own."""
    from dockercomms.stores import parse_repo

    return parse_repo(audience).repo


def check_sources(
    session: Session, sources: Sequence[Path], *, recipients: Sequence[str], text: str | None
) -> None:
    """Refuse what cannot be meant, before anything is opened.

    Raises:
        UsageError: nothing to send; a stream for several recipients; standard input wanted twice.
    """
    if not sources and text is None:
        raise UsageError(
            "nothing to send: a PATH or --text is needed",
            hint="dockercomms send FILE --to NAME, or dockercomms send --text 'hello' --to NAME",
        )
    streams = [source for source in sources if str(source) == STDIN or source.is_fifo()]
    if streams and len(recipients) > 1:
        raise UsageError(
            f"{streams[0]} can be read once, and there are {len(recipients)} recipients",
            hint="write it to a file first, and send that",
        )
    if session.reads_password and any(str(source) == STDIN for source in sources):
        raise UsageError(
            "standard input cannot hold both a password and what is sent",
            hint="give the password in DOCKERCOMMS_PASSWORD, or use docker login",
        )


def _send_each(
    session: Session,
    meter: Meter,
    deliver: Callable[[str], Sent],
    recipients: Sequence[str],
    *,
    dry_run: bool,
) -> int:
    """Send to one recipient after the other; what fails for one does not stop the next.

    Raises:
        DockerCommsError: it failed, and there is one recipient only.
        KeyboardInterrupt: before all was sent; whoever has got it already is named.
    """
    failed: list[DockerCommsError] = []
    served: list[str] = []
    for recipient in recipients:
        try:
            session.interrupts.obey()
            sent = deliver(recipient)
        except DockerCommsError as error:
            if len(recipients) == 1:
                raise
            meter.finish()
            session.tell_failure(f"to {recipient}", error)
            failed.append(error)
        except KeyboardInterrupt:
            if served:
                meter.finish()
                session.screen.warn(
                    f"sent to {', '.join(served)}; run the same again for the others: "
                    "nobody gets a second copy"
                )
            raise
        else:
            meter.finish()
            report(session, sent, dry_run=dry_run)
            served += [] if dry_run else [recipient]
    if not failed:
        return 0
    return exit_code_of(failed) if len(failed) == len(recipients) else PartialError.exit_code


def report(session: Session, sent: Sent, *, dry_run: bool) -> None:
    """Write what was sent, and what the recipient has to type."""
    screen = session.screen
    if sent.sent_before:
        screen.note(
            f"{sent.recipient} has it already: an earlier run, which did not end, sent it as "
            f"message {sent.id[:SHORT_ID_CHARACTERS]}; --again sends it once more"
        )
    else:
        reused = f", {sent.reused_chunks} of them there already" if sent.reused_chunks else ""
        signed = "not signed" if sent.signed is None else f"signed with {sent.signed.signer}"
        screen.note(
            f"{'would send' if dry_run else 'sent'} {human_bytes(sent.total_bytes)} to "
            f"{sent.recipient} in {count_of(sent.chunks, 'chunk')}{reused}, until "
            f"{human_time(sent.expires_at)}, {signed}"
        )
    line = _receiving_line(session, sent)
    if screen.is_json:
        from dockercomms.cli.records import sent_record

        screen.data(to_json(sent_record(sent)))
        if not dry_run:
            screen.note(f"the recipient types: {line}")
        return
    if not screen.is_table:
        from dockercomms.protocol import format_time

        expires = format_time(sent.expires_at)
        screen.row((sent.id, sent.digest, sent.recipient, sent.tag, str(sent.total_bytes), expires))
    if not dry_run:
        screen.data(line)


def _receiving_line(session: Session, sent: Sent) -> str:
    words = ["dockercomms", "recv", sent.id[:SHORT_ID_CHARACTERS]]
    words += ["--repo", sent.repo, "--me", sent.recipient]
    if session.settings.plain_http:
        words.append("--plain-http")
    return shell_words(words)
