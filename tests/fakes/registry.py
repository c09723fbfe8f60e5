"""An OCI registry in this process, with a switch for every way in which real ones differ.

Example:
    with FakeRegistry(DISTRIBUTION) as registry:
        client = HTTPRegistry(registry.host)
        ...
        assert registry.count("PUT", "/manifests/") == 1
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Self

from dockercomms.platforms.clock import Clock, SystemClock
from tests.fakes.presets import (
    DISTRIBUTION,
    DOCKER_REGISTRY_2_8,
    GGCR,
    GHCR,
    OCI,
    OCIMEM,
    OLAREG,
    OLAREG_BUSY,
    PRESETS,
    QUAY,
    ZOT,
)
from tests.fakes.registry_answers import blob_answer, error
from tests.fakes.registry_api import RegistryApi
from tests.fakes.registry_faults import Fault, FaultPlan, spoil
from tests.fakes.registry_gate import Gate, TokenCheck, unverified_claims
from tests.fakes.registry_log import RequestRecord
from tests.fakes.registry_quirks import Quirks
from tests.fakes.registry_state import Repository, Store, StoredBlob, StoredManifest, sha256
from tests.fakes.registry_wire import (
    DRAIN_BYTES,
    Answer,
    BrokenBodyError,
    Connection,
    DropConnectionError,
    Listener,
    Request,
)

if TYPE_CHECKING:
    import trustme

__all__ = [
    "DISTRIBUTION",
    "DOCKER_REGISTRY_2_8",
    "GGCR",
    "GHCR",
    "OCI",
    "OCIMEM",
    "OLAREG",
    "OLAREG_BUSY",
    "PRESETS",
    "QUAY",
    "ZOT",
    "FakeRegistry",
    "Fault",
    "Quirks",
    "RequestRecord",
    "sha256",
]

_KEPT_BODY_BYTES = 64 * 1024
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class FakeRegistry(AbstractContextManager["FakeRegistry"]):
    """A registry on a free loopback port. Start it with `with`, or `start` and `close`.

    All attributes may be read and changed while it runs; `quirks.auth` is looked at when it is
    made, later `gate` counts. `page_size` is the largest page of tags and of referrers. `users`
    (name to password) is for `auth="basic"`; `realm`, `service` and `check_token` are for
    `auth="token"` (a `TokenServer`'s `realm`, `service` and `claims`). With `tls`, it has a
    certificate of `authority` for 127.0.0.1 and localhost.
    """

    def __init__(
        self,
        quirks: Quirks = OCI,
        *,
        clock: Clock | None = None,
        page_size: int | None = None,
        users: Mapping[str, str] | None = None,
        realm: str = "",
        service: str = "fake",
        check_token: TokenCheck = unverified_claims,
        tls: bool = False,
    ) -> None:
        if page_size is not None:
            quirks = replace(quirks, tags_page_max=page_size, referrers_page=page_size)
        self.quirks = quirks
        self.clock: Clock = clock or SystemClock()
        self.store = Store()
        self.faults = FaultPlan()
        self.requests: list[RequestRecord] = []
        self.storage_requests: list[RequestRecord] = []
        """The requests to the other host of redirected blobs."""
        self.gate = Gate(
            auth=quirks.auth,
            word=quirks.auth_word,
            clock=self.clock,
            users=users or {},
            realm=realm,
            service=service,
            check_token=check_token,
        )
        self._tls = tls
        self._log_lock = threading.Lock()
        self.authority: trustme.CA | None = None
        self._listener: Listener | None = None
        self._storage: Listener | None = None

    # Running.

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Listen; returns this registry."""
        context = self._tls_context() if self._tls else None
        storage_url = ""
        if self.quirks.redirect_blobs or self.quirks.redirect_lists:
            self._storage = Listener(self._serve_storage)
            # Another name for the same machine, so that it is another origin by host as well.
            storage_url = f"http://localhost:{self._storage.port}"
        self.api = RegistryApi(self.store, self.clock, self._refuse, storage_url)
        self._listener = Listener(self._serve, tls=context)
        return self

    def close(self) -> None:
        """Stop; every connection ends and no thread is left."""
        for listener in (self._listener, self._storage):
            if listener is not None:
                listener.close()
        self._listener = self._storage = None

    def drop_connections(self) -> None:
        """End all open connections, as a restart of the server would."""
        if self._listener is not None:
            self._listener.drop_connections()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._listener is None:
            raise RuntimeError("the fake registry is not running")
        return self._listener.port

    @property
    def host(self) -> str:
        """Host and port, as a reference begins."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    @property
    def storage_host(self) -> str:
        """Host and port that blobs are redirected to."""
        if self._storage is None:
            raise RuntimeError("this registry does not redirect blobs")
        return f"localhost:{self._storage.port}"

    def _refuse(
        self, authorization: str, repository: str, actions: tuple[str, ...]
    ) -> Answer | None:
        return self.gate.refuse(authorization, repository, actions)

    def _tls_context(self) -> ssl.SSLContext:
        import trustme

        self.authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        return context

    # Looking at what was asked.

    def asked(
        self, method: str | None = None, part: str = "", *, status: int | None = None
    ) -> list[RequestRecord]:
        """Return the requests with that method, `part` in the target, and that status."""
        with self._log_lock:
            records = list(self.requests)
        return [
            record
            for record in records
            if method in {None, record.method}
            and part in record.target
            and status in {None, record.status}
        ]

    def count(self, method: str | None = None, part: str = "", *, status: int | None = None) -> int:
        """Return how many requests `asked` would."""
        return len(self.asked(method, part, status=status))

    def bytes_received(self) -> int:
        """Return the body bytes of all requests."""
        return sum(record.request_bytes for record in self.asked())

    def bytes_sent(self) -> int:
        """Return the body bytes of all answers."""
        return sum(record.response_bytes for record in self.asked())

    def forget_requests(self) -> None:
        """Empty the log."""
        with self._log_lock:
            self.requests.clear()
            self.storage_requests.clear()

    # Planting and looking at content.

    def repository(self, name: str) -> Repository:
        """Return a repository's content, made if it is not there."""
        with self.api.lock:
            return self.store.repository(name)

    def put_blob_raw(self, name: str, data: bytes, *, digest: str | None = None) -> str:
        """Store a blob, under a digest that need not be its own; returns the digest."""
        digest = digest or sha256(data)
        with self.api.lock:
            stored = StoredBlob(data, self.clock.monotonic())
            self.store.repository(name).blobs[digest] = stored
        return digest

    def put_manifest_raw(
        self,
        name: str,
        data: bytes,
        *,
        tag: str | None = None,
        digest: str | None = None,
        media_type: str = _MANIFEST_TYPE,
        digest_header: str | None = None,
    ) -> str:
        """Store any bytes as a manifest, unchecked; return the digest they are stored under.

        `digest` stores them under a digest that is not theirs; `digest_header` replaces the value
        of `Docker-Content-Digest`.
        """
        digest = digest or sha256(data)
        with self.api.lock:
            now = self.clock.monotonic()
            stored = StoredManifest(data, media_type, now, digest_header)
            stored.listed_at = now
            repository = self.store.repository(name)
            repository.manifests[digest] = stored
            if tag is not None:
                repository.tags[tag] = digest
        return digest

    def remove_blob(self, name: str, digest: str) -> None:
        """Lose a blob."""
        with self.api.lock:
            self.store.repository(name).blobs.pop(digest, None)

    def remove_manifest(self, name: str, digest: str) -> None:
        """Lose a manifest and its tags."""
        with self.api.lock:
            repository = self.store.repository(name)
            repository.manifests.pop(digest, None)
            for tag in [tag for tag, target in repository.tags.items() if target == digest]:
                del repository.tags[tag]

    def collect_untagged(self) -> list[str]:
        """Delete every untagged manifest, as distribution's garbage collector can."""
        with self.api.lock:
            return self.store.collect_untagged()

    # Failing.

    def fail_at(self, n: int, fault: Fault, *, times: int = 1) -> None:
        """Fail the `n`-th request from now on (1: the next), and the following up to `times`."""
        self.faults.fail_at(n, fault, times=times)

    def fail_when(
        self, matches: Callable[[Request], bool], fault: Fault, *, after: int = 0, times: int = 1
    ) -> None:
        """Fail `times` requests that match, leaving the first `after` of them alone."""
        self.faults.fail_when(matches, fault, after=after, times=times)

    # Serving.

    def _serve(self, connection: Connection) -> None:
        while (request := connection.next_request()) is not None:
            fault = self.faults.next(request)
            if not self._serve_one(connection, request, fault):
                return

    def _serve_one(self, connection: Connection, request: Request, fault: Fault | None) -> bool:
        """Answer one request; returns whether the connection goes on."""
        answer = self._worked(request, fault)
        if answer is None or (fault is not None and fault.kind in {"drop-after", "silent-after"}):
            self._note(self.requests, request, None, 0, fault)
            if fault is not None and fault.kind in {"silent", "silent-after"}:
                connection.wait_closed()
            return False
        if self.quirks.date_header:
            skewed = self.clock.now() + timedelta(seconds=self.quirks.date_skew_seconds)
            answer.headers["Date"] = format_datetime(skewed, usegmt=True)
        if fault is not None and fault.tell is not None:
            request.body.finish()
            self._note(self.requests, request, answer, 0, fault)
            return fault.tell(connection, request, answer)
        body, keep = b"" if request.method == "HEAD" else answer.body, self.quirks.keep_alive
        limit = None if self.quirks.reads_refused_bodies else DRAIN_BYTES
        finished = request.body.finish(limit=limit)
        keep = keep and finished
        said = answer.headers.get("Content-Length")
        if request.method != "HEAD" and said is not None and int(said) != len(body):
            keep = False  # as Go closes after a handler that wrote less than it said
        if fault is not None:
            body, keep = spoil(answer, body, fault, keep=keep)
        if request.headers.get("connection", "").lower() == "close":
            keep = False
        self._note(self.requests, request, answer, len(body), fault)
        _send(connection, answer, body, keep=keep, head_only=request.method == "HEAD")
        if not finished:
            connection.linger()
        return keep

    def _worked(self, request: Request, fault: Fault | None) -> Answer | None:
        """Return the answer, or `None` if the connection ends without one."""
        if fault is not None:
            if fault.kind in {"drop-before", "silent"}:
                return None
            if fault.kind == "answer":
                return Answer(fault.status, dict(fault.headers), fault.body)
            if fault.kind == "cut-request":
                request.body.cut_at = fault.count or 0
        try:
            answer = self.api.handle(request, self.quirks, self.url)
        except (BrokenBodyError, DropConnectionError, OSError):
            return None
        return None if fault is not None and fault.kind == "cut-request" else answer

    def _note(
        self,
        log: list[RequestRecord],
        request: Request,
        answer: Answer | None,
        sent: int,
        fault: Fault | None = None,
    ) -> None:
        record = RequestRecord(
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            request_bytes=request.body.received,
            status=None if answer is None else answer.status,
            response_headers={} if answer is None else answer.headers,
            response_bytes=sent,
            fault=fault,
        )
        with self._log_lock:
            log.append(record)

    def _serve_storage(self, connection: Connection) -> None:
        """Be the other host that blobs are redirected to."""
        while (request := connection.next_request()) is not None:
            answer = self._storage_answer(request)
            keep = request.body.finish()
            self._note(self.storage_requests, request, answer, len(answer.body))
            body = b"" if request.method == "HEAD" else answer.body
            _send(connection, answer, body, keep=keep, head_only=request.method == "HEAD")
            if not keep:
                return

    def _storage_answer(self, request: Request) -> Answer:
        if "authorization" in request.headers:
            # S3 and Azure refuse a second kind of credentials beside the signed URL.
            return error(400, "UNSUPPORTED", "only one way to authenticate")
        if request.path.startswith("/v2/"):
            there = replace(self.quirks, redirect_lists=False, redirect_blobs=False)
            return self.api.handle(request, there, f"http://{self.storage_host}")
        digest = request.first("blob")
        name = request.path.removeprefix("/storage/")
        with self.api.lock:
            data = self.api.find_blob(self.quirks, name, digest)
        if data is None or request.first("signature") != "secret":
            return error(403, "DENIED")
        answer = blob_answer(request, self.quirks, digest, data)
        answer.headers.pop("Docker-Content-Digest", None)
        return answer


def _send(
    connection: Connection, answer: Answer, body: bytes, *, keep: bool, head_only: bool = False
) -> None:
    head = answer.head(close=not keep)
    if not answer.chunked or head_only:
        if len(body) < _KEPT_BODY_BYTES:
            connection.send(head + body)
        else:
            connection.send(head)
            connection.send(body)
        return
    connection.send(head)
    view = memoryview(body)
    for start in range(0, len(body), _KEPT_BODY_BYTES):
        piece = view[start : start + _KEPT_BODY_BYTES]
        connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    connection.send(b"0\r\n\r\n")
