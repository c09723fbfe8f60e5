"""A transparency log: a Merkle tree in memory, with inclusion proofs and signed checkpoints.

Source: RFC 6962, section 2.1; transparency-dev/formats, log/README.md; rekor-tiles, `CreateEntry`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

ORIGIN = "127.0.0.1"
"""The origin in checkpoints; clients expect the host of the log's address."""
_ED25519 = b"\x01"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Tree:
    """The hashes of the leaves, and the hashes computed from them."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []

    def add(self, body: bytes) -> int:
        """Append a leaf, and return its index."""
        self.leaves.append(hashlib.sha256(b"\0" + body).digest())
        return len(self.leaves) - 1

    def root(self, low: int = 0, high: int | None = None) -> bytes:
        """Return the hash of the leaves from `low` to before `high`."""
        high = len(self.leaves) if high is None else high
        if high - low == 1:
            return self.leaves[low]
        middle = low + _largest_power_below(high - low)
        return hashlib.sha256(b"\1" + self.root(low, middle) + self.root(middle, high)).digest()

    def path(self, index: int, low: int = 0, high: int | None = None) -> list[bytes]:
        """Return the hashes that lead from leaf `index` to the root, from below."""
        high = len(self.leaves) if high is None else high
        if high - low == 1:
            return []
        middle = low + _largest_power_below(high - low)
        if index < middle:
            return [*self.path(index, low, middle), self.root(middle, high)]
        return [*self.path(index, middle, high), self.root(low, middle)]


def _largest_power_below(number: int) -> int:
    return 1 << (number - 1).bit_length() - 1


def log_id_of(key: ed25519.Ed25519PublicKey, origin: str = ORIGIN) -> bytes:
    """Return the id of a log with this key, for notes and roots."""
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()


class TransparencyLog:
    """Takes entries.

    Args:
        fresh: Give the first entry index 0, a value that real logs leave out of their answers.
    """

    def __init__(self, *, fresh: bool = False) -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.log_id = log_id_of(self.key.public_key())
        self.tree = Tree()
        self._lock = threading.Lock()
        if not fresh:
            self.tree.add(b"first")

    def create(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Return the entry made of a request, with its proof."""
        wanted = request["hashedRekordRequestV002"]
        data = {"algorithm": "SHA2_256", "digest": wanted["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": wanted["signature"]}}
        entry = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec}
        body = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        with self._lock:
            index = self.tree.add(body)
            size, root, path = len(self.tree.leaves), self.tree.root(), self.tree.path(index)
        proof = {
            "logIndex": str(index),
            "treeSize": str(size),
            "rootHash": base64_of(root),
            "hashes": [base64_of(item) for item in path],
            "checkpoint": {"envelope": self._checkpoint(size, root)},
        }
        return {
            "logIndex": str(index),
            "logId": {"keyId": base64_of(self.log_id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": proof,
            "canonicalizedBody": base64_of(body),
        }

    def _checkpoint(self, size: int, root: bytes) -> str:
        note = f"{ORIGIN}\n{size}\n{base64_of(root)}\n"
        signature = base64_of(self.log_id[:4] + self.key.sign(note.encode()))
        return f"{note}\n\u2014 {ORIGIN} {signature}\n"
