"""Whatever a stranger or a registry says, a parser gives a value or an error of ours."""

from __future__ import annotations

import base64
import contextlib
import importlib
import inspect
import json
import pkgutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

import dockercomms
from dockercomms.cli import stores as reg_stores
from dockercomms.cli.reg import deploy
from dockercomms.cli.reg import read as reg_read
from dockercomms.errors import UsageError
from dockercomms.messages import command as handover
from dockercomms.oci import model, stores, strict_json
from dockercomms.oci.auth import token
from dockercomms.oci.auth.token import Scope, TokenRequest, TokenResponse
from dockercomms.oci.content import read_facts
from dockercomms.oci.images import inspect as inspection
from dockercomms.oci.layout import index as layout_index
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MEDIA_TYPE_INDEX, Descriptor, Digest
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.remote import errors as statuses
from dockercomms.oci.remote import exchange as headers
from dockercomms.oci.remote import retry
from dockercomms.oci.remote.errors import foreign_errors
from dockercomms.oci.remote.exchange import origin, redact_url
from dockercomms.oci.remote.listing import ReferrersAPI
from dockercomms.oci.remote.pace import PacedResponse, Patience
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.tag_schema import append_entry, tag_schema_entries
from dockercomms.protocol import fields, manifest, tags
from dockercomms.protocol.header import MessageHeader
from dockercomms.relay import inventory
from dockercomms.trust import bundle, material, policy_file, statement
from dockercomms.trust.statement import STATEMENT_TYPE
from dockercomms.trust.verifier import verify_message, verify_receipt
from tests.fakes.fuzzing import JUNK, TEXTS, fuzz, json_like, mangled, text_like, torn
from tests.unit.oci.remote.test_exchange import Answer, Sender
from tests.unit.trust import signed

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NUMBER = 20
"""Examples of each in the quick tier: a second or two for all of them."""

