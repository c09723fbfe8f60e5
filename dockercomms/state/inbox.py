"""The rows of candidates: the messages that discovery found in a repository, with their states.

A candidate found by a tag is keyed by the whole tag until its manifest has been read. Then it is
joined to the row of the manifest's digest. The states `held` and `refused` belong to one
repository, deliveries to all.

Source: SPEC.md section 7.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Literal

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import LAST_RETRY_SECONDS, MESSAGE_ID
from dockercomms.protocol.tags import MessageRef
from dockercomms.state.deliveries import DeliveryRows, head_of
from dockercomms.state.values import to_unix

EntryState = Literal["new", "delivering", "delivered", "held", "refused", "elsewhere"]

KEEP_UNSEEN = timedelta(days=30)
"""A candidate that no complete pass has seen for this long was deleted from the registry."""

MAX_GROUP_ROWS = 4
"""The number of rows that a run reads of digests that begin alike, or of tags with the same head.
Anybody with push rights can add more of them."""

REFRESH_SEEN = timedelta(hours=12)
"""The age at which `last_seen` is written anew: an idle poll must write no rows."""

SCHEMA = (
    # `state` is one of EntryState, or "joined": a 1.0 tag whose message has a row of its own.
    """CREATE TABLE IF NOT EXISTS candidates (
        me TEXT NOT NULL,
        repo TEXT NOT NULL,
        key TEXT NOT NULL,
        tag TEXT,
        digest TEXT,
        head TEXT,
        legacy INTEGER NOT NULL,
        proven INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL,
        reason_kind TEXT NOT NULL DEFAULT '',
        reason TEXT NOT NULL DEFAULT '',
        tries INTEGER NOT NULL DEFAULT 0,
        next_try REAL,
        reported INTEGER NOT NULL DEFAULT 0,
        header TEXT,
        message_id TEXT,
        expires REAL,
        published REAL,
        first_seen REAL NOT NULL,
        last_seen REAL NOT NULL,
        checked REAL,
        PRIMARY KEY (me, repo, key)
    )""",
    "CREATE INDEX IF NOT EXISTS candidates_state ON candidates (me, repo, state)",
    "CREATE INDEX IF NOT EXISTS candidates_head ON candidates (me, repo, head)",
    "CREATE INDEX IF NOT EXISTS candidates_digest ON candidates (me, digest)",
)

MIGRATIONS = {
    6: (
        """UPDATE candidates SET state = 'new', next_try = NULL, tries = 0
            WHERE state = 'refused' AND reason_kind = 'malformed'""",
    )
}
"""6: before, one wrong answer of a registry could refuse a valid message for good. These rows are
judged anew; a malformed message is refused again."""

_FOUND = """CREATE TEMP TABLE IF NOT EXISTS found
    (digest TEXT, tag TEXT, head TEXT, legacy INTEGER, published REAL)"""

_JOIN_FOUND = """UPDATE temp.found SET digest = COALESCE(
        (SELECT c.digest FROM candidates AS c WHERE c.me = :me AND c.repo = :repo
            AND c.head = found.head AND c.proven AND c.key = c.digest LIMIT 1),
        (SELECT d.digest FROM deliveries AS d WHERE d.me = :me AND d.head = found.head LIMIT 1))
    WHERE digest IS NULL AND head IS NOT NULL"""
"""A tag's d16 stands for a digest only after bytes with that digest were read: an index may name
digests that do not exist, and would hide the tag's message with them."""

_LATER = "NULLIF(MAX(COALESCE(published, 0), COALESCE(excluded.published, 0)), 0)"
"""The latest of several tags counts: a backdated tag hides no message from `since`."""

