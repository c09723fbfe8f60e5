"""Starts real registries on free loopback ports, each with a folder, a log and an end of its own.

    with distribution(tmp_path, auth="htpasswd") as server:
        ...  # server.host, server.environment(home)

The programs are found in the folder that DOCKERCOMMS_TEST_BIN names; scripts/servers builds them.
One that is not there is an error, never a skip.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.fakes.token_server import TokenServer, User

Auth = Literal["none", "htpasswd", "token"]

PASSWORDS = {"alice": "wonderland", "bob": "builder"}
"""The accounts on the servers with a login."""
_HTPASSWD = """\
alice:$2a$04$UahK7VxVwdX2UPjXjDEUVeChfv6AKnkJtCe2XhXQPWyEhXkl7Pt.u
bob:$2a$04$MPFQtbnzAxl8azqS70Ua2uk/vDYFy/0wzQlNLBTNFDyvLViw2Eyri
"""
"""The same for the registries, bcrypt at its cheapest: each request pays for it."""
SERVICE = "real.test"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_CHUNK_BYTES = 16 * 2**20
_CONCURRENCY = 4
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_ADDRESS = re.compile(r"^(127\.0\.0\.1:\d+)$", re.MULTILINE)


class LaunchError(Exception):
    """A server is not there, or does not start."""


def binary(name: str) -> Path:
    """Return the program `name`.

    Raises:
        LaunchError: it is not in the folder that DOCKERCOMMS_TEST_BIN names.
    """
    folder = os.environ.get("DOCKERCOMMS_TEST_BIN")
    if not folder:
        raise LaunchError(f"DOCKERCOMMS_TEST_BIN is not set: {name} cannot be found")
    path = Path(folder) / name
    if not os.access(path, os.X_OK):
        raise LaunchError(f"{name} is not in {folder}; scripts/servers builds it")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running registry."""

    name: str
    """The server and its login, as in `distribution-token`."""
    preset: str
    """The name of the fake's switches for it."""
    host: str
    auth: Auth
    folder: Path
    resumes: bool
    """True if the registry can resume a cut upload."""
    process: subprocess.Popen[bytes]
    bytes_in_flight: int = _CHUNK_BYTES * _CONCURRENCY
    """The bytes that a sender has under way: its chunk size times its concurrency."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.host.rpartition(":")
        return host, int(port)

    @property
    def has_login(self) -> bool:
        """Return whether a request without credentials is answered 401."""
        return self.auth != "none"

    def authorization(self, user: str = "alice") -> str:
        """Return the Basic header of a user."""
        return "Basic " + base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()

    def environment(
        self, folder: Path, *, host: str | None = None, user: str = "alice"
    ) -> dict[str, str]:
        """Return variables with which programs log in as `user`; writes a config to `folder`.

        `host` is what the registry is called where a proxy stands before it.
        """
        if not self.has_login:
            return {}
        config = folder / "docker"
        config.mkdir(parents=True, exist_ok=True)
        login = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
        auths = {"auths": {host or self.host: {"auth": login}}}
        (config / "config.json").write_text(json.dumps(auths))
        return {"DOCKER_CONFIG": str(config)}

    def access_log(self) -> list[str]:
        """Return the lines of the access log (distribution and docker-registry only)."""
        return (self.folder / "stdout").read_text().splitlines()

    def server_log(self) -> str:
        """Return what the server said on stderr."""
        return (self.folder / "stderr").read_text()


# Registries.


@contextlib.contextmanager
def distribution(
    folder: Path,
    *,
    auth: Auth = "none",
    token: TokenServer | None = None,
    storage: Literal["filesystem", "inmemory"] = "filesystem",
) -> Iterator[Server]:
    """Run distribution v3 with delete enabled; `token` makes its tokens where `auth` is that."""
    name = "distribution" if auth == "none" else f"distribution-{auth}"
    with _configured(name, "distribution", folder, auth, token, storage) as server:
        yield server


@contextlib.contextmanager
def docker_registry(
    folder: Path,
    *,
    auth: Literal["none", "htpasswd"] = "none",
    storage: Literal["filesystem", "inmemory"] = "filesystem",
) -> Iterator[Server]:
    """Run Debian's docker-registry 2.8.2 with delete enabled.

    Only its filesystem storage gives tags unsorted.
    """
    name = "docker-registry" if auth == "none" else f"docker-registry-{auth}"
    with _configured(name, "docker-registry", folder, auth, None, storage) as server:
        yield server


@contextlib.contextmanager
def ggcr(folder: Path, *, referrers: bool = True) -> Iterator[Server]:
    """Run go-containerregistry's in-memory registry."""
    arguments = [str(binary("ggcr")), f"-referrers={str(referrers).lower()}"]
    with _running(arguments, folder, "stdout", _ADDRESS) as (process, host):
        yield Server(
            name="ggcr",
            preset="ggcr",
            host=host,
            auth="none",
            folder=folder,
            resumes=False,
            process=process,
        )


@contextlib.contextmanager
def ocimem(folder: Path) -> Iterator[Server]:
    """Run cuelabs' in-memory registry."""
    with _running([str(binary("ocimem"))], folder, "stdout", _ADDRESS) as (process, host):
        yield Server(
            name="ocimem",
            preset="ocimem",
            host=host,
            auth="none",
            folder=folder,
            resumes=True,
            process=process,
        )


