"""The fake registry's switches for manifests, tag lists, referrers and logins."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.probe_client import ARTIFACT, Answer, Probe, digest_of
from tests.fakes.registry import (
    DISTRIBUTION,
    GGCR,
    GHCR,
    OCI,
    OLAREG,
    OLAREG_BUSY,
    QUAY,
    ZOT,
    FakeRegistry,
    Quirks,
    sha256,
)
from tests.fakes.token_server import TokenServer, User

Start = Callable[..., tuple[FakeRegistry, Probe]]

LOGIN = {"Authorization": "Basic YWxpY2U6c2VjcmV0"}
SUBJECT = digest_of(b"subject")


def tags_of(answer: Answer) -> list[str]:
    return [str(tag) for tag in answer.json()["tags"]]


def link_of(answer: Answer) -> str | None:
    """Return the path and query that Link names."""
    link = answer.headers.get("link")
    return link.partition("<")[2].partition(">")[0] if link else None


def all_tags(client: Probe, repo: str, query: str = "") -> list[list[str]]:
    """Return the pages of the tag list, following Link."""
    pages, target = [], f"/v2/{repo}/tags/list{query}"
    while target:
        answer = client.ask("GET", target)
        pages.append(tags_of(answer))
        target = link_of(answer) or ""
    return pages


def push_subjects(client: Probe, repo: str, count: int) -> None:
    for _ in range(count):
        client.manifest(repo, subject=SUBJECT)


# Manifests.


def test_planted_manifest_may_lie(start: Start) -> None:
    registry, client = start()
    data, lie = b'{"schemaVersion": 2}', sha256(b"lie")
    registry.put_manifest_raw("a", data, tag="t", digest_header=lie)
    answer = client.ask("GET", "/v2/a/manifests/t")
    assert (answer.body, answer.headers["docker-content-digest"]) == (data, lie)
    asked = registry.put_manifest_raw("a", b"swapped", digest=sha256(b"original"))
    answer = client.ask("GET", f"/v2/a/manifests/{asked}")
    assert (answer.body, answer.headers["docker-content-digest"]) == (b"swapped", asked)
    planted = registry.put_blob_raw("a", b"swapped", digest=sha256(b"original"))
    assert client.ask("GET", f"/v2/a/blobs/{planted}").body == b"swapped"


def test_removed_content_is_gone(start: Start) -> None:
    registry, client = start()
    blob = client.blob("a", b"x")
    _, digest = client.manifest("a", "t")
    registry.remove_blob("a", blob)
    registry.remove_manifest("a", digest)
    for target in (f"blobs/{blob}", f"manifests/{digest}", "manifests/t"):
        assert client.ask("GET", f"/v2/a/{target}").status == 404


def test_manifest_without_digest_header(start: Start) -> None:
    _, client = start(Quirks(digest_header=False))
    client.manifest("a", "t")
    for method in ("GET", "HEAD"):
        assert "docker-content-digest" not in client.ask(method, "/v2/a/manifests/t").headers


def test_manifest_needs_a_media_type_where_the_registry_wants_one(start: Start) -> None:
    _, client = start(Quirks(media_type_absent=False))
    assert client.manifest("a", mediaType="absent")[0].code == "MANIFEST_INVALID"


def test_manifest_that_is_none_is_refused(start: Start) -> None:
    _, client = start()
    for data in (b"not json", b"[]", b'{"schemaVersion": 1}'):
        assert client.ask("PUT", "/v2/a/manifests/t", data).code == "MANIFEST_INVALID"


@pytest.mark.parametrize("status", [400, 403, 409, 412])
def test_immutable_tag_is_not_moved(status: Any, start: Start) -> None:
    """Not even to where it is; untagged manifests still come in."""
    registry, client = start(Quirks(immutable_tags=status))
    same: dict[str, Any] = {"annotations": {"a": "b"}}
    assert client.manifest("a", "t", **same)[0].status == 201
    assert client.manifest("a", "t", **same)[0].status == status
    assert client.manifest("a", "t")[0].status == status
    assert client.manifest("a")[0].status == 201
    assert len(registry.repository("a").manifests) == 2


@pytest.mark.parametrize("status", [404, 405])
def test_delete_is_not_offered(status: Any, start: Start) -> None:
    quirks = Quirks(manifest_delete=status, tag_delete=status, blob_delete=status)
    _, client = start(quirks)
    _, digest = client.manifest("a", "t")
    for target in ("manifests/t", f"manifests/{digest}", f"blobs/{digest_of(b'{}')}"):
        assert client.ask("DELETE", f"/v2/a/{target}").status == status
    assert client.ask("HEAD", f"/v2/a/manifests/{digest}").status == 200


def test_delete_by_digest_is_refused_while_a_tag_is_on_it(start: Start) -> None:
    _, client = start(Quirks(delete_refuses_tagged=True))
    _, digest = client.manifest("a", "t")
    target = f"/v2/a/manifests/{digest}"
    assert client.ask("DELETE", target).status == 403
    assert client.ask("DELETE", "/v2/a/manifests/t").status == 202
    assert client.ask("DELETE", target).status == 202


def test_tag_that_outlives_its_manifest_can_be_deleted(start: Start) -> None:
    _, client = start(GGCR)
    _, digest = client.manifest("a", "t")
    client.ask("DELETE", f"/v2/a/manifests/{digest}")
    assert tags_of(client.tags("a")) == ["t"]
    assert client.ask("DELETE", "/v2/a/manifests/t").status == 202
    assert client.ask("HEAD", "/v2/a/manifests/t").status == 404
    assert tags_of(client.tags("a")) == []


def test_deleted_subject_takes_its_untagged_referrers_along(start: Start) -> None:
    _, client = start(OLAREG)
    _, subject = client.manifest("a", "subject")
    _, tagged = client.manifest("a", "kept", subject=subject)
    _, untagged = client.manifest("a", subject=subject)
    client.ask("DELETE", f"/v2/a/manifests/{subject}")
    assert client.ask("HEAD", f"/v2/a/manifests/{tagged}").status == 200
    assert client.ask("HEAD", f"/v2/a/manifests/{untagged}").status == 404


def test_garbage_collection_takes_untagged_manifests_with_a_living_subject(start: Start) -> None:
    registry, client = start(DISTRIBUTION)
    _, subject = client.manifest("a", "subject")
    _, tagged = client.manifest("a", "message", subject=subject)
    _, untagged = client.manifest("a", subject=subject)
    assert registry.collect_untagged() == [untagged]
    assert client.ask("HEAD", f"/v2/a/manifests/{tagged}").status == 200


def test_honoured_tags_are_named(start: Start) -> None:
    _, client = start()
    answer, _ = client.manifest("a", query="?tag=x&tag=y")
    assert answer.headers["oci-tag"] == "x, y"
    assert tags_of(client.tags("a")) == ["x", "y"]
    answer, _ = client.manifest("a", query="?tag=-bad-")
    assert answer.code == "TAG_INVALID"


# Tag lists.


@pytest.mark.parametrize(
    "quirks", [OCI, Quirks(tags_sorted=False), Quirks(tags_last="ignored"), ZOT]
)
@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
def test_all_tags_come_whatever_the_pages(quirks: Quirks, page_size: int, start: Start) -> None:
    registry, client = start(quirks, page_size=page_size)
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        registry.put_manifest_raw("r", b"{}", tag=name)
    pages = all_tags(client, "r")
    assert sorted(tag for page in pages for tag in page) == names
    assert [len(page) for page in pages[:-1]] == [page_size] * (len(pages) - 1)


def test_page_size_is_the_servers_to_limit(start: Start) -> None:
    registry, client = start(GHCR)
    for number in range(150):
        registry.put_manifest_raw("r", b"{}", tag=f"t{number:03}")
    assert [len(page) for page in all_tags(client, "r")] == [100, 50]
    assert [len(page) for page in all_tags(client, "r", "?n=1000")] == [150]


def test_too_large_n_is_refused(start: Start) -> None:
    registry, client = start(QUAY)
    registry.put_manifest_raw("r", b"{}", tag="t")
    assert client.tags("r", "?n=101").status == 413
    assert client.tags("r", "?n=100").status == 200


def test_link_may_be_absolute_or_lead_nowhere(start: Start) -> None:
    registry, client = start(Quirks(tags_link_absolute=True))
    for name in "abc":
        registry.put_manifest_raw("r", b"{}", tag=name)
    assert link_of(client.tags("r", "?n=2")) == f"{registry.url}/v2/r/tags/list?last=b&n=2"
    registry.quirks = Quirks(tags_link="loop")
    first = link_of(client.tags("r", "?n=2"))
    assert first == "/v2/r/tags/list?last=-&n=2"
    again = client.ask("GET", first)
    assert (tags_of(again), link_of(again)) == (["a", "b"], first)


def test_link_stands_on_full_last_pages_of_distribution(start: Start) -> None:
    registry, client = start(DISTRIBUTION)
    for name in "abcd":
        registry.put_manifest_raw("r", b"{}", tag=name)
    assert all_tags(client, "r", "?n=2") == [["a", "b"], ["c", "d"], []]


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHORIZED"), (403, "DENIED")])
def test_listing_may_be_forbidden(status: Any, code: str, start: Start) -> None:
    _, client = start(Quirks(tags_status=status))
    client.manifest("r", "t")
    answer = client.tags("r")
    assert (answer.status, answer.code) == (status, code)
    assert client.ask("HEAD", "/v2/r/manifests/t").status == 200


def test_tags_of_an_unknown_repository_may_be_empty(start: Start) -> None:
    _, client = start(Quirks(unknown_repository_tags=200))
    assert tags_of(client.tags("none")) == []


def test_catalogue_has_pages(start: Start) -> None:
    registry, client = start()
    for name in ("a", "b/c", "d"):
        registry.put_blob_raw(name, b"x")
    answer = client.ask("GET", "/v2/_catalog?n=2")
    assert answer.json() == {"repositories": ["a", "b/c"]}
    rest = client.ask("GET", str(link_of(answer)))
    assert (rest.json(), link_of(rest)) == ({"repositories": ["d"]}, None)
    registry.quirks = Quirks(catalog=False)
    assert client.ask("GET", "/v2/_catalog").status == 404


# Referrers.


@pytest.mark.parametrize(
    ("quirk", "answer"),
    [
        ("text-404", (404, "text")),
        ("json-404", (404, "METHOD_UNKNOWN")),
        ("json-405", (405, "UNSUPPORTED")),
        ("json-400", (400, "UNSUPPORTED")),
    ],
)
def test_missing_referrers_api_is_said_in_several_ways(
    quirk: Any, answer: tuple[int, str], start: Start
) -> None:
    _, client = start(Quirks(referrers=False, referrers_unsupported=quirk))
    client.manifest("r", "t")
    got = client.ask("GET", f"/v2/r/referrers/{SUBJECT}")
    assert (got.status, got.code) == answer
    assert "oci-subject" not in client.manifest("r", subject=SUBJECT)[0].headers


def test_referrers_have_pages_and_a_filter(start: Start) -> None:
    _, client = start(page_size=2)
    push_subjects(client, "r", 5)
    found, target = [], f"/v2/r/referrers/{SUBJECT}?artifactType={ARTIFACT.replace('/', '%2F')}"
    pages = 0
    while target:
        answer = client.ask("GET", target)
        assert answer.headers["oci-filters-applied"] == "artifactType"
        found += [entry["digest"] for entry in answer.json()["manifests"]]
        target, pages = link_of(answer) or "", pages + 1
    assert (pages, len(set(found))) == (3, 5)


def test_referrers_without_annotations(start: Start) -> None:
    _, client = start(Quirks(referrers_annotations=False))
    push_subjects(client, "r", 1)
    (entry,) = client.referrers("r", SUBJECT) or []
    assert set(entry) == {"mediaType", "digest", "size", "artifactType"}


def test_referrers_lag_behind_the_push(start: Start) -> None:
    clock = FakeClock()
    _, client = start(QUAY, clock=clock)
    push_subjects(client, "r", 1)
    assert client.referrers("r", SUBJECT) == []
    clock.advance(60)
    assert len(client.referrers("r", SUBJECT) or ()) == 1


def test_busy_registry_loses_every_third_referrer_but_no_tag(start: Start) -> None:
    _, client = start(OLAREG_BUSY)
    for number in range(6):
        client.manifest("r", f"t{number}", subject=SUBJECT)
    assert len(client.referrers("r", SUBJECT) or ()) == 4
    assert len(tags_of(client.tags("r"))) == 6


def test_manifest_pushed_again_is_listed_once(start: Start) -> None:
    _, client = start()
    for _ in range(2):
        client.manifest("r", subject=SUBJECT, annotations={"same": "bytes"})
    assert len(client.referrers("r", SUBJECT) or ()) == 1


# Everything.


def test_date_is_the_servers(start: Start) -> None:
    clock = FakeClock()
    registry, client = start(Quirks(date_skew_seconds=7200), clock=clock)
    said = parsedate_to_datetime(client.ask("GET", "/v2/").headers["date"])
    assert said - clock.now() == timedelta(hours=2)
    registry.quirks = Quirks(date_header=False)
    assert "date" not in client.ask("GET", "/v2/").headers


def test_connections_are_not_kept_where_the_registry_will_not(start: Start) -> None:
    _, client = start(Quirks(keep_alive=False))
    assert [client.ask("GET", "/v2/").headers["connection"] for _ in range(2)] == ["close"] * 2


def test_basic_login(start: Start) -> None:
    registry, client = start(Quirks(auth="basic"), users={"alice": "secret"})
    assert client.ask("GET", "/v2/").headers["www-authenticate"] == 'Basic realm="fake"'
    for wrong in ("Basic YWxpY2U6d3Jvbmc=", "Basic ???", "Bearer x", "Basic /w=="):
        assert client.ask("GET", "/v2/", headers={"Authorization": wrong}).code == "UNAUTHORIZED"
    assert client.ask("GET", "/v2/", headers=LOGIN).status == 200
    assert registry.count(status=401) == 5


def test_token_login_asks_for_the_scope_that_is_needed(start: Start) -> None:
    with TokenServer(users={"alice": User("secret")}) as tokens:
        _, client = start(Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims)
        wanted = {
            ("GET", "/v2/"): "",
            ("GET", "/v2/a/b/tags/list"): "repository:a/b:pull",
            ("GET", f"/v2/a/b/referrers/{SUBJECT}"): "repository:a/b:pull",
            ("HEAD", "/v2/a/b/manifests/t"): "repository:a/b:pull",
            ("PUT", "/v2/a/b/manifests/t"): "repository:a/b:pull,push",
            ("POST", "/v2/a/b/blobs/uploads/"): "repository:a/b:pull,push",
            ("DELETE", "/v2/a/b/manifests/t"): "repository:a/b:delete",
            ("GET", "/v2/_catalog"): "registry:catalog:*",
        }
        for (method, target), scope in wanted.items():
            answer = client.ask(method, target)
            assert answer.headers["www-authenticate"] == tokens.challenge(scope), target


def test_token_must_be_good_for_the_request(start: Start) -> None:
    clock = FakeClock()
    with TokenServer(users={"alice": User("secret")}, clock=clock) as tokens:
        _, client = start(
            Quirks(auth="token"), realm=tokens.realm, check_token=tokens.claims, clock=clock
        )

        def why(token: str, target: str = "/v2/a/blobs/uploads/") -> str:
            sent = {"Authorization": f"Bearer {token}"}
            challenge = client.ask("POST", target, headers=sent).headers.get("www-authenticate")
            return challenge.rpartition("error=")[2] if challenge else "in"

        pull = tokens.token("alice", ["repository:a:pull"])
        push = tokens.token("alice", ["repository:a:pull,push"])
        assert why("forged.by.me") == '"invalid_token"'
        assert why(pull) == '"insufficient_scope"'
        assert why(push) == "in"
        mount = f"/v2/a/blobs/uploads/?mount={SUBJECT}&from=b"
        assert why(push, mount) == '"insufficient_scope"'
        both = tokens.token("alice", ["repository:a:pull,push", "repository:b:pull"])
        assert why(both, mount) == "in"
        clock.advance(301)
        assert why(push) == '"invalid_token"'


def test_unsigned_claims_are_believed_by_default(start: Start) -> None:
    with TokenServer(users={}) as tokens:
        _, client = start(Quirks(auth="token"))
        token = tokens.token("x", ["repository:a:pull"])
        sent = {"Authorization": f"Bearer {token}"}
        assert client.ask("GET", "/v2/a/tags/list", headers=sent).code == "NAME_UNKNOWN"
    for bad in ("x", "a.b", "a.!.c", "a.W10.c"):
        sent = {"Authorization": f"Bearer {bad}"}
        assert client.ask("GET", "/v2/a/tags/list", headers=sent).status == 401


def test_errors_are_json_whatever_they_say_they_are(start: Start) -> None:
    _, client = start(GGCR)
    answer = client.ask("GET", "/v2/none/manifests/t")
    assert answer.headers["content-type"].startswith("text/plain")
    assert json.loads(answer.body)["errors"][0]["code"] == "NAME_UNKNOWN"
