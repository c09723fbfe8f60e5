"""`keys`, `trust`, `verify` and `sign`, and the options of signing and checking."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dockercomms.mailbox import Mailbox
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import MEDIA_TYPE_INDEX, Index
from dockercomms.platforms.clock import SystemClock
from dockercomms.protocol.header import format_time
from dockercomms.trust.keys import PrivateKey
from dockercomms.trust.policy_file import load_policy
from dockercomms.trust.roots import embedded
from tests.cli.harness import Input, Result, invoke
from tests.fakes.clock import FakeClock
from tests.fakes.mailbox import FakeMailbox, entry, poll, received, sent
from tests.fakes.people import ALICES, STRANGERS
from tests.fakes.sigstore import SigstoreStub


@dataclass
class Person:
    """Somebody at a terminal, with a home of their own and a folder between them."""

    name: str
    base: Path
    clock: FakeClock = field(default_factory=FakeClock)

    @property
    def home(self) -> Path:
        return self.base / self.name

    @property
    def trust_file(self) -> Path:
        return self.home / "config" / "dockercomms" / "trust.toml"

    @property
    def keys(self) -> Path:
        return self.home / "data" / "dockercomms" / "keys"

    def environ(self, **more: str) -> dict[str, str]:
        kinds = ("config", "data", "state")
        homes = {f"XDG_{kind.upper()}_HOME": str(self.home / kind) for kind in kinds}
        return {**homes, "DOCKERCOMMS_REPO": f"oci-layout:{self.base}/box", **more}

    def open(self, repo: str | None, **options: Any) -> Mailbox:
        return Mailbox(repo, state_path=self.home / "state.db", keys_folder=self.keys, **options)

    def run(self, *words: str, env: dict[str, str] | None = None, **options: Any) -> Result:
        """Run a command line as this person; `me` in the options is another name."""
        me = options.pop("me", self.name)
        named = me and words[0] not in ("keys", "trust")
        out = ["--out", str(self.home / "in")] if words[0] == "recv" else []
        return invoke(
            [*words, *out, *(["--me", me] if named else [])],
            environ=self.environ(**(env or {})),
            folder=self.base,
            factory=self.open,
            clock=self.clock,
            **options,
        )

    def ok(self, *words: str, **options: Any) -> str:
        result = self.run(*words, **options)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.ok(*words, "--json", "-q", **options))

    def send(self, *words: str, to: str = "bob") -> dict[str, Any]:
        self.clock.advance(1)
        found: dict[str, Any] = self.json("send", "--text", "hello", "--to", to, *words)
        return found


@pytest.fixture
def people(tmp_path: Path) -> tuple[Person, Person]:
    clock = FakeClock()
    return Person("alice", tmp_path, clock), Person("bob", tmp_path, clock)


@pytest.fixture
def alice(people: tuple[Person, Person]) -> Person:
    return people[0]


@pytest.fixture
def bob(people: tuple[Person, Person]) -> Person:
    return people[1]


def pem(path: Path, key: PrivateKey = ALICES) -> Path:
    path.write_text(key.public_key().to_pem())
    return path


def failed(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr


# --- keys ----------------------------------------------------------------------------------------


def test_keys_generate_makes_a_key_once(alice: Person) -> None:
    made = alice.json("keys", "generate")

    assert (made["name"], made["private"], made["encrypted"]) == ("default", True, False)
    assert (alice.keys / "default.key").stat().st_mode & 0o777 == 0o600
    failed(alice.run("keys", "generate"), 64, "a key with that name exists already")


def test_keys_generate_encrypts_with_the_passphrase_of_the_environment(alice: Person) -> None:
    env = {"DOCKERCOMMS_PASSPHRASE": "secret"}
    made = alice.json("keys", "generate", "--name", "work", "--passphrase", env=env)
    send = ("send", "--text", "x", "--to", "bob", "--key", "work")

    assert made["encrypted"]
    failed(alice.run(*send), 64, "no passphrase was given")
    failed(alice.run(*send, env={"DOCKERCOMMS_PASSPHRASE": "no"}), 64, "wrong passphrase")
    alice.ok(*send, env=env)


@pytest.mark.parametrize(("typed", "code"), [(["a", "a"], 0), (["a", "b"], 64), (["", ""], 64)])
def test_keys_generate_asks_for_a_passphrase_twice(
    alice: Person, monkeypatch: pytest.MonkeyPatch, typed: list[str], code: int
) -> None:
    words = list(typed)
    monkeypatch.setattr("getpass.getpass", lambda prompt: words.pop(0))

    result = alice.run("keys", "generate", "--passphrase", stdin=Input(tty=True))

    assert result.exit_code == code, result.stderr
    assert (alice.keys / "default.key").exists() is (code == 0)


def test_keys_generate_needs_a_passphrase_to_encrypt_with(alice: Person) -> None:
    failed(alice.run("keys", "generate", "--passphrase"), 64, "no passphrase given")


def test_keys_list_shows_own_keys_and_those_of_others(alice: Person) -> None:
    assert alice.ok("keys", "list") == ""
    alice.ok("keys", "generate")
    alice.ok("keys", "import", str(pem(alice.base / "carol.pub", STRANGERS)))

    rows = [line.split("\t") for line in alice.ok("keys", "list").splitlines()]

    assert [row[:3] for row in rows] == [
        ["carol", "public key", "ecdsa-p256"],
        ["default", "key pair", "ecdsa-p256"],
    ]
    assert rows[0][3] == STRANGERS.public_key().spki_sha256


def test_keys_export_prints_the_public_key(alice: Person) -> None:
    failed(alice.run("keys", "export", "--public"), 64, "no key called 'default'")
    made = alice.json("keys", "generate")
    failed(alice.run("keys", "export"), 64, "give --public or --private")
    failed(alice.run("keys", "export", "--public", "--private"), 64, "give --public or --private")

    text = alice.ok("keys", "export", "--public")

    path = alice.base / "exported.pub"
    path.write_text(text)
    assert alice.json("keys", "import", str(path))["spki_sha256"] == made["spki_sha256"]


def test_keys_export_gives_a_key_pair_to_those_who_know_what_it_may_sign(alice: Person) -> None:
    alice.json("keys", "generate")
    failed(alice.run("keys", "export", "--private"), 64, "for messages only", "--i-know")
    alice.ok("keys", "import", str(pem_of(alice)), "--name", "friend")
    failed(alice.run("keys", "export", "--private", "--i-know", "--name", "friend"), 64, "public")

    result = alice.run("keys", "export", "--private", "--i-know")

    assert result.exit_code == 0
    assert result.stdout == (alice.keys / "default.key").read_text()
    assert "sign messages as you" in result.stderr


def test_keys_import_takes_an_encrypted_key_pair(alice: Person, bob: Person) -> None:
    env = {"DOCKERCOMMS_PASSPHRASE": "secret"}
    alice.ok("keys", "generate", "--passphrase", env=env)
    source = str(alice.keys / "default.key")

    failed(bob.run("keys", "import", source), 64, "no passphrase was given")
    assert bob.json("keys", "import", source, "--name", "moved", env=env)["encrypted"]


def test_keys_import_refuses_what_is_no_key(alice: Person) -> None:
    (alice.base / "x.pub").write_text("nothing")

    failed(alice.run("keys", "import", str(alice.base / "x.pub")), 64, "not a PEM public key")
    failed(alice.run("keys", "import", str(alice.base / "missing")), 8)


def test_private_key_that_others_can_read_is_refused_with_the_command_that_helps(
    alice: Person,
) -> None:
    alice.ok("keys", "generate")
    (alice.keys / "default.key").chmod(0o640)

    failed(alice.run("send", "--text", "x", "--to", "bob"), 8, "others can read", "chmod 600")


# --- trust ---------------------------------------------------------------------------------------


def test_trust_add_takes_a_key_an_identity_and_more(bob: Person) -> None:
    bob.ok("trust", "add", "alice", str(pem(bob.base / "alice.pub")))
    identity = ("--identity", "https://ci.example/x", "--issuer", "https://ci.example")
    found = bob.json(
        "trust", "add", "alice", *identity, "--address", "r.example/alice", "--allow-unsigned"
    )

    assert [key["spki_sha256"] for key in found["keys"]] == [ALICES.public_key().spki_sha256]
    assert found["identities"] == [
        {"identity": "https://ci.example/x", "issuer": "https://ci.example", "root": "public"}
    ]
    assert (found["address"], found["allow_unsigned"]) == ("r.example/alice", True)
    assert load_policy(bob.trust_file).sender("alice") is not None
    assert "r.example/alice" in bob.ok("trust", "list")
    assert "also unsigned" in bob.ok("trust", "list")


def test_trust_add_takes_a_key_that_was_imported(bob: Person) -> None:
    bob.ok("keys", "import", str(pem(bob.base / "alices.pub")))

    assert len(bob.json("trust", "add", "alice", "alices")["keys"]) == 1
    failed(bob.run("trust", "add", "carol", "nobodys"), 8)


def test_trust_add_takes_a_line_of_openssh_on_standard_input(bob: Person) -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEN+0UTQhw3gkL0h7n5f9v9p0bYm1x0bUe3zXqXr9TtK alice@laptop"
    bob.ok("trust", "add", "alice", "-", stdin=line.encode())

    sender = load_policy(bob.trust_file).sender("alice")
    assert sender is not None
    assert [key.key.algorithm for key in sender.keys] == ["ed25519"]


def test_trust_add_refuses_a_private_key(bob: Person) -> None:
    bob.ok("keys", "generate", "--name", "work")
    (path,) = bob.base.rglob("work.key")
    failed(bob.run("trust", "add", "alice", str(path)), 64)
    assert not bob.trust_file.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["alice"], "is needed to trust somebody"),
        (["alice", "--identity", "x"], "issuer"),
        (["alice", "--issuer", "x"], "issuer"),
        (["alice", "--allow-unsigned", "--root", "x"], "root"),
        (["alice", "--allow-unsigned", "--address", "no host"], "no host"),
    ],
)
def test_trust_add_refuses_half_of_what_is_needed(bob: Person, words: list[str], part: str) -> None:
    failed(bob.run("trust", "add", *words), 64, part)
    assert not bob.trust_file.exists()


def test_trust_remove_takes_away_trust(bob: Person) -> None:
    bob.ok("trust", "add", "alice", "--allow-unsigned")

    bob.ok("trust", "remove", "alice")

    assert bob.ok("trust", "list") == ""
    failed(bob.run("trust", "remove", "alice"), 5, "no entry for 'alice'")


def test_trust_revoke_takes_a_name_a_key_or_an_identity(bob: Person) -> None:
    identity = ("--identity", "me@example.com", "--issuer", "https://i.example")
    bob.ok("trust", "add", "alice", str(pem(bob.base / "alice.pub")), *identity)

    bob.ok("trust", "revoke", "alice", "--since", "2026-06-01", "--reason", "lost")
    bob.ok("trust", "revoke", "--spki", STRANGERS.public_key().spki_sha256)
    bob.ok("trust", "revoke", "--identity", "x@example.com")

    revoked = load_policy(bob.trust_file).revoked
    assert [(item.spki_sha256 or item.identity, item.reason) for item in revoked] == [
        (ALICES.public_key().spki_sha256, "lost"),
        ("me@example.com", "lost"),
        (STRANGERS.public_key().spki_sha256, ""),
        ("x@example.com", ""),
    ]
    assert revoked[0].since is not None
    assert bob.run("trust", "list").stderr.startswith("1 name, 4 revoked\n")


@pytest.mark.parametrize(
    "words", [[], ["alice", "--spki", "x"], ["--spki", "x", "--identity", "y"]]
)
def test_trust_revoke_needs_one_of_three(bob: Person, words: list[str]) -> None:
    failed(bob.run("trust", "revoke", *words), 64, "--spki or --identity to revoke")


def test_trust_revoke_of_nobody(bob: Person) -> None:
    for verb in ("revoke", "remove"):
        result = bob.run("trust", verb, "alice")
        failed(result, 5, "no entry for 'alice'")
        assert "trust list" in result.stderr


def test_trust_revoke_of_somebody_without_keys_says_that_nothing_is_revoked(bob: Person) -> None:
    bob.ok("trust", "add", "alice", "--allow-unsigned")

    result = bob.run("trust", "revoke", "alice")

    failed(result, 64, "neither a key nor an identity")
    assert "trust remove alice" in result.stderr


def test_trust_test_reads_a_file_without_using_it(bob: Person) -> None:
    file = bob.base / "new.toml"
    file.write_text('version = 1\n[[sender]]\nname = "alice"\nallow_unsigned = true\n')
    file.chmod(0o600)

    result = bob.run("trust", "test", str(file))

    assert (result.exit_code, result.stdout.split("\t")[0]) == (0, "alice")
    assert "no errors" in result.stderr
    assert not bob.trust_file.exists()


def test_trust_test_says_which_line_is_wrong(bob: Person) -> None:
    file = bob.base / "new.toml"
    file.write_text('version = 1\n[[sender]]\nname = "alice"\nallow_unsinged = true\n')
    file.chmod(0o600)

    failed(bob.run("trust", "test", str(file)), 1, "line 4", "allow_unsinged")
    failed(bob.run("trust", "test", str(bob.base / "missing")), 64, "no such file")


def test_trust_file_that_others_can_write_is_refused(bob: Person) -> None:
    bob.ok("trust", "add", "alice", "--allow-unsigned")
    bob.trust_file.chmod(0o666)

    failed(bob.run("recv"), 1, "others can write it", "chmod go-w")


def test_trust_file_can_be_another_one(alice: Person, bob: Person) -> None:
    message = alice.send("--no-sign")
    other = bob.base / "other.toml"
    other.write_text('version = 1\n[[sender]]\nname = "alice"\nallow_unsigned = true\n')
    other.chmod(0o600)

    assert bob.run("recv", message["id"]).exit_code == 2
    bob.ok("recv", message["id"], env={"DOCKERCOMMS_TRUST": str(other)})


# --- sending and receiving -----------------------------------------------------------------------


def test_send_says_how_it_is_signed(alice: Person) -> None:
    key = alice.json("keys", "generate")

    assert alice.send()["signed"] == {"kind": "key", "signer": key["spki_sha256"]}
    assert alice.send("--no-sign")["signed"] is None
    env = {"DOCKERCOMMS_SIGN": "false"}
    assert alice.json("send", "--text", "x", "--to", "bob", env=env)["signed"] is None


def test_send_goes_where_its_recipient_receives(alice: Person) -> None:
    for name in ("bob", "carol"):
        address = f"oci-layout:{alice.base}/{name}s"
        alice.ok("trust", "add", name, "--allow-unsigned", "--address", address)
    words = ["send", "--text", "x", "--format", "jsonl"]
    words += [word for name in ("bob", "carol", "dave") for word in ("--to", name)]
    env = {"DOCKERCOMMS_REPO": ""}
    config = alice.home / "config" / "dockercomms" / "config.toml"
    config.write_text(f"repo = 'oci-layout:{alice.base}/box'\n")

    by_book = alice.ok(*words, env=env)
    by_flag = alice.ok(*words, "--repo", f"oci-layout:{alice.base}/x", env=env)

    def places(stdout: str) -> list[str]:
        return [Path(json.loads(line)["repo"]).name for line in stdout.splitlines()]

    assert places(by_book) == ["bobs", "carols", "box"]
    assert places(by_flag) == ["x", "x", "x"]


def test_send_to_several_that_fails_for_one_and_is_run_again_sends_nobody_a_second_copy(
    alice: Person,
) -> None:
    blocked = alice.base / "carols"
    blocked.write_text("no folder")
    for name in ("bob", "carol"):
        address = f"oci-layout:{alice.base}/{name}s/box"
        alice.ok("trust", "add", name, "--allow-unsigned", "--address", address)
    env = {"DOCKERCOMMS_REPO": ""}
    words = ["send", "--text", "x", "--format", "jsonl", "--to", "bob"]
    both = [*words, "--to", "carol"]

    def run(*arguments: str, code: int = 0) -> tuple[list[dict[str, Any]], str]:
        done = alice.run(*arguments, env=env)
        assert done.exit_code == code, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    (first,), _ = run(*both, code=7)
    assert run(*both, code=7)[0] == [{**first, "reused_chunks": 1, "sent_before": True}]
    (alone,), _ = run(*words)  # to bob alone is another wish
    blocked.unlink()
    (again, carols), said = run(*both)
    (fresh, _), _ = run(*both)  # that run has ended, so this one is meant

    assert (again["id"], again["sent_before"]) == (first["id"], True)
    assert "bob already has it: an interrupted run sent it as message" in said
    assert "to send it once more, add --again" in said
    assert carols["sent_before"] is False
    assert len({first["id"], alone["id"], fresh["id"]}) == 3

    blocked.with_name("carols").rename(alice.base / "away")
    blocked.write_text("no folder")
    (fourth,), _ = run(*both, code=7)
    (fifth,), _ = run(*both, "--again", code=7)
    assert fourth["id"] != fifth["id"]


def test_send_for_an_audience_names_it_in_full(alice: Person, bob: Person) -> None:
    bob.ok("trust", "add", "alice", "--allow-unsigned")
    here = alice.send("--no-sign", "--audience", f"oci-layout:{alice.base}/box")
    alice.send("--no-sign", "--audience", "oci://r.example/other")

    lines = [json.loads(line) for line in bob.run("recv", "--format", "jsonl").stdout.splitlines()]

    assert [line["id"] for line in lines if line["status"] == "received"] == [here["id"]]
    failed(alice.run("send", "--text", "x", "--to", "bob", "--audience", "x"), 64)


def test_keyless_without_an_identity_says_what_is_missing(
    alice: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI"):
        monkeypatch.delenv(name, raising=False)
    result = alice.run("send", "--text", "x", "--to", "bob", "--keyless")

    failed(result, 1, "no identity to sign with", "--identity-token FILE")
    assert not (tmp_path / "box").exists()


class Today(SystemClock):
    """The stub of Sigstore lives today."""

    def advance(self, seconds: float) -> None:
        """Time passes by itself."""


@pytest.mark.parametrize("given", ["file", "environment"])
def test_keyless_from_the_command_line_to_the_receipt(tmp_path: Path, given: str) -> None:
    alice, bob = (Person(name, tmp_path, Today()) for name in ("alice", "bob"))
    with SigstoreStub(tmp_path / "sigstore") as stub:
        token = tmp_path / "token"
        token.write_text(stub.token("alice@example.com"))
        keyless = [
            "--keyless",
            f"--trusted-root={stub.trusted_root}",
            f"--signing-config={stub.signing_config}",
        ]
        env = {} if given == "file" else {"DOCKERCOMMS_IDENTITY_TOKEN": token.read_text()}
        if given == "file":
            keyless.append(f"--identity-token={token}")
        sent = alice.json("send", "--text", "hello", "--to", "bob", *keyless, env=env)
        assert sent["signed"] == {"kind": "keyless", "signer": "alice@example.com"}
        content, bundle = tmp_path / "a.txt", str(tmp_path / "a.json")
        content.write_text("content")
        alice.ok("sign", str(content), "--bundle", bundle, *keyless, env=env)
        issuer, root = stub.issuer.url, str(stub.trusted_root)
    # From here on there is no Sigstore: verifying asks nobody.
    held = bob.run("recv")
    failed(held, 0, "dockercomms trust add alice --identity I --issuer U --root FILE")
    bob.ok(
        "trust", "add", "alice", "--identity", "alice@example.com", "--issuer", issuer,
        "--root", root,
    )  # fmt: skip
    (got,) = bob.json("recv", sent["id"])
    assert (got["status"], got["signer"]) == ("received", "alice")
    assert bob.json("verify", sent["id"], "--offline")["key_or_identity"] == "alice@example.com"
    file = bob.json("verify", str(content), "--bundle", bundle, "--offline")
    assert (file["signer"], file["kind"], file["issuer"]) == ("alice", "keyless", issuer)
    content.write_text("other")
    failed(bob.run("verify", str(content), "--bundle", bundle, "--offline"), 2)


def test_a_key_signs_with_a_time_that_is_required(tmp_path: Path) -> None:
    """Whoever steals the key cannot sign for yesterday."""
    alice, bob = (Person(name, tmp_path, Today()) for name in ("alice", "bob"))
    alice.ok("keys", "generate")
    bob.ok("trust", "add", "alice", str(pem_of(alice)))
    with SigstoreStub(tmp_path / "sigstore") as stub:
        text = bob.trust_file.read_text()
        text = text.replace("spki_sha256", 'timestamp = "required"\nspki_sha256')
        bob.trust_file.write_text(
            f'{text}\n[roots.tsa]\nsource = "file"\npath = "{stub.trusted_root}"\n'
        )
        plain = alice.send()
        stamped = alice.send("--timestamp", stub.instance.tsa_url)
        refused = alice.run("send", "--text", "x", "--to", "bob", "--timestamp", "tsa.example")
        down = alice.run(
            "send", "--text", "x", "--to", "bob", "--timestamp", "http://127.0.0.1:1/tsa"
        )
    failed(refused, 64, "https://")
    failed(down, 6, "no timestamp received")

    got = {one["id"]: one["status"] for one in bob.json("recv")}

    assert got == {stamped["id"]: "received", plain["id"]: "skipped"}
    assert "no timestamp of a trusted authority" in bob.run("show", plain["id"]).stdout
    shown = bob.json("verify", stamped["id"])
    assert shown["signed_at"] is not None


@pytest.mark.parametrize("flags", [["--trusted-root", "x"], ["--signing-config", "x"]])
def test_keyless_needs_both_files_of_another_sigstore(alice: Person, flags: list[str]) -> None:
    failed(
        alice.run("send", "--text", "x", "--to", "bob", "--keyless", *flags),
        64,
        "needs a signing config",
    )


def pem_of(person: Person) -> Path:
    path = person.base / f"{person.name}.pub"
    path.write_text(person.ok("keys", "export", "--public"))
    return path


def test_recv_shows_a_claim_as_a_claim(alice: Person, bob: Person) -> None:
    alice.json("keys", "generate")
    bob.ok("trust", "add", "alice", str(pem_of(alice)), "--allow-unsigned")
    alice.send("--no-sign")
    alice.send()

    shown = bob.run("recv", tty=True, env={"NO_COLOR": "1"}).stdout.splitlines()

    assert "from alice (claimed):" in shown[0]
    assert "from alice:" in shown[1]


def test_recv_accepts_a_new_sender_when_told_to(alice: Person, bob: Person) -> None:
    message = alice.send()

    result = bob.run("recv", message["id"], "--accept-new")

    assert result.exit_code == 0
    assert "warning: New sender 'alice': trusted its key" in result.stderr
    assert [name["name"] for name in bob.json("trust", "list")] == ["alice"]
    assert bob.json("show", message["id"])["signature"] == {"status": "valid", "signer": "alice"}
    assert [one["signature"]["status"] for one in alice.json("receipts")] == ["untrusted"]


@pytest.mark.parametrize("verb", [["recv"], ["watch"]])
def test_nothing_can_be_pinned_unseen(bob: Person, verb: list[str]) -> None:
    failed(bob.run(*verb, "--no-verify", "--accept-new"), 64, "--accept-new needs signature checks")


@pytest.mark.parametrize(
    "verb", [["inbox"], ["show", "abcd"], ["receipts"], ["outbox"], ["send"], ["reply", "abcd"]]
)
def test_only_receiving_pins(bob: Person, verb: list[str]) -> None:
    failed(bob.run(*verb, "--accept-new"), 64, "no such option '--accept-new'")


@pytest.mark.parametrize("verb", ["recv", "inbox", "show", "receipts"])
def test_no_verify_is_loud_and_reaches_the_mailbox(verb: str) -> None:
    mailbox = FakeMailbox(entries=[entry()], messages=[received()], poll=poll())
    words = [verb, *(["x"] if verb == "show" else []), "--no-verify", "-q"]

    result = invoke(words, factory=mailbox)

    assert "warning: --no-verify: signatures are not checked" in result.stderr
    assert not mailbox.options["trust"].verify


@pytest.mark.parametrize("verb", ["recv", "inbox", "show", "receipts"])
def test_offline_refuses_a_registry(verb: str) -> None:
    words = [verb, *(["x"] if verb == "show" else []), "--offline"]
    mailbox = FakeMailbox(entries=[entry()], messages=[received()], poll=poll())

    refused = invoke([*words, "--repo", "r.example/box"], factory=mailbox)

    assert mailbox.calls == []
    failed(refused, 64, "needs the network")
    assert invoke([*words, "--repo", "oci-layout:/x"], factory=mailbox).exit_code == 0
    assert invoke(words, factory=mailbox).exit_code == 0


def test_hints_repeat_how_the_user_said_who_and_where(alice: Person, bob: Person) -> None:
    message = alice.send()
    repo = f"oci-layout:{bob.base}/box"

    said = bob.run("recv", message["id"], "--repo", repo).stderr

    assert f"dockercomms recv {message['id'][:8]} --accept-new --repo {repo} --me bob" in said


def test_names_come_from_the_trust_file_if_nothing_else_says_them(
    alice: Person, bob: Person
) -> None:
    bob.ok("trust", "add", "alice", "--allow-unsigned")
    bob.trust_file.write_text('me = ["bob", "team"]\n' + bob.trust_file.read_text())
    for name in ("bob", "team", "carol"):
        alice.send("--no-sign", to=name)

    assert len(bob.json("recv", me="")) == 2
    assert "no new messages for bob, team" in bob.run("recv", me="").stderr
    assert "no messages for bob, team" in bob.run("inbox", me="").stderr


# --- verify and sign -----------------------------------------------------------------------------


def test_verify_proves_a_message_by_id_digest_and_reference(alice: Person, bob: Person) -> None:
    message = alice.send()
    failed(bob.run("verify", message["id"]), 2, "--accept-new")
    bob.ok("trust", "add", "alice", str(pem_of(alice)))

    found = bob.json("verify", message["id"][:8], "--offline")

    assert (found["signer"], found["id"], found["to"]) == ("alice", message["id"], "bob")
    assert found["key_or_identity"] == message["signed"]["signer"]
    assert bob.json("verify", message["digest"]) == found
    assert bob.json("verify", f"oci-layout:{bob.base}/box:{message['tag']}") == found
    failed(bob.run("verify", "ffffffff"), 5)
    failed(bob.run("verify", f"oci-layout:{bob.base}/box"), 64, "a tag or digest is missing")
    failed(bob.run("verify", "r.example/box:v1", "--offline"), 64, "needs the network")


def test_sign_and_verify_a_manifest(alice: Person, bob: Person) -> None:
    alice.send()
    box = LayoutRegistry(alice.base / "box")
    subject = box.push_manifest("x", Index().to_bytes(), MEDIA_TYPE_INDEX, tags=("v1",))
    reference = f"oci-layout:{alice.base}/box:v1"

    done = alice.json("sign", reference)
    bob.ok("trust", "add", "alice", str(pem_of(alice)))
    found = bob.json("verify", reference)

    assert (done["subject"], done["file"]) == (subject.digest, None)
    assert done["attached"].startswith("sha256:")
    assert (found["what"], found["signer"], found["approval"]) == ("object", "alice", True)
    assert "signed by\talice" in bob.ok("verify", reference)


def test_sign_and_verify_a_file(alice: Person, bob: Person) -> None:
    file, bundle = alice.base / "a.bin", alice.base / "a.json"
    file.write_bytes(b"content")
    words = ("verify", str(file), "--bundle", str(bundle))

    done = alice.json("sign", str(file), "--bundle", str(bundle))
    own = alice.json(*words)
    failed(bob.run(*words), 2, "nobody whom the policy knows")
    bob.ok("trust", "add", "alice", str(pem_of(alice)))
    found = bob.json(*words, "--offline")

    assert (done["attached"], done["file"]) == (None, str(bundle))
    assert (own["own"], own["signer"]) == (True, "")
    assert (found["what"], found["signer"]) == ("file", "alice")
    assert "signed by\tyourself" in alice.ok(*words)
    file.write_bytes(b"c0ntent")
    failed(bob.run(*words), 2, "another file")


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["verify", "missing", "--bundle", "missing.json"], 8, "missing.json"),
        (["sign", "missing", "--bundle", "x.json"], 8, "missing"),
        (["sign", "abcd1234"], 64, "neither a reference nor a digest"),
        (["sign", "x", "--bundle", "y", "--no-sign"], 64, "this command only signs"),
        (["sign", "sha256:" + "0" * 64], 5, ""),
    ],
)
def test_verify_and_sign_say_what_is_missing(
    alice: Person, words: list[str], code: int, part: str
) -> None:
    failed(alice.run(*words), code, part)


def test_verify_tells_an_approval_from_a_message(alice: Person, bob: Person) -> None:
    message = alice.send("--no-sign")
    alice.ok("sign", message["digest"], me="somebody")
    bob.ok("trust", "add", "alice", str(pem_of(alice)))
    bob.trust_file.write_text("accept_cosign_sign = true\n" + bob.trust_file.read_text())

    result = bob.run("verify", message["digest"])

    assert result.exit_code == 0, result.stderr
    assert "signed with `cosign sign`" in result.stderr


def test_sent_message_names_its_signer_with_verbose() -> None:
    by = SimpleNamespace(kind="key", signer="the-key")
    words = ["send", "x", "--to", "bob"]
    quiet = invoke(words, factory=FakeMailbox(sends=[sent(signed=by)]))
    result = invoke([*words, "-v"], factory=FakeMailbox(sends=[sent(signed=by)]))

    assert result.stderr.endswith("1 chunk uploaded. Signed with the-key.\n")
    assert "igned" not in quiet.stderr


# --- the public Sigstore's root ------------------------------------------------------------------


def test_root_is_updated_from_a_file_and_its_age_is_told(tmp_path: Path) -> None:
    alice = Person("alice", tmp_path)
    assert "root\tthat of the sigstore package, newest key of 20" in alice.run("version").stdout
    assert "that of the sigstore package" in alice.run("trust", "list").stderr
    source = tmp_path / "trusted_root.json"
    source.write_bytes(embedded("trusted_root.json").read_bytes())
    done = alice.run("trust", "root", "update", "--from", str(source))
    assert (done.exit_code, done.stdout) == (0, "")
    target = alice.trust_file.with_name("sigstore-root.json")
    assert f"{target}: updated {alice.clock.now():%Y-%m-%d}, 0 days ago" in done.stderr
    assert target.read_bytes() == source.read_bytes()
    alice.clock.advance(12 * 86400)
    assert "12 days ago, newest key of 20" in alice.run("trust", "list").stderr
    age = json.loads(alice.run("version", "--json").stdout)["sigstore_root"]
    assert age["updated_at"] == format_time(alice.clock.now() - timedelta(days=12))
    older = json.loads(source.read_bytes())
    for kind in ("tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"):
        older[kind] = older[kind][:1]
    source.write_text(json.dumps(older))
    assert (
        "had a newer key, of 20"
        in alice.run("trust", "root", "update", "--from", str(source)).stderr
    )
    source.write_bytes(embedded("trusted_root.json").read_bytes())
    alice.ok("trust", "root", "update", "--from", str(source))
    for text in ("{}", "not json", source.read_text().replace('"validFor"', '"valid"')):
        source.write_text(text)
        refused = alice.run("trust", "root", "update", "--from", str(source))
        assert refused.exit_code == 1
        assert f"{source}: not a trusted root" in refused.stderr
        assert target.read_bytes() == embedded("trusted_root.json").read_bytes()
    assert alice.run("trust", "root", "update", "--from", str(tmp_path / "none")).exit_code == 8
    target.write_text("{}")
    assert "root\tunusable: " in alice.run("version").stdout
    assert "unusable: " in alice.run("trust", "list").stderr
    assert json.loads(alice.run("version", "--json").stdout)["sigstore_root"] is None


def test_root_is_asked_of_sigstore_where_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alice = Person("alice", tmp_path)
    done = alice.run("trust", "root", "update")
    assert done.exit_code == 6
    assert "https://tuf-repo-cdn.sigstore.dev: Failed to refresh" in done.stderr
    assert "--from FILE" in done.stderr
    assert not alice.trust_file.parent.exists()
