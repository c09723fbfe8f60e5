"""A `dataclass` decorator that makes frozen classes in a third of the time.

A program that starts for one message makes two hundred of these classes, and uses few. The standard
decorator compiles six functions for a frozen class; this one compiles only the constructor, and
shares the rest. The classes behave alike: `fields`, `replace`, `astuple`, pickling and errors
included. Figures: spec/decisions/016-dataclasses.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Never

__all__ = ["dataclass"]

_Fields = Sequence[dataclasses.Field[Any]]
_MISSING = dataclasses.MISSING


def _dataclass(
    cls: type | None = None,
    /,
    *,
    frozen: bool = False,
    repr: bool = True,  # noqa: A002 - as in the standard library
    eq: bool = True,
    **options: bool,
) -> Any:
    """Return a class as a dataclass; the standard decorator makes those that are not frozen."""

    def made(cls: type) -> type:
        if not frozen:
            return dataclasses.dataclass(repr=repr, eq=eq, **options)(cls)
        own = dict(vars(cls))
        bare = dataclasses.dataclass(init=False, repr=False, eq=False, **options)
        return _completed(bare(cls), own, repr="__repr__" not in own and repr, eq=eq)

    return made if cls is None else made(cls)


def _completed(cls: Any, own: Mapping[str, object], *, repr: bool, eq: bool) -> type:  # noqa: A002 - as above
    fields = dataclasses.fields(cls)
    cls.__init__ = _constructor(cls, fields)
    cls.__setattr__, cls.__delattr__ = _refuse_to_set, _refuse_to_delete
    cls.__getstate__, cls.__setstate__ = _values, _set_values
    if repr:
        cls.__repr__ = _repr
    if eq and "__eq__" not in own:
        cls.__eq__ = _equality(fields)
    if eq and own.get("__hash__") is None:
        cls.__hash__ = _hash(fields)
    made: type = cls
    return made


def _constructor(cls: type, fields: _Fields) -> object:
    """Return `__init__`, the only compiled function, because it is called the most."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": _MISSING}
    positional: list[str] = []
    keywords: list[str] = []
    body: list[str] = []
    for number, field in enumerate(fields):
        parameter = value = field.name
        if field.default is not _MISSING:
            known[f"_default{number}"] = field.default
            parameter = f"{field.name}=_default{number}"
            value = field.name if field.init else f"_default{number}"
        elif field.default_factory is not _MISSING:
            known[f"_made{number}"] = field.default_factory
            parameter = f"{field.name}=_MISSING"
            given = f" if {field.name} is _MISSING else {field.name}" if field.init else ""
            value = f"_made{number}(){given}"
        elif not field.init:
            continue  # `__post_init__` sets it
        if field.init:
            (keywords if field.kw_only else positional).append(parameter)
        body.append(f" _set(self, {field.name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    taken = ", ".join(["self", *positional, *(["*", *keywords] if keywords else [])])
    exec(f"def __init__({taken}):\n" + "\n".join(body or [" pass"]), known)  # noqa: S102 - names only
    made = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    made.__annotations__ = {field.name: field.type for field in fields if field.init}
    return made


def _compared(names: Sequence[str]) -> Callable[[object], object]:
    return attrgetter(*names) if names else _nothing


def _nothing(_: object) -> object:
    return ()


def _equality(fields: _Fields) -> object:
    values = _compared([field.name for field in fields if field.compare])

    def equal(self: object, other: object) -> bool:
        return (
            values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented
        )

    return equal


def _hash(fields: _Fields) -> object:
    hashed = (f.name for f in fields if (f.compare if f.hash is None else f.hash))
    values = _compared(list(hashed))

    def hash_of(self: object) -> int:
        return hash(values(self))

    return hash_of


@recursive_repr("...")
def _repr(self: Any) -> str:
    shown = (field.name for field in dataclasses.fields(self) if field.repr)
    inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
    return f"{self.__class__.__qualname__}({inside})"


def _refuse_to_set(_self: object, name: str, _: object) -> Never:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> Never:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _values(self: Any) -> list[object]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_values(self: Any, values: Sequence[object]) -> None:
    for field, value in zip(dataclasses.fields(self), values, strict=True):
        object.__setattr__(self, field.name, value)


if TYPE_CHECKING:
    from dataclasses import dataclass  # for type checkers
else:
    dataclass = _dataclass
