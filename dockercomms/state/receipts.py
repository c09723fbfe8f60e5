"""The rows of receipts: those that this machine writes, and those found for sent messages.

A receipt's bytes are stored before they are published, so that a retry sends the same bytes.

Source: SPEC.md section 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from datetime import date, datetime

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.tags import ReceiptStatus
from dockercomms.state.database import Database
from dockercomms.state.values import from_unix

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS receipts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        repo TEXT NOT NULL,
        me TEXT NOT NULL,
        message TEXT NOT NULL,
        sender_tag TEXT NOT NULL,
        rid TEXT NOT NULL,
        status TEXT NOT NULL,
        reason TEXT NOT NULL,
        manifest BLOB NOT NULL,
        digest TEXT NOT NULL,
        to_sign INTEGER NOT NULL DEFAULT 0,
        bundle BLOB,
        published REAL,
        tries INTEGER NOT NULL DEFAULT 0,
        next_try REAL
    )""",
    "CREATE INDEX IF NOT EXISTS receipts_message ON receipts (repo, me, message)",
    "CREATE INDEX IF NOT EXISTS receipts_digest ON receipts (digest)",
    "CREATE INDEX IF NOT EXISTS receipts_pending ON receipts (repo, me, published)",
    """CREATE TABLE IF NOT EXISTS found_receipts (
        repo TEXT NOT NULL,
        me TEXT NOT NULL,
        tag TEXT NOT NULL,
        manifest BLOB NOT NULL,
        PRIMARY KEY (repo, me, tag)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS receipt_passes (
        repo TEXT NOT NULL,
        me TEXT NOT NULL,
        day TEXT,
        full_pass_at REAL,
        PRIMARY KEY (repo, me)
    ) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRow:
    """A receipt that this machine writes."""

    repo: str
    me: str
    """The message's recipient."""
    message: Digest
    sender_tag: str
    """The recipient tag of the message's sender, who gets the receipt."""
    rid: str
    status: ReceiptStatus
    reason: str
    manifest: bytes = field(repr=False)
    digest: Digest
    to_sign: bool = False
    """The receipt must be signed before it is published, which changes manifest and digest."""
    bundle: bytes | None = field(default=None, repr=False)
    """The signature in its layer, until it is published."""
    number: int = 0
    """Counts up with every stored receipt."""
    published: datetime | None = None
    tries: int = 0
    next_try: datetime | None = None
    """When it may be tried again; `None`: at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptsProgress:
    """The progress of the search for receipts in bulk."""

    day: date | None = None
    """The registry's day at the last complete pass."""
    full_pass_at: datetime | None = None
    """The end of the last complete pass over all receipts."""


