"""The settings of the command line: defaults < user file < project file < environment < flags.

Only the command line reads them; the library takes values. The user's file is
`$XDG_CONFIG_HOME/dockercomms/config.toml` (`--config` or `DOCKERCOMMS_CONFIG` names another). The
project's file is `.dockercomms.toml` in the current folder or above it, up to the top of its
checkout. A project file comes with a checkout, so it may choose how messages are packed. It may not
set the user's name, weaken a connection, choose a local file, or name a program. Its repository
counts only after the user allowed that very file, and never overrides a repository in a file that
the user named.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, cast

from dockercomms.errors import ConfigError, NoHomeError, UsageError
from dockercomms.platforms.files import base_folder, expand_home, local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import DEFAULT_TTL_SECONDS

Format = Literal["text", "json", "jsonl"]
FORMATS: tuple[Format, ...] = ("text", "json", "jsonl")
Compress = Literal["auto", "zstd", "gzip"]
COMPRESS: tuple[Compress, ...] = ("auto", "zstd", "gzip")
Discovery = Literal["auto", "referrers", "tags"]
DISCOVERY: tuple[Discovery, ...] = ("auto", "referrers", "tags")
TrustedClock = Literal["both", "own", "registry"]
TRUSTED_CLOCKS: tuple[TrustedClock, ...] = ("both", "own", "registry")
ReferrersIndex = Literal["auto", "never", "always"]
REFERRERS_INDEX: tuple[ReferrersIndex, ...] = ("auto", "never", "always")
FormChoice = Literal["auto", "artifact", "image"]
FORM_CHOICES: tuple[FormChoice, ...] = ("auto", "artifact", "image")

PROJECT_FILE = ".dockercomms.toml"
DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_CONCURRENCY = 4
MAX_CONCURRENCY = 64
"""More connections only wait in the registry's queue."""
DEFAULT_KEY = "default"
MAX_DURATION_SECONDS = 100 * 366 * 86_400
"""A hundred years: a time so far ahead still fits into the calendar of Python."""
MAX_SIZE_BYTES = 2**63 - 1
"""The largest file offset on any supported system."""

