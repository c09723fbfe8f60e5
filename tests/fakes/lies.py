"""Answers that no honest registry gives, such as those of a proxy or an attacker.

Each lie takes the correct answer, after the registry has done the work, and sends another one
instead. `LIES` has them by name; the part before the colon is their kind.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from tests.fakes.registry_faults import OTHER_DIGEST, Tell
from tests.fakes.registry_wire import Answer, Connection, Request
from tests.fakes.scripted import Raw, Reply, ScriptedServer, Seen, Step

PAGE = b"<!doctype html><title>Sign in</title>\x1b[31m<form><input name=password></form>"
"""The page of a captive portal, with a control character that must not reach a terminal."""
FLOOD_BYTES = 64 * 2**20
"""More than any client should take of an answer to a small question."""
FLOOD_PIECE = bytes(2**16)
CHUNKED = {"Transfer-Encoding": "chunked"}
JSON = {"Content-Type": "application/json"}
DESCRIPTOR = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": OTHER_DIGEST,
    "size": 7,
    "artifactType": "application/vnd.dockercomms.message.v1",
}


def say(
    connection: Connection,
    request: Request,
    status: int | str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    version: str = "HTTP/1.1",
    length: bool = True,
    keep: bool = True,
) -> bool:
    """Send an answer as it is given; `length` adds the true Content-Length."""
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    if length:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{version} {status} Said", *(f"{name}: {value}" for name, value in fields)]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    connection.send(head + (b"" if request.method == "HEAD" else body))
    return keep


def kept(answer: Answer, *but: str) -> dict[str, str]:
    """Return the right headers but for these, and without those of the framing."""
    without = {name.lower() for name in (*but, "Content-Length", "Transfer-Encoding")}
    return {name: value for name, value in answer.headers.items() if name.lower() not in without}


# --- statuses ------------------------------------------------------------------------------------


def status(number: int | str, headers: Mapping[str, str] | None = None, body: bytes = PAGE) -> Tell:
    """Answer with this status, and an empty body."""

    def tell(connection: Connection, request: Request, _: Answer) -> bool:
        shown = b"" if number in (204, 205, 304) else body
        return say(connection, request, number, headers or {"Content-Type": "text/html"}, shown)

    return tell


def restated(number: int) -> Tell:
    """Say this status over the right headers and body."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        return say(connection, request, number, kept(answer), answer.body, keep=False)

    return tell


# --- headers and bodies --------------------------------------------------------------------------


def header(name: str, *values: str) -> Tell:
    """Answer correctly except for the values of one header; an empty tuple removes it."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        fields = [*kept(answer, name).items(), *((name, value) for value in values)]
        own = name.lower() == "content-length"
        return say(
            connection, request, answer.status, fields, answer.body, length=not own, keep=False
        )

    return tell


def body(change: Callable[[bytes], bytes], headers: Mapping[str, str] | None = None) -> Tell:
    """Say another body under the right headers, with its true length."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        fields = {**kept(answer, *(headers or ())), **(headers or {})}
        return say(connection, request, answer.status, fields, change(answer.body), keep=False)

    return tell


def other(text: bytes, headers: Mapping[str, str] | None = None) -> Tell:
    """Say 200 and this body, with no header but these."""

    def tell(connection: Connection, request: Request, _: Answer) -> bool:
        return say(connection, request, 200, JSON if headers is None else headers, text)

    return tell


def framed(te: str, wire: Callable[[bytes], bytes], *, length: bool = False) -> Tell:
    """Say the right body in a frame of its own."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        fields = [*kept(answer).items(), ("Transfer-Encoding", te)]
        if length:
            fields.append(("Content-Length", "3"))
        data = wire(answer.body)
        return say(connection, request, answer.status, fields, data, length=False, keep=False)

    return tell


def chunks(data: bytes, *, extension: bytes = b"", end: bytes = b"0\r\n\r\n") -> bytes:
    """Return `data` as one chunk."""
    piece = b"%x%s\r\n%s\r\n" % (len(data), extension, data) if data else b""
    return piece + end


def raw(data: bytes, *, reset: bool = False) -> Tell:
    """Say these bytes and end the connection."""

    def tell(connection: Connection, request: Request, _: Answer) -> bool:
        connection.send(data)
        if reset:
            connection.reset()
        return False

    return tell


def cut(part: Callable[[bytes], bytes], *, reset: bool = False, stall: bool = False) -> Tell:
    """Say a part of the right answer's bytes; then end, break or keep the connection."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        whole = answer.head() + (b"" if request.method == "HEAD" else answer.body)
        connection.send(part(whole))
        if reset:
            connection.reset()
        if stall:
            connection.wait_closed()
        return False

    return tell


