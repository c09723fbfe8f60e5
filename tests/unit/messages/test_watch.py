from __future__ import annotations

import gc
import itertools
import os
import uuid
from datetime import timedelta

import pytest

from dockercomms.errors import (
    CommandError,
    Denied,
    LocalIOError,
    NetworkError,
    RegistryError,
    TooManyRequests,
    UsageError,
)
from dockercomms.messages.place import delivery_key
from dockercomms.messages.receive import leftovers_of
from dockercomms.messages.watch import (
    IDLE_LOOKS,
    MAX_ASKED_WAIT_SECONDS,
    MAX_FAILURE_WAIT_SECONDS,
    MAX_IDLE_FACTOR,
    Pace,
    Watcher,
    WatchOptions,
    may_pass,
)
from dockercomms.protocol.manifest import Message
from dockercomms.protocol.tags import bell_tag, recipient_tag
from dockercomms.state.locks import try_lock
from dockercomms.trust.owner import TrustOptions
from tests.fakes.clock import FakeClock
from tests.fakes.mail import (
    ALICE,
    BOB,
    REPOSITORY,
    UNSIGNED_ALICE,
    files_below,
    message_of,
    open_mail,
)
from tests.fakes.stops import AfterWaits

NO_COMMAND_ERROR = (None, None)


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def watch(mail, *, looks=1, between=None, stop=None, **options):
    """Return what a watch of so many looks yields; the stop itself may be given."""
    stop = stop or AfterWaits(mail.clock, looks, between)
    with mail.mailbox(BOB) as bob:
        return list(bob.watch(**{"out": mail.out, "stop": stop, **options}))


def owe(mail, bob, sent):
    """Leave what a watch leaves that is killed before its command has ended."""
    bob._state.handovers.owe(
        BOB, message_of(mail, sent).descriptor, repo=bob.repo, signer=None, now=mail.clock.now()
    )


def answers(mail):
    with mail.mailbox(ALICE, trust=TrustOptions(policy=UNSIGNED_ALICE, verify=False)) as alice:
        return [(entry.status, entry.reason) for entry in alice.receipts()]


# --- looks ---------------------------------------------------------------------------------------


def test_watch_of_an_idle_inbox_asks_for_the_bell_alone(mail):
    mail.send()
    watch(mail)
    mail.registry.calls.clear()
    assert watch(mail, looks=5) == []
    assert [name for name, _ in mail.registry.calls] == ["resolve_tag"] * 5
    assert {said[1] for _, said in mail.registry.calls} == {bell_tag(recipient_tag(BOB))}


def test_watch_delivers_what_comes_between_two_looks(mail):
    (watched,) = watch(mail, looks=3, between=lambda wait: mail.send() if wait == 1 else None)
    assert (watched.received.status, watched.status) == ("received", "accepted")
    assert (watched.outcome, watched.error) == NO_COMMAND_ERROR
    assert list(files_below(mail.out).values()) == [b"hello"]
    assert answers(mail) == [("accepted", "")]


def test_watch_that_never_answers_writes_no_receipt(mail):
    mail.send()
    (watched,) = watch(mail, ack="never")
    assert (watched.received.receipt, watched.status) == (None, None)
    assert answers(mail) == []


def test_watch_looks_everywhere_once_in_a_while_although_no_bell_rings(mail):
    mail.send()
    watch(mail)
    mail.registry.calls.clear()
    watch(mail, looks=12)  # more than five minutes
    names = [name for name, _ in mail.registry.calls]
    assert names.count("tag_pages") == 1
    assert names.count("resolve_tag") == 12


def test_watch_looks_everywhere_every_time_where_bells_do_not_ring(mail):
    tag = bell_tag(recipient_tag(BOB))

    def send(_wait):
        mail.send()
        mail.reader.delete_tag(REPOSITORY, tag)

    watched = watch(mail, looks=13, between=send)
    assert len(watched) == 12  # the first comes after five minutes, the others at once
    assert [notice.kind for notice in mail.notices].count("no-bell") == 1


