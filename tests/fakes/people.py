"""Alice, Bob and strangers with keys: the fixture of tests of identities."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dockercomms.messages.publish import bundle_layer
from dockercomms.messages.verify import MessageVerifier, Verdict
from dockercomms.oci.interface import read_all
from dockercomms.oci.model import MAX_MANIFEST_BYTES, MEDIA_TYPE_MANIFEST, Descriptor
from dockercomms.oci.stores import Store
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE
from dockercomms.protocol.manifest import ManifestBuilder, Message
from dockercomms.protocol.tags import bundle_tag
from dockercomms.trust.checks import Claim
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.keys import PrivateKey, PublicKey
from dockercomms.trust.owner import Trust
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from dockercomms.trust.signing import KeySigner
from tests.fakes.mail import ALICE, BOB, REPO, REPOSITORY, Mail, message_of

ALICES, BOBS, STRANGERS = (PrivateKey.generate() for _ in range(3))
ALICE_SIGNS, BOB_SIGNS, STRANGER_SIGNS = (KeySigner(key) for key in (ALICES, BOBS, STRANGERS))
ROOTS = SigstoreRoots()


def knows(name: str, key: PrivateKey, **changes: Any) -> Sender:
    """Return the entry of somebody who signs with `key`."""
    return Sender(name=name, keys=(TrustedKey(key=key.public_key()),), **changes)


KNOWS_ALICE = Policy(senders=(knows(ALICE, ALICES),))


@dataclass
class Judging:
    """Bob's view of the messages in `mail`."""

    mail: Mail
    policy: Policy = KNOWS_ALICE
    own_key: PublicKey | None = None
    me: tuple[str, ...] = (BOB,)
    pinned: list[tuple[str, PublicKey]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def verifier(self, **options: Any) -> MessageVerifier:
        given = {"clock": self.mail.clock, **self.options, **options}
        return MessageVerifier(
            Store(self.mail.registry, REPOSITORY, REPO),
            me=BOB,
            state=self.mail.bob,
            trust=Trust(policy=self.policy, me=self.me, own_key=self.own_key, roots=ROOTS),
            **given,
        )

    def judge(self, sent: Any, **options: Any) -> Verdict:
        return self.verifier(**options).verify(message_of(self.mail, sent))

    def pin(self, claim: Claim, key: PublicKey, repo: str) -> Policy:
        assert (claim.recipient, repo) == (BOB, REPO)
        self.pinned.append((claim.name, key))
        entry = Sender(name=claim.name, keys=(TrustedKey(key=key),))
        self.policy = Policy(senders=(*self.policy.senders, entry))
        return self.policy


def attach(
    mail: Mail, subject: Message | Descriptor, bundle: bytes, *, tag: bool = True, **options: Any
) -> None:
    """Attach a bundle to a message that is there already, as anybody can."""
    descriptor = subject.descriptor.bare() if isinstance(subject, Message) else subject
    publisher = mail.publisher()
    publisher.ensure_config()
    options = {"predicate_type": PREDICATE_TYPE_MESSAGE, "index": "auto", "fresh": False, **options}
    before = set(mail.tags())
    publisher.push_bundle(descriptor, bundle, **options)
    if not tag:
        for name in set(mail.tags()) - before:
            if name.startswith("bundle-"):
                mail.reader.delete_tag(REPOSITORY, name)


def sign_as_others_do(mail: Mail, message: Message, *, tagged: bool = True) -> None:
    """Attach Alice's signature without a name beside it, as other programs do."""
    data, _ = read_all(mail.reader.get_manifest(REPOSITORY, message.digest), MAX_MANIFEST_BYTES)
    bundle = ALICE_SIGNS.sign(message, data)
    mail.publisher().push_layer(bundle)
    layer = bundle_layer(bundle)
    manifest, _ = ManifestBuilder.bundle(message.descriptor.bare(), {}, layer).build()
    tag = bundle_tag(message.digest, mail.clock.now() + timedelta(days=1), layer.digest)
    mail.reader.push_manifest(
        REPOSITORY, manifest, MEDIA_TYPE_MANIFEST, tags=[tag] if tagged else []
    )
