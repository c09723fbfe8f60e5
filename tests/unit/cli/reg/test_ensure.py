"""`reg ensure`: doing what a list asks for."""

from __future__ import annotations

import base64
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dockercomms.cli.reg.ensure import Outcome, run_jobs
from dockercomms.oci.model import MEDIA_TYPE_MANIFEST, digest_of
from tests.fakes.images import image, push, push_tree
from tests.fakes.registry import FakeRegistry, Fault
from tests.unit.cli.conftest import MISSING, Box

BLOB = b"content of a layer"


def blob(box: Box) -> dict[str, Any]:
    return {"type": "blob", "refs": [box.base], "data": base64.b64encode(BLOB).decode()}


def manifest(box: Box, *tags: str) -> dict[str, Any]:
    layer = {"mediaType": "a/b", "digest": digest_of(BLOB), "size": len(BLOB)}
    data = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": layer,
        "layers": [layer],
    }
    return {"type": "manifest", "refs": [f"{box.base}:{tag}" for tag in tags], "data": data}


def listed(*values: Any) -> bytes:
    return "\n".join(json.dumps(value) for value in values).encode()


def statuses(stdout: str) -> list[str]:
    return [line.split("\t")[0] for line in stdout.splitlines()]


def test_ensure_pushes_parts_before_what_is_made_of_them(box: Box) -> None:
    words = ["ensure", "--from-json", "-"]
    data = listed(blob(box), manifest(box, "v1", "v2"))
    dry = box.ok(*words, "--dry-run", stdin=data)
    assert statuses(dry.stdout) == ["missing", "missing", "missing"]
    assert dry.stderr == "3 missing\n"
    result = box.ok(*words, stdin=data)
    assert statuses(result.stdout) == ["pushed", "pushed", "pushed"]
    assert box.tags() == ["v1", "v2"]
    assert box.blob(digest_of(BLOB)) == BLOB
    again = box.ok(*words, "--dry-run", stdin=data)
    assert (statuses(again.stdout), again.stderr) == (["there", "there", "there"], "3 there\n")
    box.ok(*words, stdin=data)


def test_a_dry_run_pushes_nothing(remote: Box, fake: FakeRegistry) -> None:
    remote.ok("ensure", "--from-json", "-", "--dry-run", stdin=listed(blob(remote)))
    assert {record.method for record in fake.asked()} == {"HEAD"}


def test_a_dry_run_sees_a_tag_on_another_manifest(box: Box) -> None:
    box.ok("ensure", "--from-json", "-", stdin=listed(blob(box), manifest(box, "v1")))
    box.push(image(), "v2")
    result = box.ok(
        "ensure", "--from-json", "-", "--dry-run", stdin=listed(manifest(box, "v1", "v2"))
    )
    assert statuses(result.stdout) == ["there", "missing"]


def test_ensure_says_what_became_of_each(box: Box) -> None:
    path = box.file("list.json", listed(blob(box)))
    digest = digest_of(BLOB)
    assert box.rows("ensure", "--from-json", str(path)) == [
        {
            "schema": "dockercomms/reg-ensure/v1",
            "reference": f"{box.place}@{digest}",
            "type": "blob",
            "digest": digest,
            "source": None,
            "status": "pushed",
            "error": None,
        }
    ]
    table = box.ok("ensure", "--from-json", str(path), tty=True).stdout
    assert "REFERENCE" in table


def test_ensure_copies_between_registries_and_folders(remote: Box, layout: Box) -> None:
    children = [image(1), image(2, architecture="arm64")]
    built = push_tree(remote.store, remote.name, children, "v1")
    digest = remote.push_blob(b"loose")
    values = [
        {"type": "manifest", "refs": [f"{layout.base}:v1"], "lookup": {"": f"{remote.base}:v1"}},
        {"type": "blob", "refs": [layout.base], "lookup": {digest: remote.base}},
        {"type": "manifest", "refs": ["oci-layout:third:v2"], "lookup": {"": f"{layout.base}:v1"}},
    ]
    words = ["ensure", "--from-json", "-", "--concurrency", "3"]
    dry = layout.rows(*words[:3], "--dry-run", stdin=listed(*values[:2]))
    assert [(row["status"], row["digest"]) for row in dry] == [
        ("missing", built.descriptor.digest),
        ("missing", digest),
    ]
    rows = layout.rows(*words, stdin=listed(*values))
    assert [row["status"] for row in rows] == ["copied", "copied", "copied"]
    assert rows[0]["source"] == f"{remote.place}:v1"
    assert layout.ok("manifest", "oci-layout:third:v2").raw == built.data
    assert layout.blob(digest) == b"loose"


def test_ensure_brings_missing_parts_from_where_lookup_says(
    remote: Box, fake: FakeRegistry
) -> None:
    built = image()
    push(remote.store, "origin", built)
    text = base64.b64encode(built.data).decode()
    value = {
        "type": "manifest",
        "refs": [f"{remote.base}:v1"],
        "data": text,
        "lookup": {"": f"{fake.host}/origin"},
    }
    for words in ([], ["--no-cache"]):
        remote.ok("ensure", "--from-json", "-", *words, stdin=listed(value))
        assert remote.ok("manifest", f"{remote.base}:v1").raw == built.data