def test_watch_once_looks_once_and_as_recv_does(mail):
    mail.send()
    stop = AfterWaits(mail.clock)
    assert len(watch(mail, stop=stop, once=True)) == 1
    assert stop.waits == []
    mail.registry.calls.clear()
    assert watch(mail, once=True) == []
    assert "tag_pages" in {name for name, _ in mail.registry.calls}


def test_watch_ends_after_the_message_in_hand(mail):
    first = mail.send()
    mail.clock.advance(1)
    second = mail.send(mail.file("b"))
    stop = AfterWaits(mail.clock)
    with mail.mailbox(BOB) as bob:
        watching = bob.watch(out=mail.out, stop=stop)
        assert next(watching).received.digest == first.digest
        stop.set()
        assert list(watching) == []
    assert [one.received.digest for one in watch(mail)] == [second.digest]


def test_watch_of_nothing_waits_until_it_is_stopped_before_the_first_look(mail):
    stop = AfterWaits(mail.clock)
    stop.set()
    assert watch(mail, stop=stop) == []
    assert mail.registry.calls == []


def test_watch_notices_a_policy_that_lets_somebody_in(mail, tmp_path):
    trust = tmp_path / "trust.toml"
    mail.send()
    entry = f'version = 1\n[[sender]]\nname = "{ALICE}"\nallow_unsigned = true\n'
    stop = AfterWaits(mail.clock, 3, lambda wait: trust.write_text(entry) if wait == 1 else None)
    with mail.mailbox(BOB, trust=TrustOptions(file=trust)) as bob:
        held, let_in = bob.watch(out=mail.out, stop=stop)
    assert (held.received.status, let_in.received.status) == ("failed", "received")


def test_watch_says_how_looks_went_that_saw_more_than_a_silent_bell(mail):
    seen = []
    watch(mail, looks=3, on_poll=seen.append)
    assert [poll.repository_missing for poll in seen] == [True, True, True]
    mail.send()
    seen.clear()
    watch(mail, looks=3, on_poll=seen.append)
    assert [poll.complete for poll in seen] == [True]


# --- what fails ----------------------------------------------------------------------------------


def test_watch_waits_out_a_registry_that_is_down_when_it_starts(mail):
    errors = [None, NetworkError("no route"), RegistryError("x", status=503)]

    def before(name, _said):
        if name == "resolve_tag" and errors:
            errors.pop(0)
        if errors and errors[0]:
            raise errors[0]

    mail.send()
    mail.registry.before = before
    assert len(watch(mail, looks=3)) == 1
    assert [notice.kind for notice in mail.notices] == ["watch-waits", "watch-waits"]
    assert "no route; looking again in 60 s" in mail.notices[0].text


@pytest.mark.parametrize(
    "error", [Denied("no"), NetworkError("bad certificate", retryable=False), RegistryError("?")]
)
def test_watch_that_cannot_begin_says_so_at_once(mail, error):
    def before(_name, _said):
        raise error

    mail.registry.before = before
    with pytest.raises(type(error)):
        watch(mail)


def test_watch_that_has_worked_waits_for_credentials_to_come_back(mail):
    down = []

    def before(_name, _said):
        if down:
            raise Denied("token expired")

    def between(wait):
        down[:] = [True] if wait == 1 else []

    mail.send()
    mail.registry.before = before
    watch(mail, looks=3, between=between)
    (notice,) = [notice for notice in mail.notices if notice.kind == "watch-waits"]
    assert "token expired" in notice.text


def test_watch_once_raises_what_a_watch_would_wait_out(mail):
    def before(_name, _said):
        raise NetworkError("no route")

    mail.registry.before = before
    with pytest.raises(NetworkError):
        watch(mail, once=True)


def test_watch_tries_less_often_what_the_disk_has_no_room_for(mail):
    """A message that cannot be written stays new, and arrives when there is room."""
    mail.send()
    mail.out.write_text("a file where a folder should be")
    stop = AfterWaits(mail.clock, 4, lambda wait: mail.out.unlink() if wait == 3 else None)
    with mail.mailbox(BOB) as bob:
        watched = list(bob.watch(out=mail.out, stop=stop))
    assert [one.received.status for one in watched] == ["failed", "failed", "failed", "received"]
    assert stop.waits[:3] == [60, 120, 240]


