"""Every object the command line prints is what `spec/schema` says, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry, Resource

from dockercomms.cli import records
from dockercomms.cli.program import VERBS
from dockercomms.errors import Truncated
from dockercomms.messages.command import Outcome
from tests.cli.harness import invoke
from tests.fakes.mailbox import (
    FakeMailbox,
    collected,
    entry,
    failed,
    outbox_entry,
    poll,
    receipt,
    received,
    relayed,
    sent,
    watched,
)

FOLDER = Path(__file__).parent.parent.parent / "spec" / "schema"
PRINTED = (
    "export", "import", "relay", "gc", "send", "inbox", "show", "recv", "watch", "receipts", "outbox", "ack", "verify", "sign", "keys", "trust", "version",
)  # fmt: skip
SCHEMAS = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in (*PRINTED, "error")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)


def check(name: str, record: Any) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator(schema, registry=REGISTRY).validate(record)
    assert set(record) == set(schema["properties"]), "printed and described keys differ"


def printed(*arguments: str, mailbox: FakeMailbox) -> list[Any]:
    result = invoke([*arguments, "--format", "jsonl"], factory=mailbox)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_valid_and_says_what_each_key_is_for(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"https://dockercomms.dev/schema/{name}.json"
    assert schema["required"] == list(schema["properties"])


def test_every_verb_that_prints_objects_has_a_schema() -> None:
    assert set(PRINTED) == set(VERBS) - {
        "completion",
        "config",  # prints none
        "reg",  # tests/unit/cli/test_reg_schemas
        "reply",  # prints what send prints
    }
    for name in PRINTED:
        assert SCHEMAS[name]["properties"]["schema"] == {"const": f"dockercomms/{name}/v1"}


@pytest.mark.parametrize(
    "by",
    [None, SimpleNamespace(kind="key", signer="a"), SimpleNamespace(kind="keyless", signer="b")],
)
def test_send_prints_what_its_schema_says(by: Any) -> None:
    (record,) = printed("send", "x", "--to", "bob", mailbox=FakeMailbox(sends=[sent(signed=by)]))
    check("send", record)


ENTRIES = [
    entry(),
    entry(id="", digest=None, tag="x", sender="", filename="", title=None, bytes=None, created_at=None, expires_at=None,
          state="held", reason="no bundle yet"),
    entry(tag=None, state="delivered", expired=True, signature_status="valid", signer="alice", text="hi"),
    entry(state="refused", reason="x", signature_status="untrusted"),
]  # fmt: skip


def test_inbox_prints_what_its_schema_says() -> None:
    records_ = printed("inbox", "--all", mailbox=FakeMailbox(entries=ENTRIES, poll=poll()))
    assert len(records_) == len(ENTRIES)
    for record in records_:
        check("inbox", record)


@pytest.mark.parametrize("one", ENTRIES)
def test_show_prints_what_its_schema_says(one: Any) -> None:
    (record,) = printed("show", "x", mailbox=FakeMailbox(entries=[one]))
    check("show", record)


def test_recv_prints_what_its_schema_says() -> None:
    messages = [
        received(),
        received(receipt=None, signer="alice", files=()),
        received(status="skipped", reason="it was delivered before"),
        failed(Truncated("short"), id="", digest=None, sender=""),
    ]
    records_ = printed("recv", mailbox=FakeMailbox(messages=messages, poll=poll()))
    for record in records_:
        check("recv", record)
    check("error", records_[-1]["error"])


def test_watch_prints_what_its_schema_says() -> None:
    messages = [
        watched(),
        watched(outcome=None, status=None),
        watched(outcome=Outcome(exit_code=137, timed_out=True, seconds=60.0), status="rejected"),
        watched(received=failed(Truncated("short"), id="", digest=None, sender="")),
    ]
    records_ = printed("watch", "--once", mailbox=FakeMailbox(messages=messages, poll=poll()))
    assert len(records_) == len(messages)
    for record in records_:
        check("watch", record)


def test_receipts_prints_what_its_schema_says() -> None:
    held = [receipt(), receipt(id="", status="rejected", created_at=None, claimed_verified=True)]
    for record in printed("receipts", mailbox=FakeMailbox(receipts_held=held)):
        check("receipts", record)


def test_outbox_prints_what_its_schema_says() -> None:
    sent_ = [
        outbox_entry(),
        outbox_entry(title="", fate="accepted", receipt=receipt(signature_status="valid")),
        outbox_entry(fate="rejected", receipt=receipt(status="rejected", created_at=None)),
    ]
    for record in printed("outbox", mailbox=FakeMailbox(outbox_held=sent_)):
        check("outbox", record)


def test_reply_prints_what_send_prints() -> None:
    (record,) = printed(
        "reply", "x", "--text", "hi", mailbox=FakeMailbox(entries=[entry()], sends=[sent()])
    )
    check("send", record)


def test_ack_and_version_print_what_their_schemas_say() -> None:
    (record,) = printed("ack", "x", "--status", "accepted", mailbox=FakeMailbox(entries=[entry()]))
    check("ack", record)
    (record,) = printed("version", mailbox=FakeMailbox())
    check("version", record)


def test_gc_and_relays_print_what_their_schemas_say(tmp_path: Path) -> None:
    moved = [
        relayed(),
        relayed(kind="receipt", bytes=0),
        relayed(kind="bundle", id="", sender="", recipient="", tag=None, bytes=0),
        relayed(status="failed", digest=None, error=Truncated("short")),
    ]
    tar = str(tmp_path / "x.tar")
    for verb in (["export", "-o", tar], ["import", tar], ["relay", "r.example/a", "q.example/b"]):
        records_ = printed(*verb, mailbox=FakeMailbox(relayed=list(moved)))
        assert len(records_) == len(moved)
        for record in records_:
            check(verb[0], record)
    gone = [
        collected(),
        collected(kind="anchor", id="", sender="", recipient="", expired_at=None, tag=None),
        collected(status="failed", error=Truncated("short")),
    ]
    for record in printed("gc", mailbox=FakeMailbox(collected=list(gone))):
        check("gc", record)


def test_trust_verbs_print_what_their_schemas_say(tmp_path: Path) -> None:
    environ = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "STATE")}
    file = tmp_path / "a.txt"
    file.write_text("hello")

    def objects(*arguments: str) -> list[Any]:
        result = invoke([*arguments, "--format", "jsonl"], environ=environ)
        assert result.exit_code == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    (key,) = objects("keys", "generate")
    assert objects("keys", "list") == [key]
    check("keys", key)
    pem = tmp_path / "alice.pub"
    pem.write_text(invoke(["keys", "export", "--public"], environ=environ).stdout)
    identity = ("--identity", "https://ci.example", "--issuer", "https://issuer.example")
    (sender,) = objects("trust", "add", "alice", str(pem), *identity)
    assert objects("trust", "list") == [sender]
    check("trust", sender)


@given(st.text(st.characters()), st.text(st.characters()), st.integers(0, 2**63))
def test_records_survive_any_text(name: str, title: str, size: int) -> None:
    one = entry(filename=name, title=title, sender=name, bytes=size)
    result = invoke(["inbox", "--json"], factory=FakeMailbox(entries=[one], poll=poll()))
    assert result.raw.isascii()
    (record,) = json.loads(result.raw)
    assert record == json.loads(json.dumps(dict(records.inbox_record(one))))
    check("inbox", record)