@contextlib.contextmanager
def token_server() -> Iterator[TokenServer]:
    """Run a token server that knows the accounts, for `distribution(auth="token")`."""
    users = {name: User(password) for name, password in PASSWORDS.items()}
    with TokenServer(users=users, service=SERVICE) as server:
        yield server


@contextlib.contextmanager
def _configured(
    name: str,
    program: str,
    folder: Path,
    auth: Auth,
    token: TokenServer | None,
    storage: str,
) -> Iterator[Server]:
    """Run a registry of the distribution family from a configuration file."""
    configuration: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {storage: {}, "delete": {"enabled": True}},
        # Without a secret of its own a restarted server would not know its upload sessions.
        "http": {"addr": "127.0.0.1:0", "secret": "only for tests"},
    }
    if storage == "filesystem":
        configuration["storage"][storage] = {"rootdirectory": str(folder / "data")}
    if auth == "htpasswd":
        passwords = folder / "htpasswd"
        passwords.write_text(_HTPASSWD)
        configuration["auth"] = {"htpasswd": {"realm": SERVICE, "path": str(passwords)}}
    if auth == "token":
        if token is None:
            raise LaunchError(f"{name}: no token server was given")
        configuration["auth"] = token.distribution_auth(folder)
    path = folder / "config.yml"
    path.write_text(json.dumps(configuration))  # JSON is YAML
    arguments = [str(binary(program)), "serve", str(path)]
    with _running(arguments, folder, "stderr", _LISTENING) as (process, host):
        yield Server(
            name=name,
            preset="docker-registry-2.8" if program == "docker-registry" else "distribution",
            host=host,
            auth=auth,
            folder=folder,
            resumes=program == "distribution",
            process=process,
        )


@contextlib.contextmanager
def _running(
    arguments: Sequence[str], folder: Path, said_on: str, said: re.Pattern[str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a program until the block ends; yields it and the address it said it listens on."""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=environment,
        )
    try:
        yield process, _wait(process, arguments[0], folder / said_on, said)
    finally:
        stop(process)


def _wait(process: subprocess.Popen[bytes], program: str, log: Path, said: re.Pattern[str]) -> str:
    """Return the address that `said` finds in the log, once something answers there."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        match = said.search(log.read_text(errors="replace"))
        if match is not None and _answers(match[1]):
            return match[1]
        if process.poll() is not None:
            raise LaunchError(f"{program} ended with {process.returncode}: {_told(log)}")
        time.sleep(_POLL_SECONDS)
    raise LaunchError(f"{program} did not listen within {START_SECONDS:.0f} s: {_told(log)}")


def _told(log: Path) -> str:
    return "; ".join(
        (log.parent / name).read_text(errors="replace").strip()[-1000:]
        for name in ("stdout", "stderr")
    )


def _answers(host: str) -> bool:
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", "/v2/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program that was started here, and wait for it; one that has ended is left alone."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# Toxiproxy.


class Toxic:
    """A toxiproxy with one proxy in it."""

    def __init__(self, api: str, upstream: tuple[str, int]) -> None:
        self._api = api
        proxy = self._ask(
            "POST",
            "/proxies",
            {"name": "proxy", "listen": "127.0.0.1:0", "upstream": f"{upstream[0]}:{upstream[1]}"},
        )
        self.host: str = proxy["listen"]

    @property
    def address(self) -> tuple[str, int]:
        """The address of the proxy."""
        host, _, port = self.host.rpartition(":")
        return host, int(port)

    def reset(self) -> None:
        """Cut every connection that is open; new ones go through."""
        self.down()
        self.up()

    def down(self) -> None:
        """Cut every connection that is open and let no new one through."""
        self._ask("POST", "/proxies/proxy", {"enabled": False})

    def up(self) -> None:
        """Let connections through again."""
        self._ask("POST", "/proxies/proxy", {"enabled": True, "listen": self.host})

    def add(
        self,
        kind: str,
        attributes: Mapping[str, int],
        *,
        stream: Literal["upstream", "downstream"] = "downstream",
    ) -> None:
        """Add a toxic, as in `add("bandwidth", {"rate": 100})` (its own units: KiB/s, ms)."""
        value = {"name": kind, "type": kind, "stream": stream, "attributes": dict(attributes)}
        self._ask("POST", "/proxies/proxy/toxics", value)

    def remove(self, kind: str) -> None:
        """Remove a toxic that was added."""
        self._ask("DELETE", f"/proxies/proxy/toxics/{kind}")

    def _ask(self, method: str, path: str, value: object = None) -> Any:
        connection = http.client.HTTPConnection(self._api, timeout=10)
        try:
            body = None if value is None else json.dumps(value)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise LaunchError(f"toxiproxy: {method} {path}: {answer.status} {content!r}")
        return json.loads(content) if content else None


@contextlib.contextmanager
def toxiproxy(upstream: tuple[str, int]) -> Iterator[Toxic]:
    """Run a toxiproxy before `upstream`."""
    with tempfile.TemporaryDirectory() as name, _toxiproxy(Path(name)) as api:
        yield Toxic(api, upstream)


@contextlib.contextmanager
def _toxiproxy(folder: Path) -> Iterator[str]:
    # It cannot say which port it got, so it is given one that was free a moment ago.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [str(binary("toxiproxy")), "-host", "127.0.0.1", "-port", str(port)]
    said = re.compile(rf"endpoint (127\.0\.0\.1:{port})")
    with _running(arguments, folder, "stdout", said) as (_, api):
        yield api
