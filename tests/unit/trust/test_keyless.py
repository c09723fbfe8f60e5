from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from dockercomms.errors import (
    ConfigError,
    LocalIOError,
    SigningError,
    SigningUnreachable,
    UsageError,
    VerificationError,
)
from dockercomms.oci.model import digest_of
from dockercomms.trust import keyless as product
from dockercomms.trust.bundle import parse_bundle_json
from dockercomms.trust.keyless import KeylessOptions, KeylessSigner, SigstoreRoots
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.signing import SignedBy
from tests.unit.trust.keyless import GullibleRoots, options, signer
from tests.unit.trust.signed import ALICE, EVE, manifest, message, receipt, statement

DIGEST = digest_of(b"hello")


@pytest.fixture(autouse=True)
def _no_ambient_identity(monkeypatch):
    for name in (
        "GITHUB_ACTIONS",
        "GITLAB_CI",
        "BUILDKITE",
        "CIRCLECI",
        "GOOGLE_SERVICE_ACCOUNT_NAME",
    ):
        monkeypatch.delenv(name, raising=False)


# --- what works ----------------------------------------------------------------------------------


def test_signer_says_whose_token_it_has(sigstore):
    assert signer(sigstore).signed_by == SignedBy("keyless", ALICE)
    assert sigstore.asked == []


def test_signer_says_what_the_certificate_says_once_it_has_one(sigstore):
    by = KeylessSigner(options(sigstore, token=sigstore.token(ALICE, sub="user-17")))
    assert by.signed_by.signer == "user-17"
    by.approve("x", DIGEST)
    assert by.signed_by.signer == ALICE


def test_bundle_holds_certificate_log_entry_and_time(sigstore):
    about = manifest()
    bundle = signer(sigstore, gullible=True).sign(message(), about)
    material = json.loads(bundle)["verificationMaterial"]
    assert set(material) == {"certificate", "tlogEntries", "timestampVerificationData"}
    assert "signer" not in statement(bundle)["predicate"]
    assert parse_bundle_json(bundle).kind == "keyless"


def test_time_is_asked_for_before_the_log(sigstore):
    signer(sigstore).approve("x", DIGEST)
    assert sigstore.asked == ["fulcio", "tsa", "rekor"]


def test_one_certificate_serves_several_signatures(sigstore):
    by = signer(sigstore)
    for _ in range(3):
        by.approve("x", DIGEST)
    assert sigstore.asked.count("fulcio") == 1


