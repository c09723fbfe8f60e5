"""What a refusal means: the error for a response's status and body.

`errors` knows no responses, so that `error_from_response` stands here.

Source: OCI distribution-spec v1.1.1, "Error Codes".
"""

from __future__ import annotations

import json
from http import HTTPStatus
from urllib.parse import urlsplit

from dockercomms.errors import (
    OCI_ERROR_CLASSES,
    AuthError,
    BadAnswer,
    BlobUnknown,
    Denied,
    ManifestUnknown,
    NameUnknown,
    NetworkError,
    NotFoundError,
    RangeInvalid,
    RegistryError,
    TooManyRequests,
    Unauthorized,
    Unsupported,
    UploadUnknown,
)
from dockercomms.oci.exchange import SUCCESS, Response, read_up_to, redact_url, unpacked
from dockercomms.oci.headers import retry_after

MAX_ERROR_BODY_BYTES = 8192
"""How much of an error's body is read: what registries write fits many times."""

MAX_MESSAGE_CHARACTERS = 500
"""How much of a registry's own text goes into a message."""

_PART_UNKNOWN = (ManifestUnknown, BlobUnknown, UploadUnknown)
"""What is missing inside a repository that is there."""

_STATUS_CLASSES: dict[int, type[RegistryError]] = {
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.FORBIDDEN: Denied,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.METHOD_NOT_ALLOWED: Unsupported,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: RangeInvalid,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequests,
    HTTPStatus.NOT_IMPLEMENTED: Unsupported,
}
"""What a status means where no OCI code says it."""


def check_response(
    response: Response, *ok: int, not_found: type[NotFoundError] | None = None
) -> None:
    """Accept a response whose status is in `ok` (any 2xx if none is given).

    Args:
        response: The answer; closed if it is refused.
        ok: The statuses that are right.
        not_found: What a 404 means for this request.

    Raises:
        RegistryError: any other status; the class follows code and status.
    """
    if response.status in (ok or SUCCESS):
        return
    error = error_from_response(response, not_found=not_found)
    response.close()
    raise error


def error_from_response(
    response: Response, *, not_found: type[NotFoundError] | None = None
) -> RegistryError:
    """Return the error that `response` is; reads at most `MAX_ERROR_BODY_BYTES` of its body.

    The first code that we know decides the class; a JSON body is read whatever its content type
    says. Without a code the status decides, and `not_found` says what 404 means for this request.
    416 is always `RangeInvalid`, and a 404 never a question of credentials.
    """
    body = _body(response)
    too_large = len(body) > MAX_ERROR_BODY_BYTES
    body = body[:MAX_ERROR_BODY_BYTES]
    entries = () if too_large else _entries(body)
    code = next((entry[0] for entry in entries if entry[0] in OCI_ERROR_CLASSES), "")
    if not code and entries:
        code = entries[0][0]
    text = "; ".join(filter(None, (_entry_text(*entry) for entry in entries)))
    if not entries and not too_large:
        text = body.decode("utf-8", "replace")
    if response.status in _REDIRECTS and not entries:
        text = f"to {redact_url(response.headers.get('Location', ''))}"
    reason = _reason(response.status)
    url = redact_url(response.url)
    message = f"{response.method} {url}: {response.status} {reason}".rstrip()
    shown = "error body too large" if too_large else _printable(text)
    cls = _class_for(response, code, not_found)
    return cls(
        f"{message}: {shown}" if shown else message,
        code=code or cls.code,
        status=response.status,
        method=response.method,
        url=url,
        detail=next((entry[2] for entry in entries if entry[2]), ""),
        body=body,
        retry_after_seconds=retry_after(response),
        hint=_hint(OCI_ERROR_CLASSES.get(code, cls), response, url),
    )