def test_ensure_goes_on_where_one_failed_and_skips_what_needs_it(
    remote: Box, fake: FakeRegistry
) -> None:
    fake.fail_when(lambda request: "/bad/" in request.target, Fault.answer(403), times=99)
    bad = {"type": "blob", "refs": [f"{fake.host}/bad/repo"], "data": "e30="}
    needs = {
        "type": "blob",
        "refs": [f"{fake.host}/other"],
        "lookup": {digest_of(b"{}"): f"{fake.host}/bad/repo"},
    }
    result = remote.reg("ensure", "--from-json", "-", stdin=listed(bad, needs, blob(remote)))
    assert result.exit_code == 7
    assert statuses(result.stdout) == ["failed", "skipped", "pushed"]
    assert result.stderr.count("error: ") == 1
    assert "1 failed, 1 skipped, 1 pushed" in result.stderr
    alone = remote.reg("ensure", "--from-json", "-", "--format", "jsonl", stdin=listed(bad, needs))
    assert alone.exit_code == 3
    rows = [json.loads(line) for line in alone.stdout.splitlines()]
    assert rows[0]["error"]["kind"] == "Denied"
    assert rows[1]["error"] is None


def test_ensure_of_what_is_not_there_is_5(box: Box) -> None:
    box.push(image(), "v1")
    values = [{"type": "manifest", "refs": [f"{box.base}:v2"], "lookup": {"": f"{box.base}:no"}}]
    for words in ([], ["--dry-run"]):
        assert box.reg("ensure", "--from-json", "-", *words, stdin=listed(*values)).exit_code == 5


def test_nothing_is_pushed_if_anything_in_the_list_is_wrong(
    remote: Box, fake: FakeRegistry
) -> None:
    data = listed(blob(remote)) + b'\n{"type": "x"}'
    result = remote.reg("ensure", "--from-json", "-", stdin=data)
    assert result.exit_code == 64
    assert "-: object 2: type 'x'" in result.stderr
    assert fake.count() == 0
    two = [blob(remote), {"type": "blob", "refs": ["other.example/x"], "data": "e30="}]
    login = ["--username", "bot", "--password-stdin"]
    path = remote.file("list.json", listed(*two))
    refused = remote.reg("ensure", "--from-json", str(path), *login, stdin=b"secret")
    assert refused.exit_code == 64
    assert "two registries" in refused.stderr
    assert fake.count() == 0


def test_ensure_takes_a_default_registry(remote: Box, fake: FakeRegistry) -> None:
    value = {"type": "blob", "refs": ["team/app"], "data": base64.b64encode(BLOB).decode()}
    remote.ok("ensure", "--from-json", "-", "--default-registry", fake.host, stdin=listed(value))
    assert remote.blob(digest_of(BLOB)) == BLOB
    refused = remote.reg("ensure", "--from-json", "-", stdin=listed(value))
    assert refused.exit_code == 64


def test_ensure_reads_what_there_is(box: Box) -> None:
    empty = box.ok("ensure", "--from-json", "-", "--json", stdin=b"")
    assert (empty.stdout, empty.stderr) == ("[]\n", "an empty list\n")
    assert box.reg("ensure", "--from-json", "none").exit_code == 8
    login = ["--username", "bot", "--password-stdin"]
    assert box.reg("ensure", "--from-json", "-", *login, stdin=b"x").exit_code == 64


def jobs(*after: set[int]) -> list[Any]:
    return [SimpleNamespace(number=number, after=before) for number, before in enumerate(after)]


def test_jobs_that_need_nothing_are_under_way_at_once() -> None:
    gate = threading.Barrier(3, timeout=10)

    def work(job: Any) -> Outcome:
        gate.wait()
        return Outcome("pushed")

    done = list(run_jobs(jobs(set(), set(), set()), work, 3))
    assert [outcome.status for _, outcome in done] == ["pushed"] * 3


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_jobs_wait_for_what_they_need_and_come_out_in_order(workers: int) -> None:
    begun: list[int] = []

    def work(job: Any) -> Outcome:
        assert job.after <= set(begun)
        begun.append(job.number)
        return Outcome("pushed")

    wanted = jobs(set(), {0}, {1}, set(), {2, 3}, {0, 4})
    assert [job.number for job, _ in run_jobs(wanted, work, workers)] == list(range(6))


def test_jobs_end_with_an_error_that_is_not_ours() -> None:
    def work(job: Any) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_jobs(jobs(set(), {0}), work, 1))


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_ensure_takes_no_refusal_for_an_absence(
    remote: Box, fake: FakeRegistry, words: list[str]
) -> None:
    fake.fail_when(lambda _: True, Fault.answer(401), times=99)
    value = {"type": "manifest", "refs": [f"{remote.base}:v1"], "lookup": {MISSING: remote.base}}
    assert remote.reg("ensure", "--from-json", "-", *words, stdin=listed(value)).exit_code == 3
