from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from dockercomms.errors import Denied
from dockercomms.protocol.tags import bell_tag, parse_tag, recipient_tag
from dockercomms.state.progress import Capabilities
from tests.fakes.clock import FakeClock
from tests.fakes.mail import BOB, REPO, Mail, open_mail

RT = recipient_tag(BOB)


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


def test_send_asks_for_the_time_before_it_believes_its_own(tmp_path):
    mail = Mail(tmp_path)
    mail.send()
    answered = []
    mail.registry.after = lambda name, said: answered.append(name)
    mail.registry.time = lambda: mail.clock.now() if answered else None
    mail.registry.calls.clear()

    mail.publisher().hear_clock(RT)
    mail.publisher().hear_clock(RT)

    assert mail.registry.methods() == ["resolve_tag"]
    mail.close()


def test_publisher_draws_the_time_again_after_midnight(tmp_path):
    clock = FakeClock(datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC))
    mail = Mail(tmp_path, clock=clock)
    publisher = mail.publisher()
    publisher.ensure_config()
    mail.registry.after = lambda name, said: name == "push_manifest" and clock.advance(1)

    drawn = publisher.draw_time(RT)

    assert drawn.date() == date(2026, 11, 21)
    assert len([tag for tag in mail.tags() if parse_tag(tag).kind == "anchor"]) == 2
    mail.close()


def test_publisher_asks_for_the_referrers_api_once_a_day(mail):
    publisher = mail.publisher()
    mail.alice.progress.set_capabilities(REPO, Capabilities(seek=True, probed_at=mail.clock.now()))

    assert publisher.has_referrers()
    assert publisher.has_referrers()
    assert mail.alice.progress.capabilities(REPO).seek is True
    mail.clock.advance(24 * 3600)
    assert publisher.has_referrers()

    assert mail.registry.methods() == ["referrers_supported"] * 2
    assert mail.alice.progress.capabilities(REPO).seek is None


# --- what a repository can do is asked again after a day -----------------------------------------


def test_bell_that_may_not_be_moved_is_tried_again_after_a_day(mail):
    rung = []

    def counted(name, said):
        if name == "push_manifest" and (bell_tag(RT),) in said:
            rung.append(said)
            raise Denied("immutable", status=403)

    mail.registry.before = counted
    publisher = mail.publisher()
    for hours in (0, 1, 22, 2, 1):
        mail.clock.advance(hours * 3600)
        publisher.ring_bell(RT, b"{}")
    assert len(rung) == 2
    assert [notice.kind for notice in mail.notices] == ["no-bell", "no-bell"]


def test_clock_that_was_set_back_makes_nothing_believed_for_ever(mail):
    state = mail.alice.progress
    state.set_capabilities(REPO, Capabilities(referrers=True, probed_at=mail.clock.now()))
    assert state.capabilities(REPO).believed(mail.clock.now()).referrers is True
    earlier = mail.clock.now() - timedelta(seconds=1)
    assert state.capabilities(REPO).believed(earlier) == Capabilities(probed_at=earlier)