def _body(response: Response) -> bytes:
    if response.method == "HEAD":
        return b""
    try:
        body = read_up_to(response, MAX_ERROR_BODY_BYTES + 1)
        return unpacked(response, body, MAX_ERROR_BODY_BYTES + 1)
    except (NetworkError, BadAnswer):
        # docker-registry 2.8 announces a body with some of its 416 that never comes (measured)
        return b""


def _class_for(
    response: Response, code: str, not_found: type[NotFoundError] | None
) -> type[RegistryError]:
    status = response.status
    if status == HTTPStatus.BAD_REQUEST and response.method == "HEAD":
        return Unsupported
    if status < HTTPStatus.BAD_REQUEST:
        return BadAnswer  # a login page, or the way to one
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return RangeInvalid
    cls = OCI_ERROR_CLASSES.get(code) or _STATUS_CLASSES.get(status, RegistryError)
    if status == HTTPStatus.NOT_FOUND and issubclass(cls, AuthError):
        cls = NotFoundError  # a registry that tells strangers nothing says that there is nothing
    # Registries name the wrong missing thing: ggcr says NAME_UNKNOWN for a missing tag's index,
    # others MANIFEST_UNKNOWN for a blob. The request says what was asked for, but for NAME_UNKNOWN.
    if not_found is not None and issubclass(cls, NotFoundError) and cls is not NameUnknown:
        return not_found
    return cls


def _entries(body: bytes) -> tuple[tuple[str, str, str], ...]:
    """Return code, message and detail of each OCI error in `body`, nothing if it is other text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    errors = value.get("errors") if isinstance(value, dict) else None
    if not isinstance(errors, list):
        return ()
    out = []
    for item in errors:
        if isinstance(item, dict):
            code, message = item.get("code"), item.get("message")
            detail = item.get("detail")
            out.append(
                (
                    code if isinstance(code, str) else "",
                    message if isinstance(message, str) else "",
                    "" if detail is None else json.dumps(detail)[:MAX_MESSAGE_CHARACTERS],
                )
            )
    return tuple(out)


def _entry_text(code: str, message: str, detail: str) -> str:
    """Return what one error says; its detail is often all that tells the cause (GitLab, Harbor)."""
    name = code.replace("_", " ").lower()
    if message.lower() == name:
        message = ""
    said = ": ".join(filter(None, (name, message)))
    more = "" if detail in _NO_DETAIL else detail.strip('"')
    return f"{said} ({more})" if said and more and more not in said else said or more


_NO_DETAIL = ("", '""', "{}", "[]")


def _printable(text: str) -> str:
    """Return a registry's text on one line, short, without control characters."""
    text = " ".join(text[: 2 * MAX_MESSAGE_CHARACTERS].split())
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_MESSAGE_CHARACTERS]


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return ""


_REDIRECTS = range(300, 400)
_IMMUTABLE = frozenset({409, 412})
_WRITES = frozenset({"POST", "PUT", "PATCH"})


def _hint(cls: type[RegistryError], response: Response, url: str) -> str | None:
    host, is_write = urlsplit(url).netloc, response.method in _WRITES
    if is_write and issubclass(cls, NotFoundError) and not issubclass(cls, _PART_UNKNOWN):
        return (
            f"some registries make no repository by themselves: create it at {host} first (ECR: "
            "aws ecr create-repository; Harbor: the project), and check its name in --repo"
        )
    if issubclass(cls, AuthError):
        login = f"log in with `docker login {host}`, or give --username and --password-stdin"
        if is_write:
            login += (
                "; the login needs the right to push, and some registries say this of a "
                "repository or project that has to be created first"
            )
        if response.method == "DELETE":
            login += (
                "; deleting needs a right of its own, and Docker Hub and Google refuse to delete "
                "what has tags: delete those first"
            )
        return login
    if response.status in _IMMUTABLE and response.method == "PUT":
        return "a rule at the registry keeps this tag where it is: take another, or change the rule"
    if cls is TooManyRequests:
        return "wait a while, or log in: many registries allow more to users they know"
    return None
