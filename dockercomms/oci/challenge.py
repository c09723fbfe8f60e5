"""What a registry asks for in a 401: the challenges of its `WWW-Authenticate` headers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dockercomms.records import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a name
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)")
_TOKEN68 = re.compile(r"\s+([A-Za-z0-9._~+/-]+=*)\s*(?=,|$)")
# more than the grammar allows: registries write unquoted addresses, and forget commas
_PARAMETER = re.compile(
    rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))(?=[\s,]|$)', re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a registry offers."""

    scheme: str
    """In lower case: `bearer`, `basic`, and what else there may be."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Names in lower case and values, in the order they came."""

    def get(self, name: str) -> str:
        """Return the first parameter called `name`, "" if there is none."""
        return next((value for key, value in self.parameters if key == name), "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges of all `WWW-Authenticate` headers, in their order.

    A header may hold several. What cannot be read ends its header; nothing is raised.

    Source: RFC 9110 section 11.6.1.
    """
    return tuple(challenge for header in headers for challenge in _parse_one(header))


def _parse_one(header: str) -> list[Challenge]:
    found: list[tuple[str, list[tuple[str, str]]]] = []
    position = 0
    while position < len(header):
        if found and (match := _PARAMETER.match(header, position)):
            name, quoted, plain = match.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1][1].append((name.lower(), value))
        elif match := _SCHEME.match(header, position):
            found.append((match[1].lower(), []))
            # a token68 (Negotiate) says nothing to us: it is stepped over
            match = _TOKEN68.match(header, match.end()) or match
        else:
            break
        position = match.end()
    return [Challenge(scheme, tuple(parameters)) for scheme, parameters in found]
