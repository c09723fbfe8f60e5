"""Sends token requests with the standard library, for tests that have no session."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

from dockercomms.errors import NetworkError
from dockercomms.oci.auth.token import MAX_TOKEN_BYTES, TokenRequest, TokenResponse


def exchange(request: TokenRequest, *, tls: ssl.SSLContext | None = None) -> TokenResponse:
    """Return the answer to `request`; follow no redirect, read only the needed bytes."""
    parts = urlsplit(request.url)
    connection = (
        http.client.HTTPConnection(parts.netloc, timeout=10)
        if parts.scheme == "http"
        else http.client.HTTPSConnection(parts.netloc, timeout=10, context=tls)
    )
    target = parts._replace(scheme="", netloc="").geturl()
    try:
        connection.request(request.method, target, request.body, dict(request.headers))
        response = connection.getresponse()
        return TokenResponse(response.status, response.read(MAX_TOKEN_BYTES + 1))
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(f"{parts.netloc}: {error}") from error
    finally:
        connection.close()
