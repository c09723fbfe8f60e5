r"""The parser of `trust.toml`: every unknown word is an error that names its line.

Source: docs/trust.md.
"""

from __future__ import annotations

import binascii
import re
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dockercomms.errors import ConfigError, DockerCommsError, LocalIOError
from dockercomms.platforms.files import local_errors, open_regular
from dockercomms.platforms.records import dataclass
from dockercomms.trust.keys import PublicKey, who_else_can_change
from dockercomms.trust.policy import (
    DEFAULT_CLOCK_SKEW,
    PUBLIC_ROOT,
    InboxRule,
    Kind,
    Policy,
    Revocation,
    Root,
    Sender,
    Timestamp,
    TrustedIdentity,
    TrustedKey,
    Verdict,
)

POLICY_VERSION = 1
MAX_POLICY_BYTES = 4 * 2**20
"""Some 20,000 senders; reading more would take longer than a person waits."""
SHA256_BYTES = 32


def load_policy(path: Path) -> Policy:
    """Return the policy in the file `path`, the empty one if there is no such file.

    Raises:
        ConfigError: other users can write the file, or its content is invalid.
        LocalIOError: it is not readable.
    """
    text = read_policy_text(path)
    return Policy() if text is None else parse_policy(text, where=str(path), folder=path.parent)


def read_policy_text(path: Path) -> str | None:
    """Return the content of the file `path`, None if there is no such file.

    Raises:
        ConfigError: other users can write the file, or it is too large or not text.
        LocalIOError: it is not readable.
    """
    with local_errors(str(path)):
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return None
        with file:
            data = file.read(MAX_POLICY_BYTES + 1)
    unguarded = who_else_can_change(path)
    if unguarded is not None:
        raise ConfigError(unguarded.reason, hint=unguarded.hint)
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigError(f"{path}: more than {MAX_POLICY_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")  # Notepad and PowerShell begin files with a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from error


def parse_policy(text: str, *, where: str, folder: Path = Path()) -> Policy:
    """Parse the policy in `text`; `where` names it in errors, paths are relative to `folder`.

    Raises:
        ConfigError: not TOML, an unknown word or version, a name twice, an identity without an
            issuer, an empty `me`, a key that is not readable; the text names line and word.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: {error}") from error
    return _Loader(_Source(text, where), folder).policy(_Table(data, where))


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table, its name in errors, and its position among others."""

    values: Mapping[str, object]
    where: str
    header: str = ""
    """The text in its brackets: `sender.key`."""
    number: int = 1
    """Its number among those with the same header in `parent`."""
    parent: _Table | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """The text, searched for the lines that errors name: the parser does not report them."""

    text: str
    where: str

    def error(self, table: _Table, word: str, message: str) -> ConfigError:
        """Return the error `message` about `word`, which is in `table` or missing there."""
        message = message.removeprefix(f"{self.where}: ")  # in the table of the whole file
        start, quoted = self._begin(table), re.escape(word)
        end = self._find(r"^\s*\[", start + 1) or len(self.text)
        for pattern, stop in (
            (rf"""^[\s{{,]*["']?{quoted}["']?\s*=""", end),
            (rf"(?<![\w-]){quoted}(?![\w-])", end),
            (rf"^\s*\[[^=]*(?<![\w-]){quoted}(?![\w-])", len(self.text)),  # a table of that name
        ):
            line = self._find(pattern, start)
            if line is not None and line < stop:
                return ConfigError(f"{self.where}, line {line}: {message}")
        return ConfigError(f"{self.where}, line {start}: {message}")

    def _begin(self, table: _Table) -> int:
        """Return the line where `table` begins, or its parent if it has no header."""
        if table.parent is None:
            return 1
        start = self._begin(table.parent)
        words = (rf"""["']?{re.escape(word)}["']?""" for word in table.header.split("."))
        pattern = rf"^\s*\[+\s*{'[ .]+'.join(words)}\s*\]+"
        return self._find(pattern, start, count=table.number) or start

    def _find(self, pattern: str, start: int, *, count: int = 1) -> int | None:
        """Return the number of the `count`th line from `start` that matches `pattern`."""
        compiled = re.compile(pattern)
        for number, line in enumerate(self.text.split("\n"), start=1):
            if number >= start and compiled.search(line.partition("#")[0]):
                count -= 1
                if not count:
                    return number
        return None


