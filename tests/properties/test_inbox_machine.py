"""Runs of the inbox beside its model: short ones, and long ones where there is the time for them."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from tests.fakes.examples import TIMES, examples
from tests.properties.inbox_machine import InboxMachine

TestInbox = InboxMachine.TestCase
TestInbox.settings = settings(
    max_examples=examples(5),
    stateful_step_count=20 if TIMES == 1 else 40,
    database=None,
    phases=[Phase.generate],  # shrinking takes five minutes, and the whole run is printed anyhow
    suppress_health_check=list(HealthCheck),
)
