"""The requests of the Go dockercomms' client, compared with ours.

The rows know contents by their digests only, so ours have other ones: `DIGESTS` maps the digests of
the rows to ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dockercomms.errors import NotFoundError
from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.client import Client
from dockercomms.oci.interface import read_all
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_OCTET_STREAM,
    Descriptor,
    digest_of,
)
from dockercomms.oci.tag_schema import append_entry
from dockercomms.protocol.manifest import ManifestBuilder
from tests.fakes.clock import FakeClock
from tests.fakes.images import artifact
from tests.fakes.registry import DISTRIBUTION, OLAREG, FakeRegistry

ROWS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "spec/vectors/seeds/dockercomms_client.json").read_text()
)
SERVERS = {
    "distribution v3.1.2 (no referrers API)": DISTRIBUTION,
    "olareg (referrers API)": OLAREG,
}
MEMBERS = {"Call", "Result", "Error", "is_not_found", "requests"}
BOX = "dc/box"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
RECEIPT_TYPE = "application/vnd.dockercomms.receipt.v1"

CONTENT, ABSENT = b"content", b"absent"
BLOB = Descriptor.of(CONTENT, MEDIA_TYPE_OCTET_STREAM)
MESSAGE = artifact("message").data
SUBJECT = Descriptor.of(MESSAGE, MEDIA_TYPE_MANIFEST)


def bundle(number: int) -> bytes:
    annotations = {"number": str(number)}
    return ManifestBuilder.bundle(SUBJECT, annotations, BLOB).build()[0]


DIGESTS: dict[str, bytes] = {
    "44136fa355b3": EMPTY_CONFIG_BYTES,
    "6c87f68371b2": CONTENT,
    "8e35c2cd3bf6": ABSENT,
    "81df6402c9ac": MESSAGE,
    "271e34c28784": bundle(1),
}
"""The first digits of a row's digest: what has it here."""


def push_all(client: Client) -> None:
    """Push what the earlier calls of a row's sequence left behind."""
    client.ensure_empty_config()
    for descriptor, data in (*artifact("message").blobs, (BLOB, CONTENT)):
        client.push_blob(descriptor, data)
    client.push_manifest(MESSAGE, MEDIA_TYPE_MANIFEST, "msg-1")


def push_bundles(client: Client) -> None:
    push_all(client)
    for number in (1, 2):
        pushed = client.push_manifest(bundle(number), MEDIA_TYPE_MANIFEST)
        entry = Descriptor(
            media_type=pushed.media_type,
            digest=pushed.digest,
            size=pushed.size,
            artifact_type=BUNDLE_TYPE,
        )
        if not client.referrers_supported():
            append_entry(client.registry, BOX, SUBJECT.digest, entry)


def tagged(client: Client) -> None:
    push_all(client)
    client.push_manifest(MESSAGE, MEDIA_TYPE_MANIFEST, "inbox-alice-1")


def nothing(_: Client) -> None:
    """Leave the registry empty."""


def absent(client: Client) -> object:
    return client.fetch_blob(Descriptor.of(ABSENT, MEDIA_TYPE_OCTET_STREAM))


Call = tuple[Callable[[Client], None], Callable[[Client], object]]

CALLS: dict[str, Call] = {
    "EnsureEmptyConfig (absent)": (nothing, lambda client: client.ensure_empty_config()),
    "Exists(blob, absent)": (nothing, lambda client: client.exists(BLOB)),
    "PushBlob again": (push_all, lambda client: client.push_blob(BLOB, CONTENT)),
    "Exists(blob, present)": (push_all, lambda client: client.exists(BLOB)),
    "FetchBlob absent": (push_all, absent),
    "PushManifest without tag": (
        push_all,
        lambda client: client.push_manifest(MESSAGE, MEDIA_TYPE_MANIFEST),
    ),
    "Exists(manifest)": (push_all, lambda client: client.exists(SUBJECT)),
    "Resolve digest": (push_all, lambda client: client.resolve(SUBJECT.digest)),
    "FetchManifest tag": (
        push_all,
        lambda client: read_all(client.fetch_manifest("msg-1"), 10_000),
    ),
    "Tag": (push_all, lambda client: client.tag(SUBJECT.digest, "inbox-alice-1")),
    "Tags after msg-0": (
        tagged,
        lambda client: [list(page.tags) for page in client.pages("inbox-alice-1") if page.tags],
    ),
    "Referrers of a subject with none": (
        push_all,
        lambda client: len(list(client.referrers(SUBJECT))),
    ),
    "PushManifest of a bundle with subject (first)": (
        push_all,
        lambda client: client.push_manifest(bundle(1), MEDIA_TYPE_MANIFEST),
    ),
    "Referrers, all": (
        push_bundles,
        lambda client: [entry.artifact_type for entry in client.referrers(SUBJECT)],
    ),
    "Referrers, filter matches nothing": (
        push_bundles,
        lambda client: len(list(client.referrers(SUBJECT, RECEIPT_TYPE))),
    ),
}
"""The setup before a call, and the call."""