_UNIT_SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_ISO_DURATION = re.compile(
    r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII
)
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(i?B)?|B)?", re.ASCII | re.IGNORECASE)
_LAYOUT_REPO = re.compile(r"(oci-layout:|oci-archive:|oci:(?!//)|ocidir://)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a command, beside its own arguments."""

    repo: str | None = None
    """Default: the user's own mailbox folder."""
    me: str | None = None
    """Default: the login name, if the system knows one."""
    format: Format = "text"
    plain_http: bool | None = None
    """Default: HTTPS first, plain HTTP for loopback only."""
    insecure: bool = False
    ca_file: str | None = None
    authfile: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    """The longest time for a single answer, in seconds."""
    concurrency: int = DEFAULT_CONCURRENCY
    ttl_seconds: int = DEFAULT_TTL_SECONDS
    compress: Compress = "auto"
    chunk_bytes: int | None = None
    """Default: depends on the payload's size."""
    keep_mtime: bool = False
    out: str = "."
    flat: bool = False
    receipt: bool = True
    discovery: Discovery = "auto"
    referrers_index: ReferrersIndex = "auto"
    manifest_form: FormChoice = "auto"
    clock: TrustedClock = "both"
    """The clock that decides; "both" holds a message if the clocks disagree."""
    trust: str | None = None
    """The trust file. Default: `trust.toml` beside the user's configuration."""
    sign: bool = True
    key: str = DEFAULT_KEY
    keyless: bool = False
    """Sign with an identity instead of a key."""
    identity_token: str | None = None
    """The file with an identity token."""
    token: str | None = field(default=None, repr=False)
    """The identity token itself."""
    interactive: bool = False
    """Sign in through a browser."""
    trusted_root: str | None = None
    signing_config: str | None = None
    """Set both or neither, for a private Sigstore."""
    timestamp: str | None = None
    """The address of the RFC 3161 authority that timestamps key signatures."""
    default_registry: str | None = None
    """The host of a reference without one, for `reg`. Default: such a reference is an error."""
    hub_proxy: str | None = None
    """The address of a proxy of Docker Hub for reads, for `reg`."""
    registry_chunk_bytes: int | None = None
    """The largest piece of a blob in one request, for `reg`. Default: no limit of ours."""
    retry_seconds: int | None = None
    """The time for all tries of one request of `reg`. Default: by its retry policy."""
    repo_is_named: bool = True
    """False if only a project file that the user allowed sets `repo`."""
    not_allowed: tuple[str, str] | None = None
    """A project file that the user has not allowed, and the repository that it names."""
    origins: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The source of each field's value: a file, a variable, `flag` or `login name`."""


# --- the spelling of values ----------------------------------------------------------------------


def duration_seconds(text: str) -> int:
    """Return the seconds in `text`: `7d`, `1d12h`, `90m`, `45` (seconds) or ISO 8601's `P7D`.

    Raises:
        ValueError: another form, zero, or more than a hundred years.
    """
    compact = "".join(text.split())
    match = _DURATION.fullmatch(compact) or _ISO_DURATION.fullmatch(compact)
    if compact.isascii() and compact.isdigit():
        seconds = int(compact)
    elif match is not None and any(match.groups()):
        counts = zip(match.groups(), _UNIT_SECONDS.values(), strict=True)
        seconds = sum(int(count) * unit for count, unit in counts if count)
    else:
        raise ValueError(f"a duration such as 7d, 12h, 30m, 45s or P7D expected, got {text!r:.60}")
    if not 0 < seconds <= MAX_DURATION_SECONDS:
        raise ValueError(f"a duration of 1 s to 100 years expected, got {text!r:.60}")
    return seconds


def size_bytes(text: str) -> int:
    """Return the bytes in `text`: `16MiB` and `16M` count in 1024s, `16MB` in 1000s.

    Raises:
        ValueError: another form, zero, or more than a file can hold.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a size such as 16MiB, 4M or 1000000 expected, got {text!r:.60}")
    base = 1000 if (match[3] or "").lower() == "b" else 1024
    power = "kmgt".index(match[2].lower()) + 1 if match[2] else 0
    size: int = int(match[1]) * base**power
    if not 0 < size <= MAX_SIZE_BYTES:
        raise ValueError(f"a size of 1 byte to 8 EiB expected, got {text!r:.60}")
    return size


Spelling = Callable[[object, Path | None], object]
"""A function from the value in a file or variable, and the base folder of relative paths, to the
value of the field. It raises ValueError with the expected form."""


def _text(value: object, _: Path | None) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text that is not empty expected, got {value!r:.60}")
    return value


def _address(value: object, base: Path | None) -> str:
    text = _text(value, base)
    if not text.startswith(("https://", "http://")):
        raise ValueError(f"an address with https:// expected, got {text!r:.60}")
    return text


def _home(path: str) -> Path:
    try:
        return expand_home(path)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _path(value: object, base: Path | None) -> str:
    path = _home(_text(value, base))
    return str(path if base is None else base / path)


def _out(value: object, base: Path | None) -> str:
    """Read an output folder; a relative path starts from the current folder."""
    return str(_home(_text(value, base)))


def _repo(value: object, base: Path | None) -> str:
    text = _text(value, base)
    layout = _LAYOUT_REPO.fullmatch(text)
    return text if layout is None else layout[1] + _path(layout[2], base)


def _flag(value: object, _: Path | None) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError(f"true or false expected, got {value!r:.60}")


def _duration(value: object, _: Path | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(  # noqa: TRY004 - a wrong value in a file or variable
            f"a duration such as 7d or 90 (seconds) expected, got {value!r:.60}"
        )
    return duration_seconds(str(value))


def _size(value: object, _: Path | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(  # noqa: TRY004 - as above
            f"a size such as 16MiB expected, got {value!r:.60}"
        )
    return size_bytes(str(value))


def _concurrency(value: object, _: Path | None) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_CONCURRENCY):
        raise ValueError(f"a number from 1 to {MAX_CONCURRENCY} expected, got {value!r:.60}")
    return int(text)


def _one_of(*words: str) -> Spelling:
    def read(value: object, _: Path | None) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)} expected, got {value!r:.60}")
        return str(value)

    return read


# --- the keys ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Key:
    """One setting: its name in a file, its field, and whether a project file may set it."""

    name: str
    field: str
    read: Spelling
    in_project: bool = True

    @property
    def variable(self) -> str:
        return "DOCKERCOMMS_" + self.name.replace(".", "_").upper()


_KEYS = (
    _Key("repo", "repo", _repo),
    # The user's name must not depend on the current folder.
    _Key("me", "me", _text, in_project=False),
    _Key("format", "format", _one_of(*FORMATS)),
    _Key("concurrency", "concurrency", _concurrency),
    _Key("send.ttl", "ttl_seconds", _duration),
    _Key("send.compress", "compress", _one_of(*COMPRESS)),
    _Key("send.chunk_size", "chunk_bytes", _size),
    _Key("send.keep_mtime", "keep_mtime", _flag),
    _Key("recv.receipt", "receipt", _flag),
    _Key("discovery", "discovery", _one_of(*DISCOVERY)),
    _Key("referrers_index", "referrers_index", _one_of(*REFERRERS_INDEX)),
    _Key("manifest_form", "manifest_form", _one_of(*FORM_CHOICES)),
    _Key("registry.chunk_size", "registry_chunk_bytes", _size),
    # A checkout must not choose the folder for received files, nor weaken or tap a connection.
    _Key("recv.out", "out", _out, in_project=False),
    _Key("recv.flat", "flat", _flag, in_project=False),
    _Key("plain_http", "plain_http", _flag, in_project=False),
    _Key("insecure", "insecure", _flag, in_project=False),
    _Key("ca_file", "ca_file", _path, in_project=False),
    _Key("authfile", "authfile", _path, in_project=False),
    _Key("trust", "trust", _path, in_project=False),
    _Key("clock", "clock", _one_of(*TRUSTED_CLOCKS), in_project=False),
    _Key("sign", "sign", _flag, in_project=False),
    _Key("key", "key", _text, in_project=False),
    _Key("keyless", "keyless", _flag, in_project=False),
    _Key("identity_token_file", "identity_token", _path, in_project=False),
    _Key("trusted_root", "trusted_root", _path, in_project=False),
    _Key("signing_config", "signing_config", _path, in_project=False),
    _Key("timestamp", "timestamp", _address, in_project=False),
    _Key("timeout", "timeout", _duration, in_project=False),
    _Key("default_registry", "default_registry", _text, in_project=False),
    _Key("registry.hub_proxy", "hub_proxy", _text, in_project=False),
)
_BY_NAME = {key.name: key for key in _KEYS}
_TABLES = frozenset(key.name.partition(".")[0] for key in _KEYS if "." in key.name)
_NEVER_IN_PROJECT = frozenset({"key", "keys", "trust", "hook", "hooks", "helper", "helpers"})


# --- the layers ----------------------------------------------------------------------------------


Allowed = Callable[[Path, bytes], bool]
"""Returns whether the user allowed a project file with that content to name the repository."""


def load(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str],
    folder: Path,
    named: str | None = None,
    allowed: Allowed = lambda path, data: False,  # noqa: ARG005 - allows no file
) -> Settings:
    """Return the settings for one command.

    Args:
        flags: Field name to parsed value; only of the flags on the command line.
        environ: The environment.
        folder: The current folder; the search for a project file starts here.
        named: The user's file. Default: by the environment.
        allowed: Called for a project file that names the repository.

    Raises:
        ConfigError: a file or variable is wrong; names it, the line and the expected form.
        UsageError: a user name without a password.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    project, not_allowed = project_file(folder, environ, named=named), None
    for layer in (
        _user_file(environ, named),
        () if project is None else _file(project, project=True, allowed=allowed),
        _environment(environ),
        ((name, value, "flag") for name, value in flags.items()),
    ):
        for name, value, origin in layer:
            if origin == str(project) and name in ("repo", "not_allowed"):
                if "repo" in values and _names_user_file(environ, named):
                    continue  # the user named the other file
                if name == "not_allowed":
                    not_allowed = (str(project), str(value))
                    continue
            values[name] = value
            origins[name] = origin
    if origins.get("repo") in ("flag", "DOCKERCOMMS_REPO"):
        not_allowed = None
    if "me" not in values and (login := _login_name(environ)):
        values["me"], origins["me"] = login, "login name"
    if (values.get("username") is None) != (values.get("password") is None):
        raise UsageError(
            "give both a user name and a password, or neither",
            hint="--username NAME --password-stdin, or DOCKERCOMMS_USERNAME and "
            "DOCKERCOMMS_PASSWORD",
        )
    return Settings(
        **cast("dict[str, Any]", values),
        repo_is_named=project is None or origins.get("repo") != str(project),
        not_allowed=not_allowed,
        origins=origins,
    )


Layer = Iterator[tuple[str, object, str]]
"""Field name, value, origin."""


def user_file(environ: Mapping[str, str], *, named: str | None = None) -> Path | None:
    """Return the path of the user's file, which may not exist, if the user has a home folder.

    Args:
        environ: The environment.
        named: The file that `--config` names.
    """
    named = named or environ.get("DOCKERCOMMS_CONFIG")
    if named:
        return Path(named)
    try:
        return base_folder("XDG_CONFIG_HOME", environ) / "dockercomms" / "config.toml"
    except NoHomeError:
        return None


def project_file(
    folder: Path, environ: Mapping[str, str], *, named: str | None = None
) -> Path | None:
    """Return the nearest project file from `folder` up to the top of its checkout, if any.

    Without a checkout only `folder` itself counts: a file planted above it, for example in /tmp,
    must not redirect messages. The file that the user named as their own is no project file.
    """
    above = (folder, *folder.parents)
    tops = (index for index, place in enumerate(above) if _is_there(place / ".git"))
    own = user_file(environ, named=named)
    for place in above[: next(tops, 0) + 1]:
        candidate = place / PROJECT_FILE
        if not _is_there(candidate) or not candidate.is_file():
            continue
        if own is None or not _is_there(own) or not own.samefile(candidate):
            return candidate
    return None


def _is_there(path: Path) -> bool:
    """Return whether `path` exists; False in a folder without permission to enter."""
    try:
        return path.exists()
    except PermissionError:
        return False


def project_repo(path: Path) -> tuple[bytes, str | None]:
    """Return the content of a project file and the repository that it names, if any.

    Raises:
        ConfigError: the file is wrong.
    """
    data = _read(path)
    found = dict(_parse(path, data, project=True))
    repo = found.get("repo")
    return data, None if repo is None else str(repo)


def _names_user_file(environ: Mapping[str, str], named: str | None) -> bool:
    return bool(named or environ.get("DOCKERCOMMS_CONFIG"))


def _user_file(environ: Mapping[str, str], named: str | None) -> Layer:
    path = user_file(environ, named=named)
    if path is None:
        return
    with local_errors(str(path), base="XDG_CONFIG_HOME"):
        exists = path.exists()  # not is_file: /dev/null stands for an empty configuration
    if exists:
        yield from _file(path, project=False)
    elif _names_user_file(environ, named):
        raise ConfigError(
            f"{path}: no such file",
            hint="correct --config FILE"
            if named
            else "correct or unset the variable DOCKERCOMMS_CONFIG",
        )


def _environment(environ: Mapping[str, str]) -> Layer:
    for key in _KEYS:
        text = environ.get(key.variable)
        if text:
            try:
                yield key.field, key.read(text, None), key.variable
            except ValueError as error:
                raise ConfigError(f"{key.variable}: {error}") from error
    for name, variable in (
        ("username", "DOCKERCOMMS_USERNAME"),
        ("password", "DOCKERCOMMS_PASSWORD"),
        ("token", "DOCKERCOMMS_IDENTITY_TOKEN"),
    ):
        if environ.get(variable):
            yield name, environ[variable], variable


def _file(path: Path, *, project: bool, allowed: Allowed | None = None) -> Layer:
    """Yield the settings of a file; the repository of a forbidden project file as `not_allowed`.

    Raises:
        ConfigError: the file is unreadable or not TOML, a key is unknown or not allowed in this
            file, or a value is wrong.
    """
    data = _read(path)  # once: check and use the same bytes
    for name, value in _parse(path, data, project=project):
        counts = name != "repo" or allowed is None or allowed(path, data)
        yield name if counts else "not_allowed", value, str(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _parse(path: Path, data: bytes, *, project: bool) -> Iterator[tuple[str, object]]:
    try:
        text = data.decode("utf-8-sig")  # Notepad and PowerShell write a byte order mark
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    for name, value in _flatten(document):
        place = f"{path}, line {_line_of(text, name)}: {name}"
        key = _BY_NAME.get(name)
        if project and (
            name.partition(".")[0] in _NEVER_IN_PROJECT or (key and not key.in_project)
        ):
            raise ConfigError(
                f"{place}: a project file may not set this, because it comes with a checkout",
                hint="set it in your own config.toml, with a DOCKERCOMMS_ variable or an option;\n"
                "or use the file as your own: --config FILE",
            )
        if key is None:
            raise ConfigError(f"{place}: unknown key", hint=f"the keys are {', '.join(_BY_NAME)}")
        try:
            yield key.field, key.read(value, path.parent)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error


def _flatten(document: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if name in _TABLES and isinstance(value, dict):
            for inner, inner_value in value.items():
                yield f"{name}.{inner}", inner_value
        else:
            yield name, value


def _line_of(text: str, name: str) -> int:
    """Return the number of the line that sets `name`, since the parser keeps no numbers.

    It follows table headers, and finds an inline table by its name. Default: the first line.
    """
    table, _, leaf = name.rpartition(".")
    wanted = {(table, leaf), ("", name), ("", table), (name, "")}
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if header is not None:
            current = _plain_key(header[1])
            if (current, "") in wanted or current.startswith(f"{name}."):
                return number
            continue
        key = _plain_key(line.partition("=")[0])
        if key and (current, key) in wanted:
            return number
    return 1


def _plain_key(text: str) -> str:
    """Return a dotted key without quotes and without spaces around its dots."""
    return ".".join(part.strip().strip("\"'") for part in text.split("."))


def _login_name(environ: Mapping[str, str]) -> str | None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if environ.get(variable):
            return environ[variable]
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return None
