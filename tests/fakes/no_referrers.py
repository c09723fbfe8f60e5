"""The answers of registries without the referrers API.

GHCR redirects to a web page; others refuse, fail, or send another page. They must not stop a send.
"""

from __future__ import annotations

from dockercomms.oci.model import MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST
from dockercomms.oci.remote.listing import MAX_LIST_BYTES
from tests.fakes.registry_faults import Fault
from tests.fakes.registry_wire import Request

HTML = b"<!doctype html><html>log in</html>"
NO_INDEX = {
    "see-other": Fault.answer(303, Location="/login"),
    "no-location": Fault.answer(302),
    "not-modified": Fault.answer(304),
    "no-content": Fault.answer(204),
    "html": Fault.answer(200, HTML, Content_Type="text/html; charset=utf-8"),
    "html-as-index": Fault.answer(200, HTML, Content_Type=MEDIA_TYPE_INDEX),
    "empty": Fault.answer(200),
    "list": Fault.answer(200, b"[]", Content_Type=MEDIA_TYPE_INDEX),
    "null": Fault.answer(200, b"null", Content_Type=MEDIA_TYPE_INDEX),
    "object": Fault.answer(200, b'{"schemaVersion":2}', Content_Type=MEDIA_TYPE_INDEX),
    "manifest": Fault.answer(
        200, b'{"schemaVersion":2,"config":{},"layers":[]}', Content_Type=MEDIA_TYPE_MANIFEST
    ),
    "truncated": Fault.answer(200, b'{"schemaVersion":2,"manifests":[', Content_Type="x/y"),
    "too-large": Fault.answer(200, b" " * (MAX_LIST_BYTES + 1)),
    "404-html": Fault.answer(404, HTML),
    "404-empty": Fault.answer(404),
    "404-null": Fault.answer(404, b'{"errors":null}'),
    "404-none": Fault.answer(404, b'{"errors":[]}'),
    "404-code": Fault.answer(404, b'{"errors":[{"code":"UNSUPPORTED"}]}'),
    "404-strange": Fault.answer(404, b'{"errors":[{"code":["NAME_UNKNOWN"]}]}'),
    "too-many-code": Fault.answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', Retry_After="1"),
    "reset": Fault.drop_before(),
} | {
    str(status): Fault.answer(status)
    for status in (*range(400, 404), 405, 406, 410, 415, 418, 429, 451, *range(500, 506), 520)
}


def asks_for_referrers(request: Request) -> bool:
    """Return whether a request is one to the referrers API."""
    return "/referrers/" in request.path
