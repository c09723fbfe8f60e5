"""Fuzzers of parsers: strategies that change valid inputs.

A fuzzer is a strategy and a function; `fuzz` calls the function with the strategy's examples and
allows only a value or an error of ours.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockercomms.errors import DockerCommsError, InternalError
from tests.fakes.examples import examples

SECONDS = float(os.environ.get("DOCKERCOMMS_FUZZ_SECONDS", "0"))
"""The time of each fuzzer beyond its number of examples; scripts/acceptance sets it."""

DEEP = 3000
"""Nesting that parsers which recurse do not survive."""

TIMES = st.sampled_from(
    [
        "0001-01-01T00:04:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+23:59",
        "9998-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59.999999999Z",
        "2026-02-29T00:00:00Z",
        "2026-11-20T24:00:00Z",
        "10000-01-01T00:00:00Z",
        "2026-11-20T12:00:00+99:99",
    ]
)
WORDS = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\x1b[2J",
        "\u202e",
        "ü",
        "\ud800",
        "\udfff",
        "\ufeff",
        "A===",
        "=",
        "sha256:" + "a" * 64,
        "sha256:" + "A" * 64,
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "1e999",
        "-1",
        "٣",
        "²",
        "9" * 4400,
        "1.1",
        "1.99999999999999999999",
        "2.0",
        "dockercomms.version",
        "[" * 1000,
    ]
)
TEXTS = TIMES | WORDS | st.text(max_size=12)
NUMBERS = (
    st.sampled_from(
        [0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400, 1e308, 0.5, -0.0]
    )
    | st.integers()
    | st.floats()
)
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@dataclass(frozen=True, slots=True)
class Raw:
    """A piece of JSON that is written as it stands, whatever a JSON writer would make of it."""

    text: str


RAW = st.sampled_from(
    [
        Raw("[" * DEEP + "]" * DEEP),
        Raw('{"a":' * DEEP + "1" + "}" * DEEP),
        Raw("1e400"),
        Raw("-Infinity"),
        Raw("NaN"),
        Raw("1" + "0" * 4400),
        Raw('{"a":1,"a":2}'),
        Raw('"\\ud800"'),
        Raw('"\\udc00\\ud800"'),
        Raw('{"\\udfff":0}'),
        Raw('"\x01"'),
        Raw("01"),
        Raw(""),
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside `value`."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [found for key, item in items for found in ((*path, key), *places(item, (*path, key)))]


def written(value: Any) -> bytes:
    """Return `value` as JSON; lone surrogates as escapes, `Raw` pieces as they stand."""
    raws: list[str] = []

    def keep(item: object) -> str:
        raws.append(item.text if isinstance(item, Raw) else repr(item))
        return f"<raw {len(raws) - 1}>"

    text = json.dumps(value, default=keep)
    for number, raw in enumerate(raws):
        text = text.replace(f'"<raw {number}>"', raw)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def mangled(draw: st.DrawFn, value: Any) -> Any:
    """Draw `value` with one to three of its members changed, left out, doubled or added."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        known = places(value)
        if not known:
            return draw(JUNK)
        path = draw(st.sampled_from(known))
        parent = value
        for step in path[:-1]:
            parent = parent[step]
        match draw(st.sampled_from(["change", "raw", "text", "drop", "case", "add", "more"])):
            case "change":
                parent[path[-1]] = draw(JUNK)
            case "raw":
                parent[path[-1]] = draw(RAW)
                return value
            case "text":
                parent[path[-1]] = draw(TEXTS)
            case "drop":
                del parent[path[-1]]
            case "case" if isinstance(parent, dict):
                parent[str(path[-1]).upper()] = parent[path[-1]]
            case "add" if isinstance(parent, dict):
                parent[draw(TEXTS)] = draw(JUNK)
            case _ if isinstance(parent, list):
                parent.extend([parent[path[-1]]] * draw(st.integers(1, 40)))
    return value


@st.composite
def torn(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw `data` with some of its bytes changed, cut off, or others put in."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(out)))
        length = draw(st.sampled_from([0, 1, 2, 8, len(out)]))
        out[at : at + length] = draw(st.binary(max_size=4))
    return bytes(out)


def json_like(*values: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy of bytes that once were the JSON of one of `values`."""
    one = st.sampled_from(values)
    return (
        one.flatmap(mangled).map(written)
        | one.map(written).flatmap(torn)
        | JUNK.map(written)
        | RAW.map(written)
        | st.binary(max_size=60)
    )


def text_like(*texts: str) -> st.SearchStrategy[str]:
    """Return a strategy of texts that once were one of `texts`."""
    one = st.sampled_from(texts)
    return (
        one.map(str.encode).flatmap(torn).map(lambda data: data.decode("latin-1"))
        | st.tuples(one, TEXTS, one).map("".join)
        | TEXTS
        | st.text(max_size=40)
    )


def fuzz(inputs: st.SearchStrategy[Any], call: Callable[[Any], object], *, number: int) -> None:
    """Call `call` with many inputs; it must return a value, or raise one of our errors.

    An `InternalError` fails the test: it stands for an unexpected exception.
    """

    @settings(
        max_examples=examples(number),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def once(value: Any) -> None:
        try:
            call(value)
        except InternalError:
            raise
        except DockerCommsError:
            pass

    once()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        once()
