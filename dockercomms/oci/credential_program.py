"""Credential programs: `docker-credential-NAME get` asks a keychain or a cloud for a login.

The server's name goes in on standard input; a JSON object comes out.

Source: the README of docker-credential-helpers, "Development".
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import field

from dockercomms.errors import ConfigError
from dockercomms.records import dataclass

HELPER_TIMEOUT_SECONDS = 60.0
"""A keychain may ask its user to unlock it; a cloud's program goes over the network."""

MAX_ANSWER_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = "credentials not found"
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    """What a credential program said."""

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
    """Return the login that `docker-credential-<suffix>` has for `server`, None if it has none.

    Args:
        suffix: The program's name without `docker-credential-`.
        server: What is asked for: a host, or Docker Hub's address.
        env: The environment; the program is looked up on its PATH.
        timeout_seconds: After so long the program is killed.
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
    """Run the program; returns its code, output and talk."""
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
    """Return the answer; its text is never shown, for it holds a secret."""
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
