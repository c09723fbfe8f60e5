"""File names: what the vectors do not say."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockercomms.transport.names import (
    collision_key,
    safe_component,
    safe_filename,
    shorten,
    wire_filename,
)

NAMES = st.text() | st.text(st.sampled_from("./\\ \nCONaux19.é日\u202e\udcff"), max_size=20)


@given(NAMES)
def test_safe_filename_is_one_plain_visible_name(name):
    safe = safe_filename(name)
    assert safe
    assert len(safe.encode("utf-8")) <= 255
    assert not set(safe) & set("/\\\0\n")
    assert safe == safe.strip()
    assert not safe.startswith(".")
    assert not safe.endswith(".")
    assert "\u202e" not in safe


@given(NAMES)
def test_safe_filename_is_its_own_safe_name(name):
    assert safe_filename(safe_filename(name)) == safe_filename(name)


@given(NAMES.filter(bool))
def test_wire_filename_is_short_enough_for_1_0(name):
    short, full = wire_filename(name)
    assert 0 < len(short.encode("utf-8")) <= 237
    assert "\0" not in short
    assert full is None or len(full.encode("utf-8")) <= 1024


@given(st.text(), st.integers(4, 300))
def test_shorten_keeps_to_its_limit_and_what_fits(name, limit):
    short = shorten(name.encode("utf-8", "replace").decode(), limit)
    assert len(short.encode("utf-8")) <= limit


def test_wire_filename_replaces_what_has_no_utf_8():
    assert wire_filename("a\udcffb\0c") == ("a?b_c", None)


def test_wire_filename_keeps_the_whole_of_a_long_name_up_to_a_limit():
    short, full = wire_filename("x" * 2000 + ".txt")
    assert short == "x" * 233 + ".txt"
    assert full == "x" * 1020 + ".txt"


def test_shorten_cuts_between_characters():
    assert shorten("日本語.txt", 11) == "日本.txt"
    assert shorten("日本語.txt", 9) == "日.txt"


def test_shorten_gives_up_an_extension_that_leaves_no_room():
    assert shorten("abc.text", 5) == "abc.t"
    assert shorten("." + "x" * 50, 5) == ".xxxx"


@pytest.mark.parametrize("name", ["a<b", "a>b", "a:b", 'a"b', "a|b", "a?b", "a*b"])
def test_safe_filename_on_windows_replaces_what_windows_refuses(name):
    assert safe_filename(name, windows=True) == "a_b"
    assert safe_filename(name, windows=False) == name


def test_safe_component_keeps_leading_dots():
    assert safe_component(".git") == ".git"
    assert safe_component("..") == "file"
    assert safe_component("a/b") == "a_b"


def test_safe_filename_cut_at_a_dot_ends_before_it():
    assert safe_filename("x" * 254 + "." + "y" * 100) == "x" * 254
    assert safe_filename("." + "x" * 253 + "." + "y" * 100) == "_." + "x" * 253


def test_names_that_some_system_takes_for_the_same_collide():
    name = "Ångström ǅ ß"
    for other in (name.upper(), name.lower(), unicodedata.normalize("NFD", name)):
        assert collision_key(other) == collision_key(name)
    assert collision_key("a") != collision_key("b")
