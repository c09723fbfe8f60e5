"""Mail, relays, garbage collection and `reg` on every reported registry.

The measured registries run the same in `test_mailbox_http` and `tests/real`.
"""

from __future__ import annotations

import base64
import json
import random
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dockercomms.mailbox import Mailbox
from dockercomms.oci.client import Client
from dockercomms.oci.images.copy import copy_manifest
from dockercomms.oci.interface import read_all
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import MAX_MANIFEST_BYTES, parse_manifest
from dockercomms.oci.stores import Location, open_store
from tests.cli.harness import Result, invoke
from tests.fakes.clock import FakeClock
from tests.fakes.images import image
from tests.fakes.mail import ONE_KEY, files_below
from tests.fakes.presets import REPORTED, Preset
from tests.fakes.registry import FakeRegistry, sha256
from tests.fakes.token_server import TokenServer, User

DAY = 86_400
CONTENT = bytes(range(256)) * 400


@dataclass
class Site:
    """A registry, and a machine from which it is used."""

    preset: Preset
    registry: FakeRegistry
    home: Path
    stack: ExitStack

    @property
    def repo(self) -> str:
        return f"{self.registry.host}/team/box"

    def box(self, me: str, repo: str = "") -> Mailbox:
        return self.stack.enter_context(
            Mailbox(
                repo or self.repo,
                me=me,
                state_path=self.home / f"{me}.db",
                keys_folder=self.home / "keys",
                trust=ONE_KEY,
                clock=self.registry.clock,
            )
        )

    def run(self, command: str, *words: str | Path, code: int = 0) -> Result:
        """Run `dockercomms COMMAND WORDS`; the exit code has to be `code`."""
        result = invoke(
            [*command.split(), *map(str, words)],
            environ={"HOME": str(self.home), "XDG_STATE_HOME": str(self.home)},
            folder=self.home,
            clock=self.registry.clock,
        )
        if result.exit_code != code:
            asked = [f"{one.method} {one.target} {one.status}" for one in self.registry.requests]
            said = (f"{command} {words}: {result.exit_code}", result.stderr, *asked[-12:])
            pytest.fail("\n".join(said), pytrace=False)
        return result


