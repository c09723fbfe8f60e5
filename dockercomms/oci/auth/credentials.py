"""Logins in the configuration files and credential programs of docker and podman.

A credential program, `docker-credential-NAME get`, asks a keychain or a cloud for a login. It reads
the server's name on standard input and writes a JSON object.

Sources: the manual pages docker-login and containers-auth.json(5); the README of
docker-credential-helpers, "Development".
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from dockercomms.errors import ConfigError
from dockercomms.oci.reference import HUB_HOSTS
from dockercomms.platforms.files import home_folder
from dockercomms.platforms.records import dataclass

HELPER_TIMEOUT_SECONDS = 60.0
"""A keychain may ask its user to unlock it; a cloud's program uses the network."""

MAX_ANSWER_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    """The response of a credential program."""

    username: str
    secret: str = field(repr=False)


def is_installed(suffix: str, env: Mapping[str, str]) -> bool:
    """Return whether the credential program `suffix` is on the PATH of `env`."""
    return shutil.which(f"docker-credential-{suffix}", path=env.get("PATH", "")) is not None


def ask_program(
    suffix: str,
    server: str,
    *,
    env: Mapping[str, str],
    timeout_seconds: float = HELPER_TIMEOUT_SECONDS,
    named_by: str,
    required: bool = True,
) -> ProgramAnswer | None:
    """Return the login that `docker-credential-<suffix>` has for `server`, `None` without one.

    Args:
        suffix: The program's name without `docker-credential-`.
        server: A host, or Docker Hub's address.
        env: The environment; the program is looked up on its PATH.
        timeout_seconds: The program is killed after this time.
        named_by: The configuration that names the program, for errors.
        required: False if a program that is not installed has no login.

    Raises:
        ConfigError: not installed, failed, too slow, or not the protocol's JSON.
    """
    name = f"docker-credential-{suffix}"
    if not _NAME.fullmatch(suffix):
        raise ConfigError(f"{named_by}: not the name of a credential program: {suffix!r:.100}")
    path = shutil.which(name, path=env.get("PATH", ""))
    if path is None:
        if not required:
            return None
        raise ConfigError(
            f"{name} is not installed, but {named_by} names it for {server}",
            hint=f"install {name} on PATH, or take the entry out of {named_by}",
        )
    code, output, talk = _run(name, path, server, env, timeout_seconds)
    if code != 0:
        said = (output.strip() or talk.strip()).decode("utf-8", "replace")
        if said.startswith(_NOT_FOUND):  # the protocol has no other sign of it
            return None
        raise ConfigError(
            f"{name} (named by {named_by}) failed for {server} with code {code}: "
            f"{said!r:.{_SHOWN_CHARACTERS}}"
        )
    return _parse(name, named_by, output)


