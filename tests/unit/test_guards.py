"""One bad object never stops the rest: what anybody can push, and what nobody foresaw."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import ProtocolError
from dockercomms.mailbox import TrustOptions
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.protocol import (
    ARTIFACT_TYPE_BUNDLE,
    CREATED_AT,
    EXPIRES_AT,
    bundle_tag,
    message_tag,
    receipt_tag,
    receipts_tag,
    recipient_tag,
)
from dockercomms.stores import Store
from dockercomms.trust.dsse import PAYLOAD_TYPE_INTOTO
from dockercomms.trust.keys import PrivateKey
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from dockercomms.trust.signing import KeySigner
from tests.fakes.mail import ALICE, BOB, REPOSITORY, Mail, files_below, open_mail, tags_with

Json = dict[str, Any]


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[Mail]:
    yield from open_mail(tmp_path)


def manifest(mail: Mail, ref: str) -> Json:
    """Return the manifest under a tag or digest."""
    reader = mail.reader
    opened = reader.get_manifest(REPOSITORY, ref) if ":" in ref else reader.get_tag(REPOSITORY, ref)
    found: Json = json.loads(opened.read())
    return found


def push(mail: Mail, value: Json, *, to: str = BOB) -> str:
    """Publish a manifest as anybody may, under a message's tag; return its digest."""
    data = json.dumps(value).encode()
    tag = message_tag(recipient_tag(to), mail.clock.now(), digest_of(data))
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=[tag])
    return digest_of(data)


def annotated(key: str, text: str) -> Callable[[Json], None]:
    def change(value: Json) -> None:
        value["annotations"][key] = text

    return change


def data_of(member: str, text: str) -> Callable[[Json], None]:
    def change(value: Json) -> None:
        part = value[member]
        (part[0] if isinstance(part, list) else part)["data"] = text

    return change


HOSTILE: dict[str, Callable[[Json], None]] = {
    "created four minutes after year 1": annotated(CREATED_AT, "0001-01-01T00:04:00.000Z"),
    "created in year 9999": annotated(CREATED_AT, "9999-12-31T23:59:59.999Z"),
    "expires in year 1": annotated(EXPIRES_AT, "0001-01-01T00:00:00Z"),
    "data beyond ASCII": data_of("layers", "ü"),
    "data of the config beyond ASCII": data_of("config", "ÿ=="),
    "data of the subject beyond ASCII": data_of("subject", "é"),
    "half of a pair": annotated("x", "\ud800"),
    "half of a pair in a key": annotated("\udfff", "x"),
    "half of a pair in a name": annotated("dockercomms.sender", "\udc00"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_refused_and_the_one_behind_it_arrives(mail, name):
    mail.send(mail.file(data=b"first"))
    (tag,) = (tag for tag in mail.tags() if tag.count("-") == 4 and tag.startswith("inbox-"))
    value = manifest(mail, tag)
    HOSTILE[name](value)
    digest = push(mail, value)
    mail.clock.advance(1)
    mail.send(mail.file(data=b"second"))
    with mail.mailbox() as box:
        states = {entry.digest: entry.state for entry in box.inbox()}
        assert states[digest] == "refused"
    received = mail.receive()
    assert [one.status for one in received].count("received") == 2
    (failed,) = (one for one in received if one.status == "failed")
    assert failed.digest == digest
    assert isinstance(failed.error, ProtocolError)
    assert sorted(files_below(mail.out).values()) == [b"first", b"second"]
    assert mail.receive() == []


def hostile_bundles(message: str, key: PrivateKey, mail: Mail) -> dict[str, tuple[bytes, bytes]]:
    """Return bundle manifests that anybody may add to a message, with their layers."""
    found = {}
    for name, bundle in {
        "payload type": {"payloadType": "\ud800"},
        "payload": {"payload": "ü"},
        "type of the statement": {
            "payload": base64.b64encode(b'{"_type":[],"subject":[],"predicateType":{}}').decode()
        },
        "deep": {"payload": base64.b64encode(b"[" * 100_000).decode()},
    }.items():
        envelope = {"payload": "e30=", "payloadType": PAYLOAD_TYPE_INTOTO}
        layer = json.dumps(
            {
                "mediaType": ARTIFACT_TYPE_BUNDLE,
                "verificationMaterial": {"publicKey": {"hint": key.public_key().spki_sha256}},
                "dsseEnvelope": {**envelope, "signatures": [{"sig": "AA=="}], **bundle},
            }
        ).encode()
        found[name] = (bundle_manifest(message, layer), layer)
    found["data"] = (bundle_manifest(message, b"{}", data="ü"), b"{}")
    found["half of a pair"] = (bundle_manifest(message, b"{}", annotations={"\udc80": "x"}), b"{}")
    return found


def bundle_manifest(
    message: str, layer: bytes, *, annotations: Json | None = None, **more
) -> bytes:
    described = {"mediaType": ARTIFACT_TYPE_BUNDLE, "digest": digest_of(layer), "size": len(layer)}
    value = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": ARTIFACT_TYPE_BUNDLE,
        "config": EMPTY_CONFIG.to_json(),
        "layers": [described | more],
        "subject": {"mediaType": MEDIA_TYPE_MANIFEST, "digest": message, "size": 1},
        "annotations": annotations or {},
    }
    return json.dumps(value).encode()


def push_about(mail: Mail, data: bytes, *tags: str, layer: bytes | None = None) -> None:
    if layer is not None:
        about = Descriptor.of(layer, "application/octet-stream")
        mail.reader.push_blob(REPOSITORY, about, lambda: io.BytesIO(layer))
    mail.reader.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=list(tags))


def test_hostile_bundles_and_receipts_stop_no_verb(mail, tmp_path):
    key = PrivateKey.generate()
    policy = Policy(senders=(Sender(name=ALICE, keys=(TrustedKey(key=key.public_key()),)),))
    sent = mail.send(mail.file(data=b"first"), signer=KeySigner(key))
    for data, layer in hostile_bundles(sent.digest, key, mail).values():
        tag = bundle_tag(sent.digest, mail.clock.now(), digest_of(layer + data))
        push_about(mail, data, tag, layer=layer)
    with mail.mailbox(trust=TrustOptions(policy=policy)) as box:
        assert [one.status for one in box.receive(out=mail.out)] == ["received"]
        assert box.verify(sent.digest).verified.name == ALICE
    (tag,) = tags_with(mail, "receipt-")
    good = manifest(mail, tag)
    for number, change in enumerate(
        (
            *HOSTILE.values(),
            lambda value: value.update(layers=[{"digest": good["config"]["digest"]}]),
        )
    ):
        value = json.loads(json.dumps(good))
        change(value)
        rid = f"{number:016x}"
        push_about(
            mail,
            json.dumps(value).encode(),
            receipt_tag(sent.digest, mail.clock.now(), rid),
            receipts_tag(recipient_tag(ALICE), mail.clock.now(), rid),
        )
    with mail.mailbox(ALICE) as box:
        assert len(box.receipts()) == len(box.receipts(sent.id)) == 1
        assert [entry.fate for entry in box.outbox()] == ["accepted"]
        target = Store(MemoryRegistry(clock=mail.clock), "b", "r.example/b")
        done = list(box.relay(target=target).run())
        assert ("message", "relayed") in [(one.kind, one.status) for one in done]
        assert ("receipt", "relayed") in [(one.kind, one.status) for one in done]
    mail.clock.advance(9 * 86_400)
    with mail.mailbox() as box:
        gone = [(one.kind, one.status) for one in box.collect()]
    assert ("message", "removed") in gone
