"""Pushing a layer, and telling what is missing, against the measured behaviour of cog's client."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import DockerCommsError, NetworkError, NotFoundError, RetryAborted
from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryEvent, RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Drop, Reply, ScriptedServer, Seen

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "seeds" / "cog_write_layer.json"
VECTORS = json.loads(FILE.read_text("utf-8"))
ROWS = {row["name"]: row for row in VECTORS["write_layer"]}
MEMBERS = {"name", "note", "error", "events", "progress", "requests"}
CHUNK, THRESHOLD = 1000, 2500
"""The sizes that the rows were measured with."""
REPOSITORY = "repo"

NOT_RUN_HERE = {
    "cancelled before the start": "there is no context to cancel: an interrupt ends the program",
    "connection refused": "one scheme is tried, not two; see test_retry for its events",
}


class UploadServer(ScriptedServer):
    """A registry's uploads, one of whose methods may refuse.

    Args:
        method: What is answered with `status`; None: nothing is.
        status: 0 drops the connection instead.
        times: How often; None: always.
        chunks_only: Only a piece with a Content-Range is refused.
        headers: Beside the Location of every answer.
        code: An OCI error code in the body of a refusal.
        there: Whether the blob is there already.
    """

    def __init__(
        self,
        *,
        method: str | None = None,
        status: int = 0,
        times: int | None = None,
        chunks_only: bool = False,
        headers: dict[str, str] | None = None,
        code: str = "",
        there: bool = False,
    ) -> None:
        super().__init__(rest=self._answer)
        self._refusing = (method, status, chunks_only, code)
        self._left = times
        self._headers = headers or {}
        self._there = there
        self.content = bytearray()

    def _answer(self, seen: Seen) -> Reply | Drop:
        method, status, chunks_only, code = self._refusing
        if seen.method == method and not (chunks_only and "content-range" not in seen.headers):
            if self._left is None or self._left > 0:
                self._left = None if self._left is None else self._left - 1
                body = json.dumps({"errors": [{"code": code}]}).encode() if code else b""
                said = {"Content-Type": "application/json"} if code else {}
                return Reply(status, body, said) if status else Drop()
        number = len(self.requests)
        if seen.method == "HEAD":
            return Reply(200, length=THRESHOLD + 1) if self._there else Reply(404)
        if seen.method == "POST":
            self.content.clear()
            return self._moved(202, f"u{number}")
        if seen.method == "DELETE":
            return Reply(204)
        if seen.method == "GET":
            held = max(0, len(self.content) - 1)
            return Reply(204, headers={"Location": seen.target, "Range": f"0-{held}"})
        self.content += seen.body
        return self._moved(
            201 if seen.method == "PUT" else 202, seen.target.partition("?")[0] + "x"
        )

    def _moved(self, status: int, place: str) -> Reply:
        path = place if place.startswith("/") else f"/v2/{REPOSITORY}/blobs/uploads/{place}"
        return Reply(status, headers={"Location": path, **self._headers})

    def sent(self, method: str) -> list[int]:
        """Return the sizes of the bodies that came with `method`."""
        return [len(seen.body) for seen in self.requests if seen.method == method]


class Push:
    """One push of `size` bytes to `server`, with cog's numbers of the rows."""

    def __init__(
        self, server: UploadServer, size: int, *, steps: int = 3, stop_at: int = 0
    ) -> None:
        self.data = bytes(i % 251 for i in range(size))
        self.events: list[RetryEvent] = []
        self.progress: list[tuple[int, int]] = []
        self.error: DockerCommsError | None = None

        def hook(event: RetryEvent) -> bool:
            self.events.append(event)
            return event.attempt != stop_at

        policy = RetryPolicy(
            max_attempts=steps,
            max_elapsed=None,
            initial=0.02,
            factor=2.0,
            statuses=RetryPolicy.upload().statuses,
            codes=RetryPolicy.upload().codes,
            retry_connection=True,
            respect_retry_after=True,
            on_retry=hook,
        )
        with HTTPRegistry(server.host, auth=DockerConfig(), clock=FakeClock()) as registry:
            try:
                registry.push_layer(
                    REPOSITORY,
                    lambda: io.BytesIO(self.data),
                    progress=lambda done, total: self.progress.append((done, total)),
                    retry=policy,
                    chunk_bytes=CHUNK if size > THRESHOLD else None,
                )
            except DockerCommsError as error:
                self.error = error

    @property
    def waits(self) -> list[tuple[int, int | None, float]]:
        return [
            (event.attempt, event.max_attempts, round(event.next_retry_in * 1000))
            for event in self.events
        ]


