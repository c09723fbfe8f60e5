"""The probe's questions about manifests, referrers and tag lists."""

from __future__ import annotations

import http.client
from typing import Any

from tests.fakes.probe_client import INDEX, MANIFEST, Probe, Result, Rows, digest_of

MANIFEST_WALL_BYTES = 4 * 2**20

row = Rows()


# Manifests.


@row("ETag and If-None-Match on a manifest")
def _etag(probe: Probe) -> Result:
    target = f"/v2/{probe.tagged('t')}/manifests/t"
    accept = {"Accept": MANIFEST}
    etag = probe.ask("GET", target, headers=accept).headers.get("etag")
    if etag is None:
        return None
    return probe.ask("GET", target, headers={**accept, "If-None-Match": etag}).status


@row("If-Match of another digest on a PUT")
def _if_match(probe: Probe) -> Result:
    repo = probe.tagged("t")
    match = {"If-Match": f'"{digest_of(b"another")}"'}
    none = {"If-None-Match": "*"}
    return [
        probe.manifest(repo, "t", headers=match)[0].status,
        probe.manifest(repo, "t", headers=none)[0].status,
    ]


@row("Docker-Content-Digest on HEAD")
def _head_digest(probe: Probe) -> Result:
    repo = probe.repository()
    _, digest = probe.manifest(repo, "t")
    head = probe.ask("HEAD", f"/v2/{repo}/manifests/t", headers={"Accept": MANIFEST})
    return [head.status, head.headers.get("docker-content-digest") == digest]


@row("the same manifest PUT twice")
def _put_twice(probe: Probe) -> Result:
    repo = probe.repository()
    same: dict[str, Any] = {"annotations": {"same": "bytes"}}
    return [probe.manifest(repo, "anchor", **same)[0].status for _ in range(2)]


@row("PUT by digest of other bytes")
def _wrong_manifest(probe: Probe) -> Result:
    answer, _ = probe.manifest(probe.repository(), digest_of(b"other"))
    return answer.status


@row("layers [] / [empty descriptor] / null")
def _layers(probe: Probe) -> Result:
    repo = probe.repository()
    return [
        probe.manifest(repo, layers=[])[0].status,
        probe.manifest(repo)[0].status,
        probe.manifest(repo, layers=None)[0].status,
    ]


@row("manifest without mediaType")
def _no_media_type(probe: Probe) -> Result:
    return probe.manifest(probe.repository(), mediaType="absent")[0].status


@row("manifest of 4 MiB + 1")
def _wall(probe: Probe) -> Result:
    padding = {"padding": "x" * (MANIFEST_WALL_BYTES + 1)}
    return probe.manifest(probe.repository(), annotations=padding)[0].status


@row("missing layer blob")
def _missing_layer(probe: Probe) -> Result:
    layer = {"mediaType": "application/x", "digest": digest_of(b"missing"), "size": 7}
    return probe.manifest(probe.repository(), layers=[layer])[0].status


@row("index of missing manifests")
def _missing_child(probe: Probe) -> Result:
    entry = {"mediaType": MANIFEST, "digest": digest_of(b"missing"), "size": 7}
    answer, _ = probe.manifest(
        probe.repository(),
        mediaType=INDEX,
        config="absent",
        layers="absent",
        manifests=[entry],
    )
    return answer.status


@row("PUT of a digest with ?tag=a&tag=b")
def _put_tags(probe: Probe) -> Result:
    repo = probe.repository()
    answer, _ = probe.manifest(repo, query="?tag=a&tag=b")
    accept = {"Accept": MANIFEST}
    found = probe.ask("HEAD", f"/v2/{repo}/manifests/a", headers=accept).status == 200
    return [answer.status, "honoured" if found else "ignored", "oci-tag" in answer.headers]


@row("tag of 129 characters")
def _long_tag(probe: Probe) -> Result:
    return probe.manifest(probe.repository(), "t" * 129)[0].status


@row("manifest of an unknown repository")
def _unknown_manifest(probe: Probe) -> Result:
    answer = probe.ask("GET", f"/v2/{probe.repository()}/manifests/t")
    return f"{answer.status} {answer.code}"


@row("DELETE by tag / by digest")
def _delete(probe: Probe) -> Result:
    repo = probe.tagged("x")
    _, digest = probe.manifest(repo, "y")
    return [probe.ask("DELETE", f"/v2/{repo}/manifests/{name}").status for name in ("x", digest)]


@row("HEAD / GET of its tag after DELETE by digest")
def _deleted(probe: Probe) -> Result:
    repo = probe.repository()
    _, digest = probe.manifest(repo, "y")
    probe.ask("DELETE", f"/v2/{repo}/manifests/{digest}")
    accept = {"Accept": MANIFEST}
    return [
        probe.ask(method, f"/v2/{repo}/manifests/y", headers=accept).status
        for method in ("HEAD", "GET")
    ]


@row("untagged manifest after its tag moved")
def _moved(probe: Probe) -> Result:
    repo = probe.repository()
    _, digest = probe.manifest(repo, "t")
    probe.manifest(repo, "t")
    return probe.ask("HEAD", f"/v2/{repo}/manifests/{digest}", headers={"Accept": MANIFEST}).status


# Referrers.


