"""The rows of candidates: what discovery found in a repository, and what became of it.

Found by a tag, a candidate's row is keyed by the whole tag until the manifest's bytes were read;
then it is joined to the row of their digest. `held` and `refused` belong to one repository,
deliveries to all. Source: SPEC.md section 7.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Literal

from dockercomms.oci.model import Digest
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import LAST_RETRY_SECONDS, MESSAGE_ID
from dockercomms.protocol.tags import MessageRef
from dockercomms.state.database import from_unix, to_unix
from dockercomms.state.deliveries import DeliveryRows, head_of, storable

EntryState = Literal["new", "delivering", "delivered", "held", "refused", "elsewhere"]

KEEP_UNSEEN = timedelta(days=30)
"""How long a candidate is remembered that no complete pass sees: it was deleted."""

MAX_GROUP_ROWS = 4
"""Of the digests that begin alike, and of the tags with the same head, so many are read in a run:
anybody who can push can make more of them."""

REFRESH_SEEN = timedelta(hours=12)
"""How old `last_seen` gets before it is written anew: an idle poll must write no rows."""

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
"""6: up to then one odd answer of a registry could refuse a sound message for good. Judged anew, a
message that is malformed is refused again."""

_FOUND = """CREATE TEMP TABLE IF NOT EXISTS found
    (digest TEXT, tag TEXT, head TEXT, legacy INTEGER, published REAL)"""

_JOIN_FOUND = """UPDATE temp.found SET digest = COALESCE(
        (SELECT c.digest FROM candidates AS c WHERE c.me = :me AND c.repo = :repo
            AND c.head = found.head AND c.proven AND c.key = c.digest LIMIT 1),
        (SELECT d.digest FROM deliveries AS d WHERE d.me = :me AND d.head = found.head LIMIT 1))
    WHERE digest IS NULL AND head IS NOT NULL"""
"""A tag's d16 stands for a digest only where bytes with that digest were read: an index may name
digests that do not exist, and would hide the tag's message with them."""

_LATER = "NULLIF(MAX(COALESCE(published, 0), COALESCE(excluded.published, 0)), 0)"
"""Of several tags the latest counts: one that is backdated hides no message from `since`."""

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
"""Which rows have to be fetched: `reading.is_retried` says the same of held ones."""

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
"""The order in which candidates are read, in the one place that decides it (SPEC.md 7.6).

There are four queues: those that referrers or a tag schema list, those for which a bundle is
tagged, others known by tags only, and others that failed before. Of five turns the first has two
and each of the others one; where a queue is empty the others have its turns. Within a queue the one
that waits longest comes first, so whoever goes on adding candidates never keeps back one that was
there before. Those whose turn it is are read oldest first, and those last that failed before."""

_BUNDLED = "CREATE TEMP TABLE IF NOT EXISTS bundled (head TEXT PRIMARY KEY)"
"""The first 12 hex digits of digests for which a bundle is tagged; not in memory, for there may be
a million, nor kept: who tags and removes them tells nobody."""

_UNREAD_GROUP = " UNION ALL ".join(
    f"""SELECT * FROM (SELECT * FROM candidates WHERE me = :me AND repo = :repo AND {which}
        AND {_UNREAD} ORDER BY tries, first_seen, key LIMIT {MAX_GROUP_ROWS})"""  # noqa: S608 - constants
    for which in (
        "head = :message AND digest IS NOT NULL",
        "head = :message AND digest IS NULL",
        "key = :message AND head IS NULL",
    )
)
"""The rows of one message that have to be fetched, digests before tags."""

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
    """One row: something in a repository that may be a message."""

    me: str
    repo: str
    key: str
    """The digest, or the whole tag while the bytes under it have not been read."""
    tag: str | None
    digest: Digest | None
    head: str | None
    """The first 16 hex digits of the digest, or those that the tag claims."""
    legacy: bool
    """The row is of a 1.0 tag, which may come to point at another manifest."""
    proven: bool
    """Bytes with this digest were read."""
    state: EntryState
    reason_kind: str
    reason: str
    tries: int
    """How often it failed or was held."""
    next_try: datetime | None
    """When a held row is due again; None: not by time alone."""
    reported: bool
    """The user was told that it is held or refused."""
    header: Mapping[str, str] | None = field(hash=False)
    """The annotations of the message header, once its manifest was read."""
    published: datetime | None
    first_seen: datetime


