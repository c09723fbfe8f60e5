from __future__ import annotations

import re
import string
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dockercomms.errors import ConfigError, LocalIOError
from dockercomms.trust.keys import PublicKey
from dockercomms.trust.policy import PUBLIC_ROOT, Policy, Revocation, Root, TrustedIdentity
from dockercomms.trust.policy_file import (
    MAX_POLICY_BYTES,
    load_policy,
    parse_duration,
    parse_policy,
)
from tests.unit.trust.signed import ALICE, BOB, public

WHOLE = f"""\
version = 1
me = ["bob@example.com", "team-a"]       # names this receiver answers to
unsigned = "reject"
unknown_sender = "reject"
max_age = "P30D"
clock_skew = "PT2M"
audiences = ["r.example/box"]
accept_cosign_sign = true

[roots.public]
source = "sigstore-public-good"
[roots.acme]
source = "file"
path = "acme.json"

[[sender]]
name = "alice@example.com"
recipients = ["bob@example.com"]
repositories = ["registry.example/inbox/*"]
kinds = ["message"]
address = "registry.example/alice"
  [[sender.identity]]
  root = "acme"
  identity = "alice@example.com"
  issuer = "https://accounts.example"
  [[sender.key]]
  public_key = "alice.pub"
  spki_sha256 = "{public(ALICE).spki_sha256}"
  valid_after = 2026-01-01T00:00:00Z
  valid_before = 2027-01-01T01:00:00+01:00
  timestamp = "required"

[[sender]]
name = "old"
allow_unsigned = true
  [[sender.key]]
  public_key = "bob.pub"

[[inbox]]
repository = "registry.example/old"
unsigned = "accept"

[[revoked]]
spki_sha256 = "{public(BOB).spki_sha256}"
from = 2026-06-01T00:00:00Z
reason = "laptop lost"
[[revoked]]
identity = "carol@example.com"
"""


@pytest.fixture
def folder(tmp_path):
    for name, owner in (("alice.pub", ALICE), ("bob.pub", BOB)):
        (tmp_path / name).write_text(public(owner).to_pem())
        (tmp_path / name).chmod(0o644)
    (tmp_path / "acme.json").write_text("{}")
    (tmp_path / "acme.json").chmod(0o644)
    return tmp_path


def parse(text, folder):
    return parse_policy(text, where="trust.toml", folder=folder)


def test_every_word_is_read(folder):
    found = parse(WHOLE, folder)
    assert found.me == ("bob@example.com", "team-a")
    assert (found.unsigned, found.unknown_sender) == ("reject", "reject")
    assert (found.max_age, found.clock_skew) == (timedelta(days=30), timedelta(minutes=2))
    assert found.audiences == ("r.example/box",)
    assert found.accept_cosign_sign
    assert found.roots == {
        PUBLIC_ROOT: Root(name=PUBLIC_ROOT),
        "acme": Root(name="acme", path=folder / "acme.json"),
    }
    alice, old = found.senders
    assert alice.identities == (
        TrustedIdentity(identity=ALICE, issuer="https://accounts.example", root="acme"),
    )
    (key,) = alice.keys
    assert (key.key, key.timestamp) == (public(ALICE), "required")
    assert key.valid_after == datetime(2026, 1, 1, tzinfo=UTC)
    assert key.valid_before == datetime(2027, 1, 1, tzinfo=UTC)
    assert (alice.kinds, alice.address) == (("message",), "registry.example/alice")
    assert alice.repositories == ("registry.example/inbox/*",)
    assert (old.allow_unsigned, old.kinds) == (True, ("message", "receipt"))
    assert old.keys[0].timestamp == "if-present"
    assert [(item.spki_sha256, item.identity) for item in found.revoked] == [
        (public(BOB).spki_sha256, None),
        (None, "carol@example.com"),
    ]
    assert found.revoked[0].since == datetime(2026, 6, 1, tzinfo=UTC)
    assert found.accepts_unsigned("anybody", "registry.example/old")


