"""The faults of the fake registry."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

import pytest

from tests.fakes.probe_client import Probe
from tests.fakes.registry import FakeRegistry, Fault, Quirks, sha256
from tests.fakes.registry_faults import OTHER_DIGEST

DATA = b"0123456789"
TARGET = f"/v2/a/blobs/{sha256(DATA)}"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        registry.put_blob_raw("a", DATA)
        yield registry


@pytest.fixture
def client(registry: FakeRegistry) -> Iterator[Probe]:
    client = Probe(registry.host)
    yield client
    client.close()


def once(
    registry: FakeRegistry, method: str, target: str, body: bytes | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Send one request on a connection of its own; any fault is raised."""
    connection = http.client.HTTPConnection(registry.host, timeout=1)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    finally:
        connection.close()


def test_fail_at_counts_from_the_call(registry: FakeRegistry, client: Probe) -> None:
    client.ask("GET", TARGET)
    registry.fail_at(2, Fault.answer(500), times=2)
    assert registry.faults.pending == 2
    assert [client.ask("GET", TARGET).status for _ in range(4)] == [200, 500, 500, 200]
    assert registry.faults.pending == 0


def test_fail_when_takes_only_what_matches(registry: FakeRegistry, client: Probe) -> None:
    registry.fail_when(lambda request: request.method == "HEAD", Fault.unavailable(7), after=1)
    assert client.ask("HEAD", TARGET).status == 200
    assert client.ask("GET", TARGET).status == 200
    answer = client.ask("HEAD", TARGET)
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert registry.requests[-1].fault == Fault.unavailable(7)
    assert client.ask("HEAD", TARGET).status == 200


def test_one_request_takes_one_fault(registry: FakeRegistry, client: Probe) -> None:
    registry.fail_at(1, Fault.answer(500))
    registry.fail_at(1, Fault.answer(502))
    assert [client.ask("GET", TARGET).status for _ in range(3)] == [500, 502, 200]


def test_cleared_faults_do_not_happen(registry: FakeRegistry, client: Probe) -> None:
    registry.fail_at(1, Fault.answer(500), times=100)
    registry.faults.clear()
    assert client.ask("GET", TARGET).status == 200


def test_fault_that_would_never_happen_is_refused(registry: FakeRegistry) -> None:
    for n, times in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="nothing would fail"):
            registry.fail_at(n, Fault.silent(), times=times)


@pytest.mark.parametrize(("fault", "done"), [(Fault.drop_before(), 0), (Fault.drop_after(), 1)])
def test_dropped_connection_before_or_after_the_work(
    fault: Fault, done: int, registry: FakeRegistry
) -> None:
    registry.fail_at(1, fault)
    with pytest.raises((http.client.HTTPException, OSError)):
        once(registry, "POST", "/v2/new/blobs/uploads/")
    assert len(registry.store.uploads) == done
    assert registry.requests[-1].status is None


@pytest.mark.parametrize(("fault", "done"), [(Fault.silent(), 0), (Fault.silent_after(), 1)])
def test_silent_server_never_answers(fault: Fault, done: int, registry: FakeRegistry) -> None:
    registry.fail_at(1, fault)
    connection = http.client.HTTPConnection(registry.host, timeout=0.05)
    connection.request("POST", "/v2/new/blobs/uploads/")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    while len(registry.store.uploads) < done:
        time.sleep(0.001)
    connection.close()
    assert len(registry.store.uploads) == done


@pytest.mark.parametrize(("at", "got"), [(4, 4), (100, 10)])
def test_cut_request_leaves_what_came_of_the_body(
    at: int, got: int, registry: FakeRegistry, client: Probe
) -> None:
    location = client.at(client.open("a"))
    registry.fail_at(1, Fault.cut_request(at))
    with pytest.raises((http.client.HTTPException, OSError)):
        once(registry, "PATCH", location, DATA)
    assert client.ask("GET", location).headers["range"] == f"0-{got - 1}"
    assert registry.requests[-2].request_bytes == got


@pytest.mark.parametrize(("at", "got"), [(3, 3), (None, 5)])
def test_cut_body_is_shorter_than_announced(
    at: int | None, got: int, registry: FakeRegistry
) -> None:
    registry.fail_at(1, Fault.cut_body(at))
    with pytest.raises(http.client.IncompleteRead) as caught:
        once(registry, "GET", TARGET)
    assert (len(caught.value.partial), caught.value.expected) == (got, len(DATA) - got)
    assert registry.requests[-1].response_bytes == got


def test_garbage_is_no_json_but_says_so(registry: FakeRegistry) -> None:
    registry.fail_at(1, Fault.garbage())
    status, body, headers = once(registry, "GET", "/v2/a/tags/list")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(body)


def test_wrong_digest_is_only_said(registry: FakeRegistry) -> None:
    registry.fail_at(1, Fault.wrong_digest())
    _, body, headers = once(registry, "GET", TARGET)
    assert (body, headers["Docker-Content-Digest"]) == (DATA, OTHER_DIGEST)
    registry.fail_at(1, Fault.wrong_digest())
    assert "Docker-Content-Digest" not in once(registry, "GET", "/v2/")[2]


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Fault.wrong_body(), b"0123456788"),
        (Fault.longer(2), b"0123456789xx"),
        (Fault.shorter(3), b"0123456"),
    ],
)
def test_changed_body_is_announced_with_its_own_length(
    fault: Fault, body: bytes, registry: FakeRegistry
) -> None:
    registry.fail_at(1, fault, times=2)
    _, got, headers = once(registry, "GET", TARGET)
    assert (got, headers["Content-Length"]) == (body, str(len(body)))
    assert once(registry, "HEAD", TARGET)[1] == b""


def test_overrun_sends_more_than_announced(registry: FakeRegistry) -> None:
    registry.fail_at(1, Fault.overrun(5))
    _, got, headers = once(registry, "GET", TARGET)
    assert (got, headers["Content-Length"]) == (DATA, "10")
    assert registry.requests[-1].response_bytes == len(DATA) + 5


def test_cut_and_overrun_replace_chunked_encoding(registry: FakeRegistry) -> None:
    registry.quirks = Quirks(chunked_answers=True)
    registry.fail_at(1, Fault.cut_body(1))
    with pytest.raises(http.client.IncompleteRead):
        once(registry, "GET", TARGET)
    registry.fail_at(1, Fault.overrun(1))
    assert once(registry, "GET", TARGET)[1] == DATA
    assert once(registry, "GET", TARGET)[2]["Transfer-Encoding"] == "chunked"


def test_refused_request_may_have_a_body_of_its_own(registry: FakeRegistry) -> None:
    registry.fail_at(1, Fault.answer(429, b"slow down", Retry_After="3"))
    status, body, headers = once(registry, "GET", TARGET)
    assert (status, body, headers["Retry-After"]) == (429, b"slow down", "3")