_ADD_FOUND = f"""INSERT INTO candidates
        (me, repo, key, tag, digest, head, legacy, state, published, first_seen, last_seen)
    SELECT :me, :repo, COALESCE(f.digest, f.tag), f.tag, f.digest, f.head, f.legacy,
        COALESCE((SELECT d.state FROM deliveries AS d
                  WHERE d.me = :me AND d.digest = f.digest), 'new'),
        COALESCE(f.published, (SELECT MAX(c.published) FROM candidates AS c
                               WHERE c.me = :me AND c.repo = :repo AND c.head = f.head)),
        :now, :now
    FROM temp.found AS f WHERE true
    ON CONFLICT (me, repo, key) DO UPDATE SET last_seen = :now,
        tag = COALESCE(tag, excluded.tag), published = {_LATER}
    WHERE last_seen < :now - :fresh OR (tag IS NULL AND excluded.tag IS NOT NULL)
        OR COALESCE(excluded.published, 0) > COALESCE(published, 0)"""  # noqa: S608 - constants

_SET_READ = f"""INSERT INTO candidates
        (me, repo, key, tag, digest, head, legacy, proven, state, header, message_id, expires,
         published, first_seen, last_seen)
    VALUES (:me, :repo, :digest, :tag, :digest, :head, 0, 1,
        COALESCE((SELECT state FROM deliveries WHERE me = :me AND digest = :digest), 'new'),
        :header, :message_id, :expires, :published, :now, :now)
    ON CONFLICT (me, repo, key) DO UPDATE SET proven = 1,
        tag = COALESCE(tag, excluded.tag), published = {_LATER},
        header = COALESCE(excluded.header, header), expires = COALESCE(excluded.expires, expires),
        message_id = COALESCE(excluded.message_id, message_id)"""  # noqa: S608 - constants

_UNREAD = f"""COALESCE(expires > :live, 1) AND (state = 'new' AND header IS NULL
        OR state = 'held' AND (header IS NULL OR reason_kind IN ('future', 'clock'))
            AND reason_kind IN (SELECT value FROM json_each(:kinds))
            AND (next_try <= :now
                OR next_try > :now + {LAST_RETRY_SECONDS} AND reason_kind != 'future'
                OR tries < :eager AND next_try IS NOT NULL
                AND reason_kind NOT IN ('tag', 'future')))"""  # noqa: S608 - a constant
"""The rows that must be fetched; `inbox.read.is_retried` is the same rule for held rows."""

_NEXT_UNREAD = f"""
    WITH message AS (
        SELECT COALESCE(head, key) AS message, MAX(digest IS NOT NULL) AS listed,
            MIN(state = 'held' OR tries > 0) AS again,
            MIN(COALESCE(next_try, first_seen + 60 * tries)) AS waits_since,
            COALESCE(MIN(published), MIN(first_seen)) AS published
        FROM candidates WHERE me = :me AND repo = :repo AND {_UNREAD}
        GROUP BY COALESCE(head, key) HAVING COALESCE(MAX(published) >= :since, 1)),
    queued AS (
        SELECT *, CASE WHEN listed AND NOT again THEN 0
            WHEN substr(message, 1, 12) IN (SELECT head FROM temp.bundled) THEN 1
            ELSE 2 + again END AS queue
        FROM message),
    turn AS (
        SELECT message, queue, again, published, (ROW_NUMBER() OVER (
            PARTITION BY queue ORDER BY waits_since, published, message) - 1)
            / CASE queue WHEN 0 THEN 2 ELSE 1 END AS turn
        FROM queued ORDER BY turn, queue LIMIT :limit)
    SELECT message FROM turn ORDER BY again, published, message"""  # noqa: S608 - constants
"""The order in which candidates are read; only this statement decides it (SPEC.md 7.6).

There are four queues: candidates listed by referrers or a tag schema, candidates with a tagged
bundle, others known by tags only, and those that failed before. Of five turns the first queue has
two and each other queue one; the other queues take the turns of an empty queue. Within a queue the
candidate that waits longest comes first, so that a sender who keeps adding candidates cannot delay
older ones. The chosen candidates are read oldest first, and those that failed before come last."""

_BUNDLED = "CREATE TEMP TABLE IF NOT EXISTS bundled (head TEXT PRIMARY KEY)"
"""The first 12 hex digits of digests that have a tagged bundle. A temporary table: there may be a
million, and they may change before the next run."""