class ElevenMinutesLater(datetime):
    """Certificates are valid for ten."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(minutes=11)


def test_certificate_that_is_over_is_replaced(sigstore, monkeypatch):
    by = signer(sigstore, gullible=True)
    by.approve("x", DIGEST)
    monkeypatch.setattr("sigstore.sign.datetime", ElevenMinutesLater)
    monkeypatch.setattr(sigstore, "shift", dict.fromkeys(("fulcio", "tsa"), timedelta(minutes=11)))
    by.approve("x", DIGEST)
    assert sigstore.asked.count("fulcio") == 2


def test_receipt_is_signed(sigstore):
    bundle = signer(sigstore, gullible=True).sign_receipt(receipt())
    assert statement(bundle)["predicateType"] == "https://dockercomms.dev/receipt/v1"


def test_token_comes_from_a_file(sigstore, tmp_path):
    path = tmp_path / "token"
    path.write_text(sigstore.token(EVE) + "\n")
    given = options(sigstore, token=None, token_file=path)
    assert KeylessSigner(given).signed_by.signer == EVE


def test_token_given_goes_before_a_file(sigstore, tmp_path):
    given = options(sigstore, token_file=tmp_path / "missing")
    assert KeylessSigner(given).signed_by.signer == ALICE


def test_token_of_a_ci_job_is_found(sigstore, monkeypatch):
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token("ci@example.com"))
    given = options(sigstore, token=None)
    assert KeylessSigner(given).signed_by.signer == "ci@example.com"


def test_browser_is_asked_only_on_request(sigstore, monkeypatch):
    with pytest.raises(SigningError, match="no identity to sign with") as caught:
        KeylessSigner(options(sigstore, token=None)).approve("x", DIGEST)
    assert "--identity-token" in str(caught.value.hint)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or False)
    monkeypatch.setattr("builtins.input", lambda _: "code")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # sigstore leaves its own server open
        with pytest.raises(SigningError, match="signing: "):
            KeylessSigner(options(sigstore, token=None, interactive=True)).approve("x", DIGEST)
        gc.collect()
    assert opened


# --- what does not -------------------------------------------------------------------------------


def test_offline_asks_nobody(sigstore):
    by = KeylessSigner(options(sigstore, offline=True))
    for use in (lambda: by.signed_by, lambda: by.approve("x", DIGEST)):
        with pytest.raises(SigningError, match="--offline forbids"):
            use()
    assert sigstore.asked == []


def test_root_and_config_are_given_together(sigstore):
    for name in ("trusted_root", "signing_config"):
        with pytest.raises(UsageError, match="needs a signing config"):
            KeylessSigner(options(sigstore, **{name: None}))


@pytest.mark.parametrize(
    ("service", "asked"),
    [("fulcio", ["fulcio"]), ("tsa", ["fulcio", "tsa"]), ("rekor", ["fulcio", "tsa", "rekor"])],
)
@pytest.mark.parametrize("fault", ["fail", "garbage"])
def test_service_that_fails_ends_the_signing(sigstore, service, asked, fault):
    getattr(sigstore, fault).add(service)
    with pytest.raises(SigningError) as caught:
        signer(sigstore).approve("x", DIGEST)
    assert sigstore.asked == asked
    if fault == "fail" and service == "fulcio":
        assert "500 asked to fail" in str(caught.value)


@pytest.mark.parametrize("failure", [b"<html>", b"[]", b"{}"])
def test_service_that_fails_without_a_reason_is_named(sigstore, monkeypatch, failure):
    monkeypatch.setattr(sigstore, "failure", failure)
    sigstore.fail.add("fulcio")
    with pytest.raises(SigningError, match=r"127\.0\.0\.1:\d+: 500 Internal Server Error"):
        signer(sigstore).approve("x", DIGEST)


@pytest.mark.parametrize("service", ["fulcio", "tsa", "rekor"])
def test_service_that_is_silent_is_given_up(sigstore, service):
    """The limit grows until the services before the silent one are quick enough for it."""
    sigstore.silent.add(service)
    for seconds in (0.05, 1, 20, 400):
        sigstore.asked.clear()
        by = KeylessSigner(options(sigstore, timeout_seconds=seconds))
        with pytest.raises(SigningUnreachable, match=r"127\.0\.0\.1:\d+: no .*timed out"):
            by.approve("x", DIGEST)
        if sigstore.asked[-1] == service:
            break
    assert sigstore.asked[-1] == service


@pytest.mark.parametrize("service", ["caUrls", "rekorTlogUrls", "tsaUrls"])
def test_service_that_is_not_there_is_named(sigstore, tmp_path, service):
    config = sigstore.instance.signing_config()
    config[service][0]["url"] = "http://127.0.0.1:1"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    by = KeylessSigner(options(sigstore, signing_config=path))
    with pytest.raises(SigningUnreachable, match=r"127\.0\.0\.1:1: no"):
        by.approve("x", DIGEST)


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"aud": "other"}, "malformed or missing claims"),
        ({"seconds": -60}, "malformed or missing claims"),
        ({"email_verified": False}, "400 email_verified is false"),
        ({"iss": "https://elsewhere.example"}, "400 token is over, or for somebody else"),
    ],
)
def test_token_that_will_not_do_is_refused(sigstore, claims, text):
    token = sigstore.token(ALICE, **claims)
    with pytest.raises(SigningError, match=text):
        KeylessSigner(options(sigstore, token=token)).approve("x", DIGEST)


def test_token_that_is_none_is_refused(sigstore, tmp_path):
    path = tmp_path / "token"
    for data, text in ((b"junk", "malformed"), (b"\xff", "not a token"), (b"", "malformed")):
        path.write_bytes(data)
        with pytest.raises(SigningError, match=text):
            assert KeylessSigner(options(sigstore, token=None, token_file=path)).signed_by
    with pytest.raises(LocalIOError, match=r"identity token: .*No such file"):
        assert KeylessSigner(
            options(sigstore, token=None, token_file=tmp_path / "missing")
        ).signed_by


def test_service_that_certifies_somebody_else_is_found_out(sigstore, tmp_path):
    by = signer(sigstore)
    claims = sigstore.issuer.claims
    sigstore.issuer.claims = lambda token: {**claims(token), "iss": "https://evil.example"}
    try:
        with pytest.raises(VerificationError, match="another identity, of issuer https://evil"):
            by.approve("x", DIGEST)
    finally:
        del sigstore.issuer.claims


def test_bundle_that_receivers_would_refuse_does_not_leave(sigstore):
    sigstore.shift["tsa"] = timedelta(minutes=11)
    with pytest.raises(VerificationError, match="chain"):
        signer(sigstore).approve("x", DIGEST)


@pytest.mark.parametrize("change", [{"caUrls": []}, {"rekorTlogUrls": []}, {"mediaType": "x"}])
def test_config_that_is_none_is_refused(sigstore, tmp_path, change):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**sigstore.instance.signing_config(), **change}))
    by = KeylessSigner(options(sigstore, signing_config=path))
    with pytest.raises(ConfigError, match=f"signing config: {path}"):
        by.approve("x", DIGEST)


def test_root_without_certificate_logs_cannot_sign(sigstore, tmp_path):
    path = tmp_path / "root.json"
    path.write_text(json.dumps({**sigstore.instance.trusted_root(), "ctlogs": []}))
    with pytest.raises(SigningError, match="CTFE keys not found"):
        KeylessSigner(options(sigstore, trusted_root=path)).approve("x", DIGEST)


def test_public_instance_is_known_without_asking(monkeypatch):
    found = product._load_config(Root(name=PUBLIC_ROOT), None)
    assert "sigstore.dev" in found.signing_config.get_oidc_url()
    assert KeylessSigner(KeylessOptions(offline=True))


def test_proof_of_another_payload_is_refused(sigstore):
    bundle = parse_bundle_json(signer(sigstore).approve("x", DIGEST))
    root = Root(name="stub", path=sigstore.trusted_root)
    assert SigstoreRoots().prove(bundle, root).identities == (ALICE,)
    for changes in ({"payload": b"{}"}, {"payload_type": "x"}):
        other = replace(bundle, envelope=replace(bundle.envelope, **changes))
        with pytest.raises(VerificationError, match="another payload"):
            SigstoreRoots().prove(other, root)


# --- errors: every class is mapped ---------------------------------------------------------------


def subclasses(cls: type) -> set[type]:
    return {cls} | {found for sub in cls.__subclasses__() for found in subclasses(sub)}


def raised_by_sigstore() -> set[type[Exception]]:
    """Return every class of error that sigstore and what it talks through define."""
    import importlib
    import inspect
    import pkgutil

    import requests.exceptions  # noqa: TID251 - its errors are walked
    import sigstore as package  # noqa: TID251 - the same

    found = {
        cls
        for cls in vars(requests.exceptions).values()
        if inspect.isclass(cls) and issubclass(cls, requests.RequestException)
    }
    for info in pkgutil.walk_packages(package.__path__, "sigstore."):
        if info.name.split(".")[-1] in ("__main__", "_cli"):
            continue
        module = importlib.import_module(info.name)
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Exception) and "sigstore" in cls.__module__:
                found.add(cls)
    return found


def instance(cls: type[Exception]) -> Exception:
    """Return an error of `cls`, whatever its constructor wants."""
    error = cls.__new__(cls)
    Exception.__init__(error, "reason")
    error.__dict__.setdefault("request", None)
    error.__dict__.setdefault("response", None)
    return error


def test_every_error_of_signing_is_mapped():
    classes = raised_by_sigstore()
    assert len(classes) > 30
    for cls in classes:
        with pytest.raises(SigningError, match=r"reason|timed out|no answer"), product._signing():
            raise instance(cls)


def test_every_error_of_verifying_is_mapped():
    from sigstore.errors import Error  # noqa: TID251 - its errors are walked

    for cls in subclasses(Error):
        with pytest.raises(VerificationError, match="reason"), product._verifying():
            raise instance(cls)


@pytest.mark.parametrize("cls", [UsageError, ConfigError, LocalIOError, VerificationError])
def test_own_errors_pass(cls):
    for block in (product._signing, product._verifying):
        with pytest.raises(cls, match=r"^own$"), block():
            raise cls("own")


def test_error_without_a_text_is_named_by_its_class():
    with pytest.raises(VerificationError, match=r"^KeyError$"), product._verifying():
        raise KeyError


# --- imports -------------------------------------------------------------------------------------


def test_keys_do_not_import_sigstore(tmp_path):
    code = (
        "import sys\n"
        "from tests.unit.trust.signed import *\n"
        "from dockercomms.trust.verifier import verify_message\n"
        "from dockercomms.trust.address_book import AddressBook\n"
        "from dockercomms.trust.approvals import verify_approval\n"
        "assert verify_message(message(), [signed()], terms())\n"
        "print([name for name in ('sigstore', 'requests', 'pydantic', 'tomlkit', 'rfc3161_client')"
        " if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert GullibleRoots
