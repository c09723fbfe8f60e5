"""Sending: everything else first, then one PUT, and the message is published.

1. the payload's chunks become blobs; an interrupted send of the same source is continued
2. every blob that was not confirmed lately is asked for, and pushed again where it is gone
3. our clock is compared with the registry's
4. the manifest is built, so its digest is known; our own parser reads it as a receiver will
5. it is signed, our own verifier reads that as a receiver will, and all of it is kept on disk
6. the bundle is pushed, and the anchors are made sure of
7. one PUT of the message with its tag: the publication
8. the bell and the day's index, best effort

A crash or an error before step 7 leaves nothing that a receiver can see, and the next send of the
same source goes on where this one ended. Source: SPEC.md section 6.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms.oci.memory import MemoryRegistry
    >>> from dockercomms.platforms.clock import SystemClock
    >>> from dockercomms.messages.send import SendOptions, send
    >>> from dockercomms.state import State
    >>> from dockercomms.transport.payload import payload_of
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.txt").write_text("hello")
    >>> with State(folder / "state.db") as state:
    ...     sent = send(
    ...         MemoryRegistry(), "team/box", payload_of([folder / "a.txt"]),
    ...         repo="r.example/team/box", sender="alice", recipient="bob", state=state,
    ...         clock=SystemClock(), options=SendOptions(title="greetings"),
    ...     )
    >>> sent.total_bytes
    5
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime
from functools import partial

from dockercomms.errors import ConfigError, NoticeHook, RegistryError
from dockercomms.messages.draft import (
    Content,
    Draft,
    Order,
    Rehearsal,
    SendOptions,
    Sent,
    build_draft,
    day_anchor,
    sent_of,
)
from dockercomms.messages.publish import Publisher
from dockercomms.messages.sign import prove_own
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import Digest
from dockercomms.oci.tag_schema import put_or_repair
from dockercomms.platforms.clock import Clock, Clocks
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.fields import StreamPosition
from dockercomms.protocol.header import CLOCK_ERROR_SECONDS, CLOCK_WARN_SECONDS, EARLIEST_CLOCK
from dockercomms.protocol.manifest import parse_message
from dockercomms.protocol.tags import message_tag, parse_tag
from dockercomms.state import State
from dockercomms.state.outbox import OutboxRow
from dockercomms.state.send_runs import SendRun, Served
from dockercomms.state.sends import SendJournal, SendRow
from dockercomms.transport.journal import Journal, NullJournal, Progress
from dockercomms.transport.payload import Payload
from dockercomms.transport.push import Pushed, confirm_blobs, push_payload
from dockercomms.transport.window import Stop, run_window
from dockercomms.trust.signing import SignedBy, Signer

__all__ = ["Content", "SendOptions", "Sent", "SignedBy", "Signer", "send"]


def send(
    registry: Registry,
    repository: str,
    payload: Payload,
    *,
    repo: str,
    sender: str,
    recipient: str,
    state: State,
    clock: Clock,
    options: SendOptions | None = None,
    progress: Progress | None = None,
    signer: Signer | None = None,
    like: Sent | None = None,
    run: SendRun | None = None,
    on_notice: NoticeHook | None = None,
) -> Sent:
    """Send `payload` to `recipient`; when this returns, the message is published.

    Args:
        registry: The store.
        repository: The repository's name in it.
        payload: What is sent.
        repo: The repository's full name, under which the state knows it.
        sender: Who sends, as the receiver will read it: a claim unless it is signed.
        recipient: To whom; compared byte by byte with the receiver's own name.
        state: What is remembered between runs.
        clock: Ours.
        options: How.
        progress: Called as chunks arrive.
        signer: Signs the message; None: it is not signed.
        like: A message that was sent just now. Where it has the same payload, that is not read
            and pushed again; from another repository of the same registry it is mounted.
        run: What it is a part of; whoever opened it ends it (`State.send_runs`). None: it is one of
            its own, which ends here.
        on_notice: Called with what the user may want to know.

    Raises:
        UsageError, LimitError: an argument is wrong; nothing was sent.
        LocalIOError: the source cannot be read, or changed while it was sent.
        ConfigError: our clock and the registry's are more than an hour apart.
        SigningError, VerificationError: it could not be signed; nothing was published.
        RegistryError, NetworkError: the registry refused, or did not answer.
    """
    options = options or SendOptions()
    order = Order(
        payload=payload, sender=sender, recipient=recipient, options=options, signer=signer
    )
    publisher = Publisher(
        registry=registry,
        repository=repository,
        repo=repo,
        state=state,
        clock=clock,
        on_notice=on_notice,
        manifest_form=options.manifest_form,
    )
    sending = _Sending(order, publisher, progress, None if like is None else like.content)
    if options.dry_run:
        return sending.rehearse()
    if run is not None:
        return sending.run(run)
    with state.send_runs.open((recipient,)) as own:
        sent = sending.run(own)
        state.send_runs.end(own)
    return sent


_CLOCK_HINT = (
    "set this machine's clock, or send with --clock-skew-ok; a machine that has no clock of its "
    'own sets clock = "registry" in config.toml, once'
)


@dataclass(frozen=True, slots=True)
class _Sending:
    """One call of `send`."""

    order: Order
    publisher: Publisher
    progress: Progress | None
    content: Content | None = None
    """A payload that may be this message's, and where it is."""

    def run(self, run: SendRun) -> Sent:
        """Take every step, going on where an interrupted run of the same source ended."""
        order, publisher = self.order, self.publisher
        sends, source = publisher.state.sends, order.source_key(publisher.repo)
        before = None if source is None else self._sent_before(run, source)
        if before is not None:
            return before
        with sends.claim(
            repo=publisher.repo,
            source=source,
            sender=order.sender,
            recipient=order.recipient,
            now=publisher.clock.now(),
            again=order.options.again,
        ) as row:
            try:
                draft, tag = self._publish(row)
            except BaseException:
                publisher.state.streams.abandon(row.id)
                if source is None:  # a stream cannot be read again, so nothing can be continued
                    sends.forget(row.id)
                raise
            sent = sent_of(draft, repo=publisher.repo, tag=tag, signer=order.signer)
            if source is None:  # there is nothing that running it again could go on with
                self._record(row, draft, sent)
                self.announce(draft)
            else:
                self.announce(draft)
                # Only now: whoever is interrupted before is told to run it again, which finds this
                with publisher.state.inbox.batch():
                    self._record(row, draft, sent)
                    served = Served(draft.manifest, draft.anchor_day, tag)
                    publisher.state.send_runs.record(
                        run, row.id, source, served, now=publisher.clock.now()
                    )
        key = order.content_key
        if key is None:
            return sent
        content = Content(key, draft.pushed, publisher.repo, publisher.repository)
        return replace(sent, content=content)

    def _publish(self, row: SendRow) -> tuple[Draft, str]:
        """Compose or resume the message and publish it; return it and its tag.

        Where the registry refuses the form, the message is built and signed once more in the other.
        """
        try:
            draft = self.compose(row) if row.manifest is None else self.resume(row)
            return draft, self.publish(row, draft)
        except RegistryError as error:
            if not self.publisher.learns_image_form(error):
                raise
        self.publisher.state.streams.abandon(row.id)  # the first build's number is void
        draft = self.compose(row)
        return draft, self.publish(replace(row, tag=None), draft)

    def _sent_before(self, run: SendRun, source: str) -> Sent | None:
        """Return what an unfinished run sent to this recipient, if it has not expired yet."""
        publisher, now = self.publisher, self.publisher.clock.now()
        runs = publisher.state.send_runs
        if self.order.options.again:
            runs.forget(source)
            return None
        served = runs.served(run, source, now=now)
        if served is None:
            return None
        message = parse_message(served.manifest)
        draft = Draft(message, served.manifest, served.day, reused_chunks=len(message.chunks))
        sent = sent_of(draft, repo=publisher.repo, tag=served.tag, signer=self.order.signer)
        if sent.expires_at <= now:
            runs.forget(source)
            return None
        return replace(sent, sent_before=True)

    def _record(self, row: SendRow, draft: Draft, sent: Sent) -> None:
        """Note that the message is published: it is not continued, and answers may come."""
        self.publisher.notify("published", f"message {sent.id} is published")
        state, now, header = self.publisher.state, self.publisher.clock.now(), draft.message.header
        settled = state.clocks.settle(Clocks(now, self.publisher.registry.server_time()))
        with state.inbox.batch():
            state.sends.record_published(row.id, now=now)
            state.streams.publish(row.id)
            state.outbox.add(
                OutboxRow(
                    id=sent.id,
                    repo=sent.repo,
                    digest=sent.digest,
                    tag=sent.tag,
                    sender=sent.sender,
                    recipient=sent.recipient,
                    title=header.title or "",
                    filename=header.display_name,
                    bytes=sent.total_bytes,
                    thread=header.thread_id or sent.id,
                    published=now,
                    expires=sent.expires_at,
                ),
                now=settled,
            )

    # --- 1 to 5: a message that nobody sees yet --------------------------------------------------

    def compose(self, row: SendRow) -> Draft:
        """Push the payload, build the message about it, and keep its bytes."""
        publisher, order = self.publisher, self.order
        journal = SendJournal(publisher.state.sends, row.id, publisher.repo, publisher.clock)
        pushed = self._known(journal) or self._push(publisher.registry, journal)
        self._confirm(pushed, journal)
        journal.flush()
        publisher.ensure_config()
        sequence = None
        if order.signer is not None:  # nobody would believe the number of another
            sequence = publisher.state.streams.draw(
                row.id, publisher.repo, order.sender, order.recipient, now=publisher.clock.now()
            )
        draft = self._build(row.id, pushed, sequence)
        bundle = None if order.signer is None else self._sign(order.signer, draft)
        publisher.state.sends.record_build(
            row.id,
            manifest=draft.manifest,
            digest=draft.message.digest,
            day=draft.anchor_day,
            now=publisher.clock.now(),
            bundle=bundle,
        )
        self._push_bundle(draft, bundle, fresh=True)
        return draft

    def resume(self, row: SendRow) -> Draft:
        """Take up a message that an earlier run built: its bytes stay, its blobs are checked."""
        if row.manifest is None or row.day is None:
            raise AssertionError("internal: a built message without its bytes")
        message = parse_message(row.manifest)
        draft = Draft(message, row.manifest, row.day, reused_chunks=len(message.chunks))
        publisher = self.publisher
        journal = SendJournal(publisher.state.sends, row.id, publisher.repo, publisher.clock)
        self._confirm(draft.pushed, journal)
        journal.flush()
        publisher.ensure_config(message.form)
        self._push_bundle(draft, row.bundle, fresh=False)
        return draft

    def rehearse(self) -> Sent:
        """Do all that `send` does to the payload, and write nothing anywhere."""
        pushed = self._push(Rehearsal(self.publisher.registry), NullJournal())
        draft = self._build(str(uuid.uuid4()), pushed)
        return sent_of(
            draft,
            repo=self.publisher.repo,
            tag=message_tag(self.order.rt, self.publisher.now(), draft.message.digest),
            signer=self.order.signer,
        )

    def _push(self, registry: Registry, journal: Journal) -> Pushed:
        options = self.order.options
        return push_payload(
            registry,
            self.publisher.repository,
            self.order.payload,
            compress=options.compress,
            chunk_bytes=options.chunk_bytes,
            concurrency=options.concurrency,
            journal=journal,
            progress=self.progress,
        )

    def _known(self, journal: Journal) -> Pushed | None:
        """Return what another message brought, if all of it is here; None: push it.

        What is in another repository of the same registry is mounted, where the registry lets us.
        """
        content, publisher = self.content, self.publisher
        if content is None or content.key != self.order.content_key:
            return None
        layers = content.pushed.layers
        missing = {layer.digest for layer in layers if journal.known(layer.digest) is None}
        if publisher.repo != content.repo and _store_of(publisher) == _store_of(content):
            tasks = (partial(self._mounts, digest, content.repository) for digest in missing)
            concurrency = self.order.options.concurrency
            mounted = run_window(tasks, concurrency=concurrency, stop=Stop())
            for digest in [digest for _, digest in mounted if digest is not None]:
                journal.confirm(digest)
                missing.discard(digest)
        return None if missing else replace(content.pushed, reused_chunks=len(layers))

    def _mounts(self, digest: Digest, source: str) -> Digest | None:
        """Return `digest` if the registry makes the blob of `source` one of ours."""
        publisher = self.publisher
        try:
            found = publisher.registry.mount_blob(publisher.repository, digest, source=source)
        except RegistryError:
            return None  # we may not read there any more, say
        return None if found is None else digest

    def _confirm(self, pushed: Pushed, journal: Journal) -> None:
        publisher, order = self.publisher, self.order
        confirm_blobs(
            publisher.registry,
            publisher.repository,
            order.payload,
            pushed,
            journal=journal,
            clock=publisher.clock,
            concurrency=order.options.concurrency,
        )

    def _build(
        self, message_id: str, pushed: Pushed, sequence: StreamPosition | None = None
    ) -> Draft:
        """Build the message by our clock, after comparing it with the registry's."""
        self._check_clock()
        return build_draft(
            self.order,
            message_id,
            pushed,
            now=self._now(),
            day=self.publisher.now().date(),
            sequence=sequence,
            form=self.publisher.form(),
        )

    def _now(self) -> datetime:
        """Return the time by the clock that was chosen; by ours unless it was the registry's."""
        publisher = self.publisher
        is_theirs = self.order.options.clock_choice == "registry"
        return publisher.now() if is_theirs else publisher.clock.now()

    def _check_clock(self) -> None:
        publisher = self.publisher
        publisher.hear_clock(self.order.rt)
        if self.order.options.clock_choice == "registry":
            return
        ours = publisher.clock.now()
        if ours < EARLIEST_CLOCK and not self.order.options.clock_skew_ok:
            raise ConfigError(
                f"clock: this machine says {ours:%Y-%m-%d}; the message would count as expired",
                hint=_CLOCK_HINT,
            )
        skew = (publisher.clock.now() - publisher.now()).total_seconds()
        if abs(skew) <= CLOCK_WARN_SECONDS:
            return
        side = "ahead of" if skew > 0 else "behind"
        text = f"clock: ours is {abs(skew):.0f} s {side} that of {publisher.repo}"
        if abs(skew) > CLOCK_ERROR_SECONDS and not self.order.options.clock_skew_ok:
            raise ConfigError(
                f"{text}; at most {CLOCK_ERROR_SECONDS} s allowed",
                hint=_CLOCK_HINT,
            )
        publisher.notify("clock-skew", text)

    def _sign(self, signer: Signer, draft: Draft) -> bytes:
        """Sign the draft, and prove that a receiver will see what was signed, and by whom."""
        bundle = signer.sign(draft.message, draft.manifest)
        prove_own(
            draft.message,
            bundle,
            signer.signed_by,
            repo=self.publisher.repo,
            now=self._now(),
        )
        return bundle

    def _push_bundle(self, draft: Draft, bundle: bytes | None, *, fresh: bool) -> None:
        if bundle is None:
            return
        push = partial(
            self.publisher.push_bundle,
            draft.message.descriptor.bare(),
            bundle,
            index=self.order.options.referrers_index,
            fresh=fresh,
            form=draft.message.form,
        )
        put_or_repair(push, partial(self._repair, draft))

    # --- 6 and 7: publication --------------------------------------------------------------------

    def publish(self, row: SendRow, draft: Draft) -> str:
        """Put the message under its tag; return that. An earlier run's PUT may have arrived."""
        publisher = self.publisher
        tag = row.tag
        if tag is None or not publisher.holds(tag, draft.message.digest):
            tag = put_or_repair(partial(self._put, row, draft), partial(self._repair, draft))
        return tag

    def announce(self, draft: Draft) -> None:
        """Ring the bell and add to the day's index; best effort."""
        publisher, order = self.publisher, self.order
        publisher.ring_bell(order.rt, draft.manifest)
        anchor = day_anchor(order.rt, draft.anchor_day, draft.message.form)
        publisher.add_to_index(
            anchor.digest, draft.message.descriptor, order.options.referrers_index
        )

    def _put(self, row: SendRow, draft: Draft) -> str:
        """Make sure of both anchors, draw the tag, keep it, and put the message under it.

        A tag that an earlier run drew is drawn anew only if the day has changed.
        """
        publisher, rt, form = self.publisher, self.order.rt, draft.message.form
        publisher.ensure_anchor(rt, draft.anchor_day, form=form)
        now = publisher.draw_time(rt, form=form)
        drawn = None if row.tag is None else parse_tag(row.tag)
        if row.tag is not None and drawn is not None and drawn.day == now.date():
            tag = row.tag
        else:
            tag = message_tag(rt, now, draft.message.digest)
            publisher.state.sends.record_tag(row.id, tag)
        publisher.put(draft.manifest, tag=tag)
        return tag

    def _repair(self, draft: Draft) -> None:
        """Ask for every blob and push again what is gone; believe nothing that was known."""
        self.publisher.state.sends.forget_store(self.publisher.repo)
        self._confirm(draft.pushed, NullJournal())
        self.publisher.ensure_config(draft.message.form, ask=True)


def _store_of(place: Publisher | Content) -> str:
    """Return the registry that a repository is in: what is left of its whole name."""
    return place.repo.removesuffix(place.repository)
