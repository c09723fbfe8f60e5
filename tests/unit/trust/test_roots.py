from __future__ import annotations

import pytest

from dockercomms.errors import ConfigError, LocalIOError
from dockercomms.trust.keyless import SigstoreRoots
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.roots import MAX_ROOT_BYTES, embedded, read_root, root_path

PUBLIC = Root(name=PUBLIC_ROOT)


def test_public_root_is_the_one_that_sigstore_carries():
    assert root_path(PUBLIC) == embedded("trusted_root.json")
    assert {"tlogs", "ctlogs", "certificateAuthorities"} <= set(read_root(PUBLIC))


def test_what_sigstore_does_not_carry_is_said():
    with pytest.raises(ConfigError, match=r"with its nonsense\.json is not installed"):
        embedded("nonsense.json")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not valid JSON"),
        (b"[]", "a JSON object expected"),
        (b" " * (MAX_ROOT_BYTES + 1), "more than 1048576 bytes"),
    ],
)
def test_root_that_is_none_is_refused(tmp_path, data, text):
    path = tmp_path / "root.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"root acme: {path}: {text}"):
        read_root(Root(name="acme", path=path))


def test_root_that_is_missing_is_a_local_error(tmp_path):
    root = Root(name="acme", path=tmp_path / "none.json")
    with pytest.raises(LocalIOError, match=r"root acme: .*No such file"):
        read_root(root)
    with pytest.raises(LocalIOError, match=r"root acme: .*No such file"):
        SigstoreRoots().trusted(root)


@pytest.mark.parametrize("text", ["{}", "[]", '{"mediaType":"x"}', "nonsense"])
def test_root_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "root.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"root acme: {path}: not a trusted root"):
        SigstoreRoots().trusted(Root(name="acme", path=path))


def test_root_is_read_once(tmp_path):
    path = tmp_path / "root.json"
    path.write_bytes(embedded("trusted_root.json").read_bytes())
    roots, root = SigstoreRoots(), Root(name="acme", path=path)
    first, authorities = roots.trusted(root), roots.authorities(root)
    path.unlink()
    assert roots.trusted(root) is first
    assert roots.authorities(root) is authorities