def test_example_of_the_documentation_is_read(folder):
    page = (Path(__file__).parents[3] / "docs" / "trust.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    own = re.sub(r'spki_sha256 = "nwtz[^"]*"', f'spki_sha256 = "{public(ALICE).spki_sha256}"', text)
    for name, source in (("keys/alice.pub", "alice.pub"), ("acme/trusted_root.json", "acme.json")):
        (folder / name).parent.mkdir()
        (folder / source).rename(folder / name)
    found = parse(own, folder)
    assert found.sender(ALICE).identities[0].root == "acme"
    words = re.findall(r"^\s*(\w+) = ", WHOLE, re.MULTILINE)
    assert set(words) == set(re.findall(r"^\s*(\w+) = ", text, re.MULTILINE)) | {"identity"}


def test_least_file_is_the_empty_policy(folder):
    assert parse("version = 1\n", folder) == Policy()


WRONG = [
    # (what is replaced, by what, the line and what is said of it)
    ('unsigned = "reject"', 'unsigned = "accept"', 3, "unsigned 'accept'; reject or hold"),
    ('unknown_sender = "reject"', "unknown_sender = 1", 4, "unknown_sender: text expected"),
    ("version = 1", "version = 2", 1, "version 2; 1 expected"),
    ("version = 1", "version = true", 1, "version True; 1 expected"),
    ("version = 1", "", 1, "version None; 1 expected"),
    ('me = ["bob@example.com", "team-a"]', "me = []", 2, "me is empty"),
    ('me = ["bob@example.com", "team-a"]', 'me = ""', 2, "me is empty"),
    ('me = ["bob@example.com", "team-a"]', 'me = "bob"', 2, "a list of strings expected"),
    ('me = ["bob@example.com", "team-a"]', 'me = ["bob", ""]', 2, "a list of strings expected"),
    ('max_age = "P30D"', 'max_age = "30 days"', 5, "a duration such as P30D"),
    ("accept_cosign_sign = true", 'accept_cosign_sign = "yes"', 8, "true or false expected"),
    (
        "accept_cosign_sign = true",
        "accept_cosign_signs = true",
        8,
        "unknown setting 'accept_cosign_s",
    ),
    ('source = "sigstore-public-good"', 'source = "tuf"', 11, "roots.public: source"),
    ('source = "sigstore-public-good"', 'source = "file"', 11, "roots.public: source"),
    ('path = "acme.json"', 'path = "none.json"', 14, "No such file"),
    ('path = "acme.json"', "", 13, "roots.acme: source"),
    ("[roots.acme]", "[roots.acme.more]", 12, "unknown setting 'more'"),
    ('name = "alice@example.com"', "", 16, "sender 1: name is missing"),
    ('name = "old"', 'name = "alice@example.com"', 34, "two entries for sender"),
    ('kinds = ["message"]', 'kinds = ["messages"]', 20, "kind 'messages'; message or receipt"),
    ('  root = "acme"', '  root = "acne"', 23, "root 'acne' is not declared"),
    ('  identity = "alice@example.com"', "", 22, "identity and issuer are both needed"),
    ('  issuer = "https://accounts.example"', "", 24, "identity and issuer are both needed"),
    ('  issuer = "https://accounts.example"', "  issuers = 1", 25, "unknown setting 'issuers'"),
    ('  public_key = "alice.pub"', "", 26, "public_key (a file) is missing"),
    ('  public_key = "alice.pub"', '  public_key = "none.pub"', 27, "No such file"),
    ('  public_key = "alice.pub"', '  public_key = "acme.json"', 27, "not a PEM public key"),
    ('  public_key = "alice.pub"', '  public_key = "bob.pub"', 28, "has spki_sha256"),
    (public(ALICE).spki_sha256, "AAAA", 28, "44 characters of base64 expected"),
    (public(ALICE).spki_sha256, "?", 28, "44 characters of base64 expected"),
    ("valid_after = 2026-01-01T00:00:00Z", "valid_after = 2026-01-01T00:00:00", 29, "write Z"),
    ("valid_after = 2026-01-01T00:00:00Z", "valid_after = 2026-01-01", 29, "a time such as"),
    ('timestamp = "required"', 'timestamp = "always"', 31, "required or if-present expected"),
    ("allow_unsigned = true", "allow_unsigned = 1", 35, "sender 2: allow_unsigned: true or"),
    ('public_key = "bob.pub"', "public_keys = 1", 37, "sender.key 1: unknown setting"),
    ('repository = "registry.example/old"', "", 39, "repository is missing"),
    ('unsigned = "accept"', 'unsigned = "hold"', 41, "unsigned 'hold'; accept expected"),
    ('unsigned = "accept"', "", 39, "unsigned None; accept expected"),
    (public(BOB).spki_sha256, "tg5Re3", 44, "44 characters of base64 expected"),
    ('identity = "carol@example.com"', "", 47, "either spki_sha256 or identity"),
    ('identity = "carol@example.com"', 'identity = ""', 47, "either spki_sha256 or identity"),
    ('identity = "carol@example.com"', "form = 1", 48, "revoked 2: unknown setting 'form'"),
]


@pytest.mark.parametrize(("old", "new", "line", "text"), WRONG, ids=range(len(WRONG)))
def test_error_names_line_and_word(folder, old, new, line, text):
    assert old in WHOLE
    index = WHOLE.rindex(old) if line > 40 else WHOLE.index(old)
    changed = WHOLE[:index] + new + WHOLE[index + len(old) :]
    with pytest.raises(ConfigError) as caught:
        parse(changed, folder)
    assert str(caught.value).startswith(f"trust.toml, line {line}: "), str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = 1\nsender = 1\n", "line 2: sender: [[sender]] tables expected"),
        ("version = 1\nsender = [1]\n", "line 2: sender: a table expected"),
        ("version = 1\nroots = []\n", "line 2: roots: a table expected"),
        ("version = 1\n[roots]\na = 1\n", "line 3: roots: a: a table expected"),
        ('version = 1\nsender = [{name = "a", b = 1}]\n', "line 2: sender 1: unknown setting 'b'"),
        ("version = 1\n'strange word' = 1\n", "line 2: unknown setting 'strange word'"),
        ("version = \n", "Invalid value (at line 1, column 11)"),
    ],
)
def test_error_in_other_forms_names_the_line_too(folder, text, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        parse(text, folder)


def test_words_in_comments_are_not_what_is_wrong(folder):
    with pytest.raises(ConfigError, match="line 3: "):
        parse("version = 1\n# me = []\nme = []\n", folder)


def test_revocation_holds_however_the_digest_is_written(folder):
    """Two bits of the last character count for nothing: a revocation must not miss its key."""
    key = PublicKey.load(folder / "bob.pub")
    digest = b64decode(key.spki_sha256)
    spellings = [
        text
        for one in string.ascii_letters + string.digits + "+/"
        if b64decode(text := f"{key.spki_sha256[:-2]}{one}=") == digest
    ]
    assert len(spellings) == 4

    for text in spellings:
        policy = parse(f'version = 1\n[[revoked]]\nspki_sha256 = "{text}"\n', folder)
        assert policy.revocation_of_key(key, None) is not None
        by_hand = Policy(revoked=(Revocation(spki_sha256=text),))
        assert by_hand.revocation_of_key(key, None) is not None
        assert by_hand.revocation_of_key(PublicKey.load(folder / "alice.pub"), None) is None


@pytest.mark.parametrize("name", ["alice.pub", "bob.pub"])
def test_key_that_others_can_write_is_refused_unless_it_is_pinned(folder, name):
    (folder / name).chmod(0o664)
    if name == "alice.pub":
        assert parse(WHOLE, folder).sender(ALICE)
    else:
        with pytest.raises(ConfigError, match=r"line 37: .*others can write it"):
            parse(WHOLE, folder)


def test_root_that_others_can_write_is_refused(folder):
    (folder / "acme.json").chmod(0o666)
    with pytest.raises(ConfigError, match=r"line 14: .*mode 0666: others can write it"):
        parse(WHOLE, folder)


def test_load_reads_paths_from_the_file(folder):
    path = folder / "trust.toml"
    path.write_text(WHOLE)
    path.chmod(0o644)
    assert load_policy(path) == parse(WHOLE, folder)


def test_load_without_a_file_is_the_empty_policy(tmp_path):
    assert load_policy(tmp_path / "trust.toml") == Policy()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_load_refuses_what_others_can_write(tmp_path, mode):
    path = tmp_path / "trust.toml"
    path.write_text("version = 1\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}: others can write it") as caught:
        load_policy(path)
    assert caught.value.hint == f"chmod go-w {path}"


@pytest.mark.parametrize(
    ("data", "text"), [(b"\xff", "not UTF-8"), (b"#" * (MAX_POLICY_BYTES + 1), "more than 4194304")]
)
def test_load_refuses_what_is_no_text(tmp_path, data, text):
    path = tmp_path / "trust.toml"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=text):
        load_policy(path)


def test_load_of_a_folder_is_a_local_error(tmp_path):
    with pytest.raises(LocalIOError):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P30D", timedelta(days=30)),
        ("P1W2D", timedelta(days=9)),
        ("PT5M", timedelta(minutes=5)),
        ("P1DT1H1M1S", timedelta(days=1, seconds=3661)),
        *((text, None) for text in ("", "P", "PT", "P1DT", "30D", "P1Y", "P-1D", "P1.5D", "P1D ")),
    ],
)
def test_duration_is_that_of_iso_8601(text, expected):
    assert parse_duration(text) == expected


def test_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "trust.toml"
    path.write_text("\ufeffversion = 1\n", encoding="utf-8")
    path.chmod(0o600)
    assert load_policy(path) == Policy()
