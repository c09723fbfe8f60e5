"""Listing: every page once, whatever the registry makes of the questions."""

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
    RegistryError,
    Unsupported,
)
from dockercomms.oci.interface import TagPage
from dockercomms.oci.remote.retry import RetryPolicy
from tests.fakes.clock import FakeClock
from tests.fakes.registry import (
    DOCKER_REGISTRY_2_8,
    GGCR,
    OCI,
    OCIMEM,
    OLAREG,
    PRESETS,
    QUAY,
    ZOT,
    FakeRegistry,
    Fault,
)
from tests.fakes.scripted import Reply, ScriptedServer, Seen
from tests.unit.oci.registries import R, client, serving
from tests.unit.oci.traffic import is_get

TAGS = [f"t{number:02d}" for number in range(25)]


def fill(server: FakeRegistry, *, repository: str = R) -> None:
    for tag in TAGS:
        server.put_manifest_raw(repository, b"{}", tag=tag)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [None, 1, 5, 10, 25, 26, 1000])
def test_tags_gives_each_once_at_every_kind_of_registry(preset, size):
    with serving(PRESETS[preset]) as (server, registry):
        fill(server)
        found = list(registry.tags(R, page_size=size))
        assert sorted(found) == TAGS
        assert len(found) == len(set(found))


@pytest.mark.parametrize("preset", PRESETS)
def test_tags_start_after_is_obeyed_where_the_registry_does(preset):
    with serving(PRESETS[preset]) as (server, registry):
        fill(server)
        found = set(registry.tags(R, start_after="t09", page_size=4))
        assert set(TAGS[10:]) <= found


def test_tags_stops_at_the_limit_and_asks_no_further():
    with serving() as (server, registry):
        fill(server)
        assert list(registry.tags(R, page_size=5, limit=7)) == TAGS[:7]
        assert server.count("GET") == 2
        assert list(registry.tags(R, limit=0)) == []
        assert next(iter(registry.tags(R, page_size=5))) == "t00"
        assert server.count("GET") == 3


def test_tags_asks_nothing_before_it_is_read():
    with serving() as (server, registry):
        registry.tags(R)
        registry.tag_pages(R)
        registry.repositories()
        assert server.requests == []


@pytest.mark.parametrize("size", [0, None])
def test_tags_never_asks_for_no_tags(size):
    with serving(OLAREG) as (server, registry):
        fill(server)
        assert list(registry.tags(R, page_size=size)) == TAGS
        assert server.requests[0].target.endswith("/tags/list")


def test_tag_pages_come_whole_and_say_whether_there_is_a_link():
    with serving() as (server, registry):
        fill(server)
        pages = list(registry.tag_pages(R, page_size=10))
    assert [len(page.tags) for page in pages] == [10, 10, 5]
    assert [page.has_link for page in pages] == [True, True, False]


def test_tag_pages_go_on_without_a_link_while_pages_come_full():
    with serving(GGCR) as (server, registry):
        fill(server)
        pages = list(registry.tag_pages(R, page_size=10))
        assert [page.tags for page in pages] == [
            tuple(TAGS[:10]),
            tuple(TAGS[10:20]),
            tuple(TAGS[20:]),
        ]


def test_tag_pages_the_whole_list_again_ends_it():
    """ggcr sends everything from the start for a `last` behind the end."""
    with serving(GGCR) as (server, registry):
        fill(server)
        pages = list(registry.tag_pages(R, page_size=25))
        assert [len(page.tags) for page in pages] == [25]
        assert server.count("GET") == 2


def test_tag_pages_longer_than_asked_for_are_everything():
    with serving(DOCKER_REGISTRY_2_8) as (server, registry):
        fill(server)
        pages = list(registry.tag_pages(R, page_size=10, start_after="t20"))
        assert [len(page.tags) for page in pages] == [25]
        assert server.count("GET") == 1


def test_tag_pages_size_is_halved_where_it_is_too_large():
    with serving(replace(QUAY, tags_n_max=7)) as (server, registry):
        fill(server)
        assert list(registry.tags(R, page_size=100)) == TAGS
        sizes = [record.target.partition("n=")[2].partition("&")[0] for record in server.requests]
        assert sizes[:5] == ["100", "50", "25", "12", "6"]
        assert set(sizes[5:]) == {"6"}


