"""The trusted certificates and the client certificate for a registry host.

These are trusted, all together: the system's store (on macOS and Windows the keychain or
certificate store; `SSL_CERT_FILE` and `SSL_CERT_DIR` replace OpenSSL's), `REQUESTS_CA_BUNDLE` or
`CURL_CA_BUNDLE`, the file of `--ca-file`, and every `*.crt` in the host's folder below a `certs.d`.
A pair `x.cert` and `x.key` there is the client certificate.

Every Python checks certificates alike, as curl and Go's programs do: an authority may leave out key
identifiers (Python 3.13 refuses that), and a certificate that is trusted by name need not be the
last of its chain (before 3.13 Python required that).

Sources: docker's and podman's documentation of `certs.d`; "What's New in Python 3.13", ssl.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dockercomms.errors import ConfigError, NoHomeError
from dockercomms.platforms.files import base_folder, home_folder
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    import ssl


_OWN_STORES = frozenset({"darwin", "win32"})
"""Systems whose certificates OpenSSL does not find, or not those that an administrator added."""


@dataclass(frozen=True, slots=True)
class HostCertificates:
    """The content of the `certs.d` folders for one host."""

    authorities: tuple[Path, ...] = ()
    """Certificates of authorities that are trusted for this host."""
    client: tuple[Path, Path] | None = None
    """Certificate and key of the client for this host."""


def certificate_folders(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the `certs.d` folders in reading order: the user's, then the system's."""
    home = home_folder(env)
    docker = env.get("DOCKER_CONFIG") or (home and home / ".docker")
    folders = [Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d")]
    if docker:
        folders.insert(0, Path(docker, "certs.d"))
    with contextlib.suppress(NoHomeError):
        config = base_folder("XDG_CONFIG_HOME", env)
        folders[:0] = [config / "containers" / "certs.d", config / "docker" / "certs.d"]
    return tuple(folders)


def host_certificates(host: str, folders: Iterable[Path]) -> HostCertificates:
    """Return the certificates in `folders` for `host` (with its port); the first client pair wins.

    Raises:
        ConfigError: a certificate without its key or the other way round, or an unreadable folder.
    """
    authorities: list[Path] = []
    client: tuple[Path, Path] | None = None
    for folder in folders:
        try:
            files = sorted((folder / host).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{folder / host}: {error.strerror}") from error
        authorities.extend(file for file in files if file.suffix == ".crt")
        pairs = [(file, _partner(file)) for file in files if file.suffix in {".cert", ".key"}]
        if client is None and pairs:
            client = next((file, key) for file, key in pairs if file.suffix == ".cert")
    return HostCertificates(tuple(authorities), client)


def _partner(file: Path) -> Path:
    partner = file.with_suffix(".key" if file.suffix == ".cert" else ".cert")
    if not partner.exists():
        raise ConfigError(f"{file}: {partner.name} is missing beside it")
    return partner


def make_context(
    host: str,
    *,
    insecure: bool = False,
    ca_file: str | None = None,
    env: Mapping[str, str],
    folders: Iterable[Path],
    platform: str = sys.platform,
) -> ssl.SSLContext:
    """Return the TLS settings for `host`.

    Args:
        host: Host and port as in the registry's address.
        insecure: Skip the check of the server's certificate.
        ca_file: A file of certificates that are trusted as well.
        env: The environment.
        folders: The `certs.d` folders.
        platform: As `sys.platform`; decides where the system's certificates are.

    Raises:
        ConfigError: a file is missing or holds no certificate.
    """
    import ssl  # noqa: PLC0415 - only for https

    found = host_certificates(host, folders)
    context = _system_context(platform)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        if platform not in _OWN_STORES:
            _trust_bundled(context, ssl.get_default_verify_paths())
        bundle = env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE")
        for file in (bundle, ca_file, *found.authorities):
            if file is not None:
                _trust(context, Path(file))
    if found.client is not None:
        certificate, key = found.client
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{certificate}: not a certificate with this key: {error}") from error
    return context


def _system_context(platform: str) -> ssl.SSLContext:
    """Return settings that trust only the system's certificates."""
    import ssl  # noqa: PLC0415 - only for https

    if platform not in _OWN_STORES:
        return ssl.create_default_context()
    import truststore  # noqa: PLC0415 - only installed on these systems

    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context


def _trust(context: ssl.SSLContext, file: Path) -> None:
    try:
        if file.is_dir():
            context.load_verify_locations(capath=file)
        else:
            context.load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        raise ConfigError(f"{file}: no certificates to trust: {reason}") from error


def _trust_bundled(context: ssl.SSLContext, paths: ssl.DefaultVerifyPaths) -> None:
    """Trust the authorities of the package certifi if the system has no store."""
    if not any(paths[:2]):  # the files that exist
        import certifi  # noqa: PLC0415 - only on systems without a certificate store

        context.load_verify_locations(cafile=certifi.where())
