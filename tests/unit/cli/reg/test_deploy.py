"""The list of `reg ensure`: what its objects mean, and in which order they are done."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from dockercomms.cli.reg.deploy import Item, parse_items, plan
from dockercomms.errors import UsageError
from dockercomms.oci.model import EMPTY_CONFIG, digest_of
from dockercomms.oci.stores import parse_place

ONE, TWO = digest_of(b"one"), digest_of(b"two")
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": EMPTY_CONFIG.to_json(),
    "layers": [],
}


def parse(*values: Any) -> tuple[Item, ...]:
    text = "\n".join(json.dumps(value) for value in values)
    return parse_items(text.encode(), parse_place, where="list.json")


def item(**members: Any) -> Item:
    (found,) = parse({"type": "manifest", "refs": ["r.example/a:v1"], **members})
    return found


# --- data ----------------------------------------------------------------------------------------


def test_data_is_pushed_as_jq_prints_it() -> None:
    found = item(data={**MANIFEST, "annotations": {"a": "ü\x7f", "b": ""}})
    assert found.data is not None
    assert found.data.startswith(b'{\n  "schemaVersion": 2,\n  "mediaType": ')
    assert "ü\\u007f".encode() in found.data
    assert found.data.endswith(b'"layers": [],\n  "annotations": {\n    "a": "\xc3\xbc\\u007f",\n    "b": ""\n  }\n}\n')  # fmt: skip
    assert found.media_type == MANIFEST["mediaType"]
    assert [str(target) for target in found.targets] == [f"r.example/a:v1@{digest_of(found.data)}"]
    assert found.origin is None


def test_data_as_a_string_is_the_very_bytes() -> None:
    data = b"\x00\xff any bytes"
    (found,) = parse({
        "type": "blob",
        "refs": ["r.example/a", f"r.example/b@{digest_of(data)}"],
        "data": base64.b64encode(data).decode(),
    })  # fmt: skip
    assert (found.kind, found.data, found.media_type) == ("blob", data, "")
    assert {target.digest for target in found.targets} == {digest_of(data)}


def test_lookup_says_where_parts_come_from() -> None:
    found = item(data=MANIFEST, lookup={ONE: "r.example/x:tag", "": "oci-layout:/y:v1"})
    assert {key: str(place) for key, place in found.sources.items()} == {
        ONE: "r.example/x",
        "": "oci-layout:/y",
    }


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refs", "lookup", "origin", "digest"),
    [
        ([f"r.example/a@{ONE}"], {ONE: "r.example/x", TWO: "r.example/y"}, f"r.example/x@{ONE}", ONE),
        (["r.example/a:v1"], {ONE: "r.example/x"}, f"r.example/x@{ONE}", ONE),
        (["r.example/a:v1"], {"": "r.example/x:v2"}, "r.example/x:v2", None),
        (["r.example/a:v1"], {"": f"r.example/x@{ONE}"}, f"r.example/x@{ONE}", ONE),
        ([f"r.example/a@{ONE}"], {"": "r.example/x"}, f"r.example/x@{ONE}", ONE),
        ([f"r.example/a:v1@{ONE}"], {"": "r.example/x", TWO: "r.example/y"}, f"r.example/x@{ONE}", ONE),
        ([f"r.example/a:v1@{ONE}"], {"": "r.example/x:v2"}, f"r.example/x:v2@{ONE}", ONE),
    ],
)  # fmt: skip
def test_what_is_copied_is_found_in_lookup(
    refs: list[str], lookup: dict[str, str], origin: str, digest: str | None
) -> None:
    found = item(refs=refs, lookup=lookup)
    assert (str(found.origin), found.data) == (origin, None)
    assert {target.digest for target in found.targets} == {digest}
    assert "" in found.sources
    assert all(place.tag is place.digest is None for place in found.sources.values())


def test_a_copied_blob_has_no_tag() -> None:
    (found,) = parse(
        {"type": "blob", "refs": ["r.example/a"], "lookup": {"": f"r.example/x:v1@{ONE}"}}
    )
    assert str(found.origin) == f"r.example/x@{ONE}"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"type": None}, "type None"),
        ({"type": "image"}, "type 'image'"),
        ({"refs": None}, "refs"),
        ({"refs": []}, "refs"),
        ({"refs": "r.example/a"}, "refs"),
        ({"refs": [1]}, "refs: a string"),
        ({"refs": ["team/a"]}, "missing registry host"),
        ({"refs": [f"r.example/a@{ONE}", f"r.example/a@{TWO}"]}, "different digests"),
        ({"refs": [f"r.example/a@{ONE}"]}, "refs say"),
        ({"lookup": []}, "lookup: an object"),
        ({"lookup": {ONE: 1}}, "lookup: a string"),
        ({"lookup": {"sha256:short": "r.example/a"}}, "sha256:short"),
        ({"lookup": {ONE: f"r.example/a@{TWO}"}}, "under another digest"),
        ({"data": "not base64!"}, "base64"),
        ({"data": {"schemaVersion": 2}}, "mediaType"),
        ({"data": {"mediaType": 1}}, "mediaType"),
        ({"data": []}, "data: an object"),
        ({"data": None}, "neither data nor what to copy"),
        ({"data": None, "lookup": {"": "r.example/x"}}, "neither data nor what to copy"),
        ({"data": None, "lookup": {ONE: "r.example/x", TWO: "r.example/y"}}, "neither data"),
        ({"data": None, "refs": [f"r.example/a@{TWO}"], "lookup": {ONE: "r.example/x"}}, "refs say"),
        ({"type": "blob", "data": "e30="}, "blobs have no tags"),
        ({"type": "blob", "refs": ["r.example/a"], "data": None, "lookup": {"": "r.example/x:v1"}},
         "a blob's digest is missing"),
        ({"extra": 1}, "unknown member 'extra'"),
    ],
)  # fmt: skip
def test_a_wrong_object_is_named(members: dict[str, Any], said: str) -> None:
    good = {"type": "manifest", "refs": ["r.example/a:v1"], "data": MANIFEST}
    with pytest.raises(UsageError) as raised:
        parse(good, {**good, **members})
    assert raised.value.message.startswith("list.json: object 2: ")
    assert said in raised.value.message


def test_half_a_surrogate_pair_refuses_the_list() -> None:
    with pytest.raises(UsageError, match=r"list\.json: a lone surrogate"):
        parse({"type": "manifest", "data": {**MANIFEST, "x": "\ud800"}})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "not UTF-8"),
        (b'\n\n{"a"', "line 3: not JSON"),
        (b"nonsense", "line 1: not JSON"),
        (b"[" * 100_000, "too deeply nested"),
        (b'{"a": 1, "a": 2}', "list.json"),
        (b"[]", "object 1: an object expected"),
    ],
)
def test_what_is_no_stream_of_json_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_items(data, parse_place, where="list.json")


def test_a_stream_may_be_written_in_any_way() -> None:
    one = json.dumps({"type": "manifest", "refs": ["r.example/a:v1"], "data": MANIFEST}, indent=4)
    assert len(parse_items(f"\n {one}{one}\r\n\t{one} ".encode(), parse_place, where="x")) == 3
    assert parse_items(b" \n", parse_place, where="x") == ()


# --- order ---------------------------------------------------------------------------------------


def manifest_of(*digests: str) -> dict[str, Any]:
    layers = [{"mediaType": "a/b", "digest": digest, "size": 1} for digest in digests]
    return {**MANIFEST, "layers": layers}


def after(*values: Any) -> list[set[int]]:
    return [set(job.after) for job in plan(parse(*values))]


def blob(content: bytes, *refs: str) -> dict[str, Any]:
    return {"type": "blob", "refs": list(refs), "data": base64.b64encode(content).decode()}


def test_a_job_waits_for_its_parts_in_its_own_repository() -> None:
    assert after(
        blob(b"one", "r.example/a", "r.example/b"),
        blob(b"two", "r.example/c"),
        {"type": "manifest", "refs": ["r.example/a:v1", "r.example/b:v1"], "data": manifest_of(ONE, TWO)},
    ) == [set(), set(), set(), {0}, {1}]  # fmt: skip


def test_a_job_waits_for_its_parts_where_lookup_has_them() -> None:
    assert after(
        blob(b"one", "r.example/x"),
        blob(b"two", "r.example/y"),
        {
            "type": "manifest",
            "refs": ["r.example/a:v1"],
            "data": manifest_of(ONE, TWO),
            "lookup": {ONE: "r.example/x", "": "r.example/y"},
        },
    ) == [set(), set(), {0, 1}]


def test_a_copy_waits_for_what_it_copies_by_digest_and_by_tag() -> None:
    made = {"type": "manifest", "refs": ["r.example/a:v1"], "data": MANIFEST}
    digest = item(data=MANIFEST).targets[0].digest
    assert after(
        made,
        {"type": "manifest", "refs": ["r.example/b:v1"], "lookup": {"": "r.example/a:v1"}},
        {"type": "manifest", "refs": ["r.example/c:v1"], "lookup": {str(digest): "r.example/a"}},
        {"type": "manifest", "refs": ["r.example/d:v1"], "lookup": {"": "r.example/other:v1"}},
    ) == [set(), {0}, {0}, set()]


def test_tags_of_one_manifest_wait_for_its_first_and_a_moved_tag_for_the_one_before() -> None:
    other = {**MANIFEST, "annotations": {"a": "b"}}
    assert after(
        {"type": "manifest", "refs": ["r.example/a:v1", "r.example/a:v2"], "data": MANIFEST},
        {"type": "manifest", "refs": ["r.example/a:v2"], "data": other},
    ) == [set(), {0}, {1}]