def waits(row: dict[str, Any]) -> list[tuple[int, int, float]]:
    """Return the events of a row."""
    return [
        (event["Attempt"], event["MaxAttempts"], event["NextMs"]) for event in row["events"] or ()
    ]


def scene(name: str) -> tuple[UploadServer, dict[str, Any]]:
    """Return the server of the row `name`, and how the layer is pushed to it."""
    if match := re.fullmatch(r"status (\d+) on (\w+), always", name):
        return UploadServer(method=match[2], status=int(match[1])), {"size": 100}
    always = {"method": "PUT", "status": 503}
    scenes: dict[str, tuple[UploadServer, dict[str, Any]]] = {
        "small blob": (UploadServer(), {"size": 100}),
        "exactly the threshold: one PATCH, no Content-Range": (UploadServer(), {"size": THRESHOLD}),
        "server max 700": (
            UploadServer(headers={"OCI-Chunk-Max-Length": "700"}),
            {"size": THRESHOLD + 1},
        ),
        "chunk refused with 416": (
            UploadServer(method="PATCH", status=416, chunks_only=True),
            {"size": THRESHOLD + 1},
        ),
        "503 on PUT, always, 5 steps": (UploadServer(**always), {"size": 100, "steps": 5}),
        "503 always, callback stops at attempt 2": (
            UploadServer(**always),
            {"size": 100, "steps": 5, "stop_at": 2},
        ),
        "one step": (UploadServer(**always), {"size": 100, "steps": 1}),
    }
    return scenes[name]


@pytest.mark.parametrize("name", [name for name in ROWS if name not in NOT_RUN_HERE])
def test_push_layer_agrees_with_cog(name: str) -> None:
    row = ROWS[name]
    server, options = scene(name)
    with server:
        push = Push(server, **options)
        assert (push.error is not None) == bool(row["error"])
        assert push.waits == waits(row)
        if "retry aborted" in row["error"]:
            assert isinstance(push.error, RetryAborted)
        elif "attempts" in row["error"]:
            assert isinstance(push.error, NetworkError)
            assert push.error.attempts == int(re.search(r"after (\d+)", row["error"])[1])
        pieces = [asked["body_bytes"] for asked in row["requests"] if "content_range" in asked]
        if push.error is None:
            assert bytes(server.content) == push.data
            assert push.progress[-1] == tuple(row["progress"][-1])
            if name != "chunk refused with 416":
                # What does not fit into one piece travels in the same ones
                assert [size for size in server.sent("PATCH") if pieces] == pieces
    assert push.progress == sorted(push.progress)


def test_push_layer_vectors_are_all_understood() -> None:
    assert len(ROWS) == 20
    assert set(NOT_RUN_HERE) <= set(ROWS)
    for row in ROWS.values():
        assert set(row) <= MEMBERS


# What the rows that are not here measured, by the table's words.


@pytest.mark.parametrize("status", [408, 499, 500, 502, 503, 504, 522])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_push_layer_retries_what_passes(method: str, status: int) -> None:
    size = THRESHOLD + 1 if method == "PATCH" else 100
    with UploadServer(method=method, status=status, times=2) as server:
        push = Push(server, size)
        assert push.error is None
        assert bytes(server.content) == push.data
    assert push.waits == [(1, 3, 20), (2, 3, 40)]


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 409, 416, 429, 501, 505, 507, 520, 524]
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_push_layer_does_not_retry_what_does_not_pass(method: str, status: int) -> None:
    with UploadServer(method=method, status=status) as server:
        push = Push(server, 100)
    assert push.error is not None
    assert push.events == []