MESSAGE = json.loads(signed.manifest())
RECEIPT = {
    **MESSAGE,
    "artifactType": "application/vnd.dockercomms.receipt.v1",
    "layers": [EMPTY_CONFIG.to_json()],
    "subject": signed.message().descriptor.bare().to_json(),
    "annotations": dict(signed.receipt().descriptor.annotations),
}
KEY_BUNDLE = json.loads(signed.signed())
BUNDLE = {
    **RECEIPT,
    "artifactType": bundle.ARTIFACT_TYPE_BUNDLE,
    "layers": [Descriptor.of(signed.signed(), bundle.ARTIFACT_TYPE_BUNDLE).to_json()],
    "annotations": {"dockercomms.version": "1.1"},
}
ANCHOR = json.loads(manifest.ManifestBuilder.inbox_anchor("b" * 26, NOW.date()).build()[0])
INLINE = {**MESSAGE["layers"][0], "data": "aGVsbG8="}
ENTRY = {
    **RECEIPT["subject"],
    "artifactType": "application/vnd.dockercomms.message.v1",
    "annotations": MESSAGE["annotations"],
    "platform": {"os": "linux", "architecture": "arm64", "os.features": ["x"]},
}
INDEX = {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": [ENTRY, ENTRY]}
CONFIG = {"os": "linux", "architecture": "amd64", "config": {"Labels": {"a": "b"}}}
STATEMENT = signed.statement(signed.signed())
RECEIPT_STATEMENT = signed.statement(signed.signed_receipt())
KEYLESS_BUNDLE = {
    **KEY_BUNDLE,
    "verificationMaterial": {
        "certificate": {"rawBytes": "AAAA"},
        "tlogEntries": [{"logIndex": "1", "inclusionProof": {"hashes": ["AA=="]}}],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]},
    },
}
MANIFESTS = json_like(MESSAGE, {**MESSAGE, "layers": [INLINE]}, RECEIPT, BUNDLE, ANCHOR)
BUNDLES = json_like(KEY_BUNDLE, KEYLESS_BUNDLE)
STATEMENTS = json_like(STATEMENT, RECEIPT_STATEMENT, {**STATEMENT, "_type": [STATEMENT_TYPE]})
DATES = text_like("Fri, 20 Nov 2026 12:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "7")
ADDRESSES = text_like("https://u:p@h.example:5000/v2/x?a=b#c", "http://[::1]/", "/v2/x", "//[::1")
POLICY = 'version = 1\nme = ["bob"]\n[[sender]]\nname = "alice"\nmax_age = "P1D"\n'
Fuzzer = tuple[st.SearchStrategy[Any], Callable[[Any], object]]


def place(text: str) -> Any:
    return stores.parse_place(text, default_host="r.example")


def token_of(body: bytes) -> object:
    request = TokenRequest(method="GET", url="https://auth.example/token")
    found = token.parse_response(
        TokenResponse(200, body), host="r.example", request=request, credentials=None
    )
    return found.lifetime_seconds + 1, found.identity_token.encode("ascii")


def header_like(name: str, texts: st.SearchStrategy[str], read: Callable[[Any], object]) -> Fuzzer:
    return texts, lambda text: read(Answer(**{name: text}))


def enveloped(payload: bytes, kind: object = "application/vnd.in-toto+json") -> bytes:
    """Return a bundle around a statement that its sender signed, whatever it says."""
    value = json.loads(json.dumps(KEY_BUNDLE))
    value["dsseEnvelope"] |= {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
    }
    return json.dumps(value).encode()


PARSERS: dict[Callable[..., Any], Fuzzer] = {
    strict_json.parse_json: (MANIFESTS, strict_json.parse_json),
    strict_json.parse_json_list: (
        json_like(INDEX),
        lambda data: strict_json.parse_json_list(data, "manifests", where="it"),
    ),
    model.parse_digest: (text_like("sha256:" + "a" * 64), model.parse_digest),
    model.parse_manifest: (MANIFESTS, model.parse_manifest),
    model.parse_index: (json_like(INDEX), model.parse_index),
    model.parse_listed: (
        json_like(INDEX),
        lambda data: model.parse_listed(data, where="it"),
    ),
    model.parse_children: (json_like(MESSAGE, INDEX), model.parse_children),
    inspection.parse_image_config: (json_like(CONFIG), inspection.parse_image_config),
    layout_index.parse_layout_index: (
        json_like(INDEX, {**INDEX, "manifests": None}),
        lambda data: layout_index.parse_layout_index(data, where="index.json").tags(),
    ),
    retry.parse_retry_after: (DATES, lambda text: retry.parse_retry_after(text, NOW)),
    retry.parse_date: (DATES, retry.parse_date),
    token.parse_challenges: (
        text_like('Bearer realm="https://a.example/t",service="r",scope="x"', "Basic realm=x"),
        lambda text: token.parse_challenges([text]),
    ),
    token.parse_response: (
        json_like({"token": "t", "expires_in": 300, "refresh_token": "r", "issued_at": "x"}),
        token_of,
    ),
    fields.parse_time: (text_like("2026-11-20T12:00:00.000Z"), fields.parse_time),
    fields.parse_rfc3339: (text_like("2026-11-20T12:00:00.000+01:00"), fields.parse_rfc3339),
    fields.parse_chunk_index: (text_like("0", "9999"), fields.parse_chunk_index),
    fields.parse_count: (text_like("1"), lambda text: fields.parse_count(text, "x", limit=9)),
    tags.parse_tag: (
        text_like(
            f"inbox-{'b' * 26}-20261120-0000002a-{'0' * 16}", f"receipts-{'b' * 26}-99991231"
        ),
        tags.parse_tag,
    ),
    manifest.parse_message: (MANIFESTS, lambda data: manifest.parse_message(data).header.expires),
    manifest.parse_receipt: (MANIFESTS, manifest.parse_receipt),
    manifest.parse_bundle: (MANIFESTS, manifest.parse_bundle),
    manifest.parse_anchor: (MANIFESTS, manifest.parse_anchor),
    inventory.parse_attached: (MANIFESTS, inventory.parse_attached),
    bundle.parse_bundle_json: (BUNDLES, bundle.parse_bundle_json),
    bundle.parse_envelope: (
        mangled(KEY_BUNDLE["dsseEnvelope"]),
        lambda value: bundle.parse_envelope(value, "it"),
    ),
    material.parse_material: (
        BUNDLES | STATEMENTS.map(enveloped),
        material.parse_material,
    ),
    statement.parse_statement: (STATEMENTS, statement.parse_statement),
    policy_file.parse_policy: (
        text_like(POLICY),
        lambda text: policy_file.parse_policy(text, where="trust.toml"),
    ),
    policy_file.parse_duration: (text_like("P1DT2H", "P999999W"), policy_file.parse_duration),
    stores.parse_repo: (text_like("r.example/a/b:t", "oci-layout:x"), stores.parse_repo),
    stores.parse_place: (text_like("r.example/a/b:t", "oci-archive:x"), place),
    handover.parse_command: (text_like("sh -c 'x {dir}'"), handover.parse_command),
    reg_stores.parse_platform: (text_like("linux/arm64/v8"), reg_stores.parse_platform),
    reg_read.parse_range: (text_like("0-99", "7-"), reg_read.parse_range),
    deploy.parse_items: (
        json_like({"data": CONFIG, "to": "r.example/a"}),
        lambda data: deploy.parse_items(data, place, where="list"),
    ),
}
"""Every public function `parse_...` of the package, and how it is fuzzed."""


# --- what is no parse_ by its name ---------------------------------------------------------------


def header_of(annotations: object) -> object:
    if not isinstance(annotations, dict) or any(
        not isinstance(one, str) for item in annotations.items() for one in item
    ):
        return None  # the JSON's parser lets nothing else pass
    return MessageHeader.from_annotations(annotations).expires


def error_of(body: bytes) -> object:
    return str(statuses.error_from_response(Answer(body, status=400)))


class Adopting(Sender):
    """A sender that looks at addresses as the session does."""

    def adopt(self, url: str) -> str:
        origin(url)
        return url


def answered(data: bytes, *, link: str | None = None) -> list[Descriptor]:
    """Return what a registry lists whose one answer of the referrers API is `data`."""
    extra = {} if link is None else {"Link": link}
    sender = Adopting(*[Answer(data, **extra) for _ in range(3)], retry=RetryPolicy.none())
    try:
        found = ReferrersAPI(sender).entries("a/b", Digest("sha256:" + "1" * 64))
        return [] if found is None else list(found)
    except IndexError:  # more was asked for than there are answers
        return []


def listed_by_tag(data: bytes) -> object:
    """Return what the tag schema's index lists, after an entry was added to it."""
    registry, subject = MemoryRegistry(), Digest("sha256:" + "1" * 64)
    try:
        registry.push_manifest("a/b", data, MEDIA_TYPE_INDEX, tags=[referrers_tag(subject)])
    except Exception as error:
        if type(error).__name__ in {"ManifestInvalid", "ManifestBlobUnknown"}:
            return None
        raise
    append_entry(registry, "a/b", subject, signed.message().descriptor)
    return tag_schema_entries(registry, "a/b", subject)


def head(data: bytes) -> object:
    """Return what is read of an answer, behind which the connection ends."""
    far, near = socket.socketpair()
    with near, foreign_errors("GET https://h.example/v2/"):
        with far:
            far.sendall(data)
        answer = PacedResponse(near, Patience(timeout=30.0), method="GET")
        with contextlib.closing(answer):
            answer.begin()
            return answer.status, answer.headers.items(), answer.read(100)


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    b'WWW-Authenticate: Bearer realm="x"\r\n\r\nhello'
)


