"""The transport that the session mounts: direct where it can be, through requests where it must.

Time limits hold on everything, and each host has TLS settings of its own. Both classes are made on
first use, because requests is loaded only then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dockercomms.oci.proxies import login_header, shown

if TYPE_CHECKING:
    import ssl

    from dockercomms.oci.pace import Patience

CONNECT_SECONDS = 10.0
"""How long one address may take to connect."""

POOL_CONNECTIONS = 32
"""Connections kept for use again; more threads than that work, on connections of their own."""


@functools.cache
def adapter_class() -> Any:
    """Return the transport: time limits on everything, and our own TLS settings per host."""
    import requests.adapters  # noqa: PLC0415, TID251 - loaded with oras

    from dockercomms.oci.direct import Connections, exchange  # noqa: PLC0415 - it loads http.client
    from dockercomms.oci.pace import Patience  # noqa: PLC0415 - the same

    base: Any = requests.adapters.HTTPAdapter

    class PatientAdapter(base):  # type: ignore[misc] # its parent is used without types
        def __init__(
            self,
            context_for: Callable[[str], ssl.SSLContext],
            timeout: float,
            monotonic: Callable[[], float],
        ) -> None:
            patience = Patience(timeout=timeout, monotonic=monotonic)
            self._context_for = context_for
            self._times = (min(CONNECT_SECONDS, timeout), timeout)
            self._patient = functools.cache(functools.partial(_patient_class, patience))
            self._direct = Connections(
                context_for,
                connect_seconds=self._times[0],
                patience=patience,
                keep=POOL_CONNECTIONS,
            )
            super().__init__(pool_connections=POOL_CONNECTIONS, pool_maxsize=POOL_CONNECTIONS)

        def send(self, request: Any, **options: Any) -> Any:
            if options.get("proxies"):
                return super().send(request, **{**options, "timeout": self._times})
            body = exchange(
                self._direct, request.method, request.url, request.headers, request.body
            )
            return _response_class()(request, body)

        def close(self) -> None:
            self._direct.close()
            super().close()

        def build_connection_pool_key_attributes(
            self, request: Any, *_: Any, **__: Any
        ) -> tuple[Any, dict[str, Any]]:
            host, _ignored = super().build_connection_pool_key_attributes(request, verify=True)
            if host["scheme"] != "https":
                return host, {}
            return host, {"ssl_context": self._context_for(urlsplit(request.url).netloc)}

        def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **options)
            pool.ConnectionCls = self._patient(pool.ConnectionCls)
            return pool

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            # urllib3 by itself trusts the system's certificates alone
            if proxy.lower().startswith("https://"):
                options["proxy_ssl_context"] = self._context_for(shown(proxy))
            return super().proxy_manager_for(proxy, **options)

        def proxy_headers(self, proxy: str) -> dict[str, str]:
            header = login_header(proxy)
            return {} if header is None else {"Proxy-Authorization": header}

        def cert_verify(self, *_: Any, **__: Any) -> None:
            """Do nothing: the TLS context knows what to trust."""

    return PatientAdapter


@functools.cache
def _response_class() -> Any:
    """Return the `requests.Response` over a `DirectBody`, made without what nobody asks for."""
    import requests  # noqa: PLC0415, TID251 - loaded with oras
    import requests.cookies  # noqa: PLC0415, TID251 - loaded with oras

    base: Any = requests.Response

    class DirectResponse(base):  # type: ignore[misc] # its parent is used without types
        def __init__(self, request: Any, body: Any) -> None:
            self._content = False
            self._content_consumed = False
            self._next = None
            self.raw = body
            self.request = request
            self.url = request.url
            self.status_code = body.answer.status
            self.reason = body.answer.reason
            self.headers = requests.structures.CaseInsensitiveDict(body.answer.fields.joined())
            self.encoding = None
            self.history: list[Any] = []
            self.elapsed = timedelta()

        @functools.cached_property
        def cookies(self) -> Any:
            return requests.cookies.RequestsCookieJar()

    return DirectResponse


def _patient_class(patience: Patience, base: Any) -> Any:
    """Return a connection class that gives sending as long as reading, and that reads paced.

    urllib3 sends under the limit for connecting, which a slow link passes in the middle of a blob.
    """
    from dockercomms.oci.pace import PacedResponse  # noqa: PLC0415 - it loads http.client

    if hasattr(base, "send_seconds"):
        return base

    class Patient(base):  # type: ignore[misc] # its parent is known at run time
        send_seconds = patience.timeout

        @staticmethod
        def response_class(sock: Any, **options: Any) -> PacedResponse:
            return PacedResponse(sock, patience, **options)

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(self.send_seconds)

    return Patient
