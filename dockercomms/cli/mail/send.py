"""`send` and `reply`: send files, a folder, standard input or a note; wait for receipts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    shell_words,
    to_json,
)
from dockercomms.cli.trust_options import (
    identity_options,
    sign_options,
    trust_options,
    warn_unverified,
)
from dockercomms.errors import (
    DockerCommsError,
    NoAnswerError,
    PartialError,
    RejectedError,
    UsageError,
)

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.mailbox import Mailbox, ReplyOptions
    from dockercomms.messages.draft import Sent
    from dockercomms.messages.receipts_list import ReceiptEntry
    from dockercomms.oci.model import Digest
    from dockercomms.state.send_runs import SendRun
    from dockercomms.transport.files import Links


def await_answers(session: Session, done: Sequence[tuple[Mailbox, Sent]], seconds: int) -> int:
    """Wait for the receipts of sent messages, report them, and return the exit code.

    Args:
        session: Reports the receipts.
        done: The sent messages, each with the mailbox that sent it.
        seconds: The longest time to wait for all of them.

    Raises:
        RegistryError, NetworkError: a registry refused, or did not answer.
    """
    session.screen.note(f"waiting up to {seconds} s for {count_of(len(done), 'receipt')}")
    until = session.clock.monotonic() + seconds
    found: dict[Digest, ReceiptEntry] = {}
    for box in dict.fromkeys(box for box, _ in done):
        sent = [one for of, one in done if of is box]
        left = max(0.0, until - session.clock.monotonic())
        found |= box.wait(sent, seconds=left)
    failures = [
        failure for _, one in done if (failure := _told(session, one, found.get(one.digest)))
    ]
    # A rejection (10) is worse than a missing receipt (11).
    return min((failure.exit_code for failure in failures), default=0)


def _told(
    session: Session, sent: Sent, receipt: ReceiptEntry | None
) -> RejectedError | NoAnswerError | None:
    """Report the receipt of one message; return the failure, unless it was accepted."""
    name = shell_words([sent.recipient])
    message = f"message {sent.id[:SHORT_ID_CHARACTERS]} to {sent.recipient}"
    failure: RejectedError | NoAnswerError
    if receipt is None:
        failure = NoAnswerError(f"no receipt from {sent.recipient!r:.100} yet")
    elif receipt.signature_status not in {"valid", "unchecked"}:
        failure = NoAnswerError(
            f"a receipt says {receipt.status}, but no trusted signature proves that it is from "
            f"{sent.recipient!r:.100} (signature: {receipt.signature_status})",
            hint=f"trust the recipient's key: dockercomms trust add {name} KEY.pub",
        )
    elif receipt.status == "rejected":
        failure = RejectedError(receipt.reason or "no reason given")
    else:
        reason = f": {receipt.reason}" if receipt.reason else ""
        session.screen.note(f"{message}: accepted{reason}")
        return None
    session.tell_failure(message, failure)
    return failure


STDIN = "-"


@verb(
    "send",
    example="dockercomms send report.pdf photos/ --to bob --title 'The report'\n"
    "pg_dump shop | dockercomms send - --name shop.sql --to backup --ttl 30d",
    no_args_is_help=True,
)
@click.argument("paths", nargs=-1, type=click.Path(readable=False), metavar="[PATH]...")
@option("--to", "recipients", former=("--recipient",), type=RECIPIENT, multiple=True, required=True,
        metavar="NAME", help="Recipient (repeatable).")  # fmt: skip
@option("--from", "sender", type=NAME, metavar="NAME", help="Sender.  [default: --me]")
@option("--title", metavar="T", help="Title that the recipient sees in the inbox.")
@option("--text", metavar="T", help="Note to send, with files or without.")
@option("--name", type=NAME, metavar="N", help="File name that the recipient gets.")
@option("--ttl", "ttl_seconds", former=("--ttl-seconds",), type=DURATION, metavar="T",
        help="Time until the message expires.  [default: 7d]")  # fmt: skip
@option("--compress", type=click.Choice(COMPRESS), help="Compression.  [default: auto]")
@option("--chunk-size", "chunk_bytes", former=("--chunk-bytes",), type=SIZE, metavar="SIZE",
        help="Largest chunk: 16MiB, say.  [default: by size]")  # fmt: skip
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Parallel uploads.  [default: 4]")  # fmt: skip
@packing_options
@option("--again", is_flag=True, help="Start over instead of resuming.")
@option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@option("--clock-skew-ok", is_flag=True, help="Send even if this machine's clock is wrong.")
@option("--wait", "wait_seconds", type=DURATION, metavar="T",
        help="Wait for a receipt: exit 10 rejected, 11 none.")  # fmt: skip
@option("--audience", type=NAME, metavar="R",
        help="Accept this message only from repository R.")  # fmt: skip
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
    """Send files, a folder or a note to a recipient.

    PATH is a file, a folder, or - for standard input (with --name). The last line printed is the
    command that the recipient runs. Piped, the line before it holds: id, digest, recipient, tag,
    bytes, expiry.
    """
    sources = tuple(map(source_of, paths))
    recipients = tuple(dict.fromkeys(recipients))
    check_sources(session, sources, recipients=recipients, text=text)
    options = send_options(session, text=text, name=name, exclude=exclude, links=links)
    options |= {"again": again, "clock_skew_ok": clock_skew_ok}
    screen = session.screen
    if session.verbose:
        from dockercomms.transport.layer import gzip_engine

        screen.note(f"gzip library: {gzip_engine()}")
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
                dry_run=dry_run,
                audience=None if audience is None else _repository(audience),
                like=done[-1][1] if done else None,
                run=runs[0] if runs else None,
                **options,
            )
            done.append((boxes[repo], sent))
            return sent

        code = _send_each(session, meter, deliver, recipients, dry_run=dry_run)
        for run in runs if code == 0 else ():
            done[0][0].end_run(run)  # only now: all of it was reported
        if wait_seconds is not None and done and not dry_run:
            answered = wait_for_answers(session, done, wait_seconds)
            return code or answered
        session.interrupts.release()  # an interrupt from here on sees the complete report
        return code


def wait_for_answers(session: Session, done: list[tuple[Mailbox, Sent]], wait_seconds: int) -> int:
    """Wait for receipts; return the exit code. An interrupt warns that the messages are sent."""
    try:
        session.interrupts.obey()
        return await_answers(session, done, wait_seconds)
    except KeyboardInterrupt:
        session.screen.warn("interrupted; the message is sent. Follow it with: dockercomms outbox")
        return INTERRUPTED


def send_options(
    session: Session,
    *,
    text: str | None,
    name: str | None,
    exclude: tuple[str, ...],
    links: Links,
) -> ReplyOptions:
    """Return the options of `send` and `reply`: those of the command line and of the settings."""
    chosen = session.settings
    return {
        "text": text,
        "name": name,
        "stdin": session.stdin,
        "ttl_seconds": chosen.ttl_seconds,
        "compress": chosen.compress,
        "chunk_bytes": chosen.chunk_bytes,
        "concurrency": chosen.concurrency,
        "keep_mtime": chosen.keep_mtime,
        "exclude": exclude,
        "links": links,
    }


def source_of(word: str) -> Path:
    """Return the path that `word` names; `./-` is a file, unlike `-`."""
    path = Path(word)
    return path.absolute() if str(path) == STDIN != word else path


def _repository(audience: str) -> str:
    """Return the canonical name of a repository, which receivers compare with their own."""
    from dockercomms.oci.stores import parse_repo

    return parse_repo(audience).repo


def check_sources(
    session: Session, sources: Sequence[Path], *, recipients: Sequence[str], text: str | None
) -> None:
    """Refuse sources that cannot be sent, before any file is opened.

    Raises:
        UsageError: there is no source, a stream is for several recipients, or standard input has
            two uses.
    """
    if not sources and text is None:
        raise UsageError(
            "nothing to send: give a PATH or --text",
            hint="dockercomms send FILE --to NAME, or dockercomms send --text 'hello' --to NAME",
        )
    streams = [source for source in sources if str(source) == STDIN or source.is_fifo()]
    if streams and len(recipients) > 1:
        raise UsageError(
            f"{streams[0]} can be read only once, but there are {len(recipients)} recipients",
            hint="write it to a file first, then send the file",
        )
    if session.reads_password and any(str(source) == STDIN for source in sources):
        raise UsageError(
            "standard input cannot hold both a password and the content",
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
    """Send to the recipients one by one; continue after a failure.

    Raises:
        DockerCommsError: the send to the only recipient failed.
        KeyboardInterrupt: before the end; a warning names the recipients who have the message.
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
                    f"sent to {', '.join(served)}; to send to the others, run the same command "
                    "again: it sends no second copy"
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
    """Print a sent message, and the recipient's command line."""
    screen = session.screen
    if sent.sent_before:
        screen.note(
            f"{sent.recipient} already has it: an interrupted run sent it as message "
            f"{sent.id[:SHORT_ID_CHARACTERS]}; to send it once more, add --again"
        )
    else:
        screen.note(_summary(sent, dry_run=dry_run, verbose=session.verbose))
    line = _receiving_line(session, sent)
    if screen.is_json:
        from dockercomms.cli.records import sent_record

        screen.data(to_json(sent_record(sent)))
        if not dry_run:
            screen.note(f"the recipient runs: {line}")
        return
    if not screen.is_table:
        from dockercomms.protocol.fields import format_time

        expires = format_time(sent.expires_at)
        screen.row((sent.id, sent.digest, sent.recipient, sent.tag, str(sent.total_bytes), expires))
    if not dry_run:
        screen.data(line)


