"""The probe's questions about uploads and blobs."""

from __future__ import annotations

import http.client
import socket
import uuid
from urllib.parse import urlsplit

from tests.fakes.probe_client import CHUNK, Probe, Result, Rows, digest_of

row = Rows()


# Uploads.


@row("monolithic POST ?digest=")
def _monolithic(probe: Probe) -> Result:
    data = b"monolithic"
    answer = probe.ask(
        "POST",
        f"/v2/{probe.repository()}/blobs/uploads/?digest={digest_of(data)}",
        data,
        {"Content-Type": "application/octet-stream"},
    )
    if answer.status != 202:
        return answer.status
    return [answer.status, probe.finish(answer, digest_of(data), data).status]


@row("PATCH with Content-Range")
def _patch(probe: Probe) -> Result:
    opened = probe.open(probe.repository())
    return probe.patch(probe.at(opened), CHUNK, 0).status


@row("OCI-Chunk-Min-Length")
def _min_chunk(probe: Probe) -> Result:
    return probe.open(probe.repository()).headers.get("oci-chunk-min-length")


@row("PATCH with a gap")
def _gap(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    gap = probe.patch(probe.at(answer), CHUNK, 2 * len(CHUNK))
    return gap.status if gap.status == 202 else f"{gap.status} {gap.range()}"


@row("the same PATCH sent twice")
def _twice(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    again = probe.patch(probe.at(answer), CHUNK, 0)
    if again.status != 202:
        return f"{again.status} {again.range()}"
    return f"202, {again.headers.get('range')}"


@row("GET of the session")
def _status(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    status = probe.ask("GET", probe.at(answer))
    return f"{status.status} {status.headers['range']}" if status.status == 204 else status.status


@row("second PATCH on the first Location")
def _first_location(probe: Probe) -> Result:
    first = probe.at(probe.open(probe.repository()))
    probe.patch(first, CHUNK, 0)
    return probe.patch(first, CHUNK, len(CHUNK)).status


@row("GET of the first Location, then PATCH on what it names")
def _status_of_first(probe: Probe) -> Result:
    first = probe.at(probe.open(probe.repository()))
    probe.patch(first, CHUNK, 0)
    status = probe.ask("GET", first)
    if status.status != 204:
        return status.status
    return [status.status, probe.patch(probe.at(status), CHUNK, len(CHUNK)).status]


@row("session after the first Location was used twice")
def _after_first_location(probe: Probe) -> Result:
    first = probe.at(probe.open(probe.repository()))
    newest = probe.patch(first, CHUNK, 0)
    refused = probe.patch(first, CHUNK, len(CHUNK))
    if refused.status == 202:
        return "taken"
    return probe.patch(probe.at(newest), CHUNK, len(CHUNK)).status


@row("last chunk in the PUT")
def _last_chunk(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    span = f"{len(CHUNK)}-{len(CHUNK) + 3}"
    return probe.finish(answer, digest_of(CHUNK + b"last"), b"last", span).status


@row("DELETE of the session")
def _cancel(probe: Probe) -> Result:
    return probe.ask("DELETE", probe.at(probe.open(probe.repository()))).status


@row("closing PUT, no body, no Content-Range")
def _close_plain(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    return probe.finish(answer, digest_of(CHUNK)).status


@row("closing PUT, no body, Content-Range n-(n-1)")
def _close_range(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    return probe.finish(answer, digest_of(CHUNK), span=f"{len(CHUNK)}-{len(CHUNK) - 1}").status


@row("empty blob, PUT without Content-Range")
def _empty_blob(probe: Probe) -> Result:
    return probe.finish(probe.open(probe.repository()), digest_of(b"")).status


@row("closing PUT with a wrong digest, then with the right one")
def _wrong_digest(probe: Probe) -> Result:
    data = CHUNK + uuid.uuid4().bytes
    answer = probe.patch(probe.at(probe.open(probe.repository())), data, 0)
    wrong = probe.finish(answer, digest_of(b"other"))
    return [wrong.status, wrong.code, probe.finish(answer, digest_of(data)).status]


@row("Range after 0 bytes")
def _range_zero(probe: Probe) -> Result:
    status = probe.ask("GET", probe.at(probe.open(probe.repository())))
    return status.headers.get("range") if status.status == 204 else status.status


@row("Range after 1 byte")
def _range_one(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), b"x", 0)
    if answer.status != 202:
        return f"PATCH {answer.status}"
    status = probe.ask("GET", probe.at(answer))
    return status.headers.get("range") if status.status == 204 else status.status


@row("PATCH at a wrong offset, then at the right one")
def _wrong_offset(probe: Probe) -> Result:
    answer = probe.patch(probe.at(probe.open(probe.repository())), CHUNK, 0)
    wrong = probe.patch(probe.at(answer), CHUNK, 3)
    if wrong.status == 202:
        return [wrong.status, None]
    return [wrong.status, probe.patch(probe.at(answer), CHUNK, len(CHUNK)).status]


@row("PATCH without Content-Range, twice")
def _streamed(probe: Probe) -> Result:
    kind = {"Content-Type": "application/octet-stream"}
    first = probe.ask("PATCH", probe.at(probe.open(probe.repository())), CHUNK, kind)
    return [first.status, probe.ask("PATCH", probe.at(first), CHUNK, kind).status]


@row("session after a PATCH that broke off")
def _broken_patch(probe: Probe) -> Result:
    location = probe.at(probe.open(probe.repository()))
    span = f"Content-Range: 0-{2 * len(CHUNK) - 1}\r\n"
    _break_off(probe, f"PATCH {location}", span)
    return _session(probe, location)


@row("session after a PUT that broke off")
def _broken_put(probe: Probe) -> Result:
    opened = probe.open(probe.repository())
    _break_off(probe, f"PUT {probe.at(opened, f'digest={digest_of(2 * CHUNK)}')}", "")
    return _session(probe, probe.at(opened))


def _break_off(probe: Probe, request: str, header: str) -> None:
    """Send half of the body that is announced."""
    head = f"{request} HTTP/1.1\r\nHost: {probe.host}\r\n{header}"
    head += f"Content-Type: application/octet-stream\r\nContent-Length: {2 * len(CHUNK)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in probe.headers.items()) + "\r\n"
    address = urlsplit(f"//{probe.host}")
    with socket.create_connection((str(address.hostname), address.port or 80)) as sock:
        sock.sendall(head.encode() + CHUNK)
        sock.shutdown(socket.SHUT_WR)
        # The server has seen the end when it closes, or answers, its side.
        while sock.recv(65536):
            pass


def _session(probe: Probe, location: str) -> Result:
    status = probe.ask("GET", location)
    return f"204 {status.headers['range']}" if status.status == 204 else status.status


@row("mount with from / without / of a missing blob")
def _mount(probe: Probe) -> Result:
    source, target = probe.repository(), probe.repository()
    digest = probe.blob(source, uuid.uuid4().bytes)
    missing = digest_of(uuid.uuid4().bytes)
    return [
        probe.open(target, f"?mount={digest}&from={source}").status,
        probe.open(probe.repository(), f"?mount={digest}").status,
        probe.open(target, f"?mount={missing}&from={source}").status,
    ]


@row("mount refused, then PUT through the session it opened")
def _mount_refused(probe: Probe) -> Result:
    repo, data = probe.repository(), uuid.uuid4().bytes
    answer = probe.open(repo, f"?mount={digest_of(data)}&from={probe.repository()}")
    if answer.status != 202:
        return [answer.status, answer.code]
    return [answer.status, probe.finish(answer, digest_of(data), data).status]


# Blobs.


@row("Range GET a-b / a-")
def _range_get(probe: Probe) -> Result:
    repo = probe.repository()
    target = f"/v2/{repo}/blobs/{probe.blob(repo, b'0123456789')}"
    closed = probe.ask("GET", target, headers={"Range": "bytes=2-4"})
    opened = probe.ask("GET", target, headers={"Range": "bytes=7-"})
    bodies = (closed.body, opened.body)
    right = bodies == (b"234", b"789" if opened.status == 206 else opened.body)
    return [closed.status, opened.status, right]


@row("Range GET that begins behind the end")
def _range_behind(probe: Probe) -> Result:
    repo = probe.repository()
    target = f"/v2/{repo}/blobs/{probe.blob(repo, b'0123456789')}"
    try:
        return probe.ask("GET", target, headers={"Range": "bytes=10-12"}).status
    except http.client.IncompleteRead:
        return "an answer that is shorter than it says"


@row("Range GET that ends behind the end")
def _range_across(probe: Probe) -> Result:
    repo = probe.repository()
    target = f"/v2/{repo}/blobs/{probe.blob(repo, b'0123456789')}"
    answer = probe.ask("GET", target, headers={"Range": "bytes=5-20"})
    return [answer.status, answer.headers.get("content-range")]


@row("DELETE of a blob")
def _delete_blob(probe: Probe) -> Result:
    repo = probe.repository()
    digest = probe.blob(repo, uuid.uuid4().bytes)
    return probe.ask("DELETE", f"/v2/{repo}/blobs/{digest}").status


@row("HEAD of a blob of another repository")
def _foreign_blob(probe: Probe) -> Result:
    digest = probe.blob(probe.repository(), uuid.uuid4().bytes)
    other = probe.repository()
    probe.blob(other, b"{}")
    return probe.ask("HEAD", f"/v2/{other}/blobs/{digest}").status


ROWS = row.by_name
