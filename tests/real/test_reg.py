"""Every verb of `reg`, walked through on each registry as a user would, and on a layout folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dockercomms.cli.reg.table import VERBS
from tests.faults.zygote import Ended, Zygote
from tests.real.launch import Server, binary
from tests.real.program import MIB, Machine, file_digest, random_file

EMPTY = b"{}"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NOTE = b"a note\n"
BIG_BYTES = 20 * MIB

TAG_DELETE_UNSUPPORTED = {"docker-registry"}
MOUNT_REFUSED = {"ggcr"}
"""Measured; the verb says so and what to do."""


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Walk:
    """One store, the program, and which verbs were used."""

    machine: Machine
    zygote: Zygote
    base: str
    name: str
    host: str
    """"" for a folder."""
    used: set[str]

    @property
    def folder(self) -> Path:
        return self.machine.home

    def reg(self, *words: str, code: int = 0) -> Ended:
        self.used.add(words[0])
        child = self.zygote.start(
            ["reg", *words], folder=self.folder, environ=self.machine.environment()
        )
        run = child.wait()
        assert run.exit_code == code, f"{' '.join(words)}\n{run.stdout}\n{run.stderr}"
        return run

    def rows(self, *words: str) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in self.reg(*words, "--format", "jsonl", "-q").stdout.splitlines()
        ]

    def json(self, *words: str) -> Any:
        return json.loads(self.reg(*words, "--json", "-q").stdout)

    def file(self, name: str, data: bytes | dict[str, Any]) -> str:
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return str(path)

    def put_blob(self, name: str, data: bytes) -> dict[str, Any]:
        """Push a blob; returns its descriptor as JSON."""
        found = self.reg("put-blob", self.base, self.file(name, data), "-q").stdout.strip()
        assert found == digest(data)
        return {"mediaType": "text/plain", "digest": found, "size": len(data)}

    def put_manifest(self, where: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Push a manifest; returns its descriptor as JSON."""
        path = self.file(f"{uuid.uuid4().hex}.json", manifest)
        found = self.reg("put-manifest", where, path, "-q").stdout.strip()
        data = Path(path).read_bytes()
        assert found == digest(data)
        return {"mediaType": manifest["mediaType"], "digest": found, "size": len(data)}


@pytest.fixture
def walk(any_store: str, zygote: Zygote, request: pytest.FixtureRequest, tmp_path: Path) -> Walk:
    machine = Machine(tmp_path / "machine")
    machine.home.mkdir()
    name = request.node.callspec.params["any_store"].replace("_", "-")
    host = "" if any_store.startswith("oci-layout:") else any_store.partition("/")[0]
    return Walk(machine, zygote, any_store, name, host, set())


def tar_of(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def image(walk: Walk, architecture: str) -> dict[str, Any]:
    """Push an image of one layer with one file; returns its entry for an index."""
    layer = walk.put_blob(f"{architecture}.tgz", tar_of("usr/bin/tool", architecture.encode()))
    config = json.dumps({"os": "linux", "architecture": architecture, "config": {"Labels": {"a": architecture}}})  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {**walk.put_blob(f"{architecture}.json", config.encode()), "mediaType": CONFIG},
        "layers": [{**layer, "mediaType": LAYER}],
    }
    pushed = walk.put_manifest(walk.base, manifest)
    return {**pushed, "platform": {"os": "linux", "architecture": architecture}}


def test_every_verb_walks_through_every_store(walk: Walk) -> None:
    artifact = look_at_an_artifact(walk)
    look_at_an_index(walk)
    refer(walk, artifact)
    copy(walk, artifact)
    if walk.host:
        ask_the_registry(walk, artifact)
    delete(walk, artifact)
    left_out = set() if walk.host else {"mount", "ping", "raw"}
    assert walk.used == set(VERBS) - left_out


