"""Which certificates are trusted, and which is shown."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from dockercomms.errors import ConfigError
from dockercomms.oci import tls
from dockercomms.oci.tls import (
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
