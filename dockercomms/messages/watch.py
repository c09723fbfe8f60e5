"""Watching: poll an inbox, receive new messages and run a command for each.

1. Run the commands that a killed watch did not finish.
2. Send HEAD for the bell. If it has not changed and no other work is due, go to step 5.
3. Poll and receive as `recv` does. Run the command for each new message.
4. Write a receipt by the command's exit code: accepted or rejected, with the reason.
5. Wait with jitter: longer after many idle or failed polls, or as long as the registry asks for.

Watches of one inbox on one machine share the work: the process that holds a message's lock delivers
it and runs its command. Watches on different machines do not coordinate, so each handles every
message. The command of a message runs at least once: again only if the watch was killed before it
recorded the command's end.

Source: SPEC.md sections 7.1 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Literal, Protocol

from dockercomms.errors import (
    AuthError,
    CommandError,
    ConfigError,
    DockerCommsError,
    IntegrityError,
    InternalError,
    LocalIOError,
    NetworkError,
    NotFoundError,
    Notice,
    NoticeHook,
    ProtocolError,
    RegistryError,
    TooManyRequests,
    guarded,
)
from dockercomms.inbox.inbox import Inbox
from dockercomms.inbox.poll import PollResult
from dockercomms.messages.command import Command, Outcome, run_command, variables
from dockercomms.messages.deliver import files_at
from dockercomms.messages.place import delivery_key, is_own_folder
from dockercomms.messages.receipts import publish_receipt, store_receipt
from dockercomms.messages.receive import Received, Round
from dockercomms.oci.images.trees import has_manifest
from dockercomms.oci.stores import Location
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import DEFAULT_INTERVAL_SECONDS, MessageHeader
from dockercomms.protocol.manifest import Message
from dockercomms.protocol.tags import ReceiptStatus
from dockercomms.state.deliveries import Handover
from dockercomms.state.locks import sweep_locks, try_shared_lock
from dockercomms.state.receipts import ReceiptRow

JITTER = 0.2
"""The share by which waits vary to either side, so machines that start together drift apart."""

IDLE_LOOKS = 10
"""The polls without a new message after which the waits grow."""

IDLE_GROWTH = 1.25
MAX_IDLE_FACTOR = 4
"""The longest wait of an idle inbox, in intervals."""

MAX_FAILURE_WAIT_SECONDS = 600.0
"""The longest wait after failed polls, unless the interval is longer."""

MAX_ASKED_WAIT_SECONDS = 3600.0
"""The longest wait that a registry can ask for with Retry-After."""

SERVER_ERRORS = 500
"""The first status for which the registry, not the request, is at fault."""

Ack = Literal["always", "on-success", "never"]
"""When to write a receipt: for every message, for those that the command accepted, or never."""

_MAY_PASS = (NetworkError, RegistryError, ProtocolError, ConfigError, CommandError)
"""Errors after which a watch that has polled successfully continues."""

_WAITED_OUT = (LocalIOError, NetworkError, AuthError, TooManyRequests)
"""Errors that leave a message new, such as a full disk: smaller messages may still arrive."""


class Stop(Protocol):
    """A signal to end the watch after the present message, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether to end."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds or until the signal; return whether to end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """Options of watching."""

    interval_seconds: float = DEFAULT_INTERVAL_SECONDS
    command: Command | None = None
    """Runs for each message; without a command they are only delivered."""
    ack: Ack = "always"
    once: bool = False
    """Poll once, as `recv` does."""
    output: int | None = None
    """The descriptor for the output of commands, which is discarded by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The result of handling one message."""

    received: Received
    outcome: Outcome | None = None
    """The end of its command, if one ran."""
    status: ReceiptStatus | None = None
    """The status of the receipt, if there is one."""

    @property
    def error(self) -> CommandError | None:
        """The failure of the command, if it ran and failed."""
        if self.outcome is None or self.outcome.succeeded:
            return None
        return CommandError(f"message {self.received.id}: {self.outcome}")


@dataclass(slots=True)
class Pace:
    """The waits between polls."""

    interval_seconds: float
    clock: Clock
    _idle: int = 0
    _failures: int = 0
    _started: bool = False

    def after(self, *, found: bool) -> float:
        """Return the wait after a successful poll."""
        self._failures = 0
        self._idle = 0 if found else self._idle + 1
        if not self._started:  # machines that started together must not poll together
            self._started = True
            return self.interval_seconds * self.clock.random()
        growth = IDLE_GROWTH ** max(0, min(self._idle - IDLE_LOOKS, 100))
        return self._jittered(self.interval_seconds * min(growth, MAX_IDLE_FACTOR))

    def after_failure(self, error: DockerCommsError) -> float:
        """Return the wait after a failed poll."""
        self._started = True
        self._failures += 1
        most = max(MAX_FAILURE_WAIT_SECONDS, self.interval_seconds)
        wait = self._jittered(min(self.interval_seconds * 2 ** min(self._failures, 20), most))
        asked = error.retry_after_seconds if isinstance(error, RegistryError) else None
        return max(wait, min(asked or 0.0, MAX_ASKED_WAIT_SECONDS))

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self.clock.random() - 1))


@dataclass(slots=True, kw_only=True)
class Watcher:
    """A watch over the inboxes of one recipient. Not safe for several threads."""

    rounds: Callable[[], Round]
    """Makes the round of the next poll, since the policy may have changed."""
    clock: Clock
    stop: Stop
    options: WatchOptions
    on_notice: NoticeHook | None = None
    on_poll: Callable[[PollResult], None] | None = None
    _worked: bool = field(default=False, init=False)
    """A poll has succeeded, so later failures may pass."""
    _deaf: bool = field(default=False, init=False)
    """Messages came without a change of the bell: from old senders, or its tag cannot be moved."""

    def run(self) -> Iterator[Watched]:
        """Yield the result of each message until the stop signal. Retries after passing errors.

        Raises:
            AuthError, ConfigError, ProtocolError, RegistryError: the first poll failed with an
                error that waiting cannot cure.
            NetworkError: the only poll failed, or no poll can succeed.
            LocalIOError: the state, or the command, cannot be used.
        """
        pace = Pace(self.options.interval_seconds, self.clock)
        if self.options.command is not None:
            sweep_locks(_locks_of(self.rounds()))
        while not self.stop.is_set():
            found, failure = False, None
            try:
                for watched in self._look():
                    failure = _to_wait_out(watched) or failure
                    found = found or watched.received.status == "received"
                    yield watched
                if failure is None or found:
                    wait = pace.after(found=found)
                else:
                    wait = pace.after_failure(failure)
                self._worked = True
            except _MAY_PASS as error:
                if self.options.once or not (self._worked or may_pass(error)):
                    raise
                wait = pace.after_failure(error)
                self._tell("watch-waits", f"{error}; looking again in {wait:.0f} s")
            if self.options.once or self.stop.wait(wait):
                return

    # --- one poll --------------------------------------------------------------------------------

    def _look(self) -> Iterator[Watched]:
        round_ = self.rounds()
        if self.options.command is not None:
            for box in round_.boxes:
                yield from self._owed(round_, box.inbox, self.options.command)
        found = False
        for received in round_.receive(watching=not (self.options.once or self._deaf)):
            watched = self._handled(round_, received)
            if watched is not None:
                found = True
                yield watched
            if self.stop.is_set():
                break
        self._heard(round_.last_poll, found=found)

    def _heard(self, poll: PollResult | None, *, found: bool) -> None:
        if poll is None:
            return
        if poll.rang:
            self._deaf = False
        elif found and not (self._deaf or poll.errors or self.options.once):
            self._deaf = True
            self._tell("no-bell", "messages came without a ring; the tags are listed every time")
        if self.on_poll is not None and not poll.idle:
            self.on_poll(poll)

    def _handled(self, round_: Round, received: Received) -> Watched | None:
        """Return the result of a received message; None if another process handles it."""
        if received.status == "skipped":
            return None  # another process receives it, or has received it
        command = self.options.command
        if received.status == "failed" or received.digest is None:
            return Watched(received=received)
        if command is None:
            told: ReceiptStatus | None = None if self.options.ack == "never" else "accepted"
            return Watched(received=received, status=told)
        inbox = next(box.inbox for box in round_.boxes if box.inbox.me == received.recipient)
        try:
            with guarded(received.digest):
                return self._hand_over(round_, inbox, command, received)
        except InternalError as error:
            round_.state.defects.add(inbox.repo, error.what, now=self.clock.now())
            return Watched(received=replace(received, error=error))

    # --- the command -----------------------------------------------------------------------------

    def _owed(self, round_: Round, inbox: Inbox, command: Command) -> Iterator[Watched]:
        """Run the commands that a killed watch did not finish."""
        rows = round_.state.inbox
        for owed in round_.state.handovers.owed(inbox.me, inbox.repo):
            if self.stop.is_set():
                return
            known = rows.delivery(inbox.me, owed.digest)
            if known is None or known.path is None or known.state != "delivered":
                continue  # it is being delivered again
            received = Received(
                id=known.message_id,
                digest=owed.digest,
                status="received",
                recipient=inbox.me,
                sender=known.sender,
                signer=owed.signer,
                signature_status="unchecked" if owed.signer is None else "valid",
            )
            try:
                with guarded(owed.digest):
                    if not known.path.exists() or _own_folder(known.path, owed) is None:
                        yield from self._deliver_again(round_, owed)
                        continue
                    received = replace(received, files=files_at(known.path))
                    watched = self._hand_over(round_, inbox, command, received)
                if watched is not None:
                    yield watched
            except (InternalError, ProtocolError) as error:
                if round_.state.defects.add(inbox.repo, owed.digest, now=self.clock.now()):
                    yield Watched(received=replace(received, error=error))

    def _deliver_again(self, round_: Round, owed: Handover) -> Iterator[Watched]:
        """Deliver a message again whose file is missing, or was received flat, before its command.

        Gives it up if the registry does not have it any more.
        """
        anew = replace(round_, options=replace(round_.options, again=True))
        for received in anew.receive([owed.digest]):
            if _is_lost(anew, owed, received.error):
                round_.state.handovers.settle(owed.me, owed.digest)
            watched = self._handled(anew, received)
            if watched is not None:
                yield watched

    def _hand_over(
        self, round_: Round, inbox: Inbox, command: Command, received: Received
    ) -> Watched | None:
        """Run the command for a delivered message; None if another process ran or runs it."""
        digest, state = received.digest, round_.state
        if digest is None:
            raise AssertionError("internal: a message that was received without its digest")
        lock = _locks_of(round_) / f"{delivery_key(inbox.me, digest)}.lock"
        # The command inherits the lock: if we are killed, no other watch starts it a second time.
        with try_shared_lock(lock) as held:
            known = state.inbox.delivery(inbox.me, digest)
            if held is None or known is None or known.path is None:
                return None
            owed = state.handovers.begin(inbox.me, digest)
            if owed is None:
                return None  # the last holder of the lock ran it
            if _own_folder(known.path, owed) is None:
                return None  # delivered to another place meanwhile; the next poll delivers it again
            header = MessageHeader.from_annotations(owed.descriptor.annotations)
            message = Message(descriptor=owed.descriptor, header=header, chunks=())
            files = files_at(known.path)
            outcome = self._run(command, message, owed, known.path, held)
            row = self._settle(round_, message, owed, outcome)
        received = replace(received, files=files, bytes=message.header.total_bytes)
        if row is not None:
            received = self._published(round_, inbox, row, received)
        return Watched(
            received=received, outcome=outcome, status=None if row is None else row.status
        )

    def _run(
        self,
        command: Command,
        message: Message,
        owed: Handover,
        path: Path,
        held: tuple[int, ...],
    ) -> Outcome:
        folder = path if path.is_dir() else path.parent
        files = files_at(path)
        told = variables(
            message,
            signer=owed.signer,
            repo=owed.repo,
            files=files,
            folder=folder,
            attempt=owed.attempts,
        )
        return run_command(
            command,
            folder,
            told,
            clock=self.clock,
            output=self.options.output,
            keep_open=held,
        )

    def _status(self, outcome: Outcome) -> ReceiptStatus | None:
        if self.options.ack == "never":
            return None
        if outcome.succeeded:
            return "accepted"
        return "rejected" if self.options.ack == "always" else None

    def _settle(
        self, round_: Round, message: Message, owed: Handover, outcome: Outcome
    ) -> ReceiptRow | None:
        """Record the end of the command, and store the receipt if there is to be one."""
        state, status = round_.state, self._status(outcome)
        with state.inbox.batch():
            state.handovers.settle(owed.me, owed.digest)
            if status is None:
                return None
            return store_receipt(
                state,
                owed.repo,
                message,
                status=status,
                reason=str(outcome),
                verified=owed.signer is not None,
                at=self.clock.now(),
                to_sign=round_.signer is not None,
            )

    def _published(
        self, round_: Round, inbox: Inbox, row: ReceiptRow, received: Received
    ) -> Received:
        """Publish a receipt; after an error it waits for a later run."""
        try:
            digest = publish_receipt(round_.publisher(inbox), row, signer=round_.signer)
        except DockerCommsError as error:
            next_try = round_.state.receipts.next_try(row.number)
            return replace(received, error=error, receipt_next_try=next_try)
        return replace(received, receipt=digest)

    def _tell(self, kind: Literal["watch-waits", "no-bell"], text: str) -> None:
        if self.on_notice is not None:
            self.on_notice(Notice(kind, text))


def _locks_of(round_: Round) -> Path:
    return round_.state.path.parent / "handovers"


def _own_folder(path: Path, owed: Handover) -> Path | None:
    """Return the folder of one message alone; None if the message was received flat meanwhile."""
    folder = path if path.is_dir() else path.parent
    header = MessageHeader.from_annotations(owed.descriptor.annotations)
    return folder if is_own_folder(folder, header.short_id) else None


def _to_wait_out(watched: Watched) -> DockerCommsError | None:
    """Return the error of a failed message, if the next poll tries it again."""
    error = watched.received.error
    if watched.received.status == "failed" and isinstance(error, _WAITED_OUT):
        return error
    return None


def _is_lost(round_: Round, owed: Handover, error: DockerCommsError | None) -> bool:
    """Return whether a message can never be delivered again, confirmed by a second answer."""
    if isinstance(error, NotFoundError):
        return not has_manifest(Location(round_.registry, round_.repository), owed.digest)
    return isinstance(error, ProtocolError) and not isinstance(error, IntegrityError)


def may_pass(error: DockerCommsError) -> bool:
    """Return whether an error may pass by waiting, before any poll has succeeded."""
    if isinstance(error, NetworkError):
        return error.retryable
    if isinstance(error, RegistryError) and not isinstance(error, AuthError):
        return isinstance(error, TooManyRequests) or error.status >= SERVER_ERRORS
    return False
