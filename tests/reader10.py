"""The 1.0 receiver's algorithm, as a test program: what we send unsealed must pass it.

It does what the 1.0 program does, its carelessness included: the first tags first, headers
believed, indexes scanned as C scans numbers, nothing read behind the end of a tar. Proven in
`tests/vectors/test_go_v1.py` by giving the 1.0 program's own verdicts.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import zstandard

from dockercomms.errors import DockerCommsError
from dockercomms.oci.interface import Registry, read_all
from dockercomms.protocol.tags import recipient_tag

ZSTD = "application/vnd.dockercomms.chunk.v1.tar+zstd"
MOST = 2**40


@dataclass
class Result10:
    """The result of one `recv --verify=false --write-receipt=false`."""

    exit: int = 0
    delivered: list[Path] = field(default_factory=list)
    text: str = ""


class Failure(Exception):
    """Ends the whole run, as in 1.0."""


def read10(
    registry: Registry,
    repository: str,
    me: str,
    out: Path,
    *,
    since: datetime | None = None,
    most: int = 100,
) -> Result10:
    """Receive everything for `me` into the folder `out`, as a 1.0 program would."""
    result = Result10()
    try:
        for digest, manifest in _discover(registry, repository, me, since, most):
            result.delivered.append(_receive(registry, repository, digest, manifest, out))
    except (Failure, DockerCommsError, OSError, ValueError, tarfile.TarError) as error:
        result.exit, result.text = 1, str(error)
    return result


def _discover(registry, repository, me, since, most):
    seen, found = set(), []
    for tag in registry.tags(repository):
        if not tag.startswith(f"inbox-{recipient_tag(me)}-"):
            continue
        try:
            data, descriptor = read_all(registry.get_tag(repository, tag), MOST)
            manifest = _fold(json.loads(data, object_pairs_hook=list))
        except (DockerCommsError, ValueError):
            continue
        notes = manifest["annotations"]
        identity = notes.get("dockercomms.message.id", "")
        if not identity or identity in seen:
            continue
        seen.add(identity)  # before the recipient is looked at
        if notes.get("dockercomms.recipient", "") != me or not _recent(notes, since):
            continue
        found.append((descriptor.digest, manifest))
        if len(found) >= max(1, most):
            break
    return found


def _recent(notes, since):
    if since is None:
        return True
    created = notes.get("dockercomms.created_at", "")
    if not created:
        return False
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", created):
        return True
    return since - datetime.fromisoformat(created) <= timedelta(minutes=5)


def _receive(registry, repository, digest, manifest, out):
    notes = manifest["annotations"]
    name = notes.get("dockercomms.filename", "").rpartition("/")[2].strip().replace("\\", "")
    name = "file" if name in ("", ".", "..") else name
    temporary = out / f".tmp-{name}-{digest[7:19]}"
    layers = {}
    for layer in manifest["layers"]:
        if "dockercomms.chunk.index" not in layer["annotations"]:
            raise Failure("layer missing chunk.index")
        number = re.match(r"\s*([+-]?\d+)", layer["annotations"]["dockercomms.chunk.index"])
        if number is None:
            raise Failure("bad chunk.index")
        layers[int(number[1])] = layer
    with temporary.open("wb") as file:
        for index in range(len(layers)):
            if index not in layers:
                file.close()
                temporary.unlink()
                raise Failure(f"missing chunk index {index}")
            file.write(_chunk(registry, repository, layers[index]))
    total = notes.get("dockercomms.total_bytes")
    want = int(total) if total and re.fullmatch(r"[+-]?\d+", total) else 0
    if total is not None and want != temporary.stat().st_size:
        raise Failure(f"total_bytes mismatch: got {temporary.stat().st_size} want {total}")
    os.replace(temporary, out / name)
    return out / name


def _chunk(registry, repository, layer):
    data, _ = read_all(registry.get_blob(repository, layer["digest"], size=layer["size"]), MOST)
    plain = _zstd(data) if layer["mediaType"] == ZSTD else _gzip(data)
    content = None
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:", ignore_zeros=False) as tar:
        for member in tar:
            name = member.name + ("/" if member.isdir() else "")
            if content is not None or not re.fullmatch(r"chunk_\d+\.bin", name):
                raise Failure(f"unexpected tar entry {name!r}")
            content = plain[member.offset_data : member.offset_data + member.size]
    if content is None:
        raise Failure("unexpected EOF")
    return content


def _gzip(data):
    """Inflate member after member; the checksum behind each is never reached."""
    out = []
    while data[:2] == b"\x1f\x8b":
        if data[3]:
            raise Failure("gzip flags")  # no writer of ours or of 1.0 sets any
        inflater = zlib.decompressobj(-15)
        out.append(inflater.decompress(data[10:]))
        data = inflater.unused_data[8:]
    if not out:
        raise Failure("gzip: invalid header")
    return b"".join(out)


def _zstd(data):
    """Decompress frame after frame; a wrong checksum at the end is never noticed."""
    out = io.BytesIO()
    frames = zstandard.ZstdDecompressor(max_window_size=2**29).decompressobj(
        read_across_frames=True
    )
    out.write(frames.decompress(data[:-4]))
    try:
        out.write(frames.decompress(data[-4:]))
    except zstandard.ZstdError:
        pass
    return out.getvalue()


def _fold(pairs):
    """Decode as Go does: keys of fixed objects whatever their case, the last of equals wins."""
    top = {key.lower(): value for key, value in pairs}
    layers = []
    for item in top.get("layers") or []:
        fields = {key.lower(): value for key, value in item}
        layers.append(
            {
                "mediaType": fields.get("mediatype", ""),
                "digest": fields.get("digest", ""),
                "size": fields.get("size", 0),
                "annotations": dict(fields.get("annotations") or []),
            }
        )
    return {"layers": layers, "annotations": dict(top.get("annotations") or [])}


def sha256_12(path: Path) -> str:
    """Return the first 12 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