def _summary(sent: Sent, *, dry_run: bool, verbose: bool) -> str:
    """Return the line about a message that was sent; the chunks and the key if `verbose`."""
    expires = sent.expires_at
    parts = [
        (
            f"{'Would send' if dry_run else 'Sent'} message {sent.id[:SHORT_ID_CHARACTERS]} "
            f"({human_bytes(sent.total_bytes)}) to {sent.recipient}."
        ),
        f"Available until {expires.day} {expires:%b %Y %H:%M} UTC.",
    ]
    if sent.reused_chunks:
        chunks = count_of(sent.chunks, "chunk")
        parts.append(f"{sent.reused_chunks} of {chunks} already in the repository.")
    elif verbose:
        parts.append(f"{count_of(sent.chunks, 'chunk')} uploaded.")
    if sent.signed is None:
        parts.append("Not signed.")
    elif verbose:
        parts.append(f"Signed with {sent.signed.signer}.")
    return " ".join(parts)


def _receiving_line(session: Session, sent: Sent) -> str:
    words = ["dockercomms", "recv", sent.id[:SHORT_ID_CHARACTERS]]
    words += ["--repo", sent.repo, "--me", sent.recipient]
    if session.settings.plain_http:
        words.append("--plain-http")
    return shell_words(words)


@verb(
    "reply",
    example="dockercomms reply 1a2b3c4d signed.pdf --text 'see page 3'",
    no_args_is_help=True,
)
@click.argument("message", metavar="ID")
@click.argument("paths", nargs=-1, type=click.Path(readable=False), metavar="[PATH]...")
@option("--text", metavar="T", help="Note to send, with files or without.")
@option("--title", metavar="T", help="Title.  [default: 'Re: ' and the message's title]")
@option("--name", type=NAME, metavar="N", help="File name that the recipient gets.")
@option("--ttl", "ttl_seconds", former=("--ttl-seconds",), type=DURATION, metavar="T",
        help="Time until the message expires.  [default: 7d]")  # fmt: skip