@dataclass(frozen=True, slots=True)
class ReceiptRows:
    """The tables above. Each method is one transaction, on disk when it returns."""

    database: Database

    # --- written receipts ------------------------------------------------------------------------

    def store(self, row: ReceiptRow) -> ReceiptRow:
        """Store a receipt before its publication; return it with its number."""
        with self.database.transaction():
            (stored,) = self.database.rows_as(
                ReceiptRow,
                """INSERT INTO receipts
                    (repo, me, message, sender_tag, rid, status, reason, manifest, digest, to_sign)
                    VALUES (:repo, :me, :message, :sender_tag, :rid, :status, :reason, :manifest,
                        :digest, :to_sign) RETURNING *""",
                asdict(row),
            )
        return stored

    def record_final(self, row: ReceiptRow) -> ReceiptRow:
        """Store the final bytes of a receipt, signed or not; they never change again.

        Returns the stored row: that of another process if it stored its bytes first.
        """
        with self.database.transaction():
            self.database.execute(
                """UPDATE receipts SET to_sign = 0, manifest = ?, digest = ?, bundle = ?
                    WHERE number = ? AND to_sign""",
                (row.manifest, row.digest, row.bundle, row.number),
            )
            sql = "SELECT * FROM receipts WHERE number = ?"
            return self.database.rows_as(ReceiptRow, sql, (row.number,))[0]

    def has_written(self, digest: Digest) -> bool:
        """Return whether this machine wrote the receipt with `digest`, in any repository."""
        return self.database.row("SELECT 1 FROM receipts WHERE digest = ?", (digest,)) is not None

    def last(self, repo: str, me: str, message: Digest) -> ReceiptRow | None:
        """Return the last receipt for a message."""
        return self.database.row_as(
            ReceiptRow,
            """SELECT * FROM receipts WHERE repo = ? AND me = ? AND message = ?
                ORDER BY number DESC LIMIT 1""",
            (repo, me, message),
        )

    def pending(self, repo: str, me: str, *, now: datetime) -> tuple[ReceiptRow, ...]:
        """Return the unpublished receipts that may be tried now, oldest first."""
        return self.database.rows_as(
            ReceiptRow,
            """SELECT * FROM receipts WHERE repo = ? AND me = ? AND published IS NULL
                AND (next_try IS NULL OR next_try <= ?) ORDER BY number""",
            (repo, me, now),
        )

    def record_published(self, number: int, *, now: datetime) -> None:
        """Record that a receipt is published."""
        self.database.execute(
            "UPDATE receipts SET published = ?, bundle = NULL WHERE number = ?", (now, number)
        )

    def record_failed(self, number: int, *, next_try: datetime | None, counts: bool = True) -> None:
        """Record that publishing a receipt failed, and when it may be tried again.

        Args:
            number: The receipt.
            next_try: When; `None`: by the next run.
            counts: Make the next wait longer.
        """
        self.database.execute(
            "UPDATE receipts SET tries = tries + ?, next_try = ? WHERE number = ?",
            (counts, next_try, number),
        )

    def next_try(self, number: int) -> datetime | None:
        """Return when a waiting receipt may be tried again; `None`: by the next run."""
        row = self.database.row("SELECT next_try FROM receipts WHERE number = ?", (number,))
        return None if row is None else from_unix(row["next_try"])

    # --- those for sent messages ----------------------------------------------------------------

    def progress(self, repo: str, me: str) -> ReceiptsProgress:
        """Return the progress of the search in bulk."""
        sql = "SELECT * FROM receipt_passes WHERE repo = ? AND me = ?"
        return self.database.row_as(ReceiptsProgress, sql, (repo, me)) or ReceiptsProgress()

    def set_progress(self, repo: str, me: str, progress: ReceiptsProgress) -> None:
        """Replace the progress of the search in bulk; call it after `add_found`, never before."""
        self.database.execute(
            "INSERT OR REPLACE INTO receipt_passes VALUES (?, ?, ?, ?)",
            (repo, me, progress.day, progress.full_pass_at),
        )

    def known_tags(self, repo: str, me: str) -> frozenset[str]:
        """Return the tags of the stored receipts."""
        rows = self.database.rows(
            "SELECT tag FROM found_receipts WHERE repo = ? AND me = ?", (repo, me)
        )
        return frozenset(row["tag"] for row in rows)

    def add_found(self, repo: str, me: str, found: Mapping[str, bytes]) -> None:
        """Store the manifests found under tags."""
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO found_receipts VALUES (?, ?, ?, ?)",
                [(repo, me, tag, manifest) for tag, manifest in found.items()],
            )

    def drop_found(self, repo: str, me: str, tags: Iterable[str]) -> None:
        """Delete tags that the registry no longer has."""
        with self.database.transaction() as connection:
            connection.executemany(
                "DELETE FROM found_receipts WHERE repo = ? AND me = ? AND tag = ?",
                [(repo, me, tag) for tag in tags],
            )

    def found(self, repo: str, me: str) -> tuple[bytes, ...]:
        """Return the manifests found, by tag."""
        rows = self.database.rows(
            "SELECT manifest FROM found_receipts WHERE repo = ? AND me = ? ORDER BY tag",
            (repo, me),
        )
        return tuple(row["manifest"] for row in rows)
