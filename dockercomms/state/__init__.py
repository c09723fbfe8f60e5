"""The state of this machine: one SQLite file, one module for each group of tables.

Each of these modules exports `SCHEMA`, the statements that create its tables, and a class over the
`Database` whose methods may raise `LocalIOError`. `State` puts them together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from dockercomms.errors import DockerCommsError
from dockercomms.platforms.files import base_folder
from dockercomms.state import (
    clock,
    defects,
    deliveries,
    inbox,
    outbox,
    progress,
    receipts,
    send_runs,
    sends,
    streams,
    trust,
)
from dockercomms.state.database import BUSY_TIMEOUT_SECONDS, Database

__all__ = ["State", "default_path"]

T = TypeVar("T")


class State(AbstractContextManager["State"]):
    """The state of this machine in one file, which is opened at the first use.

    Safe for several threads and several processes at once. Every access may raise `LocalIOError`
    (see `Database`).

    Args:
        path: The file; `None`: `default_path`, which is computed at the first use.
        busy_timeout_seconds: How long to wait for another process's transaction.
    """

    def __init__(
        self, path: Path | None = None, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> None:
        self._database = Database(
            (lambda: default_path(os.environ)) if path is None else path,
            schema=(
                *progress.SCHEMA,
                *inbox.SCHEMA,
                *deliveries.SCHEMA,
                *deliveries.HANDOVER_SCHEMA,
                *sends.SCHEMA,
                *send_runs.SCHEMA,
                *outbox.SCHEMA,
                *deliveries.PULL_SCHEMA,
                *receipts.SCHEMA,
                *trust.SCHEMA,
                *defects.SCHEMA,
                *streams.SCHEMA,
                *clock.SCHEMA,
            ),
            migrations=inbox.MIGRATIONS,
            busy_timeout_seconds=busy_timeout_seconds,
        )
        self.clocks = clock.ClockRows(self._database)
        self.progress = progress.ProgressRows(self._database)
        self.inbox = inbox.InboxRows(self._database)
        self.handovers = deliveries.HandoverRows(self._database)
        self.outbox = outbox.OutboxRows(self._database)
        self.pulls = deliveries.PullRows(self._database)
        self.sends = sends.Sends(self._database)
        self.send_runs = send_runs.SendRuns(self._database)
        self.receipts = receipts.ReceiptRows(self._database)
        self.trust = trust.TrustRows(self._database)
        self.defects = defects.DefectRows(self._database)
        self.streams = streams.StreamRows(self._database)

    @property
    def path(self) -> Path:
        """Return the file."""
        return self._database.path

    def look(self, work: Callable[[], T], *, tell: Callable[[DockerCommsError], None]) -> T:
        """Return the result of `work`, which only reads: see `Database.look`."""
        return self._database.look(work, tell=tell)

    def close(self) -> None:
        """Close the file. A second call has no effect."""
        self._database.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def default_path(environ: Mapping[str, str]) -> Path:
    """Return the path of the state file where the caller gives none.

    Raises:
        NoHomeError: as `platforms.files.base_folder`.
    """
    return base_folder("XDG_STATE_HOME", environ) / "dockercomms" / "state.db"
