"""Keyless signatures from the stub, and terms that trust it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dockercomms.protocol.manifest import Message, parse_message
from dockercomms.trust.bundle import SigstoreBundle
from dockercomms.trust.checks import Terms
from dockercomms.trust.keyless import KeylessOptions, KeylessSigner, SigstoreRoots
from dockercomms.trust.policy import PUBLIC_ROOT, Policy, Root, Sender, TrustedIdentity
from dockercomms.trust.roots import KeylessProof
from tests.fakes.sigstore import SigstoreStub
from tests.unit.trust.signed import ALICE, BOB, REPO, manifest

STUB = "stub"


class GullibleRoots(SigstoreRoots):
    """Takes every bundle for proven, so that the stub can make bad ones."""

    def prove(self, bundle: SigstoreBundle, root: Root) -> KeylessProof:
        certificate = bundle.value["verificationMaterial"]
        assert certificate
        return KeylessProof(
            root=root.name, identities=(), issuer=self.issuer, signed_at=datetime.now(UTC)
        )

    issuer = ""


def now() -> datetime:
    """Return the time in whole milliseconds, as manifests carry it."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def options(stub: SigstoreStub, email: str = ALICE, **changes: Any) -> KeylessOptions:
    found = KeylessOptions(
        token=stub.token(email), trusted_root=stub.trusted_root, signing_config=stub.signing_config
    )
    return replace(found, **changes)


def signer(stub: SigstoreStub, email: str = ALICE, *, gullible: bool = False) -> KeylessSigner:
    roots = GullibleRoots() if gullible else SigstoreRoots()
    if isinstance(roots, GullibleRoots):
        roots.issuer = stub.issuer.url
    return KeylessSigner(options(stub, email), roots=roots)


def signed_now(
    stub: SigstoreStub,
    email: str = ALICE,
    *,
    gullible: bool = False,
    age: timedelta = timedelta(),
    **changes: object,
) -> tuple[Message, bytes]:
    """Return a message created `age` ago, and its keyless bundle made now."""
    data = manifest(**{"created_at": now() - age, **changes})
    about = parse_message(data)
    return about, signer(stub, email, gullible=gullible).sign(about, data)


def identity(stub: SigstoreStub, **changes: Any) -> TrustedIdentity:
    found = TrustedIdentity(identity=ALICE, issuer=stub.issuer.url, root=STUB)
    return replace(found, **changes)


def policy(stub: SigstoreStub, *identities: TrustedIdentity, **changes: Any) -> Policy:
    """Return a policy in which Alice is whom the stub says she is."""
    found = Policy(
        roots={PUBLIC_ROOT: Root(name=PUBLIC_ROOT), STUB: Root(name=STUB, path=stub.trusted_root)},
        senders=(Sender(name=ALICE, identities=identities or (identity(stub),)),),
    )
    return replace(found, **changes)


def terms(rules: Policy, **changes: Any) -> Terms:
    found = Terms(policy=rules, me=(BOB,), repo=REPO, now=datetime.now(UTC), roots=SigstoreRoots())
    return replace(found, **changes)


def changed_root(
    stub: SigstoreStub, folder: Path, change: Callable[[dict[str, Any]], object]
) -> Root:
    """Return the stub's root after `change`."""
    value = stub.instance.trusted_root()
    change(value)
    path = folder / "changed_root.json"
    path.write_text(json.dumps(value))
    return Root(name=STUB, path=path)