@dataclass(frozen=True, slots=True)
class _Loader:
    source: _Source
    folder: Path

    def policy(self, table: _Table) -> Policy:
        self._known(
            table,
            "version me unsigned unknown_sender max_age clock_skew audiences accept_cosign_sign "
            "roots sender revoked inbox",
        )
        version = table.values.get("version")
        if version != POLICY_VERSION or isinstance(version, bool):
            raise self._error(table, "version", f"version {version!r}; {POLICY_VERSION} expected")
        if "me" in table.values and not table.values["me"]:
            raise self._error(table, "me", "me is empty; leave it out, or name yourself")
        roots = self._roots(self._table(table, "roots"))
        skew = self._duration(table, "clock_skew")
        return Policy(
            me=self._strings(table, "me"),
            unsigned=self._verdict(table, "unsigned"),
            unknown_sender=self._verdict(table, "unknown_sender"),
            max_age=self._duration(table, "max_age"),
            clock_skew=DEFAULT_CLOCK_SKEW if skew is None else skew,
            audiences=self._strings(table, "audiences"),
            accept_cosign_sign=self._flag(table, "accept_cosign_sign"),
            roots=roots,
            senders=self._senders(table, roots),
            revoked=tuple(self._revocation(item) for item in self._tables(table, "revoked")),
            inboxes=tuple(self._inbox(item) for item in self._tables(table, "inbox")),
        )

    def _roots(self, table: _Table) -> dict[str, Root]:
        roots = {PUBLIC_ROOT: Root(name=PUBLIC_ROOT)}
        for name in table.values:
            roots[name] = self._root(name, self._table(table, name))
        return roots

    def _root(self, name: str, table: _Table) -> Root:
        self._known(table, "source path")
        source = self._string(table, "source")
        path = self._string(table, "path")
        if source == "sigstore-public-good" and path is None:
            return Root(name=name)
        if source == "file" and path:
            return Root(name=name, path=self._secured(table, self.folder / path))
        raise self._error(
            table,
            "source",
            f'{table.where}: source = "sigstore-public-good", or "file" with its path, expected',
        )

    def _senders(self, table: _Table, roots: Mapping[str, Root]) -> tuple[Sender, ...]:
        senders: dict[str, Sender] = {}
        for item in self._tables(table, "sender"):
            sender = self._sender(item, roots)
            if sender.name in senders:
                raise self._error(
                    item, "name", f"two entries for sender {sender.name!r}; one expected"
                )
            senders[sender.name] = sender
        return tuple(senders.values())

    def _sender(self, table: _Table, roots: Mapping[str, Root]) -> Sender:
        self._known(table, "name recipients repositories kinds address allow_unsigned identity key")
        name = self._string(table, "name")
        if not name:
            raise self._error(table, "name", f"{table.where}: name is missing")
        return Sender(
            name=name,
            identities=tuple(self._identity(i, roots) for i in self._tables(table, "identity")),
            keys=tuple(self._key(item) for item in self._tables(table, "key")),
            recipients=self._strings(table, "recipients"),
            repositories=self._strings(table, "repositories"),
            kinds=self._kinds(table),
            address=self._string(table, "address"),
            allow_unsigned=self._flag(table, "allow_unsigned"),
        )

    def _kinds(self, table: _Table) -> tuple[Kind, ...]:
        known: dict[str, Kind] = {"message": "message", "receipt": "receipt"}
        words = self._strings(table, "kinds")
        for word in words:
            if word not in known:
                text = f"{table.where}: kind {word!r}; message or receipt expected"
                raise self._error(table, "kinds", text)
        return tuple(known[word] for word in words) if words else tuple(known.values())

    def _identity(self, table: _Table, roots: Mapping[str, Root]) -> TrustedIdentity:
        self._known(table, "root identity issuer")
        identity, issuer = self._string(table, "identity"), self._string(table, "issuer")
        if not identity or not issuer:
            raise self._error(
                table, "identity", f"{table.where}: identity and issuer are both needed"
            )
        root = self._string(table, "root") or PUBLIC_ROOT
        if root not in roots:
            raise self._error(
                table, "root", f"{table.where}: root {root!r} is not declared under [roots]"
            )
        return TrustedIdentity(identity=identity, issuer=issuer, root=root)

    def _key(self, table: _Table) -> TrustedKey:
        self._known(table, "public_key spki_sha256 valid_after valid_before timestamp")
        path, pinned = self._string(table, "public_key"), self._fingerprint(table)
        if not path:
            raise self._error(table, "public_key", f"{table.where}: public_key (a file) is missing")
        try:
            key = PublicKey.load(self.folder / path, secured=pinned is None)
        except DockerCommsError as error:
            raise self._error(table, "public_key", f"{table.where}: {error.message}") from error
        if pinned is not None and pinned != key.spki_sha256:
            raise self._error(
                table,
                "spki_sha256",
                f"{table.where}: {path} has spki_sha256 {key.spki_sha256}, not {pinned}",
            )
        return TrustedKey(
            key=key,
            valid_after=self._time(table, "valid_after"),
            valid_before=self._time(table, "valid_before"),
            timestamp=self._timestamp(table),
        )

    def _revocation(self, table: _Table) -> Revocation:
        self._known(table, "spki_sha256 identity from reason")
        spki, identity = self._fingerprint(table), self._string(table, "identity")
        if (spki is None) == (not identity):
            raise self._error(
                table, "revoked", f"{table.where}: either spki_sha256 or identity expected"
            )
        return Revocation(
            spki_sha256=spki,
            identity=identity,
            since=self._time(table, "from"),
            reason=self._string(table, "reason") or "",
        )

    def _inbox(self, table: _Table) -> InboxRule:
        self._known(table, "repository unsigned")
        repository, unsigned = self._string(table, "repository"), self._string(table, "unsigned")
        if not repository:
            raise self._error(table, "repository", f"{table.where}: repository is missing")
        if unsigned != "accept":
            raise self._error(
                table, "unsigned", f"{table.where}: unsigned {unsigned!r}; accept expected"
            )
        return InboxRule(repository=repository, accept_unsigned=True)

    def _secured(self, table: _Table, path: Path) -> Path:
        """Return `path`; refuse a file that other users can write."""
        try:
            unguarded = who_else_can_change(path)
        except LocalIOError as error:
            raise self._error(table, "path", f"{table.where}: {error.message}") from error
        if unguarded is not None:
            raise self._error(table, "path", f"{table.where}: {unguarded.reason}")
        return path

    # --- values --------------------------------------------------------------------------------

    def _known(self, table: _Table, words: str) -> None:
        for word in table.values:
            if word not in words.split():
                raise self._error(table, word, f"{table.where}: unknown setting {word!r:.100}")

    def _error(self, table: _Table, word: str, message: str) -> ConfigError:
        return self.source.error(table, word, message)

    def _value(self, table: _Table, word: str, kind: type, expected: str) -> object:
        value = table.values.get(word)
        if value is not None and (
            not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
        ):
            raise self._error(table, word, f"{table.where}: {word}: {expected} expected")
        return value

    def _string(self, table: _Table, word: str) -> str | None:
        value = self._value(table, word, str, "text")
        return value if isinstance(value, str) else None

    def _flag(self, table: _Table, word: str) -> bool:
        return bool(self._value(table, word, bool, "true or false"))

    def _strings(self, table: _Table, word: str) -> tuple[str, ...]:
        value = self._value(table, word, list, "a list of strings")
        items = value if isinstance(value, list) else []
        if not all(isinstance(item, str) and item for item in items):
            raise self._error(table, word, f"{table.where}: {word}: a list of strings expected")
        return tuple(items)

    def _table(self, table: _Table, word: str) -> _Table:
        value = self._value(table, word, dict, "a table")
        header = f"{table.header}.{word}".lstrip(".")
        values = value if isinstance(value, dict) else {}
        return _Table(values, header, header, parent=table)

    def _tables(self, table: _Table, word: str) -> list[_Table]:
        value = self._value(table, word, list, f"[[{word}]] tables")
        header = f"{table.header}.{word}".lstrip(".")
        found = []
        for number, item in enumerate(value if isinstance(value, list) else [], start=1):
            if not isinstance(item, dict):
                raise self._error(table, word, f"{table.where}: {word}: a table expected")
            found.append(_Table(item, f"{header} {number}", header, number, table))
        return found

    def _verdict(self, table: _Table, word: str) -> Verdict:
        value = self._string(table, word)
        if value is None or value == "hold":
            return "hold"
        if value == "reject":
            return "reject"
        raise self._error(table, word, f"{word} {value!r}; reject or hold expected")

    def _timestamp(self, table: _Table) -> Timestamp:
        value = self._string(table, "timestamp")
        if value is None or value == "if-present":
            return "if-present"
        if value == "required":
            return "required"
        text = f"{table.where}: timestamp {value!r}; required or if-present expected"
        raise self._error(table, "timestamp", text)

    def _fingerprint(self, table: _Table) -> str | None:
        """Return the base64 of a SHA-256; refuse a mistyped one, which would revoke no key.

        The last character has two unused bits, so four spellings mean one key.
        """
        value = self._string(table, "spki_sha256")
        if value is None:
            return None
        try:
            digest = b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            digest = b""  # the same error as for another length
        if len(digest) == SHA256_BYTES:
            return b64encode(digest).decode("ascii")
        text = f"{table.where}: spki_sha256 {value!r}; 44 characters of base64 expected"
        raise self._error(table, "spki_sha256", text)

    def _time(self, table: _Table, word: str) -> datetime | None:
        value = self._value(table, word, datetime, "a time such as 2026-01-01T00:00:00Z")
        if not isinstance(value, datetime):
            return None
        if value.tzinfo is None:
            raise self._error(
                table, word, f"{table.where}: {word}: a time zone is missing; write Z"
            )
        return value.astimezone(UTC)

    def _duration(self, table: _Table, word: str) -> timedelta | None:
        value = self._string(table, word)
        duration = None if value is None else parse_duration(value)
        if value is not None and duration is None:
            text = f"{word} {value!r}; a duration such as P30D or PT5M expected"
            raise self._error(table, word, text)
        return duration


_DURATION = re.compile(
    r"P(?:(?P<weeks>\d{1,6})W)?(?:(?P<days>\d{1,6})D)?"
    r"(?:T(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,6})M)?(?:(?P<seconds>\d{1,9})S)?)?"
)


def parse_duration(text: str) -> timedelta | None:
    """Return the ISO 8601 duration in `text` (weeks, days, hours, minutes, seconds), else None."""
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()) or text.endswith("T"):
        return None
    parts = {name: int(value) for name, value in match.groupdict().items() if value is not None}
    return timedelta(**parts)