def look_at_an_artifact(walk: Walk) -> dict[str, Any]:
    """Push files as an artifact, find them and get them again."""
    empty = {**walk.put_blob("empty.json", EMPTY), "mediaType": EMPTY_CONFIG}
    big = walk.folder / "big.bin"
    random_file(big, BIG_BYTES)
    big_digest = "sha256:" + file_digest(big)
    pushed = walk.reg("put-blob", walk.base, str(big), "--chunk-size", "5MiB", "-q").stdout
    assert pushed.strip() == big_digest
    title = "org.opencontainers.image.title"
    note = {**walk.put_blob("note.txt", NOTE), "annotations": {title: "docs/note.txt"}}
    large = {
        "mediaType": "application/octet-stream",
        "digest": big_digest,
        "size": BIG_BYTES,
        "annotations": {title: "big.bin"},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x-files",
        "config": empty,
        "layers": [note, large],
    }
    artifact = walk.put_manifest(f"{walk.base}:v1", manifest)
    assert (
        walk.reg("tag", f"{walk.base}:v1", "v2", "latest", "-q").stdout.strip()
        == artifact["digest"]
    )
    assert {row["tag"] for row in walk.rows("tags", walk.base)} >= {"v1", "v2", "latest"}
    listed = [row["reference"] for row in walk.rows("ls", walk.host or walk.base)]
    assert any(walk.base in reference for reference in listed)
    assert walk.reg("resolve", walk.base, "-q").stdout.strip() == artifact["digest"]
    assert walk.json("resolve", f"{walk.base}@{big_digest}", "--blob")["size"] == BIG_BYTES
    walk.reg("exists", f"{walk.base}:v2")
    walk.reg("exists", f"{walk.base}:none", code=5)
    assert walk.json("inspect", f"{walk.base}:v1")["artifact_type"] == "application/x-files"
    assert json.loads(walk.reg("manifest", f"{walk.base}:v1").stdout) == manifest
    out = walk.folder / "out.bin"
    walk.reg("blob", f"{walk.base}@{big_digest}", "-o", str(out))
    assert file_digest(out) == file_digest(big)
    part = walk.reg("blob", f"{walk.base}@{note['digest']}", "--range", "2-5", "-q")
    assert part.stdout == "note"
    walk.reg("get", f"{walk.base}:v1", "-o", str(walk.folder / "got"))
    assert (walk.folder / "got" / "docs" / "note.txt").read_bytes() == NOTE
    assert file_digest(walk.folder / "got" / "big.bin") == file_digest(big)
    walk.reg("get", f"{walk.base}:v1", "-o", str(walk.folder / "got"), code=8)
    return artifact


def look_at_an_index(walk: Walk) -> None:
    """Push two images and an index of them; take one file for each platform."""
    entries = [image(walk, architecture) for architecture in ("amd64", "arm64")]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    walk.put_manifest(f"{walk.base}:multi", index)
    multi = f"{walk.base}:multi"
    for entry in entries:
        architecture = entry["platform"]["architecture"]
        chosen = ["--platform", f"linux/{architecture}"]
        assert walk.reg("resolve", multi, *chosen).stdout.strip() == entry["digest"]
        tool = walk.reg("pull", multi, "--file", "usr/bin/tool", *chosen, "-q").stdout
        assert tool == architecture
        assert walk.json("inspect", multi, *chosen)["labels"] == {"a": architecture}
    made = json.loads(walk.reg("index", f"{walk.base}@{entries[1]['digest']}").stdout)
    key = "com.docker.official-images.bashbrew.arch"
    assert made["manifests"][0]["annotations"][key] == "arm64v8"


def refer(walk: Walk, subject: dict[str, Any]) -> None:
    """Push something that refers to the artifact, and find it."""
    empty = {"mediaType": EMPTY_CONFIG, "digest": digest(EMPTY), "size": len(EMPTY)}
    signature = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x-signature",
        "config": {**empty, "mediaType": "application/x-signature"},
        "layers": [empty],
        "subject": subject,
    }
    pushed = walk.put_manifest(walk.base, signature)
    (row,) = walk.rows("referrers", f"{walk.base}:v1", "--type", "application/x-signature")
    assert row["digest"] == pushed["digest"]


def copy(walk: Walk, artifact: dict[str, Any]) -> None:
    """Copy to a folder and back, by hand and by a list; then once more, which moves nothing."""
    folder = f"oci-layout:{walk.folder}/copy"
    walk.reg("copy", f"{walk.base}:v1", f"{folder}:v1", "--referrers", "-q")
    assert len(walk.rows("referrers", f"{folder}:v1")) == 1
    walk.reg("copy", f"{walk.base}:multi", f"{folder}:multi", "-q")
    back = walk.base + ("-back" if not walk.host else "/back")
    walk.reg("copy", f"{folder}:multi", f"{back}:multi", "-q")
    assert walk.reg("pull", f"{back}:multi", "--file", "tool", "--platform", "linux/arm64", "-q").stdout == "arm64"  # fmt: skip
    listed = [
        {
            "type": "manifest",
            "refs": [f"{back}:one", f"{back}:two"],
            "lookup": {"": f"{folder}:v1"},
        },
        {"type": "blob", "refs": [back], "data": "bG9vc2U="},
    ]
    path = walk.file("list.json", "\n".join(map(json.dumps, listed)).encode())
    dry = walk.rows("ensure", "--from-json", path, "--dry-run")
    assert {row["status"] for row in dry} == {"missing"}
    walk.reg("ensure", "--from-json", path, "-q")
    assert {row["status"] for row in walk.rows("ensure", "--from-json", path, "--dry-run")} == {
        "there"
    }
    assert walk.reg("resolve", f"{back}:two").stdout.strip() == artifact["digest"]
    assert walk.reg("blob", f"{back}@{digest(b'loose')}", "-q").stdout == "loose"
    walk.reg("ref", "parse", "alpine")


