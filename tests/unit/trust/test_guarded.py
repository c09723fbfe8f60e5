from __future__ import annotations

import os
from functools import partial

import pytest

from dockercomms.errors import ConfigError, LocalIOError
from dockercomms.trust.keys import PrivateKey, PublicKey, who_else_can_change
from dockercomms.trust.policy_file import load_policy
from tests.fakes.people import ALICES


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "home" / "config" / "dockercomms"
    folder.mkdir(parents=True)
    found = folder / "trust.toml"
    found.write_text("version = 1\n")
    found.chmod(0o600)
    return found


def test_a_file_of_ours_in_folders_of_ours_is_guarded(path):
    assert who_else_can_change(path) is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_that_others_can_write_unguards_what_is_in_it(path, above, mode):
    folder = path.parents[above]
    folder.chmod(mode)

    found = who_else_can_change(path)

    assert found.reason == f"{folder}: mode {mode:04o}: others can write it"
    assert found.hint == f"chmod go-w {folder}"
    with pytest.raises(ConfigError, match="others can write it"):
        load_policy(path)


def test_a_folder_with_the_sticky_bit_guards_what_is_in_it(path):
    path.parents[2].chmod(0o1777)
    assert who_else_can_change(path) is None


def test_a_file_with_the_sticky_bit_is_not_guarded(path):
    path.chmod(0o1666)
    assert "others can write it" in who_else_can_change(path).reason


def test_nothing_above_the_home_folder_is_looked_at(path, tmp_path):
    tmp_path.chmod(0o777)
    assert who_else_can_change(path, home=tmp_path / "home") is None
    assert who_else_can_change(path, home=tmp_path / "elsewhere").reason.startswith(f"{tmp_path}:")


def test_a_link_is_judged_by_where_it_leads(path, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    others.chmod(0o777)
    (others / "trust.toml").write_text("version = 1\n")
    link = path.parent / "link.toml"
    link.symlink_to(others / "trust.toml")
    folder = path.parents[1] / "linked"
    folder.symlink_to(others)

    for place in (link, folder / "trust.toml"):
        assert who_else_can_change(place).reason.startswith(f"{others}:")


@pytest.mark.parametrize("above", [0, 1])
def test_an_owner_who_is_neither_we_nor_root_unguards(path, above):
    place = (path, *path.parents)[above]
    uid = os.geteuid()
    if uid == 0:
        os.chown(place, 12_345, -1)
    else:
        uid += 1  # what is ours belongs to somebody else

    found = who_else_can_change(path, uid=uid)

    assert "not to you" in found.reason
    assert found.hint == f"chown {uid} {place if os.geteuid() == 0 else path}"


def test_a_file_that_is_not_there_is_a_local_error(tmp_path):
    with pytest.raises(LocalIOError):
        who_else_can_change(tmp_path / "none")


@pytest.mark.parametrize("load", [PrivateKey.load, partial(PublicKey.load, secured=True)])
def test_keys_are_refused_in_a_folder_that_others_can_write(tmp_path, load):
    folder = tmp_path / "keys"
    path = folder / "default.key"
    ALICES.save(path)
    folder.chmod(0o777)

    with pytest.raises(LocalIOError, match="others can write it"):
        load(path)
