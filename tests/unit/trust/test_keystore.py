from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dockercomms.errors import LocalIOError, UsageError
from dockercomms.trust.keys import KeyStore, PrivateKey, default_keys_folder
from tests.unit.trust.signed import ALICE, BOB, KEYS, foreign_keys, public, public_of


@pytest.fixture
def store(tmp_path) -> KeyStore:
    return KeyStore(tmp_path / "keys")


def test_ensure_makes_the_default_key_once(store):
    first, created = store.ensure()
    again, created_again = store.ensure()
    assert (first.name, first.private, first.encrypted) == ("default", True, False)
    assert (created, created_again) == (True, False)
    assert first == again
    assert first.path == store.folder / "default.key"
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_ensure_makes_no_key_that_was_named(store):
    with pytest.raises(UsageError, match="no key named 'work'") as caught:
        store.ensure("work")
    assert caught.value.hint == "create it with: dockercomms keys generate --name work"
    assert store.list() == ()
    store.generate("work")
    assert store.ensure("work")[0].name == "work"


def test_ensure_is_not_upset_by_a_process_that_was_faster(store):
    class Late(KeyStore):
        asked = 0

        def find(self, name="default"):
            Late.asked += 1
            return None if Late.asked == 1 else super().find(name)

    made = store.generate()
    assert Late(store.folder).ensure() == (made, False)


def test_ensure_tells_why_it_cannot(store, tmp_path):
    class Blind(KeyStore):
        def find(self, name="default"):
            return None

    store.generate()
    with pytest.raises(UsageError, match="a key with that name exists already"):
        Blind(store.folder).ensure()
    (tmp_path / "bob.pub").write_text(public(BOB).to_pem())
    store.bring_in(tmp_path / "bob.pub", "bob")
    with pytest.raises(UsageError, match="a private key expected, a public key received"):
        store.ensure("bob")


def test_an_encrypted_key_is_found_without_its_passphrase(store):
    made = store.generate("work", passphrase="secret")
    found = store.find("work")
    assert found == made
    assert found.encrypted
    assert store.private_key("work", passphrase="secret").public_key() == found.public
    with pytest.raises(UsageError, match="wrong passphrase"):
        store.private_key("work", passphrase="other")


def test_list_is_by_name_and_shows_keys_only(store, tmp_path):
    assert store.list() == ()
    store.generate("b")
    store.generate("a", passphrase="secret")
    (tmp_path / "c.pub").write_text(public(BOB).to_pem())
    store.bring_in(tmp_path / "c.pub", "c")
    (store.folder / "notes.txt").write_text("")
    (store.folder / ".part.key").write_text("")
    assert [(key.name, key.private, key.encrypted) for key in store.list()] == [
        ("a", True, True),
        ("b", True, False),
        ("c", False, False),
    ]


def test_find_what_is_not_there(store):
    assert store.find() is None
    with pytest.raises(UsageError, match="no key named 'work'") as caught:
        store.private_key("work")
    assert caught.value.hint == "create it with: dockercomms keys generate --name work"


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "a" * 65, "\u00e9", "a\n"])
def test_name_that_is_none_is_refused(store, name):
    with pytest.raises(UsageError, match="not the name of a key"):
        store.generate(name)


def test_generate_never_takes_a_name_that_is_taken(store, tmp_path):
    store.generate("work")
    (tmp_path / "c.pub").write_text(public(BOB).to_pem())
    store.bring_in(tmp_path / "c.pub", "c")
    for name in ("work", "c"):
        with pytest.raises(UsageError, match="a key with that name exists already"):
            store.generate(name)
        with pytest.raises(UsageError, match="a key with that name exists already"):
            store.bring_in(tmp_path / "c.pub", name)


@pytest.mark.parametrize("kind", ["ed25519", "rsa-2048"])
def test_bring_in_a_public_key_of_any_kind(store, tmp_path, kind):
    key = public_of(foreign_keys()[kind])
    (tmp_path / "k").write_text(key.to_pem())
    found = store.bring_in(tmp_path / "k", kind)
    assert (found.public, found.private) == (key, False)
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o644


@pytest.mark.parametrize("passphrase", [None, "secret"])
def test_bring_in_a_key_pair(store, tmp_path, passphrase):
    KEYS[ALICE].save(tmp_path / "mine", passphrase=passphrase)
    found = store.bring_in(tmp_path / "mine", "mine", passphrase=passphrase)
    assert (found.public, found.private) == (public(ALICE), True)
    assert found.encrypted is (passphrase is not None)
    assert store.private_key("mine", passphrase=passphrase).public_key() == public(ALICE)


def test_bring_in_a_key_pair_without_a_passphrase_encrypts_nothing(store, tmp_path):
    KEYS[ALICE].save(tmp_path / "mine")
    assert not store.bring_in(tmp_path / "mine", "mine", passphrase="of another").encrypted


def test_bring_in_refuses_a_private_key_that_others_can_read(store, tmp_path):
    KEYS[ALICE].save(tmp_path / "mine")
    (tmp_path / "mine").chmod(0o644)
    with pytest.raises(LocalIOError, match="others can read"):
        store.bring_in(tmp_path / "mine", "mine")
    assert store.find("mine") is None


def test_key_that_others_can_write_is_refused(store):
    path = store.generate().path
    path.chmod(0o622)
    with pytest.raises(LocalIOError, match="others can write"):
        store.find()


@pytest.mark.parametrize("passphrase", [None, "secret"])
def test_key_pair_put_there_by_hand(store, passphrase):
    path = store.generate(passphrase=passphrase).path
    public_key = store.find().public
    path.write_text(path.read_text().partition("-----BEGIN PUBLIC")[0])
    if passphrase is None:
        assert store.find().public == public_key
    else:
        with pytest.raises(UsageError, match="the file of its public key is missing") as caught:
            store.find()
        assert "keys import" in str(caught.value.hint)
    assert store.private_key(passphrase=passphrase).public_key() == public_key


def test_folder_that_cannot_be_read_is_a_local_error(tmp_path):
    (tmp_path / "keys").write_text("")
    with pytest.raises(LocalIOError):
        KeyStore(tmp_path / "keys").list()


def test_default_folder_follows_the_environment():
    assert default_keys_folder({"XDG_DATA_HOME": "/data"}) == Path("/data/dockercomms/keys")
    for environ in ({}, {"XDG_DATA_HOME": "relative"}):
        expected = Path.home() / ".local" / "share" / "dockercomms" / "keys"
        assert default_keys_folder(environ) == expected


def test_every_key_is_another_one():
    assert PrivateKey.generate().public_key() != PrivateKey.generate().public_key()
