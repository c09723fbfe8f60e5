"""Both directions with cosign: it verifies what we sign, and we verify what it signs.

On distribution, where signatures are found by the fallback index, and on registries with the
referrers API; with keys, and keyless against real services. Everything runs where there is no
network but loopback.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from dockercomms.errors import UnknownSender, VerificationError
from dockercomms.messages.send import send
from dockercomms.oci.interface import read_all
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    digest_of,
)
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.tag_schema import put_index
from dockercomms.platforms.clock import SystemClock
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_BUNDLE,
    CREATED_AT,
    MESSAGE_ID,
    PREDICATE_TYPE_MESSAGE,
    PREDICATE_TYPE_RECEIPT,
    PROTOCOL_VERSION,
    RECEIPT_FOR,
    RECEIPT_STATUS,
    RECEIPT_VERIFIED,
    RECIPIENT,
    SENDER,
    VERSION,
    format_time,
)
from dockercomms.protocol.manifest import (
    ManifestBuilder,
    Message,
    parse_bundle,
    parse_message,
    parse_receipt,
)
from dockercomms.state import State
from dockercomms.transport.payload import payload_of
from dockercomms.trust.approvals import verify_approval
from dockercomms.trust.checks import Terms
from dockercomms.trust.keyless import KeylessOptions, KeylessSigner, SigstoreRoots, timestamp_source
from dockercomms.trust.keys import KeyStore, PrivateKey, PublicKey
from dockercomms.trust.policy import Policy, Root, Sender, TrustedIdentity, TrustedKey
from dockercomms.trust.signing import KeySigner, Signer
from dockercomms.trust.verifier import verify_message, verify_receipt
from tests.real.launch import Server, binary
from tests.real.sigstore_services import RealSigstore, sigstore

ALICE, BOB, EVE = "alice@example.com", "bob@example.com", "eve@example.com"
REPOSITORY = "team/inbox"
COSIGN_SECONDS = 60


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSigstore]:
    with sigstore(tmp_path_factory.mktemp("sigstore")) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Cosign:
    """cosign with a home of its own."""

    home: Path

    def run(self, *arguments: str | Path, accepts: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command, which has to be accepted, or refused."""
        done = subprocess.run(
            [str(binary("cosign")), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=COSIGN_SECONDS,
            cwd=self.home,
            env={"HOME": str(self.home), "COSIGN_PASSWORD": "", "PATH": os.environ["PATH"]},
        )
        assert (done.returncode == 0) is accepts, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done


@dataclass(frozen=True, slots=True)
class Box:
    """A repository with one way to send to it."""

    server: Server
    folder: Path

    @property
    def registry(self) -> HTTPRegistry:
        return HTTPRegistry(self.server.host)

    @property
    def repo(self) -> str:
        return f"{self.server.host}/{REPOSITORY}"

    def send(self, signer: Signer | None, text: str = "hello") -> Message:
        """Send a note from Alice to Bob, and return it as it is found there."""
        with State(self.folder / "state.db") as state:
            sent = send(
                self.registry,
                REPOSITORY,
                payload_of([], text=f"{text} {os.urandom(8).hex()}"),
                repo=self.repo,
                sender=ALICE,
                recipient=BOB,
                state=state,
                clock=SystemClock(),
                signer=signer,
            )
        return parse_message(self.manifest(sent.digest))

    def manifest(self, digest: Digest) -> bytes:
        reader = self.registry.get_manifest(REPOSITORY, digest)
        return read_all(reader, MAX_MANIFEST_BYTES)[0]

    def reference(self, digest: Digest) -> str:
        return f"{self.repo}@{digest}"

    def bundles(self, subject: Digest) -> list[bytes]:
        """Return the bundles that refer to `subject`, found by the API or by the index."""
        found = []
        for entry in self.registry.referrers(REPOSITORY, subject):
            data = self.manifest(entry.digest)
            if json.loads(data).get("artifactType") == ARTIFACT_TYPE_BUNDLE:
                layer = parse_bundle(data).layer
                found.append(read_all(self.registry.get_blob(REPOSITORY, layer.digest), 2**20)[0])
        return found

    def acknowledge(self, message: Message, signer: Signer) -> tuple[bytes, bytes]:
        """Put Bob's signed receipt beside the message; return its manifest and its bundle."""
        annotations = {
            VERSION: PROTOCOL_VERSION,
            SENDER: ALICE,
            RECIPIENT: BOB,
            CREATED_AT: format_time(datetime.now(UTC)),
            MESSAGE_ID: message.header.id,
            RECEIPT_FOR: message.digest,
            RECEIPT_STATUS: "accepted",
            RECEIPT_VERIFIED: "true",
        }
        unsigned, _ = ManifestBuilder.receipt(annotations, subject=message.descriptor).build()
        bundle = signer.sign_receipt(parse_receipt(unsigned))
        layer = Descriptor.of(bundle, ARTIFACT_TYPE_BUNDLE)
        registry = self.registry
        registry.push_blob(REPOSITORY, layer, lambda: io.BytesIO(bundle))
        data, entry = ManifestBuilder.receipt(
            annotations, subject=message.descriptor, layers=(layer,)
        ).build()
        registry.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=("receipt",))
        if not registry.referrers_supported(REPOSITORY):
            known = tuple(registry.referrers(REPOSITORY, message.digest))
            put_index(registry, REPOSITORY, message.digest, (*known, entry))
        return data, bundle


