from __future__ import annotations

import getpass

import pytest

from dockercomms.errors import ConfigError, LocalIOError, SigningError, UnknownSender, UsageError
from dockercomms.trust.checks import Claim
from dockercomms.trust.keyless import KeylessOptions
from dockercomms.trust.keys import KeyStore
from dockercomms.trust.owner import Owner, SigningOptions, TrustOptions, default_trust_file
from dockercomms.trust.policy import Policy
from tests.fakes.people import ALICES


def owner(folder, *, notices=None, me="bob", trust=None, **options) -> Owner:
    return Owner(
        me,
        keys=folder / "keys",
        trust=trust or TrustOptions(file=folder / "trust.toml"),
        on_notice=None if notices is None else notices.append,
        **options,
    )


def signs(someone: Owner):
    return someone.signer().signed_by


def write_trust(folder, text: str) -> None:
    (folder / "trust.toml").write_text(f"version = 1\n{text}")


# --- names ---------------------------------------------------------------------------------------


def test_owner_is_who_it_says(tmp_path):
    write_trust(tmp_path, 'me = ["carol"]\n')

    assert owner(tmp_path).names == ("bob",)
    assert owner(tmp_path, me=["bob", "team"]).names == ("bob", "team")
    assert owner(tmp_path).trust().me == ("bob", "carol")


def test_owner_is_who_the_trust_file_says(tmp_path):
    write_trust(tmp_path, 'me = ["carol", "team"]\n')

    assert owner(tmp_path, me=None).names == ("carol", "team")


def test_owner_is_the_login_name_at_last(tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "dave")

    assert owner(tmp_path, me=None).names == ("dave",)


# --- whom they believe ---------------------------------------------------------------------------


def test_owner_reads_the_trust_file_each_time(tmp_path):
    someone = owner(tmp_path)
    assert someone.policy() == Policy()

    write_trust(tmp_path, 'unsigned = "reject"\n')

    assert someone.policy().unsigned == "reject"
    write_trust(tmp_path, "nonsense = 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        someone.trust()


def test_owner_takes_a_policy_instead_of_a_file(tmp_path):
    policy = Policy(unsigned="reject")

    someone = owner(tmp_path, trust=TrustOptions(policy=policy, verify=False))

    assert someone.policy() is policy
    assert not someone.verifies
    assert someone.pin is None
    with pytest.raises(UsageError, match="file"):
        owner(tmp_path, trust=TrustOptions(policy=policy, accept_new=True))


def test_owner_pins_a_new_senders_key(tmp_path):
    notices = []
    trust = TrustOptions(file=tmp_path / "trust.toml", accept_new=True, words=("--me", "bob"))
    someone = owner(tmp_path, notices=notices, trust=trust)

    policy = someone.pin(claim("alice"), ALICES.public_key(), "r.example/box")

    alice = policy.sender("alice")
    assert alice.keys[0].key == ALICES.public_key()
    assert (alice.recipients, alice.repositories) == (("bob",), ("r.example/box",))
    assert policy == someone.policy()
    (notice,) = notices
    assert notice.kind == "pinned"
    assert ALICES.public_key().spki_sha256 in notice.text
    assert someone.words == ("--me", "bob")


def claim(name: str, kind: str = "message") -> Claim:
    return Claim(kind=kind, title=f"message from {name}", subject="", name=name, recipient="bob")


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("bob", "message", "your own name"),
        ("b0b", "message", "looks like 'bob'"),
        ("robert", "message", "your own name"),
        ("carol ", "message", "begins or ends with space"),
        ("car\u200bol", "message", "U+200B"),
        ("ca\u0433ol", "message", "U+0433"),
        ("\uff43arol", "message", "NFKC"),
        ("CAROL", "message", "looks like 'carol'"),
        ("dave", "receipt", "senders of messages only"),
    ],
)
def test_owner_pins_no_name_that_may_be_taken_for_another(tmp_path, name, kind, reason):
    file = tmp_path / "trust.toml"
    file.write_text('version = 1\nme = ["robert"]\n[[sender]]\nname = "carol"\n')
    file.chmod(0o600)
    before = file.read_bytes()
    someone = owner(tmp_path, trust=TrustOptions(file=file, accept_new=True))

    with pytest.raises(UnknownSender) as raised:
        someone.pin(claim(name, kind), ALICES.public_key(), "r.example/box")

    assert reason in raised.value.message
    assert file.read_bytes() == before