@option("--wait", "wait_seconds", type=DURATION, metavar="T",
        help="Wait for a receipt: exit 10 rejected, 11 none.")  # fmt: skip
@packing_options
@index_option()
@form_option()
@trust_options
@sign_options
@identity_options
def reply_command(
    session: Session,
    *,
    message: str,
    paths: tuple[str, ...],
    text: str | None,
    title: str | None,
    name: str | None,
    exclude: tuple[str, ...],
    links: Links,
    wait_seconds: int | None,
    no_verify: bool,
    offline: bool,
) -> int:
    """Answer a message with files or a note.

    ID is a unique prefix of the message's id or digest. 'inbox --threads' groups answers below
    their message. The answer goes to the sender's address in the trust file, else to the repository
    of the message.
    """
    from dockercomms.cli.trust_options import refuse_network
    from dockercomms.inbox.listing import answer_to

    warn_unverified(session, no_verify=no_verify)
    refuse_network(session, offline=offline)
    sources = tuple(map(source_of, paths))
    check_sources(session, sources, recipients=("",), text=text)
    with meter_for(session.screen, session.clock, "sending") as meter, ExitStack() as opened:
        box = opened.enter_context(session.mailbox(meter, verify=not no_verify))
        answer = answer_to(box.show(message))
        address = session.address_of(answer.to)
        if address is not None:
            box = opened.enter_context(
                session.mailbox(meter, address=address, verify=not no_verify)
            )
        sent = box.send(
            sources,
            to=answer.to,
            sender=answer.sender,
            title=answer.title if title is None else title,
            thread_id=answer.thread_id,
            in_reply_to=answer.in_reply_to,
            **send_options(session, text=text, name=name, exclude=exclude, links=links),
        )
        meter.finish()
        report(session, sent, dry_run=False)
        if wait_seconds is not None:
            return wait_for_answers(session, [(box, sent)], wait_seconds)
        session.interrupts.release()
        return 0
