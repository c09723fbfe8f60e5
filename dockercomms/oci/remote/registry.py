"""The registry interface over HTTP, for one host: `HTTPRegistry`.

It connects, and imports urllib3, at the first request.

Source: distribution-spec v1.1.1, "Push", "Content Management".
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType

from dockercomms.errors import (
    BlobUnknown,
    DigestMismatch,
    LimitError,
    ManifestInvalid,
    ManifestUnknown,
    NetworkError,
    NotFoundError,
    RegistryError,
    Unsupported,
)
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.interface import BlobSource, BlobUpload, ProgressHook
from dockercomms.oci.model import (
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_OCTET_STREAM,
    READ_BYTES,
    Descriptor,
    Digest,
    digest_of,
    matches,
    parse_digest,
)
from dockercomms.oci.reference import DEFAULT_HOST, HUB_HOSTS, is_valid_tag
from dockercomms.oci.remote.exchange import (
    ANY_STATUS,
    Body,
    Request,
    Response,
    Sender,
    api_path,
    content_digest,
    content_length,
    settle,
)
from dockercomms.oci.remote.listing import HTTPLister, ReferrersAPI
from dockercomms.oci.remote.push import BlobPush, CheckedSource, Pieces
from dockercomms.oci.remote.read import ACCEPT_MANIFESTS, check_tag
from dockercomms.oci.remote.retry import RateLimiter, RetryHook, RetryPolicy
from dockercomms.oci.remote.session import TIMEOUT_SECONDS, Endpoint, Session, Transport
from dockercomms.oci.remote.upload import HTTPUpload, UploadSession, blob_is_there, resume
from dockercomms.platforms.clock import Clock, SystemClock
from dockercomms.platforms.files import local_errors

LAYER_CHUNK_BYTES = 96 * 2**20
"""The piece of a large layer: below the 100 MB that some hosts' proxies take in one request."""

LAYER_WHOLE_BYTES = 128 * 2**20
"""The largest layer sent in one piece."""

_CREATED = 201
_MOUNTED = frozenset({201, 202})
_STORED = frozenset({200, 201, 202, 204})
_DELETED = frozenset({200, 202, 204})
_FOUND = frozenset({200})
_BAD_REQUEST = 400
_TOO_LARGE = 413


