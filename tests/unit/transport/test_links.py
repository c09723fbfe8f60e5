"""Targets of symbolic links."""

from __future__ import annotations

import pytest

from dockercomms.transport.names import MAX_LINK_STEPS, resolve_link

LINKS = {"t/up": "..", "t/sub": "real/deep", "t/loop": "loop", "t/abs": "/etc", "a": "t"}


@pytest.mark.parametrize(
    ("path", "target", "leads_to"),
    [
        ("t/l", "f", "t/f"),
        ("t/l", "./a//b/.", "t/a/b"),
        ("t/l", "..", ""),
        ("t/l", "../t/f", "t/f"),
        ("t/l", "../..", None),
        ("t/l", "a/../../..", None),
        ("l", "..", None),
        ("t/l", "/t/f", None),
        ("t/l", "", None),
        ("t/l", "up/t/f", "t/f"),
        ("t/l", "up/..", None),
        ("t/l", "sub/x", "t/real/deep/x"),
        ("t/l", "sub/../../x", "t/x"),
        ("t/l", "loop", None),
        ("t/l", "abs/x", None),
        ("t/l", "../a/sub", "t/real/deep"),
    ],
)
def test_link_leads_where_the_kernel_would_go(path, target, leads_to):
    assert resolve_link(path, target, LINKS) == leads_to


@pytest.mark.parametrize(
    ("length", "arrives"), [(MAX_LINK_STEPS, True), (MAX_LINK_STEPS + 1, False)]
)
def test_link_follows_as_many_as_linux(length, arrives):
    links = {str(number): str(number + 1) for number in range(length)}
    assert (resolve_link("x", "0", links) == str(length)) is arrives