def _run(
    name: str, path: str, server: str, env: Mapping[str, str], timeout_seconds: float
) -> tuple[int, bytes, bytes]:
    """Run the program; return its exit code, output and error output."""
    try:
        process = subprocess.Popen(
            [path, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
        )
    except OSError as error:
        raise ConfigError(f"{name} cannot be run: {error.strerror or error}") from error
    with process:
        try:
            output, talk = process.communicate(server.encode(), timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            # not communicate() again: a child of the program may hold the pipes open for ever
            process.kill()
            raise ConfigError(
                f"{name} gave no answer for {server} in {timeout_seconds:g} s"
            ) from error
    return process.returncode, output, talk


def _parse(name: str, named_by: str, output: bytes) -> ProgramAnswer:
    """Return the answer; errors never show its text, for it holds a secret."""
    where = f"{name} (named by {named_by})"
    if len(output) > MAX_ANSWER_BYTES:
        raise ConfigError(f"{where}: its answer is larger than {MAX_ANSWER_BYTES} bytes")
    try:
        data = json.loads(output)
    except (ValueError, RecursionError):
        # from None: the original error holds the whole text
        raise ConfigError(f"{where}: its answer is not JSON") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: its answer is not a JSON object")
    username, secret = data.get("Username", ""), data.get("Secret", "")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ConfigError(f"{where}: Username and Secret must be text")
    return ProgramAnswer(username, secret)


HUB_KEY = "https://index.docker.io/v1/"
"""The key of Docker Hub's login in docker's files."""

MAX_CONFIG_BYTES = 4 * 2**20
"""Room for more than ten thousand logins; a larger file is no configuration."""

IDENTITY_USER = "<token>"
"""A credential program returns this user name with an identity token as its secret."""

RUNTIME_FOLDER = Path("/run/containers")
"""podman's folder of logins without XDG_RUNTIME_DIR, with a folder for each user's number."""

_TOKEN_TEXT = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A login. Its secrets never show in its `repr`."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, exchanged for access tokens at the registry's token server. A user name and
    password beside it are used if that server takes no POST, and if the registry wants Basic."""
    registry_token: str = field(default="", repr=False)
    """A bearer token for the registry itself."""
    source: str = field(default="", compare=False)
    """The source, for people: a variable, a file, a program."""
    also_in: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Sources of lower rank with an unused entry for the same registry."""

    def __post_init__(self) -> None:
        if ":" in self.username:
            raise ConfigError(f"{self.source or 'login'}: a user name cannot contain a colon")
        # it is sent unchanged as a header
        if not _TOKEN_TEXT.fullmatch(self.registry_token):
            raise ConfigError(f"{self.source or 'login'}: the registry token is not printable text")

    def basic_header(self) -> str | None:
        """Return the value of an `Authorization` header, `None` without a user and password.

        A user name alone beside an identity token is a placeholder.

        Source: RFC 7617, with UTF-8.
        """
        if not self.password and (self.identity_token or not self.username):
            return None
        return basic_header(self.username, self.password)


def basic_header(username: str, password: str) -> str:
    """Return the Basic authorization of a user and password (RFC 7617, with UTF-8)."""
    pair = f"{username}:{password}".encode(errors="surrogateescape")
    return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """One configuration file, or a variable with the same content."""

    name: str
    """The variable or the path that it came from."""
    auths: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    cred_helpers: Mapping[str, str] = field(default_factory=dict, hash=False)
    creds_store: str = ""

    @classmethod
    def parse(cls, name: str, text: str) -> ConfigSource:
        """Return the source in the JSON `text`; empty text is an empty configuration.

        Single entries of `auths` are checked when they are used, so that a broken entry affects
        only its own registry.

        Raises:
            ConfigError: not JSON of the right shape; names the source.
        """
        try:
            text = text.strip().removeprefix("\ufeff")  # of Notepad and PowerShell
            data = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            # from None: the original error holds the whole text, and so its secrets
            raise ConfigError(f"{name}: not a docker configuration: not JSON") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{name}: not a docker configuration: a JSON object expected")
        auths, helpers = data.get("auths") or {}, data.get("credHelpers") or {}
        store = data.get("credsStore") or ""
        if not isinstance(auths, dict):
            raise ConfigError(f"{name}: auths: a JSON object expected")
        if not isinstance(helpers, dict) or not all(isinstance(v, str) for v in helpers.values()):
            raise ConfigError(f"{name}: credHelpers: an object of program names expected")
        if not isinstance(store, str):
            raise ConfigError(f"{name}: credsStore: a program name expected")
        return cls(name=name, auths=auths, cred_helpers=helpers, creds_store=store)

    def mentions(self, host: str, repository: str) -> bool:
        """Return whether there is an entry, valid or not, without asking any program."""
        tables = (self.cred_helpers, self.auths)
        try:
            return any(
                True for table in tables for _ in _matches(self.name, table, host, repository)
            )
        except ConfigError:
            return True


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The logins of this user, from the sources in their order. Safe for several threads."""

    sources: tuple[ConfigSource, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    """The environment in which credential programs are found and run."""
    helper_timeout_seconds: float = HELPER_TIMEOUT_SECONDS

    @classmethod
    def load(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        authfile: str | os.PathLike[str] | None = None,
        helper_timeout_seconds: float = HELPER_TIMEOUT_SECONDS,
        runtime_folder: Path = RUNTIME_FOLDER,
    ) -> DockerConfig:
        """Return the configuration of `env` (`None`: of this process).

        The sources, in this order: the variable DOCKER_AUTH_CONFIG; `authfile`, else the file named
        by REGISTRY_AUTH_FILE, and then no others; config.json of $DOCKER_CONFIG, else of ~/.docker;
        podman's auth.json of $XDG_RUNTIME_DIR (if unset, of this user's folder in `runtime_folder`)
        and of $XDG_CONFIG_HOME. Missing files are skipped, unless the caller or a variable names
        the file.

        Raises:
            ConfigError: a file or the variable cannot be read or is not JSON; names it.
        """
        environment = dict(os.environ if env is None else env)
        texts: list[tuple[str, str | None]] = []
        if text := environment.get("DOCKER_AUTH_CONFIG"):
            texts.append(("DOCKER_AUTH_CONFIG", text))
        if named := authfile or environment.get("REGISTRY_AUTH_FILE"):
            texts.append((os.fspath(named), _read(Path(named), required=True)))
        else:
            files = _default_files(environment, runtime_folder, process=env is None)
            texts += [(str(path), _read(path, required=False)) for path in files]
        sources = [ConfigSource.parse(name, text) for name, text in texts if text is not None]
        return cls(tuple(sources), environment, helper_timeout_seconds)

    def entry(self, host: str, repository: str = "") -> Credentials | None:
        """Return the login for `repository` of the registry `host`, `None` without one.

        In each source, a credential program for the host decides, else the store for all hosts if
        it is installed, else the source's own entries; in each of them the most specific namespace.
        If a program has no login, an entry beside it is stale and is ignored.

        Raises:
            ConfigError: an entry cannot be read, or a program failed; names source and program.
        """
        for rank, source in enumerate(self.sources):
            if found := self._look_in(source, host, repository):
                others = self.sources[rank + 1 :]
                names = tuple(other.name for other in others if other.mentions(host, repository))
                return replace(found, also_in=names)
        return None

    def _look_in(self, source: ConfigSource, host: str, repository: str) -> Credentials | None:
        for key in _matches(source.name, source.cred_helpers, host, repository):
            program = source.cred_helpers[key]
            # The program decides, even without a login: other entries of the file are stale
            return self._ask(source, program, host, required=True)
        if source.creds_store and is_installed(source.creds_store, self.env):
            return self._ask(source, source.creds_store, host, required=False)
        for key in _matches(source.name, source.auths, host, repository):
            if found := _inline(source, key):
                return found
        return None

    def _ask(
        self, source: ConfigSource, suffix: str, host: str, *, required: bool
    ) -> Credentials | None:
        """Ask a credential program. A store that is not installed is ignored, as in docker."""
        answer = ask_program(
            suffix,
            HUB_KEY if host in HUB_HOSTS else host,
            env=self.env,
            timeout_seconds=self.helper_timeout_seconds,
            named_by=source.name,
            required=required,
        )
        if answer is None or not answer.secret:
            return None
        name = f"{source.name} (docker-credential-{suffix})"
        if answer.username == IDENTITY_USER:
            return Credentials(identity_token=answer.secret, source=name)
        return Credentials(username=answer.username, password=answer.secret, source=name)


def _home(env: Mapping[str, str], *, process: bool) -> Path | None:
    if home := env.get("HOME") or env.get("USERPROFILE"):
        return Path(home)
    return home_folder(env) if process else None


def _default_files(
    env: Mapping[str, str], runtime_folder: Path, *, process: bool
) -> Iterator[Path]:
    """Yield the paths of docker's file and podman's two, even if they do not exist."""
    home = _home(env, process=process)
    if folder := env.get("DOCKER_CONFIG"):
        yield Path(folder, "config.json")
    elif home:
        yield home / ".docker" / "config.json"
    if folder := env.get("XDG_RUNTIME_DIR"):
        yield Path(folder, "containers", "auth.json")
    elif hasattr(os, "getuid"):  # Windows has no such numbers, and no such folder
        yield runtime_folder / str(os.getuid()) / "auth.json"
    if folder := env.get("XDG_CONFIG_HOME"):
        yield Path(folder, "containers", "auth.json")
    elif home:
        yield home / ".config" / "containers" / "auth.json"


def _read(path: Path, *, required: bool) -> str | None:
    """Return the file's text, `None` if it is missing and not required."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        if not required and isinstance(error, FileNotFoundError | NotADirectoryError):
            return None
        hint = None
        if isinstance(error, PermissionError) and not required:
            hint = "set DOCKER_CONFIG and XDG_CONFIG_HOME, or HOME, to folders that you may read"
        raise ConfigError(f"{path}: {error.strerror or error}", hint=hint) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a docker configuration: not UTF-8") from error


def _key_name(key: str) -> str:
    """Return the `host` or `host/namespace` that a key of a table stands for.

    docker keeps only the host of an address with a scheme.
    """
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0].lower()
    name = key.rstrip("/").lower()
    return name.removesuffix("/v1").removesuffix("/v2")


