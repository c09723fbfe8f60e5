"""Type checks of the arguments of public methods and of the fields of options.

Without them `send(to=["a", "b"])` or `since=datetime.now()` fails deep below, or not at all. The
checks follow the annotations, so a new method or field needs no other code.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import wraps
from pathlib import Path
from reprlib import repr as short
from types import FunctionType
from typing import Any, TypeVar

from dockercomms.errors import UsageError

T = TypeVar("T")


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, types) and not (isinstance(value, bool) and bool not in types)
    )


def _has(*methods: str) -> Callable[[Any], bool]:
    return lambda value: all(callable(getattr(value, name, None)) for name in methods)


def _is_path(value: object) -> bool:
    path = value.__fspath__() if isinstance(value, os.PathLike) else value
    return isinstance(path, str) and path != ""


_HOOK = ("a function", callable)
_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "None": ("None", lambda value: value is None),
    "str": ("a string", _is(str)),
    "Digest": ("a digest", _is(str)),
    "bool": ("True or False", _is(bool)),
    "int": ("a whole number", _is(int)),
    "float": ("a number", lambda value: _is(int, float)(value) and math.isfinite(value)),
    "Path": ("a path", _is_path),
    "datetime": (
        "a time with its zone",
        lambda value: isinstance(value, datetime) and value.tzinfo is not None,
    ),
    "BinaryIO": (
        "a stream of bytes",
        lambda value: (
            not isinstance(value, io.TextIOBase) and (_has("read")(value) or _has("write")(value))
        ),
    ),
    "Clock": ("a clock", _has("now", "monotonic", "sleep", "random")),
    "Stop": ("an event", _has("is_set")),
    "Callable[[PollResult], None]": _HOOK,
    "NoticeHook": _HOOK,
    "Progress": _HOOK,
    "ProgressHook": _HOOK,
    "RetryHook": _HOOK,
    "Passphrase": _HOOK,
}
"""The name of each type for errors, and its check; any other annotation is the name of a class."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "Ack": ("always", "on-success", "never"),
    "ClockChoice": ("both", "own", "registry", "either"),
    "Compress": ("auto", "zstd", "gzip"),
    "Discovery": ("auto", "referrers", "tags"),
    "FormChoice": ("auto", "artifact", "image"),
    "Links": ("keep", "skip", "follow"),
    "ReceiptStatus": ("accepted", "rejected"),
    "ReferrersIndex": ("auto", "never", "always"),
}
_BOUNDS: Mapping[str, tuple[int, int]] = {
    "concurrency": (1, 64),
    "interval_seconds": (0, 10**9),
    "seconds": (0, 10**9),
}
"""The bounds of numbers that no other module checks."""

_SECRETS = frozenset({"password", "passphrase", "token"})
_UNION = re.compile(r" \| (?![^\[]*\])")


def argument(name: str, annotation: str, value: Any) -> Any:
    """Return the value of an argument: paths as `Path`, lists as tuples, a single item as a tuple.

    Raises:
        TypeError: the value does not fit the annotation; names the argument.
        UsageError: an unknown word, or a number out of bounds.
    """
    expected: list[str] = []
    annotation = annotation.replace("Path | str", "Path").replace(
        "tuple[str, ...]", "Sequence[str]"
    )
    several = "Sequence[" in annotation
    for kind in _UNION.split(annotation):
        if kind.startswith("Sequence["):
            inner = kind.removeprefix("Sequence[")[:-1]
            if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray):
                return tuple(argument(name, inner, one) for one in value)
            if kind == annotation:
                return (argument(name, inner, value),)
        elif kind in _CHOICES:
            if value in _CHOICES[kind]:
                return value
            if isinstance(value, str):
                words = ", ".join(_CHOICES[kind])
                raise UsageError(f"{name}: one of {words} expected, {short(value)} received")
            expected.append("a string")
        elif kind in _KINDS:
            words, fits = _KINDS[kind]
            if fits(value):
                _check_bounds(name, value)
                return Path(value) if kind == "Path" else value
            expected.append(words)
        elif any(one.__name__ == kind for one in type(value).__mro__):
            return value
        else:
            expected.append(kind)
    known = " or ".join(dict.fromkeys([*expected, *(["a list of such"] if several else [])]))
    shown = "a value" if name in _SECRETS else short(value)
    received = shown if value is None else f"{shown} ({type(value).__name__})"
    raise TypeError(f"{name}: {known} expected, {received} received")


def _check_bounds(name: str, value: Any) -> None:
    if name in _BOUNDS and value is not None:
        least, most = _BOUNDS[name]
        if not least <= value <= most:
            raise UsageError(f"{name}: {value} given; {least} to {most} expected")


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that checks its arguments against its annotations."""
    kinds = {
        name: kind
        for name, kind in getattr(method, "__wrapped__", method).__annotations__.items()
        if name != "return" and not kind.startswith("Unpack[")
    }

    @wraps(method)
    def call(self: object, /, *args: object, **kwargs: object) -> Any:
        given = [
            argument(name, kinds[name], value) for name, value in zip(kinds, args, strict=False)
        ]
        for name, value in kwargs.items():
            kwargs[name] = argument(name, kinds[name], value) if name in kinds else value
        return method(self, *given, *args[len(kinds) :], **kwargs)

    return call


def checks_arguments(part: type[T]) -> type[T]:
    """Check the arguments of all public methods of a class; a class decorator."""
    for name, method in list(vars(part).items()):
        if isinstance(method, FunctionType) and (name == "__init__" or not name.startswith("_")):
            setattr(part, name, _checked(method))
    return part


def check_fields(options: object) -> None:
    """Check the fields of a frozen dataclass, from its `__post_init__`; paths become `Path`.

    Raises:
        TypeError: a value does not fit its annotation; names the field.
    """
    for name, kind in type(options).__annotations__.items():
        object.__setattr__(options, name, argument(name, kind, getattr(options, name)))
