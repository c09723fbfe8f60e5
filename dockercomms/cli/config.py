"""Settings from defaults < user file < project file < environment < flags.

Only the command line reads these; the library takes values. The user's file is
`$XDG_CONFIG_HOME/dockercomms/config.toml` (`--config` or `DOCKERCOMMS_CONFIG` names another), the
project's is `.dockercomms.toml` in the current folder or above it, up to the top of its checkout. A
project file comes with a checkout, so it may choose how messages are packed, but not who the user
is, nor anything that weakens a connection, chooses a file on this machine, or names a program. Its
repository counts only after the user allowed that very file, and never before one that a file
names which the user named.
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
"""Connections beyond this only queue up at the registry."""
DEFAULT_KEY = "default"
MAX_DURATION_SECONDS = 100 * 366 * 86_400
"""A hundred years: a date this far ahead still fits into every calendar we compute with."""
MAX_SIZE_BYTES = 2**63 - 1
"""The largest offset a file has on any supported system."""

_UNIT_SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_ISO_DURATION = re.compile(
    r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII
)
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(i?B)?|B)?", re.ASCII | re.IGNORECASE)
_LAYOUT_REPO = re.compile(r"(oci-layout:|oci-archive:|oci:(?!//)|ocidir://)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a command needs to know that is not its own argument."""

    repo: str | None = None
    """None: the user's own mailbox folder."""
    me: str | None = None
    """None: no login name could be found either."""
    format: Format = "text"
    plain_http: bool | None = None
    """None: HTTPS first, plain HTTP for loopback only."""
    insecure: bool = False
    ca_file: str | None = None
    authfile: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    """Seconds a single answer may take."""
    concurrency: int = DEFAULT_CONCURRENCY
    ttl_seconds: int = DEFAULT_TTL_SECONDS
    compress: Compress = "auto"
    chunk_bytes: int | None = None
    """None: chosen from the payload's size."""
    keep_mtime: bool = False
    out: str = "."
    flat: bool = False
    receipt: bool = True
    discovery: Discovery = "auto"
    """How messages are looked for."""
    referrers_index: ReferrersIndex = "auto"
    """Whether the fallback index of the tag schema is written."""
    manifest_form: FormChoice = "auto"
    """How manifests say what they are."""
    clock: TrustedClock = "both"
    """Whose time decides; "both": where they differ, the message is held."""
    trust: str | None = None
    """The trust file; None: `trust.toml` beside the user's own configuration."""
    sign: bool = True
    key: str = DEFAULT_KEY
    """The name of the key to sign with."""
    keyless: bool = False
    """Sign as an identity instead."""
    identity_token: str | None = None
    """The file of an identity token."""
    token: str | None = field(default=None, repr=False)
    """The token itself."""
    interactive: bool = False
    """Sign in through a browser."""
    trusted_root: str | None = None
    signing_config: str | None = None
    """Another Sigstore than the public one: both are given, or neither."""
    timestamp: str | None = None
    """Address of the RFC 3161 authority that attests to the time of key signatures."""
    default_registry: str | None = None
    """The host of a reference without one, for `reg`; None: that is an error."""
    hub_proxy: str | None = None
    """Address of what is read in place of Docker Hub, for `reg`."""
    registry_chunk_bytes: int | None = None
    """The largest piece of a blob in one request, for `reg`; None: no limit of ours."""
    retry_seconds: int | None = None
    """How long one request of `reg` is tried, in all; None: as its retry policy says."""
    repo_is_named: bool = True
    """The user named `repo`: by a flag, a variable or their own file. Off: a project file that
    they allowed."""
    not_allowed: tuple[str, str] | None = None
    """A project file that the user did not allow, and the repository that it names."""
    origins: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Field name to where its value came from: a file, a variable, `flag` or `login name`."""


# --- how values are spelled ----------------------------------------------------------------------


def duration_seconds(text: str) -> int:
    """Return the seconds in `text`: `7d`, `1d12h`, `90m`, `45` (seconds) or ISO 8601's `P7D`.

    Raises:
        ValueError: anything else, nothing at all, or more than a hundred years.
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
        ValueError: anything else, zero, or more than a file can hold.
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
"""Takes what stands in a file or variable and the folder relative paths start from (None: the
current one); returns the value of the field, or raises ValueError saying what is expected."""


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
    """Read an output folder, which stays relative to where the command is run."""
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
        raise ValueError(  # noqa: TRY004 - a wrong value, whoever wrote it
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
    """One setting: its name in a file, its field, and who may set it."""

    name: str
    field: str
    read: Spelling
    in_project: bool = True

    @property
    def variable(self) -> str:
        return "DOCKERCOMMS_" + self.name.replace(".", "_").upper()


_KEYS = (
    _Key("repo", "repo", _repo),
    # Who the user is must not depend on the folder they are in.
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
    # A checkout must not choose where a stranger's files land, nor weaken or tap a connection.
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
"""Says whether the user allowed a project file with that content to name the repository."""


def load(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str],
    folder: Path,
    named: str | None = None,
    allowed: Allowed = lambda path, data: False,  # noqa: ARG005 - none is allowed
) -> Settings:
    """Return the settings for one command.

    Args:
        flags: Field name to value, already read; what was not given is absent.
        environ: The environment.
        folder: Where the command is run: a project file is looked for here and above.
        named: The file to read as the user's own; None: as the environment says.
        allowed: Asked about a project file that names the repository.

    Raises:
        ConfigError: a file or variable is wrong; says which, which line, and what is expected.
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
                    continue  # the user named the file that names it
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
            "a user name and a password are given together or not at all",
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
    """Return where the user's own file is, whether or not it exists; None: they have no home.

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

    Without a checkout only `folder` itself counts: a file planted above, in /tmp say, must not
    redirect what is sent from below it. One that is named as the user's own is none.
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
    """Return whether `path` exists; False in a folder that this user may not enter."""
    try:
        return path.exists()
    except PermissionError:
        return False


def project_repo(path: Path) -> tuple[bytes, str | None]:
    """Return the content of a project file and the repository that it names, if any.

    Raises:
        ConfigError: it is wrong.
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
        exists = path.exists()  # not is_file: /dev/null is how to have no configuration
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
    """Yield what a file sets; the repository of a project file as `not_allowed`, unless it is.

    Raises:
        ConfigError: not readable, not TOML, an unknown key, a key this file may not set, or a
            value that is wrong.
    """
    data = _read(path)  # once: what is judged is what is used
    for name, value in _parse(path, data, project=project):
        counts = name != "repo" or allowed is None or allowed(path, data)
        yield name if counts else "not_allowed", value, str(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _parse(path: Path, data: bytes, *, project: bool) -> Iterator[tuple[str, object]]:
    """Yield the field and value of each key in a file, as `_file`."""
    try:
        text = data.decode("utf-8-sig")  # Notepad and PowerShell begin files with a mark
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
                hint="set it in your own config.toml, by a DOCKERCOMMS_ variable or by a flag; or "
                "name the file as meant: --config FILE",
            )
        if key is None:
            raise ConfigError(f"{place}: no such key", hint=f"the keys are {', '.join(_BY_NAME)}")
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
    """Return the number of the line that sets `name`; the parser does not tell.

    Follows table headers; an inline table is found by its own name. The first line if all fails.
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
    """Return a dotted key without quotes and without blanks around its dots."""
    return ".".join(part.strip().strip("\"'") for part in text.split("."))


def _login_name(environ: Mapping[str, str]) -> str | None:
    """Return the name of the user who runs this, None where the system knows none."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if environ.get(variable):
            return environ[variable]
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return None
