"""Tags: what the vectors do not say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dockercomms.oci.model import Digest
from dockercomms.protocol.tags import bell_tag, message_tag, parse_tag, receipts_tag, recipient_tag

RT = recipient_tag("bob")
DIGEST = Digest("sha256:" + "ab" * 32)


@pytest.mark.parametrize("hour", [0, 11, 23])
def test_message_tag_gives_back_its_moment(hour):
    moment = datetime(2026, 11, 20, hour, 59, 59, 999000, UTC)
    said = parse_tag(message_tag(RT, moment, DIGEST))
    assert said is not None
    assert said.published == moment
    assert said.head == "ab" * 8


def test_message_tag_is_of_the_day_in_utc():
    moment = datetime(2026, 11, 21, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert message_tag(RT, moment, DIGEST).startswith(f"inbox-{RT}-20261120-")


def test_message_tags_sort_by_time():
    start = datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)
    moments = [start + timedelta(milliseconds=700 * number) for number in range(5)]
    tags = [message_tag(RT, moment, DIGEST) for moment in moments]
    assert tags == sorted(tags)


def test_receipts_tag_gives_back_its_rid():
    said = parse_tag(receipts_tag(RT, datetime(2026, 1, 1, tzinfo=UTC), "0123456789abcdef"))
    assert said is not None
    assert (said.kind, said.head) == ("receipts", "0123456789abcdef")


def test_bell_says_no_moment():
    said = parse_tag(bell_tag(RT))
    assert said is not None
    assert said.published is None


def test_recipient_tag_of_a_name_that_is_no_unicode_is_still_a_tag():
    assert len(recipient_tag("\udcff")) == 26