# --- redirects -----------------------------------------------------------------------------------


def redirect(target: str | None, number: int = 307) -> Tell:
    """Redirect to `target`; `{self}` is the requested address, `None` leaves Location out."""

    def tell(connection: Connection, request: Request, _: Answer) -> bool:
        here = f"http://{request.headers.get('host', '')}{request.target}"
        fields = {} if target is None else {"Location": target.replace("{self}", here)}
        return say(connection, request, number, fields)

    return tell


# --- floods --------------------------------------------------------------------------------------


def flood(start: bytes, piece: bytes, total: int = FLOOD_BYTES) -> Tell:
    """Say `start`, then the same piece again and again, until the client has gone."""

    def tell(connection: Connection, request: Request, _: Answer) -> bool:
        connection.send(start)
        with contextlib.suppress(OSError):
            for _sent in range(0, total, len(piece)):
                connection.socket.sendall(piece)
        return False

    return tell


def drip(connection: Connection, request: Request, answer: Answer) -> bool:
    """Say the right answer byte by byte."""
    whole = answer.head(close=True) + (b"" if request.method == "HEAD" else answer.body)
    for at in range(min(len(whole), 4000)):
        connection.send(whole[at : at + 1])
    connection.send(whole[4000:])
    return False


def informed(count: int, number: int = 103) -> Tell:
    """Say so many informational answers before the right one."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        connection.send(b"HTTP/1.1 %d Wait\r\n\r\n" % number * count)
        return say(connection, request, answer.status, kept(answer), answer.body, keep=False)

    return tell


def version(text: str) -> Tell:
    """Say the right answer in another version of HTTP."""

    def tell(connection: Connection, request: Request, answer: Answer) -> bool:
        return say(
            connection,
            request,
            answer.status,
            kept(answer),
            answer.body,
            version=text,
            keep=False,
        )

    return tell


def below_tls(connection: Connection, request: Request, _: Answer) -> bool:
    """Write into the connection without its encryption."""
    with contextlib.suppress(OSError):
        socket.socket.sendall(connection.socket, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    return False


# --- token servers -------------------------------------------------------------------------------

TOKENS: dict[str, Step] = {
    "html": Reply(200, PAGE, {"Content-Type": "text/html"}),
    "empty": Reply(200),
    "null": Reply(200, b"null"),
    "list": Reply(200, b"[]"),
    "no-token": Reply(200, b"{}"),
    "number": Reply(200, b'{"token": 7}'),
    "control": Reply(200, b'{"token": "a\\r\\nX: y"}'),
    "nan": Reply(200, b'{"token": "abc", "expires_in": NaN}'),
    "never": Reply(200, b'{"token": "abc", "expires_in": -1e999}'),
    "deep": Reply(200, b"[" * 100_000),
    "huge": Reply(200, b'{"token": "' + b"x" * 2**21 + b'"}'),
    "unauthorized": Reply(401, PAGE),
    "forbidden": Reply(403, PAGE),
    "missing": Reply(404, PAGE),
    "broken": Reply(500, PAGE),
    "redirect": Reply(302, b"", {"Location": "http://127.0.0.1:9/"}),
    "good": Reply(200, b'{"token": "abc"}'),
    "cut": Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"),
}
"""The answers of a token server, by the path that the realm names."""


def token_server() -> ScriptedServer:
    """Return a server that answers as `TOKENS` has it, by the last part of the path."""

    def answer(seen: Seen) -> Step:
        return TOKENS[seen.target.partition("?")[0].rpartition("/")[2]]

    return ScriptedServer(rest=answer)


def challenge(text: str) -> Tell:
    """Say 401 with this challenge; `{tokens}` is where the token server is."""

    def tell(connection: Connection, request: Request, _: Answer) -> bool:
        shown = text.replace("{tokens}", TOKEN_HOSTS[-1] if TOKEN_HOSTS else "127.0.0.1:9")
        return say(connection, request, 401, {"WWW-Authenticate": shown})

    return tell


TOKEN_HOSTS: list[str] = []
"""The host of the token server that runs, the newest last."""


# --- all of them ---------------------------------------------------------------------------------

STATUSES = (
    200, 201, 202, 203, 204, 205, 206, 226, 300, 301, 303, 304, 400, 401, 402, 403, 404, 405, 406,
    408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 425, 426, 428, 429, 431, 451, 499,
    500, 501, 502, 503, 504, 505, 507, 511, 520, 522, 599, 600, 999, "000", "-1", "abc", "20",
)  # fmt: skip
ADDRESSES = {
    "nothing": None,
    "empty": "",
    "itself": "{self}",
    "file": "file:///etc/passwd",
    "script": "javascript:alert(1)",
    "data": "data:,x",
    "broken": "http://[::1/x",
    "port": "http://127.0.0.1:99999/x",
    "closed": "http://127.0.0.1:9/login",
    "user": "http://me:hunter2@127.0.0.1:9/x",
    "slashes": "//",
    "relative": "../../../login",
    "control": "http://127.0.0.1:9/\x01\x7f",
    "tls": "https://127.0.0.1:9/x",
    "long": "http://127.0.0.1:9/" + "x" * 60_000,
}
LENGTHS = {
    "missing": (),
    "letters": ("12abc",),
    "negative": ("-1",),
    "twice": ("3", "4"),
    "list": ("3, 4",),
    "plus": ("+5",),
    "float": ("1e3",),
    "hex": ("0x10",),
    "empty": ("",),
    "zero": ("0",),
    "one": ("1",),
    "endless": ("9" * 19,),
    "more": ("9" * 400,),
    "arabic": ("\xb2",),
}
DIGESTS = {
    "none": ("none",),
    "other": (OTHER_DIGEST,),
    "empty": ("",),
    "missing": (),
    "short": ("sha256:abc",),
    "upper": (OTHER_DIGEST.upper(),),
    "md5": ("md5:" + "0" * 32,),
    "sha512": ("sha512:" + "0" * 128,),
    "twice": (OTHER_DIGEST, OTHER_DIGEST),
}
DATES = {
    "missing": (),
    "garbage": ("yesterday",),
    "1970": ("Thu, 01 Jan 1970 00:00:00 GMT",),
    "9999": ("Fri, 31 Dec 9999 23:59:59 GMT",),
    "beyond": ("Fri, 31 Dec 9999 23:59:59 -2359",),
    "year-one": ("Mon, 01 Jan 0001 00:00:00 +2359",),
    "twice": ("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"),
    "number": ("9" * 300,),
}
LINKS = {
    "broken": ("</v2/x",),
    "address": ("<http://[::1/x>; rel=next",),
    "file": ("<file:///etc/passwd>; rel=next",),
    "elsewhere": ("<http://127.0.0.1:9/>; rel=next",),
    "itself": ("<?n=1000>; rel=next",),
    "many": ("<a>; rel=prev, " * 2000,),
}
TYPES = {
    "html": ("text/html",),
    "missing": (),
    "empty": ("",),
    "garbage": ("\xff/\xff;;=",),
    "schema1": ("application/vnd.docker.distribution.manifest.v1+prettyjws",),
    "index": ("application/vnd.oci.image.index.v1+json",),
}
TEXTS = {
    "null": b"null",
    "number": b"7",
    "text": b'"x"',
    "list": b"[]",
    "object": b"{}",
    "nan": b'{"tags": NaN, "schemaVersion": NaN, "manifests": NaN}',
    "infinite": b'{"size": 1e999}',
    "cut": b'{"tags": [',
    "twice": b'{"tags": [], "tags": [], "manifests": [], "manifests": []}',
    "case": b'{"Tags": [], "tags": [], "Manifests": [], "manifests": []}',
    "deep": b"[" * 100_000,
    "deep-object": b'{"a":' * 50_000,
    "not-utf8": b'{"tags": ["\xff\xfe"]}',
    "utf16": '{"tags": []}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"tags": []}',
    "surrogate": b'{"tags": ["\\ud800"], "manifests": [{"mediaType": "\\ud800"}]}',
    "digits": b'{"size": ' + b"9" * 5000 + b"}",
    "nul": b'{"tags": ["inbox-\\u0000"]}',
    "html": PAGE,
    "zeros": bytes(5 * 2**20),
    "empty": b"",
}
LISTS: dict[str, object] = {
    "tags-null": {"name": "team/box", "tags": None},
    "tags-none": {"name": "team/box", "tags": []},
    "tags-text": {"tags": "inbox"},
    "tags-numbers": {"tags": [1, 2]},
    "tags-odd": {"tags": ["../../x", "", " ", "a" * 200, "inbox-\x1b[31m"]},
    "tags-many": {"tags": [f"v{number}" for number in range(60_000)]},
    "tags-same": {"tags": ["a"] * 1000},
    "manifests-null": {"schemaVersion": 2, "manifests": None},
    "manifests-none": {"schemaVersion": 2, "manifests": []},
    "manifests-text": {"schemaVersion": 2, "manifests": "x"},
    "manifests-empty": {"schemaVersion": 2, "manifests": [{}]},
    "manifests-number": {"schemaVersion": 2, "manifests": [{**DESCRIPTOR, "digest": 7}]},
    "manifests-negative": {"schemaVersion": 2, "manifests": [{**DESCRIPTOR, "size": -1}]},
    "manifests-data": {"schemaVersion": 2, "manifests": [{**DESCRIPTOR, "data": "\xe4"}]},
    "manifests-false": {"schemaVersion": 2, "manifests": [DESCRIPTOR] * 50},
    "errors-odd": {"errors": [{"code": 7, "message": ["\x1b"], "detail": {"a": [None]}}, 3, None]},
}
UPLOADS = {
    "range-odd": ("Range", "x"),
    "range-far": ("Range", "0-99999999"),
    "range-late": ("Range", "5-9"),
    "least-huge": ("OCI-Chunk-Min-Length", "9" * 30),
    "least-negative": ("OCI-Chunk-Min-Length", "-1"),
    "most-one": ("OCI-Chunk-Max-Length", "1"),
    "content-range": ("Content-Range", "bytes 0-1/2"),
    "retry-after": ("Retry-After", "9" * 400),
}
CHALLENGES = {
    "garbage": '\x80\xff="',
    "negotiate": "Negotiate abc=",
    "basic": 'Basic realm="x"',
    "no-realm": "Bearer service=x",
    "file-realm": 'Bearer realm="file:///etc/passwd"',
    "broken-realm": 'Bearer realm="http://[::1/x"',
    "port-realm": 'Bearer realm="http://127.0.0.1:99999/"',
    "user-realm": 'Bearer realm="http://a:b@127.0.0.1:9/"',
    "long": "Bearer " + ",".join(f'x{number}="y"' for number in range(5000)),
    **{f"token-{name}": f'Bearer realm="http://{{tokens}}/{name}",service="s"' for name in TOKENS},
}
OK_HEAD = b"HTTP/1.1 200 OK\r\n"

LIES: dict[str, Tell] = {
    **{f"status:{number}": status(number) for number in STATUSES},
    **{f"restated:{number}": restated(number) for number in (201, 203, 206, 226, 299)},
    "status:429-soon": status(429, {"Retry-After": "1"}),
    "status:429-never": status(429, {"Retry-After": "9" * 300}),
    "status:503-soon": status(503, {"Retry-After": "1"}),
    "status:503-date": status(503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"}),
    "status:404-denied": status(404, JSON, b'{"errors":[{"code":"DENIED"}]}'),
    "status:404-name": status(404, JSON, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'),
    **{f"redirect:{name}": redirect(target) for name, target in ADDRESSES.items()},
    **{f"redirect:{code}": redirect("http://127.0.0.1:9/login", code) for code in (301, 302, 308)},
    **{f"location:{name}": header("Location", *((target,) if target is not None else ()))
       for name, target in ADDRESSES.items() if name != "itself"},
    **{f"length:{name}": header("Content-Length", *values) for name, values in LENGTHS.items()},
    **{f"digest:{name}": header("Docker-Content-Digest", *values)
       for name, values in DIGESTS.items()},
    **{f"date:{name}": header("Date", *values) for name, values in DATES.items()},
    **{f"link:{name}": header("Link", *values) for name, values in LINKS.items()},
    **{f"type:{name}": header("Content-Type", *values) for name, values in TYPES.items()},
    **{f"upload:{name}": header(*pair) for name, pair in UPLOADS.items()},
    **{f"text:{name}": other(text) for name, text in TEXTS.items()},
    **{f"body:{name}": body(lambda _, text=text: text)  # type: ignore[misc]
       for name, text in TEXTS.items()},
    **{f"list:{name}": other(json.dumps(value).encode()) for name, value in LISTS.items()},
    **{f"challenge:{name}": challenge(text) for name, text in CHALLENGES.items()},
    "text:portal": other(PAGE, {"Content-Type": "text/html"}),
    "body:flipped": body(lambda data: data[:-1] + bytes([data[-1] ^ 1]) if data else data),
    "body:shorter": body(lambda data: data[:-1]),
    "body:longer": body(lambda data: data + b"x"),
    "body:doubled": body(lambda data: data + data),
    "body:space": body(lambda data: b" " + data),
    "encoding:gzip": body(partial(gzip.compress, mtime=0), {"Content-Encoding": "gzip"}),
    "encoding:not-gzip": body(lambda data: data, {"Content-Encoding": "gzip"}),
    "encoding:unknown": body(lambda data: data, {"Content-Encoding": "rot13, br"}),
    "chunked:right": framed("chunked", chunks),
    "chunked:twice": framed("chunked, chunked", chunks),
    "chunked:packed": framed("gzip, chunked", lambda data: chunks(gzip.compress(data, mtime=0))),
    "chunked:unknown": framed("xchunked", chunks),
    "chunked:identity": framed("identity", lambda data: data),
    "chunked:and-length": framed("chunked", chunks, length=True),
    "chunked:letters": framed("chunked", lambda _: b"zz\r\nabc\r\n0\r\n\r\n"),
    "chunked:negative": framed("chunked", lambda _: b"-5\r\nabc\r\n0\r\n\r\n"),
    "chunked:huge": framed("chunked", lambda _: b"f" * 40 + b"\r\nabc"),
    "chunked:no-end": framed("chunked", lambda data: chunks(data, end=b"")),
    "chunked:extension": framed("chunked", lambda data: chunks(data, extension=b";" + b"x" * 9000)),
    "chunked:trailers": framed(
        "chunked", lambda data: chunks(data, end=b"0\r\n" + b"X: y\r\n" * 500 + b"\r\n")
    ),
    "flood:body": flood(OK_HEAD + b"\r\n", FLOOD_PIECE),
    "flood:json": flood(OK_HEAD + b'\r\n{"tags":["', b"a" * 2**16),
    "flood:tags": flood(OK_HEAD + b'\r\n{"tags":[""', b',""' * 20_000),
    "flood:lists": flood(OK_HEAD + b'\r\n{"tags":[[]', b",[]" * 20_000),
    "flood:whole-list": other(b'{"tags":[' + b"[]," * 10_000_000 + b"[]]}"),
    "flood:headers": flood(OK_HEAD, b"X-Y: z\r\n" * 1000),
    "flood:header": flood(OK_HEAD + b"X: ", b"y" * 2**16),
    "flood:status": flood(b"HTTP/1.1 200 ", b"y" * 2**16),
    "flood:informational": flood(b"", b"HTTP/1.1 103 Wait\r\n\r\n" * 1000),
    "flood:continue": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "flood:trailers": flood(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1000),
    "flood:chunks": flood(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "flood:extensions": flood(
        OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"y" * 60_000 + b"\r\nx\r\n"
    ),
    "informational:eight": informed(8),
    "informational:nine": informed(9),
    "informational:102": informed(3, 102),
    "informational:101": informed(1, 101),
    "stall:head": cut(lambda _: b"", stall=True),
    "stall:status": cut(lambda _: b"HTTP/1.1 20", stall=True),
    "stall:headers": cut(lambda _: OK_HEAD + b"X: ", stall=True),
    "stall:body": cut(lambda whole: whole[:-1], stall=True),
    "drip": drip,
    "reset:at-once": raw(b"", reset=True),
    "reset:status": raw(b"HTTP/1.1 20", reset=True),
    "reset:headers": raw(OK_HEAD + b"X: ", reset=True),
    "reset:body": cut(lambda whole: whole[:-1], reset=True),
    "close:at-once": raw(b""),
    "close:status": raw(b"HTTP/1.1"),
    "close:headers": raw(OK_HEAD + b"X"),
    "close:body": cut(lambda whole: whole[:-1]),
    "version:1.0": version("HTTP/1.0"),
    "version:1.2": version("HTTP/1.2"),
    "version:2": version("HTTP/2"),
    "version:0.9": raw(b"{}"),
    "version:icy": raw(b"ICY 200 OK\r\n\r\n"),
    "version:ssh": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "version:tls": raw(b"\x15\x03\x01\x00\x02\x02\x28"),
    "version:http2": raw(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
    "version:binary": raw(bytes(range(256)) * 20),
    "version:no-colon": raw(OK_HEAD + b"garbage\r\n\r\n"),
    "version:folded": raw(OK_HEAD + b"X: y\r\n folded\r\nContent-Length: 0\r\n\r\n"),
    "version:bare-lf": raw(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"),
    "version:latin": raw(b"HTTP/1.1 200 \xff\xfe\x1b\r\n\x1b: \x1b\r\nContent-Length: 0\r\n\r\n"),
}  # fmt: skip

TLS_LIES: dict[str, Tell] = {
    "tls:below": below_tls,
    "tls:close": raw(b""),
    "tls:reset": raw(b"", reset=True),
    **{f"redirect:{name}": redirect(target) for name, target in ADDRESSES.items()},
    **{f"location:{name}": header("Location", target)
       for name, target in ADDRESSES.items() if target is not None and name != "itself"},
    **{f"link:{name}": header("Link", *values) for name, values in LINKS.items()},
}  # fmt: skip
"""Lies that are others where a registry is spoken to with TLS."""