@pytest.fixture
def site(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    preset = REPORTED[request.param]
    with ExitStack() as stack:
        registry = stack.enter_context(FakeRegistry(preset.quirks, clock=FakeClock()))
        site = Site(preset, registry, tmp_path, stack)
        log_in(site)
        yield site


def log_in(site: Site) -> None:
    """Let the registry ask for a login, and write that where docker would."""
    kind, registry = site.preset.sign_in, site.registry
    if kind == "none":
        return
    login = {"auth": base64.b64encode(b"ann:secret").decode()}
    if kind == "basic":
        registry.gate = replace(registry.gate, auth=kind, users={"ann": "secret"})
    else:
        server = TokenServer(users={"ann": User("secret")}, clock=registry.clock)
        site.stack.enter_context(server)
        registry.gate = replace(
            registry.gate, auth="token", realm=server.realm, check_token=server.claims
        )
        if kind == "identity token":
            login = {"identitytoken": server.identity_token("ann")}
    auths = {"auths": {registry.host: login}}
    (site.home / "config.json").write_text(json.dumps(auths))


@pytest.mark.parametrize(
    "site", [name for name in REPORTED if not REPORTED[name].quirks.read_only], indirect=True
)
def test_preset_serves_mail_and_reg(site):
    (site.home / "a.bin").write_bytes(CONTENT)
    if site.registry.quirks.push_makes_repository != "yes":
        refused = site.run("send --text hi --to bob --from alice -q --repo", site.repo, code=5)
        assert "create-repository" in refused.stderr
        site.registry.repository("team/box")
    alice, bob = site.box("alice"), site.box("bob")

    sent = alice.send(site.home / "a.bin", to="bob", chunk_bytes=65536)
    (got,) = bob.receive(out=site.home / "in")
    assert (got.error, got.id, got.signer) == (None, sent.id, "alice")
    assert files_below(site.home / "in") == {f"{sent.id[:8]}/a.bin": CONTENT}
    assert list(bob.receive(out=site.home / "in")) == []
    assert bob.last_poll.errors == ()
    second = alice.send(text="two", to="bob")
    (watched,) = bob.watch(out=site.home / "in", once=True)
    assert (watched.received.error, watched.received.id) == (None, second.id)
    receipts = {receipt.message: receipt.signer for receipt in alice.receipts()}
    assert receipts == {sent.digest: "bob", second.digest: "bob"}

    third = alice.send(text="three", to="bob")
    carry_and_answer(site, alice, third.id)
    look_with_reg(site, f"{site.repo}:{sent.tag}", sent.digest)
    collect(site)


def carry_and_answer(site: Site, alice: Mailbox, message: str) -> None:
    """Relay to a folder, receive there, and relay the receipt back."""
    folder = f"oci-layout:{site.home / 'carried'}"
    there = open_store(folder, create=True, clock=site.registry.clock)
    assert all(one.error is None for one in alice.relay(target=there).run())
    (got,) = site.box("bob", folder).receive(out=site.home / "in")
    assert (got.error, got.id) == (None, message)
    assert all(one.error is None for one in alice.relay(source=there).run())
    (receipt,) = alice.receipts(message)
    assert receipt.signer == "bob"


def look_with_reg(site: Site, reference: str, digest: str) -> None:
    """List, resolve, read and copy, as `reg` does."""
    copies = MemoryRegistry(clock=site.registry.clock)
    with Client(reference, clock=site.registry.clock) as client:
        tags = set(site.registry.repository("team/box").tags)
        assert set(client.tags()) == tags
        assert set(client.tags(min(tags))) >= tags - {min(tags)}
        assert client.resolve().digest == digest
        message = Location(client.registry, client.repository, digest=digest)
        assert copy_manifest(message, Location(copies, "copy", tag="v1")).digest == digest
        layer = parse_manifest(read_all(client.fetch_manifest(), MAX_MANIFEST_BYTES)[0]).layers[0]
        assert sha256(read_all(client.fetch_blob(layer), layer.size)[0]) == layer.digest


def collect(site: Site) -> None:
    """Collect garbage a month later; where nothing can be deleted, the answer says what can."""
    site.registry.clock.advance(30 * DAY)
    quirks = site.registry.quirks
    deletes = quirks.manifest_delete == 202 and (
        not quirks.delete_refuses_tagged or quirks.tag_delete == 202
    )
    result = site.run("gc --me bob --repo", site.repo, code=0 if deletes else 1)
    tags = site.registry.repository("team/box").tags
    assert any(tag.startswith("inbox-") and tag.count("-") > 2 for tag in tags) != deletes
    assert deletes or "retention" in result.stderr


@pytest.mark.parametrize("site", ["k8s"], indirect=True)
def test_registry_that_is_only_read(site):
    registry = site.registry
    built = image(1)
    for _, content in built.blobs:
        registry.put_blob_raw("team/box", content)
    digest = registry.put_manifest_raw("team/box", built.data, tag="v1")
    layer, content = built.blobs[-1]

    name = f"{site.repo}:v1"
    assert site.run("reg tags", site.repo).stdout.split()[-1].endswith("v1")
    assert digest in site.run("reg resolve", name).stdout
    site.run("reg exists", name)
    site.run("reg exists", f"{site.repo}:v2", code=5)
    assert site.run("reg manifest", name).raw == built.data
    assert site.run("reg blob", f"{site.repo}@{layer.digest}").raw == content
    assert site.run("reg referrers", name).stdout == ""
    copy = f"oci-layout:{site.home / 'copy'}:v1"
    site.run("reg copy -q --referrers", name, copy)
    assert digest in site.run("reg resolve", copy).stdout
    assert "no messages" in site.run("inbox --me bob --repo", site.repo).stderr
    refused = site.run("send --text hi --to bob --from alice -q --repo", site.repo, code=1)
    assert "docs/registries.md" in refused.stderr


@pytest.mark.parametrize("site", ["ghcr"], indirect=True)
def test_largest_piece_is_remembered_by_the_next_process_for_a_day(site):
    folder = f"oci-layout:{site.home / 'box'}"
    (site.home / "a.bin").write_bytes(random.Random(1).randbytes(5 * 2**20))
    with site.box("alice", folder) as alice:
        alice.send(site.home / "a.bin", to="bob", chunk_bytes=2**24)
    refused = []
    for hours in (0, 23, 2):
        site.registry.clock.advance(hours * 3600)
        site.registry.forget_requests()
        there = open_store(f"{site.registry.host}/team/at{hours}", clock=site.registry.clock)
        with site.box("alice", folder) as alice:
            assert all(one.error is None for one in alice.relay(target=there).run())
        refused.append(site.registry.count("PATCH", status=416))
    assert refused == [1, 0, 1]
