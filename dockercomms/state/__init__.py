"""What this machine remembers: one SQLite file, one module of rows for each part.

Each module of rows exports `SCHEMA`, the statements that make its tables, and a class over the
`Database`; `State` puts them together.
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
    """Everything that is remembered, behind one file that is opened when it is first needed.

    Safe for several threads and several processes at once. Every access may raise `LocalIOError`
    (see `Database`).

    Args:
        path: The file; None: that of `default_path`, which is asked for when it is first needed.
        busy_timeout_seconds: How long another process's transaction is waited for.
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
        """The file."""
        return self._database.path

    def look(self, work: Callable[[], T], *, tell: Callable[[DockerCommsError], None]) -> T:
        """Return what `work` returns, which only looks: see `Database.look`."""
        return self._database.look(work, tell=tell)

    def close(self) -> None:
        """Close the file; may be called again."""
        self._database.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def default_path(environ: Mapping[str, str]) -> Path:
    """Return where the state is kept unless said otherwise.

    Raises:
        NoHomeError: as `platforms.base_folder`.
    """
    return base_folder("XDG_STATE_HOME", environ) / "dockercomms" / "state.db"
