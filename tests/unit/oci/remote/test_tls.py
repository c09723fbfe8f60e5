"""Trusted certificates, and the client's own."""

from __future__ import annotations

import contextlib
import ssl
import sys
import types
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dockercomms.errors import ConfigError
from dockercomms.oci.remote import tls
from dockercomms.oci.remote.tls import (
    HostCertificates,
    certificate_folders,
    host_certificates,
    make_context,
)

HOST = "registry.example:5000"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def subjects(context: ssl.SSLContext) -> set[str]:
    return {
        value
        for certificate in context.get_ca_certs()
        for group in certificate["subject"]
        for key, value in group
        if key == "organizationName"
    }


def context(**options) -> ssl.SSLContext:
    return make_context(HOST, **{"env": {}, "folders": (), **options})


def test_certificate_folders_are_the_users_then_the_systems():
    found = certificate_folders({"HOME": "/h"})
    assert found == (
        Path("/h/.config/containers/certs.d"),
        Path("/h/.config/docker/certs.d"),
        Path("/h/.docker/certs.d"),
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    )
    moved = certificate_folders({"HOME": "/h", "XDG_CONFIG_HOME": "/x", "DOCKER_CONFIG": "/d"})
    assert moved[:3] == (
        Path("/x/containers/certs.d"),
        Path("/x/docker/certs.d"),
        Path("/d/certs.d"),
    )
    assert certificate_folders({})[-1] == Path("/etc/docker/certs.d")


def test_host_certificates_are_those_of_the_host_alone(tmp_path):
    folder = tmp_path / HOST
    folder.mkdir()
    for name in ("b.crt", "a.crt", "client.cert", "client.key", "README"):
        (folder / name).write_text("")
    (tmp_path / "other.example").mkdir()
    found = host_certificates(HOST, [tmp_path, tmp_path / "missing"])
    assert found == HostCertificates(
        (folder / "a.crt", folder / "b.crt"), (folder / "client.cert", folder / "client.key")
    )
    assert host_certificates("other.example", [tmp_path]) == HostCertificates()


def test_host_certificates_first_pair_wins(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name / HOST
        folder.mkdir(parents=True)
        (folder / "c.cert").write_text("")
        (folder / "c.key").write_text("")
        (folder / "ca.crt").write_text("")
    found = host_certificates(HOST, [tmp_path / "one", tmp_path / "two"])
    assert found.client == (tmp_path / "one" / HOST / "c.cert", tmp_path / "one" / HOST / "c.key")
    assert len(found.authorities) == 2


@pytest.mark.parametrize(("name", "missing"), [("c.cert", "c.key"), ("c.key", "c.cert")])
def test_host_certificates_half_a_pair_is_an_error(tmp_path, name, missing):
    (tmp_path / HOST).mkdir()
    (tmp_path / HOST / name).write_text("")
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        host_certificates(HOST, [tmp_path])


def test_host_certificates_folder_that_cannot_be_read_is_an_error():
    class Unreadable(type(Path())):
        def iterdir(self):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(ConfigError, match="Permission denied"):
        host_certificates(HOST, [Unreadable("/x")])


def test_host_certificates_name_that_is_a_file_is_nothing(tmp_path):
    (tmp_path / HOST).write_text("")
    assert host_certificates(HOST, [tmp_path]) == HostCertificates()


def test_make_context_trusts_all_that_is_named(tmp_path):
    names = {"bundle": {}, "given": {}, "host": {}}
    for name in names:
        authority = trustme.CA(organization_name=name)
        authority.cert_pem.write_to_path(str(tmp_path / f"{name}.crt"))
    (tmp_path / HOST).mkdir()
    (tmp_path / "host.crt").rename(tmp_path / HOST / "host.crt")
    made = context(
        ca_file=str(tmp_path / "given.crt"),
        env={"REQUESTS_CA_BUNDLE": str(tmp_path / "bundle.crt")},
        folders=(tmp_path,),
    )
    assert set(names) <= subjects(made)
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname
    other = context(env={"CURL_CA_BUNDLE": str(tmp_path / "bundle.crt")})
    assert "bundle" in subjects(other)
    assert "given" not in subjects(other)


def test_make_context_takes_a_folder_of_certificates(tmp_path):
    assert context(ca_file=str(tmp_path)).verify_mode is ssl.CERT_REQUIRED


def test_make_context_insecure_checks_nothing():
    made = context(insecure=True, ca_file="/not/even/looked/at")
    assert made.verify_mode is ssl.CERT_NONE
    assert not made.check_hostname


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_make_context_wants_certificates(tmp_path, text):
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"ca\.pem: no certificates to trust"):
        context(ca_file=str(file))