def ask_the_registry(walk: Walk, artifact: dict[str, Any]) -> None:
    """Try the verbs that only a registry over HTTP answers."""
    assert walk.json("ping", walk.host)["host"] == walk.host
    path = walk.base.partition("/")[2]
    raw = walk.reg("raw", "GET", walk.host, f"/v2/{path}/manifests/{artifact['digest']}", "-q")
    assert digest(raw.stdout.encode()) == artifact["digest"]
    walk.reg("raw", "GET", walk.host, f"/v2/{path}/manifests/none", code=5)
    refused = walk.name in MOUNT_REFUSED
    mounted = walk.reg(
        "mount", f"{walk.base}@{digest(EMPTY)}", f"{walk.base}/mounted", code=1 if refused else 0
    )
    if refused:
        assert "reg copy --blob" in mounted.stderr
        walk.reg("copy", "--blob", f"{walk.base}@{digest(EMPTY)}", f"{walk.base}/mounted")
    walk.reg("exists", f"{walk.base}/mounted@{digest(EMPTY)}", "--blob")


def delete(walk: Walk, artifact: dict[str, Any]) -> None:
    """Delete a tag alone, then the manifest with its other tags, then a blob."""
    if walk.name in TAG_DELETE_UNSUPPORTED:
        said = walk.reg("delete", f"{walk.base}:v2", code=1).stderr
        assert "reg delete REPO@DIGEST" in said
    else:
        walk.reg("delete", f"{walk.base}:v2")
        walk.reg("exists", f"{walk.base}:v2", code=5)
    walk.reg("exists", f"{walk.base}:v1")
    walk.reg("delete", f"{walk.base}@{artifact['digest']}")
    walk.reg("exists", f"{walk.base}@{artifact['digest']}", code=5)
    note = f"{walk.base}@{digest(NOTE)}"
    walk.reg("exists", note, "--blob")
    walk.reg("delete", note, "--blob")
    walk.reg("exists", note, "--blob", code=5)
    delete_referrer(walk)


def delete_referrer(walk: Walk) -> None:
    """Delete what refers to a manifest: it is listed no more, whoever keeps the list."""
    entry = {**walk.put_blob("empty", EMPTY), "mediaType": EMPTY_CONFIG}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signed",
        "config": entry,
        "layers": [entry],
    }
    subject = walk.put_manifest(f"{walk.base}:signed", manifest)
    made = [
        walk.put_manifest(walk.base, {**manifest, "subject": subject, "annotations": {"n": name}})
        for name in ("one", "two")
    ]
    where = f"{walk.base}@{subject['digest']}"
    for number, referrer in enumerate(made):
        walk.reg("delete", f"{walk.base}@{referrer['digest']}")
        left = [row["digest"] for row in walk.rows("referrers", where)]
        assert left == [other["digest"] for other in made[number + 1 :]]


# --- an upload that is interrupted ---------------------------------------------------------------


def test_a_push_from_a_pipe_can_be_gone_on_with(open_server: Server, tmp_path: Path) -> None:
    """The writer of the pipe goes away in the middle; another process goes on with the session."""
    machine = Machine(tmp_path / "machine")
    machine.home.mkdir()
    source = tmp_path / "big.bin"
    expected = "sha256:" + random_file(source, BIG_BYTES)
    base = f"{open_server.host}/resume/{uuid.uuid4().hex}"
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "dockercomms", "reg", "put-blob", base, "-", "--chunk-size", "4MiB"],
        stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=machine.environment(), text=True,
    )  # fmt: skip
    os.close(reading)
    with source.open("rb") as stream, os.fdopen(writing, "wb") as pipe:
        pipe.write(stream.read(13 * MIB))
        pipe.flush()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    line = next(line for line in said.splitlines() if "--resume" in line)
    session = line.rpartition("--resume ")[2].strip().strip("'")
    words = ["reg", "put-blob", base, str(source), "--resume", session, "-q"]
    run = machine.run(*words)
    if not open_server.resumes and run.code != 0:
        assert run.code in {1, 5}, run.stderr  # ggcr cannot say where it is; 2.8 forgets
        return
    assert run.ok().stdout.strip() == expected


# --- others read what we push --------------------------------------------------------------------


def test_crane_and_regctl_read_what_reg_pushes(
    open_server: Server, zygote: Zygote, tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "machine")
    machine.home.mkdir()
    base = f"{open_server.host}/tools/{uuid.uuid4().hex}"
    walk = Walk(machine, zygote, base, open_server.name, open_server.host, set())
    entries = [image(walk, architecture) for architecture in ("amd64", "arm64")]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    pushed = walk.put_manifest(f"{base}:multi", index)
    environment = machine.environment()
    crane = [str(binary("crane")), "digest", "--insecure", f"{base}:multi"]
    said = subprocess.run(crane, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == pushed["digest"]
    regctl = str(binary("regctl"))
    subprocess.run(
        [regctl, "registry", "set", "--tls", "disabled", open_server.host],
        env=environment, capture_output=True, check=True,
    )  # fmt: skip
    said = subprocess.run(
        [regctl, "manifest", "head", "--platform", "linux/arm64", f"{base}:multi"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == entries[1]["digest"]
