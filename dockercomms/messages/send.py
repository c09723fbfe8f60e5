"""Sending of a message. One PUT publishes it, after all other required steps.

1. Push the payload's chunks as blobs; continue an interrupted send of the same source.
2. Ask for every blob that was not confirmed recently, and push missing ones again.
3. Compare our clock with the registry's.
4. Build the manifest, and parse it as a receiver does.
5. Sign it, verify the signature as a receiver does, and keep all on disk.
6. Push the bundle and ensure the anchors.
7. PUT the message with its tag: the publication.
8. Move the bell and append to the day's index, best effort.

After a crash or an error before step 7 receivers see no message, and the next send of the same
source continues.

Source: SPEC.md section 6.

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
from dockercomms.transport.push import BlobTarget, Pushed, confirm_blobs, push_payload
from dockercomms.transport.window import Stop, run_window
from dockercomms.trust.signing import SignedBy, Signer
from dockercomms.trust.verifier import prove_own

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
    """Send `payload` to `recipient`; on return the message is published.

    Args:
        registry: The store.
        repository: The repository's name in it.
        payload: The payload.
        repo: The repository's full name, its key in the state.
        sender: The sender's name in the message: a claim unless it is signed.
        recipient: The recipient, byte for byte the receiver's own name.
        state: The state of this machine.
        clock: The clock of this machine.
        options: The options of sending.
        progress: Called as chunks arrive.
        signer: Signs the message, which is unsigned without it.
        like: A message sent just now. If it has the same payload, that is not read and pushed
            again; from another repository of the same registry its blobs are mounted.
        run: The run that contains this message; its opener ends it (`State.send_runs`). By default
            the message has its own.
        on_notice: Called with notices for the user.

    Raises:
        UsageError, LimitError: an argument is wrong.
        LocalIOError: the source cannot be read, or changed while it was sent.
        ConfigError: our clock and the registry's are more than an hour apart.
        SigningError, VerificationError: the signing failed, and the message is not published.
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
    "correct this machine's clock, or send with --clock-skew-ok; a machine that has no clock of "
    'its own sets clock = "registry" in config.toml, once'
)


@dataclass(frozen=True, slots=True)
class _Sending:
    """One call of `send`."""

    order: Order
    publisher: Publisher
    progress: Progress | None
    content: Content | None = None
    """A payload in a repository that may be the same as this message's."""

    def run(self, run: SendRun) -> Sent:
        """Do every step, continuing an interrupted run of the same source."""
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
                if source is None:  # a stream cannot be read again, so it cannot be continued
                    sends.forget(row.id)
                raise
            sent = sent_of(draft, repo=publisher.repo, tag=tag, signer=order.signer)
            if source is None:  # another run could not continue it
                self._record(row, draft, sent)
                self.announce(draft)
            else:
                self.announce(draft)
                # Last: an interrupted user runs it again, and that run must find this message
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
        """Build or resume the message and publish it; return it and its tag.

        If the registry refuses the form, build and sign the message again in the other form.
        """
        try:
            draft = self.compose(row) if row.manifest is None else self.resume(row)
            return draft, self.publish(row, draft)
        except RegistryError as error:
            if not self.publisher.learns_image_form(error):
                raise
        self.publisher.state.streams.abandon(row.id)  # the number of the first build is void
        draft = self.compose(row)
        return draft, self.publish(replace(row, tag=None), draft)

    def _sent_before(self, run: SendRun, source: str) -> Sent | None:
        """Return the message that an unfinished run sent to this recipient, unless expired."""
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
        """Record that the message is published, so it is not continued and answers are expected."""
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

    # --- 1 to 5: before anything is visible ------------------------------------------------------

    def compose(self, row: SendRow) -> Draft:
        """Push the payload, build and sign the message, and keep its bytes."""
        publisher, order = self.publisher, self.order
        journal = SendJournal(publisher.state.sends, row.id, publisher.repo, publisher.clock)
        pushed = self._known(journal) or self._push(publisher.registry, journal)
        self._confirm(pushed, journal)
        journal.flush()
        publisher.ensure_config()
        sequence = None
        if order.signer is not None:  # receivers ignore the number of an unsigned message
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
        """Continue a message that an earlier run built: keep its bytes, check its blobs."""
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
        """Read and build everything without writing to the registry or the state."""
        pushed = self._push(Rehearsal(self.publisher.registry), NullJournal())
        draft = self._build(str(uuid.uuid4()), pushed)
        return sent_of(
            draft,
            repo=self.publisher.repo,
            tag=message_tag(self.order.rt, self.publisher.now(), draft.message.digest),
            signer=self.order.signer,
        )

    def _push(self, registry: BlobTarget, journal: Journal) -> Pushed:
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
        """Return the layers of `content`, if all are in this repository.

        Mounts those in another repository of the same registry, if the registry allows it.
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
        """Mount the blob `digest` of the repository `source`; return it if that worked."""
        publisher = self.publisher
        try:
            found = publisher.registry.mount_blob(publisher.repository, digest, source=source)
        except RegistryError:
            return None  # for example, we may no longer read there
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
        """Return the time by the chosen clock: ours unless it is "registry"."""
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
        """Sign the draft, and verify the bundle as a receiver does."""
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
        """Put the message under its tag, unless an earlier run's PUT arrived; return the tag."""
        publisher = self.publisher
        tag = row.tag
        if tag is None or not publisher.holds(tag, draft.message.digest):
            tag = put_or_repair(partial(self._put, row, draft), partial(self._repair, draft))
        return tag

    def announce(self, draft: Draft) -> None:
        """Move the bell and append to the day's index, best effort."""
        publisher, order = self.publisher, self.order
        publisher.ring_bell(order.rt, draft.manifest)
        anchor = day_anchor(order.rt, draft.anchor_day, draft.message.form)
        publisher.add_to_index(
            anchor.digest, draft.message.descriptor, order.options.referrers_index
        )

    def _put(self, row: SendRow, draft: Draft) -> str:
        """Ensure both anchors, draw and record the tag, and put the message under it.

        Keeps the tag of an earlier run if its day is today.
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
        """Ask for every blob and push missing ones, ignoring earlier confirmations."""
        self.publisher.state.sends.forget_store(self.publisher.repo)
        self._confirm(draft.pushed, NullJournal())
        self.publisher.ensure_config(draft.message.form, ask=True)


def _store_of(place: Publisher | Content) -> str:
    """Return the registry part of a repository's whole name."""
    return place.repo.removesuffix(place.repository)