def test_make_context_shows_the_client_certificate(tmp_path, authority):
    folder = tmp_path / HOST
    folder.mkdir()
    issued = authority.issue_cert("client@example.com")
    issued.cert_chain_pems[0].write_to_path(str(folder / "c.cert"))
    issued.private_key_pem.write_to_path(str(folder / "c.key"))
    assert context(folders=(tmp_path,)) is not None
    (folder / "c.key").write_text("no key")
    with pytest.raises(ConfigError, match="not a certificate with this key"):
        context(folders=(tmp_path,))


def test_make_context_without_a_system_store_trusts_what_requests_brings():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.DefaultVerifyPaths(None, None, "", "", "", "")
    tls._trust_bundled(made, paths)
    assert made.cert_store_stats()["x509_ca"] > 50
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls._trust_bundled(empty, ssl.DefaultVerifyPaths("/etc/x", None, "", "", "", ""))
    assert empty.cert_store_stats()["x509_ca"] == 0


class Issued:
    """An authority as openssl's oldest recipes make it, and a certificate of it for 127.0.0.1.

    There are no key identifiers and no key usage, and the constraint is not critical: RFC 5280
    asks for them, and curl, docker and Python 3.12 do not.
    """

    def __init__(self) -> None:
        self._days = timedelta(days=3650)
        self._now = datetime.now(UTC)
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        self.root = self._make("root", keys[0], "root", keys[0], is_authority=True)
        self.middle = self._make("middle", keys[1], "root", keys[0], is_authority=True)
        self.leaf = self._make("leaf", keys[2], "middle", keys[1], is_authority=False)
        self.key = keys[2]

    def _make(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        issuer_key: ec.EllipticCurvePrivateKey,
        *,
        is_authority: bool,
    ) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        extension = x509.BasicConstraints(ca=True, path_length=None) if is_authority else addresses
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - self._days)
            .not_valid_after(self._now + self._days)
            .add_extension(extension, critical=False)
            .sign(issuer_key, hashes.SHA256())
        )

    def write(self, path: Path, *certificates: x509.Certificate, with_key: bool = False) -> str:
        """Write PEM files; returns the path."""
        data = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
        if with_key:
            data += self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        path.write_bytes(data)
        return str(path)


@pytest.fixture(scope="module")
def old_fashioned() -> Issued:
    return Issued()


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Let the two speak TLS in memory, for 127.0.0.1."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(down, up, server_hostname="127.0.0.1"),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(6):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert sides[0].version() is not None


@pytest.mark.parametrize("anchor", ["root", "middle"])
def test_make_context_judges_certificates_alike_on_every_python(tmp_path, old_fashioned, anchor):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = (old_fashioned.leaf, old_fashioned.middle)
    server.load_cert_chain(old_fashioned.write(tmp_path / "server.pem", *chain, with_key=True))
    trusted = old_fashioned.write(tmp_path / "ca.pem", getattr(old_fashioned, anchor))
    made = context(ca_file=trusted)
    shake_hands(made, server)
    assert made.check_hostname
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context(), server)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_make_context_asks_the_systems_own_store_on_macos_and_windows(
    tmp_path, monkeypatch, authority, platform
):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asked = []

    def its_context(protocol: int) -> ssl.SSLContext:
        asked.append(protocol)
        return made

    # the package is installed on these systems alone
    monkeypatch.setitem(sys.modules, "truststore", types.SimpleNamespace(SSLContext=its_context))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert context(platform=platform, ca_file=str(tmp_path / "ca.pem")) is made
    assert asked == [ssl.PROTOCOL_TLS_CLIENT]
    # what requests brings is for systems without a store
    assert made.cert_store_stats()["x509_ca"] == 1
    assert not made.verify_flags & ssl.VERIFY_X509_STRICT
    assert context(platform=platform, insecure=True).verify_mode is ssl.CERT_NONE
