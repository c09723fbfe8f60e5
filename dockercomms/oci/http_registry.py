"""`HTTPRegistry`: the registry interface over HTTP, for one host.

Nothing is connected, and requests is not imported, before the first request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from dockercomms.oci.auth import Credentials, DockerConfig
from dockercomms.oci.exchange import ANY_STATUS, Body, Request, Response
from dockercomms.oci.listing import HTTPLister
from dockercomms.oci.pushing import Pieces
from dockercomms.oci.reference import DEFAULT_HOST, HUB_HOSTS
from dockercomms.oci.referrers import ReferrersAPI
from dockercomms.oci.retry import RateLimiter, RetryHook, RetryPolicy
from dockercomms.oci.scope import Scope
from dockercomms.oci.session import TIMEOUT_SECONDS, Endpoint, Session
from dockercomms.oci.writing import HTTPWriter
from dockercomms.platforms import Clock, SystemClock

if TYPE_CHECKING:
    import requests  # noqa: TID251 - a type only


class LazySender:
    """A `Sender` that makes its session when the first request is sent. Safe for threads."""

    def __init__(self, make: Callable[[], Session], retry: RetryPolicy, clock: Clock) -> None:
        self.retry = retry
        self.clock = clock
        self._make = make
        self._lock = threading.Lock()
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session; imports requests the first time."""
        with self._lock:
            if self._session is None:
                self._session = self._make()
            return self._session

    def send(self, request: Request) -> Response:
        """Return the response; see `Sender.send`."""
        return self.session.send(request)

    def adopt(self, url: str) -> str:
        """Return the address to use for one from a header; see `Sender.adopt`."""
        return self.session.adopt(url)

    def server_time(self) -> datetime | None:
        """Return the registry's clock, None before its first answer."""
        with self._lock:
            known = self._session
        return None if known is None else known.server_time()

    def close(self) -> None:
        """Close the connections; the next request makes new ones."""
        with self._lock:
            known, self._session = self._session, None
        if known is not None:
            known.close()


class HTTPRegistry(HTTPLister, HTTPWriter, AbstractContextManager["HTTPRegistry"]):
    """`Registry` over HTTP, for one host. Safe for several threads.

    Args:
        host: Host and perhaps port, as in a reference; docker.io is Docker Hub.
        plain_http: Whether it is spoken to without TLS; None: only on this machine's loopback.
        insecure: Leave its certificate unchecked.
        ca_file: Certificates that are trusted besides the system's.
        timeout: Seconds that it may be silent.
        user_agent: None: `dockercomms/<version>`.
        transport: A `requests` adapter that sends instead of the network, for tests.
        auth: Where credentials are looked up; None: this user's configuration files.
        credentials: Given credentials, which come first.
        retry: The policy of requests, and of `push_blob` and downloads as a whole.
        limiter: Shared by all that must stay below one rate.
        debug_id: Stands in front of its lines in the log `dockercomms.oci`.
        clock: The time and the waiting.
        on_retry: Told before each retry; False aborts.

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
        transport: requests.adapters.BaseAdapter | None = None,
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
        time = SystemClock() if clock is None else clock

        def make() -> Session:
            return Session(
                endpoint,
                retry=policy,
                clock=time,
                transport=transport,
                config=auth,
                credentials=credentials,
                limiter=limiter,
            )

        self.endpoint = endpoint
        self._sender = self._lazy = LazySender(make, policy, time)
        self._referrers_api = ReferrersAPI(self._sender)
        self.pieces = Pieces(endpoint.host)
        """The sizes of requests that the registry took or refused."""

    @property
    def session(self) -> Session:
        """The session underneath."""
        return self._lazy.session

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
        """Return the registry's answer to any request; statuses are not interpreted.

        Args:
            method: The HTTP method.
            path: From the registry's root: `/v2/…`; or an address, which gets credentials only if
                it is the registry's own.
            headers: Header fields.
            body: What is sent.
            scope: What authorisation it needs; None: that of reading the catalogue.
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
        """Close the connections; the next request makes new ones."""
        self._lazy.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