def test_watch_ends_when_its_own_disk_fails(mail):
    mail.send()
    with mail.mailbox(BOB) as bob:
        watching = bob.watch(out=mail.out, stop=AfterWaits(mail.clock, 2))
        next(watching)
        mail.bob.close()
        bob._state.close()
        with pytest.raises((LocalIOError, ValueError)):
            list(watching)


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ack", "code", "told"),
    [
        ("always", 0, [("accepted", "")]),
        ("always", 3, [("rejected", "the command ended with exit code 3")]),
        ("on-success", 0, [("accepted", "")]),
        ("on-success", 3, []),
        ("never", 0, []),
        ("never", 3, []),
    ],
)
def test_watch_answers_as_the_command_ends(mail, ack, code, told):
    sent = mail.send(title="t")
    (watched,) = watch(mail, ack=ack, command=f"sh -c 'exit {code}'")
    assert (watched.received.digest, watched.received.status) == (sent.digest, "received")
    assert watched.outcome.exit_code == code
    assert watched.status == (told[0][0] if told else None)
    assert isinstance(watched.error, CommandError) is bool(code)
    assert answers(mail) == told
    assert watch(mail, command="true") == []  # it is done, however it ended


def test_watch_hands_over_the_folder_of_the_message(mail):
    sent = mail.send(title="all of it")
    folder = mail.folder / "sent"
    folder.mkdir()
    (folder / "x").write_text("x")
    mail.clock.advance(1)
    tree = mail.send(folder)
    script = mail.folder / "script"
    script.write_text('printf "%s|%s|%s" "$1" "$DOCKERCOMMS_MSG_TITLE" "$(ls $1)" >>$2')
    log = mail.folder / "log"
    first, second = watch(mail, command=f"sh {script} {{dir}} {log}")
    assert first.received.bytes == 5
    assert second.received.files == (mail.out / tree.id[:8] / "sent" / "x",)
    assert log.read_text() == (
        f"{mail.out / sent.id[:8]}|all of it|a.txt{mail.out / tree.id[:8]}||sent"
    )


def test_watch_refuses_a_command_without_a_folder_for_each_message(mail):
    mail.send()
    with pytest.raises(UsageError, match="needs a folder per message") as caught:
        watch(mail, command="true", flat=True)
    assert caught.value.exit_code == 64
    assert files_below(mail.out) == {}


def test_watch_gives_no_command_the_folder_of_another_message(mail, monkeypatch):
    twins = (uuid.UUID(int=(0x1A2B3C4D << 96) + number) for number in itertools.count())
    monkeypatch.setattr(uuid, "uuid4", lambda: next(twins))
    for text in ("first", "second"):
        folder = mail.folder / text
        folder.mkdir()
        (folder / "Makefile").write_text(text)
        mail.send(folder / "Makefile")
        mail.clock.advance(1)
    log = mail.folder / "log"

    watched = watch(mail, command=f"sh -c 'cat \"$0/Makefile\" >>{log}; echo >>{log}' {{dir}}")

    assert sorted(log.read_text().split()) == ["first", "second"]
    assert [item.received.files[0].parent.name for item in watched] == ["1a2b3c4d", "1a2b3c4d (2)"]


def test_watch_delivers_again_what_was_received_flat_before_its_command_could_end(mail):
    sent = mail.send()
    with mail.mailbox(BOB) as bob:
        list(bob.receive([sent.id], out=mail.out, flat=True))
        owe(mail, bob, sent)
    (watched,) = watch(mail, command="test -f {dir}/a.txt")
    assert watched.outcome.succeeded
    assert watched.received.files == (mail.out / sent.id[:8] / "a.txt",)


def test_watch_with_a_command_that_cannot_be_run_receives_nothing(mail):
    mail.send()
    with pytest.raises(UsageError, match=r"program .* not found"):
        watch(mail, command="no-such-program-here")
    assert files_below(mail.out) == {}