def test_tag_pages_size_is_left_out_where_none_is_taken():
    def answer(seen: Seen) -> Reply:
        if "n=" in seen.target:
            return Reply(400, b'{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}')
        return Reply(200, b'{"tags":["a"]}')

    with ScriptedServer(rest=answer) as server, client(server.host) as registry:
        assert list(registry.tags(R, page_size=5)) == ["a"]
        asked = [seen.target.partition("?")[2] for seen in server.requests]
        assert asked == ["n=5", "n=2", "n=1", ""]


def test_tag_pages_refusal_that_is_not_about_the_size_is_an_error():
    with serving() as (server, registry):
        server.fail_when(is_get, Fault.answer(400), times=9)
        with pytest.raises(RegistryError):
            list(registry.tags(R))


def test_tag_pages_unknown_start_is_an_error_at_zot():
    with serving(ZOT) as (server, registry):
        fill(server)
        with pytest.raises(NameUnknown):
            next(registry.tag_pages(R, start_after="nothing"))


def test_tag_pages_null_is_empty():
    with serving(OCIMEM) as (server, registry):
        fill(server)
        assert list(registry.tag_pages(R, start_after="zzz", page_size=5)) == [TagPage((), False)]


def test_tag_pages_link_to_the_same_page_is_an_error_and_no_shorter_list():
    with serving(replace(OCI, tags_link="loop")) as (server, registry):
        fill(server)
        found = []
        with pytest.raises(BadAnswer, match="Link leads back"):
            found.extend(registry.tags(R, page_size=10))
        assert found == TAGS[:10]
        assert server.count("GET") == 2


def test_tag_pages_links_in_a_circle_are_an_error():
    def answer(seen: Seen) -> Reply:
        number = len(server.requests) % 3
        body = json.dumps({"tags": [f"t{number}"]}).encode()
        return Reply(200, body, {"Link": f'</v2/{R}/tags/list?last=t{number}>; rel="next"'})

    with ScriptedServer(rest=answer) as server, client(server.host) as registry:
        with pytest.raises(BadAnswer, match="Link leads back"):
            list(registry.tags(R))
        assert len(server.requests) == 4


def test_tag_pages_without_end_are_an_error():
    counter = itertools.count()

    def answer(seen: Seen) -> Reply:
        number = next(counter)
        body = json.dumps({"tags": [f"t{number}"]}).encode()
        return Reply(200, body, {"Link": f'</v2/{R}/tags/list?x={number}>; rel="next"'})

    with ScriptedServer(rest=answer) as server, client(server.host) as registry:
        with pytest.raises(BadAnswer, match="more than 1000 pages"):
            list(registry.tags(R))
        assert len(server.requests) == 1000


def test_tags_of_what_answers_404_to_everything_are_no_missing_repository():
    with ScriptedServer(rest=Reply(404, b"<html>nothing here")) as server:
        with client(server.host) as registry, pytest.raises(BadAnswer, match="no registry") as told:
            list(registry.tags(R))
        assert told.value.status == 404
        assert [seen.target for seen in server.requests] == [f"/v2/{R}/tags/list", "/v2/"]


@pytest.mark.parametrize("version", [Reply(200), Reply(401), Reply(403)])
def test_tags_404_of_a_registry_that_says_nothing_is_a_missing_repository(version):
    with ScriptedServer(Reply(404, b"not found"), rest=version) as server:
        with client(server.host) as registry, pytest.raises(NameUnknown):
            list(registry.tags(R))


def test_tag_list_of_too_many_values_is_refused_before_it_is_parsed():
    body = b'{"tags":[' + b"[]," * 1_000_001 + b"[]]}"
    with ScriptedServer(rest=Reply(200, body)) as server, client(server.host) as registry:
        with pytest.raises(BadAnswer, match="more than 1000000 values"):
            list(registry.tags(R))