def test_owner_says_that_a_key_has_another_name(tmp_path):
    notices = []
    trust = TrustOptions(file=tmp_path / "trust.toml", accept_new=True)
    someone = owner(tmp_path, notices=notices, trust=trust)

    someone.pin(claim("alice"), ALICES.public_key(), "r.example/box")
    someone.pin(claim("dave"), ALICES.public_key(), "r.example/box")

    assert "WARNING" not in notices[0].text
    assert "WARNING: 'alice' signs with the same key" in notices[1].text


def test_owner_trusts_the_own_key_once_there_is_one(tmp_path):
    someone = owner(tmp_path)
    assert someone.trust().own_key is None

    signer = someone.signer()
    assert someone.own_key() is None  # made on first use, not before

    assert signer.signed_by.signer == someone.own_key().spki_sha256
    assert someone.trust().own_key == someone.own_key()


def test_owner_does_not_take_another_ones_key_for_the_own(tmp_path):
    pem = tmp_path / "alice.pub"
    pem.write_text(ALICES.public_key().to_pem())
    KeyStore(tmp_path / "keys").bring_in(pem, "alice")

    assert owner(tmp_path, signing=SigningOptions(key="alice")).own_key() is None


# --- what they sign with -------------------------------------------------------------------------


def test_owner_says_that_a_key_was_made(tmp_path):
    notices = []

    first = owner(tmp_path, notices=notices).signer().signed_by
    second = owner(tmp_path, notices=notices).signer().signed_by

    assert first == second
    (notice,) = notices
    assert notice.kind == "key-created"
    assert str(tmp_path / "keys" / "default.key") in notice.text
    assert first.signer in notice.text


def test_owner_signs_with_the_key_that_was_chosen(tmp_path):
    made = KeyStore(tmp_path / "keys").generate("work")

    someone = owner(tmp_path, signing=SigningOptions(key="work"))

    assert someone.signer().signed_by.signer == made.public.spki_sha256
    assert someone.known_signer().signer == made.public.spki_sha256
    assert not (tmp_path / "keys" / "default.key").exists()


def test_owner_that_does_not_sign_has_no_signer(tmp_path):
    someone = owner(tmp_path, signing=SigningOptions(sign=False))

    assert someone.signer() is None
    assert someone.known_signer() is None


def test_owner_asks_for_the_passphrase_of_an_encrypted_key_only(tmp_path):
    store = KeyStore(tmp_path / "keys")
    store.generate("open")
    store.generate("locked", passphrase="secret")
    asked = []

    def ask(name):
        asked.append(name)
        return "secret"

    for key in ("open", "locked"):
        signs(owner(tmp_path, signing=SigningOptions(key=key, passphrase=ask)))

    assert asked == ["locked"]


@pytest.mark.parametrize("passphrase", [None, "wrong"])
def test_owner_passes_on_that_the_passphrase_will_not_do(tmp_path, passphrase):
    KeyStore(tmp_path / "keys").generate(passphrase="secret")
    signing = SigningOptions(passphrase=lambda name: passphrase)

    with pytest.raises(UsageError, match="passphrase"):
        signs(owner(tmp_path, signing=signing))


def test_owner_refuses_a_key_that_others_can_read(tmp_path):
    made = KeyStore(tmp_path / "keys").generate()
    made.path.chmod(0o644)

    with pytest.raises(LocalIOError, match="others can read") as raised:
        signs(owner(tmp_path))

    assert raised.value.hint == f"chmod 600 {made.path}"


def test_owner_signs_as_an_identity(tmp_path):
    someone = owner(tmp_path, signing=SigningOptions(keyless=KeylessOptions(offline=True)))

    assert someone.known_signer() is None
    with pytest.raises(SigningError, match="network"):
        signs(someone)
    assert not (tmp_path / "keys").exists()


def test_default_trust_file_is_beside_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert (
        default_trust_file({"XDG_CONFIG_HOME": "/etc/x"}).as_posix()
        == "/etc/x/dockercomms/trust.toml"
    )
    assert (
        default_trust_file({"XDG_CONFIG_HOME": "x"}) == tmp_path / ".config/dockercomms/trust.toml"
    )