_UNREAD_GROUP = " UNION ALL ".join(
    f"""SELECT * FROM (SELECT * FROM candidates WHERE me = :me AND repo = :repo AND {which}
        AND {_UNREAD} ORDER BY tries, first_seen, key LIMIT {MAX_GROUP_ROWS})"""  # noqa: S608 - constants
    for which in (
        "head = :message AND digest IS NOT NULL",
        "head = :message AND digest IS NULL",
        "key = :message AND head IS NULL",
    )
)
"""The rows of one message that must be fetched, digests before tags."""

_RECEIVABLE = " UNION ALL ".join(
    f"""SELECT * FROM (SELECT * FROM candidates WHERE me = :me AND repo = :repo AND {which}
        AND COALESCE(expires > :live, 1) AND COALESCE(published >= :since, 1)
        ORDER BY {order}, COALESCE(published, first_seen), key LIMIT :limit)"""  # noqa: S608 - constants
    for which, order in (
        ("state = 'delivering'", "tries"),
        ("state = 'new' AND header IS NOT NULL", "tries > 0"),
        ("state = 'held'", "reported, COALESCE(next_try, 1e12)"),
        ("state = 'refused' AND NOT reported", "tries"),
    )
)

_SET_STATE = """UPDATE candidates SET state = :state, reason_kind = :kind, reason = :reason,
        next_try = :next_try, tries = tries + 1,
        reported = (reported AND reason_kind = :kind)
    WHERE me = :me AND repo = :repo AND key = :key
        AND state NOT IN ('delivering', 'delivered', 'joined')"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One row: an object in a repository that may be a message."""

    me: str
    repo: str
    key: str
    """The digest, or the whole tag before its manifest has been read."""
    tag: str | None
    digest: Digest | None
    head: str | None
    """The first 16 hex digits of the digest, or those that the tag claims."""
    legacy: bool
    """The row is of a 1.0 tag, which may move to another manifest."""
    proven: bool
    """Bytes with this digest were read."""
    state: EntryState
    reason_kind: str
    reason: str
    tries: int
    """The number of times that it failed or was held."""
    next_try: datetime | None
    """When a held row is due again; `None`: not by time alone."""
    reported: bool
    """The user was told that it is held or refused."""
    header: Mapping[str, str] | None = field(hash=False)
    """The annotations of the message header, after its manifest was read."""
    published: datetime | None
    first_seen: datetime