@pytest.fixture(params=("distribution", "ocimem", "ggcr"))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    """Without referrers API, and twice with it."""
    return Box(request.getfixturevalue(request.param), tmp_path)


@pytest.fixture
def cosign(tmp_path: Path) -> Cosign:
    home = tmp_path / "cosign"
    home.mkdir()
    return Cosign(home)


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    KeyStore(tmp_path / "keys").generate()
    return KeyStore(tmp_path / "keys").private_key()


def pem(folder: Path, key: PublicKey, name: str = "key.pub") -> Path:
    path = folder / name
    path.write_text(key.to_pem())
    return path


def terms(policy: Policy, *, me: str = BOB, repo: str = "") -> Terms:
    return Terms(policy=policy, me=(me,), repo=repo, now=datetime.now(UTC), roots=SigstoreRoots())


def key_policy(key: PublicKey, name: str = ALICE, **changes: bool) -> Policy:
    sender = Sender(name=name, keys=(TrustedKey(key=key),))
    return replace(Policy(senders=(sender,)), **changes)


def identity_policy(services: RealSigstore, name: str = ALICE, **changes: bool) -> Policy:
    identity = TrustedIdentity(identity=name, issuer=services.issuer.url, root="local")
    policy = Policy(
        roots={"local": Root(name="local", path=services.trusted_root)},
        senders=(Sender(name=name, identities=(identity,)),),
    )
    return replace(policy, **changes)


def keyless(services: RealSigstore, email: str = ALICE) -> KeylessSigner:
    return KeylessSigner(
        KeylessOptions(
            token=services.token(email),
            trusted_root=services.trusted_root,
            signing_config=services.signing_config,
        )
    )


def identity_flags(services: RealSigstore, email: str = ALICE) -> list[str]:
    return [
        "--trusted-root",
        str(services.trusted_root),
        "--certificate-identity",
        email,
        "--certificate-oidc-issuer",
        services.issuer.url,
    ]


HTTP = "--allow-http-registry"
NO_LOG = "--insecure-ignore-tlog"


# --- we sign, cosign verifies --------------------------------------------------------------------


def test_cosign_verifies_a_message_signed_with_a_key(box, cosign, key, tmp_path):
    message = box.send(KeySigner(key))
    mine = pem(tmp_path, key.public_key())
    other = pem(tmp_path, PrivateKey.generate().public_key(), "other.pub")
    reference = box.reference(message.digest)
    cosign.run("verify", "--key", mine, NO_LOG, HTTP, reference)
    cosign.run("verify", "--key", other, NO_LOG, HTTP, reference, accepts=False)
    attested = ("verify-attestation", "--type", PREDICATE_TYPE_MESSAGE, "--key")
    done = cosign.run(*attested, mine, NO_LOG, HTTP, reference)
    assert message.digest[7:] in done.stdout + done.stderr
    receipts = ("verify-attestation", "--type", PREDICATE_TYPE_RECEIPT, "--key")
    cosign.run(*receipts, mine, NO_LOG, HTTP, reference, accepts=False)


