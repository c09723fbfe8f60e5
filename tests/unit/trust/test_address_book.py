from __future__ import annotations

import errno
import stat
import threading
from datetime import UTC, datetime

import pytest

from dockercomms.errors import ConfigError, LocalIOError, NotFoundError, UsageError
from dockercomms.trust.address_book import AddressBook
from dockercomms.trust.policy import Policy, TrustedIdentity
from dockercomms.trust.policy_file import load_policy
from dockercomms.trust.roots import embedded
from tests.unit.trust.signed import ALICE, BOB, CAROL, EVE, public

ISSUER = "https://accounts.example"
MINE = """\
# mine
version = 1
me = ["bob@example.com"] # that is me

[[sender]]
name = "carol@example.com" # from the office
allow_unsigned = true

[[revoked]]
identity = "mallory@example.com"
reason = "left"
"""


@pytest.fixture
def book(tmp_path) -> AddressBook:
    return AddressBook(tmp_path / "config" / "trust.toml")


@pytest.fixture
def mine(tmp_path) -> AddressBook:
    path = tmp_path / "trust.toml"
    path.write_text(MINE)
    path.chmod(0o640)
    return AddressBook(path)


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_first_entry_makes_the_file(book):
    book.add(ALICE, key=public(ALICE), address="r.example/alice")
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    (sender,) = load_policy(book.path).senders
    assert (sender.name, sender.address) == (ALICE, "r.example/alice")
    assert sender.keys[0].key == public(ALICE)
    assert "docs/trust.md" in book.path.read_text()


def test_add_keeps_every_comment_and_the_mode(mine):
    mine.add(ALICE, key=public(ALICE))
    text = mine.path.read_text()
    assert comments(text) == comments(MINE)
    assert stat.S_IMODE(mine.path.stat().st_mode) == 0o640
    found = load_policy(mine.path)
    assert [sender.name for sender in found.senders] == [CAROL, ALICE]
    assert found.me == (BOB,)
    assert found.revoked[0].reason == "left"
    assert '\n\n[[sender]]\nname = "alice@example.com"\n' in text


def test_add_to_an_entry_that_is_there(mine):
    mine.add(CAROL, key=public(CAROL), address="r.example/carol")
    mine.add(CAROL, key=public(EVE))
    mine.add(CAROL, identity=CAROL, issuer=ISSUER)
    (carol,) = load_policy(mine.path).senders
    assert [item.key for item in carol.keys] == [public(CAROL), public(EVE)]
    assert carol.identities == (TrustedIdentity(identity=CAROL, issuer=ISSUER),)
    assert (carol.allow_unsigned, carol.address) == (True, "r.example/carol")


def test_add_the_same_again_changes_nothing(book):
    for _ in range(2):
        book.add(ALICE, key=public(ALICE), allow_unsigned=True)
        book.add(ALICE, identity=ALICE, issuer=ISSUER)
    (alice,) = load_policy(book.path).senders
    assert (len(alice.keys), len(alice.identities)) == (1, 1)


def test_add_copies_the_key_and_pins_it(book):
    book.add(ALICE, key=public(ALICE))
    (copy,) = (book.path.parent / "keys").iterdir()
    assert copy.read_text() == public(ALICE).to_pem()
    copy.write_text(public(EVE).to_pem())
    with pytest.raises(ConfigError, match="has spki_sha256"):
        load_policy(book.path)


def test_add_refuses_a_copy_that_is_none(book):
    book.add(ALICE, key=public(ALICE))
    (copy,) = (book.path.parent / "keys").iterdir()
    book.remove(ALICE)
    copy.write_text(public(EVE).to_pem())
    with pytest.raises(ConfigError, match="another fingerprint than its name"):
        book.add(ALICE, key=public(ALICE))
    assert load_policy(book.path).senders == ()