def verified(data: bytes) -> object:
    return verify_message(signed.message(), [data], signed.terms())


def verified_receipt(data: bytes) -> object:
    return verify_receipt(signed.receipt(), [data], signed.terms())


OTHERS: dict[str, Fuzzer] = {
    "header annotations": (mangled(MESSAGE["annotations"]) | JUNK, header_of),
    "index entries": (
        mangled(ENTRY) | mangled(INLINE),
        lambda value: Descriptor.from_json(value, "entry").inline(),
    ),
    "facts of a manifest": (MANIFESTS, lambda data: read_facts(data, "it")),
    "answers about referrers": (json_like(INDEX), answered),
    "pages of referrers": (ADDRESSES, lambda url: answered(b"{}", link=f"<{url}>")),
    "indexes of the tag schema": (json_like(INDEX), listed_by_tag),
    "errors of registries": (
        json_like({"errors": [{"code": "DENIED", "message": "no", "detail": {"a": 1}}]}),
        error_of,
    ),
    "verified bundles": (BUNDLES | STATEMENTS.map(enveloped), verified),
    "verified receipts": (BUNDLES | STATEMENTS.map(enveloped), verified_receipt),
    "payload types": (TEXTS.map(lambda text: enveloped(b"{}", text)), verified),
    "heads of answers": (
        torn(HEAD),
        head,
    ),
    "addresses": (ADDRESSES, lambda text: (redact_url(text), origin(text))),
    "realms": (
        ADDRESSES,
        lambda text: token.check_realm(text, host="r.example", http_allowed=True),
    ),
    "scopes": (text_like("repository:a/b:pull,push"), Scope.parse),
    "Date": header_like("Date", DATES, headers.response_time),
    "Retry-After": header_like("Retry_After", DATES, headers.retry_after),
    "Content-Length": header_like("Content_Length", text_like("12"), headers.content_length),
    "Content-Range": header_like("Content_Range", text_like("bytes 5-6/20"), headers.content_range),
    "Docker-Content-Digest": header_like(
        "Docker_Content_Digest", text_like("sha256:" + "a" * 64), headers.content_digest
    ),
    "Location": header_like("Location", ADDRESSES, headers.location),
    "Link": header_like(
        "Link", ADDRESSES.map(lambda url: f'<{url}>; rel="next"') | TEXTS, headers.next_link
    ),
    "Range": (text_like("0-99", "bytes=0-0"), headers.upload_offset),
}
"""Other functions that read bytes of strangers."""


@pytest.mark.parametrize("parser", PARSERS, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_a_parser_gives_a_value_or_an_error_of_ours(parser):
    inputs, call = PARSERS[parser]
    fuzz(inputs, call, number=NUMBER)


@pytest.mark.parametrize("name", OTHERS)
def test_what_reads_foreign_words_gives_a_value_or_an_error_of_ours(name):
    inputs, call = OTHERS[name]
    fuzz(inputs, call, number=NUMBER)


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(dockercomms.__path__, "dockercomms."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def test_every_parser_of_the_package_is_fuzzed():
    public = {
        function
        for module in modules()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("parse_") and function.__module__ == module.__name__
    }
    assert {f"{one.__module__}.{one.__name__}" for one in public - set(PARSERS)} == set()
    assert set(PARSERS) <= public


def test_a_fuzzer_finds_an_exception_of_another_class():
    def careless(data: bytes) -> object:
        return json.loads(data)["a"]

    with pytest.raises(Exception) as caught:
        fuzz(json_like({"a": 1}), careless, number=200)
    assert not isinstance(caught.value, UsageError)