def test_tag_list_that_takes_too_long_is_given_up():
    """Page by page it is quick enough; it is the whole that never ends."""
    clock, counter = FakeClock(), itertools.count()

    def answer(seen: Seen) -> Reply:
        clock.advance(50)
        number = next(counter)
        body = json.dumps({"tags": [f"t{number}"]}).encode()
        return Reply(200, body, {"Link": f'</v2/{R}/tags/list?x={number}>; rel="next"'})

    with ScriptedServer(rest=answer) as server, client(server.host, clock=clock) as registry:
        with pytest.raises(NetworkError, match="more than 600 s"):
            list(registry.tags(R))
        assert len(server.requests) == 13


def test_tag_list_may_be_read_slowly():
    """The time that its reader takes is not the registry's."""
    clock = FakeClock()
    with serving(clock=clock) as (server, registry):
        fill(server)
        for _ in registry.tag_pages(R, page_size=10):
            clock.advance(3600)


def test_tag_pages_absolute_links_are_followed():
    with serving(replace(OCI, tags_link_absolute=True)) as (server, registry):
        fill(server)
        assert list(registry.tags(R, page_size=10)) == TAGS


def test_tag_pages_page_that_breaks_is_asked_for_again():
    with serving() as (server, registry):
        fill(server)
        server.fail_when(is_get, Fault.cut_body(20), after=1)
        assert list(registry.tags(R, page_size=10)) == TAGS


def test_tag_pages_name_stays_a_name():
    with serving() as (server, registry):
        fill(server)
        assert list(registry.tags(R, start_after="t2&n=0", page_size=5))
        assert server.requests[0].query == {"n": ["5"], "last": ["t2&n=0"]}


def test_tags_of_an_unknown_repository():
    with serving() as (_, registry), pytest.raises(NameUnknown):
        list(registry.tags("no/such"))


def test_tags_forbidden_is_said():
    with serving(replace(OCI, tags_status=403)) as (server, registry):
        fill(server)
        with pytest.raises(Denied):
            list(registry.tags(R))


def test_tags_garbage_is_a_protocol_error():
    with serving() as (server, registry):
        fill(server)
        server.fail_when(is_get, Fault.garbage())
        with pytest.raises(BadAnswer):
            list(registry.tags(R))


def test_repositories_lists_each_once():
    with serving() as (server, registry):
        names = [f"r{number}" for number in range(7)]
        for name in names:
            fill(server, repository=name)
        assert list(registry.repositories()) == names
        assert list(registry.repositories(page_size=3)) == names
        assert list(registry.repositories(start_after="r4")) == ["r5", "r6"]
        assert list(registry.repositories(limit=2)) == ["r0", "r1"]


def test_repositories_without_a_catalogue():
    with serving(replace(OCI, catalog=False)) as (_, registry), pytest.raises(Unsupported):
        list(registry.repositories())


def test_repositories_other_errors_stay_what_they_are():
    with serving(retry=RetryPolicy.none()) as (server, registry):
        server.fail_when(is_get, Fault.answer(403))
        with pytest.raises(Denied):
            list(registry.repositories())


def test_repositories_catalogue_that_is_not_found_is_unsupported():
    with ScriptedServer(Reply(404)) as server, client(server.host) as registry:
        with pytest.raises(Unsupported):
            list(registry.repositories())
        assert server.requests[0].target == "/v2/_catalog"


def test_tags_given_twice_are_given_once():
    pages = [
        Reply(200, b'{"tags":["a","b"]}', {"Link": "</v2/x?2>; rel=next"}),
        Reply(200, b'{"tags":["b","c"]}'),
    ]
    with ScriptedServer(*pages) as server, client(server.host) as registry:
        assert list(registry.tags(R)) == ["a", "b", "c"]


def test_tag_pages_end_where_a_link_asks_behind_the_last_name_and_the_list_begins_anew():
    """Links after the end, as distribution has them, and a list that wraps, as ggcr's does."""
    quirks = replace(OCI, tags_link="always", tags_past_end="whole")
    with serving(quirks) as (server, registry):
        fill(server)
        assert list(registry.tags(R, page_size=7)) == TAGS
        assert list(registry.tags(R)) == TAGS
        assert list(registry.tags(R, start_after="t20")) == TAGS[21:]
        paged = list(registry.tags(R, start_after="t20", page_size=7))
        assert paged[:4] == TAGS[21:]
        assert sorted(paged) == TAGS
        assert server.count("GET") < 20