def test_add_an_identity_of_a_root_of_its_own(book, tmp_path):
    root = tmp_path / "our root.json"
    root.write_bytes(embedded("trusted_root.json").read_bytes())
    other = tmp_path / "other" / "our root.json"
    other.parent.mkdir()
    other.write_bytes(root.read_bytes() + b"\n")
    book.add(ALICE, identity=ALICE, issuer=ISSUER, root=root)
    book.add(BOB, identity=BOB, issuer=ISSUER, root=root)
    book.add(CAROL, identity=CAROL, issuer=ISSUER, root=other)
    root.unlink()
    found = load_policy(book.path)
    assert [sender.identities[0].root for sender in found.senders] == [
        "our-root",
        "our-root",
        "our-root-2",
    ]
    assert found.roots["our-root"].path.read_bytes() + b"\n" == other.read_bytes()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "a key, an identity or --allow-unsigned is needed"),
        ({"address": "r.example/x"}, "a key, an identity or --allow-unsigned is needed"),
        ({"identity": ALICE}, "needs its issuer"),
        ({"issuer": ISSUER, "allow_unsigned": True}, "needs its issuer"),
        (
            {"allow_unsigned": True, "root": embedded("root.json")},
            "a trusted root needs an identity",
        ),
    ],
)
def test_add_needs_enough_and_not_too_much(book, given, text):
    with pytest.raises(UsageError, match=text):
        book.add(ALICE, **given)
    assert not book.path.exists()


def test_add_needs_a_name(book):
    with pytest.raises(UsageError, match="empty name"):
        book.add("", allow_unsigned=True)


@pytest.mark.parametrize(
    "name", ['"quoted"', "back\\slash", "zwei\nzeilen", "\u00fcml\u00e4ut", "a]b"]
)
def test_add_writes_any_name(book, name):
    book.add(name, key=public(ALICE))
    book.add(name, allow_unsigned=True)
    (sender,) = load_policy(book.path).senders
    assert (sender.name, len(sender.keys), sender.allow_unsigned) == (name, 1, True)
    book.remove(name)
    assert load_policy(book.path).senders == ()


def test_add_refuses_a_root_that_is_none(book, tmp_path):
    (tmp_path / "root.json").write_text("[]")
    with pytest.raises(ConfigError, match="a JSON object expected"):
        book.add(ALICE, identity=ALICE, issuer=ISSUER, root=tmp_path / "root.json")
    with pytest.raises(LocalIOError):
        book.add(ALICE, identity=ALICE, issuer=ISSUER, root=tmp_path / "none.json")


def test_pin_is_for_a_name_without_an_entry_only(mine):
    mine.pin(ALICE, public(ALICE), recipient=BOB, repo="r.example/box")
    assert load_policy(mine.path).sender(ALICE).keys[0].key == public(ALICE)
    for name in (ALICE, CAROL):
        with pytest.raises(ConfigError, match="it has an entry"):
            mine.pin(name, public(EVE), recipient=BOB, repo="r.example/box")


def test_pin_again_by_another_process_changes_nothing(mine):
    """Two receivers may meet the same new sender at once."""
    mine.pin(ALICE, public(ALICE), recipient=BOB, repo="r.example/box")
    before = mine.path.read_bytes()
    mine.pin(ALICE, public(ALICE), recipient=BOB, repo="r.example/box")
    assert mine.path.read_bytes() == before


def test_pin_leaves_an_entry_with_conditions_to_its_owner(mine):
    mine.pin(ALICE, public(ALICE), recipient=BOB, repo="r.example/box")
    mine.add(ALICE, key=public(ALICE), address="r.example/box")
    with pytest.raises(ConfigError, match="it has an entry"):
        mine.pin(ALICE, public(ALICE), recipient=BOB, repo="r.example/box")


def test_remove_leaves_the_others(mine):
    mine.add(ALICE, key=public(ALICE))
    mine.add(BOB, key=public(BOB))
    mine.remove(ALICE)
    assert [sender.name for sender in load_policy(mine.path).senders] == [CAROL, BOB]
    mine.remove(CAROL)
    mine.remove(BOB)
    found = load_policy(mine.path)
    assert (found.senders, found.me, len(found.revoked)) == ((), (BOB,), 1)
    mine.add(ALICE, key=public(ALICE))
    assert load_policy(mine.path).sender(ALICE)


