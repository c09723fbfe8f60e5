"""Referrers of a manifest: the API if the registry has it, else the tag schema."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from dockercomms.errors import (
    BadAnswer,
    Denied,
    NameUnknown,
    NetworkError,
    ProtocolError,
    TooManyRequests,
    UnreadableEntries,
)
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.interface import readable
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    Index,
    digest_of,
    parse_index,
)
from dockercomms.oci.reference import referrers_tag
from dockercomms.oci.remote.listing import ABSENT_SECONDS, ZERO_DIGEST
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.strict_json import canonical_json
from dockercomms.oci.tag_schema import append_entry, put_index, remove_entry, tag_schema_entries
from tests.fakes.clock import FakeClock
from tests.fakes.no_referrers import NO_INDEX, asks_for_referrers
from tests.fakes.registry import (
    DISTRIBUTION,
    GGCR,
    OCI,
    OCIMEM,
    PRESETS,
    FakeRegistry,
    Fault,
)
from tests.fakes.scripted import Reply, ScriptedServer, Seen
from tests.unit.oci.registries import R, client, described, serving

SUBJECT = Digest("sha256:" + "5" * 64)
KIND = "application/vnd.example.thing"


def manifest(number: int, kind: str = KIND, subject: Digest = SUBJECT) -> bytes:
    empty = EMPTY_CONFIG.to_json()
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "artifactType": kind,
            "config": empty,
            "layers": [empty],
            "subject": Descriptor(media_type=MEDIA_TYPE_MANIFEST, digest=subject, size=7).to_json(),
            "annotations": {"number": str(number)},
        }
    )


def entry(number: int, kind: str = KIND) -> Descriptor:
    return Descriptor.of(
        manifest(number, kind),
        MEDIA_TYPE_MANIFEST,
        annotations={"number": str(number)},
        artifact_type=kind,
    )


def push(registry, *numbers: int, kind: str = KIND) -> None:
    descriptor, source = described(EMPTY_CONFIG_BYTES)
    registry.push_blob(R, descriptor, source)
    for number in numbers:
        registry.push_manifest(R, manifest(number, kind), MEDIA_TYPE_MANIFEST, tags=(f"m{number}",))


def about_referrers(server: FakeRegistry) -> list[object]:
    return [request for request in server.requests if "/referrers/" in request.target]


def answering(body: bytes, status: int = 200, **headers: str) -> Reply:
    return Reply(status, body, headers)


# --- the API -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_referrers_supported_is_found_out_once(preset):
    quirks = PRESETS[preset]
    with serving(quirks) as (server, registry):
        push(registry, 1)
        server.forget_requests()
        for _ in range(3):
            assert registry.referrers_supported(R) is quirks.referrers
        assert server.count() == 1
        assert ZERO_DIGEST in server.requests[0].target


@pytest.mark.parametrize("form", ["text-404", "json-404", "json-405", "json-400"])
def test_referrers_unsupported_in_every_form(form):
    quirks = replace(OCI, referrers=False, referrers_unsupported=form)
    with serving(quirks) as (_, registry):
        push(registry, 1)
        put_index(registry, R, SUBJECT, (entry(1),))
        assert registry.referrers_supported(R) is False
        assert [found.digest for found in registry.referrers(R, SUBJECT)] == [entry(1).digest]


@pytest.mark.parametrize("quirks", [GGCR, OCIMEM])
def test_referrers_supported_says_nothing_lasting_of_a_repository_that_is_not_there(quirks):
    with serving(quirks) as (server, registry):
        assert registry.referrers_supported(R) is True
        assert registry.referrers_supported(R) is True
        assert server.count() == 2
        with pytest.raises(NameUnknown):
            list(registry.referrers(R, SUBJECT))


def test_referrers_first_answer_tells_whether_there_is_an_api():
    for quirks, requests in ((OCI, 1), (DISTRIBUTION, 2)):
        with serving(quirks) as (server, registry):
            push(registry, 1)
            server.forget_requests()
            list(registry.referrers(R, SUBJECT))
            assert server.count() == requests
            list(registry.referrers(R, SUBJECT))
            assert server.count() == requests + 1


@pytest.mark.parametrize("page", [None, 1, 2])
@pytest.mark.parametrize("filtering", [True, False])
def test_referrers_lists_all_pages_and_filters_here(page, filtering):
    quirks = replace(OCI, referrers_page=page, referrers_filter=filtering)
    with serving(quirks) as (_, registry):
        push(registry, 1, 2, 3)
        push(registry, 4, 5, kind="application/vnd.example.other")
        found = list(registry.referrers(R, SUBJECT))
        assert {item.annotations["number"] for item in found} == set("12345")
        found = list(registry.referrers(R, SUBJECT, artifact_type=KIND))
        assert {item.annotations["number"] for item in found} == set("123")
        assert list(registry.referrers(R, SUBJECT, artifact_type="none/such")) == []


def test_referrers_a_null_list_is_empty():
    with serving(OCIMEM) as (_, registry):
        push(registry, 1)
        assert list(registry.referrers(R, ZERO_DIGEST)) == []


def test_referrers_of_a_subject_that_the_api_does_not_know_decides_nothing():
    unknown = answering(b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', 404)
    index = answering(b'{"schemaVersion":2,"manifests":[]}', **{"Content-Type": MEDIA_TYPE_INDEX})
    with ScriptedServer(unknown, unknown, index) as server, client(server.host) as registry:
        assert list(registry.referrers(R, SUBJECT)) == []
        assert "/manifests/sha256-5" in server.requests[1].target
        assert list(registry.referrers(R, SUBJECT)) == []
        assert registry.referrers_supported(R) is True
        assert len(server.requests) == 3


@pytest.mark.parametrize("name", NO_INDEX)
def test_referrers_any_answer_that_is_no_index_means_no_api(name):
    """Asked once, whatever the answer, and the tag schema is read instead; for a day."""
    clock = FakeClock()
    with serving(clock=clock) as (server, registry):
        push(registry, 1)
        put_index(registry, R, SUBJECT, (entry(1),))
        server.faults.fail_when(asks_for_referrers, NO_INDEX[name], times=10**6)
        server.forget_requests()

        assert registry.referrers_supported(R) is False
        assert [found.digest for found in registry.referrers(R, SUBJECT)] == [entry(1).digest]

        broken = NO_INDEX[name].kind != "answer"
        assert len(about_referrers(server)) == (2 if broken else 1)
        assert len(clock.sleeps) == broken
        server.faults.clear()
        assert registry.referrers_supported(R) is False
        clock.advance(ABSENT_SECONDS)
        assert registry.referrers_supported(R) is True


@pytest.mark.parametrize("name", NO_INDEX)
def test_referrers_are_read_from_the_tag_schema_where_nothing_was_asked_before(name):
    with serving() as (server, registry):
        push(registry, 1)
        put_index(registry, R, SUBJECT, (entry(1),))
        server.faults.fail_when(asks_for_referrers, NO_INDEX[name], times=10**6)

        assert [found.digest for found in registry.referrers(R, SUBJECT)] == [entry(1).digest]
        assert registry.referrers_supported(R) is False


def test_referrers_redirected_to_another_host_are_read_there_without_credentials():
    listed = Index(manifests=(entry(1),)).to_bytes()
    challenge = Reply(401, headers={"WWW-Authenticate": "Basic realm=r"})
    with ScriptedServer(rest=answering(listed)) as other:
        moved = Reply(307, headers={"Location": f"{other.url}/index"})
        with (
            ScriptedServer(challenge, moved) as server,
            HTTPRegistry(
                server.host,
                auth=DockerConfig(),
                credentials=Credentials(username="a", password="b"),
                retry=RetryPolicy.none(),
            ) as registry,
        ):
            assert [found.digest for found in registry.referrers(R, SUBJECT)] == [entry(1).digest]
            assert registry.referrers_supported(R) is True
        assert "authorization" not in other.requests[0].headers


@pytest.mark.parametrize("where", ["{url}/v2/x", "/v2/x", "{url}/login", "", "file:///etc/passwd"])
def test_referrers_redirected_without_end_or_to_nowhere_are_no_api(where):
    with ScriptedServer() as server, client(server.host) as registry:
        server.rest = Reply(302, headers={"Location": where.format(url=server.url)})
        assert registry.referrers_supported(R) is False
        assert len(server.requests) <= 6


GOOD = json.dumps(entry(1).to_json())
BAD = {
    "null": "null",
    "a JSON object": "7",
    "a list": "[]",
    "empty": "{}",
    "no media type": json.dumps({"digest": SUBJECT, "size": 1}),
    "media type empty": GOOD.replace(MEDIA_TYPE_MANIFEST, ""),
    "digest short": GOOD.replace(entry(1).digest, "sha256:5"),
    "digest of no algorithm": GOOD.replace("sha256:", "blake3:"),
    "size a string": GOOD.replace('"size": ', '"size": "1", "x": '),
    "size a fraction": GOOD.replace('"size": ', '"size": 1.5, "x": '),
    "size below zero": GOOD.replace('"size": ', '"size": -'),
    "size of 64 bits": GOOD.replace('"size": ', '"size": 9223372036854775808, "x": '),
    "size of 70 bits": GOOD.replace('"size": ', '"size": 1180591620717411303424, "x": '),
    "number without end": GOOD.replace('"size": ', '"x": 1e999, "size": '),
    "data not ASCII": GOOD.replace('"size": ', '"data": "ü", "size": '),
    "data not base64": GOOD.replace('"size": ', '"data": "=", "size": '),
    "annotations a list": GOOD.replace('{"number": "1"}', '["a"]'),
    "annotations a text": GOOD.replace('{"number": "1"}', '"a"'),
    "annotation a number": GOOD.replace('{"number": "1"}', '{"a": 1}'),
    "half of a pair": GOOD.replace('"number": "1"', r'"a": "\ud800"'),
    "half of a pair as key": GOOD.replace('"number": "1"', r'"\udc80": "a"'),
    "key twice": GOOD.replace('"number": "1"', '"a": "1", "a": "2"'),
    "key in capitals": GOOD.replace('"size"', '"SIZE": 1, "size"'),
    "deep": GOOD.replace('"size": ', '"x": ' + "[" * 62 + "]" * 62 + ', "size": '),
    "type a number": GOOD.replace('"size": ', '"artifactType": 1, "size": '),
    "platform a text": GOOD.replace('"size": ', '"platform": "linux", "size": '),
}
"""Entries that nobody can read, as JSON, made of one that is as it should be."""


def index_of(*entries: str) -> bytes:
    return b'{"schemaVersion": 2, "manifests": [%s]}' % ", ".join(entries).encode()


@pytest.mark.parametrize("name", BAD)
def test_referrers_that_cannot_be_read_hide_no_others(name, caplog):
    listed = index_of(BAD[name], json.dumps(entry(2).to_json()), BAD[name], GOOD)
    with ScriptedServer(rest=answering(listed)) as server, client(server.host) as registry:
        assert list(readable(registry.referrers(R, SUBJECT))) == [entry(2), entry(1)]
        assert "2 of 4 entries cannot be read" in caplog.text
        with pytest.raises(UnreadableEntries):
            list(registry.referrers(R, SUBJECT))
        assert registry.referrers_supported(R) is True


def test_referrers_that_cannot_be_read_are_counted_on_all_pages(caplog):
    pages = [
        answering(index_of("null", BAD["empty"]), Link=f"</v2/{R}/referrers/{page}>; rel=next")
        for page in ("a", "b")
    ]
    with ScriptedServer(*pages, rest=answering(index_of("7"))) as server:
        with client(server.host) as registry:
            assert list(readable(registry.referrers(R, SUBJECT))) == []
    assert "2 of 2 entries cannot be read" in caplog.text
    assert "2 more pages" in caplog.text


@pytest.mark.parametrize("name", BAD)
def test_tag_schema_entries_that_cannot_be_read_hide_no_others(name, caplog):
    with serving(DISTRIBUTION) as (server, registry):
        data, tag = index_of(GOOD, BAD[name]), referrers_tag(SUBJECT)
        server.put_manifest_raw(R, data, tag=tag, media_type=MEDIA_TYPE_INDEX)
        assert tag_schema_entries(registry, R, SUBJECT) == (entry(1),)
        assert f"{tag}: 1 of 2 entries cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.answer(403), Denied),
        (Fault.answer(429), TooManyRequests),
        (Fault.answer(503), NetworkError),
        (Fault.garbage(), BadAnswer),
    ],
)
def test_referrers_of_an_api_that_has_answered_fail_aloud(fault, expected):
    with serving() as (server, registry):
        push(registry, 1)
        assert registry.referrers_supported(R) is True
        server.faults.fail_when(asks_for_referrers, fault, times=10**6)
        with pytest.raises(expected):
            list(registry.referrers(R, SUBJECT))


def test_referrers_of_a_repository_that_is_said_not_to_be_there_are_looked_for_by_tag():
    """A registry without the API may say NAME_UNKNOWN of every path that it does not know."""
    unknown = Fault.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
    with serving() as (server, registry):
        push(registry, 1)
        put_index(registry, R, SUBJECT, (entry(1),))
        server.faults.fail_when(asks_for_referrers, unknown, times=10**6)
        assert [found.digest for found in registry.referrers(R, SUBJECT)] == [entry(1).digest]


@pytest.mark.parametrize("loop", [True, False])
def test_referrers_pages_without_end_are_an_error(loop):
    counter = itertools.count()

    def answer(seen: Seen) -> Reply:
        body = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
        number = 1 if loop else next(counter)
        return Reply(200, body, {"Link": f'</v2/{R}/referrers/{SUBJECT}?p={number}>; rel="next"'})

    with ScriptedServer(rest=answer) as server, client(server.host) as registry:
        with pytest.raises(BadAnswer, match="without end"):
            list(registry.referrers(R, SUBJECT))
        assert len(server.requests) <= 1001


def test_referrers_link_elsewhere_gets_no_credentials():
    body = b'{"schemaVersion":2,"manifests":[]}'
    challenge = Reply(401, headers={"WWW-Authenticate": "Basic realm=r"})
    with ScriptedServer(rest=answering(body)) as other:
        link = {"Link": f"<{other.url}/v2/x>; rel=next"}
        with (
            ScriptedServer(challenge, Reply(200, body, link)) as server,
            HTTPRegistry(
                server.host,
                auth=DockerConfig(),
                credentials=Credentials(username="a", password="b"),
                retry=RetryPolicy.none(),
            ) as registry,
        ):
            assert list(registry.referrers(R, SUBJECT)) == []
        assert "authorization" in server.requests[1].headers
        assert "authorization" not in other.requests[0].headers


# --- the tag schema ------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "http"])
def store(request):
    if request.param == "memory":
        yield MemoryRegistry()
        return
    with FakeRegistry(replace(DISTRIBUTION, missing_child=201)) as server:
        with client(server.host) as registry:
            yield registry


def prepared(store):
    push(store, 1, 2, 3)
    return store


def test_tag_schema_entries_of_a_missing_tag_are_none(store):
    assert tag_schema_entries(prepared(store), R, SUBJECT) == ()


def test_put_index_writes_exactly_the_entries(store):
    prepared(store)
    put_index(store, R, SUBJECT, [entry(1), entry(2)])
    found = tag_schema_entries(store, R, SUBJECT)
    assert found == (entry(1), entry(2))
    assert found[0].artifact_type == KIND
    assert found[0].annotations == {"number": "1"}
    with store.get_tag(R, referrers_tag(SUBJECT)) as reader:
        assert reader.descriptor.media_type == MEDIA_TYPE_INDEX
        assert len(parse_index(reader.read()).manifests) == 2


def test_append_entry_adds_once(store):
    prepared(store)
    assert append_entry(store, R, SUBJECT, entry(1)) is True
    assert append_entry(store, R, SUBJECT, entry(2)) is True
    assert append_entry(store, R, SUBJECT, entry(1)) is True
    assert tag_schema_entries(store, R, SUBJECT) == (entry(1), entry(2))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_append_entry_writes_what_put_index_would(count):
    store = MemoryRegistry()
    prepared(store)
    put_index(store, R, SUBJECT, [entry(1), entry(2)][:count])
    append_entry(store, R, SUBJECT, entry(3))
    appended = store.get_tag(R, referrers_tag(SUBJECT)).read()
    put_index(store, R, SUBJECT, [*[entry(1), entry(2)][:count], entry(3)])
    assert store.get_tag(R, referrers_tag(SUBJECT)).read() == appended


@pytest.mark.parametrize("change", ["indented", "annotated", "without a media type"])
def test_append_entry_to_an_index_that_others_wrote(change):
    store = MemoryRegistry()
    prepared(store)
    index = json.loads(Index(manifests=(entry(1), entry(2))).to_bytes())
    if change == "annotated":
        index["annotations"] = {"who": "somebody"}
    if change == "without a media type":
        del index["mediaType"]
    data = json.dumps(index, indent=1 if change == "indented" else None).encode()
    store.push_manifest(R, data, MEDIA_TYPE_INDEX, tags=(referrers_tag(SUBJECT),))
    assert append_entry(store, R, SUBJECT, entry(2)) is True
    assert store.get_tag(R, referrers_tag(SUBJECT)).read() == data
    assert append_entry(store, R, SUBJECT, entry(3)) is True
    assert tag_schema_entries(store, R, SUBJECT) == (entry(1), entry(2), entry(3))


def test_append_and_remove_entry_leave_what_they_cannot_read():
    bad = [1, "x", {}, {"digest": 7}, {"digest": "sha256:short", "of": ["another"]}]
    index = {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": bad}
    with serving(replace(DISTRIBUTION, missing_child=201)) as (server, registry):
        data, tag = canonical_json(index), referrers_tag(SUBJECT)
        server.put_manifest_raw(R, data, tag=tag, media_type=MEDIA_TYPE_INDEX)
        assert append_entry(registry, R, SUBJECT, entry(1), max_entries=6) is True
        assert append_entry(registry, R, SUBJECT, entry(2), max_entries=6) is False
        assert tag_schema_entries(registry, R, SUBJECT) == (entry(1),)
        assert remove_entry(registry, R, SUBJECT, entry(1).digest) is True
        assert json.loads(registry.get_tag(R, tag).read())["manifests"] == bad


@pytest.mark.parametrize("name", ["half of a pair", "key twice", "size of 70 bits", "deep"])
def test_append_entry_leaves_alone_what_it_cannot_write_again(name):
    with serving(DISTRIBUTION) as (server, registry):
        data, tag = index_of(GOOD, BAD[name]), referrers_tag(SUBJECT)
        server.put_manifest_raw(R, data, tag=tag, media_type=MEDIA_TYPE_INDEX)
        with pytest.raises(ProtocolError):
            append_entry(registry, R, SUBJECT, entry(2))
        assert server.count("PUT") == 0


def test_append_entry_known_already_is_not_written():
    with serving(DISTRIBUTION) as (server, registry):
        push(registry, 1)
        append_entry(registry, R, SUBJECT, entry(1))
        server.forget_requests()
        append_entry(registry, R, SUBJECT, entry(1))
        assert [record.method for record in server.requests] == ["GET"]


def test_append_entry_leaves_a_full_index_alone(store):
    prepared(store)
    put_index(store, R, SUBJECT, [entry(1), entry(2)])
    assert append_entry(store, R, SUBJECT, entry(3), max_entries=2) is False
    assert append_entry(store, R, SUBJECT, entry(2), max_entries=2) is True
    assert tag_schema_entries(store, R, SUBJECT) == (entry(1), entry(2))


def test_remove_entry_takes_one_out_and_the_last_one_with_the_index(store):
    prepared(store)
    put_index(store, R, SUBJECT, [entry(1), entry(2)])
    assert remove_entry(store, R, SUBJECT, entry(1).digest) is True
    assert remove_entry(store, R, SUBJECT, entry(1).digest) is False
    assert tag_schema_entries(store, R, SUBJECT) == (entry(2),)
    assert remove_entry(store, R, SUBJECT, entry(2).digest) is True
    assert referrers_tag(SUBJECT) not in list(store.tags(R))
    assert remove_entry(store, R, SUBJECT, entry(2).digest) is False


def test_remove_entry_where_there_is_no_repository():
    with serving() as (_, registry):
        assert remove_entry(registry, "no/such", SUBJECT, entry(1).digest) is False


def test_append_entry_never_overwrites_what_is_no_index(store):
    prepared(store)
    store.push_manifest(R, manifest(1), MEDIA_TYPE_MANIFEST, tags=(referrers_tag(SUBJECT),))
    with pytest.raises(ProtocolError):
        append_entry(store, R, SUBJECT, entry(2))
    assert store.resolve_tag(R, referrers_tag(SUBJECT)).digest == digest_of(manifest(1))


def test_append_entry_to_a_repository_that_is_not_there_yet():
    with serving(replace(OCI, missing_child=201)) as (_, registry):
        assert append_entry(registry, "new/one", SUBJECT, entry(1)) is True
        assert tag_schema_entries(registry, "new/one", SUBJECT) == (entry(1),)


def test_tag_schema_entries_of_a_repository_that_is_not_there():
    with serving() as (_, registry), pytest.raises(NameUnknown):
        tag_schema_entries(registry, "no/such", SUBJECT)


def test_tag_schema_entries_reads_no_more_than_the_limit(store):
    prepared(store)
    put_index(store, R, SUBJECT, [entry(1), entry(2)])
    with pytest.raises(ProtocolError, match="at most 100"):
        tag_schema_entries(store, R, SUBJECT, limit=100)


def test_referrers_falls_back_to_the_tag_schema():
    with serving(DISTRIBUTION) as (_, registry):
        push(registry, 1, 2)
        assert list(registry.referrers(R, SUBJECT)) == []
        for number in (1, 2):
            append_entry(registry, R, SUBJECT, entry(number))
        assert tuple(registry.referrers(R, SUBJECT)) == (entry(1), entry(2))
        assert list(registry.referrers(R, SUBJECT, artifact_type="x/y")) == []


def test_referrers_fallback_errors_are_not_hidden():
    with serving(DISTRIBUTION, retry=RetryPolicy.none()) as (server, registry):
        push(registry, 1)
        server.fail_when(lambda request: "/manifests/" in request.target, Fault.answer(403))
        with pytest.raises(Denied):
            list(registry.referrers(R, SUBJECT))
