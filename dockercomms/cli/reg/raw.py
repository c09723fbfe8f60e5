"""`reg ping` and `reg raw`: requests to a registry. `reg ref`: short and full references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, option
from dockercomms.cli.records import time_or_none
from dockercomms.cli.reg.output import (
    path_of,
    pour,
    pretty,
    read_input,
    record,
    screen_beside,
    show_text,
    sink,
    tell,
    to_stdout,
)
from dockercomms.cli.reg.table import output_option, reg_verb
from dockercomms.cli.render import human_time, to_json, visible
from dockercomms.errors import BadAnswer, ProtocolError, UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.oci.auth.token import Scope
    from dockercomms.oci.remote.exchange import Response

FORMS = ("parse", "short", "full")


@reg_verb(
    "ref", example="dockercomms reg ref full alpine:3.22\ndockercomms reg ref parse alpine --json"
)
@click.argument("form", type=click.Choice(FORMS))
@click.argument("text")
def ref_command(session: Session, *, form: str, text: str) -> None:
    """Parse a reference, or print it in short or full form.

    Follows docker's rules: a reference without a host is on docker.io (or --default-registry), and
    one without a folder there is in 'library'. Uses no network.
    """
    from dockercomms.oci.reference import DEFAULT_HOST, Reference

    host = session.settings.default_registry or DEFAULT_HOST
    found = Reference.parse(text, default_host=host)
    row = record(
        "ref",
        text=text,
        host=found.host,
        repository=found.repository,
        tag=found.tag,
        digest=found.digest,
        short=str(found),
        full=found.full(),
    )
    if form == "parse":
        names = ("host", "repository", "tag", "digest", "short", "full")
        session.screen.details(row, [(name, str(row[name] or "")) for name in names])
    else:
        tell(session, row, str(row[form]))


MAX_BODY_BYTES = 64 * 2**20
"""The largest body of `--data`; larger ones are blobs, for `reg put-blob`."""

_OK = frozenset(range(200, 400))
_METHOD = re.compile(r"[A-Z]{1,20}")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*)")
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)/")


@reg_verb("ping", example="dockercomms reg ping registry.example")
@click.argument("host", metavar="HOST")
def ping_command(session: Session, *, host: str) -> None:
    """Check that a registry is reachable and accepts your login.

    Exits 3 if the registry refuses the login, 6 if it cannot be reached.
    """
    from dockercomms.oci.auth.token import Scope
    from dockercomms.oci.remote.errors import check_response
    from dockercomms.oci.remote.exchange import content_length, is_page

    with session.stores() as stores:
        registry = stores.registry(host)
        began = session.clock.monotonic()
        response = registry.request("GET", "/v2/", scope=Scope())
        seconds = session.clock.monotonic() - began
        check_response(response, 200)
        response.close()
        version = response.headers.get("Docker-Distribution-Api-Version")
        # Quay's answer has the content type of HTML, and a version.
        if is_page(response) and content_length(response) != 0 and version is None:
            raise BadAnswer(f"GET {response.url}: an HTML page received; not a registry")
        now = registry.server_time()
    row = record(
        "ping",
        host=registry.endpoint.host,
        url=registry.endpoint.base_url,
        seconds=round(seconds, 3),
        api_version=version,
        server_time=time_or_none(now),
    )
    rows = [
        ("host", registry.endpoint.host),
        ("url", registry.endpoint.base_url),
        ("seconds", f"{seconds:.3f}"),
        ("version", version or "-"),
        ("time", human_time(now)),
    ]
    session.screen.details(row, rows)


@reg_verb(
    "raw", example="dockercomms reg raw GET registry.example /v2/team/app/tags/list\n"
    "dockercomms reg raw HEAD registry.example /v2/team/app/manifests/v1 --include"
)  # fmt: skip
@click.argument("method")
@click.argument("host", metavar="HOST")
@click.argument("path", metavar="PATH")
@option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
        help="Request header (repeatable).")  # fmt: skip
@option("--data", type=click.Path(readable=False), metavar="FILE",
        help="Request body; - is standard input.")  # fmt: skip
@option("--scope", type=NAME, metavar="SCOPE",
        help="Such as repository:team/app:pull.  [default: by method and path]")  # fmt: skip
@option("-i", "--include", is_flag=True, help="Print status and headers too.")
@output_option
def raw_command(
    session: Session,
    *,
    method: str,
    host: str,
    path: str,
    headers: tuple[str, ...],
    data: str | None,
    scope: str | None,
    include: bool,
    output: str | None,
) -> None:
    """Send any request to a registry.

    Uses your login, and accepts every kind of manifest unless you give -H 'Accept: ...'. Prints an
    error response too, and then fails.
    """
    from dockercomms.oci.model import MANIFEST_MEDIA_TYPES
    from dockercomms.oci.remote.exchange import ANY_STATUS

    method = method.upper()
    if _METHOD.fullmatch(method) is None:
        raise UsageError(f"not a method: {method!r:.60}")
    if not path.startswith("/") or path.startswith("//"):
        raise UsageError(f"{path!r:.200}: a path from the registry's root expected, as /v2/")
    fields = {"Accept": ", ".join((*MANIFEST_MEDIA_TYPES, "*/*")), **_fields(headers)}
    body = None
    if data is not None:
        body = read_input(session, data, MAX_BODY_BYTES, what="a body", hint="see reg put-blob")
    need = _scope(method, path, scope)
    with session.stores() as stores:
        response = stores.registry(host).request(
            method, path, headers=fields, body=body, scope=need, ok=ANY_STATUS
        )
        try:
            _write(session, response, output, include=include)
        finally:
            response.close()


def _write(session: Session, response: Response, output: str | None, *, include: bool) -> None:
    """Write the answer.

    Raises:
        RegistryError: the registry refused; its answer is written first.
    """
    from dockercomms.oci.remote.errors import error_from_response
    from dockercomms.oci.remote.exchange import redact_url

    status, url = response.status, redact_url(response.url)
    error = None if status in _OK else error_from_response(response)
    if include:
        screen = session.screen_of("text")
        screen.data(f"HTTP {status}")
        for name, value in response.headers.items():
            screen.data(visible(f"{name}: {value}"))
        screen.data("")
    if error is None:
        written = _write_body(session, response, output)
    else:
        written = _write_bytes(session, error.body, output)
    beside = screen_beside(session, output)
    if beside.is_json:
        row = record(
            "raw",
            method=response.method,
            url=url,
            status=status,
            headers=dict(response.headers.items()),
            bytes=written,
            path=path_of(output),
        )
        beside.data(to_json(row))
    if error is not None:
        raise error


def _write_body(session: Session, response: Response, output: str | None) -> int:
    """Write the body piece by piece; return its bytes. A terminal gets only text."""
    from dockercomms.oci.remote.exchange import read_up_to

    if to_stdout(output) and session.stdout.isatty():
        return _write_bytes(session, read_up_to(response, MAX_BODY_BYTES), output)
    with sink(session, output) as stream:
        return pour(
            response, stream, what=output or "standard output", show=lambda *_: None, total=0
        )


def _write_bytes(session: Session, data: bytes, output: str | None) -> int:
    import io

    if not (to_stdout(output) and session.stdout.isatty()):
        with sink(session, output) as stream:
            return pour(
                io.BytesIO(data),
                stream,
                what=output or "standard output",
                show=lambda *_: None,
                total=0,
            )
    screen = session.screen_of("text")
    try:
        lines = pretty(data).splitlines()
    except ProtocolError:
        if not show_text(screen, data):
            screen.note(f"{len(data)} bytes of binary content; save them with -o FILE")
    else:
        for line in lines:
            screen.data(line)
    return len(data)


def _fields(headers: Sequence[str]) -> dict[str, str]:
    """Return the header fields of `--header`.

    Raises:
        UsageError: a field is malformed.
    """
    fields = {}
    for text in headers:
        match = _HEADER.fullmatch(text)
        if match is None:
            raise UsageError(f"not a header field: {text!r:.200}", hint="-H 'Accept: */*'")
        fields[match[1].title()] = match[2].strip()
    return fields


def _scope(method: str, path: str, said: str | None) -> Scope:
    """Return the scope of a request: `said`, or by method and path.

    Raises:
        UsageError: `said` is not a scope.
    """
    from dockercomms.oci.auth.token import Scope

    if said is not None:
        scope = Scope.parse(said)
        if not scope.access:
            raise UsageError(f"not a scope: {said!r:.200}", hint="as repository:team/app:pull,push")
        return scope
    if path.startswith("/v2/_catalog"):
        return Scope.catalog()
    match = _REPOSITORY.match(path)
    if match is None:
        return Scope()
    make = {"GET": Scope.pull, "HEAD": Scope.pull, "DELETE": Scope.delete}.get(method, Scope.push)
    try:
        return (Scope.push if "/blobs/uploads/" in path else make)(match[1])
    except ValueError as error:
        raise UsageError(f"{path!r:.200}: {error}") from error
