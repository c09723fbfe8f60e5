from __future__ import annotations

import pytest

from dockercomms.errors import PlaceError
from dockercomms.transport.merging import check_links, links_below
from dockercomms.transport.names import climbs_first


@pytest.mark.parametrize(
    ("target", "does"),
    [
        ("a/b", True),
        ("../../a/./b", True),
        ("..", True),
        ("a/../b", False),
        ("../a/..", False),
        ("/a", False),
    ],
)
def test_climbs_first_knows_links_that_stay_at_their_depth(target, does):
    assert climbs_first(target) == does


def test_check_links_lets_links_lead_to_links_that_are_there():
    check_links({"a/x": "../y"}, {"y": "z"}, "box")


def test_check_links_leaves_links_that_led_out_before():
    check_links({"x": "y"}, {"out": "/etc"}, "box")


def test_check_links_counts_a_link_that_is_replaced_as_gone():
    check_links({"out": "inside", "x": "out"}, {"out": "/etc"}, "box")


@pytest.mark.parametrize(
    ("new", "there"),
    [
        ({"x": "../y"}, {}),
        ({"x": "out/y"}, {"out": "/etc"}),
        ({"x": "OUT/y"}, {"out": "/etc"}),
        ({"p": "."}, {"l": "p/q/../../y"}),
        ({"x": "y"}, {"y": "x"}),
    ],
)
def test_check_links_refuses_what_leads_out_of_both(new, there):
    with pytest.raises(PlaceError, match=r"^box: link '.' would point outside of it"):
        check_links(new, there, "box")


def test_links_below_says_what_links_say(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").symlink_to("./a//b")
    (tmp_path / "y").symlink_to("sub")

    assert links_below(tmp_path) == {"sub/x": "./a//b", "y": "sub"}


def test_links_below_reads_all_or_fails(tmp_path):
    with pytest.raises(FileNotFoundError):
        links_below(tmp_path / "missing")
