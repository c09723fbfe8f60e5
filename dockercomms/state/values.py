"""Values as the columns of the database hold them, and rows as dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar, overload

from dockercomms.oci.model import Descriptor
from dockercomms.platforms.clock import moment_of

Parameters = Sequence[object] | Mapping[str, object]
"""The values for `?` or `:name` in a statement, before `to_stored`."""
T = TypeVar("T")


def to_unix(moment: datetime | None) -> float | None:
    """Return `moment` as the database keeps it: seconds since 1970."""
    return None if moment is None else moment.timestamp()


@overload
def from_unix(seconds: float) -> datetime: ...


@overload
def from_unix(seconds: float | None) -> datetime | None: ...


def from_unix(seconds: float | None) -> datetime | None:
    """Return the moment that `to_unix` converted to `seconds`, in UTC.

    An earlier release may have stored a time outside the range of a datetime. It counts as the
    nearest one inside the range (SPEC.md 3.7).
    """
    return None if seconds is None else moment_of(seconds)


def to_stored(value: object) -> object:
    """Return a value as the database keeps it: see `_READERS` for the way back.

    Lone surrogates in a text are escaped: JSON can carry them, SQLite refuses them.
    """
    if isinstance(value, str):
        if value.isascii():  # nearly every text; encoding each one costs more than the statement
            return value
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, datetime):
        return to_unix(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Path):
        return os.fsencode(value)
    if isinstance(value, Descriptor):
        return json.dumps(value.to_json())
    return value


def all_stored(parameters: Parameters) -> Parameters:
    """Return the parameters of a statement, each value as `to_stored` gives it."""
    if isinstance(parameters, Mapping):
        return {name: to_stored(value) for name, value in parameters.items()}
    return [to_stored(value) for value in parameters]


_READERS: Mapping[str, Callable[[Any], object]] = {
    "bool": bool,
    "date": date.fromisoformat,
    "datetime": from_unix,
    "Descriptor": lambda text: Descriptor.from_json(json.loads(text), "state"),
    "Mapping[str, str]": json.loads,
    "Path": lambda raw: Path(os.fsdecode(raw)),
}
"""The reader of a column by the annotation of its field; others are read as they are stored."""


def from_row(into: Callable[..., T], row: sqlite3.Row) -> T:
    """Return a row as the dataclass `into`, whose fields have the names of columns."""
    names, readers = _columns(into)
    values = {name: row[name] for name in names}
    for name, read in readers:
        if values[name] is not None:
            values[name] = read(values[name])
    return into(**values)


@functools.cache
def _columns(into: Any) -> tuple[list[str], list[tuple[str, Callable[[Any], object]]]]:
    """Return the columns of a dataclass, and the readers of those that need one."""
    types = {field.name: field.type.removesuffix(" | None") for field in dataclasses.fields(into)}
    return list(types), [(name, _READERS[t]) for name, t in types.items() if t in _READERS]
