"""The image form of manifests: used by itself where a registry refuses artifact types (SPEC 2.9)."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dockercomms.errors import RegistryError, UsageError
from dockercomms.mailbox import Mailbox
from dockercomms.oci.model import Descriptor
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.protocol.header import ARTIFACT_TYPE
from dockercomms.protocol.manifest import parse_message
from dockercomms.trust.owner import TrustOptions
from tests.fakes.clock import FakeClock
from tests.fakes.mail import files_below
from tests.fakes.registry import OCI, FakeRegistry, Fault, Quirks

GITLAB = Quirks(manifest_types="known-400", referrers=False)
REFUSING = {
    "gitlab": GITLAB,
    "quay": Quirks(manifest_types="known-415"),
    "ecr": Quirks(manifest_types="no-typed-subject-405"),
}


def new_senders(folder: Path) -> TrustOptions:
    return TrustOptions(file=folder / "trust.toml", accept_new=True)


def box(registry: FakeRegistry, me: str, folder: Path, **options) -> Mailbox:
    return Mailbox(
        f"{registry.host}/team/box",
        me=me,
        state_path=folder / me / "state.db",
        keys_folder=folder / me / "keys",
        clock=registry.clock,
        **options,
    )


@pytest.fixture(params=sorted(REFUSING))
def registry(request):
    with FakeRegistry(REFUSING[request.param], clock=FakeClock()) as registry:
        yield registry


def manifests(registry: FakeRegistry) -> dict[str, dict]:
    held = registry.repository("team/box")
    return {tag: json.loads(held.manifests[digest].data) for tag, digest in held.tags.items()}


def kinds(registry: FakeRegistry) -> set[str | None]:
    """The artifact types of all that has a tag, indexes aside."""
    found = manifests(registry).values()
    return {item.get("artifactType") for item in found if "manifests" not in item}


def test_image_form_serves_send_receive_and_receipts_by_itself(registry, tmp_path):
    trust = new_senders(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"hello")
    with box(registry, "alice", tmp_path, trust=trust) as alice:
        sent = alice.send([tmp_path / "a.bin"], to="bob")
        with box(registry, "bob", tmp_path, trust=trust) as bob:
            (got,) = bob.receive(out=tmp_path / "in")
            assert (got.error, got.digest) == (None, sent.digest)
            assert got.signer == "alice"
        assert [entry.digest for entry in alice.receipts()] == [got.receipt]

    assert files_below(tmp_path / "in") == {f"{sent.id[:8]}/a.bin": b"hello"}
    tagged = manifests(registry)
    assert {tag.split("-")[0] for tag in tagged} >= {"inbox", "bundle", "receipt", "receipts"}
    assert kinds(registry) == {None}
    assert all(ARTIFACT_TYPE in item["annotations"] for item in tagged.values() if "layers" in item)


def test_image_form_is_remembered_for_the_repository(registry, tmp_path):
    for number in range(2):
        registry.forget_requests()
        with box(registry, "alice", tmp_path) as alice:
            alice.send(to="bob", text=f"number {number}")
        registry.clock.advance(3 * 86_400)

    refused = [record for record in registry.requests if record.status in (400, 405, 415)]
    assert [record.method for record in refused if record.method == "PUT"] == []


@pytest.mark.parametrize("form", ["artifact", "image"])
def test_form_that_was_asked_for_is_written_and_no_other(tmp_path, form):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        with box(registry, "alice", tmp_path, manifest_form=form) as alice:
            alice.send(to="bob", text="hello")
        assert (kinds(registry) == {None}) == (form == "image")
        with box(registry, "bob", tmp_path, trust=new_senders(tmp_path)) as bob:
            (got,) = bob.receive(out=tmp_path / "in")
    assert got.error is None


def test_artifact_form_that_was_asked_for_fails_where_it_is_refused(registry, tmp_path):
    with (
        box(registry, "alice", tmp_path, manifest_form="artifact") as alice,
        pytest.raises(RegistryError),
    ):
        alice.send(to="bob", text="hello")

    assert not [tag for tag in registry.repository("team/box").tags if tag.count("-") > 3]


def test_refusal_for_another_reason_changes_no_form(tmp_path):
    quirks = replace(OCI, tag_limit=60)  # of tags like those of messages
    with FakeRegistry(quirks, clock=FakeClock()) as registry:
        with box(registry, "alice", tmp_path) as alice, pytest.raises(RegistryError):
            alice.send(to="bob", text="hello")
        registry.quirks = OCI
        with box(registry, "alice", tmp_path) as alice:
            alice.send(to="bob", text="hello")
        assert None not in kinds(registry)


def test_interrupted_send_of_the_other_form_is_built_and_signed_again(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"hello")
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        registry.faults.fail_when(
            lambda request: request.method == "PUT" and "/manifests/inbox-" in request.path,
            Fault.answer(403),
            times=9,
        )
        with box(registry, "alice", tmp_path) as alice, pytest.raises(RegistryError):
            alice.send([tmp_path / "a.bin"], to="bob")
        registry.faults.clear()
        registry.quirks = REFUSING["quay"]
        with box(registry, "alice", tmp_path) as alice:
            sent = alice.send([tmp_path / "a.bin"], to="bob")
        held = registry.repository("team/box")
        assert held.tags[sent.tag] == sent.digest
        assert parse_message(held.manifests[sent.digest].data).form == "image"
        with box(registry, "bob", tmp_path, trust=new_senders(tmp_path)) as bob:
            (got,) = bob.receive(out=tmp_path / "in")
        assert got.signer == "alice"


def test_both_forms_share_an_inbox_and_its_anchor_tag(tmp_path):
    with FakeRegistry(OCI, clock=FakeClock()) as registry:
        for form in ("artifact", "image", "artifact"):
            with box(registry, "alice", tmp_path / form, manifest_form=form) as alice:
                alice.send(to="bob", text=form)
        held = registry.repository("team/box")
        anchor = next(tag for tag in held.tags if tag.startswith("inbox-") and tag.count("-") == 2)
        assert "artifactType" in json.loads(held.manifests[held.tags[anchor]].data)
        for discovery in ("tags", "referrers"):
            with box(
                registry, "bob", tmp_path / discovery, discovery=discovery,
                trust=TrustOptions(verify=False),
            ) as bob:  # fmt: skip
                assert len(list(bob.receive(out=tmp_path / discovery / "in"))) == 3


def test_sign_of_a_message_in_image_form_needs_to_be_meant(registry, tmp_path):
    with box(registry, "alice", tmp_path) as alice:
        sent = alice.send(to="bob", text="hello")
    with box(registry, "mallory", tmp_path) as mallory, pytest.raises(UsageError):
        mallory.sign_object(sent.digest)


def test_sign_of_an_image_uses_the_form_that_is_taken(registry, tmp_path):
    with HTTPRegistry(registry.host) as client:
        config = Descriptor.of(b"{}", "application/vnd.oci.image.config.v1+json")
        client.push_blob("team/box", config, lambda: io.BytesIO(b"{}"))
        data = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config.to_json(),
                "layers": [],
            }
        ).encode()
        client.push_manifest(
            "team/box", data, "application/vnd.oci.image.manifest.v1+json", tags=("v1",)
        )
    with box(registry, "alice", tmp_path) as alice:
        signed = alice.sign_object("v1")
        assert alice.verify_object("v1").verified

    assert signed.attached is not None
