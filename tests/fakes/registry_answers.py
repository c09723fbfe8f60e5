"""Answers that several parts of a fake registry give."""

from __future__ import annotations

import json
import re

from tests.fakes.registry_quirks import Quirks
from tests.fakes.registry_wire import Answer, Request


class RefusedError(Exception):
    """Ends the work on a request with an answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}")
        self.answer = answer


def error(
    status: int, code: str, message: str = "", *, detail: object = None, **headers: str
) -> Answer:
    """Return an error answer in the specification's form."""
    entry: dict[str, object] = {"code": code, "message": message or code.lower()}
    if detail is not None:
        entry["detail"] = detail
    body = json.dumps({"errors": [entry]})
    return Answer(status, {"Content-Type": "application/json", **headers}, body.encode())


def not_found() -> Answer:
    """Return the answer of a router for an unknown path."""
    return Answer(404, {"Content-Type": "text/plain; charset=utf-8"}, b"404 page not found\n")


def json_answer(value: object, **headers: str) -> Answer:
    """Return 200 with `value` as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Answer(200, {"Content-Type": "application/json", **headers}, body)


def blob_answer(request: Request, quirks: Quirks, digest: str, data: bytes) -> Answer:
    """Return a blob, or the part that `Range` asks for."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "Accept-Ranges": "bytes",
    }
    if quirks.manifest_etag:
        headers["ETag"] = f'"{digest}"'
    chunked = quirks.chunked_answers and request.method == "GET"
    asked = request.headers.get("range", "")
    if not asked or quirks.range_get == "ignored":
        return Answer(200, headers, data, chunked=chunked)
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    size = len(data)
    if match is None:
        return _out_of_range(size)
    start = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if quirks.range_get == "closed-only" and (not match[2] or last >= size):
        return error(416, "BLOB_UNKNOWN")
    if start >= size and quirks.range_behind == "lie":
        return Answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": str(size)})
    if (start >= size and quirks.range_behind == "refuse") or last < start - 1:
        return _out_of_range(size)
    last = min(last, size - 1)
    if quirks.range_get != "no-content-range":
        headers["Content-Range"] = f"bytes {start}-{last}/{size}"
    return Answer(206, headers, data[start : last + 1], chunked=chunked)


def _out_of_range(size: int) -> Answer:
    return error(416, "RANGE_INVALID", **{"Content-Range": f"bytes */{size}"})
