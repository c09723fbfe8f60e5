"""The parts of sigstore that we use: run this when the pin moves."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

import dockercomms
from dockercomms.trust import keyless
from dockercomms.trust.policy import PUBLIC_ROOT, Root

SURFACE: dict[str, tuple[str, ...] | None] = {
    "sigstore._internal.fulcio.client:ExpiredCertificate": None,
    "sigstore._internal.fulcio.client:FulcioClientError": None,
    "sigstore._internal.rekor:RekorClientError": None,
    "sigstore._internal.timestamp:TimestampError": None,
    "sigstore._internal.trust:KeyringPurpose.VERIFY": None,
    "sigstore._internal.tuf:DEFAULT_TUF_URL": None,
    "sigstore._internal.tuf:TrustUpdater": ("url", "offline", "bootstrap_root"),
    "sigstore._internal.tuf:TrustUpdater.get_trusted_root_path": ("self",),
    "sigstore.dsse:Statement": ("contents",),
    "sigstore.dsse:_verify": ("key", "evp"),
    "sigstore.errors:Error": None,
    "sigstore.errors:TUFError": None,
    "sigstore.hashes:Hashed": ("algorithm", "digest"),
    "sigstore.models:Bundle.from_json": ("raw",),
    "sigstore.models:Bundle.to_json": ("self",),
    "sigstore.models:Bundle.log_entry": None,
    "sigstore.models:Bundle.signing_certificate": None,
    "sigstore.models:Bundle.verification_material": None,
    "sigstore.models:ClientTrustConfig.ClientTrustConfigType.CONFIG_0_1": None,
    "sigstore.models:ClientTrustConfig.from_json": ("raw",),
    "sigstore.models:ClientTrustConfig.signing_config": None,
    "sigstore.models:SigningConfig.get_fulcio": ("self",),
    "sigstore.models:SigningConfig.get_oidc_url": ("self",),
    "sigstore.models:TransparencyLogEntry": ("inner",),
    "sigstore.models:TransparencyLogEntry._verify": ("self", "keyring"),
    "sigstore.models:TrustedRoot": ("inner",),
    "sigstore.models:TrustedRoot.from_file": ("path",),
    "sigstore.models:TrustedRoot.rekor_keyring": ("self", "purpose"),
    "sigstore.oidc:ExpiredIdentity": None,
    "sigstore.oidc:IdentityToken": ("raw_token", "client_id"),
    "sigstore.oidc:IdentityToken.identity": None,
    "sigstore.oidc:IdentityToken.issuer": None,
    "sigstore.oidc:Issuer": ("base_url",),
    "sigstore.oidc:Issuer.identity_token": ("self", "client_id", "client_secret", "force_oob"),
    "sigstore.oidc:IssuerError": None,
    "sigstore.oidc:detect_credential": ("client_id",),
    "sigstore.sign:Signer._signing_cert": ("self",),
    "sigstore.sign:Signer.sign_dsse": ("self", "input_"),
    "sigstore.sign:SigningContext.from_trust_config": ("trust_config",),
    "sigstore.sign:SigningContext.signer": ("self", "identity_token", "cache"),
    "sigstore.verify:Verifier": ("trusted_root",),
    "sigstore.verify:Verifier._establish_time": ("self", "bundle"),
    "sigstore.verify:Verifier._verify_common_signing_cert": ("self", "bundle", "policy"),
    "sigstore.verify:Verifier.verify_artifact": ("self", "input_", "bundle", "policy"),
    "sigstore.verify:Verifier.verify_dsse": ("self", "bundle", "policy"),
}
"""All that our code names, with the parameters of what it calls."""


@pytest.mark.parametrize("name", SURFACE)
def test_name_of_sigstore_is_there_and_takes_what_we_pass(name):
    found, expected = resolve_name(name), SURFACE[name]
    if expected is not None:
        optional = [
            key
            for key, one in inspect.signature(found).parameters.items()
            if key not in expected and one.default is one.empty
        ]
        assert optional == [], "a new one that is needed"
        assert tuple(inspect.signature(found).parameters)[: len(expected)] == expected


def test_surface_is_all_that_is_imported():
    """Each name that a file of ours imports from sigstore stands in the table."""
    known = {tuple(name.replace(":", ".").split(".")) for name in SURFACE}
    for path in Path(dockercomms.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sigstore"):
                if node.module.startswith("sigstore_models"):
                    assert import_module(node.module)
                    continue
                for alias in node.names:
                    whole = (*node.module.split("."), alias.name)
                    assert any(name[: len(whole)] == whole for name in known), whole


def test_what_signing_reaches_into_is_there():
    from sigstore.sign import SigningContext  # noqa: TID251 - the surface itself

    config = keyless._load_config(Root(name=PUBLIC_ROOT), None)
    context = SigningContext.from_trust_config(config)
    sessions = [context._fulcio.session, context._rekor._session]
    for clock in context._tsa_clients:
        sessions.append(clock._session)
        assert clock.url
        assert tuple(inspect.signature(clock.request_timestamp).parameters) == ("signature",)
    for session in sessions:
        assert callable(session.mount)
    inner = keyless.SigstoreRoots().trusted(Root(name=PUBLIC_ROOT))._inner
    for kind in ("tlogs", "ctlogs", "certificate_authorities", "timestamp_authorities"):
        assert isinstance(getattr(inner, kind), list)