class InboxRows(DeliveryRows):
    """The candidates of every inbox, and the deliveries that they share.

    Each method is one transaction, on disk when it returns. Every method may raise
    `LocalIOError` (see `Database`).
    """

    def add(self, me: str, repo: str, refs: Iterable[MessageRef], *, now: datetime) -> None:
        """Remember what discovery found; what is known already stays as it is."""
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
        """Return rows, oldest first; those that failed before come after those that did not.

        Args:
            me: The recipient.
            repo: The repository.
            states: Only rows in these states.
            unexpired_at: Leave out what has expired by then, as far as that is known.
            published_after: Leave out what was published earlier, as far as that is known.
            unreported: Leave out what the user was told about.
        """
        marks = ", ".join("?" * len(states))
        rows = self._database.rows(
            f"""SELECT * FROM candidates WHERE me = ? AND repo = ? AND state IN ({marks})
                AND COALESCE(expires > ?, 1) AND COALESCE(published >= ?, 1)
                AND (NOT reported OR NOT ?)
                ORDER BY tries > 0, COALESCE(published, first_seen), key""",  # noqa: S608 - ?, ?
            (me, repo, *states, to_unix(unexpired_at), to_unix(published_after), unreported),
        )
        return [_candidate(row) for row in rows]

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
        """Return the rows that are to be read next, in groups that may be one message each.

        Args:
            me: The recipient.
            repo: The repository.
            now: The time.
            live: Leave out what has expired by then, as far as that is known.
            since: Leave out messages whose tags are all older.
            limit: At most so many groups, each of at most `MAX_GROUP_ROWS` digests and tags.
            kinds: The reasons of held rows that reading may cure.
            eager_tries: Held rows that failed fewer times are tried before they are due.
        """
        values = {
            "me": me,
            "repo": repo,
            "now": to_unix(now),
            "live": to_unix(live),
            "since": to_unix(since),
            "limit": limit,
            "kinds": json.dumps(sorted(kinds)),
            "eager": eager_tries,
        }
        self._database.rows(_BUNDLED)
        return [
            [
                _candidate(row)
                for row in self._database.rows(
                    _UNREAD_GROUP, {**values, "message": turn["message"]}
                )
            ]
            for turn in self._database.rows(_NEXT_UNREAD, values)
        ]

    def set_bundled(self, heads: Iterable[str], *, anew: bool) -> None:
        """Note that bundles are tagged for digests that begin so, as long as this state is open.

        Args:
            heads: The first 12 hex digits of each.
            anew: Whether what was noted before is forgotten.
        """
        with self._database.transaction(durable=False) as connection:
            connection.execute(_BUNDLED)
            if anew:
                connection.execute("DELETE FROM temp.bundled")
            values = [(head,) for head in heads]
            connection.executemany("INSERT OR IGNORE INTO temp.bundled VALUES (?)", values)

    def count_unread(self, me: str, repo: str, *, live: datetime | None) -> int:
        """Return how many candidates were never read, apart from what expired by `live`."""
        row = self._database.row(
            """SELECT COUNT(DISTINCT COALESCE(head, key)) AS number FROM candidates
                WHERE me = ? AND repo = ? AND state = 'new' AND header IS NULL AND tries = 0
                AND COALESCE(expires > ?, 1)""",
            (me, repo, to_unix(live)),
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
        """Return what was read and is to be delivered or reported, at most `limit` of each state.

        Args:
            me: The recipient.
            repo: The repository.
            unexpired_at: Leave out what has expired by then, as far as that is known.
            published_after: Leave out what was published earlier, as far as that is known.
            limit: At most so many to be delivered, so many held, and so many refused ones.
        """
        values = {
            "me": me,
            "repo": repo,
            "live": to_unix(unexpired_at),
            "since": to_unix(published_after),
            "limit": limit,
        }
        return [_candidate(row) for row in self._database.rows(_RECEIVABLE, values)]

    def candidate(self, me: str, repo: str, key: str) -> Candidate | None:
        """Return one row; for a 1.0 tag that was read, the row of its message."""
        row = self._database.row(
            """SELECT c.* FROM candidates AS asked JOIN candidates AS c
                ON c.me = asked.me AND c.repo = asked.repo AND c.key =
                    CASE asked.state WHEN 'joined' THEN asked.digest ELSE asked.key END
                WHERE asked.me = ? AND asked.repo = ? AND asked.key = ?""",
            (me, repo, key),
        )
        return None if row is None else _candidate(row)

    def by_head(self, me: str, repo: str, head: str) -> list[Candidate]:
        """Return the rows of digests that begin with the 16 hex digits `head`, proven first."""
        rows = self._database.rows(
            """SELECT * FROM candidates WHERE me = ? AND repo = ? AND head = ? AND key = digest
                ORDER BY proven DESC, key""",
            (me, repo, head),
        )
        return [_candidate(row) for row in rows]

    def by_prefix(self, me: str, repo: str, prefix: str) -> list[Candidate]:
        """Return the rows whose message id or hex digest begins with `prefix`, oldest first."""
        rows = self._database.rows(
            """SELECT * FROM candidates WHERE me = :me AND repo = :repo AND state != 'joined' AND
                (substr(message_id, 1, length(:id)) = :id
                 OR substr(digest, 8, length(:hex)) = :hex)
                ORDER BY COALESCE(published, first_seen), key""",
            {
                "me": me,
                "repo": repo,
                "id": storable(prefix),
                "hex": storable(prefix.lower().removeprefix("sha256:")),
            },
        )
        return [_candidate(row) for row in rows]

    def knows(self, me: str, repo: str, digest: Digest) -> bool:
        """Return whether a row stands for `digest`, be it by a tag's d16."""
        row = self._database.row(
            """SELECT 1 FROM candidates WHERE me = :me AND repo = :repo AND head = :head
               UNION ALL SELECT 1 FROM candidates
               WHERE me = :me AND repo = :repo AND digest = :digest LIMIT 1""",
            {"me": me, "repo": repo, "digest": digest, "head": head_of(digest)},
        )
        return row is not None

    def pending(self, me: str, repo: str, *, now: datetime, alive_at: datetime) -> bool:
        """Return whether a row is new, or held and due: what a watcher may not sleep on.

        Args:
            me: The recipient.
            repo: The repository.
            now: The time. What waits an hour longer than anything does was held by a clock that
                was ahead, and is due.
            alive_at: What has expired by then is passed over.
        """
        row = self._database.row(
            # Two searches by state: as one it reads every row of an inbox, 65 ms of 100,000.
            f"""SELECT 1 FROM candidates WHERE me = :me AND repo = :repo
                AND state IN ('new', 'delivering') AND COALESCE(expires > :alive_at, 1)
               UNION ALL SELECT 1 FROM candidates WHERE me = :me AND repo = :repo
                AND state = 'held' AND COALESCE(expires > :alive_at, 1) AND (next_try <= :now
                    OR (next_try > :now + {LAST_RETRY_SECONDS} AND reason_kind != 'future'))
                LIMIT 1""",  # noqa: S608 - a constant
            {"me": me, "repo": repo, "now": to_unix(now), "alive_at": to_unix(alive_at)},
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
        """Join the row `key` to that of `digest`, which the bytes under it have.

        Args:
            me: The recipient.
            repo: The repository.
            key: The tag or digest under which they were read.
            digest: Their digest; from now on the row's key.
            now: The time.
            header: The message's annotations, None if the bytes are no message.
            expires: When the message expires.
        """
        with self._database.transaction() as connection:
            old = connection.execute(
                "SELECT tag, legacy, published FROM candidates WHERE me=? AND repo=? AND key=?",
                (me, repo, key),
            ).fetchone()
            values = {
                "me": me,
                "repo": repo,
                "digest": digest,
                "head": head_of(digest),
                "tag": None if old is None else old["tag"],
                "published": None if old is None else old["published"],
                "header": None if header is None else json.dumps(dict(header)),
                "message_id": None if header is None else storable(header.get(MESSAGE_ID, "")),
                "expires": to_unix(expires),
                "now": to_unix(now),
            }
            connection.execute(_SET_READ, values)
            if old is None or key == digest:
                return
            if old["legacy"]:
                connection.execute(
                    """UPDATE candidates SET state = 'joined', digest = ?, checked = ?
                        WHERE me = ? AND repo = ? AND key = ?""",
                    (digest, to_unix(now), me, repo, key),
                )
            else:
                connection.execute(
                    "DELETE FROM candidates WHERE me = ? AND repo = ? AND key = ?", (me, repo, key)
                )

    def set_new(self, me: str, repo: str, key: str, *, tried: int = 0) -> None:
        """Note that nothing stands against a row that was held; delivered rows stay delivered.

        What was reported stays so, lest a fault that comes and goes be told each time.

        Args:
            me: The recipient.
            repo: The repository.
            key: The row's key.
            tried: Is added to the row's tries: 1 where it could not be read.
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
        """Make new what is in one of `states` for one of these reasons; it stays reported."""
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
        """Hold a row; `key` is the digest once its bytes were read. Delivered rows stay so.

        It counts as reported only if it was reported for the same kind of reason.
        """
        self._set_state(me, repo, key, "held", kind=reason_kind, reason=reason, next_try=next_try)

    def set_refused(self, me: str, repo: str, key: str, reason_kind: str, reason: str) -> None:
        """Refuse a row for good; `key` is the digest. Delivered rows stay so."""
        self._set_state(me, repo, key, "refused", kind=reason_kind, reason=reason)

    def set_elsewhere(self, me: str, repo: str, digest: Digest, reason: str) -> None:
        """Note that a message was received elsewhere; what is delivered here stays so."""
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
            "reason": storable(reason),
            "next_try": to_unix(next_try),
        }
        self._database.execute(_SET_STATE, values)

    def set_reported(self, me: str, repo: str, keys: Collection[str]) -> None:
        """Note that the user was told about rows that are held or refused."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE candidates SET reported = 1 WHERE me = ? AND repo = ? AND key = ?",
                [(me, repo, key) for key in keys],
            )

    def legacy_tags(self, me: str, repo: str, *, limit: int) -> dict[str, Digest]:
        """Return at most `limit` 1.0 tags with the digest they had; the longest unchecked first."""
        rows = self._database.rows(
            """SELECT key, digest FROM candidates WHERE me = ? AND repo = ? AND state = 'joined'
                ORDER BY checked, key LIMIT ?""",
            (me, repo, limit),
        )
        return {row["key"]: Digest(row["digest"]) for row in rows}

    def check_legacy(
        self, me: str, repo: str, tags: Collection[str], *, moved: bool, now: datetime
    ) -> None:
        """Note that 1.0 tags were looked at again; those that have `moved` are new candidates."""
        change = ", state = 'new', digest = NULL" if moved else ""
        with self._database.transaction() as connection:
            connection.executemany(
                f"UPDATE candidates SET checked = ?{change} WHERE me = ? AND repo = ? AND key = ?",  # noqa: S608 - constants
                [(to_unix(now), me, repo, tag) for tag in tags],
            )

    def sweep(self, me: str, repo: str, *, now: datetime) -> None:
        """Forget candidates that no complete pass has seen for a long time, and old deliveries.

        To be called after a complete pass over the whole inbox only.
        """
        self._database.execute(
            """DELETE FROM candidates WHERE me = ? AND repo = ? AND last_seen < ?
                AND state NOT IN ('delivering', 'delivered')""",
            (me, repo, to_unix(now - KEEP_UNSEEN)),
        )
        self.sweep_deliveries(now=now)


def _candidate(row: sqlite3.Row) -> Candidate:
    return Candidate(
        me=row["me"],
        repo=row["repo"],
        key=row["key"],
        tag=row["tag"],
        digest=None if row["digest"] is None else Digest(row["digest"]),
        head=row["head"],
        legacy=bool(row["legacy"]),
        proven=bool(row["proven"]),
        state=row["state"],
        reason_kind=row["reason_kind"],
        reason=row["reason"],
        tries=row["tries"],
        next_try=from_unix(row["next_try"]),
        reported=bool(row["reported"]),
        header=None if row["header"] is None else json.loads(row["header"]),
        published=from_unix(row["published"]),
        first_seen=from_unix(row["first_seen"]),
    )
