"""The client of the probe: one registry over `http.client`, and the list of its questions."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
ARTIFACT = "application/vnd.example.probe"
EMPTY_CONFIG = {"mediaType": EMPTY, "digest": "", "size": 2}
CHUNK = bytes(range(256)) * 40
"""10,240 bytes: above the smallest chunk that any of the registries asks for."""

Result = Any
Row = Callable[["Probe"], Result]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The OCI error code, "text" where the body is no OCI error."""
        try:
            return str(self.json()["errors"][0]["code"])
        except (ValueError, KeyError, IndexError, TypeError):
            return "text"

    def range(self) -> str:
        return "with Range" if "range" in self.headers else "without Range"


class Probe:
    """One registry, one connection, a new repository for each row."""

    def __init__(self, host: str, headers: Mapping[str, str] | None = None) -> None:
        self.host = host
        self.headers = dict(headers or {})
        self._numbers = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self._connection = http.client.HTTPConnection(host, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; a new connection is opened where the old one has ended."""
        sent = {"Content-Length": str(len(body)), **self.headers, **(headers or {})}
        if method in {"GET", "HEAD"}:
            del sent["Content-Length"]
        for attempt in (1, 2):
            try:
                self._connection.request(method, target, body or None, sent)
                answer = self._connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, OSError):
                self._connection.close()
                # Once more where a kept connection had ended; on a new one it is the answer.
                if attempt == 2:
                    raise
            else:
                lower = {name.lower(): value for name, value in answer.getheaders()}
                return Answer(answer.status, lower, content)
        raise AssertionError("internal: the loop returns or raises")

    def repository(self) -> str:
        return f"probe/r{self._run}-{next(self._numbers)}"

    # Steps that many rows share.

    def open(self, repo: str, query: str = "") -> Answer:
        return self.ask("POST", f"/v2/{repo}/blobs/uploads/{query}")

    def at(self, answer: Answer, query: str = "") -> str:
        """Return the path and query of an answer's Location, with `query` added."""
        parts = urlsplit(answer.headers["location"])
        joined = "&".join(part for part in (parts.query, query) if part)
        return f"{parts.path}?{joined}" if joined else parts.path

    def patch(self, location: str, data: bytes, start: int) -> Answer:
        return self.ask(
            "PATCH",
            location,
            data,
            {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{start}-{start + len(data) - 1}",
            },
        )

    def finish(self, answer: Answer, digest: str, body: bytes = b"", span: str = "") -> Answer:
        headers = {"Content-Type": "application/octet-stream"}
        if span:
            headers["Content-Range"] = span
        return self.ask("PUT", self.at(answer, f"digest={digest}"), body, headers)

    def blob(self, repo: str, data: bytes) -> str:
        digest = digest_of(data)
        stored = self.finish(self.open(repo), digest, data)
        if stored.status != 201:
            raise RuntimeError(f"{self.host}: a plain blob push was answered {stored.status}")
        return digest

    def manifest(
        self,
        repo: str,
        reference: str = "",
        *,
        subject: str = "",
        headers: Mapping[str, str] | None = None,
        query: str = "",
        **changes: object,
    ) -> tuple[Answer, str]:
        """Push an artifact manifest, by its digest if no reference is given."""
        config = {**EMPTY_CONFIG, "digest": self.blob(repo, b"{}")}
        value: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": config,
            "layers": [config],
            "annotations": {"probe": uuid.uuid4().hex},
        }
        if subject:
            value["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 2}
        value.update(changes)
        value = {key: item for key, item in value.items() if item != "absent"}
        data = json.dumps(value).encode()
        digest = digest_of(data)
        answer = self.ask(
            "PUT",
            f"/v2/{repo}/manifests/{reference or digest}{query}",
            data,
            {"Content-Type": str(value.get("mediaType", MANIFEST)), **(headers or {})},
        )
        return answer, digest

    def tagged(self, *tags: str) -> str:
        """Return a repository with these tags."""
        repo = self.repository()
        for tag in tags:
            self.manifest(repo, tag)
        return repo

    def tags(self, repo: str, query: str = "") -> Answer:
        return self.ask("GET", f"/v2/{repo}/tags/list{query}")

    def referrers(self, repo: str, digest: str, query: str = "") -> list[dict[str, Any]] | None:
        """Return the entries, or `None` without an API."""
        answer = self.ask("GET", f"/v2/{repo}/referrers/{digest}{query}")
        return (answer.json()["manifests"] or []) if answer.status == 200 else None


class Rows:
    """A decorator that collects the questions of one module, each under its name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Row] = {}

    def __call__(self, name: str) -> Callable[[Row], Row]:
        def add(function: Row) -> Row:
            self.by_name[name] = function
            return function

        return add
