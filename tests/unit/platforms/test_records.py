"""Our dataclasses behave as those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import sys
from dataclasses import KW_ONLY, FrozenInstanceError, dataclass, field
from functools import partial

import pytest

from dockercomms.platforms import records

CALLS: list[str] = []


def build(make, **options):
    """Return classes of every kind, made by `make`."""

    @make(frozen=True, slots=True, **options)
    class Plain:
        a: int
        b: str = "b"
        c: list[int] = field(default_factory=list)

    @make(frozen=True, slots=True, **options)
    class Particular:
        """With fields of every kind."""

        a: int
        _: KW_ONLY
        secret: str = field(default="x", repr=False)
        source: str = field(default="", compare=False)
        seen: dict[str, int] = field(default_factory=dict, hash=False)
        double: int = field(init=False)
        count: int = field(default=7, init=False)
        made: list[int] = field(default_factory=list, init=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", self.a * 2)

    @make(frozen=True, slots=True, **options)
    class Empty:
        pass

    @make(frozen=True, slots=True, **options)
    class Own:  # noqa: PLW1641 - that is the case
        a: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

    @make(frozen=True, slots=True, **options)
    class Hashed:
        a: int

        def __hash__(self) -> int:
            return 42

    @make(frozen=True, slots=True, **options)
    class Child(Plain):
        d: int = 1

    return Plain, Particular, Empty, Own, Hashed, Child


KINDS = [{}, {"kw_only": True}, {"repr": False}, {"eq": False}]
PAIRS = [
    pytest.param(ours, theirs, id=f"{ours.__name__}-{number}")
    for number, options in enumerate(KINDS)
    for ours, theirs in zip(
        build(records.dataclass, **options), build(dataclass, **options), strict=True
    )
]
ARGUMENTS = [{}, {"a": 1}, {"a": 2, "b": "x"}, {"a": 1, "secret": "s"}, {"a": 1, "source": "f"}]


def outcome(act):
    """Return what came of it, and what was raised as text."""
    try:
        return act()
    except Exception as error:
        return type(error), str(error).replace("<lambda>", "")


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_records_are_those_of_the_standard_library(ours, theirs):
    made = []
    for arguments in ARGUMENTS:
        one, two = outcome(partial(ours, **arguments)), outcome(partial(theirs, **arguments))
        if isinstance(two, tuple):
            assert one == two
            continue
        plain = theirs.__repr__ is not object.__repr__
        assert repr(one) == repr(two) or not plain
        assert dataclasses.asdict(one) == dataclasses.asdict(two)
        made.append((one, two))
    for one, two in made:
        assert isinstance(outcome(lambda one=one: hash(one)), int) is isinstance(
            outcome(lambda two=two: hash(two)), int
        )
        for other, another in made:
            assert (one == other) is (two == another)
            if one == other and isinstance(outcome(lambda one=one: hash(one)), int):
                assert hash(one) == hash(other)
        assert one != two
        assert one.__eq__(two) in (NotImplemented, False)
        assert dataclasses.asdict(copy.deepcopy(one)) == dataclasses.asdict(one)
        for act in (
            lambda x: dataclasses.asdict(dataclasses.replace(x, a=5)),
            lambda x: dataclasses.replace(x, nothing=5),
        ):
            said, expected = (
                outcome(lambda act=act, one=one: act(one)),
                outcome(lambda act=act, two=two: act(two)),
            )
            assert said == expected
        for name in ("a", "other"):  # for what is no field a TypeError there, python/cpython#90562
            with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
                setattr(one, name, 3)
            with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
                delattr(one, name)
        assert not hasattr(one, "__dict__")


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_records_take_the_same_arguments(ours, theirs):
    def parameters(kind):
        found = inspect.signature(kind).parameters.values()
        return [(item.name, item.kind, item.default is item.empty) for item in found]

    assert parameters(ours) == parameters(theirs)
    assert ours.__match_args__ == theirs.__match_args__
    assert ours.__init__.__qualname__ == theirs.__init__.__qualname__


@records.dataclass(frozen=True, slots=True)
class Node:
    """Of this module, so that it can be pickled."""

    name: str
    inside: list[object] = field(default_factory=list, compare=False)


def test_records_survive_pickling_and_know_themselves():
    node = Node("a", [1])
    assert pickle.loads(pickle.dumps(node)) == node  # noqa: S301 - our own
    node.inside.append(node)
    assert repr(node) == "Node(name='a', inside=[1, ...])"
    with pytest.raises(FrozenInstanceError):
        node.name = "b"


def test_records_that_are_not_frozen_are_those_of_the_standard_library():
    @records.dataclass(slots=True)
    class Count:
        number: int = 0

    count = Count()
    count.number += 1
    assert count == Count(1)
    assert sys.getsizeof(count) < 64