def test_cosign_verifies_a_message_signed_with_an_ed25519_key(box, cosign, tmp_path):
    key = PrivateKey(ed25519.Ed25519PrivateKey.generate())
    reference = box.reference(box.send(KeySigner(key)).digest)
    mine = pem(tmp_path, key.public_key())
    cosign.run("verify", "--key", mine, NO_LOG, HTTP, reference)
    attested = ("verify-attestation", "--type", PREDICATE_TYPE_MESSAGE, "--key")
    cosign.run(*attested, mine, NO_LOG, HTTP, reference)


def test_cosign_verifies_a_message_signed_as_an_identity(box, cosign, services):
    message = box.send(keyless(services))
    reference, flags = box.reference(message.digest), identity_flags(services)
    cosign.run("verify", *flags, HTTP, reference)
    attested = ("verify-attestation", "--type", PREDICATE_TYPE_MESSAGE)
    cosign.run(*attested, *flags, HTTP, reference)
    cosign.run("verify", *identity_flags(services, EVE), HTTP, reference, accepts=False)


def test_cosign_verifies_a_receipt_beside_the_message(box, cosign, key, tmp_path):
    bobs = PrivateKey.generate()
    message = box.send(KeySigner(key))
    manifest, bundle = box.acknowledge(message, KeySigner(bobs))
    reference = box.reference(message.digest)
    alice_pem, bob_pem = pem(tmp_path, key.public_key()), pem(tmp_path, bobs.public_key(), "bob")
    cosign.run("verify", "--key", alice_pem, NO_LOG, HTTP, reference)
    for kind, path, accepts in (
        (PREDICATE_TYPE_RECEIPT, bob_pem, True),
        (PREDICATE_TYPE_RECEIPT, alice_pem, False),
        (PREDICATE_TYPE_MESSAGE, alice_pem, True),
        (PREDICATE_TYPE_MESSAGE, bob_pem, False),
    ):
        attested = ("verify-attestation", "--type", kind, "--key", path)
        cosign.run(*attested, NO_LOG, HTTP, reference, accepts=accepts)
    # The trap that SPEC.md names: plain `verify` looks at no type. Ours does.
    cosign.run("verify", "--key", bob_pem, NO_LOG, HTTP, reference)
    with pytest.raises(VerificationError, match="receipt/v1"):
        verify_message(message, [bundle], terms(key_policy(bobs.public_key(), ALICE)))
    found = verify_receipt(
        parse_receipt(manifest), [bundle], terms(key_policy(bobs.public_key(), BOB), me=ALICE)
    )
    assert found.name == BOB


def test_cosign_verifies_a_receipt_of_an_identity(box, cosign, key, services):
    message = box.send(KeySigner(key))
    box.acknowledge(message, keyless(services, BOB))
    attested = ("verify-attestation", "--type", PREDICATE_TYPE_RECEIPT)
    reference = box.reference(message.digest)
    cosign.run(*attested, *identity_flags(services, BOB), HTTP, reference)
    cosign.run(*attested, *identity_flags(services, ALICE), HTTP, reference, accepts=False)


def test_cosign_takes_our_time_stamp_on_a_key(box, cosign, key, services, tmp_path):
    source = timestamp_source(services.instance.tsa_url)
    message = box.send(KeySigner(key, timestamp=source))
    flags = ("--trusted-root", services.trusted_root, "--use-signed-timestamps", NO_LOG, HTTP)
    mine = pem(tmp_path, key.public_key())
    cosign.run("verify", "--key", mine, *flags, box.reference(message.digest))
    found = verify_message(
        message,
        box.bundles(message.digest),
        terms(replace(identity_policy(services), senders=key_policy(key.public_key()).senders)),
    )
    assert found.signed_at is not None


