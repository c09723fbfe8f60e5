"""A session for tests: nothing of this machine's own configuration, no waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.remote.exchange import Request
from dockercomms.oci.remote.retry import RateLimiter, RetryPolicy
from dockercomms.oci.remote.session import Endpoint, Session
from dockercomms.platforms.clock import Clock
from tests.fakes.clock import FakeClock

ANN = Credentials(username="ann", password="secret")


@contextmanager
def session(
    host: str,
    *,
    retry: RetryPolicy | None = None,
    clock: Clock | None = None,
    credentials: Credentials | None = None,
    limiter: RateLimiter | None = None,
    **endpoint: object,
) -> Iterator[Session]:
    made = Session(
        Endpoint(host=host, env={"HOME": "/nonexistent"}, **endpoint),
        retry=RetryPolicy.none() if retry is None else retry,
        clock=clock or FakeClock(),
        config=DockerConfig(),
        credentials=credentials,
        limiter=limiter,
    )
    try:
        yield made
    finally:
        made.close()


def pull(url: str = "/v2/a/b/manifests/t", **options: object) -> Request:
    return Request(**{"method": "GET", "url": url, "scope": Scope.pull("a/b"), **options})