@row("OCI-Subject on PUT")
def _subject(probe: Probe) -> Result:
    repo = probe.repository()
    _, digest = probe.manifest(repo)
    return "oci-subject" in probe.manifest(repo, subject=digest)[0].headers


@row("referrers of an unknown repository")
def _unknown_referrers(probe: Probe) -> Result:
    answer = probe.ask("GET", f"/v2/{probe.repository()}/referrers/{digest_of(b'none')}")
    return answer.status if answer.status == 200 else f"{answer.status} {answer.code}"


@row("referrers of nothing")
def _no_referrers(probe: Probe) -> Result:
    target = f"/v2/{probe.tagged('t')}/referrers/{digest_of(b'none')}"
    answer = probe.ask("GET", target)
    return answer.json()["manifests"] if answer.status == 200 else f"{answer.status} {answer.code}"


@row("subject not pushed yet: PUT / referrers")
def _early(probe: Probe) -> Result:
    repo, subject = probe.repository(), digest_of(b"not there yet")
    answer, digest = probe.manifest(repo, subject=subject)
    entries = probe.referrers(repo, subject)
    listed = None if entries is None else [entry["digest"] for entry in entries] == [digest]
    return [answer.status, listed]


@row("subject deleted: referrers still listed")
def _late(probe: Probe) -> Result:
    repo = probe.repository()
    _, subject = probe.manifest(repo, "subject")
    probe.manifest(repo, "referrer", subject=subject)
    probe.ask("DELETE", f"/v2/{repo}/manifests/{subject}")
    entries = probe.referrers(repo, subject)
    return None if entries is None else len(entries) == 1


@row("a referrer's artifactType and annotations")
def _entry(probe: Probe) -> Result:
    repo, subject = probe.repository(), digest_of(b"subject")
    probe.manifest(repo, subject=subject)
    entries = probe.referrers(repo, subject)
    if not entries:
        return None
    return [entries[0].get("artifactType"), "annotations" in entries[0]]


@row("referrers filtered by artifactType")
def _filter(probe: Probe) -> Result:
    repo, subject = probe.repository(), digest_of(b"subject")
    probe.manifest(repo, subject=subject)
    entries = probe.referrers(repo, subject, "?artifactType=application/other")
    return None if entries is None else not entries


# Tag lists.


@row("order of tags")
def _order(probe: Probe) -> Result:
    # docker-registry lists as its file system does, some of which tell the oldest first, some the newest.
    names = [f"t{number:02}" for number in range(12)]
    listed = probe.tags(probe.tagged(*names[1::2], *names[::2])).json()["tags"]
    return "sorted" if listed == names else "unsorted"


@row("tags n=2: tags / Link")
def _n(probe: Probe) -> Result:
    answer = probe.tags(probe.tagged("a", "b", "c"), "?n=2")
    return [len(answer.json()["tags"]), "link" in answer.headers]


@row("Link after the last page, full / without n")
def _last_link(probe: Probe) -> Result:
    repo = probe.tagged("a", "b")
    return ["link" in probe.tags(repo, query).headers for query in ("?n=2", "")]


@row("tags n=0")
def _zero(probe: Probe) -> Result:
    try:
        answer = probe.tags(probe.tagged("a", "b"), "?n=0")
    except (http.client.HTTPException, OSError):
        return "closed"
    return sorted(answer.json()["tags"]) if answer.status == 200 else answer.status


@row("tags last= not existing")
def _last_between(probe: Probe) -> Result:
    answer = probe.tags(probe.tagged("a", "c"), "?last=b")
    if answer.status != 200:
        return answer.status
    return {"c": "ok", "ac": "ignored"}["".join(sorted(answer.json()["tags"]))]


@row("tags last= past the end")
def _last_behind(probe: Probe) -> Result:
    answer = probe.tags(probe.tagged("a", "b"), "?last=c")
    if answer.status != 200:
        return answer.status
    tags = answer.json()["tags"]
    return "whole list" if tags and sorted(tags) == ["a", "b"] else tags


@row("tags of an unknown repository")
def _unknown_tags(probe: Probe) -> Result:
    answer = probe.tags(probe.repository())
    return answer.status if answer.status == 200 else f"{answer.status} {answer.code}"


@row("tags of an unknown repository, last=")
def _unknown_tags_last(probe: Probe) -> Result:
    answer = probe.tags(probe.repository(), "?n=100&last=inbox")
    return answer.status if answer.status == 200 else f"{answer.status} {answer.code}"


# Everything.


@row("Content-Type of an error")
def _error_type(probe: Probe) -> Result:
    answer = probe.ask("GET", f"/v2/{probe.repository()}/blobs/{digest_of(b'none')}")
    return [answer.status, answer.code, answer.headers["content-type"].split(";")[0]]


@row("Date in answers")
def _date(probe: Probe) -> Result:
    return "date" in probe.ask("GET", "/v2/").headers


@row("auth")
def _auth(probe: Probe) -> Result:
    connection = http.client.HTTPConnection(probe.host, timeout=30)
    try:
        connection.request("GET", "/v2/")
        answer = connection.getresponse()
        answer.read()
        challenge = answer.getheader("WWW-Authenticate")
    finally:
        connection.close()
    return challenge.split()[0].lower() if challenge else "none"


ROWS = row.by_name
