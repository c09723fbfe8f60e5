"""The header fields of a registry's responses, parsed.

Sources: OCI distribution-spec v1.1.1 ("Pushing a blob in chunks", "Listing Tags"); RFC 9110
sections 6.6.1, 10.2.2, 10.2.3 and 14.4; RFC 8288.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from dockercomms.errors import BadAnswer
from dockercomms.oci.exchange import Response, bad_answers, joined_url, redact_url
from dockercomms.oci.model import MEDIA_TYPE_OCTET_STREAM, Digest, parse_digest
from dockercomms.oci.retry import parse_date, parse_retry_after

_UPLOAD_RANGE = re.compile(r"(?:bytes=)?0-(-1|[0-9]{1,19})")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^;,\"]+(?:\"[^\"]*\")?)*)")
_REL_NEXT = re.compile(r";\s*rel\s*=\s*\"?next\"?\s*(?:;|$)", re.IGNORECASE)


def response_time(response: Response) -> datetime | None:
    """Return the response's `Date` in UTC, None where it has none that can be meant.

    Source: RFC 9110 section 6.6.1.
    """
    return parse_date(response.headers.get("Date", ""))


def retry_after(response: Response) -> float | None:
    """Return the seconds that the registry asks to wait, None if it does not.

    A date is compared with the response's own `Date`: either clock may be wrong.
    """
    text = response.headers.get("Retry-After")
    return parse_retry_after(text, response_time(response) or datetime.now(UTC))


def media_type(response: Response) -> str:
    """Return the content type without its parameters, octet-stream where there is none."""
    text = response.headers.get("Content-Type", "").partition(";")[0].strip()
    return text or MEDIA_TYPE_OCTET_STREAM


def is_page(response: Response) -> bool:
    """Return whether an answer calls itself HTML, as login pages and web servers do."""
    return media_type(response).lower().startswith("text/html")


def content_length(response: Response) -> int | None:
    """Return the body's length in bytes as announced, None where it is not.

    Raises:
        BadAnswer: the header is not a number.

    Source: RFC 9110 section 8.6.
    """
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,19}", text) is None:
        raise BadAnswer(f"{redact_url(response.url)}: Content-Length is {text!r:.100}")
    return int(text)


def content_range(response: Response) -> tuple[int, int, int]:
    """Return first byte, end (exclusive) and whole size of a 206 answer.

    Behind a blob's end some write a part that ends before it begins, which is none.

    Raises:
        BadAnswer: no `Content-Range`, or not of the form `bytes 5-6/20`.

    Source: RFC 9110 section 14.4.
    """
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadAnswer(f"{redact_url(response.url)}: Content-Range is {text!r:.100}")
    first, last, whole = (int(group) for group in match.groups())
    if last >= whole:
        raise BadAnswer(f"{redact_url(response.url)}: Content-Range is {text!r:.100}")
    return first, last + 1, whole


def content_digest(response: Response) -> Digest | None:
    """Return the `Docker-Content-Digest` header, None where there is none.

    Raises:
        BadAnswer: it is not a digest.

    Source: distribution-spec v1.1.1, "Pulling manifests".
    """
    text = response.headers.get("Docker-Content-Digest", "").strip()
    if not text:
        return None
    with bad_answers(f"{response.method} {redact_url(response.url)}: Docker-Content-Digest"):
        return parse_digest(text)


def location(response: Response) -> str:
    """Return the absolute address in `Location`, which may be relative to the one that answered.

    Raises:
        BadAnswer: there is none, or it is no address.

    Source: RFC 9110 section 10.2.2.
    """
    text = response.headers.get("Location", "").strip()
    if not text:
        raise BadAnswer(f"{response.method} {redact_url(response.url)}: no Location in answer")
    return joined_url(response.url, text)


def upload_offset(text: str) -> int:
    """Return how many bytes an upload session holds, from its `Range` header.

    `0-0` is 0 bytes here, though distribution and zot write it for 1 byte too (measured), and
    olareg writes `0--1` for 0. A leading `bytes=` is allowed.

    Raises:
        BadAnswer: anything else.

    Source: distribution-spec v1.1.1, "Pushing a blob in chunks".
    """
    match = _UPLOAD_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadAnswer(f"upload session: Range is {text!r:.100}; expected 0-N")
    last = int(match[1])
    return last + 1 if last > 0 else 0


def next_link(response: Response) -> str | None:
    """Return the absolute address of the next page, None where there is none.

    A link of another relation is not followed; one without a relation is.

    Raises:
        BadAnswer: the header is malformed, or holds no address.

    Source: RFC 8288 section 3; distribution-spec v1.1.1, "Listing Tags".
    """
    text = response.headers.get("Link", "").strip()
    if not text:
        return None
    found = False
    for match in _LINK.finditer(text):
        found = True
        if "rel" not in match[2].lower() or _REL_NEXT.search(match[2]):
            return joined_url(response.url, str(match[1]))
    if not found:
        raise BadAnswer(f"{redact_url(response.url)}: Link is {text!r:.200}")
    return None
