"""Every object that `reg` prints is what `spec/schema/reg-*.json` says, no more and no less."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from dockercomms.cli.reg.table import VERBS
from dockercomms.oci.model import digest_of
from tests.cli.harness import invoke
from tests.fakes.images import artifact, image, push_tree
from tests.fakes.registry import FakeRegistry, Fault
from tests.unit.cli.conftest import MISSING, Box
from tests.unit.cli.reg.test_files import files

FOLDER = Path(__file__).parents[4] / "spec" / "schema"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("reg-*.json")}
ERROR = json.loads((FOLDER / "error.json").read_text())
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in (*SCHEMAS.values(), ERROR)
)


def check(verb: str, *records: Any) -> None:
    schema = SCHEMAS[f"reg-{verb}"]
    assert records
    for record in records:
        jsonschema.Draft202012Validator(schema, registry=REGISTRY).validate(record)
        assert set(record) == set(schema["properties"]), "printed and described keys differ"


def test_every_verb_has_a_schema() -> None:
    assert set(SCHEMAS) == {f"reg-{verb}" for verb in VERBS}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_valid_and_requires_each_key(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"https://dockercomms.dev/schema/{name}.json"
    assert schema["required"] == list(schema["properties"])
    verb = name.removeprefix("reg-")
    assert schema["properties"]["schema"] == {"const": f"dockercomms/reg-{verb}/v1"}


def test_objects_of_lists(remote: Box, fake: FakeRegistry) -> None:
    subject = remote.push(image(), "v1")
    remote.push(artifact("x", subject=subject))
    check("ls", *remote.rows("ls", fake.host))
    check("tags", *remote.rows("tags", remote.base))
    check("referrers", *remote.rows("referrers", f"{remote.base}:v1"))


def test_objects_of_looking(box: Box) -> None:
    children = [image(1), image(2, architecture="arm64")]
    push_tree(box.store, box.name, children, "v1")
    subject = box.push(image(3), "image")
    box.push(artifact("x", subject=subject), "artifact")
    digest = box.push_blob(b"x")
    check("resolve", box.json("resolve", f"{box.base}:v1"))
    check("resolve", box.json("resolve", f"{box.base}:v1", "--platform", "linux/arm64"))
    check("resolve", box.json("resolve", f"{box.base}@{digest}", "--blob"))
    check("exists", box.json("exists", f"{box.base}:v1"))
    check("exists", json.loads(box.reg("exists", f"{box.base}:no", "--json").stdout))
    for tag in ("v1", "image", "artifact"):
        check("inspect", box.json("inspect", f"{box.base}:{tag}"))
        check("inspect", box.json("inspect", f"{box.base}:{tag}", "--no-labels"))
        check("manifest", box.json("manifest", f"{box.base}:{tag}"))
        check("index", box.json("index", f"{box.base}:{tag}", "-o", "out"))
    check("blob", box.json("blob", f"{box.base}@{digest}", "-o", "out"))
    check("blob", json.loads(box.ok("blob", f"{box.base}@{digest}", "--json").stderr))


def test_objects_of_files(box: Box) -> None:
    box.push(files({"a": b"1", "b": b"2"}), "v1")
    box.push(files({"a": b"1"}, titled=False), "v2")
    check("get", *box.rows("get", f"{box.base}:v1"), *box.rows("get", f"{box.base}:v2", "--all"))
    check("pull", box.json("pull", f"{box.base}:v1", "--file", "a", "-o", "out"))
    check("pull", json.loads(box.ok("pull", f"{box.base}:v1", "--file", "a", "--json").stderr))


def test_objects_of_writing(remote: Box, fake: FakeRegistry) -> None:
    built = image()
    pushed = remote.push(built, "v1")
    digest = remote.push_blob(b"x")
    check("put-blob", remote.json("put-blob", remote.base, "-", stdin=b"x"))
    check("put-manifest", remote.json("put-manifest", remote.base, "-", stdin=built.data))
    check("tag", remote.json("tag", f"{remote.base}:v1", "v2"))
    check("copy", remote.json("copy", f"{remote.base}:v1", f"{fake.host}/b:v1"))
    check("mount", remote.json("mount", f"{remote.base}@{digest}", f"{fake.host}/c"))
    check("delete", remote.json("delete", f"{remote.base}:v2"))
    check("delete", remote.json("delete", f"{remote.base}@{digest}", "--blob"))
    check("delete", remote.json("delete", f"{remote.base}@{pushed.digest}"))


def test_objects_of_ensure(remote: Box, fake: FakeRegistry) -> None:
    fake.fail_when(lambda request: "/bad/" in request.target, Fault.answer(403), times=99)
    values = [
        {"type": "blob", "refs": [remote.base, f"{fake.host}/bad/x"], "data": "e30="},
        {"type": "blob", "refs": [f"{fake.host}/c"], "lookup": {digest_of(b"{}"): remote.base}},
        {"type": "blob", "refs": [f"{fake.host}/d"], "lookup": {digest_of(b"{}"): f"{fake.host}/bad/x"}},
    ]  # fmt: skip
    data = "\n".join(map(json.dumps, values)).encode()
    assert base64.b64decode("e30=") == b"{}"
    rows = []
    for words in (["--dry-run"], []):
        result = remote.reg("ensure", "--from-json", "-", "--format", "jsonl", *words, stdin=data)
        rows += [json.loads(line) for line in result.stdout.splitlines()]
    check("ensure", *rows)
    assert {row["status"] for row in rows} >= {"missing", "failed", "skipped", "pushed", "copied"}


def test_objects_of_the_protocol(remote: Box, fake: FakeRegistry) -> None:
    fake.repository("a")
    check("ping", remote.json("ping", fake.host))
    words = ["raw", "GET", fake.host, "/v2/a/tags/list"]
    check("raw", json.loads(remote.ok(*words, "--json").stderr), remote.json(*words, "-o", "x"))


def test_objects_of_references() -> None:
    for text in ("alpine", f"r.example/a:v1@{MISSING}"):
        check("ref", json.loads(invoke(["reg", "ref", "parse", text, "--json"]).stdout))
