"""The rows of the trust policy: results of signature checks, and bundles already tried.

Deliveries of verified messages are stored by (recipient, signer, message id), to detect a signer
who uses an id for two messages.

Source: SPEC.md sections 7 and 8.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database
from dockercomms.state.deliveries import KEEP_AFTER_EXPIRY

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS policies (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        PRIMARY KEY (me, repo)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS judgements (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        digest TEXT NOT NULL,
        status TEXT NOT NULL,
        signer TEXT,
        PRIMARY KEY (me, repo, digest)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS bundle_marks (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        digest TEXT NOT NULL,
        source TEXT NOT NULL,
        mark TEXT NOT NULL,
        PRIMARY KEY (me, repo, digest, source)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS signed_ids (
        me TEXT NOT NULL,
        signer TEXT NOT NULL,
        message_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        expires REAL,
        delivered REAL NOT NULL,
        PRIMARY KEY (me, signer, message_id)
    ) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """The last result of the check of a message's signature."""

    status: str
    signer: str | None = None
    """The verified name; `None` if the signer is not verified."""


class TrustRows:
    """The tables above. Each method is one transaction, on disk when it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- the policy ------------------------------------------------------------------------------

    def policy(self, me: str, repo: str) -> str | None:
        """Return the fingerprint of the policy that judged the rows, `None` before the first."""
        row = self._database.row(
            "SELECT fingerprint FROM policies WHERE me = ? AND repo = ?", (me, repo)
        )
        return None if row is None else str(row["fingerprint"])

    def set_policy(self, me: str, repo: str, fingerprint: str) -> None:
        """Record the policy that judges rows from now on, and delete the results of another one."""
        with self._database.transaction():
            self._database.execute("DELETE FROM judgements WHERE me = ? AND repo = ?", (me, repo))
            self._database.execute("DELETE FROM bundle_marks WHERE me = ? AND repo = ?", (me, repo))
            self._database.execute(
                "INSERT OR REPLACE INTO policies VALUES (?, ?, ?)", (me, repo, fingerprint)
            )

    # --- judgements ------------------------------------------------------------------------------

    def judged(self, me: str, repo: str) -> dict[Digest, JudgedRow]:
        """Return the results for the messages of an inbox, by their digests."""
        rows = self._database.rows(
            "SELECT digest, status, signer FROM judgements WHERE me = ? AND repo = ?", (me, repo)
        )
        return {Digest(row["digest"]): JudgedRow(row["status"], row["signer"]) for row in rows}

    def judgement(self, me: str, repo: str, digest: Digest) -> JudgedRow | None:
        """Return the result for one message, `None` if it was never checked."""
        sql = "SELECT status, signer FROM judgements WHERE me = ? AND repo = ? AND digest = ?"
        return self._database.row_as(JudgedRow, sql, (me, repo, digest))

    def set_judgement(self, me: str, repo: str, digest: Digest, judged: JudgedRow) -> None:
        """Store the result for a message; write only a new one."""
        if self.judgement(me, repo, digest) == judged:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?)",
            (me, repo, digest, judged.status, judged.signer),
        )

    # --- bundles already tried -------------------------------------------------------------------

    def mark(self, me: str, repo: str, digest: Digest, source: str) -> str:
        """Return the mark of the last bundle of `source` that was tried; "" is the start."""
        row = self._database.row(
            "SELECT mark FROM bundle_marks WHERE me = ? AND repo = ? AND digest = ? AND source = ?",
            (me, repo, digest, source),
        )
        return "" if row is None else str(row["mark"])

    def set_mark(self, me: str, repo: str, digest: Digest, source: str, mark: str) -> None:
        """Store the mark of the last bundle of `source` that was tried; write only a new one."""
        if self.mark(me, repo, digest, source) == mark:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO bundle_marks VALUES (?, ?, ?, ?, ?)",
            (me, repo, digest, source, mark),
        )

    # --- ids that signers used -------------------------------------------------------------------

    def signed(self, me: str, signer: str, message_id: str) -> Digest | None:
        """Return the digest of the delivered message of `signer` with this id, if any."""
        row = self._database.row(
            "SELECT digest FROM signed_ids WHERE me = ? AND signer = ? AND message_id = ?",
            (me, signer, message_id),
        )
        return None if row is None else Digest(row["digest"])

    def record_signed(
        self,
        me: str,
        signer: str,
        message_id: str,
        digest: Digest,
        *,
        expires: datetime | None,
        at: datetime,
    ) -> None:
        """Record that a verified message was delivered; the first one under an id stays."""
        self._database.execute(
            "INSERT OR IGNORE INTO signed_ids VALUES (?, ?, ?, ?, ?, ?)",
            (me, signer, message_id, digest, expires, at),
        )

    def sweep(self, me: str, repo: str, *, now: datetime) -> None:
        """Delete results without a candidate, and ids older than deliveries are kept.

        Call it after rows of candidates were deleted.
        """
        with self._database.transaction():
            for table in ("judgements", "bundle_marks"):
                self._database.execute(
                    f"""DELETE FROM {table} WHERE me = ? AND repo = ? AND NOT EXISTS
                        (SELECT 1 FROM candidates AS c WHERE c.me = {table}.me
                         AND c.repo = {table}.repo AND c.digest = {table}.digest)""",  # noqa: S608 - constants
                    (me, repo),
                )
            self._database.execute(
                "DELETE FROM signed_ids WHERE expires < ? AND delivered < ?",
                (now - KEEP_AFTER_EXPIRY, now - timedelta(seconds=KEEP_DELIVERED_SECONDS)),
            )