def test_cosign_verifies_our_approval_of_a_file(cosign, key, services, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    digest = digest_of(b"hello")
    bundle = tmp_path / "bundle.json"
    kind = ("--type", "https://sigstore.dev/cosign/sign/v1")
    for signer, flags in (
        (KeySigner(key), ["--key", str(pem(tmp_path, key.public_key())), NO_LOG]),
        (keyless(services), identity_flags(services)),
    ):
        bundle.write_bytes(signer.approve("file", digest))
        cosign.run("verify-blob-attestation", "--bundle", bundle, *kind, *flags, path)


def test_cosign_reads_our_keys(cosign, tmp_path):
    stored = KeyStore(tmp_path / "keys").generate("mine")
    cosign.run("import-key-pair", "--key", stored.path, "--output-key-prefix", "imported")
    public = PublicKey.load(cosign.home / "imported.pub")
    assert public == stored.public


# --- cosign signs, we verify ---------------------------------------------------------------------


def cosign_key(cosign: Cosign) -> PublicKey:
    """Make cosign a key pair, and return the public one."""
    cosign.run("generate-key-pair", "--output-key-prefix", "ck")
    return PublicKey.load(cosign.home / "ck.pub")


def test_we_verify_what_cosign_signs_with_a_key(box, cosign):
    public = cosign_key(cosign)
    message = box.send(None)
    no_services = ("--tlog-upload=false", "--use-signing-config=false")
    reference = box.reference(message.digest)
    cosign.run("sign", "-y", "--key", "ck.key", *no_services, HTTP, reference)
    bundles = box.bundles(message.digest)
    accepting = key_policy(public, accept_cosign_sign=True)
    found = verify_message(message, bundles, terms(accepting))
    assert (found.name, found.approval) == (ALICE, True)
    with pytest.raises(VerificationError, match="accept_cosign_sign"):
        verify_message(message, bundles, terms(key_policy(public)))
    assert verify_approval(bundles[0], message.digest, terms(key_policy(public)), title="x")


def test_we_verify_what_cosign_signs_as_an_identity(box, cosign, services):
    message = box.send(None)
    token = cosign.home / "token"
    token.write_text(services.token(ALICE))
    files = (
        "--signing-config",
        services.signing_config,
        "--trusted-root",
        services.trusted_root,
    )
    reference = box.reference(message.digest)
    cosign.run("sign", "-y", "--identity-token", token, *files, HTTP, reference)
    bundles = box.bundles(message.digest)
    accepting = identity_policy(services, accept_cosign_sign=True)
    found = verify_message(message, bundles, terms(accepting))
    assert (found.name, found.signer, found.approval) == (ALICE, ALICE, True)
    assert abs(found.signed_at - datetime.now(UTC)) < timedelta(minutes=1)
    with pytest.raises(VerificationError, match="accept_cosign_sign"):
        verify_message(message, bundles, terms(identity_policy(services)))
    with pytest.raises(UnknownSender):
        verify_message(message, bundles, terms(identity_policy(services, EVE)))


@pytest.mark.parametrize("command", ["sign-blob", "attest-blob"])
def test_we_verify_what_cosign_says_of_a_file(cosign, services, tmp_path, command):
    public = cosign_key(cosign)
    path, bundle = tmp_path / "file", tmp_path / "bundle.json"
    path.write_bytes(b"hello")
    predicate = tmp_path / "predicate.json"
    predicate.write_text("{}")
    kind = "https://example.com/checked/v1"
    more = ("--predicate", predicate, "--type", kind) if command == "attest-blob" else ()
    files = (
        "--signing-config",
        services.signing_config,
        "--trusted-root",
        services.trusted_root,
    )
    cosign.run(command, "-y", "--key", "ck.key", "--bundle", bundle, *files, *more, path)
    policy = replace(identity_policy(services), senders=key_policy(public).senders)
    options = {"predicate_type": kind} if more else {}
    found = verify_approval(
        bundle.read_bytes(), digest_of(b"hello"), terms(policy), title="file", **options
    )
    assert (found.name, found.kind) == (ALICE, "key")
    assert found.signed_at is not None
    token = cosign.home / "token"
    token.write_text(services.token(ALICE))
    as_identity = ("--identity-token", token)
    cosign.run(command, "-y", *as_identity, "--bundle", bundle, *files, *more, path)
    found = verify_approval(
        bundle.read_bytes(),
        digest_of(b"hello"),
        terms(identity_policy(services)),
        title="file",
        **options,
    )
    assert (found.name, found.kind, found.signer) == (ALICE, "keyless", ALICE)