def test_watch_runs_what_a_killed_watch_owed(mail):
    sent = mail.send()
    with mail.mailbox(BOB) as bob:
        # As if killed between delivery and command: the machine that runs it is gone.
        assert next(bob.watch(out=mail.out, command="sh -c 'kill -9 $$'")).outcome.exit_code == 137
        owe(mail, bob, sent)
        bob._state.handovers.begin(BOB, sent.digest)
    log = mail.folder / "attempts"
    script = f"sh -c 'echo $DOCKERCOMMS_MSG_ATTEMPT >>{log}'"
    (watched,) = watch(mail, command=script)
    assert (watched.status, log.read_text()) == ("accepted", "2\n")
    assert watch(mail, command=script) == []
    assert {status for status, _ in answers(mail)} == {"rejected", "accepted"}


def test_watch_delivers_again_what_is_gone_before_its_command_could_end(mail):
    sent = mail.send()
    (got,) = mail.receive()
    with mail.mailbox(BOB) as bob:
        owe(mail, bob, sent)
    os.unlink(got.files[0])
    (watched,) = watch(mail, command="test -f {dir}/a.txt")
    assert watched.outcome.succeeded
    assert list(files_below(mail.out).values()) == [b"hello"]


def test_watch_runs_what_is_owed_although_the_message_is_gone_from_the_registry(mail):
    sent = mail.send()
    mail.receive()
    with mail.mailbox(BOB) as bob:
        owe(mail, bob, sent)
    mail.reader.delete_manifest(REPOSITORY, sent.digest)
    (watched,) = watch(mail, command="test -f {dir}/a.txt")
    assert watched.outcome.succeeded
    assert answers(mail) == [("accepted", "")]


def test_watch_gives_up_what_is_gone_here_and_there(mail):
    sent = mail.send()
    (got,) = mail.receive()
    with mail.mailbox(BOB) as bob:
        owe(mail, bob, sent)
    os.unlink(got.files[0])
    mail.reader.delete_manifest(REPOSITORY, sent.digest)
    (watched,) = watch(mail, looks=3, command="true")
    assert (watched.received.status, watched.outcome) == ("failed", None)
    assert watch(mail, command="true") == []


def test_watch_leaves_to_another_watch_what_that_has_in_hand(mail):
    sent = mail.send()
    mail.receive()
    with mail.mailbox(BOB) as bob:
        owe(mail, bob, sent)
        key = delivery_key(BOB, sent.digest)
        with try_lock(bob._state.path.parent / "handovers" / f"{key}.lock"):
            assert watch(mail, command="true") == []
        assert len(watch(mail, command="true")) == 1


def test_watch_says_nothing_of_a_message_that_another_process_is_receiving(mail):
    sent = mail.send()
    with mail.mailbox(BOB) as bob:
        key = delivery_key(BOB, sent.digest)
        with leftovers_of(bob._state, mail.clock).claim(key) as ours:
            assert ours
            assert watch(mail, command="true") == []
    assert len(watch(mail, command="true")) == 1


def test_watch_leaves_what_is_being_delivered_once_more(mail):
    sent = mail.send()
    mail.receive()
    with mail.mailbox(BOB) as bob:
        owe(mail, bob, sent)
        known = bob._state.inbox.delivery(BOB, sent.digest)
        bob._state.inbox.begin_delivery(
            BOB, sent.digest, repo=bob.repo, message_id=sent.id, sender=ALICE, path=known.path,
            payload_digest=known.payload_digest, expires=None,
        )  # fmt: skip
        before = len(bob._state.handovers.owed(BOB, bob.repo))
        assert watch(mail, command="true", once=True)[0].outcome.succeeded  # settled, then run
    assert before == 1


def test_watch_that_is_stopped_runs_nothing_more_that_is_owed(mail):
    sents = [mail.send(mail.file(name)) for name in "ab"]
    mail.receive()
    stop = AfterWaits(mail.clock)
    with mail.mailbox(BOB) as bob:
        for sent in sents:
            owe(mail, bob, sent)
        watching = bob.watch(out=mail.out, stop=stop, command="true")
        assert next(watching).outcome.succeeded
        stop.set()
        assert list(watching) == []
        assert len(bob._state.handovers.owed(BOB, bob.repo)) == 1


def test_watch_waits_with_nobody_to_tell(mail):
    def before(_name, _said):
        raise TooManyRequests("slow down", retry_after_seconds=900)

    stop = AfterWaits(mail.clock, 2)
    mail.registry.before = before
    watcher = Watcher(
        rounds=lambda: before("", ()), clock=mail.clock, stop=stop, options=WatchOptions()
    )
    assert list(watcher.run()) == []
    assert stop.waits == [900, 900]


