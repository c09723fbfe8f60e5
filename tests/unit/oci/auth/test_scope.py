from __future__ import annotations

import pytest

from dockercomms.oci.auth.token import Scope


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        (Scope.pull("a/b"), "repository:a/b:pull"),
        (Scope.push("a/b"), "repository:a/b:pull,push"),
        (Scope.delete("a/b"), "repository:a/b:delete"),
        (Scope.catalog(), "registry:catalog:*"),
        (Scope.mount("b", "a"), "repository:a:pull repository:b:pull,push"),
        (Scope(), ""),
    ],
)
def test_scope_has_the_registries_notation(scope: Scope, text: str) -> None:
    assert str(scope) == text
    assert Scope.parse(text) == scope


def test_scope_union_is_normalised() -> None:
    union = Scope.pull("a") | Scope.push("a") | Scope.parse("repository:a:push repository:a:pull")
    assert union == Scope.push("a")
    assert hash(union) == hash(Scope.push("a"))
    assert union.resources() == ("repository:a:pull,push",)


def test_scope_parse_leaves_out_what_is_no_scope() -> None:
    text = "repository:host:5000/a:pull,,push junk a: :b::c repository(plugin):p:pull é:x:pull x:y:"
    assert Scope.parse(text).resources() == (
        "repository:host:5000/a:pull,push",
        "repository(plugin):p:pull",
    )


@pytest.mark.parametrize(
    ("scope", "other", "covered"),
    [
        (Scope.push("a"), Scope.pull("a"), True),
        (Scope.pull("a"), Scope.push("a"), False),
        (Scope.push("a"), Scope.pull("b"), False),
        (Scope.mount("a", "b"), Scope.pull("b"), True),
        (Scope.parse("repository:a:*"), Scope.delete("a"), True),
        (Scope.pull("a"), Scope(), True),
    ],
)
def test_scope_covers_what_it_includes(scope: Scope, other: Scope, covered: bool) -> None:
    assert scope.covers(other) is covered


def test_scope_names_the_repository_whose_login_is_used() -> None:
    assert Scope.mount("target", "source").repository == "target"
    assert Scope.catalog().repository == ""
    assert (Scope() | Scope.pull("a")).repository == "a"


@pytest.mark.parametrize("word", ["", "a b", "a\n", "ä"])
def test_scope_refuses_words_that_would_end_it(word: str) -> None:
    with pytest.raises(ValueError, match="not a scope"):
        Scope.pull(word)