class InboxRows(DeliveryRows):
    """The tables of candidates and deliveries, for all inboxes. Each method is one transaction."""

    def add(self, me: str, repo: str, refs: Iterable[MessageRef], *, now: datetime) -> None:
        """Add the candidates that discovery found; known rows stay as they are."""
        found = [
            (ref.digest, ref.tag, ref.head, ref.legacy, to_unix(ref.published)) for ref in refs
        ]
        if not found:
            return
        fresh = REFRESH_SEEN.total_seconds()
        values = {"me": me, "repo": repo, "now": to_unix(now), "fresh": fresh}
        with self._database.transaction() as connection:
            connection.execute(_FOUND)
            connection.execute("DELETE FROM temp.found")
            connection.executemany("INSERT INTO temp.found VALUES (?, ?, ?, ?, ?)", found)
            connection.execute(_JOIN_FOUND, values)
            connection.execute(_ADD_FOUND, values)

    def candidates(
        self,
        me: str,
        repo: str,
        *,
        states: Collection[EntryState] = ("new", "delivering", "held", "refused", "delivered"),
        unexpired_at: datetime | None = None,
        published_after: datetime | None = None,
        unreported: bool = False,
    ) -> list[Candidate]:
        """Return rows, oldest first; rows that failed before come last.

        Args:
            me: The recipient.
            repo: The repository.
            states: Only rows in these states.
            unexpired_at: Leave out rows that are known to have expired by then.
            published_after: Leave out rows that are known to be published earlier.
            unreported: Leave out rows that the user was told about.
        """
        marks = ", ".join("?" * len(states))
        found = self._database.rows_as(
            Candidate,
            f"""SELECT * FROM candidates WHERE me = ? AND repo = ? AND state IN ({marks})
                AND COALESCE(expires > ?, 1) AND COALESCE(published >= ?, 1)
                AND (NOT reported OR NOT ?)
                ORDER BY tries > 0, COALESCE(published, first_seen), key""",  # noqa: S608 - ?, ?
            (me, repo, *states, unexpired_at, published_after, unreported),
        )
        return list(found)

    def next_unread(
        self,
        me: str,
        repo: str,
        *,
        now: datetime,
        live: datetime | None,
        since: datetime | None,
        limit: int,
        kinds: Collection[str],
        eager_tries: int,
    ) -> list[list[Candidate]]:
        """Return the rows to read next, in groups that may be one message each.

        Args:
            me: The recipient.
            repo: The repository.
            now: The time.
            live: Leave out rows that are known to have expired by then.
            since: Leave out messages whose tags are all older.
            limit: The maximum number of groups, each of at most `MAX_GROUP_ROWS` digests and tags.
            kinds: The reasons of held rows that reading may cure.
            eager_tries: Held rows that failed fewer times are tried before they are due.
        """
        values = {
            "me": me,
            "repo": repo,
            "now": now,
            "live": live,
            "since": since,
            "limit": limit,
            "kinds": json.dumps(sorted(kinds)),
            "eager": eager_tries,
        }
        self._database.rows(_BUNDLED)
        return [
            list(self._database.rows_as(Candidate, _UNREAD_GROUP, {**values, "message": turn[0]}))
            for turn in self._database.rows(_NEXT_UNREAD, values)
        ]

    def set_bundled(self, heads: Iterable[str], *, anew: bool) -> None:
        """Record that bundles are tagged for digests with these heads, while this state is open.

        Args:
            heads: The first 12 hex digits of each.
            anew: Delete the earlier heads.
        """
        with self._database.transaction(durable=False) as connection:
            connection.execute(_BUNDLED)
            if anew:
                connection.execute("DELETE FROM temp.bundled")
            values = [(head,) for head in heads]
            connection.executemany("INSERT OR IGNORE INTO temp.bundled VALUES (?)", values)

    def count_unread(self, me: str, repo: str, *, live: datetime | None) -> int:
        """Return the number of candidates never read, without those that expired by `live`."""
        row = self._database.row(
            """SELECT COUNT(DISTINCT COALESCE(head, key)) AS number FROM candidates
                WHERE me = ? AND repo = ? AND state = 'new' AND header IS NULL AND tries = 0
                AND COALESCE(expires > ?, 1)""",
            (me, repo, live),
        )
        return 0 if row is None else int(row["number"])

    def receivable(
        self,
        me: str,
        repo: str,
        *,
        unexpired_at: datetime | None = None,
        published_after: datetime | None = None,
        limit: int,
    ) -> list[Candidate]:
        """Return rows that were read and are to be delivered or reported.

        Args:
            me: The recipient.
            repo: The repository.
            unexpired_at: Leave out rows that are known to have expired by then.
            published_after: Leave out rows that are known to be published earlier.
            limit: The maximum number of rows to deliver, of held and of refused rows, each.
        """
        values = {
            "me": me,
            "repo": repo,
            "live": unexpired_at,
            "since": published_after,
            "limit": limit,
        }
        return list(self._database.rows_as(Candidate, _RECEIVABLE, values))

    def candidate(self, me: str, repo: str, key: str) -> Candidate | None:
        """Return one row; for a 1.0 tag that was read, the row of its message."""
        return self._database.row_as(
            Candidate,
            """SELECT c.* FROM candidates AS asked JOIN candidates AS c
                ON c.me = asked.me AND c.repo = asked.repo AND c.key =
                    CASE asked.state WHEN 'joined' THEN asked.digest ELSE asked.key END
                WHERE asked.me = ? AND asked.repo = ? AND asked.key = ?""",
            (me, repo, key),
        )

    def by_head(self, me: str, repo: str, head: str) -> list[Candidate]:
        """Return the rows of digests that begin with the 16 hex digits `head`, proven first."""
        found = self._database.rows_as(
            Candidate,
            """SELECT * FROM candidates WHERE me = ? AND repo = ? AND head = ? AND key = digest
                ORDER BY proven DESC, key""",
            (me, repo, head),
        )
        return list(found)

    def by_prefix(self, me: str, repo: str, prefix: str) -> list[Candidate]:
        """Return the rows whose message id or hex digest begins with `prefix`, oldest first."""
        hex_digits = prefix.lower().removeprefix("sha256:")
        found = self._database.rows_as(
            Candidate,
            """SELECT * FROM candidates WHERE me = :me AND repo = :repo AND state != 'joined' AND
                (substr(message_id, 1, length(:id)) = :id
                 OR substr(digest, 8, length(:hex)) = :hex)
                ORDER BY COALESCE(published, first_seen), key""",
            {"me": me, "repo": repo, "id": prefix, "hex": hex_digits},
        )
        return list(found)

    def knows(self, me: str, repo: str, digest: Digest) -> bool:
        """Return whether a row stands for `digest`, also if only by a tag's d16."""
        row = self._database.row(
            """SELECT 1 FROM candidates WHERE me = :me AND repo = :repo AND head = :head
               UNION ALL SELECT 1 FROM candidates
               WHERE me = :me AND repo = :repo AND digest = :digest LIMIT 1""",
            {"me": me, "repo": repo, "digest": digest, "head": head_of(digest)},
        )
        return row is not None

    def pending(self, me: str, repo: str, *, now: datetime, alive_at: datetime) -> bool:
        """Return whether a row is new, or held and due, so that a watcher must not wait.

        Args:
            me: The recipient.
            repo: The repository.
            now: The time. A row that would wait an hour longer than the longest wait was held by a
                clock that was ahead; it counts as due.
            alive_at: Leave out rows that have expired by then.
        """
        row = self._database.row(
            # Two searches by state: one search for both reads all rows of an inbox, 65 ms for
            # 100,000.
            f"""SELECT 1 FROM candidates WHERE me = :me AND repo = :repo
                AND state IN ('new', 'delivering') AND COALESCE(expires > :alive_at, 1)
               UNION ALL SELECT 1 FROM candidates WHERE me = :me AND repo = :repo
                AND state = 'held' AND COALESCE(expires > :alive_at, 1) AND (next_try <= :now
                    OR (next_try > :now + {LAST_RETRY_SECONDS} AND reason_kind != 'future'))
                LIMIT 1""",  # noqa: S608 - a constant
            {"me": me, "repo": repo, "now": now, "alive_at": alive_at},
        )
        return row is not None

    def set_read(
        self,
        me: str,
        repo: str,
        key: str,
        digest: Digest,
        *,
        now: datetime,
        header: Mapping[str, str] | None = None,
        expires: datetime | None = None,
    ) -> None:
        """Join the row `key` to the row of `digest`, after its bytes were read.

        Args:
            me: The recipient.
            repo: The repository.
            key: The tag or digest under which the bytes were read.
            digest: Their digest; from now on the row's key.
            now: The time.
            header: The message's annotations, `None` if the bytes are no message.
            expires: When the message expires.
        """
        with self._database.transaction():
            old = self._database.row(
                "SELECT tag, legacy, published FROM candidates WHERE me=? AND repo=? AND key=?",
                (me, repo, key),
            )
            values = {
                "me": me,
                "repo": repo,
                "digest": digest,
                "head": head_of(digest),
                "tag": None if old is None else old["tag"],
                "published": None if old is None else old["published"],
                "header": None if header is None else json.dumps(dict(header)),
                "message_id": None if header is None else header.get(MESSAGE_ID, ""),
                "expires": expires,
                "now": now,
            }
            self._database.execute(_SET_READ, values)
            if old is None or key == digest:
                return
            if old["legacy"]:
                self._database.execute(
                    """UPDATE candidates SET state = 'joined', digest = ?, checked = ?
                        WHERE me = ? AND repo = ? AND key = ?""",
                    (digest, now, me, repo, key),
                )
            else:
                self._database.execute(
                    "DELETE FROM candidates WHERE me = ? AND repo = ? AND key = ?", (me, repo, key)
                )

    def set_new(self, me: str, repo: str, key: str, *, tried: int = 0) -> None:
        """Make a held or refused row new again; delivered rows stay delivered.

        The mark `reported` stays, so that the user is not told again of a fault that comes and
        goes.

        Args:
            me: The recipient.
            repo: The repository.
            key: The row's key.
            tried: Added to the row's tries: 1 if the row could not be read.
        """
        self._database.execute(
            """UPDATE candidates SET state = 'new', next_try = NULL, tries = tries + ?
                WHERE me = ? AND repo = ? AND key = ? AND state IN ('new', 'held', 'refused')""",
            (tried, me, repo, key),
        )

    def reconsider(
        self,
        me: str,
        repo: str,
        reason_kinds: Collection[str],
        *,
        states: Collection[EntryState] = ("held", "refused"),
    ) -> None:
        """Make rows in `states` with one of these reasons new; they stay reported."""
        marks = ", ".join("?" * len(reason_kinds))
        state_marks = ", ".join("?" * len(states))
        self._database.execute(
            f"""UPDATE candidates SET state = 'new', next_try = NULL, tries = 0
                WHERE me = ? AND repo = ? AND state IN ({state_marks})
                AND reason_kind IN ({marks})""",  # noqa: S608 - ?, ?
            (me, repo, *states, *reason_kinds),
        )

    def set_held(
        self,
        me: str,
        repo: str,
        key: str,
        reason_kind: str,
        reason: str,
        *,
        next_try: datetime | None = None,
    ) -> None:
        """Hold a row; `key` is the digest if its bytes were read. Delivered rows stay delivered.

        The mark `reported` stays only if the kind of the reason is the same.
        """
        self._set_state(me, repo, key, "held", kind=reason_kind, reason=reason, next_try=next_try)

    def set_refused(self, me: str, repo: str, key: str, reason_kind: str, reason: str) -> None:
        """Refuse a row for good; `key` is the digest. Delivered rows stay delivered."""
        self._set_state(me, repo, key, "refused", kind=reason_kind, reason=reason)

    def set_elsewhere(self, me: str, repo: str, digest: Digest, reason: str) -> None:
        """Record that a message was received elsewhere; messages delivered here stay delivered."""
        self._set_state(me, repo, digest, "elsewhere", kind="elsewhere", reason=reason)

    def _set_state(
        self,
        me: str,
        repo: str,
        key: str,
        state: EntryState,
        *,
        kind: str,
        reason: str,
        next_try: datetime | None = None,
    ) -> None:
        values = {
            "me": me,
            "repo": repo,
            "key": key,
            "state": state,
            "kind": kind,
            "reason": reason,
            "next_try": next_try,
        }
        self._database.execute(_SET_STATE, values)

    def set_reported(self, me: str, repo: str, keys: Collection[str]) -> None:
        """Record that the user was told about held or refused rows."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE candidates SET reported = 1 WHERE me = ? AND repo = ? AND key = ?",
                [(me, repo, key) for key in keys],
            )

    def legacy_tags(self, me: str, repo: str, *, limit: int) -> dict[str, Digest]:
        """Return at most `limit` 1.0 tags with their last digests; the longest unchecked first."""
        rows = self._database.rows(
            """SELECT key, digest FROM candidates WHERE me = ? AND repo = ? AND state = 'joined'
                ORDER BY checked, key LIMIT ?""",
            (me, repo, limit),
        )
        return {row["key"]: Digest(row["digest"]) for row in rows}

    def check_legacy(
        self, me: str, repo: str, tags: Collection[str], *, moved: bool, now: datetime
    ) -> None:
        """Record a new check of 1.0 tags; those that have `moved` become new candidates."""
        change = ", state = 'new', digest = NULL" if moved else ""
        with self._database.transaction() as connection:
            connection.executemany(
                f"UPDATE candidates SET checked = ?{change} WHERE me = ? AND repo = ? AND key = ?",  # noqa: S608 - constants
                [(to_unix(now), me, repo, tag) for tag in tags],
            )

    def sweep(self, me: str, repo: str, *, now: datetime) -> None:
        """Delete candidates that no complete pass has seen for a long time, and old deliveries.

        Call it only after a complete pass over the whole inbox.
        """
        self._database.execute(
            """DELETE FROM candidates WHERE me = ? AND repo = ? AND last_seen < ?
                AND state NOT IN ('delivering', 'delivered')""",
            (me, repo, now - KEEP_UNSEEN),
        )
        self.sweep_deliveries(now=now)
