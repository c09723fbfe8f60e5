# ruff: noqa: PLC0414 - the facade of `journal`, `pushing` and `pulling`
"""A payload pushed as layers, and pulled from them: the two inverses, and what they share.

Source: SPEC.md sections 4, 6 and 8.
"""

from __future__ import annotations

from dockercomms.transport.journal import DEFAULT_CONCURRENCY as DEFAULT_CONCURRENCY
from dockercomms.transport.journal import Journal as Journal
from dockercomms.transport.journal import NullJournal as NullJournal
from dockercomms.transport.journal import Progress as Progress
from dockercomms.transport.journal import ProgressEvent as ProgressEvent
from dockercomms.transport.journal import PullJournal as PullJournal
from dockercomms.transport.pulling import pull_payload as pull_payload
from dockercomms.transport.pushing import Compress as Compress
from dockercomms.transport.pushing import Pushed as Pushed
from dockercomms.transport.pushing import confirm_blobs as confirm_blobs
from dockercomms.transport.pushing import push_payload as push_payload