@pytest.mark.parametrize(
    "code", ["TOOMANYREQUESTS", "UNKNOWN", "UNAVAILABLE", "BLOB_UPLOAD_INVALID"]
)
def test_push_layer_retries_codes_that_pass_whatever_the_status(code: str) -> None:
    with UploadServer(method="POST", status=429, code=code, times=1) as server:
        push = Push(server, 100)
        assert push.error is None
        assert bytes(server.content) == push.data
    assert push.waits == [(1, 3, 20)]


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_push_layer_retries_broken_connections(method: str) -> None:
    size = THRESHOLD + 1 if method == "PATCH" else 100
    with UploadServer(method=method, times=1) as server:
        push = Push(server, size)
        assert push.error is None
        assert bytes(server.content) == push.data
    assert push.waits == [(1, 3, 20)]


@pytest.mark.parametrize("status", [400, 413, 416])
@pytest.mark.parametrize("times", [1, None])
def test_push_layer_goes_another_way_where_pieces_are_refused(
    status: int, times: int | None
) -> None:
    refusing = UploadServer(method="PATCH", status=status, times=times, chunks_only=True)
    with refusing as server:
        push = Push(server, 3 * CHUNK + 1)
        assert push.error is None
        assert bytes(server.content) == push.data
        assert len(server.requests) < 8
    assert push.events == []
    assert push.progress[-1] == (3 * CHUNK + 1, 3 * CHUNK + 1)


def test_push_layer_that_is_there_costs_one_request() -> None:
    with UploadServer(there=True) as server:
        push = Push(server, THRESHOLD + 1)
        assert [seen.method for seen in server.requests] == ["HEAD"]
    assert push.progress == [(THRESHOLD + 1, THRESHOLD + 1)]


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ({"OCI-Chunk-Min-Length": "1500"}, [1500, 1500, 1]),
        ({"OCI-Chunk-Min-Length": "1500", "OCI-Chunk-Max-Length": "700"}, [1500, 1500, 1]),
        ({"OCI-Chunk-Max-Length": "2000"}, [1000, 1000, 1000, 1]),
        ({"OCI-Chunk-Min-Length": "junk", "OCI-Chunk-Max-Length": "0"}, [1000, 1000, 1000, 1]),
    ],
)
def test_push_layer_sends_pieces_within_the_registrys_limits(
    headers: dict[str, str], pieces: list[int]
) -> None:
    with UploadServer(headers=headers) as server:
        push = Push(server, 3001)
        assert push.error is None
        assert server.sent("PATCH") == pieces


# --- what counts as missing ----------------------------------------------------------------------


def answer_of(row: dict[str, Any]) -> Reply:
    body = json.dumps({"errors": [{"code": row["code"], "message": "m"}]}) if row["code"] else ""
    return Reply(row["status"], body.encode(), {"Content-Type": "application/json"})


def missing_here(row: dict[str, Any]) -> bool:
    """More than cog: every 404, and every code of something missing, whatever the status."""
    return (
        row["inspect_is_NotFoundError"]
        or row["status"] == 404
        or row["code"] in {"MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"}
    )


@pytest.mark.parametrize(
    "row", VECTORS["inspect_errors"], ids=lambda row: f"{row['status']}-{row['code']}"
)
def test_inspect_tells_what_is_missing(row: dict[str, Any]) -> None:
    with ScriptedServer(rest=answer_of(row)) as server:
        with (
            HTTPRegistry(
                server.host, auth=DockerConfig(), clock=FakeClock(), retry=RetryPolicy.none()
            ) as registry,
            pytest.raises(DockerCommsError) as caught,
        ):
            registry.get_tag(REPOSITORY, "t")
    assert isinstance(caught.value, NotFoundError) == missing_here(row), caught.value