class HTTPWriter:
    """`Writer` and `Deleter` over HTTP. Safe for several threads."""

    _sender: Sender
    pieces: Pieces

    def push_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """Upload a blob; see `Writer.push_blob`.

        A broken push continues at the registry's offset while each try makes progress, or until the
        registry's retry policy gives up.
        """
        checked = CheckedSource(descriptor, source, progress)
        retry = self._sender.retry
        return BlobPush(
            self._sender, repository, checked, retry=retry, patient=True, pieces=self.pieces
        ).run()

    def push_layer(
        self,
        repository: str,
        source: BlobSource,
        *,
        descriptor: Descriptor | None = None,
        chunk_bytes: int | None = None,
        progress: ProgressHook | None = None,
        retry: RetryPolicy | None = None,
    ) -> Descriptor:
        """Upload a blob that the repository may have already, retrying the upload as a whole.

        Args:
            repository: The repository's name.
            source: Opens the content.
            descriptor: Its descriptor; `None`: computed by reading the content once.
            chunk_bytes: The largest piece to send at once; `None`: the whole layer up to
                `LAYER_WHOLE_BYTES`, else `LAYER_CHUNK_BYTES`.
            progress: Called with the progress.
            retry: `None`: `RetryPolicy.upload()`, whose hook is called before each new try.

        Raises:
            RetryAborted: the policy's hook returned False.
            NetworkError, RegistryError: the tries are used up.
        """
        known = describe(source) if descriptor is None else descriptor
        policy = RetryPolicy.upload() if retry is None else retry

        def is_there() -> bool:
            return blob_is_there(self._sender, repository, known.digest, known.size)

        if chunk_bytes is None and known.size > LAYER_WHOLE_BYTES:
            chunk_bytes = LAYER_CHUNK_BYTES
        if policy.call(is_there, clock=self._sender.clock):
            if progress is not None:
                progress(known.size, known.size)
            return known
        return BlobPush(
            self._sender,
            repository,
            CheckedSource(known, source, progress),
            retry=policy,
            patient=False,
            chunk_bytes=chunk_bytes,
            pieces=self.pieces,
        ).run()

    def push_manifest(
        self,
        repository: str,
        data: bytes,
        media_type: str,
        *,
        tags: Sequence[str] = (),
        digest: Digest | None = None,
    ) -> Descriptor:
        """Store a manifest; see `Writer.push_manifest`. One PUT for each tag."""
        if not media_type:
            raise ValueError("push_manifest: no media type")
        known = digest_of(data) if digest is None else parse_digest(digest)
        if digest is not None and not matches(data, digest):
            raise ValueError(f"{digest} is not the digest of the manifest, {digest_of(data)} is")
        if len(data) > MAX_MANIFEST_BYTES:
            raise LimitError(
                f"{repository}: manifest of {len(data)} bytes; at most {MAX_MANIFEST_BYTES}"
            )
        for tag in tags:
            if not is_valid_tag(tag):
                raise ManifestInvalid(f"{repository}: not a tag: {tag!r:.200}")
        for name in tags or (known,):
            self._put_manifest(repository, name, data, media_type, known)
        return Descriptor(media_type=media_type, digest=known, size=len(data))

    def mount_blob(self, repository: str, digest: Digest, *, source: str) -> Descriptor | None:
        """Mount a blob of `source` into `repository`; see `Writer.mount_blob`."""
        api_path(source)
        request = Request(
            method="POST",
            url=f"{api_path(repository, 'blobs', 'uploads', '')}"
            f"?mount={parse_digest(digest)}&from={source}",
            scope=Scope.mount(repository, source),
            ok=_MOUNTED,
        )
        try:
            response = settle(self._sender, request)
        except (NotFoundError, Unsupported):
            return None  # ocimem answers 404 for a missing source
        if response.status != _CREATED:
            UploadSession.of(self._sender, repository, response).cancel()
            return None
        return self._mounted(repository, digest)

    def upload(self, repository: str, *, chunk_size: int = 0) -> BlobUpload:
        """Open an upload session; see `Writer.upload`."""
        if chunk_size < 0:
            raise ValueError(f"chunk_size: {chunk_size}; 0 or more expected")
        session = UploadSession.start(self._sender, repository)
        return HTTPUpload(self._sender, repository, session, chunk_size=chunk_size)

    def resume_upload(
        self, repository: str, session: str, *, offset: int | None = None, chunk_size: int = 0
    ) -> BlobUpload:
        """Continue an upload session; see `Writer.resume_upload`."""
        return resume(self._sender, repository, session, offset=offset, chunk_size=chunk_size)

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Delete a blob; see `Deleter.delete_blob`."""
        url = api_path(repository, "blobs", parse_digest(digest))
        self._delete(repository, url, BlobUnknown)

    def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Delete a manifest and its tags; see `Deleter.delete_manifest`."""
        url = api_path(repository, "manifests", parse_digest(digest))
        self._delete(repository, url, ManifestUnknown)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete one tag; see `Deleter.delete_tag`."""
        url = api_path(repository, "manifests", check_tag(repository, tag))
        try:
            self._delete(repository, url, ManifestUnknown)
        except RegistryError as error:
            if error.status != _BAD_REQUEST or isinstance(error, NotFoundError):
                raise
            # docker-registry 2.8 accepts only a digest there
            raise Unsupported(
                error.message, status=error.status, method=error.method, url=error.url
            ) from error

    def _delete(self, repository: str, url: str, not_found: type[NotFoundError]) -> None:
        request = Request(
            method="DELETE",
            url=url,
            scope=Scope.delete(repository),
            ok=_DELETED,
            not_found=not_found,
        )
        try:
            settle(self._sender, request)
        except NotFoundError as error:
            if not self._is_there(repository, request):
                raise
            # ECR answers this to every deletion
            raise Unsupported(
                error.message, status=error.status, method=error.method, url=error.url
            ) from error

    def _is_there(self, repository: str, request: Request) -> bool:
        look = replace(
            request,
            method="HEAD",
            scope=Scope.pull(repository),
            headers=ACCEPT_MANIFESTS,
            ok=_FOUND,
            redirects=True,
        )
        try:
            settle(self._sender, look)
        except (RegistryError, NetworkError):
            return False
        return True

    def _put_manifest(
        self, repository: str, name: str, data: bytes, media_type: str, digest: Digest
    ) -> None:
        request = Request(
            method="PUT",
            url=api_path(repository, "manifests", name),
            scope=Scope.push(repository),
            headers={"Content-Type": media_type},
            body=data,
            ok=_STORED,
        )
        try:
            response = settle(self._sender, request)
        except RegistryError as error:
            if error.status == _TOO_LARGE:
                raise LimitError(f"{repository}: {error.message}") from error
            raise
        said = content_digest(response)
        if said is not None and not matches(data, said):
            raise DigestMismatch(f"{repository}:{name}: {digest} was put, {said} was stored")

    def _mounted(self, repository: str, digest: Digest) -> Descriptor:
        request = Request(
            method="HEAD",
            url=api_path(repository, "blobs", digest),
            scope=Scope.pull(repository),
            not_found=BlobUnknown,
            redirects=True,
        )
        size = content_length(settle(self._sender, request)) or 0
        return Descriptor(media_type=MEDIA_TYPE_OCTET_STREAM, digest=digest, size=size)


def describe(source: BlobSource) -> Descriptor:
    """Return the descriptor of the content that `source` opens, reading it once.

    Raises:
        LocalIOError: it cannot be read.
    """
    hashed, size = hashlib.sha256(), 0
    with local_errors("blob to push"), source() as stream:
        while block := stream.read(READ_BYTES):
            hashed.update(block)
            size += len(block)
    return Descriptor(
        media_type=MEDIA_TYPE_OCTET_STREAM,
        digest=Digest(f"sha256:{hashed.hexdigest()}"),
        size=size,
    )


class HTTPRegistry(HTTPLister, HTTPWriter, AbstractContextManager["HTTPRegistry"]):
    """`Registry` over HTTP, for one host. Safe for several threads.

    Args:
        host: Host and perhaps port, as in a reference; docker.io is Docker Hub.
        plain_http: Connect without TLS; `None`: only to this machine's loopback.
        insecure: Skip the check of its certificate.
        ca_file: Certificates that are trusted besides the system's.
        timeout: Seconds for which it may be silent.
        user_agent: `None`: `dockercomms/<version>`.
        transport: Sends instead of the network, for tests.
        auth: The configuration with the credentials; `None`: this user's files.
        credentials: Credentials that come before any configuration.
        retry: The policy of requests, and of `push_blob` and downloads as a whole.
        limiter: Shared by all registries below one rate.
        debug_id: The prefix of its lines in the log `dockercomms.oci`.
        clock: The time and the waiting.
        on_retry: Called before each retry; False aborts.

    Raises:
        UsageError: not a host, or the time limit is not positive.
    """

    def __init__(
        self,
        host: str,
        *,
        plain_http: bool | None = None,
        insecure: bool = False,
        ca_file: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        user_agent: str | None = None,
        transport: Transport | None = None,
        auth: DockerConfig | None = None,
        credentials: Credentials | None = None,
        retry: RetryPolicy | None = None,
        limiter: RateLimiter | None = None,
        debug_id: str | None = None,
        clock: Clock | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        endpoint = Endpoint(
            host=DEFAULT_HOST if host in HUB_HOSTS else host,
            plain_http=plain_http,
            insecure=insecure,
            ca_file=ca_file,
            timeout=timeout,
            debug_id=f"{debug_id}: " if debug_id else "",
        )
        if user_agent is not None:
            endpoint = replace(endpoint, user_agent=user_agent)
        policy = RetryPolicy.requests() if retry is None else retry
        if on_retry is not None:
            policy = replace(policy, on_retry=on_retry)
        self.endpoint = endpoint
        self.session = Session(
            endpoint,
            retry=policy,
            clock=SystemClock() if clock is None else clock,
            transport=transport,
            config=auth,
            credentials=credentials,
            limiter=limiter,
        )
        """The session underneath."""
        self._sender = self.session
        self._referrers_api = ReferrersAPI(self._sender)
        self.pieces = Pieces(endpoint.host)
        """The sizes of requests that the registry took or refused."""

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        scope: Scope | None = None,
        ok: Collection[int] = ANY_STATUS,
    ) -> Response:
        """Return the registry's response to any request; statuses are not interpreted.

        Args:
            method: The HTTP method.
            path: From the registry's root: `/v2/…`; or an address, which gets credentials only if
                it is the registry's own.
            headers: Header fields.
            body: The body.
            scope: The authorisation that it needs; `None`: that of reading the catalogue.
            ok: The statuses that are returned; others are raised as `RegistryError`.
        """
        request = Request(
            method=method,
            url=path,
            scope=Scope.catalog() if scope is None else scope,
            headers=headers or {},
            body=body,
            ok=ok,
            redirects=method in {"GET", "HEAD"},
        )
        return self._sender.send(request)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self.session.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
