"""What the trust policy made of messages: who signed what, and how far their bundles were tried.

Deliveries of verified messages are kept by (recipient, signer, message id), so that a signer who
uses an id twice for two messages is found out. Source: SPEC.md sections 7 and 8.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import KEEP_DELIVERED_SECONDS
from dockercomms.state.database import Database, to_unix
from dockercomms.state.deliveries import KEEP_AFTER_EXPIRY, storable

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
    """What checking a message's signature gave last."""

    status: str
    signer: str | None = None
    """The verified name; None where nobody is proven."""


class TrustRows:
    """The tables above. Each method is one transaction, on disk when it returns.

    Every method may raise `LocalIOError` (see `Database`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- the policy ------------------------------------------------------------------------------

    def policy(self, me: str, repo: str) -> str | None:
        """Return the fingerprint of the policy that rows were judged by, None before the first."""
        row = self._database.row(
            "SELECT fingerprint FROM policies WHERE me = ? AND repo = ?", (me, repo)
        )
        return None if row is None else str(row["fingerprint"])

    def set_policy(self, me: str, repo: str, fingerprint: str) -> None:
        """Note which policy rows are judged by from now on, and forget what another one made."""
        with self._database.transaction() as connection:
            for table in ("judgements", "bundle_marks"):
                connection.execute(f"DELETE FROM {table} WHERE me = ? AND repo = ?", (me, repo))  # noqa: S608 - constants
            connection.execute(
                "INSERT OR REPLACE INTO policies VALUES (?, ?, ?)", (me, repo, fingerprint)
            )

    # --- judgements ------------------------------------------------------------------------------

    def judged(self, me: str, repo: str) -> dict[Digest, JudgedRow]:
        """Return what was made of the messages of an inbox, by their digests."""
        rows = self._database.rows(
            "SELECT digest, status, signer FROM judgements WHERE me = ? AND repo = ?", (me, repo)
        )
        return {Digest(row["digest"]): JudgedRow(row["status"], row["signer"]) for row in rows}

    def judgement(self, me: str, repo: str, digest: Digest) -> JudgedRow | None:
        """Return what was made of one message, None if nobody asked yet."""
        row = self._database.row(
            "SELECT status, signer FROM judgements WHERE me = ? AND repo = ? AND digest = ?",
            (me, repo, digest),
        )
        return None if row is None else JudgedRow(row["status"], row["signer"])

    def set_judgement(self, me: str, repo: str, digest: Digest, judged: JudgedRow) -> None:
        """Keep what was made of a message; writes only what is new."""
        if self.judgement(me, repo, digest) == judged:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?)",
            (
                me,
                repo,
                digest,
                judged.status,
                None if judged.signer is None else storable(judged.signer),
            ),
        )

    # --- how far bundles were tried --------------------------------------------------------------

    def mark(self, me: str, repo: str, digest: Digest, source: str) -> str:
        """Return behind which bundle of `source` the next look goes on; "" is the start."""
        row = self._database.row(
            "SELECT mark FROM bundle_marks WHERE me = ? AND repo = ? AND digest = ? AND source = ?",
            (me, repo, digest, source),
        )
        return "" if row is None else str(row["mark"])

    def set_mark(self, me: str, repo: str, digest: Digest, source: str, mark: str) -> None:
        """Keep how far the bundles of `source` were tried; writes only what is new."""
        if self.mark(me, repo, digest, source) == mark:
            return
        self._database.execute(
            "INSERT OR REPLACE INTO bundle_marks VALUES (?, ?, ?, ?, ?)",
            (me, repo, digest, source, mark),
        )

    # --- ids that signers used -------------------------------------------------------------------

    def signed(self, me: str, signer: str, message_id: str) -> Digest | None:
        """Return which message of `signer` with this id was delivered, None if none was."""
        row = self._database.row(
            "SELECT digest FROM signed_ids WHERE me = ? AND signer = ? AND message_id = ?",
            (me, storable(signer), storable(message_id)),
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
        """Note that a verified message was delivered; the first one under an id stays."""
        self._database.execute(
            "INSERT OR IGNORE INTO signed_ids VALUES (?, ?, ?, ?, ?, ?)",
            (me, storable(signer), storable(message_id), digest, to_unix(expires), to_unix(at)),
        )

    def sweep(self, me: str, repo: str, *, now: datetime) -> None:
        """Forget what no candidate stands for any more, and ids as long as deliveries are kept.

        To be called after rows of candidates were swept.
        """
        with self._database.transaction() as connection:
            for table in ("judgements", "bundle_marks"):
                connection.execute(
                    f"""DELETE FROM {table} WHERE me = ? AND repo = ? AND NOT EXISTS
                        (SELECT 1 FROM candidates AS c WHERE c.me = {table}.me
                         AND c.repo = {table}.repo AND c.digest = {table}.digest)""",  # noqa: S608 - constants
                    (me, repo),
                )
            connection.execute(
                "DELETE FROM signed_ids WHERE expires < ? AND delivered < ?",
                (
                    to_unix(now - KEEP_AFTER_EXPIRY),
                    to_unix(now - timedelta(seconds=KEEP_DELIVERED_SECONDS)),
                ),
            )
