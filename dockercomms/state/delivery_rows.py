"""The rows of deliveries: what reached this machine, from whatever repository.

Keyed by recipient and manifest digest alone, so that a message copied to another repository is not
delivered again. Source: SPEC.md sections 7 and 8.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from dockercomms.oci.model import Digest
from dockercomms.protocol import KEEP_DELIVERED_SECONDS
from dockercomms.records import dataclass
from dockercomms.state.database import Database, from_unix, to_unix

KEEP_AFTER_EXPIRY = timedelta(days=1)
"""How long a delivery is remembered, at least, after the message has expired."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS deliveries (
        me TEXT NOT NULL,
        digest TEXT NOT NULL,
        head TEXT NOT NULL,
        state TEXT NOT NULL,
        repo TEXT NOT NULL,
        message_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        path BLOB,
        payload_digest TEXT,
        expires REAL,
        delivered_at REAL,
        PRIMARY KEY (me, digest)
    )""",
    "CREATE INDEX IF NOT EXISTS deliveries_head ON deliveries (me, head)",
)
"""The table of (me, verified signer, message id) is in `trust_rows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that is on its way to disk, or there."""

    me: str
    digest: Digest
    state: Literal["delivering", "delivered"]
    repo: str
    message_id: str
    sender: str
    path: Path | None
    """Where it goes; None for a stream."""
    payload_digest: Digest | None
    expires: datetime | None
    """When it may be forgotten, but for the times above; None: never."""
    delivered_at: datetime | None
    """When it was first delivered, also while it is delivered once more."""


class DeliveryRows:
    """The table above. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def batch(self) -> AbstractContextManager[object]:
        """Return a block whose calls of these methods are one transaction.

        Ask no registry inside: every other process waits for it.
        """
        return self._database.transaction()

    def begin_delivery(
        self,
        me: str,
        digest: Digest,
        *,
        repo: str,
        message_id: str,
        sender: str,
        path: Path | None,
        payload_digest: Digest | None,
        expires: datetime | None,
    ) -> None:
        """Note that the message is about to get its final name `path`."""
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO deliveries VALUES (?, ?, ?, 'delivering', ?, ?, ?, ?, ?, ?, NULL)
                    ON CONFLICT (me, digest) DO UPDATE SET state = 'delivering',
                    repo = excluded.repo, path = excluded.path, expires = excluded.expires,
                    payload_digest = excluded.payload_digest""",
                (
                    me,
                    digest,
                    head_of(digest),
                    repo,
                    storable(message_id),
                    storable(sender),
                    None if path is None else os.fsencode(path),
                    payload_digest,
                    to_unix(expires),
                ),
            )
            _mirror(connection, me, digest, "delivering")

    def finish_delivery(self, me: str, digest: Digest, at: datetime) -> None:
        """Note that the message is delivered; the time of the first delivery stays."""
        with self._database.transaction() as connection:
            connection.execute(
                """UPDATE deliveries SET state = 'delivered',
                    delivered_at = COALESCE(delivered_at, ?) WHERE me = ? AND digest = ?""",
                (to_unix(at), me, digest),
            )
            _mirror(connection, me, digest, "delivered")

    def forget_delivery(self, me: str, digest: Digest) -> None:
        """Note that the delivery under way came to nothing; an earlier one stays delivered."""
        with self._database.transaction() as connection:
            gone = connection.execute(
                "DELETE FROM deliveries WHERE me = ? AND digest = ? AND delivered_at IS NULL",
                (me, digest),
            ).rowcount
            connection.execute(
                "UPDATE deliveries SET state = 'delivered' WHERE me = ? AND digest = ?",
                (me, digest),
            )
            if gone:
                _mirror(connection, me, digest, "new")
            else:
                _mirror(connection, me, digest, "delivered", was="delivering")

    def delivering(self, me: str) -> tuple[Delivery, ...]:
        """Return the deliveries that a run began and did not finish."""
        rows = self._database.rows(
            "SELECT * FROM deliveries WHERE me = ? AND state = 'delivering' ORDER BY digest", (me,)
        )
        return tuple(_delivery(row) for row in rows)

    def delivery(self, me: str, digest: Digest) -> Delivery | None:
        """Return the delivery of a message, None if there was none."""
        row = self._database.row(
            "SELECT * FROM deliveries WHERE me = ? AND digest = ?", (me, digest)
        )
        return None if row is None else _delivery(row)

    def is_taken(self, path: Path, *, but: Digest) -> bool:
        """Return whether another message than `but` was delivered to `path` or below it."""
        raw = os.fsencode(path)
        below = raw + os.fsencode(os.sep)
        row = self._database.row(
            """SELECT 1 FROM deliveries WHERE state = 'delivered' AND digest != ?
                AND (path = ? OR substr(path, 1, ?) = ?) LIMIT 1""",
            (but, raw, len(below), below),
        )
        return row is not None

    def sweep_deliveries(self, *, now: datetime) -> None:
        """Forget deliveries of messages that expired long ago, at the earliest after 90 days."""
        with self._database.transaction() as connection:
            swept = connection.execute(
                """DELETE FROM deliveries
                    WHERE state = 'delivered' AND expires < ? AND delivered_at < ?""",
                (
                    to_unix(now - KEEP_AFTER_EXPIRY),
                    to_unix(now - timedelta(seconds=KEEP_DELIVERED_SECONDS)),
                ),
            ).rowcount
            if swept:
                connection.execute(
                    """DELETE FROM candidates WHERE state = 'delivered' AND NOT EXISTS
                        (SELECT 1 FROM deliveries AS d
                         WHERE d.me = candidates.me AND d.digest = candidates.digest)"""
                )


def head_of(digest: Digest) -> str:
    """Return the first 16 hex digits of a digest, which a message's tag ends in."""
    return digest.partition(":")[2][:16]


def storable(text: str) -> str:
    """Return `text` as SQLite takes it: a lone surrogate, which JSON can carry, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mirror(
    connection: sqlite3.Connection, me: str, digest: Digest, state: str, *, was: str | None = None
) -> None:
    """Give the candidates of `digest`, in every repository, the state of its delivery.

    So the rows that are still to be worked on are found without looking at those that are done.
    """
    connection.execute(
        """UPDATE candidates SET state = ?, reason_kind = '', reason = '', next_try = NULL
            WHERE me = ? AND digest = ? AND state != 'joined' AND state = COALESCE(?, state)""",
        (state, me, digest, was),
    )


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(
        me=row["me"],
        digest=Digest(row["digest"]),
        state=row["state"],
        repo=row["repo"],
        message_id=row["message_id"],
        sender=row["sender"],
        path=None if row["path"] is None else Path(os.fsdecode(row["path"])),
        payload_digest=None if row["payload_digest"] is None else Digest(row["payload_digest"]),
        expires=from_unix(row["expires"]),
        delivered_at=from_unix(row["delivered_at"]),
    )
