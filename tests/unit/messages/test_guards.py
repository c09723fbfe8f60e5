"""One bad object never stops the rest: what anybody can push, and what nobody foresaw."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import InternalError, ProtocolError, guarded
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_MANIFEST, Descriptor, digest_of
from dockercomms.oci.stores import Store
from dockercomms.protocol.header import ARTIFACT_TYPE_BUNDLE, CREATED_AT, EXPIRES_AT
from dockercomms.protocol.tags import (
    bundle_tag,
    message_tag,
    receipt_tag,
    receipts_tag,
    recipient_tag,
)
from dockercomms.trust.bundle import PAYLOAD_TYPE_INTOTO, parse_bundle_json
from dockercomms.trust.checks import RULES
from dockercomms.trust.keys import PrivateKey
from dockercomms.trust.owner import TrustOptions
from dockercomms.trust.policy import Policy, Sender, TrustedKey
from dockercomms.trust.signing import KeySigner
from dockercomms.trust.verifier import signatories, verify_message
from tests.cli.harness import invoke
from tests.fakes.mail import (
    ALICE,
    BOB,
    REPO,
    REPOSITORY,
    Mail,
    files_below,
    listed,
    open_mail,
    tags_with,
)
from tests.unit.trust import signed

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
        assert [entry.digest for entry in box.outbox()] == [sent.digest]
        target = Store(MemoryRegistry(clock=mail.clock), "b", "r.example/b")
        done = list(box.relay(target=target).run())
        assert ("message", "relayed") in [(one.kind, one.status) for one in done]
        assert ("receipt", "relayed") in [(one.kind, one.status) for one in done]
    mail.clock.advance(9 * 86_400)
    with mail.mailbox() as box:
        gone = [(one.kind, one.status) for one in box.collect()]
    assert ("message", "removed") in gone


# --- what nobody foresaw: a collaborator that raises for one object ------------------------------

DEFECTS = [RuntimeError("boom \x1b"), MemoryError(), RecursionError("too deep"), KeyError("x")]


@pytest.fixture(params=DEFECTS, ids=lambda error: type(error).__name__)
def defect(request) -> Exception:
    found: Exception = request.param
    return found


def break_at(
    mail: Mail, defect: BaseException, *wanted: str, methods: tuple[str, ...] = ()
) -> None:
    """Have the registry raise `defect` when it is asked for one of these objects."""

    def before(method: str, said: tuple[Any, ...]) -> None:
        asked = {str(one) for one in said}
        if asked & set(wanted) and (not methods or method in methods):
            raise defect

    mail.registry.before = before


def two(mail: Mail, **options: Any) -> list[Any]:
    """Send two messages; the first is the one that will be met by a defect."""
    sent = []
    for text in (b"first", b"second"):
        sent.append(mail.send(mail.file(data=text), **options))
        mail.clock.advance(1)
    return sent


def check_reported(error: Any, defect: Exception) -> None:
    assert isinstance(error, InternalError)
    assert type(defect).__name__ in str(error)
    assert ("out of memory" in str(error)) == isinstance(defect, MemoryError)


def reads_of(mail: Mail, sent: Any) -> tuple[str, ...]:
    """Return by what the registry is asked for a message: its digest, and its tags."""
    tags = (tag for tag in mail.tags() if sent.digest[7:23] in tag)
    return (sent.digest, *tags)


def test_recv_holds_the_message_that_meets_a_defect_and_takes_the_others(mail, defect, caplog):
    first, second = two(mail)
    break_at(mail, defect, *reads_of(mail, first), methods=("get_tag", "get_manifest"))
    with caplog.at_level("DEBUG", logger="dockercomms.internal"):
        results = mail.receive()
    assert {one.digest or first.digest: one.status for one in results} == {
        first.digest: "failed",
        second.digest: "received",
    }
    (failed,) = (one for one in results if one.status == "failed")
    check_reported(failed.error, defect)
    assert caplog.records[0].exc_info[1] is defect
    assert mail.receive() == []  # it was said once
    mail.registry.before = None
    assert [one.status for one in mail.receive()] == ["received"]
    assert sorted(files_below(mail.out).values()) == [b"first", b"second"]


def test_recv_holds_the_message_whose_chunk_meets_a_defect(mail, defect):
    sent = [mail.send(mail.large_file(seed)) for seed in (1, 2)]
    (row,) = manifest(mail, sent[0].digest)["layers"]
    break_at(mail, defect, row["digest"], methods=("get_blob", "get_blob_range"))
    results = {one.digest: one for one in mail.receive()}
    check_reported(results[sent[0].digest].error, defect)
    assert results[sent[1].digest].status == "received"
    held = {
        row.digest: (row.state, row.reason_kind) for row in mail.bob.inbox.candidates(BOB, REPO)
    }
    assert held[sent[0].digest] == ("held", "internal")
    assert mail.receive() == []
    mail.registry.before = None
    assert [one.digest for one in mail.receive()] == [sent[0].digest]


def test_a_message_at_which_a_defect_was_met_is_tried_by_its_id(mail):
    first, _ = two(mail)
    break_at(mail, RuntimeError("x"), *reads_of(mail, first), methods=("get_tag", "get_manifest"))
    mail.receive()
    (again,) = mail.receive(ids=[first.digest]) or [None]
    assert again.status == "failed"
    mail.registry.before = None
    assert [one.status for one in mail.receive(ids=[first.digest])] == ["received"]


def test_recv_holds_the_message_whose_bundle_meets_a_defect(mail, defect):
    key = PrivateKey.generate()
    policy = Policy(senders=(Sender(name=ALICE, keys=(TrustedKey(key=key.public_key()),)),))
    first, second = two(mail, signer=KeySigner(key))
    tags = tags_with(mail, f"bundle-{first.digest[7:19]}-")
    break_at(mail, defect, *tags, *bundles_of(mail, first), methods=("get_tag", "get_manifest"))
    options = {"mailbox": {"trust": TrustOptions(policy=policy)}}
    results = {one.digest: one for one in mail.receive(**options)}
    check_reported(results[first.digest].error, defect)
    assert results[second.digest].status == "received"
    assert mail.receive(**options) == []
    mail.registry.before = None
    assert [one.digest for one in mail.receive(**options)] == [first.digest]


def bundles_of(mail: Mail, sent: Any) -> list[str]:
    return [entry.digest for entry in mail.reader.referrers(REPOSITORY, sent.digest)]


def test_a_bundle_that_meets_a_defect_hides_no_good_one(mail, defect):
    key = PrivateKey.generate()
    policy = Policy(senders=(Sender(name=ALICE, keys=(TrustedKey(key=key.public_key()),)),))
    sent = mail.send(mail.file(), signer=KeySigner(key))
    planted = bundle_manifest(sent.digest, b"{}")
    tag = bundle_tag(sent.digest, mail.clock.now(), digest_of(planted))
    push_about(mail, planted, tag, layer=b"{}")
    break_at(mail, defect, tag, digest_of(planted), methods=("get_tag", "get_manifest"))
    with mail.mailbox(trust=TrustOptions(policy=policy)) as box:
        assert box.verify(sent.digest).verified.name == ALICE
        assert [one.status for one in box.receive(out=mail.out)] == ["received"]


def test_a_bundle_whose_parts_meet_a_defect_hides_no_good_one(mail, defect):
    """The verifier itself fails at one bundle; the others are judged all the same."""
    about, bundles = signed.message(), [b"the planted one", signed.signed()]

    def parse(data: bytes) -> Any:
        if data == bundles[0]:
            raise defect
        return parse_bundle_json(data)

    rules = replace(RULES, parse_bundle=parse)
    assert verify_message(about, bundles, signed.terms(), rules=rules).name == ALICE
    with pytest.raises(InternalError) as caught:
        verify_message(about, bundles[:1], signed.terms(), rules=rules)
    check_reported(caught.value, defect)
    assert signatories(bundles, signed.terms(), rules=rules)


def test_inbox_lists_the_others_and_says_once_what_it_met(mail, defect):
    first, second = two(mail)
    break_at(mail, defect, *reads_of(mail, first), methods=("get_tag", "get_manifest"))
    with mail.mailbox() as box:
        states = {entry.digest or entry.tag: entry.state for entry in box.inbox()}
        assert states.pop(second.digest) == "new"
        assert set(states.values()) == {"held"}
        (met,) = box.defects
        check_reported(met, defect)
    with mail.mailbox() as box:
        box.inbox()
        assert box.defects == []


@pytest.mark.parametrize("method", ["referrers", "resolve_tag", "referrers_supported"])
def test_an_answer_that_meets_a_defect_hides_no_message(mail, defect, method):
    two(mail)

    def before(called: str, said: tuple[Any, ...]) -> None:
        if called == method and not (said and str(said[-1]).startswith("receipt")):
            raise defect

    mail.registry.before = before
    with mail.mailbox() as box:
        assert len(box.inbox()) == 2
        assert [type(error) for _, error in box.last_poll.errors][:1] == [InternalError]
        assert len(box.defects) == 1
        assert len([one for one in box.receive(out=mail.out) if one.status == "received"]) == 2


def test_watch_takes_the_others(mail, defect):
    first, _ = two(mail)
    break_at(mail, defect, *reads_of(mail, first), methods=("get_tag", "get_manifest"))
    with mail.mailbox() as box:
        seen = [one.received.status for one in box.watch(out=mail.out, once=True)]
        assert sorted(seen) == ["failed", "received"]
        assert [one.received.status for one in box.watch(out=mail.out, once=True)] == []


def test_a_receipt_that_meets_a_defect_is_published_by_the_next_run(mail, defect):
    sent = two(mail)

    def before(method: str, said: tuple[Any, ...]) -> None:
        if method == "push_manifest" and sent[0].digest[7:19] in str(said):
            raise defect

    mail.registry.before = before
    results = {one.digest: one for one in mail.receive()}
    assert {one.status for one in results.values()} == {"received"}
    check_reported(results[sent[0].digest].error, defect)
    assert results[sent[1].digest].error is None
    mail.registry.before = None
    mail.receive()
    assert {entry.message for entry in listed(mail)} == {one.digest for one in sent}


def test_receipts_and_outbox_list_the_others(mail, defect):
    first, second = two(mail)
    mail.receive()
    (bad,) = tags_with(mail, f"receipt-{first.digest[7:19]}-")
    receipt = mail.reader.resolve_tag(REPOSITORY, bad).digest
    tags = [
        tag
        for tag in tags_with(mail, "receipts-")
        if mail.reader.resolve_tag(REPOSITORY, tag).digest == receipt
    ]
    break_at(mail, defect, bad, receipt, *tags, methods=("get_tag", "get_manifest"))
    with mail.mailbox(ALICE) as box:
        assert [entry.message for entry in box.receipts()] == [second.digest]
        assert {error.what for error in box.defects} == {bad, *tags}  # under each of its tags
        for error in box.defects:
            check_reported(error, defect)
        assert box.receipts(first.digest) == []
        assert [entry.digest for entry in box.outbox()] == [first.digest, second.digest]
    mail.registry.before = None
    with mail.mailbox(ALICE) as box:
        assert len(box.receipts()) == 2
        assert box.defects == []


def test_gc_removes_the_others(mail, defect):
    first, second = two(mail)
    mail.clock.advance(9 * 86_400)
    break_at(mail, defect, *reads_of(mail, first), methods=("get_tag", "get_manifest"))
    with mail.mailbox() as box:
        done = list(box.collect())
        failed = [one for one in done if one.status == "failed"]  # by its tag, and by its digest
        for one in failed:
            check_reported(one.error, defect)
            assert box.is_first(one.error)
            assert not box.is_first(one.error)
    assert second.digest in {one.digest for one in done if one.status == "removed"}
    assert mail.reader.resolve_manifest(REPOSITORY, first.digest)
    assert "anchor" not in {one.kind for one in done}


def test_gc_goes_on_behind_a_deletion_that_meets_a_defect(mail, defect):
    first, second = two(mail)
    mail.clock.advance(9 * 86_400)
    break_at(mail, defect, first.digest, methods=("delete_manifest",))
    with mail.mailbox() as box:
        done = {one.digest: one.status for one in box.collect() if one.kind == "message"}
    assert done == {first.digest: "failed", second.digest: "removed"}


@pytest.mark.parametrize("method", ["get_tag", "get_blob"])
def test_relay_carries_the_others(mail, defect, method):
    sent = [mail.send(mail.large_file(seed)) for seed in (1, 2)]
    (layer,) = manifest(mail, sent[0].digest)["layers"]
    wanted = reads_of(mail, sent[0]) if method == "get_tag" else (layer["digest"],)
    break_at(mail, defect, *wanted, methods=(method, "get_blob_range"))
    target = Store(MemoryRegistry(clock=mail.clock), "b", "r.example/b")
    with mail.mailbox() as box:
        done = list(box.relay(target=target).run())
        (failed,) = (one for one in done if one.status == "failed")
        check_reported(failed.error, defect)
        assert [one.digest for one in done if one.status == "relayed"] == [sent[1].digest]
        mail.registry.before = None
        done = list(box.relay(target=target).run())
        assert [one.digest for one in done if one.status == "relayed"] == [sent[0].digest]


def test_relay_carries_other_receipts(mail, defect):
    first, _ = two(mail)
    target = Store(MemoryRegistry(clock=mail.clock), "b", "r.example/b")
    with mail.mailbox() as box:
        list(box.relay(target=target).run())
        assert len(list(box.receive(out=mail.out))) == 2
        (bad,) = tags_with(mail, f"receipt-{first.digest[7:19]}-")
        receipt = mail.reader.resolve_tag(REPOSITORY, bad).digest
        tags = {
            tag
            for tag in tags_with(mail, "receipt")
            if mail.reader.resolve_tag(REPOSITORY, tag).digest == receipt
        }
        break_at(mail, defect, receipt, *tags, methods=("get_tag", "get_manifest", "resolve_tag"))
        done = [(one.kind, one.status) for one in box.relay(target=target).run()]
    assert ("receipt", "relayed") in done
    assert ("receipt", "failed") in done


def test_an_interrupt_passes_every_guard(mail):
    first, _ = two(mail)
    break_at(mail, KeyboardInterrupt(), *reads_of(mail, first), methods=("get_tag", "get_manifest"))
    with pytest.raises(KeyboardInterrupt):
        mail.receive()
    with pytest.raises(SystemExit), guarded("x"):
        raise SystemExit


def test_errors_of_ours_pass_a_guard_as_they_are():
    error = ProtocolError("x")
    with pytest.raises(ProtocolError) as caught, guarded("y"):
        raise error
    assert caught.value is error


def test_a_defect_is_told_again_after_90_days(mail):
    error = InternalError("x", what="x")
    with mail.mailbox() as box:
        assert [box.is_first(error), box.is_first(error)] == [True, False]
        mail.clock.advance(91 * 86_400)
        assert box.is_first(error)


def test_verbose_shows_where_a_defect_was_met(mail, tmp_path):
    sent = mail.send(mail.file())
    break_at(mail, RuntimeError("boom"), *reads_of(mail, sent), methods=("get_tag", "get_manifest"))
    results = {}
    for words in (["recv"], ["recv", "-v", "--all"]):
        words += ["--out", str(tmp_path / "out")]
        with mail.mailbox() as box:
            results[words[1]] = invoke(words, factory=lambda *_, box=box, **__: box)
    assert results["--out"].exit_code == 1
    assert "internal error: RuntimeError: boom (before, line" in results["--out"].stderr
    assert "Traceback" not in results["--out"].stderr
    assert "Traceback (most recent call last)" in results["-v"].stderr