def test_watch_hands_nothing_over_that_another_watch_has_done_since(mail):
    sent = mail.send()
    with mail.mailbox(BOB) as bob:
        watching = bob.watch(out=mail.out, command="true", stop=AfterWaits(mail.clock))
        round_of = bob._round

        def settled(options):
            run = round_of(options)
            receive = run.receive

            class Raced:
                boxes, state, signer = run.boxes, run.state, run.signer
                last_poll = None

                def receive(self, **asked):
                    for received in receive(**asked):
                        run.state.handovers.settle(BOB, sent.digest)
                        yield received

            return Raced()

        bob._round = settled
        assert list(watching) == []


def test_watch_whose_receipt_cannot_be_published_says_so_and_publishes_it_later(mail):
    mail.send()
    refused = [True]

    def before(name, said):
        if name == "push_manifest" and refused:
            raise RegistryError("read only", status=405)

    mail.registry.before = before
    (watched,) = watch(mail, command="true", looks=2, between=lambda _: refused.clear())
    assert "read only" in str(watched.received.error)
    assert answers(mail) == [("accepted", "")]


# --- how long to wait ----------------------------------------------------------------------------


def test_pace_starts_anywhere_within_the_interval_and_jitters_after_that():
    for fraction, first, second in ((0.0, 0.0, 24.0), (0.5, 15.0, 30.0), (1.0, 30.0, 36.0)):
        pace = Pace(30, FakeClock(fraction=fraction))
        assert (pace.after(found=False), pace.after(found=True)) == (first, pytest.approx(second))


def test_pace_of_an_idle_inbox_slows_down_to_four_times_the_interval():
    pace = Pace(30, FakeClock())
    waits = [pace.after(found=False) for _ in range(40)][1:]
    assert waits[: IDLE_LOOKS - 1] == [30] * (IDLE_LOOKS - 1)
    assert waits == sorted(waits)
    assert waits[-1] == 30 * MAX_IDLE_FACTOR
    assert pace.after(found=True) == 30


def test_pace_of_failures_doubles_and_grants_what_the_registry_asks_for():
    pace = Pace(30, FakeClock())
    waits = [pace.after_failure(NetworkError("x")) for _ in range(8)]
    assert waits[:4] == [60, 120, 240, 480]
    assert waits[-1] == MAX_FAILURE_WAIT_SECONDS
    assert pace.after_failure(TooManyRequests("x", retry_after_seconds=900)) == 900
    asked = TooManyRequests("x", retry_after_seconds=10.0**9)
    assert pace.after_failure(asked) == MAX_ASKED_WAIT_SECONDS
    assert pace.after(found=False) == 30
    assert pace.after_failure(TooManyRequests("x", retry_after_seconds=1)) == 60


def test_pace_never_waits_less_than_a_long_interval():
    day = timedelta(days=1).total_seconds()
    assert Pace(day, FakeClock()).after_failure(NetworkError("x")) == day


def test_what_may_pass():
    assert may_pass(NetworkError("x"))
    assert may_pass(TooManyRequests("x"))
    assert may_pass(RegistryError("x", status=502))
    assert not may_pass(RegistryError("x", status=404))
    assert not may_pass(Denied("x", status=503))
    assert not may_pass(NetworkError("x", retryable=False))
    assert not may_pass(LocalIOError("x"))


# --- for a long time -----------------------------------------------------------------------------


def test_watch_keeps_neither_messages_nor_descriptors(mail):
    """The watch holds as many objects after eight messages as after two."""
    kept, handles = [], []

    def between(wait):
        if wait in (3, 9):
            gc.collect()
            kept.append(sum(isinstance(one, Message) for one in gc.get_objects()))
            handles.append(len(os.listdir("/proc/self/fd")))
        mail.send(mail.file(data=f"{wait}".encode()))

    watched = watch(mail, looks=10, between=between, command="true")
    assert len(watched) == 9
    assert kept[0] == kept[1]
    assert handles[0] == handles[1]