def test_remove_what_is_not_there(mine, book):
    for either in (mine, book):
        with pytest.raises(NotFoundError, match="no entry for 'nobody'"):
            either.remove("nobody")
    assert mine.path.read_text() == MINE
    assert not book.path.exists()


def test_revoke_a_key_from_a_moment_on(mine):
    since = datetime(2026, 6, 1, tzinfo=UTC)
    mine.revoke(spki_sha256=public(ALICE).spki_sha256, since=since, reason="laptop lost")
    mine.revoke(identity=EVE)
    _, of_key, of_identity = load_policy(mine.path).revoked
    assert (of_key.spki_sha256, of_key.since) == (public(ALICE).spki_sha256, since)
    assert of_key.reason == "laptop lost"
    assert (of_identity.identity, of_identity.since) == (EVE, None)
    assert comments(mine.path.read_text()) == comments(MINE)


def test_revoke_needs_one_thing(mine):
    for given in ({}, {"identity": EVE, "spki_sha256": public(EVE).spki_sha256}):
        with pytest.raises(ConfigError, match="either spki_sha256 or identity expected"):
            mine.revoke(**given)
    with pytest.raises(ConfigError, match="44 characters"):
        mine.revoke(spki_sha256="mistyped")
    assert mine.path.read_text() == MINE


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [(MINE, 0o666, "others can write it"), ("version = 3\n", 0o600, "version 3")],
)
def test_file_that_is_wrong_or_that_others_can_write_is_not_changed(mine, text, mode, reason):
    mine.path.write_text(text)
    mine.path.chmod(mode)
    with pytest.raises(ConfigError, match=reason):
        mine.add(ALICE, key=public(ALICE))
    assert mine.path.read_text() == text


def test_file_with_entries_in_one_line_is_not_changed(mine):
    text = 'version = 1\nsender = [{name = "carol"}]\n'
    mine.path.write_text(text)
    with pytest.raises(ConfigError, match=r"write it as \[\[sender\]\] tables"):
        mine.add(ALICE, key=public(ALICE))
    assert mine.path.read_text() == text
    mine.remove("carol")
    assert load_policy(mine.path) == Policy()


def test_link_to_the_file_stays_a_link(mine, tmp_path):
    link = tmp_path / "elsewhere" / "trust.toml"
    link.parent.mkdir()
    link.symlink_to(mine.path)
    AddressBook(link).add(ALICE, key=public(ALICE))
    assert link.is_symlink()
    assert load_policy(mine.path).sender(ALICE)
    assert load_policy(link.resolve()).sender(ALICE)


def test_several_writers_lose_nothing(book):
    names = [f"{number}@example.com" for number in range(12)]
    threads = [
        threading.Thread(target=book.add, args=(name,), kwargs={"allow_unsigned": True})
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sender.name for sender in load_policy(book.path).senders) == sorted(names)


def test_nothing_is_left_where_writing_fails(mine, tmp_path):
    (tmp_path / "keys").write_text("in the way")
    with pytest.raises(LocalIOError):
        mine.add(ALICE, key=public(ALICE))
    assert mine.path.read_text() == MINE
    assert not [item for item in tmp_path.iterdir() if item.name.endswith(".part")]


def test_nothing_is_changed_where_the_disk_fails(mine, tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(LocalIOError, match="Input/output error"):
        mine.revoke(identity=EVE)
    assert mine.path.read_text() == MINE
    assert not [item for item in tmp_path.iterdir() if item.name.endswith(".part")]


def test_brackets_within_a_text_are_left_alone(mine):
    mine.path.write_text(MINE + '[[inbox]]\nrepository = """x\n[roots]"""\nunsigned = "accept"\n')
    mine.add(ALICE, key=public(ALICE))
    assert load_policy(mine.path).inboxes[0].repository == "x\n[roots]"