def _matches(source: str, table: Mapping[str, Any], host: str, repository: str) -> Iterator[str]:
    """Yield the keys of `table` that match the repository, most specific first.

    Raises:
        ConfigError: two keys, both not in the plain form, stand for the same place.
    """
    hub = host in HUB_HOSTS
    aliases = sorted(HUB_HOSTS) if hub else [host.lower()]
    keys: dict[str, list[str]] = {}
    for key, value in table.items():
        if value and key != HUB_KEY:
            keys.setdefault(_key_name(key), []).append(key)
    path = repository
    while True:
        if hub and not path and table.get(HUB_KEY):
            yield HUB_KEY
        for alias in aliases:
            name = f"{alias}/{path}" if path else alias
            candidates = keys.get(name, [])
            if name in candidates:
                yield name
            elif len(candidates) > 1:
                raise ConfigError(f"{source}: more than one entry for {name}: {candidates}")
            else:
                yield from candidates
        if not path:
            return
        path = path.rpartition("/")[0]


def _inline(source: ConfigSource, key: str) -> Credentials | None:
    """Return the login in the source itself under `key`, `None` for an empty one."""
    entry = source.auths[key]
    where = f"{source.name}: auths {key!r}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: a JSON object expected")
    names = ("auth", "username", "password", "identitytoken", "registrytoken")
    values = {name: entry.get(name) or "" for name in names}
    for name, value in values.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {name}: text expected")
    username, password = values["username"], values["password"]
    if values["auth"]:
        try:
            username, password = _decode_auth(where, values["auth"])
        except ConfigError:
            # registries store both; the password beside an identity token may be a placeholder
            if not values["identitytoken"]:
                raise
    login = Credentials(
        username=username,
        password=password,
        identity_token=values["identitytoken"],
        registry_token=values["registrytoken"],
        source=source.name,
    )
    return None if login == Credentials() else login


def _decode_auth(where: str, text: str) -> tuple[str, str]:
    """Return user name and password; docker for Windows pads the password with NULs.

    As in Go's clients, line ends are skipped and the password is taken as bytes (those that are not
    UTF-8 as surrogates, PEP 383). Other white space and missing padding are accepted too.
    """
    packed = "".join(text.split()).rstrip("=")
    try:
        pair = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
        name, colon, secret = pair.partition(b":")
        username = name.decode()
    except ValueError:  # of base64 and of UTF-8
        raise ConfigError(f"{where}: auth is not base64 of UTF-8 text") from None
    if not colon:
        raise ConfigError(f"{where}: auth has no colon between user name and password")
    return username, secret.decode(errors="surrogateescape").strip("\0")