EXPECTED: dict[str, object] = {
    "EnsureEmptyConfig (absent)": EMPTY_CONFIG,
    "Exists(blob, absent)": False,
    "PushBlob again": BLOB,
    "Exists(blob, present)": True,
    "PushManifest without tag": SUBJECT,
    "Exists(manifest)": True,
    "Resolve digest": SUBJECT,
    "FetchManifest tag": (MESSAGE, SUBJECT),
    "Tag": SUBJECT,
    "Tags after msg-0": [["msg-1"]],
    "Referrers of a subject with none": 0,
    "PushManifest of a bundle with subject (first)": Descriptor.of(bundle(1), MEDIA_TYPE_MANIFEST),
    "Referrers, all": [BUNDLE_TYPE, BUNDLE_TYPE],
    "Referrers, filter matches nothing": 0,
}

MESSAGE_PATH = f"/v2/{BOX}/manifests/81df6402c9ac"
SCHEMA = f"GET /v2/{BOX}/manifests/sha256-81df6402c9ac"
NO_API, API = SERVERS

DIFFERENCES: dict[tuple[str, str], tuple[list[str], str]] = {
    **{
        (server, "PushManifest without tag"): (
            [f"PUT {MESSAGE_PATH} 201"],
            "a manifest without a tag is put by its digest",
        )
        for server in SERVERS
    },
    (NO_API, "PushManifest of a bundle with subject (first)"): (
        [f"PUT /v2/{BOX}/manifests/271e34c28784 201"],
        "the client puts what it is given; `tag_schema.append_entry` adds it to the tag schema",
    ),
    (NO_API, "Referrers, all"): (
        [f"{SCHEMA} 200"],
        "whether there is an API is asked once, not with each subject",
    ),
    (NO_API, "Referrers, filter matches nothing"): ([f"{SCHEMA} 200"], "the same"),
}
"""Server and call: what ours asks in place of what was measured, and why."""


@contextmanager
def serving(server: str) -> Iterator[tuple[FakeRegistry, Client]]:
    with FakeRegistry(SERVERS[server]) as fake:
        reference = f"{fake.host}/{BOX}"
        with Client(reference, auth=DockerConfig(), clock=FakeClock()) as client:
            yield fake, client


def ours(text: str) -> str:
    """Return `text` with our digests for those of the rows."""
    for short, data in DIGESTS.items():
        digest = digest_of(data)
        text = re.sub(rf"sha256:{short}[0-9a-f]*|(?<=/){short}\b", digest, text)
        text = re.sub(rf"sha256-{short}[0-9a-f]*", digest.replace(":", "-"), text)
    return text


def normal(text: str) -> str:
    """Return a request without what only a session has."""
    text = re.sub(r"/uploads/[^/? ]+", "/uploads/<id>", text)
    return re.sub(r"([?&])_?state=[^& ]*&?", r"\1", text).replace("?&", "?").rstrip("?&")


def measured(row: dict[str, Any]) -> list[str]:
    found = []
    for asked in row["requests"]:
        path = re.sub(r"&state=[^&]*", "", asked["Path"])
        found.append(ours(f"{asked['Method']} {path} {asked['Status']}"))
    return found


@pytest.mark.parametrize(
    ("server", "row"),
    [(server, row) for server, found in ROWS.items() for row in found],
    ids=lambda value: value if isinstance(value, str) else value["Call"],
)
def test_client_asks_what_was_measured(server: str, row: dict[str, Any]) -> None:
    assert set(row) == MEMBERS
    name = row["Call"]
    before, call = CALLS[name]
    with serving(server) as (fake, client):
        before(client)
        fake.forget_requests()
        if row["is_not_found"]:
            with pytest.raises(NotFoundError):
                call(client)
        else:
            result = call(client)
            assert result == EXPECTED[name]
        asked = [normal(f"{seen.method} {seen.target} {seen.status}") for seen in fake.asked()]
    different = DIFFERENCES.get((server, name))
    wanted = measured(row) if different is None else [ours(line) for line in different[0]]
    assert asked == wanted


def test_differences_are_all_of_known_rows() -> None:
    known = {(server, row["Call"]) for server, found in ROWS.items() for row in found}
    assert set(DIFFERENCES) <= known
    assert {call for _, call in known} == set(CALLS)


@pytest.mark.parametrize("server", SERVERS)
def test_referrers_supported_asks_for_the_api_only(server: str) -> None:
    """The original says yes where only the tag schema answers."""
    with serving(server) as (_, client):
        push_bundles(client)
        assert client.referrers_supported() == (server == API)


def test_client_of_a_host_without_a_dot_speaks_tls() -> None:
    """The original speaks plain HTTP to every host without a dot, where a typo ends as well."""
    for host, scheme in (("registry", "https"), ("localhost", "http"), ("127.0.0.1", "http")):
        with Client(f"{host}:5000/a/b", auth=DockerConfig()) as client:
            registry: Any = client.registry
            assert registry.endpoint.base_url == f"{scheme}://{host}:5000"
